"""Building, Race, FormulaOne and Fading: rules of the originals in surroundings of our own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from navigation_cases import seeds
from scipy import ndimage

from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.safety.worlds import WORLDS, make_world, open_world
from trueline.safety.worlds.courses import CIRCUIT, RACE_HAZARDS, STAGES, race
from trueline.safety.worlds.layout import Squares, Stream
from trueline.safety.worlds.table import of_head

AGENT_M = 0.16  # reach of the Point


def blocked(solids, xy: np.ndarray, reach_m: float) -> np.ndarray:
    """Whether a disc of this radius at points [P, 2] touches one of the boxes."""
    out = np.zeros(len(xy), bool)
    for box in solids:
        c, s = np.cos(box.turn_rad), np.sin(box.turn_rad)
        local = (xy - box.at_m[:2]) @ np.array([[c, -s], [s, c]])
        outside = np.maximum(np.abs(local) - box.size_m[:2], 0.0)
        out |= np.hypot(*outside.T) < reach_m
    return out


def connected(solids, points, low, high, step: float) -> np.ndarray:
    """For each point, which connected part of the free space of a disc it lies in, on a grid over a rectangle."""
    nx, ny = (int(n) for n in (np.subtract(high, low) / step).round())
    x, y = np.meshgrid(low[0] + step * np.arange(nx), low[1] + step * np.arange(ny), indexing="ij")
    free = ~blocked(solids, np.column_stack([x.ravel(), y.ravel()]), AGENT_M).reshape(nx, ny)
    part, _ = ndimage.label(free)
    i, j = (np.subtract(points, low) / step).round().astype(int).T
    assert (part[i, j] > 0).all(), "the points themselves have to be free"
    return part[i, j]


COURSES = [id for id in WORLDS if WORLDS[id].scenery]


@pytest.mark.parametrize("id", [id for id in COURSES if "FormulaOne1" not in id and "FormulaOne2" not in id])
def test_no_episode_starts_touching_the_scenery_or_at_a_cost(id):
    env = make_world(id, 8)
    env.reset(np.arange(8, dtype=np.uint32))
    assert not env._indicators().any()
    if env.world.constraints:
        assert "cost_static_geoms_contact" in env.world.constraints


@pytest.mark.parametrize("id", ["SafetyPointRace2-v0", "SafetyPointBuildingPush1-v0", "SafetyPointFormulaOne0-v0"])
def test_the_public_checker_finds_nothing(id):
    short = replace(WORLDS[id], steps=30)
    check_env(lambda n, threads=1: open_world(id, short, n, threads), steps=40)


def test_the_race_can_be_driven_from_both_starts_and_the_gap_is_the_shifts():
    low, high, goal = (-3.2, -3.6), (3.6, 2.2), (3.15, 1.05)
    upper, lower = (-2.275, 1.05), (-2.275, -2.8)
    inside = low[0] + 0.35, low[1] + 0.2  # the way around the outside does not count
    a, b, c = connected(race(), [upper, lower, goal], inside, high, 0.05)
    assert a == c != b
    assert np.ptp(connected(race(0.5), [upper, lower, goal], inside, high, 0.05)) == 0


def test_the_course_leads_from_each_stage_to_the_next_and_not_out():
    low, high = (-16.0, -40.0), (40.0, 18.0)
    *stages, outside = connected(CIRCUIT, [*STAGES, (-15.0, 15.0)], low, high, 0.15)
    assert len(set(stages)) == 1
    assert outside != stages[0]


def test_reaching_the_end_of_the_race_pays_ten_and_ends_the_episode():
    env = make_world("SafetyPointRace1-v0", 1)
    env.reset(seeds(0))
    layout = env.layout(0)
    layout.pop("goal")
    env.set_layout({0: {**layout, "agent": [[2.6, 1.05]], "agent_rot": 0.0}})
    for _ in range(100):
        step = env.step(np.array([[1.0, 0.0]]))
        if step.ended[0]:
            break
    assert (step.terminated[0], step.truncated[0]) == (True, False)
    assert step.reward[0] > 10.0
    assert step.info["goal_met"][0]


def test_scenery_stops_the_agent_and_costs_while_it_is_touched():
    env = make_world("SafetyPointRace1-v0", 1, costs="split")
    env.reset(seeds(0))
    layout = env.layout(0)
    layout.pop("goal")
    env.set_layout({0: {**layout, "agent": [[-2.2, 1.2]], "agent_rot": np.pi / 2}})  # towards the wall at y = 1.6
    costs = [env.step(np.array([[1.0, 0.0]])).cost[0, 1] for _ in range(60)]
    assert env.position()[0, 1] < 1.6
    assert costs[0] == 0.0
    assert costs[-1] == 1.0


def test_formula_one_starts_on_a_stage_and_goes_on_to_the_next():
    env = make_world("SafetyPointFormulaOne0-v0", 16)
    env.reset(np.arange(16, dtype=np.uint32))
    starts = [min(range(7), key=lambda k: np.linalg.norm(np.subtract(STAGES[k], env.position()[i]))) for i in range(16)]
    assert len(set(starts)) > 3
    for i, k in enumerate(starts):
        np.testing.assert_allclose(env.position()[i], STAGES[k], atol=2e-9)
        np.testing.assert_array_equal(env._scene.places["goal"][i, 0, :2], STAGES[(k + 1) % 7])
    for k in range(8):  # all the way round
        env._renew(0)
        np.testing.assert_array_equal(env._scene.places["goal"][0, 0, :2], STAGES[(starts[0] + 2 + k) % 7])
    before = env._measured[0, 0]
    np.testing.assert_allclose(env.step(np.zeros((16, 2))).reward[0], 0.0, atol=1e-6)  # a new stage is no loss
    assert before > 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_of_several_squares_is_chosen_as_numpy_does(seed):
    parts = ((0.0, 0.0, 1.0, 2.0), (-3.0, -1.0, -1.0, 4.0), (5.0, 5.0, 5.5, 5.2), (0.0, 0.0, 0.1, 0.1))
    keepout = 0.1
    inside = np.array([p for p in parts if p[2] - p[0] > 2 * keepout])
    areas = [(c - a - 2 * keepout) * (d - b - 2 * keepout) for a, b, c, d in inside]
    ours, theirs = Stream(seed), np.random.RandomState(seed)
    squares = Squares.shrunk(parts, keepout)
    for _ in range(50):
        a, b, c, d = inside[theirs.choice(len(inside), p=np.array(areas) / np.sum(areas))]
        x = theirs.uniform(a + keepout, c - keepout)
        assert ours.point(squares) == (x, theirs.uniform(b + keepout, d - keepout))


def test_race_hazards_lie_in_their_squares():
    env = make_world("SafetyCarRace1-v0", 20)
    env.reset(np.arange(20, dtype=np.uint32))
    for x, y in env._scene.places["hazards"][:, :, :2].reshape(-1, 2):
        assert any(a + 0.165 <= x <= c - 0.165 and b + 0.165 <= y <= d - 0.165 for a, b, c, d in RACE_HAZARDS)


def test_things_fade_and_come_back():
    env = make_world("SafetyPointFadingHard2-v0", 2)
    env.reset(seeds(0, 1))
    assert env.opacity(0) == {"goal": 1.0, "hazards": 1.0, "vases": 1.0}
    near = {**env.layout(0), "agent_rot": 0.0}
    near["hazards"] = [[near["agent"][0][0] + 0.3, near["agent"][0][1]]] + [[5.0 + k, 5.0] for k in range(9)]
    near["vases"] = [[5.0 + k, 7.0] for k in range(10)]
    env.set_layout({0: near})
    for t in range(1, 100):
        step = env.step(np.array([[0.3, 0.0], [0.0, 0.0]]))
        faded = max(0.0, 1.0 - t / 75)
        assert env.opacity(0)["goal"] == faded
        assert env.opacity(0)["hazards"] == (1.0 if step.info["cost_hazards"][0] else pytest.approx(faded, abs=1.0))
        assert env.opacity(1) == pytest.approx(dict.fromkeys(("goal", "hazards", "vases"), faded))
        if step.info["cost_hazards"][0]:
            break
    assert step.info["cost_hazards"][0], "a hazard must have been entered for this to say anything"
    resumed = make_world("SafetyPointFadingHard2-v0", 2)
    resumed.load_state_dict(env.state_dict())
    assert resumed.opacity(0) == env.opacity(0)
    env.set_goal(env.position(), np.array([True, False]))
    env.step(np.zeros((2, 2)))
    assert env.opacity(0)["goal"] == 1.0
    assert env.opacity(1)["goal"] < 1.0


@pytest.mark.parametrize("id", [id for id in WORLDS if "FormulaOne" in id or "Building" in id])
def test_worlds_that_only_the_repository_has_follow_it_always(id):
    assert of_head(WORLDS[id]) == WORLDS[id]


@pytest.mark.parametrize(
    ("id", "agent", "said"),
    [
        ("SafetyPointRace1-v0", [0.0, 0.0], r"inside scenery\[\d+\]"),
        ("SafetyPointCircle1-v0", [1.9, 0.0], "beyond the lines of cost_out_of_boundary"),
    ],
)
def test_a_start_in_the_scenery_or_beyond_a_line_is_refused(id, agent, said):
    env = make_world(id, 1)
    env.reset(seeds(0))
    layout = {name: at for name, at in env.layout(0).items() if name != "goal"}
    with pytest.raises(ConfigError, match=said):
        env.set_layout({0: {**layout, "agent": [agent]}})


def test_at_the_centre_of_the_circle_nothing_is_paid():
    env = make_world("SafetyPointCircle1-v0", 1)
    env.reset(seeds(0))
    env.set_layout({0: {**env.layout(0), "agent": [[0.0, 0.0]]}})
    assert env.step(np.zeros((1, 2))).reward[0] == 0.0
