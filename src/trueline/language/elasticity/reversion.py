"""Rebound: how many items of inverse data bring an aligned model back, and how far from its base it is on the way.

Items to revert, m*, is the count of inverse items after which a score is back at the base's. Between two looks it is
interpolated on the scale of √m; a score that does not come back within m_max items gives "> m_max", never a number.
Since m* moves with the learning rate by an order of magnitude, an attacker chooses among several rates and the least of
the counts is what is reported.

A ratio of items back to items away is no evidence of anything: for a single logit that nothing was ever taught, it is
0.65, 0.42, 0.30 and 0.19 at aligned scores of 0.70, 0.84, 0.90 and 0.95. What would be is m* becoming less from base to
base as they were trained on more, and doing so at the same aligned score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from trueline.core.errors import ConfigError, Diverged
from trueline.language.elasticity.tuning import Stage
from trueline.language.rollout import Chat, Reply, Rollout, Sampling
from trueline.language.sampler import Auto, replies_of
from trueline.language.subject import LanguageModel

__all__ = [
    "Crossing",
    "Exam",
    "Look",
    "Path",
    "divergence",
    "even_marks",
    "followed",
    "items_to",
    "soonest",
    "trend",
    "value_at",
]

_NUMBERS_AT_ONCE = 1 << 26  # logits of a forward pass that only reads


# --- items to a level ---


class Crossing(NamedTuple):
    """After how many items a level was reached; where it was not, `items` is how many were tried."""

    items: float
    censored: bool

    def __str__(self) -> str:
        """As it is to be read."""
        return f"> {self.items:g}" if self.censored else f"{self.items:.1f}"


def items_to(level: float, items: Sequence[float], values: Sequence[float], falling: bool = True) -> Crossing:
    """First count at which `values` [M] at `items` [M] fall (or rise) to `level`, linear in √m between looks.

    0 where the first value is there already. Looks without a value (nan) are passed over.
    """
    sign = 1.0 if falling else -1.0
    seen = [(m, sign * (value - level)) for m, value in zip(items, values, strict=True) if not math.isnan(value)]
    before, above = 0.0, math.inf
    for m, height in seen:
        if height <= 0.0:
            share = above / (above - height) if math.isfinite(above) else 1.0
            root = math.sqrt(before) + share * (math.sqrt(m) - math.sqrt(before))
            return Crossing(min(root**2, float(m)), censored=False)
        before, above = m, height
    return Crossing(float(items[-1]), censored=True)


def soonest(crossings: Sequence[Crossing]) -> Crossing:
    """The attacker's choice: the least count that reached the level, or "> m_max" where none did."""
    reached = [crossing for crossing in crossings if not crossing.censored]
    return min(reached) if reached else max(crossings)


def trend(crossings: Sequence[Crossing]) -> float:
    """Kendall's τ of counts against their order, in [-1, 1]: below 0 where later ones are reached sooner.

    "> m" is more than any count up to m; it is neither more nor less than a higher count or another "> m".
    """
    pairs = [(one, other) for j, other in enumerate(crossings) for one in crossings[:j]]
    return sum(_more(other, one) - _more(one, other) for one, other in pairs) / len(pairs) if pairs else math.nan


def _more(one: Crossing, other: Crossing) -> bool:
    """Whether `one` is known to be the greater count."""
    if other.censored:
        return False
    return one.items >= other.items if one.censored else one.items > other.items


def even_marks(most: int, points: int, batch_size: int = 8) -> tuple[int, ...]:
    """Counts from 0 to `most` that are whole batches and even on the scale of √m; fewer where batches coincide."""
    batches = math.ceil(most / batch_size)
    steps = {round(batches * (j / points) ** 2) for j in range(points + 1)}
    return tuple(min(step * batch_size, most) for step in sorted(steps))


# --- what is looked at on the way ---

Look = Callable[[LanguageModel], Mapping[str, float]]


def value_at(item: float, items: Sequence[float], values: Sequence[float]) -> float:
    """What `values` [M] at `items` [M] are at a count between looks, linear in √m; nan where a look beside it is."""
    after = next((i for i, m in enumerate(items) if m >= item), len(items) - 1)
    before = max(after - 1, 0)
    low, high = math.sqrt(items[before]), math.sqrt(items[after])
    share = (math.sqrt(item) - low) / (high - low) if high > low else 1.0
    return values[after] if share == 1.0 else values[before] + share * (values[after] - values[before])


