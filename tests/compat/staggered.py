"""Worlds without physics whose episodes end at different times, and whose every number is known beforehand.

Row i draws from the legacy generator of its seed: two doubles at the start of an episode, of which the second says how
many steps it has (3 to 6), and one for each step, as Safety-Gymnasium's worlds do.
"""

import gymnasium as gym
import numpy as np

from trueline.core import registry
from trueline.rl.env import Step

LIMIT = 6
DEPTH_M = 2.0
LOW, HIGH = np.array([-20.0, -0.5]), np.array([20.0, 1.5])


class Keys:
    """A window, and a user who holds down I and J."""

    def __init__(self):
        self.shown = []

    def held(self):
        return frozenset("IJ")


class Plain:
    """Observation: the episode's first double, steps taken, and the action [-1, 1] of the last step."""

    costs = ("cost_sum",)
    max_episode_steps = LIMIT

    def __init__(self, id, num_envs, threads=1, diverges_at=0):
        self.id, self.num_envs, self.diverges_at = id, num_envs, diverges_at
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.seed_source = lambda n: np.zeros(n, np.uint32)
        self.rngs = [np.random.RandomState(0) for _ in range(num_envs)]
        self.obs, self.length = np.zeros((num_envs, 4)), np.ones(num_envs)
        self.used = np.zeros(num_envs, int)  # steps whose doubles have not been drawn yet
        self.closed = False

    def _start(self, rows, seeds):
        for row, seed in zip(rows, seeds, strict=True):
            if seed is None:
                self.rngs[row].random_sample(self.used[row])
            else:
                self.rngs[row], self.episode_seed[row] = np.random.RandomState(int(seed)), seed
            first, second = self.rngs[row].random_sample(2)
            self.obs[row], self.length[row], self.used[row] = (first, 0.0, 0.0, 0.0), 3 + int(4 * second), 0

    def reset(self, seeds=None):
        self._start(range(self.num_envs), self.seed_source(self.num_envs) if seeds is None else seeds)
        return self.obs

    def step(self, actions):
        self.obs[:, 1] += 1
        self.obs[:, 2:] = np.clip(actions, -1.0, 1.0)
        self.used += 1
        steps = self.obs[:, 1]
        ended = steps >= self.length
        terminated = ended & (self.length < LIMIT)
        diverged = (steps == self.diverges_at) & (self.obs[:, 0] < 0.5)
        info = {"goal_met": steps == 2, "diverged": diverged, "cost_heat": (steps == 1).astype(float)}
        reward, cost = self.obs[:, 0] * steps, (steps == 1).astype(float)[:, None]
        final = self.obs.copy()
        truncated = (ended & ~terminated) | diverged
        if self.autoreset and (terminated | truncated).any():
            rows = np.flatnonzero(terminated | truncated)
            self._start(rows, self.seed_source(len(rows)))
        return Step(self.obs, reward, cost, terminated, truncated, final, info)

    autoreset = property(lambda self: True)

    def close(self):
        self.closed = True


class Able(Plain):
    """The same with every ability that is asked for."""

    autoreset = True
    window = None
    planes_m = (0.1, 50.0)

    def __init__(self, id, num_envs, threads=1, diverges_at=0):
        super().__init__(id, num_envs, threads, diverges_at)
        self.native_action_space = gym.spaces.Box(LOW, HIGH, dtype=np.float64)
        self.observation_parts = {
            "double": gym.spaces.Box(0.0, 1.0, (1,), np.float64),
            "rest": gym.spaces.Box(-np.inf, np.inf, (3, 1), np.float64),
        }

    def begin(self, rows, seeds=None):
        self._start(rows, [None] * len(rows) if seeds is None else seeds)
        return self.obs

    def located(self, i):
        return {
            "agent": np.array([[i, self.obs[i, 1], 0.1]]),
            "agent_rotation": np.eye(3),
            "agent_velocity": np.zeros(3),
            "goal": np.array([[3.0, self.obs[i, 1] + 4.0, 0.0]]),
            "hazards": np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]),
        }

    def render(self, i=0, width=256, height=256, camera="fixedfar", mode="rgb", lidar=False, cost=0.0):
        if mode == "human":
            self.window = self.window or Keys()
            self.window.shown.append((lidar, cost))
            return None
        if mode == "depth":
            return np.full((height, width), DEPTH_M, np.float32)
        return np.full((height, width, 3), len(camera), np.uint8) + np.uint8(i)

    def scene(self, i=0):
        return {"extent": 1.0, "shapes": []}

    def state_dict(self):
        states = [rng.get_state() for rng in self.rngs]
        return {
            "obs": self.obs.copy(),
            "length": self.length.copy(),
            "used": self.used.copy(),
            "keys": np.stack([state[1] for state in states]),
            "at": [int(state[2]) for state in states],
        }

    def load_state_dict(self, state):
        for name in ("obs", "length", "used"):
            getattr(self, name)[:] = state[name]
        for rng, key, at in zip(self.rngs, state["keys"], state["at"], strict=True):
            rng.set_state(("MT19937", key, at))
        return self.obs


ABLE, PLAIN = "SafetyPointStagger0-v0", "SafetyPointStagger1-v0"


def register():
    """Both worlds under names that the face takes for navigation tasks."""
    for name, target in ((ABLE, "staggered:Able"), (PLAIN, "staggered:Plain")):
        registry.add(registry.Entry("env", name, target, "episodes that end at different times"))
