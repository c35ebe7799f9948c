"""What the audits of layouts share: flat observations and back, units of sensors, visited states, kept worlds."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from point_world import CHASE, Affine, PointWorld
from toy_worlds import Bandit, DictDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.audits import layouts
from trueline.rl.catalogue import AUDITS
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec


def test_flat_and_back_is_the_same_observation(rng):
    world = PointWorld(num_envs=1)
    world.observation_space = gym.spaces.Dict(
        {"b": gym.spaces.Box(-1, 1, (2, 3), np.float32), "a": gym.spaces.Box(-1, 1, (4,), np.float64)}
    )
    codec = layouts.flat_codec(world)
    obs = {"b": rng.normal(size=(5, 2, 3)).astype(np.float32), "a": rng.normal(size=(5, 4)).astype(np.float32)}
    obs["a"] = obs["a"].astype(np.float64)  # of single precision, so that nothing is lost on the way
    back = layouts.unflat(codec, layouts.flat(codec, obs), obs)
    for key in obs:
        np.testing.assert_array_equal(back[key], obs[key])
        assert back[key].dtype == obs[key].dtype


def test_what_is_not_a_number_has_no_flat_row():
    with pytest.raises(ConfigError, match="discrete"):
        layouts.flat_codec(DictDrift(1))
    with pytest.raises(ConfigError, match="choices"):
        layouts.refuse_choices(Bandit(1))


def test_a_sensors_unit_is_the_deviation_the_policy_divides_by(rng):
    world = PointWorld(num_envs=1)
    observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    network = ActorCritic(
        observation, action, 1, build(ActorNetwork, {}), build(Network, {}), torch.Generator().manual_seed(0)
    )
    batch = rng.normal(size=(1000, 6)) * np.array([1.0, 2.0, 3.0, 0.5, 10.0, 0.0])
    assert network.encoder.norm is not None
    network.encoder.norm.update(torch.as_tensor(batch))
    policy = NetworkPolicy(network, observation, WorldRef(id="point-world"), {"costs": ["hazard"]})
    expected = np.maximum(batch.std(axis=0), 0.01)  # the floor of a sensor that never moved
    np.testing.assert_allclose(layouts.observation_scale(policy, 6), expected, rtol=1e-5)
    np.testing.assert_array_equal(layouts.observation_scale(Affine(), 6), 1.0)


def test_visited_states_are_those_of_each_episode(rng):
    # Five layouts in a world of three: the second wave is not full, and each list of states is its own episode's.
    policy, seeds = Affine(CHASE), np.arange(5, dtype=np.uint32)
    seen = layouts.visits(PointWorld(num_envs=3), policy, seeds, noise=0)
    for i, seed in enumerate(seeds):
        world = PointWorld(num_envs=1)
        obs = world.reset([seed])
        for t in range(60):
            np.testing.assert_allclose(seen.vector[i][t], obs[0], rtol=1e-6)
            action = policy.act(obs, None, None, True)[0]
            np.testing.assert_allclose(seen.mean[i][t], np.clip(action[0], -1, 1))
            obs = world.step(action).obs
        assert len(seen.vector[i]) == len(seen.mean[i]) == 60


def test_a_world_is_made_once_per_subject_and_never_wider_than_its_episodes(monkeypatch):
    made = []
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: made.append((id, n, options)) or PointWorld()
    )
    arena, policy, other = layouts.Arena(8, 1), Affine(), Affine()
    other.world = WorldRef(id="point-world", options={"steps": 10})
    for subject, episodes in ((policy, 20), (policy, 40), (policy, 3), (other, 3)):
        arena.world(subject, episodes)
    assert made == [("point-world", 8, {}), ("point-world", 3, {}), ("point-world", 3, {"steps": 10})]


@pytest.mark.parametrize("entry", AUDITS, ids=lambda entry: entry.name)
def test_a_registered_audit_is_what_its_name_says(entry):
    cls = registry.load("audit", entry.name)
    audit = cls(build(cls.Config, {}))
    assert audit.name == entry.name
    assert audit.principle == entry.name.split("/")[0]
    assert len({metric.name for metric in audit.metrics}) == len(audit.metrics) > 0
