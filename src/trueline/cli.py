"""`trueline …`: the command line, a thin face of `trueline.api`.

Every command imports what it needs when it is called, so that `--help` answers at once. Results go to stdout, what
happens meanwhile to stderr. Exit codes: 0 done; 1 error; 2 wrong usage or setting; 3 training diverged or a world
returned nan; 4 an audit failed; 5 no audit failed, but some are not settled; 130 stopped by a signal.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from trueline.core import registry
from trueline.core.errors import LISTED, ConfigError, RunError, Stopped, TruelineError, UnknownName, nearest, unknown

if TYPE_CHECKING:
    from trueline.core.registry import Entry
    from trueline.evidence.experiments.runs import RunRecord
    from trueline.evidence.records import Estimate, Evidence

__all__ = ["app", "main"]

FAILED, UNSETTLED, INTERRUPTED = 4, 5, 130

KINDS = {word: kind for kind, word in LISTED.items()}

app = typer.Typer(
    name="trueline",
    help="Train agents under constraints, audit them, and turn each failure into the next round's training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, keys dotted.")]
Root = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id or its beginning, its path, or `latest`.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random stream.")]
Threads = Annotated[int, typer.Option(min=1, help="Compute threads; part of what makes two runs equal bit by bit.")]
Id = Annotated[str | None, typer.Option("--id", help="The run's id; made from time and name unless given.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="inline, processes or ray.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes or Ray CPUs.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
RUNS = Path("runs")


def _show_version(wanted: bool) -> None:
    if wanted:
        from trueline import __version__

        print(f"trueline {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and leave.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="PACKAGE", help="Register a package of yours; may stand anywhere."),
    ] = None,
) -> None:
    for module in modules or ():
        registry.add_module(module)


# -- names ------------------------------------------------------------------------------------------------------------


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(metavar="|".join(KINDS), help="What to list.")] = None,
    only: Annotated[str | None, typer.Argument(metavar="FAMILY|PATTERN", help="Of a kind with many names.")] = None,
    as_json: Json = False,
) -> None:
    """Show the names that are registered, with reference, verification level and test; many names by family."""
    if kind is None:
        counts = {plural: len(_listed(plural)) for plural in KINDS}
        if as_json:
            _print_json(counts)
        else:
            _table(["kind", "names"], [[plural, str(n)] for plural, n in counts.items()])
        return
    if kind not in KINDS:
        raise UnknownName(_one_of("kind of name", kind, KINDS))
    entries = _listed(kind)
    families = sorted({entry.family for entry in entries if entry.family})
    if only is not None:
        entries = [e for e in entries if e.family == only or fnmatchcase(e.name, only)]
        if not entries:
            near = nearest(only, families)
            raise UnknownName(f"{only!r} is no family of {kind} and no name.{near} `trueline list {kind}` shows them.")
    if as_json:
        from dataclasses import asdict

        _print_json([asdict(entry) for entry in entries])
        return
    if only is None and families:
        _table(["family", "names", "for example", "level"], _by_family(entries))
        print(f"`trueline list {kind} FAMILY`, or a pattern of names, shows each.")
        return
    _table(
        ["name", "summary", "reference", "level", "test"],
        [[e.name, e.summary, e.reference, e.level, e.test] for e in entries],
        f"no {kind} are registered",
    )


def _listed(kind: str) -> list[Entry]:
    # Worlds of several agents are another kind of thing to make, but whoever looks for a world looks under envs.
    kinds = ("envs", "multi-agent-envs") if kind == "envs" else (kind,)
    return [entry for name in kinds for entry in registry.entries(KINDS[name])]


def _by_family(entries: Sequence[Entry]) -> list[list[str]]:
    """One row per family, and one for each name without."""
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(entry.family or entry.name, []).append(entry)
    return [
        [family, str(len(each)), each[0].name, ", ".join(sorted({entry.level for entry in each}))]
        for family, each in sorted(rows.items())
    ]


@app.command()
def settings(name: Annotated[str, typer.Argument(help="A recipe, audit or response.")]) -> None:
    """Show every setting of a recipe (with its presets), an audit or a response."""
    kinds = [
        entry.kind for kind in ("recipe", "audit", "response") for entry in registry.entries(kind) if entry.name == name
    ]
    if not kinds:
        known = [e.name for kind in ("recipe", "audit", "response") for e in registry.entries(kind)]
        raise UnknownName(unknown("recipe", name, known))
    for kind in kinds:
        _show_settings(kind, name)


def _show_settings(kind: str, name: str) -> None:
    from trueline.core.config import Config, fields

    target = registry.load(kind, name)
    entry = registry.find(kind, name)
    print(f"{kind} {name}: {entry.summary}")
    config = target if isinstance(target, type) and issubclass(target, Config) else getattr(target, "Config", None)
    rows = [list(setting) for setting in fields(config)] if config is not None else []
    _table(["setting", "type", "default", "note"], rows, "it takes no settings")
    for preset, values in getattr(target, "presets", {}).items():
        flat = ", ".join(f"{key}={value}" for key, value in _flat(values).items())
        print(f"preset {preset}: {flat or 'the defaults'}")


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A model folder with pickled weights.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
) -> None:
    """Rewrite a language model's pickled weights as safetensors; a file that would run code is refused."""
    from trueline.language.models import convert as rewritten

    _say(f"wrote {rewritten(folder, out)}")


