"""Further training of a throw-away copy of a language model, by one protocol for every model.

A count of items until something happens means nothing unless rate, batch and optimiser are told. So the protocol is a
value: AdamW with a fresh state, 8 items a step, a constant rate, every item once. What is trained is a copy; the model
it is made from stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field, field_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError, Diverged
from trueline.core.subject import Subject
from trueline.language.batches import Item
from trueline.language.forward import Models, learning_mode
from trueline.language.models import Lora, attach_lora, context_of, end_tokens, merged
from trueline.language.objectives import Likelihood, Packing
from trueline.language.optimiser import AdamW, Optimiser
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel
from trueline.language.supervised import FineTuning, prepare

__all__ = ["Stage", "Tunable", "TuneProtocol", "copied", "items_in", "tuned", "tuning", "tuning_on"]


class TuneProtocol(Config):
    """How a copy is trained further."""

    optimiser: AdamW = AdamW(schedule="constant")  # its state is fresh, whatever trained the model before
    batch_size: int = Field(8, ge=1)  # items of a step
    items: int | None = Field(None, ge=1)  # trained on in all; none: each of the data once
    marks: tuple[int, ...] = ()  # counts of items at which the copy is shown, besides the last
    length: int = Field(1024, ge=2)  # tokens of the longest sequence; no more than the model's context is used
    loss: Likelihood = Likelihood()
    lora: Lora | None = None  # train fresh adapters and leave the weights as they are

    @field_validator("marks")
    @classmethod
    def _counts(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(mark < 0 for mark in value):
            raise ValueError(f"marks hold {min(value)}. Give counts of items from 0.")
        return tuple(sorted(set(value)))


@dataclass(frozen=True, slots=True)
class Stage:
    """The copy after so many items. It is trained on when the next stage is asked for: `copied` keeps it."""

    items: int
    tokens: int  # learnt
    loss: float  # mean over those tokens of -log π(token), each before the step that learns it; nan before the first
    gradient: float  # sum of the gradient's norms, before clipping
    subject: LanguageModel


@runtime_checkable
class Tunable(Protocol):
    """Capability: further training of a throw-away copy (elasticity, fine-tuning attacks)."""

    def tuning(self, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path) -> Iterator[Stage]:
        """The copy at each of the protocol's marks and after the last item; `root` is the folder of runs."""
        ...

    def tuned(self, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path) -> Subject:
        """The copy after the last item."""
        ...


def tuned(
    subject: LanguageModel, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path | str = "."
) -> LanguageModel:
    """A copy of `subject`, trained on `data`.  Raises as `tuning`."""
    *_, last = tuning(subject, data, protocol, rng, root)
    return last.subject


def tuning(
    subject: LanguageModel, data: Data, protocol: TuneProtocol, rng: np.random.Generator, root: Path | str = "."
) -> Iterator[Stage]:
    """Stages of a copy of `subject` that is trained on `data`, in an order drawn from `rng`.

    Where the protocol asks for more items than there are, they come again. `root` is the folder of runs. Raises
    ConfigError for data that do not fit or marks beyond the last item, Diverged when the loss is no longer finite.
    """
    n = protocol.items
    return tuning_on(subject, items_in(subject, data, protocol, rng, n, root), protocol, rng)


def items_in(
    subject: LanguageModel,
    data: Data,
    protocol: TuneProtocol,
    rng: np.random.Generator,
    n: int | None = None,
    root: Path | str = ".",
) -> list[Item]:
    """`n` items of `data` as the subject's tokens, or each of them once, in an order drawn from `rng`."""
    settings = FineTuning(data=data, loss=protocol.loss, length=protocol.length)
    context = min(protocol.length, context_of(subject.model))
    prepared = prepare(settings, subject.tokenizer, context, end_tokens(subject.model, subject.tokenizer), root)
    order = prepared.order(data, int(rng.integers(2**31)))
    return [prepared.sources[place.source][place.row] for place in order.take(n or order.epoch_rows)]


def tuning_on(
    subject: LanguageModel, items: Sequence[Item], protocol: TuneProtocol, rng: np.random.Generator
) -> Iterator[Stage]:
    """Stages of a copy of `subject` that is trained on `items` in their order, each once.

    A mark is met by the first step that reaches it; the protocol's `items`, if given, says where the items end.
    """
    items = items[: protocol.items]
    beyond = [mark for mark in protocol.marks if mark > len(items)]
    if beyond:
        raise ConfigError(f"mark {beyond[0]} lies beyond the {len(items)} items. Give more items, or an earlier mark.")
    return _stages(subject, items, protocol, rng)


def copied(subject: LanguageModel) -> LanguageModel:
    """A model of its own with the same weights, adapters added into them, all of which can be trained."""
    plain = merged(subject.model)
    plain = copy.deepcopy(plain) if plain is subject.model else plain
    return LanguageModel(plain.requires_grad_(True), subject.tokenizer, subject.parent, subject.history)


def _stages(
    subject: LanguageModel, items: Sequence[Item], protocol: TuneProtocol, rng: np.random.Generator
) -> Iterator[Stage]:
    trained, seed = copied(subject), int(rng.integers(2**63))
    if protocol.lora is None:
        trained.model.float()  # in a shorter type most of a step would be rounded away (`check_learns`)
    else:
        trained.model = attach_lora(trained.model, protocol.lora, seed)
    model, objective, size = trained.model, protocol.loss, protocol.batch_size
    device = model.device
    models = Models(model, device=device)
    optimiser = Optimiser(protocol.optimiser, model.parameters(), math.ceil(len(items) / size))
    packing = Packing(trained.tokenizer.pad_token_id, 2**31, context_of(model))
    marks = list(protocol.marks)
    tokens, nll, gradient = 0.0, 0.0, 0.0

    def stage(done: int) -> Stage:
        model.eval()
        return Stage(done, round(tokens), nll / tokens if tokens else math.nan, gradient, trained)

    if marks and marks[0] == 0:
        yield stage(0)
    for at in range(0, len(items), size):
        part = items[at : at + size]
        done, total = at + len(part), objective.total(part)
        learning_mode(model, objective.dropout)
        # The seed is a step's own, so that whoever looks at a stage cannot disturb what follows.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((seed + at) % 2**63)
            for micro in objective.micros(part, packing, models):
                loss = objective.terms(models, micro.to(device)).loss
                (loss / total).backward()
                nll += loss.item()
        tokens += total
        norm = optimiser.step().item()
        if not (math.isfinite(nll) and math.isfinite(norm)):
            raise Diverged(optimiser.taken, "the loss" if math.isfinite(norm) else "the gradient")
        gradient += norm
        crossed = any(mark <= done for mark in marks if mark > at)
        if crossed or done == len(items):
            yield stage(done)
