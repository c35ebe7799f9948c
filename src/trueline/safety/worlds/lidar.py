"""Pseudo-lidar: rings of bins around the agent that read how near the nearest object of a kind is.

An object at distance d and angle φ reads s = max(0, 1 − d/R) in bin ⌊φ/w⌋, w = 2π/bins; the fraction f = φ/w − ⌊φ/w⌋
leaks f·s into the next bin and (1 − f)·s into the previous one, so that readings move smoothly (Ray et al. 2019, §4.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ego_xy(
    xy: NDArray[np.float64], position: NDArray[np.float64], rotation: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Ground points seen from the agent, x + iy.  xy [N, M, 2], position [N, 3], rotation [N, 3, 3] -> [N, M].

    The agent's height counts when it is tilted: the points lie on the floor.
    """
    dx = xy[:, :, 0] - position[:, 0:1]
    dy = xy[:, :, 1] - position[:, 1:2]
    dz = -position[:, 2:3]
    ego = np.empty(dx.shape, dtype=np.complex128)
    ego.real = dx * rotation[:, 0, 0:1] + dy * rotation[:, 1, 0:1] + dz * rotation[:, 2, 0:1]
    ego.imag = dx * rotation[:, 0, 1:2] + dy * rotation[:, 1, 1:2] + dz * rotation[:, 2, 1:2]
    return ego


def pseudo_lidar(
    ego: NDArray[np.complex128], ring: NDArray[np.intp], rings: int, bins: int, sight_m: float
) -> NDArray[np.float64]:
    """All rings at once.  ego [N, M] from `ego_xy`, ring [M] says which ring shows an object -> [N, rings·bins]."""
    n = len(ego)
    turn = np.angle(ego) % (2.0 * np.pi) / (2.0 * np.pi / bins)
    whole = turn.astype(np.intp)
    fraction = turn - whole
    nearness = np.maximum(0.0, sight_m - np.abs(ego)) / sight_m
    row = np.arange(n)[:, None] * (rings * bins) + ring * bins
    out = np.zeros(n * rings * bins)
    for shift, share in ((0, nearness), (1, fraction * nearness), (-1, (1.0 - fraction) * nearness)):
        # The remainder also covers an angle that rounded up to a full turn, where the original would fail.
        np.maximum.at(out, row + (whole + shift) % bins, share)
    return out.reshape(n, rings * bins)
