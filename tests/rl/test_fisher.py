"""Fisher products and gradients against brute-force derivatives of the KL and of surrogates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.updates import fisher
from trueline.rl.updates.fisher import LinearisedGraph, LinearisedMlp, LocalPolicy

ACTIONS: dict[str, Any] = {
    "one": spaces.Box(-1, 1, (1,)),
    "three": spaces.Box(-1, 1, (3,)),
    "choices": spaces.MultiDiscrete([3, 2]),
}


def network(
    action: str = "three", rows: int = 11, seed: int = 0, **actor: Any
) -> tuple[ActorCritic, dict[str, Tensor], torch.Generator]:
    """A float64 actor-critic of four sensors, and a batch of its inputs."""
    rng = torch.Generator().manual_seed(seed)
    shape = ActorNetwork(**{"hidden": (5, 4), **actor})
    found = ActorCritic(
        ObservationCodec.of(spaces.Box(-1, 1, (4,))), ActionCodec.of(ACTIONS[action]), 1, shape, Network(), rng
    ).double()
    if found.log_std is not None:
        with torch.no_grad():
            found.log_std += 0.3 * torch.randn(found.log_std.shape, generator=rng)
    return found, {"vector": torch.randn(rows, 4, generator=rng, dtype=torch.float64)}, rng


def slopes(value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """The gradient of a number, flat."""
    parts = torch.autograd.grad(value, parameters, create_graph=create_graph, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def kl_slopes(
    found: ActorCritic, inputs: dict[str, Tensor], parameters: Sequence[Tensor], mean_over_actions: bool = False
) -> Tensor:
    """∇θ of the mean KL at the policy itself (zeros), to be differentiated again through the whole network."""
    policy = found.policy(found.encoder(inputs))
    kl = policy.detach().kl(policy).mean()
    return slopes(kl / policy.mean.shape[-1] if mean_over_actions else kl, parameters, create_graph=True)


def hessian(found: ActorCritic, inputs: dict[str, Tensor], mean_over_actions: bool = False) -> Tensor:
    """Of the mean KL in θ, row by row."""
    parameters = found.actor_parameters()
    first = kl_slopes(found, inputs, parameters, mean_over_actions)
    return torch.stack([slopes(entry, parameters) for entry in first])


@pytest.mark.parametrize(
    ("action", "actor"),
    [
        ("one", {}),
        ("three", {"activation": "relu"}),
        ("three", {"activation": "silu", "squashed": True}),
        ("choices", {}),
        ("three", {"hidden": ()}),
        ("three", {"hidden": (6, 5, 4)}),
    ],
)
def test_the_product_is_with_the_hessian_of_the_mean_kl(
    action: str, actor: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fisher, "ROWS_AT_ONCE", 4)  # 11 rows: blocks of 4, 4 and 3
    found, inputs, rng = network(action, **actor)
    exact = hessian(found, inputs)
    direction = torch.randn(3, len(exact), generator=rng, dtype=torch.float64)
    torch.testing.assert_close(LocalPolicy(found, inputs).fisher_product(direction), direction @ exact)


def test_the_kl_is_summed_over_actions_where_the_originals_average() -> None:
    """Row 9: with three actions the originals' Hessian is a third of ours, and a step of theirs is worth 3δ."""
    found, inputs, _ = network("three")
    torch.testing.assert_close(hessian(found, inputs), 3.0 * hessian(found, inputs, mean_over_actions=True))


@pytest.mark.parametrize("action", ["three", "choices"])
def test_gradients_are_those_of_the_whole_network(action: str) -> None:
    found, inputs, rng = network(action)
    local = LocalPolicy(found, inputs)
    draw = local.policy.detach().sample(rng)
    weight = torch.randn(11, 2, generator=rng, dtype=torch.float64)
    gradients = local.gradients(lambda policy: [(policy.log_prob(draw) * w).mean() for w in weight.unbind(1)])
    log_prob = found.policy(found.encoder(inputs)).log_prob(draw)
    for column in range(2):
        expected = slopes((log_prob * weight[:, column]).mean(), found.actor_parameters())
        torch.testing.assert_close(gradients[column], expected)


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_derivatives_by_hand_are_those_of_the_graph(activation: str) -> None:
    # 600 rows of 64: large enough for the quicker tanh.
    found, inputs, rng = network(rows=600, hidden=(64, 8), activation=activation)
    by_hand = LinearisedMlp(found.actor, inputs["vector"])
    graph = LinearisedGraph(lambda block: found.actor(block["vector"]), inputs, list(found.actor.parameters()))
    width = sum(p.numel() for p in found.actor.parameters())
    direction = torch.randn(2, width, generator=rng, dtype=torch.float64)
    slope = torch.randn(600, 2, 3, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(by_hand.output, graph.output)
    torch.testing.assert_close(by_hand.push(direction), graph.push(direction))
    torch.testing.assert_close(by_hand.pull(slope), graph.pull(slope))
    # ⟨u, Jv⟩ = ⟨Jᵀu, v⟩, and J v is what a small step does.
    inner = (slope * by_hand.push(direction)).sum((0, 2))
    torch.testing.assert_close(inner, (by_hand.pull(slope) * direction).sum(1))


def test_an_encoder_of_pictures_is_part_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fisher, "ROWS_AT_ONCE", 2)
    rng = torch.Generator().manual_seed(0)
    space = spaces.Dict({"eye": spaces.Box(0, 255, (36, 36, 3), "uint8"), "speed": spaces.Box(-1, 1, (2,))})
    found = ActorCritic(
        ObservationCodec.of(space), ActionCodec.of(ACTIONS["three"]), 1, ActorNetwork(hidden=(8,)), Network(), rng
    )
    inputs = {
        "vector": torch.randn(3, 2, generator=rng),
        "image/eye": torch.randint(0, 256, (3, 36, 36, 3), generator=rng, dtype=torch.uint8),
    }
    local = LocalPolicy(found, inputs)
    parameters = [*found.actor.parameters(), *found.encoder.parameters(), found.log_std]
    first = kl_slopes(found, inputs, parameters)
    direction = torch.randn(2, len(first), generator=rng)
    for v, product in zip(direction, local.fisher_product(direction), strict=True):
        expected = slopes(first @ v, parameters)
        torch.testing.assert_close(product.float(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
