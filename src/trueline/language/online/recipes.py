"""The rows of on-line learning: a name, settings with their estimator, and named settings.

Presets `safe-rlhf` have the rates, schedules, clips, divergence weights, multipliers and template of Safe RLHF
(Dai et al. 2024), and the policy's loss is a mean over each reply and then over replies (`loss_type` "grpo"), as there.
They are not all of it:

1. It has a critic for the reward and one for the cost, begun as the reward and the cost model; here one critic with a
   head for each signal begins as the policy, its heads at 0 (critic.py).
2. Its critics' losses are means over each reply too; here a critic's loss is the mean over tokens.
3. Its 512 tokens are prompt and reply together; here they are the reply's alone (`sampling.max_tokens`).
4. It learns text beside the reward, with weight 16; here that needs data, so it is off until `ptx.data` is given.
5. Its batch is of 16 prompts a device; here a step has 32, divided among the processes.
6. It takes the divergence from the reward and adds it to the cost; here it is a signal of its own (signals.py). By the
   identity there the advantages are the same, and the constrained cost is the raw one.

`rloo` and `grpo` have the losses of TRL's trainers as long as the divergence weighs nothing. With β above 0:

7. GRPO's divergence is part of what replies are compared by, and so is divided by the group's deviation: signals are
   mixed before the division. With `kl.estimator` "k3" it is a term of each token's loss instead, as in TRL;
   with the ratio in it, which is TRL's default and was not in Shao et al. (2024).

And whatever β is:

8. RLOO clips the ratio of each token, where TRL clips that of the reply; at ratios of 1 both have its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trueline.core.run import Run
from trueline.core.subject import Subject
from trueline.language.online.checks import check_asking, check_prompts
from trueline.language.online.kept_text import check_text
from trueline.language.online.rehearsal import rehearsed
from trueline.language.online.settings import Online, OnlineGrpo, OnlinePpo, OnlinePpoLag, OnlineRloo, limits_of
from trueline.language.online.training import Trainer
from trueline.language.rehearsal import DryRun
from trueline.language.scorers import taken_by
from trueline.language.subject import LanguageModel

__all__ = ["GRPO", "LM_PPO", "LM_PPO_LAG", "RLOO", "OnlineRecipe"]


@dataclass(frozen=True)
class OnlineRecipe:
    """A row: a name, settings with their estimator, and named settings."""

    name: str
    Config: type[Online]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_parallel: ClassVar[bool] = True  # several processes may train one policy: see parallel.py

    def inputs_of(self, config: Online) -> Mapping[str, bool]:
        """A warm start, what the divergence is measured from, and what scorers name."""
        return {"policy": False, "reference": False, **taken_by(config.scorers)}

    def check(self, config: Online, root: Path) -> None:
        """Raises what `train` would raise for what does not depend on its inputs.

        That is sampling, text to keep, limits, the model's folder, models named by run, and keys of endpoints.
        """
        check_asking(config, root)
        if config.ptx is not None:
            check_text(config.ptx, root)
        self.limits(config)

    def check_with(self, config: Online, root: Path, inputs: Mapping[str, Path]) -> None:
        """Raises what `train` would raise for prompts, and for those that leave its policy no room for a reply."""
        check_prompts(config, root, inputs)

    def limits(self, config: Online) -> dict[str, float]:
        """The limit that each cost is trained for; {} when none is.  Raises ConfigError for limits that do not fit."""
        return limits_of(config, tuple(name for one in config.scorers for name in one.named_costs()))

    def dry_run(
        self, config: Online, inputs: Mapping[str, Subject] | None = None, root: Path | str = ".", seed: int = 0
    ) -> DryRun:
        """Steps, tokens, memory and the first three prompts.  Raises what `train` would raise at its start."""
        return rehearsed(config, inputs, root, seed)

    def train(self, config: Online, run: Run, inputs: Mapping[str, Subject]) -> LanguageModel:
        """Train; `inputs["policy"]` is what to start from, `inputs["reference"]` what the divergence is measured from.

        Without a reference it is the policy as it begins. Scorers name inputs of their own. Resumes from the run's last
        checkpoint. Raises ConfigError for settings and inputs that do not fit, Diverged when a loss or gradient is no
        longer finite, CheckpointError when the prompts changed since the run began.
        """
        return Trainer(config, run, inputs).train()


# --- the table ---

_SAFE_RLHF: Mapping[str, Any] = {
    "model": {"template": "safe-rlhf"},
    "sampling": {"max_tokens": 512},
    "loss_type": "grpo",
    "score_clip": 50.0,
    "optimiser": {
        "lr": 1e-5,
        "schedule": "cosine",
        "warmup": 0.03,
        "weight_decay": 0.01,
        "beta_1": 0.9,
        "beta_2": 0.95,
    },
    "critic": {
        "optimiser": {"lr": 5e-6, "schedule": "constant", "warmup": 0.03, "beta_1": 0.9, "beta_2": 0.95},
        "value_clip": 5.0,
    },
    "estimator": {"whiten": False},
}
_SMALL: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 64,
    "passes": 2,
    "optimiser": {"lr": 1e-3, "schedule": "constant"},
    "critic": {"optimiser": {"lr": 3e-3, "schedule": "constant"}},
}
_SMALL_GROUP: Mapping[str, Any] = {
    "sampling": {"max_tokens": 32},
    "batch_size": 16,
    "samples": 8,
    "optimiser": {"lr": 1e-3, "schedule": "constant"},
}

LM_PPO = OnlineRecipe("lm-ppo", OnlinePpo, {"safe-rlhf": {**_SAFE_RLHF, "kl": {"weight": 0.02}}, "small": _SMALL})
LM_PPO_LAG = OnlineRecipe(
    "lm-ppo-lag", OnlinePpoLag, {"safe-rlhf": {**_SAFE_RLHF, "kl": {"weight": 0.01}}, "small": _SMALL}
)
RLOO = OnlineRecipe("rloo", OnlineRloo, {"small": _SMALL_GROUP})
GRPO = OnlineRecipe("grpo", OnlineGrpo, {"small": _SMALL_GROUP})
