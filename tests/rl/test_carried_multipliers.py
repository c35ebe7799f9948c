"""Multipliers that a training was left with, as another training goes on with them."""

from __future__ import annotations

import pytest
import torch

from trueline.rl.handlers.lagrange import Lagrangian

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
