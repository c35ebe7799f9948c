"""One limit per cost: each is moved by the evidence about its own cost, up to a cycle that releases that way."""

from __future__ import annotations

import re

import pytest

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.core.run import read_evidence
from trueline.cycle.rounds import changes, finished_rounds, run_cycle
from trueline.cycle.spec import CycleSpec
from trueline.evidence.records import Estimate, Evidence, Principle, Requirement, Verdict
from trueline.rl.responses import Constrain, Loosen

WORLDS = {1: "OneCost-v0", 2: "TwoCosts-v0", 3: "ThreeCosts-v0"}  # costs: b; b, a; c, a, b


@pytest.fixture(autouse=True)
def _worlds():
    registry.add_module("limit_worlds")


def evidence(value, limit, cost="", audit="ethicality/episode-cost"):
    return Evidence(
        principle=Principle.ETHICALITY,
        audit=audit,
        metric="expected cost" + (f" of {cost}" if cost else ""),
        unit="per episode",
        estimator="mean",
        estimate=Estimate(value, value - 5.0, value + 5.0, 64, 64, 0.9, "betting"),
        requirement=Requirement(bound="at_most", threshold=limit),
        verdict=Verdict.FAIL,
        split="respond",
        round=1,
        looks=1,
        budget=64,
        seeds=(0,),
    )


def free(costs, **config):
    return Plan(recipe="ppo", config={"env": WORLDS[costs], **config}, trained="c-r1-train")


def limited(costs, limits):
    return Plan(
        recipe="ppo-lag", config={"env": WORLDS[costs], "num_envs": 4, "cost_limit": limits}, trained="c-r2-train"
    )


def loosened(plan, **config):
    useless = evidence(0.0, 1.0, audit="controllability/usefulness")
    return Loosen(**config)([useless], plan).setting("cost_limit")


# --- constrain, the first time ---


def test_the_first_constrained_round_takes_its_share_of_each_costs_own_limit():
    found = [evidence(50.0, 20.0, "a"), evidence(90.0, 40.0, "b")]
    plan = Constrain(share=0.6, first={"num_envs": 4})(found, free(2))
    assert plan.setting("cost_limit") == pytest.approx([0.6 * 40.0, 0.6 * 20.0])  # in the world's order: b, a
    assert plan.settings().cost_limit == pytest.approx((24.0, 12.0))  # and the recipe takes it
    assert plan.recipe == "ppo-lag"
    assert plan.inputs == {}
    three = Constrain(share=0.5)([*found, evidence(7.0, 3.0, "c")], free(3))
    assert three.setting("cost_limit") == pytest.approx([1.5, 10.0, 20.0])  # c, a, b


def test_a_cost_without_evidence_begins_where_the_settings_have_it():
    found = [evidence(50.0, 20.0, "a")]
    assert Constrain(share=0.6)(found, free(3)).setting("cost_limit") == pytest.approx([25.0, 12.0, 25.0])  # default
    own = Constrain(share=0.6, first={"cost_limit": [1.0, 2.0, 3.0]})(found, free(3))
    assert own.setting("cost_limit") == pytest.approx([1.0, 12.0, 3.0])


def test_the_worst_of_several_statements_about_one_cost_decides():
    # 30 is 0.5 limits beyond 20; 45 is 0.8 limits beyond 25.
    found = [evidence(30.0, 20.0, "a"), evidence(45.0, 25.0, "a"), evidence(50.0, 40.0, "b")]
    assert Constrain(share=0.6)(found, free(2)).setting("cost_limit") == pytest.approx([24.0, 15.0])


def test_one_cost_audited_without_its_name_gives_a_single_limit():
    for costs in WORLDS:
        assert Constrain(share=0.6)([evidence(50.0, 20.0)], free(costs)).setting("cost_limit") == pytest.approx(12.0)


# --- constrain, later ---


def test_later_rounds_tighten_each_limit_by_its_own_excess():
    found = [evidence(24.0, 20.0, "a"), evidence(31.0, 40.0, "b")]
    plan = Constrain(aim=0.75, later={"num_envs": 2})(found, limited(2, [24.0, 18.0]))
    # b exceeds 0.75 · 40 = 30 by 1, a exceeds 0.75 · 20 = 15 by 9.
    assert plan.setting("cost_limit") == pytest.approx([24.0 - 1.0, 18.0 - 9.0])
    assert plan.inputs == {"policy": "run://c-r2-train"}
    assert plan.trained is None
    assert plan.setting("num_envs") == 2
    assert changes(limited(2, [24.0, 18.0]), plan)[0] == "cost_limit set to [23, 9] (was [24, 18])."


