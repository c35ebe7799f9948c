"""The claims on constrained algorithms: what they state, what decides them, and trainings that are made once."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from dataclasses import replace
from operator import itemgetter

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

from trueline.core import registry
from trueline.core.errors import Diverged, RunError, Stopped
from trueline.core.run import Run, read_manifest
from trueline.core.streams import split_of
from trueline.core.subject import load_subject
from trueline.evidence.claim_statistics import Contrast
from trueline.evidence.claims import ClaimResult, Scale, run_claim
from trueline.evidence.over_seeds import FEWEST_SEEDS
from trueline.rl.exact.tables import outcome_of
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.watching import CostAccount
from trueline.rl.worlds import make
from trueline.safety.claims import arms, offline, omnisafe, published, safepo
from trueline.safety.claims.catalogue import CONSTRAINED, ENTRIES
from trueline.safety.claims.trainings import (
    NUMBERS,
    Arm,
    Logged,
    Played,
    logged,
    measured,
    of_policy,
    of_training,
    played,
)

torch.set_num_threads(1)

VERDICTS = [*vars(omnisafe.CLAIMS).values(), *vars(safepo.CLAIMS).values()]
POINTS = [
    claim
    for listed in (omnisafe.LONG, omnisafe.OFF_POLICY, safepo.TEAMS, offline.CLAIMS)
    for claim in vars(listed).values()
]
EVERY = [*VERDICTS, *POINTS]
TINY = {
    "env": "Cmdp-Tolls-v0",
    "num_envs": 4,
    "steps_per_epoch": 48,
    "total_steps": 240,
    "checkpoint_epochs": 5,
    "actor": {"hidden": [4]},
    "critic": {"hidden": [4]},
    "update": {"passes": 2, "minibatch": 48},
}
LAG = Arm(recipe="ppo-lag")


def name_of(claim):
    return f"{claim.system}-{claim.name}"


def tiny(folder, seed=0, name="lag", arm=LAG, **given):
    folder.mkdir(parents=True, exist_ok=True)
    return measured(name, arm, arm.settings({**TINY, **given}, 1.5), 1.5, 6, seed, folder)


def same(one, other):
    """Equal numbers, but for the clock."""
    assert {k: v for k, v in one.items() if k != "cpu_s"} == pytest.approx(
        {k: v for k, v in other.items() if k != "cpu_s"}, nan_ok=True
    )


# --- trainings ---


@pytest.fixture
def claims_run(tmp_path):
    """A claim's run, and its folders of seeds."""
    with Run.create(tmp_path, kind="claim", name="a", config={}, seed=0, id="a") as run:
        yield run.artefact("seeds/0"), run.artefact("seeds/1"), tmp_path


def test_a_training_is_made_once_and_found_by_every_claim(claims_run, monkeypatch):
    here, there, root = claims_run
    found = tiny(here)
    assert set(found) == set(NUMBERS)
    (run,) = root.glob("lag-*-s0")
    assert read_manifest(run)["name"] == "ppo-lag"
    monkeypatch.setattr(type(registry.load("recipe", "ppo-lag")), "train", None)  # it would be called
    assert tiny(there) == found
    kept = json.loads((root / f"trainings/{run.name}.json").read_text())
    assert kept["run"]["id"] == run.name
    assert kept["figures"]["cost"] == found["cost"]
    assert json.loads((run / "artefacts/final_episodes.json").read_text())["cost"].keys() == {"cost"}


def test_other_settings_or_another_seed_are_another_training(claims_run):
    here, _, root = claims_run
    for given in ({}, {"seed": 1}, {"gamma": 0.9}):
        tiny(here, **given)
    manifests = [read_manifest(run) for run in root.glob("lag-*")]
    assert sorted(manifest["seed"] for manifest in manifests) == [0, 0, 1]
    assert len({manifest["config_digest"] for manifest in manifests}) == 2


def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    through = tiny(tmp_path / "through", checkpoint_epochs=1)
    saves, save = [], Run.save

    def stopping(run, step, state):
        path = save(run, step, state)
        saves.append(step)
        if len(saves) == 2:
            raise Stopped(run.id)
        return path

    monkeypatch.setattr(Run, "save", stopping)
    with pytest.raises(Stopped):
        tiny(tmp_path / "cut", checkpoint_epochs=1)
    (run,) = (tmp_path / "cut").glob("lag-*-s0")
    spent = read_manifest(run)["spent"]["cpu_s"]
    assert spent > 0.0
    same(tiny(tmp_path / "cut", checkpoint_epochs=1), through)
    assert saves == [48, 96, 144, 192, 240]  # what was done was not done again
    assert read_manifest(run)["spent"]["cpu_s"] > spent


