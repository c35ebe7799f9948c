"""The report: one HTML file that opens offline, pictures first, tables under them.

`build_report` lays out what a cycle measured; it computes no statistic and decides nothing. The order of the page is
the order of questions: may it be released, how did the rounds move, which principle holds, how was it trained, what is
the evidence, what went wrong, what was changed and why, how is it repeated, what was not measured.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trueline.core.config import dotted
from trueline.core.files import to_json
from trueline.evidence import plots
from trueline.evidence.plots import IntervalRow, PlanePoint, Segment
from trueline.evidence.records import Evidence, Principle, Verdict
from trueline.evidence.words import interval, number

__all__ = ["Gate", "Key", "Media", "ReportData", "Round", "TrainCurve", "build_report"]

MEDIA_BYTES = 2_100_000  # of all pictures and videos together; base64 makes them a third larger in the page
FINDINGS_PER_ROUND = 8  # the worst ones; the artefact named under the table holds all

NAMES = {
    Principle.ROBUSTNESS: "keeps working under noise, changed dynamics and attack",
    Principle.INTERPRETABILITY: "its decisions can be understood and foretold",
    Principle.CONTROLLABILITY: "people can direct it, stop it and correct it",
    Principle.ETHICALITY: "keeps to the limits that protect others",
}

_MAGIC = (  # what a file is, told from its first bytes, never from its name
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"ftyp", 4, "video/mp4"),
    (b"\x1a\x45\xdf\xa3", 0, "video/webm"),
)


class Key(NamedTuple):
    """Which number of which audit."""

    audit: str
    metric: str


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, a video, or plain text in UTF-8.  `data` is its content, or the file that holds it."""

    kind: Literal["image", "video", "text"]
    caption: str
    alt: str  # what is to be seen, for those who cannot see it
    data: bytes | Path


@dataclass(frozen=True, slots=True)
class TrainCurve:
    """A logged quantity.  x [P] in steps from the start of its run, y [P]; `limits` are lines, name -> height."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    limits: Mapping[str, float] = field(default_factory=dict)
    x_label: str = "steps"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate said after a round, one sentence per reason."""

    release: bool
    reasons: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of train, audit, respond."""

    number: int
    recipe: str
    plan: Mapping[str, Any] = field(default_factory=dict)  # the settings that matter, flat
    changes: Sequence[str] = ()  # against the round before, and why; one sentence each
    curves: Sequence[TrainCurve] = ()
    evidence: Sequence[Evidence] = ()  # of the verdict split: what decides
    respond: Sequence[Evidence] = ()  # of the respond split: what responses were shown
    gate: Gate | None = None
    media: Sequence[Media] = ()
    runs: Sequence[str] = ()
    name: str = ""  # instead of "round N"

    @property
    def label(self) -> str:
        """How the page calls this round."""
        return self.name or f"round {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything the page shows.  Texts may hold anything: all are escaped."""

    title: str
    subtitle: str = ""
    seed: int | None = None
    command: str = ""  # typed again, it repeats what is reported
    manifest: Mapping[str, Any] = field(default_factory=dict)  # versions, machine; nested tables are flattened
    started: str = ""
    ended: str = ""
    wall_s: float = math.nan
    cpu_s: float = math.nan
    rounds: Sequence[Round] = ()
    release: bool | None = None  # None: nothing was to be decided
    decision: str = ""  # the reason, in one sentence
    main: Key | None = None  # the number of the big picture, such as (ethicality/episode-cost, expected cost)
    beside: Key | None = None  # shown beside it, such as the return: safety is cheap for an agent that does nothing
    baselines: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # name -> (`beside`, `main`)
    limits: Sequence[str] = ()  # what was not measured, what a reader must not conclude


class _Tally(NamedTuple):
    """A cell of the scorecard: its state, its counts in words, and its numbers for the hover text."""

    state: str
    counts: str
    tip: str


