"""Rows a run has seen: the last of them in memory to be sampled, all of them on disk to be resumed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from trueline.core.segments import Segments

__all__ = ["Ring"]

Row = TypeVar("Row", bound=tuple[Tensor, ...])


class Ring(Generic[Row]):
    """The last `capacity` rows, each row's parts side by side so that a sample is one gather.

    Memory: 4 bytes a number, taken as rows come. `record` appends what is new to a segment on disk and returns the
    cursor that a checkpoint stores; every row of the run stays there.
    """

    def __init__(self, row: Callable[..., Row], widths: Sequence[int], capacity: int, folder: Path) -> None:
        """row: makes a batch of rows of its parts, [B, width] each; folder: where the segments lie."""
        self.row, self.widths, self.capacity = row, list(widths), capacity
        # Zeros that are never written cost no memory: the system gives a page when it is first touched.
        self._rows = torch.from_numpy(np.zeros((capacity, sum(widths)), dtype=np.float32))
        self._segments = Segments(folder)
        self.total = 0  # rows ever added; row i lies at i % capacity
        self._recorded = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def add(self, rows: Row) -> None:
        """Append R ≤ capacity rows; the oldest give way."""
        added = len(rows[0])
        if not added:
            return
        if self.total + added - self._recorded > self.capacity:
            self._record()  # or rows would be overwritten that no segment holds yet
        self._write(torch.cat(list(rows), dim=1))

    def _write(self, rows: Tensor) -> None:
        at = torch.arange(self.total, self.total + len(rows)) % self.capacity
        self._rows[at] = rows
        self.total += len(rows)

    def _parts(self, rows: Tensor) -> Row:
        return self.row(*rows.split(self.widths, dim=1))

    def all(self) -> Row:
        """Every row in memory, as views."""
        return self._parts(self._rows[: len(self)])

    def since(self, number: int) -> Row:
        """The rows from number `number` on, as far as they are still there."""
        return self._parts(self._rows[torch.arange(max(number, self.total - len(self)), self.total) % self.capacity])

    def sample(self, size: int, rng: torch.Generator) -> Row:
        """`size` rows, drawn uniformly with replacement."""
        return self._parts(self._rows.index_select(0, torch.randint(len(self), (size,), generator=rng)))

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
