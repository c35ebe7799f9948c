"""A constraint handler as a plug-in: trueline train ppo-augmented env=Cmdp-Gamble-v0 --import own_handler

max J_r − Σ_k [(λ_k + ρ(J_ck − d_k))₊² − λ_k²]/2ρ (Hestenes 1969; Rockafellar 1973 for J_c ≤ d): the weight of a cost is
the slope (λ + ρ(J_c − d))₊. λ takes a share of the method's own step: the policy is not at its maximum for this λ.
"""

import torch

from trueline.core.config import Config
from trueline.core.registry import Entry
from trueline.rl.handlers.constraint import mean_cost, normalised, state_of
from trueline.rl.on_policy import Constrained, OnPolicyRecipe


class Augmented(Config):
    rho: float = 0.3
    rate: float = 0.07  # share of the step ρ(J_c − d) that λ takes, per update

    def start(self, costs, multiplier=None):
        first = torch.full((costs,), 0.5) if multiplier is None else multiplier  # λ₀
        return state_of(slow=first, multiplier=first)

    def update(self, state, episode_cost, limit):
        if len(episode_cost) == 0:
            return state
        step = self.rho * (mean_cost(episode_cost) - limit)
        slow = (state["slow"] + self.rate * step).relu()
        return {"slow": slow, "multiplier": (slow + step).relu()}

    def weights(self, state):
        return normalised(state["multiplier"])


class Limited(Constrained):
    constraint: Augmented = Augmented()


ROW = OnPolicyRecipe("ppo-augmented", Limited)
ENTRIES = (Entry("recipe", "ppo-augmented", "own_handler:ROW", "PPO under an augmented Lagrangian"),)
