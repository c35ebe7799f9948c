"""Running whole episodes of a policy on named layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.rl.env import Obs, Step, VectorEnv
from trueline.rl.policy import Acts


@dataclass(slots=True)
class Episodes:
    """E finished episodes, in the order of their seeds."""

    seed: NDArray[np.uint32]  # [E]
    episode_return: NDArray[np.float64]  # [E]
    cost: NDArray[np.float64]  # [E, K] undiscounted sums
    length: NDArray[np.int64]  # [E]


# Called after every step with (step index, actions, step, rows still counted [N]); may look at the world, not step it.
Watch = Callable[[int, NDArray[Any], Step, NDArray[np.bool_]], None]
# Called before every step with (step index, observations); returns the actions to take.
Act = Callable[[int, Obs], NDArray[Any]]


def policy_actions(policy: Acts, rng: np.random.Generator, deterministic: bool = False) -> Act:
    """The policy's actions, its memory carried along."""
    memory: Any = None

    def act(_: int, obs: Obs) -> NDArray[Any]:
        nonlocal memory
        actions, memory = policy.act(obs, memory, rng, deterministic)
        return actions

    return act


def run_episodes(
    env: VectorEnv,
    seeds: Sequence[int] | NDArray[np.uint32],
    act: Callable[[int], Act],
    watch: Watch | None = None,
    progress: Callable[[int], None] | None = None,
) -> Episodes:
    """One episode per seed, N at a time.

    `act(wave)` makes the actor of each wave of N episodes, so that a memory or an operator starts afresh. A last wave
    that is not full repeats its first seed and leaves the repeats out. Episodes of unequal length are simply waited
    for: what a world does after its own episode ended is not counted.
    """
    seeds = np.asarray(seeds, dtype=np.uint32)
    n, k = env.num_envs, len(env.costs)
    episode_return, cost = np.zeros(len(seeds)), np.zeros((len(seeds), k))
    length = np.zeros(len(seeds), dtype=np.int64)
    for wave, first in enumerate(range(0, len(seeds), n)):
        here = seeds[first : first + n]
        obs = env.reset(np.concatenate([here, np.full(n - len(here), here[0], dtype=np.uint32)]))
        actor = act(wave)
        counted = np.arange(n) < len(here)
        for t in range(env.max_episode_steps):
            actions = actor(t, obs)
            step = env.step(actions)
            rows = np.flatnonzero(counted)
            episode_return[first + rows] += step.reward[rows]
            cost[first + rows] += step.cost[rows]
            length[first + rows] += 1
            if watch is not None:
                watch(t, actions, step, counted.copy())
            counted &= ~step.ended
            obs = step.obs
            if not counted.any():
                break
        if progress is not None:
            progress(len(here))
    return Episodes(seeds, episode_return, cost, length)
