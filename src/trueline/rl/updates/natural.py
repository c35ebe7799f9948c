"""Natural policy gradient and TRPO (Kakade 2001; Schulman et al. 2015), and what every such update shares.

The policy takes one step a collection, x = √(2δ/q)·H⁻¹g with H the Hessian of the mean KL plus damping; the critics are
fitted afterwards by minibatch steps of their own.

Departures from OmniSafe 0.5.0 and SafePO:

1. The KL is summed over action dimensions. The originals average it, in the Fisher matrix and in the search, so
   that their δ is worth as many times more as there are dimensions.
2. In the subspace of the conjugate gradients' solutions H is taken as it is, however few the iterations: the step is as
   long as δ allows, and no longer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic
from trueline.rl.updates.backpropagation import Backpropagation
from trueline.rl.updates.fisher import LocalPolicy
from trueline.rl.updates.rows import Rows
from trueline.rl.updates.trust_region import Span, conjugate_gradient, natural_step, span_of


@dataclass(frozen=True, slots=True)
class NaturalReport:
    """What an update did."""

    kl: float
    fraction: float  # of the full step that was taken; 0: none was acceptable
    gain: float  # rise of the surrogate
    gradient_norm: float
    value_loss: float  # mean over the minibatches of the last pass
    entropy: float


class Natural(Config):
    """Settings that natural-gradient updates share; the defaults are OmniSafe's and SafePO's."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]]

    target_kl: float = Field(0.01, gt=0)  # δ: bound on KL(old‖new), summed over actions
    cg_iters: int = Field(15, ge=1)  # of conjugate gradients
    cg_damping: float = Field(0.1, ge=0)  # added to the Fisher matrix's diagonal
    fisher_stride: int = Field(1, ge=1)  # the Fisher matrix is averaged over every so-manieth row; 1: over all
    passes: int = Field(10, ge=0)  # of the critics over the batch
    minibatch: int = Field(128, ge=1)  # samples per gradient step of the critics
    critic_lr: float = Field(1e-3, gt=0)
    grad_norm: float = Field(40.0, gt=0)  # each critic's gradient is scaled down to this norm
    critic_l2: float = Field(0.001, ge=0)  # adds l2·Σθ² to the critics' loss

    def optimiser(self, network: ActorCritic) -> FlatAdam:
        """Adam over the critics. The policy, and an encoder of pictures with it, moves by natural steps alone."""
        critics = list(network.critics.parameters())
        return FlatAdam([Group(critics, self.critic_lr, rows=network.critics.heads, l2=self.critic_l2)])


