"""Which records are held out, and which prompts are left for audits: a prompt's own hash decides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from trueline.core.files import to_json
from trueline.core.streams import SplitRound, split_of
from trueline.language.records import Table, Text, prompt_of, sha256_of

__all__ = ["Split", "hold_out", "split_of_text"]


class Split(NamedTuple):
    """Records to train on, and records to evaluate with."""

    train: Table
    held_out: Table


def hold_out(table: Table, share: float) -> Split:
    """Puts about `share` of the prompts aside, with all their rows: two answers to one prompt are no two samples.

    Which prompts is decided by their own hash, so that more data or another order moves none of them.
    """
    aside = [_fraction(prompt_of(record)) < share for record in table.rows]
    return Split(_subset(table, [not out for out in aside]), _subset(table, aside))


def split_of_text(prompt: Text) -> SplitRound:
    """Whether a prompt of a file is for training, findings or verdicts, and of which round.

    Its own hash decides, with the shares that layouts of worlds have, so that no order or amount of data moves it.
    Plain text and a single user's turn are one prompt.
    """
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    return split_of(int.from_bytes(_hash(prompt)[:4], "big"))


def _fraction(text: Text) -> float:
    """A number in [0, 1) from the hash of a text."""
    return int.from_bytes(_hash(text)[8:16], "big") / 2.0**64


def _hash(text: Text) -> bytes:
    return hashlib.sha256(to_json(text).encode()).digest()


def _subset(table: Table, kept: Sequence[bool]) -> Table:
    rows = tuple(row for row, keep in zip(table.rows, kept, strict=True) if keep)
    numbers = tuple(number for number, keep in zip(table.numbers, kept, strict=True) if keep)
    return Table(table.name, table.format, rows, numbers, table.dropped, sha256_of(rows))
