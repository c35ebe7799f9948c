"""The first claim: how well reward models order pairs that they have not seen, and which words they blame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from trueline.core.config import build
from trueline.evidence.claims import Scale
from trueline.language.claims.seq2seq.laboratory import (
    OUTSIDE,
    PLAIN,
    SOFT,
    Array,
    Laboratory,
    Row,
    Sizes,
    Start,
    readings,
)
from trueline.language.evaluation import rollout_of
from trueline.language.scorers import Scoring
from trueline.language.texts.world import records

__all__ = ["Unseen", "agreed", "auc", "localisation", "measure_models", "pair_accuracy", "unseen_pairs"]


def pair_accuracy(better: ArrayLike, worse: ArrayLike) -> float:
    """Share of pairs whose better reply scores higher, ties ½.  [n], [n]; nan for no pairs."""
    gap = np.asarray(better, dtype=np.float64) - np.asarray(worse, dtype=np.float64)
    return float((np.sign(gap) / 2 + 0.5).mean()) if len(gap) else math.nan


def auc(score: ArrayLike, hit: ArrayLike) -> float:
    """P(score of a hit > score of a miss) + ½·P(equal), for one of each drawn at random.  [n], [n] bool.

    nan where there are only hits or only misses.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(score, dtype=np.float64), np.asarray(hit, dtype=bool)
    hits, misses = int(y.sum()), int((~y).sum())
    if not hits or not misses:
        return math.nan
    return float((rankdata(x)[y].sum() - hits * (hits + 1) / 2) / (hits * misses))


def measure_models(scale: Scale, seed: int, folder: Path) -> Row:
    """Accuracy, localisation and agreement of every reward model, for each number of pairs and both starts."""
    sizes = build(Sizes, scale.params)
    lab, row = Laboratory(sizes, seed, folder), Row()
    tests = {kind: unseen_pairs(lab, kind) for kind in (PLAIN, *OUTSIDE)}
    for n in sizes.pairs:
        pairs = lab.pairs(n)
        starts: tuple[Start, ...] = ("sft", "scratch")
        for start in starts:
            for kind in ("scalar", "token-wise", "seq2seq"):
                model = lab.reward_model(kind, start, n, pairs)
                for name, value in _readings_of_model(lab, kind, model, tests).items():
                    part, what = name.split("/", 1)
                    row[f"{part}/{n}/{start}/{what}"] = value
        row[f"gain/{n}"] = row[f"accuracy/{n}/sft/seq2seq-hard"] - row[f"accuracy/{n}/sft/scalar"]
    row["gain"] = row[f"gain/{min(sizes.pairs)}"]
    lab.clean()
    return row


class Unseen(NamedTuple):
    """Pairs of replies that no training has seen."""

    prompts: list[str]
    better: list[str]
    worse: list[str]


def unseen_pairs(lab: Laboratory, kind: str) -> Unseen:
    """Pairs of the verdict split, in the oracle's order."""
    rng = lab.streams.rng(f"test/{kind}")
    rows = records(lab.world, "preference", lab.sizes.test_pairs, rng, "verdict", kind=kind)
    return Unseen(*([row[column] for row in rows] for column in ("prompt", "chosen", "rejected")))


def _readings_of_model(lab: Laboratory, kind: str, model: Any, tests: Mapping[str, Unseen]) -> Row:
    """What one reward model makes of the test replies, by part/reading."""
    found = Row()
    for name, scoring in readings(kind).items():
        found |= {f"{part}/{name}": x for part, x in _accuracies(lab, scoring, model, tests).items()}
        found[f"localisation/{name}"] = localisation(lab, kind, scoring, model, tests[PLAIN])
    if kind == "seq2seq":
        for where, test in tests.items():
            for side, replies in (("chosen", test.better), ("rejected", test.worse)):
                found[f"agreement-{where}/{side}"] = agreed(lab, model, test.prompts, replies)
    return found


def _accuracies(lab: Laboratory, scoring: Scoring, model: Any, tests: Mapping[str, Unseen]) -> Row:
    """On pairs of every kind; and of the better replies beside their first halves, and beside nothing."""
    found = Row()
    for where, test in tests.items():
        scores = [lab.totals(scoring, model, test.prompts, side) for side in (test.better, test.worse)]
        found["accuracy" if where == PLAIN else f"accuracy-{where}"] = pair_accuracy(*scores)
    asked, better, _ = tests[PLAIN]
    whole = lab.totals(scoring, model, asked, better)
    half = [" ".join(words[: len(words) // 2]) for words in map(str.split, better)]
    found["accuracy-truncated"] = pair_accuracy(whole, _cut_totals(lab, scoring, model, asked, half))
    found["accuracy-empty"] = pair_accuracy(whole, lab.totals(scoring, model, asked, [""] * len(asked)))
    return found


def _cut_totals(lab: Laboratory, scoring: Scoring, model: Any, prompts: Sequence[str], replies: Sequence[str]) -> Array:
    """Rewards of replies that were cut at the length limit: they have no end token."""
    rollout = rollout_of(lab.start, prompts, replies, [False] * len(replies))
    return np.asarray(lab.read(scoring, model, rollout).sum(dim=1).numpy())


def localisation(lab: Laboratory, kind: str, scoring: Scoring, model: Any, test: Unseen) -> float:
    """AUC of −r_t against the words that the oracle blames.

    A scalar model's reward of a token is by how much its score of the reply so far rises with it.
    """
    prompts, replies = [*test.prompts, *test.prompts], [*test.better, *test.worse]
    rollout = rollout_of(lab.start, prompts, replies)
    if kind == "seq2seq":
        reward = lab.read(scoring, model, rollout)
    else:
        with torch.no_grad():
            score = model(rollout.tokens)[..., 0].double()
        reward = torch.nn.functional.pad(score[:, 1:] - score[:, :-1], (1, 0))
    blame, wrong = [], []
    for r, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        said = lab.world.judge(prompt, reply).wrong
        blame.append(-reward[r, rollout.sampled[r]].numpy()[: len(said)])  # a token is a word, and the last one the end
        wrong.append(np.array(said, dtype=bool))
    return auc(np.concatenate(blame), np.concatenate(wrong))


def agreed(lab: Laboratory, model: Any, prompts: Sequence[str], replies: Sequence[str]) -> float:
    """Share of tokens that the model would have written too: its soft reward of those is 0."""
    rollout = rollout_of(lab.start, prompts, replies)
    soft = lab.read(SOFT, model, rollout)[rollout.sampled]
    return float((soft == 0.0).double().mean())
