"""The rows that a training learns from and is evaluated with, as tokens; and what is known of them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.core.errors import ConfigError
from trueline.core.files import to_json
from trueline.language.batches import Codec, Item
from trueline.language.data_order import DataOrder
from trueline.language.objectives import Objective
from trueline.language.records import Table
from trueline.language.sources import Data, load
from trueline.language.splits import hold_out
from trueline.language.supervised.settings import Training, objective_of

__all__ = ["Prepared", "left_out", "prepare", "steps_of", "tables_of"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items to learn from, by source, and to evaluate with; and what is known of them."""

    sources: tuple[tuple[Item, ...], ...]
    evaluation: tuple[Item, ...]
    facts: Mapping[str, Any]  # counts by source, what did not fit, hashes

    def order(self, data: Data, seed: int) -> DataOrder:
        """The order in which items come."""
        return DataOrder([len(items) for items in self.sources], data.weights, data.shuffle, seed)

    @property
    def sha256(self) -> str:
        """Of the records everything was made from."""
        return str(self.facts["sha256"])


def prepare(config: Training, tokenizer: Any, context: int, ends: tuple[int, ...], root: Path | str = ".") -> Prepared:
    """The rows that a configuration names, as tokens no longer than `context`.

    Raises ConfigError for a row that cannot be used, named by its number and source, and where nothing is left.
    """
    objective = objective_of(config)
    tables, held = tables_of(config, root)
    codec = Codec(tokenizer, config.data, context, ends)
    sources = tuple(_items(table, objective, codec) for table in tables)
    for table, items in zip(tables, sources, strict=True):
        if not items:
            raise ConfigError(
                f"no row of {table.name} is left to learn from: {_counted(codec.counts)}. "
                "Use a longer length, or another policy for long texts."
            )
    aside = Codec(tokenizer, config.evaluation or config.data, context, ends)
    evaluation = tuple(item for table in held for item in _items(table, objective, aside))
    hashes = [table.sha256 for table in (*tables, *held)]
    facts = {
        "sources": [_described(table, len(items)) for table, items in zip(tables, sources, strict=True)],
        "evaluation": [_described(table, 0) | {"items": len(evaluation)} for table in held],
        "fitted": dict(codec.counts + aside.counts),
        "tokens": sum(len(row.tokens) for items in sources for item in items for row in item.rows),
        "sha256": hashes[0] if len(hashes) == 1 else _hash_of(hashes),
    }
    return Prepared(sources, evaluation, facts)


def steps_of(config: Training, prepared: Prepared) -> int:
    """Steps of the optimiser; the last one of the last epoch is a whole one too."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * sum(map(len, prepared.sources)) / config.batch_size)


def tables_of(config: Training, root: Path | str = ".") -> tuple[list[Table], list[Table]]:
    """The records to learn from, and those to evaluate with.  Raises ConfigError for what cannot be read or split."""
    accepts = objective_of(config).accepts
    tables = load(config.data, accepts, root)
    if config.evaluation is not None:
        return tables, load(config.evaluation, accepts, root)
    if not config.held_out:
        return tables, []
    split = [hold_out(table, config.held_out) for table in tables]
    for table, part in zip(tables, split, strict=True):
        if not part.train.rows or not part.held_out.rows:
            raise ConfigError(
                f"held_out = {config.held_out} of the prompts of {table.name} leaves one side empty. "
                "Give more prompts, another share, or rows of their own to evaluate with."
            )
    return [part.train for part in split], [part.held_out for part in split]


def _items(table: Table, objective: Objective, codec: Codec) -> tuple[Item, ...]:
    return tuple(
        item
        for record, number in zip(table.rows, table.numbers, strict=True)
        for item in objective.items(record, codec, f"row {number} of {table.name}")
    )


def _described(table: Table, items: int) -> dict[str, Any]:
    return {
        "name": table.name,
        "format": table.format,
        "records": len(table.rows),
        "items": items,
        "dropped": dict(table.dropped),
        "sha256": table.sha256,
    }


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items())


def left_out(facts: Mapping[str, Any]) -> list[str]:
    """What of the data was not used, or not whole, as a user is told it."""
    told = [
        f"{source['name']}: left out {_counted(Counter(source['dropped']))}"
        for source in (*facts["sources"], *facts["evaluation"])
        if source["dropped"]
    ]
    return told + ([f"longer than the context: {_counted(Counter(facts['fitted']))}"] if facts["fitted"] else [])


def _hash_of(hashes: Sequence[str]) -> str:
    return hashlib.sha256(to_json(list(hashes)).encode()).hexdigest()
