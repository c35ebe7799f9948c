"""Limits that move over a training or come from an earlier run: their closed forms, and what every loop is given."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from offline_cases import behaviour, data_of

from trueline.core import registry
from trueline.core.config import build, to_toml
from trueline.core.errors import ConfigError, RunError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.env import Step
from trueline.rl.exact.suite import instance
from trueline.rl.from_gymnasium import FromGymnasium
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.schedule import Calibrated, Limits, Linear, Steps
from trueline.rl.off_policy.training import Trainer as OffPolicyTrainer
from trueline.rl.off_policy.training import value_limit
from trueline.rl.offline.data import write_parquet
from trueline.rl.offline.training import Trainer as OfflineTrainer
from trueline.rl.on_policy import Constrained, OnPolicy, OnPolicyRecipe, Trainer
from trueline.safety.recipes import augmented, offline
from trueline.safety.recipes.first_order import P3O
from trueline.safety.recipes.off_policy import SAC_LAG
from trueline.safety.recipes.planning import CCE_PETS
from trueline.safety.recipes.ppo import PPO_LAG

LINE = {"kind": "linear", "start": 4.0, "end": 1.0}


# -- closed forms -----------------------------------------------------------------------------------------------------


def limits(cost_limit: Any, names: tuple[str, ...] = ("a", "b")) -> Limits:
    return Limits.of(cost_limit, names, "world")


@given(st.floats(0.0, 1.0))
def test_a_line_goes_from_start_to_end_between_its_shares(x):
    path = limits(Linear(start=(4.0, 10.0), end=(1.0, 20.0), begin=0.25, until=0.75))
    done = min(max((x - 0.25) / 0.5, 0.0), 1.0)
    np.testing.assert_allclose(path.at(x), [4.0 - 3.0 * done, 10.0 + 10.0 * done])


@pytest.mark.parametrize(("x", "d"), [(0.0, 5.0), (0.29, 5.0), (0.3, 3.0), (0.79, 3.0), (0.8, 1.0), (1.0, 1.0)])
def test_steps_hold_each_limit_until_the_next(x, d):
    np.testing.assert_array_equal(limits(Steps(values=(5.0, (3.0, 3.0), 1.0), at=(0.3, 0.8))).at(x), [d, d])


def test_one_number_stands_for_every_cost_and_does_not_move():
    for given_, d in ((2.5, [2.5, 2.5]), ((1.0, 2.0), [1.0, 2.0])):
        path = limits(given_)
        assert not path.moves
        assert path.logged(path.at(0.5)) == {}
        for x in (0.0, 0.5, 1.0):
            assert path.at(x).tolist() == d
    assert limits((1.0, 2.0)).final == {"a": 1.0, "b": 2.0}


def test_the_first_epoch_has_the_start_and_the_last_the_end():
    path = limits(Linear(start=4.0, end=1.0), ("a",))
    assert [float(path.in_epoch(epoch, 4)[0]) for epoch in range(4)] == [4.0, 3.0, 2.0, 1.0]
    assert path.in_epoch(0, 1) == [1.0]
    assert path.final == {"a": 1.0}
    assert path.logged(path.at(0.0)) == {"constraint/limit_a": 4.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "linear", "start": 1.0, "end": 2.0, "begin": 0.5, "until": 0.5}, "Give a later share"),
        ({"kind": "steps", "values": [1.0, 2.0], "at": [0.5, 0.6]}, "one share for each change"),
        ({"kind": "steps", "values": [1.0, 2.0, 3.0], "at": [0.6, 0.5]}, "rising shares"),
        ({"kind": "linear", "start": 1.0}, "cost_limit.end is required"),
        ({"kind": "cosine"}, "cost_limit"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        build(Constrained, {"cost_limit": wrong})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Linear(start=1.0, end=(1.0, 2.0, 3.0)), "cost_limit has 3 values, but world reports 2 costs"),
        (Linear(start=-1.0, end=1.0), "cost_limit is -1.0"),
        (Steps(values=(1.0, float("inf")), at=(0.5,)), "cost_limit is inf"),
    ],
)
def test_every_limit_on_the_way_has_to_fit_the_costs(wrong, says):
    with pytest.raises(ConfigError, match=says):
        limits(wrong)


@pytest.mark.parametrize("row", [PPO_LAG, SAC_LAG, offline.BCQ_LAG, CCE_PETS], ids=lambda row: row.name)
@pytest.mark.parametrize(
    "given_",
    [
        3.0,
        [3.0, 4.0],
        {"b": 3.0, "a": 4.0},
        LINE,
        {"kind": "steps", "values": [3.0, [1.0, 2.0]], "at": [0.5]},
        {"kind": "calibrated", "run": "run://free", "share": 0.25},
    ],
)
def test_every_kind_survives_a_settings_file(row, given_):
    config = build(row.Config, {"cost_limit": given_})
    assert build(row.Config, tomllib.loads(to_toml(config))) == config


# -- calibration ------------------------------------------------------------------------------------------------------

TINY = {"env": "Cmdp-Gamble-v0", "num_envs": 4, "steps_per_epoch": 16, "total_steps": 80, "actor": {"hidden": []},
        "critic": {"hidden": []}, "checkpoint_epochs": 1}  # fmt: skip


def reference(root, id="free", status="done", **costs):
    """A run whose log says what its policy cost."""
    with Run.create(root, kind="train", name="ppo", config=build(OnPolicy, TINY), seed=0, id=id) as run:
        for t in range(20):
            run.log((t + 1) * 100, **{f"train/{name}": cost - t for name, cost in costs.items()})
        run.finish(status)


def test_a_calibrated_limit_is_a_share_of_what_the_earlier_policy_cost(tmp_path):
    reference(tmp_path, a=100.0, b=50.0)
    path = Limits.of(Calibrated(run="run://free", share=0.5, last=0.2), ("b", "a"), TINY["env"], tmp_path)
    # Of 20 lines the last four, t = 16 … 19: 50 − 17.5 and 100 − 17.5.
    np.testing.assert_allclose(path.at(0.3), [0.5 * 32.5, 0.5 * 82.5])
    assert not path.moves
    by_folder = Limits.of(Calibrated(run=str(tmp_path / "free"), last=0.05), ("a",), TINY["env"])
    np.testing.assert_allclose(by_folder.at(1.0), [0.5 * 81.0])


def test_a_run_that_cannot_calibrate_is_refused(tmp_path):
    reference(tmp_path, a=10.0)
    reference(tmp_path, "half", "stopped", a=10.0)
    for run, names, error, says in (
        ("run://free", ("c",), ConfigError, "no train/c"),
        ("run://half", ("a",), ConfigError, "which is stopped"),
        ("run://none", ("a",), RunError, "not in"),
    ):
        with pytest.raises(error, match=says):
            Limits.of(Calibrated(run=run), names, TINY["env"], tmp_path)
    with pytest.raises(ConfigError, match=r"which is of .*, not of another"):
        Limits.of(Calibrated(run="run://free"), ("a",), "another", tmp_path)
    with pytest.raises(ConfigError, match="Give the limit as a number here"):
        PPO_LAG.limits(build(PPO_LAG.Config, {**TINY, "cost_limit": {"kind": "calibrated", "run": "run://free"}}))


class Walk(gym.Env):
    """An environment whose plug-in calls it by another name than its class has."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {"cost": 1.0}


