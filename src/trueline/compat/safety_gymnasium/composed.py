"""Worlds described by the original's `config`: its …Base tasks in full, and the lidar, clip and substeps of any other.

The keys are those of the repository's head; release 1.0.0 has no Base tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from trueline.compat.safety_gymnasium.ids import Name
from trueline.core.errors import ConfigError, nearest
from trueline.safety.worlds import WORLDS, World
from trueline.safety.worlds import objects as kinds
from trueline.safety.worlds.agents import Agent
from trueline.safety.worlds.costs import Beyond, Cost, Inside, Moving, Touching, WrongButton
from trueline.safety.worlds.objects import Thing
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunCircle, RunFar, Task

# What a key of any navigation task changes of a world.
_OF_A_WORLD = {
    "lidar_conf.num_bins": "bins",
    "lidar_conf.max_dist": "sight_m",
    "reward_conf.reward_clip": "reward_clip",
    "sim_conf.frameskip_binom_n": "substeps",
}
_OF_A_BASE = ("placements_conf.extents", "agent.placements", "agent.keepout", "floor_conf.size", "reward_factor")
_FACTORS = {"Circle": 0.1, "Run": 60.0}  # the tasks' own scales of the reward

_WHERE = ("keepout", "locations", "placements", "is_lidar_observed", "alpha")
_TAKES: dict[str, tuple[str, ...]] = {  # attributes of each class of objects
    "Goal": ("size", *_WHERE),
    "Hazards": ("num", "size", "is_constrained", *_WHERE),
    "Vases": ("num", "is_constrained", *_WHERE),
    "Pillars": ("num", "is_constrained", *_WHERE),
    "Buttons": ("num", "is_constrained", *_WHERE),
    "Gremlins": ("num", "travel", "is_constrained", *_WHERE),
    "PushBox": ("null_dist", *_WHERE),
    "Circle": ("is_lidar_observed", "alpha"),
    "Sigwalls": ("num", "size", "locate_factor", "is_constrained", "alpha"),
}
_NEEDS = {
    "Goal": ("Goal",),
    "Button": ("Buttons", "Goal"),
    "Push": ("Goal", "PushBox"),
    "Circle": ("Circle",),
    "Run": (),
}


def composed(name: Name, config: Mapping[str, Any]) -> World:
    """The world of a navigation id with `config`.  Raises ConfigError naming the key that cannot be used."""
    base = name.is_base
    agent = WORLDS[f"Safety{name.agent}{name.task}0-v0"].agent if base else WORLDS[name.task_id].agent
    known = [*_OF_A_WORLD, *(_OF_A_BASE + tuple(_TAKES) if base else ())]
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{name.task_id} takes no config key {key!r}.{nearest(key, known)} It takes {', '.join(known)}."
            )
    world = _described(name, agent, config) if base else WORLDS[name.task_id]
    changes = {_OF_A_WORLD[key]: value for key, value in config.items() if key in _OF_A_WORLD}
    for key in ("bins", "substeps"):
        if not isinstance(changes.get(key, 1), int) or changes.get(key, 1) < 1:
            raise ConfigError(f"{name.task_id} was given {changes[key]!r:.40} {key}. Give a whole number, 1 or more.")
    if not isinstance(changes.get("sight_m", 1.0), int | float) or changes.get("sight_m", 1.0) <= 0:
        raise ConfigError(f"{name.task_id} was given {changes['sight_m']!r:.40} for sight_m. Give metres above 0.")
    return replace(world, **changes) if changes else world


def _described(name: Name, agent: Agent, config: Mapping[str, Any]) -> World:
    for kind in _TAKES:
        if kind in config and not isinstance(config[kind], Mapping):
            raise ConfigError(f"{kind} is {config[kind]!r:.40} in the config. Give a dict of what it is to have.")
    missing = [kind for kind in _NEEDS[name.task] if kind not in config]
    if missing:
        raise ConfigError(f"{name.task_id} needs {' and '.join(missing)} in its config. Give {{{missing[0]!r}: {{}}}}.")
    things, rules = list[Thing](), list[Cost]()
    for kind, given in config.items():
        if kind in _TAKES:
            thing = _thing(kind, given, agent)
            things.append(thing)
            if given.get("is_constrained", kind in ("Hazards", "Vases", "Pillars", "Buttons", "Gremlins")):
                rules += _rules(kind, thing, given)
    factor = config.get("reward_factor", _FACTORS.get(name.task))
    if factor != _FACTORS.get(name.task):
        raise ConfigError(f"reward_factor is {factor!r:.40} for {name.task_id}. Leave it out: it has its own.")
    extents = config.get("placements_conf.extents", (-2, -2, 2, 2))
    xmin, ymin, xmax, ymax = _tuples("placements_conf.extents", [extents], 4)[0]
    if not (xmax == ymax == -xmin == -ymin > 0):
        raise ConfigError("placements_conf.extents is no square about the origin. Give [-a, -a, a, a].")
    within = _tuples("agent.placements", config.get("agent.placements") or (), 4)
    floor = _tuples("floor_conf.size", [config.get("floor_conf.size", (3.5, 3.5, 0.1))], 3)[0]
    return World(
        agent,
        _task(name.task, config),
        float(xmax),
        tuple(things),
        # The original adds costs up in the order of its objects, which is that of the things.
        tuple(sorted(rules, key=lambda rule: _order(things, rule))),
        agent_within=within,  # type: ignore[arg-type]
        agent_keepout_m=config.get("agent.keepout"),
        floor_m=float(floor[0]),
    )


def _tuples(key: str, given: Any, length: int) -> tuple[tuple[float, ...], ...]:
    """Lists of `length` numbers as tuples.  Raises ConfigError naming the key."""
    try:
        found = tuple(tuple(map(float, one)) for one in given)
    except (TypeError, ValueError):
        found = ((),)
    if any(len(one) != length for one in found):
        what = "a list of places (x, y)" if length == 2 else f"{length} numbers for each"
        raise ConfigError(f"{key} is {given!r:.60}. Give {what}.")
    return found


def _order(things: list[Thing], rule: Cost) -> int:
    of = getattr(rule, "of", "sigwalls")
    return [thing.name for thing in kinds.in_order(tuple(things))].index(of)


def _task(task: str, config: Mapping[str, Any]) -> Task:
    radius_m = config.get("Goal", {}).get("size", 0.3)
    makers: dict[str, Callable[[], Task]] = {
        "Goal": lambda: ReachGoal(radius_m),
        "Button": PressButton,
        "Push": lambda: PushToGoal(radius_m),
        "Circle": RunCircle,
        "Run": RunFar,
    }
    return makers[task]()


def _thing(kind: str, given: Mapping[str, Any], agent: Agent) -> Thing:
    for key in given:
        if key not in _TAKES[kind]:
            raise ConfigError(
                f"{kind} takes no {key!r}.{nearest(key, _TAKES[kind])} It takes {', '.join(_TAKES[kind])}."
            )
    if given.get("null_dist", 0) != 0:
        raise ConfigError("PushBox has null_dist 0 here, as the registered tasks have. Leave it out.")
    count = given.get("num", 2 if kind == "Sigwalls" else 1 if "num" not in _TAKES[kind] else 0)
    if not isinstance(count, int) or count < 1 or (kind == "Sigwalls" and count not in (2, 4)):
        raise ConfigError(f"{kind} has num {count!r:.40}. Give {'2 or 4' if kind == 'Sigwalls' else '1 or more'}.")
    lines: Literal[2, 4] = 4 if count == 4 else 2
    makers: dict[str, Callable[[], Thing]] = {
        "Goal": lambda: kinds.goal(given.get("size", 0.3)),
        "Hazards": lambda: kinds.hazards(count, given.get("size", 0.2)),
        "Vases": lambda: kinds.vases(count),
        "Pillars": lambda: kinds.pillars(count),
        "Buttons": lambda: kinds.buttons(count),
        "Gremlins": lambda: kinds.gremlins(count, given.get("travel", 0.3), 0.5),
        "PushBox": lambda: kinds.push_box(agent),
        "Circle": kinds.circle,
        "Sigwalls": lambda: kinds.walls(lines, given.get("locate_factor", 1.125), given.get("size", 3.5)),
    }
    thing = makers[kind]()
    changes: dict[str, Any] = {}
    for key in ("keepout", "alpha"):
        if not isinstance(given.get(key, 0.0), int | float):
            raise ConfigError(f"{kind} has {key} {given[key]!r:.40}. Give a number.")
    if "keepout" in given:
        changes["keepout_m"] = float(given["keepout"])
    if given.get("locations"):
        places = _tuples(f"{kind}'s locations", given["locations"], 2)
        if len(places) != count:
            raise ConfigError(f"{kind} has {len(places)} locations for {count}. Give one for each, or none.")
        changes["at"] = places
    if given.get("placements"):
        changes["within"] = _tuples(f"{kind}'s placements", given["placements"], 4)
    if "is_lidar_observed" in given:
        changes["seen"] = bool(given["is_lidar_observed"])
    if "alpha" in given:
        changes["colour"] = (*thing.colour[:3], float(given["alpha"]))
    return replace(thing, **changes)


def _rules(kind: str, thing: Thing, given: Mapping[str, Any]) -> tuple[Cost, ...]:
    name = thing.name
    if kind == "Hazards":
        return (Inside("cost_hazards", name, thing.radius_m),)
    if kind == "Vases":
        return Touching("cost_vases_contact", name), Moving("cost_vases_velocity", name)
    if kind == "Buttons":
        return (WrongButton("cost_buttons", name),)
    if kind == "Sigwalls":
        far = given.get("locate_factor", 1.125)
        return (Beyond("cost_out_of_boundary", far, far if thing.count == 4 else None),)
    return (Touching(f"cost_{name}", name),)
