"""What the face promises beyond the golden values: rows of a batch, one stream of episodes, and plain refusals."""

import functools
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from staggered import ABLE, DEPTH_M, HIGH, LIMIT, LOW, PLAIN

from trueline.compat.safety_gymnasium import pictures
from trueline.core.errors import ConfigError, UnknownName

GOAL = "SafetyPointGoal1-v0"
STILL = np.zeros(2)


class Through(gymnasium.Wrapper):
    """Changes nothing, but a batch cannot know that."""

    def step(self, action):
        return self.env.step(action)


class Halved(gymnasium.ActionWrapper):
    def action(self, action):
        return action / 2


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple | list) or (isinstance(a, np.ndarray) and a.dtype == object):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


# --- one stream of episodes -------------------------------------------------------------------------------------------


def expected_doubles(seed, lengths):
    """First doubles of the episodes of `seed`, each of which is left after so many steps."""
    rng, firsts = np.random.RandomState(seed), []
    for steps in lengths:
        firsts.append(rng.random_sample(2)[0])
        rng.random_sample(steps)
    return firsts


def test_episodes_go_on_with_the_stream_wherever_they_were_left(sg):
    env = sg.make(ABLE)
    firsts = [env.reset(seed=9)[0][0]]
    for steps in (2, 0, 3):
        for _ in range(steps):
            env.step(STILL)
        firsts.append(env.reset()[0][0])
    assert firsts == expected_doubles(9, (2, 0, 3, 0))
    assert env.reset(seed=9)[0][0] == firsts[0]


def test_a_shorter_time_limit_goes_on_with_the_stream(sg):
    env = sg.make(ABLE, max_episode_steps=2, autoreset=True)
    firsts = [env.reset(seed=3)[0][0]]
    for t in range(6):
        obs, *_, truncated, _ = env.step(STILL)
        assert truncated == (t % 2 == 1)
        if truncated:
            firsts.append(obs[0])
    assert firsts == expected_doubles(3, (2, 2, 2, 0))


def test_a_seed_set_by_hand_starts_the_next_episode(sg):
    env = sg.make(ABLE)
    env.reset(seed=1)
    env.unwrapped.set_seed(8)
    assert env.reset()[0][0] == expected_doubles(8, (0,))[0]
    unmoved = sg.make(ABLE, config={"mechanism_conf.randomize_layout": False})
    assert unmoved.reset()[0][0] == unmoved.reset()[0][0] == expected_doubles(0, (0,))[0]


def test_a_world_that_cannot_be_held_repeats_by_seed(sg):
    runs = []
    for _ in range(2):
        env = sg.make(PLAIN, autoreset=True)
        rows = [env.reset(seed=4)[0]] + [env.step(STILL)[0] for _ in range(20)] + [env.reset()[0]]
        runs.append(np.array(rows))
    np.testing.assert_array_equal(*runs)
    firsts = runs[0][runs[0][:, 1] == 0, 0]
    assert len(set(firsts)) == len(firsts) > 3


# --- rows of a batch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [ABLE, PLAIN, GOAL])
def test_a_batch_is_its_environments_one_by_one(sg, id):
    actions = np.random.default_rng(0).uniform(-1, 1, (17, 3, 2))
    limit = {} if id == PLAIN else {"max_episode_steps": 5}
    together = sg.vector.make(id, 3, wrappers=Halved, **limit)
    apart = sg.vector.make(id, 3, asynchronous=False, wrappers=[Halved, Through], **limit)
    assert together.in_one_batch
    assert not apart.in_one_batch
    if id == PLAIN:  # each draws its next seeds by itself there, and all together here: only first episodes are alike
        actions = actions[:3]
    same(together.reset(seed=[5, 6, 7]), apart.reset(seed=[5, 6, 7]))
    for action in actions:
        same(together.step(action), apart.step(action))
    if id != PLAIN:
        same(together.reset(), apart.reset())
        same(together.reset(seed=[None, 1, None]), apart.reset(seed=[None, 1, None]))


def test_rows_end_at_different_times_and_keep_their_last_infos(sg):
    env = sg.vector.make(ABLE, 4)
    env.reset(seed=2)
    ended_alone = 0
    for _ in range(30):
        obs, reward, cost, terminated, truncated, infos = env.step(np.zeros((4, 2)))
        ended = terminated | truncated
        np.testing.assert_array_equal(obs[:, 1] == 0, ended)
        if 0 < ended.sum() < 4:
            ended_alone += 1
            np.testing.assert_array_equal(infos["_final_observation"], ended)
            np.testing.assert_array_equal(infos["_cost_sum"], ~ended)
            for i in np.flatnonzero(ended):
                final, told = infos["final_observation"][i], infos["final_info"][i]
                assert reward[i] == final[0] * final[1]
                assert told["cost_sum"] == cost[i] == (final[1] == 1)
    assert ended_alone > 5


