"""The rows of the table of supervised recipes: what one is, and what its training would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trueline.core.run import Run
from trueline.core.streams import Streams
from trueline.core.subject import Subject
from trueline.language.models import check_reference
from trueline.language.rehearsal import SHOWN, DryRun, shown
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.supervised.data import prepare, steps_of, tables_of
from trueline.language.supervised.making import Made, memory_of
from trueline.language.supervised.settings import Training
from trueline.language.supervised.training import Trainer

__all__ = ["Supervised"]


@dataclass(frozen=True)
class Supervised:
    """A row: a name, settings whose `loss` says what is learnt, and named settings."""

    name: str
    Config: type[Training]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_parallel: ClassVar[bool] = True  # several processes may train one model: see parallel.py

    def inputs_of(self, config: Training) -> Mapping[str, bool]:  # noqa: ARG002
        """A warm start, and what preferences are measured beside."""
        return {"policy": False, "reference": False}

    def check(self, config: Training, root: Path) -> None:
        """Raises what `train` would raise for a model that cannot be loaded, and rows missing or of another format."""
        check_reference(config.model)
        tables_of(config, root)

    def dry_run(
        self, config: Training, inputs: Mapping[str, Subject] | None = None, root: Path | str = ".", seed: int = 0
    ) -> DryRun:
        """Steps, tokens, memory and the first three rows.  Raises what `train` would raise at its start."""
        streams = Streams(seed)
        made = Made.of(config, inputs or {}, streams.rng("model"))
        made.check(config)
        prepared = prepare(config, made.tokenizer, made.context, made.ends, root)
        steps = steps_of(config, prepared)
        order = prepared.order(config.data, int(streams.rng("order").integers(2**31)))
        read = 0
        first: list[str] = []
        for place in order.take(steps * config.batch_size):
            item = prepared.sources[place.source][place.row]
            read += sum(len(row.tokens) for row in item.rows)
            if len(first) < SHOWN:
                first.append(" | ".join(shown(made.tokenizer, row) for row in item.rows))
        return DryRun(steps, read, memory_of(config, made, prepared), tuple(first), prepared.facts)

    def train(self, config: Training, run: Run, inputs: Mapping[str, Subject]) -> LanguageModel | ScoreModel:
        """Train; `inputs["policy"]` is what to start from, `inputs["reference"]` what preferences are measured beside.

        A score is learnt by the body of a language model with a fresh head, or by a score model that goes on. Resumes
        from the run's last checkpoint. Raises ConfigError for data or models that do not fit, Diverged when the loss or
        the gradient is no longer finite, CheckpointError when the data changed since the run began.
        """
        return Trainer(config, run, inputs).train()
