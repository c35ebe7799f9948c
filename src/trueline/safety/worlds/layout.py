"""Where things lie at the start of an episode, equal to Safety-Gymnasium's sampler seed for seed.

The original draws from NumPy's legacy generator, whose stream is frozen, so the same seed gives the same layout for
ever. Each of its environment steps also consumes one double (a binomial over substeps that always returns the
maximum); `Stream.skip` discards those before the next draw.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.safety.worlds.compiled import machine_code, read, written
from trueline.safety.worlds.costs import Beyond, Inside
from trueline.safety.worlds.objects import Point, Square, Thing, shrunk
from trueline.safety.worlds.world import World

_TRIES_PER_OBJECT = 100
_TRIES_PER_LAYOUT = 10_000
_TRIES_PER_GOAL = 10_000
_BLOCK = 128  # words fetched at once: one call per number would dominate the cost of a reset
_FIXED_SLACK_M = 1e-9  # a fixed object is drawn from a square this much larger than its keepout


class Unplaceable(Exception):
    """No room was found for an object; the episode ends where the original raises its ResamplingError."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)

    def refusal(self, id: str, extent_m: float) -> ConfigError:
        """What a user is told who asked for an episode of the world called `id`."""
        return ConfigError(
            f"{id} has no room for its {self.what!r} in a square of ±{extent_m} m. "
            "Give it more room, fewer things or smaller keepouts."
        )


@dataclass(frozen=True, slots=True)
class Squares:
    """Squares already shrunk by a keepout, and their shares of the area, added up; of a single one, nothing."""

    parts: tuple[Square, ...]
    below: tuple[float, ...] = ()

    @classmethod
    def shrunk(cls, squares: tuple[Square, ...], keepout: float) -> Squares:
        """Those in which something of this keepout fits."""
        parts = shrunk(squares, keepout)
        if len(parts) <= 1:
            return cls(parts)
        # In NumPy and in this order: the shares' last bits decide which square a number falls into.
        areas = np.array([(c - a) * (d - b) for a, b, c, d in parts])
        below = (areas / np.sum(areas)).cumsum()
        return cls(parts, tuple((below / below[-1]).tolist()))


