"""What a limit is on: kinds of constraint as maps from an episode to a cost c̃ per step and a limit d̃.

A handler, a critic or a slack sees c̃ and d̃ alone, so that each of these goes with every constrained row. Episode sums
of c̃ are the constrained quantity whatever the discount; each is charged in the step that incurs it. Both are counted in
costs, not in shares or chances (`unit`): gains and penalties are set per cost of an episode, and a multiplier that has
to be a thousand times larger is never reached.

A hard limit of 0 is not among them: see `refuse_hard`.
"""

# ruff: noqa: ARG002  (all rules are asked alike; few need all they are given)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Array, Outcome, Parameters, Steady, Terms, share_of

__all__ = ["Chance", "Cvar", "Expected", "LimitOn", "StepRate", "refuse_hard", "value_at_risk"]

_HARD = (
    "{} asks for a limit that no episode breaks. A multiplier weighs cost against reward and cannot promise that: "
    "use a row with a budget (ppo-saute, ppo-early), mask unsafe actions, or put a filter before the world"
)


class Expected(Steady):
    """E[Σc] ≤ d: c̃ = c."""

    kind: Literal["expected"] = "expected"

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """No extra state."""
        return np.zeros((n, 0))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """Everything as it is."""
        return Outcome(z, reward, cost, _never(cost))

    def observed(self, terms: Terms, z: Array) -> Array:
        """Nothing."""
        return z


class StepRate(Steady):
    """E[share of an episode's T steps that cost anything] ≤ d: c̃ = 1{c > 0}, d̃ = d·T, with d between 0 and 1."""

    kind: Literal["step-rate"] = "step-rate"

    def check(self, terms: Terms) -> None:
        """Refuses what is no share."""
        if (terms.limit > 1.0).any():
            raise ConfigError(
                f"cost_limit is {terms.limit.max():g}, but a limit on the step rate is a share of the steps. "
                "Give one from 0 to 1."
            )

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """No extra state."""
        return np.zeros((n, 0))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """One for each step with a cost, however large."""
        return Outcome(z, reward, (cost > 0.0).astype(np.float64), _never(cost))

    def observed(self, terms: Terms, z: Array) -> Array:
        """Nothing."""
        return z

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d·T."""
        return terms.limit * self.unit(terms)

    def unit(self, terms: Terms) -> Array:
        """T steps are a rate of one."""
        return np.full(len(terms.limit), float(terms.steps))


class Chance(Steady):
    """P(Σc > d) ≤ p: c̃ = d/p in the step in which the accumulated cost C first passes d, d̃ = d.

    Where d is 0 both are those of d = 1. C is observed as min(C, d)/d, and beside it whether it has passed d: from then
    on nothing more can be lost.
    """

    kind: Literal["chance"] = "chance"
    probability: float = Field(0.1, ge=0, lt=1)  # p, of an episode above cost_limit

    @field_validator("probability")
    @classmethod
    def _soft(cls, value: float) -> float:
        if value == 0.0:
            raise ValueError(_HARD.format("a probability of 0"))
        return value

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """C = 0."""
        return np.zeros((n, len(terms.limit)))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """Charged once an episode."""
        spent = z + cost
        crossed = (spent > terms.limit) & (z <= terms.limit)
        return Outcome(spent, reward, crossed * self.unit(terms), _never(cost))

    def observed(self, terms: Terms, z: Array) -> Array:
        """[n, 2K]: how near C is to d, and whether it has passed it."""
        near = share_of(np.minimum(z, terms.limit), terms.limit)
        return np.concatenate([near, (z > terms.limit).astype(np.float64)], axis=1)

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d, or 1 where d is 0."""
        return np.where(terms.limit > 0.0, terms.limit, 1.0)

    def stated(self, terms: Terms) -> Array:
        """p."""
        return np.full(len(terms.limit), self.probability)

    def unit(self, terms: Terms) -> Array:
        """d̃/p is a chance of one."""
        return self.limit(terms, {}) / self.probability


