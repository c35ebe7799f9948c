"""The multi-agent velocity worlds against safety-gymnasium 1.0.0 (golden/velocity.json)."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from navigation_cases import seeds

from trueline.core.errors import ConfigError, UnknownName
from trueline.rl.env import Perturbable, Stateful, Visible
from trueline.rl.multi_agent import check_multi_agent
from trueline.safety.worlds.velocity import make_velocity
from trueline.safety.worlds.velocity_agents import SCENARIOS, TEAMS, make_multi_agent, make_team

GOLDEN = json.loads((Path(__file__).parent / "golden" / "velocity.json").read_text())["together"]
NAMES = [tuple(key.split()) for key in GOLDEN]
TWELVE_DIGITS = 1e-11
# RK4 of bodies with a free joint has changed since MuJoCo 2.3.3; see test_velocity.py. Here over two control steps.
SAME_PHYSICS = {"Ant": 2e-4, "Humanoid": 3e-6}


def pattern(size: int) -> np.ndarray:
    return np.resize([0.3, -0.2, 0.1, 0.25], size)


def fixed(env) -> dict[str, np.ndarray]:
    """The golden actions of every agent, in every environment."""
    return {agent: np.tile(pattern(space.shape[0]), (env.num_envs, 1)) for agent, space in env.action_spaces.items()}


def still(env) -> dict[str, np.ndarray]:
    return {agent: np.zeros((env.num_envs, *space.shape)) for agent, space in env.action_spaces.items()}


def test_every_scenario_of_the_original_is_here():
    assert list(TEAMS.values()) == NAMES
    assert "Safety2x4AntVelocity-v0" in TEAMS
    assert "Safety9|8HumanoidVelocity-v0" in TEAMS


@pytest.mark.parametrize(("scenario", "conf"), NAMES)
def test_agents_see_at_the_start_what_the_peers_do_in_its_order(scenario, conf):
    golden, env = GOLDEN[f"{scenario} {conf}"], make_multi_agent(scenario, conf, 2)
    obs = env.reset(seeds(4, 0))
    assert list(env.agents) == golden["agents"]
    for agent in env.agents:
        assert env.observation_spaces[agent].shape == np.shape(golden["reset"][agent])
        np.testing.assert_allclose(obs[agent][1], golden["reset"][agent], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("scenario", "conf"), NAMES)
def test_agents_drive_and_see_in_the_first_steps_what_the_peers_do(scenario, conf):
    golden, env = GOLDEN[f"{scenario} {conf}"], make_multi_agent(scenario, conf, 2)
    env.reset(seeds(4, 0))
    same = SAME_PHYSICS.get(scenario, TWELVE_DIGITS)
    for seen, reward in zip(golden["obs"], golden["reward"], strict=True):
        step = env.step(fixed(env))
        for agent in env.agents:
            np.testing.assert_allclose(step.obs[agent][1], seen[agent], rtol=0, atol=same)
        np.testing.assert_allclose(step.reward[1], [reward] * len(env.agents), rtol=0, atol=same)
    np.testing.assert_allclose(env.state()[1], golden["state"], rtol=0, atol=same)


@pytest.mark.parametrize(("scenario", "conf"), NAMES)
def test_every_agents_actions_reach_the_peers_motors(scenario, conf):
    # Agent k's j-th action is numbered 100 k + j; golden["actuators"] tells which number each motor received.
    golden, env = GOLDEN[f"{scenario} {conf}"], make_multi_agent(scenario, conf, 1)
    reach = env._world.model.actuator_ctrlrange[:, 1]
    scale = 1e-3  # keeps the numbers within the range of actions
    env.reset(seeds(0))
    env.step(
        {
            agent: scale * (100.0 * k + np.arange(env.action_spaces[agent].shape[0]))[None]
            for k, agent in enumerate(env.agents)
        }
    )
    driven = env._world._ctrl[0] / reach
    np.testing.assert_allclose(driven, scale * np.array(golden["actuators"]), atol=1e-15)


@pytest.mark.parametrize(("scenario", "conf"), NAMES)
def test_cost_and_reward_of_pushed_bodies_are_the_peers_and_shared(scenario, conf):
    golden = GOLDEN[f"{scenario} {conf}"]
    env = make_multi_agent(scenario, conf, len(golden["pushed"]))
    assert env.task.threshold_m_per_s == golden["threshold"]
    env.reset(seeds(*[0] * env.num_envs))
    state = env.state_dict()
    first = 1 + env._world.model.nq
    state["physics"][:, first : first + 2] = [row["push"] for row in golden["pushed"]]
    env.load_state_dict(state)
    step = env.step(still(env))
    everyone = np.ones((1, len(env.agents)))
    np.testing.assert_array_equal(step.cost[:, :, 0], everyone * [[row["cost"]] for row in golden["pushed"]])
    np.testing.assert_allclose(step.reward, everyone * [[row["reward"]] for row in golden["pushed"]], atol=1e-6)
    assert step.terminated.tolist() == [row["terminated"] for row in golden["pushed"]]


@pytest.mark.parametrize(("scenario", "conf"), NAMES)
def test_the_agents_are_the_single_agent_in_parts(scenario, conf):
    team, alone = make_multi_agent(scenario, conf, 2), make_velocity(f"Safety{scenario}Velocity-v1", 2)
    team.reset(seeds(1, 2))
    np.testing.assert_array_equal(team.state(), alone.reset(seeds(1, 2)))
    rng, motors = np.random.default_rng(0), team._motors
    assert sorted(itertools.chain(*motors.values())) == list(range(alone.model.nu))
    for _ in range(5):
        joint = rng.uniform(-1.5, 1.5, (2, alone.model.nu))
        whole = alone.step(joint)
        step = team.step({agent: joint[:, own] for agent, own in motors.items()})
        np.testing.assert_array_equal(step.final_state, whole.final_obs)
        np.testing.assert_array_equal(step.state, whole.obs)
        np.testing.assert_array_equal(step.reward[:, 0], whole.reward)


@pytest.mark.parametrize(
    "id", ["Safety3x1HopperVelocity-v0", "Safety2x3Walker2dVelocity-v0", "Safety9|8HumanoidVelocity-v0"]
)
def test_they_keep_the_contract(id):
    check_multi_agent(lambda num_envs, threads=1: make_team(id, num_envs, threads), steps=40)


@pytest.mark.parametrize("id", TEAMS)
def test_pettingzoos_own_test_passes(id, capsys):
    from pettingzoo.test import parallel_api_test

    from trueline.rl.to_pettingzoo import ToPettingZoo

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ToPettingZoo(lambda num_envs: make_team(id, num_envs)), num_cycles=20)
    assert "Passed" in capsys.readouterr().out


def test_fast_joints_are_clipped_where_the_original_clips_them():
    # The Hopper's agents see clipped velocities, the Walker's do not; the single agents of both do.
    for scenario, conf, clipped in (("Hopper", "3x1", True), ("Walker2d", "2x3", False)):
        env = make_multi_agent(scenario, conf, 1)
        env.reset(seeds(0))
        state = env.state_dict()
        state["physics"][0, 1 + env._world.model.nq] = 25.0
        obs = env.load_state_dict(state)
        assert max(seen.max() for seen in obs.values()) == (10.0 if clipped else 25.0)
        assert env.state().max() == 10.0


@pytest.mark.parametrize(("agent_obsk", "sizes"), [(0, [6, 6]), (1, [7, 7]), (2, [8, 8]), (9, [9, 9])])
def test_farther_sight_shows_one_joint_after_the_other(agent_obsk, sizes):
    # Of the cheetah's chain bfoot-bshin-bthigh-fthigh-fshin-ffoot each half has three: 2·3 of its own, one position of
    # each joint that it sees beyond, and the body's two positions and three velocities.
    env = make_multi_agent("HalfCheetah", "2x3", 1, agent_obsk=agent_obsk)
    assert [space.shape[0] - 5 for space in env.observation_spaces.values()] == sizes


def test_native_actions_are_the_agents_parts_of_the_actuators_ranges():
    env, twin = (make_multi_agent("Humanoid", "9|8", 2) for _ in range(2))
    env.autoreset = False
    for world in (env, twin):
        world.reset(seeds(0, 1))
    bounds = [(space.low.min(), space.high.max()) for space in env.native_action_spaces.values()]
    assert bounds == [(np.float32(-0.4), np.float32(0.4))] * 2
    native = env.step_native({agent: 0.4 * action for agent, action in fixed(env).items()})
    ours = twin.step(fixed(twin))
    for agent in env.agents:
        np.testing.assert_array_equal(native.obs[agent], ours.obs[agent])
    again = env.begin(np.array([1]), seeds(1))
    for agent, first in twin.reset(seeds(0, 1)).items():
        np.testing.assert_array_equal(again[agent][1], first[1])
        np.testing.assert_array_equal(again[agent][0], native.obs[agent][0])


def test_neighbours_are_those_with_a_common_link():
    near = SCENARIOS["Ant"].near(("hip1", "ankle1"), 2)
    assert [[limb.name for limb in ring] for ring in near] == [
        ["ankle1", "hip1"],
        ["hip2", "hip3", "hip4"],
        ["ankle2", "ankle3", "ankle4"],
    ]


def test_perturbing_reaches_the_body_and_a_scene_shows_it():
    env = make_multi_agent("HalfCheetah", "2x3", 2)
    for ability in (Stateful, Perturbable, Visible):
        assert isinstance(env, ability)
    env.perturb(gear=np.array([1.0, 2.0]))
    env.reset(seeds(3, 3))
    step = env.step(fixed(env))
    assert (step.state[0] != step.state[1]).any()
    assert env.scene(0)["shapes"][-1]["kind"] == "arrow"


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="Ant, HalfCheetah"):
        make_multi_agent("Spider", "2x4")
    with pytest.raises(ConfigError, match="Choose from 2x4, 4x2"):
        make_multi_agent("Ant", "8x1")
    with pytest.raises(ConfigError, match="agent_obsk is -1"):
        make_multi_agent("Ant", "2x4", agent_obsk=-1)
    with pytest.raises(UnknownName, match="Safety2x4AntVelocity-v0"):
        make_team("Safety2x4AntsVelocity-v0", 1)
    env = make_multi_agent("Hopper", "3x1", 2)
    env.reset(seeds(0, 1))
    actions = still(env)
    with pytest.raises(ConfigError, match="no actions for agent_2"):
        env.step({agent: actions[agent] for agent in env.agents[:2]})
    with pytest.raises(ConfigError, match=r"\(2, 2\) for agent_1. It takes \(2, 1\)"):
        env.step({**actions, "agent_1": np.zeros((2, 2))})
