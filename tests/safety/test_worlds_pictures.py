"""Pictures of worlds: with OpenGL where there is some, a clear refusal where there is none, and the window."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl.worlds import make
from trueline.safety.worlds import WORLDS, make_world, render
from trueline.safety.worlds.multi_goal import PREFIXES
from trueline.safety.worlds.multi_goal_table import MULTI_GOALS
from trueline.safety.worlds.render import (
    CAMERAS,
    FAR_M,
    NoGraphics,
    Pose,
    add_balls,
    cost_ball,
    labels,
    lidar_balls,
    take,
    visual_model,
)
from trueline.safety.worlds.viewer import KEYS, command

PEERS = json.loads((Path(__file__).parent / "golden" / "sight.json").read_text())["pictures"]


def world(id: str = "SafetyPointGoal1-v0"):
    env = make_world(id, 2)
    env.reset(np.array([0, 1], dtype=np.uint32))
    return env


def ask(script: str, **environment: str) -> str:
    """What a Python process of its own prints; OpenGL is chosen once per process."""
    clean = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def opengl() -> bool:
    try:
        world().render(0, 32, 32)
    except NoGraphics:
        return False
    return True


def refuses(opengl: bool, env) -> bool:
    """Whether there is no OpenGL, where all one can see is that it is said."""
    if not opengl:
        with pytest.raises(NoGraphics, match="pictures need OpenGL"):
            env.render(0, 32, 32)
    return not opengl


def moment(id: str, i: int = 0) -> tuple[mujoco.MjModel, mujoco.MjData, Pose]:
    """The visual model of a world at the start of an episode."""
    env = world(id)
    places = {name: at[i] for name, at in env._scene.places.items()}
    pose = Pose(env._qpos[i], env._batch.bind("mocap_pos")[i], env._batch.bind("mocap_quat")[i], places)
    model = copy.copy(visual_model(env.world))
    data = mujoco.MjData(model)
    take(model, data, env.world, pose)
    return model, data, pose


# --- what is seen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", ["fixedfar", "fixednear", "track"])
def test_a_picture_shows_the_goal_where_it_is(camera, opengl):
    env = world()
    if refuses(opengl, env):
        return
    env.set_goal(np.array([[-0.6, 0.2], [0.6, 0.2]]))
    left, right = (env.render(i, 96, 64, camera) for i in range(2))
    env.set_goal(np.array([[9.0, 9.0], [9.0, 9.0]]))
    sides = []
    for i, picture in enumerate((left, right)):
        changed = (picture != env.render(i, 96, 64, camera)).any(axis=2)  # the pixels of the goal
        assert changed.sum() > 10
        sides.append(np.nonzero(changed)[1].mean())
    if camera != "track":  # from a fixed camera, x points to the right
        assert sides[0] < 48 < sides[1]
    assert left.shape == (64, 96, 3)
    assert left.dtype == np.uint8
    env.close()


@pytest.mark.parametrize(("id", "camera"), [(id, camera) for id, views in PEERS.items() for camera in views])
def test_pictures_are_the_originals_but_for_sky_and_mirror(id, camera, opengl):
    env = world(id)
    if refuses(opengl, env):
        return
    there = {name: np.array(values, dtype=float) for name, values in PEERS[id][camera].items()}
    size = len(there["rgb"])
    inverse = 1.0 / env.render(0, size, size, camera, mode="depth")
    below = inverse > 1.01 / FAR_M
    below[[0, -1]] = below[:, [0, -1]] = False  # these pixels lack neighbours
    # The peer takes a pixel's depth somewhere inside it, we in its middle.
    rounding = 1e-4
    low, high = minimum_filter(inverse, 3) - rounding, maximum_filter(inverse, 3) + rounding
    within_a_pixel = (low <= there["inverse_depth"]) & (there["inverse_depth"] <= high)
    assert within_a_pixel[below].mean() > 0.97
    # Its floor mirrors things faintly, which ours does not.
    colours = np.abs(env.render(0, size, size, camera) - there["rgb"]).max(axis=2)[below]
    assert np.median(colours) <= 1.0
    assert np.quantile(colours, 0.8) <= 4.0
    env.close()


def test_depth_is_in_metres_from_the_camera(opengl):
    env = world("SafetyPointGoal0-v0")
    if refuses(opengl, env):
        return
    env.set_goal(np.full((2, 2), 99.0))
    height, width, distance = 48, 32, 5.0
    picture = env.render(0, width, height, "fixedfar", mode="depth")
    ids = env.render(0, width, height, "fixedfar", mode="segmentation")[..., 0]
    # Seen from 5 m high and 5 m south, looking halfway down, a row at the angle with tangent t above the middle meets
    # the floor at the depth 5·√2/(1 − t).
    t = (1.0 - 2.0 * (np.arange(height) + 0.5) / height) * np.tan(np.pi / 8)
    exact = np.broadcast_to((distance * 2**0.5 / (1.0 - t))[:, None], picture.shape)
    floor = ids == labels(visual_model(env.world)).index("floor")
    assert floor.mean() > 0.5
    np.testing.assert_allclose(picture[floor], exact[floor], rtol=1e-4)
    np.testing.assert_allclose(picture[ids == -1], FAR_M, rtol=1e-4)
    assert picture.dtype == np.float32
    env.close()


def test_a_segmentation_shows_which_object_is_where(opengl):
    env = world("SafetyPointButton1-v0")
    if refuses(opengl, env):
        return
    size = 128
    ids = env.render(0, size, size, "fixednear", mode="segmentation")
    names = np.array([*labels(visual_model(env.world)), "nothing"])[ids[..., 0]]
    assert ids.shape == (size, size, 2)
    assert ids.dtype == np.int32
    assert set(ids[..., 1].ravel()) <= {-1, mujoco.mjtObj.mjOBJ_GEOM.value}
    np.testing.assert_array_equal(ids[..., 0] == -1, ids[..., 1] == -1)
    # Every button that is seen is seen where its centre projects to.
    shown = 0
    for k, (x, y, z) in enumerate(env._scene.places["buttons"][0]):
        right, up, depth = x, (y + 2.0 + z - 2.0) / 2**0.5, (y + 2.0 - z + 2.0) / 2**0.5
        tangents = np.array([-up, right]) / depth / np.tan(np.pi / 8)
        row, column = np.floor((1.0 + tangents) / 2 * size).astype(int)
        if 0 <= row < size and 0 <= column < size:
            shown += names[row, column] == f"button{k}"
    assert shown >= 2
    env.close()


# --- cameras ----------------------------------------------------------------------------------------------------------


def test_cameras_have_the_numbers_of_the_originals_repository(opengl):
    model = visual_model(WORLDS["SafetyPointGoal1-v0"])
    assert tuple(model.camera(i).name for i in range(model.ncam)) == CAMERAS
    env = world()
    if refuses(opengl, env):
        return
    np.testing.assert_array_equal(env.render(0, 40, 40, 5), env.render(0, 40, 40, "track"))
    with pytest.raises(ConfigError, match=r"no camera 'ceiling'. Choose from fixednear \(0\), fixedfar \(1\)"):
        env.render(0, 32, 32, "ceiling")
    with pytest.raises(ConfigError, match="no camera 6"):
        env.render(0, 32, 32, 6)
    with pytest.raises(ConfigError, match=r"mode is 'infrared'\. Choose from rgb, depth, segmentation"):
        env.render(0, 32, 32, mode="infrared")
    env.close()
    runner = make("SafetyHumanoidVelocity-v1", 1)
    runner.reset(np.array([0], np.uint32))
    for camera in ("ceiling", ""):  # its model has cameras without a name, which have a number only
        with pytest.raises(ConfigError, match=r"Choose from fixednear \(0\), fixedfar \(1\), track \(2\), 3\.$"):
            runner.render(0, 32, 32, camera)
    runner.close()


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyCarGoal1-v0"])
def test_cameras_stand_and_look_as_the_originals_do(id):
    _, data, _ = moment(id)
    half = 0.5**0.5
    for name, distance in (("fixednear", 2.0), ("fixedfar", 5.0), ("fixedfar++", 10.0)):
        camera = data.camera(name)
        np.testing.assert_allclose(camera.xpos, [0.0, -distance, distance])
        np.testing.assert_allclose(-camera.xmat.reshape(3, 3)[:, 2], [0.0, half, -half], atol=1e-12)  # halfway down
    # One follows the agent without turning with it; two are fixed to it and look ahead and back.
    agent = data.body("agent")
    track, turned = data.camera("track"), agent.xmat.reshape(3, 3)
    np.testing.assert_allclose(track.xpos - agent.xpos, [0.0, 2.0, 2.0], atol=1e-12)
    np.testing.assert_allclose(-track.xmat.reshape(3, 3)[:, 2], [0.0, -half, -half], atol=1e-12)
    ahead, back = (data.camera(name) for name in ("vision", "vision_back"))
    eye = WORLDS[id].agent.eye
    forwards = turned @ -np.cross(eye.x, eye.y)
    for camera, level in ((ahead, forwards), (back, -forwards)):
        np.testing.assert_allclose(camera.xpos, agent.xpos + turned @ eye.at_m, atol=1e-12)
        looks = -camera.xmat.reshape(3, 3)[:, 2]
        np.testing.assert_allclose(looks[:2] / np.hypot(*looks[:2]), level[:2] / np.hypot(*level[:2]), atol=1e-12)
    # The original tilts the eye in front by the tangent 0.4 and leaves the one behind level.
    assert -ahead.xmat[8] / np.hypot(*ahead.xmat[[2, 5]]) == pytest.approx(-0.4)
    assert back.xmat[8] == pytest.approx(0.0, abs=1e-12)


# What the models of the original's repository say of its agents' eyes, at commit ae966e5: place, and how the image's x
# and y axes lie in the body, of which y need not be square to x; and the height of their field, degrees. A camera
# without a field has MuJoCo's own.
MUJOCOS_FIELD = 45.0
EYES = {
    "Point": ((0.0, 0.0, 0.15), (0.0, -1.0, 0.0), (0.4, 0.0, 1.0), 90.0),
    "Car": ((0.0, 0.0, 0.2), (-1.0, 0.0, 0.0), (0.0, -0.4, 1.0), 90.0),
    "Doggo": ((0.0625, 0.0, 0.1), (0.0, -0.5, 0.0), (0.2, 0.0, 0.5), 100.0),
    "Racecar": ((0.1, 0.0, 0.1), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), 90.0),  # turned by 1.57 and −1.57 about x and y
    "Ant": ((0.0, 0.05, 0.05), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), 100.0),  # turned by 1.57 about x
}
OF_PAIRS = {"Point": 90.0, "Ant": MUJOCOS_FIELD}  # the two bodies that it has models of two agents for


def sees_as_recorded(camera, name: str, field_deg: float) -> None:
    """A camera of a model has this place, direction and field."""
    at_m, x, y, _ = EYES[name]
    turned = np.empty(9)
    mujoco.mju_quat2Mat(turned, camera.quat)
    right, up, _ = turned.reshape(3, 3).T
    rounded = 1e-3  # 1.57 is no right angle
    np.testing.assert_allclose(camera.pos, at_m, atol=1e-12)
    np.testing.assert_allclose(right, np.divide(x, np.linalg.norm(x)), atol=rounded)
    np.testing.assert_allclose(up, np.divide(y, np.linalg.norm(y)), atol=rounded)
    assert camera.fovy[0] == field_deg


@pytest.mark.parametrize("name", EYES)
@pytest.mark.parametrize("task", ["Goal1", "Race0", "FormulaOne0"])
def test_every_agent_sees_as_in_the_originals_repository(name, task):
    model = visual_model(WORLDS[f"Safety{name}{task}-v0"])
    sees_as_recorded(model.camera("vision"), name, EYES[name][3])
    assert model.camera("vision_back").fovy[0] == EYES[name][3]


@pytest.mark.parametrize("name", EYES)
def test_agents_of_a_pair_see_as_in_the_originals_repository(name):
    model = visual_model(MULTI_GOALS[f"Safety{name}MultiGoal1-v0"], PREFIXES)
    for eye in ("vision", "vision1"):
        sees_as_recorded(model.camera(eye), name, OF_PAIRS.get(name, EYES[name][3]))


def test_an_eyes_field_is_what_its_picture_shows(opengl):
    """A camera of the field φ, d metres above a floor and level, sees it below the tangent d/depth = tan(φ/2) only."""
    env = make_world("SafetyAntGoal0-v0", 1)
    if not opengl:
        return
    env.reset(np.array([0], np.uint32))
    size = 101
    depth = env.render(0, size, size, "vision", mode="depth")
    floor = env.render(0, size, size, "vision", mode="segmentation")[..., 0] == 0
    assert labels(visual_model(env.world))[0] == "floor"
    rows, columns = np.nonzero(floor)
    tangents = ((rows + 0.5) / size * 2.0 - 1.0) * np.tan(np.radians(100.0 / 2.0))
    heights = depth[rows, columns] * tangents  # of the eye above the floor, once for each pixel
    eye_m = env._position[0, 2] + 0.05
    assert len(rows) > 1000
    np.testing.assert_allclose(np.median(heights), eye_m, rtol=0.02)
    env.close()


@pytest.mark.parametrize(
    "id", ["SafetyPointGoal2-v0", "SafetyCarGoal1-v0", "SafetyPointButton1-v0", "SafetyCarPush2-v0"]
)
def test_the_visual_model_has_the_joints_of_the_physics(id):
    env = world(id)
    model = visual_model(env.world)
    np.testing.assert_array_equal(model.jnt_qposadr, env._model.jnt_qposadr)
    np.testing.assert_array_equal(model.jnt_type, env._model.jnt_type)
    marks = sum(thing.count for thing in env.world.things if not thing.is_body)
    assert model.nmocap == env._model.nmocap + marks


def test_things_fade_and_others_do_not():
    model, data, pose = moment("SafetyPointGoal1-v0")
    before, names = model.geom_rgba.copy(), np.array([name.rstrip("0123456789") for name in labels(model)])
    fading = Pose(pose.qpos, pose.mocap_pos, pose.mocap_quat, pose.places, {"hazards": 0.5, "vases": 0.0})
    for _ in range(2):  # a factor of what was, not of what is
        take(model, data, WORLDS["SafetyPointGoal1-v0"], fading)
    factor = np.select([names == "hazard", names == "vase"], [0.5, 0.0], 1.0)
    np.testing.assert_allclose(model.geom_rgba[:, 3], before[:, 3] * factor)
    np.testing.assert_array_equal(model.geom_rgba[:, :3], before[:, :3])


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_the_lidar_hangs_above_the_agent_as_it_reads():
    env = world("SafetyCarGoal1-v0")
    for _ in range(30):
        env.step(np.array([[1.0, -1.0], [1.0, 1.0]]))
    things, bins = env.world.rings, env.world.bins
    readings = env._observe()[1, -len(things) * bins :].reshape(-1, bins)
    position, rotation = env._position[1], env._rotation[1]
    balls = lidar_balls(position, rotation, readings, things)
    own = (np.array([ball.at_m for ball in balls]) - position) @ rotation
    np.testing.assert_allclose(np.hypot(own[:, 0], own[:, 1]), 0.15)
    np.testing.assert_allclose(own[:, 2].reshape(-1, bins), [[0.5 + 0.06 * k] * bins for k in range(len(things))])
    angles = np.arctan2(own[:bins, 1], own[:bins, 0]) % (2 * np.pi)
    np.testing.assert_allclose(angles, (np.arange(bins) + 0.5) * 2 * np.pi / bins)
    for ball, reading, k in zip(balls, readings.ravel(), np.repeat(range(len(things)), bins), strict=True):
        shine = min(1.0, reading + 0.1)
        assert ball.colour == pytest.approx((*(shine * part for part in things[k].colour[:3]), shine))
    # The brightest ball of the goal's ring points to the goal.
    goal = (env._scene.places["goal"][1, 0] - position) @ rotation
    brightest = own[readings[0].argmax()]
    assert brightest[:2] @ goal[:2] > np.hypot(*goal[:2]) * 0.15 * np.cos(np.pi / bins)
    # Rays are drawn where they go, at the lower ends of the bins.
    first = lidar_balls(position, rotation, readings, things, shift=0.0)[0]
    np.testing.assert_allclose((first.at_m - position) @ rotation, [0.15, 0.0, 0.5], atol=1e-12)


def test_balls_are_added_to_what_is_drawn_and_to_nothing_else():
    model, data, _ = moment("SafetyPointGoal1-v0")
    scene = mujoco.MjvScene(model, maxgeom=100)
    everything = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), everything, scene)
    before = scene.ngeom
    add_balls(scene, [cost_ball(data.body("agent").xpos)])
    assert scene.ngeom == before + 1
    ball = scene.geoms[before]
    assert ball.type == mujoco.mjtGeom.mjGEOM_SPHERE
    assert ball.segid == -1, "no object is there"
    np.testing.assert_allclose(ball.size, 0.25)
    np.testing.assert_allclose(ball.pos, data.body("agent").xpos, atol=1e-6)
    np.testing.assert_allclose(ball.rgba, [0.5, 0.0, 0.0, 0.5])


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyCarGoal1-v0"])
def test_costs_and_lidar_are_seen_by_onlookers_and_not_by_the_agent(id, opengl):
    env = world(id)
    if refuses(opengl, env):
        return

    def looks(camera: str, **drawn: object) -> np.ndarray:
        return env.render(0, 96, 96, camera, **drawn).astype(int)

    for eye in ("vision", "vision_back"):  # as in the original, which has its lidar drawn always
        np.testing.assert_array_equal(looks(eye, lidar=True), looks(eye))
    plain, ringed, costly = looks("track"), looks("track", lidar=True), looks("track", cost=1.0)
    assert (ringed != plain).any(axis=2).mean() > 0.01
    np.testing.assert_array_equal(looks("track", cost=0.0), plain)
    rows, columns = np.nonzero((costly != plain).any(axis=2))
    assert abs(rows.mean() - 47.5) < 2  # the agent is in the middle of the picture
    assert abs(columns.mean() - 47.5) < 2
    # 0.25 m seen from 2·√2 m
    assert len(rows) == pytest.approx(np.pi * (0.25 / 8**0.5 / np.tan(np.pi / 8) * 48) ** 2, rel=0.1)
    red, others = (picture[rows, columns] @ [1, -0.5, -0.5] for picture in (costly, plain))
    assert red.mean() > others.mean() + 30
    env.close()


def test_a_lidar_is_drawn_as_the_agent_reads_it(monkeypatch):
    """In the repository's version the buttons cannot be seen in the first ten steps of an episode."""
    env = make_world("SafetyPointButton1-v0", 1, version="head")
    env.reset(np.array([0], np.uint32))
    drawn = []

    def listen(position, rotation, readings, things, shift):
        drawn.append(readings.copy())
        raise ZeroDivisionError  # nothing more is needed of the picture

    monkeypatch.setattr(render, "lidar_balls", listen)
    ring = [thing.name for thing in env.world.rings].index("buttons")
    for step in range(12):
        obs = env._observe()[0, env.world.agent.senses :].reshape(len(env.world.rings), -1)
        with pytest.raises(ZeroDivisionError):
            env.render(0, lidar=True)
        np.testing.assert_array_equal(drawn[-1], obs)
        assert (drawn[-1][ring] == 0.0).all() == (step < 10)
        env.step(np.zeros((1, 2)))


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyHopperVelocity-v1", "PlanarPointGoal1-v0"])
@pytest.mark.parametrize(("width", "height"), [(64.0, 64), (64, "64"), (0, 64), (64, -1), (True, 64), (None, 64)])
def test_a_size_that_is_none_is_not_blamed_on_opengl(id, width, height):
    env = make(id, 1)
    env.reset(np.array([0], np.uint32))
    with pytest.raises(ConfigError, match="Give a width and height in whole pixels, 1 or more") as error:
        env.render(0, width, height)
    assert f"{width!r} × {height!r}" in str(error.value)


