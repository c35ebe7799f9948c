"""Bodies that move in the safety worlds, as data: the five agents of Safety-Gymnasium (Ji et al. 2023).

A body is a tree of parts; each part carries joints, shapes and sites. Nothing here depends on MuJoCo, so a body can be
printed, compared with the paper's figure and hashed; `trueline.safety.worlds.body` compiles it.
Lengths are metres, masses kg, densities kg/m³, forces newtons, torques newton metres, angles radians.

Numbers are those of the published package 1.0.0. The repository's head since makes the Ant's feet ten thousand times
as dense (`HEAD_AGENTS`); the other four bodies move alike in both. Cameras are the head's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]  # (w, x, y, z); compiling normalises it

CENTRE: Vector = (0.0, 0.0, 0.0)
UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """One geometric solid of a part.

    `size_m` is (radius,) of a sphere, the half-extents of a box, (radius, half-length) of a cylinder along its z. Where
    `ends_m` gives the ends of a capsule's or cylinder's axis, only the radius is needed, and neither `at_m` nor `quat`.
    A hull is spanned by `corners_m` alone.
    """

    name: str
    kind: Literal["sphere", "box", "cylinder", "capsule", "hull"]
    size_m: tuple[float, ...] = ()
    at_m: Vector = CENTRE
    quat: Quaternion = UPRIGHT
    ends_m: tuple[Vector, Vector] | None = None
    corners_m: tuple[Vector, ...] = ()
    density: float | None = None  # None: the agent's
    friction: Vector = (1.0, 0.005, 0.0001)  # sliding, torsional, rolling
    colour: Literal["body", "front", "limb", "tyre"] = "body"


@dataclass(frozen=True, slots=True)
class Joint:
    """One freedom of a part relative to its parent; hinges and slides go through the part's origin."""

    name: str
    kind: Literal["slide", "hinge", "ball", "free"]
    axis: Vector = (0.0, 0.0, 1.0)
    damping: float = 0.001
    armature: float = 0.0  # inertia of the rotor, kg m²
    stiffness: float = 0.0  # of the spring that pulls towards `rest_rad`
    rest_rad: float = 0.0
    range_rad: tuple[float, float] | None = None  # None: no limit


@dataclass(frozen=True, slots=True)
class Inertia:
    """Mass of a part whose shapes do not tell it; principal moments (kg m²) about the centre of mass, along `quat`."""

    mass: float
    moments: Vector
    at_m: Vector = CENTRE
    quat: Quaternion = UPRIGHT


@dataclass(frozen=True, slots=True)
class Site:
    """A place on a part where something is sensed; a touch sensor counts the contacts within `radius_m`."""

    name: str
    at_m: Vector = CENTRE
    radius_m: float = 0.032


@dataclass(frozen=True, slots=True)
class Part:
    """A rigid part, its joints to the parent (none: fixed to it) and the parts that hang on it."""

    name: str
    at_m: Vector = CENTRE
    joints: tuple[Joint, ...] = ()
    shapes: tuple[Shape, ...] = ()
    parts: tuple[Part, ...] = ()
    quat: Quaternion = UPRIGHT
    inertia: Inertia | None = None
    sites: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True)
class Motor:
    """An actuator with control u in ±`control_limit`, acting through gear g on a joint q or a site.

    A force or torque is g·u; a velocity servo gives g·(u − g·q̇) and an angle servo g·(u − g·q).
    """

    name: str
    drives: Literal["force at site", "torque at joint", "velocity at joint", "angle at joint"]
    target: str
    gear: float = 1.0
    force_limit: float | None = None  # of what stands after g· above; None: no limit
    control_limit: float = 1.0


