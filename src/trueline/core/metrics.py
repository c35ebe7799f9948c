"""Scalars over steps: JSON lines, TensorBoard event files, and optionally Weights & Biases.

A sink that writes a file knows its *offset*; a checkpoint stores it, and on resume the file is cut back to it, so that
an interrupted run's metrics equal an uninterrupted one's. Everything that depends on the clock is called `time/…`.

Strict JSON has no nan or infinity: they are written as the words "nan", "inf", "-inf", which `read_metrics` turns back.
"""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat

from trueline.core.errors import MissingExtra, RunError
from trueline.core.files import disk_errors, to_json

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["EventFile", "JsonLines", "Sink", "WandbSink", "as_scalars", "read_metrics"]

_SAFE = "The last checkpoint is intact"


class Sink(Protocol):
    """Where scalars go.  `offset` is what a checkpoint stores, `cut` goes back to it; an offset of 0 is the start."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...  # noqa: D102

    def offset(self) -> int: ...  # noqa: D102

    def cut(self, offset: int) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


def as_scalars(values: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Numbers, NumPy and one-element torch scalars as floats.  Raises TypeError naming the first that is none."""
    scalars = {}
    for name, value in values.items():
        if isinstance(value, str | bytes) or not hasattr(value, "__float__") or name == "step":
            raise TypeError(f"metric {name!r} is {value!r}; log single numbers, under a name other than 'step'")
        try:
            # item(), where there is one: float() of a tensor that requires gradient warns.
            scalars[name] = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"metric {name!r} is not a single number; log a mean or one entry per metric") from None
    return scalars


class JsonLines:
    """Append-only file of one JSON object per line, each written at once (a reader never waits for a buffer).

    Writes raise `DiskError` when the disk is full; a line cut short by it, or by a crash, is ended by the next `cut`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path, _SAFE):
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, record: Mapping[str, Any]) -> None:
        """One line: the strict JSON of `record`."""
        line = (to_json(record) + "\n").encode()
        with disk_errors(self.path, _SAFE):
            while line:  # a full disk may take the first part of a line
                line = line[os.write(self._file, line) :]

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line with `step` first."""
        self.append({"step": step, **scalars})

    def offset(self) -> int:
        """Bytes in the file, all of them on the disk when this returns."""
        with disk_errors(self.path, _SAFE):
            _sync(self._file)
        return os.fstat(self._file).st_size

    def cut(self, offset: int) -> None:
        """Forgets what was written after `offset`.  Raises `RunError` when the file is shorter than that."""
        _cut(self._file, self.path, offset)

    def close(self) -> None:
        """Closes the file; idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class EventFile:
    """One TensorBoard event file, appended to across resumes; neither torch nor TensorFlow is needed to write it."""

    NAME = "events.out.tfevents.trueline"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self.NAME
        with disk_errors(self.path, _SAFE):
            # Unbuffered, so that every offset is the end of a whole record that the system already holds.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (lives as long as the sink)
        self._records: RecordWriter | None = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One event holding all of `scalars`, at the present wall time."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if os.fstat(self._file.fileno()).st_size == 0:
            self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._put(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _put(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._records is None:
            self._records = RecordWriter(self._file)
        with disk_errors(self.path, _SAFE):
            self._records.write(event.SerializeToString())

    def offset(self) -> int:
        """Bytes in the file."""
        with disk_errors(self.path, _SAFE):
            _sync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def cut(self, offset: int) -> None:
        """Forgets the events written after `offset`."""
        _cut(self._file.fileno(), self.path, offset)

    def close(self) -> None:
        """Closes the file; idempotent."""
        self._file.close()


class WandbSink:
    """Weights & Biases, which needs the extra "tracking".

    Its server keeps what it was sent: after a resume it ignores steps it has seen instead of being cut back.
    """

    def __init__(self, project: str, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingExtra("tracking", "logging to Weights & Biases") from None
        self._run = wandb.init(project=project, id=run_id, config=dict(config), dir=str(folder), resume="allow")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends `scalars`."""
        self._run.log(dict(scalars), step=step)

    def offset(self) -> int:
        """Always 0: there is no file to cut."""
        return 0

    def cut(self, offset: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Ends the remote run."""
        self._run.finish()


def read_metrics(path: Path, names: Sequence[str] | None = None) -> Iterator[dict[str, float]]:
    """The lines of a metrics file as {"step": int, name: float}, of `names` only if given.

    A last line without its end, as a crash leaves, is passed over. Raises `RunError` for any other that is not JSON.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                record = json.loads(line)
                scalars = {name: float(value) for name, value in record.items() if name != "step"}
                step = int(record["step"])
            except (ValueError, TypeError, KeyError, AttributeError):
                raise RunError(f"line {number} of {path} is damaged. Remove that line to read the rest.") from None
            if names is not None:
                scalars = {name: scalars[name] for name in names if name in scalars}
            yield {"step": step, **scalars}


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        # A device such as /dev/full, or a pipe, has nothing to flush to.
        if error.errno != errno.EINVAL:
            raise


def _cut(file: int, path: Path, offset: int) -> None:
    size = os.fstat(file).st_size
    if size < offset:
        raise RunError(
            f"{path} has {size} bytes, but had {offset} when the checkpoint was written. Put the file back to resume."
        )
    os.ftruncate(file, offset)
