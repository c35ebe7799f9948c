"""Pictures of worlds: with OpenGL where there is some, a clear refusal where there is none, and film strips always."""

from __future__ import annotations

import numpy as np
import pytest

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl.filmstrip import film_strip, png, video
from trueline.safety.worlds import make_world
from trueline.safety.worlds.render import NoGraphics, visual_model


def world(id: str = "SafetyPointGoal1-v0"):
    env = make_world(id, 2)
    env.reset(np.array([0, 1], dtype=np.uint32))
    return env


@pytest.fixture(scope="module")
def opengl() -> bool:
    try:
        world().render(0, 32, 32)
    except NoGraphics:
        return False
    return True


@pytest.mark.parametrize("camera", ["fixedfar", "fixednear", "track"])
def test_a_picture_shows_the_goal_where_it_is(camera, opengl):
    env = world()
    if not opengl:
        with pytest.raises(NoGraphics):
            env.render(0, 96, 64, camera)
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


def test_graphics_switched_off_are_refused_with_advice(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(MissingExtra, match=r"libosmesa6 with MUJOCO_GL=osmesa"):
        world().render()


def test_an_unknown_camera_is_named(opengl):
    with pytest.raises(ConfigError if opengl else NoGraphics, match="fixedfar" if opengl else "OpenGL"):
        world().render(0, 32, 32, "ceiling")


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


def test_a_film_strip_has_a_panel_per_scene_and_the_way_between_them():
    env, scenes = world("SafetyCarGoal2-v0"), []
    for _ in range(3):
        scenes.append(env.scene(0))
        for _ in range(20):
            env.step(np.ones((2, 2)))
    figure = film_strip(scenes, ["start", "later", "end"])
    assert [axes.get_title() for axes in figure.axes] == ["start", "later", "end"]
    way = figure.axes[-1].lines[0].get_xydata()
    np.testing.assert_array_equal(way, [scene["shapes"][-1]["xy"] for scene in scenes])
    assert [len(axes.patches) for axes in figure.axes] == [1 + 10 + 10 + 1] * 3
    assert png(figure).startswith(b"\x89PNG")


def test_an_arrow_points_along_its_heading():
    arrow = {"kind": "arrow", "xy": [1.0, -1.0], "radius": 0.2, "rot": np.pi / 2, "colour": [1, 0, 0, 1]}
    figure = film_strip([{"extent": 2.0, "shapes": [arrow]}])
    corners = figure.axes[0].patches[0].get_xy()
    tip = corners[np.argmax(np.linalg.norm(corners - corners.mean(axis=0), axis=1))]
    np.testing.assert_allclose(tip, [1.0, -0.8], atol=1e-12)


def test_strips_without_scenes_or_with_too_few_captions_are_refused():
    with pytest.raises(ConfigError, match="without a scene"):
        film_strip([])
    with pytest.raises(ConfigError, match="1 captions were given for 2 scenes"):
        film_strip([world().scene(0)] * 2, ["one"])


def test_a_film_keeps_size_length_and_colours(tmp_path):
    import imageio_ffmpeg

    frames = [np.full((33, 64, 3), (10 * k, 100, 200 - 10 * k), dtype=np.uint8) for k in range(12)]
    path = video(tmp_path / "film.mp4", frames, fps=10)
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    shown = [np.frombuffer(frame, np.uint8).reshape(32, 64, 3) for frame in reader]
    assert meta["size"] == (64, 32)  # the odd row is cut
    assert meta["fps"] == 10
    assert len(shown) == 12
    loss_of_coding = 8
    for frame, original in zip(shown, frames, strict=True):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), original[0, 0], atol=loss_of_coding)
    with pytest.raises(ConfigError, match="no frame"):
        video(tmp_path / "empty.mp4", [])
