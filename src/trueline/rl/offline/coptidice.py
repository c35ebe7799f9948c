# ruff: noqa: ARG002  (one signature for all updates, of which each has its own use)
"""COptiDICE: the stationary distribution of the best constrained policy near the data (Lee et al. 2022).

    max_w  E_D[w r] − α E_D[f(w)]   subject to   E_D[w c_k] ≤ d_k/T   and the flow of w·d^D

Its dual in ν(s) and λ ≥ 0, with e = r − Σλ_k c_k + γν(s') − ν(s) and n the share of a step in an episode:

    min_ν  n·E_{s₀}[ν] + E_D[w e − α f(w)],   w = f'⁻¹(e/α),   λ ascends  bound_k − d_k/T
    policy ascends  E_D[w·log π(a | s)]

f is the soft χ²: x log x − x + 1 below 1, ½(x − 1)² above, so that w stays positive. A cost's bound is the largest that
any distribution within KL ε of the data gives it; with χ(s) and a temperature τ per cost,

    ℓ = n·χ(s₀) + w(c + γχ(s') − χ(s)),   min_{χ, τ ≥ 0}  τ log E_D[exp(ℓ/τ)] + τε

and at ε = 0 it is E_D[w c]. One discount is that of reward and costs alike, since w is about one distribution.

Where a step has several outcomes, e is about the one that was seen, so that w may count lucky outcomes for more than
their chance: what is solved is then too hopeful. In deterministic processes it is the problem above.

Departures from OmniSafe 0.5.0:

1. λ is steered by that bound. The original computes its weights and then steers by E_D[w c], whatever ε is.
2. χ descends the bound with its weights held still; the original lets the gradient into them.
3. n is 1/Σ_{t<T} γᵗ and not 1 − γ: episodes of T steps then have weights of mean 1 at any γ, and γ = 1 is allowed.
   The limit is an undiscounted cost per episode, as everywhere; the original takes one per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.networks import StackedMlp
from trueline.rl.off_policy.networks import ActorQ, Learner, QNetwork, QPolicy
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.offline.behaviour_cloning import all_rows, cloning_loss, q_policy
from trueline.rl.offline.data import OfflineData
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ObservationCodec

LEAST_TAU, MOST_MULTIPLIER = 1e-6, 1e3  # the original's bounds


def divergence(x: Tensor) -> Tensor:
    """f(x), the soft χ²: x log x − x + 1 below 1, ½(x − 1)² above."""
    return torch.where(x < 1.0, torch.special.xlogy(x, x) - x + 1.0, 0.5 * (x - 1.0).square())


def inverse_slope(y: Tensor) -> Tensor:
    """f'⁻¹(y): exp y below 0, y + 1 above."""
    return torch.where(y < 0.0, y.clamp_max(0.0).exp(), y + 1.0)


def dual_loss(first: Tensor, advantage: Tensor, alpha: float, start: float) -> Tensor:
    """n·mean ν(s₀) + mean(w e − α f(w)) at w = f'⁻¹(e/α).  first [B], advantage e [B] -> a number.

    Its derivative by e is w, since w maximises w e − α f(w).
    """
    weight = inverse_slope(advantage / alpha).detach()
    return start * first.mean() + (weight * advantage - alpha * divergence(weight)).mean()


def tilted(ell: Tensor, tau: Tensor) -> Tensor:
    """exp(ℓ/τ)/mean exp(ℓ/τ), the worst distribution relative to the data's: ℓ [B, K], τ [K] -> [B, K] of mean 1."""
    return functional.softmax(ell / tau, dim=0) * len(ell)


def kl_of(weights: Tensor) -> Tensor:
    """mean w log w, the KL of a distribution with these weights of mean 1 to the data's: [B, K] -> [K]."""
    return torch.special.xlogy(weights, weights).mean(0)


