"""Evaluations and the account of costs in both loops: nothing of the training changes, and a resume sees the same."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from toy_worlds import SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.subject import load_subject, subject_hash
from trueline.rl import on_policy, watching, worlds
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.off_policy import training as off_policy

SMALL = {
    "env": "Watched-Drift-v0",
    "num_envs": 4,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
}
ON = {
    **SMALL,
    "steps_per_epoch": 120,
    "total_steps": 480,
    "update": {"passes": 1, "minibatch": 40},
}
OFF = {**SMALL, "steps_per_epoch": 96, "total_steps": 384, "warm_up": 96, "updates_per_step": 0.1,
       "update": {"batch": 16}}  # fmt: skip
LOOPS = {"on-policy": (on_policy, ON), "off-policy": (off_policy, OFF)}
EVALUATED = {"every": 2, "episodes": 3, "final_episodes": 4, "num_envs": 2}


@pytest.fixture(autouse=True)
def _world():
    registry.add(
        Entry("env", "Watched-Drift-v0", "test_evaluation_in_training:drift", "two costs"),
        "tests",
    )


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


def settings(loop, **change):
    module, given = LOOPS[loop]
    whole = {**given, "cost_limit": [3.0, 5.0], "checkpoint_epochs": 1, **change}
    return module.Trainer, build(module.Constrained, whole)


def trained(root, id, loop, until=None, **change):
    """Trains; `until`: the epoch in which the process is killed, to go on from its last checkpoint."""
    trainer, config = settings(loop, **change)
    with Run.create(root, kind="train", name="toy", config=config, seed=5, id=id) as run:
        made = trainer(config, run, {})
        if until is None:
            return run, made.train()
        epoch = made.one_epoch

        def killed():
            if made.epoch == until:
                raise KeyboardInterrupt
            return epoch()

        made.one_epoch = killed
        with suppress(KeyboardInterrupt):
            made.train()
    with Run.reopen(root / id) as run:
        return run, trainer(config, run, {}).train()


def logged(run):
    rows = list(read_metrics(run.folder / "metrics.jsonl"))
    return [{name: x for name, x in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_training_with_evaluations_makes_the_same_policy(tmp_path, loop):
    plain, without = trained(tmp_path, "plain", loop)
    watched, policy = trained(tmp_path, "watched", loop, evaluation=EVALUATED)
    for name, value in without.network.state_dict().items():
        torch.testing.assert_close(policy.network.state_dict()[name], value, rtol=0, atol=0)
    rows = logged(watched)
    assert [row for row in rows if "eval/return" not in row] == logged(plain)
    epoch = rows[0]["step"]
    assert [row["step"] for row in rows if "eval/return" in row] == [
        2 * epoch,
        4 * epoch,
    ]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_killed_and_resumed_run_keeps_the_same_evaluations_and_account(tmp_path, loop):
    whole, _ = trained(tmp_path, "whole", loop, evaluation=EVALUATED)
    resumed, _ = trained(tmp_path, "resumed", loop, until=3, evaluation=EVALUATED)
    assert logged(whole) == logged(resumed)
    for name in ("final_episodes.json", "best/best.json"):
        assert (whole.folder / "artefacts" / name).read_bytes() == (resumed.folder / "artefacts" / name).read_bytes()
    assert subject_hash(whole.folder / "artefacts" / "best") == subject_hash(resumed.folder / "artefacts" / "best")


@pytest.mark.parametrize("loop", LOOPS)
def test_the_best_policy_can_be_loaded_and_is_the_one_of_its_epoch(tmp_path, loop):
    run, last = trained(tmp_path, "run", loop, evaluation={**EVALUATED, "every": 1})
    card = json.loads((run.folder / "artefacts" / "best" / "best.json").read_text())
    best = load_subject(run.folder / "artefacts" / "best")
    assert best.world == last.world
    rows = {row["step"]: row["eval/return"] for row in logged(run) if "eval/return" in row}
    assert rows[card["step"]] == card["figures"]["eval/return"] == card["merit"]["episode_return"]


@pytest.mark.parametrize("loop", LOOPS)
def test_regret_is_that_of_every_episode_that_ended(tmp_path, loop, monkeypatch):
    met = []
    whole = watching.accounted

    def spy(account, episode_cost, limit):
        met.append(np.array(episode_cost))
        assert list(limit) == [3.0, 5.0]
        return whole(account, episode_cost, limit)

    monkeypatch.setattr(LOOPS[loop][0], "accounted", spy)
    run, _ = trained(tmp_path, "run", loop)
    costs, last = np.concatenate(met), logged(run)[-1]
    assert len(costs) >= 4 * 4  # four epochs of four environments, no episode longer than an epoch
    for k, (name, limit) in enumerate((("right", 3.0), ("off_axis", 5.0))):
        assert last[f"train/regret_{name}"] == pytest.approx(np.maximum(costs[:, k] - limit, 0.0).sum())
        assert last[f"train/violations_{name}"] == (costs[:, k] > limit).sum()
        # What has not ended yet is part of the total cost alone.
        assert last[f"train/total_{name}"] >= costs[:, k].sum() - 1e-6


def test_a_limit_on_the_step_rate_is_no_cost_to_hold_episodes_against(tmp_path):
    run, _ = trained(
        tmp_path,
        "run",
        "on-policy",
        cost_limit=[0.3, 0.5],
        limit_on={"kind": "step-rate"},
    )
    assert not any("train/regret_right" in row for row in logged(run))


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
