"""A search for settings: which trial is best under its limits, trials proposed by Optuna, trained by an executor.

A search is a run of kind "search" that holds its space and its proposals; trials are runs `ID-t000-s0`, one per seed.
What they came to is read back from those runs, so that nothing else has to be stored: killed and resumed, a search
trains what is missing. Proposals come in batches of `parallel`; each batch depends on the trials before it and the
search's seed alone, so that an interrupted search proposes what an uninterrupted one does.

Trials are ordered feasible first, then by return. Optuna sees their ranks: its sampler compares trials and does not
measure how far they lie apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trueline.core.config import Config, build, read_toml
from trueline.core.errors import MissingExtra
from trueline.core.executor import Executor, executor
from trueline.core.files import jsonable
from trueline.core.progress import stage
from trueline.core.recipe import Plan, check_config
from trueline.core.run import Run, read_manifest
from trueline.cycle.parts import is_over, of_trial, train_part
from trueline.evidence.experiments.aggregate import Merit, merit
from trueline.evidence.experiments.runs import RunRecord, read_run

__all__ = [
    "Choice",
    "Numbers",
    "SearchSpec",
    "Trial",
    "TrialRow",
    "Whole",
    "ranks",
    "read_search",
    "resume_search",
    "run_search",
    "trial_folders",
]


class Numbers(Config):
    """Any number between two."""

    kind: Literal["number"] = "number"
    low: float
    high: float
    log: bool = False  # equally likely in each decade

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _refuse_empty(self.low, self.high, self.log)
        return self


class Whole(Config):
    """Any whole number between two, both included."""

    kind: Literal["whole"] = "whole"
    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _refuse_empty(self.low, self.high, self.log)
        return self


class Choice(Config):
    """One of several values, in no order."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)


