"""Sixteen seeds of PPO-Lag at the published settings: in one process and one stack, against one after another."""

from __future__ import annotations

import tempfile

import _interleave
import goal_throughput
import update_step
from _interleave import Comparison, Contestant, Medians, Plan

WORLD, SEEDS, MINIBATCH = "SafetyPointGoal1-v0", 16, 64
ENGINE, FLOOR = "engine alone, N=1", f"floor of a minibatch of {MINIBATCH}"
STEPS, QUICK_STEPS = 4000, 500
KINDS = {"as published": {}, "every pass made": {"update": {"target_kl": None}}}


def trainings(together: bool, seeds: int, steps: int, settings: dict):
    """`seeds` runs of one epoch of the faithful preset, as `trueline train` makes them, folders and all.

    The work is environment steps of all seeds.
    """
    import torch

    from trueline.core import registry
    from trueline.core.recipe import recipe_config
    from trueline.core.run import Run
    from trueline.core.subject import save_subject

    torch.set_num_threads(1)
    recipe = registry.load("recipe", "ppo-lag")

    def config(steps: int, settings: dict):
        given = {"env": WORLD, "steps_per_epoch": steps, "total_steps": steps, **settings}
        return recipe_config("ppo-lag", "faithful", given)

    def started(config, seeds: int):
        folder = tempfile.mkdtemp(dir=".")  # in the referee's temporary folder
        return [
            Run.create(folder, kind="train", name="ppo-lag", config=config, seed=seed, id=f"s{seed}", threads=1)
            for seed in range(seeds)
        ]

    def ended(run, policy) -> None:
        save_subject(policy, run.folder)
        run.finish("done")
        run.close()

    def passes(runs) -> float:
        from trueline.core.metrics import read_metrics

        made = [row["update/passes"] for run in runs for row in read_metrics(run.folder / "metrics.jsonl")]
        return sum(made) / len(made)

    def job_of(config, seeds: int):
        runs = started(config, seeds)

        def job():
            if together:
                for run, policy in zip(runs, recipe.train_together(config, runs, {}), strict=True):
                    ended(run, policy)
            else:
                for run in runs:
                    ended(run, recipe.train(config, run, {}))
            return {"work": seeds * config.steps_per_epoch, "passes": passes(runs)}

        return job

    job_of(config(100, {"update": {"passes": 1}}), 2)()
    return lambda: job_of(config(steps, settings), seeds)


MAKERS = {"trainings": trainings, "engine": goal_throughput.engine, "floor": update_step.floor}


def _ceiling(medians: Medians, kind: str) -> float:
    """If a step of a seed cost the engine's time and its share of the minibatches' arithmetic, and nothing else."""
    together = medians[f"together, {kind}"]
    gradient_steps = together["passes"] / (MINIBATCH * medians[FLOOR]["per_cpu_s"])
    return 1.0 / (1.0 / medians[ENGINE]["per_cpu_s"] + gradient_steps) / medians[f"one by one, {kind}"]["per_cpu_s"]


def plan(quick: bool) -> Plan:
    seeds, steps = (4, QUICK_STEPS) if quick else (SEEDS, STEPS)
    return Plan(
        unit="environment steps of all seeds",
        note=f"{seeds} runs of one epoch of {steps} steps on {WORLD}, networks and worlds built and run folders "
        "written by both sides; one by one means one run after another in one process, without the start of an "
        "interpreter for each. As published: 40 passes over minibatches of 64 unless KL ends them (`passes` says when "
        "it did); every pass made: without that end. Ceiling: the engine alone and the floor of update_step.py, "
        "measured in this run.",
        contestants=[
            *(
                Contestant(
                    f"{name}, {kind}",
                    "trainings",
                    {"together": name == "together", "seeds": seeds, "steps": steps, "settings": settings},
                )
                for kind, settings in KINDS.items()
                for name in ("one by one", "together")
            ),
            Contestant(ENGINE, "engine", {"id": WORLD, "episodes": 1 if quick else 5, "num_envs": 1}),
            Contestant(FLOOR, "floor", {"minibatch": MINIBATCH}),
        ],
        comparisons=[
            Comparison(
                f"{seeds} seeds together / one by one, {kind}",
                f"together, {kind}",
                "per_cpu_s",
                "the engine alone and the minibatches' arithmetic alone / one by one",
                lambda m, kind=kind: _ceiling(m, kind),
                f"one by one, {kind}",
                at_least=2.0,
            )
            for kind in KINDS
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
