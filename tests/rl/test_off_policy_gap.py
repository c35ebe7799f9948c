"""Off-policy rows against exact optima of processes of more than one step: values are bootstrapped, and time ends them.

The bandits of test_off_policy.py have episodes of one step, in which a value is a reward. Here what is bootstrapped
decides: the settings are those of benchmarks/optimum_gaps.py, for fewer steps.
"""

from __future__ import annotations

from trueline.rl.exact.gap import measure_gap
from trueline.rl.exact.optimum import Expected
from trueline.safety.recipes import off_policy as rows

REPLAY = {
    "num_envs": 16,
    "steps_per_epoch": 512,
    "total_steps": 16 * 1600,
    "warm_up": 512,
    "updates_per_step": 1 / 16,
    "capacity": 16_384,
    "gamma": 1.0,
    "cost_gamma": 1.0,
    "checkpoint_epochs": 1000,
    "actor": {"hidden": []},
    "critic": {"hidden": []},
}
WAVES = {"window": 64, "episodes_per_move": 16}
PID = {**WAVES, "constraint": {"kind": "pid", "kp": 1.0, "ki": 0.02, "kd": 0.0, "smoothing": 0.5, "init": 0.5}}
SOFT = {"batch": 64, "lr": 0.02, "critic_lr": 0.05, "alpha": 0.02, "delay": 1, "polyak": 0.05}


def test_sac_mixes_its_choices_as_the_optimum_under_the_limit_does():
    # Two steps: how much to stake, and how to pay a loss, which only a bootstrapped cost tells the first.
    gap = measure_gap(rows.SAC_PID, instances=["Gamble"], settings={**REPLAY, **PID, "update": SOFT}, seeds=(1,))
    assert gap.passed, gap.table()


def test_td3_finds_the_way_that_pays_late():
    # Eight steps to a goal: a policy whose values are not bootstrapped would not go there.
    boxed = {**REPLAY, "total_steps": 16 * 900, "warm_up": 4096, "critic": {"hidden": [32, 32]}}
    update = {"batch": 64, "lr": 2e-3, "critic_lr": 5e-3, "delay": 1, "polyak": 0.05}
    free = lambda cmdp: Expected((1e3,) * len(cmdp.costs))  # noqa: E731
    gap = measure_gap(rows.TD3, free, ["Corridor"], {**boxed, "update": update}, seeds=(1,), box=True)
    assert gap.passed, gap.table()
