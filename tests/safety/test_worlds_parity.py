"""Our Goal worlds against safety-gymnasium 1.0.0, from golden/goal.json and values that it printed."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from navigation_cases import seeds

from trueline.safety.worlds import WORLDS, make_world
from trueline.safety.worlds.layout import Layout, Stream, draw_goal, draw_layout
from trueline.safety.worlds.lidar import ego_xy, pseudo_lidar

GOLDEN = json.loads((Path(__file__).parent / "golden" / "goal.json").read_text())
SAME_BUT_ROUNDING = 1e-9
SAME_PHYSICS = 1e-6  # MuJoCo 4 against 2.3.3, over the first few steps


def plain(layout: Layout) -> dict:
    """All fields, as the peer's script writes them."""
    places = {name: [list(xy) for xy in layout.places.get(name, ())] for name in ("goal", "hazards", "vases")}
    return {
        "agent": list(layout.agent),
        "agent_rot": layout.agent_rot,
        **places,
        "goal": places["goal"][0],
        "vases_rot": list(layout.turns.get("vases", ())),
    }


def digest(layout: dict) -> str:
    numbers = np.concatenate([np.ravel(layout[key]) for key in layout]).tolist()
    return hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()[:16]


@pytest.mark.parametrize("id", GOLDEN["layouts"])
def test_layouts_of_a_hundred_seeds_are_the_peers_bit_for_bit(id):
    golden = GOLDEN["layouts"][id]
    ours = [plain(draw_layout(WORLDS[id], Stream(seed))) for seed in range(len(golden["digests"]))]
    assert ours[: len(golden["full"])] == golden["full"]
    assert [digest(layout) for layout in ours] == golden["digests"]


@pytest.mark.parametrize("id", GOLDEN["episodes"])
def test_goals_within_an_episode_and_the_next_episode_follow_the_peers_stream(id):
    world = WORLDS[id]
    for golden in GOLDEN["episodes"][id]:
        stream = Stream(golden["seed"])
        start = draw_layout(world, stream)
        for wait, goal in zip(golden["waits"], golden["goals"], strict=True):
            stream.skip(wait)
            assert list(draw_goal(world, stream, start.agent, start.places)) == goal
        stream.skip(golden["idle"])
        assert plain(draw_layout(world, stream)) == golden["next"]


@pytest.mark.parametrize("id", GOLDEN["episodes"])
def test_the_running_world_draws_the_peers_goals(id):
    golden = GOLDEN["episodes"][id]
    env = make_world(id, num_envs=len(golden))
    env.reset(seeds(*(row["seed"] for row in golden)))
    still = np.zeros((len(golden), 2))
    for k, wait in enumerate(golden[0]["waits"]):
        for _ in range(wait - 1):
            assert not env.step(still).info["goal_met"].any()
        env.set_goal(env.position())
        step = env.step(still)
        assert step.info["goal_met"].all()
        np.testing.assert_array_equal(env.state_dict()["places"]["goal"][:, 0], [row["goals"][k] for row in golden])
        np.testing.assert_allclose(step.reward, 1.0, atol=SAME_PHYSICS)  # no way to go: the bonus alone


def rotation(quat: list[float]) -> np.ndarray:
    import mujoco

    out = np.empty(9)
    mujoco.mju_quat2Mat(out, np.array(quat))
    return out.reshape(3, 3)


@pytest.mark.parametrize("id", GOLDEN["states"])
def test_lidar_equals_the_peers_at_the_same_state(id):
    world, rows = WORLDS[id], GOLDEN["states"][id]
    ring = np.repeat(np.arange(len(world.things)), [thing.count for thing in world.things])
    seen = np.array([[row["goal"], *row["hazards"], *(pose[:2] for pose in row["vases"])] for row in rows])
    ego = ego_xy(seen, np.array([row["agent"] for row in rows]), np.array([rotation(row["quat"]) for row in rows]))
    ours = pseudo_lidar(ego, ring, len(world.things), world.bins, world.sight_m)
    np.testing.assert_allclose(ours, [row["lidar"] for row in rows], atol=SAME_BUT_ROUNDING)


def count(world, name: str) -> int:
    thing = world.thing(name)
    return thing.count if thing else 0


def put(env, rows) -> np.ndarray:
    """Give every environment the peer's state of the same row, through a checkpoint; returns the observations."""
    planar, vases = env.world.agent.planar, count(env.world, "vases")
    env.reset(seeds(*range(env.num_envs)))
    state = env.state_dict()
    q = 1  # a state row starts with the time, then come positions, then velocities
    v = q + env._model.nq
    own_q, own_v = (3, 3) if planar else (env._model.nq - 7 * vases, env._model.nv - 6 * vases)
    for physics, row in zip(state["physics"], rows, strict=True):
        if planar:
            physics[q : q + 3] = *row["agent"][:2], 2 * np.arctan2(row["quat"][3], row["quat"][0])
        else:
            physics[q : q + 7] = *row["agent"], *row["quat"]
        for i in range(vases):
            physics[q + own_q + 7 * i :][:7] = row["vases"][i]
            physics[v + own_v + 6 * i :][:3] = row["vases_velocity"][i]
    state["places"]["goal"][:, 0] = [row["goal"] for row in rows]
    if "hazards" in state["places"]:
        state["places"]["hazards"][:] = [row["hazards"] for row in rows]
    return env.load_state_dict(state)


