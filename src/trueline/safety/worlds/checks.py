"""What every world asks of actions, seeds, perturbations and saved states, and of a world that is given as data."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError, nearest, unknown
from trueline.safety.worlds.agents import AGENTS, Agent
from trueline.safety.worlds.costs import SCENERY, Beyond, Cost, Inside, Moving, Touching, TouchingScenery, WrongButton
from trueline.safety.worlds.objects import Square, Thing, shrunk
from trueline.safety.worlds.scene import Scene
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunCircle, RunFar

if TYPE_CHECKING:
    from trueline.safety.worlds.world import World

Array = NDArray[np.float64]

_SEEDS_END = 2**32
BEGIN_S = 1.0  # the clock of an episode, so that MuJoCo's own reset, to 0, shows even in the first step


def read_actions(id: str, actions: Any, shape: tuple[int, ...], agent: str = "") -> Array:
    """Actions of `shape` as doubles; `agent`: whose they are, where there are several.

    Raises ConfigError for another shape, and for what is no array of numbers. Whether they are finite is not asked.
    """
    whose = f" for {agent}" if agent else ""
    try:
        given = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{id} was given {actions!r:.60} as actions{whose}. Give an array of numbers of shape {shape}."
        ) from None
    if given.shape != shape:
        raise ConfigError(f"{id} was given actions of shape {given.shape}{whose}. It takes {shape}.")
    return given


def read_seeds(id: str, seeds: Any, count: int) -> NDArray[np.uint32]:
    """The seeds of `count` episodes.

    Raises ConfigError for another number of them, and for what is no whole number of 32 bits.
    """
    try:
        given = np.asarray(seeds)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.dtype.kind not in "iu" or (given < 0).any() or (given >= _SEEDS_END).any():
        raise ConfigError(f"{id} was given the seeds {seeds!r:.60}. Give whole numbers from 0 to {_SEEDS_END - 1}.")
    if given.shape != (count,):
        raise ConfigError(f"seeds of shape {given.shape} were given to {id} for {count} episodes. Give one for each.")
    return given.astype(np.uint32)


def seeded(id: str, seed: int) -> np.random.Generator:
    """Where the seeds of a world's episodes are drawn from.  Raises ConfigError for what is no seed."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed is {seed!r} for {id}. Give a whole number, 0 or more.")
    return np.random.default_rng(seed)


def read_scales(scale: Mapping[str, float | Array], known: Sequence[str], num_envs: int) -> dict[str, Array]:
    """Factors on named nominal quantities as arrays [N].

    Raises ConfigError, before anything has changed, for a name that is not known or a factor that is not positive.
    """
    out = {}
    for name, value in scale.items():
        if name not in known:
            raise ConfigError(unknown("perturbation", name, known))
        values = _numbers(value)
        if values.shape not in ((), (num_envs,)) or not (np.isfinite(values) & (values > 0)).all():
            raise ConfigError(f"{name} is scaled by {value!r:.80}. Give a positive number or {num_envs} of them.")
        out[name] = np.broadcast_to(values, (num_envs,)).copy()
    return out


def read_rows(id: str, rows: Any, num_envs: int) -> NDArray[np.intp]:
    """The numbers of some environments, [n].

    Raises ConfigError for a mask, for an environment that is not there, and for one that is named twice.
    """
    try:
        given = np.asarray(rows)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.shape == (0,):
        return np.zeros(0, np.intp)
    known = given.ndim == 1 and given.dtype.kind in "iu" and bool(((given >= 0) & (given < num_envs)).all())
    if not known or len(np.unique(given)) < len(given):
        raise ConfigError(
            f"{id} was given the rows {_line(rows)} to begin. Give whole numbers from 0 to {num_envs - 1}, each once."
        )
    return given.astype(np.intp)


def refuse_layouts(id: str, layouts: Any, num_envs: int) -> None:
    """Raises ConfigError unless `layouts` says of some environments, by number, how they are to be laid out."""
    if not isinstance(layouts, Mapping) or not all(isinstance(layout, Mapping) for layout in layouts.values()):
        raise ConfigError(
            f"{id} was given {_line(layouts)} as layouts. Give a mapping from numbers of environments to layouts, as "
            "`layout` returns them."
        )
    for i in layouts:
        if not _is_whole(i) or not 0 <= i < num_envs:
            raise ConfigError(f"a layout was given for environment {i!r:.40}. There are 0 to {num_envs - 1}.")


