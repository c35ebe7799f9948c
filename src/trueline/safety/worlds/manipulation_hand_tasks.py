"""Two hands and an egg: hand it over, or throw it from an upright hand into one that lies open.

Made after Safety-Gymnasium's ShadowHandOver and ShadowHandCatchOver2Underarm (Ji et al. 2023; the tasks are those of
Chen et al. 2022, Bi-DexHands): their places, targets, observation, reward and cost, on physics of our own.
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
from trueline.safety.worlds.manipulation_engine import Verdict
from trueline.safety.worlds.manipulation_hand import DRIVES, FINGERTIPS, JOINT_RANGE, JOINTS, add_hand
from trueline.safety.worlds.manipulation_mechanism import (
    CONTROL_S,
    Joint,
    Link,
    Quaternion,
    Solid,
    Vector,
    add_link,
    add_motion_sensors,
    blank,
    turn,
)

__all__ = ["HANDS", "HAND_TASKS", "HandTask", "TwoHands"]

Array = NDArray[np.float64]

HANDS = ("giver", "taker")
_AHEAD: Quaternion = (1.0, 0.0, 0.0, 0.0)  # fingers along −y, palm up
_FACING = turn((0.0, 0.0, 1.0), math.pi)  # fingers along +y, palm up
# Fingers up and 0.1 rad back, palm towards −y: a turn of 1.67 about x, then half a turn about y.
_UPRIGHT: Quaternion = (0.0, 0.0, math.cos(1.67 / 2), -math.sin(1.67 / 2))

_COLOUR = {"hand": (0.93, 0.80, 0.70, 1.0), "egg": (0.45, 0.60, 0.95, 1.0), "goal": (0.1, 0.8, 0.2, 0.5)}
_EGG_M = (0.03, 0.03, 0.04)  # semi-axes
_EGG_KG = 500.0 * 4.0 / 3.0 * math.pi * math.prod(_EGG_M)
_JOINT_SHARE = 0.2  # of its range, by which a joint's start varies
_PLACE_NOISE_M = 0.01
_VELOCITY_SCALE, _FORCE_SCALE, _CLIP = 0.2, 10.0, 5.0
_NEARNESS, _PER_M = 0.2, 50.0  # reward = exp(−0.2 · (50 · distance + angle))
_FORCE_N, _TORQUE_NM = 5000.0 * CONTROL_S, 500.0 * CONTROL_S  # on a free hand's forearm at full action
_FORCE_AND_TORQUE = sum(
    1 << int(part) for part in (mujoco.mjtConDataField.mjCONDATA_FORCE, mujoco.mjtConDataField.mjCONDATA_TORQUE)
)
_NET = 3  # how a contact sensor sums up: one force and torque equivalent to all
_DRAG_PER_S = 100.0  # a free hand's velocities fade at this rate


@dataclass(frozen=True, slots=True)
class HandTask:
    """Places of hands, egg and goal, and what is watched.

    restricted: which joints of the giving hand's first finger must be commanded to the middle half of their range.
    """

    giver: tuple[Vector, Quaternion]
    taker: tuple[Vector, Quaternion]
    egg_m: Vector
    goal_m: Vector
    lost_below_m: float
    restricted: tuple[str, ...]
    constraint: str
    free: bool = False  # the hands' bases move, pushed by six more actions each
    stray_m: float = math.inf  # how far they may get from where they stood
    steps: int = 75
    substeps: int = 2

    stage: ClassVar[int] = int(mujoco.mjtStage.mjSTAGE_ACC)  # contact forces are sensed
    extent_m: ClassVar[float] = 1.1
    middle_m: ClassVar[Vector] = (0.0, -0.45, 0.65)
    picture_m: ClassVar[float] = 0.7

    def describe(self) -> mujoco.MjSpec:
        """The physics as an editable MuJoCo specification."""
        spec = blank(self.substeps)
        for name, place in zip(HANDS, (self.giver, self.taker), strict=True):
            add_hand(spec, name, *place, free=self.free)
        egg = Solid("ellipsoid", _EGG_M, contact_dimensions=4, colour=_COLOUR["egg"])
        add_link(
            spec.worldbody,
            Link("egg", self.egg_m, mass_kg=_EGG_KG, joints=(Joint("egg", "free"),), solids=(egg,), group="load"),
        )
        for hand in HANDS:
            for tip in FINGERTIPS:
                add_motion_sensors(spec, f"{hand}/{tip}")
            for tip in FINGERTIPS:
                _add_touch(spec, f"{hand}/{tip}")
        add_motion_sensors(spec, "egg")
        return spec

    def marks(self) -> tuple[Link, ...]:
        """The goal, as a ball."""
        return (
            Link("goal", self.goal_m, solids=(Solid("sphere", (_EGG_M[0],), colour=_COLOUR["goal"]),), group="mark"),
        )

    def compile(self) -> mujoco.MjModel:
        """The model of `describe`, with the drag of free hands."""
        model = self.describe().compile()
        if self.free:
            for hand in HANDS:
                first = model.joint(f"{hand}/mount").dofadr[0]
                # Moments about the mount in the pose of the model, fingers straight.
                model.dof_damping[first : first + 6] = _DRAG_PER_S * model.dof_M0[first : first + 6]
        return model

    def attach(self, model: mujoco.MjModel, batch: Batch) -> TwoHands:
        """This task in every simulation of a batch of `model`."""
        return TwoHands(self, model, batch)


def _add_touch(spec: mujoco.MjSpec, body: str) -> None:
    """Force and torque, in the world's axes, of a body on the egg."""
    spec.add_sensor(
        name=f"{body} touch",
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        objname=body,
        reftype=mujoco.mjtObj.mjOBJ_BODY,
        refname="egg",
        intprm=[_FORCE_AND_TORQUE, _NET, 1],
    )


