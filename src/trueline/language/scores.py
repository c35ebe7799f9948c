"""What judges a rollout token by token: rewards, costs, and how their credit may be assigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from trueline.language.rollout import Rollout

__all__ = ["Scorer", "Scores"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw reward and costs, never containing KL; 0 outside `Rollout.sampled`.

    A score of the whole reply sits on its last sampled token.
    """

    reward: Tensor  # [R, L]
    cost: Tensor  # [R, L, K]: above 0 is unsafe
    missing: Tensor  # [R] bool: not scored; out of the loss and of J_C, counted in the report

    def to(self, device: torch.device | str) -> Scores:
        """The scores on another device."""
        return Scores(self.reward.to(device), self.cost.to(device), self.missing.to(device))


class Scorer(Protocol):
    """Scalar or sequence-to-sequence reward model, cost model, function, endpoint."""

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of its K costs."""
        ...

    @property
    def credit(self) -> Literal["to-go", "total"]:
        """ "total" when the score of a token reads tokens after it: reward-to-go would be biased."""
        ...

    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:
        """Scores of every row."""
        ...
