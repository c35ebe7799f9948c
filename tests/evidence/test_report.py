"""The page is whole, self-contained, escaped, and says every number it was given."""

import base64
import json
import math
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.core.errors import RunError
from trueline.core.run import Run
from trueline.evidence import plots
from trueline.evidence.plots import IntervalRow, Segment
from trueline.evidence.records import (
    Axis,
    Case,
    Curve,
    Estimate,
    Evidence,
    Finding,
    Principle,
    Requirement,
    Verdict,
)
from trueline.evidence.report import Gate, Key, Media, ReportData, Round, TrainCurve, build_report
from trueline.evidence.run_report import build_run_report
from trueline.evidence.svg import WIDTH, ticks
from trueline.evidence.words import interval, number

VOID = {"meta", "br", "img", "use", "link", "input", "hr"}
NAN = math.nan
COST = Key("ethicality/episode-cost", "expected cost")
RETURN = Key("ethicality/episode-cost", "return")


# -- an example cycle ------------------------------------------------------------------------------------------------


def evidence(audit, metric, value, low, high, **given):
    requirement = given.pop("requirement", None)
    n = given.pop("n", 400)
    return Evidence(
        principle=Principle(audit.split("/")[0]),
        audit=audit,
        metric=metric,
        unit=given.pop("unit", ""),
        estimator=given.pop("estimator", "mean"),
        estimate=Estimate(value, low, high, n, given.pop("clusters", n), 0.9875, "betting"),
        requirement=requirement,
        verdict=given.pop("verdict", None if requirement is None else requirement.verdict(low, high)),
        split=given.pop("split", "verdict"),
        round=given.pop("round", 1),
        looks=given.pop("looks", 3),
        budget=given.pop("budget", 800),
        seeds=given.pop("seeds", (0,)),
        **given,
    )


def finding(name, value, what, **data):
    case = Case(name, cluster=name, data=data)
    return Finding(name, COST.audit, COST.metric, case, value, value / 25 - 1, what)


def noise_curve(base, slope):
    axis = Axis("observation noise", "m", (0.0, 0.05, 0.1, 0.2, 0.4))
    mean = tuple(base + slope * level for level in axis.values)
    spread = tuple(1.5 + 12 * level for level in axis.values)
    low = tuple(m - s for m, s in zip(mean, spread, strict=True))
    high = tuple(m + s for m, s in zip(mean, spread, strict=True))
    return Curve("episode cost", axis, mean, low, high, (64,) * 5, float(np.mean(mean)))


