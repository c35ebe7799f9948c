"""What a step becomes when an episode is played under rules of its own: extra state z, another reward, cost, end.

Budgets in the observation (`saute.py`, `simmer.py`, `early_termination.py`) and kinds of limit (`kinds.py`) are all
this: a frozen configuration with pure functions on arrays. The same functions drive the wrapper around a running world
(`augmented_world.py`) and an evaluator that enumerates (t, s, z) of a small process.

n rows, K costs, Z numbers of extra state, E of them or of functions of them observed.

What adapts between epochs (a budget, a threshold) is a value, `Parameters`, that enters through `start` alone: an
episode is played to its end by the rules it began with, whatever is learnt meanwhile.
"""

# ruff: noqa: ARG002  (all rules are asked alike; few need all they are given)

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trueline.core.config import Config

__all__ = ["Array", "Augmentation", "Outcome", "Parameters", "Steady", "Terms", "share_of"]

Array = NDArray[np.float64]
Parameters = Mapping[str, Array]  # by name; arrays whose last dimension is K


class Terms(NamedTuple):
    """What the rules are about: the limits as they are set, and the length of an episode."""

    limit: Array  # [K] d, undiscounted cost per episode unless the kind of limit says otherwise
    steps: int  # T, the world's own limit of time


class Outcome(NamedTuple):
    """What a step becomes."""

    z: Array  # [n, Z]
    reward: Array  # [n]
    cost: Array  # [n, K]
    terminated: NDArray[np.bool_]  # [n] the rules end the episode here, whatever the world says


class Augmentation(Protocol):
    """Rules by which episodes are played in training. All functions are pure."""

    @property
    def terminates(self) -> bool:
        """Whether `step` ever ends an episode that the world would go on with."""
        ...

    def check(self, terms: Terms) -> None:
        """Raises ConfigError for limits or lengths of episodes that these rules make no sense for."""
        ...

    def parameters(self, terms: Terms) -> Parameters:
        """What adapts, before the first episode; {} where nothing does."""
        ...

    def adapted(self, terms: Terms, parameters: Parameters, episode_cost: Array) -> Parameters:
        """Parameters of the next epoch from the raw costs [E, K] of finished episodes; E = 0 changes nothing."""
        ...

    def start(self, terms: Terms, parameters: Parameters, n: int) -> Array:
        """z of n episodes that begin, [n, Z]."""
        ...

    def step(self, terms: Terms, z: Array, reward: Array, cost: Array) -> Outcome:
        """One step of each row: z [n, Z], the world's reward [n] and cost [n, K]."""
        ...

    def observed(self, terms: Terms, z: Array) -> Array:
        """What is appended to the observation, [n, E]."""
        ...

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d̃ [K]: what the episode sums of `step`'s cost are to stay under."""
        ...

    def stated(self, terms: Terms) -> Array:
        """The number [K] that a user set as the limit, where d̃ moves; (J̃ − d̃)/unit + stated is held against it."""
        ...

    def unit(self, terms: Terms) -> Array:
        """[K]: how much cost of `step` is worth one of what the stated limit counts, a cost or a probability."""
        ...

    def reported(self, terms: Terms, parameters: Parameters) -> Parameters:
        """What of the parameters belongs into a log: name -> [K]."""
        ...


class Steady(Config):
    """The part of the contract that is the same for all rules in which nothing adapts and the limits are the set d."""

    @property
    def terminates(self) -> bool:
        """They end no episode."""
        return False

    def check(self, terms: Terms) -> None:
        """Any limit will do."""

    def parameters(self, terms: Terms) -> Parameters:
        """None."""
        return {}

    def adapted(self, terms: Terms, parameters: Parameters, episode_cost: Array) -> Parameters:
        """The same."""
        return parameters

    def limit(self, terms: Terms, parameters: Parameters) -> Array:
        """d."""
        return terms.limit

    def stated(self, terms: Terms) -> Array:
        """d."""
        return terms.limit

    def unit(self, terms: Terms) -> Array:
        """One: costs are counted as they are."""
        return np.ones(len(terms.limit))

    def reported(self, terms: Terms, parameters: Parameters) -> Parameters:
        """Nothing."""
        return {}


def share_of(value: Array, whole: Array) -> Array:
    """value/whole where there is a whole, and value itself where it is 0.  [n, K], [K] -> [n, K]."""
    share: Array = value / np.where(whole > 0.0, whole, 1.0)
    return share
