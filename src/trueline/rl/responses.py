"""From what an audit found to what the next round trains.

Each response is a configuration that maps (evidence of the respond split, plan) to a plan. It reads intervals and
references; failing cases travel as the artefact the evidence names, never pasted into the plan.

An audit of several costs names each in its metrics, "expected cost of NAME". The limits of a plan that has one per cost
are told apart by those names, which the recipe puts in order (`LimitsCosts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from trueline.core import registry
from trueline.core.config import Config
from trueline.core.errors import ConfigError, nearest
from trueline.core.recipe import Plan
from trueline.evidence.records import Evidence
from trueline.rl.handlers.schedule import by_name

__all__ = ["AddFindings", "Constrain", "LimitsCosts", "Loosen", "Randomise", "troubling"]


@runtime_checkable
class LimitsCosts(Protocol):
    """Ability of a recipe: it tells which costs its limits are about."""

    def limits(self, config: Any) -> Mapping[str, float]:
        """The limit each cost is trained for, by name and in the order in which the settings list them."""
        ...


def troubling(evidence: Sequence[Evidence], pattern: str) -> list[Evidence]:
    """The evidence named AUDIT:METRIC by the pattern.

    A cycle hands a response only what did not pass on verdict cases; the few respond cases say how bad it is and where,
    and are not asked again whether.
    """
    return [e for e in evidence if e.requirement is not None and fnmatchcase(f"{e.audit}:{e.metric}", pattern)]


class Constrain(Config):
    """Switch the constraint on, then tighten it by the measured excess.

    The first time, training starts where the first round did: a policy that has learnt to ignore the cost stays near it
    for longer than the rest of the training lasts. It is trained to `share` of the audited limit, since training at the
    limit itself ends up around it. Later rounds go on from the last policy, its multipliers included, and lower the
    trained limit by what the measured cost exceeds `aim` times the audited limit: an interval has a width, and all of
    it has to clear the limit.

    A single limit follows the worst of the evidence. With one limit per cost, each is moved by the evidence about its
    own cost, and one without evidence stays as it was; in the first constrained round, which has no limits to go by,
    that is what `first`, the preset or the recipe itself says.
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
        """The next plan; unchanged when the evidence passed.

        Raises ConfigError for limits per cost and evidence about none of them, or that does not say about which.
        """
        found = troubling(evidence, self.evidence)
        if not found:
            return plan
        limits: float | list[float]
        if plan.recipe != self.recipe:
            new = self._first(plan)
            if any(_cost_named(e) for e in found) and isinstance(registry.load("recipe", self.recipe), LimitsCosts):
                limits = _moved(new, found, lambda worst, _: self._begun(worst))
            else:
                limits = self._begun(_worst(found))
        else:
            new = _going_on(plan).with_settings(self.later)
            trained = plan.setting(self.limit, _audited(_worst(found)))
            if isinstance(trained, int | float):
                limits = self._tightened(_worst(found), trained)
            else:
                limits = _moved(plan, found, self._tightened)
        return new.with_setting(self.limit, limits)

    def check(self, plan: Plan) -> None:
        """Raises UnknownName or ConfigError where the constrained rounds after `plan` could not be trained."""
        first = plan if plan.recipe == self.recipe else self._first(plan)
        first.settings()
        first.with_settings(self.later).settings()

    def _first(self, plan: Plan) -> Plan:
        first = Plan(recipe=self.recipe, preset=self.preset, config=plan.config, inputs=plan.inputs)
        return first.with_settings(self.first)

    def _begun(self, worst: Evidence) -> float:
        return self.share * _audited(worst)

    def _tightened(self, worst: Evidence, trained: float) -> float:
        audited = _audited(worst)
        tightened = max(self.lowest * audited, trained - max(worst.estimate.value - self.aim * audited, 0.0))
        return min(trained, tightened)  # a limit that was below `lowest` already stays where it is


