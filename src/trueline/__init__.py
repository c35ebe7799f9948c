"""Trueline: train agents under constraints, audit them with statistical evidence, turn failures into the next round.

Everything public is imported when first used, so that `import trueline` stays cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline import cycle
    from trueline.api import (
        AuditResult,
        CycleResult,
        RunResult,
        SearchResult,
        SweepResult,
        audit,
        load,
        make,
        report,
        reproduce,
        resume,
        search,
        sweep,
        train,
        train_seeds,
    )

    __version__: str

__all__ = [
    "AuditResult",
    "CycleResult",
    "RunResult",
    "SearchResult",
    "SweepResult",
    "__version__",
    "audit",
    "cycle",
    "load",
    "make",
    "report",
    "reproduce",
    "resume",
    "search",
    "sweep",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("trueline")
    if name == "cycle":
        return importlib.import_module("trueline.cycle")  # a package that can be called, see there
    if name in __all__:
        return getattr(importlib.import_module("trueline.api"), name)
    raise AttributeError(f"module 'trueline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
