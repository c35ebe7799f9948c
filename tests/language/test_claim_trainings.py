"""Trainings within a claim: what is kept, when one ends, and that none is done twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from trueline.core import subject as subjects
from trueline.core.config import Config
from trueline.core.run import Run, read_manifest
from trueline.language.claims import trainings
from trueline.language.claims.trainings import Lowest, trained
from trueline.language.subject import LanguageModel


class Settings(Config):
    """How many steps, and after how many the process is killed."""

    steps: int = 4
    losses: tuple[float, ...] = (1.0,)  # at each step's look


class Weight:
    """A subject of one number."""

    kind: ClassVar[str] = "weight"
    parent: str | None = None

    def __init__(self, value: float) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.model.weight, value)

    @property
    def value(self) -> float:
        return self.model.weight.item()

    def save(self, folder: Any) -> None:
        (folder / "weight.txt").write_text(str(self.value))


class Counting:
    """Counts one up with each step, a checkpoint and a look after each; dies after `lasts` steps of a process."""

    name, Config = "counting", Settings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, lasts: float = math.inf) -> None:
        self.lasts, self.done = lasts, 0

    def train(self, config: Settings, run: Run, inputs: Mapping[str, Weight]) -> Weight:
        saved = run.restore()
        step = 0 if saved is None else int(saved["step"])
        made = inputs.get("policy", Weight(0.0))
        torch.nn.init.constant_(made.model.weight, made.value + step)
        while step < config.steps:
            if self.done == self.lasts:
                raise KeyboardInterrupt
            step, self.done = step + 1, self.done + 1
            with torch.no_grad():
                made.model.weight.add_(1.0)
            run.save(step, {"step": step})
            run.log(step, **{"eval/loss": config.losses[(step - 1) % len(config.losses)]})
            run.offer(step, lambda: made)
        return made


@pytest.fixture(autouse=True)
def _weights(monkeypatch):
    """Loads what is saved here, which no catalogue knows."""
    monkeypatch.setattr(trainings, "load_subject", lambda run: Weight(float((run / "subject/weight.txt").read_text())))


def test_a_finished_training_is_not_repeated(tmp_path):
    recipe, config = Counting(), Settings()
    for _ in range(2):
        assert trained(tmp_path / "one", recipe, config, 3).value == 4.0
    assert recipe.done == 4
    assert read_manifest(tmp_path / "one")["status"] == "done"
    assert subjects.describe(tmp_path / "one")["kind"] == "weight"


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    config = Settings()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "one", Counting(lasts=3), config, 3)
    rest = Counting()
    assert trained(tmp_path / "one", rest, config, 3).value == 4.0
    assert rest.done == 1


@pytest.mark.parametrize(("config", "seed"), [(Settings(steps=5), 3), (Settings(), 4)])
def test_another_training_in_the_same_folder_gives_way(tmp_path, config, seed):
    trained(tmp_path / "one", Counting(), Settings(), 3)
    recipe = Counting()
    assert trained(tmp_path / "one", recipe, config, seed).value == config.steps == recipe.done


def test_a_training_starts_from_one_beside_it_and_does_not_move_it(tmp_path):
    config, given = Settings(), {"policy": "start"}
    start = trained(tmp_path / "start", Counting(), config, 0)
    assert trained(tmp_path / "one", Counting(), config, 0, given).value == 8.0
    assert start.value == trained(tmp_path / "start", Counting(), config, 0).value == 4.0
    assert read_manifest(tmp_path / "one")["inputs"] == {"policy": subjects.describe(tmp_path / "start")}


def test_from_another_start_it_is_another_training(tmp_path):
    config, given = Settings(), {"policy": "start"}
    for steps in (4, 6):
        trained(tmp_path / "start", Counting(), Settings(steps=steps), 0)
        recipe = Counting()
        assert trained(tmp_path / "one", recipe, config, 0, given).value == steps + 4.0
        assert recipe.done == 4


@pytest.mark.parametrize(
    ("losses", "patience", "taken", "lowest"),
    [
        ((3.0, 2.0, 1.0, 4.0, 5.0, 6.0, 0.5, 7.0), 2, 6, 3.0),  # three looks to the lowest, three more, and over
        ((3.0, 2.0, 1.0, 4.0, 5.0, 0.5, 7.0, 8.0), 2, 8, 6.0),  # a lower one in time
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), 4, 5, 1.0),  # patience is the least
        ((1.0, 1.0, 1.0, 1.0), 2, 3, 1.0),  # as low again is not lower
        ((4.0, 3.0, 2.0, 1.0), 1, 4, 4.0),  # falls to the end
    ],
)
def test_a_training_ends_when_its_lowest_loss_is_as_long_ago_as_it_took(tmp_path, losses, patience, taken, lowest):
    recipe, kept = Counting(), Lowest(patience)
    config = Settings(steps=len(losses), losses=losses)
    assert trained(tmp_path / "one", recipe, config, 0, lowest=kept).value == lowest
    assert recipe.done == taken
    assert kept.loss == losses[int(lowest) - 1]
    assert read_manifest(tmp_path / "one")["status"] == "done"


def test_a_killed_search_for_the_lowest_loss_begins_again(tmp_path):
    config = Settings(losses=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "one", Counting(lasts=3), config, 3, lowest=Lowest(9))
    recipe = Counting()
    assert trained(tmp_path / "one", recipe, config, 3, lowest=Lowest(9)).value == 1.0
    assert recipe.done == 4


def test_the_weights_kept_are_those_of_the_lowest_loss():
    model = LanguageModel(torch.nn.Linear(1, 1), None)
    kept = Lowest(9)
    for step, loss in enumerate([0.9, 0.4, 0.6, 0.5]):
        torch.nn.init.constant_(model.model.weight, float(step))
        kept.write(step, {"eval/loss": loss})
        kept.write(step, {"train/loss": 0.0})
        kept(step, model)
    assert kept.loss == 0.4
    assert float(kept.weights["weight"]) == 1.0
    assert kept.back().model.weight.item() == 1.0
