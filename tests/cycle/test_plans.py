"""Plans and responses: what a finding changes, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import pytest

from trueline.core.errors import ConfigError, UnknownName
from trueline.core.recipe import Plan, recipe_config
from trueline.cycle.rounds import changes
from trueline.evidence.records import Axis, Curve, Estimate, Evidence, Principle, Requirement, Verdict
from trueline.rl.responses import AddFindings, Constrain, Loosen, Randomise


def cost(
    value,
    high,
    verdict=Verdict.FAIL,
    ref="run://a-respond/findings/x.json",
    curve=None,
    audit="ethicality/episode-cost",
):
    return Evidence(
        principle=Principle.ETHICALITY,
        audit=audit,
        metric="expected cost" if curve is None else "cost area",
        unit="",
        estimator="mean",
        estimate=Estimate(value, 2 * value - high, high, 64, 64, 0.9, "betting"),
        requirement=Requirement(bound="at_most", threshold=25.0),
        verdict=verdict,
        split="respond",
        round=1,
        looks=1,
        budget=64,
        seeds=(0,),
        findings_ref=ref,
        curve=curve,
    )


FREE = Plan(recipe="ppo", preset="fast", config={"env": "SafetyPointGoal1-v0", "num_envs": 64}, trained="c-r1-train")


def test_the_first_response_switches_the_constraint_on_and_starts_from_scratch():
    plan = Constrain(share=0.6, first={"total_steps": 1000})([cost(52.0, 60.0)], FREE)
    assert plan.recipe == "ppo-lag"
    assert plan.setting("cost_limit") == pytest.approx(15.0)  # 0.6 of the audited 25
    assert plan.setting("total_steps") == 1000
    assert plan.setting("num_envs") == 64  # what the user set stays
    assert plan.inputs == {}


def test_later_responses_tighten_by_the_excess_and_go_on_from_the_last_policy():
    first = Constrain()([cost(52.0, 60.0)], FREE).model_copy(update={"trained": "c-r2-train"})
    plan = Constrain(later={"total_steps": 500}, aim=0.8)([cost(24.0, 60.0)], first)
    # 24 is 4 beyond 0.8 · 25. The interval of a few respond cases, wide as it is, has no say.
    assert plan.setting("cost_limit") == pytest.approx(15.0 - 4.0)
    assert plan.inputs == {"policy": "run://c-r2-train"}
    assert plan.trained is None
    # However large the excess, training is not asked for less than `lowest` of the audited limit.
    assert Constrain(lowest=0.3)([cost(80.0, 90.0)], first).setting("cost_limit") == pytest.approx(7.5)
    # Nor is it tightened where only the verdict's interval was too wide: more training is what is missing.
    assert Constrain(aim=0.8)([cost(17.0, 40.0)], first).setting("cost_limit") == pytest.approx(15.0)


def test_without_trouble_nothing_changes():
    other = dataclasses.replace(cost(12.0, 15.0), audit="robustness/mass")
    for response in (Constrain(), AddFindings(), Loosen(), Randomise(evidence="x*", setting="disturbance.delay")):
        assert response([], FREE) == FREE
        assert response([other], FREE) == FREE


def test_a_useless_policy_gets_its_limit_raised_unless_it_is_unsafe_too():
    limited = FREE.model_copy(update={"recipe": "ppo-lag"}).with_setting("cost_limit", 12.0)
    useless = dataclasses.replace(cost(1.0, 2.0), audit="controllability/usefulness", metric="return above idle")
    assert Loosen(by=1.5)([useless], limited).setting("cost_limit") == 18.0
    assert Loosen(by=9.0)([useless], limited).setting("cost_limit") == 25.0  # the audited limit is the ceiling
    assert Loosen()([useless, cost(40.0, 50.0)], limited) == limited


def test_failing_layouts_are_referenced_not_pasted():
    plan = AddFindings(share=0.5)([cost(52.0, 60.0)], FREE)
    assert plan.setting("layouts") == ["run://a-respond/findings/x.json"]
    later = AddFindings()([cost(40.0, 60.0, ref="run://b-respond/findings/x.json")], plan)
    assert later.setting("layouts") == ["run://a-respond/findings/x.json", "run://b-respond/findings/x.json"]
    assert plan.setting("layouts_share") == 0.5


def test_a_failing_disturbance_is_trained_on_over_the_range_it_was_audited_on():
    def curve(*levels):
        axis = Axis("factor", "", levels)
        zeros = (0.0,) * len(levels)
        return Curve("cost area", axis, zeros, zeros, zeros, (1,) * len(levels), 0.0)

    noise = cost(40.0, 45.0, curve=curve(0.0, 0.1, 0.4), audit="robustness/sensor-noise")
    mass = cost(40.0, 45.0, curve=curve(0.5, 1.0, 1.5), audit="robustness/mass")
    one = Randomise(evidence="robustness/sensor-noise:*", setting="disturbance.observation_noise")
    two = Randomise(evidence="robustness/mass:*", setting="disturbance.mass", two_sided=True)
    plan = two([noise, mass], one([noise, mass], FREE))
    assert plan.setting("disturbance.observation_noise") == 0.4
    assert plan.setting("disturbance.mass") == [0.5, 1.5]
    assert plan.settings().disturbance.mass == (0.5, 1.5)  # and the recipe takes it


def test_the_worst_of_several_costs_decides_how_far_to_tighten():
    limited = Constrain()([cost(52.0, 60.0)], FREE).model_copy(update={"trained": "c-r2-train"})
    mild = dataclasses.replace(cost(21.0, 26.0), metric="expected cost of a")
    grave = dataclasses.replace(cost(30.0, 31.0), metric="expected cost of b")
    # 30 is 11.25 beyond 0.75 · 25, and 15 less that is below the lowest share.
    assert Constrain(lowest=0.1)([mild, grave], limited).setting("cost_limit") == pytest.approx(15.0 - 11.25)


def test_changes_are_said_setting_by_setting():
    after = Constrain(share=0.6)([cost(52.0, 60.0)], FREE)
    assert changes(FREE, after) == ("Trained with ppo-lag in place of ppo.", "cost_limit set to 15.")
    assert changes(after, after) == ()
    back = changes(after.with_setting("update.lr", 0.5), after)
    assert back == ("update.lr back to its default (was 0.5).",)


def test_a_preset_lies_between_the_defaults_and_the_settings():
    default, fast = recipe_config("ppo-lag"), recipe_config("ppo-lag", "fast")
    own = recipe_config("ppo-lag", "fast", {"update": {"lr": 0.5}}, ("cost_limit=3",))
    assert default.num_envs == 1
    assert fast.num_envs > 1
    assert (own.update.lr, own.update.minibatch, own.cost_limit) == (0.5, fast.update.minibatch, 3.0)


def test_wrong_names_are_told_with_the_nearest_one():
    with pytest.raises(ConfigError, match="'fast'"):
        recipe_config("ppo", "fats")
    with pytest.raises(UnknownName, match="'ppo-lag'"):
        recipe_config("ppo-lagg")
    with pytest.raises(ConfigError, match="cost_limit"):
        recipe_config("ppo", data={"cost_limit": 3.0})  # a setting that cannot take effect is an error
    with pytest.raises(ConfigError, match="env is not a table"):
        FREE.with_setting("env.id", "x")


@pytest.mark.parametrize(
    ("recipe", "limited"),
    [("ppo", "ppo-lag"), ("sac", "sac-lag"), ("bcq", "bcq-lag"), ("crr", "c-crr"), ("mappo", "mappo-lag"),
     ("pets", "cap-pets"), ("loop", "safe-loop"), ("pg", "`trueline list recipes`")],
)  # fmt: skip
def test_a_limit_for_a_recipe_that_knows_of_none_leads_to_one_that_does(recipe, limited):
    for given in ({"data": {"cost_limit": 3.0}}, {"overrides": ("cost_limit.hazards=3",)}):
        with pytest.raises(ConfigError, match=rf"{recipe}: cost_limit .* knows of no limit\..*{limited}") as raised:
            recipe_config(recipe, **given)
        assert "Did you mean" not in str(raised.value)
        assert "lm-" not in str(raised.value)  # of language models, under a like name
