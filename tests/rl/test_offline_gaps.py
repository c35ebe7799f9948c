"""The measured gaps of the offline rows: each has one, and figures and verdicts follow from the exact targets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from offline_cases import CASES, CLONE

from trueline.rl.exact.optimum import cost_span, safest, unconstrained
from trueline.safety.recipes import offline as rows

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import offline_gaps  # the script that measured them

SEEDS = [7, 8, 9]  # no setting was chosen on them
FOUND = json.loads(offline_gaps.RESULT.read_text(encoding="utf-8"))["rows"]


def test_every_offline_row_has_a_gap_by_the_settings_of_the_tests():
    assert {name.split(",")[0] for name in FOUND} == {getattr(rows, name).name for name in rows.__all__}
    assert list(FOUND) == offline_gaps.names()
    for name, case in FOUND.items():
        assert case["asked"] == offline_gaps.asked(name), name
        assert [training["seed"] for training in case["trainings"]] == SEEDS, name


@pytest.mark.parametrize("name", CASES)
def test_figures_are_distances_from_the_exact_target(name):
    case = CASES[name]
    target, scale = case.target(), unconstrained(case.cmdp).value - safest(case.cmdp).value
    best, span = case.problem.solve(case.cmdp).value, cost_span(case.cmdp)[0]
    for training in FOUND[name]["trainings"]:
        assert training["optimum"] == pytest.approx(target.episode_return, abs=1e-4)
        assert training["gap"] * scale == pytest.approx(target.episode_return - training["return"], abs=1e-4)
        assert training["from_support"] * scale == pytest.approx(best - training["return"], abs=1e-4)
        assert training["excess"] * span == pytest.approx(training["cost"] - training["optimal_cost"])
        if case.fixed_point is not None:
            assert training["optimal_cost"] == pytest.approx(target.cost[0], abs=1e-3)
            assert training["passed"] == (abs(training["gap"]) <= 0.05 and abs(training["excess"]) <= 0.05)
        else:
            # Of two policies of one worth another machine may find the other: costs are those that were found.
            within = not case.limited or training["cost"] <= case.cmdp.limit[0] + 0.01 * span
            assert training["passed"] == (training["gap"] <= 0.05 and within)


def test_a_clone_is_held_to_the_normal_that_an_auto_encoder_leaves():
    for training in FOUND[offline_gaps.CLONING]["trainings"]:
        assert (training["optimal_mean"], training["optimal_deviation"]) == (CLONE.mean, CLONE.drawn_deviation)
        assert training["passed"] == (training["gap"] <= 0.05)
