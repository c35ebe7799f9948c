"""What a user says of a supervised training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from trueline.core.config import Config, Harmless
from trueline.language.models import ModelRef
from trueline.language.objectives import Cost, Dpo, Ipo, Kto, Likelihood, Objective, Reward, Rewriting, Simpo
from trueline.language.optimiser import AdamW
from trueline.language.sources import Data

__all__ = [
    "CostModelling",
    "FineTuning",
    "PreferenceTuning",
    "RewardModelling",
    "RewritingModelling",
    "Training",
    "objective_of",
]


class Training(Config):
    """Settings every supervised recipe shares."""

    model: ModelRef = ModelRef()  # with a warm start, its template and adapters alone
    data: Data
    evaluation: Harmless[Data | None] = None  # rows to evaluate with
    held_out: float = Field(0.0, ge=0, lt=1)  # or: share of the prompts of `data` that are put aside for it
    length: int = Field(1024, ge=2)  # tokens of the longest sequence; no more than the model's context is used
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)  # steps of the optimiser, instead of epochs
    batch_size: int = Field(8, ge=1)  # items of a step
    micro_batch: int | None = Field(None, ge=1)  # rows or items at once; none: the whole step
    optimiser: AdamW = AdamW()
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    autocast: Literal["bfloat16"] | None = None  # type of the matrix products; weights keep theirs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Among several processes: weights cut up (FSDP2), or whole in each; auto: cut up on accelerators.
    weights: Literal["auto", "cut", "whole"] = "auto"
    learner_threads: int = Field(1, ge=1)
    eval_steps: Harmless[int] = Field(100, ge=1)  # steps between evaluations
    log_steps: Harmless[int] = Field(10, ge=1)  # steps whose mean is logged
    checkpoint_steps: Harmless[int] = Field(100, ge=1)

    @model_validator(mode="after")
    def _one_way_to_evaluate(self) -> Self:
        if self.evaluation is not None and self.held_out:
            raise ValueError("evaluation and held_out are both given. Give the rows to evaluate with, or a share.")
        return self


class _Sequences(Training):
    """Settings where single sequences are learnt."""

    packing: bool = False  # several sequences in a row of `length` tokens, apart from each other


class FineTuning(_Sequences):
    """Settings of supervised fine-tuning."""

    loss: Likelihood = Likelihood()


class RewritingModelling(_Sequences):
    """Settings of the sequence-to-sequence reward model."""

    loss: Rewriting = Rewriting()


class RewardModelling(Training):
    """Settings of the scalar reward model."""

    loss: Reward = Reward()
    optimiser: AdamW = AdamW(lr=1e-4)


class CostModelling(Training):
    """Settings of the cost model."""

    loss: Cost = Cost()
    optimiser: AdamW = AdamW(lr=1e-4)


class PreferenceTuning(Training):
    """Settings of learning from preferences without a reward model."""

    loss: Dpo | Ipo | Simpo | Kto = Dpo()  # told apart by `kind`
    optimiser: AdamW = AdamW(lr=1e-6)

    @model_validator(mode="after")
    def _pairs_of_prompts(self) -> Self:
        if isinstance(self.loss, Kto) and self.batch_size < 2:
            raise ValueError("batch_size is 1, but kto compares each prompt with another's answer. Use 2 or more.")
        return self


def objective_of(config: Training) -> Objective:
    """What a configuration learns."""
    return config.loss  # type: ignore[attr-defined]  # every recipe's settings have it
