"""Settings of on-line recipes: what is asked, who scores, how a step is cut up, and what each estimator adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from trueline.core.config import Config, Harmless
from trueline.core.errors import ConfigError
from trueline.language.estimators import Gae, Grpo, LossType, Rloo
from trueline.language.models import ModelRef
from trueline.language.online.critic import Critic, SharedCritic
from trueline.language.optimiser import AdamW
from trueline.language.rollout import Sampling
from trueline.language.sampler import Auto, Samplers, Vllm
from trueline.language.scorers import Scoring
from trueline.language.signals import LARGEST_ERROR, Kl
from trueline.language.sources import Data
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian

__all__ = [
    "SAFE_RLHF_HANDLER",
    "Asking",
    "Online",
    "OnlineGrpo",
    "OnlinePpo",
    "OnlinePpoLag",
    "OnlineRloo",
    "Ptx",
    "limits_of",
]

Multipliers = Lagrangian | PidLagrangian  # told apart by `kind`

SAFE_RLHF_HANDLER = Lagrangian(rule="log-sgd", lr=0.1, init=1.0, upper=5.0)


class Ptx(Config):
    """Text the policy is to keep writing: its likelihood is learnt beside the reward (Ouyang et al. 2022)."""

    data: Data
    weight: float = Field(16.0, gt=0)  # of −log π per token
    batch_size: int = Field(8, ge=1)  # rows beside each step of the optimiser


class Asking(Config):
    """Who is asked what, and who scores the replies: settings of everything that learns from replies of its own."""

    model: ModelRef = ModelRef()  # with a warm start, its template and adapters alone
    prompts: Data  # plain ones are asked as a user's turn, in the model's template
    scorers: tuple[Scoring, ...]
    sampling: Sampling = Sampling()
    sampler: Samplers = Auto()
    findings: tuple[str, ...] = ()  # run://ID/artefact each, listing prompts that failed an audit
    findings_share: float = Field(0.25, gt=0, lt=1)  # share of prompts that come from those


class Online(Asking):
    """Settings every on-line recipe shares."""

    samples: int = Field(1, ge=1)  # replies to each prompt of a step
    batch_size: int = Field(32, ge=1)  # prompts of a step
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)  # steps, instead of epochs
    passes: int = Field(1, ge=1)  # over the replies of a step
    minibatch: int | None = Field(None, ge=1)  # replies of a step of the optimiser; none: all of them
    micro_batch: int | None = Field(None, ge=1)  # replies at once; none: the whole minibatch
    clip: float = Field(0.2, gt=0, lt=1)  # ε of the surrogate
    loss_type: LossType = "dapo"  # how length counts, by TRL's names
    kl: Kl = Kl()
    cut_penalty: float = Field(0.0, ge=0)  # taken from the reward of a reply cut at the length limit
    score_clip: float | None = Field(None, gt=0)  # bound on what one token earns or costs; J_C is not bounded
    optimiser: AdamW = AdamW(lr=1e-6)
    ptx: Ptx | None = None
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    # Type of the matrix products of what learns and of what it is measured from; weights keep theirs, and replies are
    # drawn in it.
    autocast: Literal["bfloat16"] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    learner_threads: int = Field(1, ge=1)
    completion_steps: int = Field(10, ge=1)  # steps between the replies that are written down
    completions: int = Field(8, ge=0)  # how many of them
    eval_steps: Harmless[int] = Field(10, ge=1)  # steps between looks of whoever watches the run
    checkpoint_steps: Harmless[int] = Field(10, ge=1)

    @model_validator(mode="after")
    def _effective(self) -> Self:
        for name in ("minibatch", "micro_batch"):
            given = getattr(self, name)
            if given is not None and given > self.replies:
                raise ValueError(f"{name} is {given}, but a step has {self.replies} replies. Give no more than those.")
        if self.kl.adaptive is not None and self.kl.weight == 0.0:
            raise ValueError("kl.weight is 0, from where it never adapts. Give a weight above 0.")
        if self.kl.adaptive is not None and self.kl.adaptive.horizon <= LARGEST_ERROR * self.replies:
            raise ValueError(
                f"kl.adaptive.horizon is {self.kl.adaptive.horizon:g}, but a step has {self.replies} replies, which "
                f"could take all of kl.weight away at once. Give more than {LARGEST_ERROR * self.replies:g}."
            )
        return self

    @property
    def replies(self) -> int:
        """Of a step."""
        return self.batch_size * self.samples

    @property
    def handler(self) -> Multipliers | None:
        """What holds costs under their limits."""
        return getattr(self, "constraint", None)

    @property
    def shares_body(self) -> bool:
        """Whether a critic reads the policy's hidden states."""
        return False

    @property
    def warmup(self) -> int:
        """First steps, in which the critic alone learns and multipliers stand still."""
        return 0

    @property
    def needs_reference(self) -> bool:
        """Whether the divergence weighs anything."""
        return self.kl.weight > 0.0

    @property
    def reads_again(self) -> bool:
        """Whether the trainer reads replies anew before it learns: they were drawn in another arithmetic than its own.

        Else the first ratio of a reply would be that of two arithmetics, and so would its divergence.
        """
        return isinstance(self.sampler, Vllm) or self.autocast is not None

    @property
    def learnt_at_once(self) -> bool:
        """Whether a rollout is learnt in one step on all of it: then the pass that learns is the first to read it."""
        return self.passes == 1 and (self.minibatch or self.replies) == self.replies and self.micro_batch is None

    def steps(self, prompts: int) -> int:
        """Steps, with so many prompts in an epoch."""
        return self.max_steps or math.ceil(self.epochs * prompts / self.batch_size)


