"""CUP: what a step's advantage counts for, the projection in closed form, and what each of its two steps moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_ppo import COSTS, OLD, ROWS, STEPS, actor_critic, every_arm, one_state, play, probabilities, some_batch

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.handlers.constraint import Weights, normalised, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.updates.cup import Cup, multipliers, of_policy, projection_loss, steps_weighed
from trueline.rl.updates.ppo import Ppo
from trueline.rl.updates.rows import Rows, WeightedAdvantage
from trueline.safety.recipes.first_order import CUP

# --- how much a step's advantage counts ---


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (0.9, 1.0)])
def test_in_an_endless_task_advantages_count_as_published(gamma: float, lam: float, rng: np.random.Generator) -> None:
    # J' − J = start·(1 − γP')⁻¹δ for any two policies, δ the old values' temporal differences under the new policy, and
    # A = (1 − γλP')⁻¹δ is what GAE estimates: so the weights of A sum to the factor, from every state.
    after, before = rng.dirichlet(np.ones(5), size=(2, 5))
    cost_after, cost_before = rng.normal(size=(2, 5))
    identity = np.eye(5)
    value = np.linalg.solve(identity - gamma * before, cost_before)
    advantage = np.linalg.solve(identity - gamma * lam * after, cost_after + gamma * after @ value - value)
    counted = np.linalg.solve(identity - gamma * after, identity - gamma * lam * after)
    change = np.linalg.solve(identity - gamma * after, cost_after) - value
    np.testing.assert_allclose(counted @ advantage, change, atol=1e-9)
    np.testing.assert_allclose(counted.sum(1), steps_weighed(gamma, lam, None))
    assert steps_weighed(gamma, lam, None) == pytest.approx((1 - gamma * lam) / (1 - gamma))


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_in_an_episode_of_t_steps_they_count_from_its_first_step(gamma: float, lam: float, horizon: int) -> None:
    follows = np.eye(horizon, k=1)  # step t is followed by t + 1, the last one by nothing
    counted = np.linalg.solve(np.eye(horizon) - gamma * follows, np.eye(horizon) - gamma * lam * follows)
    assert steps_weighed(gamma, lam, horizon) == pytest.approx(counted[0].sum())


def test_long_episodes_are_endless_and_no_discount_counts_steps() -> None:
    assert steps_weighed(0.99, 0.95, 5000) == pytest.approx(steps_weighed(0.99, 0.95, None))
    assert steps_weighed(1.0, 0.95, 1000) == pytest.approx(1 + 0.05 * 999)
    assert steps_weighed(1.0, 0.0, 1000) == 1000
    assert steps_weighed(1.0 - 1e-9, 0.95, 1000) == pytest.approx(steps_weighed(1.0, 0.95, 1000), rel=1e-5)
    with pytest.raises(ConfigError, match=r"cost_gamma is 1.*Give update.horizon"):
        steps_weighed(1.0, 0.95, None)


# --- the projection ---

COST = torch.tensor([[1.0, 0.2], [-0.6, 0.9], [-0.1, -0.5]], dtype=torch.float64)  # A_c of three arms, two costs
NU, FACTOR = torch.tensor([0.7, 0.3], dtype=torch.float64), 2.5


def projected(improved: torch.Tensor, advantage_c: torch.Tensor, nu: torch.Tensor, steps: float) -> torch.Tensor:
    """argmin over π of steps·E_π[Σ νA_c] + KL(π‖π₁), written out: π ∝ π₁·exp(−steps·Σ νA_c)."""
    weight = improved * (-steps * (advantage_c * nu).sum(-1)).exp()
    return weight / weight.sum()


def test_the_projection_is_least_at_its_closed_form() -> None:
    improved = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)

    def expected_loss(logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(0)
        kl = (log_p.exp() * (log_p - improved.log())).sum().expand(3)
        return (OLD * projection_loss((log_p - OLD.log()).exp(), COST, kl, NU, FACTOR)).sum()

    best = projected(improved, COST, NU, FACTOR).log().requires_grad_()
    least = expected_loss(best)
    (gradient,) = torch.autograd.grad(least, best)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        elsewhere = best.detach() + 0.3 * torch.randn(3, generator=rng, dtype=torch.float64)
        assert expected_loss(elsewhere) > least


def test_the_projection_by_hand_on_free_leading_dimensions() -> None:
    ratio, kl = torch.tensor([[1.2, 0.9]]), torch.tensor([[0.05, 0.3]])
    advantage_c = torch.tensor([[[1.0, 2.0], [3.0, -4.0]]])
    # 2·1.2·(0.5·1 + 0.25·2) + 0.05 and 2·0.9·(0.5·3 − 0.25·4) + 0.3
    loss = projection_loss(ratio, advantage_c, kl, torch.tensor([0.5, 0.25]), steps=2.0)
    torch.testing.assert_close(loss, torch.tensor([[2.45, 1.2]]))


def test_multipliers_are_those_that_the_handler_set() -> None:
    nu = torch.tensor([0.4, 1.7], dtype=torch.float64)
    torch.testing.assert_close(multipliers(normalised(nu)), nu)
    assert multipliers(unconstrained(2)).tolist() == [0.0, 0.0]
    with pytest.raises(ConfigError, match="improves the reward in every update"):
        multipliers(Weights(torch.tensor(0.0), torch.tensor([1.0])))


# --- the update ---


def test_both_steps_land_where_they_should_on_one_batch() -> None:
    settings = {"passes": 250, "minibatch": 10, "lr": 0.02, "target_kl": None}
    reward = torch.tensor([0.3, 1.0, -0.5], dtype=torch.float64)

    def run(config: Any, advantage: Any) -> torch.Tensor:
        network = one_state()
        batch = every_arm(network, advantage)
        config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
        return probabilities(network)

    def taken(arm: torch.Tensor) -> WeightedAdvantage:
        return WeightedAdvantage(reward[arm], COST[arm], normalised(NU), cost_gamma=1.0, cost_lam=0.5)

    improved = run(Ppo(**settings), lambda arm: reward[arm])
    both = run(Cup(**settings, horizon=4), taken)
    # At γ = 1, λ = ½ and four steps, 1 + ½·3 of a step's advantage count.
    torch.testing.assert_close(both, projected(improved, COST, NU, 2.5), atol=1e-4, rtol=0)
    assert improved[1] > OLD[1] + 0.05


def weighted_batch(network: Any, nu: list[float]) -> Rows[WeightedAdvantage]:
    batch = some_batch(network)
    cost = torch.randn(ROWS, COSTS, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    weights = normalised(torch.tensor(nu, dtype=torch.float64))
    taken = WeightedAdvantage(batch.advantage, cost, weights, cost_gamma=0.9, cost_lam=0.8)
    return Rows(batch.inputs, batch.draw, batch.log_prob, batch.policy, taken, batch.target)


def test_the_first_step_is_ppo_on_the_reward_and_the_second_leaves_critics_alone() -> None:
    settings = {"passes": 3, "minibatch": 16, "lr": 1e-3, "target_kl": None}
    ours, plain = actor_critic(), actor_critic()
    cup, ppo = Cup(**settings), Ppo(**settings)
    adam_cup, adam_ppo = cup.optimiser(ours), ppo.optimiser(plain)
    report = cup.learn(ours, adam_cup, weighted_batch(ours, [0.5, 2.0]), 0.0, torch.Generator().manual_seed(0))
    expected = ppo.learn(plain, adam_ppo, some_batch(plain), 0.0, torch.Generator().manual_seed(0))
    for mine, theirs in zip(ours.critics.parameters(), plain.critics.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for name in ("first", "second"):
        mine, theirs = getattr(adam_cup, name), getattr(adam_ppo, name)
        assert torch.equal(mine[1], theirs[1])
        assert not torch.equal(mine[0], theirs[0])
    assert not any(torch.equal(p, q) for p, q in zip(ours.actor_parameters(), plain.actor_parameters(), strict=True))
    assert (report.kl, report.passes, report.policy_loss, report.value_loss) == (
        expected.kl,
        expected.passes,
        expected.policy_loss,
        expected.value_loss,
    )
    assert report.projection_passes == 3
    # KL of the second step is counted from the policy that the first one left.
    inputs = weighted_batch(plain, [0.0, 0.0]).inputs
    with torch.no_grad():
        moved = plain.policy(plain.encoder(inputs)).kl(ours.policy(ours.encoder(inputs))).mean()
    assert report.projection_kl == pytest.approx(float(moved))


def test_the_second_steps_gradient_is_that_of_the_weighed_costs() -> None:
    # At its first minibatch KL(π‖π₁) has no gradient yet, so what is left is steps·Σ νₖA_cₖ·∇ρ at π₁.
    settings = {"passes": 1, "minibatch": ROWS, "lr": 1e-3, "grad_norm": 1e9}
    network, improved = actor_critic(), actor_critic()
    ppo, cup = Ppo(**settings), Cup(**settings)
    ppo.learn(improved, ppo.optimiser(improved), some_batch(improved), 0.0, torch.Generator().manual_seed(0))
    batch = weighted_batch(network, [0.5, 2.0])
    improved.zero_grad()
    ratio = (improved.policy(improved.encoder(batch.inputs)).log_prob(batch.draw) - batch.log_prob).exp()
    cost = batch.advantage.cost[:, 0] * 0.5 + batch.advantage.cost[:, 1] * 2.0
    ((1 - 0.9 * 0.8) / (1 - 0.9) * ratio * cost).mean().backward()
    cup.learn(network, cup.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    for p, q in zip(network.actor_parameters(), improved.actor_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-9)


def test_each_step_stops_by_a_kl_of_its_own() -> None:
    def report(**settings: Any) -> Any:
        config, network = Cup(**{"passes": 12, "minibatch": 16, "lr": 3e-3, **settings}), actor_critic()
        rng = torch.Generator().manual_seed(0)
        return config.learn(network, config.optimiser(network), weighted_batch(network, [0.5, 2.0]), 0.0, rng)

    free = report(target_kl=None)
    assert (free.passes, free.projection_passes) == (12, 12)
    stopped = report(target_kl=free.kl / 4)
    assert 1 <= stopped.passes < 12
    assert 1 <= stopped.projection_passes < 12
    assert min(stopped.kl, stopped.projection_kl) > free.kl / 4


def test_the_policys_part_of_an_optimiser_shares_its_numbers() -> None:
    network = actor_critic()
    adam = Cup().optimiser(network)
    part = of_policy(adam)
    adam.grads[0].fill_(1.0)
    adam.grads[1].fill_(1.0)
    critics = adam.values[1].clone()
    policy = adam.values[0].clone()
    part.step(1e9)
    assert torch.equal(adam.values[1], critics)
    assert not torch.equal(adam.values[0], policy)
    assert adam.first[0].abs().min() > 0
    assert adam.first[1].abs().max() == 0
    assert network.log_std is not None
    assert torch.equal(adam.values[0][0, -len(network.log_std) :], network.log_std)
    part.zero_grad()
    assert (float(adam.grads[0].abs().max()), float(adam.grads[1].min())) == (0.0, 1.0)


def test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit(torch_rng: torch.Generator) -> None:
    handler = PidLagrangian(kp=2.0, ki=0.05, kd=0.0, smoothing=0.0)
    config = Cup(**{**STEPS, "passes": 3}, lr=1e-3, critic_lr=1e-3, horizon=1)
    played = play(config, torch_rng, handler=handler)
    assert played.settled() == pytest.approx([0.0, 0.3, 0.7], abs=0.06)  # as in test_ppo.py


def test_the_row_has_the_published_settings() -> None:
    config = build(CUP.Config, CUP.presets["faithful"])
    assert config.update == Cup(clip=0.2, passes=40, minibatch=64, lr=3e-4, target_kl=0.01)
    assert config.constraint == Lagrangian(rule="adam", lr=0.035, init=0.001, upper=2.0)
    other = build(CUP.Config, CUP.presets["safepo"])
    assert (other.update.target_kl, other.constraint.upper, other.window) == (0.02, 0.2, 50)
    build(CUP.Config, CUP.presets["fast"])


def test_the_row_asks_for_the_steps_of_an_episode_where_costs_are_not_discounted() -> None:
    with pytest.raises(ConfigError, match=r"cost_gamma is 1.*Give update.horizon"):
        build(CUP.Config, {"cost_gamma": 1.0})
    assert build(CUP.Config, {"cost_gamma": 1.0, "update": {"horizon": 8}}).update.horizon == 8