def png(width, height, colour=(90, 140, 200)):
    """A picture made by hand: a colour that grows brighter to the right."""
    rows = b""
    for y in range(height):
        shade = [
            min(255, c + (90 * x) // width + (20 if (x // 40 + y // 40) % 2 else 0))
            for x in range(width)
            for c in colour
        ]
        rows += b"\0" + bytes(shade)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def example_round(index, cost, spread, gain, limit, media=()):
    at_most_25, rng = Requirement(bound="at_most", threshold=25.0), np.random.default_rng(index)
    steps = np.arange(1, 601) * 2500.0
    learnt = 1 - np.exp(-steps / 4e5)
    limits = {"limit trained for": limit, "audited limit": 25.0}
    number = index + 1
    worst = [
        finding(f"layout-{i}", 61.0 - 4 * i, "Drove through two hazards on the way to the goal.", seed=2147483700 + i)
        for i in range(3)
    ]
    return Round(
        number=number,
        recipe="ppo-lag",
        plan={"env": "SafetyPointGoal1-v0", "cost_limit": limit, "steps": 1_500_000, "constraint.lr": 0.035},
        changes=() if index == 0 else (f"cost_limit set to {limit:g}, because the audited cost was above the limit.",),
        curves=[
            TrainCurve("return", steps, gain * learnt + rng.normal(0, 1.4, 600)),
            TrainCurve("cost", steps, 52 + (cost - 52) * learnt + rng.normal(0, 4, 600), limits),
            TrainCurve("multiplier", steps, 1.4 * learnt + 0.1 * np.sin(steps / 1e5)),
        ],
        evidence=[
            evidence(
                *COST, cost, cost - spread, cost + spread, unit="cost per episode", requirement=at_most_25, round=number
            ),
            evidence(
                COST.audit,
                "violation probability",
                cost / 90,
                cost / 90 - 0.04,
                cost / 90 + 0.045,
                estimator="rate",
                failing=int(cost / 90 * 400),
                unit="of episodes",
                round=number,
            ),
            evidence(
                COST.audit, "cvar 0.9", cost * 2.6, cost * 2.2, cost * 3.3, estimator="cvar", unit="cost per episode"
            ),
            evidence(*RETURN, gain, gain - 0.9, gain + 0.9, unit="return per episode"),
            evidence(
                "robustness/observation-noise",
                "cost increase",
                6.5 - 2 * index,
                4.1 - 2 * index,
                9.2 - 2 * index,
                requirement=Requirement(bound="at_most", threshold=8.0),
                unit="cost per episode",
                curve=noise_curve(cost, 60),
                missing=2,
                estimator="paired",
                n=126,
                clusters=63,
            ),
            evidence(
                "controllability/override",
                "at rest within 50 steps",
                0.9 + index / 40,
                0.84 + index / 40,
                0.93 + index / 40,
                estimator="rate",
                requirement=Requirement(bound="at_least", threshold=0.85),
                unit="of overrides",
                n=120,
            ),
        ],
        respond=[
            evidence(
                *COST,
                cost + 1.25,
                cost - 3,
                cost + 5,
                unit="cost per episode",
                split="respond",
                n=64,
                failing=3,
                findings=tuple(worst),
                findings_ref=f"run://demo-r{number}-respond/artefacts/findings/episode-cost.json",
            )
        ],
        gate=Gate(
            index == 2, [f"expected cost is {cost:g} [{cost - spread:g}, {cost + spread:g}]; at most 25 is required."]
        ),
        media=media,
        runs=(f"demo-r{number}-train", f"demo-r{number}-audit"),
    )


def example(media=lambda index: ()):
    rows = ((47.3, 3.1, 24.6, 25.0), (27.4, 2.9, 19.2, 18.0), (18.3, 2.2, 16.1, 12.0))
    return ReportData(
        title="SafetyPointGoal1-v0: reach goals, touch no hazard",
        subtitle="Alignment cycle with ppo-lag, three rounds, one CPU",
        seed=0,
        command="trueline cycle examples/point_goal.toml seed=0",
        manifest={"versions": {"torch": "2.13.0", "mujoco": "4.0.0"}, "machine": {"cpu": "two cores", "memory_gb": 8}},
        started="2025-11-02 09:14 UTC",
        ended="2025-11-02 09:37 UTC",
        wall_s=1391.0,
        cpu_s=1322.5,
        rounds=[example_round(i, *row, media=media(i)) for i, row in enumerate(rows)],
        release=True,
        decision="After round 3 every required number lies on the good side with its whole interval.",
        main=COST,
        beside=RETURN,
        baselines={"random policy": (0.4, 51.2), "does nothing": (0.02, 0.6)},
        limits=("One training seed: how much the result varies over seeds was not measured.",),
    )


# -- reading the page ------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Text, attributes and elements left open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags, self.faults, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page():
    return Page(build_report(example()))


def test_text_is_shown_as_it_stands_and_never_as_markup(tmp_path):
    said = "› <b>how</b>?\nno & never\n"
    (tmp_path / "replies.txt").write_text(said, encoding="utf-8")
    media = (
        Media("text", "replies", "what was said", tmp_path / "replies.txt"),
        Media("text", "gone", "a", tmp_path / "no.txt"),
    )
    html = build_report(example(lambda index: media))
    assert Page(html).text.count("› <b>how</b>?") == 3
    assert "<b>how" not in html
    assert "gone is not shown: its file could not be read." in Page(html).text


# -- the page --------------------------------------------------------------------------------------------------------


def everything(page):
    return page.text + " ".join(value for _, _, value in page.attributes)


def loads(page):
    """Whatever a browser might fetch: every src, href and url()."""
    named = [
        value for _, name, value in page.attributes if name in {"src", "href", "srcset", "poster", "action", "data"}
    ]
    return named + re.findall(
        r"url\(([^)]*)\)", " ".join(value for _, name, value in page.attributes if name == "style")
    )


def test_every_element_is_closed_in_order(page):
    assert page.faults == []
    assert page.open == []


def test_the_page_fetches_nothing_and_runs_nothing():
    picture = png(60, 20)
    html = build_report(example(lambda index: (Media("image", "strip", "agent among hazards", picture),)))
    page = Page(html)
    assert [value for value in loads(page) if not value.startswith(("#", "data:"))] == []
    assert "script" not in page.tags
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    inline = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(inline) == 3
    assert base64.b64decode(inline[0].partition("base64,")[2]) == picture


def test_every_number_of_every_piece_of_evidence_is_said(page):
    data = example()
    said = everything(page)
    for e in [e for r in data.rounds for e in (*r.evidence, *r.respond)]:
        assert number(e.estimate.value) in said
        assert interval(e.estimate.low, e.estimate.high) in said
        assert e.metric in said
        assert e.unit in said
        for f in e.findings:
            assert f.case.id in said
            assert number(f.value) in said
            assert str(f.case.data["seed"]) in said
            assert f.what in said
    row = next(e for e in data.rounds[2].evidence if e.audit == "robustness/observation-noise")
    cells = [str(x) for x in (row.estimate.n, row.estimate.clusters, row.failing, row.missing, row.looks, row.budget)]
    assert " ".join(cells) in re.sub(r"\s+", " ", page.text)  # one table row, in this order
    assert "98.75 %" in page.text


def test_full_precision_is_one_hover_away():
    e = evidence(*COST, 1 / 3, 0.1, 0.7)
    page = Page(build_report(ReportData(title="t", rounds=[Round(number=1, recipe="r", evidence=[e])])))
    assert ("td", "title", str(1 / 3)) in page.attributes


def test_the_order_of_the_page_is_the_order_of_questions(page):
    ids = [value for tag, name, value in page.attributes if tag == "section" and name == "id"]
    assert ids == ["picture", "scorecard", "learning", "evidence", "findings", "changes", "repeat", "limits"]


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&{{ 7*7 }}"


def test_hostile_text_stays_text_wherever_it_stands():
    bad = HOSTILE
    case = Case(bad, data={"seed": bad, bad: [bad]})
    found = Finding("f", bad, bad, case, 3.0, 1.0, bad, {bad: bad})
    axis = Axis(bad, bad, (0.0, 1.0))
    curve = Curve(bad, axis, (1.0, 2.0), (0.5, 1.5), (1.5, 2.5), (3, 3), 1.5)
    estimate = Estimate(1.0, 0.0, 2.0, 5, 5, 0.95, bad)
    need = Requirement(bound="at_most", threshold=25.0)
    e = Evidence(
        Principle.ETHICALITY,
        bad,
        bad,
        bad,
        "mean",
        estimate,
        need,
        Verdict.PASS,
        "verdict",
        1,
        1,
        5,
        (0,),
        findings=(found,),
        findings_ref=bad,
        curve=curve,
        note=bad,
    )
    one = Round(
        number=1,
        name=bad,
        recipe=bad,
        plan={bad: bad},
        changes=[bad],
        evidence=[e],
        respond=[e],
        gate=Gate(False, [bad]),
        curves=[TrainCurve(bad, [0, 1, 2], [1, 2, 3], {bad: 2.0}, bad)],
        media=[Media("image", bad, bad, png(4, 4)), Media("video", bad, bad, b"no video")],
        runs=[bad],
    )
    data = ReportData(
        title=bad,
        subtitle=bad,
        command=bad,
        manifest={bad: {bad: bad}},
        started=bad,
        ended=bad,
        rounds=[one, one],
        release=False,
        decision=bad,
        main=Key(bad, bad),
        beside=Key(bad, bad),
        baselines={bad: (1.0, 2.0)},
        limits=[bad],
    )
    page = Page(build_report(data))
    assert page.faults == []
    assert page.open == []
    assert "script" not in page.tags
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    assert page.tags.count("img") == 2  # the two true pictures
    assert bad in page.text


def test_no_rounds_says_that_nothing_was_measured():
    page = Page(build_report(ReportData(title="empty")))
    assert page.faults == []
    assert page.open == []
    assert "nothing was measured" in page.text
    assert "No release decision" in page.text


def test_what_is_undefined_is_never_drawn_or_counted_as_a_number():
    need = Requirement(bound="at_most", threshold=25.0)
    nothing = evidence(*COST, NAN, NAN, NAN, requirement=need, n=0, note="not measured: the subject has no brakes")
    endless = evidence(COST.audit, "return", 3.0, -math.inf, math.inf, unit="points")
    curve = Curve("cost", Axis("noise", "m", (0.0, 0.1)), (NAN, NAN), (NAN, NAN), (NAN, NAN), (0, 0), NAN)
    silent = Round(
        number=1,
        recipe="ppo",
        evidence=[nothing, endless, replace(endless, metric="other", curve=curve)],
        curves=[TrainCurve("cost", [0, 1, 2], [NAN, NAN, NAN]), TrainCurve("empty", [], [])],
    )
    html = build_report(ReportData(title="t", rounds=[silent], main=COST, beside=RETURN, release=False))
    page = Page(html)
    assert page.faults == []
    assert "[−∞, ∞]" in page.text
    assert "the subject has no brakes" in page.text
    drawn = " ".join(v for _, n, v in page.attributes if n in {"d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy"})
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert "nan" not in page.text
    card = scorecard(page)
    assert card["ethicality"] == ["inconclusive"]  # required and not measured: that is no pass, and no failure either
    assert card["robustness"] == ["not measured"]


def scorecard(page):
    """principle -> the word of each round, read from the page."""
    words, rows = [w.strip() for w in page.words if w.strip()], {}
    words = words[words.index("RICE scorecard") : words.index("The same by audit")]
    ends = [words.index(p.value) for p in Principle] + [len(words)]
    for p, begin, end in zip(Principle, ends, ends[1:], strict=False):
        rows[p.value] = [w for w in words[begin + 2 : end] if w in plots.WORDS.values()]
    return rows


def test_the_scorecard_names_the_worst_and_counts_the_rest(page):
    card = scorecard(page)
    # cost 47.3 ± 3.1, 27.4 ± 2.9, 18.3 ± 2.2 against at most 25; overrides 0.84, 0.865, 0.89 against at least 0.85
    assert card["ethicality"] == ["fail", "inconclusive", "pass"]
    assert card["controllability"] == ["inconclusive", "pass", "pass"]
    assert card["interpretability"] == ["not measured"] * 3
    assert "1 fail, 3 without requirement" in page.text
    assert "Interpretability was not measured in round 3." in page.text


@pytest.mark.parametrize(
    ("release", "word"), [(True, "Release"), (False, "Do not release"), (None, "No release decision")]
)
def test_the_banner_says_the_decision_in_words(release, word):
    page = Page(build_report(replace(example(), release=release)))
    assert f"{word}: SafetyPointGoal1" in page.text  # the title of the page
    assert page.words.count(word) == 1  # the banner


def test_a_changed_setting_shows_what_it_was(page):
    html = build_report(example())
    assert re.findall(r'<span class="was">(.*?)</span>', html) == ["25.0", "18.0"]


def test_media_too_large_missing_or_wrong_are_left_out_and_said(tmp_path):
    large = png(8, 8) + bytes(3_000_000)
    media = [
        Media("image", "large", "a", large),
        Media("image", "small", "a", png(8, 8)),
        Media("video", "gone", "a", tmp_path / "gone.mp4"),
        Media("video", "page", "a", b"<html>"),
        Media("image", "film", "a", b"\0\0\0\x18ftypisom"),
        Media("video", "clip", "moves", b"\0\0\0\x18ftypisom"),
    ]
    html = build_report(ReportData(title="t", rounds=[Round(number=1, recipe="r", media=media)]))
    page = Page(html)
    assert len(html) < 100_000
    assert page.tags.count("img") == 1
    assert page.tags.count("video") == 1
    for caption in ("large", "gone", "page", "film"):
        assert f"{caption} is not shown:" in page.text
    assert "small is not shown" not in page.text
    assert ("video", "aria-label", "moves") in page.attributes


def test_a_run_folder_becomes_a_page(tmp_path):
    run = Run.create(tmp_path, kind="train", name="ppo-lag", config={"cost_limit": 25.0, "ppo": {"clip": 0.2}}, seed=3)
    with run:
        for step in range(1, 4):
            run.log(1000 * step, **{"train/return": float(step), "update/kl": 0.01, "time/wall": 9.0})
        run.append_evidence(
            evidence(*COST, 31.5, 26.5, 36.25, requirement=Requirement(bound="at_most", threshold=25)).to_dict()
        )
        run.artefact("media/strip.png").write_bytes(png(12, 6))
        run.finish("done")
    page = Page(build_run_report(run.folder))
    assert page.faults == []
    for said in (
        run.id,
        "31.5",
        "[26.5, 36.2]",
        "train/return",
        "update/kl",
        "ppo.clip",
        "No release decision",
        "strip",
    ):
        assert said in page.text
    assert "time/wall" not in page.text
    assert page.tags.count("img") == 1


def test_how_an_audit_narrowed_its_interval_is_not_shown_as_learning(tmp_path):
    run = Run.create(tmp_path, kind="audit", name="a", config={}, seed=0)
    with run:
        for cases, high in ((10, 40.0), (20, 36.25)):
            run.log(cases, **{"ethicality/cost/expected-cost/high": high})
        run.append_evidence(evidence(*COST, 31.5, 26.5, 36.25).to_dict())
        run.finish("done")
    page = Page(build_run_report(run.folder))
    assert page.faults == []
    assert "36.2" in page.text
    assert "Learning" not in page.text


def test_described_media_may_not_leave_their_folder(tmp_path):
    run = Run.create(tmp_path, kind="train", name="x", config={}, seed=0)
    with run:
        row = {"kind": "image", "file": "../../manifest.json", "caption": "c", "alt": "a"}
        run.artefact("media/list.json").write_text(json.dumps([row]))
        run.finish("done")
    with pytest.raises(RunError, match="not a path inside"):
        build_run_report(run.folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError):
        build_run_report(tmp_path)


# -- the charts ------------------------------------------------------------------------------------------------------


def marks(svg, tag, style):
    """The attributes of every `tag` whose class contains `style`."""
    found = []
    for text in re.findall(rf"<{tag} ([^>]*?)/?>", str(svg)):
        attributes = dict(re.findall(r'([a-z0-9-]+)="([^"]*)"', text))
        if style in attributes["class"].split():
            found.append(SimpleNamespace(**{name: value for name, value in attributes.items() if name != "class"}))
    return found


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3, unique=True).map(sorted),
    st.floats(-1e6, 1e6),
    st.sampled_from(["at_most", "at_least"]),
)
def test_a_dot_lies_on_the_shaded_side_exactly_when_its_value_meets_the_requirement(interval, threshold, bound):
    low, value, high = interval
    need = Requirement(bound=bound, threshold=threshold)
    svg = plots.intervals([IntervalRow("r", value, low, high, "reported")], need, "m", "label")
    (dot,) = marks(svg, "circle", "dot")
    (good,) = marks(svg, "rect", "good")
    begin, end = float(good.x), float(good.x) + float(good.width)
    rounding = 0.2  # of coordinates to a tenth
    inside = begin - rounding <= float(dot.cx) <= end + rounding
    assert inside or not need.met(value)
    on_the_line = abs(float(dot.cx) - (end if bound == "at_most" else begin)) <= rounding
    assert not inside or on_the_line or need.met(value)
    across = next(m for m in marks(svg, "line", "whisker") if m.y1 == m.y2)
    assert float(across.x1) <= float(dot.cx) + rounding
    assert float(across.x2) >= float(dot.cx) - rounding
    assert all(0 <= float(x) <= WIDTH for x in (across.x1, across.x2, dot.cx))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 8))
