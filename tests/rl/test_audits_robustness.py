"""Sweeps: nominal points, areas in closed form, dynamics that scale as physics says, attacks at their optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from point_world import CHASE, Affine, Constant, PointWorld
from toy_worlds import Drift

from trueline.core.config import build
from trueline.core.errors import ConfigError, TruelineError
from trueline.core.streams import split_of
from trueline.evidence.audit import Budget, run_audit
from trueline.evidence.records import NotMeasurable
from trueline.rl.audits import robustness
from trueline.rl.audits.robustness import (
    ActionDelay,
    Friction,
    Gear,
    Mass,
    ObservationAttack,
    SensorDropout,
    SensorNoise,
    UnseenLayouts,
    mean_action_attack,
    normalised_area,
)

SWEEPS = [SensorNoise, SensorDropout, ActionDelay, Mass, Friction, Gear, ObservationAttack]
BLIND = [SensorNoise, SensorDropout, ObservationAttack]


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Worlds the audits made, so that a test can look at them."""
    worlds = []

    def make(id, n, threads, **options):
        worlds.append(PointWorld(id, n, threads, **options))
        return worlds[-1]

    monkeypatch.setattr("trueline.rl.worlds.make", make)
    return worlds


def audit(cls, **settings):
    return cls(build(cls.Config, {"cost_bound": 60.0, "num_envs": 8, **settings}))


def outcomes(audit, policy, n=6):
    cases = audit.cases(policy, "verdict", 0, n, np.random.default_rng(0))
    return audit.measure(policy, cases, np.random.default_rng(1))


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=6), st.floats(-3, 3), st.floats(-3, 3))
def test_area_of_a_line_is_its_middle(gaps, slope, offset):
    level = np.cumsum([0.0, *gaps])
    area = normalised_area(level, slope * level + offset)
    assert area == pytest.approx(slope * (level[0] + level[-1]) / 2 + offset, abs=1e-9)


