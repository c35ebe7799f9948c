"""What an on-line training asks: the prompts of its data, and beside them those that failed an audit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trueline.core.errors import ConfigError
from trueline.core.files import to_json
from trueline.core.run import resolve
from trueline.language.data_order import DataOrder
from trueline.language.models import context_of
from trueline.language.online.settings import Online
from trueline.language.rollout import Chat, Message, chat
from trueline.language.sources import Data, load
from trueline.language.subject import LanguageModel, tell_if_plain
from trueline.language.templates import prompts_tokens

__all__ = ["PROMPTS", "Asked", "check_prompts", "failing_prompts", "prompts_for"]

PROMPTS = ("prompt", "prompt-completion", "unpaired-preference", "preference", "safety-preference")


class Asked(NamedTuple):
    """What is asked, by source; prompts that failed an audit are the last source."""

    chats: tuple[tuple[Chat, ...], ...]
    weights: tuple[float, ...]  # share of the prompts that each source gives; (): every row of all once an epoch
    epoch: int  # prompts of an epoch
    dropped: int  # too long for the context
    sha256: str
    names: tuple[str, ...]  # of the sources

    def order(self, shuffle: bool, seed: int) -> DataOrder:
        """The order in which prompts come."""
        return DataOrder([len(source) for source in self.chats], self.weights, shuffle, seed)


def check_prompts(data: Data) -> None:
    """Raises ConfigError for prompts that would lose tokens: what is asked is asked whole, or not at all."""
    if data.long_prompt == "truncate-left":
        raise ConfigError(
            "prompts.long_prompt is 'truncate-left', which is for text that is learnt: a prompt is asked whole, with "
            "the turns of its chat. Set it to 'drop' or 'refuse'."
        )


def prompts_for(config: Online, policy: LanguageModel, root: Path) -> Asked:
    """The prompts that leave room for a reply; plain ones are a user's turn, whatever `prompts.as_chat` says.

    Raises ConfigError where none does, and as `check_prompts` and `sources.load`.
    """
    check_prompts(config.prompts)
    tell_if_plain(policy)
    tables = load(config.prompts, PROMPTS, root)
    context = context_of(policy.model)
    sources, dropped = [], 0
    for table in tables:
        asked = []
        for record, number in zip(table.rows, table.numbers, strict=True):
            prompt = record.prompt  # type: ignore[union-attr]  # every format that is accepted has one
            if not prompt:
                raise ConfigError(f"row {number} of {table.name} has no prompt. Give one in every row.")
            asked.append(chat(prompt) if isinstance(prompt, str) else tuple(prompt))
        lengths = [len(ids) for ids in prompts_tokens(policy.tokenizer, asked)]
        fits = [length < context for length in lengths]
        if not all(fits) and config.prompts.long_prompt != "drop":
            row = table.numbers[fits.index(False)]
            raise ConfigError(
                f"row {row} of {table.name} has a prompt of {lengths[fits.index(False)]} tokens, but the context holds "
                f"{context}. Shorten it, or set prompts.long_prompt to 'drop'."
            )
        kept = tuple(one for one, fit in zip(asked, fits, strict=True) if fit)
        if not kept:
            raise ConfigError(f"no prompt of {table.name} leaves room for a reply. Give shorter ones.")
        sources.append(kept)
        dropped += len(asked) - len(kept)
    failed = tuple(dict.fromkeys(one for findings in config.findings for one in failing_prompts(findings, root)))
    digest = hashlib.sha256(to_json([[table.sha256 for table in tables], failed]).encode()).hexdigest()
    weights, epoch = config.prompts.weights, sum(map(len, sources))
    names = tuple(table.name for table in tables)
    if failed:
        own = np.array(weights or [len(source) for source in sources], dtype=np.float64)
        weights = (*(own / own.sum() * (1.0 - config.findings_share)).tolist(), config.findings_share)
        sources.append(failed)
        names = (*names, "findings")
    return Asked(tuple(sources), weights, epoch, dropped, digest, names)


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