# -- runs that do something -------------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="See `trueline list recipes`.")],
    overrides: Settings = None,
    preset: Annotated[str | None, typer.Option(help="Named settings of the recipe, under the ones given.")] = None,
    seed: Seed = 0,
    seeds: Annotated[
        str | None, typer.Option(metavar="0-15|0,3,7", help="Train these seeds together in one process, a run each.")
    ] = None,
    threads: Threads = 1,
    root: Root = RUNS,
    id: Id = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="ROLE=RUN", help="A finished run to start from.")
    ] = None,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too, project trueline.")] = False,
    help_settings: Annotated[
        bool, typer.Option("--help-settings", help="Show the recipe's settings and leave.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the training would take and see, and leave.")
    ] = False,
) -> None:
    """Train a recipe; what it made lies in a run folder, whose path is the last line."""
    if help_settings:
        _show_settings("recipe", recipe)
        return
    if dry_run:
        _rehearse(recipe, preset, _values(overrides), _pairs(inputs, "--input", "ROLE=RUN"), root, seed)
        return
    if seeds is not None:
        _train_seeds(recipe, overrides, preset, seeds, threads, root, id, inputs, seed != 0 or wandb)
        return
    from trueline import api

    with _stoppable(root):
        result = api.train(
            recipe,
            _values(overrides),
            preset=preset,
            seed=seed,
            threads=threads,
            inputs=_pairs(inputs, "--input", "ROLE=RUN"),
            root=root,
            id=id,
            wandb="trueline" if wandb else None,
        )
    if os.environ.get("RANK", "0") == "0":  # under torchrun every process has the result, and one is enough to tell it
        _print_training(result)


def _train_seeds(
    recipe: str,
    overrides: Sequence[str] | None,
    preset: str | None,
    seeds: str,
    threads: int,
    root: Path,
    id: str | None,
    inputs: Sequence[str] | None,
    of_one: bool,
) -> None:
    from trueline import api

    if of_one:
        raise ConfigError("--seed and --wandb are of one training. Leave them out with --seeds.")
    with _stoppable(root):
        results = api.train_seeds(
            recipe,
            _values(overrides),
            seeds=_whole_numbers(seeds),
            preset=preset,
            threads=threads,
            inputs=_pairs(inputs, "--input", "ROLE=RUN"),
            root=root,
            id=id,
        )
    names = [name for name in results[0].summary if name.startswith("train/")]
    _table(
        ["run", *names],
        [[result.folder.name, *(_cell(result.summary.get(name)) for name in names)] for result in results],
    )
    for result in results:
        print(result.folder)


def _rehearse(
    recipe: str, preset: str | None, settings: dict[str, Any], inputs: dict[str, str], root: Path, seed: int
) -> None:
    from trueline.api import nested
    from trueline.core.recipe import recipe_config, rehearse
    from trueline.core.subject import load_subject
    from trueline.cycle.training import find_run

    config = recipe_config(recipe, preset, nested(settings))
    subjects = {role: load_subject(find_run(run, root)) for role, run in inputs.items()}
    print(rehearse(recipe, config, subjects, root, seed))


