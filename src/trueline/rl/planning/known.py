"""What a planner may be told in place of learning it. A plan made with it rests on privileged information."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Known(Protocol):
    """Ability of a world: its reward and costs are functions of what is observed, and it tells them."""

    def signals(self, obs: Tensor, action: Tensor, after: Tensor, steps: int) -> Tensor:
        """Reward and costs [..., 1 + K] of `steps` steps with one action that lead from `obs` to `after` [..., D].

        action: [..., A].  What happened in between is not seen: a world says what it comes to on the two ends alone.
        """
        ...
