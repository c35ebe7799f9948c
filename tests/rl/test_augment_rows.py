"""The rows with a budget have the published settings, and every preset of theirs is one that can be built."""

from __future__ import annotations

import pytest

from trueline.core.config import build
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.ppo import Ppo
from trueline.safety.recipes import augmented
from trueline.safety.recipes.augmented import PPO_EARLY, PPO_SAUTE, PPO_SIMMER, TRPO_EARLY, TRPO_SAUTE, TRPO_SIMMER

ROWS = [getattr(augmented, name) for name in augmented.__all__]


@pytest.mark.parametrize("row", ROWS)
def test_every_preset_of_a_row_has_its_update_and_its_rules(row):
    for preset in row.presets.values():
        config = build(row.Config, preset)
        assert isinstance(config.update, Trpo if row.name.startswith("trpo") else Ppo)
        assert type(config.augmentation) is type(row.augmentation)
    assert {"faithful", "fast"} <= set(row.presets)


@pytest.mark.parametrize("row", [PPO_SAUTE, PPO_SIMMER, TRPO_SAUTE, TRPO_SIMMER])
def test_budgets_are_the_published_ones(row):
    # omnisafe 0.5.0, PPOSaute.yaml, PPOSimmerPID.yaml and those of TRPO: defaults, and what Goal and Circle override.
    faithful = build(row.Config, row.presets["faithful"])
    rules = faithful.augmentation
    assert (rules.gamma, rules.unsafe_reward, rules.strict) == (0.999, -1.0, True)
    assert (faithful.cost_limit, faithful.steps_per_epoch, faithful.total_steps) == (25.0, 20_000, 10_000_000)
    goal = build(row.Config, row.presets["faithful-goal"])
    assert (goal.augmentation.gamma, goal.augmentation.unsafe_reward) == (0.9999, -0.2)
    assert goal.update.passes == (80 if row.name.startswith("ppo") else 10)
    if row in (PPO_SIMMER, TRPO_SIMMER):
        assert (rules.kp, rules.ki, rules.kd, rules.smoothing, rules.init) == (5e-4, 1e-5, 0.0, 0.995, 1.0)


@pytest.mark.parametrize("row", [PPO_EARLY, TRPO_EARLY])
def test_the_published_early_termination_does_not_show_what_is_left(row):
    rules = build(row.Config, row.presets["faithful"]).augmentation
    assert (rules.unsafe_reward, rules.observes) == (0.0, False)
    assert build(row.Config, row.presets["fast"]).augmentation.observes
