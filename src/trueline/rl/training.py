"""What training loops share: settings, the world asked in advance, limits, layouts, epochs, evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, create_model, field_validator, model_validator
from torch import nn

from trueline.core.config import Config, Harmless
from trueline.core.errors import ConfigError, Diverged
from trueline.core.progress import progress, stage
from trueline.core.run import Run, resolve
from trueline.core.stopping import stop_asked
from trueline.core.streams import case_seeds, split_of
from trueline.core.subject import Subject
from trueline.rl import worlds
from trueline.rl.augmentation.augment import Augmentation
from trueline.rl.augmentation.kinds import Expected, LimitOn, StepRate
from trueline.rl.augmentation.world import Augmented, augmented
from trueline.rl.env import VectorEnv
from trueline.rl.handlers.schedule import CostLimit, Limits
from trueline.rl.perturb import Disturbance, disturbed
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.watching import CostAccount, Evaluation, Watching
from trueline.rl.worlds import make

__all__ = [
    "ActingSettings",
    "Averaged",
    "Loop",
    "Settings",
    "account_of",
    "as_trained",
    "evaluated",
    "failing_layouts",
    "held",
    "limits_of",
    "limits_over",
    "one_world",
    "refuse_all_warm_up",
    "refuse_divergence",
    "run_epochs",
    "stated",
    "tell_rounded",
    "trained_in",
    "training_seeds",
    "training_world",
    "with_default",
]

_Settings = TypeVar("_Settings", bound=Config)


# --- settings ---


class Settings(Config):
    """Settings of every training in epochs."""

    env: str = "SafetyPointGoal1-v0"
    env_options: Mapping[str, Any] = {}  # keyword arguments of the world
    total_steps: int = Field(1_000_000, ge=1)
    steps_per_epoch: int = Field(20_000, ge=1)  # between logs
    learner_threads: int = Field(1, ge=1)  # of the networks; more than one pays from thousands of rows or pictures on
    checkpoint_epochs: Harmless[int] = Field(10, ge=1)  # epochs between checkpoints
    evaluation: Harmless[Evaluation | None] = None  # of the policy as it stands, in a world of its own; keeps the best

    @field_validator("env_options")
    @classmethod
    def _of_the_world_alone(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = sorted({"id", "num_envs", "threads"} & value.keys())
        if taken:
            raise ValueError(f"{taken[0]} is no option of a world, but how it is made. Give it beside env_options.")
        return value

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch as logs count them."""
        return self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Of the whole training; the last one is whole too."""
        return -(-self.total_steps // self.epoch_steps)


class ActingSettings(Settings):
    """Settings of every training that acts in its world; its steps are those of all environments."""

    num_envs: int = Field(1, ge=1)  # N
    layouts: tuple[str, ...] = ()  # run://ID/artefact each, listing layouts that failed an audit
    layouts_share: float = Field(0.25, gt=0, le=1)  # share of episodes that start from one of those

    @model_validator(mode="after")
    def _a_step_in_every_environment(self) -> Self:
        if self.steps_per_epoch < self.num_envs:
            raise ValueError(
                f"steps_per_epoch is {self.steps_per_epoch}, fewer than num_envs = {self.num_envs}. "
                "Give each environment at least one step."
            )
        return self

    @property
    def env_steps(self) -> int:
        """T, steps of each environment in an epoch."""
        return self.steps_per_epoch // self.num_envs

    @property
    def epoch_steps(self) -> int:
        """T·N: what N does not divide is left out."""
        return self.env_steps * self.num_envs


def refuse_all_warm_up(warm_up: int, config: Settings) -> None:
    """Raises ConfigError where learning would only begin after so many steps, and a training has fewer."""
    if config.epochs * config.epoch_steps < warm_up:
        raise ConfigError(
            f"total_steps is {config.total_steps:,}, all of it within warm_up = {warm_up:,}, before which nothing is "
            "learnt. Give a smaller warm_up, or train longer."
        )


def with_default(base: type[_Settings], name: str, value: Any) -> type[_Settings]:
    """`base` with `value` as the default of the setting `name`, and its kind: its settings are the keys `name.…`."""
    if base.model_fields[name].default == value and base.model_fields[name].annotation is type(value):
        return base
    fields: dict[str, Any] = {name: (type(value), value)}
    settings: type[_Settings] = create_model(base.__name__, __base__=base, **fields)
    return settings


# --- the world ---


def one_world(id: str, options: Mapping[str, Any]) -> closing[VectorEnv]:
    """A throw-away copy of a world, to be asked what it is."""
    return closing(make(id, 1, **options))


def training_world(config: ActingSettings, run: Run) -> VectorEnv:
    """The N environments of a training on the threads of its run, their episodes on the layouts that it trains on."""
    world = make(config.env, config.num_envs, run.manifest["threads"], **config.env_options)
    world.seed_source = training_seeds(run, config.layouts, config.layouts_share)
    return world


def limits_over(cost_limit: CostLimit | None, env: VectorEnv, root: Path | None = None) -> Limits:
    """The limits of the world's costs over a training; of no cost where `cost_limit` is None, and nothing is limited.

    root: the folder of runs, for a limit that is calibrated by one. Raises ConfigError for a world without costs, and
    as `Limits.of` does.
    """
    if cost_limit is None:
        return Limits.of(0.0, (), env.id)
    if not env.costs:
        raise ConfigError(f"{env.id} reports no cost, so nothing can be constrained. Use an unconstrained recipe.")
    return Limits.of(cost_limit, env.costs, env.id, root)


def limits_of(cost_limit: CostLimit | None, env: VectorEnv, root: Path | None = None) -> dict[str, float]:
    """Limit by cost at the end of a training, in the world's order; {} where nothing is limited. See `limits_over`."""
    return limits_over(cost_limit, env, root).final


