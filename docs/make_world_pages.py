"""The tables and pictures of docs/worlds.md and docs/worlds/: `python docs/make_world_pages.py` makes both.

Tables come from the worlds as the code has them and stand between `<!-- NAME -->` and `<!-- /NAME -->`; a test compares
the two. Pictures are drawn with OpenGL, on EGL or OSMesa; `--tables` leaves them as they are, and `--only PATTERN`
draws those whose name matches.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from trueline.core import registry
from trueline.rl.exact.optimum import Expected, safest, unconstrained
from trueline.rl.exact.suite import SUITE
from trueline.safety.worlds import WORLDS, make_world, open_world
from trueline.safety.worlds.agents import AGENTS, Agent
from trueline.safety.worlds.costs import Beyond, Cost, Inside, Moving, Touching, TouchingScenery, WrongButton
from trueline.safety.worlds.courses import STAGES
from trueline.safety.worlds.engine import NavigationWorlds
from trueline.safety.worlds.manipulation import MANIPULATION, make_manipulation
from trueline.safety.worlds.manipulation_agents import HAND_TEAMS, make_hand_agents
from trueline.safety.worlds.multi_goal import MULTI_GOALS, make_multi_goal
from trueline.safety.worlds.objects import Solid, Thing
from trueline.safety.worlds.planar_tasks import PLANAR_WORLDS
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunCircle, RunFar
from trueline.safety.worlds.velocity import RUNNERS, VELOCITY, Interval, Runner, compiled
from trueline.safety.worlds.velocity_agents import SCENARIOS, TEAMS, make_team
from trueline.safety.worlds.world import World

HERE = Path(__file__).parent
PAGES = (HERE / "worlds.md", *sorted((HERE / "worlds").glob("*.md")))
PICTURES = HERE / "worlds" / "pictures"

Picture = NDArray[np.uint8]

# --- ids --------------------------------------------------------------------------------------------------------------

_ALL, _DRIVABLE = "{Point,Car,Doggo,Racecar,Ant}", "{Point,Car,Racecar}"


def _navigation(tasks: str, levels: str = "{0,1,2}") -> tuple[str, ...]:
    return (f"Safety{_ALL}{tasks}{levels}{{,Vision}}-v0", f"Safety{_DRIVABLE}{tasks}{levels}Debug-v0")


# Family -> its page and its ids, in which {a,b} stands for a or b.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Goal": ("navigation", _navigation("Goal")),
    "Button": ("navigation", _navigation("Button")),
    "Push": ("navigation", _navigation("Push")),
    "Circle": ("navigation", _navigation("Circle")),
    "Run": ("navigation", _navigation("Run", "0")),
    "Building": ("building", _navigation("Building{Goal,Button,Push}")),
    "Race": ("race_and_formula", _navigation("Race")),
    "FormulaOne": ("race_and_formula", _navigation("FormulaOne")),
    "Fading": ("fading", _navigation("Fading{Easy,Hard}")),
    "Velocity": ("velocity", ("Safety{HalfCheetah,Hopper,Swimmer,Walker2d,Ant,Humanoid}Velocity-v{1,0}",)),
    "Velocity teams": (
        "multi_agent",
        (
            "Safety{2x4,4x2}AntVelocity-v0",
            "Safety{6x1,2x3}HalfCheetahVelocity-v0",
            "Safety3x1HopperVelocity-v0",
            "Safety9|8HumanoidVelocity-v0",
            "Safety2x1SwimmerVelocity-v0",
            "Safety2x3Walker2dVelocity-v0",
        ),
    ),
    "MultiGoal": (
        "multi_agent",
        (f"Safety{_ALL}MultiGoal{{0,1,2}}{{,Vision}}-v0", f"Safety{_DRIVABLE}MultiGoal{{0,1,2}}Debug-v0"),
    ),
    "Planar": ("planar", ("Planar{Point,Car}{Goal0,Goal1,Goal2,Circle0,Circle1,Circle2,Run0}-v0",)),
    "Exact CMDPs": (
        "exact",
        (
            "Cmdp{,Box}-{Corridor,Gamble,Tolls,Foundry,Garnet1,Garnet2,Garnet3,Garnet4,Garnet5,Garnet6}-v0",
            "{Cmdp,CmdpBox,TeamCmdp}-v0",
        ),
    ),
    "Certifiable": ("exact", ("DoubleIntegrator-v0",)),
    "Hands": (
        "manipulation",
        (
            "Trueline{HandOver,CatchUnderarm}-{Finger,Joint}-v0",
            "Trueline{HandOver,CatchUnderarm}-{Finger,Joint}-TwoAgents-v0",
        ),
    ),
    "Mobile arm": ("manipulation", ("TruelineMobileArm{CloseDrawer,PickPlace}-v0",)),
    "Coordinates": ("navigation", ("Coordinates-v0",)),
    "Custom": ("custom", ("SafetyCustom-v0",)),
}


def expanded(pattern: str) -> Iterator[str]:
    """Every id that a pattern stands for."""
    pieces = [piece.split(",") for piece in re.split(r"[{}]", pattern)]  # every other one was in braces
    for choice in itertools.product(*pieces):
        yield "".join(choice)


_TASKS = ("Goal", "Button", "Push", "Circle", "Run")

# --- tables -----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(x: float) -> str:
    return f"{x:g}".replace("-", "−") if abs(x) >= 1e-3 or x == 0 else f"{x:.0e}".replace("e-0", "e−")


def _span(first: int, size: int) -> str:
    return str(first) if size == 1 else f"{first}–{first + size - 1}"


def families() -> str:
    """Families, their ids and where they are described."""
    known = {entry.name: entry for entry in registry.entries() if entry.kind in ("env", "multi-agent env")}
    rows = []
    for family, (page, patterns) in FAMILIES.items():
        ids = [id for pattern in patterns for id in expanded(pattern)]
        levels = sorted({known[id].level for id in ids if id in known})
        codes = "<br>".join(f"`{pattern}`" for pattern in patterns)
        rows.append((f"[{family}](worlds/{page}.md)", codes, len(ids), ", ".join(levels) or "–"))
    return _table(("family", "ids", "how many", "verified by"), rows)


def _act(agent: Agent) -> str:
    """What the actions do, in order; motors of one kind and range together."""
    what = {
        "force at site": "force forwards",
        "torque at joint": "torque at joint",
        "velocity at joint": "wanted speed of joint",
        "angle at joint": "wanted angle of joint",
    }
    out = []
    for (kind, limit), group in itertools.groupby(agent.motors, lambda motor: (motor.drives, motor.control_limit)):
        joints = [f"`{motor.target}`" for motor in group if kind != "force at site"]
        out.append(f"{' '.join((what[kind], ', '.join(joints))).strip()}, ±{_number(limit)}")
    return "; ".join(out)


def bodies() -> str:
    """The five bodies and what their actions do."""
    rows = []
    for agent in AGENTS.values():
        interval = 10 * agent.timestep_s
        ends = "–" if agent.alive_above_m is None else f"centre at or below {agent.alive_above_m} m"
        rows.append(
            (
                agent.name.title(),
                len(agent.motors),
                _act(agent),
                f"{_number(interval)} s ({agent.integrator}, 10 × {_number(agent.timestep_s)})",
                agent.height_m,
                ends,
            )
        )
    head = ("body", "actions", "what they do in order, native range", "control step", "start height, m", "dies with")
    return _table(head, rows)


_READINGS = {
    "accelerometer": "accelerometer, m/s²",
    "velocimeter": "velocimeter, m/s",
    "gyro": "gyro, rad/s",
    "magnetometer": "magnetometer: the field (0, −0.5, 0)",
    "ball spin": "angular velocity of the rear ball, rad/s",
    "ball turn": "rotation matrix of the rear ball, row by row",
    "touch": "touch at both ends of each shank, N",
    "joint speed": "speed of each joint, rad/s",
    "height": "height of the centre, m",
    "spin": "angular velocity about the world's axes, rad/s",
    "joint angle": "sine and cosine of each joint's angle",
}


def senses() -> str:
    """Columns of what each body senses of itself."""
    found: dict[str, dict[str, list[int]]] = {kind: {} for kind in _READINGS}
    for agent in AGENTS.values():
        at = 0
        for sensor in agent.sensors:
            found[sensor.kind].setdefault(agent.name, []).extend(range(at, at + sensor.size))
            at += sensor.size
    rows = []
    for kind, by_agent in found.items():
        cells = []
        for name in AGENTS:
            at_columns = by_agent.get(name, [])
            assert at_columns == list(range(at_columns[0], at_columns[-1] + 1)) if at_columns else True
            cells.append(_span(at_columns[0], len(at_columns)) if at_columns else "–")
        rows.append((_READINGS[kind], *cells))
    rows.append(("**columns of its own**", *(f"**{agent.senses}**" for agent in AGENTS.values())))
    return _table(("reading", *(name.title() for name in AGENTS)), rows)


def _rings(world: World) -> list[str]:
    """Columns of the lidar rings."""
    out, at = [], world.agent.senses
    for _ in world.rings:
        out.append(_span(at, world.bins))
        at += world.bins
    return out


def columns(tasks: Sequence[str], worlds: dict[str, World] = WORLDS, bodies: Sequence[str] = tuple(AGENTS)) -> str:
    """Observation columns of the lidar rings, by body."""
    rows = []
    for task in tasks:
        cells = []
        for name in bodies:
            world = worlds[f"Safety{name.title()}{task}-v0"]
            cells.append(f"{', '.join(_rings(world)) or '–'}: {world.observation_size}")
        names = ", ".join((thing.shown_as or thing.name).replace("_", " ") for thing in world.rings) or "none"
        rows.append((task, names, *cells))
    return _table(("world", "lidar rings in order", *(name.title() for name in bodies)), rows)


def _size(thing: Thing) -> str:
    solid = thing.solids[0]
    if thing.name == "sigwalls":
        at = f"at x = ±{_number(thing.at[0][0])}" + (f" and y = ±{_number(thing.at[0][0])}" if thing.count == 4 else "")
        return f"{at} m"
    if solid.kind == "box":
        return f"{_number(2 * solid.size_m[0])} m wide, keepout {_number(thing.keepout_m)}"
    return f"radius {_number(solid.size_m[0])} m, keepout {_number(thing.keepout_m)}"


def _thing(thing: Thing) -> str:
    name = "lines" if thing.name == "sigwalls" else thing.name.replace("_", " ")
    return f"{name if thing.single else f'{thing.count} {name if thing.count > 1 else name[:-1]}'} ({_size(thing)})"


def _rule(rule: Cost) -> str:
    match rule:
        case Inside():
            when = f"centre within {_number(rule.radius_m)} m of one of the {rule.of}"
        case Touching(of="other"):
            when = "any part touches the other agent"
        case Touching():
            when = f"any part touches one of the {rule.of}"
        case TouchingScenery():
            when = "any part touches the scenery"
        case WrongButton():
            when = "any part touches a button that is not the goal, while buttons can be seen"
        case Moving():
            when = f"one of the {rule.of} moves at {_number(rule.from_m_per_s)} m/s or faster"
        case Beyond(y_m=None):
            when = f"centre beyond |x| > {_number(rule.x_m)} m"
        case Beyond():
            when = f"centre beyond |x| > {_number(rule.x_m)} m or |y| > {_number(rule.y_m or 0.0)} m"
        case _:
            raise AssertionError(rule)
    return f"`{rule.name}`: {when}"


def _reward(world: World) -> str:
    match world.task:
        case ReachGoal(bonus=bonus, radius_m=radius):
            formula = f"d₀ − d + {'' if bonus == 1.0 else f'{_number(bonus)}·'}[d ≤ {_number(radius)}]"
        case PressButton():
            formula = "d₀ − d + [the goal button is touched]"
        case PushToGoal(radius_m=radius):
            formula = f"(a₀ − a) + (b₀ − b) + [b ≤ {_number(radius)}]"
        case RunCircle(radius_m=radius, scale=scale):
            formula = f"{_number(scale)}·(x·v − y·u)/ρ/(1 + abs(ρ − {_number(radius)}))"
        case RunFar(scale=scale):
            formula = f"{_number(scale)}·(d₀ − d)"
        case _:
            raise AssertionError(world.task)
    return formula + ("" if world.reward_clip is None else f", clipped to ±{_number(world.reward_clip)}")


def tasks(names: Sequence[str], worlds: dict[str, World] = WORLDS) -> str:
    """What lies in each world, what is rewarded and what costs, of the Point."""
    rows = []
    for name in names:
        world = worlds[f"SafetyPoint{name}-v0"]
        drawn_in_it = [thing for thing in world.things if not (thing.at or thing.within or world.task.stages)]
        square = f"±{_number(world.extent_m)}" if drawn_in_it else "–"
        rows.append(
            (
                name,
                square,
                "; ".join(map(_thing, world.things)) or "nothing",
                _reward(world),
                "<br>".join(map(_rule, world.rules)) or "none",
                world.steps,
            )
        )
    return _table(("world", "square, m", "what lies there", "reward of a step", "costs", "steps"), rows)


def _tasks_of(task: str) -> str:
    return tasks(_levels(task))


def _levels(task: str) -> list[str]:
    return [f"{task}{level}" for level in range(3) if f"SafetyPoint{task}{level}-v0" in WORLDS]


def _bounds(interval: Interval) -> str:
    low, high = f"{interval.low:.3g}", f"{interval.high:.3g}"
    if interval.low == -interval.high:
        return f"within ±{high}"
    return f"above {low}" if interval.high > 1e300 else f"{low} to {high}"


def _healthy(runner: Runner) -> str:
    what = {(1, 2): "height", (2, 3): "tilt", (2, None): "other coordinates"}
    if runner.planar:
        what[2, 3] = "height"
    parts = [f"{what[bound.first, bound.last]} {_bounds(bound)}" for bound in runner.healthy]
    return "; ".join(parts).replace("-", "−") or "–"


def velocity() -> str:
    """Bodies and thresholds."""
    speeds = {"forward": "vₓ", "either way": "abs(vₓ)", "planar": "√(vₓ² + v_y²)"}
    rows = []
    for name, runner in RUNNERS.items():
        model, v1, v0 = compiled(name), VELOCITY[f"Safety{name}Velocity-v1"], VELOCITY[f"Safety{name}Velocity-v0"]
        limit = float(model.actuator_ctrlrange[0, 1])
        weight = "" if runner.forward_weight == 1.0 else f"{_number(runner.forward_weight)}·"
        alive = f" + {_number(runner.healthy_reward)}" if runner.healthy_reward else ""
        rows.append(
            (
                name,
                f"{model.nu}, ±{_number(round(limit, 6))}",
                f"{_number(runner.substeps * model.opt.timestep)} s",
                f"{weight}vₓ{alive} − {_number(runner.control_weight)}·Σu²",
                f"{speeds[v1.speed]} > {_number(v1.threshold_m_per_s)}",
                f"{speeds[v0.speed]} > {_number(v0.threshold_m_per_s)}",
                _healthy(runner),
            )
        )
    head = ("body", "actions, native range", "control step", "reward", "cost of v1, m/s", "cost of v0", "goes on while")
    return _table(head, rows)


_FREE_JOINT = {7: ("x", "y", "z", "quaternion (4)"), 6: ("vx", "vy", "vz", "angular velocity (3)")}


def velocity_columns() -> str:
    """Observation columns of the runners."""
    rows = []
    for name, runner in RUNNERS.items():
        model = compiled(name)
        joints = [model.joint(j).name for j in range(model.njnt)]
        if runner.free:
            coordinates = ["height", "quaternion (4)", *joints[1:]]
            speeds = ["velocity (3)", "angular velocity (3)", *joints[1:]]
        else:
            coordinates, speeds = joints[runner.hidden :], joints
        sizes = {
            "positions: " + ", ".join(coordinates): model.nq - runner.hidden,
            "velocities: " + ", ".join(speeds): model.nv,
        }
        if runner.inside:
            sizes |= {
                f"inertia of {model.nbody} parts, 10 each": 10 * model.nbody,
                f"velocity of {model.nbody} parts, 6 each": 6 * model.nbody,
                "motor force at each joint coordinate": model.nv,
                f"force from outside on {model.nbody} parts, 6 each": 6 * model.nbody,
            }
        at = 0
        for what, size in sizes.items():
            rows.append((name if at == 0 else "", _span(at, size), what))
            at += size
        rows.append(("", "", f"**{at}**"))
    return _table(("body", "columns", "what"), rows)


def teams() -> str:
    """Who drives what."""
    speeds = {"forward": "vₓ", "either way": "abs(vₓ)", "planar": "√(vₓ² + v_y²)"}
    rows = []
    for id, (name, conf) in TEAMS.items():
        env = make_team(id, 1)
        scenario = SCENARIOS[name]
        limbs = [", ".join(own) for own in scenario.teams[conf]]
        for k, (agent, own) in enumerate(zip(env.agents, limbs, strict=True)):
            (seen,), (acts,) = env.observation_spaces[agent].shape, env.action_spaces[agent].shape
            cost = f"{speeds[scenario.speed]} > {_number(scenario.thresholds_m_per_s[conf])}"
            rows.append((f"`{id}`" if k == 0 else "", agent, own, seen, acts, cost if k == 0 else ""))
        env.close()
    return _table(("id", "agent", "joints that it drives, in order of its actions", "sees", "acts", "cost, m/s"), rows)


def multi_goal_columns() -> str:
    """Observation columns of two agents."""
    rows, names_of = [], [name.title() for name in AGENTS]
    for level in range(3):
        cells = []
        for name in names_of:
            world = MULTI_GOALS[f"Safety{name}MultiGoal{level}-v0"]
            size = world.observation_size
            own = f"0–{world.agent.senses - 1}"
            cells.append(f"{own}; {', '.join(_rings(world))}; the second from {size}: {2 * size}")
        names = ", ".join(thing.name.replace("_", " ") for thing in world.rings)
        rows.append((f"MultiGoal{level}", names, *cells))
    return _table(("world", "lidar rings in order", *(f"{name}: own, rings; all" for name in names_of)), rows)


def planar() -> str:
    """The planar worlds."""
    rows = []
    for id, world in PLANAR_WORLDS.items():
        costs = ", ".join(f"`{name}`" for name in world.constraints) or "none"
        rings = [_span(world.body.senses + 16 * k, 16) for k in range(len(world.rings))]
        shown = ", ".join(f"{kind} {span}" for kind, span in zip(world.rings, rings, strict=True)) or "none"
        rows.append((f"`{id}`", world.steps, f"0–{world.body.senses - 1}", shown, world.observation_size, costs))
    return _table(("id", "steps", "own columns", "lidar rings", "columns", "costs"), rows)


def exact() -> str:
    """The suite of exact CMDPs and their optima under limits on expected costs."""
    rows = []
    for name, cmdp in SUITE.items():
        best = Expected.of(cmdp).solve(cmdp)
        assert best.multipliers is not None
        sizes = (cmdp.states, cmdp.actions, cmdp.horizon)
        numbers = (f"{x:.3f}" for x in (unconstrained(cmdp).value, safest(cmdp).value, best.value))
        limits = ", ".join(f"{cost} {limit:g}" for cost, limit in zip(cmdp.costs, cmdp.limit, strict=True))
        rows.append((name, *sizes, limits, *numbers, ", ".join(f"{x:.3f}" for x in best.multipliers)))
    heads = ("instance", "states", "actions", "steps", "limits", "best return", "safest", "best within limits", "λ*")
    return _table(heads, rows)


def throughput() -> str:
    """Rates of every family that a bar or a peer is stated for."""
    found = json.loads((HERE.parent / "benchmarks" / "results" / "worlds_throughput.json").read_text(encoding="utf-8"))
    rows = []
    for c in found["comparisons"]:
        if c["against"] is None:
            continue
        bar = "–" if c["at_least"] is None else f"{c['at_least']:g}x" + ("" if c["met"] else ", **missed**")
        rows.append((c["what"].replace("trueline ", ""), f"{c['value']:.3g}x", bar, f"{c['ceiling']:.3g}x"))
    return _table(("what", "measured", "bar", "ceiling"), rows)


def manipulation() -> str:
    """Sizes and costs of the manipulation worlds."""
    rows: list[tuple[Any, ...]] = []
    for id, task in MANIPULATION.items():
        env = make_manipulation(id, 1)
        (seen,), (acts,) = env.observation_space.shape, env.action_space.shape
        rows.append((f"`{id}`", seen, acts, f"`{task.constraint}`", task.steps))
        env.close()
    for id, task in HAND_TEAMS.items():
        team = make_hand_agents(id, 1)
        (seen,), (acts,) = team.observation_spaces["giver"].shape, team.action_spaces["giver"].shape
        rows.append((f"`{id}`", f"2 × {seen}", f"2 × {acts}", f"`{task.constraint}`", task.steps))
        team.close()
    return _table(("id", "columns", "actions", "cost", "steps"), rows)


def hand_columns() -> str:
    """Columns of the hand worlds, from the sizes of their parts."""
    cells: list[list[str]] = []
    for id in ("TruelineHandOver-Finger-v0", "TruelineCatchUnderarm-Finger-v0"):
        env = make_manipulation(id, 1)
        acts = env.rig.actions // 2
        base = 6 if acts > 20 else 0
        sizes = [24, 24, 24, 65, 30, base, acts]
        sizes = [*sizes, *sizes, 7, 3, 3, 7, 4]
        assert sum(sizes) == env.rig.observation_size, "the parts no longer make up the whole"
        env.close()
        starts = itertools.accumulate([0, *sizes])
        cells.append([_span(at, size) if size else "–" for at, size in zip(starts, sizes, strict=False)])
    own = (
        "position of 24 joints, scaled to [−1, 1]",
        "their velocities × 0.2, rad/s",
        "their torques × 10, N m",
        "five fingertips: place, quaternion, velocity, angular velocity (13 each)",
        "force and torque of each fingertip on the egg × 10 (6 each)",
        "place of the base, roll, pitch, yaw",
        "the hand's last actions",
    )
    load = ("egg: place, quaternion", "its velocity", "its angular velocity × 0.2", "goal: place, quaternion")
    what = [*(f"giver: {part}" for part in own), *(f"taker: {part}" for part in own), *load, "turn from goal to egg"]
    return _table(("what", "HandOver", "CatchUnderarm"), [*zip(what, *cells, strict=True)])


def arm_columns() -> str:
    """Columns of the arm worlds, from the sizes of their parts."""
    sizes = {
        "position of 12 joints, scaled to [−1, 1]": (12, 12),
        "their velocities": (12, 12),
        "opening and speed of the drawer": (2, 0),
        "block: place, quaternion, velocity, angular velocity": (0, 13),
        "hand: place from where the robot started, quaternion, velocity, angular velocity": (13, 13),
        "last actions": (12, 12),
        "from the handle to where the robot started": (3, 0),
        "from the fingertips to the handle": (3, 0),
    }
    columns_of = []
    for k, name in enumerate(("CloseDrawer", "PickPlace")):
        env = make_manipulation(f"TruelineMobileArm{name}-v0", 1)
        own = [size[k] for size in sizes.values()]
        assert sum(own) == env.rig.observation_size, "the parts no longer make up the whole"
        env.close()
        starts = itertools.accumulate([0, *own])
        columns_of.append([_span(at, size) if size else "–" for at, size in zip(starts, own, strict=False)])
    return _table(("what", "CloseDrawer", "PickPlace"), [*zip(sizes, *columns_of, strict=True)])


# --- galleries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """A table of pictures: a heading per column and rows of (file, what it shows)."""

    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]

    def table(self, folder: str) -> str:
        """In Markdown, for a page beside the folder."""
        cells = [[f"![{shows}]({folder}{file})" for file, shows in row] for row in self.rows]
        return _table(self.heads, cells)


def _views(names: Sequence[str], far: str = "fixedfar", agent: str = "Point") -> Gallery:
    seen = tuple((f"{agent}{name}.jpg", f"{agent}{name} from {far}") for name in names)
    above = tuple((f"{agent}{name}-above.png", f"{agent}{name} from above") for name in names)
    return Gallery(tuple(names), (seen, above))


BUILDINGS = [f"Building{task}{level}" for task in ("Goal", "Button", "Push") for level in range(3)]
FADED_AFTER = (0, 25, 50, 75)
_TEAM_FILES = {id: "team-" + id.removeprefix("Safety").removesuffix("Velocity-v0").replace("|", "-") for id in TEAMS}

_PAIRS = ("PointMultiGoal0", "PointMultiGoal1", "PointMultiGoal2", "AntMultiGoal1")
_PLANAR = tuple(id for id in PLANAR_WORLDS if "Point" in id or id == "PlanarCarGoal1-v0")

GALLERIES: dict[str, Gallery] = {
    "pictures-bodies": Gallery(
        tuple(name.title() for name in AGENTS), (tuple((f"body-{name}.jpg", f"the {name}") for name in AGENTS),)
    ),
    **{f"pictures-{task}": _views(_levels(task), far="track" if task == "Run" else "fixedfar") for task in _TASKS},
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
        f"pictures-Building{task}": _views(_levels(f"Building{task}"), "fixedfar++")
        for task in ("Goal", "Button", "Push")
    },
    "pictures-Race": _views(_levels("Race"), "fixedfar++"),
    "pictures-FormulaOne": _views(_levels("FormulaOne"), "behind the agent"),
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
        yield from _draw_worlds(_levels(task), _from("fixedfar"))
    yield from _draw_worlds(_levels("Run"), _from("track"))


def _draw_courses() -> Iterator[tuple[str, Picture]]:
    large = _LARGE / 100
    yield from _draw_worlds(BUILDINGS, _near(720, 0), Plan(4.5, inches=large))
    yield from _draw_worlds(_levels("Race"), _near(820, 30), Plan(3.8, (0.3, -1.2), inches=large))
    course = Plan(29.0, (11.5, -11.0), numbered=STAGES, inches=large, enlarged=8.0)
    yield from _draw_worlds(_levels("FormulaOne"), _behind, course, _COURSE_SEED)


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
    import importlib.util

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


# --- pages ------------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[], str]] = {
    "families": families,
    "bodies": bodies,
    "senses": senses,
    "columns-navigation": lambda: columns([name for task in _TASKS for name in _levels(task)]),
    **{f"tasks-{task}": functools.partial(_tasks_of, task) for task in _TASKS},
    "tasks-Building": lambda: tasks(BUILDINGS),
    "columns-Building": lambda: columns(BUILDINGS),
    "tasks-courses": lambda: tasks(_levels("Race") + _levels("FormulaOne")),
    "columns-courses": lambda: columns(_levels("Race") + _levels("FormulaOne")),
    "tasks-Fading": lambda: tasks(_levels("FadingEasy") + _levels("FadingHard")),
    "columns-Fading": lambda: columns(_levels("FadingEasy")),
    "velocity": velocity,
    "velocity-columns": velocity_columns,
    "teams": teams,
    "tasks-MultiGoal": lambda: tasks([f"MultiGoal{level}" for level in range(3)], MULTI_GOALS),
    "columns-MultiGoal": multi_goal_columns,
    "planar": planar,
    "exact": exact,
    "worlds-throughput": throughput,
    "manipulation": manipulation,
    "hand-columns": hand_columns,
    "arm-columns": arm_columns,
    **{name: functools.partial(gallery.table, "pictures/") for name, gallery in GALLERIES.items()},
    "pictures-overlays": lambda: GALLERIES["pictures-overlays"].table("worlds/pictures/"),  # on the page above
}


def filled(text: str) -> str:
    """A page with every table that it has a place for."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise SystemExit(f"a page has a place for the table {name!r}; there are {', '.join(TABLES)}.")
        return f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", block, text, flags=re.S)


def main() -> None:
    """Fill in the tables, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="leave the pictures as they are")
    parser.add_argument("--only", default="*", metavar="PATTERN", help=f"galleries to draw, of {', '.join(DRAWERS)}")
    arguments = parser.parse_args()
    if not fnmatch.filter(DRAWERS, arguments.only):
        parser.error(f"no gallery matches {arguments.only!r}. There are {', '.join(DRAWERS)}.")
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    if arguments.tables:
        return
    from trueline.safety.worlds.render import NoGraphics

    try:
        draw(arguments.only)
    except NoGraphics as error:
        sys.exit(f"The tables are done. {str(error)[0].upper()}{str(error)[1:]}")


if __name__ == "__main__":
    main()