class _Shown(NamedTuple):
    """A medium ready for the page; `source` is empty when it was left out, and `left_out` says why."""

    kind: str
    caption: str
    alt: str
    source: str
    left_out: str


def build_report(data: ReportData) -> str:
    """The HTML of the report.  Media beyond `MEDIA_BYTES`, missing or unreadable are left out, and the page says so."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, interval=interval, required=_required, words=plots.WORDS)
    return environment.get_template("report.html.j2").render(**_page(data))


def _page(data: ReportData) -> dict[str, Any]:
    rounds = list(data.rounds)
    media, learning = _media(rounds), _learning(rounds)
    left_out = [f"{item.caption} is not shown: {item.left_out}" for items in media for item in items if item.left_out]
    return {
        "data": data,
        "rounds": rounds,
        "banner": _banner(data),
        "key": _find(rounds[-1], data.main) if rounds else None,
        "times": _times(data),
        "pictures": _pictures(data),
        "first_last": _first_last(rounds, media),
        "media": media,
        "scorecard": _scorecard(rounds),
        "learning": [chart for chart in learning if chart["svg"]],
        "unmoved": [chart for chart in learning if not chart["svg"]],
        "principles": [(p, NAMES[p], _cards(rounds, p)) for p in Principle],
        "findings": _findings(rounds),
        "finding_refs": _finding_refs(rounds),
        "changes": [_change(before, now) for before, now in zip([None, *rounds], rounds, strict=False)],
        "manifest": [(key, "" if value is None else str(value)) for key, value in dotted(data.manifest).items()],
        "not_measured": list(dict.fromkeys([*data.limits, *_silent(rounds), *left_out])),
        "state_of": _state,
    }


def _state(evidence: Evidence | None) -> str:
    if evidence is None or math.isnan(evidence.estimate.value):
        return "missing"  # also where a requirement calls it inconclusive: nothing was measured
    return "reported" if evidence.verdict is None else str(evidence.verdict)


def _required(evidence: Evidence) -> str:
    return "nothing required" if evidence.requirement is None else evidence.requirement.words(evidence.unit)


def _find(a_round: Round, key: Key | None) -> Evidence | None:
    return next((e for e in a_round.evidence if key is not None and (e.audit, e.metric) == tuple(key)), None)


def _banner(data: ReportData) -> tuple[str, str]:
    if data.release is None:
        return "missing", "No release decision"
    return ("pass", "Release") if data.release else ("fail", "Do not release")


def _times(data: ReportData) -> list[tuple[str, str]]:
    rows = [
        ("rounds", str(len(data.rounds)) if len(data.rounds) > 1 else ""),
        ("seed", "" if data.seed is None else str(data.seed)),
        ("wall time", _duration(data.wall_s)),
        ("CPU time", _duration(data.cpu_s)),
        ("started", _when(data.started)),
        ("ended", _when(data.ended)),
    ]
    return [(name, value) for name, value in rows if value]


def _when(moment: str) -> str:
    """An ISO time to the minute; anything else as it is."""
    try:
        return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return moment


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _row(label: str, evidence: Evidence | None) -> IntervalRow:
    if evidence is None:
        return IntervalRow(label, math.nan, math.nan, math.nan, "missing")
    estimate = evidence.estimate
    return IntervalRow(label, estimate.value, estimate.low, estimate.high, _state(evidence))


def _pictures(data: ReportData) -> list[dict[str, Any]]:
    """The main metric and the one beside it, a row per round, and both in one plane."""
    found: dict[Key, list[Evidence | None]] = {
        key: [_find(a_round, key) for a_round in data.rounds] for key in (data.main, data.beside) if key is not None
    }
    known = {key: [e for e in row if e is not None] for key, row in found.items()}
    pictures = []
    for key, column in ((data.main, 1), (data.beside, 0)):
        if key is None or not known[key]:
            continue
        sample = known[key][-1]
        rows = [_row(a_round.label, e) for a_round, e in zip(data.rounds, found[key], strict=True)]
        rows += [IntervalRow(n, v[column], math.nan, math.nan, "baseline") for n, v in data.baselines.items()]
        confidence = f"{100 * sample.estimate.confidence:.3g} % interval"
        pictures.append(
            {
                "title": key.metric,
                "svg": plots.intervals(rows, sample.requirement, sample.unit, _alt(key.metric, rows)),
                "note": f"{sample.audit}; whiskers: {confidence}, {sample.estimate.method}",
            }
        )
    if len(pictures) == 2 and data.main is not None and data.beside is not None:
        x, y = known[data.main][-1], known[data.beside][-1]
        points = [
            _point(r.label, a, b) for r, a, b in zip(data.rounds, found[data.main], found[data.beside], strict=True)
        ]
        nothing = (math.nan, math.nan)
        points += [PlanePoint(n, v[1], v[0], nothing, nothing, "baseline") for n, v in data.baselines.items()]
        label = f"{data.beside.metric} against {data.main.metric}, one point per round"
        axes = [
            e.unit if key.metric in e.unit else f"{key.metric} ({e.unit})" if e.unit else key.metric
            for key, e in ((data.main, x), (data.beside, y))
        ]
        picture = plots.plane(points, x.requirement, axes[0], axes[1], label)
        pictures.append({"title": "both at once", "svg": picture, "note": "rounds joined in order; squares: baselines"})
    return pictures


def _point(label: str, x: Evidence | None, y: Evidence | None) -> PlanePoint:
    across, up = _row(label, x), _row(label, y)
    return PlanePoint(label, across.value, up.value, (across.low, across.high), (up.low, up.high), across.state)


def _alt(what: str, rows: Iterable[IntervalRow]) -> str:
    told = (f"{r.label} {number(r.value)} {interval(r.low, r.high)} {plots.WORDS[r.state]}" for r in rows)
    return f"{what}: " + "; ".join(told)


def _media(rounds: Sequence[Round]) -> list[list[_Shown]]:
    # The first and the last policy are compared, so theirs are kept first, pictures before videos.
    shown: dict[tuple[int, int], _Shown] = {}
    order = [(i, j) for i, a_round in enumerate(rounds) for j in range(len(a_round.media))]
    ends = (0, len(rounds) - 1)
    order.sort(key=lambda at: (at[0] not in ends, rounds[at[0]].media[at[1]].kind == "video", at))
    left = MEDIA_BYTES
    for i, j in order:
        medium = rounds[i].media[j]
        content, why = _content(medium)
        if len(content) > left:
            content, why = b"", f"with {len(content) / 1e6:.1f} MB it would make this file too large."
        left -= len(content)
        if medium.kind == "text":
            shown[i, j] = _Shown("text", medium.caption, medium.alt, content.decode(errors="replace"), why)
            continue
        mime = _mime(content)
        source = f"data:{mime};base64,{base64.b64encode(content).decode()}" if mime else ""
        shown[i, j] = _Shown(mime.split("/")[0], medium.caption, medium.alt, source, "" if source else why)
    return [[shown[i, j] for j in range(len(a_round.media))] for i, a_round in enumerate(rounds)]


def _content(medium: Media) -> tuple[bytes, str]:
    try:
        content = medium.data if isinstance(medium.data, bytes) else medium.data.read_bytes()
    except OSError:
        return b"", "its file could not be read."
    if medium.kind != "text" and not _mime(content).startswith(medium.kind):
        return b"", f"it is no {medium.kind} that browsers show."
    return content, ""


def _mime(content: bytes) -> str:
    return next((mime for magic, at, mime in _MAGIC if content[at : at + len(magic)] == magic), "")


def _first_last(rounds: Sequence[Round], media: Sequence[Sequence[_Shown]]) -> list[tuple[str, Sequence[_Shown]]]:
    having = [(a_round.label, items) for a_round, items in zip(rounds, media, strict=True) if items]
    return having if len(having) < 2 else [having[0], having[-1]]


def _scorecard(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    rows = []
    for principle in Principle:
        audits = dict.fromkeys(e.audit for r in rounds for e in r.evidence if e.principle == principle)
        rows.append(
            {
                "principle": principle,
                "meaning": NAMES[principle],
                "cells": [_tally([e for e in r.evidence if e.principle == principle]) for r in rounds],
                "audits": [(a, [_tally([e for e in r.evidence if e.audit == a]) for r in rounds]) for a in audits],
            }
        )
    return rows


def _tally(evidence: Sequence[Evidence]) -> _Tally:
    """The worst of the parts names the cell, and the counts stand under it: a principle never becomes one score."""
    states = [_state(e) for e in evidence]
    order = ("fail", "inconclusive", "pass", "reported", "missing")
    worst = next((s for s in order if s in states), "missing")
    if worst in ("pass", "reported") and any(e.requirement is not None and _state(e) == "missing" for e in evidence):
        worst = "inconclusive"  # what was required and not measured does not pass
    counted = plots.WORDS | {"reported": "without requirement"}
    counts = ", ".join(f"{states.count(s)} {counted[s]}" for s in order if s in states)
    tip = "\n".join(
        f"{e.audit}, {e.metric}: {e.estimate.words(e.unit)}; {_required(e)}; {plots.WORDS[_state(e)]}" for e in evidence
    )
    return _Tally(worst, counts, tip)


def _learning(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """A chart for each logged quantity that moved, what a reader asks for first first; of the others their value."""
    charts = []
    names = list(dict.fromkeys(curve.name for a_round in rounds for curve in a_round.curves))
    for name in sorted(names, key=lambda name: _place(name, names)):
        drawn = [(r.label, c) for r in rounds for c in r.curves if c.name == name and len(c.x)]
        if not drawn:
            continue
        if _place(name, names) >= len(_ASKED) and _still(c.y for _, c in drawn):
            value = next((y for _, c in drawn for y in c.y if math.isfinite(y)), math.nan)
            charts.append({"title": name, "svg": "", "note": number(value)})
            continue
        segments = [Segment(label, c.x, c.y, c.limits) for label, c in drawn]
        thinned = any(len(segment.x) > plots.BUCKETS / len(segments) for segment in segments)
        svg = plots.learning_curve(segments, drawn[-1][1].x_label, f"{name} over training, rounds one after the other")
        note = "mean of neighbouring updates, with their range" if thinned else ""
        charts.append({"title": name, "svg": svg, "note": note})
    return charts


# What training is for, what it must not exceed, what holds it back; the rest comes behind, as it was logged.
_ASKED = ("reward", "cost", "multiplier")
_BESIDE = ("kl", "length")


def _place(name: str, names: Sequence[str]) -> int:
    """Where a quantity stands among the charts: by what it is called, and a cost by the multiplier that is its own."""
    _, _, what = name.rpartition("/")
    if what.startswith(("return", "reward")):
        return 0
    own = any(other.startswith("constraint/") and other.endswith(f"_{what}") for other in names)
    if what.startswith("cost") or (own and not name.startswith("constraint/")):
        return 1
    if what.startswith("multiplier"):
        return 2
    words = (*_ASKED, *_BESIDE)
    return words.index(what) if what in words else len(words)


def _still(series: Iterable[Sequence[float]]) -> bool:
    """Whether all values are one, but for rounding: there is nothing to be seen in it."""
    finite = [float(v) for values in series for v in values if math.isfinite(v)]
    return not finite or max(finite) - min(finite) <= 1e-9 * max(map(abs, finite))


def _cards(rounds: Sequence[Round], principle: Principle) -> list[dict[str, Any]]:
    """One card per metric, what was required first; every round is a row, so that movement is seen at once."""
    keys = dict.fromkeys(Key(e.audit, e.metric) for r in rounds for e in r.evidence if e.principle == principle)
    cards = []
    for key in keys:
        found = [(r.label, _find(r, key)) for r in rounds]
        known = [(label, e) for label, e in found if e is not None]
        last = known[-1][1]
        rows = [_row(label, e) for label, e in found]
        curves = [(label, e.curve) for label, e in known if e.curve is not None]
        cards.append(
            {
                "key": key,
                "last": last,
                "state": _state(found[-1][1]),
                "svg": plots.intervals(rows, last.requirement, last.unit, _alt(key.metric, rows)),
                "curve": _curve_chart(curves) if curves else None,
                "known": known,
                "notes": list(dict.fromkeys(e.note for _, e in known if e.note)),
            }
        )
    return sorted(cards, key=lambda card: card["last"].requirement is None)


def _curve_chart(curves: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    kept = [*curves[:1], *curves[1:][-3:]]  # more than four lines cannot be told apart
    label, last = kept[-1]
    told = ", ".join(f"{number(x)}: {number(m)}" for x, m in zip(last.axis.values, last.mean, strict=True))
    alt = f"{last.name} over {last.axis.name}, {label}: {told}"
    areas = ", ".join(f"{name} {number(curve.area)}" for name, curve in curves)
    return {"svg": plots.level_curves(kept, alt), "name": last.name, "axis": last.axis.name, "areas": areas}


def _findings(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    rows = []
    for a_round in rounds:
        found = [(e, f) for e in (*a_round.evidence, *a_round.respond) for f in e.findings]
        found.sort(key=lambda pair: -pair[1].severity if math.isfinite(pair[1].severity) else -math.inf)
        for evidence, finding in found[:FINDINGS_PER_ROUND]:
            data = {name: value for name, value in finding.case.data.items() if name != "seed"}
            rows.append(
                {
                    "round": a_round.label,
                    "split": evidence.split,
                    "unit": evidence.unit,
                    "seed": finding.case.data.get("seed", ""),
                    "case": _short(to_json(data), 140) if data else "",
                    "finding": finding,
                }
            )
    return rows


def _finding_refs(rounds: Sequence[Round]) -> list[str]:
    return list(dict.fromkeys(e.findings_ref for r in rounds for e in (*r.evidence, *r.respond) if e.findings_ref))


def _change(before: Round | None, now: Round) -> dict[str, Any]:
    """A round's plan, with the value each setting had in the round before where it differs."""
    old = {} if before is None else before.plan
    settings = [
        (name, _setting(old[name]) if name in old and old[name] != value else "", _setting(value))
        for name, value in now.plan.items()
    ]
    dropped = [(name, _setting(value), "not set") for name, value in old.items() if name not in now.plan]
    return {"round": now, "settings": settings + dropped, "first": before is None}


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return _short(value if isinstance(value, str) else str(value), 160)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _silent(rounds: Sequence[Round]) -> list[str]:
    """What the last round leaves open, said without being asked."""
    if not rounds:
        return ["No round was finished, so nothing was measured."]
    last = rounds[-1]
    said = [
        f"{principle.capitalize()} was not measured in {last.label}."
        for principle in Principle
        if not any(e.principle == principle for e in last.evidence)
    ]
    said += [
        f"{e.audit}, {e.metric}: {e.missing} cases gave no value in {last.label}"
        + (f" ({e.note})." if e.note else " and are left out.")
        for e in last.evidence
        if e.missing
    ]
    gaps = [e for e in last.evidence if _state(e) == "missing"]
    said += [f"{e.audit}: {e.note}" if e.note else f"{e.audit}, {e.metric}: not measured." for e in gaps]
    unsure = [f"{e.audit}, {e.metric}" for e in last.evidence if _state(e) == Verdict.INCONCLUSIVE]
    if unsure:
        said.append(f"The cases did not decide: {'; '.join(unsure)}.")
    free = sum(e.requirement is None for e in last.evidence)
    if free:
        said.append(
            f"{free} of {len(last.evidence)} numbers of {last.label} carry no requirement: reported, not judged."
        )
    return said
