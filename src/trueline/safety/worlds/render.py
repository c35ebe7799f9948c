"""Pictures of a world with OpenGL; nothing here is imported before the first picture is asked for.

A separate visual model carries what the physics does not need: marks (bodies moved by hand), lights, cameras and a
floor pattern. Its joints are those of the physics model, so a state of the one is a state of the other.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, MissingExtra
from trueline.safety.worlds.objects import Thing
from trueline.safety.worlds.physics import GEOM, describe
from trueline.safety.worlds.world import World

CAMERAS = ("fixedfar", "fixednear", "vision", "track")
_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")}


class NoGraphics(MissingExtra):
    """There is no OpenGL to draw with."""

    def __init__(self, reason: str) -> None:
        self.extra = "graphics"
        Exception.__init__(
            self,
            f"pictures need OpenGL, and {reason}. Install one (Debian and Ubuntu: apt-get install libegl1, or "
            "libosmesa6 with MUJOCO_GL=osmesa), or use `scene` and a film strip, which need none.",
        )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _backend() -> str:
    """MUJOCO_GL if set; else, on Linux, EGL or OSMesa, whichever is installed; else the windowing system's."""
    given = os.environ.get("MUJOCO_GL", "").lower().strip()
    if given in ("egl", "osmesa", "glfw", "cgl"):
        return given
    if given in ("disable", "disabled", "off", "false", "0"):
        raise NoGraphics(f"MUJOCO_GL={given} forbids it")
    if not sys.platform.startswith("linux"):
        return "glfw"
    for name, libraries in _LIBRARIES.items():
        if any(_loads(library) for library in libraries):
            return name
    raise NoGraphics("neither libEGL nor libOSMesa is installed")


def _add_mark(spec: mujoco.MjSpec, thing: Thing) -> None:
    for i, name in enumerate(thing.each()):
        body = spec.worldbody.add_body(name=name, mocap=True, pos=(0.0, 0.0, thing.height_m))
        if thing.at and thing.at[i][0] == 0.0 and thing.solids[0].kind == "box":
            body.quat = [0.5**0.5, 0.0, 0.0, 0.5**0.5]  # a line at y = ±distance lies across those at x = ±distance
        for solid in thing.solids:
            body.add_geom(
                type=GEOM[solid.kind],
                size=[*solid.size_m, 0.0, 0.0][:3],
                pos=solid.at_m,
                contype=0,
                conaffinity=0,
                rgba=thing.colour,
            )


def _add_cameras(spec: mujoco.MjSpec, world: World) -> None:
    down_45 = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]  # image x along the world's x, image y tilted halfway up
    for name, distance in (("fixednear", 2.0), ("fixedfar", 5.0)):
        _add_camera(spec.worldbody, name, [0.0, -distance, distance], down_45, fovy=45.0)
    body, eye = spec.body(world.agent.root.name), world.agent.eye
    _add_camera(body, "vision", list(eye.at_m), [*eye.x, *eye.y], fovy=90.0)
    track = _add_camera(body, "track", [0.0, 2.0, 2.0], [-1.0, 0.0, 0.0, 0.0, -1.0, 1.0], fovy=45.0)
    track.mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACK


def _add_camera(body: mujoco.MjsBody, name: str, at_m: list[float], xy: list[float], fovy: float) -> mujoco.MjsCamera:
    """A camera with the image's x and y axes given as six numbers; y need not be square to x."""
    x, y = np.array(xy[:3]), np.array(xy[3:])
    x /= np.linalg.norm(x)
    y -= x * (x @ y)
    y /= np.linalg.norm(y)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([x, y, np.cross(x, y)]).ravel())
    return body.add_camera(name=name, pos=at_m, fovy=fovy, quat=quat)


def _add_floor_and_light(spec: mujoco.MjSpec, world: World) -> None:
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.75, 0.85, 1.0],
        rgb2=[0.95, 0.95, 0.95],
        width=64,
        height=64,
    )
    spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.85, 0.85, 0.82],
        rgb2=[0.78, 0.78, 0.75],
        width=64,
        height=64,
    )
    tiles = spec.add_material(name="tiles", texrepeat=[world.floor_m] * 2)
    tiles.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    spec.geom("floor").material = "tiles"
    light = spec.worldbody.add_light(
        pos=[0.0, 0.0, 3.0], dir=[0.2, 0.3, -1.0], diffuse=[0.5, 0.5, 0.5], specular=[0.1, 0.1, 0.1], castshadow=False
    )
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL


@functools.cache
def visual_model(world: World) -> mujoco.MjModel:
    """The model to draw; marks are moved through `mocap_pos`, after the physics model's own mocap bodies."""
    spec = describe(world)
    for thing in world.things:
        if not thing.is_body:
            _add_mark(spec, thing)
    _add_cameras(spec, world)
    _add_floor_and_light(spec, world)
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.2, 0.2, 0.2]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    return spec.compile()


class Painter:
    """Draws states of one world at one size.

    Raises NoGraphics when OpenGL is missing or cannot start, ConfigError for a size or camera that does not exist.
    """

    def __init__(self, world: World, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise ConfigError(f"a picture of {width} × {height} was asked for. Give a width and height of 1 or more.")
        self._world, self._size = world, (height, width)
        self._model = visual_model(world)
        self._data = mujoco.MjData(self._model)
        backend = _backend()
        # What fails here is the machine's graphics, in as many ways as there are drivers.
        try:
            context: Any = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
        except Exception as error:
            raise NoGraphics(f"{backend} could not start ({error})") from error
        self._context = context
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width, height
        self._drawer = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawer)
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        self._options = mujoco.MjvOption()

    def draw(
        self,
        qpos: NDArray[np.float64],
        mocaps: tuple[NDArray[np.float64], NDArray[np.float64]],
        places: Mapping[str, NDArray[np.float64]],
        camera: str,
    ) -> NDArray[np.uint8]:
        """Picture [height, width, 3] of joint positions [nq], mocap positions and quaternions, and places by name."""
        if camera not in CAMERAS:
            raise ConfigError(f"there is no camera {camera!r}. Choose from {', '.join(CAMERAS)}.")
        data = self._data
        data.qpos[:] = qpos
        positions, turns = mocaps
        data.mocap_pos[: len(positions)], data.mocap_quat[: len(turns)] = positions, turns
        for thing in self._world.things:
            if not thing.is_body:
                first = self._model.body(thing.each()[0]).mocapid[0]
                data.mocap_pos[first : first + thing.count] = places[thing.name]
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, view, everything, self._scene)
        height, width = self._size
        window, picture = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        self._context.make_current()
        mujoco.mjr_render(window, self._scene, self._drawer)
        mujoco.mjr_readPixels(picture, None, window, self._drawer)
        return picture[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Free the graphics memory."""
        self._context.make_current()
        self._drawer.free()
        self._context.free()
