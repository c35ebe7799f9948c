"""Layouts of Race, Building, FormulaOne and FadingHard against the original's repository (golden/courses.json)."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from trueline.safety.worlds import WORLDS
from trueline.safety.worlds.layout import Stream, draw_layout
from trueline.safety.worlds.table import of_head

GOLDEN = json.loads((Path(__file__).parent / "golden" / "courses.json").read_text())["layouts"]
FIXED_WITHIN_M = 2e-9  # a goal with a place of its own: the original draws it from a square of this size, unseen


def as_peer(id: str, seed: int) -> dict:
    """What the peer's script writes down, from the stream alone."""
    world = of_head(WORLDS[id])
    layout = draw_layout(world, Stream(seed))
    places = {
        name: list(xy)
        for thing in world.things
        if thing.name != "goal"
        for name, xy in zip(thing.each(), layout.places[thing.name], strict=True)
    }
    turns = [turn for turns in layout.turns.values() for turn in turns]
    return {
        "agent": list(layout.agent),
        "agent_rot": layout.agent_rot,
        "goal": list(layout.places["goal"][0]),
        "rots": turns,
        "places": places,
    } | ({"chosen": layout.chosen} if world.task.renews == "choice" else {})


def shortened(row: dict) -> dict:
    """With a digest of the many places in the order drawn, turns after them, as the peer's script writes it."""
    every = [x for xy in row["places"].values() for x in xy] + row["rots"]
    digest = hashlib.sha256(struct.pack(f"<{len(every)}d", *every)).hexdigest()[:16]
    return {name: row[name] for name in ("agent", "agent_rot", "goal")} | {"places": digest}


@pytest.mark.parametrize("id", GOLDEN)
def test_layouts_are_the_originals_bit_for_bit(id):
    for seed, golden in enumerate(GOLDEN[id]):
        ours = as_peer(id, seed)
        ours = ours if isinstance(golden["places"], dict) else shortened(ours)
        goal, theirs = ours.pop("goal"), golden.pop("goal")
        assert goal == (pytest.approx(theirs, rel=0, abs=FIXED_WITHIN_M) if "Race" in id else theirs)
        assert ours == golden


def test_a_formula_one_episode_starts_on_different_stages():
    starts = {tuple(round(x, 3) for x in row["agent"]) for row in GOLDEN["SafetyPointFormulaOne0-v0"]}
    assert len(starts) > 1
