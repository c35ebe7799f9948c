"""Replies that several processes drew and scored, put together as one process would have drawn and scored them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from trueline.language.rollout import Chat, Rollout
from trueline.language.scores import Scores
from trueline.rl.parallel import Learners

__all__ = ["gathered"]


def gathered(
    group: Learners, rollout: Rollout, scores: Scores, chats: Sequence[Chat], pad_token: int
) -> tuple[Rollout, Scores]:
    """Every process's share of the replies to the chats, with its scores; on the device of this process's own."""
    if group.size == 1:
        return rollout, scores
    device = rollout.tokens.device
    parts = group.gathered((rollout.to("cpu"), scores.to("cpu")))
    joined = _joined([part for part, _ in parts], chats, pad_token)
    width = joined.tokens.shape[1]
    found = Scores(
        torch.cat([_widened(one.reward, width, 0.0) for _, one in parts]),
        torch.cat([_widened(one.cost, width, 0.0) for _, one in parts]),
        torch.cat([one.missing for _, one in parts]),
    )
    return joined.to(device), found.to(device)


def _joined(parts: Sequence[Rollout], chats: Sequence[Chat], pad_token: int) -> Rollout:
    """The rollouts of shares of the chats as one; equal chats are one group, in order, as in a single rollout."""
    width = max(part.tokens.shape[1] for part in parts)
    known: dict[Chat, int] = {}
    return Rollout(
        tokens=torch.cat([_widened(part.tokens, width, pad_token) for part in parts]),
        attended=torch.cat([_widened(part.attended, width, False) for part in parts]),
        sampled=torch.cat([_widened(part.sampled, width, False) for part in parts]),
        log_prob=torch.cat([_widened(part.log_prob, width, 0.0) for part in parts]),
        group=torch.tensor([known.setdefault(one, len(known)) for one in chats]),
        ended=torch.cat([part.ended for part in parts]),
        asked=tuple(text for part in parts for text in part.asked),
    )


def _widened(x: Tensor, width: int, value: float) -> Tensor:
    """[R, L, ...] -> [R, width, ...]."""
    return pad(x, (*(0, 0) * (x.ndim - 2), 0, width - x.shape[1]), value=value)
