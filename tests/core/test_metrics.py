import json
import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from trueline.core.errors import DiskError, MissingExtra, RunError
from trueline.core.metrics import EventFile, JsonLines, WandbSink, as_scalars, read_metrics


def events(path):
    """The events as TensorBoard's own reader finds them, which checks the checksum of every record."""
    return [Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]


def test_the_words_for_what_json_lacks_are_turned_back(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl")
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1}
    sink.write(3, values)
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 3, "a": "nan", "b": "inf", "c": "-inf", "d": 0.1}
    (back,) = read_metrics(tmp_path / "m.jsonl")
    assert math.isnan(back.pop("a"))
    assert back == {"step": 3, "b": math.inf, "c": -math.inf, "d": 0.1}


def test_single_numbers_of_any_library_are_taken_and_nothing_else():
    assert as_scalars({"a": 1, "b": np.float32(0.5), "c": torch.tensor(2.0, requires_grad=True), "d": True}) == {
        "a": 1.0, "b": 0.5, "c": 2.0, "d": 1.0,
    }  # fmt: skip
    for wrong in ("1.0", None, [1.0], np.zeros(2), torch.zeros(3)):
        with pytest.raises(TypeError, match="'loss'"):
            as_scalars({"loss": wrong})
    with pytest.raises(TypeError, match="'step'"):
        as_scalars({"step": 3})


@pytest.mark.parametrize("kind", ["jsonl", "events"])
def test_cutting_back_and_writing_again_equals_never_having_been_interrupted(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("trueline.core.metrics.time.time", lambda: 1.0)

    def written(name, *, interrupted):
        sink = JsonLines(tmp_path / name) if kind == "jsonl" else EventFile(tmp_path / name)
        for step in range(3):
            sink.write(step, {"x": step})
        if interrupted:
            offset = sink.offset()
            sink.write(3, {"x": 99})
            sink.close()
            sink = JsonLines(tmp_path / name) if kind == "jsonl" else EventFile(tmp_path / name)
            sink.cut(offset)
        sink.write(3, {"x": 3})
        sink.close()
        return sink.path.read_bytes()

    assert written("a", interrupted=True) == written("b", interrupted=False)


def test_cut_to_the_start_forgets_everything(tmp_path):
    sink = EventFile(tmp_path)
    sink.write(0, {"x": 1})
    sink.cut(0)
    sink.write(1, {"x": 2})
    assert [event.step for event in events(sink.path)] == [0, 1]  # version record, then step 1
    assert events(sink.path)[0].file_version == "brain.Event:2"


def test_tensorboard_reads_what_was_written_before_the_file_is_closed(tmp_path):
    sink = EventFile(tmp_path)
    sink.write(7, {"train/return": 1.5, "train/cost": math.nan})
    event = events(sink.path)[1]
    assert event.step == 7
    assert [value.tag for value in event.summary.value] == ["train/return", "train/cost"]
    assert event.summary.value[0].simple_value == 1.5
    assert math.isnan(event.summary.value[1].simple_value)


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl")
    with pytest.raises(RunError, match="has 0 bytes, but had 5"):
        sink.cut(5)


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "x": 2}\n{"step": 2, "x')
    assert list(read_metrics(path)) == [{"step": 1, "x": 2.0}]
    path.write_text('{"step": 1, "x": 2}\n{"step": 2, "x\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        list(read_metrics(path))


def test_only_the_names_asked_for_are_read(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.write(1, {"a": 1, "b": 2})
    sink.write(2, {"b": 3})
    assert list(read_metrics(sink.path, ["a"])) == [{"step": 1, "a": 1.0}, {"step": 2}]


def test_a_full_disk_is_said_plainly(tmp_path):
    (tmp_path / "m.jsonl").symlink_to("/dev/full")
    sink = JsonLines(tmp_path / "m.jsonl")
    assert sink.offset() == 0
    with pytest.raises(DiskError, match=r"disk is full.*m\.jsonl.*last checkpoint is intact"):
        sink.write(1, {"x": 1})
    (tmp_path / EventFile.NAME).symlink_to("/dev/full")
    with pytest.raises(DiskError):
        EventFile(tmp_path).write(1, {"x": 1})


def test_weights_and_biases_names_its_extra_when_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"trueline\[tracking\]"):
        WandbSink("project", "id", {}, tmp_path)


def test_weights_and_biases_receives_steps_and_is_told_the_end(tmp_path, monkeypatch):
    heard = []

    class Remote:
        def log(self, scalars, step):
            heard.append((step, scalars))

        def finish(self):
            heard.append("end")

    class FakeWandb:
        @staticmethod
        def init(**settings):
            heard.append((settings["id"], settings["resume"]))
            return Remote()

    monkeypatch.setitem(__import__("sys").modules, "wandb", FakeWandb)
    sink = WandbSink("project", "run-1", {"lr": 1}, tmp_path)
    sink.write(4, {"x": 1.0})
    sink.close()
    assert heard == [("run-1", "allow"), (4, {"x": 1.0}), "end"]
