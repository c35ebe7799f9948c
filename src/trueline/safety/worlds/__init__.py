"""Navigation worlds of Safety-Gymnasium: same layouts, observations, rewards and costs, many at once."""

from __future__ import annotations

from typing import Literal

from trueline.core.errors import ConfigError, UnknownName, unknown
from trueline.safety.worlds.checks import refuse_agent_without_room, refuse_two_agents
from trueline.safety.worlds.engine import GoalWorlds, NavigationWorlds
from trueline.safety.worlds.table import WORLDS, of_head, plain_id
from trueline.safety.worlds.world import World

__all__ = ["WORLDS", "GoalWorlds", "NavigationWorlds", "World", "make_world", "open_world", "plain_id"]


def make_world(
    id: str,
    num_envs: int,
    threads: int = 1,
    costs: Literal["sum", "split"] = "sum",
    seed: int = 0,
    version: Literal["1.0.0", "head"] = "1.0.0",
    physics: Literal["exact", "sleep"] = "exact",
    observe: Literal["flat", "parts", "vision"] = "flat",
) -> NavigationWorlds:
    """`num_envs` copies of the world called `id`, such as SafetyPointGoal1-v0, stepped on `threads` threads.

    costs="sum" reports one cost, 1 where any constraint is violated; "split" reports each constraint by name.
    `seed` starts the default `seed_source`. `version` is whose rules hold where the original's published package and
    its repository differ (see `table.of_head`); worlds that only the repository has follow it always.

    physics="sleep" does not compute bodies at rest until they are touched: faster where many lie about, equal until the
    first touch, and not resumed to the bit. observe="parts" gives observations as a dict by sensor, "vision" with the
    picture that the agent's camera sees [N, 256, 256, 3] beside them, which is what an id with Vision means.
    An id with Debug is the plain world: its agent is driven by hand, see `viewer.drive`.
    Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    plain, seen = plain_id(id)
    if plain not in WORLDS:
        raise UnknownName(unknown("env", id, WORLDS))
    if version not in ("1.0.0", "head"):
        raise ConfigError(f"version is {version!r} for {id}. Give '1.0.0' (the published package) or 'head'.")
    world = WORLDS[plain] if version == "1.0.0" else of_head(WORLDS[plain])
    return open_world(id, world, num_envs, threads, costs, seed, physics, "vision" if seen else observe)


def open_world(
    id: str,
    world: World,
    num_envs: int,
    threads: int = 1,
    costs: Literal["sum", "split"] = "sum",
    seed: int = 0,
    physics: Literal["exact", "sleep"] = "exact",
    observe: Literal["flat", "parts", "vision"] = "flat",
) -> NavigationWorlds:
    """`num_envs` copies of a world given as data, one of the table's or one's own; the rest as in `make_world`.

    Where the task puts a goal elsewhere when it is reached, the result is Steerable too.
    Raises ConfigError for a world of two agents, and where there is no room for the agent.
    """
    refuse_two_agents(id, world)
    refuse_agent_without_room(world)
    kind = GoalWorlds if world.task.renews == "place" else NavigationWorlds
    return kind(id, world, num_envs, threads, costs, seed, physics, observe)
