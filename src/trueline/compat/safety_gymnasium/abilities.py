"""What this face asks of a world beyond `rl.env.VectorEnv`, each asked for with isinstance.

A world without one of them still runs; what is lost is said where it is asked for and in the migration guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.rl.env import Obs, Step


@runtime_checkable
class Held(Protocol):
    """A world whose rows can be held at the end of an episode, and go on without a new seed.

    Safety-Gymnasium draws the next episode from the random stream in which the last one left off. Only a world can do
    so: it alone knows how much of the stream an episode has used, the one double per control step included.
    """

    autoreset: bool  # True is `VectorEnv`'s rule; False: a row that ended stays as it is, `obs` equal to `final_obs`

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[Any] | None = None) -> Obs:
        """Start new episodes in `rows` alone, at any time; returns the observations of all N.

        From `seeds` [len(rows)] or, without them, from where each row's own random stream stands.
        """
        ...


@runtime_checkable
class Native(Protocol):
    """A world that says which actions its actuators take; [-1, 1] stands for this range in `step`."""

    native_action_space: gym.spaces.Box  # of one environment, bounds and dtype as the original's


@runtime_checkable
class StepsNative(Native, Protocol):
    """A world that can be stepped in its actuators' own units."""

    def step_native(self, actions: NDArray[Any]) -> Step:
        """As `step`, with actions [N, A] in native units.

        What the original computes from the action as it was given, such as a control cost, is computed from that;
        what reaches the physics is clipped as there.
        """
        ...


@runtime_checkable
class AgentsStepNative(Protocol):
    """A world of several agents that can be stepped in its actuators' own units."""

    native_action_spaces: Mapping[str, gym.spaces.Box]  # of one environment, by agent

    def step_native(self, actions: Mapping[str, NDArray[Any]]) -> Any:
        """As `step`, with actions [N, A] by agent in native units; see `StepsNative`."""
        ...


@runtime_checkable
class InParts(Protocol):
    """A world whose flat observation is made of named parts."""

    observation_parts: Mapping[str, gym.spaces.Box]  # the original's keys and spaces, in the order of the flat vector


@runtime_checkable
class Located(Protocol):
    """A world that says where things are now."""

    def located(self, i: int) -> Mapping[str, NDArray[np.float64]]:
        """Of environment `i`: kind of thing -> centres [k, 3], metres.

        And of the agent: "agent" [1, 3], "agent_rotation" [3, 3] (body to world), "agent_velocity" [3] m/s.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """A world that was given as data, which says what things are made of and what is asked for."""

    world: Any  # a `safety.worlds.World`


@runtime_checkable
class Deep(Protocol):
    """A world whose `render` takes mode="depth" and gives float32 [height, width], metres from the camera's plane."""

    planes_m: tuple[float, float]  # the near and the far plane, beyond which nothing is drawn


@runtime_checkable
class Windowed(Protocol):
    """A world that shows itself in a window and says which keys are held down in it."""

    window: Any  # None until there is one; then `held()` gives the letters of I, J, K and L that are down
