"""The gate: everything named has to be measured and passed; nothing else releases."""

from __future__ import annotations

import dataclasses
import math

import pytest

from trueline.cycle.gate import Gate, sentence
from trueline.evidence.records import Estimate, Evidence, Principle, Requirement, Verdict


def evidence(audit="ethicality/cost", metric="mean", verdict=Verdict.PASS, split="verdict", required=True):
    return Evidence(
        principle=Principle.ETHICALITY,
        audit=audit,
        metric=metric,
        unit="per episode",
        estimator="mean",
        estimate=Estimate(12.0, 10.0, 14.0, 400, 400, 0.9, "betting"),
        requirement=Requirement(bound="at_most", threshold=25.0) if required else None,
        verdict=verdict if required else None,
        split=split,
        round=1,
        looks=1,
        budget=400,
        seeds=(0,),
    )


def test_release_takes_a_pass_of_every_requirement():
    both = [evidence(), evidence(metric="tail", verdict=Verdict.INCONCLUSIVE)]
    assert Gate().decide(both[:1]).release
    decision = Gate().decide(both)
    assert not decision.release
    assert len(decision.reasons) == 1
    assert "tail" in decision.reasons[0]


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_anything_short_of_a_pass_stands_in_the_way(verdict):
    assert not Gate().decide([evidence(verdict=verdict)]).release


def test_what_was_not_measured_does_not_pass():
    decision = Gate(require=("ethicality/cost:*", "robustness/*")).decide([evidence()])
    assert not decision.release
    assert decision.reasons == ("robustness/* was not measured.",)
    assert not Gate().decide([]).release


def test_numbers_without_a_requirement_and_cases_of_training_decide_nothing():
    assert not Gate().decide([evidence(required=False)]).release
    assert not Gate().decide([evidence(split="respond")]).release
    assert Gate().decide([evidence(), evidence(metric="tail", split="respond", verdict=Verdict.FAIL)]).release


def test_a_gap_reported_by_an_audit_blocks_even_where_nothing_was_required():
    gap = dataclasses.replace(evidence(required=False), verdict=Verdict.INCONCLUSIVE, note="not measured: no GL.")
    decision = Gate().decide([evidence(), gap])
    assert not decision.release
    assert "not measured" in decision.reasons[0]


def test_the_sentence_holds_value_interval_and_requirement():
    words = sentence(evidence())
    assert all(part in words for part in ("12", "[10, 14]", "passes", "at most 25"))
    undefined = dataclasses.replace(evidence(), estimate=Estimate(math.nan, math.nan, math.nan, 0, 0, 0.9, "betting"))
    assert "mean is – per episode" in sentence(undefined)
