"""Figures of claims for pages of documentation, drawn from their committed results and from nothing else.

    python -m trueline.language.claims.figures RESULT.json OUT.svg

What decides a claim is drawn with its verdict and against what was required; the other numbers are drawn with their
intervals alone, since intervals that are looked at one by one decide nothing (`secondaries` corrects them together).
Intervals are Student's t over seeds; fewer than eight seeds are points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

from markupsafe import Markup

from trueline.core.config import build
from trueline.core.files import write_text
from trueline.evidence.claim_statistics import Contrast, MeanOf
from trueline.evidence.claims import ClaimResult
from trueline.evidence.plots import IntervalRow, PlanePoint, intervals, plane, standalone
from trueline.evidence.records import Estimate, EvidenceError, Requirement
from trueline.language.claims import safe_rlhf, seq2seq
from trueline.language.claims.topology import Settings as TreeSettings
from trueline.language.claims.topology import by_cell

__all__ = ["drawn"]


def drawn(result: ClaimResult) -> Markup:
    """The figure of a claim of this wing.  Raises EvidenceError for one without a figure, or that was not attempted."""
    if result.estimate is None or not result.per_seed:
        raise EvidenceError(f"claim {result.name} was not attempted ({result.note}), so there is nothing to draw.")
    draw = _FIGURES.get((result.system, result.name.removeprefix(f"{result.system}-")))
    if draw is None:
        raise EvidenceError(f"claim {result.name} of {result.system} has no figure here. Draw those of this wing.")
    return draw(result)


# --- one for each claim ---


def _safe_rlhf(result: ClaimResult) -> Markup:
    """Both policies and their start in the plane of harm and help."""
    settings = build(safe_rlhf.Settings, result.params)
    required = Requirement(bound="at_most", threshold=settings.limit, confidence=result.acceptance.confidence)
    points = []
    for name in ("start", "ppo", "ppo-lag"):
        harm, help = (_mean(result, f"{what}/{name}") for what in ("harm", "harmless help"))
        state = "baseline" if name == "start" else required.verdict(harm.low, harm.high).value
        points.append(PlanePoint(name, harm.value, help.value, (harm.low, harm.high), (help.low, help.high), state))
    return plane(points, required, "harmful replies", "help on harmless prompts", result.sentence)


def _accuracy(result: ClaimResult) -> Markup:
    """By how many more pairs each model is right than the scalar one from the same pairs and start."""
    sizes = build(seq2seq.Sizes, result.params).pairs
    rows = [_decided(f"{min(sizes)} {_STARTS['sft']}, {_READINGS['seq2seq-hard']}", result)]
    for n, start, name in product(sizes, _STARTS, _READINGS):
        if (n, start, name) != (min(sizes), "sft", "seq2seq-hard"):
            label, at = f"{n} {_STARTS[start]}, {_READINGS[name]}", f"accuracy/{n}/{start}"
            rows.append(_row(label, result, f"{at}/{name}", f"{at}/scalar"))
    return intervals(rows, result.acceptance, "of pairs more than the scalar model", result.sentence)


# Short, as a label shares its line with a verdict and three numbers.
_STARTS: Mapping[str, str] = {"sft": "SFT", "scratch": "scratch"}
_READINGS: Mapping[str, str] = {"seq2seq-hard": "hard", "seq2seq-soft": "soft", "token-wise": "by token"}


def _win_rates(result: ClaimResult) -> Markup:
    """Of every policy over PPO with the scalar reward."""
    rows = [_decided("seq2seq", result)]
    others = [name for name in (*seq2seq.ARMS, *seq2seq.OTHERS) if name not in ("seq2seq", "scalar")]
    rows += [_row(name, result, f"win-{seq2seq.PLAIN}/{name}/scalar") for name in others]
    return intervals(rows, result.acceptance, "win rate over PPO with the scalar reward", result.sentence)


def _filler(result: ClaimResult) -> Markup:
    """Filler in the replies of every policy."""
    names = ("start", *seq2seq.ARMS, *seq2seq.OTHERS)
    rows = [_row(name, result, f"filler-{seq2seq.PLAIN}/{name}") for name in names]
    return intervals(rows, None, "filler words a reply", result.sentence)


def _trees(result: ClaimResult) -> Markup:
    """Difference of the rates at which two models disagree, at every level and size."""
    settings = build(TreeSettings, result.params)
    rows = []
    for cell in by_cell(result.per_seed, settings.control):
        found = cell.difference.difference
        label = f"{cell.level}, {cell.size} pairs"
        rows.append(IntervalRow(label, found.value, found.low, found.high, "reported"))
    none = Requirement(bound="at_least", threshold=0.0)
    return intervals(rows, none, f"disagreement, {settings.control} less tree", result.sentence)


def _elasticity(result: ClaimResult) -> Markup:
    """The trend of m* over the bases, beside the trends of the controls."""
    others = {
        "half back": "trend of half the way",
        "half back, neutral": "trend of half the way, neutral",
        "items away": "trend of items away",
        "m* per nat": "trend per nat",
    }
    rows = [_decided("m*", result), *(_row(label, result, name) for label, name in others.items())]
    return intervals(rows, result.acceptance, result.unit, result.sentence)


def _resistance(result: ClaimResult) -> Markup:
    """Forward less inverse loss, in excess and raw."""
    rows = [_decided("excess", result), _row("raw, as in the paper", result, "raw")]
    return intervals(rows, result.acceptance, "nats a token, forward less inverse", result.sentence)


_FIGURES: Mapping[tuple[str, str], Callable[[ClaimResult], Markup]] = {
    ("safe-rlhf", "safe-rlhf"): _safe_rlhf,
    ("seq2seq-rm", "accuracy"): _accuracy,
    ("seq2seq-rm", "policy"): _win_rates,
    ("seq2seq-rm", "length"): _filler,
    ("tree-rm", "structure"): _trees,
    ("tree-rm", "labels"): _trees,
    ("tree-rm", "tokens"): _trees,
    ("elasticity", "elasticity"): _elasticity,
    ("elasticity", "resistance"): _resistance,
}


# --- numbers ---


def _mean(result: ClaimResult, name: str, less: str | None = None) -> Estimate:
    """Mean over seeds of a number, or of what it is more than another; seeds where it is nan or infinite left out."""
    statistic = MeanOf(name) if less is None else Contrast((name,), less)
    return statistic(list(result.per_seed.values()), result.acceptance.interval_confidence())


def _row(label: str, result: ClaimResult, name: str, less: str | None = None) -> IntervalRow:
    found = _mean(result, name, less)
    return IntervalRow(label, found.value, found.low, found.high, "reported")


def _decided(label: str, result: ClaimResult) -> IntervalRow:
    """What the claim is decided by, with its state."""
    assert result.estimate is not None
    found = result.estimate
    return IntervalRow(
        label, found.value, found.low, found.high, result.acceptance.verdict(found.low, found.high).value
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the figure of one result."""
    parser = argparse.ArgumentParser(prog="python -m trueline.language.claims.figures")
    parser.add_argument("result", type=Path, help="JSON file of a claim's result")
    parser.add_argument("out", type=Path, help="SVG file to write")
    given = parser.parse_args(arguments)
    write_text(given.out, standalone(drawn(ClaimResult.from_json(given.result.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
