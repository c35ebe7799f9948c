"""A constraint handler of one's own, run through the public checker: does it reach the exact optimum?

python examples/check_a_row.py
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.exact.gap import measure_gap
from trueline.rl.handlers.constraint import HandlerState, Weights, mean_cost, normalised, state_of
from trueline.rl.on_policy import Constrained, OnPolicyRecipe


class AugmentedLagrangian(Config):
    """max J_r − Σ_k [(λ_k + ρ(J_ck − d_k))₊² − λ_k²]/2ρ (Hestenes 1969, Powell 1969; Rockafellar 1973 for J_c ≤ d).

    Its slope in J_c is (λ + ρ(J_c − d))₊, the weight of a cost; λ follows more slowly than the method's own step would
    have it, since the policy is not at its maximum for the present λ.
    """

    kind: Literal["augmented-lagrangian"] = "augmented-lagrangian"
    rho: float = Field(0.3, gt=0)  # ρ
    rate: float = Field(0.07, gt=0, le=1)  # share of the step ρ(J_c − d) that λ takes, per update
    init: float = Field(0.5, ge=0)  # λ₀

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:
        first = torch.full((costs,), self.init) if multiplier is None else multiplier
        return state_of(slow=first, multiplier=first)

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        if len(episode_cost) == 0:
            return state
        step = self.rho * (mean_cost(episode_cost) - limit)
        slow = (state["slow"] + self.rate * step).clamp_min(0.0)
        return {"slow": slow, "multiplier": (slow + step).clamp_min(0.0)}

    def weights(self, state: HandlerState) -> Weights:
        return normalised(state["multiplier"])


class MyConstrained(Constrained):
    constraint: AugmentedLagrangian = AugmentedLagrangian()


ROW = OnPolicyRecipe("ppo-augmented-lagrangian", MyConstrained)

if __name__ == "__main__":
    gap = measure_gap(ROW, instances=["Gamble", "Tolls", "Garnet4"])
    print(gap.table())
    raise SystemExit(not gap.passed)
