"""The exact optimum of each constrained problem that a learner may claim to solve.

A problem is a frozen value: `solve` gives its optimum on a CMDP, `constrained` what it limits of any policy's outcome.
Limits on expected costs are linear in the occupancy of (t, s) (`occupancy.py`), limits on the law of the accumulated
cost in that of (t, s, accumulated cost).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import Accumulated, Outcome, best_plan, evaluate
from trueline.rl.exact.occupancy import Infeasible, Slacks, Solution, cost_rows, maximise, policy_of, shown


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best policy of a problem, and what it attains by exact evaluation."""

    outcome: Outcome
    constrained: Array  # [M] what the problem limits
    policy: Array  # [H, S, A], or [H, S, C + 1, A] by accumulated cost
    multipliers: Array | None = None  # [M] λ*, the return gained per unit of limit; None where there is no dual

    @property
    def value(self) -> float:
        """J*, the return."""
        return self.outcome.episode_return


class Problem(Protocol):
    """What is maximised under which limits."""

    @property
    def name(self) -> str:
        """Its key in `PROBLEMS`."""
        ...

    @property
    def limit(self) -> tuple[float, ...]:
        """[M] limits of the constrained quantities."""
        ...

    @property
    def cost_limit(self) -> tuple[float, ...]:
        """[K] d, the cost per episode that the limits are about: what a recipe's `cost_limit` is set to."""
        ...

    @property
    def limit_on(self) -> Mapping[str, Any] | None:
        """The kind of limit as a recipe's `limit_on` names it (`augmentation/kinds.py`); None for expected costs."""
        ...

    def solve(self, cmdp: Cmdp) -> Optimum:
        """Raises Infeasible where no policy meets the limits, ConfigError where the problem does not fit `cmdp`."""
        ...

    def constrained(self, outcome: Outcome) -> Array:
        """[M] the limited quantities of an outcome (with the law of its cost, where `needs_law`)."""
        ...

    def span(self, cmdp: Cmdp) -> Array:
        """[M] the range of each limited quantity: what one per cent of it is taken of."""
        ...

    @property
    def needs_law(self) -> bool:
        """Whether it limits more than expected costs."""
        ...

    @property
    def unit(self) -> float:
        """How many costs a recipe counts one of the limited quantity as: its multiplier is per cost, λ* is not."""
        ...


# --- the two ends of the scale ---


def unconstrained(cmdp: Cmdp, law: bool = False) -> Optimum:
    """The largest return whatever it costs; `law` asks for the law of its (only) cost too."""
    policy = best_plan(cmdp, cmdp.reward).policy
    outcome = evaluate(cmdp, policy, 0 if law else None)
    return Optimum(outcome, outcome.cost, policy)


def safest(cmdp: Cmdp) -> Optimum:
    """The largest return among policies of the smallest expected Σ_k J_ck."""
    total, value = cmdp.cost.sum(-1), np.zeros(cmdp.states)
    cheapest = np.zeros((cmdp.horizon, cmdp.states, cmdp.actions), dtype=np.bool_)
    for t in reversed(range(cmdp.horizon)):
        q = total + cmdp.transition @ value
        value = q.min(1)
        cheapest[t] = q <= value[:, None] + 1e-12 * (1.0 + total.max() * cmdp.horizon)
    policy = best_plan(cmdp, cmdp.reward, cheapest).policy
    outcome = evaluate(cmdp, policy)
    return Optimum(outcome, outcome.cost, policy)


def cost_span(cmdp: Cmdp) -> Array:
    """[K] highest minus lowest expected cost that a policy can have."""
    each = cmdp.cost.transpose(2, 0, 1)
    return np.array([best_plan(cmdp, cost).value + best_plan(cmdp, -cost).value for cost in each])


# --- limits on expected costs ---


@dataclass(frozen=True, slots=True, eq=False)
class _OnExpectedCosts:
    """The part of the contract that is the same for all limits on expected costs."""

    limit: tuple[float, ...]  # d [K]
    limit_on = None
    needs_law = False
    unit = 1.0

    @classmethod
    def of(cls, cmdp: Cmdp) -> Self:
        """With the limits that belong to the process."""
        return cls(cmdp.limit)

    @property
    def cost_limit(self) -> tuple[float, ...]:
        """d."""
        return self.limit

    def constrained(self, outcome: Outcome) -> Array:
        """J_c."""
        return outcome.cost

    def span(self, cmdp: Cmdp) -> Array:
        """Of the expected costs."""
        return cost_span(cmdp)


