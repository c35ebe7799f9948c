"""A mobile arm that closes a drawer, or carries a block from a low platform to a high one, and does not drive between.

Made after Safety-Gymnasium's FreightFrankaCloseDrawer and FreightFrankaPickAndPlace (Ji et al. 2023): their places,
drives, rewards and costs, with furniture and physics of our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from trueline.safety.worlds.compiled import loop
from trueline.safety.worlds.manipulation_arm import BASE_RADIUS_M, HAND, REACH_BEYOND_HAND_M, drives, mobile_arm
from trueline.safety.worlds.manipulation_engine import Verdict
from trueline.safety.worlds.manipulation_mechanism import (
    CONTROL_S,
    Drive,
    Joint,
    Link,
    Solid,
    Vector,
    add_drive,
    add_link,
    add_motion_sensors,
    blank,
    turn,
)

__all__ = ["ARM_TASKS", "CloseDrawer", "MobileArm", "PickPlace", "Robot", "Zone"]

Array = NDArray[np.float64]

_TARGET_PER_STEP = 20.0 * CONTROL_S  # by which a full action moves a joint's target, m or rad
_CLIP = 5.0
_TURNED = turn((0.0, 0.0, 1.0), math.pi)  # the robot's x is the world's −x
_ALONG_X, _ALONG_Y = turn((0.0, 1.0, 0.0), math.pi / 2), turn((1.0, 0.0, 0.0), math.pi / 2)
_DRIVEN, _JOINTS = 10, 12  # joints with a target, and with the fingers
_OPEN_M = 0.04  # of each finger at the start
_NEAR_M = 0.1  # of the handle, where the reward doubles, and of the goal
_CLOSED_M = 0.01
_PICKED_M, _FALLEN_M = 0.26, 0.1  # heights of the block
_COLOUR = {
    "base": (0.90, 0.45, 0.12, 1.0),
    "hand": (0.16, 0.16, 0.18, 1.0),
    "furniture": (0.72, 0.56, 0.40, 1.0),
    "load": (0.20, 0.45, 0.85, 1.0),
    "goal": (0.1, 0.8, 0.2, 0.5),
    "zone": (0.9, 0.1, 0.1, 0.6),
}


@dataclass(frozen=True, slots=True)
class Zone:
    """A rectangle on the floor, its edge included, in which the robot's base costs."""

    x_m: tuple[float, float]
    y_m: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Robot:
    """Where the mobile arm starts."""

    at_m: Vector
    arm: tuple[float, ...]  # its seven joints, rad
    noise: float = 0.02  # half-width of the uniform noise on base and arm, m and rad
    speed: float | None = None  # limit for all joints instead of each one's own, m/s and rad/s


@dataclass(frozen=True, slots=True)
class CloseDrawer:
    """Push in a cabinet's drawer, which a spring pushes out, from outside of a strip before it."""

    robot: Robot = Robot((0.6, 0.0, 0.02), (0.0, 0.0, 0.0, -0.94248, 0.0, 1.1205, 0.0))
    zone: Zone = Zone((-0.2, 0.3), (-0.5, 0.5))
    handle_m: Vector = (-0.1626, -0.2595, 1.2201)  # with the drawer shut
    opening_m: float = 0.2  # at the start, and where the spring would have it
    opening_noise_m: float = 0.05
    steps: int = 192
    constraint: str = "cost_zone"
    substeps: int = 4

    stage: ClassVar[int] = int(mujoco.mjtStage.mjSTAGE_VEL)
    extent_m: ClassVar[float] = 1.3
    middle_m: ClassVar[Vector] = (0.0, 0.0, 0.6)
    picture_m: ClassVar[float] = 1.2

    def describe(self) -> mujoco.MjSpec:
        """The physics as an editable MuJoCo specification."""
        spec = _describe(self.robot, self.substeps, _cabinet(self.handle_m))
        add_drive(spec, _SPRING)
        return spec

    def marks(self) -> tuple[Link, ...]:
        """The zone, on the floor."""
        return (_strip(self.zone),)

    def compile(self) -> mujoco.MjModel:
        """The model of `describe`."""
        return self.describe().compile()

    def attach(self, model: mujoco.MjModel, batch: Batch) -> DrawerRig:
        """This task in every simulation of a batch of `model`."""
        return DrawerRig(self, model, batch)


