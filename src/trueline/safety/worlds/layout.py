"""Where things lie at the start of an episode, equal to Safety-Gymnasium's sampler seed for seed.

The original draws from NumPy's legacy generator, whose stream is frozen, so the same seed gives the same layout for
ever. Each of its environment steps also consumes one double (a binomial over substeps that always returns the
maximum); `Stream.skip` discards those before the next draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.core.errors import ConfigError
from trueline.safety.worlds.objects import World

_TRIES_PER_OBJECT = 100
_TRIES_PER_LAYOUT = 10_000
_TRIES_PER_GOAL = 10_000
_BLOCK = 64  # doubles fetched at once: one call per double would dominate the cost of a reset

Point = tuple[float, float]


class Unplaceable(Exception):
    """No room was found for an object; the episode ends where the original raises its ResamplingError."""


class Stream:
    """Uniform doubles of the legacy generator seeded with `seed`; (`seed`, `drawn`) is its whole state."""

    __slots__ = ("_block", "_next", "_random", "drawn", "seed")

    def __init__(self, seed: int, drawn: int = 0) -> None:
        self._random = np.random.RandomState()
        self.restart(seed, drawn)

    def restart(self, seed: int, drawn: int = 0) -> None:
        """Begin again from `seed`, as if `drawn` doubles had been taken."""
        self._random.seed(seed)
        self.seed, self.drawn = seed, 0
        self._block: list[float] = []
        self._next = 0
        self.skip(drawn)

    def skip(self, count: int) -> None:
        """Discard `count` doubles."""
        self.drawn += count
        self._next += count
        beyond = self._next - len(self._block)
        if beyond > 0:
            self._random.random_sample(beyond)
            self._block, self._next = [], 0

    def uniform(self, low: float, high: float) -> float:
        """One double in [low, high), computed as the legacy generator does."""
        if self._next == len(self._block):
            self._block, self._next = self._random.random_sample(_BLOCK).tolist(), 0
        unit = self._block[self._next]
        self._next += 1
        self.drawn += 1
        return low + (high - low) * unit

    def point(self, extent: float, keepout: float) -> Point:
        """A point of the square ±extent shrunk by keepout; x is drawn first."""
        low, high = -extent + keepout, extent - keepout
        return self.uniform(low, high), self.uniform(low, high)

    def angle(self) -> float:
        """An angle in [0, 2π)."""
        return self.uniform(0.0, 2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class Layout:
    """An arrangement: positions in metres, rotations about the vertical in radians."""

    agent: Point
    agent_rot: float
    goal: Point
    hazards: tuple[Point, ...]
    vases: tuple[Point, ...]
    vases_rot: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON form: name -> [n][2] metres, "agent_rot" radians, "vases_rot" [n] radians; objects present only."""
        out: dict[str, Any] = {"agent": [list(self.agent)], "agent_rot": self.agent_rot, "goal": [list(self.goal)]}
        if self.hazards:
            out["hazards"] = [list(xy) for xy in self.hazards]
        if self.vases:
            out["vases"] = [list(xy) for xy in self.vases]
            out["vases_rot"] = list(self.vases_rot)
        return out

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Layout:
        """The arrangement that `as_dict` wrote; one made by hand goes through `read_layout`."""

        def points(name: str) -> tuple[Point, ...]:
            return tuple((x, y) for x, y in stored.get(name, ()))

        (agent,), (goal,) = points("agent"), points("goal")
        vases_rot = tuple(stored.get("vases_rot", ()))
        return cls(agent, stored["agent_rot"], goal, points("hazards"), points("vases"), vases_rot)


def _numbers(name: str, given: Any, shape: tuple[int, ...]) -> Any:
    """`given` as nested lists of finite floats of this shape.  Raises ConfigError naming the object."""
    form = "one number" if not shape else f"{shape[0]} numbers" if len(shape) == 1 else f"{shape[0]} pairs of metres"
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full((0,), np.nan)
    if values.shape != shape:
        raise ConfigError(f"the layout's {name!r} is {given!r:.80}. Give {form}.")
    if not np.isfinite(values).all():
        raise ConfigError(f"the layout's {name!r} is not finite. Give {form}.")
    return values.tolist()


