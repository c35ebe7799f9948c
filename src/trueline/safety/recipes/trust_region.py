"""Rows whose policy takes one natural-gradient step a collection, in a trust region.

    npg       natural policy gradient                      trpo      that step, searched
    trpo-lag  TRPO under Lagrange multipliers              trpo-pid  TRPO under PID-controlled multipliers
    rcpo      the natural gradient under multipliers       cpo       the best step that keeps the limits
    pcpo      the natural step, then the nearest that keeps them

Presets: "faithful" is OmniSafe 0.5.0's settings, "safepo" SafePO 1.0.1's where that has the row, "fast" 64
environments. What departs from the originals in the rows of `ppo.py` departs here too, except that policy and critics
learn apart, as there; in what the updates depart stands at the heads of `rl/updates/natural.py` and `cpo.py`. Besides:

1. δ bounds the KL summed over action dimensions. To take steps as long as the originals', multiply δ by their number
   (2 for the point robot).
2. "safepo": each critic's gradient is bounded on its own, not all jointly.
3. TRPO-PID: the rise of the cost is measured from its first value, not from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.on_policy import Constrained, Limited, OnPolicy, OnPolicyRecipe
from trueline.rl.updates.cpo import Cpo, Pcpo
from trueline.rl.updates.natural import Npg, Trpo
from trueline.safety.recipes.first_order import Controlled
from trueline.safety.recipes.ppo import FAITHFUL, SAFEPO, VELOCITY_NATURAL, tuned

__all__ = ["CPO", "NPG", "PCPO", "RCPO", "TRPO", "TRPO_LAG", "TRPO_PID"]

# One step a collection, so that a collection is as small as its gradient can be trusted. With OmniSafe's damping of 0.1
# and 8,000 rows on SafetyPointGoal1, a step kept a fifth of what it gained on its own rows on rows it had not seen, and
# nothing of what it saved in cost; with a damping of 1 and twice the rows it kept some two thirds of its gain.
FAST: Mapping[str, Any] = {
    "num_envs": 64,
    "steps_per_epoch": 16_000,
    "total_steps": 1_600_000,
    "actor": {"log_std": -0.5},
    "update": {
        "target_kl": 0.04,
        "cg_iters": 10,
        "cg_damping": 1.0,
        "passes": 4,
        "minibatch": 1000,
        "critic_lr": 3e-3,
    },
}

# λ in reward per cost, slow at first, and moved by one round of 64 episodes, as in PPO-Lag's; the last policies are
# averaged.
FAST_LAG: Mapping[str, Any] = {
    **FAST,
    "window": 64,
    "averaged_share": 0.15,
    "standardise": "mix",
    "constraint": {"kind": "pid", "kp": 0.1, "ki": 0.05, "kd": 0.0, "smoothing": 0.5, "scale": 25.0, "init": 0.05},
}

# No multiplier grows while a limit stays violated: it is held as well as a step does what it foresees. Of 32,000 rows
# the gradients are known (on fresh rows a step foresaw what it did on its own), yet on SafetyPointGoal1 the cost stayed
# at one and a half to two times its limit, though each step foresaw an excess of 10 to 30 an episode to be gone; it may
# be that a surrogate counts one hazard avoided once for each of the steps before it. A quarter of δ at 20,000 rows gave
# half of the return away, and not all of the excess.
FAST_SLACK: Mapping[str, Any] = {
    **FAST,
    "steps_per_epoch": 32_000,
    "window": 64,
    "averaged_share": 0.15,
    "update": {**FAST["update"], "passes": 8},
}

NPG = OnPolicyRecipe(
    "npg", OnPolicy, {"faithful": FAITHFUL, "safepo": {"num_envs": 10}, **tuned(FAST, VELOCITY_NATURAL)}, Npg()
)
TRPO = OnPolicyRecipe(
    "trpo", OnPolicy, {"faithful": FAITHFUL, "safepo": {"num_envs": 10}, **tuned(FAST, VELOCITY_NATURAL)}, Trpo()
)
TRPO_LAG = OnPolicyRecipe(
    "trpo-lag", Constrained, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_LAG, VELOCITY_NATURAL)}, Trpo()
)
TRPO_PID = OnPolicyRecipe("trpo-pid", Controlled, {"faithful": FAITHFUL, **tuned(FAST_LAG, VELOCITY_NATURAL)}, Trpo())
RCPO = OnPolicyRecipe(
    "rcpo", Constrained, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_LAG, VELOCITY_NATURAL)}, Npg()
)
CPO = OnPolicyRecipe(
    "cpo",
    Limited,
    {"faithful": FAITHFUL, "safepo": {**SAFEPO, "update": {"search_tries": 15}}, **tuned(FAST_SLACK, VELOCITY_NATURAL)},
    Cpo(),
)
PCPO = OnPolicyRecipe(
    "pcpo", Limited, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_SLACK, VELOCITY_NATURAL)}, Pcpo()
)
