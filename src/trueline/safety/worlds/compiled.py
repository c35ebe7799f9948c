"""Plain loops over arrays, compiled once and kept on disk where there is a place for it.

After the physics of few environments a dozen array operations would cost most of what is left, so what runs in every
step or every reset is a loop over environments that writes its results into its last arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["loop", "machine_code", "read", "written"]


def machine_code(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """The function as machine code for arguments of this Numba signature."""
    import numba

    try:
        return numba.njit(signature, cache=True)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written to
        return numba.njit(signature)(function)


@functools.cache
def loop(function: Callable[..., None], reads: tuple[int, ...], writes: tuple[int, ...]) -> Callable[..., None]:
    """The function compiled for float64 arrays of these dimensions, first those it reads, then those it writes into."""
    from numba import void

    return machine_code(function, void(*map(read, reads), *map(written, writes)))


def read(dimensions: int, of: Any = None, layout: str = "A") -> Any:
    """The type of an array that is only read, of float64 unless said otherwise, however it lies in memory."""
    from numba import float64, types

    array: Any = types.Array
    return array(of or float64, dimensions, layout, readonly=True)


def written(dimensions: int, of: Any = None, layout: str = "A") -> Any:
    """The type of an array that is written into."""
    from numba import float64, types

    array: Any = types.Array
    return array(of or float64, dimensions, layout)
