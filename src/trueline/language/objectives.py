"""What supervised trainers learn: from which records, as which sequences, by which loss.

An objective is a frozen configuration. The loop (supervised/) asks it for the items of a record, for the batches of a
step, and for the loss of a batch as a sum; it divides by the `total` of the whole step, so that the loss of accumulated
batches is the loss of their union.

    kind          records                                        loss (losses.py)
    likelihood    text, or prompt and completion                 nll over tokens
    rewriting     pairs                                          nll of the better answer, written after reading one
    reward        pairs                                          pair_loss
    cost          Safe RLHF's double judgements                  cost_loss
    dpo, ipo,     pairs                                          as called; all but simpo beside a reference
    simpo
    kto           good and bad answers, or pairs                 kto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.language.batches import Batch, Codec, Item, Row, micro_batches, mismatched, padded
from trueline.language.losses import (
    cost_loss,
    dpo,
    first_difference,
    held,
    ipo,
    kto,
    kto_reference,
    nll,
    pair_loss,
    simpo,
)
from trueline.language.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    Record,
    SafetyPreference,
    Text,
    UnpairedPreference,
    as_preference,
    as_unpaired,
)

__all__ = [
    "Cost",
    "Dpo",
    "Figure",
    "Forward",
    "Ipo",
    "Kto",
    "Likelihood",
    "Micro",
    "Objective",
    "Packing",
    "Reward",
    "Rewriting",
    "Simpo",
    "Terms",
    "TokenScores",
    "rewriting",
]

PAIRS = ("preference", "tree-preference", "safety-preference")


# --- what goes between the loop and an objective ---


class TokenScores(NamedTuple):
    """Of every token that counts, 0 elsewhere."""

    log_prob: Tensor  # [R, T]
    likeliest: Tensor | None = None  # [R, T] bool, where asked for: no other token was likelier


class Forward(Protocol):
    """The models of a training run."""

    def tokens(self, batch: Batch, hits: bool = False) -> TokenScores:
        """Log-probabilities under the model that is trained; with `hits`, which tokens were the likeliest."""
        ...

    def reference(self, batch: Batch) -> Tensor:
        """Log-probabilities [R, T] under the frozen reference, without gradient."""
        ...

    def scores(self, batch: Batch) -> Tensor:
        """The score [R, T] after reading each token, by the scalar model that is trained."""
        ...


class Figure(NamedTuple):
    """A number to report: a sum over what was counted, so that batches add up."""

    sum: Tensor
    over: Tensor | float  # how many were counted


class Terms(NamedTuple):
    """The loss of one batch as a sum, and figures by name, without gradient."""

    loss: Tensor
    figures: Mapping[str, Figure]


class Packing(NamedTuple):
    """How sequences become batches."""

    pad: int  # the padding token
    per_batch: int  # rows, or items of several rows, at once
    context: int  # tokens that a row may have
    packs: bool = False  # several sequences into a row of so many; else each has its own

    @property
    def room(self) -> int | None:
        """Tokens of a row that sequences share; None where each has its own."""
        return self.context if self.packs else None


@dataclass(frozen=True, slots=True)
class Micro:
    """One batch, with the labels of its items."""

    batch: Batch
    labels: Tensor  # [B, labels of an item]
    constants: Mapping[str, Tensor] = field(default_factory=dict)  # of the step, such as kto's z₀

    def to(self, device: torch.device | str) -> Micro:
        """The batch on another device."""
        moved = {name: value.to(device) for name, value in self.constants.items()}
        return Micro(self.batch.to(device), self.labels.to(device), moved)


class Objective(Protocol):
    """What a recipe's `loss` settings are."""

    accepts: ClassVar[tuple[str, ...]]  # formats of records
    score: ClassVar[str | None]  # the score that is learnt, by name; none: a language model is
    dropout: ClassVar[bool]  # whether the model's own dropout is on in training
    compares: ClassVar[bool]  # whether it needs a reference

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def items(self, record: Any, codec: Codec, where: str) -> tuple[Item, ...]:
        """What is learnt from a record; () where the policy for long texts drops it."""
        ...

    def total(self, items: Sequence[Item]) -> float:
        """What the loss of these items is divided by."""
        ...

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:
        """The batches of a step."""
        ...

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """Loss and figures of a batch."""
        ...


