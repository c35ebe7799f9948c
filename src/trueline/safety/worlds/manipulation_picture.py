"""What there is to see of a manipulation world beside its physics: floor, light, cameras and untouchable marks."""

from __future__ import annotations

import functools
import math

import mujoco
import numpy as np

from trueline.safety.worlds.manipulation_engine import Task
from trueline.safety.worlds.manipulation_mechanism import add_link

__all__ = ["CAMERAS", "visual_model"]

CAMERAS = ("fixedfar", "fixednear", "above")
_FIELD_OF_VIEW = 45.0  # degrees, from bottom to top
_PALE, _SKY = (0.93, 0.93, 0.91, 1.0), [0.85, 0.90, 0.97]


def _add_camera(
    spec: mujoco.MjSpec, task: Task, name: str, azimuth: float, elevation: float, distance_m: float
) -> None:
    """A camera that looks at the middle of what there is, from a direction given by two angles in radians."""
    c, s = math.cos(elevation), math.sin(elevation)
    outward = np.array([c * math.cos(azimuth), c * math.sin(azimuth), s])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, np.cross(outward, right), outward]).ravel())
    at = np.array(task.middle_m) + distance_m * outward
    spec.worldbody.add_camera(name=name, pos=at, quat=quat, fovy=_FIELD_OF_VIEW)


@functools.cache
def visual_model(task: Task) -> mujoco.MjModel:
    """The model to draw. Its joints are those of the physics model, so a state of the one is a state of the other."""
    spec = task.describe()
    for mark in task.marks():
        add_link(spec.worldbody, mark)
    far = task.picture_m / math.tan(math.radians(_FIELD_OF_VIEW) / 2)
    _add_camera(spec, task, "fixedfar", azimuth=math.radians(35.0), elevation=math.radians(30.0), distance_m=far)
    _add_camera(
        spec, task, "fixednear", azimuth=math.radians(35.0), elevation=math.radians(20.0), distance_m=0.75 * far
    )
    _add_camera(spec, task, "above", azimuth=-math.pi / 2, elevation=math.radians(89.9), distance_m=far)
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.0, 0.0, 1.0], contype=0, conaffinity=0, rgba=_PALE
    )
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        rgb1=_SKY,
        rgb2=_SKY,
        width=8,
        height=8,
    )
    light = spec.worldbody.add_light(pos=[0.0, 0.0, 3.0], dir=[-0.4, -0.3, -1.0], diffuse=[0.5] * 3, castshadow=False)
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.35] * 3, [0.25] * 3
    spec.stat.extent, spec.stat.center = 2.0 * task.extent_m, task.middle_m
    return spec.compile()
