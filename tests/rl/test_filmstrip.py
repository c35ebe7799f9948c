"""Film strips, top views and films: every shape where it is, the agent in view, frames with and without OpenGL."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl.filmstrip import Camera, film_strip, pixels, png, top_view, video
from trueline.rl.worlds import make

ARROW = {"kind": "arrow", "xy": [0.0, 0.0], "radius": 0.2, "rot": 0.0, "colour": [1, 0, 0, 1], "name": "agent"}


def world(id: str):
    env = make(id, 1)
    env.reset(np.array([0], dtype=np.uint32))
    return env


def drawn(*shapes: dict[str, object], extent: float = 2.0, trail: np.ndarray | None = None):
    axes = Figure().add_subplot()
    top_view(axes, {"extent": extent, "shapes": shapes}, trail)
    return axes


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_an_arrow_points_along_its_heading():
    arrow = {**ARROW, "xy": [1.0, -1.0], "rot": np.pi / 2}
    corners = drawn(arrow).patches[0].get_xy()
    tip = corners[np.argmax(np.linalg.norm(corners - corners.mean(axis=0), axis=1))]
    np.testing.assert_allclose(tip, [1.0, -0.8], atol=1e-12)


def test_a_line_runs_half_its_length_to_either_side():
    line = {"kind": "line", "xy": [1.0, 0.5], "radius": 2.0, "rot": np.pi / 6, "colour": [1, 0, 0, 0.1]}
    patch = drawn(line).patches[0]
    way = 2.0 * np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    np.testing.assert_allclose(patch.get_xy(), [[1.0, 0.5] - way, [1.0, 0.5] + way])
    assert patch.get_edgecolor() == (1.0, 0.0, 0.0, 1.0), "a thin line is seen although its wall is hardly"


def test_shapes_cover_what_comes_before_them():
    below, above = ({"kind": "disc", "xy": [0, 0], "radius": 1.0, "rot": 0.0, "colour": c} for c in ("blue", "lime"))
    for order in ([below, above], [above, below]):
        picture = pixels({"extent": 2.0, "shapes": order}, 64, 64)
        assert tuple(picture[32, 32]) == {"blue": (0, 0, 255), "lime": (0, 255, 0)}[order[1]["colour"]]


@pytest.mark.parametrize("id", ["SafetyPointPush2-v0", "SafetyPointButton1-v0", "SafetyPointCircle1-v0"])
def test_worlds_put_what_lies_flat_below_what_stands(id):
    env = world(id)
    flat = {"goal", "hazards", "circle", "sigwalls"}
    heights = [shape["name"] not in flat for shape in env.scene(0)["shapes"]]
    assert heights == sorted(heights)
    assert env.scene(0)["shapes"][-1]["name"] == "agent"


def test_a_top_view_is_a_map():
    x, y, side, extent = 1.0, -0.5, 200, 2.0
    disc = {"kind": "disc", "xy": [x, y], "radius": 0.6, "rot": 0.0, "colour": "blue"}
    picture = pixels({"extent": extent, "shapes": [disc]}, side, side).astype(int)
    rows, columns = np.nonzero(picture[..., 2] - picture[..., 0] > 128)
    centre = (columns.mean() + 0.5) / side * 2 * extent - extent, extent - (rows.mean() + 0.5) / side * 2 * extent
    a_pixel = 2 * extent / side
    np.testing.assert_allclose(centre, [x, y], atol=a_pixel)
    assert len(rows) == pytest.approx(np.pi * (0.6 / a_pixel) ** 2, rel=0.05)


# --- the view ---------------------------------------------------------------------------------------------------------


def test_the_view_grows_with_the_agents_way_and_then_follows_it():
    assert drawn(ARROW).get_xlim() == (-2.0, 2.0)
    assert drawn({**ARROW, "xy": [0.0, 2.5]}).get_ylim() == pytest.approx((-2.8, 2.8))
    assert drawn(ARROW, trail=np.array([[-3.0, 0.0], [0.0, 0.0]])).get_xlim() == pytest.approx((-3.3, 3.3))
    far = drawn({**ARROW, "xy": [0.2, 16.5]})  # at most twice as wide, and centred on it along the axis where it is far
    assert far.get_xlim() == pytest.approx((-4.0, 4.0))
    assert far.get_ylim() == pytest.approx((12.5, 20.5))


def test_a_film_strip_has_a_panel_per_scene_and_the_way_between_them():
    env, scenes = world("SafetyCarGoal2-v0"), []
    for _ in range(3):
        scenes.append(env.scene(0))
        for _ in range(20):
            env.step(np.ones((1, 2)))
    figure = film_strip(scenes, ["start", "later", "end"], legend=True)
    assert [axes.get_title() for axes in figure.axes] == ["start", "later", "end"]
    way = figure.axes[-1].lines[0].get_xydata()
    np.testing.assert_array_equal(way, [scene["shapes"][-1]["xy"] for scene in scenes])
    assert [len(axes.patches) for axes in figure.axes] == [1 + 10 + 10 + 1] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["goal", "hazards", "vases", "agent"]
    assert png(figure).startswith(b"\x89PNG")
    assert not film_strip(scenes).legends


def test_strips_without_scenes_or_with_too_few_captions_are_refused():
    with pytest.raises(ConfigError, match="without a scene"):
        film_strip([])
    with pytest.raises(ConfigError, match="1 captions were given for 2 scenes"):
        film_strip([world("SafetyPointGoal0-v0").scene(0)] * 2, ["one"])


# --- frames and films -------------------------------------------------------------------------------------------------


class Screen:
    """A world of two environments that may have OpenGL."""

    def __init__(self, opengl: bool) -> None:
        self.opengl, self.asked = opengl, 0

    def render(self, i: int = 0, width: int = 256, height: int = 256, camera: str = "fixedfar") -> np.ndarray:
        self.asked += 1
        if not self.opengl:
            raise MissingExtra("graphics", "a picture")
        return np.full((height, width, 3), 10 + i, np.uint8)

    def scene(self, i: int = 0) -> dict[str, object]:
        return {"extent": 1.0, "shapes": [{**ARROW, "radius": 0.5, "colour": ["red", "blue"][i]}]}


def test_frames_are_pictures_where_there_is_opengl_and_top_views_where_there_is_none():
    with_it, without = Screen(True), Screen(False)
    lens, bare = Camera(with_it, 32), Camera(without, 32)
    for i in range(2):
        np.testing.assert_array_equal(lens.frame(i), np.full((32, 32, 3), 10 + i))
        np.testing.assert_array_equal(bare.frame(i), pixels(without.scene(i), 32, 32))
    assert bare.frame(0)[16, 18].tolist() == [255, 0, 0]
    assert bare.frame(1)[16, 18].tolist() == [0, 0, 255]
    assert without.asked == 1, "what is missing is asked for once"


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


def test_a_block_is_a_turned_rectangle():
    block = {"kind": "block", "xy": [1.0, 2.0], "radius": 3.0, "width": 1.0, "rot": np.pi / 2, "colour": [0, 0, 0, 1]}
    figure = film_strip([{"extent": 5.0, "shapes": [block, ARROW]}])
    patch = figure.axes[0].patches[0]
    corners = patch.get_patch_transform().transform([[0, 0], [1, 1]])
    np.testing.assert_allclose(np.sort(corners, axis=0), [[0.5, -1.0], [1.5, 5.0]], atol=1e-12)
