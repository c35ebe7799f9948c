"""The off-policy loop: what is remembered, when gradient steps begin, what steers the constraint, and known optima."""

from __future__ import annotations

import contextlib
import itertools
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_worlds import Drift, SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import BadWorld, ConfigError, Diverged, RunError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.streams import case_seeds, split_of
from trueline.rl.env import Step
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.handlers.constraint import normalised
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.off_policy.cvpo import Cvpo
from trueline.rl.off_policy.networks import QPolicy
from trueline.rl.off_policy.replay import Replay
from trueline.rl.off_policy.sac import Sac
from trueline.rl.off_policy.td3 import DDPG, Td3
from trueline.rl.off_policy.training import (
    Constrained,
    Limited,
    OffPolicy,
    OffPolicyRecipe,
    Trainer,
    value_limit,
)
from trueline.rl.on_policy import OnPolicy, OnPolicyRecipe
from trueline.rl.training import limits_of
from trueline.safety.recipes import off_policy as rows

TINY = {
    "env": "OffPolicy-Drift-v0",
    "num_envs": 4,
    "steps_per_epoch": 48,
    "total_steps": 240,
    "warm_up": 96,
    "updates_per_step": 0.25,
    "capacity": 100,
    "checkpoint_epochs": 2,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
    "update": {"batch": 16},
}


class Slope:
    """One-step episodes that pay −(a − 0.8)² and cost 1 + a: under a mean cost of 1.2 the best action is 0.2.

    Both are told by the mean action alone up to noise, so that λ* is the ratio of slopes there: 2·(0.8 − 0.2) = 1.2.
    """

    id = "slope"
    costs: tuple[str, ...] = ("effort",)
    max_episode_steps = 1

    def __init__(self, num_envs: int, options: int = 0) -> None:
        self.num_envs, self.options = num_envs, options
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(options) if options else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        self.seed_source = None

    def reset(self, seeds=None):
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        return np.ones((self.num_envs, 1), np.float32)

    def step(self, actions):
        if self.options:
            a = 2.0 * actions / (self.options - 1) - 1.0
        else:
            a = actions[:, 0].astype(np.float64).clip(-1.0, 1.0)
        self.episode_seed[:] = self.seed_source(self.num_envs)
        over, obs = np.ones(self.num_envs, np.bool_), np.ones((self.num_envs, 1), np.float32)
        return Step(obs, -np.square(a - 0.8), (1.0 + a)[:, None], over, ~over, obs.copy())

    def close(self):
        pass


class Spoilt(Drift):
    """Drift that gives a number that is none after some steps."""

    what, calls = "reward", 0

    def step(self, actions):
        step = super().step(actions)
        self.calls += 1
        if self.calls > 40:
            {"reward": step.reward, "cost": step.cost, "observation": step.obs}[self.what][1] = np.nan
        return step


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


def forgetful(id, num_envs, threads=1):
    return Drift(num_envs)


def slope(id, num_envs, threads=1, options=0):
    return Slope(num_envs, options)


def spoilt(id, num_envs, threads=1, what="reward"):
    world = Spoilt(num_envs)
    world.what = what
    return world


@pytest.fixture(autouse=True)
def _toys():
    for name, made in (("Drift", "drift"), ("Forgetful", "forgetful"), ("Slope", "slope"), ("Spoilt", "spoilt")):
        registry.add(Entry("env", f"OffPolicy-{name}-v0", f"test_off_policy:{made}", "for tests"), "tests")


def make_run(tmp_path, config, id="run", seed=0):
    return Run.create(tmp_path, kind="train", name="sac", config=config, seed=seed, id=id)


def settled(row, **given):
    merged = {**TINY, **given, "update": {**TINY["update"], **given.get("update", {})}}
    return build(row.Config, merged)


def trained(tmp_path, row, id="run", inputs=None, **given):
    config = settled(row, **given)
    with make_run(tmp_path, config, id) as run:
        trainer = Trainer(config, run, inputs or {})
        policy = trainer.train()
    return trainer, policy


def logged(tmp_path, id="run"):
    lines = [json.loads(line) for line in (tmp_path / id / "metrics.jsonl").read_text().splitlines()]
    return [{key: x for key, x in line.items() if not key.startswith("time/")} for line in lines]


