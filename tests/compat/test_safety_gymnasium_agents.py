"""Several agents: dicts by agent, one shared body or room, one stream of episodes."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from trueline.core.errors import ConfigError
from trueline.safety.worlds.render import NoGraphics
from trueline.safety.worlds.velocity_agents import make_multi_agent

ANT = ("Ant", "2x4")


def drive(env, value=0.1):
    return {agent: np.full(env.action_space(agent).shape, value, np.float32) for agent in env.possible_agents}


def test_a_shared_body_gives_each_agent_what_its_world_gives(sg):
    env, world = sg.make_ma(*ANT), make_multi_agent(*ANT)
    obs, infos = env.reset(seed=3)
    first = world.reset(np.array([3], np.uint32))
    for _ in range(5):
        for agent in env.agents:
            np.testing.assert_array_equal(obs[agent], first[agent][0])
            assert env.observation_space(agent).contains(obs[agent])
        np.testing.assert_array_equal(env.state(), world.state()[0])
        actions = drive(env)
        obs, reward, cost, terminated, truncated, infos = env.step(actions)
        step = world.step({agent: action[None] for agent, action in actions.items()})
        first = step.obs
        for k, agent in enumerate(world.agents):
            assert reward[agent] == step.reward[0, k]
            assert cost[agent] == step.cost[0, k].sum()
            assert (terminated[agent], truncated[agent]) == (False, False)
            assert infos[agent]["x_velocity"] == step.info["x_velocity"][0]


def test_agents_leave_when_the_episode_is_over_and_come_back(sg):
    env = sg.make_ma("Hopper", "3x1")
    env.reset(seed=0)
    assert env.num_agents == 3
    while env.agents:
        *_, terminated, _, _ = env.step(drive(env, 1.0))
    assert set(terminated.values()) == {True}  # the hopper falls
    with pytest.raises(ResetNeeded):
        env.step(drive(env))
    env.reset()
    assert env.agents == env.possible_agents


def test_scripts_build_on_the_class_as_safepo_does(sg):
    class Shared(sg.make_ma):
        def __init__(self, *given):
            super().__init__(*given)
            self.num_agents = len(self.agent_action_partitions)
            self.widths = [len(part) for part in self.agent_action_partitions]

        def _get_share_obs(self):
            return self.env.state()

    env = Shared(*ANT)
    env.reset(seed=0)
    assert (env.num_agents, env.widths) == (2, [4, 4])
    assert env._get_share_obs().shape == env.env.inner.world.state_space.shape


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda sg: sg.make_ma("Ant", None), "one agent"),
        (lambda sg: sg.make_ma("Antt", "2x4"), "Ant"),
        (lambda sg: sg.make_ma("Ant", "3x3"), "2x4"),
        (lambda sg: sg.make_ma(*ANT, local_categories=[["qpos"]]), "Leave it out"),
        (lambda sg: sg.make_ma(*ANT).step({}), "reset"),
    ],
)
def test_a_refusal_names_what_would_be_right(sg, make, says):
    with pytest.raises((ConfigError, ResetNeeded), match=says):
        make(sg)


def test_a_missing_or_misshapen_action_names_the_agent(sg):
    env = sg.make_ma(*ANT)
    env.reset(seed=0)
    actions = drive(env)
    with pytest.raises(ValueError, match="agent_1"):
        env.step({"agent_0": actions["agent_0"]})
    with pytest.raises(ValueError, match=r"agent_0 has shape \(3,\)"):
        env.step({**actions, "agent_0": np.zeros(3)})


def test_two_agents_in_a_room_get_what_their_world_gives_and_go_on_with_its_stream(sg):
    from trueline.safety.worlds.multi_goal import make_multi_goal

    env, world = sg.make("SafetyPointMultiGoal1-v0"), make_multi_goal("SafetyPointMultiGoal1-v0", 1)
    obs, _ = env.reset(seed=3)
    first = world.reset(np.array([3], np.uint32))
    for _ in range(5):
        actions = drive(env)
        for agent in env.agents:
            np.testing.assert_array_equal(obs[agent], first[agent][0])
        obs, reward, cost, terminated, truncated, told = env.step(actions)
        step = world.step({agent: action[None] for agent, action in actions.items()})
        first = step.obs
        assert told["reward_sum"] == sum(reward.values())
        for k, agent in enumerate(world.agents):
            assert reward[agent] == step.reward[0, k]
            assert cost[agent] == told[agent]["cost_sum"] == step.cost[0, k].sum()
            assert told[agent]["cost_hazards"] == step.info["cost_hazards"][0, k]
            assert (terminated[agent], truncated[agent]) == (False, False)
    again, _ = env.reset()
    assert not np.array_equal(again["agent_0"], env.reset(seed=3)[0]["agent_0"])


def test_a_vision_room_is_seen_by_sensor_with_both_agents_pictures(sg):
    env = sg.make("SafetyAntMultiGoal0Vision-v0")
    try:
        obs, _ = env.reset(seed=3)
    except NoGraphics:
        pytest.skip("no OpenGL here")
    plain, _ = sg.make("SafetyAntMultiGoal0-v0").reset(seed=3)
    for agent in env.possible_agents:
        space = env.observation_space(agent)
        assert space.contains(obs[agent])
        assert list(space.spaces) == list(obs[agent])
        assert obs[agent]["vision_1"].shape == (256, 256, 3)
        numbers = [part.ravel() for key, part in obs[agent].items() if not key.startswith("vision")]
        np.testing.assert_array_equal(np.concatenate(numbers), plain[agent])


@pytest.mark.parametrize("config", [{"observe_vision": True}, {"observe_vision": True, "observation_flatten": False,
                                    "vision_env_conf.vision_size": (60, 40)}])  # fmt: skip
def test_pictures_of_a_room_come_in_a_dict_and_one_size(sg, config):
    with pytest.raises(ConfigError, match="256 × 256"):
        sg.make("SafetyPointMultiGoal0-v0", config=config)


def test_keys_drive_the_first_of_two_agents(sg):
    env = sg.make("SafetyPointMultiGoal0Debug-v0")
    still = sg.make("SafetyPointMultiGoal0-v0")
    inner = env.unwrapped._inner.world
    inner.window = SimpleNamespace(held=lambda: {"I"}, close=lambda: None)
    for each in (env, still):
        each.reset(seed=0)
    half = env.observation_space("agent_0").shape[0] // 2
    for _ in range(3):
        driven, *_ = env.step(drive(env, 0.7))  # what is given does not count
        asked, *_ = still.step({"agent_0": np.array([1.0, 0.0]), "agent_1": np.zeros(2)})
        np.testing.assert_array_equal(driven["agent_0"], asked["agent_0"])
    assert driven["agent_0"][3:5].any()  # agent_0's velocity
    assert not driven["agent_0"][half + 3 : half + 5].any()
    with pytest.raises(ConfigError, match="cannot be driven by keys"):
        sg.make("SafetyAntMultiGoal0-v0", config={"debug": True})
