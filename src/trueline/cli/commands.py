"""What can be typed: the commands with their options, and the lists of names and runs.

Every command imports what it needs when it is called, so that `--help` answers at once.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueline.cli.ends import leave_by_verdicts, stoppable
from trueline.cli.tables import (
    hours,
    print_audit,
    print_claims,
    print_cycle,
    print_experiment,
    print_json,
    print_search,
    print_seeds,
    print_side_by_side,
    print_sweep,
    print_training,
    say,
    show_settings,
    table,
)
from trueline.cli.typed import RUNS, one_of, pairs, values, whole_numbers
from trueline.core import registry
from trueline.core.errors import LISTED, ConfigError, RunError, UnknownName, nearest, unknown

if TYPE_CHECKING:
    from trueline.core.registry import Entry

__all__ = ["KINDS", "app"]

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
            print_json(counts)
        else:
            table(["kind", "names"], [[plural, str(n)] for plural, n in counts.items()])
        return
    if kind not in KINDS:
        raise UnknownName(one_of("kind of name", kind, KINDS))
    entries = _listed(kind)
    families = sorted({entry.family for entry in entries if entry.family})
    if only is not None:
        entries = [e for e in entries if e.family == only or fnmatchcase(e.name, only)]
        if not entries:
            near = nearest(only, families)
            raise UnknownName(f"{only!r} is no family of {kind} and no name.{near} `trueline list {kind}` shows them.")
    if as_json:
        from dataclasses import asdict

        print_json([asdict(entry) for entry in entries])
        return
    if only is None and families:
        table(["family", "names", "for example", "level"], _by_family(entries))
        print(f"`trueline list {kind} FAMILY`, or a pattern of names, shows each.")
        return
    table(
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
    kinds = ("recipe", "audit", "response")
    found = [entry.kind for kind in kinds for entry in registry.entries(kind) if entry.name == name]
    if not found:
        known = [e.name for kind in kinds for e in registry.entries(kind)]
        shown_by = [f"trueline list {LISTED[kind]}" for kind in kinds]
        raise UnknownName(unknown("recipe, audit or response", name, known, shown_by))
    for kind in found:
        show_settings(kind, name)


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A model folder with pickled weights.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
) -> None:
    """Rewrite a language model's pickled weights as safetensors; a file that would run code is refused."""
    from trueline.language.models import convert as rewritten

    say(f"wrote {rewritten(folder, out)}")


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
        show_settings("recipe", recipe)
        return
    if dry_run:
        _rehearse(recipe, preset, values(overrides), pairs(inputs, "--input", "ROLE=RUN"), root, seed)
        return
    if seeds is not None:
        _train_seeds(recipe, overrides, preset, seeds, threads, root, id, inputs, seed != 0 or wandb)
        return
    from trueline import api

    with stoppable(root):
        result = api.train(
            recipe,
            values(overrides),
            preset=preset,
            seed=seed,
            threads=threads,
            inputs=pairs(inputs, "--input", "ROLE=RUN"),
            root=root,
            id=id,
            wandb="trueline" if wandb else None,
        )
    if os.environ.get("RANK", "0") == "0":  # under torchrun every process has the result, and one is enough to tell it
        print_training(result)


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
    with stoppable(root):
        results = api.train_seeds(
            recipe,
            values(overrides),
            seeds=whole_numbers(seeds),
            preset=preset,
            threads=threads,
            inputs=pairs(inputs, "--input", "ROLE=RUN"),
            root=root,
            id=id,
        )
    print_seeds(results)


def _rehearse(
    recipe: str, preset: str | None, settings: dict[str, Any], inputs: dict[str, str], root: Path, seed: int
) -> None:
    from trueline.core.recipe import recipe_config, rehearse
    from trueline.core.subject import load_subject
    from trueline.cycle.training import find_subject

    config = recipe_config(recipe, preset, settings)
    subjects = {role: load_subject(find_subject(name, root)) for role, name in inputs.items()}
    print(rehearse(recipe, config, subjects, root, seed))


