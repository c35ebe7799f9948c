"""Functions that judge by columns of the row that asked, such as a reference answer: what they are given, by every
recipe that learns from its own replies; what is refused, and when.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from small_models import nano
from token_world import RECIPES, TOKENIZER, World, log, tiny, whole_and_resumed

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import CheckpointError, ConfigError
from trueline.core.files import to_json
from trueline.core.recipe import check_config
from trueline.core.run import Run
from trueline.cycle.training import start_training
from trueline.language.audits.comparison import Comparing, compared
from trueline.language.audits.judge import JudgeSettings, TextJudge, facts
from trueline.language.best_of_n import RFT, best_of_n
from trueline.language.evaluation import Answers, optimisation_point, values_of
from trueline.language.online import GRPO
from trueline.language.online.checks import check_prompts
from trueline.language.online.prompts import asked_of
from trueline.language.online_dpo import ONLINE_DPO
from trueline.language.rollout import Message, Reply, Sampling, chat
from trueline.language.sampler import StaticCache
from trueline.language.scorers import Function, Judged, Judgement, opened
from trueline.language.sources import Data, load
from trueline.language.topology.preferences import PREFERENCE_DATA
from trueline.language.windows import Window

torch.set_num_threads(1)
ONLINE = ("lm-ppo", "lm-ppo-lag", "rloo", "grpo", "online-dpo")
RIGHT = {"x": "a", "y": "b", "xy": "a", "yx": "b"}  # the reference answer to each prompt
SEEN: list[tuple[str, str, dict[str, str]]] = []  # prompt, reply and row of every call


class Right:
    """How many of a reply's letters are the reference answer, in thousandths; each costs as much."""

    def __init__(self, columns=("answer",), costs=()):
        self.columns, self.costs = columns, tuple(costs)

    def __call__(self, prompts, replies, rows):
        SEEN.extend(zip(prompts, [reply.text for reply in replies], rows, strict=True))
        found = [reply.text.count(row["answer"]) / 1000 for reply, row in zip(replies, rows, strict=True)]
        return [Judgement(one, dict.fromkeys(self.costs, one)) for one in found]


class Two:
    """A function of another column."""

    columns = ("level",)
    costs = ()

    def __call__(self, prompts, replies, rows):
        SEEN.extend(zip(prompts, [reply.text for reply in replies], rows, strict=True))
        return [float(row["level"]) for row in rows]


class OneText(Right):
    """A text in place of a tuple."""

    def __init__(self):
        super().__init__("answer")


class Deaf:
    """Names a column, and takes no rows."""

    columns, costs = ("answer",), ()

    def __call__(self, prompts, replies):
        return [0.0] * len(replies)


class Greedy:
    """Takes rows, and names no column."""

    costs = ()

    def __call__(self, prompts, replies, rows):
        return [0.0] * len(replies)


@pytest.fixture(autouse=True)
def scorers(monkeypatch):
    SEEN.clear()
    known = registry.load
    found = {"right": Right, "two": Two, "one-text": OneText, "deaf": Deaf, "greedy": Greedy}
    monkeypatch.setattr(
        registry, "load", lambda kind, name: found[name] if kind == "scorer" and name in found else known(kind, name)
    )


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "online-dpo", ONLINE_DPO)
    made = World(tmp_path, monkeypatch)
    ask(made, *({"prompt": prompt, "answer": answer, "beside": 7} for prompt, answer in RIGHT.items()))
    return made


def ask(world, *rows):
    world.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_of(world, name, scorers=("right",), **given):
    costs = {"options": {"costs": ["harm"]}} if name == "lm-ppo-lag" else {}
    chosen = [{"kind": "function", "name": one, **costs} for one in scorers]
    if name == "preference-data":
        asked = {"prompts": {"path": str(world.prompts)}, "judges": chosen, "device": "cpu"}
        topology = {"kind": "tree", "separators": ["c"], "depth": 2, "pairs": 3}
        return build(PREFERENCE_DATA.Config, {**asked, "topology": topology, **given})
    if name == "rft":
        asked = {"prompts": {"path": str(world.prompts)}, "scorers": chosen, "sampling": {"max_tokens": 12}}
        return build(RFT.Config, {**asked, "samples": 8, **given})
    return world.config(name, scorers=chosen, **({"samples": 2} if name == "online-dpo" else {}), **given)


def recipe_of(name):
    return {"rft": RFT, "preference-data": PREFERENCE_DATA}.get(name) or RECIPES[name]


# --- what a function is given ---


