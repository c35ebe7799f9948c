"""Claims: one sentence of a paper, the experiment that tests it, and the rule that decides, all stated before it runs.

A claim's *scale* says what a run costs and how small an effect it could see. A scale that could not see the effect, or
costs more than is allowed, is *not attempted*; that and *inconclusive* are ordinary results. Claims that are tested
together are corrected by Holm: of twenty false ones, one would else come out as reproduced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

from trueline.core.errors import UnknownName, unknown
from trueline.core.executor import Executor, Inline
from trueline.core.files import jsonable, to_json, write_json
from trueline.core.run import Run
from trueline.evidence.over_seeds import holm
from trueline.evidence.records import Estimate, EvidenceError, Requirement, Verdict

__all__ = [
    "Claim",
    "ClaimOutcome",
    "ClaimResult",
    "Measure",
    "Scale",
    "Statistic",
    "Tests",
    "corrected",
    "run_claim",
]

ClaimOutcome = Literal["reproduced", "not reproduced", "inconclusive", "not attempted"]
Rows = Sequence[Mapping[str, float]]  # one row of named numbers per seed
_OUTCOME: dict[Verdict, ClaimOutcome] = {
    Verdict.PASS: "reproduced",
    Verdict.FAIL: "not reproduced",
    Verdict.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """One size at which a claim may be run."""

    seeds: tuple[int, ...]
    cpu_hours: float  # of all seeds together, on one core
    smallest_effect: float  # smallest effect it can detect, in the unit of the claim's effect
    params: Mapping[str, Any] = field(default_factory=dict)  # what the experiment needs to know about its size


class Measure(Protocol):
    """The experiment for one seed: a module-level function, so that another process can run it."""

    def __call__(self, scale: Scale, seed: int, folder: Path) -> Mapping[str, float]:
        """Named numbers of one seed; nan where there is none. May keep files in `folder`, its own for this seed."""
        ...


class Statistic(Protocol):
    """What decides a claim, from the rows of its seeds."""

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        """Estimate with a two-sided interval of this confidence; its `clusters` are the seeds that had a number."""
        ...


@runtime_checkable
class Tests(Protocol):
    """A statistic that also tests the acceptance, so that claims tested together can be corrected."""

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "the acceptance is not met"; nan when there are too few seeds to tell."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of a paper with the experiment and the statistic that decide it.

    `acceptance` is the requirement that the statistic's interval has to meet for *reproduced* and to miss for *not
    reproduced*, and its confidence, that of either end, decides the interval's. Statistics over seeds are in
    `claim_statistics`: fewer than eight print points and decide nothing. One over fewer seeds than the scale has
    decides nothing either: the missing seeds may be the hard ones.
    """

    system: str
    name: str
    sentence: str  # what the paper says
    source: str  # paper, section or table
    measure: Measure
    statistic: Statistic
    acceptance: Requirement
    scales: Mapping[str, Scale]  # by name: "ci", "laptop", "published"
    effect: float = math.inf  # size of the effect claimed, in the unit of the estimate; inf: any scale can see it
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What came out, with everything needed to judge it without running it again."""

    system: str
    name: str
    sentence: str
    source: str
    scale: str
    outcome: ClaimOutcome
    acceptance: Requirement
    estimate: Estimate | None  # None when not attempted
    unit: str
    per_seed: Mapping[int, Mapping[str, float]]
    cpu_hours: float  # stated before the run
    smallest_effect: float
    params: Mapping[str, Any]
    environment: Mapping[str, Any]  # versions, machine, commit
    p: float | None = None  # of "the acceptance is not met"; None when the statistic has none
    p_holm: float | None = None  # the same, adjusted for the claims it was tested with
    note: str = ""

    def to_json(self) -> str:
        """Indented strict JSON, meant to be committed; ends with a line break."""
        return to_json(asdict(self) | {"acceptance": self.acceptance.model_dump()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.  Raises EvidenceError when the text is not a claim's result."""
        try:
            row = json.loads(text)
            estimate = row["estimate"]
            if estimate is not None:
                row["estimate"] = Estimate(**estimate | {k: float(estimate[k]) for k in ("value", "low", "high")})
            row["acceptance"] = Requirement(**row["acceptance"])
            row["per_seed"] = {int(seed): _floats(values) for seed, values in row["per_seed"].items()}
            row["smallest_effect"] = float(row["smallest_effect"])
            return cls(**row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvidenceError(f"this is not a claim's result ({error}). Was the file cut off?") from error


def run_claim(
    claim: Claim,
    scale: str,
    run: Run,
    executor: Executor | None = None,
    most_cpu_hours: float = math.inf,
    others: int = 0,
) -> ClaimResult:
    """Runs the claim's seeds at the named scale and decides.

    Each finished seed is kept in the run's artefacts/seeds/SEED.json, and a killed run measures only the seeds that are
    missing. `executor` maps over seeds, one after the other without one. The result is also written to
    artefacts/claim.json. Not attempted (nothing runs): when the scale cannot detect the claimed effect, or states more
    than `most_cpu_hours`. `others` claims are tested together with this one: until they are known (see `corrected`)
    each counts as the worst it can be. Raises UnknownName for an unknown scale.
    """

    if scale not in claim.scales:
        raise UnknownName(unknown("scale", scale, claim.scales))
    size = claim.scales[scale]
    obstacle = _obstacle(claim, size, most_cpu_hours)
    if obstacle:
        result = _result(claim, scale, run, None, None, {}, obstacle)
    else:
        per_seed = _measured(claim, scale, run, executor)
        rows = [per_seed[seed] for seed in size.seeds]
        estimate = claim.statistic(rows, claim.acceptance.interval_confidence())
        p = math.nan
        if isinstance(claim.statistic, Tests) and estimate.clusters >= len(rows):
            p = claim.statistic.p(rows, claim.acceptance)
        result = _result(claim, scale, run, estimate, None if math.isnan(p) else p, per_seed, "")
        (result,) = corrected([result], others)
    run.write_text("claim.json", result.to_json())
    return result


def corrected(results: Sequence[ClaimResult], others: int = 0) -> list[ClaimResult]:
    """The results of claims that were tested together, decided again with p-values adjusted by Holm, in the same order.

    *Reproduced* needs the interval and an adjusted p of at most 1 − confidence, where the claim has a p at all; those
    without one are not counted. `others` further claims, not known yet, are counted with p = 1, which no later result
    can make worse.
    """
    p = [math.nan if result.p is None else result.p for result in results]
    adjusted = holm([*p, *[1.0] * others])[: len(p)]
    together = sum(not math.isnan(own) for own in p) + others
    return [
        _decided(replace(result, p_holm=None if math.isnan(own) else float(own)), together)
        for result, own in zip(results, adjusted, strict=True)
    ]


def _decided(result: ClaimResult, together: int) -> ClaimResult:
    """Outcome and note of an attempted claim from its estimate, its seeds and its adjusted p."""
    estimate, acceptance = result.estimate, result.acceptance
    if estimate is None:
        return result
    missing = len(result.per_seed) - estimate.clusters
    if missing > 0:
        has = "has" if missing == 1 else "have"
        note = f"{missing} of {len(result.per_seed)} seeds {has} no value, so nothing is concluded from the others"
        return replace(result, outcome="inconclusive", note=note)
    outcome = _OUTCOME[acceptance.verdict(estimate.low, estimate.high)]
    # Of one claim alone p says what the interval says, up to rounding.
    rejected = result.p_holm is None or together == 1 or result.p_holm <= 1.0 - acceptance.confidence
    if outcome == "reproduced" and not rejected:
        note = f"alone it would be reproduced; p = {result.p:.2g} is {result.p_holm:.2g} by Holm, of {together} claims"
        return replace(result, outcome="inconclusive", note=note)
    return replace(result, outcome=outcome, note="")


def _obstacle(claim: Claim, size: Scale, most_cpu_hours: float) -> str:
    """Why this scale is not attempted; empty when it is."""
    if size.smallest_effect > abs(claim.effect):
        return (
            f"the claimed effect is {claim.effect:g} {claim.unit}".rstrip()
            + f", and {len(size.seeds)} seeds detect no less than {size.smallest_effect:g}"
        )
    if size.cpu_hours > most_cpu_hours:
        return f"it takes {size.cpu_hours:g} CPU-hours, and {most_cpu_hours:g} are allowed"
    return ""


def _measured(claim: Claim, scale: str, run: Run, executor: Executor | None) -> dict[int, dict[str, float]]:
    """The rows of all seeds, those already stored for the same claim and scale reused."""
    size = claim.scales[scale]
    asked = jsonable({"claim": f"{claim.system}/{claim.name}", "scale": scale, "params": size.params})
    files = {seed: run.artefact(f"seeds/{seed}.json") for seed in size.seeds}
    missing = [seed for seed in size.seeds if _stored(files[seed], asked) is None]
    if missing:
        folder = run.artefact("seeds")
        work = partial(_measure_seed, claim.measure, size, asked, folder)
        (executor or Inline()).map(work, missing)
    return {seed: _floats(_stored(files[seed], asked) or {}) for seed in size.seeds}


def _measure_seed(measure: Measure, size: Scale, asked: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Measures one seed and stores it at once, so that it survives whatever happens to the others."""
    own = folder / str(seed)
    own.mkdir(parents=True, exist_ok=True)
    values = measure(size, seed, own)
    write_json(folder / f"{seed}.json", {"asked": asked, "seed": seed, "values": _floats(values)})


def _stored(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values in a seed's file, None when there is none or when it answers another question."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return row["values"] if row["asked"] == asked else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _result(
    claim: Claim,
    scale: str,
    run: Run,
    estimate: Estimate | None,
    p: float | None,
    per_seed: Mapping[int, Mapping[str, float]],
    note: str,
) -> ClaimResult:
    """The record of a claim, not decided yet: without an estimate it stays *not attempted*."""
    size = claim.scales[scale]
    return ClaimResult(
        system=claim.system,
        name=claim.name,
        sentence=claim.sentence,
        source=claim.source,
        scale=scale,
        outcome="not attempted" if estimate is None else "inconclusive",
        acceptance=claim.acceptance,
        estimate=estimate,
        unit=claim.unit,
        per_seed=per_seed,
        cpu_hours=size.cpu_hours,
        smallest_effect=size.smallest_effect,
        params=jsonable(size.params),
        environment={key: run.manifest[key] for key in ("python", "versions", "machine", "git")},
        p=p,
        note=note,
    )


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
