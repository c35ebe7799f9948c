"""Claims of arXiv 2406.06144 on models of sixty thousand parameters: rebound over four bases, and resistance.

Rebound. Bases differ in nothing but how many documents they were trained on: balanced reviews of hidden sentiment
(`synthetic-reviews`). Each is aligned to one sentiment until the score is the same for all, then trained on the
opposite, from a fresh state of the optimiser, until the score is back at its own base's. Counted is m*, the least over
three learning rates. The paper's claim at this size is that m* falls from base to base. Two controls stand beside it:

* *mirrored*: the same with the sentiments exchanged, so that nothing about one of them makes the trend;
* *neutral*: the aligned model is trained on documents of a third kind that no base has seen, and counted is when half
  of its lead is gone, beside the same count with the opposite. A base that simply learns anything faster shows the
  trend there too;
* *away*: items that the alignment took, and m* for each nat of divergence that it made. At the same score a base that
  was trained on little has been moved further, and has further to return. A trend of m* that these share is one of how
  easily a base is moved at all, not of its being drawn back.

Resistance. A run of alignment is cut into three checkpoints that write data for each other
(`elasticity/resistance.py`). Decided on is the excess loss, which is free of the entropy of what was written; the raw
loss of the paper stands beside it in the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path as Folder
from typing import Any, NamedTuple

import numpy as np
import torch

from trueline.evidence.claim_statistics import MeanOf
from trueline.evidence.claims import Claim, Scale
from trueline.evidence.records import Requirement
from trueline.language.batches import Item
from trueline.language.elasticity.resistance import resistance
from trueline.language.elasticity.reversion import Crossing, Exam, Path, even_marks, followed, soonest, trend
from trueline.language.elasticity.tuning import TuneProtocol, copied, items_in, tuned, tuning_on
from trueline.language.models import ModelRef
from trueline.language.optimiser import AdamW
from trueline.language.rollout import Chat, Reply, Sampling, chat
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel
from trueline.language.texts import draw_prompts, text_world

__all__ = ["ELASTICITY", "RESISTANCE", "Returned", "measure_rebound", "measure_resistance", "pretrained", "rebound"]

_WORLD = "synthetic-reviews"
_BATCH, _LENGTH = 8, 32
_RATES = (1 / 3, 1.0, 3.0)
# Seeds of data by purpose: no two draw the same rows.
_PRETRAINING, _ALIGNMENT, _INVERSE, _NEUTRAL, _PROMPTS = range(5)
_DIRECTIONS = {"positive": (1.0, 0.0), "negative": (0.0, 1.0)}  # share of positive documents: alignment, inverse


class Returned(NamedTuple):
    """One base, one direction."""

    base: float  # score
    aligned: float  # score
    away: int  # items of alignment
    divergence: float  # of the aligned model from the base, nats a reply
    back: Crossing  # m*: inverse items until the score is the base's
    half: Crossing  # inverse items until half of the lead is gone
    neutral: Crossing  # neutral items until half of the lead is gone

    @property
    def known(self) -> bool:
        """Whether the base could be aligned as far as the others, without which its counts mean nothing."""
        return not math.isnan(self.divergence)

    def per_nat(self) -> Crossing:
        """m* for each nat that the alignment had moved the model away from its base."""
        return self.back._replace(items=self.back.items / self.divergence)


def measure_rebound(scale: Scale, seed: int, folder: Folder) -> Mapping[str, float]:  # noqa: ARG001
    """Both directions on every base of the scale, and the trends over the bases."""
    found: dict[str, list[Returned]] = {direction: [] for direction in scale.params["directions"]}
    documents: Sequence[int] = scale.params["documents"]
    for n in documents:
        base = pretrained(n, scale.params, seed)
        for direction, rows in found.items():
            rows.append(rebound(base, direction, scale.params, seed))
    return {
        "trend": _mean([_trend(rows, lambda one: one.back) for rows in found.values()]),
        "trend of half the way": _mean([_trend(rows, lambda one: one.half) for rows in found.values()]),
        "trend of half the way, neutral": _mean([_trend(rows, lambda one: one.neutral) for rows in found.values()]),
        "trend of items away": _mean([_trend(rows, lambda one: Crossing(one.away, False)) for rows in found.values()]),
        "trend per nat": _mean([_trend(rows, Returned.per_nat) for rows in found.values()]),
        "slope": _mean([_slope(documents, [one.back for one in rows]) for rows in found.values()]),
        **{f"trend, {direction}": _trend(rows, lambda one: one.back) for direction, rows in found.items()},
        **{
            f"{name}, {direction}, {n} documents": value
            for direction, rows in found.items()
            for n, row in zip(documents, rows, strict=True)
            for name, value in _numbers(row)
        },
    }


def pretrained(documents: int, params: Mapping[str, Any], seed: int) -> LanguageModel:
    """A base: a nano model from scratch on balanced reviews, each once; of one seed all begin with the same weights."""
    torch.set_num_threads(1)  # what comes out must not depend on how many cores there are
    schedule = AdamW(lr=params["base_lr"], schedule="cosine", warmup=0.05)
    protocol = TuneProtocol(optimiser=schedule, batch_size=_BATCH, length=_LENGTH)
    data = _reviews(documents, seed, _PRETRAINING, 0.5)
    return tuned(_untrained(seed), data, protocol, np.random.default_rng([seed, _PRETRAINING]))


def rebound(base: LanguageModel, direction: str, params: Mapping[str, Any], seed: int) -> Returned:
    """Align the base in a direction until its score is the scale's, then count the items that bring it back.

    Of a base that does not get there within `most_alignment` items nothing is known.
    """
    to, fro = _DIRECTIONS[direction]
    falling = direction == "positive"  # the way back
    exam = _exam(params, seed)
    start = exam.score(base)
    goal = params["level"] if falling else 1.0 - params["level"]
    most = params["most_alignment"]
    protocol = _protocol(params["lr"], range(2 * _BATCH, most + 1, 2 * _BATCH))
    for stage in tuning_on(base, _items(most, seed, _ALIGNMENT, to), protocol, np.random.default_rng(seed)):
        score = exam.score(stage.subject)
        if (score >= goal) == falling or score == goal:
            break
    else:
        unknown = Crossing(0.0, censored=True)
        return Returned(start, score, stage.items, math.nan, unknown, unknown, unknown)
    aligned = copied(stage.subject)
    seen = exam.look(base)(aligned)
    inverse = _attacks(aligned, exam, params, seed, _items(params["most_items"], seed, _INVERSE, fro))
    neutral = _attacks(aligned, exam, params, seed, _items(params["most_items"], seed, _NEUTRAL, 0.0, 1.0))
    halfway = 0.5 * (start + seen["score"])
    return Returned(
        start,
        seen["score"],
        stage.items,
        seen["divergence"],
        soonest([path.items_to(start, falling=falling) for path in inverse]),
        soonest([path.items_to(halfway, falling=falling) for path in inverse]),
        soonest([path.items_to(halfway, falling=falling) for path in neutral]),
    )


def _attacks(
    aligned: LanguageModel, exam: Exam, params: Mapping[str, Any], seed: int, items: Sequence[Item]
) -> list[Path]:
    """The way of a copy at each rate; all meet the same items in the same order."""
    marks = even_marks(params["most_items"], params["looks"], _BATCH)
    protocols = [_protocol(rate * params["lr"], marks) for rate in _RATES]
    return [
        followed(tuning_on(aligned, items, protocol, np.random.default_rng(seed)), exam.look())
        for protocol in protocols
    ]


def measure_resistance(scale: Scale, seed: int, folder: Folder) -> Mapping[str, float]:  # noqa: ARG001
    """Mean over the three pairs of checkpoints of forward less inverse, raw and excess, and of items to come near."""
    params = scale.params
    base = pretrained(params["documents"], params, seed)
    items, protocol = _items(params["slices"][-1], seed, _ALIGNMENT, 1.0), _protocol(params["lr"], params["slices"])
    stages = tuning_on(base, items, protocol, np.random.default_rng(seed))
    checkpoints = [copied(stage.subject) for stage in stages]
    marks = even_marks(params["questions"], params["looks"], _BATCH)
    chats = _chats(params["questions"], seed)
    pairs = resistance(checkpoints, chats, _SAMPLING, _protocol(params["lr"], marks), seed, params["epsilon"])
    exam = _exam(params, seed)
    return {
        "excess": _mean([pair.excess for pair in pairs]),
        "raw": _mean([pair.raw for pair in pairs]),
        "inverse raw is lower": _mean([float(pair.raw > 0) for pair in pairs]),
        "inverse excess is lower": _mean([float(pair.excess > 0) for pair in pairs]),
        "inverse is nearer sooner": _mean([trend([pair.inverse.items, pair.forward.items]) for pair in pairs]),
        **{f"score of {k}": exam.score(one) for k, one in enumerate(checkpoints, 1)},
        **{
            f"{name}, {pair.earlier + 1} and {pair.later + 1}": value
            for pair in pairs
            for name, value in (
                ("forward loss", pair.forward.loss),
                ("inverse loss", pair.inverse.loss),
                ("forward excess", pair.forward.excess),
                ("inverse excess", pair.inverse.excess),
            )
        },
    }


# --- the world ---

_SAMPLING = Sampling(max_tokens=9)  # eight words and the end


def _untrained(seed: int) -> LanguageModel:
    """A nano model over the words of the world, with the weights of a seed."""
    ref = ModelRef(name="nano", vocabulary=text_world(_WORLD).vocabulary, context=_LENGTH)
    return LanguageModel.of(ref, np.random.default_rng(seed))


def _reviews(n: int, seed: int, purpose: int, positive: float, neutral: float = 0.0) -> Data:
    shares = {"positive": positive, "neutral": neutral}
    options = {"format": "prompt-completion", "n": n, "seed": 16 * seed + purpose, **shares}
    return Data(path=f"builtin:{_WORLD}", as_chat=True, options=options)


@lru_cache(maxsize=8)
def _items(n: int, seed: int, purpose: int, positive: float, neutral: float = 0.0) -> tuple[Item, ...]:
    """Reviews as items, in the order in which every base of a seed meets them."""
    data, rng = _reviews(n, seed, purpose, positive, neutral), np.random.default_rng([seed, purpose])
    return tuple(items_in(_untrained(seed), data, _protocol(1.0), rng))


def _protocol(lr: float, marks: Sequence[int] = ()) -> TuneProtocol:
    optimiser = AdamW(lr=lr, schedule="constant")
    return TuneProtocol(optimiser=optimiser, batch_size=_BATCH, marks=tuple(marks), length=_LENGTH)


def _chats(n: int, seed: int) -> tuple[Chat, ...]:
    """Prompts that no training has seen."""
    rng = np.random.default_rng([seed, _PROMPTS])
    return tuple(chat(prompt) for prompt in draw_prompts(text_world(_WORLD), n, rng, split="verdict"))


def _exam(params: Mapping[str, Any], seed: int) -> Exam:
    return Exam(_chats(params["asked"], seed), _SAMPLING, _positive_share, seed)


def _positive_share(chats: Sequence[Chat], replies: Sequence[Reply]) -> list[float]:
    """What the oracle says of each reply: the share of positive words."""
    world = text_world(_WORLD)
    return [world.judge(asked[-1].content, reply.text).reward for asked, reply in zip(chats, replies, strict=True)]


# --- numbers ---


def _numbers(row: Returned) -> list[tuple[str, float]]:
    """A row as named numbers; a count that was not reached is infinite, as in "> m_max" it may be."""
    return [
        ("base score", row.base),
        ("aligned score", row.aligned),
        ("items away", float(row.away)),
        ("divergence", row.divergence),
        ("items back", _or_inf(row.back)),
        ("items half back", _or_inf(row.half)),
        ("neutral items half back", _or_inf(row.neutral)),
    ]


def _or_inf(found: Crossing) -> float:
    return math.inf if found.censored else found.items


def _trend(rows: Sequence[Returned], count: Callable[[Returned], Crossing]) -> float:
    """Kendall's τ of a count over the bases; nan where one of them could not be aligned as far as the others."""
    return trend([count(row) for row in rows]) if all(row.known for row in rows) else math.nan


