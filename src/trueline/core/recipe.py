"""Recipes and plans: a named, typed way to train something, and one filled-in use of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trueline.core import registry
from trueline.core.config import Config, build, laid_over, parse_override
from trueline.core.errors import ConfigError, TruelineError, nearest
from trueline.core.run import Run
from trueline.core.subject import Subject

__all__ = [
    "Checks",
    "ChecksInputs",
    "Plan",
    "Recipe",
    "Rehearses",
    "Stacks",
    "TakesInputs",
    "check_config",
    "check_inputs",
    "recipe_config",
    "rehearse",
]

LIMIT = "cost_limit"  # what a recipe that keeps costs under limits calls that setting


class Recipe(Protocol):
    """A module-level value, registered by name (kind "recipe")."""

    Config: type[Config]
    presets: Mapping[str, Mapping[str, Any]]  # named settings, such as a paper's; laid over the defaults

    def train(self, config: Any, run: Run, inputs: Mapping[str, Subject]) -> Subject:
        """Make a subject. `inputs` are other subjects by role: warm start, reward model, teacher, base."""
        ...


@runtime_checkable
class Checks(Protocol):
    """Ability of a recipe: it can say, before a run exists, that settings fit nothing they name."""

    def check(self, config: Any, root: Path) -> None:
        """Raises what `train` would raise at its start, as far as that does not depend on its inputs.

        `root` is the folder of runs, where artefacts that the settings refer to lie.
        """
        ...


@runtime_checkable
class ChecksInputs(Protocol):
    """Ability of a recipe: it can say, before a run exists, that settings do not fit the inputs."""

    def check_with(self, config: Any, root: Path, inputs: Mapping[str, Path]) -> None:
        """Raises what `train` would raise at its start for these inputs, as far as no weight has to be read.

        `inputs` are folders of subjects, or of the runs that made them, by role.
        """
        ...


@runtime_checkable
class TakesInputs(Protocol):
    """Ability of a recipe: it says, before a run exists, which inputs it has a use for."""

    def inputs_of(self, config: Any) -> Mapping[str, bool]:
        """By what each is called, whether a training with these settings needs it; such as `{"policy": False}`."""
        ...


@runtime_checkable
class Rehearses(Protocol):
    """Ability of a recipe: it can say what a training would do without doing it."""

    def dry_run(self, config: Any, inputs: Mapping[str, Subject] | None, root: Path | str, seed: int) -> Any:
        """What a training with these settings would take and see; its `str` is for people."""
        ...


@runtime_checkable
class Stacks(Protocol):
    """Ability of a recipe: it trains several seeds in one process at less than the sum of their costs."""

    def check_together(self, config: Any, root: Path) -> None:
        """Raises what `check` would, and ConfigError for settings that only one seed at a time can be trained with."""
        ...

    def train_together(
        self, config: Any, runs: Sequence[Run], inputs: Mapping[str, Subject]
    ) -> Sequence[Subject | TruelineError]:
        """A subject for each run, from its last checkpoint if there is one; or what ended it before its time."""
        ...


class Plan(Config):
    """What the next round trains: a recipe, a preset, settings laid over it, and inputs by reference (run://ID).

    Responses map a plan to a plan. Settings that a round should not inherit are simply set again.
    """

    recipe: str
    preset: str | None = None
    config: Mapping[str, Any] = {}
    inputs: Mapping[str, str] = {}
    trained: str | None = None  # the run this plan produced; filled in by whoever ran it

    def setting(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key of the settings given so far (not of the recipe's defaults)."""
        here: Any = self.config
        for part in key.split("."):
            if not isinstance(here, Mapping) or part not in here:
                return default
            here = here[part]
        return here

    def with_setting(self, key: str, value: Any) -> Plan:
        """The plan with one dotted setting changed."""
        config = deepcopy(dict(self.config))
        table = config
        *path, last = key.split(".")
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key} cannot be set: {part} is not a table. Set {part} itself.")
        table[last] = value
        return self.model_copy(update={"config": config})

    def with_settings(self, settings: Mapping[str, Any]) -> Plan:
        """The plan with several dotted settings changed, one after the other."""
        plan = self
        for key, value in settings.items():
            plan = plan.with_setting(key, value)
        return plan

    def settings(self) -> Config:
        """The recipe's complete, validated configuration. Raises UnknownName or ConfigError."""
        return recipe_config(self.recipe, self.preset, self.config)


