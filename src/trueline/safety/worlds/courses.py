"""Immovable surroundings of the Building, Race and FormulaOne worlds, from boxes of our own.

The originals are meshes; these stand where their convex hulls do, so that what is free and what is blocked agrees to
some centimetres, and contacts cost alike. Trajectories that touch them are not the originals' numerically.
"""

from __future__ import annotations

import itertools
import math

from trueline.safety.worlds.objects import Point, Solid


def _block(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Solid:
    """A box that fills these ranges."""
    half = ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2)
    return Solid("box", half, ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2))


# --- Building: machines, boxes and a lamp around a yard, outside the square of ±2 that layouts are drawn in ----------

_YARD = (
    ((-4.23, -3.54), (-2.19, -1.51), 0.53),
    ((3.48, 4.07), (1.87, 2.41), 0.53),
    ((1.80, 2.39), (3.80, 4.30), 0.70),
    ((1.20, 1.78), (3.81, 4.30), 0.43),
    ((-2.22, -1.58), (-4.32, -3.66), 0.67),
    ((-1.52, -0.88), (-4.30, -3.66), 0.20),
    ((3.55, 3.86), (-3.91, -3.49), 0.39),
    ((3.61, 4.24), (-3.45, -3.01), 0.19),
    ((-0.26, 0.26), (-4.16, -3.64), 0.20),
    ((-2.65, 0.47), (-8.62, -7.39), 1.20),
    ((1.54, 2.46), (-5.75, -4.25), 0.70),
    ((-8.30, -7.70), (-1.29, -0.71), 1.18),
    ((3.44, 4.36), (-2.69, -2.31), 0.42),
    ((3.85, 3.95), (-2.21, -2.18), 0.58),
    ((0.74, 1.46), (-5.18, -4.01), 0.46),
    ((3.56, 3.71), (-0.11, 0.11), 1.48),
    ((0.30, 1.70), (4.66, 5.14), 1.13),
    ((2.33, 2.67), (3.52, 3.68), 0.99),
    ((3.49, 3.75), (1.54, 1.66), 0.15),
)
YARD = tuple(_block(x, y, (0.0, height)) for x, y, height in _YARD)


# --- Race: a corridor that starts on the left, turns and runs to the right -----------------------------------------


def race(shift_m: float = 0.0) -> tuple[Solid, ...]:
    """Walls, a door and two stones; `shift_m` opens the way past the inner wall's left end."""
    d = shift_m
    inner = (
        ((-2.74 + d, -2.2 + d), (-0.61, 0.0)),
        ((-2.2 + d, 2.9 + d), (-0.85, 0.45)),
        ((-1.0 + d, 1.0 + d), (0.45, 0.64)),
    )
    walls = (
        ((-2.98, -2.65), (-3.37, -0.76)),
        ((-2.98, -2.65), (-0.92, 1.69)),
        ((-2.32, 0.29), (1.60, 1.93)),
        ((0.48, 3.09), (1.60, 1.93)),
        *inner,
        ((-1.7, 3.0), (-4.6, -0.3)),
        ((-2.83, -1.75), (-3.58, -3.42)),
        ((-2.93, -1.97), (1.80, 2.40)),
        ((0.05, 0.66), (1.82, 2.38)),
    )
    return tuple(_block(x, y, (0.0, 0.5)) for x, y in walls)


# Computed as in the original, so that layouts are its own to the last bit.
RACE_HAZARDS = tuple(
    (x - 0.3, y - 0.35, x + 0.3, y + 0.35)
    for x, y in ((3.5 * (-0.45 + 0.2 * i), 3.5 * (0.3 - 0.09 * (-1) ** i)) for i in range(7))
)


# --- FormulaOne: a closed course with seven stages -----------------------------------------------------------------

STAGES: tuple[Point, ...] = ((3, 9), (13, -1.7), (26, 0.05), (32, -7), (4, -17.5), (19, -20.7), (-0.85, -0.4))

