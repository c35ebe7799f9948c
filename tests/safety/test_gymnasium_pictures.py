"""Pictures through Gymnasium's and PettingZoo's faces: what they show, when, and at which speed."""

from __future__ import annotations

import sys
import types
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from gymnasium.wrappers import RecordVideo

from trueline.core.errors import ConfigError
from trueline.rl.to_gymnasium import MODES, Drawn, ToGymnasium, ToGymnasiumVector, register_all
from trueline.rl.worlds import make, make_multi_agent
from trueline.safety.worlds.render import NoGraphics, Painter, visual_model
from trueline.safety.worlds.table import WORLDS

POINT, SMALL = "SafetyPointGoal1-v0", {"width": 40, "height": 24}
FIRST = [
    *(POINT, "SafetyHopperVelocity-v1", "TruelineMobileArmCloseDrawer-v0", "PlanarPointGoal1-v0"),
]


@pytest.fixture(scope="module")
def graphics():
    try:
        Painter(visual_model(WORLDS[POINT]), 8, 8).close()
    except NoGraphics:
        pytest.skip("no OpenGL here")


@pytest.fixture
def no_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("id", FIRST)
def test_modes_are_the_worlds_and_films_run_at_its_speed(id, no_display):
    world = make(id, 1)
    env = ToGymnasium(id)
    assert isinstance(world, Drawn)
    assert env.metadata["render_modes"] == [m for m, how in MODES.items() if how in world.render_modes and m != "human"]
    # Seconds of a step by the original's account: 0.02 for the Point, 0.008 for the Hopper.
    fps = {POINT: 50.0, "SafetyHopperVelocity-v1": 125.0, "PlanarPointGoal1-v0": 50.0}
    assert env.metadata["render_fps"] == fps.get(id, round(1.0 / world.interval_s, 3))


def test_a_steps_length_is_what_the_clock_says():
    for id in FIRST[:3]:
        world = make(id, 1)
        world.reset(np.array([0], np.uint32))
        before = float(world._time[0])
        world.step(np.zeros((1, *world.action_space.shape)))
        assert float(world._time[0]) - before == pytest.approx(world.interval_s)


def test_a_window_is_a_mode_where_there_is_a_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    assert ToGymnasium(POINT).metadata["render_modes"][0] == "human"
    assert "human" not in ToGymnasium("PlanarPointGoal1-v0").metadata["render_modes"]


@pytest.mark.parametrize("mode", ["rgb_array", "depth_array", "segmentation_array"])
def test_a_picture_is_the_worlds_own_from_the_camera_that_was_named(graphics, mode):
    env = ToGymnasium(POINT, render_mode=mode, camera_name="fixednear", **SMALL)
    env.reset(seed=0)
    expected = env.world.render(0, 40, 24, camera="fixednear", mode=MODES[mode])
    picture = env.render()
    np.testing.assert_array_equal(picture, expected)
    assert picture.shape[:2] == (24, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_render_passive_checker(env)
    picture[:] = 0  # one's own to write into
    np.testing.assert_array_equal(env.render(), expected)


@pytest.mark.parametrize("id", [POINT, "PlanarPointGoal1-v0"])
def test_gymnasium_accepts_every_mode_of_a_registered_world(graphics, no_display, id):
    register_all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*Box observation space (minimum|maximum) value is -?infinity.*")
        check_env(gym.make(f"trueline/{id}", **({"render_mode": "rgb_array"} | SMALL)).unwrapped)


@pytest.mark.parametrize("id", [POINT, "SafetyHopperVelocity-v1"])
def test_the_last_picture_of_an_episode_shows_its_end(graphics, id):
    env, world = ToGymnasium(id, render_mode="rgb_array", **SMALL), make(id, 1)
    env.reset(seed=3)
    world.autoreset = False
    world.reset(np.array([3], np.uint32))
    env.world._elapsed[:] = world._elapsed[:] = world.max_episode_steps - 2
    for k in range(2):
        *_, truncated, _ = env.step(np.zeros(env.action_space.shape))
        world.step(np.zeros((1, *env.action_space.shape)))
        assert truncated == (k == 1)
    np.testing.assert_array_equal(env.render(), world.render(0, 40, 24))
    _, info = env.reset()
    world.reset(np.array([info["episode_seed"]], np.uint32))
    np.testing.assert_array_equal(env.render(), world.render(0, 40, 24))


def test_where_the_next_episode_has_begun_the_last_picture_stays():
    env = ToGymnasium("PlanarPointGoal1-v0", render_mode="rgb_array", **SMALL)
    env.reset(seed=3)
    env.world._elapsed[:] = env.world.max_episode_steps - 2
    env.step(np.ones(2))
    before = env.render()
    *_, truncated, _ = env.step(np.ones(2))
    assert truncated
    np.testing.assert_array_equal(env.render(), before)
    env.reset()
    assert (env.render() != before).any()


def test_record_video_records_every_frame_at_the_worlds_speed(graphics, tmp_path, monkeypatch):
    made = []

    class Clip:  # what RecordVideo writes its file with
        def __init__(self, frames, fps):
            made.append((np.array(frames), fps))

        def write_videofile(self, path, **_):
            (tmp_path / "written").write_text(str(path))

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = Clip
    register_all()
    env = RecordVideo(gym.make(f"trueline/{POINT}", render_mode="rgb_array", **SMALL), str(tmp_path / "films"))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.ones(2))
    env.close()
    ((frames, fps),) = made
    assert frames.shape == (4, 24, 40, 3)
    assert fps == 50.0
    assert (frames[0] != frames[-1]).any()