def test_a_picture_that_is_too_large_is_not_blamed_on_opengl(opengl):
    env = world()
    if refuses(opengl, env):
        return
    with pytest.raises(ConfigError, match=r"a picture of 200000 × 8 cannot be drawn here .* Ask for a smaller one"):
        env.render(0, 200_000, 8)
    assert env.render(0, 16, 8).shape == (8, 16, 3)
    env.close()


# --- OpenGL -----------------------------------------------------------------------------------------------------------

LOOK = """
from trueline.safety.worlds import make_world
from trueline.safety.worlds.render import NoGraphics
import numpy as np
env = make_world("SafetyPointGoal1-v0", 1)
env.reset(np.array([0], np.uint32))
try:
    picture = env.render(0, 32, 32)
    env.close()
    print(",".join(map(str, picture.ravel())))
except NoGraphics as error:
    print(error)
"""
NO_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull}  # the library is there and finds no driver


def test_where_egl_cannot_start_osmesa_draws_the_same(opengl):
    said = ask(LOOK, MUJOCO_GL="", **NO_EGL)
    try:
        render._load("osmesa")
    except OSError:
        assert "egl could not start" in said
        assert "osmesa could not start (libOSMesa is not installed)" in said
        return
    picture = np.array(said.split(","), dtype=int).reshape(32, 32, 3)
    if opengl:
        env = make_world("SafetyPointGoal1-v0", 1)
        env.reset(np.array([0], np.uint32))
        differences = np.abs(picture - env.render(0, 32, 32))
        assert np.quantile(differences, 0.95) <= 2, "two drivers round alike, but at edges"
        env.close()


