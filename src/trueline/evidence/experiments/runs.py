"""Sets of training runs, read from their folders: what each ended with and why it ended, and groups of them over seeds.

A group is what differs in nothing but the seed. Runs that diverged, failed or are not finished have no final figures:
they are counted, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import RunError
from trueline.core.run import read_manifest
from trueline.evidence.experiments.aggregate import merit, probability_of_improvement, violation_probability
from trueline.evidence.experiments.endings import (
    LOGGED,
    final_episodes,
    reached,
    read_limits,
    stopped_because,
)
from trueline.evidence.over_seeds import seed_interval, stratified_bootstrap_iqm
from trueline.evidence.records import Estimate
from trueline.evidence.report import TrainCurve
from trueline.evidence.run_report import read_curves, settings_of

__all__ = [
    "GroupRow",
    "RunRecord",
    "TaskRow",
    "distinct",
    "grouped",
    "over_tasks",
    "read_run",
    "summarise",
    "task_scores",
]

_TOTAL = "train/total_"  # what training logs of every cost a world has


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One training run. Costs and limits are by the cost's name, or "constraint/NAME" where that is what is limited."""

    id: str
    recipe: str
    seed: int
    status: str
    why: str  # why it ended, in one sentence
    settings: Mapping[str, Any]  # dotted
    limits: Mapping[str, float]
    episode_return: float = math.nan  # nan for a run that is not done
    costs: Mapping[str, float] = field(default_factory=dict)
    basis: str = ""  # what those two are means of
    violation: Mapping[str, Estimate] = field(default_factory=dict)  # P(episode cost > limit) of the final policy
    curves: Sequence[TrainCurve] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> hash of what it started from

    @property
    def done(self) -> bool:
        """Whether it has final figures."""
        return self.status == "done"


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Runs that differ in their seeds alone.  Estimates are over seeds; intervals are nan for fewer than eight."""

    label: str
    task: str  # the world that its runs are of; "" where their settings name none
    seeds: int  # with final figures
    others: Mapping[str, int]  # status -> runs without
    episode_return: Estimate  # mean, Student's t
    return_iqm: Estimate  # stratified bootstrap
    costs: Mapping[str, Estimate]
    limits: Mapping[str, float]
    violating: Estimate | None  # share of seeds that ended above a limit, exact interval; None where nothing is limited
    improvement: Estimate | None  # P(its return > that of its task's first group); None for that group


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A method over several tasks: returns scaled to [0, 1] by the lowest and highest run of each task."""

    label: str
    tasks: int
    iqm: Estimate  # stratified bootstrap
    violating: Estimate | None  # share of runs that ended above a limit
    improvement: Estimate | None  # P(its score > that of the first method); None for the first


def read_run(folder: Path) -> RunRecord:
    """The record of a training run.  Raises RunError for what is no training run, or is damaged."""
    manifest = read_manifest(folder)
    if manifest["kind"] != "train":
        raise RunError(f"run {manifest['id']} is of kind {manifest['kind']!r}. Name training runs.")
    limited = {name.removeprefix("train/"): limit for name, limit in read_limits(folder).items()}
    curves = read_curves(folder / "metrics.jsonl")
    record = RunRecord(
        id=manifest["id"],
        recipe=manifest["name"],
        seed=manifest["seed"],
        status=manifest["status"],
        why=stopped_because(folder),
        settings=settings_of(folder / "config.toml"),
        limits=limited,
        curves=curves,
        inputs={role: given["sha256"] for role, given in manifest["inputs"].items()},
    )
    if not record.done:
        return record
    return _with_figures(record, folder, manifest["summary"])


