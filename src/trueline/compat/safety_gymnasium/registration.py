"""`make` and `register`, and the ids that are there from the start."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from trueline.compat.safety_gymnasium import wrappers
from trueline.compat.safety_gymnasium.ids import Name, known, unknown_id
from trueline.core.errors import ConfigError

__all__ = ["make", "make_gymnasium_environment", "register", "safe_registry"]

safe_registry: set[str] = set()

_PACKAGE = "trueline.compat.safety_gymnasium"
_LIMITS = {"Circle": 500, "Run": 500, "Race": 500}  # steps; 1000 otherwise
_REWARD_THRESHOLDS = {"HalfCheetah": 4800.0, "Hopper": 3800.0, "Swimmer": 360.0, "Ant": 6000.0}  # of velocity tasks
_FORMULA_ONE_LIMIT = 50_000_000_000_000  # as registered; the task itself truncates at 1000
_AUTORESET: set[str] = set()  # ids whose environments reset themselves


def register(*, autoreset: bool = False, apply_api_compatibility: bool = False, **spec: Any) -> None:
    """Make an environment with six values per step known to `make`; takes what `gymnasium.register` takes.

    autoreset: reset at the end of an episode unless `make` says otherwise. Raises ConfigError for
    apply_api_compatibility, which was for environments of the API before Gymnasium.
    """
    if apply_api_compatibility:
        raise ConfigError("apply_api_compatibility is gone from Gymnasium. Let step() tell terminated from truncated.")
    safe_registry.add(spec["id"])
    if autoreset:
        _AUTORESET.add(spec["id"])
    gym.register(**spec)


def _kwargs(name: Name) -> dict[str, Any]:
    """What the environment of an id is made with."""
    kwargs: dict[str, Any] = {"task_id": name.task_id}
    if name.agent is None:
        return kwargs
    views: dict[str, dict[str, Any]] = {
        "": {},
        "Vision": {"observe_vision": True, "observation_flatten": False},
        "Debug": {"debug": True},
    }
    task = {"task_name": f"{name.task}Base"} if name.is_base else {}
    return {"config": {**task, **views[name.view], "agent_name": name.agent}, **kwargs}


def register_all() -> None:
    """Register every world that goes by one of the original's names, twice: with six values per step and with five."""
    for id, name in known().items():
        entry_point = "multi_agent:SafetyMultiAgentEnv" if name.several_agents else "env:SafetyEnv"
        limit = _FORMULA_ONE_LIMIT if name.task == "FormulaOne" else _LIMITS.get(name.task, 1000)
        spec: dict[str, Any] = {
            "max_episode_steps": limit,
            "reward_threshold": _REWARD_THRESHOLDS.get(name.body or ""),
            "disable_env_checker": name.several_agents,
        }
        safe_registry.add(id)
        # Written into the registry directly: `gymnasium.register` looks through all of it for each id.
        gym.registry[id] = EnvSpec(id=id, entry_point=f"{_PACKAGE}.{entry_point}", kwargs=_kwargs(name), **spec)
        gym.registry[name.gymnasium_id] = EnvSpec(
            id=name.gymnasium_id,
            entry_point=f"{__name__}:make_gymnasium_environment",
            kwargs={"env_id": name.gymnasium_id, **_kwargs(name)},
            **spec,
        )


def make(
    id: str | EnvSpec,
    max_episode_steps: int | None = None,
    autoreset: bool | None = None,
    apply_api_compatibility: bool | None = None,
    disable_env_checker: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The environment called `id`, which returns six values per step.

    max_episode_steps: truncate after so many steps instead of as registered; autoreset: begin the next episode in the
    step that ends one; disable_env_checker: do not look at the first results; kwargs: render_mode (None, human,
    rgb_array, depth_array, or with _list), width, height, camera_id, camera_name, config, and the world's own options.
    Raises UnknownName with the nearest id, and ConfigError for a setting that cannot be used.
    """
    if apply_api_compatibility:
        raise ConfigError("apply_api_compatibility is gone from Gymnasium. Let step() tell terminated from truncated.")
    if isinstance(id, EnvSpec):
        spec = id
    elif isinstance(id, str) and id in safe_registry:
        spec = gym.registry[id]
    else:
        raise unknown_id(id, safe_registry)
    given = deepcopy(spec.kwargs)
    for key, value in kwargs.items():
        merges = key == "config" and "config" in given and isinstance(value, Mapping)
        given[key] = {**given["config"], **value} if merges else value
    pictures = str(given.get("render_mode"))
    collect = pictures.endswith("_list")
    if collect:
        given["render_mode"] = pictures.removesuffix("_list")
    if spec.entry_point is None:
        raise ConfigError(f"{spec.id} is registered without an entry_point. Register it with one.")
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    env: Any = creator(**given)
    env.unwrapped.spec = EnvSpec(
        id=spec.id,
        entry_point=spec.entry_point,
        reward_threshold=spec.reward_threshold,
        nondeterministic=spec.nondeterministic,
        order_enforce=False,
        disable_env_checker=True,
        kwargs=given,
        vector_entry_point=spec.vector_entry_point,
    )
    if not (spec.disable_env_checker if disable_env_checker is None else disable_env_checker):
        env = wrappers.SafePassiveEnvChecker(env)
    if spec.order_enforce:
        env = wrappers.OrderEnforcing(env)
    limit = spec.max_episode_steps if max_episode_steps is None else max_episode_steps
    if limit is not None:
        env = wrappers.SafeTimeLimit(env, limit)
    if spec.id in _AUTORESET if autoreset is None else autoreset:
        env = wrappers.SafeAutoResetWrapper(env)
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            raise ConfigError(
                f"the wrapper {wrapper.name} of {spec.id} does not record its arguments. Wrap it yourself."
            )
        env = load_env_creator(wrapper.entry_point)(env=env, **wrapper.kwargs)
    return wrappers.RenderCollection(env) if collect else env


def make_gymnasium_environment(env_id: str, **kwargs: Any) -> Any:
    """The environment of a `…Gymnasium-v0` id, with five values per step: what `gymnasium.make` calls for these ids."""
    name, _, version = env_id.partition("-")
    if not name.endswith("Gymnasium"):
        raise ConfigError(
            f"{env_id} is not one of the ids with five values per step, such as {name}Gymnasium-{version}."
        )
    kwargs.pop("task_id", None)
    return wrappers.SafetyGymnasium2Gymnasium(make(f"{name.removesuffix('Gymnasium')}-{version}", **kwargs))
