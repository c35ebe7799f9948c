"""Switching between reward and cost, as constraint-rectified policy optimisation does (Xu, Liang & Lan 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.handlers.constraint import HandlerState, Weights, mean_cost, state_of


class Switching(Config):
    """The reward alone while every J_C ≤ d + distance, else the one cost with the largest J_C − d alone.

    The paper takes any violated cost; the largest excess (the first of equal ones) makes the choice a rule. The state's
    `multiplier` is 1 at that cost and 0 elsewhere: an indicator, of no use to the start of another training.
    """

    kind: Literal["switching"] = "switching"
    distance: float = Field(2.0, ge=0)  # tolerance, in units of cost per episode

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:  # noqa: ARG002
        """The reward alone, for K costs. A switch remembers nothing, so no multiplier takes it further."""
        return state_of(multiplier=torch.zeros(costs))

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        """Where the mean of E episodes [E, K] puts the switch."""
        if len(episode_cost) == 0:
            return state
        excess = mean_cost(episode_cost) - limit.to(torch.float64)
        chosen = torch.zeros_like(excess)
        if len(excess) and excess.max() > self.distance:
            chosen[excess.argmax()] = 1.0
        return {"multiplier": chosen}

    def weights(self, state: HandlerState) -> Weights:
        """(1, 0) or (0, eₖ)."""
        chosen = state["multiplier"]
        return Weights(1.0 - chosen.sum(), chosen)
