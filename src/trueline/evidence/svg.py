"""What charts are drawn of, as inline SVG: scales, axes, lines, bands, legends; a page's style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trueline.evidence.words import number

__all__ = [
    "WIDTH",
    "Scale",
    "at_x",
    "at_y",
    "axis_x",
    "axis_y",
    "band",
    "banded",
    "domain",
    "drawing",
    "escaped",
    "legend",
    "path",
    "ticks",
]

WIDTH = 360.0  # of every chart, in its own units; the page scales it


@dataclass(frozen=True, slots=True)
class Scale:
    """The straight line from data [low, high] to drawing units [start, end]; values outside land on the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value is drawn."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def or_gap(self, value: float) -> float:
        """As above; nan, which leaves a gap, for a value that is not finite."""
        return self(value) if math.isfinite(value) else math.nan


def domain(numbers: Iterable[float], pad: float = 0.07) -> tuple[float, float]:
    """Ends of an axis that shows all finite `numbers`, with room of `pad` of their range beside them."""
    # Zero is kept in view where the data come near it: a cost of 20 and one of 25 should not look like nothing and all.
    finite = [float(n) for n in numbers if math.isfinite(n)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if 0.0 < low <= 0.6 * high:
        low = 0.0
    if 0.6 * low <= high < 0.0:
        high = 0.0
    room = pad * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0.0 else low - room), (high if high == 0.0 and low < 0.0 else high + room)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], roughly `about` of them."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * factor for factor in (1.0, 2.0, 5.0, 10.0)), key=lambda size: abs(math.log(size / raw)))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def drawing(height: float, label: str, parts: Iterable[str]) -> Markup:
    """The parts as one chart; `label` says what is to be seen."""
    head = f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escaped(label)}">'
    return Markup(head + "".join(parts) + "</svg>")  # every text in `parts` went through `escaped`


def escaped(text: str) -> str:
    """Text as it may stand within markup."""
    return str(escape(text))


def at_x(x: float) -> str:
    """Both ends of an upright line."""
    return f'x1="{x:.1f}" x2="{x:.1f}"'


def at_y(y: float) -> str:
    """Both ends of a level line."""
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Straight lines through the points; one that is not finite lifts the pen."""
    words, pen_down = [], False
    for px, py in zip(xs, ys, strict=True):
        if math.isfinite(px) and math.isfinite(py):
            words.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = math.isfinite(px) and math.isfinite(py)
    return "".join(words)


def band(xs: Sequence[float], low: Iterable[float], high: Iterable[float], y: Scale) -> str:
    """One closed outline per stretch without gaps; infinite ends reach the edge of the chart."""
    outlines: list[str] = []
    stretch: list[tuple[float, float, float]] = []
    for px, below, above in [*zip(xs, low, high, strict=True), (math.nan,) * 3]:
        if not (math.isnan(px) or math.isnan(below) or math.isnan(above)):
            stretch.append((px, y(float(below)), y(float(above))))
        elif stretch:
            there, back = [(a, c) for a, _, c in stretch], [(a, b) for a, b, _ in reversed(stretch)]
            outlines.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in there + back) + "Z")
            stretch = []
    return "".join(outlines)


def banded(
    style: str, xs: Sequence[float], mean: Iterable[float], low: Iterable[float], high: Iterable[float], y: Scale
) -> list[str]:
    """A line of means on its band."""
    return [
        f'<path class="band {style}" d="{band(xs, low, high, y)}"/>',
        f'<path class="line {style}" d="{path(xs, [y.or_gap(m) for m in mean])}"/>',
    ]


def axis_x(x: Scale, bottom: float, label: str) -> list[str]:
    """The line below a chart with its ticks and what it shows."""
    parts = [f'<line class="axis" x1="{x.start:.1f}" x2="{x.end:.1f}" {at_y(bottom)}/>']
    for tick in ticks(x.low, x.high):
        parts.append(f'<line class="axis" {at_x(x(tick))} y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>')
        at = f'x="{x(tick):.1f}" y="{bottom + 16:.1f}" text-anchor="middle"'
        parts.append(f'<text class="tick" {at}>{escaped(_tick(tick))}</text>')
    at = f'x="{(x.start + x.end) / 2:.1f}" y="{bottom + 31:.1f}" text-anchor="middle"'
    return [*parts, f'<text class="label" {at}>{escaped(label)}</text>']


def _tick(value: float) -> str:
    return f"{value / 1000:g} k" if 10_000 <= abs(value) < 1_000_000 else number(value)


def axis_y(y: Scale, left: float, right: float, label: str = "") -> list[str]:
    """Level lines across a chart with their numbers, and what they show."""
    parts = []
    for tick in ticks(y.low, y.high, 4):
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" {at_y(y(tick))}/>')
        at = f'x="{left - 6:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="tick" {at}>{escaped(_tick(tick))}</text>')
    return [*parts, f'<text class="label" x="4" y="12">{escaped(label)}</text>' if label else ""]


def legend(entries: Sequence[tuple[str, str]], left: float) -> list[str]:
    """Names beside a piece of their line: style, name."""
    parts, x = [], left
    for style, name in entries:
        parts.append(f'<line class="{style}" x1="{x:.1f}" x2="{x + 20:.1f}" {at_y(8)}/>')
        parts.append(f'<text class="tick" x="{x + 25:.1f}" y="12">{escaped(name)}</text>')
        x += 37 + 6.3 * len(name)
    return parts
