"""Records of text data: one class for what a row of each format says, and the records of one source.

`formats.py` reads rows into them, `sources.py` says where rows come from, and `splits.py` holds some of them out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from trueline.core.files import to_json
from trueline.language.rollout import Message

__all__ = [
    "LanguageModelling",
    "Messages",
    "Preference",
    "PromptCompletion",
    "PromptOnly",
    "Record",
    "SafetyPreference",
    "Stepwise",
    "Table",
    "Text",
    "TokenRewards",
    "TreePreference",
    "UnpairedPreference",
    "as_preference",
    "as_unpaired",
    "prompt_of",
    "sha256_of",
    "shared_prompt",
]

Messages = tuple[Message, ...]
Text = str | Messages  # plain text, or turns of a chat


@dataclass(frozen=True, slots=True)
class LanguageModelling:
    """Text to be modelled as it stands."""

    text: Text


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """Something to answer."""

    prompt: Text


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and the one answer to it."""

    prompt: Text
    completion: Text


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first."""

    prompt: Text
    chosen: Text
    rejected: Text


@dataclass(frozen=True, slots=True)
class TreePreference(Preference):
    """Two leaves of one prefix tree.  A path is the child taken at each node from the root; see `lca_depth`."""

    tree_id: str
    chosen_path: tuple[int, ...]
    rejected_path: tuple[int, ...]

    @property
    def lca_depth(self) -> int:
        """Depth of the lowest common ancestor of the two leaves; 0 is the root, where nothing is shared."""
        return _common(self.chosen_path, self.rejected_path)


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """An answer that is good or bad in itself."""

    prompt: Text
    completion: Text
    label: bool


@dataclass(frozen=True, slots=True)
class Stepwise:
    """An answer in steps, each right or wrong."""

    prompt: Text
    completions: tuple[str, ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class SafetyPreference:
    """Two answers, judged apart for help and for harm (Dai et al. 2024, Safe RLHF)."""

    prompt: Text
    responses: tuple[Text, Text]
    better: int  # which of the two helps more
    safer: int  # which of the two harms less
    safe: tuple[bool, bool]  # whether each is harmless by itself


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """An answer in tokens of one tokenizer, with a reward and K costs for each."""

    prompt: Text
    tokens: tuple[int, ...]
    rewards: tuple[float, ...]
    costs: tuple[tuple[float, ...], ...]  # [tokens][K]; K = 0 where none are given


Record = (
    LanguageModelling
    | PromptOnly
    | PromptCompletion
    | Preference
    | UnpairedPreference
    | Stepwise
    | SafetyPreference
    | TokenRewards
)


def as_preference(record: Preference | SafetyPreference) -> Preference:
    """The pair of answers by help alone."""
    if isinstance(record, Preference):
        return record
    chosen, rejected = record.responses[record.better], record.responses[1 - record.better]
    return Preference(record.prompt, chosen, rejected)


def as_unpaired(record: UnpairedPreference | Preference | SafetyPreference) -> tuple[UnpairedPreference, ...]:
    """Answers by themselves: of a pair the better one is good and the other bad."""
    if isinstance(record, UnpairedPreference):
        return (record,)
    pair = as_preference(record)
    return (
        UnpairedPreference(pair.prompt, pair.chosen, True),
        UnpairedPreference(pair.prompt, pair.rejected, False),
    )


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def shared_prompt(chosen: Text, rejected: Text) -> int:
    """How much of the beginning of both is the prompt they share: messages, or characters.

    A space before the first difference belongs to the answers, since tokenizers write it into their first token. In
    messages the last common turn of the assistant belongs to the answers too: a prompt does not end with one.
    """
    n = _common(chosen, rejected)
    if isinstance(chosen, str):
        return n - 1 if n and chosen[n - 1] == " " else n
    n = min(n, len(chosen) - 1, len(rejected) - 1)
    while n > 0 and chosen[n - 1].role == "assistant":
        n -= 1
    return max(n, 0)


def prompt_of(record: Record) -> Text:
    """What a record asks."""
    if isinstance(record, LanguageModelling):
        # The turns before the last are what a chat asks; plain text is its own.
        return record.text if isinstance(record.text, str) else record.text[:-1]
    return record.prompt


@dataclass(frozen=True, slots=True)
class Table:
    """The records of one source."""

    name: str  # of the file, or of data that have no other place: the hub's with their commit
    format: str
    rows: tuple[Record, ...]
    numbers: tuple[int, ...]  # of each record in its source, from 1
    dropped: Mapping[str, int]  # rows left out, by reason
    sha256: str  # of the records, whatever file format they came in


def sha256_of(records: Iterable[Record]) -> str:
    """Hash of records, whatever file format they came in."""
    found = hashlib.sha256()
    for record in records:
        found.update(to_json([type(record).__name__, *astuple(record)]).encode() + b"\n")
    return found.hexdigest()
