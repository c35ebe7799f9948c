"""The nearest action under linear constraints: what every filter of this package comes down to.

    min ½‖u − a‖²  s.t.  gₖᵀu ≤ bₖ for k = 1 … K,  −1 ≤ u ≤ 1

A world clips what it is given to [−1, 1], so that the box belongs to the problem: a projection that leaves it would be
clipped afterwards, to an action that nobody has checked. N rows are solved at once where one constraint alone decides;
the others are least-distance problems of a few numbers each, solved exactly by non-negative least squares (Lawson &
Hanson 1974, chapter 23).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Constraints", "Projected", "project", "safety_layer"]

Array = NDArray[np.float64]

TOLERANCE = 1e-9  # by which a constraint of unit gradient may be missed: rounding, not danger


class Constraints(NamedTuple):
    """What an action u has to keep: gₖᵀu ≤ bₖ."""

    gradient: Array  # [N, K, A]
    bound: Array  # [N, K]


class Projected(NamedTuple):
    """Actions after a filter."""

    action: Array  # [N, A]
    intervened: NDArray[np.bool_]  # [N] whether the action was changed
    feasible: NDArray[
        np.bool_
    ]  # [N] whether any action in the box keeps every constraint; else the least bad was taken


def safety_layer(action: Array, gradient: Array, excess: Array) -> Array:
    """The safety layer's closed form for at most one active constraint (Dalal et al. 2018, equation 6).

    λₖ = [(gₖᵀa + eₖ)/(gₖᵀgₖ)]₊,  u = a − λᵢgᵢ for the i of the largest λ.

    action [N, A], gradient [N, K, A], excess [N, K]: e = c(s) − C, what the signal already is above its limit. The box
    of actions is not regarded; `project` is exact for several constraints and within the box.
    """
    square = np.maximum((gradient**2).sum(axis=-1), np.finfo(np.float64).tiny)
    multiplier = np.maximum(((gradient @ action[:, :, None])[..., 0] + excess) / square, 0.0)
    rows = np.arange(len(action))
    worst = multiplier.argmax(axis=1)
    moved: Array = action - multiplier[rows, worst, None] * gradient[rows, worst]
    return moved


def project(action: NDArray[np.floating], constraints: Constraints) -> Projected:
    """The nearest action in the box that keeps every constraint, to the action as the world would clip it.

    action [N, A]. Where no action keeps them all, the one of least Σₖ(gₖᵀu − bₖ)₊², gradients scaled to length 1, is
    taken, and the row is marked.
    """
    wanted = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
    g, b = _unit(constraints)
    violated = ~_kept(wanted, g, b)
    result, feasible = wanted.copy(), np.ones(len(wanted), np.bool_)
    open_rows = np.flatnonzero(violated)
    if len(open_rows):
        solved = _by_one_constraint(wanted, g, b, open_rows, result)
        for row in open_rows[~solved]:
            result[row], feasible[row] = _least_distance(wanted[row], g[row], b[row])
    return Projected(result, violated, feasible)


def _unit(constraints: Constraints) -> tuple[Array, Array]:
    """Gradients of length 1, so that bounds are distances. A gradient of 0 says nothing of u, only of its bound."""
    g, b = np.asarray(constraints.gradient, np.float64), np.asarray(constraints.bound, np.float64)
    length = np.linalg.norm(g, axis=-1)
    scale = np.where(length > 0.0, length, 1.0)
    return g / scale[..., None], b / scale


def _kept(action: Array, g: Array, b: Array) -> NDArray[np.bool_]:
    """[N] whether actions [N, A] keep everything, the box too."""
    kept = ((g @ action[:, :, None])[..., 0] <= b + TOLERANCE).all(axis=1)
    return np.asarray(kept & (np.abs(action) <= 1.0 + TOLERANCE).all(axis=1))


def _by_one_constraint(wanted: Array, g: Array, b: Array, rows: NDArray[np.intp], into: Array) -> NDArray[np.bool_]:
    """Writes the rows that one constraint decides; returns which of `rows` those are.

    The nearest point of one half-space is the nearest of all half-spaces where it lies in them all.
    """
    solved = np.zeros(len(rows), np.bool_)
    a, g, b = wanted[rows], g[rows], b[rows]
    for k in range(g.shape[1]):
        excess = (g[:, k] * a).sum(axis=1) - b[:, k]
        candidate = a - np.maximum(excess, 0.0)[:, None] * g[:, k]
        good = ~solved & (excess > 0.0) & _kept(candidate, g, b)
        into[rows[good]] = candidate[good]
        solved |= good
    return solved


def _least_distance(a: Array, g: Array, b: Array) -> tuple[Array, bool]:
    """One row: min ‖x‖ s.t. Gx ≥ h for x = u − a, by non-negative least squares on [Gᵀ; hᵀ]y ≈ (0, …, 0, 1).

    Its residual r gives x = −r₁…ₙ/rₙ₊₁, with ‖r‖² = 1/(1 + ‖x‖²); it is 0 exactly where no x exists.
    """
    from scipy.optimize import nnls

    width = len(a)
    sides = np.concatenate([-g, np.eye(width), -np.eye(width)])
    h = np.concatenate([g @ a - b, -1.0 - a, a - 1.0])
    e = np.vstack([sides.T, h])
    target = np.zeros(width + 1)
    target[-1] = 1.0
    y, _ = nnls(e, target)
    r = e @ y - target
    # No x in the box is longer than 2√A, so that a residual this small belongs to none.
    if r @ r < 0.5 / (1.0 + 4.0 * width):
        return _least_violation(g, b), False
    return np.clip(a - r[:-1] / r[-1], -1.0, 1.0), True


def _least_violation(g: Array, b: Array) -> Array:
    """min Σ(gₖᵀu − bₖ)₊² in the box: least squares of Gu + s − b with slacks s ≥ 0."""
    from scipy.optimize import lsq_linear

    k, width = g.shape
    low = np.concatenate([np.full(width, -1.0), np.zeros(k)])
    high = np.concatenate([np.ones(width), np.full(k, np.inf)])
    found = lsq_linear(np.hstack([g, np.eye(k)]), b, bounds=(low, high), method="bvls")
    action: Array = np.clip(found.x[:width], -1.0, 1.0)
    return action