@app.command()
def resume(run: RunName, root: Root = RUNS, with_executor: ExecutorName = "inline", workers: Workers = 1) -> None:
    """Go on with a training, audit, cycle, sweep, search or claim that was stopped or killed."""
    from trueline import api
    from trueline.cycle.training import find_run
    from trueline.evidence.claims import ClaimResult

    folder = find_run(run, root)
    with stoppable(folder.parent):
        result = api.resume(folder, executor=with_executor, workers=workers)
    match result:
        case api.RunResult():
            print_training(result)
        case api.AuditResult():
            print_audit(result)
            leave_by_verdicts(result.evidence)
        case api.CycleResult():
            print_cycle(result)
        case api.SweepResult():
            print_sweep(result)
        case api.SearchResult():
            print_search(result)
        case ClaimResult():
            print_claims([result])


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
    from trueline import api
    from trueline.cycle.auditing import audits_root
    from trueline.cycle.training import find_subject

    folder = find_subject(run, root)
    kept = audits_root(folder, root)
    with stoppable(kept):
        result = api.audit(folder, only or "*", config=config, budget=budget, seed=seed, threads=threads, root=kept)
    print_audit(result)
    leave_by_verdicts(result.evidence)


@app.command()
def cycle(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Plan, audits, responses and gate.")],
    overrides: Settings = None,
    root: Root = RUNS,
    id: Id = None,
) -> None:
    """Run an alignment cycle; prints the decision and, last, the path of its report."""
    from trueline import api

    with stoppable(root):
        result = api.cycle(file, overrides or (), root=root, id=id)
    print_cycle(result)


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
                ", ".join(f"{name} {hours(size.cpu_hours)}" for name, size in named.claim.scales.items()),
            ]
            for named in claims_of()
        ]
        table(["claim", "the paper says", "source", "scales (CPU time)"], rows, "no claims are registered")
        return
    with stoppable(root):
        results = api.reproduce(
            system, scale, most_cpu_hours=most_cpu_hours, root=root, executor=with_executor, workers=workers
        )
    print_claims(results)


@app.command()
def sweep(
    recipes: Annotated[str, typer.Argument(metavar="RECIPE[,RECIPE...]", help="See `trueline list recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=A,B,C]...", help="Settings; several values make the grid.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="How many seeds each point has: 0 up to COUNT less one.")
    ] = 8,
    preset: Annotated[str | None, typer.Option(help="Named settings of the recipe, under the ones given.")] = None,
    threads: Threads = 1,
    root: Root = RUNS,
    together: Annotated[bool, typer.Option(help="Train the seeds of a point in one process and one stack.")] = False,
    id: Id = None,
    with_executor: ExecutorName = "inline",
    workers: Workers = 1,
) -> None:
    """Train recipes over a grid of settings and over seeds.  The same --id again trains only what is missing."""
    from trueline import api
    from trueline.cycle.sweep import parse_grid

    fixed, grid = parse_grid(overrides or ())
    with stoppable(root):
        result = api.sweep(
            [recipe.strip() for recipe in recipes.split(",")],
            grid,
            seeds=seeds,
            preset=preset,
            config=fixed,
            threads=threads,
            together=together,
            root=root,
            id=id,
            executor=with_executor,
            workers=workers,
        )
    print_sweep(result)


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
    from trueline import api

    with stoppable(root):
        result = api.search(file, overrides or (), root=root, id=id, executor=with_executor, workers=workers)
    print_search(result)


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
        table(["benchmark", "what"], rows, "no benchmarks are here: they are scripts of the source repository")
        return
    if name in {e.name for e in entries}:
        registry.load("benchmark", name)(*(arguments or ()))
        return
    if not scripts and not entries:
        raise UnknownName(
            "the benchmarks are scripts of the source repository, which is not here. Clone it to run them."
        )
    if name not in scripts:
        raise UnknownName(unknown("benchmark", name, [*scripts, *(e.name for e in entries)], ["trueline bench"]))
    raise typer.Exit(subprocess.run([sys.executable, str(scripts[name]), *(arguments or ())], check=False).returncode)


def _bench_scripts() -> dict[str, Path]:
    """The scripts in benchmarks/ of the repository this package lies in; none for an installed wheel."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
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
        print_json(listed)
        return
    table(
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
        print_side_by_side(folders)
        print()
    records = training_runs(folders)
    print_experiment(records)
    if page is not None:
        write_text(page, build_experiment_page(records))
        print(page)
