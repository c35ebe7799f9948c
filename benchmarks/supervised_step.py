"""Steps of supervised training: ours, TRL's trainers, and a bare loop, on the same weights and the same rows."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path

import _interleave
from _interleave import Comparison, Contestant, Medians, Plan

PROMPT, ANSWER, BATCH = 24, 40, 32  # characters of a prompt and of an answer; rows, or pairs, of a step
WARM_UP, RATE = 5, 1e-4
STEPS = {"nano": 40, "micro": 12}
KINDS = ("sft", "reward", "dpo")


def rows_of(kind: str, steps: int, shortest: int) -> list[dict[str, str]]:
    """Texts made of noise: answers of `shortest` to 40 characters after prompts of 24."""
    import numpy as np

    rng = np.random.default_rng(0)

    def word(n: int) -> str:
        return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz,."), size=n))

    made = []
    for _ in range((WARM_UP + steps) * BATCH):
        prompt = word(PROMPT - 1) + "="
        one, two = (word(int(rng.integers(shortest, ANSWER + 1))) for _ in range(2))
        made.append({"prompt": prompt, "completion": one})
        if kind != "sft":
            made[-1] = {"prompt": prompt, "chosen": one, "rejected": two}
    return made


def tokens_of(rows: list[dict[str, str]]) -> int:
    """Tokens that the model reads, both answers of a pair, with their end tokens."""
    answers = [[row["completion"]] if "completion" in row else [row["chosen"], row["rejected"]] for row in rows]
    return sum(len(row["prompt"]) + len(a) + 1 for row, two in zip(rows, answers, strict=True) for a in two)


def model_of(size: str):
    """Model and tokenizer, equal for everyone."""
    import numpy as np
    import torch

    from trueline.language.models import ModelRef, load_model

    torch.set_num_threads(1)
    loaded = load_model(ModelRef(name=size, context=128), np.random.default_rng(0))
    return loaded.model, loaded.tokenizer


class Stopwatch:
    """Process and wall time, mean loss and steps since the last lap."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.start()

    def start(self) -> None:
        self.losses.clear()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def figures(self, work: int) -> dict[str, float]:
        spent = {"cpu_s": time.process_time() - self.cpu, "wall_s": time.perf_counter() - self.wall}
        return {"work": work, **spent, "loss": sum(self.losses) / len(self.losses)}


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(size: str, kind: str, steps: int, shortest: int = ANSWER, packing: bool = False):
    from trueline.core.config import build
    from trueline.core.run import Run
    from trueline.language.recipes import DPO, REWARD_MODEL, SFT
    from trueline.language.subject import LanguageModel
    from trueline.language.supervised import Trainer

    recipe = {"sft": SFT, "reward": REWARD_MODEL, "dpo": DPO}[kind]
    rows = rows_of(kind, steps, shortest)
    folder = Path(tempfile.mkdtemp())
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "data": {"path": str(path), "shuffle": False},
        "batch_size": BATCH,
        "length": 128,
        "optimiser": {"lr": RATE},
        **({"packing": True} if packing else {}),
        **({"loss": {"rho": 0.0}} if kind == "reward" else {}),
    }
    config = build(recipe.Config, given)
    work, numbers = tokens_of(rows[WARM_UP * BATCH :]), itertools.count()

    def fresh():
        model, tokenizer = model_of(size)
        run = Run.create(folder / "runs", kind="train", name=kind, config=config, seed=0, id=f"r{next(numbers)}")
        trainer = Trainer(config, run, {"policy": LanguageModel(model, tokenizer)})
        for _ in range(WARM_UP):
            trainer.one_step()
        watch = Stopwatch()

        def job():
            watch.start()
            watch.losses += [trainer.one_step() for _ in range(steps)]
            figures = watch.figures(work)
            run.close()
            return figures

        return job

    return fresh


# -- TRL --------------------------------------------------------------------------------------------------------------


