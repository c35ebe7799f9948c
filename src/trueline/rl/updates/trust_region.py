"""Steps in a trust region, as pure functions (Schulman et al. 2015; Achiam et al. 2017; Yang et al. 2020).

Everything is solved in the space that H⁻¹g and H⁻¹b₁ … H⁻¹b_K span: the best step always lies in it. What is left of a
policy of any size is the Gram matrix of the gradients,

    gram = [[q, rᵀ], [r, S]],   q = gᵀH⁻¹g,   r_k = gᵀH⁻¹b_k,   S_jk = b_jᵀH⁻¹b_k,

and a step is x = H⁻¹(a₀·g + Σₖ aₖ·bₖ) with 1 + K coefficients a. The convention is ascent: g is the gradient of what is
to grow, b_k that of a cost, c_k its slack (above 0 where the limit is violated), all per step.

The best step on the intersection of a ball and half-spaces has a closed form for every set of half-spaces that it may
touch, so that the sets are tried one by one (there are 2^K) in place of an iteration.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError

Array = NDArray[np.float64]

MOST_COSTS = 10  # 2^K sets of binding limits are tried
PARALLEL = 1e-12  # eigenvalue of a correlation matrix, the square of an angle, below which gradients count as parallel
TOLERANCE = 1e-9  # of limits and ties, in units of the trust region's radius


# --- the span of the natural gradients ---


class Solved(NamedTuple):
    """Approximate solutions of H x = v for R right-hand sides, and what is left: v − H x.  [R, P] each."""

    x: Tensor
    residual: Tensor


def conjugate_gradient(product: Callable[[Tensor], Tensor], rhs: Tensor, iterations: int) -> Solved:
    """H x = v for every row v of `rhs` [R, P] by conjugate gradients (Hestenes & Stiefel 1952), all rows in step.

    `product` maps [R, P] to [R, P], each row multiplied by the positive definite H. Rows that have converged, or were
    0, stand still.
    """
    x, residual, direction = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
    square = _square(residual)
    enough = 1e-20 * square
    for _ in range(iterations):
        going = square > enough
        if not going.any():
            break
        image = product(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        length = torch.where(going & (curvature > 0.0), square / curvature, 0.0)
        x += length * direction
        residual -= length * image
        before, square = square, _square(residual)
        direction = residual + torch.where(going, square / before, 0.0) * direction
    return Solved(x, residual)


def _square(rows: Tensor) -> Tensor:
    return rows.square().sum(-1, keepdim=True)


class Span(NamedTuple):
    """The subspace of conjugate-gradient solutions, with everything that steps in it need."""

    gradients: Tensor  # [R, P]: v
    gram: Array  # [R, R] of the gradients, in the metric H⁻¹ on the subspace
    rows: Tensor  # [R, P]: H⁻¹ times each gradient, on the subspace

    def step(self, coefficients: Array) -> Tensor:
        """x = Σ aᵢ H⁻¹vᵢ.  [R] -> [P]."""
        return torch.as_tensor(coefficients).to(self.rows) @ self.rows


def span_of(gradients: Tensor, solved: Solved) -> Span:
    """The problem on the subspace of the solutions Y, with H itself on it (Galerkin).  gradients: [R, P].

    A few conjugate-gradient steps leave H y ≠ v. Taking VᵀY for the Gram matrix then lets a step leave the trust region
    and cross its limits; with M = YᵀHY and L = YᵀV the step keeps both exactly, and H Y = V − residual costs nothing.
    Without a residual, M = L = gram. Raises FloatingPointError when anything is not finite.
    """
    y, v = solved.x.double(), gradients.double()
    curvature = (y @ (v - solved.residual.double()).T).numpy()
    linear = (y @ v.T).numpy()
    if not (np.isfinite(curvature).all() and np.isfinite(linear).all()):
        raise FloatingPointError("the policy's gradient or its natural gradient is not finite")
    scale = _unit(np.diagonal(curvature))
    curvature = (curvature + curvature.T) / 2.0 / np.outer(scale, scale)
    inverse = _pseudo_inverse(curvature) / np.outer(scale, scale)
    gram = linear.T @ inverse @ linear
    return Span(gradients, (gram + gram.T) / 2.0, (torch.as_tensor((inverse @ linear).T) @ y).to(solved.x))


def _unit(squares: Array) -> Array:
    """√ of each, 1 where it is 0: what brings a diagonal to one."""
    root = np.sqrt(np.maximum(squares, 0.0))
    unit: Array = np.where(root > 0.0, root, 1.0).astype(np.float64)
    return unit


def _pseudo_inverse(matrices: Array) -> Array:
    """Of symmetric matrices with ones on their diagonals, [..., K, K]."""
    inverse: Array = np.linalg.pinv(matrices, rcond=PARALLEL, hermitian=True).astype(np.float64, copy=False)
    return inverse


# --- steps ---


class Case(IntEnum):
    """How limits and trust region lie to each other; 0 to 3 are the numbers OmniSafe logs for one cost."""

    INFEASIBLE = 0  # no step within the trust region meets every limit: a recovery
    VIOLATED = 1  # a limit is violated now and can be met within the trust region
    CUT = 2  # every limit holds now, and some cut through the trust region
    INSIDE = 3  # the whole trust region keeps every limit
    UNMEASURED = 4  # no episode has ended yet: a step for the reward alone


class Step(NamedTuple):
    """A step and why: x = H⁻¹(g − Σₖ νₖ·bₖ)/λ, except for a recovery, x = −Σₖ νₖ·H⁻¹bₖ with λ = 0."""

    coefficients: Array  # [1 + K]: a
    lam: float  # λ of the trust region; 0 where it does not bind
    nu: Array  # [K] of the limits
    case: Case


def natural_step(gram: Array, delta: float) -> Step:
    """max gᵀx s.t. ½xᵀHx ≤ δ, whatever the costs: x = √(2δ/q)·H⁻¹g, and 0 where g is 0."""
    q = float(gram[0, 0])
    lam = np.sqrt(q / (2.0 * delta))
    coefficients = np.zeros(len(gram))
    coefficients[0] = 1.0 / lam if q > 0.0 else 0.0
    return Step(coefficients, float(lam), np.zeros(len(gram) - 1), Case.UNMEASURED)


def constrained_step(gram: Array, slack: Array, delta: float) -> Step:
    """CPO's step for K costs: max gᵀx s.t. bₖᵀx + cₖ ≤ 0 for every k, and ½xᵀHx ≤ δ.

    gram: [1 + K, 1 + K], slack: c [K]. For a set A of limits that bind, with P the pseudo-inverse of S on A,

        λ = √((q − rᵀPr)/(2δ − cᵀPc)),   ν = P(r + λc),

    and the step is the best of those sets' that keep every limit. Where g is a combination of A's gradients no step
    along the limits gains anything, and the shortest one is taken. Where no step meets every limit, it is the one
    nearest to 0 that would, shortened to the trust region, or, if limits exclude each other, the least squares of what
    is over them. Raises ConfigError for more than 10 costs.
    """
    q, r, s = float(gram[0, 0]), gram[0, 1:], gram[1:, 1:]
    radius, root_q, unit = np.sqrt(2.0 * delta), np.sqrt(max(q, 0.0)), _unit(np.diag(s))
    # Gradients at length one and steps in radii, so that a tolerance means the same whatever the units of costs are.
    cosine, s, c = r / (root_q or 1.0) / unit, s / np.outer(unit, unit), slack / unit / radius
    nearest = projection(s, c)
    if not nearest.met or nearest.square > 1.0 + TOLERANCE:
        nu = nearest.nu / max(1.0, np.sqrt(nearest.square)) * radius / unit
        return Step(np.concatenate([[0.0], -nu]), 0.0, nu, Case.INFEASIBLE)
    inverse = _active_sets(s)
    p_r, p_c = inverse @ cosine, inverse @ c
    along = float(q > 0.0) - p_r @ cosine  # share of g that is left along the limits, squared
    room = 1.0 - p_c @ c  # squared radius of the trust region that is left along them
    ahead = np.where(along > PARALLEL, np.sqrt(np.maximum(room, 0.0) / np.maximum(along, PARALLEL)), 0.0)
    back = ahead[:, None] * p_r + p_c  # of each cost's own direction
    excess = ahead[:, None] * cosine - back @ s + c
    over = np.where(room < -TOLERANCE, np.inf, np.maximum(excess, 0.0).max(-1, initial=0.0))
    gain = ahead * float(q > 0.0) - back @ cosine
    square = ahead**2 * along + 1.0 - room
    lam = np.divide(root_q, ahead * radius, out=np.zeros_like(ahead), where=ahead > 0.0)
    nu = (root_q * p_r + lam[:, None] * radius * p_c) / unit
    # The best that keeps the limits; of equal ones the shortest; of those one with multipliers of the right sign.
    kept = over <= max(float(over.min()), TOLERANCE * (1.0 + float(np.abs(c).max(initial=0.0))))
    kept &= gain >= gain[kept].max() - TOLERANCE
    kept &= square <= square[kept].min() + TOLERANCE
    best = int(np.where(kept, nu.min(-1, initial=0.0), -np.inf).argmax())
    coefficients = radius * np.concatenate([[ahead[best] / (root_q or 1.0)], -back[best] / unit])
    return Step(coefficients, float(lam[best]), nu[best], _case(gram, slack, delta))


def projected_step(gram: Array, slack: Array, delta: float) -> Step:
    """PCPO's step for K costs: the natural step, then the nearest point, in the metric H, with bₖᵀx + cₖ ≤ 0 for all k.

    For one cost √(2δ/q)·H⁻¹g − max(0, (√(2δ/q)·r + c)/s)·H⁻¹b. It may be longer than the trust region where a limit is
    violated.
    """
    step = natural_step(gram, delta)
    ahead = step.coefficients[0]
    nearest = projection(gram[1:, 1:], ahead * gram[0, 1:] + slack)
    case = _case(gram, slack, delta) if nearest.met else Case.INFEASIBLE
    return Step(np.concatenate([[ahead], -nearest.nu]), step.lam, step.lam * nearest.nu, case)


def _case(gram: Array, slack: Array, delta: float) -> Case:
    """For limits that can be met."""
    if (slack > 0.0).any():
        return Case.VIOLATED
    reach = np.sqrt(2.0 * delta * np.diag(gram)[1:])  # the most that a step can add to each cost
    return Case.CUT if ((reach > 0.0) & (slack + reach > 0.0)).any() else Case.INSIDE


# --- the nearest point that keeps linear limits ---


class Projection(NamedTuple):
    """The nearest point y = −Σₖ νₖ·H⁻¹bₖ to 0 that keeps every bₖᵀy + tₖ ≤ 0."""

    nu: Array  # [K]
    square: float  # yᵀHy
    met: bool  # False where limits exclude each other: y is then the least squares of what is over them


def projection(s: Array, excess: Array) -> Projection:
    """min ½νᵀSν − νᵀt over ν ≥ 0, for t = `excess` [K] and S [K, K] the Gram matrix of the limits' gradients.

    Parallel and zero gradients are taken as they come. Raises ConfigError for more than 10 costs.
    """
    unit = _unit(np.diag(s))
    s, t = s / np.outer(unit, unit), excess / unit
    nu = _active_sets(s) @ t
    over = np.maximum(t - nu @ s, 0.0)
    square = nu @ t
    met = over.max(-1, initial=0.0) <= TOLERANCE * (1.0 + np.abs(t).max(initial=0.0))
    if met.any():
        kept = met & (square <= square[met].min() * (1.0 + TOLERANCE))
    else:
        total = np.square(over).sum(-1)
        kept = total <= total.min() * (1.0 + TOLERANCE)
        kept &= square <= square[kept].min() * (1.0 + TOLERANCE)
    best = int(np.where(kept, nu.min(-1, initial=0.0), -np.inf).argmax())
    return Projection(nu[best] / unit, max(float(square[best]), 0.0), bool(met.any()))


def refuse_more_limits(costs: int) -> None:
    """Raises ConfigError for more limits than a step is solved for: every set of them is looked at."""
    if costs > MOST_COSTS:
        raise ConfigError(
            f"a step under {costs} limits was asked for, and at most {MOST_COSTS} are solved for. "
            "Sum some of the costs, or take a recipe with multipliers."
        )


def _active_sets(s: Array) -> Array:
    """The pseudo-inverse of S on every set of limits, 0 elsewhere: [K, K] -> [2^K, K, K], the empty set first."""
    costs = len(s)
    refuse_more_limits(costs)
    chosen = np.array(list(itertools.product([0.0, 1.0], repeat=costs))).reshape(-1, costs)
    return _pseudo_inverse(s * chosen[:, :, None] * chosen[:, None, :])