def test_what_does_more_than_act_is_stepped_one_by_one(sg):
    def fresh():
        return sg.make(ABLE)

    def begun():
        env = fresh()
        env.reset(seed=1)
        return env

    batch = sg.vector.SafetyAsyncVectorEnv
    assert batch([fresh, functools.partial(sg.make, ABLE)]).in_one_batch
    assert not batch([fresh, begun]).in_one_batch  # its stream is under way
    assert not batch([fresh, functools.partial(sg.make, ABLE, max_episode_steps=2)]).in_one_batch
    assert not batch([functools.partial(sg.make, ABLE, autoreset=True)]).in_one_batch
    assert not sg.vector.make(PLAIN, 2, max_episode_steps=2).in_one_batch  # single rows would have to be begun
    env = batch([begun])
    assert env.reset()[0][0, 0] == expected_doubles(1, (0, 0))[1]


def test_environments_of_a_batch_still_show_themselves(sg):
    env = sg.vector.make(ABLE, 3, render_mode="rgb_array", width=4, height=2)
    env.reset(seed=0)
    env.step(np.zeros((3, 2)))
    assert [task.agent.pos[0] for task in env.get_attr("task")] == [0.0, 1.0, 2.0]
    assert env.call("steps") == (1, 1, 1)
    assert [picture[0, 0, 0] for picture in env.get_images()] == [6, 7, 8]  # "vision" has six letters
    assert env.render().shape == (2 * (2 + 10), 2 * (4 + 10), 3)
    with pytest.raises(ConfigError, match="one of a batch"):
        env.envs[0].step(STILL)
    env.step_async(np.zeros((3, 2)))
    assert env.step_wait()[0][0, 1] == 2
    worlds = env.get_attr("world")
    env.close()
    assert worlds[0].closed


# --- numbers in and out -----------------------------------------------------------------------------------------------


def test_native_actions_are_brought_to_the_worlds_range(sg):
    env = sg.make(ABLE)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.action_space.low, LOW)
    seen = [env.step(action)[0][2:] for action in (LOW, (LOW + HIGH) / 2)]
    env.reset(seed=0)
    seen += [env.step(action)[0][2:] for action in (HIGH, [10.0, 0.0])]
    np.testing.assert_allclose(seen, [[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], atol=1e-15)


def test_infos_tell_events_only_where_they_happen(sg):
    env = sg.make(ABLE)
    env.reset(seed=0)
    told = [env.step(STILL)[-1] for _ in range(3)]
    assert told == [
        {"cost_heat": 1.0, "cost_sum": 1.0},
        {"cost_heat": 0.0, "cost_sum": 0.0, "goal_met": True},
        {"cost_heat": 0.0, "cost_sum": 0.0},
    ]
    assert told[1]["goal_met"] is True


def test_a_diverged_simulation_costs_and_is_truncated(sg):
    seeds = [s for s in range(20) if np.random.RandomState(s).random_sample() < 0.5][:2]
    env = sg.make(ABLE, diverges_at=1)
    env.reset(seed=seeds[0])
    _, _, cost, terminated, truncated, info = env.step(STILL)
    assert (cost, terminated, truncated, info) == (1.0, False, True, {"cost_exception": 1.0})
    batch = sg.vector.make(ABLE, 2, diverges_at=1)
    batch.reset(seed=seeds)
    _, _, cost, _, truncated, infos = batch.step(np.zeros((2, 2)))
    assert cost.tolist() == [1.0, 1.0]
    assert truncated.all()
    assert [told == {"cost_exception": 1.0} for told in infos["final_info"]] == [True, True]


@pytest.mark.parametrize("id", [ABLE, GOAL])
def test_parts_are_the_flat_vector_cut_up(sg, id):
    flat, parts = sg.make(id), sg.make(id, config={"observation_flatten": False})
    one, other = flat.reset(seed=3)[0], parts.reset(seed=3)[0]
    assert parts.observation_space.contains(other)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in other.values()]), one)
    batch = sg.vector.make(id, 2, config={"observation_flatten": False})
    rows = batch.reset(seed=3)[0]
    for key, part in other.items():
        np.testing.assert_array_equal(rows[key][0], part)
    assert batch.observation_space.contains(rows)


