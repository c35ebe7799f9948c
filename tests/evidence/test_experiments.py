"""Sets of runs: aggregates against brute force and enumeration, the front by definition, figures read from folders."""

import html
import itertools
import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trueline.core.config import Config, build
from trueline.core.errors import RunError
from trueline.core.run import Run
from trueline.evidence import plots
from trueline.evidence.experiments.aggregate import (
    merit,
    performance_profile,
    probability_of_improvement,
    violation_probability,
)
from trueline.evidence.experiments.endings import FINAL_EPISODES, Reached, finished_because, stopped_because
from trueline.evidence.experiments.page import (
    build_experiment_page,
    group_table,
    pareto_table,
    profiles,
    run_table,
    seed_curve,
    seed_curves,
    task_table,
)
from trueline.evidence.experiments.pareto import Tradeoff, pareto_front
from trueline.evidence.experiments.runs import (
    distinct,
    grouped,
    over_tasks,
    read_run,
    summarise,
    task_scores,
)
from trueline.evidence.over_seeds import iqm
from trueline.evidence.records import Estimate, EvidenceError
from trueline.evidence.report import TrainCurve
from trueline.evidence.run_report import build_run_report
from trueline.rl.updates.trust_region import Case


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


# --- aggregates ---


def test_probability_of_improvement_is_mann_whitneys_u_per_task(rng):
    x, y = rng.normal(0.5, 1, (9, 3)).round(1), rng.normal(0, 1, (8, 3)).round(1)  # rounded: some ties
    u = [stats.mannwhitneyu(x[:, t], y[:, t]).statistic / (9 * 8) for t in range(3)]
    found = probability_of_improvement(x, y, rng)
    assert found.value == pytest.approx(np.mean(u))
    assert found.low < found.value < found.high
    assert probability_of_improvement(y, x, rng).value == pytest.approx(1 - found.value)


