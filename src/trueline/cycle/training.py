"""A run of a recipe on its own or as part of something larger: start it, go on with it, say what it came to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from trueline.core import registry
from trueline.core.config import Config, build
from trueline.core.errors import ConfigError, RunError, TruelineError
from trueline.core.metrics import Sink, read_metrics
from trueline.core.progress import stage
from trueline.core.recipe import Stacks, check_config, check_inputs
from trueline.core.resuming import refuse_changes, refuse_other, same_inputs
from trueline.core.run import Run, Watch, read_config, read_manifest, status_of
from trueline.core.stopping import interruptible
from trueline.core.store import Store
from trueline.core.subject import Subject, holds_subject, load_subject, save_subject, subject_hash
from trueline.evidence.experiments.endings import why_finished

__all__ = [
    "Ended",
    "check_stacks",
    "figures",
    "find_run",
    "find_subject",
    "resume_training",
    "start_together",
    "start_training",
    "train_in",
    "use_threads",
]

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
    folders = _input_folders(recipe, config, inputs, root)
    check_config(recipe, config, root, folders)

    def made() -> Run:
        return Run.create(
            root, kind="train", name=recipe, config=config, seed=seed, inputs=folders, id=id, threads=threads
        )  # fmt: skip

    with _opened(recipe, made) as run, run, run.interruptible():
        if sink is not None and not run.follows:
            run.add_sink("more", sink(run))
        run.watch = watch
        stage(f"run {run.folder}")
        _train(run, recipe, config, folders)
    return run.folder


def resume_training(folder: Path, watch: Watch | None = None) -> Path:
    """Goes on with a run of a recipe from its last checkpoint; a finished one is left as it is.

    `watch` looks at the subject once an epoch, as in `start_training`: a run does not remember who watched it. Raises
    RunError when it is in use, damaged, or an input has changed; ConfigError for settings that are not those it was
    begun with, finished or not; Stopped after a signal.
    """
    manifest = read_manifest(folder)
    if manifest["status"] == "done":
        refuse_changes(manifest, read_config(folder))
        return folder
    recipe = manifest["name"]
    target = registry.load("recipe", recipe)
    inputs = same_inputs(manifest, folder.parent)
    with _opened(recipe, lambda: Run.reopen(folder)) as run, run, run.interruptible():
        stage(f"run {run.folder}")
        run.watch = watch
        _train(run, recipe, build(target.Config, run.config, where=f"{folder}/config.toml"), inputs)
    return folder


class Ended(NamedTuple):
    """How one of several trainings ended."""

    folder: Path
    error: TruelineError | None  # what ended it before its time


def check_stacks(recipe: str, config: Config, root: Path) -> None:
    """Raises ConfigError for a recipe or settings by which seeds cannot be trained together."""
    found = registry.load("recipe", recipe)
    if not isinstance(found, Stacks):
        raise ConfigError(f"{recipe} trains one seed at a time. Sweep over its seeds, or take a PPO row.")
    found.check_together(config, root)


def start_together(
    recipe: str,
    config: Config,
    seeds: Sequence[int],
    *,
    root: Path,
    threads: int = 1,
    inputs: Mapping[str, str] | None = None,
    ids: Sequence[str] | None = None,
) -> list[Ended]:
    """Trains `recipe` once for each seed, all in one process and one stack, each in a run of its own.

    Each run is written as if it had been trained alone. One of `ids` (one for each seed) that there is already goes on
    from its last checkpoint, and is left as it is when finished. A seed that fails is recorded as failed, and the
    others go on. Raises as `start_training`, ConfigError for settings by which seeds cannot be trained together or that
    are not those a run was begun with, RunError for another number of threads than it was begun with.
    """
    folders = _input_folders(recipe, config, inputs, root)
    check_stacks(recipe, config, root)
    subjects = {role: load_subject(folder) for role, folder in folders.items()}
    names: Sequence[str | None] = [None] * len(seeds) if ids is None else ids
    ended: dict[str, Ended] = {}  # by id, in the order of the seeds
    with ExitStack() as opened, interruptible():
        runs = []
        for seed, id in zip(seeds, names, strict=True):
            if id is not None and status_of(root / id) == "done":
                refuse_other(read_manifest(root / id), name=recipe, config=config, seed=seed, inputs=folders)
                ended[id] = Ended(root / id, None)
                continue
            run = Run.open_or_create(
                root, kind="train", name=recipe, config=config, seed=seed, inputs=folders, id=id, threads=threads
            )
            opened.push(run)  # records how it ended where something unforeseen ends all
            runs.append(run)
            ended[run.id] = Ended(run.folder, None)
            stage(f"run {run.folder}")
        use_threads(threads)
        endings = registry.load("recipe", recipe).train_together(config, runs, subjects) if runs else []
        opened.pop_all()
        for run, ending in zip(runs, endings, strict=True):
            ended[run.id] = _left(run, ending)
    return list(ended.values())


def _left(run: Run, ending: Subject | TruelineError) -> Ended:
    try:
        with run:
            if isinstance(ending, TruelineError):
                raise ending
            save_subject(ending, run.folder)
            _finish(run)
    except TruelineError as error:
        return Ended(run.folder, error)
    return Ended(run.folder, None)


@contextmanager
def _opened(recipe: str, make: Callable[[], Run]) -> Iterator[Run]:
    """The run that `make` gives; of several processes that torchrun started, the others follow the first one's."""
    if "RANK" not in os.environ:
        yield make()
        return
    from trueline.rl.parallel import torchrun

    with torchrun(recipe) as learners:
        yield learners.opened(make)


