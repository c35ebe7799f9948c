"""Constrained update projection (Yang et al. 2022): improve the reward, then go back towards what costs allow."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.rl.adam import FlatAdam
from trueline.rl.distributions import Distribution
from trueline.rl.handlers.constraint import Weights
from trueline.rl.networks import ActorCritic
from trueline.rl.updates.ppo import MinibatchPasses, ascend, ratio_of
from trueline.rl.updates.rows import Rows, WeightedAdvantage
from trueline.rl.updates.surrogate import clipped_surrogate


def steps_weighed(gamma: float, lam: float, horizon: int | None) -> float:
    """How many times the mean advantage of a step counts in the change of J, where advantages are GAE's.

    Let δ be the temporal differences under the new policy's transitions P. The change of J is start·(1 − γP)⁻¹δ, and
    their GAE(γ, λ) is A = (1 − γλP)⁻¹δ, so that the change is start·(1 − γP)⁻¹(1 − γλP)A: weights over the steps that
    sum to (1 − γλ)/(1 − γ) in an endless task (`horizon` None), as published. In an episode of T steps they sum to

        (1 − γλ)·Σ_{t<T−1} γᵗ + γᵀ⁻¹,

    since its last step has no successor. That has the published limit for T → ∞ and is 1 + (1 − λ)(T − 1) at γ = 1.

    Raises ConfigError for an endless task without a discount.
    """
    if horizon is None:
        if gamma == 1.0:
            raise ConfigError(
                "cost_gamma is 1, where an endless task has no finite cost. Give update.horizon, the steps of an "
                "episode, or a cost_gamma below 1."
            )
        return (1.0 - gamma * lam) / (1.0 - gamma)
    before_last = horizon - 1 if gamma == 1.0 else (1.0 - gamma ** (horizon - 1)) / (1.0 - gamma)
    return (1.0 - gamma * lam) * before_last + gamma ** (horizon - 1)


def projection_loss(ratio: Tensor, advantage_c: Tensor, kl: Tensor, nu: Tensor, steps: float) -> Tensor:
    """steps·ρ·Σₖ νₖA_cₖ + KL(π‖π₁).  ratio, kl [...], advantage_c [..., K], nu [K] -> [...]. To be minimised.

    Its mean over actions of the policy that acted is least at π ∝ π₁·exp(−steps·Σ νₖA_cₖ).
    """
    return steps * ratio * (advantage_c @ nu) + kl


def multipliers(weights: Weights) -> Tensor:
    """ν [K]: the weight of each cost against the reward's. Raises ConfigError where the reward has none."""
    if float(weights.reward) <= 0.0:
        raise ConfigError(
            "CUP improves the reward in every update, but the handler gave it no weight. Use a handler of multipliers, "
            "such as lagrangian."
        )
    return weights.cost / weights.reward


@dataclass(frozen=True, slots=True)
class CupReport:
    """What both steps did."""

    kl: float  # of the policy that acted from the one after the first step
    passes: int
    policy_loss: float  # of the first step, mean over the minibatches of its last pass
    value_loss: float
    projection_kl: float  # of the policy after the first step from the one after the second
    projection_passes: int
    projection_loss: float
    entropy: float  # at the end


class Cup(MinibatchPasses):
    """Passes on the clipped surrogate of the reward, then passes that project: less cost, near the improved policy.

    Both steps have the same settings, each stops by a KL of its own, and the second leaves the critics alone, unless
    they share an encoder with the policy, of pictures or with a memory: what it moves they would be left behind by, and
    are fitted along.
    The policy's moments go on through both; their count of steps, which matters in the first thousand steps of a
    training, is that of the first where the second leaves the critics alone.
    """

    takes: ClassVar[Literal["mixed", "weights", "slack"]] = "weights"

    clip: float = Field(0.2, gt=0, lt=1)  # ε of the reward's surrogate
    horizon: int | None = Field(None, ge=1)  # T: steps of an episode; none: endless, as published (cost_gamma < 1)

    def learn(
        self,
        network: ActorCritic,
        adam: FlatAdam,
        batch: Rows[WeightedAdvantage],
        progress: float,
        rng: torch.Generator,
    ) -> CupReport:
        """Improvement, then projection. Raises ConfigError for weights or a discount that it cannot work with."""
        self.set_rates(adam, progress)
        reward, cost, weights, gamma, lam = batch.advantage
        steps, nu = steps_weighed(gamma, lam, self.horizon), multipliers(weights).to(cost)

        def surrogate(policy: Distribution, rows: Tensor) -> Tensor:
            log_prob = policy.log_prob(batch.draw[rows])
            return clipped_surrogate(log_prob, batch.log_prob[rows], reward[rows], self.clip).mean()

        first = ascend(self, network, adam, batch, surrogate, rng)
        with torch.no_grad():
            improved = network.policy(network.encoder(batch.inputs)).detach()

        def projection(policy: Distribution, rows: Tensor) -> Tensor:
            kl = policy.kl(improved.rows(rows))
            return -projection_loss(ratio_of(policy, batch, rows), cost[rows], kl, nu, steps).mean()

        shared = any(True for _ in network.encoder.parameters())
        moved = adam if shared else of_policy(adam)
        second = ascend(self, network, moved, batch, projection, rng, values=shared, start=improved)
        return CupReport(
            first.kl,
            first.passes,
            first.policy_loss,
            first.value_loss,
            second.kl,
            second.passes,
            second.policy_loss,
            second.entropy,
        )


def of_policy(adam: FlatAdam) -> FlatAdam:
    """The policy's part of an optimiser: the same parameters and moments, with steps that leave the critics alone."""
    part = copy.copy(adam)
    for name in ("groups", "values", "grads", "first", "second"):
        setattr(part, name, getattr(adam, name)[:1])
    return part
