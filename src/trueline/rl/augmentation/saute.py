"""Sauté: the budget that is left is part of the observation, and without one there is no reward (Sootla et al. 2022a).

The extra state is kept as w = z·D, in units of cost, so that with γ_s = 1 and whole costs "spent to the last bit" is
exact arithmetic; the observation is z = w/D as published.
"""

# ruff: noqa: ARG002  (all rules are asked alike; few need all they are given)

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Array, Outcome, Parameters, Steady, Terms, share_of

__all__ = ["Saute", "discounted_budget", "refuse_growth", "saute_step"]

_MOST_GROWTH = 1e6  # of z over an episode: float32 networks see no difference between budgets beyond it


class Saute(Steady):
    """r̃ = r while every z is above 0, otherwise `unsafe_reward`;  z₀ = 1,  z ← (z − c/D)/γ_s, one z for each cost.

    D = d·(1 − γ_s^T)/((1 − γ_s)·T): what d comes to when spent evenly and discounted. z_t > 0 says that
    Σᵢ γ_sⁱ·cᵢ < D so far; with γ_s = 1 that is the undiscounted cost of the episode, and D = d. T is the world's own
    length of an episode, and z begins anew with every episode; the published code takes 1000 for every world.
    """

    kind: Literal["saute"] = "saute"
    gamma: float = Field(0.999, gt=0, le=1)  # γ_s: below 1, costs of early steps count more
    unsafe_reward: float = -1.0  # of every step without budget
    strict: bool = True  # z = 0 counts as unsafe, as published; False: an episode may cost exactly its budget

    def check(self, terms: Terms) -> None:
        """Refuses a budget that nothing could stay within, and a γ_s whose z grows beyond what a network can tell."""
        if self.strict and (terms.limit == 0.0).any():
            raise ConfigError(
                "cost_limit is 0, which strict Sauté counts as spent before the first step. "
                "Set augmentation.strict=false, or give a limit above 0."
            )
        refuse_growth(self.gamma, terms.steps)

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """w₀ = D."""
        return np.tile(discounted_budget(terms, self.gamma), (n, 1))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """The budget first, then the reward it allows: the step that spends the last of it is not paid for."""
        return saute_step(z, reward, cost, self.gamma, self.unsafe_reward, self.strict)

    def observed(self, terms: Terms, z: Array) -> Array:
        """z = w/D."""
        return share_of(z, discounted_budget(terms, self.gamma))


def discounted_budget(terms: Terms, gamma: float) -> Array:
    """D [K] = d·mean of γ_s^t over the T steps of an episode."""
    mean = 1.0 if gamma == 1.0 else (1.0 - gamma**terms.steps) / ((1.0 - gamma) * terms.steps)
    budget: Array = terms.limit * mean
    return budget


def saute_step(w: Array, reward: Array, cost: Array, gamma: float, unsafe_reward: float, strict: bool) -> Outcome:
    """w ← (w − c)/γ_s, and the reward of rows in which every budget is left.  w, cost [n, K], reward [n]."""
    left = (w - cost) / gamma
    safe = (left > 0.0 if strict else left >= 0.0).all(axis=1)
    never: NDArray[np.bool_] = np.zeros(len(w), np.bool_)
    return Outcome(left, np.where(safe, reward, unsafe_reward), cost, never)


def refuse_growth(gamma: float, steps: int) -> None:
    """Raises ConfigError when γ_s^−T, by which an untouched z grows in an episode of T steps, is beyond use."""
    if gamma**-steps > _MOST_GROWTH:
        least = _MOST_GROWTH ** (-1.0 / steps)
        raise ConfigError(
            f"augmentation.gamma is {gamma}, with which the budget observed grows by {gamma**-steps:.0e} over "
            f"{steps} steps. Give at least {np.ceil(least * 1e4) / 1e4}, or 1."
        )