@app.command()
def resume(run: RunName, root: Root = RUNS, with_executor: ExecutorName = "inline", workers: Workers = 1) -> None:
    """Go on with a training, audit, cycle, sweep, search or claim that was stopped or killed."""
    from trueline import api
    from trueline.core.run import read_manifest
    from trueline.cycle.training import find_run

    folder = find_run(run, root)
    with _stoppable(folder.parent):
        result: Any = api.resume(folder, executor=with_executor, workers=workers)
    match read_manifest(folder)["kind"]:
        case "train":
            _print_training(result)
        case "audit":
            _print_audit(result, folder)
        case "cycle":
            _print_cycle(result)
        case "sweep":
            _print_sweep(result, folder)
        case "search":
            _print_search(result, folder)
        case "claim":
            _print_claims([result])


@app.command()
def audit(
    run: RunName,
    only: Annotated[list[str] | None, typer.Option(help="Audits to make, such as 'robustness/*'.")] = None,
    config: Annotated[list[str] | None, typer.Option(metavar="AUDIT.KEY=VALUE", help="A setting of an audit.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Most cases per audit.")] = None,
    seed: Seed = 0,
    threads: Threads = 1,
    root: Root = RUNS,
) -> None:
    """Audit what a run trained, on held-out cases.  Leaves with 0 when all that is required passes, 4, or 5."""
    from trueline.core.subject import load_subject
    from trueline.cycle import auditing
    from trueline.cycle.training import find_run

    folder = auditing.subject_folder(find_run(run, root))
    subject = load_subject(folder)
    choice = auditing.choose(subject, only or ("*",), auditing.audit_settings(config or ()), budget)
    if choice.left_out:
        _say(f"left out, because the subject lacks what they need: {', '.join(choice.left_out)}")
    with _stoppable(folder.parent):
        made = auditing.start_audit(
            choice.uses, subject, folder, root=folder.parent, seed=seed, threads=threads
        )  # fmt: skip
    _print_audit(auditing.verdicts(made), made)


@app.command()
def cycle(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Plan, audits, responses and gate.")],
    overrides: Settings = None,
    root: Root = RUNS,
    id: Id = None,
) -> None:
    """Run an alignment cycle; prints the decision and, last, the path of its report."""
    from trueline import api

    with _stoppable(root):
        result = api.cycle(file, overrides or (), root=root, id=id)
    _print_cycle(result)


@app.command()
def reproduce(
    system: Annotated[str | None, typer.Argument(help="A system, or a pattern over claims' names.")] = None,
    scale: Annotated[
        str, typer.Option(help="Size of the experiment: ci, laptop, published; each claim says which it has.")
    ] = "ci",
    most_cpu_hours: Annotated[float, typer.Option(min=0.0, help="Claims that need more are not attempted.")] = math.inf,
    root: Root = RUNS,
    with_executor: ExecutorName = "inline",
    workers: Workers = 1,
) -> None:
    """Test the claims of a system at a scale; without a system, list them with what they cost.  Stopped ones go on."""
    from trueline import api
    from trueline.cycle.reproduction import claims_of

    if system is None:
        rows = [
            [
                named.name,
                named.claim.sentence,
                named.claim.source,
                ", ".join(f"{name} {_hours(size.cpu_hours)}" for name, size in named.claim.scales.items()),
            ]
            for named in claims_of()
        ]
        _table(["claim", "the paper says", "source", "scales (CPU time)"], rows, "no claims are registered")
        return
    with _stoppable(root):
        results = api.reproduce(
            system, scale, most_cpu_hours=most_cpu_hours, root=root, executor=with_executor, workers=workers
        )
    _print_claims(results)


@app.command()
def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="See `trueline list recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=A,B,C]...", help="Settings; several values make the grid.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each point: 0 up to this number less one.")] = 8,
    preset: Annotated[str | None, typer.Option(help="Named settings of the recipe, under the ones given.")] = None,
    threads: Threads = 1,
    root: Root = RUNS,
    together: Annotated[bool, typer.Option(help="Train the seeds of a point in one process and one stack.")] = False,
    id: Id = None,
    with_executor: ExecutorName = "inline",
    workers: Workers = 1,
) -> None:
    """Train a recipe over a grid of settings and over seeds.  The same --id again trains only what is missing."""
    from trueline.core.config import build
    from trueline.cycle.sweep import SweepSpec, parse_grid, run_sweep

    fixed, grid = parse_grid(overrides or ())
    given = {"recipe": recipe, "preset": preset, "grid": grid, "seeds": seeds, "threads": threads, "together": together}
    spec = build(SweepSpec, {**given, "config": _values([], fixed)}, where="sweep")
    with _stoppable(root):
        folder, rows = run_sweep(spec, root=root, id=id, with_executor=with_executor, workers=workers)
    _print_sweep(rows, folder)