def read_layout(world: World, given: Mapping[str, Any]) -> Layout:
    """The arrangement that `Layout.as_dict` wrote, or one made by hand; rotations may be left out (0).

    Raises ConfigError naming the object when one is missing, unknown, of the wrong count, or makes the start unsafe.
    """
    counts = {"agent": 1, **{thing.name: thing.count for thing in world.things}}
    rotations = {"agent_rot"} | ({"vases_rot"} if world.vases.count else set())
    for name in given:
        if name not in counts and name not in rotations:
            raise ConfigError(f"this world has no {name!r}. A layout places {', '.join(counts)}.")
    for name in counts:
        if name not in given:
            raise ConfigError(f"the layout does not place {name!r}. It must place {', '.join(counts)}.")
    at = {name: [(x, y) for x, y in _numbers(name, given[name], (count, 2))] for name, count in counts.items()}
    vases = at.get("vases", [])
    layout = Layout(
        agent=at["agent"][0],
        agent_rot=_numbers("agent_rot", given.get("agent_rot", 0.0), ()),
        goal=at["goal"][0],
        hazards=tuple(at.get("hazards", [])),
        vases=tuple(vases),
        vases_rot=tuple(_numbers("vases_rot", given.get("vases_rot", [0.0] * len(vases)), (len(vases),))),
    )
    _refuse_unsafe(world, layout)
    return layout


def _refuse_unsafe(world: World, layout: Layout) -> None:
    """An episode starts without cost and without bodies inside one another, which physics would throw apart."""
    corner = math.sqrt(2.0) * world.vases.half_m
    for i, xy in enumerate(layout.hazards):
        if math.dist(layout.agent, xy) < world.hazards.radius_m:
            raise ConfigError(
                f"the agent starts inside hazards[{i}]. Keep it {world.hazards.radius_m} m from its centre."
            )
    for i, xy in enumerate(layout.vases):
        room = world.agent.reach_m + corner
        if math.dist(layout.agent, xy) < room:
            raise ConfigError(f"the agent starts touching vases[{i}]. Keep their centres {room:.2f} m apart.")
        for j in range(i):
            if math.dist(layout.vases[j], xy) < 2.0 * corner:
                raise ConfigError(f"vases[{j}] and vases[{i}] overlap. Keep their centres {2.0 * corner:.2f} m apart.")


def _free(xy: Point, keepout: float, placed: list[tuple[Point, float]]) -> bool:
    for (x, y), other in placed:
        dx, dy = xy[0] - x, xy[1] - y
        if math.sqrt(dx * dx + dy * dy) < other + keepout:
            return False
    return True


def _arrange(world: World, stream: Stream) -> list[Point]:
    """Positions of agent, goal, hazards and vases, in the order drawn; starts over when one finds no room."""
    keepouts = [world.agent.keepout_m]
    for thing in world.things:
        keepouts += [thing.keepout_m] * thing.count
    for _ in range(_TRIES_PER_LAYOUT):
        placed: list[tuple[Point, float]] = []
        for keepout in keepouts:
            for _ in range(_TRIES_PER_OBJECT):
                xy = stream.point(world.extent_m, keepout)
                if _free(xy, keepout, placed):
                    placed.append((xy, keepout))
                    break
            else:
                break
        else:
            return [xy for xy, _ in placed]
    raise Unplaceable


def draw_goal(world: World, stream: Stream, agent: Point, hazards: list[Point], vases: list[Point]) -> Point:
    """A new place for the goal, clear of where everything else is now.  Raises Unplaceable."""
    placed = [(agent, world.agent.keepout_m)]
    placed += [(xy, world.hazards.keepout_m) for xy in hazards]
    placed += [(xy, world.vases.keepout_m) for xy in vases]
    for _ in range(_TRIES_PER_GOAL):
        xy = stream.point(world.extent_m, world.goal.keepout_m)
        if _free(xy, world.goal.keepout_m, placed):
            return xy
    raise Unplaceable


def draw_layout(world: World, stream: Stream) -> Layout:
    """The arrangement of a new episode.  Raises Unplaceable."""
    agent, _, *rest = _arrange(world, stream)  # the first goal only claims room: it is drawn again below
    hazards, vases = rest[: world.hazards.count], rest[world.hazards.count :]
    agent_rot = stream.angle()
    for _ in range(1 + world.hazards.count):
        stream.angle()  # rotations of goal and hazards, which are round
    vases_rot = tuple(stream.angle() for _ in vases)
    goal = draw_goal(world, stream, agent, hazards, vases)
    return Layout(agent, agent_rot, goal, tuple(hazards), tuple(vases), vases_rot)
