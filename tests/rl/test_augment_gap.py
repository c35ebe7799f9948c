"""Rows with a budget against the optimum of the almost-sure problem, and what they do when a sign is lost."""

from __future__ import annotations

from typing import Any

import pytest

from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.saute import Saute
from trueline.rl.exact.gap import measure_gap
from trueline.rl.on_policy import Budgeted, OnPolicyRecipe


def settings(cmdp: Any, _: Any) -> dict[str, Any]:
    """What is left is a number, so that a table does not do."""
    hidden = {"hidden": [32]}
    return {"actor": hidden, "critic": hidden, "total_steps": 45 * 256 * cmdp.horizon}


@pytest.mark.parametrize(
    "rules", [Saute(gamma=1.0, strict=False, unsafe_reward=-2.0), EarlyTermination(unsafe_reward=-10.0)]
)
def test_a_row_with_a_budget_reaches_the_almost_sure_optimum(rules):
    row = OnPolicyRecipe("row", Budgeted, augmentation=rules)
    found = measure_gap(row, "almost-sure", ["Gamble"], settings)
    assert found.passed, found.table()


@pytest.mark.parametrize(
    "rules", [Saute(gamma=1.0, strict=False, unsafe_reward=2.0), EarlyTermination(unsafe_reward=10.0)]
)
def test_a_penalty_of_the_wrong_sign_is_found_out(rules):
    row = OnPolicyRecipe("row", Budgeted, augmentation=rules)
    found = measure_gap(row, "almost-sure", ["Gamble"], settings)
    assert not found.passed
    assert found.trainings[0].average.constrained[0] > 0.05  # the share of episodes above the limit
