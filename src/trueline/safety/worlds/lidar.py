"""What an agent sees of the things around it: pseudo-lidar, lidar by rays, and a compass.

Pseudo-lidar: rings of bins around the agent that read how near the nearest object of a kind is. An object at distance d
and angle φ reads s = max(0, 1 − d/R) in bin ⌊φ/w⌋, w = 2π/bins; the fraction f = φ/w − ⌊φ/w⌋ leaks f·s into the next
bin and (1 − f)·s into the previous one, so that readings move smoothly (Ray et al. 2019, §4.2). Without a range,
s = exp(−g·d).

Lidar by rays: rays from the agent's centre, level with it, one at the lower end of each bin, read exp(−d), d the
distance to the nearest solid of a kind, and 0 where they meet none. What lies below the agent's centre, as flat hazards
do, they see only when it is tilted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.safety.worlds.compiled import machine_code, read, written
from trueline.safety.worlds.objects import Solid

Array = NDArray[np.float64]
_TURN = 2.0 * np.pi


def ego_xy(xy: Array, position: Array, rotation: Array) -> NDArray[np.complex128]:
    """Ground points seen from the agent, x + iy.  xy [N, M, 2], position [N, 3], rotation [N, 3, 3] -> [N, M].

    The agent's height counts when it is tilted: the points lie on the floor.
    """
    ego = np.empty(xy.shape[:2], dtype=np.complex128)
    _loops().ego(xy, position, rotation, ego)
    return ego


def pseudo_lidar(
    ego: NDArray[np.complex128],
    ring: NDArray[np.intp],
    rings: int,
    bins: int,
    sight_m: float | None,
    gain_per_m: float = 1.0,
    leaks: bool = True,
) -> Array:
    """All rings at once.  ego [N, M] from `ego_xy`, ring [M] says which ring shows an object -> [N, rings·bins].

    sight_m: the range R, or None for readings exp(−gain·d); leaks: whether readings leak into the neighbouring bins.
    """
    out = np.zeros((len(ego), rings, bins))
    _loops().readings(ego, ring, sight_m or 0.0, gain_per_m, leaks, out)
    return out.reshape(len(ego), rings * bins)


def _ego(xy: Any, position: Any, rotation: Any, ego: Any) -> None:
    for i in range(xy.shape[0]):
        # Columns of the rotation are the agent's axes; its own height comes in once.
        ax, ay, bx, by = rotation[i, 0, 0], rotation[i, 1, 0], rotation[i, 0, 1], rotation[i, 1, 1]
        below_a, below_b = -position[i, 2] * rotation[i, 2, 0], -position[i, 2] * rotation[i, 2, 1]
        for j in range(xy.shape[1]):
            dx, dy = xy[i, j, 0] - position[i, 0], xy[i, j, 1] - position[i, 1]
            ego[i, j] = complex(dx * ax + dy * ay + below_a, dx * bx + dy * by + below_b)


def _readings(ego: Any, ring: Any, sight_m: float, gain_per_m: float, leaks: bool, out: Any) -> None:
    bins = out.shape[2]
    for i in range(ego.shape[0]):
        for j in range(ego.shape[1]):
            x, y = ego[i, j].real, ego[i, j].imag
            distance = math.hypot(x, y)
            if sight_m == 0.0:
                nearness = math.exp(-gain_per_m * distance)
            elif distance < sight_m:
                nearness = (sight_m - distance) / sight_m
            else:
                continue  # out of sight: a reading of 0 changes nothing
            turn = math.atan2(y, x)
            if turn < 0.0:
                turn += _TURN
            turn /= _TURN / bins
            whole = int(turn)
            share = turn - whole
            k = whole % bins  # an angle that rounds up to a full turn is in the first bin; the original fails there
            row = out[i, ring[j]]
            row[k] = max(row[k], nearness)
            if leaks:
                after, before = (k + 1) % bins, (k - 1) % bins
                row[after] = max(row[after], share * nearness)
                row[before] = max(row[before], (1.0 - share) * nearness)


class _Loops(NamedTuple):
    ego: Callable[..., None]
    readings: Callable[..., None]


@functools.cache
def _loops() -> _Loops:
    from numba import boolean, complex128, float64, int64, void

    return _Loops(
        machine_code(_ego, void(read(3), read(2), read(3), written(2, complex128))),
        machine_code(_readings, void(read(2, complex128), read(1, int64), float64, float64, boolean, written(3))),
    )


# --- rays -------------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One kind of object as it lies: k objects in each of N worlds."""

    solids: tuple[Solid, ...]
    places: Array  # [N, k, 3] centres, metres
    quats: Array | None = None  # [N, k, 4] rotations, None for upright


class _Rays(NamedTuple):
    """Rays x + t·u in an object's own frame: arrays that broadcast to [N, k, rays]."""

    x: Array
    y: Array
    z: Array
    u: Array
    v: Array
    w: Array


