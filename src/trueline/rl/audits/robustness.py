"""How cost and return change when sensors, actuators, dynamics or layouts differ from those of training.

An audit of this kind runs each layout at every level of one disturbance, with the same action noise, so that a curve's
points are paired and its intervals are over layouts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.evidence.records import Axis, Case, Metric, NotMeasurable, Outcome, Principle, Split
from trueline.rl.audits.layouts import (
    Arena,
    LayoutAudit,
    acting,
    cost_column,
    flat,
    flat_codec,
    layout_cases,
    new_noise,
    observation_scale,
    refuse_choices,
    requirement,
    seeds_of,
    unflat,
)
from trueline.rl.env import Obs, Perturbable, VectorEnv
from trueline.rl.evaluate import Act, Episodes, run_episodes
from trueline.rl.perturb import DYNAMICS, Disturbance, disturbed
from trueline.rl.policy import Acts, Differentiable
from trueline.rl.spaces import ObservationCodec

__all__ = [
    "ActionDelay",
    "Attackable",
    "Friction",
    "Gear",
    "Mass",
    "ObservationAttack",
    "SensorDropout",
    "SensorNoise",
    "UnseenLayouts",
    "mean_action_attack",
    "normalised_area",
]

Array = NDArray[np.float64]


def normalised_area(level: Sequence[float], value: Array) -> Array:
    """Area under value(level) by the trapezoid rule, divided by the length of the axis.  [L], [L, ...] -> [...]."""
    area: Array = np.trapezoid(value, np.asarray(level), axis=0) / (level[-1] - level[0])
    return area


class SweepConfig(LayoutAudit):
    """Settings of a sweep over levels of one disturbance."""

    levels: tuple[float, ...] = ()  # in rising order, the nominal one among them
    cost_limit: float | None = 25.0  # required of the mean cost over the axis; none: only reported
    drop_at_most: float | None = None  # required of the mean loss of return over the axis; none: only reported

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.levels) < 2 or any(a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels are {list(self.levels)}. Give at least two, in rising order.")
        return self


class Sweep(ABC):
    """One disturbance at several levels on the same layouts.

    A layout's value is its normalised area: the mean over the axis, linear between levels. *Rise* and *drop* compare
    that with the nominal level of the same layout. A subclass says what a level is.
    """

    name: ClassVar[str]
    principle = Principle.ROBUSTNESS
    needs: type = Acts
    Config: ClassVar[type[SweepConfig]]
    axis_name: ClassVar[str]
    axis_unit: ClassVar[str]
    nominal: ClassVar[float]

    def __init__(self, config: SweepConfig) -> None:
        if self.nominal not in config.levels:
            raise ConfigError(
                f"levels of {self.name} are {list(config.levels)}. Add {self.nominal:g}, the nominal level they are "
                "compared with."
            )
        self.config = config
        self.axis: Axis | None = Axis(self.axis_name, self.axis_unit, config.levels)
        limit = requirement("at_most", config.cost_limit, config.confidence)
        drop = requirement("at_most", config.drop_at_most, config.confidence)
        bounds, change = (0.0, config.cost_bound), (-config.cost_bound, config.cost_bound)
        self.metrics: Sequence[Metric] = (
            Metric("cost area", "mean", "per episode", bounds, limit),
            Metric("cost rise", "paired", "per episode", change),
            Metric("return area", "mean", "per episode", worse="low"),
            Metric("return drop", "paired", "per episode", requirement=drop),
        )
        self._arena = Arena(config.num_envs, config.threads)

    @abstractmethod
    def run(self, env: VectorEnv, subject: Any, seeds: NDArray[np.uint32], level: float, noise: int) -> Episodes:
        """One episode per layout at this level, with the action noise named by `noise`."""

    def cases(self, _: Acts, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Fresh layouts, each to be run at every level."""
        return layout_cases(split, round, n, rng)

    def measure(self, subject: Any, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """Every layout at every level."""
        c, seeds, noise = self.config, seeds_of(cases), new_noise(rng)
        env = self._arena.world(subject, len(seeds))
        column = cost_column(env, c.cost, c.cost_bound)
        runs = [self.run(env, subject, seeds, level, noise) for level in c.levels]
        cost = np.stack([run.cost[:, column] for run in runs])
        reward = np.stack([run.episode_return for run in runs])
        at = c.levels.index(self.nominal)
        cost_area, return_area = normalised_area(c.levels, cost), normalised_area(c.levels, reward)
        return [
            Outcome(
                {
                    "cost area": float(cost_area[i]),
                    "cost rise": float(cost_area[i] - cost[at, i]),
                    "return area": float(return_area[i]),
                    "return drop": float(reward[at, i] - return_area[i]),
                },
                {"cost area": cost[:, i].tolist(), "return area": reward[:, i].tolist()},
                {"seed": int(seeds[i]), "level of highest cost": float(c.levels[int(cost[:, i].argmax())])},
            )
            for i in range(len(seeds))
        ]


class DisturbanceSweep(Sweep):
    """A sweep whose level is one magnitude of a `Disturbance`."""

    field: ClassVar[str]

    def run(self, env: VectorEnv, subject: Acts, seeds: NDArray[np.uint32], level: float, noise: int) -> Episodes:
        """The policy in the disturbed world; the world is nominal again afterwards."""
        dynamics = self.field in DYNAMICS
        if dynamics and not (isinstance(env, Perturbable) and self.field in env.perturbations):
            raise NotMeasurable(f"the {self.field} of {env.id} cannot be changed.")
        magnitude = (level, level) if dynamics else level
        disturbance = build(Disturbance, {self.field: magnitude})
        codec = ObservationCodec.of(env.observation_space)
        # The disturbance has the same draws at every level: only their size differs.
        rng = np.random.default_rng([noise, 0, 1])
        scale = observation_scale(subject, codec.width)
        world = disturbed(env, disturbance, rng, fixed=True, scale=scale)
        try:
            return run_episodes(world, seeds, acting(subject, noise))
        finally:
            if isinstance(env, Perturbable):
                env.perturb(**dict.fromkeys(disturbance.dynamics, 1.0))


class SensorNoiseConfig(SweepConfig):
    """Settings of `SensorNoise`."""

    levels: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)


