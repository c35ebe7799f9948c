"""The off-policy loop, written once: act, remember, take gradient steps, weigh reward against costs.

A row of the table is an `OffPolicyRecipe`: the update, what its configuration says of costs, its presets. An update
either weighs reward against costs with a handler's weights (`takes` "weights": OffPolicy or Constrained), or keeps
limits on the costs' values by itself (`takes` "limits": Limited).

What holds for every row:

* Time cuts an episode off without ending the task: the value of its last observation counts. Termination ends it.
* Before `warm_up` steps every environment draws an action of its own, uniformly; then gradient steps begin, and the
  policy acts. A warm start acts with its policy from the first step on.
* The multiplier moves when `episodes_per_move` episodes of the policy have ended, by the mean of the last `window`
  undiscounted episode costs, on fresh layouts; never by a gradient step, and never by episodes that random actions were
  part of. Episodes that end in the same step count one after the other, so that the number of environments does not
  change how often it moves.
* Observations' statistics stand still between epochs, and travel with the policy.
* A row with a handler may limit something other than the expected cost (`augmentation/kinds.py`). The replay holds the
  costs c̃ of the kind as they were charged: what adapts, ν of a CVaR, does so once an epoch, and rows from before are
  charged by the ν they were played with until they leave the replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl.augmentation.augment import Augmentation
from trueline.rl.augmentation.kinds import Expected, LimitOn, refuse_hard
from trueline.rl.augmentation.world import Augmented
from trueline.rl.env import VectorEnv
from trueline.rl.episodes import Ended, Finished, Recent, Steering
from trueline.rl.handlers.constraint import Handler, HandlerState, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.schedule import CostLimit
from trueline.rl.off_policy.networks import ActorQ, Guide, Learner, QNetwork, QPolicy, Shape, described
from trueline.rl.off_policy.replay import NStep, Replay, Transitions
from trueline.rl.off_policy.sac import Sac
from trueline.rl.perturb import Disturbance, NoisySensors
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.stepping import Stepping
from trueline.rl.training import (
    ActingSettings,
    Averaged,
    account_of,
    as_trained,
    evaluated,
    failing_layouts,
    held,
    limits_of,
    limits_over,
    one_world,
    refuse_all_warm_up,
    refuse_divergence,
    run_epochs,
    stated,
    trained_in,
    training_world,
    with_default,
)

Constraint = Lagrangian | PidLagrangian  # told apart by `kind`


class Update(Protocol):
    """How policy and critics learn from a replay: a frozen configuration, the default of its row's `update`."""

    @property
    def takes(self) -> Literal["weights", "limits"]:
        """What of its guide it goes by; see the head of this module."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether its policy has a deviation."""
        ...

    @property
    def twins(self) -> int:
        """Critics of the reward."""
        ...

    @property
    def batch(self) -> int:
        """Rows of a gradient step."""
        ...

    def learner(self, network: ActorQ) -> Learner:
        """What its gradient steps change. Raises ConfigError for actions it cannot take."""
        ...

    def act(self, network: ActorQ, features: Tensor, rng: torch.Generator) -> Tensor:
        """Actions [N, A] of training, exploring."""
        ...

    def learn(self, learner: Learner, batch: Transitions, guide: Guide, rng: torch.Generator) -> Mapping[str, Tensor]:
        """One gradient step on normalised rows. Returns numbers, whose means over an epoch are update/NAME."""
        ...


# --- settings ---


class OffPolicy(ActingSettings):
    """Settings every off-policy recipe shares; the defaults are OmniSafe's."""

    steps_per_epoch: int = Field(2000, ge=1)  # over all environments; between logs and updates of statistics
    gamma: float = Field(0.99, gt=0, le=1)
    cost_gamma: float = Field(0.99, gt=0, le=1)
    actor: QNetwork = QNetwork()
    critic: QNetwork = QNetwork()
    update: Sac = Sac()
    warm_up: int = Field(10_000, ge=1)  # steps of all environments before the first gradient step
    updates_per_step: float = Field(1.0, gt=0)  # gradient steps per step of an environment
    capacity: int = Field(1_000_000, ge=1)  # transitions that are sampled from: the last so many
    n_step: int = Field(1, ge=1)  # rewards summed before a value is bootstrapped
    normalise: bool = False  # observations, by their running statistics
    averaged_share: float = Field(0.0, ge=0, lt=1)  # last share of training whose policies' weights are averaged
    disturbance: Disturbance | None = None  # drawn anew for every training episode

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        rows = self.num_envs * self.n_step
        if self.warm_up < rows:
            raise ValueError(
                f"warm_up is {self.warm_up}, but the first transition is there after {rows} steps (num_envs x n_step). "
                "Give a warm_up of at least that."
            )
        if self.capacity < rows:
            raise ValueError(
                f"capacity is {self.capacity}, but one step may add {rows} transitions (num_envs x n_step). "
                "Give a capacity of at least that."
            )
        return self


