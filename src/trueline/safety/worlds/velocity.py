"""Safe velocity: six bodies of Gymnasium's MuJoCo locomotion (v4) that are to run, but not faster than a threshold.

Reward, ends, observation and reset noise are Gymnasium's; cost is 1 in a step whose mean speed was above the threshold
(Ji et al. 2023). The bodies are Gymnasium's own MJCF files, read from the installed package. As there, what MuJoCo
derives from a state (places of bodies, inertias, forces) is read as the last physics step left it: of the
evaluation before the new state, not of the new state.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import SimulationError
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.rl.env import SeedSource, Step
from trueline.safety.worlds.checks import (
    BEGIN_S,
    closed,
    read_actions,
    read_rows,
    read_scales,
    read_seeds,
    refuse_another,
    refuse_counts,
    refuse_no_row,
    seeded,
)
from trueline.safety.worlds.compiled import machine_code, read, written
from trueline.safety.worlds.simulations import simulations

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode, Painter
    from trueline.safety.worlds.viewer import RunnerWindow

__all__ = ["RUNNERS", "VELOCITY", "Interval", "Runner", "VelocityTask", "VelocityWorlds", "make_velocity"]

Array = NDArray[np.float64]
Speed = Literal["forward", "either way", "planar"]  # vₓ, |vₓ|, √(vₓ² + v_y²)

_CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)
_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
_DIVERGED_REWARD = -10.0
_FIXED_M = {"fixednear": 2.0, "fixedfar": 5.0}  # cameras that stand so far beside the start, and so high
_SPEEDS: tuple[Speed, ...] = ("forward", "either way", "planar")


# --- bodies and tasks as data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds, both allowed, of the coordinates first ≤ i < last of the motion: all positions, then all velocities."""

    first: int
    last: int | None
    low: float
    high: float


def _between(first: int, last: int | None, low: float, high: float) -> Interval:
    """Bounds that are not allowed themselves."""
    return Interval(first, last, math.nextafter(low, math.inf), math.nextafter(high, -math.inf))


@dataclass(frozen=True, slots=True)
class Runner:
    """A body, and Gymnasium's v4 task of running forwards with it.

    reward = forward_weight · vₓ + healthy_reward − control_weight · Σu², with u in the actuators' own range.
    """

    name: str
    substeps: int  # physics steps in a control step
    control_weight: float
    forward_weight: float = 1.0
    healthy_reward: float = 0.0
    healthy: tuple[Interval, ...] = ()  # the task ends when a coordinate leaves its interval
    noise: float = 0.1  # half-width of the uniform noise on every coordinate at the start
    normal_velocities: bool = False  # velocities start with normal noise, `noise` its σ, instead
    planar: bool = False  # it moves along y too: the first two positions are not observed, instead of the first
    velocity_clip: float = math.inf  # bound of observed velocities
    free: bool = False  # its root is a free joint: the positions 3 to 6 are a quaternion
    place: Literal["joints", "torso", "mass centre"] = "joints"  # what its speed is the speed of
    inside: bool = False  # it also observes its parts' inertias and velocities, its motors' forces and those on it

    @property
    def hidden(self) -> int:
        """How many leading positions are not observed: where along the way it is must not matter."""
        return 2 if self.planar else 1


RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        Runner("HalfCheetah", substeps=5, control_weight=0.1, normal_velocities=True),
        Runner(
            "Hopper",
            substeps=4,
            control_weight=1e-3,
            healthy_reward=1.0,
            # height, tilt, and every other coordinate but the way made
            healthy=(_between(2, None, -100.0, 100.0), _between(1, 2, 0.7, math.inf), _between(2, 3, -0.2, 0.2)),
            noise=5e-3,
            velocity_clip=10.0,
        ),
        Runner("Swimmer", substeps=4, control_weight=1e-4, planar=True),
        Runner(
            "Walker2d",
            substeps=4,
            control_weight=1e-3,
            healthy_reward=1.0,
            healthy=(_between(1, 2, 0.8, 2.0), _between(2, 3, -1.0, 1.0)),
            noise=5e-3,
            velocity_clip=10.0,
        ),
        Runner(
            "Ant",
            substeps=5,
            control_weight=0.5,
            healthy_reward=1.0,
            healthy=(Interval(2, 3, 0.2, 1.0),),
            normal_velocities=True,
            planar=True,
            free=True,
            place="torso",
        ),
        Runner(
            "Humanoid",
            substeps=5,
            control_weight=0.1,
            forward_weight=1.25,
            healthy_reward=5.0,
            healthy=(_between(2, 3, 1.0, 2.0),),
            noise=1e-2,
            planar=True,
            free=True,
            place="mass centre",
            inside=True,
        ),
    )
}

