"""Runs side by side: settings that differ, the figures they ended with, and what audits found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.core.config import dotted
from trueline.core.errors import RunError
from trueline.core.run import read_config, read_manifest
from trueline.core.store import Store
from trueline.cycle.auditing import subject_folder, verdicts
from trueline.cycle.parts import of_round
from trueline.cycle.rounds import finished_rounds
from trueline.cycle.search import trial_folders
from trueline.cycle.sweep import point_folders
from trueline.cycle.training import figures
from trueline.evidence.experiments.runs import RunRecord, read_run
from trueline.evidence.records import Evidence

__all__ = ["SETS", "Comparison", "compare_runs", "evidence_of", "training_runs"]

SETS = ("sweep", "search")  # kinds of runs that stand for many


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value per run in every row; None where a run has none."""

    runs: tuple[str, ...]
    settings: Mapping[str, tuple[Any, ...]]  # dotted settings that are not the same everywhere
    metrics: Mapping[str, tuple[float | None, ...]]  # means of the last tenth of what was logged
    evidence: Mapping[str, tuple[Evidence | None, ...]]  # by AUDIT:METRIC


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compares two runs or more.  A cycle stands for the run it trained last.  Raises RunError for fewer than two."""
    if len(folders) < 2:
        raise RunError("one run cannot be compared. Name two or more.")
    trained = [subject_folder(folder) for folder in folders]
    manifests = [read_manifest(folder) for folder in trained]
    settings = [
        {"recipe": m["name"], "seed": m["seed"], **dotted(read_config(folder))}
        for m, folder in zip(manifests, trained, strict=True)
    ]
    side_by_side = _rows(settings)
    found = [{f"{e.audit}:{e.metric}": e for e in evidence_of(folder)} for folder in folders]
    return Comparison(
        tuple(folder.name for folder in folders),
        {key: row for key, row in side_by_side.items() if any(value != row[0] for value in row)},
        _rows([figures(folder) for folder in trained]),
        _rows(found),
    )


def training_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The training runs behind what is named: a sweep's points, a search's trials, a cycle's last training, a run.

    Each is there once, however often it is named; those that have not begun are left out.
    """
    found: list[Path] = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        match read_manifest(folder)["kind"]:
            case "sweep":
                found += point_folders(folder)
            case "search":
                found += trial_folders(folder)
            case _:
                found.append(subject_folder(folder))
    return [read_run(folder) for folder in dict.fromkeys(found) if (folder / "manifest.json").exists()]


def evidence_of(folder: Path) -> list[Evidence]:
    """The evidence that decides about a run: its own, its last round's for a cycle, else its newest audit's."""
    manifest, root = read_manifest(folder), folder.parent
    if manifest["kind"] == "cycle":
        rounds = finished_rounds(folder)
        return verdicts(root / of_round(folder.name, rounds[-1].number, "audit")) if rounds else []
    own = verdicts(folder)
    if own or manifest["kind"] != "train":
        return own
    for audit in Store(root).runs(kind="audit", status="done"):
        if audit["inputs"].get("subject", {}).get("run") == manifest["id"]:
            return verdicts(root / audit["id"])
    return []


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: tuple(column.get(key) for column in columns) for key in sorted(keys)}
