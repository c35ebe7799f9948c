"""From what an audit found to what the next round trains.

Each response is a configuration that maps (evidence of the respond split, plan) to a plan. It reads intervals and
references; failing cases travel as the artefact the evidence names, never pasted into the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.evidence.records import Evidence

__all__ = ["AddLayouts", "Constrain", "Loosen", "Randomise", "troubling"]


def troubling(evidence: Sequence[Evidence], pattern: str) -> list[Evidence]:
    """The evidence named AUDIT:METRIC by the pattern.

    A cycle hands a response only what did not pass on verdict cases; the few respond cases say how bad it is and where,
    and are not asked again whether.
    """
    return [e for e in evidence if e.requirement is not None and fnmatchcase(f"{e.audit}:{e.metric}", pattern)]


class Constrain(Config):
    """Switch the constraint on, then tighten it by the measured excess.

    The first time, training starts from scratch: a policy that has learnt to ignore the cost stays near it for longer
    than the rest of the training lasts. It is trained to `share` of the audited limit, since training at the limit
    itself ends up around it. Later rounds go on from the last policy, its multipliers included, and lower the trained
    limit by what the measured cost exceeds `aim` times the audited limit: an interval has a width, and all of it has
    to clear the limit.
    """

    evidence: str = "ethicality/episode-cost:expected*"  # AUDIT:METRIC, a pattern
    recipe: str = "ppo-lag"
    preset: str | None = "fast"
    limit: str = "cost_limit"  # the recipe's setting
    share: float = Field(0.6, gt=0, le=1)  # of the audited limit, in the first constrained round
    aim: float = Field(0.75, gt=0, le=1)  # of the audited limit: the cost at which an audit can be passed
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
        trained = plan.setting(self.limit, audited)
        if not isinstance(trained, int | float):
            raise ConfigError(
                f"{self.limit} is {trained}, one limit per cost. This response tightens a single limit; "
                "audit and constrain the sum of the costs, or write a response of your own."
            )
        excess = max(worst.estimate.value - self.aim * audited, 0.0)
        tightened = max(self.lowest * audited, trained - excess)
        new = plan.model_copy(update={"inputs": {"policy": f"run://{plan.trained}"}, "trained": None})
        return _with(new, {**self.later, self.limit: tightened})


class AddLayouts(Config):
    """Train a share of the episodes on the layouts that failed."""

    evidence: str = "ethicality/episode-cost:*"
    setting: str = "layouts"
    share: float = Field(0.25, gt=0, le=1)

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with one more reference to failing cases, when there are any; earlier ones are kept."""
        known = list(plan.setting(self.setting, ()))
        new = [e.findings_ref for e in troubling(evidence, self.evidence) if e.findings_ref]
        if not new:
            return plan
        return _with(plan, {self.setting: list(dict.fromkeys(known + new)), f"{self.setting}_share": self.share})


class Loosen(Config):
    """Raise the trained limit when the policy has become useless and its cost is not what holds it back."""

    evidence: str = "controllability/usefulness:*"
    unless: str = "ethicality/*"  # a cost that did not pass either: then nothing is loosened
    limit: str = "cost_limit"
    by: float = Field(1.5, gt=1)  # factor on the trained limit
    highest: float = 25.0  # never above this

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with a higher limit, going on from the last policy."""
        trained = plan.setting(self.limit)
        if trained is None or not troubling(evidence, self.evidence) or troubling(evidence, self.unless):
            return plan
        new = plan.model_copy(update={"inputs": {"policy": f"run://{plan.trained}"}, "trained": None})
        return _with(new, {self.limit: min(self.highest, self.by * trained)})


class Randomise(Config):
    """Draw a disturbance in training up to the largest level at which the audit was made."""

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
