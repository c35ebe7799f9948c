"""Names of algorithms: which the original has, and which rows they are here.

Those that plan in a learnt model, COptiDICE and CRABS have rows too, but settings that are not the original's: their
names lead to the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from trueline.core.errors import UnknownName, nearest

__all__ = ["ALGORITHM2TYPE", "ALGORITHMS", "OTHERS", "Algorithm", "find"]

Constraint = Literal["none", "lagrange", "pid", "limit", "barrier", "switch", "saute", "simmer", "early"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm of the original and the row that trains it."""

    name: str
    recipe: str
    update: Literal["first-order", "natural", "off-policy", "offline"]
    constraint: Constraint

    @property
    def type(self) -> str:
        """The original's folder of it: "on-policy", "off-policy" or "offline"."""
        return self.update if self.update in ("off-policy", "offline") else "on-policy"


_TABLE: tuple[Algorithm, ...] = (
    Algorithm("PolicyGradient", "pg", "first-order", "none"),
    Algorithm("NaturalPG", "npg", "natural", "none"),
    Algorithm("TRPO", "trpo", "natural", "none"),
    Algorithm("PPO", "ppo", "first-order", "none"),
    Algorithm("PPOLag", "ppo-lag", "first-order", "lagrange"),
    Algorithm("TRPOLag", "trpo-lag", "natural", "lagrange"),
    Algorithm("RCPO", "rcpo", "natural", "lagrange"),
    Algorithm("PDO", "pdo", "first-order", "lagrange"),
    Algorithm("CPPOPID", "ppo-pid", "first-order", "pid"),
    Algorithm("TRPOPID", "trpo-pid", "natural", "pid"),
    Algorithm("CPO", "cpo", "natural", "limit"),
    Algorithm("PCPO", "pcpo", "natural", "limit"),
    Algorithm("FOCOPS", "focops", "first-order", "lagrange"),
    Algorithm("CUP", "cup", "first-order", "lagrange"),
    Algorithm("IPO", "ipo", "first-order", "barrier"),
    Algorithm("P3O", "p3o", "first-order", "limit"),
    Algorithm("OnCRPO", "oncrpo", "natural", "switch"),
    Algorithm("PPOSaute", "ppo-saute", "first-order", "saute"),
    Algorithm("TRPOSaute", "trpo-saute", "natural", "saute"),
    Algorithm("PPOSimmerPID", "ppo-simmer-pid", "first-order", "simmer"),
    Algorithm("TRPOSimmerPID", "trpo-simmer-pid", "natural", "simmer"),
    Algorithm("PPOEarlyTerminated", "ppo-early", "first-order", "early"),
    Algorithm("TRPOEarlyTerminated", "trpo-early", "natural", "early"),
    Algorithm("DDPG", "ddpg", "off-policy", "none"),
    Algorithm("TD3", "td3", "off-policy", "none"),
    Algorithm("SAC", "sac", "off-policy", "none"),
    Algorithm("DDPGLag", "ddpg-lag", "off-policy", "lagrange"),
    Algorithm("TD3Lag", "td3-lag", "off-policy", "lagrange"),
    Algorithm("SACLag", "sac-lag", "off-policy", "lagrange"),
    Algorithm("DDPGPID", "ddpg-pid", "off-policy", "pid"),
    Algorithm("TD3PID", "td3-pid", "off-policy", "pid"),
    Algorithm("SACPID", "sac-pid", "off-policy", "pid"),
    Algorithm("VAEBC", "vae-bc", "offline", "none"),
    Algorithm("BCQ", "bcq", "offline", "none"),
    Algorithm("BCQLag", "bcq-lag", "offline", "lagrange"),
    Algorithm("CRR", "crr", "offline", "none"),
    Algorithm("CCRR", "c-crr", "offline", "lagrange"),
)
_BY_NAME: Mapping[str, Algorithm] = {a.name: a for a in _TABLE}

# Of the original, with rows whose settings are not translated: (the original's folder, row, what the row is given).
OTHERS: Mapping[str, tuple[str, str, str]] = {
    "PETS": ("model-based", "pets", "env=ENV"),
    "LOOP": ("model-based", "loop", "env=ENV"),
    "SafeLOOP": ("model-based", "safe-loop", "env=ENV"),
    "CCEPETS": ("model-based", "cce-pets", "env=ENV"),
    "RCEPETS": ("model-based", "rce-pets", "env=ENV"),
    "CAPPETS": ("model-based", "cap-pets", "env=ENV"),
    "COptiDICE": ("offline", "coptidice", "env=ENV dataset=FILE"),
    "CRABS": ("off-policy", "crabs", "env=DoubleIntegrator-v0"),
}


def _of_type(wanted: str) -> tuple[str, ...]:
    return tuple(name for name, algorithm in _BY_NAME.items() if algorithm.type == wanted)


ALGORITHMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "on-policy": _of_type("on-policy"),
        "off-policy": _of_type("off-policy"),
        "model-based": (),
        "offline": _of_type("offline"),
        "all": tuple(_BY_NAME),
    }
)
ALGORITHM2TYPE: Mapping[str, str] = MappingProxyType({name: algorithm.type for name, algorithm in _BY_NAME.items()})


def find(name: str) -> Algorithm:
    """The algorithm called `name`. Raises UnknownName with what there is for any other."""
    found = _BY_NAME.get(name)
    if found is not None:
        return found
    if name in OTHERS:
        folder, row, needs = OTHERS[name]
        raise UnknownName(
            f"{name} ({folder}) is not behind this interface, because its row has settings of its own. Train it with "
            f"`trueline train {row} {needs}`."
        )
    raise UnknownName(f"no algorithm is called {name!r}.{nearest(name, _BY_NAME)} There are {', '.join(_BY_NAME)}.")
