"""Configs: frozen, strict, typed values, built alike from Python, a TOML file and the command line.

A `Config` may be nested; a setting is named by its dotted key (`constraint.lr`). Three rules make the faces agree:

* TOML knows only lists, strings and tables, so a list is taken where a tuple is declared and a string where an enum or
  a path is declared. Nothing else is converted, except that an integer may stand for a float.
* TOML has no null, so the word `none` is taken as None where a setting may be None, and written for it.
* A table given for a setting whose default is a Config changes that default; it does not start from the class.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticUndefined

from trueline.core.errors import ConfigError, nearest

__all__ = [
    "Config",
    "Harmless",
    "Setting",
    "build",
    "differences",
    "digest",
    "dotted",
    "fields",
    "harmless",
    "laid_over",
    "parse_override",
    "read_toml",
    "to_toml",
]


class Config(BaseModel):
    """Base of every settings object: frozen, strict, unknown keys refused.  Equality is by value."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    without: ClassVar[Mapping[str, str]] = {}  # settings that others of its kind have, and why it has none

    # Of the whole table and not of each field: pydantic allows no "before" validator on a field that tells kinds apart.
    @model_validator(mode="before")
    @classmethod
    def _meet_toml_halfway(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        met = dict(given)
        for name, field in cls.model_fields.items():
            if name in met:
                default = field.get_default(call_default_factory=True, validated_data={})
                if isinstance(met[name], Mapping) and isinstance(default, Config):
                    met[name] = _changed(default, met[name])
                met[name] = _as_declared(field.annotation, met[name])
        return met


C = TypeVar("C", bound=Config)
_T = TypeVar("_T")

_HARMLESS = "harmless"

# The type of a setting that may be changed before a run is resumed, as in `checkpoint_epochs: Harmless[int] = 10`. It
# says when a run is saved, logged and looked at; the subject is the same bits. No schedule is one: total_steps moves
# learning rates, limits and averaged weights of steps not yet taken.
Harmless = Annotated[_T, _HARMLESS]


def harmless(cls: type[Config]) -> list[str]:
    """The settings of `cls` that are declared `Harmless`."""
    return [name for name, field in cls.model_fields.items() if _HARMLESS in field.metadata]


def build(cls: type[C], data: Mapping[str, Any] | Config, overrides: Sequence[str] = (), where: str = "") -> C:
    """The `cls` that the nested mapping `data` and then the overrides ("a.b=value") describe.

    `where` (a file name, a recipe) opens each line of the error. Raises `ConfigError` that lists every problem, one per
    line: the dotted setting, what was given, what is allowed, and for an unknown key the nearest one.
    """
    nested = _shallow(data) if isinstance(data, Config) else deepcopy(dict(data))
    for text in overrides:
        keys, value = parse_override(text)
        _put(nested, keys, value)
    try:
        return cls.model_validate(nested)
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        lines = dict.fromkeys(prefix + line for line in _problems(cls, nested, error.errors(include_url=False)))
        raise ConfigError("\n".join(lines)) from None


def laid_over(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the changes put over it one after the other, tables merged into tables.

    A table of another `kind` takes the place of the old one: what was said of that kind does not hold for it.
    """
    merged = dict(base)
    for change in changes:
        for key, value in change.items():
            merged[key] = _merged(merged.get(key), value)
    return merged


def _merged(old: Any, value: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
        return value
    return laid_over(old, value) if value.get("kind", old.get("kind")) == old.get("kind") else value


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`"a.b=value"` -> `(("a", "b"), value)`.

    The value is read as a TOML value (`1e-4`, `true`, `[64, 64]`, `"text"`, `{kind = "pid"}`); what is no TOML value is
    taken as a string, so `env=SafetyPointGoal1-v0` needs no quotes. Dates stay strings.
    """
    key, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{text!r} is not a setting. Write it as key=value, for example actor.lr=1e-4.")
    value = value.strip()
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return keys, value
    # A line break inside the value could smuggle in a second key.
    if set(parsed) != {"value"} or isinstance(parsed["value"], date | datetime | time):
        return keys, value
    return keys, parsed["value"]


def read_toml(path: Path | str) -> dict[str, Any]:
    """The nested mapping in a TOML file.  Raises `ConfigError` for a missing, unreadable or malformed file."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no settings file {path}. Check the path, or copy one from examples/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} could not be read as text ({error}). Give a TOML file in UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct that line.") from None


def to_toml(config: Config) -> str:
    """TOML text that `build(type(config), tomllib.loads(text))` turns back into an equal config.

    None is omitted, or written as `"none"` where the default is something else.
    """
    return tomli_w.dumps(_tree(config))


def digest(config: Config) -> str:
    """SHA-256 (hex) of the config's values as canonical JSON; equal configs of one class have equal digests."""
    plain = _unsigned_zero(config.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differences(before: Mapping[str, Any] | Config, now: Mapping[str, Any] | Config) -> dict[str, tuple[Any, Any]]:
    """Dotted settings that are not the same, each with its two values; None where there is none.

    A mapping is what a settings file holds, so that a Config and the text that `to_toml` made of it do not differ.
    """
    old, new = (dotted(tomllib.loads(to_toml(one)) if isinstance(one, Config) else one) for one in (before, now))
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def _unsigned_zero(value: Any) -> Any:
    """-0.0 equals 0.0 but is written otherwise, so one of them goes."""
    if isinstance(value, dict):
        return {key: _unsigned_zero(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unsigned_zero(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


class Setting(NamedTuple):
    """One line of a recipe's help: dotted key, its type in words, its default as TOML (or "required"), and a note."""

    key: str
    type: str
    default: str
    note: str


def fields(cls: type[Config], prefix: str = "") -> list[Setting]:
    """Every setting of `cls`, nested ones by dotted key; for alternatives the note says which one has the setting.

    Those of a list's tables have the key LIST[].NAME.
    """
    found: list[Setting] = []
    for name, field in cls.model_fields.items():
        key, inner = prefix + name, _configs(field.annotation)
        default = field.get_default(call_default_factory=True, validated_data={})
        if not inner:
            required = default is PydanticUndefined
            found.append(Setting(key, _words(field), "required" if required else _show(default), _note(field)))
            within = _configs_within(field.annotation)
            for arm in within:
                found += _of_alternative(fields(arm, key + "[]."), f"one of {key}", arm, within)
            continue
        arms = _arms(field.annotation)
        if len(arms) > 1:
            shown = "required" if default is PydanticUndefined else _label(default)
            plain = [_type_words(arm) for arm in arms if arm is not NoneType and not _configs(arm)]
            choices = [*dict.fromkeys(plain), *map(_kind, inner), *(["none"] if NoneType in arms else [])]
            found.append(Setting(key, " | ".join(choices), shown, _note(field)))
        for arm in inner:
            own = fields(arm, key + ".")
            if isinstance(default, arm):
                own = [setting._replace(default=_default_at(default, setting, key)) for setting in own]
            found += _of_alternative(own, key, arm, inner)
    return found


def _of_alternative(
    settings: Sequence[Setting], where: str, arm: type[Config], among: Sequence[type[Config]]
) -> list[Setting]:
    """The settings of `arm`, with a note where there are others that could stand in its place."""
    note = f"when {where} is {_kind(arm)}" if len(among) > 1 else ""
    return [setting._replace(note="; ".join(filter(None, [note, setting.note]))) for setting in settings]


# -- what a value may be ----------------------------------------------------------------------------------------------


def _as_declared(annotation: Any, value: Any) -> Any:
    """Lists become tuples, strings enums or paths, "none" None, where `annotation` declares so; the rest is left.

    A whole number written with an exponent (1e6, which TOML reads as a float) becomes an integer.
    """
    arms = _arms(annotation)
    if isinstance(value, float) and int in arms and float not in arms and value.is_integer():
        return int(value)
    if value == "none" and isinstance(value, str) and NoneType in arms and not _literal_holds(arms, "none"):
        return None
    for arm in arms:
        origin = get_origin(arm) or arm
        inner = get_args(arm)
        if isinstance(value, list) and origin is tuple:
            if not inner:
                return tuple(value)
            if len(inner) == 2 and inner[1] is Ellipsis:
                return tuple(_as_declared(inner[0], item) for item in value)
            if len(inner) == len(value):
                return tuple(_as_declared(part, item) for part, item in zip(inner, value, strict=True))
            return tuple(value)
        if isinstance(value, list) and origin is list and inner:
            return [_as_declared(inner[0], item) for item in value]
        if isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, Mapping) and inner:
            return {key: _as_declared(inner[1], item) for key, item in value.items()}
        if isinstance(value, str) and isinstance(origin, type) and issubclass(origin, Enum):
            return next((member for member in origin if member.value == value), value)
        if isinstance(value, str) and origin is Path and str not in arms:
            return Path(value)
    return value


def _arms(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, `Annotated` wrappers removed: `A | None` -> `[A, NoneType]`."""
    if get_origin(annotation) is Annotated:
        return _arms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [arm for part in get_args(annotation) for arm in _arms(part)]
    return [annotation]


def _literal_holds(arms: Sequence[Any], word: str) -> bool:
    return any(get_origin(arm) is Literal and word in get_args(arm) for arm in arms)


def _configs(annotation: Any) -> list[type[Config]]:
    return [arm for arm in _arms(annotation) if isinstance(arm, type) and issubclass(arm, Config)]


def _configs_within(annotation: Any) -> list[type[Config]]:
    """The Configs of an annotation, those inside lists and tables too."""
    inside = [part for arm in _arms(annotation) for part in get_args(arm) if get_origin(arm) is not Literal]
    return _configs(annotation) + [config for part in inside for config in _configs_within(part)]


def _kind(cls: type[Config]) -> str:
    """The value of the `kind` field that tells alternatives apart, or the class's name."""
    field = cls.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else cls.__name__


def _shallow(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).model_fields}


def _changed(default: Config, change: Mapping[str, Any]) -> Any:
    """`default`'s values with those of `change` put over them; `change` alone when it names another kind."""
    if "kind" in change and change["kind"] != getattr(default, "kind", None):
        return dict(change)
    merged = _shallow(default)
    for name, value in change.items():
        old = merged.get(name)
        merged[name] = _changed(old, value) if isinstance(old, Config) and isinstance(value, Mapping) else value
    return merged


def _put(nested: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Sets `nested[a][b]... = value`, opening tables on the way."""
    table = nested
    for depth, key in enumerate(keys[:-1]):
        inner = table.get(key)
        if isinstance(inner, Config):
            inner = _shallow(inner)
        elif inner is None or inner == "none":
            inner = {}
        elif isinstance(inner, Mapping):
            inner = dict(inner)
        else:
            given = ".".join(keys[: depth + 1])
            raise ConfigError(f"{'.'.join(keys)}: {given} is {inner!r}, not a table. Set {given} itself.")
        table[key] = inner
        table = inner
    table[keys[-1]] = value


def _tree(config: Config) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value is None:
            if field.get_default(call_default_factory=True, validated_data={}) is not None:
                tree[name] = "none"
        else:
            tree[name] = _plain(value)
    return tree


def _plain(value: Any) -> Any:
    """A value as TOML holds it."""
    if value is None:
        return "none"
    if isinstance(value, Config):
        return _tree(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# -- errors -----------------------------------------------------------------------------------------------------------


class _Problem(NamedTuple):
    path: tuple[str, ...]
    arms: tuple[tuple[tuple[str, ...], str], ...]  # (where a choice was made, which alternative this error is about)
    detail: ErrorDetails


def _problems(cls: type[Config], data: Any, details: Sequence[ErrorDetails]) -> Iterator[str]:
    problems = _likeliest([_locate(data, detail) for detail in details])
    groups: dict[tuple[str, ...], list[_Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.path, []).append(problem)
    for path, group in groups.items():
        yield _sentence(cls, path, group)


def _locate(data: Any, detail: ErrorDetails) -> _Problem:
    """Splits pydantic's location into the dotted path a user wrote and the names of union alternatives in between."""
    path: list[str] = []
    arms: list[tuple[tuple[str, ...], str]] = []
    here, loc = data, detail["loc"]
    for depth, part in enumerate(loc):
        if isinstance(here, Config):
            here = _shallow(here)
        inside = (
            part in here if isinstance(here, Mapping) else isinstance(here, list | tuple) and part in range(len(here))
        )
        if inside:
            here = here[part]
        elif not (depth == len(loc) - 1 and detail["type"] == "missing"):
            arms.append((tuple(path), _arm_named(str(part))))
            continue
        path.append(str(part))
    return _Problem(tuple(path), tuple(arms), detail)


def _arm_named(label: str) -> str:
    """The class behind pydantic's label of an alternative: `Lagrangian` of `function-after[check(), Lagrangian]`."""
    return label.rstrip("]").rpartition(" ")[2] if label.startswith("function-") else label


def _likeliest(problems: list[_Problem]) -> list[_Problem]:
    """Of a setting with alternatives, only the errors about the alternative the user most likely meant."""
    for choice in sorted({arm[0] for problem in problems for arm in problem.arms}, key=len):
        about: dict[str, list[_Problem]] = {}
        for problem in problems:
            for at, label in problem.arms:
                if at == choice:
                    about.setdefault(label, []).append(problem)
        inside = {label: group for label, group in about.items() if all(_within(p, choice) for p in group)}
        if not inside:
            continue  # a plain value of the wrong type: all alternatives are named in one sentence

        def misfit(label: str, choice: tuple[str, ...] = choice, about: dict[str, list[_Problem]] = inside) -> Any:
            group = about[label]
            return any(p.path == (*choice, "kind") for p in group), len(group)

        best = min(inside, key=misfit)
        wrong_kind = [p for label in inside for p in inside[label] if p.path == (*choice, "kind")]
        if misfit(best)[0]:
            kept = wrong_kind  # no alternative has that kind: say which kinds there are
        else:
            kept = inside[best]
        dropped = {id(p) for group in about.values() for p in group} - {id(p) for p in kept}
        problems = [p for p in problems if id(p) not in dropped]
    return problems


def _within(problem: _Problem, choice: tuple[str, ...]) -> bool:
    """Whether a problem of an alternative is about its settings: one of them, or how they fit together."""
    return len(problem.path) > len(choice) or problem.detail["type"] == "value_error"


def _sentence(cls: type[Config], path: tuple[str, ...], group: Sequence[_Problem]) -> str:
    key, detail = ".".join(path), group[0].detail
    if detail["type"] == "extra_forbidden":
        labels = {label for problem in group for _, label in problem.arms}
        known = _known(cls, path[:-1], labels)
        table = ".".join(path[:-1])
        inside = f" in {table}" if table else ""
        owners = _owners(cls, path)
        if owners:
            of = " or ".join(map(repr, owners))
            return (
                f"{key} is a setting of kind {of}, which {table} is not here. Give {table}.kind = {owners[0]!r} too, "
                f"or another setting. Those{inside} are {', '.join(known)}."
            )
        if len(path) == 1 and key in cls.without:
            return f"no setting is called {key!r}: {cls.without[key]}. The settings are {', '.join(known)}."
        return f"no setting is called {key!r}.{nearest(path[-1], known)} The settings{inside} are {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{key} is required and was not given. Add {key}=…."
    if detail["type"] in ("value_error", "assertion_error"):
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{key}: {message}" if key else message
    # A bound speaks for itself ("greater than 0"); of a wrong type the declared type says more than the message.
    annotation = _declared(cls, path, {label for problem in group for _, label in problem.arms})
    if annotation is not None and not any(problem.detail["type"] in _BOUNDS for problem in group):
        allowed = _type_words(annotation)
    else:
        allowed = " or ".join(dict.fromkeys(p.detail["msg"].removeprefix("Input should be ") for p in group))
    return f"{key} is {_show(detail['input'])}, but should be {allowed}."


_BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
                     "multiple_of", "literal_error", "string_pattern_mismatch", "string_too_short",
                     "string_too_long", "too_short"})  # fmt: skip


def _declared(cls: type[Config], path: tuple[str, ...], labels: set[str]) -> Any:
    """The annotation of the setting at `path`, or None when it lies inside a list or a table."""
    here = [cls]
    for depth, part in enumerate(path):
        owner = next((c for c in here if part in c.model_fields), None)
        if owner is None:
            return None
        if depth == len(path) - 1:
            return owner.model_fields[part].annotation
        here = _tables(here, part, labels)
    return None


def _tables(here: Sequence[type[Config]], part: str, labels: set[str]) -> list[type[Config]]:
    """The Configs that setting `part` of one of `here` may hold, narrowed to those named in `labels` if any is."""
    owners = [c for c in here if part in c.model_fields]
    if not owners:
        return list(here)  # a place in a list or a key of a table: its elements were found one step earlier
    inner = [arm for c in owners for arm in _configs_within(c.model_fields[part].annotation)]
    return [arm for arm in inner if arm.__name__ in labels or _kind(arm) in labels] or inner


def _known(cls: type[Config], path: Sequence[str], labels: set[str]) -> list[str]:
    """The settings of the table at `path`, of the alternatives in `labels` when there are several."""
    here: list[type[Config]] = [cls]
    for part in path:
        here = _tables(here, part, labels)
    return list(dict.fromkeys(name for c in here for name in c.model_fields))


def _owners(cls: type[Config], path: Sequence[str]) -> list[str]:
    """The kinds of the table around the setting at `path` that have it."""
    here: list[type[Config]] = [cls]
    for part in path[:-1]:
        here = _tables(here, part, set())
    return [_kind(arm) for arm in here if path[-1] in arm.model_fields and "kind" in arm.model_fields]


# -- words ------------------------------------------------------------------------------------------------------------


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Config):
        return _label(value)
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return repr(value)


def _label(value: Any) -> str:
    return _kind(type(value)) if isinstance(value, Config) else _show(value)


def _note(field: Any) -> str:
    return field.description or ""


def _default_at(default: Config, setting: Setting, key: str) -> str:
    value: Any = default
    for part in setting.key.removeprefix(key + ".").split("."):
        value = getattr(value, part, PydanticUndefined)
        if value is PydanticUndefined:
            return setting.default
    return _show(value)


def _words(field: Any) -> str:
    """A field's type and bounds as a user says them: `number > 0`, `"adam" | "sgd"`, `list of integer`."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return " ".join([_type_words(field.annotation), *bounds])


def _type_words(annotation: Any) -> str:
    plain = {int: "integer", float: "number", str: "text", bool: "true | false", NoneType: "none", Path: "path"}
    words = []
    for arm in _arms(annotation):
        origin = get_origin(arm) or arm
        if origin is Literal:
            words.append(" | ".join(map(_show, get_args(arm))))
        elif isinstance(origin, type) and issubclass(origin, Enum):
            words.append(" | ".join(repr(member.value) for member in origin))
        elif origin in (tuple, list):
            inner = dict.fromkeys(_type_words(part) for part in get_args(arm) if part is not Ellipsis)
            count = f"{len(get_args(arm))} x " if origin is tuple and Ellipsis not in get_args(arm) and inner else ""
            words.append(f"list of {count}{' | '.join(inner)}" if inner else "list")
        elif isinstance(origin, type) and issubclass(origin, Config):
            words.append(f"table {_kind(origin)}")
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            words.append("table")
        else:
            words.append(plain.get(arm, getattr(arm, "__name__", str(arm))))
    return " | ".join(words)
