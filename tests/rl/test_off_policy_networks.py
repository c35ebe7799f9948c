"""Passes derived by hand against autograd, the fused step against torch's, and policies that come back from disk."""

from __future__ import annotations

import itertools
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.networks import Mlp, StackedMlp
from trueline.rl.off_policy.networks import (
    ActorQ,
    FusedAdam,
    Learner,
    Perceptrons,
    QNetwork,
    QPolicy,
    Shape,
    described,
    load,
    pessimistic,
    td_target,
)
from trueline.rl.policy import Acts, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec

BOX, CHOICE = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(3)


def made(torch_rng, action=BOX, twins=2, costs=("a", "b"), hidden=(8, 6), stochastic=True, normalise=True, **net):
    shape = Shape(twins, costs, QNetwork(hidden=hidden, **net), QNetwork(hidden=hidden, **net), stochastic, normalise)
    codec = ObservationCodec.of(gym.spaces.Box(-np.inf, np.inf, (5,)))
    return ActorQ(codec, ActionCodec.of(action), shape, torch_rng)


def policy_of(network):
    codec = ObservationCodec.of(gym.spaces.Box(-np.inf, np.inf, (5,)))
    shape = described(network.shape) | {"multipliers": [0.5, 2.0], "temperature": 0.1}
    return QPolicy(network, codec, WorldRef(id="World-v0"), shape, "parent-run")


# -- passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "hidden"), [*itertools.product(["relu", "tanh"], [(), (7,), (8, 6), (5, 4, 3)])]
)
@pytest.mark.parametrize("stacked", [False, True])
def test_passes_are_those_of_autograd(stacked, activation, hidden, torch_rng):
    shape = QNetwork(hidden=hidden, activation=activation)
    module = StackedMlp(3, 5, 2, shape, torch_rng) if stacked else Mlp(5, 2, shape, torch_rng)
    FlatAdam([Group(list(module.parameters()), 1e-3, rows=3 if stacked else None)])
    passes = Perceptrons(module, activation)
    x = torch.randn(11, 5, generator=torch_rng, requires_grad=True)
    output = module(x)
    output = output.transpose(0, 1) if stacked else output[None]  # [H, B, outputs]
    outward = torch.randn(output.shape, generator=torch_rng)
    module.zero_grad(set_to_none=False)
    (output * outward).sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    torch.testing.assert_close(passes.forward(x.detach(), keep=True), output.detach())
    for p in module.parameters():
        p.grad.fill_(torch.nan)  # written, not added to
    passes.learn(outward)
    for p, right in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, right, rtol=1e-4, atol=1e-5)
    passes.forward(x.detach(), keep=True)
    torch.testing.assert_close(passes.by_input(outward, 2), x.grad[:, -2:], rtol=1e-4, atol=1e-5)
    if stacked:
        torch.testing.assert_close(passes.forward(x.detach(), [2, 0]), output.detach()[[2, 0]])


def test_q_has_a_gradient_to_the_actions_of_its_own_critics_alone(torch_rng):
    network = made(torch_rng)
    learner = Learner(network, 1e-3, 1e-3)
    features = torch.randn(9, 5, generator=torch_rng)
    action = torch.randn(9, 2, generator=torch_rng, requires_grad=True)
    weight = torch.randn(9, 2, generator=torch_rng)
    (learner.q(features, action, [0, 3]) * weight).sum().backward()
    mine, action.grad = action.grad, None
    (network.critics(torch.cat([features, action], 1))[:, [0, 3], 0] * weight).sum().backward()
    torch.testing.assert_close(mine, action.grad)


