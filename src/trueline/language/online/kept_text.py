"""Text that a policy goes on learning beside the reward, so that it keeps writing it (Ouyang et al. 2022: "ptx")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trueline.core.errors import ConfigError
from trueline.language.batches import Codec, Item, Row
from trueline.language.data_order import DataOrder
from trueline.language.models import context_of, end_tokens
from trueline.language.objectives import Likelihood
from trueline.language.online.settings import Ptx
from trueline.language.sources import load
from trueline.language.subject import LanguageModel

__all__ = ["KeptText", "check_text", "text_for"]

_LEARNS = Likelihood()


def check_text(config: Ptx, root: Path) -> None:
    """Raises ConfigError for rows that cannot be learnt, RunError for a path that is not there."""
    load(config.data, _LEARNS.accepts, root)


def text_for(config: Ptx, policy: LanguageModel, root: Path) -> tuple[tuple[Item, ...], ...]:
    """What is to be kept, by source.  Raises as `check_text`, and ConfigError where no row fits the context."""
    model, tokenizer = policy.model, policy.tokenizer
    codec = Codec(tokenizer, config.data, context_of(model), end_tokens(model, tokenizer))
    sources = tuple(
        tuple(
            item
            for record, number in zip(table.rows, table.numbers, strict=True)
            for item in _LEARNS.items(record, codec, f"row {number} of {table.name}")
        )
        for table in load(config.data, _LEARNS.accepts, root)
    )
    if not all(sources):
        raise ConfigError("no row of ptx.data is left to learn from. Give rows that fit the context.")
    return sources


class KeptText:
    """Rows of such text, a few beside each step, in an order of their own."""

    def __init__(self, config: Ptx, sources: Sequence[Sequence[Item]], seed: int) -> None:
        self.config, self.sources = config, sources
        sizes = [len(items) for items in sources]
        self.order = DataOrder(sizes, config.data.weights, config.data.shuffle, seed)

    def take(self) -> list[Row]:
        """Those of the next step."""
        places = self.order.take(self.config.batch_size)
        return [self.sources[place.source][place.row].rows[0] for place in places]

    def state_dict(self) -> dict[str, Any]:
        """How far it is."""
        return self.order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.order.load_state_dict(state)
