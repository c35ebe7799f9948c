"""Every planning row against the optimum of the problem it claims: trained from nothing, on a deterministic CMDP.

gap = (J* − J)/(J_unconstrained − J_safest) ≤ 5 %, with costs within the limit. Models are learnt; of the rows under
limits, costs are told by the world, as in the original's Goal worlds.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_planning_line import FREE, SAFE, Line, gap
from test_planning_loop import Dip, best_return, start_of

from trueline.core import registry
from trueline.core.config import build
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.exact.gap import GAP
from trueline.safety.recipes import planning as rows

MODEL = {"members": 3, "elites": 3, "hidden": [32, 32], "decay": [0.0] * 3, "batch": 64, "passes": 30, "lr": 3e-3}
SEARCH = {"kind": "cem", "horizon": 4, "samples": 256, "elites": 16, "iterations": 8, "particles": 3, "variance": 1.0}
LEARN = {
    "env": "Gap-Line-v0",
    "num_envs": 16,
    "steps_per_epoch": 192,
    "total_steps": 576,
    "repeat": 1,
    "warm_up": 384,
    "model": {**MODEL, "every": 10_000},
    "planner": SEARCH,
}
NET = {"hidden": [32, 32]}
VALUED = {
    "planner": {
        "kind": "arc",
        "horizon": 2,
        "samples": 64,
        "elites": 4,
        "iterations": 8,
        "particles": 3,
        "variance": 0.3,
        "proposed": 4,
    },
    "updates_per_step": 0.5,
    "gamma": 0.95,
    "critic": {"actor": NET, "critic": NET},
    "update": {"batch": 64, "lr": 3e-3, "critic_lr": 3e-3, "alpha": 0.02, "polyak": 0.02},
}


def line(id, num_envs, threads=1):
    return Line(num_envs, id=id)


def dip(id, num_envs, threads=1):
    return Dip(num_envs, id)


@pytest.fixture(autouse=True)
def _worlds():
    registry.add(Entry("env", "Gap-Line-v0", "test_planning_gap:line", "for tests"), "tests")
    registry.add(Entry("env", "Gap-Dip-v0", "test_planning_gap:dip", "for tests"), "tests")


def trained(tmp_path, row, **given):
    torch.set_num_threads(1)
    config = build(row.Config, {**LEARN, **given})
    with Run.create(tmp_path, kind="train", name="gap", config=config, seed=0) as run:
        return row.train(config, run, {})


def evaluated(policy, world, seeds):
    return run_episodes(world, seeds, lambda _: policy_actions(policy, np.random.default_rng(1)))


def on_the_line(policy):
    return evaluated(policy, Line(4), np.arange(4))


def test_pets_reaches_the_optimum_without_a_limit(tmp_path):
    found = on_the_line(trained(tmp_path, rows.PETS))
    assert (FREE - found.episode_return.mean()) / (FREE - SAFE) <= GAP


@pytest.mark.parametrize(("name", "limit"), [("CCE_PETS", 0), ("CCE_PETS", 3), ("RCE_PETS", 3), ("CAP_PETS", 3)])
def test_a_row_under_a_limit_reaches_its_optimum(name, limit, tmp_path):
    found = on_the_line(trained(tmp_path, getattr(rows, name), cost_limit=float(limit), signals="known"))
    assert (found.cost[:, 0] <= limit).all()
    assert gap(found.episode_return.mean(), limit) <= GAP


def test_safe_loop_reaches_the_optimum_under_a_hard_limit(tmp_path):
    given = {**VALUED, "total_steps": 768, "cost_limit": 0.0, "signals": "known"}
    found = on_the_line(trained(tmp_path, rows.SAFE_LOOP, **given))
    assert (found.cost == 0.0).all()
    assert gap(found.episode_return.mean(), 0) <= GAP


def test_loop_sees_beyond_its_plan_where_pets_does_not(tmp_path):
    """Two decisions ahead there is only loss; the value behind the plan knows of the gain five decisions away."""
    seeds = 2 * np.arange(16)  # starts from −0.5 to 0.1
    best = best_return(start_of(seeds)).mean()
    base = {"env": "Gap-Dip-v0", "steps_per_epoch": 320, "warm_up": 320, "total_steps": 960, "signals": "known"}
    planner = {**VALUED["planner"], "samples": 32, "elites": 6, "iterations": 4, "variance": 0.5}
    policy = trained(tmp_path, rows.LOOP, **{**base, **VALUED, "planner": planner, "updates_per_step": 1.0})
    found = evaluated(policy, Dip(16), seeds).episode_return.mean()
    blind = trained(tmp_path, rows.PETS, **{**base, "planner": {**SEARCH, "horizon": 2}, "total_steps": 640})
    stays = evaluated(blind, Dip(16), seeds).episode_return.mean()
    assert stays == pytest.approx(0.0, abs=0.1)
    assert (best - found) / (best - 0.0) <= GAP
