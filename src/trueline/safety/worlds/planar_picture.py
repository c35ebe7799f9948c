"""Planar worlds to look at: shapes seen from above, and a picture of them that needs no OpenGL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError
from trueline.safety.worlds.checks import refuse_no_size
from trueline.safety.worlds.planar_tasks import RADIUS_M, PlanarWorld

__all__ = ["picture", "scene"]

CAMERA = "fixedfar"
_LINE_M = 17.5  # half the length drawn of a line that must not be crossed; it has no end
COLOUR = {
    "body": (0.74, 0.04, 0.18, 1.0),
    "vases": (0.0, 1.0, 1.0, 1.0),
    "goal": (0.0, 1.0, 0.0, 0.25),
    "hazards": (0.0, 0.0, 1.0, 0.25),
    "circle": (0.0, 1.0, 0.0, 0.1),
    "lines": (1.0, 0.0, 0.0, 0.1),
}


def scene(
    world: PlanarWorld, objects_xy: Sequence[Sequence[float]], agent_xy: Sequence[float], ahead: tuple[float, float]
) -> dict[str, Any]:
    """{"extent": m, "shapes": [{"name", "kind", "xy", "radius", "rot", "colour"}, …]}: objects, lines, then the agent.

    objects_xy: in the order of the world's rings; ahead: the unit vector along which the agent, an arrow, drives.
    """

    def shape(kind: str, xy: Sequence[float], radius: float, rot: float, colour: str) -> dict[str, Any]:
        seen = {"name": colour, "kind": kind, "xy": list(xy), "radius": radius, "rot": rot}
        return seen | {"colour": list(COLOUR[colour])}

    kinds = [kind for kind, count in world.rings.items() for _ in range(count)]
    shapes = [shape("disc", xy, RADIUS_M[kind], 0.0, kind) for kind, xy in zip(kinds, objects_xy, strict=True)]
    for limit, across in ((world.limit_x_m, (1.0, 0.0)), (world.limit_y_m, (0.0, 1.0))):
        for side in (limit, -limit) if math.isfinite(limit) else ():
            at, along = [side * across[0], side * across[1]], math.atan2(across[0], across[1])
            shapes.append(shape("line", at, _LINE_M, along, "lines"))
    shapes.append(shape("arrow", agent_xy, world.body.bumper.reach_m, math.atan2(ahead[1], ahead[0]), "body"))
    return {"extent": world.extent_m, "shapes": shapes}


def picture(seen: dict[str, Any], width: int, height: int, camera: str) -> NDArray[np.uint8]:
    """A scene drawn from above, [height, width, 3].  Raises ConfigError for a size or camera that does not exist."""
    from trueline.rl.filmstrip import pixels

    refuse_no_size(width, height)
    if camera != CAMERA:
        raise ConfigError(f"there is no camera {camera!r}. A planar world is seen from above, by {CAMERA!r}.")
    return pixels(seen, width, height)
