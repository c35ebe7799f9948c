"""Manipulation worlds: two hands with an egg, and a mobile arm with a drawer or a block.

Safety-Gymnasium runs these tasks on Isaac Gym, a simulator that can no longer be had. They are made again on MuJoCo
from the same numbers with models of our own, and bear names of their own: returns and costs are not the originals'.
"""

from __future__ import annotations

from typing import Literal

from trueline.core.errors import UnknownName, unknown
from trueline.safety.worlds.manipulation_arm_tasks import ARM_TASKS
from trueline.safety.worlds.manipulation_engine import ManipulationWorlds, Task
from trueline.safety.worlds.manipulation_hand_tasks import HAND_TASKS

__all__ = ["MANIPULATION", "ManipulationWorlds", "make_manipulation", "open_manipulation"]

MANIPULATION: dict[str, Task] = {
    **{f"Trueline{name}-v0": task for name, task in HAND_TASKS.items()},
    **{f"TruelineMobileArm{name}-v0": task for name, task in ARM_TASKS.items()},
}


def make_manipulation(
    id: str, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0
) -> ManipulationWorlds:
    """`num_envs` copies of the world called `id`, such as TruelineHandOver-Finger-v0, stepped on `threads` threads.

    costs="sum" calls its one cost cost_sum, "split" by its own name; `seed` starts the default `seed_source`.
    Raises UnknownName for an unknown id, ConfigError for a setting.
    """
    if id not in MANIPULATION:
        raise UnknownName(unknown("env", id, MANIPULATION))
    return open_manipulation(id, MANIPULATION[id], num_envs, threads, costs, seed)


def open_manipulation(
    id: str, task: Task, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0
) -> ManipulationWorlds:
    """`num_envs` copies of a task given as data, one of the table's or a changed one; the rest as above."""
    return ManipulationWorlds(id, task, num_envs, threads, costs, seed)