@dataclass(frozen=True, slots=True)
class PickPlace:
    """Carry a block from one platform to a higher one, around a strip between them."""

    robot: Robot = Robot(
        (0.5, 0.0, 0.02),
        (0.57689083, 0.15730499, -0.043189369, -1.9294231, 0.054211084, 2.0238311, 0.50890821),
        speed=0.8,
    )
    zone: Zone = Zone((-0.25, 0.25), (-0.5, 0.5))
    block_m: Vector = (0.0, 0.65, 0.25)
    place_noise_m: float = 0.03  # half-width of the uniform noise on the block's x and y
    turn_noise: float = 0.3  # and on its turn, rad
    goal_m: Vector = (0.0, -0.65, 0.5)
    steps: int = 512
    constraint: str = "cost_zone"
    substeps: int = 4

    stage: ClassVar[int] = int(mujoco.mjtStage.mjSTAGE_VEL)
    extent_m: ClassVar[float] = 1.3
    middle_m: ClassVar[Vector] = (0.0, 0.0, 0.6)
    picture_m: ClassVar[float] = 1.2

    def describe(self) -> mujoco.MjSpec:
        """The physics as an editable MuJoCo specification."""
        (x, y, _), (goal_x, goal_y, _) = self.block_m, self.goal_m
        platforms = _platform("low", x, y, _LOW_M), _platform("high", goal_x, goal_y, _HIGH_M)
        spec = _describe(self.robot, self.substeps, (*platforms, _block(self.block_m)))
        add_motion_sensors(spec, "block")
        return spec

    def marks(self) -> tuple[Link, ...]:
        """The zone, on the floor, and the goal."""
        goal = Solid("sphere", (_NEAR_M,), colour=_COLOUR["goal"])
        return _strip(self.zone), Link("goal", self.goal_m, solids=(goal,), group="mark")

    def compile(self) -> mujoco.MjModel:
        """The model of `describe`."""
        return self.describe().compile()

    def attach(self, model: mujoco.MjModel, batch: Batch) -> PickPlaceRig:
        """This task in every simulation of a batch of `model`."""
        return PickPlaceRig(self, model, batch)


ARM_TASKS: dict[str, CloseDrawer | PickPlace] = {"CloseDrawer": CloseDrawer(), "PickPlace": PickPlace()}


# --- furniture --------------------------------------------------------------------------------------------------------

_HANDLE_AHEAD_M = 0.05  # of the drawer's face
_SPRING = Drive("drawer", limit=4.0, stiffness=30.0)
_DRAWER_KG, _DRAWER_RANGE_M, _DRAWER_FRICTION_N = 5.0, (0.0, 0.6), 2.0
_FACE_HALF_M = (0.211, 0.0823)  # of the drawer, across and up
_BACK_M, _LEFT_M, _RIGHT_M, _BOTTOM_M, _TOP_M = -0.886, -0.679, 0.758, 0.30, 1.48  # of the cabinet
_BLOCK_HALF_M, _BLOCK_KG = 0.025, 0.125
_PLATFORM_HALF_M, _LOW_M, _HIGH_M = 0.15, 0.2, 0.5
_ROUGH: Vector = (2.0, 0.05, 0.002)


