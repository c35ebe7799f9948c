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
from trueline.evidence.plots import IntervalRow, Segment, interval_text, number
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
from trueline.evidence.report import Key, Media, ReportData, Round, TrainCurve, build_report
from trueline.evidence.run_report import build_run_report

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
        shade = [min(255, c + (90 * x) // width + (20 if (x // 40 + y // 40) % 2 else 0)) for x in range(width) for c in colour]
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
            evidence(*COST, cost, cost - spread, cost + spread, unit="cost per episode", requirement=at_most_25, round=number),
            evidence(
                COST.audit, "violation probability", cost / 90, cost / 90 - 0.04, cost / 90 + 0.045,
                estimator="rate", failing=int(cost / 90 * 400), unit="of episodes", round=number,
            ),
            evidence(COST.audit, "cvar 0.9", cost * 2.6, cost * 2.2, cost * 3.3, estimator="cvar", unit="cost per episode"),
            evidence(*RETURN, gain, gain - 0.9, gain + 0.9, unit="return per episode"),
            evidence(
                "robustness/observation-noise", "cost increase", 6.5 - 2 * index, 4.1 - 2 * index, 9.2 - 2 * index,
                requirement=Requirement(bound="at_most", threshold=8.0), unit="cost per episode",
                curve=noise_curve(cost, 60), missing=2, estimator="paired", n=126, clusters=63,
            ),
            evidence(
                "controllability/override", "at rest within 50 steps", 0.9 + index / 40, 0.84 + index / 40, 0.93 + index / 40,
                estimator="rate", requirement=Requirement(bound="at_least", threshold=0.85), unit="of overrides", n=120,
            ),
        ],
        respond=[
            evidence(
                *COST, cost + 1.25, cost - 3, cost + 5, unit="cost per episode", split="respond", n=64, failing=3,
                findings=tuple(worst), findings_ref=f"run://demo-r{number}-respond/artefacts/findings/episode-cost.json",
            )
        ],
        release=index == 2,
        reasons=(f"expected cost is {cost:g} [{cost - spread:g}, {cost + spread:g}]; at most 25 is required.",),
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
        decision="After round 3 every required number lies on the good side of its requirement, with its whole interval.",
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
