"""The loop of teams: collect with everybody's policy, estimate centrally, weigh or bound each agent's costs, update.

A row is a `TeamRecipe`: the update, what its configuration says of costs, its presets. Collections, handlers and
updates are those of one agent: for collecting, a team is one network that moves everybody, and for learning, an agent
is one policy with rows of its own.

The reward is the team's, the agents' mean, unless each is to follow its own; costs are each agent's own. By default an
agent answers for its own costs alone, as published (Gu et al. 2021): where a cost depends on what others do, nobody
else will spare it. `answers_for = "all"` makes each answer for all, which is the joint problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.errors import ConfigError, Diverged
from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.evidence.experiments.endings import write_limits
from trueline.rl import worlds
from trueline.rl.collect import Batch, Collector
from trueline.rl.env import VectorEnv
from trueline.rl.episodes import MOST_MET, Recent, Steering, fresh, latest
from trueline.rl.estimates import scaled, slack_of, weighed
from trueline.rl.handlers.barrier import Barrier
from trueline.rl.handlers.constraint import Handler, HandlerState, mix, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.schedule import CostLimit
from trueline.rl.handlers.switching import Switching
from trueline.rl.multi_agent import MultiAgentVectorEnv, as_one
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.policy import WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.teams.estimates import Estimates, Overview, estimate
from trueline.rl.teams.limits import team_limits, team_path
from trueline.rl.teams.networks import JointActor, Roster, Team, columns_of
from trueline.rl.teams.policy import TeamPolicy, observed
from trueline.rl.teams.updates import (
    Mappo,
    TeamUpdate,
    ValueFit,
    by_policy,
    critic_optimiser,
    fit_values,
    learn_in_turn,
    learn_together,
    moments,
    take_up,
)
from trueline.rl.teams.world import as_team
from trueline.rl.training import (
    ActingSettings,
    Averaged,
    account_of,
    evaluated,
    failing_layouts,
    refuse_divergence,
    run_epochs,
    training_seeds,
    with_default,
)
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.updates.surrogate import standardised
from trueline.rl.updates.trust_region import refuse_more_limits
from trueline.rl.worlds import make_multi_agent

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "ConstrainedTeam",
    "LimitedTeam",
    "TeamRecipe",
    "TeamSettings",
    "TeamTrainer",
]


# --- settings ---


class TeamSettings(ActingSettings):
    """Settings every recipe of teams shares."""

    env: str = "Safety2x4AntVelocity-v0"
    num_envs: int = Field(10, ge=1)  # N
    steps_per_epoch: int = Field(10_000, ge=1)  # over all environments
    total_steps: int = Field(10_000_000, ge=1)
    gamma: float = Field(0.99, gt=0, le=1)
    cost_gamma: float = Field(0.99, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)  # λ of GAE
    cost_lam: float = Field(0.95, ge=0, le=1)
    reward: Literal["team", "own"] = "team"  # what an agent learns from: the mean of all rewards, or its own
    parameters: Literal["own", "shared"] = "own"  # a policy per agent, or one that is told which agent it is
    critic_sees: Literal["state", "observations"] = "state"  # the world's state, or what all agents observe
    actor: ActorNetwork = ActorNetwork()
    critic: Network = Network()
    values: ValueFit = ValueFit()
    update: Mappo = Mappo()
    # which advantage has scale one: see `rl.estimates.weighed`; "each": the reward's and every cost's, before mixing
    standardise: Literal["reward", "mix", "each"] = "reward"
    averaged_share: float = Field(0.0, ge=0, lt=1)  # last share of training whose policies' weights are averaged

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.standardise != "reward" and self.update.takes != "mixed":
            raise ValueError(
                f"standardise is {self.standardise!r}, but this update takes {self.update.takes}, not one mixed "
                "advantage. Leave it at 'reward'."
            )
        if self.parameters == "shared" and self.update.in_turn:
            raise ValueError(
                "parameters is 'shared', but this update moves one agent after another, and a policy that all share "
                "would have moved for the others too. Set it to 'own'."
            )
        return self


class LimitedTeam(TeamSettings):
    """Settings of a recipe that keeps each agent's expected costs under limits."""

    # d, undiscounted cost per episode: one number, one per cost, or one per agent and cost, agent by agent or by
    # name, COST or AGENT/COST; or how that moves
    cost_limit: CostLimit = 25.0
    window: int = Field(100, ge=1)  # finished episodes whose mean is J_C
    answers_for: Literal["own", "all"] = "own"  # whose costs an agent weighs or bounds


