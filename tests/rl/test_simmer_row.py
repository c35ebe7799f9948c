"""Simmer's two references: one whose budget runs away from what is spent, one that ends at the limit; and the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_augment_gap import PLANNED, settings

from trueline.core.config import build
from trueline.rl.augmentation.augment import Terms
from trueline.rl.augmentation.simmer import Simmer
from trueline.rl.exact.gap import measure_gap
from trueline.rl.exact.suite import garnet
from trueline.safety.recipes.augmented import PPO_SIMMER, TRPO_SIMMER

ABOUT = Terms(np.array([10.0]), 50)
LIVELY = {"gamma": 1.0, "kp": 0.1, "ki": 0.0, "smoothing": 0.0}


def moves(rules: Simmer, spends: Any, count: int) -> np.ndarray:
    """D/D_u after each of `count` moves of a policy that spends `spends(D)` an episode."""
    state, shares = rules.parameters(ABOUT), []
    for _ in range(count):
        state = rules.adapted(ABOUT, state, np.array([[spends(10.0 * float(state["share"][0]))]]))
        shares.append(float(state["share"][0]))
    return np.array(shares)


def least_of_four(budget: float) -> float:
    """What a good policy spends that cannot do with less than 4: without a budget it can keep, it does not try."""
    return min(budget, 7.0) if budget >= 4.0 else 6.0


@pytest.mark.parametrize(("init", "end"), [(0.6, 0.6), (0.35, 0.0)])
def test_a_budget_that_is_its_own_reference_runs_away_from_what_is_spent(init, end):
    # ρ = D: D − J_C grows by (1 + k_p) a move. At 6 all of it is spent and nothing moves; below 4 it is cut to nothing.
    shares = moves(Simmer(init=init, **LIVELY), least_of_four, 80)
    assert shares[-1] == pytest.approx(end, abs=1e-6)
    gaps = moves(Simmer(init=0.62, **LIVELY), lambda _: 6.0, 5) - 0.6
    np.testing.assert_allclose(gaps, 0.02 * 1.1 ** np.arange(1, 6))


@pytest.mark.parametrize("init", [0.1, 0.35, 0.6, 1.0])
def test_a_budget_that_follows_a_plan_ends_at_the_limit_wherever_it_began(init):
    shares = moves(Simmer(init=init, rise=20, **LIVELY), least_of_four, 30)
    assert shares[-1] == 1.0
    assert (shares[19:] == 1.0).all()  # from move `rise` on, since the limit is kept


def test_the_plan_is_a_line_and_the_budget_is_the_plan_corrected_by_what_was_spent():
    rules = Simmer(init=0.2, rise=4, **LIVELY)
    plan = np.array([0.4, 0.6, 0.8, 1.0, 1.0])
    np.testing.assert_allclose(moves(rules, lambda _: 5.0, 5), np.minimum(plan + 0.1 * (plan - 0.5), 1.0))
    # Overspent at the end, it stays below the limit by k_p times the excess: the feedback is negative.
    assert moves(rules, lambda _: 13.0, 30)[-1] == pytest.approx(1.0 - 0.1 * 0.3)
    dear, cheap = (moves(rules, lambda _, c=c: c, 2)[-1] for c in (8.0, 2.0))
    assert dear < plan[1] < cheap


def test_integral_and_windup_are_the_same_under_both_references():
    rules = Simmer(init=0.5, rise=1000, gamma=1.0, kp=0.02, ki=0.01, kd=0.5, smoothing=0.3)
    state, errors, made, wanted, error = rules.parameters(ABOUT), [], 0.0, 0.0, 0.0
    for k, cost in enumerate([9.0, 0.0, 30.0, 4.0, 4.0, 5.0, 90.0, 2.0, 1.0, 6.0, 5.0, 12.0], start=1):
        planned = 10.0 * (0.5 + 0.5 * k / 1000)
        error = 0.3 * error + 0.7 * (planned - cost)
        errors.append(error)
        wanted = 0.02 * error + 0.01 * sum(errors[-10:]) + 0.5 * (made - wanted)
        budget = float(np.clip(planned + np.clip(wanted, -1.0, 1.0), 1e-6, 10.0))
        made = budget - planned
        state = rules.adapted(ABOUT, state, np.array([[cost]]))
        assert 10.0 * float(state["share"][0]) == pytest.approx(budget), k


# A process of the kind that the suite has, not in it: least budget 2, limit 6.
OWN = garnet("Own", 110, 4, 3, 1, 5, (0.0,))


@pytest.mark.parametrize("row", [PPO_SIMMER, TRPO_SIMMER], ids=lambda row: row.name)
def test_with_a_plan_the_row_reaches_the_almost_sure_optimum(row):
    found = measure_gap(row, "almost-sure", ["Gamble"], settings(PLANNED))
    assert found.passed, found.table()


@pytest.mark.parametrize("rise", [5, None])
@pytest.mark.parametrize("row", [PPO_SIMMER, TRPO_SIMMER], ids=lambda row: row.name)
def test_from_half_of_the_budget_only_the_plan_comes_to_the_optimum(row, rise):
    found = measure_gap(row, "almost-sure", [OWN], settings({**PLANNED, "rise": rise}), seeds=(1,))
    (training,) = found.trainings
    assert found.passed is (rise is not None), found.table()
    assert training.average.gap < 0.05 if rise else training.average.gap > 0.2


@pytest.mark.parametrize("recipe", [PPO_SIMMER, TRPO_SIMMER])
def test_presets_say_which_reference_they_have(recipe):
    faithful = build(recipe.Config, recipe.presets["faithful"]).augmentation
    fast = build(recipe.Config, recipe.presets["fast"]).augmentation
    assert (faithful.rise, faithful.init) == (None, 1.0)
    assert fast.rise is not None