def test_a_diverged_training_has_no_numbers_and_is_not_tried_again(claims_run, monkeypatch):
    here, _, _ = claims_run
    tried = []

    def train(self, config, run, inputs):
        tried.append(1)
        raise Diverged(48, "actor.weight")

    monkeypatch.setattr(type(registry.load("recipe", "ppo-lag")), "train", train)
    for _ in range(2):
        assert all(math.isnan(value) for value in tiny(here).values())
    assert len(tried) == 1


def test_what_other_versions_made_is_refused(claims_run):
    here, _, root = claims_run
    tiny(here)
    (run,) = root.glob("lag-*-s0")
    kept = root / f"trainings/{run.name}.json"
    for path, versions in ((kept, lambda row: row["run"]["versions"]), (run / "manifest.json", itemgetter("versions"))):
        row = json.loads(path.read_text())
        versions(row)["torch"] = "0.4"
        path.write_text(json.dumps(row))
        with pytest.raises(RunError, match=r"trained with torch 0\.4"):
            tiny(here)
        kept.unlink(missing_ok=True)


def test_what_a_training_came_to_is_taken_along_without_its_run(claims_run, tmp_path_factory, monkeypatch):
    here, _, root = claims_run
    found = tiny(here)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root / "trainings", elsewhere / "trainings")
    with Run.create(elsewhere, kind="claim", name="a", config={}, seed=0, id="b") as run:
        seed = run.artefact("seeds/0")
    monkeypatch.setattr(type(registry.load("recipe", "ppo-lag")), "train", None)  # it would be called
    assert tiny(seed) == found
    with pytest.raises(TypeError, match="NoneType"):
        tiny(seed, gamma=0.9)


def test_numbers_of_another_limit_or_of_other_episodes_are_not_taken(claims_run):
    here, _, root = claims_run
    first = tiny(here)
    (kept,) = (root / "trainings").glob("*.json")
    for key, other in (("limit", 0.5), ("episodes", 7)):
        row = json.loads(kept.read_text())
        kept.write_text(json.dumps(row | {key: other, "figures": {**row["figures"], "cost": -1.0}}))
        assert tiny(here) == first


def test_a_file_that_tells_of_no_training_is_refused(claims_run):
    here, _, root = claims_run
    tiny(here)
    (kept,) = (root / "trainings").glob("*.json")
    for text in ("{", "{}", '{"run": {"versions": {}}, "limit": 1.5, "episodes": 6, "figures": {}}'):
        kept.write_text(text)
        with pytest.raises(RunError, match="does not tell of a training"):
            tiny(here)


def test_episodes_are_on_the_same_layouts_for_all_arms_of_a_seed_and_estimate_the_policys_own_return(tmp_path):
    tiny(tmp_path)
    tiny(tmp_path, name="free", arm=Arm(recipe="ppo"))
    lag, free = (load_subject(next(tmp_path.glob(f"{name}-*-s0"))) for name in ("lag", "free"))
    one, other, elsewhere = played(lag, 900, 3), played(free, 900, 3), played(lag, 900, 4)
    np.testing.assert_array_equal(one.seed, other.seed)
    assert not np.array_equal(one.seed, elsewhere.seed)
    assert {split_of(seed).split for seed in one.seed} == {"train"}
    world = make("Cmdp-Tolls-v0", 1)
    exact = outcome_of(lag, world, False)
    both = np.concatenate([one.episode_return, elsewhere.episode_return])
    error = both.std() / math.sqrt(len(both))
    assert abs(both.mean() - exact.episode_return) < 4.0 * error


# --- numbers ---


def test_a_policys_numbers_are_those_of_its_episodes():
    # Means 2 and 4 of two costs; of four episodes the first and the last exceed 5 in one of them.
    cost = np.array([[6.0, 3.0], [2.0, 5.0], [0.0, 2.0], [0.0, 6.0]])
    found = of_policy(Played(np.arange(4), np.array([1.0, 2, 3, 6]), cost, np.full(4, 10), ("a", "b")), 5.0)
    assert found == {"return": 3.0, "cost": 4.0, "violating": 0.5}