def _of_pairs(items: Sequence[Item], packing: Packing) -> Iterable[Micro]:
    """Batches of all first rows, then all second rows of the items; long ones together."""
    longest_first = sorted(items, key=lambda item: -max(len(row.tokens) for row in item.rows))
    for at in range(0, len(items), packing.per_batch):
        part = longest_first[at : at + packing.per_batch]
        rows = [item.rows[k] for k in range(len(part[0].rows)) for item in part]
        yield Micro(padded(rows, packing.pad), _labels(part))


def _labels(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.labels for item in items])


def _figure(values: Tensor) -> Figure:
    return Figure(values.detach().double().sum(), float(values.numel()))


# --- likelihood ---


class Likelihood(Config):
    """Maximum likelihood of text, of completions, or of the assistant's turns; of pairs, that of their answers."""

    accepts: ClassVar[tuple[str, ...]] = ("language-modelling", "prompt-completion", *PAIRS)
    score: ClassVar[str | None] = None
    dropout: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    kind: Literal["likelihood"] = "likelihood"
    # Tokens of completions; of the assistant's turns in their prompts too; or of all. Of text without a prompt, all; of
    # messages without one, those of the assistant, unless it is all.
    learn: Literal["completion", "assistant", "all"] = "completion"
    # Which answers of a pair are learnt. Harmful ones are told by safety pairs alone, of which none, one or both are.
    pairs: Literal["better", "worse", "both", "harmful"] = "better"

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """One sequence for each answer that is learnt."""
        if isinstance(record, LanguageModelling):
            row = codec.text(record.text, "all" if self.learn == "all" else "assistant", where)
            return (Item((row,)),) if row is not None else ()
        answers = _answers(record, self.pairs)
        return tuple(
            Item(rows) for answer in answers if (rows := codec.answers(record.prompt, [answer], where, self.learn))
        )

    def total(self, items: Sequence[Item]) -> float:
        """The weight of all tokens."""
        return _weight(items)

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:  # noqa: ARG002
        """Sequences, padded or packed."""
        return _of_sequences(items, packing)

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """−Σ w·log π, and the share of tokens that no other token was likelier than."""
        return _likelihood(forward, micro)


def _answers(record: Record, pairs: str) -> list[Text]:
    """What is learnt of a record with answers; of one without harm no harmful ones are known."""
    if isinstance(record, PromptCompletion):
        return [record.completion]
    assert isinstance(record, Preference | SafetyPreference)
    if pairs == "harmful":
        if not isinstance(record, SafetyPreference):
            return []
        return [answer for answer, safe in zip(record.responses, record.safe, strict=True) if not safe]
    pair = as_preference(record)
    return {"better": [pair.chosen], "worse": [pair.rejected], "both": [pair.chosen, pair.rejected]}[pairs]


def _of_sequences(items: Sequence[Item], packing: Packing) -> Iterable[Micro]:
    rows = [row for item in items for row in item.rows]
    for batch in micro_batches(rows, packing.pad, packing.per_batch, packing.room):
        yield Micro(batch, torch.zeros(len(batch.tokens), 0))


def _weight(items: Sequence[Item]) -> float:
    return float(np.concatenate([row.weight for item in items for row in item.rows]).sum(dtype=np.float64))


def _likelihood(forward: Forward, micro: Micro) -> Terms:
    found, weight = forward.tokens(micro.batch, hits=True), micro.batch.weight
    assert found.likeliest is not None
    counted = weight > 0
    right = Figure((found.likeliest & counted).sum(), counted.sum())
    return Terms(nll(found.log_prob, weight, 1.0), {"accuracy": right})


