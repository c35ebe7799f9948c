"""The switch between reward and cost: where it stands, and what it keeps to on a bandit."""

from __future__ import annotations

import pytest
import torch
from test_ppo import LIMIT, STEPS, play

from trueline.core.config import build
from trueline.rl.handlers.constraint import mix
from trueline.rl.handlers.switching import Switching
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.ppo import Ppo
from trueline.safety.recipes.first_order import ON_CRPO


def weights_at(handler: Switching, mean: list[float], limit: list[float]) -> list[float]:
    """(w_reward, w_cost…) after two episodes of that mean cost."""
    cost = torch.tensor([[x + 1.0 for x in mean], [x - 1.0 for x in mean]])
    state = handler.update(handler.start(len(mean)), cost, torch.tensor(limit))
    weights = handler.weights(state)
    return [float(weights.reward), *weights.cost.tolist()]


@pytest.mark.parametrize(
    ("mean", "weights"),
    [
        ([20.0, 9.0], [1, 0, 0]),
        ([27.0, 5.0], [1, 0, 0]),  # J_C = d + distance is still allowed
        ([27.5, 5.0], [0, 1, 0]),
        ([27.5, 13.0], [0, 0, 1]),  # both are violated, the second by more
        ([28.0, 13.0], [0, 1, 0]),  # by as much: the first
        ([0.0, 12.5], [0, 0, 1]),
    ],
)
def test_it_stands_on_the_reward_or_on_the_most_violated_cost(mean: list[float], weights: list[float]) -> None:
    assert weights_at(Switching(), mean, [25.0, 10.0]) == weights


def test_its_distance_is_the_tolerance() -> None:
    assert weights_at(Switching(distance=0.0), [25.5], [25.0]) == [0, 1]
    assert weights_at(Switching(distance=0.5), [25.5], [25.0]) == [1, 0]


def test_it_goes_back_and_keeps_its_place_without_an_episode() -> None:
    handler, limit = Switching(), torch.tensor([25.0])
    start = handler.start(1, torch.tensor([0.7]))  # as of a multiplier learnt before, which means nothing to a switch
    assert start["multiplier"].tolist() == [0.0]
    over = handler.update(start, torch.tensor([[40.0]]), limit)
    assert handler.update(over, torch.zeros(0, 1), limit) is over
    assert over["multiplier"].tolist() == [1.0]
    under = handler.update(over, torch.tensor([[10.0]]), limit)
    assert under["multiplier"].tolist() == [0.0]
    assert over["multiplier"].dtype == torch.float64
    assert start["multiplier"].tolist() == [0.0]


def test_the_advantage_is_the_rewards_or_minus_the_costs() -> None:
    a_r, a_c = torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 3.0], [4.0, -1.0]])
    handler, limit = Switching(), torch.tensor([25.0, 25.0])

    def mixed(cost: list[float]) -> list[float]:
        state = handler.update(handler.start(2), torch.tensor([cost]), limit)
        return mix(a_r, a_c, handler.weights(state)).tolist()

    assert mixed([0.0, 0.0]) == [1.0, -2.0]
    assert mixed([0.0, 90.0]) == [-3.0, 1.0]


def test_it_keeps_to_the_limit_and_its_distance(torch_rng: torch.Generator) -> None:
    # Cost is pressed down above 0.3 + 0.1 and let up below, so that the policies' average is near 0.4; the reward's own
    # epochs tell arm 2 from arm 0, which cost the same.
    played = play(Ppo(**STEPS, lr=1e-3, critic_lr=1e-3), torch_rng, handler=Switching(distance=0.1))
    arms = played.settled()
    assert arms[1] == pytest.approx(LIMIT + 0.1, abs=0.04)
    assert arms[0] < 0.1
    assert 0.1 < played.multiplier[-50:].mean() < 0.9


def test_the_row_has_the_published_settings() -> None:
    config = build(ON_CRPO.Config, ON_CRPO.presets["faithful"])
    assert config.constraint == Switching(distance=2.0)
    assert config.update == Trpo(target_kl=0.01, cg_iters=15, cg_damping=0.1, passes=10, minibatch=128, critic_lr=1e-3)
    build(ON_CRPO.Config, ON_CRPO.presets["fast"])
