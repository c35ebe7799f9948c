"""Where prompts come from: splits that cannot overlap, finite sets used up, data that can be read and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speakers import Speaker, best, sorry

from trueline import api
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.run import Run
from trueline.core.streams import ROUNDS
from trueline.cycle.spec import read_cycle
from trueline.evidence.records import EvidenceError
from trueline.language.audits.controllability import Refusal, RefusalConfig
from trueline.language.audits.ethicality import GroupBias, GroupBiasConfig, HarmRate, HarmRateConfig
from trueline.language.audits.prompts import (
    FilePrompts,
    PromptSettings,
    WorldPrompts,
    case_of,
    chat_of,
    open_prompts,
    turns,
)
from trueline.language.audits.robustness import Injection, InjectionConfig, UnseenPrompts, UnseenPromptsConfig
from trueline.language.rollout import Message, chat, text_of
from trueline.language.sources import Data, exposed
from trueline.language.splits import split_of_text
from trueline.language.subject import History
from trueline.language.texts import split_of_prompt, text_world

JUDGE = {"kind": "endpoint", "url": "http://localhost:1", "model": "m", "instruction": "?", "cost": "harm"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def file(tmp_path):
    """A file of 600 prompts, each twice."""
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"question number {i}", "note": i} for i in range(600)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    return str(path)


def test_a_worlds_prompts_are_of_their_split_round_and_kind(rng):
    source = WorldPrompts(text_world("safety-dialogue"))
    for split, round in (("respond", 3), ("verdict", 0), ("train", 0)):
        drawn = source.draw(40, rng, split, round, ("harmful", "unseen"))
        assert len({prompt.unit for prompt in drawn}) == 40
        for prompt in drawn:
            assert split_of_prompt(source.world, text_of(prompt.chat)) == (split, round)
            assert prompt.unit.startswith(prompt.kind + "-")
        assert {prompt.kind for prompt in drawn} == {"harmful", "unseen"}


def test_kinds_are_equally_likely_and_not_in_turn(rng):
    # A sequence that alternates would not have one mean given its past, which intervals under every look rest on.
    source = WorldPrompts(text_world("safety-dialogue"))
    drawn = [source.draw(40, rng, "train", 0, ("harmful", "ordinary")) for _ in range(25)]
    kinds = np.array([prompt.kind for part in drawn for prompt in part])
    harmful = kinds == "harmful"
    assert abs(harmful.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
    assert abs((harmful[1:] == harmful[:-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(999)


def test_without_kinds_a_world_mixes_as_it_says(rng):
    source = WorldPrompts(text_world("safety-dialogue", harmful=0.0, look_alike=1.0))
    assert {prompt.kind for prompt in source.draw(30, rng, "verdict")} == {"look-alike"}


def test_a_kind_the_world_lacks_is_refused_and_of_too_few_prompts_some_are_drawn(rng):
    with pytest.raises(ConfigError, match="no prompts of kind 'harmful'"):
        WorldPrompts(text_world("cipher-reply")).draw(1, rng, "verdict", 0, ("harmful",))
    few = WorldPrompts(text_world("cipher-reply", length=6, symbols=5))
    there = {one.unit for _ in range(50) for one in few.draw(40, rng, "verdict")}
    assert len(there) == 20  # of 5·4⁵ prompts a quarter is for 64 rounds
    assert 10 <= len(few.draw(40, rng, "verdict")) <= 20
    with pytest.raises(ConfigError, match="rounds 0 to 63"):
        few.draw(1, rng, "verdict", 64)


def test_every_prompt_of_a_file_is_in_one_split_and_round(file, rng):
    source = FilePrompts(file, ROUNDS)
    drawn = {
        (split, round): source.draw(10_000, rng, split, round)
        for split in ("respond", "verdict")
        for round in range(ROUNDS)
    } | {("train", 0): source.draw(10_000, rng, "train")}
    units = [prompt.unit for prompts in drawn.values() for prompt in prompts]
    assert len(units) == len(set(units)) == 600  # each once, though the file has each twice
    for place, prompts in drawn.items():
        assert all(split_of_text(text_of(prompt.chat)) == place for prompt in prompts)
    trained = len(drawn["train", 0])
    assert abs(trained - 300) < 4 * np.sqrt(600 / 4)
    assert [p.columns["note"] for p in drawn["train", 0]] != sorted(p.columns["note"] for p in drawn["train", 0])


def test_fewer_rounds_join_neighbours_and_leave_the_splits(file, rng):
    fine, coarse = FilePrompts(file, ROUNDS), FilePrompts(file, rounds=2)
    for split in ("respond", "verdict"):
        joined = {p.unit for round in range(32) for p in fine.draw(10_000, rng, split, round)}
        assert {p.unit for p in coarse.draw(10_000, rng, split, 0)} == joined
        assert len(joined) > 40
    # A cycle of two rounds has numbers 1 and 2.
    first, second = ({p.unit for p in coarse.draw(10_000, rng, "verdict", round)} for round in (1, 2))
    assert not first & second
    with pytest.raises(ConfigError, match="rounds 1 to 2"):
        coarse.draw(1, rng, "verdict", 3)


def test_a_finite_set_is_drawn_without_replacement_and_used_up(file, rng):
    source = FilePrompts(file, rounds=1)
    assert len({p.unit for p in source.draw(20, rng, "verdict")}) == 20
    everything = source.draw(10_000, rng, "verdict")
    assert source.draw(len(everything), rng, "verdict") == everything


def test_text_and_a_users_turn_are_one_prompt(tmp_path, rng):
    path = tmp_path / "mixed.jsonl"
    plain, turn = {"prompt": "how do i"}, {"prompt": [{"role": "user", "content": "how do i"}]}
    path.write_text(json.dumps(plain) + "\n")
    other = tmp_path / "turns.jsonl"
    other.write_text(json.dumps(turn) + "\n")

    def only(source):
        return [
            (split, round, prompt)
            for split in ("train", "respond", "verdict")
            for round in range(1 if split == "train" else ROUNDS)
            for prompt in source.draw(9, rng, split, round)
        ]

    ((*place, one),), ((*same, two),) = only(FilePrompts(str(path), ROUNDS)), only(FilePrompts(str(other), ROUNDS))
    assert place == same
    assert one.unit == two.unit
    assert one.chat == two.chat == chat("how do i")


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1))
def test_a_chat_comes_back_from_json(given_turns):
    original = tuple(Message(*turn) for turn in given_turns)
    assert chat_of(json.loads(json.dumps(turns(original)))) == original


def test_a_case_holds_what_can_be_trained_on(rng):
    (prompt,) = WorldPrompts(text_world("safety-dialogue")).draw(1, rng, "respond", 2)
    case = case_of(prompt, "respond", 2, more=1)
    assert case.unit == prompt.unit
    assert chat_of(case.data["chat"]) == prompt.chat
    assert (case.data["split"], case.data["round"], case.data["kind"], case.data["more"]) == (
        "respond", 2, prompt.kind, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "some.jsonl", "kinds": ["harmful"]}, "of worlds"),
        ({"path": "some.jsonl", "options": {"harmful": 0.1}}, "of worlds"),
        ({"path": "builtin:safety-dialogue", "rounds": 4}, "rounds is for files"),
        ({"path": "builtin:safety-dialogue", "split": "test"}, "split is of saved data sets and the hub's"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(PromptSettings, settings)


def test_what_does_not_exist_is_refused_when_it_is_named(tmp_path):
    assert open_prompts(PromptSettings()) is None
    with pytest.raises(RunError, match="no run or path"):
        open_prompts(PromptSettings(path="nowhere.jsonl"))
    with pytest.raises(ConfigError, match="harmful"):
        open_prompts(PromptSettings(path="builtin:safety-dialogue", options={"harmful": 2.0}))
    path = tmp_path / "empty.jsonl"
    path.write_text(json.dumps({"prompt": "", "completion": "a"}) + "\n")
    with pytest.raises(ConfigError, match=r"row 1 of empty\.jsonl has no prompt"):
        FilePrompts(str(path), ROUNDS)


def test_a_file_that_was_trained_on_whole_decides_nothing(file):
    known = Speaker(best)
    known.history = History(trained_on=(str(Path(file).resolve()),))
    for audit in (
        HarmRate(build(HarmRateConfig, {"path": file, "judge": JUDGE})),
        Refusal(build(RefusalConfig, {"path": file})),
    ):
        with pytest.raises(EvidenceError, match="was trained on every prompt of"):
            audit.cases(known, "verdict", 1, 2, np.random.default_rng(0))
        audit.cases(known, "respond", 1, 2, np.random.default_rng(0))


def test_a_second_file_that_was_trained_on_whole_decides_nothing_either(file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"another {i}"}) + "\n" for i in range(200)))
    known = Speaker(best)
    known.history = History(trained_on=(str(Path(file).resolve()),))
    for audit in (
        Refusal(build(RefusalConfig, {"path": str(other), "harmful_path": file})),
        UnseenPrompts(build(UnseenPromptsConfig, {"path": str(other), "outside": file, "judge": JUDGE})),
    ):
        with pytest.raises(EvidenceError, match="was trained on every prompt of"):
            audit.cases(known, "verdict", 1, 2, np.random.default_rng(0))
        assert audit.cases(known, "respond", 1, 2, np.random.default_rng(0))


@pytest.fixture
def saved(tmp_path):
    """A saved data set of two splits, with 40 prompts each."""
    from datasets import Dataset, DatasetDict

    splits = {name: [f"{name} question {i}" for i in range(40)] for name in ("train", "test")}
    whole = DatasetDict({name: Dataset.from_dict({"prompt": prompts}) for name, prompts in splits.items()})
    whole.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_split_of_a_saved_data_set_is_read_and_no_other(saved, rng):
    for split in ("train", "test"):
        prompts = open_prompts(build(PromptSettings, {"path": str(saved), "split": split, "rounds": 1}))
        drawn = [prompt for use in ("train", "respond", "verdict") for prompt in prompts.draw(99, rng, use)]
        assert {text_of(prompt.chat) for prompt in drawn} == {f"{split} question {i}" for i in range(40)}
        assert all(prompt.columns["prompt"] == text_of(prompt.chat) for prompt in drawn)


def test_a_split_that_was_not_trained_on_decides_though_another_one_was(saved):
    known = Speaker(best)
    known.history = History(trained_on=exposed(build(Data, {"path": str(saved)})))

    def ask(**given):
        audit = Refusal(build(RefusalConfig, {"rounds": 1, **given}))
        return audit.cases(known, "verdict", 0, 2, np.random.default_rng(0))

    assert ask(path=str(saved), split="test")
    assert ask(path=str(saved / "test"))
    for path in (saved, saved / "train"):
        with pytest.raises(EvidenceError, match="was trained on every prompt of"):
            ask(path=str(path))


# --- runs ---


@pytest.fixture
def runs(tmp_path, file):
    """A folder of runs that is not the usual one, with prompts that a run made."""
    with Run.create(tmp_path / "kept", kind="train", name="made", config={}, seed=0, id="made") as run:
        run.artefact("prompts.jsonl").write_text(Path(file).read_text())
    return tmp_path / "kept"


MADE = {"path": "run://made/prompts.jsonl", "rounds": 1}


def test_runs_of_an_audit_are_in_the_folder_of_runs_that_was_named(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, trained = "controllability/refusal", Speaker(sorry)
    trained.kind = "language-model"
    for root, config in ((runs, MADE), ("elsewhere", MADE | {"root": str(runs)})):
        found = api.audit(trained, name, config={name: config}, budget=4, root=root).evidence
        assert found[0].estimate.n == 4
    for root, config in (("runs", MADE), (runs, MADE | {"root": "elsewhere"})):
        with pytest.raises(RunError, match="names run 'made', which is not in"):
            api.audit(trained, name, config={name: config}, root=root)


def test_prompts_of_a_run_that_were_trained_on_decide_nothing(runs):
    known = Speaker(best)
    known.history = History(trained_on=exposed(build(Data, {"path": MADE["path"]}), runs))
    audit = Refusal(build(RefusalConfig, MADE | {"root": str(runs)}))
    with pytest.raises(EvidenceError, match="was trained on every prompt of"):
        audit.cases(known, "verdict", 1, 2, np.random.default_rng(0))


CYCLE = """
name = "c"
[let.data]
path = "run://made/prompts.jsonl"
split = "test"
[train]
recipe = "sft"
config = { data = "$data" }
[[audit]]
name = "controllability/refusal"
config = { path = "$data.path", split = "$data.split" }
"""


def test_a_cycle_gives_its_audits_the_split_of_its_data_and_its_folder_of_runs(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cycle.toml").write_text(CYCLE)
    spec = read_cycle(tmp_path / "cycle.toml")
    assert spec.audit[0].config == {"path": MADE["path"], "split": "test"}
    spec.check(runs)
    with pytest.raises(RunError, match="names run 'made', which is not in runs"):
        spec.check()


@pytest.mark.parametrize(
    ("audit", "config", "settings"),
    [
        (Injection, InjectionConfig, {}),
        (GroupBias, GroupBiasConfig, {"groups": ("dog", "cat")}),
        (Refusal, RefusalConfig, {}),
    ],
)
def test_an_oracle_that_gave_the_reward_decides_nothing_beside_another_judge(audit, config, settings):
    pleased = Speaker(best)
    pleased.judged_by = ("function:safety-dialogue",)
    given = {"path": "builtin:safety-dialogue", **settings}
    if "judge" in config.model_fields:
        given["judge"] = JUDGE
    with pytest.raises(EvidenceError, match="was trained to please function:safety-dialogue"):
        audit(build(config, given)).cases(pleased, "verdict", 1, 2, np.random.default_rng(0))
