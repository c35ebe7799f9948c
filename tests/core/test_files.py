import errno
import json
import os
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.core import files
from trueline.core.errors import DiskError, RunError
from trueline.core.files import disk_errors, inside, to_json, write_json, write_text


class Colour(StrEnum):
    RED = "red"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_the_json_is_strict(value):
    def refuse(word):
        raise AssertionError(f"{word} is not strict JSON")

    json.loads(to_json(value), parse_constant=refuse)


def test_what_python_and_numpy_hold_becomes_json():
    value = {1: np.float32(0.5), "a": np.arange(2), "b": (Colour.RED, Path("x/y")), "c": {3, 1}, "d": float("-inf")}
    assert json.loads(to_json(value)) == {"1": 0.5, "a": [0, 1], "b": ["red", "x/y"], "c": [1, 3], "d": "-inf"}
    with pytest.raises(TypeError, match="object is not JSON"):
        to_json({"a": object()})


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskError, match="the disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_value_that_is_no_json_does_not_touch_the_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", [object()])
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_other_trouble_with_the_disk_passes_unchanged(tmp_path):
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", ".", "link/x"])
def test_paths_do_not_leave_the_folder(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="not a path inside"):
        inside(folder, name)


def test_paths_inside_are_given_back(tmp_path):
    assert inside(tmp_path, "a/b.json") == tmp_path / "a" / "b.json"
    assert inside(tmp_path, "a/../b") == tmp_path / "a" / ".." / "b"
