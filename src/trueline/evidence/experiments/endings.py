"""Why a training run ended, in one sentence: finished and by what limits, stopped, killed, diverged, failed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trueline.core.config import dotted
from trueline.core.errors import RunError
from trueline.core.metrics import read_metrics
from trueline.core.run import Run, is_locked, read_config, read_manifest

__all__ = [
    "FINAL_EPISODES",
    "FinalEpisodes",
    "Reached",
    "final_episodes",
    "finished_because",
    "reached",
    "read_limits",
    "stopped_because",
    "why_finished",
    "write_limits",
]

FINAL_EPISODES = "final_episodes.json"  # artefact: the final policy's episodes, where a run evaluated itself
LIMITS = "limits.json"  # artefact: what was limited in training, and to what
LOGGED = "training episodes of the last tenth"
_NO_STEP = 0.0  # update/case of a solver that found no step within its trust region which meets every limit
_BOUNDED = {  # the setting that bounds what is logged under names that begin so
    "constraint.upper": "constraint/multiplier_",
    "constraint.penalty_max": "constraint/multiplier_",
    "caution.upper": "constraint/caution_",
    "update.multiplier_max": "update/multiplier_",
}


class FinalEpisodes(NamedTuple):
    """E episodes of the policy that a training made."""

    episode_return: list[float]  # [E]
    cost: dict[str, list[float]]  # [E] by name

    @property
    def basis(self) -> str:
        """What their means are means of."""
        return f"{len(self.episode_return)} episodes of the final policy"


class Reached(NamedTuple):
    """What a limited quantity came to in the end."""

    value: float  # nan: never measured
    basis: str  # what it is the mean of


def write_limits(run: Run, limits: Mapping[str, float]) -> None:
    """Leaves the limits that a training is for, by the name of what is logged, to whoever draws or judges the run."""
    if limits:
        run.write_json(LIMITS, dict(limits))


def read_limits(folder: Path) -> dict[str, float]:
    """The limit a run was trained for, by the name of what is logged and held against it; {} where there is none."""
    path = folder / "artefacts" / LIMITS
    if not path.exists():
        return {}
    try:
        return {str(name): float(limit) for name, limit in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged. Remove it to look at the run without its limits.") from None


def final_episodes(folder: Path) -> FinalEpisodes | None:
    """The final policy's episodes; None for a run that kept none.  Raises RunError for a damaged file."""
    path = folder / "artefacts" / FINAL_EPISODES
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        costs = {str(name): [float(x) for x in values] for name, values in found["cost"].items()}
        return FinalEpisodes([float(x) for x in found["return"]], costs)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged. Remove it to go by what training logged.") from None


def reached(folder: Path, figures: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Reached]:
    """What each limited quantity came to, by the name of what is logged: of the final policy where that is known.

    figures: what the run logged in the end. A step rate, a chance and a tail mean are only logged.
    """
    episodes, found = final_episodes(folder), {}
    for name in limits:
        group, _, cost = name.partition("/")
        if episodes is not None and group in ("train", "eval") and cost in episodes.cost:
            own = episodes.cost[cost]
            found[name] = Reached(sum(own) / len(own), episodes.basis)
        else:
            basis = "evaluations of the last tenth" if group == "eval" else LOGGED
            found[name] = Reached(float(figures.get(name, math.nan)), basis)
    return found


def finished_because(steps: int, found: Mapping[str, Reached], limits: Mapping[str, float]) -> str:
    """Why a training that came to its end ended, and whether it kept its limits.

    found, limits: by the name of what is logged. What was never measured is said to be so.
    """
    said = [f"finished all {steps:,} steps"]
    if not limits:
        said.append("nothing was limited")
    by_basis: dict[str, list[str]] = {}
    for name, limit in limits.items():
        (x, basis), shown = found[name], name.removeprefix("train/")
        if math.isnan(x):
            said.append(f"{shown} was never measured against its limit {limit:.4g}")
        else:
            side = "above" if x > limit else "within"
            by_basis.setdefault(basis, []).append(f"{shown} {x:.4g} is {side} its limit {limit:.4g}")
    return "; ".join([*said, *(f"over {basis}: {', '.join(parts)}" for basis, parts in by_basis.items())])


def why_finished(folder: Path, figures: Mapping[str, Any]) -> str:
    """`finished_because` of the run in `folder`, whose figures are given, and what kept it from pressing on the cost.

    That is how often its solver found no step, and which multipliers ended at their upper bounds. Where the policy that
    was saved is an average of those that were measured, that is said too.
    """
    limits, settings = read_limits(folder), dotted(read_config(folder))
    found = reached(folder, figures, limits)
    said = [finished_because(_last_step(folder), found, limits)]
    share = settings.get("averaged_share") or 0.0
    if share and any(one.basis == LOGGED and not math.isnan(one.value) for one in found.values()):
        said.append(
            f"the policy is the average of the weights of the last {share:.0%} of the training, and what it costs "
            "itself was not measured: audit it"
        )
    cases = [row["update/case"] for row in _rows(folder) if "update/case" in row]
    without = cases.count(_NO_STEP)
    if without:
        said.append(
            f"no step within the trust region met the limits in {without} of {len(cases)} updates, and the cost was "
            "descended instead"
        )
    return "; ".join([*said, *_at_their_bounds(folder, settings)])


def _at_their_bounds(folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """A clause for each setting that bounds multipliers and at which some of them were, last they were logged."""
    bounds = {key: settings[key] for key in _BOUNDED if isinstance(settings.get(key), int | float)}
    if not bounds:
        return
    last: dict[str, float] = {}
    for row in _rows(folder):
        last |= row
    for key, bound in bounds.items():
        begins = _BOUNDED[key]
        # Logged as the ratio of two weights, it is off by rounding.
        at_it = [name for name, x in last.items() if name.startswith(begins) and math.isclose(x, bound, rel_tol=1e-9)]
        if at_it:
            which = ", ".join(name.removeprefix(begins) for name in at_it)
            yield f"the multiplier of {which} ended at its upper bound {bound:g} ({key}) and could not rise further"


def stopped_because(folder: Path) -> str:
    """Why the run in `folder` ended, or that it goes on: finished, stopped, killed, diverged, failed."""
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


def _rows(folder: Path) -> Iterable[Mapping[str, float]]:
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() else ()


def _last_step(folder: Path) -> int:
    return max((int(row["step"]) for row in _rows(folder)), default=0)
