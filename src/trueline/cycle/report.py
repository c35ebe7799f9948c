"""The cycle's report: its rounds as they lie in their run folders, laid out by `evidence.report`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trueline.core.config import build, dotted
from trueline.core.files import write_text
from trueline.core.run import read_manifest
from trueline.cycle.gate import sentence
from trueline.cycle.parts import PARTS, of_round
from trueline.cycle.rounds import RoundRecord, finished_rounds
from trueline.cycle.spec import CycleSpec
from trueline.evidence.experiments.endings import read_limits
from trueline.evidence.records import Evidence, Verdict
from trueline.evidence.report import Gate, Key, ReportData, Round, build_report
from trueline.evidence.run_report import read_curves, read_evidence, read_media

__all__ = ["write_report"]

_CURVES = ("train/", "constraint/")  # what a reader of a whole cycle wants to see of each round's training


def write_report(folder: Path) -> Path:
    """Write report.html of what the cycle in `folder` has finished so far; returns its path.

    Nothing is locked: the cycle may be running.
    """
    manifest, records = read_manifest(folder), finished_rounds(folder)
    spec = build(CycleSpec, tomllib.loads(manifest["config"]), where=str(folder))
    rounds = [_round(folder.parent, manifest["id"], records[: at + 1]) for at in range(len(records))]
    last = records[-1] if records else None
    main = _key(rounds)
    rounds = [_with_audited_limit(a_round, main) for a_round in rounds]
    data = ReportData(
        title=spec.name,
        subtitle=f"Alignment cycle over {len(rounds)} of at most {spec.rounds} rounds, run {manifest['id']}",
        seed=spec.seed,
        command=f"trueline cycle {folder / 'config.toml'}",
        manifest={key: manifest[key] for key in ("python", "versions", "machine", "threads", "git")},
        started=manifest["started"],
        ended=manifest["ended"] or "",
        wall_s=sum(record.wall_s for record in records),
        cpu_s=sum(record.cpu_s for record in records),
        rounds=rounds,
        release=None if last is None or last.next_plan is not None else last.decision.release,
        decision=" ".join(last.decision.reasons[:3]) if last else "No round is finished.",
        main=main,
        beside=_beside(rounds),
        baselines=_baselines(rounds),
        limits=_limits(spec, rounds),
    )
    path = folder / "report.html"
    write_text(path, build_report(data))
    return path


def _round(root: Path, cycle: str, records: Sequence[RoundRecord]) -> Round:
    """The last of a cycle's rounds so far."""
    record = records[-1]
    names = {part: of_round(cycle, record.number, part) for part in PARTS}
    train = root / names["train"]
    curves = [c for c in read_curves(train / "metrics.jsonl") if c.name.startswith(_CURVES) and "/total" not in c.name]
    limits = read_limits(train)
    curves = [replace(c, limits={"limit trained for": limits[c.name]} if c.name in limits else {}) for c in curves]
    why = record.changed
    if why and len(records) > 1:
        before = records[-2]
        why = (f"Because {before.decision.reasons[0]}", *why) if before.decision.reasons else why
    return Round(
        number=record.number,
        recipe=record.plan.recipe,
        plan=_settings(record),
        changes=why,
        curves=curves,
        evidence=[e for e in read_evidence(root / names["audit"] / "evidence.jsonl") if e.split == "verdict"],
        respond=read_evidence(root / names["respond"] / "evidence.jsonl"),
        gate=Gate(record.decision.release, record.decision.reasons),
        media=read_media(train / "artefacts" / "media"),
        runs=[name for name in names.values() if (root / name).is_dir()],
    )


def _with_audited_limit(a_round: Round, main: Key | None) -> Round:
    """The round with the audited limit drawn into its cost curves, above any that it was trained for.

    A metric "X of NAME" has its threshold drawn into the curve train/NAME alone; one that names no cost, into all.
    """
    if main is None:
        return a_round
    what, of, _ = main.metric.partition(" of ")
    audited = {e.metric: e.requirement.threshold for e in a_round.evidence if e.requirement and e.audit == main.audit}
    curves = []
    for curve in a_round.curves:
        metric = f"{what}{of}{curve.name.removeprefix('train/')}" if of else main.metric
        if metric in audited and (of or curve.name.startswith("train/cost")):
            curve = replace(curve, limits={"audited limit": audited[metric], **curve.limits})
        curves.append(curve)
    return replace(a_round, curves=curves)


def _baselines(rounds: list[Round]) -> dict[str, tuple[float, float]]:
    """What the audits of the last round say of simpler behaviours: metrics named "X of BASELINE"."""
    found: dict[str, dict[str, float]] = {}
    for e in rounds[-1].evidence if rounds else ():
        what, of, baseline = e.metric.partition(" of ")
        if of and what in ("return", "cost"):
            found.setdefault(baseline, {})[what] = e.estimate.value
    return {name: (row["return"], row["cost"]) for name, row in found.items() if {"return", "cost"} <= row.keys()}


def _settings(record: RoundRecord) -> dict[str, Any]:
    plan = record.plan
    inputs = {f"input {role}": reference for role, reference in plan.inputs.items()}
    return {**({"preset": plan.preset} if plan.preset else {}), **dotted(plan.config), **inputs}


def _required(rounds: list[Round]) -> list[Evidence]:
    return [e for e in rounds[0].evidence if e.requirement is not None] if rounds else []


def _key(rounds: list[Round]) -> Key | None:
    """The number of the big picture: the first requirement that failed in the first round, else the first one."""
    required = _required(rounds)
    failed = [e for e in required if e.verdict is Verdict.FAIL]
    return Key((failed or required)[0].audit, (failed or required)[0].metric) if required else None


def _beside(rounds: list[Round]) -> Key | None:
    """What the subject is for, beside what it must not do: the first metric of which more is better."""
    for e in rounds[0].evidence if rounds else ():
        if e.metric == "return":
            return Key(e.audit, e.metric)
    wanted = [e for e in _required(rounds) if e.requirement is not None and e.requirement.bound == "at_least"]
    return Key(wanted[0].audit, wanted[0].metric) if wanted else None


def _limits(spec: CycleSpec, rounds: list[Round]) -> list[str]:
    gaps = sorted({sentence(e) for r in rounds for e in r.evidence if e.note.startswith("not measured")})
    return [
        *gaps,
        f"Each verdict's error budget is split over {spec.rounds} rounds, so that a pass in any of them is one in "
        "whose interval the stated confidence holds for the whole cycle.",
        "A pass speaks of the distribution the verdict cases were drawn from and of nothing beyond it.",
    ]