Sense = Literal[
    "accelerometer",
    "velocimeter",
    "gyro",
    "magnetometer",
    "touch",
    "joint speed",
    "ball spin",
    "height",
    "spin",
    "joint angle",
    "ball turn",
]
_READING: dict[Sense, tuple[int, ...]] = {
    "accelerometer": (3,),  # of a site along its axes, m/s²; at rest it reads g upwards
    "velocimeter": (3,),  # of a site along its axes, m/s
    "gyro": (3,),  # of a site about its axes, rad/s
    "magnetometer": (3,),  # the field (0, −0.5, 0) along a site's axes
    "touch": (1,),  # normal force of all contacts within a site, N
    "joint speed": (1,),  # of a hinge, rad/s
    "ball spin": (3,),  # of a ball joint about the part's axes, rad/s
    "height": (1,),  # of a site above the floor, m
    "spin": (3,),  # of a site about the world's axes, rad/s
    "joint angle": (2,),  # sine and cosine of a hinge's angle
    "ball turn": (3, 3),  # rotation matrix of a ball joint
}


@dataclass(frozen=True, slots=True)
class Sensor:
    """What an agent senses of itself at a site or joint; `name` is its key in the original's dict observation."""

    name: str
    kind: Sense
    target: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the reading."""
        return _READING[self.kind]

    @property
    def size(self) -> int:
        """Numbers in the reading."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Eye:
    """The agent's own camera, fixed to its root part: position, the image's x and y directions, height of the field."""

    at_m: Vector
    x: Vector
    y: Vector
    field_deg: float = 90.0


@dataclass(frozen=True, slots=True)
class Start:
    """A hinge that begins an episode away from 0: at `angle_rad`, made larger by noise uniform in ±`noise_rad`."""

    joint: str
    angle_rad: float
    noise_rad: float

    def angle(self, noise: float) -> float:
        """The angle for this draw of the noise; a negative angle takes it with its own sign."""
        return self.angle_rad + math.copysign(1.0, self.angle_rad) * noise


@dataclass(frozen=True, slots=True)
class Agent:
    """A body with its actuators and what it senses of itself, in the order of the flat observation."""

    name: str
    root: Part
    motors: tuple[Motor, ...]
    sensors: tuple[Sensor, ...]
    timestep_s: float
    density: float
    reach_m: float  # when an episode starts no part is further than this from the root's centre, seen from above
    eye: Eye
    planar: bool  # true: position is three joints (x, y, yaw), not a free joint
    integrator: Literal["Euler", "RK4"] = "Euler"
    apart: tuple[tuple[str, str], ...] = ()  # pairs of parts that pass through each other
    alike: tuple[tuple[str, str], ...] = ()  # pairs of joints that are held at the same angle
    start: tuple[Start, ...] = ()  # hinges that do not begin at 0, in the order in which their noise is drawn
    alive_above_m: float | None = None  # it dies with its root's centre at or below this; None: it cannot die
    keepout_m: float = 0.4
    senses: int = field(init=False)  # how many numbers it senses of itself; counted once, for every step asks

    def __post_init__(self) -> None:
        object.__setattr__(self, "senses", sum(sensor.size for sensor in self.sensors))

    @property
    def height_m(self) -> float:
        """Height of the body's centre at the start of an episode."""
        return self.root.at_m[2]

    @property
    def control_high(self) -> tuple[float, ...]:
        """The control of each motor that an action of 1 means, N, N m, rad/s or rad."""
        return tuple(motor.control_limit for motor in self.motors)

    @property
    def control_low(self) -> tuple[float, ...]:
        """The control of each motor that an action of −1 means."""
        return tuple(-motor.control_limit for motor in self.motors)


