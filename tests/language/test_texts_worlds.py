"""What all worlds of text share: prompts by number, splits that cannot overlap, records that load, and oracles."""

from __future__ import annotations

import json
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core import registry
from trueline.core.errors import ConfigError, UnknownName
from trueline.core.streams import ROUNDS, SplitRound
from trueline.language.formats import FORMATS
from trueline.language.sources import Data, load
from trueline.language.texts import (
    TEXTS,
    Injects,
    Paraphrases,
    Place,
    data,
    draw_prompts,
    records,
    split_of_prompt,
    text_world,
)
from trueline.language.texts.walks import Walks, crossings
from trueline.language.texts.world import permuted, unpermuted
from trueline.language.vocabulary import tokenizer_of

WORLDS = {
    "cipher-reply": {"filler": 0.4, "refusal": 0.3, "references": 2},
    "safety-dialogue": {"harm_noise": 0.2},
    "grammar-essay": {},
    "synthetic-reviews": {"neutral": 0.2, "label_noise": 0.1},
}
# So small that all prompts can be listed.
SMALL = {
    "cipher-reply": {"length": 4, "symbols": 8},
    "grammar-essay": {"prompt_length": 4, "themes": 8},
    "synthetic-reviews": {"prompt_length": 2, "words": 20, "topics": 3},
}
every_world = pytest.mark.parametrize("name", list(TEXTS))
every_format = pytest.mark.parametrize(
    ("name", "format"), [(n, f) for n, world in TEXTS.items() for f in world.formats]
)


def world_of(name):
    return text_world(name, **WORLDS[name])


@st.composite
def places(draw, world):
    kind = draw(st.sampled_from(list(world.sizes)))
    return Place(kind, draw(st.integers(0, world.sizes[kind] - 1)))


# --- numbering ---


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 65, 1000])
def test_the_permutation_is_one_and_its_inverse_undoes_it(size):
    image = [permuted(i, size, "a") for i in range(size)]
    assert sorted(image) == list(range(size))
    assert [unpermuted(i, size, "a") for i in image] == list(range(size))
    assert size < 17 or image != [permuted(i, size, "b") for i in range(size)]


@given(st.integers(1, 1 << 60), st.data())
def test_large_numbers_come_back(size, drawn):
    index = drawn.draw(st.integers(0, size - 1))
    assert unpermuted(permuted(index, size, "key"), size, "key") == index


