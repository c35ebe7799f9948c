"""Batch-constrained Q-learning, alone and under multipliers (BCQ-Lag).

Continuous (Fujimoto, Meger & Precup 2019): an auto-encoder generates candidates that look like the data, a small
network moves each by at most Φ, and the one of highest Q_r − ΣλQ_c is taken. One choice (Fujimoto et al. 2019): the
best option among those at least τ times as likely in the data as the likeliest.

    y_r = r + γ (w·min_j + (1 − w)·max_j) Q'_j(s', a'),   y_c = c + γ_c Q'_c(s', a'),   a' = π(s')
    perturbation ascends  Q_1 − ΣλQ_c  at what it makes of generated actions

Departures from OmniSafe 0.5.0:

1. One action, the policy's, is followed by reward and costs alike.
2. The candidate is chosen by Q_r − ΣλQ_c in training and in use.
3. The multiplier compares like with like (head of `rl/offline/training.py`).
4. Latent draws are clipped to ±0.5, as published; the original's are not.
5. The generator's mean is squashed into the range of actions.
"""

# ruff: noqa: ARG002  (one signature for all updates, of which each has its own use)
from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.networks import StackedMlp
from trueline.rl.off_policy.networks import Learner, td_target
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.offline.behaviour_cloning import all_rows, cloning_loss
from trueline.rl.offline.data import OfflineData
from trueline.rl.offline.networks import BatchPolicy, Generated, Rules, Supported, batch_policy
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec

TWINS = 2


def soft_pessimistic(q: Tensor, twins: int, weight: float) -> Tensor:
    """(w·min_j Q_j + (1 − w)·max_j Q_j, Q_c1, …): [..., twins + K] -> [..., 1 + K]."""
    reward = q[..., :twins]
    mixed = weight * reward.amin(-1, keepdim=True) + (1.0 - weight) * reward.amax(-1, keepdim=True)
    return torch.cat([mixed, q[..., twins:]], dim=-1)


def perturbation_loss(q: Tensor, multiplier: Tensor, twins: int) -> Tensor:
    """−mean(Q_1 − Σ_k λ_k Q_ck): Q [B, twins + K], λ [K] -> a number."""
    return -(q[:, 0] - q[:, twins:] @ multiplier.to(q)).mean()


