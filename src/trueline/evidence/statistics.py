"""Estimates with intervals: rates, means, tail means and paired differences.

Names ending in `_sequence`, and `cvar`, hold at every sample size at once, so one may look, draw more cases and look
again. `clopper_pearson` and `empirical_bernstein` hold at one sample size fixed in advance: ten looks at a 95 %
Clopper-Pearson interval give 9.4 % false passes instead of 2.5 %. Every interval is two-sided, with half of the error
on each side. The unit is the cluster (layout, prompt, tree): its cases are averaged first, for they are
not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.evidence.betting import mean_bounds, tail_mean_lower, tail_mean_upper
from trueline.evidence.records import Estimate, EvidenceError

__all__ = [
    "asymptotic_sequence",
    "clopper_pearson",
    "cluster_means",
    "cvar",
    "empirical_bernstein",
    "mean_sequence",
    "paired_difference",
    "rate_sequence",
    "tail_mean",
]

Array = NDArray[np.float64]
Clusters = Sequence[Any] | NDArray[Any] | None

FEWEST_UNITS = 10  # below this a central limit theorem says nothing about unbounded values


def cluster_means(values: ArrayLike, clusters: Clusters = None) -> Array:
    """Mean of each cluster's values, clusters in order of first appearance.  values, clusters: [n] -> [C]."""
    x = _finite(values)
    index = _cluster_index(len(x), clusters)
    return np.asarray(np.bincount(index, weights=x) / np.bincount(index)) if len(x) else x


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """Exact interval of a rate from k of n independent trials, n fixed in advance (Clopper & Pearson 1934).

    n = 0 gives value nan and interval [0, 1]: nothing is known.  Raises EvidenceError unless 0 ≤ k ≤ n.
    """
    from scipy.special import betaincinv

    if not 0 <= k <= n:
        raise EvidenceError(f"{k} of {n} is not a rate. Give 0 ≤ k ≤ n.")
    half = (1.0 - confidence) / 2.0
    low = float(betaincinv(k, n - k + 1, half)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1.0 - half)) if k < n else 1.0
    return Estimate(k / n if n else math.nan, low, high, n, n, confidence, "clopper-pearson")


def mean_sequence(
    values: ArrayLike, bounds: tuple[float, float], confidence: float = 0.95, clusters: Clusters = None
) -> Estimate:
    """Mean of values in [bounds[0], bounds[1]] with a betting confidence sequence (see `betting`).

    values [n] in the order they were drawn.  n = 0 gives value nan and the bounds themselves as interval.
    Raises EvidenceError when a value is not finite or lies outside the bounds.
    """
    x = _finite(values)
    unit = _unit_interval(cluster_means(x, clusters), x, bounds)
    low, high = mean_bounds(unit, (1.0 - confidence) / 2.0)
    return _scaled(unit, low, high, bounds, len(x), confidence)


def rate_sequence(events: ArrayLike, confidence: float = 0.95, clusters: Clusters = None) -> Estimate:
    """Rate of events (0 or 1, [n]) with a betting confidence sequence; cases of a cluster are averaged first."""
    x = _finite(events)
    if not np.isin(x, (0.0, 1.0)).all():
        raise EvidenceError("a rate has a value that is neither 0 nor 1. Use the estimator 'mean' for other values.")
    return mean_sequence(x, (0.0, 1.0), confidence, clusters)


def asymptotic_sequence(
    values: ArrayLike, confidence: float = 0.95, clusters: Clusters = None, tightest_at: int = 100
) -> Estimate:
    """Mean of unbounded values with an asymptotic confidence sequence, labelled so: exact only as n grows.

    x̄ₙ ± sₙ·√(2(nρ²+1)/(n²ρ²) · log(√(nρ²+1)/α)) (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, Theorem 2.2, with
    eq. 10's ρ, for which the interval is narrowest near n = `tightest_at`). Fewer than 10 units, or units that are all
    equal, say nothing about an unbounded mean: the interval is then the whole line.
    """
    x = _finite(values)
    means = cluster_means(x, clusters)
    n, alpha = len(means), 1.0 - confidence
    value = float(means.mean()) if n else math.nan
    spread = float(means.std(ddof=1)) if n > 1 else 0.0
    if n < FEWEST_UNITS or spread == 0.0:
        return Estimate(value, -math.inf, math.inf, len(x), n, confidence, "asymptotic")
    rho2 = (-2.0 * math.log(alpha) + math.log(-2.0 * math.log(alpha) + 1.0)) / tightest_at
    half = spread * math.sqrt(2.0 * (n * rho2 + 1.0) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1.0) / alpha))
    return Estimate(value, value - half, value + half, len(x), n, confidence, "asymptotic")


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    clusters: Clusters = None,
) -> Estimate:
    """Mean of a − b over cases that both met.  a, b [n] in `bounds` each; without bounds the interval is asymptotic."""
    x, y = _finite(a), _finite(b)
    if x.shape != y.shape:
        raise EvidenceError(f"{len(x)} and {len(y)} values cannot be paired. Give both on the same cases.")
    if bounds is None:
        return asymptotic_sequence(x - y, confidence, clusters)
    width = bounds[1] - bounds[0]
    _unit_interval(x, x, bounds)
    _unit_interval(y, y, bounds)
    return mean_sequence(x - y, (-width, width), confidence, clusters)


