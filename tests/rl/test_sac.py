"""SAC's equations, written out again with torch's own modules, and the sign of every term in closed form."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from off_policy_steps import GUIDE, Plain, network, transitions
from torch.distributions import Normal

from trueline.rl.distributions import Choices, SquashedGaussian
from trueline.rl.handlers.constraint import Weights
from trueline.rl.off_policy.sac import Sac, expected, policy_loss, soft_value, temperature_gradient

CHOICE = gym.spaces.Discrete(3)


def log_prob_of(mean, log_std, u):
    """log density of tanh(u), from torch's normal and the change of variables as it stands."""
    return (Normal(mean, log_std.exp()).log_prob(u) - torch.log(1.0 - u.tanh().square())).sum(-1)


def test_gradient_steps_are_those_of_the_equations(torch_rng):
    sac = Sac(batch=12, delay=2, alpha=0.3, lr=0.01, critic_lr=0.02, polyak=0.1, grad_norm=1e9)
    learner = sac.learner(network(sac, torch_rng))
    plain = Plain.of(learner, 0.01, 0.02)
    w_r, w_c = 0.6, torch.tensor([0.3, 0.1])
    for number in range(1, 5):
        batch = transitions(torch_rng)
        seed = 100 + number
        sac.learn(learner, batch, GUIDE, torch.Generator().manual_seed(seed))
        # The same noise, drawn in the same order: of the next action, then of the policy's.
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            mean, log_std = plain.actor(batch.after).chunk(2, -1)
            u = mean + log_std.exp() * torch.randn(mean.shape, generator=noise)
            q = plain.slow_critics(torch.cat([batch.after, u.tanh()], 1))[..., 0]
            soft = torch.minimum(q[:, 0], q[:, 1]) - 0.3 * log_prob_of(mean, log_std, u)
            y_r = batch.signal[:, 0] + batch.discount[:, 0] * soft
            y_c = batch.signal[:, 1:] + batch.discount[:, 1:] * q[:, 2:]
        q = plain.critics(torch.cat([batch.obs, batch.action], 1))[..., 0]
        errors = [q[:, 0] - y_r, q[:, 1] - y_r, q[:, 2] - y_c[:, 0], q[:, 3] - y_c[:, 1]]
        plain.step(plain.adam_critics, sum(error.square().mean() for error in errors))
        if number % 2 == 0:
            mean, log_std = plain.actor(batch.obs).chunk(2, -1)
            u = mean + log_std.exp() * torch.randn(mean.shape, generator=noise)
            q = plain.critics(torch.cat([batch.obs, u.tanh()], 1))[..., 0]
            gain = w_r * (torch.minimum(q[:, 0], q[:, 1]) - 0.3 * log_prob_of(mean, log_std, u)) - q[:, 2:] @ w_c
            plain.step(plain.adam_actor, -gain.mean())
            plain.follow(0.1)
        plain.assert_equal(learner)


def test_gradient_steps_of_a_choice_are_those_of_the_equations(torch_rng):
    sac = Sac(batch=12, delay=1, alpha=0.3, lr=0.01, critic_lr=0.02, polyak=0.1, grad_norm=1e9)
    learner = sac.learner(network(sac, torch_rng, CHOICE))
    plain = Plain.of(learner, 0.01, 0.02)
    for _ in range(3):
        batch = transitions(torch_rng, discrete=True)
        sac.learn(learner, batch, GUIDE, torch_rng)
        with torch.no_grad():
            p = plain.actor(batch.after).softmax(-1)
            q = plain.slow_critics(batch.after)  # [B, H, 3]
            soft = (p * (torch.minimum(q[:, 0], q[:, 1]) - 0.3 * p.log())).sum(-1)
            y = [batch.signal[:, 0] + batch.discount[:, 0] * soft] * 2
            y += [batch.signal[:, k] + batch.discount[:, k] * (p * q[:, k + 1]).sum(-1) for k in (1, 2)]
        q = plain.critics(batch.obs)[torch.arange(12), :, batch.action[:, 0].long()]
        plain.step(plain.adam_critics, sum((q[:, h] - y[h]).square().mean() for h in range(4)))
        p = plain.actor(batch.obs).softmax(-1)
        q = plain.critics(batch.obs).detach()
        gain = 0.6 * (torch.minimum(q[:, 0], q[:, 1]) - 0.3 * p.log()) - 0.3 * q[:, 2] - 0.1 * q[:, 3]
        plain.step(plain.adam_actor, -(p * gain).sum(-1).mean())
        plain.follow(0.1)
        plain.assert_equal(learner)


