"""Are the settings that `trueline.compat.omnisafe` takes for the original's those that its release ships?

    PEER_PYTHON=… python benchmarks/omnisafe_defaults.py

Reads each on-policy, off-policy and offline file of omnisafe 0.5.0 whose algorithm `Agent` takes, as the package does,
the defaults and, laid over them, every block of overrides, and compares every value with `published`: for a world
without overrides, and for each that has some. Needs the peer's interpreter, see _peers.py. Writes
benchmarks/results/omnisafe_defaults.json.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from _peers import peer_python

from trueline.compat.omnisafe.algorithms import _TABLE
from trueline.compat.omnisafe.published import flat, published
from trueline.core.config import laid_over

RESULT = Path(__file__).parent / "results" / "omnisafe_defaults.json"
# Reads the files alone: to import the package takes a minute and tells no more.
READ = """
import json, yaml
from importlib.metadata import distribution
from pathlib import Path
release = distribution("omnisafe")
configs = Path(release.locate_file("omnisafe/configs"))
folders = ("on-policy", "off-policy", "offline")
files = [path for folder in folders for path in sorted((configs / folder).glob("*.yaml"))]
print(json.dumps({"version": release.version, "files": {p.stem: yaml.full_load(p.read_text()) for p in files}}))
"""


def number(value: Any) -> Any:
    """The release writes 1e-5 in places, which YAML reads as text and the package uses as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def main() -> None:
    said = subprocess.run([peer_python(), "-c", READ], capture_output=True, text=True, check=True)
    release = json.loads(said.stdout)
    table = {algorithm.name: algorithm for algorithm in _TABLE}
    counted: dict[str, int] = {}
    different: list[str] = []
    for name, blocks in release["files"].items():
        if name not in table:
            continue
        for world in ("", *(block for block in blocks if block != "defaults")):
            theirs = flat(laid_over(blocks["defaults"], blocks.get(world, {})))
            ours = published(table[name], world)
            counted[name] = counted.get(name, 0) + len(theirs)
            theirs.setdefault("env_cfgs", {})  # taken by the package, and in one of its files alone
            for key in sorted(theirs.keys() | ours.keys()):
                if key not in theirs or key not in ours or number(theirs[key]) != number(ours[key]):
                    given = f"{theirs.get(key, 'no value')!r} there, {ours.get(key, 'no value')!r} here"
                    different.append(f"{name} {world or 'without overrides'} {key}: {given}")
    found = {
        "release": release["version"],
        "files": len(counted),
        "values": sum(counted.values()),
        "values_by_file": counted,
        "different": different,
    }
    RESULT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{found['values']} values of {found['files']} files, {len(different)} different")


if __name__ == "__main__":
    main()
