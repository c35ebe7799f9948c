"""Gymnasium spaces as the tensors a network reads and the actions a world takes.

Observations become a mapping with one float32 row "vector" [N, D] (every flat part, in the space's order) and one
uint8 picture per image part; actions are continuous [-1, 1], one choice, or several choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.env import Obs

Features = dict[str, NDArray[Any]]


def is_image(space: gym.Space[Any]) -> bool:
    """A uint8 box [H, W, C] is a picture; anything else is a vector."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


@dataclass(frozen=True, slots=True)
class ObservationCodec:
    """How observations of one space become network inputs.

    parts: (key, how, width), where key is "" for a space that is no dict and how is "box", "discrete" (one-hot),
    "multi" (several one-hots) or "image".
    """

    parts: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, space: gym.Space[Any]) -> ObservationCodec:
        """The codec of a box, discrete, multi-discrete or dict space. Raises ConfigError for any other."""
        if isinstance(space, gym.spaces.Dict):
            parts = []
            for key, sub in space.spaces.items():
                if isinstance(sub, gym.spaces.Dict):
                    raise ConfigError(f"observation {key!r} is a dict inside a dict. Flatten it to one level of keys.")
                parts.append(_part(key, sub))
            return cls(tuple(parts))
        return cls((_part("", space),))

    @property
    def width(self) -> int:
        """D, the length of the flat vector."""
        return sum(int(np.sum(size)) for _, how, size in self.parts if how != "image")

    @property
    def one_hot(self) -> NDArray[np.bool_]:
        """Which columns of the flat vector are choices written as one-hots, [D]."""
        parts = [np.full(int(np.sum(n)), how in ("discrete", "multi")) for _, how, n in self.parts if how != "image"]
        return np.concatenate(parts) if parts else np.zeros(0, np.bool_)

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """Picture inputs by name, each (H, W, C)."""
        return {f"image/{key}": (size[0], size[1], size[2]) for key, how, size in self.parts if how == "image"}

    def shapes(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Shape and dtype of one row of every input."""
        found: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {}
        if self.width:
            found["vector"] = ((self.width,), np.float32)
        for name, size in self.images.items():
            found[name] = (size, np.uint8)
        return found

    def encode(self, obs: Obs) -> Features:
        """Network inputs of N observations."""
        flat, features = [], {}
        for key, how, size in self.parts:
            value = np.asarray(obs[key] if isinstance(obs, dict) else obs)
            if how == "image":
                features[f"image/{key}"] = value
            elif how == "box":
                flat.append(value.reshape(len(value), -1))
            else:
                choice = value.reshape(len(value), -1)
                flat += [np.eye(n, dtype=np.float32)[choice[:, j]] for j, n in enumerate(size)]
        if len(flat) == 1:
            features["vector"] = flat[0].astype(np.float32, copy=False)
        elif flat:
            features["vector"] = np.concatenate(flat, axis=1).astype(np.float32)
        return features


def _part(key: str, space: gym.Space[Any]) -> tuple[str, str, tuple[int, ...]]:
    if is_image(space):
        return key, "image", tuple(space.shape or ())
    if isinstance(space, gym.spaces.Box):
        return key, "box", (int(np.prod(space.shape)),)
    if isinstance(space, gym.spaces.Discrete):
        if space.start != 0:
            raise ConfigError(f"observation {key!r} counts from {space.start}. Shift it so that it counts from 0.")
        return key, "discrete", (int(space.n),)
    if isinstance(space, gym.spaces.MultiDiscrete):
        if np.any(space.start != 0):
            raise ConfigError(f"observation {key!r} counts from {space.start}. Shift it so that it counts from 0.")
        return key, "multi", tuple(int(n) for n in space.nvec.ravel())
    if isinstance(space, gym.spaces.MultiBinary):
        return key, "box", (int(np.prod(space.shape)),)
    name = type(space).__name__
    raise ConfigError(
        f"observation {key or 'space'!r} is a {name}. "
        "Box, Discrete, MultiDiscrete, MultiBinary and Dict are understood."
    )


@dataclass(frozen=True, slots=True)
class ActionCodec:
    """What a policy outputs: `kind` "continuous" (size = dimensions) or "choices" (sizes = options of each choice)."""

    kind: str
    sizes: tuple[int, ...]
    flat: bool  # a single Discrete: the world takes [N], not [N, 1]

    @classmethod
    def of(cls, space: gym.Space[Any]) -> ActionCodec:
        """The codec of a box, discrete or multi-discrete space. Raises ConfigError for any other."""
        if isinstance(space, gym.spaces.Box):
            if len(space.shape) != 1:
                raise ConfigError(f"the action space has shape {space.shape}. Use one dimension.")
            return cls("continuous", (int(space.shape[0]),), False)
        if isinstance(space, gym.spaces.Discrete):
            return cls("choices", (int(space.n),), True)
        if isinstance(space, gym.spaces.MultiDiscrete):
            return cls("choices", tuple(int(n) for n in space.nvec.ravel()), False)
        raise ConfigError(
            f"the action space is a {type(space).__name__}. Box, Discrete and MultiDiscrete are understood."
        )

    @property
    def width(self) -> int:
        """Columns of a stored action."""
        return self.sizes[0] if self.kind == "continuous" else len(self.sizes)

    @property
    def outputs(self) -> int:
        """Columns of the network's last layer."""
        return sum(self.sizes)

    def to_world(self, action: NDArray[Any]) -> NDArray[Any]:
        """Stored actions [N, width] as the world takes them."""
        if self.kind == "continuous":
            return action
        whole = action.astype(np.int64)
        return whole[:, 0] if self.flat else whole
