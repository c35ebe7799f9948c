"""CPO and PCPO as updates: the exact step of a small network, the slack, the search, and a bandit with a limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_fisher import hessian, slopes
from test_natural import QUICK, fresh_batch, learn, theta
from test_ppo import COSTS, LIMIT, OLD, ROWS, actor_critic, every_arm, one_state, play, probabilities

from trueline.core.errors import ConfigError
from trueline.rl.networks import ActorCritic
from trueline.rl.on_policy import Constrained, OnPolicy, OnPolicyRecipe
from trueline.rl.updates.cpo import Cpo, Pcpo, kept
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.trust_region import Case, constrained_step

UPDATES = [Cpo(), Pcpo(), Pcpo(projection="l2")]


def slack_batch(network: ActorCritic, slack: list[float]) -> Rows[SlackAdvantage]:
    batch = fresh_batch(network)
    cost = torch.randn(ROWS, COSTS, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    cost += 0.7 * batch.advantage[:, None]  # what pays costs
    taken = SlackAdvantage(batch.advantage, cost - cost.mean(0), torch.tensor(slack, dtype=torch.float64))
    return Rows(batch.inputs, batch.draw, batch.log_prob, batch.policy, taken, batch.target)


class Exact:
    """g, B and H of a batch by brute force."""

    def __init__(self, network: ActorCritic, batch: Rows[SlackAdvantage]) -> None:
        log_prob = network.policy(network.encoder(batch.inputs)).log_prob(batch.draw)
        columns = [batch.advantage.reward, *batch.advantage.cost.unbind(1)]
        v = torch.stack([slopes((log_prob * a).mean(), network.actor_parameters()) for a in columns]).numpy()
        h = hessian(network, batch.inputs).numpy()
        self.h = h + 0.1 * np.eye(len(h))
        self.g, self.b, self.v = v[0], v[1:], v
        self.gram = v @ np.linalg.solve(self.h, v.T)


# Reaches of the two costs at δ = 0.01 are about 0.11 per step.
SLACKS = {
    Case.INSIDE: [-5.0, -5.0],
    Case.CUT: [-0.003, -0.01],
    Case.VIOLATED: [0.03, -0.02],
    Case.INFEASIBLE: [0.5, 0.2],
}


@pytest.mark.parametrize("case", SLACKS)
def test_cpo_takes_the_exact_step(case: Case) -> None:
    network = actor_critic()
    batch, start = slack_batch(network, SLACKS[case]), theta(network)
    exact = Exact(network, batch)
    step = constrained_step(exact.gram, np.array(SLACKS[case]), 0.01)
    assert step.case is case
    x = np.linalg.solve(exact.h, exact.v.T @ step.coefficients)
    report = learn(Cpo(cg_iters=200), network, batch)
    assert report.case == case
    assert report.fraction > 0.0
    np.testing.assert_allclose(theta(network) - start, report.fraction * x, rtol=1e-4, atol=1e-6)
    assert (report.lam, report.nu) == pytest.approx((step.lam, step.nu.sum()), rel=1e-5)
    assert report.kl <= 0.01


@pytest.mark.parametrize("case", [Case.INSIDE, Case.CUT, Case.VIOLATED])
@pytest.mark.parametrize("metric", ["kl", "l2"])
def test_pcpo_takes_the_published_step(case: Case, metric: str) -> None:
    """For one cost, whose equations are in the paper: √(2δ/q)·H⁻¹g − max(0, (√(2δ/q)·gᵀH⁻¹b + c)/bᵀL⁻¹b)·L⁻¹b."""
    network = actor_critic()
    both, start = slack_batch(network, SLACKS[case]), theta(network)
    taken = SlackAdvantage(both.advantage.reward, both.advantage.cost[:, :1], both.advantage.slack[:1])
    batch = Rows(both.inputs, both.draw, both.log_prob, both.policy, taken, both.target)
    exact = Exact(network, batch)
    (g, b), c = exact.v, float(taken.slack)
    natural_g = np.linalg.solve(exact.h, g)
    inverse_b = np.linalg.solve(exact.h, b) if metric == "kl" else b
    ahead = np.sqrt(2.0 * 0.01 / (g @ natural_g))
    x = ahead * natural_g - max(0.0, (ahead * b @ natural_g + c) / (b @ inverse_b)) * inverse_b
    assert (case is Case.INSIDE) == (ahead * b @ natural_g + c < 0.0)
    report = learn(Pcpo(cg_iters=200, projection=metric), network, batch)
    assert report.fraction > 0.0
    np.testing.assert_allclose(theta(network) - start, report.fraction * x, rtol=1e-4, atol=1e-6)
    assert report.case == case


@pytest.mark.parametrize("update", UPDATES)
def test_a_small_violation_is_gone_after_one_step(update: Any) -> None:
    # On one state, in the linear range: the cost's surrogate changes by −c, and the limit binds.
    network = one_state()
    price = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)  # of the arms; the second pays least
    pay = torch.tensor([1.0, -1.0, 0.3], dtype=torch.float64)
    slack = torch.tensor([1e-4], dtype=torch.float64)
    batch = every_arm(
        network, lambda arm: SlackAdvantage(pay[arm] - OLD @ pay, (price[arm] - OLD @ price)[:, None], slack)
    )
    report = learn(update.model_copy(update={"target_kl": 1e-6, "cg_damping": 1e-6}), network, batch)
    assert report.case == Case.VIOLATED
    assert report.fraction == 1.0
    assert float(price @ (probabilities(network) - OLD)) == pytest.approx(-1e-4, rel=0.02)
    assert report.cost_rise == pytest.approx(-1e-4, rel=0.02)


@pytest.mark.parametrize("update", UPDATES)
def test_before_the_first_episode_has_ended_the_step_is_trpos(update: Any) -> None:
    ours, theirs = actor_critic(), actor_critic()
    report = learn(update, ours, slack_batch(ours, [np.nan, np.nan]))
    other = learn(Trpo(search_tries=update.search_tries), theirs, fresh_batch(theirs))
    assert report.case == Case.UNMEASURED
    assert (report.fraction, report.kl, report.gain) == pytest.approx((other.fraction, other.kl, other.gain))
    torch.testing.assert_close(theta(ours), theta(theirs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("update", UPDATES)
def test_kept_limits_far_away_change_nothing(update: Any) -> None:
    ours, theirs = actor_critic(), actor_critic()
    learn(update, ours, slack_batch(ours, [-9.0, -9.0]))
    learn(Trpo(), theirs, fresh_batch(theirs))
    torch.testing.assert_close(theta(ours), theta(theirs), rtol=1e-4, atol=1e-6)


def test_the_originals_unit_of_the_slack_gives_up_the_reward() -> None:
    """Row 7: 5 above a limit in episodes of 1,000 steps is 0.005 per step, which one step mends while it climbs. Taken
    as 5 it is out of reach, and the step only lowers the cost."""
    reports = []
    for slack in ([0.005, -1.0], [5.0, -1000.0]):
        network = actor_critic()
        reports.append(learn(Cpo(), network, slack_batch(network, slack)))
    per_step, per_episode = reports
    assert (per_step.case, per_episode.case) == (Case.VIOLATED, Case.INFEASIBLE)
    assert per_step.gain > 0.03
    assert per_episode.gain < 0.0


def test_costs_may_rise_to_their_limits_and_violated_ones_not_at_all() -> None:
    slack = np.array([-0.1, 0.2])
    assert kept(np.array([0.1, 0.0]), slack, Case.VIOLATED)
    assert not kept(np.array([0.11, 0.0]), slack, Case.VIOLATED)
    assert not kept(np.array([-1.0, 0.01]), slack, Case.VIOLATED)
    # Out of reach, what counts is the sum of what is over: 0.2 before, 0.05 + 0.1 and 0.05 + 0.2 after.
    assert kept(np.array([0.15, -0.1]), slack, Case.INFEASIBLE)
    assert not kept(np.array([0.15, 0.0]), slack, Case.INFEASIBLE)
    assert kept(np.array([9.0]), np.array([-np.inf]), Case.UNMEASURED)


@pytest.mark.parametrize("update", UPDATES)
def test_no_accepted_step_leaves_the_region_or_its_limits(update: Any) -> None:
    for first in np.linspace(-0.2, 0.2, 9):
        network = actor_critic()
        report = learn(update, network, slack_batch(network, [float(first), -0.03]))
        assert report.kl <= 0.01
        assert report.cost_rise <= max(-first, 0.03, 0.0)
        if first <= 0.0:
            assert report.gain >= 0.0


@pytest.mark.parametrize("update", UPDATES)
def test_a_promised_rise_has_to_come_true(update: Any) -> None:
    # As test_natural.py's FAR: at δ = 10 the full step is within the region and lowers the reward's surrogate.
    network = actor_critic()
    far = update.model_copy(update={"target_kl": 10.0, "cg_damping": 0.01})
    report = learn(far, network, slack_batch(network, [-1e3, -1e3]))
    assert report.fraction == 0.8
    assert report.gain > 0.0
    # A violated limit is mended first: the same region's full step does, at a loss that was promised to be a gain.
    network = actor_critic()
    report = learn(far, network, slack_batch(network, [0.05, -1e3]))
    assert (report.case, report.fraction) == (Case.VIOLATED, 1.0)
    assert report.gain < 0.0


@pytest.mark.parametrize("config", [Constrained, OnPolicy])
def test_a_row_with_a_handler_or_without_a_limit_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="slack"):
        OnPolicyRecipe("wrong", config, update=Cpo())


@pytest.mark.parametrize("update", UPDATES)
def test_it_finds_the_best_mixture_under_the_limit(update: Any, torch_rng: torch.Generator) -> None:
    # Without a multiplier to swing: the limit holds from the first epochs on, and the last policies are the optimum.
    played = play(update.model_copy(update={"target_kl": 1e-3, **QUICK}), torch_rng, 120)
    assert played.settled() == pytest.approx([0.0, LIMIT, 1.0 - LIMIT], abs=0.06)
