"""What a navigation world on MuJoCo promises beyond its numbers: seeds, threads, dynamics, touches, layouts, lidar."""

from __future__ import annotations

import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from navigation_cases import actions, assert_same_steps, play, seeds

from trueline.core.errors import ConfigError
from trueline.rl.env import LaidOut, Perturbable, Stateful, Steerable, Visible
from trueline.safety.worlds import WORLDS, make_world, open_world
from trueline.safety.worlds.body import rotations
from trueline.safety.worlds.layout import Layout, Stream, draw_layout
from trueline.safety.worlds.lidar import ego_xy, pseudo_lidar
from trueline.safety.worlds.physics import compiled

# --- the contract -----------------------------------------------------------------------------------------------------


# Numbers of the lidar alone, 16 for each kind of thing that is seen, as in safety-gymnasium 1.0.0.
LIDAR = {"Goal0": 16, "Goal1": 48, "Goal2": 48, "Button0": 32, "Button1": 64, "Button2": 64}
LIDAR |= {"Push0": 32, "Push1": 64, "Push2": 64, "Circle0": 16, "Circle1": 16, "Circle2": 16, "Run0": 0}
LIDAR |= {"Race0": 16, "Race1": 32, "Race2": 32, "FormulaOne0": 16, "FormulaOne1": 32, "FormulaOne2": 32}


@pytest.mark.parametrize("id", WORLDS)
def test_every_capability_and_the_published_observation_size(id):
    env = make_world(id, num_envs=1)
    for capability in (Stateful, Perturbable, LaidOut, Visible):
        assert isinstance(env, capability)
    assert isinstance(env, Steerable) == (env.world.task.renews == "place")
    own = {"Point": 12, "Car": 24, "Racecar": 12, "Doggo": 56, "Ant": 40}[env.world.agent.name.title()]
    task = id.removeprefix(f"Safety{env.world.agent.name.title()}").removesuffix("-v0")
    task = task.replace("FadingEasy", "Goal").replace("FadingHard", "Goal").removeprefix("Building")
    assert env.observation_space.shape == env.reset()[0].shape == (own + LIDAR[task],)


@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "SafetyPointButton2-v0"])
def test_same_results_on_one_and_two_threads(id):
    one, two = (make_world(id, 5, threads=threads) for threads in (1, 2))
    start = seeds(0, 1, 2, 3, 4)
    np.testing.assert_array_equal(one.reset(start), two.reset(start))
    acts = actions(60, 5)
    assert_same_steps(play(one, acts), play(two, acts))


def test_an_episode_depends_on_its_seed_alone():
    env, other = make_world("SafetyPointGoal1-v0", 3), make_world("SafetyPointGoal1-v0", 2)
    env.reset(seeds(9, 7, 8)), other.reset(seeds(7, 3))
    acts = actions(80, 3)
    for a in acts:
        np.testing.assert_array_equal(env.step(a).obs[1], other.step(a[[1, 0]]).obs[0])


def test_a_goal_without_room_ends_the_episode():
    world = WORLDS["SafetyPointGoal0-v0"]
    env = open_world("crowded", world, 1)
    env.reset(seeds(0))
    env.set_goal(env.position())
    # An agent that claims the whole square leaves no room for a goal.
    env.world = replace(world, agent=replace(world.agent, keepout_m=5.0))
    env._begin = lambda ids: None  # the next episode could not be laid out either
    step = env.step(np.zeros((1, 2)))
    assert (step.terminated[0], step.truncated[0]) == (True, False)
    assert step.reward[0] == pytest.approx(1.0)


def test_a_diverged_simulation_is_cut_off_with_the_published_penalty_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a log in the working directory
    env = make_world("SafetyPointGoal1-v0", 2)
    env.reset(seeds(0, 1))
    env.step(np.zeros((2, 2)))
    state = env.state_dict()
    speeds = 1 + env._model.nq
    state["physics"][0, speeds] = 1e12  # faster than MuJoCo accepts
    env.load_state_dict(state)
    step = env.step(np.zeros((2, 2)))
    np.testing.assert_array_equal(step.info["diverged"], [True, False])
    np.testing.assert_array_equal(step.truncated, [True, False])
    assert not step.terminated.any()
    np.testing.assert_allclose(step.reward, [-10.0, 0.0], atol=0.01)
    np.testing.assert_array_equal(step.cost, [[1.0], [0.0]])
    assert np.isfinite(step.obs).all()
    assert np.isfinite(step.final_obs).all()


def test_a_first_step_that_diverges_is_seen_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_world("SafetyPointGoal1-v0", 2)
    env.reset(seeds(0, 1))
    env._qvel[0, 0] = 1e12
    first = env.step(np.zeros((2, 2)))
    np.testing.assert_array_equal(first.info["diverged"], [True, False])
    assert not env.step(np.zeros((2, 2))).info["diverged"].any()


