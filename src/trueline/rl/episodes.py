"""Episodes that ended in a training: which of them steer its constraints, and what the last of them came to.

A limit is on E[cost] of the policy on the layouts that training draws. Layouts that failed an audit cost more than the
average, and random actions are not the policy: episodes with either are learnt from like all others, but move neither a
multiplier nor the slack of an update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAILED_FROM", "MOST_MET", "Ended", "Finished", "Recent", "Steering", "fresh", "latest"]

MOST_MET = 512  # training layouts a policy remembers, for the audit that compares them with unseen ones
FAILED_FROM = 1 << 31  # layout seeds from here on belong to audits (core/streams.py)

_Number = TypeVar("_Number", bound=np.generic)


def fresh(seeds: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether each layout is one that training drew, and no finding of an audit.  [E] -> [E]."""
    return seeds < FAILED_FROM


def latest(kept: NDArray[_Number], more: NDArray[_Number], most: int) -> NDArray[_Number]:
    """The last `most` rows of `kept` and then `more`."""
    return np.concatenate([kept, more])[-most:]


class Finished(NamedTuple):
    """The E episodes that ended in a step."""

    rows: NDArray[np.int64]  # [E] their environments
    episode_return: NDArray[np.float64]  # [E]
    cost: NDArray[np.float64]  # [E, K]
    length: NDArray[np.int64]  # [E]
    own: NDArray[np.bool_]  # [E] the policy's alone, on a fresh layout: what constraints are steered by


@dataclass(slots=True)
class Ended:
    """The episodes that ended in an epoch, as the world itself paid and charged them."""

    episode_return: list[float] = field(default_factory=list)
    cost: list[NDArray[np.float64]] = field(default_factory=list)  # [K] each
    length: list[int] = field(default_factory=list)

    def add(self, finished: Finished, cost: NDArray[np.float64]) -> None:
        """E more of them, which cost [E, K]."""
        self.episode_return.extend(finished.episode_return.tolist())
        self.cost.extend(cost)
        self.length.extend(finished.length.tolist())

    def logged(self, costs: Sequence[str]) -> dict[str, float]:
        """Their means as train/…; nothing before one has ended: there is no estimate then."""
        if not self.length:
            return {}
        found = {"train/return": float(np.mean(self.episode_return)), "train/length": float(np.mean(self.length))}
        means = zip(costs, np.mean(self.cost, axis=0), strict=True)
        return found | {f"train/{name}": float(mean) for name, mean in means}


class Steering:
    """What constraints are steered by: the last episodes of the policy's own on fresh layouts, as they were charged.

    J_C is the mean of `cost`. Where rules of a row charge something else than the world does, it is their charge.
    """

    def __init__(self, costs: int, window: int) -> None:
        """costs: K; window: how many episodes."""
        self.window, self.cost, self.length = window, np.zeros((0, costs)), np.zeros(0, dtype=np.int64)

    def add(self, cost: NDArray[np.float64], length: NDArray[np.int64]) -> None:
        """E more such episodes: cost [E, K], length [E] in steps."""
        self.cost, self.length = latest(self.cost, cost, self.window), latest(self.length, length, self.window)

    def shift(self, by: NDArray[np.float64]) -> None:
        """Limits have moved by so much [K]: an episode counted under other limits keeps its excess over them."""
        self.cost = self.cost + by

    def state_dict(self) -> dict[str, Any]:
        """The episodes."""
        return {"cost": self.cost, "length": self.length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Those of a checkpoint."""
        self.cost, self.length = state["cost"], state["length"]


class Recent:
    """The last episodes of a training, as the world itself paid and charged them."""

    def __init__(self, costs: int, window: int) -> None:
        """costs: K; window: how many episodes."""
        self.window, self.episode_return, self.cost = window, np.zeros(0), np.zeros((0, costs))

    def add(self, episode_return: NDArray[np.float64], cost: NDArray[np.float64]) -> None:
        """Episodes that ended: returns [E], costs [E', K]; some may tell one of the two alone."""
        self.episode_return = latest(self.episode_return, episode_return, self.window)
        self.cost = latest(self.cost, cost, self.window)

    def shown(self) -> str:
        """Their means, for beside the bar; "" before the first has ended."""
        if not len(self.episode_return):
            return ""
        note = f"return {self.episode_return.mean():.1f}"
        if self.cost.size:
            note += " cost " + " ".join(f"{x:.1f}" for x in self.cost.mean(0))
        return note

    def state_dict(self) -> dict[str, Any]:
        """The episodes."""
        return {"return": self.episode_return, "cost": self.cost}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Those of a checkpoint."""
        self.episode_return, self.cost = state["return"], state["cost"]
