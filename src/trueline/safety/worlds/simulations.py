"""N simulations of one model, without a log file in the user's folder."""

from __future__ import annotations

import mujoco
from mujoco.batch import Batch


def simulations(model: mujoco.MjModel, num_envs: int, threads: int, persistent: bool = False) -> Batch:
    """`num_envs` simulations of `model`, stepped on `threads` threads; persistent: each keeps its own data."""
    keep_out_of_the_folder()
    return Batch(model, nsim=num_envs, nthread=threads, persistent=persistent)


def keep_out_of_the_folder() -> None:
    """Let MuJoCo say its warnings on the console alone.

    It would also append each to MUJOCO_LOG.TXT in the working directory. What it warns of are states that are no
    numbers, which a world reports as `diverged`. The setting is the process's; a log file that was chosen stays.
    """
    if not hasattr(mujoco, "MjLogConfig"):
        return  # MuJoCo 3 cannot be told
    config = mujoco.MjLogConfig.get()
    if config.logfile == "MUJOCO_LOG.TXT":
        config.logto_file = False
        config.set()
