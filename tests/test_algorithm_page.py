"""The page of algorithms says what the registry and the committed gaps say."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import make_algorithm_page as making  # noqa: E402  the script that fills the page in

from trueline.core import registry  # noqa: E402

GAPS = json.loads(making.GAPS.read_text(encoding="utf-8"))["rows"]


def test_the_tables_are_those_of_the_registry_and_the_results():
    text = making.PAGE.read_text(encoding="utf-8")
    assert making.filled(text) == text, "run `python docs/make_algorithm_page.py`"


def test_no_row_of_the_on_policy_table_is_listed_without_a_measured_gap():
    listed = {e.name for e in registry.entries("recipe") if e.target.startswith("trueline.safety.recipes.")}
    apart = ("off_policy", "offline", "multi_agent", "planning", "crabs")
    elsewhere = {e.name for e in registry.entries("recipe") if any(part in e.target for part in apart)}
    assert listed - elsewhere <= set(GAPS)


def test_verdicts_follow_from_the_trainings():
    for name, row in GAPS.items():
        assert row["passed"] == sum(t["average"]["passed"] for t in row["trainings"]), name
        for training in row["trainings"]:
            reached = training["average"]
            stated = zip(reached["constrained"], training["limit"], training["span"], strict=True)
            within = [cost <= limit + 0.01 * span for cost, limit, span in stated]
            assert reached["passed"] == (reached["gap"] <= 0.05 and all(within)), (name, training["instance"])
