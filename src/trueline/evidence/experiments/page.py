"""A set of runs as tables and as one HTML page that opens offline, limits drawn into every chart of a cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from trueline.evidence import plots
from trueline.evidence.experiments.aggregate import performance_profile
from trueline.evidence.experiments.pareto import Tradeoff, pareto_front
from trueline.evidence.experiments.runs import (
    GroupRow,
    RunRecord,
    TaskRow,
    distinct,
    grouped,
    over_tasks,
    summarise,
    task_scores,
)
from trueline.evidence.plots import PlanePoint
from trueline.evidence.records import Axis, Curve, Estimate, Requirement
from trueline.evidence.report import TrainCurve
from trueline.evidence.svg import WIDTH, Scale, at_y, axis_x, axis_y, banded, domain, drawing, legend
from trueline.evidence.words import number

__all__ = [
    "Table",
    "build_experiment_page",
    "group_table",
    "pareto_table",
    "profiles",
    "run_table",
    "seed_curve",
    "seed_curves",
    "task_table",
]

POINTS = 200  # of a drawn curve
PROFILE = 41  # thresholds of a drawn profile
LETTERS = 44  # of a name that fits into a chart's width behind its line


class Table(NamedTuple):
    """Heads and lines of text."""

    heads: list[str]
    lines: list[list[str]]


# --- tables ---


def group_table(rows: Sequence[GroupRow]) -> Table:
    """One line per group: return, IQM, each cost with its limit, share of seeds above a limit, against the first."""
    costs = list(dict.fromkeys(name for row in rows for name in (*row.limits, *row.costs)))
    heads = ["runs", "seeds", "return", "IQM", *costs, "P(above a limit)", "P(return > first)", "without figures"]
    lines = [
        [
            row.label,
            str(row.seeds),
            _said(row.episode_return),
            _said(row.return_iqm),
            *(_limited(row.costs.get(name), row.limits.get(name)) for name in costs),
            _said(row.violating),
            _said(row.improvement),
            ", ".join(f"{count} {status}" for status, count in row.others.items()) or "-",
        ]
        for row in rows
    ]
    return Table(heads, lines)


def run_table(records: Sequence[RunRecord]) -> Table:
    """One line per run: how it ended, its final figures, and how probable an episode above each limit is."""
    costs = list(dict.fromkeys(name for record in records for name in (*record.limits, *record.costs)))
    heads = ["run", "seed", "why it ended", "return", *costs, *(f"P({name} > limit)" for name in costs)]
    lines = [
        [
            record.id,
            str(record.seed),
            record.why,
            number(record.episode_return),
            *(number(record.costs.get(name, math.nan)) for name in costs),
            *(_said(record.violation.get(name)) for name in costs),
        ]
        for record in records
    ]
    return _without_empty(Table(heads, lines))


def task_table(rows: Sequence[TaskRow]) -> Table:
    """One line per method over all tasks; no lines for a single task."""
    heads = ["method", "tasks", "IQM of scaled returns", "P(above a limit)", "P(score > first)"]
    lines = [[r.label, str(r.tasks), _said(r.iqm), _said(r.violating), _said(r.improvement)] for r in rows]
    return _without_empty(Table(heads, lines))


def pareto_table(rows: Sequence[GroupRow], cost: str) -> Table:
    """Groups of each task by ascending cost, with what lies on its front and what surely does not."""
    found = [f for own in _by_task(rows).values() for f in pareto_front(_tradeoffs(own, cost))]
    words = ["on the front" if f.on_front else "surely dominated" if f.surely_dominated else "dominated" for f in found]
    lines = [
        [f.point.label, number(f.point.limit), _said(f.point.cost), _said(f.point.episode_return), word]
        for f, word in zip(found, words, strict=True)
    ]
    return Table(["runs", "limit", cost, "return", "front"], lines)


def _by_task(rows: Sequence[GroupRow]) -> dict[str, list[GroupRow]]:
    """Rows that may be compared with each other: a return of one world says nothing about another's."""
    return {task: [row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)}


def _without_empty(table: Table) -> Table:
    kept = [i for i, _ in enumerate(table.heads) if any(line[i] not in ("-", "–") for line in table.lines)]
    return Table([table.heads[i] for i in kept], [[line[i] for i in kept] for line in table.lines])


