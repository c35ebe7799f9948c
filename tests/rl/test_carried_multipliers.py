"""Multipliers that a training was left with, as another training goes on with them."""

from __future__ import annotations

import pytest
import torch

from trueline.core.config import build
from trueline.core.run import Run
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.safety.recipes.first_order import ON_CRPO
from trueline.safety.recipes.ppo import PPO_LAG

BREAKS, LIMIT = torch.tensor([[2.0, 2.0]]), torch.tensor([1.0, 1.0])  # an episode above both limits


def carried(handler: Lagrangian, *multiplier: float) -> list[float]:
    """Where a training begins that goes on with them."""
    state = handler.start(len(multiplier), torch.tensor(multiplier, dtype=torch.float64))
    return state["multiplier"].tolist()


def test_a_multiplier_of_zero_is_left_by_every_rule():
    """λ·exp(lr·λ·g) = 0 at λ = 0: from there the limit would never act, however far it is broken."""
    for handler in (
        Lagrangian(rule="adam"),
        Lagrangian(rule="sgd"),
        Lagrangian(rule="log-sgd", lr=0.1, init=0.5, upper=5.0),
    ):
        state = handler.start(2, torch.tensor([0.0, 1.0], dtype=torch.float64))
        after = handler.update(state, BREAKS, LIMIT)
        assert (after["multiplier"] > state["multiplier"]).all(), handler.rule
        assert after["multiplier"][0] > 0.0, handler.rule


def test_ascent_in_the_logarithm_goes_on_no_lower_than_where_it_would_begin():
    handler = Lagrangian(rule="log-sgd", init=0.5, upper=5.0)
    assert carried(handler, 0.0, 0.1, 0.5, 0.7, 9.0) == [0.5, 0.5, 0.5, 0.7, 5.0]
    assert carried(handler) == []


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_the_other_rules_go_on_from_what_was_left(rule):
    assert carried(Lagrangian(rule=rule, init=0.5), 0.0, 0.1, 9.0) == [0.0, 0.1, 9.0]


def test_a_switch_is_no_multiplier_to_go_on_with(tmp_path):
    """1 for the cost that is pressed down at the moment: as a price it would press for ever, or never."""
    tiny = {"env": "Cmdp-Gamble-v0", "num_envs": 2, "steps_per_epoch": 20, "total_steps": 20, "cost_limit": 0.5}
    given = {**tiny, "actor": {"hidden": []}, "critic": {"hidden": []}}
    for row, left in ((ON_CRPO, None), (PPO_LAG, 1)):
        config = build(row.Config, given)
        with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=0) as run:
            policy = row.train(config, run, {})
        assert (None if policy.multipliers is None else len(policy.multipliers)) == left
