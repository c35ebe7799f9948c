"""What a planner has seen, with each row's part in every member's bootstrap: in memory to be learnt from, and on disk.

Row i counts n_ie times for member e, n ~ Poisson(1): the bootstrap of a sample that still grows (Oza & Russell 2001).
Every so manieth row is held out, for good and for all members, so that an error on it is one on unseen data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.segments import Segments


class Seen(NamedTuple):
    """B decisions and what they led to.  Observations are as the world gave them, encoded and not normalised."""

    obs: Tensor  # [B, D]
    action: Tensor  # [B, A]
    signal: Tensor  # [B, 1 + K] reward, then each cost, summed over the steps that the action was held
    discount: Tensor  # [B, 1] factor of the value of `after`: 0 where the task had ended
    after: Tensor  # [B, D] the last observation where an episode ended
    jumped: Tensor  # [B, 1] 1 where `after` shows something put elsewhere, such as the next goal
    counts: Tensor  # [B, E] times the row is in each member's sample; 0 for all where it is held out


class Experience:
    """The last `capacity` rows, and all of them in segments on disk; see `off_policy.replay` for both."""

    def __init__(self, capacity: int, obs: int, action: int, costs: int, members: int, folder: Path) -> None:
        """obs: D, action: A, costs: K, members: E; folder: where the segments lie."""
        self.capacity = capacity
        self.widths = [obs, action, 1 + costs, 1, obs, 1, members]
        # Zeros that are never written cost no memory: the system gives a page when it is first touched.
        self._rows = torch.from_numpy(np.zeros((capacity, sum(self.widths)), dtype=np.float32))
        self._segments = Segments(folder)
        self.total = 0  # rows ever added; row i lies at i % capacity
        self._recorded = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def add(self, rows: Seen) -> None:
        """Append R ≤ capacity rows; the oldest give way."""
        added = len(rows.obs)
        if not added:
            return
        if self.total + added - self._recorded > self.capacity:
            self._record()  # or rows would be overwritten that no segment holds yet
        self._write(torch.cat(list(rows), dim=1))

    def _write(self, rows: Tensor) -> None:
        at = torch.arange(self.total, self.total + len(rows)) % self.capacity
        self._rows[at] = rows
        self.total += len(rows)

    def all(self) -> Seen:
        """Every row in memory, as views."""
        return Seen(*self._rows[: len(self)].split(self.widths, dim=1))

    def since(self, number: int) -> Seen:
        """The rows from number `number` on, as far as they are still there."""
        at = torch.arange(max(number, self.total - len(self)), self.total) % self.capacity
        return Seen(*self._rows[at].split(self.widths, dim=1))

    def sample(self, size: int, rng: torch.Generator) -> Seen:
        """`size` rows, drawn uniformly with replacement, held out or not."""
        index = torch.randint(len(self), (size,), generator=rng)
        return Seen(*self._rows.index_select(0, index).split(self.widths, dim=1))

    def _record(self) -> None:
        if self.total > self._recorded:
            at = torch.arange(self._recorded, self.total) % self.capacity
            self._segments.append({"rows": self._rows[at].numpy()})
            self._recorded = self.total

    def record(self) -> dict[str, Any]:
        """What is new goes to disk; returns where it stands. Raises DiskError when the disk is full."""
        self._record()
        return self._segments.cursor()

    def restore(self, cursor: Mapping[str, Any] | None) -> None:
        """Go back to a cursor, or to nothing.  Raises CheckpointError for a segment that is missing or was altered."""
        self._segments.rewind(cursor or {"segments": []})
        self.total = self._recorded = 0
        found = self._segments.read(last=self.capacity)
        self.total = self._segments.rows - (len(found["rows"]) if found else 0)
        if found:
            self._write(torch.from_numpy(found["rows"]))
        self._recorded = self.total


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