def test_an_infinite_native_action_is_clipped_as_in_the_original():
    one, other = make_world("SafetyPointGoal1-v0", 1), make_world("SafetyPointGoal1-v0", 1)
    for env in (one, other):
        env.reset(seeds(0))
    np.testing.assert_array_equal(
        one.step_native(np.array([[np.inf, -np.inf]])).obs, other.step_native(np.array([[1.0, -1.0]])).obs
    )
    assert (one._ctrl == [1.0, -1.0]).all()


def test_an_unknown_option_is_refused_with_the_nearest():
    from trueline.rl.worlds import make

    with pytest.raises(ConfigError, match=r"takes no option 'cost'\. Did you mean 'costs'"):
        make("SafetyPointGoal1-v0", 1, cost="split")


# --- costs ------------------------------------------------------------------------------------------------------------


def test_goal_zero_costs_nothing():
    env = make_world("SafetyPointGoal0-v0", 1)
    env.reset(seeds(0))
    assert all(env.step(a).cost[0, 0] == 0.0 for a in actions(20, 1))


def test_touching_the_free_vase_of_goal_one_costs_nothing():
    env = make_world("SafetyPointGoal1-v0", 1)
    layout = draw_layout(WORLDS[env.id], Stream(0)).as_dict()
    far = [[3.0 + i, 3.0] for i in range(8)]
    env.set_layout({0: {**layout, "agent": [[0, 0]], "agent_rot": 0.0, "hazards": far, "vases": [[0.4, 0]]}})
    steps = play(env, np.tile([1.0, 0.0], (60, 1, 1)))
    assert env.scene(0)["shapes"][-2]["xy"][0] > 0.45, "the vase was pushed"
    assert not any(step.cost.any() for step in steps)


def contacts(env, i: int, of: str) -> list[int]:
    """Contacts of each object of a kind with any part of the agent, from MuJoCo's own list."""
    model, data = env._model, env._batch.get_data(i)
    mujoco.mj_forward(model, data)
    agent = model.body("agent").id
    found = []
    for name in env.world.thing(of).each():
        body = model.body(name).id
        pairs = [model.geom_bodyid[pair] for pair in data.contact.geom[: data.ncon]]
        found.append(sum(body in pair and agent in model.body_rootid[pair] for pair in pairs))
    return found


@pytest.mark.parametrize(("id", "of"), [("SafetyCarButton1-v0", "buttons"), ("SafetyPointButton2-v0", "gremlins")])
def test_touches_are_those_in_mujocos_list(id, of):
    env, seen = make_world(id, 4), 0
    env.reset(seeds(*range(4)))
    behind = [0.0, 0.58] if "Car" in id else [-0.58, 0.0]  # of the origin, as the agent looks
    layouts = {i: {**env.layout(i), "agent_rot": 0.0, "agent": [behind]} for i in range(4)}
    for i, layout in layouts.items():  # everything far away but one object straight ahead
        for row, name in enumerate(("hazards", "gremlins", "buttons")):
            layout[name] = [[9.0 + k, 9.0 + row] for k in range(len(layout[name]))]
        layout[of][i] = [0.0, 0.0]
    env.set_layout(layouts)
    ahead = np.tile([1.0, 1.0 if "Car" in id else 0.0], (4, 1))
    for _ in range(80):
        env.step(ahead)
        for i in range(4):
            expected = contacts(env, i, of)
            np.testing.assert_array_equal(env._scene.touches[of][i] > 0, np.array(expected) > 0)
            seen += sum(expected)
    assert seen > 0, "something must have been touched for this to say anything"


def test_a_pressed_button_is_renewed_hidden_for_ten_steps_and_costs_nothing():
    env = make_world("SafetyPointButton1-v0", 1, costs="split")
    env.reset(seeds(0))
    layout = env.layout(0)
    goal = layout["goal"][0]
    far = {name: [[9.0 + k, 9.0] for k in range(4)] for name in ("hazards", "gremlins")}
    env.set_layout({0: {**layout, **far, "agent": [[goal[0] - 0.6, goal[1]]], "agent_rot": 0.0}})
    ring = slice(12, 28)
    rows = [env.step(np.array([[1.0, 0.0]])) for _ in range(80)]
    first = next(t for t, step in enumerate(rows) if step.info["goal_met"][0])
    assert rows[first].reward[0] > 0.9
    assert not any(step.cost[0, 0] for step in rows[: first + 11])  # neither the press itself nor while hidden
    again = next((t for t in range(first + 1, 80) if rows[t].info["goal_met"][0]), 80)
    hidden = [not rows[t].obs[0, ring].any() for t in range(min(first + 11, again))]
    assert hidden == [False] * first + [True] * min(10, again - first) + [False] * (len(hidden) - first - 10)


