"""Language models side by side, on prompts that none was trained on: who wins, how they reply, what a proxy is worth.

    python -m trueline.language.audits.comparison RUN RUN … [KEY=VALUE …] [--root FOLDER]

Every model is asked the same prompts and set beside the first: win rate and difference of reward by a judge that none
of them was trained to please. With a `proxy`, what trained them, each is a point on the curve of gold and proxy reward
against the divergence from the first, which should be what they began with; and the best of n of the first model's
replies, n = 1, 2, 4, …, are the points that choosing alone would reach (Gao, Schulman & Hilton 2023).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from trueline.core.config import build
from trueline.core.errors import ConfigError, TruelineError
from trueline.core.run import resolve
from trueline.core.subject import Subject, load_subject
from trueline.evidence.records import Estimate
from trueline.language.audits.replies import REFUSALS, Examination, ReplyAudit, fitting, refuses
from trueline.language.evaluation import (
    Answers,
    Array,
    OptimisationPoint,
    ReplyStatistics,
    WinRate,
    answered,
    best_of_n_curve,
    difference,
    optimisation_point,
    reply_statistics,
    rollout_of,
    values_of,
    win_rate,
)
from trueline.language.rollout import Reply, chat, text_of
from trueline.language.scorers import Function, Judged, Scoring, opened, referred, refuse_columns
from trueline.language.subject import LanguageModel

__all__ = ["Comparing", "Comparison", "compared", "main"]


class Comparing(ReplyAudit):
    """Settings of a comparison.  `path` names the prompts, `judge` who decides; both as in audits."""

    prompts: int = Field(200, ge=2)
    replies: int = Field(1, ge=1)  # of each model to each prompt
    proxy: tuple[Scoring, ...] = ()  # what the models were trained by, its models as run://ID; none: no curve
    seed: int = Field(0, ge=0)


class Comparison(NamedTuple):
    """What came out, by the models' names; points in their order, the first at no divergence from itself."""

    statistics: dict[str, ReplyStatistics]
    won: dict[str, WinRate]  # over the first model
    better: dict[str, Estimate]  # mean reward less that of the first model
    points: tuple[OptimisationPoint, ...] = ()
    best_of_n: tuple[OptimisationPoint, ...] = ()  # of the first model's replies


def compared(models: Mapping[str, LanguageModel], settings: Comparing) -> Comparison:
    """Compares two models or more with the first.

    Raises ConfigError for fewer, and for prompts of several turns; NotMeasurable and EvidenceError as audits do, for a
    judge that says nothing of help or that a model was trained to please.  ConfigError as well for a judge or a proxy
    that wants columns of data.
    """
    if len(models) < 2:
        raise ConfigError(f"{len(models)} model cannot be compared. Name two or more.")
    at, (first, *others) = Examination(settings), models
    for model in models.values():
        at.check_judge(model, "verdict", reward=True)
    for one in settings.proxy:
        if isinstance(one, Function):  # told before replies are drawn
            refuse_columns(one.made(), f"the proxy {one.name!r}")
    prompts = _prompts(at, models, settings)

    def gold(asked: Sequence[str], replies: Sequence[Reply]) -> list[float]:
        return [one.reward for one in at.assess([chat(prompt) for prompt in asked], replies)]

    def refused(prompt: str, reply: str) -> bool:
        return at.world.judge(prompt, reply).refused if at.world is not None else refuses(reply, REFUSALS)

    # Each from the start of one stream: what differs between two models is not their luck.
    said = {
        name: answered(model, prompts, settings.sampling, np.random.default_rng(settings.seed), settings.replies)
        for name, model in models.items()
    }
    worth = {name: values_of(answers, gold) for name, answers in said.items()}
    bounds, confidence = at.facts.reward_bounds, settings.confidence
    most = settings.sampling.max_tokens
    found = Comparison(
        {name: reply_statistics(answers, most, refused, confidence) for name, answers in said.items()},
        {name: win_rate(worth[name], worth[first], confidence) for name in others},
        {name: difference(worth[name], worth[first], bounds, confidence) for name in others},
    )
    if not settings.proxy:
        return found
    inputs = referred(settings.proxy, {}, settings.root)
    points = tuple(
        optimisation_point(
            model, models[first], prompts, settings.proxy, gold, settings.sampling,
            np.random.default_rng(settings.seed), inputs=inputs, per_prompt=settings.replies, gold_bounds=bounds,
            confidence=confidence, label=name,
        )
        for name, model in models.items()
    )  # fmt: skip
    chosen = _proxy(models[first], said[first], settings, inputs)
    ns = [2**k for k in range(int(math.log2(settings.replies)) + 1)]
    return found._replace(points=points, best_of_n=tuple(best_of_n_curve(chosen, worth[first], ns, bounds, confidence)))


