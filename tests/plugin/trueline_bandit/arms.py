"""Three arms, and the world in which one episode is one pull."""

import gymnasium as gym
import numpy as np

from trueline.rl.env import Step

SUCCESS = np.array([0.2, 0.5, 0.9])
HARM = np.array([0.0, 0.05, 0.6])


class Bandit:
    costs = ("harm",)
    max_episode_steps = 1
    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(3)

    def __init__(self, id, num_envs):
        self.id, self.num_envs = id, num_envs
        self.seed_source = lambda n: np.arange(n, dtype=np.uint32)

    def reset(self, seeds=None):
        self.episode_seed = self.seed_source(self.num_envs) if seeds is None else seeds
        return np.ones((self.num_envs, 1), np.float32)

    def step(self, actions):
        luck = np.array([np.random.default_rng(int(seed)).random(2) for seed in self.episode_seed])
        ended, never = np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool)
        reward, harm = luck[:, 0] < SUCCESS[actions], luck[:, 1] < HARM[actions]
        return Step(self.reset(), reward.astype(float), harm[:, None].astype(float), ended, never, self.reset())

    def close(self):
        pass


def make(id, num_envs=1, threads=1):
    return Bandit(id, num_envs)
