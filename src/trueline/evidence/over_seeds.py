"""Statistics over training seeds: what may be said about a method rather than about one trained subject.

Seeds are few, so percentile bootstraps cover too little (0.75 with three seeds, 0.89 with eight). Verdicts use at least
eight seeds, t intervals, sign-flip p-values and Holm's correction; fewer seeds print points without an interval.
"Paired" means that both methods met the same layouts or prompts under a seed, not that the seeds have equal numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueline.evidence.records import Bound, Estimate, EvidenceError

__all__ = [
    "FEWEST_SEEDS",
    "Comparison",
    "compare_seeds",
    "holm",
    "iqm",
    "one_sided_p",
    "seed_interval",
    "sign_flip",
    "stratified_bootstrap_iqm",
]

FEWEST_SEEDS = 8  # for an interval, hence for a verdict
MOST_ENUMERATED = 16  # 2^16 sign patterns are enumerated; more seeds are sampled
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Difference of two methods over seeds and the p-value of "no difference"."""

    difference: Estimate
    p: float


def seed_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean over seeds with Student's t interval.  values [S], one per seed.

    With fewer than eight seeds the interval is nan, so that every requirement on it is inconclusive.
    """
    x = _rows(values)
    return _t_interval(x.mean() if len(x) else math.nan, _error(x), len(x) - 1.0, len(x), confidence, "t over seeds")


def compare_seeds(a: ArrayLike, b: ArrayLike, *, paired: bool, confidence: float = 0.95) -> Comparison:
    """Mean of a minus mean of b over seeds.  a, b: [S] (equal S when paired).

    Paired: t interval of the differences and the sign-flip p-value. Not paired: Welch's t interval and p-value.
    """
    from scipy.special import stdtr

    x, y = _rows(a), _rows(b)
    if paired:
        if len(x) != len(y):
            raise EvidenceError(f"{len(x)} and {len(y)} seeds cannot be paired. Give one value per seed on both sides.")
        estimate = _t_interval(
            (x - y).mean() if len(x) else math.nan, _error(x - y), len(x) - 1.0, len(x), confidence, "paired t"
        )
        return Comparison(estimate, sign_flip(x - y) if len(x) >= FEWEST_SEEDS else math.nan)
    seeds = min(len(x), len(y))
    if seeds < FEWEST_SEEDS:
        value = x.mean() - y.mean() if seeds else math.nan
        return Comparison(_t_interval(value, math.nan, math.nan, seeds, confidence, "Welch t"), math.nan)
    vx, vy = _error(x) ** 2, _error(y) ** 2
    error = math.sqrt(vx + vy)
    if error == 0.0:  # both constant: Welch's degrees of freedom are 0/0
        freedom = float(len(x) + len(y) - 2)
    else:
        freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    difference = float(x.mean() - y.mean())
    t = difference / error if error else (math.inf if difference else 0.0)
    return Comparison(
        _t_interval(difference, error, freedom, seeds, confidence, "Welch t"), 2.0 * float(stdtr(freedom, -abs(t)))
    )


def one_sided_p(values: ArrayLike, threshold: float, bound: Bound) -> float:
    """p-value of "the mean over seeds is not on the good side of the threshold", Student's t.  values [S].

    At most α exactly when all of `seed_interval` at confidence 1 − 2α is on the good side. Seeds that all lie on the
    threshold say nothing: ½, what t = 0 has. nan for fewer than eight seeds.
    """
    from scipy.special import stdtr

    x = _rows(values)
    if len(x) < FEWEST_SEEDS:
        return math.nan
    beyond = float(x.mean() - threshold) * (1.0 if bound == "at_least" else -1.0)
    error = _error(x)
    if error == 0.0:
        return 0.5 if beyond == 0.0 else float(beyond < 0.0)
    return float(stdtr(len(x) - 1.0, -beyond / error))


def sign_flip(differences: ArrayLike, rng: np.random.Generator | None = None, samples: int = 20_000) -> float:
    """Two-sided p-value that paired differences [S] are symmetric about 0: share of sign patterns at least as extreme.

    Exact for up to 16 pairs. Above that `samples` patterns are drawn from `rng` and the observed one is counted in, so
    that the test stays valid.  nan for no pairs.
    """
    d = _rows(differences)
    if len(d) == 0:
        return math.nan
    observed = abs(d.sum()) * (1.0 - 1e-12) - 1e-300  # sums that are equal on paper may differ in the last bit
    if len(d) <= MOST_ENUMERATED:
        signs = np.array(list(product((1.0, -1.0), repeat=len(d))))
        return float((np.abs(signs @ d) >= observed).mean())
    rng = np.random.default_rng(0) if rng is None else rng
    signs = rng.choice((1.0, -1.0), size=(samples, len(d)))
    return float((1 + (np.abs(signs @ d) >= observed).sum()) / (1 + samples))


def holm(p: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values (Holm 1979): reject those at most α, and any error has probability ≤ α.

    p [M] -> [M] in the same order; a nan (not tested) stays nan and does not count.
    """
    given = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full_like(given, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1.0)
    return adjusted


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: mean of the middle half of all scores, a quarter cut at each end (rounded down).

    Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice", section 4.3.  nan for no scores.
    """
    x = np.sort(_rows(scores))
    cut = len(x) // 4
    return float(x[cut : len(x) - cut].mean()) if len(x) else math.nan


def stratified_bootstrap_iqm(
    scores: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Estimate:
    """IQM over seeds and tasks with a percentile interval; seeds are redrawn within each task.  scores: [S, T].

    For display over many tasks, as in Agarwal et al. 2021. With fewer than eight seeds the interval is nan.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise EvidenceError(f"scores have shape {x.shape} or a value that is not finite. Give finite [seeds, tasks].")
    seeds, tasks = x.shape
    low = high = math.nan
    if seeds >= FEWEST_SEEDS:
        chosen = rng.integers(seeds, size=(resamples, seeds, tasks))
        drawn = np.sort(x[chosen, np.arange(tasks)].reshape(resamples, -1), axis=1)
        cut = drawn.shape[1] // 4
        means = drawn[:, cut : drawn.shape[1] - cut].mean(axis=1)
        low, high = np.quantile(means, ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0))
    return Estimate(iqm(x), float(low), float(high), x.size, seeds, confidence, "stratified bootstrap")


def _rows(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise EvidenceError("a seed's value is nan or infinite. Leave that seed out and report it as missing.")
    return x


def _error(x: Array) -> float:
    """Standard error of the mean; nan for fewer than two values."""
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def _t_interval(value: float, error: float, freedom: float, seeds: int, confidence: float, method: str) -> Estimate:
    from scipy.special import stdtrit

    if seeds < FEWEST_SEEDS:
        return Estimate(float(value), math.nan, math.nan, seeds, seeds, confidence, f"{method}, points only")
    half = float(stdtrit(freedom, (1.0 + confidence) / 2.0)) * error
    return Estimate(float(value), float(value - half), float(value + half), seeds, seeds, confidence, method)
