"""What judges a rollout token by token: rewards, costs, and how their credit may be assigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
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


class Scorer(Protocol):
    """Scalar or sequence-to-sequence reward model, cost model, function, endpoint."""

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of its K costs."""
        ...

    @property
    def credit(self) -> Literal["to-go", "total"]:
        """ "total" when the score of a token reads tokens after it: reward-to-go would be biased (corrections L2)."""
        ...

    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:
        """Scores of every row."""
        ...