def read_goals(id: str, xy: Any, mask: Any, num_envs: int) -> tuple[Array, NDArray[np.bool_]]:
    """New places of goals [N, 2], metres, and in which environments they are meant [N]; None: in all.

    Raises ConfigError for another shape, a mask that is not of booleans, and a place that is meant and no number.
    """
    goals, where = _numbers(xy), np.ones(num_envs, bool) if mask is None else np.asarray(mask)
    if where.shape != (num_envs,) or where.dtype != np.bool_:
        raise ConfigError(f"{id} was given the mask {_line(mask)} of goals. Give {num_envs} booleans, or None for all.")
    if goals.shape != (num_envs, 2) or not np.isfinite(goals[where]).all():
        raise ConfigError(f"{id} was given goals {_line(xy)}. Give {num_envs} finite pairs of metres.")
    return goals, where


def _line(given: Any) -> str:
    """How it reads, cut short, in one line."""
    return f"{' '.join(repr(given).split()):.60}"


def _numbers(given: Any) -> Array:
    """As an array of doubles; one that is not a number for what is none."""
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        return np.asarray(np.nan)


def refuse_another(state: Mapping[str, Any], own: Mapping[str, Any], num_envs: int) -> None:
    """Raises ConfigError when a saved state is another world's, of another number of environments, or not whole.

    own: the state that the world is in now, whose entries and shapes are those to have.
    """
    if not isinstance(state, Mapping):
        raise ConfigError(f"the state is {state!r:.40}. Give what state_dict() returned.")
    missing = [name for name in own if name not in state]
    if missing:
        raise ConfigError(f"the state has no {', '.join(missing)}. Give all that state_dict() returned.")
    if state["world"] != own["world"] or len(state["episode_seed"]) != num_envs:
        have, want = f"{len(state['episode_seed'])} × {state['world']}", f"{num_envs} × {own['world']}"
        raise ConfigError(f"the state is of {have}, not of {want}. Make the world with the saved settings.")
    for name, there in own.items():
        given = state[name]
        entries: list[tuple[str, Any]]
        if isinstance(there, dict) and name not in ("scales", "seeds"):  # which have entries of their own
            entries = [(f"{name}.{key}", given.get(key) if isinstance(given, Mapping) else None) for key in there]
            shapes = [np.shape(value) for value in there.values()]
        elif isinstance(there, np.ndarray):
            entries, shapes = [(name, given)], [there.shape]
        elif isinstance(there, list):  # empty, or of all environments
            entries, shapes = ([(name, given)] if len(given) not in (0, num_envs) else []), [(num_envs,)]
        else:
            continue
        for (what, value), shape in zip(entries, shapes, strict=False):
            if np.shape(value) != shape:
                raise ConfigError(
                    f"the state's {what} has the shape {np.shape(value)} instead of {shape}. "
                    "Give all that state_dict() returned, to a world made with the saved settings."
                )


def refuse_no_row(id: str, i: Any, num_envs: int) -> None:
    """Raises ConfigError unless `i` is the number of an environment."""
    if not _is_whole(i) or not 0 <= i < num_envs:
        there = "only environment 0" if num_envs == 1 else f"environments 0 to {num_envs - 1}"
        raise ConfigError(f"{id} was asked about environment {i!r:.40}, and has {there}. Give one of these.")


def refuse_no_size(width: Any, height: Any) -> None:
    """Raises ConfigError unless both are whole numbers of pixels, 1 or more."""
    if not all(_is_whole(side) and side >= 1 for side in (width, height)):
        raise ConfigError(
            f"a picture of {width!r:.20} × {height!r:.20} was asked for. Give a width and height in whole pixels, "
            "1 or more."
        )


class _Closed:
    """Stands where a closed world had its simulations, so that a step need not ask whether they are there."""

    __slots__ = ("_id",)

    def __init__(self, id: str) -> None:
        self._id = id

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(f"{self._id} is closed. Make another one.")

    def __getitem__(self, at: Any) -> Any:
        return self.rows

    def __setitem__(self, at: Any, value: Any) -> None:
        self.rows  # noqa: B018  (it raises)

    def __len__(self) -> int:
        return int(self.rows)


def closed(id: str) -> Any:
    """What a world has in place of its simulations once it is closed; every use of it raises ConfigError."""
    return _Closed(id)


