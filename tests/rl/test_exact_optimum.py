"""Optima against listing every deterministic policy and mixing, against duality, and against one another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from exact_cases import best_mixture, deterministic, expectations, histories, random_cmdp
from scipy.optimize import minimize

from trueline.core.errors import ConfigError
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import Accumulated, best_plan, evaluate
from trueline.rl.exact.occupancy import Infeasible
from trueline.rl.exact.optimum import (
    PROBLEMS,
    AlmostSure,
    Barrier,
    Chance,
    Cvar,
    Expected,
    Penalty,
    best_sequence,
    cost_span,
    cvar,
    exceedance,
    safest,
    support,
    unconstrained,
)
from trueline.rl.exact.suite import SUITE

ONE_COST = [name for name, cmdp in SUITE.items() if len(cmdp.costs) == 1]


def listed(cmdp: Cmdp) -> tuple[np.ndarray, np.ndarray]:
    """J_r [P] and J_c [P, K] of every deterministic policy."""
    points = np.array([expectations(cmdp, policy) for policy in deterministic(cmdp)])
    return points[:, 0], points[:, 1:]


# --- expected cost ---


@pytest.mark.parametrize(("seed", "costs"), list(itertools.product(range(4), (1, 2, 3))))
def test_the_linear_programme_is_the_best_mixture_of_deterministic_policies(seed, costs):
    cmdp = random_cmdp(seed, costs=costs)
    best = best_mixture(*listed(cmdp), cmdp.limit)
    if best == -np.inf:
        with pytest.raises(Infeasible):
            Expected.of(cmdp).solve(cmdp)
        return
    optimum = Expected.of(cmdp).solve(cmdp)
    assert optimum.value == pytest.approx(best, abs=1e-8)
    assert (optimum.constrained <= np.array(cmdp.limit) + 1e-8).all()
    # What is reported is what the policy attains.
    assert [optimum.value, *optimum.constrained] == pytest.approx(expectations(cmdp, optimum.policy), abs=1e-9)


@pytest.mark.parametrize("name", SUITE)
def test_weak_duality_strong_duality_and_complementary_slackness(name):
    cmdp, rng = SUITE[name], np.random.default_rng(0)
    optimum = Expected.of(cmdp).solve(cmdp)

    def dual(multiplier):
        return best_plan(cmdp, cmdp.reward - cmdp.cost @ multiplier).value + multiplier @ np.array(cmdp.limit)

    for _ in range(20):
        assert dual(rng.exponential(1.0, len(cmdp.costs))) >= optimum.value - 1e-8
    assert dual(optimum.multipliers) == pytest.approx(optimum.value, abs=1e-7)
    assert optimum.multipliers @ (np.array(cmdp.limit) - optimum.constrained) == pytest.approx(0.0, abs=1e-7)
    assert (optimum.multipliers >= 0.0).all()


def test_the_value_grows_with_the_limit_by_the_multiplier_and_ever_less():
    cmdp = SUITE["Garnet1"]
    limits = np.linspace(0.0, 8.0, 33)
    optima = [Expected((limit,)).solve(cmdp) for limit in limits]
    values, slopes = np.array([o.value for o in optima]), np.array([o.multipliers[0] for o in optima])
    assert (np.diff(values) >= -1e-9).all()
    assert (np.diff(values, 2) <= 1e-9).all()
    # Concave: the multiplier on the right is at most the difference quotient, which is at most that on the left.
    quotient = np.diff(values) / np.diff(limits)
    assert (slopes[1:] <= quotient + 1e-7).all()
    assert (quotient <= slopes[:-1] + 1e-7).all()
    assert values[0] == pytest.approx(safest(cmdp).value)
    assert values[-1] == pytest.approx(unconstrained(cmdp).value)
    assert slopes[-1] == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_the_safest_policy_has_the_least_cost_and_then_the_best_return(seed):
    cmdp = random_cmdp(seed, costs=2)
    value, cost = listed(cmdp)
    total = cost.sum(1)
    safe = safest(cmdp)
    assert safe.outcome.cost.sum() == pytest.approx(total.min())
    assert safe.value == pytest.approx(value[total < total.min() + 1e-9].max())
    np.testing.assert_allclose(cost_span(cmdp), cost.max(0) - cost.min(0))


def test_of_equally_cheap_actions_the_safest_policy_takes_the_better_paid():
    cmdp = Cmdp("tie", np.ones((1, 3, 1)), [[0.0, 1.0, 5.0]], [[[1.0], [1.0], [2.0]]], [1.0], 2, (3.0,))
    assert safest(cmdp).value == 2.0


def test_a_limit_below_the_least_cost_is_infeasible():
    with pytest.raises(Infeasible, match="no policy of 'Garnet3' meets the limits 2"):
        Expected((2.0,)).solve(SUITE["Garnet3"])


def test_each_cost_needs_its_limit():
    for kind in (Expected, Penalty, Barrier):
        with pytest.raises(ConfigError, match=r"1 limits were given, but 'Foundry' has 2 costs \(wear, noise\)"):
            kind((1.0,)).solve(SUITE["Foundry"])


# --- penalties and barriers ---


@pytest.mark.parametrize("name", ["Corridor", "Foundry", "Garnet4", "Garnet6"])
def test_a_penalty_is_exact_from_the_multiplier_on_and_not_below(name):
    cmdp = SUITE[name]
    exact = Expected.of(cmdp).solve(cmdp)
    enough = Penalty(cmdp.limit, 1.01 * exact.multipliers.max()).solve(cmdp)
    assert enough.value == pytest.approx(exact.value, abs=1e-7)
    np.testing.assert_allclose(enough.multipliers, exact.multipliers, atol=1e-6)
    short = Penalty(cmdp.limit, 0.8 * exact.multipliers.max()).solve(cmdp)
    assert (short.constrained - cmdp.limit).max() > 0.01
    assert short.value > exact.value
    assert short.multipliers.max() == pytest.approx(0.8 * exact.multipliers.max())


@pytest.mark.parametrize("kappa", [0.1, 0.4, 2.0])
def test_a_penalty_is_the_dual_with_capped_multipliers(kappa):
    # min over λ ≤ κ of the dual function, a convex function of one number: by a fine grid, from above.
    cmdp = SUITE["Garnet1"]
    (limit,), found = cmdp.limit, Penalty(cmdp.limit, kappa).solve(cmdp)
    penalised = found.value - kappa * max(0.0, float(found.constrained[0]) - limit)
    grid = np.linspace(0.0, kappa, 801)
    dual = min(best_plan(cmdp, cmdp.reward - cmdp.cost[..., 0] * x).value + x * limit for x in grid)
    assert penalised <= dual + 1e-9
    assert penalised == pytest.approx(dual, abs=1e-2 * kappa)


@pytest.mark.parametrize(("seed", "kappa"), list(itertools.product(range(3), (0.01, 0.3))))
def test_the_barrier_is_the_best_point_of_the_hull_of_deterministic_policies(seed, kappa):
    cmdp = random_cmdp(seed, costs=2)
    value, cost = listed(cmdp)
    limit = np.array(cmdp.limit)
    found = Barrier(cmdp.limit, kappa).solve(cmdp)
    reached = found.value + kappa * np.log(limit - found.constrained).sum()
    # Independently: a general solver over mixtures, started from the most cautious one.
    start = np.zeros(len(value))
    start[(cost - limit).max(1).argmin()] = 1.0
    keep = {"type": "ineq", "fun": lambda w: limit - w @ cost - 1e-9}
    whole = {"type": "eq", "fun": lambda w: w.sum() - 1.0}
    general = minimize(
        lambda w: -(w @ value + kappa * np.log(np.maximum(limit - w @ cost, 1e-9)).sum()),
        0.9 * start + 0.1 / len(value) if ((0.9 * start + 0.1 / len(value)) @ cost < limit).all() else start,
        bounds=[(0.0, 1.0)] * len(value),
        constraints=[keep, whole],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert reached >= -general.fun - 1e-6
    # Certificate: no policy is better under the slope of the barrier at the optimum, which is its multiplier.
    np.testing.assert_allclose(found.multipliers, kappa / (limit - found.constrained))
    slope = (value - cost @ found.multipliers).max()
    assert slope == pytest.approx(found.value - found.constrained @ found.multipliers, abs=1e-5)


def test_a_barrier_costs_at_most_its_weight_per_cost_and_tends_to_the_optimum():
    cmdp = SUITE["Garnet4"]
    exact = Expected.of(cmdp).solve(cmdp).value
    gaps = [exact - Barrier(cmdp.limit, kappa).solve(cmdp).value for kappa in (1.0, 0.1, 0.01)]
    assert all(0.0 < gap <= 2.001 * kappa for gap, kappa in zip(gaps, (1.0, 0.1, 0.01), strict=True))
    assert gaps[0] > gaps[1] > gaps[2]


def test_a_barrier_needs_room_below_the_limit():
    with pytest.raises(Infeasible, match="strictly below"):
        Barrier((0.0,)).solve(SUITE["Corridor"])


# --- limits on the law of the accumulated cost ---


def spending(cmdp: Cmdp):
    """J_r [P] and the law [P, C + 1] of every deterministic policy of (t, s, accumulated cost), from one state."""
    product = Accumulated.of(cmdp)
    h, s, c, a = product.shape
    reachable = np.zeros((h, s, c), bool)
    reachable[0, :, 0] = cmdp.start > 0
    for t in range(h - 1):
        for x, i in zip(*np.nonzero(reachable[t]), strict=True):
            for u in range(a):
                reachable[t + 1, cmdp.transition[x, u] > 0, product.after[x, i, u]] = True
    places = np.argwhere(reachable)
    for choice in itertools.product(range(a), repeat=len(places)):
        policy = np.full(product.shape, 1.0 / a)
        for (t, x, i), u in zip(places, choice, strict=True):
            policy[t, x, i] = np.eye(a)[u]
        outcome = evaluate(cmdp, policy)
        yield outcome.episode_return, outcome.law


def small(seed: int) -> Cmdp:
    """Two steps from one state: few enough reachable places for every policy to be listed."""
    cmdp = random_cmdp(seed, states=2, actions=2, horizon=2)
    return Cmdp("small", cmdp.transition, cmdp.reward, cmdp.cost, [1.0, 0.0], 2, (1.0,))


@pytest.mark.parametrize(("seed", "threshold", "p"), list(itertools.product(range(4), (0, 1.5, 2), (0.15, 0.5))))
def test_chance_constraints_against_every_policy_with_memory_of_what_was_spent(seed, threshold, p):
    cmdp = small(seed)
    values, laws = map(np.array, zip(*spending(cmdp), strict=True))
    above = laws[:, np.arange(laws.shape[1]) > threshold].sum(1)
    best = best_mixture(values, above[:, None], p)
    if best == -np.inf:
        with pytest.raises(Infeasible):
            Chance(threshold, p).solve(cmdp)
        return
    optimum = Chance(threshold, p).solve(cmdp)
    assert optimum.value == pytest.approx(best, abs=1e-8)
    assert optimum.constrained[0] <= p + 1e-9


@pytest.mark.parametrize(("seed", "alpha"), list(itertools.product(range(4), (0.0, 0.5, 0.8))))
def test_tails_against_every_policy_with_memory_and_every_threshold(seed, alpha):
    cmdp = small(seed)
    values, laws = map(np.array, zip(*spending(cmdp), strict=True))
    level = np.arange(laws.shape[1])
    tails = [cvar(law, alpha) for law in laws]
    d = 0.5 * (min(tails) + tails[int(values.argmax())])
    # Thresholds that are no whole numbers are tried too: the proof says that they bring nothing.
    best = max(
        best_mixture(values, (laws @ np.maximum(level - nu, 0.0) / (1.0 - alpha))[:, None], d - nu)
        for nu in np.linspace(0.0, d, 41)
    )
    nearest = max(
        best_mixture(values, (laws @ np.maximum(level - nu, 0.0) / (1.0 - alpha))[:, None], d - nu)
        for nu in range(int(d) + 1)
    )
    optimum = Cvar(alpha, d).solve(cmdp)
    assert optimum.value == pytest.approx(nearest, abs=1e-8)
    assert optimum.value >= best - 1e-8
    assert optimum.constrained[0] <= d + 1e-8


def test_the_tail_is_the_mean_of_the_worst_episodes():
    law = np.array([0.5, 0.2, 0.2, 0.1])
    assert cvar(law, 0.0) == pytest.approx(0.2 + 0.4 + 0.3)
    assert cvar(law, 0.9) == pytest.approx(3.0)
    assert cvar(law, 0.8) == pytest.approx((0.1 * 3 + 0.1 * 2) / 0.2)
    assert cvar(law, 0.6) == pytest.approx((0.1 * 3 + 0.2 * 2 + 0.1 * 1) / 0.4)
    assert exceedance(law, 1) == pytest.approx(0.3)
    assert exceedance(law, 0.5) == pytest.approx(0.5)


def test_the_tail_of_all_episodes_is_their_mean():
    for name in ("Gamble", "Garnet1"):
        cmdp = SUITE[name]
        tail, mean = Cvar(0.0, cmdp.limit[0]).solve(cmdp), Expected.of(cmdp).solve(cmdp)
        assert tail.value == pytest.approx(mean.value, abs=1e-7)
        np.testing.assert_allclose(tail.multipliers, mean.multipliers, atol=1e-6)


def test_a_mixture_may_have_a_worse_tail_than_its_parts():
    # The reason why the union of the polytopes in `Cvar.solve` is not convex: CVaR is concave in the law.
    one, other = np.array([0.8, 0.0, 0.0, 0.2]), np.array([0.0, 1.0, 0.0, 0.0])
    alpha = 0.5
    parts = 0.5 * (cvar(one, alpha) + cvar(other, alpha))
    assert cvar(0.5 * (one + other), alpha) > parts


@pytest.mark.parametrize("name", ONE_COST)
def test_a_sure_budget_is_a_chance_of_nothing(name):
    cmdp = SUITE[name]
    sure = AlmostSure.of(cmdp)
    optimum = sure.solve(cmdp)
    assert optimum.constrained[0] == 0.0
    assert set(np.unique(optimum.policy)) <= {0.0, 1.0}
    assert optimum.value == pytest.approx(Chance(sure.budget, 0.0).solve(cmdp).value, abs=1e-6)
    assert AlmostSure(sure.budget + 1).solve(cmdp).value >= optimum.value
    assert AlmostSure(10**3).solve(cmdp).value == pytest.approx(unconstrained(cmdp).value)


def test_a_budget_that_nobody_can_keep_is_refused_with_the_least_that_can_be():
    cmdp = SUITE["Garnet3"]
    least = min(b for b in range(20) if _feasible(cmdp, b))
    with pytest.raises(Infeasible, match=f"The least that can be kept is {least}"):
        AlmostSure(least - 1).solve(cmdp)


def _feasible(cmdp: Cmdp, budget: int) -> bool:
    try:
        AlmostSure(budget).solve(cmdp)
    except Infeasible:
        return False
    return True


def test_no_history_of_the_sure_optimum_exceeds_the_budget():
    cmdp = small(2)
    problem = AlmostSure.of(cmdp)
    optimum = problem.solve(cmdp)
    assert max(cost[0] for _, _, cost in histories(cmdp, optimum.policy)) <= problem.budget


@pytest.mark.parametrize("kind", [Chance, Cvar])
def test_more_room_is_worth_at_least_the_multiplier_says(kind):
    cmdp = SUITE["Garnet1"]
    problem = kind.of(cmdp)
    base = problem.solve(cmdp)
    (limit,), step = problem.limit, 1e-4
    wider = Chance(problem.threshold, limit + step) if kind is Chance else Cvar(problem.alpha, limit + step)
    gained = (wider.solve(cmdp).value - base.value) / step
    assert gained == pytest.approx(base.multipliers[0], rel=1e-3)


def test_problems_about_one_cost_refuse_several():
    for name in ("almost-sure", "chance", "cvar"):
        with pytest.raises(ConfigError, match="is about one cost"):
            PROBLEMS[name](SUITE["Foundry"])


# --- deterministic processes and data ---


@pytest.mark.parametrize("name", ["Tolls", "Foundry"])
def test_the_best_sequence_of_all(name):
    cmdp = SUITE[name]
    after, best = cmdp.transition.argmax(-1), -np.inf
    actions = np.array(list(itertools.product(range(cmdp.actions), repeat=cmdp.horizon)))  # every sequence
    state = np.full(len(actions), cmdp.start.argmax())
    value, spent = np.zeros(len(actions)), np.zeros((len(actions), len(cmdp.costs)))
    for t in range(cmdp.horizon):
        value += cmdp.reward[state, actions[:, t]]
        spent += cmdp.cost[state, actions[:, t]]
        state = after[state, actions[:, t]]
    kept = (spent <= np.array(cmdp.limit)).all(1)
    best = value[kept].max()
    found = best_sequence(cmdp)
    assert found.value == pytest.approx(best)
    row = int(np.flatnonzero((actions == found.actions).all(1))[0])
    assert (value[row], tuple(spent[row])) == (pytest.approx(found.value), found.cost)
    assert kept[row]
    assert found.value < Expected.of(cmdp).solve(cmdp).value  # chance helps even here


def test_a_sequence_is_a_sure_budget_where_nothing_is_left_to_chance():
    cmdp = SUITE["Tolls"]
    for budget in (0, 2, 5, 9):
        assert best_sequence(cmdp, (budget,)).value == pytest.approx(AlmostSure(budget).solve(cmdp).value)


def test_planning_a_sequence_against_chance_or_below_all_costs_is_refused():
    with pytest.raises(ConfigError, match="leaves something to chance"):
        best_sequence(SUITE["Corridor"])
    forced = Cmdp("forced", np.ones((1, 1, 1)), [[1.0]], [[[1.0]]], [1.0], 3, (2.0,))
    with pytest.raises(Infeasible, match="every sequence"):
        best_sequence(forced)


@pytest.mark.parametrize("seed", range(3))
def test_within_data_only_covered_pairs_are_used(seed):
    cmdp = random_cmdp(seed, states=2, actions=3, horizon=2)
    covered = np.ones((2, 2, 3), bool)
    covered[:, :, 2] = False
    covered[1, 0, 0] = False
    optimum = Expected((9.0,), covered).solve(cmdp)
    assert (optimum.policy[~covered] == 0.0).all()
    left = [p for p in deterministic(cmdp) if (p[~covered] == 0.0).all()]
    assert optimum.value == pytest.approx(max(expectations(cmdp, p)[0] for p in left))
    assert Expected((9.0,), np.ones((2, 3), bool)).solve(cmdp).value == pytest.approx(unconstrained(cmdp).value)


def test_data_that_lead_where_nothing_is_covered_are_infeasible():
    cmdp = random_cmdp(0)
    covered = np.ones((3, 2, 2), bool)
    covered[2, 1] = False
    with pytest.raises(Infeasible):
        Expected((9.0,), covered).solve(cmdp)


def test_support_counts_observations_as_the_worlds_number_them():
    cmdp = random_cmdp(0)
    found = support(cmdp, np.array([0, 3, 3, 5]), np.array([1, 0, 0, 1]), least=1)
    assert sorted(map(tuple, np.argwhere(found))) == [(0, 0, 1), (1, 1, 0), (2, 1, 1)]
    assert np.argwhere(support(cmdp, np.array([0, 3, 3]), np.array([1, 0, 0]), least=2)).tolist() == [[1, 1, 0]]