class Rewriting(Config):
    """Sequence-to-sequence reward model: read an answer, write the better one (arXiv 2409.00162).

    From each pair two sequences are learnt: the rejected answer is read and the chosen one written (correction), and
    the chosen one is read and written again (identity).
    """

    accepts: ClassVar[tuple[str, ...]] = PAIRS
    score: ClassVar[str | None] = None
    dropout: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    kind: Literal["rewriting"] = "rewriting"
    identity: float = Field(1.0, ge=0)  # λ_id: weight of the identity mapping
    separator: str | None = None  # text between what is read and what is written; none: the beginning (or end) token

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """Correction and identity of one pair; the correction alone where the other weighs nothing.

        An answer that leaves no room to write another one is cut where it is read, dropped or refused (`long_answer`).
        """
        assert isinstance(record, Preference | SafetyPreference)
        pair = as_preference(record)
        chosen, rejected = (codec.encoded(pair.prompt, answer) for answer in (pair.chosen, pair.rejected))
        between = separator(codec.tokenizer, self.separator)
        weights = ((rejected, 1.0), (chosen, self.identity)) if self.identity else ((rejected, 1.0),)
        fitted = []
        for read, weight in weights:
            shown = codec.shown(read, len(between), len(chosen.answer), where)
            fitted.append(() if shown is None else codec.fit([rewriting(shown, chosen, between, weight)], where))
        return (Item(tuple(row for one in fitted for row in one)),) if all(fitted) else ()

    def total(self, items: Sequence[Item]) -> float:
        """The weight of all tokens."""
        return _weight(items)

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:  # noqa: ARG002
        """Sequences, padded or packed."""
        return _of_sequences(items, packing)

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """−Σ w·log π over what is written."""
        return _likelihood(forward, micro)


