"""Worlds of manipulation can be done: scripted solutions, abilities, two agents."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from manipulation_cases import BLOCK, CATCH, DRAWER, FOUR, OVER, actions, begun, posture, seeds
from scipy.optimize import least_squares

from trueline.core.errors import ConfigError, UnknownName
from trueline.rl.filmstrip import film_strip
from trueline.rl.multi_agent import check_multi_agent
from trueline.safety.worlds.manipulation import make_manipulation
from trueline.safety.worlds.manipulation_agents import HAND_TEAMS, make_hand_agents
from trueline.safety.worlds.manipulation_arm import REACH_BEYOND_HAND_M
from trueline.safety.worlds.render import NoGraphics

# --- they can be done ---

Script = list[tuple[int, tuple[float, float, float, float]]]  # until when each posture is commanded


def play_hands(id: str, giver: Script, taker: Script, push: np.ndarray, n: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return and smallest distance to the goal [n] of episodes in which the hands go through the postures."""
    env, total, nearest, going = begun(id, n), np.zeros(n), np.full(n, np.inf), np.ones(n, bool)
    for t in range(75):
        hands = [posture(*next(pose for until, pose in script if t < until)) for script in (giver, taker)]
        if env.task.free:
            hands = [np.concatenate([push, hands[0]]), np.concatenate([np.zeros(6), hands[1]])]
        step = env.step(np.tile(np.concatenate(hands), (n, 1)))
        total += np.where(going, step.reward, 0.0)
        nearest = np.where(going, np.minimum(nearest, step.info["goal_distance"]), nearest)
        going &= ~step.ended
    return total, nearest


FLAT: Script = [(75, (0.0, -1.0, -1.0, 0.0))]


@pytest.mark.parametrize(
    ("id", "giver", "taker", "push", "within_m"),
    [
        (
            OVER,
            [(11, (-0.9, -0.85, -0.55, -0.35)), (20, (0.8, -0.75, -0.85, 0.1)), (75, (0.4, -0.65, -0.85, 0.25))],
            [(31, (-0.45, -0.95, -0.85, -0.25)), (75, (-0.3, 0.3, -0.55, -0.4))],
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            0.05,
        ),
        (
            CATCH,
            [(7, (-0.95, -0.97, -0.73, -0.73)), (15, (0.58, -0.36, -0.51, -0.67)), (75, (0.71, -0.63, -0.97, 0.1))],
            [(34, (-0.44, -0.78, -0.83, -0.38)), (75, (0.25, -0.55, 0.12, 0.4))],
            (0.04, -0.43, 0.16, 0.6, 0.0, 0.0),
            0.09,
        ),
    ],
)
def test_a_scripted_throw_brings_the_egg_to_the_goal_and_pays(id, giver, taker, push, within_m):
    """Backwards, then up with a jerk of the wrist: without seeing the egg, so only some of the throws arrive."""
    thrown, nearest = play_hands(id, giver, taker, np.array(push))
    kept, farther = play_hands(id, FLAT, FLAT, np.zeros(6))
    assert thrown.mean() > 1.5 * kept.mean()
    assert (nearest < within_m).mean() > 0.05
    assert (farther > 0.1).all()
    assert np.median(nearest) < 0.7 * np.median(farther)


class Poses:
    """Where the arm's joints have to be for its fingertips to be at a place."""

    def __init__(self, env) -> None:
        self.model, self.data = env._model, mujoco.MjData(env._model)
        self.low, self.high = self.model.jnt_range[:10].T + np.array([[0.02], [-0.02]])

    def solve(self, tip, x, z, near, drive_in: float) -> np.ndarray:
        """Joints [10] with the fingertips at `tip`, the hand's axes x and z, and the base driven in no further."""

        def residual(q):
            self.data.qpos[:10] = q
            mujoco.mj_kinematics(self.model, self.data)
            axes = self.data.body("hand").xmat.reshape(3, 3)
            there = self.data.body("hand").xpos + REACH_BEYOND_HAND_M * axes[:, 2]
            return np.concatenate([10 * (there - tip), 3 * (axes[:, 0] - x), 3 * (axes[:, 2] - z), 0.02 * (q - near)])

        high = np.minimum(self.high, [drive_in, *[np.inf] * 9])
        found = least_squares(residual, np.clip(near, self.low + 1e-6, high - 1e-6), bounds=(self.low, high))
        assert np.abs(found.fun[:3]).max() < 0.02  # 2 mm
        return found.x


def follow(env, plans, times, grip) -> list:
    """Steps of an episode in which each environment's targets follow its way [knots, 10] through the times [knots]."""
    ways = np.stack([[np.interp(np.arange(1, times[-1] + 1), times, way[:, j]) for j in range(10)] for way in plans])
    steps = []
    for t in range(env.max_episode_steps):
        acts = np.zeros((env.num_envs, 12))
        acts[:, :10] = 3.0 * (ways[:, :, min(t, times[-1] - 1)] - env.rig.memory["targets"])  # 3 actions a radian
        acts[:, 10:] = grip(t)
        assert (np.abs(acts) <= 1.0).all()  # nothing is cut off
        steps.append(env.step(acts))
    return steps


