"""A world that cannot be is refused when it is made, in one line that names what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from trueline.core.errors import ConfigError
from trueline.safety.worlds import WORLDS, World, open_world
from trueline.safety.worlds.agents import POINT
from trueline.safety.worlds.checks import check, refuse_counts
from trueline.safety.worlds.costs import Beyond, Inside, Moving, Touching, TouchingScenery, WrongButton
from trueline.safety.worlds.custom import make_custom
from trueline.safety.worlds.layout import Squares
from trueline.safety.worlds.multi_goal_table import MULTI_GOALS
from trueline.safety.worlds.objects import goal, hazards, pillars, push_box, shrunk, vases
from trueline.safety.worlds.tasks import PressButton, PushToGoal, ReachGoal, RunFar
from trueline.safety.worlds.world import Fade

GOAL = goal(keepout_m=0.305)
FULL = (GOAL, hazards(2), vases(1), pillars(1))


@dataclass(frozen=True)
class Near:
    """A cost of one's own: near a hazard; `form` makes of the distances what is returned."""

    form: str = "bool"
    name: str = "cost_near"
    of: str = "hazards"
    touches: None = None

    def indicator(self, scene):
        d = scene.ground_distance(self.of).min(axis=1)
        near = d < 0.5
        return {
            "bool": near,
            "float": np.where(near, 1.2985, 0.0),  # 0 wherever nothing is near: only the type gives it away
            "whole": near.astype(np.float64),
            "column": near[:, None],
            "one": bool(near.any()),
        }[self.form]


class Changing(Near):
    __hash__ = None


def world(*rules, task=None, things=FULL, **fields):
    return World(POINT, task or ReachGoal(), fields.pop("extent_m", 1.5), things, rules, **fields)


def refused(make, *says):
    with pytest.raises(ConfigError) as error:
        make()
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith(".")
    for what in says:
        assert what in said, said


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([Inside("c", "lava", 0.2)], "cost 'c' is about 'lava', which is not among the things: goal, hazards"),
        ([Touching("c", "lava")], "cost 'c' is about 'lava'"),
        ([Moving("c", "lava")], "cost 'c' is about 'lava'"),
        ([Touching("c", "hazards")], "touching 'hazards', which nothing touches"),
        ([Touching("c", "other")], "cost"),
        ([Moving("c", "pillars")], "which it never does"),
        ([WrongButton("c", "pillars")], "the task chooses none of them"),
        ([TouchingScenery()], "there is none"),
        ([Inside("c", "hazards", 0.2), Touching("c", "vases")], "two costs are called 'c'"),
        ([Inside("goal_met", "hazards", 0.2)], "a cost is called 'goal_met'"),
        ([Inside("diverged", "hazards", 0.2)], "a cost is called 'diverged'"),
        ([Inside("", "hazards", 0.2)], "a cost is called ''"),
        ([Inside("c", "hazards", 0.0)], "radius_m of cost 'c' is 0.0"),
        ([Inside("c", "hazards", float("nan"))], "radius_m of cost 'c' is nan"),
        ([Beyond("c", None)], "x_m of cost 'c' is None"),
        ([Beyond("c", -1.0)], "x_m of cost 'c' is -1.0"),
        ([Beyond("c", 1.0, 0.0)], "y_m of cost 'c' is 0.0"),
        ([Near("float")], "the indicator of cost 'cost_near' is float64 [2]"),
        ([Near("whole")], "Return one boolean for each"),
        ([Near("column")], "bool [2, 1]"),
        ([Near("one")], "is False for 2 environments"),
        ([Near(of="lava")], "asks the scene for 'lava'"),
        ([Near], "is a class"),
        (["cost"], "without name, touches, indicator"),
        ([Changing()], "can change"),
    ],
)
def test_rules(rules, says):
    refused(lambda: world(*rules), says)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": -5}, "steps is -5"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"substeps": True}, "substeps is True"),
        ({"bins": 0}, "bins is 0"),
        ({"lidar": "foo"}, "lidar is 'foo'. Give 'bins' or 'rays'"),
        ({"compass": 1}, "compass is 1"),
        ({"sight_m": 0.0}, "sight_m is 0.0"),
        ({"sight_m": float("inf")}, "sight_m is inf"),
        ({"gain_per_m": -1.0}, "gain_per_m is -1.0"),
        ({"floor_m": 0}, "floor_m is 0"),
        ({"extent_m": 0.0}, "extent_m is 0.0"),
        ({"extent_m": "wide"}, "extent_m is 'wide'"),
        ({"extent_m": 0.3}, "no room for the 'goal', whose keepout is 0.305 m, in a square of ±0.3 m"),
        ({"reward_clip": 0.0}, "reward_clip is 0.0"),
        ({"agent_keepout_m": -0.1}, "agent_keepout_m is -0.1"),
        ({"agent_within": ((1.0, 0.0, -1.0, 1.0),)}, "agent_within has the square (1.0, 0.0, -1.0, 1.0)"),
        ({"agent_within": (0.0, 0.0, 1.0, 1.0)}, "agent_within has the square 0.0"),
        ({"fades": (Fade("lava", 10),)}, "'lava' is to fade"),
        ({"fades": (Fade("goal", 0),)}, "fades is 0"),
        ({"fades": (Fade("goal", 10, "cost_x"),)}, "until 'cost_x'"),
        ({"things": (*FULL, hazards(1))}, "two kinds of thing are called 'hazards'"),
        ({"things": (GOAL, replace(hazards(2), name="puddle"))}, "there are 2 of 'puddle'"),
        ({"things": (GOAL, replace(hazards(1), name="agent"))}, "called 'agent'"),
        ({"things": (GOAL, replace(hazards(2), name="goals"), replace(vases(1), name="goal0"))}, "called 'goal0'"),
        ({"things": (GOAL, hazards(-1))}, "the count of 'hazards' is -1"),
        ({"things": (GOAL, replace(hazards(1), keepout_m=float("nan")))}, "keepout_m of 'hazards' is nan"),
        ({"things": (GOAL, replace(vases(1), turned=False))}, "Give turned=True"),
        ({"things": (GOAL, replace(hazards(2), at=((0.0, 0.0),)))}, "for 2. Give (x, y) for each"),
        ({"things": (GOAL, replace(hazards(1), within=((0.0, 0.0, 0.1, 0.1),)))}, "no room for the 'hazards'"),
        ({"things": (GOAL, "hazards")}, "things holds 'hazards'"),
        ({"things": FULL[1:]}, "the task ReachGoal needs 'goal', which is not among the things: hazards"),
        ({"task": PushToGoal()}, "needs 'push_box'"),
        ({"task": PressButton()}, "needs 'buttons'"),
        ({"task": ReachGoal}, "is a class"),
        ({"task": "goal"}, "without renews"),
        ({"task": ReachGoal(radius_m=-1.0)}, "radius_m of the task ReachGoal is -1.0"),
    ],
)
def test_fields_things_and_tasks(fields, says):
    refused(lambda: world(**fields), says)


