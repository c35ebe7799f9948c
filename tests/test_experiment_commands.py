"""Commands over sets of runs: compare with its page, export, search; and why a run ended, wherever it is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from trueline import api
from trueline.core.errors import RunError
from trueline.core.run import read_manifest
from trueline.rl.exported import Policy

sys.path.append(str(Path(__file__).parent / "cycle"))  # the recipe that searches are tested on

SMALL = (
    "env=SafetyPointGoal0-v0", "num_envs=2", "steps_per_epoch=2000", "total_steps=2000", "actor.hidden=[8]",
    "critic.hidden=[8]", "update.passes=1", "update.minibatch=200",
    "evaluation={every=1, episodes=2, final_episodes=3, num_envs=3}",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the same training under two seeds, evaluated on the way."""
    from trueline.cli import main

    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        with pytest.raises(SystemExit) as end:
            main(
                [
                    "train",
                    "ppo-lag",
                    *SMALL,
                    "--seed",
                    str(seed),
                    "--root",
                    str(root),
                    "--id",
                    f"s{seed}",
                ]
            )
        assert end.value.code == 0
    return root


def test_why_a_run_ended_is_in_its_manifest_its_output_and_its_report(trueline, root):
    reason = read_manifest(root / "s0")["reason"]
    assert reason.startswith("finished all 2,000 steps; over 3 episodes of the final policy: cost_sum ")
    assert "its limit 25" in reason
    assert trueline("resume", "s0", "--root", root).out.splitlines()[-2:] == [
        reason,
        str(root / "s0"),
    ]
    assert reason in Path(trueline("report", "s0", "--root", root).last).read_text()


def test_compare_groups_runs_over_seeds_and_says_how_each_ended(trueline, root, tmp_path):
    page = tmp_path / "page.html"
    said = trueline("compare", "s0", "s1", "--root", root, "--page", page)
    assert said.code == 0
    assert said.last == str(page)
    group = next(line for line in said.out.splitlines() if line.startswith("ppo-lag"))
    assert group.split()[:2] == ["ppo-lag", "2"]  # one group of two seeds
    assert said.out.count("finished all 2,000 steps") == 2
    assert "P(cost_sum > limit)" in said.out  # both evaluated their final policy
    assert 'class="limit' in page.read_text()


def test_the_exported_best_policy_is_the_one_that_was_kept(trueline, root, tmp_path):
    said = trueline("export", "s0", tmp_path / "p.npz", "--best", "--root", root)
    assert said.out.split() == [str(tmp_path / "p.npz"), str(tmp_path / "p.py")]
    best = api.load("s0", root=root, best=True)
    obs = np.random.default_rng(0).normal(size=(5, best.observation.width)).astype(np.float32)
    expected = best.act(obs, None, np.random.default_rng(0), deterministic=True)[0].clip(-1.0, 1.0)
    np.testing.assert_allclose(Policy(tmp_path / "p.npz").act(obs), expected, rtol=0, atol=1e-6)
    assert trueline("export", "s0", tmp_path / "p.pt", "--root", root).code == 2


def test_a_run_that_kept_no_best_policy_says_so(root, tmp_path):
    (tmp_path / "s0").mkdir()
    for name in ("manifest.json", "config.toml"):
        (tmp_path / "s0" / name).write_bytes((root / "s0" / name).read_bytes())
    with pytest.raises(RunError, match="kept no best policy, since its training evaluated none"):
        api.load("s0", root=tmp_path, best=True)


def test_a_sweep_is_compared_over_its_limits(trueline, tmp_path):
    small = [word for word in SMALL if not word.startswith("evaluation")]
    said = trueline(
        "sweep", "ppo-lag", *small, "cost_limit=5.0,25.0", "--seeds", 2, "--root", tmp_path, "--id", "w"
    )  # fmt: skip
    assert said.last == str(tmp_path / "w")
    assert "P(above a limit)" in said.out
    assert "on the front" in said.out
    compared = trueline("compare", "w", "--root", tmp_path)  # one sweep is many runs
    assert compared.out.count("finished all 2,000 steps") == 4
    page = Path(trueline("report", "w", "--root", tmp_path).last)
    assert page == tmp_path / "w" / "report.html"
    assert page.read_text().count("finished all 2,000 steps") == 4
    assert "return against cost_sum" in page.read_text()
    for command in (["audit", "w"], ["export", "w", tmp_path / "p.npz"]):
        said = trueline(*command, "--root", tmp_path)
        assert said.code != 0
        assert "error: w is a sweep of many trainings. Name one of them" in said.err


def test_a_search_is_run_listed_resumed_and_compared(trueline, tmp_path, monkeypatch):
    from searched_recipe import OPTUNA

    monkeypatch.setitem(sys.modules, "optuna", OPTUNA)
    (tmp_path / "s.toml").write_text('recipe = "searched"\ntrials = 3\n[space]\nsize = { low = 1, high = 8 }\n')
    words = ("--root", tmp_path, "--import", "searched_recipe")
    said = trueline("search", tmp_path / "s.toml", "--id", "q", *words)
    assert said.last == str(tmp_path / "q")
    lines = said.out.splitlines()
    assert lines[0].split()[:2] == ["trial", "size"]
    assert len(lines) == 5
    assert trueline("resume", "q", *words).out == said.out
    assert trueline("resume", "q-t000-s0", *words).code == 1  # a part of the search
    (listed,) = json.loads(trueline("runs", "--kind", "search", "--json", "--root", tmp_path).out)
    assert listed["summary"]["trials"] == 3
    compared = trueline("compare", "q", *words)
    assert compared.out.count("q-t00") == 3
    two = api.search(tmp_path / "s.toml", ["trials=2"], root=tmp_path, id="two")
    assert two.folder == tmp_path / "two"
    assert [trial.number for trial in two.trials] in ([0, 1], [1, 0])
    assert api.resume("two", root=tmp_path) == two
