"""What a cycle is: a first plan, audits with budgets, responses, a gate; one TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, model_validator

from trueline.core import registry
from trueline.core.config import Config, build, read_toml
from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.cycle.gate import Gate
from trueline.evidence.audit import Audit, Budget

__all__ = ["AuditUse", "CycleSpec", "Named", "make_audit", "read_cycle"]


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

    def check(self) -> None:
        """Resolve every name and setting before the first step is trained. Raises UnknownName or ConfigError."""
        self.train.settings()
        for use in self.audit:
            make_audit(use.name, use.config)
        for response in self.respond:
            make_response(response.name, response.config)


def read_cycle(path: Path | str, overrides: tuple[str, ...] = ()) -> CycleSpec:
    """The cycle in a TOML file, overridden by "key=value". Raises ConfigError naming file, line or setting."""
    return build(CycleSpec, read_toml(path), overrides, where=str(path))


def make_audit(name: str, config: Mapping[str, Any] | None = None) -> Audit:
    """The audit called `name` with these settings. Raises UnknownName, or ConfigError for a wrong setting."""
    target: Any = registry.load("audit", name)
    made = isinstance(target, type)
    if not made and config:
        raise ConfigError(f"audit {name!r} takes no settings. Leave {', '.join(config)} out.")
    audit: Audit = target(build(cast(Any, target).Config, config or {}, where=name)) if made else target
    return audit


def make_response(name: str, config: Mapping[str, Any]) -> Any:
    """The response called `name`: a callable config. Raises UnknownName, or ConfigError for a wrong setting."""
    return build(registry.load("response", name), config, where=name)
