"""What runs left, to be compared: their last checkpoints, their metrics without clock times."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueline.core import checkpoint

OFFSETS = "/offsets/"  # how long files are, which depends on the digits of clock times


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested state by path."""
    if isinstance(value, dict):
        return {k: v for name, x in value.items() for k, v in flat(x, f"{path}/{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, x in enumerate(value) for k, v in flat(x, f"{path}/{i}").items()}
    return {path: value}


def last_checkpoint(folder: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """Everything in a run's last checkpoint by path, but for paths that begin with one of those."""
    found = flat(checkpoint.read(checkpoint.latest(folder / "checkpoints")))
    return {path: x for path, x in found.items() if not path.startswith((OFFSETS, *without))}


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: float(x) for name, x in line.items() if not name.startswith("time/")} for line in lines]


def assert_alike(mine: Mapping[str, Any], theirs: Mapping[str, Any], rtol: float = 0.0, atol: float = 0.0) -> None:
    """Numbers with a fraction to a tolerance, everything else equal."""
    assert mine.keys() == theirs.keys()
    for path, x in theirs.items():
        if isinstance(x, float) or getattr(x, "dtype", None) in (torch.float32, torch.float64, np.float32, np.float64):
            np.testing.assert_allclose(np.asarray(mine[path]), np.asarray(x), rtol, atol, err_msg=path)
        else:
            assert np.array_equal(mine[path], x), path


def assert_runs_alike(mine: Path, theirs: Path, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Two runs' last checkpoints and logs."""
    assert_alike(last_checkpoint(mine), last_checkpoint(theirs), rtol, atol)
    for one, other in zip(metrics(mine), metrics(theirs), strict=True):
        assert one == pytest.approx(other, rel=rtol, abs=atol)
