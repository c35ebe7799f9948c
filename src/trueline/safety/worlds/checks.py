"""What every world asks of actions, seeds, perturbations and saved states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, unknown

Array = NDArray[np.float64]

_SEEDS_END = 2**32
BEGIN_S = 1.0  # the clock of an episode, so that MuJoCo's own reset, to 0, shows even in the first step


def read_actions(id: str, actions: Any, shape: tuple[int, ...], agent: str = "") -> Array:
    """Actions of `shape` as doubles; `agent`: whose they are, where there are several.

    Raises ConfigError for another shape, and for what is no array of numbers. Whether they are finite is not asked.
    """
    whose = f" for {agent}" if agent else ""
    try:
        given = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{id} was given {actions!r:.60} as actions{whose}. Give an array of numbers of shape {shape}."
        ) from None
    if given.shape != shape:
        raise ConfigError(f"{id} was given actions of shape {given.shape}{whose}. It takes {shape}.")
    return given


def read_seeds(id: str, seeds: Any, count: int) -> NDArray[np.uint32]:
    """The seeds of `count` episodes.

    Raises ConfigError for another number of them, and for what is no whole number of 32 bits.
    """
    try:
        given = np.asarray(seeds)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.dtype.kind not in "iu" or (given < 0).any() or (given >= _SEEDS_END).any():
        raise ConfigError(f"{id} was given the seeds {seeds!r:.60}. Give whole numbers from 0 to {_SEEDS_END - 1}.")
    if given.shape != (count,):
        raise ConfigError(f"seeds of shape {given.shape} were given to {id} for {count} episodes. Give one for each.")
    return given.astype(np.uint32)


def seeded(id: str, seed: int) -> np.random.Generator:
    """Where the seeds of a world's episodes are drawn from.  Raises ConfigError for what is no seed."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed is {seed!r} for {id}. Give a whole number, 0 or more.")
    return np.random.default_rng(seed)


def read_scales(scale: Mapping[str, float | Array], known: Sequence[str], num_envs: int) -> dict[str, Array]:
    """Factors on named nominal quantities as arrays [N].

    Raises ConfigError, before anything has changed, for a name that is not known or a factor that is not positive.
    """
    out = {}
    for name, value in scale.items():
        if name not in known:
            raise ConfigError(unknown("perturbation", name, known))
        values = np.asarray(value, dtype=np.float64)
        if values.shape not in ((), (num_envs,)) or not (np.isfinite(values) & (values > 0)).all():
            raise ConfigError(f"{name} is scaled by {value!r:.80}. Give a positive number or {num_envs} of them.")
        out[name] = np.broadcast_to(values, (num_envs,)).copy()
    return out


def refuse_another(state: Mapping[str, Any], id: str, num_envs: int, shape: tuple[int, ...]) -> None:
    """Raises ConfigError when a saved state is another world's or of another number of environments."""
    if state["world"] != id or state["physics"].shape != shape:
        have, want = f"{len(state['physics'])} × {state['world']}", f"{num_envs} × {id}"
        raise ConfigError(f"the state is of {have}, not of {want}. Make the world with the saved settings.")
