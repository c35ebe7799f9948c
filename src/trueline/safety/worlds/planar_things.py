"""Discs that lie about and are pushed: the vases of the planar worlds.

They weigh nothing beside the body, so they never slow it down (MuJoCo's Point is 650 times as heavy as a vase). Once
per control step of length h, with positions p and velocities w of discs of radius ρ:

    slide      |w| ← max(0, |w| − µ·g·h),  p ← p + h·w                                       (dry friction)
    push       where a pusher of radius R at q with velocity v overlaps, |p − q| < R + ρ, and n = (p − q)/|p − q|:
               p ← q + (R + ρ)·n,  w ← w + max(0, (v − w)·n)·n                               (perfectly inelastic)
    separate   where two discs i and j overlap: half the overlap and half the approach speed for each,
               one sweep over all pairs at once
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Discs", "Pusher", "push", "separate", "slide"]

_NEAREST = 1e-6  # metres or m/s: below, a direction means nothing
TOUCH_M = 1e-5  # overlaps below are rounding left over from the last push


class Discs(NamedTuple):
    """Positions, metres, and velocities, m/s, [K, N] each."""

    x: Tensor
    y: Tensor
    vx: Tensor
    vy: Tensor


class Pusher(NamedTuple):
    """A disc that pushes: position and velocity, [N] each."""

    x: Tensor
    y: Tensor
    vx: Tensor
    vy: Tensor


def slide(discs: Discs, loss: Tensor, h: Tensor) -> Discs:
    """Let the discs coast for h seconds, losing `loss` m/s; both []."""
    x, y, vx, vy = discs
    speed = torch.sqrt(vx * vx + vy * vy).clamp_(min=_NEAREST)
    kept = (speed - loss).clamp_(min=0.0).div_(speed)
    vx, vy = vx * kept, vy * kept
    return Discs(x + vx * h, y + vy * h, vx, vy)


def push(discs: Discs, pusher: Pusher, reach: Tensor) -> tuple[Discs, Tensor]:
    """Push the discs out of a pusher; reach []: R + ρ, metres -> (discs, touched bool [K, N])."""
    x, y, vx, vy = discs
    dx, dy = x - pusher.x, y - pusher.y
    apart = torch.sqrt(dx * dx + dy * dy).clamp_(min=_NEAREST)
    nx, ny = dx / apart, dy / apart
    depth = (reach - apart).clamp_(min=0.0)
    touched = depth > TOUCH_M
    gained = ((pusher.vx - vx) * nx + (pusher.vy - vy) * ny).clamp_(min=0.0).mul_(touched)
    return Discs(x + depth * nx, y + depth * ny, vx + gained * nx, vy + gained * ny), touched


def separate(discs: Discs, radius_m: float) -> Discs:
    """Push overlapping discs out of one another."""
    x, y, vx, vy = discs
    dx, dy = x[:, None] - x, y[:, None] - y  # [K, K, N]: from j to i
    apart = torch.sqrt(dx * dx + dy * dy)
    depth = (2.0 * radius_m - apart).clamp_(min=0.0)
    depth.diagonal(dim1=0, dim2=1).zero_()
    apart.clamp_(min=_NEAREST)
    nx, ny = dx / apart, dy / apart
    approach = ((vx - vx[:, None]) * nx + (vy - vy[:, None]) * ny).clamp_(min=0.0).mul_(depth > TOUCH_M)
    change = torch.stack([depth * nx, depth * ny, approach * nx, approach * ny]).mul_(0.5)
    # A sum whose order is written down: a reduction's may depend on how many environments there are.
    total = change[:, :, 0]
    for j in range(1, change.shape[2]):
        total = total + change[:, :, j]
    return Discs(*(part + more for part, more in zip(discs, total, strict=True)))
