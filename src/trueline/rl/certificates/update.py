"""Soft actor-critic behind a certificate: reward where an action is certain, the way back where it is not.

    policy ascends  min_j Q_j(s, a) − α log π(a|s)  where U(s, a) ≤ 0,   −κU(s, a) − α log π(a|s)  elsewhere
    y = r + γ(min_j Q'_j(s', ã') − α log π(a'|s')),   a' ~ π(·|s'),  ã' what is done of it

The gradient of the second case leads an action back to what is certain; the paper's constant below every Q has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.certificates.certificate import Core
from trueline.rl.distributions import Distribution
from trueline.rl.handlers.constraint import unconstrained
from trueline.rl.off_policy.networks import ActorQ, Learner, td_target
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.off_policy.sac import policy_loss, soft_value

__all__ = ["TWINS", "CertifiedSac", "certain_value"]

TWINS = 2  # critics of the reward


def certain_value(q: Tensor, risk: Tensor, weight: float) -> Tensor:
    """Q where U ≤ 0, −κU elsewhere: Q [B, H], U [B], κ = weight -> [B, H]."""
    return torch.where(risk[:, None] > 0.0, -weight * risk[:, None], q)


class CertifiedSac(Config):
    """Gradient steps of policy and critics."""

    batch: int = Field(128, ge=1)
    lr: float = Field(2e-3, gt=0)  # of the policy
    critic_lr: float = Field(2e-3, gt=0)
    polyak: float = Field(0.02, gt=0, le=1)  # share by which the slow copies follow
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    alpha: float = Field(0.01, gt=0)  # α, in rewards per nat
    weight: float = Field(10.0, gt=0)  # κ, in returns per unit of h

    def learner(self, network: ActorQ) -> Learner:
        """What the gradient steps change."""
        return Learner(network, self.lr, self.critic_lr)

    def learn(self, learner: Learner, batch: Transitions, core: Core, rng: torch.Generator) -> Mapping[str, Tensor]:
        """One gradient step of the critics, and one of the policy, behind `core`."""
        target = td_target(batch.signal, batch.discount, self._value_after(learner, batch.after, core, rng))
        inputs = torch.cat([batch.obs, batch.action], dim=1)
        report = {"critic_loss": learner.fit_critics(inputs, target, self.grad_norm)}
        report |= self._improve(learner, batch.obs, core, rng)
        learner.follow(self.polyak)
        return report

    @torch.no_grad()
    def _value_after(self, learner: Learner, after: Tensor, core: Core, rng: torch.Generator) -> Tensor:
        """Of what is done there, [B, 1]: of what is not certain and so never done, Q knows nothing."""
        policy = learner.policy(after)
        draw = policy.sample(rng)
        done = core.restrained(after, policy.to_action(draw)).action
        q = learner.target_critics.passes.forward(torch.cat([after, done], dim=1))[..., 0].T
        return soft_value(q, policy.log_prob(draw), self.alpha, TWINS)

    def _improve(self, learner: Learner, obs: Tensor, core: Core, rng: torch.Generator) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def loss(policy: Distribution) -> Tensor:
            draw = policy.sample(rng)
            action, log_prob = policy.to_action(draw), policy.log_prob(draw)
            risk = core.risk(obs, action)
            seen.update(entropy=-log_prob.detach().mean(), unsure=(risk.detach() > 0.0).float().mean())
            value = certain_value(learner.q(obs, action), risk, self.weight)
            return policy_loss(value, log_prob, self.alpha, TWINS, unconstrained(0))

        return {"policy_loss": learner.improve_policy(obs, loss, self.grad_norm), **seen}
