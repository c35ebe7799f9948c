"""The velocity worlds against safety-gymnasium 1.0.0 (golden/velocity.json) and Gymnasium on the same MuJoCo."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import warnings
from pathlib import Path

import gymnasium
import mujoco
import numba
import numpy as np
import pytest
from navigation_cases import seeds

from trueline.core.errors import ConfigError, UnknownName
from trueline.rl.check_env import check_env
from trueline.rl.env import Perturbable, Stateful, Visible
from trueline.rl.filmstrip import film_strip, png
from trueline.safety.catalogue import worlds as catalogue
from trueline.safety.worlds import velocity_step as arithmetic
from trueline.safety.worlds.render import NoGraphics
from trueline.safety.worlds.velocity import VelocityWorlds, make_velocity
from trueline.safety.worlds.velocity_agents import SCENARIOS, TEAMS
from trueline.safety.worlds.velocity_runners import RUNNERS, VELOCITY, compiled

GOLDEN = json.loads((Path(__file__).parent / "golden" / "velocity.json").read_text())["alone"]
MOVING = [id for id in GOLDEN if "episodes" in GOLDEN[id]]
TWELVE_DIGITS = 1e-11  # as which the golden steps are written, of numbers up to 10

# RK4 has become more accurate for free joints since MuJoCo 2.3.3 (rotations are now combined to fourth order, and the
# four stages' solvers start alike), so bodies with one part: by these amounts over four control steps of the first
# five seeds, in which the Ant lands and the Humanoid begins to. The others are the same but for rounding.
SAME_PHYSICS = {"Ant": 3e-3, "Humanoid": 5e-6}


def pattern(size: int) -> np.ndarray:
    """The action of the golden steps."""
    return np.resize([0.3, -0.2, 0.1, 0.25], size)


def v1(name: str) -> str:
    return f"Safety{name}Velocity-v1"


def pushed(env: VelocityWorlds, *pushes: tuple[float, float]) -> None:
    """Start every environment from seed 0, and give its first two joints these velocities."""
    env.reset(seeds(*[0] * env.num_envs))
    state = env.state_dict()
    first = 1 + env.model.nq  # a state row holds time, positions, velocities
    state["physics"][:, first : first + 2] = pushes
    env.load_state_dict(state)


# --- the original -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", GOLDEN)
def test_thresholds_steps_and_actuators_are_the_peers(id):
    golden, env = GOLDEN[id], make_velocity(id, 1)
    assert VELOCITY[id].threshold_m_per_s == golden["threshold"]
    assert env.max_episode_steps == golden["steps"]
    np.testing.assert_allclose(
        env.model.actuator_ctrlrange, [[-golden["high"], golden["high"]]] * env.model.nu, rtol=1e-7
    )


@pytest.mark.parametrize("id", MOVING)
def test_starts_are_the_peers(id):
    episodes = GOLDEN[id]["episodes"]
    ours = make_velocity(id, len(episodes)).reset(np.arange(len(episodes), dtype=np.uint32))
    joints = 45 if "Humanoid" in id else ours.shape[1]
    golden = np.array([episode["reset"] for episode in episodes])
    np.testing.assert_array_equal(ours[:, :joints], golden[:, :joints])
    np.testing.assert_allclose(ours, golden, rtol=0, atol=1e-14)  # inertias about the centre of mass, of order 1


@pytest.mark.parametrize("id", MOVING)
def test_first_steps_are_the_peers(id):
    episodes = GOLDEN[id]["episodes"]
    env = make_velocity(id, len(episodes))
    env.reset(np.arange(len(episodes), dtype=np.uint32))
    same = SAME_PHYSICS.get(env.task.runner.name, TWELVE_DIGITS)
    for t in range(4):
        step = env.step(np.tile(pattern(env.model.nu), (len(episodes), 1)))
        for i, episode in enumerate(episodes):
            kept = len(episode["obs"][t])
            np.testing.assert_allclose(step.final_obs[i, :kept], episode["obs"][t], rtol=0, atol=same)
            np.testing.assert_allclose(step.reward[i], episode["reward"][t], rtol=0, atol=same)
            assert step.cost[i, 0] == episode["cost"][t]
            assert step.terminated[i] == episode["terminated"][t]


@pytest.mark.parametrize("name", RUNNERS)
def test_two_solids_touch_as_far_apart_as_in_the_bodys_file(name):
    # There each had the margin at which the pair touched; now the margins of the pair are added.
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = mujoco.MjSpec.from_file(str(assets / RUNNERS[name].file)).compile()
    margin = compiled(name).geom_margin
    np.testing.assert_array_equal(margin[:, None] + margin, np.maximum(file.geom_margin[:, None], file.geom_margin))


@pytest.mark.parametrize("name", SAME_PHYSICS)
def test_before_they_land_bodies_with_a_free_joint_move_as_the_peers_to_a_millionth(name):
    episodes = GOLDEN[v1(name)]["episodes"]
    env = make_velocity(v1(name), len(episodes))
    env.reset(np.arange(len(episodes), dtype=np.uint32))
    step = env.step(np.tile(pattern(env.model.nu), (len(episodes), 1)))
    for i, episode in enumerate(episodes):
        np.testing.assert_allclose(step.obs[i, :27], episode["obs"][0][:27], rtol=0, atol=2e-6)
        assert step.reward[i] == pytest.approx(episode["reward"][0], abs=2e-7)


@pytest.mark.parametrize("id", GOLDEN)
def test_what_counts_as_speed_is_the_peers(id):
    # Pushed along x, against x, along the second joint (y for the planar bodies, z for the others), not at all.
    golden = GOLDEN[id]["pushed"]
    env = make_velocity(id, len(golden))
    pushed(env, *(row["push"] for row in golden))
    step = env.step(np.zeros((len(golden), env.model.nu)))
    assert step.cost[:, 0].tolist() == [row["cost"] for row in golden]
    assert {0.0, 1.0} == {row["cost"] for row in golden}
    np.testing.assert_allclose(step.reward, [row["reward"] for row in golden], atol=1e-6)
    assert step.terminated.tolist() == [row["terminated"] for row in golden]


def test_the_half_cheetah_gives_the_printed_rewards():
    env = make_velocity(v1("HalfCheetah"), 1)
    env.reset(seeds(0))
    rewards = [env.step(np.full((1, 6), 0.3)).reward[0] for _ in range(3)]
    np.testing.assert_allclose(rewards, [0.25439, 0.49371, 0.27925], atol=5.1e-6)


# --- Gymnasium on the same engine -------------------------------------------------------------------------------------


def theirs(name: str):
    """Gymnasium's own environment, its margins such that two in contact add up to what they were before."""
    module = importlib.import_module(f"gymnasium.envs.mujoco.{RUNNERS[name].file.removesuffix('.xml')}_v4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = getattr(module, f"{name}Env")()
    env.model.geom_margin[:] /= 2
    return env


@pytest.mark.parametrize("name", RUNNERS)
def test_observations_are_gymnasiums_bit_for_bit_and_so_is_how_an_episode_ends(name):
    env, gym_env, rng = make_velocity(v1(name), 3), theirs(name), np.random.default_rng(3)
    first = env.reset(seeds(7, 12, 3))[1]
    gym_env.reset(seed=12)
    motion = env.state_dict()["physics"][1, 1 : 1 + env.model.nq + env.model.nv]
    gym_env.set_state(*np.split(motion, [env.model.nq]))  # the same, but that its quaternion is normalised
    np.testing.assert_array_equal(first, gym_env._get_obs())
    high = env.model.actuator_ctrlrange[:, 1]
    for _ in range(1000 if env.task.runner.healthy else 100):
        action = rng.uniform(-1.0, 1.0, (3, env.model.nu))
        step = env.step(action)
        obs, reward, terminated, _, info = gym_env.step(high * action[1])
        np.testing.assert_array_equal(step.final_obs[1], obs)
        assert step.reward[1] == pytest.approx(reward, abs=1e-14)
        assert step.info["x_velocity"][1] == pytest.approx(info["x_velocity"], abs=1e-14)
        assert step.terminated[1] == terminated
        if terminated:
            break
    assert terminated == bool(env.task.runner.healthy), "the random episode should have ended where it can"


@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper"])  # normal and uniform noise of the velocities
def test_episodes_begun_without_a_seed_go_on_with_gymnasiums_random_numbers(name):
    env, gym_env = make_velocity(v1(name), 2), theirs(name)
    env.autoreset = False
    env.reset(seeds(8, 9))
    gym_env.reset(seed=9)
    for _ in range(3):
        np.testing.assert_array_equal(env.begin(np.array([1]))[1], gym_env.reset()[0])
    kept = env.state_dict()
    following = env.begin(np.array([1]))[1]
    twin = make_velocity(v1(name), 2)
    twin.load_state_dict(kept)
    np.testing.assert_array_equal(twin.begin(np.array([1]))[1], following)
    np.testing.assert_array_equal(gym_env.reset()[0], following)


def test_without_autoreset_an_ended_episode_stays_until_it_is_begun():
    env = short("Swimmer", steps=2)(2)
    env.autoreset = False
    env.reset(seeds(0, 1))
    still = np.zeros((2, 2))
    env.step(still)
    last = env.step(still)
    assert last.truncated.all()
    assert last.obs is last.final_obs
    assert env.episode_seed.tolist() == [0, 1]
    obs = env.begin(np.array([1]), seeds(5))
    np.testing.assert_array_equal(obs[0], last.final_obs[0])
    np.testing.assert_array_equal(obs[1], make_velocity(v1("Swimmer"), 1).reset(seeds(5))[0])
    assert env.episode_seed.tolist() == [0, 5]
    with pytest.raises(ConfigError, match="before its first reset"):
        make_velocity(v1("Swimmer"), 2).begin(np.array([1]), seeds(5))


@pytest.mark.parametrize("name", ["HalfCheetah", "Humanoid"])
def test_native_actions_are_gymnasiums_beyond_the_range_too(name):
    env, gym_env = make_velocity(v1(name), 2), theirs(name)
    assert env.native_action_space == gym_env.action_space
    first = env.reset(seeds(0, 3))
    motion = env.state_dict()["physics"][1, 1 : 1 + env.model.nq + env.model.nv]
    gym_env.reset(seed=3)
    gym_env.set_state(*np.split(motion, [env.model.nq]))
    np.testing.assert_array_equal(first[1], gym_env._get_obs())
    for size in (0.3, 3.0):  # the second is clipped by the actuators, but its cost is not
        action = size * pattern(env.model.nu) / 0.3
        step, (obs, reward, *_) = env.step_native(np.tile(action, (2, 1))), gym_env.step(action)
        np.testing.assert_array_equal(step.obs[1], obs)
        assert step.reward[1] == pytest.approx(reward, abs=1e-12)
    with pytest.raises(ConfigError, match="NaN, in environment 0"):
        env.step_native(np.full((2, env.model.nu), np.nan))


# --- the arithmetic of a step -----------------------------------------------------------------------------------------


def situation(planar: bool):
    """Three environments after a step of 0.05 s: too fast, fallen, and one whose clock was put back."""
    low, high = np.array([-1.0, 0.2]), np.array([1.0, 0.9])
    motion = np.array([[0.0, 0.5], [0.0, 0.1], [0.0, 0.5]])
    ctrl = np.array([[1.0, -2.0], [0.0, 0.0], [0.0, 0.0]])
    place = np.array([[1.3, 0.4], [0.0, 0.0], [0.0, 0.0]])[:, : 1 + planar]
    before = np.array([[1.0, 0.0], [0.05, 0.0], [0.0, 0.0]])[:, : 1 + planar]
    time, clock = np.array([0.05, 0.1, 0.02]), np.array([0.0, 0.05, 0.05])
    elapsed = np.array([9, 3, 3])
    return motion, low, high, ctrl, place, before, time, clock, elapsed


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("rule", "speed"), [(0, 6.0), (1, 6.0), (2, 10.0)])
def test_a_step_is_judged_as_the_formulas_say(rule, speed, compiled):
    # vₓ = 0.3/0.05 = 6, v_y = 0.4/0.05 = 8, Σu² = 5; reward = 2·6 + 1 − 0.1·5.
    judge = arithmetic.fast(arithmetic.judge) if compiled else arithmetic.judge
    for threshold in (speed - 1e-9, speed + 1e-9):
        given = situation(planar=True)
        told, flags = np.full((7, 3), np.nan), np.zeros((3, 3), np.bool_)
        assert judge(0.05, 0.045, 2.0, 1.0, 0.1, threshold, rule, 10, *given, told, flags)
        np.testing.assert_allclose(told[:, 0], [12.5, speed > threshold, -0.5, 6.0, 8.0, 1.3, 0.4])
        assert told[0].tolist()[1:] == [pytest.approx(2.0 * -1.0 + 1.0), -10.0]
        assert told[1].tolist()[1:] == [0.0, 1.0]
        assert flags.tolist() == [[False, True, False], [True, False, True], [False, False, True]]
        *_, before, time, clock, elapsed = given
        assert elapsed.tolist() == [10, 4, 4]
        np.testing.assert_array_equal(clock, time)
        np.testing.assert_array_equal(before, given[4])


