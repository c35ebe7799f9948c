"""Names of the safety wing."""

from __future__ import annotations

from trueline.core.registry import Entry
from trueline.safety.catalogue.recipes import ENTRIES as RECIPES
from trueline.safety.catalogue.worlds import ENTRIES as WORLDS
from trueline.safety.claims.catalogue import ENTRIES as CLAIMS

ENTRIES: tuple[Entry, ...] = (*WORLDS, *RECIPES, *CLAIMS)
