"""A judge that a plan trains to please is refused before anything is trained, by the name that it was given."""

from __future__ import annotations

import json
import re

import pytest
import torch
from token_world import World, tiny

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.recipe import Plan
from trueline.core.run import Run
from trueline.core.subject import save_subject, subject_hash
from trueline.cycle.spec import ChecksPlans, CycleSpec, make_audit
from trueline.evidence.records import EvidenceError
from trueline.language.audits.judge import pleased_by
from trueline.language.audits.replies import Examination, ReplyAudit
from trueline.language.subject import History, ScoreModel

torch.set_num_threads(1)
WORLD = "builtin:safety-dialogue"
ORACLE = {"kind": "function", "name": "safety-dialogue"}
DECIDED = (
    "ethicality/harm-rate", "ethicality/group-bias", "controllability/helpfulness", "controllability/refusal",
    "controllability/changed-goal", "robustness/paraphrase", "robustness/injection", "robustness/suffix",
    "robustness/unseen-prompts", "robustness/elasticity",
)  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def score_model(runs, id, judged_by=()):
    model = ScoreModel.of(tiny(4), ("reward", "cost"))
    model.history = History(judged_by=judged_by)
    with Run.create(runs, kind="train", name="reward-model", config={}, seed=0, id=id) as run:
        save_subject(model, run.folder)
    return model


def online(*scorers, inputs=None, recipe="lm-ppo"):
    return Plan(recipe=recipe, config={"prompts": {"path": WORLD}, "scorers": list(scorers)}, inputs=inputs or {})


def cycle(train, judge=None, prepare=None, name="ethicality/harm-rate", **config):
    config = {"path": WORLD, **config} | ({"judge": judge} if judge else {})
    given = {"name": "c", "train": train, "prepare": prepare or {}, "audit": [{"name": name, "config": config}]}
    return build(CycleSpec, given)


@pytest.mark.parametrize("name", DECIDED)
def test_every_audit_that_an_oracle_decides_refuses_its_pupil_before_it_is_trained(name):
    with pytest.raises(ConfigError, match="lm-ppo is to learn from its scorers, and so to please function:safety-"):
        cycle(online(ORACLE), name=name).check()
    other = {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "m", "instruction": "?"}
    cycle(online(other), name=name).check()  # by another one it is judged
    assert isinstance(make_audit(name, {}), ChecksPlans)
    make_audit(name, {}).check(online(ORACLE))  # without prompts nothing judges


@pytest.mark.parametrize("recipe", ["lm-ppo-lag", "rloo", "grpo", "rft", "online-dpo"])
def test_every_recipe_that_takes_scorers_is_seen_through(recipe):
    with pytest.raises(ConfigError, match=f"^{recipe} is to learn"):
        cycle(online(ORACLE, recipe=recipe)).check()


def test_what_a_cycle_prepares_counts(world):
    prepared = {"data": Plan(recipe="preference-data", config={"prompts": {"path": WORLD}, "judges": [ORACLE]})}
    train = Plan(recipe="dpo", config={"data": {"path": "prepared://data/preferences.jsonl"}})
    with pytest.raises(ConfigError, match="preference-data is to learn from its scorers"):
        cycle(train, prepare=prepared).check()


def test_a_judge_that_is_a_model_is_called_by_its_run(world):
    score_model(world.runs, "helper")
    named = {"kind": "score-model", "input": "run://helper", "costs": {"harm": "cost"}}
    root = str(world.runs)
    message = r"to please run://helper, which cannot decide"
    with pytest.raises(ConfigError, match=message):
        cycle(online(named), named, root=root).check()
    with pytest.raises(ConfigError, match=message):  # the cycle's own folder of runs is the audit's
        cycle(online(named), named).check(root)
    by_role = {**named, "input": "harm"}
    with pytest.raises(ConfigError, match=message):
        cycle(online(by_role, inputs={"harm": "run://helper"}), named, root=root).check()
    score_model(world.runs, "other", judged_by=("function:x",))
    cycle(online({**named, "input": "run://other"}), named, root=root).check()


def test_labels_of_models_and_data_that_are_there_already_count(world):
    score_model(world.runs, "pupil", judged_by=("function:safety-dialogue",))
    root = str(world.runs)
    plan = online({"kind": "score-model", "input": "help"}, inputs={"help": "run://pupil"})
    assert pleased_by(plan, root) == {
        f"model:{subject_hash(world.runs / 'pupil')}": "its scorers",
        "function:safety-dialogue": "the labels that run://pupil learnt",
    }
    without = {"function:safety-dialogue": "the labels that run://pupil learnt"}
    assert pleased_by(plan, root, models=False) == without  # no weights are read for a judge that is no model
    with pytest.raises(ConfigError, match="from the labels that run://pupil learnt, and so to please function:safety-"):
        cycle(plan, root=root).check()
    with pytest.raises(ConfigError, match="from run://pupil"):
        cycle(Plan(recipe="sft", config={"data": {"path": WORLD}}, inputs={"policy": "run://pupil"}), root=root).check()
    rows = world.folder / "made"
    rows.mkdir()
    (rows / "made.json").write_text(json.dumps({"made": {"judged_by": ["function:safety-dialogue"]}, "parent": None}))
    (rows / "preferences.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(ConfigError, match="from the labels of its data"):
        cycle(Plan(recipe="dpo", config={"data": {"path": str(rows / "preferences.jsonl")}}), root=root).check()
    cycle(Plan(recipe="dpo", config={"data": {"path": "prepared://x/y"}}), root=root, prepare={"x": plain()}).check()


def plain():
    return Plan(recipe="sft", config={"data": {"path": WORLD}})


def test_after_training_too_a_judge_is_called_by_its_run(world):
    judge = score_model(world.runs, "helper", judged_by=("function:letters",))
    named = {"kind": "score-model", "input": "run://helper"}
    config = build(ReplyAudit, {"path": WORLD, "judge": named, "root": str(world.runs)})
    pupil = tiny()
    pupil.history = History(judged_by=(f"model:{subject_hash(world.runs / 'helper')}",))
    with pytest.raises(EvidenceError, match=re.escape("trained to please run://helper, so")):
        Examination(config).check_judge(pupil, "verdict", reward=True)
    pupil.history = History(judged_by=judge.judged_by)
    with pytest.raises(EvidenceError, match="please function:letters, which labelled what run://helper learnt, so"):
        Examination(config).check_judge(pupil, "verdict", reward=True)
