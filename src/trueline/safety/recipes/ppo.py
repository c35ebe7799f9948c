"""The table of constrained algorithms: a row is a name, what its configuration allows, and named settings.

Departures from the published PPO-Lag (Ray, Achiam & Amodei 2019; OmniSafe 0.5.0), for every row here:

1. Values are bootstrapped from the true last observation of an episode that was cut off by time.
2. Observation statistics are updated once per epoch, by the trainer, and never by an evaluation.
3. Costs may have a discount of their own (`cost_gamma`); the original ignores that setting.
4. An epoch in which no episode ends leaves the multiplier alone, and logs no estimate in place of a NaN.
5. Policy and critics take one joint step. Without pictures they share no parameter, so each moves exactly as with an
   Adam of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.core.config import laid_over
from trueline.rl.on_policy import Constrained, OnPolicy, OnPolicyRecipe

__all__ = ["PPO", "PPO_LAG"]

# Hyper-parameters of OmniSafe's and SafePO's published tables: 40 passes over minibatches of 64. They are the
# defaults of the configuration; the name says so on the command line.
FAITHFUL: Mapping[str, Any] = {}
# Every published window is 100 finished episodes in OmniSafe and 50 in SafePO.
SAFEPO: Mapping[str, Any] = {"num_envs": 10, "window": 50}

# 64 environments of 250 steps an epoch: many layouts at once, large minibatches at a ninth of the cost per sample.
FAST: Mapping[str, Any] = {
    "num_envs": 64,
    "steps_per_epoch": 16_000,
    "total_steps": 1_600_000,
    "actor": {"log_std": -0.5},
    "update": {
        "passes": 8,
        "minibatch": 2000,
        "lr": 1e-3,
        "critic_lr": 1e-3,
        "critic_schedule": "linear",
        "target_kl": 0.03,
    },
}

# λ in reward per cost, slow at first: a policy that is held to its limit before it can reach a goal learns to stand
# still. Every fourth epoch all episodes end, and the controller moves once on their 64 costs.
FAST_LAG: Mapping[str, Any] = {
    **FAST,
    "window": 64,
    "averaged_share": 0.15,
    "standardise": "mix",
    "constraint": {"kind": "pid", "kp": 0.1, "ki": 0.05, "kd": 0.0, "smoothing": 0.5, "scale": 25.0, "init": 0.05},
}

# Running is learnt in many small steps: with FAST's environments and minibatches a policy runs so late that a short
# training ends below the limit without knowing of one. Every fourth collection sixteen episodes end, and multipliers
# move by the mean of the last 64.
VELOCITY: Mapping[str, Any] = {"num_envs": 16, "steps_per_epoch": 4000, "update": {"minibatch": 250}}
# Of an update that takes one step a collection: twice the rows.
VELOCITY_NATURAL: Mapping[str, Any] = {"num_envs": 16, "steps_per_epoch": 8000}


def tuned(fast: Mapping[str, Any], velocity: Mapping[str, Any] = VELOCITY) -> Mapping[str, Mapping[str, Any]]:
    """The presets of many environments: for navigation, and what is other than that for the velocity worlds."""
    return {"fast": fast, "fast-velocity": laid_over(fast, velocity)}


PPO = OnPolicyRecipe("ppo", OnPolicy, {"faithful": FAITHFUL, "safepo": {"num_envs": 10}, **tuned(FAST)})
PPO_LAG = OnPolicyRecipe("ppo-lag", Constrained, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_LAG)})