def test_the_fused_step_is_the_step_of_torchs_adam(torch_rng):
    modules = [StackedMlp(2, 4, 1, QNetwork(hidden=(5,)), torch.Generator().manual_seed(3)) for _ in range(2)]
    lists = [list(module.parameters()) for module in modules]
    fused = FusedAdam([Group(lists[0], 0.01, rows=2, l2=0.1)])
    flat = FlatAdam([Group(lists[1], 0.01, rows=2, l2=0.1)])
    for _ in range(5):
        for p, q in zip(*lists, strict=True):
            noise = torch.randn(p.shape, generator=torch_rng)
            p.grad.copy_(noise)
            q.grad.copy_(noise)
        fused.step(1.5)
        flat.step(1.5)
    for p, q in zip(*lists, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("action", [BOX, CHOICE])
def test_critics_descend_their_squared_errors(action, torch_rng):
    # One step with the bound out of reach against torch's Adam on the loss as autograd has it.
    network = made(torch_rng, action)
    learner = Learner(network, 1e-3, 0.01)
    discrete = action is CHOICE
    inputs = torch.randn(12, 5 if discrete else 7, generator=torch_rng)
    target = torch.randn(12, 3, generator=torch_rng)
    taken = torch.randint(3, (12,), generator=torch_rng) if discrete else None
    twin = StackedMlp(4, inputs.shape[1], 3 if discrete else 1, network.shape.critic, torch_rng)
    twin.load_state_dict(network.critics.state_dict())
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    q = twin(inputs)
    q = q[torch.arange(12), :, taken] if discrete else q[..., 0]
    # The reward's two twins have the reward's target, each cost's critic its own.
    losses = [(q[:, h] - target[:, column]).square().mean() for h, column in enumerate([0, 0, 1, 2])]
    sum(losses).backward()
    adam.step()
    found = learner.fit_critics(inputs, target, 1e9, taken)
    torch.testing.assert_close(found, sum(losses).detach())
    for p, right in zip(network.critics.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, right, rtol=1e-4, atol=1e-6)


def test_slow_copies_follow(torch_rng):
    network = made(torch_rng)
    learner = Learner(network, 0.1, 0.1)
    before = {name: p.clone() for name, p in learner.target_critics.module.state_dict().items()}
    for name, p in network.critics.state_dict().items():
        torch.testing.assert_close(before[name], p, rtol=0, atol=0)
    learner.fit_critics(torch.randn(6, 7, generator=torch_rng), torch.zeros(6, 3), 40.0)
    learner.follow(0.25)
    for name, p in network.critics.state_dict().items():
        now = learner.target_critics.module.state_dict()[name]
        torch.testing.assert_close(now, 0.75 * before[name] + 0.25 * p)
        assert not torch.equal(now, before[name])
    x = torch.randn(4, 7, generator=torch_rng)
    torch.testing.assert_close(  # the passes read the copy's present numbers
        learner.target_critics.passes.forward(x).transpose(0, 1), learner.target_critics.module(x)
    )


def test_the_least_of_the_twins_and_each_cost_as_it_is():
    q = torch.tensor([[3.0, 1.0, 5.0, -2.0], [0.0, 4.0, 6.0, 7.0]])
    assert pessimistic(q, 2).tolist() == [[1.0, 5.0, -2.0], [0.0, 6.0, 7.0]]
    assert pessimistic(q, 1).tolist() == q.tolist()


def test_time_limits_bootstrap_and_terminations_do_not():
    # Two steps summed at γ = 0.9: cut off afterwards, γ² of the value counts; terminated, none of it.
    signal, value = torch.tensor([[1.9, 0.0], [1.9, 1.0]]), torch.tensor([[10.0, 2.0], [10.0, 2.0]])
    discount = torch.tensor([[0.81, 0.81], [0.0, 0.0]])
    torch.testing.assert_close(td_target(signal, discount, value), torch.tensor([[10.0, 1.62], [1.9, 1.0]]))


# -- networks and policies --------------------------------------------------------------------------------------------


def test_a_deterministic_policy_is_a_normal_of_no_deviation(torch_rng):
    network = made(torch_rng, stochastic=False)
    policy = network.policy(torch.randn(6, 5, generator=torch_rng))
    assert torch.equal(policy.sample(torch_rng), policy.mode())
    assert torch.equal(policy.to_action(policy.mode()), policy.mean.tanh())
    assert policy.entropy().tolist() == [-math.inf] * 6


def test_values_are_of_the_policys_mode(torch_rng):
    features = torch.randn(6, 5, generator=torch_rng)
    network = made(torch_rng)
    mode = network.policy(features).mean.tanh()
    q = network.critics(torch.cat([features, mode], dim=1))[..., 0]
    torch.testing.assert_close(network.values(features), torch.column_stack([q[:, :2].amin(1), q[:, 2:]]))
    network = made(torch_rng, CHOICE)
    best = network.actor(features).argmax(1)
    q = network.critics(features)[torch.arange(6), :, best]
    torch.testing.assert_close(network.values(features), torch.column_stack([q[:, :2].amin(1), q[:, 2:]]))


@pytest.mark.parametrize(("action", "stochastic"), [(BOX, True), (BOX, False), (CHOICE, True)])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_loaded_policy_acts_as_the_saved_one(action, stochastic, normalise, tmp_path, torch_rng):
    network = made(torch_rng, action, stochastic=stochastic, normalise=normalise)
    network.encoder.norm.update(5.0 + 3.0 * torch.randn(50, 5, generator=torch_rng))
    Learner(network, 1e-3, 1e-3)  # parameters are views of flat tensors now
    policy = policy_of(network)
    policy.save(tmp_path)
    again = load(tmp_path)
    obs = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    for deterministic in (False, True):
        first, _ = policy.act(obs, None, np.random.default_rng(5), deterministic)
        second, _ = again.act(obs, None, np.random.default_rng(5), deterministic)
        np.testing.assert_array_equal(first, second)
    assert isinstance(again, Acts)
    assert (again.world, again.parent, again.costs) == (policy.world, "parent-run", ("a", "b"))
    assert again.multipliers.tolist() == [0.5, 2.0]
    assert again.shape == policy.shape
    torch.testing.assert_close(again.network.encoder.norm.scale32, network.encoder.norm.scale32, rtol=0, atol=0)


def test_statistics_that_are_not_applied_are_kept(torch_rng):
    network, x = made(torch_rng, normalise=False), 100.0 + torch.randn(40, 5, generator=torch_rng)
    network.encoder.norm.update(x)
    assert torch.equal(network.features({"vector": x}), x)  # not clipped either
    torch.testing.assert_close(1.0 / network.encoder.norm.scale32, x.std(0, correction=0))


def test_damage_is_named(tmp_path, torch_rng):
    with pytest.raises(RunError, match=r"policy\.json is missing"):
        load(tmp_path)
    policy_of(made(torch_rng)).save(tmp_path)
    card = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps(card | {"twins": 1}))
    with pytest.raises(RunError, match="damaged or of another version"):
        load(tmp_path)


def test_spaces_that_cannot_be_learnt_are_refused(torch_rng):
    shape = Shape(2, (), QNetwork(), QNetwork(), True, False)
    vector = ObservationCodec.of(gym.spaces.Box(-1.0, 1.0, (5,)))
    pictures = ObservationCodec.of(gym.spaces.Box(0, 255, (40, 40, 3), np.uint8))
    with pytest.raises(ConfigError, match="replay of pictures"):
        ActorQ(pictures, ActionCodec.of(BOX), shape, torch_rng)
    with pytest.raises(ConfigError, match="several choices at once"):
        ActorQ(vector, ActionCodec.of(gym.spaces.MultiDiscrete([2, 3])), shape, torch_rng)
    with pytest.raises(ConfigError, match="this policy is deterministic"):
        ActorQ(vector, ActionCodec.of(CHOICE), shape._replace(stochastic=False), torch_rng)
    with pytest.raises(ConfigError, match="relu and tanh only"):
        build(QNetwork, {"activation": "silu"})
