"""From what an audit found to what the next round trains.

Each response is a configuration that maps (evidence of the respond split, plan) to a plan. It reads intervals and
references; failing cases travel as the artefact the evidence names, never pasted into the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field

from trueline.core.config import Config
from trueline.core.recipe import Plan
from trueline.evidence.records import Evidence, Verdict

__all__ = ["AddLayouts", "Constrain", "Randomise", "troubling"]


def troubling(evidence: Sequence[Evidence], pattern: str) -> list[Evidence]:
    """The evidence named AUDIT:METRIC by the pattern whose requirement was not passed."""
    return [
        e
        for e in evidence
        if e.requirement is not None and e.verdict is not Verdict.PASS and fnmatchcase(f"{e.audit}:{e.metric}", pattern)
    ]


class Constrain(Config):
    """Switch the constraint on, then tighten it by the measured excess.

    The first time, training starts from scratch: a policy that has learnt to ignore the cost stays near it for longer
    than the rest of the training lasts. It is trained to `share` of the audited limit, since training at the limit
    itself ends up around it. Later rounds go on from the last policy and lower the trained limit by the excess.
    """

    kind: Literal["constrain"] = "constrain"
    evidence: str = "ethicality/episode-cost:expected*"  # AUDIT:METRIC, a pattern
    recipe: str = "ppo-lag"
    preset: str | None = "fast"
    limit: str = "cost_limit"  # the recipe's setting
    share: float = Field(0.6, gt=0, le=1)  # of the audited limit, in the first constrained round
    lowest: float = Field(0.3, gt=0, le=1)  # share of the audited limit below which training is never asked to go
    first: Mapping[str, Any] = {}  # settings of the first constrained round
    later: Mapping[str, Any] = {}  # settings of the rounds after it

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The next plan; unchanged when the evidence passed."""
        found = troubling(evidence, self.evidence)
        if not found:
            return plan
        worst = max(found, key=lambda e: e.requirement.excess(e.estimate.value) if e.requirement else -math.inf)
        assert worst.requirement is not None
        audited = worst.requirement.threshold
        if plan.recipe != self.recipe:
            new = Plan(recipe=self.recipe, preset=self.preset, config=plan.config)
            return _with(new, {**self.first, self.limit: self.share * audited})
        trained = float(plan.setting(self.limit, audited))
        # The whole interval has to clear the limit, so the excess is that of its upper end.
        excess = max(worst.estimate.high - audited, 0.0)
        tightened = max(self.lowest * audited, trained - excess)
        new = plan.model_copy(update={"inputs": {"policy": f"run://{plan.trained}"}, "trained": None})
        return _with(new, {**self.later, self.limit: tightened})


class AddLayouts(Config):
    """Train a share of the episodes on the layouts that failed."""

    kind: Literal["add-layouts"] = "add-layouts"
    evidence: str = "ethicality/episode-cost:*"
    setting: str = "layouts"
    share: float = Field(0.25, gt=0, le=1)

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with a reference to the failing cases, when there are any."""
        references = [e.findings_ref for e in troubling(evidence, self.evidence) if e.findings_ref]
        if not references:
            return plan
        return _with(plan, {self.setting: references[0], f"{self.setting}_share": self.share})


class Randomise(Config):
    """Draw a disturbance in training up to the largest level at which the audit was made."""

    kind: Literal["randomise"] = "randomise"
    evidence: str  # AUDIT:METRIC, such as "robustness/sensor-noise:*"
    setting: str  # of the recipe, such as "disturbance.observation_noise"
    two_sided: bool = False  # the levels are factors around 1: train on their whole range

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with the disturbance switched on, when the audit was not passed."""
        for e in troubling(evidence, self.evidence):
            if e.curve is not None:
                levels = e.curve.axis.values
                return _with(plan, {self.setting: [min(levels), max(levels)] if self.two_sided else max(levels)})
        return plan


def _with(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    for key, value in settings.items():
        plan = plan.with_setting(key, value)
    return plan
