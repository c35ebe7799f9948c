"""Soft actor-critic under a constraint (Haarnoja et al. 2018; of one discrete choice: Christodoulou 2019).

y_r = r + γ(min_j Q'_j(s', a') − α log π(a'|s')),   y_c = c + γ_c Q'_c(s', a'),   a' ~ π(·|s')
policy ascends  w_r (min_j Q_j(s, a) − α log π(a|s)) − Σ_k w_ck Q_ck(s, a),   a ~ π(·|s), reparametrised
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.distributions import Choices, Distribution
from trueline.rl.handlers.constraint import Weights, mix
from trueline.rl.off_policy.networks import ActorQ, Guide, Learner, pessimistic, td_target
from trueline.rl.off_policy.replay import Transitions

DISCRETE_SHARE = 0.98  # of the largest entropy, as the default aim for a discrete choice (Christodoulou 2019)


def soft_value(q: Tensor, log_prob: Tensor, alpha: float, twins: int) -> Tensor:
    """(min_j Q_j − α log π, Q_c1, …): Q [..., twins + K], log π [...] -> [..., 1 + K].

    Entropy is a reward and no cost: a cost's value counts what the world charges alone.
    """
    value = pessimistic(q, twins)
    return torch.cat([value[..., :1] - alpha * log_prob[..., None], value[..., 1:]], dim=-1)


def policy_loss(q: Tensor, log_prob: Tensor, alpha: float, twins: int, weights: Weights) -> Tensor:
    """−mean(w_r (min_j Q_j − α log π) − Σ_k w_ck Q_ck): Q [B, twins + K], log π [B] -> a number."""
    value = soft_value(q, log_prob, alpha, twins)
    return -mix(value[:, 0], value[:, 1:], weights).mean()


def expected(value: Tensor, policy: Choices) -> Tensor:
    """Σ_a π(a|s) v(s, a) of one choice: v [B, n, ...] -> [B, ...]."""
    chance = policy.logits[0].exp()
    return (chance.view(*chance.shape, *[1] * (value.dim() - 2)) * value).sum(1)


def temperature_gradient(log_prob: Tensor, target_entropy: float) -> Tensor:
    """d/d(log α) of −log α·mean(log π + H̄): α rises where the entropy −log π is below its aim H̄."""
    return -(log_prob + target_entropy).mean()


class Sac(Config):
    """Gradient steps of SAC; the defaults are OmniSafe's."""

    twins: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    takes: ClassVar[Literal["weights", "limits"]] = "weights"

    batch: int = Field(256, ge=1)
    lr: float = Field(3e-4, gt=0)  # of the policy
    critic_lr: float = Field(3e-4, gt=0)
    polyak: float = Field(0.005, gt=0, le=1)  # share by which the slow copies follow
    delay: int = Field(2, ge=1)  # gradient steps of the critics for each of the policy and of the slow copies
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    alpha: float = Field(0.2, gt=0)  # α, or what it starts from
    auto_alpha: bool = False  # α is steered towards target_entropy
    alpha_lr: float = Field(3e-4, gt=0)  # of log α; it takes Adam's step
    target_entropy: float | None = None  # H̄; −A, or for n options 0.98·log n, unless given

    def learner(self, network: ActorQ) -> Learner:
        """Networks, slow copies and moments, with log α."""
        learner = Learner(network, self.lr, self.critic_lr)
        zero = torch.zeros((), dtype=torch.float64)
        log_alpha = torch.tensor(math.log(self.alpha), dtype=torch.float64)
        learner.own = {"log_alpha": log_alpha, "first": zero, "second": zero, "moves": zero}
        return learner

    def act(self, network: ActorQ, features: Tensor, rng: torch.Generator) -> Tensor:
        """A draw from the policy, [N, A]."""
        policy = network.policy(features)
        return policy.to_action(policy.sample(rng))

    def learn(self, learner: Learner, batch: Transitions, guide: Guide, rng: torch.Generator) -> Mapping[str, Tensor]:
        """One gradient step of the critics, and every `delay` steps one of the policy and of α."""
        alpha = float(learner.own["log_alpha"].exp())
        discrete = learner.network.action.kind == "choices"
        evaluate = self._after_a_choice if discrete else self._after_an_action
        target = td_target(batch.signal, batch.discount, evaluate(learner, batch.after, alpha, rng))
        inputs = batch.obs if discrete else torch.cat([batch.obs, batch.action], dim=1)
        taken = batch.action[:, 0].long() if discrete else None
        report = {"critic_loss": learner.fit_critics(inputs, target, self.grad_norm, taken)}
        if learner.steps % self.delay == 0:
            report |= self._improve(learner, batch.obs, alpha, guide.weights, rng)
            learner.follow(self.polyak)
        return report

    def _after_an_action(self, learner: Learner, after: Tensor, alpha: float, rng: torch.Generator) -> Tensor:
        policy = learner.policy(after)
        draw = policy.sample(rng)
        q = learner.target_critics.passes.forward(torch.cat([after, policy.to_action(draw)], dim=1))[..., 0].T
        return soft_value(q, policy.log_prob(draw), alpha, self.twins)

    def _after_a_choice(self, learner: Learner, after: Tensor, alpha: float, _: torch.Generator) -> Tensor:
        policy = learner.policy(after)
        assert isinstance(policy, Choices)
        q = learner.target_critics.passes.forward(after).permute(1, 2, 0)  # [B, n, H]
        return expected(soft_value(q, policy.logits[0], alpha, self.twins), policy)

    def _improve(
        self, learner: Learner, obs: Tensor, alpha: float, weights: Weights, rng: torch.Generator
    ) -> dict[str, Tensor]:
        seen: list[Tensor] = []

        def of_an_action(policy: Distribution) -> Tensor:
            draw = policy.sample(rng)
            log_prob = policy.log_prob(draw)
            seen.append(log_prob.detach())
            return policy_loss(learner.q(obs, policy.to_action(draw)), log_prob, alpha, self.twins, weights)

        def of_a_choice(policy: Distribution) -> Tensor:
            assert isinstance(policy, Choices)
            log_p = policy.logits[0]
            seen.append(-policy.entropy().detach())
            q = learner.critics.forward(obs).permute(1, 2, 0)
            value = expected(soft_value(q, log_p, alpha, self.twins), policy)
            return -mix(value[:, 0], value[:, 1:], weights).mean()

        discrete = learner.network.action.kind == "choices"
        loss = learner.improve_policy(obs, of_a_choice if discrete else of_an_action, self.grad_norm)
        log_prob = seen[0]
        if self.auto_alpha:
            self._move_alpha(learner, temperature_gradient(log_prob, self.aim(learner.network)))
        return {"policy_loss": loss, "entropy": -log_prob.mean(), "alpha": torch.tensor(alpha)}

    def aim(self, network: ActorQ) -> float:
        """H̄."""
        if self.target_entropy is not None:
            return self.target_entropy
        if network.action.kind == "choices":
            return DISCRETE_SHARE * math.log(network.action.sizes[0])
        return -float(network.action.sizes[0])

    def _move_alpha(self, learner: Learner, gradient: Tensor) -> None:
        own, slope = learner.own, gradient.to(torch.float64)
        moves = own["moves"] + 1.0
        first = 0.9 * own["first"] + 0.1 * slope
        second = 0.999 * own["second"] + 0.001 * slope.square()
        step = first / (1.0 - 0.9**moves) / ((second / (1.0 - 0.999**moves)).sqrt() + 1e-8)
        moved = own["log_alpha"] - self.alpha_lr * step
        learner.own = {"log_alpha": moved, "first": first, "second": second, "moves": moves}
