"""Labels: who judged the data that a model learnt from judges no verdict about what it taught."""

from __future__ import annotations

import json

import pytest
import torch
from token_world import World, tiny

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import RunError
from trueline.core.subject import load_subject, save_subject
from trueline.evidence.records import EvidenceError
from trueline.language.audits.judge import JudgeSettings, open_judge, refuse_own_judge
from trueline.language.audits.prompts import PromptSettings, open_prompts
from trueline.language.recipes import COST_MODEL, DPO, REWARD_MODEL, SFT
from trueline.language.rollout import Sampling
from trueline.language.sources import Data, labelled_by
from trueline.language.subject import ScoreModel, history_of
from trueline.language.topology.preferences import PREFERENCE_DATA

torch.set_num_threads(1)
ORACLE = "function:letters"
PAIRS = "run://pairs/preferences.jsonl"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """With preferences in run `pairs` that the oracle `letters` labelled."""
    world = World(tmp_path, monkeypatch)
    labelled(world, "pairs", judges=[{"kind": "function", "name": "letters"}])
    return world


def labelled(world, id, judges):
    given = {"prompts": {"path": str(world.prompts)}, "judges": judges, "topology": {"kind": "chain", "pairs": 4},
             "sampling": {"max_tokens": 16}, "device": "cpu"}  # fmt: skip
    return trained(world, PREFERENCE_DATA, given, {"policy": tiny()}, id)


def trained(world, recipe, given, inputs, id):
    config = build(recipe.Config, given)
    if hasattr(recipe, "check"):
        recipe.check(config, world.runs)
    with world.run(recipe.name, config, id=id) as run:
        subject = recipe.train(config, run, inputs)
        save_subject(subject, run.folder)
    return subject


def on(path, **settings):
    return {"data": {"path": path, "as_chat": True}, "batch_size": 2, "max_steps": 1, "device": "cpu", **settings}


def test_rows_of_a_run_tell_who_judged_them_and_others_are_known_by_themselves(world):
    assert labelled_by(Data(path=PAIRS), world.runs) == (ORACLE,)
    whole = world.runs / "pairs/artefacts/preferences.jsonl"
    assert labelled_by(Data(path=str(whole)), "elsewhere") == (ORACLE,)  # named by its path it is the same file
    (own,) = labelled_by(Data(path=str(world.prompts)), world.runs)
    assert labelled_by(Data(path=(str(world.prompts), PAIRS, PAIRS)), world.runs) == (own, ORACLE)
    assert labelled_by(Data(path="builtin:safety-dialogue"), world.runs) == ("labels:builtin:safety-dialogue",)
    copy = world.folder / "copy.jsonl"
    copy.write_bytes(world.prompts.read_bytes())
    assert labelled_by(Data(path=str(copy)), world.runs) == (own,)
    copy.write_text(copy.read_text() + copy.read_text())
    assert labelled_by(Data(path=str(copy)), world.runs) != (own,)
    whole.with_name("made.json").write_text('{"made"')
    with pytest.raises(RunError, match="nobody knows who judged its rows"):
        labelled_by(Data(path=PAIRS), world.runs)


@pytest.mark.parametrize("recipe", [REWARD_MODEL, DPO, SFT])
def test_who_learns_from_labels_has_learnt_to_please_who_made_them(world, recipe):
    subject = trained(world, recipe, on(PAIRS), {"policy": tiny()}, "learnt")
    assert subject.judged_by == (ORACLE,)
    assert load_subject(world.runs / "learnt").judged_by == (ORACLE,)
    assert history_of(world.runs / "learnt").judged_by == (ORACLE,)


def test_a_verdict_by_the_oracle_that_labelled_is_refused_and_findings_are_not(world):
    pupil = trained(world, DPO, on(PAIRS), {"policy": tiny()}, "pupil")
    judge = open_judge(
        build(JudgeSettings, {"judge": {"kind": "function", "name": "letters"}}),
        open_prompts(PromptSettings(path=str(world.prompts))), Sampling(),
    )  # fmt: skip
    with pytest.raises(EvidenceError, match="trained to please function:letters"):
        refuse_own_judge(judge.identity, pupil, "verdict")
    refuse_own_judge(judge.identity, pupil, "respond")
    refuse_own_judge(judge.identity, trained(world, SFT, on_file(world), {"policy": tiny()}, "free"), "verdict")