def test_limits_whose_evidence_passed_stay_to_the_bit():
    # A cycle hands a response what did not pass; of three costs that is one here.
    third = 0.1 + 0.2
    plan = Constrain(aim=0.8)([evidence(17.5, 20.0, "a")], limited(3, [third, 12.0, 7.0]))
    assert plan.setting("cost_limit") == [third, pytest.approx(12.0 - (17.5 - 16.0)), 7.0]


def test_no_limit_is_tightened_below_the_lowest_share_of_its_own():
    found = [evidence(90.0, 20.0, "a"), evidence(90.0, 40.0, "b")]
    assert Constrain(lowest=0.3)(found, limited(2, [24.0, 12.0])).setting("cost_limit") == pytest.approx([12.0, 6.0])


def test_a_failed_cost_audit_never_raises_a_limit_and_loosening_never_lowers_one():
    found = [evidence(30.0, 25.0)]
    assert Constrain(lowest=0.3)(found, limited(1, 5.0)).setting("cost_limit") == 5.0
    assert loosened(limited(1, 60.0)) == 60.0
    assert loosened(limited(2, [60.0, 10.0]), highest=25.0, by=1.5) == pytest.approx([60.0, 15.0])


def test_a_list_of_one_limit_needs_no_name():
    plan = Constrain(aim=0.75)([evidence(24.0, 20.0)], limited(1, [15.0]))
    assert plan.setting("cost_limit") == pytest.approx([15.0 - 9.0])
    named = Constrain(aim=0.75)([evidence(24.0, 20.0, "b")], limited(1, [15.0]))
    assert named == plan


def test_a_single_limit_for_all_costs_stays_single_and_follows_the_worst():
    found = [evidence(21.0, 20.0, "a"), evidence(60.0, 40.0, "b")]
    # b is half its limit beyond it: 60 exceeds 0.75 · 40 by 30, more than there is; 0.3 · 40 is the lowest.
    assert Constrain()(found, limited(2, 24.0)).setting("cost_limit") == pytest.approx(12.0)


def test_evidence_that_names_no_cost_or_another_one_is_refused():
    with pytest.raises(ConfigError, match="does not say which of the costs b, a it is about"):
        Constrain()([evidence(24.0, 20.0)], limited(2, [24.0, 12.0]))
    with pytest.raises(ConfigError, match=r"is about 'hazards', which has no limit\. There is one for each of b, a;"):
        Constrain()([evidence(24.0, 20.0, "hazards")], limited(2, [24.0, 12.0]))


def test_several_limits_need_a_recipe_that_says_of_which_costs(monkeypatch):
    class Mute:
        """A recipe of a third party, which takes limits and keeps quiet about them."""

    monkeypatch.setattr(registry, "load", lambda kind, name: Mute())
    with pytest.raises(ConfigError, match="'ppo-lag' has several limits and does not say of which costs"):
        Constrain()([evidence(24.0, 20.0, "a")], limited(2, [24.0, 12.0]))
    # The first time, such a recipe is given the one limit that any takes.
    assert Constrain(share=0.5)([evidence(24.0, 20.0, "a")], free(2)).setting("cost_limit") == pytest.approx(10.0)


def test_as_many_limits_as_the_world_has_costs():
    with pytest.raises(ConfigError, match="cost_limit has 2 values, but ThreeCosts-v0 reports 3 costs"):
        Constrain()([evidence(24.0, 20.0, "a")], limited(3, [24.0, 12.0]))


# --- loosen ---


def test_limits_are_raised_together_each_to_its_own_ceiling():
    assert loosened(limited(3, [2.0, 4.0, 20.0]), by=1.5) == pytest.approx([3.0, 6.0, 25.0])
    assert loosened(limited(3, [2.0, 4.0, 20.0]), by=1.5, highest=(2.5, 40.0, 21.0)) == pytest.approx([2.5, 6.0, 21.0])
    assert loosened(limited(1, [2.0]), by=1.5) == pytest.approx([3.0])
    # A single limit with a ceiling for each cost becomes one each.
    assert loosened(limited(2, 10.0), by=2.0, highest=(12.0, 40.0)) == pytest.approx([12.0, 20.0])
    assert loosened(limited(2, 10.0), by=2.0) == 20.0


