"""The clipped surrogate (Schulman et al. 2017, eq. 7) on free leading dimensions."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ρA, clip(ρ, 1 − ε, 1 + ε)A) with ρ = π/π_old, not yet averaged: [...] each -> [...]. To be maximised."""
    ratio = (log_prob - old_log_prob).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def standardised(value: Tensor) -> Tensor:
    """(x − mean)/std over the whole tensor: what gives an advantage the scale a fixed step size expects."""
    return (value - value.mean()) / (value.std(correction=0) + 1e-8)
