"""The losses of supervised training, as pure functions of tensors.

Letters of shapes: B rows or pairs, T tokens, N compared positions of a pair, V words. Column t of anything [B, T] is
about token t given the tokens before it. Losses over pairs are one number a pair; whoever calls takes the mean.

    nll                 −Σ w·log π(y_t | y_<t) / N                                         any likelihood
    pair_loss           −log σ(r_w − r_l) + ρ·(r_w² + r_l²)/2                              scalar reward model
    cost_loss           −log σ(c_u − c_s) − log σ(s_s·c_s) − log σ(s_u·c_u) + ρ·…          cost model
    dpo                 −(1 − ε)·log σ(βΔ) − ε·log σ(−βΔ),  Δ = h_w − h_l                  ε = 0: DPO; ε > 0: cDPO
    ipo                 (h_w/|y_w| − h_l/|y_l| − 1/(2β))²
    simpo               −log σ(β·(log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ)
    kto                 1 − σ(β(h − z₀)) for a good answer, 1 − σ(β(z₀ − h)) for a bad one

with h = log π(y | x) − log π_ref(y | x). Sources: Ouyang et al. 2022 and Safe RLHF (Dai et al. 2024) for the scalar
models, Rafailov et al. 2023, Mitchell 2023 (cDPO), Azar et al. 2024, Meng et al. 2024, Ethayarajh et al. 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

__all__ = [
    "cost_loss",
    "dpo",
    "first_difference",
    "held",
    "ipo",
    "kto",
    "kto_reference",
    "log_prob_of",
    "nll",
    "pair_loss",
    "simpo",
]


def log_prob_of(logits: Tensor, token: Tensor) -> Tensor:
    """log softmax(logits) at `token`, in float32.  logits [..., V], token [...] -> [...]."""
    flat = cross_entropy(logits.flatten(0, -2).float(), token.flatten(), reduction="none")
    return -flat.view(token.shape)


def nll(log_prob: Tensor, weight: Tensor, total: float | Tensor) -> Tensor:
    """−Σ weight·log_prob / total.  log_prob, weight [B, T]; weight is 0 outside of the loss.

    `total` is the weight of the whole step, not of this batch: that makes the loss of accumulated batches the loss of
    their union, whatever their sizes.
    """
    return -(log_prob * weight).sum() / total


# --- scalar models ---


def first_difference(chosen: Tensor, rejected: Tensor, length_w: Tensor, length_l: Tensor) -> Tensor:
    """True from the first token in which two rows differ to the end of the longer one.  Tokens [B, T], lengths [B].

    A row that is the beginning of the other differs from it where it ends. Equal rows differ nowhere.
    """
    t = torch.arange(chosen.shape[1], device=chosen.device)
    inside_w, inside_l = t < length_w[:, None], t < length_l[:, None]
    differs = ((chosen != rejected) & inside_w & inside_l) | (inside_w ^ inside_l)
    return (differs.cumsum(dim=1) > 0) & (inside_w | inside_l)


def held(score: Tensor, length: Tensor) -> Tensor:
    """Scores [B, T] of rows of the given lengths [B], each with its last score in the columns after its end.

    The shorter answer of a pair is compared there by what it was found to be worth, not by what a model makes of
    padding, as the original does.
    """
    t = torch.arange(score.shape[1], device=score.device)
    return score.gather(1, torch.minimum(t[None], length[:, None] - 1))


def pair_loss(chosen: Tensor, rejected: Tensor, mask: Tensor | None = None, rho: float = 0.0) -> Tensor:
    """Mean over positions of −log σ(r_w − r_l) + ρ·(r_w² + r_l²)/2.  [B, N], mask [B, N] -> [B].

    N = 1, the end, is the sequence-wise loss; every position from the first difference on, the token-wise one.
    """
    each = -logsigmoid(chosen - rejected) + 0.5 * rho * (chosen.square() + rejected.square())
    return _mean(each, mask)


def cost_loss(
    safer: Tensor,
    unsafer: Tensor,
    sign_safer: Tensor,
    sign_unsafer: Tensor,
    mask: Tensor | None = None,
    rho: float = 0.0,
) -> Tensor:
    """Mean over positions of −log σ(c_u − c_s) − log σ(s_s·c_s) − log σ(s_u·c_u) + ρ·(c_s² + c_u²)/2.

    Costs [B, N], mask [B, N] -> [B]. A sign [B] is −1 for an answer that is safe by itself and +1 for one that is not:
    a positive cost says unsafe.
    """
    s_s, s_u = sign_safer[:, None].to(safer), sign_unsafer[:, None].to(unsafer)
    each = -logsigmoid(unsafer - safer) - logsigmoid(s_s * safer) - logsigmoid(s_u * unsafer)
    return _mean(each + 0.5 * rho * (safer.square() + unsafer.square()), mask)


def _mean(each: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the second dimension where the mask is true; 0 in a row where it is nowhere.  [B, N] -> [B]."""
    if mask is None:
        return each.mean(dim=1)
    return torch.where(mask, each, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


# --- preferences without a reward model ---


def dpo(ratio_w: Tensor, ratio_l: Tensor, beta: float, label_noise: float = 0.0) -> Tensor:
    """−(1 − ε)·log σ(βΔ) − ε·log σ(−βΔ), Δ = h_w − h_l.  Log-ratios to the reference, [B] -> [B].

    ε is the share of labels taken to be the wrong way round.
    """
    margin = beta * (ratio_w - ratio_l)
    return -(1.0 - label_noise) * logsigmoid(margin) - label_noise * logsigmoid(-margin)


def ipo(ratio_w: Tensor, ratio_l: Tensor, length_w: Tensor, length_l: Tensor, beta: float) -> Tensor:
    """(h_w/|y_w| − h_l/|y_l| − 1/(2β))².  [B] -> [B].

    Per token, as TRL has it from the authors: summed over tokens, the target 1/(2β) would mean less in longer answers.
    """
    return (ratio_w / length_w - ratio_l / length_l - 0.5 / beta).square()


def simpo(
    log_prob_w: Tensor, log_prob_l: Tensor, length_w: Tensor, length_l: Tensor, beta: float, gamma: float
) -> Tensor:
    """−log σ(β·(log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ): no reference.  [B] -> [B]."""
    return -logsigmoid(beta * (log_prob_w / length_w - log_prob_l / length_l) - gamma)


def kto(ratio: Tensor, good: Tensor, reference: Tensor, beta: float, desirable: float, undesirable: float) -> Tensor:
    """λ_D·(1 − σ(β(h − z₀))) for good answers, λ_U·(1 − σ(β(z₀ − h))) for bad ones.  ratio, good [B] -> [B].

    `reference` is z₀, a scalar (`kto_reference`).
    """
    margin = beta * (ratio - reference)
    return torch.where(good, desirable * torch.sigmoid(-margin), undesirable * torch.sigmoid(margin))


def kto_reference(mismatched_ratio: Tensor) -> Tensor:
    """z₀ = max(0, mean h(x, y′)), y′ an answer to another prompt: a stand-in for KL(π ‖ π_ref).  [B] -> scalar."""
    return mismatched_ratio.mean().clamp(min=0.0).detach()
