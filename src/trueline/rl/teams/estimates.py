"""From a team's collection to advantages and targets: the central critic judges the team's reward and all its costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trueline.rl.advantage import gae
from trueline.rl.collect import Batch
from trueline.rl.estimates import Discounts
from trueline.rl.teams.networks import Columns, Roster, Team

__all__ = ["Estimates", "Overview", "estimate", "signals_of"]


class Estimates(NamedTuple):
    """What one collection of T steps in N environments says of rewards and costs."""

    reward: Tensor  # [T, N, R] advantages of the team's reward, or of each agent's
    cost: Tensor  # [T, N, agents, K] of each agent's costs
    target: Tensor  # [T·N, R + agents·K] of the critic's values, in the unit of each signal


def signals_of(batch: Batch, roster: Roster) -> Tensor:
    """The rewards that are learnt from, then each agent's costs.  [T, N, R + agents·K]."""
    agents = len(roster.agents)
    own, costs = batch.cost[..., :agents], batch.cost[..., agents:]  # how a world seen as one agent's tells them
    reward = own.mean(-1, keepdim=True) if roster.rewards == 1 else own
    return torch.cat([reward, costs], dim=-1)


@torch.no_grad()
def estimate(batch: Batch, team: Team, overview: Overview, config: Discounts) -> Estimates:
    """Advantages and value targets by the central critic, with truncation bootstrapping."""
    roster, critic = team.roster, team.critic
    steps, n = batch.reward.shape
    seen = overview(batch.inputs["vector"])
    value = critic.values(seen[:steps].flatten(0, 1)).view(steps, n, -1)
    next_value = torch.cat([value[1:], critic.values(seen[steps])[None]])
    ended = (batch.terminated + batch.truncated)[..., None]
    next_value = next_value * (1.0 - ended)
    if len(batch.finals.t):
        next_value[batch.finals.t, batch.finals.i] = critic.values(overview(batch.finals.inputs["vector"]))
    costs = len(roster.names)
    gamma = torch.tensor([config.gamma] * roster.rewards + [config.cost_gamma] * costs)
    lam = torch.tensor([config.lam] * roster.rewards + [config.cost_lam] * costs)
    advantage = gae(signals_of(batch, roster), value, next_value, ended, gamma, lam)
    by_agent = advantage[..., roster.rewards :].unflatten(-1, (len(roster.agents), len(roster.costs)))
    return Estimates(advantage[..., : roster.rewards], by_agent, (advantage + value).flatten(0, 1))


class Overview:
    """Picks out of a joint row what the central critic sees."""

    def __init__(self, columns: Sequence[Columns]) -> None:
        """columns: of a joint row; those of the world's state, or of what each agent observes."""
        self.columns = columns

    def __call__(self, vector: Tensor) -> Tensor:
        """[..., D] -> [..., D′]."""
        parts = [vector[..., part] for part in self.columns]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
