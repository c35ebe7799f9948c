"""Passes of minibatch steps, the loop of every first-order update, and two updates that are nothing more.

A first-order update is an objective of the policy on some rows; `ascend` does the rest for all of them, in one process
or in several that share minibatches out (`rl/parallel.py`). Ratios ρ are π/π_old of the action taken, π_old the policy
that acted.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic
from trueline.rl.parallel import ALONE, Learners
from trueline.rl.updates.backpropagation import Backpropagation, normal_slopes
from trueline.rl.updates.rows import Rows
from trueline.rl.updates.surrogate import Sloped, clipped_surrogate, sloped_surrogate

# What a step ascends: the policy at the rows of that index, with gradient, and the index [b] -> a number.
Objective = Callable[[Distribution, Tensor], Tensor]
# The same by row, [b] or [S, b] for rows of that index, of which the objective is the mean.
Gain = Callable[[Distribution, Tensor], Tensor]
# A gain of log π [b] of the actions taken at those rows, with its slope by log π times a number.
SlopedGain = Callable[[Tensor, Tensor, float], Sloped]


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


class _Descended(NamedTuple):
    """What a step on a minibatch went by."""

    gain: Tensor  # the objective
    error: Tensor | None  # V − target, or its negative, [..., 1 + K]
    share: float  # of the whole minibatch that this learner had


# Writes the gradients of −objective − c·entropy + Σ(V − target)², means over rows [b], times a share.
_Gradients = Callable[[Tensor, float], _Descended]


def _by_autograd(
    settings: MinibatchPasses,
    network: ActorCritic,
    adam: FlatAdam,
    batch: Rows[Any],
    objective: Objective,
    values: bool,
) -> _Gradients:
    """Through whatever the network is."""

    def gradients(rows: Tensor, share: float) -> _Descended:
        features = network.encoder({name: x[rows] for name, x in batch.inputs.items()})
        policy = network.policy(features)
        gain = objective(policy, rows)
        loss, error = -gain, None
        if values:
            error = network.values(features) - batch.target[rows]
            loss = error.square().flatten(0, -2).mean(0).sum() - gain
        if settings.entropy:
            loss = loss - settings.entropy * policy.entropy().mean()
        adam.zero_grad()
        (share * loss).backward()
        return _Descended(gain.detach(), None if error is None else error.detach(), share)

    return gradients


class _Slopes(NamedTuple):
    """Of the share of −objective − c·entropy, by what makes a policy's distribution."""

    gain: Tensor  # the objective
    output: Tensor  # [b, O] by what the network puts out
    log_std: Tensor | None  # [A] by log σ


_Head = Callable[[Tensor, Tensor, float], _Slopes]  # of outputs [b, O], rows [b], a share


def _by_hand(network: ActorCritic, batch: Rows[Any], head: _Head, values: bool) -> _Gradients:
    """The same to the last bit where the encoder has nothing to learn.

    At the published sizes autograd's records of two small networks cost more than their arithmetic.
    """
    features = network.encoder(batch.inputs)
    of_log_std = None if network.log_std is None else network.log_std.grad
    actor = Backpropagation(network.actor, recorded=True)
    critics = Backpropagation(network.critics, recorded=True) if values else None

    def gradients(rows: Tensor, share: float) -> _Descended:
        x = features.index_select(0, rows)
        slopes = head(actor.forward(x), rows, share)
        actor.backward(slopes.output)
        if of_log_std is not None and slopes.log_std is not None:
            of_log_std.copy_(slopes.log_std)
        error = None
        if critics is not None:
            # Rows first and target first, so that the slopes lie in memory as autograd's do.
            error = batch.target.index_select(0, rows) - critics.forward(x).T
            critics.backward((error * (-2.0 * _slope_of_mean(share, len(rows), error.dtype))).T)
        return _Descended(slopes.gain, error, share)

    return gradients


def _any_head(settings: MinibatchPasses, network: ActorCritic, objective: Objective) -> _Head:
    """Of any objective, by autograd from the output on."""

    def slopes(output: Tensor, rows: Tensor, share: float) -> _Slopes:
        policy = network.distribution_of(output.requires_grad_(), network.log_std)
        gain = objective(policy, rows)
        total = gain + settings.entropy * policy.entropy().mean() if settings.entropy else gain
        leaves = [output] if network.log_std is None else [output, network.log_std]
        seed = total.new_tensor(-share)
        of_output, *rest = torch.autograd.grad(total, leaves, seed, materialize_grads=True)
        return _Slopes(gain.detach(), of_output, rest[0] if rest else None)

    return slopes


