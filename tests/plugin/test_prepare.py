"""What a cycle trains before its first round, and values that its file says once."""

from __future__ import annotations

import json

import pytest

from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.core.run import read_manifest
from trueline.core.subject import subject_hash
from trueline.cycle.spec import CycleSpec, read_cycle, with_prepared

USE = ("--import", "trueline_bandit")

FILE = """
name = "bandit"
rounds = 1

[let]
steps = 20
bound = { limit = 0.9 }

[prepare.first]
recipe = "bandit"
config = { steps = "$steps" }

[prepare.second]
recipe = "bandit"
config = { steps = 10 }
inputs = { policy = "prepared://first" }

[train]
recipe = "bandit"
config = { steps = "$steps" }
inputs = { policy = "prepared://second" }

[[audit]]
name = "ethicality/harm"
config = "$bound"
budget = { initial = 20, batch = 20, maximum = 20 }
"""


def written(tmp_path, text=FILE):
    path = tmp_path / "cycle.toml"
    path.write_text(text)
    return path


def test_prepared_runs_are_trained_once_and_are_inputs_of_the_first_round(trueline, tmp_path):
    root = tmp_path / "runs"
    said = trueline("cycle", written(tmp_path), *USE, "--root", root, "--id", "c")
    assert said.code in (0, 4), said.err
    assert [line for line in said.err.splitlines() if "prepare" in line] == [
        "prepare first (1 of 2): train bandit",
        "prepare second (2 of 2): train bandit",
    ]
    for name, role_of in {"c-second": "c-first", "c-r1-train": "c-second"}.items():
        (given,) = read_manifest(root / name)["inputs"].values()
        assert (given["run"], given["sha256"]) == (role_of, subject_hash(root / role_of))
    seeds = [read_manifest(root / name)["seed"] for name in ("c-first", "c-second", "c-r1-train")]
    assert len(set(seeds)) == 3
    plan = json.loads((root / "c" / "artefacts" / "rounds" / "1.json").read_text())["plan"]
    assert plan["inputs"] == {"policy": "run://c-second"}
    assert plan["config"] == {"steps": 20}


def test_a_resumed_cycle_keeps_what_was_prepared(trueline, tmp_path):
    root = tmp_path / "runs"
    trueline("cycle", written(tmp_path), *USE, "--root", root, "--id", "c")
    before = {name: (root / name / "manifest.json").read_bytes() for name in ("c-first", "c-second")}
    # As if it had been killed before the first round was written down.
    (root / "c" / "artefacts" / "rounds" / "1.json").unlink()
    manifest = read_manifest(root / "c")
    (root / "c" / "manifest.json").write_text(json.dumps({**manifest, "status": "failed"}))
    said = trueline("resume", "c", *USE, "--root", root)
    assert said.code in (0, 4), said.err
    assert {name: (root / name / "manifest.json").read_bytes() for name in before} == before


def test_only_what_is_prepared_before_can_be_referred_to():
    train = {"recipe": "bandit", "inputs": {"policy": "prepared://frist"}}
    audit = [{"name": "ethicality/harm"}]
    with pytest.raises(ValueError, match=r"train refers to prepared://frist.*mean 'first'"):
        CycleSpec(name="c", prepare={"first": Plan(recipe="bandit")}, train=Plan(**train), audit=audit)
    early = {"first": Plan(recipe="bandit", inputs={"policy": "prepared://first"})}
    with pytest.raises(ValueError, match="first refers to prepared://first, which is not prepared before it"):
        CycleSpec(name="c", prepare=early, train=Plan(recipe="bandit"), audit=audit)
    lost = [{"name": "ethicality/harm", "config": {"base": ["prepared://first"]}}]
    with pytest.raises(ValueError, match="ethicality/harm refers to prepared://, which stands for runs"):
        CycleSpec(name="c", prepare={"first": Plan(recipe="bandit")}, train=Plan(recipe="bandit"), audit=lost)
    with pytest.raises(ValueError, match="cannot be part of a run's name"):
        CycleSpec(name="c", prepare={"r1-train": Plan(recipe="bandit")}, train=Plan(recipe="bandit"), audit=audit)


def test_artefacts_of_prepared_runs_are_referred_to_wherever_they_stand():
    plan = Plan(recipe="x", config={"data": {"path": ["prepared://rows/a.jsonl", "b"]}}, inputs={"policy": "p"})
    named = with_prepared(plan, "c")
    assert named.config == {"data": {"path": ["run://c-rows/a.jsonl", "b"]}}
    assert named.inputs == {"policy": "p"}


def test_a_part_of_a_table_can_be_said(tmp_path):
    part = FILE.replace('config = "$bound"', 'config = { limit = "$bound.limit" }')
    assert read_cycle(written(tmp_path, part)).audit[0].config == {"limit": 0.9}
    with pytest.raises(ConfigError, match="Did you mean 'limit'"):
        read_cycle(written(tmp_path, part.replace("$bound.limit", "$bound.limt")))


def test_a_value_that_is_said_once_keeps_its_type_and_can_be_overridden(tmp_path):
    spec = read_cycle(written(tmp_path))
    assert spec.train.config == {"steps": 20}
    assert spec.audit[0].config == {"limit": 0.9}
    other = read_cycle(written(tmp_path), ("let.steps=7", "rounds=2"))
    assert (other.prepare["first"].config, other.train.config, other.rounds) == ({"steps": 7}, {"steps": 7}, 2)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (FILE.replace('"$steps" }\ninputs', '"$stesp" }\ninputs'), (), r"\$stesp.*no such value.*Did you mean 'steps'"),
        (FILE.replace("steps = 20", "steps = 20\nspare = 1"), (), "let.spare, but nothing is"),
        (FILE, ("let.stesp=3",), "has no let.stesp.*Did you mean 'steps'"),
    ],
    ids=["missing", "unused", "override"],
)
def test_names_that_do_not_match_are_refused(tmp_path, text, overrides, words):
    with pytest.raises(ConfigError, match=words):
        read_cycle(written(tmp_path, text), overrides)