@app.command()
def search(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Recipe, fixed settings, and ranges of others.")],
    overrides: Settings = None,
    root: Root = RUNS,
    id: Id = None,
    with_executor: ExecutorName = "inline",
    workers: Workers = 1,
) -> None:
    """Search for settings by Optuna: limits first, then return.  The same --id again trains only what is missing."""
    from trueline.cycle.search import read_search, run_search

    spec = read_search(file, overrides or ())
    with _stoppable(root):
        folder, rows = run_search(spec, root=root, id=id, with_executor=with_executor, workers=workers)
    _print_search(rows, folder)


@app.command(context_settings={"ignore_unknown_options": True})
def bench(
    name: Annotated[str | None, typer.Argument(help="A benchmark; without one, list them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to its script.")] = None,
) -> None:
    """Run a performance comparison: ours and the peer's, interleaved in one run."""
    import subprocess

    scripts = _bench_scripts()
    entries = registry.entries("benchmark")
    if name is None:
        rows = [[e.name, e.summary] for e in entries] + [[n, str(path)] for n, path in scripts.items()]
        _table(["benchmark", "what"], rows, "no benchmarks are here: they are scripts of the source repository")
        return
    if name in {e.name for e in entries}:
        registry.load("benchmark", name)(*(arguments or ()))
        return
    if not scripts and not entries:
        raise UnknownName(
            "the benchmarks are scripts of the source repository, which is not here. Clone it to run them."
        )
    if name not in scripts:
        raise UnknownName(unknown("benchmark", name, [*scripts, *(e.name for e in entries)]))
    raise typer.Exit(subprocess.run([sys.executable, str(scripts[name]), *(arguments or ())], check=False).returncode)


def _bench_scripts() -> dict[str, Path]:
    """The scripts in benchmarks/ of the repository this package lies in; none for an installed wheel."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


# -- looking at runs --------------------------------------------------------------------------------------------------


@app.command()
def runs(
    kind: Annotated[str | None, typer.Option(help="train, audit, cycle, sweep, search or claim.")] = None,
    status: Annotated[str | None, typer.Option(help="running, killed, done, stopped, failed or diverged.")] = None,
    root: Root = RUNS,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, newest first."""
    from trueline.core.run import is_locked
    from trueline.core.store import Store

    if not root.is_dir():
        raise RunError(f"there is no folder of runs {root}. Start a run with `trueline train`, or give --root.")
    listed = []
    for manifest in Store(root).runs(kind=kind):
        now = manifest["status"]
        if now == "running" and not is_locked(root / manifest["id"]):
            now = "killed"
        if status in (None, now):
            listed.append({**manifest, "status": now})
    if as_json:
        _print_json(listed)
        return
    _table(
        ["run", "kind", "name", "status", "seed", "started"],
        [
            [m["id"], m["kind"], m["name"], m["status"], str(m["seed"]), m["started"][:16].replace("T", " ")]
            for m in listed
        ],
        "no runs are here yet",
    )


@app.command()
def report(run: RunName, root: Root = RUNS) -> None:
    """Write a run's report anew and print its path."""
    from trueline import api

    print(api.report(run, root=root))


@app.command()
def export(
    run: RunName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .npz (its runner is put beside it) or .onnx file.")],
    best: Annotated[
        bool, typer.Option("--best", help="The best policy of the run's evaluations, not the last.")
    ] = False,
    root: Root = RUNS,
) -> None:
    """Write a trained policy as NumPy arrays with a runner, or as ONNX; prints what was written."""
    from trueline import api
    from trueline.rl.export import export as written

    for path in written(api.load(run, root=root, best=best), out):
        print(path)


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", help="Two runs or more; a sweep or a search stands for its runs."),
    ],
    page: Annotated[Path | None, typer.Option(help="Write tables and charts, limits drawn, to this HTML file.")] = None,
    root: Root = RUNS,
) -> None:
    """Show runs side by side: settings that differ, final figures, evidence; then over seeds, limits and groups."""
    from trueline.core.files import write_text
    from trueline.core.run import read_manifest
    from trueline.cycle.compare import SETS, training_runs
    from trueline.cycle.training import find_run
    from trueline.evidence.experiments.page import build_experiment_page

    folders = [find_run(name, root) for name in names]
    if not any(read_manifest(folder)["kind"] in SETS for folder in folders):
        _print_side_by_side(folders)
        print()
    records = training_runs(folders)
    _print_experiment(records)
    if page is not None:
        write_text(page, build_experiment_page(records))
        print(page)