_FILES = {
    "HalfCheetah": "half_cheetah.xml",
    "Hopper": "hopper.xml",
    "Swimmer": "swimmer.xml",
    "Walker2d": "walker2d.xml",
    "Ant": "ant.xml",
    "Humanoid": "humanoid.xml",
}


@dataclass(frozen=True, slots=True)
class VelocityTask:
    """A runner and the speed that it must not exceed."""

    runner: Runner
    speed: Speed
    threshold_m_per_s: float
    steps: int = 1000


def _versions(name: str, v0: tuple[Speed, float], v1: tuple[Speed, float]) -> dict[str, VelocityTask]:
    return {
        f"Safety{name}Velocity-v{version}": VelocityTask(RUNNERS[name], speed, threshold)
        for version, (speed, threshold) in enumerate((v0, v1))
    }


VELOCITY: dict[str, VelocityTask] = {
    **_versions("HalfCheetah", ("forward", 2.8795), ("forward", 3.2096)),
    **_versions("Hopper", ("forward", 0.37315), ("forward", 0.7402)),
    **_versions("Swimmer", ("planar", 0.04845), ("forward", 0.2282)),
    **_versions("Walker2d", ("forward", 1.7075), ("forward", 2.3415)),
    **_versions("Ant", ("planar", 2.5745), ("planar", 2.6222)),
    **_versions("Humanoid", ("planar", 2.3475), ("planar", 1.4149)),
}


def _described(name: str) -> mujoco.MjSpec:
    """The runner called `name`, from Gymnasium's MJCF file, with two cameras beside its start."""
    assets = importlib.resources.files("gymnasium") / "envs" / "mujoco" / "assets"
    with importlib.resources.as_file(assets / _FILES[name]) as path:
        spec = mujoco.MjSpec.from_file(str(path))
    for geom in spec.geoms:
        # In each file all geoms, and the floor, have one margin. Two in contact now add theirs; in MuJoCo 2.3.3, which
        # these worlds were made for, the larger counted.
        geom.margin /= 2
    down_45 = [math.cos(math.pi / 8), math.sin(math.pi / 8), 0.0, 0.0]
    for camera, distance in _FIXED_M.items():
        spec.worldbody.add_camera(name=camera, pos=[0.0, -distance, distance], quat=down_45)
    return spec


