"""The committed record of the parity suite is about the golden values that are here, and nothing in it failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trueline.safety import catalogue

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())
TESTS, INTERFACES = RECORD["tests"], RECORD["interfaces"]


@pytest.fixture
def suite(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    import parity

    yield parity
    for name in {"parity", "_interleave", "_peers"} - before:
        sys.modules.pop(name, None)


def test_it_is_about_the_golden_values_that_are_here(suite):
    assert TESTS["golden_sha256"] == suite.digests()
    assert {name for script in suite.SCRIPTS for name in script.files} == set(TESTS["golden_sha256"])
    assert [row["script"] for row in RECORD["golden"]["scripts"]] == [script.name for script in suite.SCRIPTS]


def test_nothing_failed_and_every_world_was_checked():
    assert TESTS["failed"] == INTERFACES["failed"] == []
    assert all(row["failed"] == [] for row in TESTS["tests"])
    checked = {
        kind: INTERFACES[name]["worlds"]
        for kind, name in (("env", "gymnasium check_env"), ("multi-agent env", "pettingzoo parallel_api_test"))
    }
    # The view of a Goal world as coordinates belongs to the planners, and is no world of the original.
    ours = [entry for entry in catalogue.ENTRIES if entry.target.startswith("trueline.safety.")]
    assert all(checked[kind] >= sum(entry.kind == kind for entry in ours) > 0 for kind in checked)


def test_its_sums_are_those_of_its_rows_and_its_tests_exist():
    assert TESTS["cases"] == sum(row["cases"] for row in TESTS["tests"])
    assert TESTS["numbers"] == sum(row["numbers"] for row in TESTS["tests"])
    for row in TESTS["tests"]:
        file, name = row["test"].split("::")
        assert f"def {name}(" in (ROOT / file).read_text()
        assert row["share_of_tolerance"] is None or row["share_of_tolerance"] <= 1.0


def test_changes_are_counted_and_measured(suite):
    old = {"a": [1.0, 2.0, {"b": True}], "c": "x"}
    assert suite.changes(old, old) == {"numbers": 3, "changed": 0, "largest_change": 0.0}
    assert suite.changes(old, {"a": [1.5, 2.0, {"b": True}], "c": "x"})["largest_change"] == 0.5
    assert suite.changes(old, {"a": [1.0, 2.0, {"b": True}], "c": "y"})["changed"] is None  # not numbers that differ
    assert suite.changes(old, {"a": [1.0, {"b": True}], "c": "x"})["changed"] is None


def test_deviations_are_taken_from_the_assertions(suite):
    outcome = suite.Outcome()
    outcome.compared([1.0, 2.0], [1.0, 2.5], rtol=0.0, atol=1.0)
    outcome.compared([[3.0]], 3.1, rtol=1.0, atol=0.0)
    outcome.compared([float("nan")], [float("nan")], rtol=0.0, atol=1.0)
    outcome.compared(["a"], ["b"], rtol=0.0, atol=1.0)
    assert (outcome.numbers, outcome.largest_deviation, outcome.share_of_tolerance) == (4, 0.5, 0.5)