def _print_side_by_side(folders: Sequence[Path]) -> None:
    from trueline.cycle.compare import compare_runs

    found = compare_runs(folders)
    heads = list(found.runs)
    _table(["setting", *heads], [[k, *map(_cell, row)] for k, row in found.settings.items()], "all settings are equal")
    print()
    _table(["figure", *heads], [[k, *map(_cell, row)] for k, row in found.metrics.items()], "no figures were logged")
    print()
    _table(
        ["evidence", *heads],
        [[k, *("-" if e is None else _finding(e) for e in row)] for k, row in found.evidence.items()],
        "none of them has been audited",
    )


# -- printing ---------------------------------------------------------------------------------------------------------


def _print_training(result: Any) -> None:
    from trueline.evidence.experiments.endings import stopped_because

    shown = {name: value for name, value in result.summary.items() if name.startswith("train/")}
    _table(["figure", "mean of the last tenth"], [[name, _cell(value)] for name, value in shown.items()])
    print(stopped_because(result.folder))
    print(result.folder)


def _print_audit(evidence: Sequence[Evidence], folder: Path) -> NoReturn:
    from trueline.cycle.auditing import tally

    _table(
        ["audit", "metric", "value and interval", "required", "verdict", "cases"],
        [
            [e.audit, e.metric, _interval(e.estimate, e.unit), _required(e), str(e.verdict or "-"), str(e.estimate.n)]
            for e in evidence
        ],
    )
    for note in dict.fromkeys(f"{e.audit}: {e.note}" for e in evidence if e.note.startswith("not measured")):
        print(note)
    print(folder / "report.html")
    raise typer.Exit({"pass": 0, "fail": FAILED, "inconclusive": UNSETTLED}[tally(evidence)])


def _print_cycle(result: Any) -> None:
    print("release" if result.released else "do not release", f"after {result.rounds} rounds")
    for reason in result.reasons:
        print(f"  {reason}")
    print(result.report)


def _print_claims(results: Iterable[Any]) -> None:
    rows = [
        [
            f"{r.system}/{r.name}",
            r.outcome,
            "-" if r.estimate is None else _interval(r.estimate, r.unit),
            r.scale,
            r.note,
        ]
        for r in results
    ]
    _table(["claim", "outcome", "estimate", "scale", "note"], rows)


def _print_sweep(rows: Sequence[Any], folder: Path) -> None:
    from trueline.cycle.compare import training_runs

    keys = list(rows[0].settings) if rows else []
    names = list(dict.fromkeys(name for row in rows for name in row.mean))
    heads = [*keys, *(head for name in names for head in (f"{name} mean", "IQM")), "seeds", "diverged"]
    lines = []
    for row in rows:
        line = [_cell(row.settings[key]) for key in keys]
        for name in names:
            line += [_interval(row.mean[name]) if name in row.mean else "-", _cell(row.iqm.get(name))]
        counts = [estimate.n for estimate in row.mean.values()]
        lines.append([*line, str(max(counts, default=0)), str(row.diverged)])
    _table(heads, lines)
    print()
    _print_experiment(training_runs([folder]), each=False)
    print(folder)


def _print_search(rows: Sequence[Any], folder: Path) -> None:
    keys = list(rows[0].settings)
    costs = list(dict.fromkeys(name for row in rows for name in row.limits))
    lines = [
        [
            str(row.number),
            *(_cell(row.settings[key]) for key in keys),
            _cell(row.episode_return),
            *(_cell(row.costs.get(name)) for name in costs),
            "yes" if row.merit.feasible else "no",
        ]
        for row in rows
    ]
    _table(["trial", *keys, "return", *costs, "keeps its limits"], lines)
    print(folder)


