"""Reward learning as an autoencoder, on a finite space of responses (arXiv 2402.10184, section 3).

    p_H  →  r_H  →  comparisons  →  r_RM  →  p_LM

People's preferred distribution is p_H ∝ exp(β·r_H). Comparisons encode it, a reward model is inferred from them, and
the optimum of entropy-regularised reinforcement learning decodes it: p_LM ∝ exp(β·r_RM). The theorem: when the variance
of the inferred reward *differences* goes to 0 for all pairs of responses, p_LM goes to p_H. What is computed here makes
it quantitative, with e = r_RM − r_H:

    KL(p_H ‖ p_LM) = log E[exp(β·e)] − β·E[e]            exactly, with expectations under p_H
                   ≤ β²·(max e − min e)²/8               by Hoeffding's lemma
                   = (β²/4)·E[(e(y₁) − e(y₂))²] + O(β³)  with y₁, y₂ independent under p_H

so only differences of errors matter, and with errors of the variances d(y₁, y₂) of `network.py` the expected divergence
is (β²/4)·E[d(y₁, y₂)] to leading order.

Letters of shapes: Y responses, n comparisons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.language.topology.network import Network, covariance

__all__ = [
    "decoded",
    "divergence",
    "divergence_bound",
    "expected_divergence",
    "graded_labels",
    "inferred_rewards",
    "label_variance",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def decoded(reward: Array, beta: float) -> Array:
    """p ∝ exp(β·r): what maximises E[r] + H(p)/β.  [Y] -> [Y]."""
    weight = np.exp(beta * (reward - reward.max()))
    return np.asarray(weight / weight.sum())


def divergence(human: Array, inferred: Array, beta: float) -> float:
    """KL(p_H ‖ p_LM) of the distributions that two rewards [Y] decode to."""
    p, error = decoded(human, beta), beta * (inferred - human)
    top = error.max()
    return float(top + np.log(p @ np.exp(error - top)) - p @ error)


def divergence_bound(human: Array, inferred: Array, beta: float) -> float:
    """β²·(max e − min e)²/8, never below `divergence`.  [Y], [Y]."""
    return float(beta**2 * np.ptp(inferred - human) ** 2 / 8.0)


def expected_divergence(human: Array, distance: Array, beta: float) -> float:
    """(β²/4)·E[d(y₁, y₂)] under p_H: the divergence to leading order.  [Y], d [Y, Y] variances of differences."""
    p = decoded(human, beta)
    return float(beta**2 / 4.0 * (p @ distance @ p))


def label_variance(scale: float) -> float:
    """π²·s²/3: the variance of logistic noise of scale s."""
    return float(np.pi**2 * scale**2 / 3.0)


def graded_labels(reward: Array, pairs: Indices, scale: float, rng: np.random.Generator) -> Array:
    """δ = r(a) − r(b) plus logistic noise: how much better a response was found.  [Y], pairs [n, 2] -> [n].

    Its sign is a Bradley-Terry label: P(δ > 0) = σ((r(a) − r(b))/s).
    """
    return np.asarray(reward[pairs[:, 0]] - reward[pairs[:, 1]] + rng.logistic(0.0, scale, size=len(pairs)))


def inferred_rewards(responses: int, pairs: Indices, labels: Array, variance: Array | float = 1.0) -> Array:
    """The rewards that explain graded labels best: weighted least squares, r(0) = 0.  pairs [n, 2], labels [n] -> [Y].

    Unbiased in all differences, which have the variances of `effective_resistance`. Raises ConfigError when the pairs
    leave the responses in pieces.
    """
    if len(pairs) != len(labels):
        raise ConfigError(f"{len(pairs)} pairs came with {len(labels)} labels. Give one label for each pair.")
    noise = np.broadcast_to(np.asarray(variance, dtype=np.float64), len(pairs))
    spread = covariance(Network(responses, pairs, noise))
    pull = np.zeros(responses)
    np.add.at(pull, pairs[:, 0], labels / noise)
    np.subtract.at(pull, pairs[:, 1], labels / noise)
    return np.asarray(spread @ pull)
