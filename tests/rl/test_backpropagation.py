"""Gradients by hand against autograd's, to the last bit, and passes with them against passes without them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trueline.rl.adam import FlatAdam, Group
from trueline.rl.distributions import Distribution, Gaussian, SquashedGaussian
from trueline.rl.handlers.constraint import normalised
from trueline.rl.networks import ActorCritic, ActorNetwork, Mlp, Network, StackedMlp
from trueline.rl.parallel import Learners
from trueline.rl.recurrent import Gru, RecurrentActorCritic
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.updates.backpropagation import Backpropagation, normal_slopes
from trueline.rl.updates.cup import Cup
from trueline.rl.updates.focops import Focops
from trueline.rl.updates.p3o import P3o
from trueline.rl.updates.ppo import MinibatchPasses, Objective, PassesReport, Ppo, ascend
from trueline.rl.updates.rows import Rows, SlackAdvantage, WeightedAdvantage
from trueline.rl.updates.surrogate import clipped_surrogate, sloped_surrogate

WIDTH, HIDDEN = 60, (64, 64)  # the presets'
BOX, CHOICE = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)
MINIBATCHES = [1, 63, 64, 2000]  # tanh is NumPy's from 512 rows of a perceptron on, and below that torch's
ACTIVATIONS: list[Any] = ["tanh", "relu", "silu"]


# --- one pass ---


def perceptron(stacked: bool, activation: Any, hidden: tuple[int, ...] = HIDDEN) -> Mlp | StackedMlp:
    rng, shape = torch.Generator().manual_seed(4), Network(hidden=hidden, activation=activation)
    return StackedMlp(2, WIDTH, 1, shape, rng) if stacked else Mlp(WIDTH, 2, shape, rng)


def flat_adam(module: Mlp | StackedMlp) -> FlatAdam:
    return FlatAdam([Group(list(module.parameters()), 1e-3, rows=2 if isinstance(module, StackedMlp) else None)])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("rows", MINIBATCHES)
def test_gradients_by_hand_are_autograds_to_the_last_bit(
    rows: int, stacked: bool, activation: Any, torch_rng: torch.Generator
) -> None:
    module = perceptron(stacked, activation)
    (grads,) = flat_adam(module).grads
    x, target = torch.randn(rows, WIDTH, generator=torch_rng), torch.randn(rows, 2, generator=torch_rng)
    outputs = module(x)[..., 0] if stacked else module(x)  # [b, 2] either way
    outputs.retain_grad()
    (outputs - target).square().mean(0).sum().backward()
    expected = grads.clone()
    grads.fill_(torch.nan)  # written, not added to
    by_hand = Backpropagation(module, recorded=True)
    found = by_hand.forward(x)
    assert torch.equal(found.T if stacked else found, outputs)
    assert outputs.grad is not None
    by_hand.backward(outputs.grad.T if stacked else outputs.grad)
    assert torch.equal(grads, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_by_hand_are_differences_of_the_loss(
    stacked: bool, activation: Any, torch_rng: torch.Generator
) -> None:
    module = perceptron(stacked, activation, (7, 6)).double()
    adam = flat_adam(module)
    (theta,), (grads,) = adam.values, adam.grads
    x = torch.randn(9, WIDTH, generator=torch_rng, dtype=torch.float64)
    slope = torch.randn(9, 2, generator=torch_rng, dtype=torch.float64)
    by_hand = Backpropagation(module)
    slope = slope.T if stacked else slope
    by_hand.forward(x)
    by_hand.backward(slope)
    direction, start = torch.randn(theta.shape, generator=torch_rng, dtype=torch.float64), theta.clone()
    ends = []
    for sign in (1.0, -1.0):
        theta.copy_(start + sign * 1e-6 * direction)
        ends.append(float((by_hand.forward(x) * slope).sum()))
    assert float((grads * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_without_a_record_values_are_those_that_the_module_gives_without_one(
    stacked: bool, torch_rng: torch.Generator
) -> None:
    module, x = perceptron(stacked, "tanh"), torch.randn(64, WIDTH, generator=torch_rng)
    flat_adam(module)
    found = Backpropagation(module).forward(x)
    with torch.no_grad():
        assert torch.equal(found, module(x)[..., 0].T if stacked else module(x))


# --- the surrogate ---


def close_to_the_clip(rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """log π, log π_old and advantages: ratios anywhere, at 1, and within rounding of both bounds."""
    old, advantage = torch.randn(rows, generator=rng), torch.randn(rows, generator=rng)
    log_ratio = torch.randn(rows, generator=rng)
    log_ratio[::4], log_ratio[1::4], log_ratio[2::4] = 0.0, math.log(1.2), math.log(0.8)
    log_ratio *= 1.0 + 1e-7 * torch.randn(rows, generator=rng)
    advantage[::7] = 0.0
    return log_ratio, torch.zeros(rows).where(log_ratio.abs() < 0.3, old), advantage


@pytest.mark.parametrize("clip", [0.2, None])
@pytest.mark.parametrize("rows", [1, 63, 64, 20000])
def test_the_surrogates_slope_is_autograds_to_the_last_bit(
    rows: int, clip: float | None, torch_rng: torch.Generator
) -> None:
    log_ratio, old, advantage = close_to_the_clip(rows, torch_rng)
    log_prob = (log_ratio + old).requires_grad_()
    ratio = (log_prob - old).exp()
    gain = ratio * advantage if clip is None else clipped_surrogate(log_prob, old, advantage, clip)
    (-gain.mean()).backward()
    found = sloped_surrogate(log_prob.detach(), old, advantage, clip, -float(torch.tensor(1.0) / rows))
    assert torch.equal(found.gain, gain)
    assert torch.equal(found.slope, log_prob.grad)
    if rows == 20000 and clip is not None:  # among them bounds that are met, and products that are equal beyond them
        beyond = (ratio - ratio.clamp(0.8, 1.2) != 0) & (advantage != 0)
        assert (beyond & (gain == ratio * advantage) & (gain == ratio.clamp(0.8, 1.2) * advantage)).any()


@pytest.mark.parametrize("kind", [Gaussian, SquashedGaussian])
@pytest.mark.parametrize("actions", [1, 2, 8])
@pytest.mark.parametrize("rows", MINIBATCHES)
def test_a_normals_slopes_are_autograds_to_the_last_bit(
    rows: int, actions: int, kind: Any, torch_rng: torch.Generator
) -> None:
    mean, draw = torch.randn(2, rows, actions, generator=torch_rng)
    log_std, slope = torch.randn(actions, generator=torch_rng), torch.randn(rows, generator=torch_rng)
    leaves = [mean.clone().requires_grad_(), log_std.clone().requires_grad_()]
    expected = torch.autograd.grad(kind(*leaves).log_prob(draw), leaves, slope)
    for ours, theirs in zip(normal_slopes(mean, log_std, draw, slope), expected, strict=True):
        assert torch.equal(ours, theirs)


@given(st.integers(0, 10**6))
def test_slopes_of_log_density_vanish_on_average_over_its_own_draws(seed: int) -> None:
    # E[∂ log π] = 0: with the two draws mean ± σ, of z² = 1, both slopes vanish exactly.
    rng = torch.Generator().manual_seed(seed)
    mean, log_std = torch.randn(1, 3, generator=rng, dtype=torch.float64), torch.randn(3, generator=rng).double()
    draw = torch.cat([mean + log_std.exp(), mean - log_std.exp()])
    slopes = normal_slopes(mean.expand(2, -1), log_std, draw, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(slopes[0].sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(slopes[1], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


# --- the step ---


@pytest.mark.parametrize("bound", [1e-7, 0.999, 1.0, 1.001, 40.0])
def test_a_bound_that_is_not_reached_scales_by_one(bound: float, torch_rng: torch.Generator) -> None:
    # Gradients of norm 1 and 0.5, with a bound around that of one of them.
    module = perceptron(True, "tanh")
    adam = flat_adam(module)
    (value,), (grad,), theta = adam.values, adam.grads, adam.values[0].clone()
    noise = torch.randn(grad.shape, generator=torch_rng)
    grad.copy_(noise / noise.norm(dim=1, keepdim=True) * torch.tensor([[1.0], [0.5]]))
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    scaled = grad * (bound / (norm + 1e-6)).clamp_max(1.0)
    adam.step(bound)
    assert torch.equal(grad, scaled)
    # The first step of Adam is lr·g/(|g| + ε), whatever the scale.
    torch.testing.assert_close(value, theta - 1e-3 * scaled / (scaled.abs() + 1e-8), rtol=1e-4, atol=1e-7)


def test_a_gradient_that_is_no_number_reaches_all_of_its_network() -> None:
    # Its norm is none either, nor is what it is scaled by: a network that diverges is no longer finite anywhere.
    adam = flat_adam(perceptron(True, "tanh"))
    adam.grads[0][1, 7] = torch.nan
    adam.step(40.0)
    assert adam.values[0][0].isfinite().all()
    assert adam.values[0][1].isnan().all()


# --- many ---


def actor_critic(action: spaces.Space = BOX, activation: Any = "tanh", squashed: bool = False) -> ActorCritic:
    return ActorCritic(
        ObservationCodec.of(spaces.Box(-np.inf, np.inf, (WIDTH,))),
        ActionCodec.of(action),
        1,
        ActorNetwork(hidden=HIDDEN, activation=activation, squashed=squashed),
        Network(hidden=HIDDEN, activation=activation),
        torch.Generator().manual_seed(0),
    )


def some_batch(network: ActorCritic, rows: int) -> Rows[Tensor]:
    rng = torch.Generator().manual_seed(3)
    inputs = {"vector": torch.randn(rows, WIDTH, generator=rng)}
    with torch.no_grad():
        policy = network.policy(network.encoder(inputs)).detach()
        draw = policy.sample(rng)
    log_prob = policy.log_prob(draw) + 0.2 * torch.randn(rows, generator=rng)
    return Rows(
        inputs, draw, log_prob, policy, torch.randn(rows, generator=rng), 3.0 * torch.randn(rows, 2, generator=rng)
    )


def recorded(
    settings: MinibatchPasses,
    network: ActorCritic,
    adam: FlatAdam,
    batch: Rows[Any],
    objective: Objective,
    rng: torch.Generator,
    *,
    values: bool = True,
    start: Distribution | None = None,
    shared: bool = True,
    sloped: Any = None,
) -> PassesReport:
    """The passes with every gradient autograd's, and no end by KL."""
    minibatch, reports = settings.minibatch // batch.log_prob[0].numel(), []
    for _ in range(settings.passes):
        for whole in torch.randperm(len(batch.log_prob), generator=rng).split(minibatch):
            rows = batch.learners.share(whole) if shared else whole
            features = network.encoder({name: x[rows] for name, x in batch.inputs.items()})
            policy = network.policy(features)
            gain, value = objective(policy, rows), torch.zeros(())
            loss = -gain
            if values:
                value = (network.values(features) - batch.target[rows]).square().flatten(0, -2).mean(0).sum()
                loss = value - gain
            if settings.entropy:
                loss = loss - settings.entropy * policy.entropy().mean()
            adam.zero_grad()
            (loss * (len(rows) / len(whole))).backward()
            adam.step(settings.grad_norm)
            reports.append((-gain.item(), value.item()))
    last = np.mean(reports[-math.ceil(len(batch.log_prob) / minibatch) :], axis=0)
    return PassesReport(0.0, settings.passes, *last.tolist(), entropy=0.0)


