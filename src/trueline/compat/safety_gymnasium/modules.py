"""The original's modules, by name, for scripts that import them: `install` puts them where `import` looks.

Only what scripts use is there. What is inside the original, such as its assets and base classes, is not, and importing
it raises ModuleNotFoundError with a sentence that says so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from copy import deepcopy
from types import ModuleType
from typing import Any

import gymnasium as gym

from trueline.compat import safety_gymnasium as ours
from trueline.compat.safety_gymnasium import env, levels, multi_agent, pictures, registration, vector, wrappers

NAME = "safety_gymnasium"

_WRAPPERS: dict[str, tuple[str, ...]] = {
    "autoreset": ("SafeAutoResetWrapper",),
    "env_checker": ("SafePassiveEnvChecker",),
    "gymnasium_conversion": ("Gymnasium2SafetyGymnasium", "SafetyGymnasium2Gymnasium"),
    "normalize": ("RunningMeanStd", "SafeNormalizeCost", "SafeNormalizeObservation", "SafeNormalizeReward"),
    "rescale_action": ("SafeRescaleAction",),
    "time_limit": ("SafeTimeLimit",),
    "unsqueeze": ("SafeUnsqueeze",),
}


def _named(module: ModuleType, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _contents() -> dict[str, dict[str, Any]]:
    """Module name -> what is in it, parents before their children."""
    agents = _named(multi_agent, ("SafeMAEnv", "make_ma"))
    out = {
        NAME: _named(ours, (*ours.__all__,)),
        f"{NAME}.version": {"__version__": ours.__version__},
        f"{NAME}.builder": {"Builder": env.SafetyEnv, "RenderConf": pictures.RenderConf},
        f"{NAME}.utils": {},
        f"{NAME}.utils.registration": _named(registration, ("make", "register", "safe_registry")),
        f"{NAME}.vector": _named(vector, vector.__all__),
        f"{NAME}.vector.async_vector_env": _named(vector, ("SafetyAsyncVectorEnv", "tile_images")),
        f"{NAME}.vector.sync_vector_env": _named(vector, ("SafetySyncVectorEnv", "tile_images")),
        f"{NAME}.vector.utils": {},
        f"{NAME}.vector.utils.tile_images": {"tile_images": vector.tile_images},
        f"{NAME}.wrappers": _named(wrappers, wrappers.__all__),
        **{f"{NAME}.wrappers.{module}": _named(wrappers, names) for module, names in _WRAPPERS.items()},
        f"{NAME}.tasks": {},
        f"{NAME}.tasks.safe_navigation": {},
        f"{NAME}.tasks.safe_multi_agent": {},
        f"{NAME}.tasks.safe_multi_agent.safe_mujoco_multi": agents,
        f"{NAME}.tasks.safe_multi_agent.tasks": {},
        f"{NAME}.tasks.safe_multi_agent.tasks.velocity": {},
        f"{NAME}.tasks.safe_multi_agent.tasks.velocity.safe_mujoco_multi": agents,
    }
    for task, config in levels.LEVEL_0.items():
        out[f"{NAME}.tasks.safe_navigation.{task}"] = {}
        out[f"{NAME}.tasks.safe_navigation.{task}.{task}_configs"] = {f"{task}_level0": deepcopy(config)}
    conversion = f"{NAME}.wrappers.gymnasium_conversion"
    out[conversion]["make_gymnasium_environment"] = registration.make_gymnasium_environment
    return out


class _NoMore(importlib.abc.MetaPathFinder):
    """Says of the original's other modules that they are not here."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.startswith(f"{NAME}."):
            raise ModuleNotFoundError(
                f"there is no {fullname} in Trueline's {NAME}: it has what scripts use, not the original's insides. "
                "See docs/migrating_from_safety_gymnasium.md.",
                name=fullname,
            )
        return None


def _put(name: str, contents: dict[str, Any]) -> None:
    module = ModuleType(name, f"Trueline's {name}, over trueline.compat.safety_gymnasium.")
    module.__path__ = []  # a package: looking for what it has not leads to _NoMore
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def install() -> None:
    """Let `import safety_gymnasium`, and its modules that scripts use, mean this package, in this process."""
    for name, contents in _contents().items():
        _put(name, contents)
    if not any(isinstance(finder, _NoMore) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoMore())


def restore_gymnasium_028() -> None:
    """Give back what Gymnasium had when Safety-Gymnasium's scripts were written, for the process of one script.

    A module of normalising wrappers, and wrappers that hand on attributes they do not have.
    """
    _put(
        "gymnasium.wrappers.normalize",
        _named(wrappers, ("NormalizeObservation", "NormalizeReward", "RunningMeanStd")),
    )
    if "__getattr__" not in vars(gym.Wrapper):
        gym.Wrapper.__getattr__ = wrappers.HandsOn.__getattr__  # type: ignore[attr-defined]
