"""Worlds of text with programmatic oracles: small languages in which it is known exactly how good a reply is."""

from trueline.language.texts.data import TEXTS, text_world
from trueline.language.texts.world import (
    Injects,
    Paraphrases,
    Place,
    TextWorld,
    Verdict,
    draw_prompts,
    records,
    split_of_prompt,
)

__all__ = [
    "TEXTS",
    "Injects",
    "Paraphrases",
    "Place",
    "TextWorld",
    "Verdict",
    "draw_prompts",
    "records",
    "split_of_prompt",
    "text_world",
]
