"""The alignment cycle: rounds of train, audit and respond, and the runs it is made of.

The package can be called: `trueline.cycle("cycle.toml")` is what a user types for `trueline.api.cycle`.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # A function of this name in `trueline` would be shadowed as soon as anything imports a module of this package.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from trueline.api import cycle

        return cycle(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