class OnlinePpo(Online):
    """Proximal policy optimisation with a critic."""

    estimator: Gae = Gae()
    critic: Critic | SharedCritic = Critic()  # told apart by `kind`

    @property
    def shares_body(self) -> bool:
        """As its critic is set."""
        return isinstance(self.critic, SharedCritic)

    @property
    def warmup(self) -> int:
        """As its critic is set."""
        return self.critic.warmup


class OnlinePpoLag(OnlinePpo):
    """With limits on costs."""

    cost_limit: float | tuple[float, ...] = 0.0  # d of a reply's raw cost, one number or one per cost
    constraint: Multipliers = SAFE_RLHF_HANDLER
    window: int = Field(128, ge=1)  # replies whose mean is J_C


class _Group(Online):
    """Replies to one prompt compared with each other; costs are limited where there is a handler."""

    cost_limit: float | tuple[float, ...] = 0.0
    constraint: Multipliers | None = None
    window: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if self.samples < 2:
            raise ValueError("samples is 1, but replies to a prompt are compared with each other. Give 2 or more.")
        return self


class OnlineRloo(_Group):
    """REINFORCE with the other replies' mean as baseline."""

    samples: int = Field(2, ge=1)
    estimator: Rloo = Rloo()
    loss_type: LossType = "luspo"


class OnlineGrpo(_Group):
    """Group-relative policy optimisation."""

    samples: int = Field(8, ge=1)
    estimator: Grpo = Grpo()
    kl: Kl = Kl(weight=0.0)


def limits_of(config: Online, costs: Sequence[str]) -> dict[str, float]:
    """Limit by cost; {} without a handler.  Raises ConfigError for limits that do not fit."""
    if config.handler is None:
        return {}
    if not costs:
        raise ConfigError("no scorer gives a cost, so nothing can be limited. Use lm-ppo, or leave constraint out.")
    given: float | tuple[float, ...] = config.cost_limit  # type: ignore[attr-defined]  # settings with a handler do
    limits = given if isinstance(given, tuple) else (given,) * len(costs)
    if len(limits) != len(costs):
        raise ConfigError(
            f"cost_limit has {len(limits)} values, but there are {len(costs)} costs ({', '.join(costs)}). "
            "Give one limit per cost, or a single number for all."
        )
    wrong = [limit for limit in limits if not math.isfinite(limit)]
    if wrong:
        raise ConfigError(f"cost_limit is {wrong[0]}. Give finite limits.")
    return dict(zip(costs, limits, strict=True))
