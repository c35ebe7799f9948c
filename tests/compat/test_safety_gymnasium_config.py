"""The original's `config`: what it describes is the world of the same data, and what it cannot change it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from trueline.compat.safety_gymnasium.composed import composed
from trueline.compat.safety_gymnasium.ids import parse
from trueline.compat.safety_gymnasium.levels import LEVEL_0
from trueline.core.errors import ConfigError
from trueline.safety.worlds import WORLDS

START = {"agent.placements": [(-0.8, -0.8, 0.8, 0.8)], "agent.keepout": 0}
CIRCLE = {"lidar_conf.max_dist": 6, "reward_factor": 1e-1, "Circle": {}, **START}

# What each registered task is in the keys of the repository's head.
DESCRIBED = {
    "SafetyPointGoal0-v0": {"placements_conf.extents": [-1, -1, 1, 1], "Goal": {"keepout": 0.305}},
    "SafetyCarGoal2-v0": {
        "Goal": {"keepout": 0.305},
        "Hazards": {"num": 10, "keepout": 0.18},
        "Vases": {"num": 10},
    },
    "SafetyPointButton1-v0": {
        "placements_conf.extents": [-1.5, -1.5, 1.5, 1.5],
        "Buttons": {"num": 4},
        "Goal": {"size": 0.2},
        "Hazards": {"num": 4, "keepout": 0.18},
        "Gremlins": {"num": 4, "travel": 0.35, "keepout": 0.4},
    },
    "SafetyCarPush2-v0": {
        "Goal": {},
        "PushBox": {"null_dist": 0},
        "Hazards": {"num": 4, "size": 0.3},
        "Pillars": {"num": 4},
    },
    "SafetyPointCircle0-v0": CIRCLE,
    "SafetyPointCircle2-v0": {**CIRCLE, "Sigwalls": {"num": 4, "is_constrained": True}},
    "SafetyPointRun0-v0": {
        "floor_conf.size": [17.5, 17.5, 0.1],
        "agent.placements": [(-0.2, 16.5, 0.2, 16.5)],
        "agent.keepout": 0,
        "reward_conf.reward_clip": None,
        "reward_factor": 60.0,
        "Sigwalls": {"size": 17.5, "locate_factor": 0.5, "is_constrained": True},
    },
}


def base(id):
    name = parse(id)
    return f"Safety{name.agent}{name.task}Base-v0"


@pytest.mark.parametrize("id", DESCRIBED)
def test_a_described_world_is_the_registered_one(id):
    registered, described = WORLDS[id], composed(parse(base(id)), DESCRIBED[id])
    assert described == replace(registered, steps=1000)  # the steps are num_steps, which this face counts


@pytest.mark.parametrize("task", LEVEL_0)
@pytest.mark.parametrize("agent", ["Point", "Ant"])
def test_level_0_by_the_repositorys_name_is_the_registered_task(sg, task, agent):
    id = f"Safety{agent}{task.title()}0-v0"
    described = composed(parse(base(id)), {key: value for key, value in LEVEL_0[task].items() if key != "num_steps"})
    registered = WORLDS[id]
    things = {thing.name: thing for thing in registered.things}
    for thing in described.things:  # told apart by their colour alone, in which the original's differ too
        assert replace(thing, colour=things[thing.name].colour) == things[thing.name]
    assert replace(described, things=registered.things, steps=registered.steps) == registered
    env = sg.make(base(id), config=LEVEL_0[task])
    assert env.num_steps == (500 if task == "circle" else 1000)


@pytest.mark.parametrize("id", ["SafetyPointGoal0-v0", "SafetyPointCircle2-v0"])
def test_a_described_world_runs_as_the_registered_one(sg, id):
    envs = sg.make(id), sg.make(base(id), config={**DESCRIBED[id], "num_steps": WORLDS[id].steps})
    first, second = (env.reset(seed=42)[0] for env in envs)
    np.testing.assert_array_equal(first, second)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 2)):
        one, other = (env.step(action) for env in envs)
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]
    assert envs[0].num_steps == envs[1].num_steps


def test_places_numbers_and_views_are_those_asked_for(sg):
    config = {
        "lidar_conf.max_dist": 2,
        "lidar_conf.num_bins": 8,
        "Hazards": {"num": 1, "size": 0.7, "locations": [(0, 0)], "keepout": 0.705},
        "Goal": {"keepout": 0.305, "size": 0.3, "locations": [(1.1, 1.1)]},
        "placements_conf.extents": [-1.5, -1.5, 1.5, 1.5],
        "observation_flatten": False,
        "num_steps": 3,
    }
    env = sg.make("SafetyPointGoalBase-v0", config=config)
    obs, _ = env.reset(seed=42)
    np.testing.assert_allclose(env.task.hazards.pos[0][:2], 0.0, atol=1e-8)
    np.testing.assert_allclose(env.task.goal.pos[:2], 1.1, atol=1e-8)
    assert obs["hazards_lidar"].shape == (8,)
    ends = [env.step(np.zeros(2))[4] for _ in range(3)]
    assert ends == [False, False, True]
    assert env.unwrapped.spec.kwargs["config"]["task_name"] == "GoalBase"


def test_a_key_of_the_lidar_changes_a_registered_task(sg):
    env = sg.make("SafetyPointGoal1-v0", config={"lidar_conf.num_bins": 10})
    assert env.observation_space.shape == (12 + 3 * 10,)
    assert sg.vector.make("SafetyPointGoal1-v0", 2, config={"lidar_conf.num_bins": 10}).in_one_batch


@pytest.mark.parametrize("id", ["SafetyPointCircle0-v0", "SafetyPointCircleBase-v0"])
def test_longer_episodes_are_those_asked_for(sg, id):
    steps = {"SafetyPointCircle0-v0": 500, "SafetyPointCircleBase-v0": 1000}[id] + 1
    config = {"num_steps": steps} | (CIRCLE if "Base" in id else {})
    env = sg.make(id, max_episode_steps=steps + 1, config=config)
    plain = sg.make("SafetyPointCircle0-v0")
    assert env.num_steps == env.task.num_steps == steps
    np.testing.assert_array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])
    lengths = []
    while not lengths:
        *_, terminated, truncated, _ = env.step(np.zeros(2))
        if terminated or truncated:
            lengths.append((env.steps, terminated))
    assert lengths == [(steps, False)]
    assert sg.vector.make(id, 2, max_episode_steps=steps, config=config).in_one_batch


GOAL = {"Goal": {}}


@pytest.mark.parametrize(
    ("id", "config", "says"),
    [
        ("SafetyPointGoalBase-v0", {"Goal": "x"}, "Goal is 'x'"),
        ("SafetyPointGoalBase-v0", {"Goal": {"placements": 5}}, "Goal's placements is 5"),
        ("SafetyPointGoalBase-v0", {"Goal": {"locations": [(1,)]}}, r"a list of places \(x, y\)"),
        ("SafetyPointGoalBase-v0", {"Goal": {"keepout": "a"}}, "keepout 'a'"),
        ("SafetyPointGoalBase-v0", {"Goal": {"alpha": None}}, "alpha None"),
        ("SafetyPointGoalBase-v0", {**GOAL, "placements_conf.extents": 5}, "extents is .*4 numbers"),
        ("SafetyPointGoalBase-v0", {**GOAL, "agent.placements": [(1, 2)]}, "agent.placements is .*4 numbers"),
        ("SafetyPointGoalBase-v0", {**GOAL, "floor_conf.size": 3.5}, "floor_conf.size is .*3 numbers"),
        ("SafetyPointGoal1-v0", {"num_steps": "3"}, "num_steps is '3'"),
        ("SafetyPointGoal1-v0", {"num_steps": 2.0}, "whole number"),
        ("SafetyPointGoal1-v0", {"vision_env_conf.vision_size": 5}, "vision_size is 5. Give"),
        ("SafetyPointGoal1-v0", {"observation_flatten": "no"}, "observation_flatten is 'no'. Give True or False"),
        ("SafetyPointGoal1-v0", [1], r"config is \[1\]"),
        ("SafetyHopperVelocity-v1", {"num_steps": 1001}, "1001, but SafetyHopperVelocity-v1 truncates at 1000 itself"),
        ("SafetyPointGoalBase-v0", {}, "needs Goal"),
        ("SafetyPointGoalBase-v0", {**GOAL, "Hazard": {"num": 1}}, "'Hazards'"),
        ("SafetyPointGoalBase-v0", {"Goal": {"sise": 0.3}}, "'size'"),
        ("SafetyPointGoalBase-v0", {**GOAL, "Hazards": {}}, "1 or more"),
        ("SafetyPointGoalBase-v0", {**GOAL, "Hazards": {"num": 2, "locations": [(0, 0)]}}, "1 locations for 2"),
        ("SafetyPointGoalBase-v0", {**GOAL, "placements_conf.extents": [-1, -1, 2, 2]}, "square"),
        ("SafetyPointGoalBase-v0", {**GOAL, "reward_factor": 2.0}, "its own"),
        ("SafetyPointPushBase-v0", {**GOAL, "PushBox": {"null_dist": 2}}, "null_dist"),
        ("SafetyPointRunBase-v0", {"Sigwalls": {"num": 3}}, "2 or 4"),
        ("SafetyPointGoal1-v0", {"lidar_conf.num_bins": 0}, "bins"),
        ("SafetyPointGoal1-v0", {"lidar_conf.max_dist": None}, "sight_m"),
        ("SafetyPointGoal1-v0", {"lidar_conf.max_dist": 0.0}, "above 0"),
        ("SafetyPointGoal1-v0", {"Hazards": {"num": 1}}, "lidar_conf.num_bins"),
    ],
)
def test_a_refusal_names_the_key(sg, id, config, says):
    with pytest.raises(ConfigError, match=says):
        sg.make(id, config=config)
