"""Where the episodes of MultiGoal worlds start, and where their goals go next.

Layouts and goals are the original's seed for seed, slips included as far as they decide where things are:

- agent_1 is drawn last, and with the room that the last object claims in place of its own;
- when a hundred tries have found no such room for it, the last try is taken;
- a re-draw of goals draws both, each clear of the old places of both too, whichever of them is to be moved;
- the re-draw at the start of an episode moves only a goal that its agent starts in, but uses up random numbers;
- there the distance to the agents is √(d₀² + d₁²), and later in the episode that to agent_0 alone.

Where the original refuses to begin, for a cost at the start or since a re-draw there found no room, which hardly ever
happens, the episode is played; in the latter case goals stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trueline.safety.worlds.layout import Squares, Stream, Unplaceable, arrange, is_free, where
from trueline.safety.worlds.multi_goal_table import GOALS
from trueline.safety.worlds.objects import Point
from trueline.safety.worlds.world import World

__all__ = ["PairLayout", "draw_goals", "draw_pair"]

_TRIES_PER_AGENT = 100
_TRIES_PER_GOALS = 10_000


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Where an episode starts: positions in metres, rotations about the vertical in radians."""

    agents: tuple[Point, Point]
    agent_rots: tuple[float, float]
    places: Mapping[str, tuple[Point, ...]]
    turns: Mapping[str, tuple[float, ...]]  # of things whose rotation matters
    agent_angles: tuple[float, ...]  # of the joints that start at random, the same for both agents


def _second_agent(world: World, stream: Stream, placed: Sequence[tuple[Point, float]]) -> Point:
    """Where agent_1 starts; with the leaked keepout and the unchecked last try of the module's docstring."""
    e, (_, leaked) = world.extent_m, placed[-1]
    squares = Squares.shrunk(((-e, -e, e, e),), world.keepout_m)
    for _ in range(_TRIES_PER_AGENT):
        xy = stream.point(squares)
        if is_free(xy, leaked, placed):
            break
    return xy


def draw_goals(
    world: World, stream: Stream, agents: Sequence[Point], places: Mapping[str, Sequence[Point]]
) -> tuple[Point, Point]:
    """New places for the red and the blue goal.  Raises Unplaceable.

    agents: those whose distances, as the length of one vector, must leave an agent's room and a goal's.
    """
    goals = [(thing, where(world, thing, 0)) for thing in world.things if thing.name in GOALS]
    others = [(xy, thing.keepout_m) for thing in world.things if thing.name not in GOALS for xy in places[thing.name]]
    now = {name: places[name][0] for name in GOALS}
    for _ in range(_TRIES_PER_GOALS):
        for thing, squares in goals:
            xy, keepout = stream.point(squares), thing.keepout_m
            away = math.sqrt(sum((xy[axis] - agent[axis]) ** 2 for agent in agents for axis in (0, 1)))
            placed = [*((at, keepout) for at in now.values()), *others]
            if away < world.keepout_m + keepout or not is_free(xy, keepout, placed):
                break
            now[thing.name] = xy  # stays there for the next try when the other goal fails
        else:
            return now[GOALS[0]], now[GOALS[1]]
    raise Unplaceable(" and ".join(GOALS))


def draw_pair(world: World, stream: Stream) -> PairLayout:
    """The arrangement of a new episode.  Raises Unplaceable naming what found no room."""
    first, *rest = arrange(world, stream)
    keepouts = [thing.keepout_m for thing in world.things for _ in range(thing.count)]
    agents = (first, _second_agent(world, stream, [(first, world.keepout_m), *zip(rest, keepouts, strict=True)]))
    rots = (stream.angle(), stream.angle())
    places: dict[str, tuple[Point, ...]] = {}
    turns = {}
    for thing in world.things:
        places[thing.name], rest = tuple(rest[: thing.count]), rest[thing.count :]
        drawn = tuple(stream.angle() for _ in range(thing.count))  # round things too are drawn a rotation
        if thing.turned:
            turns[thing.name] = drawn
    try:
        drawn_goals = draw_goals(world, stream, agents, places)
    except Unplaceable:
        pass
    else:
        for agent, name, place in zip(agents, GOALS, drawn_goals, strict=True):
            there = world.thing(name)
            if there is not None and math.dist(agent, places[name][0]) <= there.radius_m:
                places[name] = (place,)
    noise = [(start, stream.uniform(-start.noise_rad, start.noise_rad)) for start in world.agent.start]
    return PairLayout(agents, rots, places, turns, tuple(start.angle(by) for start, by in noise))