def test_mujoco_gl_is_respected(monkeypatch):
    for given, tried in (("", ("egl", "osmesa")), ("osmesa", ("osmesa",)), ("EGL ", ("egl",)), ("glfw", ("glfw",))):
        monkeypatch.setenv("MUJOCO_GL", given)
        monkeypatch.setattr(sys, "platform", "linux")
        assert render._backends() == tried
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(MissingExtra, match=r"MUJOCO_GL=disabled forbids it\. .*libosmesa6 with MUJOCO_GL=osmesa"):
        world().render()
    assert os.environ["MUJOCO_GL"] == "disabled"


def test_without_opengl_the_message_says_what_was_tried(monkeypatch):
    def missing(backend: str) -> None:
        raise OSError(f"lib{backend} is not installed")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(render, "_load", missing)
    said = r"egl could not start \(libegl is not installed\) and osmesa could not start \(libosmesa is .*\)\. Install"
    with pytest.raises(NoGraphics, match=said):
        world().render()


# --- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "held", "action"),
    [
        ("point", "", (0, 0)),
        ("point", "I", (1, 0)),
        ("point", "KJ", (-1, 1)),
        ("point", "IKL", (0, -1)),
        ("car", "I", (1, 1)),
        ("car", "K", (-1, -1)),
        ("car", "J", (1, -1)),
        ("car", "IL", (-1, 1)),  # it turns, and does not drive
        ("car", "JL", (0, 0)),
        ("racecar", "IJ", (1, 0.5 / 0.785)),
        ("racecar", "KL", (-1, -0.5 / 0.785)),
    ],
)
def test_keys_drive_as_in_the_original(agent, held, action):
    np.testing.assert_allclose(command(agent, held), action)