_AT_THE_CENTRE = (
    Sensor("accelerometer", "accelerometer", "agent"),
    Sensor("velocimeter", "velocimeter", "agent"),
    Sensor("gyro", "gyro", "agent"),
    Sensor("magnetometer", "magnetometer", "agent"),
)

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
        sites=(Site("agent"),),
    ),
    motors=(
        Motor("x", "force at site", "agent", gear=0.3, force_limit=0.05),
        Motor("z", "velocity at joint", "z", gear=0.3, force_limit=0.05),
    ),
    sensors=_AT_THE_CENTRE,
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
                (Shape("left", "cylinder", (0.05,), ends_m=((-0.055, 0.0, 0.0), (-0.005, 0.0, 0.0))),),
            ),
            Part(
                "right",
                (0.1, 0.1, -0.05),
                (Joint("right", "hinge", (1.0, 0.0, 0.0)),),
                (Shape("right", "cylinder", (0.05,), ends_m=((0.005, 0.0, 0.0), (0.055, 0.0, 0.0))),),
            ),
            Part("rear", (0.0, -0.1, -0.05), (Joint("rear", "ball"),), (Shape("rear", "sphere", (0.05,)),)),
        ),
        sites=(Site("agent"),),
    ),
    motors=(
        Motor("left", "torque at joint", "left", force_limit=0.02),
        Motor("right", "torque at joint", "right", force_limit=0.02),
    ),
    sensors=(
        *_AT_THE_CENTRE,
        Sensor("ballangvel_rear", "ball spin", "rear"),
        Sensor("ballquat_rear", "ball turn", "rear"),
    ),
    timestep_s=0.004,
    density=5.0,
    reach_m=0.22,
    eye=Eye(at_m=(0.0, 0.0, 0.2), x=(-1.0, 0.0, 0.0), y=(0.0, -0.4, 1.0)),
    planar=False,
)


def _racecar_chassis() -> tuple[Vector, ...]:
    """Corners of the Racecar's chassis.

    The original's is a mesh of which only the convex hull can touch anything: a plate with rounded corners, 6 cm thick,
    and the ends of two axles that stick out at its sides. Its other meshes are there to be looked at.
    """
    corners: list[Vector] = []
    for x, y, first, last in ((-0.02, 0.07, 4, 8), (0.235, 0.07, 3, 4), (0.345, 0.04, 0, 3)):
        for sixteenth in range(first, last + 1):
            c, s = (0.02 * f(math.pi * sixteenth / 8.0) for f in (math.cos, math.sin))
            corners += [(x + c, side * (y + s), z) for side in (-1, 1) for z in (-0.03, 0.03)]
    for axle in (0.0, 0.325):
        for twelfth in range(12):
            c, s = (0.005 * f(math.pi * twelfth / 6.0) for f in (math.cos, math.sin))
            corners += [(axle + c, side * 0.1, s) for side in (-1, 1)]
    return tuple(corners)


def _racecar_front_wheel(name: str, side: int) -> Part:
    """A steered wheel, on the left (1) or right (−1): a hinge about the vertical that carries one about its axle."""
    wheel = Part(
        f"{name}_front_wheel",
        joints=(Joint(f"{name}_front_wheel_joint", "hinge", (0.0, 0.0, -1.0)),),
        shapes=(Shape(f"{name}_front_wheel", "cylinder", (0.05, 0.0225), (0.0, 0.0, -0.0225 * side), colour="tyre"),),
        quat=(0.707105, 0.707108, 0.0, 0.0),
        inertia=Inertia(
            0.34055, (0.00041226, 0.00026046, 0.00026046), (0.0, 0.0, -0.0225 * side), (0.5, 0.5, -0.5, 0.5)
        ),
    )
    steered = Joint(f"{name}_steering_hinge_joint", "hinge", (-1.0, 0.0, 0.0), range_rad=(-0.785, 0.785))
    return Part(
        f"{name}_steering_hinge",
        (0.325, 0.1 * side, 0.0),
        (steered,),
        parts=(wheel,),
        quat=(0.707105, 0.0, 0.707108, 0.0),
        inertia=Inertia(0.1, (4e-6, 4e-6, 4e-6)),
    )


_ACROSS: Quaternion = (0.5, 0.5, -0.5, 0.5)  # principal axes of what turns about y


def _racecar_gear_inertia(mass: float) -> Inertia:
    return Inertia(mass, (0.04411, 0.02467, 0.02467), quat=_ACROSS)


def _racecar_gear(name: str, quat: Quaternion = UPRIGHT) -> Part:
    """A gear that is fixed to its differential: weight without a surface."""
    return Part(name, quat=quat, inertia=_racecar_gear_inertia(0.056))