class DiceLearner:
    """Policy, ν and the χ of each cost with their moments, λ and τ."""

    def __init__(self, network: ActorQ, plan: Plan, lr: float, init: float, rng: torch.Generator) -> None:
        """Head 0 of `potentials` is ν, head 1 + k is χ_k."""
        self.network, self.costs = network, len(plan.costs)
        self.actor = Learner(network, lr, lr)
        self.potentials = StackedMlp(1 + self.costs, network.encoder.width, 1, plan.critic, rng)
        rows = self.potentials.heads
        self.adam = FlatAdam([Group(list(self.potentials.parameters()), lr, rows=rows)])
        zeros = torch.zeros(self.costs, dtype=torch.float64)
        self.own = {"multiplier": zeros + init, "tau": zeros + 1.0}
        self.moments = {name: torch.zeros(2, self.costs, dtype=torch.float64) for name in self.own}
        self.moves = 0

    def ascend(self, name: str, slope: Tensor, lr: float, low: float, high: float) -> None:
        """Adam's step of λ or τ up a slope [K]; `moves` counts the step."""
        first, second = self.moments[name]
        slope = slope.to(torch.float64)
        moments = torch.stack([0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()])
        self.moments[name] = moments
        unbiased = moments[0] / (1.0 - 0.9**self.moves), moments[1] / (1.0 - 0.999**self.moves)
        self.own[name] = (self.own[name] + lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)).clamp(low, high)

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the policy's network."""
        return {
            "actor": self.actor.state_dict(),
            "potentials": dict(self.potentials.state_dict()),
            "adam": self.adam.state_dict(),
            "own": dict(self.own),
            "moments": dict(self.moments),
            "moves": self.moves,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self.actor.load_state_dict(state["actor"])
        self.potentials.load_state_dict(state["potentials"])
        self.adam.load_state_dict(state["adam"])
        self.own, self.moments, self.moves = dict(state["own"]), dict(state["moments"]), int(state["moves"])


class Coptidice(Config):
    """Gradient steps of COptiDICE; the defaults are OmniSafe's."""

    takes: ClassVar[tuple[Literal["reward", "weights", "limits"], ...]] = ("limits",)
    one_discount: ClassVar[bool] = True

    batch: int = Field(256, ge=1)
    lr: float = Field(3e-3, gt=0)  # of policy, ν and χ
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    alpha: float = Field(8e-4, gt=0)  # α, the price of leaving the data's distribution
    epsilon: float = Field(0.05, ge=0)  # ε, the KL within which a cost's bound holds; 0: the cost as it is estimated
    multiplier_lr: float = Field(0.035, gt=0)
    multiplier_init: float = Field(0.0, ge=0)
    tau_lr: float = Field(3e-3, gt=0)

    def learner(self, plan: Plan, rng: torch.Generator) -> DiceLearner:
        """Policy and potentials. Its critic is never trained, and is kept as small as can be."""
        shape = plan.shape(1, critic=QNetwork(hidden=()))._replace(costs=())
        network = ActorQ(plan.observation, plan.action, shape, rng)
        return DiceLearner(network, plan, self.lr, self.multiplier_init, rng)

    def policy(
        self,
        learner: DiceLearner,
        observation: ObservationCodec,
        world: WorldRef,
        kept: Mapping[str, Any],
        parent: str | None,
    ) -> QPolicy:
        """The weighted clone."""
        return q_policy(
            learner.actor, observation, world, {**kept, "multipliers": learner.own["multiplier"].tolist()}, parent
        )

    def rows(self, data: OfflineData, limit: Tensor) -> NDArray[Any]:
        """All."""
        return all_rows(data, limit)

    def learn(
        self, learner: DiceLearner, batch: Transitions, first: Tensor, terms: Terms, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """One step of ν, χ, λ, τ and the policy."""
        learner.moves += 1
        here, after, begin = (learner.potentials(x)[..., 0] for x in (batch.obs, batch.after, first))  # [B, 1 + K]
        multiplier = learner.own["multiplier"].to(here)
        reward, cost = batch.signal[:, 0], batch.signal[:, 1:]
        advantage = reward - cost @ multiplier + batch.discount[:, 0] * after[:, 0] - here[:, 0]
        loss = dual_loss(begin[:, 0], advantage, self.alpha, terms.start)
        weight = inverse_slope(advantage.detach() / self.alpha)
        bound = weight[:, None] * cost
        if self.epsilon > 0.0:
            ell = terms.start * begin[:, 1:] + weight[:, None] * (
                cost + batch.discount[:, :1] * after[:, 1:] - here[:, 1:]
            )
            worst = tilted(ell.detach(), learner.own["tau"].to(ell))
            bound = worst * bound
            loss = loss + (worst * ell).mean(0).sum()
        learner.adam.zero_grad()
        loss.backward()
        learner.adam.step(self.grad_norm)
        excess = bound.mean(0) - terms.step_limit
        learner.ascend("multiplier", excess, self.multiplier_lr, 0.0, MOST_MULTIPLIER)
        if self.epsilon > 0.0:
            learner.ascend("tau", kl_of(worst) - self.epsilon, self.tau_lr, LEAST_TAU, float("inf"))
        policy_loss = learner.actor.improve_policy(
            batch.obs, lambda policy: cloning_loss(policy, batch.action, weight), self.grad_norm
        )
        report = {"dual_loss": loss.detach(), "policy_loss": policy_loss, "weight": weight.mean()}
        return report | {f"multiplier_{k}": value for k, value in enumerate(learner.own["multiplier"])}
