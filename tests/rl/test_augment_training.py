"""Rules in the loop: what handlers see, what is logged, what a checkpoint, a policy's file and a warm start carry."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy_worlds import Drift, SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.kinds import Cvar
from trueline.rl.augmentation.saute import Saute
from trueline.rl.augmentation.simmer import Simmer
from trueline.rl.augmentation.world import AugmentedBy
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.on_policy import Budgeted, Constrained, OnPolicyRecipe, Trainer
from trueline.rl.policy import load
from trueline.rl.updates.ppo import MinibatchPasses
from trueline.safety.recipes.first_order import CUP, ON_CRPO, P3O, PPO_PID
from trueline.safety.recipes.ppo import PPO_LAG
from trueline.safety.recipes.trust_region import CPO


class Drifts(SavedDrift):
    """A drift that begins single rows, made by a name."""

    def __init__(self, id: str = "drifts", num_envs: int = 1, threads: int = 1) -> None:
        super().__init__(num_envs, threads)

    def begin(self, rows: Any, seeds: Any) -> Any:
        for i, seed in zip(rows, seeds, strict=True):
            self._begin(int(i), int(seed))
        return self._observe()


@pytest.fixture(autouse=True)
def drifts(monkeypatch):
    entries = registry.entries
    own = Entry("env", "drifts", f"{__name__}:Drifts", "a point adrift")
    monkeypatch.setattr(registry, "entries", lambda kind: [own] if kind == "env" else entries(kind))
    monkeypatch.setattr(registry, "load", lambda kind, name: Drifts)


TINY = {
    "env": "drifts",
    "num_envs": 4,
    "steps_per_epoch": 80,
    "total_steps": 400,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
    "update": {"passes": 1, "minibatch": 40},
    "cost_limit": [2.0, 4.0],
    "checkpoint_epochs": 1,
}

SAUTE = OnPolicyRecipe("saute", Budgeted, augmentation=Saute(gamma=1.0))
SIMMER = OnPolicyRecipe("simmer", Budgeted, augmentation=Simmer(gamma=1.0, init=0.5, kp=0.5, smoothing=0.0))
EARLY = OnPolicyRecipe("early", Budgeted, augmentation=EarlyTermination())


def trainer(tmp_path, config_type, id="run", inputs=None, **settings):
    config = build(config_type, {**TINY, **settings})
    run = Run.create(tmp_path, kind="train", name="row", config=config, seed=1, id=id)
    return Trainer(config, run, inputs or {})


def logged(tmp_path, id="run"):
    lines = (tmp_path / id / "metrics.jsonl").read_text().splitlines()
    return [{key: x for key, x in json.loads(line).items() if not key.startswith("time/")} for line in lines]


class Watched:
    """A handler that remembers what it was shown."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seen = inner, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def update(self, state: Any, episode_cost: Any, limit: Any) -> Any:
        self.seen.append((episode_cost.numpy().copy(), limit.numpy().copy()))
        return self.inner.update(state, episode_cost, limit)


@pytest.mark.parametrize("takes_up", [SAUTE, SIMMER, EARLY])
def test_a_saved_policy_gets_the_world_it_was_trained_in(takes_up, tmp_path, rng):
    t = trainer(tmp_path, takes_up.Config)
    with t.run:
        policy = t.train()
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.world == policy.world
    assert isinstance(again.world.augmentation.rules, type(takes_up.augmentation))
    env = worlds.of(again.world, 3)
    assert env.observation_space.shape == (5,)
    episodes = run_episodes(env, range(6), lambda _: policy_actions(again, rng))
    assert len(episodes.episode_return) == 6
    # Measured by the world itself: no episode of the evaluation was ended by the rules, and costs go beyond the limit.
    assert (episodes.cost > [2.0, 4.0]).any()
    t.env.close()


