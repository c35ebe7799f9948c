"""tanh and its derivatives against torch's own and closed forms, on both sides of the size that changes the path."""

from __future__ import annotations

import pytest
import torch

from trueline.rl.activations import tanh

EDGES = torch.tensor([-float("inf"), -90.0, -1.0, -1e-30, 0.0, 1e-7, 0.5, 9.0, float("inf"), float("nan")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("size", [(), (64, 3), (300, 128)])
def test_it_is_torchs_tanh(dtype, gradient, size, torch_rng):
    x = 3.0 * torch.randn(size, generator=torch_rng)
    x = torch.cat([x.flatten(), EDGES]).to(dtype).requires_grad_(gradient)
    ulps = 4.0 * torch.finfo(dtype).eps
    torch.testing.assert_close(tanh(x), torch.tanh(x), rtol=ulps, atol=0.0, equal_nan=True)


def test_a_single_number_has_no_dimension():
    assert tanh(torch.tensor(0.5)).shape == ()


@pytest.mark.parametrize("size", [(5, 4), (300, 128), (3, 200, 128)])
def test_first_and_second_derivatives(size, torch_rng):
    x = torch.randn(size, generator=torch_rng, dtype=torch.float64).transpose(-1, -2).requires_grad_()
    y = torch.tanh(x.detach())
    (first,) = torch.autograd.grad(tanh(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first.detach(), 1.0 - y * y)
    torch.testing.assert_close(second, -2.0 * y * (1.0 - y * y))
