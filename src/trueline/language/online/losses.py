"""The losses of on-line learning, and how replies are read: log-probabilities at the temperature they were drawn at.

Letters of shapes: R replies, L prompt and response tokens, S signals. Column t is about token t given those before it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from trueline.language.forward import late_logits
from trueline.language.losses import log_prob_of
from trueline.language.signals import kl_of
from trueline.rl.updates.surrogate import clipped_surrogate

__all__ = ["kl_loss", "parts_of_like_length", "policy_loss", "reply_log_prob", "value_loss"]

WORTH_A_PASS = 2048  # tokens from which on a pass of its own costs less than the padding it saves


def reply_log_prob(model: Any, tokens: Tensor, sampled: Tensor, temperature: float) -> Tensor:
    """log π(token t | tokens before t) of the sampled tokens, 0 elsewhere: [R, L], [R, L] -> [R, L].

    At the temperature of sampling, in float32.
    """
    first, logits = late_logits(model, sampled[:, 1:], {"input_ids": tokens, "use_cache": False})
    logits = logits if temperature == 1.0 else logits.float() / temperature
    log_prob = log_prob_of(logits, tokens[:, first + 1 :])
    return pad(torch.where(sampled[:, first + 1 :], log_prob, 0.0), (first + 1, 0))


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    """−Σ weight·(clipped surrogate).  [R, L] each -> scalar; the weight is 0 on tokens that do not count."""
    return -(clipped_surrogate(log_prob, old_log_prob, advantage, clip) * weight).sum()


def kl_loss(
    log_prob: Tensor, old_log_prob: Tensor, reference: Tensor, weight: Tensor, estimator: Literal["k2", "k3"]
) -> Tensor:
    """Σ weight·ρ·k(log π, log π_ref) of tokens that π_old drew, ρ = π/π_old.  [R, L] each -> scalar.

    In expectation its gradient is that of Σ_t KL(π ‖ π_ref) of each token given what π_old had drawn before it, in
    every pass; of whole replies' divergence it leaves out how earlier tokens decide what comes later. Of k3 that is so
    with the ratio differentiated too (DeepSeek-AI 2025, DeepSeek-V3.2); without it the gradient at π_old is that of
    KL(π_ref ‖ π), as in Shao et al. (2024). Of k2 it is so with the ratio held: ∇k2 = Δ·∇log π.
    """
    ratio = (log_prob - old_log_prob).exp()
    ratio = ratio.detach() if estimator == "k2" else ratio
    return (ratio * kl_of(log_prob, reference, estimator) * weight).sum()


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, kept: Tensor, clip: float | None) -> Tensor:
    """½ Σ_s max((V − G)², (V_clipped − G)²), summed over the tokens kept.  [R, L, S], kept [R, L] -> scalar.

    V_clipped is V held within `clip` of what it was at the rollout.
    """
    error = (value - target).square()
    if clip is not None:
        held = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (held - target).square())
    return 0.5 * torch.where(kept[..., None], error, 0.0).sum()


def parts_of_like_length(length: Tensor, tokens: int | None = None, rows: int | None = None) -> list[Tensor]:
    """Numbers of the rows, the longest first, in parts that are padded and read together.  length: [R].

    A part holds at most so many rows and padded tokens (one row at least). Without `rows` it ends too where the next
    row is much shorter than its longest and it is large enough that the padding saved is worth another pass.
    """
    order = torch.argsort(length, descending=True, stable=True)
    parts: list[list[int]] = []
    width = 0
    for row, size in zip(order.tolist(), length[order].tolist(), strict=True):
        part = parts[-1] if parts else []
        full = (rows is not None and len(part) >= rows) or (tokens is not None and (len(part) + 1) * width > tokens)
        shorter = rows is None and 4 * size < 3 * width and len(part) * width >= WORTH_A_PASS
        if not part or full or shorter:
            parts.append([])
            width = size
        parts[-1].append(row)
    return [torch.tensor(part, dtype=torch.int64, device=length.device) for part in parts]
