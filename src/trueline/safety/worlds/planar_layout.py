"""Where things lie in a planar world: drawn for many environments at once, each from its own seed alone.

Random numbers have no state. Number k of a stream is output k of SplitMix64 (Steele, Lea & Flood 2014) started from a
mix of the episode's seed and the stream's name, in int64 arithmetic that is the same on every device. So an episode
does not depend on which others are drawn beside it, in which order, or where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError

__all__ = ["Arrangement", "Place", "arrange", "cos_sin", "free_place", "mix64", "numbers", "read_arrangement"]

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_POSITIONS, _ROTATIONS, _GOALS = range(3)  # streams

CANDIDATES = 32  # places tried for an object before the arrangement starts over
ATTEMPTS = 100  # arrangements tried before the world is refused
GOAL_ROUNDS = 32  # times CANDIDATES places tried for a new goal before the episode ends
_AT_ONCE = 2048  # environments arranged together: bounds memory, changes nothing else


def _signed(value: int) -> int:
    """The int64 with the bits of this uint64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(z: Tensor, by: int) -> Tensor:
    # Torch shifts int64 arithmetically; the mask clears the copies of the sign.
    return (z >> by) & ((1 << (64 - by)) - 1)


def mix64(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64 bits.  int64, any shape."""
    z = (z ^ _shifted(z, 30)) * _signed(_MULTIPLIERS[0])
    z = (z ^ _shifted(z, 27)) * _signed(_MULTIPLIERS[1])
    return z ^ _shifted(z, 31)


def numbers(seeds: Tensor, stream: int, index: Tensor) -> Tensor:
    """64 random bits each.  seeds int64 [n] below 2³², index int64 [R] or [R, n] -> int64 [R, n]."""
    start = mix64(seeds + (stream << 32))
    return mix64(start + (index if index.dim() == 2 else index[:, None]) * _signed(_GAMMA) + _signed(_GAMMA))


def _points(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniforms in [0, 1) of 24 bits, which float32 holds exactly, from each number."""
    scale = 2.0**-24
    return _shifted(bits, 40).float() * scale, ((bits >> 8) & 0xFFFFFF).float() * scale


def cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of radians in double precision, of any shape.

    Of sums and products alone: a library's sine may differ in its last bit between vector and scalar code, so between
    places in a batch, and between devices.
    """
    quarters = torch.floor(angle * (2.0 / math.pi) + 0.5)
    r = angle - quarters * (math.pi / 2.0)  # in [−π/4, π/4]
    square = r * r
    cos, sin = torch.ones_like(r), torch.ones_like(r)
    for k in range(18, 0, -2):  # Taylor series by Horner's rule, to below a bit of the double
        cos = 1.0 - square * cos * (1.0 / (k * (k - 1)))
        sin = 1.0 - square * sin * (1.0 / (k * (k + 1)))
    sin = sin * r
    quarter = (quarters.long() & 3)[None]
    turned = torch.stack([cos, -sin, -cos, sin])
    return turned.gather(0, quarter)[0], turned.gather(0, (quarter + 3) & 3)[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one object may lie: uniform in a box, and no nearer to another than the sum of their keepouts."""

    name: str
    keepout_m: float
    low_m: tuple[float, float]
    high_m: tuple[float, float]


@dataclass(slots=True)
class Arrangement:
    """Positions of agent and objects in the order of the places, xy [2, J, n] float32, and headings rot [n] float64."""

    xy: Tensor
    rot: Tensor


def arrange(places: Sequence[Place], seeds: Tensor) -> Arrangement:
    """The arrangements that n seeds stand for, seeds int64 [n].

    Objects are placed one after another, each at the first of CANDIDATES points that keeps clear of those before it;
    where one finds none, that environment starts over. Raises ConfigError naming the object when ATTEMPTS arrangements
    have failed.
    """
    parts = [_arranged(places, some) for some in seeds.split(_AT_ONCE)]
    unit = _shifted(numbers(seeds, _ROTATIONS, torch.zeros(1, dtype=torch.int64, device=seeds.device))[0], 11)
    return Arrangement(torch.cat(parts, dim=2), unit.double() * (2.0 * math.pi * 2.0**-53))


def _arranged(places: Sequence[Place], seeds: Tensor) -> Tensor:
    """Positions [2, J, n] of one portion."""
    count, device = len(places), seeds.device

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]

    low = [column([place.low_m[axis] for place in places]) for axis in (0, 1)]
    span = [column([place.high_m[axis] - place.low_m[axis] for place in places]) for axis in (0, 1)]
    keepout = column([place.keepout_m for place in places])
    xy = torch.empty(2, count, len(seeds), device=device)
    waiting = torch.arange(len(seeds), device=device)
    draws = torch.arange(count * CANDIDATES, device=device)
    for attempt in range(ATTEMPTS):
        bits = numbers(seeds[waiting], _POSITIONS, draws + attempt * len(draws)).view(count, CANDIDATES, -1)
        x, y = (low[axis] + span[axis] * unit for axis, unit in enumerate(_points(bits)))
        free = torch.ones(x.shape, dtype=torch.bool, device=device)
        fits = torch.ones_like(free[:, 0])  # [J, n]
        for j in range(count):
            fits[j] = free[j].any(dim=0)
            first = free[j].to(torch.uint8).argmax(dim=0, keepdim=True)
            x[j, :1], y[j, :1] = x[j].gather(0, first), y[j].gather(0, first)
            dx, dy = x[j + 1 :] - x[j, :1], y[j + 1 :] - y[j, :1]
            apart = keepout[j + 1 :] + keepout[j]
            free[j + 1 :] &= dx * dx + dy * dy >= apart * apart
        placed = fits.all(dim=0)
        xy[:, :, waiting[placed]] = torch.stack([x[:, 0], y[:, 0]])[:, :, placed]
        waiting = waiting[~placed]
        if not len(waiting):
            return xy
    stuck = places[int((~fits[:, ~placed]).sum(dim=1).argmax())]
    raise ConfigError(
        f"no room was found for {stuck.name} (keepout {stuck.keepout_m:g} m) in {ATTEMPTS} arrangements. "
        "Give a larger extent, fewer objects or smaller keepouts."
    )


