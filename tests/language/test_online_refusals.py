"""What no on-line training can do: learn where nothing is scored, ask half a prompt, begin without model or key."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chat_stub import chat_stub
from token_world import RECIPES, Letters, World, log, tiny

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError, TruelineError
from trueline.core.recipe import check_config
from trueline.core.run import Run
from trueline.cycle.training import start_training
from trueline.evidence.records import EvidenceError
from trueline.language.audits.controllability import Refusal, RefusalConfig
from trueline.language.models import ModelRef, check_reference
from trueline.language.online.training import UNSCORED
from trueline.language.online_dpo import ONLINE_DPO
from trueline.language.recipes import SFT


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "online-dpo", ONLINE_DPO)
    return World(tmp_path, monkeypatch)


# --- nothing to learn from ---


def endpoint(url, **given):
    judge = {"kind": "endpoint", "url": url, "model": "m", "instruction": "Is it kind?", "pause_s": 0.01}
    return {"scorers": [{**judge, "attempts": 2, "timeout_s": 1.0, **given}]}


@pytest.mark.parametrize("name", ["lm-ppo", "grpo", "online-dpo"])
@pytest.mark.parametrize("steps", [2, UNSCORED + 3])
def test_a_training_in_which_nothing_is_scored_ends_and_says_what_the_endpoint_said(world, name, steps):
    settings = {"samples": 2, "kl": {"weight": 0.1}} if name == "online-dpo" else {}
    with chat_stub() as (url, script, asked):
        script[None] = [401]
        config = world.config(name, max_steps=steps, checkpoint_steps=1, **settings, **endpoint(url))
        with (
            pytest.raises(TruelineError, match=r"no reply .* could be scored; .* HTTP 401 Unauthorized.* resume r1"),
            world.run(name, config) as run,
        ):
            RECIPES[name].train(config, run, {"policy": tiny()})
    assert len(asked) == min(steps, UNSCORED) * config.replies  # each once: a refusal does not pass
    assert len(log(run)) == min(steps, UNSCORED)
    assert json.loads((run.folder / "manifest.json").read_text())["status"] != "done"


def test_a_single_score_begins_the_count_anew_and_a_resumed_run_goes_on_counting(world, monkeypatch):
    steps, calls = 2 * UNSCORED, []

    def mostly_nothing(self, prompts, replies):
        calls.append(len(replies))
        scored = len(calls) == UNSCORED
        return [self.judged(reply.text) if scored and not at else None for at, reply in enumerate(replies)]

    monkeypatch.setattr(Letters, "__call__", mostly_nothing)
    config = world.config("lm-ppo", max_steps=steps, checkpoint_steps=1)
    run, save = world.run("lm-ppo", config), Run.save

    def killed(self, step, state):
        save(self, step, state)
        if step == steps - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed)
        with pytest.raises(KeyboardInterrupt), run:
            RECIPES["lm-ppo"].train(config, run, {"policy": tiny()})
    assert len(calls) == steps - 1  # nothing was refused so far: one of UNSCORED − 1 steps before had a score
    with pytest.raises(TruelineError, match=f"no reply of the last {UNSCORED} steps"), Run.reopen(run.folder) as again:
        RECIPES["lm-ppo"].train(config, again, {"policy": tiny()})
    assert len(calls) == steps


# --- what was learnt is remembered ---


def test_text_that_is_kept_decides_no_verdict(world, tmp_path):
    path = tmp_path / "kept.jsonl"
    rows = [{"prompt": letter * n, "completion": "a"} for letter in "abcdxy" for n in range(1, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audit = Refusal(build(RefusalConfig, {"path": str(path)}))
    ptx = {"data": {"path": str(path)}, "batch_size": 1}
    subject, _, _ = world.train("grpo", max_steps=1, ptx=ptx)
    assert subject.history.trained_on == (str(world.prompts.resolve()), str(path.resolve()))
    with pytest.raises(EvidenceError, match="was trained on every prompt of"):
        audit.cases(subject, "verdict", 1, 2, np.random.default_rng(0))
    left = {**ptx, "data": {**ptx["data"], "leave_for_audits": True}}
    for given in ({}, {"ptx": left}):
        other, _, _ = world.train("grpo", max_steps=1, **given)
        assert other.history.trained_on == (str(world.prompts.resolve()),)
        audit.cases(other, "verdict", 1, 2, np.random.default_rng(0))


# --- before a run exists ---


def refused(world, name, message, error=ConfigError, **settings):
    """By the recipe's check, and so before `start_training` makes a folder."""
    config = world.config(name, **settings)
    with pytest.raises(error, match=message):
        check_config(name, config, world.runs)
    with pytest.raises(error, match=message):
        start_training(name, config, root=world.runs)
    assert not list(world.runs.glob("*")) if world.runs.exists() else True


@pytest.mark.parametrize("name", ["lm-ppo", "rloo"])
def test_half_a_prompt_is_never_asked(world, name):
    cut = {"path": str(world.prompts), "long_prompt": "truncate-left"}
    refused(world, name, "a prompt is asked whole.* Set it to 'drop' or 'refuse'", prompts=cut)
    with pytest.raises(ConfigError, match="a prompt is asked whole"):
        RECIPES[name].dry_run(world.config(name, prompts=cut), {"policy": tiny()})


def test_what_is_not_there_is_missed_before_a_folder_is_made(world, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    refused(world, "lm-ppo", "JUDGE_KEY, which key_variable names", **endpoint("http://h/v1", key_variable="JUDGE_KEY"))
    refused(world, "lm-ppo", "there is no folder", model={"name": str(tmp_path / "nothing")})
    refused(world, "lm-ppo", "config.json is missing", model={"name": str(tmp_path)})
    reward = {"scorers": [{"kind": "score-model", "input": "run://gone"}]}
    refused(world, "lm-ppo", "gone", RunError, **reward)
    with pytest.raises(ConfigError, match="there is no folder a/b/c"):
        check_config("sft", build(SFT.Config, {"data": {"path": "x"}, "model": {"name": "a/b/c"}}), world.runs)


def test_a_model_folder_is_looked_at_without_reading_its_weights(tmp_path):
    subject = tiny()
    subject.save(tmp_path / "model")
    check_reference(ModelRef(name=str(tmp_path / "model")))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    check_reference(ModelRef(name=str(tmp_path / "model")))
    for name in ("owner/name", "name", "micro"):  # of the hub: nobody is asked
        check_reference(ModelRef(name=name))
    card = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(card.read_text())
    settings["eos_token"] = None
    card.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="has no end token"):
        check_reference(ModelRef(name=str(tmp_path / "model")))
    card.write_text("{")
    with pytest.raises(ConfigError, match="no causal language model could be loaded from the folder"):
        check_reference(ModelRef(name=str(tmp_path / "model")))
