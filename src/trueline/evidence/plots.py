"""Charts of the report as inline SVG: coloured by the page's style sheet, so light and dark need no second drawing.

Every function returns markup whose text is escaped. Numbers that are not finite leave a gap (nan) or an arrow at the
edge of the chart (infinite ends of an interval); nothing is silently drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from trueline.evidence.records import Curve, Requirement

__all__ = [
    "WORDS",
    "IntervalRow",
    "PlanePoint",
    "Segment",
    "Thinned",
    "interval_text",
    "intervals",
    "learning_curve",
    "level_curves",
    "number",
    "plane",
    "required",
    "standalone",
    "thin",
    "ticks",
]

WIDTH = 360.0  # of every chart, in its own units; the page scales it
BUCKETS = 220  # points a learning curve is thinned to

# The states a cell, a card or a dot can be in, and the word that says it without colour.
WORDS = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "reported": "no requirement",
    "missing": "not measured",
    "baseline": "baseline",
}
_SILENT = ("reported", "baseline")  # where the word would repeat what the chart says anyway


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One dot with its whisker.  `state` is a key of `WORDS`."""

    label: str
    value: float
    low: float
    high: float
    state: str


@dataclass(frozen=True, slots=True)
class PlanePoint:
    """One subject in the plane of two metrics; intervals are (low, high) or nan where there is none."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float]
    y_interval: tuple[float, float]
    state: str


@dataclass(frozen=True, slots=True)
class Segment:
    """The learning curve of one round.  x [P] in steps of that round, y [P]; `limits` name -> height of a line."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Thinned:
    """A curve in at most so many buckets: centre, mean, smallest and largest value of each, all [B]."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Scale:
    """The straight line from data [low, high] to drawing units [start, end]; values outside land on the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


class _Box(NamedTuple):
    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: _Box) -> bool:
        sides = self.left >= other.left and self.right <= other.right
        return sides and self.top >= other.top and self.bottom <= other.bottom


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


def interval_text(low: float, high: float) -> str:
    """`[16.9, 19.6]`; nothing where neither end is known."""
    return "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"


def required(requirement: Requirement | None, unit: str = "") -> str:
    """`at most 25 cost per episode`, or `nothing required`."""
    if requirement is None:
        return "nothing required"
    side = "at most" if requirement.bound == "at_most" else "at least"
    return f"{side} {number(requirement.threshold)} {unit}".rstrip()


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], roughly `about` of them."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * factor for factor in (1.0, 2.0, 5.0, 10.0)), key=lambda size: abs(math.log(size / raw)))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(x: Sequence[float], y: Sequence[float], buckets: int = BUCKETS) -> Thinned:
    """Mean, least and greatest y over runs of neighbouring points, nan left out.  x, y [P] -> [min(P, buckets)]."""
    parts = [np.asarray(part, dtype=float) for part in (x, y)]
    size = min(len(parts[0]), len(parts[1]))
    rows: list[tuple[float, float, float, float]] = []
    for index in np.array_split(np.arange(size), max(1, min(size, buckets))):
        centre, values = parts[0][index], parts[1][index]
        values = values[np.isfinite(values)]
        if len(index) == 0:
            continue
        spread = (float(values.mean()), float(values.min()), float(values.max())) if len(values) else (math.nan,) * 3
        rows.append((float(centre.mean()), *spread))
    return Thinned(*np.array(rows, dtype=float).reshape(-1, 4).T)


def intervals(rows: Sequence[IntervalRow], requirement: Requirement | None, unit: str, label: str) -> Markup:
    """A row per round: its words above, its dot and whisker below, against the good side of the requirement.

    The good side is shaded behind the whiskers alone, so that words and numbers stand on plain ground.
    """
    top, row_height = (26.0 if requirement else 8.0), 38.0
    bottom = top + row_height * len(rows) + 4
    threshold = [requirement.threshold] if requirement else []
    scale = _Scale(*_domain([n for row in rows for n in (row.value, row.low, row.high)] + threshold), 10, WIDTH - 10)
    middles = [top + row_height * index + 27 for index in range(len(rows))]
    good = [(y - 8, y + 8) for y in middles]
    parts = _requirement_x(requirement, scale, top, bottom, good) + _axis_x(scale, bottom, unit)
    for index, row in enumerate(rows):
        y = middles[index]
        text_y = y - 13
        word = "" if row.state in _SILENT else f" · {_text(WORDS[row.state])}"
        word = f'<tspan class="{_class(row.state)} word">{word}</tspan>'
        numbers = f"{number(row.value)} {interval_text(row.low, row.high)}".rstrip()
        parts += [
            f'<text class="name halo" x="10" y="{text_y:.1f}">{_text(row.label)}{word}</text>',
            f'<text class="value halo" x="{WIDTH - 10:.0f}" y="{text_y:.1f}" text-anchor="end">{_text(numbers)}</text>',
            f'<line class="track" x1="10" x2="{WIDTH - 10:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            *_whisker(row, scale, y),
            _dot(scale(row.value), y, row.state) if math.isfinite(row.value) else "",
        ]
    return _svg(bottom + 36, label, parts)


