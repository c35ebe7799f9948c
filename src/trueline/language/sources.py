"""Where rows of text data come from: settings, files of several kinds, builtin data, and who labelled them.

Rows are numbered from 1; in JSON lines that is the line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trueline.core import registry
from trueline.core.config import Config
from trueline.core.errors import ConfigError, MissingExtra, RunError, nearest
from trueline.core.run import resolve
from trueline.language.formats import FORMATS, UNUSABLE, BadRow, Format, shown, unusable
from trueline.language.hub_data import HUB, HubData, hub_rows
from trueline.language.records import Table, prompt_of, sha256_of
from trueline.language.splits import split_of_text

__all__ = [
    "BUILTIN",
    "LABELS",
    "MADE",
    "Data",
    "exposed",
    "labelled_by",
    "load",
    "named_alone",
    "overlap",
    "places_of",
    "rows_of",
    "teaches_chats",
]

BUILTIN = "builtin:"
LABELS = "labels:"  # begins the identity of labels of which nobody says who gave them
MADE = "made.json"  # beside rows that a run wrote: how it made them, and by whom they were judged
_SPLITS = "dataset_dict.json"  # in the folder of a saved data set with several splits
_TEXTS = ("text", "messages", "prompt", "completion", "chosen", "response_0")  # columns that are text, or messages


class Data(Config):
    """Rows of text, and how they are used.

    `path` is a JSON-lines or Parquet file, a folder of either, a data set saved by `datasets`, an artefact of another
    run (run://ID/name), hub:OWNER/NAME on Hugging Face's hub (`hub_data.py`), or builtin:NAME. Several paths with
    `weights` are mixed in those shares; without, every row of all of them comes once an epoch.
    """

    path: str | tuple[str, ...]
    weights: tuple[float, ...] = ()  # share of the rows that each path gives
    split: str = "train"  # of a saved data set with several, of the hub's, or of a builtin one
    options: Mapping[str, Any] = {}  # keyword arguments of a builtin one
    leave_for_audits: bool = False  # leave out the prompts of a file that audits draw their cases from
    limit: int | None = Field(None, ge=1)  # the first rows of each path
    shuffle: bool = True
    # Plain prompts are a user's turn and plain answers the assistant's, in the model's template. What is only asked, in
    # on-line training as in audits, always is.
    as_chat: bool = False
    unusable: Literal["refuse", "drop"] = "refuse"  # empty answers, pairs of equal ones, contradictory labels
    long_prompt: Literal["refuse", "drop", "truncate-left"] = "refuse"  # a prompt that leaves no room for an answer
    long_answer: Literal["cut", "drop", "refuse"] = "cut"  # one that leaves the context: cut at its end

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.paths):
            raise ValueError(
                f"weights has {len(self.weights)} numbers, but there are {len(self.paths)} paths. Give one for each."
            )
        if any(not (math.isfinite(w) and w > 0) for w in self.weights):
            raise ValueError(f"weights is {list(self.weights)}, but every weight should be above 0.")
        if not self.paths:
            raise ValueError("path is empty. Name at least one file.")
        if self.options and not any(path.startswith(BUILTIN) for path in self.paths):
            raise ValueError("options are given, but no path is a builtin one, which alone takes any. Leave them out.")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths."""
        return (self.path,) if isinstance(self.path, str) else self.path


def load(data: Data, accepts: Collection[str], root: Path | str = ".") -> list[Table]:
    """The records of every path, all of formats in `accepts`; `root` is the folder of runs.

    Raises ConfigError that names the row and the column, RunError for a path that does not exist.
    """
    return [_table(path, data, accepts, Path(root)) for path in data.paths]


def named_alone(path: str) -> bool:
    """Whether the data are known by their name and lie in no file or folder of the user's."""
    return path.startswith((BUILTIN, HUB))


def places_of(path: str, split: str = "train", root: Path | str = ".") -> tuple[str, ...]:
    """What files and data of the hub are known by wherever they are named, each split that has a place of its own.

    A file or a folder is its whole path, where a split of a saved data set is a folder within; of the hub it is a name
    and a split (`HubData.places`).  Raises ConfigError for a reference to the hub of another form, RunError for a path
    that does not exist.
    """
    if path.startswith(HUB):
        return HubData.of(path).places(split)
    place = resolve(path, Path(root)).resolve()
    return (str(place / split if (place / _SPLITS).is_file() else place),)


def overlap(place: str, other: str) -> bool:
    """Whether two places (`places_of`) share rows; one of the hub without a split is all of its splits."""
    return place == other or place.startswith(f"{other} [") or other.startswith(f"{place} [")


def exposed(data: Data, root: Path | str = ".") -> tuple[str, ...]:
    """Places (`places_of`) of which a training sees every prompt, those that audits draw from as well."""
    if data.leave_for_audits:
        return ()
    paths = (path for path in data.paths if not path.startswith(BUILTIN))
    return tuple(place for path in paths for place in places_of(path, data.split, root))


def labelled_by(data: Data, root: Path | str = ".") -> tuple[str, ...]:
    """Identities (`scorers.identity`) of what judged the rows, where a run of ours made them and says so.

    Who labelled rows that came in a user's file, with a world of text or from the hub, nobody says: those labels are
    known by themselves, a file's by its bytes and all others by their name, of the hub's in whatever configuration,
    revision and split.  Raises RunError for a path that is not there, and for a file that should say who judged and is
    damaged, ConfigError for a reference to the hub of another form.
    """
    found: dict[str, None] = {}
    for path in data.paths:
        if named_alone(path):
            found[f"{LABELS}{HubData.of(path).known_as if path.startswith(HUB) else path}"] = None
            continue
        rows = resolve(path, Path(root))
        card = (rows if rows.is_dir() else rows.parent) / MADE
        found |= dict.fromkeys(_judges_of(card) if card.is_file() else [f"{LABELS}{_bytes_of(rows)}"])
    return tuple(found)


def _bytes_of(path: Path) -> str:
    """Hash of a file, or of all files in a folder."""
    found = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def _judges_of(card: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(card.read_text(encoding="utf-8"))["made"].get("judged_by", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{card} is damaged, so nobody knows who judged its rows. Make them again.") from None


def teaches_chats(data: Data, root: Path | str = ".") -> bool:
    """Whether the rows of any path are chats, or plain text that becomes some.  The first row tells for all."""
    if data.as_chat:
        return True
    for path in data.paths:
        if path.startswith(BUILTIN):
            continue  # rows of worlds are plain text
        _, columns = next(rows_of(path, data.split, root), (0, {}))
        if any(isinstance(columns.get(name), list | tuple) for name in _TEXTS):
            return True
    return False


def _table(path: str, data: Data, accepts: Collection[str], root: Path) -> Table:
    if path.startswith(HUB):
        name, there = hub_rows(path, data.split)
    else:
        name = path if named_alone(path) else resolve(path, root).name
        there = rows_of(path, data.split, root, data.options)
    rows = list(_first(there, data.limit))
    if not rows:
        raise ConfigError(f"{name} has no rows. Give data with at least one.")
    form = _format_of(name, rows, accepts)
    records, numbers, dropped = [], [], Counter[str]()
    for number, columns in rows:
        try:
            record = form.record(columns)
        except BadRow as problem:
            raise ConfigError(f"row {number} of {name} {problem}") from None
        # Builtin data are drawn by split already.
        apart = data.leave_for_audits and not path.startswith(BUILTIN)
        if apart and split_of_text(prompt_of(record)).split != "train":
            dropped["kept for audits"] += 1
            continue
        reason = unusable(record)
        if reason and data.unusable == "refuse":
            raise ConfigError(f"row {number} of {name} {UNUSABLE[reason]}. Correct it, or set unusable = 'drop'.")
        if reason:
            dropped[reason] += 1
            continue
        records.append(record)
        numbers.append(number)
    if not records:
        raise ConfigError(f"no row of {name} is left after {sum(dropped.values())} were dropped. Give other data.")
    return Table(name, form.name, tuple(records), tuple(numbers), dict(dropped), sha256_of(records))


def _format_of(name: str, rows: Sequence[tuple[int, Any]], accepts: Collection[str]) -> Format:
    """The most special format of the first row's columns; of all rows' where the first one lacks something.

    A row that lacks a column must not make a pair into a list of prompts.
    """
    whole = {column for _, columns in rows for column, value in columns.items() if value is not None}
    form = next((form for form in FORMATS.values() if form.fits(whole)), None)
    if form is None or form.name not in accepts:
        has = f"is {form.name} data" if form else "has no layout that is known"
        wanted = "; ".join(FORMATS[known].in_words().removesuffix(".") for known in FORMATS if known in accepts)
        raise ConfigError(f"{name} {has} (columns {', '.join(sorted(whole)) or 'none'}). Give other rows: {wanted}.")
    return form


def _first(rows: Iterator[tuple[int, Any]], limit: int | None) -> Iterator[tuple[int, Any]]:
    for taken, row in enumerate(rows):
        if limit is not None and taken >= limit:
            return
        yield row


Numbered = Iterator[tuple[int, Mapping[str, Any]]]


def rows_of(
    path: str, split: str = "train", root: Path | str = ".", options: Mapping[str, Any] | None = None
) -> Numbered:
    """The numbered rows behind a path of `Data`, as they lie there; `options` are a builtin one's.

    Raises RunError for a path that does not exist, ConfigError for a kind of file that is not known, and for one that
    cannot be read, MissingExtra without what reads it.
    """
    if path.startswith(BUILTIN):
        made = registry.load("text-data", path.removeprefix(BUILTIN))(split, **(options or {}))
        return iter(enumerate(made, 1))
    if path.startswith(HUB):
        return hub_rows(path, split).numbered
    return _read(resolve(path, Path(root)), split)


def _read(path: Path, split: str) -> Numbered:
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", _SPLITS, "state.json")):
            return _saved(path, split)
        return _folder(path)
    if path.suffix in (".jsonl", ".json"):
        return _jsonl(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise ConfigError(f"{path} is neither .jsonl nor .parquet nor a folder of such. Convert it to one of them.")


def _jsonl(path: Path) -> Numbered:
    with open(path, encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line, number, path.name)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not text in UTF-8 ({error.reason}). Save it as UTF-8.") from None


def _parsed(line: str, number: int, name: str) -> Mapping[str, Any]:
    try:
        columns = json.loads(line)
    except ValueError as error:
        raise ConfigError(
            f"row {number} of {name} is not JSON ({error}). Write one JSON object on each line."
        ) from None
    if not isinstance(columns, dict):
        raise ConfigError(f"row {number} of {name} is {shown(columns)}. Write one JSON object on each line.")
    return columns


def _parquet(path: Path) -> Numbered:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra("language", "data in Parquet") from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                for columns in batch.to_pylist():
                    number += 1
                    yield number, columns
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{path} cannot be read as Parquet ({error}). Write it again.") from None


def _folder(path: Path) -> Numbered:
    shards = sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".parquet"))
    if not shards:
        raise ConfigError(f"{path} holds neither .jsonl nor .parquet files. Name the folder that does.")
    number = 0
    for shard in shards:
        for _, columns in _read(shard, ""):
            number += 1
            yield number, columns


def _saved(path: Path, split: str) -> Numbered:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise MissingExtra("language", "a saved data set") from None
    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read as a saved data set ({error}). Save it again.") from None
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            known = sorted(map(str, loaded))
            raise ConfigError(
                f"{path} has no split {split!r}.{nearest(split, known)} Set split to {' or '.join(known)}."
            )
        loaded = loaded[split]
    return iter(enumerate(loaded, 1))
