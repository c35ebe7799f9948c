"""One-step worlds whose costs have names: what limits per cost are tested on. A plug-in, as a user's would be."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from trueline.core.registry import Entry
from trueline.rl.env import Step

# In no order of the alphabet, so that a limit given to the wrong cost shows.
COSTS = {"NoCost-v0": (), "OneCost-v0": ("b",), "TwoCosts-v0": ("b", "a"), "ThreeCosts-v0": ("c", "a", "b")}

ENTRIES = tuple(Entry("env", id, "limit_worlds:Dare", "dare, for a reward and every cost, or not") for id in COSTS)


class Dare:
    """Choice 1 pays 1 and costs 1 of everything, choice 0 nothing: daring with probability p costs p of each."""

    max_episode_steps = 1
    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, id: str, num_envs: int = 1, threads: int = 1) -> None:
        self.id, self.num_envs, self.costs = id, num_envs, COSTS[id]
        self.seed_source: Any = lambda n: np.arange(n, dtype=np.uint32)
        self.episode_seed = np.zeros(num_envs, np.uint32)

    def reset(self, seeds: Any = None) -> Any:
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        return np.ones((self.num_envs, 1), np.float32)

    def step(self, actions: Any) -> Step:
        dared = np.asarray(actions, np.float64).ravel()
        ended, obs = np.ones(self.num_envs, np.bool_), self.reset()
        return Step(obs, dared, np.tile(dared[:, None], len(self.costs)), ended, ~ended, obs.copy())

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.episode_seed.copy()}

    def load_state_dict(self, state: Any) -> Any:
        self.episode_seed[:] = state["seed"]
        return np.ones((self.num_envs, 1), np.float32)

    def close(self) -> None:
        pass
