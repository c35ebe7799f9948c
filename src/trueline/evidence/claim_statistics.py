"""What decides a claim from the rows of its seeds: a mean, a difference, the least of several; and what they can see.

Each makes one number of every seed, asks Student's t over seeds for its interval, and for the p-value by which claims
that are tested together are corrected. Seeds without the number are left out, and a claim with such a seed is
inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trueline.evidence.claims import Rows
from trueline.evidence.over_seeds import one_sided_p, seed_interval
from trueline.evidence.records import Estimate, Requirement

__all__ = ["Contrast", "LeastMargin", "MeanOf", "smallest_effect"]


@dataclass(frozen=True, slots=True)
class MeanOf:
    """Mean over seeds of the number called `value`."""

    value: str

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        """With the t interval over seeds."""
        return seed_interval(self._given(rows), confidence)

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "the acceptance is not met"; nan for fewer than eight seeds."""
        return one_sided_p(self._given(rows), acceptance.threshold, acceptance.bound)

    def _given(self, rows: Rows) -> list[float]:
        return _finite(row[self.value] for row in rows)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Mean over seeds of the smallest of some numbers less another one, all of one seed: paired.

    Numbers of a seed are paired where they are of the same layouts or prompts.
    """

    least_of: tuple[str, ...]
    less: str

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        """With the t interval of the differences."""
        return seed_interval(self.differences(rows), confidence)

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "the acceptance is not met"; nan for fewer than eight seeds."""
        return one_sided_p(self.differences(rows), acceptance.threshold, acceptance.bound)

    def differences(self, rows: Rows) -> list[float]:
        """One number for each seed that has it."""
        return _finite(float(np.min([row[name] for name in self.least_of])) - row[self.less] for row in rows)


@dataclass(frozen=True, slots=True)
class LeastMargin:
    """The least of several mean margins: a statement whose parts all have to hold (Berger 1982, intersection-union).

    The lower end is the least of the margins' own lower ends: it lies above the least mean only where that margin's own
    does, so every part has the whole error to itself and nothing is corrected. Of the upper ends each may be wrong, so
    each has its share of the error.
    """

    parts: tuple[str, ...]

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        """With the t interval over seeds; seeds in which a part is nan are left out of it."""
        given = self._given(rows)
        shared = 1.0 - (1.0 - confidence) / len(self.parts)
        found = [seed_interval(own, confidence) for own in given]
        # A minimum of NumPy's is nan where one part has no interval.
        return Estimate(
            value=float(np.min([one.value for one in found])),
            low=float(np.min([one.low for one in found])),
            high=float(np.min([seed_interval(own, shared).high for own in given])),
            n=min(one.n for one in found),
            clusters=min(one.clusters for one in found),
            confidence=confidence,
            method=f"least of {len(self.parts)}, {found[0].method}",
        )

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "one of the parts does not meet the acceptance": the largest of theirs."""
        return float(np.max([one_sided_p(own, acceptance.threshold, acceptance.bound) for own in self._given(rows)]))

    def _given(self, rows: Rows) -> list[list[float]]:
        return [_finite(row[part] for row in rows) for part in self.parts]


def smallest_effect(sd: float, seeds: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """Effect that a one-sided t test over seeds finds with this power: (t_c + t_power)·sd/√seeds.

    sd: standard deviation over seeds, in the unit of the effect.
    """
    from scipy.special import stdtrit

    freedom = seeds - 1.0
    return float((stdtrit(freedom, confidence) + stdtrit(freedom, power)) * sd / math.sqrt(seeds))


def _finite(numbers: Iterable[float]) -> list[float]:
    return [x for x in numbers if math.isfinite(x)]
