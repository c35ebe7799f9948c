"""The offline loop, written once: draw rows of a recorded data set, take gradient steps, weigh reward against costs.

A row of the table is an `OfflineRecipe`: the update, what its configuration says of costs, its presets. The world is
asked for its spaces, its costs and the length of an episode, and stepped in evaluations alone, which teach nothing.

What holds for every row:

* A limit is an undiscounted cost per episode, as everywhere. Where a multiplier has to move, the policy's cost is
  predicted as the mean of Q_c(s₀, π) over the data's first states, which estimates the *discounted* cost of an
  episode, and is compared with the limit in that unit:

      d̃ = d·(1 − γ_cᵀ)/((1 − γ_c)·T)

  the discounted cost of an episode of T steps that costs d/T in each. At γ_c = 1 that is d. The originals compare Q_c
  at all recorded states with d itself.
* The multiplier moves with every gradient step, from `multiplier_after` on: unlearnt critics steer nothing.
* Time cuts an episode off without ending the task; which of the two a `done` of a user's file means is a setting.
* Observations are normalised, where they are, by the data's statistics, which stand still and stay with the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.core.progress import stage
from trueline.core.run import Run, resolve
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl.env import VectorEnv
from trueline.rl.handlers.constraint import Handler, HandlerState, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.schedule import CostLimit, Limits
from trueline.rl.networks import ActorCritic
from trueline.rl.off_policy.networks import QNetwork
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.off_policy.training import value_limit
from trueline.rl.offline.behaviour_cloning import Cloning
from trueline.rl.offline.data import DoneMeans, OfflineData, Units, normalised_scores, read, unnamed
from trueline.rl.offline.terms import Plan, Terms
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.training import (
    Settings,
    evaluated,
    limits_of,
    limits_over,
    one_world,
    refuse_divergence,
    run_epochs,
    with_default,
)

Constraint = Lagrangian | PidLagrangian  # told apart by `kind`


class Learns(Protocol):
    """What the gradient steps of a run change."""

    @property
    def network(self) -> ActorCritic:
        """Policy and critics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the next gradient step depends on, beside the network itself."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        ...


