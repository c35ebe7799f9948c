"""Estimates against SciPy, brute force and closed forms; undefined stays undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trueline.evidence.records import EvidenceError
from trueline.evidence.statistics import (
    asymptotic_sequence,
    clopper_pearson,
    cluster_means,
    cvar,
    empirical_bernstein,
    mean_sequence,
    paired_difference,
    rate_sequence,
    tail_mean,
)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_equals_scipy(k, n, confidence):
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    ours = clopper_pearson(k, n, confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.value == k / n


def test_no_trials_say_nothing():
    nothing = clopper_pearson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.n) == (0.0, 1.0, 0)
    for estimate in (mean_sequence([], (2, 7)), cvar([], 0.1, (2, 7)), empirical_bernstein([], (2, 7))):
        assert math.isnan(estimate.value)
        assert (estimate.low, estimate.high) == (2.0, 7.0)
    assert asymptotic_sequence([]).low == -math.inf


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_cluster_means_are_group_means_in_order_of_appearance(rows):
    values, clusters = zip(*rows, strict=True)
    expected = [np.mean([v for v, c in rows if c == name]) for name in dict.fromkeys(clusters)]
    np.testing.assert_allclose(cluster_means(values, clusters), expected, atol=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 20))
def test_tail_mean_is_that_of_values_copied_until_the_tail_is_whole(values, twentieths):
    # A share of t/20 of n values is t·n of 20·n copies: no value is cut any more.
    copies = np.sort(np.repeat(values, 20))[::-1][: twentieths * len(values)]
    assert tail_mean(values, twentieths / 20) == pytest.approx(copies.mean(), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=30), st.floats(0.05, 0.5))
def test_tail_mean_is_the_least_of_rockafellar_and_uryasev(values, tail):
    x = np.array(values)  # the minimum over c is reached at one of the values
    least = min(c + np.maximum(x - c, 0).mean() / tail for c in x)
    assert tail_mean(x, tail) == pytest.approx(least, abs=1e-9)


def test_the_low_tail_is_the_high_tail_mirrored():
    x = np.random.default_rng(0).beta(2, 3, 150)
    high, low = cvar(x, 0.1, (0, 1)), cvar(-x, 0.1, (-1, 0), worse="low")
    assert (low.value, low.low, low.high) == pytest.approx((-high.value, -high.high, -high.low))


def test_clusters_of_copies_change_nothing():
    x = np.random.default_rng(1).random(60)
    twice, layout = np.repeat(x, 2), np.repeat(np.arange(60), 2)
    for interval in (
        lambda v, c: mean_sequence(v, (0, 1), clusters=c),
        lambda v, c: asymptotic_sequence(v, clusters=c),
        lambda v, c: empirical_bernstein(v, (0, 1), clusters=c),
        lambda v, c: cvar(v, 0.2, (0, 1), clusters=c),
    ):
        once, copied = interval(x, None), interval(twice, layout)
        assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high), abs=1e-9)
        assert (copied.n, copied.clusters) == (120, 60)


def test_a_cluster_counts_once_in_the_tail_however_often_it_was_seen():
    # One unit of 1 seen nine times, nine units of 0 seen once: the worst two of ten units are a 1 and a 0.
    x = np.repeat([1.0, 0.0], 9)
    assert cvar(x, 0.2, (0, 1), clusters=[0] * 9 + list(range(1, 10))).value == pytest.approx(0.5)


def test_empirical_bernstein_is_maurer_and_pontil():
    x = np.random.default_rng(2).random(50) * 10
    log_term, n = math.log(2 / 0.025), 50
    half = math.sqrt(2 * x.var(ddof=1) * log_term / n) + 7 * 10 * log_term / (3 * (n - 1))
    found = empirical_bernstein(x, (0, 10))
    assert found.low == pytest.approx(max(0.0, x.mean() - half))
    assert found.high == pytest.approx(min(10.0, x.mean() + half))


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(3)
    layout = rng.uniform(0, 0.8, 100)  # how hard the layout is, the same for both
    a, b = layout + 0.1 + rng.uniform(0, 0.1, 100), layout + rng.uniform(0, 0.1, 100)
    paired = paired_difference(a, b, (0, 1))
    assert paired.low < 0.1 < paired.high  # truth
    assert paired.low > 0  # and the sign is settled, which two intervals of the means do not do
    assert mean_sequence(a, (0, 1)).low < mean_sequence(b, (0, 1)).high
    assert paired_difference(a, b).method == "asymptotic"


def test_unbounded_means_need_units_that_differ():
    assert asymptotic_sequence(np.arange(9.0)).high == math.inf
    assert asymptotic_sequence(np.full(50, 3.0)).low == -math.inf
    assert math.isfinite(asymptotic_sequence(np.arange(10.0)).low)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_sequence([0.2, 1.4], (0, 1)), "1.4 lies outside"),
        (lambda: mean_sequence([0.2, math.nan], (0, 1)), "missing"),
        (lambda: rate_sequence([0, 0.5]), "neither 0 nor 1"),
        (lambda: clopper_pearson(5, 3), "5 of 3"),
        (lambda: paired_difference([1, 2], [1]), "paired"),
        (lambda: mean_sequence([0.1, 0.2], (0, 1), clusters=["a"]), "clusters"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, words):
    with pytest.raises(EvidenceError, match=words):
        call()