def _surrogate_head(network: ActorCritic, batch: Rows[Any], gain: SlopedGain) -> _Head:
    """Of a normal policy's mean gain, without autograd."""
    assert network.log_std is not None
    log_std = network.log_std.detach()

    def slopes(output: Tensor, rows: Tensor, share: float) -> _Slopes:
        policy, draw = network.distribution_of(output, log_std), batch.draw.index_select(0, rows)
        found = gain(policy.log_prob(draw), rows, -_slope_of_mean(share, len(rows), draw.dtype))
        return _Slopes(found.gain.mean(), *normal_slopes(output, log_std, draw, found.slope))

    return slopes


@cache
def _slope_of_mean(share: float, rows: int, dtype: torch.dtype) -> float:
    """∂(share·mean)/∂(a row), rounded as autograd rounds it."""
    return float(torch.tensor(share, dtype=dtype) / rows)


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
    sloped: SlopedGain | None = None,
) -> PassesReport:
    """Up to `passes` passes of minibatch steps on −objective − c·entropy + Σ(V − target)², ended by target_kl.

    Minibatches are of rows, or of whole segments with about as many rows where the batch is of sequences. Where
    several processes train the policy each takes its part of them, unless the objective is no mean over rows and
    cannot be put together of its parts: not `shared`.

    Without `values` the values are left out of the loss; `adam` is then one that leaves the critics alone. KL is
    counted from `start`: the policy that acted, unless another is given. `sloped` is the gain whose mean the objective
    is, with its slope, where that is known in closed form.
    """
    size, unit = len(batch.log_prob), batch.log_prob[0].numel()
    minibatch = max(1, settings.minibatch // unit)
    start = batch.policy if start is None else start
    learners = batch.learners if shared else ALONE
    if any(True for _ in network.encoder.parameters()):
        gradients = _by_autograd(settings, network, adam, batch, objective, values)
    elif sloped is None or network.log_std is None or settings.entropy:
        gradients = _by_hand(network, batch, _any_head(settings, network, objective), values)
    else:
        gradients = _by_hand(network, batch, _surrogate_head(network, batch, sloped), values)
    moved, done = _Moved(torch.zeros(()), torch.zeros(())), 0
    descended: list[_Descended] = []  # in the last pass
    for done in range(1, settings.passes + 1):  # noqa: B007  (the number of passes made is reported)
        descended.clear()
        for whole in torch.randperm(size, generator=rng).split(minibatch):
            rows = learners.share(whole)
            if len(rows):
                descended.append(gradients(rows, len(rows) / len(whole)))
            else:  # a last minibatch may have fewer rows than there are learners
                adam.zero_grad()
            learners.add(adam.grads)
            adam.step(settings.grad_norm)
        moved = _moved(network, batch, start, learners)
        if not torch.isfinite(moved.kl) or (settings.target_kl is not None and moved.kl > settings.target_kl):
            break
    policy_loss, value_loss = _mean_losses(descended, math.ceil(size / minibatch), learners)
    return PassesReport(float(moved.kl), done, policy_loss, value_loss, float(moved.entropy))


def _mean_losses(descended: Sequence[_Descended], minibatches: int, learners: Learners) -> list[float]:
    """−objective and Σ(V − target)², means over the minibatches of a pass."""
    sums = torch.zeros(2)
    for gain, error, share in descended:
        sums[0] -= share * gain
        if error is not None:
            sums[1] += share * error.flatten(0, -2).T.contiguous().square().mean(1).sum()
    learners.add([sums])
    return (sums / minibatches).tolist()


def ratio_of(policy: Distribution, batch: Rows[Any], rows: Tensor) -> Tensor:
    """ρ = π(a|s)/π_old(a|s) of the actions taken at these rows, [b]."""
    return (policy.log_prob(batch.draw[rows]) - batch.log_prob[rows]).exp()


class RowByRow(MinibatchPasses):
    """Passes on the mean of a gain by row, and nothing else: of such an update seeds may be trained in one stack."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    @abstractmethod
    def gain(self, batch: Rows[Tensor]) -> Gain:
        """What is gained at each row, of the policy there and the rows' index."""

    def sloped(self, batch: Rows[Tensor]) -> SlopedGain | None:  # noqa: ARG002
        """The same of log π alone, with its slope, where a closed form spares autograd; None where it does not."""
        return None

    def learn(
        self, network: ActorCritic, adam: FlatAdam, batch: Rows[Tensor], progress: float, rng: torch.Generator
    ) -> PassesReport:
        """Passes on the mean gain."""
        self.set_rates(adam, progress)
        gain, sloped = self.gain(batch), self.sloped(batch)
        return ascend(self, network, adam, batch, lambda policy, rows: gain(policy, rows).mean(), rng, sloped=sloped)


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

    def sloped(self, batch: Rows[Tensor]) -> SlopedGain:
        """The surrogate with its slope."""

        def surrogate(log_prob: Tensor, rows: Tensor, weight: float) -> Sloped:
            old, advantage = batch.log_prob.index_select(0, rows), batch.advantage.index_select(0, rows)
            return sloped_surrogate(log_prob, old, advantage, self.clip, weight)

        return surrogate
