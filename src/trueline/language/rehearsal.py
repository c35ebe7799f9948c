"""What a training would do, without doing it: steps, tokens, memory, and the first rows as the model reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trueline.language.batches import Row
from trueline.language.forward import Memory

__all__ = ["MARKS", "SHOWN", "DryRun", "shown"]

MARKS = "⟦", "⟧"  # around what is learnt, in rows that are shown
SHOWN = 3  # rows


class DryRun(NamedTuple):
    """What a training would do."""

    steps: int
    tokens: int  # read by the model over all steps, padding not counted
    memory: Memory
    rows: tuple[str, ...]  # the first three, what is learnt between ⟦ and ⟧
    facts: Mapping[str, Any]  # of the data
    at_most: bool = False  # tokens are those of replies too, of which any may end sooner

    def __str__(self) -> str:
        """A few lines for a terminal."""
        parts = ", ".join(f"{name} {_mib(size)}" for name, size in self.memory._asdict().items() if size)
        bound = "at most " if self.at_most else ""
        lines = [
            f"{self.steps:,} steps, {bound}{self.tokens:,} tokens",
            f"memory about {_mib(self.memory.total)}: {parts}",
        ]
        lines += [
            f"{source['name']}: {source['items']:,} items of {source['records']:,} {source['format']} rows"
            for source in self.facts["sources"]
        ]
        return "\n".join([*lines, *(f"{k}: {row}" for k, row in enumerate(self.rows, 1))])


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def shown(tokenizer: Any, row: Row) -> str:
    """The text of a row as the model reads it, what is learnt between ⟦ and ⟧."""
    pieces, t = [], 0
    while t < len(row.tokens):
        learnt, end = row.weight[t] > 0, t
        while end < len(row.tokens) and (row.weight[end] > 0) == learnt:
            end += 1
        text = tokenizer.decode(row.tokens[t:end].tolist(), skip_special_tokens=False)
        pieces.append(f"{MARKS[0]}{text}{MARKS[1]}" if learnt else text)
        t = end
    return "".join(pieces)
