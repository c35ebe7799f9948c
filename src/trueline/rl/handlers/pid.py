"""PID-controlled multipliers (Stooke, Achiam & Abbeel 2020, algorithm 2)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.handlers.constraint import HandlerState, Weights, mean_cost, normalised, state_of


class PidLagrangian(Config):
    """λ = max(0, k_p·P + I + k_d·∂): smoothed excess, its integral, and the rise of the smoothed cost.

    Δ = (J_C − d)/scale;  P ← αP + (1 − α)Δ;  I ← clamp(I + k_i·Δ, 0, i_max);  ∂ = max(0, C̄ now − C̄ `delay` ago)/scale,
    where before `delay` updates the first C̄ stands in.
    The published settings use scale 1; a scale makes gains carry over between limits.
    """

    kind: Literal["pid"] = "pid"
    kp: float = Field(0.1, ge=0)
    ki: float = Field(0.01, ge=0)  # per update
    kd: float = Field(0.01, ge=0)
    smoothing: float = Field(0.95, ge=0, lt=1)  # α, of P and of the cost whose rise is measured
    delay: int = Field(10, ge=1)  # updates over which a rise is measured
    scale: float = Field(1.0, gt=0)  # cost units that count as an excess of one
    init: float = Field(0.0, ge=0)  # I₀
    integral_max: float | None = Field(None, gt=0)

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:
        """I₀ for K costs (or the given multipliers) and an empty history."""
        zeros = torch.zeros(costs, dtype=torch.float64)
        first = zeros + self.init if multiplier is None else multiplier
        return state_of(
            integral=first,
            proportional=zeros,
            smooth_cost=zeros,
            history=torch.full((self.delay, costs), torch.nan),
            multiplier=first,
            updates=0.0,
        )

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        """One controller step from E episodes [E, K]."""
        if len(episode_cost) == 0:
            return state
        cost = mean_cost(episode_cost)
        excess = (cost - limit.to(torch.float64)) / self.scale
        first = bool(state["updates"] == 0)
        proportional = self.smoothing * state["proportional"] + (1.0 - self.smoothing) * excess
        # The first measurement starts the cost's average: from zero it would report a rise that never happened.
        blend = 0.0 if first else self.smoothing
        smooth_cost = blend * state["smooth_cost"] + (1.0 - blend) * cost
        integral = (state["integral"] + self.ki * excess).clamp(0.0, self.integral_max)
        history = torch.cat([state["history"], smooth_cost[None]])
        earlier = history[int(history[:, 0].isnan().sum())]  # the oldest there is
        rise = ((smooth_cost - earlier) / self.scale).clamp_min(0.0)
        multiplier = (self.kp * proportional + integral + self.kd * rise).clamp_min(0.0)
        return {
            "integral": integral,
            "proportional": proportional,
            "smooth_cost": smooth_cost,
            "history": history[1:],
            "multiplier": multiplier,
            "updates": state["updates"] + 1.0,
        }

    def weights(self, state: HandlerState) -> Weights:
        """1/(1 + Σλ), λ/(1 + Σλ)."""
        return normalised(state["multiplier"])
