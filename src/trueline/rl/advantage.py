"""Generalised advantage estimation for the reward and for each cost at once (Schulman et al. 2016, eq. 16)."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    signal: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, gamma: float | Tensor, lam: float | Tensor
) -> Tensor:
    """Aₜ = δₜ + γλ(1 − endedₜ)Aₜ₊₁ with δₜ = rₜ + γ·next_valueₜ − valueₜ.

    Time is the first dimension and everything behind it is free: [T, ...] -> [T, ...]. Reward and K costs go in
    together as [T, N, 1 + K]; `gamma` and `lam` may then be [1 + K], so that costs have a discount of their own.
    `next_value` is V(final_obs) where an episode was truncated and 0 where it terminated; `ended` [T, ...] is 1 in both
    cases and broadcasts against the signals.
    """
    delta = signal + gamma * next_value - value
    keep = gamma * lam * (1.0 - ended)
    advantage = torch.empty_like(delta)
    carry = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        carry = delta[t] + keep[t] * carry
        advantage[t] = carry
    return advantage