def _with_figures(record: RunRecord, folder: Path, summary: Mapping[str, Any]) -> RunRecord:
    names = [name.removeprefix(_TOTAL) for name in summary if name.startswith(_TOTAL)]
    costs = {name: float(summary[f"train/{name}"]) for name in names if f"train/{name}" in summary}
    episodes = final_episodes(folder)
    if episodes is not None:
        costs |= {name: float(np.mean(values)) for name, values in episodes.cost.items()}
    held = reached(folder, summary, read_limits(folder))
    costs |= {name.removeprefix("train/"): x for name, (x, _) in held.items() if not math.isnan(x)}
    if episodes is None:
        return replace(record, episode_return=float(summary.get("train/return", math.nan)), costs=costs, basis=LOGGED)
    return replace(
        record,
        episode_return=float(np.mean(episodes.episode_return)),
        costs=costs,
        basis=episodes.basis,
        violation={
            name: violation_probability(episodes.cost[name.removeprefix("eval/")], limit)
            for name, limit in record.limits.items()
            if name.removeprefix("eval/") in episodes.cost
        },
    )


# --- groups ---


def distinct(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs without repetitions, of which the first one stays: a run named twice, or a training made twice.

    Equal settings, seed and inputs make the same training, which is one seed. Raises RunError where such runs have
    other figures, since code or packages must have changed between them.
    """
    kept: dict[str, RunRecord] = {}
    done: dict[str, RunRecord] = {}
    for record in records:
        if record.id in kept:
            continue
        made_of = repr((record.recipe, record.seed, sorted(record.settings.items()), sorted(record.inputs.items())))
        twin = done.setdefault(made_of, record) if record.done else record
        if _figures(twin) != _figures(record):
            raise RunError(
                f"runs {twin.id} and {record.id} have the same settings and seed {record.seed}, but not the same "
                "figures, so that they are no two seeds. Name one of them."
            )
        if twin is record:
            kept[record.id] = record
    return list(kept.values())


def _figures(record: RunRecord) -> str:
    return repr((record.episode_return, sorted(record.costs.items())))  # as text nan equals nan


def grouped(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by what they differ in beside the seed, in order of first appearance; the label names those settings.

    Runs of one recipe with equal settings are a group; a set of one group is labelled by the recipe alone. No training
    counts twice. Raises RunError as `distinct`.
    """
    return _labelled(distinct(records))


def _labelled(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    keys = list(dict.fromkeys(key for record in records for key in record.settings))
    recipes = {record.recipe for record in records}
    differ = [
        key
        for key in keys
        if any(len({repr(r.settings.get(key)) for r in records if r.recipe == recipe}) > 1 for recipe in recipes)
        or (key == "env" and len({r.settings.get(key) for r in records}) > 1)
    ]
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        told = [f"{key}={_short(record.settings[key])}" for key in differ if key in record.settings]
        groups.setdefault(" ".join([record.recipe, *told]), []).append(record)
    return groups


def _task_of(records: Sequence[RunRecord]) -> str:
    """The world of a group's runs: what returns and costs may be compared within."""
    return str(records[0].settings.get("env", "")) if records else ""


def summarise(groups: Mapping[str, Sequence[RunRecord]], seed: int = 0, confidence: float = 0.95) -> list[GroupRow]:
    """One row per group, in the order of their tasks.  `seed` is that of the bootstraps: a table is the same again."""
    rows: list[GroupRow] = []
    firsts: dict[str, list[float]] = {}  # the returns of each task's first group
    for number, (label, records) in enumerate(groups.items()):
        done = [r for r in records if r.done and math.isfinite(r.episode_return)]
        returns = [r.episode_return for r in done]
        first = firsts.setdefault(_task_of(records), returns)
        names = list(dict.fromkeys(name for r in done for name in r.costs))
        costs = {
            n: seed_interval([r.costs[n] for r in done if math.isfinite(r.costs.get(n, math.nan))], confidence)
            for n in names
        }
        limits = dict(records[0].limits) if records else {}
        rng = np.random.default_rng([seed, number])
        rows.append(
            GroupRow(
                label=label,
                task=_task_of(records),
                seeds=len(done),
                others=_others(records, done),
                episode_return=seed_interval(returns, confidence),
                return_iqm=stratified_bootstrap_iqm(np.array(returns).reshape(-1, 1), rng, confidence),
                costs=costs,
                limits=limits,
                violating=_violating(done, confidence) if limits else None,
                improvement=(
                    probability_of_improvement(np.array([returns]).T, np.array([first]).T, rng, confidence)
                    if first is not returns and returns and first
                    else None
                ),
            )
        )
    order = list(dict.fromkeys(row.task for row in rows))
    return sorted(rows, key=lambda row: order.index(row.task))


def task_scores(records: Sequence[RunRecord], task: str = "env") -> dict[str, NDArray[np.float64]]:
    """Scaled returns [S, T] of each method, tasks in order of first appearance; {} unless there are two tasks or more.

    A method is what differs in neither the seed nor the setting `task`. Only methods with runs on every task have
    scores; of a task with more seeds than another the first ones count, so that every task weighs the same.
    """
    done = [r for r in distinct(records) if r.done and math.isfinite(r.episode_return) and task in r.settings]
    tasks = list(dict.fromkeys(r.settings[task] for r in done))
    if len(tasks) < 2:
        return {}
    by_task = {t: [r.episode_return for r in done if r.settings[task] == t] for t in tasks}
    low, width = ({t: f(x) for t, x in by_task.items()} for f in (min, lambda x: max(x) - min(x)))
    found: dict[str, NDArray[np.float64]] = {}
    for label, group in _methods(done, task).items():
        columns = [
            [(r.episode_return - low[t]) / (width[t] or 1.0) for r in group if r.settings[task] == t] for t in tasks
        ]
        seeds = min(map(len, columns))
        if seeds:
            found[label] = np.array([column[:seeds] for column in columns]).T
    return found


def over_tasks(
    records: Sequence[RunRecord], task: str = "env", seed: int = 0, confidence: float = 0.95
) -> list[TaskRow]:
    """One row per method that was trained on every task; [] unless there are two tasks or more."""
    rows: list[TaskRow] = []
    scores = task_scores(records, task)
    methods = _methods([r for r in distinct(records) if task in r.settings], task)
    first: NDArray[np.float64] | None = None
    for number, (label, own) in enumerate(scores.items()):
        rng = np.random.default_rng([seed, number])
        done = [r for r in methods[label] if r.done and math.isfinite(r.episode_return)]
        limited = any(r.limits for r in done)
        better = None if first is None else probability_of_improvement(own, first, rng, confidence)
        violating = _violating(done, confidence) if limited else None
        iqm = stratified_bootstrap_iqm(own, rng, confidence)
        rows.append(TaskRow(label, own.shape[1], iqm, violating, better))
        first = own if first is None else first
    return rows


def _methods(records: Sequence[RunRecord], task: str) -> dict[str, list[RunRecord]]:
    """Runs by what they differ in beside the seed and the task."""
    bare = {id(r): replace(r, settings={k: v for k, v in r.settings.items() if k != task}) for r in records}
    back = {id(b): r for r, b in zip(records, bare.values(), strict=True)}
    return {label: [back[id(b)] for b in group] for label, group in _labelled(list(bare.values())).items()}


def _violating(done: Sequence[RunRecord], confidence: float) -> Estimate:
    """Share of runs that ended above a limit."""
    above = [float(not merit(r.episode_return, r.costs, r.limits).feasible) for r in done]
    return violation_probability(above, 0.5, confidence)


def _others(records: Sequence[RunRecord], done: Sequence[RunRecord]) -> dict[str, int]:
    without = [r for r in records if not any(r is d for d in done)]
    words = [r.status if not r.done else "without a finished episode" for r in without]
    return {word: words.count(word) for word in dict.fromkeys(words)}


def _short(value: Any) -> str:
    return ",".join(map(_short, value)) if isinstance(value, list) else str(value)
