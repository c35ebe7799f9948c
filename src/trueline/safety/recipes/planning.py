"""The planning rows: PETS alone, under limits (CCE, RCE, CAP), and with a value behind the plan (LOOP, SafeLOOP).

Departures from OmniSafe 0.5.0, for every row here:

1. Each member learns from a bootstrap sample of its own, as published (Chua et al. 2018); the original gives every
   member all rows. Rows that are held out stay so; the original deals them anew before every fit, so that its held-out
   error is of rows it has learnt from.
2. The bounds of log σ² are learnt, as published; in the original they are constants, and their term in the loss does
   nothing. Targets are in deviations of what has been seen.
3. Learnt reward and costs are least-squares fits and enter a plan as the members' means; the original fits them with a
   variance of their own in every state, and adds its noise. A cost is 0 or more. A cost that is told counts for all
   steps of an action; the original counts it once.
4. A plan may cost its part of what is left of the episode's limit; the original allows d·H/T at any time
   (`budget = "rate"`), so that what has been spent is forgotten, and what has been saved is never used.
5. A plan does not count what it imagines beyond the end of the episode.
6. The transition in which a goal is reached teaches reward and cost; the original drops it.
7. N environments are planned for at once.

CAP (Ma et al. 2022): the penalty is that of the candidate itself. The original repeats its numbers in another order
than its costs have, so that most candidates are given another one's penalty. κ moves with the mean cost of episodes
that were planned on fresh layouts.

LOOP (Sikchi, Zhou & Held 2022): the value behind a plan is V(s_H) = min_j Q_j(s_H, π(s_H)), discounted by γᴴ. The
original takes Q_j(s_H, a_{H−1}), the last state with the action before it, and does not discount. Candidates of the
policy are draws of their own; in the original they are copies of one. The mean keeps its momentum in SafeLOOP too. The
search always takes all its iterations. α is 0.001 throughout; the original's 0.2 falls by a hundredth with every
gradient step, and is as small after some 500 of them.

Preset "faithful" is the original's setting for its Goal worlds, on coordinates: cost, and here the reward too, is told
by the world. That is privileged information; its figures stand beside no row that sees with lidar. Preset
"faithful-velocity" is the original's for running, where reward and cost are learnt. Without a preset a row learns
them from what the world shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.planning.training import Cautious, Limited, Planning, PlanningRecipe, Robust, Valued, ValuedRobust

__all__ = ["CAP_PETS", "CCE_PETS", "LOOP", "PETS", "RCE_PETS", "SAFE_LOOP"]

Settings = Mapping[str, Any]

# The defaults of the configuration are OmniSafe's for its Goal worlds; these are what differs by world.
GOAL: Settings = {
    "env": "Coordinates-v0",
    "env_options": {"of": "SafetyPointGoal1-v0"},
    "signals": "known",
}
VELOCITY: Settings = {
    "env": "SafetyHalfCheetahVelocity-v1",
    "repeat": 1,
    "planner": {"kind": "cem", "horizon": 16, "variance": 0.1},
}
RATE: Settings = {"budget": "rate"}

ARC: Settings = {"kind": "arc", "variance": 0.075}  # SafeLOOP's for Goal
VALUED_VELOCITY: Settings = {
    "env": "SafetyHalfCheetahVelocity-v1",
    "repeat": 1,
    "planner": {"kind": "arc", "horizon": 3, "variance": 0.1, "temperature": 1.0},
    "critic": {"actor": {"hidden": (256, 256)}, "critic": {"hidden": (256, 256)}},
    "update": {"lr": 3e-4, "critic_lr": 3e-4, "delay": 2, "alpha": 0.2},
    "updates_per_step": 1.0,
}

LIMITED: Mapping[str, Settings] = {"faithful": {**GOAL, **RATE}, "faithful-velocity": {**VELOCITY, **RATE}}

PETS = PlanningRecipe("pets", Planning, {"faithful": GOAL, "faithful-velocity": VELOCITY})
CCE_PETS = PlanningRecipe("cce-pets", Limited, LIMITED)
RCE_PETS = PlanningRecipe("rce-pets", Robust, LIMITED)
CAP_PETS = PlanningRecipe("cap-pets", Cautious, LIMITED)
LOOP = PlanningRecipe("loop", Valued, {"faithful": GOAL, "faithful-velocity": VALUED_VELOCITY})
SAFE_LOOP = PlanningRecipe(
    "safe-loop",
    ValuedRobust,
    {"faithful": {**GOAL, **RATE, "planner": ARC}, "faithful-velocity": {**VALUED_VELOCITY, **RATE}},
)
