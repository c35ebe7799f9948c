"""Pictures of a world with OpenGL; nothing here is imported before the first picture is asked for.

A separate visual model carries what the physics does not need: marks (bodies moved by hand), lights, cameras and a
floor pattern. Its joints are those of the physics model, so a state of the one is a state of the other. Cameras, lights
and overlays have the places, angles and colours of Safety-Gymnasium's; floor and sky are patterns of our own.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import mujoco
import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, MissingExtra
from trueline.safety.worlds.checks import refuse_no_size
from trueline.safety.worlds.objects import Thing
from trueline.safety.worlds.physics import GEOM, PAIR_COLOURS, describe
from trueline.safety.worlds.scene import Array
from trueline.safety.worlds.world import World

Mode = Literal["rgb", "depth", "segmentation"]
# By number as in the original's repository, but for its Doggo and Ant: they have no vision_back, and track as 4.
# The published 1.0.0 has neither fixedfar++ nor vision_back.
CAMERAS = ("fixednear", "fixedfar", "fixedfar++", "vision", "vision_back", "track")
_FIXED_M = {"fixednear": 2.0, "fixedfar": 5.0, "fixedfar++": 10.0}  # so far to the south, and so high

_EXTENT_M, _THING_M = 3.96, 0.23  # size of a world and of what is in it, from which MuJoCo takes its clipping planes
NEAR_M, FAR_M = 0.01 * _EXTENT_M, 50.0 * _EXTENT_M  # nothing nearer or farther than these planes is drawn

_RING_RADIUS_M, _RING_HEIGHT_M, _RING_RISE_M = 0.15, 0.5, 0.06
_BALL_RADIUS_M = 0.025
_COST_RADIUS_M, _COST_COLOUR = 0.25, (0.5, 0.0, 0.0, 0.5)


# --- OpenGL -----------------------------------------------------------------------------------------------------------


_INSTALL = (
    "Install one (Debian and Ubuntu: apt-get install libegl1, or libosmesa6 with MUJOCO_GL=osmesa), or use `scene` and "
    "a film strip, which need none."
)


class NoGraphics(MissingExtra):
    """There is no OpenGL to draw with, or no display to open a window on."""

    def __init__(self, reason: str, what: str = "pictures need OpenGL", instead: str = _INSTALL) -> None:
        self.extra = "graphics"
        Exception.__init__(self, f"{what}, and {reason}. {instead}")


class _Context(Protocol):
    def make_current(self) -> None: ...
    def free(self) -> None: ...


_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")}


def _load(backend: str) -> ctypes.CDLL:
    """The backend's library, its names open to MuJoCo's own look-up.  Raises OSError when it is not installed."""
    for name in _LIBRARIES[backend]:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    raise OSError(f"{_LIBRARIES[backend][0].partition('.')[0]} is not installed")


class _OsMesa:
    """A context of Mesa's off-screen interface, which needs neither display nor device.

    Not MuJoCo's own, which cannot be had any more in a process that has tried EGL.
    """

    def __init__(self, width: int, height: int) -> None:
        rgba, depth_bits, stencil_bits = 0x1908, 24, 8
        self._library = _load("osmesa")
        create = self._library.OSMesaCreateContextExt
        create.restype, create.argtypes = ctypes.c_void_p, [ctypes.c_int] * 4 + [ctypes.c_void_p]
        self._library.OSMesaMakeCurrent.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 3
        self._library.OSMesaDestroyContext.argtypes = [ctypes.c_void_p]
        self._context = create(rgba, depth_bits, stencil_bits, 0, None)
        self._size = width, height
        self._buffer = (ctypes.c_ubyte * (4 * width * height))()  # must exist; MuJoCo draws into one of its own

    def make_current(self) -> None:
        unsigned_byte = 0x1401
        if not self._library.OSMesaMakeCurrent(self._context, self._buffer, unsigned_byte, *self._size):
            raise OSError("it gave no context")

    def free(self) -> None:
        self._library.OSMesaDestroyContext(self._context)


def _backends() -> tuple[str, ...]:
    """What to try, in this order: what MUJOCO_GL names, or what the system may have."""
    given = os.environ.get("MUJOCO_GL", "").lower().strip()
    if given in ("disable", "disabled", "off", "false", "0"):
        raise NoGraphics(f"MUJOCO_GL={given} forbids it")
    if given in ("egl", "osmesa", "glfw", "cgl"):
        return (given,)
    return {"linux": ("egl", "osmesa"), "darwin": ("cgl", "glfw")}.get(sys.platform, ("glfw",))


@contextlib.contextmanager
def _named(backend: str) -> Iterator[None]:
    """MUJOCO_GL as MuJoCo wants it while it looks for OpenGL's functions."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


