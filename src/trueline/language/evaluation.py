"""Evaluation of language models: which of two wins, how they reply, and what optimising a proxy is worth.

    win_rate            P(A's reply is the better one) + ½·P(equal), over prompts that both were asked
    difference          mean over those prompts of A's mean value less B's
    reply_statistics    length, cuts at the length limit, empty replies, refusals
    optimisation_point  divergence from a reference, and what a proxy and a gold judge say of the same replies
    best_of_n_curve     the same two of the best of n by the proxy, for every n, from N replies to each prompt

Every interval is built on prompts: replies to one prompt are not independent. A reply that a judge could not judge has
the value nan, is left out, and is counted.

Letters of shapes: P prompts, n replies to each prompt, R = P·n replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.core.subject import Subject
from trueline.evidence.records import Estimate, EvidenceError
from trueline.evidence.statistics import asymptotic_sequence, mean_sequence, paired_difference
from trueline.language.batches import READ_AT_ONCE
from trueline.language.online import reply_log_prob
from trueline.language.rollout import Replies, Reply, Rollout, Sampler, Sampling, chat
from trueline.language.sampler import Auto, replies_of
from trueline.language.scorers import Judged, Judgement, Scoring, opened, refuse_columns
from trueline.language.scores import Scores
from trueline.language.subject import LanguageModel
from trueline.language.templates import encode_reply

__all__ = [
    "Answers",
    "Judge",
    "OptimisationPoint",
    "OptimisationWatch",
    "ReplyStatistics",
    "WinRate",
    "answered",
    "best_of_n_curve",
    "best_of_n_kl_bound",
    "best_of_n_mean",
    "difference",
    "divergence",
    "optimisation_point",
    "reply_statistics",
    "rollout_of",
    "values_of",
    "win_rate",
]

Array = NDArray[np.float64]
Bounds = tuple[float, float] | None

# What a reply is worth, or a Judgement whose reward that is; None where it cannot be told.
Judge = Callable[[Sequence[str], Sequence[Reply]], Sequence[Judgement | float | None]]
Refuses = Callable[[str, str], bool]  # (prompt, reply)


# --- replies and their values ---


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model said: the replies to the first prompt, then those to the second, …"""

    prompts: tuple[str, ...]  # P
    replies: tuple[Reply, ...]  # R = P·n

    @property
    def per_prompt(self) -> int:
        """n."""
        return len(self.replies) // len(self.prompts)

    @property
    def asked(self) -> list[str]:
        """The prompt of each reply, [R]."""
        return [prompt for prompt in self.prompts for _ in range(self.per_prompt)]


def answered(
    model: Replies, prompts: Sequence[str], sampling: Sampling, rng: np.random.Generator, per_prompt: int = 1
) -> Answers:
    """Replies of a model, each prompt asked as a user's turn.  Raises ConfigError for no prompts."""
    if not prompts or per_prompt < 1:
        raise ConfigError(
            f"{len(prompts)} prompts with {per_prompt} replies each give nothing to compare. Give one or more of both."
        )
    chats = [chat(prompt) for prompt in prompts for _ in range(per_prompt)]
    return Answers(tuple(prompts), tuple(model.reply(chats, sampling, rng)))


def values_of(answers: Answers, judge: Judge) -> Array:
    """What a judge says of each reply, nan where it says nothing: [P, n].

    Raises ConfigError for too few or many, and for a judge that wants columns of data.
    """
    refuse_columns(judge, "the judge")
    found = judge(answers.asked, answers.replies)
    if len(found) != len(answers.replies):
        raise ConfigError(
            f"the judge gave {len(found)} values for {len(answers.replies)} replies. Return one for each, None where "
            "there is none."
        )
    values = [math.nan if one is None else float(one.reward if isinstance(one, Judgement) else one) for one in found]
    return np.array(values).reshape(len(answers.prompts), answers.per_prompt)


