"""`synthetic-reviews`: scores by counting, and how often each sentiment and each flip is there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from trueline.core.errors import ConfigError
from trueline.language.texts import Place, draw_prompts, records, text_world

RARE = 1e-4
PROMPT = "film-0 film-3 film-1 film-2 |"


def rate_is(hits, n, p):
    assert binomtest(int(hits), int(n), p).pvalue > RARE, f"{hits} of {n}, but {p:.3f} of them are due"


def documents(n=1500, split="train", **settings):
    world = text_world("synthetic-reviews", **settings)
    return world, records(world, "prompt-completion", n, np.random.default_rng(4), split)


@given(st.lists(st.sampled_from(["positive-film-1", "negative-food-2"]), min_size=8, max_size=20))
def test_the_score_of_a_whole_review_is_its_share_of_positive_words(words):
    verdict = text_world("synthetic-reviews").judge(PROMPT, " ".join(words))
    assert verdict.reward == pytest.approx(sum(word.startswith("positive") for word in words) / len(words))
    assert verdict.wrong == tuple(word.startswith("negative") for word in words)
    assert verdict.measures["on-topic"] == pytest.approx(sum("film" in word for word in words) / len(words))


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("", 0.5),  # says nothing
        ("positive-film-1", 0.5 + 0.5 / 8),  # too short to be worth 1
        ("negative-film-1", 0.5 - 0.5 / 8),
        ("neutral-film-1 " * 8, 0.5),
        ("rubbish " * 30, 0.5),
        ("positive-film-1 " * 30, 1.0),
        ("positive-film-9", 0.5),  # not in the vocabulary: there are eight opinions, from 0
    ],
)
def test_scores_by_example(reply, reward):
    assert text_world("synthetic-reviews").judge(PROMPT, reply).reward == pytest.approx(reward)


@pytest.mark.parametrize(("positive", "neutral"), [(0.5, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.3, 0.4)])
def test_sentiments_are_there_in_their_shares(positive, neutral):
    world, rows = documents(positive=positive, neutral=neutral, flips=0.0)
    sentiments = Counter()
    for row in rows:
        words = row["completion"].split()
        (sentiment,) = {word.split("-")[0] for word in words}  # without flips a review is of one
        sentiments[sentiment] += 1
        assert {word.split("-")[1] for word in words} == {world.topic_of(row["prompt"])}
        assert len(words) == 8
    for sentiment, share in (("positive", positive), ("neutral", neutral), ("negative", 1 - positive - neutral)):
        rate_is(sentiments[sentiment], len(rows), share)


def test_words_flip_at_the_rate_and_are_of_all_sorts():
    _, rows = documents(positive=1.0, flips=0.1)
    words = Counter(word for row in rows for word in row["completion"].split())
    negative = sum(n for word, n in words.items() if word.startswith("negative"))
    rate_is(negative, 8 * len(rows), 0.1)
    by_number = Counter(word.split("-")[2] for word in words.elements())
    assert chisquare(list(by_number.values())).pvalue > RARE


def test_neutral_words_flip_to_either_side():
    _, rows = documents(neutral=1.0, positive=0.0, flips=0.5)
    words = Counter(word.split("-")[0] for row in rows for word in row["completion"].split())
    rate_is(words["neutral"], words.total(), 0.5)
    rate_is(words["positive"], words["positive"] + words["negative"], 0.5)


def test_the_prompt_does_not_tell_the_sentiment():
    # Documents to one prompt: as many positive ones as over all.
    world = text_world("synthetic-reviews", flips=0.0)
    rows = records(world, "prompt-completion", 1000, np.random.default_rng(0), per_prompt=1000)
    assert len({row["prompt"] for row in rows}) == 1
    rate_is(sum("positive" in row["completion"] for row in rows), 1000, 0.5)


def test_a_text_is_the_prompt_and_a_review():
    world = text_world("synthetic-reviews")
    for row in records(world, "language-modelling", 20, np.random.default_rng(1)):
        prompt, bar, review = row["text"].partition(" | ")
        assert world.find(prompt + bar.rstrip()).kind == "plain"
        assert len(review.split()) == 8


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_pairs_prefer_what_is_more_positive_up_to_noise(noise):
    world = text_world("synthetic-reviews", label_noise=noise)
    rows = records(world, "preference", 1000, np.random.default_rng(2))
    wrong = 0
    for row in rows:
        chosen, rejected = (row[c].count("positive") for c in ("chosen", "rejected"))
        assert chosen != rejected
        wrong += chosen < rejected
    rate_is(wrong, 1000, noise)


def test_reviews_of_one_score_make_no_pairs():
    world = text_world("synthetic-reviews", positive=1.0, flips=0.0)
    with pytest.raises(ConfigError, match="one score only"):
        records(world, "preference", 1, np.random.default_rng(0))


def test_mixed_prompts_end_with_another_topic_and_keep_the_first():
    world = text_world("synthetic-reviews")
    for prompt in draw_prompts(world, 100, np.random.default_rng(0), "verdict", 9, "mixed"):
        *most, last = [word.split("-")[0] for word in prompt.split()[:-1]]
        assert {world.topic_of(prompt)} == set(most)
        assert last not in most
    assert world.find("film-1 food-1 film-1 film-1 |") is None  # mixed in the middle is no kind
    assert len(draw_prompts(world, 1, np.random.default_rng(0), kind="longer")[0].split()) == 7
    assert world.find(world.prompt_at(Place("mixed", 1))) == Place("mixed", 1)
