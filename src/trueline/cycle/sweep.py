"""A sweep: recipes over a grid of settings and over seeds, each point a run of its own.

A sweep is a run that holds its grid and, in the end, its table; points are runs `ID-p00-s0`. Killed and resumed it
trains what is not finished. A point that diverges is a result, not a reason to stop.

Of several recipes each is given the settings that it has, so that a row without limits can stand beside those under
one: a setting that none of them has is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from trueline.core import registry
from trueline.core.config import Config, Harmless, build, dotted, fields, parse_override
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
    "Cell",
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


class Cell(NamedTuple):
    """One point of the grid: a recipe and the settings that vary."""

    recipe: str
    settings: Mapping[str, Any]


class SweepSpec(Config):
    """What is swept: recipes, fixed settings, settings that vary (each with its values), and seeds 0 … seeds − 1."""

    recipes: tuple[str, ...] = Field(min_length=1)
    preset: str | None = None
    config: Mapping[str, Any] = {}
    grid: Mapping[str, tuple[Any, ...]] = {}
    seeds: Harmless[int] = Field(1, ge=1)  # more of them may be trained later
    threads: int = Field(1, ge=1)
    together: bool = False  # the seeds of a point in one process and one stack: the same up to rounding, and sooner

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        for key, values in (("recipes", self.recipes), *self.grid.items()):
            for at, value in enumerate(values):
                if value in values[:at]:  # its points would be the same trainings, counted as seeds of their own
                    raise ValueError(f"{key} has the value {value!r} twice. Give each value once.")
        return self

    def plan(self, cell: Cell) -> Plan:
        """The plan of one point of the grid."""
        if len(self.recipes) == 1:
            return Plan(recipe=cell.recipe, preset=self.preset, config=self.config).with_settings(cell.settings)
        own = {key: value for key, value in dotted(self.config).items() if self._takes(cell.recipe, key)}
        return Plan(recipe=cell.recipe, preset=self.preset).with_settings({**own, **cell.settings})

    def cells(self) -> list[Cell]:
        """Every point of the grid: the recipes one after the other, each over the settings that it has."""
        found = []
        for recipe in self.recipes:
            own = {key: values for key, values in self.grid.items() if self._takes(recipe, key)}
            found += [Cell(recipe, dict(zip(own, values, strict=True))) for values in product(*own.values())]
        return found

    def left_out(self) -> dict[str, list[str]]:
        """By recipe, which of the given settings are not its own but another's."""
        given = (*dotted(self.config), *self.grid)
        lacks = {recipe: [key for key in given if not self._takes(recipe, key)] for recipe in self.recipes}
        return {recipe: keys for recipe, keys in lacks.items() if keys}

    def _takes(self, recipe: str, key: str) -> bool:
        """Whether a setting goes to a recipe; one that no recipe has goes to all, which refuse it."""
        if len(self.recipes) == 1:
            return True
        having = [name for name in self.recipes if _has(registry.load("recipe", name).Config, key)]
        return recipe in having or not having


def _has(config: type[Config], key: str) -> bool:
    """Whether a dotted key is a setting, holds some, or lies in a table whose keys are not known beforehand."""
    known, holding = _keys(config)
    above = [key.rsplit(".", cut)[0] for cut in range(1, key.count(".") + 1)]
    return key in known | holding or any(name in known - holding for name in above)


@cache  # asked for every setting at every point, and the same each time
def _keys(config: type[Config]) -> tuple[frozenset[str], frozenset[str]]:
    """The dotted settings of `config`, and what stands above some of them."""
    known = frozenset(setting.key for setting in fields(config))
    return known, frozenset(key.rsplit(".", cut)[0] for key in known for cut in range(1, key.count(".") + 1))


@dataclass(frozen=True, slots=True)
class Point:
    """One training run of a sweep."""

    id: str
    cell: Cell
    seed: int


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One point of the grid over its seeds."""

    recipe: str
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
        Point(of_point(id, number, seed), cell, seed)
        for number, cell in enumerate(spec.cells())
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
    the same; seeds may have been added.
    """
    for cell in spec.cells():
        (check_stacks if spec.together else check_config)(cell.recipe, spec.plan(cell).settings(), root)
    for recipe, keys in spec.left_out().items():
        stage(f"{recipe} has no {', '.join(keys)}: it is trained without")
    with executor(with_executor, workers) as pool:
        name = f"sweep-{'-'.join(spec.recipes)}"
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
    for number, cell in enumerate(spec.cells()):
        found = [_summary(folder.parent / of_point(folder.name, number, seed)) for seed in range(spec.seeds)]
        finished = [summary for summary in found if summary is not None]
        names = sorted({name for summary in finished for name in summary if name.startswith(METRICS)})
        values = {name: [s[name] for s in finished if math.isfinite(s.get(name, math.nan))] for name in names}
        rows.append(
            SweepRow(
                cell.recipe,
                cell.settings,
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
            pool.map(partial(_train_seeds, spec, run.folder.parent), _by_cell(todo))
        else:
            pool.map(partial(_train_point, spec, run.folder.parent), todo)
    rows = table(spec, run.folder)
    run.write_json("table.json", [asdict(row) for row in rows])
    run.finish("done", summary={"points": len(listed), "diverged": sum(row.diverged for row in rows)})
    return rows


def _train_point(spec: SweepSpec, root: Path, point: Point) -> None:
    train_part(spec.plan(point.cell), root / point.id, point.seed, spec.threads)


def _by_cell(todo: Sequence[Point]) -> list[list[Point]]:
    return [list(seeds) for _, seeds in groupby(todo, key=lambda point: point.cell)]


def _train_seeds(spec: SweepSpec, root: Path, seeds: Sequence[Point]) -> None:
    cell = seeds[0].cell
    config = spec.plan(cell).settings()
    ids = [point.id for point in seeds]
    ended = start_together(
        cell.recipe, config, [point.seed for point in seeds], root=root, threads=spec.threads, ids=ids
    )
    for _, error in ended:
        if isinstance(error, Diverged):
            stage(str(error))
        elif error is not None:
            raise error


def _config(folder: Path) -> dict[str, Any]:
    read_manifest(folder)  # says what is wrong with a folder that is no whole run
    return read_config(folder)


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