def test_the_drawer_can_be_closed_from_outside_the_zone():
    env = begun(DRAWER, 3)
    poses, handle = Poses(env), np.array(env.task.handle_m)
    x, z = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])  # fingers above and below the handle
    plans = []
    for i in range(3):
        opening, near = float(env.rig._opening[i]), np.array([0.2, 0.2, 0.9, 1.8, 0.0, 0.0, -1.5, 0.0, 1.8, 0.8])
        way = [env.rig.memory["targets"][i].copy()]
        for ahead in (opening + 0.15, opening - 0.035, *np.linspace(opening, -0.01, 5)[1:] - 0.035):
            near = poses.solve(handle + [ahead, 0.0, 0.0], x, z, near, drive_in=0.27)
            way.append(near)
        plans.append(np.array(way))
    steps = follow(env, plans, [0, 100, 118, 126, 134, 142, 150], lambda t: 1.0)
    assert not any(step.cost.any() for step in steps)
    assert steps[-1].info["closed"].all()
    assert steps[-1].truncated.all()
    assert (steps[-1].reward > 2.4).all()  # 2 at the handle, ½ for the hold of it


def test_the_block_can_be_carried_to_the_goal_around_the_zone():
    env = make_manipulation(BLOCK, 3)
    first = env.reset(seeds(3))
    poses, goal, down = Poses(env), np.array(env.task.goal_m), np.array([0.0, 0.0, -1.0])

    def sideways(angle: float) -> np.ndarray:  # the hand's x when its y, along which it grips, lies at this angle
        return np.array([-np.sin(angle), np.cos(angle), 0.0])

    plans = []
    for i in range(3):
        block, angle = first[i, 24:27] * [1, 1, 0] + [0, 0, 0.225], 2 * np.arctan2(first[i, 29], first[i, 30])
        near = np.array([0.0, -0.35, 1.3, 1.3, 0.3, 0.0, -1.9, 0.0, 2.2, 0.8])
        above = poses.solve(block + [0, 0, 0.15], sideways(angle), down, near, drive_in=0.2)
        at = poses.solve(block, sideways(angle), down, above, drive_in=0.2)
        lifted = poses.solve(block + [0, 0, 0.45], sideways(angle), down, above, drive_in=0.2)
        turned = lifted + [0.0, 0.45, 0.5, 0.58, 0, 0, 0, 0, 0, 0]
        over = poses.solve(goal + [0, 0, 0.15], sideways(angle + 1.08), down, turned, drive_in=0.2)
        there = poses.solve(goal + [0, 0, 0.03], sideways(angle + 1.08), down, over, drive_in=0.2)
        start = env.rig.memory["targets"][i].copy()
        plans.append(np.array([start, above, above, at, at, lifted, over, there]))
    steps = follow(env, plans, [0, 150, 165, 190, 215, 245, 390, 420], lambda t: 1.0 if t < 190 else -0.3)
    assert not any(step.cost.any() for step in steps)
    assert len(steps) == 512
    assert not steps[-1].terminated.any()
    assert steps[-1].info["placed"].all()
    assert (steps[-1].reward > 8.0).all()  # ½ + 2 + 3.9 + 2, less what the fingertips are away


# --- abilities ---


@pytest.mark.parametrize("id", [OVER, BLOCK])
def test_multipliers_act_each_on_its_own_row_and_one_restores(id):
    nominal, changed = begun(id, 3), begun(id, 3)
    acts = actions(nominal, 30)

    def ends(env) -> np.ndarray:
        env.reset(seeds(3))
        return np.array([env.step(act).final_obs for act in acts])[-1]

    usual = ends(nominal)
    for name in changed.perturbations:
        changed.perturb(**{name: np.array([1.0, 1.6, 1.0])})
        seen = ends(changed)
        np.testing.assert_array_equal(seen[[0, 2]], usual[[0, 2]])
        assert (seen[1] != usual[1]).any(), name
        changed.perturb(**{name: 1.0})
    np.testing.assert_array_equal(ends(changed), usual)


def test_multipliers_reach_all_masses_and_surfaces_but_no_motor_that_is_not_the_robots():
    env = begun(DRAWER, 2)
    env.perturb(mass=np.array([1.0, 2.0]), friction=np.array([1.0, 3.0]), gear=np.array([1.0, 0.5]))
    nominal, changed = env._model, env._batch.get_model(1)
    np.testing.assert_allclose(changed.body_mass, 2.0 * nominal.body_mass)
    np.testing.assert_allclose(changed.body_inertia, 2.0 * nominal.body_inertia)
    np.testing.assert_allclose(changed.geom_friction, 3.0 * nominal.geom_friction)
    share = np.array([*[0.5] * 12, 1.0])  # the last is the drawer's spring
    for field in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        np.testing.assert_allclose(getattr(changed, field), share[:, None] * getattr(nominal, field))


