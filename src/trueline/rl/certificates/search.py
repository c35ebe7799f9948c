"""The search for states that a certificate calls safe and cannot vouch for: many points that climb U within {h ≥ 0}.

Points move by Langevin steps, uphill along ∇ₛU with noise of the same size, and stay where they are when a step would
leave the set. Those that the set has left behind are drawn anew from the whole box, and so is a share of all, so that
no corner is forgotten: in two dimensions a few hundred points are everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trueline.rl.certificates.certificate import Box, Certificate, Examined

__all__ = ["climbed", "drawn"]

RENEWED = 0.1  # share of the points drawn anew in every step


def drawn(points: int, box: Box, rng: torch.Generator) -> Tensor:
    """Uniform points of a box, [points, D]."""
    return box.middle + (2.0 * torch.rand(points, len(box.half), generator=rng) - 1.0) * box.half


@torch.no_grad()
def climbed(found: Examined, certificate: Certificate, stride: float, rng: torch.Generator) -> Tensor:
    """Where the points [B, D] go next.  stride: length of a step, in half-widths of the box."""
    box = certificate.box()
    uphill = found.risk_slope * box.half  # in half-widths, so that no dimension's unit counts for more
    uphill = uphill / uphill.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    noise = torch.randn(uphill.shape, generator=rng)
    moved = found.states + stride * (uphill + noise) * box.half
    stays = (certificate(moved) < 0.0)[:, None]
    anew = (found.h < 0.0) | (torch.rand(len(moved), generator=rng) < RENEWED)
    return torch.where(anew[:, None], drawn(len(moved), box, rng), torch.where(stays, found.states, moved))
