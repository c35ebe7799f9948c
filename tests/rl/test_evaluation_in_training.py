"""Evaluations and the account of costs in every loop: nothing of the training changes, and a resume sees the same."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from offline_cases import behaviour, data_of
from toy_worlds import SavedDrift

from trueline import api
from trueline.core import registry
from trueline.core.config import Config, build
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import load_subject, save_subject, subject_hash
from trueline.rl import on_policy, watching, worlds
from trueline.rl.augmentation.kinds import Chance
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.exact.suite import instance
from trueline.rl.off_policy import training as off_policy
from trueline.rl.offline import training as offline
from trueline.rl.offline.crr import Crr
from trueline.rl.offline.data import write_parquet
from trueline.rl.planning import training as planning
from trueline.rl.teams import training as teams
from trueline.rl.teams.exact import GAMES, WORLD
from trueline.rl.training import with_default

NETS = {"actor": {"hidden": [8]}, "critic": {"hidden": [8]}}
SMALL = {"env": "Watched-Drift-v0", "num_envs": 4, "cost_limit": [3.0, 5.0]}
ON = {**SMALL, **NETS, "steps_per_epoch": 120, "total_steps": 480, "update": {"passes": 1, "minibatch": 40}}
OFF = {**SMALL, **NETS, "steps_per_epoch": 96, "total_steps": 384, "warm_up": 96, "updates_per_step": 0.1,
       "update": {"batch": 16}}  # fmt: skip
PLANS = {
    **SMALL,
    "steps_per_epoch": 96,
    "total_steps": 384,
    "repeat": 1,
    "warm_up": 96,
    "model": {"members": 2, "elites": 2, "hidden": [8], "decay": [0.0, 0.0], "batch": 32, "passes": 2, "every": 96},
    "planner": {"kind": "cem", "horizon": 2, "samples": 8, "elites": 2, "iterations": 1, "particles": 2},
}
GAME = GAMES["Pair4"]
TOGETHER = {
    **NETS,
    "env": WORLD,
    "env_options": {"cmdp": GAME.cmdp.to_json(), "actions": list(GAME.actions)},
    "num_envs": 4,
    "steps_per_epoch": 40,
    "total_steps": 160,
    "cost_limit": [4.0, 3.0],
    "update": {"passes": 1, "minibatch": 20},
}
RECORDED = {**NETS, "env": "Cmdp-Tolls-v0", "steps_per_epoch": 10, "total_steps": 40, "cost_limit": 2.0,
            "update": {"batch": 16}, "multiplier_after": 5}  # fmt: skip
EVALUATED = {"every": 2, "episodes": 3, "final_episodes": 4, "num_envs": 2}


@dataclass(frozen=True)
class Loop:
    module: ModuleType
    trainer: Any  # (config, run) -> what trains
    Config: type[Config]
    given: dict[str, Any]
    limits: dict[str, float]


def of(module, given, limits, cls="Constrained", trainer="Trainer"):
    return Loop(module, lambda c, run: getattr(module, trainer)(c, run, {}), getattr(module, cls), given, limits)


DRIFT = {"right": 3.0, "off_axis": 5.0}
LOOPS = {
    "on-policy": of(on_policy, ON, DRIFT),
    "off-policy": of(off_policy, OFF, DRIFT),
    "planning": of(planning, PLANS, DRIFT, "Cautious"),
    "teams": of(teams, TOGETHER, {"agent_0/cost": 4.0, "agent_1/cost": 3.0}, "ConstrainedTeam", "TeamTrainer"),
    "offline": Loop(
        offline, offline.Trainer, with_default(offline.Constrained, "update", Crr()), RECORDED, {"cost": 2.0}
    ),
}
PLAYING = [name for name in LOOPS if name != "offline"]


@pytest.fixture(autouse=True)
def _world():
    registry.add(Entry("env", "Watched-Drift-v0", "test_evaluation_in_training:drift", "two costs"), "tests")


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


def trained(root, id, name, until=None, **change):
    """Trains; `until`: the epoch in which the process is killed, to go on from its last checkpoint."""
    loop = LOOPS[name]
    given = {**loop.given, "checkpoint_epochs": 1, **change}
    if name == "offline":
        cmdp = instance("Tolls")
        data = root / "tolls.parquet"
        if not data.exists():
            write_parquet(data_of(cmdp, behaviour(cmdp, 0), 60), data)
        given["dataset"] = str(data)
    config = build(loop.Config, given)
    with Run.create(root, kind="train", name="toy", config=config, seed=5, id=id) as run:
        made = loop.trainer(config, run)
        epoch = made.one_epoch

        def killed():
            if made.epoch == until:
                raise KeyboardInterrupt
            return epoch()

        made.one_epoch = killed
        with suppress(KeyboardInterrupt):
            policy = made.train()
            save_subject(policy, run.folder)
            return run, policy
    with Run.reopen(root / id) as run:
        policy = loop.trainer(config, run).train()
        save_subject(policy, run.folder)
        return run, policy


def logged(run):
    rows = list(read_metrics(run.folder / "metrics.jsonl"))
    return [{name: x for name, x in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_training_with_evaluations_makes_the_same_policy(tmp_path, loop):
    plain, _ = trained(tmp_path, "plain", loop)
    watched, _ = trained(tmp_path, "watched", loop, evaluation=EVALUATED)
    assert subject_hash(plain.folder) == subject_hash(watched.folder)
    rows = logged(watched)
    assert [row for row in rows if "eval/return" not in row] == logged(plain)
    epoch = rows[0]["step"]
    assert [row["step"] for row in rows if "eval/return" in row] == [2 * epoch, 4 * epoch]
    assert not (plain.folder / "artefacts" / "best").exists()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_killed_and_resumed_run_keeps_the_same_evaluations_and_account(tmp_path, loop):
    whole, _ = trained(tmp_path, "whole", loop, evaluation=EVALUATED)
    resumed, _ = trained(tmp_path, "resumed", loop, until=3, evaluation=EVALUATED)
    assert logged(whole) == logged(resumed)
    for name in ("limits.json", "final_episodes.json", "best/best.json"):
        assert (whole.folder / "artefacts" / name).read_bytes() == (resumed.folder / "artefacts" / name).read_bytes()
    for part in ("", "artefacts/best"):
        assert subject_hash(whole.folder / part) == subject_hash(resumed.folder / part)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_best_policy_can_be_loaded_and_is_the_one_of_its_epoch(tmp_path, loop):
    run, last = trained(tmp_path, "run", loop, evaluation={**EVALUATED, "every": 1})
    card = json.loads((run.folder / "artefacts" / "best" / "best.json").read_text())
    best = api.load(run.folder, best=True)
    assert (type(best), best.world) == (type(last), last.world)
    rows = {row["step"]: row["eval/return"] for row in logged(run) if "eval/return" in row}
    assert rows[card["step"]] == card["figures"]["eval/return"] == card["merit"]["episode_return"]


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_evaluated_is_held_against_the_limit_of_the_same_cost(tmp_path, loop):
    run, _ = trained(tmp_path, "run", loop, evaluation={**EVALUATED, "every": 1})
    limits = LOOPS[loop].limits
    kept = json.loads((run.folder / "artefacts" / "final_episodes.json").read_text())
    assert list(kept["cost"]) == list(limits)
    card = json.loads((run.folder / "artefacts" / "best" / "best.json").read_text())
    beyond = sum(max(0.0, card["figures"][f"eval/{name}"] - d) / d for name, d in limits.items())
    assert card["merit"]["shortfall"] == pytest.approx(-beyond)
    assert card["merit"]["feasible"] == (beyond == 0.0)


@pytest.mark.parametrize("loop", PLAYING)
def test_regret_is_that_of_every_epochs_episodes(tmp_path, loop, monkeypatch):
    met, ends, limits = [], [0], LOOPS[loop].limits
    whole, log = watching.CostAccount.end_epoch, Run.log

    def spy(account, episode_cost):
        met.append(np.array(episode_cost).reshape(-1, len(limits)))
        assert list(account.limit) == list(limits.values())
        whole(account, episode_cost)

    def mark(self, step, **scalars):
        ends.append(len(met))
        log(self, step, **scalars)

    monkeypatch.setattr(Run, "log", mark)
    monkeypatch.setattr(watching.CostAccount, "end_epoch", spy)
    run, _ = trained(tmp_path, "run", loop)
    costs, last = np.concatenate(met), logged(run)[-1]
    assert len(costs) >= 4 * 4  # four epochs of four environments, no episode longer than an epoch
    for k, (name, limit) in enumerate(limits.items()):
        beyond = [max((epoch[:, k] - limit).sum(), 0.0) for epoch in met]
        assert last[f"train/regret_{name}"] == pytest.approx(sum(beyond))
        assert last[f"train/violations_{name}"] == (costs[:, k] > limit).sum()
        # What has not ended yet is part of the total cost alone.
        assert last[f"train/total_{name}"] >= costs[:, k].sum() - 1e-6
    for begin, end, row in zip(ends, ends[1:], logged(run), strict=False):  # they are the episodes that the log is of
        assert end - begin == 1  # all of an epoch at once
        assert [row[f"train/{name}"] for name in limits] == pytest.approx(np.concatenate(met[begin:end]).mean(axis=0))


@pytest.mark.parametrize("loop", PLAYING)
def test_the_account_of_costs_goes_on_after_a_resume(tmp_path, loop):
    whole, _ = trained(tmp_path, "whole", loop)
    resumed, _ = trained(tmp_path, "resumed", loop, until=2)
    assert logged(whole)[-1] == logged(resumed)[-1]
    assert sum(x for name, x in logged(whole)[-1].items() if name.startswith("train/regret_")) > 0.0


@pytest.mark.parametrize("loop", ["on-policy", "off-policy"])
def test_a_limit_on_the_step_rate_is_no_cost_to_hold_episodes_against(tmp_path, loop):
    run, _ = trained(tmp_path, "run", loop, cost_limit=[0.3, 0.5], limit_on={"kind": "step-rate"})
    assert not any("train/regret_right" in row for row in logged(run))


@pytest.mark.parametrize("loop", ["on-policy", "off-policy"])
def test_the_best_policy_is_best_by_what_is_limited(tmp_path, loop, monkeypatch):
    # With d = 0.01 nearly all episodes lie above: a share, never far from 0.9, where the mean would lie far beyond d.
    asked = []
    whole = watching.limited
    monkeypatch.setattr(watching, "limited", lambda on, *given: asked.append(on) or whole(on, *given))
    limit_on = {"kind": "chance", "probability": 0.9}
    run, _ = trained(tmp_path, "run", loop, cost_limit=0.01, limit_on=limit_on, evaluation=EVALUATED)
    assert asked == [Chance(probability=0.9)] * 2
    card = json.loads((run.folder / "artefacts" / "best" / "best.json").read_text())
    assert card["figures"]["eval/off_axis"] > 1.0
    assert card["merit"]["shortfall"] >= -2.0 * (1.0 - 0.9) / 0.9 - 1e-9


@pytest.mark.parametrize("augmentation", [{}, {"kind": "simmer"}])
def test_a_policy_that_observes_its_budget_is_evaluated_with_it(tmp_path, augmentation, monkeypatch):
    noises, whole = [], watching._played
    monkeypatch.setattr(watching, "_played", lambda *given: noises.append(given[3]) or whole(*given))
    settings = {**ON, "cost_limit": [3.0, 5.0], "augmentation": augmentation, "evaluation": {**EVALUATED, "every": 1}}
    config = build(on_policy.Budgeted, settings)
    with Run.create(tmp_path, kind="train", name="toy", config=config, seed=5, id="run") as run:
        policy = on_policy.Trainer(config, run, {}).train()
    assert len(noises) == 5  # four epochs and the end
    kept = json.loads((run.folder / "artefacts" / "final_episodes.json").read_text())
    # The world as the policy knows it at the end, with the budgets its rules have come to.
    world = worlds.of(policy.world, 2)
    assert world.observation_space.shape[0] > 3
    again = run_episodes(
        world, kept["seed"], lambda wave: policy_actions(policy, np.random.default_rng([noises[-1], wave]))
    )
    assert kept["return"] == pytest.approx(again.episode_return)
    assert np.transpose([kept["cost"]["right"], kept["cost"]["off_axis"]]) == pytest.approx(again.cost)


def test_a_team_is_evaluated_by_its_mean_return_and_each_agents_costs(tmp_path, monkeypatch):
    noises, whole = [], watching._played
    monkeypatch.setattr(watching, "_played", lambda *given: noises.append(given[3]) or whole(*given))
    run, team = trained(tmp_path, "run", "teams", evaluation={**EVALUATED, "num_envs": 4})
    kept = json.loads((run.folder / "artefacts" / "final_episodes.json").read_text())
    world, rng = worlds.make_multi_agent(WORLD, 4, **TOGETHER["env_options"]), np.random.default_rng([noises[-1], 0])
    obs, reward, cost = world.reset(np.array(kept["seed"], dtype=np.uint32)), np.zeros((4, 2)), np.zeros((4, 2))
    for _ in range(GAME.cmdp.horizon):
        step = world.step(team.act_by_agent(obs, rng))
        obs, reward, cost = step.obs, reward + step.reward, cost + step.cost[..., 0]
    assert kept["return"] == pytest.approx(reward.mean(axis=1))
    assert np.transpose(list(kept["cost"].values())) == pytest.approx(cost)


def test_offline_an_evaluation_is_what_a_limit_is_held_against(tmp_path):
    plain, _ = trained(tmp_path, "plain", "offline")
    watched, _ = trained(tmp_path, "watched", "offline", evaluation=EVALUATED)
    assert not (plain.folder / "artefacts" / "limits.json").exists()  # nothing is measured
    assert json.loads((watched.folder / "artefacts" / "limits.json").read_text()) == {"eval/cost": 2.0}
    evaluated = [row for row in logged(watched) if "eval/return" in row]
    assert evaluated
    assert all("eval/cost" in row for row in evaluated)


def test_a_planner_keeps_the_limit_of_its_epoch_in_the_best_policy(tmp_path):
    line = {"kind": "linear", "start": [8.0, 8.0], "end": [3.0, 5.0]}
    run, last = trained(tmp_path, "run", "planning", cost_limit=line, evaluation={**EVALUATED, "every": 1})
    card = json.loads((run.folder / "artefacts" / "best" / "best.json").read_text())
    best = load_subject(run.folder / "artefacts" / "best")
    share = (card["step"] // 96 - 1) / 3
    assert list(best.method.limits.values()) == pytest.approx([8.0 - 5.0 * share, 8.0 - 3.0 * share])
    assert last.method.limits == DRIFT
    assert torch.is_tensor(last.caution)
