"""Statistics over seeds against SciPy and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trueline.evidence.over_seeds import (
    compare_seeds,
    holm,
    iqm,
    one_sided_p,
    seed_interval,
    sign_flip,
    stratified_bootstrap_iqm,
)
from trueline.evidence.records import EvidenceError, Requirement, Verdict


@pytest.mark.parametrize("n", [1, 4, 7, 30])
def test_iqm_equals_the_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=n)
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25))


def test_paired_t_equals_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 10))
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    ours = compare_seeds(a, b, paired=True).difference
    assert (ours.value, ours.low, ours.high) == pytest.approx(((a - b).mean(), theirs.low, theirs.high))


def test_welch_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 9), rng.normal(1, 3, 14)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    ours = compare_seeds(a, b, paired=False)
    assert ours.p == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert (ours.difference.low, ours.difference.high) == pytest.approx((interval.low, interval.high))


def test_seed_interval_equals_scipy():
    x = np.random.default_rng(2).normal(3, 2, 8)
    low, high = stats.t.interval(0.95, 7, x.mean(), stats.sem(x))
    assert (seed_interval(x).low, seed_interval(x).high) == pytest.approx((low, high))


@pytest.mark.parametrize(("bound", "alternative", "mean"), [("at_least", "greater", 0.8), ("at_most", "less", 0.2)])
def test_one_sided_p_equals_scipy_and_is_the_interval_s(bound, alternative, mean):
    x = np.random.default_rng(3).normal(mean, 1, 9)
    p = one_sided_p(x, 0.1, bound)
    assert p == pytest.approx(stats.ttest_1samp(x, 0.1, alternative=alternative).pvalue)
    assert p < 0.5  # or no two-sided interval has that error on its side
    for confidence in (p + 1e-6, p - 1e-6):  # the smallest error with which the interval still meets the threshold
        at = seed_interval(x, 1 - 2 * confidence)
        assert ((at.low > 0.1) if bound == "at_least" else (at.high < 0.1)) == (confidence > p)
    assert math.isnan(one_sided_p(x[:7], 0.1, bound))
    assert [one_sided_p(np.full(8, value), 0.1, "at_most") for value in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=9))
def test_sign_flip_equals_scipy_s_exact_permutation_test(differences):
    d = np.array(differences, dtype=float)
    theirs = stats.permutation_test(
        (d,), lambda x, axis: np.abs(np.mean(x, axis=axis)), permutation_type="samples", n_resamples=np.inf,
        alternative="greater", vectorized=True,
    )  # fmt: skip
    # SciPy flips signs of pairs (d, 0) by swapping, hence the single-sample form is the same set of 2^n patterns.
    assert sign_flip(d) == pytest.approx(theirs.pvalue)


def test_sign_flip_of_eight_equal_signs_is_two_in_two_to_the_eight():
    assert sign_flip(np.arange(1.0, 9.0)) == 2 / 2**8


def test_sampled_sign_flip_is_near_the_exact_one():
    d = np.random.default_rng(3).normal(0.4, 1, 18)
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=18)))
    exact = (np.abs(signs @ d) >= abs(d.sum()) - 1e-12).mean()
    # 20,000 samples: 4 standard errors of a share.
    assert sign_flip(d) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_a_sampled_p_value_counts_the_observed_pattern_in():
    # Of 2^40 patterns 99 draws meet neither of the two as extreme as forty equal signs.
    assert sign_flip(np.full(40, 1.0), samples=99) == 0.01


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_bonferroni(p):
    # Hypothesis i is rejected at α by closed testing when every set S containing it has |S|·min(S) ≤ α, so its
    # adjusted p-value is the largest |S|·min(S).
    indices = range(len(p))
    sets = [s for r in range(1, len(p) + 1) for s in itertools.combinations(indices, r)]
    closed = [min(1.0, max(len(s) * min(p[j] for j in s) for s in sets if i in s)) for i in indices]
    np.testing.assert_allclose(holm(p), closed)


def test_what_was_not_tested_does_not_count():
    np.testing.assert_array_equal(holm([0.01, math.nan, 0.02]), [0.02, math.nan, 0.02])


def test_seven_seeds_print_points_and_decide_nothing():
    seven = seed_interval(np.zeros(7))
    assert seven.value == 0.0
    assert math.isnan(seven.low)
    assert Requirement(bound="at_most", threshold=9.0).verdict(seven.low, seven.high) is Verdict.INCONCLUSIVE
    assert math.isnan(compare_seeds(np.ones(7), np.zeros(7), paired=True).p)
    assert math.isnan(stratified_bootstrap_iqm(np.zeros((7, 3)), np.random.default_rng(0)).low)
    assert Requirement(bound="at_most", threshold=9.0).verdict(*_ends(seed_interval(np.arange(8.0)))) is Verdict.PASS


def _ends(estimate):
    return estimate.low, estimate.high


def test_bootstrap_redraws_seeds_within_tasks():
    # Two tasks without spread over seeds: whatever is redrawn, each task keeps its score, so the interval is a point.
    scores = np.tile([1.0, 5.0], (8, 1))
    found = stratified_bootstrap_iqm(scores, np.random.default_rng(0))
    assert (found.low, found.value, found.high) == (3.0, 3.0, 3.0)


def test_bootstrap_redraws_the_seeds_of_each_task_by_themselves():
    # A seed's scores in the two tasks cancel; drawn together they would have no spread left.
    x, rng = np.random.default_rng(4).normal(size=400), np.random.default_rng(6)
    cancelling, shuffled = (
        stratified_bootstrap_iqm(np.stack([x, y], axis=1), np.random.default_rng(5)) for y in (-x, rng.permutation(-x))
    )
    assert cancelling.high - cancelling.low == pytest.approx(shuffled.high - shuffled.low, rel=0.15)


def test_bootstrap_is_near_the_normal_interval_for_many_seeds():
    # IQM of a normal sample: asymptotic standard error 1.0918/√n (trimmed mean, both quarters cut:
    # variance (1/(1−2a)²)·[∫ trimmed z² + 2a·z_a²] with a = 0.25 -> 1.192).
    x = np.random.default_rng(4).normal(size=(400, 1))
    found = stratified_bootstrap_iqm(x, np.random.default_rng(5))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 1.0918 / math.sqrt(400), rel=0.15)


@pytest.mark.parametrize("call", [lambda: compare_seeds([1], [1, 2], paired=True), lambda: seed_interval([math.nan])])
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(EvidenceError):
        call()