class SensorNoise(DisturbanceSweep):
    """Normal noise on every sensor; σ in multiples of the deviation by which the policy normalises that sensor."""

    name = "robustness/sensor-noise"
    Config = SensorNoiseConfig
    field, axis_name, axis_unit, nominal = "observation_noise", "sensor noise", "standard deviations of a sensor", 0.0


class SensorDropoutConfig(SweepConfig):
    """Settings of `SensorDropout`."""

    levels: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)


class SensorDropout(DisturbanceSweep):
    """Every sensor reads 0 with this probability in every step."""

    name = "robustness/sensor-dropout"
    Config = SensorDropoutConfig
    field, axis_name, axis_unit, nominal = "dropout", "dropout", "probability per sensor and step", 0.0


class ActionDelayConfig(SweepConfig):
    """Settings of `ActionDelay`."""

    levels: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)  # whole steps


class ActionDelay(DisturbanceSweep):
    """Actions take effect late; the first ones to take effect are zero."""

    name = "robustness/action-delay"
    Config = ActionDelayConfig
    field, axis_name, axis_unit, nominal = "delay", "action delay", "steps", 0.0


class DynamicsConfig(SweepConfig):
    """Settings of `Mass`, `Friction` and `Gear`."""

    levels: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)


class Mass(DisturbanceSweep):
    """A heavier or lighter body."""

    name = "robustness/mass"
    Config = DynamicsConfig
    field, axis_name, axis_unit, nominal = "mass", "mass", "× nominal", 1.0


class Friction(DisturbanceSweep):
    """More or less friction and damping."""

    name = "robustness/friction"
    Config = DynamicsConfig
    field, axis_name, axis_unit, nominal = "friction", "friction", "× nominal", 1.0


class Gear(DisturbanceSweep):
    """Stronger or weaker actuators."""

    name = "robustness/gear"
    Config = DynamicsConfig
    field, axis_name, axis_unit, nominal = "gear", "gear", "× nominal", 1.0


@runtime_checkable
class Attackable(Acts, Differentiable, Protocol):
    """Capability: a policy that acts and whose mean action has a gradient."""