class GeneratedLearner:
    """Generator, perturbation and critics with their moments, and slow critics."""

    def __init__(self, network: Generated, lr: float, critic_lr: float) -> None:
        """Moves the networks' parameters into flat tensors."""
        self.network = network
        self.slow: StackedMlp = deepcopy(network.critics)
        self.slow._layers = list(zip(self.slow.weights, self.slow.biases, strict=True))
        self.vae_adam = FlatAdam([Group(list(network.vae.parameters()), lr)])
        self.actor_adam = FlatAdam([Group(list(network.actor.parameters()), lr)])
        critics = network.critics
        self.critic_adam = FlatAdam([Group(list(critics.parameters()), critic_lr, rows=critics.heads)])

    def _adams(self) -> dict[str, FlatAdam]:
        return {"vae": self.vae_adam, "actor": self.actor_adam, "critics": self.critic_adam}

    def descend(self, adam: FlatAdam, loss: Tensor, bound: float) -> Tensor:
        """One step of one optimiser down a loss; gradients that reach other networks are dropped."""
        for every in self._adams().values():
            every.zero_grad()
        loss.backward()
        adam.step(bound)
        return loss.detach()

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """θ' ← θ' + rate·(θ − θ')."""
        for slow, fast in zip(self.slow.parameters(), self.network.critics.parameters(), strict=True):
            slow.lerp_(fast, rate)

    def state_dict(self) -> dict[str, Any]:
        """Moments and slow critics."""
        found: dict[str, Any] = {name: adam.state_dict() for name, adam in self._adams().items()}
        return {**found, "slow": dict(self.slow.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        for name, adam in self._adams().items():
            adam.load_state_dict(state[name])
        self.slow.load_state_dict(state["slow"])


class SupportedLearner(Learner):
    """That of a discrete choice, whose actor is the clone."""

    network: Supported


class Bcq(Config):
    """Gradient steps of BCQ; the defaults are OmniSafe's."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("reward", "weights")

    batch: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)  # of the generator and of the perturbation
    critic_lr: float = Field(1e-3, gt=0)
    polyak: float = Field(0.005, gt=0, le=1)  # share by which the slow copies follow
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    least_weight: float = Field(0.75, ge=0, le=1)  # w, of the lesser twin in a target
    phi: float = Field(0.05, gt=0)  # Φ, of continuous actions
    candidates: int = Field(10, ge=2)  # generated actions of which the best is taken
    latent_bound: float | None = Field(0.5, gt=0)
    kl_weight: float = Field(1.0, gt=0)  # of the latent's KL
    threshold: float = Field(0.3, gt=0, le=1)  # τ, of a choice

    def _rules(self) -> Rules:
        return Rules(TWINS, self.candidates, self.phi, self.latent_bound, self.threshold)

    def learner(self, plan: Plan, rng: torch.Generator) -> SupportedLearner | GeneratedLearner:
        """Of a choice or of continuous actions."""
        if plan.action.kind == "choices":
            return SupportedLearner(Supported(plan, self._rules(), rng), self.lr, self.critic_lr)
        return GeneratedLearner(Generated(plan, self._rules(), rng), self.lr, self.critic_lr)

    def policy(
        self,
        learner: SupportedLearner | GeneratedLearner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> BatchPolicy:
        """The choice among what data support."""
        return batch_policy(learner.network, world, kept, parent)

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[np.int64]:
        """All."""
        return all_rows(data, limit)

    def learn(
        self,
        learner: SupportedLearner | GeneratedLearner,
        batch: Transitions,
        first: Tensor,
        terms: Terms,
        rng: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """One step of generator, critics and perturbation."""
        learner.network.multiplier.copy_(terms.multiplier)
        if isinstance(learner, SupportedLearner):
            return self._learn_a_choice(learner, batch)
        return self._learn_an_action(learner, batch, rng)

    @torch.no_grad()
    def _learn_a_choice(self, learner: SupportedLearner, batch: Transitions) -> Mapping[str, Tensor]:
        next_choice = learner.network.choice(batch.after)
        q = learner.target_critics.passes.forward(batch.after)  # [H, B, n]
        after = q.gather(-1, next_choice.expand(len(q), -1)[..., None])[..., 0].T
        target = td_target(batch.signal, batch.discount, soft_pessimistic(after, TWINS, self.least_weight))
        loss = learner.fit_critics(batch.obs, target, self.grad_norm, batch.action[:, 0].long())
        with torch.enable_grad():
            clone = learner.improve_policy(batch.obs, lambda policy: cloning_loss(policy, batch.action), self.grad_norm)
        learner.follow(self.polyak)
        return {"critic_loss": loss, "clone_loss": clone}

    def _learn_an_action(
        self, learner: GeneratedLearner, batch: Transitions, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        network, bound = learner.network, self.grad_norm
        vae = learner.descend(learner.vae_adam, network.vae.loss(batch.obs, batch.action, self.kl_weight, rng), bound)
        with torch.no_grad():
            action = network.best(batch.after, rng)
            after = network.q(batch.after, action[:, None], learner.slow)[:, 0]
            target = td_target(batch.signal, batch.discount, soft_pessimistic(after, TWINS, self.least_weight))
            wanted = torch.cat([target[:, :1].expand(-1, TWINS), target[:, 1:]], dim=1)
        q = network.q(batch.obs, batch.action[:, None])[:, 0]
        critic = learner.descend(learner.critic_adam, (q - wanted).square().mean(0).sum(), bound)
        with torch.no_grad():
            many = batch.obs[:, None]
            latent = torch.randn(len(batch.obs), 1, network.vae.latent, generator=rng)
            if self.latent_bound is not None:
                latent = latent.clamp(-self.latent_bound, self.latent_bound)
            generated = network.vae.decode(many, latent)
        q = network.q(batch.obs, network.moved(many, generated))[:, 0]
        push = learner.descend(learner.actor_adam, perturbation_loss(q, network.multiplier, TWINS), bound)
        learner.follow(self.polyak)
        return {"vae_loss": vae, "critic_loss": critic, "policy_loss": push}

    @torch.no_grad()
    def cost_at(self, learner: SupportedLearner | GeneratedLearner, obs: Tensor, rng: torch.Generator) -> Tensor:
        """Q_c(s, π(s))."""
        if isinstance(learner, SupportedLearner):
            q = learner.critics.forward(obs)[TWINS:]
            return q.gather(-1, learner.network.choice(obs).expand(len(q), -1)[..., None])[..., 0].T
        network = learner.network
        return network.q(obs, network.best(obs, rng)[:, None])[:, 0, TWINS:]
