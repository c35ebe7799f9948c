"""OmniSafe's interface over Trueline's rows: change one import, and scripts go on as they were.

    import trueline.compat.omnisafe as omnisafe

The names, settings and defaults are those of release 0.5.0; docs/migrating_from_omnisafe.md says what differs.
"""

from __future__ import annotations

from trueline.compat.omnisafe import algorithms
from trueline.compat.omnisafe.agent import Agent
from trueline.compat.omnisafe.algorithms import ALGORITHMS
from trueline.compat.omnisafe.evaluator import Evaluator

__all__ = ["ALGORITHMS", "Agent", "Evaluator", "__version__", "algorithms"]

__version__ = "0.5.0"  # the release whose interface and defaults these are
