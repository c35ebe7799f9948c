"""The offline rows: cloning, batch-constrained Q-learning, critic-regularised regression, penalised Q-learning.

Where they depart from OmniSafe 0.5.0 is said at the head of each update's module and of `rl/offline/training.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.offline.bcq import Bcq
from trueline.rl.offline.behaviour_cloning import Cloning, VaeCloning
from trueline.rl.offline.coptidice import Coptidice
from trueline.rl.offline.cpq import Cpq
from trueline.rl.offline.crr import Crr
from trueline.rl.offline.training import Constrained, Limited, Offline, OfflineRecipe

__all__ = ["BCQ", "BCQ_LAG", "BC_SAFE", "COPTIDICE", "CPQ", "CRR", "C_CRR", "VAE_BC"]

Settings = Mapping[str, Any]

# OmniSafe's are the defaults of the configuration; its cloning network is wider.
VAE: Settings = {"actor": {"hidden": (750, 750)}}
# A twentieth of the steps on a sixth of the arithmetic; the multiplier starts when critics know something.
FAST: Settings = {
    "total_steps": 50_000,
    "normalise": True,
    "actor": {"hidden": (128, 128)},
    "critic": {"hidden": (128, 128)},
}
FAST_LAG: Settings = {**FAST, "multiplier_after": 5_000}
# OSRL's, except that its auto-encoder has layers of 400 whatever the policy has.
OSRL_CPQ: Settings = {
    "total_steps": 100_000,
    "actor": {"hidden": (300, 300)},
    "critic": {"hidden": (400, 400)},
    "update": {"batch": 512},
}

BC_SAFE = OfflineRecipe("bc-safe", Limited, {"faithful": {}, "fast": FAST}, Cloning())
VAE_BC = OfflineRecipe("vae-bc", Offline, {"faithful": VAE, "fast": FAST}, VaeCloning())
BCQ = OfflineRecipe("bcq", Offline, {"faithful": {}, "fast": FAST}, Bcq())
BCQ_LAG = OfflineRecipe("bcq-lag", Constrained, {"faithful": {}, "fast": FAST_LAG}, Bcq())
CRR = OfflineRecipe("crr", Offline, {"faithful": {}, "fast": FAST}, Crr())
C_CRR = OfflineRecipe("c-crr", Constrained, {"faithful": {}, "fast": FAST_LAG}, Crr())
COPTIDICE = OfflineRecipe("coptidice", Limited, {"faithful": {}, "fast": FAST}, Coptidice())
CPQ = OfflineRecipe("cpq", Limited, {"faithful": OSRL_CPQ, "fast": FAST}, Cpq())