def walk(id, num_envs=1, threads=1):
    return FromGymnasium(Walk, num_envs, max_episode_steps=5)


def test_a_world_is_itself_by_whatever_name_its_class_has(tmp_path):
    if "Calibrated-Walk-v0" not in {entry.name for entry in registry.entries("env")}:
        registry.add(Entry("env", "Calibrated-Walk-v0", "test_limit_schedule:walk", "for tests"), "tests")
    assert worlds.make("Calibrated-Walk-v0").id == "Calibrated-Walk-v0"
    given = {**TINY, "env": "Calibrated-Walk-v0"}
    with Run.create(tmp_path, kind="train", name="row", config=build(PPO_LAG.Config, given), seed=0, id="free") as run:
        for step in (1, 2):
            run.log(step, **{"train/cost": 4.0})
    config = build(PPO_LAG.Config, {**given, "cost_limit": {"kind": "calibrated", "run": "run://free", "last": 1.0}})
    PPO_LAG.check(config, tmp_path)


def test_a_training_under_a_calibrated_limit_holds_it(tmp_path):
    reference(tmp_path, cost=39.0)
    config = build(PPO_LAG.Config, {**TINY, "cost_limit": {"kind": "calibrated", "run": "run://free", "last": 0.1}})
    PPO_LAG.check(config, tmp_path)
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        PPO_LAG.train(config, run, {})
    drawn = json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text())
    assert drawn == {"train/cost": pytest.approx(0.5 * 20.5)}


