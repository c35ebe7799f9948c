"""Rows with pictures, a block at a time: what a network makes of a whole collection of them would fill a memory.

A second derivative through the convolutions keeps some 280 kB of a picture of 64 by 64 pixels, twenty times the picture
itself: 20,000 of them would take six gigabytes at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["NUMBERS_AT_ONCE", "in_blocks"]

NUMBERS_AT_ONCE = 1 << 22  # of a block's pictures: 341 of 64 by 64 in colour, with 100 MB of derivatives


def in_blocks(inputs: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """A network's inputs [B, ...] in parts of consecutive rows, each of at most `most`.

    Where there are pictures (uint8) a part holds as many rows as come to NUMBERS_AT_ONCE, and at least one.
    """
    pictured = sum(x.shape[1:].numel() for x in inputs.values() if x.dtype == torch.uint8)
    rows = min(most, max(1, NUMBERS_AT_ONCE // pictured)) if pictured else most
    parts = [[(name, part) for part in x.split(rows)] for name, x in inputs.items()]
    return [dict(of_all) for of_all in zip(*parts, strict=True)]
