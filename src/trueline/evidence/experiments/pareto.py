"""Return against cost over several limits: which settings are worth choosing, and which are surely not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.evidence.records import Estimate

__all__ = ["FrontPoint", "Tradeoff", "pareto_front"]


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """What one setting came to; `limit` is what it was trained for."""

    label: str
    episode_return: Estimate
    cost: Estimate
    limit: float = math.nan


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A trade-off among others.

    `on_front`: no other has a cost as low and a return as high, and is better in one of them. `surely_dominated`: the
    intervals of some other lie wholly on the better side in both; never so where an interval is missing.
    """

    point: Tradeoff
    on_front: bool
    surely_dominated: bool


def pareto_front(points: Sequence[Tradeoff]) -> list[FrontPoint]:
    """Every trade-off by ascending cost, those of equal cost by descending return; nan is on no front."""
    known = [p for p in points if not (math.isnan(p.cost.value) or math.isnan(p.episode_return.value))]
    order = sorted(points, key=lambda p: (math.isnan(p.cost.value), p.cost.value, -p.episode_return.value))
    return [
        FrontPoint(
            p,
            any(p is q for q in known) and not any(_dominates(q, p) for q in known),
            any(_surely_dominates(q, p) for q in known),
        )
        for p in order
    ]


def _dominates(a: Tradeoff, b: Tradeoff) -> bool:
    cheaper, richer = b.cost.value - a.cost.value, a.episode_return.value - b.episode_return.value
    return cheaper >= 0.0 and richer >= 0.0 and (cheaper > 0.0 or richer > 0.0)


def _surely_dominates(a: Tradeoff, b: Tradeoff) -> bool:
    return a.cost.high < b.cost.low and a.episode_return.low > b.episode_return.high
