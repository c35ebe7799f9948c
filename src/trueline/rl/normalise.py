"""Running mean and standard deviation of observations, updated by the trainer alone.

Applying the statistics and updating them are two calls. The originals update inside every application, evaluation
included, so that evaluating a policy changes it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class RunningNorm(nn.Module):
    """(x − mean)/std, clipped.  Statistics are float64 buffers: a float32 count stops growing at 2²⁴ samples."""

    def __init__(
        self, width: int, clip: float = 5.0, floor: float = 0.01, kept: NDArray[np.bool_] | None = None
    ) -> None:
        """width: D; clip: bound of the output in standard deviations; floor: smallest standard deviation divided by.

        kept: [D] columns that stay as they are. One-hots do: scaled up by how rare they are, rare states would move
        the networks most, and frequent ones with them.
        """
        super().__init__()
        self.clip, self.floor = clip, floor
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(width, dtype=torch.float64))  # Σ(x − mean)²
        self.register_buffer("shift32", torch.zeros(width))  # what forward reads: float32 copies of mean and 1/std
        self.register_buffer("scale32", torch.ones(width))
        self.register_buffer("kept", torch.as_tensor(np.zeros(width, bool) if kept is None else kept), persistent=False)

    count: Tensor
    mean: Tensor
    square: Tensor
    shift32: Tensor
    scale32: Tensor
    kept: Tensor

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Fold in a batch [B, D] (Chan, Golub & LeVeque 1983: exact pairwise combination)."""
        x = batch.to(torch.float64)
        n, mean = float(len(x)), x.mean(0)
        total = self.count + n
        delta = mean - self.mean
        self.square += (x - mean).square().sum(0) + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.count.copy_(total)
        self.shift32.copy_(self.mean).masked_fill_(self.kept, 0.0)
        deviation = (self.square / self.count).sqrt().clamp_min(self.floor)
        self.scale32.copy_(1.0 / deviation).masked_fill_(self.kept, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]; before the first update it returns x, clipped."""
        return ((x - self.shift32) * self.scale32).clamp(-self.clip, self.clip)
