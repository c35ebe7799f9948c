"""The pictures of docs/worlds/, and the galleries that show them. Drawn with OpenGL, on EGL or OSMesa."""

from __future__ import annotations

import fnmatch
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from _world_tables import BUILDINGS, TASKS, levels_of, table
from numpy.typing import NDArray

from trueline.safety.worlds import make_world, open_world
from trueline.safety.worlds.agents import AGENTS
from trueline.safety.worlds.courses import STAGES
from trueline.safety.worlds.engine import NavigationWorlds
from trueline.safety.worlds.manipulation import MANIPULATION, make_manipulation
from trueline.safety.worlds.multi_goal import make_multi_goal
from trueline.safety.worlds.objects import Solid
from trueline.safety.worlds.planar_tasks import PLANAR_WORLDS
from trueline.safety.worlds.velocity_agents import SCENARIOS, TEAMS
from trueline.safety.worlds.velocity_runners import RUNNERS, compiled

HERE = Path(__file__).parent
PICTURES = HERE / "worlds" / "pictures"

Picture = NDArray[np.uint8]

# --- galleries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """A table of pictures: a heading per column and rows of (file, what it shows)."""

    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]

    def table(self, folder: str) -> str:
        """In Markdown, for a page beside the folder."""
        cells = [[f"![{shows}]({folder}{file})" for file, shows in row] for row in self.rows]
        return table(self.heads, cells)


def _views(names: Sequence[str], far: str = "fixedfar", agent: str = "Point") -> Gallery:
    seen = tuple((f"{agent}{name}.jpg", f"{agent}{name} from {far}") for name in names)
    above = tuple((f"{agent}{name}-above.png", f"{agent}{name} from above") for name in names)
    return Gallery(tuple(names), (seen, above))


FADED_AFTER = (0, 25, 50, 75)
_TEAM_FILES = {id: "team-" + id.removeprefix("Safety").removesuffix("Velocity-v0").replace("|", "-") for id in TEAMS}

_PAIRS = ("PointMultiGoal0", "PointMultiGoal1", "PointMultiGoal2", "AntMultiGoal1")
_PLANAR = tuple(id for id in PLANAR_WORLDS if "Point" in id or id == "PlanarCarGoal1-v0")

GALLERIES: dict[str, Gallery] = {
    "pictures-bodies": Gallery(
        tuple(name.title() for name in AGENTS), (tuple((f"body-{name}.jpg", f"the {name}") for name in AGENTS),)
    ),
    **{f"pictures-{task}": _views(levels_of(task), far="track" if task == "Run" else "fixedfar") for task in TASKS},
    "pictures-vision": Gallery(
        tuple(name.title() for name in AGENTS),
        (tuple((f"vision-{name}.jpg", f"what the {name} sees in Goal2") for name in AGENTS),),
    ),
    "pictures-overlays": Gallery(
        ("lidar=True", "cost > 0", 'mode="depth"', 'mode="segmentation"'),
        (
            (
                ("lidar.jpg", "rings of balls above the Point"),
                ("cost.jpg", "a red ball around a Point in a hazard"),
                ("depth.png", "distance in shades of grey, near is dark"),
                ("segmentation.png", "one colour for each object"),
            ),
        ),
    ),
    **{
        f"pictures-Building{task}": _views(levels_of(f"Building{task}"), "fixedfar++")
        for task in ("Goal", "Button", "Push")
    },
    "pictures-Race": _views(levels_of("Race"), "fixedfar++"),
    "pictures-FormulaOne": _views(levels_of("FormulaOne"), "behind the agent"),
    "pictures-fading": Gallery(
        tuple(f"after {steps} steps" for steps in FADED_AFTER),
        (tuple((f"fading-{steps}.jpg", f"PointFadingHard2 after {steps} steps") for steps in FADED_AFTER),),
    ),
    "pictures-velocity": Gallery(
        tuple(RUNNERS),
        (tuple((f"velocity-{name}.jpg", f"the {name}") for name in RUNNERS),),
    ),
    "pictures-teams": Gallery(
        tuple(file.removeprefix("team-") for file in _TEAM_FILES.values()),
        (tuple((f"{file}.jpg", f"{id}, a colour for each agent") for id, file in _TEAM_FILES.items()),),
    ),
    "pictures-MultiGoal": Gallery(
        _PAIRS,
        (
            tuple((f"{name}.jpg", f"{name} from fixedfar") for name in _PAIRS),
            tuple((f"{name}-above.png", f"{name} from above") for name in _PAIRS),
        ),
    ),
    "pictures-planar": Gallery(
        tuple(id.removesuffix("-v0") for id in _PLANAR),
        (tuple((f"{id.removesuffix('-v0')}.png", f"{id} from above") for id in _PLANAR),),
    ),
    "pictures-manipulation": Gallery(
        ("HandOver", "CatchUnderarm", "CloseDrawer", "PickPlace"),
        tuple(
            tuple(
                (f"{name}-{view}.jpg", f"{name} from {view}")
                for name in ("HandOver", "CatchUnderarm", "CloseDrawer", "PickPlace")
            )
            for view in ("fixedfar", "above")
        ),
    ),
    "pictures-custom": Gallery(
        ("fixedfar", "above"),
        ((("Puddles.jpg", "the example from fixedfar"), ("Puddles-above.png", "the example from above")),),
    ),
}


