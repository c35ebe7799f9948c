"""Safe velocity for several agents: each drives some motors of one body, sees its part of it, and shares the outcome.

The parts and what an agent observes are those of multi-agent MuJoCo (Peng et al. 2021) as Safety-Gymnasium uses it:
its own joints with their velocities, then the positions of joints one link away, then the body as a whole. Reward and
cost are the same for all agents; the thresholds are Safety-Gymnasium's. Three oddities of the original are kept, since
observations are part of what a world is:

1. The Walker2d's agents observe the velocity along x twice, and neither the tilt of the torso nor its velocity.
2. The Humanoid's `abdomen_y` observes the coordinate of abdomen_z, and the other way round.
3. Running backwards too fast costs as well, but for the Swimmer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.rl.env import SeedSource, Step
from trueline.rl.multi_agent import MultiAgentStep
from trueline.safety.worlds.checks import read_actions
from trueline.safety.worlds.velocity import VelocityWorlds
from trueline.safety.worlds.velocity_runners import RUNNERS, Runner, Speed, VelocityTask

if TYPE_CHECKING:
    from trueline.safety.worlds.render import Mode
    from trueline.safety.worlds.viewer import RunnerWindow

__all__ = ["SCENARIOS", "TEAMS", "Limb", "MultiAgentVelocity", "Scenario", "make_multi_agent", "make_team"]

Array = NDArray[np.float64]


# --- bodies and their parts as data -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limb:
    """One joint of a body with its motor, and what an agent that drives it observes there."""

    name: str
    joint: int  # index of its position and its velocity, counted from the last, −1
    motor: int
    parts: tuple[int, ...] = ()  # MuJoCo's numbers of the bodies that it moves
    velocities: tuple[int, ...] = ()  # of these coordinates instead of its own


@dataclass(frozen=True, slots=True)
class Scenario:
    """A body, what all its agents see, and the ways to divide it.

    links: limbs that are one link apart from each other. positions, velocities and forces: coordinates of the body as
    a whole. teams: name of a partition -> the limbs of each agent, in the order of its actions.
    """

    runner: Runner
    speed: Speed
    limbs: tuple[Limb, ...]
    links: tuple[tuple[str, ...], ...]
    positions: tuple[int, ...]
    velocities: tuple[int, ...]
    teams: Mapping[str, tuple[tuple[str, ...], ...]]
    thresholds_m_per_s: Mapping[str, float]
    forces: tuple[int, ...] = ()
    clips: bool = False  # agents observe velocities clipped as the single agent does

    def near(self, own: tuple[str, ...], reach: int) -> list[list[Limb]]:
        """An agent's limbs, then those one link away, and so on up to `reach` links; each list in order of name."""
        found, last, rings = set(own), set(own), [set(own)]
        for _ in range(reach):
            last = {limb for link in self.links for limb in link if last & set(link)} - found
            found |= last
            rings.append(last)
        by_name = {limb.name: limb for limb in self.limbs}
        return [[by_name[name] for name in sorted(ring)] for ring in rings]


def _limbs(*names: str) -> tuple[Limb, ...]:
    """Limbs whose joints and motors are the last ones, in order."""
    return tuple(Limb(name, joint=k - len(names), motor=k) for k, name in enumerate(names))