class Cvar(Config):
    """CVaR_α(Σc) ≤ d, the mean of the worst share 1 − α of episodes (Rockafellar & Uryasev 2000; Chow et al. 2017).

    CVaR_α = min over ν of ν + E(Σc − ν)₊/(1 − α), attained at the α-quantile, so for any ν that sum is an upper bound:
    c̃ = [(C' − ν)₊ − (C − ν)₊]/(1 − α) for a step from accumulated cost C to C', d̃ = d − ν. Its episode sum is
    (Σc − ν)₊/(1 − α), which charging all of it in the last step would give too, at a discount that forgets it.

    ν follows the α-quantile of recent episodes on the slower time scale, ν ← ν + rate·(quantile − ν), within [0, d]:
    the quantile of a policy that keeps the limit lies there, being at most its CVaR. Policy and ν are each improved for
    what the other is at present: where two pairs are both at rest, the better one need not be found.
    """

    kind: Literal["cvar"] = "cvar"
    level: float = Field(0.9, ge=0, lt=1)  # α; 0 is the mean over all episodes
    rate: float = Field(0.05, gt=0, le=1)  # of ν, once an epoch

    @property
    def terminates(self) -> bool:
        """It ends no episode."""
        return False

    def check(self, terms: Terms) -> None:
        """Any limit will do."""

    def parameters(self, terms: Terms) -> Parameters:
        """ν = d: before anything is learnt most episodes lie above the limit."""
        return {"threshold": terms.limit.astype(np.float64)}

    def adapted(self, terms: Terms, parameters: Parameters, episode_cost: Array) -> Parameters:
        """ν from E episodes [E, K]."""
        if not len(episode_cost):
            return parameters
        threshold = np.minimum(parameters["threshold"], terms.limit)
        quantile = np.clip(value_at_risk(episode_cost, self.level), 0.0, terms.limit)
        return {"threshold": threshold + self.rate * (quantile - threshold)}

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """(C, ν) = (0, ν): ν is part of the state, so that an episode keeps the one it began with."""
        threshold = np.minimum(parameters["threshold"], terms.limit)
        return np.tile(np.concatenate([np.zeros_like(threshold), threshold]), (n, 1))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """What the step adds to (C − ν)₊/(1 − α)."""
        before, threshold = np.split(z, 2, axis=1)
        after = before + cost
        added = np.maximum(after - threshold, 0.0) - np.maximum(before - threshold, 0.0)
        return Outcome(np.concatenate([after, threshold], axis=1), reward, added / (1.0 - self.level), _never(cost))

    def observed(self, terms: Terms, z: Array) -> Array:
        """C as a share of d."""
        return share_of(z[:, : len(terms.limit)], terms.limit)

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d − ν."""
        return terms.limit - np.minimum(parameters["threshold"], terms.limit)

    def stated(self, terms: Terms) -> Array:
        """d."""
        return terms.limit

    def unit(self, terms: Terms) -> Array:
        """One: a tail is made of costs."""
        return np.ones(len(terms.limit))

    def reported(self, terms: Terms, parameters: Parameters) -> Parameters:
        """ν."""
        return {"threshold": np.minimum(parameters["threshold"], terms.limit)}


LimitOn = Expected | StepRate | Chance | Cvar  # told apart by `kind`


def refuse_hard(given: Any) -> None:
    """Raises ValueError, saying why, for settings of `limit_on` that ask for a hard limit."""
    if isinstance(given, Mapping) and given.get("kind") == "hard-zero":
        raise ValueError(_HARD.format("limit_on.kind 'hard-zero'"))


def value_at_risk(episode_cost: Array, level: float) -> Array:
    """The smallest ν [K] that at least a share `level` of episodes [E, K] stays within."""
    quantile: Array = np.quantile(episode_cost, level, axis=0, method="inverted_cdf")
    return quantile


def _never(cost: Array) -> NDArray[np.bool_]:
    return np.zeros(len(cost), np.bool_)
