"""Rows of text data, by the columns that TRL reads, and where they come from.

    format                columns                                              optional
    language-modelling    text | messages
    prompt                prompt
    prompt-completion     prompt, completion
    preference            chosen, rejected                                     prompt
    unpaired-preference   prompt, completion, label
    stepwise *            prompt, completions, labels
    safety-preference     prompt, response_0, response_1, better_response_id,
                          safer_response_id, is_response_0_safe,
                          is_response_1_safe                                   (Safe RLHF)
    tree-preference       chosen, rejected, tree_id, node_path, lca_depth      prompt
    token-rewards *       prompt, completion_ids, token_rewards                token_costs

    * read and checked; no recipe learns from it

Whatever is text may be messages instead, [{"role": …, "content": …}, …], where it is so in every such column of a row.
Columns beyond these are left alone. Rows are numbered from 1; in JSON lines that is the line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from trueline.core import registry
from trueline.core.config import Config
from trueline.core.errors import ConfigError, RunError, nearest
from trueline.core.files import to_json
from trueline.core.run import resolve
from trueline.core.streams import SplitRound, split_of
from trueline.language.rollout import Message

__all__ = [
    "FORMATS",
    "MADE",
    "Data",
    "LanguageModelling",
    "Messages",
    "Preference",
    "PromptCompletion",
    "PromptOnly",
    "Record",
    "SafetyPreference",
    "Split",
    "Stepwise",
    "Table",
    "Text",
    "TokenRewards",
    "TreePreference",
    "UnpairedPreference",
    "as_preference",
    "as_unpaired",
    "exposed",
    "hold_out",
    "labelled_by",
    "load",
    "read_rows",
    "shared_prompt",
    "split_of_text",
    "teaches_chats",
]

Messages = tuple[Message, ...]
Text = str | Messages  # plain text, or turns of a chat

BUILTIN = "builtin:"
MADE = "made.json"  # beside rows that a run wrote: how it made them, and by whom they were judged
_ROLES: tuple[str, ...] = ("system", "user", "assistant")
_TEXTS = ("text", "messages", "prompt", "completion", "chosen", "response_0")  # columns that are text, or messages


# --- records ---


@dataclass(frozen=True, slots=True)
class LanguageModelling:
    """Text to be modelled as it stands."""

    text: Text


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """Something to answer."""

    prompt: Text


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and the one answer to it."""

    prompt: Text
    completion: Text


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first."""

    prompt: Text
    chosen: Text
    rejected: Text


@dataclass(frozen=True, slots=True)
class TreePreference(Preference):
    """Two leaves of one prefix tree.  A path is the child taken at each node from the root; see `lca_depth`."""

    tree_id: str
    chosen_path: tuple[int, ...]
    rejected_path: tuple[int, ...]

    @property
    def lca_depth(self) -> int:
        """Depth of the lowest common ancestor of the two leaves; 0 is the root, where nothing is shared."""
        return _common(self.chosen_path, self.rejected_path)


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """An answer that is good or bad in itself."""

    prompt: Text
    completion: Text
    label: bool


@dataclass(frozen=True, slots=True)
class Stepwise:
    """An answer in steps, each right or wrong."""

    prompt: Text
    completions: tuple[str, ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class SafetyPreference:
    """Two answers, judged apart for help and for harm (Dai et al. 2024, Safe RLHF)."""

    prompt: Text
    responses: tuple[Text, Text]
    better: int  # which of the two helps more
    safer: int  # which of the two harms less
    safe: tuple[bool, bool]  # whether each is harmless by itself


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """An answer in tokens of one tokenizer, with a reward and K costs for each."""

    prompt: Text
    tokens: tuple[int, ...]
    rewards: tuple[float, ...]
    costs: tuple[tuple[float, ...], ...]  # [tokens][K]; K = 0 where none are given


Record = (
    LanguageModelling
    | PromptOnly
    | PromptCompletion
    | Preference
    | UnpairedPreference
    | Stepwise
    | SafetyPreference
    | TokenRewards
)


def as_preference(record: Preference | SafetyPreference) -> Preference:
    """The pair of answers by help alone."""
    if isinstance(record, Preference):
        return record
    chosen, rejected = record.responses[record.better], record.responses[1 - record.better]
    return Preference(record.prompt, chosen, rejected)


def as_unpaired(record: UnpairedPreference | Preference | SafetyPreference) -> tuple[UnpairedPreference, ...]:
    """Answers by themselves: of a pair the better one is good and the other bad."""
    if isinstance(record, UnpairedPreference):
        return (record,)
    pair = as_preference(record)
    return (
        UnpairedPreference(pair.prompt, pair.chosen, True),
        UnpairedPreference(pair.prompt, pair.rejected, False),
    )


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def shared_prompt(chosen: Text, rejected: Text) -> int:
    """How much of the beginning of both is the prompt they share: messages, or characters.

    A space before the first difference belongs to the answers, since tokenizers write it into their first token. In
    messages the last common turn of the assistant belongs to the answers too: a prompt does not end with one.
    """
    n = _common(chosen, rejected)
    if isinstance(chosen, str):
        return n - 1 if n and chosen[n - 1] == " " else n
    n = min(n, len(chosen) - 1, len(rejected) - 1)
    while n > 0 and chosen[n - 1].role == "assistant":
        n -= 1
    return max(n, 0)


# --- one row ---


class _Bad(Exception):
    """What is wrong with a row, as the end of a sentence that begins with the row, and what to do."""


class _Row:
    """One row's columns, by name, with the checks that every format needs."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def get(self, column: str, form: Format) -> Any:
        value = self.columns.get(column)
        if value is None:
            raise _Bad(f"has no {column!r}. {form.in_words()}")
        return value

    def text(self, column: str, form: Format) -> Text:
        value = self.get(column, form)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and value:
            return tuple(_message(turn, column) for turn in value)
        raise _Bad(f"has {_shown(value)} as {column!r}. Give text, or a list of messages with role and content.")

    def number(self, column: str, form: Format, allowed: tuple[int, ...]) -> int:
        value = self.get(column, form)
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            raise _Bad(f"has {_shown(value)} as {column!r}. Give {' or '.join(map(str, allowed))}.")
        return value

    def flag(self, column: str, form: Format) -> bool:
        value = self.get(column, form)
        if not isinstance(value, bool):
            raise _Bad(f"has {_shown(value)} as {column!r}. Give true or false.")
        return value

    def several(self, column: str, form: Format, one: type, called: str) -> tuple[Any, ...]:
        value = self.get(column, form)
        if not isinstance(value, list | tuple) or not all(_is(item, one) for item in value):
            raise _Bad(f"has {_shown(value)} as {column!r}. Give a list of {called}.")
        return tuple(value)


