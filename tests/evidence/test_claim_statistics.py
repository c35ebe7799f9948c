"""The least of several margins, and the effect that a test over seeds can find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trueline.evidence.claim_statistics import LeastMargin, smallest_effect
from trueline.evidence.over_seeds import one_sided_p, seed_interval
from trueline.evidence.records import Requirement, Verdict

ACCEPTANCE = Requirement(bound="at_least", threshold=0.0)
CONFIDENCE = ACCEPTANCE.interval_confidence()
BOTH = LeastMargin(("a", "b"))


def rows(a, b):
    return [{"a": float(x), "b": float(y)} for x, y in zip(a, b, strict=True)]


def verdict(found):
    return ACCEPTANCE.verdict(found.low, found.high)


def test_the_least_margin_has_the_least_of_the_ends():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 0.1, 10), rng.normal(0.2, 0.5, 10)
    found, parts = BOTH(rows(a, b), CONFIDENCE), [seed_interval(x, CONFIDENCE) for x in (a, b)]
    assert found.value == pytest.approx(min(a.mean(), b.mean()))
    assert found.low == pytest.approx(min(one.low for one in parts))
    # Half of the error of an upper end for each of the two: confidence 0.95 for both ends in place of 0.9.
    assert found.high == pytest.approx(min(seed_interval(x, 0.95).high for x in (a, b)))
    assert (found.clusters, found.confidence) == (10, CONFIDENCE)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(1.0, 1.0, Verdict.PASS), (1.0, 0.0, Verdict.INCONCLUSIVE), (1.0, -1.0, Verdict.FAIL), (-1.0, -1.0, Verdict.FAIL)],
)
def test_every_part_has_to_hold(a, b, expected):
    noise = np.linspace(-0.5, 0.5, 10)
    for one, other in ((a, b), (b, a)):
        given = rows(one + noise, other - noise)
        assert verdict(BOTH(given, CONFIDENCE)) is expected
        assert (BOTH.p(given, ACCEPTANCE) <= 0.05) == (expected is Verdict.PASS)


def test_p_is_that_of_the_part_that_is_least_sure():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 0.2, 9), rng.normal(0.1, 0.2, 9)
    expected = max(one_sided_p(x, 0.0, "at_least") for x in (a, b))
    assert BOTH.p(rows(a, b), ACCEPTANCE) == expected


def test_a_seed_without_a_number_counts_as_missing():
    given = rows(np.arange(9.0), [*np.arange(8.0), math.nan])
    assert BOTH(given, CONFIDENCE).clusters == 8
    few = BOTH(given[:3], CONFIDENCE)
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert verdict(few) is Verdict.INCONCLUSIVE
    assert math.isnan(BOTH.p(given[:3], ACCEPTANCE))


def test_neither_verdict_is_wrong_more_often_than_said():
    """Of 1500 experiments each, at the borders where each verdict is just wrong; three standard errors are 0.017."""
    rng = np.random.default_rng(2)
    passed = failed = 0
    for _ in range(1500):
        noise = rng.normal(size=(2, 10))
        passed += verdict(BOTH(rows(noise[0], 3.0 + noise[1]), CONFIDENCE)) is Verdict.PASS
        failed += verdict(BOTH(rows(*noise), CONFIDENCE)) is Verdict.FAIL
    assert 0.033 < passed / 1500 < 0.067
    assert failed / 1500 < 0.067


def test_the_smallest_effect_is_found_with_its_power():
    """Of 4,000 experiments with that effect four in five are to be significant; three standard errors are 0.019."""
    rng = np.random.default_rng(1)
    effect = smallest_effect(0.3, 10)
    drawn = effect + 0.3 * rng.normal(size=(4000, 10))
    found = np.mean([one_sided_p(row, 0.0, "at_least") <= 0.05 for row in drawn])
    assert found == pytest.approx(0.8, abs=0.03)
