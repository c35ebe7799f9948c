"""The second and third claim: what policies come to that were made from the same pairs in different ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trueline.core.config import build
from trueline.evidence.claims import Scale
from trueline.language.best_of_n import BestOfN
from trueline.language.claims.seq2seq.laboratory import (
    HARD,
    HELD_OUT,
    OUTSIDE,
    PER_TOKEN,
    PLAIN,
    SCALAR,
    SOFT,
    Array,
    Laboratory,
    Row,
    Sizes,
    readings,
)
from trueline.language.claims.seq2seq.models import pair_accuracy
from trueline.language.evaluation import Answers, answered, values_of
from trueline.language.online import LM_PPO, OnlinePpo
from trueline.language.recipes import DPO
from trueline.language.rollout import Sampler, chat
from trueline.language.sampler import Auto
from trueline.language.scorers import ScalarModel, Scoring
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel
from trueline.language.supervised import PreferenceTuning
from trueline.language.texts.cipher_reply import FILLER

__all__ = ["ARMS", "OTHERS", "length_slopes", "measure_policies", "players_of", "slope", "wins"]


class Arm(NamedTuple):
    """One reward that a policy is trained with."""

    model: str  # which reward model
    scoring: Scoring


ARMS: Mapping[str, Arm] = {
    "scalar": Arm("scalar", SCALAR),
    "token-wise": Arm("token-wise", ScalarModel(token_wise=True)),
    "seq2seq": Arm("seq2seq", HARD),
    "seq2seq-total": Arm("seq2seq", HARD.model_copy(update={"credit": "total"})),
    "seq2seq-soft": Arm("seq2seq", SOFT.model_copy(update={"credit": "total"})),
}
BEST_OF = 8
OTHERS = ("dpo", "best-of", "best-of-seq2seq")  # policies without on-line training


class Player(NamedTuple):
    """A policy, and how its replies are drawn."""

    policy: LanguageModel
    sampler: Sampler = Auto(rows=512)

    def answers(self, lab: Laboratory, prompts: Sequence[str], stream: str) -> Answers:
        """Two replies to each prompt."""
        chats = [chat(prompt) for prompt in prompts for _ in range(2)]
        replies = self.policy.reply(chats, lab.sampling, lab.streams.rng(stream), self.sampler)
        return Answers(tuple(prompts), tuple(replies))


def measure_policies(scale: Scale, seed: int, folder: Path) -> Row:
    """What each way to use the same pairs comes to: oracle rewards, win rates, length, filler, refusals."""
    sizes = build(Sizes, scale.params)
    lab, row = Laboratory(sizes, seed, folder), Row()
    n = min(sizes.pairs)
    pairs = lab.pairs(n)
    kinds = dict.fromkeys(arm.model for arm in ARMS.values())
    models = {kind: lab.reward_model(kind, "sft", n, pairs) for kind in kinds}
    players = {"start": Player(lab.start), **players_of(lab, models, pairs)}
    for where in (PLAIN, *OUTSIDE):
        tested = lab.prompts(sizes.test_prompts, "verdict", where, f"test/{where}")
        said = {name: player.answers(lab, tested, f"answers/{where}/{name}") for name, player in players.items()}
        row |= {f"{part}-{where}/{name}": x for name, a in said.items() for part, x in _manners(lab, a).items()}
        worth = {name: values_of(answers, lab.judge) for name, answers in said.items()}
        row |= {f"gold-{where}/{name}": float(values.mean()) for name, values in worth.items()}
        for name in (*ARMS, *OTHERS):
            for rival in ("start", "scalar", *OTHERS):
                row[f"win-{where}/{name}/{rival}"] = wins(worth[name], worth[rival])
    row |= {f"length-slope/{name}": x for name, x in length_slopes(lab, models).items()}
    row["win_rate"] = row[f"win-{PLAIN}/seq2seq/scalar"]
    row["filler_gap"] = row[f"filler-{PLAIN}/scalar"] - row[f"filler-{PLAIN}/seq2seq"]
    lab.clean()
    return row


def wins(a: Array, b: Array) -> float:
    """P(a reply of A is better than one of B to the same prompt) + ½·P(as good).  [P, n], [P, m]."""
    return pair_accuracy(*np.broadcast_arrays(a[:, :, None], b[:, None, :]))


def players_of(lab: Laboratory, models: Mapping[str, Any], pairs: Data) -> dict[str, Player]:
    """PPO with each reward with equal steps, and what needs none, all from the start."""
    asked = lab.prompts(lab.sizes.policy_prompts, "train", "", "policy")
    some = answered(lab.start, asked[:256], lab.sampling, lab.streams.rng("spread"))
    prompts = lab.rows("prompts", [{"prompt": prompt} for prompt in asked], as_chat=False)
    found = {name: Player(_policy(lab, name, arm, models[arm.model], prompts, some)) for name, arm in ARMS.items()}
    found["dpo"] = Player(_preferring(lab, pairs))
    for name, kind, scoring in (("best-of", "scalar", SCALAR), ("best-of-seq2seq", "seq2seq", HARD)):
        best = BestOfN(BEST_OF, (scoring,), {"reward": models[kind]}, sampler=Auto(rows=512))
        found[name] = Player(lab.start, best)
    return found


def _preferring(lab: Laboratory, pairs: Data) -> LanguageModel:
    """DPO on the pairs of the reward models, as it was where its loss on held-out ones was lowest."""
    settings = lab.settings(pairs, lab.sizes.model_steps, 64, 3e-4) | {"held_out": HELD_OUT}
    # At the usual β of 0.1 so small a model leaves its language: a quarter of its replies is cut.
    config = build(PreferenceTuning, settings | {"loss": {"beta": 0.5}})
    found: LanguageModel = lab.trained("dpo", DPO, config, {"policy": "sft"}, lowest=True)
    return found


def _policy(lab: Laboratory, name: str, arm: Arm, model: Any, prompts: Data, some: Answers) -> LanguageModel:
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


def _manners(lab: Laboratory, answers: Answers) -> Row:
    """Words, filler words, cuts and refusals of a reply, on average."""
    said = [lab.world.judge(x, reply.text) for x, reply in zip(answers.asked, answers.replies, strict=True)]
    return {
        "words": float(np.mean([len(reply.text.split()) for reply in answers.replies])),
        "filler": float(np.mean([verdict.measures["filler"] for verdict in said])),
        "cut": float(np.mean([not reply.ended for reply in answers.replies])),
        "refused": float(np.mean([verdict.refused for verdict in said])),
    }


def length_slopes(lab: Laboratory, models: Mapping[str, Any]) -> Row:
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
        for name, scoring in {**readings(kind), **(PER_TOKEN if kind == "seq2seq" else {})}.items():
            score = lab.totals(scoring, model, prompts, replies)
            found[name] = slope(score / (score.std() or 1.0), words, group)
    return found


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
