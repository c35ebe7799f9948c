"""What was typed, as values: settings, pairs, whole numbers; and how a word that is none of them is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trueline.core.errors import ConfigError, nearest

__all__ = ["RUNS", "imports_first", "one_of", "pairs", "values", "whole_numbers"]

RUNS = Path("runs")  # where runs lie unless --root was typed


def values(overrides: Sequence[str] | None) -> dict[str, Any]:
    """`["update.lr=1e-4"]` -> nested settings."""
    from trueline.core.config import parse_override
    from trueline.core.recipe import Plan

    plan = Plan(recipe="")
    for keys, value in map(parse_override, overrides or ()):
        plan = plan.with_setting(".".join(keys), value)
    return dict(plan.config)


def pairs(texts: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    """`["policy=latest"]` -> {"policy": "latest"}; `form` says in the error what `option` should be."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{option} is {text!r}, but should be {form}.")
        found[key] = value
    return found


def whole_numbers(text: str) -> list[int]:
    """`"0-3,8"` -> [0, 1, 2, 3, 8]."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise ConfigError(f"--seeds is {text!r}, but should be like 0-15 or 0,3,7.")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found):
        raise ConfigError(f"--seeds is {text!r}, which names a seed twice. Name each once.")
    return found


def one_of(what: str, given: str, known: Iterable[str]) -> str:
    """The sentence for a word that is none of the few it could be."""
    listed = list(known)
    return f"no {what} is called {given!r}.{nearest(given, listed)} Use one of {', '.join(listed)}."


def imports_first(argv: Sequence[str]) -> list[str]:
    """`--import PACKAGE` moved to where the parser takes it, so that it may be typed anywhere before a `--`."""
    first: list[str] = []
    rest: list[str] = []
    given = iter(argv)
    for word in given:
        if word == "--":
            rest += [word, *given]
        elif word == "--import":
            first += [word, *([package] if (package := next(given, None)) is not None else [])]
        elif word.startswith("--import="):
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest]