@dataclass(frozen=True, slots=True)
class Path:
    """What was seen at each look of one training."""

    items: tuple[int, ...]  # [M]
    tokens: tuple[int, ...]  # [M]: learnt until then
    gradient: tuple[float, ...]  # [M]: sum of gradient norms until then
    values: Mapping[str, tuple[float, ...]]  # each [M]

    def items_to(self, level: float, value: str = "score", falling: bool = True) -> Crossing:
        """`items_to` of one of the values."""
        return items_to(level, self.items, self.values[value], falling)


def followed(stages: Iterator[Stage], look: Look) -> Path:
    """Everything `look` sees of the stages.

    A training that diverges ends there: a model that can no longer be computed was broken, not brought back.
    """
    seen: list[tuple[Stage, Mapping[str, float]]] = []
    try:
        seen.extend((stage, look(stage.subject)) for stage in stages)
    except Diverged:
        if not seen:
            raise
    names = seen[0][1] if seen else {}
    return Path(
        tuple(stage.items for stage, _ in seen),
        tuple(stage.tokens for stage, _ in seen),
        tuple(stage.gradient for stage, _ in seen),
        {name: tuple(values[name] for _, values in seen) for name in names},
    )


@dataclass(frozen=True, slots=True)
class Exam:
    """Questions, how they are answered, and what a reply is worth; the same luck at every sitting, for smooth paths."""

    chats: tuple[Chat, ...]
    sampling: Sampling
    judge: Callable[[Sequence[Chat], Sequence[Reply]], Sequence[float]]  # a number for each reply, nan where missing
    seed: int

    def answers(self, subject: LanguageModel) -> Rollout:
        """A reply to each question."""
        return Auto().sample(subject, self.chats, self.sampling, np.random.default_rng(self.seed))

    def score(self, subject: LanguageModel, rollout: Rollout | None = None) -> float:
        """Mean over replies of the judge's number; those without one are left out, nan where all are.

        nan too for a model whose probabilities are no longer numbers: a training broke it.
        """
        rollout = self.answers(subject) if rollout is None else rollout
        if not bool(rollout.log_prob.isfinite().all()):
            return math.nan
        numbers = np.asarray(self.judge(self.chats, replies_of(rollout, subject, self.sampling)), dtype=np.float64)
        kept = numbers[~np.isnan(numbers)]
        return float(kept.mean()) if len(kept) else math.nan

    def look(self, base: LanguageModel | None = None) -> Look:
        """The score, and with a base the divergence from it on the same replies: "score" and "divergence"."""

        def seen(subject: LanguageModel) -> dict[str, float]:
            rollout = self.answers(subject)
            values = {"score": self.score(subject, rollout)}
            return values if base is None else values | {"divergence": divergence(subject, base, rollout)}

        return seen


@torch.inference_mode()
def divergence(subject: LanguageModel, base: LanguageModel, rollout: Rollout) -> float:
    """Mean over the subject's replies of Σ_t KL(π(· | y_<t) ‖ π_base(· | y_<t)), nats a reply, at temperature 1.

    Its expectation over replies drawn at temperature 1 is KL(π ‖ π_base) of whole replies, and summing each step's
    divergence over all tokens is less noisy than the log-ratio of the one that was drawn. Raises ConfigError for models
    whose tokens differ.
    """
    if subject.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise ConfigError("the base and the subject have different tokenizers. Give the model the subject came from.")
    total, rows = 0.0, len(rollout.tokens)
    width = rollout.tokens.shape[1] * len(subject.tokenizer)
    at_once = max(1, _NUMBERS_AT_ONCE // width)
    for at in range(0, rows, at_once):
        tokens, sampled = rollout.tokens[at : at + at_once], rollout.sampled[at : at + at_once, 1:]
        log_p, log_q = (_log_prob(model, tokens).to(tokens.device) for model in (subject, base))
        # Tokens that cannot come up add nothing, even where the base rules them out as well.
        step = torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0).sum(dim=-1)
        total += float(torch.where(sampled, step, 0.0).double().sum())
    return total / rows


def _log_prob(subject: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """log π(· | tokens before t) for t from 1 on, [R, L - 1, V]."""
    model = subject.model
    was_training = model.training
    model.eval()
    logits = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1]
    model.train(was_training)
    return logits.float().log_softmax(dim=-1)
