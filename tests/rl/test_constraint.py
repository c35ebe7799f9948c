"""Constraint handlers against torch's Adam, closed forms and traces worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl.handlers.constraint import Handler, Weights, mix, normalised, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian


def run(handler: Handler, costs: Any, limit: Any) -> list[list[float]]:
    """Multipliers after each update; `costs` holds one list of episodes [E][K] for each update."""
    limit = torch.as_tensor(limit, dtype=torch.float64)
    state, trace = handler.start(len(limit)), []
    for episodes in costs:
        cost = torch.as_tensor(episodes, dtype=torch.float64).reshape(-1, len(limit))
        state = handler.update(state, cost, limit)
        trace.append(state["multiplier"].tolist())
    return trace


# --- dual ascent ---


def test_adam_is_torchs_adam_on_minus_lambda_times_excess(rng: np.random.Generator) -> None:
    costs = rng.uniform(0, 60, size=(80, 4, 2))
    limit = torch.tensor([25.0, 40.0], dtype=torch.float64)
    parameter = torch.full((2,), 0.001, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=0.035)
    expected = []
    for episodes in costs:
        adam.zero_grad()
        (-(parameter * (torch.as_tensor(episodes.mean(0)) - limit)).sum()).backward()
        adam.step()
        with torch.no_grad():
            parameter.clamp_(min=0.0)
        expected.append(parameter.tolist())
    np.testing.assert_allclose(run(Lagrangian(), costs, limit), expected, rtol=1e-12)
    assert min(np.ravel(expected)) == 0.0  # the projection was exercised
    assert max(np.ravel(expected)) > 0.1


def test_published_step_means_adam_and_not_plain_ascent() -> None:
    # A constant excess is the same step of 0.035 for Adam whatever its size: g/√g² = 1. Plain ascent moves by 0.035·g.
    # After 18 epochs at an excess of 39 that is 0.001 + 18·0.035 = 0.631 against 0.001 + 18·0.035·39 = 24.571:
    # a factor of about forty.
    costs = [[[64.0]]] * 18
    assert run(Lagrangian(), costs, [25.0])[-1][0] == pytest.approx(0.631, abs=1e-6)
    assert run(Lagrangian(rule="sgd"), costs, [25.0])[-1][0] == pytest.approx(24.571, abs=1e-9)


def test_plain_ascent_by_hand() -> None:
    # λ: 1 → 1 + 0.1·(30 − 25) = 1.5 → 1.5 + 0.1·(5 − 25) < 0 → 0 → 0 + 0.1·(26 − 25) = 0.1
    handler = Lagrangian(rule="sgd", lr=0.1, init=1.0)
    trace = run(handler, [[[20.0], [40.0]], [[5.0]], [[26.0]]], [25.0])
    np.testing.assert_allclose(np.ravel(trace), [1.5, 0.0, 0.1])


def test_ascent_in_the_logarithm_has_a_closed_form() -> None:
    # dλ/dt = λ²·g has the solution 1/λ₀ − g·t. Steps of lr = 10⁻⁵ follow it to first order.
    handler = Lagrangian(rule="log-sgd", lr=1e-5, init=0.5, upper=1e9)
    assert run(handler, [[[28.0]]] * 20_000, [25.0])[-1][0] == pytest.approx(1 / (1 / 0.5 - 3.0 * 0.2), rel=1e-4)
    # and one large step is exactly λ·exp(lr·λ·g)
    one = run(Lagrangian(rule="log-sgd", lr=0.1, init=2.0, upper=1e9), [[[30.0]], [[20.0]]], [25.0])
    assert one[0][0] == pytest.approx(2.0 * math.exp(0.1 * 2.0 * 5.0))
    assert one[1][0] == pytest.approx(one[0][0] * math.exp(-0.1 * one[0][0] * 5.0))


def test_ascent_in_the_logarithm_needs_a_positive_start() -> None:
    # λ = 0 is a fixed point of the rule: the constraint would never act.
    with pytest.raises(ConfigError, match="give an init above 0"):
        build(Lagrangian, {"rule": "log-sgd", "init": 0.0})
    assert Lagrangian(rule="sgd", init=0.0).init == 0.0


def test_ascent_in_the_logarithm_needs_a_bound_and_starts_within_it() -> None:
    # λ = 1, 33, 7e51, inf at an excess of 35: the step grows with λ.
    with pytest.raises(ConfigError, match="give an upper"):
        build(Lagrangian, {"rule": "log-sgd", "init": 1.0})
    assert Lagrangian(init=5.0, upper=2.0).start(1)["multiplier"].tolist() == [2.0]


@pytest.mark.parametrize("rule", ["adam", "sgd", "log-sgd"])
def test_costs_have_multipliers_of_their_own(rule: Any, rng: np.random.Generator) -> None:
    handler = Lagrangian(rule=rule, init=0.3, upper=50.0)
    costs = rng.uniform(0, 50, size=(20, 3, 2))
    together = np.array(run(handler, costs, [25.0, 30.0]))
    for k, limit in enumerate((25.0, 30.0)):
        np.testing.assert_allclose(together[:, k], np.ravel(run(handler, costs[:, :, k : k + 1], [limit])))


def test_the_upper_bound_holds() -> None:
    trace = run(Lagrangian(rule="sgd", lr=1.0, upper=5.0), [[[40.0]], [[23.0]]], [25.0])
    np.testing.assert_allclose(np.ravel(trace), [5.0, 3.0])


# --- PID ---


def test_pid_by_hand() -> None:
    # scale 1, limit 10, α = 0.5, delay 2, costs 14, 8, 20, 20.
    # Δ: 4, −2, 10, 10.         P: 2, 0, 5, 7.5         (from 0, as published)
    # I (k_i = 0.1): 0.4, 0.2, 1.2, 2.2
    # C̄: 14, 11, 15.5, 17.75;   rise over 2 updates: 0, 0 (too early), max(0, 15.5 − 14) = 1.5, 17.75 − 11 = 6.75
    # λ = 0.2·P + I + 0.3·rise: 0.8, 0.2, 1 + 1.2 + 0.45 = 2.65, 1.5 + 2.2 + 2.025 = 5.725
    handler = PidLagrangian(kp=0.2, ki=0.1, kd=0.3, smoothing=0.5, delay=2)
    trace = run(handler, [[[14.0]], [[8.0]], [[20.0]], [[25.0], [15.0]]], [10.0])
    np.testing.assert_allclose(np.ravel(trace), [0.8, 0.2, 2.65, 5.725])


def test_the_rise_is_from_the_first_cost_until_there_is_one_as_old_as_the_delay() -> None:
    handler = PidLagrangian(kp=0.0, ki=0.0, kd=1.0, smoothing=0.0, delay=3)
    trace = run(handler, [[[10.0]], [[20.0]], [], [[40.0]], [[80.0]], [[160.0]], [[320.0]]], [1000.0])
    np.testing.assert_allclose(np.ravel(trace), [0, 10, 10, 30, 70, 140, 280])


def test_pid_counts_an_excess_in_units_of_its_scale() -> None:
    costs = [[[14.0]], [[8.0]], [[20.0]]]
    plain = run(PidLagrangian(kp=0.2, ki=0.1, kd=0.3, smoothing=0.5, delay=1), costs, [10.0])
    scaled = run(PidLagrangian(kp=2.0, ki=1.0, kd=3.0, smoothing=0.5, delay=1, scale=10.0), costs, [10.0])
    np.testing.assert_allclose(plain, scaled)


def test_pid_integral_does_not_wind_below_zero_or_above_its_bound() -> None:
    only_i = {"kp": 0.0, "kd": 0.0, "ki": 1.0}
    low = run(PidLagrangian(**only_i), [[[0.0]]] * 5 + [[[11.0]]], [10.0])
    np.testing.assert_allclose(np.ravel(low), [0, 0, 0, 0, 0, 1])
    high = run(PidLagrangian(**only_i, integral_max=3.0), [[[12.0]]] * 5 + [[[9.0]]], [10.0])
    np.testing.assert_allclose(np.ravel(high), [2, 3, 3, 3, 3, 2])


def test_a_falling_cost_has_no_derivative() -> None:
    # I: 9, 13, 19, and the rise from 4 to 6; the fall from 9 to 4 takes nothing away.
    handler = PidLagrangian(kp=0.0, ki=1.0, kd=1.0, smoothing=0.0, delay=1)
    np.testing.assert_allclose(np.ravel(run(handler, [[[9.0]], [[4.0]], [[6.0]]], [0.0])), [9, 13, 21])


# --- what every handler owes ---

HANDLERS = [
    Lagrangian(),
    Lagrangian(rule="sgd"),
    Lagrangian(rule="log-sgd", init=0.5, upper=5.0),
    PidLagrangian(),
]


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda h: f"{h.kind}-{getattr(h, 'rule', '')}")
def test_no_finished_episode_leaves_the_state_unchanged(handler: Handler) -> None:
    limit = torch.tensor([25.0, 30.0])
    state = handler.update(handler.start(2), torch.tensor([[40.0, 20.0]]), limit)
    after = handler.update(state, torch.zeros(0, 2), limit)
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name].nan_to_num(-1), after[name].nan_to_num(-1)) for name in state)


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda h: f"{h.kind}-{getattr(h, 'rule', '')}")
def test_an_update_is_pure_and_its_state_is_float64_of_fixed_shape(handler: Handler) -> None:
    state = handler.start(2)
    before = {name: x.clone() for name, x in state.items()}
    cost, limit = torch.tensor([[40.0, 20.0], [50.0, 35.0]]), torch.tensor([25.0, 30.0])
    after = handler.update(state, cost, limit)
    again = handler.update(state, cost, limit)
    for name, x in before.items():
        assert torch.equal(state[name].nan_to_num(-1), x.nan_to_num(-1)), name
        assert torch.equal(after[name].nan_to_num(-1), again[name].nan_to_num(-1)), name
        assert after[name].dtype == torch.float64
        assert after[name].shape == x.shape


def trace_of(handler: Handler) -> list[list[float]]:
    # Costs that go up, down and up again: projections, bounds and rises are all met.
    costs = [[[c]] for c in (40.0, 60.0, 30.0, 5.0, 10.0, 80.0, 90.0, 20.0)]
    return run(handler, costs, [25.0])


CHANGED = {
    "rule": "sgd",
    "lr": 0.05,
    "init": 0.7,
    "upper": 0.04,
    "kp": 0.3,
    "ki": 0.05,
    "kd": 0.4,
    "smoothing": 0.5,
    "delay": 1,
    "scale": 4.0,
    "integral_max": 0.2,
}


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind in (Lagrangian, PidLagrangian) for field in kind.model_fields if field != "kind"],
)
def test_every_field_changes_the_multiplier(kind: Any, field: str) -> None:
    base = {} if kind is Lagrangian else {"ki": 0.01, "kd": 0.1, "delay": 2}
    assert trace_of(kind(**base)) != trace_of(kind(**{**base, field: CHANGED[field]})), f"{field} has no effect"


# --- weights and their mix ---


def test_weights_sum_to_one_and_keep_their_ratio() -> None:
    weights = normalised(torch.tensor([2.0, 0.5], dtype=torch.float64))
    assert float(weights.reward + weights.cost.sum()) == pytest.approx(1.0)
    np.testing.assert_allclose((weights.cost / weights.reward).numpy(), [2.0, 0.5])
    free = unconstrained(2)
    assert (float(free.reward), free.cost.tolist()) == (1.0, [0.0, 0.0])


@pytest.mark.parametrize("lead", [(6,), (4, 3), (2, 5, 3)])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_mix_is_the_weighted_difference_on_any_leading_dimensions(lead: tuple[int, ...], k: int) -> None:
    rng = torch.Generator().manual_seed(k)
    advantage_r = torch.randn(lead, generator=rng)
    advantage_c = torch.randn(*lead, k, generator=rng)
    lam = torch.rand(k, generator=rng, dtype=torch.float64)
    mixed = mix(advantage_r, advantage_c, normalised(lam))
    assert mixed.shape == lead
    assert mixed.dtype == advantage_r.dtype
    for index in np.ndindex(*lead):
        by_hand = (float(advantage_r[index]) - sum(float(lam[j] * advantage_c[index][j]) for j in range(k))) / float(
            1 + lam.sum()
        )
        assert float(mixed[index]) == pytest.approx(by_hand, abs=1e-6)


def test_mix_without_a_handler_is_the_reward_alone() -> None:
    advantage = torch.arange(6.0).view(2, 3)
    torch.testing.assert_close(mix(advantage, torch.ones(2, 3, 2), unconstrained(2)), advantage, rtol=0, atol=0)


def test_a_shared_extra_signal_passes_through_the_mix() -> None:
    # (A_{r−βk} − λA_{c+βk})/(1+λ) = (A_r − λA_c)/(1+λ) − βA_k, for K costs that each carry βk.
    rng = torch.Generator().manual_seed(3)
    for k in (0, 1, 3):
        a_r, a_k = torch.randn(2, 4, 5, generator=rng, dtype=torch.float64)
        a_c = torch.randn(4, 5, k, generator=rng, dtype=torch.float64)
        weights: Weights = normalised(torch.rand(k, generator=rng, dtype=torch.float64))
        inside = mix(a_r - 0.1 * a_k, a_c + 0.1 * a_k[..., None], weights)
        torch.testing.assert_close(inside, mix(a_r, a_c, weights) - 0.1 * a_k)