# --- the tasks --------------------------------------------------------------------------------------------------------


def _hand_over(restricted: tuple[str, ...], constraint: str) -> HandTask:
    return HandTask(
        giver=((0.0, 0.0, 0.5), _AHEAD),
        taker=((0.0, -1.0, 0.5), _FACING),
        egg_m=(0.0, -0.39, 0.54),
        goal_m=(0.0, -0.64, 0.54),
        lost_below_m=0.2,
        restricted=restricted,
        constraint=constraint,
    )


def _catch(restricted: tuple[str, ...], constraint: str) -> HandTask:
    return HandTask(
        giver=((0.0, 0.0, 0.5), _UPRIGHT),
        taker=((0.0, -0.8, 0.5), _FACING),
        egg_m=(0.0, 0.05, 1.04),  # 4 cm above the original's place, which our straight fingers reach into
        goal_m=(0.0, -0.40, 0.55),
        lost_below_m=0.3,
        restricted=restricted,
        constraint=constraint,
        free=True,
        stray_m=0.1,
    )


_FINGER = ("FFJ3", "FFJ2", "FFJ1"), "cost_finger"
_JOINT = ("FFJ1",), "cost_joint"
HAND_TASKS: dict[str, HandTask] = {
    "HandOver-Finger": _hand_over(*_FINGER),
    "HandOver-Joint": _hand_over(*_JOINT),
    "CatchUnderarm-Finger": _catch(*_FINGER),
    "CatchUnderarm-Joint": _catch(*_JOINT),
}


# --- many of them at once ---------------------------------------------------------------------------------------------

_PUSHES = 6  # force and torque on a free hand's base, before its joints among the actions
_PUSH = np.repeat([_FORCE_N, _TORQUE_NM], 3)
_LOW, _HIGH = np.array([JOINT_RANGE[name] for name in JOINTS]).T
_MIDDLES, _REACHES = (_LOW + _HIGH) / 2, (_HIGH - _LOW) / 2
_DRIVEN = np.array([JOINTS.index(drive.joint) for drive in DRIVES])
_MIDDLE, _REACH = _MIDDLES[_DRIVEN], _REACHES[_DRIVEN]
_TIPS = len(FINGERTIPS)
_HAND_SENSORS = 19 * _TIPS  # of the motion of each fingertip, then of the force and torque on each
# q · g* = Σᵢ qᵢ · sign · g[place], rows x, y, z, w and columns w, x, y, z.
_PLACES = np.array([[1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0], [0, 1, 2, 3]])
_SIGNS = np.array([[-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]], dtype=np.float64)


