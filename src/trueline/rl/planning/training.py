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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import BadWorld, ConfigError
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.rl.env import Obs, Stateful, Step, VectorEnv, observation_rows
from trueline.rl.handlers.constraint import Handler, HandlerState, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
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
from trueline.rl.training import (
    FAILED_FROM,
    MOST_MET,
    failing_layouts,
    limits_of,
    one_world,
    refuse_divergence,
    run_epochs,
    shown,
    training_seeds,
)
from trueline.rl.worlds import make

LEAST_DECISIONS = 20  # before the first fit: with fewer, a member's bootstrap sample may be empty
WINDOW = 50  # episodes that are shown beside the bar

Caution = Lagrangian | PidLagrangian  # told apart by `kind`


# --- settings ---


class Planning(Config):
    """Settings every planning recipe shares; the defaults are OmniSafe's for its Goal worlds."""

    env: str = "SafetyPointGoal1-v0"
    env_options: Mapping[str, Any] = {}  # keyword arguments of the world
    num_envs: int = Field(1, ge=1)  # N
    steps_per_epoch: int = Field(20_000, ge=1)  # over all environments; between logs
    total_steps: int = Field(1_000_000, ge=1)
    repeat: int = Field(5, ge=1)  # steps that an action is held
    signals: Literal["learnt", "known"] = "learnt"  # reward and costs: of the model, or as the world tells them
    model: Model = Model()
    planner: Cem | Arc = Cem()
    gamma: float = Field(1.0, gt=0, le=1)  # of a decision's reward within a plan
    warm_up: int = Field(10_000, ge=1)  # steps of all environments before the first fit
    capacity: int = Field(1_000_000, ge=1)  # decisions that are learnt from: the last so many
    learner_threads: int = Field(1, ge=1)
    checkpoint_epochs: int = Field(1, ge=1)  # epochs between checkpoints
    layouts: tuple[str, ...] = ()  # run://ID/artefact each, listing layouts that failed an audit
    layouts_share: float = Field(0.25, gt=0, le=1)  # share of episodes that start from one of those

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.steps_per_epoch < self.num_envs:
            raise ValueError(
                f"steps_per_epoch is {self.steps_per_epoch}, fewer than num_envs = {self.num_envs}. "
                "Give each environment at least one step."
            )
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

    cost_limit: float | tuple[float, ...] = 1.0  # d: undiscounted cost per episode, one number or one per cost
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

    def check(self, config: Planning, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs. What depends on the inputs of a run is left to `train`.
        """
        for reference in config.layouts:
            failing_layouts(reference, root)
        with one_world(config.env, config.env_options) as world:
            _planner(config, world, torch.Generator().manual_seed(0))

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


def _cost_limit(config: Planning) -> float | tuple[float, ...] | None:
    return config.cost_limit if isinstance(config, Limited) else None


def _method(config: Planning, world: VectorEnv) -> Method:
    """How a policy of this recipe plans in a world.  Raises ConfigError where the world does not tell that."""
    if config.signals == "known" and not isinstance(world, Known):
        raise ConfigError(
            f"signals is 'known', but {world.id} does not tell its reward and costs. Let them be 'learnt', or use a "
            "world that does."
        )
    limited: dict[str, Any] = {}
    if isinstance(config, Limited):
        limits = limits_of(config.cost_limit, world)
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


def _planner(config: Planning, world: VectorEnv, rng: torch.Generator) -> tuple[Method, Planner]:
    method = _method(config, world)
    spaces = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    return method, Planner(method, *spaces, rng)


# --- the loop ---


@dataclass(slots=True)
class Epoch:
    """What happened in an epoch."""

    episode_return: list[float] = field(default_factory=list)
    cost: list[NDArray[np.float64]] = field(default_factory=list)
    own_cost: list[NDArray[np.float64]] = field(default_factory=list)  # of episodes that were planned, fresh layouts
    length: list[int] = field(default_factory=list)
    fits: list[Fitted] = field(default_factory=list)
    feasible: list[float] = field(default_factory=list)  # share of the last candidates of every plan
    updates: dict[str, list[Tensor]] = field(default_factory=dict)


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: Planning, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)
        self.env = make(config.env, config.num_envs, run.manifest["threads"], **config.env_options)
        self.env.seed_source = training_seeds(run, config.layouts, config.layouts_share)
        self.codec = ObservationCodec.of(self.env.observation_space)
        self.method, self.network = _planner(config, self.env, run.torch_rng("networks"))
        self.limits = torch.tensor(list(self.method.limits.values()), dtype=torch.float64)
        parent = inputs.get("policy")
        if parent is not None:
            self._warm_start(parent)
        self.warm = parent is not None
        self.adam = self.network.dynamics.optimiser()
        self.learner: Learner | None = None
        if isinstance(config, Valued):
            assert self.network.critic is not None
            self.learner = config.update.learner(self.network.critic)
        self.handler: Handler | None = config.caution if isinstance(config, Cautious) else None
        self.handler_state: HandlerState = {}
        if self.handler is not None:
            self.handler_state = self.handler.start(len(self.limits), getattr(parent, "multipliers", None))
        n, k, width = config.num_envs, len(self.limits), self.network.action.width
        members = config.model.members
        self.seen = Experience(config.capacity, self.codec.width, width, k, members, run.folder / "experience")
        self.memory = Memory.start(self.method, n, self.codec.width, width)
        self.obs = torch.zeros(n, self.codec.width)
        self.held = np.zeros((n, 1 + k))  # reward and limited costs since the running actions were decided on
        self.running_return, self.running_cost = np.zeros(n), np.zeros((n, len(self.env.costs)))
        self.running_length = np.zeros(n, dtype=np.int64)
        self.random = np.zeros(n, dtype=np.bool_)  # whether the running episode held a random action
        self.recent_cost, self.recent_return = np.zeros((0, len(self.env.costs))), np.zeros(0)
        self.total_cost = np.zeros(len(self.env.costs))  # over the whole training: what learning itself cost
        self.met = np.zeros(0, dtype=np.uint32)  # layouts of the last training episodes
        self.total_steps = 0
        self.fitted = -1  # steps at the last fit
        self.taken = 0  # rows that the model's statistics hold
        self.owed = 0.0  # gradient steps of the value that the steps taken so far have earned
        self.epoch = 0
        self.steps = config.steps_per_epoch // n  # of each environment in an epoch
        self.epochs = -(-config.total_steps // (self.steps * n))
        self.parent = run.manifest["inputs"].get("policy", {}).get("run")
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
            "world": self.env.state_dict() if isinstance(self.env, Stateful) else None,
            "obs": self.obs,
            "held": self.held,
            "running_return": self.running_return,
            "running_cost": self.running_cost,
            "running_length": self.running_length,
            "random": self.random,
            "recent_cost": self.recent_cost,
            "recent_return": self.recent_return,
            "total_cost": self.total_cost,
            "met": self.met,
            "total_steps": self.total_steps,
            "fitted": self.fitted,
            "taken": self.taken,
            "owed": self.owed,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; a world without `state_dict` starts new episodes instead."""
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        self.handler_state = dict(state["handler"])
        self.seen.restore(state["seen"])
        self.recent_cost, self.recent_return = state["recent_cost"], state["recent_return"]
        self.total_cost, self.met = state["total_cost"], state["met"]
        self.total_steps, self.fitted, self.taken = int(state["total_steps"]), int(state["fitted"]), int(state["taken"])
        self.owed, self.epoch = float(state["owed"]), int(state["epoch"])
        self.planning = self.policy()
        if state["world"] is None or not isinstance(self.env, Stateful):
            self._reset()
            return
        self.env.load_state_dict(state["world"])
        self.memory = Memory(**state["memory"])
        self.obs, self.held, self.random = state["obs"], state["held"], state["random"]
        self.running_return, self.running_cost = state["running_return"], state["running_cost"]
        self.running_length = state["running_length"]

    def _reset(self) -> None:
        """Start a new episode everywhere."""
        self.obs = self._encoded(self.env.reset())
        self._refuse_bad(torch.isfinite(self.obs).all(dim=1), "observation")

    # -- training --

    def train(self) -> PlanningPolicy:
        """All epochs, then the policy."""
        saved = self.run.restore()
        if saved is None:
            self.seen.restore(None)
            self._reset()
        else:
            self.load_state_dict(saved)
        if self.method.limits:
            # For whoever draws the curves of this run: which of them was to stay under which height.
            self.run.write_json("limits.json", {f"train/{name}": d for name, d in self.method.limits.items()})
        try:
            run_epochs(self, self.run, self.steps * self.config.num_envs, self.config.checkpoint_epochs)
        finally:
            self.env.close()
        return self.policy()

    def policy(self) -> PlanningPolicy:
        """The policy as it stands; it shares its weights with the training."""
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        caution = self.handler_state["multiplier"] if self.handler is not None else None
        told = self.env if isinstance(self.env, Known) and self.method.signals == "known" else None
        return PlanningPolicy(
            self.network, self.codec, world, self.method, caution, self.met.tolist(), self.parent, told
        )

    def one_epoch(self) -> str:
        """Act, remember and learn, log; returns what is shown beside the bar."""
        config, epoch = self.config, Epoch()
        for _ in range(self.steps):
            self._act(epoch)
            if self.total_steps < config.warm_up:
                continue
            if self.fitted < 0 or self.total_steps - self.fitted >= config.model.every:
                epoch.fits.append(self._fit())
            self._learn_value(epoch)
        refuse_divergence(self.network, self.total_steps, self.run)
        self.epoch += 1
        if self.handler is not None:
            measured = torch.as_tensor(np.array(epoch.own_cost).reshape(-1, len(self.env.costs)))
            self.handler_state = self.handler.update(self.handler_state, measured, self.limits)
            self.planning = self.policy()
        note = self._log(epoch)
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

    def _encoded(self, obs: Obs) -> Tensor:
        return torch.from_numpy(self.codec.encode(obs)["vector"])

    def _decide(self, epoch: Epoch, random: bool) -> None:
        """Bring the memory to what is done in this step."""
        memory = self.memory
        if not random:
            # In training an episode's cost is known; an actor has to reckon it.
            memory.spent.copy_(torch.from_numpy(self.running_cost[:, : len(self.limits)]))
            planned: Planned | None = self.planning.step(memory, self.obs, self.run.torch_rng("plan"))
            if planned is not None:
                epoch.feasible.append(float(planned.feasible.mean()))
            return
        due = (memory.wait == 0).nonzero()[:, 0]
        drawn = self.run.rng("warm-up").uniform(-1.0, 1.0, (len(due), memory.action.shape[1]))
        memory.action[due] = torch.from_numpy(drawn.astype(np.float32))
        memory.obs[due], memory.wait[due] = self.obs[due], self.config.repeat
        memory.wait -= 1
        memory.left.sub_(1).clamp_(min=1)

    def _act(self, epoch: Epoch) -> None:
        """One step of every environment, into the experience and the account of episodes."""
        env, memory = self.env, self.memory
        random = self.total_steps < self.config.warm_up and not self.warm
        self._decide(epoch, random)
        if not torch.isfinite(memory.action).all():
            # Before the world is blamed for what it makes of such actions.
            refuse_divergence(self.network, self.total_steps, self.run)
        layouts = env.episode_seed.copy()  # an autoreset within the step replaces those that end
        step = env.step(self.network.action.to_world(memory.action.numpy()))
        after, last = self._observed(step)
        self.held += np.column_stack([step.reward, step.cost[:, : len(self.limits)]])
        self._remember(step, last)
        self.obs = after
        self.random |= random
        self.running_return += step.reward
        self.running_cost += step.cost
        self.running_length += 1
        self.total_cost += step.cost.sum(axis=0)
        self.total_steps += self.config.num_envs
        if step.ended.any():
            self._account(np.flatnonzero(step.ended), layouts, epoch)

    def _remember(self, step: Step, last: Tensor) -> None:
        """Rows of the decisions that have come to their end."""
        memory = self.memory
        moved = np.asarray(step.info.get("goal_met", np.zeros(len(last), np.bool_)), dtype=np.bool_)
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
        self.seen.add(Seen(memory.obs[rows], memory.action[rows], signal, discount, last[rows], jump, count))
        self.held[over] = 0.0
        memory.wait[rows] = 0

    def _observed(self, step: Step) -> tuple[Tensor, Tensor]:
        """The next observations, and those that the step led to: the last ones where an episode ended.

        Raises BadWorld for a number that is not finite.
        """
        after = self._encoded(step.obs)
        last = after
        if step.ended.any():
            rows = np.flatnonzero(step.ended)
            last = after.clone()
            last[rows] = self._encoded(observation_rows(step.final_obs, rows))
        self._refuse_bad(torch.from_numpy(np.isfinite(step.reward)), "reward")
        self._refuse_bad(torch.from_numpy(np.isfinite(step.cost).all(axis=1)), "cost")
        self._refuse_bad(torch.isfinite(after).all(dim=1), "observation")
        self._refuse_bad(torch.isfinite(last).all(dim=1), "final observation")
        return after, last

    def _refuse_bad(self, good: Tensor, what: str) -> None:
        if not bool(good.all()):
            raise BadWorld(self.env.id, what, int((~good).nonzero()[0]), self.total_steps // self.config.num_envs)

    def _account(self, rows: NDArray[np.int64], layouts: NDArray[np.uint32], epoch: Epoch) -> None:
        """Episodes that ended, and what they came to."""
        epoch.episode_return.extend(self.running_return[rows].tolist())
        epoch.cost.extend(self.running_cost[rows].copy())
        epoch.length.extend(self.running_length[rows].tolist())
        # Caution is steered by E[cost] of plans on fresh layouts: random actions are none, and layouts that failed an
        # audit cost more than the average.
        own = rows[(layouts[rows] < FAILED_FROM) & ~self.random[rows]]
        epoch.own_cost.extend(self.running_cost[own].copy())
        self.met = np.concatenate([self.met, layouts[rows]])[-MOST_MET:]
        self.recent_return = np.concatenate([self.recent_return, self.running_return[rows]])[-WINDOW:]
        self.recent_cost = np.concatenate([self.recent_cost, self.running_cost[rows]])[-WINDOW:]
        self.running_return[rows] = 0.0
        self.running_cost[rows] = 0.0
        self.running_length[rows] = 0
        self.random[rows] = False
        self.memory.begin(torch.from_numpy(rows), self.method.steps)

    def _log(self, epoch: Epoch) -> str:
        scalars = {f"update/{name}": float(torch.stack(values).mean()) for name, values in epoch.updates.items()}
        if epoch.fits:
            scalars["model/passes"] = float(sum(fit.passes for fit in epoch.fits))
            scalars["model/loss"] = float(np.mean([fit.loss for fit in epoch.fits]))
            scalars["model/held_out"] = float(np.mean([fit.held_out for fit in epoch.fits]))
        if epoch.feasible:
            scalars["plan/feasible"] = float(np.mean(epoch.feasible))
        if epoch.length:  # without a finished episode there is no estimate, and none is logged
            scalars["train/return"] = float(np.mean(epoch.episode_return))
            scalars["train/length"] = float(np.mean(epoch.length))
            for name, cost in zip(self.env.costs, np.mean(epoch.cost, axis=0), strict=True):
                scalars[f"train/{name}"] = float(cost)
        for k, name in enumerate(self.env.costs):
            scalars[f"train/total_{name}"] = float(self.total_cost[k])
        if self.handler is not None:
            for name, value in zip(self.method.limits, self.handler_state["multiplier"].tolist(), strict=True):
                scalars[f"constraint/caution_{name}"] = value
        self.run.log(self.total_steps, **scalars)
        return shown(self.recent_return, self.recent_cost)