def test_running_backwards_is_slow_only_for_the_forward_rule():
    given = situation(planar=False)
    given[4][:] = 2 * given[5] - given[4]  # the same way back
    for rule, cost in ((0, 0.0), (1, 1.0)):
        told = np.empty((5, 3))
        arithmetic.judge(
            0.05,
            0.045,
            1.0,
            0.0,
            0.0,
            5.0,
            rule,
            10,
            *situation(False)[:4],
            given[4],
            *situation(False)[5:],
            told,
            np.zeros((3, 3), bool),
        )
        assert told[1, 0] == cost


@pytest.mark.parametrize("compiled", [False, True])
def test_driving_clips_and_rescales_and_refuses_what_is_no_number(compiled):
    drive = arithmetic.fast(arithmetic.drive) if compiled else arithmetic.drive
    ctrl, reach = np.zeros((2, 3)), np.array([0.4, 1.0, 2.0])
    assert drive(reach, ctrl, np.array([[0.5, -3.0, 1.0], [math.inf, 0.0, -0.5]])) == -1
    np.testing.assert_array_equal(ctrl, [[0.2, -1.0, 2.0], [0.4, 0.0, -1.0]])
    assert drive(reach, ctrl, np.array([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]])) == 1
    np.testing.assert_array_equal(ctrl, [[0.2, -1.0, 2.0], [0.4, 0.0, -1.0]])