class Npg(Natural):
    """The natural gradient at the length that the quadratic model of the KL allows, without a search (Kakade 2001)."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    def learn(
        self,
        network: ActorCritic,
        adam: FlatAdam,
        batch: Rows[Tensor],
        progress: float,  # noqa: ARG002  (nothing follows a schedule)
        rng: torch.Generator,
    ) -> NaturalReport:
        """θ ← θ + √(2δ/q)·H⁻¹g, then the critics."""
        return _reward_step(self, network, adam, batch, rng, lambda _: True, tries=1, shrink=1.0)


class Searched(Natural):
    """Settings of those that shorten the step until it is acceptable."""

    search_tries: int = Field(15, ge=1)
    search_shrink: float = Field(0.8, gt=0, lt=1)  # factor on the step from one try to the next


class Trpo(Searched):
    """That step, shortened until the surrogate rises and the KL is within δ (Schulman et al. 2015, appendix C)."""

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "mixed"

    def learn(
        self,
        network: ActorCritic,
        adam: FlatAdam,
        batch: Rows[Tensor],
        progress: float,  # noqa: ARG002  (nothing follows a schedule)
        rng: torch.Generator,
    ) -> NaturalReport:
        """One searched step, then the critics."""

        def accept(trial: Trial) -> bool:
            return trial.kl <= self.target_kl and trial.change[0] >= 0.0

        return _reward_step(self, network, adam, batch, rng, accept, self.search_tries, self.search_shrink)


def _reward_step(
    settings: Natural,
    network: ActorCritic,
    adam: FlatAdam,
    batch: Rows[Tensor],
    rng: torch.Generator,
    accept: Callable[[Trial], bool],
    tries: int,
    shrink: float,
) -> NaturalReport:
    here = Here(network, batch, batch.advantage[:, None])
    span = natural_span(settings, here)
    direction = span.step(natural_step(span.gram, settings.target_kl).coefficients)
    taken = backtrack(here, direction, accept, tries, shrink)
    value_loss = fit_critics(settings, network, adam, batch, rng)
    norm = float(here.gradients[0].norm())
    return NaturalReport(taken.kl, taken.fraction, taken.change[0], norm, value_loss, taken.entropy)


# --- the policy's step ---


class Trial(NamedTuple):
    """What a step of some length does, measured on the batch and not predicted."""

    fraction: float  # of the full step
    kl: float
    change: Sequence[float]  # [R] of each surrogate
    entropy: float


class Here:
    """The policy that acted, its surrogates' gradients, and what the policy would do at other parameters.

    A surrogate is the batch's mean of ρA, ρ = π/π_old, for one column of advantages.
    """

    def __init__(self, network: ActorCritic, batch: Rows[Any], advantages: Tensor) -> None:
        """advantages: [B, R]. Moves the policy's parameters into one flat tensor; they stay the same objects."""
        self.network, self.batch, self.advantages = network, batch, advantages
        self.local = LocalPolicy(network, batch.inputs)
        with torch.no_grad():
            self.ratio = self._ratio(self.local.policy)
        self.gradients = self.local.gradients(self._surrogates)  # [R, P]
        self.theta = _flattened(self.local.parameters)
        self.start = self.theta.clone()

    def _ratio(self, policy: Distribution) -> Tensor:
        return (policy.log_prob(self.batch.draw) - self.batch.log_prob).exp()

    def _surrogates(self, policy: Distribution) -> list[Tensor]:
        ratio = self._ratio(policy)
        return [(ratio * column).mean() for column in self.advantages.unbind(1)]

    @torch.no_grad()
    def move(self, step: Tensor, fraction: float) -> Trial:
        """θ ← θ_old + fraction·step, and what that does."""
        torch.add(self.start, step, alpha=fraction, out=self.theta)
        policy = self.network.policy(self.network.encoder(self.batch.inputs))
        change = (self._ratio(policy) - self.ratio) @ self.advantages / len(self.advantages)
        kl = self.batch.policy.kl(policy).mean()
        return Trial(fraction, float(kl), change.tolist(), float(policy.entropy().mean()))


def _flattened(parameters: Sequence[Tensor]) -> Tensor:
    """One tensor of all numbers, of which the parameters become views: a step is then one call."""
    flat = torch.cat([p.detach().flatten() for p in parameters])
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.data = part.view_as(p)
    return flat


def natural_span(settings: Natural, here: Here) -> Span:
    """H⁻¹ times each surrogate's gradient, H the Fisher matrix plus damping."""
    local = here.local
    if settings.fisher_stride > 1:
        inputs = {name: x[:: settings.fisher_stride] for name, x in here.batch.inputs.items()}
        local = LocalPolicy(here.network, inputs)

    def product(direction: Tensor) -> Tensor:
        return local.fisher_product(direction) + settings.cg_damping * direction

    return span_of(here.gradients, conjugate_gradient(product, here.gradients, settings.cg_iters))


def backtrack(here: Here, step: Tensor, accept: Callable[[Trial], bool], tries: int, shrink: float) -> Trial:
    """The first of the fractions 1, shrink, shrink² … that is acceptable; the policy is left there.

    Where none is, it is left where it was, with a fraction of 0.
    """
    step = step.to(here.theta)
    for n in range(tries):
        trial = here.move(step, shrink**n)
        if math.isfinite(trial.kl) and all(map(math.isfinite, trial.change)) and accept(trial):
            return trial
    return here.move(step, 0.0)


# --- the critics ---


def fit_critics(
    settings: Natural, network: ActorCritic, adam: FlatAdam, batch: Rows[Any], rng: torch.Generator
) -> float:
    """Passes of minibatch steps on Σ(V − target)², of all critics at once; the last pass's mean loss."""
    if not settings.passes:
        return math.nan  # a member of a team has no critics of its own
    with torch.no_grad():
        features = network.encoder(batch.inputs)
    critics, errors = Backpropagation(network.critics), list[Tensor]()
    for _ in range(settings.passes):
        errors.clear()
        for rows in torch.randperm(len(features), generator=rng).split(settings.minibatch):
            error = critics.forward(features.index_select(0, rows)) - batch.target.index_select(0, rows).T
            critics.backward(error * (2.0 / len(rows)))
            adam.step(settings.grad_norm)
            errors.append(error)
    return statistics.fmean(float(error.square().mean(1).sum()) for error in errors)
