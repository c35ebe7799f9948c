"""The audit runner on coins, whose truth is known: looks, verdicts, error, missing cases, findings, resuming."""

import json
import math
from typing import Protocol, runtime_checkable

import numpy as np
import pytest

from trueline.core.config import Config
from trueline.core.run import Run, read_evidence, resolve
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import (
    Axis,
    Case,
    Evidence,
    EvidenceError,
    Finding,
    Metric,
    NotMeasurable,
    Outcome,
    Principle,
    Requirement,
    Verdict,
)
from trueline.evidence.statistics import rate_sequence


@runtime_checkable
class Flips(Protocol):
    def flip(self, seed: int) -> float: ...


class Coin:
    """Heads with probability p, decided by the case's own seed."""

    def __init__(self, p):
        self.p = p

    def flip(self, seed):
        return float(np.random.default_rng(seed).random() < self.p)


class CoinAudit:
    """How often the coin falls heads, and what a case costs: 10 coins a head and less than one from its seed."""

    Config = Config
    name = "robustness/heads"
    principle = Principle.ROBUSTNESS
    needs = Flips
    axis: Axis | None = None

    def __init__(self, threshold=0.2, metrics=None, missing=lambda i: False):
        self.metrics = metrics or (
            Metric("heads", "rate", requirement=Requirement(bound="at_most", threshold=threshold)),
        )
        self.missing = missing
        self.measured = 0

    def cases(self, subject, split, round, n, rng):
        return [Case(str(seed), data={"seed": int(seed)}) for seed in rng.integers(2**40, size=n)]

    def outcome(self, subject, case):
        heads = subject.flip(case.data["seed"])
        return Outcome({"heads": heads, "cost": 10 * heads + case.data["seed"] % 997 / 1000}, detail={"heads": heads})

    def measure(self, subject, cases, rng):
        outcomes = []
        for case in cases:
            outcomes.append(None if self.missing(self.measured) else self.outcome(subject, case))
            self.measured += 1
        return outcomes


COST = Metric("cost", "mean", "coins", (0, 11), Requirement(bound="at_most", threshold=9.0))


def test_stops_at_the_first_look_that_decides_and_goes_on_while_none_does():
    budget = Budget(initial=50, batch=25, maximum=400)
    easy, hard, bad = (run_audit(CoinAudit(), Coin(p), budget=budget)[0] for p in (0.0, 0.12, 0.9))
    assert (easy.verdict, easy.looks, easy.estimate.n) == (Verdict.PASS, 1, 50)
    assert (bad.verdict, bad.looks, bad.estimate.n) == (Verdict.FAIL, 1, 50)
    assert hard.verdict is Verdict.PASS
    assert hard.estimate.n == 50 + 25 * (hard.looks - 1) > 50
    even = run_audit(CoinAudit(), Coin(0.2), budget=budget)[0]
    assert (even.verdict, even.estimate.n, even.looks) == (Verdict.INCONCLUSIVE, 400, 15)


def test_the_last_batch_keeps_within_the_budget():
    found = run_audit(CoinAudit(), Coin(0.2), budget=Budget(initial=30, batch=40, maximum=100))[0]
    assert (found.estimate.n, found.looks, found.budget) == (100, 3, 100)


def test_error_budget_is_kept_under_looks():
    # At the very threshold a pass and a fail are both errors; each may happen with probability 0.025. 200 audits of
    # up to ten looks; 0.025 + 3.1·√(0.025·0.975/200) = 0.059, exceeded with probability 0.001 at most.
    budget = Budget(initial=20, batch=20, maximum=200)
    verdicts = [run_audit(CoinAudit(), Coin(0.2), seed=seed, budget=budget)[0].verdict for seed in range(200)]
    assert np.mean([v is Verdict.PASS for v in verdicts]) <= 0.059
    assert np.mean([v is Verdict.FAIL for v in verdicts]) <= 0.059


def test_a_share_of_the_error_budget_widens_the_interval():
    whole, tenth = (run_audit(CoinAudit(), Coin(0.3), share=share)[0].estimate for share in (1.0, 0.1))
    assert (whole.confidence, tenth.confidence) == (pytest.approx(0.90), pytest.approx(0.99))
    assert tenth.low < whole.low
    with pytest.raises(EvidenceError, match="share"):
        run_audit(CoinAudit(), Coin(0.3), share=0.0)


