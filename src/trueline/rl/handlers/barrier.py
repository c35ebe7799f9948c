"""The logarithmic barrier of interior-point policy optimisation (Liu, Ding & Liu 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.handlers.constraint import HandlerState, Weights, mean_cost, normalised, state_of


class Barrier(Config):
    """λ = κ/(d − J_C), one per cost: what the gradient of J_r + κ·Σ log(d − J_C) weighs a cost with.

    Where a limit is reached or nearly so, and the barrier has no or too steep a slope, λ is `penalty_max`: outside the
    limits the policy descends a penalty of that slope, so that it comes back only if that is above the reward's.
    """

    kind: Literal["barrier"] = "barrier"
    kappa: float = Field(0.01, gt=0)  # κ: reward by which the optimum stays inside its limits, 1/t of the paper
    penalty_max: float = Field(1.0, gt=0)  # λ_max: reward per cost

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:
        """No weight on K costs before one has been measured (or the given weights)."""
        first = torch.zeros(costs, dtype=torch.float64) if multiplier is None else multiplier
        return state_of(multiplier=first.clamp(0.0, self.penalty_max))

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        """The barrier's slopes at the mean of E episodes [E, K]."""
        if len(episode_cost) == 0:
            return state
        inside = limit.to(torch.float64) - mean_cost(episode_cost)
        slope = torch.where(inside > 0.0, self.kappa / inside, torch.inf)
        return {"multiplier": slope.clamp_max(self.penalty_max)}

    def weights(self, state: HandlerState) -> Weights:
        """1/(1 + Σλ), λ/(1 + Σλ)."""
        return normalised(state["multiplier"])