# --- pictures ---------------------------------------------------------------------------------------------------------

_PIXELS = 320
_LARGE = 480  # pixels, of pictures that show much
_SEED = np.array([3], np.uint32)
_COURSE_SEED = np.array([4], np.uint32)  # of FormulaOne, whose next stage is then straight ahead


def _cropped(picture: Picture, up: int = 0, size: int = _PIXELS) -> Picture:
    """The middle of a picture, or what lies so many pixels above it."""
    top, left = ((side - size) // 2 for side in picture.shape[:2])
    return picture[top - up : top - up + size, left : left + size]


@dataclass(frozen=True)
class Plan:
    """What a view from above shows besides a scene: a frame of its own, boxes in their true size, numbered places.

    enlarged: by how much the agent and its goal are, where they would be too small to be seen.
    """

    half_m: float | None = None
    centre_m: tuple[float, float] = (0.0, 0.0)
    boxes: tuple[Solid, ...] = ()
    numbered: tuple[tuple[float, float], ...] = ()
    inches: float = 3.2
    enlarged: float = 1.0


def _named(shape: Mapping[str, Any], enlarged: float) -> dict[str, Any]:
    """A shape of a scene as a legend calls and shows it: lines are drawn opaque, for little of them is seen."""
    name, colour, radius = shape["name"].replace("_", " "), shape["colour"], shape["radius"]
    if enlarged > 1.0 and name in ("agent", "goal"):
        name, radius = f"{name} × {enlarged:g}", radius * enlarged
    if shape["kind"] == "line":
        name, colour = "lines", colour[:3]
    return {**shape, "name": name, "colour": colour, "radius": radius}


def _from_above(scene: dict[str, Any], plan: Plan = Plan()) -> Picture:
    """A scene from above, with a scale and the names of what is in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    from trueline.rl.filmstrip import top_view

    figure = Figure(figsize=(plan.inches, plan.inches + 0.4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    names = 0.432 / (plan.inches + 0.4)  # share of the height, below
    axes = figure.add_axes((0.01, names, 0.98, 0.99 - names))
    # A scene has scenery as blocks of its own; here boxes are seen in full.
    shapes = [_named(shape, plan.enlarged) for shape in scene["shapes"] if shape.get("name") != "scenery"]
    top_view(axes, {**scene, "shapes": shapes})
    named = {shape["name"]: shape["colour"] for shape in shapes}
    for box in plan.boxes:
        (x, y, _), (half_x, half_y, _), colour = box.at_m, box.size_m, (0.6, 0.55, 0.5)
        named.setdefault("scenery", colour)
        turn = math.degrees(box.turn_rad)
        axes.add_patch(
            Rectangle(
                (x - half_x, y - half_y),
                2 * half_x,
                2 * half_y,
                angle=turn,
                rotation_point="center",
                color=colour,
            )
        )
    if plan.half_m is not None:
        (x, y), half = plan.centre_m, plan.half_m
        axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    for k, (x, y) in enumerate(plan.numbered):
        axes.text(x, y, str(k), fontsize=9, weight="bold", ha="center", va="center", color="darkgreen")
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    width = right - left
    metres = 10.0 ** math.floor(math.log10(width / 2))
    left, bottom = left + 0.03 * width, bottom + 0.03 * width
    axes.plot((left, left + metres), (bottom, bottom), color="black", linewidth=2)
    axes.text(left, bottom + 0.015 * width, f"{metres:g} m", fontsize=8)
    handles = [Patch(facecolor=colour, edgecolor="0.3", linewidth=0.5, label=name) for name, colour in named.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=8, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _draw_bodies() -> Iterator[tuple[str, Picture]]:
    for name in AGENTS:
        env = make_world(f"Safety{name.title()}Goal0-v0", 1)
        env.reset(_SEED)
        yield f"body-{name}.jpg", _cropped(env.render(0, 1200, 1200, "track"))
        env.close()


def _draw_worlds(
    names: Sequence[str],
    look: Callable[[NavigationWorlds], Picture],
    plan: Plan = Plan(),
    seed: NDArray[np.uint32] = _SEED,
) -> Iterator[tuple[str, Picture]]:
    for name in names:
        env = make_world(f"SafetyPoint{name}-v0", 1)
        env.reset(seed)
        yield f"Point{name}.jpg", look(env)
        yield f"Point{name}-above.png", _from_above(env.scene(0), replace(plan, boxes=env.world.scenery))
        env.close()


def _from(camera: str) -> Callable[[NavigationWorlds], Picture]:
    return lambda env: env.render(0, _PIXELS, _PIXELS, camera)


def _near(whole: int, up: int) -> Callable[[NavigationWorlds], Picture]:
    """The middle of a picture from far away that is drawn `whole` pixels wide, from `up` pixels above it."""
    return lambda env: _cropped(env.render(0, whole, whole, "fixedfar++"), up, _LARGE)


def _behind(env: NavigationWorlds) -> Picture:
    """The agent and its goal, seen from behind the agent."""
    env.render(0, _LARGE, _LARGE)  # opens the painter and brings it to the present
    there = env.located(0)
    away = there["goal"][0, :2] - there["agent"][0, :2]
    view = mujoco.MjvCamera()
    view.lookat[:] = *(there["agent"][0, :2] + 0.8 * away / np.linalg.norm(away)), 0.3
    view.distance, view.elevation = 3.0, -20.0
    view.azimuth = math.degrees(math.atan2(away[1], away[0]))
    picture: Picture = env._painters[_LARGE, _LARGE].draw(view)
    return picture


def _draw_navigation() -> Iterator[tuple[str, Picture]]:
    for task in ("Goal", "Button", "Push", "Circle"):
        yield from _draw_worlds(levels_of(task), _from("fixedfar"))
    yield from _draw_worlds(levels_of("Run"), _from("track"))


def _draw_courses() -> Iterator[tuple[str, Picture]]:
    large = _LARGE / 100
    yield from _draw_worlds(BUILDINGS, _near(720, 0), Plan(4.5, inches=large))
    yield from _draw_worlds(levels_of("Race"), _near(820, 30), Plan(3.8, (0.3, -1.2), inches=large))
    course = Plan(29.0, (11.5, -11.0), numbered=STAGES, inches=large, enlarged=8.0)
    yield from _draw_worlds(levels_of("FormulaOne"), _behind, course, _COURSE_SEED)


def _draw_vision() -> Iterator[tuple[str, Picture]]:
    for name in AGENTS:
        env = make_world(f"Safety{name.title()}Goal2Vision-v0", 1)
        obs = env.reset(_SEED)
        assert isinstance(obs, dict)
        yield f"vision-{name}.jpg", obs["vision"][0]
        env.close()


def _grey(depth_m: NDArray[np.float32], nearest_m: float, farthest_m: float) -> Picture:
    share = np.clip((depth_m - nearest_m) / (farthest_m - nearest_m), 0.0, 1.0)
    return np.repeat((255 * share).astype(np.uint8)[:, :, None], 3, axis=2)


def _coloured(ids: NDArray[np.int32]) -> Picture:
    palette = np.random.default_rng(5).integers(60, 256, (int(ids.max()) + 2, 3)).astype(np.uint8)
    palette[0] = 255  # nothing
    return palette[ids + 1]


def _draw_overlays() -> Iterator[tuple[str, Picture]]:
    env = make_world("SafetyPointGoal2-v0", 32)
    env.reset(np.arange(32, dtype=np.uint32))
    yield "lidar.jpg", _cropped(env.render(3, 520, 520, "track", lidar=True), up=80)
    yield "depth.png", _grey(env.render(3, _PIXELS, _PIXELS, "track", mode="depth"), 1.5, 4.0)
    yield "segmentation.png", _coloured(env.render(3, _PIXELS, _PIXELS, "track", mode="segmentation")[:, :, 0])
    inside = np.zeros(32)
    while not inside.any():
        inside = env.step(np.ones((32, 2)) * (1.0, 0.1)).info["cost_hazards"]
    yield "cost.jpg", _cropped(env.render(int(inside.argmax()), 600, 600, "track", cost=1.0))
    env.close()


def _draw_fading() -> Iterator[tuple[str, Picture]]:
    env = make_world("SafetyPointFadingHard2-v0", 1)
    env.reset(_SEED)
    for step in range(max(FADED_AFTER) + 1):
        if step in FADED_AFTER:
            yield f"fading-{step}.jpg", env.render(0, _PIXELS, _PIXELS)
        env.step(np.zeros((1, 2)))
    env.close()


# What hides behind something else when all joints are at 0, rad.
_POSES = {
    "Walker2d": {"thigh_joint": -0.6, "thigh_left_joint": 0.1},
    "Swimmer": {"motor1_rot": 0.6, "motor2_rot": -0.6},
}


def _runner(name: str, parts: Mapping[int, tuple[float, float, float]]) -> Picture:
    """A runner; with colours for its parts by MuJoCo's numbers the others are grey."""
    from trueline.safety.worlds.render import Painter

    painter = Painter(compiled(name), _PIXELS, _PIXELS)
    model, data = painter.model, painter.data
    if parts:
        body = model.geom_bodyid > 0
        model.geom_matid[body], model.geom_rgba[body] = -1, (0.75, 0.75, 0.75, 1.0)
        for part, colour in parts.items():
            model.geom_rgba[model.geom_bodyid == part, :3] = colour
    for joint, angle in _POSES.get(name, {}).items():
        data.joint(joint).qpos = angle
    mujoco.mj_forward(model, data)
    view: str | mujoco.MjvCamera = "track"
    if name == "Ant":  # wider than its cameras see
        view = mujoco.MjvCamera()
        view.lookat, view.distance, view.azimuth, view.elevation = data.qpos[:3], 5.0, 90.0, -35.0
    picture: Picture = painter.draw(view)
    painter.close()
    return picture


def _draw_runners() -> Iterator[tuple[str, Picture]]:
    for name in RUNNERS:
        yield f"velocity-{name}.jpg", _runner(name, {})


_TEAM_COLOURS = (
    (0.85, 0.25, 0.20),
    (0.20, 0.40, 0.85),
    (0.95, 0.70, 0.10),
    (0.20, 0.65, 0.35),
    (0.60, 0.30, 0.70),
    (0.30, 0.75, 0.80),
)


def _draw_teams() -> Iterator[tuple[str, Picture]]:
    """Each part in the colour of the agent that drives its joint."""
    for id, (name, conf) in TEAMS.items():
        model, scenario, parts = compiled(name), SCENARIOS[name], {}
        motors = {limb.name: limb.motor for limb in scenario.limbs}
        for own, colour in zip(scenario.teams[conf], _TEAM_COLOURS, strict=False):
            for limb in own:
                parts[int(model.jnt_bodyid[model.actuator_trnid[motors[limb], 0]])] = colour
        yield f"{_TEAM_FILES[id]}.jpg", _runner(name, parts)


def _draw_multi_goal() -> Iterator[tuple[str, Picture]]:
    for name in _PAIRS:
        env = make_multi_goal(f"Safety{name}-v0", 1)
        env.reset(_SEED + 1)
        yield f"{name}.jpg", env.render(0, _PIXELS, _PIXELS)
        yield f"{name}-above.png", _from_above(env.scene(0))
        env.close()


def _draw_planar() -> Iterator[tuple[str, Picture]]:
    from trueline.safety.worlds.planar import make_planar

    for file, _ in GALLERIES["pictures-planar"].rows[0]:
        id = file.replace(".png", "-v0")
        env = make_planar(id, 1)
        env.reset(_SEED)
        scene = env.scene(0)
        shapes = [{**shape, "name": "agent" if shape["name"] == "body" else shape["name"]} for shape in scene["shapes"]]
        yield file, _from_above({"extent": max(scene["extent"], 2.0), "shapes": shapes})
        env.close()


def _draw_manipulation() -> Iterator[tuple[str, Picture]]:
    for name in ("HandOver", "CatchUnderarm", "CloseDrawer", "PickPlace"):
        id = next(id for id in MANIPULATION if name in id)
        env = make_manipulation(id, 1)
        env.reset(_SEED)
        for view in ("fixedfar", "above"):
            size = 480 if name == "HandOver" else _PIXELS
            yield f"{name}-{view}.jpg", _cropped(env.render(0, size, size, view))
        env.close()


def _draw_custom() -> Iterator[tuple[str, Picture]]:
    spec = importlib.util.spec_from_file_location("own_world", HERE.parent / "examples" / "own_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    env = open_world("Puddles-v0", module.WORLD, 1)
    env.reset(_SEED)
    yield "Puddles.jpg", env.render(0, _PIXELS, _PIXELS)
    yield "Puddles-above.png", _from_above(env.scene(0))
    env.close()


DRAWERS: dict[str, Callable[[], Iterator[tuple[str, Picture]]]] = {
    "bodies": _draw_bodies,
    "navigation": _draw_navigation,
    "courses": _draw_courses,
    "vision": _draw_vision,
    "overlays": _draw_overlays,
    "fading": _draw_fading,
    "runners": _draw_runners,
    "teams": _draw_teams,
    "multi-goal": _draw_multi_goal,
    "planar": _draw_planar,
    "manipulation": _draw_manipulation,
    "custom": _draw_custom,
}


def _encoded(picture: Picture, file: str) -> bytes:
    from PIL import Image

    out, image = io.BytesIO(), Image.fromarray(picture)
    if file.endswith(".png"):
        image.quantize(64).save(out, "PNG", optimize=True)
    else:
        image.save(out, "JPEG", quality=85, optimize=True)
    return out.getvalue()


def draw(only: str) -> None:
    """Draw the galleries whose name matches.  Raises NoGraphics without OpenGL."""
    PICTURES.mkdir(exist_ok=True)
    for name, drawer in DRAWERS.items():
        if fnmatch.fnmatch(name, only):
            for file, picture in drawer():
                (PICTURES / file).write_bytes(_encoded(picture, file))