class Stream:
    """Numbers of the legacy generator seeded with `seed`; (`seed`, `drawn`) is its whole state.

    The generator yields words of 32 bits: a double takes two of them, a choice among a few one or more.
    """

    __slots__ = ("_bits", "_next", "_seeder", "_words", "drawn", "seed")

    def __init__(self, seed: int, drawn: int = 0) -> None:
        self._bits = np.random.MT19937()
        self._seeder = np.random.RandomState(self._bits)  # seeds the words below as the legacy generator is seeded
        self.restart(seed, drawn)

    def restart(self, seed: int, drawn: int = 0) -> None:
        """Begin again from `seed`, as if `drawn` words had been taken."""
        self._seeder.seed(seed)
        self.seed, self.drawn = seed, 0
        self._words = np.zeros(0, dtype=np.uint64)
        self._next = 0
        self.discard(drawn)

    def discard(self, words: int) -> None:
        """Take words and drop them."""
        self.drawn += words
        self._next += words
        beyond = self._next - len(self._words)
        if beyond > 0:
            self._bits.random_raw(beyond, output=False)
            self._words, self._next = np.zeros(0, dtype=np.uint64), 0

    def skip(self, count: int) -> None:
        """Discard `count` doubles."""
        self.discard(2 * count)

    def ahead(self, words: int) -> NDArray[np.uint64]:
        """The next words, at least this many, without taking them."""
        missing = self._next + words - len(self._words)
        if missing > 0:
            fetched = self._bits.random_raw(max(missing, _BLOCK))
            self._words, self._next = np.concatenate([self._words[self._next :], fetched]), 0
        return self._words[self._next :]

    def _word(self) -> int:
        word = int(self.ahead(1)[0])
        self._next += 1
        self.drawn += 1
        return word

    def uniform(self, low: float, high: float) -> float:
        """One double in [low, high), computed as the legacy generator does."""
        unit = ((self._word() >> 5) * 67108864.0 + (self._word() >> 6)) / 9007199254740992.0
        return low + (high - low) * unit

    def choice(self, count: int) -> int:
        """One of 0 … count − 1, as the legacy generator's `choice`: masked words until one is in range."""
        if count == 1:
            return 0
        mask = (1 << (count - 1).bit_length()) - 1
        while True:
            drawn = self._word() & mask
            if drawn < count:
                return drawn

    def point(self, squares: Squares) -> Point:
        """A point of one of the squares, chosen by area where there are several; x is drawn first."""
        x_min, y_min, x_max, y_max = squares.parts[0]
        if squares.below:
            unit = self.uniform(0.0, 1.0)
            x_min, y_min, x_max, y_max = squares.parts[bisect.bisect_right(squares.below, unit)]
        return self.uniform(x_min, x_max), self.uniform(y_min, y_max)

    def angle(self) -> float:
        """An angle in [0, 2π)."""
        return self.uniform(0.0, 2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class Layout:
    """An arrangement: positions in metres, rotations about the vertical in radians."""

    agent: Point
    agent_rot: float
    places: Mapping[str, tuple[Point, ...]]
    turns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of things whose rotation matters
    chosen: int = 0  # which object is the target, where one of several is
    agent_angles: tuple[float, ...] = ()  # of the agent's joints that start at random

    def as_dict(self) -> dict[str, Any]:
        """JSON form: name -> [n][2] metres, "agent_rot" radians, "<name>_rot" [n] radians, "chosen" an index.

        "agent_angles" [J] radians are there for agents whose joints start at random.
        """
        out: dict[str, Any] = {"agent": [list(self.agent)], "agent_rot": self.agent_rot}
        out |= {name: [list(xy) for xy in points] for name, points in self.places.items()}
        out |= {f"{name}_rot": list(turns) for name, turns in self.turns.items()}
        out |= {"agent_angles": list(self.agent_angles)} if self.agent_angles else {}
        return out | ({"chosen": self.chosen} if self.chosen else {})

    @classmethod
    def from_dict(cls, world: World, stored: Mapping[str, Any]) -> Layout:
        """The arrangement that `as_dict` wrote; one made by hand goes through `read_layout`."""
        places = {thing.name: tuple((x, y) for x, y in stored[thing.name]) for thing in world.things}
        turns = {thing.name: tuple(stored[f"{thing.name}_rot"]) for thing in world.things if thing.turned}
        ((x, y),) = stored["agent"]
        return cls(
            (x, y), stored["agent_rot"], places, turns, stored.get("chosen", 0), tuple(stored.get("agent_angles", ()))
        )


# --- drawing ----------------------------------------------------------------------------------------------------------


def is_free(xy: Point, keepout: float, placed: Sequence[tuple[Point, float]]) -> bool:
    """Whether something of this keepout can be at `xy` beside what has been placed, each with its keepout."""
    for (x, y), other in placed:
        dx, dy = xy[0] - x, xy[1] - y
        if math.sqrt(dx * dx + dy * dy) < other + keepout:
            return False
    return True


def where(world: World, thing: Thing, i: int) -> Squares:
    """The squares that object `i` of a kind is drawn from."""
    e, k = world.extent_m, thing.keepout_m
    squares = thing.within or ((-e, -e, e, e),)
    if thing.at:
        (x, y), far = thing.at[i], k + _FIXED_SLACK_M
        squares = ((x - far, y - far, x + far, y + far),)
    return Squares.shrunk(squares, k)


class _Claims(NamedTuple):
    """What is placed, in the order drawn: n objects and the squares they are drawn from, one after another."""

    names: tuple[str, ...]
    keepout: NDArray[np.float64]  # [n] metres
    first: NDArray[np.int64]  # [n + 1] the squares of object i are those from first[i] to first[i + 1]
    square: NDArray[np.float64]  # [P, 4]
    below: NDArray[np.float64]  # [P] shares of the area, added up; of a single square nothing is drawn, 1


@functools.cache
def _claims(world: World) -> _Claims:
    e, k = world.extent_m, world.keepout_m
    agent = ("agent", Squares.shrunk(world.agent_within or ((-e, -e, e, e),), k), k)
    if not agent[1].parts:
        raise Unplaceable("agent")
    things = ((name, where(world, t, i), t.keepout_m) for t in world.things for i, name in enumerate(t.each()))
    names, squares, keepouts = zip(agent, *things, strict=True)
    return _Claims(
        names,
        np.array(keepouts),
        np.cumsum([0, *(len(s.parts) for s in squares)]),
        np.array([part for s in squares for part in s.parts]),
        np.array([share for s in squares for share in s.below or (1.0,)]),
    )


# Compiled, since a crowded world starts over hundreds of times: a layout of sixteen objects takes 14 ms in Python.
def place(words: Any, keepout: Any, first: Any, square: Any, below: Any, xy: Any) -> tuple[int, int]:
    """Places n objects from the given words, starting over when one finds no room.

    words [W], keepout [n], first [n + 1], square [P, 4], below [P] -> xy [n, 2], with (outcome, words used). The
    outcome is n when all are placed, i when object i found no room in the last layout tried, -1 when the words ran out.
    """
    n = len(keepout)
    at = 0
    stuck = 0
    for _ in range(_TRIES_PER_LAYOUT):
        placed = 0
        while placed < n:
            begin, end = first[placed], first[placed + 1]
            found = False
            for _ in range(_TRIES_PER_OBJECT):
                if at + 6 > len(words):
                    return -1, at
                part = begin
                if end - begin > 1:
                    unit = ((int(words[at]) >> 5) * 67108864.0 + (int(words[at + 1]) >> 6)) / 9007199254740992.0
                    at += 2
                    while below[part] <= unit:
                        part += 1
                unit = ((int(words[at]) >> 5) * 67108864.0 + (int(words[at + 1]) >> 6)) / 9007199254740992.0
                x = square[part, 0] + (square[part, 2] - square[part, 0]) * unit
                unit = ((int(words[at + 2]) >> 5) * 67108864.0 + (int(words[at + 3]) >> 6)) / 9007199254740992.0
                y = square[part, 1] + (square[part, 3] - square[part, 1]) * unit
                at += 4
                found = True
                for j in range(placed):
                    dx, dy = x - xy[j, 0], y - xy[j, 1]
                    if math.sqrt(dx * dx + dy * dy) < keepout[j] + keepout[placed]:
                        found = False
                        break
                if found:
                    xy[placed, 0], xy[placed, 1] = x, y
                    placed += 1
                    break
            if not found:
                stuck = placed
                break
        if placed == n:
            return n, at
    return stuck, at


@functools.cache
def _placing() -> Callable[..., tuple[int, int]]:
    from numba import int64, types, uint64

    outcome = types.UniTuple(int64, 2)
    return machine_code(
        place,
        outcome(
            read(1, uint64, "C"), read(1, layout="C"), read(1, int64, "C"), read(2, layout="C"), read(1, layout="C"),
            written(2, layout="C"),
        ),
    )  # fmt: skip


def arrange(world: World, stream: Stream) -> list[Point]:
    """Positions of the agent and all things, in the order drawn; starts over when one finds no room."""
    names, *claims = _claims(world)
    xy = np.zeros((len(names), 2))
    words = _BLOCK
    outcome = -1
    while outcome < 0:
        words *= 4
        outcome, used = _placing()(stream.ahead(words), *claims, xy)
    stream.discard(used)
    if outcome < len(names):
        raise Unplaceable(names[outcome])
    return [(x, y) for x, y in xy.tolist()]


def draw_goal(world: World, stream: Stream, agent: Point, places: Mapping[str, Sequence[Point]]) -> Point:
    """A new place for the goal, clear of where everything else is now.  Raises Unplaceable."""
    placed = [(agent, world.keepout_m)]
    goal = world.thing("goal")
    assert goal is not None
    for thing in world.things:
        if thing is not goal:
            placed += [(xy, thing.keepout_m) for xy in places[thing.name]]
    squares = where(world, goal, 0)
    for _ in range(_TRIES_PER_GOAL):
        xy = stream.point(squares)
        if is_free(xy, goal.keepout_m, placed):
            return goal.at[0] if goal.at else xy
    raise Unplaceable("goal")


def draw_layout(world: World, stream: Stream) -> Layout:
    """The arrangement of a new episode.  Raises Unplaceable."""
    agent, *rest = arrange(world, stream)
    agent_rot = stream.angle()
    places: dict[str, tuple[Point, ...]] = {}
    turns = {}
    for thing in world.things:
        places[thing.name] = thing.at or tuple(rest[: thing.count])
        rest = rest[thing.count :]
        drawn = tuple(stream.angle() for _ in range(thing.count))  # round things too are drawn a rotation
        if thing.turned:
            turns[thing.name] = drawn
    chosen = 0
    if world.task.renews == "place":
        places["goal"] = (draw_goal(world, stream, agent, places),)  # the first only claimed room
    elif world.task.renews == "choice":
        assert world.task.target is not None
        chosen = stream.choice(len(places[world.task.target]))
        places["goal"] = (places[world.task.target][chosen],)
    elif world.task.renews == "stage":
        # The agent starts on one of the stages, and the next is its first goal.
        chosen = min(range(len(world.task.stages)), key=lambda k: math.dist(world.task.stages[k], agent))
        chosen = (chosen + 1) % len(world.task.stages)
        places["goal"] = (world.task.stages[chosen],)
    noise = [(start, stream.uniform(-start.noise_rad, start.noise_rad)) for start in world.agent.start]
    return Layout(agent, agent_rot, places, turns, chosen, tuple(start.angle(by) for start, by in noise))


# --- reading ----------------------------------------------------------------------------------------------------------


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

    Where one of several objects is the target, "chosen" is its index, and the goal lies there.
    Raises ConfigError naming the object when one is missing, unknown, of the wrong count, or makes the start unsafe.
    """
    fixed = {thing.name for thing in world.things if thing.at}
    target = world.task.target
    stages = len(world.task.stages)
    implied = fixed | ({"goal"} if target or stages else set())
    counts = {"agent": 1} | {thing.name: thing.count for thing in world.things}
    turned = {f"{thing.name}_rot": thing.count for thing in world.things if thing.turned}
    rest = [start.angle(0.0) for start in world.agent.start]
    known = {
        *counts,
        "agent_rot",
        *(["agent_angles"] if rest else []),
        *turned,
        *({"chosen"} if target or stages else ()),
    }
    needed = [name for name in counts if name not in implied]
    for name in given:
        if name not in known:
            raise ConfigError(f"this world has no {name!r}. A layout places {', '.join(needed)}.")
    for name in needed:
        if name not in given:
            raise ConfigError(f"the layout does not place {name!r}. It must place {', '.join(needed)}.")
    at = {name: tuple((x, y) for x, y in _numbers(name, given[name], (counts[name], 2))) for name in needed}
    at |= {thing.name: thing.at for thing in world.things if thing.at}
    chosen = 0
    if target or stages:
        chosen, of = given.get("chosen", 0), at[target] if target else world.task.stages
        if not isinstance(chosen, int) or not 0 <= chosen < len(of):
            raise ConfigError(f"the layout's 'chosen' is {chosen!r:.80}. Give 0 to {len(of) - 1}.")
        at["goal"] = (of[chosen],)
    layout = Layout(
        agent=at["agent"][0],
        agent_rot=_numbers("agent_rot", given.get("agent_rot", 0.0), ()),
        places={thing.name: at[thing.name] for thing in world.things},
        turns={
            name.removesuffix("_rot"): tuple(_numbers(name, given.get(name, [0.0] * count), (count,)))
            for name, count in turned.items()
        },
        chosen=chosen,
        agent_angles=tuple(_numbers("agent_angles", given.get("agent_angles", rest), (len(rest),))),
    )
    _refuse_unsafe(world, layout)
    return layout


def _refuse_unsafe(world: World, layout: Layout) -> None:
    """An episode starts without cost and without bodies inside one another, which physics would throw apart."""
    x, y = layout.agent
    for line in [rule for rule in world.rules if isinstance(rule, Beyond)]:
        if abs(x) > line.x_m or (line.y_m is not None and abs(y) > line.y_m):
            raise ConfigError(f"the agent starts at ({x:g}, {y:g}), beyond the lines of {line.name}. Start it inside.")
    for k, box in enumerate(world.scenery):
        c, s = math.cos(box.turn_rad), math.sin(box.turn_rad)
        dx, dy = x - box.at_m[0], y - box.at_m[1]
        aside = max(abs(c * dx + s * dy) - box.size_m[0], 0.0), max(abs(c * dy - s * dx) - box.size_m[1], 0.0)
        if math.hypot(*aside) == 0.0:
            raise ConfigError(f"the agent starts at ({x:g}, {y:g}), inside scenery[{k}]. Start it in the open.")
    for rule in [rule for rule in world.rules if isinstance(rule, Inside)]:
        for i, xy in enumerate(layout.places[rule.of]):
            if math.dist(layout.agent, xy) < rule.radius_m:
                raise ConfigError(f"the agent starts inside {rule.of}[{i}]. Keep it {rule.radius_m} m from its centre.")
    bodies = [thing for thing in world.things if thing.is_body]
    for k, thing in enumerate(bodies):
        for i, xy in enumerate(layout.places[thing.name]):
            room = _room(world.agent.reach_m, world.keepout_m, thing)
            if math.dist(layout.agent, xy) < room:
                raise ConfigError(
                    f"the agent starts touching {thing.name}[{i}]. Keep their centres {room:.2f} m apart."
                )
            for other in bodies[: k + 1]:
                room = _room(other.reach_m, other.keepout_m, thing)
                others = layout.places[other.name][: i if other is thing else None]
                for j, place in enumerate(others):
                    if math.dist(place, xy) < room:
                        raise ConfigError(
                            f"{other.name}[{j}] and {thing.name}[{i}] overlap. Keep their centres {room:.2f} m apart."
                        )


def _room(reach_m: float, keepout_m: float, thing: Thing) -> float:
    # The sampler's own rule decides where it is the laxer one: what was drawn can always be read back.
    return min(reach_m + thing.reach_m, keepout_m + thing.keepout_m)
