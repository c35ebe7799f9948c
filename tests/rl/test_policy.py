"""A policy on disk: what comes back acts as what was saved, and damage is named."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from trueline.core.errors import RunError
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.policy import NetworkPolicy, WorldRef, load
from trueline.rl.spaces import ActionCodec, ObservationCodec

SPACES = {
    "box": (gym.spaces.Box(-1.0, 1.0, (5,)), gym.spaces.Box(-1.0, 1.0, (2,))),
    "dict": (
        gym.spaces.Dict({"a": gym.spaces.Box(-1.0, 1.0, (3,)), "b": gym.spaces.Discrete(4)}),
        gym.spaces.MultiDiscrete([2, 3]),
    ),
    "image": (gym.spaces.Box(0, 255, (40, 40, 3), np.uint8), gym.spaces.Discrete(3)),
}


def made(kind, torch_rng, multipliers=None):
    observation, action = SPACES[kind]
    codec, actor, critic = ObservationCodec.of(observation), ActorNetwork(hidden=(8,)), Network(hidden=(8,))
    network = ActorCritic(codec, ActionCodec.of(action), 2, actor, critic, torch_rng)
    if network.encoder.norm is not None:
        network.encoder.norm.update(torch.randn(50, codec.width, generator=torch_rng))
    shape = {"actor": actor.model_dump(mode="json"), "critic": critic.model_dump(mode="json"), "costs": ["a", "b"]}
    if multipliers is not None:
        shape["multipliers"] = multipliers
    return NetworkPolicy(network, codec, WorldRef(id="World-v0", options={"costs": "split"}), shape, "parent-run")


def observed(kind, n=7):
    space = gym.vector.utils.batch_space(SPACES[kind][0], n)
    space.seed(3)
    return space.sample()


@pytest.mark.parametrize("kind", SPACES)
def test_a_loaded_policy_acts_as_the_saved_one(kind, tmp_path, torch_rng):
    policy = made(kind, torch_rng)
    policy.save(tmp_path)
    again = load(tmp_path)
    obs = observed(kind)
    for deterministic in (False, True):
        first, _ = policy.act(obs, None, np.random.default_rng(5), deterministic)
        second, _ = again.act(obs, None, np.random.default_rng(5), deterministic)
        np.testing.assert_array_equal(first, second)
    assert (again.world, again.parent, again.costs) == (policy.world, "parent-run", ("a", "b"))
    assert again.multipliers is None


def test_multipliers_travel_with_the_policy(tmp_path, torch_rng):
    made("box", torch_rng, [0.1, 2.5]).save(tmp_path)
    torch.testing.assert_close(load(tmp_path).multipliers, torch.tensor([0.1, 2.5], dtype=torch.float64))


def test_acting_changes_neither_weights_nor_statistics(torch_rng):
    policy = made("box", torch_rng)
    before = {name: x.clone() for name, x in policy.network.state_dict().items()}
    for _ in range(3):
        policy.act(observed("box"), None, np.random.default_rng(0))
    assert all(torch.equal(before[name], x) for name, x in policy.network.state_dict().items())


def test_draws_differ_and_the_mode_does_not(torch_rng):
    policy, obs = made("box", torch_rng), observed("box")
    rng = np.random.default_rng(0)
    assert not np.array_equal(policy.act(obs, None, rng)[0], policy.act(obs, None, rng)[0])
    np.testing.assert_array_equal(policy.act(obs, None, rng, True)[0], policy.act(obs, None, rng, True)[0])


def test_damage_is_named(tmp_path, torch_rng):
    with pytest.raises(RunError, match=r"policy\.json is missing"):
        load(tmp_path)
    made("box", torch_rng).save(tmp_path)
    card = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps(card | {"costs": ["only one"]}))
    with pytest.raises(RunError, match="damaged or of another version"):
        load(tmp_path)
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        load(tmp_path)