@dataclass(frozen=True)
class Own:
    """A task of one's own, the distance to the goal; `wrong` names the part that returns something else, `as_`."""

    wrong: str = ""
    as_: str = ""
    renews: str | None = None
    ends: bool = False
    stages: tuple = ()
    target: None = None
    touches: None = None

    def given(self, part, out):
        if part != self.wrong:
            return out
        return {
            "column": out.reshape(len(out), -1)[:, :1],
            "row": out.reshape(len(out), -1)[:, 0],
            "scalar": 0.0,
            "nan": np.full(out.shape, np.nan),
            "numbers": out.astype(np.float64),
            "whole": out.astype(np.int64),
            "list": out.tolist(),
            "twice": np.concatenate([out, out]),
        }[self.as_]

    def measure(self, scene):
        where = "lava" if self.wrong == "lava" else "goal"
        return self.given("measure", scene.ground_distance(where))

    def achieved(self, scene, now):
        return self.given("achieved", now[:, 0] < 0.3)

    def reward(self, scene, before, now, achieved):
        return self.given("reward", before[:, 0] - now[:, 0] + achieved)


@pytest.mark.parametrize(
    ("wrong", "as_", "says"),
    [
        ("reward", "column", "the reward of the task Own is float64 [2, 1] for 2 environments"),
        ("reward", "scalar", "the reward of the task Own is 0.0 for"),
        ("reward", "nan", "the reward of the task Own is [nan, nan] for a small step"),
        ("reward", "list", "the reward of the task Own is ["),
        ("reward", "twice", "the reward of the task Own is float64 [4] for"),
        ("reward", "whole", "the reward of the task Own is int64 [2] for"),
        ("achieved", "column", "what the task Own has achieved is bool [2, 1] for"),
        ("achieved", "numbers", "what the task Own has achieved is float64 [2] for"),
        ("achieved", "scalar", "what the task Own has achieved is 0.0 for"),
        ("measure", "row", "what the task Own measures is float64 [2] for"),
        ("measure", "twice", "what the task Own measures is float64 [4, 1] for"),
        ("measure", "scalar", "what the task Own measures is 0.0 for"),
        ("lava", "", "the task Own asks the scene for 'lava', which is not there"),
    ],
)
def test_a_task_of_ones_own_is_tried_as_its_rules_are(wrong, as_, says):
    refused(lambda: world(task=Own(wrong, as_)), says)