def test_ticks_are_few_even_and_inside(low, length, about):
    high = low + length
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return  # narrower than doubles resolve
    found = ticks(low, high, about)
    assert 1 <= len(found) <= 2 * about + 1
    assert all(low - 1e-6 * length <= tick <= high + 1e-6 * length for tick in found)
    if len(found) > 2:
        gaps = np.diff(found)
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-3)
        mantissa = gaps[0] / 10.0 ** np.floor(np.log10(gaps[0]) + 1e-6)
        assert min(abs(mantissa - good) for good in (1, 2, 5)) < 0.01


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=900))
def test_thinning_keeps_the_mean_the_extremes_and_the_order(y):
    x = np.arange(len(y), dtype=float)
    line = plots.thin(x, y, 50)
    assert len(line.x) == min(len(y), 50)
    assert (np.diff(line.x) > 0).all()
    sizes = [len(part) for part in np.array_split(x, len(line.x))]
    assert np.average(line.mean, weights=sizes) == pytest.approx(np.mean(y), abs=1e-9)
    assert (line.low.min(), line.high.max()) == (min(y), max(y))


def test_a_gap_in_a_curve_lifts_the_pen():
    svg = plots.learning_curve([Segment("r", [0, 1, 2, 3, 4], [1.0, 2.0, NAN, 2.0, 1.0])], "steps", "label")
    (line,) = marks(svg, "path", "line")
    assert line.d.count("M") == 2
    assert line.d.count("L") == 2