def _print_experiment(records: Sequence[RunRecord], each: bool = True) -> None:
    """Groups over seeds, what each limit costs, and, if wanted, how each run ended; nothing without a return."""
    from trueline.evidence.experiments.page import group_table, pareto_table, run_table, task_table
    from trueline.evidence.experiments.runs import grouped, over_tasks, summarise

    if not any(math.isfinite(record.episode_return) for record in records):
        return
    rows = summarise(grouped(records))
    _table(*group_table(rows))
    over = task_table(over_tasks(records))
    if over.lines:
        print()
        _table(*over)
    for cost in dict.fromkeys(name for row in rows if len(rows) > 1 for name in row.costs):
        print()
        _table(*pareto_table(rows, cost))
    if each:
        print()
        _table(*run_table(records))


def _finding(e: Evidence) -> str:
    return f"{_interval(e.estimate, e.unit)} {e.verdict or ''}".rstrip()


def _required(e: Evidence) -> str:
    if e.requirement is None:
        return "-"
    return f"{'at most' if e.requirement.bound == 'at_most' else 'at least'} {e.requirement.threshold:g}"


def _interval(estimate: Estimate, unit: str = "") -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.4g} {unit}".rstrip()
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}] {unit}".rstrip()


def _hours(hours: float) -> str:
    seconds = hours * 3600.0
    return f"{hours:.3g} h" if hours >= 1 else f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.2g} s"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> None:
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


def _print_json(value: Any) -> None:
    from trueline.core.files import to_json

    print(to_json(value, indent=2))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -- reading what was typed -------------------------------------------------------------------------------------------


def _values(overrides: Sequence[str] | None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`["update.lr=1e-4"]` -> nested settings."""
    from trueline.core.config import parse_override
    from trueline.core.recipe import Plan

    plan = Plan(recipe="")
    given = [parse_override(text) for text in overrides or ()]
    for key, value in [*((".".join(keys), value) for keys, value in given), *(more or {}).items()]:
        plan = plan.with_setting(key, value)
    return dict(plan.config)


def _pairs(texts: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{option} is {text!r}, but should be {form}.")
        found[key] = value
    return found


def _whole_numbers(text: str) -> list[int]:
    """`"0-3,8"` -> [0, 1, 2, 3, 8]."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise ConfigError(f"--seeds is {text!r}, but should be like 0-15 or 0,3,7.")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found):
        raise ConfigError(f"--seeds is {text!r}, which names a seed twice. Name each once.")
    return found


def _one_of(what: str, given: str, known: Iterable[str]) -> str:
    from trueline.core.errors import nearest

    listed = list(known)
    return f"no {what} is called {given!r}.{nearest(given, listed)} Use one of {', '.join(listed)}."


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _imports_first(argv: Sequence[str]) -> list[str]:
    """`--import PACKAGE` moved to where the parser takes it, so that it may be typed anywhere before a `--`."""
    first: list[str] = []
    rest: list[str] = []
    given = iter(argv)
    for word in given:
        if word == "--":
            rest += [word, *given]
        elif word == "--import":
            first += [word, *([package] if (package := next(given, None)) is not None else [])]
        elif word.startswith("--import="):
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest]


# -- ends -------------------------------------------------------------------------------------------------------------


@contextmanager
def _stoppable(root: Path) -> Iterator[None]:
    """Names a stopped run so that the command in the message finds it: by its path, unless it is in ./runs."""
    try:
        yield
    except Stopped as error:
        if root == RUNS:
            raise
        raise Stopped(str(root / error.run_id)) from None


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and leaves the process with its exit code."""
    code = _run(_imports_first(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _quiet_stdout()
    sys.exit(code)


def _run(argv: list[str]) -> int:
    try:
        return app(args=argv, prog_name="trueline", standalone_mode=False) or 0
    except TruelineError as error:
        return _fail(error, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _fail(error, "interrupted. Runs that had a checkpoint can be resumed.", INTERRUPTED)
    except BrokenPipeError:
        _quiet_stdout()
        return 1
    except Exception as error:  # noqa: BLE001  (the last place where anything can still be said)
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if callable(show) and isinstance(code, int):  # the parser's own: wrong usage
            show()
            return code
        where = _keep_traceback(error)
        return _fail(error, f"unexpected {type(error).__name__}: {error}. The traceback is in {where}.", 1)


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("TRUELINE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    head = "\x1b[31merror:\x1b[0m" if sys.stderr.isatty() else "error:"
    _say(f"{head} {message}")
    return code


def _keep_traceback(error: Exception) -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="trueline-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name


def _quiet_stdout() -> None:
    # Python flushes stdout once more as it leaves; into a closed pipe that would print a complaint.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
