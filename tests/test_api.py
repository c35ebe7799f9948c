"""The public face: what it lists is what is documented, and it does what the command line does."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trueline
from trueline import api
from trueline.core.errors import ConfigError, RunError, Stopped, UnknownName
from trueline.core.metrics import read_metrics
from trueline.core.run import read_manifest
from trueline.core.subject import subject_hash
from trueline.evidence.records import Principle

DOCS = Path(__file__).resolve().parents[1] / "docs" / "api.md"
SMALL = {
    "env": "SafetyPointGoal0-v0", "num_envs": 2, "steps_per_epoch": 200, "total_steps": 400, "actor.hidden": [8],
    "critic.hidden": [8], "update.passes": 1, "checkpoint_epochs": 1,
}  # fmt: skip
WORDS = [f"{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trueline.train("ppo", SMALL, seed=4, root=tmp_path_factory.mktemp("runs"), id="a")


def test_public_names_are_documented():
    documented = set(re.findall(r"^\| `trueline\.(\w+)", DOCS.read_text(), flags=re.MULTILINE))
    assert documented == set(trueline.__all__)


def test_every_public_name_exists_and_others_do_not():
    assert all(hasattr(trueline, name) for name in trueline.__all__)
    assert set(trueline.__all__) <= set(dir(trueline))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = trueline.trian


def test_cycle_can_be_called_whatever_was_imported_before(tmp_path):
    import trueline.cycle.rounds

    assert trueline.cycle.rounds.run_cycle is not None
    with pytest.raises(ConfigError, match="no settings file"):
        trueline.cycle(tmp_path / "none.toml")


def test_python_and_command_line_train_the_same(trained, tmp_path, capfd):
    from trueline.cli import main

    with pytest.raises(SystemExit) as end:
        main(["train", "ppo", *WORDS, "--seed", "4", "--root", str(tmp_path), "--id", "a"])
    assert end.value.code == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "a")
    assert subject_hash(tmp_path / "a") == trained.summary["subject"] == subject_hash(trained.folder)
    assert (tmp_path / "a" / "config.toml").read_bytes() == (trained.folder / "config.toml").read_bytes()


def test_dotted_keys_keywords_and_presets_lie_over_each_other_in_that_order(monkeypatch):
    seen = {}
    monkeypatch.setattr(api, "start_training", lambda recipe, config, **_: seen.setdefault("config", config))
    monkeypatch.setattr(api, "_result", lambda folder: folder)
    config = api.train("ppo", {"update.lr": 1e-4, "env_options": {"a": 1}}, preset="fast", num_envs=3)
    assert (config.update.lr, config.num_envs, config.env_options) == (1e-4, 3, {"a": 1})
    assert config.update.minibatch == 2000  # from the preset: a dotted key changes one setting of its table


def test_load_gives_the_policy_that_was_trained(trained):
    again = trueline.load("a", root=trained.folder.parent)
    obs = np.random.default_rng(0).normal(size=(3, *again_space(again))).astype(np.float32)
    one, two = (
        policy.act(obs, None, np.random.default_rng(1), deterministic=True)[0] for policy in (again, trained.subject)
    )
    np.testing.assert_array_equal(one, two)


def again_space(policy):
    return trueline.make(policy.world.id).observation_space.shape


def test_make_finds_worlds_of_trueline_and_of_gymnasium():
    for name in ("SafetyPointGoal1-v0", "CartPole-v1"):
        env = trueline.make(name, 3)
        assert env.num_envs == 3
        env.reset(np.arange(3, dtype=np.uint32))
        np.testing.assert_array_equal(env.episode_seed, np.arange(3))
        env.close()


def test_a_warm_start_is_recorded_by_run_and_hash(trained):
    root = trained.folder.parent
    warm = trueline.train("ppo", SMALL, inputs={"policy": "a"}, root=root, id="warm")
    assert read_manifest(warm.folder)["inputs"]["policy"] == {
        "run": "a",
        "kind": "policy",
        "sha256": trained.summary["subject"],
    }


def test_summary_is_the_mean_of_the_last_tenth(tmp_path):
    from trueline.core.run import Run
    from trueline.cycle.training import figures

    with Run.create(tmp_path, kind="train", name="x", config={}, seed=0, id="x") as run:
        for step in range(40):
            run.log(step, value=step, **({"rare": 7.0} if step == 3 else {}))
    # The last tenth of 0 … 39 is 36 … 39, with mean 37.5; of one value it is that value.
    assert figures(tmp_path / "x") == {"rare": 7.0, "value": 37.5}


def test_a_subject_is_audited_without_leaving_anything(trained):
    before = sorted(trained.folder.parent.iterdir())
    result = trueline.audit(trained.subject, ["ethicality/episode-cost", "ethicality/team*"], budget=2)
    assert {e.principle for e in result.evidence} == {Principle.ETHICALITY}
    assert [e.estimate.n for e in result.evidence if e.requirement is not None] == [2]
    assert result.left_out == ("ethicality/team-cost",)
    assert result.folder is None
    assert sorted(trained.folder.parent.iterdir()) == before


def test_the_audit_of_a_run_is_a_run_and_says_what_it_leaves_out_before_it_begins(trained, capfd):
    root = trained.folder.parent
    result = trueline.audit("a", ["ethicality/episode-cost", "ethicality/team*"], budget=2, root=root)
    assert result.left_out == ("ethicality/team-cost",)
    first, second, *_ = capfd.readouterr().err.splitlines()
    assert first == "left out, because the subject lacks what they need: ethicality/team-cost"
    assert second == f"run {result.folder}"
    manifest = read_manifest(result.folder)
    assert (manifest["kind"], manifest["inputs"]["subject"]["run"]) == ("audit", "a")
    again = trueline.resume(result.folder)
    assert repr(again) == repr(replace(result, left_out=()))


def test_a_training_that_was_watched_can_be_watched_again(tmp_path):
    def halting(step, policy):
        os.kill(os.getpid(), signal.SIGINT)
        return {"mine/step": step}

    def watch(step, policy):
        return {"mine/step": step}

    with pytest.raises(Stopped):
        trueline.train("ppo", SMALL, root=tmp_path, id="w", watch=halting)
    result = trueline.resume("w", root=tmp_path, watch=watch)
    rows = [row for row in read_metrics(result.folder / "metrics.jsonl") if "mine/step" in row]
    assert [row["step"] for row in rows] == [row["mine/step"] for row in rows] == [200, 400]
    audited = trueline.audit("w", "ethicality/episode-cost", budget=2, root=tmp_path)
    with pytest.raises(ConfigError, match="only a training is watched"):
        trueline.resume(audited.folder, watch=watch)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: trueline.train("ppo", gama=0.9), ConfigError, "Did you mean 'gamma'"),
        (lambda: trueline.audit("a", root="/nowhere"), RunError, "there is no run folder"),
        (lambda: trueline.reproduce("nothing"), UnknownName, "'nothing'"),
        (lambda: trueline.sweep("ppo", {"gamma": [2.0]}), ConfigError, "gamma is 2.0"),
        (lambda: trueline.sweep("ppo", {}, seeds=0), ConfigError, "seeds is 0"),
        (lambda: trueline.train("ppo", threads=0), ConfigError, "threads is 0. Give at least 1."),
    ],
)
def test_wrong_calls_say_so(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
