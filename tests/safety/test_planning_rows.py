"""The goal worlds as a planner sees them: coordinates, and what they are worth, against the worlds' own accounts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.check_env import check_env
from trueline.rl.env import Stateful
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.planning.coordinates import Coordinates, make_coordinates
from trueline.rl.planning.known import Known
from trueline.rl.planning.policy import load
from trueline.safety.recipes import planning as rows


def of(name, num_envs=3, **options):
    return make_coordinates("Coordinates-v0", num_envs, 1, name, options)


def test_coordinates_are_a_world():
    hazards = {"things": [{"kind": "hazards", "count": 3}], "steps": 12}
    rules = [{"name": "cost_hazards", "kind": "inside", "of": "hazards"}]
    check_env(
        lambda n, threads=1: make_coordinates(
            "Coordinates-v0", n, threads, "SafetyCustom-v0", {**hazards, "rules": rules}
        )
    )


@pytest.mark.parametrize(("name", "senses", "hazards"), [("SafetyPointGoal1-v0", 12, 8), ("SafetyCarGoal0-v0", 24, 0)])
def test_what_is_told_is_what_the_world_pays_and_charges(name, senses, hazards):
    """Random actions, some of them inside hazards; steps that reach a goal show the next one and are left out."""
    world = of(name, 8)
    assert isinstance(world, Known)
    assert isinstance(world, Stateful)
    assert world.observation_space.shape == (senses + 4 + 2 * (1 + hazards),)
    rng, obs, costs = np.random.default_rng(0), world.reset(np.arange(8, dtype=np.uint32)), 0.0
    drive = np.clip(rng.normal(size=(8, 2)) + [0.7, 0.0], -1.0, 1.0)
    for t in range(250):
        if t % 25 == 0:
            drive = np.clip(rng.normal(size=(8, 2)) + [0.7, 0.0], -1.0, 1.0)
        step = world.step(drive)
        told = world.signals(torch.from_numpy(obs), torch.zeros(8, 2), torch.from_numpy(step.final_obs), 1).numpy()
        still = ~step.info["goal_met"]
        # A micrometre, from metres in single precision.
        np.testing.assert_allclose(told[still, 0], step.reward[still], atol=2e-6)
        np.testing.assert_array_equal(told[:, 1], step.cost[:, 0])
        obs, costs = step.obs, costs + step.cost.sum()
    assert (costs > 0.0) == (hazards > 0)
    world.close()


def test_things_lie_where_the_agent_would_drive_to():
    """Ahead is the first number: what lies there comes nearer along it as the agent drives on."""
    world = of("SafetyPointGoal1-v0", 4)
    before = world.reset(np.arange(4, dtype=np.uint32))
    for _ in range(12):
        step = world.step(np.tile([1.0, 0.0], (4, 1)))
    ego = slice(16, None)
    moved = (step.obs[:, ego] - before[:, ego]).reshape(4, 9, 2)
    assert (moved[..., 0] < -0.02).all()
    assert (np.abs(moved[..., 1]) < 0.2 * np.abs(moved[..., 0])).all()
    world.close()


def test_the_last_coordinates_of_an_episode_are_its_own():
    world = of("SafetyPointGoal1-v0", 2)
    obs = world.reset(np.array([1, 2], dtype=np.uint32))
    for _ in range(world.max_episode_steps):
        before, step = obs, world.step(np.zeros((2, 2)))
        obs = step.obs
    assert step.truncated.all()
    np.testing.assert_allclose(step.final_obs[:, 14:], before[:, 14:], atol=0.02)  # the agent stands still
    assert (np.abs(step.obs[:, 14:] - before[:, 14:]).max(axis=1) > 0.1).all()  # the next layout is another
    world.close()


def test_several_steps_inside_a_hazard_cost_each():
    world = of("SafetyPointGoal1-v0", 1)
    obs = torch.from_numpy(world.reset(np.zeros(1, dtype=np.uint32)))
    inside = obs.clone()
    inside[:, 18:20] = torch.tensor([0.1, 0.1])  # the first hazard; its radius is 0.2
    rim = obs.clone()
    rim[:, 18:20] = torch.tensor([0.25, 0.0])
    assert world.signals(obs, torch.zeros(1, 2), inside, 5)[0, 1] == 5.0
    assert world.signals(obs, torch.zeros(1, 2), rim, 5)[0, 1] == 0.0
    near = obs.clone()
    near[:, 16:18] = torch.tensor([0.0, 0.2])  # the goal, of radius 0.3
    gained = float(obs[0, 16:18].norm()) - 0.2
    assert float(world.signals(obs, torch.zeros(1, 2), near, 5)[0, 0]) == pytest.approx(gained + 1.0, abs=1e-6)
    world.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SafetyPointGoal2-v0", "only cost is that of hazards"),
        ("SafetyPointCircle1-v0", "0 goals"),
        ("CmdpBox-Tolls-v0", "does not say where things are"),
    ],
)
def test_worlds_whose_signals_are_no_function_of_coordinates_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        of(name, 1)


@pytest.fixture
def _coordinates():
    target = "trueline.rl.planning.coordinates:make_coordinates"
    if "Coordinates-v0" not in {entry.name for entry in registry.entries("env")}:
        registry.add(Entry("env", "Coordinates-v0", target, "for tests"), "tests")


@pytest.mark.usefixtures("_coordinates")
@pytest.mark.parametrize("name", rows.__all__)
def test_every_preset_fits_its_world(name, tmp_path):
    row = getattr(rows, name)
    for preset in ("faithful", "faithful-velocity"):
        row.check(build(row.Config, row.presets[preset]), tmp_path)


@pytest.mark.usefixtures("_coordinates")
def test_a_row_plans_on_coordinates_and_its_policy_asks_its_own_world(tmp_path):
    settings = {
        "env": "Coordinates-v0",
        "env_options": {"of": "SafetyPointGoal1-v0"},
        "signals": "known",
        "num_envs": 2,
        "steps_per_epoch": 120,
        "total_steps": 240,
        "warm_up": 120,
        "model": {"members": 2, "elites": 2, "hidden": [16], "decay": [0.0, 0.0], "batch": 32, "passes": 2},
        "planner": {"kind": "cem", "horizon": 3, "samples": 16, "elites": 4, "iterations": 2, "particles": 2},
    }
    config = build(rows.CCE_PETS.Config, settings)
    rows.CCE_PETS.check(config, tmp_path)
    with Run.create(tmp_path, kind="train", name="cce", config=config, seed=0) as run:
        policy = rows.CCE_PETS.train(config, run, {})
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    world = worlds.of(again.world, 1)
    assert isinstance(world, Coordinates)
    world.max_episode_steps = 10
    found = [
        run_episodes(world, [3], lambda _, p=p: policy_actions(p, np.random.default_rng(0))) for p in (policy, again)
    ]
    assert found[0].episode_return == found[1].episode_return
    world.close()
