"""How much of a policy's safety is its filter's work: how often it steps in, how far, and what the policy does alone.

A filter that never steps in is idle, one that always does is the policy. Neither is wrong, but a low cost that rests on
interventions holds only as long as the filter is there and its model is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trueline.evidence.records import Axis, Case, Metric, Outcome, Principle, Split
from trueline.rl.audits.layouts import (
    Arena,
    LayoutAudit,
    acting,
    cost_column,
    layout_cases,
    new_noise,
    refuse_choices,
    requirement,
    seeds_of,
    waves,
)
from trueline.rl.env import Obs, Step
from trueline.rl.evaluate import Act, run_episodes
from trueline.rl.filters.filtered import Filters
from trueline.rl.filters.projection import Projected

__all__ = ["Intervention", "InterventionConfig"]

Array = NDArray[np.float64]


class InterventionConfig(LayoutAudit):
    """Settings of `Intervention`."""

    at_most: float | None = Field(None, ge=0, le=1)  # required rate of intervention; none: only reported


@dataclass(slots=True)
class _Taken:
    """Sums over the steps of n episodes that were played behind the filter."""

    intervened: Array  # [n] steps in which the action was changed
    moved: Array  # [n] Σ‖u − a‖ over those
    infeasible: Array  # [n] steps in which no action was safe
    steps: Array  # [n]


class Intervention:
    """Rate and size of a filter's interventions, and cost and return with it less those without, paired by layout."""

    name = "controllability/intervention"
    principle = Principle.CONTROLLABILITY
    needs: type = Filters
    Config = InterventionConfig
    axis: Axis | None = None

    def __init__(self, config: InterventionConfig) -> None:
        self.config = config
        rate = requirement("at_most", config.at_most, config.confidence)
        bound = config.cost_bound
        self.metrics: Sequence[Metric] = (
            Metric("intervention rate", "mean", "of steps", (0.0, 1.0), rate),
            Metric("episodes with an intervention", "rate"),
            Metric("steps without a safe action", "mean", "of steps", (0.0, 1.0)),
            Metric("distance moved per intervention", "mean"),
            Metric("cost because of the filter", "paired", "per episode", (-bound, bound)),
            Metric("return because of the filter", "paired", worse="low"),
        )
        self._arena = Arena(config.num_envs, config.threads)

    def cases(self, _: Filters, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Fresh layouts."""
        return layout_cases(split, round, n, rng)

    def measure(self, subject: Filters, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """Two episodes per layout, with the filter and without, with the same action noise."""
        c, seeds, noise = self.config, seeds_of(cases), new_noise(rng)
        env = self._arena.world(subject, len(seeds))
        column = cost_column(env, c.cost, c.cost_bound)
        refuse_choices(env)
        outcomes: list[Outcome | None] = []
        for wave, here in waves(env, seeds):
            behind = _Recorded(subject, acting(subject.policy, noise)(wave), len(here))
            filtered = run_episodes(env, here, behind.begin, behind.watch)
            alone = run_episodes(env, here, _once(acting(subject.policy, noise)(wave)))
            taken = behind.taken
            for i, seed in enumerate(here):
                steps, changed = taken.steps[i], taken.intervened[i]
                values = {
                    "intervention rate": float(changed / steps),
                    "episodes with an intervention": float(changed > 0),
                    "steps without a safe action": float(taken.infeasible[i] / steps),
                    "cost because of the filter": float(filtered.cost[i, column] - alone.cost[i, column]),
                    "return because of the filter": float(filtered.episode_return[i] - alone.episode_return[i]),
                }
                if changed:  # without one there is no distance, and 0 would be another statement
                    values["distance moved per intervention"] = float(taken.moved[i] / changed)
                detail = {"seed": int(seed), "cost with": float(filtered.cost[i, column])}
                outcomes.append(Outcome(values, detail=detail))
        return outcomes


class _Recorded:
    """The policy's actor with its filter behind it, and an account of what the filter did in one wave."""

    def __init__(self, subject: Filters, act: Act, n: int) -> None:
        self._filter, self._act, self._n = subject.filter, act, n
        self._last: Projected | None = None
        self._distance = np.zeros(0)
        self.taken = _Taken(*np.zeros((4, n)))

    def begin(self, _: int) -> Act:
        """The actor of its one wave."""
        return self

    def __call__(self, t: int, obs: Obs) -> NDArray[Any]:
        wanted = self._act(t, obs)
        self._last = self._filter(obs, wanted)
        self._distance = np.linalg.norm(self._last.action - np.clip(wanted, -1.0, 1.0), axis=1)
        return self._last.action

    def watch(self, _t: int, _actions: NDArray[Any], _step: Step, counted: NDArray[np.bool_]) -> None:
        """Count the step just taken, of the episodes that were still running."""
        assert self._last is not None
        n, taken = self._n, self.taken
        running = counted[:n].astype(np.float64)
        taken.intervened += running * self._last.intervened[:n]
        taken.moved += running * self._distance[:n]
        taken.infeasible += running * ~self._last.feasible[:n]
        taken.steps += running


def _once(act: Act) -> Any:
    return lambda _: act
