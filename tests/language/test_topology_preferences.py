"""Preference data from a model and a judge: rows that reward models learn from, labels by Bradley-Terry, resuming."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from small_models import LETTERS

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError, Stopped
from trueline.core.run import Run
from trueline.language.models import ModelRef
from trueline.language.recipes import REWARD_MODEL
from trueline.language.records import Preference, TreePreference
from trueline.language.rollout import Message, Reply, Sampling, chat
from trueline.language.scorers import FunctionScorer, Judged
from trueline.language.sources import Data, load
from trueline.language.subject import LanguageModel
from trueline.language.topology.pairs import Pair
from trueline.language.topology.preferences import (
    PREFERENCE_DATA,
    Asked,
    first_is_better,
    judged,
    load_preferences,
    rows_of,
    written,
)
from trueline.language.topology.trees import Leaf

torch.set_num_threads(1)
RARE = 1e-4


@pytest.fixture(scope="module")
def policy():
    """Nearly uniform over letters, the full stop and the end, so that its replies end and differ."""
    return LanguageModel.of(ModelRef(vocabulary=LETTERS, context=128), np.random.default_rng(0))


@pytest.fixture
def letters(monkeypatch):
    """A scorer that counts the letter "a", and judges no reply that begins with "h"."""

    class Counts:
        costs = ()

        def __call__(self, prompts, replies):
            return [None if reply.text.startswith("h") else float(reply.text.count("a")) for reply in replies]

    from trueline.core import registry

    known = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: Counts if (kind, name) == ("scorer", "letters") else known(kind, name)
    )


def settings(folder, **changes):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("ab", "cdef", "h", "ab", "gg", "ca")))
    given = {
        "prompts": {"path": str(path)},
        "topology": {"kind": "tree", "separators": ["."], "depth": 2, "pairs": 3},
        "sampling": {"max_tokens": 48},
        "judges": [{"kind": "function", "name": "letters"}],
        "prompts_at_once": 2,
        "device": "cpu",
    }
    return build(PREFERENCE_DATA.Config, {**given, **changes})


def made(folder, config, policy, id="r", seed=1):
    with Run.create(folder, kind="train", name="preference-data", config=config, seed=seed, id=id) as run:
        return PREFERENCE_DATA.train(config, run, {"policy": policy})


@pytest.mark.parametrize("kind", ["tree", "independent-trees", "chain"])
def test_rows_are_read_back_and_the_better_one_is_chosen(tmp_path, letters, policy, kind):
    topology = {"kind": kind, "pairs": 3} | ({} if kind == "chain" else {"depth": 2, "separators": ["."]})
    data = made(tmp_path, settings(tmp_path, topology=topology), policy)
    path = tmp_path / "r/artefacts/preferences.jsonl"
    table = load(Data(path="run://r/preferences.jsonl"), ("preference", "tree-preference"), tmp_path)[0]
    assert len(table.rows) == len(data.rows) == data.made["pairs"] > 2
    assert table.format == ("tree-preference" if kind == "tree" else "preference")
    for row, record in zip(map(json.loads, path.read_text().splitlines()), table.rows, strict=True):
        assert type(record) is (TreePreference if kind == "tree" else Preference)
        assert row["chosen"].count("a") == row["chosen_value"] > row["rejected_value"] == row["rejected"].count("a")
        assert not row["chosen"].startswith("h")
        if kind == "tree":
            assert row["lca_depth"] == record.lca_depth
            assert (row["shared_prefix_len"] > 0) <= (row["lca_depth"] > 0)
    assert data.made["prompts"] == 5  # "ab" stands twice among them
    assert data.made["unlabelled"] > 0  # ties, and what was not judged
    assert data.made["judged_by"] == ["function:letters"]
    logged = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [2, 4, 5]
    assert logged[-1]["data/tokens_per_prompt"] == pytest.approx(data.made["tokens"] / 5)


def test_data_come_back_from_their_folder_and_damage_is_told(tmp_path, letters, policy):
    data = made(tmp_path, settings(tmp_path), policy)
    folder = tmp_path / "subject"
    folder.mkdir()
    data.save(folder)
    assert load_preferences(folder) == data
    (folder / "preferences.jsonl").write_text('{"prompt"')
    with pytest.raises(RunError, match="are damaged"):
        load_preferences(folder)


def test_a_stopped_run_goes_on_with_the_same_rows(tmp_path, letters, policy, monkeypatch):
    config = settings(tmp_path)
    whole = made(tmp_path, config, policy, id="whole")
    save, calls = Run.save, []

    def stopping(self, step, state):
        save(self, step, state)
        calls.append(step)
        if len(calls) == 1:
            raise Stopped(self.id)

    monkeypatch.setattr(Run, "save", stopping)
    with pytest.raises(Stopped):
        made(tmp_path, config, policy, id="whole2")
    monkeypatch.setattr(Run, "save", save)
    with Run.reopen(tmp_path / "whole2") as run:
        resumed = PREFERENCE_DATA.train(config, run, {"policy": policy})

    def plain(data):
        return [{key: value for key, value in row.items() if key != "tree_id"} for row in data.rows]

    assert plain(resumed) == plain(whole)
    assert [row["tree_id"].replace("whole2", "whole") for row in resumed.rows] == [row["tree_id"] for row in whole.rows]
    assert resumed.made["tokens"] == whole.made["tokens"]


def test_a_reward_model_learns_from_trees(tmp_path, letters, policy):
    made(tmp_path, settings(tmp_path, topology={"kind": "tree", "separators": ["."], "pairs": 12}), policy, seed=2)
    given = {"data": {"path": "run://r/preferences.jsonl", "as_chat": True}, "batch_size": 16, "max_steps": 40}
    given |= {"optimiser": {"lr": 3e-3}, "device": "cpu", "log_steps": 5, "length": 64}
    config = build(REWARD_MODEL.Config, {**given, "model": {"vocabulary": LETTERS.model_dump()}})
    with Run.create(tmp_path, kind="train", name="reward-model", config=config, seed=0, id="rm") as run:
        REWARD_MODEL.train(config, run, {})
    lines = [json.loads(line) for line in (tmp_path / "rm/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train/loss"] < 0.5 * lines[0]["train/loss"] < 0.5 * 0.75  # from about log 2


def test_prompts_may_be_chats(tmp_path, letters, policy):
    config = settings(tmp_path)
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": turns[k:]}) + "\n" for k in (0, 1)))
    rows = made(tmp_path, config, policy).rows
    assert {len(row["prompt"]) for row in rows} == {1, 2}
    assert all(row["chosen"][0]["role"] == "assistant" for row in rows)
    table = load(Data(path="run://r/preferences.jsonl"), ("tree-preference",), tmp_path)[0]
    assert all(isinstance(record.prompt[0], Message) for record in table.rows)


# --- labels ---


def test_labels_are_bradley_terry_and_ties_are_a_coin():
    rng, n = np.random.default_rng(0), 4000
    for margin, beta in ((0.5, 2.0), (-0.3, 4.0), (0.0, 2.0)):
        first = first_is_better(np.full(n, margin), np.zeros(n), beta, rng)
        assert binomtest(int(first.sum()), n, 1 / (1 + math.exp(-beta * margin))).pvalue > RARE
    sure = first_is_better(np.array([1e6, -1e6]), np.zeros(2), 10.0, rng)
    assert sure.tolist() == [1.0, 0.0]


def test_without_beta_the_greater_wins_and_what_is_not_judged_has_no_label():
    found = first_is_better(
        np.array([1.0, 0.0, 2.0, np.nan]), np.array([0.0, 1.0, 2.0, 1.0]), None, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(found, [1.0, 0.0, np.nan, np.nan])
    noisy = first_is_better(np.array([np.nan]), np.zeros(1), 3.0, np.random.default_rng(0))
    assert np.isnan(noisy).all()


@pytest.mark.parametrize(("better", "first", "second"), [(1.0, "chosen", "rejected"), (0.0, "rejected", "chosen")])
def test_a_row_has_each_reply_with_its_own_reward_though_noise_chose_the_lesser(better, first, second):
    pair = Pair(0, Leaf("ab", (1, 2)), Leaf("c", (3,)), one_tree=False)
    (row,) = rows_of([Asked.of("x")], [pair], np.array([[2.0, 1.0]]), np.array([better]), ["t"])
    assert {first: row[first], second: row[second]} == {first: "ab", second: "c"}
    assert (row[f"{first}_value"], row[f"{second}_value"]) == (2.0, 1.0)


# --- judging ---


def test_a_judge_is_shown_the_prompt_and_exactly_the_reply(policy):
    shown = []

    def judge(prompts, replies):
        shown.extend(zip(prompts, [reply.text for reply in replies], strict=True))
        assert all(isinstance(reply, Reply) and reply.ended for reply in replies)
        return [float(len(reply.text)) for reply in replies]

    texts = ["abc", "h", "a. b"]
    leaves = [Leaf(text, tuple(policy.tokenizer(text, add_special_tokens=False).input_ids)) for text in texts]
    chats = [chat("ab"), chat("ab"), chat("hgf")]
    found = judged(policy, FunctionScorer(judge, Judged(policy, Sampling())), chats, leaves, np.random.default_rng(0))
    assert shown == [("ab", "abc"), ("ab", "h"), ("hgf", "a. b")]
    assert found.tolist() == [3.0, 1.0, 4.0]
    rollout = written(policy, chats, leaves)
    assert rollout.group.tolist() == [0, 0, 1]
    assert rollout.sampled.sum(1).tolist() == [4, 2, 5]  # with the end token
    assert rollout.ended.all()
    ends = rollout.tokens[torch.arange(3), rollout.attended.sum(1) - 1]
    assert ends.tolist() == [policy.tokenizer.eos_token_id] * 3


def test_what_cannot_work_is_refused(tmp_path, letters, policy):
    with pytest.raises(ConfigError, match=r"topology\.separators"):
        settings(tmp_path, sampling={"stop": ["x"]})
    with pytest.raises(ConfigError, match="every prompt is asked once"):
        settings(tmp_path, prompts={"path": ["a.jsonl"], "weights": [1.0]})
    with pytest.raises(ConfigError, match="judges"):
        settings(tmp_path, judges=[])
    with pytest.raises(ConfigError, match="Give a language model"):
        made(tmp_path, settings(tmp_path), object.__new__(_Other), id="a")
    never = settings(tmp_path, topology={"kind": "chain", "pairs": 1}, sampling={"max_tokens": 1})
    with pytest.raises(ConfigError, match="got a label"):
        made(tmp_path, never, policy, id="b")
    long = settings(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a" * 300}) + "\n")
    with pytest.raises(ConfigError, match=r"row 1 of prompts.jsonl has a prompt of 303 tokens"):
        made(tmp_path, long, policy, id="c")


class _Other:
    kind = "other"


def test_a_model_may_be_named_instead_of_given(tmp_path, letters):
    config = settings(tmp_path, model={"name": "nano", "vocabulary": LETTERS.model_dump()}, beta=1.0)
    with Run.create(tmp_path, kind="train", name="preference-data", config=config, seed=0, id="r") as run:
        data = PREFERENCE_DATA.train(config, run, {})
    assert data.made["pairs"] > 0
    assert isinstance(LanguageModel.of(config.model, np.random.default_rng(0)), LanguageModel)
    assert Asked.of("x").chat == chat("x")
