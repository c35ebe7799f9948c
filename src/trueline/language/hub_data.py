"""Rows of data sets on Hugging Face's hub: hub:OWNER/NAME, with /CONFIGURATION and @REVISION where they are needed.

A split is one of theirs, or as `datasets` writes a part or a sum of them, such as train[:1000]+test, or all.
What was read once lies in the cache of `datasets`, so that the hub is asked only what changed, and without a network
what the cache has is read. Data sets that are read by a script of their own are refused by that library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from trueline.core.errors import ConfigError, MissingExtra

__all__ = ["HUB", "HubData", "HubRows", "hub_rows"]

HUB = "hub:"

_REFERENCE = re.compile(r"hub:(?P<name>\w[\w.-]*/\w[\w.-]*)(/(?P<configuration>\w[\w.-]*))?(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


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

    @property
    def known_as(self) -> str:
        """What it is known by in whatever configuration and revision: they may have rows in common."""
        return f"{HUB}{self.name}"

    def places(self, split: str) -> tuple[str, ...]:
        """What its splits that are read are known by, such as "hub:OWNER/NAME [test]"; all of them by no split."""
        if split == "all":
            return (self.known_as,)
        return tuple(f"{self.known_as} [{part.partition('[')[0].strip()}]" for part in split.split("+"))

    def at(self, commit: str | None) -> str:
        """The reference to what lies at a commit; as it is where that is not known."""
        configuration, revision = self.configuration, commit or self.revision
        return f"{self.known_as}{f'/{configuration}' if configuration else ''}{f'@{revision}' if revision else ''}"


class HubRows(NamedTuple):
    """Rows of a data set on the hub."""

    reference: str  # to exactly these: with their commit, where that is known
    numbered: Iterator[tuple[int, Mapping[str, Any]]]


def hub_rows(reference: str, split: str = "train") -> HubRows:
    """The numbered rows of a split of a data set on the hub, or of its copy in the cache.

    Raises ConfigError for a name, configuration, revision or split that cannot be had, saying what the hub said, and
    MissingExtra without `datasets`.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError, DatasetsError
    except ImportError:
        raise MissingExtra("language", "data of the hub") from None

    asked = HubData.of(reference)
    if Path(asked.name).exists():  # which `datasets` would read in place of the hub's
        raise ConfigError(f"here is a folder {asked.name}, so {reference} could be either. Give its path without hub:.")
    try:
        found = load_dataset(asked.name, asked.configuration, split=split, revision=asked.revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        misnamed = isinstance(error, DatasetNotFoundError | ValueError)  # the latter of configurations and splits
        said = str(error) if misnamed else f"{error}{_reason(error)}"
        correct = "Correct the name, or download" if misnamed else "Download"
        raise ConfigError(
            f"{reference} (split {split!r}) cannot be had from the hub: {' '.join(said.split()).rstrip('.')}. "
            f"{correct} the data set and give its folder."
        ) from None
    return HubRows(asked.at(_commit(found.cache_files)), iter(enumerate(found, 1)))


def _reason(error: BaseException) -> str:
    """What an error came of, in a line: of rows that do not fit together `datasets` itself says only that it failed."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines()
    if cause is error or not lines:
        return ""
    # Between "Couldn't cast" and "because column names don't match" stand all columns of both files.
    return f" ({' … '.join(dict.fromkeys((lines[0], lines[-1])))})"


def _commit(files: Sequence[Mapping[str, str]]) -> str | None:
    """The commit of which rows were kept in the cache; its folders are named for it."""
    found = {part for file in files for part in Path(file["filename"]).parts if _COMMIT.fullmatch(part)}
    return found.pop() if len(found) == 1 else None
