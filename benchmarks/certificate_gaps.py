"""How far a policy within a certificate ends from the best safe return, and how much of what is safe is certified.

    python benchmarks/certificate_gaps.py [--seeds 7 8 9]

`crabs` by its preset "fast", in a world whose viable set has a closed form and whose best safe return is a linear
programme (`rl/exact/double_integrator.py`). Its policy is then run for a hundred episodes, actions drawn:

    gap = (J* − J)/(J* − J_controller),    J_controller = 0 is what the controller earns that the training begins with
    passed = gap ≤ 5 %, no violation in training or afterwards, nothing certified that is not viable

Shares are of 400² states of the region. Writes benchmarks/results/certificate_gaps.json, training by training; one that
is there and was measured by the same settings is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

RESULT = Path(__file__).parent / "results" / "certificate_gaps.json"
ENV = "DoubleIntegrator-v0"
EPISODES, CELLS = 100, 400


def settings() -> dict[str, Any]:
    """Everything the row is trained by."""
    from trueline.core.config import build
    from trueline.safety.recipes.crabs import CRABS

    given = {**CRABS.presets["fast"], "env": ENV}
    return build(CRABS.Config, given).model_dump(mode="json")


def measured(seed: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from trueline.core.config import build
    from trueline.core.metrics import read_metrics
    from trueline.core.run import Run
    from trueline.rl.certificates.truth import against_truth
    from trueline.rl.evaluate import policy_actions, run_episodes
    from trueline.rl.exact.double_integrator import DoubleIntegrator
    from trueline.rl.exact.gap import GAP
    from trueline.safety.recipes.crabs import CRABS

    torch.set_num_threads(1)
    world, began = DoubleIntegrator(ENV, EPISODES), time.process_time()
    config = build(CRABS.Config, settings())
    with (
        TemporaryDirectory() as folder,
        Run.create(Path(folder), kind="train", name="crabs", config=config, seed=seed) as run,
    ):
        policy = CRABS.train(config, run, {})
        last = list(read_metrics(run.folder / "metrics.jsonl"))[-1]
    cpu_s = time.process_time() - began
    found = run_episodes(world, np.arange(EPISODES), lambda _: policy_actions(policy, np.random.default_rng(seed)))
    truth = against_truth(policy.filter.core, world, CELLS)
    best, reached = world.best_return(), float(found.episode_return.mean())
    violations = int(last["train/violations_wall"]) + int((found.cost[:, 0] > 0.0).sum())
    gap = (best - reached) / best
    return {
        "seed": seed,
        "optimum": best,
        "return": reached,
        "gap": gap,
        "violations": violations,
        **{name: float(value) for name, value in truth._asdict().items()},
        "passed": gap <= GAP and violations == 0 and truth.false == 0.0,
        "cpu_s": round(cpu_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    asked, given = parser.parse_args(), settings()
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    trainings = found["trainings"] if found.get("settings") == given else []
    for seed in asked.seeds:
        if seed in {training["seed"] for training in trainings}:
            continue
        trainings.append(measured(seed))
        whole = {"settings": given, "trainings": sorted(trainings, key=lambda training: training["seed"])}
        RESULT.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(trainings[-1], flush=True)


if __name__ == "__main__":
    main()
