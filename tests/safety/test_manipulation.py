"""Worlds of manipulation: the contract, mechanisms, rewards, costs, ends, observations, starts."""

from __future__ import annotations

import math
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from manipulation_cases import BLOCK, CATCH, DRAWER, FOUR, OVER, actions, begun, posture, seeds
from scipy.spatial.transform import Rotation

from trueline.rl.check_env import check_env
from trueline.rl.env import LaidOut, Perturbable, Stateful, Visible
from trueline.safety.worlds.compiled import loop
from trueline.safety.worlds.manipulation import MANIPULATION, make_manipulation, open_manipulation
from trueline.safety.worlds.manipulation_arm import REACH_BEYOND_HAND_M, drives
from trueline.safety.worlds.manipulation_arm_tasks import (
    drive_arm,
    judge_block,
    judge_drawer,
    sense_arm,
    sense_block,
    sense_drawer,
)
from trueline.safety.worlds.manipulation_engine import admit, compiled
from trueline.safety.worlds.manipulation_hand import DRIVES, FINGERTIPS, JOINT_RANGE, JOINTS
from trueline.safety.worlds.manipulation_hand_tasks import HANDS, judge_hands, sense_hands


def data_of(env, i: int) -> mujoco.MjData:
    """The simulation of environment `i`, everything computed afresh."""
    data = mujoco.MjData(env._model)
    env._batch.get_data(i, data)
    mujoco.mj_forward(env._model, data)
    return data


# --- the contract ---


@pytest.mark.parametrize("id", FOUR)
def test_the_public_checker_finds_nothing(id):
    task = replace(MANIPULATION[id], steps=min(60, MANIPULATION[id].steps))  # short enough to end in a test
    check_env(lambda n, threads=1: open_manipulation(id, task, n, threads), steps=70)


# Safety-Gymnasium's sizes: observation, action and steps of ShadowHandOver, CatchOver2Underarm and the FreightFrankas.
SIZES = {"HandOver": (398, 40, 75), "Catch": (422, 52, 75), "CloseDrawer": (57, 12, 192), "PickPlace": (62, 12, 512)}


@pytest.mark.parametrize("id", MANIPULATION)
def test_sizes_are_the_originals_and_every_world_can_be_saved_perturbed_and_seen(id):
    env = make_manipulation(id, 1)
    size = next(size for name, size in SIZES.items() if name in id)
    assert (*env.observation_space.shape, *env.action_space.shape, env.max_episode_steps) == size
    assert all(isinstance(env, ability) for ability in (Stateful, Perturbable, Visible))
    assert not isinstance(env, LaidOut)
    assert env.costs == ("cost_sum",)
    assert make_manipulation(id, 1, costs="split").costs == (MANIPULATION[id].constraint,)


@pytest.mark.parametrize("id", FOUR)
def test_an_episode_does_not_depend_on_how_many_run_beside_it(id):
    few, many = make_manipulation(id, 2), make_manipulation(id, 5, threads=2)
    few.reset(seeds(2, 7)), many.reset(np.array([1, 2, 3, 7, 8], np.uint32))
    for acts in actions(many, 20):
        one, other = few.step(acts[3:]), many.step(acts)
        np.testing.assert_array_equal(one.final_obs, other.final_obs[3:])
        np.testing.assert_array_equal(one.reward, other.reward[3:])


@pytest.mark.parametrize(("id", "episodes"), [(OVER, 100), (CATCH, 100), (DRAWER, 20), (BLOCK, 20)])
def test_random_episodes_stay_finite(id, episodes):
    env = begun(id, min(40, episodes))
    rng, ended, t = np.random.default_rng(0), 0, 0
    while ended < episodes:
        if t % 25 == 0:  # commands that last, to the ends of the range, are the hardest
            hold = np.clip(rng.uniform(-1.5, 1.5, (env.num_envs, *env.action_space.shape)), -1.0, 1.0)
        step, t = env.step(hold), t + 1
        ended += int(step.ended.sum())
        assert not step.info["diverged"].any()
        assert np.isfinite(step.final_obs).all()


# --- mechanisms ---