# -- the loops --------------------------------------------------------------------------------------------------------


def logged(root, id="run"):
    return [json.loads(line) for line in (root / id / "metrics.jsonl").read_text().splitlines()]


def spied(monkeypatch, attribute="update", of=Lagrangian):
    """The limits that a handler is given."""
    seen, original = [], getattr(of, attribute)

    def spy(self, state, episode_cost, limit):
        seen.append(limit.tolist())
        return original(self, state, episode_cost, limit)

    monkeypatch.setattr(of, attribute, spy)
    return seen


def test_an_on_policy_handler_is_given_the_limit_of_the_moment(tmp_path, monkeypatch):
    seen = spied(monkeypatch)
    config = build(PPO_LAG.Config, {**TINY, "cost_limit": LINE})
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        Trainer(config, run, {}).train()
    assert seen == [[4.0], [3.25], [2.5], [1.75], [1.0]]
    assert [line["constraint/limit_cost"] for line in logged(tmp_path)] == [4.0, 3.25, 2.5, 1.75, 1.0]
    assert json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text()) == {"train/cost": 1.0}
    assert PPO_LAG.limits(config) == {"cost": 1.0}


def test_a_slack_is_measured_from_the_limit_of_the_moment(tmp_path, monkeypatch):
    seen, original = [], type(P3O.update).learn

    def spy(self, network, adam, batch, *rest):
        seen.append(float(batch.advantage.slack[0]))
        return original(self, network, adam, batch, *rest)

    monkeypatch.setattr(type(P3O.update), "learn", spy)
    config = build(
        P3O.Config, {**TINY, "window": 8, "cost_limit": {"kind": "steps", "values": [9.0, 0.5], "at": [0.6]}}
    )
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        trainer = Trainer(config, run, {})
        trainer.train()
    costs = [line["train/cost"] for line in logged(tmp_path)]
    # (J_C − d)/2 with two steps an episode and the episodes of an epoch as its window.
    np.testing.assert_allclose(
        seen, [(j - d) / 2.0 for j, d in zip(costs, [9.0, 9.0, 9.0, 0.5, 0.5], strict=True)], atol=1e-6
    )


def test_a_resumed_run_goes_on_with_the_limit_it_was_at(tmp_path, monkeypatch):
    config = build(PPO_LAG.Config, {**TINY, "cost_limit": LINE})
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        trainer = Trainer(config, run, {})
        trainer.collector.start()
        for _ in range(2):
            trainer.one_epoch()
        run.save(trainer.total_steps, trainer.state_dict())
    seen = spied(monkeypatch)
    with Run.reopen(tmp_path / "run") as run:
        Trainer(config, run, {}).train()
    assert seen == [[2.5], [1.75], [1.0]]


def test_an_off_policy_handler_is_given_the_limit_of_the_moment(tmp_path, monkeypatch):
    seen = spied(monkeypatch)
    given_ = {**TINY, "warm_up": 16, "cost_limit": LINE, "update": {"batch": 4}, "cost_gamma": 0.5}
    config = build(SAC_LAG.Config, given_)
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        trainer = OffPolicyTrainer(config, run, {})
        guides = [float(trainer.guide.limit[0])]
        original = trainer.one_epoch

        def epoch():
            note = original()
            guides.append(float(trainer.guide.limit[0]))
            return note

        monkeypatch.setattr(trainer, "one_epoch", epoch)
        trainer.train()
    assert sorted({tuple(d) for d in seen}, reverse=True) == [(3.25,), (2.5,), (1.75,), (1.0,)]  # none in the warm-up
    assert seen == sorted(seen, reverse=True)
    wanted = value_limit(torch.tensor([4.0, 4.0, 3.25, 2.5, 1.75, 1.0]), 0.5, 2)
    np.testing.assert_allclose(guides, wanted.tolist(), rtol=1e-6)