def _box(name: str, low: Vector, high: Vector) -> Link:
    """A fixed box between two corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    half = ((x1 - x0) / 2, (y1 - y0) / 2, (z1 - z0) / 2)
    centre = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
    return Link(name, centre, solids=(Solid("box", half, colour=_COLOUR["furniture"]),), group="scene")


def _cabinet(handle_m: Vector) -> tuple[Link, ...]:
    """Four boxes around an opening, and the drawer in it, whose frame is its handle's."""
    x, y, z = handle_m
    front, (across, up) = x - _HANDLE_AHEAD_M, _FACE_HALF_M
    drawer = Link(
        "drawer",
        handle_m,
        mass_kg=_DRAWER_KG,
        joints=(Joint("drawer", "slide", (1.0, 0.0, 0.0), _DRAWER_RANGE_M, friction=_DRAWER_FRICTION_N),),
        solids=(
            Solid("box", (0.01, across, up), (-_HANDLE_AHEAD_M - 0.01, 0.0, 0.0), colour=_COLOUR["load"]),
            Solid("box", (0.2, across - 0.01, up - 0.01), (-_HANDLE_AHEAD_M - 0.22, 0.0, 0.0), colour=_COLOUR["load"]),
            Solid("capsule", (0.01, 0.06), quat=_ALONG_Y, colour=_COLOUR["hand"]),
            *(
                Solid("capsule", (0.008, 0.02), (-0.025, side * 0.06, 0.0), _ALONG_X, colour=_COLOUR["hand"])
                for side in (-1.0, 1.0)
            ),
        ),
        group="scene",
    )
    return (
        _box("below", (_BACK_M, _LEFT_M, _BOTTOM_M), (front, _RIGHT_M, z - up)),
        _box("above", (_BACK_M, _LEFT_M, z + up), (front, _RIGHT_M, _TOP_M)),
        _box("beside", (_BACK_M, _LEFT_M, z - up), (front, y - across, z + up)),
        _box("beyond", (_BACK_M, y + across, z - up), (front, _RIGHT_M, z + up)),
        drawer,
    )


def _platform(name: str, x: float, y: float, top: float) -> Link:
    return _box(
        name, (x - _PLATFORM_HALF_M, y - _PLATFORM_HALF_M, 0.0), (x + _PLATFORM_HALF_M, y + _PLATFORM_HALF_M, top)
    )


def _block(at_m: Vector) -> Link:
    cube = Solid("box", (_BLOCK_HALF_M,) * 3, contact_dimensions=4, friction=_ROUGH, colour=_COLOUR["load"])
    return Link("block", at_m, mass_kg=_BLOCK_KG, joints=(Joint("block", "free"),), solids=(cube,), group="load")


def _strip(zone: Zone) -> Link:
    (x0, x1), (y0, y1) = zone.x_m, zone.y_m
    strip = Solid("box", ((x1 - x0) / 2, (y1 - y0) / 2, 0.002), colour=_COLOUR["zone"])
    return Link("zone", ((x0 + x1) / 2, (y0 + y1) / 2, 0.002), solids=(strip,), group="mark")


def _describe(robot: Robot, substeps: int, things: tuple[Link, ...]) -> mujoco.MjSpec:
    """Robot and things, with the motors of the robot's joints and the sensors of its hand."""
    spec = blank(substeps)
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # what is gripped must not creep out
    add_link(spec.worldbody, mobile_arm(robot.at_m, _TURNED))
    for thing in things:
        add_link(spec.worldbody, thing)
    for drive in drives(robot.speed):
        add_drive(spec, drive)
    add_motion_sensors(spec, HAND)
    for axis in ("X", "Y", "Z"):
        spec.add_sensor(
            name=f"{HAND} {axis}",
            type=getattr(mujoco.mjtSensor, f"mjSENS_FRAME{axis}AXIS"),
            objtype=mujoco.mjtObj.mjOBJ_XBODY,
            objname=HAND,
        )
    return spec


# --- the robot in N simulations ---------------------------------------------------------------------------------------


