"""Checkpoints: a nested state written whole, read back equal, and never trusted without its hash.

    checkpoints/step-000000123/tensors.safetensors    every tensor and array
    checkpoints/step-000000123/state.json             the tree, its scalars, and where each tensor belongs
    checkpoints/step-000000123/digest.json            format version, step, SHA-256 and size of the two

A checkpoint is written in a hidden folder, flushed and renamed; the last two are kept. A crash at any moment leaves the
previous one as it was. Nothing is ever unpickled.

A *state* is a nesting of dicts (keys text or int), lists and tuples over torch tensors, NumPy arrays and scalars, and
None, bool, int of any size, float (nan and infinities too) and text. It comes back with the same types, dtypes and
shapes; tensors come back on the CPU without gradient, subclasses of dict as dict.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from trueline.core.errors import CheckpointError
from trueline.core.files import disk_errors, sync_folder

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "KEEP", "State", "latest", "pack", "read", "step_of", "unpack", "write"]

FORMAT = 1
KEEP = 2

State = dict[str, Any]

_NAME = re.compile(r"step-(\d{9,})(?:-r(\d+))?")
_TENSORS, _TREE, _DIGEST = "tensors.safetensors", "state.json", "digest.json"

_DTYPES = frozenset(
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]
)


def write(folder: Path, step: int, state: State) -> Path:
    """Writes `state` as the checkpoint of `step` in `folder`, removes all but the last two, and returns its path.

    Raises `CheckpointError` for a value that cannot be stored (named by its path), `DiskError` for a full disk.
    """
    tree, tensors = _take_apart(state)
    contents = {_TENSORS: pack(tensors), _TREE: json.dumps(tree, allow_nan=False).encode()}
    described = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in contents.items()}
    contents[_DIGEST] = json.dumps({"format": FORMAT, "step": step, "files": described}, indent=1).encode()

    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    # A step saved again (a run resumed at its last step) gets a new name: a folder cannot replace another in one move.
    again = [int(m[2] or 0) for _, m in _whole(folder) if int(m[1]) == step]
    name = f"step-{step:09d}" + (f"-r{max(again) + 1}" if again else "")
    part = folder / f".{name}.part"
    with disk_errors(folder / name, "Earlier checkpoints are intact"):
        try:
            part.mkdir()
            for file_name, data in contents.items():
                with open(part / file_name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(part)
            os.rename(part, folder / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(folder)
    for old, _ in _whole(folder)[:-KEEP]:
        # Renamed before it is emptied, so that a crash in between does not leave something that looks whole.
        doomed = old.with_name(f".{old.name}.old")
        os.rename(old, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return folder / name


def read(path: Path) -> State:
    """The state stored in checkpoint `path`.

    Raises `CheckpointError` naming the file that is missing, truncated or altered, or the other format version.
    """
    digest = _parse(path / _DIGEST, _bytes(path / _DIGEST))
    if not isinstance(digest, dict) or digest.get("format") != FORMAT:
        given = digest.get("format") if isinstance(digest, dict) else None
        raise CheckpointError(f"{path} has checkpoint format {given}, but this Trueline reads {FORMAT}. {_FALL_BACK}")
    contents = {}
    for name in (_TENSORS, _TREE):
        data, expected = _bytes(path / name), digest.get("files", {}).get(name, {})
        if len(data) != expected.get("bytes"):
            raise CheckpointError(
                f"{path / name} has {len(data)} bytes, but {expected.get('bytes')} were written. {_FALL_BACK}"
            )
        if _sha256(data) != expected.get("sha256"):
            raise CheckpointError(f"{path / name} was altered: its SHA-256 is not the recorded one. {_FALL_BACK}")
        contents[name] = data
    return _put_together(_parse(path / _TREE, contents[_TREE]), unpack(contents[_TENSORS]))


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None.  Half-written folders are not looked at."""
    whole = _whole(folder)
    return whole[-1][0] if whole else None


