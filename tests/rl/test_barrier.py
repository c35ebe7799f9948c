"""The logarithmic barrier: its slope by hand and by differences, its bounds, and the optimum it has on a bandit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_ppo import LIMIT, STEPS, play

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.handlers.barrier import Barrier
from trueline.rl.updates.ppo import Ppo
from trueline.safety.recipes.first_order import IPO


def slope(handler: Barrier, episodes: list[list[float]], limit: list[float]) -> list[float]:
    limits = torch.tensor(limit, dtype=torch.float64)
    state = handler.update(handler.start(len(limit)), torch.tensor(episodes), limits)
    return state["multiplier"].tolist()


def test_it_is_the_slope_of_the_logarithm_at_the_mean_cost() -> None:
    # d/dJ of −κ·log(d − J), by central differences; J_C = 19 and 3 of two episodes each.
    kappa, limits, mean, h = 2.0, [25.0, 10.0], [19.0, 3.0], 1e-5
    differences = [
        -kappa * (math.log(d - j - h) - math.log(d - j + h)) / (2 * h) for d, j in zip(limits, mean, strict=True)
    ]
    found = slope(Barrier(kappa=kappa, penalty_max=9.0), [[18.0, 5.0], [20.0, 1.0]], limits)
    np.testing.assert_allclose(found, differences, rtol=1e-8)
    np.testing.assert_allclose(found, [2.0 / 6.0, 2.0 / 7.0])


@pytest.mark.parametrize(
    ("cost", "weight"),
    [(15.0, 0.01 / 10), (24.98, 0.5), (24.99, 1.0), (24.995, 1.0), (25.0, 1.0), (25.1, 1.0), (400.0, 1.0)],
)
def test_at_the_limit_and_beyond_it_is_the_largest_penalty(cost: float, weight: float) -> None:
    assert slope(Barrier(), [[cost]], [25.0]) == pytest.approx([weight], rel=1e-4)


def test_each_cost_has_a_slope_of_its_own_and_the_mix_is_normalised() -> None:
    handler = Barrier(kappa=1.0, penalty_max=3.0)
    state = handler.update(handler.start(3), torch.tensor([[23.0, 9.0, 4.0]]), torch.tensor([25.0, 8.0, 8.0]))
    assert state["multiplier"].tolist() == [0.5, 3.0, 0.25]
    weights = handler.weights(state)
    np.testing.assert_allclose(weights.reward, 1 / 4.75)
    np.testing.assert_allclose(weights.cost, [0.5 / 4.75, 3 / 4.75, 0.25 / 4.75])


def test_without_an_episode_nothing_changes() -> None:
    handler, limit = Barrier(kappa=1.0), torch.tensor([25.0, 30.0])
    start = handler.start(2)
    assert start["multiplier"].tolist() == [0.0, 0.0]
    assert handler.weights(start).reward == 1.0
    state = handler.update(start, torch.tensor([[20.0, 10.0]]), limit)
    assert handler.update(state, torch.zeros(0, 2), limit) is state
    assert state["multiplier"].dtype == torch.float64
    assert start["multiplier"].tolist() == [0.0, 0.0]


def test_a_warm_start_goes_on_from_its_weights_within_the_bound() -> None:
    assert Barrier().start(2, torch.tensor([0.3, 7.0])).popitem()[1].tolist() == pytest.approx([0.3, 1.0])


@pytest.mark.parametrize("field", ["kappa", "penalty_max"])
def test_a_bound_or_slope_of_zero_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        build(Barrier, {field: 0.0})


def test_it_stays_inside_the_limit_by_kappa_over_the_multiplier(torch_rng: torch.Generator) -> None:
    # Between arm 1 (pays 1, costs 1) and arm 2 (pays 0.8), max 0.8 + 0.2p + κ·log(0.3 − p) has 0.2 = κ/(0.3 − p), so
    # that κ = 0.02 plays arm 1 with p = 0.2 and not the constrained optimum's 0.3. λ stays in reward per cost.
    played = play(
        Ppo(**STEPS, lr=1e-3, critic_lr=1e-3),
        torch_rng,
        handler=Barrier(kappa=0.02, penalty_max=0.6),
        standardise="mix",
    )
    assert played.settled() == pytest.approx([0.0, LIMIT - 0.02 / 0.2, 0.8], abs=0.04)


def test_the_row_has_the_published_settings() -> None:
    config = build(IPO.Config, IPO.presets["faithful"])
    assert config.update == Ppo(clip=0.2, passes=10, minibatch=64, lr=3e-4, target_kl=0.02)
    assert config.constraint == Barrier(kappa=0.01, penalty_max=1.0)
    build(IPO.Config, IPO.presets["fast"])
