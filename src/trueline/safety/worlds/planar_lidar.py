"""The pseudo-lidar of `lidar.py` on tensors, written so that no reading depends on its place in a batch.

With t the angle of an object in bins and b + ½ the middle of bin b, the reading that falls into the object's own bin
and leaks into both neighbours is one trapezoid of the distance around the circle, |t − b − ½|:

    r_b = max over objects of s · clip(3/2 − |t − b − ½|, 0, 1),      s = max(0, 1 − d/R)

Only sums, products, quotients and roots are used, which are rounded the same in every lane of every device; a library's
atan2 is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["PseudoLidar"]

# atan(a)/a as a polynomial in a² on [0, 1], from the constant on; interpolated in Chebyshev points: error 4e-7 rad.
_ATAN = (0.999999226, -0.33325678, 0.198720403, -0.134478641, 0.083126453, -0.0363604309, 0.00764835393)


class PseudoLidar:
    """Rings of bins around N agents, each showing how near the nearest object of a kind is."""

    def __init__(self, rings: Sequence[int], bins: int, sight_m: float, device: torch.device) -> None:
        """rings: how many of the objects, in order, each ring shows; sight_m: R."""
        # Constants as tensors: a Python number doubles the price of an operation.
        number = functools.partial(torch.tensor, dtype=torch.float32, device=device)
        self.rings, self.bins = tuple(rings), bins
        self._coefficients = [number(c * bins / (2.0 * math.pi)) for c in _ATAN]
        self._eighth, self._quarter, self._half = number(bins / 8.0), number(bins / 4.0), number(bins / 2.0)
        self._flat, self._per_sight, self._one = number((bins - 3) / 2.0), number(-1.0 / sight_m), number(1.0)
        middle = torch.arange(bins, device=device, dtype=torch.float32) + 0.5
        self._middles = torch.where(middle > bins / 2.0, middle - bins, middle)[:, None]

    def bearing(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle of (x, y) in bins, from −bins/2 to bins/2; 0 at the origin."""
        width, height = x.abs(), y.abs()
        slope = torch.minimum(width, height).div_(torch.maximum(width, height).clamp_(min=1e-30))
        square = slope * slope
        first, *between, last = self._coefficients
        angle = square * last
        for coefficient in reversed(between):
            angle.add_(coefficient).mul_(square)
        angle.add_(first).mul_(slope)  # in [0, bins/8]
        # Octant by octant: where the named sign is negative, fold about the middle of the range.
        for middle, sign in ((self._eighth, width.sub_(height)), (self._quarter, x)):
            angle = torch.sub(middle, angle.sub_(middle).copysign_(sign))
        return angle.copysign_(y)

    def read(self, x: Tensor, y: Tensor, distance: Tensor, out: Tensor) -> None:
        """Readings into `out` [rings · bins, N].  x, y, distance [M, N] of the objects from the agent, in its frame."""
        angle = self.bearing(x, y)
        nearness = (distance * self._per_sight).add_(self._one).clamp_(min=0.0)
        first = 0
        for k, count in enumerate(self.rings):
            some = slice(first, first + count)
            share = angle[some, None] - self._middles  # e, in (−B, B): [count, B, N]
            # 3/2 − |e| around the circle is ||e| − B/2| − (B − 3)/2.
            share.abs_().sub_(self._half).abs_().sub_(self._flat).clamp_(0.0, 1.0).mul_(nearness[some, None])
            torch.amax(share, dim=0, out=out[k * self.bins : (k + 1) * self.bins])
            first += count
