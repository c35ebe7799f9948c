"""A hand with 24 joints after the Shadow Dexterous Hand: its published lengths, masses, joint limits and motors.

Shapes are our own: capsules for phalanges, boxes for the palm. In the hand's own frame the fingers point along +z, the
palm faces −y and the thumb stands at +x. Twenty joints are driven; the last joint of each finger but the thumb follows
its neighbour by a tendon.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import mujoco

from trueline.safety.worlds.manipulation_mechanism import (
    Drive,
    Joint,
    Link,
    Quaternion,
    Solid,
    Vector,
    add_drive,
    add_link,
    every_link,
    turn,
)

__all__ = ["DRIVES", "FINGERTIPS", "HAND", "JOINTS", "JOINT_RANGE", "add_hand"]

_FINGERS = ("FF", "MF", "RF", "LF")  # first (index), middle, ring, little
_X, _Y = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
_DOWN = (0.0, 0.0, -1.0)
_ACROSS_PALM = (0.571, 0.0, 0.821)  # about which the little finger's metacarpal cups the palm
_PHALANX: Vector = (1e-5, 1e-5, 1e-5)
_PALM: Vector = (1e-3, 1e-3, 1e-3)
_FOREARM: Vector = (1e-2, 1e-2, 7.5e-3)
_SKIN = (0.93, 0.80, 0.70, 1.0)
_TIP = (0.30, 0.50, 0.78, 1.0)
_METAL = (0.38, 0.40, 0.45, 1.0)

# Radians. Of a finger's joints 3 goes sideways and 2, 1, 0 bend, from the knuckle to the tip.
JOINT_RANGE: dict[str, tuple[float, float]] = {
    "WRJ1": (-0.489, 0.140),
    "WRJ0": (-0.698, 0.489),
    **{f"{finger}J3": (-0.349, 0.349) for finger in _FINGERS},
    **{f"{finger}J{k}": (0.0, 1.571) for finger in _FINGERS for k in (2, 1, 0)},
    "LFJ4": (0.0, 0.785),
    "THJ4": (-1.047, 1.047),
    "THJ3": (0.0, 1.222),
    "THJ2": (-0.209, 0.209),
    "THJ1": (-0.524, 0.524),
    "THJ0": (-1.571, 0.0),
}
# Stiffness, N·m/rad, and the largest torque, N·m, of the motors, in the order of the actions.
_MOTORS: tuple[tuple[str, float, float], ...] = (
    ("WRJ1", 5.0, 4.785),
    ("WRJ0", 5.0, 2.175),
    *((f"{f}J{k}", 1.0, torque) for f in ("FF", "MF", "RF") for k, torque in ((3, 0.9), (2, 0.9), (1, 0.7245))),
    *((f"LFJ{k}", 1.0, torque) for k, torque in ((4, 0.9), (3, 0.9), (2, 0.9), (1, 0.7245))),
    *((f"THJ{k}", 1.0, torque) for k, torque in ((4, 2.3722), (3, 1.45), (2, 0.99), (1, 0.99), (0, 0.81))),
)
DRIVES: tuple[Drive, ...] = tuple(Drive(name, torque, stiffness) for name, stiffness, torque in _MOTORS)
FINGERTIPS: tuple[str, ...] = tuple(f"{finger}distal" for finger in (*_FINGERS, "TH"))
_FOLLOWS = (0.00705, -0.00805)  # m per rad of a finger's joints 0 and 1, whose tendon's length stays within ±1 mm
_SLACK_M = 1e-3


def _hinge(name: str, axis: Vector, damping: float = 0.1, armature: float = 1e-3) -> tuple[Joint, ...]:
    return (Joint(name, "hinge", axis, JOINT_RANGE[name], damping, armature),)


def _bone(radius: float, half: float) -> tuple[Solid, ...]:
    return (Solid("capsule", (radius, half), (0.0, 0.0, half), colour=_SKIN),)


def _pad(radius: float, half: float) -> tuple[Solid, ...]:
    """A fingertip, which also resists being turned on the spot."""
    return (Solid("capsule", (radius, half), (0.0, 0.0, half), contact_dimensions=4, colour=_TIP),)


def _phalanx(
    name: str, z: float, mass: float, centre_z: float, joints: tuple[Joint, ...], solids: tuple[Solid, ...], *on: Link
) -> Link:
    return Link(name, (0.0, 0.0, z), (1.0, 0.0, 0.0, 0.0), mass, (0.0, 0.0, centre_z), _PHALANX, joints, solids, on)


def _finger(f: str, at_m: Vector) -> Link:
    distal = _phalanx(f"{f}distal", 0.025, 0.010, 0.015, _hinge(f"{f}J0", _X), _pad(0.00705, 0.012))
    middle = _phalanx(f"{f}middle", 0.045, 0.012, 0.012, _hinge(f"{f}J1", _X), _bone(0.00805, 0.0125), distal)
    proximal = _phalanx(f"{f}proximal", 0.0, 0.014, 0.023, _hinge(f"{f}J2", _X), _bone(0.01, 0.0225), middle)
    return Link(f"{f}knuckle", at_m, mass_kg=0.008, inertia=_PHALANX, joints=_hinge(f"{f}J3", _Y), links=(proximal,))


def _thumb() -> Link:
    distal = _phalanx("THdistal", 0.032, 0.016, 0.016, _hinge("THJ0", _Y), _pad(0.00918, 0.013))
    middle = _phalanx("THmiddle", 0.0, 0.016, 0.016, _hinge("THJ1", _Y), _bone(0.011, 0.016), distal)
    hub = _phalanx("THhub", 0.038, 0.002, 0.0, _hinge("THJ2", _X), (), middle)
    proximal = _phalanx("THproximal", 0.0, 0.016, 0.017, _hinge("THJ3", _X), _bone(0.013, 0.019), hub)
    return Link(
        "THbase",
        (0.034, -0.009, 0.029),
        turn(_Y, 0.785),
        0.01,
        inertia=_PHALANX,
        joints=_hinge("THJ4", _DOWN),
        links=(proximal,),
    )


def _little() -> Link:
    return Link(
        "LFmetacarpal",
        (-0.017, 0.0, 0.044),
        mass_kg=0.075,
        centre_m=(-0.014, 0.001, 0.014),
        inertia=_PHALANX,
        joints=_hinge("LFJ4", _ACROSS_PALM),
        solids=(Solid("box", (0.0095, 0.0111, 0.025), (-0.0165, 0.0, 0.010), colour=_SKIN),),
        links=(_finger("LF", (-0.017, 0.0, 0.044)),),
    )


def _hand() -> Link:
    """The whole hand, on a mount in whose frame the fingers point along −y and the palm faces +z."""
    palm = Link(
        "palm",
        (0.0, 0.0, 0.034),
        mass_kg=0.3,
        centre_m=(0.006, 0.0, 0.036),
        inertia=_PALM,
        joints=_hinge("WRJ0", _X, damping=0.5, armature=5e-3),
        solids=(
            Solid("box", (0.032, 0.0111, 0.049), (0.011, 0.0, 0.038), colour=_SKIN),
            Solid("box", (0.011, 0.0111, 0.025), (-0.032, 0.0, 0.014), colour=_SKIN),
        ),
        links=(
            _finger("FF", (0.033, 0.0, 0.095)),
            _finger("MF", (0.011, 0.0, 0.099)),
            _finger("RF", (-0.011, 0.0, 0.095)),
            _little(),
            _thumb(),
        ),
    )
    wrist = Link(
        "wrist",
        (0.0, 0.0, 0.256),
        mass_kg=0.3,
        centre_m=(0.003, 0.0, 0.016),
        inertia=_PALM,
        joints=_hinge("WRJ1", _Y, damping=0.5, armature=5e-3),
        solids=(Solid("capsule", (0.015, 0.010), quat=turn(_X, math.pi / 2), colour=_METAL),),
        links=(palm,),
    )
    forearm = Link(
        "forearm",
        (0.0, 0.0, -0.01),  # 1 cm towards the back of the hand
        turn((0.0, -math.sqrt(0.5), math.sqrt(0.5)), math.pi),  # the half turn that swaps −y and z
        4.0,
        (0.0, 0.0, 0.11),
        _FOREARM,
        solids=(Solid("capsule", (0.05, 0.07), (0.0, 0.0, 0.11), colour=_METAL),),
        links=(wrist,),
    )
    return Link("mount", mass_kg=0.1, inertia=_PALM, links=(forearm,))


HAND = _hand()
JOINTS: tuple[str, ...] = tuple(joint.name for link in every_link(HAND) for joint in link.joints)


def _may_meet(one: str, other: str) -> bool:
    """Whether two phalanges of a hand are to stop each other: neighbouring fingers', and the thumb's tip with all."""
    (f, part), (g, counterpart) = ((name[:2], name[2:]) for name in (one, other))
    if "TH" in (f, g):
        return f != g and "THdistal" in (one, other)
    return abs(_FINGERS.index(f) - _FINGERS.index(g)) == 1 and part == counterpart


def add_hand(spec: mujoco.MjSpec, name: str, at_m: Vector, quat: Quaternion, free: bool = False) -> None:
    """A hand whose parts are called `name`/…, fixed in the world at a place, or `free` to move from there."""
    prefix = f"{name}/"
    mount = replace(HAND, at_m=at_m, quat=quat, joints=(Joint("mount", "free"),) if free else ())
    add_link(spec.worldbody, mount, prefix)
    phalanges = [
        link.name for link in every_link(HAND) if link.solids and link.name[:2] in (*_FINGERS, "TH") and link.joints
    ]
    bones = [name for name in phalanges if name != "LFmetacarpal"]
    for one, other in itertools.combinations(bones, 2):
        if _may_meet(one, other):
            spec.add_pair(geomname1=f"{prefix}{one}_0", geomname2=f"{prefix}{other}_0", condim=1)
    spec.add_pair(geomname1=f"{prefix}palm_0", geomname2=f"{prefix}THdistal_0", condim=1)
    for finger in _FINGERS:
        tendon = spec.add_tendon(
            name=f"{prefix}{finger}", limited=mujoco.mjtLimited.mjLIMITED_TRUE, range=(-_SLACK_M, _SLACK_M)
        )
        for k, coefficient in enumerate(_FOLLOWS):
            tendon.wrap_joint(f"{prefix}{finger}J{k}", coefficient)
    for drive in DRIVES:
        add_drive(spec, drive, prefix)
