"""`ExperimentGrid`: every combination of settings, environments, algorithms and seeds, trained and compared.

An experiment is a folder of one combination; its runs are its seeds, `seed-000` and so on. A grid that was stopped goes
on where it was when it is run again. (A `trueline sweep` is over one recipe; a grid goes over recipes too.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

from trueline.compat.omnisafe.algorithms import find
from trueline.compat.omnisafe.evaluator import Evaluation, Evaluator
from trueline.compat.omnisafe.figures import Curve, Result, curve, draw, result
from trueline.compat.omnisafe.settings import plan
from trueline.core.errors import ConfigError, RunError, nearest
from trueline.core.executor import executor
from trueline.core.files import write_text
from trueline.core.run import read_manifest
from trueline.evidence.over_seeds import seed_interval
from trueline.evidence.records import Estimate

__all__ = ["Comparison", "ExperimentGrid"]

Thunk = Callable[[str, str, str, Mapping[str, Any]], Result]
Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value of the compared parameter, all else being equal."""

    settings: Mapping[str, Any]  # the other settings that vary, by key with colons
    value: Any
    seeds: tuple[int, ...]
    episode_return: Estimate  # means over seeds, with an interval from eight seeds on
    cost: Estimate


class ExperimentGrid:
    """Keys with the values each may take; a key in a section is written "algo_cfgs:gamma"."""

    def __init__(self, exp_name: str = "") -> None:
        """exp_name: the folder in which its experiments lie."""
        if not isinstance(exp_name, str):
            raise ConfigError(f"exp_name is {exp_name!r}. Give a string.")
        self.name = exp_name
        self.keys: list[str] = []
        self.vals: list[list[Any]] = []
        self.log_dir: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> ExperimentGrid:
        """The grid that was run in the folder `path`, to be analysed. Raises RunError where there is none."""
        folder = Path(path)
        try:
            table = json.loads((folder / "grid_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunError(f"{folder} holds no grid. Give the folder that ExperimentGrid.run wrote.") from None
        grid = cls(folder.name)
        grid.keys, grid.vals, grid.log_dir = list(table), list(table.values()), folder
        return grid

    def add(self, key: str, vals: Any, shorthand: str | None = None, in_name: bool = False) -> None:  # noqa: ARG002
        """Let `key` take each of `vals`, or the one value. `shorthand` and `in_name` are accepted: a folder's name
        tells its environment, algorithm and a digest, and its settings are written beside its runs.

        Raises ConfigError for a key or a value that is there already.
        """
        values = list(vals) if isinstance(vals, list) else [vals]
        if key in self.keys:
            raise ConfigError(f"{key} is in the grid already. Give all of its values in one add().")
        if any(value in values[:n] for n, value in enumerate(values)):
            raise ConfigError(f"{key} has a value twice in {values}. Give each once.")
        if not values:
            raise ConfigError(f"{key} has no value. Give at least one.")
        self.keys.append(key)
        self.vals.append(values)

    def variants(self) -> list[Settings]:
        """Every combination as nested settings, the last key varying fastest."""
        return [_nested(dict(zip(self.keys, values, strict=True))) for values in product(*self.vals)]

    def run(
        self,
        thunk: Thunk,
        num_pool: int = 1,
        parent_dir: str | Path | None = None,
        is_test: bool = False,
        gpu_id: list[int] | None = None,
    ) -> list[Result]:
        """Call `thunk(number, algo, env_id, custom_cfgs)` for every combination, `num_pool` processes at once.

        Results lie in `parent_dir`/exp_name (./exp-x/exp_name), and unless `is_test` in its exp-x-results.txt. Every
        combination is checked before the first is trained. Raises ConfigError for a setting that is wrong, for GPUs,
        and for a folder that holds another grid.
        """
        if gpu_id is not None:
            raise ConfigError(f"gpu_id is {gpu_id}, but training runs on the CPU. Leave it out.")
        variants = self.variants()
        for variant in variants:
            missing = [key for key in ("algo", "env_id") if key not in variant]
            if missing:
                raise ConfigError(f"the grid has no {missing[0]}. Call add({missing[0]!r}, …).")
            plan(find(variant["algo"]), variant["env_id"], variant)
        self.log_dir = Path("exp-x" if parent_dir is None else parent_dir) / self.name
        self._write_grid(self.log_dir)
        called = []
        for number, variant in enumerate(variants):
            folder = self.log_dir / _folder_name(variant)
            _write_json(folder / "exps_config.json", _without_seed(variant))
            logger = {**variant.get("logger_cfgs", {}), "log_dir": str(folder)}
            called.append((str(number), {**variant, "logger_cfgs": logger}))
        with executor("inline" if num_pool == 1 else "processes", num_pool) as pool:
            results = pool.map(partial(_call, thunk), called)
        if not is_test:
            lines = [
                f"{_folder_name(variant)} seed {variant.get('seed', 0)}: reward {done[0]:.2f}, cost {done[1]:.2f}, "
                f"length {done[2]:.0f}"
                for variant, done in zip(variants, results, strict=True)
            ]
            write_text(self.log_dir / "exp-x-results.txt", "\n".join([*lines, ""]))
        return results

    def analyze(
        self,
        parameter: str,
        values: Sequence[Any] | None = None,
        compare_num: int | None = None,
        cost_limit: float | None = None,
        show_image: bool = False,
    ) -> list[Comparison]:
        """Compare the values of one key, or some of them, all other settings being equal.

        Draws pictures into analysis/ of the grid's folder: one for each combination of the other settings, and with
        `compare_num` one for every choice of so many values. Raises ConfigError for a key or value that does not vary
        here, for both `values` and `compare_num`, and for a window.
        """
        if show_image:
            raise ConfigError("show_image is True, but no window is opened. Look at the pictures in analysis/.")
        if values is not None and compare_num is not None:
            raise ConfigError("both values and compare_num are given. Give one of them.")
        known = dict(zip(self.keys, self.vals, strict=True))
        if parameter == "seed" or parameter not in known:
            options = [key for key in known if key != "seed"]
            near = nearest(parameter, options)
            raise ConfigError(f"{parameter!r} cannot be compared.{near} The grid's keys are {', '.join(options)}.")
        chosen = known[parameter] if values is None else list(values)
        wrong = [value for value in chosen if value not in known[parameter]]
        if wrong:
            raise ConfigError(f"{parameter} is never {wrong[0]!r} in this grid. It is one of {known[parameter]}.")
        if compare_num is not None and not 1 <= compare_num <= len(chosen):
            raise ConfigError(f"compare_num is {compare_num}. Give 1 to {len(chosen)}, the number of values.")
        rows = []
        for others, by_value in self._compared(parameter, chosen):
            for value, runs in by_value.items():
                done = {seed: result(folder) for seed, folder in runs.items()}
                returns, costs = [d.episode_return for d in done.values()], [d.cost for d in done.values()]
                found = Comparison(others, json.loads(value), tuple(done), seed_interval(returns), seed_interval(costs))
                rows.append(found)
            label = "_".join(f"{key.rpartition(':')[2]}-{value}" for key, value in others.items())
            for n, shown in enumerate(combinations(by_value, compare_num or len(by_value))):
                name = "_".join(part for part in (parameter.replace(":", "."), label, str(n)) if part)
                curves: dict[str, list[Curve]] = {
                    f"{parameter.rpartition(':')[2]} {json.loads(value)}": [curve(f) for f in by_value[value].values()]
                    for value in shown
                }
                draw(self._folder() / "analysis" / f"{_safe(name)}.png", curves, cost_limit, title=label)
        return rows

    def evaluate(self, num_episodes: int = 10, cost_criteria: float = 1.0) -> dict[Path, Evaluation]:
        """Return and cost of episodes of every policy in the grid, by the folder of its run."""
        return {run: _loaded(run).evaluate(num_episodes, cost_criteria) for run in self._runs()}

    def render(
        self,
        num_episodes: int = 10,
        render_mode: str = "rgb_array",
        camera_name: str = "track",
        width: int = 256,
        height: int = 256,
    ) -> dict[Path, Evaluation]:
        """Films of every policy in the grid, each in its run's video/."""
        shown = {"render_mode": render_mode, "camera_name": camera_name, "width": width, "height": height}
        return {run: _loaded(run, **shown).render(num_episodes) for run in self._runs()}

    def _folder(self) -> Path:
        if self.log_dir is None:
            raise ConfigError("this grid has not been run. Call run() first, or ExperimentGrid.read(folder).")
        return self.log_dir

    def _write_grid(self, folder: Path) -> None:
        path = folder / "grid_config.json"
        table = dict(zip(self.keys, self.vals, strict=True))
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(table)):
            raise ConfigError(f"{folder} holds another grid. Give another exp_name, or another parent_dir.")
        _write_json(path, table)

    def _runs(self) -> Iterator[Path]:
        """Folders of finished runs, in order."""
        for manifest in sorted(self._folder().glob("*/seed-*/manifest.json")):
            if read_manifest(manifest.parent)["status"] == "done":
                yield manifest.parent

    def _compared(
        self, parameter: str, values: Sequence[Any]
    ) -> Iterator[tuple[dict[str, Any], dict[str, dict[int, Path]]]]:
        """Other settings that vary, with the runs of each value (as JSON) by seed."""
        known = zip(self.keys, self.vals, strict=True)
        varying = [key for key, vals in known if len(vals) > 1 and key not in (parameter, "seed")]
        groups: dict[str, dict[str, dict[int, Path]]] = {}
        for run in self._runs():
            settings = json.loads((run.parent / "exps_config.json").read_text(encoding="utf-8"))
            value = _at(settings, parameter)
            if value not in values:
                continue
            others = json.dumps({key: _at(settings, key) for key in varying})
            seed = read_manifest(run)["seed"]
            groups.setdefault(others, {}).setdefault(json.dumps(value), {})[seed] = run
        if not groups:
            raise ConfigError(
                f"{self._folder()} holds no run with such values. What is called for each combination has to train "
                "into the logger_cfgs.log_dir that it is given, and to its end."
            )
        for others, by_value in groups.items():
            yield json.loads(others), by_value


def _call(thunk: Thunk, call: tuple[str, Settings]) -> Result:
    number, variant = call
    return thunk(number, variant["algo"], variant["env_id"], variant)


def _loaded(run: Path, **shown: Any) -> Evaluator:
    evaluator = Evaluator()
    evaluator.load_saved(run, **shown)
    return evaluator


def _nested(flat: Mapping[str, Any]) -> Settings:
    nested: Settings = {}
    for key, value in sorted(flat.items(), key=lambda item: item[0].count(":")):  # a key within a table lies over it
        *path, last = key.split(":")
        table = nested
        for part in path:
            table = table.setdefault(part, {})
        # A table is copied: it is the user's own, and that of every variant.
        table[last] = {**table.get(last, {}), **deepcopy(value)} if isinstance(value, Mapping) else value
    return nested


def _at(settings: Mapping[str, Any], key: str) -> Any:
    here: Any = settings
    for part in key.split(":"):
        here = here[part]
    return here


def _without_seed(variant: Settings) -> Settings:
    return {key: value for key, value in variant.items() if key != "seed"}


def _folder_name(variant: Settings) -> str:
    """The same for every seed, another for every other combination."""
    text = json.dumps(_without_seed(variant), sort_keys=True)
    return f"{_safe(variant['env_id'])}-{variant['algo']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1))
