"""Activations where torch's own are slow.

On a CPU torch's tanh takes about seven times as long as NumPy's (2.6 against 0.37 ns per number with AVX-512), which
is a tenth of a PPO update with large minibatches. Both are within two units in the last place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTH_A_CALL = 1 << 15  # numbers from which the quicker arithmetic pays for a backward function written in Python


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _without_gradient(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors  # an output of this function, so that second derivatives flow through it
        return torch.ops.aten.tanh_backward(grads[0], y)


def _without_gradient(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    np.tanh(x.detach().numpy(), out=y.numpy())
    return y


def tanh(x: Tensor) -> Tensor:
    """tanh of every number, differentiable as often as wanted."""
    if not x.is_cpu or x.dtype not in (torch.float32, torch.float64):
        return torch.tanh(x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _without_gradient(x)
    return _Tanh.apply(x) if x.numel() >= WORTH_A_CALL else torch.tanh(x)
