"""Gymnasium environments, with costs or without, as one vector world.

The copies are stepped one after another in this process. That is right for any environment, and as slow as it sounds:
a world that matters deserves a batched implementation of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, nearest
from trueline.rl.env import Obs, SeedSource, Stateful, Step
from trueline.rl.spaces import ObservationCodec

Factory = Callable[[], gym.Env[Any, Any]]

# Wrappers without state that matters: a TimeLimit's count, started anew by a restore, is never ahead of the one kept
# here. Any other may hide state that no checkpoint would see.
_TRANSPARENT = (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker, gym.wrappers.TimeLimit)


@dataclass(frozen=True, slots=True)
class Costs:
    """Where K named costs are found in what a step returns.

    `place` is "none", "cost" (one number), "sequence" and "mapping" (all in the step's cost or in info["cost"]), or
    "info" (each under its own name in info).
    """

    names: tuple[str, ...]
    place: Literal["none", "cost", "sequence", "mapping", "info"]

    @classmethod
    def found(cls, reported: Any, info: Mapping[str, Any], wanted: Sequence[str] | None) -> Costs:
        """The costs of a first step: those `wanted`, or all it reports.

        Raises ConfigError naming a wanted cost that is not reported, or a number of names that does not fit.
        """
        if isinstance(reported, Mapping):
            place: Literal["cost", "sequence", "mapping"] = "mapping"
            known = tuple(reported)
        elif reported is None or np.ndim(reported) == 0:
            place, known = "cost", () if reported is None else ("cost",)
        else:
            place, known = "sequence", tuple(f"cost_{k}" for k in range(np.size(reported)))
        if wanted is None:
            return cls(known, place if known else "none")
        names = tuple(wanted)
        if place == "sequence" and not set(names) <= set(info):
            # The entries of a sequence have no names of their own: the user's are taken, one for each.
            if len(names) != len(known):
                raise ConfigError(
                    f"costs has {len(names)} names, but a step reports {len(known)} costs. Give one name for each."
                )
            return cls(names, place)
        if place != "sequence" and set(names) <= set(known):
            return cls(names, place if names else "none")
        if set(names) <= set(info):
            return cls(names, "info")
        missing = next(name for name in names if name not in known and name not in info)
        options = [*known, *(key for key in info if key != "cost")]
        raise ConfigError(
            f"costs names {missing!r}, which the environment's first step does not report.{nearest(missing, options)} "
            f"It reports {', '.join(options) or 'none'}."
        )

    def read(self, reported: Any, info: Mapping[str, Any]) -> Any:
        """K numbers of one step. Raises KeyError, TypeError or ValueError where the first step's are not reported."""
        if self.place == "none":
            return ()
        if self.place == "mapping":
            return [reported[name] for name in self.names]
        if self.place == "info":
            return [info[name] for name in self.names]
        return float(reported) if self.place == "cost" else np.ravel(reported)


class _Actions:
    """From the contract's actions to the environment's: Box rescaled from [-1, 1], choices counted from its start."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.inner = space
        self.outer: gym.Space[Any]
        if isinstance(space, gym.spaces.Box):
            if not np.issubdtype(space.dtype, np.floating):
                raise ConfigError(f"the action space is a Box of {space.dtype}. Use Discrete or MultiDiscrete.")
            low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
            self.bounded = np.isfinite(low) & np.isfinite(high)
            self.low, self.high = np.where(self.bounded, low, -1.0), np.where(self.bounded, high, 1.0)
            edge = np.where(self.bounded, 1.0, np.inf).astype(np.float32)
            self.outer = gym.spaces.Box(-edge, edge, dtype=np.float32)
        elif isinstance(space, gym.spaces.Discrete):
            self.outer = gym.spaces.Discrete(int(space.n))
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.outer = gym.spaces.MultiDiscrete(space.nvec.ravel())
        else:
            raise ConfigError(
                f"the action space is a {type(space).__name__}. Box, Discrete and MultiDiscrete are understood."
            )

    def __call__(self, actions: NDArray[Any]) -> list[Any]:
        """One action of the environment's own space for each row."""
        space = self.inner
        if isinstance(space, gym.spaces.Discrete):
            return [int(a) + int(space.start) for a in np.asarray(actions).ravel()]
        if isinstance(space, gym.spaces.MultiDiscrete):
            return [space.start + np.asarray(a, space.dtype).reshape(space.shape) for a in actions]
        raw = np.asarray(actions, np.float64)
        # Rounding may leave the range by one unit in the last place, which environments that check would refuse.
        scaled = self.low + 0.5 * (np.clip(raw, -1.0, 1.0) + 1.0) * (self.high - self.low)
        values = np.where(self.bounded, np.clip(scaled, self.low, self.high), raw).astype(space.dtype)
        return [row.reshape(space.shape) for row in values]


def _batch(rows: Sequence[Any]) -> Obs:
    """N observations of single environments, stacked into new arrays."""
    if isinstance(rows[0], dict):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows)


