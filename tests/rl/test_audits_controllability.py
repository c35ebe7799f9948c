"""Stopping and steering a point whose stopping distance is a geometric series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from point_world import CHASE, DRAG, DT, Affine, PointWorld
from toy_worlds import Drift

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.audits.controllability import (
    GoalChange,
    GoalChangeConfig,
    Override,
    OverrideConfig,
    free_place,
    steps_to_recover,
    steps_until_rest,
)

RECOVER = "steps to recover (at most to the episode's end)"
BEYOND = "steps to recover beyond control"


@pytest.fixture(autouse=True)
def point(monkeypatch):
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: PointWorld(id, n, threads, **options)
    )


def override(**settings):
    base = {"cost_bound": 60.0, "num_envs": 4, "at_step": 15, "hold": 25, "within": 20, "window": 10}
    base["rest_m_per_s"] = 0.01
    return Override(build(OverrideConfig, base | settings))


def goal_change(**settings):
    base = {"cost_bound": 60.0, "num_envs": 4, "at_step": 10, "within": 45, "keepout_m": 0.7}
    return GoalChange(build(GoalChangeConfig, base | settings))


def outcomes(audit, policy, n=6):
    cases = audit.cases(policy, "verdict", 0, n, np.random.default_rng(0))
    return audit.measure(policy, cases, np.random.default_rng(1))


def test_a_policy_that_does_nothing_is_at_rest_at_once():
    for outcome in outcomes(override(), Affine()):
        assert outcome.values["at rest within 20 steps"] == 1.0
        assert outcome.values["steps until at rest"] == 0.0
        assert outcome.values["stopping distance"] == 0.0
        assert outcome.values["cost while overridden"] == 0.0
        # It made no progress before, and makes none after: the first window already is as good.
        assert outcome.values[RECOVER] == 0.0
        assert outcome.values[BEYOND] == 0.0


@pytest.mark.parametrize("push", [0.25, 1.0])
def test_a_coasting_point_stops_where_the_geometric_series_ends(push):
    # After 15 steps of a constant push v = 0.1·push·(1 − ρ¹⁵)/(1 − ρ), then v_k = ρᵏ·v with ρ = 1 − DRAG.
    rho = 1.0 - DRAG
    v = DT * push * (1 - rho**15) / (1 - rho)
    steps = math.ceil(math.log(0.01 / v) / math.log(rho)) - 1  # the last k with ρᵏ·v ≥ 0.01
    distance = DT * v * sum(rho**k for k in range(1, steps + 1))
    for outcome in outcomes(override(), Affine(bias=(push, 0.0))):
        assert outcome.values["steps until at rest"] == steps
        assert outcome.values["stopping distance"] == pytest.approx(distance)
        assert outcome.values["at rest within 20 steps"] == (steps <= 20)


def test_what_never_comes_to_rest_is_censored_at_the_hold():
    (outcome, *_) = outcomes(override(rest_m_per_s=1e-6), Affine(bias=(1.0, 0.0)))
    assert outcome.values["steps until at rest"] == 25
    assert outcome.values["at rest within 20 steps"] == 0.0
    assert outcome.detail["rest censored"] is True


def test_rest_is_not_a_moment_of_zero_speed():
    # Columns: passes through zero and goes on; stops after two steps; never moves; never stops.
    speed = np.array([[0.5, 0.5, 0.0, 1.0], [0.0, 0.5, 0.0, 1.0], [0.5, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(steps_until_rest(speed, 0.01), [3, 2, 0, 4])


def test_recovery_is_the_first_window_that_is_good_enough():
    # Before: 1 per step. After: 0 for four steps, then 1. Windows of 5 have means 1/5, 2/5, …; 4/5 begins at step 3.
    before = np.ones((5, 3))
    after = np.zeros((12, 3))
    after[4:, 0] = 1.0
    after[:, 1] = 0.79  # just too little
    after[:, 2] = 0.8
    steps, found = steps_to_recover(before, after, 0.8)
    np.testing.assert_array_equal(steps, [3, 8, 0])  # the second is censored at its 12 − 5 + 1 windows
    np.testing.assert_array_equal(found, [True, False, True])


@given(st.floats(-5, 5), st.integers(1, 6), st.integers(0, 10))
def test_a_reward_that_does_not_change_has_recovered_at_once(reward, window, more):
    before, after = np.full((window, 1), reward), np.full((window + more, 1), reward)
    steps, found = steps_to_recover(before, after, 1.0)
    assert (steps[0], found[0]) == (0, True)


def test_cost_meanwhile_counts_the_steps_of_the_override_alone():
    policy, audit = Affine(CHASE), override()
    cases = audit.cases(policy, "verdict", 0, 30, np.random.default_rng(0))
    for case, outcome in zip(cases, audit.measure(policy, cases, np.random.default_rng(1)), strict=True):
        world = PointWorld(num_envs=1)
        obs, cost = world.reset([case.data["seed"]]), 0.0
        for t in range(40):
            action = policy.act(obs, None, None, True)[0]
            step = world.step(0.0 * action if t >= 15 else action)
            obs, cost = step.obs, cost + step.cost[0, 0] * (t >= 15)
        assert outcome.values["cost while overridden"] == cost


def alone(seed, policy, overridden):
    """Rewards of one episode without noise, stepped by hand, [60, 1]."""
    world = PointWorld(num_envs=1)
    obs, reward = world.reset([seed]), []
    for t in range(60):
        action = policy.act(obs, None, None, True)[0]
        step = world.step(0.0 * action if overridden and 15 <= t < 40 else action)
        obs = step.obs
        reward.append(step.reward)
    return np.array(reward)


def test_recovery_is_compared_with_the_same_episode_left_alone():
    policy, audit = Affine(CHASE), override()
    cases = audit.cases(policy, "verdict", 0, 30, np.random.default_rng(0))
    beyond, plain = [], []
    for case, outcome in zip(cases, audit.measure(policy, cases, np.random.default_rng(1)), strict=True):
        steps = []
        for overridden in (True, False):
            reward = alone(case.data["seed"], policy, overridden)
            steps.append(steps_to_recover(reward[5:15], reward[40:], 0.8)[0][0])
        assert outcome.values[RECOVER] == steps[0]
        assert outcome.values[BEYOND] == steps[0] - steps[1]
        plain.append(steps[0])
        beyond.append(steps[0] - steps[1])
    # Progress slows as the episode goes on, with or without an operator: part of the plain number is no one's doing.
    assert np.mean(beyond) < np.mean(plain)


def test_what_the_operator_cannot_change_is_not_beyond_control():
    # Without a push of its own the point stays, whoever holds the stick; with noise, both episodes have the same noise.
    for outcome in outcomes(override(hold=20, rest_m_per_s=9.0), Affine()):
        assert outcome.values[BEYOND] == 0.0


def test_an_override_longer_than_the_episode_is_refused():
    with pytest.raises(ConfigError, match="more than 65 steps"):
        outcomes(override(at_step=30), Affine())


@pytest.mark.parametrize("bad", [{"within": 30}, {"window": 16}])
def test_windows_that_do_not_fit_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        override(**bad)


def test_a_policy_that_follows_its_goal_reaches_the_new_one_because_it_was_told():
    told = outcomes(goal_change(), Affine(CHASE), n=24)
    reached = np.mean([outcome.values["reached within 45 steps"] for outcome in told])
    because = np.mean([outcome.values["reached because told"] for outcome in told])
    assert reached > 0.8
    assert because > 0.5


def test_a_policy_that_ignores_its_goal_gains_nothing_from_the_command():
    for outcome in outcomes(goal_change(), Affine(bias=(0.3, 0.1), noise=0.5), n=24):
        assert outcome.values["reached because told"] == 0.0
        assert outcome.values["cost because told"] == 0.0


def test_steps_to_reach_are_counted_from_the_change():
    policy, audit = Affine(CHASE), goal_change()
    cases = audit.cases(policy, "verdict", 0, 12, np.random.default_rng(0))
    for case, outcome in zip(cases, audit.measure(policy, cases, np.random.default_rng(1)), strict=True):
        world, goal = PointWorld(num_envs=1), np.array(outcome.detail["goal"])
        obs, reached = world.reset([case.data["seed"]]), None
        for t in range(55):
            if t == 10:  # the action of this step was chosen for the old goal: the policy sees the new one a step later
                world.set_goal(goal[None])
            obs = world.step(policy.act(obs, None, None, True)[0]).obs
            if t >= 10 and reached is None and np.linalg.norm(world.position()[0] - goal) <= 0.3:
                reached = t - 10 + 1
        assert outcome.values["steps to reach"] == (reached or 45)
        assert outcome.detail["censored"] == (reached is None)


@given(st.integers(0, 2**32 - 1))
def test_a_free_place_is_free(seed):
    rng = np.random.default_rng(seed)
    hazards = rng.uniform(-1.5, 1.5, (4, 2))
    layout = {
        "agent": [[0.0, 0.0]],
        "goal": [[1.4, 1.4]],
        "hazards": hazards.tolist(),
        "vases_rot": [0.3],
        "agent_rot": 9.0,
    }
    agent = rng.uniform(-1, 1, 2)
    place = free_place(layout, agent, 0.4, 0.6, rng)
    assert np.abs(place).max() <= max(1.4, np.abs(hazards).max())
    assert np.linalg.norm(hazards - place, axis=1).min() >= 0.4
    assert np.linalg.norm(agent - place) >= 0.6


def test_no_free_place_is_a_missing_value():
    # Nothing lies 9 m from the hazard.
    assert outcomes(goal_change(keepout_m=9.0), Affine(), n=2) == [None, None]


def test_a_world_without_a_goal_to_move_is_refused(monkeypatch):
    monkeypatch.setattr("trueline.rl.worlds.make", lambda id, n, threads: Drift(n))
    with pytest.raises(ConfigError, match="goal"):
        outcomes(goal_change(cost="right"), Affine(np.zeros((2, 3))))
