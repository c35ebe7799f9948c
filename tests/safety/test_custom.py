"""Worlds of one's own: what settings make, and what they refuse."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.rl.worlds import make
from trueline.safety.worlds import WORLDS, make_world
from trueline.safety.worlds.custom import CustomWorld, make_custom

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
POINT_GOAL_1 = {
    "things": [{"kind": "hazards", "count": 8, "keepout_m": 0.18}, {"kind": "vases", "count": 1}],
    "rules": [{"name": "cost_hazards", "kind": "inside", "of": "hazards"}],
}
POINT_BUTTON_1 = {
    "task": "button",
    "things": [{"kind": "hazards", "count": 4, "keepout_m": 0.18}, {"kind": "gremlins", "count": 4}],
    "rules": [
        {"name": "cost_buttons", "kind": "wrong_button", "of": "buttons"},
        {"name": "cost_hazards", "kind": "inside", "of": "hazards"},
        {"name": "cost_gremlins", "kind": "touching", "of": "gremlins"},
    ],
}


@pytest.mark.parametrize(
    ("id", "settings"), [("SafetyPointGoal1-v0", POINT_GOAL_1), ("SafetyPointButton1-v0", POINT_BUTTON_1)]
)
def test_the_original_worlds_can_be_described(id, settings):
    described, given = make_custom("SafetyCustom-v0", 3, **settings), make_world(id, 3)
    assert (described.world.things, described.world.rules) == (given.world.things, given.world.rules)
    seeds = np.arange(3, dtype=np.uint32)
    np.testing.assert_array_equal(described.reset(seeds), given.reset(seeds))
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 3, 2)):
        ours, theirs = described.step(action), given.step(action)
        for name in ("obs", "reward", "cost"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_world_of_two_named_costs():
    options = {
        "task": "push",
        "extent_m": 2.0,
        "steps": 40,
        "things": [
            {"kind": "hazards", "name": "puddles", "count": 3, "radius_m": 0.25},
            {"kind": "pillars", "count": 2, "within": [[-2.0, 0.0, 2.0, 2.0]]},
        ],
        "rules": [
            {"name": "cost_wet", "kind": "inside", "of": "puddles"},
            {"name": "cost_bumps", "kind": "touching", "of": "pillars"},
        ],
    }
    env = make("SafetyCustom-v0", num_envs=4, costs="split", **options)
    assert env.costs == ("cost_wet", "cost_bumps")
    env.reset(np.arange(4, dtype=np.uint32))
    assert set(env.layout(0)) >= {"puddles", "pillars", "push_box", "goal"}
    assert all(y >= 0.3 for i in range(4) for _, y in env.layout(i)["pillars"])
    check_env(lambda n, threads=1: make("SafetyCustom-v0", n, threads, **options), steps=50)


def test_the_example_runs_and_is_no_world_of_the_original():
    world = runpy.run_path(str(EXAMPLES / "own_world.py"))["WORLD"]
    assert world not in WORLDS.values()
    assert world.constraints == ("cost_puddles", "cost_gremlins")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"agent": "pint"}, "agent is 'pint'. Give one of point"),
        ({"things": [{"kind": "lava"}]}, "things"),
        (
            {"rules": [{"name": "c", "kind": "inside", "of": "lava"}]},
            "about 'lava', which is not among the things: goal",
        ),
        ({"rules": [{"name": "c", "kind": "touching", "of": "goal"}]}, "which nothing touches"),
        ({"things": [{"kind": "pillars"}], "rules": [{"name": "c", "kind": "moving", "of": "pillars"}]}, "never does"),
        ({"things": [{"kind": "vases"}, {"kind": "vases"}]}, "two kinds of thing are called 'vases'"),
        ({"things": [{"kind": "walls", "count": 3}]}, "3 walls"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=said):
        make_custom("SafetyCustom-v0", 1, **settings)


def test_a_world_without_room_says_for_what():
    crowded = CustomWorld.model_validate({"extent_m": 0.7, "things": [{"kind": "pillars", "count": 8}]}).world()
    from trueline.safety.worlds import open_world

    with pytest.raises(ConfigError, match="no room for its 'pillar"):
        open_world("crowded", crowded, 1).reset(np.zeros(1, np.uint32))