def _matrices(quat: Array) -> Array:
    """Rotation matrices of quaternions of any length.  [..., 4] -> [..., 3, 3]."""
    w, x, y, z = np.moveaxis(quat / np.sqrt(np.square(quat).sum(axis=-1, keepdims=True)), -1, 0)
    rows = (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _rays(position: Array, directions: Array, seen: Seen) -> _Rays:
    """Rays from position [N, 3] along directions [N, 3, rays] as the objects see them."""
    away = position[:, None] - seen.places  # [N, k, 3]
    if seen.quats is None:
        origins, along = np.moveaxis(away, 2, 0), np.moveaxis(directions[:, None], 2, 0)
    else:
        turn = _matrices(seen.quats)  # own frame to world
        origins = np.einsum("nkji,nkj->ink", turn, away)
        along = np.einsum("nkji,njr->inkr", turn, directions)
    return _Rays(*origins[..., None], *along)


_Interval = tuple[Array, Array]  # of t, from and to; empty where the former is larger


def _where_line_is(inside: NDArray[np.bool_], along: NDArray[np.bool_], low: Array, high: Array) -> _Interval:
    """The interval low to high; where rays run along the surface, all of the line or nothing."""
    all_from, all_to = np.where(inside, -np.inf, np.inf), np.where(inside, np.inf, -np.inf)
    return np.where(along, all_from, low), np.where(along, all_to, high)


def _slab(x: Array, u: Array, half: float) -> _Interval:
    """Where |x + t·u| ≤ half."""
    one, other = (-half - x) / u, (half - x) / u
    return _where_line_is(np.abs(x) <= half, u == 0.0, np.minimum(one, other), np.maximum(one, other))


def _round(a: Array, b: Array, c: Array) -> _Interval:
    """Where a·t² + 2·b·t + c ≤ 0, a ≥ 0."""
    determinant = b * b - a * c
    root = np.sqrt(np.maximum(determinant, 0.0))
    misses = determinant < 0.0
    low, high = np.where(misses, np.inf, (-b - root) / a), np.where(misses, -np.inf, (-b + root) / a)
    return _where_line_is(c <= 0.0, a == 0.0, low, high)


def _distance(rays: _Rays, solid: Solid) -> Array:
    """How far along each ray a solid's surface is, from outside or inside; inf where it is not met.  [N, k, rays]."""
    x, y, z = (start - at for start, at in zip(rays[:3], solid.at_m, strict=True))
    u, v, w = rays[3:]
    if solid.kind == "box":
        intervals = [_slab(*axis) for axis in zip((x, y, z), (u, v, w), solid.size_m, strict=True)]
    else:
        a, b, c = u * u + v * v, x * u + y * v, x * x + y * y - solid.size_m[0] ** 2
        if solid.kind == "sphere":
            intervals = [_round(a + w * w, b + z * w, c + z * z)]
        else:
            intervals = [_round(a, b, c), _slab(z, w, solid.size_m[1])]
    enters = functools.reduce(np.maximum, (low for low, _ in intervals))
    leaves = functools.reduce(np.minimum, (high for _, high in intervals))
    met = (enters <= leaves) & (leaves >= 0.0)
    return np.where(met, np.where(enters >= 0.0, enters, leaves), np.inf)


def ray_lidar(position: Array, rotation: Array, rings: Sequence[Seen], bins: int) -> Array:
    """Safety-Gymnasium's natural lidar.  position [N, 3], rotation [N, 3, 3] of the agent -> [N, rings·bins].

    Every ring sees its own kind alone, so kinds do not hide one another.
    """
    angle = _TURN * np.arange(bins) / bins
    directions = rotation[:, :, 0:1] * np.cos(angle) + rotation[:, :, 1:2] * np.sin(angle)  # [N, 3, bins]
    out = np.empty((len(position), len(rings), bins))
    with np.errstate(divide="ignore", invalid="ignore"):
        for k, seen in enumerate(rings):
            rays = _rays(position, directions, seen)
            nearest = functools.reduce(np.minimum, (_distance(rays, solid) for solid in seen.solids))
            out[:, k] = np.exp(-nearest.min(axis=1))
    return out.reshape(len(position), -1)


# --- compass ----------------------------------------------------------------------------------------------------------


def compass(place: Array, position: Array, rotation: Array, axes: Literal[2, 3] = 2) -> Array:
    """The direction v/(|v| + 0.001) of v, what leads from the agent to a place, in the agent's frame.

    place [N, 3] metres, position [N, 3], rotation [N, 3, 3]; axes: how many components v keeps -> [N, axes].
    """
    away = np.einsum("nj,njk->nk", place - position, rotation)[:, :axes]
    return away / (np.sqrt(np.square(away).sum(axis=1, keepdims=True)) + 0.001)
