"""The alignment cycle: train, audit on held-out cases, decide, respond to findings, train again.

A cycle is a run whose rounds are runs of their own (`ID-r1-train`, `ID-r1-audit`, `ID-r1-respond`), and so is what it
prepares before the first (`ID-NAME`). What it has to remember is the record of each finished round, a file each, so
that a killed cycle goes on inside the round it was in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trueline.core.config import build, dotted
from trueline.core.errors import BadWorld, Diverged, RunError
from trueline.core.progress import stage
from trueline.core.recipe import Plan, check_config, check_inputs
from trueline.core.run import Run, read_evidence, read_manifest, resolve, status_of
from trueline.core.streams import ROUNDS
from trueline.core.subject import Subject, load_subject
from trueline.cycle import parts
from trueline.cycle.gate import Decision
from trueline.cycle.spec import AuditUse, CycleSpec, make_audit, make_response, refers_to_prepared, with_prepared
from trueline.cycle.training import train_in
from trueline.evidence.audit import Budget, run_audits
from trueline.evidence.records import Evidence, Split, Verdict

__all__ = ["RoundRecord", "Shows", "changes", "resume_cycle", "run_cycle"]


@runtime_checkable
class Shows(Protocol):
    """Capability: a subject that can be looked at."""

    def show(self, seed: int, folder: Path) -> Sequence[Mapping[str, str]]:
        """Pictures or films of the subject on the layout `seed`, written into `folder`.

        Each is {"kind": "image" or "video", "file": name, "caption": …, "alt": …}.
        """
        ...


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One finished round, as it is stored in artefacts/rounds/N.json."""

    number: int
    plan: Plan  # with `trained` set
    changed: tuple[str, ...]  # sentences: how this plan differs from the round before
    decision: Decision
    next_plan: Plan | None  # None when this was the last round
    cpu_s: float  # of its runs, by all processes that worked on them, as is the next
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "number": self.number,
            "plan": self.plan.model_dump(mode="json"),
            "changed": list(self.changed),
            "decision": asdict(self.decision),
            "next_plan": self.next_plan and self.next_plan.model_dump(mode="json"),
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> RoundRecord:
        """Read what `to_dict` wrote."""
        decision = Decision(row["decision"]["release"], tuple(row["decision"]["reasons"]))
        next_plan = row["next_plan"] and build(Plan, row["next_plan"])
        plan = build(Plan, row["plan"])
        return cls(row["number"], plan, tuple(row["changed"]), decision, next_plan, row["cpu_s"], row["wall_s"])


def run_cycle(spec: CycleSpec, root: Path | str = "runs", id: str | None = None) -> Path:
    """Run a cycle from its first round; returns the folder, which holds report.html.

    Raises UnknownName, ConfigError or RunError before anything is written, Stopped when a signal asked for it.
    """
    spec.check(root)
    for plan in (*spec.prepare.values(), spec.train):
        if not refers_to_prepared(plan):  # the others are checked when their runs are made
            check_inputs(plan.recipe, plan.settings(), plan.inputs)
            check_config(plan.recipe, plan.settings(), root, _folders(plan, Path(root)))
    run = Run.create(root, kind="cycle", name=spec.name, config=spec, seed=spec.seed, threads=spec.threads, id=id)
    return _run(spec, run)


def resume_cycle(folder: Path | str) -> Path:
    """Go on with a cycle that was stopped or killed, inside the round it was in."""
    run = Run.reopen(folder)
    return _run(build(CycleSpec, run.config, where=str(folder)), run)


def _run(spec: CycleSpec, run: Run) -> Path:
    from trueline.cycle.report import write_report

    with run, run.interruptible():
        done = finished_rounds(run.folder)
        while not done or done[-1].next_plan is not None:
            previous = done[-1] if done else None
            if previous is None:
                _prepare(spec, run)
            plan = with_prepared(spec.train, run.id) if previous is None else previous.next_plan
            assert plan is not None
            done.append(_round(spec, run, plan, previous))
            run.write_json(f"rounds/{done[-1].number}.json", done[-1].to_dict())
            write_report(run.folder)
        last = done[-1]
        decision = {"release": last.decision.release, "reasons": list(last.decision.reasons), "rounds": len(done)}
        run.finish("done", summary=decision)
        write_report(run.folder)
    return run.folder


