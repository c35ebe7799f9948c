"""The original's wrappers, over one environment or a batch, with six values per step.

Gymnasium 1.0 took two things away that scripts for Safety-Gymnasium rely on: a wrapper hands on attributes it does not
have (`env.task` under any number of wrappers), and a batch of environments can be wrapped like a single one. Here both
hold. Normalisation keeps its statistics as Gymnasium 0.28 did, whose numbers Safety-Gymnasium users have.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.passive_env_checker import check_obs
from numpy.typing import NDArray

from trueline.core.errors import ConfigError

__all__ = [
    "Gymnasium2SafetyGymnasium",
    "SafeAutoResetWrapper",
    "SafeNormalizeCost",
    "SafeNormalizeObservation",
    "SafeNormalizeReward",
    "SafePassiveEnvChecker",
    "SafeRescaleAction",
    "SafeTimeLimit",
    "SafeUnsqueeze",
    "SafetyGymnasium2Gymnasium",
    "with_gymnasium_wrappers",
]


class HandsOn:
    """Attributes that a wrapper does not have are those of what it wraps; private ones are not handed on."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.env, name)


class Wrapper(HandsOn, gym.Wrapper[Any, Any, Any, Any]):
    """What the wrappers here have in common."""


def _with(spec: EnvSpec | None, **changes: Any) -> EnvSpec | None:
    """A copy of a spec with some of its fields changed."""
    changed = deepcopy(spec)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


# --- around every environment that is made ---------------------------------------------------------------------------


class OrderEnforcing(HandsOn, gym.wrappers.OrderEnforcing[Any, Any]):
    """Raises ResetNeeded for a step or a picture before the first reset."""

    def was_reset(self) -> None:
        """Take notice of a reset that did not come through here: a batch resets all its environments at once."""
        self._has_reset = True


class RenderCollection(HandsOn, gym.wrappers.RenderCollection[Any, Any]):
    """Collects a picture at each reset and step; `render` gives the list."""


class SafePassiveEnvChecker(HandsOn, gym.wrappers.PassiveEnvChecker[Any, Any]):
    """Looks once at what reset, step and render return, and warns of what is not as it should be."""

    def step(self, action: Any) -> Any:
        """As the environment's; the first result is looked at."""
        if self.checked_step:
            return self.env.step(action)
        self.checked_step = True
        result: Any = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 6:
            got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise ConfigError(
                f"step() returned {got}. Return observation, reward, cost, terminated, truncated and info."
            )
        obs, reward, cost, terminated, truncated, info = result
        check_obs(obs, self.env.observation_space, "step")
        for what, ended in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(ended, bool | np.bool_):
                logger.warn(f"`{what}` from step() should be a bool, but is a {type(ended).__name__}.")
        for what, number in (("reward", reward), ("cost", cost)):
            if not isinstance(number, int | float | np.integer | np.floating):
                logger.warn(f"The {what} from step() should be a number, but is a {type(number).__name__}.")
            elif not np.isfinite(number):
                logger.warn(f"The {what} from step() is {number}.")
        if not isinstance(info, dict):
            raise ConfigError(f"step() returned an info that is a {type(info).__name__}. Return a dict.")
        return result


def _ended(flag: Any) -> bool:
    """Whether an episode is over, for one agent or, of several, for any."""
    return any(flag.values()) if isinstance(flag, dict) else bool(flag)


class SafeTimeLimit(Wrapper, RecordConstructorArgs):
    """Truncates an episode after `max_episode_steps` steps."""

    def __init__(self, env: Any, max_episode_steps: int) -> None:
        RecordConstructorArgs.__init__(self, max_episode_steps=max_episode_steps)
        if not isinstance(max_episode_steps, int | np.integer) or max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {max_episode_steps!r:.40}. Give a whole number, 1 or more.")
        super().__init__(env)
        self._max_episode_steps = int(max_episode_steps)
        self._elapsed_steps = 0

    @property
    def max_episode_steps(self) -> int:
        """The limit."""
        return self._max_episode_steps

    def step(self, action: Any) -> Any:
        """As the environment's, truncated at the limit."""
        observation, reward, cost, terminated, truncated, info = self.env.step(action)
        self._elapsed_steps += 1
        if self._elapsed_steps >= self._max_episode_steps:
            truncated = dict.fromkeys(truncated, True) if isinstance(truncated, dict) else True
        return observation, reward, cost, terminated, truncated, info

    def reset(self, **how: Any) -> Any:
        """As the environment's; counts from 0 again."""
        self._elapsed_steps = 0
        return self.env.reset(**how)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """The environment's, with the limit."""
        return _with(self.env.spec, max_episode_steps=self._max_episode_steps)