class AddFindings(Config):
    """Train a share of the episodes on the layouts that failed, or of the replies on the prompts."""

    evidence: str = "ethicality/episode-cost:*"
    setting: str = "layouts"
    share: float = Field(0.25, gt=0, le=1)

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with one more reference to failing cases, when there are any; earlier ones are kept."""
        known = list(plan.setting(self.setting, ()))
        new = [e.findings_ref for e in troubling(evidence, self.evidence) if e.findings_ref]
        if not new:
            return plan
        return plan.with_settings({self.setting: list(dict.fromkeys(known + new)), f"{self.setting}_share": self.share})


class Loosen(Config):
    """Raise the trained limit when the policy has become useless and its cost is not what holds it back.

    Which of several limits holds it back does not show in what it does, so that all of them are raised.
    """

    evidence: str = "controllability/usefulness:*"
    unless: str = "ethicality/*"  # a cost that did not pass either: then nothing is loosened
    limit: str = "cost_limit"
    by: float = Field(1.5, gt=1)  # factor on the trained limit
    highest: float | tuple[float, ...] = 25.0  # never above this; one number, or one per limit

    def __call__(self, evidence: Sequence[Evidence], plan: Plan) -> Plan:
        """The plan with a higher limit, going on from the last policy.

        Raises ConfigError for another number of highest limits than there are limits.
        """
        trained = plan.setting(self.limit)
        names = list(trained) if isinstance(trained, Mapping) and by_name(trained) else None
        if names is not None:
            trained = [trained[name] for name in names]
        if isinstance(trained, Mapping | Config):
            raise ConfigError(f"{self.limit} is a schedule, and only numbers can be raised. Give one, or one per cost.")
        if trained is None or not troubling(evidence, self.evidence) or troubling(evidence, self.unless):
            return plan
        new = _going_on(plan)
        highest = self.highest
        if not isinstance(trained, list | tuple):
            if not isinstance(highest, tuple):
                return new.with_setting(self.limit, max(trained, min(highest, self.by * trained)))
            trained = [trained] * len(highest)
        if not isinstance(highest, tuple):
            highest = (highest,) * len(trained)
        if len(highest) != len(trained):
            raise ConfigError(
                f"highest has {len(highest)} values, but {self.limit} has {len(trained)}. "
                "Give one for each, or a single number for all."
            )
        raised = [max(limit, min(most, self.by * limit)) for most, limit in zip(highest, trained, strict=True)]
        return new.with_setting(self.limit, raised if names is None else dict(zip(names, raised, strict=True)))


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
                return plan.with_setting(self.setting, [min(levels), max(levels)] if self.two_sided else max(levels))
        return plan


def _going_on(plan: Plan) -> Plan:
    """The same from the policy that the plan came to; what else it starts from stays."""
    return plan.model_copy(update={"inputs": {**plan.inputs, "policy": f"run://{plan.trained}"}, "trained": None})


def _audited(e: Evidence) -> float:
    assert e.requirement is not None  # `troubling` leaves out what nothing was required of
    return e.requirement.threshold


def _worst(found: Sequence[Evidence]) -> Evidence:
    """What lies furthest beyond its limit, in units of that limit."""
    return max(found, key=lambda e: e.requirement.excess(e.estimate.value) if e.requirement else -math.inf)


def _cost_named(e: Evidence) -> str:
    """NAME of a metric "expected cost of NAME"; empty where the audit was of one cost, which needs no name."""
    return e.metric.partition(" of ")[2]


def _moved(plan: Plan, found: Sequence[Evidence], change: Callable[[Evidence, float], float]) -> list[float]:
    """The plan's limits, those of costs that `found` is about changed by the worst evidence of each."""
    recipe = registry.load("recipe", plan.recipe)
    if not isinstance(recipe, LimitsCosts):
        raise ConfigError(
            f"recipe {plan.recipe!r} has several limits and does not say of which costs. Train to a single limit."
        )
    limits = dict(recipe.limits(plan.settings()))
    about: dict[str, list[Evidence]] = {}
    for e in found:
        name = _cost_named(e) or (next(iter(limits)) if len(limits) == 1 else "")
        if not name:
            raise ConfigError(
                f"{e.audit}:{e.metric} does not say which of the costs {', '.join(limits)} it is about. "
                "List them all as the audit's `costs`."
            )
        if name not in limits:
            raise ConfigError(
                f"{e.audit}:{e.metric} is about {name!r}, which has no limit.{nearest(name, list(limits))} "
                f"There is one for each of {', '.join(limits)}; let the response's pattern match those alone."
            )
        about.setdefault(name, []).append(e)
    return [change(_worst(about[name]), limit) if name in about else limit for name, limit in limits.items()]
