"""A trained team as a subject: it acts for all agents, is saved as weights and JSON, and loads without code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.rl.env import Obs
from trueline.rl.exact.tables import probabilities
from trueline.rl.networks import ActorNetwork, Network
from trueline.rl.policy import Memory, WorldRef
from trueline.rl.teams.networks import Joint, Roster, Team

OBS = "obs/"  # how `rl.multi_agent` names an agent's observation in a world seen as one agent's


def observed(roster: Roster) -> list[list[str]]:
    """What the world seen as one agent's calls each agent's observation, or the parts of one that is a dict."""
    return [
        [f"{OBS}{agent}/{key}" if key else f"{OBS}{agent}" for key, _, _ in codec.parts]
        for agent, codec in zip(roster.agents, roster.observations, strict=True)
    ]


class TeamPolicy:
    """The policies of all agents of a world, each of which sees what its agent observes and nothing else.

    It acts on observations by agent, or, as one agent that moves everybody, on those of the joint world, in which
    audits run it.
    """

    kind: ClassVar[str] = "team-policy"

    def __init__(self, team: Team, world: WorldRef, shape: Mapping[str, Any], parent: str | None = None) -> None:
        """shape: what `load` needs to build the networks again, {"actor": …, "critic": …}.

        It also holds the constraint's last "multipliers" by agent, where there was one, and "layouts_met", seeds of
        training episodes.
        """
        self.team, self.world, self.shape, self.parent = team, world, dict(shape), parent
        team.eval()

    @property
    def roster(self) -> Roster:
        """Who acts, and on what."""
        return self.team.roster

    @property
    def agents(self) -> tuple[str, ...]:
        """In the order of the joint action's columns."""
        return self.roster.agents

    @property
    def costs(self) -> tuple[str, ...]:
        """ "AGENT/COST" of every agent and cost."""
        return self.roster.names

    @property
    def layouts_met(self) -> NDArray[np.uint32]:
        """Layout seeds of the last training episodes, up to 512; empty when unknown."""
        return np.array(self.shape.get("layouts_met", []), dtype=np.uint32)

    @property
    def multipliers(self) -> torch.Tensor | None:
        """λ of every agent's costs, in the order of `costs`; None for a team trained without a constraint handler."""
        found = self.shape.get("multipliers")
        if found is None:
            return None
        own = [torch.tensor(found[agent], dtype=torch.float64) for agent in self.agents]
        # Agents that answer for everybody's costs all have the same multipliers.
        return torch.cat(own) if len(own[0]) == len(self.roster.costs) else own[0]

    def _joint(self, obs: Mapping[str, Any]) -> Joint:
        """The agents' distributions given observations by agent."""
        missing = [agent for agent in self.agents if agent not in obs]
        if missing:
            raise ConfigError(
                f"no observation of {', '.join(missing)} was given. Give one for each of {', '.join(self.agents)}."
            )
        roster = self.roster
        parts = tuple(self.team.policy(i, roster.encode(i, obs[agent])) for i, agent in enumerate(roster.agents))
        return Joint(parts, tuple(codec.width for codec in roster.actions))

    @torch.no_grad()
    def _drawn(self, obs: Mapping[str, Any], rng: np.random.Generator, deterministic: bool) -> list[NDArray[Any]]:
        """Each agent's action [N, width]."""
        joint = self._joint(obs)
        if deterministic:
            draw = joint.mode()
        else:
            draw = joint.sample(torch.Generator().manual_seed(int(rng.integers(2**63 - 1))))
        return [part.numpy() for part in joint.to_action(draw).split(list(joint.widths), dim=-1)]

    def act_by_agent(
        self, obs: Mapping[str, Any], rng: np.random.Generator, deterministic: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Actions as a multi-agent world takes them, by agent, for N observations by agent. Changes nothing.

        Raises ConfigError for an agent whose observation is missing.
        """
        drawn = self._drawn(obs, rng, deterministic)
        return {agent: self.roster.actions[i].to_world(drawn[i]) for i, agent in enumerate(self.agents)}

    def act(
        self, obs: Obs, memory: Memory, rng: np.random.Generator, deterministic: bool = False
    ) -> tuple[NDArray[Any], Memory]:
        """Joint actions [N, ΣA] for N observations of the world seen as one agent's; the policies have no memory."""
        if not isinstance(obs, dict):
            raise ConfigError("a team acts on observations by agent, but one array was given. Give a dict of them.")
        seen: dict[str, Any] = {}
        for agent, keys in zip(self.agents, observed(self.roster), strict=True):
            own = {key.removeprefix(f"{OBS}{agent}").removeprefix("/"): obs[key] for key in keys if key in obs}
            if own:
                seen[agent] = own.get("", own)
        drawn = self._drawn(seen, rng, deterministic)
        whole = np.concatenate(drawn, axis=1)
        return (whole if self.roster.actions[0].kind == "continuous" else whole.astype(np.int64)), memory

    @torch.no_grad()
    def action_probabilities(self, obs: Any, actions: int) -> NDArray[np.float64]:
        """[N, ΠA] of the joint choice where all agents observe the same `obs` [N]: the product of their chances.

        Joint choices count as digits do, the first agent's the slowest; `actions` is their number ΠA.
        """
        chances = np.ones((len(obs), 1))
        for i in range(len(self.agents)):
            own = probabilities(self.team.policy(i, self.roster.encode(i, obs)), self.roster.actions[i].outputs).numpy()
            chances = (chances[:, :, None] * own[:, None, :]).reshape(len(obs), -1)
        if chances.shape[1] != actions:
            raise ConfigError(
                f"the agents have {chances.shape[1]} joint choices, but {actions} were asked for. "
                "Evaluate them on the world they were trained in."
            )
        return chances

    def save(self, folder: Path) -> None:
        """weights.safetensors and team.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.team.state_dict().items()}, folder / "weights.safetensors")
        record = {
            "parent": self.parent,
            "world": self.world.model_dump(mode="json"),
            "roster": self.roster.to_json(),
            **self.shape,
        }
        (folder / "team.json").write_text(json.dumps(record, indent=1, sort_keys=True))


KEPT: Sequence[str] = ("actor", "critic", "multipliers", "layouts_met")


def load(folder: Path) -> TeamPolicy:
    """The team saved in `folder`. Raises RunError naming what is missing or does not fit."""
    try:
        record = json.loads((folder / "team.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        team = Team(
            Roster.from_json(record["roster"]),
            build(ActorNetwork, record["actor"]),
            build(Network, record["critic"]),
            torch.Generator().manual_seed(0),
        )
        team.load_state_dict(weights)
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved team: {Path(missing.filename).name} is missing.") from None
    except (KeyError, TypeError, ValueError, RuntimeError, json.JSONDecodeError) as damage:
        raise RunError(f"the team in {folder} is damaged or of another version: {damage}.") from None
    shape = {key: record[key] for key in KEPT if key in record}
    return TeamPolicy(team, build(WorldRef, record["world"]), shape, record["parent"])
