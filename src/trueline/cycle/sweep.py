"""A sweep: one recipe over a grid of settings and over seeds, each point a run of its own.

A sweep is a run that holds its grid and, in the end, its table; points are runs `ID-p00-s0`. Killed and resumed it
trains what is not finished. A point that diverges is a result, not a reason to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from trueline.core.config import Config, build, parse_override
from trueline.core.errors import ConfigError, Diverged
from trueline.core.executor import Executor, executor
from trueline.core.progress import stage
from trueline.core.recipe import Plan, check_config
from trueline.core.run import Run, read_config, read_manifest, status_of
from trueline.cycle.parts import is_over, of_point, train_part
from trueline.cycle.training import check_stacks, start_together
from trueline.evidence.over_seeds import iqm, seed_interval
from trueline.evidence.records import Estimate

__all__ = [
    "Point",
    "SweepRow",
    "SweepSpec",
    "parse_grid",
    "point_folders",
    "points",
    "resume_sweep",
    "run_sweep",
    "table",
]

METRICS = "train/"  # the figures a table shows, unless others are named


class SweepSpec(Config):
    """What is swept: settings that are fixed, settings that vary (each with its values), and seeds 0 … seeds − 1."""

    recipe: str
    preset: str | None = None
    config: Mapping[str, Any] = {}
    grid: Mapping[str, tuple[Any, ...]] = {}
    seeds: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    together: bool = False  # the seeds of a point in one process and one stack: the same up to rounding, and sooner

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        for key, values in self.grid.items():
            for at, value in enumerate(values):
                if value in values[:at]:  # its points would be the same trainings, counted as seeds of their own
                    raise ValueError(f"{key} has the value {value!r} twice. Give each value once.")
        return self

    def plan(self, settings: Mapping[str, Any]) -> Plan:
        """The plan of one point of the grid."""
        return Plan(recipe=self.recipe, preset=self.preset, config=self.config).with_settings(settings)


@dataclass(frozen=True, slots=True)
class Point:
    """One training run of a sweep."""

    id: str
    settings: Mapping[str, Any]
    seed: int


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One point of the grid over its seeds."""

    settings: Mapping[str, Any]
    mean: Mapping[str, Estimate]  # by metric: mean over seeds, with an interval from eight seeds on
    iqm: Mapping[str, float]  # by metric: interquartile mean over seeds
    diverged: int  # seeds without a value


