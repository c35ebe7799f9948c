"""What every kind of world is given wrongly: one clear sentence, and nothing has changed; or it simply works."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from trueline.core.errors import ConfigError
from trueline.rl.worlds import make
from trueline.safety.worlds.manipulation_agents import make_hand_agents
from trueline.safety.worlds.multi_goal import make_multi_goal
from trueline.safety.worlds.velocity_agents import make_team

ALONE = {
    "navigation": "SafetyPointGoal1-v0",
    "velocity": "SafetyHopperVelocity-v1",
    "manipulation": "TruelineMobileArmCloseDrawer-v0",
    "planar": "PlanarPointGoal1-v0",
}
TOGETHER = {
    "rooms for two": (make_multi_goal, "SafetyPointMultiGoal2-v0"),
    "teams": (make_team, "Safety2x3HalfCheetahVelocity-v0"),
    "hands": (make_hand_agents, "TruelineHandOver-Finger-TwoAgents-v0"),
}
KINDS = [*ALONE, *TOGETHER]


def opened(kind: str, n: int = 2, **options):
    if kind in ALONE:
        return make(ALONE[kind], n, **options)
    maker, id = TOGETHER[kind]
    return maker(id, n, **options)


def acts(env, value: float = 0.0):
    """Actions for all environments, by agent where there are several."""
    if hasattr(env, "agents"):
        return {agent: np.full((env.num_envs, *env.action_spaces[agent].shape), value) for agent in env.agents}
    return np.full((env.num_envs, *env.action_space.shape), value)


def observed(obs) -> np.ndarray:
    return np.concatenate(list(obs.values()), axis=1) if isinstance(obs, dict) else obs


def refused(call, *says: str) -> None:
    """A ConfigError of one or two sentences in a single line, which says these things."""
    with pytest.raises(ConfigError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said
    for what in says:
        assert what in said, said


def lists(actions):
    return {a: v.tolist() for a, v in actions.items()} if isinstance(actions, dict) else actions.tolist()


@pytest.mark.parametrize(
    "seeds", [[-1, 0], [0, 2**32], [0.5, 1.0], [0.0, 1.0], ["a", "b"], [[0], [1, 2]], [True, False]]
)
@pytest.mark.parametrize("kind", KINDS)
def test_seeds_that_are_none_are_refused(kind, seeds):
    env = opened(kind)
    first = observed(env.reset(np.array([3, 4], np.uint32)))
    refused(lambda: env.reset(seeds), "Give whole numbers from 0 to 4294967295", env.id)
    assert env.episode_seed.tolist() == [3, 4]
    np.testing.assert_array_equal(observed(env.reset(np.array([3, 4], np.uint32))), first)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_any_whole_type_are_taken_and_another_number_of_them_is_not(kind):
    env = opened(kind)
    first = observed(env.reset(np.array([3, 2**32 - 1], np.uint32)))
    for seeds in ([3, 2**32 - 1], (3, 2**32 - 1), np.array([3, 2**32 - 1], np.int64)):
        np.testing.assert_array_equal(observed(env.reset(seeds)), first)
    for seeds in ([3], [1, 2, 3], 3, [[1, 2]]):
        refused(lambda seeds=seeds: env.reset(seeds), "for 2 episodes. Give one for each")


@pytest.mark.parametrize("seed", [-1, 1.5, "7", None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_world_is_made_with_a_whole_seed(kind, seed):
    refused(lambda: opened(kind, seed=seed), f"seed is {seed!r}", "Give a whole number, 0 or more")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "value"), [("n", 0), ("threads", 0), ("costs", "all")])
def test_a_setting_that_is_none_is_named(kind, name, value):
    refused(lambda: opened(kind, **{name: value}), "Give" if name == "costs" else "1 or more", repr(value))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_number_of_environments_is_refused(kind):
    env = opened(kind, 3)
    refused(lambda: env.load_state_dict(opened(kind, 2).state_dict()), f"2 × {env.id}")


@pytest.mark.parametrize("kind", KINDS)
def test_actions_may_be_lists(kind):
    env, twin = opened(kind), opened(kind)
    for world in (env, twin):
        world.reset(np.array([3, 4], np.uint32))
    by_list, by_array = env.step(lists(acts(env, 0.25))), twin.step(acts(twin, 0.25))
    np.testing.assert_array_equal(observed(by_list.obs), observed(by_array.obs))
    np.testing.assert_array_equal(by_list.reward, by_array.reward)


@pytest.mark.parametrize("bad", [[[0.0], [0.0, 0.0]], [["left", "right"]] * 2, None, [[None]], [0.0, 0.0]])
@pytest.mark.parametrize("kind", KINDS)
def test_actions_that_are_no_array_of_numbers_are_refused(kind, bad):
    env = opened(kind)
    env.reset(np.array([3, 4], np.uint32))
    given = dict.fromkeys(env.agents, bad) if hasattr(env, "agents") else bad
    refused(lambda: env.step(given), env.id, "(2, ")


@pytest.mark.parametrize("kind", KINDS)
def test_actions_that_are_not_numbers_are_refused_before_anything_moves(kind):
    env, twin = opened(kind), opened(kind)
    for world in (env, twin):
        world.reset(np.array([3, 4], np.uint32))
    refused(lambda: env.step(acts(env, np.nan)), env.id, "in environment")
    ours, theirs = env.step(acts(env, 0.25)), twin.step(acts(twin, 0.25))
    np.testing.assert_array_equal(observed(ours.obs), observed(theirs.obs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_may_be_closed_twice(kind):
    env = opened(kind)
    env.reset()
    env.close()
    env.close()


@pytest.mark.parametrize("kind", [kind for kind in ALONE if hasattr(make(ALONE[kind], 1), "layout")])
def test_there_is_no_layout_before_the_first_reset(kind):
    env = opened(kind)
    refused(lambda: env.layout(0), env.id, "Call reset() once")
    env.reset()
    assert env.layout(0)["goal"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "planar"])
def test_the_last_observation_of_a_diverged_episode_is_that_of_the_step_before(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a log in the working directory
    env, calm = opened(kind, 3), opened(kind, 3)
    for world in (env, calm):
        world.reset(np.array([3, 4, 5], np.uint32))
        shown = world.step(acts(world, 0.25)).obs
        seen = observed(shown).copy()
        for part in shown.values() if isinstance(shown, dict) else [shown]:
            part[...] = 123.0  # as a learner does that normalises in place
    inner = getattr(env, "_world", env)
    inner._batch.bind("qvel")[1] = 1e12
    step, other = env.step(acts(env, 0.25)), calm.step(acts(calm, 0.25))
    assert step.info["diverged"].tolist() == [False, True, False]
    final = observed(step.final_obs)
    np.testing.assert_array_equal(final[1], seen[1])
    np.testing.assert_array_equal(final[[0, 2]], observed(other.final_obs)[[0, 2]])
    if hasattr(step, "final_state"):
        np.testing.assert_array_equal(step.final_state[[0, 2]], other.final_state[[0, 2]])
        assert not np.array_equal(step.final_state[1], other.final_state[1])
    # … also right after a checkpoint, from which it is known too.
    again = opened(kind, 3)
    seen = observed(again.load_state_dict(calm.state_dict()))
    getattr(again, "_world", again)._batch.bind("qvel")[2] = 1e12
    np.testing.assert_array_equal(observed(again.step(acts(again)).final_obs)[2], seen[2])


def test_a_diverged_pair_of_agents_violates_every_constraint_in_both_reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = opened("rooms for two")
    env.reset()
    env._batch.bind("qvel")[0] = 1e12
    step = env.step(acts(env))
    assert (step.cost[0] == 1.0).all()
    for name in env.world.constraints:
        assert (step.info[name][0] == 1.0).all()


# --- after the end, and beside the rows there are ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_world_says_so(kind):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    state = env.state_dict()
    env.close()
    env.close()  # twice does no harm
    for call in (
        lambda: env.step(acts(env)),
        lambda: env.reset(np.array([0, 1], np.uint32)),
        env.reset,
        env.state_dict,
        lambda: env.load_state_dict(state),
        lambda: env.render(0),
    ):
        refused(call, env.id, "is closed", "Make another")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("i", [5, -1, 2, True, 0.0])
def test_an_environment_that_is_not_there_is_named(kind, i):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    asked = [env.render, env.scene, *([env.layout] if hasattr(env, "layout") else [])]
    for ask in asked:
        refused(lambda ask=ask: ask(i), f"environment {i!r}", "0 to 1")
    refused(lambda: opened(kind, 1).scene(1), "only environment 0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_whole_says_what_is_missing(kind):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    state = env.state_dict()
    follows = observed(env.step(acts(env)).obs)
    for name, value in state.items():
        refused(lambda name=name: env.load_state_dict({k: v for k, v in state.items() if k != name}), name)
        if isinstance(value, np.ndarray):
            refused(lambda name=name, value=value: env.load_state_dict({**state, name: value[:1]}))
        elif isinstance(value, list) and value:
            refused(lambda name=name, value=value: env.load_state_dict({**state, name: value[:1]}), name)
        elif isinstance(value, dict) and value and name not in ("scales", "seeds"):
            first = next(iter(value))
            refused(lambda name=name, first=first: env.load_state_dict({**state, name: {}}), f"{name}.{first}")
    refused(lambda: env.load_state_dict(None), "state_dict()")
    # What was refused has changed nothing.
    env.load_state_dict(state)
    np.testing.assert_array_equal(observed(env.step(acts(env)).obs), follows)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "planar"])
def test_a_simulation_that_diverges_leaves_no_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = mujoco.MjLogConfig.get()
    default.logto_file, default.logfile = True, "MUJOCO_LOG.TXT"  # as MuJoCo has it
    default.set()
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    inner = getattr(env, "_world", env)
    inner._batch.bind("qvel")[0] = 1e12
    step = env.step(acts(env))
    assert step.info["diverged"].tolist() == [True, False]
    assert not [*tmp_path.iterdir()]


def test_a_log_file_that_was_chosen_stays(tmp_path):
    chosen = mujoco.MjLogConfig.get()
    before = chosen.logto_file, chosen.logfile
    try:
        chosen.logto_file, chosen.logfile = True, str(tmp_path / "mine.log")
        chosen.set()
        make(ALONE["velocity"], 1)
        assert mujoco.MjLogConfig.get().logto_file
    finally:
        chosen.logto_file, chosen.logfile = before
        chosen.set()


BEGINNING = {kind: kind for kind in ("navigation", "velocity", "rooms for two", "teams")}


@pytest.mark.parametrize("kind", BEGINNING)
@pytest.mark.parametrize(
    "rows",
    [np.array([True, False]), [True, False], 7, -1, [7], [-1], [0, 0], [0.0], ["0"], [[0]], [[0], [0, 1]], None],
)
def test_rows_to_begin_that_are_none_are_refused_and_nothing_begins(kind, rows):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    before = env.state_dict()["physics"]
    refused(lambda: env.begin(rows), env.id, "Give whole numbers from 0 to 1, each once")
    np.testing.assert_array_equal(env.state_dict()["physics"], before)


@pytest.mark.parametrize("kind", BEGINNING)
def test_no_rows_to_begin_begin_nothing(kind):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    seen = observed(env.step(acts(env)).obs)
    for rows in ([], np.array([], np.intp)):
        np.testing.assert_array_equal(observed(env.begin(rows)), seen)
    refused(lambda: env.begin([1], np.array([1, 2], np.uint32)), "for 1 episodes")
    begun = observed(env.begin([1], np.array([1], np.uint32)))
    np.testing.assert_array_equal(begun[0], seen[0])
    np.testing.assert_array_equal(begun[1], observed(env.reset(np.array([0, 1], np.uint32)))[1])


LAID_OUT = ("navigation", "planar")


@pytest.mark.parametrize("kind", LAID_OUT)
def test_no_layouts_lay_out_nothing(kind):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    seen, numbers = observed(env.step(acts(env)).obs), env.episode_seed.copy()
    np.testing.assert_array_equal(env.set_layout({}), seen)
    np.testing.assert_array_equal(env.episode_seed, numbers)


@pytest.mark.parametrize("kind", LAID_OUT)
@pytest.mark.parametrize("key", [2, -1, "0", 0.0, True, None])
def test_a_layout_of_an_environment_that_is_not_there_is_refused(kind, key):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    refused(lambda: env.set_layout({key: env.layout(0)}), f"for environment {key!r}. There are 0 to 1")


@pytest.mark.parametrize("kind", LAID_OUT)
@pytest.mark.parametrize("layouts", [[1], None, {0: None}, {0: [1]}, "layout"])
def test_what_are_no_layouts_is_refused(kind, layouts):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    refused(lambda: env.set_layout(layouts), env.id, repr(layouts), "Give a mapping")


@pytest.mark.parametrize("kind", [*ALONE])
@pytest.mark.parametrize("scale", ["a", None, [1.0], [1.0, -1.0], np.ones(3), {}, 0.0, np.nan])
def test_a_scale_that_is_none_is_refused(kind, scale):
    env = opened(kind)
    refused(lambda: env.perturb(mass=scale), "mass is scaled by", "Give a positive number or 2 of them")


@pytest.mark.parametrize("kind", [*ALONE])
@pytest.mark.parametrize("bad", [{"wind": 1.0}, {"mass": 0.0}, {"mass": [1.0, 2.0, 3.0]}, {"gear": np.nan}])
def test_a_perturbation_that_cannot_be_is_refused_before_anything_changes(kind, bad):
    env = opened(kind)
    before = repr(env.state_dict()["scales"])
    refused(lambda: env.perturb(friction=2.0, **bad))
    assert repr(env.state_dict()["scales"]) == before


def test_where_things_are_and_how_faded_is_asked_of_an_environment_that_is_there():
    for id in ("SafetyPointGoal1-v0", "SafetyPointFadingEasy1-v0"):
        env = make(id, 2)
        env.reset(np.array([0, 1], np.uint32))
        for ask in (env.located, env.opacity):
            for i in (9, 2, -1, "0", True):
                refused(lambda ask=ask, i=i: ask(i), f"environment {i!r}", "0 to 1")


@pytest.mark.parametrize("kind", LAID_OUT)
@pytest.mark.parametrize(
    "bad",
    [np.full((2, 2), np.nan), [[np.nan, 0.0], [0.0, 0.0]], np.zeros(2), np.zeros((1, 2)), [[0.0], [0.0, 1.0]], "a"],
)
def test_goals_that_are_no_places_are_refused(kind, bad):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    before = env.goal_distance()
    refused(lambda: env.set_goal(bad), env.id, "Give 2 finite pairs of metres")
    np.testing.assert_array_equal(env.goal_distance(), before)


@pytest.mark.parametrize("kind", LAID_OUT)
@pytest.mark.parametrize("mask", [np.array([1, 0]), [0], [True], [[True, False]], "01", np.array([0.0, 1.0])])
def test_a_mask_is_one_boolean_for_each_environment(kind, mask):
    env = opened(kind)
    env.reset(np.array([0, 1], np.uint32))
    before = env.goal_distance()
    refused(lambda: env.set_goal(np.zeros((2, 2)), mask), env.id, "Give 2 booleans")
    np.testing.assert_array_equal(env.goal_distance(), before)
    env.set_goal([[0.5, 0.5], [np.nan, 0.0]], [True, False])  # a place that is not meant need be none
    after = env.goal_distance()
    np.testing.assert_allclose(after[0], np.linalg.norm(env.position()[0] - 0.5), atol=1e-6)
    assert after[1] == before[1]


@pytest.mark.parametrize("device", [None, "abc", "meta", 3.5])
def test_a_device_that_is_none_is_refused(device):
    refused(lambda: make("PlanarPointGoal1-v0", 1, device=device), f"device is {device!r}", "Use 'cpu'")


def test_tensors_are_stepped_with_tensors():
    env = opened("planar")
    env.reset_tensors()
    refused(lambda: env.step_tensors(np.zeros((2, 2))), "a ndarray as a tensor of actions", "Call step()")


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_from_before_the_first_reset_lets_nothing_be_stepped(kind):
    state = opened(kind).state_dict()
    fresh, begun = opened(kind), opened(kind)
    begun.reset(np.array([0, 1], np.uint32))
    for env in (fresh, begun):
        env.load_state_dict(state)
        refused(lambda env=env: env.step(acts(env)), "was stepped before its first reset")
    first = observed(opened(kind).reset(np.array([3, 4], np.uint32)))
    for env in (fresh, begun):
        np.testing.assert_array_equal(observed(env.reset(np.array([3, 4], np.uint32))), first)
