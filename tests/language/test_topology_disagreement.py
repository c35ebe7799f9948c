"""Disagreement of reward models, and the interval of a ratio over seeds and prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from trueline.evidence.records import EvidenceError, Requirement
from trueline.language.topology.disagreement import (
    accuracy,
    disagreement,
    log_ratio,
    log_ratio_p,
    scale_to_gold,
    spread,
)

RARE = 1e-4


def test_disagreement_is_the_order_of_pairs_and_a_tie_is_half():
    one, other = np.array([1.0, -2.0, 3.0, 0.0, 0.0]), np.array([0.1, 5.0, -0.1, 2.0, 0.0])
    assert disagreement(one, other).tolist() == [0.0, 1.0, 1.0, 0.5, 0.5]
    # The scale of neither model matters.
    assert disagreement(9.0 * one, 0.1 * other).tolist() == disagreement(one, other).tolist()


def test_models_that_know_nothing_of_each_other_disagree_in_half_of_the_pairs():
    rng, p, q = np.random.default_rng(0), 0.8, 0.7
    gold = rng.choice([-1.0, 1.0], 20_000)
    one, other = (gold * np.where(rng.random(20_000) < right, 1, -1) for right in (p, q))
    assert binomtest(int(accuracy(one, gold) * 20_000), 20_000, p).pvalue > RARE
    # Independent given gold: p(1 − q) + (1 − p)q.
    found = int(disagreement(one, other).sum())
    assert binomtest(found, 20_000, p * (1 - q) + (1 - p) * q).pvalue > RARE


def test_accuracy_leaves_out_what_gold_ties():
    assert accuracy(np.array([1.0, -1.0, 0.0, 7.0]), np.array([2.0, 2.0, -1.0, 0.0])) == pytest.approx(1.5 / 3)
    assert math.isnan(accuracy(np.ones(2), np.zeros(2)))


def test_margins_are_scaled_by_their_regression_on_gold():
    rng = np.random.default_rng(1)
    gold = rng.normal(size=400)
    margin = 0.3 * gold + rng.normal(size=400)
    slope = np.linalg.lstsq(gold[:, None], margin, rcond=None)[0][0]
    np.testing.assert_allclose(scale_to_gold(margin, gold), margin / slope)
    assert np.isnan(scale_to_gold(-gold, gold)).all()
    assert np.isnan(scale_to_gold(gold, 0.0 * gold)).all()


def test_variance_and_squared_bias_of_known_models():
    # Model k gives scale_k·(gold + bias + noise): V is the noise's variance, whatever the scales.
    rng, models, n = np.random.default_rng(2), 200, 300
    gold = rng.normal(size=n)
    bias = rng.normal(size=n)
    bias -= gold * (bias @ gold) / (gold @ gold)  # a bias along gold would be scale
    noise = 0.5 * rng.normal(size=(models, n))
    noise -= np.outer(noise @ gold, gold) / (gold @ gold)
    found = spread(rng.uniform(0.2, 5.0, (models, 1)) * (gold + bias + noise), gold)
    assert found.variance == pytest.approx(0.25, rel=0.03)
    assert found.squared_bias == pytest.approx(float((bias**2).mean()), rel=0.02)
    two = np.stack([gold + noise[0], gold + noise[1]])
    assert spread(two, gold).variance == pytest.approx(0.5 * float(((noise[0] - noise[1]) ** 2).mean()))
    many = rng.normal(size=20_000)
    noise = rng.normal(size=(2, 20_000))
    noise -= np.outer(noise @ many, many) / (many @ many)
    assert spread(many + noise, many).squared_bias == pytest.approx(0.0, abs=0.03)  # though two are far from their mean
    assert math.isnan(spread(np.stack([gold, -gold]), gold).variance)
    with pytest.raises(EvidenceError, match="two or more"):
        spread(gold[None], gold)


# --- the ratio ---


def crossed(rng, seeds, prompts, ratio, over_seeds=0.1, over_prompts=0.1, pairs=8):
    """Rates of disagreement, the control's a multiple, with effects of seeds and prompts of its own in each arm."""

    def arm(rate):
        log = over_seeds * rng.normal(size=(seeds, 1)) + over_prompts * rng.normal(size=(1, prompts))
        return rng.binomial(pairs, np.clip(rate * np.exp(log), 0, 1)) / pairs

    return arm(0.2 * ratio), arm(0.2)


def test_the_log_ratio_is_that_of_the_means():
    control, tree = crossed(np.random.default_rng(0), 10, 30, 1.4)
    found = log_ratio(control, tree, 0.95)
    assert found.value == pytest.approx(math.log(control.mean() / tree.mean()))
    assert found.low < found.value < found.high
    assert found.clusters == 10
    back = log_ratio(tree, control, 0.95)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), rel=1e-6)


@pytest.mark.parametrize(("over_seeds", "over_prompts"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.2, 0.3)])
def test_the_interval_covers_under_effects_of_seeds_and_of_prompts(over_seeds, over_prompts):
    rng = np.random.default_rng(3)
    hits, n = 0, 200
    for _ in range(n):
        control, tree = crossed(rng, 12, 40, 1.25, over_seeds, over_prompts)
        found = log_ratio(control, tree, 0.95, resamples=200)
        hits += found.low <= math.log(1.25) <= found.high
    assert binomtest(hits, n, 0.95, alternative="less").pvalue > RARE  # it may be too wide, not too narrow


def test_the_interval_is_as_wide_as_what_seeds_do_not_share():
    """Where all prompts are alike it is t's of c/c̄ − t/t̄ over seeds: what both arms of a seed share drops out."""
    rng = np.random.default_rng(7)
    shared, own = np.exp(0.3 * rng.normal(size=64)), 0.1 * rng.normal(size=64)
    control, tree = (np.tile(0.2 * arm[:, None], 40) for arm in (shared + own, shared))
    found = log_ratio(control, tree, 0.95)
    error = np.std(control[:, 0] / control.mean() - tree[:, 0] / tree.mean(), ddof=1) / math.sqrt(64)
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, 63) * error)


def test_p_says_what_the_interval_says():
    rng = np.random.default_rng(4)
    for ratio in (0.9, 1.0, 1.1, 1.2):
        control, tree = crossed(rng, 12, 40, ratio)
        for bound in ("at_least", "at_most"):
            requirement = Requirement(bound=bound, threshold=0.05, confidence=0.975)
            found = log_ratio(control, tree, requirement.interval_confidence())
            p = log_ratio_p(control, tree, 0.05, bound)
            assert (p <= 0.025) == (requirement.verdict(found.low, found.high).name == "PASS")


def test_what_decides_nothing():
    control, tree = crossed(np.random.default_rng(5), 7, 30, 2.0)
    few = log_ratio(control, tree, 0.95)
    assert few.value > 0
    assert math.isnan(few.low)
    assert math.isnan(log_ratio_p(control, tree, 0.0, "at_least"))
    never = log_ratio(np.ones((9, 4)), np.zeros((9, 4)), 0.95)
    assert math.isnan(never.value)
    assert math.isnan(never.low)
    once = np.zeros((9, 40))
    once[:, 3] = 1.0  # all disagreement on one prompt
    found = log_ratio(np.ones((9, 40)), once, 0.95)
    assert (found.low, found.high) == (-math.inf, math.inf)
    with pytest.raises(EvidenceError, match="cannot be compared"):
        log_ratio(np.ones((9, 4)), np.ones((9, 5)), 0.95)
