"""A run of a recipe on its own or as part of something larger: start it, go on with it, say what it came to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trueline.core import registry
from trueline.core.config import Config, build
from trueline.core.errors import CheckpointError, RunError
from trueline.core.metrics import Sink, read_metrics
from trueline.core.progress import stage
from trueline.core.recipe import check_config
from trueline.core.run import Run, Watch, read_manifest
from trueline.core.store import Store
from trueline.core.subject import Subject, load_subject, save_subject, subject_hash
from trueline.evidence.experiments.endings import why_finished

__all__ = ["figures", "find_run", "resume_training", "same_inputs", "start_training", "train_in", "use_threads"]

LAST = 0.1  # share of the logged values whose mean is a run's figure: one epoch alone is mostly noise


def start_training(
    recipe: str,
    config: Config,
    *,
    root: Path,
    seed: int = 0,
    threads: int = 1,
    inputs: Mapping[str, str] | None = None,
    id: str | None = None,
    sink: Callable[[Run], Sink] | None = None,
    watch: Watch | None = None,
) -> Path:
    """Trains `recipe` in a new run and returns its folder.

    `inputs` names finished runs in `root` by role; `sink` makes one more place for metrics to go to; `watch` looks at
    the subject once an epoch and returns numbers to log. Raises RunError
    for an unusable id or input and what the recipe has against the settings, both before anything is written; Stopped
    after a signal, and whatever the recipe raises.
    """
    folders = {role: find_run(run, root) for role, run in (inputs or {}).items()}
    for role, folder in folders.items():
        # A resume finds its inputs by their ids; one from elsewhere could not be found again.
        if folder.resolve().parent != root.resolve():
            raise RunError(f"input {role!r} is {folder}, which is not a run in {root}. Give a run of that folder.")
    check_config(recipe, config, root)
    run = Run.create(
        root, kind="train", name=recipe, config=config, seed=seed, inputs=folders, id=id, threads=threads
    )  # fmt: skip
    with run, run.interruptible():
        if sink is not None:
            run.add_sink("more", sink(run))
        run.watch = watch
        stage(f"run {run.folder}")
        _train(run, recipe, config, folders)
    return run.folder


def resume_training(folder: Path) -> Path:
    """Goes on with a run of a recipe from its last checkpoint; a finished one is left as it is.

    Raises RunError when it is in use, damaged, or an input has changed, Stopped after a signal.
    """
    manifest = read_manifest(folder)
    if manifest["status"] == "done":
        return folder
    recipe = manifest["name"]
    target = registry.load("recipe", recipe)
    inputs = same_inputs(manifest, folder.parent)
    run = Run.reopen(folder)
    with run, run.interruptible():
        stage(f"run {run.folder}")
        _train(run, recipe, build(target.Config, run.config, where=f"{folder}/config.toml"), inputs)
    return folder


def train_in(run: Run, recipe: str, config: Config, inputs: Mapping[str, Path]) -> Subject:
    """Lets `recipe` train in an open run, from its last checkpoint if it has one, and saves the subject."""
    target = registry.load("recipe", recipe)
    use_threads(run.manifest["threads"])
    subject = target.train(config, run, {role: load_subject(path) for role, path in inputs.items()})
    save_subject(subject, run)
    return subject


def use_threads(threads: int) -> None:
    """Sets the compute threads of the learner, when there is one in this process."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def figures(folder: Path) -> dict[str, float]:
    """The mean of the last tenth of every logged quantity (at least one value), clock times left out."""
    logged: dict[str, list[float]] = {}
    path = folder / "metrics.jsonl"
    for row in read_metrics(path) if path.exists() else ():
        for name, value in row.items():
            if name != "step" and not name.startswith("time/"):
                logged.setdefault(name, []).append(value)
    tails = {name: values[-max(1, round(LAST * len(values))) :] for name, values in logged.items()}
    return {name: sum(tail) / len(tail) for name, tail in sorted(tails.items())}


def find_run(run: str | Path, root: Path) -> Path:
    """The folder of a run given by id, unique beginning of one, "latest", path, or run://ID.

    Raises RunError when a folder of that name is no whole run, UnknownName with the nearest id otherwise.
    """
    name = str(run).removeprefix("run://").rstrip("/")
    # Named exactly, a damaged folder is told from a missing one; the index lists whole runs only.
    named = "/" in name or (Path(name) / "manifest.json").exists()
    for folder in (root / name, Path(name)) if named else (root / name,):
        if name != "latest" and folder.is_dir():
            read_manifest(folder)
            return folder
    if "/" in name or not root.is_dir():
        raise RunError(
            f"there is no run folder {name if '/' in name else root / name}. `trueline runs` lists the runs."
        )
    return Store(root).find(name)


def _train(run: Run, recipe: str, config: Config, inputs: Mapping[str, Path]) -> None:
    train_in(run, recipe, config, inputs)
    found = figures(run.folder)
    summary = {"subject": subject_hash(run.folder), **found}
    run.finish("done", summary=summary, reason=why_finished(run.folder, found))


def same_inputs(manifest: Mapping[str, Any], root: Path) -> dict[str, Path]:
    """The folders of a run's inputs by role.  Raises RunError for one that is gone, CheckpointError if it changed."""
    found = {}
    for role, given in manifest["inputs"].items():
        folder = root / str(given["run"])
        if not folder.is_dir():
            raise RunError(f"input {role!r} of run {manifest['id']} was run {given['run']}. Put it back into {root}.")
        if subject_hash(folder) != given["sha256"]:
            raise CheckpointError(
                f"input {role!r} of run {manifest['id']} (run {given['run']}) has changed since it began. "
                f"Put the old one back, or start a new run."
            )
        found[role] = folder
    return found
