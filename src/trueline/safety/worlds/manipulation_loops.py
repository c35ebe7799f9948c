"""Loops over environments, compiled: after the physics of few environments a dozen array operations would cost most.

What is compiled is a plain function of arrays of floats that writes its results into the last of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["fast"]


@functools.cache
def fast(function: Callable[..., None], read: tuple[int, ...], written: tuple[int, ...]) -> Callable[..., None]:
    """The function compiled for float64 arrays of these dimensions, first those it reads, however they lie in memory.

    Compiled once, and kept on disk where there is a place for it.
    """
    import numba
    from numba import float64, types, void

    arrays = [types.Array(float64, dimensions, "A", readonly=True) for dimensions in read]
    arrays += [types.Array(float64, dimensions, "A") for dimensions in written]
    signature: Any = void(*arrays)
    try:
        return numba.njit(signature, cache=True)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written to
        return numba.njit(signature)(function)
