"""Random small CMDPs, and what can be said of them by listing everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import linprog

from trueline.rl.exact.cmdp import Cmdp


def random_cmdp(seed: int, states: int = 2, actions: int = 2, costs: int = 1, horizon: int = 3) -> Cmdp:
    """Dense transitions, costs 0 to 2, and limits between what is always and what is never met."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    cost = rng.integers(0, 3, (states, actions, costs)).astype(float)
    reward = rng.random((states, actions)) + 0.4 * cost.sum(-1)
    names = tuple(f"c{k}" for k in range(costs))
    start = rng.dirichlet(np.ones(states))
    bare = Cmdp("random", transition, reward, cost, start, horizon, (0.0,) * costs, names)
    points = np.array([expectations(bare, policy)[1:] for policy in deterministic(bare)])
    limit = tuple(0.6 * points.min(0) + 0.4 * points.max(0))
    return Cmdp("random", transition, reward, cost, start, horizon, limit, names)


def deterministic(cmdp: Cmdp) -> Iterator[np.ndarray]:
    """Every deterministic policy of time and state, [H, S, A]."""
    eye = np.eye(cmdp.actions)
    for choice in itertools.product(range(cmdp.actions), repeat=cmdp.horizon * cmdp.states):
        yield eye[list(choice)].reshape(cmdp.horizon, cmdp.states, cmdp.actions)


def histories(cmdp: Cmdp, policy: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
    """(probability, return, cost [K]) of every sequence of states and actions, one by one.

    policy [H, S, A], or [H, S, C + 1, A] by the accumulated first cost.
    """

    def on(t: int, s: int, p: float, r: float, c: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
        if t == cmdp.horizon:
            yield p, r, c
            return
        chances = policy[t, s] if policy.ndim == 3 else policy[t, s, round(c[0])]
        for a in range(cmdp.actions):
            for z in range(cmdp.states):
                chance = p * chances[a] * cmdp.transition[s, a, z]
                if chance > 0.0:
                    yield from on(t + 1, z, chance, r + cmdp.reward[s, a], c + cmdp.cost[s, a])

    for s in range(cmdp.states):
        yield from on(0, s, cmdp.start[s], 0.0, np.zeros(len(cmdp.costs)))


def expectations(cmdp: Cmdp, policy: np.ndarray) -> np.ndarray:
    """[1 + K] J_r and J_c by stepping the distribution over states."""
    here, total = cmdp.start, np.zeros(1 + len(cmdp.costs))
    for t in range(cmdp.horizon):
        joint = here[:, None] * policy[t]
        total[0] += (joint * cmdp.reward).sum()
        total[1:] += (joint[..., None] * cmdp.cost).sum((0, 1))
        here = np.einsum("sa,saz->z", joint, cmdp.transition)
    return total


def best_mixture(value: np.ndarray, used: np.ndarray, limit: Any) -> float:
    """max Σ w·value over weights of listed policies with Σ w·used ≤ limit.  value [P], used [P, M]."""
    found = linprog(-value, used.T, np.atleast_1d(limit), np.ones((1, len(value))), [1.0])
    return -found.fun if found.status == 0 else -np.inf
