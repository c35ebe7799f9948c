"""Where an audit's prompts come from: a world of text, or a file that is split in advance.

A world numbers its prompts and splits the numbers (`texts/world.py`). Of a file every prompt's own hash says whether it
is for training, findings or verdicts, and of which round (`splits.split_of_text`), so that data loading can leave out
what audits draw from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.files import to_json
from trueline.core.streams import ROUNDS, Split
from trueline.evidence.records import Case, EvidenceError
from trueline.language.online import PROMPTS
from trueline.language.rollout import Chat, Message, chat
from trueline.language.sources import BUILTIN, Data, load, overlap, places_of, rows_of
from trueline.language.splits import split_of_text
from trueline.language.texts import TextWorld, draw_prompts, text_world

__all__ = [
    "FilePrompts",
    "NamesRuns",
    "Prompt",
    "PromptSettings",
    "Prompts",
    "WorldPrompts",
    "case_of",
    "chat_of",
    "file_prompts",
    "open_prompts",
    "refuse_trained_on",
    "turns",
]


class Prompt(NamedTuple):
    """Something to ask."""

    chat: Chat
    unit: str  # its name, the same in every wording
    kind: str = ""  # of a world's prompt
    columns: Mapping[str, Any] = {}  # of a file's row, as they lie there


class NamesRuns(Config):
    """Settings that may name runs."""

    root: str = "runs"  # folder of those runs; where nothing is set, that of the command, call or cycle that audits


class PromptSettings(NamesRuns):
    """Which prompts."""

    path: str = ""  # builtin:WORLD, or a file, folder or hub:OWNER/NAME as of `Data`, with a column of prompts
    split: str = "train"  # of a saved data set with several, or of the hub's
    options: Mapping[str, Any] = {}  # settings of the world
    kinds: tuple[str, ...] = ()  # of the world's prompts, equally likely; none given: those that the audit is about
    rounds: int = Field(8, ge=1, le=ROUNDS)  # into which a file's held-out prompts are cut: fewer are larger

    @property
    def files(self) -> tuple[str, ...]:
        """Data of the user's that prompts are drawn from."""
        return (self.path,) if self.path and not self.path.startswith(BUILTIN) else ()

    @model_validator(mode="after")
    def _effective(self) -> Self:
        if self.path.startswith(BUILTIN):
            if "rounds" in self.model_fields_set:
                raise ValueError("rounds is for files, but a world has prompts for all 64. Leave it out.")
            if "split" in self.model_fields_set:
                raise ValueError("split is of saved data sets and the hub's, but path is a world. Leave it out.")
        elif self.options or self.kinds:
            raise ValueError("options and kinds are of worlds, but path is not builtin:WORLD. Leave them out.")
        return self


