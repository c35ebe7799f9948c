"""Several agents: dicts by agent, one shared body or room, one stream of episodes."""

from copy import deepcopy
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from trueline.compat.safety_gymnasium.ids import known, parse
from trueline.compat.safety_gymnasium.vector import SafetySyncVectorEnv
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
        (lambda sg: sg.make_ma(*ANT, agent_obs=1), "'agent_obsk'"),
        (lambda sg: sg.make_ma(*ANT, render_mode="rgb_array", camera_id=1), "0 for track"),
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
    with pytest.raises(ValueError, match=r"agent_0 was given an action of shape \(3,\)"):
        env.step({**actions, "agent_0": np.zeros(3)})
    with pytest.raises(ValueError, match=r"agent_1 was given the action .* Give \(4,\) numbers"):
        env.step({**actions, "agent_1": np.array(list("abcd"))})


def test_two_agents_in_a_room_get_what_their_world_gives_and_go_on_with_its_stream(sg):
    from trueline.safety.worlds.multi_goal import make_multi_goal

    env, world = sg.make("SafetyPointMultiGoal1-v0"), make_multi_goal("SafetyPointMultiGoal1-v0", 1)
    obs, _ = env.reset(seed=3)
    first = world.reset(np.array([3], np.uint32))
    for _ in range(5):
        actions = drive(env)
        for agent in env.agents:
            np.testing.assert_array_equal(obs[agent], first[agent][0])
        obs, reward, cost, terminated, truncated, infos = env.step(actions)
        step = world.step({agent: action[None] for agent, action in actions.items()})
        first = step.obs
        assert infos["agent_0"] == infos["agent_1"]
        told = infos["agent_0"]
        assert told["reward_sum"] == sum(reward.values())
        np.testing.assert_array_equal(env.task.obs(), world.state()[0])
        np.testing.assert_array_equal(env.task.obs(), env.unwrapped.state)
        for k, agent in enumerate(world.agents):
            assert reward[agent] == step.reward[0, k]
            assert cost[agent] == told[agent]["cost_sum"] == step.cost[0, k].sum()
            assert told[agent]["cost_hazards"] == step.info["cost_hazards"][0, k]
            assert told[agent] == env.cost[agent]
            assert (terminated[agent], truncated[agent]) == (False, False)
    again, _ = env.reset()
    assert not np.array_equal(again["agent_0"], env.reset(seed=3)[0]["agent_0"])


class Meeting:
    """A room whose every number is known: a goal in step 2, a meeting in step 3, a broken simulation in step 4."""

    agents = ("agent_0", "agent_1")
    max_episode_steps = 5
    autoreset = False

    def __init__(self, id, num_envs):
        self.id, self.num_envs, self.t = id, num_envs, 0
        self.observation_spaces = dict.fromkeys(self.agents, gymnasium.spaces.Box(-9, 9, (1,), np.float64))
        self.action_spaces = dict.fromkeys(self.agents, gymnasium.spaces.Box(-1, 1, (2,), np.float64))

    def reset(self, seeds=None):
        return self.begin(np.arange(1), seeds)

    def begin(self, rows, seeds=None):
        self.t = 0
        return dict.fromkeys(self.agents, np.zeros((1, 1)))

    def state(self):
        return np.full((1, 1), float(self.t))

    def step(self, actions):
        self.t += 1
        obs = dict.fromkeys(self.agents, self.state())
        yes = np.ones(1, np.bool_)
        info = {
            "cost_hazards": np.array([[1.0, 0.0]]),
            "cost_contact_other": np.full((1, 2), float(self.t == 3)),
            "goal_met": yes & (self.t == 2),
            "reached": np.zeros((1, 2), np.bool_),
            "diverged": yes & (self.t == 4),
        }
        cost = np.array([[[1.0], [float(self.t == 3)]]])
        return SimpleNamespace(
            obs=obs, final_obs=obs, reward=np.array([[0.25, 0.5]]), cost=cost, terminated=~yes,
            truncated=info["diverged"], info=info,
        )  # fmt: skip

    def close(self):
        pass


@pytest.fixture
def room(sg, monkeypatch):
    """How a room of known numbers is made."""
    from trueline.compat.safety_gymnasium import multi_agent

    monkeypatch.setattr(multi_agent, "open_world", lambda id, n, settings, options: Meeting(id, n))
    return lambda **how: sg.make("SafetyPointMultiGoal1-v0", **how)


def test_both_agents_are_told_of_both_as_in_the_originals_repository(room):
    # Its Builder gives each agent one and the same dict, with the costs of both.
    env = room()
    env.reset(seed=0)
    hazards = {"cost_hazards": 1.0, "cost_sum": 1.0}, {"cost_hazards": 0.0, "cost_sum": 0.0}
    met = {"cost_contact_other": 1.0}  # is there only where it happens
    expected = [
        {"agent_0": hazards[0], "agent_1": hazards[1], "reward_sum": 0.75},
        {"agent_0": hazards[0], "agent_1": hazards[1], "reward_sum": 0.75, "goal_met": True},
        {"agent_0": hazards[0] | met, "agent_1": {"cost_hazards": 0.0, "cost_sum": 1.0} | met, "reward_sum": 0.75},
        {"cost_exception": 1.0},
    ]
    for told in expected:
        infos = env.step(drive(env))[-1]
        assert list(infos) == ["agent_0", "agent_1"]
        assert list(infos.values()) == [told, told]


