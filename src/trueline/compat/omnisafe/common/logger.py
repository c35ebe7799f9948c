"""The log that an environment's `spec_log` writes to: values of its own, averaged over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trueline.core.errors import ConfigError

__all__ = ["Logger"]


class Logger:
    """Values by name since they were last taken."""

    def __init__(self) -> None:
        """Nothing stored."""
        self._stored: dict[str, list[float]] = {}

    def store(self, data: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Remember one value, or several in a tensor or list, under each name.

        Raises ConfigError for a value that is no number.
        """
        for name, value in {**(data or {}), **values}.items():
            try:
                numbers = torch.as_tensor(value, dtype=torch.float64).ravel().tolist()
            except (TypeError, ValueError, RuntimeError):
                raise ConfigError(f"{name} was logged as {value!r}. Log a number, or numbers.") from None
            self._stored.setdefault(name, []).extend(numbers)

    def take(self) -> dict[str, float]:
        """The mean of every value stored since the last call, which begin anew."""
        means = {name: sum(values) / len(values) for name, values in self._stored.items() if values}
        self._stored.clear()
        return means