@dataclass(frozen=True, slots=True, eq=False)
class Expected(_OnExpectedCosts):
    """max J_r subject to J_c ≤ d: constrained policy optimisation, Lagrangian methods; offline with `support`."""

    support: NDArray[np.bool_] | None = None  # [S, A] or [H, S, A]: pairs that data cover, the only ones to be used
    name = "expected"

    def solve(self, cmdp: Cmdp) -> Optimum:
        """The occupancy linear programme; the multipliers are its dual variables."""
        _one_limit_per_cost(cmdp, self.limit)
        found = maximise(cmdp, cmdp.reward, cost_rows(cmdp), self.limit, self.support)
        return _attained(self, cmdp, found, self.support)


@dataclass(frozen=True, slots=True)
class Penalty(_OnExpectedCosts):
    """max J_r − κ Σ_k (J_ck − d_k)₊: exact penalties (P3O), and multipliers that stop at κ (FOCOPS, CUP: ν_max = κ).

    The two are one problem: over a compact convex set of occupancies, maximum and minimum change places, so that

        min_{0 ≤ λ ≤ κ} max_π J_r − λ·(J_c − d) = max_π min_{0 ≤ λ ≤ κ} J_r − λ·(J_c − d) = max_π J_r − κ Σ (J_c − d)₊.

    With κ ≥ λ* the constrained optimum solves it; below, the limit is exceeded.
    """

    kappa: float = 20.0
    name = "penalty"

    def solve(self, cmdp: Cmdp) -> Optimum:
        """A linear programme with the excess e ≥ 0, e ≥ J_c − d; multipliers are at most κ."""
        _one_limit_per_cost(cmdp, self.limit)
        k = len(self.limit)
        excess = Slacks(np.full(k, -self.kappa), -np.eye(k), np.zeros(k))
        return _attained(self, cmdp, maximise(cmdp, cmdp.reward, cost_rows(cmdp), self.limit, slacks=excess))


@dataclass(frozen=True, slots=True)
class Barrier(_OnExpectedCosts):
    """max J_r + κ Σ_k log(d_k − J_ck), the problem of interior-point methods (IPO)."""

    kappa: float = 0.01
    name = "barrier"

    def solve(self, cmdp: Cmdp) -> Optimum:
        """Cutting planes (Kelley 1960): log is the lower envelope of its tangents.

        In variables y ≤ d − J_c and θ ≤ log y, each tangent at a point p is the linear inequality
        θ ≤ log p + (y − p)/p. Every programme bounds the optimum from above and its solution from below; tangents are
        added until the two come no nearer, at 1e-8 or less. Multipliers are κ/(d − J_c).
        """
        _one_limit_per_cost(cmdp, self.limit)
        d = np.array(self.limit)
        k, each = len(d), np.eye(len(d))
        if not (d > 0.0).all():
            raise Infeasible(f"no policy of {cmdp.name!r} has costs strictly below {shown(d)}. Give higher limits.")
        points = [d * 0.5**halvings for halvings in range(21)]  # at most κ/16 from the logarithm to begin with
        gap = math.inf
        while True:
            tangents = np.stack(points)  # [P, K]
            rows = np.concatenate([np.hstack([each, 0.0 * each])] + [np.hstack([-each / p, each]) for p in tangents])
            slacks = Slacks(
                np.concatenate([np.zeros(k), np.full(k, self.kappa)]),
                rows,
                np.concatenate([points[20], np.full(k, -np.inf)]),
            )
            whole = cost_rows(cmdp)
            zeros = np.zeros((len(points) * k, *whole.shape[1:]))
            bounds = np.concatenate([d, (np.log(tangents) - 1.0).ravel()])
            found = maximise(cmdp, cmdp.reward, np.concatenate([whole, zeros]), bounds, slacks=slacks)
            optimum = _attained(self, cmdp, found)
            slack = d - optimum.outcome.cost
            value = optimum.value + self.kappa * float(np.log(slack).sum())
            gap, last = found.value - value, gap
            if gap <= 1e-12 * (1.0 + abs(value)) or (gap <= 1e-8 and gap >= last):
                return Optimum(optimum.outcome, optimum.constrained, optimum.policy, self.kappa / slack)
            points.append(slack)


def _one_limit_per_cost(cmdp: Cmdp, limit: Sequence[float]) -> None:
    if len(limit) != len(cmdp.costs):
        raise ConfigError(
            f"{len(limit)} limits were given, but {cmdp.name!r} has {len(cmdp.costs)} costs "
            f"({', '.join(cmdp.costs)}). Give one limit per cost."
        )


