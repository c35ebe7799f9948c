"""The page on trees and chains says what its committed result says."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
NAMES = {"resistance": "effective resistance", "path": "cheapest path"}


def test_the_table_is_that_of_the_committed_result():
    summary = json.loads((DOCS / "results" / "literal_reading.json").read_text())["summary"]
    page = (DOCS / "language_topology.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(tuple(f"| {name} |" for name in NAMES.values()))]
    expected = []
    for name, found in summary.items():
        distance, subset = name.split(", ")
        share = f"{found['chain at most the tree']} of {found['settings']}"
        ratio = f"{found['smallest']:.2f} to {found['largest']:.2f}"
        expected.append(f"| {NAMES[distance]} | {subset} | {share} | {ratio} |")
    assert rows == expected