def theirs(size: str, kind: str, steps: int, shortest: int = ANSWER):
    import copy
    import os

    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import LlamaForSequenceClassification, TrainerCallback

    disable_progress_bars()
    trainer, config = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
    }[kind]
    rows = rows_of(kind, steps, shortest)
    work, watch = tokens_of(rows[WARM_UP * BATCH :]), Stopwatch()

    class Watched(trainer):
        def compute_loss(self, *given, **named):
            loss = super().compute_loss(*given, **named)
            watch.losses.append(loss.item())  # ours reads every loss too, to stop at one that is not finite
            return loss

    class AfterWarmUp(TrainerCallback):
        def on_step_end(self, *given, **_):
            if given[1].global_step == WARM_UP:
                watch.start()

    def fresh():
        model, tokenizer = model_of(size)
        inputs = {}
        if kind == "dpo":
            inputs["ref_model"] = copy.deepcopy(model)
        if kind == "reward":
            score = LlamaForSequenceClassification(copy.deepcopy(model.config))
            score.config.num_labels, score.num_labels = 1, 1
            score.score = torch.nn.Linear(model.config.hidden_size, 1, bias=False)
            torch.nn.init.zeros_(score.score.weight)
            score.model.load_state_dict(model.model.state_dict())
            model = score
        arguments = config(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            max_steps=WARM_UP + steps,
            learning_rate=RATE,
            max_length=128,
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            logging_steps=10,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        made = Watched(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[AfterWarmUp()],
            **inputs,
        )

        def job():
            made.train()
            return watch.figures(work)

        return job

    return fresh


# -- the bare loop ----------------------------------------------------------------------------------------------------


def bare(size: str, kind: str, steps: int, shortest: int = ANSWER):
    """Padded tokens made beforehand, one forward pass (two for DPO), a loss, its gradient and one fused AdamW."""
    import copy

    import torch
    from torch.nn.functional import cross_entropy, logsigmoid

    rows = rows_of(kind, steps, shortest)
    work = tokens_of(rows[WARM_UP * BATCH :])
    _, tokenizer = model_of(size)

    def padded(texts: list[tuple[str, str]]):
        tokens = [tokenizer(p + a, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] for p, a in texts]
        width = max(map(len, tokens))
        ids = torch.tensor([t + [tokenizer.pad_token_id] * (width - len(t)) for t in tokens])
        ends = torch.tensor([len(t) - 1 for t in tokens])
        counted = torch.arange(1, width)[None] <= ends[:, None]
        counted &= torch.arange(1, width)[None] >= PROMPT
        return ids, ids[:, 1:].masked_fill(~counted, -100), ends

    batches = []
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        columns = ("completion",) if kind == "sft" else ("chosen", "rejected")
        batches.append(padded([(row["prompt"], row[column]) for column in columns for row in part]))

    def fresh():
        model, _ = model_of(size)
        model.train()
        before, head = copy.deepcopy(model), torch.nn.Linear(model.config.hidden_size, 1)
        trained = [*(model.model if kind == "reward" else model).parameters()]
        adam = torch.optim.AdamW([*trained, *(head.parameters() if kind == "reward" else [])], lr=RATE, fused=True)

        def log_prob(network, ids, target):
            logits = network(input_ids=ids, use_cache=False).logits[:, :-1]
            return -cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)

        def one_step(ids, target, ends) -> float:
            if kind == "sft":
                loss = -log_prob(model, ids, target).sum() / (target >= 0).sum()
            elif kind == "reward":
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
                chosen, rejected = head(hidden[torch.arange(len(ids)), ends]).chunk(2)
                loss = -logsigmoid(chosen - rejected).mean()
            else:
                with torch.no_grad():
                    reference = log_prob(before, ids, target).sum(1)
                chosen, rejected = (log_prob(model, ids, target).sum(1) - reference).chunk(2)
                loss = -logsigmoid(0.1 * (chosen - rejected)).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adam.step()
            adam.zero_grad()
            return loss.item()

        for batch in batches[:WARM_UP]:
            one_step(*batch)
        watch = Stopwatch()

        def job():
            watch.start()
            watch.losses += [one_step(*batch) for batch in batches[WARM_UP:]]
            return watch.figures(work)

        return job

    return fresh


MAKERS = {"ours": ours, "theirs": theirs, "bare": bare}


def _compared(size: str, kind: str, against: str, bar: float | None) -> Comparison:
    def ceiling(medians: Medians) -> float:
        return medians[f"bare loop, {kind}, {size}"]["per_cpu_s"] / medians[f"{against}, {kind}, {size}"]["per_cpu_s"]

    return Comparison(
        f"{kind} on {size}, trueline / {against}",
        f"trueline, {kind}, {size}",
        "per_cpu_s",
        f"bare loop / {against}",
        ceiling,
        f"{against}, {kind}, {size}",
        at_least=bar,
    )


def _same_loss(size: str, kind: str) -> Comparison:
    return Comparison(
        f"{kind} on {size}, mean loss, trueline / TRL",
        f"trueline, {kind}, {size}",
        "loss",
        "equal losses",
        lambda _: 1.0,
        f"TRL, {kind}, {size}",
    )


def plan(quick: bool) -> Plan:
    sizes = {"nano": 10} if quick else STEPS
    sides = {"trueline": "ours", "TRL": "theirs", "bare loop": "bare"}
    contestants = [
        Contestant(f"{side}, {kind}, {size}", maker, {"size": size, "kind": kind, "steps": steps})
        for size, steps in sizes.items()
        for kind in KINDS
        for side, maker in sides.items()
    ]
    size, steps = list(sizes.items())[-1]
    uneven = {"steps": steps, "shortest": 1}
    contestants += [
        Contestant("trueline, uneven, padded", "ours", {"size": size, "kind": "sft", **uneven}),
        Contestant("trueline, uneven, packed", "ours", {"size": size, "kind": "sft", "packing": True, **uneven}),
        Contestant("TRL, uneven, padded", "theirs", {"size": size, "kind": "sft", **uneven}),
    ]
    packed = [
        Comparison(
            f"answers of 1 to {ANSWER} characters, packed / {other}",
            "trueline, uneven, packed",
            "per_cpu_s",
            "no padding at all: tokens of the padded rows / tokens read",
            lambda _: (PROMPT + ANSWER + 1) / (PROMPT + (1 + ANSWER) / 2 + 1),
            f"{other}, uneven, padded",
        )
        for other in ("trueline", "TRL")
    ]
    return Plan(
        unit="tokens",
        note=f"Steps of {BATCH} rows (sft) or pairs, prompts of {PROMPT} and answers of {ANSWER} characters, float32, "
        f"one thread, after {WARM_UP} steps of warm-up; data made into tokens before. Tokens are those read, both "
        "answers of a pair once, padding not counted. Both sides log every ten steps and read every loss. Bare loop: "
        "the same model on tokens padded beforehand, a loss, a clipped gradient and one fused AdamW.",
        contestants=contestants,
        comparisons=[
            *(
                _compared(size, kind, against, {"TRL": 1.0, "bare loop": 0.95}[against])
                for size in sizes
                for kind in KINDS
                for against in ("TRL", "bare loop")
            ),
            *(_same_loss(size, kind) for size in sizes for kind in KINDS),
            *packed,
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
