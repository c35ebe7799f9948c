"""A model that learnt chats, or plain text: its card knows, and what asks or attacks it in the other way says so."""

from __future__ import annotations

import json

import pytest
import torch
from token_world import World, tiny

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.subject import load_subject, save_subject
from trueline.evidence.audit import Budget, run_audits
from trueline.evidence.records import Verdict
from trueline.language.audits.elasticity import Elasticity, ElasticityConfig
from trueline.language.audits.replies import token_rows
from trueline.language.online.prompts import prompts_for
from trueline.language.online.settings import Online
from trueline.language.recipes import SFT
from trueline.language.rollout import chat
from trueline.language.sources import Data, teaches_chats
from trueline.language.subject import History
from trueline.language.topology.preferences import PREFERENCE_DATA

torch.set_num_threads(1)
ONE = Budget(initial=1, batch=1, maximum=1)
PLAIN = {"prompt": "x", "completion": "a"}
TURNS = {
    "prompt": [{"role": "user", "content": "x"}],
    "completion": [{"role": "assistant", "content": "a"}],
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def rows(folder, row, name="rows"):
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return str(path)


def tuned(world, data, policy=None):
    config = build(SFT.Config, {"data": data, "batch_size": 1, "max_steps": 1, "device": "cpu"})
    with world.run("sft", config) as run:
        save_subject(SFT.train(config, run, {"policy": policy or tiny()}), run.folder)
    return load_subject(run.folder)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PLAIN, False),
        (TURNS, True),
        ({"text": "abc"}, False),
        ({"messages": [*TURNS["prompt"], *TURNS["completion"]]}, True),
        ({"chosen": "a", "rejected": "b"}, False),
        ({"chosen": [*TURNS["prompt"], *TURNS["completion"]], "rejected": TURNS["completion"]}, True),
    ],
)
def test_rows_of_messages_are_chats_and_text_is_one_when_it_is_made_one(tmp_path, row, expected):
    path = rows(tmp_path, row)
    assert teaches_chats(Data(path=path)) is expected
    assert teaches_chats(Data(path=path, as_chat=True))


def test_a_mix_teaches_chats_when_a_part_of_it_does(tmp_path):
    both = rows(tmp_path, PLAIN, "plain"), rows(tmp_path, TURNS, "turns")
    assert teaches_chats(Data(path=both))
    assert not teaches_chats(Data(path="builtin:safety-dialogue"))
    assert teaches_chats(Data(path="builtin:safety-dialogue", as_chat=True))


def test_a_model_remembers_through_its_folder_and_later_trainings(world):
    plain = {"path": rows(world.folder, PLAIN)}
    assert tiny().history.chats is None
    once = tuned(world, plain)
    assert once.history.chats is False
    as_chat = tuned(world, {**plain, "as_chat": True}, once)
    assert as_chat.history.chats is True
    assert tuned(world, plain, as_chat).history.chats is True  # nothing unlearns it
    assert History.of({}).chats is None  # a folder from elsewhere


# --- asked as a chat ---


def told(capsys):
    return capsys.readouterr().err.count("asked as a chat")


def known(chats):
    policy = tiny()
    policy.history = History(chats=chats)
    return policy


@pytest.mark.parametrize(("chats", "times"), [(False, 1), (True, 0), (None, 0)])
def test_who_asks_a_model_of_plain_text_as_a_chat_is_told_once(world, capsys, chats, times):
    config = world.config("lm-ppo")
    prompts_for(config, known(chats), world.runs)
    assert told(capsys) == times
    audited = known(chats)
    for _ in range(3):
        token_rows(audited, [chat("x"), chat("xy")])
    assert told(capsys) == times
    given = {"prompts": {"path": str(world.prompts)}, "judges": [{"kind": "function", "name": "letters"}]}
    config = build(PREFERENCE_DATA.Config, {**given, "topology": {"kind": "chain", "pairs": 2}, "device": "cpu"})
    with world.run("preference-data", config) as run:
        PREFERENCE_DATA.train(config, run, {"policy": known(chats)})
    assert told(capsys) == times


def test_what_is_asked_on_line_is_a_users_turn_whatever_as_chat_says(world):
    asked = [
        prompts_for(
            Online(prompts=Data(path=str(world.prompts), as_chat=as_chat), scorers=world.config("lm-ppo").scorers),
            tiny(), world.runs,
        )
        for as_chat in (False, True)
    ]  # fmt: skip
    assert asked[0] == asked[1]
    assert asked[0].chats[0][0] == chat("x")


# --- attacked ---


def attack(world, subject, row=PLAIN, **inverse):
    config = ElasticityConfig(
        path=str(world.prompts), judge={"kind": "function", "name": "letters", "options": {"costs": ()}},
        inverse=Data(path=rows(world.folder, row, "inverse"), **inverse), lr=1e-3, level=-1.0, rates=(1.0,),
        most_items=8, looks=2, asked=2, rounds=1, root=str(world.runs), at_least=4.0,
    )  # fmt: skip
    world.prompts.write_text("".join(json.dumps({"prompt": "x" * k}) + "\n" for k in range(1, 13)))
    return run_audits([Elasticity(config)], subject, budget=ONE)


def test_a_model_of_chats_is_not_attacked_with_plain_text(world):
    found = attack(world, known(chats=True))
    assert all(e.verdict is Verdict.INCONCLUSIVE and "Set inverse.as_chat = true" in e.note for e in found)


@pytest.mark.parametrize(
    ("chats", "row", "given"),
    [(True, PLAIN, {"as_chat": True}), (True, TURNS, {}), (False, PLAIN, {}), (None, PLAIN, {})],
)
def test_an_attack_in_the_models_own_way_counts(world, chats, row, given):
    found = {e.metric: e for e in attack(world, known(chats), row, **given)}
    assert found["items to revert"].estimate.value == 8.0  # the letters' reward never falls below 0
    assert found["items to revert"].missing == 0


def test_an_empty_file_is_the_loaders_to_refuse(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    assert not teaches_chats(Data(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(ConfigError, match="has no rows"):
        SFT.check(build(SFT.Config, {"data": {"path": str(tmp_path / "none.jsonl")}}), tmp_path)
