"""What a planner has seen, with each row's part in every member's bootstrap: in memory to be learnt from, and on disk.

Row i counts n_ie times for member e, n ~ Poisson(1): the bootstrap of a sample that still grows (Oza & Russell 2001).
Every so manieth row is held out, for good and for all members, so that an error on it is one on unseen data.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.rl.ring import Ring


class Seen(NamedTuple):
    """B decisions and what they led to.  Observations are as the world gave them, encoded and not normalised."""

    obs: Tensor  # [B, D]
    action: Tensor  # [B, A]
    signal: Tensor  # [B, 1 + K] reward, then each cost, summed over the steps that the action was held
    discount: Tensor  # [B, 1] factor of the value of `after`: 0 where the task had ended
    after: Tensor  # [B, D] the last observation where an episode ended
    jumped: Tensor  # [B, 1] 1 where `after` shows something put elsewhere, such as the next goal
    counts: Tensor  # [B, E] times the row is in each member's sample; 0 for all where it is held out


class Experience(Ring[Seen]):
    """The last `capacity` decisions."""

    def __init__(self, capacity: int, obs: int, action: int, costs: int, members: int, folder: Path) -> None:
        """obs: D, action: A, costs: K, members: E; folder: where the segments lie."""
        super().__init__(Seen, [obs, action, 1 + costs, 1, obs, 1, members], capacity, folder)


def bootstrap(first: int, rows: int, members: int, held_out: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Counts [rows, members] of the rows numbered from `first` on: Poisson(1), and 0 in every row that is held out.

    Held out are the rows at which the multiples of `held_out` pass a whole number, a share of exactly that size.
    """
    counts = rng.poisson(1.0, (rows, members)).astype(np.float32)
    passed = [math.floor((i + 1) * held_out) > math.floor(i * held_out) for i in range(first, first + rows)]
    counts[np.array(passed, dtype=np.bool_)] = 0.0
    return counts


def resampled(counts: Tensor, rng: torch.Generator) -> Tensor:
    """One pass over each member's bootstrap sample in an order of its own: counts [R, E] -> row numbers [E, n].

    n is the size of the smallest sample; of larger ones a random part waits for the next pass.
    """
    numbers = torch.arange(len(counts))
    every = [torch.repeat_interleave(numbers, times) for times in counts.T.long()]
    size = min(map(len, every))
    return torch.stack([own[torch.randperm(len(own), generator=rng)[:size]] for own in every])
