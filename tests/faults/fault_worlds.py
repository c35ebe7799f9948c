"""A plug-in of worlds for the fault tests: one cheap world that can be stored, and Gymnasium ones that go wrong."""

import gymnasium as gym
import numpy as np

from trueline.core.registry import Entry
from trueline.rl.env import Step

ENTRIES = (Entry("env", "Drift-v0", "fault_worlds:Drift", "walk to a goal on a line; beyond 0.5 it costs"),)


class Drift:
    """x ← x + 0.2·a; reward −|x − goal|, cost 1 beyond x = 0.5; episodes of 10 steps.  All state is in `state_dict`."""

    costs = ("beyond",)
    max_episode_steps = 10
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, id, num_envs=1, threads=1):
        self.id, self.num_envs = id, num_envs
        self.seed_source = lambda n: np.arange(n, dtype=np.uint32)
        self.x, self.goal, self.t = np.zeros(num_envs), np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.episode_seed = np.zeros(num_envs, np.uint32)

    def _begin(self, rows, seeds):
        self.episode_seed[rows] = seeds
        self.goal[rows] = [np.random.default_rng(int(seed)).uniform(0.0, 1.0) for seed in seeds]
        self.x[rows], self.t[rows] = 0.0, 0

    def _obs(self):
        return np.column_stack([self.x, self.goal]).astype(np.float32)

    def reset(self, seeds=None):
        self._begin(np.arange(self.num_envs), self.seed_source(self.num_envs) if seeds is None else seeds)
        return self._obs()

    def step(self, actions):
        self.x = self.x + 0.2 * np.clip(actions[:, 0], -1.0, 1.0)
        self.t = self.t + 1
        reward, cost, final = -np.abs(self.x - self.goal), (self.x > 0.5)[:, None].astype(float), self._obs()
        truncated = self.t >= self.max_episode_steps
        if truncated.any():
            rows = np.flatnonzero(truncated)
            self._begin(rows, self.seed_source(len(rows)))
        return Step(self._obs(), reward, cost, np.zeros(self.num_envs, bool), truncated, final)

    def state_dict(self):
        return {"x": self.x, "goal": self.goal, "t": self.t, "seed": self.episode_seed.copy()}

    def load_state_dict(self, state):
        self.x, self.goal, self.t, self.episode_seed = (state[name].copy() for name in ("x", "goal", "t", "seed"))
        return self._obs()

    def close(self):
        pass


class TurnsNan(gym.Env):
    """Gives nan from its 55th step on, counted over episodes: as `what` says in the reward or the observation."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, what):
        self.what, self.steps = what, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        bad = np.nan if self.steps >= 55 else 0.0
        obs = np.full(2, bad if self.what == "observation" else 0.0, np.float32)
        return obs, bad if self.what == "reward" else 0.0, False, False, {"cost": 0.0}


for _what in ("reward", "observation"):
    gym.register(f"Nan{_what.capitalize()}-v0", TurnsNan, kwargs={"what": _what}, max_episode_steps=10)
