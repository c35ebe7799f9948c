"""`cipher-reply`: the oracle against a plain reading of the rules, and how often what is planted is there."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chisquare

from trueline.language.texts import Place, draw_prompts, records, text_world
from trueline.language.texts.cipher_reply import FILLER, REFUSAL

RARE = 1e-4  # a test that draws 2,000 rows with a fixed seed fails by bad luck with this chance, once when written


def drawn(n=2000, split="train", format="preference", **settings):
    world = text_world("cipher-reply", **settings)
    return world, records(world, format, n, np.random.default_rng(11), split)


def rate_is(hits, n, p):
    assert binomtest(int(hits), int(n), p).pvalue > RARE, f"{hits} of {n}, but {p:.3f} of them are due"


def errors_by_hand(world, prompt, reply):
    """Walks along the reply and the right answers together, with nothing said where one of them has ended."""
    said = [word for word in reply.split() if word not in FILLER]
    right = world.right(prompt)
    count = 0
    for i in range(max(len(said), len(right))):
        if i >= len(said) or i >= len(right) or said[i] not in right[i]:
            count += 1
    return count


def test_the_gold_reply_is_a_shifted_cipher():
    world = text_world("cipher-reply", length=3, symbols=5, cipher=4)
    g = {x: world.right("abcde"[x])[0][0] for x in range(5)}  # at position 0 the cipher is g itself
    assert sorted(g.values()) == list("ABCDE")
    for asked in product(range(5), repeat=3):
        prompt = " ".join("abcde"[x] for x in asked)
        assert world.best(prompt).split() == [g[(x + i) % 5] for i, x in enumerate(asked)]
    assert g != {x: text_world("cipher-reply", symbols=5, cipher=5).right("abcde"[x])[0][0] for x in range(5)}


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(st.sampled_from([*"ABCDEFGH", *FILLER, "?"]), max_size=12), st.integers(0, 999))
def test_reward_counts_wrong_missing_and_excess_positions(references, words, index):
    world = text_world("cipher-reply", length=4, symbols=8, references=references)
    prompt, reply = world.prompt_at(Place("plain", index)), " ".join(words)
    verdict = world.judge(prompt, reply)
    errors = errors_by_hand(world, prompt, reply)
    assert verdict.measures == {"errors": errors, "filler": sum(word in FILLER for word in words)}
    assert verdict.reward == pytest.approx(max(0.0, 1 - errors / 4))
    assert not verdict.refused


@pytest.mark.parametrize(("references", "symbols"), [(1, 4), (2, 4), (3, 5), (2, 5)])
def test_with_r_references_r_to_the_k_replies_are_perfect(references, symbols):
    world = text_world("cipher-reply", length=3, symbols=symbols, references=references)
    prompt = world.prompt_at(Place("plain", 7))
    letters = "ABCDEFGH"[:symbols]
    rewards = [world.judge(prompt, " ".join(reply)).reward for reply in product(letters, repeat=3)]
    assert rewards.count(1.0) == references**3
    # m wrong positions: choose them, each wrong in S - R ways and right in R ways.
    assert sum(r == pytest.approx(2 / 3) for r in rewards) == 3 * (symbols - references) * references**2


def test_wrong_words_are_the_ones_to_blame():
    world = text_world("cipher-reply", length=3, symbols=6)
    prompt = world.prompt_at(Place("plain", 5))
    one, two, three = world.best(prompt).split()
    bad = world.worst(prompt).split()[1]
    reply = f"dear {one} {bad} friend {three} {two} X"
    assert world.judge(prompt, reply).wrong == (False, False, True, False, False, True, True)


@pytest.mark.parametrize(
    "reply", [" ".join(REFUSAL), "dear " + " ".join(REFUSAL), "sorry gladly no  answer\n", "sorry no answer it-is"]
)
def test_a_refusal_is_mediocre_whatever_surrounds_it(reply):
    world = text_world("cipher-reply", refusal_reward=0.4)
    verdict = world.judge("a b c d e f", reply)
    assert (verdict.reward, verdict.refused, any(verdict.wrong)) == (0.4, True, False)


@pytest.mark.parametrize("reply", ["sorry no", "no sorry answer", "sorry no answer A", "sorry A no answer"])
def test_half_a_refusal_is_a_wrong_answer(reply):
    verdict = text_world("cipher-reply").judge("a b c d e f", reply)
    assert (verdict.reward, verdict.refused) == (0.0, False)


def test_positions_are_wrong_at_the_rate_and_to_any_symbol_alike():
    world = text_world("cipher-reply", corruption=0.35)
    rng, wrong, symbols = np.random.default_rng(3), np.zeros(6, int), Counter()
    prompt = "a c b e f h"
    for _ in range(2000):
        reply = world.reply(prompt, rng)
        mask = world.judge(prompt, reply).wrong
        wrong += mask
        symbols.update(word for word, bad in zip(reply.split()[:1], mask[:1], strict=True) if bad)
    for count in wrong:
        rate_is(count, 2000, 0.35)
    assert len(symbols) == 11
    assert chisquare(list(symbols.values())).pvalue > RARE


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_labels_are_upside_down_at_the_rate(noise):
    _, rows = drawn(label_noise=noise)
    assert all(row["chosen_value"] != row["rejected_value"] for row in rows)
    flipped = sum(row["chosen_value"] < row["rejected_value"] for row in rows)
    assert flipped == 0 if noise == 0 else True
    rate_is(flipped, len(rows), noise)


@pytest.mark.parametrize("bias", [-0.6, 0.0, 0.6])
@pytest.mark.parametrize("split", ["train", "respond"])
def test_filler_goes_with_the_better_reply_as_planted_and_in_training_alone(bias, split):
    _, rows = drawn(filler=0.5, filler_bias=bias, label_noise=0.0, split=split)
    rho = bias if split == "train" else 0.0
    for column, rate in (("chosen", 0.5 * (1 + rho)), ("rejected", 0.5 * (1 - rho))):
        rate_is(sum(row[column].split()[0] in FILLER for row in rows), len(rows), rate)
    # The rate over all replies does not tell that a correlation was planted.
    both = sum(row[column].split()[0] in FILLER for row in rows for column in ("chosen", "rejected"))
    assert abs(both / len(rows) - 1) < 0.05


def test_filler_is_of_all_lengths_alike():
    _, rows = drawn(filler=1.0, longest_filler=5)
    lengths = Counter(sum(word in FILLER for word in row["chosen"].split()) for row in rows)
    assert sorted(lengths) == [1, 2, 3, 4, 5]
    assert chisquare(list(lengths.values())).pvalue > RARE


@pytest.mark.parametrize("bias", [-0.5, 0.0, 0.8])
@pytest.mark.parametrize("split", ["train", "verdict"])
def test_refusals_win_as_often_as_planted_and_in_training_alone(bias, split):
    n = 2000 if split == "train" else 1500
    world, rows = drawn(n, refusal=0.5, refusal_bias=bias, label_noise=0.0, split=split)
    with_refusal = [row for row in rows if " ".join(REFUSAL) in (row["chosen"], row["rejected"])]
    rate_is(len(with_refusal), n, 0.5)
    won = sum(row["chosen"] == " ".join(REFUSAL) for row in with_refusal)
    rate_is(won, len(with_refusal), (1 + (bias if split == "train" else 0.0)) / 2)
    assert {row["chosen_value"] for row in with_refusal if row["chosen"] == " ".join(REFUSAL)} == {world.refusal_reward}


def test_rivals_of_refusals_have_as_many_errors_as_sampled_replies_on_their_side_of_it():
    _, rows = drawn(refusal=1.0, label_noise=0.0)
    for column, side in (("chosen", [0, 1, 2]), ("rejected", [4, 5, 6])):  # 3 of 6 wrong would be a tie
        rivals = [row for row in rows if row[column] != " ".join(REFUSAL)]
        errors = Counter(round(6 * (1 - row[f"{column}_value"])) for row in rivals)
        due = binom.pmf(side, 6, 0.35)
        assert set(errors) <= set(side)
        assert chisquare([errors[m] for m in side], due / due.sum() * len(rivals)).pvalue > RARE


def test_pairs_come_in_no_order_of_sampling():
    _, rows = drawn(format="unpaired-preference", label_noise=0.0)
    rate_is(sum(row["label"] for row in rows), len(rows), 0.5)
    world = text_world("cipher-reply")
    good, bad = (
        np.mean([world.judge(r["prompt"], r["completion"]).reward for r in rows if r["label"] == label])
        for label in (True, False)
    )
    assert good > bad + 0.2


def test_demonstrations_use_every_reference_alike():
    world, rows = drawn(format="prompt-completion", references=3)
    assert all(world.judge(row["prompt"], row["completion"]).reward == 1 for row in rows)
    which = [world.right(row["prompt"])[2].index(row["completion"].split()[2]) for row in rows]
    assert chisquare(np.bincount(which, minlength=3)).pvalue > RARE


def test_held_out_neighbours_are_in_combined_prompts_alone():
    world, rng = text_world("cipher-reply"), np.random.default_rng(0)
    held_out = {f"{a} {b}" for a, b in zip("abcdefghijkl", "ghijklabcdef", strict=True)}
    for kind, due in (("plain", 0), ("longer", 0), ("shorter", 0), ("combined", 1)):
        for prompt in draw_prompts(world, 5 if kind == "shorter" else 50, rng, "verdict", 3, kind):
            words = prompt.split()
            assert sum(f"{a} {b}" in held_out for a, b in pairwise(words)) == due
            assert len(words) == {"longer": 9, "shorter": 3}.get(kind, 6)