def cvar(
    values: ArrayLike,
    tail: float,
    bounds: tuple[float, float],
    confidence: float = 0.95,
    clusters: Clusters = None,
    worse: Literal["high", "low"] = "high",
) -> Estimate:
    """Mean of the worst `tail` share of values (conditional value at risk), valid at every n.  values [n].

    The interval bets on Rockafellar & Uryasev's form (see `betting`); it needs no number of looks planned in advance.
    """
    sign = 1.0 if worse == "high" else -1.0
    x = sign * _finite(values)
    low_end, high_end = sorted((sign * bounds[0], sign * bounds[1]))
    index, scaled = _cluster_index(len(x), clusters), _unit_interval(x, x, (low_end, high_end))
    delta, width = (1.0 - confidence) / 2.0, high_end - low_end
    high = low_end + width * tail_mean_upper(scaled, index, tail, delta) if len(x) else high_end
    low = low_end + width * tail_mean_lower(scaled, index, tail, delta) if len(x) else low_end
    low, high = sorted((sign * low, sign * high))
    weights = 1.0 / np.bincount(index)[index] if len(x) else None
    units = int(index.max()) + 1 if len(x) else 0
    return Estimate(sign * tail_mean(x, tail, weights), low, high, len(x), units, confidence, "betting")


def tail_mean(values: ArrayLike, tail: float, weights: Array | None = None) -> float:
    """Mean of the highest `tail` share of the weight, the value at the border counted in part.  nan for no values."""
    x = _finite(values)
    if len(x) == 0:
        return math.nan
    w = np.full(len(x), 1.0 / len(x)) if weights is None else weights / weights.sum()
    order = np.argsort(-x, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(w[order])[:-1]])
    taken = np.clip(tail - before, 0.0, w[order])
    return float(taken @ x[order] / tail)


def empirical_bernstein(
    values: ArrayLike, bounds: tuple[float, float], confidence: float = 0.95, clusters: Clusters = None
) -> Estimate:
    """Mean of bounded values at one n fixed in advance: x̄ ± √(2s²L/n) + 7·range·L/(3(n−1)), L = log(2/δ) with δ = α/2.

    Maurer & Pontil 2009, Theorem 4, on either side. Kept as the familiar yardstick; betting is tighter.
    """
    x = _finite(values)
    unit = _unit_interval(cluster_means(x, clusters), x, bounds)
    n = len(unit)
    if n < 2:
        return Estimate(float(x.mean()) if n else math.nan, *bounds, len(x), n, confidence, "empirical-bernstein")
    log_term = math.log(4.0 / (1.0 - confidence))
    half = math.sqrt(2.0 * unit.var(ddof=1) * log_term / n) + 7.0 * log_term / (3.0 * (n - 1))
    low, high = max(0.0, unit.mean() - half), min(1.0, unit.mean() + half)
    return _scaled(unit, low, high, bounds, len(x), confidence, "empirical-bernstein")


def _finite(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise EvidenceError("a value is nan or infinite. Leave the case out and count it as missing.")
    return x


def _cluster_index(n: int, clusters: Clusters) -> NDArray[np.intp]:
    """Clusters numbered by first appearance -> [n]."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise EvidenceError(f"{n} values came with {len(clusters)} clusters. Give one cluster per value.")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.intp)


def _unit_interval(x: Array, raw: Array, bounds: tuple[float, float]) -> Array:
    """x moved to [0, 1]; `raw` are the values that must lie within the bounds."""
    low, high = bounds
    slack = 1e-9 * (high - low)  # sums of floats may pass the end by rounding
    outside = raw[(raw < low - slack) | (raw > high + slack)]
    if len(outside):
        raise EvidenceError(
            f"a value of {outside[0]:g} lies outside the declared bounds [{low:g}, {high:g}], so the interval would "
            f"not hold. Declare bounds that no value can leave."
        )
    return np.clip((x - low) / (high - low), 0.0, 1.0)


def _scaled(
    unit: Array,
    low: float,
    high: float,
    bounds: tuple[float, float],
    n: int,
    confidence: float,
    method: str = "betting",
) -> Estimate:
    # The running intersection is empty with probability below α; the gap is then all that is left to report.
    low, high = min(low, high), max(low, high)
    start, width = bounds[0], bounds[1] - bounds[0]
    value = start + width * float(unit.mean()) if len(unit) else math.nan
    return Estimate(value, start + width * low, start + width * high, n, len(unit), confidence, method)