def write(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_trainings_numbers_are_those_of_its_log(tmp_path):
    cost = {5: 50.0, 10: 40.0, 15: 30.0, 19: 20.0, 20: 16.0}
    write(
        tmp_path,
        [
            {"step": step, "train/total_c": 1.0}
            | ({"train/return": float(step), "train/c": cost[step]} if step in cost else {})
            for step in range(1, 21)
        ],
    )
    found = of_training(logged(tmp_path, ("c",)), 25.0)
    # The last tenth of 20 steps is what comes after 18, the second half after 10.
    assert found["last return"] == 19.5
    assert found["last cost"] == 18.0
    assert found["unsteadiness"] == pytest.approx((5.0 + 5.0 + 9.0) / 3)
    assert found["regret"] == pytest.approx((25.0 + 15.0 + 5.0 + 0.0 + 0.0) / 5)  # below the limit nothing is made good


def test_the_regret_of_a_training_is_what_it_logged_by_episode(tmp_path):
    # Epochs of as many episodes each, as wherever episodes have one length: Σ E·(J_C − d)₊ / Σ E is the mean over them.
    epochs, limit = np.random.default_rng(0).uniform(0.0, 50.0, (6, 4, 2)), np.full(2, 25.0)
    account, rows = CostAccount(("a", "b"), limit), []
    for number, costs in enumerate(epochs, 1):
        account.end_epoch(costs)
        means = dict(zip(("train/a", "train/b"), costs.mean(axis=0), strict=True))
        rows.append({"step": number, "train/return": 0.0, **means})
    write(tmp_path, rows)
    found = of_training(logged(tmp_path, ("a", "b")), 25.0)["regret"]
    assert found == pytest.approx(account.regret.max() / (6 * 4))
    assert found > 0.0


def test_without_an_episode_in_the_last_tenth_the_last_one_counts(tmp_path):
    write(tmp_path, [{"step": 3, "train/return": 7.0, "train/c": 1.0}, {"step": 100}])
    found = logged(tmp_path, ("c",))
    assert found.since(0.9).tolist() == [True]
    assert of_training(found, 25.0)["last return"] == 7.0


def test_a_training_without_episodes_tells_none():
    nothing = Logged(np.zeros(0), np.zeros(0), np.zeros((0, 1)), 10)
    assert all(math.isnan(value) for value in of_training(nothing, 25.0).values())


# --- what decides ---


def test_a_contrast_is_the_smallest_less_the_other_seed_by_seed():
    rows = [{"a": 3.0, "b": 5.0, "c": 1.0 + k} for k in range(8)]
    contrast = Contrast(("a", "b"), "c")
    assert contrast.differences(rows) == [2.0 - k for k in range(8)]
    found = contrast(rows, 0.9)
    assert found.value == pytest.approx(-1.5)
    t = -1.5 / (np.std(range(8), ddof=1) / math.sqrt(8))
    assert found.low == pytest.approx(-1.5 + -1.5 / t * float(stdtrit(7, 0.05)))
    assert len(contrast.differences([*rows, {"a": math.nan, "b": 5.0, "c": 1.0}])) == 8


# What decides each claim: a number that has to be high, or low, against another or a threshold.
def good_row(claim):
    high, low = 60.0, 5.0
    row = {f"{arm}/{number}": low for arm in claim.scales["published"].params["arms"] for number in NUMBERS}
    statistic = claim.statistic
    if isinstance(statistic, Contrast):
        return row | dict.fromkeys(statistic.least_of, high)
    if claim.acceptance.bound == "at_least":
        return row | {statistic.value: high}
    return row


def bad_row(claim):
    high, low = 60.0, 5.0
    row = {f"{arm}/{number}": high for arm in claim.scales["published"].params["arms"] for number in NUMBERS}
    statistic = claim.statistic
    if isinstance(statistic, Contrast):
        return row | {statistic.least_of[0]: low}
    if claim.acceptance.bound == "at_least":
        return row | {statistic.value: low}
    return row


@pytest.mark.parametrize("claim", VERDICTS, ids=name_of)
def test_a_claim_is_reproduced_where_it_holds_and_refuted_where_its_opposite_does(claim):
    for row, verdict in ((good_row(claim), "PASS"), (bad_row(claim), "FAIL")):
        rows = [{name: value + 0.1 * k for name, value in row.items()} for k in range(8)]
        found = claim.statistic(rows, claim.acceptance.interval_confidence())
        assert claim.acceptance.verdict(found.low, found.high).name == verdict


EXPECTED = {  # by hand: (what decides, holds) for each kind of claim
    "omnisafe-ppo-breaks-goal": ({"ppo/cost": 52.0}, {"ppo/cost": 20.0}),
    "omnisafe-cup-keeps-cheetah": ({"cup/last cost": 26.0}, {"cup/last cost": 36.0}),
    "omnisafe-price-goal": ({"ppo/return": 26.0, "ppo-lag/return": 13.0}, {"ppo/return": 12.0, "ppo-lag/return": 13.0}),
    "omnisafe-pid-steadies-goal": (
        {"ppo-lag/unsteadiness": 9.0, "ppo-pid/unsteadiness": 4.0},
        {"ppo-lag/unsteadiness": 4.0, "ppo-pid/unsteadiness": 9.0},
    ),
    "omnisafe-saute-violates-least-goal": (
        {f"{arm}/violating": 0.4 for arm in CONSTRAINED} | {"ppo-saute/violating": 0.2},
        {f"{arm}/violating": 0.4 for arm in CONSTRAINED} | {"p3o/violating": 0.1, "ppo-saute/violating": 0.2},
    ),
    "safepo-cpo-regrets-less-goal": (
        {"ppo-lag/regret": 20.0, "cpo/regret": 12.0},
        {"ppo-lag/regret": 12.0, "cpo/regret": 20.0},
    ),
    "safepo-lagrangian-keeps-better-goal": (
        {"cpo/last cost": 40.0, "ppo-lag/last cost": 25.0},
        {"cpo/last cost": 25.0, "ppo-lag/last cost": 40.0},
    ),
    "safepo-focops-earns-goal": (
        {"focops/return": 20.0, "cpo/return": 15.0},
        {"focops/return": 15.0, "cpo/return": 20.0},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_decides_is_what_the_sentence_says(name):
    (claim,) = [claim for claim in VERDICTS if name_of(claim) == name]
    for row, verdict in zip(EXPECTED[name], ("PASS", "FAIL"), strict=True):
        found = claim.statistic([row] * 8, claim.acceptance.interval_confidence())
        assert claim.acceptance.verdict(found.low, found.high).name == verdict


# --- what is stated ---


def test_every_row_of_the_list_is_asked_in_both_worlds():
    assert len(VERDICTS) == 2 * (1 + 8 + 3) + 2 * 4
    assert len({name_of(claim) for claim in EVERY}) == len(EVERY)
    asked = {
        (claim.scales["published"].params["world"], arm)
        for claim in VERDICTS
        for arm in claim.scales["published"].params["arms"]
    }
    ids = [arms.WORLDS[name].id for name in ("goal", "cheetah")]
    assert asked == {(world, arm) for world in ids for arm in ("ppo", *CONSTRAINED)}


@pytest.mark.parametrize("claim", VERDICTS, ids=name_of)
def test_scales_that_decide_have_the_seeds_and_state_what_they_see(claim):
    size = claim.scales["published"]
    assert (len(size.seeds), size.params["steps"]) == (10, 1_024_000)
    assert len(claim.scales["laptop"].seeds) >= FEWEST_SEEDS
    for name in ("laptop", "published"):
        assert 0.0 < claim.scales[name].smallest_effect < abs(claim.effect)
    assert math.isnan(claim.scales["ci"].smallest_effect)


@pytest.mark.parametrize("claim", EVERY, ids=name_of)
def test_every_scale_states_its_cpu_time(claim):
    hours = [claim.scales[name].cpu_hours for name in ("ci", "published")]
    assert 0.0 < hours[0] < hours[1]
    assert claim.scales["ci"].cpu_hours < 0.05


def test_what_a_claim_sees_is_stated_for_the_first_of_its_family():
    # The smallest of n p-values has to be below 0.05/n by Holm; a difference spreads as two arms do.
    counts = {system: sum(claim.system == system for claim in VERDICTS) for system in arms.FAMILY}
    assert counts == dict(arms.FAMILY)
    keeps, steadies = (getattr(omnisafe.CLAIMS, name) for name in ("cpo_keeps_goal", "pid_steadies_goal"))
    needed = (stdtrit(9, 1.0 - 0.05 / 24) + stdtrit(9, 0.8)) / math.sqrt(10)
    spread = arms.WORLDS["goal"].spread
    assert keeps.scales["published"].smallest_effect == pytest.approx(needed * spread["last cost"], abs=1e-3)
    expected = needed * spread["unsteadiness"] * math.sqrt(2)
    assert steadies.scales["published"].smallest_effect == pytest.approx(expected, abs=1e-3)


def test_nobody_has_fewest_where_all_are_alike():
    claim = omnisafe.CLAIMS.saute_violates_least_cheetah
    rows = [dict.fromkeys((*claim.statistic.least_of, claim.statistic.less), 0.0) for _ in range(10)]
    assert claim.statistic.p(rows, claim.acceptance) == 0.5


@pytest.mark.parametrize("world", ["goal", "cheetah"])
def test_every_on_policy_arm_is_averaged_over_the_same_share(world):
    named = arms.WORLDS[world].arms
    shares = {
        name: named[name].settings({"env": arms.WORLDS[world].id, "total_steps": 10_000}, 25.0).averaged_share
        for name in arms.ON_POLICY
    }
    assert set(shares.values()) == {0.15}, shares


def test_claims_share_what_they_train():
    for scale in ("laptop", "published"):
        alone = sum(claim.scales[scale].cpu_hours for claim in VERDICTS)
        assert arms.together(VERDICTS, scale) < 0.5 * alone
    size, world = arms.SIZES["published"], arms.WORLDS["goal"]
    one = arms.cpu_hours(("ppo",), world, size)
    assert one == pytest.approx(10 * (1.024 * world.cpu_s["ppo"] + 64 * world.episode_cpu_s) / 3600, abs=1e-3)
    assert arms.together(VERDICTS[:1], "published") == one


@pytest.mark.parametrize("world", ["goal", "cheetah"])
def test_ppo_lag_is_ppo_pid_without_its_proportional_part(world):
    own = arms.WORLDS[world].arms
    lag, pid = (own[name].settings({}, 25.0).model_dump() for name in ("ppo-lag", "ppo-pid"))
    assert {key for key in lag if lag[key] != pid[key]} == {"constraint"}
    controller = own["ppo-pid"].settings({}, 25.0).constraint
    assert isinstance(controller, PidLagrangian)
    integral = controller.model_copy(update={"kp": 0.0, "kd": 0.0})
    ascent = own["ppo-lag"].settings({}, 25.0).constraint
    assert isinstance(ascent, Lagrangian)
    states, limit = [integral.start(1), ascent.start(1)], torch.tensor([25.0])
    for cost in (60.0, 30.0, 10.0, 0.0, 0.0, 0.0, 90.0):
        episodes = torch.full((64, 1), cost)
        states = [h.update(s, episodes, limit) for h, s in zip((integral, ascent), states, strict=True)]
        assert float(states[0]["multiplier"]) == pytest.approx(float(states[1]["multiplier"]))


@pytest.mark.parametrize("name", arms.ARMS)
def test_an_arms_settings_are_its_rows_under_the_limit(name):
    config = arms.ARMS[name].settings({}, 20.0)
    assert getattr(config, "cost_limit", 20.0) == 20.0


@pytest.mark.parametrize("name", arms.ON_POLICY)
def test_running_differs_in_how_much_is_collected_and_learnt_from_at_once(name):
    plain, running = (own[name].settings({}, 25.0).model_dump() for own in (arms.ARMS, arms.RUNNING))
    differ = {key for key in plain if plain[key] != running[key]}
    assert differ <= {"num_envs", "steps_per_epoch", "update"}
    own = {"lam", "eta"} if name == "focops" else set()  # one price for large minibatches, one for small
    assert {key for key in plain["update"] if plain["update"][key] != running["update"][key]} <= {"minibatch", *own}
    assert running["steps_per_epoch"] * (2 if name in ("trpo-lag", "cpo") else 4) == 16_000
    assert arms.STEPS % running["steps_per_epoch"] == arms.STEPS % plain["steps_per_epoch"] == 0


# --- published rows ---


def result_of(claim, rows, scale="published"):
    size = claim.scales[scale]
    return ClaimResult(
        claim.system, claim.name, claim.sentence, claim.source, scale, "inconclusive", claim.acceptance,
        claim.statistic(rows, 0.9), claim.unit, dict(enumerate(rows)), size.cpu_hours, size.smallest_effect,
        size.params, {},
    )  # fmt: skip


def test_our_rows_stand_beside_the_published_ones():
    rows = [{f"ppo-lag/{n}": float(k) for n in NUMBERS} for k in range(3)]
    both = [{**row, **{f"ppo/{n}": math.nan for n in NUMBERS}} for row in rows]
    keeps, price = omnisafe.CLAIMS.ppo_lag_keeps_goal, omnisafe.CLAIMS.price_goal
    found = published.beside([result_of(keeps, rows), result_of(price, both), result_of(keeps, rows[:1])])
    assert [(row.arm, row.seeds) for row in found] == [("ppo-lag", 3), ("ppo", 0)]
    assert found[0].ours == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert found[1].ours is None
    assert str(found[0].published) == "12.96±6.95 / 25.80±34.99"
    assert "| `ppo` | 1,024,000 | 0 | – | 25.44±5.43 / 55.72±35.55 |" in published.table(found)


def test_what_a_claim_was_built_on_is_what_was_published():
    rows = published.PUBLISHED
    for world, name in (("goal", "SafetyPointGoal1-v0"), ("cheetah", "SafetyHalfCheetahVelocity-v1")):
        assert omnisafe.BREAKS[world] == pytest.approx(rows[name]["ppo"].cost - arms.LIMIT, abs=0.5)
        price = rows[name]["ppo"].episode_return - rows[name]["ppo-lag"].episode_return
        assert omnisafe.PRICE[world] == pytest.approx(price, abs=0.5)


# --- all of it ---


def small(claim, **params):
    scale = claim.scales["ci"]
    return replace(claim, scales={"ci": Scale(scale.seeds, 0.01, math.nan, {**scale.params, **params})})


def test_a_claim_runs_through(tmp_path):
    short = {"world": TINY["env"], "steps": 96, "episodes": 4, "config": {"num_envs": 4, "steps_per_epoch": 48}}
    with Run.create(tmp_path, kind="claim", name="c", config={}, seed=0) as run:
        result = run_claim(small(safepo.CLAIMS.cpo_regrets_less_cheetah, **short), "ci", run)
    assert result.outcome == "inconclusive"  # one seed decides nothing
    row = result.per_seed[0]
    assert set(row) == {f"{arm}/{number}" for arm in ("ppo-lag", "cpo") for number in NUMBERS}
    assert all(math.isfinite(value) for value in row.values())
    assert len(list(tmp_path.glob("*-s0"))) == 2


def test_offline_rows_learn_from_half_of_each_behaviour(tmp_path):
    short = {
        "world": "CmdpBox-Tolls-v0",
        "behaviour_steps": 100,
        "behaviour": {"num_envs": 1, "steps_per_epoch": 100},
        "recorded": 2,
        "steps": 2,
        "episodes": 1,
    }
    with Run.create(tmp_path, kind="claim", name="c", config={}, seed=0) as run:
        result = run_claim(small(offline.CLAIMS.bc_safe_keeps, **short), "ci", run)
    row = result.per_seed[0]
    assert {name.split("/")[0] for name in row} == {"unsafe", "safe", "bc-safe"}
    assert math.isfinite(row["bc-safe/cost"])
    assert math.isnan(row["bc-safe/last cost"])
    (data,) = tmp_path.glob("mixture-*-s0")
    assert [source["episodes"] for source in load_subject(data).made["sources"]] == [1, 1]
    manifests = [read_manifest(path) for path in tmp_path.glob("*-s0")]
    assert sorted(m["name"] for m in manifests) == ["bc-safe", "offline-data", "ppo", "ppo-lag"]


def test_a_team_is_told_by_its_agents_mean_return_and_dearest_cost(tmp_path):
    world = "Safety2x3HalfCheetahVelocity-v0"
    short = {"world": world, "steps": 20, "episodes": 1, "config": {"num_envs": 1, "steps_per_epoch": 20}}
    with Run.create(tmp_path, kind="claim", name="c", config={}, seed=0) as run:
        result = run_claim(small(safepo.TEAMS.mappo_lag_keeps_team, **short), "ci", run)
    (folder,) = tmp_path.glob("mappo-lag-*-s0")
    kept = json.loads((folder / "artefacts/final_episodes.json").read_text())
    assert set(kept["cost"]) == {"agent_0/cost_sum", "agent_1/cost_sum"}
    row = result.per_seed[0]
    assert row["mappo-lag/cost"] == pytest.approx(max(np.mean(values) for values in kept["cost"].values()))
    assert row["mappo-lag/return"] == pytest.approx(np.mean(kept["return"]))


def test_the_catalogue_lists_every_claim_under_its_own_name():
    found = {}
    for entry in ENTRIES:
        module, _, path = entry.target.partition(":")
        target = importlib.import_module(module)
        for attribute in path.split("."):
            target = getattr(target, attribute)
        found[entry.name] = target
    assert sorted(found) == sorted(map(name_of, EVERY))
    assert all(name_of(claim) == name for name, claim in found.items())
