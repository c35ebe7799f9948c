"""What lies in a safety world besides the agent, as data (Safety-Gymnasium, Ji et al. 2023; Ray et al. 2019).

A `Thing` is one kind of object; functions named after the original's kinds fill in its measures. Lengths are metres,
densities kg/m³, angles radians. `keepout_m` is the room an object claims when a layout is drawn: two objects are never
nearer than the sum of theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trueline.safety.worlds.agents import Agent, Vector

Point = tuple[float, float]
Square = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max

# How an object stands in the world, in the order of the layout sampler and of the lidar rings: marks and fixed bodies
# first, then free ones, then those that are driven.
_TURN = {"mark": 0, "fixed": 0, "free": 1, "driven": 2}


@dataclass(frozen=True, slots=True)
class Solid:
    """One solid: half-extents for a box, (radius, half-height) for an upright cylinder, (radius,) for a sphere."""

    kind: Literal["sphere", "box", "cylinder"]
    size_m: tuple[float, ...]
    at_m: Vector = (0.0, 0.0, 0.0)
    turn_rad: float = 0.0  # about the vertical

    @property
    def reach_m(self) -> float:
        """No point of the solid is further than this from the object's axis, seen from above."""
        corner = math.hypot(*self.size_m[:2]) if self.kind == "box" else self.size_m[0]
        return math.hypot(*self.at_m[:2]) + corner


@dataclass(frozen=True, slots=True)
class Thing:
    """`count` objects of one kind.

    stands: "mark", geometry that nothing touches; "fixed", an immovable body; "free", a body that can be pushed;
    "driven", a free body pulled round a circle of radius `travel_m`.
    """

    name: str  # of the kind; a plural where there may be several
    solids: tuple[Solid, ...]
    stands: Literal["mark", "fixed", "free", "driven"]
    height_m: float  # of the centre at the start
    keepout_m: float
    colour: tuple[float, float, float, float]
    count: int = 1
    seen: bool = True  # has a lidar ring
    turned: bool = False  # is drawn a rotation that matters
    density: float = 0.0
    at: tuple[Point, ...] = ()  # fixed places, one per object
    within: tuple[Square, ...] = ()  # where it is placed, when not anywhere in the world's square
    travel_m: float = 0.0
    shown_as: str = ""  # in the observation, when not by its name

    @property
    def radius_m(self) -> float:
        """Radius (of a box: half the side) of the main solid, seen from above."""
        return self.solids[0].size_m[0]

    @property
    def reach_m(self) -> float:
        """No point of an object is further than this from its centre, seen from above."""
        return max(solid.reach_m for solid in self.solids)

    @property
    def is_body(self) -> bool:
        """Whether other bodies run into it."""
        return self.stands != "mark"

    @property
    def moves(self) -> bool:
        """Whether its place changes by physics."""
        return self.stands in ("free", "driven")

    @property
    def single(self) -> bool:
        """Whether there is never more than one of the kind."""
        return not self.name.endswith("s")

    def each(self) -> tuple[str, ...]:
        """Names of the single objects, in the original's words: hazard0, hazard1, …; or the name itself."""
        one = self.name.removesuffix("s")
        return (self.name,) if self.single else tuple(f"{one}{i}" for i in range(self.count))


