"""Orders of the mean inference distance for chains and trees of n comparisons, by the structural function.

    F(M)                      data     limited                              plentiful
    I·M^−α                    chain    I·(log n)^(1+α) / (n^α·log log n)    I^(2/(2+α)) / n^(α/(2+α))
                              tree     I·(log n)^(2α) / n^α                 the same times (log n)^(2α/(2+α))
    I·(log M)^−α              both     I·(log n)^−α                         the same
    slower than any of those  chain    F(⌈n^½⌉)                             the same
                              tree     F(⌈(n·log n)^½⌉)                     the same

"Limited" and "plentiful" say whether the variance of paths of inductive-bias edges stays above a constant or goes to 0.
These are orders, without constants, of upper bounds: that one is smaller does not say that the distance is. What the
distance itself does is computed by `literal_reading.py`. The table was put together from secondary descriptions of
arXiv 2402.10184 and not compared with its own; what holds of both is that in the first row, with limited data, a
chain's bound over a tree's goes to log n / log log n as α goes to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from trueline.core.errors import ConfigError

__all__ = ["BOUNDS", "Case", "bound"]

Structure = Literal["power", "logarithmic", "slower"]
Data = Literal["chain", "tree"]
Regime = Literal["limited", "plentiful"]


class Case(NamedTuple):
    """Which row and column."""

    structure: Structure
    data: Data
    regime: Regime


def _power_chain_limited(n: float, i: float, a: float) -> float:
    return i * math.log(n) ** (1 + a) / (n**a * math.log(math.log(n)))


def _power_tree_limited(n: float, i: float, a: float) -> float:
    return i * math.log(n) ** (2 * a) / n**a


def _power_chain_plentiful(n: float, i: float, a: float) -> float:
    return i ** (2 / (2 + a)) / n ** (a / (2 + a))


def _power_tree_plentiful(n: float, i: float, a: float) -> float:
    return _power_chain_plentiful(n, i, a) * math.log(n) ** (2 * a / (2 + a))


def _logarithmic(n: float, i: float, a: float) -> float:
    return i * math.log(n) ** -a


# Of the structures that are given by I and α; the third is given by F itself.
BOUNDS: Mapping[Case, Callable[[float, float, float], float]] = {
    Case("power", "chain", "limited"): _power_chain_limited,
    Case("power", "tree", "limited"): _power_tree_limited,
    Case("power", "chain", "plentiful"): _power_chain_plentiful,
    Case("power", "tree", "plentiful"): _power_tree_plentiful,
    Case("logarithmic", "chain", "limited"): _logarithmic,
    Case("logarithmic", "tree", "limited"): _logarithmic,
    Case("logarithmic", "chain", "plentiful"): _logarithmic,
    Case("logarithmic", "tree", "plentiful"): _logarithmic,
}


def bound(
    case: Case, n: int, *, scale: float = 1.0, alpha: float = 1.0, structure: Callable[[int], float] | None = None
) -> float:
    """The order for n comparisons.  scale: I = F(1); alpha: α; structure: F, for the case "slower" alone.

    Raises ConfigError below n = 3, where log log n is not above 0, and for a case that is given the wrong of the two.
    """
    if n < 3:
        raise ConfigError(f"n is {n}, but orders in log log n mean something from 3 on. Give more comparisons.")
    if (case.structure == "slower") != (structure is not None):
        wanted = "needs F itself. Give structure" if structure is None else "is given by scale and alpha, not by F"
        raise ConfigError(f"the case {case.structure!r} {wanted}.")
    if structure is not None:
        return structure(math.ceil(math.sqrt(n if case.data == "chain" else n * math.log(n))))
    return BOUNDS[case](float(n), scale, alpha)
