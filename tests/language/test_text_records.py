"""Rows of text data: the columns TRL reads, what is refused and how it is said, mixing, order, and what is held out."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import CheckpointError, ConfigError
from trueline.language.data_order import DataOrder, Place
from trueline.language.formats import FORMATS
from trueline.language.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    SafetyPreference,
    TokenRewards,
    TreePreference,
    UnpairedPreference,
    as_preference,
    as_unpaired,
    shared_prompt,
)
from trueline.language.rollout import Message
from trueline.language.sources import Data, load
from trueline.language.splits import hold_out, split_of_text

USER, REPLY, OTHER = Message("user", "Two and two?"), Message("assistant", "Four."), Message("assistant", "Five.")


def messages(*turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


SAFETY = {
    "prompt": "How?",
    "response_0": "Like this.",
    "response_1": "I will not say.",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}
TREE = {
    "prompt": "a",
    "chosen": "b",
    "rejected": "c",
    "tree_id": 7,
    "node_path": [[0, 1, 1], [0, 1, 0]],
    "lca_depth": 2,
}

# Every format in both of its forms, as TRL's documentation lays the columns out, and the record it becomes.
ROWS = {
    "language-modelling": [
        ({"text": "The sky is blue."}, LanguageModelling("The sky is blue.")),
        ({"messages": messages(USER, REPLY)}, LanguageModelling((USER, REPLY))),
    ],
    "prompt": [({"prompt": "The sky is"}, None), ({"prompt": messages(USER)}, None)],
    "prompt-completion": [
        ({"prompt": "The sky is", "completion": " blue."}, PromptCompletion("The sky is", " blue.")),
        ({"prompt": messages(USER), "completion": messages(REPLY)}, PromptCompletion((USER,), (REPLY,))),
    ],
    "preference": [
        (
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
            Preference("The sky is", " blue.", " green."),
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            Preference("The sky is", " blue.", " green."),
        ),
        (
            {"prompt": messages(USER), "chosen": messages(REPLY), "rejected": messages(OTHER)},
            Preference((USER,), (REPLY,), (OTHER,)),
        ),
        (
            {"chosen": messages(USER, REPLY), "rejected": messages(USER, OTHER)},
            Preference((USER,), (REPLY,), (OTHER,)),
        ),
        (
            {"prompt": USER.content, "chosen": messages(USER, REPLY), "rejected": messages(USER, OTHER)},
            Preference((USER,), (REPLY,), (OTHER,)),
        ),
    ],
    "unpaired-preference": [
        (
            {"prompt": "The sky is", "completion": " blue.", "label": True},
            UnpairedPreference("The sky is", " blue.", True),
        ),
        (
            {"prompt": messages(USER), "completion": messages(OTHER), "label": False},
            UnpairedPreference((USER,), (OTHER,), False),
        ),
    ],
    "stepwise": [({"prompt": "Which?", "completions": ["a", "b"], "labels": [True, False]}, None)],
    "safety-preference": [
        (SAFETY, SafetyPreference("How?", ("Like this.", "I will not say."), 0, 1, (False, True))),
    ],
    "tree-preference": [(TREE, TreePreference("a", "b", "c", "7", (0, 1, 1), (0, 1, 0)))],
    "token-rewards": [
        (
            {"prompt": "a", "completion_ids": [4, 5], "token_rewards": [0, -1.5], "token_costs": [[0.5], [1]]},
            TokenRewards("a", (4, 5), (0.0, -1.5), ((0.5,), (1.0,))),
        ),
        (
            {"prompt": "a", "completion_ids": [4], "token_rewards": [1.0]},
            TokenRewards("a", (4,), (1.0,), ((),)),
        ),
    ],
}


def write(folder, rows, name="data.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def loaded(path, accepts=tuple(FORMATS), **settings):
    return load(build(Data, {"path": path, **settings}), accepts)[0]


# --- formats ---


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_in_every_form(name, tmp_path):
    for columns, record in ROWS[name]:
        table = loaded(write(tmp_path, [{**columns, "id": "anything else"}]))
        assert table.format == name
        assert record is None or table.rows == (record,)


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved with splits", "folder"])
def test_file_formats_give_the_same_records(kind, tmp_path):
    rows = [
        {"chosen": messages(USER, REPLY), "rejected": messages(USER, OTHER), "score": 1.0},
        {"chosen": messages(USER, OTHER), "rejected": messages(USER, REPLY), "score": None},
    ]
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(rows)
    path = tmp_path / "data"
    if kind == "parquet":
        path = tmp_path / "data.parquet"
        made.to_parquet(path)
    elif kind == "saved":
        made.save_to_disk(path)
    elif kind == "saved with splits":
        datasets.DatasetDict({"test": made, "train": made.select([0])}).save_to_disk(path)
        with pytest.raises(ConfigError, match=r"no split 'tests'. Did you mean 'test'\?"):
            loaded(str(path), split="tests")
    else:
        path.mkdir()
        made.select([0]).to_parquet(path / "part-0.parquet")
        write(path, rows[1:], "part-1.jsonl")
    found = loaded(str(path), split="test")
    assert found.rows == loaded(write(tmp_path, rows)).rows
    assert found.sha256 == loaded(write(tmp_path, rows)).sha256


def test_the_hash_sees_every_record_and_their_order(tmp_path):
    one, two = ROWS["preference"][0][0], ROWS["preference"][3][0]
    plain = [{**one, "rejected": " red."}, one]
    hashes = {loaded(write(tmp_path, rows)).sha256 for rows in (plain, plain[::-1], plain[:1], [two])}
    assert len(hashes) == 4


def test_builtin_data_comes_from_the_registry(monkeypatch):
    asked = {}

    def world(split, **options):
        asked.update(split=split, **options)
        return [{"prompt": "a", "completion": "b"}]

    monkeypatch.setattr(registry, "load", lambda kind, name: {("text-data", "toy"): world}[kind, name])
    assert loaded("builtin:toy", split="ood", options={"n": 3}).rows == (PromptCompletion("a", "b"),)
    assert asked == {"split": "ood", "n": 3}


# --- what is refused ---

GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}
BAD = [
    ({"prompt": "a", "rejected": "c"}, r"row 3 of data.jsonl has no 'chosen'. A preference row has chosen, rejected"),
    ({**GOOD, "chosen": 4}, r"row 3 of data.jsonl has 4 as 'chosen'. Give text, or a list of messages"),
    ({**GOOD, "chosen": ""}, r"row 3 of data.jsonl has an empty answer. Correct it, or set unusable = 'drop'"),
    ({**GOOD, "chosen": " \n"}, r"row 3 of data.jsonl has an empty answer"),
    ({**GOOD, "chosen": "c"}, r"row 3 of data.jsonl has two equal answers"),
    ({**GOOD, "chosen": messages(REPLY)}, r"row 3 of data.jsonl has text as 'rejected', but messages as 'chosen'"),
    (
        {**GOOD, "chosen": [{"role": "robot", "content": "b"}], "rejected": messages(OTHER)},
        r"row 3 of data.jsonl has the message \{'role': 'robot'.* in 'chosen'. Give each a role \(system, user",
    ),
    ({**GOOD, "chosen": []}, r"row 3 of data.jsonl has \[\] as 'chosen'"),
]


@pytest.mark.parametrize(("bad", "sentence"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_named_with_its_column(bad, sentence, tmp_path):
    path = write(tmp_path, [GOOD, {**GOOD, "prompt": "d"}, bad, GOOD])
    with pytest.raises(ConfigError, match=sentence):
        loaded(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"better_response_id": 2}, r"has 2 as 'better_response_id'. Give 0 or 1"),
        ({"better_response_id": True}, r"has True as 'better_response_id'"),
        ({"is_response_0_safe": 1}, r"has 1 as 'is_response_0_safe'. Give true or false"),
        ({"is_response_0_safe": True, "is_response_1_safe": False}, r"calls the unsafe answer safer than the safe one"),
    ],
)
def test_safety_labels_are_checked(change, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        loaded(write(tmp_path, [{**SAFETY, **change}]))


def test_paths_of_a_tree_must_part_at_its_depth(tmp_path):
    with pytest.raises(ConfigError, match=r"has 1 as 'lca_depth', but its paths part at depth 2"):
        loaded(write(tmp_path, [{**TREE, "lca_depth": 1}]))
    with pytest.raises(ConfigError, match=r"as 'node_path'. Give two lists"):
        loaded(write(tmp_path, [{**TREE, "node_path": [0, 1]}]))


def test_token_rewards_have_one_number_a_token(tmp_path):
    with pytest.raises(ConfigError, match=r"has 2 tokens, 1 rewards"):
        loaded(write(tmp_path, [{"prompt": "a", "completion_ids": [1, 2], "token_rewards": [0.0]}]))
    row = {"prompt": "a", "completion_ids": [1], "token_rewards": [float("nan")]}
    with pytest.raises(ConfigError, match=r"as 'token_rewards'. Give a list of finite numbers"):
        loaded(write(tmp_path, [row]))


def test_files_that_are_no_data_are_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(GOOD) + "\n\n{oops\n")
    with pytest.raises(ConfigError, match=r"row 3 of data.jsonl is not JSON"):
        loaded(str(tmp_path / "data.jsonl"))
    (tmp_path / "data.jsonl").write_text("[1, 2]\n")
    with pytest.raises(ConfigError, match=r"row 1 of data.jsonl is \[1, 2\]"):
        loaded(str(tmp_path / "data.jsonl"))
    (tmp_path / "data.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=r"data.csv is neither .jsonl nor .parquet"):
        loaded(str(tmp_path / "data.csv"))
    (tmp_path / "data.parquet").write_text("no")
    with pytest.raises(ConfigError, match=r"data.parquet cannot be read as Parquet"):
        loaded(str(tmp_path / "data.parquet"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"empty.jsonl has no rows"):
        loaded(str(tmp_path / "empty.jsonl"))


def test_data_for_something_else_is_refused_with_what_is_wanted(tmp_path):
    """Answers labelled bad must not be imitated because their columns happen to contain a completion."""
    path = write(tmp_path, [ROWS["unpaired-preference"][0][0]])
    with pytest.raises(ConfigError, match=r"is unpaired-preference data .* A prompt-completion row has prompt, compl"):
        loaded(path, accepts=("language-modelling", "prompt-completion"))


def test_dropped_rows_are_counted_by_reason(tmp_path):
    rows = [GOOD, {**GOOD, "chosen": ""}, {**GOOD, "chosen": "c"}, {**GOOD, "rejected": " "}, {**GOOD, "chosen": "d"}]
    table = loaded(write(tmp_path, rows), unusable="drop")
    assert table.dropped == {"empty": 2, "identical": 1}
    assert table.numbers == (1, 5)
    with pytest.raises(ConfigError, match=r"no row of data.jsonl is left after 2 were dropped"):
        loaded(write(tmp_path, rows[1:3]), unusable="drop")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"path": ["a", "b"], "weights": [1.0]}, "weights has 1 numbers, but there are 2 paths"),
        ({"path": ["a", "b"], "weights": [1.0, 0.0]}, "every weight should be above 0"),
        ({"path": []}, "path is empty"),
        ({"path": "a.jsonl", "options": {"n": 1}}, "options are given, but no path is a builtin one"),
    ],
)
def test_settings_without_effect_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Data, settings)


# --- what becomes of pairs ---


def test_help_and_harm_are_separate_orders():
    record = ROWS["safety-preference"][0][1]
    assert as_preference(record) == Preference("How?", "Like this.", "I will not say.")
    assert record.responses[record.safer] == "I will not say."
    good, bad = as_unpaired(record)
    assert (good.completion, good.label, bad.completion, bad.label) == ("Like this.", True, "I will not say.", False)


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6), st.text("ab ", max_size=6))
def test_the_shared_prompt_is_shared_and_as_long_as_can_be(prompt, a, b):
    one, two = prompt + a, prompt + b
    n = shared_prompt(one, two)
    assert one[:n] == two[:n]
    whole = max(k for k in range(min(len(one), len(two)) + 1) if one[:k] == two[:k])
    assert n == whole or (n == whole - 1 and one[n] == " ")


def test_a_shared_last_answer_is_no_prompt():
    assert shared_prompt((USER, REPLY), (USER, REPLY, USER, OTHER)) == 1


# --- order ---


def test_every_row_comes_once_an_epoch_in_another_order():
    order = DataOrder([5, 8], seed=3)
    epochs = [[*order.take(13)] for _ in range(3)]
    everything = sorted(Place(s, r) for s, n in enumerate([5, 8]) for r in range(n))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [*DataOrder([5, 8], seed=4).take(13)] != epochs[0]


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=4), st.integers(1, 300))
def test_mixing_keeps_every_share_to_within_a_few_rows(weights, n):
    order = DataOrder([7] * len(weights), weights)
    taken = np.bincount([place.source for place in order.take(n)], minlength=len(weights))
    share = np.asarray(weights) / sum(weights)
    assert np.abs(taken - n * share).max() <= len(weights) - 1 + 1e-9


def test_a_small_source_is_repeated_whole_rounds_at_a_time():
    order = DataOrder([3, 100], weights=[0.5, 0.5], seed=1)
    small = [place.row for place in order.take(24) if place.source == 0]
    assert len(small) == 12
    assert all(sorted(small[k : k + 3]) == [0, 1, 2] for k in range(0, 12, 3))


@pytest.mark.parametrize("weights", [(), (0.3, 0.7)])
@given(before=st.integers(0, 40))
def test_the_order_goes_on_from_a_few_numbers(before, weights):
    whole = DataOrder([5, 8], weights, seed=2)
    expected = whole.take(before + 10)[before:]
    first = DataOrder([5, 8], weights, seed=2)
    first.take(before)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = DataOrder([5, 8], weights, seed=2)
    resumed.load_state_dict(state)
    assert resumed.take(10) == expected


def test_other_data_is_no_resumption():
    state = DataOrder([5, 8]).state_dict()
    with pytest.raises(CheckpointError, match=r"had \[5, 8\] rows, but there are \[5, 9\] now"):
        DataOrder([5, 9]).load_state_dict(state)


def test_unshuffled_rows_come_as_they_lie():
    assert [place.row for place in DataOrder([3], shuffle=False).take(7)] == [0, 1, 2, 0, 1, 2, 0]


# --- held out ---


def test_held_out_prompts_are_held_out_with_all_their_rows(tmp_path):
    rows = [{"prompt": f"p{k % 40}", "chosen": f"a{k}", "rejected": f"b{k}"} for k in range(200)]
    table = loaded(write(tmp_path, rows))
    train, held = hold_out(table, 0.25)
    assert {row.prompt for row in train.rows}.isdisjoint({row.prompt for row in held.rows})
    assert sorted([*train.numbers, *held.numbers]) == list(range(1, 201))
    assert 0 < len(held.rows) < 100
    # More data moves no prompt to the other side.
    again = hold_out(loaded(write(tmp_path, rows[:80])), 0.25).held_out
    assert {row.prompt for row in again.rows} == {row.prompt for row in held.rows}
    assert hold_out(table, 0.0).train.rows == table.rows


def test_prompts_of_a_file_belong_to_training_findings_or_verdicts_by_their_hash():
    prompts = [f"prompt {i}" for i in range(4000)]
    places = [split_of_text(prompt) for prompt in prompts]
    counts = Counter(place.split for place in places)
    for split, share in {"train": 0.5, "respond": 0.25, "verdict": 0.25}.items():
        assert abs(counts[split] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert {place.round for place in places if place.split == "verdict"} == set(range(64))
    assert split_of_text((Message("user", "prompt 1"),)) == places[1]
    assert [split_of_text(prompt) for prompt in reversed(prompts)] == places[::-1]


def test_training_leaves_the_prompts_of_audits_alone(tmp_path):
    rows = [{"prompt": f"prompt {i}", "completion": "yes"} for i in range(200)]
    path = write(tmp_path, rows)
    (table,) = load(Data(path=str(path), leave_for_audits=True), ["prompt-completion"])
    kept = {row.prompt for row in table.rows}
    assert kept == {row["prompt"] for row in rows if split_of_text(row["prompt"]).split == "train"}
    assert table.dropped == {"kept for audits": 200 - len(kept)}
