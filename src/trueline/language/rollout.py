"""What is sampled from a language model, and how: chats, replies, and rollouts in tensors.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, K costs. Column t of anything [R, L] is
about token t given the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config

__all__ = ["Chat", "Message", "Replies", "Reply", "Rollout", "Sampler", "Sampling", "chat", "text_of"]


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Chat = tuple[Message, ...]  # what a reply is asked for: it ends with a turn that is not the assistant's


def chat(prompt: str) -> Chat:
    """A chat of one user turn."""
    return (Message("user", prompt),)


def text_of(chat: Chat) -> str:
    """A chat as text: of one turn what it says, of several each with its role on a line of its own."""
    if len(chat) == 1:
        return chat[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in chat)


class Reply(NamedTuple):
    """An answer. `ended` is false where it was cut at the length limit."""

    text: str
    tokens: int
    ended: bool


class Sampling(Config):
    """How tokens are drawn. Training takes temperature alone: with top_k or top_p the tokens' probabilities would not
    be those the trainer computes."""

    max_tokens: int = Field(128, ge=1)  # of the reply
    temperature: float = Field(1.0, ge=0)  # 0: the likeliest token
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: tuple[str, ...] = ()  # a reply ends before the first of these strings


@dataclass(frozen=True, slots=True)
class Rollout:
    """Sampled replies, padded on the right to one length."""

    tokens: Tensor  # [R, L] int64
    attended: Tensor  # [R, L] bool: prompt and response, not the padding
    sampled: Tensor  # [R, L] bool: true on response tokens, EOS among them
    log_prob: Tensor  # [R, L] under the policy that sampled, at its temperature; 0 outside `sampled`
    group: Tensor  # [R] int64: which prompt a row answers
    ended: Tensor  # [R] bool: false = cut at the length limit, no bootstrap and no reward for ending
    asked: tuple[str, ...]  # [R] what each row answers, in words (`text_of`): templates' own tokens are no part of it

    def to(self, device: torch.device | str) -> Rollout:
        """The rollout on another device."""
        masks = self.attended.to(device), self.sampled.to(device)
        numbers = self.log_prob.to(device), self.group.to(device), self.ended.to(device)
        return Rollout(self.tokens.to(device), *masks, *numbers, self.asked)


class Sampler(Protocol):
    """Draws replies from a model."""

    def sample(self, model: Any, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Rollout:
        """One reply to each chat; repeat a chat for several. `group` numbers equal chats alike, in order."""
        ...


@runtime_checkable
class Replies(Protocol):
    """Capability: a language model. An advisor is one too."""

    def reply(self, chats: Sequence[Chat], sampling: Sampling, rng: np.random.Generator) -> Sequence[Reply]:
        """One reply to each chat."""
        ...

    def log_prob(self, chats: Sequence[Chat], replies: Sequence[str]) -> Sequence[NDArray[np.float64]]:
        """Log-probability of each token of each reply, EOS included, given its chat."""
        ...
