"""What parts of larger runs are called, and that one place trains those of sweeps and searches."""

import re
from typing import ClassVar

import pytest

from trueline.core import registry
from trueline.core.config import Config
from trueline.core.errors import Diverged
from trueline.core.recipe import Plan
from trueline.core.registry import Entry
from trueline.core.run import Run, read_manifest
from trueline.cycle import parts


class Counts(Config):
    to: int = 3
    breaks_at: int | None = None


class Counter:
    kind = "test-counter"
    parent = None

    def __init__(self, total):
        self.total = total

    def save(self, folder):
        (folder / "total.txt").write_text(str(self.total))


class Counting:
    Config = Counts
    presets: ClassVar = {}
    begun = 0

    def train(self, config, run, inputs):
        Counting.begun += 1
        state = run.restore() if run.last_checkpoint else None
        for step in range(state["step"] + 1 if state else 1, config.to + 1):
            if step == config.breaks_at:
                raise Diverged(step, "loss")
            run.log(step, **{"train/step": step})
            run.save(step, {"step": step})
        return Counter(config.to)


COUNTING = Counting()


@pytest.fixture(autouse=True)
def _registered():
    registry.entries()
    registry.add(Entry("recipe", "test-counting", f"{__name__}:COUNTING", "counts"))
    registry.add(Entry("subject", "test-counter", f"{__name__}:Counter", "a number"))
    Counting.begun = 0
    yield
    registry._found.pop(("recipe", "test-counting"))
    registry._found.pop(("subject", "test-counter"))


def whole(root, kind, id="x"):
    Run.create(root, kind=kind, name="any", config={}, seed=0, id=id).close()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cycle", parts.of_round("x", 12, "train")),
        ("cycle", parts.of_round("x", 1, "audit")),
        ("cycle", parts.of_round("x", 1, "respond")),
        ("sweep", parts.of_point("x", 3, 10)),
        ("search", parts.of_trial("x", 1234, 0)),
    ],
)
def test_a_part_is_known_by_its_name_where_the_whole_is(tmp_path, kind, name):
    assert parts.whole_of(tmp_path / name) is None
    whole(tmp_path, kind)
    assert parts.whole_of(tmp_path / name) == "x"
    assert parts.whole_of(tmp_path / "x") is None


def test_a_run_that_only_looks_like_a_part_may_go_on_alone(tmp_path):
    whole(tmp_path, "train")
    assert parts.whole_of(tmp_path / parts.of_point("x", 0, 0)) is None
    whole(tmp_path, "sweep", "y")
    assert parts.whole_of(tmp_path / parts.of_seed("y", 0)) is None  # a seed trained together with others


def test_names_of_parts_are_those_that_earlier_versions_gave():
    assert parts.of_round("x", 1, "train") == "x-r1-train"
    assert parts.of_point("x", 3, 10) == "x-p03-s10"
    assert parts.of_trial("x", 3, 1) == "x-t003-s1"
    assert parts.of_seed("x", 4) == "x-s4"
    assert parts.prepared("x", "base") == "x-base"


def test_nothing_is_prepared_under_the_name_of_a_round():
    for part in parts.PARTS:
        assert not parts.may_be_prepared(parts.of_round("", 1, part).removeprefix("-"))
    assert parts.may_be_prepared("reward-model")
    assert not parts.may_be_prepared("Model")


def test_a_part_is_trained_once_and_gone_on_with_where_it_was_cut_off(tmp_path):
    plan, folder = Plan(recipe="test-counting", config={"to": 3}), tmp_path / "x-p00-s2"
    parts.train_part(plan, folder, seed=2, threads=1)
    assert parts.is_over(folder)
    assert read_manifest(folder)["seed"] == 2
    card = folder / "manifest.json"
    card.write_text(card.read_text().replace('"done"', '"stopped"'))
    assert not parts.is_over(folder)
    parts.train_part(plan, folder, seed=2, threads=1)
    assert read_manifest(folder)["resumed"][0]["step"] == 3
    assert parts.is_over(folder)
    parts.train_part(plan, folder, seed=2, threads=1)  # finished: left as it is
    assert Counting.begun == 2


def test_a_part_that_was_killed_as_it_began_is_begun_again(tmp_path):
    folder = tmp_path / "x-p00-s0"
    folder.mkdir()
    (folder / "run.lock").write_text("99\n")
    parts.train_part(Plan(recipe="test-counting"), folder, seed=0, threads=1)
    assert read_manifest(folder)["status"] == "done"


def test_a_part_that_diverges_is_over_and_stops_no_other(tmp_path, capsys):
    folder = tmp_path / "x-t000-s0"
    parts.train_part(Plan(recipe="test-counting", config={"breaks_at": 2}), folder, seed=0, threads=1)
    assert parts.is_over(folder)
    assert read_manifest(folder)["status"] == "diverged"
    assert re.search("loss is not finite at step 2", capsys.readouterr().err)