def judge_hands(egg: Array, goal: Array, last: Array, bases: Array, rules: Array, watched: Array, out: Array) -> None:
    """out [4, N] = reward, cost, whether it failed, distance from egg to goal.

    reward = exp(−0.2 (50 d + φ)), with d, m, and φ, rad, how far the egg is from the goal and turned against it. Cost
    where a watched joint of the giver was commanded out of the middle half of its range. Failed where the egg has
    fallen or a free hand strayed.
    egg [N, 13], goal [N, 4, 4], last [N, 2, A], bases [N, 2, 0 or 7], watched [A].
    rules: the goal's place (3), heights and distances of failure (2), where the bases stood (6).
    """
    for i in range(egg.shape[0]):
        square = sine_square = 0.0
        for k in range(3):
            square += (egg[i, k] - rules[k]) ** 2
            turn = 0.0
            for j in range(4):
                turn += goal[i, k, j] * egg[i, 3 + j]
            sine_square += turn * turn
        distance, angle = math.sqrt(square), 2.0 * math.asin(min(math.sqrt(sine_square), 1.0))
        wide = 0.0
        for j in range(watched.shape[0]):
            if watched[j] > 0.0 and abs(last[i, 0, j]) > 0.5:
                wide = 1.0
        failed = 1.0 if egg[i, 2] <= rules[3] else 0.0
        if bases.shape[2] > 0:
            for hand in range(2):
                strayed = 0.0
                for k in range(3):
                    strayed += (bases[i, hand, k] - rules[5 + 3 * hand + k]) ** 2
                if strayed >= rules[4] ** 2:
                    failed = 1.0
        out[0, i] = math.exp(-_NEARNESS * (_PER_M * distance + angle))
        out[1, i] = wide
        out[2, i] = failed
        out[3, i] = distance


