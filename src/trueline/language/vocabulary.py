"""Vocabularies of models made from scratch: tokenizers by character and by word, built without a network.

Both give an ordinary fast tokenizer of Hugging Face with padding, beginning, end and unknown tokens, markers of the
three roles, and a chat template, so that what they save loads anywhere.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from trueline.core.config import Config
from trueline.language.templates import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ROLES", "Characters", "OfWorld", "Vocabulary", "Words", "tokenizer_of"]

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
ROLES = ("<system>", "<user>", "<assistant>")
SPECIAL = (PAD, BOS, EOS, UNKNOWN, *ROLES)


class Characters(Config):
    """One token for each character; what is not in the alphabet becomes the unknown token."""

    kind: Literal["characters"] = "characters"
    alphabet: str = string.printable[:95] + "\n"  # printable ASCII and the line break

    @field_validator("alphabet")
    @classmethod
    def _distinct(cls, value: str) -> str:
        return "".join(_distinct(value, "alphabet"))


class Words(Config):
    """One token for each word between spaces; decoding joins words by single spaces."""

    kind: Literal["words"] = "words"
    words: tuple[str, ...]

    @field_validator("words")
    @classmethod
    def _whole(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if word.split() != [word]:
                raise ValueError(f"{word!r} is not a word. Give words without spaces inside.")
        return _distinct(value, "words")


class OfWorld(Config):
    """The words of a world of text."""

    kind: Literal["world"] = "world"
    name: str  # such as "safety-dialogue"

    def words(self) -> Words | Characters:
        """Every word of its prompts and replies.  Raises UnknownName for a world that there is not."""
        from trueline.language.texts.data import text_world  # which itself is made of vocabularies

        found = text_world(self.name).vocabulary
        assert not isinstance(found, OfWorld)  # a world's words are given, not referred to
        return found


Vocabulary = Characters | Words | OfWorld  # told apart by `kind`


def tokenizer_of(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary: ids 0 to 6 are pad, bos, eos, unknown and the roles, then symbols in order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if isinstance(vocabulary, OfWorld):
        vocabulary = vocabulary.words()
    symbols = tuple(vocabulary.alphabet) if isinstance(vocabulary, Characters) else vocabulary.words
    ids = {symbol: id for id, symbol in enumerate((*SPECIAL, *symbols))}
    inner: Any = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    if isinstance(vocabulary, Characters):
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Fuse()
    else:
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATES["turns"]
    return tokenizer


def _distinct(symbols: Any, name: str) -> tuple[str, ...]:
    found = tuple(symbols)
    twice = sorted({symbol for symbol in found if found.count(symbol) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise ValueError(f"{name} holds {twice[0]!r} more than once. Give each symbol once.")
    if not found:
        raise ValueError(f"{name} is empty. Give at least one symbol.")
    reserved = set(found) & set(SPECIAL)
    if reserved:
        raise ValueError(f"{sorted(reserved)[0]!r} in {name} is a reserved token. Use another symbol.")
    return found
