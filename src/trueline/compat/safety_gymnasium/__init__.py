"""Safety-Gymnasium's interface over Trueline's worlds: change one import, and scripts go on as they were.

    import trueline.compat.safety_gymnasium as safety_gymnasium

or leave the script alone: `python -m trueline.compat.safety_gymnasium script.py`. The semantics are those of release
1.0.0; docs/migrating_from_safety_gymnasium.md says what differs.
"""

from __future__ import annotations

from gymnasium import make as gymnasium_make
from gymnasium import register as gymnasium_register

from trueline.compat.safety_gymnasium import vector, wrappers
from trueline.compat.safety_gymnasium.multi_agent import make_ma
from trueline.compat.safety_gymnasium.registration import make, register, register_all

__all__ = [
    "__version__",
    "gymnasium_make",
    "gymnasium_register",
    "make",
    "make_ma",
    "register",
    "vector",
    "wrappers",
]

__version__ = "1.0.0"  # the release whose interface and semantics these are

register_all()
