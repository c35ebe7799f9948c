"""What an on-line training asks: the prompts of its data, and beside them those that failed an audit.

A prompt is asked whole or not at all: one that leaves no room for a reply in the policy's context is refused by its
row, or dropped and counted, as `prompts.long_prompt` says. Beside prompts come the columns of their rows that scorers
want, such as a reference answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trueline.core.errors import ConfigError
from trueline.core.files import to_json
from trueline.core.run import resolve
from trueline.language.data_order import DataOrder
from trueline.language.formats import shown
from trueline.language.online.settings import Asking
from trueline.language.records import Table, prompt_of
from trueline.language.rollout import Chat, Message, chat, text_of
from trueline.language.scorers import wanted_columns
from trueline.language.sources import Data, load, rows_of
from trueline.language.subject import LanguageModel, tell_if_plain
from trueline.language.templates import prompts_tokens
from trueline.language.windows import Window

__all__ = [
    "PROMPTS",
    "Asked",
    "asked_of",
    "chats_of",
    "columns_of",
    "columns_wanted",
    "failing_prompts",
    "prompts_for",
    "tables_of",
    "with_room",
]

PROMPTS = ("prompt", "prompt-completion", "unpaired-preference", "preference", "safety-preference")
LONG = "longer than the context"


class Asked(NamedTuple):
    """What is asked, by source; prompts that failed an audit are the last source."""

    chats: tuple[tuple[Chat, ...], ...]
    weights: tuple[float, ...]  # share of the prompts that each source gives; (): every row of all once an epoch
    epoch: int  # prompts of an epoch
    facts: Mapping[str, Any]  # counts by source, what was left out, hashes
    columns: Mapping[str, Mapping[str, Any]] = {}  # that scorers want, by the text of the prompt (`text_of`)

    @property
    def sha256(self) -> str:
        """Of the records everything was made from, and of the columns that scorers want."""
        return str(self.facts["sha256"])

    def order(self, shuffle: bool, seed: int) -> DataOrder:
        """The order in which prompts come."""
        return DataOrder([len(source) for source in self.chats], self.weights, shuffle, seed)

    def left_out(self) -> list[str]:
        """What of the data is not asked, as a user is told it."""
        return [
            f"{source['name']}: left out {', '.join(f'{n} {why}' for why, n in source['dropped'].items())}"
            for source in self.facts["sources"]
            if source["dropped"]
        ]


class _Source(NamedTuple):
    """The prompts of one file, or of the findings."""

    chats: tuple[Chat, ...]  # that leave room for a reply
    facts: dict[str, Any]

    @classmethod
    def of(
        cls, name: str, form: str, chats: Sequence[Chat], kept: Sequence[int], dropped: Mapping[str, int]
    ) -> _Source:
        """Some of the chats; `dropped` are rows that did not come so far."""
        long = {LONG: len(chats) - len(kept)} if len(kept) < len(chats) else {}
        facts = {
            "name": name,
            "format": form,
            "records": len(chats),
            "items": len(kept),
            "dropped": {**dropped, **long},
        }
        return cls(tuple(chats[k] for k in kept), facts)


def prompts_for(config: Asking, policy: LanguageModel, root: Path) -> Asked:
    """As `asked_of`; says so where a model that learnt plain text alone is asked."""
    tell_if_plain(policy)
    return asked_of(config, Window.of(policy), root)


def asked_of(config: Asking, window: Window, root: Path) -> Asked:
    """The prompts that leave room for a reply; plain ones are a user's turn, whatever `prompts.as_chat` says.

    Raises ConfigError for one that does not where those are refused, for a source in which none does, and as
    `tables_of`, `columns_wanted`, `chats_of` and `failing_prompts`.
    """
    tables = tables_of(config.prompts, root)
    columns = columns_wanted(config, tables, root)
    sources = [_of_table(table, window, config.prompts) for table in tables]
    weights, epoch = config.prompts.weights, sum(len(source.chats) for source in sources)
    failed = {one: name for name in config.findings for one in failing_prompts(name, root)}
    if failed:
        own = np.array(weights or [len(source.chats) for source in sources], dtype=np.float64)
        weights = (*(own / own.sum() * (1.0 - config.findings_share)).tolist(), config.findings_share)
        sources.append(_of_findings(failed, window, config.prompts))
    made_from = [[table.sha256 for table in tables], tuple(failed), *([_sha256_of(columns)] if columns else [])]
    digest = hashlib.sha256(to_json(made_from).encode()).hexdigest()
    facts = {"sources": [source.facts for source in sources], "sha256": digest}
    return Asked(tuple(source.chats for source in sources), weights, epoch, facts, columns)


def tables_of(data: Data, root: Path) -> list[Table]:
    """Rows that have prompts.  Raises ConfigError for prompts that are to lose tokens, and as `sources.load`."""
    if data.long_prompt == "truncate-left":
        raise ConfigError(
            "prompts.long_prompt is 'truncate-left', which is for text that is learnt: a prompt is asked whole, with "
            "the turns of its chat. Set it to 'drop' or 'refuse'."
        )
    return load(data, PROMPTS, root)


def chats_of(table: Table) -> list[Chat]:
    """What each row asks; text is a user's turn.  Raises ConfigError for a row without a prompt."""
    found = []
    for record, number in zip(table.rows, table.numbers, strict=True):
        prompt = prompt_of(record)
        if not prompt:
            raise ConfigError(f"row {number} of {table.name} has no prompt. Give one in every row.")
        found.append(chat(prompt) if isinstance(prompt, str) else tuple(prompt))
    return found


