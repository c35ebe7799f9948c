"""Bodies that move in the safety worlds, as data: Point and Car of Safety-Gymnasium (Ji et al. 2023).

A body is a tree of parts; each part carries joints and shapes. Nothing here depends on MuJoCo, so a body can be
printed, compared with the paper's figure and hashed; `trueline.safety.worlds.physics` compiles it.
Lengths are metres, densities kg/m³, forces newtons, angles radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """One geometric solid of a part: half-extents for a box, (radius, half-length) for a cylinder."""

    name: str
    kind: Literal["sphere", "box", "cylinder"]
    size_m: tuple[float, ...]
    at_m: Vector = (0.0, 0.0, 0.0)
    axis: Literal["x", "z"] = "z"  # direction of a cylinder
    friction: Vector = (1.0, 0.005, 0.0001)  # sliding, torsional, rolling
    colour: Literal["body", "front"] = "body"


@dataclass(frozen=True, slots=True)
class Joint:
    """One freedom of a part relative to its parent."""

    name: str
    kind: Literal["slide", "hinge", "ball", "free"]
    axis: Vector = (0.0, 0.0, 1.0)
    damping: float = 0.001


@dataclass(frozen=True, slots=True)
class Part:
    """A rigid part, its joints to the parent and the parts that hang on it."""

    name: str
    at_m: Vector
    joints: tuple[Joint, ...]
    shapes: tuple[Shape, ...]
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Motor:
    """An actuator with control in [-1, 1]: a force at a site, or a torque or velocity servo at a joint."""

    name: str
    drives: Literal["force at site", "torque at joint", "velocity at joint"]
    target: str
    gear: float
    force_limit: float


@dataclass(frozen=True, slots=True)
class Eye:
    """The agent's own camera, fixed to its root part: position and the image's x and y directions."""

    at_m: Vector
    x: Vector
    y: Vector


@dataclass(frozen=True, slots=True)
class Agent:
    """A body with its actuators and what it senses of itself.

    Every agent has an accelerometer, velocimeter, gyro and magnetometer at its centre (12 numbers); `balls` names ball
    joints whose angular velocity (3) and rotation matrix (9) are sensed too.
    """

    name: str
    root: Part
    motors: tuple[Motor, ...]
    timestep_s: float
    density: float
    reach_m: float  # no part of the body is further than this from its centre, seen from above
    eye: Eye
    planar: bool  # true: position is three joints (x, y, yaw), not a free joint
    balls: tuple[str, ...] = ()
    keepout_m: float = 0.4

    @property
    def height_m(self) -> float:
        """Height of the body's centre at the start of an episode."""
        return self.root.at_m[2]

    @property
    def senses(self) -> int:
        """How many numbers the agent senses of itself."""
        return 12 + 12 * len(self.balls)


POINT = Agent(
    name="point",
    root=Part(
        name="agent",
        at_m=(0.0, 0.0, 0.1),
        joints=(
            Joint("x", "slide", (1.0, 0.0, 0.0), damping=0.01),
            Joint("y", "slide", (0.0, 1.0, 0.0), damping=0.01),
            Joint("z", "hinge", (0.0, 0.0, 1.0), damping=0.005),
        ),
        shapes=(
            Shape("agent", "sphere", (0.1,), friction=(1.0, 0.01, 0.01)),
            Shape("pointarrow", "box", (0.05, 0.05, 0.05), (0.1, 0.0, 0.0), colour="front"),
        ),
    ),
    motors=(
        Motor("x", "force at site", "agent", gear=0.3, force_limit=0.05),
        Motor("z", "velocity at joint", "z", gear=0.3, force_limit=0.05),
    ),
    timestep_s=0.002,
    density=1.0,
    reach_m=0.16,
    eye=Eye(at_m=(0.0, 0.0, 0.15), x=(0.0, -1.0, 0.0), y=(0.4, 0.0, 1.0)),
    planar=True,
)

CAR = Agent(
    name="car",
    root=Part(
        name="agent",
        at_m=(0.0, 0.0, 0.1),
        joints=(Joint("agent", "free", damping=0.0),),
        shapes=(
            Shape("agent", "box", (0.1, 0.1, 0.05)),
            Shape("back_bumper", "box", (0.1, 0.01, 0.05), (0.0, 0.15, 0.0), colour="front"),
            Shape("back_connector", "box", (0.01, 0.025, 0.03), (0.0, 0.125, 0.0), colour="front"),
            Shape("front_bumper", "box", (0.05, 0.01, 0.05), (0.0, -0.165, 0.0), colour="front"),
            Shape("front_connector", "box", (0.05, 0.03, 0.01), (0.0, -0.13, 0.04), colour="front"),
        ),
        parts=(
            Part(
                "left",
                (-0.1, 0.1, -0.05),
                (Joint("left", "hinge", (1.0, 0.0, 0.0)),),
                (Shape("left", "cylinder", (0.05, 0.025), (-0.03, 0.0, 0.0), axis="x"),),
            ),
            Part(
                "right",
                (0.1, 0.1, -0.05),
                (Joint("right", "hinge", (1.0, 0.0, 0.0)),),
                (Shape("right", "cylinder", (0.05, 0.025), (0.03, 0.0, 0.0), axis="x"),),
            ),
            Part("rear", (0.0, -0.1, -0.05), (Joint("rear", "ball"),), (Shape("rear", "sphere", (0.05,)),)),
        ),
    ),
    motors=(
        Motor("left", "torque at joint", "left", gear=1.0, force_limit=0.02),
        Motor("right", "torque at joint", "right", gear=1.0, force_limit=0.02),
    ),
    timestep_s=0.004,
    density=5.0,
    reach_m=0.21,
    eye=Eye(at_m=(0.0, 0.0, 0.2), x=(-1.0, 0.0, 0.0), y=(0.0, -0.4, 1.0)),
    planar=False,
    balls=("rear",),
)