def test_two_reward_models_of_one_file_are_not_reward_and_judge(world):
    path = world.folder / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"}) + "\n")
    for id in ("reward", "judge"):
        trained(world, REWARD_MODEL, on(str(path)), {"policy": tiny(len(id))}, id)
    given = {"prompts": {"path": str(world.prompts)}, "sampling": {"max_tokens": 3}, "batch_size": 4, "max_steps": 1,
             "scorers": [{"kind": "score-model", "input": "run://reward"}]}  # fmt: skip
    policy = trained(world, registry.load("recipe", "grpo"), given, {"policy": tiny()}, "policy")
    settings = build(JudgeSettings, {"judge": {"kind": "score-model", "input": "run://judge"}, "root": str(world.runs)})
    judge = open_judge(settings, open_prompts(PromptSettings(path=str(world.prompts))), Sampling())
    with pytest.raises(EvidenceError, match="trained to please the labels that run://judge learnt, so"):
        refuse_own_judge(judge.identity, policy, "verdict", "run://judge")


def on_file(world):
    path = world.folder / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "x", "completion": "a"}) + "\n")
    return on(str(path))


@pytest.mark.parametrize("recipe", ["lm-ppo", "lm-ppo-lag", "grpo", "rft", "online-dpo"])
def test_the_oracle_that_labelled_a_reward_model_judges_no_policy_that_it_taught(world, recipe):
    """Oracle, preference-data, reward-model, on-line training: the audit by that oracle is refused."""
    trained(world, REWARD_MODEL, on(PAIRS), {"policy": tiny()}, "reward")
    given = {"prompts": {"path": str(world.prompts)}, "sampling": {"max_tokens": 12},
             "scorers": [{"kind": "score-model", "input": "run://reward"}]}  # fmt: skip
    if recipe == "lm-ppo-lag":
        given["scorers"].append({"kind": "score-model", "input": "run://reward", "costs": {"risk": "reward"}})
    if recipe != "rft":
        given |= {"batch_size": 4, "max_steps": 1, "sampling": {"max_tokens": 3}}
    policy = trained(world, registry.load("recipe", recipe), given, {"policy": tiny()}, "policy")
    assert ORACLE in policy.judged_by
    assert policy.history.chats is True
    with pytest.raises(EvidenceError, match="trained to please function:letters"):
        refuse_own_judge((ORACLE,), load_subject(world.runs / "policy"), "verdict")


def test_labels_go_on_through_score_models_that_go_on_and_models_that_judge(world):
    trained(world, REWARD_MODEL, on(PAIRS), {"policy": tiny()}, "reward")
    # A reward model that is trained further on other rows knows what it knew.
    path = world.folder / "own.jsonl"
    path.write_text(json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"}) + "\n")
    further = trained(world, REWARD_MODEL, on(str(path)), {"policy": load_subject(world.runs / "reward")}, "further")
    assert further.judged_by == (ORACLE, *labelled_by(Data(path=str(path)), world.runs))
    # As a judge it is itself, and who labelled its rows: by either it is known.
    settings = build(
        JudgeSettings, {"judge": {"kind": "score-model", "input": "run://reward"}, "root": str(world.runs)}
    )
    judge = open_judge(settings, open_prompts(PromptSettings(path=str(world.prompts))), Sampling())
    assert judge.identity[0].startswith("model:")
    assert judge.identity[1:] == (ORACLE,)
    # What it labels, the oracle has labelled too.
    data = labelled(world, "again", judges=[{"kind": "score-model", "input": "run://reward"}])
    assert ORACLE in data.made["judged_by"]
    assert judge.identity[0] in data.made["judged_by"]
    recorded = json.loads((world.runs / "again/manifest.json").read_text())["inputs"]
    assert recorded["run://reward"]["run"] == "reward"


def test_a_judge_of_preferences_that_is_no_run_is_refused_before_one_exists(world):
    given = {"prompts": {"path": str(world.prompts)}, "judges": [{"kind": "score-model", "input": "run://nobody"}]}
    with pytest.raises(RunError, match="names run 'nobody', which is not in"):
        PREFERENCE_DATA.check(build(PREFERENCE_DATA.Config, given), world.runs)


def test_a_cost_model_keeps_the_history_of_the_policy_it_was_made_of(world):
    policy = tiny()
    policy.history = policy.history._replace(judged_by=("function:other",))
    path = world.folder / "safety.jsonl"
    row = {"prompt": "x", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1,
           "is_response_0_safe": False, "is_response_1_safe": True}  # fmt: skip
    path.write_text(json.dumps(row) + "\n")
    model = trained(world, COST_MODEL, on(str(path), batch_size=1), {"policy": policy}, "cost")
    assert isinstance(model, ScoreModel)
    assert model.judged_by == ("function:other", *labelled_by(Data(path=str(path)), world.runs))
