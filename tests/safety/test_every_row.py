"""Every row of the table learns something in seconds: all its networks move, its multiplier moves, J_C is a number."""

from __future__ import annotations

import math
import tomllib

import pytest
import torch

from trueline.core import registry
from trueline.core.config import build, to_toml
from trueline.core.metrics import read_metrics
from trueline.core.run import Run
from trueline.rl.exact.gap import on_policy_settings
from trueline.rl.exact.suite import SUITE
from trueline.rl.on_policy import Capped, OnPolicy

# Rows that learn from data, rows of teams and planners have tests of their own.
APART = (".offline:", ".multi_agent:", ".planning:", ".crabs:")
OURS = [e for e in registry.entries("recipe") if e.target.startswith("trueline.safety.recipes.")]
NAMES = [e.name for e in OURS if not any(part in e.target for part in APART)]
GAMBLE = SUITE["Gamble"]
EPOCHS = 3


def settings(row) -> dict:
    if issubclass(row.Config, OnPolicy):
        given = on_policy_settings(row.Config, GAMBLE)
        hidden = {"actor": {"hidden": [8]}, "critic": {"hidden": [8]}}
        # A limit of 0.1 is broken by an untrained policy, so that a multiplier has to move.
        limits = {"cost_limit": 0.1} if issubclass(row.Config, Capped) else {}
        switch = {"constraint": {"distance": 0.0}} if row.name == "oncrpo" else {}
        return {
            **given,
            **hidden,
            **limits,
            **switch,
            "env": "Cmdp-Gamble-v0",
            "total_steps": EPOCHS * given["steps_per_epoch"],
        }
    small = {"hidden": [8]}
    given = {"env": "CmdpBox-Gamble-v0", "num_envs": 4, "steps_per_epoch": 64, "total_steps": 192, "warm_up": 32}
    given |= {"actor": small, "critic": small, "update": {"batch": 16}}
    return given | ({"cost_limit": 0.1} if "cost_limit" in row.Config.model_fields else {})


@pytest.mark.parametrize("name", [entry.name for entry in OURS])
def test_every_presets_settings_come_back_from_a_file(name):
    row = registry.load("recipe", name)
    for preset in ({}, *row.presets.values()):
        config = build(row.Config, preset)
        assert build(row.Config, tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_learns_has_moved(name, tmp_path):
    row = registry.load("recipe", name)
    config = build(row.Config, settings(row))
    seen = []

    def look(_, policy):
        state = {key: value.clone() for key, value in policy.network.state_dict().items()}
        seen.append(state)

    with Run.create(tmp_path, kind="train", name=name, config=config, seed=1) as run:
        run.watch = look
        row.check(config, tmp_path)
        policy = row.train(config, run, {})
        metrics = list(read_metrics(run.folder / "metrics.jsonl"))
    first, last = seen[0], seen[-1]
    learnt = [key for key, _ in policy.network.named_parameters()]
    still = [key for key in learnt if torch.equal(first[key], last[key])]
    assert not still
    assert all(torch.isfinite(value).all() for value in last.values())
    costs = [value for line in metrics for key, value in line.items() if key == "train/cost"]
    assert costs
    assert all(math.isfinite(cost) and cost >= 0.0 for cost in costs)
    if hasattr(config, "constraint"):
        begun = config.constraint.start(1)["multiplier"].item()
        logged = [line["constraint/multiplier_cost"] for line in metrics if "constraint/multiplier_cost" in line]
        assert any(multiplier != begun for multiplier in logged)
