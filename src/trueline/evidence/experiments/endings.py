"""Why a training run ended, in one sentence: finished, infeasible, stopped, killed, diverged, failed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueline.core.errors import RunError
from trueline.core.metrics import read_metrics
from trueline.core.run import is_locked, read_manifest

__all__ = ["finished_because", "read_limits", "stopped_because", "why_finished"]


def read_limits(folder: Path) -> dict[str, float]:
    """The limit a run was trained for, by the name of what is logged and held against it; {} where there is none."""
    path = folder / "artefacts" / "limits.json"
    if not path.exists():
        return {}
    try:
        return {str(name): float(limit) for name, limit in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged. Remove it to look at the run without its limits.") from None


def finished_because(steps: int, figures: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Why a training that came to its end ended, and whether it kept its limits.

    figures, limits: by the name of what is logged. What was never measured is said to be so.
    """
    said = f"finished all {steps:,} steps"
    if not limits:
        return f"{said}; nothing was limited"
    above = {name for name, d in limits.items() if not math.isnan(x := _figure(figures, name)) and x > d}
    parts = []
    for name, limit in limits.items():
        x, shown = _figure(figures, name), name.removeprefix("train/")
        if math.isnan(x):
            parts.append(f"{shown} was never measured against its limit {limit:.4g}")
        else:
            parts.append(f"{shown} {x:.4g} is {'above' if name in above else 'within'} its limit {limit:.4g}")
    return f"{said}, {'infeasible: ' if above else ''}{', '.join(parts)}"


def why_finished(folder: Path, figures: Mapping[str, Any]) -> str:
    """`finished_because` of the run in `folder`, whose figures are given."""
    return finished_because(_last_step(folder), figures, read_limits(folder))


def stopped_because(folder: Path) -> str:
    """Why the run in `folder` ended, or that it goes on: finished, infeasible, stopped, killed, diverged, failed."""
    manifest, id = read_manifest(folder), folder.name
    steps, reason = _last_step(folder), manifest["reason"]
    match manifest["status"]:
        case "done":
            return why_finished(folder, manifest["summary"])
        case "running" if is_locked(folder):
            return f"is running, at {steps:,} steps"
        case "running":
            return f"was killed after {steps:,} steps; go on with `trueline resume {id}`"
        case status:
            return f"{status} after {steps:,} steps: {reason}"


def _figure(figures: Mapping[str, Any], name: str) -> float:
    return float(figures.get(name, math.nan))


def _last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return max((int(row["step"]) for row in read_metrics(path)), default=0) if path.exists() else 0
