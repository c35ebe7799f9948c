"""A velocity world to look at as shapes: a body beside, or below, marks at the whole metres of its way."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

__all__ = ["scene"]

Array = NDArray[np.float64]

_EXTENT_M = 2.0
_EYE_LEVEL_M = 1.0  # height that a side view has in its middle
_MARK_M = 0.03
_MARK_COLOUR = [0.5, 0.5, 0.5, 1.0]


def scene(model: mujoco.MjModel, qpos: Array, above: bool) -> dict[str, Any]:
    """The body in the pose `qpos`, from above or from the side: {"extent": m, "shapes": […]}.

    Coordinates go along with the body: 0 is where it is, and marks stand at every whole metre of its way. A mark is a
    square, a solid of the body a row of discs, and the body as such an arrow.
    """
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return {"extent": _EXTENT_M, "shapes": _shapes(model, data, (0, 1) if above else (0, 2))}


def _shapes(model: mujoco.MjModel, data: mujoco.MjData, seen: tuple[int, int]) -> list[dict[str, Any]]:
    """A body's solids and the marks on its way as shapes in the plane of the axes `seen`, the body as an arrow last."""
    first, second = seen
    above = second == 1
    root, turned = data.xpos[1], data.xmat[1].reshape(3, 3)
    origin = np.array([root[0], root[1] if above else _EYE_LEVEL_M])

    def shape(kind: str, xy: Array, radius: float, colour: list[float], rot: float = 0.0) -> dict[str, Any]:
        return {"kind": kind, "xy": (xy - origin).tolist(), "radius": float(radius), "rot": rot, "colour": colour}

    def whole(middle: float) -> range:
        return range(math.ceil(middle - _EXTENT_M), math.floor(middle + _EXTENT_M) + 1)

    rows = whole(root[1]) if above else (0,)
    marks = [np.array([x, y], float) for x in whole(root[0]) for y in rows]
    shapes = [shape("square", mark, _MARK_M, _MARK_COLOUR) for mark in marks]
    for geom in np.flatnonzero(model.geom_bodyid > 0).tolist():
        radius, half = model.geom_size[geom, :2] * (1.0, model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE)
        axis = data.geom_xmat[geom].reshape(3, 3)[:, 2]
        for along in np.linspace(-half, half, 1 + 2 * math.ceil(half / radius)):
            at = data.geom_xpos[geom] + along * axis
            shapes.append(shape("disc", at[[first, second]], radius, model.geom_rgba[geom].tolist()))
    heading = math.atan2(turned[second, 0], turned[first, 0])
    return [*shapes, shape("arrow", root[[first, second]], 0.15, [0.74, 0.04, 0.18, 1.0], heading)]
