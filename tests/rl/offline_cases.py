"""Data from a behaviour that is known exactly, what each offline row converges to on it, and how it is trained there.

`CASES` and `CLONE` are what the tests hold the rows to, and `benchmarks/offline_gaps.py` measures with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from scipy.optimize import brentq, minimize

from trueline.core import registry
from trueline.core.config import build
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import Accumulated, Outcome, evaluate, occupancy
from trueline.rl.exact.gap import InstanceGap, measure_gap
from trueline.rl.exact.optimum import Expected
from trueline.rl.exact.suite import instance
from trueline.rl.exact.world import TabularWorld
from trueline.rl.offline.data import OfflineData, record, write_parquet
from trueline.rl.offline.training import OfflineRecipe
from trueline.rl.policy import NetworkPolicy
from trueline.safety.recipes import offline as rows

EPISODES = 4000  # of a data set


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


def free(cmdp: Cmdp) -> tuple[float, ...]:
    """Limits that nothing exceeds."""
    return tuple(cmdp.horizon * cmdp.cost.max((0, 1)) + 1.0)


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


def constrained_regression(cmdp: Cmdp, policy: Array, beta: float) -> tuple[Array, float]:
    """That fixed point at the multiplier where its cost is the limit, and the multiplier; one cost."""

    def excess(multiplier: float) -> float:
        table = regression(cmdp, policy, beta, np.array([multiplier]))
        return float(evaluate(cmdp, table).cost[0] - cmdp.limit[0])

    multiplier = brentq(excess, 0.0, 50.0)
    return regression(cmdp, policy, beta, np.array([multiplier])), multiplier


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


def cautious(cmdp: Cmdp, policy: Array) -> Array:
    """CPQ's fixed point, one backward pass: the best action used whose cost to come is within the limit, else the
    cheapest; what is beyond counts for the least that an episode can pay.
    """
    s, k, limit = cmdp.states, len(cmdp.costs), np.array(cmdp.limit)
    floor = min(0.0, cmdp.horizon * float(cmdp.reward.min()))
    value, cost, found = np.zeros(s), np.zeros((s, k)), np.zeros_like(policy)
    for t in reversed(range(cmdp.horizon)):
        q_r, q_c = cmdp.reward + cmdp.transition @ value, cmdp.cost + np.einsum("saz,zk->sak", cmdp.transition, cost)
        within = (q_c <= limit).all(-1)
        worth = np.where(within, q_r, floor - np.maximum(q_c - limit, 0.0).sum(-1))
        best = np.where(covered(policy)[t], worth, -np.inf).argmax(1)
        each = np.arange(s)
        found[t, each, best] = 1.0
        value, cost = np.where(within[each, best], q_r[each, best], floor), q_c[each, best]
    return found


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


# -- each row, what it is trained on, and what it is held to -----------------------------------------------------------


class Case(NamedTuple):
    """A row on the episodes of a behaviour in a process."""

    row: OfflineRecipe
    cmdp: Cmdp
    settings: Mapping[str, Any]
    fixed_point: Callable[[Cmdp, Array], Array] | None = None  # (process, μ) -> π; None: the best the data support
    limited: bool = True  # False: the problem without limits
    behaviour_seed: int = 0

    @property
    def mu(self) -> Array:
        """The behaviour, [H, S, A]."""
        return behaviour(self.cmdp, self.behaviour_seed)

    @property
    def problem(self) -> Expected:
        """The best that the data support."""
        return Expected(self.cmdp.limit if self.limited else free(self.cmdp), covered(self.mu))

    def target(self) -> Outcome:
        """What the row should come to."""
        if self.fixed_point is None:
            return self.problem.solve(self.cmdp).outcome
        return evaluate(self.cmdp, self.fixed_point(self.cmdp, self.mu))


def recorded(case: Case, folder: Path, seed: int = 0) -> str:
    """The path of a case's data, drawn by a seed."""
    write_parquet(data_of(case.cmdp, case.mu, EPISODES, seed), folder / "data.parquet")
    return str(folder / "data.parquet")


def trained(case: Case, path: str, seed: int = 0) -> InstanceGap:
    """One training on data; every policy on the way is evaluated exactly, against the best that the data support."""
    settings = {**case.settings, "dataset": path}
    (found,) = measure_gap(case.row, lambda _: case.problem, [case.cmdp], settings, (seed,)).trainings
    return found


GARNET, TOLLS = instance("Garnet1"), instance("Tolls")
# Limits away from every cost to come, so that no estimate has to be exact. In the second every step pays 3 less: every
# policy loses the same, and none becomes better than another.
WIDER = replace(TOLLS, limit=(4.5,))
LOWERED = replace(instance("Corridor"), name="Corridor-lowered", reward=instance("Corridor").reward - 3.0, limit=(2.1,))
LAG = {"constraint": {"kind": "lagrangian", "rule": "sgd", "lr": 0.002, "init": 0.0}, "multiplier_after": 300}
PENALISED = tabular(800, lr=0.05, critic_lr=0.05, model_lr=0.05, polyak=0.1, batch=128)


