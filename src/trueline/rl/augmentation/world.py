"""A world played under the rules of an augmentation, in training, and the same world as its policy meets it afterwards.

In training the rules decide what a step pays, costs and ends (`augmented`). Evaluated, audited or looked at, the
policy is shown what it was trained to see, and everything else is the world's own (`shown`): what an audit measures is
what the world charges, and an episode goes on after a limit is passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Array, Augmentation, Parameters, Terms
from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.kinds import Chance, Cvar, Expected, StepRate
from trueline.rl.augmentation.saute import Saute
from trueline.rl.augmentation.simmer import Simmer
from trueline.rl.env import (
    LaidOut,
    Obs,
    Perturbable,
    SeedSource,
    Stateful,
    Steerable,
    Step,
    VectorEnv,
    Visible,
    observation_rows,
    with_rows,
)
from trueline.rl.perturb import NoisySensors
from trueline.rl.spaces import ObservationCodec

__all__ = ["EXTRA", "WORLD", "Augmented", "AugmentedBy", "Budget", "Played", "Restarts", "Rules", "augmented", "shown"]

Budget = Saute | Simmer | EarlyTermination  # rules that keep the limit by themselves; told apart by `kind`
Rules = Saute | Simmer | EarlyTermination | Expected | StepRate | Chance | Cvar  # told apart by `kind`

EXTRA = "augmentation"  # key of the extra numbers where the observation is a dict
WORLD = "world"  # key of the world's own observation where it became one


class AugmentedBy(Config):
    """The rules that a policy was trained under, with what they came to: enough to show it its world again."""

    rules: Rules
    limit: tuple[float, ...]  # d of each cost
    parameters: Mapping[str, Any] = {}  # as they stood at the end, nested lists of numbers


@runtime_checkable
class Restarts(Protocol):
    """Ability of a world: it begins new episodes in single rows at any time."""

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32]) -> Obs:
        """New episodes in `rows` from seeds [len(rows)]; returns the observations of all rows, `rows` up to date."""
        ...


class Played(NamedTuple):
    """What the world itself paid and charged, whatever the rules made of it."""

    episode_return: Array  # [E] of the episodes that ended, in the order in which they did
    episode_cost: Array  # [E, K]
    total_cost: Array  # [K] of all steps


def augmented(
    env: VectorEnv, rules: Augmentation, limit: Array, parameters: Mapping[str, Any] | None = None
) -> Augmented:
    """`env` played under `rules` for the limits [K]; `parameters` go on from where an earlier training ended.

    Raises ConfigError for limits that the rules make no sense for, and for a world that cannot begin an episode in one
    row alone under rules that end one.
    """
    if rules.terminates and not isinstance(env, Restarts):
        raise ConfigError(
            f"{env.id} cannot begin an episode in one row alone, which early termination needs. "
            "Give the world a method begin(rows, seeds), or use ppo-saute."
        )
    return Augmented(env, rules, limit, parameters, True)


def shown(env: VectorEnv, by: AugmentedBy | None) -> VectorEnv:
    """`env` with the observations a policy was trained on; `env` itself where they are the world's own."""
    if by is None:
        return env
    limit = np.array(by.limit)
    if len(limit) != len(env.costs):
        raise ConfigError(
            f"the policy was trained with {len(limit)} limits, but {env.id} reports {len(env.costs)} costs. "
            "Make the world with the options it was trained with."
        )
    world = Augmented(env, by.rules, limit, by.parameters, False)
    return world if world.width else env


