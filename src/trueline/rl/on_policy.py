"""The on-policy loop, written once: collect, estimate, weigh reward against costs, update.

A row of the table of recipes is an `OnPolicyRecipe`: the update, what its configuration says of costs, its presets.
What the update takes of an advantage (rl/updates/rows.py) decides what the configuration can be:

    takes       settings of the row
    "mixed"     OnPolicy (reward alone) or Constrained
    "weights"   Constrained
    "slack"     Limited: limits, but no handler

A row whose episodes are played under rules that keep the limits by themselves (`Budgeted`) goes with a mixed advantage:
there is nothing left to weigh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.errors import ConfigError, Diverged
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl.augmentation.augment import Augmentation
from trueline.rl.augmentation.kinds import Expected, LimitOn, refuse_hard
from trueline.rl.augmentation.saute import Saute
from trueline.rl.augmentation.world import Augmented, Budget, Played
from trueline.rl.collect import Batch, Collector
from trueline.rl.env import VectorEnv
from trueline.rl.episodes import MOST_MET, Recent, Steering, fresh, latest
from trueline.rl.estimates import estimate, slack_of
from trueline.rl.handlers.barrier import Barrier
from trueline.rl.handlers.constraint import Handler, HandlerState, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.schedule import CostLimit, Limits
from trueline.rl.handlers.switching import Switching
from trueline.rl.networks import ActorNetwork, Encoder, Network
from trueline.rl.parallel import JoinedCollector, Learners, followed, followers_states, learners, stop_together
from trueline.rl.perturb import Disturbance, NoisySensors
from trueline.rl.policy import NetworkPolicy, WorldRef, made
from trueline.rl.recurrent import Gru
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.training import (
    ActingSettings,
    Averaged,
    account_of,
    as_trained,
    failing_layouts,
    held,
    limits_of,
    limits_over,
    one_world,
    refuse_divergence,
    run_epochs,
    stated,
    trained_in,
    training_seeds,
    with_default,
)
from trueline.rl.updates.ppo import MinibatchPasses, Ppo
from trueline.rl.updates.rows import Rows, Update
from trueline.rl.updates.trust_region import refuse_more_limits
from trueline.rl.watching import Watching
from trueline.rl.worlds import make

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from trueline.rl.together import Ending

Constraint = Lagrangian | PidLagrangian | Barrier | Switching  # told apart by `kind`


# --- settings ---


class OnPolicy(ActingSettings):
    """Settings every on-policy recipe shares."""

    total_steps: int = Field(10_000_000, ge=1)
    gamma: float = Field(0.99, gt=0, le=1)
    cost_gamma: float = Field(0.99, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)  # λ of GAE
    cost_lam: float = Field(0.95, ge=0, le=1)
    actor: ActorNetwork = ActorNetwork()
    critic: Network = Network()
    update: Ppo = Ppo()
    memory: Gru | None = None  # what policy and critics remember; only of updates by minibatch steps
    standardise: Literal["reward", "mix"] = "reward"  # which advantage has scale one; see `estimates.weighed`
    averaged_share: float = Field(0.0, ge=0, lt=1)  # last share of training whose policies' weights are averaged
    disturbance: Disturbance | None = None  # drawn anew for every training episode

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        steps = self.env_steps
        if self.memory is not None and not isinstance(self.update, MinibatchPasses):
            raise ValueError("this update takes its step in closed form, which knows of no memory. Use a PPO row.")
        if self.memory is not None and steps % self.memory.segment:
            raise ValueError(
                f"memory.segment is {self.memory.segment}, which does not divide the {steps} steps of an epoch in each "
                "environment. Give a divisor."
            )
        takes = self.update.takes
        if self.standardise == "mix" and takes != "mixed":
            raise ValueError(
                f"standardise is 'mix', but this update takes {takes}, not one mixed advantage. Leave it at 'reward'."
            )
        return self


class Capped(OnPolicy):
    """Settings of every recipe that knows of limits."""

    cost_limit: CostLimit = 25.0  # d, undiscounted per episode: one number, one per cost, or by name; or how it moves
    window: int = Field(100, ge=1)  # finished episodes whose mean is J_C


class Budgeted(Capped):
    """Settings of a recipe whose episodes are played under rules that keep the limits: the reward is all it weighs."""

    augmentation: Budget = Saute()


class Limited(Capped):
    """Settings of a recipe that keeps a measure of episode costs under limits."""

    without: ClassVar[Mapping[str, str]] = {"constraint": "the update solves for its limits and takes no handler"}
    limit_on: LimitOn = Expected()  # what cost_limit limits: the expected cost, a rate, a chance, a tail

    @model_validator(mode="before")
    @classmethod
    def _no_multiplier_keeps_it(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            refuse_hard(given.get("limit_on"))
        return given


class Constrained(Limited):
    """Settings of one whose constraint handler weighs each cost against the reward."""

    constraint: Constraint = Lagrangian()


@dataclass(frozen=True)
class OnPolicyRecipe:
    """A row: a name, what its configuration says of costs, its named settings, its update, and its rules, if any.

    `Config` becomes that configuration with the given update as the default of its `update`, and the given rules as
    that of its `augmentation`. Raises ConfigError for an update that has no use for what the configuration says of
    costs, or needs more, and for rules where the configuration has none.
    """

    name: str
    Config: type[OnPolicy]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    update: Update = field(default_factory=Ppo)
    augmentation: Budget | None = None
    data_parallel: ClassVar[bool] = True  # several processes may train one policy: see rl/parallel.py

    def __post_init__(self) -> None:
        """Refuse what does not compose, and settle the configuration."""
        takes, row = self.update.takes, f"recipe {self.name!r}"
        limited, handled = issubclass(self.Config, Limited), issubclass(self.Config, Constrained)
        if handled and takes == "slack":
            raise ConfigError(
                f"{row} puts a constraint handler on an update that takes slack and solves for the constraint itself. "
                "Give Limited as its Config."
            )
        if not handled and takes == "weights":
            raise ConfigError(f"{row} has an update that takes weights and nothing to set them. Use Constrained.")
        if not limited and takes == "slack":
            raise ConfigError(f"{row} has an update that takes slack, but no limit to measure it from. Use Limited.")
        if limited and not handled and takes == "mixed":
            raise ConfigError(f"{row} has limits that a mixed advantage cannot know of. Use Constrained or OnPolicy.")
        if self.augmentation is not None and not issubclass(self.Config, Budgeted):
            raise ConfigError(f"{row} has rules that keep limits, but no settings for them. Use Budgeted.")
        settings = with_default(self.Config, "update", self.update)
        if self.augmentation is not None:
            settings = with_default(settings, "augmentation", self.augmentation)
        object.__setattr__(self, "Config", settings)

    def inputs_of(self, config: OnPolicy) -> Mapping[str, bool]:  # noqa: ARG002
        """A warm start."""
        return {"policy": False}

    def check(self, config: OnPolicy, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs. What depends on the inputs of a run is left to `train`.
        """
        for reference in config.layouts:
            failing_layouts(reference, root)
        with one_world(config.env, config.env_options) as world:
            rng = np.random.default_rng(0)
            env = as_trained(world, _cost_limit(config), config.disturbance, rules_of(config), rng, root=root)
            if config.update.takes == "slack":
                refuse_more_limits(len(env.costs))
            Encoder(ObservationCodec.of(env.observation_space), torch.Generator())  # refuses pictures too small for it
            ActionCodec.of(env.action_space)

    def limits(self, config: OnPolicy) -> dict[str, float]:
        """The limit that each cost of the world is trained for, in the order of `cost_limit`; {} when none is.

        Raises as `check` does.
        """
        with one_world(config.env, config.env_options) as world:
            return limits_of(_cost_limit(config), world)

    def train(self, config: OnPolicy, run: Run, inputs: Mapping[str, Subject]) -> NetworkPolicy:
        """Train a policy; `inputs["policy"]` is a warm start. Resumes from the run's last checkpoint.

        Raises ConfigError for settings that do not fit the world, BadWorld for a reward or observation that is not
        finite, Diverged when the networks are no longer finite.
        """
        return Trainer(config, run, inputs).train()

    def check_together(self, config: OnPolicy, root: Path) -> None:
        """Raises what `check` does, and ConfigError for settings under which seeds cannot be trained together."""
        from trueline.rl.together import refuse_unstackable

        self.check(config, root)
        refuse_unstackable(config)

    def train_together(self, config: OnPolicy, runs: Sequence[Run], inputs: Mapping[str, Subject]) -> list[Ending]:
        """Train a policy in each of the runs, which differ in their seeds, all in one stack: see rl/together.py."""
        from trueline.rl.together import train_together

        return train_together(config, runs, inputs)


