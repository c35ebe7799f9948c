"""Limits that are not one number: a path over the training, or a share of what an unlimited policy cost.

Every loop asks the same value, `Limits.at`, with the share of its training that is done; handlers, slacks and barriers
are given the limit of the moment and know of no schedule. What a training is about in the end, the limit that is
reported, drawn and selected by, is the one at its end.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError, nearest
from trueline.core.metrics import read_metrics
from trueline.core.run import read_manifest, resolve

__all__ = ["Calibrated", "CostLimit", "Limits", "Linear", "PerCost", "Steps", "by_name", "in_order", "reference_cost"]


def by_name(table: Mapping[str, Any]) -> bool:
    """Whether a table has limits by the names of costs, and not the settings of a limit that moves or is calibrated."""
    settings = {key for kind in (Linear, Steps, Calibrated) for key in kind.model_fields}
    return not table or not settings.issuperset(table)


def _costs_named(table: Mapping[str, float]) -> Mapping[str, float]:
    if not by_name(table):
        raise ValueError("a table has the limit of each cost by its name, or all that a limit of some `kind` needs.")
    return table


Named = Annotated[Mapping[str, float], AfterValidator(_costs_named)]
PerCost = float | tuple[float, ...] | Named  # one number for all costs, one for each in order, or one for each by name


class Linear(Config):
    """From one limit to another: d(x) = start up to share `begin` of the training, end from `until` on, a line between.

    The first epoch is at x = 0, the last at x = 1.
    """

    kind: Literal["linear"] = "linear"
    start: PerCost
    end: PerCost
    begin: float = Field(0.0, ge=0, lt=1)
    until: float = Field(1.0, gt=0, le=1)

    @field_validator("until")
    @classmethod
    def _moves_forward(cls, until: float, info: ValidationInfo) -> float:
        begin = info.data.get("begin", 0.0)
        if until <= begin:
            raise ValueError(f"until is {until:g}, but the line begins at {begin:g}. Give a later share.")
        return until


class Steps(Config):
    """One limit after another: values[0] at first, values[i + 1] from share at[i] of the training on."""

    kind: Literal["steps"] = "steps"
    values: tuple[PerCost, ...] = Field(min_length=2)
    at: tuple[float, ...]

    @field_validator("at")
    @classmethod
    def _one_share_for_each_change(cls, at: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        values = info.data.get("values", at + (0.0,))
        if len(at) != len(values) - 1:
            raise ValueError(
                f"at has {len(at)} shares for {len(values)} values. Give one share for each change of value."
            )
        if list(at) != sorted(set(at)) or not all(0.0 < share <= 1.0 for share in at):
            raise ValueError(f"at is {list(at)}. Give rising shares of the training, above 0 and up to 1.")
        return at


class Calibrated(Config):
    """d = share·J_C of the policy that an earlier run came to, usually one that knew of no limit.

    J_C is the mean of that run's own log over the last `last` share of its steps: what its policy cost, stochastic as
    it was trained.
    """

    kind: Literal["calibrated"] = "calibrated"
    run: str  # run://ID, or its folder
    share: float = Field(0.5, gt=0)
    last: float = Field(0.1, gt=0, le=1)


# Tables are told apart by `kind`, or else name costs. The last is asked last: of a kind that lacks a setting, what it
# lacks is told.
CostLimit = float | tuple[float, ...] | Linear | Steps | Calibrated | Named


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """d of each of K costs over a training."""

    names: tuple[str, ...]
    shares: NDArray[np.float64]  # [P] rising shares of the training
    values: NDArray[np.float64]  # [P, K] limits at (a line) or from (steps) these shares
    line: bool = False

    @classmethod
    def of(cls, cost_limit: CostLimit, names: Sequence[str], world: str, root: Path | None = None) -> Self:
        """The limits that the setting `cost_limit` gives the costs `names` of `world`.

        root: the folder of runs, needed where the limit is calibrated by one. Raises ConfigError for another number of
        limits than costs, other names than theirs, a limit below 0, or a run that does not say what its policy cost.
        """

        def each(given: PerCost) -> list[float]:
            return _one_for_each(given, tuple(names), world)

        line = isinstance(cost_limit, Linear)
        if isinstance(cost_limit, Linear):
            shares, values = [cost_limit.begin, cost_limit.until], [each(cost_limit.start), each(cost_limit.end)]
        elif isinstance(cost_limit, Steps):
            shares, values = [0.0, *cost_limit.at], [each(value) for value in cost_limit.values]
        elif isinstance(cost_limit, Calibrated):
            cost = reference_cost(cost_limit, names, world, root)
            shares, values = [0.0], [each(tuple((cost_limit.share * cost).tolist()))]
        else:
            shares, values = [0.0], [each(cost_limit)]
        return cls(tuple(names), np.array(shares), np.array(values).reshape(len(shares), len(names)), line)

    @property
    def moves(self) -> bool:
        """Whether any of them changes during the training."""
        return bool((self.values != self.values[0]).any())

    def at(self, progress: float) -> NDArray[np.float64]:
        """d [K] when `progress` in [0, 1] of the training is done."""
        if self.line:
            return np.array([np.interp(progress, self.shares, column) for column in self.values.T])
        held: NDArray[np.float64] = self.values[np.searchsorted(self.shares, progress, side="right") - 1]
        return held

    def in_epoch(self, epoch: int, epochs: int) -> NDArray[np.float64]:
        """d [K] of epoch number `epoch`, counted from 0, of `epochs`: the last one has the limit of the end."""
        return self.at(epoch / (epochs - 1) if epochs > 1 else 1.0)

    def logged(self, limit: NDArray[np.float64]) -> dict[str, float]:
        """What of the limits [K] of the moment belongs into a log: nothing where they stay what they are."""
        if not self.moves:
            return {}
        return {f"constraint/limit_{name}": value for name, value in zip(self.names, limit.tolist(), strict=True)}

    @property
    def final(self) -> dict[str, float]:
        """Limit by cost at the end."""
        return dict(zip(self.names, self.at(1.0).tolist(), strict=True))


def reference_cost(calibration: Calibrated, names: Sequence[str], world: str, root: Path | None) -> NDArray[np.float64]:
    """J_C [K] of the run that a limit is calibrated by: means of train/NAME over the last of its steps.

    Raises ConfigError for a run that has not finished, is of another world, or whose log has no such cost; RunError
    where there is none.
    """
    if root is None and calibration.run.startswith("run://"):
        raise ConfigError(
            f"cost_limit is calibrated by {calibration.run}, which is known only where the folder of runs is. "
            "Give the limit as a number here."
        )
    folder = resolve(calibration.run, root or Path())
    manifest = read_manifest(folder)
    status, of = manifest["status"], tomllib.loads(manifest["config"]).get("env", world)
    if of != world:
        raise ConfigError(
            f"cost_limit is calibrated by {calibration.run}, which is of {of}, not of {world}. "
            "Give a run of the same world."
        )
    if status != "done":
        raise ConfigError(
            f"cost_limit is calibrated by {calibration.run}, which is {status}. Let it finish: its cost may change yet."
        )
    keys = [f"train/{name}" for name in names]
    lines = [line for line in read_metrics(folder / "metrics.jsonl", keys) if all(key in line for key in keys)]
    if not lines:
        raise ConfigError(
            f"cost_limit is calibrated by {calibration.run}, whose log has no {' and '.join(keys)}. "
            "Give a run of the same world that learnt by acting in it."
        )
    begin = (1.0 - calibration.last) * lines[-1]["step"]
    kept = [line for line in lines if line["step"] > begin]
    return np.array([[line[key] for key in keys] for line in kept]).mean(axis=0)


def _one_for_each(given: PerCost, names: tuple[str, ...], world: str) -> list[float]:
    """Limits in the order of `names`; one number stands for all."""
    if isinstance(given, Mapping):
        given = in_order(given, names, world)
    limits = list(given) if isinstance(given, tuple) else [given] * len(names)
    if len(limits) != len(names):
        raise ConfigError(
            f"cost_limit has {len(limits)} values, but {world} reports {len(names)} costs "
            f"({', '.join(names)}). Give one limit per cost, or a single number for all."
        )
    wrong = [limit for limit in limits if not (math.isfinite(limit) and limit >= 0.0)]
    if wrong:
        raise ConfigError(
            f"cost_limit is {wrong[0]}, but the costs of a world are finite and 0 or more. "
            "Give a finite limit of 0 or more."
        )
    return limits


def in_order(given: Mapping[str, float], names: tuple[str, ...], world: str) -> tuple[float, ...]:
    """The limits by name in the order of `names`, which are the costs of `world`.

    Raises ConfigError for a name that is none of them, and where one of them has no limit.
    """
    reported = f"{world} reports {', '.join(names)}"
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        # A world counts all that it forbids as one cost, unless it is asked for each.
        apart = " A world that can tell its costs apart does so with env_options.costs=split."
        raise ConfigError(
            f"cost_limit has a limit for {unknown!r}, but {reported}.{nearest(unknown, names)} Give one for each of "
            f"these, or a single number for all.{apart if names == ('cost_sum',) else ''}"
        )
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError(
            f"cost_limit has no limit for {', '.join(missing)}, but {reported}. Give one for each of these, or a "
            "single number for all."
        )
    return tuple(given[name] for name in names)