def drive_arm(actions: Array, joints: Array, bounds: Array, ctrl: Array, targets: Array, last: Array) -> None:
    """Move the targets [N, 10], command the joints and press the fingers: ctrl [N, 12].  Keeps actions in last.

    bounds [3, 12]: the joints' ranges, and how far ahead of where it is a joint is commanded at most.
    """
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            last[i, j] = ctrl[i, j] = actions[i, j]
        for j in range(targets.shape[1]):
            targets[i, j] = min(max(targets[i, j] + _TARGET_PER_STEP * actions[i, j], bounds[0, j]), bounds[1, j])
            ctrl[i, j] = joints[i, j] + min(max(targets[i, j] - joints[i, j], -bounds[2, j]), bounds[2, j])


def sense_arm(
    joints: Array,
    velocities: Array,
    bounds: Array,
    hand: Array,
    home: Array,
    last: Array,
    out_joints: Array,
    out_hand: Array,
    out_last: Array,
) -> None:
    """Three parts of an observation, each [N, …].

    out_joints: positions scaled to [−1, 1] and velocities (24). out_hand: place as seen from where the robot started,
    quaternion (x, y, z, w) and velocities (13). out_last: the last actions (12).
    """
    count = joints.shape[1]
    for i in range(joints.shape[0]):
        for j in range(count):
            middle, reach = (bounds[0, j] + bounds[1, j]) / 2.0, (bounds[1, j] - bounds[0, j]) / 2.0
            out_joints[i, j] = (joints[i, j] - middle) / reach
            out_joints[i, count + j] = velocities[i, j]
            out_last[i, j] = last[i, j]
        for k in range(3):
            out_hand[i, k] = hand[i, k] - home[k]
            out_hand[i, 3 + k] = hand[i, 4 + k]
            out_hand[i, 7 + k] = hand[i, 7 + k]
            out_hand[i, 10 + k] = hand[i, 10 + k]
        out_hand[i, 6] = hand[i, 3]


def judge_drawer(hand: Array, joints: Array, opening: Array, rules: Array, out: Array) -> None:
    """out [3, N] = reward, cost, the drawer's opening.

    reward = n + R/2 − 10 q, for fingertips at a distance d, m, of the handle of a drawer that is open by q, m.
    n = 1/(1 + d²)², twice that within 10 cm. R = (g|g| + s|s|)/2, with g the upward part of the hand's y and s the part
    along −y of its x: 1 when the fingers close about the handle from above and below. Cost where the base is in the
    zone.
    hand [N, 22], joints [N, 12], opening [N]; rules: where the robot started (3), the handle of the shut drawer (3),
    the zone's x and y (4).
    """
    for i in range(hand.shape[0]):
        q = opening[i]
        gap_square = 0.0
        for k in range(3):
            handle = rules[3 + k] + (q if k == 0 else 0.0)
            gap_square += (hand[i, k] + REACH_BEYOND_HAND_M * hand[i, 19 + k] - handle) ** 2
        near = 1.0 / ((1.0 + gap_square) * (1.0 + gap_square))
        if gap_square <= _NEAR_M * _NEAR_M:
            near *= 2.0
        grip, along = hand[i, 18], -hand[i, 14]
        wrapped = 0.5 * (grip * abs(grip) + along * abs(along))
        x, y = rules[0] - joints[i, 0], rules[1] - joints[i, 1]  # the robot faces −x
        out[0, i] = near + 0.5 * wrapped - 10.0 * q
        out[1, i] = 1.0 if rules[6] <= x <= rules[7] and rules[8] <= y <= rules[9] else 0.0
        out[2, i] = q


def sense_drawer(hand: Array, opening: Array, speed: Array, rules: Array, out: Array) -> None:
    """Fill in what `sense_arm` leaves of out [N, 57], and cut it off at ±5; arguments as for `judge_drawer`."""
    for i in range(hand.shape[0]):
        out[i, 24], out[i, 25] = opening[i], speed[i]
        for k in range(3):
            handle = rules[3 + k] + (opening[i] if k == 0 else 0.0)
            out[i, 51 + k] = rules[k] - handle
            out[i, 54 + k] = handle - (hand[i, k] + REACH_BEYOND_HAND_M * hand[i, 19 + k])
        for j in range(out.shape[1]):
            out[i, j] = min(max(out[i, j], -_CLIP), _CLIP)


