"""Early termination: an episode ends where its cost goes over the limit (Sun et al. 2021)."""

# ruff: noqa: ARG002  (all rules are asked alike; few need all they are given)

from __future__ import annotations

from typing import Literal

import numpy as np

from trueline.rl.augmentation.augment import Array, Outcome, Parameters, Steady, Terms, share_of

__all__ = ["EarlyTermination"]


class EarlyTermination(Steady):
    """C ← C + c; where C > d for any cost the episode terminates, and that step is paid `unsafe_reward`.

    Termination is a penalty as large as what the rest of the episode would have been worth. Where going on is worth
    less than nothing it is a way out, and `unsafe_reward` has to be lower still.

    C begins anew with every episode, for whatever reason the last one ended (in the published code only after a
    violation, so that a limit spans episodes), and the terminated step keeps its own last observation. How much is
    left, max(0, d − C)/d, is observed unless `observes` is off, as published, where the policy cannot know when it will
    be stopped. It stays at 0 beyond the limit: run on after a violation, a policy acts as one with nothing left.
    """

    kind: Literal["early-termination"] = "early-termination"
    unsafe_reward: float = 0.0  # of the violating step
    observes: bool = True  # what is left of the limit, one number per cost

    @property
    def terminates(self) -> bool:
        """It does."""
        return True

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """Nothing has been spent."""
        return np.zeros((n, len(terms.limit)))

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """The cost first, then whether the episode goes on."""
        spent = z + cost
        over = np.logical_or.reduce(spent > terms.limit, axis=1)
        return Outcome(spent, np.where(over, self.unsafe_reward, reward), cost, over)

    def observed(self, terms: Terms, z: Array) -> Array:
        """What is left, as a share of the limit."""
        if not self.observes:
            return np.zeros((len(z), 0))
        return share_of(np.maximum(terms.limit - z, 0.0), terms.limit)
