"""The planning loop, written once: act by planning, remember, fit the model, and where plans end in a value, learn it.

A row of the table is a `PlanningRecipe`: a configuration that says how it plans and what it makes of costs, and its
presets. What holds for every row:

* An action is held for `repeat` steps; what they come to is one row. A goal that is put elsewhere ends it early, and
  such a row teaches reward and costs alone: what was put elsewhere did not move there.
* Before `warm_up` steps every environment draws actions of its own, uniformly; then the model is fitted for the first
  time and plans begin. A warm start plans from the first step on.
* Limits are on episodes: a plan may cost its part of what is left of d (`Method.allowed`), and what it imagines beyond
  the end of the episode does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Harmless
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.core.stopping import stop_asked
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl.env import VectorEnv
from trueline.rl.episodes import Ended, Finished, Recent
from trueline.rl.handlers.constraint import Handler, HandlerState, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.schedule import CostLimit
from trueline.rl.off_policy.networks import Guide, Learner
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.off_policy.sac import Sac
from trueline.rl.planning.cross_entropy import Arc, Cem, Planned
from trueline.rl.planning.dynamics import Fitted, Model
from trueline.rl.planning.experience import Experience, Seen, bootstrap
from trueline.rl.planning.known import Known
from trueline.rl.planning.policy import Critic, Memory, Method, Planner, PlanningPolicy
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.stepping import Stepping, Taken
from trueline.rl.training import (
    ActingSettings,
    account_of,
    evaluated,
    failing_layouts,
    limits_of,
    limits_over,
    one_world,
    refuse_all_warm_up,
    refuse_divergence,
    run_epochs,
    training_world,
)

LEAST_DECISIONS = 20  # before the first fit: with fewer, a member's bootstrap sample may be empty
WINDOW = 50  # episodes that are shown beside the bar

Caution = Lagrangian | PidLagrangian  # told apart by `kind`


# --- settings ---


class Planning(ActingSettings):
    """Settings every planning recipe shares; the defaults are OmniSafe's for its Goal worlds."""

    repeat: int = Field(5, ge=1)  # steps that an action is held
    signals: Literal["learnt", "known"] = "learnt"  # reward and costs: of the model, or as the world tells them
    model: Model = Model()
    planner: Cem | Arc = Cem()
    gamma: float = Field(1.0, gt=0, le=1)  # of a decision's reward within a plan
    warm_up: int = Field(10_000, ge=1)  # steps of all environments before the first fit
    capacity: int = Field(1_000_000, ge=1)  # decisions that are learnt from: the last so many
    checkpoint_epochs: Harmless[int] = Field(1, ge=1)  # epochs between checkpoints: one takes long

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        least = (LEAST_DECISIONS + self.num_envs) * self.repeat
        if self.warm_up < least:
            raise ValueError(
                f"warm_up is {self.warm_up}, but the first fit needs {LEAST_DECISIONS} decisions of {self.repeat} "
                f"steps beside those that are running. Give at least {least}."
            )
        if self.capacity < LEAST_DECISIONS + self.num_envs:
            raise ValueError(
                f"capacity is {self.capacity}, but a fit needs {LEAST_DECISIONS} decisions beside those that end in "
                f"one step. Give at least {LEAST_DECISIONS + self.num_envs}."
            )
        if self.planner.particles % self.model.elites:
            raise ValueError(
                f"planner.particles is {self.planner.particles}, which {self.model.elites} elites cannot share evenly. "
                "Give a multiple of model.elites."
            )
        if isinstance(self.planner, Arc) and not isinstance(self, Valued):
            raise ValueError("planner is 'arc', which draws on a policy that this recipe does not learn: give a 'cem'")
        return self


class Limited(Planning):
    """Settings of a recipe that keeps episode costs under limits."""

    cost_limit: CostLimit = 1.0  # d, undiscounted per episode: one number, one per cost, or by name; or how it moves
    across: Literal["mean", "worst"] = "mean"  # cost of a candidate over its particles
    budget: Literal["rest", "rate"] = "rest"  # what a plan may cost: its part of what is left of d, or of d itself


