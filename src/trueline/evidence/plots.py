"""Charts of the report as inline SVG: coloured by the page's style sheet, so light and dark need no second drawing.

Every function returns markup whose text is escaped. Numbers that are not finite leave a gap (nan) or an arrow at the
edge of the chart (infinite ends of an interval); nothing is silently drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from trueline.evidence.records import Curve, Requirement
from trueline.evidence.svg import (
    WIDTH,
    Scale,
    at_x,
    at_y,
    axis_x,
    axis_y,
    band,
    banded,
    domain,
    drawing,
    escaped,
    legend,
    path,
)
from trueline.evidence.words import interval, number

__all__ = [
    "WORDS",
    "IntervalRow",
    "PlanePoint",
    "Segment",
    "Thinned",
    "intervals",
    "learning_curve",
    "level_curves",
    "plane",
    "standalone",
    "thin",
]

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
    scale = Scale(*domain([n for row in rows for n in (row.value, row.low, row.high)] + threshold), 10, WIDTH - 10)
    middles = [top + row_height * index + 27 for index in range(len(rows))]
    good = [(y - 8, y + 8) for y in middles]
    parts = _requirement_x(requirement, scale, top, bottom, good) + axis_x(scale, bottom, unit)
    for index, row in enumerate(rows):
        y = middles[index]
        text_y = y - 13
        word = "" if row.state in _SILENT else f" · {escaped(WORDS[row.state])}"
        word = f'<tspan class="{_class(row.state)} word">{word}</tspan>'
        numbers = f"{number(row.value)} {interval(row.low, row.high)}".rstrip()
        parts += [
            f'<text class="name halo" x="10" y="{text_y:.1f}">{escaped(row.label)}{word}</text>',
            f'<text class="value halo" x="{WIDTH - 10:.0f}" y="{text_y:.1f}" text-anchor="end">',
            f"{escaped(numbers)}</text>",
            f'<line class="track" x1="10" x2="{WIDTH - 10:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            *_whisker(row, scale, y),
            _dot(scale(row.value), y, row.state) if math.isfinite(row.value) else "",
        ]
    return drawing(bottom + 36, label, parts)


def plane(
    points: Sequence[PlanePoint], requirement: Requirement | None, x_label: str, y_label: str, label: str
) -> Markup:
    """Rounds, joined in order, and baselines in the plane of two metrics; the requirement is on x."""
    left, right, top, bottom = 44.0, WIDTH - 14, 46.0, 240.0
    shown = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    threshold = [requirement.threshold] if requirement else []
    x = Scale(*domain([n for p in shown for n in (p.x, *p.x_interval)] + threshold), left, right)
    y = Scale(*domain([n for p in shown for n in (p.y, *p.y_interval)]), bottom, top)
    parts = _requirement_x(requirement, x, top, bottom, [(top, bottom)]) + axis_x(x, bottom, x_label)
    parts += axis_y(y, left, right, y_label)
    rounds = [point for point in shown if point.state != "baseline"]
    if len(rounds) > 1:
        parts.append(f'<path class="join" d="{path([x(p.x) for p in rounds], [y(p.y) for p in rounds])}"/>')
    boxes = [_Box(x(p.x) - 8, x(p.x) + 8, y(p.y) - 7, y(p.y) + 7) for p in shown]
    for point in shown:
        px, py = x(point.x), y(point.y)
        style = _class(point.state)
        if math.isfinite(sum(point.x_interval)):
            ends = [x(end) for end in point.x_interval]
            parts.append(f'<line class="whisker {style}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" {at_y(py)}/>')
        if math.isfinite(sum(point.y_interval)):
            ends = [y(end) for end in point.y_interval]
            parts.append(f'<line class="whisker {style}" {at_x(px)} y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        tip = f"{point.label}: {x_label} {number(point.x)}, {y_label} {number(point.y)}"
        parts.append(_dot(px, py, point.state, tip))
        box = _free_place(px, py, 7.0 * len(point.label), boxes, _Box(left, right, top - 12, bottom))
        boxes.append(box)
        at = f'x="{box.left:.1f}" y="{box.bottom - 2:.1f}"'
        parts.append(f'<text class="name halo" {at}>{escaped(point.label)}</text>')
    return drawing(bottom + 36, label, parts)


def level_curves(curves: Sequence[tuple[str, Curve]], label: str) -> Markup:
    """A metric over the levels of an axis: mean with its pointwise interval; the last entry is drawn strongest."""
    left, right, top, bottom = 44.0, WIDTH - 12, 26.0, 180.0
    axis = curves[-1][1].axis
    x = Scale(*domain([v for _, curve in curves for v in curve.axis.values], pad=0.02), left, right)
    y = Scale(*domain([n for _, c in curves for n in (*c.mean, *c.low, *c.high)]), bottom, top)
    parts = axis_x(x, bottom, f"{axis.name} ({axis.unit})" if axis.unit else axis.name) + axis_y(y, left, right)
    named: list[tuple[str, str]] = []
    for index, (name, curve) in enumerate(curves):
        style = f"series s{len(curves) - 1 - index}"
        xs = [x(level) for level in curve.axis.values]
        parts += banded(style, xs, curve.mean, curve.low, curve.high, y)
        for level, px, mean, low, high, n in zip(
            curve.axis.values, xs, curve.mean, curve.low, curve.high, curve.n, strict=True
        ):
            if math.isfinite(mean):
                tip = f"{name}, {axis.name} {number(level)}: {number(mean)} {interval(low, high)}, n {n}"
                dot = f'<circle class="knot {style}" cx="{px:.1f}" cy="{y(mean):.1f}" r="3.2">'
                parts.append(f"{dot}<title>{escaped(tip)}</title></circle>")
        named.append((f"line {style}", name))
    return drawing(bottom + 36, label, parts + legend(named, left))


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
    x = Scale(0.0, sum(lengths) or 1.0, left, right)
    y = Scale(*domain([float(v) for t in thinned for v in (*t.low, *t.high)] + heights), bottom, top)
    parts = axis_x(x, bottom, unit) + axis_y(y, left, right)
    for segment, line, start, length in zip(segments, thinned, starts, lengths, strict=True):
        begin, end = x(start), x(start + length)
        if several:
            parts.append(f'<line class="divide" {at_x(begin)} y1="{top - 14:.0f}" y2="{bottom:.0f}"/>')
            name = f'<text class="tick" x="{begin + 4:.1f}" y="{top - 6:.0f}">{escaped(segment.label)}</text>'
            parts.append(name if end - begin > 40 else "")
        for limit, height in segment.limits.items():
            if math.isfinite(height):
                tip = f"<title>{escaped(f'{segment.label}: {limit} {number(height)}')}</title>"
                at = f'x1="{begin:.1f}" x2="{end:.1f}" {at_y(y(height))}'
                parts.append(f'<line class="limit l{limits[limit] % 3}" {at}>{tip}</line>')
        xs = [x(start + float(v)) for v in line.x]
        if len(segment.x) > len(line.x):
            parts.append(f'<path class="band series s0" d="{band(xs, line.low, line.high, y)}"/>')
        parts.append(f'<path class="line series s0" d="{path(xs, [y.or_gap(float(m)) for m in line.mean])}"/>')
    return drawing(bottom + 36, label, parts + legend([(f"limit l{i % 3}", n) for n, i in limits.items()], left))


def _class(state: str) -> str:
    return f"is-{state}"


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


def _whisker(row: IntervalRow, scale: Scale, y: float) -> list[str]:
    if math.isnan(row.low) or math.isnan(row.high):
        return []
    style = _class(row.state)
    low, high = scale(row.low), scale(row.high)
    parts = [f'<line class="whisker {style}" x1="{low:.1f}" x2="{high:.1f}" {at_y(y)}/>']
    for end, px, out in ((row.low, low, -1), (row.high, high, 1)):
        if math.isfinite(end):
            parts.append(f'<line class="whisker {style}" {at_x(px)} y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>')
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
    title = f"<title>{escaped(tip)}</title>" if tip else ""
    if state == "fail":
        return f'<path class="dot {style}" d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5Z">{title}</path>'
    if state == "baseline":
        return f'<rect class="dot {style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="5.5">{title}</circle>'


def _requirement_x(
    requirement: Requirement | None, x: Scale, top: float, bottom: float, good: Sequence[tuple[float, float]]
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
        f'<line class="need" {at_x(at)} y1="{top - 6:.1f}" y2="{bottom:.1f}"/>',
        f'<text class="need" x="{at:.1f}" y="{top - 10:.1f}" text-anchor="{anchor}">'
        f"required: {escaped(requirement.words())}</text>",
    ]
