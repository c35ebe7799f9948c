"""Rows whose subjects are teams: agents of one world that learn together or in turn.

    mappo      each agent on its own clipped surrogate       happo   in turn, with the ratios of those before
    mappo-lag  HAPPO under a multiplier per agent and cost   macpo   in turn, CPO's step within what is left of limits

Where several agents share a cost, MACPO may end at limits that another division would serve better: an agent at its
limit spends no more than it saves itself, and none saves for another (`rl.teams.exact.best_response` tells such an
equilibrium). Multipliers are a price that all see, so that MAPPO-Lag divides what may be spent. Where a cost depends on
what others do, set answers_for="all" in either: by default, as published, an agent keeps to its own limits alone.

Preset "faithful": SafePO 1.0.1's settings of its velocity worlds. Departures from that package, for every row:

1. One critic tells every agent's values; the original has one per agent, fitted on the same rows. Rewards and costs
   have statistics of their own for their targets; MAPPO-Lag and MACPO share them there, so that scales are mixed.
2. The statistics are taken in once a collection, and the critic's last layer is rescaled with them (Pop-Art); the
   original changes what its outputs mean and leaves the weights alone.
3. Observations are normalised by running statistics; the original's networks begin with a layer norm and have another
   behind each layer. Deviations of actions are e^θ; there ½·sigmoid(θ), whose start is kept.
4. Values are bootstrapped where an episode is cut off by time. There every end is one.
5. A value that starts at 0 there starts near it here; Adam's ε is 1e-8, there 1e-5.
6. MAPPO: the ratio is that of an agent's whole action. The original clips each dimension's by itself and adds up.
7. MAPPO-Lag: agents learn in turn, as there. λ moves once a collection by J_C of the window alone; there in every
   minibatch, with a further term ρA_c that is 0 but for noise, at a rate that moves λ by 5e-7 per unit of cost: the
   preset keeps λ there, and so nearly still. The mix is divided by 1 + λ. Each agent's own episode costs steer it;
   there the mean of all.
8. MACPO: the sign of the limit's gradient (rl/updates/cpo.py); slack is per step of the mean episode, in place of the
   factor 1 − γ, and of costs whose scale is left alone; what agents before have used of it is taken off; steps are as
   long as the trust region allows, where the original begins with a tenth and bounds the parameters' change by 0.5.
   Its critics take one step a collection there, whatever `learning_iters` says; here as many passes as that says.
9. An epoch in which no episode ends leaves multipliers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.teams.training import ConstrainedTeam, LimitedTeam, TeamRecipe, TeamSettings
from trueline.rl.teams.updates import Happo, Macpo, Mappo

__all__ = ["HAPPO", "MACPO", "MAPPO", "MAPPO_LAG"]

COLLECTION = 10_000  # ten environments for an episode of 1,000 steps: one minibatch

# Gains are 1 behind the last layer's √2 here: 0.01 there. A critic's is 0.
_NETWORK: Mapping[str, Any] = {"hidden": [128, 128, 128], "activation": "relu", "init": "orthogonal"}
FAITHFUL: Mapping[str, Any] = {
    "reward": "own",
    "actor": {**_NETWORK, "last_gain": 0.00707, "log_std": -1.00642},
    "critic": {**_NETWORK, "last_gain": 0.001},
    "values": {"memory": 0.99995},
}
_PASSES: Mapping[str, Any] = {
    "passes": 5,
    "minibatch": COLLECTION,
    "schedule": "constant",
    "target_kl": None,
    "entropy": 0.01,
    "grad_norm": 10.0,
    "critic_l2": 0.0,
}

MAPPO = TeamRecipe("mappo", TeamSettings, {"faithful": FAITHFUL}, Mappo(**_PASSES, lr=9e-5, critic_lr=5e-3))
HAPPO = TeamRecipe("happo", TeamSettings, {"faithful": FAITHFUL}, Happo(**_PASSES, lr=5e-4, critic_lr=5e-4))
MAPPO_LAG = TeamRecipe(
    "mappo-lag",
    ConstrainedTeam,
    {
        "faithful": {
            **FAITHFUL,
            "window": 10,
            "standardise": "each",
            "constraint": {"rule": "sgd", "init": 0.78, "lr": 5e-7},
        }
    },
    Happo(**_PASSES, lr=5e-4, critic_lr=5e-4),
)
MACPO = TeamRecipe(
    "macpo",
    LimitedTeam,
    {
        "faithful": {
            **FAITHFUL,
            "window": 10,
            "actor": {**FAITHFUL["actor"], "hidden": [128, 128]},
            "critic": {**FAITHFUL["critic"], "hidden": [128, 128]},
        }
    },
    Macpo.model_validate(
        {
            "target_kl": 0.01,
            "cg_iters": 10,
            "passes": 15,
            "minibatch": COLLECTION,
            "critic_lr": 5e-3,
            "grad_norm": 10.0,
            "critic_l2": 0.0,
            "search_tries": 10,
            "search_shrink": 0.5,
        }
    ),
)
