"""A point between two walls, whose safe set and best safe return are known: the double integrator, its action held.

    p' = p + Δv + ½āΔ²u,   v' = v + āΔu,   |u| ≤ 1,   safe where |p| ≤ extent

This is ṗ = v, v̇ = āu with u held for Δ, free of an integrator's error. Safe is said of the states at steps. *Viable* is
a state from which some policy stays safe for ever. At every later step no action has p lower than full braking has, so
that it is viable exactly if

    p + kΔv − ½ā(kΔ)² ≤ extent   for k = 0, 1, 2, …,   and the same of (−p, −v)

In continuous time the left side comes to p + v²/2ā at most; between steps it may be lower, by up to āΔ²/8.

An episode starts at rest in the middle. A step pays p/extent where it ends, beyond the walls too: the limit is all that
keeps the point from running away, and the best within it is to stop at the wall as soon as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.rl.env import SeedSource, Step

STEEP = 8  # power of the danger: below a hundredth up to half of the way to a wall, 1 at it


class DoubleIntegrator:
    """N points between walls; it is Stateful and Certifiable, and tells its viable set and best safe return."""

    costs: tuple[str, ...] = ("wall",)
    excitation = 0.4  # added to each of the controller's actions, whatever its signs, it does not saturate them

    def __init__(
        self,
        id: str,
        num_envs: int,
        extent: float = 1.0,
        acceleration: float = 1.0,
        interval: float = 0.1,
        steps: int = 40,
    ) -> None:
        """extent: m; acceleration: ā in m/s²; interval: Δ in s; steps: of an episode.

        Raises ConfigError for numbers that are not positive, and for steps so long that one may lead past both walls.
        """
        sizes = {"extent": extent, "acceleration": acceleration, "interval": interval, "steps": steps}
        for name, value in sizes.items():
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}. Give a number above 0.")
        # With longer steps the controller would swing, and beyond √8 times as long braking from one wall hit the other.
        if acceleration * interval**2 > 0.25 * extent:
            raise ConfigError(
                f"a step of {interval} s at {acceleration} m/s² is too long between walls at {extent} m. Give an "
                f"interval of at most {0.5 * np.sqrt(extent / acceleration):.3g} s."
            )
        self.id, self.num_envs, self.max_episode_steps = id, num_envs, steps
        self.extent, self.acceleration, self.interval = extent, acceleration, interval
        self.observation_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space: gym.Space[Any] = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, dtype=np.uint32)
        own = np.random.default_rng()
        self.seed_source: SeedSource = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.state = np.zeros((num_envs, 2))  # p in m, v in m/s
        self.t = np.zeros(num_envs, dtype=np.int64)
        rate = np.sqrt(acceleration / extent)
        self.start = torch.zeros(2)
        self.region = torch.tensor([extent, 3.0 * rate * extent], dtype=torch.float32)  # no viable one is above 2
        self._gain = torch.tensor([rate**2, 2.0 * rate], dtype=torch.float32) / acceleration

    # -- stepping --

    def reset(self, seeds: NDArray[np.uint32] | None = None) -> NDArray[np.float32]:
        """New episodes everywhere: all are alike, whatever their seeds."""
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        self.state[:], self.t[:] = 0.0, 0
        return self._observed()

    def _observed(self) -> NDArray[np.float32]:
        return self.state.astype(np.float32)

    def after(self, state: NDArray[np.float64], action: NDArray[Any]) -> NDArray[np.float64]:
        """Where actions [N] lead from states [N, 2] in a step."""
        p, v = state.T
        gained = self.acceleration * self.interval * np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        return np.stack([p + self.interval * (v + 0.5 * gained), v + gained], axis=1)

    def step(self, actions: NDArray[Any]) -> Step:
        """One step of every episode; time cuts it off."""
        self.state = self.after(self.state, actions[:, 0])
        self.t += 1
        p = self.state[:, 0].copy()
        over = self.t >= self.max_episode_steps
        final_obs = self._observed()
        rows = np.flatnonzero(over)
        if len(rows):
            self.episode_seed[rows] = self.seed_source(len(rows))
            self.state[rows], self.t[rows] = 0.0, 0
        cost = (np.abs(p) > self.extent).astype(np.float64)[:, None]
        return Step(self._observed(), p / self.extent, cost, np.zeros_like(over), over, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """States, steps and seeds."""
        return {"state": self.state.copy(), "t": self.t.copy(), "episode_seed": self.episode_seed.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Go on from there."""
        self.state, self.t = np.array(state["state"]), np.array(state["t"], dtype=np.int64)
        self.episode_seed[:] = state["episode_seed"]
        return self._observed()

    def close(self) -> None:
        """Nothing to free."""

    # -- what is known in advance (Certifiable) --

    def danger(self, obs: Tensor) -> Tensor:
        """(p/extent)⁸ + (v/top)⁸ [...]: above 1 beyond a wall and at speeds that no braking would end in time."""
        return (obs / self.region).pow(STEEP).sum(-1)

    def controller(self, obs: Tensor) -> Tensor:
        """u = −(ω²p + 2ωv)/ā, ω² = ā/extent: back to the middle, critically damped.  [..., 2] -> [..., 1]."""
        return -(obs @ self._gain)[..., None].clamp(-1.0, 1.0)

    # -- ground truth --

    def room(self, state: NDArray[np.floating]) -> NDArray[np.float64]:
        """Metres left to a wall when all is done to avoid it, [...] of states [..., 2]; viable from 0 on.

        The nearest whole number of steps to |v|/āΔ is that of the highest point of braking.
        """
        p, v = np.asarray(state[..., 0], dtype=np.float64), np.asarray(state[..., 1], dtype=np.float64)
        seconds = np.round(np.abs(v) / (self.acceleration * self.interval)) * self.interval
        needed = seconds * np.abs(v) - 0.5 * self.acceleration * seconds**2
        ahead = np.where(v >= 0.0, p, -p)
        return np.minimum(self.extent - np.abs(p), self.extent - ahead - needed)

    def viable(self, state: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether the walls can be avoided for ever, [...] of states [..., 2]."""
        return self.room(state) >= 0.0

    def best_actions(self) -> NDArray[np.float64]:
        """The actions [T] of the safe episode of the highest return, by a linear programme.

        p after step t is Σ_{j ≤ t} āΔ²(t − j + ½)uⱼ.
        """
        from scipy.optimize import linprog

        steps = np.arange(self.max_episode_steps)
        since = steps[:, None] - steps
        position = np.where(since >= 0, (since + 0.5) * self.acceleration * self.interval**2, 0.0)
        bound = np.full(2 * len(steps), self.extent)
        found = linprog(-position.sum(0), np.concatenate([position, -position]), bound, bounds=(-1.0, 1.0))
        actions: NDArray[np.float64] = found.x
        return actions

    def best_return(self) -> float:
        """The highest return of a safe episode."""
        state, total = np.zeros((1, 2)), 0.0
        for action in self.best_actions():
            state = self.after(state, np.array([action]))
            total += float(state[0, 0]) / self.extent
        return total


def make(
    id: str,
    num_envs: int = 1,
    threads: int = 1,  # noqa: ARG001  (a step is too short to be shared)
    extent: float = 1.0,
    acceleration: float = 1.0,
    interval: float = 0.1,
    steps: int = 40,
) -> DoubleIntegrator:
    """`num_envs` points between walls.  Raises ConfigError for sizes that are none."""
    return DoubleIntegrator(id, num_envs, extent, acceleration, interval, steps)