def recipe_config(
    recipe: str, preset: str | None = None, data: Mapping[str, Any] | None = None, overrides: tuple[str, ...] = ()
) -> Config:
    """Defaults, then the preset, then `data`, then dotted overrides.

    Raises UnknownName for the recipe, ConfigError for an unknown preset or a wrong setting.
    """
    found: Recipe = registry.load("recipe", recipe)
    _refuse_limits(recipe, found, [*(data or {}), *(parse_override(text)[0][0] for text in overrides)])
    base: dict[str, Any] = {}
    if preset is not None:
        if preset not in found.presets:
            known = sorted(found.presets)
            raise ConfigError(
                f"recipe {recipe!r} has no preset {preset!r}.{nearest(preset, known)} "
                f"{'It has ' + ', '.join(known) if known else 'It has none; leave the preset out'}."
            )
        base = deepcopy(dict(found.presets[preset]))
    return build(found.Config, laid_over(base, data or {}), overrides, where=recipe)


def _refuse_limits(recipe: str, found: Recipe, given: Sequence[str]) -> None:
    """Raises ConfigError where a limit is given to a recipe that knows of none, with those that are it under a limit.

    These bear its name and more, shortest first: ppo-lag, safe-loop.
    """
    if LIMIT not in given or LIMIT in found.Config.model_fields:
        return
    names = [entry.name for entry in registry.entries("recipe")]
    longer = [name for name in names if name.startswith(f"{recipe}-") or name.endswith(f"-{recipe}")]
    limited = sorted((n for n in longer if LIMIT in registry.load("recipe", n).Config.model_fields), key=len)
    instead = ", ".join(limited) or "one that `trueline list recipes` says keeps limits"
    raise ConfigError(
        f"{recipe}: {LIMIT} is given, but this recipe knows of no limit. Leave it out, or train {instead}."
    )


def check_config(recipe: str, config: Config, root: Path | str, inputs: Mapping[str, Path] | None = None) -> None:
    """Raises what the recipe has against these settings before a run is made of them, where it can say.

    `inputs` are the folders of the subjects that it is to begin with, by role.
    """
    found = registry.load("recipe", recipe)
    if isinstance(found, Checks):
        found.check(config, Path(root))
    if isinstance(found, ChecksInputs):
        found.check_with(config, Path(root), inputs or {})


def check_inputs(recipe: str, config: Config, given: Collection[str]) -> None:
    """Raises ConfigError for an input that the recipe has no use for or cannot do without, where it says what it takes.

    `given` are the inputs by what they are called.
    """
    found = registry.load("recipe", recipe)
    if not isinstance(found, TakesInputs):
        return
    taken = found.inputs_of(config)
    for role in given:
        if role not in taken:
            known = ", ".join(taken) or "none"
            raise ConfigError(f"no input is called {role!r}.{nearest(role, taken)} {recipe} takes {known}.")
    for role, needed in taken.items():
        if needed and role not in given:
            raise ConfigError(f"{recipe} needs the input {role!r} with these settings. Give it: --input {role}=RUN.")


def rehearse(
    recipe: str, config: Config, inputs: Mapping[str, Subject] | None = None, root: Path | str = "runs", seed: int = 0
) -> Any:
    """What the recipe says of a training before it begins. Raises ConfigError for a recipe that cannot say."""
    check_inputs(recipe, config, inputs or {})
    found = registry.load("recipe", recipe)
    if not isinstance(found, Rehearses):
        raise ConfigError(f"recipe {recipe!r} has no dry run. Train it with few steps.")
    return found.dry_run(config, inputs, root, seed)
