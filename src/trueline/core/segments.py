"""Replay kept on disk as append-only segments, so that a checkpoint stores a cursor and not the whole buffer.

    segment-000000.safetensors, segment-000001.safetensors, …     arrays of equal length, never changed once written

A cursor lists the segments with their hashes. Going back to it drops what came later and checks what is kept.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trueline.core.checkpoint import pack, unpack
from trueline.core.errors import CheckpointError
from trueline.core.files import write_bytes

__all__ = ["Segments"]

_NAME = re.compile(r"segment-(\d{6,})\.safetensors")


class _Segment(NamedTuple):
    name: str
    rows: int
    sha256: str


class Segments:
    """The replay in `folder`.  A last segment that was torn by a crash is removed on opening."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._segments: list[_Segment] = []
        self._layout: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        for left_over in self.folder.glob(".segment-*.part"):
            left_over.unlink()
        paths = sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        for path in paths:
            try:
                data = path.read_bytes()
                arrays = unpack(data)
            except CheckpointError:
                if path != paths[-1]:
                    raise CheckpointError(
                        f"{path} is damaged, and later segments follow it. Put the file back, or start the run again."
                    ) from None
                path.unlink()
                break
            self._enter(path.name, arrays, data)

    @property
    def rows(self) -> int:
        """Rows in all segments together."""
        return sum(segment.rows for segment in self._segments)

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one segment of arrays that share their first dimension.

        Raises `ValueError` when lengths, names, dtypes or the other dimensions differ from one another or from the
        earlier segments', `DiskError` when the disk is full.
        """
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            raise ValueError(f"arrays of a segment need one common length of at least 1, not {lengths}")
        layout = _layout(arrays)
        if self._layout and layout != self._layout:
            raise ValueError(f"this segment holds {layout}, but the earlier ones {self._layout}")
        data = pack(arrays)
        last = int(self._segments[-1].name.removeprefix("segment-").partition(".")[0]) if self._segments else -1
        name = f"segment-{last + 1:06d}.safetensors"
        write_bytes(self.folder / name, data)
        self._enter(name, arrays, data)

    def cursor(self) -> dict[str, Any]:
        """What a checkpoint stores: name, rows and SHA-256 of every segment."""
        return {"segments": [segment._asdict() for segment in self._segments]}

    def rewind(self, cursor: Mapping[str, Any]) -> None:
        """Goes back to `cursor`: later segments are removed.

        Raises `CheckpointError` when one that the cursor names is missing or altered; nothing is removed then.
        """
        wanted = [_Segment(**segment) for segment in cursor["segments"]]
        here = {segment.name: segment for segment in self._segments}
        for segment in wanted:
            if segment.name not in here:
                raise CheckpointError(f"{self.folder / segment.name} is missing. Put the file back to resume.")
            if here[segment.name] != segment:
                raise CheckpointError(f"{self.folder / segment.name} was altered. Put the original back to resume.")
        for later in reversed(self._segments[len(wanted) :]):
            (self.folder / later.name).unlink()
        self._segments = wanted
        if not wanted:
            self._layout = {}

    def read(self, last: int | None = None) -> dict[str, np.ndarray]:
        """All rows in the order written (or the `last` so many), {name: [rows, …]}; {} when there are none.

        Raises `CheckpointError` for a segment that is missing or was altered since it was written.
        """
        chosen, rows = [], 0
        for segment in reversed(self._segments):
            if last is not None and rows >= last:
                break
            chosen.append(segment)
            rows += segment.rows
        parts = [self._load(segment) for segment in reversed(chosen)]
        start = 0 if last is None else max(rows - last, 0)
        return {name: np.concatenate([part[name] for part in parts])[start:] for name in self._layout if parts}

    def _load(self, segment: _Segment) -> dict[str, np.ndarray]:
        path = self.folder / segment.name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}). Put the file back to resume.") from None
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            raise CheckpointError(f"{path} was altered. Put the original back to resume.")
        return unpack(data)

    def _enter(self, name: str, arrays: Mapping[str, np.ndarray], data: bytes) -> None:
        self._layout = self._layout or _layout(arrays)
        self._segments.append(_Segment(name, len(next(iter(arrays.values()))), hashlib.sha256(data).hexdigest()))


def _layout(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    return {name: (arrays[name].dtype, arrays[name].shape[1:]) for name in sorted(arrays)}
