"""The double integrator: its motion, its viable set against brute force, its best safe return against a lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trueline.core.errors import ConfigError
from trueline.rl.certificates.certifiable import Certifiable
from trueline.rl.check_env import check_env
from trueline.rl.exact.double_integrator import DoubleIntegrator, make

SIZES = [
    {},
    {"extent": 2.0, "acceleration": 3.0, "interval": 0.25},
    {"extent": 1.0, "acceleration": 1.0, "interval": 0.5},  # as long a step as is let through
]


def world_of(num_envs=1, **sizes):
    return DoubleIntegrator("double-integrator", num_envs, **sizes)


def states_of(world, n, seed=0):
    half = world.region.numpy().astype(np.float64)
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (n, 2)) * half


def braked(world, state, steps):
    """Positions [steps + 1, N] under full braking for the wall that each state moves towards."""
    away = -np.where(state[:, 1] >= 0.0, 1.0, -1.0)
    path = [state[:, 0]]
    for _ in range(steps):
        state = world.after(state, away)
        path.append(state[:, 0])
    return np.array(path)


def test_it_is_a_world_and_says_what_a_certificate_needs():
    check_env(lambda n: world_of(n), steps=90)
    assert isinstance(world_of(), Certifiable)


def test_a_step_is_the_motion_under_a_held_force(rng):
    world, state, action = world_of(**SIZES[1]), rng.normal(size=(50, 2)), rng.uniform(-1.5, 1.5, 50)
    pieces = 20_000
    p, v, dt = state[:, 0].copy(), state[:, 1].copy(), world.interval / pieces
    for _ in range(pieces):
        p += dt * v
        v += dt * world.acceleration * np.clip(action, -1.0, 1.0)
    np.testing.assert_allclose(world.after(state, action), np.stack([p, v], axis=1), atol=1e-4)


def test_reward_and_cost_are_those_of_where_a_step_ends():
    world = world_of(3)
    world.reset(np.arange(3, dtype=np.uint32))
    world.state[:] = [[0.99, 0.5], [-0.99, -0.5], [0.5, 0.0]]
    step = world.step(np.zeros((3, 1)))
    np.testing.assert_allclose(step.reward, [1.04, -1.04, 0.5])
    np.testing.assert_array_equal(step.cost[:, 0], [1.0, 1.0, 0.0])
    assert not step.terminated.any()


# --- the viable set ---


@pytest.mark.parametrize("sizes", SIZES)
def test_a_state_is_viable_where_full_braking_keeps_clear(sizes):
    world = world_of(**sizes)
    states = states_of(world, 4000)
    # Braking that goes on beyond standstill ends at the other wall: what counts is the way to the highest point.
    ahead = np.where(states[:, 1] >= 0.0, 1.0, -1.0)
    highest = (ahead * braked(world, states, 60)).max(axis=0)
    room = np.minimum(world.extent - np.abs(states[:, 0]), world.extent - highest)
    np.testing.assert_allclose(world.room(states), room, atol=1e-9)
    assert 0.2 < world.viable(states).mean() < 0.8


@pytest.mark.parametrize("sizes", SIZES)
def test_from_a_viable_state_some_action_leads_to_a_viable_one(sizes):
    world = world_of(**sizes)
    states = states_of(world, 20_000)
    states = states[world.viable(states)]
    best = np.full(len(states), -np.inf)
    for u in np.linspace(-1.0, 1.0, 201):
        best = np.maximum(best, world.room(world.after(states, np.full(len(states), u))))
    assert best.min() >= -1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_from_any_other_state_every_policy_hits_a_wall(sizes, rng):
    """No later position is lower than under full braking, whatever is done: so the set is the largest."""
    world = world_of(**sizes)
    states = states_of(world, 4000)
    states = states[~world.viable(states) & (np.abs(states[:, 0]) <= world.extent)]
    ahead = np.where(states[:, 1] >= 0.0, 1.0, -1.0)
    at = (ahead * braked(world, states, 60)).argmax(axis=0)
    for actions in (np.full((60, len(states)), -1.0), *rng.uniform(-1.0, 1.0, (20, 60, len(states)))):
        state, path = states, [ahead * states[:, 0]]
        for u in actions:
            state = world.after(state, ahead * u)
            path.append(ahead * state[:, 0])
        reached = np.array(path)[at, np.arange(len(states))]
        assert (reached > world.extent).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_steps_change_the_continuous_set_by_an_eighth_of_a_step_of_braking(sizes):
    world = world_of(**sizes)
    states = states_of(world, 4000)
    ahead = np.where(states[:, 1] >= 0.0, states[:, 0], -states[:, 0])
    room = np.minimum(
        world.extent - np.abs(states[:, 0]), world.extent - ahead - states[:, 1] ** 2 / (2.0 * world.acceleration)
    )
    wider = world.room(states) - room
    assert wider.min() >= -1e-12
    assert wider.max() <= world.acceleration * world.interval**2 / 8.0 + 1e-12


# --- the best safe return ---


def on_a_lattice(world, actions=(-1.0, -0.5, 0.0, 0.5, 1.0)):
    """The best safe return with these actions, by dynamic programming: they keep to a lattice of p and v."""
    fine = 0.5 * world.acceleration * world.interval  # of v
    unit = 0.5 * fine * world.interval  # of p
    n, m = round(world.extent / unit), 40
    p, v = np.arange(-n, n + 1), np.arange(-m, m + 1)
    value = np.zeros((len(p), len(v)))
    for _ in range(world.max_episode_steps):
        best = np.full_like(value, -np.inf)
        for u in actions:
            faster = v + round(2.0 * u)
            to = p[:, None] + (v + faster)[None, :]
            legal = (np.abs(to) <= n) & (np.abs(faster) <= m)[None, :]
            found = value[np.clip(to + n, 0, 2 * n), np.clip(faster + m, 0, 2 * m)[None, :]] + to / n
            best = np.maximum(best, np.where(legal, found, -np.inf))
        value = best
    return float(value[n, m])


def test_the_linear_programme_is_what_dynamic_programming_comes_to():
    world = world_of()
    best, coarse = world.best_return(), on_a_lattice(world)
    assert coarse <= best + 1e-6  # fewer actions
    assert best - coarse <= 0.005 * best
    assert on_a_lattice(world, (-1.0, 0.0, 1.0)) <= coarse


def test_the_best_actions_are_safe_and_end_at_the_wall():
    world = world_of()
    state = np.zeros((1, 2))
    for action in world.best_actions():
        state = world.after(state, np.array([action]))
        assert abs(state[0, 0]) <= world.extent + 1e-9
    assert state[0, 0] == pytest.approx(world.extent, abs=1e-6)


def test_without_the_limit_it_pays_to_run_away():
    world = world_of()
    step = np.arange(1, world.max_episode_steps + 1)
    assert (0.5 * (world.interval * step) ** 2).sum() > 3.0 * world.best_return()


# --- what is known in advance ---


@pytest.mark.parametrize("sizes", SIZES)
def test_the_controller_bears_any_noise_of_its_excitation(sizes):
    """Largest |p| and |u| over all noise |w| ≤ ρ are ρ·Σ|impulse response|: the loop is linear while |Kx| + ρ ≤ 1."""
    world = world_of(**sizes)
    small = 0.1  # so that the response is that of the linear loop
    x = world.after(np.zeros((1, 2)), np.array([small]))
    p, u = 0.0, 0.0
    for _ in range(2000):
        action = world.controller(torch.from_numpy(x).float())[:, 0].numpy()
        p, u = p + abs(x[0, 0]) / small, u + abs(float(action[0])) / small
        x = world.after(x, action)
    assert np.abs(x).max() < 1e-6
    assert world.excitation * p < 0.6 * world.extent
    assert world.excitation * (1.0 + u) <= 1.0


def test_danger_is_above_one_wherever_a_state_is_unsafe_or_too_fast(rng):
    world = world_of(**SIZES[1])
    states = torch.from_numpy(3.0 * states_of(world, 4000)).float()
    danger, beyond = world.danger(states), (states.abs() > world.region).any(dim=1)
    assert bool((danger[beyond] > 1.0).all())
    assert bool((danger >= 0.0).all())
    assert bool((world.danger(0.5 * world.region * torch.tensor([[1.0, 1.0], [1.0, -1.0]])) < 0.01).all())
    fastest = states_of(world, 4000)
    assert np.abs(fastest[world.viable(fastest)][:, 1]).max() < 0.7 * float(world.region[1])


@pytest.mark.parametrize("sizes", [{"extent": 0.0}, {"acceleration": -1.0}, {"interval": float("nan")}, {"steps": 0}])
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(ConfigError, match=f"{next(iter(sizes))} is .* Give a number above 0"):
        make("DoubleIntegrator-v0", 1, **sizes)


def test_a_step_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match=r"too long between walls at 1.0 m. Give an interval of at most 0.5 s"):
        make("DoubleIntegrator-v0", 1, interval=0.51)
