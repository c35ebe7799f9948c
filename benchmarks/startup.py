"""How long until something happens: `--help`, `import trueline`, and the first gradient step of a training."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import _interleave
import goal_throughput
from _interleave import Comparison, Contestant, Plan

HERE = str(Path(__file__).resolve().parent)
LONGEST_S = 120.0

# Leaves the process at the first gradient step, so that what is measured ends there.
FIRST_STEP = """
import os, sys
from trueline.rl.adam import FlatAdam
FlatAdam.step = lambda *_: os._exit(0)
from trueline.cli import main
sys.argv = ["trueline", "train", "ppo-lag", "--preset", "fast", "--root", "runs"]
main()
sys.exit("the training ended without a gradient step")
"""
PEER_HELP = f"""
import sys
sys.path.insert(0, {HERE!r})
import _peers as peers
peers.omnisafe()
from omnisafe.utils.command_app import app
sys.argv = ["omnisafe", "--help"]
app()
"""
# Commands by name, as arguments after this side's interpreter; the other one is the installed script.
PYTHON: dict[str, Sequence[str]] = {
    "python": ("-c", "pass"),
    "torch": ("-c", "import torch, mujoco, gymnasium"),
    "import": ("-c", "import trueline"),
    "first step": ("-c", FIRST_STEP),
    "peer help": ("-c", PEER_HELP),
}


def command(name: str):
    """A fresh process from start to end: its CPU seconds, children included, and wall seconds."""
    python = PYTHON.get(name)
    program = [sys.executable, *python] if python else [str(Path(sys.executable).with_name("trueline")), "--help"]

    def job():
        with tempfile.TemporaryDirectory() as folder:
            before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                program, cwd=folder, capture_output=True, text=True, timeout=LONGEST_S, check=False
            )  # fmt: skip
            after, wall_s = getrusage(RUSAGE_CHILDREN), time.perf_counter() - began
        if done.returncode:
            sys.exit(f"{done.stderr}\n{name!r} left with {done.returncode}.")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"work": 1, "cpu_s": cpu_s, "wall_s": wall_s}

    job()  # fills the disk's cache and writes byte code
    return lambda: job


MAKERS = {"command": command, "engine": goal_throughput.engine}
HELP, IMPORT, FIRST = "trueline --help", "import trueline", "trueline train ppo-lag --preset fast, first gradient step"
PYTHON_ALONE, LIBRARIES, PEER = "python, doing nothing", "import torch, mujoco, gymnasium", "omnisafe --help"
ENGINE = "the engine alone, one epoch of the fast preset"


def _first_step_floor(measure: str):
    return lambda medians: medians[LIBRARIES][measure] + medians[ENGINE][measure]


def _nothing(measure: str):
    return lambda medians: medians[PYTHON_ALONE][measure]


def plan(quick: bool) -> Plan:
    del quick  # starting takes as long as it takes
    return Plan(
        unit="starts",
        note="A new process each time, byte code and the disk's cache warm. The first gradient step of the fast preset "
        "follows 16,000 environment steps. OmniSafe's command line imports all of the package; its first gradient "
        "step comes after 20,000 environment steps and 20 resets, and is not measured here.",
        contestants=[
            Contestant(PYTHON_ALONE, "command", {"name": "python"}),
            Contestant(PEER, "command", {"name": "peer help"}, peer=True),
            Contestant(HELP, "command", {"name": "help"}),
            Contestant(IMPORT, "command", {"name": "import"}),
            Contestant(LIBRARIES, "command", {"name": "torch"}),
            Contestant(FIRST, "command", {"name": "first step"}),
            Contestant(ENGINE, "engine", {"id": "SafetyPointGoal1-v0", "num_envs": 16, "episodes": 1}),
        ],
        comparisons=[
            *(
                Comparison(
                    f"{name}, {unit} seconds", name, measure, "the interpreter alone", _nothing(measure), at_most=bar
                )
                for name, bar in ((HELP, 0.5), (IMPORT, None))
                for unit, measure in (("CPU", "cpu_s"), ("wall", "wall_s"))
            ),
            *(
                Comparison(
                    f"{FIRST}, {unit} seconds",
                    FIRST,
                    measure,
                    "importing the libraries, and the engine's part of the steps that come before",
                    _first_step_floor(measure),
                    at_most=5.0,
                )
                for unit, measure in (("CPU", "cpu_s"), ("wall", "wall_s"))
            ),
            Comparison(
                "CPU seconds of --help, OmniSafe / trueline",
                PEER,
                "cpu_s",
                "OmniSafe / the interpreter alone",
                lambda medians: medians[PEER]["cpu_s"] / medians[PYTHON_ALONE]["cpu_s"],
                HELP,
            ),
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
