"""Finite constrained Markov decision processes: small enough that their optimum is known exactly.

S states, A actions, K costs, horizon H; returns and costs are undiscounted sums over the H steps of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cmdp:
    """One process. Arrays are taken over as read-only float64; raises ConfigError naming what does not fit.

    transition[s, a, s'] = P(s' | s, a); every episode lasts `horizon` steps. `limit` d holds one undiscounted cost per
    episode for each of `costs`.
    """

    name: str
    transition: Array  # [S, A, S]
    reward: Array  # [S, A]
    cost: Array  # [S, A, K], 0 or more; whole numbers where the law of the accumulated cost is asked for
    start: Array  # [S]
    horizon: int  # H
    limit: tuple[float, ...]  # [K]
    costs: tuple[str, ...] = ("cost",)  # [K]

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "cost", "start"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "limit", tuple(float(d) for d in self.limit))
        object.__setattr__(self, "costs", tuple(self.costs))
        self._check()

    def _check(self) -> None:
        def refuse(what: str) -> None:
            raise ConfigError(f"CMDP {self.name!r}: {what}")

        if self.start.ndim != 1 or self.reward.ndim != 2 or self.reward.shape[0] != len(self.start):
            refuse(
                f"start has shape {self.start.shape} and reward {self.reward.shape}. Give start [S] and reward [S, A]."
            )
        states, actions = self.reward.shape
        if min(states, actions) < 1 or self.horizon < 1:
            refuse(f"it has {states} states, {actions} actions and horizon {self.horizon}. Each must be at least 1.")
        wanted = {"transition": (states, actions, states), "cost": (states, actions, len(self.costs))}
        for name, shape in wanted.items():
            given = getattr(self, name).shape
            if given != shape:
                refuse(f"{name} has shape {given}, but {shape} belongs to its reward and names of costs.")
        for name in ("transition", "reward", "cost", "start"):
            if not np.isfinite(getattr(self, name)).all():
                refuse(f"{name} holds a number that is not finite. Give finite numbers.")
        for name in ("transition", "start"):
            chances = getattr(self, name)
            if (chances < 0.0).any() or not np.allclose(chances.sum(-1), 1.0, rtol=0.0, atol=1e-9):
                refuse(f"{name} is no probability along its last dimension. Give numbers from 0 that sum to 1.")
        if (self.cost < 0.0).any():
            refuse("a cost is negative. Give costs of 0 or more, and what is earned as reward.")
        if not self.costs or len(set(self.costs)) < len(self.costs):
            refuse(f"its costs are named {self.costs}. Give at least one cost, and each a name of its own.")
        if len(self.limit) != len(self.costs) or not np.isfinite(self.limit).all() or min(self.limit) < 0.0:
            refuse(f"limit is {self.limit}. Give one finite limit of 0 or more for each of {', '.join(self.costs)}.")

    @property
    def states(self) -> int:
        """S."""
        return len(self.start)

    @property
    def actions(self) -> int:
        """A."""
        return self.reward.shape[1]

    @property
    def deterministic(self) -> bool:
        """Whether start and transitions leave nothing to chance."""
        return bool((self.start.max() == 1.0) and (self.transition.max(-1) == 1.0).all())

    def whole_cost(self, cost: int = 0) -> NDArray[np.int64]:
        """Cost number `cost` as integers [S, A].

        Accumulated over an episode it then takes finitely many values, which is what budgets, chance constraints and
        tails are computed on. Raises ConfigError where it is no whole number.
        """
        values = self.cost[..., cost]
        if (values != np.round(values)).any():
            raise ConfigError(
                f"CMDP {self.name!r}: {self.costs[cost]} is not a whole number everywhere, so that its sum over an "
                "episode is no finite state. Give whole numbers, or ask for expected costs."
            )
        return values.astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Nested lists and numbers from which `from_json` builds the same process."""
        arrays = {name: getattr(self, name).tolist() for name in ("transition", "reward", "cost", "start")}
        return {
            "name": self.name,
            **arrays,
            "horizon": self.horizon,
            "limit": list(self.limit),
            "costs": list(self.costs),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The process of `to_json`.  Raises ConfigError for a missing or unknown key."""
        keys = set(cls.__dataclass_fields__)
        if set(data) != keys:
            wrong = ", ".join(sorted(set(data) ^ keys))
            raise ConfigError(f"a CMDP is described by {', '.join(sorted(keys))}; missing or unknown: {wrong}.")
        return cls(**data)
