"""The floor of the second-order benchmark does what it claims to leave nothing out of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    import second_order_step

    return second_order_step


@pytest.mark.parametrize("sides", [1, 3])
def test_the_floors_products_are_derivatives(script, sides):
    rng, sizes = torch.Generator().manual_seed(0), list(pairwise((5, 4, 3, 2)))
    weights = [torch.randn(a, b, generator=rng, dtype=torch.float64, requires_grad=True) for a, b in sizes]
    turns = [torch.randn(a, sides, b, generator=rng, dtype=torch.float64) for a, b in sizes]
    x = torch.randn(7, 5, generator=rng, dtype=torch.float64)
    outward = torch.randn(7, sides, 2, generator=rng, dtype=torch.float64)
    values = script.forward(x, weights)
    torch.testing.assert_close(values[-1], x @ weights[0] @ weights[1] @ weights[2])
    pushed, pulled = script.push(values, weights, turns), script.pull(values, weights, outward)
    for side in range(sides):
        expected = torch.autograd.grad(values[-1], weights, outward[:, side], retain_graph=True)
        for found, right in zip(pulled, expected, strict=True):
            torch.testing.assert_close(found[:, side], right)
        inner = sum((gradient * turn[:, side]).sum() for gradient, turn in zip(expected, turns, strict=True))
        torch.testing.assert_close((outward[:, side] * pushed[:, side]).sum(), inner)  # ⟨u, Jv⟩ = ⟨Jᵀu, v⟩


@pytest.mark.parametrize("method", ["TRPO-Lag", "CPO"])
def test_every_sample_makes_the_same_step(script, method):
    # Critics learn on, so that the work is what training's is; the policy begins anew.
    fresh = script.ours(method, 300)
    first, second = fresh()(), fresh()()
    assert first["fraction"] == second["fraction"] > 0.0
    assert second["peak_bytes"] >= first["peak_bytes"] > 2**20
