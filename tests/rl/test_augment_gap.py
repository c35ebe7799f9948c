"""Rows with a budget against the optimum of the almost-sure problem, and what they do when a sign is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trueline.rl.exact.gap import measure_gap
from trueline.safety.recipes.augmented import PPO_EARLY, PPO_SAUTE, PPO_SIMMER, TRPO_EARLY, TRPO_SAUTE, TRPO_SIMMER

BUDGET = {"gamma": 1.0, "strict": False, "unsafe_reward": -2.0}  # an episode may cost its limit, and no more
PLANNED = {**BUDGET, "init": 0.5, "kp": 0.1, "smoothing": 0.5, "rise": 5}
EARLY = {"unsafe_reward": -10.0}
WITH_BUDGET = [(PPO_SAUTE, BUDGET), (TRPO_SAUTE, BUDGET), (PPO_EARLY, EARLY), (TRPO_EARLY, EARLY)]
WITH_PLAN = [(PPO_SIMMER, PLANNED), (TRPO_SIMMER, PLANNED)]


def settings(rules: dict[str, Any]) -> Callable[[Any, Any], dict[str, Any]]:
    """What is left is a number, so that a table does not do."""
    hidden = {"hidden": [32]}
    return lambda cmdp, _: {
        "actor": hidden,
        "critic": hidden,
        "total_steps": 45 * 256 * cmdp.horizon,
        "augmentation": rules,
    }


def name(value: Any) -> str | None:
    """A row's, in the name of a test."""
    return getattr(value, "name", None)


@pytest.mark.parametrize(("row", "rules"), WITH_BUDGET, ids=name)
def test_a_row_with_a_budget_reaches_the_almost_sure_optimum(row, rules):
    found = measure_gap(row, "almost-sure", ["Gamble"], settings(rules))
    assert found.passed, found.table()


@pytest.mark.parametrize(("row", "rules"), WITH_BUDGET + WITH_PLAN, ids=name)
def test_a_penalty_of_the_wrong_sign_is_found_out(row, rules):
    wrong = {**rules, "unsafe_reward": -rules["unsafe_reward"]}
    found = measure_gap(row, "almost-sure", ["Gamble"], settings(wrong))
    assert not found.passed
    assert found.trainings[0].average.constrained[0] > 0.05  # the share of episodes above the limit
