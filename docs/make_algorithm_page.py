"""Fills the tables of docs/algorithms.md from the registry and what was measured: `python docs/make_algorithm_page.py`.

A test compares the page with what this makes, so that no figure in it can part from the file it comes from.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from trueline.core import registry

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import family_tables  # noqa: E402  the script that measures them knows why a row is slow

PAGE = HERE / "algorithms.md"
GAPS = HERE.parent / "benchmarks" / "results" / "optimum_gaps.json"
CERTIFICATE_GAPS = HERE.parent / "benchmarks" / "results" / "certificate_gaps.json"
PLANNER_GAPS = HERE.parent / "benchmarks" / "results" / "planner_gaps.json"
OFFLINE_GAPS = HERE.parent / "benchmarks" / "results" / "offline_gaps.json"


def _percent(x: float) -> str:
    return f"{100.0 * x:.1f} %"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    gaps = [training["average"]["gap"] for training in row["trainings"]]
    failed = [t["instance"] for t in row["trainings"] if not t["average"]["passed"]]
    return (
        row["settings"]["problem"],
        f"{row['passed']} of {row['of']}",
        _percent(statistics.median(gaps)),
        f"{_percent(min(gaps))} to {_percent(max(gaps))}",
        ", ".join(failed) or "–",
    )


def gaps() -> str:
    """A line per training series: problem, trainings that passed, gaps, and where it did not."""
    found = json.loads(GAPS.read_text(encoding="utf-8"))["rows"]
    lines = ["| row | problem | passed | median gap | gaps | not passed on |", "|---|---|---|---|---|---|"]
    lines += [f"| `{name.split(',')[0]}`{name[len(name.split(',')[0]) :]} | {' | '.join(_cells(row))} |"
              for name, row in found.items()]  # fmt: skip
    return "\n".join(lines)


def planners() -> str:
    """A line per planner and limit: trainings that passed, each one's gap, the dearest episode."""
    lines = ["| row | limit of an episode | passed | gaps | dearest episode |", "|---|---|---|---|---|"]
    for name, case in json.loads(PLANNER_GAPS.read_text(encoding="utf-8"))["rows"].items():
        trainings, limit = case["trainings"], case["asked"]["case"]["limit"]
        dearest = max(training["dearest_episode"] for training in trainings)
        cells = (
            f"`{name.split(',')[0]}`",
            "–" if limit is None else f"{limit:g}",
            f"{sum(training['passed'] for training in trainings)} of {len(trainings)}",
            ", ".join(_percent(training["gap"]) for training in trainings),
            "–" if limit is None else f"{dearest:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def offline() -> str:
    """A line per row and process: what it is held to, trainings that passed, gaps in return and in cost."""
    lines = [
        "| row | data | held to | passed | gaps | cost above its own | from the best the data support |",
        "|---|---|---|---|---|---|---|",
    ]

    def each(trainings: list[dict[str, Any]], figure: str) -> str:
        return ", ".join(_percent(training[figure]) for training in trainings if figure in training) or "–"

    for name, case in json.loads(OFFLINE_GAPS.read_text(encoding="utf-8"))["rows"].items():
        trainings, (row, *which) = case["trainings"], name.partition(",")
        cells = (
            f"`{row}`{''.join(which)}",
            case["asked"]["process"],
            case["asked"]["target"],
            f"{sum(training['passed'] for training in trainings)} of {len(trainings)}",
            *(each(trainings, figure) for figure in ("gap", "excess", "from_support")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def certificates() -> str:
    """A line per seed: gap, violations, share of the viable set that is certified, and of what is certified wrongly."""
    lines = [
        "| row | seed | gap | violations | certified of what is viable | certified and not viable |",
        "|---|---|---|---|---|---|",
    ]
    for found in json.loads(CERTIFICATE_GAPS.read_text(encoding="utf-8"))["trainings"]:
        shares = (_percent(found["covered"]), _percent(found["false"]))
        lines.append(
            f"| `crabs` | {found['seed']} | {_percent(found['gap'])} | {found['violations']} | {' | '.join(shares)} |"
        )
    return "\n".join(lines)


def rows() -> str:
    """From paper to row to test."""
    lines = ["| paper | row | what it is | level | test |", "|---|---|---|---|---|"]
    lines += [
        f"| {entry.reference} | `{entry.name}` | {entry.summary} | {entry.level} | `{entry.test}` |"
        for entry in registry.entries("recipe")
        if entry.target.startswith("trueline.safety.")
    ]
    return "\n".join(lines)


TABLES = {
    "gaps": gaps,
    "offline-gaps": offline,
    "planners": planners,
    "certificates": certificates,
    "rows": rows,
    **{
        f"family {name}": partial(family_tables.table, name, family_tables.results()) for name in family_tables.FAMILIES
    },
}


def filled(text: str) -> str:
    """The page with its tables."""
    for name, table in TABLES.items():
        block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