def test_offline_terms_are_of_the_limit_of_the_moment_and_rows_of_the_last(tmp_path, monkeypatch):
    cmdp = instance("Tolls")
    write_parquet(data_of(cmdp, behaviour(cmdp, 0), 200), tmp_path / "d.parquet")
    given_ = {"env": "Cmdp-Tolls-v0", "dataset": str(tmp_path / "d.parquet"), "total_steps": 6, "steps_per_epoch": 2,
              "actor": {"hidden": [4]}, "critic": {"hidden": [4]}}  # fmt: skip
    line = {"kind": "linear", "start": 8.0, "end": 2.0}
    config = build(offline.C_CRR.Config, {**given_, "cost_limit": line, "multiplier_after": 0})
    seen, original = [], OfflineTrainer._gradient_step
    monkeypatch.setattr(
        OfflineTrainer,
        "_gradient_step",
        lambda self: (seen.append(float(self.terms.step_limit[0]) * cmdp.horizon), original(self))[1],
    )
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        OfflineTrainer(config, run).train()
    np.testing.assert_allclose(seen, [8.0, 8.0, 5.0, 5.0, 2.0, 2.0])
    kept = {}
    for name, limit in (("moving", line), ("fixed", 2.0)):
        safe = build(offline.BC_SAFE.Config, {**given_, "cost_limit": limit})
        with Run.create(tmp_path, kind="train", name="row", config=safe, seed=0, id=name) as run:
            kept[name] = len(OfflineTrainer(safe, run).rows)
    assert kept["moving"] == kept["fixed"] < 200 * cmdp.horizon


def test_rules_that_keep_their_own_limit_refuse_one_that_moves(tmp_path):
    saute = augmented.PPO_SAUTE
    with pytest.raises(ConfigError, match="cost_limit moves during the training"):
        saute.check(build(saute.Config, {**TINY, "cost_limit": LINE}), tmp_path)
    chance = build(Constrained, {**TINY, "cost_limit": LINE, "limit_on": {"kind": "chance"}})
    with pytest.raises(ConfigError, match="cost_limit moves during the training"):
        OnPolicyRecipe("row", Constrained).check(chance, tmp_path)


class Slope:
    """One-step episodes that pay −(a − 0.8)² and cost 1 + a: under a mean cost of d the best action is d − 1."""

    id = "slope"
    costs: tuple[str, ...] = ("effort",)
    max_episode_steps = 1

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.seed_source = None

    def reset(self, seeds=None):
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        return np.ones((self.num_envs, 1), np.float32)

    def step(self, actions):
        a = actions[:, 0].astype(np.float64).clip(-1.0, 1.0)
        self.episode_seed[:] = self.seed_source(self.num_envs)
        over, obs = np.ones(self.num_envs, np.bool_), np.ones((self.num_envs, 1), np.float32)
        return Step(obs, -np.square(a - 0.8), (1.0 + a)[:, None], over, ~over, obs.copy())

    def close(self):
        pass


def slope(id, num_envs, threads=1):
    return Slope(num_envs)


@pytest.mark.parametrize("start", [0.7, 1.6])
def test_a_training_follows_the_optimum_of_the_moment_to_that_of_the_end(start, tmp_path):
    registry.add(Entry("env", "Schedule-Slope-v0", "test_limit_schedule:slope", "for tests"), "tests")
    given_ = {
        "env": "Schedule-Slope-v0", "num_envs": 64, "steps_per_epoch": 256, "total_steps": 120 * 256, "window": 256,
        "gamma": 1.0, "cost_gamma": 1.0, "actor": {"hidden": [], "log_std": -1.5}, "critic": {"hidden": []},
        "update": {"passes": 4, "minibatch": 256, "lr": 0.01, "critic_lr": 0.05, "target_kl": None,
                   "schedule": "constant"},
        "standardise": "mix", "checkpoint_epochs": 1000, "averaged_share": 0.2,
        "constraint": {"kind": "pid", "kp": 2.0, "ki": 0.1, "kd": 0.0, "smoothing": 0.5, "init": 1.0},
        "cost_limit": {"kind": "linear", "start": start, "end": 1.2, "begin": 0.1, "until": 0.5},
    }  # fmt: skip
    config = build(PPO_LAG.Config, given_)
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        policy = PPO_LAG.train(config, run, {})
    action, _ = policy.act(np.ones((1, 1), np.float32), None, np.random.default_rng(0), deterministic=True)
    assert float(action[0, 0]) == pytest.approx(0.2, abs=0.07)
    lines = logged(tmp_path)
    error = [line["train/effort"] - line["constraint/limit_effort"] for line in lines]
    assert np.abs(np.mean(error[20:60])) < 0.12  # on the way, where the limit moves by 0.01 an epoch
    assert np.abs(np.mean(error[96:])) < 0.06
