"""The public checker of constrained recipes: how far from the exact optimum does one end up?

`measure_gap` trains a recipe on CMDPs whose optimum is known and evaluates every iterate exactly. Dual methods swing
around the optimum and their average converges, so that the verdict is on the average of the last quarter of iterates,
as if one were drawn at the start of every episode; the last iterate is reported beside it.

    passed = gap ≤ 5 % and constrained ≤ d + 1 % of its span,    gap = (J* − J)/(J_unconstrained − J_safest)

An iterate is what the recipe offers to `run.offer`, once an epoch in Trueline's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from trueline.core.config import build, laid_over
from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.core.files import jsonable
from trueline.core.recipe import Checks, Recipe
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.rl.exact.catalogue import OWN, OWN_BOX
from trueline.rl.exact.cmdp import Array, Cmdp
from trueline.rl.exact.evaluate import Outcome, mixture
from trueline.rl.exact.optimum import PROBLEMS, Optimum, Problem, safest, unconstrained
from trueline.rl.exact.suite import SUITE, instance
from trueline.rl.exact.tables import outcome_of
from trueline.rl.exact.world import make
from trueline.rl.on_policy import OnPolicy

__all__ = ["GAP", "SLACK", "Gap", "InstanceGap", "Reached", "measure_gap", "on_policy_settings"]

GAP, SLACK = 0.05, 0.01  # what passes: of the range of returns, and of the span of what is constrained
QUARTER = 4

Settings = Mapping[str, Any] | Callable[[Cmdp, Problem], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reached:
    """What a policy, or a mixture of policies, attains."""

    episode_return: float
    constrained: tuple[float, ...]  # [M]
    gap: float
    passed: bool


@dataclass(frozen=True, slots=True)
class InstanceGap:
    """One training on one instance."""

    instance: str
    seed: int
    optimum: float  # J*
    unconstrained: float
    safest: float
    limit: tuple[float, ...]  # [M] d, or what the optimum itself uses where that is more (a penalty problem)
    span: tuple[float, ...]  # [M]
    average: Reached  # of the last quarter of iterates
    last: Reached
    multipliers: tuple[float, ...] | None  # [K] λ per limited quantity, mean over the same quarter
    optimal_multipliers: tuple[float, ...] | None  # λ*, in the same unit
    iterates: int
    cpu_s: float  # training and evaluation

    @property
    def passed(self) -> bool:
        """The average's verdict."""
        return self.average.passed