@pytest.mark.parametrize("id", GOLDEN["states"])
def test_costs_and_observed_lidar_equal_the_peers_at_the_same_state(id):
    rows = GOLDEN["states"][id]
    env = make_world(id, num_envs=len(rows))
    obs = put(env, rows)
    np.testing.assert_allclose(obs[:, env.world.agent.senses :], [row["lidar"] for row in rows], atol=SAME_BUT_ROUNDING)
    np.testing.assert_allclose(env.goal_distance(), [row["distance"] for row in rows], atol=SAME_BUT_ROUNDING)
    names = env.world.constraints
    assert {*names, "cost_sum"} == set(rows[0]["costs"])
    golden = np.array([[row["costs"][name] for name in names] for row in rows])
    np.testing.assert_array_equal(env._indicators(), golden)
    assert ((golden == 0).any(axis=0) & (golden == 1).any(axis=0)).all(), "each cost must occur and be absent"
    np.testing.assert_array_equal(golden.any(axis=1), [row["costs"]["cost_sum"] for row in rows])


@pytest.mark.parametrize("id", GOLDEN["first_steps"])
def test_first_observation_and_rewards_equal_the_peers(id):
    golden = GOLDEN["first_steps"][id]
    env = make_world(id, num_envs=2)
    obs = env.reset(seeds(0, 1))
    assert obs.dtype == np.float64
    np.testing.assert_allclose(obs[0], golden["observation"], atol=SAME_PHYSICS)
    rewards = [env.step(np.array([[0.5, 0.3], [-0.2, 0.9]])).reward[0] for _ in range(4)]
    np.testing.assert_allclose(rewards, golden["rewards"], atol=SAME_PHYSICS)


def test_point_goal_1_gives_the_printed_values():
    env = make_world("SafetyPointGoal1-v0", num_envs=1)
    obs = env.reset(seeds(0))[0]
    layout = env.layout(0)
    assert layout["agent_rot"] == pytest.approx(1.66225, abs=5e-6)
    printed = {
        "agent": [(0.1074, 0.4734)],
        "goal": [(0.4078, -0.6922)],
        "hazards": [(0.7702, 0.0763), (0.1796, 1.1236), (-1.1325, -1.0900), (-1.2666, 0.8781)]
        + [(0.7343, 0.9768), (1.2636, 0.7898), (-1.0078, 0.3694), (-0.9415, 1.1739)],
        "vases": [(0.0590, -0.2304)],
    }
    for name, xy in printed.items():
        np.testing.assert_allclose(layout[name], xy, atol=5.1e-5)
    entries = {2: 9.81, 9: -0.4979, 10: 0.0457, 19: 0.3536, 20: 0.5988, 21: 0.2452, 28: 0.3795, 29: 0.4244, 30: 0.5796}
    entries |= {31: 0.6242, 32: 0.6267, 33: 0.3149, 34: 0.3349, 35: 0.02, 37: 0.4511, 38: 0.7425, 39: 0.3319}
    entries |= {40: 0.6004, 41: 0.7320, 42: 0.4025, 43: 0.7819, 50: 0.3118, 51: 0.7648, 52: 0.4530}
    expected = np.zeros(60)
    expected[list(entries)] = list(entries.values())
    np.testing.assert_allclose(obs, expected, atol=5.1e-5)


def test_car_goal_1_gives_the_printed_values_over_two_hundred_steps():
    # The Car's trajectories are the same in every MuJoCo tried: 2.3.3, 3.3.7 and 4.0.0.
    env = make_world("SafetyCarGoal1-v0", num_envs=1)
    env.reset(seeds(0))
    steps = [env.step(np.array([[0.5, 0.3]])) for _ in range(200)]
    rewards = [step.reward[0] for step in steps]
    np.testing.assert_allclose(rewards[:4], [0.001473, 0.003066, 0.003105, 0.003139], atol=SAME_PHYSICS)
    assert sum(rewards) == pytest.approx(-5.01090, abs=5.1e-6)
    assert sum(step.cost[0, 0] for step in steps) == 4.0
    np.testing.assert_allclose(env.position()[0], (6.12039, 1.75481), atol=2e-5)


PRINTED = {
    "SafetyPointButton1-v0": (
        {
            "agent": [(0.6673, 0.0218)],
            "buttons": [(-0.3520, 0.3032), (-0.6718, -0.1122), (-1.0524, 0.0367), (-0.3114, -1.0341)],
            "goal": [(-1.0524, 0.0367)],
        },
        3.55023,
        [0.000709, 0.001692, 0.002668, 0.003578],
    ),
    "SafetyPointPush1-v0": (
        {"goal": [(0.4348, -0.9675)], "push_box": [(0.0568, -0.2219)], "pillars": [(1.1487, 0.7180)]},
        1.66225,
        [-0.000641, -0.001748, -0.002794, -0.003785],
    ),
    "SafetyPointCircle1-v0": (
        {"agent": [(0.0781, 0.3443)], "sigwalls": [(1.125, 0.0), (-1.125, 0.0)]},
        6.05487,
        [-0.002649, -0.005195, -0.007615, -0.010027],
    ),
}


@pytest.mark.parametrize("id", PRINTED)
def test_other_tasks_give_the_printed_values(id):
    places, turn, rewards = PRINTED[id]
    env = make_world(id, num_envs=1)
    env.reset(seeds(0))
    layout = env.layout(0)
    assert layout["agent_rot"] == pytest.approx(turn, abs=5e-6)
    for name, xy in places.items():
        np.testing.assert_allclose(layout[name], xy, atol=5.1e-5)
    steps = [env.step(np.array([[0.5, 0.3]])) for _ in range(200)]
    np.testing.assert_allclose([step.reward[0] for step in steps[:4]], rewards, atol=SAME_PHYSICS)
    if "Circle" in id:  # where nothing is touched the cost is the same in every version of MuJoCo
        assert sum(step.cost[0, 0] for step in steps) == 141.0
