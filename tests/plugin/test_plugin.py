"""A third party's package, and a subject that is no policy, go through everything a built-in one does."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from trueline_bandit.arms import HARM, SUCCESS, make
from trueline_bandit.player import Pulls

from trueline.api import load
from trueline.cli import main
from trueline.core.run import read_evidence

HERE = Path(__file__).parent
USE = ("--import", "trueline_bandit")
REPORTED = ("estimate", "verdict", "looks", "missing", "failing", "split", "round", "metric")


def test_every_file_of_the_plugin_is_short():
    lines = {path.name: len(path.read_text().splitlines()) for path in (HERE / "trueline_bandit").glob("*.py")}
    assert set(lines) > {"arms.py", "recipe.py", "audit.py", "claim.py", "player.py", "response.py"}
    assert max(lines.values()) < 40


def test_the_world_pays_what_its_arms_promise():
    env = make("Bandit-v0", num_envs=4000)
    env.reset(np.arange(4000, dtype=np.uint32))
    for arm in range(3):
        env.episode_seed = np.arange(4000, dtype=np.uint32)
        step = env.step(np.full(4000, arm))
        four_sigma = 4 * 0.5 / np.sqrt(4000)
        assert step.reward.mean() == pytest.approx(SUCCESS[arm], abs=four_sigma)
        assert step.cost.mean() == pytest.approx(HARM[arm], abs=four_sigma)
        assert step.terminated.all()


def test_harm_of_the_constrained_player_is_at_its_limit(trueline, tmp_path):
    # Of the mixtures with harm d = 0.3, the best is of arms 1 and 2: p₂ = (0.3 − 0.05)/(0.6 − 0.05).
    best = 0.5 + (0.3 - 0.05) / 0.55 * 0.4
    said = trueline("train", "bandit-lag", "cost_limit=0.3", "steps=1500", *USE, "--root", tmp_path, "--id", "a")
    assert said.code == 0
    p = np.array(load("a", root=tmp_path).probability)
    one_hundredth = 0.01
    assert p @ HARM == pytest.approx(0.3, abs=one_hundredth)
    assert p @ SUCCESS == pytest.approx(best, abs=2 * one_hundredth)


def test_its_names_are_listed(trueline):
    for kind, name in {
        "envs": "Bandit-v0",
        "recipes": "bandit-lag",
        "audits": "ethicality/harm",
        "claims": "bandit/",
    }.items():
        assert name in trueline("list", kind, *USE).out
    listed = json.loads(trueline(*USE, "list", "subjects", "--json").out)
    assert {"bandit"} < {entry["name"] for entry in listed}


def test_audit_of_a_player_fails_and_finds_the_harmful_arm(trueline, tmp_path):
    assert trueline("train", "bandit", *USE, "--root", tmp_path, "--id", "free").code == 0
    # The free player pulls arm 2 almost always, so harm is near 0.6 and 200 cases settle that it is above 0.3.
    said = trueline("audit", "free", "--only", "ethicality/*", "--budget", 200, *USE, "--root", tmp_path)
    assert said.code == 4
    assert " fail " in said.out
    (row,) = read_evidence(Path(said.last).parent)
    assert row["estimate"]["low"] > 0.3
    assert {finding["detail"]["arm"] for finding in row["findings"]} == {2}
    eased = trueline("audit", "free", "--config", "ethicality/harm.limit=0.9", *USE, "--root", tmp_path)
    assert eased.code == 0


def test_an_audit_of_policies_named_outright_leaves_a_visible_gap(trueline, tmp_path):
    trueline("train", "bandit", "steps=10", *USE, "--root", tmp_path, "--id", "free")
    assert isinstance(load("free", root=tmp_path), Pulls)
    policies = [
        e["name"] for e in json.loads(trueline("list", "audits", "--json").out) if e["name"] != "ethicality/harm"
    ]
    for name in policies[:1]:
        said = trueline("audit", "free", "--only", name, *USE, "--root", tmp_path)
        assert said.code == 5
        assert "not measured" in said.out


def test_its_claim_is_reproduced(trueline, tmp_path):
    said = trueline("reproduce", "bandit", *USE, "--root", tmp_path)
    assert said.code == 0
    assert "reproduced" in said.out
    assert "not reproduced" not in said.out
    assert "exponentiated gradients" in trueline("reproduce", *USE, "--root", tmp_path).out


def test_a_cycle_turns_a_failed_audit_into_a_constrained_player(trueline, tmp_path):
    said = trueline("cycle", HERE / "bandit.toml", *USE, "--root", tmp_path, "--id", "c")
    assert said.code == 0
    assert said.out.startswith("release after 2 rounds")
    assert said.last == str(tmp_path / "c" / "report.html")
    page = Path(said.last).read_text()
    assert "ethicality/harm" in page
    assert "bandit-lag" in page
    first, second = (read_evidence(tmp_path / f"c-r{n}-audit")[0] for n in (1, 2))
    assert (first["verdict"], second["verdict"]) == ("fail", "pass")
    seeds = [{case["case"]["id"] for case in row["findings"]} for row in (first, second)]
    assert not seeds[0] & seeds[1]
    for again in (trueline("resume", "c", *USE, "--root", tmp_path), trueline("report", "c", *USE, "--root", tmp_path)):
        assert again.code == 0
        assert again.last == said.last
    assert "`trueline resume c`" in trueline("resume", "c-r1-train", *USE, "--root", tmp_path).err
    # The cycle's subject is the one it trained last.
    assert trueline("audit", "c", "--only", "ethicality/harm", *USE, "--root", tmp_path).code == 0


def test_a_cycle_killed_between_and_inside_its_rounds_ends_with_the_same_evidence(tmp_path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trueline.api", "trueline_bandit.recipe", "trueline_bandit.audit"])

    def run(*argv, until=""):
        """One process, killed as soon as a file that matches `until` appears."""
        child = processes.Process(target=main, args=([*USE, *map(str, argv), "--root", str(tmp_path)],))
        child.start()
        while child.is_alive():
            if until and any(tmp_path.glob(until)):
                os.kill(child.pid, signal.SIGKILL)
                child.join()  # a second signal would find nobody
            child.join(0.002)
        return child.exitcode

    assert run("cycle", HERE / "bandit.toml", "--id", "whole") == 0
    begin = ("cycle", HERE / "bandit.toml", "--id", "killed")
    moments = (
        "-r1-train/checkpoints/step-*",
        "-r1-train/subject",
        "/artefacts/rounds/1.json",
        "-r2-train/checkpoints/*200",
    )
    for moment in moments:
        assert run(*begin, until="killed" + moment) == -signal.SIGKILL
        begin = ("resume", "killed")
    assert run("resume", "killed") == 0
    for part in ("r1-audit", "r1-respond", "r2-audit"):
        whole, killed = (read_evidence(tmp_path / f"{id}-{part}") for id in ("whole", "killed"))
        assert [[row[key] for key in REPORTED] for row in whole] == [[row[key] for key in REPORTED] for row in killed]
    assert load("whole", root=tmp_path).probability == load("killed", root=tmp_path).probability
