"""The Python face: train, train_seeds, audit, cycle, reproduce, sweep, search, resume, report, load and make.

Commands of these names call these functions, so that both do the same with the same settings. What the command line
has besides is not here: `export` is in `trueline.rl.export`, `compare` in `trueline.cycle.compare`, and a dry run is
`rehearse` of `trueline.core.recipe`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.core.config import build
from trueline.core.errors import ConfigError, MissingExtra, RunError
from trueline.core.files import write_text
from trueline.core.metrics import Sink, WandbSink
from trueline.core.progress import stage
from trueline.core.recipe import Plan, recipe_config
from trueline.core.run import Run, Watch, read_manifest
from trueline.core.subject import Subject, load_subject
from trueline.cycle.auditing import (
    audit_settings,
    audits_root,
    choose,
    resume_audit,
    start_audit,
    subject_folder,
    verdicts,
)
from trueline.cycle.compare import SETS, training_runs
from trueline.cycle.parts import of_seed, whole_of
from trueline.cycle.report import write_report
from trueline.cycle.reproduction import claims_of, reproduce_claims, resume_claim
from trueline.cycle.rounds import finished_rounds, resume_cycle, run_cycle
from trueline.cycle.search import SearchSpec, TrialRow, read_search, resume_search, run_search
from trueline.cycle.spec import CycleSpec, make_audit, read_cycle
from trueline.cycle.sweep import SweepRow, SweepSpec, resume_sweep, run_sweep
from trueline.cycle.training import find_run, find_subject, resume_training, start_together, start_training
from trueline.evidence.audit import run_audits
from trueline.evidence.claims import ClaimResult
from trueline.evidence.experiments.page import build_experiment_page
from trueline.evidence.records import Evidence
from trueline.evidence.run_report import build_run_report

if TYPE_CHECKING:
    from trueline.rl.env import VectorEnv

__all__ = [
    "AuditResult",
    "CycleResult",
    "RunResult",
    "SearchResult",
    "SweepResult",
    "audit",
    "cycle",
    "load",
    "make",
    "report",
    "reproduce",
    "resume",
    "search",
    "sweep",
    "train",
    "train_seeds",
]


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: its folder, the subject it made, and its figures (means of the last tenth of what was logged)."""

    folder: Path
    subject: Subject
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CycleResult:
    """A finished cycle: its folder and report, whether the gate released, why, and after how many rounds."""

    folder: Path
    released: bool
    reasons: tuple[str, ...]
    rounds: int

    @property
    def report(self) -> Path:
        """The HTML page that shows all of it."""
        return self.folder / "report.html"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Audits of a subject: the run that holds them, what they found, and which could not be made of this subject."""

    folder: Path | None  # None where a subject itself was audited: nothing was written
    evidence: tuple[Evidence, ...]
    left_out: tuple[str, ...]  # audits asked for by a pattern that need what the subject lacks; () of a resumed run


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep: its folder, and a row for each point of the grid."""

    folder: Path
    rows: tuple[SweepRow, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A finished search: its folder, and the trials, the best one first."""

    folder: Path
    trials: tuple[TrialRow, ...]


def train(
    recipe: str,
    config: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    seed: int = 0,
    threads: int = 1,
    inputs: Mapping[str, str | Path] | None = None,
    root: str | Path = "runs",
    id: str | None = None,
    wandb: str | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> RunResult:
    """Trains `recipe` and returns the run with its subject.

    Settings are keywords or, where a key is dotted or is also the name of an argument here, entries of `config`:
    `train("ppo-lag", {"update.lr": 1e-4}, env="SafetyPointGoal1-v0", cost_limit=10.0)`. `inputs` are finished runs in
    `root` by role, such as a warm start; `wandb` is a Weights & Biases project to log to. `watch(step, subject)`
    is called once an epoch and returns numbers to log by name: a metric of one's own (give it to `resume` again).
    Raises UnknownName or ConfigError before anything is trained, Stopped after SIGINT or SIGTERM, Diverged, BadWorld,
    RunError.
    """
    plan = _nested({**(config or {}), **settings})
    built = recipe_config(recipe, preset, plan)
    folder = start_training(
        recipe,
        built,
        root=Path(root),
        seed=seed,
        threads=threads,
        inputs={role: str(run) for role, run in (inputs or {}).items()},
        id=id,
        sink=None if wandb is None else _wandb(wandb),
        watch=watch,
    )
    return _result(folder)


def train_seeds(
    recipe: str,
    config: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int],
    preset: str | None = None,
    threads: int = 1,
    inputs: Mapping[str, str | Path] | None = None,
    root: str | Path = "runs",
    id: str | None = None,
    **settings: Any,
) -> list[RunResult]:
    """Trains `recipe` once for each of `seeds` in one process, networks in one stack; their runs in that order.

    Each is a run as `train` makes it with that seed, up to rounding, and may be resumed alone. With an `id` they are
    called ID-s0, ID-s1 …, and the same call again goes on with what is not finished. Raises as `train`, and
    ConfigError for a recipe or settings that train one seed at a time; where a seed fails the others are trained to
    their end first.
    """
    ended = start_together(
        recipe,
        recipe_config(recipe, preset, _nested({**(config or {}), **settings})),
        seeds,
        root=Path(root),
        threads=threads,
        inputs={role: str(run) for role, run in (inputs or {}).items()},
        ids=None if id is None else [of_seed(id, seed) for seed in seeds],
    )
    for one in ended:
        if one.error is not None:
            raise one.error
    return [_result(one.folder) for one in ended]


def resume(
    run: str | Path,
    *,
    root: str | Path = "runs",
    executor: str = "inline",
    workers: int = 1,
    watch: Watch | None = None,
) -> RunResult | AuditResult | CycleResult | SweepResult | SearchResult | ClaimResult:
    """Goes on with a training, audit, cycle, sweep, search or claim that was stopped or killed; returns what it gives.

    `run` is an id, a unique beginning of one, "latest", or a path. `executor` and `workers` serve those of many runs,
    `watch` a training that was watched, which does not remember by whom. Raises RunError for a folder that is missing,
    in use, half-written, of another version, or part of a cycle, ConfigError for a `watch` of what is no training.
    """
    folder = find_run(run, Path(root))
    manifest = read_manifest(folder)
    if watch is not None and manifest["kind"] != "train":
        raise ConfigError(f"run {manifest['id']} is of kind {manifest['kind']!r}, and only a training is watched.")
    whole = whole_of(folder)
    if whole is not None:
        raise RunError(f"run {manifest['id']} is a part of {whole}. Go on with `trueline resume {whole}`.")
    match manifest["kind"]:
        case "train":
            return _result(resume_training(folder, watch))
        case "audit":
            return AuditResult(folder, tuple(verdicts(resume_audit(folder))), ())
        case "cycle":
            return _cycle_result(resume_cycle(folder))
        case "sweep":
            return SweepResult(folder, tuple(resume_sweep(folder, executor, workers)))
        case "search":
            return SearchResult(folder, tuple(resume_search(folder, executor, workers)))
        case "claim":
            return resume_claim(folder, executor, workers)
        case kind:
            raise RunError(f"run {manifest['id']} is of kind {kind!r}, which cannot be resumed. Start it again.")


def audit(
    subject: Subject | str | Path,
    only: str | Sequence[str] = "*",
    *,
    config: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    budget: int | None = None,
    seed: int = 0,
    threads: int = 1,
    root: str | Path = "runs",
) -> AuditResult:
    """Measures a subject with the audits that match `only` and fit it, on held-out cases.

    Given a run (id, path or "latest"; a cycle means what it trained last) the evidence is kept in a run of kind
    "audit" in the same folder of runs, with a report; given the folder of a subject made elsewhere, in `root`; given a
    subject itself nothing is written. `config` holds settings by audit or lines "AUDIT.key=value", `budget` the most
    cases of each. Raises UnknownName, ConfigError, EvidenceError, and Stopped after a signal.
    """
    patterns = (only,) if isinstance(only, str) else tuple(only)
    settings = config if isinstance(config, Mapping) or config is None else audit_settings(config)
    if isinstance(subject, str | Path):
        folder = subject_folder(find_subject(subject, Path(root)))
        loaded = load_subject(folder)
        kept = audits_root(folder, Path(root))
        choice = choose(loaded, patterns, settings, budget, kept)
        if choice.left_out:
            stage(f"left out, because the subject lacks what they need: {', '.join(choice.left_out)}")
        made = start_audit(choice.uses, loaded, folder, root=kept, seed=seed, threads=threads)
        return AuditResult(made, tuple(verdicts(made)), choice.left_out)
    choice = choose(subject, patterns, settings, budget, root)
    audits = [make_audit(use.name, use.config, root) for use in choice.uses]
    found = run_audits(audits, subject, seed=seed, budget={use.name: use.budget for use in choice.uses})
    return AuditResult(None, tuple(found), choice.left_out)


def cycle(
    spec: str | Path | CycleSpec, overrides: Sequence[str] = (), *, root: str | Path = "runs", id: str | None = None
) -> CycleResult:
    """Runs the cycle that a TOML file or a `CycleSpec` describes; `overrides` are "key=value" with dotted keys.

    Raises ConfigError or UnknownName before anything is trained, Stopped after a signal.
    """
    if isinstance(spec, CycleSpec):
        whole = build(CycleSpec, spec, overrides, where=spec.name)
    else:
        whole = read_cycle(spec, tuple(overrides))
    whole.check(root)
    return _cycle_result(run_cycle(whole, Path(root), id))


def reproduce(
    system: str | None = None,
    scale: str = "ci",
    *,
    most_cpu_hours: float = math.inf,
    root: str | Path = "runs",
    executor: str = "inline",
    workers: int = 1,
) -> list[ClaimResult]:
    """Tests the claims of a system, or those whose name matches a pattern, or all, at one scale.

    Tests that were stopped in `root` go on there; what is done is tested anew in runs of its own.
    A claim that cannot see its effect at that scale, or needs more than `most_cpu_hours`, is *not attempted*. The
    claims of one system are corrected for being tested together. Raises UnknownName for a claim or a scale that does
    not exist.
    """
    tested = reproduce_claims(
        claims_of(system),
        scale,
        root=Path(root),
        most_cpu_hours=most_cpu_hours,
        with_executor=executor,
        workers=workers,
    )
    return [result for _, result in tested]


def sweep(
    recipe: str | Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 8,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    threads: int = 1,
    together: bool = False,
    root: str | Path = "runs",
    id: str | None = None,
    executor: str = "inline",
    workers: int = 1,
) -> SweepResult:
    """Trains `recipe` at every point of `grid` (dotted key -> values) with seeds 0 … seeds − 1; one row per point.

    Several recipes are trained one after the other, each with the settings that it has; one that none of them has is
    refused. A row holds the mean over seeds of each figure, with an interval from eight seeds on. With the `id` of an
    earlier sweep of the same grid, only what is missing is trained, be it seeds that are added now. `together` trains
    the seeds of a point in one process, where the recipe can. Raises as `train`; a diverged point is counted instead.
    """
    recipes = (recipe,) if isinstance(recipe, str) else tuple(recipe)
    given = {"recipes": recipes, "preset": preset, "config": _nested(config or {}), "seeds": seeds, "threads": threads}
    spec = build(
        SweepSpec,
        {**given, "together": together, "grid": {key: tuple(values) for key, values in grid.items()}},
        where="sweep",
    )
    folder, rows = run_sweep(spec, root=Path(root), id=id, with_executor=executor, workers=workers)
    return SweepResult(folder, tuple(rows))


def search(
    spec: str | Path | SearchSpec,
    overrides: Sequence[str] = (),
    *,
    root: str | Path = "runs",
    id: str | None = None,
    executor: str = "inline",
    workers: int = 1,
) -> SearchResult:
    """Searches the settings that a TOML file or a `SearchSpec` describes, by Optuna.

    With the `id` of an earlier search of the same, only what is missing is trained. Raises MissingExtra without Optuna,
    ConfigError and UnknownName before anything is trained, Stopped after a signal; a diverged trial comes last.
    """
    whole = build(SearchSpec, spec, overrides) if isinstance(spec, SearchSpec) else read_search(spec, overrides)
    folder, trials = run_search(whole, root=Path(root), id=id, with_executor=executor, workers=workers)
    return SearchResult(folder, tuple(trials))


def load(run: str | Path, *, root: str | Path = "runs", best: bool = False) -> Subject:
    """The subject a run made (a cycle: the one it trained last).  Raises RunError when there is none.

    `best`: the one that did best in the evaluations of its training (setting `evaluation`), limits first, then return.
    """
    folder = subject_folder(find_subject(run, Path(root)))
    kept = folder / "artefacts" / "best"
    if best and not kept.exists():
        raise RunError(
            f"run {folder.name} kept no best policy, since its training evaluated none. Train with evaluation.every=5, "
            "or take the last policy."
        )
    return load_subject(kept if best else folder)


def make(env: str, num_envs: int = 1, threads: int = 1, **options: Any) -> VectorEnv:
    """`num_envs` copies of a world of Trueline's, a plug-in's, or any Gymnasium id.  Raises UnknownName."""
    from trueline.rl.worlds import make as make_world

    return make_world(env, num_envs, threads, **options)


def report(run: str | Path, *, root: str | Path = "runs") -> Path:
    """Writes report.html of a run anew from what lies in its folder, and returns its path.

    Of a sweep or a search it is the page that compares their runs.
    """
    folder = find_run(run, Path(root))
    manifest = read_manifest(folder)
    if manifest["kind"] == "cycle":
        return write_report(folder)
    if manifest["kind"] in SETS:
        page = build_experiment_page(training_runs([folder]), f"{manifest['kind']} {manifest['id']}")
    else:
        page = build_run_report(folder)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables."""
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return dict(Plan(recipe="").with_settings(plain).config)


def _result(folder: Path) -> RunResult:
    return RunResult(folder, load_subject(folder), read_manifest(folder)["summary"])


def _cycle_result(folder: Path) -> CycleResult:
    rounds = finished_rounds(folder)
    return CycleResult(folder, rounds[-1].decision.release, rounds[-1].decision.reasons, len(rounds))


def _wandb(project: str) -> Callable[[Run], Sink]:
    if importlib.util.find_spec("wandb") is None:  # asked before the run exists, not when its first number is logged
        raise MissingExtra("tracking", "logging to Weights & Biases")

    def sink(run: Run) -> Sink:
        return WandbSink(project, run.id, run.config, run.folder)

    return sink
