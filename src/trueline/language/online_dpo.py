"""On-line DPO: pairs of replies that the policy itself samples, labelled by scorers, learnt by the loss of DPO.

Per pair of replies (y₁, y₂) to one prompt, with h = log π(y | x) − log π_ref(y | x) and p the label of "y₁ is better":

    loss = −p·log σ(β(h₁ − h₂)) − (1 − p)·log σ(β(h₂ − h₁))

What the label is decides what is learnt, since the pairs themselves carry no gradient:

    labels           p                              where training stands still
    bradley-terry    σ((r₁ − r₂)/τ)                 π ∝ π_ref·exp(r/(βτ)); at τ = 1 the best E[r] − β·KL(π ‖ π_ref)
    hard             1, ½ or 0, by the sign         nowhere: margins grow without end, towards the best reply alone

The first holds for every distribution that pairs are drawn from, as long as every reply can be drawn: the gradient of a
pair is β(σ(β(h₁ − h₂)) − p)·∇(h₁ − h₂), which is 0 for all pairs exactly where β(h₁ − h₂) = (r₁ − r₂)/τ for all. With
hard labels β slows the way and is no weight of a divergence; how far a run goes is decided by when it ends.

"hard" is the published method (Guo et al. 2024, on-line AI feedback). Where this differs from TRL's trainer of it:
equal replies are labelled ½ instead of the first being preferred; with more than two replies to a prompt they are
paired as they were drawn, so that pairs are independent draws of the policy; a pair that a scorer could not judge
whole is left out; and π and π_ref are those at the temperature that replies are drawn at, where TRL draws at it and
takes both at 1. Costs are measured and not limited.

The loop, its resumption and its settings are those of online/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.language.losses import dpo
from trueline.language.online import Online, OnlineRecipe, Trainer
from trueline.language.online.training import Step
from trueline.language.optimiser import AdamW
from trueline.language.parallel import sums as summed
from trueline.language.rollout import Rollout
from trueline.language.scores import Scores
from trueline.language.signals import Kl, signals_of
from trueline.language.subject import LanguageModel

__all__ = ["ONLINE_DPO", "OnlineDpo", "OnlineDpoRecipe", "labels_of", "pair_losses"]

UNUSED = ("clip", "loss_type")  # of policy gradients


class OnlineDpo(Online):
    """Settings of on-line DPO; β is `kl.weight`."""

    samples: int = Field(2, ge=2)  # replies to each prompt, paired as they are drawn
    labels: Literal["hard", "bradley-terry"] = "hard"
    temperature: float = Field(1.0, gt=0)  # τ of Bradley–Terry labels, in units of the reward
    kl: Kl = Kl(weight=0.1)
    optimiser: AdamW = AdamW(lr=5e-7)

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        fields = type(self).model_fields
        unused = [name for name in UNUSED if getattr(self, name) != fields[name].default]
        if unused:
            raise ValueError(f"{unused[0]} is given, but the loss of pairs has no use for it. Leave it out.")
        if self.kl.weight == 0.0 or self.kl != Kl(weight=self.kl.weight):
            raise ValueError(
                "kl is β of the loss here: it needs a weight above 0 and takes no more. Give kl.weight alone."
            )
        if self.labels == "hard" and self.temperature != 1.0:
            raise ValueError("temperature is of Bradley–Terry labels, but labels is 'hard'. Leave it out.")
        for name in ("samples", "minibatch", "micro_batch"):
            given = getattr(self, name)
            if given is not None and given % 2:
                raise ValueError(f"{name} is {given}, but replies come in pairs. Give an even number.")
        return self


# --- losses ---


def labels_of(first: Tensor, second: Tensor, labels: Literal["hard", "bradley-terry"], temperature: float) -> Tensor:
    """p of "the first reply is better" from the replies' rewards: [B], [B] -> [B]."""
    if labels == "hard":
        return 0.5 + 0.5 * (first - second).sign()
    return torch.sigmoid((first - second) / temperature)


def pair_losses(ratio_1: Tensor, ratio_2: Tensor, label: Tensor, beta: float) -> Tensor:
    """−p·log σ(βΔ) − (1 − p)·log σ(−βΔ), Δ = h₁ − h₂.  Log-ratios to the reference and labels, [B] -> [B]."""
    return label * dpo(ratio_1, ratio_2, beta) + (1.0 - label) * dpo(ratio_2, ratio_1, beta)


# --- the loop ---


class _Pairs(NamedTuple):
    """What a step learns from."""

    rollout: Rollout
    beside: Tensor  # [R]: log π_ref of each reply
    reward: Tensor  # [R]
    first: Tensor  # [B] rows of the pairs whose replies were both scored
    second: Tensor  # [B]