@pytest.mark.parametrize("compiled", [False, True])
def test_the_centre_of_mass_is_the_weighted_mean(compiled):
    centre = arithmetic.fast(arithmetic.centre) if compiled else arithmetic.centre
    rng = np.random.default_rng(0)
    mass, parts, place = rng.uniform(size=5), rng.normal(size=(4, 5, 3)), np.zeros((4, 2))
    centre(mass, parts, place)
    np.testing.assert_allclose(place, np.average(parts[:, :, :2], axis=1, weights=mass), atol=1e-15)


def test_it_compiles_too_where_nothing_can_be_kept_on_disk(monkeypatch):
    compile = numba.njit

    def without_a_place(signature, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile(signature)

    monkeypatch.setattr(numba, "njit", without_a_place)
    drive, ctrl = arithmetic.fast.__wrapped__(arithmetic.drive), np.zeros((1, 2))
    assert drive(np.array([0.4, 1.0]), ctrl, np.array([[2.0, -0.5]])) == -1
    np.testing.assert_array_equal(ctrl, [[0.4, -0.5]])


# --- the contract -----------------------------------------------------------------------------------------------------


def short(name: str, steps: int = 30):
    """The world with episodes of a few steps, as a factory."""
    task = dataclasses.replace(VELOCITY[v1(name)], steps=steps)
    return lambda num_envs, threads=1: VelocityWorlds(name, task, num_envs, threads)


@pytest.mark.parametrize("name", RUNNERS)
def test_every_body_keeps_the_contract(name):
    check_env(short(name), steps=60)


def test_an_episode_is_cut_off_after_its_steps():
    env = short("Swimmer", steps=3)(2)
    env.reset(seeds(0, 1))
    ends = [env.step(np.zeros((2, 2))).truncated.tolist() for _ in range(6)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2] * 2


def test_its_cost_has_the_name_that_was_asked_for():
    for costs, name in (("sum", "cost_sum"), ("split", "cost_velocity")):
        env = make_velocity(v1("Swimmer"), 2, costs=costs)
        assert env.costs == (name,)
        pushed(env, (5.0, 0.0), (0.0, 0.0))
        step = env.step(np.zeros((2, 2)))
        assert step.cost.tolist() == [[1.0], [0.0]]
        np.testing.assert_array_equal(step.info["cost_velocity"], step.cost[:, 0])


def test_info_tells_what_the_reward_is_made_of():
    env = make_velocity(v1("Ant"), 2)
    env.reset(seeds(0, 1))
    before = env.state_dict()["place"]
    action = np.array([pattern(8), -pattern(8)])
    step = env.step(action)
    info = step.info
    assert set(info) == {
        "cost_velocity",
        "reward_ctrl",
        *("x_velocity", "y_velocity", "x_position", "y_position"),
        "diverged",
    }
    np.testing.assert_allclose(info["reward_ctrl"], -0.5 * np.square(action).sum(axis=1))
    np.testing.assert_allclose(step.reward, info["x_velocity"] + 1.0 + info["reward_ctrl"])
    moved = np.column_stack([info["x_position"], info["y_position"]]) - before
    np.testing.assert_allclose(moved / 0.05, np.column_stack([info["x_velocity"], info["y_velocity"]]))


def test_a_diverged_simulation_ends_and_leaves_the_others_alone():
    env, calm = make_velocity(v1("HalfCheetah"), 3), make_velocity(v1("HalfCheetah"), 3)
    calm.reset(seeds(0, 1, 2))
    env.reset(seeds(0, 1, 2))
    for world in (calm, env):
        world.step(np.full((3, 6), 0.2))
    state = env.state_dict()
    state["physics"][1, 1 + env.model.nq :][: env.model.nv] = 1e12
    env.load_state_dict(state)
    step, other = env.step(np.full((3, 6), 0.2)), calm.step(np.full((3, 6), 0.2))
    assert step.info["diverged"].tolist() == [False, True, False]
    assert (step.reward[1], step.cost[1, 0], step.truncated[1], step.terminated[1]) == (-10.0, 1.0, True, False)
    assert not step.truncated[[0, 2]].any()
    np.testing.assert_array_equal(step.obs[[0, 2]], other.obs[[0, 2]])
    np.testing.assert_array_equal(step.reward[[0, 2]], other.reward[[0, 2]])
    assert np.isfinite(step.final_obs).all()
    fresh = make_velocity(v1("HalfCheetah"), 1).reset(env.episode_seed[1:2])
    np.testing.assert_array_equal(step.obs[1], fresh[0])


def test_the_catalogue_tells_the_thresholds():
    # It imports nothing heavy, so it has the numbers a second time.
    assert {entry.name for entry in catalogue.VELOCITY} == set(VELOCITY)
    for entry in catalogue.VELOCITY:
        assert entry.summary.endswith(f" not faster than {VELOCITY[entry.name].threshold_m_per_s} m/s")
    assert {entry.name for entry in catalogue.TEAMS} == set(TEAMS)
    for entry in catalogue.TEAMS:
        body, conf = TEAMS[entry.name]
        assert f": {len(SCENARIOS[body].teams[conf])} agents " in entry.summary
        assert entry.summary.endswith(f" not faster than {SCENARIOS[body].thresholds_m_per_s[conf]} m/s")


def test_bad_input_is_named():
    env = make_velocity(v1("Hopper"), 2)
    with pytest.raises(ConfigError, match="before its first reset"):
        env.step(np.zeros((2, 3)))
    env.reset(seeds(0, 1))
    before = env.state_dict()["physics"]
    with pytest.raises(ConfigError, match=r"shape \(2, 4\). It takes \(2, 3\)"):
        env.step(np.zeros((2, 4)))
    with pytest.raises(ConfigError, match="NaN, in environment 1"):
        env.step(np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]]))
    np.testing.assert_array_equal(env.state_dict()["physics"], before)
    with pytest.raises(ConfigError, match="for 2 episodes"):
        env.reset(seeds(0, 1, 2))
    with pytest.raises(UnknownName, match="SafetyHopperVelocity-v1"):
        make_velocity("SafetyHoperVelocity-v1", 2)
    with pytest.raises(ConfigError, match="num_envs = 1 or more"):
        make_velocity(v1("Hopper"), 0)
    with pytest.raises(ConfigError, match="cost_velocity"):
        make_velocity(v1("Hopper"), 1, costs="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 × SafetyHopperVelocity-v1, not of 2"):
        env.load_state_dict(make_velocity(v1("Hopper"), 3).state_dict())