def test_too_many_missing_cases_decide_nothing():
    budget = Budget(initial=100, batch=50, maximum=100)
    many = run_audit(CoinAudit(missing=lambda i: i % 10 == 0), Coin(0.0), budget=budget)[0]
    assert (many.missing, many.estimate.n, many.verdict) == (10, 90, Verdict.INCONCLUSIVE)
    assert many.estimate.value == 0.0  # left out, not counted as heads or tails
    assert "10 of 100" in many.note
    none = run_audit(CoinAudit(missing=lambda i: True), Coin(0.0), budget=budget)[0]
    assert math.isnan(none.estimate.value)
    assert none.verdict is Verdict.INCONCLUSIVE


def test_a_few_missing_cases_count_as_the_worst_they_can_be_at_each_end_of_the_interval():
    budget = Budget(initial=100, batch=50, maximum=100)
    found = run_audit(CoinAudit(missing=lambda i: i % 25 == 0), Coin(0.0), budget=budget)[0]
    filled = np.zeros(100)
    filled[::25] = 1.0
    assert (found.missing, found.estimate.n, found.estimate.value) == (4, 96, 0.0)
    assert (found.estimate.low, found.estimate.high) == (0.0, rate_sequence(filled, found.estimate.confidence).high)
    assert found.verdict is Verdict.PASS
    assert "4 of 100 cases have no value and count as" in found.note