def test_the_bootstrap_of_improvement_redraws_seeds_of_both_methods_within_tasks(rng):
    # The estimate is a mean over tasks of U-statistics; redrawing rows by hand has to give the same distribution.
    x, y = rng.normal(0.3, 1, (8, 2)), rng.normal(0, 1, (8, 2))
    drawn = []
    for _ in range(2000):
        parts = []
        for t in range(2):
            a, b = rng.choice(x[:, t], 8), rng.choice(y[:, t], 8)
            parts.append((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())
        drawn.append(np.mean(parts))
    low, high = np.quantile(drawn, (0.025, 0.975))
    found = probability_of_improvement(x, y, rng, resamples=4000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_few_seeds_give_points_without_an_interval(rng):
    few = probability_of_improvement(rng.normal(size=(7, 2)), rng.normal(size=(20, 2)), rng)
    assert math.isfinite(few.value)
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert all(math.isnan(x) for x in performance_profile(rng.normal(size=(7, 2)), [0, 1], rng).low)


def test_a_profile_is_the_share_of_scores_above_each_threshold(rng):
    scores, tau = rng.normal(size=(10, 4)), np.linspace(-2, 2, 9)
    found = performance_profile(scores, tau, rng, name="ours")
    assert found.mean == pytest.approx([(scores > t).mean() for t in tau])
    assert all(low <= m <= high for low, m, high in zip(found.low, found.mean, found.high, strict=True))
    # Between thresholds far outside, the area is the mean score: ∫ P(X > τ) dτ.
    wide = np.linspace(-6, 6, 24_001)
    area = performance_profile(scores, wide, rng, resamples=2).area
    assert 12 * area - 6 == pytest.approx(scores.mean(), abs=1e-3)


def test_a_score_at_the_threshold_is_not_above_it(rng):
    assert performance_profile(np.ones((8, 1)), [0.5, 1.0], rng).mean == (1.0, 0.0)


def test_thresholds_out_of_order_and_scores_that_are_no_table_are_refused(rng):
    with pytest.raises(EvidenceError, match="not ascending"):
        performance_profile(np.ones((8, 1)), [1.0, 0.0], rng)
    with pytest.raises(EvidenceError, match="same tasks"):
        probability_of_improvement(np.ones((8, 1)), np.ones((8, 2)), rng)
    with pytest.raises(EvidenceError, match="finite"):
        probability_of_improvement(np.full((8, 1), np.nan), np.ones((8, 1)), rng)


@pytest.mark.parametrize(("k", "n"), [(0, 12), (3, 12), (12, 12)])
def test_the_violation_probability_has_its_exact_interval(k, n):
    costs = np.where(np.arange(n) < k, 25.5, 25.0)  # a cost of exactly 25 keeps the limit
    found = violation_probability(costs, 25.0)
    exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((k / n, exact.low, exact.high))


def test_merit_puts_feasible_first_then_return_and_the_nearest_of_the_others():
    limits = {"a": 10.0, "b": 0.0}
    best = merit(5.0, {"a": 10.0, "b": 0.0}, limits)
    worse = merit(4.0, {"a": 1.0, "b": 0.0}, limits)
    near = merit(99.0, {"a": 11.0, "b": 0.0}, limits)  # 0.1 limits beyond
    far = merit(99.0, {"a": 5.0, "b": 0.2}, limits)  # a limit of 0 is its own unit 1: 0.2 beyond
    unknown = merit(99.0, {"a": 5.0}, limits)
    assert best > worse > near > far > unknown
    assert best.feasible
    assert not near.feasible
    assert merit(-9.0, {}, {}).feasible
    assert not merit(math.nan, {}, {}).feasible  # it diverged: there is nothing to be kept
    assert merit(math.nan, {}, {}) < unknown
    assert (near.shortfall, far.shortfall) == pytest.approx((-0.1, -0.2))


# --- the front ---


def tradeoff(label, episode_return, cost, half=math.nan, limit=25.0):
    def around(x):
        return Estimate(x, x - half, x + half, 8, 8, 0.95, "t")

    return Tradeoff(label, around(episode_return), around(cost), limit)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_the_front_is_what_no_other_dominates(points):
    found = pareto_front([tradeoff(str(i), r, c) for i, (r, c) in enumerate(points)])
    for f in found:
        r, c = points[int(f.point.label)]
        dominated = any((s >= r and d <= c) and (s, d) != (r, c) for s, d in points)
        assert f.on_front == (not dominated)
        assert not f.surely_dominated  # nothing is sure without intervals
    costs = [f.point.cost.value for f in found]
    assert costs == sorted(costs)


def test_only_separate_intervals_dominate_surely():
    better, near, far = tradeoff("better", 20, 10, 2), tradeoff("near", 17, 15, 2), tradeoff("far", 10, 20, 2)
    found = {f.point.label: f for f in pareto_front([far, near, better])}
    assert found["better"].on_front
    assert not found["near"].on_front
    assert not found["near"].surely_dominated  # returns 18…22 and 15…19 overlap
    assert found["far"].surely_dominated


def test_what_was_not_measured_is_on_no_front():
    found = pareto_front([tradeoff("none", math.nan, 1), tradeoff("some", 1, 1)])
    assert [f.on_front for f in found if f.point.label == "none"] == [False]


# --- endings ---


def test_a_finished_run_says_whether_it_kept_its_limits():
    found = {"train/a": Reached(30.0, "two"), "train/b": Reached(1.0, "two"), "constraint/c": Reached(0.5, "three")}
    limits = {"train/a": 25.0, "train/b": 2.0, "constraint/c": 0.5}
    assert finished_because(4000, found, limits) == (
        "finished all 4,000 steps; over two: a 30 is above its limit 25, b 1 is within its limit 2; "
        "over three: constraint/c 0.5 is within its limit 0.5"
    )
    assert finished_because(1, {"train/a": Reached(math.nan, "two")}, {"train/a": 2.0}) == (
        "finished all 1 steps; a was never measured against its limit 2"
    )
    assert finished_because(1, {}, {}).endswith("nothing was limited")


def test_a_solver_says_how_often_no_step_met_the_limits(tmp_path):
    folder = trained(tmp_path, "a", 0, 12.0, 30.0, recipe="cpo", cases=[Case.INSIDE, Case.INFEASIBLE, Case.VIOLATED])
    assert stopped_because(folder).endswith(
        "above its limit 25; no step within the trust region met the limits in 1 of 3 updates, and the cost was "
        "descended instead"
    )
    never = trained(tmp_path, "b", 0, 12.0, 30.0, recipe="cpo", cases=[Case.VIOLATED])
    assert stopped_because(never).endswith("above its limit 25")


class Averaging(Config):
    """Settings of a row that saves an average of its last policies."""

    cost_limit: float = 25.0
    averaged_share: float = 0.0


def test_a_policy_that_is_an_average_of_those_measured_is_told(tmp_path):
    def ending(id, share, episodes=None, limited="train/cost_sum"):
        config = Averaging(cost_limit=25.0, averaged_share=share)
        with Run.create(tmp_path, kind="train", name="ppo-lag", config=config, seed=0, id=id) as run:
            if limited:
                run.write_json("limits.json", {limited: 25.0})
            run.log(100, **{"train/return": 1.0, "train/cost_sum": 12.0})
            if episodes:
                run.write_json(FINAL_EPISODES, {"step": 100, "return": [1.0], "cost": {"cost_sum": episodes}})
            run.finish(summary={"train/return": 1.0, "train/cost_sum": 12.0})
        return stopped_because(tmp_path / id)

    said = "; the policy is the average of the weights of the last 15% of the training, and what it costs itself was"
    assert said in ending("averaged", 0.15)
    # The last policy; one that was evaluated itself; nothing limited; a limit on what was never measured.
    for name, told in (("last", (0.0,)), ("evaluated", (0.15, [30.0])), ("free", (0.15, None, ""))):
        assert "average" not in ending(name, *told), name
    assert "average" not in ending("silent", 0.15, None, "constraint/c")


class Bounds(Config):
    """Settings of rows whose multipliers have upper bounds."""

    constraint: Mapping[str, float] = {}
    caution: Mapping[str, float] = {}
    update: Mapping[str, float] = {}


@pytest.mark.parametrize(
    ("table", "key", "logged"),
    [
        ("constraint", "upper", "constraint/multiplier_a"),
        ("constraint", "penalty_max", "constraint/multiplier_a"),
        ("caution", "upper", "constraint/caution_a"),
        ("update", "multiplier_max", "update/multiplier_a"),
    ],
)
def test_a_multiplier_at_its_upper_bound_is_told(tmp_path, table, key, logged):
    def ending(id, values, **tables):
        config = build(Bounds, tables)
        with Run.create(tmp_path, kind="train", name="focops", config=config, seed=0, id=id) as run:
            for step, value in enumerate(values):
                run.log(step, **{logged: value, logged.replace("_a", "_b"): 0.5})
            run.log(len(values), **{"train/return": 1.0})  # an epoch without a finished episode
            run.finish(summary={})
        return stopped_because(tmp_path / id)

    told = f"; the multiplier of a ended at its upper bound 2 ({table}.{key}) and could not rise further"
    assert ending("at", [0.1, 2.0 - 1e-15], **{table: {key: 2.0}}).endswith(told)
    for id, values, tables in (
        ("came-down", [2.0, 1.9], {table: {key: 2.0}}),
        ("free", [2.0, 2.0], {}),
        ("other", [2.0, 2.0], {table: {"lr": 2.0}}),
    ):
        assert "upper bound" not in ending(id, values, **tables)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.floats(0, 50), st.floats(0, 50)),
    st.none() | st.lists(st.floats(0, 50), min_size=1, max_size=4),
    st.sampled_from(["train/", "eval/"]),
)
def test_the_sentence_and_the_columns_have_one_basis(logged, episodes, prefix):
    # A policy can end within its limit while the episodes that it was made of do not, and the other way round.
    with tempfile.TemporaryDirectory() as root:
        both = None if episodes is None else ([1.0] * len(episodes), episodes)
        folder = trained(Path(root), "a", 0, 12.0, logged[0], episodes=both, limited=prefix + "cost_sum")
        record = read_run(folder)
        name = "cost_sum" if prefix == "train/" else "eval/cost_sum"
        cost = logged[0] if episodes is None else float(np.mean(episodes))
        assert record.costs[name] == pytest.approx(cost)
        assert record.why.endswith(f"{name} {cost:.4g} is {'above' if cost > 25.0 else 'within'} its limit 25")
        evaluated = episodes is None and prefix == "eval/"  # the limited cost alone is, the return is a training's
        assert f"; over {'evaluations of the last tenth' if evaluated else record.basis}: " in record.why