def test_rows_stand_in_the_order_of_the_replies_and_hold_what_was_asked_for():
    policy, sampling = nano(0), Sampling(max_tokens=6)
    turns = (Message("user", "ab"), Message("assistant", "c"), Message("user", "d"))
    chats = [chat("h"), turns, turns, chat("abc"), chat("h")]
    words = ["h", "user: ab\nassistant: c\nuser: d", "user: ab\nassistant: c\nuser: d", "abc", "h"]
    columns = {text: {"answer": text[-1], "level": len(text)} for text in words}
    rollout = StaticCache().sample(policy, chats, sampling, np.random.default_rng(1))
    settings = [Function(name="right"), Function(name="two", weight=2.0)]
    scorer = opened(settings, Judged(policy, sampling, columns), {})
    reward = scorer.score(rollout, np.random.default_rng(0)).reward.sum(dim=1).tolist()
    one, two = SEEN[: len(chats)], SEEN[len(chats) :]
    assert [prompt for prompt, _, _ in one] == words
    assert [row for _, _, row in one] == [{"answer": text[-1]} for text in words]
    assert [row for _, _, row in two] == [{"level": len(text)} for text in words]
    by_hand = [reply.count(text[-1]) / 1000 + 2 * len(text) for text, (_, reply, _) in zip(words, one, strict=True)]
    assert reward == pytest.approx(by_hand)


@pytest.mark.parametrize("name", ONLINE)
def test_the_reward_of_a_training_is_what_the_columns_say(world, name):
    with world.run(name, config := config_of(world, name, max_steps=2, completions=0)) as run:
        RECIPES[name].train(config, run, {"policy": tiny()})
    assert len(SEEN) == 2 * config.replies
    assert all(row == {"answer": RIGHT[prompt]} for prompt, _, row in SEEN)
    for step, line in enumerate(log(run)):
        replies = SEEN[step * config.replies : (step + 1) * config.replies]
        assert {prompt for prompt, _, _ in replies} == set(RIGHT)
        by_hand = np.mean([reply.count(RIGHT[prompt]) / 1000 for prompt, reply, _ in replies])
        assert line["train/reward"] == pytest.approx(by_hand)


def test_the_answer_to_each_prompt_is_learnt(world):
    """One token, another one right after each prompt: nobody could tell without the column."""
    ask(world, *({"prompt": prompt, "answer": RIGHT[prompt]} for prompt in "xy"))
    given = {"sampling": {"max_tokens": 1}, "batch_size": 8, "samples": 8, "max_steps": 80, "kl": {"weight": 0.0}}
    with world.run("grpo", config := config_of(world, "grpo", **given)) as run:
        GRPO.train(config, run, {"policy": tiny()})
    assert np.mean([line["train/reward"] for line in log(run)[-10:]]) > 0.9 / 1000


