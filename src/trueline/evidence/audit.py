"""The audit runner: draw cases, measure, estimate, look again while a requirement is undecided and the budget lasts.

An audit only says how to draw cases and how to measure them. Everything statistical happens here: a metric's
interval holds under every look (`statistics`), the cases of a cluster are averaged, a case without a value counts as
the worst it could be where that is known, and the cases beyond a requirement become findings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.files import jsonable
from trueline.core.run import Run
from trueline.core.streams import Streams
from trueline.evidence.records import (
    Axis,
    Case,
    Curve,
    Estimate,
    Evidence,
    EvidenceError,
    Finding,
    Metric,
    NotMeasurable,
    Outcome,
    Principle,
    Requirement,
    Split,
    Verdict,
)
from trueline.evidence.statistics import asymptotic_sequence, cvar, mean_sequence, rate_sequence
from trueline.evidence.words import in_full

__all__ = ["Audit", "Budget", "estimate_metric", "run_audit", "run_audits"]

MOST_MISSING = 0.05  # above this share of cases without a value nothing is concluded: they may be the bad ones
REDRAWN = 20  # draws of one look, where earlier ones repeated cases: finite sets are used up, not given up
DESCRIPTIVE = 0.95  # confidence of intervals on which no verdict rests


class Audit(Protocol):
    """A named measurement.  `Config` holds its settings; the registry's target is an instance or makes one.

    A setting `root` is the folder of runs: where nothing is set, that of the command, call or cycle that audits.
    """

    name: str
    principle: Principle
    needs: type  # the one capability a subject must have: a runtime-checkable protocol
    metrics: Sequence[Metric]
    axis: Axis | None

    def cases(self, subject: Any, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Up to n further cases of this split and round, fewer (or none) when a finite set is used up.

        All cases of a cluster come in one call: cases of a cluster seen in an earlier look are dropped.
        """
        ...

    def measure(self, subject: Any, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """One outcome per case, in order; None where there is no answer.

        What a case gives should depend on its own data (its seed), not on `rng` or its neighbours, where that can be.
        """
        ...


class Budget(Config):
    """How many cases an audit may use."""

    initial: int = Field(default=40, ge=1)  # cases of the first look
    batch: int = Field(default=40, ge=1)  # cases of each further look
    maximum: int = Field(default=400, ge=1)  # cases in all

    @model_validator(mode="after")
    def _first_look_fits(self) -> Self:
        if self.initial > self.maximum:
            raise ValueError(f"initial {self.initial} is more than maximum {self.maximum}; raise the maximum")
        return self


@dataclass(frozen=True, slots=True)
class _Terms:
    """The terms of one audit, agreed before the first look."""

    split: Split
    round: int
    budget: Budget
    share: float
    seeds: tuple[int, ...]
    findings: int


@dataclass(frozen=True, slots=True)
class _Tried:
    """A case that was measured; `look` is the number of the look it was drawn for."""

    case: Case
    outcome: Outcome | None
    look: int

    def value(self, metric: str) -> float:
        """The metric's value, nan when it is missing."""
        value = math.nan if self.outcome is None else float(self.outcome.values.get(metric, math.nan))
        return value if math.isfinite(value) else math.nan

    def curve(self, name: str) -> Sequence[float]:
        return () if self.outcome is None else self.outcome.curves.get(name, ())


@dataclass(slots=True)
class _Journal:
    """What a killed run of audits needs to go on: evidence already finished and cases tried in the audit under way."""

    run: Run | None
    step: int = 0  # looks of all audits of this run
    finished: dict[str, list[str]] = field(default_factory=dict)  # audit key -> its evidence as JSON lines
    current: str = ""
    tried: list[_Tried] = field(default_factory=list)

    @classmethod
    def open(cls, run: Run | None) -> _Journal:
        state = run.restore() if run is not None else None
        if state is None:
            return cls(run)
        if set(state) != {"step", "finished", "current", "tried"}:
            raise EvidenceError("the run given to the audit is not an audit's own. Create one with kind 'audit'.")
        return cls(run, state["step"], state["finished"], state["current"], [_tried(row) for row in state["tried"]])

    def save(self) -> None:
        if self.run is None:
            return
        rows = [
            {"case": asdict(t.case), "outcome": None if t.outcome is None else asdict(t.outcome), "look": t.look}
            for t in self.tried
        ]
        state = {"step": self.step, "finished": self.finished, "current": self.current, "tried": rows}
        self.run.save(self.step, state)

    def finish(self, key: str, evidence: Sequence[Evidence]) -> None:
        self.finished[key] = [item.to_json() for item in evidence]
        self.current, self.tried = "", []
        if self.run is not None:
            for item in evidence:
                self.run.append_evidence(item.to_dict())
            self.save()  # else the next restore would cut the lines off again


def run_audit(
    audit: Audit,
    subject: Any,
    *,
    run: Run | None = None,
    split: Split = "verdict",
    round: int = 0,
    seed: int = 0,
    budget: Budget | None = None,
    share: float = 1.0,
    findings: int = 20,
) -> list[Evidence]:
    """Audits `subject` and returns one Evidence per metric, then one per curve that belongs to no metric.

    Looks after `budget.initial` cases and then after every `budget.batch`, until every requirement is passed or failed,
    the budget is spent or the cases are used up. A verdict is wrong with probability at most (1 − c)·share, where
    `share` is this round's part of the error budget. The `findings` worst cases of a metric are kept in its
    Evidence; with a `run` (one made for audits) all are written to artefacts/findings/AUDIT/SPLIT/ROUND.json, curves to
    artefacts/curves/AUDIT/SPLIT/ROUND/NAME.json, the evidence to evidence.jsonl, and a killed audit goes on from its
    last look, to the same end. Without a run, `seed` draws the cases.
    An outcome's detail may say in `what`, a sentence, what was wrong with the case.

    Raises EvidenceError when the subject lacks the capability, or when outcomes do not fit cases, metrics or axis.
    """
    if not isinstance(subject, audit.needs):
        raise EvidenceError(_lacks(audit, subject))
    terms = _agreed(run, split, round, seed, budget, share, findings)
    return _run_audit(audit, subject, _Journal.open(run), terms)


def run_audits(
    audits: Iterable[Audit],
    subject: Any,
    *,
    run: Run | None = None,
    split: Split = "verdict",
    round: int = 0,
    seed: int = 0,
    budget: Budget | Mapping[str, Budget] | None = None,
    share: float = 1.0,
    findings: int = 20,
    progress: Callable[[str, Sequence[Evidence]], None] | None = None,
) -> list[Evidence]:
    """`run_audit` for each audit in turn, in one run.  `budget` may be given by audit name.

    A subject that lacks an audit's capability, or whose world lacks an ability, gives *inconclusive* evidence with a
    note "not measured: …", so that the gap is visible. `progress` is called with the audit's name and its evidence
    after each.
    """
    journal, gathered = _Journal.open(run), list[Evidence]()
    for audit in audits:
        own = budget.get(audit.name) if isinstance(budget, Mapping) else budget
        terms = _agreed(run, split, round, seed, own, share, findings)
        try:
            # What is finished stays as it is, a gap too: asking the subject again would write the gap once more.
            if _key(audit, terms) not in journal.finished and not isinstance(subject, audit.needs):
                raise NotMeasurable(_lacks(audit, subject))
            found = _run_audit(audit, subject, journal, terms)
        except NotMeasurable as gap:
            found = [_not_measured(audit, metric, terms, str(gap)) for metric in audit.metrics]
            journal.finish(_key(audit, terms), found)
        gathered += found
        if progress is not None:
            progress(audit.name, found)
    return gathered


def _agreed(
    run: Run | None, split: Split, round: int, seed: int, budget: Budget | None, share: float, findings: int
) -> _Terms:
    if not 0.0 < share <= 1.0:
        raise EvidenceError(f"share is {share}, but it is a part of the error budget. Give a number in (0, 1].")
    return _Terms(split, round, budget or Budget(), share, (seed if run is None else run.seed,), findings)


def _run_audit(audit: Audit, subject: Any, journal: _Journal, terms: _Terms) -> list[Evidence]:
    key, run, budget = _key(audit, terms), journal.run, terms.budget
    if key in journal.finished:
        return [Evidence.from_json(line) for line in journal.finished[key]]
    if journal.current != key:
        journal.current, journal.tried = key, []
    rng = run.rng if run is not None else Streams(terms.seeds[0]).rng
    draw_rng, measure_rng = rng(f"audit/{key}/cases"), rng(f"audit/{key}/measure")

    evidence = [_evidence(audit, metric, journal.tried, terms) for metric in audit.metrics]
    while not journal.tried or any(e.verdict is Verdict.INCONCLUSIVE for e in evidence):
        n = min(budget.batch if journal.tried else budget.initial, budget.maximum - len(journal.tried))
        fresh = _measured(audit, subject, terms, n, journal.tried, draw_rng, measure_rng) if n else []
        if not fresh:
            break
        journal.tried += fresh
        journal.step += 1
        evidence = [_evidence(audit, metric, journal.tried, terms) for metric in audit.metrics]
        if run is not None:
            run.log(journal.step, **_scalars(evidence))
        journal.save()

    reference = None
    failing = [finding for metric in audit.metrics for finding in _failing(audit, metric, journal.tried)]
    failing.sort(key=lambda finding: -finding.severity)
    curves = _curves(audit, journal.tried)
    if run is not None:
        # By split and round: verdict cases must not take the place of those a response may learn from.
        path = run.write_json(f"findings/{key}.json", [finding.to_dict() for finding in failing])
        reference = run.reference(path)
        for name, curve in curves.items():
            run.write_json(f"curves/{key}/{name}.json", asdict(curve))
    evidence = [_with_findings(e, failing, terms.findings, reference) for e in evidence]
    evidence = [replace(e, curve=curves.get(e.metric)) for e in evidence]
    metrics = {metric.name for metric in audit.metrics}
    evidence += [_area_evidence(audit, curve, journal.tried, terms) for n, curve in curves.items() if n not in metrics]
    journal.finish(key, evidence)
    return evidence


def _key(audit: Audit, terms: _Terms) -> str:
    return f"{audit.name}/{terms.split}/{terms.round}"


def _lacks(audit: Audit, subject: Any) -> str:
    return (
        f"audit {audit.name!r} needs a subject that {audit.needs.__name__}, and {type(subject).__name__} does not. "
        f"Choose an audit that fits, or give the subject that capability."
    )


def _measured(
    audit: Audit,
    subject: Any,
    terms: _Terms,
    n: int,
    tried: Sequence[_Tried],
    draw_rng: np.random.Generator,
    measure_rng: np.random.Generator,
) -> list[_Tried]:
    """Up to n new cases with their outcomes."""
    # A cluster met in an earlier look is no new unit, and more of its cases would change a unit already bet on.
    seen = {t.case.unit for t in tried}
    cases: list[Case] = []
    for _ in range(REDRAWN):
        asked = n - len(cases)
        drawn = list(audit.cases(subject, terms.split, terms.round, asked, draw_rng))
        if len(drawn) > asked:
            raise EvidenceError(
                f"audit {audit.name!r} drew {len(drawn)} cases when asked for {asked}. Draw at most as many."
            )
        new = [case for case in drawn if case.unit not in seen]
        cases += new
        seen |= {case.unit for case in new}
        if len(new) == len(drawn) or len(cases) == n:
            break  # only what was met before is drawn again: an audit may have reasons to draw fewer
    if not cases:
        return []
    outcomes = list(audit.measure(subject, cases, measure_rng))
    if len(outcomes) != len(cases):
        raise EvidenceError(
            f"audit {audit.name!r} returned {len(outcomes)} outcomes for {len(cases)} cases. Return one per case, and "
            f"None for a case without an answer."
        )
    points = len(audit.axis.values) if audit.axis else 0
    for name, curve in ((k, c) for outcome in outcomes if outcome for k, c in outcome.curves.items()):
        if len(curve) != points:
            raise EvidenceError(
                f"audit {audit.name!r} returned a curve {name!r} of {len(curve)} values on an axis of {points}. Return "
                f"one value per axis value, nan where there is none."
            )
    look = tried[-1].look + 1 if tried else 1
    # Through JSON types, so that a resumed audit sees exactly what an uninterrupted one does.
    return [
        _Tried(_plain_case(case), None if outcome is None else _plain_outcome(outcome), look)
        for case, outcome in zip(cases, outcomes, strict=True)
    ]


def estimate_metric(
    metric: Metric, values: NDArray[np.float64], clusters: Sequence[str], confidence: float
) -> Estimate:
    """The metric's estimate from its values [n] and their clusters [n]; betting where bounds allow it.

    `extreme` is the worst value found: a search proves that something exists, never that nothing worse does, so there
    is no interval.
    """
    match metric.estimator:
        case "rate":
            return rate_sequence(values, confidence, clusters)
        case "cvar":
            assert metric.tail is not None
            assert metric.bounds is not None
            return cvar(values, metric.tail, metric.bounds, confidence, clusters, metric.worse)
        case "extreme":
            worst = max if metric.worse == "high" else min
            value = float(worst(values, default=math.nan))
            return Estimate(value, math.nan, math.nan, len(values), len(set(clusters)), confidence, "search")
        case "mean" | "paired":
            if metric.bounds is None:
                return asymptotic_sequence(values, confidence, clusters)
            return mean_sequence(values, metric.bounds, confidence, clusters)


def _evidence(audit: Audit, metric: Metric, tried: Sequence[_Tried], terms: _Terms) -> Evidence:
    """The metric's evidence from all cases so far, without findings and curve.

    The value is that of the cases that have one. Of a bounded metric on which a verdict rests, up to 5 % missing cases
    (no outcome, or none for this metric) widen the interval to what it could be with them: its worse end counts them as
    the metric's worse bound, its better end as the better one, so that neither a pass nor a fail can come of what is
    missing. More than 5 % are inconclusive; without bounds, or in a search, they are left out.
    """
    requirement = metric.requirement
    confidence = DESCRIPTIVE if requirement is None else requirement.interval_confidence(terms.share)
    values = np.array([t.value(metric.name) for t in tried], dtype=np.float64)
    units = [t.case.unit for t in tried]
    given = ~np.isnan(values)
    missing = len(tried) - int(given.sum())
    many = missing > MOST_MISSING * len(tried)
    counted = missing > 0 and not many and requirement is not None and metric.bounds is not None
    counted = counted and metric.estimator != "extreme"
    with _named(f"metric {metric.name!r} of audit {audit.name!r}"):
        clusters = [unit for unit, has in zip(units, given, strict=True) if has]
        estimate = estimate_metric(metric, values[given], clusters, confidence)
        if counted:
            estimate = _widened(metric, estimate, values, units, confidence)
    verdict, note = _verdict(metric, estimate), ""
    if not tried:
        note = "not measured: there were no cases"
    elif many:
        note = f"{missing} of {len(tried)} cases have no value"
        if requirement is not None:
            note += ", so nothing is concluded from the others"
            verdict = Verdict.INCONCLUSIVE
    elif counted:
        assert metric.bounds is not None
        worse, better = metric.bounds[::-1] if metric.worse == "high" else metric.bounds
        note = (
            f"{missing} of {len(tried)} cases have no value and count as {worse:g} at the interval's worse end, as "
            f"{better:g} at its better end"
        )
    return Evidence(
        principle=audit.principle,
        audit=audit.name,
        metric=metric.name,
        unit=metric.unit,
        estimator=metric.estimator,
        estimate=estimate,
        requirement=requirement,
        verdict=verdict,
        split=terms.split,
        round=terms.round,
        looks=tried[-1].look if tried else 0,
        budget=terms.budget.maximum,
        seeds=terms.seeds,
        missing=missing,
        note=note,
    )


def _widened(
    metric: Metric, estimate: Estimate, values: NDArray[np.float64], units: Sequence[str], confidence: float
) -> Estimate:
    """`estimate` with the interval that holds whatever the missing values (nan in `values` [n]) are within the bounds.

    Each end is that of the interval in which they all have the bound on that side (Horowitz & Manski 2000).
    """
    assert metric.bounds is not None
    lowest, highest = (
        estimate_metric(metric, np.where(np.isnan(values), bound, values), units, confidence) for bound in metric.bounds
    )
    return replace(estimate, low=lowest.low, high=highest.high)


def _not_measured(audit: Audit, metric: Metric, terms: _Terms, why: str) -> Evidence:
    """A visible gap: inconclusive even where nothing was required."""
    return replace(_evidence(audit, metric, (), terms), verdict=Verdict.INCONCLUSIVE, note=f"not measured: {why}")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Opens an EvidenceError from within by the name of what could not be estimated."""
    try:
        yield
    except EvidenceError as error:
        raise EvidenceError(f"{what}: {error}") from None


def _verdict(metric: Metric, estimate: Estimate) -> Verdict | None:
    requirement = metric.requirement
    if requirement is None:
        return None
    if math.isnan(estimate.value):
        return Verdict.INCONCLUSIVE
    if metric.estimator == "extreme":
        return Verdict.INCONCLUSIVE if requirement.met(estimate.value) else Verdict.FAIL
    return requirement.verdict(estimate.low, estimate.high)


def _failing(audit: Audit, metric: Metric, tried: Sequence[_Tried]) -> list[Finding]:
    """The cases beyond the metric's requirement, in the order they were tried."""
    requirement = metric.requirement
    if requirement is None:
        return []
    return [
        Finding(
            id=f"{audit.name}/{metric.name}/{t.case.id}",
            audit=audit.name,
            metric=metric.name,
            case=t.case,
            value=value,
            severity=requirement.excess(value),
            what=str(t.outcome.detail.get("what") or _sentence(metric, requirement, t.case, value)),
            detail=t.outcome.detail,
        )
        for t in tried
        if t.outcome is not None and not math.isnan(value := t.value(metric.name)) and not requirement.met(value)
    ]


def _sentence(metric: Metric, requirement: Requirement, case: Case, value: float) -> str:
    if metric.estimator == "rate":
        return f"{metric.name} {'happened' if value else 'did not happen'} in case {case.id}."
    was = f"{metric.name} was {in_full(value)} {metric.unit}".rstrip()
    return f"{was} in case {case.id}; {requirement.words()} is required."


def _with_findings(evidence: Evidence, failing: list[Finding], most: int, reference: str | None) -> Evidence:
    own = [finding for finding in failing if finding.metric == evidence.metric]
    return replace(evidence, failing=len(own), findings=tuple(own[:most]), findings_ref=reference if own else None)


def _curves(audit: Audit, tried: Sequence[_Tried]) -> dict[str, Curve]:
    """Every curve that some outcome has, by name."""
    if audit.axis is None:
        return {}
    metrics = {metric.name: metric for metric in audit.metrics}
    names = dict.fromkeys(name for t in tried if t.outcome is not None for name in t.outcome.curves)
    with _named(f"a curve of audit {audit.name!r}"):
        return {name: _curve(name, audit.axis, tried, metrics.get(name)) for name in names}


def _area_evidence(audit: Audit, curve: Curve, tried: Sequence[_Tried], terms: _Terms) -> Evidence:
    """Evidence for a curve that belongs to no metric: the mean over cases of the area under their curves."""
    areas = []
    for t in tried:
        values = t.curve(curve.name)
        outcome = Outcome({curve.name: _area(curve.axis.values, values)}) if values else None
        areas.append(_Tried(t.case, outcome, t.look))
    row = _evidence(audit, Metric(curve.name, "mean"), areas, terms)
    return replace(row, curve=curve, note=row.note or "the value is the mean area under the cases' curves")


def _curve(name: str, axis: Axis, tried: Sequence[_Tried], metric: Metric | None) -> Curve:
    """Mean and pointwise interval at each axis value over the cases that have a value there."""
    missing = (math.nan,) * len(axis.values)
    rows = np.array([t.curve(name) or missing for t in tried], dtype=np.float64)  # [n, points]
    units = np.array([t.case.unit for t in tried])
    points = []
    for column in rows.T:
        given = np.isfinite(column)
        bounds = metric.bounds if metric is not None else None
        if bounds is None:
            points.append(asymptotic_sequence(column[given], DESCRIPTIVE, units[given]))
        else:
            points.append(mean_sequence(column[given], bounds, DESCRIPTIVE, units[given]))
    mean = tuple(point.value for point in points)
    return Curve(
        name=name,
        axis=axis,
        mean=mean,
        low=tuple(point.low for point in points),
        high=tuple(point.high for point in points),
        n=tuple(point.n for point in points),
        area=_area(axis.values, mean),
    )


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    """Area under y(x) by the trapezoid rule, divided by the length of x; the value itself for a single point."""
    if len(x) < 2:
        return float(y[0]) if len(y) else math.nan
    x_, y_ = np.asarray(x), np.asarray(y)
    return float(np.sum(0.5 * (y_[1:] + y_[:-1]) * np.diff(x_)) / (x_[-1] - x_[0]))


def _scalars(evidence: Sequence[Evidence]) -> dict[str, float]:
    return {
        f"{e.audit}/{e.metric}/{name}": float(number)
        for e in evidence
        for name, number in (("value", e.estimate.value), ("low", e.estimate.low), ("high", e.estimate.high))
        if not math.isinf(number)
    }


# -- in and out of a checkpoint ---------------------------------------------------------------------------------------


def _plain_case(case: Case) -> Case:
    return Case(case.id, case.cluster, jsonable(case.data))


def _plain_outcome(outcome: Outcome) -> Outcome:
    values = {name: float(value) for name, value in outcome.values.items()}
    curves = {name: tuple(float(value) for value in curve) for name, curve in outcome.curves.items()}
    return Outcome(values, curves, jsonable(outcome.detail))


def _tried(row: Mapping[str, Any]) -> _Tried:
    outcome = row["outcome"]
    return _Tried(Case(**row["case"]), None if outcome is None else Outcome(**outcome), row["look"])