def _attained(problem: Problem, cmdp: Cmdp, found: Solution, allowed: NDArray[np.bool_] | None = None) -> Optimum:
    """The optimum of a programme whose first K inequalities limit the expected costs."""
    policy = policy_of(found.occupancy, allowed)
    outcome = evaluate(cmdp, policy)
    return Optimum(outcome, problem.constrained(outcome), policy, found.multipliers[: len(cmdp.costs)])


# --- limits on the law of the accumulated cost ---


@dataclass(frozen=True, slots=True)
class AlmostSure:
    """max J_r subject to Σc ≤ d in every episode: Sauté, Simmer, early termination, filters."""

    budget: int  # d
    name = "almost-sure"
    limit_on = None
    needs_law = True
    unit = 1.0

    @classmethod
    def of(cls, cmdp: Cmdp) -> Self:
        """With the middle between the least budget anyone can keep and the worst episode of the best return."""
        least = _least_budget(cmdp)
        law = unconstrained(cmdp, law=True).outcome.law
        assert law is not None
        return cls((least + int(np.flatnonzero(law > 0.0).max())) // 2)

    @property
    def limit(self) -> tuple[float, ...]:
        """No chance of exceeding it."""
        return (0.0,)

    @property
    def cost_limit(self) -> tuple[float, ...]:
        """d."""
        return (float(self.budget),)

    def solve(self, cmdp: Cmdp) -> Optimum:
        """Dynamic programme on (t, s, accumulated cost); a deterministic policy of these is optimal.

        An action is admissible where every state it may lead to still has an admissible action.
        """
        product = Accumulated.of(_with_one_cost(cmdp, self.name), 0, _levels(cmdp, self.budget + 1))
        levels = product.shape[2]
        kept = np.tile(np.arange(levels) <= self.budget, cmdp.states)
        admissible = np.zeros((cmdp.horizon, *product.cmdp.reward.shape), dtype=np.bool_)
        for t in reversed(range(cmdp.horizon)):
            admissible[t] = product.cmdp.transition @ (~kept).astype(float) == 0.0
            kept = admissible[t].any(1)
        if (product.cmdp.start[~kept] > 0.0).any():
            raise Infeasible(
                f"no policy of {cmdp.name!r} keeps a budget of {self.budget} in every episode. "
                f"The least that can be kept is {_least_budget(cmdp)}."
            )
        admissible |= ~admissible.any(-1, keepdims=True)  # where nobody comes any action will do
        policy = best_plan(product.cmdp, product.cmdp.reward, admissible).policy
        return _of_law(self, cmdp, policy.reshape(product.shape), None)

    def constrained(self, outcome: Outcome) -> Array:
        """P(Σc > d)."""
        return np.array([exceedance(_law(outcome), self.budget)])

    def span(self, cmdp: Cmdp) -> Array:  # noqa: ARG002  (a probability's is the same everywhere)
        """Of a probability."""
        return np.ones(1)


@dataclass(frozen=True, slots=True)
class Chance:
    """max J_r subject to P(Σc > d) ≤ p."""

    threshold: float  # d
    probability: float  # p
    name = "chance"
    needs_law = True

    @classmethod
    def of(cls, cmdp: Cmdp) -> Self:
        """P(Σc > the process's limit) half-way between the least attainable and that of the best return."""
        threshold = cmdp.limit[0]
        product = Accumulated.of(_with_one_cost(cmdp, cls.name))
        above = (np.arange(product.shape[2]) > threshold).astype(float)
        least = -best_plan(product.cmdp, product.cmdp.reward * 0.0 - product.at_end(above)).value
        most = exceedance(_law(unconstrained(cmdp, law=True).outcome), threshold)
        between = float(0.5 * (least + most))
        return cls(threshold, round(between, 2) or float(f"{between:.1g}"))

    @property
    def limit(self) -> tuple[float, ...]:
        """p."""
        return (self.probability,)

    @property
    def cost_limit(self) -> tuple[float, ...]:
        """d."""
        return (self.threshold,)

    @property
    def limit_on(self) -> Mapping[str, Any]:
        """A chance of p."""
        return {"kind": "chance", "probability": self.probability}

    @property
    def unit(self) -> float:
        """d/p, with 1 for a d of 0: what `augmentation/kinds.py` charges where d is passed."""
        return (self.threshold or 1.0) / self.probability

    def solve(self, cmdp: Cmdp) -> Optimum:
        """Linear programme on (t, s, accumulated cost up to the first crossing of d)."""
        product = Accumulated.of(_with_one_cost(cmdp, self.name), 0, _levels(cmdp, math.floor(self.threshold) + 1))
        above = (np.arange(product.shape[2]) > self.threshold).astype(float)
        found = maximise(product.cmdp, product.cmdp.reward, product.at_end(above)[None], self.limit)
        policy = policy_of(found.occupancy).reshape(product.shape)
        return _of_law(self, cmdp, policy, found.multipliers)

    def constrained(self, outcome: Outcome) -> Array:
        """P(Σc > d)."""
        return np.array([exceedance(_law(outcome), self.threshold)])

    def span(self, cmdp: Cmdp) -> Array:  # noqa: ARG002  (a probability's is the same everywhere)
        """Of a probability."""
        return np.ones(1)


@dataclass(frozen=True, slots=True)
class Cvar:
    """max J_r subject to CVaR_α(Σc) ≤ d, the mean of the worst 1 − α of episodes."""

    alpha: float
    tail: float  # d
    name = "cvar"
    needs_law = True
    unit = 1.0

    @classmethod
    def of(cls, cmdp: Cmdp, alpha: float = 0.8) -> Self:
        """A tail near the middle between the least attainable and that of the best return.

        It lies half-way between whole numbers: the optimum jumps where d passes a cost that most episodes may then
        have, and a hair's breadth of tolerance would be worth a lot there.
        """
        product = Accumulated.of(_with_one_cost(cmdp, cls.name))
        level = np.arange(product.shape[2])
        least = min(
            nu - best_plan(product.cmdp, -product.at_end(np.maximum(level - nu, 0) / (1.0 - alpha))).value
            for nu in level
        )
        most = cvar(_law(unconstrained(cmdp, law=True).outcome), alpha)
        middle = float(0.5 * (least + most))
        between = math.ceil(middle) - 0.5
        return cls(alpha, between if least < between < most else middle)

    @property
    def limit(self) -> tuple[float, ...]:
        """d."""
        return (self.tail,)

    @property
    def cost_limit(self) -> tuple[float, ...]:
        """d."""
        return (self.tail,)

    @property
    def limit_on(self) -> Mapping[str, Any]:
        """The tail beyond α."""
        return {"kind": "cvar", "level": self.alpha}

    def solve(self, cmdp: Cmdp) -> Optimum:
        """The best of one linear programme for each ν in 0, 1, …, ⌊d⌋.

        CVaR_α(X) = min_ν ν + E(X − ν)₊/(1 − α) (Rockafellar & Uryasev 2000). For a given ν the condition
        ν + E(X − ν)₊/(1 − α) ≤ d is linear in the law of X, hence in the occupancy of (t, s, accumulated cost). As a
        function of ν the left side is convex and piecewise linear with kinks only where X has values, so that for
        whole-number costs its minimum is at a whole number; it is at least ν, so no ν above d can meet d. The policies
        that satisfy CVaR_α ≤ d are therefore the union of these ⌊d⌋ + 1 polytopes. (The union need not be convex: CVaR
        is a minimum of linear functions of the law, and a mixture's tail can be worse than both of its parts'.)
        """
        if not 0.0 <= self.alpha < 1.0:
            raise ConfigError(f"alpha is {self.alpha}. Give the share of episodes left out of the tail, in [0, 1).")
        product = Accumulated.of(_with_one_cost(cmdp, self.name))
        level, best = np.arange(product.shape[2]), None
        for nu in level[level <= self.tail]:
            row = product.at_end(np.maximum(level - nu, 0) / (1.0 - self.alpha))
            try:
                found = maximise(product.cmdp, product.cmdp.reward, row[None], (self.tail - nu,))
            except Infeasible:
                continue
            if best is None or found.value > best.value:
                best = found
        if best is None:
            raise Infeasible(
                f"no policy of {cmdp.name!r} has a CVaR_{self.alpha:g} of {self.tail:g}. Give a higher one."
            )
        return _of_law(self, cmdp, policy_of(best.occupancy).reshape(product.shape), best.multipliers)

    def constrained(self, outcome: Outcome) -> Array:
        """CVaR_α."""
        return np.array([cvar(_law(outcome), self.alpha)])

    def span(self, cmdp: Cmdp) -> Array:
        """Of the expected cost, which is the tail's at α = 0."""
        return cost_span(cmdp)


def exceedance(law: Array, threshold: float) -> float:
    """P(X > threshold) of the law P(X = i), [C + 1]."""
    return float(law[np.arange(len(law)) > threshold].sum())


def cvar(law: Array, alpha: float) -> float:
    """min_ν ν + E(X − ν)₊/(1 − α) of the law P(X = i), [C + 1]."""
    level = np.arange(len(law))
    excess = np.maximum(level[None, :] - level[:, None], 0) @ law
    return float((level + excess / (1.0 - alpha)).min())


def _law(outcome: Outcome) -> Array:
    if outcome.law is None:
        raise ConfigError("this problem limits the law of the accumulated cost: evaluate with `law_of=0`.")
    return outcome.law


def _with_one_cost(cmdp: Cmdp, problem: str) -> Cmdp:
    if len(cmdp.costs) != 1:
        raise ConfigError(
            f"the problem {problem!r} is about one cost, but {cmdp.name!r} has {len(cmdp.costs)}. "
            "Choose an instance with one."
        )
    return cmdp


def _levels(cmdp: Cmdp, most: int) -> int:
    """C where costs beyond `most` need not be told apart, and none of an episode is above H·max c."""
    return min(most, cmdp.horizon * int(cmdp.whole_cost().max()))


def _of_law(problem: Problem, cmdp: Cmdp, policy: Array, multipliers: Array | None) -> Optimum:
    """The optimum whose policy [H, S, levels, A] may have stopped telling accumulated costs apart."""
    every = Accumulated.of(cmdp).shape[2]
    policy = policy[:, :, np.minimum(np.arange(every), policy.shape[2] - 1)]
    outcome = evaluate(cmdp, policy, 0)
    return Optimum(outcome, problem.constrained(outcome), policy, multipliers)


def _least_budget(cmdp: Cmdp) -> int:
    """The smallest cost that some policy never exceeds: min over actions, max over what may follow."""
    whole, worst = _with_one_cost(cmdp, AlmostSure.name).whole_cost(), np.zeros(cmdp.states)
    for _ in range(cmdp.horizon):
        worst = (whole + np.where(cmdp.transition > 0.0, worst, 0.0).max(-1)).min(1)
    return int(worst[cmdp.start > 0.0].max())


# --- deterministic processes, and data ---


class ActionSequence(NamedTuple):
    """What a planner should find."""

    value: float
    actions: tuple[int, ...]  # [H]
    cost: tuple[float, ...]  # [K]


def best_sequence(cmdp: Cmdp, limit: Sequence[float] | None = None) -> ActionSequence:
    """The best sequence of actions with Σc ≤ d for each cost, where nothing is left to chance.

    `limit` is the process's own unless given. Dynamic programme over (t, state, accumulated costs). Raises ConfigError
    for a process with chance in it, Infeasible when every sequence exceeds a limit.
    """
    limit = cmdp.limit if limit is None else tuple(limit)
    _one_limit_per_cost(cmdp, limit)
    if not cmdp.deterministic:
        raise ConfigError(f"{cmdp.name!r} leaves something to chance, so that no sequence of actions is its optimum.")
    after = cmdp.transition.argmax(-1)
    Reached = dict[tuple[int, tuple[float, ...]], tuple[float, tuple[int, ...]]]  # (state, spent) -> (value, actions)
    reached: Reached = {(int(cmdp.start.argmax()), (0.0,) * len(limit)): (0.0, ())}
    for _ in range(cmdp.horizon):
        following: Reached = {}
        for (state, spent), (value, actions) in reached.items():
            for action in range(cmdp.actions):
                total = tuple(x + float(c) for x, c in zip(spent, cmdp.cost[state, action], strict=True))
                if any(x > d + 1e-9 for x, d in zip(total, limit, strict=True)):
                    continue  # costs are never negative: nothing brings it back under its limit
                key = (int(after[state, action]), total)
                candidate = (value + float(cmdp.reward[state, action]), (*actions, action))
                if key not in following or candidate[0] > following[key][0]:
                    following[key] = candidate
        reached = following
    if not reached:
        raise Infeasible(f"every sequence of actions of {cmdp.name!r} exceeds {shown(limit)}. Give higher limits.")
    (_, spent), (value, actions) = max(reached.items(), key=lambda item: item[1][0])
    return ActionSequence(value, actions, spent)


def support(
    cmdp: Cmdp, observation: NDArray[np.integer], action: NDArray[np.integer], least: int = 1
) -> NDArray[np.bool_]:
    """The pairs that occur at least `least` times in data, [H, S, A]; observations t·S + s as the worlds give them."""
    shape = (cmdp.horizon * cmdp.states, cmdp.actions)
    flat = np.ravel_multi_index((observation, action), shape)
    return (np.bincount(flat, minlength=math.prod(shape)) >= least).reshape(cmdp.horizon, cmdp.states, cmdp.actions)


PROBLEMS: Mapping[str, Callable[[Cmdp], Problem]] = MappingProxyType(
    {kind.name: kind.of for kind in (Expected, AlmostSure, Chance, Cvar, Barrier, Penalty)}
)