class WorldPrompts:
    """Prompts of a world of text."""

    def __init__(self, world: TextWorld) -> None:
        self.world = world
        self.name = f"{BUILTIN}{world.name}"

    def having(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """Those of `kinds` that the world has."""
        return tuple(kind for kind in kinds if kind in self.world.sizes)

    def draw(
        self, n: int, rng: np.random.Generator, split: Split, round: int = 0, kinds: Sequence[str] = ()
    ) -> list[Prompt]:
        """n distinct prompts, each of a kind drawn at random, or without kinds as the world mixes ordinary ones.

        Fewer where a kind has not as many. Raises ConfigError for a kind that the world lacks, and for its round.
        """
        for kind in kinds:
            if kind not in self.world.sizes:
                raise ConfigError(f"{self.world.name} has no prompts of kind {kind!r}. It has {_list(self.world)}.")
        chosen = [kinds[k] for k in rng.integers(len(kinds), size=n)] if kinds else [""] * n
        texts: dict[str, list[str]] = {}
        for kind in dict.fromkeys(chosen):
            texts[kind] = self._some(chosen.count(kind), rng, split, round, kind)
        return [self.prompt(texts[kind].pop()) for kind in chosen if texts[kind]]

    def _some(self, n: int, rng: np.random.Generator, split: Split, round: int, kind: str) -> list[str]:
        """n prompts of a kind; of a kind with fewer, no less than half of those it has."""
        draw_prompts(self.world, 0, rng, split, round, kind)  # a round there is none of is an error, not a lack
        while n:
            try:
                return draw_prompts(self.world, n, rng, split, round, kind)
            except ConfigError:  # too many
                n //= 2
        return []

    def prompt(self, text: str) -> Prompt:
        """The prompt with that text."""
        place = self.world.find(text)
        assert place is not None  # every prompt that a world draws has a number
        return Prompt(chat(text), f"{place.kind}-{place.index}", place.kind)


class FilePrompts:
    """The prompts of a file, each once."""

    world: None = None

    def __init__(self, path: str, rounds: int, split: str = "train", root: str = ".") -> None:
        """split: of a data set with several; root: the folder of runs.

        Raises RunError for a path that does not exist, ConfigError naming the row that has no prompt.
        """
        self.name, self.rounds = path, rounds
        self._held_out: dict[tuple[str, int], list[Prompt]] = {}
        known: dict[str, Prompt] = {}
        (table,) = load(Data(path=path, split=split, unusable="drop"), PROMPTS, root)
        columns = dict(rows_of(path, split, root))
        for record, number in zip(table.rows, table.numbers, strict=True):
            asked = record.prompt  # type: ignore[union-attr]  # every format that is accepted has one
            if not asked:
                raise ConfigError(f"row {number} of {table.name} has no prompt. Give one in every row.")
            turns_ = chat(asked) if isinstance(asked, str) else tuple(asked)
            name = hashlib.sha256(to_json(turns_).encode()).hexdigest()
            known.setdefault(name, Prompt(turns_, f"prompt-{name[:16]}", columns=columns[number]))
        # By name: an order that has nothing to do with that of the file.
        for _, prompt in sorted(known.items()):
            use, round = split_of_text(prompt.chat)
            self._held_out.setdefault((use, round * rounds // ROUNDS), []).append(prompt)

    def draw(
        self, n: int, rng: np.random.Generator, split: Split, round: int = 0, kinds: Sequence[str] = ()
    ) -> list[Prompt]:
        """n distinct prompts, or all there are.  Raises ConfigError for a round that the file has no part for."""
        assert not kinds  # the settings refuse them
        if not 0 <= round <= self.rounds:
            raise ConfigError(
                f"round is {round}, but the prompts of {self.name} are split for rounds 1 to {self.rounds}. "
                "Set rounds higher, or use fewer."
            )
        # Rounds of a cycle begin at 1; an audit outside of one is round 0 and shares the part of the last.
        there = self._held_out.get((split, round % self.rounds), [])
        if len(there) <= n:
            return list(there)
        return [there[int(k)] for k in rng.choice(len(there), size=n, replace=False)]

    def keep(self, wanted: Callable[[Prompt], bool]) -> bool:
        """Leave out the prompts that are not wanted; whether any is left."""
        self._held_out = {place: [one for one in there if wanted(one)] for place, there in self._held_out.items()}
        return any(self._held_out.values())


Prompts = WorldPrompts | FilePrompts


def open_prompts(settings: PromptSettings) -> Prompts | None:
    """The prompts that settings name; none where they name none.

    Raises UnknownName for a world that does not exist, ConfigError for its settings, otherwise as `FilePrompts`.
    """
    if not settings.path:
        return None
    if settings.path.startswith(BUILTIN):
        return WorldPrompts(text_world(settings.path.removeprefix(BUILTIN), **settings.options))
    return file_prompts(settings.path, settings)


def file_prompts(path: str, settings: PromptSettings) -> FilePrompts | None:
    """The prompts of a file beside those of `path`, read as those are; none without one.  Raises as `FilePrompts`."""
    return FilePrompts(path, settings.rounds, settings.split, settings.root) if path else None


def refuse_trained_on(settings: PromptSettings, subject: Any, split: Split) -> None:
    """Raises EvidenceError where a verdict is to rest on data of which the subject was trained on every prompt.

    A training that leaves those of audits alone (`leave_for_audits`) does not count.
    """
    known = getattr(getattr(subject, "history", None), "trained_on", ())
    if split != "verdict" or not known:
        return
    for path in settings.files:
        for place in places_of(path, settings.split, settings.root):
            if any(overlap(place, one) for one in known):
                raise EvidenceError(
                    f"the subject was trained on every prompt of {place}, so those cannot decide a verdict about it. "
                    "Train with data.leave_for_audits = true, or give prompts that it does not know."
                )


def _list(world: TextWorld) -> str:
    return ", ".join(world.sizes)


# --- chats as JSON ---


def turns(chat: Chat) -> list[dict[str, str]]:
    """A chat as JSON."""
    return [{"role": message.role, "content": message.content} for message in chat]


def chat_of(turns: Sequence[Mapping[str, Any]]) -> Chat:
    """The chat that `turns` wrote."""
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def case_of(prompt: Prompt, split: Split, round: int, **data: Any) -> Case:
    """The case that asks a prompt; `chat` in its data is what can be trained on, and `split` says whether it may be."""
    asked = {"chat": turns(prompt.chat), "kind": prompt.kind, "split": split, "round": round}
    return Case(prompt.unit, prompt.unit, asked | data)