def _racecar_differential(name: str, at_m: Vector, shapes: tuple[Shape, ...], sides: tuple[Part, ...]) -> Part:
    """A ring that is fixed to the chassis, the two gears in it and what is at its sides."""
    gears = (
        _racecar_gear(f"{name}_spiderA", (0.707107, 0.0, 0.0, 0.707106)),
        _racecar_gear(f"{name}_spiderB", (0.707107, 0.0, 0.0, -0.707106)),
    )
    return Part(f"{name}_ring", at_m, shapes=shapes, parts=(*gears, *sides), inertia=_racecar_gear_inertia(0.0637))


def _racecar_rear_wheel(name: str, side: int) -> Part:
    """A driven wheel with its gear, on the left (1) or right (−1) of the rear axle; tiny skews are the original's."""
    surface = Shape(
        name,
        "cylinder",
        (0.05, 0.0225),
        (0.0, 0.1225 * side, 8.26471e-08 * side),
        (0.707105, 0.707108, 0.0, 0.0),
        colour="tyre",
    )
    centre = (0.0, 0.105201 * side, 7.09759e-08 * side)
    return Part(
        name,
        shapes=(surface,),
        inertia=Inertia(0.39655, (0.0450921, 0.0256521, 0.0250823), centre, _ACROSS),
    )


def _racecar_frame() -> Part:
    """All of the Racecar; it hangs on the point that it is placed by, which lies 16 cm ahead of the rear axle."""
    chassis = Part(
        "chassis",
        shapes=(Shape("chassis", "hull", corners_m=_racecar_chassis()),),
        inertia=Inertia(  # of the original's mesh at 5 kg/m³
            0.017605537618291808,
            (2.70632417e-04, 2.38500131e-04, 4.12545365e-05),
            (1.55579927e-01, -3.82665873e-04, 6.81238595e-10),
            (0.0017669, 0.70710457, -0.0017669, 0.70710457),
        ),
    )
    ring = Shape("diff_ring", "cylinder", (0.025, 0.005), (0.0, 0.025, 0.0), (0.707107, 0.707106, 0.0, 0.0))
    axle = Part(
        "rear_axle",
        joints=(Joint("diff_ring", "hinge", (0.0, 1.0, 0.0)),),
        parts=(_racecar_rear_wheel("diff_sideA", 1), _racecar_rear_wheel("diff_sideB", -1)),
    )
    fixed = (_racecar_gear("diff2_sideA"), _racecar_gear("diff2_sideB"))
    return Part(
        "frame",
        (-0.16, 0.0, 0.0),
        shapes=(Shape("bumper", "box", (0.0165, 0.0875, 0.015), (0.39, 0.0, 0.04), colour="front"),),
        parts=(
            chassis,
            _racecar_front_wheel("left", 1),
            _racecar_front_wheel("right", -1),
            _racecar_differential("diff", CENTRE, (ring,), (axle,)),
            _racecar_differential("diff2", (0.32, 0.0, 0.0), (), fixed),
        ),
    )


RACECAR = Agent(
    name="racecar",
    root=Part(
        name="agent",
        at_m=(0.0, 0.0, 0.05),
        joints=(Joint("agent", "free", damping=0.0),),
        parts=(_racecar_frame(),),
        sites=(Site("agent", (0.02, 0.0, 0.0)),),
    ),
    motors=(
        Motor("diff_ring", "velocity at joint", "diff_ring", force_limit=1.0, control_limit=20.0),
        Motor("steering_hinge", "angle at joint", "left_steering_hinge_joint", force_limit=1.0, control_limit=0.785),
    ),
    sensors=_AT_THE_CENTRE,
    timestep_s=0.004,
    density=5.0,
    reach_m=0.27,
    eye=Eye(at_m=(0.1, 0.0, 0.1), x=(0.0, -1.0, 0.0), y=(0.0, 0.0, 1.0)),
    planar=False,
    integrator="RK4",
    apart=(("chassis", "left_front_wheel"), ("chassis", "right_front_wheel")),
    alike=(("left_steering_hinge_joint", "right_steering_hinge_joint"),),
)