def test_a_room_says_where_its_episode_stands(room):
    env = room()
    assert (env.done, env.terminated, env.truncated, env.steps, env.cost) == (True, True, False, 0, None)
    with pytest.raises(ResetNeeded, match="before the first reset"):
        env.task.obs()
    env.reset(seed=0)
    assert (env.done, env.steps, env.num_steps) == (False, 0, 5)
    for _ in range(4):
        env.step(drive(env))
    assert (env.done, env.terminated, env.truncated, env.steps) == (True, False, True, 4)
    assert env.task.obs().tolist() == [4.0]
    cut = room(config={"num_steps": 2})
    cut.reset(seed=0)
    assert [cut.step(drive(cut))[4]["agent_1"] for _ in range(2)] == [False, True]
    with pytest.raises(ConfigError, match="truncates at 5 itself"):
        room(config={"num_steps": 6})
    with pytest.raises(ConfigError, match="several agents"):
        SafetySyncVectorEnv([room])


def test_autoreset_of_a_room_waits_for_the_end_of_its_episode(room):
    env = room(autoreset=True)
    env.reset(seed=0)
    seen = [env.step(drive(env)) for _ in range(5)]
    assert [float(step[0]["agent_0"][0]) for step in seen] == [1.0, 2.0, 3.0, 0.0, 1.0]
    assert seen[3][-1]["final_observation"]["agent_1"].tolist() == [4.0]


def test_a_room_starts_from_the_seed_set_by_hand_or_always_from_the_same(sg):
    env = sg.make("SafetyPointMultiGoal1-v0")
    first, _ = env.reset(seed=np.int64(7))
    env.unwrapped.set_seed(7)
    np.testing.assert_array_equal(env.reset()[0]["agent_1"], first["agent_1"])
    still = sg.make("SafetyPointMultiGoal1-v0", config={"mechanism_conf.randomize_layout": False})
    zero = env.reset(seed=0)[0]["agent_0"]
    for _ in range(2):
        np.testing.assert_array_equal(still.reset()[0]["agent_0"], zero)
    with pytest.raises(ConfigError, match="Leave one out"):
        still.reset(seed=1)


def test_a_copy_of_a_room_goes_on_as_the_original_and_apart_from_it(sg):
    env = sg.make("SafetyPointMultiGoal2-v0")
    env.reset(seed=1)
    env.step(drive(env, 0.5))
    twin = deepcopy(env)
    assert (twin.steps, twin.cost) == (1, env.cost)
    for value in (0.3, -0.2, 1.0):
        one, other = env.step(drive(env, value)), twin.step(drive(env, value))
        for agent in env.agents:
            np.testing.assert_array_equal(one[0][agent], other[0][agent])
        assert one[1:] == other[1:]
    np.testing.assert_array_equal(env.reset()[0]["agent_0"], twin.reset()[0]["agent_0"])
    env.step(drive(env))
    assert (env.steps, twin.steps) == (1, 0)
    with pytest.raises(ConfigError, match="Make another instead"):
        deepcopy(sg.make_ma(*ANT))


def test_the_parts_of_a_rooms_vector_are_those_of_its_dict(sg):
    flat = sg.make("SafetyCarMultiGoal1-v0")
    parts = sg.make("SafetyCarMultiGoal1-v0", config={"observation_flatten": False})
    assert flat.obs_space_dict == parts.obs_space_dict == parts.task.observation_space
    vector, _ = flat.reset(seed=2)
    parts.reset(seed=2)
    told = np.concatenate([parts.task.obs()[key].ravel() for key in parts.obs_space_dict])
    np.testing.assert_array_equal(told, vector["agent_0"])
    assert flat.task.lidar_conf.num_bins == parts.task.obs()["goal_red_lidar1"].size == 16
    assert flat.task.action_space["agent_1"] == flat.action_space("agent_1")


def test_safepos_multi_goal_environment_can_be_built_on_it(sg):
    class MultiGoal:  # what SafePO's class of this name reads
        def __init__(self, task, seed):
            self.env = sg.make(task)
            self.widths = [self.env.action_space(agent).shape[0] for agent in ("agent_0", "agent_1")]
            self.env.reset(seed=seed)

        def __getattr__(self, name):
            return getattr(self.env, name)

        def observed(self):
            state = self.env.task.obs()
            return [np.concatenate([state, np.eye(2, dtype=np.float32)[k]]) for k in range(2)]

    env = MultiGoal("SafetyPointMultiGoal1-v0", 0)
    assert env.widths == [2, 2]
    assert [seen.shape for seen in env.observed()] == [(154,), (154,)]  # 76 of each agent, and which it is
    *_, infos = env.env.step(drive(env))
    assert len(list(infos.values())) == len(env.possible_agents)


def test_every_room_has_an_id_with_five_values(sg):
    rooms = [id for id, name in known().items() if name.several_agents]
    assert len(rooms) == 39  # five agents, three levels, with Vision; three of them with Debug too
    assert all(parse(id).gymnasium_id in gymnasium.registry for id in rooms)
    five, six = gymnasium.make("SafetyPointMultiGoal1Gymnasium-v0"), sg.make("SafetyPointMultiGoal1-v0")
    first = five.reset(seed=3)[0], six.reset(seed=3)[0]
    np.testing.assert_array_equal(first[0]["agent_1"], first[1]["agent_1"])
    obs, reward, _, truncated, infos = five.step(drive(five.unwrapped))
    expected = six.step(drive(six))
    assert (reward, truncated, infos.pop("cost")) == (expected[1], expected[4], expected[2])
    assert infos == expected[-1]
    np.testing.assert_array_equal(obs["agent_0"], expected[0]["agent_0"])


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


def test_a_room_that_is_opened_as_a_shared_body_is_sent_to_make(sg):
    with pytest.raises(ConfigError, match=r"Open SafetyPointMultiGoal1-v0 with make\('SafetyPointMultiGoal1-v0'\)"):
        sg.make_ma("SafetyPointMultiGoal1-v0")
