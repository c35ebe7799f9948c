"""Uniform numbers that depend on a seed and an index alone, the same on every machine and with every NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WEYL = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: NDArray[np.uint32], count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each of N seeds: [N] -> [count, N].

    Output `count·seed + i` of the SplitMix64 generator (Steele, Lea & Flood 2014), its upper 53 bits: N sequences at
    once, which one generator per seed would be far too slow for.
    """
    base = seed.astype(np.uint64) * np.uint64(count)
    index = base + np.arange(1, count + 1, dtype=np.uint64)[:, None]
    z = index * _WEYL  # arrays of unsigned integers wrap around, as the generator wants
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
