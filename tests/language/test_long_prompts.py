"""Prompts that leave no room for a reply: refused by row before a run exists, or dropped and counted, by every recipe
that asks; what is said in advance, from a tokenizer and a context alone, is what a training says.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_world import RECIPES, TOKENIZER, World, log, tiny

from trueline.core.config import build, laid_over
from trueline.core.errors import ConfigError
from trueline.core.subject import load_subject, save_subject
from trueline.cycle.training import start_training
from trueline.language.best_of_n import RFT
from trueline.language.models import Architecture, Lora, ModelRef, from_scratch
from trueline.language.online.checks import check_prompts
from trueline.language.online.making import policy_of
from trueline.language.online.prompts import asked_of
from trueline.language.online.settings import Asking
from trueline.language.online_dpo import ONLINE_DPO
from trueline.language.rollout import Message
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.templates import prompt_tokens
from trueline.language.topology.preferences import PREFERENCE_DATA
from trueline.language.vocabulary import Characters
from trueline.language.windows import Window, window_in, window_of

torch.set_num_threads(1)
ALL = ("lm-ppo", "lm-ppo-lag", "rloo", "grpo", "online-dpo", "rft")
MARKS = 3  # of a chat in the template of tiny(): its beginning, the user, the assistant
CONTEXT = 32  # of tiny()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "online-dpo", ONLINE_DPO)
    return World(tmp_path, monkeypatch)


def ask(world, *lengths):
    world.prompts.write_text("".join(json.dumps({"prompt": "y" * n}) + "\n" for n in lengths))


def config_of(world, name, **given):
    if name == "preference-data":
        asked = {"prompts": {"path": str(world.prompts)}, "judges": [{"kind": "function", "name": "letters"}]}
        return build(PREFERENCE_DATA.Config, {**asked, **given})
    if name != "rft":
        return world.config(name, **given)
    scorers = [{"kind": "function", "name": "letters"}]
    asked = {"prompts": {"path": str(world.prompts)}, "scorers": scorers, "sampling": {"max_tokens": 12}}
    return build(RFT.Config, {**asked, "samples": 8, **given})


def dropping(world):
    return {"prompts": {"path": str(world.prompts), "long_prompt": "drop"}}


def recipe_of(name):
    return RFT if name == "rft" else RECIPES[name]


def started(world, subject=None, id="start"):
    """The folder of a finished run, to start from."""
    with world.run("sft", build(ModelRef, {}), id=id) as run:
        save_subject(subject or tiny(), run.folder)
    return run.folder


# --- refused before a run exists ---


@pytest.mark.parametrize("name", ALL)
def test_a_long_prompt_is_refused_by_its_row_before_there_is_a_run(world, name):
    ask(world, 1, CONTEXT - MARKS - 1, CONTEXT - MARKS, 60)
    policy, config = started(world), config_of(world, name)
    with pytest.raises(
        ConfigError, match=r"row 3 of prompts.jsonl has a prompt of 32 tokens, but the context holds 32"
    ):
        recipe_of(name).check_with(config, world.runs, {"policy": policy})
    recipe_of(name).check_with(config_of(world, name, **dropping(world)), world.runs, {"policy": policy})
    ask(world, 1, CONTEXT - MARKS - 1)  # one token is left to reply with
    recipe_of(name).check_with(config, world.runs, {"policy": policy})


@pytest.mark.parametrize("name", [*ALL, "preference-data"])
def test_no_folder_is_left_behind(world, name):
    ask(world, 1, 60)
    policy = started(world)
    for inputs, tokens in (({"policy": policy.name}, CONTEXT), ({}, 8)):
        small = {} if inputs else {"model": {"name": "nano", "context": 8}}
        config = config_of(world, name, **small)
        with pytest.raises(ConfigError, match=f"row 2 of prompts.jsonl has a prompt of .* the context holds {tokens}"):
            start_training(name, config, root=world.runs, inputs=inputs)
    assert [path.name for path in world.runs.iterdir() if path.is_dir()] == [policy.name]


@pytest.mark.parametrize("name", ["grpo", "rft"])
def test_the_input_decides_and_not_the_model_of_the_settings(world, name):
    """A preset of 8 tokens is not what learns where a policy is given; without one it is."""
    ask(world, 20)
    small = config_of(world, name, model={"name": "nano", "context": 8})
    recipe_of(name).check_with(small, world.runs, {"policy": started(world)})
    with pytest.raises(ConfigError, match=r"row 1 of prompts.jsonl has a prompt of 23 tokens, but the context holds 8"):
        recipe_of(name).check_with(small, world.runs, {})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), drop=st.booleans(), context=st.integers(8, 40))
def test_what_is_said_in_advance_is_what_the_training_says(world, lengths, drop, context):
    """By brute force: which prompts have tokens to spare, and else the first that has none."""
    ask(world, *lengths)
    given = {"path": str(world.prompts), "long_prompt": "drop" if drop else "refuse"}
    config = build(Asking, {"prompts": given, "scorers": world.config("grpo").scorers})
    fits = [n for n in lengths if len(prompt_tokens(TOKENIZER, (Message("user", "y" * n),))) < context]
    if len(fits) == len(lengths) or (drop and fits):
        found = asked_of(config, Window(TOKENIZER, context), world.runs)
        assert [len(one[0].content) for one in found.chats[0]] == fits
        (source,) = found.facts["sources"]
        assert (source["records"], source["items"]) == (len(lengths), len(fits))
        assert sum(source["dropped"].values()) == len(lengths) - len(fits)
        assert bool(found.left_out()) == (len(fits) < len(lengths))
        return
    first = next((row for row, n in enumerate(lengths, 1) if n + MARKS >= context), 0)
    message = f"none of {len(lengths)} prompts, row 1 of" if drop else f"row {first} of prompts.jsonl has a prompt of"
    with pytest.raises(ConfigError, match=message):
        asked_of(config, Window(TOKENIZER, context), world.runs)


def test_no_weight_is_read(world, tmp_path):
    ask(world, 40)
    tiny().save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    named = world.config("grpo", model={"name": str(tmp_path / "model")})
    with pytest.raises(ConfigError, match="a prompt of 43 tokens, but the context holds 32"):
        check_prompts(named, world.runs, {})


def test_of_a_model_on_the_hub_nobody_is_asked(world):
    ask(world, 4000)
    check_prompts(world.config("grpo", model={"name": "owner/name"}), world.runs, {})


def test_a_warm_start_that_is_no_policy_is_refused_before_there_is_a_run(world):
    folder = started(world, ScoreModel.of(tiny(), ("reward",)))
    for name in ALL:
        with pytest.raises(ConfigError, match=r"the warm start is a 'score-model'. Give a language model"):
            recipe_of(name).check_with(config_of(world, name), world.runs, {"policy": folder})


def test_a_row_without_a_prompt_is_refused_whatever_the_policy(world):
    rows = [{"prompt": asked, "chosen": "a", "rejected": "b"} for asked in ("x", "")]
    world.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, more in itertools.product(ALL, ({}, {"model": {"name": "owner/name"}})):
        with pytest.raises(ConfigError, match=r"row 2 of prompts.jsonl has no prompt"):
            recipe_of(name).check_with(config_of(world, name, **more), world.runs, {})


def test_rejection_sampling_never_asks_half_a_prompt_either(world):
    cut = {"path": str(world.prompts), "long_prompt": "truncate-left"}
    with pytest.raises(ConfigError, match="a prompt is asked whole"):
        RFT.check_with(config_of(world, "rft", prompts=cut), world.runs, {})


# --- dropped and counted ---


@pytest.mark.parametrize("name", ["grpo", "online-dpo", "rft"])
def test_what_is_dropped_is_counted_in_the_run_and_told(world, name, capsys):
    ask(world, 1, 40, 2, 50)
    more = {"kl": {"weight": 0.1}} if name == "online-dpo" else {}
    config = config_of(world, name, **dropping(world), **more)
    with world.run(name, config) as run:
        recipe_of(name).train(config, run, {"policy": tiny()})
    (source,) = json.loads((run.folder / "artefacts" / "data.json").read_text())["sources"]
    assert (source["records"], source["items"], source["dropped"]) == (4, 2, {"longer than the context": 2})
    assert "prompts.jsonl: left out 2 longer than the context" in capsys.readouterr().err
    assert log(run)
    told = recipe_of(name).dry_run(config, {"policy": tiny()}, world.runs)
    assert "prompts.jsonl: 2 items of 4 prompt rows" in str(told)


def test_data_of_preferences_are_asked_for_in_the_same_way(world, capsys):
    ask(world, 1, 40, 2)
    given = {"judges": [{"kind": "function", "name": "letters"}], "topology": {"kind": "chain", "pairs": 2}}
    refusing, policy = {"prompts": {"path": str(world.prompts)}, "device": "cpu", **given}, started(world)
    with pytest.raises(
        ConfigError, match=r"row 2 of prompts.jsonl has a prompt of 43 tokens, but the context holds 32"
    ):
        PREFERENCE_DATA.check_with(build(PREFERENCE_DATA.Config, refusing), world.runs, {"policy": policy})
    cut = laid_over(refusing, {"prompts": {"long_prompt": "truncate-left"}})
    with pytest.raises(ConfigError, match="a prompt is asked whole"):
        PREFERENCE_DATA.check_with(build(PREFERENCE_DATA.Config, cut), world.runs, {})
    config = build(PREFERENCE_DATA.Config, laid_over(refusing, dropping(world)))
    PREFERENCE_DATA.check_with(config, world.runs, {"policy": policy})
    with world.run("preference-data", config) as run:
        data = PREFERENCE_DATA.train(config, run, {"policy": tiny()})
    assert (data.made["prompts"], data.made["long"]) == (2, 1)
    assert "left out 1 prompts longer than the context" in capsys.readouterr().err


def findings(world, *lengths):
    turns = [[{"role": "user", "content": "x" * n}] for n in lengths]
    cases = [{"case": {"data": {"split": "respond", "chat": chat}}, "outcome": {"x": 1}} for chat in turns]
    with world.run("audit", build(ModelRef, {}), id="found") as run:
        run.write_json("findings.json", cases)
    return ("run://found/findings.json",)


def test_what_failed_an_audit_may_be_too_long_for_another_policy(world):
    """The audited subject could read it. Before, a training met it in the middle, whenever its turn came."""
    ask(world, 1, 2)
    policy, given = started(world), {"findings": findings(world, 3, 40)}
    with pytest.raises(ConfigError, match=r"a case of run://found/findings.json has a prompt of 43 tokens"):
        RECIPES["grpo"].check_with(world.config("grpo", **given), world.runs, {"policy": policy})
    config = world.config("grpo", **given, **dropping(world), findings_share=0.5, max_steps=1)
    asked = asked_of(config, Window(TOKENIZER, CONTEXT), world.runs)
    assert [len(source) for source in asked.chats] == [2, 1]
    assert asked.weights == pytest.approx((0.5, 0.5))
    assert asked.left_out() == ["findings: left out 1 longer than the context"]
    with world.run("grpo", config) as run:
        RECIPES["grpo"].train(config, run, {"policy": tiny()})
    assert len(log(run)) == 1


# --- context windows, without weights ---


@pytest.mark.parametrize("name", ["nano", "micro"])
@pytest.mark.parametrize("context", [None, 40])
def test_a_preset_has_the_window_that_it_is_made_with(name, context):
    ref = ModelRef(name=name, context=context, vocabulary=Characters(alphabet="abc"), template="safe-rlhf", lora=Lora())
    made = LanguageModel.of(ref.model_copy(update={"lora": None}), np.random.default_rng(0))
    found, expected = window_of(ref), Window.of(made)
    assert found.tokens == expected.tokens == (context or 512)
    assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert found.tokenizer.chat_template == expected.tokenizer.chat_template


def test_a_folder_has_the_window_of_its_model(world, tmp_path):
    subject = LanguageModel(from_scratch(Architecture(1, 16, 2, 32), TOKENIZER, 0, 23), TOKENIZER)
    subject.save(tmp_path / "plain")
    for folder in (tmp_path / "plain", started(world, subject)):
        found = window_in(folder, "plain")
        assert found.tokens == 23
        assert found.tokenizer.get_vocab() == TOKENIZER.get_vocab()
        assert found.tokenizer.chat_template != TOKENIZER.chat_template
    with pytest.raises(ConfigError, match="holds no causal language model"):
        window_in(tmp_path)


# --- the template of a warm start ---


def test_a_warm_start_is_asked_in_the_template_that_is_set(world):
    """As a supervised training's is; whoever else holds the warm start asks it as before."""
    given = tiny()
    before = given.tokenizer.chat_template
    made = policy_of(ModelRef(template="plain"), given, np.random.default_rng(0))
    assert made.tokenizer.chat_template != before == given.tokenizer.chat_template
    assert made.model is given.model
    assert policy_of(ModelRef(), given, np.random.default_rng(0)).tokenizer is given.tokenizer
    ask(world, 31)  # 34 tokens in the template of tiny(), and 31 without its markers
    config, folder = world.config("grpo", model={"template": "plain"}, max_steps=1), started(world)
    RECIPES["grpo"].check_with(config, world.runs, {"policy": folder})
    with world.run("grpo", config) as run:
        RECIPES["grpo"].train(config, run, {"policy": load_subject(folder)})
    assert log(run)[0]["train/length"] == 1.0  # one token is left of the context
    with pytest.raises(ConfigError, match="a prompt of 34 tokens"):
        RECIPES["grpo"].check_with(world.config("grpo"), world.runs, {"policy": folder})
