"""Episodes to look at: strips of top views with the agent's trail, frames with or without OpenGL, films from frames."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, MissingExtra
from trueline.rl.env import Visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN_M = 0.3
_WIDEN = 2.0  # a view grows at most so much to show where the agent has gone; then it follows
_DPI = 100


def _patch(shape: Mapping[str, Any]) -> Any:
    from matplotlib.patches import Circle, Polygon, Rectangle

    x, y = shape["xy"]
    r, rot, style = shape["radius"], shape["rot"], {"facecolor": shape["colour"], "edgecolor": "0.3", "linewidth": 0.5}
    if shape["kind"] == "square":
        return Rectangle((x - r, y - r), 2 * r, 2 * r, angle=np.degrees(rot), rotation_point="center", **style)
    if shape["kind"] == "block":
        wide = shape["width"]
        return Rectangle((x - r, y - wide / 2), 2 * r, wide, angle=np.degrees(rot), rotation_point="center", **style)
    if shape["kind"] == "line":  # opaque, since so little of it is seen
        half, colour = r * np.array([np.cos(rot), np.sin(rot)]), shape["colour"][:3]
        ends = [shape["xy"] - half, shape["xy"] + half]
        return Polygon(ends, closed=False, edgecolor=colour, facecolor=colour, linewidth=2)
    if shape["kind"] == "arrow":  # the agent: a dart whose tip shows where it is heading
        turns = rot + np.array([0.0, 2.5, np.pi, -2.5])
        reach = r * np.array([1.0, 1.0, 0.5, 1.0])
        return Polygon(np.column_stack([x + reach * np.cos(turns), y + reach * np.sin(turns)]), **style)
    return Circle((x, y), r, **style)


def _view(scene: Mapping[str, Any], trail: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre [2] and half the side, metres, of the square to show."""
    agents = [shape["xy"] for shape in scene["shapes"] if shape["kind"] == "arrow"]
    seen = np.array([*(shape["xy"] for shape in scene["shapes"]), *trail]).reshape(-1, 2)
    extent = scene["extent"]
    half = min(max(extent, float(np.abs(seen).max(initial=0.0)) + _MARGIN_M), _WIDEN * extent)
    agent = np.array(agents[-1] if agents else (0.0, 0.0), dtype=np.float64)
    return np.where(np.abs(agent) > half - _MARGIN_M, agent, 0.0), half


def top_view(axes: Axes, scene: Mapping[str, Any], trail: NDArray[np.float64] | None = None) -> None:
    """Draw one scene from above on `axes`, with the agent's path [T, 2] in metres so far.

    Shapes are drawn in the scene's order. The first of each name is labelled with it, for a legend.
    """
    named: set[str] = set()
    for shape in scene["shapes"]:
        patch = axes.add_patch(_patch(shape))
        if shape.get("name") not in (None, *named):
            named.add(shape["name"])
            patch.set_label(shape["name"].replace("_", " "))
    path = np.zeros((0, 2)) if trail is None else np.asarray(trail).reshape(-1, 2)
    if len(path):
        axes.plot(*path.T, color="0.2", linewidth=1.0, zorder=3)
    (x, y), half = _view(scene, path)
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal", xticks=[], yticks=[])


def film_strip(
    scenes: Sequence[Mapping[str, Any]],
    captions: Sequence[str] = (),
    trails: Sequence[NDArray[np.float64]] | None = None,
    legend: bool = False,
) -> Figure:
    """One panel per scene of `Visible.scene`, in time order.

    captions: one per scene, or none. trails: per scene the path [T, 2] up to it; by default the line through the
    agent's positions in the scenes so far. legend: the names of the first scene's shapes, below. Raises ConfigError
    when there is no scene or the counts differ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not scenes:
        raise ConfigError("a film strip was asked for without a scene. Give at least one.")
    for what, given in (("captions", captions), ("trails", trails)):
        if given and len(given) != len(scenes):
            raise ConfigError(f"{len(given)} {what} were given for {len(scenes)} scenes. Give one each, or none.")
    if trails is None:
        path = np.array([next(s["xy"] for s in scene["shapes"] if s["kind"] == "arrow") for scene in scenes])
        trails = [path[: k + 1] for k in range(len(scenes))]
    figure = Figure(figsize=(2.2 * len(scenes), 2.4 if captions else 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    for k, axes in enumerate(np.atleast_1d(figure.subplots(1, len(scenes)))):
        top_view(axes, scenes[k], trails[k])
        if captions:
            axes.set_title(captions[k], fontsize=8)
    if legend:
        handles, names = figure.axes[0].get_legend_handles_labels()
        columns = min(len(names), 3 * len(scenes))
        figure.legend(handles, names, fontsize=7, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def pixels(scene: Mapping[str, Any], width: int, height: int) -> NDArray[np.uint8]:
    """The top view of a scene as a picture [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    top_view(figure.add_axes((0.0, 0.0, 1.0, 1.0)), scene)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


class Camera:
    """Frames of a world: drawn with OpenGL where there is some, as top views where there is none."""

    def __init__(self, env: Visible, size: int = 200) -> None:
        """size: width and height of a frame, pixels."""
        self._env, self._size = env, size
        self._from_above = False

    def frame(self, i: int = 0) -> NDArray[np.uint8]:
        """Environment `i` now, [size, size, 3]."""
        if not self._from_above:
            try:
                return self._env.render(i, self._size, self._size)
            except MissingExtra:
                self._from_above = True
        return pixels(self._env.scene(i), self._size, self._size)


def video(path: Path | str, frames: Iterable[NDArray[np.uint8]], fps: int = 25) -> Path:
    """Write frames [H, W, 3] as an mp4 file, in which H and W are cut to even numbers as its coding wants.

    Raises ConfigError when there is no frame or the frames differ in size.
    """
    import imageio_ffmpeg

    path, coming = Path(path), iter(frames)
    first = next(coming, None)
    if first is None:
        raise ConfigError(f"no frame was given for {path.name}. Give at least one.")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=1)
    writer.send(None)  # starts it
    try:
        for frame in itertools.chain([first], coming):
            if frame.shape != first.shape:
                raise ConfigError(f"a frame of {frame.shape} follows one of {first.shape}. Give frames of one size.")
            writer.send(np.ascontiguousarray(frame[:height, :width]))
    finally:
        writer.close()
    return path
