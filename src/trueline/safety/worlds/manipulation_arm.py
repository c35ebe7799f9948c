"""A seven-joint arm with a gripper on a base that drives and turns: a Franka arm's published kinematics and limits.

Joint ranges, speeds and torques are the maker's, the base's those of Safety-Gymnasium's FreightFranka. Masses are
rounded, shapes are capsules and boxes of our own. The base's motors are stiffer than there, in proportion to what they
move, so that it does not swing; the robot feels no weight.
"""

from __future__ import annotations

import math

from trueline.safety.worlds.manipulation_mechanism import Drive, Joint, Link, Quaternion, Solid, Vector, turn

__all__ = ["BASE_RADIUS_M", "GRIP_N", "HAND", "REACH_BEYOND_HAND_M", "drives", "mobile_arm"]

HAND = "hand"
REACH_BEYOND_HAND_M = 0.13  # from the hand's frame to where fingertips meet, along its z
GRIP_N = 100.0
BASE_RADIUS_M = 0.27

_ORANGE = (0.90, 0.45, 0.12, 1.0)
_WHITE = (0.93, 0.93, 0.95, 1.0)
_BLACK = (0.16, 0.16, 0.18, 1.0)
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_LEFT, _RIGHT = turn(_X, math.pi / 2), turn(_X, -math.pi / 2)
_ALONG_X, _ALONG_Y = turn(_Y, math.pi / 2), turn(_X, math.pi / 2)

_ROTOR = 0.1  # armature of the arm's joints, kg·m²
_FINGER_DAMPING = GRIP_N / 1.0  # at full force a finger moves at 1 m/s
_PALMS: Vector = (2.0, 0.05, 0.002)  # friction of the fingers


def _capsule(radius: float, half: float, at_m: Vector, quat: Quaternion = (1.0, 0.0, 0.0, 0.0)) -> tuple[Solid, ...]:
    return (Solid("capsule", (radius, half), at_m, quat, colour=_WHITE),)


# Where each link of the arm begins in the frame of the one before, its mass and shape, and the range of its joint.
_ARM: tuple[tuple[Vector, Quaternion, float, tuple[Solid, ...], tuple[float, float]], ...] = (
    ((0.0, 0.0, 0.333), (1.0, 0.0, 0.0, 0.0), 2.4, _capsule(0.06, 0.06, (0.0, 0.0, -0.10)), (-2.8973, 2.8973)),
    ((0.0, 0.0, 0.0), _RIGHT, 2.4, _capsule(0.06, 0.09, (0.0, -0.14, 0.0), _ALONG_Y), (-1.7628, 1.7628)),
    ((0.0, -0.316, 0.0), _LEFT, 2.6, _capsule(0.055, 0.04, (0.04, 0.0, 0.0), _ALONG_X), (-2.8973, 2.8973)),
    ((0.0825, 0.0, 0.0), _LEFT, 2.7, _capsule(0.055, 0.04, (-0.05, 0.08, 0.0), _ALONG_Y), (-3.0718, -0.0698)),
    ((-0.0825, 0.384, 0.0), _RIGHT, 3.0, _capsule(0.05, 0.09, (0.0, 0.0, -0.15)), (-2.8973, 2.8973)),
    ((0.0, 0.0, 0.0), _LEFT, 1.1, _capsule(0.05, 0.03, (0.04, 0.0, 0.0), _ALONG_X), (-0.0175, 3.7525)),
    ((0.088, 0.0, 0.0), _LEFT, 0.4, _capsule(0.04, 0.03, (0.0, 0.0, 0.06)), (-2.8973, 2.8973)),
)
_TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_SPEED = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
_STIFFNESS, _DAMPING = 400.0, 40.0  # of the arm's joints, N·m/rad and N·m·s/rad


def drives(speed: float | None = None) -> tuple[Drive, ...]:
    """The motors in the order of the actions: base x, y, turn; seven joints; two fingers.

    speed: a limit for all joints but the fingers', m/s and rad/s, instead of each one's own.
    """
    arm = (
        Drive(f"joint{k + 1}", torque, _STIFFNESS, _DAMPING, speed or own)
        for k, (torque, own) in enumerate(zip(_TORQUE_NM, _SPEED, strict=True))
    )
    return (
        Drive("x", 120.0, 12_000.0, 1200.0, speed or 1.0),
        Drive("y", 120.0, 12_000.0, 1200.0, speed or 0.3),
        Drive("turn", 100.0, 1200.0, 120.0, speed or 1.0),
        *arm,
        Drive("left finger", GRIP_N),
        Drive("right finger", GRIP_N),
    )


def _finger(name: str, side: float) -> Link:
    """A finger that opens along ±y of the hand; its pad is at the hand's middle when it is shut."""
    return Link(
        name,
        (0.0, 0.0, 0.0584),
        mass_kg=0.1,
        joints=(Joint(name, "slide", (0.0, side, 0.0), (0.0, 0.04), _FINGER_DAMPING, armature=0.5),),
        solids=(
            Solid(
                "box",
                (0.01, 0.007, 0.04),
                (0.0, side * 0.007, 0.04),
                contact_dimensions=4,
                friction=_PALMS,
                colour=_BLACK,
            ),
        ),
    )


def _from_joint(k: int) -> Link:
    """The arm from its joint k + 1 on."""
    at_m, quat, mass, solids, limits = _ARM[k]
    if k + 1 < len(_ARM):
        on = _from_joint(k + 1)
    else:
        on = Link(
            HAND,
            (0.0, 0.0, 0.107),
            turn(_Z, -math.pi / 4),
            0.7,
            solids=(Solid("box", (0.03, 0.1, 0.033), (0.0, 0.0, 0.033), colour=_WHITE),),
            links=(_finger("left finger", 1.0), _finger("right finger", -1.0)),
        )
    joint = Joint(f"joint{k + 1}", "hinge", _Z, limits, armature=_ROTOR)
    return Link(f"link{k + 1}", at_m, quat, mass, joints=(joint,), solids=solids, links=(on,))


def mobile_arm(at_m: Vector, quat: Quaternion) -> Link:
    """The whole robot with its base at a place; its joints are numbered as the actions are."""
    return Link(
        "base",
        at_m,
        quat,
        13.0,
        joints=(
            Joint("x", "slide", _X, (-1.0, 1.0)),
            Joint("y", "slide", _Y, (-1.0, 1.0)),
            Joint("turn", "hinge", _Z, (-3.14, 3.14)),
        ),
        solids=(
            Solid("cylinder", (BASE_RADIUS_M, 0.16), (0.0, 0.0, 0.19), colour=_ORANGE),
            Solid("cylinder", (0.07, 0.07), (0.0, 0.0, 0.43), colour=_WHITE),
        ),
        links=(Link("shoulder", (0.0, 0.0, 0.36), turn(_Z, math.pi), links=(_from_joint(0),)),),
    )
