"""Training that is stopped or killed at any moment ends as if nothing had happened.

Processes are forked from a server that has imported torch once, so that a kill falls into training, not into imports.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from own_process import call

from trueline.core.metrics import read_metrics
from trueline.core.run import read_manifest
from trueline.core.subject import subject_hash

USE = ("--import", "fault_worlds")
EPOCHS = 60
SMALL = (
    "env=Drift-v0", "num_envs=4", "steps_per_epoch=80", "cost_limit=2.0", "actor.hidden=[8]", "critic.hidden=[8]",
    "update.passes=2", "update.minibatch=40", "checkpoint_epochs=1", "averaged_share=0.5",
)  # fmt: skip
TRAIN = ("train", "ppo-lag", *SMALL, f"total_steps={80 * EPOCHS}", "--seed", "3")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The file that takes what the processes say."""
    return tmp_path_factory.mktemp("said") / "stderr.txt"


@pytest.fixture(scope="module")
def process(said):
    """Starts the command line in a process of its own."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trueline.api", "trueline.safety.recipes.ppo", "tensorboard", "own_process"])

    def start(*argv):
        child = processes.Process(target=call, args=([*USE, *map(str, argv)], said))
        child.start()
        return child

    return start


def numbers(folder: Path) -> list[dict[str, float]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def finished(folder: Path) -> tuple:
    """Everything a run is about: hash of the subject, every logged number, the summary."""
    manifest = read_manifest(folder)
    assert manifest["status"] == "done"
    return subject_hash(folder), numbers(folder), manifest["summary"]


def wait_for(child, path: Path) -> None:
    while child.is_alive() and not path.exists():
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(process, tmp_path_factory):
    """A run that nothing interrupts, and how long it takes from its first moment on."""
    root = tmp_path_factory.mktemp("whole")
    child = process(*TRAIN, "--root", root, "--id", "a")
    wait_for(child, root / "a" / "manifest.json")
    began = time.monotonic()
    child.join()
    assert child.exitcode == 0
    assert len(numbers(root / "a")) == EPOCHS
    return finished(root / "a"), time.monotonic() - began


@pytest.mark.timeout(240)
def test_twenty_kills_leave_no_trace(process, whole, tmp_path):
    expected, whole_s = whole
    draw, kills, attempt = random.Random(1), 0, 0
    while kills < 20:
        # Several kills in one run: a resumed one has to survive as well as one that was never touched.
        root, left = tmp_path / str(attempt), 4
        attempt += 1
        child = process(*TRAIN, "--root", root, "--id", "a")
        while True:
            wait_for(child, root / "a" / "manifest.json")
            if left and kills < 20:
                child.join(draw.uniform(0.0, 0.5) * whole_s)
            else:
                child.join()
            if not child.is_alive():
                break
            with contextlib.suppress(ProcessLookupError):  # it may end by itself at this very moment
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills, left = kills + 1, left - 1
            child = process("resume", root / "a")
        assert child.exitcode == 0
        assert finished(root / "a") == expected, f"attempt {attempt}, after {kills} kills"
        assert attempt < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_checkpoint_and_says_how_to_go_on(process, said, whole, tmp_path, number):
    child = process(*TRAIN, "--root", tmp_path, "--id", "a")
    folder = tmp_path / "a"
    wait_for(child, folder / "metrics.jsonl")
    while child.is_alive() and len(numbers(folder)) < 3:
        time.sleep(0.005)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == 130
    assert f"`trueline resume {folder}`" in said.read_text()
    manifest = read_manifest(folder)
    assert manifest["status"] == "stopped"
    assert 3 <= len(numbers(folder)) < EPOCHS
    child = process("resume", folder)
    child.join()
    assert child.exitcode == 0
    assert finished(folder) == whole[0]


def test_a_stopped_sweep_trains_only_what_is_missing(process, tmp_path):
    points = ("total_steps=1200", "gamma=0.9,0.99", "--seeds", 2)
    grid = ("sweep", "ppo-lag", *SMALL, *points, "--root", tmp_path, "--id", "s")
    child = process(*grid)
    wait_for(child, tmp_path / "s-p00-s1" / "manifest.json")
    os.kill(child.pid, signal.SIGTERM)
    child.join()
    assert child.exitcode == 130
    first = (tmp_path / "s-p00-s0" / "manifest.json").read_bytes()
    assert not (tmp_path / "s-p01-s1").exists()
    child = process(*grid)
    child.join()
    assert child.exitcode == 0
    assert (tmp_path / "s-p00-s0" / "manifest.json").read_bytes() == first
    rows = json.loads((tmp_path / "s" / "artefacts" / "table.json").read_text())
    assert [row["settings"] for row in rows] == [{"gamma": 0.9}, {"gamma": 0.99}]
    assert all(row["mean"]["train/return"]["n"] == 2 for row in rows)


CYCLE = """
name = "drift"
rounds = 3
respond_cases = 8
show = []
train = { recipe = "ppo", config = { env = "Drift-v0", num_envs = 4, steps_per_epoch = 80, total_steps = 1600, \
actor = { hidden = [8] }, critic = { hidden = [8] }, update = { passes = 2, minibatch = 40 }, checkpoint_epochs = 1 } }
audit = [{ name = "ethicality/episode-cost", config = { cost_limit = 0.0, num_envs = 4, return_at_least = 1e6 }, \
budget = { initial = 8, batch = 8, maximum = 24 } }]
respond = [{ name = "constrain", config = { preset = "none" } }, { name = "add-findings" }, \
{ name = "randomise", config = { evidence = "nothing:*", setting = "disturbance.delay" } }]
"""


def of_cycle(root: Path) -> dict:
    """What every run of a cycle came to: evidence and, where something was trained, its hash and numbers."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        assert read_manifest(folder)["status"] == "done"
        evidence = folder / "evidence.jsonl"
        found[folder.name] = (
            evidence.read_text() if evidence.exists() else "",
            (subject_hash(folder), numbers(folder)) if folder.name.endswith("train") else (),
        )
    return found


@pytest.mark.timeout(240)
def test_a_cycle_of_policies_killed_between_and_inside_rounds_ends_the_same(process, tmp_path):
    toml = tmp_path / "drift.toml"
    toml.write_text(CYCLE)
    began = time.monotonic()
    child = process("cycle", toml, "--root", tmp_path / "whole", "--id", "c")
    child.join()
    assert child.exitcode == 0
    whole_s = time.monotonic() - began
    expected = of_cycle(tmp_path / "whole")
    assert sum(name.endswith("train") for name in expected) == 3  # the third starts warm and on failed layouts

    draw, root = random.Random(2), tmp_path / "killed"
    child = process("cycle", toml, "--root", root, "--id", "c")
    for _ in range(8):
        wait_for(child, root / "c" / "manifest.json")
        child.join(draw.uniform(0.05, 0.4) * whole_s)
        if not child.is_alive():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        child = process("resume", root / "c")
    child.join()
    assert child.exitcode == 0
    assert of_cycle(root) == expected
