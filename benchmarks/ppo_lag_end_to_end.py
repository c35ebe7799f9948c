"""PPO-Lag on SafetyPointGoal1, from the first step to the finished run: ours against OmniSafe's own package."""

from __future__ import annotations

import tempfile
import time

import _interleave
import _peers as peers
import goal_throughput
import update_step
from _interleave import Comparison, Contestant, Medians, Plan

WORLD, EPISODE = "SafetyPointGoal1-v0", 1000
MINIBATCH, FAST_MINIBATCH, FAST_ENVS = 64, 2000, 64
PEER, ONE, TEN = "OmniSafe", "trueline, equal settings", "trueline, equal settings but 10 environments"
FAST = "trueline, fast preset"
ENGINE, ENGINES = "engine alone, N=1", f"engine alone, N={FAST_ENVS}"
FLOOR, FAST_FLOOR = f"floor of a minibatch of {MINIBATCH}", f"floor of a minibatch of {FAST_MINIBATCH}"


class Stopwatch:
    """Adds up the CPU seconds of the functions it is wrapped around."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def around(self, function):
        def timed(*arguments, **named):
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.cpu_s += time.process_time() - began

        return timed


def _figures(steps: int, update: Stopwatch, passes: int) -> dict[str, float]:
    """Trained steps per CPU-second of updating alone, and passes over each collection, beside the work."""
    return {
        "work": steps,
        "update_cpu_s": update.cpu_s,
        "update_per_cpu_s": steps / update.cpu_s,
        "passes": passes,
    }


def peer(epochs: int, steps_per_epoch: int, passes: int):
    """OmniSafe's PPOLag at its own settings, but for the size of an epoch, one thread, and every pass made."""
    package = peers.omnisafe()

    def agent(epochs: int, steps: int, passes: int):
        settings = {
            "train_cfgs": {"total_steps": epochs * steps, "torch_threads": 1, "vector_env_nums": 1},
            "algo_cfgs": {"steps_per_epoch": steps, "update_iters": passes, "kl_early_stop": False},
            "logger_cfgs": {"log_dir": tempfile.mkdtemp(dir=".")},  # in the referee's temporary folder
        }
        return package.Agent("PPOLag", WORLD, custom_cfgs=settings).agent

    agent(1, EPISODE, 1).learn()

    def fresh():
        algorithm, update = agent(epochs, steps_per_epoch, passes), Stopwatch()
        algorithm._update = update.around(algorithm._update)

        def job():
            algorithm.learn()
            return _figures(epochs * steps_per_epoch, update, passes)

        return job

    return fresh


def ours(preset: str, settings: dict, warm_up: dict):
    """Our recipe in a run of its own, logs and checkpoints included, as `trueline train` makes it."""
    import torch

    from trueline.core.recipe import recipe_config
    from trueline.core.run import Run
    from trueline.rl import on_policy
    from trueline.rl.updates.ppo import Ppo

    torch.set_num_threads(1)
    estimate, learn = on_policy.estimate, Ppo.learn

    def fresh(settings: dict = settings):
        config = recipe_config("ppo-lag", preset, {"env": WORLD, **settings})
        folder = tempfile.mkdtemp(dir=".")
        run = Run.create(folder, kind="train", name="ppo-lag", config=config, seed=0, threads=1)
        trainer, update, made = on_policy.Trainer(config, run, {}), Stopwatch(), []

        def counted(*arguments):
            report = learn(*arguments)
            made.append(report.passes)
            return report

        # OmniSafe's update too includes the advantages, which its buffer standardises when it is read.
        on_policy.estimate, Ppo.learn = update.around(estimate), update.around(counted)

        def job():
            trainer.train()
            run.finish("done")
            return _figures(trainer.collector.total_steps, update, sum(made) / len(made))

        return job

    fresh(settings | warm_up)()
    return fresh


MAKERS = {"peer": peer, "ours": ours, "engine": goal_throughput.engine, "floor": update_step.floor}


def _highest_rate(medians: Medians, engine: str, floor: str, minibatch: int, passes: float) -> float:
    """Trained steps per CPU-second if a step cost the engine's time and `passes` shares of the floor, nothing else."""
    return 1.0 / (1.0 / medians[engine]["per_cpu_s"] + passes / (minibatch * medians[floor]["per_cpu_s"]))