@functools.cache
def compiled(name: str) -> mujoco.MjModel:
    """The model of the runner called `name`, compiled once per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settotalmass of the HalfCheetah's file is to leave the format some day
        return _described(name).compile()


# --- the arithmetic of a step -----------------------------------------------------------------------------------------
#
# The physics of one light body takes 30 µs, and twenty array operations would take nearly as long. So the rest of a
# step is three loops that Numba compiles; they are plain functions too, and the tests run them as such.


class Rules(NamedTuple):
    """The numbers of a task that `judge` needs."""

    interval_s: float  # of a control step
    lasting_s: float  # the clock moves by at least this much, unless the simulation diverged
    forward_weight: float
    healthy_reward: float
    control_weight: float
    threshold_m_per_s: float
    speed: int  # index in _SPEEDS
    steps: int


def drive(reach: Array, ctrl: Array, actions: Array) -> int:
    """ctrl ← reach · clip(actions, −1, 1).  reach [A]; ctrl, actions [N, A].

    Returns the first environment with an action that is not a number, in which case nothing is written; or −1.
    """
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            if actions[i, j] != actions[i, j]:
                return i
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            ctrl[i, j] = reach[j] * min(max(actions[i, j], -1.0), 1.0)
    return -1


def centre(mass: Array, parts: Array, place: Array) -> None:
    """place ← Σ mass · parts / Σ mass, in the plane of the ground.  mass [B], parts [N, B, 3], place [N, 2]."""
    for i in range(parts.shape[0]):
        for k in range(2):
            weighed = 0.0
            for b in range(parts.shape[1]):
                weighed += mass[b] * parts[i, b, k]
            place[i, k] = weighed / mass.sum()


def judge(
    interval_s: float,
    lasting_s: float,
    forward_weight: float,
    healthy_reward: float,
    control_weight: float,
    threshold_m_per_s: float,
    speed_rule: int,
    steps: int,
    motion: Array,
    low: Array,
    high: Array,
    ctrl: Array,
    place: Array,
    place_before: Array,
    time: Array,
    time_before: Array,
    elapsed: NDArray[np.int64],
    told: Array,
    flags: NDArray[np.bool_],
) -> bool:
    """What a control step came to, under `Rules`; returns whether an episode ended.

    motion [N, M] must keep between low and high [M]; ctrl [N, A], place [N, P], time [N] are those of the new state.
    Writes told [3 + 2P, N] = reward, cost, −control cost, velocity (P), place (P), and flags [3, N] = terminated,
    truncated, diverged; moves place_before, time_before and elapsed on.
    """
    axes, some = place.shape[1], False
    for i in range(motion.shape[0]):
        for k in range(axes):
            told[3 + k, i] = (place[i, k] - place_before[i, k]) / interval_s
            told[3 + axes + k, i] = place_before[i, k] = place[i, k]
        effort = 0.0
        for j in range(ctrl.shape[1]):
            effort += ctrl[i, j] * ctrl[i, j]
        effort *= control_weight
        speed = told[3, i]
        if speed_rule == 1:
            speed = abs(speed)
        elif speed_rule == 2:
            speed = math.sqrt(told[3, i] ** 2 + told[4, i] ** 2)
        healthy = True
        for j in range(motion.shape[1]):
            healthy = healthy and low[j] <= motion[i, j] <= high[j]
        elapsed[i] += 1
        # MuJoCo puts a simulation whose state has become absurd back to its start, which its clock gives away; one in
        # which it raised an error stands still.
        diverged = time[i] < time_before[i] + lasting_s
        time_before[i] = time[i]
        told[0, i] = forward_weight * told[3, i] + healthy_reward - effort
        told[1, i] = 1.0 if speed > threshold_m_per_s else 0.0
        told[2, i] = -effort
        flags[0, i] = not healthy
        flags[1, i] = elapsed[i] >= steps
        flags[2, i] = diverged
        if diverged:
            told[0, i], told[1, i] = _DIVERGED_REWARD, 1.0
            flags[0, i], flags[1, i] = False, True
        some = some or flags[0, i] or flags[1, i]
    return some


@functools.cache
def _fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of the three, compiled."""
    from numba import boolean, float64, int64, void

    state = [read(2), read(1), read(1), read(2)]
    past = [read(2), written(2), read(1), written(1), written(1, int64)]
    signature = {
        drive: int64(read(1), written(2), read(2)),
        centre: void(read(1), read(3), written(2)),
        judge: boolean(*[float64] * 6, int64, int64, *state, *past, written(2), written(2, boolean)),
    }[function]
    return machine_code(function, signature)


class _Told(Mapping[str, NDArray[Any]]):
    """What `judge` wrote beside reward and cost, by name, [N] each; cut into rows only when it is asked for."""

    __slots__ = ("_diverged", "_rows", "_told")

    def __init__(self, rows: Mapping[str, int], told: Array, diverged: NDArray[np.bool_]) -> None:
        self._rows, self._told, self._diverged = rows, told, diverged

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._diverged if name == "diverged" else self._told[self._rows[name]]

    def __iter__(self) -> Iterator[str]:
        yield from self._rows
        yield "diverged"

    def __len__(self) -> int:
        return len(self._rows) + 1


# --- the worlds -------------------------------------------------------------------------------------------------------


