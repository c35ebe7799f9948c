"""Exact evaluation of a policy table: occupancy, return, expected costs, and the law of the accumulated cost.

A policy is a table of probabilities over actions, [H, S, A]; one that also looks at the cost accumulated so far is
[H, S, C + 1, A].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Augmentation, Parameters, Terms
from trueline.rl.exact.cmdp import Array, Cmdp


class Plan(NamedTuple):
    """A deterministic policy as a table, and what it earns from the start."""

    value: float
    policy: Array  # [H, S, A]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What episodes of a policy come to, exactly. Outcomes of policies drawn at episode start average: `mixture`."""

    episode_return: float  # J_r
    cost: Array  # [K] J_c
    law: Array | None = None  # [C + 1] P(Σc = i), of one whole-number cost


def occupancy(cmdp: Cmdp, policy: Array) -> Array:
    """ρ_t(s, a), the probability of being in s and doing a at step t: [H, S, A]; sums to 1 in every step."""
    wanted = (cmdp.horizon, cmdp.states, cmdp.actions)
    if policy.shape != wanted:
        raise ConfigError(f"a policy of {cmdp.name!r} is a table {wanted}, but this one has shape {policy.shape}.")
    rho = np.empty(wanted)
    here = cmdp.start
    for t in range(cmdp.horizon):
        rho[t] = here[:, None] * policy[t]
        here = np.einsum("sa,saz->z", rho[t], cmdp.transition)
    return rho


def evaluate(cmdp: Cmdp, policy: Array, law_of: int | None = None) -> Outcome:
    """Exact return and expected costs of a policy, [H, S, A] or [H, S, C + 1, A] by accumulated cost.

    `law_of` is the number of the cost whose accumulated law is wanted too; a policy that looks at the accumulated cost
    looks at this one (or at the only one). Raises ConfigError where that cost is no whole number.
    """
    if law_of is None and policy.ndim == 3:
        rho = occupancy(cmdp, policy).sum(0)
        return Outcome(float((rho * cmdp.reward).sum()), np.einsum("sa,sak->k", rho, cmdp.cost))
    product = Accumulated.of(cmdp, law_of or 0)
    table = np.broadcast_to(policy[:, :, None], product.shape) if policy.ndim == 3 else policy
    if table.shape != product.shape:
        raise ConfigError(
            f"a policy of {cmdp.name!r} that looks at the accumulated {cmdp.costs[law_of or 0]} is a table "
            f"{product.shape}, but this one has shape {policy.shape}."
        )
    rho = occupancy(product.cmdp, table.reshape(cmdp.horizon, -1, cmdp.actions))
    sums = rho.sum(0)
    cost = np.einsum("sa,sak->k", sums, product.cmdp.cost)
    return Outcome(float((sums * product.cmdp.reward).sum()), cost, product.law(rho))


def evaluate_under_rules(
    cmdp: Cmdp, rules: Augmentation, limit: Array, parameters: Parameters, policy: Callable[[int, Array], Array]
) -> Outcome:
    """Exact outcome of a policy that sees the extra state z of an augmentation; what counts is the process's own.

    policy(t, z [M, Z]) gives the table [M, S, A] of step t. The pairs (z, accumulated costs) that can be reached are
    enumerated forwards, each with the chance of every state. Rewards, costs and the end of an episode are the
    process's, whatever the rules make of them in training. The law is that of a single whole-number cost.
    """
    s, a, k = cmdp.states, cmdp.actions, len(cmdp.costs)
    terms = Terms(limit, cmdp.horizon)
    z = rules.start(terms, parameters, 1)
    here = np.concatenate([z, np.zeros((1, k))], axis=1)  # [M, Z + K]
    chance = cmdp.start[None]  # [M, S]
    episode_return = 0.0
    for t in range(cmdp.horizon):
        z, spent = here[:, :-k], here[:, -k:]
        rho = chance[:, :, None] * policy(t, z)  # [M, S, A]
        episode_return += float((rho * cmdp.reward).sum())
        m = len(here)
        cost = np.broadcast_to(cmdp.cost, (m, s, a, k)).reshape(-1, k)
        reward = np.broadcast_to(cmdp.reward, (m, s, a)).ravel()
        after = rules.step(terms, z.repeat(s * a, axis=0), reward, cost).z
        rows = np.concatenate([after, spent.repeat(s * a, axis=0) + cost], axis=1)
        # Sums of the same costs in another order differ in the last bits, and are the same state.
        here, index = np.unique(rows.round(9), axis=0, return_inverse=True)
        chance = np.zeros((len(here), s))
        arriving = rho[..., None] * cmdp.transition  # [M, S, A, S]
        np.add.at(chance, index.ravel(), arriving.reshape(-1, s))
    arrived, spent = chance.sum(1), here[:, -k:]
    whole = k == 1 and not (cmdp.cost != cmdp.cost.round()).any()
    law = None
    if whole:
        most = cmdp.horizon * int(cmdp.cost.max())
        law = np.bincount(spent[:, 0].astype(np.int64), weights=arrived, minlength=most + 1).astype(np.float64)
    return Outcome(episode_return, arrived @ spent, law)