def test_what_is_kept_by_rejection_has_the_most_right_letters(world):
    with world.run("rft", config := config_of(world, "rft", rounds=2, tuning={"length": 32})) as run:
        RFT.train(config, run, {"policy": tiny()})
    assert len(SEEN) == 2 * 4 * config.samples
    assert all(row == {"answer": RIGHT[prompt]} for prompt, _, row in SEEN)
    rows = [json.loads(line) for line in (run.folder / "artefacts/kept/round-1.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        (prompt,), (reply,) = ([turn["content"] for turn in row[column]] for column in ("prompt", "completion"))
        assert row["reward"] == pytest.approx(reply.count(RIGHT[prompt]) / 1000)


def test_pairs_are_judged_by_the_columns_of_their_prompt(world):
    with world.run("preference-data", config := config_of(world, "preference-data")) as run:
        data = PREFERENCE_DATA.train(config, run, {"policy": tiny()})
    assert data.rows
    for row in data.rows:
        assert row["chosen_value"] == pytest.approx(row["chosen"].count(RIGHT[row["prompt"]]) / 1000)
        assert row["rejected_value"] == pytest.approx(row["rejected"].count(RIGHT[row["prompt"]]) / 1000)


def asked(world, **given):
    return asked_of(config_of(world, "grpo", **given), Window(TOKENIZER, 64), world.runs)


def test_columns_are_those_of_the_rows_that_ask(world):
    """Rows that are left out, blank lines and chats of several turns move no answer to another prompt."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    kept = [{"prompt": "x", "answer": 1}, {"prompt": "a", "answer": [2, {"k": 3}]}]
    left = [{"prompt": "y", "completion": " "}, {"prompt": "b", "completion": "b"}]  # empty, and beyond the limit
    rows = [{**kept[0], "completion": "a"}, left[0], {**kept[1], "completion": "b"}, left[1]]
    world.prompts.write_text("\n\n".join(map(json.dumps, rows)))
    other = world.folder / "other.jsonl"
    other.write_text(json.dumps({"prompt": turns, "answer": 4}) + "\n" + json.dumps({"prompt": "x", "answer": 1}))
    paths = {"path": [str(world.prompts), str(other)], "unusable": "drop", "limit": 3}
    assert asked(world, prompts=paths).columns == {
        "x": {"answer": 1},
        "a": {"answer": [2, {"k": 3}]},
        "user: a\nassistant: b\nuser: c": {"answer": 4},
    }
    assert asked(world, prompts=paths, scorers=()).columns == {}


# --- what is refused before a run exists, and in training ---


def refused(world, name, message, **given):
    config = config_of(world, name, **given)
    for attempt in (
        lambda: recipe_of(name).check_with(config, world.runs, {}),
        lambda: check_config(name, config, world.runs),
        lambda: start_training(name, config, root=world.runs),
    ):
        with pytest.raises(ConfigError, match=message):
            attempt()
    assert not list(world.runs.glob("*"))
    with pytest.raises(ConfigError, match=message), world.run(name, config) as run:
        recipe_of(name).train(config, run, {"policy": tiny()})
    assert not SEEN


@pytest.mark.parametrize("name", [*ONLINE, "rft", "preference-data"])
@pytest.mark.parametrize("lacking", [{}, {"answer": None}])
def test_a_row_without_a_wanted_column_is_refused_by_its_number(world, name, lacking):
    ask(world, {"prompt": "x", "answer": "a"}, {"prompt": "y", **lacking})
    refused(world, name, r"row 2 of prompts.jsonl has no 'answer', which the scorer 'right' wants. Give one in every")


@pytest.mark.parametrize("name", ["grpo", "rft", "preference-data"])
def test_two_rows_that_ask_the_same_have_one_answer(world, name):
    rows = [{"prompt": "x", "answer": "a"}, {"prompt": "y", "answer": "b"}, {"prompt": "x", "answer": "b"}]
    ask(world, *rows)
    message = r"row 1 of prompts.jsonl and row 3 of prompts.jsonl ask the same, but have 'a' and 'b' as 'answer', which"
    refused(world, name, message)
    ask(world, *rows[:2], {**rows[0], "beside": 8})
    recipe_of(name).check_with(config_of(world, name), world.runs, {})


def test_a_chat_whose_text_is_that_of_a_plain_prompt_is_not_taken_for_it(world):
    """The roles of one are the words of the other, so that by its text nobody could tell them apart."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    other = world.folder / "other.jsonl"
    other.write_text(json.dumps({"prompt": "user: a\nassistant: b\nuser: c", "answer": "b"}))
    ask(world, {"prompt": turns, "answer": "a"})
    with pytest.raises(ConfigError, match=r"row 1 of prompts.jsonl and row 1 of other.jsonl ask the same"):
        asked(world, prompts={"path": [str(world.prompts), str(other)]})


@pytest.mark.parametrize("name", ["grpo", "rft"])
def test_prompts_of_findings_have_no_columns(world, name):
    found = world.folder / "found.json"
    found.write_text(json.dumps([{"case": {"data": {"split": "respond", "chat": [{"role": "user", "content": "a"}]}}}]))
    message = r"the scorer 'right' wants the column 'answer' of the data, but prompts of findings have no columns"
    refused(world, name, message, findings=(str(found),))


@pytest.mark.parametrize("name", ["grpo", "rft", "preference-data"])
def test_of_a_model_on_the_hub_nothing_has_to_be_known(world, name):
    ask(world, {"prompt": "x"})
    config = config_of(world, name, model={"name": "owner/name"})
    with pytest.raises(ConfigError, match=r"row 1 of prompts.jsonl has no 'answer'"):
        recipe_of(name).check_with(config, world.runs, {})
    check_prompts(config_of(world, "grpo", scorers=("letters",), model={"name": "owner/name"}), world.runs, {})


@pytest.mark.parametrize("name", ["grpo", "rft"])
def test_a_dry_run_says_it_too(world, name):
    recipe_of(name).dry_run(config_of(world, name), {"policy": tiny()}, world.runs)
    ask(world, {"prompt": "x"})
    with pytest.raises(ConfigError, match=r"row 1 of prompts.jsonl has no 'answer'"):
        recipe_of(name).dry_run(config_of(world, name), {"policy": tiny()}, world.runs)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("one-text", "the scorer 'one-text' has 'answer' as `columns`, which is no tuple of names. Register a class"),
        ("deaf", "the scorer 'deaf' cannot be called with prompts and replies and rows"),
        ("greedy", "the scorer 'greedy' cannot be called with prompts and replies .*'rows'"),
    ],
)
def test_a_function_that_is_not_made_for_its_columns_is_refused(world, scorer, message):
    with pytest.raises(ConfigError, match=message):
        check_config("grpo", config_of(world, "grpo", scorers=(scorer,)), world.runs)


