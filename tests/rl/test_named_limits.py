"""Limits by the names of the costs: what they come to, in every loop, and what is said of a table that does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.evidence.records import Estimate, Evidence, Principle, Requirement, Verdict
from trueline.rl.audits.ethicality import EpisodeCost, EpisodeCostConfig
from trueline.rl.handlers.schedule import Calibrated, Limits, Linear, Steps
from trueline.rl.on_policy import Constrained
from trueline.rl.responses import Loosen
from trueline.rl.teams.limits import team_limits, team_path
from trueline.safety.recipes import offline
from trueline.safety.recipes.off_policy import SAC_LAG
from trueline.safety.recipes.planning import CCE_PETS
from trueline.safety.recipes.ppo import PPO_LAG

FOUNDRY = "Cmdp-Foundry-v0"  # costs: wear, noise
PAIR = SimpleNamespace(agents=("x", "y"), costs=("a", "b"), id="pair")


def limits(cost_limit, names=("hazards", "vases")):
    return Limits.of(cost_limit, names, "world")


@settings(max_examples=30, deadline=None)
@given(st.permutations(["a", "b", "c"]), st.lists(st.floats(0, 1e6), min_size=3, max_size=3))
def test_a_table_is_the_list_in_the_worlds_order_whatever_its_own(order, values):
    by_name = dict(zip(order, values, strict=True))
    in_order = tuple(by_name[name] for name in "abc")
    assert limits(by_name, tuple("abc")).final == limits(in_order, tuple("abc")).final


def test_limits_on_the_way_have_names_too():
    line = limits(Linear(start={"vases": 4.0, "hazards": 10.0}, end=2.0))
    assert line.at(0.5).tolist() == [6.0, 3.0]
    steps = limits(Steps(values=(7.0, {"hazards": 1.0, "vases": 2.0}), at=(0.5,)))
    assert steps.final == {"hazards": 1.0, "vases": 2.0}


@pytest.mark.parametrize("row", [PPO_LAG, SAC_LAG, offline.BCQ_LAG, CCE_PETS], ids=lambda row: row.name)
def test_every_loop_takes_limits_by_name(row):
    config = build(row.Config, {"env": FOUNDRY, "cost_limit": {"noise": 2, "wear": 1.5}})
    assert row.limits(config) == {"wear": 1.5, "noise": 2.0}
    assert list(row.limits(config)) == ["wear", "noise"]


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"hazard": 10.0, "vases": 1.0}, r"for 'hazard', but world reports hazards, vases\. Did you mean 'hazards'"),
        ({}, "no limit for hazards, vases"),
        ({"hazards": 10.0}, r"no limit for vases, but world reports hazards, vases\. Give one for each"),
        ({"hazards": 10.0, "vases": -1.0}, "cost_limit is -1.0"),
        (Linear(start={"hazards": 1.0}, end=1.0), "no limit for vases"),
        (float("inf"), r"cost_limit is inf.*Give a finite limit of 0 or more"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused_with_the_worlds_names(given_, says):
    with pytest.raises(ConfigError, match=says) as raised:
        limits(given_)
    assert "split" not in str(raised.value)


def test_a_world_that_counts_all_as_one_says_how_to_tell_costs_apart():
    with pytest.raises(ConfigError, match=r"'hazards', but world reports cost_sum\..*env_options\.costs=split"):
        limits({"hazards": 10.0}, ("cost_sum",))
    assert limits({"cost_sum": 10.0}, ("cost_sum",)).final == {"cost_sum": 10.0}


def test_settings_of_a_moving_limit_are_not_taken_for_costs():
    def set_to(given_):
        return build(Constrained, {"cost_limit": given_}).cost_limit

    assert set_to({"start": 4.0, "end": 1.0}) == Linear(start=4.0, end=1.0)  # its kind may be left out
    assert set_to({"run": "run://free"}) == Calibrated(run="run://free")
    assert set_to({"end": 4.0, "hazards": 1.0}) == {"end": 4.0, "hazards": 1.0}
    for wrong, says in (
        ({"share": 0.5}, r"cost_limit\.run is required"),
        ({"start": 0.5}, r"cost_limit\.end is required"),
        ({"hazards": "ten"}, r"cost_limit\.hazards is 'ten', but should be a valid number"),
        ({"begin": 0.5}, "the limit of each cost by its name, or all that a limit of some `kind` needs"),
    ):
        with pytest.raises(ConfigError, match=says):
            set_to(wrong)


def test_the_command_line_names_a_cost_by_a_dotted_key():
    config = build(Constrained, {}, ["cost_limit.hazards=10", "cost_limit.vases=1.5"])
    assert config.cost_limit == {"hazards": 10.0, "vases": 1.5}


# --- teams ---


def test_a_teams_cost_is_everyones_unless_an_agent_has_its_own():
    assert team_limits({"b": 2.0, "a": 1.0}, PAIR) == {"x/a": 1.0, "x/b": 2.0, "y/a": 1.0, "y/b": 2.0}
    own = team_limits({"y/a": 5.0, "a": 1.0, "b": 2.0}, PAIR)
    assert own == {"x/a": 1.0, "x/b": 2.0, "y/a": 5.0, "y/b": 2.0}
    line = team_path(Linear(start={"a": 4.0, "b": 2.0}, end=0.0), PAIR)
    assert line.at(0.5).tolist() == [2.0, 1.0, 2.0, 1.0]


def test_a_teams_table_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"for 'x/c', but pair reports x/a, x/b, y/a, y/b\. Did you mean 'x/"):
        team_limits({"a": 1.0, "b": 2.0, "x/c": 3.0}, PAIR)
    with pytest.raises(ConfigError, match="no limit for x/b, y/b"):
        team_limits({"a": 1.0}, PAIR)


# --- an audit, and responses ---


def test_an_audit_takes_limits_by_name_and_audits_those_costs():
    def thresholds(**given_):
        audit = EpisodeCost(build(EpisodeCostConfig, given_))
        return {m.name: m.requirement.threshold for m in audit.metrics if m.name.startswith("expected")}

    found = {"expected cost of noise": 2.0, "expected cost of wear": 4.0}
    assert thresholds(cost_limit={"noise": 2, "wear": 4}) == found
    assert thresholds(cost_limit={"noise": 2, "wear": 4}, costs=["wear", "noise"]) == found
    assert list(thresholds(cost_limit={"noise": 2, "wear": 4}, costs=["wear", "noise"])) == list(found)[::-1]
    assert thresholds(cost_limit={"wear": 4}) == {"expected cost": 4.0}
    with pytest.raises(ConfigError, match=r"no limit for wear, but ethicality/episode-cost reports wear, noise"):
        thresholds(cost_limit={"noise": 2}, costs=["wear", "noise"])


def test_limits_by_name_are_raised_by_name():
    useless = Evidence(
        principle=Principle.CONTROLLABILITY, audit="controllability/usefulness", metric="return", unit="per episode",
        estimator="mean", estimate=Estimate(0.0, -1.0, 1.0, 64, 64, 0.9, "betting"),
        requirement=Requirement(bound="at_least", threshold=5.0), verdict=Verdict.FAIL, split="respond", round=1,
        looks=1, budget=64, seeds=(0,),
    )  # fmt: skip

    def loosened(cost_limit):
        plan = Plan(recipe="ppo-lag", config={"cost_limit": cost_limit}, trained="c-r1-train")
        return Loosen(by=1.5, highest=25.0)([useless], plan).setting("cost_limit")

    assert loosened({"wear": 2.0, "noise": 20.0}) == {"wear": 3.0, "noise": 25.0}
    with pytest.raises(ConfigError, match="is a schedule"):
        loosened({"start": 2.0, "end": 1.0})