def _refuse_empty(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low is {low} and high is {high}. Give two finite numbers, the smaller one as low.")
    if log and low <= 0:
        raise ValueError(f"low is {low}, but a logarithmic range has to begin above 0.")


def _ranges(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ranges by dotted key: a table that holds tables is a key's beginning, a list is a choice."""
    for key, value in table.items():
        if isinstance(value, list | tuple):
            yield prefix + key, {"kind": "choice", "values": tuple(value)}
        elif isinstance(value, Mapping) and not {"low", "high", "values", "kind"} & set(value):
            yield from _ranges(value, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and "kind" not in value and "low" in value:
            whole = all(isinstance(value.get(end), int) for end in ("low", "high"))
            yield prefix + key, {"kind": "whole" if whole else "number", **value}
        else:
            yield prefix + key, value


class SearchSpec(Config):
    """What is searched: settings that are fixed, ranges of those that are not, and how many trials there are.

    In a file a range is a table `{low = 1e-5, high = 1e-2, log = true}` under its dotted key, of whole numbers where
    both ends are, and a choice is a list of its values.
    """

    recipe: str
    preset: str | None = None
    config: Mapping[str, Any] = {}
    space: Mapping[str, Numbers | Whole | Choice]
    trials: int = Field(20, ge=1)
    parallel: int = Field(1, ge=1)  # trials of a batch: proposed together, trained side by side
    seeds: int = Field(1, ge=1)  # 0 … seeds − 1 of each trial, whose mean figures decide
    seed: int = Field(0, ge=0)  # of the proposals
    threads: int = Field(1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _as_in_a_file(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(given.get("space"), Mapping):
            return given
        return {**given, "space": dict(_ranges(given["space"]))}

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if not self.space:
            raise ValueError("space is empty. Name at least one setting to search.")
        return self

    def plan(self, settings: Mapping[str, Any]) -> Plan:
        """The plan of one trial."""
        return Plan(recipe=self.recipe, preset=self.preset, config=self.config).with_settings(settings)


@dataclass(frozen=True, slots=True)
class Trial:
    """One proposal."""

    number: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A finished trial: means over its seeds; nan where a seed diverged."""

    number: int
    settings: Mapping[str, Any]
    episode_return: float
    costs: Mapping[str, float]
    limits: Mapping[str, float]

    @property
    def merit(self) -> Merit:
        """Feasible first, then return; a trial with a diverged seed comes last."""
        return merit(self.episode_return, self.costs, self.limits)


def read_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchSpec:
    """The search that a TOML file describes.  Raises ConfigError."""
    return build(SearchSpec, read_toml(path), overrides, where=str(path))


def run_search(
    spec: SearchSpec, *, root: Path, id: str | None = None, with_executor: str = "inline", workers: int = 1
) -> tuple[Path, list[TrialRow]]:
    """Trains every trial and returns the search's folder and its trials, the best one first.

    An `id` that exists already is gone on with, if it searches the same. Raises, before anything is written,
    MissingExtra without Optuna and ConfigError for settings that some trial could not be trained with.
    """
    _optuna()
    for settings in _corners(spec):
        check_config(spec.recipe, spec.plan(settings).settings(), root)
    with executor(with_executor, workers) as pool:
        name = f"search-{spec.recipe}"
        with Run.open_or_create(
            root, kind="search", name=name, config=spec, seed=spec.seed, id=id, threads=spec.threads
        ) as run:
            return run.folder, _search(spec, run, pool)


def resume_search(folder: Path, with_executor: str = "inline", workers: int = 1) -> list[TrialRow]:
    """Trains the trials that are not finished, and returns all of them, the best one first."""
    _optuna()
    spec = _spec(folder)
    with executor(with_executor, workers) as pool, Run.reopen(folder) as run:
        return _search(spec, run, pool)


def trial_folders(folder: Path) -> list[Path]:
    """The folders of every run that a search has proposed so far, by trial and seed; some may not have begun."""
    spec = _spec(folder)
    trials = [trial for batch in _batches(spec) for trial in _listed(folder, batch)]
    return [folder.parent / of_trial(folder.name, trial.number, seed) for trial in trials for seed in range(spec.seeds)]


def ranks(rows: Sequence[TrialRow]) -> list[int]:
    """Place of each trial among all by merit, 0 the worst; equals share a place."""
    order = sorted({row.merit for row in rows})
    return [order.index(row.merit) for row in rows]


# --- proposals ---


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("search", "a search for settings") from None
    return optuna


def _proposed(spec: SearchSpec, rows: Sequence[TrialRow], batch: range) -> list[Trial]:
    """The next trials, from what is finished: a study made anew, told of every trial, asked for the batch."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(optuna, given) for key, given in spec.space.items()}
    # A seed for each batch: the sampler's own state would have to be stored, and its form is no business of ours.
    sampler = optuna.samplers.TPESampler(seed=1_000_003 * spec.seed + batch.start)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row, rank in zip(rows, ranks(rows), strict=True):
        told = {key: _told(spec.space[key], value) for key, value in row.settings.items()}
        study.add_trial(optuna.trial.create_trial(params=told, distributions=space, value=float(rank)))
    asked = [study.ask(space) for _ in batch]
    return [
        Trial(number, {key: _meant(given, trial.params[key]) for key, given in spec.space.items()})
        for number, trial in zip(batch, asked, strict=True)
    ]


def _distribution(optuna: ModuleType, given: Numbers | Whole | Choice) -> Any:
    match given:
        case Numbers():
            return optuna.distributions.FloatDistribution(given.low, given.high, log=given.log)
        case Whole():
            return optuna.distributions.IntDistribution(given.low, given.high, log=given.log)
        case Choice():
            # Numbers of the values: a value may be a list or a table, which Optuna does not take.
            return optuna.distributions.CategoricalDistribution(tuple(range(len(given.values))))


def _told(given: Numbers | Whole | Choice, value: Any) -> Any:
    # What was proposed has been JSON since, which knows no tuples.
    return jsonable(given.values).index(jsonable(value)) if isinstance(given, Choice) else value


def _meant(given: Numbers | Whole | Choice, value: Any) -> Any:
    return given.values[value] if isinstance(given, Choice) else value


def _corners(spec: SearchSpec) -> list[dict[str, Any]]:
    """Settings at either end of every range, and each choice: what a trial may come to one setting at a time."""
    ends = {
        key: list(given.values) if isinstance(given, Choice) else [given.low, given.high]
        for key, given in spec.space.items()
    }
    first = {key: values[0] for key, values in ends.items()}
    return [first | {key: value} for key, values in ends.items() for value in values]


# --- trials ---


def _search(spec: SearchSpec, run: Run, pool: Executor) -> list[TrialRow]:
    rows: list[TrialRow] = []
    root = run.folder.parent
    with run.interruptible():
        for batch in _batches(spec):
            # What was proposed is written down before it is trained: a newer Optuna may propose something else.
            trials = _listed(run.folder, batch)
            if not trials:
                trials = _proposed(spec, rows, batch)
                run.write_json(f"trials/{batch.start:04d}.json", [asdict(trial) for trial in trials])
            every = [(trial, seed) for trial in trials for seed in range(spec.seeds)]
            todo = [(t, s) for t, s in every if not is_over(root / of_trial(run.id, t.number, s))]
            if todo:
                stage(f"run {run.folder}: trials {batch.start} to {batch.stop - 1} of {spec.trials}")
            pool.map(partial(_train_trial, spec, root, run.id), todo)
            rows += _finished(spec, run.folder, trials)
    best = _best_first(rows)
    run.write_json("table.json", [asdict(row) for row in best])
    summary = {"trials": len(rows), "feasible": sum(row.merit.feasible for row in rows), "best": best[0].number}
    run.finish("done", summary=summary)
    return best


def _batches(spec: SearchSpec) -> list[range]:
    starts = range(0, spec.trials, spec.parallel)
    return [range(start, min(start + spec.parallel, spec.trials)) for start in starts]


def _train_trial(spec: SearchSpec, root: Path, search: str, todo: tuple[Trial, int]) -> None:
    trial, seed = todo
    train_part(spec.plan(trial.settings), root / of_trial(search, trial.number, seed), seed, spec.threads)


def _listed(folder: Path, batch: range) -> list[Trial]:
    """The trials of a batch that has been proposed before; [] for one that has not."""
    path = folder / "artefacts" / "trials" / f"{batch.start:04d}.json"
    if not path.exists():
        return []
    return [Trial(row["number"], row["settings"]) for row in json.loads(path.read_text(encoding="utf-8"))]


def _finished(spec: SearchSpec, folder: Path, trials: Sequence[Trial]) -> list[TrialRow]:
    rows = []
    for trial in trials:
        folders = [folder.parent / of_trial(folder.name, trial.number, seed) for seed in range(spec.seeds)]
        if all(map(is_over, folders)):
            rows.append(_row(trial, [read_run(each) for each in folders]))
    return rows


def _row(trial: Trial, records: Sequence[RunRecord]) -> TrialRow:
    """Means over seeds. A diverged seed has no figures and makes nan of every mean: it is never left out."""
    names = list(dict.fromkeys(name for record in records for name in (*record.limits, *record.costs)))
    costs = {name: _mean([record.costs.get(name, math.nan) for record in records]) for name in names}
    limits = next((record.limits for record in records if record.limits), {})
    returns = [record.episode_return if record.done else math.nan for record in records]
    return TrialRow(trial.number, trial.settings, _mean(returns), costs, limits)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _best_first(rows: Sequence[TrialRow]) -> list[TrialRow]:
    return sorted(rows, key=lambda row: row.merit, reverse=True)


def _spec(folder: Path) -> SearchSpec:
    read_manifest(folder)  # says what is wrong with a folder that is no whole run
    return build(SearchSpec, read_toml(folder / "config.toml"), where=str(folder))