def test_it_offers_state_dynamics_and_pictures():
    env = make_velocity(v1("Ant"), 1)
    assert isinstance(env, Stateful)
    assert isinstance(env, Perturbable)
    assert isinstance(env, Visible)


# --- dynamics ---------------------------------------------------------------------------------------------------------


def way(env: VelocityWorlds, actions: np.ndarray, steps: int = 20) -> np.ndarray:
    env.reset(seeds(*range(env.num_envs)))
    return np.array([env.step(actions).final_obs for _ in range(steps)])


def test_twice_the_gear_with_half_the_action_moves_alike():
    env = make_velocity(v1("HalfCheetah"), 2)
    action = np.array([pattern(6), -pattern(6)])
    nominal = way(env, action)
    env.perturb(gear=np.array([2.0, 1.0]))
    half = way(env, action * [[0.5], [1.0]])
    np.testing.assert_array_equal(half, nominal)  # powers of two are exact


@pytest.mark.parametrize("name", ["HalfCheetah", "Swimmer", "Humanoid"])
@pytest.mark.parametrize("dynamics", VelocityWorlds.perturbations)
def test_each_perturbation_acts_where_it_is_asked_for_and_one_restores(name, dynamics):
    env = make_velocity(v1(name), 2)
    action = np.tile(pattern(env.model.nu), (2, 1))
    nominal = way(env, action)
    env.perturb(**{dynamics: np.array([1.0, 1.5])})
    changed = way(env, action)
    np.testing.assert_array_equal(changed[:, 0], nominal[:, 0])
    assert (changed[:, 1] != nominal[:, 1]).any()
    env.perturb(**{dynamics: 1.0})
    np.testing.assert_array_equal(way(env, action), nominal)