# --- rules ---


def _played_under(
    env: VectorEnv, rules: Augmentation | None, limits: Limits, learnt: Mapping[str, Any] | None = None
) -> VectorEnv:
    """`env` as training meets it under the rules of a row; `env` itself where they are the world's own.

    learnt: parameters of the rules that an earlier training came to. Raises ConfigError for rules that do not fit the
    world or its limits, and for limits that move.
    """
    if rules is None:
        return env
    if limits.moves:
        # An episode is played to its end by the rules it began with, which hold their limit in units of their own.
        raise ConfigError(
            "cost_limit moves during the training, but the rules of this row keep the one they began with. Give one "
            "limit, or Simmer's augmentation.rise for a budget that grows."
        )
    return augmented(env, rules, limits.at(1.0), learnt)


def as_trained(
    world: VectorEnv,
    cost_limit: CostLimit | None,
    disturbance: Disturbance | None,
    rules: Augmentation | None,
    rng: np.random.Generator,
    learnt: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> VectorEnv:
    """The world as training meets it: disturbed by draws from `rng`, and around that the rules of the row.

    learnt: parameters of the rules that an earlier training came to; root: the folder of runs, for calibrated limits.
    Raises ConfigError for limits, a disturbance or rules that do not fit the world, and for rules whose limit moves.
    """
    limits = limits_over(cost_limit, world, root)
    env = disturbed(world, disturbance, rng) if disturbance else world
    return _played_under(env, rules, limits, learnt)


def trained_in(
    run: Run,
    world: VectorEnv,
    cost_limit: CostLimit | None,
    disturbance: Disturbance | None,
    rules: Augmentation | None,
    parent: Subject | None,
) -> VectorEnv:
    """`as_trained` in a run; rules go on from the parameters that a warm start under the same kind of them came to."""
    drawn = run.rng("disturbance") if disturbance else np.random.default_rng(0)
    by = parent.world.augmentation if isinstance(parent, NetworkPolicy) else None
    learnt = by.parameters if by is not None and isinstance(rules, type(by.rules)) else None
    return as_trained(world, cost_limit, disturbance, rules, drawn, learnt, run.folder.parent)


def stated(world: Augmented) -> dict[str, float]:
    """The limits of another kind as they were set, by the name of what is logged and held against them: see `held`."""
    given = world.rules.stated(world.terms).tolist()
    return {f"constraint/{name}": limit for name, limit in zip(world.costs, given, strict=True)}


def account_of(costs: Sequence[str], limits: Mapping[str, float], limit_on: LimitOn = Expected()) -> CostAccount:
    """What a training costs, and what of it lies beyond its limits; no episode's cost can lie beyond a step rate."""
    counted = limits and not isinstance(limit_on, StepRate)
    return CostAccount(costs, list(limits.values()) if counted else None)


def held(world: Augmented, episode_cost: NDArray[np.float64], limited: bool = True) -> dict[str, float]:
    """What belongs into a log of rules: what they came to, and what is held against the limits as they were set.

    episode_cost: sums [E, K] of the costs that the rules charged; not `limited` for rules that keep limits themselves.
    """
    rules, terms = world.rules, world.terms
    scalars = {
        f"constraint/{what}_{name}": float(value)
        for what, values in rules.reported(terms, world.parameters).items()
        for name, value in zip(world.costs, values, strict=True)
    }
    if limited and len(episode_cost):
        mean = (episode_cost.mean(axis=0) - world.limits()) / rules.unit(terms) + rules.stated(terms)
        scalars |= {f"constraint/{name}": float(value) for name, value in zip(world.costs, mean, strict=True)}
    return scalars


# --- layouts ---


def failing_layouts(reference: str, root: Path) -> list[int]:
    """Layout seeds of a findings artefact of a run in `root`.

    Raises RunError when there is none, ConfigError when it lists no layout, or one that is held out for verdicts.
    """
    try:
        found = json.loads(resolve(reference, root).read_text(encoding="utf-8"))
        seeds = sorted({int(f["case"]["data"]["seed"]) for f in found if "seed" in f["case"]["data"]})
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{reference} cannot be read as findings. Point `layouts` at the findings of a layout audit."
        ) from None
    if not seeds:
        raise ConfigError(f"{reference} lists no layout seed. Point `layouts` at the findings of a layout audit.")
    held_out = [seed for seed in seeds if split_of(seed)[0] == "verdict"]
    if held_out:
        raise ConfigError(
            f"{reference} lists layout {held_out[0]}, which is held out for verdicts. "
            "Train on findings of the respond split."
        )
    return seeds