# -- rows -------------------------------------------------------------------------------------------------------------

ROWS = [getattr(rows, name) for name in rows.__all__]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_moves_everything_it_learns(row, tmp_path):
    config = settled(row, total_steps=480)
    with make_run(tmp_path, config) as run:
        trainer = Trainer(config, run, {})
        before = {name: p.clone() for name, p in trainer.network.named_parameters()}
        start = dict(trainer.handler_state)
        policy = trainer.train()
    for name, p in policy.network.named_parameters():
        assert not torch.equal(p, before[name]), name
        assert torch.isfinite(p).all(), name
    limited = issubclass(row.Config, Limited)
    assert policy.costs == (("right", "off_axis") if limited else ())
    if trainer.handler is not None:
        assert (trainer.handler_state["multiplier"] != start["multiplier"]).any()
        assert np.isfinite(trainer.steering.cost.mean())
    assert (policy.multipliers is not None) == limited


def test_faithful_settings_are_the_published_ones():
    sac = build(rows.SAC_LAG.Config, dict(rows.SAC_LAG.presets["faithful"]))
    assert (sac.total_steps, sac.steps_per_epoch, sac.capacity, sac.warm_up) == (10**6, 2000, 10**6, 10_000)
    assert (sac.gamma, sac.cost_gamma, sac.num_envs, sac.updates_per_step, sac.window) == (0.99, 0.99, 1, 1.0, 50)
    assert sac.actor.hidden == sac.critic.hidden == (256, 256)
    assert sac.actor.activation == "relu"
    assert sac.update == Sac(batch=256, polyak=0.005, delay=2, grad_norm=40.0, alpha=0.2, lr=3e-4, critic_lr=3e-4)
    assert (sac.cost_limit, sac.constraint) == (25.0, Lagrangian(rule="adam", lr=0.01, init=0.001))
    goal = build(rows.SAC_LAG.Config, dict(rows.SAC_LAG.presets["faithful-goal1"]))
    assert (goal.update.lr, goal.update.critic_lr, goal.update.alpha) == (5e-6, 1e-3, 1e-5)
    assert (goal.constraint.lr, goal.constraint.init) == (5e-4, 0.0)
    td3 = build(rows.TD3_PID.Config, dict(rows.TD3_PID.presets["faithful"]))
    assert (td3.warm_up, td3.update.lr, td3.update.critic_lr) == (25_000, 1e-4, 3e-4)
    assert (td3.update.exploration, td3.update.target_noise, td3.update.noise_clip, td3.update.delay) == (
        0.1, 0.2, 0.5, 2,
    )  # fmt: skip
    assert (td3.constraint.kp, td3.constraint.ki, td3.constraint.kd) == (1e-6, 1e-4, 1e-7)
    cvpo = build(rows.CVPO.Config, dict(rows.CVPO.presets["faithful"]))
    assert (cvpo.gamma, cvpo.n_step, cvpo.update.actions, cvpo.update.kl) == (0.97, 2, 16, 0.02)
    assert (cvpo.update.kl_mean, cvpo.update.kl_deviation) == (0.005, 5e-4)


@pytest.mark.parametrize("row", [rows.DDPG_LAG, rows.TD3_LAG, rows.SAC_LAG])
def test_a_multiplier_of_the_velocity_preset_is_as_fast_as_the_published_one(row):
    # A preset of sixteen environments moves it sixteen times less often; at an eighth of the published rate per
    # episode, SAC-Lag stood at thirty times its limit after a third of 10⁶ steps.
    own, fast = (build(row.Config, dict(row.presets[name])) for name in ("faithful", "fast-velocity"))
    assert fast.constraint.lr / fast.episodes_per_move == own.constraint.lr / own.episodes_per_move
    assert fast.constraint.rule == own.constraint.rule == "adam"
    other = build(row.Config, dict(row.presets["fast"]))
    assert fast.model_copy(update={"constraint": other.constraint}) == other  # and nothing else differs