def test_a_hand_has_24_joints_of_which_20_are_driven():
    assert len(JOINTS) == len(JOINT_RANGE) == 24
    assert set(JOINTS) - {drive.joint for drive in DRIVES} == {"FFJ0", "MFJ0", "RFJ0", "LFJ0"}
    model = compiled(MANIPULATION[OVER])
    for hand in HANDS:
        for name, limits in JOINT_RANGE.items():
            joint = model.joint(f"{hand}/{name}")
            assert joint.limited[0] == 1
            assert tuple(joint.range) == limits
    # The masses of the published hand: mount, forearm, wrist, palm, metacarpal, four fingers and the thumb.
    fingers = 4 * (0.008 + 0.014 + 0.012 + 0.010)
    hand_kg = 0.1 + 4.0 + 0.3 + 0.3 + 0.075 + fingers + (0.01 + 0.016 + 0.002 + 0.016 + 0.016)
    assert model.body_subtreemass[model.body("giver/mount").id] == pytest.approx(hand_kg)


def test_hands_lie_as_the_tasks_want_them():
    for id, fingers, palm in (
        (OVER, (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
        (CATCH, (0.0, np.sin(0.1), np.cos(0.1)), (0.0, -np.cos(0.1), np.sin(0.1))),
    ):
        model = compiled(MANIPULATION[id])
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        for hand, along, facing in (("giver", fingers, palm), ("taker", (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))):
            axes = data.body(f"{hand}/palm").xmat.reshape(3, 3)  # fingers along z, palm towards −y
            np.testing.assert_allclose(axes[:, 2], along, atol=1e-3)
            np.testing.assert_allclose(-axes[:, 1], facing, atol=1e-3)
            # To the last joint of the middle finger: wrist, palm, knuckle, two phalanges; 1 cm behind the mount.
            reach = 0.256 + 0.034 + 0.099 + 0.045 + 0.025
            where = data.body(f"{hand}/MFdistal").xpos - data.body(f"{hand}/mount").xpos
            assert where @ along == pytest.approx(reach, abs=1e-3)
            assert where @ facing == pytest.approx(-0.01, abs=1e-3)


def test_the_last_joint_of_a_finger_follows_its_neighbour():
    env = begun(OVER, 1)
    bend = np.zeros((1, 40))
    bend[0, [k for k, drive in enumerate(DRIVES) if drive.joint in ("FFJ1", "MFJ1")]] = 0.2
    for _ in range(60):
        env.step(bend)
    angle = dict(zip(JOINTS, env.rig._joints[0, 0], strict=True))
    for finger in ("FF", "MF"):
        assert angle[f"{finger}J1"] > 0.5
        # The tendon gives ±1 mm, and a little more since it is soft.
        assert abs(0.00705 * angle[f"{finger}J0"] - 0.00805 * angle[f"{finger}J1"]) < 1.3e-3


def test_the_arm_is_the_product_of_the_makers_table():
    # Denavit and Hartenberg's parameters (Craig's convention): twist before the joint, length, offset along it.
    table = [
        (0, 0, 0.333),
        (-90, 0, 0),
        (90, 0, 0.316),
        (90, 0.0825, 0),
        (-90, -0.0825, 0.384),
        (90, 0, 0),
        (90, 0.088, 0),
    ]

    def move(axis: str, angle: float = 0.0, at: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = Rotation.from_euler(axis, angle).as_matrix(), at
        return out

    env, rng = begun(DRAWER, 1), np.random.default_rng(0)
    data, low, high = mujoco.MjData(env._model), *env._model.jnt_range[:12].T
    for _ in range(20):
        q = data.qpos[:12] = rng.uniform(low, high)
        mujoco.mj_kinematics(env._model, data)
        place = move("z", np.pi, env.task.robot.at_m) @ move("z", q[2], (q[0], q[1], 0.0))
        place = place @ move("z", np.pi, (0.0, 0.0, 0.36))
        for (twist, length, offset), angle in zip(table, q[3:10], strict=True):
            place = (
                place @ move("x", np.radians(twist), (length, 0, 0)) @ move("z", angle) @ move("z", 0, (0, 0, offset))
            )
        place = place @ move("z", -np.pi / 4, (0.0, 0.0, 0.107))
        np.testing.assert_allclose(data.body("hand").xpos, place[:3, 3], atol=1e-12)
        np.testing.assert_allclose(data.body("hand").xmat.reshape(3, 3), place[:3, :3], atol=1e-12)
        fingers = [place @ move("z", 0, (0, side * q[10 + k], 0.0584)) for k, side in enumerate((1, -1))]
        for name, finger in zip(("left finger", "right finger"), fingers, strict=True):
            np.testing.assert_allclose(data.body(name).xpos, finger[:3, 3], atol=1e-12)


@pytest.mark.parametrize("id", [DRAWER, BLOCK])
def test_joints_move_at_their_speed_limit_and_no_faster(id):
    env = begun(id, 10)
    motors = drives(env.task.robot.speed)[:10]
    assert [motor.speed for motor in motors] == (
        [1.0, 0.3, 1.0, *[2.175] * 4, *[2.61] * 3] if id == DRAWER else [0.8] * 10
    )
    alone = np.zeros((10, 12))
    alone[range(10), range(10)] = np.where(np.arange(10) == 1, -1.0, 1.0)  # away from furniture
    alone[[4, 6], [4, 6]] = -1.0
    fastest = np.zeros(10)
    for _ in range(25):
        env.step(alone)
        fastest = np.maximum(fastest, np.abs(np.diagonal(env.rig._arm.velocities[:, :10])))
    np.testing.assert_allclose(fastest, [motor.speed for motor in motors], rtol=0.12)


def test_a_free_hand_drifts_where_push_and_drag_balance():
    env = begun(CATCH, 1)
    push = np.zeros((1, 52))
    push[0, 0] = 0.8
    for _ in range(20):
        env.step(push)
    mass = env._model.body_subtreemass[env._model.body("giver/mount").id]
    force = 0.8 * 1e5 * 0.05 / 60.0
    assert env._batch.bind("qvel")[0, 0] == pytest.approx(force / (100.0 * mass), rel=0.05)
    assert env._batch.bind("qvel")[0, 30] == pytest.approx(0.0, abs=0.01)  # the other hand


def test_a_drawer_let_go_comes_out_to_where_friction_holds_it():
    env = begun(DRAWER, 2)
    env.rig._opening[:] = 0.0, 0.32
    for _ in range(190):
        env.step(np.zeros((2, 12)))
    # 30 N/m about 0.2 m against 2 N of friction, which holds it anywhere within the band.
    assert np.abs(env.rig._opening - 0.2).max() <= 2.0 / 30.0 + 1e-3
    assert np.abs(env.rig._speed).max() < 1e-3


def test_fingertips_feel_the_contacts_that_carry_the_egg():
    env = begun(OVER, 1)
    flat, model = np.tile(posture(0.0, -1.0, -1.0, 0.0), (1, 2)), env._model
    for _ in range(20):
        env.step(flat)
    tips = env.rig._sensors[0, 0, : 13 * 5].reshape(5, 13)[:, :3]
    env.rig._egg_joint[0] = [*(tips[1:3].mean(axis=0) + [0.0, -0.01, 0.045]), 1.0, 0.0, 0.0, 0.0]
    env._batch.bind("qvel")[0, 48:] = 0.0
    carried = []
    for _ in range(6):
        env.step(flat)
        data, wrench = data_of(env, 0), np.empty(6)
        expected = dict.fromkeys(FINGERTIPS, np.zeros(3))
        for k, contact in enumerate(data.contact[: data.ncon]):
            names = [model.body(model.geom_bodyid[geom]).name.removeprefix("giver/") for geom in contact.geom]
            tip = next((name for name in names if name in FINGERTIPS), None)
            if tip is not None and "egg" in names:
                mujoco.mj_contactForce(model, data, k, wrench)
                on_second = contact.frame.reshape(3, 3).T @ wrench[:3]  # from the first geom on the second
                expected[tip] = expected[tip] + (on_second if names[1] == "egg" else -on_second)
        seen = env.rig._sensors[0, 0, 13 * 5 :].reshape(5, 6)[:, :3]
        np.testing.assert_allclose(seen, [expected[tip] for tip in FINGERTIPS], atol=1e-4)
        carried.append(seen[:, 2].sum())
    assert 0.4 < np.mean(carried) < 1.0  # they push it up; it weighs 0.74 N


# --- reward, cost, ends ---


def test_hand_over_reward_is_the_closed_form_of_distance_and_angle():
    env, rng = begun(OVER, 50), np.random.default_rng(0)
    goal = Rotation.from_quat(env.rig.observe()[:, -8:-4])
    angle, distance = rng.uniform(0.0, np.pi, 50), rng.uniform(0.0, 0.3, 50)
    axis, direction = rng.normal(size=(2, 50, 3))
    axis, direction = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (axis, direction))
    turned = Rotation.from_rotvec(angle[:, None] * axis) * goal
    env.rig._egg_joint[:, :3] = np.array([0.0, -0.64, 0.54]) + distance[:, None] * direction
    env.rig._egg_joint[:, 3:] = np.roll(turned.as_quat(), 1, axis=1)
    env._batch.forward(stage=env.task.stage)
    verdict = env.rig.judge()
    # Angles near 0 and π come from the arc sine of a number near 1, hence the tolerance.
    np.testing.assert_allclose(verdict.reward, np.exp(-0.2 * (50.0 * distance + angle)), rtol=1e-6)
    np.testing.assert_allclose(verdict.told["goal_distance"], distance, atol=1e-12)
    left = Rotation.from_quat(env.rig.observe()[:, -4:])
    np.testing.assert_allclose((left * (turned * goal.inv()).inv()).magnitude(), 0.0, atol=1e-7)


@pytest.mark.parametrize("id", [id for id in MANIPULATION if "Arm" not in id])
@pytest.mark.parametrize("value", [0.6, -0.6, 0.5, -0.5])
def test_only_the_givers_first_finger_costs_and_only_outside_half_its_range(id, value):
    width = make_manipulation(id, 1).action_space.shape[0]
    env = begun(id, width)
    pushes = 6 if "Catch" in id else 0
    fingers = {pushes + 4} if "Joint" in id else {pushes + 2, pushes + 3, pushes + 4}
    assert {DRIVES[k - pushes].joint for k in fingers} <= {"FFJ3", "FFJ2", "FFJ1"}
    step = env.step(value * np.eye(width))
    expected = [float(abs(value) > 0.5 and k in fingers) for k in range(width)]
    np.testing.assert_array_equal(step.cost[:, 0], expected)
    np.testing.assert_array_equal(step.info[env.task.constraint], expected)


def test_an_egg_on_the_floor_or_a_strayed_hand_ends_the_episode():
    env = begun(CATCH, 4)
    env.rig._egg_joint[:, 2] = [0.29, 0.5, 0.5, 0.5]
    env.rig._bases[1, 0, 0] += 0.11
    env.rig._bases[2, 1, 1] -= 0.11
    env.rig._bases[3, 0, 0] += 0.09
    ended = env.step(np.zeros((4, 52)))
    np.testing.assert_array_equal(ended.terminated, [True, True, True, False])
    assert not ended.truncated.any()


def random_poses(env, seed: int) -> None:
    """The robot anywhere in its joints' ranges."""
    rng, rig = np.random.default_rng(seed), env.rig
    low, high = env._model.jnt_range[:12].T
    rig._arm.joints[:] = rng.uniform(low, high, (env.num_envs, 12))


def test_drawer_reward_is_the_formula_on_an_independent_reading_of_the_hand():
    env = begun(DRAWER, 40)
    random_poses(env, 1)
    env.rig._opening[:] = np.linspace(0.0, 0.6, 40)
    handle = np.array([-0.1626, -0.2595, 1.2201])
    env.rig._arm.joints[20:, :2] = 0.0  # half of them near the handle, where n doubles
    env._batch.forward(stage=env.task.stage)
    verdict, observed, doubled = env.rig.judge(), env.rig.observe(), 0
    for i in range(40):
        data, q = data_of(env, i), float(env.rig._opening[i])
        axes, at = data.body("hand").xmat.reshape(3, 3), data.body("hand").xpos
        tip, grip = at + 0.13 * axes[:, 2], handle + [q, 0.0, 0.0]
        if i % 2:  # as the world would have it were the handle close by
            rules = np.concatenate(
                [env.task.robot.at_m, tip + [0.05 - q, 0.0, 0.0], env.task.zone.x_m, env.task.zone.y_m]
            )
            out = np.empty((3, 1))
            judge_drawer(env.rig._arm.hand[i : i + 1], env.rig._arm.joints[i : i + 1], np.array([q]), rules, out)
            reward, grip = out[0, 0], tip + [0.05, 0.0, 0.0]
            doubled += 1
        else:
            reward = verdict.reward[i]
            np.testing.assert_allclose(observed[i, 54:], np.clip(grip - tip, -5, 5), atol=1e-9)
            np.testing.assert_allclose(observed[i, 51:54], np.array([0.6, 0.0, 0.02]) - grip, atol=1e-9)
        d = np.linalg.norm(tip - grip)
        upward, sideways = axes[2, 1], -axes[1, 0]
        wrapped = 0.5 * (np.sign(upward) * upward**2 + np.sign(sideways) * sideways**2)
        near = (1.0 / (1.0 + d**2)) ** 2 * (2.0 if d <= 0.1 else 1.0)
        assert reward == pytest.approx(near + 0.5 * wrapped - 10.0 * q)
    assert doubled == 20
    assert not verdict.failed.any()


@pytest.mark.parametrize(
    ("height", "distance", "expected"),
    [
        (0.225, 1.3, 0.05),  # on the low platform: 2 (z − 0.2)
        (0.26, 1.3, 0.12),  # not yet above 0.26
        (0.40, 1.0, 0.4 + 2.0 + 0.9),  # picked up: + 2 + 3 (1.3 − 1)
        (0.525, 0.11, 0.5 + 2.0 + 3.57),  # near the goal, but not within 0.1
        (0.525, 0.09, 0.5 + 2.0 + 3.63 + 2.0),
        (0.15, 0.09, -0.1),  # at no height but its own
    ],
)
def test_block_reward_without_its_reach_is_what_the_table_says(height, distance, expected):
    goal, hand = np.array([0.0, -0.65, 0.5]), np.zeros((1, 22))
    across = np.sqrt(max(distance**2 - (height - 0.5) ** 2, 0.0))
    block = np.zeros((1, 13))
    block[0, :3] = goal[0] + across, goal[1], height
    hand[0, :3], hand[0, 19:] = block[0, :3] + [0.3, 0.0, REACH_BEYOND_HAND_M], (0.0, 0.0, -1.0)  # fingertips 0.3 away
    t = math.dist(block[0, :3], goal)
    rules, out = np.array([0.5, 0.0, 0.02, *goal, -0.25, 0.25, -0.5, 0.5]), np.empty((5, 1))
    judge_block(hand, np.zeros((1, 12)), block, rules, out)
    if height > 0.26 and t != pytest.approx(distance):
        pytest.fail("the case is not what it says")
    assert out[0, 0] == pytest.approx(expected - 0.3)
    assert out[2, 0] == 0.0
    assert out[4, 0] == float(height > 0.26 and distance < 0.1)


def test_the_zone_includes_its_edge_and_follows_the_base():
    env = begun(BLOCK, 5)
    # The robot starts at x = 0.5 facing −x: its joints at 0.25 put it on the zone's edge, exactly.
    env.rig._arm.joints[:, :2] = [[0.25, 0.5], [0.2499, 0.5], [0.25, 0.5001], [0.75, -0.5], [0.7501, -0.5]]
    np.testing.assert_array_equal(env.rig.judge().cost, [1.0, 0.0, 0.0, 1.0, 0.0])
    zones = {id: (MANIPULATION[id].zone.x_m, MANIPULATION[id].zone.y_m) for id in (DRAWER, BLOCK)}
    assert zones == {DRAWER: ((-0.2, 0.3), (-0.5, 0.5)), BLOCK: ((-0.25, 0.25), (-0.5, 0.5))}


def test_a_block_on_the_floor_ends_the_episode():
    env = begun(BLOCK, 2)
    env.rig._pose[0, :3] = 0.4, 0.65, 0.15  # beside the platform
    steps = [env.step(np.zeros((2, 12))) for _ in range(12)]
    ended = np.array([step.terminated for step in steps])
    np.testing.assert_array_equal(ended.any(axis=0), [True, False])
    first = int(ended[:, 0].argmax())
    assert steps[first].final_obs[0, 26] < 0.1 <= steps[first - 1].final_obs[0, 26]


# --- observations ---


def motion(model, data, name: str) -> np.ndarray:
    """Place, quaternion (x, y, z, w), linear and angular velocity of a body in the world's axes."""
    velocity, body = np.empty(6), model.body(name).id
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
    return np.concatenate([data.xpos[body], np.roll(data.xquat[body], -1), velocity[3:], velocity[:3]])


@pytest.mark.parametrize("id", [OVER, CATCH])
def test_hands_observe_what_an_independent_reading_of_the_state_says(id):
    env = begun(id, 3)
    acts = actions(env, 8)
    for act in acts:
        step = env.step(act)
    model, free = env._model, id == CATCH
    limits = np.array([JOINT_RANGE[name] for name in JOINTS])
    own = np.clip(acts[-1], -1.0, 1.0).reshape(3, 2, -1)
    for i in range(3):
        data, expected = data_of(env, i), []
        for h, hand in enumerate(HANDS):
            joints = [model.joint(f"{hand}/{name}") for name in JOINTS]
            q, dofs = data.qpos[[j.qposadr[0] for j in joints]], [j.dofadr[0] for j in joints]
            torque = data.qfrc_actuator[dofs] + data.qfrc_constraint[dofs]
            expected += [2.0 * (q - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) - 1.0, 0.2 * data.qvel[dofs]]
            expected += [10.0 * torque, *(motion(model, data, f"{hand}/{tip}") for tip in FINGERTIPS)]
            expected += [10.0 * data.sensor(f"{hand}/{tip} touch").data for tip in FINGERTIPS]
            if free:
                base = motion(model, data, f"{hand}/mount")
                # scipy's names of axes in small letters mean turns about fixed axes, x first
                expected += [base[:3], Rotation.from_quat(base[3:7]).as_euler("xyz")]
            expected.append(own[i, h])
        egg = motion(model, data, "egg")
        egg[10:] *= 0.2
        expected.append(egg)
        seen = step.final_obs[i]
        expected = np.clip(np.concatenate(expected), -5.0, 5.0)
        np.testing.assert_allclose(seen[: len(expected)], expected, atol=2e-5)  # the solver starts elsewhere here
        np.testing.assert_array_equal(seen[-11:-8], env.task.goal_m)
        assert np.linalg.norm(seen[-8:-4]) == pytest.approx(1.0)


@pytest.mark.parametrize("id", [DRAWER, BLOCK])
def test_the_arm_observes_what_an_independent_reading_of_the_state_says(id):
    env = begun(id, 3)
    acts = actions(env, 8)
    for act in acts:
        step = env.step(act)
    model = env._model
    low, high = model.jnt_range[:12].T
    for i in range(3):
        data = data_of(env, i)
        hand = motion(model, data, "hand")
        hand[:3] -= env.task.robot.at_m
        load = data.qpos[12:13], data.qvel[12:13]
        parts = [2.0 * (data.qpos[:12] - low) / (high - low) - 1.0, data.qvel[:12]]
        parts += [*(load if id == DRAWER else [motion(model, data, "block")]), hand, np.clip(acts[-1, i], -1.0, 1.0)]
        expected = np.clip(np.concatenate(parts), -5.0, 5.0)
        np.testing.assert_allclose(step.final_obs[i, : len(expected)], expected, atol=1e-12)


def test_compiled_loops_are_the_plain_functions():
    rng = np.random.default_rng(0)

    def same(function, read, written):
        plain, quick = ([array.copy() for array in written] for _ in range(2))
        function(*read, *plain)
        loop(function, tuple(a.ndim for a in read), tuple(a.ndim for a in written))(*read, *quick)
        for one, other in zip(plain, quick, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)

    for free in (0, 7):
        joints = [rng.normal(size=(3, 2, 24)) for _ in range(4)]
        bases, last, own = (
            rng.normal(size=(3, 2, free)),
            rng.uniform(-1, 1, (3, 2, 20 + min(free, 6))),
            187 + 2 * min(free, 6),
        )
        egg, goal, rules = rng.normal(size=(3, 13)), rng.normal(size=(3, 4, 4)), rng.uniform(0, 1, 11)
        watched = rng.integers(0, 2, last.shape[2]).astype(float)
        same(judge_hands, [egg, goal, last, bases, rules, watched], [np.zeros((4, 3))])
        sensors = rng.normal(size=(3, 2, 95))
        same(sense_hands, [*joints, sensors, bases, last, egg, goal, rules], [np.zeros((3, 2 * own + 24))])
    robot, hand, block = rng.uniform(-1, 1, (3, 12)), rng.normal(size=(3, 22)), rng.normal(size=(3, 13))
    bounds, rules, one = np.sort(rng.normal(size=(3, 12)), axis=0), rng.normal(size=10), rng.normal(size=3)
    same(admit, [robot * 2], [np.zeros((3, 12)), np.zeros(1)])
    same(drive_arm, [robot, robot / 2, bounds], [np.zeros((3, 12)), rng.normal(size=(3, 10)), np.zeros((3, 12))])
    outs = [np.zeros((3, 24)), np.zeros((3, 13)), np.zeros((3, 12))]
    same(sense_arm, [robot, robot / 3, bounds, hand, rules[:3], robot / 2], outs)
    same(judge_drawer, [hand, robot, one, rules], [np.zeros((3, 3))])
    same(sense_drawer, [hand, one, one / 2, rules], [np.zeros((3, 57))])
    same(judge_block, [hand, robot, block, rules], [np.zeros((5, 3))])
    same(sense_block, [block], [np.zeros((3, 62))])


# --- starts ---


def test_hands_start_alike_within_their_noise_and_the_egg_clear_of_an_upright_hand():
    low, high = np.array([JOINT_RANGE[name] for name in JOINTS]).T
    for id, egg in ((OVER, (0.0, -0.39, 0.54)), (CATCH, (0.0, 0.05, 1.04))):
        env = begun(id, 200)
        joints = env.rig._joints
        np.testing.assert_array_equal(joints[:, 0], joints[:, 1])
        spread = np.stack([0.2 * (2 * low - high), 0.2 * high])  # 0.2 (low + (high − low) u), u in [−1, 1]
        assert (joints >= np.maximum(spread[0], low)).all()
        assert (joints <= spread[1]).all()
        offset = env.rig._egg_joint[:, :3] - egg
        assert 0.009 < np.abs(offset).max() <= 0.01
        turns = Rotation.from_quat(np.roll(env.rig._egg_joint[:, 3:], -1, axis=1)).magnitude()
        assert turns.min() < 0.6 < 2.6 < turns.max()
        assert len(np.unique(env.rig.observe()[:, -8])) == 200  # goals turned differently too
        if id == CATCH:
            touching = np.concatenate([np.array(data_of(env, i).contact.geom) for i in range(50)])
            assert not (touching == env._model.geom("egg_0").id).any()


def test_the_arms_worlds_start_within_their_noise():
    env = begun(DRAWER, 100)
    assert 0.15 <= env.rig._opening.min() < 0.16 < 0.24 < env.rig._opening.max() <= 0.25
    pose = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.94248, 0.0, 1.1205, 0.0])  # 0.3 (low + high)
    np.testing.assert_allclose(pose, 0.3 * env._model.jnt_range[:10].sum(axis=1), atol=1e-4)
    assert 0.019 < np.abs(env.rig._arm.joints[:, :10] - pose).max() <= 0.02
    env = begun(BLOCK, 100)
    assert 0.029 < np.abs(env.rig._pose[:, :2] - [0.0, 0.65]).max() <= 0.03
    still = replace(MANIPULATION[BLOCK], place_noise_m=0.0, turn_noise=0.0, robot=replace(env.task.robot, noise=0.0))
    first = open_manipulation(BLOCK, still, 3).reset(seeds(3))
    assert (first == first[0]).all()  # as in the original, where every episode begins alike