# --- runs in folders ---


class Plan(Config):
    """The settings of a run that was never trained."""

    env: str = "World-v0"
    cost_limit: float = 25.0


def trained(root, id, seed, episode_return, cost, limit=25.0, recipe="ppo-lag", status="done", episodes=None,
            limited="train/cost_sum", cases=(), **more):  # fmt: skip
    with Run.create(root, kind="train", name=recipe, config=Plan(cost_limit=limit, **more), seed=seed, id=id) as run:
        run.write_json("limits.json", {limited: limit})
        for step, case in enumerate(cases):
            run.log(step, **{"update/case": float(case)})
        for step in (100, 200):
            logged = {"train/return": episode_return * step / 200, "train/cost_sum": cost, "train/total_cost_sum": step}
            run.log(step, **logged)
        if episodes is not None:
            run.write_json(FINAL_EPISODES, {"step": 200, "return": episodes[0], "cost": {"cost_sum": episodes[1]}})
        figures = {"train/return": episode_return, limited: cost, "train/total_cost_sum": 200.0}
        run.finish(status, summary={"subject": "hash", **figures} if status == "done" else {}, reason="because.")
    return root / id


def test_a_run_is_read_with_its_limits_figures_and_ending(tmp_path):
    record = read_run(trained(tmp_path, "a", 3, 12.0, 30.0))
    assert (record.seed, record.recipe, record.episode_return, record.costs) == (3, "ppo-lag", 12.0, {"cost_sum": 30.0})
    assert record.limits == {"cost_sum": 25.0}
    assert record.settings["cost_limit"] == 25.0
    basis = "training episodes of the last tenth"
    assert record.why == f"finished all 200 steps; over {basis}: cost_sum 30 is above its limit 25"
    assert record.violation == {}