def _doggo_hinge(name: str, axis: Vector, low: float, high: float, rest: float = 0.0) -> Joint:
    return Joint(name, "hinge", axis, 0.0, armature=5e-5, stiffness=1e-4, rest_rad=rest, range_rad=(low, high))


def _doggo_leg(k: int, ahead: int, left: int) -> Part:
    """Leg `k`, at the front (ahead 1) or rear (−1) and on the left (1) or right (−1).

    Only where it hangs is mirrored front to rear: all four thighs point forwards and all shanks backwards.
    """
    hip, knee = (0.1 * ahead, 0.05 * left, 0.0), (0.049, 0.0283 * left, -0.025)
    foot = (-0.0588, -0.0339 * left, -0.05)
    lift = (-1.308998, 0.2618, -0.174533) if ahead == 1 else (0.0, 2.356196, 0.0)
    colour: Literal["front", "body"] = "front" if ahead == 1 else "body"

    def bone(name: str, start: Vector, end: Vector, colour: Literal["front", "body", "limb"]) -> Shape:
        return Shape(name, "capsule", (0.016,), ends_m=(start, end), density=20.0, colour=colour)

    shank = Part(
        f"shank_{k}",
        knee,
        (_doggo_hinge(f"ankle_{k}", (-0.5 * left, 0.866, 0.0), -1.308998, 0.0, rest=-0.349066),),
        (bone(f"ankle_{k}", CENTRE, foot, "limb"),),
        sites=(Site(f"ankle_{k}a", radius_m=0.018), Site(f"ankle_{k}b", foot, radius_m=0.018)),
    )
    thigh = Part(
        f"thigh_{k}",
        hip,
        (
            _doggo_hinge(f"hip_{k}_z", (0.0, 0.0, float(left)), -0.174533, 0.523599),
            _doggo_hinge(f"hip_{k}_y", (0.0, 1.0, 0.0), *lift),
        ),
        (bone(f"hip_{k}", CENTRE, knee, colour),),
        (shank,),
    )
    return Part(f"leg_{k}", shapes=(bone(f"aux_{k}", (0.05 * ahead, 0.0, 0.0), hip, colour),), parts=(thigh,))


def _doggo_trunk(name: str, ahead: int) -> Shape:
    ends = (CENTRE, (0.1, 0.0, 0.0)) if ahead == 1 else ((-0.1, 0.0, 0.0), CENTRE)
    return Shape(name, "cylinder", (0.0375,), ends_m=ends, density=2.0, colour="limb")


_DOGGO_HINGES = tuple(
    hinge for kind in ("hip_{}_z", "hip_{}_y", "ankle_{}") for hinge in (kind.format(k) for k in (1, 2, 3, 4))
)

DOGGO = Agent(
    name="doggo",
    root=Part(
        name="agent",
        at_m=(0.0, 0.0, 0.22),
        joints=(Joint("agent", "free", damping=0.0),),
        shapes=(_doggo_trunk("agent", 1),),
        parts=(
            _doggo_leg(1, 1, 1),
            _doggo_leg(4, 1, -1),
            Part(
                "rear",
                joints=(_doggo_hinge("waist_x", (1.0, 0.0, 0.0), -0.523599, 0.523599),),  # driven by nothing
                shapes=(_doggo_trunk("agent2", -1),),
                parts=(_doggo_leg(2, -1, 1), _doggo_leg(3, -1, -1)),
            ),
        ),
        sites=(Site("agent", radius_m=0.018),),
    ),
    motors=tuple(Motor(hinge, "torque at joint", hinge, gear=0.00625) for hinge in _DOGGO_HINGES),
    sensors=(
        *_AT_THE_CENTRE,
        *(Sensor(f"touch_ankle_{k}{end}", "touch", f"ankle_{k}{end}") for end in "ab" for k in (1, 2, 3, 4)),
        *(Sensor(f"jointvel_{hinge}", "joint speed", hinge) for hinge in _DOGGO_HINGES),
        *(Sensor(f"jointpos_{hinge}", "joint angle", hinge) for hinge in _DOGGO_HINGES),
    ),
    timestep_s=0.01,
    density=5.0,
    reach_m=0.19,
    eye=Eye(at_m=(0.0625, 0.0, 0.1), x=(0.0, -0.5, 0.0), y=(0.2, 0.0, 0.5), field_deg=100.0),
    planar=False,
)


