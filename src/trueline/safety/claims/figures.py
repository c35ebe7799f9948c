"""What arms came to in one world, drawn from claims' results: the cost of each arm's policy beside the limit."""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

from trueline.core import registry
from trueline.evidence.claims import ClaimResult
from trueline.evidence.over_seeds import seed_interval
from trueline.evidence.plots import IntervalRow, intervals
from trueline.evidence.records import EvidenceError, Requirement
from trueline.safety.claims import offline
from trueline.safety.claims.arms import ARMS, LIMIT

__all__ = ["costs", "seeds_of"]

CONFIDENCE = 0.95  # of either end of an interval


def seeds_of(results: Iterable[ClaimResult], number: str) -> dict[str, list[float]]:
    """ARM -> its number of every seed that has one; claims share trainings, and the one with most seeds tells it."""
    found: dict[str, list[float]] = {}
    for result in results:
        for arm in result.params["arms"]:
            values = [row[f"{arm}/{number}"] for row in result.per_seed.values()]
            finite = [x for x in values if math.isfinite(x)]
            if len(finite) > len(found.get(arm, [])):
                found[arm] = finite
    return found


def costs(results: Iterable[ClaimResult]) -> Markup:
    """Mean cost of an episode of each arm's policy, Student's t over seeds, against the limit; one world and length.

    An arm that was not told the limit stands there for comparison. The intervals are looked at one by one and decide
    nothing: claims do. Raises EvidenceError when results are of different experiments, or none was attempted.
    """
    tried = [result for result in results if result.per_seed]
    kinds = {(result.params["world"], result.params["steps"]) for result in tried}
    if len(kinds) != 1:
        raise EvidenceError(f"costs are drawn of one world and length, and these are of {len(kinds)}.")
    limit = Requirement(bound="at_most", threshold=LIMIT, confidence=CONFIDENCE)
    rows = [_row(arm, values, limit) for arm, values in seeds_of(tried, "cost").items()]
    ((world, steps),) = kinds
    return intervals(rows, limit, "cost of an episode", f"cost by arm after {steps:,} steps in {world}")


def _row(arm: str, values: list[float], limit: Requirement) -> IntervalRow:
    found = seed_interval(values, limit.interval_confidence())
    told = _knows_limits(arm)
    state = limit.verdict(found.low, found.high).value if told else "baseline"
    return IntervalRow(arm if told else f"{arm}, no limit", found.value, found.low, found.high, state)


def _knows_limits(arm: str) -> bool:
    recipe = {**offline.ARMS, **ARMS}[arm].recipe
    return "cost_limit" in registry.load("recipe", recipe).Config.model_fields
