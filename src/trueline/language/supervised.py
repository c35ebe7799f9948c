"""Supervised training of language models, written once: rows, batches, loss, step.

A row of the table of recipes is a `Supervised`: a name, its configuration with what it learns (`loss`, objectives.py),
and named settings. A step takes `batch_size` items in the data's order, cuts them into batches that fit the memory, and
divides the sum of their losses by what the whole step counts: tokens, or pairs. So a step is the same step however it
is cut or packed.

The result is a `LanguageModel`, or a `ScoreModel` where a score is learnt. Everything random comes from the run's
streams: the weights a model begins with, the order of the rows, and dropout, which each step seeds anew. A run that is
killed and resumed on a CPU ends with the same bits.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trueline.core.config import Config
from trueline.core.errors import CheckpointError, ConfigError, Diverged
from trueline.core.files import to_json
from trueline.core.progress import progress, stage
from trueline.core.run import Run, stop_asked
from trueline.core.streams import Streams
from trueline.core.subject import Subject
from trueline.language.batches import Batch, Codec, Item, Row, packed, padded
from trueline.language.data_order import DataOrder
from trueline.language.forward import (
    Memory,
    Models,
    activation_bytes,
    learning_mode,
    plain,
    token_scores,
    weight_bytes,
)
from trueline.language.models import ModelRef, attach_lora, check_learns, check_reference, context_of, end_tokens
from trueline.language.objectives import (
    Cost,
    Dpo,
    Figure,
    Ipo,
    Kto,
    Likelihood,
    Micro,
    Objective,
    Packing,
    Reward,
    Rewriting,
    Simpo,
)
from trueline.language.optimiser import AdamW, Optimiser
from trueline.language.parallel import Sharded, cut_like, cut_up, dealt, sum_gradients, sums, whole
from trueline.language.records import Table
from trueline.language.rehearsal import SHOWN, DryRun, shown
from trueline.language.sources import Data, exposed, labelled_by, load, teaches_chats
from trueline.language.splits import hold_out
from trueline.language.subject import History, LanguageModel, ScoreModel
from trueline.language.templates import TEMPLATES
from trueline.rl.parallel import followed, followers_states, learners, stop_together

__all__ = [
    "CostModelling",
    "DryRun",
    "FineTuning",
    "PreferenceTuning",
    "Prepared",
    "RewardModelling",
    "RewritingModelling",
    "Supervised",
    "Training",
    "prepare",
]


# --- settings ---


class Training(Config):
    """Settings every supervised recipe shares."""

    model: ModelRef = ModelRef()  # with a warm start, its template and adapters alone
    data: Data
    evaluation: Data | None = None  # rows to evaluate with
    held_out: float = Field(0.0, ge=0, lt=1)  # or: share of the prompts of `data` that are put aside for it
    length: int = Field(1024, ge=2)  # tokens of the longest sequence; no more than the model's context is used
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)  # steps of the optimiser, instead of epochs
    batch_size: int = Field(8, ge=1)  # items of a step
    micro_batch: int | None = Field(None, ge=1)  # rows or items at once; none: the whole step
    optimiser: AdamW = AdamW()
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    autocast: Literal["bfloat16"] | None = None  # type of the matrix products; weights keep theirs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Among several processes: weights cut up (FSDP2), or whole in each; auto: cut up on accelerators.
    weights: Literal["auto", "cut", "whole"] = "auto"
    learner_threads: int = Field(1, ge=1)
    eval_steps: int = Field(100, ge=1)  # steps between evaluations
    log_steps: int = Field(10, ge=1)  # steps whose mean is logged
    checkpoint_steps: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _one_way_to_evaluate(self) -> Self:
        if self.evaluation is not None and self.held_out:
            raise ValueError("evaluation and held_out are both given. Give the rows to evaluate with, or a share.")
        return self


class _Sequences(Training):
    """Settings where single sequences are learnt."""

    packing: bool = False  # several sequences in a row of `length` tokens, apart from each other


class FineTuning(_Sequences):
    """Settings of supervised fine-tuning."""

    loss: Likelihood = Likelihood()


class RewritingModelling(_Sequences):
    """Settings of the sequence-to-sequence reward model."""

    loss: Rewriting = Rewriting()


class RewardModelling(Training):
    """Settings of the scalar reward model."""

    loss: Reward = Reward()
    optimiser: AdamW = AdamW(lr=1e-4)


class CostModelling(Training):
    """Settings of the cost model."""

    loss: Cost = Cost()
    optimiser: AdamW = AdamW(lr=1e-4)


class PreferenceTuning(Training):
    """Settings of learning from preferences without a reward model."""

    loss: Dpo | Ipo | Simpo | Kto = Dpo()  # told apart by `kind`
    optimiser: AdamW = AdamW(lr=1e-6)

    @model_validator(mode="after")
    def _pairs_of_prompts(self) -> Self:
        if isinstance(self.loss, Kto) and self.batch_size < 2:
            raise ValueError("batch_size is 1, but kto compares each prompt with another's answer. Use 2 or more.")
        return self


def objective_of(config: Training) -> Objective:
    """What a configuration learns."""
    return config.loss  # type: ignore[attr-defined]  # every recipe's settings have it


# --- data ---


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
    tables, held = _tables(config, objective, root)
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


def _tables(config: Training, objective: Objective, root: Path | str) -> tuple[list[Table], list[Table]]:
    """To learn from, and to evaluate with."""
    tables = load(config.data, objective.accepts, root)
    if config.evaluation is not None:
        return tables, load(config.evaluation, objective.accepts, root)
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
    import hashlib

    return hashlib.sha256(to_json(list(hashes)).encode()).hexdigest()


# --- recipe ---


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
        _tables(config, objective_of(config), root)

    def dry_run(
        self, config: Training, inputs: Mapping[str, Subject] | None = None, root: Path | str = ".", seed: int = 0
    ) -> DryRun:
        """Steps, tokens, memory and the first three rows.  Raises what `train` would raise at its start."""
        streams = Streams(seed)
        made = _Made.of(config, inputs or {}, streams.rng("model"))
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


def steps_of(config: Training, prepared: Prepared) -> int:
    """Steps of the optimiser; the last one of the last epoch is a whole one too."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * sum(map(len, prepared.sources)) / config.batch_size)


