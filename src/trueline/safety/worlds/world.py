"""A navigation world as data: an agent, a task, what lies around and what must not happen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from trueline.safety.worlds.agents import Agent
from trueline.safety.worlds.checks import check
from trueline.safety.worlds.costs import Cost
from trueline.safety.worlds.objects import Solid, Square, Thing, in_order
from trueline.safety.worlds.tasks import Task


@dataclass(frozen=True, slots=True)
class Fade:
    """Objects of a kind grow transparent over `steps` steps; only pictures show it.

    They come back with every new goal (`until` "goal"), or whenever the constraint named `until` is violated.
    """

    of: str
    steps: int
    until: str = "goal"


@dataclass(frozen=True, slots=True)
class World:
    """Everything that tells one world from another. `things` come out in the order of layouts and of lidar rings.

    Raises ConfigError, when it is made, naming what cannot be: see `checks.check`.
    """

    agent: Agent
    task: Task
    extent_m: float  # layouts are drawn in the square ±extent_m
    things: tuple[Thing, ...] = ()
    rules: tuple[Cost, ...] = ()
    steps: int = 1000
    substeps: int = 10  # physics steps per control interval
    lidar: Literal["bins", "rays"] = "bins"  # see `lidar.py`
    bins: int = 16  # of each lidar ring
    sight_m: float | None = 3.0  # beyond which bins read 0; None: they fade exponentially
    gain_per_m: float = 1.0  # of that
    leaks: bool = True  # whether what is seen in a bin is seen a little in its neighbours too
    compass: Literal[0, 2, 3] = 0  # components of a unit vector to each single object, beside its ring
    floor_m: float = 3.5  # half the side of the floor that is drawn; it bears everywhere
    reward_clip: float | None = 10.0
    agent_within: tuple[Square, ...] = ()  # where the agent starts, when not anywhere in the square
    agent_keepout_m: float | None = None  # the agent's own, when None
    scenery: tuple[Solid, ...] = ()  # immovable, the same in every episode
    fades: tuple[Fade, ...] = ()

    # Read in every step, so they are found once: names of the costs, in the original's words and order; the kinds that
    # the lidar shows and the numbers of the flat observation, in its order.
    constraints: tuple[str, ...] = field(init=False, repr=False, compare=False)
    rings: tuple[Thing, ...] = field(init=False, repr=False, compare=False)
    observation_size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("things", "rules", "agent_within", "scenery", "fades"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check(self)
        object.__setattr__(self, "things", in_order(self.things))
        object.__setattr__(self, "constraints", tuple(rule.name for rule in self.rules))
        object.__setattr__(self, "rings", tuple(thing for thing in self.things if thing.seen))
        object.__setattr__(self, "observation_size", sum(math.prod(shape) for shape in self.parts.values()))

    @property
    def keepout_m(self) -> float:
        """The room the agent claims."""
        return self.agent.keepout_m if self.agent_keepout_m is None else self.agent_keepout_m

    @property
    def touched(self) -> frozenset[str]:
        """The kinds whose contacts with the agent are counted; "scenery" is one."""
        asked = [self.task.touches, *(rule.touches for rule in self.rules)]
        return frozenset(name for name in asked if name is not None)

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what the flat observation is made of, in order, in the original's words."""
        out = {sensor.name: sensor.shape for sensor in self.agent.sensors}
        for thing in self.rings:
            name = thing.shown_as or thing.name
            out[f"{name}_lidar"] = (self.bins,)
            if self.compass and thing.single:
                out[f"{name}_comp"] = (self.compass,)
        return out

    def thing(self, name: str) -> Thing | None:
        """The kind of this name, if present."""
        return next((thing for thing in self.things if thing.name == name), None)
