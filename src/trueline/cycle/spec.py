"""What a cycle is: a first plan, audits with budgets, responses, a gate; one TOML file.

What a plan starts from may be trained first: each plan under `prepare` is trained once, before the first round, and
"prepared://NAME" in a later plan stands for its run. A value that a file needs in several places is written once, under
`let`: a string "$name" stands for the value of `let.name`, and "$name.key" for a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

from pydantic import Field, model_validator

from trueline.core import registry
from trueline.core.config import Config, build, parse_override, read_toml
from trueline.core.errors import ConfigError, nearest
from trueline.core.recipe import Plan
from trueline.cycle import parts
from trueline.cycle.gate import Gate
from trueline.evidence.audit import Audit, Budget

__all__ = [
    "PREPARED",
    "AuditUse",
    "ChecksPlans",
    "CycleSpec",
    "Named",
    "make_audit",
    "read_cycle",
    "refers_to_prepared",
    "with_prepared",
]

PREPARED = "prepared://"  # and the name of a prepared plan: its run


@runtime_checkable
class ChecksPlans(Protocol):
    """Ability of a response or an audit: it can say, before anything is trained, that a plan does not go with it."""

    def check(self, plan: Plan) -> None:
        """Raises what it would raise in a round of `plan`: a response for the plan that it would make of it, an audit
        for what the plan would train."""
        ...


class Named(Config):
    """A registered thing and its settings."""

    name: str
    config: Mapping[str, Any] = {}


class AuditUse(Named):
    """An audit and how many cases it may use."""

    budget: Budget = Budget()


class CycleSpec(Config):
    """Rounds of train -> audit -> respond until the gate releases or the rounds are used up."""

    name: str
    seed: int = Field(0, ge=0)
    rounds: int = Field(4, ge=1, le=63)
    threads: int = Field(1, ge=1)  # of worlds and learner; part of what makes two runs equal bit by bit
    prepare: Mapping[str, Plan] = {}  # trained in this order before the first round
    train: Plan
    audit: tuple[AuditUse, ...] = Field(min_length=1)
    respond: tuple[Named, ...] = ()
    respond_cases: int = Field(64, ge=1)  # cases per audit from which a response learns
    show: tuple[int, ...] = (7,)  # layout seeds on which every round's subject is shown
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _each_audit_once(self) -> Self:
        names = [use.name for use in self.audit]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"audit {min(twice)!r} is listed twice. List each audit once.")
        return self

    @model_validator(mode="after")
    def _prepared_before_use(self) -> Self:
        known: list[str] = []
        for name, plan in [*self.prepare.items(), ("train", self.train)]:
            for used in _prepared_in(plan.model_dump(mode="json")):
                if used not in known:
                    raise ValueError(
                        f"{name} refers to {PREPARED}{used}, which is not prepared before it.{nearest(used, known)} "
                        f"Before it there is {', '.join(known) or 'nothing'}."
                    )
            if name in self.prepare and not parts.may_be_prepared(name):
                raise ValueError(f"prepare.{name} cannot be part of a run's name. Use letters, digits and dashes.")
            known.append(name)
        for use in (*self.audit, *self.respond):
            if _prepared_in(dict(use.config)):
                raise ValueError(
                    f"{use.name} refers to {PREPARED}, which stands for runs of this cycle in plans alone. Give it the "
                    "folder of a run that is there."
                )
        return self

    def check(self, root: Path | str = "runs") -> None:
        """Resolve every name and setting before the first step is trained; `root` is the folder of runs.

        Raises UnknownName or ConfigError.
        """
        for plan in (*self.prepare.values(), self.train):
            plan.settings()
        for audit in self.audit:
            examining = make_audit(audit.name, audit.config, root)
            if isinstance(examining, ChecksPlans):
                # What the prepared ones learn, the first round's subject learns from them.
                for plan in (*self.prepare.values(), self.train):
                    examining.check(plan)
        for use in self.respond:
            response = make_response(use.name, use.config)
            if isinstance(response, ChecksPlans):
                response.check(self.train)


def read_cycle(path: Path | str, overrides: tuple[str, ...] = ()) -> CycleSpec:
    """The cycle in a TOML file, overridden by "key=value". Raises ConfigError naming file, line or setting."""
    data = read_toml(path)
    values = dict(data.pop("let", {}))
    for text in (text for text in overrides if text.startswith("let.")):
        (_, *keys), value = parse_override(text)
        if len(keys) != 1 or keys[0] not in values:
            raise ConfigError(f"{path} has no {text.partition('=')[0]}.{nearest('.'.join(keys), list(values))}")
        values[keys[0]] = value
    used: set[str] = set()
    whole = _filled_in(data, values, used, str(path))
    unused = sorted(set(values) - used)
    if unused:
        raise ConfigError(f'{path} says let.{unused[0]}, but nothing is "${unused[0]}". Use it, or take it out.')
    return build(CycleSpec, whole, [text for text in overrides if not text.startswith("let.")], where=str(path))


def refers_to_prepared(plan: Plan) -> bool:
    """Whether a plan names runs that are yet to be made."""
    return bool(_prepared_in(plan.model_dump(mode="json")))


def with_prepared(plan: Plan, id: str) -> Plan:
    """The plan with the runs that cycle `id` prepared in place of their names."""

    def named(text: str) -> str:
        return f"run://{parts.prepared(id, text.removeprefix(PREPARED))}" if text.startswith(PREPARED) else text

    return build(Plan, _mapped(plan.model_dump(mode="json"), named)) if refers_to_prepared(plan) else plan


def make_audit(name: str, config: Mapping[str, Any] | None = None, root: Path | str = "runs") -> Audit:
    """The audit called `name` with these settings; one that has a setting `root` finds runs in the folder `root`.

    Raises UnknownName, or ConfigError for a wrong setting.
    """
    target: Any = registry.load("audit", name)
    given = dict(config or {})
    if not isinstance(target, type):
        if given:
            raise ConfigError(f"audit {name!r} takes no settings. Leave {', '.join(given)} out.")
        return cast(Audit, target)
    settings: type[Config] = cast(Any, target).Config
    if "root" in settings.model_fields:
        given = {"root": str(root), **given}
    return cast(Audit, target(build(settings, given, where=name)))


def make_response(name: str, config: Mapping[str, Any]) -> Any:
    """The response called `name`: a callable config. Raises UnknownName, or ConfigError for a wrong setting."""
    return build(registry.load("response", name), config, where=name)


def _filled_in(here: Any, values: Mapping[str, Any], used: set[str], where: str) -> Any:
    """`here` with the value of `let.name` for each "$name"; the names go into `used`."""

    def value(text: str) -> Any:
        if not text.startswith("$"):
            return text
        found: Any = values
        name, *parts = text.removeprefix("$").split(".")
        for part in (name, *parts):
            if not isinstance(found, Mapping) or part not in found:
                known = list(found) if isinstance(found, Mapping) else []
                raise ConfigError(f"{where} says {text!r}, but let has no such value.{nearest(part, known)}")
            found = found[part]
        used.add(name)
        return deepcopy(found)

    return _mapped(here, value)


def _mapped(here: Any, change: Callable[[str], Any]) -> Any:
    """`here` with every string in it changed."""
    if isinstance(here, str):
        return change(here)
    if isinstance(here, Mapping):
        return {key: _mapped(value, change) for key, value in here.items()}
    return [_mapped(value, change) for value in here] if isinstance(here, list | tuple) else here


def _prepared_in(here: Any) -> list[str]:
    """Names of the prepared plans that are referred to."""
    found: list[str] = []

    def note(text: str) -> str:
        if text.startswith(PREPARED):
            found.append(text.removeprefix(PREPARED).partition("/")[0])
        return text

    _mapped(here, note)
    return found
