"""The offline rows: cloning, batch-constrained Q-learning and critic-regularised regression, alone and under limits.

Where they depart from OmniSafe 0.5.0 is said at the head of each update's module and of `rl/offline.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueline.rl.bcq import Bcq
from trueline.rl.behaviour_cloning import Cloning, VaeCloning
from trueline.rl.coptidice import Coptidice
from trueline.rl.crr import Crr
from trueline.rl.offline import Constrained, Limited, Offline, OfflineRecipe

__all__ = ["BCQ", "BCQ_LAG", "BC_SAFE", "COPTIDICE", "CRR", "C_CRR", "VAE_BC"]

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

BC_SAFE = OfflineRecipe("bc-safe", Limited, {"faithful": {}, "fast": FAST}, Cloning())
VAE_BC = OfflineRecipe("vae-bc", Offline, {"faithful": VAE, "fast": FAST}, VaeCloning())
BCQ = OfflineRecipe("bcq", Offline, {"faithful": {}, "fast": FAST}, Bcq())
BCQ_LAG = OfflineRecipe("bcq-lag", Constrained, {"faithful": {}, "fast": FAST_LAG}, Bcq())
CRR = OfflineRecipe("crr", Offline, {"faithful": {}, "fast": FAST}, Crr())
C_CRR = OfflineRecipe("c-crr", Constrained, {"faithful": {}, "fast": FAST_LAG}, Crr())
COPTIDICE = OfflineRecipe("coptidice", Limited, {"faithful": {}, "fast": FAST}, Coptidice())
