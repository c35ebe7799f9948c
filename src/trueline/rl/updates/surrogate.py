"""The clipped surrogate (Schulman et al. 2017, eq. 7) on free leading dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ρA, clip(ρ, 1 − ε, 1 + ε)A) with ρ = π/π_old, not yet averaged: [...] each -> [...]. To be maximised."""
    ratio = (log_prob - old_log_prob).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


class Sloped(NamedTuple):
    """Gains [...], and their slopes by log π times a number [...]."""

    gain: Tensor
    slope: Tensor


def sloped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float | None, weight: float
) -> Sloped:
    """The clipped surrogate, or ρA without a clip, and weight·∂/∂log π of it: weight·ρA, or 0 where the clip holds."""
    ratio = (log_prob - old_log_prob).exp()
    plain, slope = ratio * advantage, weight * advantage * ratio
    if clip is None:
        return Sloped(plain, slope)
    near = ratio.clamp(1.0 - clip, 1.0 + clip)
    clipped = near * advantage
    # Outside of the clip both may be one number by rounding: half the slope is then what autograd gives as well.
    outside = torch.heaviside(clipped - plain, ratio.new_tensor(0.5))
    return Sloped(torch.minimum(plain, clipped), slope * torch.where(near == ratio, 1.0, outside))


def standardised(value: Tensor) -> Tensor:
    """(x − mean)/std over the whole tensor: what gives an advantage the scale a fixed step size expects."""
    return (value - value.mean()) / (value.std(correction=0) + 1e-8)