class _Canvas(NamedTuple):
    context: _Context
    drawer: mujoco.MjrContext


def _canvas(backend: str, model: mujoco.MjModel, width: int, height: int) -> _Canvas:
    if backend in _LIBRARIES:
        _load(backend)
    context = _OsMesa(width, height) if backend == "osmesa" else _theirs(backend, width, height)
    context.make_current()
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    with _named(backend):
        drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, drawer)
    drawer.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value  # keeps more digits of what is far
    return _Canvas(context, drawer)


def _theirs(backend: str, width: int, height: int) -> _Context:
    context: _Context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
    return context


def _open_canvas(model: mujoco.MjModel, width: int, height: int) -> _Canvas:
    """From the first backend that starts.

    Raises NoGraphics saying why none did, ConfigError when one does for a smaller picture.
    """
    reasons = []
    for backend in _backends():
        try:
            return _canvas(backend, model, width, height)
        except Exception as error:  # noqa: BLE001  (graphics fail in as many ways as there are drivers)
            reasons.append(f"{backend} could not start ({str(error).rstrip('.')})")
    if width * height > 1:
        with contextlib.suppress(NoGraphics):
            least = _open_canvas(model, 1, 1)
            least.drawer.free()
            least.context.free()
            raise ConfigError(
                f"a picture of {width} × {height} cannot be drawn here ({' and '.join(reasons)}). "
                "Ask for a smaller one."
            )
    raise NoGraphics(" and ".join(reasons))


# --- the visual model -------------------------------------------------------------------------------------------------


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


def _add_cameras(spec: mujoco.MjSpec, world: World, prefixes: tuple[str, ...]) -> None:
    for name, distance in _FIXED_M.items():  # image x along the world's x, image y tilted halfway up
        _add_camera(spec.worldbody, name, (0.0, -distance, distance), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0), fovy=45.0)
    body, eye = spec.body(world.agent.root.name), world.agent.eye
    _add_camera(body, "vision", eye.at_m, eye.x, eye.y, fovy=eye.field_deg)
    left = (-eye.x[0], -eye.x[1], -eye.x[2])
    _add_camera(body, "vision_back", eye.at_m, left, (0.0, 0.0, 1.0), fovy=eye.field_deg)
    track = _add_camera(body, "track", (0.0, 2.0, 2.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 1.0), fovy=45.0)
    track.mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACK
    for k, prefix in enumerate(prefixes[1:], 1):  # last, so that the others keep their numbers
        own = spec.body(prefix + world.agent.root.name)
        _add_camera(own, f"vision{k}", eye.at_m, eye.x, eye.y, fovy=eye.field_deg)


def _add_camera(
    body: mujoco.MjsBody,
    name: str,
    at_m: Sequence[float],
    x: Sequence[float],
    y: Sequence[float],
    fovy: float,
) -> mujoco.MjsCamera:
    """A camera with the image's x and y axes; y need not be square to x.  fovy: degrees from bottom to top."""
    right, up = np.array(x), np.array(y)
    right /= np.linalg.norm(right)
    up -= right * (right @ up)
    up /= np.linalg.norm(up)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, up, np.cross(right, up)]).ravel())
    return body.add_camera(name=name, pos=at_m, fovy=fovy, quat=quat)


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    """Sky, floor and light."""
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
        rgb1=[0.859, 0.843, 0.765],
        rgb2=[0.949, 0.914, 0.855],
        width=100,
        height=100,
    )
    tiles = spec.add_material(name="tiles", texrepeat=[10.0, 10.0], specular=0.1, shininess=0.1)
    tiles.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    spec.geom("floor").material = "tiles"
    light = spec.worldbody.add_light(
        pos=[0.0, 0.0, 0.5], dir=[0.0, 0.0, -1.0], diffuse=[1.0, 1.0, 1.0], specular=[0.0, 0.0, 0.0], castshadow=False
    )
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL


