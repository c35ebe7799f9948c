"""Data from a behaviour that is known exactly, and what each offline row converges to on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from scipy.optimize import brentq, minimize

from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import Accumulated, Outcome, evaluate, occupancy
from trueline.rl.exact.world import TabularWorld
from trueline.rl.offline.data import OfflineData, record


def behaviour(cmdp: Cmdp, seed: int, left_out: float = 0.25) -> Array:
    """[H, S, A]: even chances of the actions used, some of which are never used; one at least is."""
    rng = np.random.default_rng(seed)
    used = rng.random((cmdp.horizon, cmdp.states, cmdp.actions)) >= left_out
    used[..., 0] |= ~used.any(-1)
    return used / used.sum(-1, keepdims=True)


def data_of(cmdp: Cmdp, policy: Array, episodes: int, seed: int = 0, box: bool = False) -> OfflineData:
    """Episodes of a policy table; in the box form an action is uniform within its bin."""
    world = TabularWorld("CmdpBox-v0" if box else "Cmdp-v0", cmdp, 100, box)
    seeds, rng = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    world.seed_source = lambda n: seeds.integers(0, 2**32, n, dtype=np.uint32)
    table = policy.reshape(-1, cmdp.actions).cumsum(-1)

    def act(_: int, obs: Any) -> Any:
        number = obs.argmax(1) if box else obs
        chosen = (table[number, :-1] <= rng.random(len(number))[:, None]).sum(1)
        if not box:
            return chosen
        return (2.0 * (chosen + rng.random(len(chosen))) / cmdp.actions - 1.0)[:, None].astype(np.float32)

    return record(world, act, episodes)


def covered(policy: Array) -> Any:
    """Pairs that a behaviour uses, [H, S, A]."""
    return policy > 0.0


def safe_clone(cmdp: Cmdp, policy: Array, limit: int) -> Array:
    """π_t(a | s) = P(a_t = a | s_t = s, Σc ≤ d): the clone of a behaviour's episodes within the limit, [H, S, A].

    On (state, accumulated cost): the chance of being there times that of ending within the limit from there.
    """
    product = Accumulated.of(cmdp)
    shape = product.shape
    table = np.broadcast_to(policy[:, :, None], shape).reshape(shape[0], -1, shape[3])
    rho = occupancy(product.cmdp, table)
    final = np.zeros((shape[1] * shape[2], shape[3]))
    final[:] = (product.after <= limit).reshape(-1, shape[3])
    joint = np.zeros_like(rho)
    within = final
    for t in reversed(range(cmdp.horizon)):
        joint[t] = rho[t] * within
        value = (table[t] * within).sum(1)
        within = product.cmdp.transition @ value
    joint = joint.reshape(*shape).sum(2)
    total = joint.sum(-1, keepdims=True)
    return np.where(total > 0, joint / np.where(total > 0, total, 1.0), policy)


def regression(cmdp: Cmdp, policy: Array, beta: float, multiplier: Array) -> Array:
    """The fixed point π ∝ μ·exp((Q_r − ΣλQ_c)/β), where Q is that of π itself: one backward pass."""
    signal = cmdp.reward - cmdp.cost @ multiplier
    value, found = np.zeros(cmdp.states), np.zeros_like(policy)
    for t in reversed(range(cmdp.horizon)):
        q = signal + cmdp.transition @ value
        weight = policy[t] * np.exp((q - q.max(1, keepdims=True)) / beta)
        found[t] = weight / weight.sum(1, keepdims=True)
        value = (found[t] * q).sum(1)
    return found


def constrained_regression(cmdp: Cmdp, policy: Array, beta: float) -> tuple[Outcome, float]:
    """That fixed point at the multiplier where its cost is the limit, and the multiplier; one cost."""

    def excess(multiplier: float) -> float:
        table = regression(cmdp, policy, beta, np.array([multiplier]))
        return float(evaluate(cmdp, table).cost[0] - cmdp.limit[0])

    multiplier = brentq(excess, 0.0, 50.0)
    return evaluate(cmdp, regression(cmdp, policy, beta, np.array([multiplier]))), multiplier


def tabular(steps: int, **update: Any) -> Mapping[str, Any]:
    """Settings with which an offline row learns tables in seconds."""
    return {
        "total_steps": steps,
        "steps_per_epoch": steps // 80,
        "gamma": 1.0,
        "cost_gamma": 1.0,
        "actor": {"hidden": []},
        "critic": {"hidden": []},
        "checkpoint_epochs": 1000,
        "update": update,
    }


def dice(cmdp: Cmdp, policy: Array, alpha: float) -> tuple[Array, Array]:
    """The policy [H, S, A] and λ* [K] of COptiDICE at ε = 0 and γ = 1, from its dual; deterministic processes.

    min over ν, λ ≥ 0 of n·start·ν₀ + Σ d [w e − α f(w)] + λ·d̄/H with w = f'⁻¹(e/α), n = 1/H.
    """
    h, s, a = policy.shape
    d = occupancy(cmdp, policy) / h
    limit = np.array(cmdp.limit) / h

    def parts(x: Array) -> tuple[Array, Array]:
        nu, multiplier = x[: h * s].reshape(h, s), x[h * s :]
        following = np.vstack([nu[1:], np.zeros((1, s))]) @ cmdp.transition.reshape(s * a, s).T
        e = cmdp.reward - cmdp.cost @ multiplier + following.reshape(h, s, a) - nu[:, :, None]
        y = e / alpha
        return e, np.where(y < 0.0, np.exp(np.minimum(y, 0.0)), y + 1.0)

    def dual(x: Array) -> tuple[float, Array]:
        e, w = parts(x)
        f = np.where(w < 1.0, w * np.log(np.maximum(w, 1e-300)) - w + 1.0, 0.5 * (w - 1.0) ** 2)
        value = cmdp.start @ x[:s] / h + (d * (w * e - alpha * f)).sum() + x[h * s :] @ limit
        dw = d * w
        nu = -dw.sum(-1)
        nu[0] += cmdp.start / h
        nu[1:] += np.einsum("tsa,saz->tz", dw[:-1], cmdp.transition)
        return float(value), np.concatenate([nu.ravel(), limit - np.einsum("tsa,sak->k", dw, cmdp.cost)])

    k = len(limit)
    found = minimize(
        dual, np.zeros(h * s + k), jac=True, method="L-BFGS-B", bounds=[(None, None)] * (h * s) + [(0.0, None)] * k,
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-14, "gtol": 1e-9},
    )  # fmt: skip
    joint = d * parts(found.x)[1]
    total = joint.sum(-1, keepdims=True)
    return np.where(total > 1e-12, joint / np.where(total > 1e-12, total, 1.0), policy), found.x[h * s :]


class Slope:
    """Spaces of a world of one step and one continuous action; offline rows never step it."""

    id = "slope"
    costs: tuple[str, ...] = ("effort",)
    max_episode_steps = 1

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def close(self) -> None:
        """Nothing to free."""