def test_gremlins_circle_about_their_place_once_in_two_pi_seconds():
    env = make_world("SafetyPointButton1-v0", 1)
    env.reset(seeds(0))
    centre = np.array([[5.0 * k, 20.0] for k in range(4)])  # clear of everything they could bump into
    env.set_layout({0: {**env.layout(0), "gremlins": centre.tolist()}})
    interval, lag = 0.02, []
    for t in range(1, 400):
        env.step(np.zeros((1, 2)))
        if t >= 100:
            x, y = (env._scene.places["gremlins"][0, :, :2] - centre).T
            np.testing.assert_allclose(np.hypot(x, y), 0.35, atol=0.02)
            lag.append((interval * t - np.arctan2(x, y)) % (2 * np.pi))
    assert 0.0 < np.min(lag) <= np.max(lag) < 0.15, "pulled by a spring they follow a little behind"
    assert np.ptp(lag) < 0.02
    np.testing.assert_allclose(env._scene.places["gremlins"][0, :, 2], 0.2, atol=0.01)


@pytest.mark.parametrize("id", ["SafetyPointCircle2-v0", "SafetyCarCircle1-v0", "SafetyPointRun0-v0"])
def test_lines_cost_where_the_centre_is_beyond_them(id):
    env = make_world(id, 3)
    env.reset(seeds(0, 1, 2))
    at, seen = 0.5 if "Run" in id else 1.125, 0.0
    for action in actions(250, 3):
        step = env.step(0.2 * action + [1.0, 0.2 if "Point" in id else 0.6])
        x, y = np.abs(env.position()).T
        np.testing.assert_array_equal(step.cost[:, 0], (x > at) | ((y > at) & ("Circle2" in id)))
        seen += step.cost.sum()
    assert seen > 0


# --- dynamics ---------------------------------------------------------------------------------------------------------


def test_perturbing_by_one_changes_nothing_and_one_restores():
    acts = actions(40, 2)
    plain, perturbed = make_world("SafetyCarGoal1-v0", 2), make_world("SafetyCarGoal1-v0", 2)
    plain.reset(seeds(0, 1)), perturbed.reset(seeds(0, 1))
    perturbed.perturb(mass=2.0, friction=np.array([0.5, 3.0]), gear=0.7)
    assert np.abs(play(perturbed, acts)[-1].obs - play(plain, acts)[-1].obs).max(axis=1).min() > 1e-3
    perturbed.perturb(mass=1.0, friction=1.0, gear=1.0)
    np.testing.assert_array_equal(plain.reset(seeds(0, 1)), perturbed.reset(seeds(0, 1)))
    assert_same_steps(play(plain, acts), play(perturbed, acts))


def test_speed_after_a_push_follows_newton():
    # From rest under constant force F for a short time t, v = F t / m: half of it at twice the mass, double at twice
    # the gear. Damping takes under 1 % in that time, force limits bind at none of these.
    env = make_world("SafetyPointGoal0-v0", 3)
    env.perturb(mass=np.array([1.0, 2.0, 1.0]), gear=np.array([1.0, 1.0, 2.0]))
    env.reset(seeds(0, 0, 0))
    env.step(np.tile([0.05, 0.0], (3, 1)))
    speed = env.speed()
    np.testing.assert_allclose(speed / speed[0], [1.0, 0.5, 2.0], rtol=0.05)


def test_more_friction_slows_the_point():
    env = make_world("SafetyPointGoal0-v0", 2)
    env.perturb(friction=np.array([1.0, 3.0]))
    env.reset(seeds(0, 0))
    play(env, np.tile([0.1, 0.0], (200, 2, 1)))
    fast, slow = env.speed()
    assert slow < 0.6 * fast


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_setting_one_layout_leaves_the_other_episodes_alone():
    env, alone = make_world("SafetyPointGoal1-v0", 2), make_world("SafetyPointGoal1-v0", 2)
    env.reset(seeds(4, 5)), alone.reset(seeds(4, 5))
    acts = actions(40, 2)
    play(env, acts[:20]), play(alone, acts[:20])
    env.set_layout({0: env.layout(1)})
    assert_same_steps(play(env, acts[20:]), play(alone, acts[20:]), rows=slice(1, 2), their_rows=slice(1, 2))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), id=st.sampled_from(sorted(WORLDS)))
