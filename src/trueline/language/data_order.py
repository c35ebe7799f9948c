"""The order in which rows are used: seeded, mixed by weight, and told by a few whole numbers.

Each source is gone through in a permutation of its own, drawn anew every time round from the seed, the source and the
round alone. So how many rows each source has given says everything, and a resumed run goes on with the very next row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import CheckpointError

__all__ = ["DataOrder", "Place"]


class Place(NamedTuple):
    """One row of one source."""

    source: int
    row: int


class DataOrder:
    """Places without end, over sources of the given sizes.

    weights: shares of the sources. Whoever is furthest behind its share gives the next row, so that after any number
    of rows each has given its share to within a row or two. Without weights all rows are one source, and each comes
    once an epoch.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float] = (), shuffle: bool = True, seed: int = 0
    ) -> None:
        self.sizes, self.shuffle, self.seed = list(sizes), shuffle, seed
        self._starts = [0, *accumulate(self.sizes)]
        self._lots = list(sizes) if weights else [sum(sizes)]
        self._share = np.asarray(weights, dtype=np.float64) / sum(weights) if weights else np.ones(1)
        self.taken = np.zeros(len(self._lots), dtype=np.int64)
        self._rounds: dict[int, tuple[int, NDArray[np.int64]]] = {}

    @property
    def epoch_rows(self) -> int:
        """Rows in an epoch: as many as there are."""
        return sum(self.sizes)

    def take(self, n: int) -> list[Place]:
        """The next `n` places."""
        return [self._next() for _ in range(n)]

    def _next(self) -> Place:
        lot = self._furthest_behind() if len(self._lots) > 1 else 0
        turn, at = divmod(int(self.taken[lot]), self._lots[lot])
        self.taken[lot] += 1
        row = int(self._round(lot, turn)[at])
        if len(self._lots) == len(self.sizes):
            return Place(lot, row)
        source = bisect_right(self._starts, row) - 1
        return Place(source, row - self._starts[source])

    def _furthest_behind(self) -> int:
        return int(np.argmax(self._share * (self.taken.sum() + 1) - self.taken))

    def _round(self, lot: int, turn: int) -> NDArray[np.int64]:
        if not self.shuffle:
            turn = 0
        known = self._rounds.get(lot)
        if known is None or known[0] != turn:
            rng = np.random.Generator(np.random.PCG64([self.seed, lot, turn]))
            rows = rng.permutation(self._lots[lot]) if self.shuffle else np.arange(self._lots[lot])
            known = self._rounds[lot] = (turn, rows)
        return known[1]

    def state_dict(self) -> dict[str, Any]:
        """How many rows each source has given, and of how many."""
        return {"taken": self.taken.tolist(), "sizes": self.sizes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.  Raises CheckpointError where the sources have other sizes."""
        if list(state["sizes"]) != self.sizes:
            raise CheckpointError(
                f"the checkpoint's data had {list(state['sizes'])} rows, but there are {self.sizes} now. "
                "Put the data back, or start the run again."
            )
        self.taken = np.asarray(state["taken"], dtype=np.int64)
