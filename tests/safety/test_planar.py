"""Planar worlds: their equations against exact solutions, their lidar against ours, and that a seed is an episode."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from navigation_cases import actions, assert_same_steps, play, seeds, short
from scipy.integrate import solve_ivp

from trueline.core.errors import ConfigError
from trueline.rl.env import LaidOut, Perturbable, Stateful, Steerable, Visible
from trueline.rl.worlds import make
from trueline.safety.worlds import planar_motion as motion
from trueline.safety.worlds.lidar import pseudo_lidar
from trueline.safety.worlds.planar import PLANAR_WORLDS, PlanarGoalWorlds, make_planar
from trueline.safety.worlds.planar_layout import arrange, cos_sin, mix64, numbers
from trueline.safety.worlds.planar_lidar import PseudoLidar
from trueline.safety.worlds.planar_motion import CAR, POINT, at_rest
from trueline.safety.worlds.planar_tasks import circle_reward, run_reward
from trueline.safety.worlds.planar_things import Discs, Pusher, push, separate, slide

ONE = {name: torch.ones(1, dtype=torch.float64) for name in ("mass", "friction", "gear")}


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", PLANAR_WORLDS)
def test_abilities_and_the_original_s_observation_size(id):
    env = make_planar(id, 2)
    for ability in (Stateful, Perturbable, LaidOut, Visible):
        assert isinstance(env, ability)
    assert isinstance(env, Steerable) == ("Goal" in id)
    sizes = {"Goal0": 16, "Goal1": 48, "Goal2": 48, "Circle0": 16, "Circle1": 16, "Circle2": 16, "Run0": 0}
    senses = {"Point": 12, "Car": 24}
    (body,) = (name for name in senses if name in id)
    size = senses[body] + sizes[id.removeprefix(f"Planar{body}").removesuffix("-v0")]
    assert env.observation_space.shape == env.reset()[0].shape == (size,)


def test_the_tensor_path_is_the_same_world():
    ours, theirs = (short("PlanarPointGoal2-v0", 5, steps=20) for _ in range(2))
    np.testing.assert_array_equal(ours.reset(seeds(*range(5))), theirs.reset_tensors(seeds(*range(5))).numpy())
    for a in actions(45, 5):
        step, tensors = ours.step(a), theirs.step_tensors(torch.from_numpy(a))
        for name in ("obs", "reward", "cost", "terminated", "truncated", "final_obs", "ended"):
            np.testing.assert_array_equal(getattr(step, name), getattr(tensors, name).numpy(), err_msg=name)
        assert {key: value.tolist() for key, value in step.info.items()} == {
            key: value.tolist() for key, value in tensors.info.items()
        }


def test_what_a_step_returned_is_never_written_to_again():
    env = short("PlanarPointGoal2-v0", 4, steps=15)
    kept = [env.reset(seeds(0, 1, 2, 3))]
    copies = [kept[0].copy()]
    for a in actions(40, 4):
        step = env.step(a)
        for array in (step.obs, step.final_obs, step.reward, step.cost, *step.info.values()):
            kept.append(array)
            copies.append(array.copy())
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_nothing_is_made_on_another_device_than_the_world_s():
    acts = torch.from_numpy(actions(12, 3))
    with torch.device("meta"):  # a tensor made without saying where would have no content
        env = short("PlanarCarGoal2-v0", 3, steps=5)
        env.reset()
        for a in acts:
            step = env.step_tensors(a)
        env.set_goal(env.position())
        env.perturb(mass=2.0)
        env.set_layout({1: env.layout(0)})
        env.load_state_dict(env.state_dict())
        assert env.step(acts[0].numpy()).info["goal_met"].dtype == bool
    for value in (step.obs, step.reward, step.cost, step.terminated, step.truncated, step.final_obs):
        assert value.device == env.device == torch.device("cpu")


# --- a seed is an episode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["PlanarPointGoal2-v0", "PlanarCarGoal1-v0", "PlanarCarCircle2-v0"])
def test_an_episode_is_the_same_at_any_number_of_environments_and_in_any_place(id):
    acts = actions(120, 1)
    alone = short(id, 1, steps=80)
    alone.seed_source = lambda n: seeds(77)
    expected = [alone.reset(seeds(9)), *(step.obs for step in play(alone, acts))]
    for n, place in ((7, 6), (37, 20)):  # places in a vector lane and in the rest after the last full one
        env = short(id, n, steps=80)
        env.seed_source = lambda k: np.full(k, 77, dtype=np.uint32)
        start = np.arange(100, 100 + n, dtype=np.uint32)
        start[place] = 9
        seen = [env.reset(start)]
        beside = actions(120, n, seed=n)
        beside[:, place] = acts[:, 0]
        seen += [step.obs for step in play(env, beside)]
        np.testing.assert_array_equal(np.array(seen)[:, place], np.array(expected)[:, 0])


def test_permuting_environments_commutes_with_stepping():
    n, order = 23, np.random.default_rng(0).permutation(23)
    ours, theirs = (short("PlanarPointGoal2-v0", n, steps=1000) for _ in range(2))
    start, acts = np.arange(n, dtype=np.uint32), actions(60, n)
    np.testing.assert_array_equal(ours.reset(start)[order], theirs.reset(start[order]))
    assert_same_steps(play(ours, acts), play(theirs, acts[:, order]), rows=order)


def test_threads_change_nothing_and_are_put_back():
    n = 4500  # enough for torch to split its loops
    before = torch.get_num_threads()
    one, four = (make_planar("PlanarCarGoal2-v0", n, threads=threads) for threads in (1, 4))
    start, acts = np.arange(n, dtype=np.uint32), actions(4, n)
    np.testing.assert_array_equal(one.reset(start), four.reset(start))
    assert_same_steps(play(one, acts), play(four, acts))
    assert torch.get_num_threads() == before


def test_another_seed_is_another_episode():
    env = make_planar("PlanarPointGoal1-v0", 500)
    env.reset(np.arange(500, dtype=np.uint32))
    starts = {tuple(xy) for xy in env.position().tolist()}
    assert len(starts) == 500


# --- random numbers and layouts ---------------------------------------------------------------------------------------


def test_numbers_are_splitmix64():
    # The published first outputs for the state 1234567 (Vigna's reference).
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    gamma, word = 0x9E3779B97F4A7C15, 1 << 64

    def signed(value: int) -> int:
        return (value + word // 2) % word - word // 2

    states = torch.tensor([signed(1234567 + (k + 1) * gamma) for k in range(5)])
    assert mix64(states).tolist() == [signed(value) for value in published]
    # Number k of a stream is output k from a state that the seed and the stream give.
    start = int(mix64(torch.tensor(7 + (2 << 32))))
    expected = mix64(torch.tensor([signed(start + (k + 1) * gamma) for k in range(4)])).tolist()
    assert numbers(torch.tensor([3, 7]), 2, torch.arange(4))[:, 1].tolist() == expected


def test_neighbouring_seeds_streams_and_numbers_are_independent_uniforms():
    bits = torch.stack([numbers(torch.arange(256), stream, torch.arange(256)) for stream in (0, 1)])
    for shift in (56, 40, 24, 8, 0):
        counts = torch.bincount(((bits >> shift) & 0xFF).flatten(), minlength=256).double()
        chi = ((counts - counts.mean()) ** 2).sum() / counts.mean()
        assert abs(chi - 255) < 5 * math.sqrt(2 * 255)
    unit = ((bits >> 11) & ((1 << 53) - 1)).double() / 2**53
    for a, b in ((unit[0], unit[1]), (unit[:, 1:], unit[:, :-1]), (unit[:, :, 1:], unit[:, :, :-1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 5 / math.sqrt(a.numel())


def test_cosine_and_sine_are_exact_to_the_last_bits():
    angle = torch.linspace(-9.0, 9.0, 20001, dtype=torch.float64)
    cos, sin = cos_sin(angle)
    np.testing.assert_allclose(cos, np.cos(angle.numpy()), atol=1e-15)
    np.testing.assert_allclose(sin, np.sin(angle.numpy()), atol=1e-15)


def gaps(places, xy):
    """How much more room than the sum of keepouts each pair has, and each object to the border; [n] the least."""
    keepout = np.array([place.keepout_m for place in places])
    xy = xy.astype(np.float64)
    apart = np.hypot(*(xy[:, :, None] - xy[:, None])) - (keepout[:, None] + keepout)[..., None]
    apart[np.arange(len(places)), np.arange(len(places))] = np.inf
    border = np.array([place.high_m for place in places]).T[:, :, None] - np.abs(xy)
    return np.minimum(apart.min(axis=(0, 1)), border.min(axis=(0, 1)))


@pytest.mark.parametrize("id", ["PlanarPointGoal0-v0", "PlanarCarGoal1-v0", "PlanarPointGoal2-v0"])
@settings(max_examples=5, deadline=None)
@given(first=st.integers(0, 2**32 - 300))
def test_every_drawn_layout_keeps_things_apart_and_inside(id, first):
    places = PLANAR_WORLDS[id].places
    drawn = arrange(places, torch.arange(first, first + 300))
    rounding = 1e-6
    assert gaps(places, drawn.xy.numpy()).min() > -rounding
    assert 0.0 <= drawn.rot.min() <= drawn.rot.max() < 2 * math.pi


def test_every_new_goal_keeps_clear_of_where_everything_is_now():
    n = 200
    env = make_planar("PlanarPointGoal2-v0", n)
    env.reset(np.arange(n, dtype=np.uint32))
    world, moved = env.world, set()
    for a in actions(30, n):
        env.set_goal(env.position())
        step = env.step(a)
        assert step.info["goal_met"].all()
        assert (step.reward > 0.9).all()
        assert not step.terminated.any()
        state = env.state_dict()["state"]
        objects = state[env._parts.x], state[env._parts.y]
        xy = np.stack([np.concatenate([agent[None], rest]) for agent, rest in zip(state[:2], objects, strict=True)])
        keepout = np.array([place.keepout_m for place in world.places])
        apart = (
            np.hypot(*(xy[:, 1:2] - xy[:, [0, *range(2, 22)]])) - (keepout[1] + keepout[[0, *range(2, 22)]])[:, None]
        )
        assert apart.min() > -1e-6
        np.testing.assert_allclose(env.goal_distance(), np.hypot(*(xy[:, 1] - xy[:, 0])), rtol=1e-6)
        moved |= set(map(tuple, xy[:, 1].T.tolist()))
    assert len(moved) == 30 * n


def test_a_world_without_room_is_refused_by_name():
    world = replace(PLANAR_WORLDS["PlanarPointGoal2-v0"], extent_m=0.9)
    with pytest.raises(ConfigError, match=r"no room was found for (hazards|vases) \(keepout"):
        PlanarGoalWorlds("crowded", world, 2).reset(seeds(0, 1))


def test_a_goal_without_room_ends_the_episode():
    env = make_planar("PlanarPointGoal0-v0", 2)
    env.reset(seeds(0, 1))
    env.set_goal(env.position(), np.array([True, False]))
    env._keepout[0] = 5.0  # an agent that claims the whole square
    goal = env.scene(0)["shapes"][0]["xy"]
    env._begin = lambda ids, seeds: None  # so that what was left can be looked at
    step = env.step(np.zeros((2, 2)))
    assert env.scene(0)["shapes"][0]["xy"] == goal
    np.testing.assert_array_equal(step.terminated, [True, False])
    assert not step.truncated.any()
    assert step.reward[0] == pytest.approx(1.0)


def test_vases_that_overlap_are_refused():
    env = make_planar("PlanarPointGoal2-v0", 1)
    env.reset(seeds(0))
    with pytest.raises(ConfigError, match=r"vases\[0\] and vases\[1\] overlap"):
        env.set_layout({0: {**env.layout(0), "vases": [[9.0, 9.0]] * 10}})


def test_a_start_beyond_a_line_is_refused():
    env = make_planar("PlanarPointCircle1-v0", 1)
    with pytest.raises(ConfigError, match="beyond a line"):
        env.set_layout({0: {"agent": [[1.2, 0.0]]}})


# --- motion -----------------------------------------------------------------------------------------------------------


def coast(body, state, command, constants, steps):
    for _ in range(steps):
        state = body.advance(state, torch.tensor(command, dtype=torch.float64)[:, None], constants)
    return state


def started(body, **rows):
    state = at_rest(body, torch.zeros(2, 1), torch.ones(1), torch.zeros(1)).double()
    for name, value in rows.items():
        state[getattr(motion, name)] = value
    return state


def errors(body, state, command, steps, expected, rows):
    """Largest error in the named rows at 4, 8, 16 and 32 times the substeps."""
    found = []
    for times in (4, 8, 16, 32):
        fine = replace(body, substeps=body.substeps * times)
        end = coast(fine, state, command, fine.constants(ONE, torch.float64), steps)
        found.append(np.abs(end[rows, 0].numpy() - expected).max())
    return np.array(found)


def order(found):
    """Exponents p in error ∝ hᵖ from one halving of the step to the next."""
    return np.log2(found[:-1] / found[1:])


def test_a_coasting_point_loses_speed_and_energy_exponentially():
    # m·v̇ = −d·v, so v = v₀·exp(−t/τ), the distance is v₀·τ·(1 − exp(−t/τ)) and the energy falls at twice the rate.
    tau, t, speed = POINT.mass_kg / POINT.drag_n_s_per_m, 1.0, 1.2
    expected = np.array([speed * tau * (1.0 - math.exp(-t / tau)), speed * math.exp(-t / tau)])
    state = started(POINT, VX=speed)
    found = errors(POINT, state, (0.0, 0.0), 50, expected, [motion.X, motion.VX])
    np.testing.assert_allclose(order(found), 1.0, atol=0.05)
    end = coast(POINT, state, (0.0, 0.0), POINT.constants(ONE, torch.float64), 50)
    energy = (end[motion.VX] ** 2 + end[motion.VY] ** 2) / speed**2
    assert energy.item() == pytest.approx(math.exp(-2.0 * t / tau), rel=0.04)


def test_a_driven_point_follows_its_equations():
    b, drag, thrust, wanted = POINT, POINT.drag_n_s_per_m, 0.01, 0.1

    def equations(_, s):
        _, _, angle, vx, vy, turn = s
        f, n = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        v = np.array([vx, vy])
        torque = b.gear * np.clip(wanted - b.gear * turn, -b.limit, b.limit)
        spin = (torque - b.turn_drag_n_m_s * turn + b.mass_ahead_m * drag * v @ n) / b.inertia_kg_m2
        a = (b.gear * thrust * f - drag * v) / b.mass_kg + b.mass_ahead_m * (turn**2 * f - spin * n)
        return [vx, vy, turn, *a, spin]

    exact = solve_ivp(equations, (0.0, 0.4), [0, 0, 0, 0.5, -0.3, 0.0], method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    expected = np.array([exact[0], exact[1], math.cos(exact[2]), math.sin(exact[2]), exact[3], exact[4], exact[5]])
    found = errors(b, started(b, VX=0.5, VY=-0.3), (thrust, wanted), 20, expected, list(range(motion.AX)))
    np.testing.assert_allclose(order(found), 1.0, atol=0.1)
    assert found[-1] < 2e-4


def test_a_driven_car_follows_its_equations():
    b, drag = CAR, CAR.joint_drag_n_m_s / CAR.radius_m**2
    left, right = 0.004, 0.0025  # too little for wheels or ball to slip

    def equations(_, s):
        _, _, angle, u, turn = s
        f, n = np.array([math.sin(angle), -math.cos(angle)]), np.array([math.cos(angle), math.sin(angle)])
        force = [
            torque / b.radius_m - drag * (u + side * b.half_track_m * turn) for torque, side in ((left, 1), (right, -1))
        ]
        speeding = (sum(force) - drag * u) / b.mass_kg + b.mass_ahead_m * turn**2
        moment = b.half_track_m * (force[0] - force[1]) - drag * b.ball_ahead_m**2 * turn
        moment -= b.mass_kg * b.mass_ahead_m * u * turn
        spin = moment / (b.inertia_kg_m2 + b.mass_kg * b.mass_ahead_m**2)
        return [*(u * f - b.axle_ahead_m * turn * n), turn, speeding, spin]

    exact = solve_ivp(equations, (0.0, 0.8), [0, 0, 0, 0, 0], rtol=1e-10, atol=1e-12).y[:, -1]
    expected = np.array([exact[0], exact[1], math.cos(exact[2]), math.sin(exact[2]), exact[4]])
    rows = [motion.X, motion.Y, motion.COS, motion.SIN, motion.TURN]
    found = errors(b, started(b), (left, right), 20, expected, rows)
    np.testing.assert_allclose(order(found), 1.0, atol=0.1)
    assert found[-1] < 2e-3


def test_the_ball_rolls_without_slipping_while_it_can():
    # Straight ahead, u = r·Ω: after a distance s it has turned by s/r about the body's x axis.
    b = CAR
    state = coast(b, started(b), (0.004, 0.004), b.constants(ONE, torch.float64), 30)
    w, i, j, k = state[motion.BALL : motion.SPIN, 0].tolist()
    distance = -state[motion.Y].item()
    assert distance > 0.1
    assert (j, k) == (0.0, 0.0)
    assert 2.0 * math.atan2(i, w) == pytest.approx(distance / b.radius_m, rel=0.02)
    assert state[motion.SPIN].item() == pytest.approx(-state[motion.VY].item() / b.radius_m, rel=1e-6)
    # … and not faster than its grip can turn it: µ·B·r = b·Ω.
    fast = coast(b, started(b), (1.0, 1.0), b.constants(ONE, torch.float64), 200)
    load = b.mass_kg * motion.GRAVITY_M_PER_S2 * b.mass_ahead_m / b.ball_ahead_m
    assert fast[motion.SPIN].item() == pytest.approx(b.grip * load * b.radius_m / b.joint_drag_n_m_s, rel=1e-4)


def test_observed_senses_are_the_motion_in_the_body_s_frame():
    env = make_planar("PlanarCarRun0-v0", 4)
    env.reset(seeds(0, 1, 2, 3))
    for a in actions(40, 4):
        old = env.state_dict()["state"]
        obs = env.step(a).obs
    state = env.state_dict()["state"].astype(np.float64)
    heading = state[motion.COS] + 1j * state[motion.SIN]
    velocity, before = (s[motion.VX] + 1j * s[motion.VY] for s in (state, old.astype(np.float64)))
    field = 0.0 - 0.5j
    for columns, vector in ((0, (velocity - before) / 0.04), (3, velocity), (9, field)):
        seen = vector / heading
        np.testing.assert_allclose(obs[:, columns : columns + 2], np.stack([seen.real, seen.imag], 1), atol=2e-5)
    np.testing.assert_array_equal(obs[:, [2, 5, 6, 7, 11]], np.tile(np.float32([9.81, 0, 0, 0, 0]), (4, 1)))
    np.testing.assert_array_equal(obs[:, 8], state[motion.TURN])
    ball = obs[:, 15:24].reshape(4, 3, 3)
    np.testing.assert_allclose(ball @ ball.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(ball), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.hypot(state[motion.COS], state[motion.SIN]), 1.0, atol=3e-7)


FAR = {"agent": [[0.0, 0.0]], "agent_rot": 0.3, "goal": [[500.0, 500.0]]}


def both(body, commands) -> list:
    """Our planar world and our MuJoCo world of the same name, each command in an environment of its own."""
    n, id = len(commands), f"Planar{body.name}Goal0-v0"
    planar = PlanarGoalWorlds(id, replace(PLANAR_WORLDS[id], body=body), n)
    worlds = [planar, make(id.replace("Planar", "Safety"), n)]
    for env in worlds:
        env.reset()
        env.set_layout(dict.fromkeys(range(n), FAR))
    return worlds


@pytest.mark.parametrize(("substeps", "metres", "m_per_s"), [(POINT.substeps, 0.006, 0.02), (10, 0.0015, 0.01)])
def test_the_point_moves_as_mujoco_s_does(substeps, metres, m_per_s):
    # At MuJoCo's own step of 2 ms both are the same equations, but for a limit cycle of ±0.48 rad/s that MuJoCo's
    # explicit servo falls into unless it is saturated; the first two commands leave it free, on a way of 0.9 m.
    commands = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [-0.03, -1.0], [0.0, 1.0]])
    planar, mujoco = both(replace(POINT, substeps=substeps), commands)
    for t in range(50):
        ours, theirs = (env.step(commands) for env in (planar, mujoco))
        np.testing.assert_allclose(planar.position(), mujoco.position(), atol=metres)
        np.testing.assert_allclose(ours.obs[:, 3:5], theirs.obs[:, 3:5], atol=m_per_s)
        if t > 2:
            np.testing.assert_allclose(ours.obs[2:, 8], theirs.obs[2:, 8], atol=0.01)


def test_the_car_drives_and_turns_as_fast_as_mujoco_s_does():
    commands = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    planar, mujoco = both(CAR, commands)
    seen = np.array([[env.step(commands).obs[:, [4, 8]] for env in (planar, mujoco)] for _ in range(150)])
    ours, theirs = np.abs(seen[50:]).mean(axis=0)  # theirs shakes, so on the mean
    np.testing.assert_allclose(ours[:2, 0], theirs[:2, 0], rtol=0.04)
    np.testing.assert_allclose(ours[2:, 1], theirs[2:, 1], rtol=0.04)


def test_more_gear_speeds_up_less_mass_too_and_friction_slows():
    env = make_planar("PlanarPointRun0-v0", 4)
    env.perturb(gear=np.array([1.0, 2.0, 1.0, 1.0]), mass=np.array([1.0, 1.0, 0.5, 1.0]), friction=[1.0, 1.0, 1.0, 2.0])
    env.reset(seeds(0, 0, 0, 0))
    env.step(np.tile([1.0, 0.0], (4, 1)))
    first = env.speed()
    np.testing.assert_allclose(first / first[0], [1.0, 2.0, 2.0, 1.0], rtol=0.04)
    play(env, np.tile([1.0, 0.0], (250, 4, 1)))
    # Thrust over drag: 0.015 N over 0.01 N·s/m.
    np.testing.assert_allclose(env.speed(), [1.5, 3.0, 1.5, 0.75], rtol=1e-3)


# --- vases ------------------------------------------------------------------------------------------------------------


def disc(x, y, vx=0.0, vy=0.0):
    return Discs(*(torch.tensor([v], dtype=torch.float64).view(-1, 1) for v in (x, y, vx, vy)))


def test_a_vase_slides_as_far_as_its_friction_lets_it():
    # v loses a = µ·g·h each step before it moves: Σ h·(v − k·a) over the ⌊v/a⌋ steps in which something is left.
    v, h = 1.3, 0.02
    a = 9.81 * h
    discs = disc(0.0, 0.0, 0.6 * v, -0.8 * v)
    for _ in range(20):
        discs = slide(discs, torch.tensor(a), torch.tensor(h))
    count = math.floor(v / a)
    way = h * sum(v - k * a for k in range(1, count + 1))
    assert (discs.x.item(), discs.y.item()) == pytest.approx((0.6 * way, -0.8 * way))
    assert (discs.vx.item(), discs.vy.item()) == (0.0, 0.0)
    assert way == pytest.approx(v**2 / (2 * 9.81), rel=0.2)  # to which it comes as h goes to 0


def test_a_pushed_vase_leaves_the_bumper_along_the_normal_and_no_slower_than_it():
    one = torch.ones(1, dtype=torch.float64)
    pusher, reach = Pusher(0 * one, 0 * one, 1.0 * one, 0.5 * one), 0.2 * one[0]
    start = disc(0.09, 0.12, 0.0, 0.0)  # 0.15 m away in direction (0.6, 0.8), touching below 0.2
    discs, touched = push(start, pusher, reach)
    assert touched.all()
    assert (discs.x.item(), discs.y.item()) == pytest.approx((0.12, 0.16))
    assert (discs.vx.item(), discs.vy.item()) == pytest.approx((0.6, 0.8))  # (1, 0.5)·(0.6, 0.8) = 1
    again, touched = push(discs, pusher, reach)
    assert not touched.any()
    assert again.vx.item() == discs.vx.item()
    faster, _ = push(start._replace(vx=3 * one[None]), pusher, reach)
    assert (faster.vx.item(), faster.vy.item()) == (3.0, 0.0)


def test_vases_that_meet_part_and_keep_their_momentum():
    rng = np.random.default_rng(3)
    x, y, vx, vy = torch.tensor(rng.normal(size=(4, 6, 9)) * 0.15)
    discs, parted = Discs(x, y, vx, vy), separate(Discs(x, y, vx, vy), 0.1)
    for before, after in zip(discs, parted, strict=True):
        np.testing.assert_allclose(after.sum(dim=0), before.sum(dim=0), atol=1e-12)
    pair = disc([0.0, 0.15], [0.0, 0.0], [1.0, 0.0], [0.2, 0.0])
    pair = Discs(*(value.view(2, 1) for value in pair))
    parted = separate(pair, 0.1)
    assert (parted.x[1] - parted.x[0]).item() == pytest.approx(0.2)
    assert parted.vx[:, 0].tolist() == pytest.approx([0.5, 0.5])  # perfectly inelastic along the normal
    assert parted.vy[:, 0].tolist() == pytest.approx([0.2, 0.0])


def test_running_into_a_vase_costs_as_long_as_it_is_touched_or_moves():
    layout = {
        "agent": [[0, 0]],
        "agent_rot": 0.0,
        "goal": [[9.0, 9.0]],
        "hazards": [[5.0 + i, -5.0] for i in range(10)],
    }
    layout["vases"] = [[0.5, 0.0], [0.85, 0.0], *([5.0 + i, 5.0] for i in range(8))]
    env = make_planar("PlanarPointGoal2-v0", 1, costs="split")
    env.set_layout({0: layout})
    costs = np.array([env.step(np.array([[1.0, 0.0]])).cost[0] for _ in range(50)])
    assert env.costs == ("cost_hazards", "cost_vases_contact", "cost_vases_velocity")
    met = int(np.argmax(costs[:, 1]))
    # Until its front, 0.15 m ahead, has come to 0.5 − 0.113: exact drive from rest with v∞ = 1.5 and τ = 0.519.
    way, t = 0.5 - 0.113 - 0.15, np.arange(1, 51) * 0.02
    driven = 1.5 * (t - 0.51888 * (1.0 - np.exp(-t / 0.51888)))
    assert abs(met - int(np.argmax(driven > way))) <= 1
    assert not costs[:met].any()
    assert costs[met:, 1:].all()
    assert not costs[:, 0].any()
    xy = np.array([shape["xy"] for shape in env.scene(0)["shapes"][11:13]])
    front = env.position()[0] + [0.025, 0.0]
    a_centimetre = 0.01  # which the second vase, just parted from the first, presses it back
    assert np.linalg.norm(xy[0] - front) == pytest.approx(0.125 + 0.1128, abs=a_centimetre)
    assert xy[1, 0] - xy[0, 0] == pytest.approx(0.2257, abs=0.03)  # the second is pushed by the first
    stopped = [env.step(np.array([[-1.0, 0.0]])).cost[0] for _ in range(60)]
    assert not stopped[-1].any()


# --- costs, rewards, lidar --------------------------------------------------------------------------------------------


def test_being_inside_a_hazard_or_beyond_a_line_is_what_costs():
    env = make_planar("PlanarCarGoal2-v0", 200, costs="split")
    env.reset(np.arange(200, dtype=np.uint32))
    hazards = np.array([env.layout(i)["hazards"] for i in range(200)])
    inside = 0
    for a in np.repeat(actions(10, 200), 8, axis=0):
        cost = env.step(np.sign(a)).cost[:, 0]
        nearest = np.hypot(*(hazards - env.position()[:, None]).transpose(2, 0, 1)).min(axis=1)
        sure = np.abs(nearest - 0.2) > 1e-5
        np.testing.assert_array_equal(cost[sure], (nearest < 0.2)[sure])
        inside += cost.sum()
    assert inside > 20


def test_reward_is_progress_to_the_goal_and_one_more_on_reaching_it():
    env = make_planar("PlanarPointGoal1-v0", 50)
    env.reset(np.arange(50, dtype=np.uint32))
    goal = np.array([env.layout(i)["goal"][0] for i in range(50)])
    for a in np.repeat(actions(10, 50), 10, axis=0):
        before = np.hypot(*(goal - env.position()).T)
        step = env.step(a)
        after = np.hypot(*(goal - env.position()).T)
        met = step.info["goal_met"]
        np.testing.assert_array_equal(met, after <= 0.3)
        np.testing.assert_allclose(step.reward, before - after + met, atol=1e-5)
        goal[met] = np.array(
            [shape["xy"] for i in np.flatnonzero(met) for shape in env.scene(i)["shapes"][:1]]
        ).reshape(-1, 2)


def test_circle_and_run_rewards_in_single_precision():
    rng = np.random.default_rng(0)
    x, y, vx, vy, x0, y0 = rng.normal(size=(6, 400)).astype(np.float32)
    exact = [array.astype(np.float64) for array in (x, y, vx, vy, x0, y0)]
    single = [torch.from_numpy(array) for array in (x, y, vx, vy, x0, y0)]
    ex, ey, evx, evy, ex0, ey0 = exact
    radius = np.hypot(ex, ey)
    circle = (-evx * ey + evy * ex) / radius / (1.0 + np.abs(radius - 1.5)) * 0.1
    np.testing.assert_allclose(circle_reward(*single[:4]), circle, atol=1e-6)
    run = 60.0 * (np.hypot(ex0, ey0 + 1000.0) - np.hypot(ex, ey + 1000.0))
    np.testing.assert_allclose(run_reward(single[4], single[5], single[0], single[1]), run, atol=5e-5)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=3, max_size=9),
    bins=st.sampled_from([8, 16]),
    sight=st.sampled_from([3.0, 6.0]),
)
def test_lidar_is_that_of_the_other_worlds(points, bins, sight):
    # Three environments that see different things: leakage between them would show.
    xy = np.array(points, dtype=np.float32)
    assume((np.hypot(*xy.T) > 1e-3).all())  # where the agent itself is, a direction means nothing
    xy = np.stack([xy, xy[::-1] * np.float32(0.7), xy * np.float32(-1.3)])
    rings = (1, len(points) - 1)
    out = torch.empty(2 * bins, 3)
    x, y = (torch.from_numpy(xy[:, :, axis].T.copy()) for axis in (0, 1))
    PseudoLidar(rings, bins, sight, torch.device("cpu")).read(x, y, torch.sqrt(x * x + y * y), out)
    ego = (xy[..., 0] + 1j * xy[..., 1]).astype(np.complex128)
    expected = pseudo_lidar(ego, np.repeat([0, 1], rings), 2, bins, sight)
    np.testing.assert_allclose(out.T, expected, atol=1e-5)


def test_an_observation_s_lidar_is_that_of_its_scene():
    env = make_planar("PlanarCarGoal2-v0", 8)
    env.reset(np.arange(8, dtype=np.uint32))
    obs = play(env, actions(30, 8))[-1].obs
    for i in range(8):
        shapes = env.scene(i)["shapes"]
        xy = np.array([shape["xy"] for shape in shapes])
        heading = np.exp(1j * (shapes[-1]["rot"] + np.pi / 2))  # the Car drives along its −y axis
        ego = ((xy[:-1] - xy[-1]) @ [1.0, 1j] / heading)[None]
        expected = pseudo_lidar(ego, np.repeat([0, 1, 2], [1, 10, 10]), 3, 16, 3.0)[0]
        np.testing.assert_allclose(obs[i, 24:], expected, atol=1e-5)


# --- to look at -------------------------------------------------------------------------------------------------------


def test_a_picture_shows_the_goal_where_it_is():
    env = make_planar("PlanarPointGoal0-v0", 2)
    env.reset(seeds(0, 1))
    env.set_goal(np.array([[-0.6, 0.6], [0.6, 0.6]]))
    sides = []
    for i in range(2):
        seen = env.render(i, 96, 64).astype(int)
        assert seen.shape == (64, 96, 3)
        green = (seen[:, :, 1] - seen[:, :, 0] > 30) & (seen[:, :, 1] - seen[:, :, 2] > 30)
        assert green.sum() > 20
        row, column = np.argwhere(green).mean(axis=0)
        assert row < 32
        sides.append(column)
    assert sides[0] < 48 < sides[1]
    with pytest.raises(ConfigError, match="camera 'vision'"):
        env.render(0, 32, 32, "vision")
    with pytest.raises(ConfigError, match="0 × 32"):
        env.render(0, 0, 32)
