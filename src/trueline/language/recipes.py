"""The table of supervised recipes.

Defaults are those of TRL 1.16 where it has the recipe: rates 2e-5 (fine-tuning), 1e-4 (scores), 1e-6 (preferences),
sequences of 1024 tokens, Adam without decay on a linear schedule, gradients bounded by 1. Settings called "safe-rlhf"
are those of Safe RLHF (Dai et al. 2024); "small" ones suit models of a million parameters that start from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.language.supervised import (
    CostModelling,
    FineTuning,
    PreferenceTuning,
    RewardModelling,
    RewritingModelling,
    Supervised,
)

__all__ = ["COST_MODEL", "DPO", "REWARD_MODEL", "SEQ2SEQ_RM", "SFT"]

_SAFE_RLHF_ADAM: Mapping[str, Any] = {"schedule": "cosine", "warmup": 0.03, "beta_1": 0.9, "beta_2": 0.95}
_SCORES_2024: Mapping[str, Any] = {
    "length": 512,
    "epochs": 2.0,
    "batch_size": 16,
    "model": {"template": "safe-rlhf"},
    "data": {"as_chat": True},
    "optimiser": {**_SAFE_RLHF_ADAM, "lr": 2e-5, "weight_decay": 0.1},
}
_DPO_2024: Mapping[str, Any] = {
    "length": 512,
    "epochs": 2.0,
    "batch_size": 16,
    "model": {"template": "safe-rlhf"},
    "data": {"as_chat": True},
    "optimiser": {**_SAFE_RLHF_ADAM, "lr": 1e-6, "weight_decay": 0.05},
}


def _small(lr: float) -> Mapping[str, Any]:
    return {"length": 256, "batch_size": 32, "optimiser": {"lr": lr, "schedule": "cosine", "warmup": 0.05}}


SFT = Supervised("sft", FineTuning, {"small": _small(3e-3)})
REWARD_MODEL = Supervised("reward-model", RewardModelling, {"safe-rlhf": _SCORES_2024, "small": _small(1e-3)})
COST_MODEL = Supervised("cost-model", CostModelling, {"safe-rlhf": _SCORES_2024, "small": _small(1e-3)})
DPO = Supervised("dpo", PreferenceTuning, {"safe-rlhf": _DPO_2024, "small": _small(3e-4)})
SEQ2SEQ_RM = Supervised("seq2seq-rm", RewritingModelling, {"small": _small(3e-3)})
