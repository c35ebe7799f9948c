"""How far reward models that were trained apart agree, on one fixed set of pairs of replies.

A margin is the difference of the two rewards that a model gives to a pair. Models differ in scale, which means nothing,
so what is compared first is the order: the share of pairs that two models order differently. The variance of margins,
each model's scaled to gold, comes second, since the scale of a model that has learnt little is itself mostly noise.

Letters of shapes: n pairs, P prompts, R reward models, S seeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.evidence.over_seeds import FEWEST_SEEDS
from trueline.evidence.records import Bound, Estimate, EvidenceError

__all__ = ["Spread", "accuracy", "disagreement", "log_ratio", "log_ratio_p", "scale_to_gold", "spread"]

Array = NDArray[np.float64]


def disagreement(one: Array, other: Array) -> Array:
    """1 where two models order a pair differently, 0 where alike, ½ where either gives both the same.  [n] each."""
    return np.asarray(0.5 * (1.0 - np.sign(one) * np.sign(other)))


def accuracy(margin: Array, gold: Array) -> float:
    """Share of pairs in gold's order, a tie of the model counting ½; pairs that gold ties do not count.  [n] each."""
    decided = gold != 0
    if not decided.any():
        return math.nan
    return float(1.0 - disagreement(margin[decided], gold[decided]).mean())


def scale_to_gold(margin: Array, gold: Array) -> Array:
    """A model's margins in gold's unit: divided by the slope Σ m·g / Σ g² of their regression on gold's.  [n] each.

    nan for a slope that is not above 0: a model that has not learnt the order has no scale.
    """
    slope = float(margin @ gold) / float(gold @ gold) if gold.any() else 0.0
    return margin / slope if slope > 0 else np.full_like(margin, math.nan)


class Spread(NamedTuple):
    """Of scaled margins, averaged over pairs."""

    variance: float  # V: over models
    squared_bias: float  # of their mean, less what of it is variance


def spread(margins: Array, gold: Array) -> Spread:
    """V = E[Var(r̂(y₁) − r̂(y₂))] over models, and E[bias²].  margins [R, n], gold [n].

    nan when a model has no scale. Raises EvidenceError for fewer than two models.
    """
    models = len(margins)
    if models < 2:
        raise EvidenceError(f"{models} reward model has no variance. Give two or more that were trained apart.")
    scaled = np.stack([scale_to_gold(own, gold) for own in margins])
    variance = float(scaled.var(axis=0, ddof=1).mean())
    bias = float(((scaled.mean(axis=0) - gold) ** 2).mean()) - variance / models
    return Spread(variance, bias)


# --- a ratio over seeds and prompts ---


class _Ratio(NamedTuple):
    value: float
    error: float
    freedom: float


def log_ratio(control: Array, tree: Array, confidence: float, seed: int = 0, resamples: int = 2000) -> Estimate:
    """log of the control's mean disagreement over the tree's, with an interval over seeds and prompts.  [S, P] each.

    Every seed has its own models in both arms and all seeds meet the same prompts. The error has two parts, added as
    variances: over seeds from the spread of c/c̄ − t/t̄, over prompts by a bootstrap of prompts with all their pairs.
    What seeds and prompts have in common is counted in both, so the interval is somewhat wide. t with S − 1 degrees of
    freedom; fewer than eight seeds, or no disagreement at all, give no interval.
    """
    from scipy.special import stdtrit

    found = _ratio(control, tree, seed, resamples)
    seeds = len(control)
    method = "t over seeds, bootstrap over prompts"
    if seeds < FEWEST_SEEDS or not math.isfinite(found.value):
        return Estimate(found.value, math.nan, math.nan, control.size, seeds, confidence, f"{method}, points only")
    half = float(stdtrit(found.freedom, (1.0 + confidence) / 2.0)) * found.error
    return Estimate(found.value, found.value - half, found.value + half, control.size, seeds, confidence, method)


def log_ratio_p(
    control: Array, tree: Array, threshold: float, bound: Bound, seed: int = 0, resamples: int = 2000
) -> float:
    """p-value of "the log ratio is not on the good side of the threshold"; it says what `log_ratio`'s interval says."""
    from scipy.special import stdtr

    found = _ratio(control, tree, seed, resamples)
    if len(control) < FEWEST_SEEDS or not math.isfinite(found.value) or not math.isfinite(found.error):
        return math.nan
    beyond = (found.value - threshold) * (1.0 if bound == "at_least" else -1.0)
    if found.error == 0.0:
        return 0.0 if beyond >= 0.0 else 1.0
    return float(stdtr(found.freedom, -beyond / found.error))


def _ratio(control: Array, tree: Array, seed: int, resamples: int) -> _Ratio:
    if control.shape != tree.shape or control.ndim != 2:
        raise EvidenceError(
            f"disagreements of the shapes {control.shape} and {tree.shape} cannot be compared. "
            "Give [seeds, prompts] of both."
        )
    seeds, prompts = control.shape
    c, t = float(control.mean()), float(tree.mean())
    if c <= 0.0 or t <= 0.0:
        return _Ratio(math.nan, math.nan, seeds - 1.0)
    by_seed = (control / c - tree / t).mean(axis=1)
    over_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else math.nan
    drawn = np.random.default_rng(seed).integers(prompts, size=(resamples, prompts))
    means = [arm.mean(axis=0)[drawn].mean(axis=1) for arm in (control, tree)]
    if min(mean.min() for mean in means) <= 0.0:  # so little disagreement that it may have come from one prompt
        return _Ratio(math.log(c / t), math.inf, seeds - 1.0)
    over_prompts = float((np.log(means[0]) - np.log(means[1])).var())
    return _Ratio(math.log(c / t), math.sqrt(over_seeds + over_prompts), seeds - 1.0)