@dataclass(frozen=True, slots=True)
class Gap:
    """All trainings of a recipe."""

    recipe: str
    problem: str
    trainings: tuple[InstanceGap, ...]

    @property
    def passed(self) -> bool:
        """Whether every training passed."""
        return all(training.passed for training in self.trainings)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        found: dict[str, Any] = jsonable(asdict(self))
        return {**found, "passed": self.passed}

    def table(self) -> str:
        """One line per training, for people."""
        head = ("instance", "seed", "J*", "gap", "constrained", "limit", "last gap", "last constrained", "λ", "λ*")
        rows = [head, *(_row(training) for training in self.trainings)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        marks = ["", *("  passed" if training.passed else "  failed" for training in self.trainings)]
        width = max(map(len, lines))
        count = sum(training.passed for training in self.trainings)
        title = (
            f"{self.recipe} against the optimum of the {self.problem} problem: {count} of {len(self.trainings)} passed"
        )
        return "\n".join([title, *(line.ljust(width) + mark for line, mark in zip(lines, marks, strict=True))])


def _row(training: InstanceGap) -> tuple[str, ...]:
    def many(values: Iterable[float] | None) -> str:
        return "–" if values is None else " ".join(f"{value:.3g}" for value in values)

    return (
        training.instance,
        str(training.seed),
        f"{training.optimum:.3f}",
        f"{100 * training.average.gap:.1f} %",
        many(training.average.constrained),
        many(training.limit),
        f"{100 * training.last.gap:.1f} %",
        many(training.last.constrained),
        many(training.multipliers),
        many(training.optimal_multipliers),
    )


def measure_gap(
    recipe: Recipe,
    problem: str | Callable[[Cmdp], Problem] = "expected",
    instances: Sequence[str | Cmdp] | None = None,
    settings: Settings | None = None,
    seeds: Sequence[int] = (0,),
    box: bool = False,
) -> Gap:
    """Trains `recipe` on every instance with every seed and measures what it reached against the exact optimum.

    recipe: any value with `Config` and `train`, such as a row of one's own. Its Config has `env` and `env_options`,
    which are set here, as are `cost_limit` and `limit_on` (a chance, a tail) where it has them.
    problem: which optimum it claims: expected, almost-sure, chance, cvar, barrier or penalty, with parameters that
    suit each instance; or a function from an instance to a problem, such as `lambda cmdp: Penalty(cmdp.limit, 2.0)`.
    instances: names of the suite or processes of one's own; all of the suite that the problem fits unless given.
    settings: of the recipe, or a function from (instance, problem) to them. They are laid over
    `on_policy_settings` where the recipe's Config is an OnPolicy.
    box: train on one continuous action in place of a discrete one.

    Raises UnknownName for a problem or instance, ConfigError for settings or a policy that do not fit, Infeasible.
    """
    if isinstance(problem, str) and problem not in PROBLEMS:
        raise UnknownName(unknown("exact problem", problem, list(PROBLEMS)))
    posed = PROBLEMS[problem] if isinstance(problem, str) else problem
    given = SUITE.values() if instances is None else [instance(x) if isinstance(x, str) else x for x in instances]
    chosen = [(cmdp, posed(cmdp)) for cmdp in given if instances is not None or _fits(posed, cmdp)]
    name = str(getattr(recipe, "name", type(recipe).__name__))
    optima = [what.solve(cmdp) for cmdp, what in chosen]
    found = tuple(
        _measured(name, recipe, what, cmdp, optimum, settings, seed, box)
        for (cmdp, what), optimum in zip(chosen, optima, strict=True)
        for seed in seeds
    )
    return Gap(name, chosen[0][1].name, found)


def _fits(posed: Callable[[Cmdp], Problem], cmdp: Cmdp) -> bool:
    """Problems about the law of a cost are about one cost."""
    return len(cmdp.costs) == 1 or not getattr(getattr(posed, "__self__", None), "needs_law", False)


def _measured(
    name: str,
    recipe: Recipe,
    problem: Problem,
    cmdp: Cmdp,
    optimum: Optimum,
    settings: Settings | None,
    seed: int,
    box: bool,
) -> InstanceGap:
    best, safe = unconstrained(cmdp).value, safest(cmdp).value
    if not best > safe:
        raise ConfigError(f"the safest policy of {cmdp.name!r} is its best: no gap can be measured. Take another one.")
    began = time.process_time()
    seen = _iterates(name, recipe, _settled(recipe, problem, cmdp, settings, box), problem, cmdp, seed)
    quarter = seen[-max(1, round(len(seen) / QUARTER)) :]
    # A penalty that is too small to hold the limit has an optimum beyond it: that is what is aimed at.
    aim = np.maximum(problem.limit, optimum.constrained)
    span = problem.span(cmdp)

    def reached(outcome: Outcome) -> Reached:
        gap, constrained = (optimum.value - outcome.episode_return) / (best - safe), problem.constrained(outcome)
        passed = gap <= GAP and bool((constrained <= aim + SLACK * span).all())
        return Reached(outcome.episode_return, tuple(constrained.tolist()), gap, passed)

    multipliers = [iterate.multipliers for iterate in quarter if iterate.multipliers is not None]
    return InstanceGap(
        cmdp.name,
        seed,
        optimum.value,
        best,
        safe,
        tuple(aim.tolist()),
        tuple(span.tolist()),
        reached(mixture([iterate.outcome for iterate in quarter])),
        reached(seen[-1].outcome),
        tuple((problem.unit * np.mean(multipliers, axis=0)).tolist()) if multipliers else None,
        None if optimum.multipliers is None else tuple(optimum.multipliers.tolist()),
        len(seen),
        time.process_time() - began,
    )


@dataclass(frozen=True, slots=True)
class _Iterate:
    outcome: Outcome
    multipliers: Array | None


def _iterates(name: str, recipe: Recipe, config: Any, problem: Problem, cmdp: Cmdp, seed: int) -> list[_Iterate]:
    """Every subject that one training offers, evaluated exactly; the finished one where it offers none."""
    seen: list[_Iterate] = []
    world = make(config.env, 1, **config.env_options)

    def look(_: int, subject: Subject) -> None:
        multipliers = getattr(subject, "multipliers", None)
        seen.append(
            _Iterate(
                outcome_of(subject, world, problem.needs_law),
                None
                if multipliers is None
                else np.asarray(
                    multipliers.tolist() if hasattr(multipliers, "tolist") else multipliers, dtype=np.float64
                ),
            )
        )

    with TemporaryDirectory() as folder:
        root = Path(folder)
        if isinstance(recipe, Checks):
            recipe.check(config, root)
        with Run.create(root, kind="train", name=f"{name}-{cmdp.name}", config=config, seed=seed) as run:
            run.watch = look
            subject = recipe.train(config, run, {})
    if not seen:
        look(0, subject)
    return seen


# --- settings ---

ENVS, EPISODES, EPOCHS = 64, 256, 300  # of a training: environments, episodes an epoch, epochs


def _settled(recipe: Recipe, problem: Problem, cmdp: Cmdp, settings: Settings | None, box: bool) -> Any:
    """The complete configuration of a training."""
    fields = recipe.Config.model_fields
    missing = {"env", "env_options"} - set(fields)
    if missing:
        raise ConfigError(
            f"{recipe.Config.__name__} has no setting {', '.join(sorted(missing))}. Add what it trains in."
        )
    base = on_policy_settings(recipe.Config, cmdp) if issubclass(recipe.Config, OnPolicy) else {}
    own = settings(cmdp, problem) if callable(settings) else settings or {}
    world = {"env": OWN_BOX if box else OWN, "env_options": {"cmdp": cmdp.to_json()}}
    limits: dict[str, Any] = {"cost_limit": list(problem.cost_limit)} if "cost_limit" in fields else {}
    if "limit_on" in fields and problem.limit_on:
        limits["limit_on"] = dict(problem.limit_on)
    return build(recipe.Config, {**laid_over({**limits, **base}, own), **world}, where="measure_gap")


def on_policy_settings(config: type[OnPolicy], cmdp: Cmdp) -> dict[str, Any]:
    """Settings with which an on-policy row learns a tabular policy in seconds.

    Undiscounted values, tables in place of networks, whole batches of 256 episodes, λ in reward per cost, and for
    updates that follow a gradient no early stop on the KL. What the row does not have is left out; its constraint
    handler, and what belongs to its update alone, stay as they are, but for the length of an episode.
    """
    steps = EPISODES * cmdp.horizon
    every: dict[str, Any] = {
        "num_envs": ENVS,
        "steps_per_epoch": steps,
        "total_steps": EPOCHS * steps,
        "gamma": 1.0,
        "cost_gamma": 1.0,
        "actor": {"hidden": [], "last_gain": 0.01},
        "critic": {"hidden": []},
        "window": EPISODES,
        "checkpoint_epochs": EPOCHS,
    }
    update = config.model_fields["update"].default
    if update.takes == "mixed":
        every["standardise"] = "mix"
    own = type(update).model_fields
    every["update"] = {"passes": 4, "minibatch": steps, "critic_lr": 0.05}
    every["update"] |= {"lr": 0.02, "target_kl": None} if "lr" in own else {}
    every["update"] |= {"critic_schedule": "linear"} if "critic_schedule" in own else {}
    every["update"] |= {"horizon": cmdp.horizon} if "horizon" in own else {}
    return {key: value for key, value in every.items() if key in config.model_fields}
