"""Sequence-to-sequence reward models (arXiv 2409.00162): what is claimed of them, tested on `cipher-reply`.

    claim      primary statistic, one number a seed                                             acceptance
    accuracy   accuracy on unseen pairs less that of the scalar model, from 300 pairs           at least 0
    policy     win rate of PPO with its rewards over PPO with the scalar reward                 at least ½
    length     filler words after PPO with the scalar reward less those after PPO with its own  at least 0

In all three both models are trained from the same fine-tuned start until the loss on held-out pairs of their own has
been lowest for as long as it took to get there, and are taken from where it was; its rewards are the paper's: the hard
rule, each token credited with what follows. Everything else that a seed measures is in its row, and `secondaries`
compares it with Holm's correction: scalar models compared token by token, models from scratch, the soft rule, total
credit (corrections L2), more pairs, prompts outside of the training distribution, empty and truncated replies, which
words are blamed, reward against length on replies that the oracle finds equal, refusals.

Beside the policies that PPO makes stand three without on-line training, from the same start and pairs: direct
preference optimisation, trained as the reward models are, and the best of eight replies of the start by either reward.
The best of eight asks its reward whenever it replies; what the others have learnt is in their weights.

What differs from the paper: models of sixty thousand parameters; a text world whose oracle is a program, where the
paper has judged dialogue and summaries; and rewards that are divided by their spread over the start's replies, so that
one weight of the divergence is the same for all. A model that has learnt nothing is then noise at full strength, and a
win over it says little: read a win rate beside the accuracy of both models and the rewards beside those of the start.
The first two claims use replies without filler and refusals; the third plants both in what is chosen.

Numbers of a row are named part/…: `accuracy/300/sft/scalar` is the share of pairs in order by the scalar model of 300
pairs from the fine-tuned start.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config, build
from trueline.core.streams import Streams
from trueline.evidence.claims import Claim, ClaimResult, Rows, Scale, mean_of
from trueline.evidence.over_seeds import Comparison, compare_seeds, holm
from trueline.evidence.records import Requirement
from trueline.language.best_of_n import BestOfN
from trueline.language.claims.statistics import smallest_effect
from trueline.language.claims.trainings import Lowest, trained
from trueline.language.evaluation import Answers, answered, rollout_of, values_of
from trueline.language.models import ModelRef
from trueline.language.online import LM_PPO, OnlinePpo
from trueline.language.recipes import DPO, REWARD_MODEL, SEQ2SEQ_RM, SFT
from trueline.language.rollout import Reply, Rollout, Sampler, Sampling, chat
from trueline.language.sampler import Auto
from trueline.language.scorers import Judged, Rewriter, ScalarModel, Scoring, opened
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.supervised import (
    FineTuning,
    PreferenceTuning,
    RewardModelling,
    RewritingModelling,
    Supervised,
    Training,
)
from trueline.language.texts.cipher_reply import FILLER, CipherReply
from trueline.language.texts.world import draw_prompts, records

__all__ = [
    "SEQ2SEQ_ACCURACY",
    "SEQ2SEQ_LENGTH",
    "SEQ2SEQ_POLICY",
    "Compared",
    "Secondary",
    "Sizes",
    "auc",
    "compared",
    "measure_models",
    "measure_policies",
    "pair_accuracy",
    "secondaries",
    "slope",
    "wins",
]

Array = NDArray[np.float64]
Start = Literal["scratch", "sft"]
Row = dict[str, float]

CONTEXT = 64  # tokens: twice the longest reply, once the longest prompt, and what stands between
HELD_OUT = 0.15  # share of a reward model's pairs that decide when it is trained enough
OUTSIDE = ("combined", "longer")  # kinds of prompts that no training has seen
PATIENCE = 20  # looks without a new lowest held-out loss, the fewest after which a training is taken to be past it
PLAIN = "plain"


class Sizes(Config):
    """How large everything is: what a scale's `params` say."""

    world: CipherReply = CipherReply()
    max_tokens: int = Field(ge=2)  # of a sampled reply
    sft_replies: int = Field(ge=1)  # replies that the start is fine-tuned on
    sft_steps: int = Field(ge=1)
    pairs: tuple[int, ...]  # of a reward model's training
    model_steps: int = Field(ge=1)  # of a training that looks for its lowest held-out loss, at most
    looks: int = Field(100, ge=1)  # at the held-out loss: many, as 300 pairs are learnt by heart in fifty steps
    test_pairs: int = Field(ge=2)  # of each kind
    policy_steps: int = Field(0, ge=0)
    policy_prompts: int = Field(0, ge=0)  # that a policy learns from
    test_prompts: int = Field(0, ge=0)  # of each kind that policies are compared on
    kl: float = Field(0.05, ge=0)  # weight of the divergence, of rewards with a spread of 1