class ConstrainedTeam(LimitedTeam):
    """Settings of one with a constraint handler for each agent: a multiplier per agent and cost."""

    constraint: Lagrangian | PidLagrangian | Barrier | Switching = Lagrangian()


@dataclass(frozen=True)
class TeamRecipe:
    """A row: a name, what its configuration says of costs, its named settings, its update.

    `Config` becomes that configuration with the given update as the default of its `update`. Raises ConfigError for an
    update that does not compose with what the configuration says of costs.
    """

    name: str
    Config: type[TeamSettings]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    update: TeamUpdate = field(default_factory=Mappo)

    def __post_init__(self) -> None:
        """Refuse what does not compose, and settle the configuration."""
        takes, row = self.update.takes, f"recipe {self.name!r}"
        limited, handled = issubclass(self.Config, LimitedTeam), issubclass(self.Config, ConstrainedTeam)
        if takes == "weights":
            raise ConfigError(f"{row} has an update that takes weights, which no agent is given. Use another.")
        if handled and takes == "slack":
            raise ConfigError(
                f"{row} puts a constraint handler on an update that takes slack and solves for the constraint itself. "
                "Give LimitedTeam as its Config."
            )
        if takes == "slack" and not limited:
            raise ConfigError(
                f"{row} has an update that takes slack, but no limit to measure it from. Use LimitedTeam."
            )
        if limited and not handled and takes == "mixed":
            raise ConfigError(f"{row} has limits that a mixed advantage cannot know of. Use ConstrainedTeam.")
        object.__setattr__(self, "Config", with_default(self.Config, "update", self.update))

    def inputs_of(self, config: TeamSettings) -> Mapping[str, bool]:  # noqa: ARG002
        """A warm start."""
        return {"policy": False}

    def check(self, config: TeamSettings, root: Path) -> None:
        """Raises, before a run exists, what `train` would raise at its start for the world or the layouts it is given.

        `root` is the folder of runs. What depends on the inputs of a run is left to `train`.
        """
        for reference in config.layouts:
            failing_layouts(reference, root)
        with closing(make_multi_agent(config.env, 1, **config.env_options)) as world:
            team_path(_cost_limit(config), world, root)
            roster = roster_of(config, world)
            if config.update.takes == "slack":
                whole = isinstance(config, LimitedTeam) and config.answers_for == "all"
                refuse_more_limits(len(roster.names) if whole else len(roster.costs))
            as_one(world)

    def limits(self, config: TeamSettings) -> dict[str, float]:
        """The limit of each agent's cost, by "AGENT/COST"; {} when none is limited.  Raises as `check` does."""
        with closing(make_multi_agent(config.env, 1, **config.env_options)) as world:
            return team_limits(_cost_limit(config), world)

    def train(self, config: TeamSettings, run: Run, inputs: Mapping[str, Subject]) -> TeamPolicy:
        """Train a team; `inputs["policy"]` is a warm start. Resumes from the run's last checkpoint.

        Raises ConfigError for settings that do not fit the world, BadWorld for a reward or observation that is not
        finite, Diverged when the networks are no longer finite.
        """
        return TeamTrainer(config, run, inputs).train()


def _cost_limit(config: TeamSettings) -> CostLimit | None:
    return config.cost_limit if isinstance(config, LimitedTeam) else None


def roster_of(config: TeamSettings, world: MultiAgentVectorEnv) -> Roster:
    """The roster of a world under these settings."""
    return Roster.of(world, config.reward, config.parameters, config.critic_sees)


# --- the loop ---