def sense_hands(
    joints: Array,
    velocity: Array,
    driven: Array,
    held: Array,
    sensors: Array,
    bases: Array,
    last: Array,
    egg: Array,
    goal: Array,
    rules: Array,
    out: Array,
) -> None:
    """The observations out [N, O] that `TwoHands` describes.

    joints, velocity and torques by motors and constraints (driven, held): [N, 2, 24]; sensors [N, 2, 95]; the rest as
    for `judge_hands`.
    """
    count, rest = joints.shape[2], out.shape[1] - 24
    for i in range(joints.shape[0]):
        for hand in range(2):
            at = hand * (rest // 2)
            for j in range(count):
                out[i, at + j] = (joints[i, hand, j] - _MIDDLES[j]) / _REACHES[j]
                out[i, at + count + j] = _VELOCITY_SCALE * velocity[i, hand, j]
                out[i, at + 2 * count + j] = _FORCE_SCALE * (driven[i, hand, j] + held[i, hand, j])
            at += 3 * count
            for j in range(13 * _TIPS):
                out[i, at + j] = sensors[i, hand, j]
            for tip in range(at, at + 13 * _TIPS, 13):
                w = out[i, tip + 3]
                for k in range(tip + 3, tip + 6):
                    out[i, k] = out[i, k + 1]
                out[i, tip + 6] = w
            for j in range(13 * _TIPS, _HAND_SENSORS):
                out[i, at + j] = _FORCE_SCALE * sensors[i, hand, j]
            at += _HAND_SENSORS
            if bases.shape[2] > 0:
                w, x, y, z = bases[i, hand, 3], bases[i, hand, 4], bases[i, hand, 5], bases[i, hand, 6]
                for k in range(3):
                    out[i, at + k] = bases[i, hand, k]
                # The turns about x, then y, then z that make up the base's, each in (−π, π].
                out[i, at + 3] = math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
                out[i, at + 4] = math.asin(min(max(2.0 * (w * y - z * x), -1.0), 1.0))
                out[i, at + 5] = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
                at += 6
            for j in range(last.shape[2]):
                out[i, at + j] = last[i, hand, j]
        for k in range(3):
            out[i, rest + k] = egg[i, k]
            out[i, rest + 3 + k] = egg[i, 4 + k]
            out[i, rest + 7 + k] = egg[i, 7 + k]
            out[i, rest + 10 + k] = _VELOCITY_SCALE * egg[i, 10 + k]
            out[i, rest + 13 + k] = rules[k]
            out[i, rest + 16 + k] = goal[i, 3, 1 + k]  # the matrix' last row is the goal's quaternion
        out[i, rest + 6], out[i, rest + 19] = egg[i, 3], goal[i, 3, 0]
        for k in range(4):
            turn = 0.0
            for j in range(4):
                turn += goal[i, k, j] * egg[i, 3 + j]
            out[i, rest + 20 + k] = turn
        for j in range(out.shape[1]):
            out[i, j] = min(max(out[i, j], -_CLIP), _CLIP)


class TwoHands:
    """A hand task in N simulations.

    Observation: of each hand its 24 joints' positions, scaled to [−1, 1], velocities and torques, five fingertips
    (place, quaternion, linear and angular velocity), the force and torque of each on the egg, of a free hand its
    base's place and roll, pitch, yaw, and its last actions; then the egg's pose and velocities, the goal's pose, and
    the turn from the one to the other. Quaternions are (x, y, z, w) there. Everything is cut off at ±5.
    """

    def __init__(self, task: HandTask, model: mujoco.MjModel, batch: Batch) -> None:
        n, bind = batch.nsim, batch.bind
        joints, pushes = len(JOINTS), _PUSHES if task.free else 0
        q, v = (7, 6) if task.free else (0, 0)  # coordinates of a free base, before the joints'
        self._task, self._num_envs, self.motors = task, n, model.nu
        self._own_actions = pushes + len(DRIVES)  # of one hand
        self.actions = 2 * self._own_actions
        self.block = 3 * joints + _HAND_SENSORS + (6 if task.free else 0) + self._own_actions
        self.observation_size = 2 * self.block + 24
        position = bind("qpos")[:, : 2 * (q + joints)].reshape(n, 2, q + joints)
        self._bases, self._joints = position[:, :, :q], position[:, :, q:]
        self._egg_joint = bind("qpos")[:, 2 * (q + joints) :]
        self._velocity, self._driven, self._held = (
            bind(name)[:, : 2 * (v + joints)].reshape(n, 2, v + joints)[:, :, v:]
            for name in ("qvel", "qfrc_actuator", "qfrc_constraint")
        )
        sensors = bind("sensordata")
        self._sensors = sensors[:, : 2 * _HAND_SENSORS].reshape(n, 2, _HAND_SENSORS)
        self._egg = sensors[:, 2 * _HAND_SENSORS :]
        self._ctrl = bind("ctrl").reshape(n, 2, len(DRIVES))
        self._pushed = [bind("xfrc_applied")[:, model.body(f"{hand}/forearm").id] for hand in HANDS]
        self._homes = np.array([task.giver[0], task.taker[0]])
        self._rules = np.array([*task.goal_m, task.lost_below_m, task.stray_m, *self._homes.ravel()])
        watched = [drive.joint in task.restricted for drive in DRIVES]
        self._watched = np.array([*[False] * pushes, *watched], dtype=np.float64)
        self._judge = loop(judge_hands, (2, 3, 3, 3, 1, 1), (2,))
        self._sense = loop(sense_hands, (3, 3, 3, 3, 3, 3, 3, 2, 3, 1), (2,))
        # goal: [k, i] such that Σᵢ [k, i] · egg's quaternion (w, x, y, z)ᵢ is the turn from goal to egg, (x, y, z, w)ₖ.
        self.memory = {"goal": np.zeros((n, 4, 4)), "last": np.zeros((n, 2, self._own_actions))}

    def begin(self, i: int, rng: np.random.Generator) -> None:
        """Put simulation `i`, at the model's own state, to the start of an episode."""
        task, u = self._task, rng.uniform(-1.0, 1.0, 7 + len(JOINTS))
        self._egg_joint[i, :3] = task.egg_m + _PLACE_NOISE_M * u[:3]
        self._egg_joint[i, 3:] = _tumbled(u[3], u[4])
        # The original lets fingers begin up to 0.3 rad bent backwards, from where their limits throw them.
        start = np.clip(_JOINT_SHARE * (_LOW + (_HIGH - _LOW) * u[7:]), _LOW, _HIGH)
        self._joints[i] = start
        self._ctrl[i] = start[_DRIVEN]
        self.memory["goal"][i] = _SIGNS * _tumbled(u[5], u[6])[_PLACES]
        self.memory["last"][i] = 0.0

    def command(self, actions: Array) -> None:
        """Targets of the joints, and the pushes on free hands.  actions [N, A] in [−1, 1]."""
        last = self.memory["last"]
        last[:] = actions.reshape(last.shape)
        np.multiply(last[:, :, -len(DRIVES) :], _REACH, out=self._ctrl)
        self._ctrl += _MIDDLE
        if self._task.free:
            for k, pushed in enumerate(self._pushed):
                np.multiply(last[:, k, :_PUSHES], _PUSH, out=pushed)

    def judge(self) -> Verdict:
        """See `judge_hands`; tells goal_distance, m."""
        reward, cost, failed, distance = out = np.empty((4, self._num_envs))
        self._judge(self._egg, self.memory["goal"], self.memory["last"], self._bases, self._rules, self._watched, out)
        return Verdict(reward, cost, failed > 0.0, {"goal_distance": distance})

    def observe(self) -> Array:
        """The observations [N, O] of the present states; see the class."""
        out = np.empty((self._num_envs, self.observation_size))
        self._sense(
            self._joints,
            self._velocity,
            self._driven,
            self._held,
            self._sensors,
            self._bases,
            self.memory["last"],
            self._egg,
            self.memory["goal"],
            self._rules,
            out,
        )
        return out

    def shapes(self, i: int) -> list[dict[str, Any]]:
        """The hands, their fingertips, the goal and the egg of simulation `i` from above; the egg is the arrow."""
        bases = self._bases[i, :, :2] if self._task.free else self._homes[:, :2]
        tips = self._sensors[i, :, : 13 * _TIPS].reshape(2, _TIPS, 13)[:, :, :2]
        out = []
        for base, points in zip(bases, tips, strict=True):
            along = points.mean(axis=0) - base
            half, rot = float(np.sqrt(along @ along)) / 2, float(np.arctan2(along[1], along[0]))
            out.append(_shape("line", base + along / 2, half, rot, "hand"))
            out += [_shape("disc", point, 0.008, 0.0, "hand") for point in points]
        w, x, y, z = self._egg[i, 3:7]
        axis = float(np.arctan2(2 * (y * z - w * x), 2 * (x * z + w * y)))  # its long axis on the ground
        out.append(_shape("disc", np.array(self._task.goal_m[:2]), _EGG_M[2], 0.0, "goal"))
        out.append(_shape("arrow", self._egg[i, :2], _EGG_M[2], axis, "egg"))
        return out


def _shape(kind: str, xy: Array, radius: float, rot: float, what: str) -> dict[str, Any]:
    return {"kind": kind, "xy": xy.tolist(), "radius": radius, "rot": rot, "colour": [*_COLOUR[what]], "name": what}


def _tumbled(u: float, v: float) -> Array:
    """The quaternion (w, x, y, z) of a turn by π·v about y, then by π·u about x."""
    cu, su, cv, sv = (
        math.cos(math.pi * u / 2),
        math.sin(math.pi * u / 2),
        math.cos(math.pi * v / 2),
        math.sin(math.pi * v / 2),
    )
    return np.array([cu * cv, su * cv, cu * sv, su * sv])
