"""Scripts that act in the worlds of manipulation."""

from __future__ import annotations

import numpy as np

from trueline.safety.worlds.manipulation import make_manipulation
from trueline.safety.worlds.manipulation_hand import DRIVES

OVER, CATCH = "TruelineHandOver-Finger-v0", "TruelineCatchUnderarm-Finger-v0"

DRAWER, BLOCK = "TruelineMobileArmCloseDrawer-v0", "TruelineMobileArmPickPlace-v0"

FOUR = (OVER, CATCH, DRAWER, BLOCK)


def seeds(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.uint32)


def begun(id: str, n: int, first: int = 0, **settings):
    env = make_manipulation(id, n, **settings)
    env.reset(seeds(n, first))
    return env


def actions(env, steps: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, env.num_envs, *env.action_space.shape))


def posture(wrist: float, knuckles: float, middle: float, thumb: float) -> np.ndarray:
    """A hand's twenty actions: how far the wrist is bent, the fingers' two driven joints, and the thumb turned in."""
    out, names = np.zeros(20), [drive.joint for drive in DRIVES]
    for joint, value in {"WRJ0": wrist, "LFJ4": -1.0, "THJ4": thumb, "THJ3": 0.5}.items():
        out[names.index(joint)] = value
    for finger in ("FF", "MF", "RF", "LF"):
        out[names.index(f"{finger}J2")], out[names.index(f"{finger}J1")] = knuckles, middle
    return out