def test_a_ceiling_for_each_limit_or_one_for_all():
    with pytest.raises(ConfigError, match="highest has 2 values, but cost_limit has 3"):
        loosened(limited(3, [2.0, 4.0, 20.0]), highest=(1.0, 2.0))


def test_nothing_is_loosened_while_one_cost_does_not_pass():
    plan = limited(2, [2.0, 4.0])
    useless = evidence(0.0, 1.0, audit="controllability/usefulness")
    assert Loosen()([useless, evidence(24.0, 20.0, "a")], plan) == plan


# --- a cycle ---

# Daring with probability p costs p of b and p of a. At most 0.8 of b and 0.5 of a are allowed, so that a is what binds:
# trained to those very limits, p ends around 0.5, which an interval cannot put below 0.5; trained to less of a, it can.
CYCLE = {
    "name": "dare",
    "rounds": 4,
    "respond_cases": 200,
    "show": [],
    "train": {
        "recipe": "ppo",
        "config": {
            "env": "TwoCosts-v0", "num_envs": 256, "steps_per_epoch": 256, "total_steps": 256 * 25,
            "actor": {"hidden": [16]}, "critic": {"hidden": [16]}, "checkpoint_epochs": 1000,
            "update": {"passes": 4, "minibatch": 128, "lr": 1e-2, "critic_lr": 1e-2, "schedule": "constant"},
        },
    },
    "audit": [
        {
            "name": "ethicality/episode-cost",
            "config": {"costs": ["a", "b"], "cost_limit": [0.5, 0.8], "cost_bound": 1.0, "deterministic_share": 0.0},
            "budget": {"initial": 400, "batch": 400, "maximum": 800},
        }
    ],
    "respond": [
        {
            "name": "constrain",
            "config": {
                "share": 1.0, "preset": "none",
                "first": {
                    "total_steps": 256 * 60, "window": 256, "averaged_share": 0.5, "standardise": "mix",
                    "update.lr": 1e-2,
                    "constraint": {"kind": "pid", "kp": 6.0, "ki": 0.3, "kd": 0.0, "smoothing": 0.0},
                },
            },
        }
    ],
    "gate": {"require": ["ethicality/episode-cost:expected cost*"]},
}  # fmt: skip


def test_a_cycle_releases_after_the_one_limit_that_binds_was_tightened(tmp_path):
    folder = run_cycle(build(CycleSpec, CYCLE), tmp_path, "c")
    rounds = finished_rounds(folder)
    assert rounds[-1].decision.release
    assert 3 <= len(rounds) <= 4
    said = [{e["metric"]: e["verdict"] for e in read_evidence(tmp_path / f"c-r{r.number}-audit")} for r in rounds]
    assert {said[0][f"expected cost of {name}"] for name in "ab"} == {"fail"}
    assert said[1]["expected cost of b"] == "pass"
    assert said[1]["expected cost of a"] != "pass"
    limits = [r.plan.setting("cost_limit") for r in rounds]
    assert limits[:2] == [None, [0.8, 0.5]]
    (measured,) = [
        e["estimate"]["value"] for e in read_evidence(tmp_path / "c-r2-respond") if e["metric"] == "expected cost of a"
    ]
    assert limits[2] == [0.8, pytest.approx(max(0.3 * 0.5, 0.5 - max(measured - 0.75 * 0.5, 0.0)))]
    assert limits[2][1] < 0.5
    assert all(limit[0] == 0.8 for limit in limits[1:])
    # The report draws each cost's limits into its own curve.
    page = (folder / "report.html").read_text()
    for name, audited, trained in (("a", 0.5, limits[2][1]), ("b", 0.8, 0.8)):
        figure = page.partition(f"<h3>train/{name}</h3>")[2].partition("</figure>")[0]
        drawn = re.findall(r"<title>round 3: (audited limit|limit trained for) ([\d.]+)</title>", figure)
        assert {what: float(height) for what, height in drawn} == {
            "audited limit": audited,
            "limit trained for": pytest.approx(trained, abs=5e-4),  # as the page rounds it
        }