def test_water_slows_a_swimmer_less_the_heavier_it_is_or_the_thinner_the_water():
    env = make_velocity(v1("Swimmer"), 3)
    env.perturb(mass=np.array([1.0, 1e6, 1.0]), friction=np.array([1.0, 1.0, 1e-9]))
    pushed(env, *[(1.0, 0.0)] * 3)
    speed = [env.step(np.zeros((3, 2))).info["x_velocity"] for _ in range(20)][-1]
    assert speed[0] < 0.5
    np.testing.assert_allclose(speed[1:], 1.0, atol=0.02)


def test_unknown_dynamics_and_scales_that_are_none_are_refused():
    env = make_velocity(v1("Hopper"), 2)
    with pytest.raises(ConfigError, match="'friction'"):
        env.perturb(frictions=1.0)
    with pytest.raises(ConfigError, match="positive number or 2 of them"):
        env.perturb(mass=np.array([1.0, -1.0]))


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNNERS)
def test_a_scene_shows_the_body_where_it_is_with_marks_at_whole_metres(name):
    env = make_velocity(v1(name), 2)
    pushed(env, (0.0, 0.0), (3.0, 0.0))
    env.step(np.zeros((2, env.model.nu)))
    scene = env.scene(1)
    arrow, marks = scene["shapes"][-1], [shape for shape in scene["shapes"] if shape["kind"] == "square"]
    discs = [shape for shape in scene["shapes"] if shape["kind"] == "disc"]
    qpos = env.state_dict()["physics"][1, 1:]
    assert arrow["kind"] == "arrow"
    assert arrow["xy"][0] == 0.0
    assert abs(arrow["rot"]) < 0.3  # it looks along x
    whole = (np.array([mark["xy"][0] for mark in marks]) + qpos[0]) % 1.0
    np.testing.assert_allclose(np.minimum(whole, 1.0 - whole), 0.0, atol=1e-9)
    seen = np.array([shape["xy"] for shape in discs])
    assert len(discs) >= env.model.nbody - 1
    assert np.abs(seen).max() < scene["extent"]
    if name != "Swimmer":  # from the side, where the ground is a metre below the middle
        lowest = min(shape["xy"][1] - shape["radius"] for shape in discs)
        assert lowest > -1.1
        assert {mark["xy"][1] for mark in marks} == {-1.0}
    assert png(film_strip([env.scene(0), scene])).startswith(b"\x89PNG")


def test_a_picture_goes_along_with_the_body_or_there_is_advice():
    env = make_velocity(v1("Hopper"), 2)
    pushed(env, (0.0, 0.0), (0.0, 0.0))
    state = env.state_dict()
    state["physics"][1, 1] += 0.7  # the second is further along the way
    env.load_state_dict(state)
    try:
        picture = env.render(0, 64, 48)
    except NoGraphics as advice:
        assert "libosmesa6" in str(advice)  # noqa: PT017
        return
    assert picture.shape == (48, 64, 3)

    def middle(i: int, camera: str) -> float:
        """The column in which the body is seen on average."""
        seen = env.render(i, 64, 48, camera, mode="segmentation")
        solid = (seen[:, :, 1] == int(mujoco.mjtObj.mjOBJ_GEOM)) & (seen[:, :, 0] > 0)  # the floor is geom 0
        return float(np.nonzero(solid)[1].mean())

    assert middle(1, "fixednear") > middle(0, "fixednear") + 5
    assert middle(1, "fixedfar") > middle(0, "fixedfar") + 2
    assert abs(middle(1, "track") - middle(0, "track")) < 1
    with pytest.raises(ConfigError, match="track"):
        env.render(0, 64, 48, "ceiling")
    env.close()