class Update(Protocol):
    """How a policy is learnt from rows of data: a frozen configuration, the default of its row's `update`.

    `takes`: "reward" (no use for costs), "weights" (of a handler), "limits" (which it keeps by itself).
    """

    @property
    def takes(self) -> tuple[Literal["reward", "weights", "limits"], ...]:
        """What of its terms it can go by."""
        ...

    @property
    def batch(self) -> int:
        """Rows of a gradient step."""
        ...

    def learner(self, plan: Plan, rng: torch.Generator) -> Any:
        """Networks with their moments. Raises ConfigError for actions it cannot take."""
        ...

    def policy(
        self, learner: Any, observation: ObservationCodec, world: WorldRef, kept: Mapping[str, Any], parent: str | None
    ) -> NetworkPolicy:
        """The subject; it shares its weights with the learner."""
        ...

    def rows(self, data: OfflineData, limit: Tensor) -> np.ndarray[Any, Any]:
        """The rows it learns from. Raises ConfigError where none are left."""
        ...

    def learn(
        self, learner: Any, batch: Transitions, first: Tensor, terms: Terms, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """One gradient step on normalised rows; first [B, D] begin episodes. Returns numbers, logged as update/NAME."""
        ...


@runtime_checkable
class Steers(Protocol):
    """Ability of an update: it tells what a handler steers by."""

    def cost_at(self, learner: Any, obs: Tensor, rng: torch.Generator) -> Tensor:
        """Q_c(s, π) [B, K]."""
        ...


# --- settings ---


class Offline(Settings):
    """Settings every offline recipe shares; the defaults are OmniSafe's. Steps are gradient steps."""

    env: str = "SafetyPointCircle1-v0"
    dataset: str = ""  # run://ID/data.parquet, or the path of a .parquet, .npz or HDF5 file
    done: DoneMeans = "terminated"  # what `done` of a file without `terminated` says
    actions: Units | None = None  # units of the actions of a file that does not say: [-1, 1], or the world's own
    steps_per_epoch: int = Field(1000, ge=1)  # between logs
    gamma: float = Field(0.99, gt=0, le=1)
    cost_gamma: float = Field(0.99, gt=0, le=1)
    actor: QNetwork = QNetwork(hidden=(256, 256, 256))
    critic: QNetwork = QNetwork(hidden=(256, 256, 256))
    update: Cloning = Cloning()
    normalise: bool = False  # observations, by the data's statistics

    @model_validator(mode="before")
    @classmethod
    def _one_discount_for_both(cls, given: Any) -> Any:
        """Where there is one, it is gamma's: so it is written down as well."""
        if not isinstance(given, Mapping) or not getattr(cls.model_fields["update"].default, "one_discount", False):
            return given
        return {"cost_gamma": given.get("gamma", cls.model_fields["gamma"].default), **given}

    @model_validator(mode="after")
    def _one_discount(self) -> Self:
        if getattr(self.update, "one_discount", False) and self.cost_gamma != self.gamma:
            raise ValueError(
                f"cost_gamma is {self.cost_gamma:g}, but this update weighs one distribution, whose discount is "
                f"gamma = {self.gamma:g}. Leave cost_gamma out."
            )
        return self


class Limited(Offline):
    """Settings of a recipe that keeps episode costs under limits."""

    cost_limit: CostLimit = 25.0  # d, undiscounted per episode: one number, one per cost, or by name; or how it moves


class Constrained(Limited):
    """Settings of one whose constraint handler weighs each cost against the reward."""

    constraint: Constraint = Lagrangian(lr=0.001, init=1.0)
    multiplier_after: int = Field(150_000, ge=0)  # gradient steps before the multiplier's first


@dataclass(frozen=True)
class OfflineRecipe:
    """A row: a name, what its configuration says of costs, its named settings, and its update.

    Raises ConfigError for an update that has no use for what the configuration says of costs, or needs more.
    """

    name: str
    Config: type[Offline]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    update: Update = field(default_factory=Cloning)

    def __post_init__(self) -> None:
        """Refuse what does not compose, and settle the configuration."""
        needs = "reward"
        if issubclass(self.Config, Limited):
            needs = "weights" if issubclass(self.Config, Constrained) else "limits"
        if needs not in self.update.takes or (needs == "weights" and not isinstance(self.update, Steers)):
            raise ConfigError(
                f"recipe {self.name!r} has an update that goes by {' or '.join(self.update.takes)}, and a Config for "
                f"{needs}. Use Offline for the reward alone, Constrained for weights, Limited for limits."
            )
        object.__setattr__(self, "Config", with_default(self.Config, "update", self.update))

    def inputs_of(self, config: Offline) -> Mapping[str, bool]:  # noqa: ARG002
        """No input: data are named in the settings."""
        return {}

    def check(self, config: Offline, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start. `root` is the folder of runs."""
        _Problem.of(config, root)

    def limits(self, config: Offline) -> dict[str, float]:
        """The limit that each cost of the world is trained for, in the order of `cost_limit`; {} when none is."""
        with one_world(config.env, config.env_options) as world:
            return limits_of(_cost_limit(config), world)

    def train(self, config: Offline, run: Run, inputs: Mapping[str, Subject]) -> NetworkPolicy:  # noqa: ARG002
        """Train a policy. Resumes from the run's last checkpoint.

        Raises ConfigError for settings or data that do not fit the world, Diverged when the networks are no longer
        finite.
        """
        return Trainer(config, run).train()


def _cost_limit(config: Offline) -> CostLimit | None:
    return config.cost_limit if isinstance(config, Limited) else None


def fitted(data: OfflineData, world: VectorEnv, actions: Units | None = None) -> OfflineData:
    """The data set, held against a world, its actions scaled; `actions` are the units of data that do not say theirs.

    Raises ConfigError for other widths, costs, or actions it does not take, and for units that are not known, or known
    to be others.
    """
    codec, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    if data.obs.shape[1] != codec.width:
        raise ConfigError(
            f"the data's observations have {data.obs.shape[1]} numbers, but those of {world.id} {codec.width}. "
            "Record data in that world, or name the one they are from."
        )
    if data.action.shape[1] != action.width:
        raise ConfigError(
            f"the data's actions have {data.action.shape[1]} columns, but {world.id} takes {action.width}. "
            "Record data in that world, or name the one they are from."
        )
    if len(data.costs) != len(world.costs):
        raise ConfigError(
            f"the data have {len(data.costs)} costs, but {world.id} reports {len(world.costs)} "
            f"({', '.join(world.costs)}). Give the world's option that makes it report as many."
        )
    data = _in_order(data, world)
    if data.actions is not None and actions is not None and actions != data.actions:
        raise ConfigError(f"actions is {actions!r}, but the data say that theirs are {data.actions}. Leave it out.")
    scaled, native = _bounds(world.action_space), _bounds(getattr(world, "native_action_space", world.action_space))
    units = data.actions or actions
    differ = np.flatnonzero((scaled.low != native.low) | (scaled.high != native.high))
    if units is None and len(differ):
        k = differ[0]
        raise ConfigError(
            f"{world.id} takes actions from {native.low[k]:g} to {native.high[k]:g}, and the data do not say whether "
            f"theirs are those or from {scaled.low[k]:g} to {scaled.high[k]:g}. Set actions to 'native' or 'scaled'."
        )
    own = native if units == "native" else scaled
    _refuse_beyond(data.action, own, world, action.kind, units)
    if units == "native":
        data = replace(data, action=_rescaled(data.action, own, action.kind))
    return data if data.actions == "scaled" else replace(data, actions="scaled")


def _in_order(data: OfflineData, world: VectorEnv) -> OfflineData:
    """The data with the world's costs in the world's order; as they are where the file gave them no names.

    One cost can be mistaken for no other, whatever it is called.
    """
    if data.costs in (world.costs, unnamed(len(data.costs))):
        return data
    if len(data.costs) == 1:
        stage(f"the data's cost {data.costs[0]} is taken for {world.costs[0]}")
        return replace(data, costs=tuple(world.costs))
    if set(data.costs) != set(world.costs):
        raise ConfigError(
            f"the data's costs are {', '.join(data.costs)}, but {world.id} reports {', '.join(world.costs)}. "
            "Give the world's option that makes it report those."
        )
    column = [data.costs.index(name) for name in world.costs]
    return replace(data, cost=data.cost[:, column], costs=tuple(world.costs))


class _Bounds(NamedTuple):
    """What actions lie between, [A] each: ±∞ where a side is open and nothing is rescaled."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _bounds(space: gym.Space[Any]) -> _Bounds:
    """The bounds of a box; of choices the numbers of the first and the last option."""
    if isinstance(space, gym.spaces.Box):
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high)
        return _Bounds(np.where(bounded, low, -np.inf), np.where(bounded, high, np.inf))
    assert isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete)  # or there would be no codec of it
    options = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
    first = np.ravel(space.start).astype(np.float64)
    return _Bounds(first, first + np.ravel(options) - 1.0)


