"""How a rollout's signals become one advantage for each token, and how token losses become one number.

    estimator   advantage of token t                                                          source
    gae         Σ_s w_s·GAE_s(t), whitened over the batch                                     Schulman et al. 2016
    rloo        Σ_s w_s·(x_s − mean of x_s over the group's other replies)                    Ahmadian et al. 2024
    grpo        Σ_s w_s·(x_s − group's mean of x_s) / (std of the mixed sum in the group)     Shao et al. 2024

x_s is the sum of signal s over the reply: scores of single tokens enter with their sum, each signal is centred by
itself, the handler's weights mix, and only what is mixed is divided.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, S signals.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.language.signals import Estimates, Signals, estimated, mixed, whitened
from trueline.rl.handlers.constraint import Weights

__all__ = ["Gae", "Grpo", "LossType", "Rloo", "group_mean", "group_std", "leave_one_out", "token_weights"]

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo"]

STD_FLOOR = 1e-4  # added to a standard deviation, as TRL does


class Gae(Config):
    """Advantages by a critic with a head for each signal."""

    needs_critic: ClassVar[bool] = True

    kind: Literal["gae"] = "gae"
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)  # λ
    whiten: bool = True  # the mixed advantage, over the batch

    def estimates(self, signals: Signals, value: Tensor) -> Estimates:
        """Of each signal by itself; value [R, L, S]."""
        return estimated(signals, value, self.gamma, self.lam)

    def mixed(self, signals: Signals, estimates: Estimates, weights: Weights) -> Tensor:
        """The advantage [R, L]."""
        advantage = mixed(estimates.advantage, weights)
        return whitened(advantage, signals.kept) if self.whiten and signals.kept.any() else advantage


class Rloo(Config):
    """Replies to one prompt, each compared with the mean of the others."""

    needs_critic: ClassVar[bool] = False

    kind: Literal["rloo"] = "rloo"
    whiten: bool = False  # the mixed advantage, over the batch's replies

    def advantage(self, signals: Signals, group: Tensor, weights: Weights) -> Tensor:
        """[R, L]; 0 in rows that were not scored and where no other reply was.  group: [R]."""
        scored = signals.kept.any(dim=1)
        row = mixed(leave_one_out(signals.total, group, scored), weights)
        if self.whiten and scored.sum() > 1:
            row = torch.where(scored, (row - row[scored].mean()) / (row[scored].std() + STD_FLOOR), 0.0)
        return torch.where(signals.kept, row[:, None], 0.0)


class Grpo(Config):
    """Replies to one prompt, each compared with their mean, on the scale of their spread."""

    needs_critic: ClassVar[bool] = False

    kind: Literal["grpo"] = "grpo"
    scale_rewards: Literal["group", "batch", "none"] = "group"  # whose standard deviation divides

    def advantage(self, signals: Signals, group: Tensor, weights: Weights) -> Tensor:
        """[R, L]; 0 in rows that were not scored.  group: [R]."""
        scored = signals.kept.any(dim=1)
        total = signals.total
        centred = torch.where(scored[:, None], total - group_mean(total, group, scored), 0.0)
        row = mixed(centred, weights)
        if self.scale_rewards == "group":
            row = row / (group_std(row, group, scored) + STD_FLOOR)
        elif self.scale_rewards == "batch" and scored.sum() > 1:
            row = row / (mixed(total, weights)[scored].std() + STD_FLOOR)
        return torch.where(signals.kept, row[:, None], 0.0)


def group_mean(x: Tensor, group: Tensor, scored: Tensor) -> Tensor:
    """Of each row, the mean over the scored rows of its group: x [R, ...], group, scored [R] -> [R, ...]."""
    total, count = _sums(x, group, scored)
    return total[group] / count.clamp(min=1.0)[group].view(-1, *(1,) * (x.ndim - 1))


def group_std(x: Tensor, group: Tensor, scored: Tensor) -> Tensor:
    """Of each row, the standard deviation (of a sample) over the scored rows of its group; 0 of a single one.

    x, group, scored [R] -> [R].
    """
    square, count = _sums((x - group_mean(x, group, scored)).square(), group, scored)
    return (square / (count - 1.0).clamp(min=1.0)).sqrt()[group]


def leave_one_out(x: Tensor, group: Tensor, scored: Tensor) -> Tensor:
    """x minus the mean over the other scored rows of its group: x [R, S] -> [R, S].

    0 in rows that were not scored, or have no other: there is nothing to compare them with.
    """
    total, count = _sums(x, group, scored)
    others = (count[group] - 1.0)[:, None]
    baseline = (total[group] - x) / others.clamp(min=1.0)
    return torch.where(scored[:, None] & (others >= 1.0), x - baseline, 0.0)


def _sums(x: Tensor, group: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count over the scored rows of each group."""
    groups = int(group.max()) + 1
    counted = torch.where(scored.view(-1, *(1,) * (x.ndim - 1)), x, 0.0)
    total = x.new_zeros((groups, *x.shape[1:])).index_add(0, group, counted)
    return total, x.new_zeros(groups).index_add(0, group, scored.to(x))


def token_weights(kept: Tensor, loss_type: LossType, max_tokens: int) -> Tensor:
    """What each token's loss weighs, by the names TRL gives to the ways of counting length.  kept [R, L] -> [R, L].

    grpo: 1/(R·|y|), every reply alike;  dr_grpo: 1/(R·T_max), every token alike whatever came out;  dapo, bnpo: 1/Σ|y|,
    the mean over the tokens (of the whole step, or of the rows given: the caller says which rows those are);  luspo:
    1/R, the sum over the reply. R counts the rows with a token that is kept.
    """
    count = kept.sum(dim=1, keepdim=True)
    rows = (count > 0).sum().clamp(min=1)
    if loss_type == "grpo":
        over = rows * count.clamp(min=1)
    elif loss_type == "dr_grpo":
        over = rows * max_tokens
    elif loss_type == "luspo":
        over = rows
    else:
        over = count.sum().clamp(min=1)
    return kept.float() / over