def _crr(beta: float) -> Case:
    settings = tabular(1000, lr=0.03, critic_lr=0.03, polyak=0.1, beta=beta, weight_max=1e4)
    return Case(rows.CRR, GARNET, settings, lambda cmdp, mu: regression(cmdp, mu, beta, np.zeros(1)), limited=False)


CASES: dict[str, Case] = {
    "bc-safe": Case(rows.BC_SAFE, GARNET, tabular(400, lr=0.05),
                    lambda cmdp, mu: safe_clone(cmdp, mu, int(cmdp.limit[0]))),
    "bcq": Case(rows.BCQ, GARNET, tabular(800, lr=0.03, critic_lr=0.05, polyak=0.1), limited=False),
    # Its policy jumps between two vertices, so that the average takes many iterates.
    "bcq-lag": Case(rows.BCQ_LAG, GARNET,
                    {**tabular(2000, lr=0.02, critic_lr=0.03, polyak=0.1), **LAG, "steps_per_epoch": 8}),
    "crr, β = 0.3": _crr(0.3),
    "crr, β = 0.1": _crr(0.1),
    "c-crr": Case(rows.C_CRR, GARNET,
                  {**tabular(2400, lr=0.02, critic_lr=0.02, polyak=0.1, beta=0.1, weight_max=1e4), **LAG},
                  lambda cmdp, mu: constrained_regression(cmdp, mu, 0.1)[0]),
    "coptidice": Case(rows.COPTIDICE, TOLLS,
                      tabular(2000, lr=0.02, alpha=0.1, epsilon=0.0, multiplier_lr=0.005),
                      lambda cmdp, mu: dice(cmdp, mu, 0.1)[0]),
    "cpq, rewards above 0": Case(rows.CPQ, WIDER, PENALISED, cautious),
    "cpq, rewards below 0": Case(rows.CPQ, LOWERED, PENALISED, cautious, behaviour_seed=1),
}  # fmt: skip


# -- continuous actions: one state, one step that pays −(a − 0.8)² and costs 1 + a -------------------------------------


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


def slope(id: str, num_envs: int, threads: int = 1) -> Slope:
    """The world by its id."""
    return Slope(num_envs)


def trained_on_actions(
    folder: Path, row: OfflineRecipe, action: Array, settings: Mapping[str, Any], seed: int = 0
) -> NetworkPolicy:
    """A row trained on actions [n] of the slope."""
    registry.add(Entry("env", "Offline-Slope-v0", "offline_cases:slope", "for tests"), "tests")
    one, over = np.ones((len(action), 1), np.float32), np.ones(len(action), np.bool_)
    data = OfflineData(one, action[:, None].astype(np.float32), -np.square(action - 0.8), (1.0 + action)[:, None],
                       one, over, ~over, costs=("effort",))  # fmt: skip
    write_parquet(data, folder / "slope.parquet")
    nets = {"actor": {"hidden": [16]}, "critic": {"hidden": [32]}}
    world = {"env": "Offline-Slope-v0", "dataset": str(folder / "slope.parquet"), "gamma": 1.0, "cost_gamma": 1.0}
    config = build(row.Config, {**nets, **settings, **world})
    with Run.create(folder, kind="train", name=row.name, config=config, seed=seed) as run:
        policy: NetworkPolicy = row.train(config, run, {})
    return policy


def drawn_actions(policy: NetworkPolicy, count: int = 4000) -> Array:
    """Actions [count] that a policy takes there."""
    return policy.act(np.ones((count, 1), np.float32), None, np.random.default_rng(0))[0][:, 0].astype(np.float64)


class Clone(NamedTuple):
    """An auto-encoder on normal actions, and the normal that it should draw."""

    mean: float
    deviation: float  # s, of the data
    settings: Mapping[str, Any]

    @property
    def drawn_deviation(self) -> float:
        """√(s² − κ/4), κ the weight of the latents' KL.

        Its loss, (a − D)² + κ·KL/2 with the KL summed over two latents, is κ/2 times the negative evidence bound of
        a = D(z) + ε, ε ~ N(0, κ/4), up to a constant. Of normal data that bound is the likelihood where D is linear,
        so that no other decoder has a lower loss; and the policy draws D(z) without ε.
        """
        return math.sqrt(self.deviation**2 - self.settings["update"]["kl_weight"] / 4.0)

    def draws(self, folder: Path, seed: int = 0, count: int = 20_000) -> Array:
        """Actions [count] of a training."""
        data = np.random.default_rng(seed).normal(self.mean, self.deviation, EPISODES).clip(-1.0, 1.0)
        return drawn_actions(trained_on_actions(folder, rows.VAE_BC, data, self.settings, seed), count)


CLONE = Clone(
    -0.2, 0.2,
    {"total_steps": 700, "steps_per_epoch": 700, "update": {"batch": 128, "lr": 5e-3, "kl_weight": 0.05}},
)  # fmt: skip