# --- models ---


@dataclass(slots=True)
class _Made:
    """The model to train, with what has to be known of it."""

    model: Any  # a causal language model, or a ScoreModel
    tokenizer: Any
    context: int
    ends: tuple[int, ...]
    reference: Any = None  # a model of its own to compare with
    history: History = field(default_factory=History)  # of the model it starts from

    @classmethod
    def of(cls, config: Training, inputs: Mapping[str, Subject], rng: np.random.Generator) -> _Made:
        """From the settings, or from the warm start."""
        objective = objective_of(config)
        start, score = inputs.get("policy"), objective.score is not None
        reference = _reference(inputs.get("reference"), objective)
        if config.model.template != "own" and isinstance(start, LanguageModel | ScoreModel):
            start.tokenizer.chat_template = TEMPLATES[config.model.template]
        if isinstance(start, ScoreModel) and score:
            return cls._of_scores(start, config, reference, int(rng.integers(2**63)))
        if start is not None and not isinstance(start, LanguageModel):
            raise ConfigError(
                f"the warm start is a {start.kind!r}. Give a language model" + (" or scores." if score else ".")
            )
        seed = int(rng.integers(2**63))
        lora = config.model.lora
        # Adapters of a score are on the body that it reads.
        base = config.model if not score else config.model.model_copy(update={"lora": None})
        if start is None:
            start = LanguageModel.of(base, np.random.default_rng(seed))
        elif lora is not None and not score:
            start = LanguageModel(attach_lora(start.model, lora, seed), start.tokenizer, start.parent, start.history)
        if not score:
            length = min(config.length, context_of(start.model))
            ends = end_tokens(start.model, start.tokenizer)
            return cls(start.model, start.tokenizer, length, ends, reference, start.history)
        assert objective.score is not None
        return cls._of_scores(ScoreModel.of(start, (objective.score,)), config, reference, seed)

    @classmethod
    def _of_scores(cls, model: ScoreModel, config: Training, reference: Any, seed: int) -> _Made:
        wanted = objective_of(config).score
        if wanted not in model.heads:
            raise ConfigError(
                f"the score model gives {', '.join(model.heads)}, but {wanted} is learnt here. Start from another."
            )
        if config.model.lora is not None:
            model.body = attach_lora(model.body, config.model.lora, seed, headless=True)
        length = min(config.length, context_of(model.body))
        return cls(model, model.tokenizer, length, (model.tokenizer.eos_token_id,), reference, model.history)

    def check(self, config: Training) -> None:
        """Raises ConfigError for weights that steps would leave as they are, and sequences that packing would mix."""
        check_learns(self.model.parameters())
        if getattr(config, "packing", False):
            check_apart(self.model, self.tokenizer, self.context)

    @property
    def inner(self) -> Any:
        """The Hugging Face model."""
        return self.model.body if isinstance(self.model, ScoreModel) else self.model


