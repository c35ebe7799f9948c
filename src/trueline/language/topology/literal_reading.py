"""Does a tree of comparisons infer better by its graph alone? An experiment on the network, without language models.

The network is taken literally: comparisons are edges between responses, in a chain between any two, in a tree between
two of a subset S, since a tree compares the same responses again and again. The subset has n/log n or n/2 members.
Inductive bias is a path or a hierarchy; the variance of a comparison lies from far below to as high as the mean
distance before any; n goes from 16 to 512. In each of these 36 settings the mean inference distance over all responses
is computed as effective resistance and along cheapest paths.

    python -m trueline.language.topology.literal_reading OUT.json

Upper bounds favour a tree (`bounds.py`); this says whether the distances do. If they do not, whatever advantage a tree
has must come from what is not in the graph: shared beginnings, finer comparisons, judges who see what differs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.core.files import write_json
from trueline.evidence.over_seeds import FEWEST_SEEDS, seed_interval
from trueline.language.topology.network import (
    Network,
    cheapest_path,
    covariance,
    explained,
    hierarchy,
    joined,
    leaves_of_hierarchy,
    path,
)

__all__ = ["Layout", "Size", "comparisons", "distances", "experiment", "layouts"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SUBSETS: Mapping[str, Callable[[int], int]] = {
    "n/log n": lambda n: max(2, round(n / math.log(n))),
    "n/2": lambda n: max(2, n // 2),
}
_BRANCHING, _SHRINKS = 4, 0.5  # of the hierarchy: children, and a level's variance over the one above it (F ∝ M^−½)


class Size(NamedTuple):
    """What the experiment covers."""

    levels: int = 5  # of the hierarchy, so that there are 4^levels responses
    comparisons: tuple[int, ...] = (16, 32, 64, 128, 256, 512)  # n
    variances: tuple[float, ...] = (0.01, 0.1, 1.0)  # of a comparison, over the mean distance before any
    repeats: int = 8
    sources: int = 128  # responses from which cheapest paths are followed; all, where there are no more


class Layout(NamedTuple):
    """Inductive bias: a network, and which of its vertices are responses.  Its mean distance is 1."""

    name: str
    network: Network
    responses: Indices  # [Y]


class Distances(NamedTuple):
    """Means over pairs of responses."""

    resistance: float
    path: float


def layouts(levels: int) -> list[Layout]:
    """A path and a hierarchy of 4^levels responses."""
    count = _BRANCHING**levels
    tree = hierarchy(_BRANCHING, [_SHRINKS**level for level in range(levels)])
    return [
        _scaled("path", path(count), np.arange(count)),
        _scaled("hierarchy", tree, leaves_of_hierarchy(_BRANCHING, levels)),
    ]


def _scaled(name: str, network: Network, responses: Indices) -> Layout:
    mean = _mean_resistance(covariance(network), responses)
    return Layout(name, Network(network.vertices, network.edges, network.variance / mean), responses)


def _mean_resistance(spread: Array, responses: Indices) -> float:
    """E[K(u, u) + K(v, v) − 2·K(u, v)] over two responses."""
    own = spread[np.ix_(responses, responses)]
    return float(2.0 * (np.trace(own) / len(own) - own.mean()))


def comparisons(among: Indices, n: int, rng: np.random.Generator) -> Indices:
    """n pairs of different members, drawn independently.  [S] -> [n, 2]."""
    first = rng.integers(len(among), size=n)
    second = (first + rng.integers(1, len(among), size=n)) % len(among)
    return np.column_stack([among[first], among[second]])


def distances(layout: Layout, prior: Array, pairs: Indices, variance: float, sources: Indices) -> Distances:
    """Both readings with the comparisons added.  prior: covariance of the layout's network; its mean distance is 1."""
    whole = joined(layout.network, Network(layout.network.vertices, pairs, np.full(len(pairs), variance)))
    taken = explained(prior, pairs, variance)[:, layout.responses]
    return Distances(
        1.0 - 2.0 * (float((taken**2).sum()) / len(layout.responses) - float((taken.mean(axis=1) ** 2).sum())),
        float(cheapest_path(whole, sources)[:, layout.responses].mean()),
    )