class SafeAutoResetWrapper(Wrapper, RecordConstructorArgs):
    """Begins the next episode in the step that ends one.

    That step returns the new episode's first observation; the old one's last is `info["final_observation"]`, and what
    the step told is `info["final_info"]`.
    """

    def __init__(self, env: Any) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def step(self, action: Any) -> Any:
        """As the environment's, with the next observation where an episode ended."""
        observation, reward, cost, terminated, truncated, info = self.env.step(action)
        if _ended(terminated) or _ended(truncated):
            first, started = self.env.reset()
            started["final_observation"], started["final_info"] = observation, info
            observation, info = first, started
        return observation, reward, cost, terminated, truncated, info


# --- normalisation ----------------------------------------------------------------------------------------------------


class RunningMeanStd:
    """Mean and variance of all that was seen, over the first axis; starts at 0 and 1 with the weight `epsilon`."""

    def __init__(self, epsilon: float = 1e-4, shape: tuple[int, ...] = ()) -> None:
        self.mean: NDArray[np.float64] = np.zeros(shape, np.float64)
        self.var: NDArray[np.float64] = np.ones(shape, np.float64)
        self.count = epsilon

    def update(self, x: NDArray[Any]) -> None:
        """Take in x [n, …]."""
        self.update_from_moments(np.mean(x, axis=0), np.var(x, axis=0), x.shape[0])

    def update_from_moments(self, batch_mean: Any, batch_var: Any, batch_count: int) -> None:
        """Take in `batch_count` values of this mean and variance (Chan, Golub & LeVeque 1983)."""
        total = self.count + batch_count
        delta = batch_mean - self.mean
        squares = self.var * self.count + batch_var * batch_count
        squares = squares + np.square(delta) * self.count * batch_count / total
        self.mean = self.mean + delta * batch_count / total
        self.var = squares / total
        self.count = total


class NormalizeObservation(Wrapper, RecordConstructorArgs):
    """Observations minus their running mean, over their running deviation; five values per step, as Gymnasium 0.28's.

    Every call of `normalize` updates the statistics.
    """

    def __init__(self, env: Any, epsilon: float = 1e-8) -> None:
        RecordConstructorArgs.__init__(self, epsilon=epsilon)
        super().__init__(env)
        self.num_envs = getattr(env, "num_envs", 1)
        self.is_vector_env = getattr(env, "is_vector_env", False)
        one = env.single_observation_space if self.is_vector_env else env.observation_space
        if not isinstance(one, gym.spaces.Box):
            raise ConfigError(f"observations of a {type(one).__name__} cannot be normalised. Make them flat first.")
        self.obs_rms = RunningMeanStd(shape=one.shape)
        self.epsilon = epsilon

    def normalize(self, obs: Any) -> Any:
        """Observations [n, …] normalised, after taking them into the statistics."""
        self.obs_rms.update(obs)
        return (obs - self.obs_rms.mean) / np.sqrt(self.obs_rms.var + self.epsilon)

    def _normalized(self, obs: Any) -> Any:
        return self.normalize(obs) if self.is_vector_env else self.normalize(np.array([obs]))[0]

    def reset(self, **how: Any) -> Any:
        """As the environment's, normalised."""
        obs, info = self.env.reset(**how)
        return self._normalized(obs), info

    def step(self, action: Any) -> Any:
        """As the environment's, normalised."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._normalized(obs), reward, terminated, truncated, info


class SafeNormalizeObservation(NormalizeObservation):
    """Observations, and final observations, normalised.

    Of a single environment the original takes a final observation of O numbers for O observations of one number each,
    which pulls all running means together at every autoreset. It is kept here, because it moves the numbers. Of a batch
    the original raises when some rows end; here their final observations are n samples more.
    `info["original_final_observation"]` is the one that the environment gave.
    """

    def step(self, action: Any) -> Any:
        """As the environment's, normalised."""
        obs, reward, cost, terminated, truncated, info = self.env.step(action)
        obs = self._normalized(obs)
        if "final_observation" in info:
            final = info["final_observation"]
            info["original_final_observation"] = final
            if self.is_vector_env:
                rows = np.flatnonzero(info["_final_observation"])
                info["final_observation"] = normalized = np.full(len(final), None, dtype=object)
                for row, value in zip(rows, self.normalize(np.stack(final[rows].tolist())), strict=True):
                    normalized[row] = value
            else:
                info["final_observation"] = self.normalize(final)
        return obs, reward, cost, terminated, truncated, info