class Robust(Limited):
    """Settings of one that counts on the worst particle in every step."""

    across: Literal["mean", "worst"] = "worst"


class Cautious(Limited):
    """Settings of one whose costs are raised by what the model does not know, κ·max_e ‖σ_e‖."""

    caution: Caution = Lagrangian(rule="sgd", lr=0.1, init=0.0, upper=1.0)  # moves κ by measured episode costs


class Valued(Planning):
    """Settings of one whose plans end in the value of a policy that is learnt beside them."""

    planner: Cem | Arc = Arc()
    gamma: float = Field(0.99, gt=0, le=1)  # of a decision
    critic: Critic = Critic()
    update: Sac = Sac(lr=1e-3, critic_lr=1e-3, delay=1, alpha=1e-3)
    updates_per_step: float = Field(0.2, gt=0)  # gradient steps per step of an environment


class ValuedRobust(Valued, Robust):
    """Settings of one with such a value and limits on the worst particle's cost."""


@dataclass(frozen=True)
class PlanningRecipe:
    """A row: a name, how it plans and what it makes of costs, and its named settings."""

    name: str
    Config: type[Planning]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def inputs_of(self, config: Planning) -> Mapping[str, bool]:  # noqa: ARG002
        """A warm start."""
        return {"policy": False}

    def check(self, config: Planning, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs. What depends on the inputs of a run is left to `train`.
        """
        refuse_all_warm_up(config.warm_up, config)
        for reference in config.layouts:
            failing_layouts(reference, root)
        with one_world(config.env, config.env_options) as world:
            limits = limits_of(_cost_limit(config), world, root)
            _planner(config, world, limits, torch.Generator().manual_seed(0))

    def limits(self, config: Planning) -> dict[str, float]:
        """The limit that each cost of the world is trained for, in the order of `cost_limit`; {} when none is."""
        with one_world(config.env, config.env_options) as world:
            return limits_of(_cost_limit(config), world)

    def train(self, config: Planning, run: Run, inputs: Mapping[str, Subject]) -> PlanningPolicy:
        """Train a policy; `inputs["policy"]` is a warm start. Resumes from the run's last checkpoint.

        Raises ConfigError for settings that do not fit the world, BadWorld for a reward or observation that is not
        finite, Diverged when the networks are no longer finite.
        """
        return Trainer(config, run, inputs).train()


def _cost_limit(config: Planning) -> CostLimit | None:
    return config.cost_limit if isinstance(config, Limited) else None


def _method(config: Planning, world: VectorEnv, limits: Mapping[str, float]) -> Method:
    """How a policy of this recipe plans in a world, under limits by cost.  Raises ConfigError for signals it hides."""
    if config.signals == "known" and not isinstance(world, Known):
        raise ConfigError(
            f"signals is 'known', but {world.id} does not tell its reward and costs. Let them be 'learnt', or use a "
            "world that does."
        )
    limited: dict[str, Any] = {}
    if isinstance(config, Limited):
        limited = {"limits": limits, "across": config.across, "budget": config.budget}
    return Method(
        planner=config.planner,
        model=config.model,
        critic=config.critic if isinstance(config, Valued) else None,
        gamma=config.gamma,
        repeat=config.repeat,
        signals=config.signals,
        steps=world.max_episode_steps,
        **limited,
    )


def _planner(
    config: Planning, world: VectorEnv, limits: Mapping[str, float], rng: torch.Generator
) -> tuple[Method, Planner]:
    method = _method(config, world, limits)
    spaces = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    return method, Planner(method, *spaces, rng)


# --- the loop ---


PART = 500  # steps of each environment after which the bar moves: some plans take a second


@dataclass(slots=True)
class Epoch:
    """What happened in an epoch so far."""

    steps: int = 0  # of each environment
    ended: Ended = field(default_factory=Ended)
    own_cost: list[NDArray[np.float64]] = field(default_factory=list)  # of episodes that were planned, fresh layouts
    fits: list[Fitted] = field(default_factory=list)
    feasible: list[float] = field(default_factory=list)  # share of the last candidates of every plan
    updates: dict[str, list[Tensor]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint within an epoch."""
        return {name: getattr(self, name) for name in ("steps", "own_cost", "feasible", "updates")} | {
            "ended": {name: getattr(self.ended, name) for name in ("episode_return", "cost", "length")},
            "fits": [fit._asdict() for fit in self.fits],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """That of a checkpoint."""
        return cls(**{**state, "ended": Ended(**state["ended"]), "fits": [Fitted(**fit) for fit in state["fits"]]})


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: Planning, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)
        self.env = training_world(config, run)
        self.path = limits_over(_cost_limit(config), self.env, run.folder.parent)
        self.limited = self.path.final
        self.codec = ObservationCodec.of(self.env.observation_space)
        self.method, self.network = _planner(config, self.env, self.limited, run.torch_rng("networks"))
        parent = inputs.get("policy")
        if parent is not None:
            self._warm_start(parent)
        self.warm = parent is not None
        self.adam = self.network.dynamics.optimiser()
        self.learner: Learner | None = None
        if isinstance(config, Valued):
            assert self.network.critic is not None
            self.learner = config.update.learner(self.network.critic)
        n, k, width = config.num_envs, len(self.limited), self.network.action.width
        self.handler: Handler | None = config.caution if isinstance(config, Cautious) else None
        self.handler_state: HandlerState = {}
        if self.handler is not None:
            self.handler_state = self.handler.start(k, getattr(parent, "multipliers", None))
        members = config.model.members
        self.seen = Experience(config.capacity, self.codec.width, width, k, members, run.folder / "experience")
        self.memory = Memory.start(self.method, n, self.codec.width, width)
        self.held = np.zeros((n, 1 + k))  # reward and limited costs since the running actions were decided on
        self.stepping = Stepping(self.env, self.codec)
        self.recent = Recent(len(self.env.costs), WINDOW)
        self.paid = account_of(self.env.costs, self.limited)
        self.fitted = -1  # steps at the last fit
        self.taken = 0  # rows that the model's statistics hold
        self.owed = 0.0  # gradient steps of the value that the steps taken so far have earned
        self.epoch, self.epochs = 0, config.epochs
        self.current = Epoch()
        self.parent = run.parent()
        self.planning = self.policy()

    def _warm_start(self, parent: Subject) -> None:
        if not isinstance(parent, PlanningPolicy):
            raise ConfigError(
                f"the warm start is a {parent.kind!r}, not a policy that plans. Give one that a planning row made."
            )
        mine, theirs = self.network.state_dict(), parent.network.state_dict()
        if {key: p.shape for key, p in mine.items()} != {key: p.shape for key, p in theirs.items()}:
            raise ConfigError(
                f"the warm start was trained on {parent.world.id} with other networks. Use the same world, model, "
                "critic, signals and costs."
            )
        self.network.load_state_dict(theirs)

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.stepping.total_steps

    # -- checkpoints --

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next; new rows go to disk with it."""
        return {
            "network": dict(self.network.state_dict()),
            "adam": self.adam.state_dict(),
            "learner": None if self.learner is None else self.learner.state_dict(),
            "handler": dict(self.handler_state),
            "seen": self.seen.record(),
            "memory": self.memory.state_dict(),
            "held": self.held,
            "stepping": self.stepping.state_dict(),
            "recent": self.recent.state_dict(),
            "paid": self.paid.state_dict(),
            "fitted": self.fitted,
            "taken": self.taken,
            "owed": self.owed,
            "epoch": self.epoch,
            "current": self.current.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; a world without `state_dict` starts new episodes instead."""
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        self.handler_state = dict(state["handler"])
        self.seen.restore(state["seen"])
        self.recent.load_state_dict(state["recent"])
        self.paid.load_state_dict(state["paid"])
        self.fitted, self.taken = int(state["fitted"]), int(state["taken"])
        self.owed, self.epoch = float(state["owed"]), int(state["epoch"])
        self.current = Epoch.of(state["current"])
        if self.stepping.load_state_dict(state["stepping"]):
            self.memory = Memory(**state["memory"])
            self.held = state["held"]
        self.planning = self.policy()

    # -- training --

    def train(self) -> PlanningPolicy:
        """All epochs, then the policy."""
        config, run, saved = self.config, self.run, self.run.restore()
        if saved is None:
            self.seen.restore(None)
            self.stepping.reset()
        else:
            self.load_state_dict(saved)
        write_limits(run, {f"train/{name}": limit for name, limit in self.limited.items()})
        with closing(self.env), evaluated(config, run, self.limited) as finish:
            run_epochs(self, run, config.epoch_steps, config)
            policy = self.policy()
            finish(self.total_steps, policy)
        return policy

    def policy(self) -> PlanningPolicy:
        """The policy as it stands; it shares its weights with the training."""
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        caution = self.handler_state["multiplier"] if self.handler is not None else None
        told = self.env if isinstance(self.env, Known) and self.method.signals == "known" else None
        met = self.stepping.met.tolist()
        return PlanningPolicy(self.network, self.codec, world, self.method, caution, met, self.parent, told)

    def _under(self, limits: NDArray[np.float64]) -> None:
        """Plan under limits [K] from now on."""
        if self.path.moves:
            by_cost = dict(zip(self.path.names, limits.tolist(), strict=True))
            self.method = self.method.model_copy(update={"limits": by_cost})
            self.planning = self.policy()

    def one_epoch(self) -> str:
        """Act, remember and learn, log; returns what is shown beside the bar.

        An epoch takes long where plans do: this comes back after every `PART` steps of it, and when a stop is asked
        for, and goes on from there when it is called again.
        """
        config, epoch = self.config, self.current
        limits = self.path.in_epoch(self.epoch, self.epochs)
        self._under(limits)
        while epoch.steps < config.env_steps:
            self._act(epoch)
            epoch.steps += 1
            if self.total_steps >= config.warm_up:
                if self.fitted < 0 or self.total_steps - self.fitted >= config.model.every:
                    epoch.fits.append(self._fit())
                self._learn_value(epoch)
            if epoch.steps < config.env_steps and (epoch.steps % PART == 0 or stop_asked()):
                return self.recent.shown()
        refuse_divergence(self.network, self.total_steps, self.run)
        self.epoch += 1
        self.current = Epoch()
        if self.handler is not None:
            measured = torch.as_tensor(np.array(epoch.own_cost).reshape(-1, len(self.env.costs)))
            self.handler_state = self.handler.update(self.handler_state, measured, torch.as_tensor(limits))
            self.planning = self.policy()
        note = self._log(epoch, limits)
        self.run.offer(self.total_steps, self.policy)
        return note

    def _fit(self) -> Fitted:
        """Fit the model to what has been seen; plans are made with it from then on."""
        dynamics = self.network.dynamics
        dynamics.take_in(self.seen.since(self.taken))
        found = dynamics.fit(self.seen.all(), self.adam, self.run.torch_rng("model"))
        self.taken, self.fitted = self.seen.total, self.total_steps
        refuse_divergence(self.network, self.total_steps, self.run)
        self.planning = self.policy()
        return found

    def _learn_value(self, epoch: Epoch) -> None:
        """The gradient steps of policy and critics that are due."""
        config = self.config
        if self.learner is None or not isinstance(config, Valued):
            return
        self.owed += config.updates_per_step * config.num_envs
        guide = Guide(unconstrained(0), torch.zeros(0, dtype=torch.float64))
        while self.owed >= 1.0:
            self.owed -= 1.0
            rng = self.run.torch_rng("update")
            rows = self.seen.sample(config.update.batch, rng)
            batch = Transitions(rows.obs, rows.action, rows.signal[:, :1], rows.discount, rows.after)
            for name, value in config.update.learn(self.learner, batch, guide, rng).items():
                epoch.updates.setdefault(name, []).append(value)

    # -- acting --

    def _decide(self, epoch: Epoch, random: bool) -> None:
        """Bring the memory to what is done in this step."""
        memory, obs = self.memory, torch.from_numpy(self.stepping.obs)
        if not random:
            # In training an episode's cost is known; an actor has to reckon it.
            memory.spent.copy_(torch.from_numpy(self.stepping.running_cost[:, : len(self.limited)]))
            planned: Planned | None = self.planning.step(memory, obs, self.run.torch_rng("plan"))
            if planned is not None:
                epoch.feasible.append(float(planned.feasible.mean()))
            return
        due = (memory.wait == 0).nonzero()[:, 0]
        drawn = self.run.rng("warm-up").uniform(-1.0, 1.0, (len(due), memory.action.shape[1]))
        memory.action[due] = torch.from_numpy(drawn.astype(np.float32))
        memory.obs[due], memory.wait[due] = obs[due], self.config.repeat
        memory.wait -= 1
        memory.left.sub_(1).clamp_(min=1)

    def _act(self, epoch: Epoch) -> None:
        """One step of every environment, into the experience and the account of episodes."""
        memory = self.memory
        random = self.total_steps < self.config.warm_up and not self.warm
        self._decide(epoch, random)
        if not torch.isfinite(memory.action).all():
            # Before the world is blamed for what it makes of such actions.
            refuse_divergence(self.network, self.total_steps, self.run)
        taken, finished = self.stepping.step(self.network.action.to_world(memory.action.numpy()), random)
        self.held += np.column_stack([taken.step.reward, taken.step.cost[:, : len(self.limited)]])
        self._remember(taken)
        self.paid.total += taken.step.cost.sum(axis=0)
        if finished is not None:
            self._account(finished, epoch)

    def _remember(self, taken: Taken) -> None:
        """Rows of the decisions that have come to their end."""
        memory, step = self.memory, taken.step
        moved = np.asarray(step.info.get("goal_met", np.zeros(self.config.num_envs, np.bool_)), dtype=np.bool_)
        cut = memory.wait.numpy() > 0
        over = np.flatnonzero(~cut | step.ended | moved)
        if not len(over):
            return
        rows = torch.from_numpy(over)
        alive = ~step.terminated[over, None]
        # An action that was not held to its end changes less than one that was, so that it says nothing of that.
        jumped = (moved | cut)[over, None]
        model = self.config.model
        counts = bootstrap(self.seen.total, len(over), model.members, model.held_out, self.run.rng("bootstrap"))
        numbers = (self.held[over], self.config.gamma * alive, jumped, counts)
        signal, discount, jump, count = (torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in numbers)
        after = torch.from_numpy(taken.after[over])
        self.seen.add(Seen(memory.obs[rows], memory.action[rows], signal, discount, after, jump, count))
        self.held[over] = 0.0
        memory.wait[rows] = 0

    def _account(self, finished: Finished, epoch: Epoch) -> None:
        """Episodes that ended, and what they came to."""
        epoch.ended.add(finished, finished.cost)
        epoch.own_cost.extend(finished.cost[finished.own])
        self.recent.add(finished.episode_return, finished.cost)
        self.memory.begin(torch.from_numpy(finished.rows), self.method.steps)

    def _log(self, epoch: Epoch, limits: NDArray[np.float64]) -> str:
        scalars = {f"update/{name}": float(torch.stack(values).mean()) for name, values in epoch.updates.items()}
        scalars |= self.path.logged(limits)
        if epoch.fits:
            scalars["model/passes"] = float(sum(fit.passes for fit in epoch.fits))
            scalars["model/loss"] = float(np.mean([fit.loss for fit in epoch.fits]))
            scalars["model/held_out"] = float(np.mean([fit.held_out for fit in epoch.fits]))
        if epoch.feasible:
            scalars["plan/feasible"] = float(np.mean(epoch.feasible))
        scalars |= epoch.ended.logged(self.env.costs)
        self.paid.end_epoch(epoch.ended.cost)
        scalars |= self.paid.logged()
        if self.handler is not None:
            for name, value in zip(self.limited, self.handler_state["multiplier"].tolist(), strict=True):
                scalars[f"constraint/caution_{name}"] = value
        self.run.log(self.total_steps, **scalars)
        return self.recent.shown()