def parse_grid(texts: Sequence[str]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """`["env=A", "lr=1e-3,1e-4"]` -> ({"env": "A"}, {"lr": (1e-3, 1e-4)}), keys dotted.

    Commas inside brackets, braces or quotes do not separate values: `hidden=[64,64],[32,32]` has two.
    """
    fixed: dict[str, Any] = {}
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        parts = list(_split(values))
        parsed = [parse_override(f"{key}{equals}{part}") for part in parts]
        dotted = ".".join(parsed[0][0])
        if dotted in {**fixed, **grid}:
            raise ConfigError(f"{dotted} is given twice. List all its values in one {dotted}=a,b,c.")
        if len(parsed) > 1:
            grid[dotted] = tuple(value for _, value in parsed)
        else:
            fixed[dotted] = parsed[0][1]
    return fixed, grid


def points(spec: SweepSpec, id: str) -> list[Point]:
    """Every run of the sweep `id`, in the order of the grid."""
    return [
        Point(of_point(id, number, seed), settings, seed)
        for number, settings in enumerate(_grid(spec))
        for seed in range(spec.seeds)
    ]


def point_folders(folder: Path) -> list[Path]:
    """The folders of a sweep's runs, in the order of the grid; some may not have begun."""
    spec = build(SweepSpec, _config(folder), where=str(folder))
    return [folder.parent / point.id for point in points(spec, folder.name)]


def run_sweep(
    spec: SweepSpec, *, root: Path, id: str | None = None, with_executor: str = "inline", workers: int = 1
) -> tuple[Path, list[SweepRow]]:
    """Trains every point and returns the sweep's folder and its table.

    All settings are checked before anything is written. An `id` that exists already is gone on with, if its grid is
    the same.
    """
    for settings in _grid(spec):
        (check_stacks if spec.together else check_config)(spec.recipe, spec.plan(settings).settings(), root)
    with executor(with_executor, workers) as pool:
        name = f"sweep-{spec.recipe}"
        with Run.open_or_create(root, kind="sweep", name=name, config=spec, seed=0, id=id, threads=spec.threads) as run:
            return run.folder, _train_points(spec, run, pool)


def resume_sweep(folder: Path, with_executor: str = "inline", workers: int = 1) -> list[SweepRow]:
    """Trains the points that are not finished, and returns the table."""
    spec = build(SweepSpec, _config(folder), where=str(folder))
    with executor(with_executor, workers) as pool, Run.reopen(folder) as run:
        return _train_points(spec, run, pool)


def table(spec: SweepSpec, folder: Path) -> list[SweepRow]:
    """The rows of a sweep from what its finished points recorded."""
    rows = []
    for number, settings in enumerate(_grid(spec)):
        found = [_summary(folder.parent / of_point(folder.name, number, seed)) for seed in range(spec.seeds)]
        finished = [summary for summary in found if summary is not None]
        names = sorted({name for summary in finished for name in summary if name.startswith(METRICS)})
        values = {name: [s[name] for s in finished if math.isfinite(s.get(name, math.nan))] for name in names}
        rows.append(
            SweepRow(
                settings,
                {name: seed_interval(x) for name, x in values.items()},
                {name: iqm(x) for name, x in values.items()},
                len(found) - len(finished),
            )
        )
    return rows


def _train_points(spec: SweepSpec, run: Run, pool: Executor) -> list[SweepRow]:
    listed = points(spec, run.id)
    todo = [point for point in listed if not is_over(run.folder.parent / point.id)]
    stage(f"run {run.folder}: {len(todo)} of {len(listed)} points to train")
    with run.interruptible():
        if spec.together:
            pool.map(partial(_train_seeds, spec, run.folder.parent), _by_settings(todo))
        else:
            pool.map(partial(_train_point, spec, run.folder.parent), todo)
    rows = table(spec, run.folder)
    run.write_json("table.json", [asdict(row) for row in rows])
    run.finish("done", summary={"points": len(listed), "diverged": sum(row.diverged for row in rows)})
    return rows


def _train_point(spec: SweepSpec, root: Path, point: Point) -> None:
    train_part(spec.plan(point.settings), root / point.id, point.seed, spec.threads)


def _by_settings(todo: Sequence[Point]) -> list[list[Point]]:
    return [list(seeds) for _, seeds in groupby(todo, key=lambda point: point.settings)]


def _train_seeds(spec: SweepSpec, root: Path, seeds: Sequence[Point]) -> None:
    config = spec.plan(seeds[0].settings).settings()
    ids = [point.id for point in seeds]
    ended = start_together(
        spec.recipe, config, [point.seed for point in seeds], root=root, threads=spec.threads, ids=ids
    )
    for _, error in ended:
        if isinstance(error, Diverged):
            stage(str(error))
        elif error is not None:
            raise error


def _config(folder: Path) -> dict[str, Any]:
    read_manifest(folder)  # says what is wrong with a folder that is no whole run
    return read_config(folder)


def _grid(spec: SweepSpec) -> list[dict[str, Any]]:
    return [dict(zip(spec.grid, values, strict=True)) for values in product(*spec.grid.values())]


def _summary(folder: Path) -> dict[str, float] | None:
    """The figures of a finished point; None for one that has none."""
    if status_of(folder) != "done":
        return None
    summary = read_manifest(folder)["summary"]
    return {name: float(value) for name, value in summary.items() if name != "subject"}


def _split(values: str) -> Iterator[str]:
    depth, quote, begin = 0, "", 0
    for position, char in enumerate(values):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            yield values[begin:position]
            begin = position + 1
    yield values[begin:]
