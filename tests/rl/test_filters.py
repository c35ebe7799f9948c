"""Safety filters: projections against brute force, a barrier against its safe set, a learnt model against the truth."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_policies import linear_policy
from point_world import CHASE, DT, WORLD, Affine, PointWorld
from scipy.optimize import minimize

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import load_subject, save_subject
from trueline.evidence.audit import Budget, run_audit
from trueline.rl import worlds
from trueline.rl.audits.filters import Intervention, InterventionConfig
from trueline.rl.env import Step
from trueline.rl.filters.barrier import WallBarrier, barrier_constraints
from trueline.rl.filters.filtered import FilteredPolicy, Filters, load
from trueline.rl.filters.linear_cost import (
    LinearCost,
    LinearCostFilter,
    Signal,
    Transitions,
    fit_linear_cost,
    record_signals,
)
from trueline.rl.filters.projection import Constraints, Projected, project, safety_layer
from trueline.rl.filters.recipe import SAFETY_FILTER, SafetyFilter, _mixed
from trueline.rl.policy import Acts
from trueline.rl.updates.trust_region import projection

# --- projection ---


def brute_force(a, g, b):
    """The nearest point to clip(a) with gu ≤ b and |u| ≤ 1, by every set of constraints held as equations, or None."""
    width = len(a)
    rows = np.concatenate([g, np.eye(width), -np.eye(width)])
    sides = np.concatenate([b, np.ones(2 * width)])
    a = np.clip(a, -1, 1)
    best = None
    for size in range(width + 1):
        for active in itertools.combinations(range(len(rows)), size):
            m = rows[list(active)]
            u = a - (np.linalg.pinv(m) @ (m @ a - sides[list(active)]) if size else 0.0)
            if (rows @ u <= sides + 1e-7).all() and (best is None or np.sum((u - a) ** 2) < np.sum((best - a) ** 2)):
                best = u
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_projection_is_the_nearest_safe_action(width, k, seed):
    rng = np.random.default_rng(seed)
    a, g = rng.normal(0, 1.2, (3, width)), rng.normal(0, 1, (3, k, width))
    b = rng.normal(0.3, 0.7, (3, k))
    found = project(a, Constraints(g, b))
    for i in range(3):
        exact = brute_force(a[i], g[i], b[i])
        assert found.feasible[i] == (exact is not None)
        if exact is not None:
            np.testing.assert_allclose(found.action[i], exact, atol=1e-6)
            clipped = np.clip(a[i], -1, 1)
            assert found.intervened[i] == bool((g[i] @ clipped > b[i] + 1e-7).any())


def test_without_the_box_it_is_the_enumeration_of_active_sets(rng):
    # Small actions and loose boxes: trust_region's projection solves the same problem over its multipliers.
    for _ in range(40):
        a, g = rng.normal(0, 0.05, 4), rng.normal(0, 1, (3, 4))
        b = g @ a - rng.normal(0, 0.05, 3)  # some violated, some not
        nu = projection(g @ g.T, g @ a - b).nu
        np.testing.assert_allclose(project(a[None], Constraints(g[None], b[None])).action[0], a - nu @ g, atol=1e-8)


def test_the_safety_layers_closed_form_is_the_projection_where_one_constraint_is_active(rng):
    a, g = rng.uniform(-0.2, 0.2, (50, 3)), rng.normal(0, 1, (50, 1, 3))
    excess = rng.normal(0, 0.1, (50, 1))
    closed = safety_layer(a, g, excess)
    np.testing.assert_allclose(project(a, Constraints(g, -excess)).action, closed, atol=1e-9)
    # Moved just onto the constraint where it was violated, and not at all where it was kept.
    after = (g @ closed[:, :, None])[:, 0, 0] + excess[:, 0]
    before = (g @ a[:, :, None])[:, 0, 0] + excess[:, 0]
    np.testing.assert_allclose(after, np.minimum(before, 0.0), atol=1e-12)


def test_of_several_constraints_the_closed_form_corrects_the_one_of_the_largest_multiplier():
    g = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    # λ = (0.5 + 0.1)/1 and (2·0.5 + 0.2)/4: the first one.
    assert safety_layer(np.array([[0.5, 0.5]]), g, np.array([[0.1, 0.2]])).tolist() == [[pytest.approx(-0.1), 0.5]]


def test_rows_are_filtered_each_by_its_own_constraints(rng):
    a, g, b = rng.normal(size=(20, 2)), rng.normal(size=(20, 3, 2)), rng.normal(0.2, 0.5, (20, 3))
    whole = project(a, Constraints(g, b))
    for i in range(20):
        single = project(a[i : i + 1], Constraints(g[i : i + 1], b[i : i + 1]))
        np.testing.assert_allclose(whole.action[i], single.action[0], atol=1e-12)


def test_where_nothing_is_safe_the_least_unsafe_action_is_taken_and_marked(rng):
    g, b = rng.normal(size=(3, 2)), np.full(3, -4.0)  # no action in the box comes to −4 on all
    found = project(np.zeros((1, 2)), Constraints(g[None], b[None]))
    assert not found.feasible[0]
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    limit = b / np.linalg.norm(g, axis=1)

    def violation(u):
        return np.square(np.maximum(unit @ u - limit, 0.0)).sum()

    best = min(minimize(violation, x0, bounds=[(-1, 1)] * 2).fun for x0 in rng.uniform(-1, 1, (8, 2)))
    assert violation(found.action[0]) == pytest.approx(best, abs=1e-6)


def test_a_gradient_of_zero_decides_by_its_bound_alone():
    g = np.zeros((2, 1, 2))
    found = project(np.array([[0.3, 0.4], [0.3, 0.4]]), Constraints(g, np.array([[0.1], [-0.1]])))
    assert found.feasible.tolist() == [True, False]
    assert found.action[0].tolist() == [0.3, 0.4]


def test_an_action_outside_the_box_is_first_what_the_world_makes_of_it():
    found = project(np.array([[7.0, 0.0]]), Constraints(np.array([[[1.0, 0.0]]]), np.array([[2.0]])))
    assert found.action.tolist() == [[1.0, 0.0]]
    assert not found.intervened[0]


# --- barrier ---

WALLS = {"position": [0, 1], "velocity": [2, 3], "extent": 1.0, "acceleration": 2.0}


def moved(state, u, dt, top=2.0):
    """A double integrator over one step with the action held: exact."""
    x, v = state[:, :2], state[:, 2:]
    return np.hstack([x + v * dt + 0.5 * top * u * dt**2, v + top * u * dt])


def test_the_barriers_terms_are_its_derivatives(rng):
    walls = build(WallBarrier, WALLS)
    state = np.hstack([rng.uniform(-0.8, 0.8, (40, 2)), rng.uniform(-0.5, 0.5, (40, 2))])
    terms = walls.terms(state)
    dt = 1e-6
    for u in (np.zeros((40, 2)), rng.uniform(-1, 1, (40, 2))):
        slope = (walls.terms(moved(state, u, dt)).h - terms.h) / dt
        predicted = terms.drift + (terms.gain @ u[:, :, None])[..., 0]
        np.testing.assert_allclose(slope, predicted, atol=1e-4)


def test_the_safe_set_is_that_of_braking_in_time(rng):
    walls = build(WallBarrier, WALLS)
    state = np.hstack([rng.uniform(-1, 1, (2000, 2)), rng.uniform(-3, 3, (2000, 2))])
    stop = state[:, :2] + state[:, 2:] * np.abs(state[:, 2:]) / (2 * 2.0)  # where full braking comes to rest
    np.testing.assert_array_equal(walls.safe(state), (np.abs(stop) <= 1.0).all(axis=1))


@pytest.mark.parametrize("rate", [1.0, 5.0, 20.0])
def test_behind_the_barrier_no_policy_leaves_the_safe_set(rng, rate):
    walls, dt = build(WallBarrier, {**WALLS, "rate": rate}), 0.005
    state = np.hstack([rng.uniform(-1, 1, (30, 2)), rng.uniform(-2, 2, (30, 2))])
    state = state[walls.safe(state)]
    push = rng.choice((-1.0, 1.0), (len(state), 2))  # full speed at a wall, another way every now and then
    furthest, changed = 0.0, 0
    for t in range(400):
        if t % 100 == 0:
            push = rng.choice((-1.0, 1.0), (len(state), 2))
        found = walls(state, push)
        state = moved(state, found.action, dt)
        furthest = max(furthest, float(np.abs(state[:, :2]).max()))
        changed += int(found.intervened.sum())
    # An action is held for a step, so that braking begins a step late at most, at the highest speed there can be.
    assert furthest <= 1.0 + np.sqrt(2 * 2.0 * 2.0) * dt
    assert changed > 0
    without = moved(moved(state, push, 0.7), push, 0.7)
    assert np.abs(without[:, :2]).max() > 1.3  # the same policies alone drive through it


def test_inside_the_safe_set_an_action_always_exists(rng):
    walls = build(WallBarrier, WALLS)
    state = np.hstack([rng.uniform(-1, 1, (3000, 2)), rng.uniform(-2, 2, (3000, 2))])
    state = state[walls.safe(state)]
    assert project(rng.uniform(-1, 1, (len(state), 2)), barrier_constraints(walls.terms(state), 5.0)).feasible.all()


def test_an_action_that_is_safe_is_not_touched():
    found = build(WallBarrier, WALLS)(np.zeros((1, 4)), np.array([[0.4, -0.9]]))
    assert found.action.tolist() == [[0.4, -0.9]]
    assert not found.intervened[0]


def test_columns_that_do_not_pair_are_refused():
    with pytest.raises(ConfigError, match="2 columns of positions and 1 of velocities"):
        build(WallBarrier, {**WALLS, "velocity": [2]})
    with pytest.raises(ConfigError, match="Count the columns"):
        build(WallBarrier, {**WALLS, "velocity": [2, -1]})


# --- a learnt cost model ---

# The point world's own velocity: v'ₓ − vₓ = −0.2·vₓ + 0.1·aₓ, which a network without a hidden layer can say exactly.
FASTER = {"signals": [{"columns": [2], "limit": 0.2}], "network": {"hidden": []}, "steps": 600, "lr": 0.01}


def uniform(rng, n):
    return lambda t, obs: rng.uniform(-1, 1, (n, 2))


@pytest.fixture(scope="module")
def learnt():
    rng = np.random.default_rng(3)
    config, env = build(LinearCost, FASTER), PointWorld(num_envs=20)
    data = record_signals(env, uniform(rng, 20), config.signals, 120)
    return fit_linear_cost(config, env, data, torch.Generator().manual_seed(1)), data


def test_recorded_signals_are_those_before_and_after_each_step(learnt):
    _, data = learnt
    assert data.obs.shape == (2400, 6)
    # Also where an episode of 60 steps ended: the last observation counts, not the next episode's first (v = 0).
    expected = 0.8 * data.before[:, 0] + DT * data.action[:, 0]
    np.testing.assert_allclose(data.after[:, 0], expected, atol=1e-6)


def test_drift_and_sensitivity_of_a_known_system_are_found(learnt):
    filter, data = learnt
    drift, gradient = filter.foreseen(data.obs[:200])
    assert (drift.shape, gradient.shape) == ((200, 1), (200, 1, 2))
    np.testing.assert_allclose(drift[:, 0], -0.2 * data.obs[:200, 2], atol=0.01)
    np.testing.assert_allclose(gradient[:, 0], [[DT, 0.0]] * 200, atol=0.01)
    change, left = filter.errors(data)
    assert left < 0.1 * change


def test_a_signal_in_another_unit_is_learnt_as_well(learnt):
    _, data = learnt
    small = data._replace(before=1e-3 * data.before, after=1e-3 * data.after)
    made = fit_linear_cost(build(LinearCost, FASTER), PointWorld(), small, torch.Generator().manual_seed(1))
    change, left = made.errors(small)
    assert left < 0.1 * change
    np.testing.assert_allclose(made.foreseen(data.obs[:9]).gradient[:, 0], [[1e-3 * DT, 0.0]] * 9, atol=1e-5)


def test_behind_the_filter_the_signal_stays_below_its_limit(learnt):
    filter, _ = learnt
    policy = Affine(bias=(1.0, 0.5))  # pushes to a speed of 0.5 along x
    for behind, fast in ((FilteredPolicy(policy, filter), False), (policy, True)):
        world = PointWorld(num_envs=5)
        obs, top = world.reset(np.arange(5, dtype=np.uint32)), 0.0
        for _ in range(59):
            obs = world.step(behind.act(obs, None, None, True)[0]).obs
            top = max(top, float(obs[:, 2].max()))
        assert (top > 0.4) == fast
        if not fast:
            assert top <= 0.2 + 0.01
            assert obs[:, 3].min() == pytest.approx(0.25, abs=0.05)  # y, which the signal does not mind, is left alone


def test_a_margin_is_kept_on_top(learnt):
    filter, data = learnt
    config = filter.config.model_copy(update={"margin": 0.1})
    careful = LinearCostFilter(config, filter.codec, filter.model, filter.scales)
    rows = data.obs[:50].astype(np.float64)
    wide, tight = filter(rows, np.ones((50, 2))), careful(rows, np.ones((50, 2)))
    assert (tight.action[:, 0] <= wide.action[:, 0] + 1e-9).all()
    assert tight.intervened.sum() > wide.intervened.sum()


def test_signals_are_the_extreme_or_the_sum_of_their_columns_with_a_sign():
    rows = np.array([[1.0, 5.0, 2.0]])
    assert Signal(columns=(0, 2), limit=1.0).of(rows) == [2.0]
    assert Signal(columns=(0, 2), reduce="sum", limit=1.0).of(rows) == [3.0]
    assert Signal(columns=(0, 2), sign=-1, limit=1.0).of(rows) == [-1.0]  # the nearest of two distances


def test_columns_and_data_that_cannot_be_are_refused(learnt):
    _, data = learnt
    config = build(LinearCost, {**FASTER, "signals": [{"columns": [6], "limit": 1.0}]})
    with pytest.raises(ConfigError, match="column 6, but point-world observes 6 numbers"):
        fit_linear_cost(config, PointWorld(), data, torch.Generator())
    broken = Transitions(data.obs, data.action, data.before, np.full_like(data.after, np.nan))
    with pytest.raises(ConfigError, match="not finite"):
        fit_linear_cost(build(LinearCost, FASTER), PointWorld(), broken, torch.Generator())


# --- a filtered policy as a subject ---


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: PointWorld(id, n, threads, **options)
    )


@pytest.fixture
def registered():
    if "filtered-policy" not in {entry.name for entry in registry.entries("subject")}:
        target = "trueline.rl.filters.filtered:load"
        registry.add(Entry("subject", "filtered-policy", target, "a policy behind a filter"), "tests")


def test_a_filtered_policy_has_the_capabilities_of_a_policy_and_one_more(learnt):
    filtered = FilteredPolicy(Affine(), learnt[0])
    assert isinstance(filtered, Acts)
    assert isinstance(filtered, Filters)
    assert not isinstance(Affine(), Filters)


@pytest.mark.parametrize("kind", ["linear-cost", "walls"])
def test_a_saved_filtered_policy_acts_as_before(tmp_path, learnt, registered, kind):
    walls = build(WallBarrier, {"position": [0, 1], "velocity": [2, 3], "extent": 1.5, "acceleration": 1.0})
    filtered = FilteredPolicy(linear_policy(CHASE), learnt[0] if kind == "linear-cost" else walls)
    with Run.create(tmp_path, kind="train", name="test", config={}, seed=0, id="run") as run:
        save_subject(filtered, run.folder)
    again = load_subject(tmp_path / "run")
    obs = PointWorld(num_envs=9).reset(np.arange(9, dtype=np.uint32))
    obs[:, 2:4] = np.random.default_rng(0).normal(0, 0.5, (9, 2))
    ours, theirs = (p.act(obs, None, np.random.default_rng(0), True)[0] for p in (filtered, again))
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != linear_policy(CHASE).act(obs, None, np.random.default_rng(0), True)[0]).any()
    assert again.world == WORLD


def test_what_cannot_be_saved_or_read_is_named(tmp_path, learnt):
    with pytest.raises(ConfigError, match="behind the filter cannot be saved"):
        FilteredPolicy(Affine(), learnt[0]).save(tmp_path / "a")

    class Own:
        kind = "own"

        def __call__(self, obs, action):
            return Projected(action, np.zeros(len(action), bool), np.ones(len(action), bool))

    with pytest.raises(ConfigError, match="kind 'own' cannot be saved"):
        FilteredPolicy(linear_policy(), Own()).save(tmp_path / "b")
    with pytest.raises(RunError, match=r"filter\.json is missing"):
        load(tmp_path / "c")


# --- the recipe ---


def made(root, policy, **settings):
    """A run of the recipe behind a saved policy."""
    with Run.create(root, kind="train", name="test", config={}, seed=0, id="policy") as run:
        save_subject(policy, run.folder)
    config = build(SafetyFilter, {"record_steps": 2000, "num_envs": 10, **settings})
    inputs = {"policy": root / "policy"}
    with Run.create(root, kind="train", name="safety-filter", config=config, seed=1, inputs=inputs, id="run") as run:
        return run, SAFETY_FILTER.train(config, run, {"policy": load_subject(root / "policy")})


def test_the_recipe_learns_the_filter_and_logs_what_it_leaves_unexplained(tmp_path, world, registered):
    run, filtered = made(tmp_path, linear_policy(CHASE), filter={"kind": "linear-cost", **FASTER})
    (logged,) = read_metrics(run.folder / "metrics.jsonl")
    assert logged["step"] == 2000
    assert logged["fit/error"] < logged["fit/change"]
    # Half of the data are the policy's own, whose actions go with its velocity.
    drift, gradient = filtered.filter.foreseen(np.array([[0.0, 0.0, 0.5, 0.0, 0.0, 0.0]], np.float32))
    assert drift[0, 0] == pytest.approx(-0.1, abs=0.02)
    assert gradient[0, 0] == pytest.approx([DT, 0.0], abs=0.02)
    assert filtered.parent == "policy"
    save_subject(filtered, run.folder)
    assert isinstance(load_subject(run.folder), Filters)


def test_the_recipe_refuses_what_it_cannot_filter(tmp_path, world):
    walls = {"kind": "walls", "position": [0, 1], "velocity": [2, 6], "extent": 1.0, "acceleration": 1.0}
    with pytest.raises(ConfigError, match="column 6, but point-world observes 6"):
        made(tmp_path, linear_policy(), filter=walls)
    for filter, says in (
        ({**walls, "position": [0], "velocity": [2]}, "has 1 axes, but point-world takes 2 actions"),
        ({"kind": "linear-cost", **FASTER, "signals": [{"columns": [6], "limit": 1.0}]}, "column 6, but point-world"),
    ):
        config = build(SafetyFilter, {"filter": filter, "record_steps": 10**9})  # refused before anything is recorded
        with (
            Run.create(tmp_path, kind="train", name="safety-filter", config=config, seed=1) as run,
            pytest.raises(ConfigError, match=says),
        ):
            SAFETY_FILTER.train(config, run, {"policy": linear_policy()})
    config = build(SafetyFilter, {"filter": walls})
    run = Run.create(tmp_path, kind="train", name="safety-filter", config=config, seed=1, id="none")
    with run, pytest.raises(ConfigError, match="does not act"):
        SAFETY_FILTER.train(config, run, {"policy": SimpleNamespace(kind="text")})


def test_the_share_of_random_environments_is_kept(world, rng):
    env = PointWorld(num_envs=10)
    act = _mixed(env, Affine(bias=(0.25, 0.5)), 0.3, rng)
    actions = act(0, env.reset())
    assert ((actions == [0.25, 0.5]).all(axis=1)).tolist() == [False] * 3 + [True] * 7


# --- the audit ---


class SpeedLimit:
    """Keeps |u| ≤ 0.5 on the first axis: by how much it steps in is known."""

    kind = "speed-limit"

    def __call__(self, obs, action):
        g = np.tile([[[1.0, 0.0], [-1.0, 0.0]]], (len(action), 1, 1))
        return project(action, Constraints(g, np.full((len(action), 2), 0.5)))


def outcomes(subject, rng, n=7, **config):
    audit = Intervention(build(InterventionConfig, {"num_envs": 3, **config}))
    cases = audit.cases(subject, "verdict", 0, n, rng)
    return cases, audit.measure(subject, cases, rng)


def test_rate_and_distance_are_those_of_a_policy_whose_interventions_are_known(world, rng):
    _, found = outcomes(FilteredPolicy(Affine(bias=(0.8, 0.1)), SpeedLimit()), rng)
    for outcome in found:
        assert outcome.values["intervention rate"] == 1.0
        assert outcome.values["distance moved per intervention"] == pytest.approx(0.3)
        assert outcome.values["steps without a safe action"] == 0.0


def test_differences_are_those_of_the_same_layout_run_with_and_without(world, rng):
    policy = Affine(CHASE)
    filtered = FilteredPolicy(policy, SpeedLimit())
    cases, found = outcomes(filtered, rng)
    for case, outcome in zip(cases, found, strict=True):
        totals = []
        steps = 0
        for subject in (filtered, policy):
            env = PointWorld(num_envs=1)
            obs, paid, cost = env.reset([case.data["seed"]]), 0.0, 0.0
            for _ in range(60):
                action = subject.act(obs, None, None, True)[0]
                if subject is filtered:
                    steps += abs(np.clip(policy.act(obs, None, None, True)[0], -1, 1)[0, 0]) > 0.5
                step: Step = env.step(action)
                obs, paid, cost = step.obs, paid + step.reward[0], cost + step.cost[0, 0]
            totals.append((paid, cost))
        assert outcome.values["return because of the filter"] == pytest.approx(totals[0][0] - totals[1][0])
        assert outcome.values["cost because of the filter"] == totals[0][1] - totals[1][1]
        assert outcome.values["intervention rate"] == pytest.approx(steps / 60)


def test_a_filter_that_never_steps_in_changes_nothing_and_has_no_distance(world, rng):
    _, found = outcomes(FilteredPolicy(Affine(bias=(0.2, 0.9)), SpeedLimit()), rng)
    for outcome in found:
        assert outcome.values["intervention rate"] == 0.0
        assert outcome.values["return because of the filter"] == 0.0
        assert "distance moved per intervention" not in outcome.values


def test_the_required_rate_decides(world):
    budget = Budget(initial=40, batch=40, maximum=40)
    audit = Intervention(build(InterventionConfig, {"num_envs": 20, "at_most": 0.5}))
    verdicts = [
        next(e.verdict for e in run_audit(audit, FilteredPolicy(Affine(bias=(x, 0.0)), SpeedLimit()), budget=budget)
             if e.metric == "intervention rate")
        for x in (0.4, 0.9)
    ]  # fmt: skip
    assert verdicts == ["pass", "fail"]


def test_the_pages_commands_keep_a_point_between_its_walls(trueline, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("trueline ")]
    small = {"total_steps=100000": "total_steps=2000", "fast": "faithful"}
    for _, *words in commands:
        given = [small.get(word, word) for word in words]
        few = ["num_envs=2", "steps_per_epoch=1000"] if given[1] == "ppo" else []
        budget = ["--budget", "8"] if given[0] == "audit" else []
        said = trueline(*given, *few, *budget, "--root", tmp_path)
        assert said.code in (0, 4, 5), said.err
    rows = {name: policy for name in ("free", "walls", "slow") if (policy := load_subject(tmp_path / name))}
    env, fastest = worlds.make("DoubleIntegrator-v0", 4), {}
    for name, policy in rows.items():
        obs, rng = env.reset(np.arange(4, dtype=np.uint32)), np.random.default_rng(0)
        speed, cost = 0.0, 0.0
        for _ in range(40):
            step = env.step(policy.act(obs, None, rng, False)[0])
            obs, cost, speed = step.obs, cost + step.cost.sum(), max(speed, np.abs(step.final_obs[:, 1]).max())
        fastest[name] = (cost, speed)
    assert fastest["free"][1] > 0.6
    assert fastest["walls"][0] == 0.0
    assert fastest["slow"][1] < 0.55