def _equal(medians: Medians) -> float:
    return _highest_rate(medians, ENGINE, FLOOR, MINIBATCH, medians[ONE]["passes"])


def _fast(medians: Medians) -> float:
    return _highest_rate(medians, ENGINES, FAST_FLOOR, FAST_MINIBATCH, medians[FAST]["passes"])


def _update_only(medians: Medians) -> float:
    return MINIBATCH * medians[FLOOR]["per_cpu_s"] / medians[ONE]["passes"] / medians[PEER]["update_per_cpu_s"]


def plan(quick: bool) -> Plan:
    epochs, steps, passes = (1, EPISODE, 40) if quick else (2, 2 * EPISODE, 40)
    fast_steps = FAST_ENVS * EPISODE * (1 if quick else 2)
    equal = {
        "steps_per_epoch": steps,
        "total_steps": epochs * steps,
        "update": {"passes": passes, "minibatch": MINIBATCH, "target_kl": None},
    }
    one_pass = {"total_steps": EPISODE, "steps_per_epoch": EPISODE, "update": {"passes": 1}}
    engine = {"id": WORLD, "episodes": 1 if quick else 5}
    arithmetic = "the engine alone and the minibatches' arithmetic alone"
    return Plan(
        unit="trained environment steps",
        note="From the first step of training to the finished run, resets, logs and checkpoints included, building the "
        "networks and the world excluded. Equal settings: OmniSafe 0.5.0's hyper-parameters for PPOLag with an epoch "
        f"of {steps} steps, {passes} passes over minibatches of {MINIBATCH}, no early stop, one environment. The fast "
        f"preset is ours, on {FAST_ENVS} environments, with its own early stop; `passes` says how many it made. "
        "Updates only: advantages and gradient steps. Ceilings: the floor of update_step.py and the engine alone of "
        "goal_throughput.py, measured in this run.",
        contestants=[
            Contestant(PEER, "peer", {"epochs": epochs, "steps_per_epoch": steps, "passes": passes}, peer=True),
            Contestant(ONE, "ours", {"preset": "faithful", "settings": equal, "warm_up": one_pass}),
            Contestant(TEN, "ours", {"preset": "faithful", "settings": {**equal, "num_envs": 10}, "warm_up": one_pass}),
            Contestant(FAST, "ours", {"preset": "fast", "settings": {"total_steps": fast_steps}, "warm_up": one_pass}),
            Contestant(ENGINE, "engine", {**engine, "num_envs": 1}),
            Contestant(ENGINES, "engine", {"id": WORLD, "episodes": 1, "num_envs": FAST_ENVS}),
            Contestant(FLOOR, "floor", {"minibatch": MINIBATCH}),
            Contestant(FAST_FLOOR, "floor", {"minibatch": FAST_MINIBATCH}),
        ],
        comparisons=[
            Comparison(
                "end to end at equal settings, trueline / OmniSafe",
                ONE,
                "per_cpu_s",
                f"{arithmetic} / OmniSafe",
                lambda m: _equal(m) / m[PEER]["per_cpu_s"],
                PEER,
                at_least=4.0,
            ),
            Comparison(
                "updates alone at equal settings, trueline / OmniSafe",
                ONE,
                "update_per_cpu_s",
                "the minibatches' arithmetic alone / OmniSafe",
                _update_only,
                PEER,
                at_least=4.0,
            ),
            Comparison(
                "end to end with 10 environments (SafePO's number), trueline / OmniSafe with 1",
                TEN,
                "per_cpu_s",
                f"{arithmetic} / OmniSafe",
                lambda m: _highest_rate(m, ENGINES, FLOOR, MINIBATCH, m[TEN]["passes"]) / m[PEER]["per_cpu_s"],
                PEER,
            ),
            Comparison(
                "fast preset, trained steps per CPU-second",
                FAST,
                "per_cpu_s",
                arithmetic,
                _fast,
                at_least=6000.0,
            ),
            Comparison(
                "fast preset / OmniSafe at its own settings",
                FAST,
                "per_cpu_s",
                f"{arithmetic} / OmniSafe",
                lambda m: _fast(m) / m[PEER]["per_cpu_s"],
                PEER,
                at_least=40.0,
            ),
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
