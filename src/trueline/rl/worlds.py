"""From a world's name to N running copies of it: Trueline's own worlds, a plug-in's, or any registered Gymnasium id."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trueline.core import registry
from trueline.core.errors import ConfigError, UnknownName, nearest
from trueline.rl.augmentation.world import shown
from trueline.rl.env import VectorEnv

if TYPE_CHECKING:
    from trueline.rl.multi_agent import MultiAgentVectorEnv
    from trueline.rl.policy import WorldRef


def make(id: str, num_envs: int = 1, threads: int = 1, **options: Any) -> VectorEnv:
    """N copies of the world called `id`.

    threads: how many threads step them (bit-identical at any number); options: the world's own keyword arguments.
    Raises UnknownName with the nearest name when neither the registry nor Gymnasium knows it, ConfigError for an
    option that the world does not take.
    """
    if id in {entry.name for entry in registry.entries("env")}:
        factory = registry.load("env", id)
        _refuse_unknown(id, factory, options)
        made: VectorEnv = factory(id, num_envs=num_envs, threads=threads, **options)
        made.id = id  # a factory around an environment of its own may have called it by its class
        return made
    if id in {entry.name for entry in registry.entries("multi-agent env")}:
        raise ConfigError(
            f"{id} is a world of several agents. Make it with rl.worlds.make_multi_agent or ToPettingZoo."
        )
    import gymnasium as gym

    if id not in gym.registry:
        known = [entry.name for entry in registry.entries("env")] + list(gym.registry)
        raise UnknownName(
            f"no env is called {id!r}.{nearest(id, known)} `trueline list envs` shows ours; any Gymnasium id "
            "works too, with --import for the package that registers it."
        )
    from trueline.rl.from_gymnasium import FromGymnasium

    return FromGymnasium(id, num_envs, **options)


def make_multi_agent(id: str, num_envs: int = 1, threads: int = 1, **options: Any) -> MultiAgentVectorEnv:
    """N copies of the world of several agents called `id`.  Raises UnknownName, or ConfigError for a wrong option."""
    factory = registry.load("multi-agent env", id)
    _refuse_unknown(id, factory, options)
    return factory(id, num_envs=num_envs, threads=threads, **options)


def of(ref: WorldRef, num_envs: int = 1, threads: int = 1) -> VectorEnv:
    """N copies of the world a policy belongs to, as it is: reward, cost and end are the world's own.

    What the policy observes beside the world (a budget, an accumulated cost) is there too; of a team's world all agents
    act as one. Raises as `make` does, and
    ConfigError for a world that no longer has the costs the policy was trained with.
    """
    if ref.id in {entry.name for entry in registry.entries("multi-agent env")}:
        from trueline.rl.multi_agent import as_one

        return as_one(make_multi_agent(ref.id, num_envs, threads, **ref.options))
    return shown(make(ref.id, num_envs, threads, **ref.options), ref.augmentation)


def _refuse_unknown(id: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    takes = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return  # it says itself what it does not take
    own = sorted(set(takes) - {"id", "num_envs", "threads"})
    for option in options:
        if option not in own:
            known = ", ".join(own) or "none"
            raise ConfigError(f"{id} takes no option {option!r}.{nearest(option, own)} Its options are {known}.")
