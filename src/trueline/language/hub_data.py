"""Rows of data sets on Hugging Face's hub: hub:OWNER/NAME, with /CONFIGURATION and @REVISION where they are needed.

What was read once lies in the cache of `datasets`, so that the hub is asked only what changed, and without a network
what the cache has is read. Data sets that are read by a script of their own are refused by that library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from trueline.core.errors import ConfigError

__all__ = ["HUB", "HubData", "hub_rows"]

HUB = "hub:"

_REFERENCE = re.compile(r"hub:(?P<name>\w[\w.-]*/\w[\w.-]*)(/(?P<configuration>\w[\w.-]*))?(@(?P<revision>[\w./-]+))?")


class HubData(NamedTuple):
    """A data set on the hub."""

    name: str  # OWNER/NAME
    configuration: str | None
    revision: str | None  # branch, tag or commit

    @classmethod
    def of(cls, reference: str) -> Self:
        """What a reference names.  Raises ConfigError for one of another form."""
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            raise ConfigError(f"{reference} names no data set. Write hub:OWNER/NAME, or …/CONFIGURATION@REVISION.")
        return cls(found["name"], found["configuration"], found["revision"])


def hub_rows(reference: str, split: str = "train") -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The numbered rows of a split of a data set on the hub, or of its copy in the cache.

    Raises ConfigError for a name, configuration, revision or split that cannot be had, saying what the hub said.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    asked = HubData.of(reference)
    if Path(asked.name).exists():  # which `datasets` would read in place of the hub's
        raise ConfigError(f"here is a folder {asked.name}, so {reference} could be either. Give its path without hub:.")
    try:
        found = load_dataset(asked.name, asked.configuration, split=split, revision=asked.revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{reference} (split {split!r}) cannot be had from the hub: {said}. Correct the name, or download the data "
            "set and give its folder."
        ) from None
    return iter(enumerate(found, 1))
