"""From a world's name to N running copies of it: Trueline's own worlds, a plug-in's, or any registered Gymnasium id."""

from __future__ import annotations

from typing import Any

from trueline.core import registry
from trueline.core.errors import UnknownName, nearest
from trueline.rl.env import VectorEnv


def make(id: str, num_envs: int = 1, threads: int = 1, **options: Any) -> VectorEnv:
    """N copies of the world called `id`.

    threads: how many threads step them (bit-identical at any number); options: the world's own keyword arguments.
    Raises UnknownName with the nearest name when neither the registry nor Gymnasium knows it.
    """
    if id in {entry.name for entry in registry.entries("env")}:
        return registry.load("env", id)(id, num_envs=num_envs, threads=threads, **options)
    import gymnasium as gym

    if id not in gym.registry:
        known = [entry.name for entry in registry.entries("env")] + list(gym.registry)
        raise UnknownName(
            f"no env is called {id!r}.{nearest(id, known)} `trueline list envs` shows ours; any Gymnasium id "
            "works too, with --import for the package that registers it."
        )
    from trueline.rl.from_gymnasium import FromGymnasium

    return FromGymnasium(id, num_envs, **options)
