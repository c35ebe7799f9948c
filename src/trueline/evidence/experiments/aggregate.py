"""What may be said of several trained policies at once (Agarwal et al. 2021), and of limits they were to keep.

The interquartile mean with its stratified bootstrap is in `over_seeds`. Percentile bootstraps of few seeds cover too
little, so that with fewer than eight an interval is nan. S and R seeds, T tasks, P thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.evidence.over_seeds import FEWEST_SEEDS
from trueline.evidence.records import Axis, Curve, Estimate, EvidenceError
from trueline.evidence.statistics import clopper_pearson

__all__ = ["Merit", "merit", "performance_profile", "probability_of_improvement", "violation_probability"]

Array = NDArray[np.float64]


class Merit(NamedTuple):
    """What makes one policy better than another: keeping the limits first, then return. Compares as a tuple does."""

    feasible: bool  # whether every mean cost is within its limit
    shortfall: float  # Σ over costs of −(J_C − d)₊ in units of the limit: 0 where feasible
    episode_return: float


def merit(episode_return: float, costs: Mapping[str, float], limits: Mapping[str, float]) -> Merit:
    """Feasible first, then return; of policies that are not feasible the one least beyond its limits comes first.

    costs, limits: J_C and d by name, in one unit; a limit of 0 is its own unit 1. A limited cost that is nan or missing
    is beyond every limit. Without a return (nan: it diverged, or no episode ended) nothing is known to be kept, and
    nothing is worse.
    """
    if math.isnan(episode_return):
        return Merit(False, -math.inf, -math.inf)
    excess = 0.0
    for name, limit in limits.items():
        beyond = costs.get(name, math.nan) - limit
        excess += math.inf if math.isnan(beyond) else max(0.0, beyond) / (abs(limit) or 1.0)
    return Merit(excess == 0.0, -excess, episode_return)


def violation_probability(costs: ArrayLike, limit: float, confidence: float = 0.95) -> Estimate:
    """P(cost > limit) from n independent costs, n fixed in advance, with its exact interval (Clopper & Pearson 1934).

    costs [n]: episodes of one policy, each on a layout of its own; or final costs of runs, one per seed, for the
    probability that a training ends above its limit. A cost that equals the limit keeps it.
    """
    x = np.asarray(costs, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise EvidenceError("a cost is nan or infinite. Leave that run or episode out and report it as missing.")
    return clopper_pearson(int((x > limit).sum()), len(x), confidence)


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Estimate:
    """P(X > Y) of a random seed each on a random task: mean over tasks of Σᵢⱼ S(xᵢ, yⱼ)/(S·R), ties counted half.

    x [S, T], y [R, T]: scores of two methods on the same tasks. The percentile interval redraws the seeds of either
    method within each task; nan with fewer than eight seeds of either.
    """
    a, b = _scores(x), _scores(y)
    if a.shape[1] != b.shape[1]:
        raise EvidenceError(f"{a.shape[1]} and {b.shape[1]} tasks cannot be compared. Give scores on the same tasks.")
    wins = (a[:, None, :] > b[None, :, :]) + 0.5 * (a[:, None, :] == b[None, :, :])  # [S, R, T]
    s, r, tasks = wins.shape
    low = high = math.nan
    if min(s, r) >= FEWEST_SEEDS:
        drawn = np.einsum(
            "bts,srt,btr->b", _redrawn(s, tasks, resamples, rng), wins, _redrawn(r, tasks, resamples, rng)
        )
        low, high = map(float, _percentiles(drawn / (s * r * tasks), confidence))
    return Estimate(float(wins.mean()), low, high, a.size + b.size, min(s, r), confidence, "stratified bootstrap")


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
    name: str = "",
) -> Curve:
    """Share of runs whose score exceeds τ, for every τ of `thresholds` [P] in ascending order.  scores [S, T].

    The pointwise percentile band redraws seeds within each task; nan with fewer than eight seeds. The area is that
    under the profile divided by the range of thresholds.
    """
    x, tau = _scores(scores), np.asarray(thresholds, dtype=np.float64).ravel()
    if len(tau) < 2 or not (np.diff(tau) > 0.0).all():
        raise EvidenceError("the thresholds of a profile are not ascending. Give two or more, each above the last.")
    above = (x[:, :, None] > tau).astype(np.float64)  # [S, T, P]
    seeds, tasks, _ = above.shape
    mean = above.mean(axis=(0, 1))
    low, high = np.full((2, len(tau)), math.nan)
    if seeds >= FEWEST_SEEDS:
        drawn = np.einsum("bts,stp->bp", _redrawn(seeds, tasks, resamples, rng), above) / (seeds * tasks)
        low, high = _percentiles(drawn, confidence)
    area = float((0.5 * (mean[1:] + mean[:-1]) * np.diff(tau)).sum() / (tau[-1] - tau[0]))
    axis = Axis("score", "", tuple(tau.tolist()))
    return Curve(
        name, axis, tuple(mean.tolist()), tuple(low.tolist()), tuple(high.tolist()), (x.size,) * len(tau), area
    )


def _redrawn(seeds: int, tasks: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each seed is drawn, [resamples, T, S]: each row sums to S."""
    counts: Array = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=(resamples, tasks)).astype(np.float64)
    return counts


def _percentiles(drawn: Array, confidence: float) -> tuple[Array, Array]:
    low, high = np.quantile(drawn, ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0), axis=0)
    return low, high


def _scores(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise EvidenceError(f"scores have shape {x.shape} or a value that is not finite. Give finite [seeds, tasks].")
    return x