class TeamTrainer:
    """One training run: what it holds is exactly what a checkpoint stores."""

    def __init__(self, config: TeamSettings, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the world and the networks."""
        self.config, self.run = config, run
        torch.set_num_threads(config.learner_threads)  # the learner's number of threads changes bits: it is a setting
        world = make_multi_agent(config.env, config.num_envs, run.manifest["threads"], **config.env_options)
        self.path = team_path(_cost_limit(config), world, run.folder.parent)
        self.limited = self.path.final
        self.roster = roster_of(config, world)
        world.seed_source = training_seeds(run, config.layouts, config.layouts_share)
        self.env = as_one(world)
        codec = ObservationCodec.of(self.env.observation_space)
        action = ActionCodec.of(self.env.action_space)
        self.team = Team(self.roster, config.actor, config.critic, run.torch_rng("networks"))
        self.columns = [columns_of(codec, keys) for keys in observed(self.roster)]
        state = [columns_of(codec, ["state"])]
        self.overview = Overview(state if config.critic_sees == "state" else self.columns)
        self.actor = JointActor(self.team, self.columns, action)
        parent = inputs.get("policy")
        if parent is not None:
            self._warm_start(parent)
        self.update: TeamUpdate = config.update
        self.adams = by_policy(self.team, self.update)
        self.critic_adam = critic_optimiser(self.update, self.team.critic)
        self.collector = Collector(self.env, codec, config.env_steps, action.width)
        self.handler: Handler | None = config.constraint if isinstance(config, ConstrainedTeam) else None
        self.handler_states: dict[str, HandlerState] = {}
        agents, k = len(self.roster.agents), len(self.roster.costs)
        whole = isinstance(config, LimitedTeam) and config.answers_for == "all"
        self.answers = [slice(0, agents * k) if whole else slice(i * k, (i + 1) * k) for i in range(agents)]
        if self.handler is not None:
            learnt = parent.shape.get("multipliers", {}) if isinstance(parent, TeamPolicy) else {}
            for agent, columns_c in zip(self.roster.agents, self.answers, strict=True):
                before = torch.tensor(learnt[agent], dtype=torch.float64) if agent in learnt else None
                count = columns_c.stop - columns_c.start
                if before is not None and len(before) != count:
                    raise ConfigError(
                        f"the warm start has {len(before)} multipliers for {agent}, which answers for {count} costs "
                        "here. Set answers_for as it was trained."
                    )
                self.handler_states[agent] = self.handler.start(count, before)
        window = config.window if isinstance(config, LimitedTeam) else 100
        self.steering = Steering(agents * k, window)
        self.recent = Recent(agents * k, window)  # the return is the team's: the agents' mean
        self.paid = account_of(self.roster.names, self.limited)
        self.averaged = Averaged(self.team.members, config.averaged_share)
        self.epoch, self.epochs = 0, config.epochs
        self.parent = run.parent()
        self.met = np.zeros(0, dtype=np.uint32)  # layouts of the last training episodes

    def _warm_start(self, parent: Subject) -> None:
        if not isinstance(parent, TeamPolicy):
            raise ConfigError(f"the warm start is a {parent.kind!r}, not a team. Give a team that was trained here.")
        try:
            self.team.load_state_dict(parent.team.state_dict())
        except RuntimeError:
            raise ConfigError(
                f"the warm start was trained on {parent.world.id} with other network shapes. "
                "Use the same world, hidden sizes, rewards and parameters."
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "team": dict(self.team.state_dict()),
            "adams": moments(self.adams),
            "critic_adam": self.critic_adam.state_dict(),
            "handlers": {agent: dict(state) for agent, state in self.handler_states.items()},
            "collector": self.collector.state_dict(),
            "steering": self.steering.state_dict(),
            "recent": self.recent.state_dict(),
            "paid": self.paid.state_dict(),
            "met": self.met,
            "averaged": self.averaged.state_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.team.load_state_dict(state["team"])
        take_up(self.adams, state["adams"])
        self.critic_adam.load_state_dict(state["critic_adam"])
        self.handler_states = {agent: dict(saved) for agent, saved in state["handlers"].items()}
        self.collector.restore(state["collector"])
        self.steering.load_state_dict(state["steering"])
        self.recent.load_state_dict(state["recent"])
        self.paid.load_state_dict(state["paid"])
        self.met = state["met"]
        self.averaged.load_state_dict(state["averaged"])
        self.epoch = int(state["epoch"])

    def train(self) -> TeamPolicy:
        """All epochs, then the team: as it is last, or the average of the last `averaged_share` of them."""
        config, run, saved = self.config, self.run, self.run.restore()
        if saved is None:
            self.collector.start()
        else:
            self.load_state_dict(saved)
        write_limits(run, {f"train/{name}": limit for name, limit in self.limited.items()})
        with closing(self.env), evaluated(config, run, self.limited, made=self._judged) as finish:
            run_epochs(self, run, config.epoch_steps, config)
            self.averaged.settle()
            policy = self.policy()
            finish(self.total_steps, policy)
        return policy

    def _judged(self, ref: WorldRef, num_envs: int, threads: int) -> VectorEnv:
        """The world that the team is evaluated in."""
        return as_team(worlds.of(ref, num_envs, threads), len(self.roster.agents))

    def policy(self) -> TeamPolicy:
        """The team as it stands; it shares its weights with the training."""
        shape: dict[str, Any] = {
            "actor": self.config.actor.model_dump(mode="json"),
            "critic": self.config.critic.model_dump(mode="json"),
            "layouts_met": self.met.tolist(),
        }
        if self.handler is not None and not isinstance(self.handler, Switching):  # a switch is no price of a cost
            shape["multipliers"] = {name: state["multiplier"].tolist() for name, state in self.handler_states.items()}
        world = WorldRef(id=self.config.env, options=dict(self.config.env_options))
        return TeamPolicy(self.team, world, shape, self.parent)

    @property
    def total_steps(self) -> int:
        """Steps of all environments so far."""
        return self.collector.total_steps

    def one_epoch(self) -> str:
        """Collect, update, log; returns what is shown beside the bar."""
        run, agents, limits = self.run, len(self.roster.agents), self._limits()
        # A collector asks a network for nothing but features, policy and the action's form.
        batch = self.collector.collect(cast(ActorCritic, self.actor), run.torch_rng("collect"))
        returns, costs = batch.episode_cost[:, :agents].mean(axis=1), batch.episode_cost[:, agents:]
        own = fresh(batch.episode_seed)
        self.steering.add(costs[own], batch.episode_length[own])
        self.recent.add(returns, costs[own])
        self.met = latest(self.met, batch.episode_seed, MOST_MET)
        self.paid.total += batch.cost[..., agents:].sum(dim=(0, 1)).double().numpy()
        self.paid.end_epoch(costs)
        if self.handler is not None and own.any():
            measured = torch.as_tensor(self.steering.cost)
            for agent, answers in zip(self.roster.agents, self.answers, strict=True):
                state = self.handler_states[agent]
                self.handler_states[agent] = self.handler.update(state, measured[:, answers], limits[answers])
        estimates = estimate(batch, self.team, self.overview, self.config)
        rows = [self._rows(i, batch, estimates) for i in range(agents)]
        progress, rng = self.epoch / self.epochs, run.torch_rng("update")
        try:
            if self.update.in_turn:
                order = torch.randperm(agents, generator=run.torch_rng("order")).tolist()
                reports = learn_in_turn(self.update, self.team, self.adams, rows, order, progress, rng)
            else:
                reports = learn_together(self.update, self.team, self.adams, rows, progress, rng)
        except FloatingPointError:
            raise Diverged(self.total_steps, "policy gradient", run.last_checkpoint) from None
        vector = batch.inputs["vector"][:-1].flatten(0, 1)
        overview = self.overview(vector)
        value_loss = fit_values(
            self.config.values,
            self.update,
            self.team.critic,
            self.critic_adam,
            overview,
            estimates.target,
            progress,
            rng,
        )
        refuse_divergence(self.team, self.total_steps, run)
        self._take_in(vector, overview)
        self.epoch += 1
        self.averaged.take(self.epoch, self.epochs)
        self._log(batch, returns, costs, reports, value_loss, limits)
        run.offer(self.total_steps, self.policy)
        return self.recent.shown()

    def _limits(self) -> Tensor:
        """d of every agent's costs in this epoch, [agents·K]."""
        return torch.as_tensor(self.path.in_epoch(self.epoch, self.epochs))

    def _take_in(self, vector: Tensor, overview: Tensor) -> None:
        """Observations' statistics, after the update: the policies that acted and learnt saw the same inputs."""
        for i, columns in enumerate(self.columns):
            norm = self.team.member(i).encoder.norm
            if norm is not None:
                norm.update(self.team.seen(i, vector[:, columns]))
        if self.team.critic.encoder.norm is not None:
            self.team.critic.encoder.norm.update(overview)

    @torch.no_grad()
    def _rows(self, agent: int, batch: Batch, estimates: Estimates) -> Rows[Any]:
        """What an agent learns from, before those that learn before it have moved."""
        steps = len(batch.reward)
        vector = batch.inputs["vector"][:steps, :, self.columns[agent]].flatten(0, 1)
        inputs = self.team.inputs(agent, vector)
        member = self.team.member(agent)
        policy = member.policy(member.encoder(inputs)).detach()
        draw = batch.draw.flatten(0, 1).split(list(self.actor.widths), dim=-1)[agent]
        advantage = self._advantage(agent, estimates)
        return Rows(inputs, draw, policy.log_prob(draw), policy, advantage, draw.new_zeros(len(draw), 0))

    def _advantage(self, agent: int, estimates: Estimates) -> Tensor | SlackAdvantage:
        """Of the reward and the costs that an agent answers for: mixed, or apart with their slack.  [T·N]."""
        own = self.answers[agent]
        reward = estimates.reward[..., min(agent, self.roster.rewards - 1)]
        cost = estimates.cost.flatten(-2)[..., own]
        if self.update.takes == "mixed":
            weights = unconstrained(cost.shape[-1])
            if self.handler is not None:
                weights = self.handler.weights(self.handler_states[self.roster.agents[agent]])
            if self.config.standardise == "each":
                each = (cost - cost.mean((0, 1))) / (cost.std((0, 1), correction=0) + 1e-8)
                return mix(standardised(reward), each, weights).flatten()
            return weighed(reward, cost, weights, self.config.standardise).flatten()
        slack = slack_of(self.steering.cost[:, own], self.steering.length, self._limits()[own])
        apart = scaled(reward, cost)
        return SlackAdvantage(apart.reward.flatten(), apart.cost.flatten(0, 1), slack.to(apart.cost))

    def _log(
        self,
        batch: Batch,
        returns: NDArray[np.float64],
        costs: NDArray[np.float64],
        reports: Mapping[int, DataclassInstance],
        value_loss: float,
        limits: Tensor,
    ) -> None:
        scalars = {"update/value_loss": value_loss} | self.path.logged(limits.numpy())
        for i, report in reports.items():
            who = "all" if self.roster.shared else self.roster.agents[i]
            own = asdict(report)
            scalars |= {f"update/{who}/{name}": float(x) for name, x in own.items() if name != "value_loss"}
        if len(returns):  # without a finished episode there is no estimate, and none is logged
            scalars["train/return"] = float(returns.mean())
            scalars["train/length"] = float(batch.episode_length.mean())
            scalars |= {f"train/{name}": float(costs[:, k].mean()) for k, name in enumerate(self.roster.names)}
            by_agent = batch.episode_cost.mean(axis=0)
            scalars |= {f"train/{agent}/return": float(by_agent[i]) for i, agent in enumerate(self.roster.agents)}
        scalars |= self.paid.logged()
        for i, (agent, state) in enumerate(self.handler_states.items()):
            named = self.roster.names[self.answers[i]]
            for name, x in zip(named, state["multiplier"].tolist(), strict=True):
                # Which agent weighs which agent's cost: the same name twice only where an agent answers for others.
                key = name if name.startswith(f"{agent}/") else f"{agent}/of_{name}"
                scalars[f"constraint/multiplier_{key}"] = x
        self.run.log(self.total_steps, **scalars)
