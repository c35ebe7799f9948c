"""CVPO: the dual against a numerical optimum of the primal, the fit against its closed form, bounds that are kept."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from off_policy_steps import GUIDE, WIDTH, network, transitions
from scipy.optimize import minimize

from trueline.core.errors import ConfigError
from trueline.rl.distributions import Gaussian
from trueline.rl.off_policy.cvpo import Cvpo, Dual, divergence, dual_slope, fit_loss, solve_dual, target_weights


def drawn(seed, states=3, actions=4, costs=1, scale=1.0):
    rng = np.random.default_rng(seed)
    q_r = torch.from_numpy(scale * rng.normal(size=(states, actions)))
    return q_r, torch.from_numpy(rng.uniform(size=(states, actions, costs)))


def kl_of(q):
    """E_s KL(q ‖ uniform over the sampled actions)."""
    return float((q * (q * q.shape[1]).clamp_min(1e-300).log()).sum(1).mean())


def primal(q_r, q_c, epsilon, limit):
    """max E_s E_q[Q_r] under both constraints, over the q themselves, by sequential quadratic programming."""
    states, actions, costs = q_c.shape
    r, c = q_r.numpy(), q_c.numpy()

    def of(x):
        return np.exp(x.reshape(states, actions)) / np.exp(x.reshape(states, actions)).sum(1, keepdims=True)

    def kl(x):
        q = of(x)
        return epsilon - (q * np.log(q * actions)).sum(1).mean()

    constraints = [{"type": "ineq", "fun": kl}]
    constraints += [
        {"type": "ineq", "fun": lambda x, k=k: limit[k] - (of(x) * c[..., k]).sum(1).mean()} for k in range(costs)
    ]
    found = minimize(
        lambda x: -(of(x) * r).sum(1).mean(), np.zeros(states * actions), constraints=constraints,
        method="SLSQP", options={"maxiter": 500, "ftol": 1e-13},
    )  # fmt: skip
    assert found.success, found.message
    return -found.fun


@pytest.mark.parametrize(
    ("seed", "costs", "epsilon"), [(0, 1, 0.02), (1, 1, 0.3), (2, 2, 0.05), (3, 2, 0.2), (4, 3, 0.1)]
)
def test_the_dual_solves_the_constrained_problem(seed, costs, epsilon):
    q_r, q_c = drawn(seed, costs=costs)
    limit = q_c.mean((0, 1)) - 0.02  # below what π_old itself costs: the constraint has something to say
    dual = solve_dual(q_r, q_c, epsilon, limit, 1e6)
    q = target_weights(q_r, q_c, dual)
    assert kl_of(q) <= epsilon + 1e-6
    assert ((q[..., None] * q_c).sum(1).mean(0) <= limit + 1e-6).all()
    best = primal(q_r, q_c, epsilon, limit.numpy())
    assert float((q * q_r).sum(1).mean()) == pytest.approx(best, abs=1e-5)
    # Strong duality: the least of the dual is the primal's optimum.
    assert float(dual_slope(dual, q_r, q_c, epsilon, limit).value) == pytest.approx(best, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), costs=st.integers(1, 3), scale=st.sampled_from([1e-2, 1.0, 300.0]))
def test_the_duals_conditions_of_optimality_hold(seed, costs, scale):
    q_r, q_c = drawn(seed, 8, 6, costs, scale)
    limit = q_c.mean((0, 1)) + torch.from_numpy(np.random.default_rng(seed).uniform(-0.05, 0.05, costs))
    dual = solve_dual(q_r, q_c, 0.1, limit, 1e7)
    gradient = dual_slope(dual, q_r, q_c, 0.1, limit).gradient
    assert abs(float(gradient[0])) < 1e-6  # all of the KL is used
    slack, price = gradient[1:], dual.multiplier / scale
    assert (slack > -1e-6).all()
    assert ((slack < 1e-6) | (price < 1e-9)).all()  # a price only where the limit is met exactly


def test_slopes_are_those_of_the_dual():
    q_r, q_c = drawn(5, costs=2)
    limit, x = torch.tensor([0.4, 0.6], dtype=torch.float64), torch.tensor([0.7, 0.3, 1.1], dtype=torch.float64)

    def value(x):
        z = (q_r - q_c @ x[1:]) / x[0]
        return x[1:] @ limit + x[0] * (0.1 + (z.exp().mean(1)).log().mean())

    found = dual_slope(Dual(x[0], x[1:]), q_r, q_c, 0.1, limit)
    torch.testing.assert_close(found.value, value(x))
    torch.testing.assert_close(found.gradient, torch.autograd.functional.jacobian(value, x))
    torch.testing.assert_close(found.hessian, torch.autograd.functional.hessian(value, x))


def test_a_limit_out_of_reach_leaves_the_multiplier_at_its_bound():
    q_r, q_c = drawn(6)
    dual = solve_dual(q_r, q_c, 0.01, torch.tensor([-1.0], dtype=torch.float64), 20.0)
    assert dual.multiplier.tolist() == [20.0]
    q = target_weights(q_r, q_c, dual)
    assert kl_of(q) == pytest.approx(0.01, abs=1e-6)
    assert float((q[..., None] * q_c).sum(1).mean()) < float(q_c.mean())


def test_equal_costs_share_a_price():
    # Two copies of one cost: the Hessian is singular, and any split of the price is as good.
    q_r, q_c = drawn(7)
    limit = q_c.mean((0, 1)) - 0.03
    one = solve_dual(q_r, q_c, 0.1, limit, 1e6)
    two = solve_dual(q_r, q_c.repeat(1, 1, 2), 0.1, limit.repeat(2), 1e6)
    assert float(two.multiplier.sum()) == pytest.approx(float(one.multiplier), rel=1e-5)


def test_actions_of_equal_value_stay_equally_likely():
    q_r, q_c = torch.ones(3, 4, dtype=torch.float64), torch.zeros(3, 4, 1, dtype=torch.float64)
    dual = solve_dual(q_r, q_c, 0.1, torch.ones(1, dtype=torch.float64), 20.0)
    torch.testing.assert_close(target_weights(q_r, q_c, dual), torch.full((3, 4), 0.25, dtype=torch.float64))
    assert dual.multiplier.tolist() == [0.0]


def test_where_one_starts_does_not_matter():
    q_r, q_c = drawn(8, 16, 8, 2)
    limit = q_c.mean((0, 1)) - 0.02
    own = solve_dual(q_r, q_c, 0.05, limit, 1e6)
    for eta, first in itertools.product([1e-6, 0.1, 50.0, 1e4], [0.0, 7.0, 1e6]):
        start = Dual(torch.tensor(eta, dtype=torch.float64), torch.tensor([first, 0.0], dtype=torch.float64))
        for x, y in zip(own, solve_dual(q_r, q_c, 0.05, limit, 1e6, start), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


# -- M-step -----------------------------------------------------------------------------------------------------------


def normals(torch_rng, rows=6):
    old = Gaussian(torch.randn(rows, 2, generator=torch_rng), 0.3 * torch.randn(rows, 2, generator=torch_rng))
    new = Gaussian(
        (old.mean + 0.3 * torch.randn(rows, 2, generator=torch_rng)).requires_grad_(),
        (old.log_std + 0.2 * torch.randn(rows, 2, generator=torch_rng)).requires_grad_(),
    )
    return old, new


def test_the_two_parts_of_the_divergence(torch_rng):
    old, new = normals(torch_rng)
    parts = divergence(old, new)
    sigma, shift = old.log_std.exp(), new.mean - old.mean
    torch.testing.assert_close(parts.mean, (shift.square() / (2.0 * sigma.square())).sum(-1))
    ratio = (2.0 * (old.log_std - new.log_std)).exp()
    torch.testing.assert_close(parts.deviation, 0.5 * (ratio - ratio.log() - 1.0).sum(-1))


def test_the_fit_ends_at_the_weighted_mean_and_deviation(torch_rng):
    # Without multipliers the best mean is Σ w a and the best variance Σ w (a − μ_old)²: no slope is left there.
    old, _ = normals(torch_rng)
    draw = torch.randn(16, 6, 2, generator=torch_rng)
    weight = torch.rand(6, 16, generator=torch_rng).softmax(1)
    best_mean = torch.einsum("bn,nba->ba", weight, draw)
    best_std = torch.einsum("bn,nba->ba", weight, (draw - old.mean).square()).sqrt()
    new = Gaussian(best_mean.requires_grad_(), best_std.log().requires_grad_())
    fit_loss(new, old, draw, weight, torch.zeros(2)).backward()
    torch.testing.assert_close(new.mean.grad, torch.zeros(6, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(new.log_std.grad, torch.zeros(6, 2), atol=1e-6, rtol=0)
    # And it is a least, not a greatest.
    moved = Gaussian(new.mean + 0.1, new.log_std - 0.1)
    assert fit_loss(moved, old, draw, weight, torch.zeros(2)) > fit_loss(new, old, draw, weight, torch.zeros(2))


def test_multipliers_hold_each_part_on_its_own(torch_rng):
    old, new = normals(torch_rng)
    draw, weight = torch.zeros(4, 6, 2), torch.full((6, 4), 0.25)

    def slopes(alpha):
        loss = fit_loss(new, old, draw, weight, torch.tensor(alpha))
        return torch.autograd.grad(loss, [new.mean, new.log_std])

    plain, held_mean, held_std = slopes([0.0, 0.0]), slopes([5.0, 0.0]), slopes([0.0, 5.0])
    pull = 5.0 * (new.mean - old.mean) / old.log_std.exp().square() / 6.0
    torch.testing.assert_close(held_mean[0] - plain[0], pull.detach())
    torch.testing.assert_close(held_mean[1], plain[1])
    torch.testing.assert_close(held_std[0], plain[0])
    pull = 5.0 * (1.0 - (2.0 * (old.log_std - new.log_std)).exp()) / 6.0
    torch.testing.assert_close(held_std[1] - plain[1], pull.detach())


def test_no_step_leaves_the_bounds(torch_rng):
    cvpo = Cvpo(batch=12, lr=0.05, renew=7, kl=0.5)
    learner = cvpo.learner(network(cvpo, torch_rng))
    pulled = 0
    for number in range(30):
        batch = transitions(torch_rng)
        report = cvpo.learn(learner, batch, GUIDE, torch_rng)
        old, new = learner.target_policy(batch.obs).base, learner.policy(batch.obs).base
        kl = divergence(old, new)
        assert kl.mean.mean() <= cvpo.kl_mean * 1.0001, number
        assert kl.deviation.mean() <= cvpo.kl_deviation * 1.0001, number
        pulled += int(report["kl_mean"] > cvpo.kl_mean or report["kl_deviation"] > cvpo.kl_deviation)
    assert pulled > 5  # steps of that size would have left them
    assert (learner.own["alpha"] > 0).all()


def test_pi_old_is_renewed_and_stands_still_in_between(torch_rng):
    cvpo = Cvpo(batch=12, renew=3)
    learner = cvpo.learner(network(cvpo, torch_rng))
    seen = []
    for _ in range(6):
        before = learner.network.actor.weights[0].detach().clone()
        cvpo.learn(learner, transitions(torch_rng), GUIDE, torch_rng)
        seen.append((learner.target_actor.module.weights[0].clone(), before))
    old = [x for x, _ in seen]
    assert torch.equal(old[0], old[1])
    assert torch.equal(old[2], seen[2][1])  # the policy as it was before that step
    assert not torch.equal(old[2], old[1])
    assert torch.equal(old[3], old[4])


def test_critics_learn_what_the_policy_is_worth(torch_rng):
    # No entropy in the target: y = signal + discount·(least of the twins, costs) at an action of the policy.
    cvpo = Cvpo(batch=12, critic_lr=0.02, grad_norm=1e9)
    learner = cvpo.learner(network(cvpo, torch_rng))
    batch = transitions(torch_rng)
    with torch.no_grad():
        policy = learner.network.policy(batch.after)
        action = policy.sample(torch.Generator().manual_seed(4)).tanh()
        q = learner.target_critics.module(torch.cat([batch.after, action], 1))[..., 0]
        value = torch.column_stack([q[:, :2].amin(1), q[:, 2:]])
        y = (batch.signal + batch.discount * value)[:, [0, 0, 1, 2]]
        expected = (learner.network.critics(torch.cat([batch.obs, batch.action], 1))[..., 0] - y).square().mean(0).sum()
    report = cvpo.learn(learner, batch, GUIDE, torch.Generator().manual_seed(4))
    torch.testing.assert_close(report["critic_loss"], expected)


def test_a_choice_is_refused(torch_rng):
    cvpo = Cvpo()
    with pytest.raises(ConfigError, match="the action is a choice"):
        cvpo.learner(network(cvpo, torch_rng, gym.spaces.Discrete(3)))
    assert cvpo.act(network(cvpo, torch_rng), torch.zeros(4, WIDTH), torch_rng).abs().max() < 1.0