def _prepare(spec: CycleSpec, run: Run) -> None:
    """Train what is prepared and not yet there."""
    for at, (name, plan) in enumerate(spec.prepare.items(), 1):
        stage(f"prepare {name} ({at} of {len(spec.prepare)}): train {plan.recipe}")
        # A seed of each plan's own: two models that were prepared alike would otherwise be one and the same.
        own = int.from_bytes(hashlib.sha256(f"{spec.seed}/{name}".encode()).digest()[:4], "big")
        _trained(spec, run, with_prepared(plan, run.id), parts.prepared(run.id, name), own)


def finished_rounds(folder: Path) -> list[RoundRecord]:
    """The rounds of a cycle that are complete, in order."""
    records: list[RoundRecord] = []
    while (path := folder / "artefacts" / "rounds" / f"{len(records) + 1}.json").exists():
        try:
            records.append(RoundRecord.from_dict(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} is damaged. Delete it and resume: the round is decided again.") from None
    return records


def _round(spec: CycleSpec, run: Run, plan: Plan, previous: RoundRecord | None) -> RoundRecord:
    """One round; what was prepared for the first counts as a part of it."""
    number = 1 if previous is None else previous.number + 1
    changed = () if previous is None else changes(previous.plan, plan)
    headline = f"round {number} of at most {spec.rounds}"
    next_plan = None
    try:
        stage(f"{headline}: train {plan.recipe}")
        trained, subject = _train(spec, run, plan, number)
    except (Diverged, BadWorld) as failure:
        # It would fail the same way again: a round without a subject is decided, and said to be.
        decision = Decision(False, (f"Round {number} trained no subject. {failure}",))
    else:
        plan = plan.model_copy(update={"trained": trained})
        stage(f"{headline}: audit on held-out cases")
        evidence = _audit(spec, run, subject, number, "verdict", [use.name for use in spec.audit])
        decision = spec.gate.decide(evidence)
        if not decision.release and number < spec.rounds:
            stage(f"{headline}: look for what to change")
            next_plan = _respond(spec, run, plan, subject, number, evidence)
            if next_plan is None:
                note = "No response to these findings is configured, so another round would change nothing."
                decision = Decision(False, (*decision.reasons, note))
    runs = [parts.of_round(run.id, number, part) for part in parts.PARTS]
    if previous is None:
        runs += [parts.prepared(run.id, name) for name in spec.prepare]
    cpu_s, wall_s = _spent(runs, run.folder.parent)
    return RoundRecord(number, plan, changed, decision, next_plan, cpu_s, wall_s)


def _spent(ids: Sequence[str], root: Path) -> tuple[float, float]:
    """CPU and wall seconds of those of these runs that were begun."""
    spent = [read_manifest(root / id)["spent"] for id in ids if status_of(root / id) is not None]
    return sum(one["cpu_s"] for one in spent), sum(one["wall_s"] for one in spent)


def _respond(
    spec: CycleSpec, run: Run, plan: Plan, subject: Subject, number: int, verdicts: Sequence[Evidence]
) -> Plan | None:
    """The next round's plan from fresh respond cases of what did not pass; None when no response changes anything.

    Whether a requirement is met was decided on the verdict cases; the respond cases, which may be trained on, only say
    how far it is missed and where.
    """
    troubled = {(e.audit, e.metric) for e in verdicts if e.requirement is not None and e.verdict is not Verdict.PASS}
    names = [use.name for use in spec.audit if use.name in {audit for audit, _ in troubled}]
    found = [e for e in _audit(spec, run, subject, number, "respond", names) if (e.audit, e.metric) in troubled]
    next_plan = plan
    for use in spec.respond:
        next_plan = make_response(use.name, use.config)(found, next_plan)
    return None if next_plan == plan else next_plan


def round_seed(seed: int, number: int) -> int:
    """The seed of a round's runs: with the cycle's own in all of them, each would train on the same layouts again."""
    return seed * ROUNDS + number


def _train(spec: CycleSpec, run: Run, plan: Plan, number: int) -> tuple[str, Subject]:
    id = parts.of_round(run.id, number, "train")
    return id, load_subject(_trained(spec, run, plan, id, round_seed(spec.seed, number), shows=True))


def _folders(plan: Plan, root: Path) -> dict[str, Path]:
    """Of a plan's inputs, by role.  Raises RunError for one that is not there."""
    return {role: resolve(reference, root) for role, reference in plan.inputs.items()}


def _trained(spec: CycleSpec, run: Run, plan: Plan, id: str, seed: int, shows: bool = False) -> Path:
    """The run `id` in which the plan is trained, now or before; shows: its subject is shown, where it can be."""
    config, root = plan.settings(), run.folder.parent
    inputs = _folders(plan, root)
    status = status_of(root / id)
    if status == "done":
        return root / id
    if status is None:
        check_config(plan.recipe, config, root, inputs)
    with Run.open_or_create(
        root, kind="train", name=plan.recipe, config=config, seed=seed, inputs=inputs, id=id, threads=spec.threads
    ) as child:
        subject = train_in(child, plan.recipe, config, inputs)
        if shows and isinstance(subject, Shows) and spec.show:
            folder = child.artefact("media/list.json").parent
            child.write_json("media/list.json", [item for seed in spec.show for item in subject.show(seed, folder)])
    return child.folder


def _audit(spec: CycleSpec, run: Run, subject: Subject, number: int, split: Split, names: list[str]) -> list[Evidence]:
    uses = [use for use in spec.audit if use.name in names]
    if not uses:
        return []
    root, id = run.folder.parent, parts.of_round(run.id, number, "audit" if split == "verdict" else "respond")
    if status_of(root / id) != "done":
        _examine(spec, subject, number, split, uses, root, id)
    return [Evidence.from_dict(row) for row in read_evidence(root / id)]


def _examine(
    spec: CycleSpec, subject: Subject, number: int, split: Split, uses: Sequence[AuditUse], root: Path, id: str
) -> None:
    """The run `id` in which the subject is audited."""
    config = {"split": split, "audit": [use.model_dump(mode="json") for use in uses]}
    n = spec.respond_cases
    cases = Budget(initial=n, batch=n, maximum=n)
    with Run.open_or_create(
        root,
        kind="audit",
        name=split,
        config=config,
        seed=round_seed(spec.seed, number),
        id=id,
        threads=spec.threads,
    ) as child:
        run_audits(
            [make_audit(use.name, use.config, root) for use in uses],
            subject,
            run=child,
            split=split,
            round=number,
            budget={use.name: use.budget if split == "verdict" else cases for use in uses},
            # The chance of a wrong pass is split over the rounds that could each release.
            share=1.0 / spec.rounds if split == "verdict" else 1.0,
        )


def changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """How a plan differs from the one before, a sentence per setting."""
    said = []
    if before.recipe != after.recipe:
        said.append(f"Trained with {after.recipe} in place of {before.recipe}.")
    old, new = dotted(before.config), dotted(after.config)
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            was = f" (was {_word(old[key])})" if key in old else ""
            said.append(f"{key} set to {_word(new[key])}{was}." if key in new else f"{key} back to its default{was}.")
    for role in sorted({*before.inputs, *after.inputs}):
        if before.inputs.get(role) != after.inputs.get(role):
            start = after.inputs.get(role)
            said.append(f"Started from {start} as its {role}." if start else f"Started without a {role}.")
    return tuple(said)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, float) for item in value):
        return f"[{', '.join(map(_word, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
