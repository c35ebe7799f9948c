"""LOOP: a plan that ends in a value sees as far as the value does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from test_planning_line import Line, moved

from trueline.rl.env import Step

HORIZON_STEPS, FAR, NEAR = 20, 0.55, 0.05


def pay(x: Any) -> Any:
    """Nothing up to 0.05, a loss on the way to 0.55, a gain beyond: who looks two steps ahead stays where it is."""
    return np.where(x > FAR, 1.0, np.where(x > NEAR, -0.2, 0.0))


class Dip(Line):
    """The line with that reward, from where the seed says."""

    max_episode_steps = HORIZON_STEPS

    def __init__(self, num_envs: int, id: str = "dip") -> None:
        super().__init__(num_envs, id=id)

    def _begin(self, rows: Any) -> None:
        self.x[rows], self.t[rows] = start_of(self.episode_seed[rows]), 0

    def reset(self, seeds: Any = None) -> Any:
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        self._begin(np.arange(self.num_envs))
        return self._observe()

    def step(self, actions: Any) -> Step:
        self.x = moved(self.x, np.asarray(actions, np.float64)[:, 0])
        self.t += 1
        reward, cost = pay(self.x), (self.x > 2.0).astype(np.float64)[:, None]
        over, final_obs = self.t >= HORIZON_STEPS, self._observe()
        if over.any():
            rows = np.flatnonzero(over)
            self.episode_seed[rows] = self.seed_source(len(rows))
            self._begin(rows)
        return Step(self._observe(), reward, cost, np.zeros_like(over), over, final_obs)

    def signals(self, obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor, steps: int) -> torch.Tensor:
        paid = torch.from_numpy(pay(after.double().numpy())).to(after.dtype)
        return float(steps) * torch.cat([paid, torch.zeros_like(after)], dim=-1)


def start_of(seed: Any) -> Any:
    """−0.5, −0.48, …, 0.88 by turns."""
    return np.round(-0.5 + 0.02 * (np.asarray(seed, np.int64) % 70), 9)


def best_return(x0: Any) -> Any:
    """By dynamic programming on a lattice of 0.02, on which a step is at most five."""
    x = np.round(np.arange(-50, 51) * 0.02, 9)
    value = np.zeros(len(x))
    for _ in range(HORIZON_STEPS):
        moves = np.clip(np.arange(len(x))[:, None] + np.arange(-5, 6), 0, len(x) - 1)
        value = (pay(x[moves]) + value[moves]).max(1)
    return value[np.searchsorted(x, np.asarray(x0) - 1e-9)]


def dip(id: str, num_envs: int, threads: int = 1) -> Dip:
    return Dip(num_envs, id)


def test_the_best_return_is_what_crossing_at_once_is_worth():
    """From 0: five steps at a loss, 0.1 to 0.5, and fifteen at a gain; from 0.88 every step gains."""
    np.testing.assert_allclose(best_return([0.0, 0.88]), [-0.2 * 5 + 15.0, 20.0])
    # From −0.5 five steps of nothing go before: −0.4 to 0.
    np.testing.assert_allclose(best_return([-0.5]), [-0.2 * 5 + 10.0])