def test_entropy_is_a_reward_and_no_cost():
    q, log_prob = torch.tensor([[2.0, 1.0, 5.0, 6.0]]), torch.tensor([-0.5])
    assert soft_value(q, log_prob, 0.2, 2).tolist() == [[pytest.approx(1.0 + 0.2 * 0.5), 5.0, 6.0]]


@pytest.mark.parametrize(("reward", "cost", "alpha", "mean_sign"), [(1.0, 0.0, 0.0, 1), (0.0, 1.0, 0.0, -1)])
def test_the_policy_climbs_the_reward_and_descends_the_cost(reward, cost, alpha, mean_sign, torch_rng):
    # Q_r = Q_c = u: the loss is (w_c − w_r)·E[u], whose gradient by the mean is exactly that difference.
    mean, log_std = torch.zeros(50, 1, requires_grad=True), torch.zeros(50, 1, requires_grad=True)
    policy = SquashedGaussian(mean, log_std)
    draw = policy.sample(torch_rng)
    q = torch.cat([draw, draw, draw], dim=1)
    weights = Weights(torch.tensor(reward), torch.tensor([cost]))
    policy_loss(q, policy.log_prob(draw), alpha, 2, weights).backward()
    torch.testing.assert_close(mean.grad, torch.full((50, 1), -mean_sign / 50.0))


def test_entropy_alone_spreads_a_narrow_policy(torch_rng):
    # With Q = 0 the loss is α·E[log π] = −α·H: its slope by log σ is −α for a normal far from tanh's bends.
    log_std = torch.full((1,), math.log(0.01), requires_grad=True)
    policy = SquashedGaussian(torch.zeros(4000, 1), log_std)
    draw = policy.sample(torch_rng)
    weights = Weights(torch.tensor(1.0), torch.tensor([0.0]))
    policy_loss(torch.zeros(4000, 3), policy.log_prob(draw), 0.2, 2, weights).backward()
    assert float(log_std.grad) == pytest.approx(-0.2, rel=1e-3)


def test_the_expectation_over_a_choice_is_exact(torch_rng):
    policy = Choices.of(torch.randn(6, 3, generator=torch_rng), (3,))
    value = torch.randn(6, 3, 2, generator=torch_rng)
    by_hand = sum(policy.logits[0][:, a].exp()[:, None] * value[:, a] for a in range(3))
    torch.testing.assert_close(expected(value, policy), by_hand)


@pytest.mark.parametrize(("entropy", "moves"), [(0.5, 1), (3.0, -1)])
def test_alpha_rises_while_the_entropy_is_below_its_aim(entropy, moves, torch_rng):
    assert float(temperature_gradient(torch.full((5,), -entropy), 1.0)) == pytest.approx(entropy - 1.0)
    sac = Sac(batch=12, auto_alpha=True, alpha=0.2, delay=1, target_entropy=-100.0 if moves < 0 else 100.0)
    learner = sac.learner(network(sac, torch_rng))
    for _ in range(3):
        sac.learn(learner, transitions(torch_rng), GUIDE, torch_rng)
    # Adam's steps have the size of the rate while the sign stays the same.
    assert float(learner.own["log_alpha"]) == pytest.approx(math.log(0.2) + moves * 3 * sac.alpha_lr, rel=1e-6)


def test_aims_of_the_entropy(torch_rng):
    sac = Sac(auto_alpha=True)
    assert sac.aim(network(sac, torch_rng)) == -2.0
    assert sac.aim(network(sac, torch_rng, CHOICE)) == pytest.approx(0.98 * np.log(3))
    assert Sac(target_entropy=-0.5).aim(network(sac, torch_rng)) == -0.5


def test_alpha_stays_put_unless_it_is_to_move(torch_rng):
    sac = Sac(batch=12, delay=1)
    learner = sac.learner(network(sac, torch_rng))
    sac.learn(learner, transitions(torch_rng), GUIDE, torch_rng)
    assert float(learner.own["log_alpha"].exp()) == pytest.approx(0.2)