# --- where there are no columns ---

WANTS = r"'right' wants columns of the data \(answer\), but here it would be given prompts and replies alone"


def test_without_columns_a_function_that_wants_some_is_refused(world):
    policy, sampling, rng, right = tiny(), Sampling(max_tokens=2), np.random.default_rng(0), Function(name="right")
    with pytest.raises(ConfigError, match=f"the scorer {WANTS}"):
        opened([right], Judged(policy, sampling), {})
    with pytest.raises(ConfigError, match=f"the scorer {WANTS}"):
        best_of_n(policy, [chat("x")], 2, [right], sampling, rng)
    with pytest.raises(ConfigError, match=f"the scorer {WANTS}"):
        optimisation_point(policy, policy, ["x"], [right], lambda *_: [0.0], sampling, rng)
    with pytest.raises(ConfigError, match=r"the judge wants columns of the data \(answer\)"):
        values_of(Answers(("x",), (Reply("a", 1, True),)), Right())
    with pytest.raises(ConfigError, match=f"the judge {WANTS}"):
        facts(build(JudgeSettings, {"judge": {"kind": "function", "name": "right"}}), None)
    with pytest.raises(ConfigError, match=r"the judge wants columns of the data \(answer\)"):
        TextJudge(Right(), ("function:right",))
    assert not SEEN


def test_a_comparison_refuses_it_as_judge_and_as_proxy(world):
    right, letters = ({"kind": "function", "name": name} for name in ("right", "letters"))
    for given, message in (
        ({"judge": right}, f"the judge {WANTS}"),
        ({"judge": letters, "proxy": [right]}, f"the proxy {WANTS}"),
    ):
        same = {"path": str(world.prompts), "rounds": 1, "prompts": 2, "sampling": {"max_tokens": 2}}
        with pytest.raises(ConfigError, match=message):
            compared({"a": tiny(0), "b": tiny(1)}, build(Comparing, {**same, "root": str(world.runs), **given}))


def test_a_prompt_that_no_row_asks_is_refused_in_a_sentence():
    policy, sampling = nano(0), Sampling(max_tokens=2)
    scorer = opened([Function(name="right")], Judged(policy, sampling, {"h": {"answer": "a"}}), {})
    rollout = StaticCache().sample(policy, [chat("h"), chat("abc")], sampling, np.random.default_rng(1))
    with pytest.raises(ConfigError, match=r"wants columns of the data \(answer\), .* not known of the prompt 'abc'"):
        scorer.score(rollout, np.random.default_rng(0))


# --- going on ---


def test_a_run_that_is_killed_and_resumed_leaves_the_same_bytes(world, monkeypatch):
    config = config_of(world, "grpo", max_steps=4, checkpoint_steps=1)
    whole, resumed = whole_and_resumed(world.runs, GRPO, config, monkeypatch)
    assert resumed == whole


@pytest.mark.parametrize("name", ["grpo", "rft"])
def test_a_reference_that_changed_is_refused_on_resume(world, name):
    more = {"checkpoint_steps": 1} if name == "grpo" else {"tuning": {"length": 32}}
    config, recipe = config_of(world, name, **more), recipe_of(name)
    with world.run(name, config, id="a") as run:
        recipe.train(config, run, {"policy": tiny()})
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in RIGHT.items()]
    ask(world, *rows)  # what no scorer wants is gone
    with Run.reopen(run.folder) as again:
        recipe.train(config, again, {"policy": tiny()})
    ask(world, *rows[:3], {**rows[3], "answer": "c"})
    with pytest.raises(CheckpointError, match="prompts of run a changed"), Run.reopen(run.folder) as again:
        recipe.train(config, again, {"policy": tiny()})


def test_what_no_scorer_wants_is_no_part_of_what_a_run_is_held_to(world):
    without = asked(world, scorers=("letters",)).sha256
    (table,) = load(Data(path=str(world.prompts)), ("prompt",))
    assert without == hashlib.sha256(to_json([[table.sha256], ()]).encode()).hexdigest()  # as before there were columns
    assert asked(world).sha256 != without
    ask(world, *({"prompt": prompt} for prompt in RIGHT))
    assert asked(world, scorers=("letters",)).sha256 == without
