"""P3O: the penalty by hand, its gradient through an update, and what κ the penalty is exact for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_ppo import COSTS, LIMIT, ROWS, STEPS, actor_critic, play, some_batch

from trueline.core.config import build
from trueline.rl.updates.p3o import P3o, exact_penalty
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.surrogate import clipped_surrogate
from trueline.safety.recipes.first_order import P3O


def test_the_penalty_by_hand() -> None:
    # mean (ρ − 1)A_c is (0.2·1 − 0.1·3)/2 = −0.05 and (0.2·2 + 0.1·4)/2 = 0.4: with slack 0.15 and −0.3 that is 0.1 of
    # either cost; with slack 0.02 and −0.5 none is left over.
    ratio = torch.tensor([1.2, 0.9], requires_grad=True)
    advantage_c = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    penalty = exact_penalty(ratio, advantage_c, torch.tensor([0.15, -0.3]), kappa=20.0, clip=0.3)
    assert float(penalty.detach()) == pytest.approx(20.0 * (0.1 + 0.1))
    penalty.backward()
    # κ·Σₖ A_cₖ/2: it goes up with what costs more, and is to be minimised.
    torch.testing.assert_close(ratio.grad, torch.tensor([20.0 * 3.0 / 2, 20.0 * -1.0 / 2]))
    ratio.grad = None
    satisfied = exact_penalty(ratio, advantage_c, torch.tensor([0.02, -0.5]), kappa=20.0, clip=0.3)
    satisfied.backward()
    assert (float(satisfied.detach()), ratio.grad.tolist()) == (0.0, [0.0, 0.0])


def test_a_violated_limit_drives_no_ratio_beyond_the_clip() -> None:
    # Beyond 1 ± ε a row counts by the worse of ρA_c and clip(ρ)A_c: what has become cheaper stops to count, what has
    # become dearer never does.
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage_c = torch.tensor([[-1.0], [1.0], [1.0], [-1.0], [-1.0]])
    penalty = exact_penalty(ratio, advantage_c, torch.tensor([5.0]), kappa=10.0, clip=0.2)
    assert float(penalty.detach()) == pytest.approx(10.0 * (5.0 + (-0.2 + 0.5 - 0.2 + 0.5 - 0.1) / 5))
    penalty.backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([0.0, 2.0, 0.0, -2.0, -2.0]))


def test_without_an_estimate_there_is_no_penalty() -> None:
    ratio = torch.tensor([1.2, 0.9], requires_grad=True)
    penalty = exact_penalty(ratio, torch.ones(2, 2), torch.full((2,), torch.nan), kappa=20.0, clip=0.3)
    penalty.backward()
    assert (float(penalty.detach()), ratio.grad.tolist()) == (0.0, [0.0, 0.0])


def test_over_a_batch_it_is_the_published_penalty_and_over_a_minibatch_only_change_counts() -> None:
    rng = torch.Generator().manual_seed(0)
    ratio = 1.0 + 0.1 * torch.randn(ROWS, generator=rng)
    advantage_c = torch.randn(ROWS, 2, generator=rng)
    advantage_c -= advantage_c.mean(0)
    slack = torch.tensor([0.01, -0.002])
    published = 3.0 * torch.relu((ratio[:, None] * advantage_c).mean(0) + slack).sum()
    torch.testing.assert_close(exact_penalty(ratio, advantage_c, slack, 3.0, 0.9), published)
    # A policy that has not moved has the slack it was measured to have, whichever rows a minibatch draws.
    for rows in torch.randperm(ROWS, generator=rng).split(8):
        unmoved = exact_penalty(torch.ones(len(rows)), advantage_c[rows], slack, 3.0, 0.2)
        assert float(unmoved) == pytest.approx(3.0 * 0.01)
        assert float(3.0 * torch.relu(advantage_c[rows].mean(0) + slack).sum()) != pytest.approx(0.03, rel=0.1)


def slack_batch(network: Any, slack: list[float]) -> Rows[SlackAdvantage]:
    batch = some_batch(network)
    cost = torch.randn(ROWS, COSTS, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    taken = SlackAdvantage(batch.advantage, cost - cost.mean(0), torch.tensor(slack, dtype=torch.float64))
    return Rows(batch.inputs, batch.draw, batch.log_prob, batch.policy, taken, batch.target)


@pytest.mark.parametrize("slack", [[5.0, -5.0], [-5.0, 5.0], [5.0, 5.0], [-5.0, -5.0]])
def test_an_update_descends_the_costs_that_are_violated_and_no_other(slack: list[float]) -> None:
    network = actor_critic()
    batch = slack_batch(network, slack)
    policy = network.policy(network.encoder(batch.inputs))
    log_prob = policy.log_prob(batch.draw)
    reward, cost, _ = batch.advantage
    loss = -clipped_surrogate(log_prob, batch.log_prob, reward, 0.2).mean()
    ratio = (log_prob - batch.log_prob).exp()
    for k, violated in enumerate(slack):
        if violated > 0:
            loss = loss + 0.3 * torch.maximum(ratio * cost[:, k], ratio.clamp(0.8, 1.2) * cost[:, k]).mean()
    loss.backward()
    expected = [p.grad.clone() for p in network.actor_parameters()]
    config = P3o(kappa=0.3, passes=1, minibatch=ROWS)
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    for p, gradient in zip(network.actor_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize(("kappa", "best"), [(1.2, [0.0, LIMIT, 1.0 - LIMIT]), (0.2, [0.0, 1.0, 0.0])])
def test_the_penalty_is_exact_from_the_multiplier_on(
    kappa: float, best: list[float], torch_rng: torch.Generator
) -> None:
    # λ* = 0.2 of reward per cost is 0.39 deviations of the reward's advantage at the optimum (test_ppo.py), and 0.4 of
    # its noise alone, with which arm 1 is always played: κ = 1.2 is above both, κ = 0.2 below.
    played = play(P3o(**STEPS, lr=2e-3, critic_lr=2e-3, kappa=kappa), torch_rng, 120)
    assert played.settled() == pytest.approx(best, abs=0.06)


def test_the_row_has_the_published_settings() -> None:
    config = build(P3O.Config, P3O.presets["faithful"])
    assert config.update == P3o(kappa=20.0, clip=0.2, passes=10, minibatch=64, lr=3e-4, target_kl=0.02)
    assert build(P3O.Config, P3O.presets["fast"]).update.kappa == 5.0