def test_what_does_not_compose_is_refused_where_the_row_is_made():
    with pytest.raises(ConfigError, match="keeps limits by itself"):
        OffPolicyRecipe("row", Constrained, update=Cvpo())
    with pytest.raises(ConfigError, match="keeps limits by itself"):
        OffPolicyRecipe("row", OffPolicy, update=Cvpo())
    with pytest.raises(ConfigError, match="nothing that would keep them"):
        OffPolicyRecipe("row", Limited, update=Td3())
    assert OffPolicyRecipe("row", Constrained, update=DDPG).Config().update == DDPG


# -- known optima -----------------------------------------------------------------------------------------------------

BANDIT = {
    "env": "OffPolicy-Slope-v0",
    "num_envs": 16,
    "steps_per_epoch": 256,
    "total_steps": 16 * 700,
    "warm_up": 256,
    "updates_per_step": 1.0 / 16.0,
    "capacity": 4096,
    "averaged_share": 0.5,
    "checkpoint_epochs": 1000,
    "critic": {"hidden": [16, 16]},
}
ONE_WAVE = {"cost_limit": 1.2, "window": 16, "episodes_per_move": 16}
LAG = {**ONE_WAVE, "constraint": {"kind": "lagrangian", "rule": "sgd", "lr": 0.05}}
PID = {
    **ONE_WAVE,
    "constraint": {"kind": "pid", "kp": 0.5, "ki": 0.05, "kd": 0.0, "smoothing": 0.9},
}


