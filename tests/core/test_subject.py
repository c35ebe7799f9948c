import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trueline.core import registry
from trueline.core.errors import RunError, UnknownName
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import Subject, describe, holds_subject, load_subject, save_subject, subject_hash


class Table:
    kind = "test-table"

    def __init__(self, values, parent=None):
        self.values, self.parent = values, parent

    def save(self, folder):
        (folder / "nested").mkdir()
        (folder / "nested" / "values.json").write_text(json.dumps(self.values))


def load_table(folder):
    return Table(json.loads((Path(folder) / "nested" / "values.json").read_text()))


@pytest.fixture(autouse=True)
def _registered():
    registry.entries()
    known_by = ("nested/values.json", "table.txt")
    registry.add(Entry("subject", "test-table", f"{__name__}:load_table", "a list of numbers", known_by=known_by))
    yield
    registry._found.pop(("subject", "test-table"))


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path, kind="train", name="t", config={}, seed=0, id="parent") as run:
        yield run


def test_a_subject_comes_back_from_its_run_or_its_folder(run):
    folder = save_subject(Table([1, 2]), run.folder)
    assert isinstance(Table([]), Subject)
    assert load_subject(run.folder).values == load_subject(folder).values == [1, 2]


def test_the_hash_is_of_kind_and_contents(run, tmp_path):
    save_subject(Table([1, 2]), run.folder)
    one = subject_hash(run.folder)
    save_subject(Table([1, 2], parent="someone"), run.folder)
    assert subject_hash(run.folder) == one
    save_subject(Table([1, 3]), run.folder)
    assert subject_hash(run.folder) != one


def test_a_save_that_fails_keeps_the_earlier_subject(run):
    save_subject(Table([1]), run.folder)
    with pytest.raises(TypeError):
        save_subject(Table([np.float32(1)]), run.folder)
    assert load_subject(run.folder).values == [1]
    assert not list(run.folder.glob(".subject*"))


def test_damage_is_named(run):
    folder = save_subject(Table([1, 2]), run.folder)
    values = folder / "nested" / "values.json"
    for change, why in [
        (lambda: values.write_text("[1, 9]"), r"values\.json is altered"),
        (lambda: (folder / "extra").write_text(""), "extra is unknown"),
        (lambda: values.unlink(), r"values\.json is missing"),
        (lambda: (folder / "subject.json").write_text("{"), "damaged"),
        (lambda: (folder / "subject.json").write_text('{"format": 9, "kind": "a", "files": {}}'), "format 9"),
        (lambda: (folder / "subject.json").unlink(), "no finished subject"),
    ]:
        save_subject(Table([1, 2]), run.folder)
        change()
        with pytest.raises(RunError, match=why):
            load_subject(run.folder)


def test_a_kind_nobody_can_load_is_unknown(run):
    folder = save_subject(Table([1]), run.folder)
    card = json.loads((folder / "subject.json").read_text())
    (folder / "subject.json").write_text(json.dumps(card | {"kind": "test-tabel"}))
    with pytest.raises(UnknownName, match="Did you mean 'test-table'"):
        load_subject(folder)


def test_a_run_records_its_inputs_by_run_and_hash(run, tmp_path):
    save_subject(Table([1, 2]), run.folder)
    for given in ("parent", "run://parent", "run://parent/subject", run.folder, run.folder / "subject"):
        with Run.create(tmp_path, kind="train", name="u", config={}, seed=0, inputs={"base": given}) as child:
            assert child.manifest["inputs"] == {
                "base": {"run": "parent", "kind": "test-table", "sha256": subject_hash(run.folder)}
            }
            assert child.parent("base") == "parent"
            assert child.parent() is None
    with pytest.raises(RunError, match="no run or path 'nobody'"):
        Run.create(tmp_path, kind="train", name="u", config={}, seed=0, inputs={"base": "nobody"})


def test_an_input_that_lies_in_no_run_has_no_parent(run, tmp_path):
    save_subject(Table([1, 2]), run.folder)
    shutil.copytree(run.folder / "subject", tmp_path / "elsewhere" / "subject")
    alone = {"policy": tmp_path / "elsewhere" / "subject"}
    with Run.create(tmp_path, kind="train", name="u", config={}, seed=0, inputs=alone) as child:
        assert set(child.manifest["inputs"]) == {"policy"}
        assert child.parent() is None


def test_a_folder_made_elsewhere_is_a_subject_of_the_kind_that_knows_its_files(run, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    Table([1, 2]).save(folder)
    assert not holds_subject(folder)
    with pytest.raises(RunError, match="holds no finished subject"):
        load_subject(folder)
    (folder / "table.txt").write_text("")
    assert holds_subject(folder)
    assert load_subject(folder).values == [1, 2]
    told = describe(folder)
    assert told == {"run": None, "kind": "test-table", "sha256": subject_hash(folder), "path": str(folder.resolve())}
    (folder / "table.txt").write_text("more")
    assert subject_hash(folder) != told["sha256"]


def test_in_a_run_a_card_that_is_gone_is_damage_whatever_else_is_there(run):
    folder = save_subject(Table([1, 2]), run.folder)
    (folder / "table.txt").write_text("")
    (folder / "subject.json").unlink()
    for path in (folder, run.folder):
        with pytest.raises(RunError, match="no finished subject"):
            load_subject(path)
