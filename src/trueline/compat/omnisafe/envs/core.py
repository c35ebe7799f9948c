"""`CMDP`: an environment in tensors, six values per step, and how a class of them becomes a world.

A class is registered under the ids it supports, and from then on those are names of worlds like any other: rows train
in them, audits run in them, `trueline list envs` shows them (with --import for the module that registers them).
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from trueline.compat.omnisafe.common.logger import Logger
from trueline.compat.omnisafe.typing import OmnisafeSpace
from trueline.core import registry
from trueline.core.errors import ConfigError, UnknownName, nearest
from trueline.core.registry import Entry
from trueline.rl.from_gymnasium import FromGymnasium

__all__ = ["CMDP", "CmdpWorld", "env_register", "env_unregister", "logger_of", "make", "make_world", "support_envs"]

Transition = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]


class CMDP(ABC):
    """A constrained Markov decision process in tensors.

    A class says in `_support_envs` which ids it makes, and in `need_time_limit_wrapper` and `need_auto_reset_wrapper`
    whether its episodes are cut at `max_episode_steps`, and begun anew, by who steps it.
    """

    _support_envs: ClassVar[list[str]]
    _action_space: OmnisafeSpace
    _observation_space: OmnisafeSpace
    _metadata: Mapping[str, Any]
    _num_envs: int = 1
    _time_limit: int | None = None
    need_time_limit_wrapper: bool
    need_auto_reset_wrapper: bool

    @classmethod
    def support_envs(cls) -> list[str]:
        """The ids this class makes."""
        return cls._support_envs

    @abstractmethod
    def __init__(self, env_id: str, **kwargs: Any) -> None:
        """Raises UnknownName for an id that the class does not make."""
        if env_id not in self.support_envs():
            known = self.support_envs()
            raise UnknownName(
                f"{type(self).__name__} makes no {env_id!r}.{nearest(env_id, known)} It makes {', '.join(known)}."
            )

    @property
    def action_space(self) -> OmnisafeSpace:
        """Of one environment."""
        return self._action_space

    @property
    def observation_space(self) -> OmnisafeSpace:
        """Of one environment."""
        return self._observation_space

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is cut; None where the environment does that by itself."""
        return None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Such as {"render_fps": 30}."""
        return self._metadata

    @property
    def num_envs(self) -> int:
        """Environments that one step advances."""
        return self._num_envs

    @property
    def time_limit(self) -> int | None:
        """The environment's own limit on steps."""
        return self._time_limit

    @abstractmethod
    def step(self, action: torch.Tensor) -> Transition:
        """Observation, reward, cost, terminated, truncated, info after one action in the action space's own units."""

    @abstractmethod
    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Observation and info at the start of an episode."""

    @abstractmethod
    def set_seed(self, seed: int) -> None:
        """Seed what the environment draws from."""

    @abstractmethod
    def render(self) -> Any:
        """A picture [height, width, 3]."""

    def save(self) -> dict[str, torch.nn.Module]:
        """Networks that belong to the environment; none unless a subclass says so."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Free what the environment holds."""


# --- the register ---

_CLASSES: dict[str, type[CMDP]] = {}  # by class name, as in the original: a class is registered once
_LOGGERS: dict[str, Logger] = {}  # by id


def env_register(env_class: type[CMDP]) -> type[CMDP]:
    """Make a subclass of `CMDP` known under the ids it supports; a decorator.

    Raises ConfigError for anything else, a class that is registered already, or an id that another world has.
    """
    if not (inspect.isclass(env_class) and issubclass(env_class, CMDP)):
        raise ConfigError(f"{env_class!r} cannot be registered. Give a subclass of CMDP.")
    name = env_class.__name__
    if name in _CLASSES:
        raise ConfigError(f"{name} is registered already. Put @env_unregister under @env_register to replace it.")
    taken = {id: other for other, known in _CLASSES.items() for id in known.support_envs()}
    worlds = {entry.name: entry.target for entry in registry.entries("env")}
    for id in env_class.support_envs():
        if id in taken:
            raise ConfigError(f"{id} is made by {taken[id]} already. Give {name} another id.")
        if worlds.get(id, _ENTRY_TARGET) != _ENTRY_TARGET:
            raise ConfigError(f"{id} is a world of Trueline's or of a plug-in. Give {name} another id.")
    for id in env_class.support_envs():
        # Its summary is the same for every class, so that one registered anew under an id is the same entry.
        registry.add(Entry(kind="env", name=id, target=_ENTRY_TARGET, summary="an environment in tensors (CMDP)"))
    _CLASSES[name] = env_class
    return env_class


def env_unregister(env_class: type[CMDP]) -> type[CMDP]:
    """Forget a class, if it is registered; a decorator, for code that is run more than once."""
    _CLASSES.pop(env_class.__name__, None)
    return env_class


def support_envs() -> list[str]:
    """Every id that can be trained in: the registered classes', then the worlds."""
    own = [id for known in _CLASSES.values() for id in known.support_envs()]
    worlds = [entry.name for entry in registry.entries("env") if entry.target != _ENTRY_TARGET]
    return [*own, *worlds]