def _chain(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple(itertools.pairwise(names))


def _each(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


_CHEETAH = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
_HOPPER = ("thigh_joint", "leg_joint", "foot_joint")
_WALKER = ("thigh_joint", "leg_joint", "foot_joint", "thigh_left_joint", "leg_left_joint", "foot_left_joint")
_ABDOMEN = ("abdomen_x", "abdomen_y", "abdomen_z")
_RIGHT_HIP, _LEFT_HIP = (tuple(f"{side}_hip_{axis}" for axis in "xyz") for side in ("right", "left"))
_RIGHT_SHOULDER, _LEFT_SHOULDER = (tuple(f"{side}_shoulder{k}" for k in (1, 2)) for side in ("right", "left"))

_HUMANOID = (
    Limb("abdomen_y", -17, 0, (1, 2, 3)),
    Limb("abdomen_z", -16, 1, (1, 2, 3)),
    Limb("abdomen_x", -15, 2, (3, 4, 7)),
    Limb("right_hip_x", -14, 3, (4, 5)),
    Limb("right_hip_z", -13, 4, (4, 5)),
    Limb("right_hip_y", -12, 5, (4, 5)),
    Limb("right_knee", -11, 6, (5, 6)),
    Limb("left_hip_x", -10, 7, (7, 8)),
    Limb("left_hip_z", -9, 8, (7, 8)),
    Limb("left_hip_y", -8, 9, (7, 8)),
    Limb("left_knee", -7, 10, (8, 9)),
    Limb("right_shoulder1", -6, 11, (1, 10, 11)),
    Limb("right_shoulder2", -5, 12, (1, 10, 11)),
    Limb("right_elbow", -4, 13, (11,)),
    Limb("left_shoulder1", -3, 14, (1, 12, 13)),
    Limb("left_shoulder2", -2, 15, (1, 12, 13)),
    Limb("left_elbow", -1, 16, (13,)),
)

SCENARIOS: dict[str, Scenario] = {
    "Ant": Scenario(
        RUNNERS["Ant"],
        "planar",
        # The motors start with leg 4, the joints with leg 1.
        limbs=tuple(
            Limb(f"{kind}{leg}", joint=2 * leg - 10 + k, motor=2 * (leg % 4) + k)
            for leg in (1, 2, 3, 4)
            for k, kind in enumerate(("hip", "ankle"))
        ),
        links=(*((f"ankle{leg}", f"hip{leg}") for leg in (1, 2, 3, 4)), ("hip1", "hip2", "hip3", "hip4")),
        positions=(2, 3, 4, 5, 6),
        velocities=(0, 1, 2, 3, 4, 5),
        teams={
            "2x4": (("hip1", "ankle1", "hip2", "ankle2"), ("hip3", "ankle3", "hip4", "ankle4")),
            "4x2": (("hip1", "ankle1"), ("hip2", "ankle2"), ("hip3", "ankle3"), ("hip4", "ankle4")),
        },
        thresholds_m_per_s={"2x4": 2.522, "4x2": 2.418},
    ),
    "HalfCheetah": Scenario(
        RUNNERS["HalfCheetah"],
        "either way",
        limbs=_limbs(*_CHEETAH),
        links=_chain("bfoot", "bshin", "bthigh", "fthigh", "fshin", "ffoot"),
        positions=(1, 2),
        velocities=(0, 1, 2),
        teams={"6x1": _each(*_CHEETAH), "2x3": (_CHEETAH[:3], _CHEETAH[3:])},
        thresholds_m_per_s={"6x1": 2.932, "2x3": 3.227},
    ),
    "Hopper": Scenario(
        RUNNERS["Hopper"],
        "either way",
        limbs=_limbs(*_HOPPER),
        links=_chain(*_HOPPER),
        positions=(1, 2),
        velocities=(0, 1, 2),
        teams={"3x1": _each(*_HOPPER)},
        thresholds_m_per_s={"3x1": 0.9613},
        clips=True,
    ),
    "Humanoid": Scenario(
        RUNNERS["Humanoid"],
        "planar",
        limbs=_HUMANOID,
        links=(
            _ABDOMEN,
            ("left_elbow", *_LEFT_SHOULDER),
            ("right_elbow", *_RIGHT_SHOULDER),
            ("left_knee", *_LEFT_HIP),
            ("right_knee", *_RIGHT_HIP),
            *((*_ABDOMEN, *others) for others in (_LEFT_SHOULDER, _RIGHT_SHOULDER, _LEFT_HIP, _RIGHT_HIP)),
        ),
        positions=(2, 3, 4, 5, 6),
        velocities=(0, 1, 2, 3, 4, 5),
        forces=(0, 1, 2, 3, 4, 5),
        teams={
            "9|8": (
                (*_ABDOMEN, *_RIGHT_SHOULDER, "right_elbow", *_LEFT_SHOULDER, "left_elbow"),
                (*_RIGHT_HIP, "right_knee", *_LEFT_HIP, "left_knee"),
            )
        },
        thresholds_m_per_s={"9|8": 0.58},
    ),
    "Swimmer": Scenario(
        RUNNERS["Swimmer"],
        "forward",
        limbs=(Limb("rot2", -2, 0, velocities=(0, 3)), Limb("rot3", -1, 1, velocities=(1, 4))),
        links=(("rot2", "rot3"),),
        positions=(2,),
        velocities=(2,),
        teams={"2x1": _each("rot2", "rot3")},
        thresholds_m_per_s={"2x1": 0.04891},
    ),
    "Walker2d": Scenario(
        RUNNERS["Walker2d"],
        "either way",
        limbs=_limbs(*_WALKER),
        links=_chain("foot_joint", "leg_joint", "thigh_joint", "thigh_left_joint", "leg_left_joint", "foot_left_joint"),
        positions=(1,),
        velocities=(0, 0, 1),
        teams={"2x3": (_WALKER[2::-1], _WALKER[:2:-1])},
        thresholds_m_per_s={"2x3": 1.641},
    ),
}

TEAMS: dict[str, tuple[str, str]] = {
    f"Safety{conf}{name}Velocity-v0": (name, conf) for name, scenario in SCENARIOS.items() for conf in scenario.teams
}


# --- the worlds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the pieces of a body's full observation stand in it: MuJoCo's arrays one after the other."""

    hidden: int
    nq: int
    nv: int
    nbody: int

    def joints(self, coordinates: tuple[int, ...]) -> list[int]:
        return [q % self.nq - self.hidden for q in coordinates]

    def velocities(self, coordinates: tuple[int, ...]) -> list[int]:
        return [self.nq - self.hidden + v % self.nv for v in coordinates]

    def parts(self, kind: Literal["inertia", "velocity", "outside force"], part: int) -> range:
        start = self.nq - self.hidden + self.nv
        sizes = {"inertia": (0, 10), "velocity": (10 * self.nbody, 6), "outside force": (16 * self.nbody + self.nv, 6)}
        first, size = sizes[kind]
        return range(start + first + size * part, start + first + size * (part + 1))

    def forces(self, coordinates: tuple[int, ...]) -> list[int]:
        start = self.nq - self.hidden + self.nv + 16 * self.nbody
        return [start + v % self.nv for v in coordinates]


def _observed(scenario: Scenario, own: tuple[str, ...], reach: int, at: _Layout) -> Iterator[int]:
    """Indices into the body's full observation of what an agent with the limbs `own` observes, in order."""
    nearest, *further = scenario.near(own, reach)
    seen = set()  # parts that an earlier limb has shown
    for limb in nearest:
        yield from at.joints((limb.joint,))
        yield from at.velocities(limb.velocities or (limb.joint,))
        if scenario.runner.inside:
            new = [part for part in limb.parts if part not in seen]
            seen.update(new)
            for kind in ("inertia", "velocity"):
                for part in new:
                    yield from at.parts(kind, part)
            yield from at.forces((limb.joint,))
            for part in new:
                yield from at.parts("outside force", part)
    for ring in further:
        yield from at.joints(tuple(limb.joint for limb in ring))
    yield from at.joints(scenario.positions)
    yield from at.velocities(scenario.velocities)
    yield from at.forces(scenario.forces)


class MultiAgentVelocity:
    """N copies of one multi-agent velocity world; see `trueline.rl.multi_agent` for the contract.

    It is a MultiAgentVectorEnv that is also Stateful, Perturbable and Visible. Its state is what the single agent of
    the same body observes; `info` is that of `VelocityWorlds`.
    """

    perturbations = VelocityWorlds.perturbations
    render_modes = VelocityWorlds.render_modes

    def __init__(
        self,
        id: str,
        scenario: Scenario,
        conf: str,
        num_envs: int,
        threads: int = 1,
        costs: Literal["sum", "split"] = "sum",
        seed: int = 0,
        agent_obsk: int = 1,
    ) -> None:
        if agent_obsk < 0:
            raise ConfigError(
                f"agent_obsk is {agent_obsk} for {id}. Give the links an agent sees beyond its own, 0 or more."
            )
        self._scenario, runner = scenario, scenario.runner
        # Velocities are clipped here, since not every agent's are.
        task = VelocityTask(
            dataclasses.replace(runner, velocity_clip=math.inf), scenario.speed, scenario.thresholds_m_per_s[conf]
        )
        self._world = VelocityWorlds(id, task, num_envs, threads, costs, seed)
        self.id, self.num_envs, self.costs = id, num_envs, self._world.costs
        self.max_episode_steps, self.task = task.steps, task
        self.interval_s = self._world.interval_s
        self.episode_seed = self._world.episode_seed  # one array, kept up to date there
        teams, model = scenario.teams[conf], self._world.model
        self.agents = tuple(f"agent_{k}" for k in range(len(teams)))
        motors = {limb.name: limb.motor for limb in scenario.limbs}
        self._motors = {agent: [motors[name] for name in own] for agent, own in zip(self.agents, teams, strict=True)}
        at = _Layout(runner.hidden, model.nq, model.nv, model.nbody)
        self._seen = {
            agent: np.fromiter(_observed(scenario, own, agent_obsk, at), np.intp)
            for agent, own in zip(self.agents, teams, strict=True)
        }
        self._velocities = slice(model.nq - runner.hidden, model.nq - runner.hidden + model.nv)
        self.observation_spaces = {
            agent: gym.spaces.Box(-np.inf, np.inf, seen.shape, np.float64) for agent, seen in self._seen.items()
        }
        self.action_spaces = {
            agent: gym.spaces.Box(-1.0, 1.0, (len(own),), np.float64) for agent, own in self._motors.items()
        }
        native = self._world.native_action_space
        self.native_action_spaces = {
            agent: gym.spaces.Box(native.low[own], native.high[own], dtype=np.float32)
            for agent, own in self._motors.items()
        }
        self.state_space = self._world.observation_space
        self._full = np.zeros((num_envs, *(self.state_space.shape or ())))  # all there is to observe, unclipped

    @property
    def seed_source(self) -> SeedSource:
        """Where the seeds of coming episodes are drawn from."""
        return self._world.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self._world.seed_source = source

    def _clipped(self, full: Array) -> Array:
        clip, out = self._scenario.runner.velocity_clip, full.copy()
        np.clip(full[:, self._velocities], -clip, clip, out=out[:, self._velocities])
        return out

    def _views(self, full: Array) -> dict[str, Array]:
        shown = self._clipped(full) if self._scenario.clips else full
        return {agent: shown[:, seen] for agent, seen in self._seen.items()}

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> dict[str, Array]:
        """Start a new episode everywhere; seeds [N] or None -> observations by agent."""
        self._full = self._world.reset(seeds)
        return self._views(self._full)

    @property
    def autoreset(self) -> bool:
        """See `VelocityWorlds`."""
        return self._world.autoreset

    @autoreset.setter
    def autoreset(self, on: bool) -> None:
        self._world.autoreset = on

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> dict[str, Array]:
        """Start new episodes in `rows` alone; see `VelocityWorlds.begin`."""
        self._full = self._world.begin(rows, seeds)
        return self._views(self._full)

    def state(self) -> Array:
        """What the single agent would observe now, [N, S]."""
        return self._clipped(self._full)

    def step(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """One control interval.  actions: agent -> [N, A], clipped to [-1, 1].

        Raises ConfigError for a missing agent, and for actions of another shape or that are not numbers.
        """
        return self._told(self._world.step(self._joined(actions)))

    def step_native(self, actions: Mapping[str, NDArray[Any]]) -> MultiAgentStep:
        """As `step`, with actions in the actuators' own range; see `VelocityWorlds.step_native`."""
        return self._told(self._world.step_native(self._joined(actions)))

    def _joined(self, actions: Mapping[str, NDArray[Any]]) -> Array:
        joint = np.empty((self.num_envs, sum(map(len, self._motors.values()))))
        for agent, motors in self._motors.items():
            if agent not in actions:
                raise ConfigError(
                    f"{self.id} was given no actions for {agent}. Give them for {', '.join(self.agents)}."
                )
            joint[:, motors] = read_actions(self.id, actions[agent], (self.num_envs, len(motors)), agent)
        return joint

    def _told(self, step: Step) -> MultiAgentStep:
        self._full = np.asarray(step.obs)
        final_full = np.asarray(step.final_obs)
        obs, state = self._views(self._full), self.state()
        going_on = final_full is self._full
        final_obs, final_state = (obs, state) if going_on else (self._views(final_full), self._clipped(final_full))
        everyone = len(self.agents)
        return MultiAgentStep(
            obs,
            state,
            np.repeat(step.reward[:, None], everyone, axis=1),
            np.repeat(step.cost[:, None], everyone, axis=1),
            step.terminated,
            step.truncated,
            final_obs,
            final_state,
            step.info,
        )

    def perturb(self, **scale: float | Array) -> None:
        """Multiply nominal dynamics; see `VelocityWorlds.perturb`."""
        self._world.perturb(**scale)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, and what the current observations show."""
        return self._world.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """Take up a state of the same world and N -> the observations that belong to it."""
        self._full = self._world.load_state_dict(state)
        return self._views(self._full)

    @property
    def planes_m(self) -> tuple[float, float]:
        """See `VelocityWorlds`."""
        return self._world.planes_m

    @property
    def window(self) -> RunnerWindow | None:
        """What `render` opened for mode="human"."""
        return self._world.window

    def render(
        self,
        i: int = 0,
        width: int = 256,
        height: int = 256,
        camera: str = "track",
        mode: Mode | Literal["human"] = "rgb",
    ) -> Any:
        """Picture of environment `i`; see `VelocityWorlds.render`."""
        return self._world.render(i, width, height, camera, mode)

    def scene(self, i: int = 0) -> dict[str, Any]:
        """Shapes of environment `i`; see `VelocityWorlds.scene`."""
        return self._world.scene(i)

    def close(self) -> None:
        """Free the simulations and what drew them."""
        self._world.close()


def make_multi_agent(
    scenario: str,
    conf: str,
    num_envs: int = 1,
    threads: int = 1,
    costs: Literal["sum", "split"] = "sum",
    seed: int = 0,
    agent_obsk: int = 1,
) -> MultiAgentVelocity:
    """`num_envs` copies of the body `scenario` divided as `conf`, such as ("Ant", "2x4").

    agent_obsk: how many links beyond its own an agent sees. Raises ConfigError naming what there is.
    """
    if scenario not in SCENARIOS:
        raise ConfigError(f"there is no scenario {scenario!r}. Choose from {', '.join(SCENARIOS)}.")
    if conf not in SCENARIOS[scenario].teams:
        confs = ", ".join(SCENARIOS[scenario].teams)
        raise ConfigError(f"{scenario} cannot be divided as {conf!r}. Choose from {confs}.")
    id = f"Safety{conf}{scenario}Velocity-v0"
    return MultiAgentVelocity(id, SCENARIOS[scenario], conf, num_envs, threads, costs, seed, agent_obsk)


def make_team(id: str, num_envs: int, threads: int = 1, **options: Any) -> MultiAgentVelocity:
    """`num_envs` copies of the world called `id`, such as Safety2x4AntVelocity-v0; see `make_multi_agent`."""
    if id not in TEAMS:
        raise UnknownName(unknown("env", id, TEAMS))
    return make_multi_agent(*TEAMS[id], num_envs, threads, **options)