def _said(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    return estimate.words()


def _limited(cost: Estimate | None, limit: float | None) -> str:
    said = _said(cost)
    return said if limit is None else f"{said} (limit {number(limit)})"


# --- curves over seeds ---


def seed_curve(curves: Sequence[TrainCurve], name: str = "") -> Curve | None:
    """Mean, lowest and highest value over seeds at each step, as far as the shortest run goes; None without a point.

    Runs that logged at other steps are read between their points.
    """
    known = [c for c in curves if any(math.isfinite(y) for y in c.y)]
    if not known:
        return None
    end, begin = min(max(c.x) for c in known), max(min(c.x) for c in known)
    steps = np.unique(np.concatenate([np.asarray(c.x, dtype=float) for c in known]))
    steps = steps[(steps >= begin) & (steps <= end)]
    if not len(steps):
        return None
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))]
    values = np.array([_at(c, steps) for c in known])
    axis = Axis("environment steps", "", tuple(steps.tolist()))
    mean, low, high = (tuple(part.tolist()) for part in (values.mean(axis=0), values.min(axis=0), values.max(axis=0)))
    return Curve(name, axis, mean, low, high, (len(known),) * len(steps), math.nan)


def _at(curve: TrainCurve, steps: np.ndarray) -> np.ndarray:
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    known = np.isfinite(y)
    return np.interp(steps, x[known], y[known])


def seed_curves(curve: Curve, limits: Mapping[str, float], label: str) -> Markup:
    """A quantity over training with its band; `limits` are lines, name -> height."""
    left, right, top, bottom = 44.0, WIDTH - 12, 26.0, 176.0
    x = Scale(*domain([0.0, *curve.axis.values], pad=0.0), left, right)
    y = Scale(*domain([*curve.mean, *curve.low, *curve.high, *limits.values()]), bottom, top)
    xs = [x(step) for step in curve.axis.values]
    parts = axis_x(x, bottom, curve.axis.name) + axis_y(y, left, right)
    parts += banded("series s0", xs, curve.mean, curve.low, curve.high, y)
    if len(xs) == 1:  # a line through one point is nothing to be seen
        parts.append(f'<circle class="knot series s0" cx="{xs[0]:.1f}" cy="{y(curve.mean[0]):.1f}" r="3.2"/>')
    for index, height in enumerate(limits.values()):
        at = f'x1="{left:.1f}" x2="{right:.1f}" {at_y(y(height))}'
        parts.append(f'<line class="limit l{index % 3}" {at}/>')
    named = [(f"limit l{index % 3}", f"{name} {number(height)}") for index, (name, height) in enumerate(limits.items())]
    return drawing(bottom + 36, label, parts + legend(named, left))


def profiles(curves: Sequence[Curve], label: str) -> Markup:
    """A performance profile for each curve with its band, named one below the other; the first is drawn strongest."""
    left, right, top = 44.0, WIDTH - 12, 12.0 + 15.0 * len(curves)
    bottom = top + 150.0
    x = Scale(*domain(curves[0].axis.values, pad=0.02), left, right)
    y = Scale(0.0, 1.0, bottom, top)
    parts = axis_x(x, bottom, curves[0].axis.name) + axis_y(y, left, right)
    for index, curve in enumerate(curves):
        xs = [x(level) for level in curve.axis.values]
        parts += banded(f"series s{index}", xs, curve.mean, curve.low, curve.high, y)
        named = "".join(legend([(f"line series s{index}", _shortened(curve.name))], left))
        title = f"<title>{escape(curve.name)}</title>"
        parts.append(f'<g transform="translate(0 {15 * index})">{title}{named}</g>')
    return drawing(bottom + 36, label, parts)


def _shortened(name: str) -> str:
    """What of a name fits: groups differ at the end of theirs, methods at the beginning."""
    half = (LETTERS - 1) // 2
    return name if len(name) <= LETTERS else f"{name[:half]}…{name[-half:]}"


# --- the page ---


