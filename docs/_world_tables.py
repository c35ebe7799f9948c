"""The tables of docs/worlds.md and docs/worlds/, from the worlds as the code has them."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.core import registry
from trueline.rl.exact.optimum import Expected, safest, unconstrained
from trueline.rl.exact.suite import SUITE
from trueline.safety.worlds import WORLDS
from trueline.safety.worlds.agents import AGENTS, Agent
from trueline.safety.worlds.costs import Beyond, Cost, Inside, Moving, Touching, TouchingScenery, WrongButton
from trueline.safety.worlds.manipulation import MANIPULATION, make_manipulation
from trueline.safety.worlds.manipulation_agents import HAND_TEAMS, make_hand_agents
from trueline.safety.worlds.multi_goal_table import MULTI_GOALS
from trueline.safety.worlds.objects import Thing
from trueline.safety.worlds.planar_tasks import PLANAR_WORLDS
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunCircle, RunFar
from trueline.safety.worlds.velocity_agents import SCENARIOS, TEAMS, make_team
from trueline.safety.worlds.velocity_runners import RUNNERS, VELOCITY, Interval, Runner, compiled
from trueline.safety.worlds.world import World

RATES = Path(__file__).parents[1] / "benchmarks" / "results" / "worlds_throughput.json"

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


TASKS = ("Goal", "Button", "Push", "Circle", "Run")
BUILDINGS = [f"Building{task}{level}" for task in ("Goal", "Button", "Push") for level in range(3)]

# --- tables -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
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
    return table(("family", "ids", "how many", "verified by"), rows)


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
    return table(head, rows)


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
    return table(("reading", *(name.title() for name in AGENTS)), rows)


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
    return table(("world", "lidar rings in order", *(name.title() for name in bodies)), rows)


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
    return table(("world", "square, m", "what lies there", "reward of a step", "costs", "steps"), rows)


def _tasks_of(task: str) -> str:
    return tasks(levels_of(task))


def levels_of(task: str) -> list[str]:
    """The worlds of a task, as tables and galleries name them."""
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
    return table(head, rows)


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
    return table(("body", "columns", "what"), rows)


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
    return table(("id", "agent", "joints that it drives, in order of its actions", "sees", "acts", "cost, m/s"), rows)


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
    return table(("world", "lidar rings in order", *(f"{name}: own, rings; all" for name in names_of)), rows)


def planar() -> str:
    """The planar worlds."""
    rows = []
    for id, world in PLANAR_WORLDS.items():
        costs = ", ".join(f"`{name}`" for name in world.constraints) or "none"
        rings = [_span(world.body.senses + 16 * k, 16) for k in range(len(world.rings))]
        shown = ", ".join(f"{kind} {span}" for kind, span in zip(world.rings, rings, strict=True)) or "none"
        rows.append((f"`{id}`", world.steps, f"0–{world.body.senses - 1}", shown, world.observation_size, costs))
    return table(("id", "steps", "own columns", "lidar rings", "columns", "costs"), rows)


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
    return table(heads, rows)


def throughput() -> str:
    """Rates of every family that a bar or a peer is stated for."""
    found = json.loads(RATES.read_text(encoding="utf-8"))
    rows = []
    for c in found["comparisons"]:
        if c["against"] is None:
            continue
        bar = "–" if c["at_least"] is None else f"{c['at_least']:g}x" + ("" if c["met"] else ", **missed**")
        rows.append((c["what"].replace("trueline ", ""), f"{c['value']:.3g}x", bar, f"{c['ceiling']:.3g}x"))
    return table(("what", "measured", "bar", "ceiling"), rows)


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
    return table(("id", "columns", "actions", "cost", "steps"), rows)


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
    return table(("what", "HandOver", "CatchUnderarm"), [*zip(what, *cells, strict=True)])


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
    return table(("what", "CloseDrawer", "PickPlace"), [*zip(sizes, *columns_of, strict=True)])


TABLES: dict[str, Callable[[], str]] = {
    "families": families,
    "bodies": bodies,
    "senses": senses,
    "columns-navigation": lambda: columns([name for task in TASKS for name in levels_of(task)]),
    **{f"tasks-{task}": functools.partial(_tasks_of, task) for task in TASKS},
    "tasks-Building": lambda: tasks(BUILDINGS),
    "columns-Building": lambda: columns(BUILDINGS),
    "tasks-courses": lambda: tasks(levels_of("Race") + levels_of("FormulaOne")),
    "columns-courses": lambda: columns(levels_of("Race") + levels_of("FormulaOne")),
    "tasks-Fading": lambda: tasks(levels_of("FadingEasy") + levels_of("FadingHard")),
    "columns-Fading": lambda: columns(levels_of("FadingEasy")),
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
}