def refuse_counts(id: str, num_envs: Any, threads: Any) -> None:
    """Raises ConfigError unless both are whole numbers, 1 or more; True is none."""
    for option, given, what in (("num_envs", num_envs, "environments"), ("threads", threads, "threads")):
        if not _is_whole(given) or given < 1:
            raise ConfigError(f"{id} was asked for {given!r:.40} {what}. Give {option} = 1 or more.")


# --- a world as data --------------------------------------------------------------------------------------------------

# What `info` holds beside the constraints, and what their sum is called.
RESERVED = ("goal_met", "diverged", "cost_sum")
# A world whose things include these has two agents; the scene of each calls its own goal "goal", and the other "other".
_GOALS_OF_TWO = frozenset({"goal_red", "goal_blue"})
_OTHER = "other"
_KNOWN_TASKS = (ReachGoal, PressButton, PushToGoal, RunCircle, RunFar)
_KNOWN_RULES = (Inside, Touching, TouchingScenery, WrongButton, Moving, Beyond)
_PARTS_OF_A_TASK = ("renews", "ends", "stages", "target", "touches", "measure", "achieved", "reward")
_PARTS_OF_A_RULE = ("name", "touches", "indicator")
_SIZES = {"sphere": 1, "cylinder": 2, "box": 3}
_PROBES = 2  # environments of the made-up scene that a task or rule of one's own is tried on


def check(world: World) -> None:
    """Everything that `world` must be before it can run.

    Raises ConfigError naming the first field, thing, task or rule that cannot be used. A task or rule of one's own is
    tried on a made-up scene, so that steps need not look at what it returns.
    """
    _check_fields(world)
    _check_things(world)
    _check_task(world)
    _check_rules(world)
    _check_fades(world)
    if type(world.task) not in _KNOWN_TASKS:
        _try_task(world)
    for what, part in (("agent", world.agent), ("task", world.task), *(("thing", thing) for thing in world.things),
                       *(("rule", rule) for rule in world.rules)):  # fmt: skip
        try:
            hash(part)
        except TypeError:
            raise ConfigError(
                f"the {what} {part!r:.80} can change. Give frozen dataclasses, with tuples in place of lists."
            ) from None


def kind_called(name: str, things: Mapping[str, Thing], rule: str) -> Thing:
    """The kind that a rule is about.  Raises ConfigError when it is absent."""
    if name not in things:
        known = ", ".join(things) or "none"
        raise ConfigError(f"cost {rule!r} is about {name!r}, which is not among the things: {known}.")
    return things[name]


def refuse_two_agents(id: str, world: World) -> None:
    """Raises ConfigError for a world of two agents, each with a goal of its own."""
    if _is_for_two(world):
        raise ConfigError(
            f"{id} is a world of two agents, since it has {' and '.join(sorted(_GOALS_OF_TWO))}. "
            "Open it with multi_goal.MultiGoalWorlds, or give it one goal."
        )


def refuse_agent_without_room(world: World) -> None:
    """Raises ConfigError when the agent's keepout fits in no square where it may start."""
    _refuse_no_room("agent", world.agent_within, world.keepout_m, world.extent_m)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _positive(what: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"{what} is {value!r:.40}. Give a number above 0.")


def _not_negative(what: str, value: Any) -> None:
    if not _is_number(value) or value < 0:
        raise ConfigError(f"{what} is {value!r:.40}. Give a number, 0 or more.")


def _count(what: str, value: Any) -> None:
    if not _is_whole(value) or value < 1:
        raise ConfigError(f"{what} is {value!r:.40}. Give a whole number, 1 or more.")


