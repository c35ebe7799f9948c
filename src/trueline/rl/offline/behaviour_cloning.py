"""Behaviour cloning: of all episodes, of those within a limit (BC-safe), and by an auto-encoder (VAE-BC).

    max Σ log π(a | s)   over the rows of episodes with Σc ≤ d

What a clone of the episodes within a limit converges to is known: with the behaviour μ,

    π_t(a | s) = P(aₜ = a | sₜ = s, Σc ≤ d),

a policy that no longer knows what it has spent, so that it need not keep the limit that its data kept.
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
from trueline.core.errors import ConfigError
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Choices, Distribution
from trueline.rl.off_policy.networks import ActorQ, Learner, QNetwork, QPolicy, described
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.offline.data import OfflineData
from trueline.rl.offline.networks import BatchPolicy, Generated, Rules, batch_policy
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec

# Clipped behaviours take actions of exactly ±1, whose density under a squashed normal is infinite at no finite draw.
EDGE = 1.0 - 1e-3


def drawn(policy: Distribution, action: Tensor) -> Tensor:
    """The draw whose action is this one: artanh for a squashed normal, away from the edge."""
    return action if isinstance(policy, Choices) else action.clamp(-EDGE, EDGE).atanh()


def cloning_loss(policy: Distribution, action: Tensor, weight: Tensor | None = None) -> Tensor:
    """−mean(w·log π(a | s)).  action [B, A], w [B] or 1."""
    log_prob = policy.log_prob(drawn(policy, action))
    return -(log_prob if weight is None else weight * log_prob).mean()


def all_rows(data: OfflineData, _: Tensor) -> NDArray[np.int64]:
    """Every row of the data."""
    return np.arange(len(data))


def q_policy(
    learner: Learner, observation: ObservationCodec, world: WorldRef, kept: Mapping[str, Any], parent: str | None
) -> QPolicy:
    """The subject of an `ActorQ`."""
    return QPolicy(learner.network, observation, world, {**described(learner.network.shape), **kept}, parent)


class Cloning(Config):
    """Gradient steps of behaviour cloning; with limits it learns from episodes within them (BC-safe)."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("reward", "limits")

    batch: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)
    grad_norm: float = Field(40.0, gt=0)  # the gradient is scaled down to this norm

    def learner(self, plan: Plan, rng: torch.Generator) -> Learner:
        """The policy. Its critic is never trained, and is kept as small as can be."""
        shape = plan.shape(1, critic=QNetwork(hidden=()))._replace(costs=())
        return Learner(ActorQ(plan.observation, plan.action, shape, rng), self.lr, self.lr)

    def policy(
        self,
        learner: Learner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> QPolicy:
        """The clone."""
        return q_policy(learner, observation, world, kept, parent)

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[np.int64]:
        """Those of episodes within the limits; all where nothing is limited."""
        if not len(limit):
            return all_rows(data, limit)
        found = data.within(limit.numpy())
        if not len(found):
            least = data.finished().cost.min(0) if data.ended.any() else []
            shown = ", ".join(f"{cost:.6g}" for cost in least) or "none that has finished"
            raise ConfigError(
                f"no episode of the data keeps the limits; the least costs are {shown}. Raise cost_limit."
            )
        return found

    def learn(
        self,
        learner: Learner,
        batch: Transitions,
        first: Tensor,
        terms: Terms,
        rng: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """One step up the likelihood."""
        loss = learner.improve_policy(batch.obs, lambda policy: cloning_loss(policy, batch.action), self.grad_norm)
        return {"policy_loss": loss}


class VaeLearner:
    """A generator and its moments."""

    def __init__(self, network: Generated, lr: float) -> None:
        """Moves the generator's parameters into one flat tensor."""
        self.network = network
        self.vae_adam = FlatAdam([Group(list(network.vae.parameters()), lr)])

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {"vae": self.vae_adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self.vae_adam.load_state_dict(state["vae"])


class VaeCloning(Config):
    """Cloning by a conditional variational auto-encoder; continuous actions."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("reward",)

    batch: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0)
    grad_norm: float = Field(40.0, gt=0)
    kl_weight: float = Field(1.0, gt=0)  # of the latent's KL; a linear one at 1 loses variances of actions below ¼

    def learner(self, plan: Plan, rng: torch.Generator) -> VaeLearner:
        """The generator alone. Raises ConfigError for choices."""
        return VaeLearner(Generated(plan, Rules(0, 1, 0.0, None, 1.0), rng), self.lr)

    def policy(
        self,
        learner: VaeLearner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> BatchPolicy:
        """The generator as a policy."""
        return batch_policy(learner.network, world, kept, parent)

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[np.int64]:
        """All."""
        return all_rows(data, limit)

    def learn(
        self,
        learner: VaeLearner,
        batch: Transitions,
        first: Tensor,
        terms: Terms,
        rng: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """One step down the loss of the auto-encoder."""
        learner.vae_adam.zero_grad()
        loss = learner.network.vae.loss(batch.obs, batch.action, self.kl_weight, rng)
        loss.backward()
        learner.vae_adam.step(self.grad_norm)
        return {"vae_loss": loss.detach()}