def test_simmers_policy_starts_with_the_budget_it_ended_at(tmp_path):
    t = trainer(tmp_path, SIMMER.Config, window=1000)
    rules, terms, shares, played = t.rules.rules, t.rules.terms, [], []
    adapt = t.rules.adapt
    t.rules.adapt = lambda cost: (shares.append(t.rules.parameters["share"]), played.append(cost), adapt(cost))
    with t.run:
        policy = t.train()
    # Epoch by epoch the log has the budget that was played with, and the controller follows the world's own costs.
    state = rules.parameters(terms)
    for line, share, cost in zip(logged(tmp_path), shares, played, strict=True):
        np.testing.assert_array_equal(share, state["share"])
        told = [line["constraint/budget_right"], line["constraint/budget_off_axis"]]
        np.testing.assert_allclose(told, share * [2.0, 4.0])
        state = rules.adapted(terms, state, cost)
    by = policy.world.augmentation
    np.testing.assert_array_equal(by.parameters["share"], state["share"])
    assert (state["share"] != 0.5).all()  # it has moved
    start = worlds.of(policy.world, 2).reset()[:, 3:]
    np.testing.assert_allclose(start, np.tile(state["share"], (2, 1)), rtol=1e-6)


def test_what_is_logged_is_what_the_world_paid_and_charged(tmp_path):
    t = trainer(tmp_path, SAUTE.Config, cost_limit=[0.5, 0.5], augmentation={"unsafe_reward": -1000.0})
    with t.run:
        t.train()
    for line in logged(tmp_path):
        assert line["train/return"] > -100.0  # Drift's own rewards are of order one a step
        assert line["train/off_axis"] > 0.5
    assert t.collector.running_return.min() < -500.0  # while what is learnt from is the row's


def test_a_chance_is_steered_by_the_share_of_episodes_above_the_limit(tmp_path):
    t = trainer(tmp_path, Constrained, limit_on={"kind": "chance", "probability": 0.25}, window=1000)
    t.handler = watched = Watched(t.handler)
    with t.run:
        t.train()
    lines = logged(tmp_path)
    cost, limit = watched.seen[-1]
    np.testing.assert_array_equal(limit, [2.0, 4.0])
    np.testing.assert_array_equal(cost, (t.recent.cost > [2.0, 4.0]) * [8.0, 16.0])  # d/p for each
    first = watched.seen[0][0].mean(axis=0) / [8.0, 16.0]
    assert [lines[0]["constraint/right"], lines[0]["constraint/off_axis"]] == pytest.approx(first.tolist())
    limits = json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text())
    assert limits == {"constraint/right": 0.25, "constraint/off_axis": 0.25}


class Rightwards(Drifts):
    """Costs are 0 or 1."""

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        return replace(step, cost=(step.cost > 0.5).astype(np.float64))


@pytest.mark.parametrize("row", [PPO_LAG, PPO_PID, P3O, CUP, ON_CRPO, CPO], ids=lambda row: row.name)
def test_a_step_rate_of_costs_of_one_is_the_expected_cost_in_every_row(row, tmp_path, monkeypatch):
    # So that gains, penalties and tolerances, all set per cost of an episode, do to a rate what they do to a cost.
    monkeypatch.setattr(registry, "load", lambda kind, name: Rightwards)
    given = {**TINY, "update": {}, "steps_per_epoch": 96, "checkpoint_epochs": 1000}
    if isinstance(row.update, MinibatchPasses):
        given["update"] = TINY["update"]
    weights = []
    for id, limit, kind in (("cost", [1.5, 3.0], "expected"), ("rate", [0.125, 0.25], "step-rate")):
        config = build(row.Config, {**given, "cost_limit": limit, "limit_on": {"kind": kind}})
        with Run.create(tmp_path, kind="train", name="row", config=config, seed=1, id=id) as run:
            weights.append(Trainer(config, run, {}).train().network.state_dict())
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight.numpy(), weights[1][name].numpy(), err_msg=name)
    rates = [line["constraint/off_axis"] for line in logged(tmp_path, "rate")]
    costs = [line["train/off_axis"] for line in logged(tmp_path, "cost")]
    assert rates == pytest.approx([cost / 12.0 for cost in costs])


def test_a_cvars_excess_is_kept_when_its_threshold_moves(tmp_path):
    t = trainer(tmp_path, Constrained, limit_on={"kind": "cvar", "level": 0.5, "rate": 0.5}, window=1000)
    t.handler = watched = Watched(t.handler)
    moved = []
    adapt = t.rules.adapt
    t.rules.adapt = lambda cost: (moved.append(t.rules.limits()), adapt(cost))
    with t.run:
        t.train()
    assert len({tuple(d) for d in moved}) > 2
    seen = [(cost - limit) for cost, limit in watched.seen]
    for before, after in itertools.pairwise(seen):
        np.testing.assert_allclose(after[: len(before)], before, atol=1e-12)
    # Each is a bound on the CVaR of its own epoch: J̃ − d̃ + d = ν + E(Σc − ν)₊/(1 − α).
    raw = t.recent.cost[: len(seen[0])]
    nu = np.array([2.0, 4.0]) - moved[0]
    np.testing.assert_allclose(seen[0] + [2.0, 4.0], nu + np.maximum(raw - nu, 0.0) / 0.5, rtol=1e-6)