def training_seeds(run: Run, layouts: Sequence[str] = (), share: float = 0.0) -> Callable[[int], NDArray[np.uint32]]:
    """The layouts of training episodes: fresh ones, and a share of those that the findings `layouts` list, if any."""
    rng = run.rng("layouts")
    failed = np.unique([seed for ref in layouts for seed in failing_layouts(ref, run.folder.parent)]).astype(np.uint32)

    def draw(n: int) -> NDArray[np.uint32]:
        fresh = case_seeds("train", 0, n, rng)
        if not len(failed):
            return fresh
        return np.where(rng.random(n) < share, rng.choice(failed, n), fresh).astype(np.uint32)

    return draw


# --- epochs ---


class Loop(Protocol):
    """A training in epochs. Its `state_dict` is everything that decides what comes next."""

    epoch: int  # done
    epochs: int  # of the whole training

    @property
    def total_steps(self) -> int:
        """Steps done, as logs count them."""
        ...

    def one_epoch(self) -> str:
        """Train to the end of an epoch and count it; returns what is shown beside the bar.

        Where epochs take long it may come back within one, and goes on from there when it is called again.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        ...


def tell_rounded(config: Settings, epochs: int, per_epoch: int) -> None:
    """One line for whoever waits, where whole epochs make more steps than were asked for."""
    if epochs * per_epoch != config.total_steps:
        stage(
            f"total_steps is {config.total_steps:,}, but an epoch is {per_epoch:,} steps and the last one is whole "
            f"too: training takes {epochs * per_epoch:,}"
        )


def run_epochs(loop: Loop, run: Run, per_epoch: int, config: Settings) -> None:
    """Every epoch that is left, with a bar of `per_epoch` steps each, and a checkpoint every `checkpoint_epochs`.

    The last epoch leaves a checkpoint, and so does a stop that was asked for, within an epoch where the loop can.
    """
    checkpoint_epochs = config.checkpoint_epochs
    tell_rounded(config, loop.epochs, per_epoch)
    with progress(total=loop.epochs * per_epoch, label=run.manifest["name"]) as bar:
        bar.start_at(loop.total_steps)
        while loop.epoch < loop.epochs:
            epoch, steps = loop.epoch, loop.total_steps
            note = loop.one_epoch()
            bar.advance(loop.total_steps - steps, note=note)
            due = loop.epoch > epoch and (loop.epoch % checkpoint_epochs == 0 or loop.epoch == loop.epochs)
            if due or stop_asked():
                run.save(loop.total_steps, loop.state_dict())


@contextmanager
def evaluated(
    config: Settings,
    run: Run,
    limits: Mapping[str, float],
    limit_on: LimitOn = Expected(),
    made: Callable[[WorldRef, int, int], VectorEnv] = worlds.of,
) -> Iterator[Callable[[int, Subject], None]]:
    """Within, the training is evaluated as its settings say, which is put before the run's own watch.

    Yields what is to be called in the end with the steps and the subject that the training came to. limits, limit_on,
    made: as `Watching` takes them.
    """
    if config.evaluation is None:
        yield lambda _steps, _subject: None
        return
    watching = Watching(config.evaluation, run, limits, config.epoch_steps, config.epochs, limit_on, made)
    run.watch = watching
    try:
        yield watching.finish
    finally:
        watching.close()


class Averaged:
    """The mean of a network's weights over the last `share` of a training's epochs."""

    def __init__(self, network: nn.Module, share: float) -> None:
        """No weights yet.  share in [0, 1): 0 averages nothing."""
        self.network, self.share = network, share
        self.mean = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        self.count = 0

    def take(self, epoch: int, epochs: int) -> None:
        """Take in the weights as they stand after `epoch` of `epochs`, once the last share has begun."""
        # Rounded, since 10·(1 − 0.9) is a little less than 1.
        if self.share and epochs - epoch < round(epochs * self.share, 9):
            self.count += 1
            for name, p in self.network.named_parameters():
                self.mean[name].lerp_(p.detach(), 1.0 / self.count)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network that mean; without any epoch taken in it keeps its own weights."""
        if self.count:
            for name, p in self.network.named_parameters():
                p.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"mean": dict(self.mean), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.mean, self.count = dict(state["mean"]), int(state["count"])


def refuse_divergence(network: nn.Module, steps: int, run: Run) -> None:
    """Raises Diverged, naming the first parameter that is not finite."""
    for name, p in network.named_parameters():
        if not torch.isfinite(p).all():
            raise Diverged(steps, name, run.last_checkpoint)
