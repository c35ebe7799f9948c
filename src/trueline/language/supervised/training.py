"""The loop of supervised training, written once: items, batches, loss, step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trueline.core.errors import CheckpointError, ConfigError, Diverged
from trueline.core.progress import progress, stage
from trueline.core.run import Run
from trueline.core.stopping import stop_asked
from trueline.core.subject import Subject
from trueline.language.batches import Batch, Item
from trueline.language.forward import Models, checkpoint_activations, learning_mode, plain
from trueline.language.objectives import Figure, Micro, Packing
from trueline.language.optimiser import Optimiser
from trueline.language.parallel import Sharded, cut_like, cut_up, dealt, device_of, sum_gradients, sums, whole
from trueline.language.sources import exposed, labelled_by, teaches_chats
from trueline.language.subject import LanguageModel, ScoreModel
from trueline.language.supervised.data import left_out, prepare, steps_of
from trueline.language.supervised.making import Made
from trueline.language.supervised.settings import Training, objective_of
from trueline.rl.parallel import followed, followers_states, learners, stop_together

__all__ = ["Trainer"]


class Trainer:
    """One training run: what it holds is what a checkpoint stores."""

    def __init__(self, config: Training, run: Run, inputs: Mapping[str, Subject]) -> None:
        """Builds the model and reads the data."""
        self.config, self.run, self.objective = config, run, objective_of(config)
        self.group = learners()
        torch.set_num_threads(config.learner_threads)
        self.device = device_of(config.device)
        self.made = Made.of(config, inputs, run.rng("model"))
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
        pad = self.made.tokenizer.pad_token_id
        share = math.ceil(config.batch_size / self.group.size) if self.group.size > 1 else 2**31
        self.packing = Packing(pad, config.micro_batch or share, self.made.context, getattr(config, "packing", False))
        self.step, self.tokens = 0, 0
        self._learning = False  # whether the model is in the mode of a step
        self.window: dict[str, list[float]] = {}  # sums and counts since the last line of the log
        self.parent = run.parent()
        root = run.folder.parent
        self.history = self.made.history.taught(
            judged_by=labelled_by(config.data, root),
            trained_on=exposed(config.data, root),
            chats=teaches_chats(config.data, root),
            rate=config.optimiser.lr,
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


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Puts torch's random state back at the end: every step seeds it for its dropout."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
