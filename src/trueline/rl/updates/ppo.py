"""Passes of minibatch steps, the loop of every first-order update, and two updates that are nothing more.

A first-order update is an objective of the policy on some rows; `ascend` does the rest for all of them, in one process
or in several that share minibatches out (`rl/parallel.py`). Ratios ρ are π/π_old of the action taken, π_old the policy
that acted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic
from trueline.rl.parallel import ALONE, Learners
from trueline.rl.updates.surrogate import clipped_surrogate

if TYPE_CHECKING:
    from trueline.rl.on_policy import Rows

# What a step ascends: the policy at the rows of that index, with gradient, and the index [b] -> a number.
Objective = Callable[[Distribution, Tensor], Tensor]
# The same by row, [b] or [S, b] for rows of that index, of which the objective is the mean.
Gain = Callable[[Distribution, Tensor], Tensor]


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
    schedule: Literal["linear", "constant"] = "linear"  # of the policy's rate, to 0 at total_steps
    critic_schedule: Literal["linear", "constant"] = "constant"  # of the critics'; the originals' stays as it is
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
        rates, schedules = (self.lr, self.critic_lr), (self.schedule, self.critic_schedule)
        for group, rate, schedule in zip(adam.groups, rates, schedules, strict=True):
            group.lr = rate * (1.0 - progress) if schedule == "linear" else rate


class _Losses(NamedTuple):
    """Means over a minibatch."""

    total: Tensor  # what a step descends
    policy: Tensor  # −objective
    value: Tensor  # Σ of the critics' (V − target)²


def _losses(
    settings: MinibatchPasses,
    network: ActorCritic,
    batch: Rows[Any],
    objective: Objective,
    rows: Tensor,
    values: bool,
) -> _Losses:
    """−objective + Σ(V − target)² − c·entropy of the rows [b]; the values are left out where not asked for."""
    features = network.encoder({name: x[rows] for name, x in batch.inputs.items()})
    policy = network.policy(features)
    gain = objective(policy, rows)
    value = torch.zeros(())
    if values:
        value = (network.values(features) - batch.target[rows]).square().flatten(0, -2).mean(0).sum()
        total = value - gain
    else:
        total = -gain
    if settings.entropy:
        total = total - settings.entropy * policy.entropy().mean()
    return _Losses(total, -gain.detach(), value.detach())


class _Moved(NamedTuple):
    """What became of a policy, means over the batch."""

    kl: Tensor
    entropy: Tensor


@torch.no_grad()
def _moved(network: ActorCritic, batch: Rows[Any], start: Distribution, learners: Learners) -> _Moved:
    if learners.size == 1:
        policy = network.policy(network.encoder(batch.inputs))
        return _Moved(start.kl(policy).mean(), policy.entropy().mean())
    rows = learners.share(torch.arange(len(batch.log_prob)))
    policy = network.policy(network.encoder({name: x[rows] for name, x in batch.inputs.items()}))
    sums = torch.stack([start.rows(rows).kl(policy).sum(), policy.entropy().sum()])
    learners.add([sums])
    return _Moved(*(sums / batch.log_prob.numel()))


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
    shared: bool = True,
) -> PassesReport:
    """Up to `passes` passes of minibatch steps on −objective − c·entropy + Σ(V − target)², ended by target_kl.

    Minibatches are of rows, or of whole segments with about as many rows where the batch is of sequences. Where
    several processes train the policy each takes its part of them, unless the objective is no mean over rows and
    cannot be put together of its parts: not `shared`.

    Without `values` the values are left out of the loss; `adam` is then one that leaves the critics alone. KL is
    counted from `start`: the policy that acted, unless another is given.
    """
    size, unit = len(batch.log_prob), batch.log_prob[0].numel()
    minibatch = max(1, settings.minibatch // unit)
    start = batch.policy if start is None else start
    learners = batch.learners if shared else ALONE
    kl = torch.zeros(())
    sums = torch.zeros(3)
    done = 0
    for done in range(1, settings.passes + 1):  # noqa: B007  (the number of passes made is reported)
        sums.zero_()
        order = torch.randperm(size, generator=rng)
        begins = range(0, size, minibatch)
        for begin in begins:
            whole = order[begin : begin + minibatch]
            rows = learners.share(whole)
            adam.zero_grad()
            if len(rows):  # a last minibatch may have fewer rows than there are learners
                losses = _losses(settings, network, batch, objective, rows, values)
                if learners.size > 1:
                    losses = _Losses(*(loss * (len(rows) / len(whole)) for loss in losses))
                losses.total.backward()
                sums[0] += losses.policy
                sums[1] += losses.value
            learners.add(adam.grads)
            adam.step(settings.grad_norm)
        learners.add([sums])
        sums[:2] /= len(begins)
        kl, sums[2] = _moved(network, batch, start, learners)
        if not torch.isfinite(kl) or (settings.target_kl is not None and kl > settings.target_kl):
            break
    policy_loss, value, entropy = sums.tolist()
    return PassesReport(float(kl), done, policy_loss, value, entropy)


def ratio_of(policy: Distribution, batch: Rows[Any], rows: Tensor) -> Tensor:
    """ρ = π(a|s)/π_old(a|s) of the actions taken at these rows, [b]."""
    return (policy.log_prob(batch.draw[rows]) - batch.log_prob[rows]).exp()


class RowByRow(MinibatchPasses):
    """Passes on the mean of a gain by row, and nothing else: of such an update seeds may be trained in one stack."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    @abstractmethod
    def gain(self, batch: Rows[Tensor]) -> Gain:
        """What is gained at each row, of the policy there and the rows' index."""

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Tensor], progress: float, rng: torch.Generator
    ) -> PassesReport:
        """Passes on the mean gain."""
        self.set_rates(adam, progress)
        gain = self.gain(batch)
        return ascend(self, network, adam, batch, lambda policy, rows: gain(policy, rows).mean(), rng)


class Ppo(RowByRow):
    """Ascends the clipped surrogate (Schulman et al. 2017, eq. 7), or the plain policy gradient's ρA without a clip."""

    clip: float | None = Field(0.2, gt=0, lt=1)  # ε of the surrogate; none: plain policy gradient

    def gain(self, batch: Rows[Tensor]) -> Gain:
        """The surrogate of the mixed advantage."""

        def surrogate(policy: Distribution, rows: Tensor) -> Tensor:
            advantage = batch.advantage[rows]
            if self.clip is None:
                return ratio_of(policy, batch, rows) * advantage
            log_prob = policy.log_prob(batch.draw[rows])
            return clipped_surrogate(log_prob, batch.log_prob[rows], advantage, self.clip)

        return surrogate
