"""Exact evaluation against listing every history."""

from __future__ import annotations

import numpy as np
import pytest
from exact_cases import deterministic, expectations, histories, random_cmdp

from trueline.core.errors import ConfigError
from trueline.rl.augmentation.kinds import Chance, Expected
from trueline.rl.augmentation.saute import Saute
from trueline.rl.exact.evaluate import (
    Accumulated,
    best_plan,
    evaluate,
    evaluate_under_rules,
    mixture,
    occupancy,
)
from trueline.rl.exact.occupancy import policy_of


def random_policy(cmdp, seed, levels=None):
    shape = (cmdp.horizon, cmdp.states) if levels is None else (cmdp.horizon, cmdp.states, levels)
    return np.random.default_rng(seed).dirichlet(np.ones(cmdp.actions), shape)


@pytest.mark.parametrize("seed", range(4))
def test_return_costs_and_law_are_those_of_all_histories(seed):
    cmdp = random_cmdp(seed, states=3, actions=2)
    policy = random_policy(cmdp, seed)
    p, returns, costs = zip(*histories(cmdp, policy), strict=True)
    outcome = evaluate(cmdp, policy, 0)
    assert sum(p) == pytest.approx(1.0)
    assert outcome.episode_return == pytest.approx(np.dot(p, returns))
    assert outcome.cost == pytest.approx(np.dot(p, np.array(costs)))
    law = np.bincount(np.round(np.array(costs)[:, 0]).astype(int), weights=p, minlength=len(outcome.law))
    np.testing.assert_allclose(outcome.law, law, atol=1e-12)
    assert len(outcome.law) == 3 * int(cmdp.cost.max()) + 1


@pytest.mark.parametrize("seed", range(3))
def test_a_policy_may_look_at_the_accumulated_cost(seed):
    cmdp = random_cmdp(seed, states=2, actions=2)
    policy = random_policy(cmdp, seed, levels=Accumulated.of(cmdp).shape[2])
    p, returns, costs = zip(*histories(cmdp, policy), strict=True)
    outcome = evaluate(cmdp, policy)
    assert outcome.episode_return == pytest.approx(np.dot(p, returns))
    law = np.bincount(np.round(np.array(costs)[:, 0]).astype(int), weights=p, minlength=len(outcome.law))
    np.testing.assert_allclose(outcome.law, law, atol=1e-12)


def test_the_law_of_each_of_several_costs():
    cmdp = random_cmdp(1, costs=2)
    policy = random_policy(cmdp, 1)
    p, _, costs = zip(*histories(cmdp, policy), strict=True)
    for k in (0, 1):
        law = evaluate(cmdp, policy, k).law
        np.testing.assert_allclose(law, np.bincount(np.round(np.array(costs)[:, k]).astype(int), p, len(law)))


def test_occupancies_sum_to_one_in_every_step_and_give_back_their_policy():
    cmdp = random_cmdp(5, states=3)
    policy = random_policy(cmdp, 5)
    rho = occupancy(cmdp, policy)
    np.testing.assert_allclose(rho.sum((1, 2)), 1.0)
    np.testing.assert_allclose(policy_of(rho), policy)


def test_a_mixture_at_episode_start_is_one_policy_with_the_mean_occupancy():
    cmdp = random_cmdp(6, states=3, costs=2)
    policies = [random_policy(cmdp, seed) for seed in range(3)]
    mixed = mixture([evaluate(cmdp, policy) for policy in policies])
    one = evaluate(cmdp, policy_of(np.mean([occupancy(cmdp, policy) for policy in policies], axis=0)))
    assert mixed.episode_return == pytest.approx(one.episode_return)
    np.testing.assert_allclose(mixed.cost, one.cost)
    assert mixed.law is None


@pytest.mark.parametrize("seed", range(3))
def test_backward_induction_finds_the_best_of_all_deterministic_policies(seed):
    cmdp = random_cmdp(seed)
    plan = best_plan(cmdp, cmdp.reward)
    assert plan.value == pytest.approx(max(expectations(cmdp, policy)[0] for policy in deterministic(cmdp)))
    assert plan.value == pytest.approx(expectations(cmdp, plan.policy)[0])
    allowed = np.ones(plan.policy.shape, bool)
    allowed[..., 0] = False
    assert (best_plan(cmdp, cmdp.reward, allowed).policy[..., 1] == 1.0).all()


# --- policies that see the extra state of an augmentation ---


def test_under_rules_that_observe_nothing_the_policy_is_a_table_of_time_and_state():
    cmdp = random_cmdp(3, states=3)
    policy = random_policy(cmdp, 3)
    seen = evaluate_under_rules(cmdp, Expected(), np.ones(1), {}, lambda t, z: np.tile(policy[t], (len(z), 1, 1)))
    plain = evaluate(cmdp, policy, 0)
    assert seen.episode_return == pytest.approx(plain.episode_return)
    np.testing.assert_allclose(seen.cost, plain.cost)
    np.testing.assert_allclose(seen.law, plain.law, atol=1e-12)


def test_under_a_chance_constraint_the_extra_state_is_the_accumulated_cost():
    cmdp = random_cmdp(4, states=3)
    policy = random_policy(cmdp, 4, levels=Accumulated.of(cmdp).shape[2])

    def by_spent(t, z):
        return policy[t][:, z[:, 0].astype(int)].swapaxes(0, 1)

    seen = evaluate_under_rules(cmdp, Chance(), np.ones(1), {}, by_spent)
    plain = evaluate(cmdp, policy)
    assert seen.episode_return == pytest.approx(plain.episode_return)
    np.testing.assert_allclose(seen.law, plain.law, atol=1e-12)


def test_a_discounted_budget_is_followed_along_every_history():
    # With γ_s < 1 the extra state depends on when costs fell due, not on their sum alone.
    cmdp = random_cmdp(2, states=2, costs=2)
    rules, limit = Saute(gamma=0.5, strict=False), np.array([2.0, 3.0])
    budget = limit * (1 - 0.5**3) / (0.5 * 3)

    def careful(t, z):
        first = 1.0 / (1.0 + np.exp(-z[:, 0] + 0.3 * z[:, 1] - t))
        return np.stack([np.stack([first, 1.0 - first], -1), np.stack([0.5 * first, 1.0 - 0.5 * first], -1)], axis=1)

    def on(t, s, w):
        """[1 + K] expected return and costs of what follows, one history after the other."""
        if t == cmdp.horizon:
            return np.zeros(3)
        total = np.zeros(3)
        for a, chance in enumerate(careful(t, w[None])[0, s]):
            after = (w - cmdp.cost[s, a]) / 0.5
            onward = sum(p * on(t + 1, z, after) for z, p in enumerate(cmdp.transition[s, a]))
            total += chance * (np.array([cmdp.reward[s, a], *cmdp.cost[s, a]]) + onward)
        return total

    expected = sum(p * on(0, s, budget) for s, p in enumerate(cmdp.start))
    seen = evaluate_under_rules(cmdp, rules, limit, {}, careful)
    assert [seen.episode_return, *seen.cost] == pytest.approx(expected)
    assert seen.law is None  # of two costs


def test_a_table_of_another_shape_is_refused():
    cmdp = random_cmdp(0)
    with pytest.raises(ConfigError, match="has shape"):
        evaluate(cmdp, np.ones((2, 2, 2)) / 2)
    with pytest.raises(ConfigError, match="accumulated c0"):
        evaluate(cmdp, np.ones((3, 2, 2, 2)) / 2)
