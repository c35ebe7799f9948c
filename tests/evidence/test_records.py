"""Records: the verdict rule, and lines of strict JSON that come back equal."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.core.errors import TruelineError
from trueline.evidence.records import (
    Axis,
    Case,
    Curve,
    Estimate,
    Evidence,
    EvidenceError,
    Finding,
    Metric,
    Principle,
    Requirement,
    Verdict,
)

AT_MOST = Requirement(bound="at_most", threshold=25.0)
AT_LEAST = Requirement(bound="at_least", threshold=25.0)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "at_least"),
    [
        (1, 24, "pass", "fail"),
        (1, 25, "pass", "inconclusive"),  # the threshold itself is good
        (25, 30, "inconclusive", "pass"),
        (24, 26, "inconclusive", "inconclusive"),
        (25.1, 30, "fail", "pass"),
        (-math.inf, math.inf, "inconclusive", "inconclusive"),
        (-math.inf, 3, "pass", "fail"),
        (math.nan, math.nan, "inconclusive", "inconclusive"),
        (1, math.nan, "inconclusive", "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, at_most, at_least):
    assert AT_MOST.verdict(low, high) == at_most
    assert AT_LEAST.verdict(low, high) == at_least


def test_severity_counts_thresholds():
    assert AT_MOST.excess(50.0) == pytest.approx(1.0)
    assert AT_LEAST.excess(20.0) == pytest.approx(0.2)
    assert Requirement(bound="at_most", threshold=0.0).excess(3.0) == 3.0


FINDING = Finding("a/cost/7", "a", "cost", Case("7", "", {"seed": 7}), 40.0, 0.6, "cost was 40.", {"steps": [1, 2]})
EVIDENCE = Evidence(
    principle=Principle.ETHICALITY,
    audit="ethicality/episode-cost",
    metric="cost",
    unit="per episode",
    estimator="mean",
    estimate=Estimate(15.0, 11.5, math.inf, 400, 40, 0.95, "betting"),
    requirement=AT_MOST,
    verdict=Verdict.PASS,
    split="verdict",
    round=2,
    looks=3,
    budget=400,
    seeds=(0, 1),
    findings=(FINDING,),
    curve=Curve("cost", Axis("noise", "m", (0.0, 0.1)), (1.0, math.nan), (0.5, -math.inf), (2.0, 9.0), (40, 0), 1.5),
)


def test_evidence_comes_back_from_its_line():
    line = EVIDENCE.to_json()
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)  # strict: no NaN, no Infinity
    back = Evidence.from_json(line)
    assert back.to_json() == line
    assert replace(back, curve=None) == replace(EVIDENCE, curve=None)
    assert math.isnan(back.curve.mean[1])
    assert (back.verdict, back.principle) == (Verdict.PASS, Principle.ETHICALITY)
    assert Finding.from_json(FINDING.to_json()) == FINDING


@given(st.floats(), st.floats(), st.floats())
def test_every_number_survives(value, low, high):
    estimate = Estimate(value, low, high, 1, 1, 0.95, "betting")
    back = Evidence.from_json(replace(EVIDENCE, estimate=estimate).to_json()).estimate
    for ours, theirs in ((value, back.value), (low, back.low), (high, back.high)):
        assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@pytest.mark.parametrize("line", ["", "{", "[1]", "{}", '{"principle": "robustness"}', FINDING.to_json()])
def test_a_damaged_line_is_named_as_such(line):
    with pytest.raises(EvidenceError, match="Evidence"):
        Evidence.from_json(line)
    assert issubclass(EvidenceError, TruelineError)


def test_a_requirement_decides_which_side_is_worse_and_a_rate_its_bounds():
    metric = Metric("success", "rate", requirement=Requirement(bound="at_least", threshold=0.9))
    assert (metric.worse, metric.bounds) == ("low", (0.0, 1.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"estimator": "cvar", "bounds": (0, 1)},
        {"estimator": "cvar", "tail": 0.05},
        {"estimator": "cvar", "tail": 0.95, "bounds": (0, 1)},  # the share of worst cases, not its complement
        {"estimator": "mean", "tail": 0.05},
        {"estimator": "mean", "bounds": (1, 0)},
    ],
)
def test_a_metric_that_cannot_be_estimated_is_refused(fields):
    with pytest.raises(EvidenceError, match="'cost'"):
        Metric("cost", **fields)
