"""The report of a single run: what its folder holds, laid out like a round."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trueline.core import run as core_run
from trueline.core.config import dotted
from trueline.core.errors import RunError
from trueline.core.files import inside
from trueline.core.metrics import read_metrics
from trueline.evidence.experiments.endings import read_limits, stopped_because
from trueline.evidence.records import Evidence
from trueline.evidence.report import Key, Media, ReportData, Round, TrainCurve, build_report

__all__ = ["build_run_report", "read_curves", "read_evidence", "read_media"]

_KINDS = {"image": (".png", ".jpg", ".jpeg", ".gif", ".webp"), "video": (".mp4", ".webm")}
_FIRST = ("train/return", "train/cost")  # what a reader asks for first
_EVALUATED = ("eval/", "eval/deterministic_")  # what evaluations in training measure of the same cost
_SHOWN_ELSEWHERE = frozenset({"summary", "resumed", "config", "harmless", "spent"})


def build_run_report(folder: Path | str) -> str:
    """The report of one train or audit run.  Raises RunError when `folder` is no run, or a file of it is damaged."""
    folder = Path(folder)
    manifest = core_run.read_manifest(folder)
    evidence = read_evidence(folder / "evidence.jsonl")
    verdicts = [e for e in evidence if e.split == "verdict"]
    limits = {name: {"limit": limit} for name, limit in read_limits(folder).items()}
    limits |= {name.replace("train/", prefix, 1): own for name, own in limits.items() for prefix in _EVALUATED}
    # What an audit logs is how its intervals narrowed, and nothing that was learnt.
    curves = read_curves(folder / "metrics.jsonl") if manifest["kind"] == "train" else []
    a_round = Round(
        number=max((e.round for e in evidence), default=0),
        name="this run",
        recipe=manifest["name"],
        plan=settings_of(folder / "config.toml"),
        curves=[replace(curve, limits=limits.get(curve.name, {})) for curve in curves],
        evidence=verdicts,
        respond=[e for e in evidence if e.split == "respond"],
        media=read_media(folder / "artefacts" / "media"),
        runs=[manifest["id"]],
    )
    judged = next((e for e in verdicts if e.requirement is not None), None)
    data = ReportData(
        title=f"{manifest['kind']} {manifest['name']}",
        subtitle=f"run {manifest['id']}, {_ended(folder, manifest)}",
        seed=manifest["seed"],
        manifest={name: value for name, value in manifest.items() if name not in _SHOWN_ELSEWHERE},
        started=manifest["started"],
        ended=manifest["ended"] or "",
        wall_s=manifest["spent"]["wall_s"],
        cpu_s=manifest["spent"]["cpu_s"],
        rounds=[a_round],
        decision="This is a single run. Only the gate of a cycle decides on release.",
        main=None if judged is None else Key(judged.audit, judged.metric),
    )
    return build_report(data)


def read_evidence(path: Path) -> list[Evidence]:
    """The records of a run's evidence.jsonl; none where there is no such file."""
    return [Evidence.from_dict(row) for row in core_run.read_evidence(path.parent)]


def read_curves(path: Path) -> list[TrainCurve]:
    """Every scalar of a metrics.jsonl, return and cost first; the clock's own (`time/…`) are left out."""
    points: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_metrics(path) if path.exists() else ():
        for name, value in row.items():
            if name != "step" and not name.startswith("time/"):
                steps, values = points.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    names = sorted(points, key=lambda name: (not name.startswith(_FIRST), name))
    return [TrainCurve(name, *points[name]) for name in names]


def read_media(media: Path) -> list[Media]:
    """Pictures and videos in a folder: as its list.json describes them, else whatever lies there, by name.

    Raises RunError when the list is damaged or names a file outside the folder.
    """
    described = media / "list.json"
    if described.exists():
        try:
            rows = json.loads(described.read_text(encoding="utf-8"))
            return [Media(row["kind"], row["caption"], row["alt"], inside(media, row["file"])) for row in rows]
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{described} is damaged. Remove it to show the files by name.") from None
    files = sorted(media.iterdir()) if media.is_dir() else []
    return [
        Media("image" if kind == "image" else "video", path.stem.replace("-", " "), f"{kind} {path.name}", path)
        for kind, endings in _KINDS.items()
        for path in files
        if path.suffix.lower() in endings
    ]


def _ended(folder: Path, manifest: Mapping[str, Any]) -> str:
    """How a run ended; of a training also why, and whether it kept its limits."""
    if manifest["kind"] == "train":
        return stopped_because(folder)
    return f"{manifest['status']} {manifest['reason']}".rstrip()


def settings_of(path: Path) -> dict[str, Any]:
    """The settings in a run's config.toml by dotted key.  Raises RunError for a file that is missing or damaged."""
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(f"{path} is missing or damaged. Put it back to report this run.") from None
    return dotted(config)
