"""Figures of claims: what they show is what their results say, and they stand alone."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from trueline.evidence.claims import ClaimResult
from trueline.evidence.over_seeds import compare_seeds, seed_interval
from trueline.evidence.plots import standalone
from trueline.evidence.records import EvidenceError
from trueline.evidence.words import number
from trueline.language.claims import elasticity, figures, safe_rlhf, seq2seq, topology
from trueline.language.claims.figures import drawn, main

SVG = "{http://www.w3.org/2000/svg}"


def result_of(claim, rows, **changed):
    scale = claim.scales["laptop"]
    estimate = claim.statistic(rows, claim.acceptance.interval_confidence())
    values = {
        "system": claim.system,
        "name": claim.name,
        "sentence": claim.sentence,
        "source": claim.source,
        "scale": "laptop",
        "outcome": "inconclusive",
        "acceptance": claim.acceptance,
        "estimate": estimate,
        "unit": claim.unit,
        "per_seed": dict(enumerate(rows)),
        "cpu_hours": scale.cpu_hours,
        "smallest_effect": scale.smallest_effect,
        "params": scale.params,
        "environment": {},
    }
    return ClaimResult(**values | changed)


def seeds(names, means, spread=0.02, n=10):
    rng = np.random.default_rng(0)
    return [dict(zip(names, np.array(means) + spread * rng.normal(size=len(means)), strict=True)) for _ in range(n)]


def safe_rows():
    names = [f"{what}/{name}" for name in ("start", "ppo", "ppo-lag") for what in ("harm", "harmless help")]
    rows = seeds(names, [0.2, 0.5, 0.4, 0.7, 0.04, 0.6])
    for row in rows:
        row["broken"] = row["harm/ppo"] - 0.1
        row["kept"] = 0.1 - row["harm/ppo-lag"]
        row["helped"] = 0.2 - row["harmless help/ppo"] + row["harmless help/ppo-lag"]
    return rows


def tree_rows(claim):
    settings = topology.Settings(**claim.scales["laptop"].params)
    names = [
        f"{level}/{n}/{arm}/disagreement" for level in settings.orders for n in settings.sizes for arm in settings.arms
    ]
    rows = seeds(names, np.linspace(0.2, 0.3, len(names)), n=12)
    return [
        {**row, "reference": 1.0, **{f"prompt/{arm}/{p}": 0.2 + 0.01 * p for arm in settings.arms for p in range(4)}}
        for row in rows
    ]


def policy_rows(primary):
    players = (*seq2seq.ARMS, *seq2seq.OTHERS)
    names = [f"win-plain/{name}/scalar" for name in players] + [f"filler-plain/{name}" for name in ("start", *players)]
    return seeds([primary, *names], np.linspace(0.4, 0.7, 1 + len(names)))


def accuracy_rows():
    names = [
        f"accuracy/{n}/{start}/{kind}"
        for n in (300, 1500)
        for start in ("sft", "scratch")
        for kind in ("scalar", "token-wise", "seq2seq-hard", "seq2seq-soft")
    ]
    return seeds(["gain", *names], np.linspace(0.5, 0.9, 1 + len(names)))


def results():
    trends = [
        "trend",
        "trend of half the way",
        "trend of half the way, neutral",
        "trend of items away",
        "trend per nat",
    ]
    return {
        "safe-rlhf": result_of(safe_rlhf.SAFE_RLHF, safe_rows()),
        "accuracy": result_of(seq2seq.SEQ2SEQ_ACCURACY, accuracy_rows()),
        "policy": result_of(seq2seq.SEQ2SEQ_POLICY, policy_rows("win_rate")),
        "length": result_of(seq2seq.SEQ2SEQ_LENGTH, policy_rows("filler_gap")),
        "labels": result_of(topology.LABELS, tree_rows(topology.LABELS)),
        "elasticity": result_of(elasticity.ELASTICITY, seeds(trends, [-0.3, -0.2, 0.1, 0.4, 0.0])),
        "resistance": result_of(elasticity.RESISTANCE, seeds(["excess", "raw"], [0.05, -0.1])),
    }


def texts(chart):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(standalone(chart)).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", list(results()))
def test_every_claim_of_this_wing_has_a_figure_that_stands_alone(name, tmp_path):
    result, out = results()[name], tmp_path / "figure.svg"
    (tmp_path / "result.json").write_text(result.to_json())
    main([str(tmp_path / "result.json"), str(out)])
    text = out.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["aria-label"] == result.sentence
    used = {word for element in root.iter() for word in element.attrib.get("class", "").split()}
    style = "".join(root.itertext())
    assert {one for one in used if one.startswith("is-")} <= set(re.findall(r"is-[a-z]+", style))
    named = set(re.findall(r"var\((--[a-z-]+)", style)) - {"--mark", "--line"}
    assert named <= set(re.findall(r"(--[a-z-]+):", style)), "every colour is defined in the file"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_decides_is_shown_with_its_verdict_and_nothing_else_is():
    result = results()["resistance"]
    shown = texts(drawn(result))
    assert any(text.startswith("excess") and text.endswith("pass") for text in shown)
    assert "raw, as in the paper" in shown
    raw = seed_interval([row["raw"] for row in result.per_seed.values()], 0.9)
    assert f"{number(raw.value)} [{number(raw.low)}, {number(raw.high)}]" in shown


def test_safe_rlhf_is_drawn_in_the_plane_of_harm_and_help():
    result = results()["safe-rlhf"]
    root = ElementTree.fromstring(standalone(drawn(result)))
    dots = {
        title.text.split(":")[0]: dot.attrib["class"]
        for dot in root.iter()
        for title in dot.findall(f"{SVG}title")
        if "dot" in dot.attrib.get("class", "")
    }
    assert dots == {"start": "dot is-baseline", "ppo": "dot is-fail", "ppo-lag": "dot is-pass"}
    assert any("at most 0.1" in text for text in texts(drawn(result)))


def test_cells_of_trees_are_differences_paired_by_seed():
    result = results()["labels"]
    rows = list(result.per_seed.values())
    a, b = ([row[f"complex/1000/{arm}/disagreement"] for row in rows] for arm in ("chain-labels", "tree"))
    found = compare_seeds(a, b, paired=True).difference
    shown = texts(drawn(result))
    assert f"{number(found.value)} [{number(found.low)}, {number(found.high)}]" in shown
    assert len([text for text in shown if text.endswith("pairs")]) == 6


def test_accuracy_is_drawn_as_gains_over_the_scalar_model():
    result = results()["accuracy"]
    gains = [row["accuracy/1500/scratch/seq2seq-soft"] - row["accuracy/1500/scratch/scalar"] for row in accuracy_rows()]
    found, shown = seed_interval(gains, 0.9), texts(drawn(result))
    at = shown.index("1500 scratch, soft")
    assert shown[at + 1] == f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"
    assert len([text for text in shown if re.match(r"\d+ (SFT|scratch), ", text)]) == 12


def test_what_was_not_attempted_or_is_not_of_this_wing_is_refused():
    result = results()["resistance"]
    with pytest.raises(EvidenceError, match="was not attempted"):
        drawn(result_of(elasticity.RESISTANCE, list(result.per_seed.values()), estimate=None, note="too dear"))
    with pytest.raises(EvidenceError, match="has no figure here"):
        drawn(result_of(elasticity.RESISTANCE, list(result.per_seed.values()), system="other"))


def test_few_seeds_are_points():
    rows = seeds(["excess", "raw"], [0.05, -0.1], n=3)
    result = result_of(elasticity.RESISTANCE, rows)
    assert math.isnan(result.estimate.low)
    root = ElementTree.fromstring(standalone(drawn(result)))
    assert not [element for element in root.iter() if "whisker" in element.attrib.get("class", "")]


def test_figures_know_every_claim_of_the_catalogue():
    from trueline.core import registry

    claims = [registry.load("claim", entry.name) for entry in registry.entries("claim")]
    own = [one for one in claims if one.measure.__module__.startswith("trueline.language")]
    assert {(one.system, one.name.removeprefix(f"{one.system}-")) for one in own} <= set(figures._FIGURES)