@pytest.mark.parametrize(
    ("row", "given", "update"),
    [
        (rows.DDPG_LAG, LAG, {}),
        (rows.DDPG_PID, PID, {"lr": 2e-3, "critic_lr": 1e-2}),
        (rows.TD3_LAG, LAG, {"delay": 1}),
        (rows.TD3_PID, PID, {"delay": 1}),
        (rows.SAC_LAG, LAG, {"delay": 1, "alpha": 0.002}),
        (rows.SAC_PID, PID, {"delay": 1, "alpha": 0.002}),
    ],
    ids=["ddpg-lag", "ddpg-pid", "td3-lag", "td3-pid", "sac-lag", "sac-pid"],
)
def test_the_best_action_within_the_limit_is_found(row, given, update, tmp_path):
    given = {**BANDIT, **given, "update": {"batch": 64, "lr": 3e-3, "critic_lr": 3e-3, **update}}
    trainer, policy = trained(tmp_path, row, **given)
    assert mode_of(policy) == pytest.approx(0.2, abs=0.04)
    assert trainer.steering.cost.mean() == pytest.approx(1.2, abs=0.1)
    lines = logged(tmp_path)
    multipliers = [line["constraint/multiplier_effort"] for line in lines[len(lines) // 2 :]]
    assert np.mean(multipliers) == pytest.approx(1.2, abs=0.2)


def test_cvpo_keeps_the_limit_by_its_own_multiplier(tmp_path):
    update = {"batch": 32, "lr": 5e-3, "critic_lr": 1e-2, "renew": 5, "kl": 0.1, "kl_mean": 0.05, "kl_deviation": 5e-3}
    _, policy = trained(tmp_path, rows.CVPO, **BANDIT | {"total_steps": 16 * 250, "cost_limit": 1.2, "update": update})
    assert mode_of(policy) == pytest.approx(0.2, abs=0.03)
    multipliers = [line["update/multiplier_0"] for line in logged(tmp_path)[8:]]
    assert np.mean(multipliers) == pytest.approx(1.2, abs=0.1)
    assert policy.multipliers is not None


def test_a_choice_is_mixed_so_that_its_mean_cost_is_the_limit(tmp_path):
    # Options −1, 0, 1 pay −3.24, −0.64, −0.04 and cost 0, 1, 2: with a mean cost of 1.2 the last two in 0.8 : 0.2.
    # A multiplier swings around λ*, and the choice with it: it is the average of iterates that converges.
    update = {"batch": 64, "lr": 0.02, "critic_lr": 0.05, "alpha": 0.1, "delay": 1}
    given = {**BANDIT, **PID, "env_options": {"options": 3}, "critic": {"hidden": []}, "actor": {"hidden": []}}
    config, seen = settled(rows.SAC_PID, **given, update=update), []

    def look(_, subject):
        policy = subject.network.policy(subject.network.features({"vector": torch.ones(1, 1)}))
        seen.append(policy.logits[0][0].detach().exp())
        return {}

    with make_run(tmp_path, config) as run:
        run.watch = look
        rows.SAC_PID.train(config, run, {})
    assert torch.stack(seen[len(seen) // 2 :]).mean(0).tolist() == pytest.approx([0.0, 0.8, 0.2], abs=0.03)


@pytest.mark.parametrize(
    ("row", "update"),
    [(rows.DDPG, {}), (rows.TD3, {"delay": 1}), (rows.SAC, {"delay": 1, "alpha": 0.002})],
    ids=["ddpg", "td3", "sac"],
)
def test_without_a_limit_the_best_action_is_found(row, update, tmp_path):
    update = {"batch": 64, "lr": 1e-3, "critic_lr": 1e-2, **update}
    _, policy = trained(tmp_path, row, **BANDIT | {"averaged_share": 0.1, "update": update})
    # The best return is 0, the safest action's −3.24: the gap between is measured in their distance.
    assert (mode_of(policy) - 0.8) ** 2 / 3.24 < 0.01


def mode_of(policy):
    action, _ = policy.act(np.ones((1, 1), np.float32), None, np.random.default_rng(0), deterministic=True)
    return float(action[0, 0])


# -- what is remembered, and when it is learnt from -------------------------------------------------------------------


def test_random_actions_are_drawn_for_every_environment_on_its_own(tmp_path):
    trainer, _ = trained(tmp_path, rows.SAC, total_steps=96, capacity=1000)
    taken = trainer.replay._rows[: trainer.replay.total, 3:5].numpy()
    assert len(np.unique(taken, axis=0)) == 96
    assert abs(taken.mean()) < 4 * np.sqrt(1 / 3 / taken.size)  # uniform on [-1, 1]: four standard errors
    assert taken.std() == pytest.approx(np.sqrt(1 / 3), rel=0.1)


def test_gradient_steps_begin_after_the_warm_up_and_keep_their_ratio(tmp_path):
    trainer, _ = trained(tmp_path, rows.SAC)
    # 240 steps, of which those from 96 on earn a quarter each; a vector step is four, and so is one gradient step.
    assert trainer.learner.steps == (240 - 96) // 4 + 1
    lines = logged(tmp_path)
    assert [line["update/gradient_steps"] for line in lines] == [0, 1, 13, 25, 37]
    assert "update/critic_loss" not in lines[0]
    assert lines[2]["update/critic_loss"] > 0


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_replay_holds_what_the_world_did(n_step, tmp_path, monkeypatch):
    seen = []
    original = SavedDrift.step

    def spy(self, actions):
        before, step = self._observe(), original(self, actions)
        seen.append((before, np.array(actions), step))
        return step

    monkeypatch.setattr(SavedDrift, "step", spy)
    trainer, _ = trained(tmp_path, rows.TD3_LAG, capacity=1000, n_step=n_step, gamma=0.9, cost_gamma=0.5)
    gamma = np.array([0.9, 0.5, 0.5])
    expected = []
    for i in range(4):
        for t in range(60):
            total = np.zeros(3)
            for m in range(n_step):
                if t + m == 60:
                    break
                step = seen[t + m][2]
                total += gamma**m * np.concatenate([step.reward[i : i + 1], step.cost[i]])
                if step.ended[i] or m == n_step - 1:
                    # Cut off by time the value of the last observation counts, terminated none.
                    keep = gamma ** (m + 1) * (not step.terminated[i])
                    expected.append(np.concatenate([seen[t][0][i], seen[t][1][i], total, keep, step.final_obs[i]]))
                    break
    found = trainer.replay._rows[: trainer.replay.total].numpy()
    assert len(found) == len(expected)
    ended = [step for *_, step in seen if step.terminated.any()], [step for *_, step in seen if step.truncated.any()]
    assert all(ended)  # both kinds of ending were met
    order = np.lexsort(np.round(found[:, :5].T, 4)), np.lexsort(np.round(np.array(expected)[:, :5].T, 4))
    np.testing.assert_allclose(found[order[0]], np.array(expected)[order[1]], rtol=1e-5, atol=1e-5)


def test_statistics_stand_still_within_an_epoch_and_in_an_evaluation(tmp_path, monkeypatch):
    seen = []
    original = Trainer._gradient_step

    def spy(self):
        seen.append((self.epoch, self.network.encoder.norm.mean.clone()))
        return original(self)

    monkeypatch.setattr(Trainer, "_gradient_step", spy)
    trainer, policy = trained(tmp_path, rows.SAC_LAG, normalise=True)
    by_epoch = {epoch: [mean for e, mean in seen if e == epoch] for epoch, _ in seen}
    assert all(torch.equal(mean, means[0]) for means in by_epoch.values() for mean in means)
    assert not torch.equal(by_epoch[2][0], by_epoch[3][0])
    norm = policy.network.encoder.norm
    assert float(norm.count) == trainer.total_steps
    before = {name: x.clone() for name, x in policy.network.state_dict().items()}
    run_episodes(Drift(3), [1, 2, 3, 4], lambda _: policy_actions(policy, np.random.default_rng(0)))
    assert all(torch.equal(before[name], x) for name, x in policy.network.state_dict().items())


@pytest.mark.parametrize("normalise", [True, False])
def test_gradient_steps_see_observations_as_the_policy_does(normalise, tmp_path, monkeypatch):
    drawn, learnt = [], []
    sample, learn = Replay.sample, Sac.learn

    def spy_sample(self, *given):
        drawn.append(sample(self, *given))
        return drawn[-1]

    def spy_learn(self, learner, batch, *rest):
        learnt.append((batch, [learner.network.features({"vector": x}) for x in (drawn[-1].obs, drawn[-1].after)]))
        return learn(self, learner, batch, *rest)

    monkeypatch.setattr(Replay, "sample", spy_sample)
    monkeypatch.setattr(Sac, "learn", spy_learn)
    trained(tmp_path, rows.SAC, normalise=normalise)
    for raw, (batch, (obs, after)) in zip(drawn, learnt, strict=True):
        assert torch.equal(batch.obs, obs)
        assert torch.equal(batch.after, after)
        assert torch.equal(batch.obs, raw.obs) is not normalise


# -- the constraint ---------------------------------------------------------------------------------------------------


def test_the_multiplier_moves_with_episodes_of_the_policy(tmp_path, monkeypatch):
    moves = []
    original = Lagrangian.update

    def spy(self, state, episode_cost, limit):
        moves.append(episode_cost[:, 0].tolist())
        assert limit.tolist() == [1.0]
        return original(self, state, episode_cost, limit)

    monkeypatch.setattr(Lagrangian, "update", spy)
    given = {"env": "OffPolicy-Slope-v0", "num_envs": 4, "steps_per_epoch": 40, "total_steps": 200, "warm_up": 100,
             "cost_limit": 1.0, "window": 10, "constraint": {"rule": "sgd", "lr": 0.1}}  # fmt: skip
    trained(tmp_path, rows.SAC_LAG, "each", **given)
    # One-step episodes of four environments, and none that steers before the 25 steps of the warm-up are over: a
    # hundred episodes, each of which joins the last ten.
    assert [len(window) for window in moves] == [min(n, 10) for n in range(1, 101)]
    assert all(after[:9] == before[1:] for before, after in itertools.pairwise(moves[9:]))
    moves.clear()
    trainer, _ = trained(tmp_path, rows.SAC_LAG, "rarely", **given, episodes_per_move=3)
    # Four end at once, three make a move: the fourth is kept for the next.
    assert len(moves) == 33
    assert trainer.since_move == 1
    assert moves[4][:7] == moves[3][3:]  # three new episodes in a window of ten


@pytest.mark.parametrize("num_envs", [1, 4])
def test_how_often_it_moves_does_not_depend_on_the_number_of_environments(num_envs, tmp_path, monkeypatch):
    moves = []
    original = Lagrangian.update
    monkeypatch.setattr(Lagrangian, "update", lambda *given: moves.append(1) or original(*given))
    given = {"env": "OffPolicy-Slope-v0", "num_envs": num_envs, "steps_per_epoch": 40, "total_steps": 200,
             "warm_up": 100, "cost_limit": 1.0, "episodes_per_move": 2}  # fmt: skip
    trained(tmp_path, rows.SAC_LAG, **given)
    assert len(moves) == 50


def test_episodes_that_random_actions_were_part_of_do_not_steer_it(tmp_path, monkeypatch):
    monkeypatch.setattr(SavedDrift, "radius", np.inf)  # all episodes last 12 steps
    trainer, _ = trained(tmp_path, rows.SAC_LAG, warm_up=100, total_steps=240)
    # 60 steps each are five episodes in four worlds; random actions were taken up to step 25, within the third.
    assert len(trainer.recent.episode_return) == 20
    assert len(trainer.steering.cost) == 8


def test_layouts_that_failed_do_not_steer_it(tmp_path, rng):
    seeds = case_seeds("respond", 1, 3, rng)
    folder = tmp_path / "audited" / "artefacts"
    folder.mkdir(parents=True)
    (folder / "found.json").write_text(json.dumps([{"case": {"data": {"seed": int(seed)}}} for seed in seeds]))
    given = {"layouts": ["run://audited/found.json"], "layouts_share": 1.0, "constraint": {"init": 0.5}}
    trainer, policy = trained(tmp_path, rows.SAC_LAG, **given)
    assert len(trainer.recent.episode_return) > 5
    assert len(trainer.steering.cost) == 0
    assert policy.multipliers.tolist() == [0.5, 0.5]
    assert {split_of(int(seed)).split for seed in policy.layouts_met} == {"respond"}


def test_the_update_is_guided_by_the_handlers_weights(tmp_path):
    trainer, policy = trained(tmp_path, rows.TD3_LAG, cost_limit=[0.0, 3.0])
    for mine, right in zip(trainer.guide.weights, normalised(policy.multipliers), strict=True):
        torch.testing.assert_close(mine, right)
    assert policy.multipliers[0] > 0.001


def test_a_limit_in_the_unit_of_discounted_values():
    # T steps of d/T each, discounted: by brute force; at γ = 1 it is d itself.
    limit = torch.tensor([25.0, 10.0], dtype=torch.float64)
    for gamma, steps in ((0.97, 1000), (0.5, 3), (0.99, 7)):
        by_hand = sum(gamma**t for t in range(steps)) / steps
        torch.testing.assert_close(value_limit(limit, gamma, steps), limit * by_hand)
    assert torch.equal(value_limit(limit, 1.0, 500), limit)


def test_each_cost_needs_its_limit():
    config = settled(rows.SAC_LAG, cost_limit=[1.0, 2.0])
    assert limits_of(config.cost_limit, Drift(1)) == {"right": 1.0, "off_axis": 2.0}
    assert rows.SAC_LAG.limits(config) == {"right": 1.0, "off_axis": 2.0}
    assert rows.SAC.limits(settled(rows.SAC)) == {}
    with pytest.raises(ConfigError, match="3 values, but drift reports 2 costs"):
        limits_of((1.0, 2.0, 3.0), Drift(1))
    with pytest.raises(ConfigError, match="0 or more"):
        limits_of(-1.0, Drift(1))


# -- interruption -----------------------------------------------------------------------------------------------------


class Killed(Exception):
    """What stands for the end of the process."""


@pytest.mark.parametrize(
    ("row", "given"),
    [
        (rows.SAC_PID, {"normalise": True, "n_step": 2, "update": {"auto_alpha": True}, "averaged_share": 0.5,
                        "cost_limit": 1.0, "warm_up": 64, "episodes_per_move": 4}),  # killed between two moves
        (rows.TD3_LAG, {"disturbance": {"observation_noise": 0.1, "delay": 1}}),
        (rows.CVPO, {"update": {"renew": 5}}),
    ],
    ids=["sac-pid", "td3-lag", "cvpo"],
)  # fmt: skip
def test_a_run_that_was_killed_ends_as_one_that_was_not(row, given, tmp_path):
    given = {**given, "total_steps": 48 * 8, "checkpoint_epochs": 3}  # the replay of 100 wraps several times
    _, whole = trained(tmp_path, row, "whole", **given)
    config = settled(row, **given)

    def kill_at(step):
        def watch(at, _):
            if at == step:
                raise Killed
            return {}

        return watch

    for run, step in (
        (make_run(tmp_path, config, "killed"), 48 * 2),  # before the first checkpoint
        (None, 48 * 5),  # two epochs behind a checkpoint
    ):
        with contextlib.suppress(Killed), run or Run.reopen(tmp_path / "killed") as opened:
            opened.watch = kill_at(step)
            row.train(config, opened, {})
            pytest.fail("it was to be killed")
    with Run.reopen(tmp_path / "killed") as run:
        again = row.train(config, run, {})
    for (name, p), q in zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert logged(tmp_path, "killed") == logged(tmp_path, "whole")
    assert again.shape == whole.shape


def test_a_world_that_cannot_be_saved_starts_new_episodes_on_resume(tmp_path):
    given = {"env": "OffPolicy-Forgetful-v0", "n_step": 3}
    config = settled(rows.SAC_LAG, **given)
    with make_run(tmp_path, config) as run:
        whole = Trainer(config, run, {})
        whole.train()
    with Run.reopen(tmp_path / "run") as run:
        again = Trainer(config, run, {})
        state = run.restore()
        again.load_state_dict(state)
        assert again.replay.total == whole.replay.total
        assert again.n_step.pending == [[]] * 4  # steps of episodes that are no more
        assert (again.stepping.running_length == 0).all()
        again.env.close()


# -- warm starts ------------------------------------------------------------------------------------------------------


def test_a_warm_start_goes_on_from_policy_critics_statistics_and_multipliers(tmp_path):
    given = {"normalise": True, "update": {"auto_alpha": True, "alpha_lr": 0.05}}
    _, first = trained(tmp_path, rows.SAC_LAG, "first", cost_limit=0.0, **given)
    config = settled(rows.SAC_LAG, **given)
    with make_run(tmp_path, config, "second") as run:
        second = Trainer(config, run, {"policy": first})
        for p, q in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
        torch.testing.assert_close(second.handler_state["multiplier"], first.multipliers)
        alpha = float(second.learner.own["log_alpha"].exp())
        assert alpha == pytest.approx(first.shape["temperature"])
        assert alpha != pytest.approx(0.2)
        for slow, fast in zip(second.learner.target_critics.module.parameters(), second.network.critics.parameters(),
                              strict=True):  # fmt: skip
            torch.testing.assert_close(slow, fast, rtol=0, atol=0)
        second.stepping.reset()
        collect = run.torch_rng("collect").get_state()
        actions = second._actions()  # the policy's own from the first step on
        with torch.no_grad():
            features = first.network.features({"vector": torch.from_numpy(second.stepping.obs)})
            run.torch_rng("collect").set_state(collect)
            torch.testing.assert_close(
                torch.from_numpy(actions), second.update.act(first.network, features, run.torch_rng("collect"))
            )
        second.env.close()


def test_a_warm_start_without_costs_begins_their_critics_anew(tmp_path):
    _, first = trained(tmp_path, rows.TD3, "first")
    config = settled(rows.TD3_LAG)
    with make_run(tmp_path, config, "second") as run:
        second = Trainer(config, run, {"policy": first})
        for mine, given in zip(second.network.critics.parameters(), first.network.critics.parameters(), strict=True):
            torch.testing.assert_close(mine[:2], given, rtol=0, atol=0)
            assert mine.shape[0] == 4
        second.env.close()


def test_a_warm_start_of_another_kind_is_refused(tmp_path):
    _, first = trained(tmp_path, rows.SAC, "first")
    with pytest.raises(ConfigError, match="trained on OffPolicy-Drift-v0 with other networks"):
        trained(tmp_path, rows.SAC, "shape", {"policy": first}, actor={"hidden": [9]})
    with pytest.raises(ConfigError, match="with other networks"):
        trained(tmp_path, rows.TD3, "kind", {"policy": first})
    small = {"env": "OffPolicy-Drift-v0", "num_envs": 4, "steps_per_epoch": 48, "total_steps": 48}
    config = build(OnPolicy, {**small, "actor": {"hidden": [8]}, "critic": {"hidden": [8]}})
    with make_run(tmp_path, config, "on-policy") as run:
        other = OnPolicyRecipe("ppo", OnPolicy).train(config, run, {})
    with pytest.raises(ConfigError, match="not an off-policy policy"):
        trained(tmp_path, rows.SAC, "family", {"policy": other})


# -- bad worlds and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["reward", "cost", "observation"])
def test_a_number_that_is_none_is_named_and_never_remembered(what, tmp_path):
    with pytest.raises(BadWorld, match=what) as caught:
        trained(tmp_path, rows.SAC_LAG, env="OffPolicy-Spoilt-v0", env_options={"what": what})
    assert "40" in str(caught.value)  # the step
    assert "1" in str(caught.value)  # the environment


def test_networks_that_are_no_longer_finite_end_the_run(tmp_path, monkeypatch):
    original = Sac.learn

    def spoil(self, learner, *rest):
        report = original(self, learner, *rest)
        if learner.steps == 14:
            learner.network.actor.weights[0].data.fill_(math.nan)
        return report

    monkeypatch.setattr(Sac, "learn", spoil)
    with pytest.raises(Diverged, match=r"actor\.weights\.0"):
        trained(tmp_path, rows.SAC, checkpoint_epochs=1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps_per_epoch": 3}, "fewer than num_envs"),
        ({"capacity": 7, "n_step": 2}, "capacity is 7"),
        ({"warm_up": 7, "n_step": 2}, "warm_up is 7"),
        ({"actor": {"activation": "silu"}}, "relu and tanh only"),
        ({"update": {"clip": 0.1}}, "update.clip"),
        ({"env_options": {"num_envs": 4}}, "num_envs is no option of a world"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        settled(rows.SAC, **given)


def test_worlds_that_a_row_cannot_learn_in_are_refused_before_a_run_exists(tmp_path):
    discrete = {"env": "OffPolicy-Slope-v0", "env_options": {"options": 3}}
    rows.SAC_LAG.check(settled(rows.SAC_LAG, **discrete), tmp_path)
    with pytest.raises(ConfigError, match="this policy is deterministic"):
        rows.TD3.check(settled(rows.TD3, **discrete), tmp_path)
    with pytest.raises(ConfigError, match="action is a choice"):
        rows.CVPO.check(settled(rows.CVPO, **discrete), tmp_path)
    with pytest.raises(ConfigError, match="all of it within warm_up = 4,801, before which nothing is learnt"):
        rows.SAC.check(settled(rows.SAC, warm_up=4_801, total_steps=4_800), tmp_path)
    rows.SAC.check(settled(rows.SAC, warm_up=4_800, total_steps=4_800), tmp_path)
    with pytest.raises(RunError):
        rows.SAC.check(settled(rows.SAC, layouts=["run://none/found.json"]), tmp_path)


def test_a_watcher_sees_the_policy_once_an_epoch(tmp_path):
    config, seen = settled(rows.SAC_LAG), []
    with make_run(tmp_path, config) as run:
        run.watch = lambda step, subject: seen.append((step, isinstance(subject, QPolicy))) or {"own": 1.0}
        rows.SAC_LAG.train(config, run, {})
    assert seen == [(48 * n, True) for n in range(1, 6)]
    assert json.loads((tmp_path / "run" / "artefacts" / "limits.json").read_text()) == {
        "train/right": 25.0, "train/off_axis": 25.0,
    }  # fmt: skip


def test_averaging_gives_the_mean_of_the_last_policies(tmp_path):
    config, seen = settled(rows.SAC, averaged_share=0.5), []
    with make_run(tmp_path, config) as run:
        run.watch = lambda _, subject: seen.append([p.detach().clone() for p in subject.network.parameters()]) or {}
        policy = rows.SAC.train(config, run, {})
    for p, *last in zip(policy.network.parameters(), *seen[-3:], strict=True):
        torch.testing.assert_close(p, sum(last) / 3.0)