def _one_of(what: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{what} is {value!r:.40}. Give {', '.join(map(repr, known[:-1]))} or {known[-1]!r}.")


def _tuple(what: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(f"{what} is {value!r:.60}. Give a tuple, () for none.")


def _check_fields(world: World) -> None:
    if not isinstance(world.agent, Agent):
        raise ConfigError(
            f"agent is {world.agent!r:.40}. Give one of trueline.safety.worlds.agents: {', '.join(AGENTS).upper()}."
        )
    for name in ("things", "rules", "agent_within", "scenery", "fades"):
        _tuple(name, getattr(world, name))
    for name in ("extent_m", "floor_m", "gain_per_m"):
        _positive(name, getattr(world, name))
    for name in ("sight_m", "reward_clip"):
        if getattr(world, name) is not None:
            _positive(name, getattr(world, name))
    for name in ("steps", "substeps", "bins"):
        _count(name, getattr(world, name))
    _one_of("lidar", world.lidar, ("bins", "rays"))
    _one_of("compass", world.compass, (0, 2, 3))
    if world.agent_keepout_m is not None:
        _not_negative("agent_keepout_m", world.agent_keepout_m)
    _check_squares("agent_within", world.agent_within)


def _check_squares(what: str, squares: tuple[Square, ...]) -> None:
    _tuple(what, squares)
    for square in squares:
        four = isinstance(square, tuple) and len(square) == 4 and all(map(_is_number, square))
        if not four or square[0] > square[2] or square[1] > square[3]:
            raise ConfigError(f"{what} has the square {square!r:.60}. Give (x_min, y_min, x_max, y_max) in metres.")


def _refuse_no_room(what: str, within: tuple[Square, ...], keepout_m: float, extent_m: float) -> None:
    squares = within or ((-extent_m, -extent_m, extent_m, extent_m),)
    inner = shrunk(squares, keepout_m)
    area = f"a square of ±{extent_m:g} m" if not within else f"any of the squares {within!r:.60} m"
    if not inner:
        raise ConfigError(
            f"there is no room for the {what}, whose keepout is {keepout_m:g} m, in {area}. "
            "Give it more room or a smaller keepout."
        )
    if len(inner) > 1 and not any((c - a) * (d - b) > 0 for a, b, c, d in inner):
        raise ConfigError(f"the {what} has room only on points and lines of {area}. Give one of them an area.")


def _check_things(world: World) -> None:
    for thing in world.things:
        if not isinstance(thing, Thing):
            raise ConfigError(f"things holds {thing!r:.40}. Give things, such as objects.hazards(4).")
    names = [thing.name for thing in world.things]
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(f"two kinds of thing are called {name!r}. Give one of them a name of its own.")
    taken = {"agent", "agent_rot", "agent_angles", "chosen", "floor", SCENERY, world.agent.root.name}
    taken |= {f"{name}_rot" for name in names}
    single = set[str]()
    for thing in world.things:
        name = thing.name
        if not isinstance(name, str) or not name or name in taken:
            raise ConfigError(f"a kind of thing is called {name!r:.40}, which has a meaning already. Rename it.")
        _count(f"the count of {name!r}", thing.count)
        if thing.single and thing.count > 1:
            raise ConfigError(f"there are {thing.count} of {name!r}. Give a kind of several a name that ends in s.")
        for one in thing.each():
            if one in single:
                raise ConfigError(f"two things are called {one!r}. Give the kind {name!r} another name.")
            single.add(one)
        _check_thing(world, thing)


def _check_thing(world: World, thing: Thing) -> None:
    name = thing.name
    _one_of(f"{name!r} stands", thing.stands, ("mark", "fixed", "free", "driven"))
    _not_negative(f"the keepout_m of {name!r}", thing.keepout_m)
    if not thing.solids:
        raise ConfigError(f"{name!r} has no solids. Give it one, such as Solid('sphere', (0.1,)).")
    for solid in thing.solids:
        _one_of(f"a solid of {name!r}", solid.kind, tuple(_SIZES))
        if len(solid.size_m) != _SIZES[solid.kind]:
            raise ConfigError(
                f"a {solid.kind} of {name!r} has the size {solid.size_m!r:.40}. Give {_SIZES[solid.kind]} in metres."
            )
        for size in solid.size_m:
            _positive(f"a size of the {solid.kind} of {name!r}", size)
    if thing.moves != thing.turned:
        has = "moves, so it is drawn a rotation" if thing.moves else "stays, so it is drawn no rotation"
        raise ConfigError(f"{name!r} {has}. Give turned={thing.moves}.")
    if thing.moves:
        _positive(f"the density of {name!r}", thing.density)
    if thing.stands == "driven":
        _positive(f"the travel_m of {name!r}", thing.travel_m)
    if thing.at:
        pairs = all(isinstance(xy, tuple) and len(xy) == 2 and all(map(_is_number, xy)) for xy in thing.at)
        if len(thing.at) != thing.count or not pairs:
            raise ConfigError(f"{name!r} has the places {thing.at!r:.60} for {thing.count}. Give (x, y) for each.")
        return
    _check_squares(f"within of {name!r}", thing.within)
    _refuse_no_room(repr(name), thing.within, thing.keepout_m, world.extent_m)


def _is_for_two(world: World) -> bool:
    return {thing.name for thing in world.things} >= _GOALS_OF_TWO


def _lacks(part: Any, asked: tuple[str, ...]) -> list[str]:
    return [name for name in asked if not hasattr(part, name)]


def _check_task(world: World) -> None:
    task, who = world.task, type(world.task).__name__
    lacking = _lacks(task, _PARTS_OF_A_TASK)
    if isinstance(task, type) or lacking:
        fault = "a class" if isinstance(task, type) else f"without {', '.join(lacking)}"
        raise ConfigError(f"the task {task!r:.60} is {fault}. Give an object as tasks.Task describes it.")
    _one_of(f"renews of the task {who}", task.renews, ("place", "choice", "stage", None))
    radius_m = getattr(task, "radius_m", None)
    if radius_m is not None:
        _positive(f"the radius_m of the task {who}", radius_m)
    if task.renews == "choice" and task.target is None:
        raise ConfigError(f"the task {who} renews its goal by choice and has no target. Give the kind to choose from.")
    if task.renews == "stage" and not task.stages:
        raise ConfigError(f"the task {who} renews its goal by stages and has none. Give stages, or renew by place.")
    needs = [*(("goal",) if task.renews else ()), *getattr(task, "needs", ()), task.target, task.touches]
    for name in dict.fromkeys(name for name in needs if name is not None):
        if name == SCENERY or (name == "goal" and _is_for_two(world)):
            continue
        if world.thing(name) is None:
            known = ", ".join(thing.name for thing in world.things) or "none"
            raise ConfigError(f"the task {who} needs {name!r}, which is not among the things: {known}. Add it.")
    _check_touch(world, f"the task {who}", task.touches)


def _check_touch(world: World, who: str, name: Any) -> None:
    """Whether contacts of what is called `name` can be counted."""
    if name is None or (name == _OTHER and _is_for_two(world)):
        return
    if name == SCENERY:
        if not world.scenery:
            raise ConfigError(f"{who} is about touching the scenery, and there is none. Give scenery, or leave it out.")
        return
    thing = kind_called(name, {thing.name: thing for thing in world.things}, who)
    if not thing.is_body:
        raise ConfigError(f"{who} is about touching {name!r}, which nothing touches. Use 'inside'.")


def _check_rules(world: World) -> None:
    things = {thing.name: thing for thing in world.things}
    for rule in world.rules:
        lacking = _lacks(rule, _PARTS_OF_A_RULE)
        if isinstance(rule, type) or lacking:
            fault = "a class" if isinstance(rule, type) else f"without {', '.join(lacking)}"
            raise ConfigError(f"the rule {rule!r:.60} is {fault}. Give an object as costs.Cost describes it.")
        if not isinstance(rule.name, str) or not rule.name:
            raise ConfigError(f"a cost is called {rule.name!r:.40}. Give it a name, such as 'cost_hazards'.")
        if rule.name in RESERVED:
            raise ConfigError(f"a cost is called {rule.name!r}, as something else in info is. Give it another name.")
    for name, times in Counter(rule.name for rule in world.rules).items():
        if times > 1:
            raise ConfigError(f"two costs are called {name!r}. Give one of them a name of its own.")
    for rule in world.rules:
        _check_rule(world, rule, things)
    for rule in world.rules:
        if type(rule) not in _KNOWN_RULES:
            _try_rule(world, rule)


def _check_rule(world: World, rule: Cost, things: Mapping[str, Thing]) -> None:
    who = f"cost {rule.name!r}"
    if isinstance(rule, Inside | Moving):
        thing = kind_called(rule.of, things, rule.name)
        if isinstance(rule, Inside):
            _positive(f"the radius_m of {who}", rule.radius_m)
        else:
            _positive(f"the from_m_per_s of {who}", rule.from_m_per_s)
            if not thing.moves:
                raise ConfigError(f"{who} is about {rule.of!r} moving, which it never does. Use 'touching'.")
    elif isinstance(rule, Beyond):
        _positive(f"the x_m of {who}", rule.x_m)
        if rule.y_m is not None:
            _positive(f"the y_m of {who}", rule.y_m)
    elif isinstance(rule.touches, str) and rule.touches not in (SCENERY, _OTHER):
        kind_called(rule.touches, things, rule.name)
    _check_touch(world, who, rule.touches)
    if isinstance(rule, WrongButton) and world.task.target != rule.of:
        raise ConfigError(
            f"{who} is about the wrong of {rule.of!r}, and the task chooses none of them as the right one. "
            "Use 'touching', or a task with this target."
        )


def _made_up(world: World) -> Scene:
    """A scene in which things stand side by side, the agent in the middle, and nothing moves or touches."""
    n, counts = _PROBES, {thing.name: thing.count for thing in world.things}
    if _is_for_two(world):
        counts["goal"] = 1
    places = {name: np.zeros((n, k, 3)) for name, k in counts.items()}
    for at, place in enumerate(places.values()):
        place[:, :, 0], place[:, :, 1] = at + 1.0, np.arange(place.shape[1])
    return Scene(
        agent=np.zeros((n, 3)),
        rotation=np.broadcast_to(np.eye(3), (n, 3, 3)).copy(),
        velocity=np.zeros((n, 2)),
        places=places,
        speeds={thing.name: np.zeros((n, thing.count, 3)) for thing in world.things if thing.moves},
        touches={name: np.zeros((n, counts.get(name, 1))) for name in world.touched},
        chosen=np.zeros(n, np.intp),
        wait=np.zeros(n, np.int64),
    )


@contextlib.contextmanager
def _trying(who: str) -> Iterator[None]:
    """Whoever asks a scene for what it has not is told so; what divides by nothing there is not warned of."""
    try:
        with np.errstate(all="ignore"):
            yield
    except KeyError as error:
        raise ConfigError(
            f"{who} asks the scene for {error.args[0]!r}, which is not there. "
            "Add such a thing; contacts are counted only of what `touches` names."
        ) from None


def _form(out: Any) -> str:
    return f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else f"{out!r:.40}"


def _is_array(out: Any, kind: str, dimensions: int) -> bool:
    """Whether it is an array of this kind of number, with a row for each made-up environment."""
    return isinstance(out, np.ndarray) and out.dtype.kind == kind and out.ndim == dimensions and len(out) == _PROBES


def _try_rule(world: World, rule: Cost) -> None:
    """Refuses a rule whose indicator is no array of booleans [N].

    Its type tells for every scene what values of one scene could not: a number that is 0 here may be 1.3 elsewhere.
    """
    with _trying(f"cost {rule.name!r}"):
        out = rule.indicator(_made_up(world))
    if not _is_array(out, "b", 1):
        raise ConfigError(
            f"the indicator of cost {rule.name!r} is {_form(out)} for {_PROBES} environments. "
            f"Return one boolean for each, such as distance < 0.3: bool [{_PROBES}]."
        )


def _try_task(world: World) -> None:
    """Refuses a task unless it measures floats [N, m], its goals are reached as booleans [N] and it pays floats [N].

    Also one that pays what is no number for a small step across a scene in which nothing lies under the agent.
    """
    task, who = world.task, f"the task {type(world.task).__name__}"
    scene = _made_up(world)
    scene.agent[:] = (0.3, -0.2, 0.1), (-0.4, 0.1, 0.1)
    scene.velocity[:] = (0.5, 0.1), (0.2, -0.3)
    with _trying(who):
        before = task.measure(scene)
        scene.agent[:, :2] += 0.01 * scene.velocity
        now = task.measure(scene)
        if not _is_array(now, "f", 2):
            raise ConfigError(
                f"what {who} measures is {_form(now)} for {_PROBES} environments. "
                f"Return a row of floats for each, such as scene.ground_distance('goal'): float64 [{_PROBES}, m]."
            )
        met = task.achieved(scene, now)
        if not _is_array(met, "b", 1):
            raise ConfigError(
                f"what {who} has achieved is {_form(met)} for {_PROBES} environments. "
                f"Return one boolean for each, such as now[:, 0] < 0.3: bool [{_PROBES}]."
            )
        reward = task.reward(scene, before, now, met)
    if not _is_array(reward, "f", 1):
        raise ConfigError(
            f"the reward of {who} is {_form(reward)} for {_PROBES} environments. "
            f"Return one float for each, such as before[:, 0] - now[:, 0]: float64 [{_PROBES}]."
        )
    if not np.isfinite(reward).all():
        raise ConfigError(f"the reward of {who} is {reward.tolist()} for a small step. Return numbers.")


def _check_fades(world: World) -> None:
    names = [thing.name for thing in world.things]
    untils = ["goal", *(rule.name for rule in world.rules)]
    for fade in world.fades:
        if fade.of not in names:
            raise ConfigError(f"{fade.of!r} is to fade, which is not among the things: {', '.join(names) or 'none'}.")
        _count(f"the steps in which {fade.of!r} fades", fade.steps)
        if fade.until not in untils:
            raise ConfigError(
                f"{fade.of!r} fades until {fade.until!r}.{nearest(fade.until, untils)} Give {' or '.join(untils)}."
            )