def _reference(given: Subject | None, objective: Objective) -> Any:
    if given is None:
        return None
    if not objective.compares:
        raise ConfigError(f"{objective.kind} has no use for a reference. Leave that input out.")
    if not isinstance(given, LanguageModel):
        raise ConfigError(f"the reference is a {given.kind!r}. Give a language model.")
    return given.model


def memory_of(config: Training, made: _Made, prepared: Prepared) -> Memory:
    """Bytes of training, estimated from shapes; the batch is of the longest rows."""
    objective = objective_of(config)
    weights = weight_bytes(made.model.parameters())
    trained = weight_bytes(p for p in made.model.parameters() if p.requires_grad)
    items = [item for source in prepared.sources for item in source]
    longest = max(len(row.tokens) for item in items for row in item.rows)
    rows = len(items[0].rows) * (config.micro_batch or config.batch_size)
    if getattr(config, "packing", False):
        mean = prepared.facts["tokens"] / sum(len(item.rows) for item in items)
        rows, longest = min(config.micro_batch or rows, math.ceil(rows * mean / made.context)), made.context
    kept = activation_bytes(
        made.inner,
        rows,
        longest,
        head=objective.score is None,
        checkpointing=config.gradient_checkpointing,
    )
    copied = objective.compares and (made.reference is not None or not hasattr(made.model, "disable_adapter"))
    return Memory(weights, trained, 2 * trained, weights if copied else 0, kept // (2 if config.autocast else 1))


# --- the loop ---


class Trainer:
    """One training run: what it holds is what a checkpoint stores."""

    def __init__(self, config: Training, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the model and reads the data."""
        self.config, self.run, self.objective = config, run, objective_of(config)
        self.group = learners()
        torch.set_num_threads(config.learner_threads)
        self.device = device_of(config.device)
        self.made = _Made.of(config, inputs, run.rng("model"))
        self.prepared = prepare(config, self.made.tokenizer, self.made.context, self.made.ends, run.folder.parent)
        self.model: nn.Module = self.made.model.to(self.device)
        self.made.check(config)
        if config.gradient_checkpointing:
            checkpoint_activations(plain(self.made.inner))
        if self.made.reference is not None:
            self.made.reference.to(self.device)
        self.models = Models(
            self.model,
            scorer=self._scores if self.objective.score else None,
            frozen=self.made.reference,
            compares=self.objective.compares,
            bfloat16=config.autocast is not None,
            device=self.device,
        )
        self.sharded = self._cut_up()
        self.steps = steps_of(config, self.prepared)
        self.order = self.prepared.order(config.data, int(run.rng("order").integers(2**31)))
        self.optimiser = Optimiser(config.optimiser, self.model.parameters(), self.steps)
        room = self.made.context if getattr(config, "packing", False) else None
        pad = self.made.tokenizer.pad_token_id
        share = math.ceil(config.batch_size / self.group.size) if self.group.size > 1 else 2**31
        self.packing = Packing(pad, config.micro_batch or share, room)
        self.step, self.tokens = 0, 0
        self._learning = False  # whether the model is in the mode of a step
        self.window: dict[str, list[float]] = {}  # sums and counts since the last line of the log
        self.parent = run.parent()
        root = run.folder.parent
        self.history = self.made.history.taught(
            judged_by=labelled_by(config.data, root),
            trained_on=exposed(config.data, root),
            chats=teaches_chats(config.data, root),
        )

    def _cut_up(self) -> Sharded | None:
        """The model with its weights cut up among the processes, where they are to be."""
        wanted = self.config.weights
        if self.group.size == 1:
            if wanted != "auto":
                raise ConfigError(f"weights is {wanted!r}, but there is one process. Start several with torchrun.")
            return None
        if wanted == "whole" or (wanted == "auto" and self.device.type == "cpu"):
            return None
        if self.models.frozen is not None:
            cut_up(self.models.frozen, self.group)
        return Sharded(self.model, self.group)

    def _scores(self, batch: Batch) -> Tensor:
        head = self.made.model.heads.index(self.objective.score)
        scores: Tensor = self.model(batch.tokens)[..., head]
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, besides the run's streams."""
        state = {
            "weights": whole({name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}),
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "window": {name: list(pair) for name, pair in self._summed(self.window)},
            "data": self.prepared.sha256,
        }
        if self.group.size > 1:
            state["followers"] = followers_states(self.group, self.run, {})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        if state["data"] != self.prepared.sha256:
            raise CheckpointError(
                f"the data of run {self.run.id} changed since it began. Put the rows back, or start the run again."
            )
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    p.copy_(cut_like(state["weights"][name], p))
        self.optimiser.load_state_dict(state["optimiser"])
        self.order.load_state_dict(state["order"])
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        # Sums of all processes: the first one goes on with them.
        self.window = {name: list(pair) for name, pair in state["window"].items() if self.group.leads}

    def train(self) -> LanguageModel | ScoreModel:
        """All steps, then the subject."""
        self.run.manifest["data"] = self.prepared.sha256
        saved = self.group.from_first(self.run.restore())
        if saved is not None:
            self.load_state_dict(followed(self.run, saved, self.group))
        self.run.write_json("data.json", self.prepared.facts)
        for sentence in left_out(self.prepared.facts):
            stage(sentence)
        config = self.config
        with progress(self.steps, self.run.manifest["name"]) as bar, _own_randomness(self.device):
            bar.start_at(self.step)
            while self.step < self.steps:
                loss = self.one_step()
                bar.advance(1, f"loss {loss:.3f}")
                last = self.step == self.steps
                if self.step % config.eval_steps == 0 or last:
                    self._look()
                stop_together(self.group, self.run)
                if self.step % config.checkpoint_steps == 0 or last or stop_asked():
                    self.run.save(self.step, self.state_dict())
        return self.subject()

    def subject(self) -> LanguageModel | ScoreModel:
        """The model as it stands, to be used; it shares its weights with the training, unless those are cut up."""
        self._rests()
        model: Any = self.made.model if self.sharded is None else self.sharded.whole()
        if isinstance(model, ScoreModel):
            model.parent, model.history = self.parent, self.history
            return model
        return LanguageModel(model, self.made.tokenizer, self.parent, self.history)

    def one_step(self) -> float:
        """One step of the optimiser on the next items; returns its loss.  Raises Diverged."""
        places = self.order.take(self.config.batch_size)
        items = [self.prepared.sources[place.source][place.row] for place in places]
        self._seed((int(self.run.rng("dropout").integers(2**63)) + self.group.rank) % 2**63)
        if not self._learning:
            learning_mode(self.model, self.objective.dropout)
            self._learning = True
        total, loss = self.objective.total(items), 0.0
        for micro, counts in self._dealt(items):
            terms = self.objective.terms(self.models, micro.to(self.device))
            # What is cut up comes back as a mean over the processes, and is to be a sum.
            scale = counts * (1 if self.sharded is None else self.group.size)
            (terms.loss / total * scale).backward()
            if counts:
                loss += terms.loss.item() / total
                self._count(terms.figures)
        sum_gradients(self.group, self.optimiser.parameters)
        (loss,) = sums(self.group, [loss])
        self.step += 1
        if not math.isfinite(loss):
            raise Diverged(self.step, "the loss", self.run.last_checkpoint)
        lr = self.optimiser.lr
        norm = self.optimiser.step().item()
        if not math.isfinite(norm):
            raise Diverged(self.step, "the gradient", self.run.last_checkpoint)
        self.tokens += sum(len(row.tokens) for item in items for row in item.rows)
        self._count({"loss": Figure(torch.tensor(loss), 1.0), "gradient_norm": Figure(torch.tensor(norm), 1.0)})
        if self.step % self.config.log_steps == 0 or self.step == self.steps:
            means = {f"train/{name}": total / over for name, (total, over) in self._summed(self.window) if over}
            self.run.log(self.step, **means, **{"train/lr": lr, "train/tokens": float(self.tokens)})
            self.window = {}
        return loss

    def _seed(self, seed: int) -> None:
        """Of what the step draws. torch.manual_seed would queue a call for every device that has not been used yet."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _rests(self) -> None:
        """Out of training, until the next step."""
        self.model.eval()
        self._learning = False

    def _dealt(self, items: Sequence[Item]) -> Iterator[tuple[Micro, bool]]:
        """This process's batches of a step, and whether each counts."""
        for micro, counts in dealt(self.group, self.objective.micros(items, self.packing, self.models)):
            if counts or self.sharded is not None:
                yield micro, counts

    def _summed(self, window: Mapping[str, Sequence[float]]) -> list[tuple[str, tuple[float, float]]]:
        """Sums and counts of all processes, by name."""
        parts = self.group.gathered({name: tuple(pair) for name, pair in window.items()})
        names = dict.fromkeys(name for part in parts for name in part)
        return [
            (name, (sum(part[name][0] for part in parts if name in part), sum(p[name][1] for p in parts if name in p)))
            for name in names
        ]

    def _count(self, figures: Mapping[str, Figure]) -> None:
        for name, figure in figures.items():
            kept = self.window.setdefault(name, [0.0, 0.0])
            kept[0] += float(figure.sum)
            kept[1] += float(figure.over)

    def _look(self) -> None:
        """Evaluate on the held-out items, and let whoever watches look at the subject."""
        if self.prepared.evaluation:
            self.run.log(self.step, **{f"eval/{name}": x for name, x in self.evaluated().items()})
        if self.sharded is None or not self.group.from_first(self.run.watch is not None):
            self.run.offer(self.step, self.subject)
            return
        put_together = self.subject()  # by all processes at once, though one alone has somebody who watches
        self.run.offer(self.step, lambda: put_together)

    @torch.no_grad()
    def evaluated(self) -> dict[str, float]:
        """Loss and figures over the held-out items."""
        self._rests()
        items, size = self.prepared.evaluation, self.config.batch_size
        loss, kept = 0.0, defaultdict[str, list[float]](lambda: [0.0, 0.0])
        for at in range(0, len(items), size):
            for micro, counts in self._dealt(items[at : at + size]):
                terms = self.objective.terms(self.models, micro.to(self.device))
                if not counts:
                    continue
                loss += terms.loss.item()
                for name, figure in terms.figures.items():
                    kept[name][0] += float(figure.sum)
                    kept[name][1] += float(figure.over)
        (loss,) = sums(self.group, [loss])
        figures = {name: total / over for name, (total, over) in self._summed(kept) if over}
        return {"loss": loss / self.objective.total(items), **figures}


@torch.no_grad()
def check_apart(model: Any, tokenizer: Any, context: int) -> None:
    """Raises ConfigError for an architecture that mixes the sequences of a packed row.

    Restarting positions keep them apart where attention is masked by positions; recurrences and convolutions run on,
    and other ways of telling positions do not start anew. So two short rows are read apart and packed.
    """
    model.eval()
    size = max(2, min(8, context // 2))
    weight = np.array([0.0] + [1.0] * (size - 1), dtype=np.float32)
    rows = [Row(np.arange(first, first + size) % len(tokenizer), weight, 0) for first in (0, size)]
    apart, together = (
        token_scores(model, batch.to(model.device)).log_prob.view(2, size)
        for batch in (padded(rows, tokenizer.pad_token_id), packed(rows, tokenizer.pad_token_id))
    )
    found = float((apart - together).abs().max())
    # Of equal sequences float32 is off by some 1e-5, and bfloat16, which rounds a logit of 16 to 0.1, by some of those.
    if found > (1e-4 if plain(model).dtype == torch.float32 else 0.5):
        raise ConfigError(
            f"{type(plain(model)).__name__} mixes the sequences of a packed row: log-probabilities are off by "
            f"{found:.2g}. Set packing to false."
        )


def checkpoint_activations(model: Any) -> None:
    """Let a Hugging Face model compute its layers' activations again in the backward pass.

    Raises ConfigError for an architecture that cannot.
    """
    # transformers renamed the method in 5.x and warns about the older name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise ConfigError(
            f"{type(model).__name__} cannot compute activations again. Set gradient_checkpointing to false."
        ) from None


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device a setting names; "auto" is the accelerator if there is one."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("device is 'cuda', but torch sees no CUDA device here. Set device to 'auto' or 'cpu'.")
    if found and name != "cpu" and learners().size > 1:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no accelerator: there are {torch.cuda.device_count()}. "
                "Start no more processes than that."
            )
        torch.cuda.set_device(local)
    return torch.device("cuda" if found and name != "cpu" else "cpu")


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Puts torch's random state back at the end: every step seeds it for its dropout."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