def test_the_final_policys_own_episodes_count_where_there_are_any(tmp_path):
    record = read_run(trained(tmp_path, "a", 0, 12.0, 30.0, episodes=([1.0, 3.0, 5.0], [10.0, 26.0, 30.0])))
    assert (record.episode_return, record.costs["cost_sum"]) == (3.0, 22.0)
    assert record.violation["cost_sum"] == violation_probability([0, 1, 1], 0.5)
    assert record.basis == "3 episodes of the final policy"


@pytest.mark.parametrize("status", ["diverged", "stopped", "failed"])
def test_a_run_that_is_not_done_has_no_figures_and_says_why(tmp_path, status):
    record = read_run(trained(tmp_path, "a", 0, 12.0, 30.0, status=status))
    assert math.isnan(record.episode_return)
    assert record.costs == {}
    assert record.why == f"{status} after 200 steps: because."


def test_a_run_nobody_holds_was_killed(tmp_path):
    folder = trained(tmp_path, "a", 0, 1.0, 1.0)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"done"', '"running"'))
    assert stopped_because(folder) == "was killed after 200 steps; go on with `trueline resume a`"


def test_one_training_is_one_seed_however_often_it_is_named(tmp_path):
    a, b = (read_run(trained(tmp_path, id, seed, 12.0 + seed, 3.0)) for seed, id in enumerate("ab"))
    again = read_run(trained(tmp_path, "c", 0, 12.0, 3.0))  # the same settings and seed made it: the same figures
    other = read_run(trained(tmp_path, "d", 0, 12.0, 3.0, limit=24.0))
    stopped = read_run(trained(tmp_path, "e", 0, 12.0, 3.0, status="stopped"))
    assert [r.id for r in distinct([a, b, a, again, other, stopped])] == ["a", "b", "d", "e"]
    rows = summarise(grouped([a, b, b, again]))
    assert [row.seeds for row in rows] == [2]
    assert rows[0].episode_return.value == 12.5
    there = [replace(r, id=f"{r.id}2", settings={**r.settings, "env": "W"}) for r in (a, again, b)]
    scores = task_scores([a, again, b, *there])
    assert [x.shape for x in scores.values()] == [(2, 2)]