def _input_folders(recipe: str, config: Config, inputs: Mapping[str, str] | None, root: Path) -> dict[str, Path]:
    """Folders of a run's inputs by role. Raises ConfigError as `check_inputs`, RunError for a run outside of `root`."""
    check_inputs(recipe, config, inputs or {})
    folders = {role: find_subject(name, root) for role, name in (inputs or {}).items()}
    for role, folder in folders.items():
        # A resume finds runs by their ids, and one from elsewhere could not be found again; of others it has the path.
        if not holds_subject(folder) and folder.resolve().parent != root.resolve():
            raise RunError(f"input {role!r} is {folder}, which is not a run in {root}. Give a run of that folder.")
    return folders


def train_in(run: Run, recipe: str, config: Config, inputs: Mapping[str, Path]) -> Subject:
    """Lets `recipe` train in an open run, from its last checkpoint if it has one, and saves the subject.

    Raises ConfigError as `check_inputs`, and whatever the recipe raises.
    """
    check_inputs(recipe, config, inputs)
    target = registry.load("recipe", recipe)
    use_threads(run.manifest["threads"])
    subject = target.train(config, run, {role: load_subject(path) for role, path in inputs.items()})
    if not run.follows:
        save_subject(subject, run.folder)
    return subject


def use_threads(threads: int) -> None:
    """Sets the compute threads of the learner, when there is one in this process."""
    torch = sys.modules.get("torch")
    if torch is not None:
        if threads < 1:
            raise ConfigError(f"threads is {threads}. Give at least 1.")
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


def find_subject(name: str | Path, root: Path) -> Path:
    """The folder of a run as `find_run` finds it, or of a subject outside of any; a run's `subject/` means the run.

    Raises as `find_run` where there is neither.
    """
    plain = str(name).removeprefix("run://").rstrip("/")
    folder = next((path for path in (root / plain, Path(plain)) if path.is_dir()), None)
    if folder is not None and holds_subject(folder):
        return folder.parent if (folder.parent / "manifest.json").exists() else folder
    return find_run(name, root)


def _train(run: Run, recipe: str, config: Config, inputs: Mapping[str, Path]) -> None:
    train_in(run, recipe, config, inputs)
    if not run.follows:
        _finish(run)


def _finish(run: Run) -> None:
    found = figures(run.folder)
    summary = {"subject": subject_hash(run.folder), **found}
    run.finish("done", summary=summary, reason=why_finished(run.folder, found))
