"""Trainings of a few thousand parameters on a few prompts, judged by the letters of their replies."""

import json

import pytest
import torch

from trueline.core import registry
from trueline.core.config import build, laid_over
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.language.models import Architecture, from_scratch
from trueline.language.online import GRPO, LM_PPO, LM_PPO_LAG, RLOO, Trainer
from trueline.language.scorers import Judgement
from trueline.language.subject import LanguageModel
from trueline.language.vocabulary import Characters, tokenizer_of

RECIPES = {recipe.name: recipe for recipe in (LM_PPO, LM_PPO_LAG, RLOO, GRPO)}
TOKENIZER = tokenizer_of(Characters(alphabet="abcdxy"))
REWARD, COST = {"a": 1.0, "b": 0.4}, {"a": 1.0}


class Letters:
    """Reward and cost of a reply's letters; a reply with x is one it cannot judge."""

    def __init__(self, costs=("harm",), unjudged="", scale=1.0):
        self.costs, self.unjudged, self.scale = tuple(costs), unjudged, scale

    def __call__(self, prompts, replies):
        return [self.judged(reply.text) for reply in replies]

    def judged(self, text):
        if self.unjudged and self.unjudged in text:
            return None
        reward = self.scale * sum(REWARD.get(letter, 0.0) for letter in text)
        return Judgement(reward, dict.fromkeys(self.costs, sum(COST.get(letter, 0.0) for letter in text)))


def tiny(seed=0):
    """A policy of a few thousand parameters."""
    return LanguageModel(from_scratch(Architecture(1, 16, 2, 32), TOKENIZER, seed, 32), TOKENIZER)


class World:
    """A folder with prompts and runs, and the scorer `letters`."""

    def __init__(self, folder, monkeypatch):
        known = registry.load
        found = {("scorer", "letters"): Letters}
        monkeypatch.setattr(registry, "load", lambda *name: found[name] if name in found else known(*name))
        self.folder, self.runs, self.count = folder, folder / "runs", 0
        self.prompts = folder / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("x", "y", "xy", "yx")))
        self.text = folder / "text.jsonl"  # to be kept, for ptx
        self.text.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("abc", "dd", "cab")))

    def config(self, name, **settings):
        options = settings.pop("options", {})
        given = {
            "prompts": {"path": str(self.prompts)},
            "scorers": [{"kind": "function", "name": "letters", "options": options}],
            "sampling": {"max_tokens": 3},
            "batch_size": 4,
            "max_steps": 3,
            "optimiser": {"lr": 1e-2, "schedule": "constant"},
        }
        if name in ("rloo", "grpo"):
            given["samples"] = 3
        if "ptx" in settings:
            given["ptx"] = {"data": {"path": str(self.text)}}
        return build(RECIPES[name].Config, laid_over(given, settings))

    def run(self, name, config, seed=3, id=None):
        self.count += 1
        return Run.create(self.runs, kind="train", name=name, config=config, seed=seed, id=id or f"r{self.count}")

    def train(self, name, inputs=None, watch=None, **settings):
        config = self.config(name, **settings)
        with self.run(name, config) as run:
            run.watch = watch
            subject = RECIPES[name].train(config, run, {"policy": tiny(), **(inputs or {})})
            save_subject(subject, run.folder)
        return subject, log(run), run


def log(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time/elapsed_s"} for line in lines]


def whole_and_resumed(runs, recipe, config, monkeypatch, policy=tiny, trainer=Trainer, steps=2):
    """What a training leaves, and what one leaves that was killed after so many steps and gone on with."""

    def created(id):
        return Run.create(runs, kind="train", name=recipe.name, config=config, seed=3, id=id)

    def left(run):
        with run:
            save_subject(recipe.train(config, run, {"policy": policy()}), run.folder)
        files = [run.folder / "subject" / "model.safetensors"]
        for pattern in ("step-*.json", "round-*.jsonl", "replies.txt"):
            files += (run.folder / "artefacts").rglob(pattern)
        return log(run), {str(path.relative_to(run.folder)): path.read_bytes() for path in files}

    one_step, count = trainer.one_step, []

    def dying(self):
        if len(count) == steps:
            raise KeyboardInterrupt
        count.append(1)
        return one_step(self)

    whole, killed = left(created("whole")), created("killed")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "one_step", dying)
        with pytest.raises(KeyboardInterrupt), killed:
            recipe.train(config, killed, {"policy": policy()})
    again = Run.reopen(killed.folder)
    resumed = left(again)
    assert again.restored_step  # it did not begin anew
    return whole, resumed


def weights(subject):
    return torch.cat([p.detach().flatten() for p in subject.model.parameters()])


def chances(subject, letters="ab"):
    """Probability of each letter as the first token of a reply to x."""
    tokens = TOKENIZER.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
    ids = tokens["input_ids"] if hasattr(tokens, "keys") else tokens
    with torch.no_grad():
        p = subject.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    return [float(p[TOKENIZER.convert_tokens_to_ids(letter)]) for letter in letters]
