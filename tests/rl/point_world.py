"""A planar point mass with a goal and a hazard whose motion has a closed form, and policies whose answers are known.

v' = (1 − 0.2·friction)·v + 0.1·(gear/mass)·a,   x' = x + 0.1·v'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from trueline.core.errors import ConfigError
from trueline.rl.env import Step
from trueline.rl.policy import WorldRef

DT, DRAG, HAZARD_M, GOAL_M = 0.1, 0.2, 0.5, 0.3
WORLD = WorldRef(id="point-world")


class PointWorld:
    """Observes goal − x, v, hazard − x, all [2]; cost 1 inside the hazard; reward is progress, +1 at the goal."""

    costs: tuple[str, ...] = ("hazard",)
    perturbations = ("mass", "friction", "gear")

    def __init__(self, id: str = "point-world", num_envs: int = 1, threads: int = 1, steps: int = 60) -> None:
        self.id, self.num_envs, self.max_episode_steps = id, num_envs, steps
        self.observation_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float64)
        self.action_space: gym.Space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(5)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.x, self.v, self.goal, self.hazard = (np.zeros((num_envs, 2)) for _ in range(4))
        self.t = np.zeros(num_envs, np.int64)
        self.rngs = [np.random.default_rng(0) for _ in range(num_envs)]
        self.layouts: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self.scale = {name: np.ones(num_envs) for name in self.perturbations}

    def _place(self, i: int, layout: Mapping[str, Any]) -> None:
        self.layouts[i] = {name: np.asarray(xy).tolist() for name, xy in layout.items()}
        self.x[i], self.goal[i], self.hazard[i] = layout["agent"][0], layout["goal"][0], layout["hazards"][0]
        self.v[i], self.t[i] = 0.0, 0

    def _begin(self, i: int, seed: int) -> None:
        self.episode_seed[i], self.rngs[i] = seed, np.random.default_rng(seed)
        while True:
            xy = self.rngs[i].uniform(-1.5, 1.5, (3, 1, 2))
            if np.linalg.norm(xy[0] - xy[2]) > 0.55 and np.linalg.norm(xy[1] - xy[2]) > 0.7:
                break
        self._place(i, {"agent": xy[0], "goal": xy[1], "hazards": xy[2], "agent_rot": 0.0})

    def _observe(self) -> Any:
        return np.column_stack([self.goal - self.x, self.v, self.hazard - self.x])

    def reset(self, seeds: Any = None) -> Any:
        for i, seed in enumerate(self.seed_source(self.num_envs) if seeds is None else seeds):
            self._begin(i, int(seed))
        return self._observe()

    def step(self, actions: Any) -> Step:
        push = np.clip(np.asarray(actions, np.float64), -1.0, 1.0)
        before = self.goal_distance()
        drag, gain = 1.0 - DRAG * self.scale["friction"], DT * self.scale["gear"] / self.scale["mass"]
        self.v = drag[:, None] * self.v + gain[:, None] * push
        self.x = self.x + DT * self.v
        self.t += 1
        met = self.goal_distance() <= GOAL_M
        reward = before - self.goal_distance() + met
        cost = (np.linalg.norm(self.hazard - self.x, axis=1) < HAZARD_M).astype(np.float64)[:, None]
        for i in np.flatnonzero(met):
            self.goal[i] = self.rngs[i].uniform(-1.5, 1.5, 2)
        final_obs, over = self._observe(), self.t >= self.max_episode_steps
        ended = np.flatnonzero(over)
        if len(ended):
            for i, seed in zip(ended, self.seed_source(len(ended)), strict=True):
                self._begin(int(i), int(seed))
        return Step(self._observe(), reward, cost, np.zeros_like(over), over, final_obs)

    def perturb(self, **scale: Any) -> None:
        for name, value in scale.items():
            self.scale[name][:] = value

    def set_goal(self, xy: Any, mask: Any = None) -> None:
        where = np.ones(self.num_envs, bool) if mask is None else mask
        self.goal[where] = xy[where]

    def goal_distance(self) -> Any:
        return np.linalg.norm(self.goal - self.x, axis=1)

    def speed(self) -> Any:
        return np.linalg.norm(self.v, axis=1)

    def position(self) -> Any:
        return self.x.copy()

    def layout(self, i: int) -> dict[str, Any]:
        return self.layouts[i]

    def set_layout(self, layouts: Mapping[int, Mapping[str, Any]]) -> Any:
        for layout in layouts.values():
            if np.linalg.norm(np.subtract(layout["agent"], layout["hazards"])) < HAZARD_M:
                raise ConfigError("the agent starts inside hazards[0]. Keep it 0.5 m from its centre.")
        for (i, layout), seed in zip(layouts.items(), self.seed_source(len(layouts)), strict=True):
            self.episode_seed[i], self.rngs[i] = seed, np.random.default_rng(int(seed))
            self._place(i, layout)
        return self._observe()

    def state_dict(self) -> dict[str, Any]:
        names = ("x", "v", "goal", "hazard", "t", "episode_seed")
        rngs = [rng.bit_generator.state for rng in self.rngs]
        return {name: getattr(self, name).copy() for name in names} | {"rngs": rngs, "scale": {**self.scale}}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        for name in ("x", "v", "goal", "hazard", "t", "episode_seed"):
            getattr(self, name)[:] = state[name]
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        return self._observe()

    def close(self) -> None:
        pass


class Affine:
    """a = W·o + b + noise·ε, clipped by the world; differentiable.  W [2, 6], b [2]."""

    world = WORLD

    def __init__(self, weight: Any = np.zeros((2, 6)), bias: Any = (0.0, 0.0), noise: float = 0.0) -> None:
        self.weight, self.bias, self.noise = np.asarray(weight, np.float64), np.asarray(bias, np.float64), noise

    def act(self, obs: Any, memory: Any, rng: Any, deterministic: bool = False) -> tuple[Any, Any]:
        mean = obs @ self.weight.T + self.bias
        return (mean if deterministic else mean + self.noise * rng.normal(size=mean.shape)), memory

    def mean_action(self, vector: torch.Tensor) -> torch.Tensor:
        return vector @ torch.tensor(self.weight.T, dtype=torch.float32) + torch.tensor(self.bias, dtype=torch.float32)


class Constant(Affine):
    """Ignores what it observes, and says so: its mean action has no gradient at all."""

    def mean_action(self, vector: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.bias, dtype=torch.float32).expand(len(vector), 2)


# Drives to the goal and brakes on the way.
CHASE = np.hstack([2.0 * np.eye(2), -1.0 * np.eye(2), np.zeros((2, 2))])