def test_the_vision_variant_has_a_picture_among_its_parts(sg):
    env = sg.make("SafetyPointStagger0Vision-v0", config={"vision_env_conf.vision_size": (6, 4)})
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert obs["vision"].shape == (4, 6, 3)  # size is (width, height), a picture has rows first
    assert env.unwrapped.spec.kwargs["config"]["observe_vision"]
    batch = sg.vector.make("SafetyPointStagger0Vision-v0", 2, config={"vision_env_conf.vision_size": (6, 4)})
    pixels = batch.reset(seed=0)[0]["vision"]
    assert pixels.shape == (2, 4, 6, 3)
    assert pixels[1, 0, 0, 0] == pixels[0, 0, 0, 0] + 1
    flat = sg.make(ABLE, config={"observe_vision": True, "vision_env_conf.vision_size": (6, 4)})
    assert flat.reset(seed=0)[0].shape == flat.observation_space.shape == (4 + 6 * 4 * 3,)


def test_what_is_returned_is_never_written_to_again(sg):
    for env, action in ((sg.make(ABLE), STILL), (sg.vector.make(ABLE, 2), np.zeros((2, 2)))):
        kept = [env.reset(seed=0)[0], env.step(action)[0]]
        copies = deepcopy(kept)
        env.step(action)
        env.reset()
        same(np.array(kept), np.array(copies))


def test_final_observations_of_a_batch_are_normalised_as_samples_of_their_own(sg):
    env = sg.wrappers.SafeNormalizeObservation(sg.vector.make(ABLE, 4))
    raw = sg.vector.make(ABLE, 4)
    seen = [raw.reset(seed=2)[0]]
    np.testing.assert_allclose(env.reset(seed=2)[0], (seen[0] - seen[0].mean(0)) / seen[0].std(0).clip(1e-9), atol=0.2)
    for _ in range(12):
        infos, plain = env.step(np.zeros((4, 2)))[-1], raw.step(np.zeros((4, 2)))
        seen.append(plain[0])
        if "final_observation" in plain[-1]:
            rows = np.flatnonzero(plain[-1]["_final_observation"])
            finals = np.stack(plain[-1]["final_observation"][rows].tolist())
            seen.append(finals)
            every = np.concatenate([[[0.0] * 4], *seen])  # the statistics start with a little weight at 0 ± 1
            weight = np.concatenate([[1e-4], np.ones(len(every) - 1)])
            mean = np.average(every, axis=0, weights=weight)
            square = np.average(np.square(every - mean), axis=0, weights=weight) + 1e-4 / weight.sum()
            expected = (finals - mean) / np.sqrt(square + 1e-8)
            got = np.stack(infos["final_observation"][rows].tolist())
            np.testing.assert_allclose(got, expected, rtol=1e-9)
            same(infos["original_final_observation"], plain[-1]["final_observation"])


# --- what scripts lean on ---------------------------------------------------------------------------------------------


def test_attributes_are_found_through_any_number_of_wrappers(sg):
    env = sg.make(ABLE, autoreset=True)
    for wrapper in (sg.wrappers.SafeNormalizeObservation, sg.wrappers.SafeNormalizeReward, sg.wrappers.SafeUnsqueeze):
        env = wrapper(env)
    env.reset(seed=0)
    env.step(STILL)
    task = env.task
    np.testing.assert_array_equal(task.agent.pos, [0.0, 1.0, 0.1])
    assert task.goal.pos.tolist() == [3.0, 5.0, 0.0]
    assert task.dist_goal() == task.agent.dist_xy(task.goal.pos) == 5.0  # 3, 4, 5
    assert [place[0] for place in task.hazards.pos] == [1.0, 2.0]
    assert task.hazards.num == 2
    assert task.num_steps == env.num_steps == LIMIT
    np.testing.assert_array_equal(task.obs(), env.unwrapped.observation())
    np.testing.assert_array_equal(task.agent.get_sensor("double"), env.unwrapped.observation()[:1])
    with pytest.raises(ConfigError, match="There are double"):
        task.agent.get_sensor("sonar")
    assert not hasattr(task, "gremlins")
    assert not hasattr(env, "_private")
    assert env.obs_space_dict.spaces.keys() == {"double", "rest"}


