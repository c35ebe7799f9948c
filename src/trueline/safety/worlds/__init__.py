"""Goal worlds of Safety-Gymnasium for Point and Car: same layouts, observations, rewards and costs, many at once."""

from __future__ import annotations

from typing import Literal

from trueline.core.errors import UnknownName, unknown
from trueline.safety.worlds.engine import GoalWorlds
from trueline.safety.worlds.tasks import WORLDS

__all__ = ["WORLDS", "GoalWorlds", "make_goal"]


def make_goal(
    id: str, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0
) -> GoalWorlds:
    """`num_envs` copies of the world called `id`, such as SafetyPointGoal1-v0, stepped on `threads` threads.

    costs="sum" reports one cost, 1 where any constraint is violated; "split" reports each constraint by name.
    `seed` starts the default `seed_source`. Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    if id not in WORLDS:
        raise UnknownName(unknown("env", id, WORLDS))
    return GoalWorlds(id, WORLDS[id], num_envs, threads, costs, seed)
