"""The rows of natural-gradient methods: what their presets say, and that every preset is a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from trueline.core.config import build
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.on_policy import OnPolicyRecipe
from trueline.safety.recipes.trust_region import CPO, NPG, PCPO, RCPO, TRPO, TRPO_LAG, TRPO_PID

ROWS = [NPG, TRPO, TRPO_LAG, TRPO_PID, RCPO, CPO, PCPO]


def settings(row: OnPolicyRecipe, preset: str) -> Any:
    return build(row.Config, row.presets[preset], where=f"{row.name} {preset}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_preset_is_a_configuration(row: OnPolicyRecipe) -> None:
    for preset in row.presets:
        assert settings(row, preset).update.target_kl > 0.0
    assert settings(row, "fast").num_envs == 64


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_faithful_settings_are_those_published(row: OnPolicyRecipe) -> None:
    found = settings(row, "faithful")
    assert (found.num_envs, found.steps_per_epoch, found.total_steps, found.gamma, found.lam) == (
        1,
        20_000,
        10_000_000,
        0.99,
        0.95,
    )
    update = found.update
    assert (update.target_kl, update.cg_iters, update.cg_damping, update.fisher_stride) == (0.01, 15, 0.1, 1)
    assert (update.passes, update.minibatch, update.critic_lr) == (10, 128, 1e-3)
    assert (update.grad_norm, update.critic_l2) == (40.0, 0.001)
    tries = {"trpo": 15, "trpo-lag": 15, "trpo-pid": 15, "cpo": 20, "pcpo": 200}
    assert getattr(update, "search_tries", None) == tries.get(row.name)
    assert getattr(update, "search_shrink", 0.8) == 0.8


def test_handlers_are_those_of_the_originals() -> None:
    for row in (TRPO_LAG, RCPO):
        assert settings(row, "faithful").constraint == Lagrangian(rule="adam", lr=0.035, init=0.001)
    assert settings(TRPO_PID, "faithful").constraint == PidLagrangian(kp=0.1, ki=0.01, kd=0.01, init=0.001)


@pytest.mark.parametrize(("row", "tries"), [(TRPO_LAG, 15), (CPO, 15), (PCPO, 200)])
def test_safepo_differs_in_environments_window_and_search(row: OnPolicyRecipe, tries: int) -> None:
    found = settings(row, "safepo")
    assert (found.num_envs, found.window, found.update.search_tries) == (10, 50, tries)
