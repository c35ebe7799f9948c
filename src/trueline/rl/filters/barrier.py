"""Control barrier functions: a filter for systems that are affine in their action (Ames, Xu, Grizzle & Tabuada 2017).

    x' = f(x) + g(x)u,  safe where every hₘ(x) ≥ 0,  u keeps it so if  L_f hₘ + L_g hₘ·u ≥ −α·hₘ  for all m

The condition is linear in u, so that the nearest safe action is a projection. It is a statement about continuous time:
an action that is held for a step of Δt may leave the set by an amount of order Δt, and from outside the filter drives
back.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.rl.env import Obs
from trueline.rl.filters.projection import Array, Constraints, Projected, project

__all__ = ["Barrier", "BarrierTerms", "WallBarrier", "barrier_constraints"]


class BarrierTerms(NamedTuple):
    """Barrier functions at N states, and how they change along the dynamics."""

    h: Array  # [N, M] safe where ≥ 0
    drift: Array  # [N, M] L_f h
    gain: Array  # [N, M, A] L_g h, for actions in [−1, 1]


class Barrier(Protocol):
    """Anything that knows barrier functions of what a policy observes."""

    def terms(self, obs: Obs) -> BarrierTerms:
        """h, L_f h and L_g h at N observations."""
        ...


def barrier_constraints(terms: BarrierTerms, rate: float) -> Constraints:
    """−L_g h·u ≤ L_f h + α·h.  rate: α in 1/s, how fast the edge of the safe set may be approached."""
    return Constraints(-terms.gain, terms.drift + rate * terms.h)


class WallBarrier(Config):
    """A point mass between walls: x' = v, v' = ā·u on each axis, |x| ≤ extent.

    Braking with all it has, it stops within v²/(2ā). It is safe exactly where it stops before the wall ahead, so that
    the safe set is known and no larger one exists:

        h± = √(2ā·d±) ∓ v,   d± = extent ∓ x,   L_f h± = ∓ā·v/√(2ā·d±),   L_g h± = ∓ā

    `position` and `velocity` are columns of the flat observation, axis by axis. |L_f h| is cut at ā: within the safe
    set that changes no decision, and at the wall itself the quotient is 0/0.
    """

    kind: Literal["walls"] = "walls"
    position: tuple[int, ...]
    velocity: tuple[int, ...]
    extent: float = Field(gt=0)  # m
    acceleration: float = Field(gt=0)  # ā at u = 1, m/s²
    rate: float = Field(5.0, gt=0)  # α, 1/s

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.position) != len(self.velocity) or not self.position:
            raise ValueError(
                f"there are {len(self.position)} columns of positions and {len(self.velocity)} of velocities. "
                "Give one of each per axis."
            )
        if min(self.position + self.velocity) < 0:
            raise ValueError("a column is below 0. Count the columns of the flat observation from 0.")
        return self

    def terms(self, obs: Obs) -> BarrierTerms:
        """Two functions per axis: the wall ahead first, then the one behind."""
        rows = np.asarray(obs, dtype=np.float64)
        x, v, top = rows[:, list(self.position)], rows[:, list(self.velocity)], self.acceleration
        axes = x.shape[1]
        gain = np.zeros((len(rows), 2 * axes, axes))
        h, drift = np.zeros((2, len(rows), 2 * axes))
        for at, sign in ((0, 1.0), (1, -1.0)):
            reach = np.sqrt(2.0 * top * np.maximum(self.extent - sign * x, 0.0))  # the speed it can still brake from
            ahead = sign * v
            h[:, at::2] = reach - ahead
            slope = np.where(reach > 0.0, top * ahead / np.where(reach > 0.0, reach, 1.0), top * np.sign(ahead))
            drift[:, at::2] = -np.clip(slope, -top, top)
            gain[:, np.arange(axes) * 2 + at, np.arange(axes)] = -sign * top
        return BarrierTerms(h, drift, gain)

    def safe(self, obs: Obs) -> NDArray[np.bool_]:
        """[N] whether the state is one from which the walls can be avoided."""
        return np.asarray((self.terms(obs).h >= 0.0).all(axis=1))

    def __call__(self, obs: Obs, action: NDArray[np.floating]) -> Projected:
        """The nearest action that keeps clear of the walls."""
        return project(action, barrier_constraints(self.terms(obs), self.rate))