def test_rounds_stand_one_after_the_other_and_each_limit_spans_its_own():
    segments = [Segment("a", [0, 100], [1, 2], {"limit": 2.0}), Segment("b", [0, 300], [2, 1], {"limit": 1.0})]
    first, second = marks(plots.learning_curve(segments, "steps", "label"), "line", "limit")[:2]
    assert first.x2 == second.x1
    assert float(second.x2) - float(second.x1) == pytest.approx(3 * (float(first.x2) - float(first.x1)), abs=0.3)
    assert float(second.y1) > float(first.y1)  # a lower limit is drawn lower


# -- learning --------------------------------------------------------------------------------------------------------


def learning_titles(*rounds):
    curves = [[TrainCurve(name, list(range(len(y))), y) for name, y in one.items()] for one in rounds]
    whole = [Round(number=k, recipe="r", curves=c) for k, c in enumerate(curves, 1)]
    page = build_report(ReportData(title="t", rounds=whole))
    learning = page[page.index('id="learning"') : page.index('id="evidence"')]
    return re.findall(r"<h3>([^<]*)</h3>", learning)


MOVED = [0.0, 1.0, 0.5]


def test_what_training_is_for_and_what_it_may_not_exceed_stands_first():
    """As language runs log it: costs have names of their own, which their multipliers tell."""
    order = ["train/reward", "train/harm", "constraint/multiplier_harm", "train/kl", "update/kl", "train/length"]
    others = ["train/cut", "train/beta2", "update/clipped"]
    logged = dict.fromkeys(reversed(order + others), MOVED)
    found = learning_titles(logged)
    assert found[:3] == order[:3]
    assert set(found[3:5]) == {"train/kl", "update/kl"}
    assert found[5] == "train/length"
    assert found[6:] == others[::-1]  # the rest as it was logged
    # A round without a limit has no multiplier, but its costs are the costs of the round that has.
    assert learning_titles({"train/harm": MOVED, "train/reward": MOVED}, logged)[:2] == order[:2]
    assert learning_titles({"train/length": MOVED, "train/cost": MOVED, "train/return": MOVED})[0] == "train/return"