def plane(
    points: Sequence[PlanePoint], requirement: Requirement | None, x_label: str, y_label: str, label: str
) -> Markup:
    """Rounds, joined in order, and baselines in the plane of two metrics; the requirement is on x."""
    left, right, top, bottom = 44.0, WIDTH - 14, 46.0, 240.0
    shown = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    threshold = [requirement.threshold] if requirement else []
    x = _Scale(*_domain([n for p in shown for n in (p.x, *p.x_interval)] + threshold), left, right)
    y = _Scale(*_domain([n for p in shown for n in (p.y, *p.y_interval)]), bottom, top)
    parts = _requirement_x(requirement, x, top, bottom, [(top, bottom)]) + _axis_x(x, bottom, x_label)
    parts += _axis_y(y, left, right, y_label)
    rounds = [point for point in shown if point.state != "baseline"]
    if len(rounds) > 1:
        parts.append(f'<path class="join" d="{_path([x(p.x) for p in rounds], [y(p.y) for p in rounds])}"/>')
    boxes = [_Box(x(p.x) - 8, x(p.x) + 8, y(p.y) - 7, y(p.y) + 7) for p in shown]
    for point in shown:
        px, py = x(point.x), y(point.y)
        style = _class(point.state)
        if math.isfinite(sum(point.x_interval)):
            ends = [x(end) for end in point.x_interval]
            parts.append(f'<line class="whisker {style}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" {_y12(py)}/>')
        if math.isfinite(sum(point.y_interval)):
            ends = [y(end) for end in point.y_interval]
            parts.append(f'<line class="whisker {style}" {_x12(px)} y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        tip = f"{point.label}: {x_label} {number(point.x)}, {y_label} {number(point.y)}"
        parts.append(_dot(px, py, point.state, tip))
        box = _free_place(px, py, 7.0 * len(point.label), boxes, _Box(left, right, top - 12, bottom))
        boxes.append(box)
        at = f'x="{box.left:.1f}" y="{box.bottom - 2:.1f}"'
        parts.append(f'<text class="name halo" {at}>{_text(point.label)}</text>')
    return _svg(bottom + 36, label, parts)


def level_curves(curves: Sequence[tuple[str, Curve]], label: str) -> Markup:
    """A metric over the levels of an axis: mean with its pointwise interval; the last entry is drawn strongest."""
    left, right, top, bottom = 44.0, WIDTH - 12, 26.0, 180.0
    axis = curves[-1][1].axis
    x = _Scale(*_domain([v for _, curve in curves for v in curve.axis.values], pad=0.02), left, right)
    y = _Scale(*_domain([n for _, c in curves for n in (*c.mean, *c.low, *c.high)]), bottom, top)
    parts = _axis_x(x, bottom, f"{axis.name} ({axis.unit})" if axis.unit else axis.name) + _axis_y(y, left, right)
    legend: list[tuple[str, str]] = []
    for index, (name, curve) in enumerate(curves):
        style = f"series s{len(curves) - 1 - index}"
        xs = [x(level) for level in curve.axis.values]
        parts.append(f'<path class="band {style}" d="{_band(xs, curve.low, curve.high, y)}"/>')
        parts.append(f'<path class="line {style}" d="{_path(xs, [_maybe(y, m) for m in curve.mean])}"/>')
        for level, px, mean, low, high, n in zip(
            curve.axis.values, xs, curve.mean, curve.low, curve.high, curve.n, strict=True
        ):
            if math.isfinite(mean):
                tip = f"{name}, {axis.name} {number(level)}: {number(mean)} {interval_text(low, high)}, n {n}"
                dot = f'<circle class="knot {style}" cx="{px:.1f}" cy="{y(mean):.1f}" r="3.2">'
                parts.append(f"{dot}<title>{_text(tip)}</title></circle>")
        legend.append((f"line {style}", name))
    return _svg(bottom + 36, label, parts + _legend(legend, left))


def learning_curve(segments: Sequence[Segment], unit: str, label: str) -> Markup:
    """One quantity over training, rounds one after the other; a limit is drawn over the round it was in force.

    More points than `BUCKETS` are drawn as the mean of neighbours with the range they span.
    """
    several, limited = len(segments) > 1, any(segment.limits for segment in segments)
    left, right, top = 44.0, WIDTH - 12, 10.0 + 14 * several + 16 * limited  # room for the names of rounds and limits
    bottom = top + 150
    total = sum(len(segment.x) for segment in segments) or 1
    thinned = [thin(s.x, s.y, max(2, round(BUCKETS * len(s.x) / total))) for s in segments]
    lengths = [max((float(v) for v in s.x if math.isfinite(v)), default=0.0) for s in segments]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    limits = {name: index for index, name in enumerate(dict.fromkeys(n for s in segments for n in s.limits))}
    heights = [float(v) for s in segments for v in s.limits.values()]
    x = _Scale(0.0, sum(lengths) or 1.0, left, right)
    y = _Scale(*_domain([float(v) for t in thinned for v in (*t.low, *t.high)] + heights), bottom, top)
    parts = _axis_x(x, bottom, unit) + _axis_y(y, left, right)
    for segment, line, start, length in zip(segments, thinned, starts, lengths, strict=True):
        begin, end = x(start), x(start + length)
        if several:
            parts.append(f'<line class="divide" {_x12(begin)} y1="{top - 14:.0f}" y2="{bottom:.0f}"/>')
            name = f'<text class="tick" x="{begin + 4:.1f}" y="{top - 6:.0f}">{_text(segment.label)}</text>'
            parts.append(name if end - begin > 40 else "")
        for limit, height in segment.limits.items():
            if math.isfinite(height):
                tip = f"<title>{_text(f'{segment.label}: {limit} {number(height)}')}</title>"
                at = f'x1="{begin:.1f}" x2="{end:.1f}" {_y12(y(height))}'
                parts.append(f'<line class="limit l{limits[limit] % 3}" {at}>{tip}</line>')
        xs = [x(start + float(v)) for v in line.x]
        if len(segment.x) > len(line.x):
            parts.append(f'<path class="band series s0" d="{_band(xs, line.low, line.high, y)}"/>')
        parts.append(f'<path class="line series s0" d="{_path(xs, [_maybe(y, float(m)) for m in line.mean])}"/>')
    return _svg(bottom + 36, label, parts + _legend([(f"limit l{i % 3}", n) for n, i in limits.items()], left))


def _domain(numbers: Iterable[float], pad: float = 0.07) -> tuple[float, float]:
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


# What a page gives its charts, where a file has no page: a font, a size, and a ground for their colours.
_PAGE = (
    "svg.chart { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; "
    "max-width: none; background: var(--card); }"
)


def standalone(chart: Markup) -> str:
    """The chart as a file of its own, with the colours that it has in a report, light or dark."""
    sheet = files("trueline.evidence").joinpath("templates/report.css").read_text(encoding="utf-8")
    colours = sheet[: sheet.index("* {")]
    lines = next(part for part in sheet.split("\n\n") if part.startswith("svg.chart"))
    head, body = str(chart).split(">", 1)
    return f'{head} width="560" xmlns="http://www.w3.org/2000/svg"><style>\n{colours}{lines}\n{_PAGE}\n</style>{body}\n'


def _svg(height: float, label: str, parts: Iterable[str]) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{_text(label)}">'
    return Markup(head + "".join(parts) + "</svg>")  # every text in `parts` went through `_text`


def _text(text: str) -> str:
    return str(escape(text))


def _class(state: str) -> str:
    return f"is-{state}"


def _maybe(scale: Callable[[float], float], value: float) -> float:
    return scale(value) if math.isfinite(value) else math.nan


def _x12(x: float) -> str:
    return f'x1="{x:.1f}" x2="{x:.1f}"'


def _y12(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    words, pen_down = [], False
    for px, py in zip(xs, ys, strict=True):
        if math.isfinite(px) and math.isfinite(py):
            words.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = math.isfinite(px) and math.isfinite(py)
    return "".join(words)


def _band(xs: Sequence[float], low: Iterable[float], high: Iterable[float], y: _Scale) -> str:
    # One closed outline per stretch without gaps; infinite ends reach the edge of the chart.
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


def _whisker(row: IntervalRow, scale: _Scale, y: float) -> list[str]:
    if math.isnan(row.low) or math.isnan(row.high):
        return []
    style = _class(row.state)
    low, high = scale(row.low), scale(row.high)
    parts = [f'<line class="whisker {style}" x1="{low:.1f}" x2="{high:.1f}" {_y12(y)}/>']
    for end, px, out in ((row.low, low, -1), (row.high, high, 1)):
        if math.isfinite(end):
            parts.append(f'<line class="whisker {style}" {_x12(px)} y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>')
        else:
            corners = f"M{px + 6 * out:.1f} {y:.1f}l{-7 * out} -5v10Z"
            parts.append(f'<path class="tip {style}" d="{corners}"/>')
    return parts


def _free_place(x: float, y: float, width: float, taken: Sequence[_Box], frame: _Box) -> _Box:
    """A place for a label beside the point (x, y): inside the frame and clear of everything taken, if there is one."""
    places = [
        _Box(begin, begin + width, y + down - 13, y + down)
        for down in (-8.0, 21.0)
        for begin in (x + 9, x - 9 - width, x - width / 2)
    ]
    inside = [place for place in places if place.within(frame)] or places
    return next((place for place in inside if not any(place.meets(other) for other in taken)), inside[0])


def _dot(x: float, y: float, state: str, tip: str = "") -> str:
    style = _class(state)
    title = f"<title>{_text(tip)}</title>" if tip else ""
    if state == "fail":
        return f'<path class="dot {style}" d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5Z">{title}</path>'
    if state == "baseline":
        return f'<rect class="dot {style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="5.5">{title}</circle>'


def _requirement_x(
    requirement: Requirement | None, x: _Scale, top: float, bottom: float, good: Sequence[tuple[float, float]]
) -> list[str]:
    """Its line from top to bottom, its words above, and its good side shaded between each two heights of `good`."""
    if requirement is None:
        return []
    at = x(requirement.threshold)
    begin, end = (x.start, at) if requirement.bound == "at_most" else (at, x.end)
    share = (at - x.start) / (x.end - x.start)
    anchor = "start" if share < 0.3 else "end" if share > 0.7 else "middle"
    width = f'width="{end - begin:.1f}"'
    return [
        *(f'<rect class="good" x="{begin:.1f}" y="{a:.1f}" {width} height="{b - a:.1f}"/>' for a, b in good),
        f'<line class="need" {_x12(at)} y1="{top - 6:.1f}" y2="{bottom:.1f}"/>',
        f'<text class="need" x="{at:.1f}" y="{top - 10:.1f}" text-anchor="{anchor}">'
        f"required: {_text(required(requirement))}</text>",
    ]


def _axis_x(x: _Scale, bottom: float, label: str) -> list[str]:
    parts = [f'<line class="axis" x1="{x.start:.1f}" x2="{x.end:.1f}" {_y12(bottom)}/>']
    for tick in ticks(x.low, x.high):
        parts.append(f'<line class="axis" {_x12(x(tick))} y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>')
        at = f'x="{x(tick):.1f}" y="{bottom + 16:.1f}" text-anchor="middle"'
        parts.append(f'<text class="tick" {at}>{_text(_tick(tick))}</text>')
    at = f'x="{(x.start + x.end) / 2:.1f}" y="{bottom + 31:.1f}" text-anchor="middle"'
    return [*parts, f'<text class="label" {at}>{_text(label)}</text>']


def _tick(value: float) -> str:
    return f"{value / 1000:g} k" if 10_000 <= abs(value) < 1_000_000 else number(value)


def _axis_y(y: _Scale, left: float, right: float, label: str = "") -> list[str]:
    parts = []
    for tick in ticks(y.low, y.high, 4):
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" {_y12(y(tick))}/>')
        at = f'x="{left - 6:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="tick" {at}>{_text(_tick(tick))}</text>')
    return [*parts, f'<text class="label" x="4" y="12">{_text(label)}</text>' if label else ""]


def _legend(entries: Sequence[tuple[str, str]], left: float) -> list[str]:
    parts, x = [], left
    for style, name in entries:
        parts.append(f'<line class="{style}" x1="{x:.1f}" x2="{x + 20:.1f}" {_y12(8)}/>')
        parts.append(f'<text class="tick" x="{x + 25:.1f}" y="12">{_text(name)}</text>')
        x += 37 + 6.3 * len(name)
    return parts
