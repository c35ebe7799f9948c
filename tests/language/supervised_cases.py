"""Small supervised trainings, which tests of several files run."""

import json

import numpy as np
import torch

from trueline.core.config import build
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language.models import ModelRef, load_model
from trueline.language.recipes import COST_MODEL, DPO, REWARD_MODEL, SEQ2SEQ_RM, SFT
from trueline.language.subject import ScoreModel

RECIPES = {recipe.name: recipe for recipe in (SFT, REWARD_MODEL, COST_MODEL, DPO, SEQ2SEQ_RM)}


def shifted(text):
    return "".join(chr(ord(c) + 1) for c in text)


def pairs(n, seed=0):
    """A prompt, the answer that is its cipher, and one that is it backwards and longer."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), size=rng.integers(2, 6))) for _ in range(n)]
    return [(word + "=", shifted(word), word[::-1] + "!") for word in words]


def rows_for(name, n=48, seed=0):
    if name == "sft":
        return [{"prompt": p, "completion": a} for p, a, _ in pairs(n, seed)]
    if name == "cost-model":
        safe = {"safer_response_id": 0, "is_response_0_safe": True, "is_response_1_safe": False}
        return [
            {"prompt": p, "response_0": a, "response_1": b, "better_response_id": 1, **safe}
            for p, a, b in pairs(n, seed)
        ]
    return [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in pairs(n, seed)]


class World:
    def __init__(self, folder):
        self.folder, self.runs, self.count = folder, folder / "runs", 0

    def rows(self, name, rows=None):
        path = self.folder / f"{name}.jsonl"
        rows = rows_for(name) if rows is None else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def config(self, name, **settings):
        data = {"path": str(self.folder / f"{name}.jsonl"), **settings.pop("data", {})}
        if not (self.folder / f"{name}.jsonl").exists():
            self.rows(name)
        given = {"data": data, "batch_size": 6, "max_steps": 6, "log_steps": 1, "optimiser": {"lr": 1e-3}}
        return build(RECIPES[name].Config, {**given, **settings})

    def run(self, name, config, seed=3, id=None):
        self.count += 1
        return Run.create(self.runs, kind="train", name=name, config=config, seed=seed, id=id or f"r{self.count}")

    def train(self, name, inputs=None, watch=None, **settings):
        """The subject, and the lines of its log."""
        config = self.config(name, **settings)
        with self.run(name, config) as run:
            run.watch = watch
            subject = RECIPES[name].train(config, run, inputs or {})
            save_subject(subject, run.folder)
        return subject, log(run)


def log(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time/elapsed_s"} for line in lines]


def losses(lines):
    return [line["train/loss"] for line in lines if "train/loss" in line]


def module(subject):
    return subject if isinstance(subject, ScoreModel) else subject.model


def weights(subject):
    return {name: p.detach().clone() for name, p in module(subject).named_parameters()}


def save_gpt2(folder):
    """Saves a model of another architecture, with dropout, and its tokenizer."""
    from transformers import AutoModelForCausalLM, GPT2Config

    loaded = load_model(ModelRef(), np.random.default_rng(0))
    ids = {"vocab_size": len(loaded.tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, **ids))
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
