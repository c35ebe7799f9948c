"""Rules on arrays: budgets against brute force over whole histories, the controller against the original's trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.errors import ConfigError
from trueline.rl.augmentation.augment import Terms
from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.saute import Saute, discounted_budget
from trueline.rl.augmentation.simmer import Simmer

COSTS = st.lists(st.integers(0, 3), min_size=1, max_size=25)
GAMMAS = st.floats(0.9, 1.0)


def terms(limit, steps=25):
    return Terms(np.atleast_1d(np.asarray(limit, np.float64)), steps)


def played(rules, about, costs, reward=None, parameters=None):
    """One episode of costs [T, K] with reward 1 a step: the outcomes, and what was observed after each."""
    costs = np.asarray(costs, np.float64).reshape(len(costs), -1)
    z = rules.start(about, rules.parameters(about) if parameters is None else parameters, 1)
    outcomes, seen = [], [rules.observed(about, z)]
    for t, cost in enumerate(costs):
        paid = np.ones(1) if reward is None else np.array([reward[t]])
        outcome = rules.step(about, z, paid, cost[None])
        z = outcome.z
        outcomes.append(outcome)
        seen.append(rules.observed(about, z))
    return outcomes, np.concatenate(seen)


# --- Sauté ---


@given(COSTS, GAMMAS, st.floats(0.5, 20.0))
@settings(max_examples=60, deadline=None)
def test_z_is_what_is_left_of_the_discounted_budget(costs, gamma, limit):
    about = terms(limit)
    outcomes, seen = played(Saute(gamma=gamma, unsafe_reward=-7.0), about, costs)
    budget = limit * np.mean(gamma ** np.arange(about.steps))
    np.testing.assert_allclose(discounted_budget(about, gamma), [budget])
    spent = np.cumsum(gamma ** np.arange(len(costs)) * costs)  # Σᵢ γⁱcᵢ up to and with each step
    # z_t = γ^−t·(1 − Σᵢ γⁱcᵢ/D), which is above 0 exactly while budget is left.
    closed = np.concatenate([[1.0], gamma ** -np.arange(1.0, len(costs) + 1) * (1.0 - spent / budget)])
    np.testing.assert_allclose(seen[:, 0], closed, rtol=1e-9, atol=1e-9)
    near = np.abs(spent - budget) < 1e-9 * budget  # where rounding decides, nothing is claimed
    paid = np.array([o.reward[0] for o in outcomes])
    np.testing.assert_array_equal(paid[~near], np.where(spent < budget, 1.0, -7.0)[~near])
    assert not any(o.terminated.any() for o in outcomes)
    np.testing.assert_array_equal([o.cost[0, 0] for o in outcomes], costs)  # costs stay the world's


@given(COSTS, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_whole_budget_is_kept_exactly_when_the_episodes_cost_is(costs, limit):
    # With γ = 1 and whole costs this is integer arithmetic: equality of cost and limit is decided, not rounded.
    spent = np.cumsum(costs)
    for strict, within in ((True, spent < limit), (False, spent <= limit)):
        outcomes, _ = played(Saute(gamma=1.0, strict=strict, unsafe_reward=-1.0), terms(limit), costs)
        np.testing.assert_array_equal([o.reward[0] > 0 for o in outcomes], within)


def test_steps_of_the_original_adapter():
    # omnisafe 0.5.0, SauteAdapter._safety_step and ._safety_reward on the same costs; γ_s = 0.99, T = 50, d = 5.
    z = [1.0101010101010102, 0.7645783479916114, 0.6444385102999535, 0.6509479902019732,
         0.14607181719529666, 0.14754729009625925, -0.10668803585157124, -0.10776569277936489,
         -0.17278566078453897, -0.9417080783358418]  # fmt: skip
    reward = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -0.5, -0.5, -0.5, -0.5]
    outcomes, seen = played(
        Saute(gamma=0.99, unsafe_reward=-0.5), terms(5.0, 50), [0, 1, 0.5, 0, 2, 0, 1, 0, 0.25, 3], np.arange(1.0, 11)
    )
    np.testing.assert_allclose(seen[1:, 0], z, rtol=1e-12)
    np.testing.assert_array_equal([o.reward[0] for o in outcomes], reward)


@pytest.mark.parametrize(("steps", "budget"), [(1000, 15.8), (500, 19.7)])
def test_the_budget_is_of_the_worlds_own_length(steps, budget):
    # d = 25 and γ_s = 0.999: the original's 1000 steps give 15.8 in every world, those of Circle and Run need 19.7.
    np.testing.assert_allclose(discounted_budget(terms(25.0, steps), 0.999), [budget], atol=0.05)


def test_the_reward_ends_with_the_first_budget_that_is_spent():
    rules, about = Saute(gamma=1.0, unsafe_reward=-1.0), terms([2.0, 5.0])
    rows = np.array([[1.0, 4.0], [2.0, 0.0], [0.0, 5.0], [3.0, 9.0]])  # left: both, not the first, not the second, none
    outcome = rules.step(about, rules.start(about, {}, 4), np.full(4, 10.0), rows)
    np.testing.assert_array_equal(outcome.reward, [10.0, -1.0, -1.0, -1.0])
    np.testing.assert_allclose(rules.observed(about, outcome.z), 1.0 - rows / [2.0, 5.0])


def test_a_budget_of_nothing_can_be_kept_but_not_strictly():
    with pytest.raises(ConfigError, match="strict Sauté counts as spent"):
        Saute().check(terms(0.0))
    rules = Saute(gamma=1.0, strict=False)
    rules.check(terms(0.0))
    outcomes, seen = played(rules, terms(0.0), [0, 0, 1, 0])
    assert [o.reward[0] for o in outcomes] == [1.0, 1.0, -1.0, -1.0]
    assert np.isfinite(seen).all()


def test_a_discount_under_which_z_explodes_is_refused():
    with pytest.raises(ConfigError, match=r"Give at least 0\.98"):
        Saute(gamma=0.9).check(terms(25.0, 1000))
    Saute(gamma=0.9).check(terms(25.0, 100))


# --- Simmer ---

SPENT = [40.0, 12.0, 33.0, 20.0, 15.0, 55.0, 20.0, 9.0, 31.0, 28.0, 5.0, 18.0, 31.0, 22.0]
# D/D_u after each, from the original's SimmerPIDAgent (omnisafe 0.5.0) at d = 25, γ_s = 0.999, T = 1000, D₀ = 0.6·D_u,
# at its published gains, at livelier ones, and at ones that meet both clips.
TRACES = {
    (5e-4, 1e-5, 0.0, 0.995): [
        0.59999745, 0.5999951687434976, 0.5999910188808303, 0.5999862997442056, 0.5999815141675101, 0.5999725824700561,
        0.5999630153587474, 0.599953927984886, 0.5999430859247629, 0.5999307719218582, 0.5999193633016395,
        0.5999075435047678, 0.5998940185531954, 0.5998796929340332],
    (0.02, 0.002, 0.3, 0.5): [
        0.589, 0.5836990000000001, 0.572058189, 0.562103122579, 0.554853480905869, 0.5312389086708471,
        0.5129369643412004, 0.5016612514852858, 0.48424755848916373, 0.46415498605146566, 0.4529862031546541,
        0.4405916134024723, 0.4221970669384862, 0.40398873553189635],
    (0.2, 0.02, 0.5, 0.1): [
        0.5367393475122159, 0.5775434120757426, 0.5142827595879584, 0.4623941722442818, 0.3991335197564977,
        0.3358728672687135, 0.3002470915862531, 0.23698643909846895, 0.1737257866106848, 0.11046513412290064,
        0.04720448163511649, 6.326065248778415e-08, 6.326065248778415e-08, 6.326065248778415e-08],
}  # fmt: skip


@pytest.mark.parametrize("gains", TRACES)
def test_the_controller_moves_the_budget_as_the_original_does(gains):
    kp, ki, kd, smoothing = gains
    rules, about = Simmer(init=0.6, kp=kp, ki=ki, kd=kd, smoothing=smoothing), terms(25.0, 1000)
    state, shares = rules.parameters(about), []
    for cost in SPENT:
        state = rules.adapted(about, state, np.array([[cost - 3.0], [cost + 3.0]]))  # a mean over episodes
        shares.append(float(state["share"][0]))
    np.testing.assert_allclose(shares, TRACES[gains], rtol=1e-6)  # the original clips in float32


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12), st.floats(0.01, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_budget_stays_between_nothing_and_its_upper_bound(costs, init):
    rules, about = Simmer(init=init, kp=0.3, ki=0.1, kd=0.2, smoothing=0.3), terms([25.0, 2.0], 100)
    state = rules.parameters(about)
    for cost in costs:
        state = rules.adapted(about, state, np.array([[cost, cost / 10.0]]))
        assert (state["share"] > 0.0).all()
        assert (state["share"] <= 1.0).all()


def test_a_kept_budget_grows_and_an_overspent_one_shrinks():
    rules, about = Simmer(init=0.5, kp=0.1, smoothing=0.0), terms([10.0, 10.0], 100)
    state = rules.adapted(about, rules.parameters(about), np.array([[1.0, 9.0]]))
    assert state["share"][0] > 0.5 > state["share"][1]
    assert rules.adapted(about, state, np.zeros((0, 2))) is state  # no episode, no move


def test_every_episode_starts_with_the_budget_of_the_moment_in_units_of_the_upper_bound():
    rules, about = Simmer(init=0.4, gamma=1.0), terms(10.0)
    z = rules.start(about, rules.parameters(about), 2)
    np.testing.assert_allclose(rules.observed(about, z), 0.4)
    # (z − c/D_u)/γ_s: dividing by the budget of the moment would give 0.4 − 0.25 = 0.15.
    after = rules.step(about, z, np.ones(2), np.array([[1.0], [4.0]]))
    np.testing.assert_allclose(rules.observed(about, after.z), [[0.3], [0.0]], atol=1e-12)
    np.testing.assert_array_equal(after.reward, [1.0, -1.0])
    # At the upper bound it is Sauté.
    full = {**rules.parameters(about), "share": np.ones(1)}
    np.testing.assert_array_equal(rules.start(about, full, 1), Saute(gamma=1.0).start(about, {}, 1))


def test_simmer_needs_a_limit_to_move_under():
    with pytest.raises(ConfigError, match="Give one above 0"):
        Simmer().check(terms([1.0, 0.0]))


# --- early termination ---


@given(COSTS, st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_an_episode_ends_in_the_step_that_passes_the_limit(costs, limit):
    outcomes, seen = played(EarlyTermination(unsafe_reward=-3.0), terms(limit), costs)
    spent = np.cumsum(costs)
    np.testing.assert_array_equal([o.terminated[0] for o in outcomes], spent > limit)
    np.testing.assert_array_equal([o.reward[0] for o in outcomes], np.where(spent > limit, -3.0, 1.0))
    left = np.maximum(limit - np.concatenate([[0], spent]), 0)
    np.testing.assert_allclose(seen[:, 0], left / (limit or 1))


def test_any_cost_over_its_limit_ends_the_episode():
    rules, about = EarlyTermination(), terms([1.0, 3.0])
    rows = np.array([[1.0, 3.0], [2.0, 0.0], [0.0, 4.0]])
    outcome = rules.step(about, rules.start(about, {}, 3), np.full(3, 5.0), rows)
    np.testing.assert_array_equal(outcome.terminated, [False, True, True])
    np.testing.assert_array_equal(outcome.reward, [5.0, 0.0, 0.0])
    assert EarlyTermination(observes=False).observed(about, outcome.z).shape == (3, 0)
