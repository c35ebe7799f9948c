"""The original's `config` dict: what of it concerns this face, and what the world is asked to take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from trueline.compat.safety_gymnasium.ids import parse
from trueline.core import registry
from trueline.core.errors import ConfigError, nearest
from trueline.rl.env import VectorEnv
from trueline.rl.worlds import make


@dataclass(frozen=True, slots=True)
class Settings:
    """A config, read."""

    observation_flatten: bool = True
    observe_vision: bool = False
    vision_size: tuple[int, int] = (256, 256)  # width, height
    debug: bool = False  # the keyboard acts instead of the action
    num_steps: int | None = None  # after which an episode is truncated, instead of the world's own
    randomize_layout: bool = True  # False: every episode starts as that of seed 0
    of_the_world: Mapping[str, Any] = field(default_factory=dict)  # keys handed on


_OWN = {
    "observation_flatten": "observation_flatten",
    "observe_vision": "observe_vision",
    "vision_env_conf.vision_size": "vision_size",
    "debug": "debug",
    "num_steps": "num_steps",
    "mechanism_conf.randomize_layout": "randomize_layout",
}
_DEFAULTS = {one.name: one.default for one in fields(Settings)}


def read(task_id: str, config: Mapping[str, Any] | None) -> Settings:
    """The settings of `config` for an environment.

    The agent and task are part of the id; given again, they must agree. Raises ConfigError naming the key.
    """
    name = parse(task_id)
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config is {config!r:.40} for {task_id}. Give a dict of settings.")
    for key, value in (config or {}).items():
        if key == "agent_name":
            if value != name.agent:
                raise ConfigError(f"config's agent_name is {value!r}, but {task_id} has {name.agent!r}. Change the id.")
        elif key == "task_name":
            if value not in (name.task, f"{name.task}Base"):
                raise ConfigError(f"config's task_name is {value!r}, but {task_id} has {name.task!r}. Change the id.")
        elif key in _OWN:
            own[_OWN[key]] = value
        else:
            rest[key] = value
    _check(own)
    return Settings(**own, of_the_world=rest)


def _check(own: dict[str, Any]) -> None:
    """Raises ConfigError for a value of a field of `Settings` that is none."""
    for key, field_name in _OWN.items():
        given = own.get(field_name, _DEFAULTS[field_name])
        if field_name == "vision_size":
            pair = isinstance(given, Sequence) and len(given) == 2
            if not pair or not all(_is_whole(pixels) and pixels > 0 for pixels in given):
                raise ConfigError(f"{key} is {given!r:.40}. Give (width, height) in pixels.")
            own[field_name] = tuple(given)
        elif field_name == "num_steps":
            if given is not None and (not _is_whole(given) or given < 1):
                raise ConfigError(f"{key} is {given!r:.40}. Give a whole number, 1 or more.")
        elif not isinstance(given, bool | np.bool_):
            raise ConfigError(f"{key} is {given!r:.40}. Give True or False.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def layout_seed(settings: Settings, seed: int | None) -> int | None:
    """What the next episode starts from: the seed given, or always 0 where layouts are not drawn at random.

    Raises ConfigError for a seed that could have no effect.
    """
    if settings.randomize_layout:
        return seed
    if seed is not None:
        raise ConfigError("a seed was given, but mechanism_conf.randomize_layout is False. Leave one out.")
    return 0


def open_world(task_id: str, num_envs: int, settings: Settings, options: Mapping[str, Any]) -> VectorEnv:
    """`num_envs` copies of the world of `task_id`, with the config's remaining keys and the world's own options.

    Raises ConfigError naming a key or an option that this world does not take.
    """
    name, config = parse(task_id), settings.of_the_world
    if not config and not name.is_base and not _goes_on(task_id, settings.num_steps):
        factory = registry.load("multi-agent env" if name.several_agents else "env", task_id)
        refuse_unknown(task_id, options, factory)
        several: Any = factory(task_id, num_envs, **options) if name.several_agents else None
        return make(task_id, num_envs, **options) if several is None else several
    from trueline.safety import worlds

    if not name.is_base and task_id not in worlds.WORLDS:
        key, known = next(iter(config)), [*_OWN, "agent_name", "task_name"]
        raise ConfigError(f"{task_id} takes no config key {key!r}.{nearest(key, known)} It takes {', '.join(known)}.")
    from trueline.compat.safety_gymnasium.composed import composed

    refuse_unknown(task_id, options, worlds.open_world)
    world = composed(name, config)
    if settings.num_steps is not None and settings.num_steps > world.steps:
        world = replace(world, steps=int(settings.num_steps))
    described: Any = worlds.open_world(task_id, world, num_envs, **options)
    return described


def _goes_on(task_id: str, num_steps: int | None) -> bool:
    """Whether episodes of a navigation world are to go on for longer than by themselves; shorter ones are cut."""
    if num_steps is None:
        return False
    from trueline.safety.worlds import WORLDS

    return task_id in WORLDS and num_steps > WORLDS[task_id].steps


def refuse_unknown(task_id: str, options: Mapping[str, Any], factory: Any) -> None:
    """Raises ConfigError for an option that a factory of worlds does not take."""
    takes = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return
    own = set(takes) - {"id", "num_envs", "world", "scenario", "conf"}
    for option in options:
        if option not in own:
            raise ConfigError(
                f"{task_id} takes no option {option!r}.{nearest(option, own)} It takes {', '.join(sorted(own))}."
            )