def test_the_task_of_a_goal_world_is_where_its_layout_says(sg):
    env = sg.make(GOAL)
    env.reset(seed=4)
    layout = env.unwrapped.world.layout(0)
    np.testing.assert_allclose(env.task.agent.pos[:2], layout["agent"][0], atol=1e-12)
    np.testing.assert_allclose(env.task.goal.pos[:2], layout["goal"][0], atol=1e-12)
    np.testing.assert_allclose([xy[:2] for xy in env.task.hazards.pos], layout["hazards"], atol=1e-12)
    np.testing.assert_allclose(env.task.agent.mat @ env.task.agent.mat.T, np.eye(3), atol=1e-12)


# What the peer's tasks of these names say: size, keepout and number of each kind.
SIZES = {
    "SafetyPointGoal2-v0": {"goal": (0.3, 0.305, 1), "hazards": (0.2, 0.18, 10), "vases": (0.1, 0.15, 10)},
    "SafetyPointButton1-v0": {"goal": (0.2, 0.4, 1), "buttons": (0.1, 0.2, 4), "gremlins": (0.1, 0.4, 4)},
    "SafetyCarPush2-v0": {"hazards": (0.3, 0.4, 4), "pillars": (0.2, 0.3, 4), "push_box": (0.125, 0.125, 1)},
    "SafetyPointCircle2-v0": {"sigwalls": (3.5, 0.0, 4)},
}


@pytest.mark.parametrize("id", SIZES)
def test_the_task_says_what_things_are_as_the_peers_does(sg, id):
    env = sg.make(id)
    env.reset(seed=0)
    for kind, (size, keepout, number) in SIZES[id].items():
        thing = getattr(env.task, kind)
        assert (thing.size, thing.keepout, thing.num) == (size, keepout, number), kind
    lidar = env.task.lidar_conf
    assert (lidar.num_bins, lidar.exp_gain, lidar.type, lidar.alias) == (16, 1.0, "pseudo", True)
    assert lidar.max_dist == (6.0 if "Circle" in id else 3.0)


def test_a_goal_is_achieved_within_its_size(sg):
    env = sg.make("SafetyPointGoalBase-v0", config={"Goal": {"locations": [(0.0, 0.0)], "size": 0.5}})
    env.reset(seed=0)
    world, goal = env.unwrapped.world, np.zeros(2)
    layout = world.layout(0)
    for away, achieved in ((0.51, False), (0.49, True)):
        world.set_layout({0: {**layout, "agent": [goal + (away, 0.0)]}})
        assert env.task.dist_goal() == pytest.approx(away)
        assert env.task.goal_achieved is achieved
    assert sg.make("SafetyPointCircle1-v0").task.goal_achieved is False
    button = sg.make("SafetyPointButton1-v0")
    with pytest.raises(AttributeError, match="info"):
        _ = button.task.goal_achieved


def test_what_a_view_shows_cannot_be_set(sg):
    env = sg.make(GOAL)
    env.reset(seed=0)
    for view in (env.task, env.task.agent, env.task.goal, sg.make("SafetyPointMultiGoal1-v0").task):
        for name in ("num_steps", "whatever"):
            with pytest.raises(ConfigError, match=f"{name} was set to 5, but env.task is a view"):
                setattr(view, name, 5)
    with pytest.raises(AttributeError):
        env.task.lidar_conf.num_bins = 8
    assert env.task.num_steps == 1000


@pytest.mark.parametrize("id", [ABLE, GOAL])
def test_a_copy_goes_on_as_the_original_and_apart_from_it(sg, id):
    env = sg.make(id, max_episode_steps=4)
    env.reset(seed=1)
    env.step(STILL)
    twin = deepcopy(env)
    action = np.array([0.3, 0.2])
    for _ in range(3):
        same(env.step(action), twin.step(action))
    same(env.reset(), twin.reset())
    env.step(action)
    assert (env.steps, twin.steps) == (1, 0)


@pytest.mark.parametrize("id", ["SafetyPointGoal1Gymnasium-v0", "SafetyCarGoal2Gymnasium-v0"])
def test_gymnasium_accepts_the_face_with_five_values(sg, id):
    env = gymnasium.make(id)
    with pytest.warns(UserWarning, match="different from the unwrapped"):  # only the wrapped one has five
        check_env(env, skip_render_check=True)
    assert gymnasium.make(id).reset(seed=0)[1] == {}


