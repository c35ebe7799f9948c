"""Worlds of one's own from settings: `SafetyCustom-v0` with an agent, a task, things and costs as options.

In Python the same is a `World` handed to `open_world`; settings are for TOML and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from trueline.core.config import Config, build
from trueline.core.errors import ConfigError
from trueline.safety.worlds import objects
from trueline.safety.worlds.agents import AGENTS
from trueline.safety.worlds.checks import kind_called, refuse_agent_without_room, refuse_counts
from trueline.safety.worlds.costs import Beyond, Cost, Inside, Moving, Touching, WrongButton
from trueline.safety.worlds.engine import NavigationWorlds
from trueline.safety.worlds.objects import Square, Thing
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunCircle, RunFar, Task
from trueline.safety.worlds.world import World

Kind = Literal["hazards", "vases", "pillars", "buttons", "gremlins", "walls"]

# Settings that mean something to some kinds only.
_OF_A_THING = {"radius_m": ("hazards",), "travel_m": ("gremlins",), "distance_m": ("walls",)}
_OF_A_RULE = {
    "of": ("inside", "touching", "moving", "wrong_button"),
    "from_m_per_s": ("moving",),
    "x_m": ("beyond",),
    "y_m": ("beyond",),
}


def _refuse_unused(what: str, given: Config, kind: str, of: Mapping[str, tuple[str, ...]]) -> None:
    for name, kinds in of.items():
        if name in given.model_fields_set and getattr(given, name) not in (None, "") and kind not in kinds:
            listed = " and ".join(repr(known) for known in kinds)
            raise ConfigError(f"{what} is given {name}, which only {listed} use. Leave it out of {kind!r}.")


class ThingSettings(Config):
    """One kind of object; measures left out are the original's."""

    kind: Kind
    name: str | None = None  # what costs and layouts call it: the kind, when None
    count: int = Field(1, ge=1)
    radius_m: float | None = Field(None, gt=0)  # of hazards
    keepout_m: float | None = Field(None, ge=0)
    travel_m: float | None = Field(None, gt=0)  # of gremlins: radius of their circle
    distance_m: float = Field(1.125, gt=0)  # of walls from the centre
    within: tuple[Square, ...] = ()  # (x_min, y_min, x_max, y_max) each, when not anywhere

    def thing(self) -> Thing:
        """The object kind these settings describe.  Raises ConfigError for a measure that it does not have."""
        _refuse_unused(f"{self.kind!r}", self, self.kind, _OF_A_THING)
        match self.kind:
            case "hazards":
                made = objects.hazards(self.count, self.radius_m or 0.2)
            case "vases":
                made = objects.vases(self.count)
            case "pillars":
                made = objects.pillars(self.count)
            case "buttons":
                made = objects.buttons(self.count)
            case "gremlins":
                made = objects.gremlins(self.count, self.travel_m or 0.35)
            case "walls":
                if self.count not in (2, 4):
                    raise ConfigError(f"there are {self.count} walls. Give 2 (at x = ±distance) or 4 (and at y too).")
                made = objects.walls(4 if self.count == 4 else 2, self.distance_m, 3.5)
        changes: dict[str, Any] = {"within": self.within}
        if self.name is not None:
            changes["name"] = self.name
        if self.keepout_m is not None:
            changes["keepout_m"] = self.keepout_m
        return replace(made, **changes)


class CostSettings(Config):
    """One cost, named: what must not happen with objects of the kind called `of`."""

    name: str
    kind: Literal["inside", "touching", "moving", "beyond", "wrong_button"]
    of: str = ""  # name of a kind; none for "beyond"
    from_m_per_s: float = Field(1e-4, gt=0)  # of "moving"
    x_m: float | None = Field(None, gt=0)  # of "beyond", which needs it
    y_m: float | None = Field(None, gt=0)

    def rule(self, things: dict[str, Thing]) -> Cost:
        """The rule; raises ConfigError when there is no such kind of object, or for a setting of another rule."""
        _refuse_unused(f"cost {self.name!r}", self, self.kind, _OF_A_RULE)
        if self.kind == "beyond":
            if self.x_m is None:
                raise ConfigError(
                    f"cost {self.name!r} has no x_m. Give how far from the centre its lines are, in metres."
                )
            return Beyond(self.name, self.x_m, self.y_m)
        thing = kind_called(self.of, things, self.name)
        match self.kind:
            case "inside":
                return Inside(self.name, self.of, thing.radius_m)
            case "touching":
                return Touching(self.name, self.of)
            case "wrong_button":
                return WrongButton(self.name, self.of)
            case _:
                return Moving(self.name, self.of, self.from_m_per_s)


class CustomWorld(Config):
    """A whole world. The task brings what it needs: a goal, a box, a circle, and four buttons where none are given."""

    agent: str = "point"
    task: Literal["goal", "button", "push", "circle", "run"] = "goal"
    extent_m: float = Field(1.5, gt=0)
    things: tuple[ThingSettings, ...] = ()
    rules: tuple[CostSettings, ...] = ()
    steps: int = Field(1000, ge=1)
    sight_m: float = Field(3.0, gt=0)

    def world(self) -> World:
        """Raises ConfigError for an unknown agent, an agent without room, and what a `World` refuses."""
        if self.agent not in AGENTS:
            raise ConfigError(f"agent is {self.agent!r}. Give one of {', '.join(AGENTS)}.")
        agent = AGENTS[self.agent]
        own: list[Thing] = [settings.thing() for settings in self.things]
        task: Task
        match self.task:
            case "goal":
                task, needs = ReachGoal(), [objects.goal(keepout_m=0.305)]
            case "push":
                task, needs = PushToGoal(), [objects.goal(), objects.push_box(agent)]
            case "circle":
                task, needs = RunCircle(), [objects.circle()]
            case "run":
                task, needs = RunFar(), []
            case "button":
                task, needs = PressButton(), [objects.goal(radius_m=0.2)]
                if not any(thing.name == "buttons" for thing in own):
                    own.insert(0, objects.buttons(4))
        # The original's order: buttons before their goal, a goal before everything else.
        first = [thing for thing in own if thing.name == "buttons"]
        every = [*first, *needs, *(thing for thing in own if thing.name != "buttons")]
        by_name = {thing.name: thing for thing in every}
        world = World(
            agent,
            task,
            self.extent_m,
            tuple(every),
            tuple(settings.rule(by_name) for settings in self.rules),
            steps=self.steps,
            sight_m=self.sight_m,
        )
        refuse_agent_without_room(world)
        return world


def make_custom(
    id: str, num_envs: int, threads: int = 1, costs: Literal["sum", "split"] = "sum", seed: int = 0, **settings: Any
) -> NavigationWorlds:
    """`num_envs` copies of the world that `settings` describe (see `CustomWorld`); the rest as in `make_world`.

    Raises ConfigError listing every setting that is unknown or out of range, or naming what such a world cannot be.
    """
    from trueline.safety.worlds import open_world

    refuse_counts(id, num_envs, threads)
    return open_world(id, build(CustomWorld, settings).world(), num_envs, threads, costs, seed)
