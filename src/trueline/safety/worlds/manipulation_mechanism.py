"""Mechanisms as data: links that hang on one another by joints, and the drives that move them.

Nothing here knows a task. A hand, an arm or a drawer is a tree of `Link`; `add_link` writes it into a MuJoCo
specification. Lengths are metres, masses kg, inertias kg·m², angles radians, forces N and N·m; quaternions are
(w, x, y, z), as MuJoCo has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import mujoco

__all__ = [
    "CONTROL_S",
    "Drive",
    "Joint",
    "Link",
    "Quaternion",
    "Solid",
    "Vector",
    "add_drive",
    "add_link",
    "add_motion_sensors",
    "blank",
    "every_link",
    "turn",
]

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Group = Literal["robot", "scene", "load", "mark"]

_UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)
_KIND = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
}
_FREEDOM = {
    "hinge": mujoco.mjtJoint.mjJNT_HINGE,
    "slide": mujoco.mjtJoint.mjJNT_SLIDE,
    "free": mujoco.mjtJoint.mjJNT_FREE,
}
# (contype, conaffinity): robots touch scene and load, the load touches both, nothing touches its own kind.
_TOUCHES: dict[Group, tuple[int, int]] = {"robot": (1, 0), "scene": (0, 5), "load": (4, 1), "mark": (0, 0)}


CONTROL_S = 1.0 / 60.0  # from one action to the next
_ARENA_BYTES = 2**22  # for contacts and constraints: 80 times what they were seen to take, and held once per simulation


def turn(axis: Vector, angle: float) -> Quaternion:
    """The quaternion of a turn by `angle` radians about the unit vector `axis`."""
    c, s = math.cos(angle / 2), math.sin(angle / 2)
    return (c, s * axis[0], s * axis[1], s * axis[2])


@dataclass(frozen=True, slots=True)
class Solid:
    """A piece of a link that touches: half-extents of a box, semi-axes, or (radius, half-length) along its z."""

    kind: Literal["box", "capsule", "cylinder", "ellipsoid", "sphere"]
    size_m: tuple[float, ...]
    at_m: Vector = (0.0, 0.0, 0.0)
    quat: Quaternion = _UPRIGHT
    contact_dimensions: int = 3  # 3: it slides with friction; 4: turning on the spot meets friction too; 6: rolling too
    friction: Vector = (1.0, 0.005, 0.001)  # sliding, torsional, rolling
    colour: tuple[float, float, float, float] = (0.62, 0.64, 0.68, 1.0)


@dataclass(frozen=True, slots=True)
class Joint:
    """How a link moves against its parent; `free` is not against the parent but in the world."""

    name: str
    kind: Literal["hinge", "slide", "free"]
    axis: Vector = (0.0, 0.0, 1.0)
    range: tuple[float, float] | None = None
    damping: float = 0.0
    armature: float = 0.0
    friction: float = 0.0  # dry, N or N·m


@dataclass(frozen=True, slots=True)
class Link:
    """A rigid piece.

    Its mass has its centre at `centre_m` with the principal moments `inertia`; without those it is spread evenly over
    the solids. A robot's links feel no weight, as if a perfect controller carried them.
    """

    name: str
    at_m: Vector = (0.0, 0.0, 0.0)
    quat: Quaternion = _UPRIGHT
    mass_kg: float = 0.0
    centre_m: Vector = (0.0, 0.0, 0.0)
    inertia: Vector | None = None
    joints: tuple[Joint, ...] = ()
    solids: tuple[Solid, ...] = ()
    links: tuple[Link, ...] = ()
    group: Group = "robot"


@dataclass(frozen=True, slots=True)
class Drive:
    """A motor that pulls a joint to a commanded position: force = stiffness·(command − q) − damping·q̇, within ±limit.

    Without stiffness the command is the force itself, as a share of the limit. `speed` is the fastest it is to move.
    """

    joint: str
    limit: float
    stiffness: float = 0.0
    damping: float = 0.0
    speed: float = math.inf


def every_link(link: Link) -> Iterator[Link]:
    """The link and all that hangs on it, parents first."""
    yield link
    for child in link.links:
        yield from every_link(child)


def blank(substeps: int) -> mujoco.MjSpec:
    """An empty world in radians whose control step has so many substeps; stiff drives are integrated implicitly."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = CONTROL_S / substeps
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.memory = _ARENA_BYTES
    return spec


def add_link(parent: mujoco.MjsBody, link: Link, prefix: str = "") -> mujoco.MjsBody:
    """Hang the link, and all that hangs on it, on `parent`; names of links and joints get the prefix."""
    body = parent.add_body(
        name=prefix + link.name, pos=link.at_m, quat=link.quat, gravcomp=1.0 if link.group == "robot" else 0.0
    )
    for joint in link.joints:
        made = body.add_joint(
            name=prefix + joint.name,
            type=_FREEDOM[joint.kind],
            axis=joint.axis,
            damping=[joint.damping, 0.0, 0.0],
            armature=joint.armature,
            frictionloss=joint.friction,
        )
        if joint.range is not None:
            made.limited, made.range = mujoco.mjtLimited.mjLIMITED_TRUE, joint.range
    if link.inertia is not None:
        body.explicitinertial = True
        body.mass, body.ipos, body.inertia = link.mass_kg, link.centre_m, link.inertia
    kinds = _TOUCHES[link.group]
    for i, solid in enumerate(link.solids):
        geom = body.add_geom(
            name=f"{prefix}{link.name}_{i}",
            type=_KIND[solid.kind],
            size=[*solid.size_m, 0.0, 0.0][:3],
            pos=solid.at_m,
            quat=solid.quat,
            condim=solid.contact_dimensions,
            friction=solid.friction,
            contype=kinds[0],
            conaffinity=kinds[1],
            rgba=solid.colour,
        )
        geom.mass = link.mass_kg / len(link.solids)
    for child in link.links:
        add_link(body, child, prefix)
    return body


def add_drive(spec: mujoco.MjSpec, drive: Drive, prefix: str = "") -> None:
    """The motor of a joint already there, under the joint's name."""
    actuator = spec.add_actuator(
        name=prefix + drive.joint, target=prefix + drive.joint, trntype=mujoco.mjtTrn.mjTRN_JOINT
    )
    if drive.stiffness:
        actuator.set_to_position(kp=drive.stiffness, kv=drive.damping)
        actuator.forcelimited, actuator.forcerange = mujoco.mjtLimited.mjLIMITED_TRUE, (-drive.limit, drive.limit)
    else:
        actuator.set_to_motor()
        actuator.gear = [drive.limit, 0.0, 0.0, 0.0, 0.0, 0.0]


def add_motion_sensors(spec: mujoco.MjSpec, body: str) -> None:
    """Of a link, in the world's axes: place (3), quaternion (4), linear (3) and angular velocity (3)."""
    for kind in ("FRAMEPOS", "FRAMEQUAT", "FRAMELINVEL", "FRAMEANGVEL"):
        spec.add_sensor(
            name=f"{body} {kind}",
            type=getattr(mujoco.mjtSensor, f"mjSENS_{kind}"),
            objtype=mujoco.mjtObj.mjOBJ_XBODY,
            objname=body,
        )
