"""Seeds trained together and processes that train one policy, as they are asked for: command line, API, sweeps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import trueline as package
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.run import read_manifest
from trueline.core.subject import load_subject

TINY = {
    "env": "Cmdp-Garnet4-v0",
    "num_envs": 2,
    "steps_per_epoch": 40,
    "total_steps": 80,
    "actor.hidden": [4],
    "critic.hidden": [4],
    "cost_limit": 1.0,
    "update.passes": 1,
}
WORDS = [f"{key}={value}" for key, value in TINY.items()]


def logged(folder: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(folder / "metrics.jsonl")
    ]


def test_seeds_are_runs_like_any_other(tmp_path, trueline):
    said = trueline("train", "ppo-lag", *WORDS, "--seeds", "3-4,7", "--root", tmp_path, "--id", "x")
    assert said.code == 0, said.err
    folders = [tmp_path / f"x-s{seed}" for seed in (3, 4, 7)]
    assert said.out.splitlines()[-3:] == [str(folder) for folder in folders]
    for folder, seed in zip(folders, (3, 4, 7), strict=True):
        alone = package.train("ppo-lag", TINY, seed=seed, root=tmp_path / "alone")
        manifest, other = read_manifest(folder), read_manifest(alone.folder)
        assert (manifest["seed"], manifest["status"]) == (seed, "done")
        for key in ("kind", "name", "config_digest", "inputs", "reason"):
            assert manifest[key] == other[key]
        for mine, theirs in zip(logged(folder), logged(alone.folder), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
        assert load_subject(folder).kind == "policy"


def test_the_same_seeds_again_are_left_as_they_are(tmp_path):
    first = package.train_seeds("ppo-lag", TINY, seeds=[0, 1], root=tmp_path, id="x")
    ended = [read_manifest(run.folder)["ended"] for run in first]
    second = package.train_seeds("ppo-lag", TINY, seeds=[0, 1, 2], root=tmp_path, id="x")
    assert [run.folder.name for run in second] == ["x-s0", "x-s1", "x-s2"]
    assert [read_manifest(run.folder)["ended"] for run in first] == ended
    card = tmp_path / "x-s1" / "manifest.json"
    card.write_text(card.read_text().replace('"done"', '"stopped"'))
    for seeds in ([0], [1]):  # finished or not, what was asked for is not what is there
        words = rf"run x-s{seeds[0]} was begun with other settings: cost_limit was 1\.0 and is 2\.0"
        with pytest.raises(ConfigError, match=words):
            package.train_seeds("ppo-lag", {**TINY, "cost_limit": 2.0}, seeds=seeds, root=tmp_path, id="x")
    with pytest.raises(ConfigError, match="run x-s0 is one of ppo-lag, not of ppo-pid"):
        package.train_seeds("ppo-pid", TINY, seeds=[0], root=tmp_path, id="x")


@pytest.mark.parametrize("status", ["done", "stopped"])
def test_seeds_that_were_begun_as_something_else_are_not_gone_on_with(tmp_path, status):
    start = package.train("ppo-lag", TINY, root=tmp_path, id="start")
    package.train_seeds("ppo-lag", TINY, seeds=[0], root=tmp_path, id="x")
    card = tmp_path / "x-s0" / "manifest.json"
    card.write_text(card.read_text().replace('"done"', f'"{status}"'))
    before = card.read_bytes()
    with pytest.raises(ConfigError, match=r"x-s0 was begun with other inputs: none, not policy=start\. Give those"):
        package.train_seeds("ppo-lag", TINY, seeds=[0], inputs={"policy": start.folder}, root=tmp_path, id="x")
    card.write_text(card.read_text().replace('"seed": 0', '"seed": 5'))
    with pytest.raises(ConfigError, match="run x-s0 has seed 5, not 0"):
        package.train_seeds("ppo-lag", TINY, seeds=[0], root=tmp_path, id="x")
    card.write_bytes(before)
    if status == "stopped":
        with pytest.raises(RunError, match="was started with threads=1, and 2 would change its numbers"):
            package.train_seeds("ppo-lag", TINY, seeds=[0], threads=2, root=tmp_path, id="x")
    assert card.read_bytes() == before


def test_a_seed_that_diverges_is_told_of_when_the_others_are_done(tmp_path):
    with pytest.raises(Exception, match="not finite"):
        package.train_seeds("ppo-lag", {**TINY, "update.critic_lr": 1e30}, seeds=[0, 1], root=tmp_path, id="x")
    assert {read_manifest(tmp_path / f"x-s{seed}")["status"] for seed in (0, 1)} == {"diverged"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppo-lag", "--seeds", "5-3"], "--seeds is '5-3', but should be like 0-15 or 0,3,7"),
        (["ppo-lag", "--seeds", "1,1"], "names a seed twice"),
        (["ppo-lag", "--seeds", "0-1", "--seed", "3"], "--seed and --wandb are of one training"),
        (["sac-lag", "--seeds", "0-1"], "sac-lag trains one seed at a time"),
        (["cpo", "--seeds", "0-1"], "seeds cannot be trained together by cpo"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_exists(words, said, tmp_path, trueline):
    answer = trueline("train", *words, "env=Cmdp-Garnet4-v0", "--root", tmp_path)
    assert answer.code == 2
    assert said in answer.err
    assert not list(tmp_path.iterdir())


def test_a_sweep_trains_the_seeds_of_a_point_together(tmp_path):
    grid = {"cost_limit": [0.5, 1.0]}
    fixed = {key: value for key, value in TINY.items() if key != "cost_limit"}
    both = package.sweep("ppo-lag", grid, seeds=2, config=fixed, root=tmp_path / "both", id="x", together=True)
    one_by_one = package.sweep("ppo-lag", grid, seeds=2, config=fixed, root=tmp_path / "alone", id="x")
    for mine, theirs in zip(both.rows, one_by_one.rows, strict=True):
        assert mine.settings == theirs.settings
        assert {k: e.value for k, e in mine.mean.items()} == pytest.approx(
            {k: e.value for k, e in theirs.mean.items()}, rel=1e-3, abs=1e-4
        )
    with pytest.raises(ConfigError, match="trained together by trpo"):
        package.sweep("trpo-lag", grid, seeds=2, config={"env": TINY["env"]}, root=tmp_path / "no", together=True)


def under_torchrun(root: Path, *words: str) -> list[subprocess.Popen]:
    """Two processes as torchrun starts them, without the seconds that it takes itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, "-m", "trueline.cli", *words, "--root", str(root)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "GLOO_SOCKET_IFNAME": "lo",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_under_torchrun_two_processes_make_one_run(tmp_path):
    processes = under_torchrun(tmp_path, "train", "ppo-lag", *WORDS, "--id", "x")
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0][0].splitlines()[-1] == str(tmp_path / "x")
    assert said[1][0] == ""
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"x"}
    assert read_manifest(tmp_path / "x")["status"] == "done"
    assert len(logged(tmp_path / "x")) == 2
    assert load_subject(tmp_path / "x").kind == "policy"


def test_under_torchrun_a_recipe_of_one_process_is_refused_by_all(tmp_path):
    processes = under_torchrun(tmp_path, "train", "sac-lag", "env=CmdpBox-Garnet4-v0")
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("sac-lag is trained by one process" in err for _, err in said)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_run_of_two_processes_is_not_resumed_by_one(tmp_path):
    processes = under_torchrun(tmp_path, "train", "ppo-lag", *WORDS, "--id", "x")
    for process in processes:
        process.communicate(timeout=120)
    manifest = tmp_path / "x" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    with pytest.raises(RunError, match="is trained by 2 processes"):
        package.resume("x", root=tmp_path)