@functools.cache
def visual_model(world: World, prefixes: tuple[str, ...] = ("",)) -> mujoco.MjModel:
    """The model to draw; marks are moved through `mocap_pos`, after the physics model's own mocap bodies.

    prefixes: of the agents in it, see `describe`. Cameras are the first one's, and "vision1" what the second sees; two
    agents have a colour each.
    """
    spec = describe(world, prefixes)
    for thing in world.things:
        if not thing.is_body:
            _add_mark(spec, thing)
    _add_cameras(spec, world, prefixes)
    _add_surroundings(spec)
    spec.stat.extent, spec.stat.meansize = _EXTENT_M, _THING_M
    model = spec.compile()
    if len(prefixes) > 1:
        for prefix, rgb in zip(prefixes, PAIR_COLOURS, strict=True):
            own = model.body_rootid[model.geom_bodyid] == model.body(prefix + world.agent.root.name).id
            model.geom_rgba[own, :3] = rgb
    return model


def labels(model: mujoco.MjModel) -> tuple[str, ...]:
    """What each geom belongs to, by the ids of a segmentation: "agent", "hazard3", "floor", …"""
    out = []
    for geom in range(model.ngeom):
        root = model.body_rootid[model.geom_bodyid[geom]]
        out.append(model.body(root).name if root else model.geom(geom).name)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Pose:
    """One environment at one moment."""

    qpos: Array  # [nq] of the physics model
    mocap_pos: Array  # [m, 3] of its bodies moved by hand, metres
    mocap_quat: Array  # [m, 4]
    places: Mapping[str, Array]  # name -> [k, 3] of the marks, metres
    opacity: Mapping[str, float] = field(default_factory=dict)  # name -> factor 0 to 1, of things that fade


def take(
    model: mujoco.MjModel, data: mujoco.MjData, world: World, pose: Pose, prefixes: tuple[str, ...] = ("",)
) -> None:
    """Bring a copy of the visual model, its cameras and lights to a pose."""
    data.qpos[:] = pose.qpos
    bodies = len(pose.mocap_pos)
    data.mocap_pos[:bodies], data.mocap_quat[:bodies] = pose.mocap_pos, pose.mocap_quat
    for thing in world.things:
        if not thing.is_body:
            first = model.body(thing.each()[0]).mocapid[0]
            data.mocap_pos[first : first + thing.count] = pose.places[thing.name]
    model.geom_rgba[:] = visual_model(world, prefixes).geom_rgba
    for thing in world.things:
        if thing.name in pose.opacity:
            fading = [model.body(name).id for name in thing.each()]
            model.geom_rgba[np.isin(model.geom_bodyid, fading), 3] *= pose.opacity[thing.name]
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


# --- overlays ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ball:
    """A sphere that is drawn and is not there."""

    at_m: Array  # [3]
    radius_m: float
    colour: tuple[float, float, float, float]


def lidar_balls(
    position: Array, rotation: Array, readings: Array, things: Sequence[Thing], shift: float = 0.5
) -> tuple[Ball, ...]:
    """The lidar as rings of balls above the agent, one ring per kind: the brighter, the nearer.

    position [3], rotation [3, 3] and readings [rings, bins] of the agent, the rings' kinds; shift: where in its bin a
    ball hangs, ½ for bins and 0 for rays.
    """
    bins = readings.shape[1]
    angle = 2.0 * np.pi * (np.arange(bins) + shift) / bins
    out = []
    for k, (thing, ring) in enumerate(zip(things, readings, strict=True)):
        height = np.full(bins, _RING_HEIGHT_M + k * _RING_RISE_M)
        own = np.column_stack([_RING_RADIUS_M * np.cos(angle), _RING_RADIUS_M * np.sin(angle), height])
        at = position + own @ rotation.T
        for place, reading in zip(at, ring.tolist(), strict=True):
            red, green, blue = (min(1.0, reading + 0.1) * part for part in thing.colour[:3])
            out.append(Ball(place, _BALL_RADIUS_M, (red, green, blue, min(1.0, reading + 0.1))))
    return tuple(out)


def cost_ball(position: Array) -> Ball:
    """What is drawn around an agent that costs.  position: [3]."""
    return Ball(position, _COST_RADIUS_M, _COST_COLOUR)


