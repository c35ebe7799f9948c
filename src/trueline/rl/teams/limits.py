"""The limits of a team: on each agent's own costs, named AGENT/COST and agent by agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trueline.core.errors import ConfigError
from trueline.rl.handlers.schedule import Calibrated, CostLimit, Limits, Linear, PerCost, Steps
from trueline.rl.multi_agent import MultiAgentVectorEnv

__all__ = ["team_limits", "team_path"]


def team_path(cost_limit: CostLimit | None, world: MultiAgentVectorEnv, root: Path | None = None) -> Limits:
    """The limits of all costs, named "AGENT/COST" and agent by agent, over a training; of none where it is None.

    root: the folder of runs, for a limit that is calibrated by one. Raises ConfigError for a world without costs,
    another number of limits than costs, a limit below 0, or a run that does not say what its team cost.
    """
    if cost_limit is None:
        return Limits.of(0.0, (), world.id)
    if not world.costs:
        raise ConfigError(f"{world.id} reports no cost, so nothing can be constrained. Use an unconstrained recipe.")
    names = tuple(f"{agent}/{cost}" for agent in world.agents for cost in world.costs)
    return Limits.of(_agent_by_agent(cost_limit, world), names, world.id, root)


def team_limits(cost_limit: CostLimit | None, world: MultiAgentVectorEnv, root: Path | None = None) -> dict[str, float]:
    """Limit by "AGENT/COST" at the end of a training; {} where nothing is limited.  See `team_path`."""
    return team_path(cost_limit, world, root).final


def _agent_by_agent(cost_limit: CostLimit, world: MultiAgentVectorEnv) -> CostLimit:
    """The same with a limit for each agent and cost, wherever it has one for each cost.

    In a table by name, the limit of a cost is that of every agent for which "AGENT/COST" says nothing else.
    """
    agents, k = len(world.agents), len(world.costs)

    def each(given: PerCost) -> PerCost:
        if isinstance(given, Mapping):
            shared = {f"{agent}/{cost}": given[cost] for agent in world.agents for cost in world.costs if cost in given}
            return {**shared, **{name: limit for name, limit in given.items() if name not in world.costs}}
        if not isinstance(given, tuple) or len(given) == agents * k:
            return given
        if len(given) != k:
            raise ConfigError(
                f"cost_limit has {len(given)} values, but the {agents} agents of {world.id} have {k} costs each "
                f"({', '.join(world.costs)}). Give a single number, one per cost, or {agents * k}, agent by agent."
            )
        return given * agents

    match cost_limit:
        case Linear():
            return cost_limit.model_copy(update={"start": each(cost_limit.start), "end": each(cost_limit.end)})
        case Steps():
            return cost_limit.model_copy(update={"values": tuple(each(value) for value in cost_limit.values)})
        case Calibrated():
            return cost_limit
        case _:
            return each(cost_limit)
