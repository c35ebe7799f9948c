"""How far each row that learns from data ends from what it should converge to on them.

    python benchmarks/offline_gaps.py [--only CASE ...] [--seeds 7 8 9]

Processes, behaviours, targets and settings are those of `tests/rl/offline_cases.py`, which the tests hold the rows to
at seed 0; here a seed draws 4,000 episodes anew and trains on them. Targets are exact and of the behaviour itself, so
that what is missed is the data's chance as well as the training's:

    gap = (J* − J)/(J_unconstrained − J_safest),    excess = (J_C − J_C*)/(highest − lowest J_C)

J* is a fixed point, and passed = |gap| ≤ 5 % and |excess| ≤ 5 %; or it is the best that the data support, and
passed = gap ≤ 5 % and J_C within 1 % of its range above the limit, as for every row of `optimum_gaps.py`. How far the
best that the data support is from what was reached is told for all of them, as `from_support`. `vae-bc` clones normal
actions; its gap is the largest difference between the distribution function of what it draws and the exact one.

Writes benchmarks/results/offline_gaps.json, training by training; one that is there and was measured by the same
settings is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
RESULT = HERE / "results" / "offline_gaps.json"
CLONING = "vae-bc"


def _cases() -> Any:
    """The tests' module of cases."""
    worlds = str(HERE.parent / "tests" / "rl")
    if worlds not in sys.path:
        sys.path.insert(0, worlds)
    import offline_cases

    return offline_cases


def names() -> list[str]:
    """Every case, by row."""
    return [CLONING, *_cases().CASES]


def asked(name: str) -> dict[str, Any]:
    """What a case is, as it is kept beside its figures."""
    cases = _cases()
    if name == CLONING:
        found = {**cases.CLONE._asdict(), "row": name, "process": "normal actions", "target": "fixed point"}
    else:
        case = cases.CASES[name]
        found = {
            "row": case.row.name,
            "process": case.cmdp.name,
            "behaviour_seed": case.behaviour_seed,
            "limit": list(case.cmdp.limit) if case.limited else None,
            "settings": dict(case.settings),
            "target": "fixed point" if case.fixed_point else "best of the support",
        }
    kept: dict[str, Any] = json.loads(json.dumps(found))
    return kept


def on_tables(name: str, seed: int) -> dict[str, Any]:
    """One training in a process, and what it reached beside what it should."""
    from trueline.rl.exact.gap import GAP

    cases = _cases()
    case = cases.CASES[name]
    with TemporaryDirectory() as folder:
        found = cases.trained(case, cases.recorded(case, Path(folder), seed), seed)
    reached, aim = found.average, case.target()
    gap = (aim.episode_return - reached.episode_return) / (found.unconstrained - found.safest)
    excess = (reached.constrained[0] - float(aim.cost[0])) / found.span[0]
    return {
        "optimum": aim.episode_return,
        "return": reached.episode_return,
        "gap": gap,
        "optimal_cost": float(aim.cost[0]),
        "cost": reached.constrained[0],
        "excess": excess,
        "from_support": reached.gap,
        "passed": abs(gap) <= GAP and abs(excess) <= GAP if case.fixed_point else reached.passed,
    }


def of_actions(seed: int) -> dict[str, Any]:
    """One training of the auto-encoder, and what it draws beside what it should."""
    from scipy.stats import kstest, norm

    from trueline.rl.exact.gap import GAP

    clone = _cases().CLONE
    with TemporaryDirectory() as folder:
        drawn = clone.draws(Path(folder), seed)
    gap = float(kstest(drawn, norm(clone.mean, clone.drawn_deviation).cdf).statistic)
    return {
        "optimal_mean": clone.mean,
        "mean": float(drawn.mean()),
        "optimal_deviation": clone.drawn_deviation,
        "deviation": float(drawn.std()),
        "gap": gap,
        "passed": gap <= GAP,
    }


def measured(name: str, seed: int) -> dict[str, Any]:
    """One training of a case; CPU seconds count the recording and the exact evaluations too."""
    began = time.process_time()
    found = of_actions(seed) if name == CLONING else on_tables(name, seed)
    return {"seed": seed, **found, "cpu_s": round(time.process_time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="which cases; all unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    given = parser.parse_args()
    unknown = set(given.only) - set(names())
    if unknown:
        sys.exit(f"There is no case {', '.join(sorted(unknown))}. There are {', '.join(names())}.")
    found = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else {}
    for seed in given.seeds:
        for name in given.only or names():
            kept, case = found.get(name, {}), asked(name)
            trainings = kept["trainings"] if kept.get("asked") == case else []
            if seed in {training["seed"] for training in trainings}:
                continue
            trainings.append(measured(name, seed))
            found[name] = {"asked": case, "trainings": sorted(trainings, key=lambda training: training["seed"])}
            ordered = {key: found[key] for key in names() if key in found}
            RESULT.write_text(json.dumps({"rows": ordered}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(name, trainings[-1], flush=True)


if __name__ == "__main__":
    main()
