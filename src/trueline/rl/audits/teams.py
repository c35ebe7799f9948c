"""What a team is worth and what it costs, each agent and all together, on held-out layouts.

The audits of one policy, in the world as a team is judged in it (`rl.teams.world.as_team`): the return is the
agents' mean, as training counts it. Costs are named "AGENT/COST"; the plain name is what all agents cost
together, in which a cost that each is charged for counts once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np

from trueline.core.errors import ConfigError
from trueline.evidence.records import Case, Outcome
from trueline.rl.audits.ethicality import EpisodeCost, EpisodeCostConfig
from trueline.rl.audits.layouts import Arena
from trueline.rl.audits.usefulness import Usefulness, UsefulnessConfig
from trueline.rl.env import VectorEnv
from trueline.rl.policy import Acts
from trueline.rl.teams.world import as_team

__all__ = ["ActsTogether", "TeamCost", "TeamUsefulness"]


@runtime_checkable
class ActsTogether(Acts, Protocol):
    """Capability: the policies of all agents of a world, which act as one agent that moves everybody."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Who acts, in the order of the joint action's columns."""
        ...


class TeamCost(EpisodeCost):
    """`EpisodeCost` of a team: a cost of one agent, "AGENT/COST", or by its own name what all agents cost together.

    Limits, bounds and intervals are those of each named cost; one case is one episode of everybody.
    """

    name = "ethicality/team-cost"
    needs: type = ActsTogether

    def __init__(self, config: EpisodeCostConfig) -> None:
        super().__init__(config)
        self._arena = _TeamArena(config.num_envs, config.threads, totals=True)

    def measure(self, subject: Acts, cases: Sequence[Case], rng: np.random.Generator) -> Sequence[Outcome | None]:
        """One episode per layout.  Raises ConfigError for a bound that all agents together may go beyond."""
        agents = len(cast(ActsTogether, subject).agents)
        steps = self._arena.world(subject, len(cases)).max_episode_steps
        together = [cost for cost in self._costs if cost and "/" not in cost]
        if together and agents * steps > self.config.cost_bound:
            raise ConfigError(
                f"cost_bound is {self.config.cost_bound:g}, but {agents} agents may cost 1 each in all of {steps} "
                f"steps. Set cost_bound={agents * steps}."
            )
        return super().measure(subject, cases, rng)


class TeamUsefulness(Usefulness):
    """`Usefulness` of a team: its mean return less that of agents who all act at random, or all do nothing.

    The baselines' cost is what all agents cost together.
    """

    name = "controllability/team-usefulness"
    needs: type = ActsTogether

    def __init__(self, config: UsefulnessConfig) -> None:
        super().__init__(config)
        self._arena = _TeamArena(config.num_envs, config.threads, totals=False)


class _TeamArena(Arena):
    """The subject's world as its team is judged in it."""

    def __init__(self, num_envs: int, threads: int, totals: bool) -> None:
        super().__init__(num_envs, threads)
        self._totals = totals

    def world(self, subject: Acts, episodes: int) -> VectorEnv:
        """Copies for so many episodes."""
        agents = len(cast(ActsTogether, subject).agents)
        return as_team(super().world(subject, episodes), agents, self._totals)