def rollout_of(
    model: LanguageModel, prompts: Sequence[str], replies: Sequence[str], ended: Sequence[bool] | None = None
) -> Rollout:
    """Given replies as a rollout that scorers can read; log_prob is 0, for nothing was drawn.

    A reply ends with the end token unless `ended` says that it was cut.
    """
    over = [True] * len(replies) if ended is None else list(ended)
    rows = [encode_reply(model.tokenizer, chat(x), y, model.end) for x, y in zip(prompts, replies, strict=True)]
    tokens = [row.tokens if whole else row.tokens[:-1] for row, whole in zip(rows, over, strict=True)]
    width = max(map(len, tokens))
    padded = torch.full((len(rows), width), model.tokenizer.pad_token_id, dtype=torch.int64)
    attended, sampled = (torch.zeros(padded.shape, dtype=torch.bool) for _ in range(2))
    for r, (row, ids) in enumerate(zip(rows, tokens, strict=True)):
        padded[r, : len(ids)] = torch.tensor(ids)
        attended[r, : len(ids)] = True
        sampled[r, : len(ids)] = torch.tensor(row.learnt[: len(ids)])
    numbers: dict[str, int] = {}
    group = torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])
    whole = torch.tensor(over)
    return Rollout(padded, attended, sampled, torch.zeros(padded.shape), group, whole, tuple(prompts)).to(
        model.model.device
    )


# --- two models ---


class WinRate(NamedTuple):
    """How often one model's reply is better than another's to the same prompt."""

    estimate: Estimate  # of P(better) + ½·P(equal), over prompts
    wins: float  # shares of the pairs of replies, prompts weighing alike; nan where there are none
    ties: float
    losses: float
    missing: int  # prompts without a judged reply of both


