"""The certifying loop: no violation while learning, a set that is truly safe, the best safe return; resumed, saved."""

from __future__ import annotations

import tomllib

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_worlds import Drift, SavedDrift

from trueline.core import registry
from trueline.core.config import build, to_toml
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.rl.certificates.policy import CertifiedPolicy, Guard, load
from trueline.rl.certificates.training import Certified, Epoch, Trainer
from trueline.rl.certificates.truth import against_truth
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.exact.double_integrator import DoubleIntegrator
from trueline.rl.exact.gap import GAP
from trueline.rl.filters.filtered import Filters
from trueline.rl.filters.projection import Projected
from trueline.rl.policy import Acts
from trueline.safety.recipes.crabs import CRABS

WORLD = DoubleIntegrator("double-integrator", 16)
BEST = WORLD.best_return()
QUICK = {
    "env": "Certified-Integrator-v0",
    "steps_per_epoch": 320,
    "total_steps": 1920,
    "updates_per_step": 1.0,
    "certificate": {"points": 128, "grow_steps": 150, "repair_steps": 400, "quiet": 60},
}
TINY = {
    "env": "Certified-Integrator-v0",
    "num_envs": 4,
    "steps_per_epoch": 240,
    "total_steps": 720,
    "imitate_steps": 150,
    "updates_per_step": 0.1,
    "checkpoint_epochs": 2,
    "certificate": {"points": 64, "margin": 0.0, "grow_steps": 5, "repair_steps": 600, "quiet": 10},
    "update": {"batch": 16},
    "shapes": {"actor": {"hidden": [16]}, "critic": {"hidden": [16]}},
}


class Deep(SavedDrift):
    """Three numbers, and everything that a certificate asks for."""

    start, region, excitation = torch.zeros(3), torch.ones(3), 0.1

    def danger(self, obs):
        return obs.square().sum(-1)

    def controller(self, obs):
        return torch.zeros(*obs.shape[:-1], 2)


class Choosing(DoubleIntegrator):
    """Between walls, with three choices."""

    def __init__(self, num_envs):
        super().__init__("choosing", num_envs)
        self.action_space = gym.spaces.Discrete(3)


def integrator(id, num_envs, threads=1, steps=40):
    return DoubleIntegrator(id, num_envs, steps=steps)


def deep(id, num_envs, threads=1):
    return Deep(num_envs)


def plain(id, num_envs, threads=1):
    return Drift(num_envs)


def choosing(id, num_envs, threads=1):
    return Choosing(num_envs)


@pytest.fixture(scope="module", autouse=True)
def _worlds():
    worlds = {"Integrator": "integrator", "Deep": "deep", "Plain": "plain", "Choosing": "choosing"}
    for name, made in worlds.items():
        target = f"test_certified_training:{made}"
        registry.add(Entry("env", f"Certified-{name}-v0", target, "for tests"), "tests")


def make_run(folder, config, id="run", seed=0):
    return Run.create(folder, kind="train", name="crabs", config=config, seed=seed, id=id)