def free_place(
    place: Place, seeds: Tensor, count: Tensor, x: Tensor, y: Tensor, keepout: Tensor
) -> tuple[Tensor, Tensor]:
    """The place of goal number `count` of an episode, clear of where everything is now.

    seeds, count int64 [n]; x, y [M, n] and keepout [M] of what it keeps clear of -> (xy [2, n], found bool [n]). Not
    found after GOAL_ROUNDS · CANDIDATES points; what stands in xy then means nothing.
    """
    apart = (keepout + place.keepout_m)[:, None, None]
    index = torch.arange(CANDIDATES, device=seeds.device)[:, None] + count * (GOAL_ROUNDS * CANDIDATES)
    xy = torch.zeros(2, len(seeds), device=seeds.device)
    found = torch.zeros(len(seeds), dtype=torch.bool, device=seeds.device)
    for k in range(GOAL_ROUNDS):
        bits = numbers(seeds, _GOALS, index + k * CANDIDATES)  # [R, n]
        px, py = (
            place.low_m[axis] + (place.high_m[axis] - place.low_m[axis]) * unit
            for axis, unit in enumerate(_points(bits))
        )
        dx, dy = x[:, None] - px, y[:, None] - py
        free = (dx * dx + dy * dy >= apart * apart).all(dim=0)
        first = free.to(torch.uint8).argmax(dim=0, keepdim=True)
        new = free.any(dim=0) & ~found
        xy = torch.where(new, torch.cat([px.gather(0, first), py.gather(0, first)]), xy)
        found = found | new
        if bool(found.all()):
            break
    return xy, found


def read_arrangement(places: Sequence[Place], given: Mapping[str, Any]) -> tuple[NDArray[np.float32], float]:
    """An arrangement made by hand or written by `layout`: name -> [n][2] metres and "agent_rot", 0 if left out.

    Returns positions [2, J] and the heading. Raises ConfigError naming the object that is missing, unknown, of the
    wrong count or not finite.
    """
    counts: dict[str, int] = {}
    for place in places:
        counts[place.name] = counts.get(place.name, 0) + 1
    for name in given:
        if name not in counts and name != "agent_rot":
            raise ConfigError(f"this world has no {name!r}. A layout places {', '.join(counts)}.")
    parts = []
    for name, count in counts.items():
        if name not in given:
            raise ConfigError(f"the layout does not place {name!r}. It must place {', '.join(counts)}.")
        parts.append(_numbers(name, given[name], (count, 2), f"{count} pairs of metres"))
    rot = _numbers("agent_rot", given.get("agent_rot", 0.0), (), "one number")
    return np.concatenate(parts).T.astype(np.float32), float(rot)


def _numbers(name: str, given: Any, shape: tuple[int, ...], form: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full((0,), np.nan)
    if values.shape != shape:
        raise ConfigError(f"the layout's {name!r} is {given!r:.80}. Give {form}.")
    if not np.isfinite(values).all():
        raise ConfigError(f"the layout's {name!r} is not finite. Give {form}.")
    return values