def test_agents_of_many_joints_cannot_be_driven():
    with pytest.raises(ConfigError, match="the doggo cannot be driven by four keys"):
        command("doggo", "I")


def test_letters_and_arrows_mean_the_same():
    import glfw

    arrows = {glfw.KEY_UP: "I", glfw.KEY_DOWN: "K", glfw.KEY_LEFT: "J", glfw.KEY_RIGHT: "L"}
    letters = {glfw.KEY_I: "I", glfw.KEY_K: "K", glfw.KEY_J: "J", glfw.KEY_L: "L"}
    assert arrows | letters == KEYS


def test_a_window_needs_a_display():
    said = ask(LOOK.replace("env.render(0, 32, 32)", "env.render(mode='human')"), XDG_RUNTIME_DIR="")
    assert said.startswith("a window needs a display, and none could be opened (")
    assert said.endswith("Take pictures with `render`, or use `scene` and a film strip, which need no display.")


# GLFW has a platform without a screen, on which windows are opened and drawn with OSMesa as anywhere else.
DRIVE = """
import ctypes, json, time
ctypes.CDLL("libOSMesa.so.8", mode=ctypes.RTLD_GLOBAL)
import glfw
glfw.init_hint(glfw.PLATFORM, glfw.PLATFORM_NULL)
from trueline.safety.worlds import make_world
from trueline.safety.worlds import viewer
env, times, shown = make_world("SafetyPointGoal1-v0", 2), [], []
for k, step in enumerate(viewer.drive(env, 1)):
    times.append(time.monotonic())
    shown.append(env.window._viewer.user_scn.ngeom)
    at = env.position().copy() if k == 0 else at
    if k < 4:
        env.window._note(glfw.KEY_UP)
    if k == 5:
        far = abs(env.position() - at).max(axis=1).tolist()
        agent = env.window._data.body("agent").xpos[:2].tolist()
        env.window.close()
        time.sleep(0.2)
print(json.dumps({
    "far": far, "window": agent, "world": env.position()[1].tolist(), "balls": shown, "held": sorted(env.window.held()),
    "interval_s": (times[-1] - times[0]) / (len(times) - 1), "steps": len(times), "open": env.window.is_open,
}))
env.close()
"""


def test_a_person_drives_in_real_time_until_the_window_is_closed():
    try:
        render._load("osmesa")
    except OSError:
        return  # the platform without a screen draws with OSMesa
    was = json.loads(ask(DRIVE, MUJOCO_GL="osmesa").splitlines()[-1])
    assert was["far"][0] == 0.0, "the other environment stands still"
    assert was["far"][1] > 1e-4
    np.testing.assert_allclose(was["window"], was["world"], atol=1e-9)
    assert set(was["balls"]) <= {48, 49}, "three rings of 16, and one more while it costs"
    assert was["interval_s"] > 0.015, "0.02, but for one interval that it may catch up with"
    assert (was["steps"], was["open"], was["held"]) == (6, False, [])