class Augmented:
    """The wrapper: a `VectorEnv` with exactly the abilities of the world within.

    Flat observations of floats get E more numbers, a dict gets them under a key of their own, and any other
    observation becomes such a dict. `final_obs` holds the extra state of the episode that ended, `obs` that of the new.
    """

    def __init__(
        self,
        env: VectorEnv,
        rules: Augmentation,
        limit: Array,
        parameters: Mapping[str, Any] | None,
        training: bool,
    ) -> None:
        """training: whether the rules decide reward, cost and end, or are only shown; see `augmented` and `shown`."""
        self.env, self.rules, self.training = env, rules, training
        self.terms = Terms(np.asarray(limit, np.float64), env.max_episode_steps)
        rules.check(self.terms)
        first = rules.parameters(self.terms)
        self.parameters: Parameters = _taken_up(first, parameters) if parameters else first
        self.id, self.num_envs, self.costs = env.id, env.num_envs, env.costs
        self.action_space, self.max_episode_steps = env.action_space, env.max_episode_steps
        n, k = env.num_envs, len(env.costs)
        self._z = rules.start(self.terms, self.parameters, n)
        self.width = rules.observed(self.terms, self._z).shape[1]  # E
        self.observation_space, self._form = _with_extra(env.observation_space, self.width)
        self._return, self._cost, self._total = np.zeros(n), np.zeros((n, k)), np.zeros(k)
        self._ended: list[tuple[Array, Array]] = []
        self._pass_on()

    def _pass_on(self) -> None:
        # On the instance, so that isinstance(world, Ability) tells the truth about this very world.
        env = self.env
        for ability in (Perturbable, Steerable, Visible):
            if isinstance(env, ability):
                for name in _MEMBERS[ability]:
                    setattr(self, name, getattr(env, name))
        if isinstance(env, LaidOut):
            self.layout, self.set_layout = env.layout, partial(self._set_layout, env)
        if isinstance(env, Stateful):
            self.state_dict = partial(self._state_dict, env)
            self.load_state_dict = partial(self._load_state_dict, env)
        if isinstance(env, Restarts):
            self.begin = partial(self._begin, env)
        if isinstance(env, NoisySensors):
            self.set_scale = partial(self._set_scale, env)

    @property
    def episode_seed(self) -> NDArray[np.uint32]:
        """The inner world's."""
        return self.env.episode_seed

    @episode_seed.setter
    def episode_seed(self, seeds: NDArray[np.uint32]) -> None:
        self.env.episode_seed = seeds

    @property
    def seed_source(self) -> SeedSource:
        """The inner world's."""
        return self.env.seed_source

    @seed_source.setter
    def seed_source(self, source: SeedSource) -> None:
        self.env.seed_source = source

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere, z included."""
        obs = self.env.reset(seeds)
        self._start(np.arange(self.num_envs))
        return self._join(obs)

    def step(self, actions: NDArray[Any]) -> Step:
        """One step of the world, and what the rules make of it."""
        step = self.env.step(actions)
        made = self.rules.step(self.terms, self._z, step.reward, step.cost)
        early = made.terminated & ~step.ended if self.training else np.zeros(self.num_envs, np.bool_)
        ended = step.ended | early
        self._z = made.z
        obs = final_obs = self._join(step.final_obs)
        if self.training:
            self._record(step, ended)
        if ended.any():
            rows = np.flatnonzero(ended)
            inner = step.obs
            if early.any():
                over = np.flatnonzero(early)
                assert isinstance(self.env, Restarts)
                begun = self.env.begin(over, self.env.seed_source(len(over)))
                inner = with_rows(inner, over, observation_rows(begun, over))
            self._start(rows)
            obs = self._join(inner)
        if not self.training:
            return Step(obs, step.reward, step.cost, step.terminated, step.truncated, final_obs, step.info)
        terminated = step.terminated | made.terminated
        return Step(obs, made.reward, made.cost, terminated, step.truncated, final_obs, step.info)

    def close(self) -> None:
        """Close the inner world."""
        self.env.close()

    def adapt(self, episode_cost: Array) -> None:
        """Let the parameters follow the raw costs [E, K] of recent episodes; episodes begin by them from now on."""
        self.parameters = self.rules.adapted(self.terms, self.parameters, episode_cost)

    def limits(self) -> Array:
        """d̃ [K]."""
        return self.rules.limit(self.terms, self.parameters)

    def drained(self) -> Played:
        """What the world paid and charged since the last call."""
        returns, costs = zip(*self._ended, strict=True) if self._ended else ((), ())
        k = len(self.costs)
        played = Played(
            np.concatenate(returns) if returns else np.zeros(0),
            np.concatenate(costs) if costs else np.zeros((0, k)),
            self._total,
        )
        self._ended, self._total = [], np.zeros(k)
        return played

    def reference(self) -> AugmentedBy:
        """What a policy has to carry to be shown this world again."""
        parameters = {name: np.asarray(value).tolist() for name, value in self.parameters.items()}
        return AugmentedBy(rules=self.rules, limit=tuple(self.terms.limit.tolist()), parameters=parameters)  # type: ignore[arg-type]

    def over(self, env: VectorEnv) -> Augmented:
        """The same rules over `env`, which is this world's own or a wrapper of it; episodes begin with its reset."""
        return Augmented(env, self.rules, self.terms.limit, self.parameters, self.training)

    def own_columns(self) -> NDArray[np.bool_]:
        """Which columns of the flat observation are the world's own sensors, [D + E]."""
        own: list[bool] = []
        for key, how, size in ObservationCodec.of(self.observation_space).parts:
            if how != "image":
                own += [key != EXTRA] * int(np.sum(size))
        if self._form == "flat":
            own[len(own) - self.width :] = [False] * self.width
        return np.array(own, np.bool_)

    def _start(self, rows: NDArray[np.intp]) -> None:
        self._z = self._z.copy()
        self._z[rows] = self.rules.start(self.terms, self.parameters, len(rows))
        self._return[rows], self._cost[rows] = 0.0, 0.0

    def _record(self, step: Step, ended: NDArray[np.bool_]) -> None:
        self._return += step.reward
        self._cost += step.cost
        self._total += step.cost.sum(axis=0)
        if ended.any():
            self._ended.append((self._return[ended].copy(), self._cost[ended].copy()))

    def _join(self, obs: Obs) -> Obs:
        """Observations of all rows with what z shows."""
        if not self.width:
            return obs
        extra = self.rules.observed(self.terms, self._z)
        if self._form == "flat":
            assert not isinstance(obs, dict)
            return np.concatenate([obs, extra.astype(obs.dtype)], axis=1)
        within = obs if isinstance(obs, dict) else {WORLD: obs}
        return {**within, EXTRA: extra.astype(np.float32)}

    # --- what the inner world can do beyond stepping ---

    def _begin(self, env: Restarts, rows: NDArray[np.intp], seeds: NDArray[np.uint32]) -> Obs:
        obs = env.begin(rows, seeds)
        self._start(np.asarray(rows))
        return self._join(obs)

    def _set_layout(self, env: LaidOut, layouts: Mapping[int, Mapping[str, Any]]) -> Obs:
        obs = env.set_layout(layouts)
        self._start(np.array(sorted(layouts), np.intp))
        return self._join(obs)

    def _set_scale(self, env: NoisySensors, scale: NDArray[Any]) -> None:
        env.set_scale(np.asarray(scale)[self.own_columns()])

    def _state_dict(self, env: Stateful) -> dict[str, Any]:
        return {
            "world": env.state_dict(),
            "z": self._z.copy(),
            "parameters": {name: np.array(value) for name, value in self.parameters.items()},
            "return": self._return.copy(),
            "cost": self._cost.copy(),
        }

    def _load_state_dict(self, env: Stateful, state: Mapping[str, Any]) -> Obs:
        self.parameters = {name: np.array(value) for name, value in state["parameters"].items()}
        self._z = np.array(state["z"])
        self._return[:], self._cost[:] = state["return"], state["cost"]
        return self._join(env.load_state_dict(state["world"]))