@pytest.mark.parametrize("cls", BLIND)
def test_a_policy_that_sees_nothing_is_not_disturbed_through_its_sensors(cls):
    for outcome in outcomes(audit(cls), Constant(bias=(0.3, -0.2), noise=0.3)):
        assert len(set(outcome.curves["cost area"])) == 1
        assert len(set(outcome.curves["return area"])) == 1
        assert outcome.values["cost area"] == pytest.approx(outcome.curves["cost area"][0])
        assert outcome.values["cost rise"] == pytest.approx(0.0, abs=1e-12)
        assert outcome.values["return drop"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("cls", SWEEPS)
def test_every_level_meets_the_same_layouts_with_the_same_noise(cls):
    policy, sweep = Affine(CHASE, noise=0.3), audit(cls)
    twice = audit(cls, levels=(sweep.nominal, sweep.nominal + 1.0))
    nominal = [outcome.curves["cost area"][0] for outcome in outcomes(twice, policy)]
    at = sweep.config.levels.index(sweep.nominal)
    # The nominal point does not depend on which other levels are run, nor in which place of the axis it stands.
    assert [outcome.curves["cost area"][at] for outcome in outcomes(sweep, policy)] == nominal


@pytest.mark.parametrize("cls", SWEEPS)
def test_a_disturbance_that_is_large_enough_matters(cls):
    returns = np.array([outcome.curves["return area"] for outcome in outcomes(audit(cls), Affine(CHASE))])
    assert (np.ptp(returns, axis=1) > 0).all()


@pytest.mark.parametrize("cls", [Mass, Friction, Gear])
def test_the_world_is_nominal_again_afterwards(cls, made):
    outcomes(audit(cls), Affine(CHASE))
    assert all((scale == 1.0).all() for world in made for scale in world.scale.values())


def test_half_the_gear_is_twice_the_mass():
    # The point's motion depends on gear/mass alone.
    by_gear = outcomes(audit(Gear, levels=(0.5, 1.0)), Affine(CHASE))
    by_mass = outcomes(audit(Mass, levels=(1.0, 2.0)), Affine(CHASE))
    for gear, mass in zip(by_gear, by_mass, strict=True):
        assert gear.curves["return area"] == pytest.approx(mass.curves["return area"][::-1])


def test_noise_is_measured_in_the_policys_own_units(monkeypatch):
    # Ten times the scale at a tenth of the level is the same noise.
    monkeypatch.setattr(robustness, "observation_scale", lambda policy, width: np.full(width, 10.0))
    scaled = outcomes(audit(SensorNoise, levels=(0.0, 0.01)), Affine(CHASE))
    monkeypatch.setattr(robustness, "observation_scale", lambda policy, width: np.ones(width))
    plain = outcomes(audit(SensorNoise, levels=(0.0, 0.1)), Affine(CHASE))
    for a, b in zip(scaled, plain, strict=True):
        assert a.curves["return area"] == pytest.approx(b.curves["return area"])


def test_the_attack_on_a_linear_policy_reaches_its_optimum(rng):
    # max ‖Wδ‖² over |δ_d| ≤ r_d is attained at a corner; with one action dimension it is (Σ_d |w_d| r_d)².
    weight = np.vstack([rng.normal(size=6), np.zeros(6)])
    rows = rng.normal(size=(5, 6)).astype(np.float32)
    radius = rng.uniform(0.1, 0.5, 6)
    attacked = mean_action_attack(Affine(weight), rows, radius, 3, rng)
    assert (np.abs(attacked - rows) <= radius + 1e-6).all()
    moved = np.abs((attacked - rows) @ weight[0])
    np.testing.assert_allclose(moved, np.abs(weight[0]) @ radius, rtol=1e-5)


def test_the_attack_finds_the_best_corner_from_a_few_starts(rng):
    # Two action dimensions: brute force over the 64 corners. Sign ascent finds a corner; from the best of a few starts
    # it finds the best one.
    weight = rng.normal(size=(2, 6))
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T * 0.2
    best = np.linalg.norm(corners @ weight.T, axis=1).max()
    rows = np.tile(rng.normal(size=6), (32, 1)).astype(np.float32)
    moved = np.linalg.norm(
        (mean_action_attack(Affine(weight), rows, np.full(6, 0.2), 5, rng) - rows) @ weight.T, axis=1
    )
    assert moved.max() == pytest.approx(best, rel=1e-4)
    assert (moved <= best * (1 + 1e-5)).all()


def test_a_policy_without_gradient_is_not_attacked():
    class Acting:
        world, act = Affine.world, Affine.act

    with pytest.raises(TruelineError, match="Attackable"):
        run_audit(audit(ObservationAttack), Acting())


@pytest.mark.parametrize("levels", [(0.0,), (0.2, 0.1), (0.0, 0.0, 0.1)])
def test_levels_have_to_rise(levels):
    with pytest.raises(ConfigError, match="levels"):
        audit(SensorNoise, levels=levels)


def test_the_nominal_level_has_to_be_there():
    with pytest.raises(ConfigError, match="Add 1"):
        audit(Mass, levels=(0.5, 1.5))


def test_a_world_of_fixed_dynamics_is_refused(monkeypatch):
    monkeypatch.setattr("trueline.rl.worlds.make", lambda id, n, threads: Drift(n))
    with pytest.raises(ConfigError, match="mass"):
        outcomes(audit(Mass, cost="right"), Affine(np.zeros((2, 3))))


def test_evidence_holds_the_curve_of_the_required_metric():
    found = {e.metric: e for e in run_audit(audit(SensorNoise), Affine(), budget=Budget(initial=40, maximum=80))}
    cost = found["cost area"]
    assert cost.verdict == "pass"
    assert cost.curve.axis.values == SensorNoise.Config().levels
    assert cost.curve.area == pytest.approx(cost.estimate.value)


class Trained(Affine):
    """Chases its goal, and tells which layouts it was trained on."""

    def __init__(self, layouts_met):
        super().__init__(CHASE)
        self.layouts_met = np.asarray(layouts_met, np.uint32)


class Memoriser(Trained):
    """Knows a layout it was trained on by its first observation; on any other it stays where it is."""

    def __init__(self, layouts_met):
        super().__init__(layouts_met)
        self.known = PointWorld(num_envs=len(layouts_met)).reset(self.layouts_met)

    def act(self, obs, memory, rng, deterministic=False):
        if memory is None:
            memory = (obs[:, None] == self.known).all(axis=2).any(axis=1)
        return super().act(obs, None, rng, deterministic)[0] * memory[:, None], memory


MET = np.arange(100, 140)


def test_held_out_layouts_are_compared_with_those_that_were_met(rng):
    unseen = audit(UnseenLayouts)
    for case in unseen.cases(Trained(MET), "verdict", 2, 60, rng):
        assert split_of(case.data["seed"]) == ("verdict", 2)
        assert case.data["met"] in MET


def test_layouts_of_one_distribution_have_no_gap():
    # A policy that does the same everywhere met 400 layouts of the same distribution, so the gap is that of two means
    # of 400: it may miss 0 by four standard errors (drawing the 400 again adds as much variance as their own draw).
    met = np.random.default_rng(7).integers(0, 2**31, 400)
    found = outcomes(audit(UnseenLayouts, num_envs=64), Trained(met), n=400)
    for name in ("cost gap", "return gap"):
        gap = np.array([outcome.values[name] for outcome in found])
        assert abs(gap.mean()) < 4 * np.sqrt(1.5) * gap.std() / np.sqrt(len(gap))
        assert gap.std() > 0


def test_a_policy_that_memorised_its_layouts_is_found_out():
    settings = {"num_envs": 40, "return_gap_at_most": 0.25}
    budget = Budget(initial=120, batch=60, maximum=300)
    verdicts = {
        type(policy): {e.metric: e for e in run_audit(audit(UnseenLayouts, **settings), policy, budget=budget)}
        for policy in (Memoriser(MET), Trained(MET))
    }
    assert verdicts[Memoriser]["return gap"].verdict == "fail"
    assert verdicts[Memoriser]["return gap"].estimate.low > 0.25
    assert verdicts[Trained]["return gap"].verdict != "fail"


@pytest.mark.parametrize("policy", [Affine(CHASE), Trained([])])
def test_without_known_training_layouts_there_is_no_gap_to_measure(policy, rng):
    with pytest.raises(NotMeasurable, match="which layouts"):
        audit(UnseenLayouts).cases(policy, "verdict", 0, 5, rng)
