"""What a task and its costs see of N worlds: arrays [N, …] that the engine keeps up to date."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueline.safety.worlds.compiled import loop

Array = NDArray[np.float64]


@dataclass(slots=True)
class Scene:
    """The present state; k objects of each kind of thing. Only the engine writes it."""

    agent: Array  # [N, 3] centre of the agent, metres
    rotation: Array  # [N, 3, 3] its orientation
    velocity: Array  # [N, 2] of its centre along the ground, m/s
    places: dict[str, Array]  # name -> [N, k, 3] metres
    speeds: dict[str, Array]  # name -> [N, k, 3] m/s, of things that move
    touches: dict[str, Array]  # name -> [N, k] contacts with the agent, of things that a cost or the task asks for
    chosen: NDArray[np.intp]  # [N] which object is the target, where one of several is
    wait: NDArray[np.int64]  # [N] steps until targets can be seen again

    def ground_distance(self, name: str) -> Array:
        """Distances from the agent to the objects of a kind along the ground, metres [N, k]."""
        places = self.places[name]
        out = np.empty(places.shape[:2])
        loop(ground_distances, (3, 2), (2,))(places, self.agent, out)
        return out


def ground_distances(places: Array, agent: Array, out: Array) -> None:
    """out [N, k] ← distances along the ground from agent [N, 3] to places [N, k, 3]."""
    for i in range(places.shape[0]):
        for k in range(places.shape[1]):
            x, y = places[i, k, 0] - agent[i, 0], places[i, k, 1] - agent[i, 1]
            out[i, k] = math.sqrt(x * x + y * y)