def mixture(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of drawing one of these policies, all equally likely, at the start of every episode."""
    laws = [outcome.law for outcome in outcomes if outcome.law is not None]
    return Outcome(
        float(np.mean([outcome.episode_return for outcome in outcomes])),
        np.mean([outcome.cost for outcome in outcomes], axis=0),
        np.mean(laws, axis=0) if len(laws) == len(outcomes) else None,
    )


def best_plan(cmdp: Cmdp, reward: Array, allowed: NDArray[np.bool_] | None = None) -> Plan:
    """Backward induction: the policy of largest Σ reward.  reward [S, A] or [H, S, A].

    `allowed` [H, S, A] marks the actions it may use, at least one in each state.
    """
    reward = np.broadcast_to(reward, (cmdp.horizon, cmdp.states, cmdp.actions))
    value, policy = np.zeros(cmdp.states), np.zeros(reward.shape)
    for t in reversed(range(cmdp.horizon)):
        q = reward[t] + cmdp.transition @ value
        if allowed is not None:
            q = np.where(allowed[t], q, -np.inf)
        best = q.argmax(1)
        policy[t, np.arange(cmdp.states), best] = 1.0
        value = q.max(1)
    return Plan(float(cmdp.start @ value), policy)


@dataclass(frozen=True, slots=True)
class Accumulated:
    """The process on (state, accumulated cost): in it, limits on the law of Σc are limits on occupancies.

    The accumulated cost runs from 0 to C and stays at C beyond. Product state (s, i) is number s·(C + 1) + i.
    """

    cmdp: Cmdp  # the product process, of S·(C + 1) states
    base: Cmdp
    after: NDArray[np.int64]  # [S, C + 1, A] the accumulated cost that follows

    @classmethod
    def of(cls, cmdp: Cmdp, cost: int = 0, most: int | None = None) -> Accumulated:
        """`most` is C, from where on costs are not told apart; by default they never go beyond it.

        Raises ConfigError where that cost is no whole number.
        """
        whole = cmdp.whole_cost(cost)
        most = cmdp.horizon * int(whole.max()) if most is None else most
        s, a, c = cmdp.states, cmdp.actions, most + 1
        after = np.minimum(np.arange(c)[None, :, None] + whole[:, None, :], most)
        transition = np.zeros((s, c, a, s, c))
        states, levels, actions = np.ogrid[:s, :c, :a]
        # A slice between index arrays: the indexed dimensions come first, then that of the next state.
        transition[states, levels, actions, :, after] = cmdp.transition[:, None, :, :]
        start = np.zeros((s, c))
        start[:, 0] = cmdp.start
        product = Cmdp(
            cmdp.name,
            transition.reshape(s * c, a, s * c),
            np.repeat(cmdp.reward, c, axis=0),
            np.repeat(cmdp.cost, c, axis=0),
            start.ravel(),
            cmdp.horizon,
            cmdp.limit,
            cmdp.costs,
        )
        return cls(product, cmdp, after)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[H, S, C + 1, A] of a policy table."""
        s, c, a = self.after.shape
        return self.base.horizon, s, c, a

    def at_end(self, worth: Array) -> Array:
        """The signal [H, S·(C + 1), A] whose expected sum is E[worth(Σc)].  worth [C + 1]."""
        h, s, c, a = self.shape
        signal = np.zeros((h, s * c, a))
        signal[-1] = worth[self.after].reshape(s * c, a)
        return signal

    def law(self, rho: Array) -> Array:
        """P(Σc = i), [C + 1], from an occupancy [H, S·(C + 1), A] of the product."""
        _, _, c, _ = self.shape
        return np.bincount(self.after.ravel(), weights=rho[-1].ravel(), minlength=c).astype(np.float64)