def make(env_id: str, class_name: str | None = None, **kwargs: Any) -> CMDP:
    """The environment called `env_id`, of the class that makes it. Raises UnknownName where none does."""
    classes = {class_name: _CLASSES[class_name]} if class_name in _CLASSES else _CLASSES
    for known in classes.values():
        if env_id in known.support_envs():
            return known(env_id, **kwargs)
    ids = [id for known in _CLASSES.values() for id in known.support_envs()]
    raise UnknownName(
        f"no registered CMDP makes {env_id!r}.{nearest(env_id, ids)} Put @env_register on the class that does, and "
        "name its module with --import."
    )


def logger_of(env_id: str) -> Logger:
    """What `spec_log` of the environments of an id writes to, in this process."""
    return _LOGGERS.setdefault(env_id, Logger())


# --- as a world ---

_ENTRY_TARGET = f"{__name__}:make_world"


class _SixValues(gym.Env[Any, Any]):
    """One CMDP in arrays: what `FromGymnasium` makes a world of."""

    def __init__(self, env_id: str, options: Mapping[str, Any]) -> None:
        self.env = make(env_id, **{"num_envs": 1, "device": torch.device("cpu"), **options})
        if self.env.num_envs != 1:
            raise ConfigError(
                f"one object of {env_id} steps {self.env.num_envs} environments. Let it step one: vector_env_nums says "
                "how many objects are made."
            )
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self._id = env_id
        self._limit = self.env.max_episode_steps if self.env.need_time_limit_wrapper else None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """A new episode, determined by its seed as far as the environment draws from what it seeds."""
        if seed is not None:
            self.env.set_seed(seed)
            # Environments in the tutorials draw observations from their space.
            self.observation_space.seed(seed)
            self.action_space.seed(seed)
        self._steps = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: NDArray[Any]) -> Any:
        """Six values, as arrays and numbers."""
        outcome = self.env.step(torch.as_tensor(action))
        if len(outcome) != 6:
            raise ConfigError(
                f"a step of {self._id} returned {len(outcome)} values. Return observation, reward, cost, terminated, "
                "truncated and info."
            )
        observation, reward, cost, terminated, truncated, info = outcome
        self._steps += 1
        # Here and not in the world, so that spec_log comes after every episode.
        ended, cut = bool(terminated), bool(truncated) or self._steps == self._limit
        if (ended or cut) and not self.env.need_auto_reset_wrapper:
            observation = self._last(info, cut and not ended, observation)
        if (ended or cut) and hasattr(self.env, "spec_log"):
            self.env.spec_log(logger_of(self._id))
        values = torch.as_tensor(cost, dtype=torch.float64).numpy()
        reported: Any = float(values.reshape(())) if values.size == 1 else values.ravel()
        return self._observed(observation), float(reward), reported, ended, cut, info

    def _last(self, info: Mapping[str, Any], valued: bool, begun: torch.Tensor) -> torch.Tensor:
        """The last observation of an episode after which the environment has already begun the next."""
        if "final_observation" in info:
            final: torch.Tensor = info["final_observation"]
            return final
        if valued:
            raise ConfigError(
                f"{self._id} began a new episode by itself and did not say how the last one ended. Put the last "
                'observation into info["final_observation"], or set need_auto_reset_wrapper = True.'
            )
        return begun  # after a termination nothing is read from it

    def _observed(self, observation: Any) -> NDArray[Any]:
        array = torch.as_tensor(observation).detach().numpy()
        shape = self.observation_space.shape or ()
        if array.size != math.prod(shape):
            raise ConfigError(
                f"{self._id} observed an array of shape {array.shape}, but its observation_space has shape {shape}. "
                "Make them agree."
            )
        return np.array(array, dtype=self.observation_space.dtype).reshape(shape)

    def render(self) -> Any:
        """The environment's own picture."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class CmdpWorld(FromGymnasium):
    """N objects of a registered class as a `VectorEnv`, stepped in turn."""

    def picture(self, i: int = 0) -> NDArray[np.uint8]:
        """What environment `i` shows of itself, [height, width, 3]."""
        shown = self.envs[i].render()
        return np.asarray(shown[-1] if isinstance(shown, list) else shown, dtype=np.uint8)


def make_world(id: str, num_envs: int = 1, threads: int = 1, **options: Any) -> CmdpWorld:  # noqa: ARG001
    """N environments of a registered class; `options` go to its constructor (the original's env_cfgs).

    They are stepped one after another, whatever `threads` says. Raises UnknownName for an id that no class makes any
    more, ConfigError where its episodes have no limit or its spaces cannot be learnt in.
    """
    probe = make(id, **{"num_envs": 1, "device": torch.device("cpu"), **options})
    limit = probe.max_episode_steps or probe.time_limit
    probe.close()
    if limit is None:
        raise ConfigError(f"{id} has no limit on its steps. Let its property max_episode_steps return one.")
    world = CmdpWorld(lambda: _SixValues(id, options), num_envs, max_episode_steps=int(limit))
    world.id = id
    return world
