"""Proximal policy optimisation with one joint loss and one Adam for all networks (Schulman et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.networks import ActorCritic
from trueline.rl.surrogate import clipped_surrogate

if TYPE_CHECKING:
    from trueline.rl.on_policy import Rows


@dataclass(frozen=True, slots=True)
class PpoReport:
    """What an update did."""

    kl: float
    passes: int
    policy_loss: float  # mean over the minibatches of the last pass
    value_loss: float
    entropy: float


class Ppo(Config):
    """Passes of minibatch steps on the clipped surrogate and the values; the defaults are OmniSafe's and SafePO's."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    clip: float = Field(0.2, gt=0, lt=1)  # ε of the surrogate
    passes: int = Field(40, ge=1)  # over the batch, unless target_kl stops earlier
    minibatch: int = Field(64, ge=1)  # samples per gradient step
    lr: float = Field(3e-4, gt=0)  # of the policy
    critic_lr: float = Field(3e-4, gt=0)
    schedule: Literal["linear", "constant"] = "linear"  # of both rates, to 0 at total_steps
    target_kl: float | None = Field(0.02, gt=0)  # stop after a pass whose KL(old‖new), summed over actions, is above
    entropy: float = Field(0.0, ge=0)  # weight of the entropy bonus
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    critic_l2: float = Field(0.001, ge=0)  # adds l2·Σθ² to the critics' loss

    def optimiser(self, network: ActorCritic) -> FlatAdam:
        """Adam over policy and critics, which share nothing but the step (and the encoder of pictures, if any)."""
        actor = network.actor_parameters() + list(network.encoder.parameters())
        critics = list(network.critics.parameters())
        return FlatAdam(
            [
                Group(actor, self.lr),
                Group(critics, self.critic_lr, rows=network.critics.heads, l2=self.critic_l2),
            ]
        )

    def set_rates(self, adam: FlatAdam, progress: float) -> None:
        """The learning rates at `progress` in [0, 1] of the training."""
        factor = 1.0 - progress if self.schedule == "linear" else 1.0
        for group, rate in zip(adam.groups, (self.lr, self.critic_lr), strict=True):
            group.lr = rate * factor

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Tensor], progress: float, rng: torch.Generator
    ) -> PpoReport:
        """Up to `passes` passes of minibatch steps on −surrogate − c·entropy + Σ(V − target)², ended by target_kl."""
        self.set_rates(adam, progress)
        size = len(batch.advantage)
        kl = torch.zeros(())
        sums = torch.zeros(3)
        done = 0
        for done in range(1, self.passes + 1):  # noqa: B007  (the number of passes made is reported)
            sums.zero_()
            order = torch.randperm(size, generator=rng)
            starts = range(0, size, self.minibatch)
            for start in starts:
                rows = order[start : start + self.minibatch]
                features = network.encoder({name: x[rows] for name, x in batch.inputs.items()})
                policy = network.policy(features)
                surrogate = clipped_surrogate(
                    policy.log_prob(batch.draw[rows]), batch.log_prob[rows], batch.advantage[rows], self.clip
                ).mean()
                value_loss = (network.values(features) - batch.target[rows]).square().mean(0).sum()
                loss = value_loss - surrogate
                if self.entropy:
                    loss = loss - self.entropy * policy.entropy().mean()
                adam.zero_grad()
                loss.backward()
                adam.step(self.grad_norm)
                sums[0] -= surrogate.detach()
                sums[1] += value_loss.detach()
            sums[:2] /= len(starts)
            with torch.no_grad():
                policy = network.policy(network.encoder(batch.inputs))
                kl = batch.policy.kl(policy).mean()
                sums[2] = policy.entropy().mean()
            if not torch.isfinite(kl) or (self.target_kl is not None and kl > self.target_kl):
                break
        policy_loss, value, entropy = sums.tolist()
        return PpoReport(float(kl), done, policy_loss, value, entropy)
