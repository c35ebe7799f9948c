"""Small worlds that keep the contract, for tests to break or to learn in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from trueline.rl.env import Step


class Drift:
    """A noisy point in the plane, pushed by its actions; two costs; ends outside a disc or after 12 steps."""

    id = "drift"
    costs: tuple[str, ...] = ("right", "off_axis")
    max_episode_steps = 12
    radius = 2.5
    obs_dtype = np.float32

    def __init__(self, num_envs: int, threads: int = 1) -> None:
        self.num_envs, self.threads = num_envs, threads
        self.observation_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (3,), self.obs_dtype)
        self.action_space: gym.Space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(99)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.position = np.zeros((num_envs, 2))
        self.t = np.zeros(num_envs, np.int64)
        self.rngs = [np.random.default_rng(0) for _ in range(num_envs)]
        self.closed = False

    def _begin(self, i: int, seed: int) -> None:
        self.episode_seed[i] = seed
        self.rngs[i] = np.random.default_rng(seed)
        self.position[i] = self.rngs[i].normal(size=2)
        self.t[i] = 0

    def _observe(self) -> Any:
        return np.column_stack([self.position, self.t / self.max_episode_steps]).astype(self.obs_dtype)

    def reset(self, seeds: Any = None) -> Any:
        for i, seed in enumerate(self.seed_source(self.num_envs) if seeds is None else seeds):
            self._begin(i, int(seed))
        return self._observe()

    def _push(self, actions: Any) -> Any:
        return np.clip(np.asarray(actions, np.float64), -1.0, 1.0)

    def step(self, actions: Any) -> Step:
        push = self._push(actions)
        noise = np.stack([rng.normal(size=2) for rng in self.rngs])
        self.position += 0.4 * push + 0.2 * noise
        self.t += 1
        reward = self.position[:, 0] - 0.1 * np.square(push).sum(1)
        cost = np.column_stack([self.position[:, 0] > 1.0, np.abs(self.position[:, 1])]).astype(np.float64)
        terminated = np.linalg.norm(self.position, axis=1) > self.radius
        truncated = self.t >= self.max_episode_steps
        final_obs = self._observe()
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            for i, seed in zip(ended, self.seed_source(len(ended)), strict=True):
                self._begin(int(i), int(seed))
        return Step(self._observe(), reward, cost, terminated, truncated, final_obs)

    def close(self) -> None:
        self.closed = True


class SavedDrift(Drift):
    """Drift whose state travels in a checkpoint."""

    id = "saved-drift"

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self.position.copy(),
            "t": self.t.copy(),
            "seed": self.episode_seed.copy(),
            "rngs": [rng.bit_generator.state for rng in self.rngs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        self.position[:], self.t[:], self.episode_seed[:] = state["position"], state["t"], state["seed"]
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        return self._observe()


class Bandit:
    """One-step episodes with three arms; arm 1 pays most, arm 2 less and costs nothing. Pay is noisy, by the seed."""

    id = "bandit"
    costs = ("cost",)
    max_episode_steps = 1
    pay, price = np.array([0.0, 1.0, 0.8]), np.array([0.0, 1.0, 0.0])

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(7)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)

    def reset(self, seeds: Any = None) -> Any:
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        return np.ones((self.num_envs, 1), np.float32)

    def step(self, actions: Any) -> Step:
        luck = np.sqrt(12.0) * 0.5 * (self.episode_seed / 2.0**32 - 0.5)  # uniform, with a deviation of 0.5
        self.episode_seed[:] = self.seed_source(self.num_envs)
        over, obs = np.ones(self.num_envs, np.bool_), np.ones((self.num_envs, 1), np.float32)
        return Step(obs, self.pay[actions] + luck, self.price[actions][:, None], over, ~over, obs.copy())

    def close(self) -> None:
        pass


class DictDrift(Drift):
    """Drift observed through a dict of a vector and a choice."""

    id = "dict-drift"

    def __init__(self, num_envs: int, threads: int = 1) -> None:
        super().__init__(num_envs, threads)
        self.observation_space = gym.spaces.Dict(
            {"point": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32), "half": gym.spaces.Discrete(2)}
        )

    def _observe(self) -> Any:
        return {"point": super()._observe(), "half": (self.position[:, 0] > 0).astype(np.int64)}