class Limited(OffPolicy):
    """Settings of a recipe that keeps episode costs under limits."""

    cost_limit: CostLimit = 25.0  # d, undiscounted per episode: one number, one per cost, or by name; or how it moves


class Constrained(Limited):
    """Settings of one whose constraint handler weighs each cost against the reward."""

    window: int = Field(50, ge=1)  # finished episodes whose mean is J_C
    constraint: Constraint = Lagrangian(lr=0.01)
    episodes_per_move: int = Field(1, ge=1)  # finished episodes from one move of the multiplier to the next
    limit_on: LimitOn = Expected()  # what cost_limit limits: the expected cost, a rate, a chance, a tail

    @model_validator(mode="before")
    @classmethod
    def _no_multiplier_keeps_it(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            refuse_hard(given.get("limit_on"))
        return given


@dataclass(frozen=True)
class OffPolicyRecipe:
    """A row: a name, what its configuration says of costs, its named settings, and its update.

    `Config` becomes that configuration with the given update as the default of its `update`. Raises ConfigError for an
    update that has no use for what the configuration says of costs, or needs more.
    """

    name: str
    Config: type[OffPolicy]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    update: Update = field(default_factory=Sac)

    def __post_init__(self) -> None:
        """Refuse what does not compose, and settle the configuration."""
        takes, row = self.update.takes, f"recipe {self.name!r}"
        limited, handled = issubclass(self.Config, Limited), issubclass(self.Config, Constrained)
        if takes == "limits" and (handled or not limited):
            raise ConfigError(f"{row} has an update that keeps limits by itself. Give Limited as its Config.")
        if takes == "weights" and limited and not handled:
            raise ConfigError(f"{row} has limits and nothing that would keep them. Use Constrained or OffPolicy.")
        object.__setattr__(self, "Config", with_default(self.Config, "update", self.update))

    def inputs_of(self, config: OffPolicy) -> Mapping[str, bool]:  # noqa: ARG002
        """A warm start."""
        return {"policy": False}

    def check(self, config: OffPolicy, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs. What depends on the inputs of a run is left to `train`.
        """
        refuse_all_warm_up(config.warm_up, config)
        for reference in config.layouts:
            failing_layouts(reference, root)
        with one_world(config.env, config.env_options) as world:
            rng = np.random.default_rng(0)
            env = as_trained(world, _cost_limit(config), config.disturbance, rules_of(config), rng, root=root)
            network = _network(config, env, torch.Generator().manual_seed(0))
            config.update.learner(network)

    def limits(self, config: OffPolicy) -> dict[str, float]:
        """The limit that each cost of the world is trained for, in the order of `cost_limit`; {} when none is.

        Raises as `check` does.
        """
        with one_world(config.env, config.env_options) as world:
            return limits_of(_cost_limit(config), world)

    def train(self, config: OffPolicy, run: Run, inputs: Mapping[str, Subject]) -> QPolicy:
        """Train a policy; `inputs["policy"]` is a warm start. Resumes from the run's last checkpoint.

        Raises ConfigError for settings that do not fit the world, BadWorld for a reward or observation that is not
        finite, Diverged when the networks are no longer finite.
        """
        return Trainer(config, run, inputs).train()


def _cost_limit(config: OffPolicy) -> CostLimit | None:
    return config.cost_limit if isinstance(config, Limited) else None


def _limit_on(config: OffPolicy) -> LimitOn:
    return config.limit_on if isinstance(config, Constrained) else Expected()


def rules_of(config: OffPolicy) -> Augmentation | None:
    """The rules under which training episodes are played; None where they are the world's own."""
    limit_on = _limit_on(config)
    return None if isinstance(limit_on, Expected) else limit_on


def _network(config: OffPolicy, world: VectorEnv, rng: torch.Generator) -> ActorQ:
    update = config.update
    costs = world.costs if isinstance(config, Limited) else ()
    shape = Shape(update.twins, tuple(costs), config.actor, config.critic, update.stochastic, config.normalise)
    return ActorQ(ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space), shape, rng)


def value_limit(limit: Tensor, gamma: float, steps: int) -> Tensor:
    """d̃ = d·(1 − γᵀ)/((1 − γ)T): the discounted cost from a state on, of T steps that cost d/T each.

    An update that limits Q_c, discounted and on average over states, needs the episode's undiscounted limit d in that
    unit (Liu et al. 2022, appendix). It is exact where cost is spread evenly, or γ = 1 and episodes have one step.
    """
    if gamma == 1.0:
        return limit.clone()
    return limit * ((1.0 - gamma**steps) / ((1.0 - gamma) * steps))


# --- the loop ---


@dataclass(slots=True)
class Epoch:
    """The episodes that ended in an epoch, and what of them was charged where that is not what the world charged."""

    ended: Ended = field(default_factory=Ended)
    charged: list[NDArray[np.float64]] = field(default_factory=list)  # [K] each


class Trainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: OffPolicy, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)
        world = training_world(config, run)
        self.path = limits_over(_cost_limit(config), world, run.folder.parent)
        self.limited = self.path.final
        parent = inputs.get("policy")
        self.env = trained_in(run, world, _cost_limit(config), config.disturbance, rules_of(config), parent)
        self.rules = self.env if isinstance(self.env, Augmented) else None
        self.codec = ObservationCodec.of(self.env.observation_space)
        self.network = _network(config, self.env, run.torch_rng("networks"))
        if parent is not None:
            self._warm_start(parent)
        self.warm = parent is not None
        self.update: Update = config.update
        self.learner = self.update.learner(self.network)
        if isinstance(parent, QPolicy) and "log_alpha" in self.learner.own and "temperature" in parent.shape:
            self.learner.own["log_alpha"] = torch.tensor(parent.shape["temperature"], dtype=torch.float64).log()
        self.handler: Handler | None = config.constraint if isinstance(config, Constrained) else None
        self.handler_state: HandlerState = {}
        if self.handler is not None:
            self.handler_state = self.handler.start(len(self.env.costs), getattr(parent, "multipliers", None))
        k = len(self.env.costs)
        self.critics_costs = len(self.network.shape.costs)
        gamma = np.array([config.gamma, *[config.cost_gamma] * self.critics_costs])
        action = self.network.action
        self.n_step = NStep.start(config.n_step, gamma, config.num_envs)
        self.replay = Replay(config.capacity, self.codec.width, action.width, self.critics_costs, run.folder / "replay")
        self.stepping = Stepping(self.env, self.codec)
        window = config.window if isinstance(config, Constrained) else 50
        self.steering, self.recent = Steering(k, window), Recent(k, window)
        self.since_move = 0  # finished episodes since the multiplier moved
        self.paid = account_of(self.env.costs, self.limited, _limit_on(config))
        self.owed = 0.0  # gradient steps that the steps taken so far have earned
        self.averaged = Averaged(self.network, config.averaged_share)
        self.epoch, self.epochs = 0, config.epochs
        self.parent = run.parent()
        self.guide = self._guide()

    def _warm_start(self, parent: Subject) -> None:
        """The parent's policy, statistics and critics; critics that it does not have begin anew."""
        if not isinstance(parent, QPolicy):
            raise ConfigError(
                f"the warm start is a {parent.kind!r}, not an off-policy policy. Give one that an off-policy row made."
            )
        own, theirs = self.network, parent.network
        had, wanted = theirs.shape, own.shape
        fits = (
            had._replace(costs=wanted.costs) == wanted
            and theirs.action == own.action
            and theirs.encoder.width == own.encoder.width
            and (not had.costs or not wanted.costs or had.costs == wanted.costs)
        )
        if not fits:
            raise ConfigError(
                f"the warm start was trained on {parent.world.id} with other networks. Use the same world, hidden "
                "sizes, costs, normalise and kind of policy."
            )
        own.actor.load_state_dict(theirs.actor.state_dict())
        own.encoder.load_state_dict(theirs.encoder.state_dict())
        shared = min(own.critics.heads, theirs.critics.heads)
        with torch.no_grad():
            for mine, given in zip(own.critics.parameters(), theirs.critics.parameters(), strict=True):
                mine[:shared].copy_(given[:shared])

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.stepping.total_steps

    def limits(self) -> Tensor:
        """[K] what episode costs are held under in this epoch, as training counts them: d, or another kind's d̃."""
        if self.rules is not None:
            return torch.as_tensor(self.rules.limits())
        return torch.as_tensor(self.path.in_epoch(self.epoch, self.epochs))

    def _guide(self) -> Guide:
        """What the constraint says as it stands."""
        config = self.config
        if self.handler is not None:
            weights = self.handler.weights(self.handler_state)
        else:
            weights = unconstrained(self.critics_costs)
        return Guide(weights, value_limit(self.limits(), config.cost_gamma, self.env.max_episode_steps))

    # -- checkpoints --

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next; new transitions go to disk with it."""
        return {
            "network": dict(self.network.state_dict()),
            "learner": self.learner.state_dict(),
            "replay": self.replay.record(),
            "n_step": self.n_step.state_dict(),
            "handler": dict(self.handler_state),
            "stepping": self.stepping.state_dict(),
            "steering": self.steering.state_dict(),
            "recent": self.recent.state_dict(),
            "rules": None if self.rules is None else dict(self.rules.parameters),
            "since_move": self.since_move,
            "paid": self.paid.state_dict(),
            "owed": self.owed,
            "averaged": self.averaged.state_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; a world without `state_dict` starts new episodes instead."""
        self.network.load_state_dict(state["network"])
        self.learner.load_state_dict(state["learner"])
        self.replay.restore(state["replay"])
        self.handler_state = dict(state["handler"])
        self.steering.load_state_dict(state["steering"])
        self.recent.load_state_dict(state["recent"])
        if self.rules is not None:
            self.rules.parameters = dict(state["rules"])
        self.since_move = int(state["since_move"])
        self.paid.load_state_dict(state["paid"])
        self.owed = float(state["owed"])
        self.averaged.load_state_dict(state["averaged"])
        self.epoch = int(state["epoch"])
        self.guide = self._guide()
        if self.stepping.load_state_dict(state["stepping"]):
            self.n_step.restore(state["n_step"])

    # -- training --

    def train(self) -> QPolicy:
        """All epochs, then the policy: the last one, or the average of the last `averaged_share` of them."""
        config, run, saved = self.config, self.run, self.run.restore()
        if saved is None:
            self.replay.restore(None)
            self.stepping.reset()
        else:
            self.load_state_dict(saved)
        own = {f"train/{name}": limit for name, limit in self.limited.items()}
        write_limits(run, own if self.rules is None else stated(self.rules))
        with closing(self.env), evaluated(config, run, self.limited, _limit_on(config)) as finish:
            run_epochs(self, run, config.epoch_steps, config)
            self.averaged.settle()
            policy = self.policy()
            finish(self.total_steps, policy)
        return policy

    def policy(self) -> QPolicy:
        """The policy as it stands; it shares its weights with the training."""
        shape: dict[str, Any] = {**described(self.network.shape), "layouts_met": self.stepping.met.tolist()}
        if self.handler is not None:
            shape["multipliers"] = self.handler_state["multiplier"].tolist()
        elif "multiplier" in self.learner.own:
            shape["multipliers"] = self.learner.own["multiplier"].tolist()
        if "log_alpha" in self.learner.own:
            shape["temperature"] = float(self.learner.own["log_alpha"].exp())
        by = None if self.rules is None else self.rules.reference()
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options), augmentation=by)
        return QPolicy(self.network, self.codec, world, shape, self.parent)

    def one_epoch(self) -> str:
        """Act, remember and learn, log; returns what is shown beside the bar."""
        config, norm = self.config, self.network.encoder.norm
        assert norm is not None
        if isinstance(self.env, NoisySensors):
            # Noise is stated in deviations of each sensor, as in the audits; these are the deviations seen so far.
            self.env.set_scale(1.0 / norm.scale32.numpy())
        self.guide = self._guide()  # the limit may have moved
        limits = self.limits()
        seen = np.zeros((config.env_steps, *self.stepping.obs.shape), dtype=np.float32)
        epoch = Epoch()
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for t in range(config.env_steps):
            seen[t] = self.stepping.obs
            self._act(epoch)
            if self.total_steps < config.warm_up:
                continue
            self.owed += config.updates_per_step * config.num_envs
            while self.owed >= 1.0:
                self.owed -= 1.0
                for name, value in self._gradient_step().items():
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + 1
        refuse_divergence(self.network, self.total_steps, self.run)
        norm.update(torch.from_numpy(seen).flatten(0, 1))
        self.epoch += 1
        self.averaged.take(self.epoch, self.epochs)
        report = {name: float(total) / counts[name] for name, total in sums.items()}
        note = self._log(epoch, report, limits)
        if self.rules is not None and epoch.ended.length:
            self.rules.adapt(self.recent.cost)
            self.steering.shift((self.limits() - limits).numpy())
        self.run.offer(self.total_steps, self.policy)
        return note

    def _gradient_step(self) -> Mapping[str, Tensor]:
        rng = self.run.torch_rng("update")
        rows = self.replay.sample(self.update.batch, rng)
        if self.config.normalise:
            norm = self.network.encoder.norm
            assert norm is not None
            rows = rows._replace(obs=norm(rows.obs), after=norm(rows.after))
        return self.update.learn(self.learner, rows, self.guide, rng)

    def _at_random(self) -> bool:
        """Whether actions are drawn uniformly, until the warm-up is over."""
        return self.total_steps < self.config.warm_up and not self.warm

    def _actions(self) -> NDArray[np.float32]:
        """Stored actions [N, A]: uniform ones, of each environment its own, until the warm-up is over."""
        if self._at_random():
            action, rng = self.network.action, self.run.rng("warm-up")
            n = self.config.num_envs
            if action.kind == "continuous":
                return rng.uniform(-1.0, 1.0, (n, action.width)).astype(np.float32)
            return rng.integers(action.sizes, size=(n, action.width)).astype(np.float32)
        with torch.no_grad():
            features = self.network.features({"vector": torch.from_numpy(self.stepping.obs)})
            found: NDArray[np.float32] = self.update.act(self.network, features, self.run.torch_rng("collect")).numpy()
        if not np.isfinite(found).all():
            # Before the world is blamed for what it makes of such actions.
            refuse_divergence(self.network, self.total_steps, self.run)
        return found

    def _act(self, epoch: Epoch) -> None:
        """One step of every environment, into the replay and the account of episodes."""
        random, actions = self._at_random(), self._actions()
        taken, finished = self.stepping.step(self.network.action.to_world(actions), random)
        step = taken.step
        signal = np.column_stack([step.reward, step.cost[:, : self.critics_costs]])
        self.replay.add(self.n_step.push(taken.obs, actions, signal, taken.after, step.terminated, step.ended))
        if self.rules is None:
            self.paid.total += step.cost.sum(axis=0)
        if finished is not None:
            self._account(finished, epoch)

    def _account(self, finished: Finished, epoch: Epoch) -> None:
        """Episodes that ended: what they came to, and what the constraint makes of it."""
        played = self._played(finished)
        epoch.ended.add(finished, played)
        epoch.charged.extend(finished.cost)
        self.recent.add(finished.episode_return, played[finished.own])
        for i in np.flatnonzero(finished.own).tolist():
            self.steering.add(finished.cost[i, None], finished.length[i, None])
            self.since_move += 1
            if isinstance(self.config, Constrained) and self.since_move == self.config.episodes_per_move:
                self._move_multiplier()

    def _move_multiplier(self) -> None:
        assert self.handler is not None
        self.since_move = 0
        measured = torch.as_tensor(self.steering.cost)
        self.handler_state = self.handler.update(self.handler_state, measured, self.limits())
        self.guide = self._guide()

    def _played(self, finished: Finished) -> NDArray[np.float64]:
        """What the world itself charged the episodes that have just ended, [E, K]."""
        if self.rules is None:
            return finished.cost
        played = self.rules.drained()
        self.paid.total += played.total_cost
        return played.episode_cost

    def _log(self, epoch: Epoch, report: Mapping[str, float], limits: Tensor) -> str:
        if self.rules is not None:
            self.paid.total += self.rules.drained().total_cost  # of the episodes that are still running
        scalars = {f"update/{name}": value for name, value in report.items()}
        scalars |= self.path.logged(limits.numpy())
        scalars["update/gradient_steps"] = float(self.learner.steps)
        scalars |= epoch.ended.logged(self.env.costs)
        self.paid.end_epoch(epoch.ended.cost)
        scalars |= self.paid.logged()
        if self.rules is not None:
            scalars |= held(self.rules, np.array(epoch.charged).reshape(-1, len(self.env.costs)))
        if self.handler is not None:
            weights = self.guide.weights
            for k, name in enumerate(self.env.costs):
                scalars[f"constraint/multiplier_{name}"] = float(weights.cost[k] / weights.reward)
        self.run.log(self.total_steps, **scalars)
        return self.recent.shown()