def _time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Steps after which the environment cuts its own episodes: its spec's, or that of a TimeLimit wrapper."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return env.spec.max_episode_steps
    limits = [layer._max_episode_steps for layer in _layers(env) if isinstance(layer, gym.wrappers.TimeLimit)]
    return min(limits, default=None)


def _layers(env: gym.Env[Any, Any]) -> list[gym.Wrapper]:
    """The wrappers around an environment, outermost first."""
    layers = []
    while isinstance(env, gym.Wrapper):
        layers.append(env)
        env = env.env
    return layers


class FromGymnasium:
    """N gymnasium environments as a `VectorEnv`.

    Continuous actions in [-1, 1] are clipped and rescaled once to the environment's Box; a dimension without two finite
    bounds has no range to rescale to, so it is passed through as it is and says so in `action_space`. Choices count
    from 0. Costs are read from a six-valued step (observation, reward, cost, terminated, truncated, info) as
    Safety-Gymnasium returns it, otherwise from info["cost"]: a number, a sequence, or a mapping from names. Everything
    else in `info` is left out.

    The world is `Stateful` exactly when the environments under their wrappers are and no wrapper could hide state.
    """

    num_envs: int
    max_episode_steps: int
    costs: tuple[str, ...]
    seed_source: SeedSource

    def __init__(
        self,
        world: str | Factory,
        num_envs: int = 1,
        *,
        costs: Sequence[str] | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        """world: a Gymnasium id, made with `options`, or a function that makes one environment.

        costs: names to report; None takes all that the first step of a throw-away copy reports, () reports none.
        max_episode_steps: where episodes are cut; needed where the environment has no limit of its own.
        Raises ConfigError for spaces, costs or limits that do not fit.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}. Use at least one environment.")
        make, limit = _factory(world, max_episode_steps, options)
        self.envs = [make() for _ in range(num_envs)]
        first = self.envs[0]
        self.id = world if isinstance(world, str) else _name(first)
        self.num_envs = num_envs
        own = _time_limit(first) if limit is None else limit
        if own is None and max_episode_steps is None:
            raise ConfigError(
                f"{self.id} sets no limit to the length of its episodes. Give max_episode_steps, in environment steps."
            )
        if own is not None and max_episode_steps is not None and max_episode_steps > own:
            raise ConfigError(
                f"max_episode_steps is {max_episode_steps}, but {self.id} cuts its own episodes after {own} steps. "
                f"Give at most {own}, or raise its own limit."
            )
        self.max_episode_steps = int(max_episode_steps if max_episode_steps is not None else own or 0)
        if self.max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {self.max_episode_steps}. Use at least one step.")
        for env in self.envs:
            if env.observation_space != first.observation_space or env.action_space != first.action_space:
                raise ConfigError(f"the copies of {self.id} differ in their spaces. Make every copy the same.")
        self.observation_space = first.observation_space
        ObservationCodec.of(self.observation_space)  # refuses what no network here can read, before anything runs
        self._to_inner = _Actions(first.action_space)
        self.action_space = self._to_inner.outer
        self.native_action_space = first.action_space  # what [-1, 1], and options from 0, stand for
        self._costs = Costs((), "none") if costs is not None and not costs else _probe(make, costs)
        self._ignores_costs = costs is not None and not costs
        self.costs = self._costs.names
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.seed_source = _seeds_from(np.random.default_rng(0))
        self._steps = np.zeros(num_envs, np.int64)
        self._obs: Obs = np.zeros(0)
        if len(self._stateful()) == num_envs and all(
            type(layer) in _TRANSPARENT for env in self.envs for layer in _layers(env)
        ):
            # On the instance, so that isinstance(world, Stateful) tells the truth about these very environments.
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """A new episode in every environment, from `seeds` [N] or from `seed_source`."""
        drawn = self.seed_source(self.num_envs) if seeds is None else seeds
        self.episode_seed[:] = np.asarray(drawn, np.uint32)
        self._steps[:] = 0
        self._obs = _batch([self._start(i) for i in range(self.num_envs)])
        return self._obs

    def _start(self, i: int) -> Any:
        observation, _ = self.envs[i].reset(seed=int(self.episode_seed[i]))
        return observation

    def step(self, actions: NDArray[Any]) -> Step:
        """Advance every environment by one step.

        Raises ConfigError when a step reports other costs than the first one did.
        """
        n = self.num_envs
        last: list[Any] = [None] * n
        reward, cost = np.zeros(n), np.zeros((n, len(self.costs)))
        terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        for i, (env, action) in enumerate(zip(self.envs, self._to_inner(actions), strict=True)):
            outcome: tuple[Any, ...] = env.step(action)
            last[i], reward[i], terminated[i], truncated[i], info = (*outcome[:2], *outcome[-3:])
            cost[i] = self._cost(outcome, info, i)
        self._steps += 1
        truncated |= self._steps >= self.max_episode_steps
        self._obs = final_obs = _batch(last)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self.episode_seed[ended] = self.seed_source(len(ended))
            self._steps[ended] = 0
            for i in ended.tolist():
                last[i] = self._start(i)
            self._obs = _batch(last)
        return Step(self._obs, reward, cost, terminated, truncated, final_obs)

    def _cost(self, outcome: tuple[Any, ...], info: Mapping[str, Any], i: int) -> Any:
        reported = _reported(outcome, info)
        if self._costs.place == "none":
            if reported is not None and not self._ignores_costs:
                raise _other_costs(self.id, "a cost that its first step did not report", i, int(self._steps[i]))
            return ()
        try:
            values = np.asarray(self._costs.read(reported, info), np.float64)
            return values.reshape(len(self.costs))
        except (KeyError, TypeError, ValueError):
            raise _other_costs(self.id, f"no {', '.join(self.costs)}", i, int(self._steps[i])) from None

    def _stateful(self) -> list[Stateful]:
        """The environments under their wrappers, those of them that have a state to save."""
        return [env.unwrapped for env in self.envs if isinstance(env.unwrapped, Stateful)]

    def _state_dict(self) -> dict[str, Any]:
        """State of every environment, its seed and its count of steps, and the observations that belong to it."""
        obs = self._obs
        return {
            "envs": {str(i): env.state_dict() for i, env in enumerate(self._stateful())},
            "episode_seed": self.episode_seed.copy(),
            "steps": self._steps.copy(),
            "obs": {k: v.copy() for k, v in obs.items()} if isinstance(obs, dict) else obs.copy(),
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> Obs:
        """Take up a state, and return the observations that belong to it."""
        # A reset first: wrappers refuse to step before it, and environments build in it what their state fills.
        self.reset(np.asarray(state["episode_seed"], np.uint32))
        self._steps[:] = state["steps"]
        for i, env in enumerate(self._stateful()):
            env.load_state_dict(state["envs"][str(i)])
        obs = state["obs"]
        self._obs = {k: np.array(v) for k, v in obs.items()} if isinstance(obs, Mapping) else np.array(obs)
        return self._obs

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def _reported(outcome: tuple[Any, ...], info: Mapping[str, Any]) -> Any:
    return outcome[2] if len(outcome) == 6 else info.get("cost")


def _other_costs(world: str, what: str, env: int, step: int) -> ConfigError:
    return ConfigError(
        f"{world} reported {what} in environment {env} at step {step} of its episode. "
        "Let every step report the same costs, or name those to read with costs=(...)."
    )


def _factory(world: str | Factory, limit: int | None, options: Mapping[str, Any]) -> tuple[Factory, int | None]:
    """What makes one environment, and the limit its registration asks for (applied here, in place of a wrapper)."""
    if not isinstance(world, str):
        if options:
            raise ConfigError(f"{next(iter(options))!r} is an option for a Gymnasium id. Set it inside the factory.")
        return world, None
    registered = gym.spec(world).max_episode_steps if limit is None else limit

    def make() -> gym.Env[Any, Any]:
        # Without TimeLimit, which cannot pass on a six-valued step, and without the checker, which warns about one.
        return gym.make(world, max_episode_steps=-1, disable_env_checker=True, **options)

    return make, registered


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _probe(make: Factory, wanted: Sequence[str] | None) -> Costs:
    """The costs that the first step of a throw-away copy reports."""
    env = make()
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        outcome: tuple[Any, ...] = env.step(env.action_space.sample())
        return Costs.found(_reported(outcome, outcome[-1]), outcome[-1], wanted)
    finally:
        env.close()


def _seeds_from(rng: np.random.Generator) -> SeedSource:
    return lambda n: rng.integers(0, 2**32, size=n, dtype=np.uint32)