def test_a_simulation_that_diverges_ends_its_episode_and_no_other():
    env, twin = begun(OVER, 3), begun(OVER, 3)
    env._batch.bind("qvel")[1] = 1e12  # in the first step, which MuJoCo's clock alone would not tell
    step, usual = env.step(np.zeros((3, 40))), twin.step(np.zeros((3, 40)))
    np.testing.assert_array_equal(step.info["diverged"], [False, True, False])
    np.testing.assert_array_equal(step.truncated, [False, True, False])
    assert not step.terminated.any()
    assert step.reward[1] == -10.0
    assert step.cost[1, 0] == 1.0
    np.testing.assert_array_equal(step.obs[[0, 2]], usual.obs[[0, 2]])
    assert np.isfinite(step.obs).all()


def test_what_is_asked_wrongly_is_refused_in_one_sentence():
    with pytest.raises(UnknownName, match="Did you mean 'TruelineHandOver-Finger-v0'"):
        make_manipulation("TruelineHandOver-Fingr-v0", 1)
    with pytest.raises(ConfigError, match="0 environments"):
        make_manipulation(OVER, 0)
    with pytest.raises(ConfigError, match="its one cost is cost_finger"):
        make_manipulation(OVER, 1, costs="both")
    env = make_manipulation(DRAWER, 2)
    with pytest.raises(ConfigError, match="before its first reset"):
        env.step(np.zeros((2, 12)))
    env.reset()
    with pytest.raises(ConfigError, match=r"shape \(2, 11\)"):
        env.step(np.zeros((2, 11)))
    bad = np.zeros((2, 12))
    bad[1, 3] = np.nan
    with pytest.raises(ConfigError, match="not a number, in environment 1"):
        env.step(bad)
    with pytest.raises(ConfigError, match="Give a positive number or 2 of them"):
        env.perturb(mass=-1.0)
    with pytest.raises(ConfigError, match="perturbation"):
        env.perturb(wind=1.0)
    with pytest.raises(ConfigError, match=f"not of 2 × {BLOCK}"):
        make_manipulation(BLOCK, 2).load_state_dict(env.state_dict())


@pytest.mark.parametrize("id", FOUR)
def test_a_scene_shows_the_one_that_acts_and_can_be_drawn(id):
    env = begun(id, 2)
    scene = env.scene(1)
    arrows = [shape for shape in scene["shapes"] if shape["kind"] == "arrow"]
    assert len(arrows) == 1
    where = env.rig._egg_joint[1, :2] if id in (OVER, CATCH) else env.task.robot.at_m[:2] - env.rig._arm.joints[1, :2]
    np.testing.assert_allclose(arrows[0]["xy"], where, atol=1e-12)
    assert all({"kind", "xy", "radius", "rot", "colour", "name"} <= set(shape) for shape in scene["shapes"])
    assert len(film_strip([scene, env.scene(0)]).axes) == 2


def test_a_picture_shows_the_block_in_its_colour():
    env = begun(BLOCK, 1)
    try:
        picture = env.render(0, 160, 120, camera="above")
    except NoGraphics:
        pytest.skip("there is no OpenGL here")
    assert picture.shape == (120, 160, 3)
    blue = (picture[..., 2] > 120) & (picture[..., 2] > 1.3 * picture[..., 0])
    rows, columns = np.nonzero(blue)
    # From above, +y is up in the picture and x = 0 in its middle: the block lies at (0, 0.65).
    assert len(rows)
    assert rows.mean() < 50
    assert abs(columns.mean() - 80) < 6
    with pytest.raises(ConfigError, match="fixedfar"):
        env.render(0, 160, 120, camera="behind")
    env.close()


# --- two agents ---


@pytest.mark.parametrize("id", ["TruelineHandOver-Finger-TwoAgents-v0", "TruelineCatchUnderarm-Joint-TwoAgents-v0"])
def test_the_checker_of_multi_agent_worlds_finds_nothing(id):
    check_multi_agent(lambda n, threads=1: make_hand_agents(id, n, threads), steps=80)


def test_each_hand_sees_itself_and_what_is_passed_and_all_share_reward_and_cost():
    for id in HAND_TEAMS:
        one, two = make_manipulation(id.replace("-TwoAgents", ""), 3), make_hand_agents(id, 3)
        whole, parts = one.reset(seeds(3)), two.reset(seeds(3))
        own = 199 if "Catch" in id else 187
        for act in actions(one, 3):
            np.testing.assert_array_equal(parts["giver"], np.delete(whole, slice(own, 2 * own), axis=1))
            np.testing.assert_array_equal(parts["taker"], whole[:, own:])
            np.testing.assert_array_equal(two.state(), whole)
            step = one.step(act)
            half = act.shape[1] // 2
            shared = two.step({"giver": act[:, :half], "taker": act[:, half:]})
            np.testing.assert_array_equal(shared.reward, np.stack([step.reward] * 2, axis=1))
            np.testing.assert_array_equal(shared.cost[:, 1], step.cost)
            whole, parts = step.obs, shared.obs
    with pytest.raises(ConfigError, match="no actions for taker"):
        two.step({"giver": np.zeros((3, 26))})
    with pytest.raises(ConfigError, match=r"\(3, 20\) for giver"):
        two.step({"giver": np.zeros((3, 20)), "taker": np.zeros((3, 26))})
