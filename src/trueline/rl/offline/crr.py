"""Critic-regularised regression (Wang et al. 2020), alone and under multipliers (C-CRR).

y_r = r + γ E_{a'~π} min_j Q'_j(s', a'),   y_c = c + γ_c E_{a'~π} Q'_c(s', a')
A = Q(s, a) − E_{a'~π} Q(s, a'),   policy ascends  E_data[ min(exp((A_r − Σλ_k A_ck)/β), w_max)·log π(a | s) ]

On enough data the policy is the fixed point π ∝ μ·exp((Q_r − ΣλQ_c)/β) of the behaviour μ: it stays within the data's
support, and comes near to the best there as β falls.

Departures from OmniSafe 0.5.0:

1. Each cost has a critic of its own, trained on that cost, and its advantage is measured against that critic's own
   mean. The original's C-CRR steps its reward critic on the costs' targets and never trains its cost critic.
2. λ multiplies the cost's advantage by itself. Divided by 1 + Σλ, as elsewhere, the temperature would rise with λ.
3. The weight is capped (w_max, Wang et al.), which the original's is not.
4. Of a discrete choice the means over π are exact.
"""

# ruff: noqa: ARG002  (one signature for all updates, of which each has its own use)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.distributions import Choices
from trueline.rl.off_policy.networks import ActorQ, Learner, QPolicy, pessimistic, td_target
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.off_policy.sac import expected
from trueline.rl.offline.behaviour_cloning import all_rows, cloning_loss, q_policy
from trueline.rl.offline.data import OfflineData
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec


def regression_weight(advantage: Tensor, multiplier: Tensor, beta: float, most: float) -> Tensor:
    """min(exp((A_r − Σ_k λ_k A_ck)/β), w_max): A [B, 1 + K], λ [K] -> [B]."""
    mixed = advantage[:, 0] - advantage[:, 1:] @ multiplier.to(advantage)
    return (mixed / beta).exp().clamp_max(most)


class Crr(Config):
    """Gradient steps of CRR; the defaults are OmniSafe's."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("reward", "weights")
    twins: ClassVar[int] = 2

    batch: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)  # of the policy
    critic_lr: float = Field(1e-3, gt=0)
    polyak: float = Field(0.005, gt=0, le=1)  # share by which the slow copies follow
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    beta: float = Field(1.0, gt=0)  # β, the temperature
    actions: int = Field(10, ge=1)  # draws of the policy for its mean value, of continuous actions
    weight_max: float = Field(20.0, gt=0)  # w_max

    def learner(self, plan: Plan, rng: torch.Generator) -> Learner:
        """Policy, critics, slow copies."""
        network = ActorQ(plan.observation, plan.action, plan.shape(self.twins), rng)
        return Learner(network, self.lr, self.critic_lr)

    def policy(
        self,
        learner: Learner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> QPolicy:
        """The regression."""
        return q_policy(learner, observation, world, kept, parent)

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[np.int64]:
        """All."""
        return all_rows(data, limit)

    def learn(
        self,
        learner: Learner,
        batch: Transitions,
        first: Tensor,
        terms: Terms,
        rng: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """One step of the critics and one of the policy."""
        after = policy_value(learner, batch.after, self.twins, 1, rng, slow=True)
        target = td_target(batch.signal, batch.discount, after)
        inputs, taken = inputs_of(learner, batch)
        report = {"critic_loss": learner.fit_critics(inputs, target, self.grad_norm, taken)}
        q = learner.critics.forward(inputs)
        chosen = q[..., 0] if taken is None else q.gather(-1, taken.expand(len(q), -1)[..., None])[..., 0]
        value = policy_value(learner, batch.obs, self.twins, self.actions, rng, slow=False)
        weight = regression_weight(
            pessimistic(chosen.T, self.twins) - value, terms.multiplier, self.beta, self.weight_max
        )
        report["policy_loss"] = learner.improve_policy(
            batch.obs, lambda policy: cloning_loss(policy, batch.action, weight), self.grad_norm
        )
        report["weight"] = weight.mean()
        learner.follow(self.polyak)
        return report

    def cost_at(self, learner: Learner, obs: Tensor, rng: torch.Generator) -> Tensor:
        """E_π Q_c(s, ·)."""
        return policy_value(learner, obs, self.twins, self.actions, rng, slow=False)[:, 1:]


def inputs_of(learner: Learner, batch: Transitions) -> tuple[Tensor, Tensor | None]:
    """What the critics read of a batch, and the option taken where actions are discrete."""
    if learner.network.action.kind == "choices":
        return batch.obs, batch.action[:, 0].long()
    return torch.cat([batch.obs, batch.action], dim=1), None


def policy_value(learner: Learner, obs: Tensor, twins: int, draws: int, rng: torch.Generator, slow: bool) -> Tensor:
    """E_{a~π} (min_j Q_j, Q_c)(s, a), [B, 1 + K]: exact of a choice, else of draws; slow: of the copies."""
    critics = learner.target_critics.passes if slow else learner.critics
    policy = learner.policy(obs)
    if isinstance(policy, Choices):
        return expected(pessimistic(critics.forward(obs).permute(1, 2, 0), twins), policy)
    many = obs.repeat(draws, 1)
    policy = learner.policy(many)
    action = policy.to_action(policy.sample(rng))
    q = pessimistic(critics.forward(torch.cat([many, action], dim=1))[..., 0].T, twins)
    return q.view(draws, len(obs), -1).mean(0)
