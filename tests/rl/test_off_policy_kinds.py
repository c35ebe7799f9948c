"""Limits on a rate, a chance or a tail, off-policy: known optima, what is remembered, steered by and resumed."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from toy_worlds import SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.env import Step
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.off_policy.networks import load
from trueline.rl.off_policy.training import Trainer
from trueline.safety.recipes.off_policy import CVPO, SAC_LAG, SAC_PID, TD3_LAG


class NoisySlope:
    """One-step episodes that pay −(a − 0.8)² and cost (a + u)₊ with u uniform on ±½, drawn by the seed.

    For 0 ≤ a ≤ ½: P(c > 0) = a + ½, P(c > 0.3) = a + 0.2, and the mean of the worst half of episodes is a + ¼. Limits
    of 0.7, 0.4 and 0.45 on these all have a = 0.2 as their best action, and λ* = 2·(0.8 − 0.2) = 1.2.
    """

    id = "noisy-slope"
    costs: tuple[str, ...] = ("effort",)
    max_episode_steps = 1

    def __init__(self, num_envs):
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
        u = self.episode_seed * (0.5**31) - 0.5  # training layouts are below 2³¹
        self.episode_seed[:] = self.seed_source(self.num_envs)
        over, obs = np.ones(self.num_envs, np.bool_), np.ones((self.num_envs, 1), np.float32)
        return Step(obs, -np.square(a - 0.8), np.maximum(a + u, 0.0)[:, None], over, ~over, obs.copy())

    def close(self):
        pass


def noisy(id, num_envs, threads=1):
    return NoisySlope(num_envs)


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


@pytest.fixture(autouse=True)
def _toys():
    registry.add(Entry("env", "Kinds-Slope-v0", "test_off_policy_kinds:noisy", "for tests"), "tests")
    registry.add(Entry("env", "Kinds-Drift-v0", "test_off_policy_kinds:drift", "for tests"), "tests")


def trained(tmp_path, row, given, id="run", inputs=None):
    config = build(row.Config, given)
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=0, id=id) as run:
        trainer = Trainer(config, run, inputs or {})
        policy = trainer.train()
    return trainer, policy


def logged(tmp_path, id="run"):
    lines = [json.loads(line) for line in (tmp_path / id / "metrics.jsonl").read_text().splitlines()]
    return [{key: x for key, x in line.items() if not key.startswith("time/")} for line in lines]


# -- known optima -----------------------------------------------------------------------------------------------------

BANDIT = {
    "env": "Kinds-Slope-v0",
    "num_envs": 16,
    "steps_per_epoch": 256,
    "total_steps": 16 * 700,
    "warm_up": 256,
    "updates_per_step": 1.0 / 16.0,
    "capacity": 4096,
    "averaged_share": 0.3,
    "checkpoint_epochs": 1000,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [16, 16]},
    "window": 64,
    "episodes_per_move": 16,  # a wave
    "update": {"batch": 64, "lr": 3e-3, "critic_lr": 5e-3, "delay": 1},
    "constraint": {"kind": "pid", "kp": 0.5, "ki": 0.02, "kd": 0.0, "smoothing": 0.7, "init": 1.0},
}
KINDS = {
    "rate": ({"kind": "step-rate"}, 0.7, 0.7),
    "chance": ({"kind": "chance", "probability": 0.4}, 0.3, 0.4),
    "tail": ({"kind": "cvar", "level": 0.5, "rate": 0.2}, 0.45, 0.45),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_action_within_the_limit_is_found(kind, tmp_path):
    limit_on, cost_limit, stated = KINDS[kind]
    alpha = {"alpha": 0.002}
    given = {**BANDIT, "limit_on": limit_on, "cost_limit": cost_limit, "update": {**BANDIT["update"], **alpha}}
    trainer, policy = trained(tmp_path, SAC_PID, given)
    shown = worlds.of(policy.world, 1).reset(np.zeros(1, np.uint32))
    action, _ = policy.act(shown, None, np.random.default_rng(0), deterministic=True)
    # With these limits on the mean cost it would be 0.39 to 0.7, without any 0.8.
    assert float(action[0, 0]) == pytest.approx(0.2, abs=0.08)
    late = logged(tmp_path)[-20:]
    assert np.mean([line["constraint/effort"] for line in late]) == pytest.approx(stated, abs=0.07)
    unit = trainer.rules.rules.unit(trainer.rules.terms).item()  # of cost to one of what the limit counts
    assert np.mean([line["constraint/multiplier_effort"] for line in late]) * unit == pytest.approx(1.2, abs=0.5)
    if kind == "tail":
        assert late[-1]["constraint/threshold_effort"] == pytest.approx(0.2, abs=0.1)  # the median of the cost
    assert trainer.limited == {"effort": cost_limit}


def test_a_multiplier_of_the_wrong_sign_is_found_out(tmp_path, monkeypatch):
    original = Lagrangian.update
    monkeypatch.setattr(
        Lagrangian, "update", lambda self, state, cost, limit: original(self, state, 2 * limit - cost, limit)
    )
    lag = {"kind": "lagrangian", "rule": "sgd", "lr": 0.05, "init": 0.5}
    given = {**BANDIT, "limit_on": KINDS["chance"][0], "cost_limit": 0.3, "constraint": lag}
    _, policy = trained(tmp_path, TD3_LAG, {**given, "total_steps": 16 * 400})
    shown = worlds.of(policy.world, 1).reset(np.zeros(1, np.uint32))
    action, _ = policy.act(shown, None, np.random.default_rng(0), deterministic=True)
    assert abs(float(action[0, 0]) - 0.2) > 0.3


# -- the loop ---------------------------------------------------------------------------------------------------------

TINY = {
    "env": "Kinds-Drift-v0",
    "num_envs": 4,
    "steps_per_epoch": 48,
    "total_steps": 240,
    "warm_up": 96,
    "updates_per_step": 0.25,
    "capacity": 1000,
    "checkpoint_epochs": 1,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
    "update": {"batch": 16},
    "cost_limit": [1.0, 3.0],
}
TAIL = {"limit_on": {"kind": "cvar", "level": 0.5, "rate": 0.5}, "cost_limit": [6.0, 20.0]}


@pytest.mark.parametrize("limit_on", [kind for kind, *_ in KINDS.values()], ids=list(KINDS))
def test_the_replay_holds_what_the_kind_charges_and_the_log_what_the_world_does(limit_on, tmp_path, monkeypatch):
    seen, original = [], SavedDrift.step

    def spy(self, actions):
        step = original(self, actions)
        seen.append(step)
        return step

    monkeypatch.setattr(SavedDrift, "step", spy)
    limit = [1.0, 1.0] if limit_on["kind"] == "step-rate" else [1.0, 3.0]
    trainer, _ = trained(tmp_path, SAC_LAG, {**TINY, "limit_on": limit_on, "cost_limit": limit})
    charged, spent = [], np.zeros((4, 2))
    nu = np.array(limit)
    for step in seen:
        after = spent + step.cost
        if limit_on["kind"] == "step-rate":
            charged.append(step.cost > 0)
        elif limit_on["kind"] == "chance":
            charged.append(((after > limit) & (spent <= limit)) * np.array(limit) / limit_on["probability"])
        else:
            charged.append((np.maximum(after - nu, 0) - np.maximum(spent - nu, 0)) / 0.5)
        spent = np.where(step.ended[:, None], 0.0, after)
    width = trainer.codec.width
    found = trainer.replay._rows[: trainer.replay.total, width + 2 : width + 5].numpy()
    rewards = np.concatenate([step.reward for step in seen])
    np.testing.assert_allclose(found[:, 0], rewards, rtol=1e-5)
    wanted = np.concatenate(charged).astype(float)
    first = 48 if limit_on["kind"] == "cvar" else len(wanted)  # ν moves after the first epoch
    np.testing.assert_allclose(found[:first, 1:], wanted[:first], atol=1e-5)
    assert found[:, 1:].any()
    total = np.sum([step.cost.sum(0) for step in seen], axis=0)
    np.testing.assert_allclose(trainer.paid.total, total)


def test_the_handler_is_given_what_is_limited(tmp_path, monkeypatch):
    seen, original = [], Lagrangian.update

    def spy(self, state, episode_cost, limit):
        seen.append((episode_cost.numpy().copy(), limit.numpy().copy()))
        return original(self, state, episode_cost, limit)

    monkeypatch.setattr(Lagrangian, "update", spy)
    trainer, _ = trained(tmp_path, SAC_LAG, {**TINY, "limit_on": {"kind": "chance", "probability": 0.25}})
    cost, limit = seen[-1]
    np.testing.assert_array_equal(limit, [1.0, 3.0])
    np.testing.assert_array_equal(cost, (trainer.recent.cost > [1.0, 3.0]) * [4.0, 12.0])  # d/p for each
    limits = json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text())
    assert limits == {"constraint/right": 0.25, "constraint/off_axis": 0.25}


def test_a_cvars_excess_is_kept_when_its_threshold_moves(tmp_path):
    config = build(SAC_LAG.Config, {**TINY, **TAIL, "window": 1000})
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="run") as run:
        trainer = Trainer(config, run, {})
        trainer.replay.restore(None)
        trainer.stepping.reset()
        excess, limits = np.zeros((0, 2)), []
        for _ in range(5):
            trainer.one_epoch()
            now = trainer.steering.cost - trainer.limits().numpy()
            np.testing.assert_allclose(now[: len(excess)], excess, atol=1e-12)
            excess = now
            limits.append(tuple(trainer.limits().tolist()))
        assert len(set(limits)) > 2
        trainer.env.close()


@pytest.mark.parametrize("kind", [{"limit_on": {"kind": "chance"}}, TAIL], ids=["chance", "tail"])
def test_a_resumed_run_goes_on_bit_by_bit(kind, tmp_path):
    given = {**TINY, **kind}
    trained(tmp_path, SAC_LAG, given, "whole")
    config = build(SAC_LAG.Config, given)
    with Run.create(tmp_path, kind="train", name=SAC_LAG.name, config=config, seed=0, id="stopped") as run:
        stopped = Trainer(config, run, {})
        stopped.replay.restore(None)
        stopped.stepping.reset()
        for _ in range(3):
            stopped.one_epoch()
        run.save(stopped.total_steps, stopped.state_dict())
    with Run.reopen(tmp_path / "stopped") as run:
        Trainer(config, run, {}).train()
    assert logged(tmp_path, "stopped") == logged(tmp_path, "whole")


def test_a_saved_policy_sees_what_it_was_trained_to_see_and_a_warm_start_goes_on(tmp_path):
    given = {**TINY, **TAIL}
    trainer, policy = trained(tmp_path, SAC_LAG, given, "first")
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.world == policy.world
    env = worlds.of(again.world, 3)
    assert env.observation_space.shape == (5,)
    assert again.act(env.reset(), None, np.random.default_rng(0))[0].shape == (3, 2)
    config = build(SAC_LAG.Config, given)
    with Run.create(tmp_path, kind="train", name="row", config=config, seed=0, id="second") as run:
        second = Trainer(config, run, {"policy": policy})
        learnt = trainer.rules.parameters["threshold"]
        assert (learnt != [6.0, 20.0]).all()
        np.testing.assert_allclose(second.rules.parameters["threshold"], learnt)
        second.env.close()


def test_kinds_that_fit_nothing_are_refused_before_a_run_exists(tmp_path):
    rate = build(SAC_LAG.Config, {**TINY, "limit_on": {"kind": "step-rate"}})
    with pytest.raises(ConfigError, match="a share of the steps"):
        SAC_LAG.check(rate, tmp_path)
    with pytest.raises(ConfigError, match="no episode breaks"):
        build(SAC_LAG.Config, {**TINY, "limit_on": {"kind": "hard-zero"}})
    # CVPO holds a value of discounted costs, on average over states: no kind but the expected cost is that.
    with pytest.raises(ConfigError, match="limit_on"):
        build(CVPO.Config, {**TINY, "limit_on": {"kind": "chance"}})
    line = {"kind": "linear", "start": 2.0, "end": 1.0}
    with pytest.raises(ConfigError, match="cost_limit moves"):
        SAC_LAG.check(build(SAC_LAG.Config, {**TINY, "limit_on": {"kind": "chance"}, "cost_limit": line}), tmp_path)


def test_the_expected_cost_needs_no_wrapper(tmp_path):
    trainer, policy = trained(tmp_path, SAC_LAG, {**TINY, "total_steps": 48})
    assert trainer.rules is None
    assert policy.world.augmentation is None
