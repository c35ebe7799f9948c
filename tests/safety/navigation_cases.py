"""What tests of the navigation worlds, on MuJoCo or in the plane, are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trueline.safety.worlds import WORLDS, open_world
from trueline.safety.worlds.planar import PLANAR_WORLDS, PlanarGoalWorlds, PlanarWorlds


def seeds(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def actions(steps: int, n: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, n, 2)).astype(np.float32)


def play(env, acts) -> list:
    return [env.step(a) for a in acts]


def ahead(env, turn: float = 0.0) -> np.ndarray:
    """The action of driving forwards."""
    return np.tile([1.0, 1.0] if "Car" in env.id else [1.0, turn], (env.num_envs, 1))


def assert_same_steps(ours, theirs, rows=slice(None), their_rows=slice(None)):
    for a, b in zip(ours, theirs, strict=True):
        for name in ("obs", "reward", "cost", "terminated", "truncated", "final_obs"):
            np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name)[their_rows], err_msg=name)


def short(id: str, n: int, threads: int = 1, steps: int = 50):
    """The world with episodes short enough to end in a test."""
    if id in WORLDS:
        return open_world(id, replace(WORLDS[id], steps=steps), n, threads)
    kind = PlanarGoalWorlds if "Goal" in id else PlanarWorlds
    return kind(id, replace(PLANAR_WORLDS[id], steps=steps), n, threads)
