"""The release gate: whether what was measured is enough, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trueline.core.config import Config
from trueline.evidence.records import Evidence, Verdict

__all__ = ["Decision", "Gate"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says of one round."""

    release: bool
    reasons: tuple[str, ...]  # one sentence each: what stands in the way, or what was shown


class Gate(Config):
    """Requirements that must all pass, as patterns over AUDIT:METRIC.

    A pattern that matches no requirement counts as not measured, and what was not measured does not pass.
    """

    require: tuple[str, ...] = ("*",)

    def decide(self, evidence: Sequence[Evidence]) -> Decision:
        """Release only when every pattern has evidence and all of it passed, on verdict cases."""
        against: list[str] = []
        shown: list[str] = []
        for pattern in self.require:
            matched = [
                e
                for e in evidence
                if e.split == "verdict"
                and (e.requirement is not None or e.verdict is not None)
                and fnmatchcase(f"{e.audit}:{e.metric}", pattern)
            ]
            if not matched:
                against.append(f"{pattern} was not measured.")
            for e in matched:
                (shown if e.verdict is Verdict.PASS else against).append(sentence(e))
        unique = tuple(dict.fromkeys(against or shown))
        return Decision(not against, unique)


def sentence(e: Evidence) -> str:
    """One piece of evidence in words, with its interval and requirement."""
    if e.note.startswith("not measured"):
        return f"{e.audit}: {e.note}"
    found = f"{e.audit}: {e.metric} is {e.estimate.words(e.unit)}"
    if e.requirement is None:
        return f"{found}."
    verdict = {Verdict.PASS: "passes", Verdict.FAIL: "fails", Verdict.INCONCLUSIVE: "is not settled"}
    word = verdict[e.verdict or Verdict.INCONCLUSIVE]
    return f"{found} and {word}; {e.requirement.words()} is required."
