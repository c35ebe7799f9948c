"""The arithmetic of a velocity world's control step.

The physics of one light body takes 30 µs, and twenty array operations would take nearly as long. So the rest of a
step is three loops that Numba compiles; they are plain functions too, and the tests run them as such.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trueline.safety.worlds.compiled import machine_code, read, written

__all__ = ["Rules", "centre", "drive", "fast", "judge"]

Array = NDArray[np.float64]

_DIVERGED_REWARD = -10.0


class Rules(NamedTuple):
    """The numbers of a task that `judge` needs."""

    interval_s: float  # of a control step
    lasting_s: float  # the clock moves by at least this much, unless the simulation diverged
    forward_weight: float
    healthy_reward: float
    control_weight: float
    threshold_m_per_s: float
    speed: int  # index in `velocity_runners.SPEEDS`
    steps: int


def drive(reach: Array, ctrl: Array, actions: Array) -> int:
    """ctrl ← reach · clip(actions, −1, 1).  reach [A]; ctrl, actions [N, A].

    Returns the first environment with an action that is not a number, in which case nothing is written; or −1.
    """
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            if actions[i, j] != actions[i, j]:
                return i
    for i in range(actions.shape[0]):
        for j in range(actions.shape[1]):
            ctrl[i, j] = reach[j] * min(max(actions[i, j], -1.0), 1.0)
    return -1


def centre(mass: Array, parts: Array, place: Array) -> None:
    """place ← Σ mass · parts / Σ mass, in the plane of the ground.  mass [B], parts [N, B, 3], place [N, 2]."""
    for i in range(parts.shape[0]):
        for k in range(2):
            weighed = 0.0
            for b in range(parts.shape[1]):
                weighed += mass[b] * parts[i, b, k]
            place[i, k] = weighed / mass.sum()


def judge(
    interval_s: float,
    lasting_s: float,
    forward_weight: float,
    healthy_reward: float,
    control_weight: float,
    threshold_m_per_s: float,
    speed_rule: int,
    steps: int,
    motion: Array,
    low: Array,
    high: Array,
    ctrl: Array,
    place: Array,
    place_before: Array,
    time: Array,
    time_before: Array,
    elapsed: NDArray[np.int64],
    told: Array,
    flags: NDArray[np.bool_],
) -> bool:
    """What a control step came to, under `Rules`; returns whether an episode ended.

    motion [N, M] must keep between low and high [M]; ctrl [N, A], place [N, P], time [N] are those of the new state.
    Writes told [3 + 2P, N] = reward, cost, −control cost, velocity (P), place (P), and flags [3, N] = terminated,
    truncated, diverged; moves place_before, time_before and elapsed on.
    """
    axes, some = place.shape[1], False
    for i in range(motion.shape[0]):
        for k in range(axes):
            told[3 + k, i] = (place[i, k] - place_before[i, k]) / interval_s
            told[3 + axes + k, i] = place_before[i, k] = place[i, k]
        effort = 0.0
        for j in range(ctrl.shape[1]):
            effort += ctrl[i, j] * ctrl[i, j]
        effort *= control_weight
        speed = told[3, i]
        if speed_rule == 1:
            speed = abs(speed)
        elif speed_rule == 2:
            speed = math.sqrt(told[3, i] ** 2 + told[4, i] ** 2)
        healthy = True
        for j in range(motion.shape[1]):
            healthy = healthy and low[j] <= motion[i, j] <= high[j]
        elapsed[i] += 1
        # MuJoCo puts a simulation whose state has become absurd back to its start, which its clock gives away; one in
        # which it raised an error stands still.
        diverged = time[i] < time_before[i] + lasting_s
        time_before[i] = time[i]
        told[0, i] = forward_weight * told[3, i] + healthy_reward - effort
        told[1, i] = 1.0 if speed > threshold_m_per_s else 0.0
        told[2, i] = -effort
        flags[0, i] = not healthy
        flags[1, i] = elapsed[i] >= steps
        flags[2, i] = diverged
        if diverged:
            told[0, i], told[1, i] = _DIVERGED_REWARD, 1.0
            flags[0, i], flags[1, i] = False, True
        some = some or flags[0, i] or flags[1, i]
    return some


@functools.cache
def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of the three, compiled."""
    from numba import boolean, float64, int64, void

    state = [read(2), read(1), read(1), read(2)]
    past = [read(2), written(2), read(1), written(1), written(1, int64)]
    signature = {
        drive: int64(read(1), written(2), read(2)),
        centre: void(read(1), read(3), written(2)),
        judge: boolean(*[float64] * 6, int64, int64, *state, *past, written(2), written(2, boolean)),
    }[function]
    return machine_code(function, signature)
