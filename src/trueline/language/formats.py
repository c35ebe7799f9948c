"""Formats of text data: rows read into records, by the columns that TRL reads, and what is wrong with a row.

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
Columns beyond these are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trueline.language.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Record,
    SafetyPreference,
    Stepwise,
    Text,
    TokenRewards,
    TreePreference,
    UnpairedPreference,
    shared_prompt,
)
from trueline.language.rollout import Message

__all__ = ["FORMATS", "UNUSABLE", "BadRow", "Format", "shown", "unusable"]

_ROLES: tuple[str, ...] = ("system", "user", "assistant")


# --- one row ---


class BadRow(Exception):
    """What is wrong with a row, as the end of a sentence that begins with the row, and what to do."""


class _Row:
    """One row's columns, by name, with the checks that every format needs."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def get(self, column: str, form: Format) -> Any:
        value = self.columns.get(column)
        if value is None:
            raise BadRow(f"has no {column!r}. {form.in_words()}")
        return value

    def text(self, column: str, form: Format) -> Text:
        value = self.get(column, form)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and value:
            return tuple(_message(turn, column) for turn in value)
        raise BadRow(f"has {shown(value)} as {column!r}. Give text, or a list of messages with role and content.")

    def number(self, column: str, form: Format, allowed: tuple[int, ...]) -> int:
        value = self.get(column, form)
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            raise BadRow(f"has {shown(value)} as {column!r}. Give {' or '.join(map(str, allowed))}.")
        return value

    def flag(self, column: str, form: Format) -> bool:
        value = self.get(column, form)
        if not isinstance(value, bool):
            raise BadRow(f"has {shown(value)} as {column!r}. Give true or false.")
        return value

    def several(self, column: str, form: Format, one: type, called: str) -> tuple[Any, ...]:
        value = self.get(column, form)
        if not isinstance(value, list | tuple) or not all(_is(item, one) for item in value):
            raise BadRow(f"has {shown(value)} as {column!r}. Give a list of {called}.")
        return tuple(value)


def _is(item: Any, one: type) -> bool:
    if one is float:
        return isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)
    return isinstance(item, one) and (one is bool or not isinstance(item, bool))


def _message(turn: Any, column: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if role not in _ROLES or not isinstance(content, str):
        raise BadRow(
            f"has the message {shown(turn)} in {column!r}. Give each a role ({', '.join(_ROLES)}) and a text as "
            "content."
        )
    return Message(role, content)


def shown(value: Any) -> str:
    """A value in at most 60 characters, for messages."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "…"


def _alike(**texts: Text) -> None:
    """Refuse a row that is half text, half messages."""
    plain = [name for name, text in texts.items() if isinstance(text, str)]
    if plain and len(plain) < len(texts):
        chats = next(name for name in texts if name not in plain)
        raise BadRow(f"has text as {plain[0]!r}, but messages as {chats!r}. Give both as text, or both as messages.")


def _language(row: _Row, form: Format) -> LanguageModelling:
    column = "text" if row.columns.get("text") is not None else "messages"
    if row.columns.get(column) is None:
        raise BadRow(f"has neither 'text' nor 'messages'. {form.in_words()}")
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
        raise BadRow(f"has {shown(tree)} as 'tree_id'. Give a text or a whole number.")
    whole = isinstance(paths, list | tuple) and len(paths) == 2
    if not whole or not all(isinstance(p, list | tuple) and all(_is(step, int) for step in p) for p in paths):
        raise BadRow(
            f"has {shown(paths)} as 'node_path'. Give two lists of numbers: the chosen leaf's, then the other."
        )
    made = TreePreference(pair.prompt, pair.chosen, pair.rejected, str(tree), tuple(paths[0]), tuple(paths[1]))
    depth = row.get("lca_depth", form)
    if depth != made.lca_depth:
        raise BadRow(f"has {shown(depth)} as 'lca_depth', but its paths part at depth {made.lca_depth}. Correct one.")
    return made


def _unpaired(row: _Row, form: Format) -> UnpairedPreference:
    pair = _prompt_completion(row, form)
    return UnpairedPreference(pair.prompt, pair.completion, row.flag("label", form))


def _stepwise(row: _Row, form: Format) -> Stepwise:
    steps = row.several("completions", form, str, "texts")
    labels = row.several("labels", form, bool, "true and false")
    if len(steps) != len(labels):
        raise BadRow(f"has {len(steps)} completions, but {len(labels)} labels. Give one label for each step.")
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
            raise BadRow(f"has {shown(given)} as 'token_costs'. Give a list of K finite numbers for each token.")
        costs = tuple(tuple(map(float, c)) for c in given)
    if not len(tokens) == len(rewards) == len(costs):
        raise BadRow(
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

    def record(self, columns: Mapping[str, Any]) -> Record:
        """The record of a row.  Raises BadRow for one that is not of this format."""
        return self.read(_Row(columns), self)

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


UNUSABLE = {
    "empty": "has an empty answer",
    "identical": "has two equal answers",
    "contradictory": "calls the unsafe answer safer than the safe one",
}


def unusable(record: Record) -> str:
    """Why nothing can be learnt from a record; empty where something can."""
    answers = _answers(record)
    if any(_empty(answer) for answer in answers):
        return "empty"
    if isinstance(record, Preference | SafetyPreference) and answers[0] == answers[1]:
        return "identical"
    if isinstance(record, SafetyPreference) and record.safe[1 - record.safer] and not record.safe[record.safer]:
        return "contradictory"
    return ""
