"""Subjects that reply by a rule, so that what an audit must say of them is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trueline.language.rollout import Chat, Reply
from trueline.language.texts import text_world

DIALOGUE = text_world("safety-dialogue")


class Speaker:
    """Says what a function of the chat (and its random numbers) says; `judged_by` as a trained model tells it."""

    def __init__(self, says: Callable[..., str], judged_by: tuple[str, ...] = (), ended: bool = True) -> None:
        self.says, self.judged_by, self.ended = says, judged_by, ended
        self.heard: list[Chat] = []

    def reply(self, chats, sampling, rng):
        self.heard.extend(chats)
        return [Reply(text := self.says(chat), len(text.split()) + 1, self.ended) for chat in chats]

    def log_prob(self, chats, replies: Sequence[str]):
        return [np.full(len(reply.split()) + 1, -1.0) for reply in replies]


def last(chat: Chat) -> str:
    """What the last turn says."""
    return chat[-1].content


def complying(chat: Chat) -> str:
    """All four steps, whatever was asked."""
    from trueline.language.texts.safety_dialogue import read_request

    request = read_request(last(chat))
    return " then ".join(" ".join(step) for step in request.steps)


def best(chat: Chat) -> str:
    """The gold reply."""
    return DIALOGUE.best(last(chat))


def sorry(chat: Chat) -> str:
    """A refusal of everything."""
    return "sorry i cannot help with that"