def separator(tokenizer: Any, text: str | None) -> list[int]:
    """Tokens between what is read and what is written."""
    if text is not None:
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    return [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def rewriting(read: Row, written: Row, between: Sequence[int], weight: float) -> Row:
    """[x ; read ; separator ; written], learnt on what is written, its end token included, with `weight` a token.

    Both rows begin with the same prompt x.
    """
    tokens = np.concatenate([read.tokens, np.asarray(between, dtype=np.int64), written.answer])
    learnt = np.zeros(len(tokens), dtype=np.float32)
    start = len(tokens) - len(written.answer)
    learnt[start:] = weight
    return Row(tokens, learnt, start)


# --- scalar models ---


class _Compared(NamedTuple):
    """The positions at which two sequences of scores are compared."""

    first: Tensor  # [B, N]
    second: Tensor  # [B, N]
    mask: Tensor | None  # [B, N]
    end_first: Tensor  # [B]
    end_second: Tensor  # [B]


def _compared(scores: Tensor, batch: Batch, credit: Literal["sequence", "token"]) -> _Compared:
    """Scores [2B, T] of the first rows, then the second rows, at their ends, or from their first difference on."""
    kept = held(scores, batch.length)
    first, second = kept.chunk(2)
    ends = first[:, -1], second[:, -1]  # the last column holds each row's end
    if credit == "sequence":
        return _Compared(first[:, -1:], second[:, -1:], None, *ends)
    tokens, length = batch.tokens.chunk(2), batch.length.chunk(2)
    return _Compared(first, second, first_difference(*tokens, *length), *ends)


class Reward(Config):
    """Scalar reward model (Bradley & Terry): the chosen answer's score above the rejected one's."""

    accepts: ClassVar[tuple[str, ...]] = PAIRS
    score: ClassVar[str | None] = "reward"
    dropout: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    kind: Literal["reward"] = "reward"
    credit: Literal["sequence", "token"] = "sequence"  # compare the ends, or every token from the first difference on
    rho: float = Field(0.001, ge=0)  # ρ of ρ·mean r², which keeps scores near 0

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """The pair, the better answer first."""
        return _pair(record, codec, where)

    def total(self, items: Sequence[Item]) -> float:
        """Pairs."""
        return float(len(items))

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:  # noqa: ARG002
        """Pairs."""
        return _of_pairs(items, packing)

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The pairs' losses; how many are in order, by how much, and the scores of both."""
        c = _compared(forward.scores(micro.batch), micro.batch, self.credit)
        loss = pair_loss(c.first, c.second, c.mask, self.rho)
        return Terms(loss.sum(), _order(c.end_first, c.end_second))


class Cost(Config):
    """Cost model of Safe RLHF (Dai et al. 2024): higher for the more harmful answer, above 0 for a harmful one."""

    accepts: ClassVar[tuple[str, ...]] = ("safety-preference",)
    score: ClassVar[str | None] = "cost"
    dropout: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    kind: Literal["cost"] = "cost"
    credit: Literal["sequence", "token"] = "sequence"
    rho: float = Field(0.001, ge=0)

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """The pair, the safer answer first, with a sign for each: −1 safe, +1 unsafe."""
        assert isinstance(record, SafetyPreference)
        order = (record.safer, 1 - record.safer)
        rows = codec.answers(record.prompt, [record.responses[k] for k in order], where)
        return (Item(rows, tuple(-1.0 if record.safe[k] else 1.0 for k in order)),) if rows else ()

    def total(self, items: Sequence[Item]) -> float:
        """Pairs."""
        return float(len(items))

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:  # noqa: ARG002
        """Pairs."""
        return _of_pairs(items, packing)

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The pairs' losses; how many are in order, and how many costs have the right sign."""
        c = _compared(forward.scores(micro.batch), micro.batch, self.credit)
        sign_safer, sign_unsafer = micro.labels.unbind(dim=1)
        loss = cost_loss(c.first, c.second, sign_safer, sign_unsafer, c.mask, self.rho)
        signs = torch.stack([sign_safer * c.end_first > 0, sign_unsafer * c.end_second > 0])
        order = _order(c.end_second, c.end_first, ("unsafer", "safer"))
        return Terms(loss.sum(), {**order, "sign_accuracy": _figure(signs)})


def _pair(record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
    assert isinstance(record, Preference | SafetyPreference)
    pair = as_preference(record)
    rows = codec.answers(pair.prompt, [pair.chosen, pair.rejected], where)
    return (Item(rows),) if rows else ()


def _order(high: Tensor, low: Tensor, names: tuple[str, str] = ("chosen", "rejected")) -> dict[str, Figure]:
    """What is to lie higher and what lower, [B] each: share in that order, margin, and means."""
    return {
        "accuracy": _figure(high > low),
        "margin": _figure(high - low),
        names[0]: _figure(high),
        names[1]: _figure(low),
    }


# --- preferences without a reward model ---


def _sums(log_prob: Tensor, batch: Batch) -> Tensor:
    return (log_prob * batch.weight).sum(dim=1)


class _Direct(Config):
    """What the losses over pairs of answers share."""

    accepts: ClassVar[tuple[str, ...]] = PAIRS
    score: ClassVar[str | None] = None
    dropout: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """The pair, the better answer first."""
        return _pair(record, codec, where)

    def total(self, items: Sequence[Item]) -> float:
        """Items."""
        return float(len(items))

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:  # noqa: ARG002
        """Pairs."""
        return _of_pairs(items, packing)


def _log_ratio(forward: Forward, batch: Batch) -> Tensor:
    """h = log π − log π_ref of each row [R]."""
    # The reference first: what it computes is let go of before the model's activations, which stay, are made.
    beside = _sums(forward.reference(batch), batch)
    return _sums(forward.tokens(batch).log_prob, batch) - beside


class _Ratios(NamedTuple):
    """h = log π − log π_ref of chosen and rejected answers, and their lengths; each [B]."""

    chosen: Tensor
    rejected: Tensor
    length_w: Tensor
    length_l: Tensor


def _ratios(forward: Forward, batch: Batch) -> _Ratios:
    return _Ratios(*_log_ratio(forward, batch).chunk(2), *batch.weight.sum(dim=1).chunk(2))


class Dpo(_Direct):
    """Direct preference optimisation (Rafailov et al. 2023); with label noise, cDPO (Mitchell 2023)."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)  # β: how dear the distance from the reference is
    label_noise: float = Field(0.0, ge=0, lt=0.5)  # ε: share of pairs taken to be the wrong way round

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The pairs' losses and implicit rewards β·h."""
        h = _ratios(forward, micro.batch)
        loss = dpo(h.chosen, h.rejected, self.beta, self.label_noise)
        return Terms(loss.sum(), _order(self.beta * h.chosen, self.beta * h.rejected))


class Ipo(_Direct):
    """Identity preference optimisation (Azar et al. 2024): regress the difference of log-ratios on 1/(2β)."""

    kind: Literal["ipo"] = "ipo"
    beta: float = Field(0.1, gt=0)  # τ of the paper

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The pairs' losses and implicit rewards β·h/|y|."""
        h = _ratios(forward, micro.batch)
        loss = ipo(h.chosen, h.rejected, h.length_w, h.length_l, self.beta)
        return Terms(loss.sum(), _order(self.beta * h.chosen / h.length_w, self.beta * h.rejected / h.length_l))


class Simpo(_Direct):
    """Simple preference optimisation (Meng et al. 2024): mean log-probability as reward, a margin, no reference."""

    compares: ClassVar[bool] = False

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    gamma: float = Field(0.5, ge=0)  # γ: by how much the chosen answer's reward should lie above

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The pairs' losses and rewards β·log π/|y|."""
        chosen, rejected = _sums(forward.tokens(micro.batch).log_prob, micro.batch).chunk(2)
        length_w, length_l = micro.batch.weight.sum(dim=1).chunk(2)
        loss = simpo(chosen, rejected, length_w, length_l, self.beta, self.gamma)
        return Terms(loss.sum(), _order(self.beta * chosen / length_w, self.beta * rejected / length_l))


class Kto(_Direct):
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024): answers that are good or bad by themselves.

    z₀ is estimated over the whole step, from each prompt with the answer of the nearest item before it of another one.
    """

    accepts: ClassVar[tuple[str, ...]] = (*PAIRS, "unpaired-preference")

    kind: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0)
    desirable: float = Field(1.0, gt=0)  # λ_D: weight of good answers
    undesirable: float = Field(1.0, gt=0)  # λ_U: weight of bad ones

    def items(self, record: Record, codec: Codec, where: str) -> tuple[Item, ...]:
        """Answers by themselves, with 1 for a good one and 0 for a bad one."""
        assert isinstance(record, Preference | SafetyPreference | UnpairedPreference)
        made = []
        for one in as_unpaired(record):
            rows = codec.answers(one.prompt, [one.completion], where)
            made += [Item(rows, (float(one.label),))] if rows else []
        return tuple(made)

    def micros(self, items: Sequence[Item], packing: Packing, forward: Forward) -> Iterable[Micro]:
        """Answers, with z₀ of the step."""
        others = mismatched(items, packing.context)
        with torch.no_grad():
            ratios = [_log_ratio(forward, other.batch) for other in _of_pairs(others, packing)]
        z0 = kto_reference(torch.cat(ratios))
        for micro in _of_pairs(items, packing):
            yield Micro(micro.batch, micro.labels, {"reference": z0})

    def terms(self, forward: Forward, micro: Micro) -> Terms:
        """The answers' losses, z₀, and implicit rewards β·h of good and of bad ones."""
        good = micro.labels[:, 0] > 0.5
        ratio = _log_ratio(forward, micro.batch)
        z0 = micro.constants["reference"]
        loss = kto(ratio, good, z0, self.beta, self.desirable, self.undesirable)
        reward = self.beta * ratio
        kl = Figure(z0.double() * len(ratio), float(len(ratio)))
        return Terms(loss.sum(), {"kl": kl, "good": _figure(reward[good]), "bad": _figure(reward[~good])})
