"""What turns measured episode costs into the weights of the reward and of each cost.

A handler is a frozen configuration with three pure methods; its state is a value that goes into the checkpoint. It
never sees the policy: limits and costs are undiscounted per episode.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Weights(NamedTuple):
    """A = reward·A_r − Σₖ costₖ·A_cₖ.  reward: scalar tensor, cost: [K]."""

    reward: Tensor
    cost: Tensor


HandlerState = dict[str, Tensor]


class Handler(Protocol):
    """A constraint handler: Lagrangian, PID, barrier, switching."""

    def start(self, costs: int, multiplier: Tensor | None = None) -> HandlerState:
        """State before the first episode, for K costs; `multiplier` [K] goes on from where a warm start ended."""
        ...

    def update(self, state: HandlerState, episode_cost: Tensor, limit: Tensor) -> HandlerState:
        """State after E finished episodes.  episode_cost [E, K], limit [K]; E = 0 leaves the state unchanged."""
        ...

    def weights(self, state: HandlerState) -> Weights:
        """Weights of the reward and cost advantages."""
        ...


def normalised(multiplier: Tensor) -> Weights:
    """Weights 1/(1 + Σλ) and λ/(1 + Σλ): the scale of the mix stays put while λ moves."""
    total = 1.0 + multiplier.sum()
    return Weights(1.0 / total, multiplier / total)


def unconstrained(costs: int) -> Weights:
    """The weights of a row without a handler: the reward alone."""
    return Weights(torch.tensor(1.0, dtype=torch.float64), torch.zeros(costs, dtype=torch.float64))


def mix(advantage_r: Tensor, advantage_c: Tensor, weights: Weights) -> Tensor:
    """w_r·A_r − Σₖ w_cₖ·A_cₖ.  advantage_r [...], advantage_c [..., K] -> [...]."""
    reward, cost = (w.to(advantage_r) for w in weights)
    return reward * advantage_r - advantage_c @ cost


def mean_cost(episode_cost: Tensor) -> Tensor:
    """J_C [K] of E finished episodes, in float64: a controller's state must not depend on the learner's dtype."""
    return episode_cost.to(torch.float64).mean(dim=0)


def state_of(**values: Any) -> HandlerState:
    """A handler's state as float64 tensors."""
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
