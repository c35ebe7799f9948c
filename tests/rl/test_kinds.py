"""Kinds of limit: episode sums of c̃ against d̃ say of whole samples of episodes what each kind is defined to say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Terms
from trueline.rl.augmentation.kinds import Chance, Cvar, Expected, StepRate, value_at_risk
from trueline.rl.on_policy import Constrained

STEPS = 20


def sums(rules, limit, cost, parameters=None):
    """Σc̃ of n episodes with costs [n, T, K], and d̃."""
    about = Terms(np.asarray(limit, np.float64), cost.shape[1])
    state = rules.parameters(about) if parameters is None else parameters
    z, total = rules.start(about, state, len(cost)), 0.0
    for t in range(cost.shape[1]):
        outcome = rules.step(about, z, np.full(len(cost), 2.0), cost[:, t])
        np.testing.assert_array_equal(outcome.reward, 2.0)  # a kind of limit changes costs alone
        assert not outcome.terminated.any()
        z, total = outcome.z, total + outcome.cost
    return total, rules.limit(about, state)


@pytest.fixture
def episodes(rng):
    """[n, T, K]: two costs, with dear and cheap episodes."""
    return rng.poisson(rng.gamma(0.6, 0.5, (400, 1, 2)), (400, STEPS, 2)).astype(np.float64)


def test_the_expected_cost_is_the_cost(episodes):
    total, limit = sums(Expected(), [3.0, 4.0], episodes)
    np.testing.assert_array_equal(total, episodes.sum(axis=1))
    np.testing.assert_array_equal(limit, [3.0, 4.0])


def test_the_step_rate_is_the_number_of_steps_with_a_cost_under_so_many_of_an_episodes(episodes):
    total, limit = sums(StepRate(), [0.1, 0.2], episodes)
    np.testing.assert_array_equal(total, (episodes > 0).sum(axis=1))
    np.testing.assert_allclose(limit, [0.1 * STEPS, 0.2 * STEPS])
    unit = StepRate().unit(Terms(np.array([0.1, 0.2]), STEPS))
    np.testing.assert_allclose(total / unit, (episodes > 0).mean(axis=1))
    with pytest.raises(ConfigError, match="a share of the steps"):
        StepRate().check(Terms(np.array([25.0]), STEPS))


def test_the_chance_is_charged_once_where_the_limit_is_passed(episodes):
    total, limit = sums(Chance(probability=0.2), [6.0, 0.0], episodes)
    np.testing.assert_array_equal(total, (episodes.sum(axis=1) > [6.0, 0.0]) * [30.0, 5.0])
    np.testing.assert_array_equal(limit, [6.0, 1.0])  # a charge for each that passes it: P ≤ 0.2 is Σc̃ ≤ d̃
    np.testing.assert_array_equal(Chance(probability=0.2).unit(Terms(np.array([6.0, 0.0]), STEPS)), [30.0, 5.0])
    about = Terms(np.array([2.0]), STEPS)
    charged, z = [], Chance().start(about, {}, 1)
    for cost in (1.0, 1.0, 0.0, 1.0, 4.0):
        outcome = Chance().step(about, z, np.zeros(1), np.array([[cost]]))
        z = outcome.z
        charged.append(float(outcome.cost[0, 0]))
    assert charged == [0.0, 0.0, 0.0, 20.0, 0.0]  # at the limit is not past it


def test_what_is_observed_of_the_accumulated_cost_tells_near_from_passed():
    about = Terms(np.array([4.0]), STEPS)
    np.testing.assert_allclose(Chance().observed(about, np.array([[0.0], [2.0], [4.0], [9.0]])),
                               [[0, 0], [0.5, 0], [1, 0], [1, 1]])  # fmt: skip
    np.testing.assert_allclose(Cvar().observed(about, np.array([[6.0, 1.0]])), [[1.5]])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.floats(0.0, 30.0), st.floats(0.0, 0.95))
@settings(max_examples=60, deadline=None)
def test_any_threshold_bounds_the_cvar_and_the_quantile_attains_it(costs, threshold, level):
    drawn = np.array(costs, np.float64)
    # The mean of the worst share 1 − α, from the episodes in order, the last of them counted in part.
    tail, worst = (1.0 - level) * len(drawn), np.sort(drawn)[::-1]
    parts = np.clip(tail - np.arange(len(drawn)), 0.0, 1.0)
    cvar = (parts * worst).sum() / tail
    limit = np.array([max(30.0, drawn.max())])
    split = np.array_split(drawn[:, None, None].repeat(2, axis=1) / 2.0, 1)[0]  # spread over two steps
    for nu, equal in ((threshold, False), (float(value_at_risk(drawn[:, None], level)[0]), True)):
        total, d = sums(Cvar(level=level), limit, split, {"threshold": np.array([nu])})
        bound = total.mean() - d[0] + limit[0]  # J̃ − d̃ + d = ν + E(Σc − ν)₊/(1 − α)
        assert bound >= cvar - 1e-9
        if equal:
            assert bound == pytest.approx(cvar)


def test_the_threshold_follows_the_quantile_slowly_and_stays_within_the_limit(rng):
    rules, about = Cvar(level=0.8, rate=0.1), Terms(np.array([5.0, 50.0]), STEPS)
    state = rules.parameters(about)
    np.testing.assert_array_equal(rules.limit(about, state), 0.0)
    cost = rng.exponential(3.0, (500, 2))
    quantile = value_at_risk(cost, 0.8)
    assert (cost <= quantile).mean(axis=0) == pytest.approx(0.8)
    after = rules.adapted(about, state, cost)
    np.testing.assert_allclose(after["threshold"], [5.0 + 0.1 * (min(quantile[0], 5.0) - 5.0),
                                                    50.0 + 0.1 * (quantile[1] - 50.0)])  # fmt: skip
    for _ in range(200):
        after = rules.adapted(about, after, cost)
    np.testing.assert_allclose(after["threshold"], np.minimum(quantile, about.limit), rtol=1e-6)
    assert rules.adapted(about, after, np.zeros((0, 2))) is after


def test_an_episode_keeps_the_threshold_it_began_with():
    rules, about = Cvar(level=0.5), Terms(np.array([10.0]), STEPS)
    z = rules.start(about, {"threshold": np.array([3.0])}, 1)
    z = rules.step(about, z, np.zeros(1), np.array([[4.0]])).z  # 1 above it
    rules.start(about, {"threshold": np.array([9.0])}, 1)
    assert rules.step(about, z, np.zeros(1), np.array([[2.0]])).cost.item() == pytest.approx(2.0 / 0.5)


@pytest.mark.parametrize("asked", [{"kind": "hard-zero"}, {"kind": "chance", "probability": 0.0}])
def test_a_limit_that_no_multiplier_can_keep_is_refused_with_the_reason(asked):
    with pytest.raises(ConfigError, match="A multiplier weighs cost against reward and cannot promise that"):
        build(Constrained, {"limit_on": asked})