def experiment(size: Size, seed: int = 0) -> dict[str, Any]:
    """Every setting's mean distances, and chain over tree by repeat: below 1 the chain infers better.

    Within a repeat all settings meet the same draws where they can. Raises ConfigError for fewer than eight repeats, of
    which no interval can be made, and for subsets larger than the space of responses.
    """
    if size.repeats < FEWEST_SEEDS:
        raise ConfigError(f"repeats is {size.repeats}, but an interval needs {FEWEST_SEEDS}. Give as many.")
    count = _BRANCHING**size.levels
    largest = max(subset(max(size.comparisons)) for subset in SUBSETS.values())
    if largest > count:
        raise ConfigError(
            f"a subset of {largest} is larger than all {count} responses. Give more levels, or smaller n."
        )
    settings = []
    for layout in layouts(size.levels):
        prior = covariance(layout.network)
        for n in size.comparisons:
            for variance in size.variances:
                found = _setting(layout, prior, n, variance, size, seed)
                settings.append({"structure": layout.name, "n": n, "variance": variance, **found})
    return {
        "seed": seed,
        "size": size._asdict(),
        "responses": count,
        "settings": settings,
        "summary": _summary(settings),
    }


def _setting(layout: Layout, prior: Array, n: int, variance: float, size: Size, seed: int) -> dict[str, Any]:
    arms: dict[str, list[Distances]] = {"chain": [], **{name: [] for name in SUBSETS}}
    for repeat in range(size.repeats):
        rng = np.random.default_rng([seed, repeat, n])
        every = layout.responses
        sources = rng.permutation(every)[: size.sources]
        order = rng.permutation(every)  # the smaller subset lies within the larger one
        arms["chain"].append(distances(layout, prior, comparisons(every, n, rng), variance, sources))
        for name, members in SUBSETS.items():
            pairs = comparisons(order[: members(n)], n, rng)
            arms[name].append(distances(layout, prior, pairs, variance, sources))
    return {reading: _compared(arms, k) for k, reading in enumerate(Distances._fields)}


def _compared(arms: Mapping[str, Sequence[Distances]], reading: int) -> dict[str, Any]:
    values = {name: np.array([found[reading] for found in own]) for name, own in arms.items()}
    compared = {}
    for name in SUBSETS:
        ratio = seed_interval(np.log(values["chain"]) - np.log(values[name]))
        compared[name] = {
            "tree": float(values[name].mean()),
            "chain over tree": float(np.exp(ratio.value)),
            "low": float(np.exp(ratio.low)),
            "high": float(np.exp(ratio.high)),
        }
    return {"chain": float(values["chain"].mean()), **compared}


def _summary(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """In how many settings the chain's distance is at most the tree's, and the range of the ratio."""
    found = {}
    for reading in Distances._fields:
        for name in SUBSETS:
            ratios = [setting[reading][name] for setting in settings]
            found[f"{reading}, {name}"] = {
                "settings": len(ratios),
                "chain at most the tree": sum(r["chain over tree"] <= 1.0 for r in ratios),
                "chain below, interval and all": sum(r["high"] < 1.0 for r in ratios),
                "tree below, interval and all": sum(r["low"] > 1.0 for r in ratios),
                "smallest": min(r["chain over tree"] for r in ratios),
                "largest": max(r["chain over tree"] for r in ratios),
            }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment at its full size and writes what came out."""
    parser = argparse.ArgumentParser(prog="python -m trueline.language.topology.literal_reading")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=Size().repeats)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    began = time.process_time()
    found = experiment(Size(repeats=given.repeats), given.seed)
    write_json(given.out, {**found, "cpu_seconds": time.process_time() - began})
    for name, row in found["summary"].items():
        print(
            f"{name}: chain at most the tree in {row['chain at most the tree']} of {row['settings']}, "
            f"ratio {row['smallest']:.2f} to {row['largest']:.2f}"
        )


if __name__ == "__main__":
    main()
