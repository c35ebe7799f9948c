"""Passes of minibatch steps, the loop of every first-order update, and two updates that are nothing more.

A first-order update is an objective of the policy on some rows; `ascend` does the rest for all of them. Ratios ρ are
π/π_old of the action taken, π_old the policy that acted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic
from trueline.rl.updates.surrogate import clipped_surrogate

if TYPE_CHECKING:
    from trueline.rl.on_policy import Rows

# What a step ascends: the policy at the rows of that index, with gradient, and the index [b] -> a number.
Objective = Callable[[Distribution, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class PassesReport:
    """What an update did."""

    kl: float
    passes: int
    policy_loss: float  # mean over the minibatches of the last pass
    value_loss: float
    entropy: float


class MinibatchPasses(Config):
    """Settings of `ascend`; the defaults are OmniSafe's and SafePO's."""

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


def ascend(
    settings: MinibatchPasses,
    network: ActorCritic,
    adam: FlatAdam,
    batch: Rows[Any],
    objective: Objective,
    rng: torch.Generator,
    *,
    values: bool = True,
    start: Distribution | None = None,
) -> PassesReport:
    """Up to `passes` passes of minibatch steps on −objective − c·entropy + Σ(V − target)², ended by target_kl.

    Minibatches are of rows, or of whole segments with about as many rows where the batch is of sequences.
    Without `values` the values are left out of the loss; `adam` is then one that leaves the critics alone. KL is
    counted from `start`: the policy that acted, unless another is given.
    """
    size, unit = len(batch.log_prob), batch.log_prob[0].numel()
    minibatch = max(1, settings.minibatch // unit)
    start = batch.policy if start is None else start
    kl = torch.zeros(())
    sums = torch.zeros(3)
    done = 0
    for done in range(1, settings.passes + 1):  # noqa: B007  (the number of passes made is reported)
        sums.zero_()
        order = torch.randperm(size, generator=rng)
        begins = range(0, size, minibatch)
        for begin in begins:
            rows = order[begin : begin + minibatch]
            features = network.encoder({name: x[rows] for name, x in batch.inputs.items()})
            policy = network.policy(features)
            gain = objective(policy, rows)
            if values:
                value_loss = (network.values(features) - batch.target[rows]).square().flatten(0, -2).mean(0).sum()
                loss = value_loss - gain
                sums[1] += value_loss.detach()
            else:
                loss = -gain
            if settings.entropy:
                loss = loss - settings.entropy * policy.entropy().mean()
            adam.zero_grad()
            loss.backward()
            adam.step(settings.grad_norm)
            sums[0] -= gain.detach()
        sums[:2] /= len(begins)
        with torch.no_grad():
            policy = network.policy(network.encoder(batch.inputs))
            kl = start.kl(policy).mean()
            sums[2] = policy.entropy().mean()
        if not torch.isfinite(kl) or (settings.target_kl is not None and kl > settings.target_kl):
            break
    policy_loss, value, entropy = sums.tolist()
    return PassesReport(float(kl), done, policy_loss, value, entropy)


def ratio_of(policy: Distribution, batch: Rows[Any], rows: Tensor) -> Tensor:
    """ρ = π(a|s)/π_old(a|s) of the actions taken at these rows, [b]."""
    return (policy.log_prob(batch.draw[rows]) - batch.log_prob[rows]).exp()


class Ppo(MinibatchPasses):
    """Ascends the clipped surrogate (Schulman et al. 2017, eq. 7), or the plain policy gradient's ρA without a clip."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    clip: float | None = Field(0.2, gt=0, lt=1)  # ε of the surrogate; none: plain policy gradient

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Tensor], progress: float, rng: torch.Generator
    ) -> PassesReport:
        """Passes on the surrogate of the mixed advantage."""
        self.set_rates(adam, progress)

        def surrogate(policy: Distribution, rows: Tensor) -> Tensor:
            advantage = batch.advantage[rows]
            if self.clip is None:
                return (ratio_of(policy, batch, rows) * advantage).mean()
            log_prob = policy.log_prob(batch.draw[rows])
            return clipped_surrogate(log_prob, batch.log_prob[rows], advantage, self.clip).mean()

        return ascend(self, network, adam, batch, surrogate, rng)
