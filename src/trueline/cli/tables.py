"""What is printed: tables of results and settings, JSON, and the words between them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.core import registry

if TYPE_CHECKING:
    from trueline.api import AuditResult, CycleResult, RunResult, SearchResult, SweepResult
    from trueline.evidence.claims import ClaimResult
    from trueline.evidence.experiments.runs import RunRecord
    from trueline.evidence.records import Evidence

__all__ = [
    "hours",
    "print_audit",
    "print_claims",
    "print_cycle",
    "print_experiment",
    "print_json",
    "print_search",
    "print_seeds",
    "print_side_by_side",
    "print_sweep",
    "print_training",
    "say",
    "show_settings",
    "table",
]


def show_settings(kind: str, name: str) -> None:
    """Every setting of a recipe, an audit or a response, and its presets."""
    from trueline.core.config import Config, dotted, fields

    target = registry.load(kind, name)
    entry = registry.find(kind, name)
    print(f"{kind} {name}: {entry.summary}")
    config = target if isinstance(target, type) and issubclass(target, Config) else getattr(target, "Config", None)
    rows = [list(setting) for setting in fields(config)] if config is not None else []
    table(["setting", "type", "default", "note"], rows, "it takes no settings")
    for preset, values in getattr(target, "presets", {}).items():
        flat = ", ".join(f"{key}={value}" for key, value in dotted(values).items())
        print(f"preset {preset}: {flat or 'the defaults'}")


def print_side_by_side(folders: Sequence[Path]) -> None:
    """Settings that differ, final figures and evidence, a column for each run."""
    from trueline.cycle.compare import compare_runs

    found = compare_runs(folders)
    heads = list(found.runs)
    table(["setting", *heads], [[k, *map(_cell, row)] for k, row in found.settings.items()], "all settings are equal")
    print()
    table(["figure", *heads], [[k, *map(_cell, row)] for k, row in found.metrics.items()], "no figures were logged")
    print()
    table(
        ["evidence", *heads],
        [[k, *("-" if e is None else _finding(e) for e in row)] for k, row in found.evidence.items()],
        "none of them has been audited",
    )


def print_training(result: RunResult) -> None:
    """Final figures, why the training ended, and the folder."""
    from trueline.evidence.experiments.endings import stopped_because

    shown = {name: value for name, value in result.summary.items() if name.startswith("train/")}
    table(["figure", "mean of the last tenth"], [[name, _cell(value)] for name, value in shown.items()])
    print(stopped_because(result.folder))
    print(result.folder)


def print_seeds(results: Sequence[RunResult]) -> None:
    """Final figures of one training under several seeds, a row for each, and the folders."""
    names = [name for name in results[0].summary if name.startswith("train/")]
    table(
        ["run", *names],
        [[result.folder.name, *(_cell(result.summary.get(name)) for name in names)] for result in results],
    )
    for result in results:
        print(result.folder)


def print_audit(result: AuditResult) -> None:
    """A row for each piece of evidence, what was not measured, and the path of the report."""
    table(
        ["audit", "metric", "value and interval", "required", "verdict", "cases"],
        [
            [
                e.audit,
                e.metric,
                e.estimate.words(e.unit),
                e.requirement.words() if e.requirement else "-",
                str(e.verdict or "-"),
                str(e.estimate.n),
            ]
            for e in result.evidence
        ],
    )
    for note in dict.fromkeys(f"{e.audit}: {e.note}" for e in result.evidence if e.note.startswith("not measured")):
        print(note)
    if result.folder is not None:
        print(result.folder / "report.html")


def print_cycle(result: CycleResult) -> None:
    """The decision, its reasons, and the path of the report."""
    print("release" if result.released else "do not release", f"after {result.rounds} rounds")
    for reason in result.reasons:
        print(f"  {reason}")
    print(result.report)


def print_claims(results: Iterable[ClaimResult]) -> None:
    """What each claim came to."""
    rows = [
        [
            f"{r.system}/{r.name}",
            r.outcome,
            "-" if r.estimate is None else r.estimate.words(r.unit),
            r.scale,
            r.note,
        ]
        for r in results
    ]
    table(["claim", "outcome", "estimate", "scale", "note"], rows)


def print_sweep(result: SweepResult) -> None:
    """A row for each point of the grid, groups over seeds, and the folder."""
    from trueline.cycle.compare import training_runs

    rows = result.rows
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    names = list(dict.fromkeys(name for row in rows for name in row.mean))
    heads = ["recipe", *keys, *(head for name in names for head in (f"{name} mean", "IQM")), "seeds", "diverged"]
    lines = []
    for row in rows:
        line = [row.recipe, *(_cell(row.settings.get(key)) for key in keys)]
        for name in names:
            line += [row.mean[name].words() if name in row.mean else "-", _cell(row.iqm.get(name))]
        counts = [estimate.n for estimate in row.mean.values()]
        lines.append([*line, str(max(counts, default=0)), str(row.diverged)])
    table(heads, lines)
    print()
    print_experiment(training_runs([result.folder]), each=False)
    print(result.folder)


def print_search(result: SearchResult) -> None:
    """A row for each trial, the best one first, and the folder."""
    keys = list(result.trials[0].settings)
    costs = list(dict.fromkeys(name for row in result.trials for name in row.limits))
    lines = [
        [
            str(row.number),
            *(_cell(row.settings[key]) for key in keys),
            _cell(row.episode_return),
            *(_cell(row.costs.get(name)) for name in costs),
            "yes" if row.merit.feasible else "no",
        ]
        for row in result.trials
    ]
    table(["trial", *keys, "return", *costs, "keeps its limits"], lines)
    print(result.folder)


def print_experiment(records: Sequence[RunRecord], each: bool = True) -> None:
    """Groups over seeds, what each limit costs, and, if wanted, how each run ended; that alone without a return."""
    from trueline.evidence.experiments.page import group_table, pareto_table, run_table, task_table
    from trueline.evidence.experiments.runs import grouped, over_tasks, summarise

    if not any(math.isfinite(record.episode_return) for record in records):
        if each:
            table(*run_table(records))
        return
    rows = summarise(grouped(records))
    table(*group_table(rows))
    over = task_table(over_tasks(records))
    if over.lines:
        print()
        table(*over)
    for cost in dict.fromkeys(name for row in rows if len(rows) > 1 for name in row.costs):
        print()
        table(*pareto_table(rows, cost))
    if each:
        print()
        table(*run_table(records))


def _line(e: Evidence) -> list[str]:
    required = "-" if e.requirement is None else e.requirement.words()
    return [e.audit, e.metric, e.estimate.words(e.unit), required, str(e.verdict or "-"), str(e.estimate.n)]


def _finding(e: Evidence) -> str:
    return f"{e.estimate.words(e.unit)} {e.verdict or ''}".rstrip()


def hours(cpu_hours: float) -> str:
    """CPU time in hours, minutes or seconds."""
    seconds = cpu_hours * 3600.0
    return (
        f"{cpu_hours:.3g} h" if cpu_hours >= 1 else f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.2g} s"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> None:
    """A table on a terminal; elsewhere aligned text whose lines are never broken, for other programs to read."""
    if not rows:
        if empty:
            print(empty)
        return
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(heads):
            shown.add_column(head, no_wrap=number == 0, overflow="fold")
        for row in rows:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """`value` as JSON, for other programs to read."""
    from trueline.core.files import to_json

    print(to_json(value, indent=2))


def say(text: str) -> None:
    """A line on stderr: stdout is for results."""
    print(text, file=sys.stderr)
