"""What lies in a safety world besides the agent, as data (Safety-Gymnasium, Ji et al. 2023; Ray et al. 2019).

`keepout_m` is the room an object claims when a layout is drawn: two objects are never nearer than the sum of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trueline.safety.worlds.agents import Agent


@dataclass(frozen=True, slots=True)
class Goal:
    """Where the agent should go: reached when its centre is within `radius_m`; +1 and a new place each time."""

    radius_m: float = 0.3
    keepout_m: float = 0.305
    name: ClassVar[str] = "goal"
    count: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Hazards:
    """Flat discs the agent can drive through; being inside one with its centre costs."""

    count: int
    radius_m: float = 0.2
    keepout_m: float = 0.18
    name: ClassVar[str] = "hazards"


@dataclass(frozen=True, slots=True)
class Vases:
    """Light boxes that can be pushed; when constrained, touching or moving one costs."""

    count: int
    constrained: bool
    half_m: float = 0.1
    density: float = 0.001
    sink_m: float = 4e-5  # how deep a vase rests in MuJoCo's soft floor, so that it does not bounce at the start
    keepout_m: float = 0.15
    still_m_per_s: float = 1e-4  # slower than this counts as not moving
    name: ClassVar[str] = "vases"


Thing = Goal | Hazards | Vases


@dataclass(frozen=True, slots=True)
class World:
    """A navigation task: which agent, how large a square, what lies in it, for how many steps.

    `things` are in the order of the observation's lidar rings and of the layout sampler.
    """

    agent: Agent
    extent_m: float  # layouts are drawn in the square ±extent_m
    goal: Goal
    hazards: Hazards
    vases: Vases
    steps: int = 1000
    substeps: int = 10  # physics steps per control interval
    bins: int = 16  # of each pseudo-lidar ring
    sight_m: float = 3.0  # beyond which a lidar reads 0

    @property
    def things(self) -> tuple[Thing, ...]:
        """The kinds of object present."""
        return tuple(thing for thing in (self.goal, self.hazards, self.vases) if thing.count)

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the costs this world reports, in the original's words."""
        names: tuple[str, ...] = ("cost_hazards",) if self.hazards.count else ()
        if self.vases.count and self.vases.constrained:
            names += ("cost_vases_contact", "cost_vases_velocity")
        return names

    @property
    def observation_size(self) -> int:
        """Numbers in the flat observation."""
        return self.agent.senses + self.bins * len(self.things)