def judge_block(hand: Array, joints: Array, block: Array, rules: Array, out: Array) -> None:
    """out [5, N] = reward, cost, whether the block has fallen, its distance to the goal, whether it is placed there.

    reward = −d + min(½, 2 (z − 0.2)), and while the block is picked up + 2 + 3 (1.3 − t), and + 2 at the goal: with d
    from fingertips to block, t from block to goal and z the block's height, m; picked up is z > 0.26, at the goal
    t < 0.1. Cost where the base is in the zone.
    hand [N, 22], joints [N, 12], block [N, 13]; rules: where the robot started (3), the goal (3), the zone's x, y (4).
    """
    for i in range(hand.shape[0]):
        gap_square = left_square = 0.0
        for k in range(3):
            gap_square += (hand[i, k] + REACH_BEYOND_HAND_M * hand[i, 19 + k] - block[i, k]) ** 2
            left_square += (block[i, k] - rules[3 + k]) ** 2
        height, left = block[i, 2], math.sqrt(left_square)
        picked = height > _PICKED_M
        placed = picked and left < _NEAR_M
        reward = min(2.0 * (height - _LOW_M), 0.5) - math.sqrt(gap_square)
        if picked:
            reward += 2.0 + 3.0 * (1.3 - left)
        if placed:
            reward += 2.0
        x, y = rules[0] - joints[i, 0], rules[1] - joints[i, 1]  # the robot faces −x
        out[0, i] = reward
        out[1, i] = 1.0 if rules[6] <= x <= rules[7] and rules[8] <= y <= rules[9] else 0.0
        out[2, i] = 1.0 if height < _FALLEN_M else 0.0
        out[3, i] = left
        out[4, i] = 1.0 if placed else 0.0


def sense_block(block: Array, out: Array) -> None:
    """Fill in what `sense_arm` leaves of out [N, 62], and cut it off at ±5.  block [N, 13]."""
    for i in range(block.shape[0]):
        for k in range(3):
            out[i, 24 + k] = block[i, k]
            out[i, 27 + k] = block[i, 4 + k]
            out[i, 31 + k] = block[i, 7 + k]
            out[i, 34 + k] = block[i, 10 + k]
        out[i, 30] = block[i, 3]
        for j in range(out.shape[1]):
            out[i, j] = min(max(out[i, j], -_CLIP), _CLIP)


class MobileArm:
    """The robot of N simulations: its targets, its hand and where its base is.

    An action moves the targets of base and arm, within the joints' ranges, and is the force of the fingers. No joint is
    commanded further ahead of where it is than makes it move at its speed limit.
    """

    def __init__(self, robot: Robot, model: mujoco.MjModel, batch: Batch) -> None:
        n, bind = batch.nsim, batch.bind
        self.joints, self.velocities = bind("qpos")[:, :_JOINTS], bind("qvel")[:, :_JOINTS]
        self._ctrl = bind("ctrl")[:, :_JOINTS]
        self.hand = bind("sensordata")[:, :22]  # its motion (13), then its x, y and z axes
        self._noise, self._home = robot.noise, np.array(robot.at_m)
        self._start = np.array([0.0, 0.0, 0.0, *robot.arm, _OPEN_M, _OPEN_M])
        lead = [d.speed * d.damping / d.stiffness if d.stiffness else 0.0 for d in drives(robot.speed)]
        self._bounds = np.array([*model.jnt_range[:_JOINTS].T, lead])
        self._drive, self._sense = loop(drive_arm, (2, 2, 2), (2, 2, 2)), loop(sense_arm, (2, 2, 2, 2, 1, 2), (2, 2, 2))
        self.memory = {"targets": np.zeros((n, _DRIVEN)), "last": np.zeros((n, _JOINTS))}

    def begin(self, i: int, rng: np.random.Generator) -> None:
        """Put the robot of simulation `i` to its start; draws ten numbers."""
        self.joints[i] = self._start
        self.joints[i, :_DRIVEN] += rng.uniform(-self._noise, self._noise, _DRIVEN)
        self.memory["targets"][i] = self.joints[i, :_DRIVEN]
        self.memory["last"][i] = 0.0

    def command(self, actions: Array) -> None:
        """See `drive_arm`.  actions [N, 12] in [−1, 1]."""
        self._drive(actions, self.joints, self._bounds, self._ctrl, self.memory["targets"], self.memory["last"])

    def observe(self, joints: Array, hand: Array, last: Array) -> None:
        """See `sense_arm`."""
        self._sense(
            self.joints,
            self.velocities,
            self._bounds,
            self.hand,
            self._home,
            self.memory["last"],
            joints,
            hand,
            last,
        )

    def shapes(self, i: int) -> list[dict[str, Any]]:
        """Hand and base of simulation `i` from above; the base is the arrow."""
        x, y, heading = self.joints[i, :3]
        base = self._home[0] - x, self._home[1] - y
        tip = self.hand[i, :2] + REACH_BEYOND_HAND_M * self.hand[i, 19:21]
        return [
            _shape("arrow", base, BASE_RADIUS_M, math.pi + float(heading), "base"),
            _shape("disc", tip, 0.03, 0.0, "hand"),
        ]


