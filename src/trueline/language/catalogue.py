"""The names of the language wing."""

from __future__ import annotations

from trueline.core.registry import Entry

ENTRIES: tuple[Entry, ...] = ()
