"""Names of the safety wing."""

from __future__ import annotations

from trueline.core.registry import Entry

ENTRIES: tuple[Entry, ...] = ()
