"""Names of `rl`."""

from __future__ import annotations

from trueline.core.registry import Entry

SUBJECTS: tuple[Entry, ...] = (
    Entry(
        kind="subject",
        name="policy",
        target="trueline.rl.policy:load",
        summary="an actor-critic policy of one world",
    ),
)

RESPONSES: tuple[Entry, ...] = (
    Entry(
        kind="response",
        name="constrain",
        target="trueline.rl.responses:Constrain",
        summary="switch the constraint on, then tighten it by the measured excess",
    ),
    Entry(
        kind="response",
        name="add-layouts",
        target="trueline.rl.responses:AddLayouts",
        summary="train a share of the episodes on the layouts that failed",
    ),
    Entry(
        kind="response",
        name="randomise",
        target="trueline.rl.responses:Randomise",
        summary="draw a failing disturbance anew in every training episode",
    ),
)

ENTRIES: tuple[Entry, ...] = SUBJECTS + RESPONSES + ()
