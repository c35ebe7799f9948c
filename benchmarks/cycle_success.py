"""How often the example cycle ends in a release: the same TOML with eight seeds.

    python benchmarks/cycle_success.py [--seeds 8] [--workers 2] [--root runs/cycle-success]

Each seed is a whole cycle on one thread; a seed whose cycle is finished is read, one that was stopped goes on. Writes
benchmarks/results/cycle_success.json: per seed the decision, the rounds it took and the evidence of the last round.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from trueline.core.executor import executor
from trueline.core.run import read_evidence, read_manifest
from trueline.cycle.rounds import finished_rounds, resume_cycle, run_cycle
from trueline.cycle.spec import read_cycle
from trueline.evidence.records import Evidence
from trueline.evidence.statistics import clopper_pearson

EXAMPLE = Path(__file__).parents[1] / "examples" / "point_goal.toml"
RESULT = Path(__file__).parent / "results" / "cycle_success.json"


def one_seed(job: tuple[int, str]) -> dict:
    seed, root = job
    folder = Path(root) / f"seed-{seed}"
    if not (folder / "manifest.json").exists():
        overrides = (f"seed={seed}", "threads=1", "show=[]")
        run_cycle(read_cycle(EXAMPLE, overrides), root, id=folder.name)
    elif read_manifest(folder)["status"] != "done":
        resume_cycle(folder)
    return summary(seed, folder)


def summary(seed: int, folder: Path) -> dict:
    rounds = []
    for record in finished_rounds(folder):
        audit = folder.parent / f"{folder.name}-r{record.number}-audit"
        evidence = [Evidence.from_dict(row) for row in read_evidence(audit)]
        rounds.append(
            {
                "recipe": record.plan.recipe,
                "cost_limit": record.plan.setting("cost_limit"),
                "cpu_s": round(record.cpu_s, 1),
                "release": record.decision.release,
                "evidence": {
                    e.metric: {
                        "value": e.estimate.value,
                        "low": e.estimate.low,
                        "high": e.estimate.high,
                        "n": e.estimate.n,
                        "verdict": e.verdict,
                    }
                    for e in evidence
                    if e.metric in ("expected cost", "return", "return above idle", "return above random")
                },
            }
        )
    return {"seed": seed, "released": rounds[-1]["release"], "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", default="runs/cycle-success")
    args = parser.parse_args()
    began = time.monotonic()
    jobs = [(seed, args.root) for seed in range(args.seeds)]
    seeds = executor("processes", args.workers).map(one_seed, jobs)
    released = sum(row["released"] for row in seeds)
    rate = clopper_pearson(released, len(seeds), 0.95)
    manifest = read_manifest(Path(args.root) / "seed-0")
    result = {
        "what": "cycles of examples/point_goal.toml that end in a release",
        "released": released,
        "seeds": len(seeds),
        "interval_95": [rate.low, rate.high],
        "per_seed": seeds,
        "wall_s": round(time.monotonic() - began, 1),
        "machine": manifest["machine"],
        "versions": manifest["versions"],
        "git": manifest["git"],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for row in seeds:
        last = row["rounds"][-1]["evidence"]["expected cost"]
        verdict = "release" if row["released"] else "do not release"
        cost = f"cost {last['value']:.1f}, at most {last['high']:.1f}"
        print(f"seed {row['seed']}: {verdict} after {len(row['rounds'])} rounds, {cost}")
    print(f"{released} of {len(seeds)} released [{rate.low:.2f}, {rate.high:.2f}] -> {RESULT}")


if __name__ == "__main__":
    main()
