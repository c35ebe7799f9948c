"""The off-policy rows: DDPG, TD3 and SAC, alone and under a multiplier or a PID controller, and CVPO.

Departures from OmniSafe 0.5.0 (the multiplier's rows: Ray, Achiam & Amodei 2019; Stooke, Achiam & Abbeel 2020), for
every row here:

1. The multiplier moves when episodes end, from the first one of the policy on. The original moves it by 1e-5 with every
   gradient step, but not before 100 epochs, which is 200,000 steps: a shorter run is never constrained. One move here
   stands for the thousand of an episode, so that the published rates and gains are multiplied by 1000 (of PID only
   what adds up, k_i).
2. Costs enter in their own unit. The original divides them by a running deviation, which changes what λ means while
   it moves; for the Goal1 and Circle1 tasks it does not.
3. Random actions are drawn for every environment on its own. The original draws one row whatever their number.
4. DDPG's target takes its action from the slow copy of the policy, as published; the original from the policy itself.
5. Observations are normalised, where they are, by statistics that stand still between epochs and stay with the policy.
6. Each network's gradient has its own bound; in the original the reward's twins share one.

CVPO's own departures are in `rl/off_policy/cvpo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.core.config import laid_over
from trueline.rl.off_policy.cvpo import Cvpo
from trueline.rl.off_policy.sac import Sac
from trueline.rl.off_policy.td3 import DDPG as DDPG_UPDATE
from trueline.rl.off_policy.td3 import Td3
from trueline.rl.off_policy.training import Constrained, Limited, OffPolicy, OffPolicyRecipe

__all__ = ["CVPO", "DDPG", "DDPG_LAG", "DDPG_PID", "SAC", "SAC_LAG", "SAC_PID", "TD3", "TD3_LAG", "TD3_PID"]

Settings = Mapping[str, Any]

# OmniSafe's defaults are those of the configuration; what differs by row stands here.
DETERMINISTIC: Settings = {"warm_up": 25_000}
PID: Settings = {
    "update": {"lr": 1e-4},
    "constraint": {"kind": "pid", "kp": 1e-6, "ki": 1e-4, "kd": 1e-7, "smoothing": 0.0, "init": 0.001},
}

# Its overrides for the Goal1 and Circle1 tasks of Point and Car.
GOAL1: Settings = {"update": {"lr": 5e-6, "critic_lr": 1e-3}}
GOAL1_SAC: Settings = {"update": {**GOAL1["update"], "alpha": 1e-5}}
GOAL1_LAG: Settings = {"constraint": {"kind": "lagrangian", "lr": 5e-4, "init": 0.0}}
GOAL1_PID: Settings = {
    "constraint": {"kind": "pid", "kp": 5e-7, "ki": 1e-5, "kd": 1e-8, "smoothing": 0.0, "init": 0.001}
}

# 16 environments: their steps cost a tenth of what one alone costs, and a wave of episodes still ends, and moves the
# multiplier, every 16,000 steps. A gradient step costs as much as twenty to eighty steps of a world, so that there is
# one for every eight of them, on networks of a quarter of the arithmetic.
FAST: Settings = {
    "num_envs": 16,
    "steps_per_epoch": 16_000,
    "total_steps": 480_000,
    "warm_up": 16_000,
    "updates_per_step": 0.125,
    "normalise": True,
    "checkpoint_epochs": 5,
    "actor": {"hidden": (128, 128)},
    "critic": {"hidden": (128, 128)},
    "update": {"lr": 1e-3, "critic_lr": 1e-3},
}
FAST_SAC: Settings = {**FAST, "update": {**FAST["update"], "auto_alpha": True, "alpha_lr": 1e-3}}
# λ in reward per cost, slow at first, as the on-policy rows have it.
FAST_LIMITED: Settings = {
    "window": 16,
    "episodes_per_move": 16,
    "constraint": {"kind": "pid", "kp": 0.1, "ki": 0.05, "kd": 0.0, "smoothing": 0.5, "scale": 25.0, "init": 0.05},
}
FAST_LAG: Settings = {
    "window": 16,
    "episodes_per_move": 16,
    "constraint": {"kind": "lagrangian", "lr": 0.02, "init": 0.02},
}
# Running pays some 5 a step beyond the velocity at which a step costs 1. A multiplier that 60 moves of 10⁶ steps bring
# to 1.2 at most never weighs that; here it moves, while the cost is far from its limit, by as much per episode as the
# published one. (Adam counts moves: as the excess shrinks, so do they, sooner there than here.)
FAST_LAG_VELOCITY: Settings = laid_over(FAST_LAG, {"constraint": {"kind": "lagrangian", "lr": 0.16}})

# FSRL's loop: twenty worlds, ten episodes of a thousand steps to an epoch, a gradient step for every five.
FSRL: Settings = {
    "num_envs": 20,
    "steps_per_epoch": 10_000,
    "total_steps": 2_000_000,
    "updates_per_step": 0.2,
    "capacity": 200_000,
    "n_step": 2,
    "gamma": 0.97,
    "cost_gamma": 0.97,
    "actor": {"hidden": (128, 128)},
    "critic": {"hidden": (128, 128)},
}
FAST_CVPO: Settings = {**FAST, "n_step": 2, "gamma": 0.97, "cost_gamma": 0.97, "update": {"renew": 200}}


def _presets(own: Settings, goal1: Settings, fast: Settings) -> Mapping[str, Settings]:
    return {"faithful": own, "faithful-goal1": laid_over(own, goal1), "fast": fast}


def _lag_presets(own: Settings, goal1: Settings, fast: Settings) -> Mapping[str, Settings]:
    return {
        **_presets(own, laid_over(goal1, GOAL1_LAG), laid_over(fast, FAST_LAG)),
        "fast-velocity": laid_over(fast, FAST_LAG_VELOCITY),
    }


DDPG = OffPolicyRecipe("ddpg", OffPolicy, _presets(DETERMINISTIC, GOAL1, FAST), DDPG_UPDATE)
DDPG_LAG = OffPolicyRecipe("ddpg-lag", Constrained, _lag_presets(DETERMINISTIC, GOAL1, FAST), DDPG_UPDATE)
DDPG_PID = OffPolicyRecipe(
    "ddpg-pid",
    Constrained,
    _presets(
        # Its published file begins with no multiplier, where TD3's and SAC's begin with 0.001.
        laid_over(DETERMINISTIC, PID, {"constraint": {"kind": "pid", "init": 0.0}}),
        laid_over(GOAL1, GOAL1_PID, {"constraint": {"kind": "pid", "init": 0.0}}),
        laid_over(FAST, FAST_LIMITED),
    ),
    DDPG_UPDATE,
)
TD3 = OffPolicyRecipe("td3", OffPolicy, _presets(DETERMINISTIC, GOAL1, FAST), Td3())
TD3_LAG = OffPolicyRecipe("td3-lag", Constrained, _lag_presets(DETERMINISTIC, GOAL1, FAST), Td3())
TD3_PID = OffPolicyRecipe(
    "td3-pid",
    Constrained,
    _presets(laid_over(DETERMINISTIC, PID), laid_over(GOAL1, GOAL1_PID), laid_over(FAST, FAST_LIMITED)),
    Td3(),
)
SAC = OffPolicyRecipe("sac", OffPolicy, _presets({}, GOAL1_SAC, FAST_SAC), Sac())
SAC_LAG = OffPolicyRecipe("sac-lag", Constrained, _lag_presets({}, GOAL1_SAC, FAST_SAC), Sac())
SAC_PID = OffPolicyRecipe(
    "sac-pid", Constrained, _presets(PID, laid_over(GOAL1_SAC, GOAL1_PID), laid_over(FAST_SAC, FAST_LIMITED)), Sac()
)
CVPO = OffPolicyRecipe("cvpo", Limited, {"faithful": FSRL, "fast": FAST_CVPO}, Cvpo())