def add_balls(scene: mujoco.MjvScene, balls: Sequence[Ball]) -> None:
    """Append balls to what is drawn."""
    for ball in balls:
        geom = scene.geoms[scene.ngeom]
        sphere, straight = mujoco.mjtGeom.mjGEOM_SPHERE.value, np.eye(3).ravel()
        mujoco.mjv_initGeom(
            geom, sphere, np.full(3, ball.radius_m), ball.at_m, straight, np.array(ball.colour, np.float32)
        )
        geom.category, geom.segid = mujoco.mjtCatBit.mjCAT_DECOR.value, -1  # a segmentation shows nothing there
        scene.ngeom += 1


# --- drawing ----------------------------------------------------------------------------------------------------------


class Painter:
    """Draws states of one model at one size: bring `data` to a state, kinematics and cameras included, then `draw`.

    Raises NoGraphics when OpenGL is missing or cannot start, ConfigError for a size, camera or mode there is not.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        refuse_no_size(width, height)
        self.model = copy.copy(model)  # one's own: the size of the picture is part of it
        self.data = mujoco.MjData(self.model)
        self._size = height, width
        self._canvas = _open_canvas(self.model, width, height)
        self._scene = mujoco.MjvScene(self.model, maxgeom=2 * model.ngeom + 1000)
        self._options = mujoco.MjvOption()

    def draw(
        self, camera: str | int | mujoco.MjvCamera, mode: Mode = "rgb", balls: Sequence[Ball] = ()
    ) -> NDArray[Any]:
        """Picture of `data`, seen from a camera of the model by name or number, or from one that is given.

        rgb: uint8 [height, width, 3]. depth: float32 [height, width] metres from the camera's plane, seen through what
        is translucent, the far plane's where there is nothing. segmentation: int32 [height, width, 2] id and kind
        (mjtObj) of what is seen, -1 where there is nothing; `labels` names the ids.
        """
        if mode not in get_args(Mode):
            raise ConfigError(f"mode is {mode!r}. Choose from {', '.join(get_args(Mode))}.")
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        view = camera if isinstance(camera, mujoco.MjvCamera) else self._fixed(camera)
        mujoco.mjv_updateScene(self.model, self.data, self._options, None, view, everything, self._scene)
        add_balls(self._scene, balls)
        if mode == "depth":
            for shape in self._scene.geoms[: self._scene.ngeom]:
                if shape.rgba[3] < 1.0:
                    shape.segid = -1  # not drawn by the flags below
        # Colours that stand for ids; and without them depths would be smoothed over edges.
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            self._scene.flags[flag] = mode != "rgb"
        height, width = self._size
        window = mujoco.MjrRect(0, 0, width, height)
        self._canvas.context.make_current()
        mujoco.mjr_render(window, self._scene, self._canvas.drawer)
        if mode == "depth":
            nearness = np.empty((height, width), np.float32)  # 1 at the near plane, 0 at the far one
            mujoco.mjr_readPixels(None, nearness, window, self._canvas.drawer)
            return self._metres(nearness[::-1])  # OpenGL counts rows from below
        picture = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, window, self._canvas.drawer)
        return picture[::-1].copy() if mode == "rgb" else self._ids(picture[::-1])

    def close(self) -> None:
        """Free the graphics memory."""
        self._canvas.context.make_current()
        self._canvas.drawer.free()
        self._canvas.context.free()

    def _fixed(self, camera: str | int) -> mujoco.MjvCamera:
        names = [self.model.camera(i).name for i in range(self.model.ncam)]
        if camera not in (*filter(None, names), *range(len(names))):
            numbered = ", ".join(f"{name} ({i})" if name else str(i) for i, name in enumerate(names))
            raise ConfigError(f"there is no camera {camera!r}. Choose from {numbered}.")
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = names.index(camera) if isinstance(camera, str) else camera
        return view

    def _metres(self, nearness: NDArray[np.float32]) -> NDArray[np.float32]:
        extent, clip = self.model.stat.extent, self.model.vis.map
        near, far = clip.znear * extent, clip.zfar * extent
        metres: Array = near * far / (near + nearness.astype(np.float64) * (far - near))
        return metres.astype(np.float32)

    def _ids(self, picture: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Ids and kinds from the colours that MuJoCo writes for them, least digit first; 0 is nothing."""
        shapes = self._scene.geoms[: self._scene.ngeom]
        out = np.full((len(shapes) + 1, 2), -1, np.int32)
        for shape in shapes:
            if shape.segid >= 0:
                out[shape.segid + 1] = shape.objid, shape.objtype
        return out[picture @ np.array([1, 1 << 8, 1 << 16])]