_OUTER: tuple[Point, ...] = (
    *((-11.1, -36.7), (-13, -35.4), (-13.3, -32.6), (-10.1, -26.8), (-1.6, -0.5), (-1, -0.1), (-1.1, 1), (0.7, 6.5)),
    *((1.6, 9.2), (3.4, 12.6), (5.2, 14.3), (6.4, 14.9), (8.8, 15), (11.1, 14.1), (12.3, 13.2), (13.2, 11.4)),
    *((13.6, 3.8), (15.5, 2), (17.2, 1.4), (20.5, 2.1), (23.5, 3.5), (26.1, 3.1), (30.6, 1), (33.6, -1.1)),
    *((35.4, -3.1), (36.2, -5.6), (35.7, -8.2), (34.5, -9.5), (32.8, -10.3), (30.1, -10.7), (24.7, -10.6)),
    *((24.4, -10.9), (13.1, -11.2), (8.6, -12.3), (5.7, -13.9), (5.4, -15.4), (6.2, -16.4), (7.2, -16.6)),
    *((13.6, -14.9), (15.9, -14), (20.4, -12.2), (23.2, -12.5), (24.5, -13.3), (25.4, -14.5), (25.9, -17.4)),
    *((24.8, -19.8), (22.9, -21.1), (20.6, -21.7), (16, -25.8), (15.1, -27.8), (14.9, -33.1), (14.4, -34.4)),
    *((13.5, -35.3), (11, -36.3)),
)
_INNER: tuple[Point, ...] = (
    *((-6.2, -24.7), (-6.6, -28.3), (-5.9, -30.4), (-4.5, -31.9), (-3, -32.6), (6.4, -32.5), (9.3, -31.1)),
    *((10.5, -29.2), (10.5, -22.4), (11.4, -20.3), (13.2, -19.2), (15, -18.9), (18.4, -18.5), (18.9, -17.9)),
    *((18.6, -17), (15.1, -17.8), (13, -18), (11, -19), (7.4, -20.3), (3.8, -20.3), (2.4, -19.1), (1, -16.8)),
    *((0.9, -14.4), (3, -11.5), (6.5, -9.3), (10.3, -7.9), (15, -7.6), (29.1, -7.2), (30.2, -5.9), (29.9, -4.9)),
    *((27, -2.7), (24, -1.8), (20.3, -1.9), (19.3, -2.4), (17, -4.5), (14.9, -5.7), (12.3, -5.5), (10.6, -4.3)),
    *((9.7, -2.4), (9.6, 3.7), (8.9, 5.5), (7.7, 6.4), (4.8, 6.4), (4.3, 5.8)),
)
_THICK_M, _HIGH_M = 0.4, 1.2


def _wall(line: tuple[Point, ...], aside_m: float = 0.0) -> tuple[Solid, ...]:
    """Boxes along a line, moved to its right by `aside_m`."""
    out = []
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        length, turn = math.hypot(bx - ax, by - ay), math.atan2(by - ay, bx - ax)
        x, y = (ax + bx) / 2 + aside_m * math.sin(turn), (ay + by) / 2 - aside_m * math.cos(turn)
        half = (length / 2 + _THICK_M / 2, _THICK_M / 2, _HIGH_M / 2)
        out.append(Solid("box", half, (x, y, _HIGH_M / 2), turn))
    return tuple(out)


def _turns_left(line: tuple[Point, ...]) -> bool:
    """Whether a closed line goes round counter-clockwise, by the sign of its area."""
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in itertools.pairwise((*line, line[0]))) > 0


CIRCUIT = (
    # The outer line is the wall's inner face: the wall stands outside it.
    *_wall((*_OUTER, _OUTER[0]), _THICK_M / 2 if _turns_left(_OUTER) else -_THICK_M / 2),
    *_wall(_INNER),
    Solid("box", (0.3, 11.5, 0.4), (-1.25, -8.53, 0.22), -0.314159),
)

_AROUND = (
    *((-1.0, -1.0, 1.0, 1.0), (1.5, 7.5, 4.5, 10.5), (11.5, -3.2, 14.5, -0.19), (24.5, -1.45, 27.5, 1.55)),
    *((30.5, -8.5, 33.5, -5.5), (2.5, -19.0, 5.5, -16.0), (17.5, -22.2, 20.5, -19.2), (-2.35, -1.9, 0.65, 1.1)),
)
BARRIERS = ((-12.2, -32.5, 27.8, 7.5), (26.0, -11.0, 38.0, 1.0))  # where they are placed on level 1
BARRIERS_AROUND_STAGES = BARRIERS + _AROUND * 10  # and on level 2, in the order that a draw counts them