def test_make_vec_draws_every_environment(graphics):
    register_all()
    env = gym.make_vec(f"trueline/{POINT}", 3, render_mode="rgb_array", camera_name="fixedfar", **SMALL)
    env.reset(seed=0)
    pictures = env.render()
    for i, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, env.unwrapped.world.render(i, 40, 24))
    assert (pictures[0] != pictures[1]).any()
    assert env.metadata["render_fps"] == 50.0
    assert ToGymnasiumVector(POINT, 2).render() is None


def test_pettingzoo_draws_as_gymnasium_does(graphics):
    pytest.importorskip("pettingzoo")
    from trueline.rl.to_pettingzoo import ToPettingZoo

    env = ToPettingZoo("SafetyPointMultiGoal0-v0", render_mode="depth_array", camera_name="vision1", **SMALL)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), env.world.render(0, 40, 24, camera="vision1", mode="depth"))
    assert env.metadata["render_fps"] == 50.0


@pytest.mark.parametrize("id", ["SafetyPointMultiGoal1-v0", "Safety2x3HalfCheetahVelocity-v0"])
def test_pettingzoos_last_picture_of_an_episode_shows_its_end(graphics, id):
    pytest.importorskip("pettingzoo")
    from trueline.rl.to_pettingzoo import ToPettingZoo

    env, world = ToPettingZoo(id, render_mode="rgb_array", **SMALL), make_multi_agent(id, 1)
    env.reset(seed=3)
    world.autoreset = False
    world.reset(np.array([3], np.uint32))
    elapsed = getattr(env.world, "_world", env.world)._elapsed
    elapsed[:] = world.max_episode_steps - 2
    actions = {agent: np.ones(space.shape) for agent, space in env.action_spaces.items()}
    for k in range(2):
        obs, *_, truncated, _ = env.step(actions)
        seen = world.step({agent: action[None] for agent, action in actions.items()})
        assert set(truncated.values()) == {k == 1}
    np.testing.assert_array_equal(env.render(), world.render(0, 40, 24))
    for agent, own in obs.items():
        np.testing.assert_array_equal(own, seen.final_obs[agent][0])
    np.testing.assert_array_equal(env.state(), seen.final_state[0])
    _, infos = env.reset()
    first = np.random.default_rng(3).integers(0, 2**32, size=1, dtype=np.uint32)  # seeds go on as before
    assert infos["agent_0"]["episode_seed"] == first[0]
    world.reset(first)
    np.testing.assert_array_equal(env.render(), world.render(0, 40, 24))


def test_where_pettingzoos_next_episode_has_begun_the_last_picture_stays(graphics):
    pytest.importorskip("pettingzoo")
    from trueline.rl.to_pettingzoo import ToPettingZoo

    env = ToPettingZoo("TruelineHandOver-Finger-TwoAgents-v0", render_mode="rgb_array", **SMALL)
    env.reset(seed=3)
    before = env.render()
    actions = {agent: np.ones(space.shape) for agent, space in env.action_spaces.items()}
    while env.agents:
        before = env.render()
        env.step(actions)
    np.testing.assert_array_equal(env.render(), before)
    env.reset()
    assert (env.render() != before).any()


def test_a_window_shows_every_step():
    env = ToGymnasium(POINT, render_mode="human")
    shown = []
    env.world.window = types.SimpleNamespace(show=lambda pose, balls: shown.append(pose.qpos.copy()), close=lambda: 0)
    env.reset(seed=0)
    env.step(np.ones(2))
    assert env.render() is None
    assert len(shown) == 3
    np.testing.assert_array_equal(shown[-1], env.world._qpos[0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ToGymnasium("PlanarPointGoal1-v0", render_mode="depth_array"), "offers rgb_array"),
        (lambda: ToGymnasium(POINT, render_mode="rgb"), "human, rgb_array, depth_array, segmentation_array"),
        (lambda: ToGymnasium(POINT, width=40), "width was given without a render_mode"),
        (lambda: ToGymnasium(POINT, render_mode="rgb_array", height=0), "height is 0 pixels"),
        (lambda: ToGymnasiumVector(POINT, 2, render_mode="human"), "rgb_array"),
    ],
)
def test_a_refusal_says_what_there_is(call, says):
    with pytest.raises(ConfigError, match=says):
        call()


def test_a_camera_there_is_not_is_named_with_those_there_are(graphics):
    env = ToGymnasium(POINT, render_mode="rgb_array", camera_name="above", **SMALL)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"'above'.*fixednear \(0\)"):
        env.render()