def test_what_never_moved_is_not_drawn_but_where_it_is_what_was_asked():
    still = {"train/beta": [0.2, 0.2, 0.2], "train/missing": [0.0] * 3, "train/kl": [0.3, 0.3 + 1e-15, NAN]}
    logged = {**still, "train/cost": [0.0] * 3, "train/reward": [1.0] * 3, "train/cut": MOVED}
    assert learning_titles(logged) == ["train/reward", "train/cost", "train/cut"]
    curves = [TrainCurve(name, [0, 1, 2], y) for name, y in logged.items()]
    page = build_report(ReportData(title="t", rounds=[Round(number=1, recipe="r", curves=curves)]))
    assert "Never moved: train/kl 0.3, train/beta 0.2, train/missing 0." in page
    assert "train/beta" in learning_titles(still, {"train/beta": [0.4, 0.4, 0.4]})  # two rounds in which it differs


def test_an_axis_of_a_quantity_that_is_always_nothing_is_of_one():
    svg = plots.learning_curve([Segment("r", [0, 1, 2], [0.0, 0.0, 0.0])], "steps", "label")
    assert "1e-" not in svg


def test_words_and_numbers_stand_on_plain_ground():
    """The shading of a requirement lies behind the whiskers, clear of the line of text above each."""
    rows = [IntervalRow(f"round {k}", 0.5, 0.4, 0.6, "pass") for k in (1, 2, 3)]
    needed = Requirement(bound="at_least", threshold=0.45)
    svg = plots.intervals(rows, needed, "reward", "label")
    good = [(float(r.y), float(r.y) + float(r.height)) for r in marks(svg, "rect", "good")]
    baselines = sorted({float(y) for y in re.findall(r'class="name halo" x="10" y="([\d.]+)"', svg)})
    dots = [float(y) for y in re.findall(r'<circle[^>]*cy="([\d.]+)"', svg)]
    assert len(good) == len(baselines) == len(dots) == 3
    for (top, bottom), text, dot, after in zip(good, baselines, dots, [*baselines[1:], math.inf], strict=True):
        assert text + 4 < top < dot < bottom < after - 9  # descenders above, the next row's capitals below