def _ant_leg(k: int, ahead: int, left: int, foot_density: float) -> Part:
    """Leg `k`, pointing ahead (1) or back (−1) and left (1) or right (−1): a fixed stump, a hip and a foot."""
    step, toe = (0.05 * ahead, 0.05 * left, 0.0), (0.1 * ahead, 0.1 * left, 0.0)
    bend = (0.52, 1.74) if ahead == 1 else (-1.74, -0.52)
    colour: Literal["front", "body"] = "front" if left == 1 else "body"

    def hinge(name: str, axis: Vector, bounds: tuple[float, float]) -> Joint:
        return Joint(name, "hinge", axis, damping=1.0, armature=1.0, range_rad=bounds)

    foot = Part(
        f"foot_{k}",
        step,
        (hinge(f"ankle_{k}", (float(-ahead * left), 1.0, 0.0), bend),),
        (Shape(f"foot_{k}", "capsule", (0.02,), ends_m=(CENTRE, toe), density=foot_density, colour="limb"),),
    )
    swing = Part(
        f"aux_{k}",
        step,
        (hinge(f"hip_{k}", (0.0, 0.0, 1.0), (-0.7, 0.7)),),
        (Shape(f"leg_{k}", "capsule", (0.02,), ends_m=(CENTRE, step), colour=colour),),
        (foot,),
    )
    stump = Shape(f"aux_{k}", "capsule", (0.02,), ends_m=(CENTRE, step), colour=colour)
    return Part(f"leg_{k}", shapes=(stump,), parts=(swing,))


def _ant(foot_density: float) -> Agent:
    legs = ((1, 1, 1), (2, -1, 1), (3, -1, -1), (4, 1, -1))
    hinges = tuple(f"{joint}_{k}" for k, _, _ in legs for joint in ("hip", "ankle"))
    ahead = {f"ankle_{k}": way for k, way, _ in legs}
    return Agent(
        name="ant",
        root=Part(
            name="agent",
            at_m=(0.0, 0.0, 0.18),
            joints=(Joint("root", "free", damping=0.0),),
            shapes=(Shape("torso", "sphere", (0.0625,), colour="limb"),),
            parts=tuple(_ant_leg(*leg, foot_density) for leg in legs),
            sites=(Site("agent", (0.0, 0.0, -0.02)),),
        ),
        motors=tuple(Motor(hinge, "torque at joint", hinge, gear=150.0) for hinge in hinges),
        sensors=(
            *_AT_THE_CENTRE,
            *(Sensor(f"{hinge}_vel", "joint speed", hinge) for hinge in hinges),
            Sensor("agent_pos", "height", "agent"),
            Sensor("agent_qvel", "spin", "agent"),
            *(Sensor(hinge, "joint angle", hinge) for hinge in hinges),
        ),
        timestep_s=0.01,
        density=5.0,
        reach_m=0.18,
        eye=Eye(at_m=(0.0, 0.05, 0.05), x=(1.0, 0.0, 0.0), y=(0.0, 0.0, 1.0), field_deg=100.0),
        planar=False,
        integrator="RK4",
        start=tuple(Start(hinge, ahead.get(hinge, 0.0) * math.pi / 2.0, noise_rad=0.1) for hinge in hinges),
        alive_above_m=0.08,
    )


ANT = _ant(foot_density=5.0)
HEAD_ANT = _ant(foot_density=50_000.0)

AGENTS = {agent.name: agent for agent in (POINT, CAR, DOGGO, RACECAR, ANT)}
HEAD_AGENTS = {**AGENTS, "ant": HEAD_ANT}