def build_experiment_page(records: Sequence[RunRecord], title: str = "Runs compared", seed: int = 0) -> str:
    """Tables and charts of a set of runs as one HTML file; `seed` is that of the bootstraps."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = distinct(records)
    groups = grouped(records)
    rows = summarise(groups, seed)
    by_task = _by_task(rows)
    told, runs, tasks = group_table(rows), run_table(records), task_table(over_tasks(records, seed=seed))
    basis = ", ".join(dict.fromkeys(record.basis for record in records if record.basis))
    return environment.get_template("experiments.html.j2").render(
        title=title,
        basis=f"{len(records)} runs in {len(groups)} groups. Figures: {basis or 'none, no run is done'}.",
        table=_html_table,
        group_heads=told.heads,
        group_lines=told.lines,
        task_heads=tasks.heads,
        task_lines=tasks.lines,
        run_heads=runs.heads,
        run_lines=runs.lines,
        planes=[
            _plane(own, cost, task if len(by_task) > 1 else "")
            for task, own in by_task.items()
            for cost in dict.fromkeys(name for row in own for name in row.costs)
        ],
        profile=_profile(task_scores(records) or (_returns(groups) if len(by_task) == 1 else {}), seed),
        curves=[picture for label, group in groups.items() for picture in _group_curves(label, group)],
    )


def _html_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return Markup(
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _tradeoffs(rows: Sequence[GroupRow], cost: str) -> list[Tradeoff]:
    return [
        Tradeoff(row.label, row.episode_return, row.costs[cost], row.limits.get(cost, math.nan))
        for row in rows
        if cost in row.costs
    ]


def _plane(rows: Sequence[GroupRow], cost: str, task: str) -> dict[str, object]:
    """Groups in the plane of cost and return; a limit that all of them share is drawn.

    Names of several letters are too wide for a point: each has a number there, and its name below the chart.
    """
    found = pareto_front(_tradeoffs(rows, cost))
    shared = {f.point.limit for f in found}
    limit = shared.pop() if len(shared) == 1 else math.nan
    requirement = None if math.isnan(limit) else Requirement(bound="at_most", threshold=limit)
    points = [
        PlanePoint(
            str(place),
            f.point.cost.value,
            f.point.episode_return.value,
            (f.point.cost.low, f.point.cost.high),
            (f.point.episode_return.low, f.point.episode_return.high),
            _state(f.point, f.on_front),
        )
        for place, f in enumerate(found, 1)
    ]
    title = f"return against {cost}" + (f" in {task}" if task else "")
    svg = plots.plane(points, requirement, f"{cost} per episode", "return per episode", f"{title}, one point per group")
    names = [f"{place} {f.point.label}{', on the front' * f.on_front}" for place, f in enumerate(found, 1)]
    return {"title": title, "svg": svg, "note": "; ".join(names) + "."}


def _state(point: Tradeoff, on_front: bool) -> str:
    # The plane joins what is no baseline by a line: that is the front, in ascending cost.
    if not on_front:
        return "baseline"
    return "fail" if point.cost.value > point.limit else "reported"


def _returns(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, np.ndarray]:
    """Final returns [S, 1] by group."""
    return {
        label: np.array([[r.episode_return] for r in records if r.done and math.isfinite(r.episode_return)])
        for label, records in groups.items()
    }


def _profile(scores: Mapping[str, np.ndarray], seed: int) -> Markup | str:
    scores = {label: x for label, x in scores.items() if len(x)}
    every = np.concatenate([x.ravel() for x in scores.values()]) if scores else np.zeros(0)
    if not len(every) or every.min() == every.max():
        return ""
    tau = np.linspace(every.min(), every.max(), PROFILE)
    shown = list(scores.items())[:4]  # more than four lines cannot be told apart
    rng = np.random.default_rng(seed)
    curves = [performance_profile(x, tau, rng, name=label) for label, x in shown]
    return profiles(curves, "share of runs above each score")


def _group_curves(label: str, records: Sequence[RunRecord]) -> list[dict[str, object]]:
    pictures: list[dict[str, object]] = []
    limits = {
        name if name.startswith(("constraint/", "eval/")) else f"train/{name}": limit
        for name, limit in records[0].limits.items()
    }
    totals = {
        c.name.removeprefix("train/total_") for r in records for c in r.curves if c.name.startswith("train/total_")
    }
    for name in dict.fromkeys(["train/return", *limits, *sorted(f"train/{total}" for total in totals)]):
        curve = seed_curve([c for r in records for c in r.curves if c.name == name], name)
        if curve is not None:
            own = {"limit": limits[name]} if name in limits else {}
            title = f"{label}: {name.removeprefix('train/')}"
            pictures.append({"title": title, "svg": seed_curves(curve, own, title)})
    return pictures