def test_two_figures_of_the_same_settings_and_seed_are_refused(tmp_path):
    a, b = (read_run(trained(tmp_path, id, 0, value, 3.0)) for id, value in (("a", 12.0), ("b", 13.0)))
    with pytest.raises(RunError, match="runs a and b have the same settings and seed 0, but not the same figures"):
        grouped([a, b])


def test_runs_that_started_from_different_ones_are_different(tmp_path):
    a, b = (read_run(trained(tmp_path, id, 0, value, 3.0)) for id, value in (("a", 12.0), ("b", 13.0)))
    assert len(distinct([a, replace(b, inputs={"policy": "x"})])) == 2


def test_damaged_artefacts_and_other_kinds_of_runs_are_named(tmp_path):
    folder = trained(tmp_path, "a", 0, 1.0, 1.0, episodes=([1.0], [1.0]))
    (folder / "artefacts" / FINAL_EPISODES).write_text("{}")
    with pytest.raises(RunError, match=f"{FINAL_EPISODES} is damaged"):
        read_run(folder)
    with Run.create(tmp_path, kind="audit", name="audit", config={}, seed=0, id="b"):
        pass
    with pytest.raises(RunError, match="kind 'audit'"):
        read_run(tmp_path / "b")


@pytest.fixture
def study(tmp_path):
    rng = np.random.default_rng(1)
    folders = []
    for limit in (10.0, 25.0):
        for seed in range(8):
            value, cost = limit + rng.normal(), limit - 1 + rng.normal()
            folders.append(trained(tmp_path, f"l{limit:.0f}-{seed}", seed, value, cost, limit))
    folders.append(trained(tmp_path, "bad", 8, 0.0, 0.0, 25.0, status="diverged"))
    return [read_run(folder) for folder in folders]


def test_groups_differ_in_more_than_the_seed(study):
    groups = grouped(study)
    assert {label: len(records) for label, records in groups.items()} == {
        "ppo-lag cost_limit=10.0": 8,
        "ppo-lag cost_limit=25.0": 9,
    }
    assert list(grouped(study[:8])) == ["ppo-lag"]


def test_a_row_is_the_statistics_of_its_runs(study):
    first, second = summarise(grouped(study))
    returns = [r.episode_return for r in study[8:16]]
    assert second.seeds == 8
    assert second.others == {"diverged": 1}
    assert second.return_iqm.value == pytest.approx(iqm(returns))
    low, high = stats.t.interval(0.95, 7, np.mean(returns), stats.sem(returns))
    assert (second.episode_return.low, second.episode_return.high) == pytest.approx((low, high))
    above = sum(r.costs["cost_sum"] > 25.0 for r in study[8:16])
    assert second.violating == violation_probability([1.0] * above + [0.0] * (8 - above), 0.5)
    assert first.improvement is None
    pairs = itertools.product(returns, [r.episode_return for r in study[:8]])
    assert second.improvement.value == pytest.approx(np.mean([a > b for a, b in pairs]))


def test_a_table_is_the_same_again(study):
    assert summarise(grouped(study), seed=3) == summarise(grouped(study), seed=3)


