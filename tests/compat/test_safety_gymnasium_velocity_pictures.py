"""Pictures of velocity tasks through the face: their sizes, their depth, and a window."""

import json
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from trueline.compat.safety_gymnasium.pictures import depth_buffer
from trueline.rl.to_gymnasium import MODES
from trueline.safety.worlds import render
from trueline.safety.worlds.render import NoGraphics
from trueline.safety.worlds.velocity_runners import compiled

HOPPER, TEAM = "SafetyHopperVelocity-v1", ("Ant", "2x4")
SMALL = {"width": 48, "height": 32}


@pytest.fixture(scope="module")
def graphics(sg):
    env = sg.make(HOPPER, render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    try:
        env.render()
    except NoGraphics:
        pytest.skip("no OpenGL here")


def cast(world, row, column, width, height):
    """Depth of the middle of a pixel of "track", metres, from a ray through it; inf where there is nothing."""
    model = world.model
    data = mujoco.MjData(model)
    data.qpos[:] = world._qpos[0]
    mujoco.mj_forward(model, data)
    camera = model.camera("track").id
    half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    x, y = (2 * column + 1 - width) / height * half, -(2 * row + 1 - height) / height * half
    ray = data.cam_xmat[camera].reshape(3, 3) @ np.array([x, y, -1.0])
    distance = mujoco.mj_ray(model, data, data.cam_xpos[camera], ray, None, 1, -1, np.zeros(1, np.int32))
    return np.inf if distance < 0 else distance  # in lengths of the ray, whose part along the view is 1


@pytest.mark.parametrize("several", [False, True])
def test_depth_is_where_a_ray_through_the_pixel_ends(sg, graphics, several):
    size = {"width": 64, "height": 48}
    how = {"render_mode": "depth_array", **size}
    env = sg.make_ma(*TEAM, **how) if several else sg.make(HOPPER, **how)
    env.reset(seed=0)
    depth = env.render()
    assert depth.shape == (48, 64)
    assert depth.dtype == np.float32
    world = env.env.inner.world._world if several else env.unwrapped.world
    near, far = (env.env.inner.world if several else world).planes_m
    found = [(r, c, cast(world, r, c, **size)) for r in range(2, 48, 5) for c in range(2, 64, 5)]
    expected = np.array([depth_buffer(np.float32([min(z, far)]), near, far)[0] for *_, z in found])
    seen = np.array([depth[r, c] for r, c, _ in found])
    assert (expected == 1.0).any()  # nothing but sky above the horizon
    assert (expected < 0.98).any()  # near ground, or the body
    # An edge may fall to either side within a pixel; all else is OpenGL's rounding.
    assert (np.abs(seen - expected) < 2e-5).mean() > 0.95


@pytest.mark.parametrize("mode", ["rgb_array", "depth_array"])
def test_lists_of_pictures_are_collected(sg, graphics, mode):
    env = sg.make(HOPPER, render_mode=f"{mode}_list", **SMALL)
    env.reset(seed=0)
    env.step(np.zeros(3))
    first, second = env.render()
    assert first.shape[:2] == (32, 48)
    assert (first != second).any()


def test_pictures_have_the_originals_size_unless_one_is_given(sg, graphics):
    # Gymnasium's MuJoCo environments are drawn in 480 x 480, the navigation tasks in 256 x 256.
    for env, side in (
        (sg.make(HOPPER, render_mode="rgb_array"), 480),
        (sg.make_ma(*TEAM, render_mode="rgb_array"), 480),
        (sg.make("SafetyPointGoal0-v0", render_mode="rgb_array"), 256),
    ):
        env.reset(seed=0)
        assert env.render().shape == (side, side, 3)


def test_the_worlds_say_how_they_can_be_seen(sg):
    for world in (sg.make(HOPPER).unwrapped.world, sg.make_ma(*TEAM).env.inner.world):
        assert set(world.render_modes) == set(MODES.values())
    model = compiled("Hopper")
    near, far = sg.make(HOPPER).unwrapped.world.planes_m
    assert far / near == pytest.approx(model.vis.map.zfar / model.vis.map.znear)
    assert (near, far) == (pytest.approx(0.08), pytest.approx(200.0))  # 0.02 and 50 times an extent of 4 m


# GLFW has a platform without a screen, on which windows are opened and drawn with OSMesa as anywhere else.
WATCH = """
import ctypes, json
ctypes.CDLL("libOSMesa.so.8", mode=ctypes.RTLD_GLOBAL)
import glfw
glfw.init_hint(glfw.PLATFORM, glfw.PLATFORM_NULL)
import numpy as np
import trueline.compat.safety_gymnasium as sg
env = sg.make_ma("Swimmer", "2x1", render_mode="human")
world = env.env.inner.world
env.reset(seed=0)
far = []
for _ in range(3):
    env.step({agent: np.ones(1) for agent in env.agents})
    far.append(float(abs(world.window._data.qpos - world._world._qpos[0]).max()))
was = [env.render(), far, world.window.is_open]
env.close()
print(json.dumps([*was, world.window.is_open]))
"""


def test_a_window_shows_each_step_and_is_closed_with_its_environment():
    try:
        render._load("osmesa")
    except OSError:
        pytest.skip("the platform without a screen draws with OSMesa, which is not here")
    environment = {**os.environ, "MUJOCO_GL": "osmesa", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCH], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [None, [0.0, 0.0, 0.0], True, False]


def test_a_window_without_a_display_is_refused_in_one_sentence(sg, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("a display can be hidden on Linux alone")
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trueline.safety.worlds.velocity import make_velocity as make\n"
            f"world = make({HOPPER!r}, 1)\nworld.reset()\n"
            "try:\n    world.render(mode='human')\nexcept Exception as error:\n    print(error)",
        ],
        env={name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    ).stdout
    assert said.startswith("a window needs a display, and none could be opened (")
