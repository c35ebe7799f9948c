"""Rows whose episodes are played under rules that keep the limit: a budget in the observation, or an early end.

They solve the almost-sure problem, Σc ≤ d in every episode, not E[Σc] ≤ d. Nothing is weighed, so no multiplier exists.

Departures from OmniSafe 0.5.0, for every row here:

1. The extra state begins anew with every episode, under the budget of that moment (Simmer's original does so in the
   first episode of an epoch alone; the original early termination carries costs over a time-out).
2. The last observation of an episode that was cut off by time holds the budget it ended with, from which its value is
   bootstrapped, and not the full one of the next episode.
3. T is the length of the world's own episodes; the original takes 1000 for every world, which gives Circle and Run a
   budget of 15.8 where γ_s = 0.999 and d = 25 make it 19.7.
4. Simmer's step divides by the upper bound D_u throughout, so that z keeps its unit while the budget moves.
   "faithful" has OmniSafe's controller, whose reference is the budget itself and which is not stable; "fast" has the
   plan of the authors' own code.
5. Any number of environments and of costs, each cost with a budget of its own; no reward as soon as one is spent.
6. The penalty is a setting in every row. A finite one is exceeded where breaking the limit pays more: what the rest
   of an episode can earn, times the odds, is how large it has to be. In early termination it is 0 by default, and a
   rest that is worth less than nothing is then escaped by a violation.
7. Evaluations and audits are played without the rules: an early-terminated policy is measured by whole episodes, where
   the original stops counting at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.saute import Saute
from trueline.rl.augmentation.simmer import Simmer
from trueline.rl.on_policy import Budgeted, OnPolicyRecipe
from trueline.rl.updates.natural import Trpo
from trueline.safety.recipes import ppo, trust_region
from trueline.safety.recipes.ppo import FAITHFUL

__all__ = ["PPO_EARLY", "PPO_SAUTE", "PPO_SIMMER", "TRPO_EARLY", "TRPO_SAUTE", "TRPO_SIMMER"]

# The original's own settings for Goal 1, 2 and Circle 1, 2: a slower discount and a milder penalty; PPO makes twice as
# many passes. (For Goal it also leaves observations as they are, which here are always normalised.)
GOAL: Mapping[str, Any] = {"augmentation": {"gamma": 0.9999, "unsafe_reward": -0.2}}
PPO_GOAL: Mapping[str, Any] = {**GOAL, "update": {"passes": 80}}

UNSEEN: Mapping[str, Any] = {"augmentation": {"observes": False}}  # the original's policy does not see what is left

# γ_s = 1 bounds the undiscounted cost, which is what limits are about; an episode may then cost exactly d.
WHOLE: Mapping[str, Any] = {"gamma": 1.0, "strict": False, "unsafe_reward": -0.2}

# A plan of the budget in place of the budget as its own reference (`rl/augmentation/simmer.py`), from half of the limit
# to all of it while episodes end five times: over a longer rise, policies on exact processes settled on what small
# budgets allow. Gains are two hundred times OmniSafe's: a hundred epochs of those move the budget by a hundredth.
SIMMERING: Mapping[str, Any] = {**WHOLE, "init": 0.5, "rise": 5, "kp": 0.1, "smoothing": 0.5}


def _fast(settings: Mapping[str, Any], augmentation: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**settings, "window": 64, "augmentation": augmentation}


PPO_SAUTE = OnPolicyRecipe(
    "ppo-saute",
    Budgeted,
    {"faithful": FAITHFUL, "faithful-goal": PPO_GOAL, **ppo.tuned(_fast(ppo.FAST, WHOLE))},
    augmentation=Saute(),
)
TRPO_SAUTE = OnPolicyRecipe(
    "trpo-saute",
    Budgeted,
    {"faithful": FAITHFUL, "faithful-goal": GOAL, **ppo.tuned(_fast(trust_region.FAST, WHOLE), ppo.VELOCITY_NATURAL)},
    Trpo(),
    Saute(),
)
PPO_SIMMER = OnPolicyRecipe(
    "ppo-simmer-pid",
    Budgeted,
    {"faithful": FAITHFUL, "faithful-goal": PPO_GOAL, **ppo.tuned(_fast(ppo.FAST, SIMMERING))},
    augmentation=Simmer(),
)
TRPO_SIMMER = OnPolicyRecipe(
    "trpo-simmer-pid",
    Budgeted,
    {
        "faithful": FAITHFUL,
        "faithful-goal": GOAL,
        **ppo.tuned(_fast(trust_region.FAST, SIMMERING), ppo.VELOCITY_NATURAL),
    },
    Trpo(),
    Simmer(),
)
PPO_EARLY = OnPolicyRecipe(
    "ppo-early",
    Budgeted,
    {"faithful": UNSEEN, **ppo.tuned(_fast(ppo.FAST, {}))},
    augmentation=EarlyTermination(),
)
TRPO_EARLY = OnPolicyRecipe(
    "trpo-early",
    Budgeted,
    {"faithful": UNSEEN, **ppo.tuned(_fast(trust_region.FAST, {}), ppo.VELOCITY_NATURAL)},
    Trpo(),
    EarlyTermination(),
)