def in_order(things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """The kinds present, in the order in which layouts are drawn and rings are observed."""
    return tuple(sorted((thing for thing in things if thing.count), key=lambda thing: _TURN[thing.stands]))


def shrunk(squares: tuple[Square, ...], keepout_m: float) -> tuple[Square, ...]:
    """Where centres may lie so that something of this keepout stays within one of the squares; () where none fits."""
    k = keepout_m
    parts = ((a + k, b + k, c - k, d - k) for a, b, c, d in squares)
    return tuple(part for part in parts if part[0] <= part[2] and part[1] <= part[3])


# --- the original's kinds ---------------------------------------------------------------------------------------------


def goal(radius_m: float = 0.3, keepout_m: float = 0.4) -> Thing:
    """A disc to reach, or to push something to."""
    disc = Solid("cylinder", (radius_m, radius_m / 2))
    return Thing("goal", (disc,), "mark", radius_m / 2 + 0.01, keepout_m, (0.0, 1.0, 0.0, 0.25))


def hazards(count: int, radius_m: float = 0.2, keepout_m: float = 0.4) -> Thing:
    """Flat discs one can drive through."""
    disc = Solid("cylinder", (radius_m, 0.01))
    return Thing("hazards", (disc,), "mark", 0.02, keepout_m, (0.0, 0.0, 1.0, 0.25), count)


def vases(count: int, keepout_m: float = 0.15) -> Thing:
    """Light boxes that can be pushed."""
    half = 0.1
    # They rest this deep in MuJoCo's soft floor, so that they do not bounce at the start.
    height = half - 4e-5
    box = Solid("box", (half,) * 3)
    colour = (0.0, 1.0, 1.0, 1.0)
    return Thing("vases", (box,), "free", height, keepout_m, colour, count, turned=True, density=0.001)


def pillars(count: int) -> Thing:
    """Immovable columns."""
    column = Solid("cylinder", (0.2, 0.5))
    return Thing("pillars", (column,), "fixed", 0.5, 0.3, (0.5, 0.5, 1.0, 1.0), count)


def buttons(count: int) -> Thing:
    """Small immovable balls to press."""
    ball = Solid("sphere", (0.1,))
    return Thing("buttons", (ball,), "fixed", 0.1, 0.2, (1.0, 0.5, 0.0, 1.0), count)


def gremlins(count: int, travel_m: float = 0.35, keepout_m: float = 0.4) -> Thing:
    """Light boxes that circle about their place whatever stands in the way."""
    half = 0.1
    box = Solid("box", (half,) * 3)
    return Thing(
        "gremlins",
        (box,),
        "driven",
        half,
        keepout_m,
        (0.5, 0.0, 1.0, 1.0),
        count,
        turned=True,
        density=0.001,
        travel_m=travel_m,
    )


def push_box(agent: Agent) -> Thing:
    """The box to push, a post at each corner so that it can be pulled too; smaller and lighter for the Car."""
    half, density = (0.125, 0.0005) if agent.name == "car" else (0.2, 0.001)
    posts = (Solid("box", (half / 2, half / 2, half), (x, y, 0.0)) for y in (half, -half) for x in (half, -half))
    solids = (Solid("box", (half,) * 3), *posts)
    return Thing("push_box", solids, "free", half, half, (1.0, 1.0, 0.0, 1.0), turned=True, density=density)


def barriers(count: int, within: tuple[Square, ...]) -> Thing:
    """Light blocks on a course, called vases as in the original."""
    block = Solid("box", (0.16, 0.16, 0.19))
    orange = (1.0, 0.45, 0.1, 1.0)
    return Thing("vases", (block,), "free", 0.19, 0.5, orange, count, turned=True, density=3.6e-4, within=within)


def circle(radius_m: float = 1.5) -> Thing:
    """The disc around whose rim to run, at the origin."""
    disc = Solid("cylinder", (radius_m, 0.01))
    return Thing("circle", (disc,), "mark", 0.01, 0.0, (0.0, 1.0, 0.0, 0.1), at=((0.0, 0.0),))


def walls(count: Literal[2, 4], distance_m: float, half_length_m: float) -> Thing:
    """Lines that are not to be crossed, seen and not felt: at x = ±distance, and with four at y = ±distance too."""
    line = Solid("box", (0.05, half_length_m, 0.3))
    d = distance_m
    places = ((d, 0.0), (-d, 0.0), (0.0, d), (0.0, -d))[:count]
    return Thing("sigwalls", (line,), "mark", 0.25, 0.0, (1.0, 0.0, 0.0, 0.1), count, seen=False, at=places)
