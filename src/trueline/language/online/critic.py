"""Who says how much a reply is still worth: heads for each signal, on a body of their own or on the policy's.

    kind     reads                            learns                                         costs beside the policy
    own      a copy of the policy's body      body (or adapters) and heads, by itself        as much again
    shared   the policy's last hidden states  heads by themselves; the body by both losses   next to nothing

A shared body is moved by  policy loss + weight·value loss  in the policy's own step (Schulman et al. 2017, eq. 9).
Heads begin at 0 in both, and in the warm-up of a shared body they alone learn, since the body is the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from trueline.core.config import Config
from trueline.language.forward import plain
from trueline.language.models import Lora, attach_lora
from trueline.language.optimiser import AdamW
from trueline.language.subject import LanguageModel, ScoreModel

__all__ = ["Critic", "SharedCritic", "critic_for", "last_hidden", "learnt_by_itself"]


class Critic(Config):
    """A body of its own, begun as a copy of the policy's, with a head for each signal."""

    kind: Literal["own"] = "own"
    optimiser: AdamW = AdamW(lr=5e-6, schedule="constant")
    lora: Lora | None = None  # train adapters and the heads, and leave the body's weights as they are
    value_clip: float | None = Field(5.0, gt=0)  # how far a value may move from what it was at the rollout
    warmup: int = Field(0, ge=0)  # first steps, in which the critic alone learns and multipliers stand still


class SharedCritic(Config):
    """Heads on the policy's own body, one for each signal."""

    kind: Literal["shared"] = "shared"
    optimiser: AdamW = AdamW(lr=1e-3, schedule="constant")  # of the heads
    weight: float = Field(0.1, gt=0)  # of the value's loss beside the policy's
    value_clip: float | None = Field(5.0, gt=0)
    warmup: int = Field(0, ge=0)  # first steps, in which the heads alone learn and multipliers stand still


def critic_for(settings: Critic | SharedCritic, policy: LanguageModel, heads: Sequence[str], seed: int) -> ScoreModel:
    """The critic as it begins; `seed` is of its adapters. A shared one holds the policy's own body."""
    if isinstance(settings, SharedCritic):
        return ScoreModel(plain(policy.model).base_model, policy.tokenizer, heads)
    made = ScoreModel.of(policy, heads).requires_grad_(True)
    if settings.lora is not None:
        made.body = attach_lora(made.body, settings.lora, seed, headless=True)
    return made


def learnt_by_itself(settings: Critic | SharedCritic, critic: ScoreModel) -> dict[str, nn.Parameter]:
    """What the critic's own optimiser moves, by name."""
    owner = critic.linear if isinstance(settings, SharedCritic) else critic
    return {name: p for name, p in owner.named_parameters() if p.requires_grad}


@contextmanager
def last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """Within, the list gets what each pass of a causal model hands to its output head: [R, L, D]."""
    seen: list[Tensor] = []
    hook = plain(model).base_model.register_forward_hook(lambda _, __, found: seen.append(found.last_hidden_state))
    try:
        yield seen
    finally:
        hook.remove()
