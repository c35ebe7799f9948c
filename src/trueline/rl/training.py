"""What every training loop shares: the world asked in advance, limits, layouts, epochs, weights averaged at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import create_model
from torch import nn

from trueline.core.config import Config
from trueline.core.errors import ConfigError, Diverged
from trueline.core.progress import progress
from trueline.core.run import Run, resolve, stop_asked
from trueline.core.streams import case_seeds, split_of
from trueline.core.subject import Subject
from trueline.rl.augmentation.augment import Augmentation
from trueline.rl.augmentation.world import Augmented, augmented
from trueline.rl.env import VectorEnv
from trueline.rl.handlers.schedule import CostLimit, Limits
from trueline.rl.perturb import Disturbance, disturbed
from trueline.rl.policy import NetworkPolicy
from trueline.rl.worlds import make

__all__ = [
    "FAILED_FROM",
    "MOST_MET",
    "Averaged",
    "Loop",
    "as_trained",
    "failing_layouts",
    "held",
    "learnt_by",
    "limits_of",
    "limits_over",
    "one_world",
    "refuse_divergence",
    "run_epochs",
    "shown",
    "stated",
    "training_seeds",
    "with_default",
]

MOST_MET = 512  # training layouts a policy remembers, for the audit that compares them with unseen ones
FAILED_FROM = 1 << 31  # layout seeds from here on belong to audits (core/streams.py)

_Settings = TypeVar("_Settings", bound=Config)


# --- settings ---


def with_default(base: type[_Settings], name: str, value: Any) -> type[_Settings]:
    """`base` with `value` as the default of the setting `name`, and its kind: its settings are the keys `name.…`."""
    if base.model_fields[name].default == value and base.model_fields[name].annotation is type(value):
        return base
    fields: dict[str, Any] = {name: (type(value), value)}
    settings: type[_Settings] = create_model(base.__name__, __base__=base, **fields)
    return settings


# --- the world ---


@contextmanager
def one_world(id: str, options: Mapping[str, Any]) -> Iterator[VectorEnv]:
    """A throw-away copy of a world, to be asked what it is."""
    world = make(id, 1, **options)
    try:
        yield world
    finally:
        world.close()


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


def learnt_by(parent: Subject | None, rules: Augmentation | None) -> Mapping[str, Any] | None:
    """Parameters that a warm start under the same kind of rules came to."""
    by = parent.world.augmentation if isinstance(parent, NetworkPolicy) else None
    return by.parameters if by is not None and isinstance(rules, type(by.rules)) else None


def stated(world: Augmented) -> dict[str, float]:
    """The limits of another kind as they were set, by the name of what is logged and held against them: see `held`."""
    given = world.rules.stated(world.terms).tolist()
    return {f"constraint/{name}": limit for name, limit in zip(world.costs, given, strict=True)}


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
        mean = episode_cost.mean(axis=0) - world.limits() + rules.stated(terms)
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
        """Train for an epoch and count it; returns what is shown beside the bar."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        ...


def run_epochs(loop: Loop, run: Run, per_epoch: int, checkpoint_epochs: int) -> None:
    """Every epoch that is left, with a bar of `per_epoch` steps each, and a checkpoint every `checkpoint_epochs`.

    The last epoch leaves a checkpoint, and so does one in which a stop was asked for.
    """
    with progress(total=loop.epochs * per_epoch, label=run.manifest["name"]) as bar:
        bar.start_at(loop.epoch * per_epoch)
        while loop.epoch < loop.epochs:
            note = loop.one_epoch()
            bar.advance(per_epoch, note=note)
            if loop.epoch % checkpoint_epochs == 0 or loop.epoch == loop.epochs or stop_asked():
                run.save(loop.total_steps, loop.state_dict())


class Averaged:
    """The mean of a network's weights over the last `share` of a training's epochs."""

    def __init__(self, network: nn.Module, share: float) -> None:
        """No weights yet.  share in [0, 1): 0 averages nothing."""
        self.network, self.share = network, share
        self.mean = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        self.count = 0

    def take(self, epoch: int, epochs: int) -> None:
        """Take in the weights as they stand after `epoch` of `epochs`, once the last share has begun."""
        if self.share and epoch > epochs * (1.0 - self.share):
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


def shown(recent_return: NDArray[np.float64], recent_cost: NDArray[np.float64]) -> str:
    """What stands beside the bar.  recent_return [E], recent_cost [E, K]; "" before the first episode has ended."""
    if not len(recent_return):
        return ""
    note = f"return {recent_return.mean():.1f}"
    if recent_cost.size:
        note += " cost " + " ".join(f"{x:.1f}" for x in recent_cost.mean(0))
    return note
