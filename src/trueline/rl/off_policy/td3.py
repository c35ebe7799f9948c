"""Deterministic policies under a constraint: TD3 (Fujimoto et al. 2018), and DDPG (Lillicrap et al. 2016) as its case
of one critic, no delay and no noise on the target.

    a' = clip(μ'(s') + clip(ε, −c, c), −1, 1),  ε ~ N(0, σ²)
    y_r = r + γ min_j Q'_j(s', a'),   y_c = c + γ_c Q'_c(s', a')
    policy ascends  w_r Q_1(s, μ(s)) − Σ_k w_ck Q_ck(s, μ(s))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.distributions import Distribution
from trueline.rl.handlers.constraint import Weights, mix
from trueline.rl.off_policy.networks import ActorQ, Guide, Learner, pessimistic, td_target
from trueline.rl.off_policy.replay import Transitions


def smoothed(action: Tensor, noise: float, clip: float, rng: torch.Generator) -> Tensor:
    """clip(a + clip(ε, −c, c), −1, 1) with ε ~ N(0, noise²): similar actions shall have similar values.  [B, A]."""
    if noise == 0.0:
        return action
    drawn = torch.randn(action.shape, generator=rng).mul_(noise).clamp_(-clip, clip)
    return (action + drawn).clamp_(-1.0, 1.0)


def policy_loss(q: Tensor, weights: Weights) -> Tensor:
    """−mean(w_r Q_1 − Σ_k w_ck Q_ck): Q_1 beside the costs' critics, [B, 1 + K] -> a number."""
    return -mix(q[:, 0], q[:, 1:], weights).mean()


class Td3(Config):
    """Gradient steps of TD3; the defaults are OmniSafe's."""

    stochastic: ClassVar[bool] = False
    takes: ClassVar[Literal["weights", "limits"]] = "weights"

    twins: Literal[1, 2] = 2  # critics of the reward
    batch: int = Field(256, ge=1)
    lr: float = Field(3e-4, gt=0)  # of the policy
    critic_lr: float = Field(3e-4, gt=0)
    polyak: float = Field(0.005, gt=0, le=1)  # share by which the slow copies follow
    delay: int = Field(2, ge=1)  # gradient steps of the critics for each of the policy and of the slow copies
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    exploration: float = Field(0.1, ge=0)  # σ of the normal noise on actions taken
    target_noise: float = Field(0.2, ge=0)  # σ of the noise on the target's action
    noise_clip: float = Field(0.5, gt=0)  # c

    def learner(self, network: ActorQ) -> Learner:
        """Networks, slow copies and moments."""
        return Learner(network, self.lr, self.critic_lr)

    def act(self, network: ActorQ, features: Tensor, rng: torch.Generator) -> Tensor:
        """The policy's action with noise on it, [N, A]."""
        policy = network.policy(features)
        action = policy.to_action(policy.mode())
        noise = torch.randn(action.shape, generator=rng)
        return (action + self.exploration * noise).clamp_(-1.0, 1.0)

    def learn(self, learner: Learner, batch: Transitions, guide: Guide, rng: torch.Generator) -> Mapping[str, Tensor]:
        """One gradient step of the critics, and every `delay` steps one of the policy."""
        policy = learner.target_policy(batch.after)
        action = smoothed(policy.to_action(policy.mode()), self.target_noise, self.noise_clip, rng)
        q = learner.target_critics.passes.forward(torch.cat([batch.after, action], dim=1))[..., 0].T
        target = td_target(batch.signal, batch.discount, pessimistic(q, self.twins))
        inputs = torch.cat([batch.obs, batch.action], dim=1)
        report = {"critic_loss": learner.fit_critics(inputs, target, self.grad_norm)}
        if learner.steps % self.delay == 0:
            heads = [0, *range(self.twins, self.twins + batch.signal.shape[1] - 1)]

            def loss(policy: Distribution) -> Tensor:
                return policy_loss(learner.q(batch.obs, policy.to_action(policy.mode()), heads), guide.weights)

            report["policy_loss"] = learner.improve_policy(batch.obs, loss, self.grad_norm)
            learner.follow(self.polyak)
        return report


DDPG = Td3(twins=1, delay=1, target_noise=0.0)