class VelocityWorlds:
    """N copies of one velocity world; see `trueline.rl.env` for the contract.

    It is a VectorEnv that is also Stateful, Perturbable and Visible. Actions in [-1, 1] are rescaled to the actuators'
    range, which is ±1 but for the Humanoid's ±0.4. Observations are float64: positions without those along the way,
    velocities, and for the Humanoid of every part its inertia (10) and velocity (6), of every joint coordinate its
    motor's force, and of every part the force on it from outside (6).

    With `autoreset` set to False an episode that ended stays as it is until `begin` starts the next one there.
    """

    perturbations = ("mass", "friction", "gear")
    render_modes = ("human", "rgb", "depth", "segmentation")

    def __init__(
        self,
        id: str,
        task: VelocityTask,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
    ) -> None:
        refuse_counts(id, num_envs, threads)
        if costs not in ("sum", "split"):
            raise ConfigError(f"costs is {costs!r} for {id}. Give 'sum', or 'split' to have it called cost_velocity.")
        self.id, self.task, self.num_envs = id, task, num_envs
        self.costs = ("cost_velocity",) if costs == "split" else ("cost_sum",)
        self.max_episode_steps = task.steps
        self.interval_s = task.runner.substeps * float(compiled(task.runner.name).opt.timestep)  # of a step
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.autoreset = True
        self._streams = [np.random.Generator(np.random.PCG64(0)) for _ in range(num_envs)]  # of the starts
        self._seeds = seeded(id, seed)
        self.seed_source: SeedSource = self._own_seeds
        self._runner, self._substeps = task.runner, task.runner.substeps
        self._begun = False
        self._scales: dict[str, Array] = {}
        self._painters: dict[tuple[int, int], Painter] = {}
        self._open_batch(threads)
        self._prepare_judging()
        size = self._joints.shape[1] + sum(part.shape[1] for part in self._parts)
        self._last = np.zeros((num_envs, size))  # the observations returned last
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float64)
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self.native_action_space = gym.spaces.Box(low, high, dtype=np.float32)  # what [-1, 1] stands for

    # --- construction ----------------------------------------------------------------------------------------------

    def _open_batch(self, threads: int) -> None:
        runner, n = self._runner, self.num_envs
        model = self.model = compiled(runner.name)
        # Forces from outside are computed afterwards, from the data of each simulation.
        self._batch = simulations(model, n, threads, persistent=runner.inside)
        bind = self._batch.bind
        self._batch.reset(stage=_UNTOUCHED)
        self._start = self._batch.state[0].copy()
        self._start[0] = BEGIN_S  # the time comes first
        self._qpos, self._ctrl, self._time = bind("qpos"), bind("ctrl"), bind("time")
        self._motion = self._batch.state[:, 1 : 1 + model.nq + model.nv]  # what follows the time
        self._joints = self._motion[:, runner.hidden :]
        self._most = np.full(self._joints.shape[1], np.inf)  # bounds of what is observed of them
        self._most[-model.nv :] = runner.velocity_clip
        self._least = -self._most
        if runner.place == "joints":
            self._place = self._qpos[:, : runner.hidden]
        elif runner.place == "torso":
            self._place = bind("xpos")[:, model.body("torso").id, :2]
        else:
            self._place, self._parts_at, self._mass = np.zeros((n, 2)), bind("xipos"), model.body_mass
        self._parts: list[Array] = []
        if runner.inside:
            self._parts = [bind(name).reshape(n, -1) for name in ("cinert", "cvel", "qfrc_actuator")]
            self._forces, self._scratch = np.zeros((n, model.nbody, 6)), mujoco.MjData(model)
            self._parts.append(self._forces.reshape(n, -1))
        self._shown = self._parts  # what is observed of the parts: MuJoCo's arrays, or what a checkpoint held

    def _prepare_judging(self) -> None:
        runner, model, task, n = self._runner, self.model, self.task, self.num_envs
        rules = Rules(
            interval_s=model.opt.timestep * runner.substeps,
            lasting_s=model.opt.timestep * (runner.substeps - 0.5),
            forward_weight=runner.forward_weight,
            healthy_reward=runner.healthy_reward,
            control_weight=runner.control_weight,
            threshold_m_per_s=task.threshold_m_per_s,
            speed=_SPEEDS.index(task.speed),
            steps=task.steps,
        )
        low, high = np.full(model.nq + model.nv, -np.inf), np.full(model.nq + model.nv, np.inf)
        for interval in runner.healthy:
            low[interval.first : interval.last] = interval.low
            high[interval.first : interval.last] = interval.high
        self._before, self._clock = np.zeros_like(self._place), np.zeros(n)
        self._elapsed = np.zeros(n, np.int64)  # control steps of the running episodes
        past = (self._place, self._before, self._time, self._clock, self._elapsed)
        self._reach = np.ascontiguousarray(model.actuator_ctrlrange[:, 1])
        self._judged = (*rules, self._motion, low, high, self._ctrl, *past)
        axes = ("x", "y")[: runner.hidden]
        names = ["cost_velocity", "reward_ctrl", *(f"{a}_velocity" for a in axes), *(f"{a}_position" for a in axes)]
        self._rows = {name: row for row, name in enumerate(names, start=1)}
        self._told_shape = (1 + len(names), n)
        self._drive, self._judge, self._centre = _fast(drive), _fast(judge), _fast(centre)

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Array:
        """Start a new episode everywhere; seeds [N] or None -> observations [N, O]."""
        everyone = np.arange(self.num_envs)
        return self.begin(everyone, self.seed_source(self.num_envs) if seeds is None else seeds)

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> Array:
        """Start new episodes in `rows` alone -> the observations [N, O] of all.

        seeds: [len(rows)], or None to draw on from where each row's random stream stands, as Gymnasium's reset does.
        """
        ids = read_rows(self.id, rows, self.num_envs)
        if not self._begun and len(ids) < self.num_envs:
            raise ConfigError(f"{self.id} was begun in some rows before its first reset. Call reset() once.")
        given = None if seeds is None else read_seeds(self.id, seeds, len(ids))
        if len(ids):
            self._begin(ids, given)
        self._begun = True
        obs = self._observe()
        np.copyto(self._last, obs)  # a copy: what is handed out may be written into
        return obs

    def _begin(self, ids: NDArray[np.intp], seeds: NDArray[Any] | None) -> None:
        """Start the episodes of `seeds` in environments `ids`: the model's own pose, with Gymnasium's noise."""
        if seeds is not None:
            if seeds.shape != ids.shape:
                raise ConfigError(f"seeds of shape {seeds.shape} were given for {len(ids)} episodes. Give one each.")
            for i, seed in zip(ids.tolist(), seeds.tolist(), strict=True):
                self._streams[i] = np.random.Generator(np.random.PCG64(seed))
            self.episode_seed[ids] = seeds
        runner, model = self._runner, self.model
        noise = runner.noise
        self._batch.state[ids] = self._start
        for i in ids.tolist():
            rng, motion = self._streams[i], self._motion[i]
            if runner.normal_velocities:
                motion[: model.nq] += rng.uniform(-noise, noise, model.nq)
                motion[model.nq :] = noise * rng.standard_normal(model.nv)
            else:
                motion += rng.uniform(-noise, noise, len(motion))
            if runner.free:
                mujoco.mju_normalize4(motion[3:7])  # as MuJoCo 2.3.3 did by itself
        self._batch.forward(ids, stage=_CURRENT)
        self._elapsed[ids] = 0
        self._clock[ids] = BEGIN_S
        self._locate()
        self._before[ids] = self._place[ids]
        if runner.inside:
            self._forces[ids] = 0.0  # Gymnasium computes them after a step only
            self._shown = self._parts

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval.  actions [N, A], clipped to [-1, 1].

        `info` holds, each [N]: cost_velocity, reward_ctrl (minus the control cost), x_velocity and x_position (of y
        too where it moves there), and diverged. An episode whose simulation diverged is truncated with reward −10 and
        cost 1, and its last observation is that of the step before. Raises ConfigError for actions of another shape or
        that are not numbers.
        """
        bad = self._drive(self._reach, self._ctrl, self._checked(actions))
        if bad >= 0:
            raise ConfigError(f"{self.id} was given an action that is NaN, in environment {bad}. Check the policy.")
        return self._go_on()

    def step_native(self, actions: NDArray[Any]) -> Step:
        """As `step`, with actions [N, A] in the actuators' own range.

        As in Gymnasium the control cost is that of the actions given; only the actuators clip them.
        """
        actions = self._checked(actions)
        bad = np.flatnonzero(np.isnan(actions).any(axis=1))
        if len(bad):
            raise ConfigError(f"{self.id} was given an action that is NaN, in environment {bad[0]}. Check the policy.")
        self._ctrl[:] = actions
        return self._go_on()

    def _checked(self, actions: NDArray[Any]) -> Array:
        if not self._begun:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        return read_actions(self.id, actions, self._ctrl.shape)

    def _go_on(self) -> Step:
        """The control interval with the controls that are set."""
        try:  # noqa: SIM105  (a context manager would take a fiftieth of the step's time)
            self._batch.step(nstep=self._substeps)
        except SimulationError:
            pass  # these simulations stand still, by which `judge` knows them
        self._locate()
        if self._parts:
            self._feel()
        told, flags = np.empty(self._told_shape), np.empty((3, self.num_envs), np.bool_)
        ended = self._judge(*self._judged, told, flags)
        obs = final_obs = self._observe()
        if ended:
            lost = flags[2]
            # What a simulation was put back to says nothing about where it was: the last that was seen of it does.
            final_obs[lost] = self._last[lost]
            if self.autoreset:
                ids = np.flatnonzero(flags[0] | flags[1])
                self._begin(ids, self.seed_source(len(ids)))
                obs = self._observe()
        np.copyto(self._last, obs)
        return Step(obs, told[0], told[1][:, None], flags[0], flags[1], final_obs, _Told(self._rows, told, flags[2]))

    def _locate(self) -> None:
        if self._runner.place == "mass centre":
            # Perturbing scales all masses alike, which moves no centre.
            self._centre(self._mass, self._parts_at, self._place)

    def _feel(self) -> None:
        """Forces on each part from outside; MuJoCo leaves them out, and has no call that adds them for a batch."""
        batch, data, model = self._batch, self._scratch, self.model
        for i in range(self.num_envs):
            batch.get_data(i, data)
            mujoco.mj_rnePostConstraint(model, data)
            self._forces[i] = data.cfrc_ext
        self._shown = self._parts

    def _observe(self) -> Array:
        """Observations [N, O] of the present states."""
        if self._shown:
            return np.concatenate([self._joints, *self._shown], axis=1)
        if self._runner.velocity_clip == math.inf:
            return self._joints.copy()
        obs = np.minimum(self._joints, self._most)
        return np.maximum(obs, self._least, out=obs)

    @property
    def _swims(self) -> bool:
        return bool(self.model.opt.density > 0)

    # --- Perturbable -----------------------------------------------------------------------------------------------

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics by positive numbers or arrays [N]; a name left out keeps its scale, 1 restores.

        mass: masses and inertias of all parts. friction: of all surfaces; for the Swimmer, which touches none, density
        and viscosity of the water. gear: of all actuators.
        """
        for name, factors in read_scales(scale, self.perturbations, self.num_envs).items():
            self._scales[name] = factors
            self._apply(name, factors)
        if scale:
            self._batch.set_const()

    def _apply(self, name: str, scale: Array) -> None:
        model, expand = self.model, self._batch.expand
        if name == "mass":
            expand("body_mass")[:] = model.body_mass * scale[:, None]
            expand("body_inertia")[:] = model.body_inertia * scale[:, None, None]
        elif name == "gear":
            expand("actuator_gear")[:] = model.actuator_gear * scale[:, None, None]
        elif self._swims:
            expand("opt.density")[:] = model.opt.density * scale
            expand("opt.viscosity")[:] = model.opt.viscosity * scale
        else:
            expand("geom_friction")[:] = model.geom_friction * scale[:, None, None]

    # --- Stateful --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observation shows."""
        return {
            "world": self.id,
            "begun": self._begun,
            "physics": self._batch.state.copy(),
            "parts": np.concatenate(self._shown, axis=1) if self._shown else np.zeros((self.num_envs, 0)),
            "place": self._before.copy(),
            "elapsed": self._elapsed.copy(),
            "episode_seed": self.episode_seed.copy(),
            "streams": [] if self.autoreset else [stream.bit_generator.state for stream in self._streams],
            "scales": {name: scale.copy() for name, scale in self._scales.items()},
            "seeds": self._seeds.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Take up a state of the same world and N -> the observations [N, O] that belong to it.

        Raises ConfigError when the state is another world's or of another number of environments.
        """
        refuse_another(state, self.state_dict(), self.num_envs)
        self.perturb(**{**dict.fromkeys(self._scales, 1.0), **state["scales"]})
        self._batch.state[:] = state["physics"]
        self._shown = [np.array(state["parts"])] if self._parts else []
        self._before[:] = state["place"]
        self._clock[:] = self._time
        self._elapsed[:] = state["elapsed"]
        self.episode_seed[:] = state["episode_seed"]
        self._begun = state["begun"]
        for stream, place in zip(self._streams, state["streams"], strict=False):
            stream.bit_generator.state = place
        self._seeds.bit_generator.state = state["seeds"]
        obs = self._observe()
        np.copyto(self._last, obs)
        return obs

    # --- Visible ---------------------------------------------------------------------------------------------------

    @property
    def planes_m(self) -> tuple[float, float]:
        """Nothing nearer or farther from a camera than this is drawn, metres."""
        extent_m, clip = self.model.stat.extent, self.model.vis.map
        return float(clip.znear * extent_m), float(clip.zfar * extent_m)

    window: RunnerWindow | None = None  # what `render` opened for mode="human"

    def render(
        self,
        i: int = 0,
        width: int = 256,
        height: int = 256,
        camera: str = "track",
        mode: Mode | Literal["human"] = "rgb",
    ) -> Any:
        """Picture of environment `i` from the camera track, fixednear or fixedfar; see `Painter.draw` for its form.

        mode="human" gives None and shows a window, one for these worlds, whose size and view are the user's. Raises
        NoGraphics (a MissingExtra) when there is no OpenGL, or no display, ConfigError for an unknown camera or mode.
        """
        from trueline.safety.worlds.render import Painter

        refuse_no_row(self.id, i, self.num_envs)
        qpos = self._batch.bind("qpos")[i]
        if mode == "human":
            from trueline.safety.worlds.viewer import RunnerWindow

            self.window = self.window or RunnerWindow(self.model)
            self.window.show(qpos)
            return None
        if (width, height) not in self._painters:
            self._painters[width, height] = Painter(self.model, width, height)
        painter = self._painters[width, height]
        painter.data.qpos[:] = qpos
        mujoco.mj_forward(painter.model, painter.data)
        return painter.draw(camera, mode)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from the side, the Swimmer from above: {"extent": m, "shapes": […]}.

        Coordinates go along with the body: 0 is where it is, and marks stand at every whole metre of its way. A mark is
        a square, a solid of the body a row of discs, and the body as such an arrow.
        """
        refuse_no_row(self.id, i, self.num_envs)
        data = mujoco.MjData(self.model)
        data.qpos[:] = self._batch.bind("qpos")[i]
        mujoco.mj_kinematics(self.model, data)
        return {"extent": _EXTENT_M, "shapes": _shapes(self.model, data, (0, 1) if self._swims else (0, 2))}

    def close(self) -> None:
        """Free the simulations and what drew them."""
        if self.window is not None:
            self.window.close()
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        self._batch = closed(self.id)


def make_velocity(
    id: str, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0
) -> VelocityWorlds:
    """`num_envs` copies of the world called `id`, such as SafetyHopperVelocity-v1, stepped on `threads` threads.

    costs="sum" calls its one cost cost_sum, "split" cost_velocity. `seed` starts the default `seed_source`. Raises
    UnknownName for an unknown id, ConfigError for a setting.
    """
    if id not in VELOCITY:
        raise UnknownName(unknown("env", id, VELOCITY))
    return VelocityWorlds(id, VELOCITY[id], num_envs, threads, costs, seed)


# --- pictures ---------------------------------------------------------------------------------------------------------

_EXTENT_M = 2.0
_EYE_LEVEL_M = 1.0  # height that a side view has in its middle
_MARK_M = 0.03
_MARK_COLOUR = [0.5, 0.5, 0.5, 1.0]


def _shapes(model: mujoco.MjModel, data: mujoco.MjData, seen: tuple[int, int]) -> list[dict[str, Any]]:
    """A body's solids and the marks on its way as shapes in the plane of the axes `seen`, the body as an arrow last."""
    first, second = seen
    above = second == 1
    root, turned = data.xpos[1], data.xmat[1].reshape(3, 3)
    origin = np.array([root[0], root[1] if above else _EYE_LEVEL_M])

    def shape(kind: str, xy: Array, radius: float, colour: list[float], rot: float = 0.0) -> dict[str, Any]:
        return {"kind": kind, "xy": (xy - origin).tolist(), "radius": float(radius), "rot": rot, "colour": colour}

    def whole(middle: float) -> range:
        return range(math.ceil(middle - _EXTENT_M), math.floor(middle + _EXTENT_M) + 1)

    rows = whole(root[1]) if above else (0,)
    marks = [np.array([x, y], float) for x in whole(root[0]) for y in rows]
    shapes = [shape("square", mark, _MARK_M, _MARK_COLOUR) for mark in marks]
    for geom in np.flatnonzero(model.geom_bodyid > 0).tolist():
        radius, half = model.geom_size[geom, :2] * (1.0, model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE)
        axis = data.geom_xmat[geom].reshape(3, 3)[:, 2]
        for along in np.linspace(-half, half, 1 + 2 * math.ceil(half / radius)):
            at = data.geom_xpos[geom] + along * axis
            shapes.append(shape("disc", at[[first, second]], radius, model.geom_rgba[geom].tolist()))
    heading = math.atan2(turned[second, 0], turned[first, 0])
    return [*shapes, shape("arrow", root[[first, second]], 0.15, [0.74, 0.04, 0.18, 1.0], heading)]