def test_five_values_carry_the_cost_and_come_back_as_six(sg):
    five = gymnasium.make("SafetyPointStagger0Gymnasium-v0")
    five.reset(seed=0)
    assert five.step(STILL)[-1] == {"cost_heat": 1.0, "cost_sum": 1.0, "cost": 1.0}
    six = sg.wrappers.with_gymnasium_wrappers(sg.make(ABLE), gymnasium.wrappers.ClipAction, Through)
    six.reset(seed=0)
    assert six.step(np.array([99.0, 0.5]))[0][2] == 1.0
    bare = sg.wrappers.Gymnasium2SafetyGymnasium(gymnasium.make("CartPole-v1"))
    bare.reset(seed=0)
    with pytest.raises(ValueError, match="no 'cost'"):
        bare.step(0)


def test_an_environment_of_ones_own_is_registered_and_made(sg):
    sg.register(
        id="SafetyOwn-v0",
        entry_point="trueline.compat.safety_gymnasium.env:SafetyEnv",
        kwargs={"task_id": ABLE},
        max_episode_steps=3,
        autoreset=True,
    )
    env = sg.make("SafetyOwn-v0")
    assert isinstance(env, sg.wrappers.SafeAutoResetWrapper)
    assert env.spec.max_episode_steps == 3
    again = sg.make(sg.make("SafetyOwn-v0", autoreset=False).spec)
    assert again.unwrapped.task_id == ABLE


def test_lists_of_pictures_are_collected(sg):
    env = sg.make(ABLE, render_mode="rgb_array_list", width=2, height=2)
    env.reset(seed=0)
    env.step(STILL)
    assert [frame.shape for frame in env.render()] == [(2, 2, 3)] * 2
    assert env.task.num_steps == LIMIT
    depth = sg.make(ABLE, render_mode="depth_array", width=3, height=2, camera_id=3)
    depth.reset(seed=0)
    np.testing.assert_allclose(depth.render(), np.full((2, 3), (10 - 1 / DEPTH_M) / (10 - 1 / 50)), rtol=1e-6)


def test_a_window_is_shown_each_step_and_its_keys_drive_the_debug_variant(sg):
    env = sg.make("SafetyPointStagger0Debug-v0", render_mode="human")
    env.reset(seed=0)
    assert env.step(np.array([-3.0, 0.0]))[0][2:].tolist() == [0.0, 0.0]  # no window yet; the action is not used
    assert env.step(STILL)[0][2:].tolist() == [1.0, 1.0]  # I and J: forwards and round, as far as they go
    assert env.render() is None
    assert env.unwrapped.world.window.shown == [(True, 1.0), (True, 0.0), (True, 0.0)]  # lidar, and the step's cost


