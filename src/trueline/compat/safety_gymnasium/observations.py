"""A world's observations in the original's forms: one flat vector, or a Dict by sensor, with or without pixels."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import InParts
from trueline.core.errors import ConfigError
from trueline.rl.env import Obs, VectorEnv, Visible, observation_rows

VISION = "vision"


class Observations:
    """How one environment of a world is observed: `space`, and the observations in that form."""

    space: gym.Space[Any]  # of one environment
    parts: gym.spaces.Dict  # by sensor, in order, whatever the form; empty when the world names no parts

    def __init__(self, world: VectorEnv, flatten: bool = True, vision_size: tuple[int, int] | None = None) -> None:
        """flatten: one vector, or a Dict; vision_size: (width, height) of the agent's picture, None for no picture.

        Raises ConfigError when the world cannot be seen in parts, or has no pictures.
        """
        self._world, self._flatten, self._vision_size = world, flatten, vision_size
        own = world.observation_space
        if isinstance(own, gym.spaces.Dict):
            self._own = dict(own.spaces)
        else:
            self._own = dict(world.observation_parts) if isinstance(world, InParts) else {}
        if not self._own and not (flatten and vision_size is None):
            raise ConfigError(
                f"{world.id} does not say which parts its observation has. Leave observation_flatten at True."
            )
        spaces: OrderedDict[str, gym.Space[Any]] = OrderedDict(self._own)
        if vision_size is not None and VISION not in spaces:
            if not isinstance(world, Visible):
                raise ConfigError(f"{world.id} has no pictures. Use the id without Vision.")
            width, height = vision_size
            spaces[VISION] = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.parts = gym.spaces.Dict(spaces)
        # The common case: what the world hands out is what is observed.
        self._plain = flatten and VISION not in spaces and not isinstance(own, gym.spaces.Dict)
        if not self._own:
            self.space = own
        else:
            self.space = gym.spaces.flatten_space(self.parts) if flatten else self.parts

    def row(self, obs: Obs, i: int) -> Any:
        """The observation of environment `i`, a copy: a world may write its next one into the same memory."""
        if self._plain:
            assert not isinstance(obs, dict)
            return np.array(obs[i])
        one = {key: value[0] for key, value in self._split(obs, [i]).items()}
        return gym.spaces.flatten(self.parts, one) if self._flatten else one

    def sensed(self, obs: Obs, i: int) -> dict[str, NDArray[Any]]:
        """Environment `i` by sensor, without pixels; empty when the world names no parts."""
        return {key: value[0] for key, value in self._parts(obs, [i]).items()}

    def rows(self, obs: Obs, ids: list[int]) -> Any:
        """The observations of environments `ids`, stacked: [n, …] or a dict of such; copies."""
        if self._plain:
            assert not isinstance(obs, dict)
            return obs[ids]
        if self._flatten:
            return np.stack([self.row(obs, i) for i in ids])
        return self._split(obs, ids)

    def _split(self, obs: Obs, ids: list[int]) -> dict[str, NDArray[Any]]:
        """By sensor, [n, …] each; pixels are drawn here when the world does not hand them out."""
        out = self._parts(obs, ids)
        if self._vision_size is not None and VISION not in out:
            assert isinstance(self._world, Visible)
            width, height = self._vision_size
            out[VISION] = np.stack([self._world.render(i, width, height, camera=VISION) for i in ids])
        return out

    def _parts(self, obs: Obs, ids: list[int]) -> dict[str, NDArray[Any]]:
        """What the world hands out, by sensor, [n, …] each."""
        chosen = observation_rows(obs, np.array(ids))
        out = {}
        if isinstance(chosen, dict):
            out = {key: chosen[key] for key in self._own}
        else:
            at = 0
            for key, space in self._own.items():
                shape = space.shape or ()
                size = int(np.prod(shape))
                out[key] = chosen[:, at : at + size].reshape(len(ids), *shape).copy()
                at += size
        return out
