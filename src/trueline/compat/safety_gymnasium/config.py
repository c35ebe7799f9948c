"""The original's `config` dict: what of it concerns this face, and what the world is asked to take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    num_steps: int | None = None  # after which an episode is truncated, if sooner than the world's own
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


def read(task_id: str, config: Mapping[str, Any] | None) -> Settings:
    """The settings of `config` for an environment.

    The agent and task are part of the id; given again, they must agree. Raises ConfigError naming the key.
    """
    name = parse(task_id)
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
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
    settings = Settings(**own, of_the_world=rest)
    width_height = tuple(settings.vision_size)
    if len(width_height) != 2 or not all(isinstance(x, int) and x > 0 for x in width_height):
        raise ConfigError(f"vision_env_conf.vision_size is {settings.vision_size!r}. Give (width, height) in pixels.")
    if settings.num_steps is not None and settings.num_steps < 1:
        raise ConfigError(f"num_steps is {settings.num_steps}. Give 1 or more.")
    return settings


def open_world(task_id: str, num_envs: int, settings: Settings, options: Mapping[str, Any]) -> VectorEnv:
    """`num_envs` copies of the world of `task_id`, with the config's remaining keys and the world's own options.

    Raises ConfigError naming a key or an option that this world does not take.
    """
    name, config = parse(task_id), settings.of_the_world
    if not config and not name.is_base:
        factory = registry.load("multi-agent env" if name.several_agents else "env", task_id)
        _refuse_unknown(task_id, options, factory)
        several: Any = factory(task_id, num_envs, **options) if name.several_agents else None
        return make(task_id, num_envs, **options) if several is None else several
    from trueline.safety import worlds

    if not name.is_base and task_id not in worlds.WORLDS:
        key, known = next(iter(config)), [*_OWN, "agent_name", "task_name"]
        raise ConfigError(f"{task_id} takes no config key {key!r}.{nearest(key, known)} It takes {', '.join(known)}.")
    from trueline.compat.safety_gymnasium.composed import composed

    _refuse_unknown(task_id, options, worlds.open_world)
    described: Any = worlds.open_world(task_id, composed(name, config), num_envs, **options)
    return described


def _refuse_unknown(task_id: str, options: Mapping[str, Any], factory: Any) -> None:
    takes = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return
    own = set(takes) - {"id", "num_envs", "world"}
    for option in options:
        if option not in own:
            raise ConfigError(
                f"{task_id} takes no option {option!r}.{nearest(option, own)} It takes {', '.join(sorted(own))}."
            )
