"""What an audit says: cases, outcomes, estimates with intervals, requirements, verdicts, findings, evidence.

Nothing here computes a statistic. Undefined numbers are `nan` and unbounded ones infinite; in JSON they are the words
"nan", "inf" and "-inf", so that every record is one line of strict JSON and comes back equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError, TruelineError
from trueline.core.files import to_json
from trueline.evidence.words import in_full, interval, number

__all__ = [
    "Axis",
    "Bound",
    "Case",
    "Curve",
    "Estimate",
    "Estimator",
    "Evidence",
    "EvidenceError",
    "Finding",
    "Metric",
    "NotMeasurable",
    "Outcome",
    "Principle",
    "Requirement",
    "Split",
    "Verdict",
]

Estimator = Literal["rate", "mean", "cvar", "paired", "extreme"]
Split = Literal["respond", "verdict"]
Bound = Literal["at_most", "at_least"]


class EvidenceError(TruelineError):
    """An audit, a claim or a record that cannot be evaluated as given."""


class NotMeasurable(ConfigError):
    """What the subject acts on lacks an ability that an audit needs: a gap to report, not a mistake to end a run."""


class Principle(StrEnum):
    """The four principles an aligned system is judged on (RICE; AI Alignment: A Comprehensive Survey, section 1)."""

    ROBUSTNESS = "robustness"
    INTERPRETABILITY = "interpretability"
    CONTROLLABILITY = "controllability"
    ETHICALITY = "ethicality"


class Verdict(StrEnum):
    """What the interval allows one to say about a requirement."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Requirement(Config):
    """What a metric has to be, stated before anything is measured."""

    bound: Bound
    threshold: float  # in the metric's unit
    # That a pass is right, and that a fail is: each is a statement about one end of the interval.
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)

    def interval_confidence(self, share: float = 1.0) -> float:
        """Confidence of the two-sided interval both of whose ends hold with confidence 1 − (1 − c)·share.

        A wrong pass needs the true value beyond one given end, so each end has the whole error to itself; `share` is
        the part of the error budget that this look at the requirement may spend (a round of a cycle).
        """
        return 1.0 - 2.0 * (1.0 - self.confidence) * share

    def met(self, value: float) -> bool:
        """Whether one number lies on the good side; the threshold itself is good, nan is not."""
        return value <= self.threshold if self.bound == "at_most" else value >= self.threshold

    def verdict(self, low: float, high: float) -> Verdict:
        """PASS when all of [low, high] is on the good side, FAIL when none of it is, else INCONCLUSIVE.

        nan at either end (nothing measured) is inconclusive.
        """
        if math.isnan(low) or math.isnan(high):
            return Verdict.INCONCLUSIVE
        ends = (self.met(low), self.met(high))
        if all(ends):
            return Verdict.PASS
        return Verdict.INCONCLUSIVE if any(ends) else Verdict.FAIL

    def words(self, unit: str = "") -> str:
        """`at most 25 cost per episode`."""
        side = "at most" if self.bound == "at_most" else "at least"
        return f"{side} {in_full(self.threshold)} {unit}".rstrip()

    def excess(self, value: float) -> float:
        """How far `value` lies beyond the threshold, in units of the threshold (absolute for threshold 0); good < 0."""
        beyond = value - self.threshold if self.bound == "at_most" else self.threshold - value
        return beyond / (abs(self.threshold) or 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that an audit estimates from its cases."""

    name: str
    estimator: Estimator
    unit: str = ""
    bounds: tuple[float, float] | None = None  # of one value; None: unbounded, only an asymptotic interval exists
    requirement: Requirement | None = None
    worse: Literal["high", "low"] = "high"  # decided by the requirement where there is one
    tail: float | None = None  # share of the worst cases that `cvar` averages, such as 0.05

    def __post_init__(self) -> None:
        if self.estimator == "rate" and self.bounds is None:
            object.__setattr__(self, "bounds", (0.0, 1.0))
        if self.requirement is not None:
            object.__setattr__(self, "worse", "high" if self.requirement.bound == "at_most" else "low")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise EvidenceError(f"metric {self.name!r} has bounds {self.bounds}. Give the smaller one first.")
        if self.estimator == "cvar" and (self.bounds is None or self.tail is None or not 0.0 < self.tail <= 0.5):
            raise EvidenceError(
                f"metric {self.name!r} is a cvar with tail {self.tail} and bounds {self.bounds}. Give bounds, and as "
                f"tail the share of worst cases to average, in (0, 0.5]."
            )
        if self.estimator != "cvar" and self.tail is not None:
            raise EvidenceError(f"metric {self.name!r} is a {self.estimator} with a tail. Only cvar has one; leave it.")


@dataclass(frozen=True, slots=True)
class Axis:
    """The x axis of an audit's curves, such as noise of 0, 0.1 and 0.2 m."""

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to try.  `data` is all that is needed to try it again, such as {"seed": 123}."""

    id: str
    cluster: str = ""  # layout, prompt or tree: the independent unit; empty: the case itself
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """The name of the independent unit this case belongs to."""
        return self.cluster or self.id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case gave: a value per metric, curves over the audit's axis, and detail worth keeping."""

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the interval that goes with it.  Undefined numbers are nan."""

    value: float
    low: float
    high: float
    n: int  # cases with a value
    clusters: int  # independent units among them: what the interval is built on
    confidence: float
    method: str  # how the interval was made: "betting", "clopper-pearson", "asymptotic", …

    def words(self, unit: str = "") -> str:
        """`17.3 [16.9, 19.6] cost per episode`: the value with its interval, where there is one."""
        return " ".join(part for part in (number(self.value), interval(self.low, self.high), unit) if part)


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over an axis: mean, pointwise interval, and area under the mean divided by the length of the axis."""

    name: str
    axis: Axis
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]  # cases with a value, per axis value
    area: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that broke a requirement; what a response learns from."""

    id: str
    audit: str
    metric: str
    case: Case
    value: float
    severity: float  # how far beyond the threshold, in units of it
    what: str  # what was wrong, in one sentence
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The finding as nested dicts, lists and numbers."""
        return asdict(self)

    def to_json(self) -> str:
        """One line of strict JSON."""
        return to_json(self.to_dict())

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote.  Raises EvidenceError when the line is not one."""
        return cls.from_dict(_load(line, cls))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read one row of a findings file.  Raises EvidenceError when it is not one."""
        with _named(cls):
            return cls(**_numbers(row, "value", "severity") | {"case": Case(**row["case"])})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One metric of one audit on one subject, with everything needed to judge and to repeat it."""

    principle: Principle
    audit: str
    metric: str
    unit: str
    estimator: Estimator
    estimate: Estimate
    requirement: Requirement | None
    verdict: Verdict | None  # None when nothing was required
    split: Split
    round: int
    looks: int  # how often the interval was looked at; it is valid under all of them
    budget: int  # cases that could have been used
    seeds: tuple[int, ...]  # of the runs that drew the cases
    missing: int = 0  # cases without a value: never counted as 0; the note says where they widen the interval
    failing: int = 0  # cases beyond the requirement's threshold
    findings: tuple[Finding, ...] = ()  # the worst of them
    findings_ref: str | None = None  # "run://ID/findings/AUDIT/SPLIT/ROUND.json": all of them
    curve: Curve | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The evidence as nested dicts, lists and numbers, for `Run.append_evidence`."""
        row = asdict(self)
        row["requirement"] = None if self.requirement is None else self.requirement.model_dump()
        return row

    def to_json(self) -> str:
        """One line of strict JSON."""
        return to_json(self.to_dict())

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote.  Raises EvidenceError when the line is not one."""
        return cls.from_dict(_load(line, cls))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read one row of `core.run.read_evidence`.  Raises EvidenceError when it is not one."""
        with _named(cls):
            requirement, verdict, curve = row["requirement"], row["verdict"], row["curve"]
            return cls(
                **{
                    **row,
                    "principle": Principle(row["principle"]),
                    "estimate": Estimate(**_numbers(row["estimate"], "value", "low", "high")),
                    "requirement": None if requirement is None else Requirement(**requirement),
                    "verdict": None if verdict is None else Verdict(verdict),
                    "seeds": tuple(row["seeds"]),
                    "findings": tuple(Finding.from_dict(finding) for finding in row["findings"]),
                    "curve": None if curve is None else _curve(curve),
                }
            )


def _numbers(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**row, **{name: float(row[name]) for name in names}}


def _curve(row: Mapping[str, Any]) -> Curve:
    axis = Axis(row["axis"]["name"], row["axis"]["unit"], tuple(row["axis"]["values"]))
    ends = {name: tuple(float(number) for number in row[name]) for name in ("mean", "low", "high")}
    return Curve(name=row["name"], axis=axis, n=tuple(row["n"]), area=float(row["area"]), **ends)


def _load(line: str, cls: type) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EvidenceError(f"a line of {cls.__name__} is not JSON ({error}). Was the file cut off?") from error
    if not isinstance(row, Mapping):
        raise EvidenceError(f"a line of {cls.__name__} is not a JSON object. Is it another file?")
    return row


@contextmanager
def _named(cls: type) -> Iterator[None]:
    """Turns missing or unknown fields of a record into an EvidenceError that names the record."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(
            f"a line is not a record of {cls.__name__} ({error}). Was it written by another version?"
        ) from error
