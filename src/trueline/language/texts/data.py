"""Worlds of text as data: `path = "builtin:cipher-reply"` in the settings of any recipe that reads records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trueline.core.config import Config, build
from trueline.core.errors import UnknownName, unknown
from trueline.core.streams import Split, Streams
from trueline.language.texts.cipher_reply import CipherReply
from trueline.language.texts.grammar_essay import GrammarEssay
from trueline.language.texts.safety_dialogue import SafetyDialogue
from trueline.language.texts.synthetic_reviews import SyntheticReviews
from trueline.language.texts.world import TextWorld, records

__all__ = ["TEXTS", "cipher_reply", "grammar_essay", "safety_dialogue", "synthetic_reviews", "text_world"]

TEXTS: dict[str, type[CipherReply | SafetyDialogue | GrammarEssay | SyntheticReviews]] = {
    world.name: world for world in (CipherReply, SafetyDialogue, GrammarEssay, SyntheticReviews)
}


def text_world(name: str, **settings: Any) -> TextWorld:
    """The world of that name with these settings.  Raises UnknownName, or ConfigError for a setting it cannot have."""
    if name not in TEXTS:
        raise UnknownName(unknown("text world", name, list(TEXTS)))
    return build(TEXTS[name], settings, where=name)


class _Draw(Config):
    """What is drawn, beside the world's own settings."""

    format: str = "preference"
    n: int = 1000
    seed: int = 0
    round: int = 0
    kind: str = ""
    per_prompt: int = 1


def _rows(name: str, split: Split, options: dict[str, Any]) -> Sequence[dict[str, Any]]:
    draw = build(_Draw, {key: value for key, value in options.items() if key in _Draw.model_fields}, where=name)
    world = text_world(name, **{key: value for key, value in options.items() if key not in _Draw.model_fields})
    rng: np.random.Generator = Streams(draw.seed).rng(f"{name}/{split}/{draw.round}/{draw.kind}/{draw.format}")
    return records(world, draw.format, draw.n, rng, split, draw.round, draw.kind, draw.per_prompt)


def cipher_reply(split: Split = "train", **options: Any) -> Sequence[dict[str, Any]]:
    """Rows of `cipher-reply`: options format, n, seed, round, kind, per_prompt, and the settings of CipherReply."""
    return _rows("cipher-reply", split, options)


def safety_dialogue(split: Split = "train", **options: Any) -> Sequence[dict[str, Any]]:
    """Rows of `safety-dialogue`: options as of `cipher_reply`, and the settings of SafetyDialogue."""
    return _rows("safety-dialogue", split, options)


def grammar_essay(split: Split = "train", **options: Any) -> Sequence[dict[str, Any]]:
    """Rows of `grammar-essay`: options as of `cipher_reply`, and the settings of GrammarEssay."""
    return _rows("grammar-essay", split, options)


def synthetic_reviews(split: Split = "train", **options: Any) -> Sequence[dict[str, Any]]:
    """Rows of `synthetic-reviews`: options as of `cipher_reply`, and the settings of SyntheticReviews."""
    return _rows("synthetic-reviews", split, options)
