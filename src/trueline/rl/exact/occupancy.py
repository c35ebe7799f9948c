"""Linear programmes over the occupancies of a finite-horizon CMDP.

Over policies of a horizon H the occupancies ρ_t(s, a) form a polytope,

    Σ_a ρ_0(s, a) = start(s),    Σ_a ρ_t(s, a) = Σ_{s', a'} ρ_{t−1}(s', a') P(s | s', a'),    ρ ≥ 0,

return and expected costs are linear in ρ, and π_t(a | s) = ρ_t(s, a)/Σ_a ρ_t(s, a) attains it (Altman 1999, ch. 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from trueline.core.errors import ConfigError
from trueline.rl.exact.cmdp import Array, Cmdp

__all__ = ["TOLERANCE", "Infeasible", "Slacks", "Solution", "cost_rows", "maximise", "policy_of", "shown"]

TOLERANCE = 1e-10  # of the simplex method, primal and dual: the smallest it takes


class Infeasible(ConfigError):
    """No policy meets the limits of a problem."""


class Slacks(NamedTuple):
    """E further variables of a programme."""

    objective: Array  # [E]
    rows: Array  # [M, E] their coefficients in each inequality
    lower: Array  # [E]


class Solution(NamedTuple):
    """An optimal vertex."""

    value: float
    occupancy: Array  # [H, S, A]
    multipliers: Array  # [M] of the inequalities, 0 or more
    slacks: Array  # [E]


def maximise(
    cmdp: Cmdp,
    objective: Array,
    rows: Array,
    limits: Sequence[float] | Array,
    allowed: NDArray[np.bool_] | None = None,
    slacks: Slacks | None = None,
) -> Solution:
    """max Σ ρ·objective over occupancies with Σ ρ·rows_m ≤ limits_m, by HiGHS.

    objective [H, S, A] or what broadcasts to it, rows [M, H, S, A], limits [M]; `allowed` [H, S, A] marks the pairs
    that may be visited. Raises Infeasible.
    """
    shape = (cmdp.horizon, cmdp.states, cmdp.actions)
    pairs = math.prod(shape)
    flow, source = _flow(cmdp)
    upper = (
        np.full(pairs, np.inf) if allowed is None else np.where(np.broadcast_to(allowed, shape), np.inf, 0.0).ravel()
    )
    c = -np.broadcast_to(objective, shape).ravel()
    inequalities = sparse.csr_array(rows.reshape(len(rows), pairs))
    lower = np.zeros(pairs)
    if slacks is not None:
        count = len(slacks.objective)
        c, lower = np.concatenate([c, -slacks.objective]), np.concatenate([lower, slacks.lower])
        upper = np.concatenate([upper, np.full(count, np.inf)])
        inequalities = sparse.hstack([inequalities, sparse.csr_array(slacks.rows)], format="csr")
        flow = sparse.hstack([flow, sparse.csr_array((flow.shape[0], count))], format="csr")
    found = linprog(
        c,
        A_ub=inequalities if len(rows) else None,
        b_ub=limits if len(rows) else None,
        A_eq=flow,
        b_eq=source,
        bounds=np.column_stack([lower, upper]),
        method="highs",
        options={"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE},
    )
    if found.status == 2:
        raise Infeasible(f"no policy of {cmdp.name!r} meets the limits {shown(limits)}. Give higher ones.")
    assert found.status == 0, found.message
    multipliers = np.maximum(0.0, -found.ineqlin.marginals) if len(rows) else np.zeros(0)
    return Solution(-float(found.fun), found.x[:pairs].reshape(shape).clip(0.0), multipliers, found.x[pairs:])


def _flow(cmdp: Cmdp) -> tuple[sparse.csr_array, Array]:
    """The equations of the occupancy polytope, and their right-hand side."""
    h, s, a = cmdp.horizon, cmdp.states, cmdp.actions
    leaving = sparse.kron(sparse.eye_array(s), np.ones((1, a)))  # Σ_a ρ_t(s, a)
    arriving = sparse.csr_array(cmdp.transition.reshape(s * a, s).T)  # Σ ρ_{t−1} P
    flow = sparse.kron(sparse.eye_array(h), leaving) - sparse.kron(sparse.eye_array(h, k=-1), arriving)
    return sparse.csr_array(flow), np.concatenate([cmdp.start, np.zeros((h - 1) * s)])


def policy_of(occupancy: Array, allowed: NDArray[np.bool_] | None = None) -> Array:
    """π_t(a | s) = ρ_t(s, a)/Σ_a ρ_t(s, a), [H, S, A]; the same chance for each allowed action where nobody comes."""
    visits = occupancy.sum(-1, keepdims=True)
    open_ = np.ones(occupancy.shape) if allowed is None else np.broadcast_to(allowed, occupancy.shape).astype(float)
    open_ = np.where(open_.any(-1, keepdims=True), open_, 1.0)
    even = open_ / open_.sum(-1, keepdims=True)
    return np.where(visits > TOLERANCE, occupancy / np.maximum(visits, TOLERANCE), even)


def cost_rows(cmdp: Cmdp) -> Array:
    """Each cost as a row of a programme, [K, H, S, A]."""
    rows = cmdp.cost.transpose(2, 0, 1)[:, None]
    return np.broadcast_to(rows, (len(cmdp.costs), cmdp.horizon, cmdp.states, cmdp.actions))


def shown(limits: Sequence[float] | Array) -> str:
    """Limits in an error."""
    return ", ".join(f"{limit:.6g}" for limit in limits)