_MEMBERS: dict[type, tuple[str, ...]] = {
    Perturbable: ("perturbations", "perturb"),
    Steerable: ("set_goal", "goal_distance", "speed", "position"),
    Visible: ("render", "scene"),
}


def _taken_up(first: Parameters, given: Mapping[str, Any]) -> Parameters:
    """Parameters of an earlier training in the shapes of these rules'."""
    found = {name: np.asarray(value, np.float64) for name, value in given.items()}
    if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in first.items()}:
        names = ", ".join(sorted(first)) or "none"
        raise ConfigError(f"the parameters of the augmentation do not fit its rules, which have {names}. Train anew.")
    return found


def _with_extra(space: gym.Space[Any], width: int) -> tuple[gym.Space[Any], str]:
    """The observation space with E more numbers, and how they are joined: "flat" or "dict"."""
    if not width:
        return space, "flat"
    extra = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
    if isinstance(space, gym.spaces.Dict):
        if EXTRA in space.spaces:
            raise ConfigError(f"the world has an observation called {EXTRA!r} of its own. Rename it.")
        return gym.spaces.Dict({**space.spaces, EXTRA: extra}), "dict"
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        free = np.full(width, np.inf, space.dtype)
        low, high = np.concatenate([space.low, -free]), np.concatenate([space.high, free])
        return gym.spaces.Box(low, high, dtype=space.dtype.type), "flat"
    return gym.spaces.Dict({WORLD: space, EXTRA: extra}), "dict"
