"""What an offline update is given: the networks to be made, and what the constraint says as it stands."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from trueline.rl.handlers.constraint import Weights
from trueline.rl.off_policy.networks import QNetwork, Shape
from trueline.rl.spaces import ActionCodec, ObservationCodec


class Plan(NamedTuple):
    """What networks are made from."""

    observation: ObservationCodec
    action: ActionCodec
    costs: tuple[str, ...]  # [K] that are limited
    actor: QNetwork
    critic: QNetwork
    normalise: bool  # observations, by the data's statistics

    def shape(self, twins: int, stochastic: bool = True, critic: QNetwork | None = None) -> Shape:
        """Of an `ActorQ` with so many critics of the reward."""
        return Shape(twins, self.costs, self.actor, critic or self.critic, stochastic, self.normalise)


class Terms(NamedTuple):
    """What the constraint tells an update."""

    weights: Weights
    step_limit: Tensor  # [K] d/T, the undiscounted limit of an episode shared among its steps, float64
    value_limit: Tensor  # [K] d̃ of Q_c at the first state of an episode
    start: float  # 1/Σ_{t<T} γᵗ: a distribution over steps is the sum over an episode times this

    @property
    def multiplier(self) -> Tensor:
        """λ [K], in reward per cost."""
        return self.weights.cost / self.weights.reward
