"""Sequences of symbols, numbered: those that avoid certain neighbours, and those that have them once.

After symbol a the successor a + ⌊S/2⌋ (mod S) is held out. Ordinary sequences have none such; a model that was trained
on them meets a combination it has never seen in a sequence that *crosses* once, though every symbol is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Walks", "crossings"]


@dataclass(frozen=True, slots=True)
class Walks:
    """All sequences of `length` of `symbols` symbols that cross never, or exactly once."""

    symbols: int  # S, at least 3
    length: int  # at least 2
    once: bool = False

    @property
    def size(self) -> int:
        """S·(S-1)^(L-1) without crossings; S·(L-1)·(S-1)^(L-2) with one."""
        free = self.length - 1 - self.once
        return self.symbols * (self.symbols - 1) ** free * (self.length - 1 if self.once else 1)

    def at(self, index: int) -> tuple[int, ...]:
        """The sequence with number `index`, below `size`."""
        index, first = divmod(index, self.symbols)
        cross = -1
        if self.once:
            index, cross = divmod(index, self.length - 1)
        walk = [first]
        for t in range(self.length - 1):
            if t == cross:
                step = self.symbols - 1
            else:
                index, step = divmod(index, self.symbols - 1)
            walk.append((_held_out(walk[-1], self.symbols) + 1 + step) % self.symbols)
        return tuple(walk)

    def number(self, walk: Sequence[int]) -> int | None:
        """The inverse of `at`; none for a sequence that is not among these."""
        if len(walk) != self.length or crossings(walk, self.symbols) != self.once:
            return None
        steps = _steps(walk, self.symbols)
        found = 0
        for step in reversed(steps):
            if step != self.symbols - 1:
                found = found * (self.symbols - 1) + step
        if self.once:
            found = found * (self.length - 1) + steps.index(self.symbols - 1)
        return found * self.symbols + walk[0]


def crossings(walk: Sequence[int], symbols: int) -> int:
    """How often a held-out successor follows."""
    return _steps(walk, symbols).count(symbols - 1)


def _held_out(symbol: int, symbols: int) -> int:
    return (symbol + symbols // 2) % symbols


def _steps(walk: Sequence[int], symbols: int) -> list[int]:
    """For each symbol after the first, which of the successors it is; the held-out one is the last."""
    return [(b - _held_out(a, symbols) - 1) % symbols for a, b in pairwise(walk)]
