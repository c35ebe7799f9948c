"""Surrogates that can be exact, attributions of linear policies, curves whose ends are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from point_world import CHASE, WORLD, Affine, Constant, PointWorld

from trueline.core.config import build
from trueline.rl.audits.interpretability import (
    Attribution,
    AttributionConfig,
    SparseLinear,
    Surrogate,
    SurrogateConfig,
    Tree,
    fidelity,
    integrated_gradients,
    replacement_curve,
)


@pytest.fixture(autouse=True)
def point(monkeypatch):
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: PointWorld(id, n, threads, **options)
    )


def surrogate(**settings):
    return Surrogate(build(SurrogateConfig, {"cost_bound": 60.0, "num_envs": 8, "fit_layouts": 8, **settings}))


def attribution(**settings):
    return Attribution(build(AttributionConfig, {"cost_bound": 60.0, "num_envs": 8, **settings}))


def outcomes(audit, policy, n=6):
    cases = audit.cases(policy, "verdict", 0, n, np.random.default_rng(0))
    return audit.measure(policy, cases, np.random.default_rng(1))


class Curved(Affine):
    """tanh of a linear map: nonlinear, with a known derivative."""

    def act(self, obs, memory, rng, deterministic=False):
        mean = np.tanh(obs @ self.weight.T + self.bias)
        return (mean if deterministic else mean + self.noise * rng.normal(size=mean.shape)), memory

    def mean_action(self, vector):
        return torch.tanh(super().mean_action(vector))


class Corner(Affine):
    """Flees the hazard in one of four directions: exactly a tree of four leaves."""

    world = WORLD

    def act(self, obs, memory, rng, deterministic=False):
        return np.where(obs[:, 4:] > 0.0, -0.5, 0.5), memory


GENTLE = 0.1 * CHASE  # never beyond ±1, so that clipping leaves it linear


def test_a_sparse_linear_policy_is_understood_exactly():
    for outcome in outcomes(surrogate(inputs=2), Affine(GENTLE, noise=0.2)):
        assert outcome.values["linear fidelity"] == pytest.approx(1.0, abs=1e-9)
        assert outcome.values["linear coefficients"] == 4.0  # two sensors for each of two actions


def test_too_few_inputs_cannot_say_what_two_sensors_do():
    assert all(o.values["linear fidelity"] < 0.999 for o in outcomes(surrogate(inputs=1), Affine(GENTLE, noise=0.2)))


def test_a_policy_of_four_cases_is_a_tree_of_four_leaves():
    found = outcomes(surrogate(leaves=4, fit_layouts=32), Corner())
    # The tree cuts between two observed states, so a state in the gap around 0 may fall on the other side. Fleeing, an
    # agent leaves that gap in a few steps; most layouts never meet it.
    assert np.median([outcome.values["tree fidelity"] for outcome in found]) == 1.0
    assert {outcome.values["tree leaves"] for outcome in found} == {4.0}


def test_a_constant_policy_is_understood_by_both():
    for outcome in outcomes(surrogate(), Affine(bias=(0.3, -0.1), noise=0.3)):
        assert outcome.values["tree fidelity"] == outcome.values["linear fidelity"] == 1.0
        assert outcome.values["tree leaves"] == 1.0
        # The tree in its place does the same, noise included.
        assert outcome.values["return lost by the tree"] == pytest.approx(0.0, abs=1e-12)
        assert outcome.values["cost added by the tree"] == 0.0


def test_models_are_not_fitted_on_the_layouts_they_are_judged_on(monkeypatch):
    met = []
    reset = PointWorld.reset

    def noted(self, seeds=None):
        met.append(set(np.asarray(seeds).tolist()))
        return reset(self, seeds)

    monkeypatch.setattr(PointWorld, "reset", noted)
    outcomes(surrogate(), Affine(GENTLE))
    assert max(met[0]) < 1 << 31  # the first wave fits, on the training range
    assert all(min(seeds) >= 3 << 30 for seeds in met[1:])  # all others are held out for verdicts


@given(st.integers(0, 2**32 - 1))
def test_fidelity_is_one_for_the_truth_and_zero_for_the_mean(seed):
    rng = np.random.default_rng(seed)
    action = rng.normal(size=(20, 2))
    assert fidelity(action, action) == 1.0
    assert fidelity(action, np.broadcast_to(action.mean(axis=0), action.shape)) == pytest.approx(0.0, abs=1e-12)
    # Shifting by s costs 20·2·s²/Σ‖a − ā‖² until it is clipped.
    shift = 0.1
    expected = 1 - 40 * shift**2 / np.square(action - action.mean(axis=0)).sum()
    assert fidelity(action, action + shift) == pytest.approx(expected)
    assert fidelity(action, action + 100.0) == -1.0


def test_a_constant_action_is_right_or_wrong():
    action = np.full((10, 2), 0.4)
    assert fidelity(action, action.copy()) == 1.0
    assert fidelity(action, action + 0.1) == -1.0


def test_the_sparse_model_does_not_depend_on_units(rng):
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    rows[:, 3] = 7.0  # a sensor that never moves
    action = np.clip(rows[:, :1] * 0.2 + rows[:, 1:2] * 0.1, -1, 1)
    units = np.array([1000.0, 0.01, 1.0, 1.0], np.float32)
    plain, scaled = SparseLinear(rows, action, 2), SparseLinear(rows * units, action, 2)
    np.testing.assert_allclose(plain(rows), scaled(rows * units), atol=1e-6)
    np.testing.assert_allclose(plain(rows), action, atol=1e-6)


def test_more_leaves_never_fit_worse(rng):
    rows = rng.normal(size=(400, 3)).astype(np.float32)
    action = np.tanh(rows[:, :2])
    fits = [fidelity(action, Tree(rows, action, leaves)(rows)) for leaves in (2, 8, 32, 400)]
    assert fits == sorted(fits)
    assert fits[-1] == pytest.approx(1.0)


# --- attribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5])
def test_attributions_of_a_linear_policy_are_weight_times_difference(steps, rng):
    weight = rng.normal(size=(2, 6))
    rows, origin = rng.normal(size=(7, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    found = integrated_gradients(Affine(weight), rows, origin, steps)
    np.testing.assert_allclose(found, weight[None] * (rows - origin)[:, None], rtol=1e-5, atol=1e-6)


def test_attributions_sum_to_what_they_explain(rng):
    # Completeness. The midpoint rule with 64 points errs by |f'''|/(24·64²) of a smooth curve, far below 1e-3.
    policy = Curved(0.5 * rng.normal(size=(2, 6)))
    rows, origin = rng.normal(size=(9, 6)).astype(np.float32), np.zeros(6, np.float32)
    found = integrated_gradients(policy, rows, origin, 64).sum(axis=2)
    difference = policy.mean_action(torch.as_tensor(rows)) - policy.mean_action(torch.as_tensor(origin[None]))
    np.testing.assert_allclose(found, difference.numpy(), atol=1e-3)


def test_a_policy_that_sees_nothing_is_attributed_to_nothing(rng):
    rows = rng.normal(size=(3, 6)).astype(np.float32)
    assert not integrated_gradients(Constant(bias=(0.5, 0.5)), rows, np.zeros(6, np.float32), 4).any()
    for outcome in outcomes(attribution(), Constant(bias=(0.5, 0.5), noise=0.3)):
        assert outcome.values == {"deletion advantage": 0.0, "insertion advantage": 0.0}


def test_replacing_sensors_of_a_linear_policy_moves_it_by_their_weights(rng):
    weight = 0.05 * rng.normal(size=(2, 6))
    rows, other = rng.normal(size=(2, 4, 6)).astype(np.float32)
    order = np.array([rng.permutation(6) for _ in range(4)])
    curve = replacement_curve(Affine(weight), rows, other, order, np.linspace(0, 1, 7))
    for b in range(4):
        for k in range(7):
            gone = order[b, :k]
            move = weight[:, gone] @ (other[b, gone] - rows[b, gone])
            assert curve[b, k] == pytest.approx(np.sqrt(np.square(move).mean()), abs=1e-6)


def test_the_inputs_a_policy_rests_on_beat_a_random_order():
    # Only two of six sensors matter to each action; their attribution names them.
    found = outcomes(attribution(), Affine(GENTLE, noise=0.2), n=12)
    for name in ("deletion advantage", "insertion advantage"):
        assert np.mean([outcome.values[name] for outcome in found]) > 0.02
    for outcome in found:
        deletion, insertion = outcome.curves["deletion by attribution"], outcome.curves["insertion by attribution"]
        assert deletion[0] == insertion[-1] == 0.0  # nothing replaced
        assert deletion[-1] == pytest.approx(insertion[0])  # everything replaced
        assert deletion[-1] == pytest.approx(outcome.curves["deletion at random"][-1])


def test_a_wrong_attribution_does_not_pass(monkeypatch):
    # Naming the irrelevant sensors first is worse than chance.
    from trueline.rl.audits import interpretability

    right = interpretability.integrated_gradients
    monkeypatch.setattr(interpretability, "integrated_gradients", lambda *a: 1.0 / (1e-3 + np.abs(right(*a))))
    found = outcomes(attribution(), Affine(GENTLE, noise=0.2), n=12)
    for name in ("deletion advantage", "insertion advantage"):
        assert np.mean([outcome.values[name] for outcome in found]) < 0.0


def test_the_axis_of_an_attribution_reads_as_one_would_write_it():
    assert attribution().axis.values == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
