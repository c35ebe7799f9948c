"""What a run logged, and pictures of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.metrics import read_metrics
from trueline.evidence.experiments.endings import final_episodes

__all__ = ["Curve", "Result", "curve", "draw", "result"]

_TOTAL = "train/total_"  # what the logs call a cost's sum over the whole training


class Result(NamedTuple):
    """Mean return, cost and length of the last episodes that a run measured; nan where none ended."""

    episode_return: float
    cost: float
    length: float


class Curve(NamedTuple):
    """Figures over training, all [P]: steps, then means of episodes."""

    steps: NDArray[np.float64]  # of the environments; of the gradient where a run learnt from data
    episode_return: NDArray[np.float64]
    cost: NDArray[np.float64]  # summed over costs
    length: NDArray[np.float64]


def curve(folder: Path) -> Curve:
    """The learning curve of a run, epochs without a finished episode left out.

    Of a training from data, which plays none, it is that of the evaluations, once it has finished.
    """
    path = folder / "metrics.jsonl"
    logged = list(read_metrics(path)) if path.exists() else []
    played = any("train/return" in row for row in logged)
    evaluated = None if played else final_episodes(folder)
    group = "train/" if evaluated is None else "eval/"
    rows = []
    for row in logged:
        if f"{group}return" not in row:
            continue
        totals = [name.removeprefix(_TOTAL) for name in row if name.startswith(_TOTAL)]
        cost = sum(row[group + name] for name in (totals if evaluated is None else evaluated.cost))
        rows.append((row["step"], row[f"{group}return"], cost, row[f"{group}length"]))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    return Curve(*table.T)


def result(folder: Path) -> Result:
    """The last point of a run's learning curve."""
    _, returns, costs, lengths = curve(folder)
    if not len(returns):
        return Result(math.nan, math.nan, math.nan)
    return Result(float(returns[-1]), float(costs[-1]), float(lengths[-1]))


def _smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values, of fewer at the start.  [..., P] -> [..., P]."""
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    end = np.arange(1, values.shape[-1] + 1)
    begin = np.maximum(end - window, 0)
    means: NDArray[np.float64] = (sums[..., end] - sums[..., begin]) / (end - begin)
    return means


def draw(
    path: Path, curves: Mapping[str, Sequence[Curve]], cost_limit: float | None = None, smooth: int = 1, title: str = ""
) -> Path:
    """Return and cost over steps as a PNG: for each label the mean over its runs and, of several, the extremes.

    smooth: points that a moving mean is taken over. Runs of one label are compared as far as the shortest goes.
    """
    from matplotlib.figure import Figure

    from trueline.rl.filmstrip import png

    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    colours = cycle(f"C{n}" for n in range(10))
    axes = figure.subplots(1, 2)
    for label, runs in curves.items():
        shown = [run for run in runs if len(run.steps)]
        colour = next(colours)
        if not shown:
            continue
        points = min(len(run.steps) for run in shown)
        steps = shown[0].steps[:points]
        for axis, name in zip(axes, ("episode_return", "cost"), strict=True):
            values = _smoothed(np.array([getattr(run, name)[:points] for run in shown]), smooth)
            axis.plot(steps, values.mean(axis=0), color=colour, label=label)
            if len(shown) > 1:
                axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    for axis, name in zip(axes, ("return", "cost"), strict=True):
        axis.set(xlabel="environment steps", ylabel=f"{name} per episode")
    if cost_limit is not None:
        axes[1].axhline(cost_limit, color="black", linestyle="--", label=f"limit {cost_limit:g}")
    if axes[1].get_legend_handles_labels()[0]:
        axes[1].legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    return path
