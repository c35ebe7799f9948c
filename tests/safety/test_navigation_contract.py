"""What navigation worlds on MuJoCo and those in the plane promise alike: time, checkpoints, layouts, costs, scenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from navigation_cases import actions, ahead, assert_same_steps, play, seeds, short

from trueline.core.errors import ConfigError, UnknownName
from trueline.rl.check_env import check_env
from trueline.rl.env import Steerable
from trueline.rl.worlds import make
from trueline.safety.worlds import make_world
from trueline.safety.worlds.planar import make_planar

BOTH = ("SafetyPointGoal1-v0", "PlanarPointGoal1-v0")


def physics(env) -> np.ndarray:
    state = env.state_dict()
    return state["physics"] if "physics" in state else state["state"]


@pytest.mark.parametrize(
    "id",
    [
        *("SafetyPointGoal1-v0", "SafetyCarGoal2-v0", "SafetyPointButton2-v0", "SafetyCarPush2-v0"),
        *("SafetyPointCircle2-v0", "SafetyCarRun0-v0"),
        *("PlanarPointGoal1-v0", "PlanarCarGoal2-v0", "PlanarCarCircle1-v0", "PlanarPointRun0-v0"),
    ],
)
def test_the_public_checker_finds_nothing(id):
    check_env(lambda n, threads=1: short(id, n, threads), steps=60)


@pytest.mark.parametrize("id", BOTH)
def test_an_episode_ends_at_its_time_limit_and_the_next_begins_in_the_same_step(id):
    env, longer = short(id, 2, steps=20), make(id, 2)
    env.reset(seeds(0, 1)), longer.reset(seeds(0, 1))
    env.seed_source = lambda n: np.arange(100, 100 + n, dtype=np.uint32)
    acts = actions(20, 2)
    assert not any(step.ended.any() for step in play(env, acts[:19]))
    last = env.step(acts[19])
    assert last.truncated.all()
    assert not last.terminated.any()
    np.testing.assert_array_equal(env.episode_seed, [100, 101])
    np.testing.assert_array_equal(last.obs, make(id, 2).reset(seeds(100, 101)))
    np.testing.assert_array_equal(last.final_obs, play(longer, acts)[-1].obs)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    [
        *("SafetyPointGoal2-v0", "SafetyCarGoal1-v0", "SafetyPointButton2-v0", "SafetyCarPush2-v0"),
        *("SafetyPointCircle1-v0", "SafetyPointRun0-v0"),
        *("PlanarPointGoal2-v0", "PlanarCarGoal1-v0", "PlanarPointCircle1-v0"),
    ],
)
def test_a_resumed_world_goes_on_bit_for_bit(id):
    acts = actions(240, 3)
    whole = short(id, 3, steps=110)  # two episode ends on the way
    whole.perturb(mass=np.array([1.0, 1.5, 0.7]), friction=1.2)
    whole.reset()
    first = play(whole, acts[:137])
    steered = isinstance(whole, Steerable)
    if steered:
        # An agent's own goal is met at once and drawn again; a box's is only moved.
        whole.set_goal(whole.position(), np.array([True, False, False]))
    saved = whole.state_dict()
    rest = play(whole, acts[137:])

    resumed = short(id, 3, steps=110)
    obs = resumed.load_state_dict(saved)
    np.testing.assert_array_equal(obs[steered:], first[-1].obs[steered:])  # row 0 sees its moved goal
    assert_same_steps(play(resumed, acts[137:]), rest)
    np.testing.assert_array_equal(resumed.episode_seed, whole.episode_seed)
    assert resumed.layout(2) == whole.layout(2)
    assert any(step.ended.any() for step in rest)
    assert "Goal" not in id or rest[0].info["goal_met"][0]


@pytest.mark.parametrize("id", BOTH)
def test_a_state_is_arrays_and_json(id):
    env = make(id, 2)
    env.reset(seeds(0, 1))
    assert json.loads(json.dumps(env.state_dict(), default=np.ndarray.tolist))["world"] == id  # else it raises


@pytest.mark.parametrize("id", BOTH)
def test_a_state_of_another_world_is_refused(id):
    state = make(id, 2).state_dict()
    for env in (make(id, 3), make(id.replace("Goal1", "Goal0"), 2)):
        with pytest.raises(ConfigError, match=f"2 × {id}"):
            env.load_state_dict(state)


# --- layouts and goals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "PlanarCarGoal2-v0", "PlanarPointCircle1-v0"])
def test_a_layout_read_back_starts_the_same_episode(id):
    drawn, placed = make(id, 3), make(id, 3)
    start = drawn.reset(seeds(4, 5, 6))
    placed.reset(seeds(0, 1, 6))
    layouts = {i: json.loads(json.dumps(drawn.layout(i))) for i in range(2)}
    np.testing.assert_array_equal(placed.set_layout(layouts), start)
    acts = actions(30, 3)
    np.testing.assert_array_equal(play(drawn, acts)[-1].obs, play(placed, acts)[-1].obs)


@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "PlanarPointGoal2-v0"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hazards": None}, "does not place 'hazards'"),
        ({"hazards": [[0, 0]] * 9}, "'hazards'.*10 pairs"),
        ({"gremlins": [[0, 0]]}, "no 'gremlins'"),
        ({"goal": [[np.inf, 0]]}, "'goal' is not finite"),
        ({"goal": "north"}, "'goal'"),
        ({"agent": "where the hazards are"}, r"inside hazards\[0\]"),
        ({"agent": "where the vases are"}, r"touching vases\[0\]"),
    ],
)
def test_an_impossible_layout_is_refused_by_name(id, change, said):
    env = make(id, 1)
    env.reset(seeds(0))
    drawn, before = env.layout(0), physics(env)
    for kind in ("hazards", "vases"):
        if change.get("agent") == f"where the {kind} are":
            change = {"agent": drawn[kind][:1]}
    layout = {key: value for key, value in {**drawn, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        env.set_layout({0: layout})
    np.testing.assert_array_equal(physics(env), before)


@pytest.mark.parametrize(("id", "rounding"), [*zip(BOTH, (1e-9, 1e-6), strict=True)])
def test_moving_a_goal_is_no_progress(id, rounding):
    env = make(id, 2)
    env.reset(seeds(0, 1))
    before = env.goal_distance()
    env.set_goal(env.position() + [[3.0, 4.0]], np.array([True, False]))
    np.testing.assert_allclose(env.goal_distance(), [5.0, before[1]], rtol=rounding)
    np.testing.assert_allclose(env.step(np.zeros((2, 2))).reward, 0.0, atol=rounding)


# --- costs and scenes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "n", "turns"),
    [
        ("SafetyPointGoal2-v0", 6, (-0.4, 0.4)),
        ("PlanarPointGoal2-v0", 64, (-0.6, 1.0)),
        ("PlanarCarGoal1-v0", 64, (-0.6, 1.0)),
        ("PlanarPointCircle2-v0", 64, (-0.6, 1.0)),
        ("PlanarCarRun0-v0", 64, (-0.6, 1.0)),
    ],
)
def test_the_sum_is_the_indicator_of_any_split_cost(id, n, turns):
    summed, split = (make(id, n, costs=costs) for costs in ("sum", "split"))
    assert summed.costs == ("cost_sum",)
    start = np.arange(n, dtype=np.uint32)
    summed.reset(start), split.reset(start)
    # Forward, each agent turning at a rate of its own, until some have met everything that costs.
    acts = np.column_stack([np.ones(n), np.linspace(*turns, n)])
    seen = np.zeros(len(split.costs))
    for _ in range(150):
        one, many = summed.step(acts), split.step(acts)
        assert set(np.unique(many.cost)) <= {0.0, 1.0}
        np.testing.assert_array_equal(one.cost[:, 0], many.cost.any(axis=1))
        for k, name in enumerate(split.costs):
            np.testing.assert_array_equal(many.cost[:, k], one.info[name])
        seen += many.cost.sum(axis=0)
    assert (seen > 0).all(), "every kind of cost must have occurred for this to say anything"


@pytest.mark.parametrize(
    ("id", "shapes"),
    [
        ("SafetyPointGoal2-v0", {"disc": 11, "square": 10, "arrow": 1}),
        ("SafetyCarGoal2-v0", {"disc": 11, "square": 10, "arrow": 1}),
        ("PlanarPointGoal2-v0", {"disc": 21, "arrow": 1}),
        ("PlanarCarGoal1-v0", {"disc": 10, "arrow": 1}),
        ("PlanarPointCircle0-v0", {"disc": 1, "arrow": 1}),
    ],
)
def test_a_scene_shows_every_object_and_where_the_agent_heads(id, shapes):
    env = make(id, 1)
    env.reset(seeds(0))
    play(env, [ahead(env)] * 30)
    before = env.position()[0]
    env.step(ahead(env))
    scene = json.loads(json.dumps(env.scene(0)))
    kinds = [shape["kind"] for shape in scene["shapes"]]
    assert {kind: kinds.count(kind) for kind in kinds} == shapes
    assert kinds[-1] == "arrow"
    way, heading = env.position()[0] - before, scene["shapes"][-1]["rot"]
    assert way @ [np.cos(heading), np.sin(heading)] > 0.95 * np.linalg.norm(way) > 0


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "id"), [*zip((make_world, make_planar), BOTH, strict=True)])
def test_an_unknown_id_is_refused_with_the_nearest(maker, id):
    with pytest.raises(UnknownName, match=id):
        maker(id.replace("Point", "Piont"), 1)


@pytest.mark.parametrize("id", BOTH)
def test_what_costs_nothing_cannot_be_split(id):
    with pytest.raises(ConfigError, match="no constraint"):
        make(id.replace("Goal1", "Goal0"), 1, costs="split")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("id", BOTH)
def test_an_action_that_is_no_number_is_refused_with_its_environment_and_nothing_moves(id, bad):
    env = make(id, 3)
    env.reset(seeds(0, 1, 2))
    before = physics(env)
    # In the actuators' own units an infinite number is clipped, as the original clips it.
    native = [env.step_native] if hasattr(env, "step_native") and np.isnan(bad) else []
    for step in (env.step, *native):
        with pytest.raises(ConfigError, match="in environment 1"):
            step(np.array([[0.0, 1.0], [bad, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(physics(env), before)
