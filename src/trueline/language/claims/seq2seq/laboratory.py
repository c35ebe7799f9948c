"""One seed of the claims on sequence-to-sequence reward models: its data, its trainings, and how replies are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config, build
from trueline.core.streams import Streams
from trueline.language.claims.trainings import Lowest, trained
from trueline.language.evaluation import rollout_of
from trueline.language.models import ModelRef
from trueline.language.recipes import REWARD_MODEL, SEQ2SEQ_RM, SFT
from trueline.language.rollout import Reply, Rollout, Sampling
from trueline.language.scorers import Judged, Rewriter, ScalarModel, Scoring, opened
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.supervised import FineTuning, RewardModelling, RewritingModelling, Supervised, Training
from trueline.language.texts.cipher_reply import CipherReply
from trueline.language.texts.world import draw_prompts, records

__all__ = [
    "HARD",
    "HELD_OUT",
    "OUTSIDE",
    "PER_TOKEN",
    "PLAIN",
    "RULES",
    "SCALAR",
    "SOFT",
    "Array",
    "Laboratory",
    "Row",
    "Sizes",
    "Start",
    "readings",
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


SCALAR = ScalarModel()
HARD = Rewriter(rule="hard", credit="to-go")  # as published
SOFT = Rewriter(rule="soft", credit="to-go")
RULES: Mapping[str, Scoring] = {"seq2seq-hard": HARD, "seq2seq-soft": SOFT}
PER_TOKEN: Mapping[str, Scoring] = {
    "seq2seq-hard-mean": HARD.model_copy(update={"per_token": True}),
    "seq2seq-soft-mean": SOFT.model_copy(update={"per_token": True}),
}


def readings(kind: str) -> Mapping[str, Scoring]:
    """How the scores of a reward model are read."""
    return RULES if kind == "seq2seq" else {kind: SCALAR}


class Laboratory:
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
