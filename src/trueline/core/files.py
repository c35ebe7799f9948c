"""Whole files: strict JSON, and writes that either happen completely or not at all.

A file is written under a temporary name in its own folder, flushed to the disk and renamed, so a reader or a crash
meets the old content or the new, never half of one.
"""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trueline.core.errors import DiskError, RunError

__all__ = ["disk_errors", "inside", "jsonable", "sync_folder", "to_json", "write_bytes", "write_json", "write_text"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def jsonable(value: Any) -> Any:
    """`value` in strict JSON's types.

    NumPy scalars and arrays become numbers and lists, paths text, tuples and sets lists (sets sorted), keys text;
    nan and ±inf become the words "nan", "inf", "-inf", because strict JSON has no such numbers. Raises TypeError for
    anything else.
    """
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value  # a StrEnum becomes its plain text
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} is not JSON; convert it to numbers, text, lists or dicts")


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON text of `jsonable(value)`, one line unless `indent` is given."""
    return json.dumps(jsonable(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` completely or not at all.  Raises `DiskError` when the disk is full."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8, completely or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by the strict JSON of `value`, indented, completely or not at all."""
    write_text(path, to_json(value, indent=2) + "\n")


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path, safe: str = "") -> Iterator[None]:
    """Turns "no space left" (or an exhausted quota) while writing `path` into a `DiskError`; the rest passes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskError.full(path, safe) from None
        raise


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, refused with `RunError` when it would leave `folder` (by "..", a root or a symbolic link)."""
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise RunError(f"{name!r} is not a path inside {folder}. Give a relative path without '..'.")
    return path
