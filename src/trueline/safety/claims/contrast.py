"""What decides a comparison of arms: the difference of two of their numbers, seed by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trueline.evidence.claims import Rows
from trueline.evidence.over_seeds import one_sided_p, seed_interval
from trueline.evidence.records import Estimate, Requirement

__all__ = ["Contrast"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Mean over seeds of the smallest of some numbers less another one, all of one seed: paired.

    Arms of a seed meet the same layouts in evaluation. A seed in which one of the numbers is nan has no difference, and
    a claim with such a seed is inconclusive.
    """

    least_of: tuple[str, ...]
    less: str

    def __call__(self, rows: Rows, confidence: float) -> Estimate:
        """Student's t interval of the differences."""
        return seed_interval(self.differences(rows), confidence)

    def p(self, rows: Rows, acceptance: Requirement) -> float:
        """p-value of "the acceptance is not met"; nan for fewer than eight seeds."""
        return one_sided_p(self.differences(rows), acceptance.threshold, acceptance.bound)

    def differences(self, rows: Rows) -> list[float]:
        """One number for each seed that has it."""
        found = [float(np.min([row[name] for name in self.least_of])) - row[self.less] for row in rows]
        return [x for x in found if math.isfinite(x)]
