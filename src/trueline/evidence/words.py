"""Numbers and intervals as a reader is told them, the same in reports, on the command line and in a gate's reasons."""

from __future__ import annotations

import math

__all__ = ["in_full", "interval", "number"]


def number(value: float) -> str:
    """For a reader: three significant digits, four from a thousand up; "–" for nan and "∞" for infinite."""
    if math.isnan(value):
        return "–"
    if value < 0:
        return f"−{number(-value)}"
    if math.isinf(value):
        return "∞"
    if value >= 1e9:
        return f"{value:.2e}"
    if value >= 999_500:
        return f"{value / 1e6:.4g} M"
    return f"{float(f'{value:.4g}'):,.0f}" if value >= 999.5 else f"{value:.3g}"


def in_full(value: float) -> str:
    """What somebody required or one case gave, with up to six digits: a limit of 12.345 is not one of 12.3."""
    if not math.isfinite(value):
        return number(value)
    return f"−{in_full(-value)}" if value < 0 else f"{value:,g}"


def interval(low: float, high: float) -> str:
    """`[16.9, 19.6]`; nothing where neither end is known."""
    return "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"
