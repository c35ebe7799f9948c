"""Names of the cycle."""

from __future__ import annotations

from trueline.core.registry import Entry

ENTRIES: tuple[Entry, ...] = ()
