"""Names of environments: which the original has a grammar for, and which of them there are worlds for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from trueline.core import registry
from trueline.core.errors import UnknownName, nearest

View = Literal["", "Vision", "Debug"]

_VELOCITY = re.compile(r"Safety(?P<body>HalfCheetah|Hopper|Swimmer|Walker2d|Ant|Humanoid)Velocity-v\d+")
_BASES = ("Goal", "Button", "Push", "Circle", "Run")  # tasks that a config can describe in full
_SAFETY = re.compile(r"Safety[A-Z]\w*-v\d+")
_NAVIGATION = re.compile(
    r"Safety(?P<agent>Point|Car|Doggo|Racecar|Ant)(?P<task>[A-Z][A-Za-z]*?)(?P<level>\d|Base)(?P<view>Vision|Debug)?-v0"
)
KEYBOARD_AGENTS = ("Point", "Car", "Racecar")  # that the Debug views can drive


@dataclass(frozen=True, slots=True)
class Name:
    """An environment's id taken apart."""

    id: str
    task_id: str  # the id without its view, as the original's `task_id`
    agent: str | None  # None: not a navigation task
    task: str  # Goal, Button, …, MultiGoal; or the whole name
    view: View

    @property
    def several_agents(self) -> bool:
        """Whether actions and observations are dicts by agent."""
        return self.task.startswith("MultiGoal")

    @property
    def is_base(self) -> bool:
        """Whether a config describes the task in full."""
        return self.agent is not None and self.task_id.endswith("Base-v0")

    @property
    def gymnasium_id(self) -> str:
        """The id under which `gymnasium.make` gives it with five values per step."""
        name, _, version = self.id.rpartition("-")
        return f"{name}Gymnasium-{version}"

    @property
    def body(self) -> str | None:
        """The body of a velocity task, such as Ant; None for any other."""
        match = _VELOCITY.fullmatch(self.id)
        return match["body"] if match else None


def parse(id: str) -> Name:
    """The parts of an id; one that follows no grammar is all task."""
    match = _NAVIGATION.fullmatch(id)
    if match is None:
        return Name(id, id, None, id, "")
    view: View = "Vision" if match["view"] == "Vision" else "Debug" if match["view"] == "Debug" else ""
    task_id = f"Safety{match['agent']}{match['task']}{match['level']}-v0"
    return Name(id, task_id, match["agent"], match["task"], view)


def known() -> dict[str, Name]:
    """Every id that can be made: worlds by the original's names, and the views of the navigation ones."""
    worlds = [entry.name for entry in registry.entries("env") if _SAFETY.fullmatch(entry.name)]
    rooms = [entry.name for entry in registry.entries("multi-agent env") if parse(entry.name).several_agents]
    names = {id: parse(id) for id in (*worlds, *rooms)}
    for task in _BASES:
        levels = [name for name in names.values() if name.task == task and name.task_id.endswith("0-v0")]
        names |= {id: parse(id) for id in (f"Safety{name.agent}{task}Base-v0" for name in levels)}
    for name in list(names.values()):
        if name.agent is None or name.view:
            continue
        stem = name.id.removesuffix("-v0")
        views = ("Vision", "Debug") if name.agent in KEYBOARD_AGENTS else ("Vision",)
        for view in views:
            names.setdefault(f"{stem}{view}-v0", parse(f"{stem}{view}-v0"))
    return names


def unknown_id(id: Any, among: set[str]) -> UnknownName:
    """The error for an id that nothing is registered under."""
    near = nearest(id, among) if isinstance(id, str) else " Give an id such as 'SafetyPointGoal1-v0'."
    return UnknownName(
        f"no environment is called {id!r:.80}.{near} `trueline list envs` shows the worlds; "
        f"{len(among)} ids can be made here."
    )
