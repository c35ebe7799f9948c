"""One world whose environments belong to several trainings, a block of rows each.

Stepping S·n environments at once costs little more than their physics; S worlds of n would each pay for the calls
around it. To its training a block is a world like any other: it draws the seeds of its own episodes and has a state of
its own, the same as that of a world of n environments would be. It is stepped with all others, by `SharedWorld.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.rl.augmentation.world import Restarts
from trueline.rl.env import Obs, SeedSource, Stateful, Step, VectorEnv, observation_rows, with_rows

__all__ = ["Block", "SharedWorld"]


class SharedWorld:
    """S blocks of n environments; `step` takes the actions of all."""

    def __init__(self, world: VectorEnv, n: int, one: VectorEnv) -> None:
        """world: all S·n environments, which begin episodes in single rows; one: a single one, to compare states."""
        assert isinstance(world, Restarts)
        assert isinstance(world, Stateful)
        self.world, self._restarts, self._stateful = world, world, world
        self.id, self.num_envs, self.costs = world.id, world.num_envs, world.costs
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.max_episode_steps = world.max_episode_steps
        self.seed_source: SeedSource = lambda count: np.zeros(count, np.uint32)  # of episodes begun anew at once
        world.seed_source = one.seed_source = self.seed_source
        world.reset()
        one.reset()
        assert isinstance(one, Stateful)
        self._of_one = one.state_dict()
        self.blocks = [Block(self, slice(first, first + n)) for first in range(0, world.num_envs, n)]

    @property
    def episode_seed(self) -> NDArray[np.uint32]:
        """[S·n]."""
        return self.world.episode_seed

    @episode_seed.setter
    def episode_seed(self, seeds: NDArray[np.uint32]) -> None:
        self.world.episode_seed = seeds

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere."""
        if seeds is None:
            seeds = np.concatenate([block.seed_source(block.num_envs) for block in self.blocks])
        return self.world.reset(seeds)

    def step(self, actions: NDArray[Any]) -> Step:
        """Advance every environment; episodes that end begin anew with a seed of their own block's source."""
        step = self.world.step(actions)
        if not step.ended.any():
            return step
        rows = np.flatnonzero(step.ended)
        counts = [(block, int(step.ended[block.rows].sum())) for block in self.blocks]
        # As many at a time as the block alone would ask for: a stream gives other numbers in other portions.
        seeds = np.concatenate([block.seed_source(count) for block, count in counts if count])
        begun = self._restarts.begin(rows, seeds)
        obs = with_rows(step.obs, rows, observation_rows(begun, rows))
        return Step(obs, step.reward, step.cost, step.terminated, step.truncated, step.final_obs, step.info)

    def begin(self, block: Block, seeds: NDArray[np.uint32]) -> Obs:
        """Begin episodes everywhere in a block; returns its observations."""
        rows = np.arange(block.rows.start, block.rows.stop)
        return observation_rows(self._restarts.begin(rows, seeds), rows)

    def state_of(self, block: Block) -> dict[str, Any]:
        """What a world of the block's environments alone would save."""
        state: dict[str, Any] = _rows_of(self._stateful.state_dict(), self._of_one, block.rows)
        return state

    def load(self, block: Block, state: Mapping[str, Any]) -> Obs:
        """Put a block's environments where a saved state has them; returns its observations."""
        whole = _put_into(self._stateful.state_dict(), self._of_one, block.rows, state)
        return observation_rows(self._stateful.load_state_dict(whole), np.arange(block.rows.start, block.rows.stop))

    def close(self) -> None:
        """Let the world go."""
        self.world.close()


class Block:
    """The environments of one training, as a `VectorEnv` that is Stateful and is stepped with all others."""

    def __init__(self, whole: SharedWorld, rows: slice) -> None:
        self.whole, self.rows = whole, rows
        self.id, self.num_envs, self.costs = whole.id, rows.stop - rows.start, whole.costs
        self.observation_space, self.action_space = whole.observation_space, whole.action_space
        self.max_episode_steps = whole.max_episode_steps
        self.seed_source: SeedSource = whole.seed_source

    @property
    def episode_seed(self) -> NDArray[np.uint32]:
        """[n]."""
        return self.whole.episode_seed[self.rows]

    @episode_seed.setter
    def episode_seed(self, seeds: NDArray[np.uint32]) -> None:
        self.whole.world.episode_seed[self.rows] = seeds

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> Obs:
        """Start a new episode everywhere in the block."""
        return self.whole.begin(self, self.seed_source(self.num_envs) if seeds is None else seeds)

    def step(self, actions: NDArray[Any]) -> Step:
        """Not to be called: one block cannot be stepped while the others stand still."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The state of these environments."""
        return self.whole.state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> Obs:
        """Take up a state of these environments."""
        return self.whole.load(self, state)

    def close(self) -> None:
        """The world goes with the last of its users; see `SharedWorld.close`."""


# What of a state belongs to its environments is what there is more of where there are more of them: `one` is the state
# of a single environment, `whole` that of S·n.


def _rows_of(whole: Any, one: Any, rows: slice) -> Any:
    if isinstance(whole, dict):
        return {key: _rows_of(value, one[key], rows) for key, value in whole.items()}
    if _by_row(whole, one):
        return whole[rows].copy()
    return whole


def _put_into(whole: Any, one: Any, rows: slice, part: Any) -> Any:
    if isinstance(whole, dict):
        return {key: _put_into(value, one[key], rows, part[key]) for key, value in whole.items()}
    if _by_row(whole, one):
        joined = whole.copy()
        joined[rows] = part
        return joined
    return whole


def _by_row(whole: Any, one: Any) -> bool:
    return isinstance(whole, np.ndarray | list) and len(whole) != len(one)
