"""A recipe whose return and cost are functions of its settings, and a stand-in for Optuna, to test a search on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from trueline.core.config import Config
from trueline.core.errors import Diverged
from trueline.core.registry import Entry


class Settings(Config):
    """Best at rate = 0.01, size = 3; a size above 5 costs more than the limit of 5."""

    rate: float = 0.1
    size: int = 1
    layers: tuple[int, ...] = (8,)
    noise: float = 0.0  # of the return, by seed


class Answer:
    """A subject that is a number."""

    kind = "searched-answer"
    parent = None

    def __init__(self, value):
        self.value = value

    def save(self, folder):
        (folder / "answer.json").write_text(json.dumps(self.value))


class Searched:
    """The recipe."""

    Config = Settings
    presets: ClassVar = {"wide": {"layers": [64]}}
    trained: ClassVar[list[str]] = []  # ids, in the order in which they were trained
    stop_at: ClassVar[str | None] = None  # an id whose training is interrupted

    def train(self, config, run, inputs):
        self.trained.append(run.id)
        if run.id == self.stop_at:
            raise KeyboardInterrupt
        if config.rate > 0.5:
            raise Diverged(1, "weights")
        value = -((np.log10(config.rate) + 2.0) ** 2) - (config.size - 3) ** 2 + len(config.layers)
        value += config.noise * run.seed
        run.write_json("limits.json", {"train/cost": 5.0})
        run.log(1, **{"train/return": value, "train/cost": config.size, "train/total_cost": config.size})
        return Answer(value)


SEARCHED = Searched()

ENTRIES = (
    Entry("recipe", "searched", "searched_recipe:SEARCHED", "a function of its settings"),
    Entry("subject", "searched-answer", "searched_recipe:Answer", "a number"),
)


class Study:
    """Draws uniformly; keeps what it was told."""

    told: ClassVar[list[list]] = []  # one list per study, in the order in which they were made

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.trials = []
        Study.told.append(self.trials)

    def add_trial(self, trial):
        self.trials.append(trial)

    def ask(self, space):
        return SimpleNamespace(params={key: draw(self.rng) for key, draw in space.items()})


def _number(low, high, log=False):
    if log:
        return lambda rng: float(10 ** rng.uniform(np.log10(low), np.log10(high)))
    return lambda rng: float(rng.uniform(low, high))


OPTUNA = SimpleNamespace(
    logging=SimpleNamespace(WARNING=30, set_verbosity=lambda level: None),
    distributions=SimpleNamespace(
        FloatDistribution=_number,
        IntDistribution=lambda low, high, log=False: lambda rng: int(rng.integers(low, high + 1)),
        CategoricalDistribution=lambda values: lambda rng: values[int(rng.integers(len(values)))],
    ),
    samplers=SimpleNamespace(TPESampler=lambda seed: seed),
    create_study=lambda direction, sampler: Study(sampler),
    trial=SimpleNamespace(create_trial=lambda params, distributions, value: (params, value)),
)