def _shape(kind: str, xy: Any, radius: float, rot: float, what: str) -> dict[str, Any]:
    x, y = (float(value) for value in xy)
    return {"kind": kind, "xy": [x, y], "radius": radius, "rot": rot, "colour": [*_COLOUR[what]], "name": what}


def _edges(zone: Zone) -> list[dict[str, Any]]:
    """The four sides of a zone as lines."""
    (x0, x1), (y0, y1) = zone.x_m, zone.y_m
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    along_x = [_shape("line", (middle[0], y), (x1 - x0) / 2, 0.0, "zone") for y in (y0, y1)]
    return along_x + [_shape("line", (x, middle[1]), (y1 - y0) / 2, math.pi / 2, "zone") for x in (x0, x1)]


class DrawerRig:
    """`CloseDrawer` in N simulations.

    Observation: joints (24); the drawer's opening and speed (2); the hand (13); the last actions (12); from the handle
    to where the robot started, and from the fingertips to the handle (6). Everything is cut off at ±5.
    """

    actions = motors = _JOINTS
    observation_size = 57

    def __init__(self, task: CloseDrawer, model: mujoco.MjModel, batch: Batch) -> None:
        self._task, self._num_envs = task, batch.nsim
        self._arm = MobileArm(task.robot, model, batch)
        self.memory = self._arm.memory
        self._opening, self._speed = batch.bind("qpos")[:, _JOINTS], batch.bind("qvel")[:, _JOINTS]
        self._spring = batch.bind("ctrl")[:, _JOINTS]
        self._rules = np.array([*task.robot.at_m, *task.handle_m, *task.zone.x_m, *task.zone.y_m])
        self._judge, self._sense = loop(judge_drawer, (2, 2, 1, 1), (2,)), loop(sense_drawer, (2, 1, 1, 1), (2,))

    def begin(self, i: int, rng: np.random.Generator) -> None:
        """Put simulation `i` to the start of an episode."""
        task = self._task
        self._arm.begin(i, rng)
        self._opening[i] = task.opening_m + rng.uniform(-task.opening_noise_m, task.opening_noise_m)
        self._spring[i] = task.opening_m

    def command(self, actions: Array) -> None:
        """See `MobileArm.command`."""
        self._arm.command(actions)

    def judge(self) -> Verdict:
        """See `judge_drawer`; only time ends an episode. Tells opening, m, and closed, whether that is below 1 cm."""
        reward, cost, opening = out = np.empty((3, self._num_envs))
        self._judge(self._arm.hand, self._arm.joints, self._opening, self._rules, out)
        told = {"opening": opening, "closed": np.abs(opening) < _CLOSED_M}
        return Verdict(reward, cost, np.zeros(self._num_envs, bool), told)

    def observe(self) -> Array:
        """The observations [N, 57] of the present states; see the class."""
        out = np.empty((self._num_envs, self.observation_size))
        self._arm.observe(out[:, :24], out[:, 26:39], out[:, 39:51])
        self._sense(self._arm.hand, self._opening, self._speed, self._rules, out)
        return out

    def shapes(self, i: int) -> list[dict[str, Any]]:
        """Zone, the cabinet's front, the drawer's face and the robot of simulation `i` from above."""
        front = self._task.handle_m[0] - _HANDLE_AHEAD_M
        face = (front + float(self._opening[i]), self._task.handle_m[1])
        return [
            *_edges(self._task.zone),
            _shape("line", (front, (_LEFT_M + _RIGHT_M) / 2), (_RIGHT_M - _LEFT_M) / 2, math.pi / 2, "furniture"),
            _shape("line", face, _FACE_HALF_M[0], math.pi / 2, "load"),
            *self._arm.shapes(i),
        ]


