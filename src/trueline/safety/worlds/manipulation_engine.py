"""N manipulation worlds at once on MuJoCo's batch of simulations.

A control step: commands, physics with the sensors brought up to the new state, reward, cost, ends and
observations as arrays [N, …]. What differs from one task to the next is a `Task`, data that can be printed, and the
`Rig` that it makes of N simulations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.env import SeedSource, Step
from trueline.safety.worlds.checks import (
    BEGIN_S,
    closed,
    read_actions,
    read_scales,
    read_seeds,
    refuse_another,
    refuse_counts,
    refuse_no_row,
    seeded,
)
from trueline.safety.worlds.compiled import loop
from trueline.safety.worlds.manipulation_mechanism import Link, Vector
from trueline.safety.worlds.simulations import simulations

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode

__all__ = ["ManipulationWorlds", "Rig", "Task", "Verdict", "compiled"]

Array = NDArray[np.float64]

_UNTOUCHED = int(mujoco.mjtStage.mjSTAGE_NONE)
_DIVERGED_REWARD = -10.0


class Verdict(NamedTuple):
    """What a control step came to, [N] each."""

    reward: Array
    cost: Array  # indicator of the one constraint, of the state just reached or the command that led to it
    failed: NDArray[np.bool_]  # the task cannot go on
    told: dict[str, NDArray[Any]]  # what `info` is to hold besides


class Rig(Protocol):
    """One task in N simulations: it writes their commands and reads off what they come to."""

    actions: int  # A
    observation_size: int  # O
    motors: int  # of the model's actuators so many, the first, are the robot's
    memory: dict[str, Array]  # [N, …] what decides the rest of an episode and is not in the physics' state

    def begin(self, i: int, rng: np.random.Generator) -> None:
        """Put simulation `i`, which is at the model's own state, to the start of an episode."""
        ...

    def command(self, actions: Array) -> None:
        """Write the commands of the coming control step.  actions [N, A] in [−1, 1]."""
        ...

    def judge(self) -> Verdict:
        """What to make of the state just reached."""
        ...

    def observe(self) -> Array:
        """[N, O] of the present states; a new array."""
        ...

    def shapes(self, i: int) -> list[dict[str, Any]]:
        """Simulation `i` from above, as `Visible.scene` wants it."""
        ...


class Task(Protocol):
    """What a manipulation world is, as a frozen value."""

    stage: ClassVar[int]  # up to where a state is evaluated once it is reached
    extent_m: ClassVar[float]  # half the side of what is worth seeing from above, about the origin
    middle_m: ClassVar[Vector]  # of pictures
    picture_m: ClassVar[float]  # half the height of what they show

    @property
    def constraint(self) -> str:
        """Name of the one cost."""
        ...

    @property
    def steps(self) -> int:
        """Length of an episode."""
        ...

    @property
    def substeps(self) -> int:
        """Physics steps in a control step."""
        ...

    def __hash__(self) -> int: ...

    def describe(self) -> mujoco.MjSpec:
        """The physics as an editable MuJoCo specification."""
        ...

    def marks(self) -> tuple[Link, ...]:
        """What is to be seen in pictures but touches nothing."""
        ...

    def compile(self) -> mujoco.MjModel:
        """The model of it."""
        ...

    def attach(self, model: mujoco.MjModel, batch: Batch) -> Rig:
        """This task in every simulation of a batch of `model`."""
        ...


@functools.cache
def compiled(task: Task) -> mujoco.MjModel:
    """The model of a task, compiled once per process."""
    return task.compile()


def admit(actions: Array, clipped: Array, bad: Array) -> None:
    """clipped ← actions [N, A] within [−1, 1]; bad [1] ← an environment with an action that is not a number, or −1."""
    bad[0] = -1.0
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            if actions[i, j] != actions[i, j]:
                bad[0] = i
            clipped[i, j] = min(max(actions[i, j], -1.0), 1.0)