def _prompts(at: Examination, models: Mapping[str, LanguageModel], settings: Comparing) -> list[str]:
    """Held-out prompts of one turn that leave every model room to reply."""
    rng = np.random.default_rng(settings.seed)
    drawn = [one.chat for one in at.draw(settings.prompts, rng, "verdict", 0, settings.kinds)]
    if any(len(one) > 1 or one[0].role != "user" for one in drawn):
        raise ConfigError(f"{at.prompts.name} has prompts of several turns. Compare on prompts of one.")
    fits = np.all([fitting(model, drawn) for model in models.values()], axis=0)
    return [text_of(one) for one, fit in zip(drawn, fits, strict=True) if fit]


def _proxy(model: LanguageModel, said: Answers, settings: Comparing, inputs: Mapping[str, Subject]) -> Array:
    """What the proxy gives each reply, nan where it gives nothing: [P, n]."""
    texts, ended = [reply.text for reply in said.replies], [reply.ended for reply in said.replies]
    rollout = rollout_of(model, said.asked, texts, ended)
    scorer = opened(settings.proxy, Judged(model, settings.sampling), inputs)
    scores = scorer.score(rollout, np.random.default_rng(settings.seed))
    reward = scores.reward.sum(dim=1).double().masked_fill(scores.missing, math.nan)
    return reward.cpu().numpy().reshape(len(said.prompts), said.per_prompt)


# --- as a command ---


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the comparison of runs."""
    parser = argparse.ArgumentParser(prog="python -m trueline.language.audits.comparison")
    parser.add_argument("given", nargs="+", metavar="RUN|KEY=VALUE", help="two runs or more, and settings")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder that holds the runs")
    told = parser.parse_args(arguments)
    try:
        settings = build(Comparing, {"root": str(told.root)}, [x for x in told.given if "=" in x], where="comparison")
        models = {name: _model(name, told.root) for name in told.given if "=" not in name}
        print("\n".join(_lines(compared(models, settings))))
    except TruelineError as error:
        parser.exit(1, f"{error}\n")


def _model(name: str, root: Path) -> LanguageModel:
    found = load_subject(resolve(name, root))
    if not isinstance(found, LanguageModel):
        raise ConfigError(f"{name} is a {found.kind!r}. Name runs of language models.")
    return found


def _lines(found: Comparison) -> list[str]:
    lines = []
    for name, one in found.statistics.items():
        refused = "" if one.refused is None else f", refused {one.refused.words()}"
        lines.append(f"{name}: {one.length.words()} tokens, cut {one.cut.words()}, empty {one.empty.words()}{refused}")
    first = next(iter(found.statistics))
    for name, won in found.won.items():
        lines.append(
            f"{name} over {first}: wins {won.estimate.words()} ({won.wins:.3g} better, {won.ties:.3g} equal, "
            f"{won.missing} prompts not judged), reward {found.better[name].words()} more"
        )
    for what, points in (("", found.points), (f"{first}, best of ", found.best_of_n)):
        for point in points:
            at_most = "at most " if what else ""
            kl = f"{point.kl.value:.3g}" if what else point.kl.words()
            lines.append(
                f"{what}{point.label}: divergence {at_most}{kl} nats, proxy {point.proxy.words()}, "
                f"gold {point.gold.words()}"
            )
    return lines


if __name__ == "__main__":
    main()