def test_depth_is_told_as_opengl_keeps_it():
    near, far = 0.1, 50.0
    depth_m = np.array([near, 0.2, 1.0, far, 2 * far], np.float32)
    buffer = pictures.depth_buffer(depth_m, near, far)
    np.testing.assert_allclose(buffer[[0, 3, 4]], [0.0, 1.0, 1.0], atol=1e-6)
    # The projection of gluPerspective: z' = far / (far − near) · (1 − near / z).
    np.testing.assert_allclose(buffer[:4], far / (far - near) * (1 - near / depth_m[:4]), atol=1e-6)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda sg: sg.make("SafetyPointGaol1-v0"), "SafetyPointGoal1-v0"),
        (lambda sg: sg.make(None), "called None. Give an id"),
        (lambda sg: sg.vector.make(ABLE, "3"), "num_envs is '3'"),
        (lambda sg: sg.vector.make(ABLE, 2.5), "num_envs is 2.5"),
        (lambda sg: sg.vector.make(ABLE, None), "num_envs is None"),
        (lambda sg: sg.vector.make(ABLE, 2).step([[0.0], [0.0, 0.0]]), "they differ in length"),
        (lambda sg: sg.make(ABLE, config={"num_steps": LIMIT + 1}), f"truncates at {LIMIT} itself"),
        (lambda sg: sg.make(ABLE).reset(seed=1.0), "32-bit"),
        (lambda sg: sg.make(ABLE).reset(seed=-1), "32-bit"),
        (lambda sg: sg.make(ABLE).reset(seed="3"), "32-bit"),
        (lambda sg: sg.make("SafetyPointGoal1Gymnasium-v0"), "SafetyPointGoal1"),
        (lambda sg: sg.make(ABLE, render_mode="ansi"), "rgb_array"),
        (lambda sg: sg.make(ABLE, camera_id=9), "2 for vision"),
        (lambda sg: sg.make(ABLE, camera_id="a"), "camera_id is 'a'"),
        (lambda sg: sg.make(ABLE, camera_id=2.0), "camera_id is 2.0"),
        (lambda sg: sg.make(ABLE, camera_name=5), "camera_name is 5"),
        (lambda sg: sg.make(ABLE, camera_id=1, camera_name="track"), "Give one"),
        (lambda sg: sg.make(ABLE, config={"agent_name": "Car"}), "'Point'"),
        (lambda sg: sg.make(ABLE, config={"observation_flaten": False}), "observation_flatten"),
        (lambda sg: sg.make(ABLE, config={"vision_env_conf.vision_size": (0, 4)}), "width, height"),
        (lambda sg: sg.make(ABLE, config={"num_steps": 0}), "1 or more"),
        (lambda sg: sg.make(ABLE, diverge_at=1), "diverges_at"),
        (lambda sg: sg.make(ABLE, max_episode_steps=0), "1 or more"),
        (lambda sg: sg.make(ABLE, apply_api_compatibility=True), "gone"),
        (lambda sg: sg.make(PLAIN, config={"observation_flatten": False}), "observation_flatten at True"),
        (lambda sg: sg.make("SafetyPointStagger1Vision-v0"), "observation_flatten at True"),
        (lambda sg: sg.make(ABLE).reset(seed=2**32), "32-bit"),
        (lambda sg: sg.vector.make(ABLE, 0), "1 or more"),
        (lambda sg: sg.vector.make(ABLE, 2).reset(seed=[1, 2, 3]), "one each"),
        (lambda sg: sg.vector.make(ABLE, 2).step(np.zeros(2)), r"\(2, 2\)"),
        (lambda sg: sg.vector.SafetySyncVectorEnv([lambda: sg.make(ABLE), lambda: sg.make(GOAL)]), "alike"),
        (lambda sg: sg.wrappers.SafeUnsqueeze(sg.vector.make(ABLE, 1)), "Leave it out"),
        (lambda sg: sg.make(PLAIN, render_mode="rgb_array").unwrapped.render(), "no pictures"),
        (lambda sg: sg.make(ABLE).unwrapped.render(), "no render_mode"),
    ],
)
def test_a_refusal_names_what_would_be_right(sg, make, says):
    with pytest.raises((ConfigError, UnknownName), match=says):
        make(sg)


def test_steps_out_of_turn_or_shape_are_refused(sg):
    env = sg.make(ABLE)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(STILL)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        env.step(np.zeros(3))
    while not env.done:
        env.step(STILL)
    with pytest.raises(gymnasium.error.ResetNeeded, match="over"):
        env.step(STILL)


@pytest.mark.parametrize(
    ("action", "says"),
    [([[0.0], [0.0, 0.0]], "no array"), (None, "no array"), ("ab", r"shape \(\)"), (np.array(["a", "b"]), "numbers")],
)
def test_an_action_that_is_no_array_of_numbers_is_refused_in_one_sentence(sg, action, says):
    env = sg.make(ABLE, disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"{ABLE} was given .*{says}"):
        env.step(action)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint32(3)])
def test_a_seed_may_be_numpys(sg, seed):
    for env in (sg.make(GOAL), sg.make("SafetyHopperVelocity-v1"), gymnasium.make("SafetyPointGoal1Gymnasium-v0")):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], env.reset(seed=3)[0])


@pytest.mark.parametrize("id", ["SafetyPointGoal1-v0", "SafetyHopperVelocity-v1"])
def test_an_action_that_is_no_number_is_refused_and_an_infinite_one_clipped(sg, id):
    # Under the original MuJoCo puts all numbers of such an action to 0; see docs/migrating_from_safety_gymnasium.md.
    env, other = sg.make(id), sg.make(id)
    for each in (env, other):
        each.reset(seed=0)
    action = np.zeros(env.action_space.shape)
    action[0] = np.nan
    with pytest.raises(ConfigError, match=f"{id} was given"):
        env.step(action)
    action[0] = np.inf
    clipped = np.clip(action, env.action_space.low, env.action_space.high)
    np.testing.assert_array_equal(env.step(action)[0], other.step(clipped)[0])


def test_a_closed_environment_says_so(sg):
    env = sg.make("SafetyPointGoal1-v0")
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(np.zeros(2)), lambda: env.reset(seed=1)):
        with pytest.raises(ConfigError, match="SafetyPointGoal1-v0 is closed"):
            call()