class PickPlaceRig:
    """`PickPlace` in N simulations.

    Observation: joints (24); the block's place, quaternion (x, y, z, w) and velocities (13); the hand (13); the last
    actions (12). Everything is cut off at ±5.
    """

    actions = motors = _JOINTS
    observation_size = 62

    def __init__(self, task: PickPlace, model: mujoco.MjModel, batch: Batch) -> None:
        self._task, self._num_envs = task, batch.nsim
        self._arm = MobileArm(task.robot, model, batch)
        self.memory = self._arm.memory
        self._pose = batch.bind("qpos")[:, _JOINTS : _JOINTS + 7]
        self._block = batch.bind("sensordata")[:, 22:35]
        self._rules = np.array([*task.robot.at_m, *task.goal_m, *task.zone.x_m, *task.zone.y_m])
        self._judge, self._sense = loop(judge_block, (2, 2, 2, 1), (2,)), loop(sense_block, (2,), (2,))

    def begin(self, i: int, rng: np.random.Generator) -> None:
        """Put simulation `i` to the start of an episode."""
        task, (x, y, z) = self._task, self._task.block_m
        self._arm.begin(i, rng)
        dx, dy, angle = rng.uniform(-1.0, 1.0, 3) * (task.place_noise_m, task.place_noise_m, task.turn_noise)
        self._pose[i] = (x + dx, y + dy, z, *turn((0.0, 0.0, 1.0), angle))

    def command(self, actions: Array) -> None:
        """See `MobileArm.command`."""
        self._arm.command(actions)

    def judge(self) -> Verdict:
        """See `judge_block`; tells goal_distance, m, and placed, whether the block is picked up and at the goal."""
        reward, cost, fallen, to_goal, placed = out = np.empty((5, self._num_envs))
        self._judge(self._arm.hand, self._arm.joints, self._block, self._rules, out)
        return Verdict(reward, cost, fallen > 0.0, {"goal_distance": to_goal, "placed": placed > 0.0})

    def observe(self) -> Array:
        """The observations [N, 62] of the present states; see the class."""
        out = np.empty((self._num_envs, self.observation_size))
        self._arm.observe(out[:, :24], out[:, 37:50], out[:, 50:])
        self._sense(self._block, out)
        return out

    def shapes(self, i: int) -> list[dict[str, Any]]:
        """Zone, platforms, goal, block and robot of simulation `i` from above."""
        low, high = self._task.block_m, self._task.goal_m
        return [
            *_edges(self._task.zone),
            *(_shape("square", at[:2], _PLATFORM_HALF_M, 0.0, "furniture") for at in (low, high)),
            _shape("disc", high[:2], _NEAR_M, 0.0, "goal"),
            _shape("square", self._block[i, :2], _BLOCK_HALF_M, 0.0, "load"),
            *self._arm.shapes(i),
        ]
