"""A point on a line whose best return under a limit is known: in closed form, and by brute dynamic programming.

x' = clip(x + 0.1·a, −1, 1) from x = 0, reward x', cost 1 beyond 0.45, twelve steps. Deterministic, so that the best
return under a limit d on the episode's cost is one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from trueline.rl.check_env import check_env
from trueline.rl.env import Step

GAIN, EDGE, STEPS = 0.1, 0.45, 12
SINGLE = 1e-5  # what single precision may err by: the world charges from so far beyond the edge
FREE, SAFE = 7.5, 4.6  # best return without a limit, and with a limit of 0


def moved(x: Any, a: Any, gain: float = GAIN) -> Any:
    clip = torch.clamp if isinstance(x, torch.Tensor) else np.clip
    return clip(x + gain * clip(a, -1.0, 1.0), -1.0, 1.0)


class Line:
    """The world; it tells its reward and cost, and may jump: at x ≥ `home` the point is put back to 0."""

    costs: tuple[str, ...] = ("beyond",)
    max_episode_steps = STEPS

    def __init__(self, num_envs: int, home: float = 9.0, id: str = "line") -> None:
        self.id, self.num_envs, self.home = id, num_envs, home
        self.observation_space: gym.Space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space: gym.Space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(3)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.x, self.t = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def _observe(self) -> Any:
        return self.x[:, None].astype(np.float32)

    def reset(self, seeds: Any = None) -> Any:
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        self.x[:], self.t[:] = 0.0, 0
        return self._observe()

    def step(self, actions: Any) -> Step:
        self.x = moved(self.x, np.asarray(actions, np.float64)[:, 0])
        self.t += 1
        reward, cost = self.x.copy(), (self.x > EDGE + SINGLE).astype(np.float64)[:, None]
        home = self.x >= self.home
        self.x[home] = 0.0
        over = self.t >= STEPS
        final_obs = self._observe()
        if over.any():
            rows = np.flatnonzero(over)
            self.episode_seed[rows] = self.seed_source(len(rows))
            self.x[rows], self.t[rows] = 0.0, 0
        return Step(self._observe(), reward, cost, np.zeros_like(over), over, final_obs, {"goal_met": home})

    def signals(self, obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor, steps: int) -> torch.Tensor:
        x = after[..., :1]
        return float(steps) * torch.cat([x, (x > EDGE).to(x.dtype)], dim=-1)

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x.copy(), "t": self.t.copy(), "seed": self.episode_seed.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        self.x[:], self.t[:], self.episode_seed[:] = state["x"], state["t"], state["seed"]
        return self._observe()

    def close(self) -> None:
        pass


class Untold(Line):
    """The same world, telling nothing."""

    signals = None  # type: ignore[assignment]


def line(id: str, num_envs: int, threads: int = 1, home: float = 9.0) -> Line:
    return Line(num_envs, home, id)


def best(limit: int | None) -> float:
    """The optimum by dynamic programming over position and what is left of the limit, on a lattice of 0.05."""
    unit = GAIN / 2.0
    x = np.round(np.arange(-20, 21) * unit, 9)
    left = STEPS if limit is None else limit  # no episode costs more
    value = np.zeros((len(x), left + 1))
    for _ in range(STEPS):
        q = np.full((5, *value.shape), -np.inf)
        for k, move in enumerate((-2, -1, 0, 1, 2)):
            to = np.clip(np.arange(len(x)) + move, 0, len(x) - 1)
            price = (x[to] > EDGE + 1e-9).astype(int)
            for b in range(left + 1):
                can = price <= b
                q[k, can, b] = x[to[can]] + value[to[can], b - price[can]]
        value = q.max(0)
    return float(value[20, left])


def gap(episode_return: float, limit: int) -> float:
    """(J* − J)/(J_unconstrained − J_safest)."""
    return (optimum(limit) - episode_return) / (FREE - SAFE)


def optimum(limit: int) -> float:
    """Σ min(0.1·t, 0.45), and the last d steps 0.1 farther each: d ≤ 6 keeps under the end of the line."""
    return sum(min(GAIN * t, EDGE) for t in range(1, STEPS + 1)) + GAIN * limit * (limit + 1) / 2.0


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4])
def test_the_closed_form_is_what_dynamic_programming_finds(limit):
    assert best(limit) == pytest.approx(optimum(limit), abs=1e-9)


def test_without_a_limit_it_is_best_to_run_to_the_end():
    assert best(None) == pytest.approx(FREE, abs=1e-9)
    assert optimum(0) == pytest.approx(SAFE, abs=1e-9)


def test_it_is_a_world():
    check_env(lambda n: Line(n))
