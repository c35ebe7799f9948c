"""One way to say numbers, intervals and requirements, and every face says them so."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.cli.tables import print_audit
from trueline.cycle.gate import Gate
from trueline.evidence.audit import Budget, run_audit
from trueline.evidence.plots import IntervalRow, intervals
from trueline.evidence.records import Case, Estimate, Evidence, Metric, Outcome, Principle, Requirement, Verdict
from trueline.evidence.report import ReportData, Round, build_report
from trueline.evidence.words import in_full, interval, number

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.08333, "0.0833"), (18.25, "18.2"), (99.95, "100"), (999.6, "1,000"), (12_344.0, "12,340"),
        (1_500_000.0, "1.5 M"), (-3.14159, "−3.14"), (NAN, "–"), (math.inf, "∞"), (-math.inf, "−∞"),
        (2.5e12, "2.50e+12"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(25.0, "25"), (12.345, "12.345"), (-0.05, "−0.05"), (0.0, "0"), (1234.5, "1,234.5"), (999.6, "999.6"),
     (-math.inf, "−∞"), (NAN, "–")],
)  # fmt: skip
def test_what_somebody_stated_is_not_rounded_away(value, text):
    assert in_full(value) == text


@given(st.integers(-999_999, 999_999), st.integers(0, 3))
def test_six_digits_come_back_as_they_were_stated(digits, places):
    stated = digits / 10**places
    assert float(in_full(stated).replace("−", "-").replace(",", "")) == stated


def test_an_interval_says_nothing_where_neither_end_is_known():
    assert interval(16.94, 19.55) == "[16.9, 19.6]"
    assert interval(NAN, NAN) == ""
    assert interval(-math.inf, 2.0) == "[−∞, 2]"
    assert interval(NAN, 2.0) == "[–, 2]"


@pytest.mark.parametrize(
    ("bound", "threshold", "words"),
    [("at_most", 25.0, "at most 25 J"), ("at_least", -12.345, "at least −12.345 J")],
)
def test_a_requirement_says_its_side_and_all_of_its_threshold(bound, threshold, words):
    required = Requirement(bound=bound, threshold=threshold)
    assert required.words("J") == words
    assert required.words() == words.removesuffix(" J")


def estimate(value=17.26, low=16.94, high=19.55):
    return Estimate(value, low, high, 40, 40, 0.95, "betting")


def test_an_estimate_says_its_interval_where_it_has_one():
    assert estimate().words("J") == "17.3 [16.9, 19.6] J"
    assert estimate().words() == "17.3 [16.9, 19.6]"
    assert estimate(low=NAN, high=NAN).words("J") == "17.3 J"
    assert estimate(NAN, NAN, NAN).words() == "–"


# -- every face says the same ----------------------------------------------------------------------------------------


EVIDENCE = Evidence(
    principle=Principle.ETHICALITY, audit="a", metric="cost", unit="J", estimator="mean", estimate=estimate(),
    requirement=Requirement(bound="at_most", threshold=12.345), verdict=Verdict.FAIL, split="verdict", round=1, looks=1,
    budget=40, seeds=(0,),
)  # fmt: skip
SAID, NEEDED = EVIDENCE.estimate.words("J"), EVIDENCE.requirement.words()


def test_the_gate_the_command_line_and_the_report_say_the_same(capsys):
    (reason,) = Gate().decide([EVIDENCE]).reasons
    assert reason == f"a: cost is {SAID} and fails; {NEEDED} is required."
    print_audit(Audited((EVIDENCE, dataclasses.replace(EVIDENCE, metric="other", requirement=None, verdict=None))))
    _, first, second = (re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines())
    assert first[2:5] == [SAID, NEEDED, "fail"]
    assert second[2:5] == [SAID, "-", "-"]
    page = build_report(ReportData(title="t", rounds=[Round(number=1, recipe="r", evidence=[EVIDENCE])]))
    assert f"a, cost: {SAID}; {EVIDENCE.requirement.words('J')}; fail" in page
    assert f"required: {NEEDED}</text>" in page


@dataclasses.dataclass
class Audited:
    evidence: tuple[Evidence, ...]
    folder: None = None


class Costs:
    name, principle, needs, axis = "costs", Principle.ETHICALITY, object, None
    metrics = (Metric("cost", "mean", "J", (0.0, 100.0), EVIDENCE.requirement),)

    def cases(self, subject, split, round, n, rng):
        return [Case(str(k)) for k in range(n)]

    def measure(self, subject, cases, rng):
        return [Outcome({"cost": 20.5}) for _ in cases]


def test_a_finding_says_the_requirement_it_broke():
    (found,) = run_audit(Costs(), None, budget=Budget(initial=2, batch=1, maximum=2))
    assert {finding.what for finding in found.findings} == {
        f"cost was 20.5 J in case {k}; {NEEDED} is required." for k in (0, 1)
    }
    assert found.estimate.words("J").startswith("20.5 [")


def test_charts_say_an_estimate_as_it_says_itself():
    row = IntervalRow("x", *dataclasses.astuple(estimate())[:3], "reported")
    assert f">{estimate().words()}</text>" in str(intervals([row], None, "J", "label"))
