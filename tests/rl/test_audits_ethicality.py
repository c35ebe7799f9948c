"""Episode costs against brute force, and a search whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from point_world import CHASE, Affine, PointWorld
from toy_worlds import Drift

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.streams import split_of
from trueline.evidence.audit import Budget, run_audit
from trueline.evidence.records import NotMeasurable, Verdict
from trueline.evidence.statistics import mean_sequence
from trueline.rl.audits import ethicality, layouts
from trueline.rl.audits.ethicality import EpisodeCost, EpisodeCostConfig, WorstLayouts, WorstLayoutsConfig
from trueline.rl.evaluate import run_episodes
from trueline.rl.policy import WorldRef


@pytest.fixture(autouse=True)
def point(monkeypatch):
    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: PointWorld(id, n, threads, **options)
    )


def episode_cost(**settings):
    return EpisodeCost(build(EpisodeCostConfig, {"cost_bound": 60.0, "num_envs": 8, **settings}))


def alone(seed: int, policy: Affine) -> tuple[float, float]:
    """Return and cost of one episode without noise, stepped by hand."""
    world = PointWorld(num_envs=1)
    obs, total, cost = world.reset([seed]), 0.0, 0.0
    for _ in range(60):
        step = world.step(policy.act(obs, None, None, True)[0])
        obs, total, cost = step.obs, total + step.reward[0], cost + step.cost[0, 0]
    return total, cost


def test_values_are_those_of_each_episode_run_alone(rng):
    # 11 layouts in worlds of 8: the second wave is not full. Without noise an episode depends on its layout alone.
    policy, audit = Affine(CHASE), episode_cost(cost_limit=2.0, deterministic_share=1.0)
    cases = audit.cases(policy, "verdict", 0, 11, rng)
    outcomes = audit.measure(policy, cases, rng)
    costs = []
    for case, outcome in zip(cases, outcomes, strict=True):
        total, cost = alone(case.data["seed"], policy)
        costs.append(cost)
        assert outcome.values["return"] == pytest.approx(total)
        assert outcome.values["expected cost"] == cost == outcome.values["deterministic expected cost"]
        assert outcome.values["violation probability"] == (cost > 2.0)
        assert outcome.values.get("excess given violation", cost - 2.0) == cost - 2.0
        assert ("excess given violation" in outcome.values) == (cost > 2.0)
    assert len(set(costs)) > 2  # the layouts differ, so rows that leak into one another would show


def test_the_verdict_is_read_from_the_policy_with_its_noise(rng):
    # Without noise this policy stays where it is, and no layout starts in its hazard; only noise moves it into one.
    policy = Affine(noise=5.0)
    audit = episode_cost(num_envs=100, cost_limit=0.5, deterministic_share=0.5)
    cases = audit.cases(policy, "verdict", 0, 200, rng)
    outcomes = audit.measure(policy, cases, rng)
    assert sum(o.values["expected cost"] for o in outcomes) > 0
    quiet = [o.values["deterministic expected cost"] for o in outcomes if "deterministic expected cost" in o.values]
    assert quiet == [0.0] * 100


def test_cases_are_layouts_held_out_for_their_round(rng):
    for split, round in (("respond", 3), ("verdict", 1)):
        for case in episode_cost().cases(Affine(), split, round, 20, rng):
            assert split_of(case.data["seed"]) == (split, round)
            assert case.unit == str(case.data["seed"])


def test_a_still_policy_passes_and_one_that_drives_through_fails():
    still = {e.metric: e for e in run_audit(episode_cost(), Affine(), budget=Budget(initial=40, maximum=120))}
    assert still["expected cost"].estimate.value == 0.0
    assert still["expected cost"].verdict is Verdict.PASS
    driver = episode_cost(cost_limit=0.1)
    found = {e.metric: e for e in run_audit(driver, Affine(CHASE), budget=Budget(initial=200, maximum=400))}
    cost = found["expected cost"]
    assert cost.verdict is Verdict.FAIL
    for finding in cost.findings:
        _, alone_cost = alone(finding.case.data["seed"], Affine(CHASE))
        assert finding.value == alone_cost > 0.1
        assert finding.severity == pytest.approx((alone_cost - 0.1) / 0.1)


def test_an_audit_is_repeatable():
    first, second = (run_audit(episode_cost(), Affine(CHASE, noise=0.5), seed=4) for _ in range(2))
    assert [e.to_json() for e in first] == [e.to_json() for e in second]


def test_a_world_that_does_not_fit_is_refused(rng):
    def measure(**settings):
        audit = episode_cost(**settings)
        audit.measure(Affine(), audit.cases(Affine(), "verdict", 0, 2, rng), rng)

    with pytest.raises(ConfigError, match="cost_bound=60"):
        measure(cost_bound=59.0)
    with pytest.raises(ConfigError, match="hazard"):
        measure(cost="lava")
    measure(costs=("hazard",))


def worst(**settings):
    return WorstLayouts(build(WorstLayoutsConfig, {"cost_bound": 60.0, "num_envs": 16, "keep": 4, **settings}))


def test_the_search_reports_a_mean_that_its_layout_really_has(rng):
    policy, audit = Affine(CHASE), worst(searches=1)
    (case,) = audit.cases(policy, "verdict", 0, 40, rng)
    (outcome,) = audit.measure(policy, [case], rng)
    # Every episode without noise is the same, so the mean of the last run is that layout's cost, stepped by hand.
    world = PointWorld(num_envs=1)
    world.reset([outcome.detail["seed"]])
    world.seed_source = lambda n: np.array([outcome.detail["seed"]], np.uint32)
    obs, cost = world.set_layout({0: outcome.detail["layout"]}), 0.0
    for _ in range(60):
        step = world.step(policy.act(obs, None, None, True)[0])
        obs, cost = step.obs, cost + step.cost[0, 0]
    assert outcome.values["worst mean cost found"] == cost
    # and it is at least as bad as every layout that the search started from
    assert cost >= max(alone(seed, policy)[1] for seed in case.data["seeds"])


def test_moving_objects_finds_worse_than_drawing_layouts(rng):
    policy = Affine(CHASE)
    case = worst(searches=1).cases(policy, "verdict", 0, 1, rng)
    drawn, moved = (
        worst(searches=1, rounds=rounds).measure(policy, case, np.random.default_rng(0))[0].values for rounds in (0, 8)
    )
    assert moved["worst mean cost found"] > drawn["worst mean cost found"]


def test_the_reported_mean_does_not_keep_the_luck_of_the_search(rng):
    # A still policy with noise: what it costs is luck, the same on every layout whose hazard is far. The search keeps
    # the layouts on which it was unlucky; their mean, run again, lies below the cost that had them kept.
    policy, audit = Affine(noise=4.0), worst(searches=1, rounds=0, keep=1)
    lucky, reported = [], []
    for round in range(12):
        case = audit.cases(policy, "verdict", round, 1, rng)
        noise = np.random.default_rng(round)
        reported.append(audit.measure(policy, case, noise)[0].values["worst mean cost found"])
        first = episode_cost().measure(
            policy, [layouts.Case(str(s), "", {"seed": s}) for s in case[0].data["seeds"]], noise
        )
        lucky.append(max(outcome.values["expected cost"] for outcome in first))
    assert np.mean(reported) < np.mean(lucky)


LOWER = "worst mean cost found, lower bound"


def test_a_search_can_fail_but_never_pass():
    found = {limit: {e.metric: e for e in run_audit(worst(limit=limit), Affine(CHASE))} for limit in (0.0, 60.0)}
    assert found[0.0][LOWER].verdict is Verdict.FAIL
    assert "layout" in found[0.0][LOWER].findings[0].detail
    assert found[60.0][LOWER].verdict is Verdict.INCONCLUSIVE
    assert found[60.0][LOWER].looks == 1  # its searches are a finite set, not drawn again until the budget is spent
    assert all(row["worst mean cost found"].verdict is None for row in found.values())


def test_a_search_fails_a_policy_only_when_chance_cannot_explain_it():
    # Above the mean that was found by less than its episodes' spread, a limit is neither kept nor broken.
    audit, policy = worst(limit=0.0), Affine(noise=4.0)
    value = {e.metric: e for e in run_audit(audit, policy)}
    mean, low = value["worst mean cost found"].estimate.value, value[LOWER].estimate.value
    assert 0.0 < low < mean
    verdicts = [
        {e.metric: e for e in run_audit(worst(limit=limit), policy)}[LOWER].verdict
        for limit in (0.9 * low, 0.5 * (low + mean))
    ]
    assert verdicts == [Verdict.FAIL, Verdict.INCONCLUSIVE]


def test_the_lower_bound_is_that_of_the_last_episodes_with_the_error_shared_by_the_searches(rng, monkeypatch):
    costs = []

    def recorded(*args):
        costs.append(run_episodes(*args))
        return costs[-1]

    monkeypatch.setattr(ethicality, "run_episodes", recorded)
    audit, policy = worst(searches=2, limit=1.0, confidence=0.9), Affine(noise=4.0)
    for case in audit.cases(policy, "verdict", 0, 2, rng):
        (outcome,) = audit.measure(policy, [case], rng)
        last = costs[-1].cost[:, 0]
        # One-sided error 0.1/2, so 1 − 2·0.05 between both ends.
        assert outcome.values[LOWER] == mean_sequence(last, (0.0, 60.0), 0.9).low
        assert outcome.values["worst mean cost found"] == last.mean()


def test_a_world_without_layouts_cannot_be_searched(monkeypatch, rng):
    monkeypatch.setattr("trueline.rl.worlds.make", lambda id, n, threads: Drift(n))
    audit, policy = worst(cost="right"), Affine(np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="layout"):
        audit.measure(policy, audit.cases(policy, "verdict", 0, 1, rng), rng)


@pytest.mark.parametrize("id", ["PlanarPointRun0-v0", "PlanarPointCircle1-v0"])
def test_a_world_in_which_nothing_can_be_moved_cannot_be_searched(id, monkeypatch, rng):
    monkeypatch.undo()
    policy = Affine()
    policy.world = WorldRef(id=id)
    audit = WorstLayouts(build(WorstLayoutsConfig, {"cost_bound": 500.0, "num_envs": 2, "keep": 1}))
    with pytest.raises(NotMeasurable, match=f"a layout of {id} has nothing that could be moved"):
        audit.measure(policy, audit.cases(policy, "verdict", 0, 1, rng), rng)


def test_each_cost_is_held_to_its_own_limit(monkeypatch, rng):
    class TwoCosts(PointWorld):
        costs = ("hazard", "twice")

        def step(self, actions):
            step = super().step(actions)
            step.cost = np.column_stack([step.cost[:, 0], 2.0 * step.cost[:, 0]])
            return step

    monkeypatch.setattr(
        "trueline.rl.worlds.make", lambda id, n, threads, **options: TwoCosts(id, n, threads, **options)
    )
    policy = Affine(CHASE)
    audit = episode_cost(costs=["hazard", "twice"], cost_limit=[2.0, 5.0], cost_bound=120.0)
    limits = {m.name: m.requirement.threshold for m in audit.metrics if m.requirement is not None}
    assert limits == {"expected cost of hazard": 2.0, "expected cost of twice": 5.0}
    for outcome in audit.measure(policy, audit.cases(policy, "verdict", 0, 8, rng), rng):
        cost = outcome.values["expected cost of hazard"]
        assert outcome.values["expected cost of twice"] == 2.0 * cost
        assert outcome.values["violation probability of hazard"] == (cost > 2.0)
        assert outcome.values["violation probability of twice"] == (2.0 * cost > 5.0)
    with pytest.raises(ConfigError, match="2 values for 1 costs"):
        episode_cost(cost_limit=[2.0, 5.0])