def _is(item: Any, one: type) -> bool:
    if one is float:
        return isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)
    return isinstance(item, one) and (one is bool or not isinstance(item, bool))


def _message(turn: Any, column: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if role not in _ROLES or not isinstance(content, str):
        raise _Bad(
            f"has the message {_shown(turn)} in {column!r}. Give each a role ({', '.join(_ROLES)}) and a text as "
            "content."
        )
    return Message(role, content)


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "…"


def _alike(**texts: Text) -> None:
    """Refuse a row that is half text, half messages."""
    plain = [name for name, text in texts.items() if isinstance(text, str)]
    if plain and len(plain) < len(texts):
        chats = next(name for name in texts if name not in plain)
        raise _Bad(f"has text as {plain[0]!r}, but messages as {chats!r}. Give both as text, or both as messages.")


def _language(row: _Row, form: Format) -> LanguageModelling:
    column = "text" if row.columns.get("text") is not None else "messages"
    if row.columns.get(column) is None:
        raise _Bad(f"has neither 'text' nor 'messages'. {form.in_words()}")
    return LanguageModelling(row.text(column, form))


def _prompt(row: _Row, form: Format) -> PromptOnly:
    return PromptOnly(row.text("prompt", form))


def _prompt_completion(row: _Row, form: Format) -> PromptCompletion:
    prompt, completion = row.text("prompt", form), row.text("completion", form)
    _alike(prompt=prompt, completion=completion)
    return PromptCompletion(prompt, completion)


def _preference(row: _Row, form: Format) -> Preference:
    chosen, rejected = row.text("chosen", form), row.text("rejected", form)
    _alike(chosen=chosen, rejected=rejected)
    prompt = None if row.columns.get("prompt") is None else row.text("prompt", form)
    if isinstance(prompt, str) and not isinstance(chosen, str) and prompt in {turn.content for turn in chosen[:2]}:
        prompt = None  # a widespread layout repeats the first question as text beside two whole chats
    if prompt is None:
        n = shared_prompt(chosen, rejected)
        return Preference(chosen[:n], chosen[n:], rejected[n:])
    _alike(prompt=prompt, chosen=chosen)
    return Preference(prompt, chosen, rejected)


def _tree_preference(row: _Row, form: Format) -> TreePreference:
    pair = _preference(row, form)
    tree, paths = row.get("tree_id", form), row.get("node_path", form)
    if isinstance(tree, bool) or not isinstance(tree, str | int):
        raise _Bad(f"has {_shown(tree)} as 'tree_id'. Give a text or a whole number.")
    whole = isinstance(paths, list | tuple) and len(paths) == 2
    if not whole or not all(isinstance(p, list | tuple) and all(_is(step, int) for step in p) for p in paths):
        raise _Bad(f"has {_shown(paths)} as 'node_path'. Give two lists of numbers: the chosen leaf's, then the other.")
    made = TreePreference(pair.prompt, pair.chosen, pair.rejected, str(tree), tuple(paths[0]), tuple(paths[1]))
    depth = row.get("lca_depth", form)
    if depth != made.lca_depth:
        raise _Bad(f"has {_shown(depth)} as 'lca_depth', but its paths part at depth {made.lca_depth}. Correct one.")
    return made


def _unpaired(row: _Row, form: Format) -> UnpairedPreference:
    pair = _prompt_completion(row, form)
    return UnpairedPreference(pair.prompt, pair.completion, row.flag("label", form))


def _stepwise(row: _Row, form: Format) -> Stepwise:
    steps = row.several("completions", form, str, "texts")
    labels = row.several("labels", form, bool, "true and false")
    if len(steps) != len(labels):
        raise _Bad(f"has {len(steps)} completions, but {len(labels)} labels. Give one label for each step.")
    return Stepwise(row.text("prompt", form), steps, labels)


def _safety(row: _Row, form: Format) -> SafetyPreference:
    prompt = row.text("prompt", form)
    one, two = row.text("response_0", form), row.text("response_1", form)
    _alike(prompt=prompt, response_0=one, response_1=two)
    better, safer = (row.number(name, form, (0, 1)) for name in ("better_response_id", "safer_response_id"))
    safe = (row.flag("is_response_0_safe", form), row.flag("is_response_1_safe", form))
    return SafetyPreference(prompt, (one, two), better, safer, safe)


def _token_rewards(row: _Row, form: Format) -> TokenRewards:
    tokens = row.several("completion_ids", form, int, "token numbers")
    rewards = row.several("token_rewards", form, float, "finite numbers")
    given = row.columns.get("token_costs")
    costs: tuple[tuple[float, ...], ...] = ((),) * len(tokens)
    if given is not None:
        lists = isinstance(given, list | tuple) and all(isinstance(c, list | tuple) for c in given)
        if not lists or not all(_is(x, float) for c in given for x in c) or len({len(c) for c in given}) > 1:
            raise _Bad(f"has {_shown(given)} as 'token_costs'. Give a list of K finite numbers for each token.")
        costs = tuple(tuple(map(float, c)) for c in given)
    if not len(tokens) == len(rewards) == len(costs):
        raise _Bad(
            f"has {len(tokens)} tokens, {len(rewards)} rewards and {len(costs)} lists of costs. Give one of each a "
            "token."
        )
    return TokenRewards(row.text("prompt", form), tokens, tuple(map(float, rewards)), costs)


# --- formats ---


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of rows: its columns, and how a record is read from them."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[_Row, Format], Record]

    def in_words(self) -> str:
        """What a row of it has."""
        needs = ", ".join(self.required) if self.required else "text or messages"
        return f"A {self.name} row has {needs}" + (
            f" and perhaps {', '.join(self.optional)}." if self.optional else "."
        )

    def fits(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns are of this format, or of a more special one."""
        return set(self.required) <= set(columns) if self.required else bool({"text", "messages"} & set(columns))


_SAFETY = (
    "prompt",
    "response_0",
    "response_1",
    "better_response_id",
    "safer_response_id",
    "is_response_0_safe",
    "is_response_1_safe",
)

# The most special first: what has chosen, rejected and a prompt is a pair, not a list of prompts.
FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format("safety-preference", _SAFETY, (), _safety),
        Format(
            "tree-preference",
            ("chosen", "rejected", "tree_id", "node_path", "lca_depth"),
            ("prompt",),
            _tree_preference,
        ),
        Format("token-rewards", ("prompt", "completion_ids", "token_rewards"), ("token_costs",), _token_rewards),
        Format("preference", ("chosen", "rejected"), ("prompt",), _preference),
        Format("stepwise", ("prompt", "completions", "labels"), (), _stepwise),
        Format("unpaired-preference", ("prompt", "completion", "label"), (), _unpaired),
        Format("prompt-completion", ("prompt", "completion"), (), _prompt_completion),
        Format("language-modelling", (), (), _language),
        Format("prompt", ("prompt",), (), _prompt),
    )
}


def _answers(record: Record) -> tuple[Any, ...]:
    """What a record asks a model to write or to judge."""
    match record:
        case LanguageModelling():
            return (record.text,)
        case PromptOnly():
            return (record.prompt,)
        case PromptCompletion() | UnpairedPreference():
            return (record.completion,)
        case Preference():
            return (record.chosen, record.rejected)
        case Stepwise():
            return record.completions or ("",)
        case SafetyPreference():
            return record.responses
        case TokenRewards():
            return (record.tokens,)


def _empty(answer: Any) -> bool:
    if isinstance(answer, str):
        return not answer.strip()
    return not answer or (isinstance(answer[-1], Message) and not answer[-1].content.strip())


_UNUSABLE = {
    "empty": "has an empty answer",
    "identical": "has two equal answers",
    "contradictory": "calls the unsafe answer safer than the safe one",
}


def _unusable(record: Record) -> str:
    """Why nothing can be learnt from a record; empty where something can."""
    answers = _answers(record)
    if any(_empty(answer) for answer in answers):
        return "empty"
    if isinstance(record, Preference | SafetyPreference) and answers[0] == answers[1]:
        return "identical"
    if isinstance(record, SafetyPreference) and record.safe[1 - record.safer] and not record.safe[record.safer]:
        return "contradictory"
    return ""


# --- where rows come from ---


class Data(Config):
    """Rows of text, and how they are used.

    `path` is a JSON-lines or Parquet file, a folder of either, a data set saved by `datasets`, an artefact of another
    run (run://ID/name), or builtin:NAME. Several paths with `weights` are mixed in those shares; without, every row of
    all of them comes once an epoch.
    """

    path: str | tuple[str, ...]
    weights: tuple[float, ...] = ()  # share of the rows that each path gives
    split: str = "train"  # of a saved data set with several, or of a builtin one
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


@dataclass(frozen=True, slots=True)
class Table:
    """The records of one source."""

    name: str  # of the file, for messages
    format: str
    rows: tuple[Record, ...]
    numbers: tuple[int, ...]  # of each record in its source, from 1
    dropped: Mapping[str, int]  # rows left out, by reason
    sha256: str  # of the records, whatever file format they came in


def load(data: Data, accepts: Collection[str], root: Path | str = ".") -> list[Table]:
    """The records of every path, all of formats in `accepts`; `root` is the folder of runs.

    Raises ConfigError that names the row and the column, RunError for a path that does not exist.
    """
    return [_table(path, data, accepts, Path(root)) for path in data.paths]


def exposed(data: Data, root: Path | str = ".") -> tuple[str, ...]:
    """Files of which a training sees every prompt, those that audits draw from as well."""
    if data.leave_for_audits:
        return ()
    return tuple(str(resolve(path, Path(root)).resolve()) for path in data.paths if not path.startswith(BUILTIN))


def labelled_by(data: Data, root: Path | str = ".") -> tuple[str, ...]:
    """Identities (`scorers.identity`) of what judged the rows, where a run of ours made them and says so.

    Who labelled rows that came in a user's file, or with a world of text, nobody says.  Raises RunError for a file that
    should say it and is damaged, and as `load`.
    """
    found: dict[str, None] = {}
    for path in data.paths:
        if path.startswith(BUILTIN):
            continue
        rows = resolve(path, Path(root))
        card = (rows if rows.is_dir() else rows.parent) / MADE
        if card.is_file():
            found |= dict.fromkeys(_judges_of(card))
    return tuple(found)


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
        _, numbered = _source(path, data, Path(root))
        _, columns = next(numbered, (0, {}))
        if any(isinstance(columns.get(name), list | tuple) for name in _TEXTS):
            return True
    return False


def _table(path: str, data: Data, accepts: Collection[str], root: Path) -> Table:
    name, numbered = _source(path, data, root)
    rows = list(_first(numbered, data.limit))
    if not rows:
        raise ConfigError(f"{name} has no rows. Give data with at least one.")
    form = _format_of(name, rows, accepts)
    records, numbers, dropped = [], [], Counter[str]()
    for number, columns in rows:
        try:
            record = form.read(_Row(columns), form)
        except _Bad as problem:
            raise ConfigError(f"row {number} of {name} {problem}") from None
        # Builtin data are drawn by split already.
        apart = data.leave_for_audits and not path.startswith(BUILTIN)
        if apart and split_of_text(_prompt_of(record)).split != "train":
            dropped["kept for audits"] += 1
            continue
        reason = _unusable(record)
        if reason and data.unusable == "refuse":
            raise ConfigError(f"row {number} of {name} {_UNUSABLE[reason]}. Correct it, or set unusable = 'drop'.")
        if reason:
            dropped[reason] += 1
            continue
        records.append(record)
        numbers.append(number)
    if not records:
        raise ConfigError(f"no row of {name} is left after {sum(dropped.values())} were dropped. Give other data.")
    return Table(name, form.name, tuple(records), tuple(numbers), dict(dropped), _sha256(records))


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


def _sha256(records: Iterable[Record]) -> str:
    found = hashlib.sha256()
    for record in records:
        found.update(to_json([type(record).__name__, *astuple(record)]).encode() + b"\n")
    return found.hexdigest()


def _first(rows: Iterator[tuple[int, Any]], limit: int | None) -> Iterator[tuple[int, Any]]:
    for taken, row in enumerate(rows):
        if limit is not None and taken >= limit:
            return
        yield row


Numbered = Iterator[tuple[int, Mapping[str, Any]]]


def read_rows(path: Path, split: str = "train") -> Numbered:
    """The numbered rows of a file or folder, as they lie there.

    Raises ConfigError for a kind of file that is not known, and for one that cannot be read.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
            return _saved(path, split)
        return _folder(path)
    if path.suffix in (".jsonl", ".json"):
        return _jsonl(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise ConfigError(f"{path} is neither .jsonl nor .parquet nor a folder of such. Convert it to one of them.")


def _source(path: str, data: Data, root: Path) -> tuple[str, Numbered]:
    if path.startswith(BUILTIN):
        made = registry.load("text-data", path.removeprefix(BUILTIN))(data.split, **data.options)
        return path, iter(enumerate(made, 1))
    found = resolve(path, root)
    return found.name, read_rows(found, data.split)


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
        raise ConfigError(f"row {number} of {name} is {_shown(columns)}. Write one JSON object on each line.")
    return columns


def _parquet(path: Path) -> Numbered:
    import pyarrow
    from pyarrow.parquet import ParquetFile

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
        for _, columns in read_rows(shard):
            number += 1
            yield number, columns


def _saved(path: Path, split: str) -> Numbered:
    from datasets import DatasetDict, load_from_disk

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


# --- the held-out part ---


class Split(NamedTuple):
    """Records to train on, and records to evaluate with."""

    train: Table
    held_out: Table


def hold_out(table: Table, share: float) -> Split:
    """Puts about `share` of the prompts aside, with all their rows: two answers to one prompt are no two samples.

    Which prompts is decided by their own hash, so that more data or another order moves none of them.
    """
    aside = [_fraction(_prompt_of(record)) < share for record in table.rows]
    return Split(_subset(table, [not out for out in aside]), _subset(table, aside))


def _prompt_of(record: Record) -> Text:
    if isinstance(record, LanguageModelling):
        # The turns before the last are what a chat asks; plain text is its own.
        return record.text if isinstance(record.text, str) else record.text[:-1]
    return record.prompt


def split_of_text(prompt: Text) -> SplitRound:
    """Whether a prompt of a file is for training, findings or verdicts, and of which round (corrections E3).

    Its own hash decides, with the shares that layouts of worlds have, so that no order or amount of data moves it.
    Plain text and a single user's turn are one prompt.
    """
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    return split_of(int.from_bytes(_hash(prompt)[:4], "big"))


def _fraction(text: Text) -> float:
    """A number in [0, 1) from the hash of a text."""
    return int.from_bytes(_hash(text)[8:16], "big") / 2.0**64


def _hash(text: Text) -> bytes:
    return hashlib.sha256(to_json(text).encode()).digest()


def _subset(table: Table, kept: Sequence[bool]) -> Table:
    rows = tuple(row for row, keep in zip(table.rows, kept, strict=True) if keep)
    numbers = tuple(number for number, keep in zip(table.numbers, kept, strict=True) if keep)
    return Table(table.name, table.format, rows, numbers, table.dropped, _sha256(rows))
