"""Pictures of an environment in the original's modes: an array of colours, a depth buffer, or a window."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium.abilities import Deep
from trueline.core.errors import ConfigError
from trueline.rl.env import Visible

MODES = ("human", "rgb_array", "depth_array")

# Width and height of a picture unless they are given, as in the original.
NAVIGATION_PIXELS, VELOCITY_PIXELS = 256, 480

# By id, as the models of release 1.0.0 have them.
CAMERAS = ("fixednear", "fixedfar", "vision", "track")
VELOCITY_CAMERAS = ("track",)


@dataclass(slots=True)
class RenderConf:
    """How an environment is drawn; one of camera_id and camera_name, or neither for the default camera."""

    mode: str | None = None
    width: int = NAVIGATION_PIXELS
    height: int = NAVIGATION_PIXELS
    camera_id: int | None = None
    camera_name: str | None = None


def depth_buffer(depth_m: NDArray[np.float32], near_m: float, far_m: float) -> NDArray[np.float32]:
    """What OpenGL keeps of distances from the camera's plane: 0 at the near plane, 1 at the far, even in 1/depth."""
    inverse = 1.0 / np.clip(depth_m.astype(np.float64), near_m, far_m)
    return ((1.0 / near_m - inverse) / (1.0 / near_m - 1.0 / far_m)).astype(np.float32)


class Pictures:
    """Draws rows of a world."""

    def __init__(self, how: RenderConf, cameras: Sequence[str], default: str) -> None:
        """cameras: by id; default: the camera when none is named.

        Raises ConfigError for a mode or a camera that does not exist, or two cameras.
        """
        if how.mode is not None and how.mode not in MODES:
            raise ConfigError(
                f"render_mode is {how.mode!r}. Choose from {', '.join(MODES)}, or add _list to a picture's."
            )
        if how.camera_id is not None and how.camera_name is not None:
            raise ConfigError(f"camera_id {how.camera_id} and camera_name {how.camera_name!r} were given. Give one.")
        if how.camera_id not in (None, *range(len(cameras))) or isinstance(how.camera_id, float):
            known = ", ".join(f"{i} for {camera}" for i, camera in enumerate(cameras))
            raise ConfigError(f"camera_id is {how.camera_id!r:.40}. Give {known}.")
        if not isinstance(how.camera_name, str | None):
            raise ConfigError(f"camera_name is {how.camera_name!r:.40}. Give a name such as {default!r}.")
        self._how = how
        self._camera = cameras[how.camera_id] if how.camera_id is not None else how.camera_name or default

    def draw(self, world: Any, row: int, cost: float = 0.0) -> Any:
        """uint8 [H, W, 3], or a depth buffer float32 [H, W], or None after showing a window.

        cost: of the last step; where it is positive the world may mark the agent, and it may show the lidar, as the
        original does. Raises ConfigError when no mode was chosen or the world has no such pictures.
        """
        how, name = self._how, world.id
        if how.mode is None:
            raise ConfigError("there is no render_mode. Give one to make(), such as render_mode='rgb_array'.")
        if not isinstance(world, Visible):
            raise ConfigError(f"{name} has no pictures. Leave out render_mode.")
        takes = inspect.signature(world.render).parameters
        marks = {"lidar": True, "cost": cost} if {"lidar", "cost"} <= set(takes) else {}
        render: Any = world.render
        if how.mode == "rgb_array":
            return render(row, how.width, how.height, camera=self._camera, **marks)
        if how.mode == "human":
            if "mode" not in takes:
                raise ConfigError(f"{name} opens no window. Use render_mode='rgb_array'.")
            return render(row, how.width, how.height, camera=self._camera, mode="human", **marks)
        if not isinstance(world, Deep):
            raise ConfigError(f"{name} has no depth pictures. Use render_mode='rgb_array'.")
        depth_m = render(row, how.width, how.height, camera=self._camera, mode="depth")
        return depth_buffer(depth_m, *world.planes_m)
