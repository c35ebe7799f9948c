"""Peak memory of whole trainings at default sizes, on-policy and off-policy: ours and OmniSafe's."""

from __future__ import annotations

import tempfile

import _interleave
import _peers as peers
import update_step
from _interleave import Comparison, Contestant, Medians, Plan
from second_order_step import peak_bytes

WORLD = "SafetyPointGoal1-v0"
EPOCH, QUICK_EPOCH = 20_000, 2_000  # steps of an on-policy epoch
REPLAY, QUICK_REPLAY = 1_000_000, 50_000  # transitions
STEPS, WARM_UP = 2_000, 1_000  # of the off-policy loop
CHUNK = 10_000  # transitions that are recorded at once
WIDTH = update_step.OBSERVATION
ROW_BYTES = 4 * (2 * WIDTH + update_step.ACTION + 4)  # s, s', a; reward and cost with a factor of the next value each
STEP_BYTES = 4 * (WIDTH + update_step.ACTION + 7)  # s, a, log π; reward's and cost's advantage, value and target


def on_policy(steps: int):
    """An epoch of TRPO-Lag in a run of its own, logs and checkpoint included, as `trueline train` makes it."""
    import torch

    from trueline.core import registry
    from trueline.core.recipe import recipe_config
    from trueline.core.run import Run

    torch.set_num_threads(1)
    settings = {"env": WORLD, "steps_per_epoch": steps, "total_steps": steps}

    def fresh():
        config = recipe_config("trpo-lag", "faithful", settings)
        run = Run.create(tempfile.mkdtemp(dir="."), kind="train", name="trpo-lag", config=config, seed=0, threads=1)

        def job():
            registry.load("recipe", "trpo-lag").train(config, run, {})
            return {"work": 1, "peak_bytes": peak_bytes()}

        return job

    return fresh


def off_policy(capacity: int):
    """An epoch of SAC-Lag, and its replay filled with noise after it, recorded as checkpoints record it."""
    import torch

    from trueline.core.recipe import recipe_config
    from trueline.core.run import Run
    from trueline.rl.off_policy.replay import Transitions
    from trueline.rl.off_policy.training import Trainer

    torch.set_num_threads(1)
    settings = {"env": WORLD, "steps_per_epoch": STEPS, "total_steps": STEPS, "warm_up": WARM_UP, "capacity": capacity}
    rng = torch.Generator().manual_seed(0)

    def fresh():
        config = recipe_config("sac-lag", "faithful", settings)
        run = Run.create(tempfile.mkdtemp(dir="."), kind="train", name="sac-lag", config=config, seed=0, threads=1)
        trainer = Trainer(config, run, {})

        def job():
            trainer.train()
            for _ in range(capacity // CHUNK):
                rows = [torch.randn(CHUNK, width, generator=rng) for width in trainer.replay.widths]
                trainer.replay.add(Transitions(*rows))
                trainer.replay.record()
            trainer.replay.sample(config.update.batch, rng)
            return {"work": 1, "peak_bytes": peak_bytes()}

        return job

    return fresh


def omnisafe(name: str, total: int, settings: dict):
    """The same epoch by OmniSafe, whose replay takes all of its memory at once."""
    package = peers.omnisafe()

    def fresh():
        given = {
            "train_cfgs": {"total_steps": total, "torch_threads": 1, "vector_env_nums": 1},
            "algo_cfgs": settings,
            "logger_cfgs": {"log_dir": tempfile.mkdtemp(dir=".")},  # in the referee's temporary folder
        }
        algorithm = package.Agent(name, WORLD, custom_cfgs=given).agent

        def job():
            algorithm.learn()
            return {"work": 1, "peak_bytes": peak_bytes()}

        return job

    return fresh


def floor(rows: int, row_bytes: int):
    """torch imported, and the numbers of the collection or of the replay."""
    import torch

    def job():
        held = torch.ones(rows * row_bytes, dtype=torch.uint8)
        assert len(held) == rows * row_bytes  # still held
        return {"work": 1, "peak_bytes": peak_bytes()}

    return lambda: job


MAKERS = {"on_policy": on_policy, "off_policy": off_policy, "omnisafe": omnisafe, "floor": floor}


def _compared(what: str) -> Comparison:
    def ceiling(medians: Medians) -> float:
        return medians[f"floor, {what}"]["peak_bytes"] / medians[f"OmniSafe, {what}"]["peak_bytes"]

    return Comparison(
        f"{what}, peak memory, trueline / OmniSafe",
        f"trueline, {what}",
        "peak_bytes",
        "torch and the numbers that have to be held / OmniSafe",
        ceiling,
        f"OmniSafe, {what}",
        at_most=1.0,
    )


def plan(quick: bool) -> Plan:
    epoch, replay = (QUICK_EPOCH, QUICK_REPLAY) if quick else (EPOCH, REPLAY)
    on, off = f"TRPO-Lag, epoch of {epoch} steps", f"SAC-Lag, replay of {replay}"
    learnt = {"steps_per_epoch": STEPS, "start_learning_steps": WARM_UP, "size": replay}
    peer_on = {"name": "TRPOLag", "total": epoch, "settings": {"steps_per_epoch": epoch}}
    peer_off = {"name": "SACLag", "total": STEPS, "settings": learnt}
    return Plan(
        unit="trainings",
        note="The most memory that each process had resident (getrusage), imports included, after one epoch of "
        f"training on {WORLD} with one environment and logs and checkpoints as users get them; nothing is timed. "
        "Off-policy, our replay is filled to its capacity after the epoch, since it takes memory as rows come: "
        f"{ROW_BYTES} bytes each. OmniSafe's takes all of it at once. A process's peak does not fall, so that more "
        "than one repeat shows only what a second training in the same process adds.",
        contestants=[
            Contestant(f"OmniSafe, {on}", "omnisafe", peer_on, peer=True),
            Contestant(f"trueline, {on}", "on_policy", {"steps": epoch}),
            Contestant(f"floor, {on}", "floor", {"rows": epoch, "row_bytes": STEP_BYTES}),
            Contestant(f"OmniSafe, {off}", "omnisafe", peer_off, peer=True),
            Contestant(f"trueline, {off}", "off_policy", {"capacity": replay}),
            Contestant(f"floor, {off}", "floor", {"rows": replay, "row_bytes": ROW_BYTES}),
        ],
        comparisons=[_compared(on), _compared(off)],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