def test_the_expected_cost_needs_no_wrapper(tmp_path):
    t = trainer(tmp_path, Constrained)
    assert isinstance(t.env, Drifts)
    assert t.policy().world.augmentation is None
    t.run.finish("done")


@pytest.mark.parametrize(
    ("config_type", "settings"),
    [(SIMMER.Config, {}), (EARLY.Config, {}), (Constrained, {"limit_on": {"kind": "cvar", "rate": 0.3}})],
)
def test_a_resumed_run_goes_on_bit_by_bit(config_type, settings, tmp_path):
    whole = trainer(tmp_path, config_type, "whole", **settings)
    with whole.run:
        whole.train()
    # The same, stopped after two epochs: its last checkpoint is what a new trainer takes up.
    stopped = trainer(tmp_path, config_type, "stopped", **settings)
    with stopped.run:
        stopped.collector.start()
        for _ in range(2):
            stopped.one_epoch()
        stopped.run.save(stopped.collector.total_steps, stopped.state_dict())
    with Run.reopen(tmp_path / "stopped") as run:
        Trainer(build(config_type, {**TINY, **settings}), run, {}).train()
    assert logged(tmp_path, "stopped") == logged(tmp_path, "whole")


def test_in_a_world_without_state_new_episodes_begin_by_the_parameters_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda kind, name: lambda id, num_envs, threads: Drift(num_envs))
    before = trainer(tmp_path, SIMMER.Config, "before")
    with before.run:
        before.train()
    after = trainer(tmp_path, SIMMER.Config, "after")
    after.load_state_dict(before.state_dict())
    share = before.rules.parameters["share"]
    assert (share != 0.5).all()
    np.testing.assert_array_equal(after.rules.parameters["share"], share)
    shown = after.collector.inputs["vector"][after.collector.steps, :, 3:]
    np.testing.assert_allclose(shown, np.tile(share, (4, 1)), rtol=1e-6)


def test_a_warm_start_goes_on_from_what_its_rules_had_come_to(tmp_path):
    first = trainer(tmp_path, SIMMER.Config, "first")
    with first.run:
        policy = first.train()
    second = trainer(tmp_path, SIMMER.Config, "second", {"policy": policy}, cost_limit=[1.0, 2.0])
    np.testing.assert_array_equal(second.rules.parameters["share"], policy.world.augmentation.parameters["share"])
    with pytest.raises(ConfigError, match="other network shapes"):
        trainer(tmp_path, Constrained, "third", {"policy": policy})


def test_rules_that_do_not_fit_are_refused_before_a_run_exists(tmp_path):
    with pytest.raises(ConfigError, match="strict Sauté"):
        SAUTE.check(build(SAUTE.Config, {**TINY, "cost_limit": 0.0}), tmp_path)
    row = OnPolicyRecipe("rate", Constrained)
    with pytest.raises(ConfigError, match="a share of the steps"):
        row.check(build(Constrained, {**TINY, "limit_on": {"kind": "step-rate"}}), tmp_path)
    assert SAUTE.limits(build(SAUTE.Config, TINY)) == {"right": 2.0, "off_axis": 4.0}


def test_a_row_has_its_own_rules_and_no_others():
    assert build(SAUTE.Config, TINY).augmentation == Saute(gamma=1.0)
    assert build(SAUTE.Config, {**TINY, "augmentation": {"unsafe_reward": -3.0}}).augmentation.gamma == 1.0
    plain = OnPolicyRecipe("plain", Budgeted, augmentation=Saute())
    for other in (SAUTE, plain):
        with pytest.raises(ConfigError, match="augmentation"):
            build(other.Config, {**TINY, "augmentation": {"kind": "simmer"}})
    with pytest.raises(ConfigError, match="Use Budgeted"):
        OnPolicyRecipe("wrong", Constrained, augmentation=Saute())


def test_a_reference_survives_its_file():
    by = AugmentedBy(rules=Cvar(level=0.8), limit=(1.0,), parameters={"threshold": [0.3]})
    assert build(AugmentedBy, json.loads(json.dumps(by.model_dump(mode="json")))) == by
