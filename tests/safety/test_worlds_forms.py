"""How a world is observed, driven, begun again and put to sleep: one test per option."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from navigation_cases import seeds

from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.rl.worlds import make
from trueline.safety.worlds import WORLDS, make_world, open_world
from trueline.safety.worlds.engine import NavigationWorlds
from trueline.safety.worlds.lidar import compass


def actions(env: NavigationWorlds, steps: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, env.num_envs, *env.action_space.shape))


def short(id: str, n: int, steps: int = 25, **options) -> NavigationWorlds:
    return open_world(id, replace(WORLDS[id], steps=steps), n, **options)


# --- forms of the observation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id", ["SafetyCarButton1-v0", "SafetyAntGoal1-v0", "SafetyDoggoPush0-v0", "SafetyPointRun0-v0"]
)
def test_parts_put_side_by_side_are_the_flat_observation(id):
    flat, parts = make_world(id, 2), make_world(id, 2, observe="parts")
    start = seeds(1, 2)
    whole, named = flat.reset(start), parts.reset(start)
    assert list(named) == list(parts.observation_space.spaces)
    for action in actions(flat, 5):
        np.testing.assert_array_equal(np.concatenate([x.reshape(2, -1) for x in named.values()], axis=1), whole)
        for name, x in named.items():
            assert all(parts.observation_space[name].contains(row) for row in x), name
        whole, named = flat.step(action).obs, parts.step(action).obs


def test_parts_have_the_originals_names():
    assert list(make_world("SafetyCarButton1-v0", 1).observation_parts) == [
        *("accelerometer", "velocimeter", "gyro", "magnetometer", "ballangvel_rear", "ballquat_rear"),
        *("buttons_lidar", "goal_lidar", "hazards_lidar", "gremlins_lidar"),
    ]
    assert "staged_goal_lidar" in make_world("SafetyPointFormulaOne0-v0", 1).observation_parts


def test_a_vision_id_shows_what_the_agents_camera_sees():
    env = open_world("SafetyPointGoal1Vision-v0", replace(WORLDS["SafetyPointGoal1-v0"], steps=2), 2, observe="vision")
    same = make("SafetyPointGoal1Vision-v0", num_envs=1)
    assert same.observation_space["vision"].shape == (256, 256, 3)
    obs = env.reset(seeds(0, 1))
    np.testing.assert_array_equal(same.reset(seeds(0))["vision"][0], obs["vision"][0])
    assert obs["vision"].std() > 5.0
    still = np.zeros((2, 2))
    env.step(still)
    env.seed_source = lambda n: seeds(*range(n))
    last = env.step(still)
    assert last.truncated.all()
    np.testing.assert_array_equal(last.obs["vision"], obs["vision"])  # the same seeds again
    assert np.abs(last.final_obs["vision"].astype(int) - obs["vision"]).max() <= 3  # nothing has moved: it looks alike
    assert last.final_obs["vision"] is not last.obs["vision"]


def test_a_debug_id_is_the_plain_world():
    debug, plain = make("SafetyCarGoal1Debug-v0", num_envs=2), make("SafetyCarGoal1-v0", num_envs=2)
    np.testing.assert_array_equal(debug.reset(seeds(0, 1)), plain.reset(seeds(0, 1)))


def test_a_compass_points_to_single_things_beside_their_rings():
    world = replace(WORLDS["SafetyPointPush1-v0"], compass=2)
    env, plain = open_world("compass", world, 3), make_world("SafetyPointPush1-v0", 3)
    parts = list(env.observation_parts)
    assert parts[4:] == ["goal_lidar", "goal_comp", "hazards_lidar", "pillars_lidar", "push_box_lidar", "push_box_comp"]
    obs, bare = env.reset(seeds(0, 1, 2)), plain.reset(seeds(0, 1, 2))
    needle = obs[:, 28:30]
    np.testing.assert_array_equal(np.delete(obs, [28, 29, 78, 79], axis=1), bare)
    goal = env._scene.places["goal"][:, 0]
    np.testing.assert_array_equal(needle, compass(goal, env._position, env._rotation, 2))
    np.testing.assert_array_less(np.linalg.norm(needle, axis=1), 1.0)


def test_rays_read_as_near_as_things_are():
    # Straight ahead of the first ray, which looks along the agent's x: e^(−distance) to the pillar's surface.
    world = replace(WORLDS["SafetyPointPush1-v0"], lidar="rays")
    env = open_world("rays", world, 1)
    env.reset(seeds(0))
    layout = {**env.layout(0), "agent": [[0.0, 0.0]], "agent_rot": 0.0, "pillars": [[1.2, 0.0]]}
    layout |= {"push_box": [[-3.0, 0.0]], "hazards": [[9.0, 9.0], [9.0, 8.0]], "goal": [[9.0, 7.0]]}
    obs = env.set_layout({0: layout})
    pillars = obs[0, 12 + 32 : 12 + 48]
    assert pillars[0] == pytest.approx(np.exp(-1.0))
    assert pillars[8] == 0.0
    box = obs[0, 12 + 48 :]
    assert box[8] > 0.0
    assert box[0] == 0.0


# --- driving and beginning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["SafetyRacecarGoal1-v0", "SafetyPointGoal1-v0"])
def test_native_actions_are_stretched_ones(id):
    ours, native = make_world(id, 2), make_world(id, 2)
    np.testing.assert_array_equal(ours.reset(seeds(0, 1)), native.reset(seeds(0, 1)))
    high = np.array(native.world.agent.control_high)
    np.testing.assert_array_equal(native.native_action_space.high, high.astype(np.float32))
    for action in actions(ours, 10):
        np.testing.assert_array_equal(ours.step(1.5 * action).obs, native.step_native(1.5 * action * high).obs)


def test_rows_begin_again_from_seeds_while_the_others_go_on():
    env, whole, fresh = (make_world("SafetyPointGoal1-v0", n) for n in (3, 3, 1))
    env.reset(seeds(0, 1, 2)), whole.reset(seeds(0, 1, 2))
    acts = actions(env, 12)
    for action in acts[:6]:
        env.step(action), whole.step(action)
    obs = env.begin(np.array([1]), seeds(77))
    np.testing.assert_array_equal(obs[1], fresh.reset(seeds(77))[0])
    for action in acts[6:]:
        ours, theirs, alone = env.step(action), whole.step(action), fresh.step(action[[1]])
        np.testing.assert_array_equal(ours.obs[[0, 2]], theirs.obs[[0, 2]])
        np.testing.assert_array_equal(ours.obs[1], alone.obs[0])


def test_without_autoreset_an_ended_row_waits():
    env = short("SafetyPointGoal0-v0", 2, steps=3)
    env.autoreset = False
    env.reset(seeds(0, 1))
    *_, last = (env.step(action) for action in actions(env, 3))
    assert last.truncated.all()
    np.testing.assert_array_equal(last.obs, last.final_obs)
    np.testing.assert_array_equal(env.episode_seed, [0, 1])


def test_where_things_are_is_what_the_layout_says_at_the_start():
    env = make_world("SafetyCarPush2-v0", 2)
    env.reset(seeds(3, 4))
    at, layout = env.located(1), env.layout(1)
    for name in ("goal", "hazards", "pillars", "push_box"):
        np.testing.assert_allclose(at[name][:, :2], layout[name])
    np.testing.assert_allclose(at["agent"][0, :2], layout["agent"][0])
    assert at["agent_rotation"].shape == (3, 3)
    np.testing.assert_array_equal(at["agent_velocity"], np.zeros(3))


# --- sleep ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "SafetyPointPush1-v0"])
def test_with_sleeping_bodies_the_agent_moves_as_exactly_until_a_touch(id):
    exact, sleep = make_world(id, 4), make_world(id, 4, physics="sleep")
    np.testing.assert_allclose(exact.reset(seeds(0, 1, 2, 3)), sleep.reset(seeds(0, 1, 2, 3)), atol=1e-12)
    start = exact._position.copy()
    touched = np.zeros(4, bool)
    for action in actions(exact, 60):
        exact.step(action), sleep.step(action)
        for i in range(4):
            data = exact._batch.get_data(i)
            import mujoco

            mujoco.mj_forward(exact._model, data)
            agent = exact._model.body("agent").id
            pairs = exact._model.body_rootid[exact._model.geom_bodyid[data.contact.geom[: data.ncon]]]
            touched[i] |= any(agent in pair and (pair > 0).all() for pair in pairs)
        np.testing.assert_allclose(sleep._position[~touched], exact._position[~touched], atol=1e-12)
    assert not touched.all(), "an agent that touches nothing is needed for this to say anything"
    assert np.abs(exact._position - start).max() > 0.05


def test_a_touch_wakes_what_sleeps():
    env = make_world("SafetyPointGoal2-v0", 1, physics="sleep", costs="split")
    env.reset(seeds(0))
    layout = env.layout(0)
    layout |= {"agent": [[0.0, 0.0]], "agent_rot": 0.0, "hazards": [[9.0 + k, 9.0] for k in range(10)]}
    layout["vases"] = [[1.0, 0.0]] + [[9.0 + k, 7.0] for k in range(9)]
    env.set_layout({0: layout})
    for _ in range(40):
        env.step(np.zeros((1, 2)))  # long enough to fall asleep
    steps = [env.step(np.array([[1.0, 0.0]])) for _ in range(120)]
    assert max(step.info["cost_vases_contact"][0] for step in steps) == 1.0
    assert max(step.info["cost_vases_velocity"][0] for step in steps[60:]) == 1.0
    assert env.located(0)["vases"][0, 0] > 1.05


def test_sleeping_worlds_keep_the_contract():
    check_env(lambda n, threads=1: short("SafetyPointGoal2-v0", n, threads=threads, physics="sleep"), steps=60)


@pytest.mark.parametrize(("option", "value"), [("costs", "all"), ("physics", "fast"), ("observe", "pixels")])
def test_an_unknown_option_is_named_with_what_is_known(option, value):
    with pytest.raises(ConfigError, match=f"{option} is '{value}' for SafetyPointGoal1-v0. Give '"):
        make_world("SafetyPointGoal1-v0", 1, **{option: value})


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyHopperVelocity-v1", "TruelineMobileArmCloseDrawer-v0",
                                "PlanarPointGoal1-v0"])  # fmt: skip
def test_where_nothing_ended_both_observations_are_one_array_and_where_something_did_they_are_not(id):
    env = make(id, num_envs=2)
    env.reset(seeds(0, 1))
    still = np.zeros((2, *env.action_space.shape))
    step = env.step(still)
    assert np.shares_memory(step.obs, step.final_obs)
    env._elapsed[0] = env.max_episode_steps - 1
    step = env.step(still)
    assert step.truncated.tolist() == [True, False]
    assert not np.shares_memory(step.obs, step.final_obs)
    np.testing.assert_array_equal(step.obs[1], step.final_obs[1])
    assert (step.obs[0] != step.final_obs[0]).any()
