"""The clipped surrogate: its values, and where its gradient is zero."""

from __future__ import annotations

import pytest
import torch

from trueline.rl.updates.surrogate import clipped_surrogate, standardised


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        # ratio, A, min(ρA, clip(ρ)A), ∂/∂log π = ρA inside and where the unclipped branch is the smaller, else 0
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # already above 1 + ε in the direction of A: no further gain
        (0.5, 2.0, 1.0, 1.0),  # moved against A: the pull back is not clipped
        (1.5, -2.0, -3.0, -3.0),
        (0.5, -2.0, -1.6, 0.0),
        (0.9, -2.0, -1.8, -1.8),
    ],
)
def test_value_and_gradient(ratio: float, advantage: float, value: float, slope: float) -> None:
    old = torch.tensor(-1.3, dtype=torch.float64)
    log_prob = (old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    surrogate = clipped_surrogate(log_prob, old, torch.tensor(advantage, dtype=torch.float64), 0.2)
    surrogate.backward()
    assert float(surrogate.detach()) == pytest.approx(value)
    assert float(log_prob.grad) == pytest.approx(slope)


def test_at_the_old_policy_its_gradient_is_the_policy_gradient(torch_rng: torch.Generator) -> None:
    log_prob = torch.randn(4, 5, generator=torch_rng, requires_grad=True)
    advantage = torch.randn(4, 5, generator=torch_rng)
    clipped_surrogate(log_prob, log_prob.detach(), advantage, 0.2).sum().backward()
    torch.testing.assert_close(log_prob.grad, advantage)


def test_it_never_exceeds_the_unclipped_objective(torch_rng: torch.Generator) -> None:
    new, old, advantage = torch.randn(3, 2, 50, generator=torch_rng)
    surrogate = clipped_surrogate(new, old, advantage, 0.2)
    assert surrogate.shape == (2, 50)
    assert (surrogate <= (new - old).exp() * advantage).all()


def test_standardised_has_mean_zero_and_deviation_one_over_the_whole_tensor(torch_rng: torch.Generator) -> None:
    x = 3.0 + 7.0 * torch.randn(20, 5, generator=torch_rng, dtype=torch.float64)
    z = standardised(x)
    assert float(z.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(z.std(correction=0)) == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(standardised(2.0 * x - 1.0), z)
    # No spread, no information: zeros, not the noise of a division by zero.
    assert (standardised(torch.full((4,), 2.0)) == 0).all()
