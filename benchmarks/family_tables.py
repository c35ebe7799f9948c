"""Every row of the table of constrained algorithms on one short task of its family, at most a minute of CPU time each.

    python benchmarks/family_tables.py [--only ROW ...] [--root runs/family-tables]

Each row is trained once, in a process of its own on one thread, by the preset and the settings that stand below, and
its policy is then run for whole episodes, actions drawn. What comes out is kept row by row in
benchmarks/results/family_tables.json: return, cost, limit, CPU seconds of the training, steps per CPU-second, peak
memory of the process. A row that is there by the same settings is kept; a training that was stopped goes on.

The tasks are too short to say which row learns best: one seed, tens of seconds. They say that every row learns from its
data in its family's terms, what a step of it costs, and which rows are slow and why.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
RESULT = HERE / "results" / "family_tables.json"
MOST_CPU_S = 60.0
SEED = 0
Settings = Mapping[str, Any]


class Family(NamedTuple):
    """Rows that are compared with one another, and what they are trained on."""

    modules: tuple[str, ...]  # of trueline.safety.recipes
    env: str
    preset: str
    steps: int
    unit: str  # of steps
    limit: float  # cost of an episode
    episodes: int  # of the evaluation
    settings: Settings = MappingProxyType({})  # laid over the preset; what a row does not have is left out
    own: Mapping[str, Settings] = MappingProxyType({})  # by row


_MODEL = {"members": 2, "elites": 2, "hidden": [64, 64], "decay": [0.0] * 3, "passes": 20, "every": 4000}
_SEARCH = {"samples": 128, "elites": 16, "iterations": 3, "particles": 4, "horizon": 5}
_ALONE = {"env": "SafetyPointCircle1-v0"}  # a planar world cannot begin an episode in one row alone
_ARC = {"planner": {"kind": "arc", **_SEARCH}}

FAMILIES: dict[str, Family] = {
    "on-policy": Family(
        ("ppo", "first_order", "trust_region", "augmented"),
        "PlanarPointCircle1-v0", "fast", 240_000, "environment steps", 25.0, 32,
        own={"ppo-early": _ALONE, "trpo-early": _ALONE},
    ),
    "off-policy": Family(
        ("off_policy",), "PlanarPointCircle1-v0", "fast", 24_000, "environment steps", 25.0, 32,
        {"capacity": 24_000},
    ),
    "offline": Family(
        ("offline",), "PlanarPointCircle1-v0", "fast", 1000, "gradient steps", 25.0, 32, {"multiplier_after": 200}
    ),
    "planners": Family(
        ("planning",), "Coordinates-v0", "faithful", 16_000, "environment steps", 1.0, 8,
        {
            "num_envs": 8, "steps_per_epoch": 8000, "warm_up": 8000, "model": _MODEL,
            "planner": {"kind": "cem", **_SEARCH},
        },
        {"loop": _ARC, "safe-loop": _ARC},
    ),
    "certificates": Family(
        ("crabs",), "DoubleIntegrator-v0", "fast", 5760, "environment steps", 0.0, 32
    ),
    "teams": Family(
        ("multi_agent",), "Safety2x3HalfCheetahVelocity-v0", "faithful", 100_000, "environment steps", 25.0, 10
    ),
}  # fmt: skip

# Why a row takes more than twice the CPU time of its family's fastest for a step.
_PASSES = "the fastest passes over its data once; this row many times, with a critic of the cost"
_NATURAL = "a natural gradient, and several passes of the critics"
_BUDGET = "many passes, and a world that keeps a budget beside it"
REASONS: dict[str, str] = {
    **dict.fromkeys(("ppo-lag", "ppo-pid"), _PASSES),
    **dict.fromkeys(("trpo", "trpo-lag", "trpo-pid", "rcpo"), _NATURAL),
    **dict.fromkeys(("ppo-saute", "ppo-simmer-pid", "trpo-saute", "trpo-simmer-pid"), _BUDGET),
    "cpo": "a natural gradient of the reward and one of each cost, and a search along the step",
    "pcpo": "a natural gradient of the reward and one of each cost",
    "cup": "a second phase of minibatches, towards what costs allow",
    "ppo-early": "in a world of contacts: planar ones cannot begin one episode alone",
    "trpo-early": "in a world of contacts: planar ones cannot begin one episode alone",
    "vae-bc": "two networks, and draws of a latent, where cloning has one network",
    "bcq": "ten generated candidates for every row of a target, and twin critics",
    "bcq-lag": "ten generated candidates for every row of a target, twin critics, and a critic of the cost",
    "crr": "twin critics at ten draws of the policy for every row",
    "c-crr": "twin critics and one of the cost, at ten draws of the policy for every row",
    "coptidice": "potentials of the reward and of each cost are learnt beside the policy",
    "cpq": "ten draws of the policy in every state, each held against a model of the behaviour",
    "cvpo": "sixteen actions of every state under every critic, and a fit under two bounds",
}


def family_of(row: str) -> str:
    """The family a registered row belongs to.  Raises KeyError for a recipe that is no row of the table."""
    return {name: family for family, names in rows().items() for name in names}[row]


def rows() -> dict[str, list[str]]:
    """Row names by family, from the registry: a row that is new there is new here."""
    from trueline.core import registry

    package = "trueline.safety.recipes."
    module = {
        entry.name: entry.target.removeprefix(package).partition(":")[0]
        for entry in registry.entries("recipe")
        if entry.target.startswith(package)
    }
    found = {name: [row for row in module if module[row] in family.modules] for name, family in FAMILIES.items()}
    left = set(module).difference(*found.values())
    if left:
        raise LookupError(f"no family has {', '.join(sorted(left))}")
    return found


def config_of(row: str) -> dict[str, Any]:
    """What is laid over the row's preset."""
    from trueline.core import registry

    family = FAMILIES[family_of(row)]
    known = registry.load("recipe", row).Config.model_fields
    given = {"total_steps": family.steps, **family.settings, **family.own.get(row, {})}
    if family.env != "Coordinates-v0":  # whose preset says of which world they are
        given.setdefault("env", family.env)
    return {key: value for key, value in given.items() if key in known}


