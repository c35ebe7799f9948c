"""TD3's and DDPG's equations, written out again with torch's own modules, and what the noise is held to."""

from __future__ import annotations

import pytest
import torch
from off_policy_steps import GUIDE, WIDTH, Plain, network, transitions

from trueline.rl.handlers.constraint import Weights
from trueline.rl.off_policy.td3 import DDPG, Td3, policy_loss, smoothed


@pytest.mark.parametrize(
    ("update", "twins"),
    [
        (Td3(delay=2, target_noise=0.4, noise_clip=0.3), 2),
        (Td3(twins=1, delay=1, target_noise=0.0), 1),
    ],
)
def test_gradient_steps_are_those_of_the_equations(update, twins, torch_rng):
    update = update.model_copy(update={"lr": 0.01, "critic_lr": 0.02, "polyak": 0.1, "grad_norm": 1e9})
    learner = update.learner(network(update, torch_rng))
    plain = Plain.of(learner, 0.01, 0.02)
    for number in range(1, 5):
        batch = transitions(torch_rng)
        update.learn(learner, batch, GUIDE, torch.Generator().manual_seed(number))
        with torch.no_grad():
            action = plain.slow_actor(batch.after).tanh()
            if update.target_noise:
                noise = torch.randn(action.shape, generator=torch.Generator().manual_seed(number))
                action = (action + (0.4 * noise).clamp(-0.3, 0.3)).clamp(-1.0, 1.0)
            q = plain.slow_critics(torch.cat([batch.after, action], 1))[..., 0]
            best = q[:, :twins].min(1).values
            y = [batch.signal[:, 0] + batch.discount[:, 0] * best] * twins
            y += [batch.signal[:, k] + batch.discount[:, k] * q[:, twins + k - 1] for k in (1, 2)]
        q = plain.critics(torch.cat([batch.obs, batch.action], 1))[..., 0]
        plain.step(plain.adam_critics, sum((q[:, h] - y[h]).square().mean() for h in range(twins + 2)))
        if number % update.delay == 0:
            action = plain.actor(batch.obs).tanh()
            q = plain.critics(torch.cat([batch.obs, action], 1))[..., 0]
            gain = 0.6 * q[:, 0] - 0.3 * q[:, twins] - 0.1 * q[:, twins + 1]
            plain.step(plain.adam_actor, -gain.mean())
            plain.follow(0.1)
        plain.assert_equal(learner)


def test_ddpg_is_the_case_of_one_critic_no_delay_and_no_noise():
    assert (DDPG.twins, DDPG.delay, DDPG.target_noise) == (1, 1, 0.0)


def test_the_policy_climbs_the_reward_and_descends_the_cost():
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    policy_loss(q, Weights(torch.tensor(0.75), torch.tensor([0.25]))).backward()
    torch.testing.assert_close(q.grad, torch.tensor([[-0.375, 0.125], [-0.375, 0.125]]))


def test_smoothing_noise_is_clipped_and_so_is_the_action(torch_rng):
    action = torch.tensor([0.0, 0.9]).expand(20_000, 2)
    noisy = smoothed(action, 0.4, 0.3, torch_rng)
    assert noisy.abs().max() <= 1.0
    assert float((noisy[:, 0]).abs().max()) == pytest.approx(0.3)
    # A normal of 0.4 lies beyond ±0.3 with probability 0.4533: four standard errors of 20,000 draws.
    assert float((noisy[:, 0].abs() >= 0.3 - 1e-6).float().mean()) == pytest.approx(0.4533, abs=0.0141)
    assert smoothed(action, 0.0, 0.3, torch_rng) is action


def test_actions_of_training_are_noisy_within_the_worlds_range(torch_rng):
    update = Td3(exploration=0.5)
    net = network(update, torch_rng)
    features = torch.randn(1, WIDTH, generator=torch_rng).expand(20_000, WIDTH)
    with torch.no_grad():
        action, mean = update.act(net, features, torch_rng), net.policy(features).mode().tanh()
    assert action.abs().max() <= 1.0
    inside = (action - mean)[(action.abs() < 1.0).all(1)]
    assert 0.3 < float(inside.std()) < 0.5  # what is clipped takes the tails along
    assert torch.equal(Td3(exploration=0.0).act(net, features[:3], torch_rng), mean[:3])