def test_the_permutation_is_the_same_on_every_machine():
    # A change would move prompts between splits, and what was trained on could then decide a verdict.
    assert [permuted(i, 1000, "cipher-reply/plain") for i in range(6)] == [224, 890, 764, 218, 354, 109]


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(("symbols", "length"), [(3, 2), (4, 4), (5, 3)])
def test_walks_are_all_sequences_with_that_many_crossings(symbols, length, once):
    walks = Walks(symbols, length, once)
    # By the definition: a crossing is a symbol followed by the one ⌊S/2⌋ after it.
    wanted = {
        walk
        for walk in product(range(symbols), repeat=length)
        if sum((a + symbols // 2) % symbols == b for a, b in pairwise(walk)) == once
    }
    assert [walks.at(i) for i in range(walks.size)] == sorted(wanted, key=walks.number)
    assert len(wanted) == walks.size
    assert [walks.number(walks.at(i)) for i in range(walks.size)] == list(range(walks.size))
    assert all(crossings(walk, symbols) == once for walk in wanted)
    others = set(product(range(symbols), repeat=length)) - wanted
    assert all(walks.number(walk) is None for walk in others)


@every_world
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_prompt_is_found_where_it_stands(name, drawn):
    world = world_of(name)
    place = drawn.draw(places(world))
    assert world.find(world.prompt_at(place)) == place


@every_world
@pytest.mark.parametrize("text", ["", " ", "nothing of the kind", "|", ".", "\x00", "a" * 999])
def test_what_is_no_prompt_has_no_place_and_cannot_be_judged(name, text):
    world = world_of(name)
    assert world.find(text) is None
    assert split_of_prompt(world, text) is None
    with pytest.raises(ConfigError, match="Ask with"):
        world.judge(text, "a")


# --- splits ---


@pytest.mark.parametrize("name", list(SMALL))
def test_splits_and_rounds_part_all_prompts(name):
    world = text_world(name, **SMALL[name])
    size, rng = world.sizes["plain"], np.random.default_rng(0)
    where = [split_of_prompt(world, world.prompt_at(Place("plain", i))) for i in range(size)]
    seen = 0
    for split, rounds in (("train", 1), ("respond", ROUNDS), ("verdict", ROUNDS)):
        for round in range(rounds):
            n = where.count(SplitRound(split, round))
            share = 0.5 if split == "train" else 0.25 / ROUNDS
            assert abs(n - share * size) <= 1  # a range of positions, whatever the world
            drawn = draw_prompts(world, n, rng, split, round, "plain")
            assert len(set(drawn)) == n
            assert all(split_of_prompt(world, prompt) == (split, round) for prompt in drawn[:20])
            with pytest.raises(ConfigError, match=f"{split} has {n} of {name}"):
                draw_prompts(world, n + 1, rng, split, round, "plain")
            seen += n
    assert seen == size


@every_world
@pytest.mark.parametrize(("split", "round"), [("train", 0), ("respond", 5), ("verdict", 63)])
def test_drawn_prompts_are_of_the_split_and_kind(name, split, round):
    world = world_of(name)
    for kind in world.sizes:
        drawn = draw_prompts(world, 4, np.random.default_rng(1), split, round, kind)
        assert {world.find(prompt).kind for prompt in drawn} == {kind}
        assert {split_of_prompt(world, prompt) for prompt in drawn} == {SplitRound(split, round)}
    usual = draw_prompts(world, 50, np.random.default_rng(1), split, round)
    assert {world.find(prompt).kind for prompt in usual} == {kind for kind, share in world.shares.items() if share}


@every_world
def test_prompts_are_spread_over_the_whole_space(name):
    # The number of a uniform prompt is uniform: 16 bins of 800 draws, χ² with 15 degrees exceeds 50 once in 80,000.
    world = world_of(name)
    kind = next(iter(world.sizes))
    drawn = draw_prompts(world, 800, np.random.default_rng(2), "verdict", 1, kind)
    bins = np.bincount([world.find(prompt).index * 16 // world.sizes[kind] for prompt in drawn], minlength=16)
    assert ((bins - 50.0) ** 2 / 50.0).sum() < 50


# --- records ---


@every_format
def test_rows_depend_on_the_seed_alone(name, format):
    world = world_of(name)
    one, two, other = (records(world, format, 12, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == two != other


@every_format
@pytest.mark.parametrize("split", ["train", "verdict"])
def test_rows_load_as_the_format_they_are(name, format, split, monkeypatch):
    makers = {entry: getattr(data, entry.replace("-", "_")) for entry in TEXTS}
    monkeypatch.setattr(registry, "load", lambda kind, known: makers[known] if kind == "text-data" else None)
    options = {"format": format, "n": 40, "seed": 5, "round": 2, **WORLDS[name]}
    (table,) = load(Data(path=f"builtin:{name}", split=split, options=options), set(FORMATS))
    assert (table.format, len(table.rows), table.dropped) == (format, 40, {})


@every_format
def test_several_rows_may_share_a_prompt(name, format):
    world = world_of(name)
    rows = records(world, format, 7, np.random.default_rng(0), per_prompt=3)
    if format != "language-modelling":
        prompts = [row["prompt"] for row in rows]
        assert prompts == [prompts[0]] * 3 + [prompts[3]] * 3 + [prompts[6]]
        assert len(set(prompts)) == 3
    assert len(rows) == 7


@every_format
def test_the_tokenizer_knows_every_word(name, format):
    world = world_of(name)
    tokenizer = tokenizer_of(world.vocabulary)
    rng = np.random.default_rng(6)
    texts = [text for row in records(world, format, 150, rng) for text in row.values() if isinstance(text, str)]
    for kind in world.sizes:
        for prompt in draw_prompts(world, 5, rng, "respond", 0, kind):
            texts += [prompt, world.best(prompt), world.worst(prompt)]
            texts += [world.inject(prompt, rng)] if isinstance(world, Injects) else []
            texts += [world.paraphrase(prompt, rng)] if isinstance(world, Paraphrases) else []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


@every_world
def test_only_training_pairs_carry_noise(name):
    world = world_of(name)
    pairs = {
        split: records(world, "preference", 400, np.random.default_rng(7), split) for split in ("train", "respond")
    }
    upside_down = {
        split: sum(row["chosen_value"] < row["rejected_value"] for row in rows) for split, rows in pairs.items()
    }
    assert upside_down["respond"] == 0
    assert all(row["chosen_value"] > row["rejected_value"] for row in pairs["respond"])
    assert upside_down["train"] > 10


# --- oracles ---


@every_world
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_reply_is_better_than_best_or_worse_than_worst(name, drawn):
    world = world_of(name)
    prompt = world.prompt_at(drawn.draw(places(world)))
    words = st.sampled_from((*world.vocabulary.words, "garbage"))
    reply = drawn.draw(
        st.text()
        | st.lists(words, max_size=40).map(" ".join)
        | st.integers(0, 99).map(lambda s: sampled(world, prompt, s))
    )
    verdict, best = world.judge(prompt, reply), world.judge(prompt, world.best(prompt))
    assert len(verdict.wrong) == len(reply.split())
    assert verdict.cost in (0.0, 1.0)
    assert best.cost == 0
    if verdict.cost == 0:
        assert verdict.reward <= best.reward
    worst = world.judge(prompt, world.worst(prompt))
    # An essay with segments missing is worth less than any well-formed one.
    assert name == "grammar-essay" or (worst.reward, -worst.cost) <= (verdict.reward, -verdict.cost)
    json.dumps(dict(verdict.measures))


def sampled(world, prompt, seed):
    return world.reply(prompt, np.random.default_rng(seed))


@every_world
def test_gold_replies_have_no_words_to_blame_and_the_worst_ones_do(name):
    world = world_of(name)
    for prompt in draw_prompts(world, 20, np.random.default_rng(8)):
        best, worst = (world.judge(prompt, reply) for reply in (world.best(prompt), world.worst(prompt)))
        assert sum(best.wrong) < sum(worst.wrong)
        assert name == "grammar-essay" or not any(best.wrong)


# --- what is refused ---


def test_what_is_not_known_is_named():
    world, rng = text_world("cipher-reply"), np.random.default_rng(0)
    with pytest.raises(UnknownName, match="Did you mean 'cipher-reply'"):
        text_world("cipher-repy")
    with pytest.raises(ConfigError, match=r"cipher-reply: .*simbols.*symbols"):
        text_world("cipher-reply", simbols=4)
    with pytest.raises(ConfigError, match=r"no prompts of kind 'plein'.*Did you mean 'plain'"):
        draw_prompts(world, 1, rng, kind="plein")
    with pytest.raises(ConfigError, match="split is 'test'"):
        draw_prompts(world, 1, rng, "test")
    with pytest.raises(ConfigError, match="round is 64"):
        draw_prompts(world, 1, rng, "verdict", 64)
    with pytest.raises(ConfigError, match="makes no 'safety-preference' rows"):
        records(world, "safety-preference", 1, rng)
    with pytest.raises(ConfigError, match="per_prompt is 0"):
        records(world, "preference", 1, rng, per_prompt=0)
    with pytest.raises(ConfigError, match="-1 prompts"):
        draw_prompts(world, -1, rng)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("cipher-reply", {"references": 12}, "at least one must be wrong"),
        ("cipher-reply", {"filler": 0.8, "filler_bias": 0.5}, "chance above 1"),
        ("cipher-reply", {"filler_bias": 0.5}, "no effect without filler"),
        ("cipher-reply", {"refusal_bias": 0.5}, "no effect without refusal"),
        ("cipher-reply", {"length": 40}, "too many prompts"),
        ("safety-dialogue", {"harmful": 0.8, "look_alike": 0.4}, "more than all prompts"),
        ("safety-dialogue", {"refuses": 0.8, "careless": 0.4}, "more than all replies"),
        ("grammar-essay", {"prompt_length": 40}, "too many prompts"),
        ("synthetic-reviews", {"positive": 0.8, "neutral": 0.4}, "more than all documents"),
        ("synthetic-reviews", {"prompt_length": 40}, "too many prompts"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, given, says):
    with pytest.raises(ConfigError, match=says):
        text_world(name, **given)
