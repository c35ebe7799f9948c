"""Simmer: Sauté with a budget that a controller moves between nothing and its upper bound (Sootla et al. 2022b)."""

# ruff: noqa: ARG002  (all rules are asked alike; few need all they are given)

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Array, Outcome, Parameters, Terms, share_of
from trueline.rl.augmentation.saute import discounted_budget, refuse_growth, saute_step

__all__ = ["Simmer"]

_MEMORY = 10  # smoothed errors that the integral sums, as in OmniSafe
_LEAST = 1e-6  # a budget never reaches 0: the controller could not raise it from there in the published form


class Simmer(Config):
    """Sauté's rules with z₀ = D/D_u and z ← (z − c/D_u)/γ_s; D_u is the discounted budget of the limit, D ≤ D_u moves.

    Once an epoch, with J_C the mean cost of recent episodes in units of D (times D_u/d) and a reference ρ:
    e ← α·e + (1 − α)(ρ − J_C);  a = k_p·e + k_i·Σ(last 10 e) + k_d(a' − a″);  D ← clip(ρ + clip(a, ±1), 10⁻⁶, D_u),
    where a″ and a' are the last a before and after clipping. There are two references:

    * With `rise` ρ is a plan, as in the authors' own code: ρ = D_u·(init + (1 − init)·min(1, k/rise)) at move k. A
      policy that spends more than planned gets a smaller budget than planned, one that spends less a larger one, and
      from move `rise` on ρ = D_u: a policy that keeps the limit has D = D_u, and solves what Sauté solves.
    * Without, ρ = D, as in OmniSafe. That feeds back positively: D grows while D > J_C and shrinks while D < J_C, so
      that the point between is left in either direction. A budget below what any policy has to spend is never kept,
      hence cut further, down to nothing, where every action earns the same and nothing more is learnt.

    OmniSafe starts only the first episode of an epoch at z₀ = D/D_u and divides by D, not D_u, in the step; here every
    episode starts there, and z keeps one unit while D moves. The authors' plan has six steps; here it is a line.
    """

    kind: Literal["simmer"] = "simmer"
    gamma: float = Field(0.999, gt=0, le=1)  # γ_s
    unsafe_reward: float = -1.0  # of every step without budget
    strict: bool = True  # z = 0 counts as unsafe
    init: float = Field(1.0, gt=0, le=1)  # D/D_u of the first epoch; the published 25 of 25 is 1
    rise: int | None = Field(None, ge=1)  # moves until the plan is at D_u; none: the reference is the budget itself
    kp: float = Field(5e-4, ge=0)
    ki: float = Field(1e-5, ge=0)
    kd: float = Field(0.0, ge=0)
    smoothing: float = Field(0.995, ge=0, lt=1)  # α, Polyak averaging of the error

    @property
    def terminates(self) -> bool:
        """It ends no episode."""
        return False

    def check(self, terms: Terms) -> None:
        """Refuses a limit of 0, which leaves the controller nothing to move."""
        if (terms.limit == 0.0).any():
            raise ConfigError("cost_limit is 0, but Simmer moves a budget between 0 and that limit. Give one above 0.")
        refuse_growth(self.gamma, terms.steps)

    def parameters(self, terms: Terms) -> Parameters:
        """The share D/D_u, and the controller's memory."""
        zeros = np.zeros(len(terms.limit))
        state = {
            "share": zeros + self.init,
            "errors": np.zeros((_MEMORY, len(terms.limit))),  # smoothed, the latest last
            "wanted": zeros,  # a″
            "made": zeros,  # a'
        }
        return state if self.rise is None else {**state, "moves": zeros}

    def reference(self, parameters: Parameters) -> Array:
        """ρ/D_u [K] of the coming move."""
        if self.rise is None:
            return parameters["share"]
        done: Array = np.minimum((parameters["moves"] + 1.0) / self.rise, 1.0)
        return self.init + (1.0 - self.init) * done

    def adapted(self, terms: Terms, parameters: Parameters, episode_cost: Array) -> Parameters:
        """One step of the controller from E episodes [E, K]."""
        if not len(episode_cost):
            return parameters
        upper = discounted_budget(terms, self.gamma)
        planned = self.reference(parameters) * upper
        spent = episode_cost.mean(axis=0) * upper / terms.limit
        error = self.smoothing * parameters["errors"][-1] + (1.0 - self.smoothing) * (planned - spent)
        errors = np.concatenate([parameters["errors"][1:], error[None]])
        lag = parameters["made"] - parameters["wanted"]
        wanted = self.kp * error + self.ki * errors.sum(axis=0) + self.kd * lag
        moved = np.minimum(np.maximum(planned + np.clip(wanted, -1.0, 1.0), _LEAST), upper)
        state = {"share": moved / upper, "errors": errors, "wanted": wanted, "made": moved - planned}
        return state if self.rise is None else {**state, "moves": parameters["moves"] + 1.0}

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """w₀ = D."""
        return np.tile(parameters["share"] * discounted_budget(terms, self.gamma), (n, 1))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """As Sauté: the budget first, then the reward it allows."""
        return saute_step(z, reward, cost, self.gamma, self.unsafe_reward, self.strict)

    def observed(self, terms: Terms, z: Array) -> Array:
        """z = w/D_u: a smaller budget is seen as a budget partly spent."""
        return share_of(z, discounted_budget(terms, self.gamma))

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d: the upper bound is what is asked for in the end."""
        return terms.limit

    def stated(self, terms: Terms) -> Array:
        """d."""
        return terms.limit

    def unit(self, terms: Terms) -> Array:
        """One: costs are counted as they are."""
        return np.ones(len(terms.limit))

    def reported(self, terms: Terms, parameters: Parameters) -> Parameters:
        """The budget in units of cost per episode."""
        return {"budget": parameters["share"] * terms.limit}