def _rescaled(given: NDArray[np.float32], own: _Bounds, kind: str) -> NDArray[np.float32]:
    """Native actions [n, A] as policies store them: in [-1, 1], choices from 0."""
    if kind == "choices":
        return (given - own.low).astype(np.float32)
    bounded = np.isfinite(own.low)
    low, span = np.where(bounded, own.low, -1.0), np.where(bounded, own.high - own.low, 2.0)
    return np.where(bounded, (2.0 * (given - low) / span - 1.0).clip(-1.0, 1.0), given).astype(np.float32)


def _refuse_beyond(given: NDArray[np.float32], own: _Bounds, world: VectorEnv, kind: str, units: Units | None) -> None:
    """Raises ConfigError, with row and column, for an action outside its bounds, or no whole number for a choice."""
    rounding = np.where(np.isfinite(own.low), 5e-7 * (own.high - own.low), 0.0)
    good = (given >= own.low - rounding) & (given <= own.high + rounding)
    if kind == "choices":
        good &= given == np.round(given)
    if good.all():
        return
    row, column = np.argwhere(~good)[0]
    raise ConfigError(
        f"row {row}, column action[{column}] is {given[row, column]:g}, but {f'{units} ' if units else ''}actions of "
        f"{world.id} are {'numbers' if kind == 'continuous' else 'whole numbers'} from {own.low[column]:g} to "
        f"{own.high[column]:g}. Rescale them, or say by the setting `actions` which units they have."
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """What a run is about, as its settings say: data, spaces, limits."""

    data: OfflineData
    plan: Plan
    observation: ObservationCodec
    limits: Limits
    horizon: int
    rows: np.ndarray[Any, Any]  # rows that are learnt from: where limits move, by those of the end

    @classmethod
    def of(cls, config: Offline, root: Path) -> _Problem:
        if not config.dataset:
            raise ConfigError("dataset is not set. Give run://ID/data.parquet, or a .parquet, .npz or .h5 file.")
        with one_world(config.env, config.env_options) as world:
            limits = limits_over(_cost_limit(config), world, root)
            data = fitted(read(resolve(config.dataset, root), config.done), world, config.actions)
            observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
            plan = Plan(observation, action, limits.names, config.actor, config.critic, config.normalise)
            horizon = world.max_episode_steps
        update: Update = config.update
        update.learner(plan, torch.Generator().manual_seed(0))
        rows = update.rows(data, torch.as_tensor(limits.at(1.0)))
        return cls(data, plan, observation, limits, horizon, rows)


# --- the loop ---


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: Offline, run: Run) -> None:
        """Reads the data and builds the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)
        problem = _Problem.of(config, run.folder.parent)
        self.path, self.observation, self.horizon = problem.limits, problem.observation, problem.horizon
        self.limited = self.path.final
        self.update: Update = config.update
        self.learner: Learns = self.update.learner(problem.plan, run.torch_rng("networks"))
        self.network = self.learner.network
        self.handler: Handler | None = config.constraint if isinstance(config, Constrained) else None
        self.handler_state: HandlerState = self.handler.start(len(self.limited)) if self.handler is not None else {}
        data = problem.data
        self.digest = data.digest()
        if data.world not in ("", config.env):
            stage(f"the data are of {data.world}; what is learnt from them is for {config.env}")
        if isinstance(config, Constrained) and config.epochs * config.epoch_steps <= config.multiplier_after:
            stage(
                f"multiplier_after is {config.multiplier_after:,}, and the training has no more steps: the multiplier "
                "stays where it begins"
            )
        self.recorded = data.finished().episode_return  # [E] what scores are measured by
        self._hold(data, problem.rows)
        self.total_steps = self.epoch = 0
        self.epochs = config.epochs
        self.terms = self._terms()

    def _hold(self, data: OfflineData, rows: np.ndarray[Any, Any]) -> None:
        """The rows that are learnt from, as tensors, and the first observations of episodes."""
        config, k = self.config, len(self.limited)
        norm = self.network.encoder.norm
        assert norm is not None
        norm.update(torch.from_numpy(data.obs[rows]))
        gamma = np.array([config.gamma, *[config.cost_gamma] * k])
        signal = np.column_stack([data.reward, data.cost[:, :k]])[rows]
        discount = gamma * ~data.terminated[rows, None]
        parts = (data.obs[rows], data.action[rows], signal, discount, data.next_obs[rows])
        tensors = [torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts]
        first = torch.from_numpy(data.obs[data.starts])
        if config.normalise:
            tensors[0], tensors[4], first = norm(tensors[0]), norm(tensors[4]), norm(first)
        self.widths = [part.shape[1] for part in tensors]
        self.rows, self.first = torch.cat(tensors, dim=1), first

    def _terms(self) -> Terms:
        """What the constraint says as it stands."""
        config, costs = self.config, len(self.limited)
        weights = unconstrained(costs) if self.handler is None else self.handler.weights(self.handler_state)
        per_step = value_limit(torch.ones((), dtype=torch.float64), config.gamma, self.horizon)
        start = 1.0 / (self.horizon * float(per_step))
        limit = torch.as_tensor(self.path.in_epoch(self.epoch, self.epochs))
        return Terms(weights, limit / self.horizon, value_limit(limit, config.cost_gamma, self.horizon), start)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "network": dict(self.network.state_dict()),
            "learner": self.learner.state_dict(),
            "handler": dict(self.handler_state),
            "total_steps": self.total_steps,
            "epoch": self.epoch,
            "data": self.digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.  Raises ConfigError where the data are other ones than it was trained on."""
        if state["data"] != self.digest:
            raise ConfigError(
                f"{self.config.dataset} is not the data set that this run began with. Put that one back, or start anew."
            )
        self.network.load_state_dict(state["network"])
        self.learner.load_state_dict(state["learner"])
        self.handler_state = dict(state["handler"])
        self.total_steps, self.epoch = int(state["total_steps"]), int(state["epoch"])
        self.terms = self._terms()

    def train(self) -> NetworkPolicy:
        """All epochs, then the policy."""
        config, run, saved = self.config, self.run, self.run.restore()
        if saved is not None:
            self.load_state_dict(saved)
        if config.evaluation is not None:  # else nothing is measured that a limit could be held against
            write_limits(run, {f"eval/{name}": limit for name, limit in self.limited.items()})
        with evaluated(config, run, self.limited) as finish:
            if config.evaluation is not None:
                self._score_evaluations()
            run_epochs(self, run, config.epoch_steps, config)
            policy = self.policy()
            finish(self.total_steps, policy)
        return policy

    def _score_evaluations(self) -> None:
        """Put normalised scores beside the figures of every evaluation: eval/normalised_return, and of each cost."""
        watch, limit = self.run.watch, np.array(list(self.limited.values()))
        assert watch is not None  # it is what evaluates

        def scored(step: int, subject: Subject) -> dict[str, float]:
            found = dict(watch(step, subject) or {})
            if "eval/return" not in found:
                return found
            cost = np.array([found[f"eval/{name}"] for name in self.limited])
            scores = normalised_scores(self.recorded, found["eval/return"], cost, limit)
            shares = dict(zip(self.limited, scores.cost.tolist(), strict=True))
            every = {"return": scores.episode_return, **shares}
            return found | {f"eval/normalised_{name}": x for name, x in every.items() if np.isfinite(x)}

        self.run.watch = scored

    def policy(self) -> NetworkPolicy:
        """The policy as it stands; it shares its weights with the training."""
        kept: dict[str, Any] = {}
        if self.handler is not None:
            kept["multipliers"] = self.handler_state["multiplier"].tolist()
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        return self.update.policy(self.learner, self.observation, world, kept, None)

    def one_epoch(self) -> str:
        """Gradient steps and their log; returns what is shown beside the bar."""
        self.terms = self._terms()  # the limit may have moved
        limits = self.path.in_epoch(self.epoch, self.epochs)
        sums: dict[str, float] = {}
        for _ in range(self.config.steps_per_epoch):
            for name, value in self._gradient_step().items():
                sums[name] = sums.get(name, 0.0) + float(value)
        refuse_divergence(self.network, self.total_steps, self.run)
        self.epoch += 1
        scalars = {f"update/{name}": total / self.config.steps_per_epoch for name, total in sums.items()}
        scalars |= self.path.logged(limits)
        if self.handler is not None:
            for name, value in zip(self.limited, self.terms.multiplier.tolist(), strict=True):
                scalars[f"constraint/multiplier_{name}"] = value
        self.run.log(self.total_steps, **scalars)
        self.run.offer(self.total_steps, self.policy)
        return " ".join(f"{name} {value:.3g}" for name, value in list(scalars.items())[:2])

    def _drawn(self, rng: torch.Generator) -> tuple[Transitions, Tensor]:
        size = self.update.batch
        index = torch.randint(len(self.rows), (size,), generator=rng)
        first = torch.randint(len(self.first), (size,), generator=rng)
        return Transitions(*self.rows.index_select(0, index).split(self.widths, dim=1)), self.first[first]

    def _gradient_step(self) -> dict[str, Tensor]:
        rng = self.run.torch_rng("update")
        batch, first = self._drawn(rng)
        report = dict(self.update.learn(self.learner, batch, first, self.terms, rng))
        self.total_steps += 1
        if self.handler is not None:
            assert isinstance(self.config, Constrained)
            assert isinstance(self.update, Steers)  # or the row would have been refused
            cost = self.update.cost_at(self.learner, first, rng)
            for name, value in zip(self.limited, cost.mean(0), strict=True):
                report[f"cost_at_start_{name}"] = value
            if self.total_steps > self.config.multiplier_after:
                self.handler_state = self.handler.update(self.handler_state, cost, self.terms.value_limit)
                self.terms = self._terms()
        return report