# --- what is counted ---


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


def slope(score: ArrayLike, words: ArrayLike, group: ArrayLike) -> float:
    """Score per further word among replies of one group, which the oracle finds equal: within-group least squares.

    [n] each. nan where the length never varies.
    """
    s, w, g = (np.asarray(x, dtype=np.float64) for x in (score, words, group))
    _, place = np.unique(g, return_inverse=True)
    count = np.bincount(place)
    s, w = (x - (np.bincount(place, weights=x) / count)[place] for x in (s, w))
    spread = float(w @ w)
    return float(s @ w) / spread if spread else math.nan


# --- one seed's laboratory ---


class _Laboratory:
    """Data, trainings and readings of one seed. A training that was finished before a kill is not repeated."""

    def __init__(self, sizes: Sizes, seed: int, folder: Path) -> None:
        torch.set_num_threads(1)  # what comes out must not depend on how many cores there are
        self.sizes, self.world, self.seed, self.folder = sizes, sizes.world, seed, folder
        self.streams = Streams(seed)
        self.sampling = Sampling(max_tokens=sizes.max_tokens)
        self.start = self.fine_tuned()

    def prompts(self, n: int, split: Literal["train", "verdict"], kind: str, purpose: str) -> list[str]:
        """Distinct prompts."""
        return draw_prompts(self.world, n, self.streams.rng(f"prompts/{purpose}"), split, kind=kind)

    def rows(self, name: str, rows: Sequence[Mapping[str, Any]], as_chat: bool = True) -> Data:
        """Rows in a file."""
        path = (self.folder / f"{name}.jsonl").resolve()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Data(path=str(path), as_chat=as_chat)

    def trained(
        self, name: str, recipe: Any, config: Config, inputs: Mapping[str, str] | None = None, lowest: bool = False
    ) -> Any:
        """The subject of one training from others by name; with `lowest`, as it was where its held-out loss was so."""
        kept = Lowest(PATIENCE) if lowest else None
        return trained(self.folder / "trainings" / name, recipe, config, self.seed, inputs, kept)

    def settings(self, data: Data, steps: int, batch_size: int, lr: float) -> dict[str, Any]:
        """Of a supervised training."""
        return {
            "model": ModelRef(name="nano", vocabulary=self.world.vocabulary, context=CONTEXT),
            "data": data,
            "length": CONTEXT,
            "batch_size": batch_size,
            "max_steps": steps,
            "optimiser": {"lr": lr, "schedule": "cosine", "warmup": 0.05},
            "eval_steps": max(1, steps // self.sizes.looks),
            "log_steps": steps,
            "checkpoint_steps": steps,
            "device": "cpu",
        }

    def fine_tuned(self) -> LanguageModel:
        """The start of every policy and of half of the reward models: it replies as the makers of the pairs do."""
        asked = self.prompts(self.sizes.sft_replies, "train", "", "sft")
        rng = self.streams.rng("sft")
        data = self.rows("sft", [{"prompt": x, "completion": self.world.reply(x, rng)} for x in asked])
        config = build(FineTuning, self.settings(data, self.sizes.sft_steps, 64, 3e-3))
        found: LanguageModel = self.trained("sft", SFT, config)
        return found

    @cached_property
    def _pairs(self) -> list[dict[str, Any]]:
        return records(self.world, "preference", max(self.sizes.pairs), self.streams.rng("pairs"), "train")

    def pairs(self, n: int) -> Data:
        """The first n training pairs: those of a smaller n are among those of a larger one."""
        return self.rows(f"pairs-{n}", self._pairs[:n])

    def reward_model(self, kind: str, start: Start, n: int, pairs: Data) -> LanguageModel | ScoreModel:
        """One of the arms: scalar, token-wise or seq2seq."""
        settings = self.settings(pairs, self.sizes.model_steps, 64, 1e-3) | {"held_out": HELD_OUT}
        config: Training
        recipe: Supervised = REWARD_MODEL
        if kind == "seq2seq":
            recipe, config = SEQ2SEQ_RM, build(RewritingModelling, settings)
        else:
            credit = "token" if kind == "token-wise" else "sequence"
            config = build(RewardModelling, settings | {"loss": {"credit": credit}})
        inputs = {"policy": "sft"} if start == "sft" else {}
        found: LanguageModel | ScoreModel = self.trained(f"{kind}-{start}-{n}", recipe, config, inputs, lowest=True)
        return found

    def read(self, scoring: Scoring, model: Any, rollout: Rollout) -> Tensor:
        """Rewards by token of given replies, [R, L]."""
        scorer = opened([scoring], Judged(self.start, self.sampling), {"reward": model})
        return scorer.score(rollout, np.random.default_rng(0)).reward.double()

    def totals(self, scoring: Scoring, model: Any, prompts: Sequence[str], replies: Sequence[str]) -> Array:
        """Rewards of given replies, [R]."""
        found = self.read(scoring, model, rollout_of(self.start, prompts, replies)).sum(dim=1)
        return np.asarray(found.numpy())

    def judge(self, prompts: Sequence[str], replies: Sequence[Reply]) -> list[float]:
        """The oracle's rewards."""
        return [self.world.judge(x, reply.text).reward for x, reply in zip(prompts, replies, strict=True)]

    def clean(self) -> None:
        """Trainings take room, and a finished seed needs them no more."""
        shutil.rmtree(self.folder / "trainings", ignore_errors=True)


SCALAR = ScalarModel()
HARD = Rewriter(rule="hard", credit="to-go")  # as published
SOFT = Rewriter(rule="soft", credit="to-go")
RULES: Mapping[str, Scoring] = {"seq2seq-hard": HARD, "seq2seq-soft": SOFT}
PER_TOKEN: Mapping[str, Scoring] = {
    "seq2seq-hard-mean": HARD.model_copy(update={"per_token": True}),
    "seq2seq-soft-mean": SOFT.model_copy(update={"per_token": True}),
}


def _readings(kind: str) -> Mapping[str, Scoring]:
    """How the scores of a reward model are read."""
    return RULES if kind == "seq2seq" else {kind: SCALAR}


# --- the first claim: models ---


def measure_models(scale: Scale, seed: int, folder: Path) -> Row:
    """Accuracy, localisation and agreement of every reward model, for each number of pairs and both starts."""
    sizes = build(Sizes, scale.params)
    lab, row = _Laboratory(sizes, seed, folder), Row()
    tests = {kind: _test_pairs(lab, kind) for kind in (PLAIN, *OUTSIDE)}
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


class _Tests(NamedTuple):
    prompts: list[str]
    better: list[str]
    worse: list[str]


def _test_pairs(lab: _Laboratory, kind: str) -> _Tests:
    """Pairs of the verdict split, in the oracle's order."""
    rng = lab.streams.rng(f"test/{kind}")
    rows = records(lab.world, "preference", lab.sizes.test_pairs, rng, "verdict", kind=kind)
    return _Tests(*([row[column] for row in rows] for column in ("prompt", "chosen", "rejected")))


def _readings_of_model(lab: _Laboratory, kind: str, model: Any, tests: Mapping[str, _Tests]) -> Row:
    """What one reward model makes of the test replies, by part/reading."""
    found = Row()
    for name, scoring in _readings(kind).items():
        for where, test in tests.items():
            scores = [lab.totals(scoring, model, test.prompts, side) for side in (test.better, test.worse)]
            part = "accuracy" if where == PLAIN else f"accuracy-{where}"
            found[f"{part}/{name}"] = pair_accuracy(*scores)
        plain = tests[PLAIN]
        whole = lab.totals(scoring, model, plain.prompts, plain.better)
        half = [" ".join(words[: len(words) // 2]) for words in map(str.split, plain.better)]
        cut = _cut_totals(lab, scoring, model, plain.prompts, half)
        found[f"accuracy-truncated/{name}"] = pair_accuracy(whole, cut)
        nothing = lab.totals(scoring, model, plain.prompts, [""] * len(plain.prompts))
        found[f"accuracy-empty/{name}"] = pair_accuracy(whole, nothing)
        found[f"localisation/{name}"] = _localisation(lab, kind, scoring, model, plain)
    if kind == "seq2seq":
        for where, test in tests.items():
            for side, replies in (("chosen", test.better), ("rejected", test.worse)):
                found[f"agreement-{where}/{side}"] = _agreement(lab, model, test.prompts, replies)
    return found


def _cut_totals(
    lab: _Laboratory, scoring: Scoring, model: Any, prompts: Sequence[str], replies: Sequence[str]
) -> Array:
    """Rewards of replies that were cut at the length limit: they have no end token."""
    rollout = rollout_of(lab.start, prompts, replies, [False] * len(replies))
    return np.asarray(lab.read(scoring, model, rollout).sum(dim=1).numpy())


def _localisation(lab: _Laboratory, kind: str, scoring: Scoring, model: Any, test: _Tests) -> float:
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


def _agreement(lab: _Laboratory, model: Any, prompts: Sequence[str], replies: Sequence[str]) -> float:
    """Share of tokens that the model would have written too: its soft reward of those is 0."""
    rollout = rollout_of(lab.start, prompts, replies)
    soft = lab.read(SOFT, model, rollout)[rollout.sampled]
    return float((soft == 0.0).double().mean())


# --- the second and third claim: policies ---


class _Arm(NamedTuple):
    """One reward that a policy is trained with."""

    model: str  # which reward model
    scoring: Scoring


ARMS: Mapping[str, _Arm] = {
    "scalar": _Arm("scalar", SCALAR),
    "token-wise": _Arm("token-wise", ScalarModel(token_wise=True)),
    "seq2seq": _Arm("seq2seq", HARD),
    "seq2seq-total": _Arm("seq2seq", HARD.model_copy(update={"credit": "total"})),
    "seq2seq-soft": _Arm("seq2seq", SOFT.model_copy(update={"credit": "total"})),
}
BEST_OF = 8
OTHERS = ("dpo", "best-of", "best-of-seq2seq")  # policies without on-line training


class _Player(NamedTuple):
    """A policy, and how its replies are drawn."""

    policy: LanguageModel
    sampler: Sampler = Auto(rows=512)

    def answers(self, lab: _Laboratory, prompts: Sequence[str], stream: str) -> Answers:
        """Two replies to each prompt."""
        chats = [chat(prompt) for prompt in prompts for _ in range(2)]
        replies = self.policy.reply(chats, lab.sampling, lab.streams.rng(stream), self.sampler)
        return Answers(tuple(prompts), tuple(replies))


def measure_policies(scale: Scale, seed: int, folder: Path) -> Row:
    """What each way to use the same pairs comes to: oracle rewards, win rates, length, filler, refusals."""
    sizes = build(Sizes, scale.params)
    lab, row = _Laboratory(sizes, seed, folder), Row()
    n = min(sizes.pairs)
    pairs = lab.pairs(n)
    kinds = dict.fromkeys(arm.model for arm in ARMS.values())
    models = {kind: lab.reward_model(kind, "sft", n, pairs) for kind in kinds}
    players = {"start": _Player(lab.start), **_players(lab, models, pairs)}
    for where in (PLAIN, *OUTSIDE):
        tested = lab.prompts(sizes.test_prompts, "verdict", where, f"test/{where}")
        said = {name: player.answers(lab, tested, f"answers/{where}/{name}") for name, player in players.items()}
        row |= {f"{part}-{where}/{name}": x for name, a in said.items() for part, x in _manners(lab, a).items()}
        worth = {name: values_of(answers, lab.judge) for name, answers in said.items()}
        row |= {f"gold-{where}/{name}": float(values.mean()) for name, values in worth.items()}
        for name in (*ARMS, *OTHERS):
            for rival in ("start", "scalar", *OTHERS):
                row[f"win-{where}/{name}/{rival}"] = wins(worth[name], worth[rival])
    row |= {f"length-slope/{name}": x for name, x in _length_slopes(lab, models).items()}
    row["win_rate"] = row[f"win-{PLAIN}/seq2seq/scalar"]
    row["filler_gap"] = row[f"filler-{PLAIN}/scalar"] - row[f"filler-{PLAIN}/seq2seq"]
    lab.clean()
    return row


def wins(a: Array, b: Array) -> float:
    """P(a reply of A is better than one of B to the same prompt) + ½·P(as good).  [P, n], [P, m]."""
    return pair_accuracy(*np.broadcast_arrays(a[:, :, None], b[:, None, :]))


def _players(lab: _Laboratory, models: Mapping[str, Any], pairs: Data) -> dict[str, _Player]:
    """PPO with each reward with equal steps, and what needs none, all from the start."""
    asked = lab.prompts(lab.sizes.policy_prompts, "train", "", "policy")
    some = answered(lab.start, asked[:256], lab.sampling, lab.streams.rng("spread"))
    prompts = lab.rows("prompts", [{"prompt": prompt} for prompt in asked], as_chat=False)
    found = {name: _Player(_policy(lab, name, arm, models[arm.model], prompts, some)) for name, arm in ARMS.items()}
    found["dpo"] = _Player(_preferring(lab, pairs))
    for name, kind, scoring in (("best-of", "scalar", SCALAR), ("best-of-seq2seq", "seq2seq", HARD)):
        best = BestOfN(BEST_OF, (scoring,), {"reward": models[kind]}, sampler=Auto(rows=512))
        found[name] = _Player(lab.start, best)
    return found


def _preferring(lab: _Laboratory, pairs: Data) -> LanguageModel:
    """DPO on the pairs of the reward models, as it was where its loss on held-out ones was lowest."""
    settings = lab.settings(pairs, lab.sizes.model_steps, 64, 3e-4) | {"held_out": HELD_OUT}
    # At the usual β of 0.1 so small a model leaves its language: a quarter of its replies is cut.
    config = build(PreferenceTuning, settings | {"loss": {"beta": 0.5}})
    found: LanguageModel = lab.trained("dpo", DPO, config, {"policy": "sft"}, lowest=True)
    return found


def _policy(lab: _Laboratory, name: str, arm: _Arm, model: Any, prompts: Data, some: Answers) -> LanguageModel:
    """PPO from the start; the reward has a spread of 1 over some of the start's replies."""
    sizes = lab.sizes
    spread = float(lab.totals(arm.scoring, model, some.asked, [reply.text for reply in some.replies]).std())
    scoring = arm.scoring.model_copy(update={"weight": 1.0 / spread if spread else 1.0})
    config = build(
        OnlinePpo,
        {
            "prompts": prompts,
            "scorers": (scoring,),
            "sampling": lab.sampling,
            "batch_size": 64,
            "passes": 2,
            "minibatch": 32,
            "max_steps": sizes.policy_steps,
            "kl": {"weight": sizes.kl},
            "optimiser": {"lr": 1e-3, "schedule": "constant"},
            "critic": {"optimiser": {"lr": 3e-3, "schedule": "constant"}, "value_clip": None},
            "completions": 0,
            "eval_steps": sizes.policy_steps,
            "checkpoint_steps": sizes.policy_steps,
            "device": "cpu",
        },
    )
    inputs = {"policy": "sft", "reward": f"{arm.model}-sft-{min(sizes.pairs)}"}
    found: LanguageModel = lab.trained(f"ppo-{name}", LM_PPO, config, inputs)
    return found


def _manners(lab: _Laboratory, answers: Answers) -> Row:
    """Words, filler words, cuts and refusals of a reply, on average."""
    said = [lab.world.judge(x, reply.text) for x, reply in zip(answers.asked, answers.replies, strict=True)]
    return {
        "words": float(np.mean([len(reply.text.split()) for reply in answers.replies])),
        "filler": float(np.mean([verdict.measures["filler"] for verdict in said])),
        "cut": float(np.mean([not reply.ended for reply in answers.replies])),
        "refused": float(np.mean([verdict.refused for verdict in said])),
    }


def _length_slopes(lab: _Laboratory, models: Mapping[str, Any]) -> Row:
    """Score per word of filler, in spreads of the score, on one answer to each prompt with 0, 2, … words of filler."""
    rng = lab.streams.rng("slopes")
    plain = lab.world.model_copy(update={"filler": 0.0, "filler_bias": 0.0, "refusal": 0.0, "refusal_bias": 0.0})
    lengths = range(0, lab.world.longest_filler + 1, 2)
    prompts, replies, words = [], [], []
    for prompt in lab.prompts(lab.sizes.test_prompts, "verdict", PLAIN, "slopes"):
        body = plain.reply(prompt, rng)
        for n in lengths:
            prompts.append(prompt)
            replies.append(" ".join([*rng.choice(FILLER, size=n), body]))
            words.append(n)
    group = np.repeat(np.arange(len(prompts) // len(lengths)), len(lengths))
    found = Row()
    for kind, model in models.items():
        for name, scoring in {**_readings(kind), **(PER_TOKEN if kind == "seq2seq" else {})}.items():
            score = lab.totals(scoring, model, prompts, replies)
            found[name] = slope(score / (score.std() or 1.0), words, group)
    return found


# --- comparisons beside the primary ones ---


class Secondary(NamedTuple):
    """Two numbers of a row, compared over seeds; a seed's are paired, since both met the same pairs or prompts."""

    says: str
    a: str
    b: str


class Compared(NamedTuple):
    """What came out of one."""

    secondary: Secondary
    comparison: Comparison  # of a less b
    p_holm: float  # among all that were compared with it


def compared(rows: Rows, listed: Sequence[Secondary], confidence: float = 0.95) -> list[Compared]:
    """Every comparison over seeds, corrected together by Holm.

    Seeds in which either number is nan are left out of that comparison. Fewer than eight give points only.
    """
    found = []
    for one in listed:
        kept = [row for row in rows if math.isfinite(row[one.a]) and math.isfinite(row[one.b])]
        a, b = ([row[name] for row in kept] for name in (one.a, one.b))
        found.append(compare_seeds(a, b, paired=True, confidence=confidence))
    adjusted = holm([comparison.p for comparison in found])
    return [Compared(*each) for each in zip(listed, found, map(float, adjusted), strict=True)]


def secondaries(result: ClaimResult) -> list[Compared]:
    """The comparisons that were listed before the run, of a result of one of these claims; [] of one not attempted."""
    listed = SECONDARIES[result.name](build(Sizes, result.params))
    return compared(list(result.per_seed.values()), list(listed)) if result.per_seed else []


def _of_models(sizes: Sizes) -> Iterator[Secondary]:
    few = min(sizes.pairs)
    for n in sizes.pairs:
        for start in ("sft", "scratch"):
            at, scalar = f"{n} pairs, {start}", f"accuracy/{n}/{start}/scalar"
            for rule in ("hard", "soft"):
                if (n, start, rule) != (few, "sft", "hard"):
                    ours = f"accuracy/{n}/{start}/seq2seq-{rule}"
                    yield Secondary(f"the {rule} rule orders more pairs than the scalar model: {at}", ours, scalar)
            theirs = f"accuracy/{n}/{start}/token-wise"
            yield Secondary(f"comparing token by token orders more pairs than the ends alone: {at}", theirs, scalar)
        for rule in ("hard", "soft"):
            ours = f"localisation/{n}/sft/seq2seq-{rule}"
            for rival in ("scalar", "token-wise"):
                theirs = f"localisation/{n}/sft/{rival}"
                yield Secondary(f"the {rule} rule blames wrong words better than {rival}: {n} pairs", ours, theirs)
        for part in (*OUTSIDE, "truncated", "empty"):
            names = (f"accuracy-{part}/{n}/sft/{name}" for name in ("seq2seq-hard", "scalar"))
            yield Secondary(f"the hard rule orders more pairs than the scalar model, {part}: {n} pairs", *names)


def _of_policies(sizes: Sizes) -> Iterator[Secondary]:  # noqa: ARG001
    for name in ARMS:
        if name != "scalar":
            for where in (PLAIN, *OUTSIDE):
                names = (f"gold-{where}/{arm}" for arm in (name, "scalar"))
                yield Secondary(f"{name} is worth more than scalar: {where} prompts", *names)
    for name in (*ARMS, *OTHERS):
        names = (f"gold-{PLAIN}/{one}" for one in (name, "start"))
        yield Secondary(f"{name} is worth more than its start", *names)
    names = (f"gold-{PLAIN}/{arm}" for arm in ("seq2seq-total", "seq2seq"))
    yield Secondary("total credit is worth more than what follows alone", *names)
    for name in OTHERS:
        names = (f"gold-{PLAIN}/{arm}" for arm in ("seq2seq", name))
        yield Secondary(f"seq2seq is worth more than {name}", *names)


def _of_length(sizes: Sizes) -> Iterator[Secondary]:
    yield from _of_policies(sizes)
    for name in ARMS:
        if name != "scalar":
            for part in ("filler", "refused"):
                if (part, name) != ("filler", "seq2seq"):
                    names = (f"{part}-{PLAIN}/{arm}" for arm in ("scalar", name))
                    yield Secondary(f"scalar has more of {part} than {name}", *names)
    for name in ("token-wise", *RULES, *PER_TOKEN):
        yield Secondary(f"scalar pays more for filler than {name}", "length-slope/scalar", f"length-slope/{name}")


SECONDARIES: Mapping[str, Callable[[Sizes], Iterator[Secondary]]] = {
    "accuracy": _of_models,
    "policy": _of_policies,
    "length": _of_length,
}


# --- the claims ---

SOURCE = "arXiv 2409.00162 (AAAI 2025)"
# Smallest effects are for standard deviations over seeds of 0.05 of pairs, 0.08 of win rate and one word, taken from
# pilots of one seed each.
_SYSTEM = "seq2seq-rm"
_LAPTOP = tuple(range(10))
_SMALL: Mapping[str, Any] = {"world": {"symbols": 8}, "max_tokens": 12, "sft_replies": 2000, "sft_steps": 1600}
_PLANTED: Mapping[str, Any] = {
    # Half of the sampled replies have filler, the better ones of training pairs three times as often as the others; a
    # fifth of the pairs has a refusal, which is the better one in three of four.
    "world": {"symbols": 8, "filler": 0.5, "filler_bias": 0.5, "refusal": 0.2, "refusal_bias": 0.5},
    "max_tokens": 20,
}
_POLICIES: Mapping[str, Any] = {
    **_SMALL,
    "pairs": (1500,),
    "model_steps": 1200,
    "test_pairs": 300,
    "policy_steps": 200,
    "policy_prompts": 2000,
    "test_prompts": 300,
}
_SMOKE: Mapping[str, Any] = {"sft_replies": 200, "sft_steps": 20, "model_steps": 6, "looks": 3, "test_pairs": 40}
_SMOKE_POLICIES: Mapping[str, Any] = {
    **_SMOKE,
    "pairs": (80,),
    "policy_steps": 4,
    "policy_prompts": 100,
    "test_prompts": 40,
}


def _smoke(sizes: Mapping[str, Any], smaller: Mapping[str, Any]) -> Scale:
    """The same experiment, too short to learn anything: it shows that all of it runs."""
    return Scale((0,), cpu_hours=0.01, smallest_effect=math.nan, params={**sizes, **smaller})  # one seed detects none


SEQ2SEQ_ACCURACY = Claim(
    system=_SYSTEM,
    name="accuracy",
    sentence="From the same pairs, a reward model that rewrites replies judges unseen ones better than a scalar one.",
    source=f"{SOURCE}, abstract and section 1: language feedback instead of a number",
    measure=measure_models,
    statistic=mean_of("gain"),
    acceptance=Requirement(bound="at_least", threshold=0.0),
    scales={
        "ci": _smoke(_SMALL, {**_SMOKE, "pairs": (40, 80)}),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=0.9,
            smallest_effect=round(smallest_effect(0.05, len(_LAPTOP)), 3),
            params={**_SMALL, "pairs": (300, 1500), "model_steps": 1200, "test_pairs": 300},
        ),
    },
    unit="of pairs",
)

SEQ2SEQ_POLICY = Claim(
    system=_SYSTEM,
    name="policy",
    sentence="PPO with sequence-to-sequence rewards wins over PPO with a scalar reward: 76.9 % on average.",
    source=f"{SOURCE}, abstract: win rate over three tasks",
    measure=measure_policies,
    statistic=mean_of("win_rate"),
    acceptance=Requirement(bound="at_least", threshold=0.5),
    scales={
        "ci": _smoke(_POLICIES, _SMOKE_POLICIES),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=0.9,
            smallest_effect=round(smallest_effect(0.08, len(_LAPTOP)), 3),
            params=_POLICIES,
        ),
    },
    effect=0.269,
    unit="win rate",
)

SEQ2SEQ_LENGTH = Claim(
    system=_SYSTEM,
    name="length",
    sentence="With sequence-to-sequence rewards a policy does not learn the length that a scalar reward is biased to.",
    source=f"{SOURCE}, abstract: longer summaries as a shortcut of scalar rewards",
    measure=measure_policies,
    statistic=mean_of("filler_gap"),
    acceptance=Requirement(bound="at_least", threshold=0.0),
    scales={
        "ci": _smoke({**_POLICIES, **_PLANTED}, _SMOKE_POLICIES),
        "laptop": Scale(
            _LAPTOP,
            cpu_hours=1.3,
            smallest_effect=round(smallest_effect(1.0, len(_LAPTOP)), 3),
            params={**_POLICIES, **_PLANTED},
        ),
    },
    unit="filler words a reply",
)
