"""Disturbances: sizes, timing, what they leave alone, and that a resumed world goes on bit by bit."""

from __future__ import annotations

import copy
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from point_world import PointWorld
from toy_worlds import Bandit, DictDrift, Drift, SavedDrift

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.rl.env import LaidOut, Perturbable, Stateful, Steerable, Visible
from trueline.rl.perturb import Disturbance, disturbed

SEEDS = np.arange(4, dtype=np.uint32)


def counting_seeds(world: Any) -> Any:
    """The world with autoreset seeds that two copies of it agree on."""
    state = np.random.default_rng(1)
    world.seed_source = lambda n: state.integers(0, 2**32, n, dtype=np.uint32)
    return world


class Recorder(PointWorld):
    """Keeps the actions that reached it and the multipliers it was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received: list[Any] = []
        self.given: list[dict[str, Any]] = []

    def step(self, actions: Any) -> Any:
        self.received.append(np.array(actions))
        return super().step(actions)

    def perturb(self, **scale: Any) -> None:
        self.given.append(scale)
        super().perturb(**scale)


def test_nothing_disturbed_is_the_world_itself(rng):
    world = PointWorld(num_envs=2)
    assert disturbed(world, Disturbance(), rng) is world
    assert disturbed(world, Disturbance(mass=(1.0, 1.0)), rng) is world


def test_noise_has_the_stated_deviation_in_each_sensors_own_unit(rng):
    n, steps, scale = 50, 60, np.array([1.0, 2.0, 0.5, 1.0, 10.0, 0.1])
    plain, noisy = (counting_seeds(PointWorld(num_envs=n)) for _ in range(2))
    wrapped = disturbed(noisy, Disturbance(observation_noise=0.3), rng, fixed=True, scale=scale)
    seeds = np.arange(n, dtype=np.uint32)
    errors = [wrapped.reset(seeds) - plain.reset(seeds)]
    for t in range(steps):
        ours, theirs = wrapped.step(np.full((n, 2), 0.1)), plain.step(np.full((n, 2), 0.1))
        errors.append(ours.obs - theirs.obs)
        np.testing.assert_array_equal(ours.reward, theirs.reward)  # what is sensed changes, what happens does not
        np.testing.assert_array_equal(ours.cost, theirs.cost)
        assert t < steps - 1 or not np.array_equal(
            ours.final_obs, theirs.final_obs
        )  # the last observation is noisy too
    error = np.concatenate(errors) / scale
    # The standard error of a sample deviation is σ/√(2m); m = 3050, and 5 of them is a miss in a million.
    five_standard_errors = 5 * 0.3 / np.sqrt(2 * len(error))
    np.testing.assert_allclose(error.std(axis=0), 0.3, atol=five_standard_errors)
    np.testing.assert_allclose(error.mean(axis=0), 0.0, atol=5 * 0.3 / np.sqrt(len(error)))
    correlation = np.corrcoef(error.T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(error))  # sensors are disturbed independently


def test_dropout_zeroes_the_stated_share_and_nothing_else(rng):
    n = 200
    plain, lossy = (counting_seeds(PointWorld(num_envs=n)) for _ in range(2))
    wrapped = disturbed(lossy, Disturbance(dropout=0.2), rng, fixed=True)
    seeds = np.arange(n, dtype=np.uint32)
    wrapped.reset(seeds), plain.reset(seeds)
    lost = []
    for _ in range(20):
        sensed, true = wrapped.step(np.ones((n, 2))).obs, plain.step(np.ones((n, 2))).obs
        zero = sensed == 0.0
        np.testing.assert_array_equal(sensed[~zero], true[~zero])
        lost.append(zero)
    share = np.mean(lost)
    assert share == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / (20 * n * 6)))


def test_the_last_observation_of_an_episode_is_sensed_as_well(rng):
    world = disturbed(PointWorld(num_envs=2, steps=3), Disturbance(dropout=1.0), rng, fixed=True)
    world.reset()
    for _ in range(3):
        step = world.step(np.ones((2, 2)))
    assert step.truncated.all()
    assert not step.final_obs.any()
    assert not step.obs.any()


@given(delay=st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_a_delay_shifts_the_actions_by_exactly_that_many_steps(delay):
    rng = np.random.default_rng(delay)
    inner = Recorder(num_envs=3, steps=8)
    world = disturbed(inner, Disturbance(delay=delay), rng, fixed=True)
    world.reset()
    chosen = rng.uniform(-1, 1, (16, 3, 2))
    for actions in chosen:
        world.step(actions)
    for first in (0, 8):  # the second episode starts with zeros again: nothing is carried over
        received = np.array(inner.received[first : first + 8])
        np.testing.assert_array_equal(received[:delay], 0.0)
        np.testing.assert_array_equal(received[delay:], chosen[first : first + 8 - delay])


def test_training_draws_a_delay_for_each_episode_between_none_and_the_largest(rng):
    inner = Recorder(num_envs=40, steps=6)
    world = disturbed(inner, Disturbance(delay=2), rng)
    world.reset()
    for t in range(24):
        world.step(np.full((40, 2), 1.0 + t))
    late = np.array(inner.received)[:, :, 0].reshape(4, 6, 40)
    # Zeros at the start of an episode are its delay, and after them actions come in order.
    delays = (late == 0.0).sum(axis=1)
    assert set(np.unique(delays)) == {0, 1, 2}
    assert (delays[0] != delays[1]).any()
    for episode in range(4):
        for i in range(40):
            d = delays[episode, i]
            np.testing.assert_array_equal(late[episode, d:, i], 1.0 + 6 * episode + np.arange(6 - d))


def test_multipliers_are_drawn_per_episode_within_their_range(rng):
    inner = Recorder(num_envs=30, steps=4)
    world = disturbed(inner, Disturbance(mass=(0.5, 1.5), gear=(0.8, 0.8)), rng)
    world.reset()
    first = copy.deepcopy(inner.scale)
    for _ in range(3):
        world.step(np.ones((30, 2)))
    np.testing.assert_array_equal(inner.scale["mass"], first["mass"])  # held during an episode
    world.step(np.ones((30, 2)))
    assert (inner.scale["mass"] != first["mass"]).all()
    drawn = np.concatenate([given["mass"] for given in inner.given])
    assert drawn.min() >= 0.5
    assert drawn.max() <= 1.5
    assert drawn.std() == pytest.approx(1 / np.sqrt(12), rel=0.25)  # of a uniform draw one wide
    assert all((given["gear"] == 0.8).all() and set(given) == {"mass", "gear"} for given in inner.given)


def test_the_drawn_mass_is_the_one_that_moves(rng):
    # v' = 0.1·a/mass from rest: velocity is observed in columns 2 and 3.
    world = disturbed(PointWorld(num_envs=2), Disturbance(mass=(2.0, 2.0)), rng)
    world.reset()
    np.testing.assert_allclose(world.step(np.ones((2, 2))).obs[:, 2:4], 0.05)


@pytest.mark.parametrize(
    ("world", "disturbance", "words"),
    [
        (Drift(1), {"mass": [0.5, 1.5]}, "mass"),
        (Bandit(1), {"delay": 1}, "choices"),
    ],
)
def test_what_cannot_take_effect_is_refused(world, disturbance, words, rng):
    with pytest.raises(ConfigError, match=words):
        disturbed(world, build(Disturbance, disturbance), rng)


def test_a_world_of_pictures_has_no_sensor_to_disturb(rng):
    world = Drift(1)
    world.observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
    with pytest.raises(ConfigError, match="picture"):
        disturbed(world, Disturbance(dropout=0.1), rng)


@pytest.mark.parametrize("bad", [{"mass": [1.5, 0.5]}, {"gear": [0.0, 1.0]}, {"dropout": 1.1}, {"delay": 1.5}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        build(Disturbance, bad)


def test_a_level_of_an_axis_is_taken_as_a_delay():
    assert build(Disturbance, {"delay": 4.0}).delay == 4


ABILITIES = (Stateful, Perturbable, Steerable, LaidOut, Visible)


@pytest.mark.parametrize("world", [PointWorld(num_envs=2), Drift(2), SavedDrift(2)], ids=lambda w: w.id)
def test_the_wrapper_has_the_abilities_of_its_world_and_no_others(world, rng):
    wrapped = disturbed(world, Disturbance(delay=1), rng)
    for ability in ABILITIES:
        assert isinstance(wrapped, ability) == isinstance(world, ability), ability.__name__


def test_a_multiplier_that_is_drawn_cannot_be_set_as_well(rng):
    wrapped = disturbed(PointWorld(num_envs=2), Disturbance(mass=(0.5, 1.5)), rng)
    assert wrapped.perturbations == ("friction", "gear")
    with pytest.raises(ConfigError, match="mass"):
        wrapped.perturb(mass=1.0)


def test_only_numbers_of_a_dict_observation_are_disturbed(rng):
    scale = np.array([1.0, 1.0, 1.0, 9.0, 9.0])  # three numbers, then two columns of a one-hot choice
    wrapped = disturbed(DictDrift(5), Disturbance(dropout=1.0), rng, fixed=True, scale=scale)
    obs = wrapped.reset(np.arange(5, dtype=np.uint32))
    true = DictDrift(5).reset(np.arange(5, dtype=np.uint32))
    assert not obs["point"].any()
    np.testing.assert_array_equal(obs["half"], true["half"])


def test_restarting_one_environment_draws_for_it_alone(rng):
    wrapped = disturbed(PointWorld(num_envs=2), Disturbance(observation_noise=0.5, mass=(0.5, 1.5)), rng)
    before = wrapped.reset(SEEDS[:2])
    mass = wrapped.env.scale["mass"].copy()
    after = wrapped.set_layout({1: wrapped.layout(1)})
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).all()
    assert wrapped.env.scale["mass"][0] == mass[0]
    assert wrapped.env.scale["mass"][1] != mass[1]


@given(
    noise=st.sampled_from([0.0, 0.3]),
    dropout=st.sampled_from([0.0, 0.2]),
    delay=st.integers(0, 2),
    mass=st.sampled_from([(1.0, 1.0), (0.5, 1.5)]),
    stop=st.integers(0, 9),
)
@settings(max_examples=20, deadline=None)
def test_a_resumed_world_goes_on_bit_by_bit(noise, dropout, delay, mass, stop):
    disturbance = Disturbance(observation_noise=noise, dropout=dropout, delay=delay, mass=mass, gear=(0.9, 1.1))
    actions = np.random.default_rng(3).uniform(-1, 1, (14, 4, 2))

    def start(seed: int) -> Any:
        inner = PointWorld(num_envs=4, steps=20)
        return disturbed(inner, disturbance, np.random.default_rng(seed))

    world = start(0)
    world.reset(SEEDS)
    for action in actions[:stop]:
        world.step(action)
    state = copy.deepcopy(world.state_dict())
    state["rng"] = json.loads(json.dumps(state["rng"]))  # a checkpoint holds it as JSON
    onward = [world.step(action) for action in actions[stop:]]
    resumed = start(7)  # another seed: everything has to come from the state
    resumed.reset()
    np.testing.assert_array_equal(resumed.load_state_dict(state), state["obs"])
    for action, expected in zip(actions[stop:], onward, strict=True):
        step = resumed.step(action)
        np.testing.assert_array_equal(step.obs, expected.obs)
        np.testing.assert_array_equal(step.reward, expected.reward)


@pytest.mark.parametrize("inner", [Drift, SavedDrift, lambda n: PointWorld(num_envs=n)])
def test_the_wrapper_keeps_the_contract(inner):
    # A fixed delay draws nothing, so that an episode depends on its seed alone, as the contract asks.
    check_env(lambda n: disturbed(inner(n), Disturbance(delay=2), np.random.default_rng(0), fixed=True))
