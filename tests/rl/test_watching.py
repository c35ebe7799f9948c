"""Looking after a training: costs paid against loops, evaluations against episodes run alone, the best policy."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_policies import linear_policy
from point_world import CHASE, PointWorld

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.run import Run
from trueline.core.streams import split_of
from trueline.core.subject import load_subject, subject_hash
from trueline.evidence.experiments.endings import FINAL_EPISODES
from trueline.evidence.statistics import tail_mean
from trueline.rl.augmentation.kinds import Chance, Cvar, Expected, StepRate
from trueline.rl.evaluate import Episodes
from trueline.rl.watching import (
    BEST,
    CostAccount,
    Evaluation,
    Played,
    Watching,
    limited,
)

EPOCH = 100  # steps of the epochs below


@pytest.fixture(autouse=True)
def worlds(monkeypatch):
    made = []

    def make(id, n, threads=1, **options):
        made.append(PointWorld(id, n, threads, **options))
        return made[-1]

    monkeypatch.setattr("trueline.rl.worlds.make", make)
    return made


def watching(run, limits=None, epochs=10, limit_on=Expected(), **config):
    given = build(Evaluation, {"every": 1, "episodes": 6, "final_episodes": 7, "num_envs": 4, **config})
    return Watching(given, run, {"hazard": 25.0} if limits is None else limits, EPOCH, epochs, limit_on)


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path, kind="train", name="test", config={}, seed=3, id="run") as made:
        yield made


# --- what learning cost ---


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), max_size=12), st.integers(0, 12))
def test_violations_are_of_episodes_and_regret_of_what_an_epochs_policy_costs(costs, cut):
    limit = np.array([25.0, 10.0])
    episodes = np.array(costs).reshape(-1, 2)
    found = CostAccount(("a", "b"), limit)
    for epoch in (episodes[:cut], episodes[cut:]):
        found.end_epoch(epoch)
    for k in range(2):
        assert found.violations[k] == sum(row[k] > limit[k] for row in costs)
        # An epoch's episodes are the sum of what they cost less d for each, if that is positive: E·(J_C − d)₊.
        epochs = (sum(row[k] - limit[k] for row in epoch) for epoch in (costs[:cut], costs[cut:]))
        assert found.regret[k] == pytest.approx(sum(max(beyond, 0.0) for beyond in epochs), abs=1e-9)


def test_within_an_epoch_episodes_make_up_for_each_other_and_epochs_do_not():
    account = CostAccount(("a",), [25.0])
    account.end_epoch(np.array([[35.0], [15.0], [25.0]]))  # J_C is 25: the limit is kept
    assert (account.regret.tolist(), account.violations.tolist()) == ([0.0], [1])
    account.end_epoch(np.array([[35.0], [25.0]]))  # two episodes of a policy that costs 30
    account.end_epoch(np.array([[0.0], [0.0]]))
    account.end_epoch([])
    assert account.regret.tolist() == [10.0]


def test_each_cost_is_logged_under_its_own_name():
    account = CostAccount(("a", "b"), [1.0, 1.0])
    counted = {"total": np.array([11.0, 13.0]), "violations": np.array([2, 3]), "regret": np.array([5.0, 7.0])}
    account.load_state_dict(counted)
    assert account.state_dict() == counted
    assert account.logged() == {
        "train/total_a": 11.0, "train/violations_a": 2.0, "train/regret_a": 5.0,
        "train/total_b": 13.0, "train/violations_b": 3.0, "train/regret_b": 7.0,
    }  # fmt: skip
    free = CostAccount(("a",), None)
    free.total += 11.0
    free.end_epoch([np.array([40.0])])
    assert free.logged() == {"train/total_a": 11.0}  # nothing was to be kept


# --- what is limited ---


def test_each_kind_of_limit_is_measured_on_what_it_is_on(rng):
    cost, rate = rng.gamma(2.0, 10.0, (30, 2)), rng.random((30, 2))
    played = Played(Episodes(np.arange(30, dtype=np.uint32), rng.normal(size=30), cost, np.full(30, 9)), rate)
    d = np.array([20.0, 30.0])
    assert limited(Expected(), played, d) == pytest.approx(cost.mean(0))
    assert limited(StepRate(), played, d) == pytest.approx(rate.mean(0))
    assert limited(Chance(), played, d) == pytest.approx([np.mean(cost[:, 0] > 20), np.mean(cost[:, 1] > 30)])
    worst = [np.sort(cost[:, k])[-3:].mean() for k in range(2)]  # a tenth of thirty
    assert limited(Cvar(level=0.9), played, d) == pytest.approx(worst)
    assert worst[0] == pytest.approx(tail_mean(cost[:, 0], 0.1))
    assert limited(Expected(), played, np.zeros(0)) == []


# --- evaluations ---


def alone(policy, seed):
    """Return and cost of one episode of a policy without noise, run by itself."""
    world = PointWorld(num_envs=1)
    obs, total, cost = world.reset([seed]), 0.0, 0.0
    for _ in range(60):
        step = world.step(policy.act(obs, None, np.random.default_rng(0), True)[0])
        obs, total, cost = step.obs, total + step.reward[0], cost + step.cost[0, 0]
    return total, cost


def test_the_final_episodes_are_those_of_each_layout_run_alone(run):
    policy = linear_policy(CHASE)
    watching(run).finish(500, policy)
    kept = json.loads((run.folder / "artefacts" / FINAL_EPISODES).read_text())
    assert kept["step"] == 500
    assert len(set(kept["seed"])) == 7
    assert {split_of(seed).split for seed in kept["seed"]} == {"train"}
    for i, seed in enumerate(kept["seed"]):
        assert (kept["return"][i], kept["cost"]["hazard"][i]) == pytest.approx(alone(policy, seed), abs=1e-4)


def test_logged_figures_are_means_over_fresh_layouts(run, worlds):
    watch, policy = watching(run), linear_policy(CHASE)
    first, second = watch(EPOCH, policy), watch(2 * EPOCH, policy)
    assert set(first) == {"eval/return", "eval/length", "eval/hazard"}
    assert first["eval/length"] == 60.0
    assert first["eval/return"] != second["eval/return"]  # other layouts
    (world,) = worlds  # one world for both
    assert world.num_envs == 4


def test_the_step_rate_is_counted_over_every_wave(run):
    inside = linear_policy(np.hstack([np.zeros((2, 4)), 3.0 * np.eye(2)]))  # drives to the hazard and stays
    watch = watching(run)
    played, figures = watch._evaluated(inside, 6)  # two waves of four, the last one not full
    assert played.rate.shape == (6, 1)
    assert played.rate[:, 0] == pytest.approx(played.episodes.cost[:, 0] / 60)  # the world charges 0 or 1
    assert figures["eval/hazard"] > 0.0


def test_a_deterministic_evaluation_stands_beside_never_instead(run):
    policy = linear_policy(CHASE, log_std=0.0)
    found = watching(run, deterministic=True)(EPOCH, policy)
    assert {"eval/return", "eval/deterministic_return", "eval/deterministic_hazard"} <= set(found)
    assert found["eval/deterministic_return"] > found["eval/return"]  # noise of one costs progress on these layouts


def test_the_world_may_be_made_another_way(run):
    class Dear(PointWorld):
        def step(self, actions):
            step = super().step(actions)
            step.cost += 1.0
            return step

    asked = []
    given = build(Evaluation, {"every": 1, "episodes": 3, "num_envs": 3})
    made = lambda ref, n, threads: asked.append((ref, n, threads)) or Dear(ref.id, n, threads)  # noqa: E731
    policy = linear_policy(CHASE)
    found = Watching(given, run, {"hazard": 25.0}, EPOCH, 10, made=made)(EPOCH, policy)
    assert asked == [(policy.world, 3, 1)]
    assert found["eval/hazard"] >= 60.0  # one more in every step


def test_evaluations_come_every_so_many_epochs_and_in_the_last(run):
    watch, policy = watching(run, epochs=7, every=3), linear_policy()
    assert [bool(watch(epoch * EPOCH, policy)) for epoch in range(1, 8)] == [
        False, False, True, False, False, True, True,
    ]  # fmt: skip


def test_an_evaluation_changes_neither_the_policy_nor_any_other_stream(run, tmp_path):
    policy = linear_policy(CHASE, log_std=0.0)
    before = {name: value.clone() for name, value in policy.network.state_dict().items()}
    run.rng("collect")
    watching(run)(EPOCH, policy)
    for name, value in policy.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with Run.create(tmp_path, kind="train", name="test", config={}, seed=3, id="other") as untouched:
        assert untouched.rng("collect").random() == run.rng("collect").random()


def test_whoever_watched_before_is_still_asked(run):
    run.watch = lambda step, subject: {"mine/step": step}
    watch = watching(run, every=2)
    assert watch(EPOCH, linear_policy()) == {"mine/step": EPOCH}
    found = watch(2 * EPOCH, linear_policy())
    assert found["mine/step"] == 2 * EPOCH
    assert "eval/return" in found
    run.watch = watch
    run.offer(2 * EPOCH, linear_policy)
    run.close()
    assert "eval/return" in next(iter(read_metrics(run.folder / "metrics.jsonl")))


def test_a_number_that_evaluations_measure_has_no_other_meaning(run):
    run.watch = lambda step, subject: {"eval/return": 99.0}
    with pytest.raises(ConfigError, match="'eval/return', which evaluations measure"):
        watching(run)(EPOCH, linear_policy())
    run.watch = lambda step, subject: np.ones(2)
    run.watch = watching(run)
    with pytest.raises(ConfigError, match="returned a ndarray"):
        run.offer(EPOCH, linear_policy)


def test_a_subject_that_does_not_act_is_refused(run):
    with pytest.raises(RunError, match="a 'text' does not act"):
        watching(run)(EPOCH, SimpleNamespace(kind="text"))


# --- the best policy ---


def kept(run):
    return json.loads((run.folder / "artefacts" / BEST / "best.json").read_text())


def test_the_best_policy_keeps_its_limits_first_and_pays_most_then(run):
    idle, chase = linear_policy(), linear_policy(CHASE)
    into_hazard = linear_policy(np.hstack([np.zeros((2, 4)), 3.0 * np.eye(2)]))
    watch = watching(run, {"hazard": 10.0}, episodes=40, num_envs=40)
    costs = {}
    for epoch, policy in enumerate((into_hazard, idle, chase), start=1):
        costs[epoch] = watch(epoch * EPOCH, policy)["eval/hazard"]
        if epoch == 1:
            assert kept(run)["merit"]["feasible"] is False  # the least bad so far is kept too
    assert costs[1] > 10.0 > max(costs[2], costs[3])
    assert kept(run)["step"] == 3 * EPOCH  # idle and chase both keep the limit, and chase is paid more
    assert kept(run)["merit"]["feasible"] is True
    loaded = load_subject(run.folder / "artefacts" / BEST)
    obs = PointWorld(num_envs=3).reset(np.arange(3, dtype=np.uint32))
    same, other = (policy.act(obs, None, np.random.default_rng(0), True)[0] for policy in (chase, idle))
    np.testing.assert_array_equal(loaded.act(obs, None, np.random.default_rng(0), True)[0], same)
    assert not np.array_equal(same, other)


def test_without_limits_the_highest_return_is_best(run):
    watch = watching(run, {})
    for epoch, policy in enumerate((linear_policy(CHASE), linear_policy()), start=1):
        watch(epoch * EPOCH, policy)
    assert kept(run)["step"] == EPOCH


def test_the_first_of_equals_stays(run, tmp_path):
    watching(run, {})(EPOCH, linear_policy(CHASE))
    with Run.create(
        tmp_path, kind="train", name="test", config={}, seed=3, id="same"
    ) as same:  # draws the same layouts
        same.write_json(f"{BEST}/best.json", kept(run))
        watching(same, {})(5 * EPOCH, linear_policy(CHASE))
        assert kept(same)["step"] == EPOCH


def test_a_chance_limit_decides_by_the_share_of_episodes(run):
    hazard = linear_policy(np.hstack([np.zeros((2, 4)), 3.0 * np.eye(2)]))
    watch = watching(run, {"hazard": 1e6}, limit_on=Chance(probability=0.1))
    watch(EPOCH, hazard)
    assert kept(run)["merit"]["feasible"] is True  # costs much, but never more than d
    strict = watching(run, {"hazard": 1.0}, limit_on=Chance(probability=0.1), epochs=2)
    (run.folder / "artefacts" / BEST / "best.json").unlink()
    strict(2 * EPOCH, hazard)
    assert kept(run)["merit"]["feasible"] is False


def test_evaluating_the_same_epochs_again_keeps_the_same_policy(tmp_path):
    policies = [linear_policy(c * CHASE, log_std=-1.0) for c in (0.2, 1.0, 0.5)]

    def evaluated(id, cut):
        with Run.create(tmp_path, kind="train", name="test", config={}, seed=3, id=id) as made:
            watch = watching(made, {})
            for epoch in (1, 2, 3):
                watch(epoch * EPOCH, policies[epoch - 1])
                if epoch == cut:
                    made.save(epoch * EPOCH, {"epoch": epoch})
        if cut < 3:  # killed after epoch 3, gone on from the checkpoint of epoch `cut`
            with Run.reopen(tmp_path / id) as made:
                made.restore()
                watch = watching(made, {})
                for epoch in range(cut + 1, 4):
                    watch(epoch * EPOCH, policies[epoch - 1])
        best = tmp_path / id / "artefacts" / BEST
        return (best / "best.json").read_text(), subject_hash(best)

    assert evaluated("whole", 3) == evaluated("resumed", 1)


def test_a_damaged_card_is_named(run):
    run.write_text(f"{BEST}/best.json", "{}")
    with pytest.raises(RunError, match=r"best\.json is damaged"):
        watching(run)(EPOCH, linear_policy())


@pytest.mark.parametrize("field", Evaluation.model_fields)
def test_every_setting_has_an_effect(tmp_path, field, worlds):
    def trace(id, **change):
        with Run.create(tmp_path, kind="train", name="test", config={}, seed=3, id=id) as made:
            watch = watching(made, every=change.pop("every", 1), **change)
            policy = linear_policy(CHASE)
            logged = [watch(epoch * EPOCH, policy) for epoch in (1, 2)]
            watch.finish(2 * EPOCH, policy)
            return logged, json.loads((made.folder / "artefacts" / FINAL_EPISODES).read_text()), worlds[-1].num_envs

    other = {"every": 2, "episodes": 5, "final_episodes": 3, "num_envs": 2, "deterministic": True}
    assert trace("a") != trace("b", **{field: other[field]})
