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
paired as they were drawn, so that pairs are independent draws of the policy; and a pair that a scorer could not judge
whole is left out. Costs are measured and not limited.

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
from trueline.language.forward import learning_mode
from trueline.language.losses import dpo
from trueline.language.online import Online, OnlineRecipe, Trainer
from trueline.language.optimiser import AdamW
from trueline.language.parallel import sums as summed
from trueline.language.rollout import Rollout
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

    def one_step(self) -> str:
        """Sample, score, label, learn.  Returns a note for whoever waits; raises Diverged."""
        config = self.config
        self.policy.model.eval()
        asked = [self.prompts.chats[place.source][place.row] for place in self.order.take(config.batch_size)]
        rollout, scores = self._sampled([one for one in asked for _ in range(config.samples)])
        signals = signals_of(
            rollout, scores, credit=self.scorer.credit, cut_penalty=config.cut_penalty, score_clip=config.score_clip
        )
        by_token = self._old(rollout), self._beside(rollout)
        old, beside = (torch.where(rollout.sampled, x, 0.0).sum(dim=1) for x in by_token)
        first = torch.arange(0, self.replies, 2, device=old.device)
        whole = ~(scores.missing[first] | scores.missing[first + 1])
        pairs = _Pairs(rollout, beside, signals.total[:, 0], first[whole], first[whole] + 1)
        figures = self._learn(pairs)
        self.step += 1
        note = self._log(rollout, scores, (old - beside)[~scores.missing], figures)
        if self.step % config.completion_steps == 0 or self.step == self.steps:
            self._write_down(rollout, scores)
        return note

    def _learn(self, pairs: _Pairs) -> dict[str, float]:
        """Passes over the pairs in random order; returns means over the last of them."""
        config, count = self.config, len(pairs.first)
        size = (config.minibatch or self.replies) // 2
        figures: dict[str, float] = {}
        learning_mode(self.policy.model, False)
        for _ in range(config.passes):
            sums = {"policy_loss": 0.0, "accuracy": 0.0, "margin": 0.0}
            extra, batches = {"ptx_loss": 0.0}, 0
            order = torch.as_tensor(self.run.rng("update").permutation(count), device=pairs.first.device)
            for at in range(0, count, size):
                extra["ptx_loss"] += self._pair_step(pairs, order[at : at + size], sums)
                batches += 1
            means = summed(self.group, [total / max(1, count) for total in sums.values()])
            figures = dict(zip(sums, means, strict=True)) if count else {}
            (kept,) = summed(self.group, [extra["ptx_loss"]])
            if self.ptx_order is not None and batches:
                figures["ptx_loss"] = kept / batches
        return figures

    def _pair_step(self, pairs: _Pairs, some: Tensor, sums: dict[str, float]) -> float:
        """One step of the optimiser; adds to the sums over pairs, and returns the loss of text to keep."""
        config = self.config
        at_once = (config.micro_batch or 2 * len(some)) // 2
        total, own = 0.0, self.group.share(some)
        for at in range(0, len(own), at_once):
            part = own[at : at + at_once]
            rows = torch.cat([pairs.first[part], pairs.second[part]])
            width = int(pairs.rollout.attended[rows].sum(dim=1).max())
            read = pairs.rollout.tokens[rows, :width], pairs.rollout.sampled[rows, :width]
            log_prob = self._reply_log_prob(self.policy.model, *read).sum(dim=1)
            h1, h2 = (log_prob - pairs.beside[rows]).chunk(2)
            r1, r2 = pairs.reward[rows].chunk(2)
            label = labels_of(r1, r2, config.labels, config.temperature)
            loss = pair_losses(h1, h2, label, config.kl.weight)
            (loss.sum() / len(some)).backward()
            total += float(loss.detach().sum())
            with torch.no_grad():
                ordered = 0.5 + 0.5 * (h1 - h2).sign() * (r1 - r2).sign()
                sums["accuracy"] += float(ordered.sum())
                sums["margin"] += config.kl.weight * float(((h1 - h2) * (r1 - r2).sign()).sum())
        sums["policy_loss"] += total
        mean, kept = total / len(some), 0.0
        if self.ptx_order is not None:
            extra = self._ptx_loss()
            if extra is not None:
                extra.backward()
                kept = extra.item()
        self._stepped(self.optimiser, mean + kept, "the policy's loss")
        return kept


_SMALL: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 32,
    "passes": 2,
    "optimiser": {"lr": 3e-4, "schedule": "constant"},
}
_TRL: Mapping[str, Any] = {"sampling": {"max_tokens": 64, "temperature": 0.9}}

ONLINE_DPO = OnlineDpoRecipe("online-dpo", OnlineDpo, {"trl": _TRL, "small": _SMALL})
