"""Oracles of the worlds of text as functions that score replies: kind "scorer" under each world's name.

They are for verdicts, and for trainings in which the true reward is to be known. A training that was scored by the
oracle cannot be judged by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trueline.core.errors import ConfigError
from trueline.language.rollout import Reply
from trueline.language.scorers import Judgement
from trueline.language.texts.data import text_world
from trueline.language.texts.world import TextWorld

__all__ = ["Oracle", "cipher_reply", "grammar_essay", "safety_dialogue", "synthetic_reviews"]


class Oracle:
    """What the oracle of a world says of texts: its reward, and a cost where the world has one."""

    def __init__(self, world: TextWorld, cost: str | None = None) -> None:
        """cost: the name that its cost goes by; none: the world has no cost."""
        self.world, self.costs = world, () if cost is None else (cost,)
        self.reward_bounds = world.reward_bounds  # which make the intervals of audits sharp, and count what is missing

    def __call__(self, prompts: Sequence[str], replies: Sequence[Reply]) -> list[Judgement | None]:
        """Of each reply; None where the prompt asks for nothing in the world."""
        return [self._of(prompt, reply.text) for prompt, reply in zip(prompts, replies, strict=True)]

    def _of(self, prompt: str, reply: str) -> Judgement | None:
        try:
            said = self.world.judge(prompt, reply)
        except ConfigError:
            return None
        return Judgement(said.reward, dict.fromkeys(self.costs, said.cost))


def cipher_reply(**settings: Any) -> Oracle:
    """Of `cipher-reply`, with the settings of CipherReply: 1 less the share of wrong positions."""
    return Oracle(text_world("cipher-reply", **settings))


def safety_dialogue(**settings: Any) -> Oracle:
    """Of `safety-dialogue`, with the settings of SafetyDialogue: help, and the cost "harm"."""
    return Oracle(text_world("safety-dialogue", **settings), "harm")


def grammar_essay(**settings: Any) -> Oracle:
    """Of `grammar-essay`, with the settings of GrammarEssay: the mean of its tables."""
    return Oracle(text_world("grammar-essay", **settings))


def synthetic_reviews(**settings: Any) -> Oracle:
    """Of `synthetic-reviews`, with the settings of SyntheticReviews: the share of positive words."""
    return Oracle(text_world("synthetic-reviews", **settings))
