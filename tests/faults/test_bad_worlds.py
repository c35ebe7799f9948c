"""Worlds and learning rates that go wrong: training stops, says where, and keeps what was good."""

import json
import shutil
from pathlib import Path

import pytest

from trueline.core import checkpoint
from trueline.core.run import read_manifest

USE = ("--import", "fault_worlds")
SMALL = ("actor.hidden=[8]", "critic.hidden=[8]", "update.passes=1", "update.minibatch=20", "checkpoint_epochs=1")


def intact(folder: Path) -> Path:
    path = checkpoint.latest(folder / "checkpoints")
    assert path is not None
    assert checkpoint.read(path)["state"]
    return path


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_nan_from_a_world_is_named_with_environment_and_step(trueline, tmp_path, what):
    # Each of the two worlds gives nan from its own 55th step on, within its sixth episode: step 54 counted from 0, or
    # 55 for an observation, which is first acted on a step later.
    said = trueline(
        "train", "ppo", f"env=Nan{what.capitalize()}-v0", "num_envs=2", "steps_per_epoch=40", "total_steps=400", *SMALL,
        *USE, "--root", tmp_path, "--id", "a",
    )  # fmt: skip
    assert said.code == 3
    step = {"reward": 54, "observation": 55}[what]
    assert f"Nan{what.capitalize()}-v0 returned {what} that is not finite (environment 0, step {step})" in said.err
    assert read_manifest(tmp_path / "a")["status"] == "failed"
    assert checkpoint.step_of(intact(tmp_path / "a")) == 80  # epochs of 20 steps of 2: the second ended before step 54


def test_diverging_training_names_step_tensor_and_checkpoint(trueline, tmp_path):
    settings = ("env=Drift-v0", "num_envs=2", "steps_per_epoch=40", "total_steps=400", *SMALL)
    rate = ("update.lr=1e30", "update.critic_lr=1e30", "update.grad_norm=1e30", "update.schedule=constant")
    said = trueline("train", "ppo", *settings, *rate, *USE, "--root", tmp_path, "--id", "a")
    assert said.code == 3, said.err
    assert "training diverged" in said.err
    assert "at step" in said.err
    manifest = read_manifest(tmp_path / "a")
    assert manifest["status"] == "diverged"
    assert not (tmp_path / "a" / "subject").exists()


def test_a_diverged_point_of_a_sweep_is_a_result(trueline, tmp_path):
    settings = ("env=Drift-v0", "num_envs=2", "steps_per_epoch=40", "total_steps=120", "update.grad_norm=1e30", *SMALL)
    said = trueline(
        "sweep", "ppo", *settings, "update.lr=1e-3,1e30", "update.critic_lr=1e-3", "--seeds", 1, *USE, "--root",
        tmp_path, "--id", "s",
    )  # fmt: skip
    assert said.code == 0, said.err
    rows = json.loads((tmp_path / "s" / "artefacts" / "table.json").read_text())
    assert [row["diverged"] for row in rows] == [0, 1]


def test_full_disk_keeps_the_last_checkpoint_and_resumes(trueline, tmp_path):
    train = ("train", "ppo", "env=Drift-v0", "num_envs=2", "steps_per_epoch=40", "total_steps=400", *SMALL, *USE)
    for root in ("whole", "full"):
        assert trueline(*train, "--root", tmp_path / root, "--id", "a").code == 0
    # The second one is put back to where it was before its last epoch, with a metrics file that is always full.
    folder = tmp_path / "full" / "a"
    shutil.rmtree(intact(folder))
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace('"done"', '"stopped"'))
    (folder / "metrics.jsonl").rename(folder / "metrics.kept")
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    kept = intact(folder)
    said = trueline("resume", folder, *USE)
    assert said.code == 1
    assert "error: " in said.err
    assert "Traceback" not in said.err
    assert intact(folder) == kept
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.kept").rename(folder / "metrics.jsonl")
    assert trueline("resume", folder, *USE).code == 0
    assert read_manifest(folder)["summary"] == read_manifest(tmp_path / "whole" / "a")["summary"]
