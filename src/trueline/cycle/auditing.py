"""An audit of one subject outside of a cycle: which audits apply, the run that holds the evidence, its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trueline.core import registry
from trueline.core.config import Config, build, parse_override
from trueline.core.errors import ConfigError, RunError, UnknownName, nearest
from trueline.core.files import write_text
from trueline.core.progress import stage
from trueline.core.resuming import same_inputs
from trueline.core.run import Run, read_evidence, read_manifest
from trueline.core.subject import Subject, holds_subject, load_subject
from trueline.cycle.rounds import finished_rounds
from trueline.cycle.spec import AuditUse, make_audit
from trueline.cycle.training import use_threads
from trueline.evidence.audit import Audit, Budget, run_audits
from trueline.evidence.records import Evidence, Verdict

__all__ = [
    "Choice",
    "audit_settings",
    "audits_root",
    "choose",
    "resume_audit",
    "start_audit",
    "subject_folder",
    "tally",
    "verdicts",
]

ROUND = 0  # of audits outside of a cycle, whose rounds begin at 1: their held-out cases stay unseen


class AuditSpec(Config):
    """What an audit run measures; its config.toml."""

    audit: tuple[AuditUse, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The audits to make of a subject, and the names of those it lacks the capability for."""

    uses: tuple[AuditUse, ...]
    left_out: tuple[str, ...]


def choose(
    subject: Subject,
    only: Sequence[str] = ("*",),
    config: Mapping[str, Mapping[str, Any]] | None = None,
    budget: int | None = None,
    root: Path | str = "runs",
) -> Choice:
    """The registered audits that match a pattern of `only` and fit the subject.

    An audit named exactly is kept even when it does not fit, so that the gap shows as *not measured*. `config` holds
    settings by audit, `budget` the most cases of each, `root` the folder of runs. Raises UnknownName for a pattern
    without a match, ConfigError for a wrong setting or settings of an audit that is not chosen.
    """
    known = [entry.name for entry in registry.entries("audit")]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UnknownName(
                f"no audit matches {pattern!r}.{nearest(pattern, known)} `trueline list audits` shows all {len(known)}."
            )
    given = dict(config or {})
    uses, left_out = [], []
    for name in known:
        if not any(fnmatchcase(name, pattern) for pattern in only):
            continue
        if name not in only and not isinstance(subject, registry.load("audit", name).needs):
            left_out.append(name)
            continue
        settings = given.pop(name, {})
        make_audit(name, settings, root)
        uses.append(AuditUse(name=name, config=settings, budget=_budget(budget)))
    if given:
        name = min(given)
        raise ConfigError(
            f"settings were given for {name!r}, which is not among the audits made. Name it in --only too."
        )
    if not uses:
        raise UnknownName(
            f"no audit fits a subject of kind {subject.kind!r}. `trueline list audits` shows all there are."
        )
    return Choice(tuple(uses), tuple(left_out))


def audit_settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["ethicality/episode-cost.limit=10"]` -> `{"ethicality/episode-cost": {"limit": 10}}`; deeper keys nest."""
    names = sorted((entry.name for entry in registry.entries("audit")), key=len, reverse=True)
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key = text.partition("=")[0]
        name = next((name for name in names if key.startswith(name + ".")), None)
        if name is None:
            hint = nearest(key.rpartition(".")[0], names)
            raise ConfigError(f"{text!r} names no audit.{hint} Write it as AUDIT.key=value.")
        keys, value = parse_override(text.removeprefix(name + "."))
        table = found.setdefault(name, {})
        for part in keys[:-1]:
            table = table.setdefault(part, {})
        table[keys[-1]] = value
    return found


def start_audit(
    uses: Sequence[AuditUse], subject: Subject, folder: Path, *, root: Path, seed: int, threads: int
) -> Path:
    """Audits the subject in `folder`, or of the run in it, on held-out cases; returns the new run, with a report."""
    spec = AuditSpec(audit=tuple(uses))
    name = f"audit-{folder.resolve().name if holds_subject(folder) else read_manifest(folder)['name']}"
    run = Run.create(
        root, kind="audit", name=name, config=spec, seed=seed, inputs={"subject": folder}, threads=threads
    )  # fmt: skip
    return _run(run, spec, subject)


def resume_audit(folder: Path) -> Path:
    """Goes on with an audit from its last look.  Raises RunError when its subject is gone or has changed."""
    manifest = read_manifest(folder)
    if manifest["status"] == "done":
        return folder
    subject = load_subject(same_inputs(manifest, folder.parent)["subject"])
    run = Run.reopen(folder)
    return _run(run, build(AuditSpec, run.config, where=f"{folder}/config.toml"), subject)


def subject_folder(folder: Path) -> Path:
    """The folder whose subject is meant by `folder`: itself, or the last run of the cycle in it.

    Raises RunError for a cycle without a finished round, and for a sweep or a search, whose subjects are many.
    """
    if holds_subject(folder):
        return folder
    kind = read_manifest(folder)["kind"]
    if kind in ("sweep", "search"):
        raise RunError(f"{folder.name} is a {kind} of many trainings. Name one of them: `trueline runs` lists them.")
    if kind != "cycle":
        return folder
    rounds = finished_rounds(folder)
    if not rounds:
        raise RunError(f"cycle {folder.name} has not finished a round. Resume it, or name one of its runs.")
    return folder.parent / str(rounds[-1].plan.trained)


def audits_root(folder: Path, root: Path) -> Path:
    """Where an audit of the subject in `folder` is kept: beside the run that made it, else in `root`."""
    return root if holds_subject(folder) else folder.parent


def verdicts(folder: Path) -> list[Evidence]:
    """The evidence of an audit run that decides, in the order it was found."""
    return [e for e in map(Evidence.from_dict, read_evidence(folder)) if e.split == "verdict"]


def tally(evidence: Sequence[Evidence]) -> Verdict:
    """FAIL when any requirement failed, else INCONCLUSIVE when any is not settled, else PASS."""
    said = {e.verdict for e in evidence}
    return next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE) if v in said), Verdict.PASS)


def _run(run: Run, spec: AuditSpec, subject: Subject) -> Path:
    from trueline.evidence.run_report import build_run_report

    audits: list[Audit] = [make_audit(use.name, use.config, run.folder.parent) for use in spec.audit]
    with run, run.interruptible():
        stage(f"run {run.folder}")
        use_threads(run.manifest["threads"])
        budgets = {use.name: use.budget for use in spec.audit}
        found = run_audits(audits, subject, run=run, split="verdict", round=ROUND, budget=budgets, progress=_tell)
        said = [e.verdict for e in found]
        run.finish("done", summary={v: said.count(v) for v in Verdict})
        write_text(run.folder / "report.html", build_run_report(run.folder))
    return run.folder


def _tell(name: str, found: Sequence[Evidence]) -> None:
    required = [e for e in found if e.requirement is not None]
    if all(e.note.startswith("not measured") for e in found):
        stage(f"{name}: not measured")
    else:
        stage(f"{name}: {tally(required) if required else 'measured'}")


def _budget(most: int | None) -> Budget:
    if most is None:
        return Budget()
    first = Budget()
    return build(Budget, {"initial": min(first.initial, most), "batch": first.batch, "maximum": most}, where="budget")