def columns_wanted(config: Asking, tables: Sequence[Table], root: Path) -> dict[str, dict[str, Any]]:
    """As `columns_of`, for the scorers of a training.

    Raises ConfigError where it is to ask prompts of findings as well, which have no columns.
    """
    wanted = wanted_columns(config.scorers)
    if wanted and config.findings:
        column, scorer = next(iter(wanted.items()))
        raise ConfigError(
            f"the scorer {scorer!r} wants the column {column!r} of the data, but prompts of findings have no columns. "
            "Leave findings out, or take a scorer that wants none."
        )
    return columns_of(tables, config.prompts, wanted, root)


def columns_of(tables: Sequence[Table], data: Data, wanted: Mapping[str, str], root: Path) -> dict[str, dict[str, Any]]:
    """The columns that scorers want of the row of each prompt, by what it asks (`text_of`); none where none are wanted.

    tables: of `data`; wanted: the scorer of each column.  Raises ConfigError for a row without one of them, and for two
    rows that ask the same and differ in one, since a reply to that could not be judged.
    """
    if not wanted:
        return {}
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}  # the row that asked it first
    for path, table in zip(data.paths, tables, strict=True):
        asked = dict(zip(table.numbers, map(text_of, chats_of(table)), strict=True))
        for number, row in rows_of(path, data.split, root, data.options):
            if number > table.numbers[-1]:
                break
            if number not in asked:
                continue
            text, called = asked[number], f"row {number} of {table.name}"
            for column, scorer in wanted.items():
                if row.get(column) is None:
                    raise ConfigError(
                        f"{called} has no {column!r}, which the scorer {scorer!r} wants. Give one in every row."
                    )
                # As they are written, since of some values (nan, arrays) no two are equal, or nobody can say.
                if text in found and repr(found[text][column]) != repr(row[column]):
                    raise ConfigError(
                        f"{first[text]} and {called} ask the same, but have {shown(found[text][column])} and "
                        f"{shown(row[column])} as {column!r}, which the scorer {scorer!r} wants. Leave one of them out."
                    )
            found.setdefault(text, {column: row[column] for column in wanted})
            first.setdefault(text, called)
    return found


def _sha256_of(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash of columns by what their rows ask, in the rows' order."""
    found = hashlib.sha256()
    for text, row in columns.items():
        found.update(repr((text, sorted(row.items()))).encode() + b"\n")
    return found.hexdigest()


def with_room(chats: Sequence[Chat], called: Sequence[str], window: Window, data: Data) -> list[int]:
    """Numbers of the chats that leave room for a reply.  called: each one's name in a refusal.

    Raises ConfigError where one does not and is not to be dropped, and where none does.
    """
    lengths = [len(ids) for ids in prompts_tokens(window.tokenizer, chats)]
    kept = [k for k, length in enumerate(lengths) if length < window.tokens]
    if len(kept) < len(chats) and data.long_prompt != "drop":
        first = next(k for k, length in enumerate(lengths) if length >= window.tokens)
        raise ConfigError(
            f"{called[first]} has a prompt of {lengths[first]} tokens, but the context holds {window.tokens}. "
            "Shorten it, or set prompts.long_prompt to 'drop'."
        )
    if not kept:
        raise ConfigError(
            f"none of {len(chats)} prompts, {called[0]} among them, leaves room for a reply in a context of "
            f"{window.tokens} tokens. Give shorter ones."
        )
    return kept


def _of_table(table: Table, window: Window, data: Data) -> _Source:
    chats, called = chats_of(table), [f"row {number} of {table.name}" for number in table.numbers]
    kept = with_room(chats, called, window, data)
    return _Source.of(table.name, table.format, chats, kept, table.dropped)


def _of_findings(failed: Mapping[Chat, str], window: Window, data: Data) -> _Source:
    chats, called = list(failed), [f"a case of {name}" for name in failed.values()]
    return _Source.of("findings", "prompt", chats, with_room(chats, called, window, data), {})


def failing_prompts(findings: str, root: Path) -> list[Chat]:
    """Chats of a findings artefact of a run in `root`, each once.

    Raises RunError when there is none, ConfigError when it lists no prompt, or one that is held out for verdicts.
    """
    try:
        cases = [one["case"]["data"] for one in json.loads(resolve(findings, root).read_text(encoding="utf-8"))]
        asked = [(case["split"], tuple(Message(**turn) for turn in case["chat"])) for case in cases if "chat" in case]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{findings} cannot be read as findings. Name those of an audit of replies.") from None
    if not asked:
        raise ConfigError(f"{findings} lists no prompt. Name the findings of an audit of replies.")
    if any(split == "verdict" for split, _ in asked):
        raise ConfigError(
            f"{findings} lists prompts that are held out for verdicts. Train on findings of the respond split."
        )
    return list(dict.fromkeys(one for _, one in asked))
