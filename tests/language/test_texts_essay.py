"""`grammar-essay`: gold rewards, their extremes by brute force, and labels by Bradley-Terry."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from trueline.core.errors import ConfigError
from trueline.language.texts import Place, draw_prompts, records, text_world

RARE = 1e-4
PROMPT = "winter journey fire winter"


def essay_world(**settings):
    return text_world("grammar-essay", **{"segments": 4, "productions": 3, "prompt_length": 4} | settings)


def reward_by_hand(f, productions):
    """(1/D)·Σ_j f_j(s_j, s_{j-1}), one segment after the other; K stands before the first."""
    total, before = 0, f.shape[1]
    for j, production in enumerate(productions):
        total += f[j][production][before]
        before = production
    return total / f.shape[0]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("tables", [0, 1, 2, 3])
def test_rewards_and_their_extremes_by_enumeration(order, tables):
    world = essay_world(order=order, tables=tables)
    f = world.values(PROMPT)
    assert f.shape == (4, 3, 4)
    assert set(np.unique(f)) <= {-1, 1}
    rewards = []
    for productions in product(range(3), repeat=4):
        verdict = world.judge(PROMPT, world.essay(productions))
        assert verdict.reward == pytest.approx(reward_by_hand(f, productions))
        assert sum(verdict.wrong) == 3 * round(4 * (1 - verdict.reward) / 2)  # three words to each bad segment
        rewards.append(verdict.reward)
    assert world.judge(PROMPT, world.best(PROMPT)).reward == max(rewards)
    assert world.judge(PROMPT, world.worst(PROMPT)).reward == min(rewards)


@pytest.mark.parametrize(("order", "before", "prompt"), [(0, False, False), (1, True, False), (2, True, True)])
def test_the_order_is_what_the_tables_see(order, before, prompt):
    world = essay_world(order=order, segments=6, productions=8)
    f = world.values(PROMPT)
    assert (f != f[:, :, :1]).any() == before
    assert (f != world.values("harvest journey fire winter")).any() == prompt
    assert not (world.values("winter journey fire harvest")[0] != f[0]).any()  # f_0 sees x_0 alone
    assert (f[0] != f[1]).any()


def test_tables_are_fair_and_each_number_has_its_own():
    values = np.stack([essay_world(tables=t, productions=8, themes=8)._values for t in range(4)])
    assert binomtest(int((values == 1).sum()), values.size, 0.5).pvalue > RARE
    agreement = (values[0] == values[1]).mean()
    assert abs(agreement - 0.5) < 0.05


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda s: s, 0),
        (lambda s: s[:-1], 1),  # a segment missing
        (lambda s: [], 4),
        (lambda s: [*s, "birds sing ."], 1),  # one too many
        (lambda s: [*s[:-1], "sing birds ."], 1),  # no production
        (lambda s: [*s[:-1], s[-1].removesuffix(" .")], 1),  # no full stop
        (lambda s: [*s[:-1], "."], 1),
    ],
)
def test_what_is_no_production_counts_as_a_bad_one(change, lost):
    world = essay_world(order=0)
    best = world.best(PROMPT)
    segments = [f"{part.strip()} ." for part in best.split(".") if part.strip()]
    gold = world.judge(PROMPT, best).reward
    worth = world.values(PROMPT)[-1][:, 0].max()  # of the last segment of the best essay
    found = world.judge(PROMPT, " ".join(change(segments))).reward
    expected = gold - (lost * (1 + worth if len(change(segments)) <= 4 else 1)) / 4
    assert found == pytest.approx(-1.0 if not change(segments) else expected)


def test_labels_follow_bradley_terry():
    # Pairs by their difference in reward: the better one is chosen with σ(β·Δ).
    world = text_world("grammar-essay", beta=2.0, segments=3)
    rows = records(world, "preference", 4000, np.random.default_rng(7))
    gap = np.array([abs(row["chosen_value"] - row["rejected_value"]) for row in rows])
    right = np.array([row["chosen_value"] > row["rejected_value"] for row in rows])
    for delta in (2 / 3, 4 / 3, 2.0):
        there = np.isclose(gap, delta)
        assert there.sum() > 50
        due = 1 / (1 + np.exp(-2.0 * delta))
        assert binomtest(int(right[there].sum()), int(there.sum()), due).pvalue > RARE
    assert np.isclose(gap, 0).sum() > 500  # equal essays are compared too, as an annotator would have to
    measured = records(world, "preference", 500, np.random.default_rng(7), "verdict")
    assert all(row["chosen_value"] > row["rejected_value"] for row in measured)


def test_near_misses_differ_in_one_segment_and_at_the_rate():
    world = text_world("grammar-essay", near_miss=0.4)
    rows = records(world, "preference", 1500, np.random.default_rng(8))
    differing = [
        sum(a != b for a, b in zip(row["chosen"].split("."), row["rejected"].split("."), strict=True)) for row in rows
    ]
    # Independent essays of 6 segments differ in one alone with 6·(7/8)·(1/8)^5 = 0.00016.
    assert binomtest(differing.count(1), len(rows), 0.4 + 0.6 * 0.00016).pvalue > RARE


def test_productions_are_drawn_alike():
    world = text_world("grammar-essay")
    rows = records(world, "prompt-completion", 500, np.random.default_rng(5))
    counts = [sum(row["completion"].count(world.segment(k)) for row in rows) for k in range(8)]
    assert sum(counts) == 3000
    assert chisquare(counts).pvalue > RARE


def test_essays_of_one_worth_are_refused_as_measured_pairs():
    # With one segment of two productions both may be worth the same, and no pair has a better one.
    for tables in range(40):
        world = essay_world(order=0, segments=1, productions=2, tables=tables)
        if len(np.unique(world.values(PROMPT))) == 1:
            with pytest.raises(ConfigError, match="are worth the same"):
                records(world, "preference", 1, np.random.default_rng(0), "verdict")
            assert records(world, "preference", 1, np.random.default_rng(0))
            return
    pytest.fail("no such tables among 40")


def test_longer_prompts_are_read_from_their_beginning():
    world, rng = text_world("grammar-essay"), np.random.default_rng(1)
    longer = draw_prompts(world, 1, rng, kind="longer")[0]
    assert len(longer.split()) == 12
    short = " ".join(longer.split()[:8])
    assert (world.values(longer) == world.values(short)).all()  # six segments read the first six themes
    assert world.find(world.prompt_at(Place("combined", 3))) == Place("combined", 3)