def test_every_drawn_layout_keeps_things_apart_and_inside(seed, id):
    world = WORLDS[id]
    layout = draw_layout(world, Stream(seed))
    placed = [(layout.agent, world.keepout_m)]
    if not world.agent_within:
        assert np.abs(layout.agent).max() <= world.extent_m - world.keepout_m
    for thing in world.things:
        marked = thing.name == "goal" and world.task.renews != "place"  # lies where the task says
        for xy in () if marked or thing.at else layout.places[thing.name]:
            if not thing.within:
                assert np.abs(xy).max() <= world.extent_m - thing.keepout_m
            assert all(
                np.linalg.norm(np.subtract(xy, other)) >= thing.keepout_m + room - 1e-12 for other, room in placed
            )
            placed.append((xy, thing.keepout_m))
    assert Layout.from_dict(world, json.loads(json.dumps(layout.as_dict()))) == layout


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), calls=st.lists(st.tuples(st.sampled_from("dcs"), st.integers(1, 9))))
def test_a_stream_is_numpys_legacy_generator(seed, calls):
    ours, theirs = Stream(seed), np.random.RandomState(seed)
    for kind, n in calls:
        if kind == "d":
            assert ours.uniform(-1.0, 2.0) == theirs.uniform(-1.0, 2.0)
        elif kind == "c":
            assert ours.choice(n) == theirs.choice(n)
        else:  # what each step of the original draws
            ours.skip(n)
            assert [theirs.binomial(10, 1.0) for _ in range(n)] == [10] * n
    assert Stream(seed, ours.drawn).uniform(0.0, 1.0) == ours.uniform(0.0, 1.0) == theirs.random_sample()


# --- lidar ------------------------------------------------------------------------------------------------------------


def slow_lidar(xy, bins, sight):
    """One ring, object by object, in the words of the definition; xy in the agent's frame."""
    ring = np.zeros(bins)
    width = 2 * np.pi / bins
    for x, y in xy:
        angle = np.arctan2(y, x) % (2 * np.pi)
        bin = int(angle / width) % bins
        fraction = angle / width - int(angle / width)
        near = max(0.0, 1.0 - np.hypot(x, y) / sight)
        for b, value in ((bin, near), (bin + 1, fraction * near), (bin - 1, (1 - fraction) * near)):
            ring[b % bins] = max(ring[b % bins], value)
    return ring


points = st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(xy=points, yaw=st.floats(-7, 7), bins=st.sampled_from([8, 16]), sight=st.sampled_from([3.0, 6.0]))
def test_lidar_is_its_definition_in_a_turned_frame(xy, yaw, bins, sight):
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    at = np.array([0.3, -0.2, 0.1])
    ground = at[:2] + np.array(xy) @ turn[:2, :2].T
    ground = np.stack([ground, ground + 9.0])  # the second environment sees nothing: leakage would show
    ego = ego_xy(ground, np.stack([at, at]), np.stack([turn, turn]))
    rings = pseudo_lidar(ego, np.zeros(len(xy), np.intp), 1, bins, sight)
    # Turning to and fro moves an angle by rounding only; on a bin's border that changes the reading by less than this.
    offset = np.array([(x, y) for x, y in zip(ego[0].real, ego[0].imag, strict=True)])
    np.testing.assert_allclose(offset, xy, atol=1e-12)
    np.testing.assert_allclose(rings[0], slow_lidar(offset, bins, sight), atol=1e-9)


# --- what things are --------------------------------------------------------------------------------------------------


@given(q=st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_rotations_are_mujocos_conversion(q):
    quat, expected = np.array(q) / np.linalg.norm(q), np.empty(9)
    mujoco.mju_quat2Mat(expected, quat)
    np.testing.assert_allclose(rotations(quat[None])[0], expected, atol=1e-14)


def test_rotations_do_not_depend_on_the_rows_beside():
    quats = np.random.default_rng(0).normal(size=(37, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    together = rotations(quats)
    for first in range(len(quats)):
        np.testing.assert_array_equal(rotations(quats[first:]), together[first:])


def test_bodies_weigh_what_their_shapes_and_densities_say():
    point, car = compiled(WORLDS["SafetyPointGoal1-v0"]), compiled(WORLDS["SafetyCarGoal0-v0"])
    assert point.body("agent").mass[0] == pytest.approx(1.0 * (4 / 3 * np.pi * 0.1**3 + 0.1**3))
    assert point.body("vase0").mass[0] == pytest.approx(0.001 * 0.2**3)
    assert car.body("left").mass[0] == pytest.approx(5.0 * np.pi * 0.05**2 * 0.05)
    assert car.body("rear").mass[0] == pytest.approx(5.0 * 4 / 3 * np.pi * 0.05**3)


def test_a_diverged_step_costs_every_constraint_in_both_reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for costs in ("sum", "split"):
        env = make_world("SafetyPointGoal2-v0", 2, costs=costs)
        env.reset(seeds(0, 1))
        env._qvel[0, 0] = 1e12
        step = env.step(np.zeros((2, 2)))
        assert (step.cost[0] == 1.0).all()
        assert all(step.info[name][0] == 1.0 for name in env.world.constraints)
        step.cost[:] = 7.0
        assert all(step.info[name][0] == 1.0 for name in env.world.constraints), "they are arrays of their own"