def asked(row: str) -> dict[str, Any]:
    """What decides a row's figures, as the result keeps it."""
    family = FAMILIES[family_of(row)]
    facts = {"preset": family.preset, "limit": family.limit, "episodes": family.episodes, "seed": SEED}
    return json.loads(json.dumps({**facts, "settings": config_of(row)}))


# --- one row, in a process of its own ---


def train(row: str, root: Path) -> dict[str, Any]:
    from trueline.safety.claims.trainings import Arm, measured

    imported = _peak_mb()
    family, settings = FAMILIES[family_of(row)], config_of(row)
    if "dataset" in _fields(row):
        settings["dataset"] = _data(family, root)
    arm = Arm(recipe=row, preset=family.preset, config=settings)
    config = arm.settings({}, family.limit)
    found = measured(row, arm, config, family.limit, family.episodes, SEED, root)
    limited = "cost_limit" in _fields(row)
    return {
        "family": family_of(row),
        "return": found["return"],
        "cost": found["cost"],
        "limit": family.limit if limited else None,
        "cpu_s": round(found["cpu_s"], 2),
        "steps_per_cpu_s": round(family.steps / found["cpu_s"], 1),
        "peak_mb": round(_peak_mb(), 1),
        "imports_mb": round(imported, 1),
    }


def _fields(row: str) -> Mapping[str, Any]:
    from trueline.core import registry

    return registry.load("recipe", row).Config.model_fields


def _data(family: Family, root: Path) -> str:
    """Episodes of PPO and of PPO-Lag, half and half; made before the first row that learns from them."""
    from trueline.safety.claims import offline

    sizes = offline.Settings(
        world=family.env, arms=(), behaviour_steps=480_000, recorded=200, steps=1, cost_limit=family.limit
    )
    return offline.recorded(sizes, SEED, root)


def _peak_mb() -> float:
    """Of this process so far; kilobytes on Linux, bytes on macOS."""
    unit = 1024.0 if sys.platform != "darwin" else 1.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def in_own_process(row: str, root: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--train", row, "--root", str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{row} stopped with exit code {done.returncode}; what it said is above.")
    return json.loads(done.stdout.splitlines()[-1])


# --- the tables ---


def shares(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Steps per CPU-second of each row, as a share of those of the fastest row of its family."""
    fastest: dict[str, float] = {}
    for row in found.values():
        fastest[row["family"]] = max(row["steps_per_cpu_s"], fastest.get(row["family"], 0.0))
    return {name: row["steps_per_cpu_s"] / fastest[row["family"]] for name, row in found.items()}


def unexplained(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Rows under half of their family's fastest that no reason is stated for."""
    return [name for name, share in shares(found).items() if share < 0.5 and name not in REASONS]


def table(family: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, a line per row that has been measured."""
    own = {name: row for name, row in found.items() if row["family"] == family}
    share, unit = shares(found), FAMILIES[family].unit
    lines = [
        f"| row | return | cost | limit | {unit} per CPU-second | of the fastest | CPU s | peak MB | why slower |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in own.items():
        limit = "–" if row["limit"] is None else f"{row['limit']:g}"
        lines.append(
            f"| `{name}` | {row['return']:.1f} | {row['cost']:.1f} | {limit} | {row['steps_per_cpu_s']:,.0f} "
            f"| {share[name]:.0%} | {row['cpu_s']:.0f} | {row['peak_mb']:.0f} "
            f"| {REASONS.get(name, '') if share[name] < 0.5 else ''} |".replace("%", " %")
        )
    return "\n".join(lines)


def results() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="which rows; all unless given")
    parser.add_argument("--root", type=Path, default=Path("runs/family-tables"), help="where trainings are kept")
    parser.add_argument("--train", metavar="ROW", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        given.root.mkdir(parents=True, exist_ok=True)
        print(json.dumps(train(given.train, given.root)))
        return
    listed = [name for names in rows().values() for name in names]
    unknown = set(given.only) - set(listed)
    if unknown:
        sys.exit(f"There is no row {', '.join(sorted(unknown))}. There are {', '.join(listed)}.")
    found = results()
    for name in given.only or listed:
        if found.get(name, {}).get("asked") == asked(name):
            continue
        load = os.getloadavg()[0]
        found[name] = {"asked": asked(name), **in_own_process(name, given.root), "load_average": round(load, 2)}
        _write({key: found[key] for key in listed if key in found})
        print(f"{name}: {found[name]['cpu_s']} CPU-s, {found[name]['steps_per_cpu_s']} steps per CPU-s", flush=True)
    for name in unexplained(found):
        print(f"{name} is under half of its family's fastest: state why in REASONS", file=sys.stderr)


def _write(found: Mapping[str, Any]) -> None:
    import _interleave

    record = {
        "what": "every row of the table on one short task of its family",
        "threads": 1,
        "cpu": _interleave._cpu(),
        "versions": _interleave._versions(),
        "git_commit": _interleave._commit(),
        "rows": found,
    }
    RESULT.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