def win_rate(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> WinRate:
    """Of values [P, n] and [P, m] that one judge gave the replies of two models; nan is missing.

    A prompt's share is over all pairs of a reply of the one and a reply of the other, which uses every reply and leaves
    it unbiased.  Raises EvidenceError where the two were not asked the same number of prompts.
    """
    x, y = _values(a, b)
    both = ~np.isnan(x[:, :, None] + y[:, None, :])  # [P, n, m]
    pairs, kept = both.sum(axis=(1, 2)), both.any(axis=(1, 2))

    def share(holds: NDArray[np.bool_]) -> Array:
        return np.asarray((holds & both).sum(axis=(1, 2))[kept] / pairs[kept])

    wins, ties = share(x[:, :, None] > y[:, None, :]), share(x[:, :, None] == y[:, None, :])
    estimate = mean_sequence(wins + 0.5 * ties, (0.0, 1.0), confidence)
    won, tied = (float(part.mean()) if len(part) else math.nan for part in (wins, ties))
    return WinRate(estimate, won, tied, 1.0 - won - tied, int((~kept).sum()))


def difference(a: ArrayLike, b: ArrayLike, bounds: Bounds = None, confidence: float = 0.95) -> Estimate:
    """Mean over prompts of the mean value of A's replies less that of B's.  [P, n], [P, m], nan is missing.

    bounds: of one value; without them the interval is asymptotic. Prompts without a value of both are left out.
    """
    x, y = (_prompt_means(one) for one in _values(a, b))
    kept = ~np.isnan(x + y)
    return paired_difference(x[kept], y[kept], bounds, confidence)


def _values(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    x, y = (np.asarray(one, dtype=np.float64) for one in (a, b))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise EvidenceError(
            f"values of shapes {x.shape} and {y.shape} cannot be compared. Give [prompts, replies] of the same prompts."
        )
    return x, y


def _prompt_means(values: Array) -> Array:
    """Means of the rows over what is not nan; nan where nothing is.  [P, n] -> [P]."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


# --- one model ---


class ReplyStatistics(NamedTuple):
    """How a model replies, whatever it says."""

    length: Estimate  # tokens of a reply, its end token among them
    quartiles: tuple[float, float, float]  # of that length
    cut: Estimate  # share of replies cut at the length limit
    empty: Estimate  # share without a word
    refused: Estimate | None  # share of refusals; none where nothing says what one is


def reply_statistics(
    answers: Answers, max_tokens: int, refuses: Refuses | None = None, confidence: float = 0.95
) -> ReplyStatistics:
    """Of replies of at most `max_tokens` tokens.  Intervals are betting sequences over prompts."""

    def rate(events: Sequence[bool]) -> Estimate:
        return mean_sequence(np.array(events, dtype=np.float64), (0.0, 1.0), confidence, answers.asked)

    lengths = np.array([reply.tokens for reply in answers.replies], dtype=np.float64)
    q1, q2, q3 = (float(q) for q in np.quantile(lengths, (0.25, 0.5, 0.75)))
    said = zip(answers.asked, answers.replies, strict=True)
    return ReplyStatistics(
        length=mean_sequence(lengths, (0.0, float(max_tokens)), confidence, answers.asked),
        quartiles=(q1, q2, q3),
        cut=rate([not reply.ended for reply in answers.replies]),
        empty=rate([not reply.text.strip() for reply in answers.replies]),
        refused=None if refuses is None else rate([refuses(prompt, reply.text) for prompt, reply in said]),
    )


# --- what optimising a proxy is worth ---


class OptimisationPoint(NamedTuple):
    """One policy on the curve of gold and proxy reward against the divergence (Gao, Schulman & Hilton 2023)."""

    label: str  # step, or n
    kl: Estimate  # nats per reply
    proxy: Estimate
    gold: Estimate
    missing: int  # replies that proxy or gold could not judge


def divergence(rollout: Rollout, reference: LanguageModel, temperature: float = 1.0) -> Tensor:
    """log π(y | x) − log π_ref(y | x) of each sampled reply, both at the temperature of sampling: [R].

    Its mean over replies of π is an unbiased estimate of KL(π ‖ π_ref).
    """
    found = rollout.log_prob.new_zeros(len(rollout.tokens))
    with torch.no_grad():
        for rows, width in _parts(rollout):
            sampled = rollout.sampled[rows, :width]
            beside = reply_log_prob(reference.model, rollout.tokens[rows, :width], sampled, temperature)
            found[rows] = torch.where(sampled, rollout.log_prob[rows, :width] - beside, 0.0).sum(dim=1)
    return found


def _parts(rollout: Rollout) -> Iterator[tuple[slice, int]]:
    """Rows that fit one forward pass that only reads, and how wide they are."""
    length = rollout.attended.sum(dim=1)
    at_once = max(1, READ_AT_ONCE // rollout.tokens.shape[1])
    for at in range(0, len(length), at_once):
        yield slice(at, at + at_once), int(length[at : at + at_once].max())


def optimisation_point(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[str],
    proxy: Sequence[Scoring],
    gold: Judge,
    sampling: Sampling,
    rng: np.random.Generator,
    *,
    inputs: Mapping[str, Subject] | None = None,
    per_prompt: int = 1,
    gold_bounds: Bounds = None,
    sampler: Sampler | None = None,
    confidence: float = 0.95,
    label: str = "",
) -> OptimisationPoint:
    """Samples replies of the policy, and says how far it went, what its reward became and what that is worth.

    `proxy` is what the policy was trained by, with the subjects it names in `inputs`; costs are not counted. A missing
    score of either judge leaves the reply out of both means, so that they speak of the same replies.
    """
    chats = [chat(prompt) for prompt in prompts for _ in range(per_prompt)]
    rollout = (sampler or Auto()).sample(policy, chats, sampling, rng)
    scores: Scores = opened(proxy, Judged(policy, sampling), inputs or {}).score(rollout, rng)
    answers = Answers(tuple(prompts), tuple(replies_of(rollout, policy, sampling)))
    worth = values_of(answers, gold).ravel()
    earned = scores.reward.sum(dim=1).double().cpu().numpy()
    kept = ~scores.missing.cpu().numpy() & ~np.isnan(worth)
    of_prompt = np.repeat(np.arange(len(prompts)), per_prompt)

    def mean(values: Array, rows: NDArray[np.bool_], bounds: Bounds = None) -> Estimate:
        if bounds is None:
            return asymptotic_sequence(values[rows], confidence, of_prompt[rows])
        return mean_sequence(values[rows], bounds, confidence, of_prompt[rows])

    kl = divergence(rollout, reference, sampling.temperature).double().cpu().numpy()
    return OptimisationPoint(
        label,
        mean(kl, np.ones(len(kl), dtype=bool)),
        mean(earned, kept),
        mean(worth, kept, gold_bounds),
        int((~kept).sum()),
    )


@dataclass
class OptimisationWatch:
    """The watch of a run (`Run.watch`) that measures a point at each look, and logs it.

    Every look asks the same prompts with the same random numbers, so that what differs between looks is the policy.
    The reference must be a model of its own: the policy's weights move.
    """

    reference: LanguageModel
    prompts: Sequence[str]
    proxy: Sequence[Scoring]
    gold: Judge
    sampling: Sampling
    seed: int = 0
    inputs: Mapping[str, Subject] = field(default_factory=dict)
    points: list[OptimisationPoint] = field(default_factory=list)

    def __call__(self, step: int, subject: Any) -> dict[str, float]:
        """The point of the policy as it stands."""
        rng = np.random.default_rng(self.seed)
        point = optimisation_point(
            subject, self.reference, self.prompts, self.proxy, self.gold, self.sampling, rng,
            inputs=self.inputs, label=str(step),
        )  # fmt: skip
        self.points.append(point)
        return {"look/kl": point.kl.value, "look/proxy": point.proxy.value, "look/gold": point.gold.value}


def best_of_n_kl_bound(n: int) -> float:
    """log n − (n − 1)/n, in nats: no best of n diverges more from what it chooses among.

    Often given as the divergence itself, which it is where no two replies have the same reward and each is all but
    impossible; with few replies to draw from it lies far above (Beirami et al. 2024).  Raises ConfigError for n < 1.
    """
    if n < 1:
        raise ConfigError(f"the best of {n} replies does not exist. Give n of 1 or more.")
    return math.log(n) - (n - 1) / n


def best_of_n_mean(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Mean gold value of the best of n by the proxy, over all choices of n of the N replies to a prompt.  [N], [N].

    Σ_i C(i − 1, n − 1)/C(N, n)·gold_(i), with i the rank by the proxy (Nakano et al. 2021): unbiased, and
    of less variance than drawing n. Replies that are equal by the proxy share their places.
    """
    p, g = (np.asarray(x, dtype=np.float64) for x in (proxy, gold))
    count = len(p)
    if len(g) != count or not 1 <= n <= count:
        raise EvidenceError(
            f"the best of {n} cannot be told from {count} proxy and {len(g)} gold values. Give as many of both, and no "
            "fewer than n."
        )
    weight = np.zeros(count)
    weight[-1] = n / count
    for i in range(count - 1, n - 1, -1):  # C(i − 1, n − 1) = C(i, n − 1)·(i − n + 1)/i
        weight[i - 1] = weight[i] * (i - n + 1) / i
    order = np.argsort(p, kind="stable")
    _, place = np.unique(p[order], return_inverse=True)
    shared = (np.bincount(place, weights=weight) / np.bincount(place))[place]
    return float(shared @ g[order])


def best_of_n_curve(
    proxy: ArrayLike,
    gold: ArrayLike,
    ns: Sequence[int],
    gold_bounds: Bounds = None,
    confidence: float = 0.95,
) -> list[OptimisationPoint]:
    """Points of the best of n for each n, from N replies to each prompt.  proxy, gold [P, N], nan is missing.

    `kl` is a bound and says so: its value is `best_of_n_kl_bound` and its interval reaches from 0 to that. Of prompts
    with missing values the replies that have both are used; a prompt with fewer than n of them has no part in that
    point.  Raises EvidenceError for an n that no prompt has replies for.
    """
    p, g = _values(proxy, gold)
    if p.shape != g.shape:
        raise EvidenceError(f"proxy has shape {p.shape} and gold {g.shape}. Give both values of every reply.")
    there = ~np.isnan(p + g)
    points = []
    for n in ns:
        bound = best_of_n_kl_bound(n)
        rows = [r for r in range(len(p)) if there[r].sum() >= n]
        if not rows:
            raise EvidenceError(f"no prompt has {n} judged replies. Ask for a smaller n, or draw more.")
        means = {
            name: [best_of_n_mean(p[r][there[r]], x[r][there[r]], n) for r in rows]
            for name, x in (("proxy", p), ("gold", g))
        }
        worth = (
            asymptotic_sequence(means["gold"], confidence)
            if gold_bounds is None
            else mean_sequence(means["gold"], gold_bounds, confidence)
        )
        used = int(there[rows].sum())
        points.append(
            OptimisationPoint(
                str(n),
                Estimate(bound, 0.0, bound, used, len(rows), 1.0, "upper bound: log n − (n − 1)/n"),
                asymptotic_sequence(means["proxy"], confidence),
                worth,
                int((~there).sum()),
            )
        )
    return points
