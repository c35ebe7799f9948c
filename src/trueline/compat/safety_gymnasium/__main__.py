"""Run a script that was written for Safety-Gymnasium, unchanged.

    python -m trueline.compat.safety_gymnasium script.py [arguments]

In the script `import safety_gymnasium` means `trueline.compat.safety_gymnasium`, whether or not the original is
installed. Processes that the script starts by fork see the same; those started afresh do not.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

_USAGE = "python -m trueline.compat.safety_gymnasium script.py [arguments]"


def _refuse(sentence: str) -> int:
    print(f"trueline: {sentence}", file=sys.stderr)
    return 2


def main(arguments: list[str]) -> int:
    """Run the script named first with the arguments after it; 2 when there is none."""
    if not arguments:
        return _refuse(f"no script was given. Write {_USAGE}.")
    script = Path(arguments[0])
    if not script.is_file():
        return _refuse(f"there is no script {arguments[0]}. Write {_USAGE}.")
    from trueline.compat.safety_gymnasium.modules import install, restore_gymnasium_028

    install()
    restore_gymnasium_028()
    sys.argv = [str(script), *arguments[1:]]
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