def test_a_task_of_ones_own_that_holds_is_let_through_and_pays():
    env = open_world("Own-v0", world(task=Own(renews="place"), things=list(FULL)), 2)
    env.reset(np.arange(2, dtype=np.uint32))
    before = env.goal_distance() if hasattr(env, "goal_distance") else env._scene.ground_distance("goal")[:, 0]
    step = env.step(np.ones((2, 2)))
    np.testing.assert_allclose(step.reward, before - env._scene.ground_distance("goal")[:, 0], atol=1e-12)


def test_what_is_derived_from_a_known_task_or_rule_is_tried_too():
    @dataclass(frozen=True)
    class Twice(ReachGoal):
        def reward(self, scene, before, now, achieved):
            return 2.0 * (before - now)

    @dataclass(frozen=True)
    class Deep(Inside):
        def indicator(self, scene):
            return scene.ground_distance(self.of).min(axis=1)

    refused(lambda: world(task=Twice()), "the reward of the task Twice is float64 [2, 1]")
    refused(lambda: world(Deep("c", "hazards", 0.2)), "the indicator of cost 'c' is float64 [2]")


def test_an_agent_is_one_of_the_agents():
    refused(lambda: World("point", RunFar(), 1.0), "agent is 'point'", "POINT")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"extent_m": 0.3}, "no room for the 'goal'"),
        ({"extent_m": 0.35}, "no room for the agent, whose keepout is 0.4 m"),
        ({"rules": [{"name": "c", "kind": "beyond"}]}, "cost 'c' has no x_m"),
        ({"rules": [{"name": "c", "kind": "beyond", "x_m": 1.0, "of": "goal"}]}, "given of, which only 'inside'"),
        ({"rules": [{"name": "c", "kind": "inside", "of": "goal", "x_m": 1.0}]}, "given x_m, which only 'beyond'"),
        ({"rules": [{"name": "diverged", "kind": "inside", "of": "goal"}]}, "a cost is called 'diverged'"),
        ({"rules": [{"name": "c", "kind": "inside", "of": "goal"}] * 2}, "two costs are called 'c'"),
        ({"things": [{"kind": "vases", "radius_m": 0.3}]}, "'vases' is given radius_m, which only 'hazards'"),
        ({"things": [{"kind": "hazards", "name": "puddle", "count": 2}]}, "there are 2 of 'puddle'"),
        ({"num_envs": 2.5}, "asked for 2.5 environments"),
        ({"threads": 0}, "asked for 0 threads. Give threads = 1 or more"),
    ],
)
def test_settings_go_the_same_way(settings, says):
    refused(lambda: make_custom("SafetyCustom-v0", settings.pop("num_envs", 1), **settings), says)


def test_an_agent_without_room_is_no_index_error_in_python_either():
    refused(lambda: open_world("Tight-v0", World(POINT, RunFar(), 0.3), 1), "no room for the agent", "±0.3 m")


@pytest.mark.parametrize(("num_envs", "threads"), [(0, 1), (2.5, 1), (True, 1), ("2", 1), (1, 0), (1, -3), (1, False)])
def test_counts(num_envs, threads):
    refused(lambda: refuse_counts("Any-v0", num_envs, threads), "Any-v0 was asked for", "= 1 or more")


def test_numpy_counts_are_counts():
    refuse_counts("Any-v0", np.int64(2), np.int32(1))


def test_what_holds_is_let_through_and_runs():
    own = world(Near(), Inside("c", "hazards", 0.2), things=list(FULL))
    assert own.things == world().things
    hash(own)
    env = open_world("Own-v0", own, 2, costs="split")
    env.reset(np.arange(2, dtype=np.uint32))
    cost = env.step(np.zeros((2, 2))).cost
    distance = np.array([np.linalg.norm(env.located(i)["hazards"][:, :2] - env.position()[i], axis=1) for i in (0, 1)])
    np.testing.assert_array_equal(cost[:, 0], distance.min(axis=1) < 0.5)
    World(POINT, PushToGoal(), 1.5, (goal(), push_box(POINT)))


def test_every_world_of_the_tables_passes():
    for known in (*WORLDS.values(), *MULTI_GOALS.values()):
        check(known)


def test_squares_with_room_are_those_in_which_the_keepout_fits():
    squares = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.3, 1.0), (-1.0, -2.0, 1.0, 2.0))
    assert shrunk(squares, 0.25) == ((0.25, 0.25, 0.75, 0.75), (-0.75, -1.75, 0.75, 1.75))
    assert Squares.shrunk(squares, 0.25).below == pytest.approx((0.25 / 5.5, 1.0))
    assert Squares.shrunk(squares, 3.0) == Squares(())