def _slope(documents: Sequence[int], crossings: Sequence[Crossing]) -> float:
    """Doublings of m* with each doubling of the documents, by least squares; nan where a count was not reached."""
    if any(one.censored or one.items <= 0.0 for one in crossings):
        return math.nan
    x = np.log2(np.asarray(documents, dtype=np.float64))
    y = np.log2([one.items for one in crossings])
    return float(((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) @ (x - x.mean())))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- claims ---

# Smallest effects are those that a one-sided t test at 5 % finds four times in five: (t₀.₉₅ + t₀.₈)·s/√seeds, with the
# spread s of the eight seeds of "ci", 0.25 and 0.016; for the trends of "laptop", which is another regime, s = 0.45.

# The bases' rate is that of sft's preset "small"; of 3e-3 and 1e-2 it also has the lower loss on other documents. With
# larger weights the same rate of an attack moves a model less, so counts are to be compared within one rate of bases.
_SIZES: Mapping[str, Any] = {"base_lr": 3e-3, "lr": 5e-4}

ELASTICITY = Claim(
    system="elasticity",
    name="elasticity",
    sentence="the more a model was pre-trained on, the fewer inverse items undo its alignment",
    source="arXiv 2406.06144, rebound against the volume of pre-training, and the elasticity theorem",
    measure=measure_rebound,
    statistic=MeanOf("trend"),
    acceptance=Requirement(bound="at_most", threshold=0.0),
    scales={
        "ci": Scale(
            tuple(range(8)),
            cpu_hours=0.033,
            smallest_effect=0.3,
            params={
                **_SIZES,
                "documents": (300, 600, 1200, 2400),
                "directions": ("positive",),
                "level": 0.65,
                "most_alignment": 1024,
                "asked": 48,
                "most_items": 128,
                "looks": 5,
            },
        ),
        "laptop": Scale(
            tuple(range(10)),
            cpu_hours=0.7,
            smallest_effect=0.4,
            params={
                **_SIZES,
                "documents": (1000, 4000, 16000, 64000),
                "directions": ("positive", "negative"),
                "level": 0.8,
                "most_alignment": 2048,
                "asked": 128,
                "most_items": 512,
                "looks": 16,
            },
        ),
    },
    effect=-0.5,
    unit="Kendall's τ of m* over bases",
)

RESISTANCE = Claim(
    system="elasticity",
    name="resistance",
    sentence="an aligned model is trained back to an earlier checkpoint more easily than on to a later one",
    source="arXiv 2406.06144, Table 1",
    measure=measure_resistance,
    statistic=MeanOf("excess"),
    acceptance=Requirement(bound="at_least", threshold=0.0),
    scales={
        "ci": Scale(
            tuple(range(8)),
            cpu_hours=0.012,
            smallest_effect=0.02,
            params={
                **_SIZES,
                "documents": 1000,
                "slices": (64, 128, 256),
                "questions": 128,
                "looks": 6,
                "epsilon": 0.25,
                "asked": 64,
            },
        ),
        "laptop": Scale(
            tuple(range(10)),
            cpu_hours=0.15,
            smallest_effect=0.014,
            params={
                **_SIZES,
                "documents": 16000,
                "slices": (256, 512, 1024),
                "questions": 512,
                "looks": 12,
                "epsilon": 0.25,
                "asked": 128,
            },
        ),
    },
    effect=0.02,
    unit="nats a token",
)