def logged(folder):
    return [dict(line) for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A whole training: (policy, its log, truths of every policy on the way)."""
    torch.set_num_threads(1)
    folder, config, truths = tmp_path_factory.mktemp("certified"), build(Certified, QUICK), []

    def look(_, policy):
        truths.append(against_truth(policy.filter.core, WORLD, 100))
        return {}

    with make_run(folder, config, seed=0) as run:
        run.watch = look
        policy = CRABS.train(config, run, {})
    return policy, logged(run.folder), truths


def played(act, episodes=16):
    return run_episodes(WORLD, np.arange(episodes), lambda _: act)


# --- a whole training ---


def test_no_episode_of_the_training_violates_anything(training):
    _, lines, _ = training
    assert [line["train/violations_wall"] for line in lines] == [0.0] * len(lines)
    assert lines[-1]["train/total_wall"] == lines[-1]["train/regret_wall"] == 0.0


def test_what_was_certified_is_viable_and_invariant_and_grows(training):
    _, _, truths = training
    for truth in truths:
        assert truth.false == 0.0
        assert truth.farthest <= truth.error
    assert truths[-1].covered > max(0.5, truths[0].covered)


def test_the_policy_comes_near_the_best_safe_return(training):
    policy, _, _ = training
    found = played(policy_actions(policy, np.random.default_rng(1)))
    assert (found.cost == 0.0).all()
    assert (BEST - found.episode_return.mean()) / BEST <= 2.0 * GAP  # the controller, to begin with, is worth 0


def test_everything_that_learns_has_moved_and_costs_are_finite(training, tmp_path):
    # The seed of networks is the run's, so that a trainer that has not begun holds what that training began with.
    policy, lines, _ = training
    with make_run(tmp_path, build(Certified, QUICK), seed=0) as run:
        fresh = Trainer(build(Certified, QUICK), run)
    still = set()
    for began, ended in ((fresh.core, policy.filter.core), (fresh.network, policy.policy.network)):
        for (name, one), other in zip(began.named_parameters(), ended.parameters(), strict=True):
            assert torch.isfinite(other).all(), name
            still |= {name} if len(other.ravel()) and torch.equal(one, other) else set()
    assert still <= {"certificate.net.biases.2"}, still  # a barrier is f(s) − f(s₀): but for rounding, it cancels
    assert np.isfinite([value for line in lines for name, value in line.items() if name.endswith("_wall")]).all()
    assert np.isfinite(played(policy_actions(policy, np.random.default_rng(3))).cost).all()


def test_behind_its_guard_any_policy_keeps_clear_of_the_walls(training):
    policy, _, _ = training
    rng = np.random.default_rng(2)
    sign = np.ones((16, 1))

    def wild(t, obs):
        sign[rng.random(16) < 0.1] *= -1.0
        return policy.filter(obs, sign).action

    found = played(wild, 64)
    assert (found.cost == 0.0).all()
    assert np.abs(found.episode_return).max() > 0.2 * BEST  # it does get about


def test_without_the_guard_the_same_training_hits_the_walls(tmp_path, monkeypatch):
    def unguarded(self, obs, action):
        return Projected(np.asarray(action, np.float64), np.zeros(len(action), bool), np.ones(len(action), bool))

    monkeypatch.setattr(Guard, "__call__", unguarded)
    config = build(Certified, {**TINY, "updates_per_step": 0.5})
    with make_run(tmp_path, config) as run:
        CRABS.train(config, run, {})
    assert logged(run.folder)[-1]["train/violations_wall"] > 0.0


# --- the loop ---


def test_the_controller_acts_until_something_is_certified_and_the_guard_from_then_on(tmp_path):
    config = build(Certified, TINY)
    with make_run(tmp_path, config) as run:
        trainer = Trainer(config, run)
        CRABS.check(config, tmp_path)
        trainer.seen.restore(None)
        trainer.stepping.reset()
        trainer.one_epoch()
        assert trainer.proven
        rows = trainer.seen.all()
        noise = rows.action - WORLD.controller(rows.obs)
        assert float(noise.abs().max()) <= WORLD.excitation + 1e-6
        assert float(noise.std()) == pytest.approx(WORLD.excitation / np.sqrt(3.0), rel=0.25)  # held for a while
        kept = {name: value.clone() for name, value in trainer.certified.state_dict().items()}
        for _ in range(config.env_steps):
            trainer._act(Epoch())
        rows = trainer.seen.since(config.epoch_steps)
        again = trainer.guard(rows.obs.numpy(), rows.action.numpy())
        assert again.intervened.mean() < 0.2  # what was taken was certain
        assert all(torch.equal(kept[name], value) for name, value in trainer.certified.state_dict().items())


def test_a_killed_and_resumed_run_leaves_the_same_bits(tmp_path):
    config = build(Certified, TINY)
    with make_run(tmp_path, config, "whole") as run:
        whole = CRABS.train(config, run, {})
    with make_run(tmp_path, config, "broken") as run:
        first = Trainer(config, run)
        first.seen.restore(None)
        first.stepping.reset()
        first.one_epoch()
        run.save(first.total_steps, first.state_dict())
        first.one_epoch()  # lost
    with Run.reopen(run.folder) as again:
        resumed = CRABS.train(config, again, {})
    for mine, theirs in ((whole.filter.core, resumed.filter.core), (whole.policy.network, resumed.policy.network)):
        for (name, one), other in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(one, other), name
    for one, other in zip(logged(tmp_path / "whole"), logged(tmp_path / "broken"), strict=True):
        assert {k: v for k, v in one.items() if "time" not in k} == {k: v for k, v in other.items() if "time" not in k}


def test_a_training_that_certifies_nothing_says_so(tmp_path):
    config = build(Certified, {**TINY, "total_steps": 160, "certificate": {"repair_steps": 1, "quiet": 2, "points": 8}})
    with make_run(tmp_path, config) as run, pytest.raises(RunError, match="no certificate was found in 1 epochs"):
        CRABS.train(config, run, {})


def test_a_core_takes_over_when_it_is_certified_and_calls_no_less_safe(tmp_path):
    config = build(Certified, TINY)
    with make_run(tmp_path, config) as run:
        trainer = Trainer(config, run)
        trainer.seen.restore(None)
        trainer.stepping.reset()
        trainer.one_epoch()
        hasty = config.certificate.model_copy(update={"grow_steps": 1, "repair_steps": 1})
        trainer.config = config.model_copy(update={"certificate": hasty})
        kept = {name: value.clone() for name, value in trainer.certified.state_dict().items()}
        assert not trainer._certify()  # one step is not quiet for long enough
        with torch.no_grad():
            trainer.core.certificate.net.biases[0].add_(1.0)
            trainer.core.certificate.danger = lambda obs: 100.0 * obs.square().sum(-1)  # calls less safe
        assert not trainer._taken_over()
        assert all(torch.equal(kept[name], value) for name, value in trainer.certified.state_dict().items())
        trainer.core.certificate.danger = lambda obs: torch.zeros(obs.shape[:-1])  # calls more safe
        assert trainer._taken_over()
        assert not torch.equal(kept["certificate.net.biases.0"], trainer.certified.certificate.net.biases[0])


# --- the policy ---


def test_a_loaded_policy_acts_as_the_saved_one(training, tmp_path):
    policy, _, _ = training
    with make_run(tmp_path, build(Certified, TINY)) as run:
        save_subject(policy, run.folder)
    loaded = load(run.folder / "subject")
    assert isinstance(loaded, CertifiedPolicy)
    assert isinstance(loaded, Acts)
    assert isinstance(loaded, Filters)
    obs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) * 0.5
    for deterministic in (False, True):
        one, other = (p.act(obs, None, np.random.default_rng(3), deterministic)[0] for p in (policy, loaded))
        np.testing.assert_array_equal(one, other)
    (run.folder / "subject" / "core.safetensors").unlink()
    with pytest.raises(RunError, match=r"core\.safetensors is missing"):
        load(run.folder / "subject")


def test_a_damaged_policy_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"certificate\.json is missing"):
        load(tmp_path)
    (tmp_path / "certificate.json").write_text("{")
    (tmp_path / "core.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="damaged or of another version"):
        load(tmp_path)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("Plain", "does not say what is unsafe, where episodes begin and how to act safely at first"),
        ("Deep", "observes 3 numbers, but a certificate is sought in 2 dimensions"),
        ("Choosing", "takes choices"),
    ],
)
def test_worlds_that_do_not_fit_are_refused_before_a_run_exists(env, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        CRABS.check(build(Certified, {"env": f"Certified-{env}-v0"}), tmp_path)


def test_presets_are_complete_and_every_cost_is_limited_to_none():
    for preset in CRABS.presets.values():
        config = build(Certified, dict(preset))
        assert build(Certified, tomllib.loads(to_toml(config))) == config
    assert CRABS.limits(build(Certified, TINY)) == {"wall": 0.0}
