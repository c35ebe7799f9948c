"""The tables by family: every row is in one, figures follow from what was measured, what is slow is explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trueline.core import registry
from trueline.core.recipe import recipe_config

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import family_tables as tables  # noqa: E402  the scripts that make the tables
import planner_gaps  # noqa: E402

ROWS = [row for names in tables.rows().values() for row in names]
FOUND = tables.results()


def measured(family="offline", speed=100.0, **given):
    return {
        "family": family,
        "return": 1.0,
        "cost": 2.0,
        "limit": 25.0,
        "steps_per_cpu_s": speed,
        "cpu_s": 9.0,
        "peak_mb": 3.0,
        **given,
    }


def test_every_registered_row_is_in_one_family():
    listed = {e.name for e in registry.entries("recipe") if e.target.startswith("trueline.safety.recipes.")}
    assert sorted(listed) == sorted(ROWS)
    assert all(tables.rows().values())


@pytest.mark.parametrize("row", ROWS)
def test_a_rows_settings_are_valid_and_short(row):
    family = tables.FAMILIES[tables.family_of(row)]
    config = recipe_config(row, family.preset, tables.config_of(row))
    assert config.total_steps == family.steps
    assert getattr(config, "warm_up", 0) < family.steps


def test_shares_are_of_the_fastest_of_the_family():
    found = {
        "a": measured(speed=100.0),
        "b": measured(speed=25.0),
        "c": measured(family="teams", speed=10.0),
        "d": measured(family="teams", speed=5.0),
    }
    assert tables.shares(found) == {"a": 1.0, "b": 0.25, "c": 1.0, "d": 0.5}
    assert tables.unexplained(found) == ["b"]


def test_a_table_has_the_rows_of_its_family_and_no_other():
    found = {"bcq": measured(), "ppo": measured(family="on-policy", limit=None)}
    page = tables.table("offline", found)
    assert page.startswith("| row |")
    assert page.endswith("| `bcq` | 1.0 | 2.0 | 25 | 100 | 100 % | 9 | 3 |  |")
    assert "ppo" not in page


def test_reasons_are_given_for_rows_that_exist():
    assert set(tables.REASONS) <= set(ROWS)


@pytest.mark.skipif(not FOUND, reason="no row has been measured")
def test_measured_rows_are_explained_within_their_minute_and_by_the_settings_that_stand_there():
    assert tables.unexplained(FOUND) == []
    for name, row in FOUND.items():
        assert row["asked"] == tables.asked(name), name
        assert row["cpu_s"] <= tables.MOST_CPU_S, name
        steps = tables.FAMILIES[row["family"]].steps
        assert row["steps_per_cpu_s"] == pytest.approx(steps / row["cpu_s"], rel=0.01), name
        assert row["peak_mb"] >= row["imports_mb"] > 0, name


# --- planners ---


@pytest.mark.parametrize("name", planner_gaps.CASES)
def test_a_case_is_trained_by_the_tests_settings_for_its_problem(name):
    from trueline.core.config import build
    from trueline.safety.recipes import planning

    case = planner_gaps.CASES[name]
    config = build(getattr(planning, case.row).Config, planner_gaps.settings(case))
    assert config.env == f"Gap-{case.world}-v0"
    assert case.limit is None or config.cost_limit == case.limit
    exact = planner_gaps.problem(case)
    assert exact.safest <= exact.optimum <= exact.unconstrained


@pytest.mark.skipif(not planner_gaps.RESULT.exists(), reason="no gap has been measured")
def test_planners_gaps_follow_from_their_returns():
    for name, case in json.loads(planner_gaps.RESULT.read_text(encoding="utf-8"))["rows"].items():
        exact = planner_gaps.problem(planner_gaps.CASES[name])
        assert [training["seed"] for training in case["trainings"]] == [7, 8, 9]
        for training in case["trainings"]:
            gap = (exact.optimum - training["return"]) / (exact.unconstrained - exact.safest)
            assert training["gap"] == pytest.approx(gap)
            within = training["limit"] is None or training["dearest_episode"] <= training["limit"]
            assert training["passed"] == (gap <= 0.05 and within)
