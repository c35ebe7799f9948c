"""A team's networks: a policy per agent (or one for all), and one central critic of every agent's reward and costs.

Policies see what their agents observe; the critic is needed in training alone and sees more: the world's state, or what
all agents observe (centralised training with decentralised execution, Lowe et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from trueline.core.errors import ConfigError
from trueline.rl.distributions import Distribution
from trueline.rl.env import Obs
from trueline.rl.multi_agent import MultiAgentVectorEnv
from trueline.rl.networks import ActorCritic, ActorNetwork, Encoder, Mlp, Network, StackedMlp
from trueline.rl.spaces import ActionCodec, ObservationCodec

AGENT = "agent"  # key of an agent's number where all share a policy


# --- who acts, and on what ---


@dataclass(frozen=True, slots=True)
class Roster:
    """The agents of a world, what each observes and does, and what the critic sees and judges."""

    agents: tuple[str, ...]
    observations: tuple[ObservationCodec, ...]  # by agent
    actions: tuple[ActionCodec, ...]
    overview: ObservationCodec  # of the critic
    rewards: int  # 1: the team's, their mean; otherwise one per agent
    costs: tuple[str, ...]  # K names, which every agent has for itself
    shared: bool  # whether all agents have one policy

    @classmethod
    def of(
        cls,
        world: MultiAgentVectorEnv,
        reward: Literal["team", "own"],
        parameters: Literal["own", "shared"],
        critic_sees: Literal["state", "observations"],
    ) -> Self:
        """The roster of a world.  Raises ConfigError for spaces that no team can be built for."""
        observations = tuple(ObservationCodec.of(world.observation_spaces[agent]) for agent in world.agents)
        actions = tuple(ActionCodec.of(world.action_spaces[agent]) for agent in world.agents)
        overview = (
            ObservationCodec.of(world.state_space)
            if critic_sees == "state"
            else ObservationCodec(
                tuple(
                    (f"{agent}/{key}", how, size)
                    for agent, codec in zip(world.agents, observations, strict=True)
                    for key, how, size in codec.parts
                )
            )
        )
        if any(codec.images for codec in (*observations, overview)):
            raise ConfigError(f"{world.id} shows pictures, which teams cannot see yet. Take a world of numbers.")
        shared = parameters == "shared"
        if shared and (len(set(observations)) > 1 or len(set(actions)) > 1):
            raise ConfigError(
                f"the agents of {world.id} observe or act differently, so that they cannot share a policy. "
                "Set parameters='own'."
            )
        rewards = 1 if reward == "team" else len(world.agents)
        return cls(world.agents, observations, actions, overview, rewards, world.costs, shared)

    @property
    def names(self) -> tuple[str, ...]:
        """Every agent's costs, agent by agent: "AGENT/COST"."""
        return tuple(f"{agent}/{cost}" for agent in self.agents for cost in self.costs)

    @property
    def heads(self) -> int:
        """How many values the critic tells: the rewards', then each agent's costs."""
        return self.rewards + len(self.names)

    def policy_of(self, agent: int) -> ObservationCodec:
        """What the policy of an agent takes in; where it is shared, the agent's number too."""
        own = self.observations[agent]
        return ObservationCodec((*own.parts, (AGENT, "discrete", (len(self.agents),)))) if self.shared else own

    def encode(self, agent: int, obs: Obs) -> Tensor:
        """Observations of an agent as rows [N, D]."""
        return torch.as_tensor(self.observations[agent].encode(obs)["vector"])

    def to_json(self) -> dict[str, Any]:
        """From which `from_json` makes the same roster."""
        return {
            "agents": list(self.agents),
            "observations": [[list(part) for part in codec.parts] for codec in self.observations],
            "actions": [[codec.kind, list(codec.sizes), codec.flat] for codec in self.actions],
            "overview": [list(part) for part in self.overview.parts],
            "rewards": self.rewards,
            "costs": list(self.costs),
            "shared": self.shared,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The roster of `to_json`.  Raises KeyError or ValueError where it is none."""
        return cls(
            tuple(data["agents"]),
            tuple(_codec(parts) for parts in data["observations"]),
            tuple(ActionCodec(kind, tuple(sizes), flat) for kind, sizes, flat in data["actions"]),
            _codec(data["overview"]),
            int(data["rewards"]),
            tuple(data["costs"]),
            bool(data["shared"]),
        )


def _codec(parts: Sequence[Sequence[Any]]) -> ObservationCodec:
    return ObservationCodec(tuple((key, how, tuple(size)) for key, how, size in parts))


# --- networks ---


class Member(ActorCritic):
    """The policy of an agent: what an update moves of an actor-critic whose values are told by the team's critic."""

    def __init__(
        self, observation: ObservationCodec, action: ActionCodec, actor: ActorNetwork, rng: torch.Generator
    ) -> None:
        nn.Module.__init__(self)
        self.action, self.squashed = action, actor.squashed
        self.encoder = Encoder(observation, rng)
        self.actor = Mlp(self.encoder.width, action.outputs, actor, rng)
        self.log_std = nn.Parameter(torch.full(action.sizes, actor.log_std)) if action.kind == "continuous" else None

    def values(self, features: Tensor) -> Tensor:
        """[B, 0]: none of its own."""
        return features.new_zeros(len(features), 0)


class TargetNorm(nn.Module):
    """Running mean and deviation of H value targets, each signal's for itself (van Hasselt et al. 2016).

    Exponential averages of first and second moments, divided by the sum of their weights, so that the first collection
    counts in full. One deviation for rewards and costs together would leave the smaller of them unlearnt.
    """

    def __init__(self, heads: int, floor: float = 0.01) -> None:
        """floor: smallest deviation divided by."""
        super().__init__()
        self.floor = floor
        self.register_buffer("first", torch.zeros(heads, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(heads, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    first: Tensor
    second: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        """μ [H]; 0 before the first update."""
        return self.first / self.weight.clamp_min(1e-12)

    @property
    def std(self) -> Tensor:
        """σ [H]; 1 before the first update."""
        if not self.weight:
            return torch.ones_like(self.first)
        spread = self.second / self.weight - self.mean.square()
        return spread.clamp_min(0.0).sqrt().clamp_min(self.floor)

    @torch.no_grad()
    def update(self, target: Tensor, memory: float) -> None:
        """Fold in targets [B, H]; what came before keeps the weight `memory`."""
        x = target.to(torch.float64)
        self.first.mul_(memory).add_(x.mean(0), alpha=1.0 - memory)
        self.second.mul_(memory).add_(x.square().mean(0), alpha=1.0 - memory)
        self.weight.mul_(memory).add_(1.0 - memory)

    def normalised(self, target: Tensor) -> Tensor:
        """(x − μ)/σ.  [..., H] -> [..., H]."""
        return ((target - self.mean) / self.std).to(target.dtype)

    def raw(self, value: Tensor) -> Tensor:
        """σ·x + μ, in the unit of the signal.  [..., H] -> [..., H]."""
        return (value * self.std + self.mean).to(value.dtype)


class CentralCritic(nn.Module):
    """H value functions of what the critic sees, in deviations of their targets."""

    def __init__(self, overview: ObservationCodec, heads: int, shape: Network, rng: torch.Generator) -> None:
        super().__init__()
        self.encoder = Encoder(overview, rng)
        self.critics = StackedMlp(heads, self.encoder.width, 1, shape, rng)
        self.norm = TargetNorm(heads)

    def features(self, vector: Tensor) -> Tensor:
        """Rows of what the critic sees, normalised.  [B, D] -> [B, D]."""
        return self.encoder(self.encoder.normalised({"vector": vector}))

    def normalised_values(self, features: Tensor) -> Tensor:
        """[B, H] in deviations of the targets: what is fitted."""
        return self.critics(features)[..., 0]

    def values(self, vector: Tensor) -> Tensor:
        """[B, H] in the unit of each signal."""
        return self.norm.raw(self.normalised_values(self.features(vector)))

    @torch.no_grad()
    def absorb(self, target: Tensor, memory: float) -> None:
        """Take targets [B, H] into the statistics, and leave every value where it was.

        w ← wσ/σ′ and b ← (σb + μ − μ′)/σ′ of the last layer: Pop-Art's "preserving outputs precisely".
        """
        mean, std = self.norm.mean, self.norm.std
        self.norm.update(target, memory)
        weight, bias = self.critics.weights[-1], self.critics.biases[-1]  # [H, in, 1], [H, 1, 1]
        by_head = (-1, 1, 1)
        ratio, shift = (std / self.norm.std).view(by_head), ((mean - self.norm.mean) / self.norm.std).view(by_head)
        weight.mul_(ratio.to(weight))
        bias.mul_(ratio.to(bias)).add_(shift.to(bias))


class Team(nn.Module):
    """All networks of a team."""

    def __init__(self, roster: Roster, actor: ActorNetwork, critic: Network, rng: torch.Generator) -> None:
        """Weights drawn from `rng` alone, agent by agent."""
        super().__init__()
        self.roster = roster
        own = range(1 if roster.shared else len(roster.agents))
        self.members = nn.ModuleList(Member(roster.policy_of(i), roster.actions[i], actor, rng) for i in own)
        self.critic = CentralCritic(roster.overview, roster.heads, critic, rng)

    def member(self, agent: int) -> Member:
        """The network of an agent's policy; the same for all where it is shared."""
        found = self.members[0 if self.roster.shared else agent]
        assert isinstance(found, Member)
        return found

    def seen(self, agent: int, vector: Tensor) -> Tensor:
        """Rows of an agent's observations as its policy takes them in.  [..., D] -> [..., D′]."""
        if not self.roster.shared:
            return vector
        who = torch.zeros(len(self.roster.agents))
        who[agent] = 1.0
        return torch.cat([vector, who.expand(*vector.shape[:-1], len(who))], dim=-1)

    def inputs(self, agent: int, vector: Tensor) -> dict[str, Tensor]:
        """Normalised inputs of its policy, as updates take them."""
        return self.member(agent).encoder.normalised({"vector": self.seen(agent, vector)})

    def policy(self, agent: int, vector: Tensor) -> Distribution:
        """The action distribution of an agent that observes these rows."""
        member = self.member(agent)
        return member.policy(member.encoder(self.inputs(agent, vector)))


@dataclass(frozen=True, slots=True)
class Joint:
    """The agents' actions side by side: they draw independently of each other.  Draws are [..., Σ width]."""

    parts: tuple[Distribution, ...]
    widths: tuple[int, ...]  # columns of a draw, by agent

    def sample(self, rng: torch.Generator) -> Tensor:
        """One draw from each row, agent after agent."""
        return torch.cat([part.sample(rng) for part in self.parts], dim=-1)

    def mode(self) -> Tensor:
        """Each agent's likeliest draw."""
        return torch.cat([part.mode() for part in self.parts], dim=-1)

    def to_action(self, draw: Tensor) -> Tensor:
        """What the world takes."""
        split = zip(self.parts, draw.split(list(self.widths), dim=-1), strict=True)
        return torch.cat([part.to_action(own) for part, own in split], dim=-1)


class JointActor:
    """A team as the one network that a collector asks: it sees all observations in one row and moves everybody."""

    def __init__(self, team: Team, columns: Sequence[Columns], action: ActionCodec) -> None:
        """columns: where each agent's observation stands in a row; action: of the world seen as one agent's."""
        self.team, self.columns, self.action = team, columns, action
        self.widths = tuple(codec.width for codec in team.roster.actions)
        self.memory_width = 0

    def features(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The row as it is: each policy normalises its own part, and none has a memory."""
        return inputs["vector"]

    def policy(self, vector: Tensor) -> Joint:
        """All agents' action distributions.  [B, D]."""
        parts = tuple(self.team.policy(i, vector[..., own]) for i, own in enumerate(self.columns))
        return Joint(parts, self.widths)


Columns = slice | Tensor  # of a row, or where they do not lie together the number of each


def columns_of(codec: ObservationCodec, keys: Sequence[str]) -> Columns:
    """Where the numbers of these keys stand in the flat vector of a codec, in the order of the keys."""
    places: dict[str, range] = {}
    at = 0
    for key, how, size in codec.parts:
        if how != "image":
            places[key] = range(at, at + int(np.sum(size)))
            at = places[key].stop
    index = [column for key in keys for column in places[key]]
    together = slice(index[0], index[0] + len(index))
    return together if index == list(range(together.start, together.stop)) else torch.tensor(index)