class ManipulationWorlds:
    """N copies of one manipulation world; see `trueline.rl.env` for the contract.

    It is a VectorEnv that is also Stateful, Perturbable and Visible. `rig` is its task in the N simulations.
    """

    perturbations = ("mass", "friction", "gear")
    render_modes = ("rgb", "depth", "segmentation")

    def __init__(
        self,
        id: str,
        task: Task,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
    ) -> None:
        refuse_counts(id, num_envs, threads)
        if costs not in ("sum", "split"):
            raise ConfigError(f"costs is {costs!r} for {id}. Give 'sum' or 'split'; its one cost is {task.constraint}.")
        self.id, self.task, self.num_envs = id, task, num_envs
        self.costs = (task.constraint,) if costs == "split" else ("cost_sum",)
        self.max_episode_steps = task.steps
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self._seeds = seeded(id, seed)
        self.seed_source: SeedSource = self._own_seeds
        self._elapsed = np.zeros(num_envs, np.int64)  # control steps of the running episodes
        self._begun = False
        self._scales: dict[str, Array] = {}
        self._painters: dict[tuple[int, int], Any] = {}
        model = self._model = compiled(task)
        # Persistent: the next control step goes on from what was computed of this one's end, with the same bits.
        self._batch = simulations(model, num_envs, threads, persistent=True)
        self._time, self._qpos = self._batch.bind("time"), self._batch.bind("qpos")
        self.interval_s = task.substeps * float(model.opt.timestep)  # of a step
        self._lasting_s = (task.substeps - 0.5) * model.opt.timestep
        rig = self.rig = task.attach(model, self._batch)
        self._last = np.zeros((num_envs, rig.observation_size))  # the observations returned last
        self._admit, self._bad = loop(admit, (2,), (2, 1)), np.zeros(1)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (rig.observation_size,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (rig.actions,), np.float64)

    def _own_seeds(self, n: int) -> NDArray[np.uint32]:
        return self._seeds.integers(0, 2**32, n, dtype=np.uint32)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Array:
        """Start a new episode everywhere; seeds [N] or None -> observations [N, O]."""
        everyone = np.arange(self.num_envs)
        self._begin(everyone, self.seed_source(self.num_envs) if seeds is None else seeds)
        obs = self.rig.observe()
        np.copyto(self._last, obs)  # a copy: what is handed out may be written into
        return obs

    def _begin(self, ids: NDArray[np.intp], given: NDArray[Any]) -> None:
        seeds = read_seeds(self.id, given, len(ids))
        self._batch.reset(ids, stage=_UNTOUCHED)
        self._time[ids] = BEGIN_S
        for i, seed in zip(ids.tolist(), seeds.tolist(), strict=True):
            self.rig.begin(i, np.random.Generator(np.random.PCG64(seed)))
        self._batch.forward(ids, stage=self.task.stage)
        self.episode_seed[ids] = seeds
        self._elapsed[ids] = 0
        self._begun = True

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(self, actions: NDArray[Any]) -> Step:
        """One control interval.  actions [N, A], clipped to [-1, 1].

        `info` holds the cost by name, what the task tells (`Verdict.told`) and diverged, each [N]. An episode whose
        simulation diverged is truncated with reward −10 and cost 1, and its last observation is that of the step
        before.
        """
        if not self._begun:
            raise ConfigError(f"{self.id} was stepped before its first reset. Call reset() once.")
        clipped = np.empty((self.num_envs, self.rig.actions))
        self._admit(read_actions(self.id, actions, clipped.shape), clipped, self._bad)
        if self._bad[0] >= 0.0:
            raise ConfigError(
                f"{self.id} was given an action that is not a number, in environment {self._bad[0]:.0f}. "
                "Check the policy."
            )
        rig, task = self.rig, self.task
        rig.command(clipped)
        diverged = self._advance()
        reward, cost, terminated, told = rig.judge()
        self._elapsed += 1
        truncated = self._elapsed >= task.steps
        if diverged.any():
            reward[diverged], cost[diverged] = _DIVERGED_REWARD, 1.0
            terminated &= ~diverged
            truncated |= diverged
        info = {task.constraint: cost, **told, "diverged": diverged}
        obs = final_obs = rig.observe()
        if diverged.any():
            # What a simulation was put back to says nothing about where it was: the last that was seen of it does.
            final_obs[diverged] = self._last[diverged]
        ended = terminated | truncated
        if ended.any():
            ids = np.flatnonzero(ended)
            self._begin(ids, self.seed_source(len(ids)))
            obs = final_obs.copy()
            obs[ids] = rig.observe()[ids]
        np.copyto(self._last, obs)
        return Step(obs, reward, cost[:, None].copy(), terminated, truncated, final_obs, info)

    def _advance(self) -> NDArray[np.bool_]:
        """Physics of one control interval; tells which simulations did not survive it [N].

        MuJoCo puts a simulation whose state has become absurd back to its start, which its clock gives away.
        """
        due = self._time + self._lasting_s
        failed = []
        try:
            self._batch.step(nstep=self.task.substeps, stage=self.task.stage)
        except SimulationError as error:
            failed = error.ids
        diverged = self._time < due
        diverged[failed] = True
        return diverged

    # --- Perturbable -----------------------------------------------------------------------------------------------

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics by positive numbers or arrays [N]; a name left out keeps its scale, 1 restores.

        mass: masses and inertias of everything that moves, robot and load. friction: of all surfaces. gear: forces and
        gains of all motors.
        """
        for name, factors in read_scales(scale, self.perturbations, self.num_envs).items():
            self._scales[name] = factors
            self._apply(name, factors[:, None])
        if scale:
            self._batch.set_const()

    def _apply(self, name: str, scale: Array) -> None:
        """Write the model fields that a perturbation multiplies by scale [N, 1]."""
        model, expand = self._model, self._batch.expand
        fields = {
            "mass": ("body_mass", "body_inertia"),
            "friction": ("geom_friction", "pair_friction"),
            "gear": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),
        }
        for field in fields[name]:
            nominal = getattr(model, field)
            if name == "gear":
                nominal = nominal[: self.rig.motors]
            if nominal.size:
                expand(field)[:, : len(nominal)] = nominal * scale.reshape(-1, *([1] * nominal.ndim))

    # --- Stateful --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observation shows."""
        return {
            "world": self.id,
            "begun": self._begun,
            "physics": self._batch.state.copy(),
            "memory": {name: values.copy() for name, values in self.rig.memory.items()},
            "shown": self.rig.observe(),
            "elapsed": self._elapsed.copy(),
            "episode_seed": self.episode_seed.copy(),
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
        self._batch.forward(stage=self.task.stage)
        self._batch.state[:] = state["physics"]  # computing contact forces moved the solver's starting point
        for name, values in state["memory"].items():
            self.rig.memory[name][:] = values
        self._elapsed[:] = state["elapsed"]
        self.episode_seed[:] = state["episode_seed"]
        self._seeds.bit_generator.state = state["seeds"]
        self._begun = bool(state["begun"])
        np.copyto(self._last, state["shown"])  # the last bits of forces depend on that point too
        return self._last.copy()

    # --- Visible ---------------------------------------------------------------------------------------------------

    def render(
        self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar", mode: Mode = "rgb"
    ) -> NDArray[Any]:
        """Picture of environment `i` from the camera fixedfar, fixednear or above; see `Painter.draw` for its form.

        Raises NoGraphics (a MissingExtra) when there is no OpenGL, ConfigError for an unknown camera or mode.
        """
        from trueline.safety.worlds.manipulation_picture import visual_model
        from trueline.safety.worlds.render import Painter

        refuse_no_row(self.id, i, self.num_envs)
        qpos = self._batch.bind("qpos")[i]
        if (width, height) not in self._painters:
            self._painters[width, height] = Painter(visual_model(self.task), width, height)
        painter = self._painters[width, height]
        painter.data.qpos[:] = qpos
        mujoco.mj_forward(painter.model, painter.data)
        return painter.draw(camera, mode)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Environment `i` from above: {"extent": m, "shapes": [{"kind", "xy", "radius", "rot", "colour"}, …]}."""
        refuse_no_row(self.id, i, self.num_envs)
        return {"extent": self.task.extent_m, "shapes": self.rig.shapes(i)}

    def close(self) -> None:
        """Free the simulations and what drew them."""
        for painter in self._painters.values():
            painter.close()
        self._painters.clear()
        self._batch = closed(self.id)
