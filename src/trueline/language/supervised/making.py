"""The model of a supervised training as it begins, and the memory that its training takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trueline.core.errors import ConfigError
from trueline.core.subject import Subject
from trueline.language.forward import Memory, activation_bytes, check_apart, weight_bytes
from trueline.language.models import attach_lora, check_learns, context_of, end_tokens
from trueline.language.objectives import Objective
from trueline.language.subject import History, LanguageModel, ScoreModel
from trueline.language.supervised.data import Prepared
from trueline.language.supervised.settings import Training, objective_of
from trueline.language.templates import TEMPLATES

__all__ = ["Made", "memory_of"]


@dataclass(slots=True)
class Made:
    """The model to train, with what has to be known of it."""

    model: Any  # a causal language model, or a ScoreModel
    tokenizer: Any
    context: int
    ends: tuple[int, ...]
    reference: Any = None  # a model of its own to compare with
    history: History = field(default_factory=History)  # of the model it starts from

    @classmethod
    def of(cls, config: Training, inputs: Mapping[str, Subject], rng: np.random.Generator) -> Made:
        """From the settings, or from the warm start."""
        objective = objective_of(config)
        start, score = inputs.get("policy"), objective.score is not None
        reference = _reference(inputs.get("reference"), objective)
        if config.model.template != "own" and isinstance(start, LanguageModel | ScoreModel):
            start.tokenizer.chat_template = TEMPLATES[config.model.template]
        if isinstance(start, ScoreModel) and score:
            return cls._of_scores(start, config, reference, int(rng.integers(2**63)))
        if start is not None and not isinstance(start, LanguageModel):
            raise ConfigError(
                f"the warm start is a {start.kind!r}. Give a language model" + (" or scores." if score else ".")
            )
        seed = int(rng.integers(2**63))
        lora = config.model.lora
        # Adapters of a score are on the body that it reads.
        base = config.model if not score else config.model.model_copy(update={"lora": None})
        if start is None:
            start = LanguageModel.of(base, np.random.default_rng(seed))
        elif lora is not None and not score:
            start = LanguageModel(attach_lora(start.model, lora, seed), start.tokenizer, start.parent, start.history)
        if not score:
            length = min(config.length, context_of(start.model))
            ends = end_tokens(start.model, start.tokenizer)
            return cls(start.model, start.tokenizer, length, ends, reference, start.history)
        assert objective.score is not None
        return cls._of_scores(ScoreModel.of(start, (objective.score,)), config, reference, seed)

    @classmethod
    def _of_scores(cls, model: ScoreModel, config: Training, reference: Any, seed: int) -> Made:
        wanted = objective_of(config).score
        if wanted not in model.heads:
            raise ConfigError(
                f"the score model gives {', '.join(model.heads)}, but {wanted} is learnt here. Start from another."
            )
        if config.model.lora is not None:
            model.body = attach_lora(model.body, config.model.lora, seed, headless=True)
        length = min(config.length, context_of(model.body))
        return cls(model, model.tokenizer, length, model.ends, reference, model.history)

    def check(self, config: Training) -> None:
        """Raises ConfigError for weights that steps would leave as they are, and sequences that packing would mix."""
        check_learns(self.model.parameters())
        if getattr(config, "packing", False):
            check_apart(self.model, self.tokenizer, self.context)

    @property
    def inner(self) -> Any:
        """The Hugging Face model."""
        return self.model.body if isinstance(self.model, ScoreModel) else self.model


def _reference(given: Subject | None, objective: Objective) -> Any:
    if given is None:
        return None
    if not objective.compares:
        raise ConfigError(f"{objective.kind} has no use for a reference. Leave that input out.")
    if not isinstance(given, LanguageModel):
        raise ConfigError(f"the reference is a {given.kind!r}. Give a language model.")
    return given.model


def memory_of(config: Training, made: Made, prepared: Prepared) -> Memory:
    """Bytes of training, estimated from shapes; the batch is of the longest rows."""
    objective = objective_of(config)
    weights = weight_bytes(made.model.parameters())
    trained = weight_bytes(p for p in made.model.parameters() if p.requires_grad)
    items = [item for source in prepared.sources for item in source]
    longest = max(len(row.tokens) for item in items for row in item.rows)
    rows = len(items[0].rows) * (config.micro_batch or config.batch_size)
    if getattr(config, "packing", False):
        mean = prepared.facts["tokens"] / sum(len(item.rows) for item in items)
        rows, longest = min(config.micro_batch or rows, math.ceil(rows * mean / made.context)), made.context
    kept = activation_bytes(
        made.inner,
        rows,
        longest,
        head=objective.score is None,
        checkpointing=config.gradient_checkpointing,
    )
    copied = objective.compares and (made.reference is not None or not hasattr(made.model, "disable_adapter"))
    return Memory(weights, trained, 2 * trained, weights if copied else 0, kept // (2 if config.autocast else 1))