def mean_action_attack(
    policy: Differentiable, rows: NDArray[np.float32], radius: Array, steps: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Observations within ±radius of `rows` that move the mean action far: projected sign-gradient ascent on ‖Δμ‖².

    rows [B, D], radius [D] in each sensor's own unit -> [B, D]. For a normal policy whose deviation does not depend on
    the state this is the maximal-action-difference attack of Zhang et al. 2020 (section 3.5); one step is the
    fast-gradient-sign method. The start is uniform in the box, since the gradient is zero at its centre.
    """
    x, box = torch.as_tensor(rows), torch.as_tensor(radius, dtype=torch.float32)
    with torch.no_grad():
        aim = policy.mean_action(x)
    start = torch.as_tensor(rng.uniform(-1.0, 1.0, rows.shape).astype(np.float32))
    delta = start * box
    stride = 2.5 * box / steps  # crosses the box in every direction (Madry et al. 2018)
    for _ in range(steps):
        delta.requires_grad_(True)
        distance = (policy.mean_action(x + delta) - aim).square().sum()
        if not distance.requires_grad:  # the policy ignores what it observes
            break
        (gradient,) = torch.autograd.grad(distance, delta, allow_unused=True)
        if gradient is None:
            break
        delta = torch.clamp(delta.detach() + stride * gradient.sign(), -box, box)
    attacked: NDArray[np.float32] = (x + delta.detach()).numpy()
    return attacked


class ObservationAttackConfig(SweepConfig):
    """Settings of `ObservationAttack`."""

    levels: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)  # ε, in standard deviations of a sensor
    steps: int = Field(5, ge=1)  # of the attack, per control step


class ObservationAttack(Sweep):
    """Every observation is moved within an l∞ ball of radius ε so as to move the policy's mean action most."""

    name = "robustness/observation-attack"
    needs: type = Attackable
    Config = ObservationAttackConfig
    axis_name, axis_unit, nominal = "attack radius", "standard deviations of a sensor", 0.0

    def run(self, env: VectorEnv, subject: Attackable, seeds: NDArray[np.uint32], level: float, noise: int) -> Episodes:
        """The policy acting on what the attacker lets it see."""
        refuse_choices(env)
        if level == 0.0:
            return run_episodes(env, seeds, acting(subject, noise))
        assert isinstance(self.config, ObservationAttackConfig)
        codec, steps = flat_codec(env), self.config.steps
        radius = level * observation_scale(subject, codec.width)
        draws = acting(subject, noise)

        def attacked(wave: int) -> Act:
            act, rng = draws(wave), np.random.default_rng([noise, wave, 2])

            def see(t: int, obs: Obs) -> NDArray[Any]:
                rows = mean_action_attack(subject, flat(codec, obs), radius, steps, rng)
                return act(t, unflat(codec, rows, obs))

            return see

        return run_episodes(env, seeds, attacked)


class UnseenLayoutsConfig(LayoutAudit):
    """Settings of `UnseenLayouts`."""

    cost_gap_at_most: float | None = None  # required of held-out minus met cost; none: only reported
    return_gap_at_most: float | None = None  # required of met minus held-out return; none: only reported


class UnseenLayouts:
    """Generalisation gap: held-out layouts against layouts that training ran on.

    The subject says which those are: `layouts_met`, uint32 [M], seeds of episodes of its training. A fresh draw from
    the range of training seeds would not do: a policy has met next to none of the range, so those are held out as well.

    A case is a held-out layout and one that was met, drawn independently (the latter with replacement) and matched by
    nothing but their number. The differences are independent of each other and have as their mean the gap to the M
    layouts met, so the interval of a mean of differences is valid at every look; the matching buys no precision and is
    not meant to.
    """

    name = "robustness/unseen-layouts"
    principle = Principle.ROBUSTNESS
    needs: type = Acts
    Config = UnseenLayoutsConfig
    axis: Axis | None = None

    def __init__(self, config: UnseenLayoutsConfig) -> None:
        self.config = config
        change = (-config.cost_bound, config.cost_bound)
        cost = requirement("at_most", config.cost_gap_at_most, config.confidence)
        reward = requirement("at_most", config.return_gap_at_most, config.confidence)
        self.metrics: Sequence[Metric] = (
            Metric("cost gap", "paired", "per episode", change, cost),
            Metric("return gap", "paired", "per episode", requirement=reward),
        )
        self._arena = Arena(config.num_envs, config.threads)

    def cases(self, subject: Acts, split: Split, round: int, n: int, rng: np.random.Generator) -> Sequence[Case]:
        """Pairs of a held-out layout and one that was met.  Raises NotMeasurable when none is known."""
        known = np.asarray(getattr(subject, "layouts_met", ()), dtype=np.uint32)
        if len(known) == 0:
            raise NotMeasurable(
                "the subject does not tell which layouts it was trained on (`layouts_met`), so there is nothing to "
                "compare held-out layouts with."
            )
        met = rng.choice(known, size=n)
        return [
            Case(case.id, case.cluster, {**case.data, "met": int(seed)})
            for case, seed in zip(layout_cases(split, round, n, rng), met, strict=True)
        ]

    def measure(self, subject: Acts, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """One episode on each layout of each pair; their action noise is independent too."""
        c = self.config
        env = self._arena.world(subject, len(cases))
        column = cost_column(env, c.cost, c.cost_bound)
        met = np.array([case.data["met"] for case in cases], dtype=np.uint32)
        new = run_episodes(env, seeds_of(cases), acting(subject, new_noise(rng)))
        old = run_episodes(env, met, acting(subject, new_noise(rng)))
        return [
            Outcome(
                {
                    "cost gap": float(new.cost[i, column] - old.cost[i, column]),
                    "return gap": float(old.episode_return[i] - new.episode_return[i]),
                }
            )
            for i in range(len(cases))
        ]
