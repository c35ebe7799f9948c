"""Names: what can be trained, audited or asked for, and where it lives.

A *plug-in* is a module named by the entry-point group `trueline.plugins` (or given to `add_module`); it holds one tuple
`ENTRIES` of `Entry`. An entry points at its object by `"module:attribute"`, which is imported when first loaded, so
listing names stays cheap. Nothing in a settings file is ever imported: a name reaches only what is registered.
"""

import importlib
import importlib.metadata
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from trueline.core.errors import PluginError, TruelineError, UnknownName, unknown

__all__ = ["GROUP", "Entry", "Kind", "Level", "add", "add_module", "added_modules", "entries", "find", "load"]

GROUP = "trueline.plugins"

Kind = Literal[
    "recipe", "env", "multi-agent env", "audit", "response", "claim", "subject", "benchmark", "text-data", "scorer"
]

# How the thing is known to be right: equal to an exact answer, equal to a peer on the same input, a property holds,
# measured against its optimum, or not yet known.
Level = Literal["exact", "peer", "property", "measured", "unverified"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name.

    `target` is "module:attribute"; `reference` the paper, section or equation; `test` the node id of what verifies it.
    Raises `PluginError` for an unknown kind or level, or a target of another form.
    """

    kind: str
    name: str
    target: str
    summary: str
    reference: str = ""
    level: Level = "unverified"
    test: str = ""
    family: str = ""  # of names that differ in a detail, and are listed together
    known_by: tuple[str, ...] = ()  # of a subject: files by which a folder made elsewhere is taken for one

    def __post_init__(self) -> None:
        for what, given, known in (("kind", self.kind, get_args(Kind)), ("level", self.level, get_args(Level))):
            if given not in known:
                raise PluginError(f"entry {self.name!r} has {what} {given!r}. Use one of {', '.join(known)}.")
        module, colon, attribute = self.target.partition(":")
        if not (module and colon and attribute):
            raise PluginError(f"entry {self.name!r} points at {self.target!r}. Write it as 'module:attribute'.")


_lock = threading.RLock()
_found: dict[tuple[str, str], list[tuple[Entry, str]]] = {}  # (kind, name) -> entries with the plug-in each came from
_modules: list[str] = []
_discovered = False


def add(entry: Entry, source: str = "this program") -> None:
    """Registers `entry`; the same entry twice is harmless.

    Raises `PluginError` naming both sources when another entry has its kind and name.
    """
    with _lock:
        _discover()
        _put(entry, source)
        if len(_found[entry.kind, entry.name]) > 1:
            clash = _clash(entry.kind, entry.name)
            _found[entry.kind, entry.name].pop()
            raise clash


def add_module(module_name: str) -> None:
    """Imports a module of the user's (from the working directory too) and registers its `ENTRIES`, if it has any.

    The module may also call `add` itself. Raises `PluginError` when it cannot be imported.
    """
    # A console script does not have the working directory on its path; the user named this module on purpose.
    if "" not in sys.path and "." not in sys.path:
        sys.path.append("")
    importlib.invalidate_caches()
    for entry in _entries_of(_import(module_name)):
        add(entry, module_name)
    with _lock:
        if module_name not in _modules:
            _modules.append(module_name)


def added_modules() -> tuple[str, ...]:
    """Modules given to `add_module`, in order, so that a worker process can add the same."""
    return tuple(_modules)


def entries(kind: str | None = None) -> list[Entry]:
    """All entries (of one kind), sorted by kind and name."""
    with _lock:
        _discover()
        found = [entry for listed in _found.values() for entry, _ in listed if kind in (None, entry.kind)]
    return sorted(found, key=lambda entry: (entry.kind, entry.name))


def find(kind: str, name: str) -> Entry:
    """The entry called `name`.  Raises `UnknownName` with the nearest name, `PluginError` if two plug-ins claim it."""
    with _lock:
        _discover()
        listed = _found.get((kind, name), [])
        if not listed:
            raise UnknownName(unknown(kind, name, [entry.name for entry in entries(kind)]))
        if len(listed) > 1:
            raise _clash(kind, name)
        return listed[0][0]


def load(kind: str, name: str) -> Any:
    """The object an entry points at, imported on first use.

    Raises as `find` does, and `PluginError` when its module or attribute is missing or fails to import.
    """
    entry = find(kind, name)
    module_name, _, path = entry.target.partition(":")
    target: Any = _import(module_name, f"{kind} {name!r}")
    for attribute in path.split("."):
        try:
            target = getattr(target, attribute)
        except AttributeError:
            raise PluginError(
                f"{kind} {name!r} points at {entry.target}, but {module_name} has no {path}. Correct its catalogue."
            ) from None
    return target


def _import(module_name: str, wanted_by: str = "") -> ModuleType:
    who = f"{wanted_by} (module {module_name})" if wanted_by else f"module {module_name}"
    try:
        return importlib.import_module(module_name)
    except TruelineError:
        raise
    except ModuleNotFoundError as error:
        raise PluginError(f"{who} could not be loaded: there is no module {error.name!r}. Install it.") from error
    except Exception as error:
        raise PluginError(
            f"{who} could not be loaded: {type(error).__name__}: {error}. Correct that module or remove its package."
        ) from error


def _entries_of(module: ModuleType) -> tuple[Entry, ...]:
    listed = getattr(module, "ENTRIES", ())
    if not isinstance(listed, tuple | list) or not all(isinstance(entry, Entry) for entry in listed):
        raise PluginError(f"{module.__name__}.ENTRIES is not a tuple of Entry. Correct that catalogue.")
    return tuple(listed)


def _put(entry: Entry, source: str) -> None:
    listed = _found.setdefault((entry.kind, entry.name), [])
    if all(entry != known for known, _ in listed):
        listed.append((entry, source))


def _clash(kind: str, name: str) -> PluginError:
    sources = " and ".join(source for _, source in _found[kind, name])
    return PluginError(f"{kind} {name!r} is registered by {sources}. Rename one, or uninstall one of the packages.")


def _discover() -> None:
    """Reads the installed plug-ins once.  One that is broken is named on stderr and left out; the rest is unharmed."""
    global _discovered
    if _discovered:
        return
    _discovered = True  # set first: a catalogue may call `add` while it is being imported
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        try:
            listed = _entries_of(_import(point.value))
        except TruelineError as error:
            print(f"trueline: the plug-in {point.name!r} is left out. {error}", file=sys.stderr)
            continue
        for entry in listed:
            _put(entry, f"plug-in {point.name!r} ({point.value})")