@pytest.mark.parametrize(("bound", "threshold", "p"), [("at_most", 0.05, 0.0), ("at_least", 0.95, 1.0)])
def test_missing_cases_cannot_buy_a_pass(bound, threshold, p):
    # Five of a hundred bad ones are enough to break the requirement, and exactly so many are missing.
    metric = Metric("heads", "rate", requirement=Requirement(bound=bound, threshold=threshold))
    budget = Budget(initial=100, maximum=100)
    whole, patchy = (
        run_audit(CoinAudit(metrics=(metric,), missing=missing), Coin(p), budget=budget)[0]
        for missing in (lambda i: False, lambda i: i % 20 == 0)
    )
    assert (whole.verdict, patchy.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert "5 of 100 cases have no value and count as" in patchy.note  # 5 % is not more than 5 %


def test_missing_cases_cannot_make_a_fail():
    # One missing cost in fifty could be the bound, and that alone would lie above what is required.
    metric = Metric("cost", "mean", bounds=(0, 1000), requirement=Requirement(bound="at_most", threshold=2.0))
    budget = Budget(initial=400, maximum=400)
    found = run_audit(CoinAudit(metrics=(metric,), missing=lambda i: i % 50 == 0), Coin(0.0), budget=budget)[0]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.estimate.low < found.estimate.value < 1.0 < found.estimate.high


def test_missing_values_without_a_bound_or_a_requirement_are_left_out():
    required = Requirement(bound="at_most", threshold=9.0)
    metrics = (Metric("cost", "mean", requirement=required), Metric("heads", "rate"))
    budget = Budget(initial=100, maximum=100)
    for found in run_audit(CoinAudit(metrics=metrics, missing=lambda i: i == 7), Coin(0.0), budget=budget):
        assert (found.missing, found.estimate.n, found.note) == (1, 99, "")


def test_a_nan_is_a_missing_value_of_that_metric_alone():
    class Half(CoinAudit):
        def outcome(self, subject, case):
            values = dict(super().outcome(subject, case).values)
            return Outcome(values | {"cost": math.nan} if case.data["seed"] % 2 else values)

    heads, cost = run_audit(Half(metrics=(CoinAudit().metrics[0], COST)), Coin(0.0))
    assert heads.missing == 0
    assert cost.missing + cost.estimate.n == heads.estimate.n
    assert cost.missing > 0


def test_findings_are_the_bad_cases_worst_first():
    found = run_audit(CoinAudit(metrics=(COST,)), Coin(0.5), findings=5)[0]
    assert found.verdict is not None
    assert len(found.findings) == 5 < found.failing
    severities = [finding.severity for finding in found.findings]
    assert severities == sorted(severities, reverse=True)
    worst = found.findings[0]
    assert worst.value > 9.0
    assert worst.severity == pytest.approx((worst.value - 9.0) / 9.0)
    assert Coin(0.5).flip(worst.case.data["seed"]) == 1.0  # the case can be tried again
    assert worst.detail == {"heads": 1.0}
    assert "at most 9 is required" in worst.what


def test_without_a_requirement_there_is_one_look_and_no_verdict():
    found = run_audit(CoinAudit(metrics=(Metric("cost", "mean", bounds=(0, 11)),)), Coin(0.5))[0]
    assert (found.verdict, found.looks, found.failing, found.findings) == (None, 1, 0, ())


def test_a_search_can_show_failure_and_never_its_absence():
    def search(threshold, p):
        metric = Metric("cost", "extreme", requirement=Requirement(bound="at_most", threshold=threshold))
        return run_audit(CoinAudit(metrics=(metric,)), Coin(p), budget=Budget(maximum=80))[0]

    assert search(5.0, 0.5).verdict is Verdict.FAIL
    harmless = search(5.0, 0.0)
    assert (harmless.verdict, harmless.estimate.n) == (Verdict.INCONCLUSIVE, 80)
    assert 0.9 < harmless.estimate.value < 1.0
    assert math.isnan(harmless.estimate.high)


class Layouts(CoinAudit):
    """Ten layouts in all, each with four episodes that come together."""

    def cases(self, subject, split, round, n, rng):
        return [
            Case(f"{layout}.{i}", str(layout), {"seed": 100 * layout + i}) for layout in range(10) for i in range(4)
        ]


def test_a_layout_seen_before_is_no_new_unit_and_a_used_up_set_ends_the_audit():
    found = run_audit(Layouts(), Coin(0.2), budget=Budget(initial=40, batch=40, maximum=400))[0]
    assert (found.estimate.n, found.estimate.clusters, found.looks) == (40, 10, 1)
    assert found.verdict is Verdict.INCONCLUSIVE


class Finite(CoinAudit):
    """Thirty prompts, of which each draw takes some at random."""

    def cases(self, subject, split, round, n, rng):
        return [Case(str(k), data={"seed": int(k)}) for k in rng.choice(30, size=min(n, 30), replace=False)]


def test_a_finite_set_is_used_up_before_it_ends_an_audit():
    # Half of 30 coins are heads, against a threshold of a half: nothing settles it, so that every look is taken.
    audit, budget = Finite(threshold=0.5), Budget(initial=10, batch=10, maximum=60)
    (evidence,) = run_audit(audit, Coin(0.5), split="verdict", round=1, budget=budget, seed=0)
    assert evidence.estimate.n == audit.measured == 30


class Curved(CoinAudit):
    """Heads become likelier along the axis: the value at x is the coin's plus x."""

    axis = Axis("noise", "m", (0.0, 0.1, 0.4))

    def outcome(self, subject, case):
        heads = subject.flip(case.data["seed"])
        curve = [heads + x for x in self.axis.values]
        return Outcome({"heads": heads}, {"heads": curve, "return": [1.0, math.nan, 3.0]})


def test_curves_have_a_mean_an_interval_and_an_area():
    heads, returns = run_audit(Curved(metrics=(Metric("heads", "mean", bounds=(0, 2)),)), Coin(0.5))
    p = heads.estimate.value
    assert heads.curve.mean == pytest.approx((p, p + 0.1, p + 0.4))
    assert heads.curve.low[1] < heads.curve.mean[1] < heads.curve.high[1]
    assert heads.curve.area == pytest.approx(p + 0.2)  # the mean of x over [0, 0.4]
    assert returns.metric == "return"
    assert returns.verdict is None
    assert returns.curve.n == (40, 0, 40)
    assert math.isnan(returns.curve.area)


def test_a_curve_that_does_not_fit_the_axis_is_refused():
    class Short(Curved):
        def outcome(self, subject, case):
            return Outcome({"heads": 0.0}, {"heads": [1.0]})

    with pytest.raises(EvidenceError, match="1 values on an axis of 3"):
        run_audit(Short(), Coin(0.5))


def test_a_value_beyond_its_declared_bounds_is_refused_with_the_metric_s_name():
    with pytest.raises(EvidenceError, match=r"'cost' of audit 'robustness/heads': .* outside the declared bounds"):
        run_audit(CoinAudit(metrics=(Metric("cost", "mean", bounds=(0, 1)),)), Coin(1.0))


def test_a_missing_capability_is_an_error_alone_and_a_visible_gap_among_others():
    with pytest.raises(EvidenceError, match=r"'robustness/heads' needs a subject that Flips, and str does not"):
        run_audit(CoinAudit(), "not a coin")
    seen = []
    found = run_audits([CoinAudit()], "not a coin", progress=lambda name, evidence: seen.append((name, evidence)))
    assert found[0].verdict is Verdict.INCONCLUSIVE
    assert found[0].note.startswith("not measured: ")
    assert found[0].estimate.n == 0
    assert seen == [("robustness/heads", found)]


class Unmeasurable(CoinAudit):
    """Says so only when it looks at the coin."""

    name = "ethicality/unmeasurable"

    def measure(self, subject, cases, rng):
        raise NotMeasurable("a coin has no face to read.")


def test_what_is_not_measured_is_written_once_however_often_the_run_is_resumed(tmp_path):
    def all_of_them(subject, id):
        with Run.reopen(tmp_path / id) if (tmp_path / id).exists() else make_run(tmp_path, id) as run:
            return run_audits([Unmeasurable(), CoinAudit()], subject, run=run, budget=BUDGET)

    for subject, id in ((Coin(0.0), "no-ability"), ("not a coin", "no-capability")):
        first, again = all_of_them(subject, id), all_of_them(subject, id)
        assert [e.to_json() for e in again] == [e.to_json() for e in first]
        assert [row["audit"] for row in read_evidence(tmp_path / id)] == ["ethicality/unmeasurable", "robustness/heads"]


class Patchy(CoinAudit):
    """Two metrics, one of them without a value in one case of 31; killed once `left[0]` cases have been measured."""

    def __init__(self, name, left):
        super().__init__(metrics=(CoinAudit().metrics[0], COST))
        self.name = name
        self.left = left

    def outcome(self, subject, case):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        values = dict(super().outcome(subject, case).values)
        return Outcome(values | {"cost": math.nan} if case.data["seed"] % 31 == 0 else values)


def audits(killed_after=math.inf):
    left = [killed_after]
    return [Patchy("robustness/heads", left), Patchy("ethicality/cost", left)]


def make_run(root, id):
    return Run.create(root, kind="audit", name="coins", config={}, seed=3, id=id)


BUDGET = Budget(initial=20, batch=20, maximum=100)


@pytest.mark.parametrize("killed_after", [5, 50, 119, 170])
def test_a_killed_audit_goes_on_to_the_same_evidence(tmp_path, killed_after):
    # The coin's rate is the threshold itself, so both audits use their 100 cases.
    with make_run(tmp_path, "whole") as run:
        whole = run_audits(audits(), Coin(0.2), run=run, budget=BUDGET)
    with pytest.raises(KeyboardInterrupt), make_run(tmp_path, "killed") as run:
        run_audits(audits(killed_after), Coin(0.2), run=run, budget=BUDGET)
    with Run.reopen(tmp_path / "killed") as run:
        resumed = run_audits(audits(), Coin(0.2), run=run, budget=BUDGET)

    def lines(evidence):
        return [e.to_json().replace("run://killed", "run://whole") for e in evidence]

    assert lines(resumed) == lines(whole)
    assert all(e.estimate.n + e.missing == 100 for e in whole)
    assert any(e.missing for e in whole)
    for name in ("whole", "killed"):
        stored = [Evidence.from_dict(row) for row in read_evidence(tmp_path / name)]
        assert lines(stored) == lines(whole)


def test_a_resumed_audit_measures_only_what_is_missing(tmp_path):
    first, second = CoinAudit(), CoinAudit()
    with make_run(tmp_path, "one") as run:
        before = run_audit(first, Coin(0.2), run=run, budget=BUDGET)
    assert before[0].seeds == (3,)  # the run's
    with Run.reopen(tmp_path / "one") as run:
        after = run_audit(second, Coin(0.2), run=run, budget=BUDGET)
    assert after == before
    assert (first.measured, second.measured) == (100, 0)


def test_findings_and_curves_are_artefacts_by_split(tmp_path):
    metric = Metric("heads", "mean", bounds=(0, 2), requirement=Requirement(bound="at_most", threshold=0.2))
    with make_run(tmp_path, "one") as run:
        verdict = run_audit(Curved(metrics=(metric,)), Coin(0.5), run=run)[0]
        respond = run_audit(Curved(metrics=(metric,)), Coin(0.5), run=run, split="respond")[0]
    assert verdict.findings_ref != respond.findings_ref
    for found in (verdict, respond):
        rows = json.loads(resolve(found.findings_ref, tmp_path).read_text())
        stored = [Finding.from_dict(row) for row in rows]
        assert len(stored) == found.failing > 0
        assert tuple(stored[:20]) == found.findings
    assert (tmp_path / "one/artefacts/curves/robustness/heads/verdict/0/heads.json").exists()
    drawn = [{f.case.id for f in found.findings} for found in (verdict, respond)]
    assert not drawn[0] & drawn[1]


def test_an_audit_refuses_another_run_s_checkpoint(tmp_path):
    with make_run(tmp_path, "other") as run:
        run.save(1, {"policy": 1})
        with pytest.raises(EvidenceError, match="audit's own"):
            run_audit(CoinAudit(), Coin(0.5), run=run)


def test_a_budget_whose_first_look_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="initial 50 is more than maximum 40"):
        Budget(initial=50, maximum=40)
