"""Safe velocity: six bodies of Gymnasium's MuJoCo locomotion (v4) that are to run, but not faster than a threshold.

Reward, ends, observation and reset noise are Gymnasium's; cost is 1 in a step whose mean speed was above the threshold
(Ji et al. 2023). The bodies are Gymnasium's own MJCF files, read from the installed package. As there, what MuJoCo
derives from a state (places of bodies, inertias, forces) is read as the last physics step left it: of the
evaluation before the new state, not of the new state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

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
from trueline.safety.worlds.simulations import simulations
from trueline.safety.worlds.velocity_picture import scene
from trueline.safety.worlds.velocity_runners import SPEEDS, VELOCITY, VelocityTask, compiled
from trueline.safety.worlds.velocity_step import Rules, centre, drive, fast, judge

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode, Painter
    from trueline.safety.worlds.viewer import RunnerWindow

__all__ = ["VelocityWorlds", "make_velocity"]

Array = NDArray[np.float64]

_CURRENT = int(mujoco.mjtStage.mjSTAGE_ACC)
_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)


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
            speed=SPEEDS.index(task.speed),
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
        self._drive, self._judge, self._centre = fast(drive), fast(judge), fast(centre)

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
        """Environment `i` from the side, the Swimmer from above; see `velocity_picture.scene` for its form."""
        refuse_no_row(self.id, i, self.num_envs)
        return scene(self.model, self._batch.bind("qpos")[i], above=self._swims)

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
