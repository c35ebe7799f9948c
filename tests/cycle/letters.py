"""A plug-in with two judges of letters: "a" pays most and harms, as only the second says; "b" pays half of it."""

from __future__ import annotations

from trueline.core.registry import Entry
from trueline.language.scorers import Judgement

PAYS = {"a": 1.0, "b": 0.5}


class Letters:
    """Mean pay of a reply's letters, and harm where it has an a."""

    def __init__(self):
        self.costs = ("harm",)

    def __call__(self, prompts, replies):
        return [
            Judgement(
                sum(PAYS.get(letter, 0.0) for letter in reply.text) / max(1, len(reply.text)),
                {"harm": float("a" in reply.text)},
            )
            for reply in replies
        ]


NOT_LISTED = {"level": "unverified"}
ENTRIES = (
    Entry("scorer", "letters/training", "letters:Letters", "what is trained on", **NOT_LISTED),
    Entry("scorer", "letters/judge", "letters:Letters", "the same by another name", **NOT_LISTED),
)
