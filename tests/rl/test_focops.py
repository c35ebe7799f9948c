"""FOCOPS: its loss in closed form, the trust region of each state, and the bandit with a known optimum."""

from __future__ import annotations

import pytest
import torch
from test_ppo import OLD, ROWS, STEPS, actor_critic, every_arm, one_state, play, probabilities, some_batch

from trueline.core.config import build
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.updates.focops import Focops, focops_loss
from trueline.safety.recipes.first_order import FOCOPS

ADVANTAGE = torch.tensor([1.0, -0.4, 0.3], dtype=torch.float64)
EVERYWHERE = 1e9  # an η that leaves no state out


def closed_form(lam: float) -> torch.Tensor:
    """argmax over π of E_π[A] − λ·KL(π‖π_old), written out: π ∝ π_old·exp(A/λ)."""
    weight = OLD * (ADVANTAGE / lam).exp()
    return weight / weight.sum()


def expected_loss(logits: torch.Tensor, lam: float) -> torch.Tensor:
    """The loss over all three arms, each with its probability under the old policy."""
    log_p = logits.log_softmax(0)
    kl = (log_p.exp() * (log_p - OLD.log())).sum()
    loss = focops_loss((log_p - OLD.log()).exp(), ADVANTAGE, kl.expand(3), lam, EVERYWHERE)
    return (OLD * loss).sum()


@pytest.mark.parametrize("lam", [0.5, 1.5, 4.0])
def test_the_loss_is_least_at_the_best_policy_at_a_price_per_nat(lam: float) -> None:
    # Wrong in any sign or in the direction of KL, the gradient would not vanish there, or it would be a maximum.
    best = closed_form(lam).log().requires_grad_()
    least = expected_loss(best, lam)
    (gradient,) = torch.autograd.grad(least, best)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    # Donsker and Varadhan: the least value is −log E_old[exp(A/λ)].
    torch.testing.assert_close(least.detach(), -(OLD * (ADVANTAGE / lam).exp()).sum().log())
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        elsewhere = best.detach() + 0.3 * torch.randn(3, generator=rng, dtype=torch.float64)
        assert expected_loss(elsewhere, lam) > least


def test_training_on_one_batch_lands_at_the_closed_form() -> None:
    config = Focops(lam=1.5, eta=EVERYWHERE, passes=400, minibatch=10, lr=0.02, target_kl=None)
    network = one_state()
    batch = every_arm(network, lambda arm: ADVANTAGE[arm])
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(network), closed_form(1.5), atol=1e-4, rtol=0)


def test_each_row_is_held_by_the_kl_of_its_own_state() -> None:
    # λ = 0.5, η = 0.1: KL − 2ρA where the state has moved by no more than η, else nothing at all.
    ratio = torch.tensor([1.2, 0.9, 1.1], requires_grad=True)
    advantage, kl = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.05, 0.3, 0.1], requires_grad=True)
    loss = focops_loss(ratio, advantage, kl, lam=0.5, eta=0.1)
    torch.testing.assert_close(loss, torch.tensor([0.05 - 2.4, 0.0, 0.1 - 6.6]))
    loss.sum().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-2.0, 0.0, -6.0]))
    torch.testing.assert_close(kl.grad, torch.tensor([1.0, 0.0, 1.0]))
    # On any leading dimensions.
    both = focops_loss(ratio.view(3, 1).expand(3, 2), advantage[:, None], kl[:, None], 0.5, 0.1)
    torch.testing.assert_close(both, loss[:, None].expand(3, 2))


def test_a_column_of_kl_against_a_row_of_surrogates_pushes_states_that_have_moved_too_far() -> None:
    # The originals' shapes, [B, 1] and [B]: the product is [B, B], and the indicator weighs the mean surrogate of all.
    ratio = torch.tensor([1.2, 0.9], requires_grad=True)
    advantage, kl = torch.tensor([1.0, -2.0]), torch.tensor([0.05, 0.3])
    column = focops_loss(ratio, advantage, kl[:, None], lam=0.5, eta=0.1)
    assert column.shape == (2, 2)
    column.mean().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-0.5, 1.0]))  # half of −A/λ/2, for both rows alike
    ratio.grad = None
    focops_loss(ratio, advantage, kl, lam=0.5, eta=0.1).mean().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-1.0, 0.0]))  # all of it where allowed, nothing elsewhere


def test_states_that_have_moved_too_far_stand_still() -> None:
    # The rows of the first half of the states are left out by their KL: their gradient is that of the other half.
    network = actor_critic()
    batch = some_batch(network)
    with torch.no_grad():
        shifted = batch.policy.mean.clone()
        shifted[: ROWS // 2] += 1.0  # KL of the state is now 2·½·1² = 1, above η
    batch.policy = type(batch.policy)(shifted, batch.policy.log_std)
    config = Focops(lam=0.7, eta=0.1, passes=1, minibatch=ROWS)
    policy = network.policy(network.encoder(batch.inputs))
    near = torch.arange(ROWS) >= ROWS // 2
    # KL is 0 at the other half, and so is its gradient.
    ratio = (policy.log_prob(batch.draw) - batch.log_prob).exp()
    (-(ratio * batch.advantage)[near].sum() / 0.7 / ROWS).backward()
    expected = [p.grad.clone() for p in network.actor_parameters()]
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    for p, gradient in zip(network.actor_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit(torch_rng: torch.Generator) -> None:
    handler = PidLagrangian(kp=2.0, ki=0.05, kd=0.0, smoothing=0.0)
    played = play(Focops(**STEPS, lr=1e-3, critic_lr=1e-3), torch_rng, handler=handler)
    assert played.settled() == pytest.approx([0.0, 0.3, 0.7], abs=0.05)  # as in test_ppo.py, and λ* = 0.39
    assert played.multiplier[-50:].mean() == pytest.approx(0.39, abs=0.08)


def test_the_row_has_the_published_settings() -> None:
    config = build(FOCOPS.Config, FOCOPS.presets["faithful"])
    assert config.update == Focops(lam=1.5, eta=0.02, passes=40, minibatch=64, lr=3e-4, target_kl=0.02)
    assert config.constraint == Lagrangian(rule="adam", lr=0.035, init=0.001, upper=2.0)
    assert build(FOCOPS.Config, FOCOPS.presets["safepo"]).window == 50
    for preset in FOCOPS.presets.values():
        build(FOCOPS.Config, preset)