def step_of(path: Path) -> int:
    """The step a checkpoint folder is named for."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not a checkpoint folder. Give one called step-….")
    return int(match[1])


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The safetensors file of named arrays (native byte order), equal inputs giving equal bytes."""
    # Only whole, C-ordered buffers are written as they look; np.ascontiguousarray would make a 0-d array 1-d.
    return safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file by name, writable.  Raises `CheckpointError` when it is damaged."""
    try:
        return {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"a tensor file is damaged ({error}). {_FALL_BACK}") from None


_FALL_BACK = "Remove that checkpoint's folder to fall back to the one before it."


def _take_apart(state: State) -> tuple[Any, dict[str, np.ndarray]]:
    """The state as a JSON tree, with {"$array": key} where a tensor was taken out, and the tensors by key."""
    tensors: dict[str, np.ndarray] = {}

    def store(mark: str, value: np.ndarray) -> dict[str, str]:
        key = f"{len(tensors):06d}"
        tensors[key] = value
        return {mark: key}

    def take(value: Any, path: str) -> Any:
        if value is None or type(value) in (bool, int):
            return value
        if isinstance(value, str):
            return str(value)
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if isinstance(value, dict):
            for key in value:
                if type(key) not in (str, int):
                    raise CheckpointError(
                        f"state key {key!r} under {path or 'the top'} is a {type(key).__name__}. Use text or int keys."
                    )
            if any(type(key) is int for key in value):
                # JSON would turn 3 into "3"; torch optimisers number their parameters with ints.
                return {"$items": [[key, take(item, f"{path}/{key}")] for key, item in value.items()]}
            return {
                ("$" + key if key.startswith("$") else key): take(item, f"{path}/{key}") for key, item in value.items()
            }
        if type(value) is list:
            return [take(item, f"{path}/{i}") for i, item in enumerate(value)]
        if type(value) is tuple:
            return {"$tuple": [take(item, f"{path}/{i}") for i, item in enumerate(value)]}
        if type(value) is np.ndarray and value.dtype.name in _DTYPES:
            return store("$array", value)
        if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
            return store("$scalar", np.asarray(value))
        if _is_tensor(value) and str(value.layout) == "torch.strided":
            if value.dtype is _torch().bfloat16:  # NumPy lacks it, so its bits travel as uint16
                return store("$bfloat16", _dense(value).view(dtype=_torch().uint16).numpy())
            if str(value.dtype).removeprefix("torch.") in _DTYPES:
                return store("$tensor", _dense(value).numpy())
        what = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        raise CheckpointError(
            f"{path or 'the state'} is a {what}, which a checkpoint cannot hold. "
            f"Store dense tensors, arrays, dicts, lists, tuples, numbers, text or None."
        )

    return take(state, ""), tensors


def _put_together(tree: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_put_together(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        mark, inner = next(iter(tree.items()))
        if mark == "$float":
            return float(inner)
        if mark == "$tuple":
            return tuple(_put_together(item, tensors) for item in inner)
        if mark == "$items":
            return {key: _put_together(item, tensors) for key, item in inner}
        if mark == "$array":
            return tensors[inner]
        if mark == "$scalar":
            return tensors[inner][()]
        if mark == "$tensor":
            return _torch().from_numpy(tensors[inner])
        if mark == "$bfloat16":
            return _torch().from_numpy(tensors[inner]).view(dtype=_torch().bfloat16)
    return {key.removeprefix("$"): _put_together(item, tensors) for key, item in tree.items()}


def _is_tensor(value: Any) -> bool:
    # Without torch in the process nothing can be a tensor, and core does not bring it in.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _dense(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor.detach().cpu().contiguous()


def _torch() -> Any:
    import torch

    return torch


def _whole(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        return []
    found = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()]
    return sorted(found, key=lambda pair: (int(pair[1][1]), int(pair[1][2] or 0)))


def _sweep(folder: Path) -> None:
    """Removes what an earlier crash left behind; the run's lock makes this process the only writer."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). {_FALL_BACK}") from None


def _parse(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise CheckpointError(f"{path} is not JSON: it was truncated or altered. {_FALL_BACK}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