class _Discounted(Wrapper, RecordConstructorArgs):
    """Divides a signal by the running deviation of its discounted sum, whose variance it fixes at about 1."""

    def __init__(self, env: Any, gamma: float = 0.99, epsilon: float = 1e-8) -> None:
        RecordConstructorArgs.__init__(self, gamma=gamma, epsilon=epsilon)
        super().__init__(env)
        self.num_envs = getattr(env, "num_envs", 1)
        self.is_vector_env = getattr(env, "is_vector_env", False)
        self.return_rms = RunningMeanStd(shape=())
        self.returns = np.zeros(self.num_envs)
        self.gamma, self.epsilon = gamma, epsilon

    def normalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [n] divided, after taking the discounted sums into the statistics."""
        self.return_rms.update(self.returns)
        return values / np.sqrt(self.return_rms.var + self.epsilon)

    def _normalized(self, values: Any, terminated: Any) -> Any:
        many = values if self.is_vector_env else np.array([values])
        self.returns = self.returns * self.gamma * (1 - np.asarray(terminated, np.int64)) + many
        scaled = self.normalize(many)
        return scaled if self.is_vector_env else scaled[0]


class NormalizeReward(_Discounted):
    """Rewards scaled by the running deviation of their discounted sum; five values per step, as Gymnasium 0.28's."""

    def step(self, action: Any) -> Any:
        """As the environment's, the reward scaled."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, self._normalized(reward, terminated), terminated, truncated, info


class SafeNormalizeReward(NormalizeReward):
    """Rewards scaled by the running deviation of their discounted sum."""

    def step(self, action: Any) -> Any:
        """As the environment's, the reward scaled."""
        obs, reward, cost, terminated, truncated, info = self.env.step(action)
        return obs, self._normalized(reward, terminated), cost, terminated, truncated, info


class SafeNormalizeCost(_Discounted):
    """Costs scaled by the running deviation of their discounted sum."""

    def step(self, action: Any) -> Any:
        """As the environment's, the cost scaled."""
        obs, reward, cost, terminated, truncated, info = self.env.step(action)
        return obs, reward, self._normalized(cost, terminated), terminated, truncated, info


# --- actions and shapes -----------------------------------------------------------------------------------------------


class SafeRescaleAction(HandsOn, gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Actions in [min_action, max_action] stretched to the environment's range; nothing is clipped.

    As in the original, `action_space` goes on to be the environment's.
    """

    def __init__(self, env: Any, min_action: float | NDArray[Any], max_action: float | NDArray[Any]) -> None:
        RecordConstructorArgs.__init__(self, min_action=min_action, max_action=max_action)
        gym.ActionWrapper.__init__(self, env)
        zeros = np.zeros(env.action_space.shape, dtype=env.action_space.dtype)
        self.min_action, self.max_action = zeros + min_action, zeros + max_action

    def action(self, action: Any) -> Any:
        """The action in the environment's range."""
        low, high = self.env.action_space.low, self.env.action_space.high
        return low + (high - low) * ((action - self.min_action) / (self.max_action - self.min_action))


class SafeUnsqueeze(Wrapper, RecordConstructorArgs):
    """One environment as a batch of one: a leading axis of length 1 on all that `step` and `reset` return."""

    def __init__(self, env: Any) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.is_vector_env = getattr(env, "is_vector_env", False)
        if self.is_vector_env:
            raise ConfigError(
                "SafeUnsqueeze makes one environment a batch of one, and was given a batch. Leave it out."
            )

    def step(self, action: Any) -> Any:
        """As the environment's, with the leading axis."""
        *values, info = self.env.step(action)
        return *(np.expand_dims(value, axis=0) for value in values), self._unsqueezed(info)

    def reset(self, **how: Any) -> Any:
        """As the environment's, with the leading axis."""
        obs, info = self.env.reset(**how)
        return np.expand_dims(obs, axis=0), self._unsqueezed(info)

    @staticmethod
    def _unsqueezed(info: dict[str, Any]) -> dict[str, Any]:
        return {k: np.expand_dims(v, axis=0) if isinstance(v, np.ndarray) else v for k, v in info.items()}


# --- to and from Gymnasium --------------------------------------------------------------------------------------------


class SafetyGymnasium2Gymnasium(Wrapper):
    """Five values per step; the cost moves to `info["cost"]`."""

    def step(self, action: Any) -> Any:
        """As the environment's."""
        obs, reward, cost, terminated, truncated, info = self.env.step(action)
        if "cost" in info:
            logger.warn("info has a 'cost' of its own, which the step's cost replaces.")
        info["cost"] = cost
        return obs, reward, terminated, truncated, info


class Gymnasium2SafetyGymnasium(Wrapper):
    """Six values per step; the cost comes from `info["cost"]`."""

    def step(self, action: Any) -> Any:
        """As the environment's.  Raises ConfigError when it tells no cost."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if "cost" not in info:
            raise NoCost(
                f"{self.env} put no 'cost' into info. Let its step() do so, or wrap it in something that does."
            )
        return obs, reward, info["cost"], terminated, truncated, info


class NoCost(ConfigError, ValueError):
    """A Gymnasium environment without a cost; a ValueError too, as in the original."""


def with_gymnasium_wrappers(env: Any, *wrappers: Callable[[Any], Any]) -> Any:
    """`env` under wrappers of Gymnasium's, which take five values per step; outside it still has six.

    Raises TypeError for a wrapper that cannot be called.
    """
    for wrapper in (SafetyGymnasium2Gymnasium, *wrappers, Gymnasium2SafetyGymnasium):
        if not callable(wrapper):
            raise TypeError(f"{wrapper!r} cannot be called with an environment. Give a class or a function.")
        env = wrapper(env)
    return env
