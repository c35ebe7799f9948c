"""Rows of minibatch steps on a first-order objective, and those whose handler is a barrier or a switch.

    pg       plain policy gradient                       pdo      the same under Lagrange multipliers
    ppo-pid  PPO under PID-controlled multipliers        focops   pulled to the best policy in a trust region
    cup      improve the reward, then project            p3o      PPO with an exact penalty on the violation
    ipo      PPO under the slope of a log barrier        oncrpo   TRPO on the reward or on a violated cost

Presets: "faithful" is OmniSafe 0.5.0's settings, "safepo" SafePO 1.0.1's where that has the row, "fast" 64 environments
and large minibatches. What departs from the originals in every row of `ppo.py` departs here too, and besides:

1. PDO and IPO: the originals divide rewards and costs by running deviations. Here there is no such option: the reward's
   advantage is standardised anyway, and costs keep their unit, so that λ and κ are per unit of cost.
2. FOCOPS: the indicator of the trust region is by row (`rl/updates/focops.py`).
3. CUP: several costs have a multiplier each; `update.horizon` counts the steps of an episode where costs are not
   discounted. The second step's moments go on from the first's, as in the originals.
4. P3O: the violation is per step, as the surrogate is; the originals add a sum over an episode to a mean over steps, so
   that a violated limit stays violated whatever the update does. A minibatch is judged by what changed, not by which
   rows it drew (`rl/updates/p3o.py`).
5. IPO: a barrier for each cost. Before the first episode has ended there is no penalty; the original has no number.
6. PPO-PID: the rise of the cost is measured from its first value, not from 0.
7. OnCRPO: of several violated costs, the one with the largest excess. δ is of the summed KL (`trust_region.py`).
8. "safepo": the gradient's norm is bounded network by network, not for all jointly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from trueline.core.config import laid_over
from trueline.core.errors import ConfigError
from trueline.rl.handlers.barrier import Barrier
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.handlers.switching import Switching
from trueline.rl.on_policy import Constrained, Limited, OnPolicy, OnPolicyRecipe
from trueline.rl.updates.cup import Cup, steps_weighed
from trueline.rl.updates.focops import Focops
from trueline.rl.updates.natural import Trpo
from trueline.rl.updates.p3o import P3o
from trueline.rl.updates.ppo import Ppo
from trueline.safety.recipes.ppo import FAITHFUL, FAST, FAST_LAG, SAFEPO, VELOCITY, VELOCITY_NATURAL, tuned

__all__ = ["CUP", "FOCOPS", "IPO", "ON_CRPO", "P3O", "PDO", "PG", "PPO_PID"]

NU_MAX = 2.0  # of FOCOPS and CUP


class Bounded(Constrained):
    """Settings with multipliers up to ν_max, as published; a limit whose λ* is above that is not held.

    A PID controller, which the presets "fast" take, has no such bound unless `constraint.integral_max` sets one.
    """

    constraint: Lagrangian | PidLagrangian = Lagrangian(upper=NU_MAX)


class Projected(Bounded):
    """Settings of CUP."""

    @model_validator(mode="after")
    def _steps_can_be_counted(self) -> Self:
        if isinstance(self.update, Cup):
            try:
                steps_weighed(self.cost_gamma, self.cost_lam, self.update.horizon)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self


class Controlled(Constrained):
    """Settings with multipliers that a PID controller moves."""

    constraint: PidLagrangian = PidLagrangian(init=0.001)


class Interior(Constrained):
    """Settings of a row that stays inside its limits by a barrier."""

    constraint: Barrier = Barrier()


class Switched(Constrained):
    """Settings of a row that switches between reward and cost."""

    constraint: Switching = Switching()


# As in FAST_LAG: J_C is one round of 64 episodes, and the last policies are averaged.
FAST_LIMITED: Mapping[str, Any] = {**FAST, "window": 64, "averaged_share": 0.15}

# CUP's λ is in deviations of the reward's advantage, 0.1 to 0.15 on Goal, and counts (1 − γλ)/(1 − γ) = 5.95 times: it
# weighs a cost about as the same number does in reward per cost, so that FAST_LAG's controller serves it.
FAST_CUP: Mapping[str, Any] = {**FAST_LIMITED, "constraint": FAST_LAG["constraint"]}

# A few steps on large minibatches follow little noise: at the published price of 1.5 per nat the KL of an update stayed
# at 0.002, at 0.2 it reaches target_kl. And a state may move as far as the mean may, or most rows would be left out.
FAST_FOCOPS: Mapping[str, Any] = {
    **FAST_LAG,
    "update": {**FAST["update"], "lam": 0.2, "eta": FAST["update"]["target_kl"]},
}

# Many steps on small minibatches are what the published price is for: at 0.2 one pass of them went to a KL of 0.1 to
# 0.4, and 10⁶ steps of running came to half the return of the other rows, at three times the limit.
VELOCITY_FOCOPS = laid_over(VELOCITY, {"update": {"lam": 1.5, "eta": 0.02}})

# κ·σ_r is about 0.5 reward per cost, above the 0.2 to 0.45 that multipliers come to on Goal. At the published 20 a
# policy learns to stand still before it reaches a goal.
FAST_P3O: Mapping[str, Any] = {**FAST_LIMITED, "update": {**FAST["update"], "kappa": 5.0}}

FAST_ON_CRPO: Mapping[str, Any] = {
    **FAST_LIMITED,
    "update": {"target_kl": 0.02, "passes": 4, "minibatch": 2000, "critic_lr": 3e-3},
}

PG = OnPolicyRecipe(
    "pg",
    OnPolicy,
    {"faithful": FAITHFUL, "safepo": {"num_envs": 10, "update": {"passes": 40}}, **tuned(FAST)},
    update=Ppo(clip=None, passes=10),
)
PDO = OnPolicyRecipe("pdo", Constrained, {"faithful": FAITHFUL, **tuned(FAST_LAG)}, update=Ppo(clip=None))
PPO_PID = OnPolicyRecipe("ppo-pid", Controlled, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_LAG)})
FOCOPS = OnPolicyRecipe(
    "focops", Bounded, {"faithful": FAITHFUL, "safepo": SAFEPO, **tuned(FAST_FOCOPS, VELOCITY_FOCOPS)}, update=Focops()
)
CUP = OnPolicyRecipe(
    "cup",
    Projected,
    {
        "faithful": FAITHFUL,
        "safepo": {**SAFEPO, "update": {"target_kl": 0.02}, "constraint": {"upper": 0.2}},
        **tuned(FAST_CUP),
    },
    update=Cup(target_kl=0.01),
)
P3O = OnPolicyRecipe("p3o", Limited, {"faithful": FAITHFUL, **tuned(FAST_P3O)}, update=P3o(passes=10))
IPO = OnPolicyRecipe("ipo", Interior, {"faithful": FAITHFUL, **tuned(FAST_LIMITED)}, update=Ppo(passes=10))
ON_CRPO = OnPolicyRecipe(
    "oncrpo", Switched, {"faithful": FAITHFUL, **tuned(FAST_ON_CRPO, VELOCITY_NATURAL)}, update=Trpo()
)
