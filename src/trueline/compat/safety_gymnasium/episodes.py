"""The rows of a world, each going from episode to episode on one random stream, as Safety-Gymnasium's do.

In the original `reset(seed=s)` starts a stream, and every `reset()` after it goes on with that stream. A world that is
`Held` does the same here, bit for bit. Under any other world each episode has a seed of its own, drawn from a generator
that the first seeds start: deterministic, but not the original's layouts from the second episode on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import Held, Native, StepsNative
from trueline.core.errors import ConfigError
from trueline.rl.env import Obs, Stateful, Step, VectorEnv

Take = Callable[[Any], Step]


def check_seed(seed: Any) -> int:
    """A seed of the legacy generator, 0 to 2³² − 1.  Raises ConfigError for anything else."""
    if not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**32:
        raise ConfigError(
            f"seed is {seed!r:.80}, but episodes have 32-bit seeds. Give a whole number up to 4294967295."
        )
    return int(seed)


def native_actions(world: VectorEnv) -> tuple[gym.Space[Any], Take]:
    """The actions of one environment in the actuators' own units, and the step that takes N of them."""
    if isinstance(world, StepsNative):
        return world.native_action_space, world.step_native
    if not isinstance(world, Native):
        return world.action_space, world.step
    space = world.native_action_space
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1.0).all() and (high == 1.0).all():
        return space, world.step  # the same numbers: rescaling them would cost their last bits
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    return space, lambda actions: world.step((actions - middle) / half)


class _Rows(Protocol):
    """How the episodes of N rows follow one another; of a row that ended `final_obs` counts until it is begun."""

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32] | None) -> Obs: ...

    def step(self, actions: Any) -> Step: ...

    def copy_from(self, other: Any) -> None: ...


class _OnOneStream:
    """Of a world that can be held."""

    def __init__(self, world: VectorEnv, held: Held, take: Take) -> None:
        self._world, self._held, self.step = world, held, take
        held.autoreset = False

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32] | None) -> Obs:
        if seeds is not None and len(rows) == self._world.num_envs:
            return self._world.reset(seeds)
        return self._held.begin(rows, seeds)

    def copy_from(self, other: _OnOneStream) -> None:
        pass  # the stream is the world's, and travels in its state


class _OnSeedsOfTheirOwn:
    """Of any other world, which has begun the next episode by the time one ends."""

    def __init__(self, world: VectorEnv, take: Take) -> None:
        self._world, self._take = world, take
        self._rng = np.random.default_rng(0)
        self._waiting = np.zeros(world.num_envs, np.bool_)  # rows whose next episode the world has begun
        self._next: Obs = {}
        world.seed_source = self._draw

    def _draw(self, n: int) -> NDArray[np.uint32]:
        return self._rng.integers(0, 2**32, n, dtype=np.uint32)

    def step(self, actions: Any) -> Step:
        step = self._take(actions)
        self._waiting, self._next = step.terminated | step.truncated, step.obs
        return step

    def begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32] | None) -> Obs:
        everyone = len(rows) == self._world.num_envs
        if seeds is None and self._waiting[rows].all():
            self._waiting[rows] = False
            return self._next
        if not everyone:
            raise ConfigError(
                f"{self._world.id} cannot begin episodes of single rows. Use max_episode_steps = "
                f"{self._world.max_episode_steps} or more, or make the environments one by one."
            )
        self._waiting[:] = False
        if seeds is not None:
            self._rng = np.random.default_rng(seeds.tolist())
        return self._world.reset(self._draw(len(rows)) if seeds is None else seeds)

    def copy_from(self, other: _OnSeedsOfTheirOwn) -> None:
        self._rng, self._waiting, self._next = deepcopy((other._rng, other._waiting, other._next))


class Episodes:
    """N rows of a world. What holds now: `obs`, `steps`, `terminated`, `truncated` by row; `last`, the last step."""

    def __init__(self, world: VectorEnv, seeds: Sequence[int], take: Take, steps_limit: int | None = None) -> None:
        """seeds [N]: what each row starts from unless it is given another; take: the world's step, of native actions;
        steps_limit: after which an episode is truncated. Raises ConfigError when the world does not go on so long.
        """
        self.world, self.num_envs = world, world.num_envs
        self.steps = np.zeros(self.num_envs, np.int64)
        self.terminated = np.ones(self.num_envs, np.bool_)  # nothing runs before the first reset
        self.truncated = np.zeros(self.num_envs, np.bool_)
        self.obs: Obs = {}
        self.last: Step | None = None
        self.started = False
        self._closed = False
        self._due: dict[int, int] = dict(enumerate(seeds))  # row -> seed of its next episode
        longest = world.max_episode_steps
        if steps_limit is not None and steps_limit > longest:
            raise ConfigError(
                f"num_steps is {steps_limit}, but {world.id} truncates at {longest} itself. Give {longest} or less."
            )
        self.limit = longest if steps_limit is None else int(steps_limit)
        self._rows: _Rows = (
            _OnOneStream(world, world, take) if isinstance(world, Held) else _OnSeedsOfTheirOwn(world, take)
        )

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[N] rows whose episode is over, or has never begun."""
        return self.terminated | self.truncated

    def seed_next(self, row: int, seed: int) -> None:
        """Let the next episode of `row` start from `seed`."""
        self._due[row] = check_seed(seed)

    def start(self, seeds: Sequence[int | None]) -> Obs:
        """New episodes in all rows: from a seed [N], or, where that is None, on from where the row's stream stands."""
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds were given for {self.num_envs} environments. Give one each.")
        given = [self._due.get(row) if seed is None else check_seed(seed) for row, seed in enumerate(seeds)]
        fresh = np.array([row for row, seed in enumerate(given) if seed is not None], np.intp)
        others = np.array([row for row, seed in enumerate(given) if seed is None], np.intp)
        self._due.clear()
        self.started, self.last = True, None
        if len(others):
            self._begin(others, None)
        if len(fresh):
            self._begin(fresh, np.array([seed for seed in given if seed is not None], np.uint32))
        return self.obs

    def go_on(self, rows: NDArray[np.intp]) -> Obs:
        """The next episodes of `rows`, each on its random stream; the observations of all N."""
        self._begin(rows, None)
        return self.obs

    def _begin(self, rows: NDArray[np.intp], seeds: NDArray[np.uint32] | None) -> None:
        self.obs = self._rows.begin(rows, seeds)
        self.steps[rows], self.terminated[rows], self.truncated[rows] = 0, False, False

    def step(self, actions: Any) -> Step:
        """One step of all rows, actions [N, A] in native units. Of a row that ends `final_obs` counts."""
        step = self._rows.step(actions)
        self.steps += 1
        self.terminated = step.terminated.copy()
        self.truncated = step.truncated | (self.steps >= self.limit)
        self.obs, self.last = step.final_obs, step
        return step

    def copy_from(self, other: Episodes) -> None:
        """Be where `other` is; both worlds are Stateful."""
        if other.started:
            assert isinstance(self.world, Stateful)
            assert isinstance(other.world, Stateful)
            self.world.load_state_dict(other.world.state_dict())
        self.started = other.started
        self._rows.copy_from(other._rows)
        self._due = dict(other._due)
        self.obs, self.last = deepcopy(other.obs), deepcopy(other.last)
        for name in ("steps", "terminated", "truncated"):
            getattr(self, name)[:] = getattr(other, name)

    def close(self) -> None:
        """Free the world; again is harmless."""
        if not self._closed:
            self._closed = True
            self.world.close()
