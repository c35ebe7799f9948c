"""Networks against torch's own layers holding the same weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from trueline.core.errors import ConfigError
from trueline.rl.distributions import Choices, Gaussian, SquashedGaussian
from trueline.rl.networks import ActorCritic, ActorNetwork, Encoder, Mlp, Network, PictureEncoder, StackedMlp
from trueline.rl.spaces import ActionCodec, ObservationCodec

MODULES = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


def torch_mlp(weights: list[torch.Tensor], biases: list[torch.Tensor], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
        layers += [linear, MODULES[activation]()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("activation", list(MODULES))
def test_a_perceptron_is_torchs(activation: Any, torch_rng: torch.Generator) -> None:
    net = Mlp(5, 3, Network(hidden=(8, 7), activation=activation), torch_rng)
    x = torch.randn(4, 6, 5, generator=torch_rng)
    theirs = torch_mlp(list(net.weights), list(net.biases), activation)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("activation", list(MODULES))
def test_a_stack_is_as_many_separate_perceptrons_in_value_and_gradient(
    activation: Any, torch_rng: torch.Generator
) -> None:
    stack = StackedMlp(3, 5, 2, Network(hidden=(8, 7), activation=activation), torch_rng)
    x = torch.randn(11, 5, generator=torch_rng)
    pull = torch.randn(11, 3, 2, generator=torch_rng)
    out = stack(x)
    assert out.shape == (11, 3, 2)
    (out * pull).sum().backward()
    for head in range(3):
        alone = torch_mlp([w[head].T for w in stack.weights], [b[head, 0] for b in stack.biases], activation)
        torch.testing.assert_close(out[:, head], alone(x))
        (alone(x) * pull[:, head]).sum().backward()
        for layer, linear in enumerate(m for m in alone if isinstance(m, nn.Linear)):
            torch.testing.assert_close(stack.weights[layer].grad[head].T, linear.weight.grad)
            torch.testing.assert_close(stack.biases[layer].grad[head, 0], linear.bias.grad)


def test_heads_start_different() -> None:
    stack = StackedMlp(2, 5, 1, Network(), torch.Generator().manual_seed(0))
    assert all(not torch.equal(w[0], w[1]) for w in stack.weights)


def test_weights_depend_on_their_generator_alone() -> None:
    made = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        made.append(Mlp(4, 2, Network(), torch.Generator().manual_seed(9)))
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in made), strict=True))


def test_kaiming_start_has_torchs_range() -> None:
    net = Mlp(100, 50, Network(hidden=(200,)), torch.Generator().manual_seed(0))
    for weight, bias in zip(net.weights, net.biases, strict=True):
        bound = 1 / math.sqrt(weight.shape[1])  # kaiming_uniform_(a=√5) and torch's bias
        for values in (weight.detach(), bias.detach()):
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.9 * bound
            # A uniform on ±b has standard deviation b/√3.
            assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize("sizes", [(4, 9), (9, 4)])
def test_orthogonal_start_is_orthogonal_times_root_two(sizes: tuple[int, int]) -> None:
    shape = Network(hidden=(), init="orthogonal")
    net = Mlp(*sizes, shape, torch.Generator().manual_seed(0))
    w = net.weights[0]
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    torch.testing.assert_close(gram, 2.0 * torch.eye(4), atol=1e-5, rtol=0)
    assert (net.biases[0] == 0).all()


@pytest.mark.parametrize("kind", [Mlp, StackedMlp])
def test_the_last_gain_scales_the_last_layer_alone(kind: Any) -> None:
    heads = (2,) if kind is StackedMlp else ()
    plain, scaled = (
        kind(*heads, 4, 2, Network(last_gain=gain), torch.Generator().manual_seed(3)) for gain in (1.0, 0.01)
    )
    for layer, (a, b) in enumerate(zip(plain.weights, scaled.weights, strict=True)):
        torch.testing.assert_close(b, a * (0.01 if layer == 2 else 1.0))


def test_the_picture_encoder_is_torchs_convolutions(torch_rng: torch.Generator) -> None:
    net = PictureEncoder(44, 40, 3, torch_rng)
    picture = torch.randint(0, 256, (2, 44, 40, 3), generator=torch_rng, dtype=torch.uint8)
    x = picture.permute(0, 3, 1, 2).float() / 255
    for kernel, bias, (size, stride) in zip(net.kernels, net.biases, [(8, 4), (4, 2), (3, 1)], strict=True):
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, stride)
        conv.weight.data.copy_(kernel)
        conv.bias.data.copy_(bias)
        x = torch.relu(conv(x))
    x = torch.relu(torch_mlp(list(net.out.weights), list(net.out.biases), "tanh")(x.flatten(1)))
    torch.testing.assert_close(net(picture), x)


def test_pictures_that_are_too_small_are_refused() -> None:
    PictureEncoder(36, 36, 1, torch.Generator())
    with pytest.raises(ConfigError, match="36 pixels"):
        PictureEncoder(35, 36, 1, torch.Generator())


def test_the_encoder_joins_the_normalised_vector_and_each_picture(torch_rng: torch.Generator) -> None:
    space = spaces.Dict(
        {
            "eye": spaces.Box(0, 255, (36, 36, 3), np.uint8),
            "map": spaces.Box(0, 255, (40, 36, 1), np.uint8),
            "speed": spaces.Box(-9, 9, (2,)),
        }
    )
    encoder = Encoder(ObservationCodec.of(space), torch_rng)
    inputs = {
        "vector": torch.randn(5, 2, generator=torch_rng),
        "image/eye": torch.randint(0, 256, (5, 36, 36, 3), generator=torch_rng, dtype=torch.uint8),
        "image/map": torch.randint(0, 256, (5, 40, 36, 1), generator=torch_rng, dtype=torch.uint8),
    }
    encoder.norm.update(3.0 + inputs["vector"])
    out = encoder(encoder.normalised(inputs))
    assert out.shape == (5, encoder.width) == (5, 2 + 2 * 128)
    torch.testing.assert_close(out[:, :2], encoder.norm(inputs["vector"]))
    torch.testing.assert_close(out[:, 2:130], encoder.pictures["image_eye"](inputs["image/eye"]))
    torch.testing.assert_close(out[:, 130:], encoder.pictures["image_map"](inputs["image/map"]))


def network(action: Any, actor: ActorNetwork, costs: int = 2) -> ActorCritic:
    observation = ObservationCodec.of(spaces.Box(-1, 1, (4,)))
    rng = torch.Generator().manual_seed(1)
    return ActorCritic(observation, ActionCodec.of(action), costs, actor, Network(hidden=(8,)), rng)


def test_the_actor_critic_gives_the_distribution_its_space_asks_for(torch_rng: torch.Generator) -> None:
    x = {"vector": torch.randn(6, 4, generator=torch_rng)}
    box = network(spaces.Box(-1, 1, (3,)), ActorNetwork(log_std=-0.5))
    policy = box.policy(box.features(x))
    assert isinstance(policy, Gaussian)
    assert (policy.log_std == -0.5).all()
    torch.testing.assert_close(policy.mean, box.actor(x["vector"].clamp(-5, 5)))
    assert isinstance(
        (squashed := network(spaces.Box(-1, 1, (3,)), ActorNetwork(squashed=True))).policy(squashed.features(x)),
        SquashedGaussian,
    )
    choices = network(spaces.MultiDiscrete([2, 3]), ActorNetwork())
    policy = choices.policy(choices.features(x))
    assert isinstance(policy, Choices)
    assert [part.shape[-1] for part in policy.logits] == [2, 3]
    assert choices.log_std is None


def test_values_are_one_column_for_the_reward_and_one_for_each_cost(torch_rng: torch.Generator) -> None:
    net = network(spaces.Discrete(2), ActorNetwork(), costs=3)
    features = net.features({"vector": torch.randn(6, 4, generator=torch_rng)})
    assert net.values(features).shape == (6, 4)
    torch.testing.assert_close(net.values(features), net.critics(features)[:, :, 0])


def test_every_parameter_belongs_to_exactly_one_of_actor_encoder_and_critics() -> None:
    net = network(spaces.Box(-1, 1, (3,)), ActorNetwork())
    groups = [net.actor_parameters(), list(net.encoder.parameters()), list(net.critics.parameters())]
    ids = [id(p) for group in groups for p in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in net.parameters()}
