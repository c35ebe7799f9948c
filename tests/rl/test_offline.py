"""The offline rows: each against what it converges to, its equations by their signs, and what a run survives."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from offline_cases import (
    CASES,
    CLONE,
    EPISODES,
    behaviour,
    constrained_regression,
    covered,
    data_of,
    dice,
    drawn_actions,
    free,
    tabular,
    trained,
    trained_on_actions,
)
from scipy.optimize import minimize_scalar

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import load_subject, save_subject
from trueline.rl.distributions import Choices, SquashedGaussian
from trueline.rl.exact.evaluate import evaluate, occupancy
from trueline.rl.exact.optimum import Expected
from trueline.rl.exact.suite import instance
from trueline.rl.exact.tables import outcome_of, policy_table
from trueline.rl.exact.world import make as exact_world
from trueline.rl.handlers.constraint import normalised, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.off_policy.networks import QNetwork
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.offline.bcq import Bcq, perturbation_loss, soft_pessimistic
from trueline.rl.offline.behaviour_cloning import Cloning, cloning_loss
from trueline.rl.offline.coptidice import Coptidice, divergence, dual_loss, inverse_slope, kl_of, tilted
from trueline.rl.offline.crr import Crr, regression_weight
from trueline.rl.offline.data import read, write_parquet
from trueline.rl.offline.networks import Generated, Rules, latent_kl, perturbed, scored, supported
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.offline.training import Constrained, Limited, Offline, OfflineRecipe, Trainer
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.safety.recipes import offline as rows

ROWS = [getattr(rows, name) for name in rows.__all__]


@pytest.fixture(scope="module")
def garnet(tmp_path_factory):
    """A random process, a behaviour that leaves a quarter of the actions out, and 4,000 of its episodes."""
    return _recorded("Garnet1", tmp_path_factory.mktemp("garnet"))


@pytest.fixture(scope="module")
def tolls(tmp_path_factory):
    """The same for a deterministic process."""
    return _recorded("Tolls", tmp_path_factory.mktemp("tolls"))


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """The random process again, with continuous actions."""
    return _recorded("Garnet1", tmp_path_factory.mktemp("boxed"), box=True)


def _recorded(name, folder, box=False):
    cmdp = instance(name)
    mu = behaviour(cmdp, 0)
    write_parquet(data_of(cmdp, mu, 4000, box=box), folder / "data.parquet")
    return cmdp, mu, str(folder / "data.parquet")


# -- each row against its optimum -------------------------------------------------------------------------------------


def test_bc_safe_is_the_clone_of_the_episodes_within_the_limit(garnet):
    cmdp, mu, path = garnet
    case = CASES["bc-safe"]
    found, exact, whole = trained(case, path).average, case.target(), evaluate(cmdp, mu)
    assert found.episode_return == pytest.approx(exact.episode_return, abs=0.04)  # two standard errors of the data
    assert found.constrained[0] == pytest.approx(exact.cost[0], abs=0.05)
    assert whole.cost[0] - exact.cost[0] > 0.5  # what leaving costly episodes out does
    assert found.gap > 0.1  # a clone is no optimum: the data support far better within the same limit


def test_bcq_finds_the_best_policy_within_the_datas_support(garnet):
    cmdp, _, path = garnet
    found = trained(CASES["bcq"], path)
    assert found.average.gap < 0.02
    # Support matters here: a policy that also used what the data never show would be better, or worse and not know it.
    outside = Expected(free(cmdp)).solve(cmdp).value
    assert outside - found.optimum > 0.2 * (found.unconstrained - found.safest)


def test_bcq_lag_keeps_the_limit_at_the_best_return_the_data_support(garnet):
    found = trained(CASES["bcq-lag"], garnet[2])
    assert found.average.passed
    assert found.multipliers[0] == pytest.approx(found.optimal_multipliers[0], abs=0.05)


@pytest.mark.parametrize(("beta", "gap"), [(0.3, 0.2), (0.1, 0.03)])
def test_crr_is_its_fixed_point(garnet, beta, gap):
    case = CASES[f"crr, β = {beta}"]
    found = trained(case, garnet[2]).average
    assert found.episode_return == pytest.approx(case.target().episode_return, abs=0.05)
    assert found.gap < gap  # it nears the optimum of the support as β falls


def test_c_crr_is_its_fixed_point_at_the_multiplier_that_keeps_the_limit(garnet):
    cmdp, mu, path = garnet
    found = trained(CASES["c-crr"], path)
    table, multiplier = constrained_regression(cmdp, mu, 0.1)
    assert found.average.passed  # against the optimum of the support
    assert found.average.episode_return == pytest.approx(evaluate(cmdp, table).episode_return, abs=0.05)
    assert found.multipliers[0] == pytest.approx(multiplier, abs=0.03)


def test_coptidice_is_the_solution_of_its_dual(tolls):
    cmdp, mu, path = tolls
    policy, multiplier = dice(cmdp, mu, 0.1)
    exact = evaluate(cmdp, policy)
    assert exact.cost[0] == pytest.approx(cmdp.limit[0], abs=1e-4)
    found = trained(CASES["coptidice"], path)
    scale = found.unconstrained - found.safest
    assert abs(found.average.episode_return - exact.episode_return) < 0.02 * scale
    assert found.average.constrained[0] == pytest.approx(cmdp.limit[0], abs=0.01 * found.span[0])
    assert found.multipliers[0] == pytest.approx(multiplier[0], abs=0.03)
    assert found.average.gap < 0.2


def test_the_solution_of_coptidice_nears_the_optimum_of_the_support_as_alpha_falls(tolls):
    cmdp, mu, _ = tolls
    best = Expected(cmdp.limit, covered(mu)).solve(cmdp).value
    gaps = [best - evaluate(cmdp, dice(cmdp, mu, alpha)[0]).episode_return for alpha in (0.3, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-6
    assert gaps[2] < 0.05 * best


# -- continuous actions: one step that pays −(a − 0.8)² and costs 1 + a ------------------------------------------------


def on_the_slope(tmp_path, row, steps, top=1.0, given=None, **update):
    """On actions uniform on [−1, top]: mean action, its deviation, and the multiplier where there is one."""
    action = np.random.default_rng(0).uniform(-1.0, top, EPISODES)
    settings = {"total_steps": steps, "steps_per_epoch": steps, **(given or {}), "update": {"batch": 128, **update}}
    policy = trained_on_actions(tmp_path, row, action, settings)
    found = drawn_actions(policy)
    multiplier = None if policy.multipliers is None else float(policy.multipliers[0])
    return float(found.mean()), float(found.std()), multiplier


SLOPE_LAG = {"cost_limit": 1.2, "constraint": {"kind": "lagrangian", "rule": "sgd", "lr": 0.02, "init": 1.0}}
SLOPE_LAG["multiplier_after"] = 200
GENERATOR = {"lr": 5e-3, "critic_lr": 1e-2, "polyak": 0.1, "kl_weight": 0.05, "latent_bound": 2.0}


def test_a_cloning_auto_encoder_draws_actions_as_the_data_have_them(tmp_path):
    # Uniform on [−1, 0.4]: mean −0.3, deviation 1.4/√12.
    mean, deviation, _ = on_the_slope(tmp_path, rows.VAE_BC, 700, 0.4, lr=5e-3, kl_weight=0.05)
    assert mean == pytest.approx(-0.3, abs=0.05)
    assert deviation == pytest.approx(1.4 / math.sqrt(12.0), rel=0.15)


def test_a_cloning_auto_encoder_of_normal_actions_draws_the_normal_that_its_kl_leaves(tmp_path):
    found = CLONE.draws(tmp_path)
    assert CLONE.drawn_deviation < 0.85 * CLONE.deviation
    assert found.mean() == pytest.approx(CLONE.mean, abs=0.02)
    assert found.std() == pytest.approx(CLONE.drawn_deviation, rel=0.08)


def test_bcq_takes_the_best_action_that_the_data_show(tmp_path):
    # The largest of m draws from [−1, 0.4] is 0.4 − 1.4/(m + 1) on average, and Φ moves it by 0.05. The best is 0.8.
    mean, _, _ = on_the_slope(tmp_path, rows.BCQ, 500, 0.4, **GENERATOR, candidates=40)
    assert mean == pytest.approx(0.4 - 1.4 / 41 + 0.05, abs=0.07)


def test_bcq_lag_takes_the_best_generated_action_within_the_limit(tmp_path):
    mean, _, multiplier = on_the_slope(tmp_path, rows.BCQ_LAG, 600, given=SLOPE_LAG, **GENERATOR)
    assert mean == pytest.approx(0.2, abs=0.08)
    assert multiplier == pytest.approx(1.2, abs=0.25)  # 2·(0.8 − 0.2)


def test_c_crr_of_a_continuous_action_keeps_the_limit(tmp_path):
    # π ∝ exp(−((a − 0.8)² + λa)/β): a normal about 0.8 − λ/2 of variance β/2.
    update = {"lr": 5e-3, "critic_lr": 1e-2, "polyak": 0.1, "beta": 0.05, "weight_max": 1e3}
    mean, deviation, multiplier = on_the_slope(tmp_path, rows.C_CRR, 700, given=SLOPE_LAG, **update)
    assert mean == pytest.approx(0.2, abs=0.05)
    assert deviation == pytest.approx(math.sqrt(0.025), rel=0.2)
    assert multiplier == pytest.approx(1.2, abs=0.2)


def test_crr_of_a_continuous_action_is_drawn_to_the_best_of_the_data(tmp_path):
    # π ∝ exp(−(a − 0.8)²/β) on [−1, 0.4].
    update = {"lr": 5e-3, "critic_lr": 1e-2, "polyak": 0.1, "beta": 0.1, "weight_max": 1e4}
    mean, _, _ = on_the_slope(tmp_path, rows.CRR, 700, 0.4, **update)
    a = np.linspace(-1.0, 0.4, 1001)
    assert mean == pytest.approx(np.average(a, weights=np.exp(-np.square(a - 0.8) / 0.1)), abs=0.06)


def test_bc_safe_of_a_continuous_action_clones_what_keeps_the_limit(tmp_path):
    # 1 + a ≤ 1.2: uniform on [−1, 0.2], of mean −0.4.
    mean, _, _ = on_the_slope(tmp_path, rows.BC_SAFE, 500, given={"cost_limit": 1.2}, lr=1e-2)
    assert mean == pytest.approx(-0.4, abs=0.06)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_coptidice_of_a_continuous_action_keeps_the_limit_with_room_for_its_bound(tmp_path, epsilon):
    update = {"lr": 5e-3, "alpha": 0.05, "epsilon": epsilon, "multiplier_lr": 0.01, "multiplier_init": 1.0}
    mean, _, _ = on_the_slope(tmp_path, rows.COPTIDICE, 800, given={"cost_limit": 1.2}, **update, tau_lr=0.01)
    if epsilon:
        assert mean < 0.2 - 0.05  # the bound is above the mean cost
    else:
        assert mean == pytest.approx(0.2, abs=0.06)


# -- equations --------------------------------------------------------------------------------------------------------


def test_the_soft_divergence_and_its_inverse_slope_belong_together():
    x = torch.linspace(0.01, 4.0, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(x).sum(), x)
    torch.testing.assert_close(inverse_slope(slope), x)
    assert divergence(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.0]
    assert (divergence(x) >= 0).all()


def test_the_dual_of_dice_is_maximised_by_its_weight():
    e, first = torch.tensor([-0.4, 0.3, 1.1], dtype=torch.float64, requires_grad=True), torch.zeros(3)
    value = dual_loss(first, e, 0.5, 0.1)
    for y, w in zip(e.tolist(), inverse_slope(e / 0.5).tolist(), strict=True):
        best = minimize_scalar(
            lambda x, y=y: -(x * y - 0.5 * float(divergence(torch.tensor(x)))), bounds=(1e-6, 10.0), method="bounded"
        )
        assert w == pytest.approx(best.x, abs=1e-4)
    (slope,) = torch.autograd.grad(value, e)
    torch.testing.assert_close(slope, inverse_slope(e.detach() / 0.5) / 3)
    begin = torch.ones(4, requires_grad=True)
    (slope,) = torch.autograd.grad(dual_loss(begin, e.detach(), 0.5, 0.1), begin)
    torch.testing.assert_close(slope, torch.full((4,), 0.025))


def test_the_tilt_makes_costs_worse_and_costs_its_kl():
    ell = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    tau = torch.tensor([0.5, 0.5], dtype=torch.float64)
    w = tilted(ell, tau)
    torch.testing.assert_close(w.mean(0), torch.ones(2, dtype=torch.float64))
    assert (w * ell).mean(0)[0] > ell.mean(0)[0]
    torch.testing.assert_close(w[:, 1], torch.ones(3, dtype=torch.float64))
    # Donsker and Varadhan: E_w[ℓ] − τ·KL(w) = τ log E[exp(ℓ/τ)].
    free_energy = tau * (torch.logsumexp(ell / tau, 0) - math.log(3))
    torch.testing.assert_close((w * ell).mean(0) - tau * kl_of(w), free_energy)
    assert kl_of(w)[0] > kl_of(tilted(ell, 2.0 * tau))[0] > 0.0


def test_a_regression_weight_rises_with_the_reward_and_falls_with_every_cost():
    advantage = torch.tensor([[1.0, 0.5, -1.0]])
    multiplier = torch.tensor([2.0, 0.25], dtype=torch.float64)
    # (1 − 2·0.5 + 0.25)/0.5
    assert float(regression_weight(advantage, multiplier, 0.5, 99.0)) == pytest.approx(math.exp(0.5))
    assert float(regression_weight(10 * advantage, multiplier, 0.5, 20.0)) == 20.0


def test_a_target_mixes_the_twins_and_leaves_costs_alone():
    q = torch.tensor([[1.0, 3.0, 7.0], [5.0, 1.0, -2.0]])
    assert soft_pessimistic(q, 2, 0.75).tolist() == [[1.5, 7.0], [2.0, -2.0]]
    assert scored(q, torch.tensor([0.5]), 2).tolist() == [1.0 - 3.5, 1.0 + 1.0]
    # −((1 − 3.5) + (5 + 1))/2: the first twin, less λ times the cost
    assert float(perturbation_loss(q, torch.tensor([0.5]), 2)) == -1.75


def test_support_is_relative_to_the_likeliest_option():
    log_prob = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.09, 0.01]]).log()
    assert supported(log_prob, 0.5).tolist() == [[True, True, False], [True, False, False]]
    assert supported(log_prob, 0.39).tolist() == [[True, True, True], [True, False, False]]


def test_a_perturbation_moves_by_phi_at_most_and_stays_in_range():
    moved = perturbed(torch.tensor([0.0, 0.5, 0.99]), torch.tensor([0.3, -50.0, 50.0]), 0.05)
    assert moved.tolist() == pytest.approx([0.05 * math.tanh(0.3), 0.45, 1.0])


def test_the_latents_kl_is_that_of_two_normals():
    mean, log_std = torch.tensor([0.7, -1.2]), torch.tensor([-0.4, 0.3])
    normals = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(latent_kl(mean, log_std), torch.distributions.kl_divergence(*normals))


def test_cloning_is_the_weighted_likelihood_of_actions():
    policy = Choices.of(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), (2,))
    action = torch.tensor([[1.0], [1.0]])
    log_p = [math.log(1 / (1 + math.exp(-1))), math.log(1 / (1 + math.exp(2)))]
    assert float(cloning_loss(policy, action)) == pytest.approx(-sum(log_p) / 2)
    weighted = cloning_loss(policy, action, torch.tensor([3.0, 0.5]))
    assert float(weighted) == pytest.approx(-(3.0 * log_p[0] + 0.5 * log_p[1]) / 2)
    normal = SquashedGaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    # The draw of action 0.5 is artanh 0.5; at the edge of the range it is finite.
    u = math.atanh(0.5)
    exact = -0.5 * u * u - 0.5 * math.log(2 * math.pi) - math.log(1 - 0.25)
    assert float(cloning_loss(normal, torch.tensor([[0.5]]))) == pytest.approx(-exact, rel=1e-5)
    assert torch.isfinite(cloning_loss(normal, torch.tensor([[1.0]])))


@pytest.mark.parametrize("discrete", [False, True])
def test_multiplier_and_temperature_of_coptidice_move_towards_their_limits(discrete):
    update = Coptidice(multiplier_init=1.0, epsilon=0.05)
    for limit, rises in ((0.0, True), (1e6, False)):
        learner, batch = learner_of(update, discrete=discrete), batch_of(discrete=discrete, cost=1.0)
        update.learn(learner, batch, batch.obs, terms_of(limit=limit), torch.Generator().manual_seed(0))
        assert (float(learner.own["multiplier"]) > 1.0) is rises
    # A low temperature tilts by more than ε, so that it has to rise; a high one hardly tilts.
    for tau, rises in ((1e-3, True), (1e6, False)):
        learner, batch = learner_of(update, discrete=discrete), batch_of(discrete=discrete)
        learner.own["tau"].fill_(tau)
        update.learn(learner, batch, batch.obs, terms_of(), torch.Generator().manual_seed(0))
        assert (float(learner.own["tau"]) > tau) is rises


def dual_of(potentials, batch, first, terms, own, weight=None):
    """Σ of ν's dual and of every cost's τ log E[exp(ℓ/τ)], at α = 0.5; w is held still where it is given."""
    here, after, begin = (potentials(x)[..., 0] for x in (batch.obs, batch.after, first))
    reward, cost, gamma = batch.signal[:, 0], batch.signal[:, 1:], batch.discount[:, :1]
    y = (reward - cost @ own["multiplier"].float() + gamma[:, 0] * after[:, 0] - here[:, 0]) / 0.5
    conjugate = torch.where(y < 0.0, y.clamp_max(0.0).exp() - 1.0, 0.5 * y.square() + y)  # of f
    weight = torch.where(y < 0.0, y.clamp_max(0.0).exp(), y + 1.0).detach() if weight is None else weight
    ell = terms.start * begin[:, 1:] + weight[:, None] * (cost + gamma * after[:, 1:] - here[:, 1:])
    tau = own["tau"].float()
    bound = tau * (torch.logsumexp(ell / tau, 0) - math.log(len(ell)))
    return terms.start * begin[:, 0].mean() + 0.5 * conjugate.mean(), bound, weight


def tilted_step(**given):
    """A learner of two costs before and after one step, and all that the step was about."""
    update = Coptidice(alpha=0.5, epsilon=0.05, multiplier_init=0.7, grad_norm=1e9, **given)
    learner, rng = learner_of(update, costs=("c", "d")), torch.Generator().manual_seed(5)
    learner.own["tau"] = torch.tensor([0.3, 0.8], dtype=torch.float64)
    batch = batch_of()._replace(signal=torch.randn(32, 3, generator=rng), discount=torch.full((32, 3), 0.9))
    first, limit = torch.randn(32, 3, generator=rng), torch.ones(2, dtype=torch.float64)
    return update, learner, batch, first, Terms(unconstrained(2), limit / 10.0, limit, 0.1), dict(learner.own)


def test_the_step_of_coptidices_potentials_is_the_gradient_of_both_duals():
    update, learner, batch, first, terms, own = tilted_step()
    value, bound, _ = dual_of(learner.potentials, batch, first, terms, own)
    expected = torch.autograd.grad(value + bound.sum(), list(learner.potentials.parameters()))
    update.learn(learner, batch, first, terms, torch.Generator().manual_seed(0))
    # The step itself is Adam's; the gradients it was made from are still there.
    for p, g in zip(learner.potentials.parameters(), expected, strict=True):
        assert (g.flatten(1).norm(dim=1) > 0.0).all()  # ν's and both χ's
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-6)


def test_a_step_of_chi_lowers_the_bound_of_every_cost_and_one_of_nu_the_dual():
    update, learner, batch, first, terms, own = tilted_step(lr=1e-4)
    value, bound, weight = dual_of(learner.potentials, batch, first, terms, own)
    update.learn(learner, batch, first, terms, torch.Generator().manual_seed(0))
    lower, below, _ = dual_of(learner.potentials, batch, first, terms, own, weight)
    assert lower < value
    assert (below < bound).all()


# -- defects of the originals -----------------------------------------------------------------------------------------


def learner_of(update, costs=("c",), discrete=False, seed=0):
    net = QNetwork(hidden=(8,))
    observation = ObservationCodec.of(gym.spaces.Box(-1, 1, (3,)))
    action = ActionCodec.of(gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,)))
    return update.learner(Plan(observation, action, costs, net, net, False), torch.Generator().manual_seed(seed))


def batch_of(n=32, discrete=False, seed=0, cost=None):
    rng = torch.Generator().manual_seed(seed)
    obs, after = torch.randn(2, n, 3, generator=rng)
    action = torch.rand(n, 2, generator=rng) * 2 - 1
    if discrete:
        action = torch.randint(3, (n, 1), generator=rng).float()
    signal = torch.randn(n, 2, generator=rng)
    if cost is not None:
        signal[:, 1] = cost
    return Transitions(obs, action, signal, torch.full((n, 2), 0.9), after)


def terms_of(multiplier=1.0, limit=1.0):
    lam = torch.tensor([multiplier], dtype=torch.float64)
    d = torch.tensor([limit], dtype=torch.float64)
    return Terms(normalised(lam), d / 10.0, d, 0.1)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_cost_critic_of_c_crr_learns_costs_and_leaves_the_rewards_critics_alone(discrete):
    """The original steps its reward critic towards the costs and never moves its cost critic."""
    stepped = []
    for cost in (0.0, 5.0):
        learner = learner_of(Crr(), discrete=discrete)
        before = [p.clone() for p in learner.network.critics.parameters()]
        batch = batch_of(discrete=discrete, cost=cost)
        Crr().learn(learner, batch, batch.obs, terms_of(), torch.Generator().manual_seed(1))
        stepped.append([p.clone() for p in learner.network.critics.parameters()])
    for start, cheap, dear in zip(before, *stepped, strict=True):
        assert torch.equal(cheap[:2], dear[:2])  # the reward's twins do not know what things cost
        assert not torch.equal(cheap[2], dear[2])
        assert not torch.equal(dear[2], start[2])
    # And what the cost critic learns is the cost: of one that is always 1, discounted at 0.9, it is 10.
    learner = learner_of(Crr(critic_lr=0.02, polyak=0.2), discrete=discrete)
    update, rng = Crr(critic_lr=0.02, polyak=0.2), torch.Generator().manual_seed(2)
    for seed in range(400):
        batch = batch_of(64, discrete, seed, 1.0)
        update.learn(learner, batch, batch.obs, terms_of(0.0), rng)
    assert float(update.cost_at(learner, batch.obs, rng).mean()) == pytest.approx(10.0, rel=0.1)


def test_a_multiplier_compares_an_episodes_discounted_cost_with_the_limit_in_that_unit(garnet, tmp_path, monkeypatch):
    """1 of cost in each of T steps is worth (1 − γᵀ)/(1 − γ) when discounted, and not T."""
    cmdp, _, path = garnet
    gamma, steps = 0.9, cmdp.horizon
    given = {"cost_gamma": gamma, "gamma": 0.8, "cost_limit": 3.0, "multiplier_after": 9}
    config, told = build(rows.BCQ_LAG.Config, {**settled(garnet), **given}), []
    monkeypatch.setattr(Lagrangian, "update", lambda self, state, cost, limit: told.append(float(limit)) or state)
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0) as run:
        trainer = Trainer(config, run)
        trainer.one_epoch()
    terms = trainer.terms
    assert float(terms.value_limit) == pytest.approx(3.0 / steps * sum(gamma**t for t in range(steps)))
    assert told == [float(terms.value_limit)]
    assert float(terms.step_limit) == pytest.approx(3.0 / steps)
    assert 1.0 / terms.start == pytest.approx(sum(0.8**t for t in range(steps)))
    assert path == config.dataset


def test_the_predicted_cost_of_an_episode_is_the_policys(garnet, tmp_path):
    cmdp, _, _ = garnet
    given = {"constraint": {"lr": 1e-9, "init": 0.4}, "multiplier_after": 0, "cost_limit": 3.0}
    for row, update in ((rows.BCQ_LAG, {}), (rows.C_CRR, {"beta": 0.3, "weight_max": 1e4})):
        settings = tabular(800, lr=0.03, critic_lr=0.03, polyak=0.1, **update)
        config = build(row.Config, {**settled(garnet), **settings, **given})
        with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id=row.name) as run:
            trainer = Trainer(config, run)
            policy = trainer.train()
            cost = trainer.update.cost_at(trainer.learner, trainer.first[:1], torch.Generator().manual_seed(0))
        exact = outcome_of(policy, exact_world("Cmdp-v0", cmdp=cmdp.to_json())).cost[0]
        assert float(cost) == pytest.approx(exact, abs=0.12), row.name


# -- the loop ---------------------------------------------------------------------------------------------------------

SMALL = {
    "total_steps": 40,
    "steps_per_epoch": 10,
    "checkpoint_epochs": 1,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
}


def settled(case, box=False, **given):
    cmdp, _, path = case
    world = {"env": "CmdpBox-v0" if box else "Cmdp-v0", "env_options": {"cmdp": cmdp.to_json()}, "dataset": path}
    return {**SMALL, **world, **given}


def for_row(row, case, **given):
    extra = {"multiplier_after": 5} if issubclass(row.Config, Constrained) else {}
    extra |= {"cost_limit": 3.0} if issubclass(row.Config, Limited) else {}
    return build(row.Config, {**settled(case, box=True), **extra, **given, "update": {"batch": 16}})


def test_first_states_are_normalised_as_all_states_are(boxed, tmp_path):
    config, data = for_row(rows.BCQ_LAG, boxed, normalise=True), read(Path(boxed[2]))
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0) as run:
        trainer = Trainer(config, run)
    obs, _, _, _, after = trainer.rows.split(trainer.widths, dim=1)
    for found, given in ((trainer.first, data.obs[data.starts]), (obs, data.obs), (after, data.next_obs)):
        torch.testing.assert_close(found, trainer.network.encoder.norm(torch.from_numpy(given)))


def made(tmp_path, row, config, id):
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=1, id=id) as run:
        policy = row.train(config, run, {})
        save_subject(policy, run.folder)
    return policy


NOT_LEARNT = {"bc-safe": "network.critics.", "coptidice": "network.critics."}  # rows whose policy needs no critics


def parameters_of(trainer):
    """Everything that gradient steps change, by name."""
    own = {name: getattr(trainer.learner, name) for name in ("model", "potentials") if hasattr(trainer.learner, name)}
    return {
        f"{part}.{name}": p.detach().clone()
        for part, module in {"network": trainer.network, **own}.items()
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_moves_everything_it_learns(row, boxed, tmp_path):
    config = for_row(row, boxed)
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=0) as run:
        trainer = Trainer(config, run)
        before, multiplier = parameters_of(trainer), trainer.policy().multipliers
        policy = trainer.train()
    for name, p in parameters_of(trainer).items():
        assert torch.isfinite(p).all(), name
        assert torch.equal(p, before[name]) is name.startswith(NOT_LEARNT.get(row.name, "nothing")), name
    if multiplier is not None:
        assert (policy.multipliers != multiplier).all()
    cost = outcome_of(policy, exact_world("CmdpBox-v0", cmdp=boxed[0].to_json())).cost
    assert ((cost > 0.0) & (cost < np.array(free(boxed[0])))).all()  # no nan, and no more than can be


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(row, boxed, tmp_path, monkeypatch):
    config = for_row(row, boxed, normalise=True)
    whole = made(tmp_path, row, config, "whole")
    original, calls = Trainer.one_epoch, []

    def killed(self):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, "one_epoch", killed)
    with contextlib.suppress(KeyboardInterrupt):
        made(tmp_path, row, config, "cut")
    with Run.reopen(tmp_path / "cut") as run:
        resumed = row.train(config, run, {})
    for (name, p), q in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert whole.shape == resumed.shape
    lines = [[line.split('"time/')[0] for line in (tmp_path / id / "metrics.jsonl").read_text().splitlines()]
             for id in ("whole", "cut")]  # fmt: skip
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_loaded_policy_acts_as_the_saved_one(row, boxed, tmp_path):
    if "batch-constrained-policy" not in {entry.name for entry in registry.entries("subject")}:
        target = "trueline.rl.offline.networks:load"
        registry.add(Entry("subject", "batch-constrained-policy", target, "for tests"), "tests")
    config = for_row(row, boxed)
    policy = made(tmp_path, row, config, "run")
    loaded = load_subject(tmp_path / "run")
    obs = np.eye(25, dtype=np.float32)[:7]
    for deterministic in (True, False):
        acts = [p.act(obs, None, np.random.default_rng(3), deterministic)[0] for p in (policy, loaded)]
        np.testing.assert_array_equal(*acts)
        assert (np.abs(acts[0]) <= 1.0).all()
    assert (policy.multipliers is not None) == (issubclass(row.Config, Constrained) or row is rows.COPTIDICE)
    world = exact_world("CmdpBox-v0", cmdp=boxed[0].to_json())
    np.testing.assert_allclose(policy_table(loaded, world).sum(-1), 1.0)


def test_faithful_settings_are_the_published_ones():
    lag = build(rows.BCQ_LAG.Config, dict(rows.BCQ_LAG.presets["faithful"]))
    assert (lag.total_steps, lag.gamma, lag.cost_gamma, lag.multiplier_after) == (10**6, 0.99, 0.99, 150_000)
    assert lag.actor.hidden == lag.critic.hidden == (256, 256, 256)
    assert (lag.constraint.init, lag.constraint.lr, lag.constraint.rule, lag.cost_limit) == (1.0, 1e-3, "adam", 25.0)
    assert (lag.update.phi, lag.update.candidates, lag.update.least_weight, lag.update.polyak) == (0.05, 10, 0.75, 5e-3)
    crr = build(rows.C_CRR.Config, {})
    assert (crr.update.beta, crr.update.actions, crr.update.batch) == (1.0, 10, 256)
    cop = build(rows.COPTIDICE.Config, {})
    assert (cop.update.alpha, cop.update.epsilon, cop.update.lr, cop.update.multiplier_lr) == (8e-4, 0.05, 3e-3, 0.035)
    assert build(rows.VAE_BC.Config, dict(rows.VAE_BC.presets["faithful"])).actor.hidden == (750, 750)


def test_other_data_are_refused_on_resume(garnet, tmp_path):
    cmdp, mu, _ = garnet
    path = tmp_path / "own.parquet"
    write_parquet(data_of(cmdp, mu, 20), path)
    config = build(rows.CRR.Config, {**settled(garnet), "dataset": str(path)})
    made(tmp_path, rows.CRR, config, "run")
    write_parquet(data_of(cmdp, mu, 20, seed=9), path)
    with (
        pytest.raises(ConfigError, match="is not the data set that this run began with"),
        Run.reopen(tmp_path / "run") as run,
    ):
        rows.CRR.train(config, run, {})


def test_settings_that_fit_nothing_are_refused_before_a_run_exists(garnet, tmp_path):
    for row, given, error, says in (
        (rows.CRR, {"dataset": ""}, ConfigError, "dataset is not set"),
        (rows.CRR, {"dataset": str(tmp_path / "none.npz")}, RunError, "there is no run or path"),
        (rows.BC_SAFE, {"cost_limit": 0.0, "env": "Cmdp-Foundry-v0", "env_options": {}}, ConfigError, "observations"),
        (rows.VAE_BC, {}, ConfigError, "not a choice"),
        (rows.C_CRR, {"cost_limit": [1.0, 2.0]}, ConfigError, "cost_limit has 2 values"),
        (rows.COPTIDICE, {"gamma": 0.9, "cost_gamma": 0.8}, ConfigError, "whose discount is gamma = 0.9. Leave cost_g"),
    ):
        with pytest.raises(error, match=says):
            row.check(build(row.Config, {**settled(garnet), **given}), tmp_path)


def test_the_one_discount_of_coptidice_is_written_down_as_it_is(garnet):
    config = build(rows.COPTIDICE.Config, {**settled(garnet), "gamma": 0.9})
    assert config.cost_gamma == 0.9
    assert build(rows.COPTIDICE.Config, config.model_dump()) == config  # as a resumed run reads it
    assert build(rows.C_CRR.Config, {**settled(garnet), "gamma": 0.9}).cost_gamma == 0.99


def test_data_of_another_world_are_told(boxed, tmp_path, capsys):
    made(tmp_path, rows.CRR, for_row(rows.CRR, boxed), "of-no-world")
    assert "the data are of" not in capsys.readouterr().err
    write_parquet(replace(read(Path(boxed[2])), world="Elsewhere-v0"), tmp_path / "d.parquet")
    made(tmp_path, rows.CRR, for_row(rows.CRR, boxed, dataset=str(tmp_path / "d.parquet")), "of-another")
    assert "the data are of Elsewhere-v0; what is learnt from them is for CmdpBox-v0" in capsys.readouterr().err


def test_a_limit_that_no_episode_keeps_is_refused_with_the_least_cost(tmp_path):
    cmdp = instance("Tolls")
    always = np.zeros((cmdp.horizon, cmdp.states, cmdp.actions))
    always[..., 1] = 1.0
    write_parquet(data_of(cmdp, always, 5), tmp_path / "d.parquet")
    least = evaluate(cmdp, always).cost[0]
    config = build(rows.BC_SAFE.Config, {"env": "Cmdp-Tolls-v0", "dataset": str(tmp_path / "d.parquet"), **SMALL,
                                         "cost_limit": 0.5 * least})  # fmt: skip
    with pytest.raises(ConfigError, match=f"the least costs are {least:g}"):
        rows.BC_SAFE.check(config, tmp_path)


def test_what_does_not_compose_is_refused_where_the_row_is_made():
    for update, config in (
        (Coptidice(), Offline),
        (Coptidice(), Constrained),
        (Bcq(), Limited),
        (Cloning(), Constrained),
    ):
        with pytest.raises(ConfigError, match="has an update that goes by"):
            OfflineRecipe("row", config, update=update)


def test_the_multiplier_waits_for_the_critics_and_then_moves(boxed, tmp_path, capsys):
    moved = []
    for after, told in ((40, True), (39, False)):
        moved.append(made(tmp_path, rows.C_CRR, for_row(rows.C_CRR, boxed, multiplier_after=after), f"r{after}"))
        assert ("the multiplier stays where it begins" in capsys.readouterr().err) == told
    assert moved[0].multipliers.tolist() == [1.0]
    assert moved[1].multipliers.tolist() != [1.0]


def test_generated_actions_are_candidates_of_which_the_best_is_taken(torch_rng):
    net = QNetwork(hidden=(8,))
    observation, action = ObservationCodec.of(gym.spaces.Box(-1, 1, (3,))), ActionCodec.of(gym.spaces.Box(-1, 1, (2,)))
    network = Generated(Plan(observation, action, ("c",), net, net, False), Rules(2, 6, 0.05, 0.5, 0.3), torch_rng)
    network.multiplier.fill_(0.7)
    obs = torch.randn(5, 3, generator=torch_rng)
    with torch.no_grad():
        taken = network.best(obs, torch.Generator().manual_seed(4))
        drawn = network.draw(obs, 6, torch.Generator().manual_seed(4))
        q = torch.stack([network.critics(torch.cat([obs, drawn[:, m]], dim=1))[..., 0] for m in range(6)], dim=1)
    value = q[..., :2].amin(-1) - 0.7 * q[..., 2]
    torch.testing.assert_close(taken, drawn[torch.arange(5), value.argmax(1)])


def test_latents_that_are_drawn_keep_within_their_bound_and_recognised_ones_need_not(monkeypatch):
    learner, batch, largest = learner_of(Bcq()), batch_of(), []
    vae, decode = learner.network.vae, learner.network.vae.decode
    monkeypatch.setattr(vae, "decode", lambda obs, z: largest.append(float(z.abs().max())) or decode(obs, z))
    Bcq().learn(learner, batch, batch.obs, terms_of(), torch.Generator().manual_seed(0))
    reconstruction, candidates, perturbation = largest
    assert reconstruction > 0.5 == candidates == perturbation


def test_occupancies_of_the_cases_are_those_of_the_data(garnet):
    # The exact references stand on the behaviour; the data must be of it.
    cmdp, mu, path = garnet
    data = read(Path(path))
    counts = np.zeros((cmdp.horizon * cmdp.states, cmdp.actions))
    np.add.at(counts, (data.obs.argmax(1), data.action[:, 0].astype(int)), 1.0 / 4000)
    exact = occupancy(cmdp, mu).reshape(counts.shape)
    assert np.abs(counts - exact).max() < 4.5 * np.sqrt(0.25 / 4000)
