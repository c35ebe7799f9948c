"""What an update learns from, one `Rows` a collection, and what an update is: a frozen configuration that does.

An update says what the advantage of its rows has to be:

    takes       advantage
    "mixed"     one number a step, the handler's weights applied
    "weights"   of the reward and of each cost, and the handler's weights: `WeightedAdvantage`
    "slack"     of the reward and of each cost, and the slack: `SlackAdvantage`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from trueline.rl.adam import FlatAdam
from trueline.rl.distributions import Distribution
from trueline.rl.handlers.constraint import Weights
from trueline.rl.networks import ActorCritic
from trueline.rl.parallel import ALONE, Learners

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Advantage = TypeVar("Advantage")


class WeightedAdvantage(NamedTuple):
    """What an update takes that weighs reward against costs in a step of its own. Both advantages are scaled."""

    reward: Tensor  # [B]
    cost: Tensor  # [B, K]
    weights: Weights
    cost_gamma: float  # γ and λ of the costs' estimates: bounds on the change of J_C rest on them
    cost_lam: float


class SlackAdvantage(NamedTuple):
    """What an update takes that solves for the constraint itself. Both advantages are scaled."""

    reward: Tensor  # [B]
    cost: Tensor  # [B, K]
    slack: Tensor  # [K] (J_C − d) per step, above 0 where violated; nan before the first episode has ended


@dataclass(slots=True)
class Rows(Generic[Advantage]):
    """One collection, flattened to B = T·N rows; of a network with a memory S segments of L steps, [S, L] for [B]."""

    inputs: dict[str, Tensor]  # normalised: the statistics stand still during an update
    draw: Tensor  # [B, A]
    log_prob: Tensor  # [B] under the policy that acted
    policy: Distribution  # that policy, without gradient
    advantage: Advantage  # mixed: [B]; otherwise a WeightedAdvantage or a SlackAdvantage
    target: Tensor  # [B, 1 + K] value targets
    learners: Learners = ALONE  # the processes that share minibatches of these rows out


class Update(Protocol):
    """How policy and critics learn from rows: a frozen configuration, the default of its row's `update` settings."""

    @property
    def takes(self) -> Literal["mixed", "weights", "slack"]:
        """What the rows' advantage is; see the table above."""
        ...

    def optimiser(self, network: ActorCritic) -> FlatAdam:
        """The moments it keeps, of the networks it moves by gradient; they travel in checkpoints."""
        ...

    def learn(
        self, network: ActorCritic, adam: FlatAdam, rows: Rows[Any], progress: float, rng: torch.Generator
    ) -> DataclassInstance:
        """Change the network; `progress` in [0, 1] of the training. Returns numbers, logged as update/NAME."""
        ...