def learnt(update: Any, network: ActorCritic, batch: Rows[Any]) -> tuple[list[Tensor], Any]:
    """What is left of parameters, gradients and moments, and the report."""
    adam = update.optimiser(network)
    report = update.learn(network, adam, batch, 0.25, torch.Generator().manual_seed(7))
    return [*adam.values, *adam.grads, *adam.first, *adam.second], report


def both_ways(
    monkeypatch: pytest.MonkeyPatch,
    update: Any,
    made: Callable[[], ActorCritic],
    batch_of: Callable[[ActorCritic], Rows[Any]],
) -> None:
    """The update as it is, and with `recorded` in the place of its passes: equal to the last bit."""
    network = made()
    ours, report = learnt(update, network, batch_of(network))
    for module in ("ppo", "cup", "p3o"):
        monkeypatch.setattr(f"trueline.rl.updates.{module}.ascend", recorded)
    network = made()
    theirs, expected = learnt(update, network, batch_of(network))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert report.policy_loss == pytest.approx(expected.policy_loss, rel=1e-4, abs=1e-6)
    assert report.value_loss == pytest.approx(expected.value_loss, rel=1e-4)


@pytest.mark.parametrize("minibatch", MINIBATCHES)
def test_fifty_steps_end_where_autograds_do(minibatch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 5 if minibatch < 2000 else 25
    rows = (50 // passes) * minibatch - minibatch // 3  # the last minibatch of a pass is a smaller one
    update = Ppo(passes=passes, minibatch=minibatch, target_kl=None)
    both_ways(monkeypatch, update, actor_critic, lambda network: some_batch(network, rows))


@pytest.mark.parametrize(
    ("action", "squashed", "activation"),
    [(BOX, True, "tanh"), (BOX, False, "relu"), (BOX, False, "silu"), (CHOICE, False, "tanh")],
)
def test_other_policies_do_as_well(
    action: spaces.Space, squashed: bool, activation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Ppo(passes=3, minibatch=64, target_kl=None, entropy=0.01, grad_norm=0.3)
    both_ways(
        monkeypatch,
        update,
        lambda: actor_critic(action, activation, squashed),
        lambda network: some_batch(network, 200),
    )


STEPS: dict[str, Any] = {"passes": 3, "minibatch": 64, "target_kl": None}


@pytest.mark.parametrize(
    "update", [Ppo(**STEPS, clip=None), Focops(**STEPS), P3o(**STEPS), Cup(**STEPS)], ids=lambda update: type(update)
)
def test_so_do_other_objectives(update: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(network: ActorCritic) -> Rows[Any]:
        rows = some_batch(network, 200)
        reward, cost = rows.advantage, rows.advantage.roll(1)[:, None]
        if update.takes == "slack":
            rows.advantage = SlackAdvantage(reward, cost, torch.tensor([0.05]))
        if update.takes == "weights":
            rows.advantage = WeightedAdvantage(reward, cost, normalised(torch.tensor([0.5])), 0.9, 0.8)
        return rows

    both_ways(monkeypatch, update, actor_critic, batch)


class Third(Learners):
    """One learner of three, with nobody to add its gradients to."""

    def add(self, tensors: Any) -> None:
        pass


def test_so_does_the_share_of_one_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(network: ActorCritic) -> Rows[Any]:
        rows = some_batch(network, 200)
        rows.learners = Third(1, 3)
        return rows

    update, network = Ppo(passes=3, minibatch=64, target_kl=None, entropy=0.01), actor_critic()
    ours, _ = learnt(update, network, batch(network))
    monkeypatch.setattr("trueline.rl.updates.ppo.ascend", recorded)
    network = actor_critic()
    theirs, _ = learnt(update, network, batch(network))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_what_the_policy_does_not_depend_on_has_no_gradient() -> None:
    # The mode of a normal is its mean: log σ stays where it is, and its gradient of the step before is gone.
    class TowardsZero(MinibatchPasses):
        def learn(self, network: ActorCritic, adam: FlatAdam, batch: Rows[Any], rng: torch.Generator) -> None:
            ascend(self, network, adam, batch, lambda policy, rows: -policy.mode().square().mean(), rng)

    network = actor_critic()
    batch, update = some_batch(network, 64), TowardsZero(passes=4)
    adam = update.optimiser(network)
    adam.grads[0].fill_(1.0)
    assert network.log_std is not None
    before = network.log_std.detach().clone()
    update.learn(network, adam, batch, torch.Generator().manual_seed(0))
    assert torch.equal(network.log_std, before)
    with torch.no_grad():
        after = network.policy(batch.inputs["vector"])
    assert after.mode().square().mean() < batch.policy.mode().square().mean()


def test_a_network_with_a_memory_learns_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its encoder has parameters of its own: autograd alone knows their gradients.
    def made() -> ActorCritic:
        rng, observation = torch.Generator().manual_seed(0), spaces.Box(-1, 1, (4,))
        shape: dict[str, Any] = {"hidden": (8,)}
        return RecurrentActorCritic(
            ObservationCodec.of(observation),
            ActionCodec.of(BOX),
            1,
            ActorNetwork(**shape),
            Network(**shape),
            Gru(width=8, segment=4),
            rng,
        )

    def batch(network: ActorCritic) -> Rows[Any]:
        rng = torch.Generator().manual_seed(3)
        inputs = {"vector": torch.randn(12, 4, 4, generator=rng), "memory": torch.zeros(12, 16)}
        inputs["begins"] = torch.zeros(12, 4)
        with torch.no_grad():
            policy = network.policy(network.encoder(inputs)).detach()
            draw = policy.sample(rng)
        advantage, target = torch.randn(12, 4, generator=rng), torch.randn(12, 4, 2, generator=rng)
        return Rows(inputs, draw, policy.log_prob(draw), policy, advantage, target)

    both_ways(monkeypatch, Ppo(passes=2, minibatch=4, target_kl=None, entropy=0.01), made, batch)
