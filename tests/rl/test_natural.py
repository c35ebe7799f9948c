"""NPG and TRPO: closed forms on one state, exact solutions on small networks, and a bandit whose optimum is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fisher import hessian
from test_ppo import LIMIT, OLD, actor_critic, every_arm, one_state, play, probabilities, some_batch
from torch import Tensor

from trueline.rl.adam import FlatAdam, Group
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.networks import ActorCritic, Network, StackedMlp
from trueline.rl.updates.natural import Backpropagation, Here, Natural, Npg, Trpo, natural_span
from trueline.rl.updates.ppo import Ppo
from trueline.rl.updates.rows import Rows

ADVANTAGE = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)


def fresh_batch(network: ActorCritic, sign: float = 1.0) -> Rows[Tensor]:
    """Noise, drawn by the policy as it stands."""
    batch = some_batch(network)
    log_prob, advantage = batch.policy.log_prob(batch.draw), sign * batch.advantage
    return Rows(batch.inputs, batch.draw, log_prob, batch.policy, advantage, batch.target)


def theta(network: ActorCritic) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.actor_parameters()])


def learn(update: Any, network: ActorCritic, batch: Rows[Any]) -> Any:
    return update.learn(network, update.optimiser(network), batch, 0.3, torch.Generator().manual_seed(0))


def test_on_one_state_the_step_is_along_the_centred_advantage() -> None:
    # F = diag(π) − ππᵀ in the logits, so that F⁻¹∇J is A − E[A] and q = Var A: log π grows by √(2δ/Var A)·(A − E[A]),
    # up to its normalisation.
    network, delta = one_state(), 1e-4
    report = learn(Npg(target_kl=delta, cg_damping=1e-9), network, every_arm(network, lambda arm: ADVANTAGE[arm]))
    centred = ADVANTAGE - OLD @ ADVANTAGE
    variance = OLD @ centred.square()
    expected = (OLD.log() + (2.0 * delta / variance).sqrt() * centred).softmax(0)
    torch.testing.assert_close(probabilities(network), expected, rtol=1e-6, atol=0.0)
    assert report.kl == pytest.approx(delta, rel=0.02)  # to second order in the step
    assert report.gain == pytest.approx(float((2.0 * delta * variance).sqrt()), rel=0.02)
    assert report.fraction == 1.0


@pytest.mark.parametrize("stride", [1, 3])
def test_the_step_is_the_exact_natural_gradient(stride: int) -> None:
    network = actor_critic()
    batch, start = fresh_batch(network), theta(network)
    h = hessian(network, {name: x[::stride] for name, x in batch.inputs.items()})
    h = h + 0.1 * torch.eye(len(h), dtype=h.dtype)
    policy = network.policy(network.encoder(batch.inputs))
    gradient = torch.autograd.grad((policy.log_prob(batch.draw) * batch.advantage).mean(), network.actor_parameters())
    g = torch.cat([part.flatten() for part in gradient])
    x = torch.linalg.solve(h, g)
    expected = (2.0 * 0.01 / (g @ x)).sqrt() * x
    learn(Npg(cg_iters=200, fisher_stride=stride), network, batch)
    torch.testing.assert_close(theta(network) - start, expected, rtol=1e-5, atol=1e-7)


def test_few_iterations_shorten_nothing() -> None:
    """½xᵀHx = δ after three iterations as after two hundred."""
    for iterations in (3, 200):
        network = actor_critic()
        batch = fresh_batch(network)
        span = natural_span(Natural(cg_iters=iterations), Here(network, batch, batch.advantage[:, None]))
        h = hessian(network, batch.inputs)
        x = span.step((2.0 * 0.01 / span.gram[0, 0]) ** 0.5 * torch.ones(1).numpy())
        assert float(0.5 * x @ h @ x + 0.05 * x @ x) == pytest.approx(0.01, rel=1e-6)


# So far that the models are wrong: the first's full step lowers the surrogate, the second's has a KL of 1.4 δ.
FAR = [(1.0, 10.0), (-1.0, 3.0)]


@pytest.mark.parametrize(("sign", "delta"), FAR)
def test_the_search_takes_the_longest_acceptable_fraction(sign: float, delta: float) -> None:
    update = Trpo(target_kl=delta, cg_damping=0.01)
    network = actor_critic()
    batch, start = fresh_batch(network, sign), theta(network)
    here = Here(network, batch, batch.advantage[:, None])
    span = natural_span(update, here)
    step = span.step((2.0 * delta / span.gram[0, 0]) ** 0.5 * torch.ones(1).numpy())
    full, shorter = here.move(step, 1.0), here.move(step, 0.8)
    assert (full.kl > delta, full.change[0] < 0.0) == (sign < 0.0, sign > 0.0)
    assert shorter.kl < delta
    assert shorter.change[0] > 0.0
    here.move(step, 0.0)
    report = learn(update, network, batch)
    assert report.fraction == 0.8
    assert (report.kl, report.gain, report.entropy) == pytest.approx((shorter.kl, shorter.change[0], shorter.entropy))
    torch.testing.assert_close(theta(network), start + 0.8 * step)


def test_what_a_trial_reports_is_the_kl_the_surrogate_and_the_entropy() -> None:
    network = actor_critic()
    batch = fresh_batch(network)
    here = Here(network, batch, torch.stack([batch.advantage, batch.target[:, 0]], dim=1))
    trial = here.move(0.3 * torch.randn(len(here.theta), dtype=torch.float64), 0.5)
    with torch.no_grad():
        policy = network.policy(network.encoder(batch.inputs))
        ratio = (policy.log_prob(batch.draw) - batch.log_prob).exp()
        kl, entropy = float(batch.policy.kl(policy).mean()), float(policy.entropy().mean())
    expected = [float(((ratio - 1.0) * a).mean()) for a in (batch.advantage, batch.target[:, 0])]
    assert trial.change == pytest.approx(expected)
    assert trial.kl == pytest.approx(kl)
    assert trial.entropy == pytest.approx(entropy)


def test_where_no_fraction_is_acceptable_the_policy_stands_still() -> None:
    network = actor_critic()
    batch, start = fresh_batch(network, -1.0), theta(network)
    report = learn(Trpo(target_kl=3.0, cg_damping=0.01, search_tries=1), network, batch)
    assert (report.fraction, report.gain, report.kl) == pytest.approx((0.0, 0.0, 0.0), abs=1e-15)
    assert torch.equal(theta(network), start)


def test_critics_are_fitted_as_ppo_fits_them_and_leave_the_policy_alone() -> None:
    settings: dict[str, Any] = {"passes": 3, "minibatch": 16, "critic_lr": 2e-3, "critic_l2": 0.02, "grad_norm": 0.5}
    ours, theirs = actor_critic(), actor_critic()
    report = learn(Trpo(**settings), ours, fresh_batch(ours))
    other = learn(Ppo(**settings, schedule="constant", target_kl=None), theirs, fresh_batch(theirs))
    for p, q in zip(ours.critics.parameters(), theirs.critics.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert report.value_loss == pytest.approx(other.value_loss, rel=1e-6)
    alone = actor_critic()
    learn(Trpo(passes=0), alone, fresh_batch(alone))
    assert torch.equal(theta(alone), theta(ours))


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5)])
@pytest.mark.parametrize("heads", [1, 3])
def test_gradients_of_critics_by_hand_are_those_of_autograd(
    activation: Any, hidden: tuple[int, ...], heads: int
) -> None:
    rng = torch.Generator().manual_seed(4)
    critics = StackedMlp(heads, 4, 1, Network(hidden=hidden, activation=activation), rng).double()
    adam = FlatAdam([Group(list(critics.parameters()), 1e-3, rows=heads)])
    x, slope = torch.randn(9, 4, generator=rng).double(), torch.randn(heads, 9, generator=rng).double()
    values = critics(x)[..., 0].T
    (values * slope).sum().backward()
    expected = [grad.clone() for grad in adam.grads]
    for grad in adam.grads:
        grad.fill_(torch.nan)  # written, not added to
    by_hand = Backpropagation(critics)
    torch.testing.assert_close(by_hand.forward(x), values.detach())
    by_hand.backward(slope)
    torch.testing.assert_close(adam.grads, expected)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    network = actor_critic()
    batch = fresh_batch(network)
    batch.advantage[3] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        learn(Trpo(), network, batch)


QUICK: dict[str, Any] = {"passes": 3, "cg_iters": 6, "cg_damping": 0.01}


@pytest.mark.parametrize("update", [Npg(target_kl=0.01, **QUICK), Trpo(target_kl=0.01, **QUICK)])
def test_it_finds_the_best_arm(update: Natural, torch_rng: torch.Generator) -> None:
    # Five times that δ would do in half the epochs, and swing by more than the bound until the end.
    assert play(update, torch_rng, 60).arms[-10:, 1].mean() > 0.95


@pytest.mark.parametrize("update", [Npg(target_kl=3e-4, **QUICK), Trpo(target_kl=3e-4, **QUICK)])
def test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit(
    update: Natural, torch_rng: torch.Generator
) -> None:
    # As in test_ppo.py. A natural step has one length however near the optimum is, and swings around it.
    handler = PidLagrangian(kp=2.0, ki=0.05, kd=0.0, smoothing=0.0)
    played = play(update, torch_rng, 200, handler)
    assert played.settled() == pytest.approx([0.0, LIMIT, 1.0 - LIMIT], abs=0.06)