def test_tables_hold_every_group_and_run_with_limits(study):
    told = group_table(summarise(grouped(study)))
    assert "cost_sum" in told.heads
    assert all("(limit " in line[told.heads.index("cost_sum")] for line in told.lines)
    runs = run_table(study)
    assert len(runs.lines) == 17
    assert "P(cost_sum > limit)" not in runs.heads  # nobody evaluated the final policy: an empty column is left out
    front = pareto_table(summarise(grouped(study)), "cost_sum")
    assert [line[-1] for line in front.lines] == ["on the front", "on the front"]


def test_methods_are_compared_over_tasks_on_scaled_returns(tmp_path, rng):
    raw = {}
    for recipe, shift in (("cpo", 0.0), ("ppo-lag", 1.0)):
        for task, scale in (("A-v0", 1.0), ("B-v0", 100.0)):
            for seed in range(9 if task == "A-v0" else 8):  # one seed too many on one task
                value = raw[recipe, task, seed] = scale * (shift + rng.normal())
                trained(tmp_path, f"{recipe}-{task}-{seed}", seed, value, 20.0, recipe=recipe, env=task)
    records = [read_run(folder) for folder in sorted(tmp_path.iterdir()) if folder.is_dir()]
    scores = task_scores(records)
    assert {label: x.shape for label, x in scores.items()} == {"cpo": (8, 2), "ppo-lag": (8, 2)}
    on_b = [x for (_, task, _), x in raw.items() if task == "B-v0"]
    expected = (raw["cpo", "B-v0", 3] - min(on_b)) / (max(on_b) - min(on_b))
    assert scores["cpo"][3, 1] == pytest.approx(expected)
    first, second = over_tasks(records)
    assert second.iqm.value == pytest.approx(iqm(scores["ppo-lag"]))
    assert first.improvement is None
    wins = [(scores["ppo-lag"][:, t][:, None] > scores["cpo"][:, t]).mean() for t in range(2)]
    assert second.improvement.value == pytest.approx(np.mean(wins))
    assert (second.violating.value, second.violating.n) == (0.0, 17)
    assert [line[0] for line in task_table([first, second]).lines] == ["cpo", "ppo-lag"]
    assert "scaled by the lowest and highest run" in build_experiment_page(records)
    assert over_tasks([r for r in records if r.settings["env"] == "A-v0"]) == []


def test_what_was_trained_in_another_world_is_compared_with_nothing(tmp_path):
    """100 an episode in B says nothing of 1 in A: neither dominance, nor a first group to be better than."""
    given = [("cpo", "A-v0", 1.0, 20.0), ("cpo", "B-v0", 100.0, 5.0), ("ppo-lag", "B-v0", 90.0, 9.0),
             ("ppo-lag", "A-v0", 2.0, 19.0)]  # fmt: skip
    for recipe, task, value, cost in given:
        trained(tmp_path, f"{recipe}-{task}", 0, value, cost, recipe=recipe, env=task)
    records = [read_run(tmp_path / f"{recipe}-{task}") for recipe, task, *_ in given]
    rows = summarise(grouped(records))
    assert [(row.task, row.label.split()[0]) for row in rows] == [
        ("A-v0", "cpo"), ("A-v0", "ppo-lag"), ("B-v0", "cpo"), ("B-v0", "ppo-lag"),
    ]  # fmt: skip
    assert [None if row.improvement is None else row.improvement.value for row in rows] == [None, 1.0, None, 0.0]
    fronts = {line[0]: line[-1] for line in pareto_table(rows, "cost_sum").lines}
    assert fronts == {
        "cpo env=A-v0": "dominated",
        "ppo-lag env=A-v0": "on the front",
        "cpo env=B-v0": "on the front",
        "ppo-lag env=B-v0": "dominated",
    }
    page = build_experiment_page(records)
    assert re.findall(r"<h3>(return against [^<]*)</h3>", page) == [
        "return against cost_sum in A-v0",
        "return against cost_sum in B-v0",
    ]
    # Methods that share no task have no scores that could be drawn in one profile.
    assert "performance profile" not in build_experiment_page([records[0], records[2]])


def test_a_curve_of_one_point_is_a_point():
    drawn = seed_curves(seed_curve([TrainCurve("train/cost", [100], [3.0])]), {}, "cost")
    assert drawn.count("<circle") == 1


