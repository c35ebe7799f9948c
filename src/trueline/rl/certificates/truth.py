"""A learnt certificate against what is true of its world, where that is known: what no learner is told."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trueline.rl.certificates.certificate import Core
from trueline.rl.exact.double_integrator import DoubleIntegrator

__all__ = ["Truth", "against_truth", "cells_of"]


class Truth(NamedTuple):
    """Shares of the cells of a grid over the region."""

    covered: float  # of the viable ones, that are certified
    false: float  # of the certified ones, that are not viable
    left: float  # of the certified ones, that the certified policy leaves in a step
    farthest: float  # largest −h that such a step leads to; negative where none leaves
    error: float  # largest distance in h between where a step leads and where the models say


def cells_of(world: DoubleIntegrator, cells: int) -> NDArray[np.float64]:
    """Centres of cells² cells over the region, [cells², 2]."""
    middle = (np.arange(cells) + 0.5) / cells * 2.0 - 1.0
    every = [width * middle for width in world.region.numpy().astype(np.float64)]
    return np.stack(np.meshgrid(*every, indexing="ij"), axis=-1).reshape(-1, 2)


@torch.no_grad()
def against_truth(core: Core, world: DoubleIntegrator, cells: int = 200) -> Truth:
    """What is called safe on cells² states of the region, and where the policy that it is called so for truly leads."""
    every = cells_of(world, cells)
    states = torch.from_numpy(every).float()
    certified, viable = (core.certificate(states) >= 0.0).numpy(), world.viable(every)
    inside = states[certified]
    action = core.intended(inside)
    after = torch.from_numpy(world.after(every[certified], action[:, 0].numpy())).float()
    h = core.certificate(after)
    error = (core.certificate(core.foreseen(inside, action)) - h).abs().max()
    return Truth(
        covered=float((certified & viable).sum() / viable.sum()),
        false=float((certified & ~viable).sum() / certified.sum()),
        left=float((h < 0.0).float().mean()),
        farthest=float(-h.min()),
        error=float(error),
    )
