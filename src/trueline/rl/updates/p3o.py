"""Penalised PPO: an exact penalty on the violation in place of a multiplier (Zhang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.rl.adam import FlatAdam
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic
from trueline.rl.updates.ppo import MinibatchPasses, PassesReport, ascend
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.surrogate import clipped_surrogate


def exact_penalty(ratio: Tensor, advantage_c: Tensor, slack: Tensor, kappa: float, clip: float) -> Tensor:
    """κ·Σₖ max(0, mean max((ρ − 1)A_cₖ, (clip(ρ) − 1)A_cₖ) + slackₖ).  ratio [...], advantage_c [..., K], slack [K].

    The cost's surrogate is clipped as the reward's is, on its pessimistic side: without that a violated limit would
    drive ρ on without end wherever A_c is negative, as it does in OmniSafe.

    slackₖ is (J_Cₖ − dₖ) per step, as the mean is; nan, as long as no episode has ended, is no penalty. The paper
    writes ρA_c for (ρ − 1)A_c. A_c is centred over the batch, so that over it both are one number; over a minibatch
    ρA_c has the mean of the rows it happened to draw, which is larger than a slack per step and decides at random
    whether there is a penalty.
    """
    moved = (ratio - 1.0)[..., None] * advantage_c
    change = torch.maximum(moved, (ratio.clamp(1.0 - clip, 1.0 + clip) - 1.0)[..., None] * advantage_c)
    return kappa * torch.relu(change.flatten(0, -2).mean(dim=0) + slack.nan_to_num(-torch.inf)).sum()


class P3o(MinibatchPasses):
    """Passes on the clipped surrogate of the reward less the penalty.

    The penalty problem max J_r − κ'·Σ(J_c − d)₊ has the constrained optimum exactly when κ' ≥ λ*ₖ for every cost. The
    reward's advantage is divided by its deviation σ_r over the batch and the cost's is not, both are per step, so that
    κ' = κ·σ_r in reward per cost: κ ≥ max λ*/σ_r is needed, and σ_r falls as a policy settles.
    """

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "slack"

    kappa: float = Field(20.0, gt=0)  # κ: deviations of the reward's advantage per unit of cost
    clip: float = Field(0.2, gt=0, lt=1)  # ε of the surrogates of reward and costs

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[SlackAdvantage], progress: float, rng: torch.Generator
    ) -> PassesReport:
        """Passes on surrogate − penalty."""
        self.set_rates(adam, progress)
        reward, cost, slack = batch.advantage

        def objective(policy: Distribution, rows: Tensor) -> Tensor:
            log_prob, old = policy.log_prob(batch.draw[rows]), batch.log_prob[rows]
            surrogate = clipped_surrogate(log_prob, old, reward[rows], self.clip).mean()
            ratio = (log_prob - old).exp()
            return surrogate - exact_penalty(ratio, cost[rows], slack, self.kappa, self.clip)

        return ascend(self, network, adam, batch, objective, rng, shared=False)  # a penalty of a mean
