"""The vector world: N environments stepped at once, costs beside the reward, and what a world may offer beyond that.

Every world that Trueline trains in has these shapes; `check_env` is the public checker for one's own.
N environments, A action dimensions, K named costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Obs = NDArray[Any] | dict[str, NDArray[Any]]
SeedSource = Callable[[int], NDArray[np.uint32]]


@dataclass(slots=True)
class Step:
    """What one vector step returns.

    `obs` already belongs to the new episode where one ended in this step; `final_obs` holds the last observation of
    the old episode in those rows (`obs` elsewhere), so that a value can be bootstrapped from it.
    """

    obs: Obs
    reward: NDArray[np.float64]  # [N]
    cost: NDArray[np.float64]  # [N, K]
    terminated: NDArray[np.bool_]  # [N] the task itself ended: no value after it
    truncated: NDArray[np.bool_]  # [N] cut off by time: the value of final_obs counts
    final_obs: Obs
    info: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # arrays with leading N

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[N] whether an episode ended in this step, for either reason."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """N copies of one world with same-step autoreset.

    Continuous actions lie in [-1, 1] in every dimension: values outside are clipped, then rescaled once to the
    actuators' range. Every episode is determined by its uint32 seed, `episode_seed[i]`; the seeds of coming autoresets
    are drawn from `seed_source(n)`, which a trainer or an auditor replaces by its own.
    """

    id: str
    num_envs: int
    observation_space: gym.Space[Any]  # of one environment
    action_space: gym.Space[Any]  # of one environment
    costs: tuple[str, ...]  # K names
    max_episode_steps: int
    episode_seed: NDArray[np.uint32]  # [N]
    seed_source: SeedSource

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere, from `seeds` [N] or from `seed_source`; returns the observations."""
        ...

    def step(self, actions: NDArray[Any]) -> Step:
        """Advance every environment by one control interval.  actions: [N, A], or [N] for a discrete space."""
        ...

    def close(self) -> None:
        """Free what the world holds; a closed world is not used again."""
        ...


# What a world may offer beyond stepping. An audit or a trainer asks with isinstance and reports what is missing.


@runtime_checkable
class Stateful(Protocol):
    """A world whose whole state travels in a checkpoint, so that a resumed run is bit-identical."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of arrays and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Obs:
        """Take up the state and return the observations that belong to it."""
        ...


@runtime_checkable
class Perturbable(Protocol):
    """A world whose dynamics can be changed per environment."""

    perturbations: tuple[str, ...]  # names `perturb` takes, such as ("mass", "friction", "gear")

    def perturb(self, **scale: float | NDArray[np.float64]) -> None:
        """Multiply the named nominal quantities by `scale`, a number or [N]; 1 restores. Holds until called again."""
        ...


@runtime_checkable
class Steerable(Protocol):
    """A world in which a goal can be moved and an operator can see whether the body is at rest."""

    def set_goal(self, xy: NDArray[np.float64], mask: NDArray[np.bool_] | None = None) -> None:
        """Move the goal of the environments in `mask` [N] to `xy` [N, 2] metres, within the running episode."""
        ...

    def goal_distance(self) -> NDArray[np.float64]:
        """Distance from agent to goal, metres [N]."""
        ...

    def speed(self) -> NDArray[np.float64]:
        """Planar speed of the agent's body, m/s [N]."""
        ...

    def position(self) -> NDArray[np.float64]:
        """Planar position of the agent's body, metres [N, 2]."""
        ...


@runtime_checkable
class LaidOut(Protocol):
    """A world whose episode starts from an explicit arrangement of objects."""

    def layout(self, i: int) -> dict[str, Any]:
        """The arrangement environment `i` started its episode from: name -> [n][2] metres, "agent_rot" radians."""
        ...

    def set_layout(self, layouts: Mapping[int, Mapping[str, Any]]) -> Obs:
        """Restart the episodes of environments `layouts.keys()` from these arrangements; returns all observations.

        Raises ConfigError naming the object when one is missing, of the wrong count, or when the start is unsafe.
        """
        ...


@runtime_checkable
class Visible(Protocol):
    """A world that can be looked at."""

    def render(self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar") -> NDArray[np.uint8]:
        """Picture of environment `i`, [height, width, 3]. Raises MissingExtra when there is no GL to draw with."""
        ...

    def scene(self, i: int = 0) -> dict[str, Any]:
        """What a drawing without GL needs: {"extent": m, "shapes": [{"kind", "xy", "radius", "rot", "colour"}...]}."""
        ...


def observation_rows(obs: Obs, rows: NDArray[Any]) -> Obs:
    """The rows of an observation, array or dict of arrays alike."""
    if isinstance(obs, dict):
        return {key: value[rows] for key, value in obs.items()}
    return obs[rows]


def with_rows(obs: Obs, rows: NDArray[np.intp], new: Obs) -> Obs:
    """A copy of `obs` whose `rows` are those of `new` [len(rows), ...]."""
    if isinstance(obs, dict):
        assert isinstance(new, dict)
        return {key: _with_rows(value, rows, new[key]) for key, value in obs.items()}
    assert not isinstance(new, dict)
    return _with_rows(obs, rows, new)


def _with_rows(array: NDArray[Any], rows: NDArray[np.intp], new: NDArray[Any]) -> NDArray[Any]:
    copy = array.copy()
    copy[rows] = new
    return copy