def _cost_limit(config: OnPolicy) -> CostLimit | None:
    return config.cost_limit if isinstance(config, Capped) else None


def _limit_on(config: OnPolicy) -> LimitOn:
    return config.limit_on if isinstance(config, Limited) else Expected()


def rules_of(config: OnPolicy) -> Augmentation | None:
    """The rules under which training episodes are played; None where they are the world's own."""
    if isinstance(config, Budgeted):
        return config.augmentation
    limit_on = _limit_on(config)
    return None if isinstance(limit_on, Expected) else limit_on


# --- the loop ---


class TakenIn(NamedTuple):
    """A collection that was counted and estimated: what the update is given, and what is logged of it."""

    batch: Batch
    played: Played
    limits: Tensor  # [K] of this epoch
    steered: bool  # an episode ended that constraints are steered by
    rows: Rows[Any]


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(
        self, config: OnPolicy, run: Run, inputs: Mapping[str, Subject], world: VectorEnv | None = None
    ) -> None:
        """Builds the networks, and the world where none is given: the share of it that this learner plays.

        Raises ConfigError for environments that learners cannot share out evenly.
        """
        self.config, self.run = config, run
        self.learners = learners()
        # Worlds give the same bits on any number of threads, the learner does not: its number is a setting, so that a
        # run's result depends on its settings and seed alone.
        torch.set_num_threads(config.learner_threads)
        if world is None:
            own = _own_envs(config.num_envs, self.learners)
            world = make(config.env, own, run.manifest["threads"], **config.env_options)
        self.path: Limits = limits_over(_cost_limit(config), world, run.folder.parent)
        self.limited = self.path.final
        self.handler: Handler | None = config.constraint if isinstance(config, Constrained) else None
        world.seed_source = training_seeds(run, config.layouts, config.layouts_share)
        parent = inputs.get("policy")
        self.env = trained_in(run, world, _cost_limit(config), config.disturbance, rules_of(config), parent)
        self.rules = self.env if isinstance(self.env, Augmented) else None
        observation = ObservationCodec.of(self.env.observation_space)
        steps = config.env_steps
        action = ActionCodec.of(self.env.action_space)
        costs, rng = len(self.env.costs), run.torch_rng("networks")
        self.network = made(observation, action, costs, config.actor, config.critic, config.memory, rng)
        if parent is not None:
            self._warm_start(parent)
        self.update: Update = config.update
        self.adam = self.update.optimiser(self.network)
        self.own_collector = Collector(self.env, observation, steps, action.width)  # of the environments played here
        self.collector: Collector | JoinedCollector = self.own_collector
        if self.learners.size > 1:
            self.collector = JoinedCollector(self.own_collector, self.learners)
        self.followers: list[dict[str, Any]] = []  # what the other learners need to go on from here
        self.handler_state: HandlerState = {}
        if self.handler is not None:
            learnt = getattr(parent, "multipliers", None)
            self.handler_state = self.handler.start(len(self.env.costs), learnt)
        window = config.window if isinstance(config, Capped) else 100
        self.steering = Steering(costs, window)
        self.recent = Recent(costs, window)
        self.paid = account_of(self.env.costs, self.limited, _limit_on(config))
        self.watching: Watching | None = None  # from `begin` on
        self.averaged = Averaged(self.network, config.averaged_share)
        self.epoch, self.epochs = 0, config.epochs
        self.shape: dict[str, Any] = {
            "actor": config.actor.model_dump(mode="json"),
            "critic": config.critic.model_dump(mode="json"),
            "costs": list(self.env.costs),
        }
        if config.memory is not None:
            self.shape["memory"] = config.memory.model_dump(mode="json")
        self.parent = run.parent()
        self.met = np.zeros(0, dtype=np.uint32)  # layouts of the last training episodes

    def limits(self) -> Tensor:
        """[K] what episode costs are held under in this epoch, as training counts them: d, or another kind's d̃."""
        if self.rules is not None:
            return torch.as_tensor(self.rules.limits())
        return torch.as_tensor(self.path.in_epoch(self.epoch, self.epochs))

    def _warm_start(self, parent: Subject) -> None:
        if not isinstance(parent, NetworkPolicy):
            raise ConfigError(
                f"the warm start is a {parent.kind!r}, not a policy. Give a policy that was trained here."
            )
        try:
            self.network.load_state_dict(parent.network.state_dict())
        except RuntimeError:
            raise ConfigError(
                f"the warm start was trained on {parent.world.id} with other network shapes. "
                "Use the same world, hidden sizes and number of costs."
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "network": dict(self.network.state_dict()),
            "adam": self.adam.state_dict(),
            "handler": dict(self.handler_state),
            "collector": self.collector.state_dict(),
            "steering": self.steering.state_dict(),
            "recent": self.recent.state_dict(),
            "rules": None if self.rules is None else dict(self.rules.parameters),
            "paid": self.paid.state_dict(),
            "met": self.met,
            "averaged": self.averaged.state_dict(),
            "epoch": self.epoch,
        } | ({"followers": self.followers} if self.learners.size > 1 else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        self.handler_state = dict(state["handler"])
        if self.rules is not None:
            self.rules.parameters = dict(state["rules"])
        self.collector.restore(state["collector"])
        self.steering.load_state_dict(state["steering"])
        self.recent.load_state_dict(state["recent"])
        self.paid.load_state_dict(state["paid"])
        self.met = state["met"]
        self.averaged.load_state_dict(state["averaged"])
        self.epoch = int(state["epoch"])

    def train(self) -> NetworkPolicy:
        """All epochs, then the policy: the last one, or the average of the last `averaged_share` of them."""
        self.begin()
        try:
            run_epochs(self, self.run, self.epoch_steps, self.config)
        finally:
            self.close()
        return self.end()

    def begin(self) -> None:
        """Go on from the run's last checkpoint, or start."""
        saved = self.learners.from_first(self.run.restore())
        if saved is None:
            self.collector.start()
        else:
            self.load_state_dict(followed(self.run, saved, self.learners))
        write_limits(self.run, self._stated() if self.limited else {})
        self.watching = self._watching()

    def close(self) -> None:
        """Let the worlds go."""
        self.env.close()
        if self.watching is not None:
            self.watching.close()

    def end(self) -> NetworkPolicy:
        """What all epochs came to."""
        self.averaged.settle()
        policy = self.policy()
        if self.watching is not None:
            self.watching.finish(self.total_steps, policy)
        return policy

    def _watching(self) -> Watching | None:
        """The evaluations that the settings ask for, put before the run's own watch."""
        config = self.config
        if config.evaluation is None or not self.learners.leads:
            return None
        limit_on = _limit_on(config)
        watching = Watching(config.evaluation, self.run, self.limited, self.epoch_steps, self.epochs, limit_on)
        self.run.watch = watching
        return watching

    def _stated(self) -> dict[str, float]:
        """The limits as they were set, by the name of what is logged and held against them."""
        if self.rules is None or isinstance(self.config, Budgeted):
            return {f"train/{name}": limit for name, limit in self.limited.items()}
        return stated(self.rules)

    def policy(self) -> NetworkPolicy:
        """The policy as it stands; it shares its weights with the training."""
        shape: dict[str, Any] = {**self.shape, "layouts_met": self.met.tolist()}
        if self.handler is not None and not isinstance(self.handler, Switching):  # a switch is no price of a cost
            shape["multipliers"] = self.handler_state["multiplier"].tolist()
        by = None if self.rules is None else self.rules.reference()
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options), augmentation=by)
        return NetworkPolicy(self.network, self.collector.codec, world, shape, self.parent)

    @property
    def epoch_steps(self) -> int:
        """Steps of all environments in an epoch."""
        return self.collector.steps * self.config.num_envs

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.collector.total_steps

    def one_epoch(self) -> str:
        """Collect, update, log; returns what is shown beside the bar."""
        self.tell_scale()
        taken = self.take_in(self.collector.collect(self.network, self.run.torch_rng("collect")))
        rng = self.run.torch_rng("update")
        try:
            report = self.update.learn(self.network, self.adam, taken.rows, self.epoch / self.epochs, rng)
        except FloatingPointError:
            raise Diverged(self.total_steps, "policy gradient", self.run.last_checkpoint) from None
        return self.conclude(taken, report)

    def tell_scale(self) -> None:
        """Noise is stated in deviations of each sensor, as in the audits: these are the deviations seen so far."""
        norm = self.network.encoder.norm
        if isinstance(self.env, NoisySensors) and norm is not None:
            self.env.set_scale(1.0 / norm.scale32.numpy())

    def take_in(self, batch: Batch) -> TakenIn:
        """Count the episodes, steer the constraint, and estimate what the update takes."""
        config = self.config
        played = self._played(batch)
        limits = self.limits()
        own = fresh(batch.episode_seed)
        self.steering.add(batch.episode_cost[own], batch.episode_length[own])
        self.met = latest(self.met, batch.episode_seed, MOST_MET)
        self.recent.add(played.episode_return, played.episode_cost[own])
        self.paid.total += played.total_cost
        self.paid.end_epoch(played.episode_cost)
        steered = bool(own.any())
        if self.handler is not None and steered:
            measured = torch.as_tensor(self.steering.cost)
            self.handler_state = self.handler.update(self.handler_state, measured, limits)
        weights = self.handler.weights(self.handler_state) if self.handler else unconstrained(len(self.env.costs))
        slack = slack_of(self.steering.cost, self.steering.length, limits) if self.limited else None
        rows = estimate(batch, self.network, config, weights, slack)
        rows.learners = self.learners
        return TakenIn(batch, played, limits, steered, rows)

    def conclude(self, taken: TakenIn, report: DataclassInstance) -> str:
        """Once the update is done: statistics, logs, rules and whoever looks; returns what is shown beside the bar."""
        run = self.run
        refuse_divergence(self.network, self.total_steps, run)
        if self.network.encoder.norm is not None:
            # After the update, so that the policy that acted and the one that is updated see the same inputs.
            self.network.encoder.norm.update(taken.batch.inputs["vector"][:-1].flatten(0, 1))
        self.epoch += 1
        self.averaged.take(self.epoch, self.epochs)
        note = self._log(taken.batch, taken.played, report, taken.limits)
        if self.rules is not None and taken.steered:
            self.rules.adapt(self.recent.cost)
            self.steering.shift((self.limits() - taken.limits).numpy())
        run.offer(self.total_steps, self.policy)
        if self.learners.size > 1:
            self._meet()
        return note

    def _played(self, batch: Batch) -> Played:
        if self.rules is None:
            return _as_collected(batch)
        played = self.rules.drained()
        return self.collector.played(played) if isinstance(self.collector, JoinedCollector) else played

    def _meet(self) -> None:
        """Leave the epoch with all learners alike, and with what the first one's checkpoint has to hold of the rest.

        Alike they are by arithmetic on machines of one kind; on others a last bit may differ, and would be heard of.
        """
        # Cloned, since a view would be sent with all the storage it lies in.
        network = {name: x.clone() for name, x in self.network.state_dict().items()}
        same = self.learners.from_first({"network": network, "adam": self.adam.state_dict()})
        self.network.load_state_dict(same["network"])
        self.adam.load_state_dict(same["adam"])
        self.followers = followers_states(self.learners, self.run, self.collector.state_dict())
        stop_together(self.learners, self.run)

    def _log(self, batch: Batch, played: Played, report: DataclassInstance, limits: Tensor) -> str:
        scalars = {f"update/{name}": float(value) for name, value in asdict(report).items()}
        scalars |= self.path.logged(limits.numpy())
        if len(batch.episode_return):  # without a finished episode there is no estimate, and none is logged
            scalars["train/return"] = float(played.episode_return.mean())
            scalars["train/length"] = float(batch.episode_length.mean())
            for k, name in enumerate(self.env.costs):
                scalars[f"train/{name}"] = float(played.episode_cost[:, k].mean())
        scalars |= self.paid.logged()
        if self.handler is not None:
            for k, name in enumerate(self.env.costs):
                scalars[f"constraint/multiplier_{name}"] = float(self.handler_state["multiplier"][k])
        if self.rules is not None:
            scalars |= held(self.rules, batch.episode_cost, not isinstance(self.config, Budgeted))
        self.run.log(self.total_steps, **scalars)
        return self.recent.shown()


def _own_envs(num_envs: int, group: Learners) -> int:
    """How many of the environments each learner plays."""
    if num_envs % group.size:
        raise ConfigError(
            f"num_envs is {num_envs}, which {group.size} processes cannot share out evenly. "
            f"Give a multiple of {group.size}."
        )
    return num_envs // group.size


def _as_collected(batch: Batch) -> Played:
    """What a world without rules paid and charged is what was collected."""
    return Played(batch.episode_return, batch.episode_cost, batch.cost.sum(dim=(0, 1)).double().numpy())