def test_a_curve_over_seeds_is_their_mean_and_range_as_far_as_all_go():
    long = TrainCurve("train/return", [0, 100, 200], [0.0, 1.0, 2.0])
    short = TrainCurve("train/return", [0, 50, 100], [2.0, 3.0, 3.0])
    found = seed_curve([long, short])
    assert found.axis.values == (0.0, 50.0, 100.0)
    assert found.mean == pytest.approx((1.0, 1.75, 2.0))  # the long one is 0.5 at 50
    assert found.low == pytest.approx((0.0, 0.5, 1.0))
    assert found.high == pytest.approx((2.0, 3.0, 3.0))
    assert seed_curve([]) is None


def test_the_limit_is_drawn_at_its_height():
    curve = seed_curve([TrainCurve("train/cost", [0, 100], [0.0, 40.0])])
    drawn = seed_curves(curve, {"limit": 20.0}, "cost")
    line, legend = [part for part in drawn.split("<") if part.startswith("line") and 'class="limit' in part]
    assert "limit 20" in drawn
    assert legend != line
    height = float(line.split('y1="')[1].split('"')[0])
    path = next(part for part in drawn.split("<") if part.startswith('path class="line'))
    ends = [float(word) for word in path.split(' d="M')[1].split('"')[0].replace("L", " ").split()]
    assert height == pytest.approx((ends[1] + ends[3]) / 2, abs=0.1)  # half way between 0 and 40


def test_the_page_shows_every_group_its_limit_and_escapes_what_it_is_told(study):
    page = build_experiment_page(study, title="<b>study</b>")
    assert "&lt;b&gt;study" in page
    assert "<b>study" not in page
    assert page.count('class="limit') >= 2
    for text in (
        "ppo-lag cost_limit=10.0",
        "return against cost_sum",
        "performance profile",
        "diverged after 200 steps",
    ):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")  # opens offline


def test_a_set_without_a_finished_run_still_has_a_page(tmp_path):
    record = read_run(trained(tmp_path, "a", 0, 1.0, 1.0, status="stopped"))
    assert "none, no run is done" in build_experiment_page([record])
    json.dumps(group_table(summarise(grouped([record]))).lines)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc =.-", min_size=1, max_size=90), min_size=1, max_size=4))
def test_the_names_of_profiles_stay_inside_their_card(names):
    tau = np.linspace(0, 1, 5)
    curves = [performance_profile(np.ones((2, 1)), tau, np.random.default_rng(0), name=name) for name in names]
    drawn = str(profiles(curves, "label"))
    place, text = (
        r'<g transform="translate\(0 (\d+)\)"><title>([^<]*)</title>',
        r'<text[^>]* x="([\d.]+)"[^>]*>([^<]*)<',
    )
    shown = re.findall(f"{place}.*?{text}", drawn)
    assert [html.unescape(title) for _, title, _, _ in shown] == names
    for _, _, x, text in shown:
        assert float(x) + 6.3 * len(html.unescape(text)) <= plots.WIDTH  # the width that plots reckon a letter with
    heights = [int(height) for height, *_ in shown]
    assert heights == sorted(set(heights))
    assert all(drawn.count(f"line series s{i}") == 2 for i in range(len(names)))  # the line, and its name


def test_the_report_of_one_run_draws_the_limit_into_what_is_held_under_it(tmp_path):
    folder = trained(tmp_path, "a", 0, 1.0, 30.0)
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (300, 400):
            file.write(json.dumps({"step": step, "eval/cost_sum": 28.0, "eval/return": 1.0}) + "\n")
    page = build_run_report(folder)
    charts = dict(re.findall(r'<svg class="chart"[^>]*aria-label="(\w+/\w+) over[^>]*>(.*?)</svg>', page, re.DOTALL))
    assert {name for name, drawn in charts.items() if 'class="limit' in drawn} == {"train/cost_sum", "eval/cost_sum"}
    assert "cost_limit = 25.0" not in page  # settings stand in a table of their own, and not as text in another
