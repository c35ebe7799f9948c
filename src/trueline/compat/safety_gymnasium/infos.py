"""What a step tells besides its numbers, under the original's keys.

One environment: `cost_<name>` for each constraint and `cost_sum`, `goal_met` only in the step that met it, and nothing
but `cost_exception` where the simulation diverged; of a velocity task what Gymnasium's body tells. N environments: an
array per key with a mask `_key`, as Gymnasium 0.28 has it; a row whose episode ended has its infos in `final_info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.ids import Name
from trueline.rl.env import Step

Array = NDArray[np.float64]

_DIVERGED = "diverged"
_PLANE = ("x_position", "y_position", "x_velocity", "y_velocity")


def _diverged(step: Step) -> NDArray[np.bool_]:
    return np.asarray(step.info.get(_DIVERGED, np.zeros(len(step.reward), np.bool_)), dtype=np.bool_)


def cost(step: Step) -> Array:
    """The cost of each row [N]; 1 where the simulation diverged."""
    return np.where(_diverged(step), 1.0, step.cost.sum(axis=1))


def of_body(body: str, told: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
    """What Gymnasium's v4 body tells of a step, from a velocity world's x and y and its control cost; [N] each.

    The parts of the reward by each body's own names; healthy bodies earn a constant, ended episodes' last step too.
    """
    if body in ("Hopper", "Walker2d"):
        return {key: told[key] for key in ("x_position", "x_velocity")}
    forward, ctrl = told["x_velocity"], told["reward_ctrl"]
    if body == "HalfCheetah":
        return {**{key: told[key] for key in ("x_position", "x_velocity")}, "reward_run": forward, "reward_ctrl": ctrl}
    out: dict[str, Array] = {key: told[key] for key in _PLANE}
    out["distance_from_origin"] = np.hypot(told["x_position"], told["y_position"])
    if body == "Swimmer":
        return out | {"reward_fwd": forward, "reward_ctrl": ctrl, "forward_reward": forward}
    if body == "Ant":
        alive = np.ones(len(forward))
        return out | {
            "reward_forward": forward,
            "reward_ctrl": ctrl,
            "reward_survive": alive,
            "forward_reward": forward,
        }
    forward, alive = 1.25 * forward, np.full(len(forward), 5.0)  # Humanoid
    return out | {"reward_linvel": forward, "reward_quadctrl": ctrl, "reward_alive": alive, "forward_reward": forward}


def _numbers(step: Step, name: Name) -> dict[str, Array]:
    """key -> [N], of rows that did not diverge."""
    told = {key: values for key, values in step.info.items() if values.dtype != np.bool_}
    if name.body is not None:
        return of_body(name.body, told)
    return told | {"cost_sum": step.cost.sum(axis=1)}


def _events(step: Step) -> dict[str, NDArray[np.bool_]]:
    """key -> [N] whether it happened."""
    return {key: values for key, values in step.info.items() if values.dtype == np.bool_ and key != _DIVERGED}


def of_row(step: Step, i: int, name: Name) -> dict[str, Any]:
    """The info of environment `i`."""
    if _diverged(step)[i]:
        return {"cost_exception": 1.0}
    numbers = {key: float(values[i]) for key, values in _numbers(step, name).items()}
    return numbers | {key: True for key, happened in _events(step).items() if happened[i]}


def of_rows(step: Step, name: Name, ended: NDArray[np.bool_]) -> dict[str, Any]:
    """The infos of N environments, `final_info` included; `final_observation` is the caller's to add."""
    diverged = _diverged(step)
    going_on = ~ended & ~diverged
    columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_]]] = {
        key: (values, going_on) for key, values in _numbers(step, name).items()
    }
    columns |= {key: (happened, going_on & happened) for key, happened in _events(step).items()}
    infos: dict[str, Any] = {}
    for key, (values, shown) in columns.items():
        if shown.any():
            infos[key], infos[f"_{key}"] = np.where(shown, values, np.zeros((), values.dtype)), shown.copy()
    if ended.any():
        finals = np.full(len(ended), None, dtype=object)
        for i in np.flatnonzero(ended).tolist():
            finals[i] = of_row(step, i, name)
        infos["final_info"], infos["_final_info"] = finals, ended.copy()
    return infos
