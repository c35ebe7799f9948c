"""How far each planner's training ends from the dynamic-programming optimum of a deterministic world.

    python benchmarks/planner_gaps.py [--only CASE ...] [--seeds 7 8 9]

The worlds, their optima and the settings are those of `tests/rl/test_planning_gap.py`, where the seed is 0: a point on
a line that is paid for how far it is and charged beyond an edge, and one that has to cross a loss to come to a gain.
Each row learns a model from random actions, plans with it, and is then run for whole episodes:

    gap = (J* − J)/(J_unconstrained − J_safest),    passed = gap ≤ 5 % and no episode beyond its limit

A negative gap is a return that a broken limit has paid for. Writes benchmarks/results/planner_gaps.json, training by
training; one that is there and was measured by the same settings is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
RESULT = HERE / "results" / "planner_gaps.json"
WORLDS = HERE.parent / "tests" / "rl"


class Case(NamedTuple):
    """A row and the problem it is held to."""

    row: str
    limit: int | None  # cost of an episode; None: the problem without limits
    world: str = "Line"


CASES: dict[str, Case] = {
    "pets": Case("PETS", None),
    "cce-pets, limit 0": Case("CCE_PETS", 0),
    "cce-pets, limit 3": Case("CCE_PETS", 3),
    "rce-pets, limit 0": Case("RCE_PETS", 0),
    "rce-pets, limit 3": Case("RCE_PETS", 3),
    "cap-pets, limit 0": Case("CAP_PETS", 0),
    "cap-pets, limit 3": Case("CAP_PETS", 3),
    "safe-loop, limit 0": Case("SAFE_LOOP", 0),
    "loop": Case("LOOP", None, "Dip"),
}


def settings(case: Case) -> dict[str, Any]:
    """What the row is trained by: the tests' own."""
    gap = _tests()
    if case.world == "Dip":
        planner = {**gap.VALUED["planner"], "samples": 32, "elites": 6, "iterations": 4, "variance": 0.5}
        own = {"env": "Gap-Dip-v0", "steps_per_epoch": 320, "warm_up": 320, "total_steps": 960, "signals": "known"}
        return {**gap.LEARN, **own, **gap.VALUED, "planner": planner, "updates_per_step": 1.0}
    valued = {**gap.VALUED, "total_steps": 768} if case.row == "SAFE_LOOP" else {}
    limited = {} if case.limit is None else {"cost_limit": float(case.limit), "signals": "known"}
    return {**gap.LEARN, **valued, **limited}


def _tests() -> Any:
    """The tests' module, its worlds registered."""
    if str(WORLDS) not in sys.path:
        sys.path.insert(0, str(WORLDS))
    import test_planning_gap

    from trueline.core import registry
    from trueline.core.registry import Entry

    for name in ("line", "dip"):
        registry.add(Entry("env", f"Gap-{name.title()}-v0", f"test_planning_gap:{name}", "for tests"), "tests")
    return test_planning_gap


class Problem(NamedTuple):
    """Exact returns, and the world and layouts they are of."""

    optimum: float
    unconstrained: float
    safest: float
    make: Callable[[], Any]
    layouts: Any  # [E]


def problem(case: Case) -> Problem:
    """On the line every layout is the same; in the dip a layout is where the point starts."""
    import numpy as np

    gap = _tests()
    if case.world == "Dip":
        layouts = 2 * np.arange(16)  # from −0.5 to 0.1
        best = float(gap.best_return(gap.start_of(layouts)).mean())
        return Problem(best, best, 0.0, lambda: gap.Dip(16), layouts)
    from test_planning_line import optimum

    best = gap.FREE if case.limit is None else optimum(case.limit)
    return Problem(best, gap.FREE, gap.SAFE, lambda: gap.Line(4), np.arange(4))


def measured(case: Case, seed: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from trueline.core.config import build
    from trueline.core.run import Run
    from trueline.rl.evaluate import policy_actions, run_episodes
    from trueline.rl.exact.gap import GAP
    from trueline.safety.recipes import planning

    torch.set_num_threads(1)
    row, given = getattr(planning, case.row), settings(case)
    exact = problem(case)
    began = time.process_time()
    config = build(row.Config, given)
    with (
        TemporaryDirectory() as folder,
        Run.create(Path(folder), kind="train", name=row.name, config=config, seed=seed) as run,
    ):
        policy = row.train(config, run, {})
    cpu_s = time.process_time() - began
    found = run_episodes(exact.make(), exact.layouts, lambda _: policy_actions(policy, np.random.default_rng(seed)))
    episode_return = float(found.episode_return.mean())
    gap = (exact.optimum - episode_return) / (exact.unconstrained - exact.safest)
    dearest = float(found.cost[:, 0].max())
    return {
        "seed": seed,
        "optimum": exact.optimum,
        "return": episode_return,
        "gap": gap,
        "dearest_episode": dearest,
        "limit": case.limit,
        "passed": gap <= GAP and (case.limit is None or dearest <= case.limit),
        "cpu_s": round(cpu_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="which cases; all unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    asked = parser.parse_args()
    unknown = set(asked.only) - set(CASES)
    if unknown:
        sys.exit(f"There is no case {', '.join(sorted(unknown))}. There are {', '.join(CASES)}.")
    found = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else {}
    for name in asked.only or CASES:
        case = CASES[name]
        given = json.loads(json.dumps({"case": case._asdict(), "settings": settings(case)}))
        kept = found.get(name, {})
        trainings = kept["trainings"] if kept.get("asked") == given else []
        for seed in asked.seeds:
            if seed in {training["seed"] for training in trainings}:
                continue
            trainings.append(measured(case, seed))
            found[name] = {"asked": given, "trainings": sorted(trainings, key=lambda training: training["seed"])}
            ordered = {key: found[key] for key in CASES if key in found}
            RESULT.write_text(json.dumps({"rows": ordered}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(name, trainings[-1], flush=True)


if __name__ == "__main__":
    main()
