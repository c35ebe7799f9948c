"""Lagrange multipliers by dual ascent (Ray, Achiam & Amodei 2019)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.handlers.constraint import HandlerState, Weights, mean_cost, normalised, state_of

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's own constants (Kingma & Ba 2015)


class Lagrangian(Config):
    """λ ← max(0, λ + step(J_C − d)), one multiplier per cost.

    `adam` takes Adam's step on −λ(J_C − d), which is what the published 0.035 means: plain ascent (`sgd`) at the same
    number is another method, some forty times faster. `log-sgd` ascends in log λ (safe RLHF, with lr 0.1 and upper 5):
    its step grows with λ itself, so it needs init > 0 and an upper bound, and goes on from a multiplier that another
    training left no lower than init: one that was carried over as 0 would stay there, whatever the costs.
    """

    kind: Literal["lagrangian"] = "lagrangian"
    rule: Literal["adam", "sgd", "log-sgd"] = "adam"
    lr: float = Field(0.035, gt=0)  # per update of λ, not per gradient step
    init: float = Field(0.001, ge=0)  # λ₀
    upper: float | None = Field(None, gt=0)  # λ_max

    @model_validator(mode="after")
    def _log_needs_a_start(self) -> Self:
        if self.rule == "log-sgd" and self.init == 0.0:
            raise ValueError("rule 'log-sgd' never leaves a multiplier of 0: give an init above 0")
        if self.rule == "log-sgd" and self.upper is None:
            raise ValueError("rule 'log-sgd' grows without bound: give an upper, such as 5")
        return self

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:
        """λ₀ for K costs (or the given ones; under log-sgd no lower than λ₀), with Adam's moments."""
        zeros = torch.zeros(costs, dtype=torch.float64)
        start = zeros + self.init if multiplier is None else multiplier
        if self.rule == "log-sgd":
            start = start.clamp(min=self.init)
        return state_of(multiplier=start.clamp(0.0, self.upper), first=zeros, second=zeros, updates=0.0)

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        """One dual step from E episodes [E, K]."""
        if len(episode_cost) == 0:
            return state
        excess = mean_cost(episode_cost) - limit.to(torch.float64)
        multiplier, first, second = state["multiplier"], state["first"], state["second"]
        updates = state["updates"] + 1.0
        if self.rule == "sgd":
            multiplier = multiplier + self.lr * excess
        elif self.rule == "log-sgd":
            # d(λ·excess)/d(log λ) = λ·excess: a small multiplier moves slowly, a large one fast.
            multiplier = multiplier * torch.exp(self.lr * multiplier * excess)
        else:
            first = BETA_1 * first + (1.0 - BETA_1) * excess
            second = BETA_2 * second + (1.0 - BETA_2) * excess.square()
            unbiased_1 = first / (1.0 - BETA_1**updates)
            unbiased_2 = second / (1.0 - BETA_2**updates)
            multiplier = multiplier + self.lr * unbiased_1 / (unbiased_2.sqrt() + EPSILON)
        multiplier = multiplier.clamp(0.0, self.upper)
        return {"multiplier": multiplier, "first": first, "second": second, "updates": updates}

    def weights(self, state: HandlerState) -> Weights:
        """1/(1 + Σλ), λ/(1 + Σλ)."""
        return normalised(state["multiplier"])