@dataclass(frozen=True)
class OnlineDpoRecipe(OnlineRecipe):
    """The row of on-line DPO."""

    def train(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> LanguageModel:
        """As every on-line recipe: `policy`, `reference`, and what scorers name."""
        assert isinstance(config, OnlineDpo)
        return _Trainer(config, run, inputs).train()


class _Trainer(Trainer):
    """The loop of on-line learning with pairs in the place of advantages."""

    config: OnlineDpo

    def _learn(self, rollout: Rollout, scores: Scores) -> Step:
        """Label, learn.  Raises Diverged."""
        config = self.config
        signals = signals_of(
            rollout, scores, credit=self.scorer.credit, cut_penalty=config.cut_penalty, score_clip=config.score_clip
        )
        by_token = self._old(rollout), self.reading.beside(rollout)
        old, beside = (torch.where(rollout.sampled, x, 0.0).sum(dim=1) for x in by_token)
        first = torch.arange(0, self.replies, 2, device=old.device)
        whole = ~(scores.missing[first] | scores.missing[first + 1])
        pairs = _Pairs(rollout, beside, signals.total[:, 0], first[whole], first[whole] + 1)
        return Step(self._passes(pairs), (old - beside)[~scores.missing])

    def _passes(self, pairs: _Pairs) -> dict[str, float]:
        """Over the pairs in random order; returns means over the last of them."""
        config, count = self.config, len(pairs.first)
        figures: dict[str, float] = {}
        self.reading.begin_learning()
        for _ in range(config.passes):
            sums = {"policy_loss": 0.0, "accuracy": 0.0, "margin": 0.0}
            kept_text = 0.0
            order = torch.as_tensor(self.run.rng("update").permutation(count), device=pairs.first.device)
            batches = order.split((config.minibatch or self.replies) // 2) if count else ()
            for some in batches:
                kept_text += self._pair_step(pairs, some, sums)
            means = summed(self.group, [total / max(1, count) for total in sums.values()])
            figures = dict(zip(sums, means, strict=True)) if count else {}
            (kept_text,) = summed(self.group, [kept_text])
            if config.ptx is not None and count:
                figures["ptx_loss"] = kept_text / len(batches)
        return figures

    def _pair_step(self, pairs: _Pairs, some: Tensor, sums: dict[str, float]) -> float:
        """One step of the optimiser; adds to the sums over pairs, and returns the loss of text to keep."""
        at_once = (self.config.micro_batch or 2 * len(some)) // 2
        total, own = 0.0, self.group.share(some)
        for at in range(0, len(own), at_once):
            total += self._backward(pairs, own[at : at + at_once], len(some), sums)
        sums["policy_loss"] += total
        kept_text = self.learning.keep_text()
        loss = total / len(some) + kept_text
        self.learning.take_step(self.learning.optimiser, loss, "the policy's loss", self.step)
        return kept_text

    def _backward(self, pairs: _Pairs, part: Tensor, of: int, sums: dict[str, float]) -> float:
        """Adds the gradient of some pairs of a minibatch of `of`; returns their summed loss."""
        config, rows = self.config, torch.cat([pairs.first[part], pairs.second[part]])
        width = int(pairs.rollout.attended[rows].sum(dim=1).max())
        read = pairs.rollout.tokens[rows, :width], pairs.rollout.sampled[rows, :width]
        log_prob = self.reading.of_replies(*read).sum(dim=1)
        h1, h2 = (log_prob - pairs.beside[rows]).chunk(2)
        r1, r2 = pairs.reward[rows].chunk(2)
        label = labels_of(r1, r2, config.labels, config.temperature)
        loss = pair_losses(h1, h2, label, config.kl.weight)
        (loss.sum() / of).backward()
        with torch.no_grad():
            ordered = 0.5 + 0.5 * (h1 - h2).sign() * (r1 - r2).sign()
            sums["accuracy"] += float(ordered.sum())
            sums["margin"] += config.kl.weight * float(((h1 - h2) * (r1 - r2).sign()).sum())
            return float(loss.detach().sum())


_SMALL: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 32,
    "passes": 2,
    "optimiser": {"lr": 3e-4, "schedule": "constant"},
}
_TRL: Mapping[str, Any] = {"sampling": {"max_tokens": 64, "temperature": 0.9}}

ONLINE_DPO = OnlineDpoRecipe("online-dpo", OnlineDpo, {"trl": _TRL, "small": _SMALL})
