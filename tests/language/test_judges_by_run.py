"""Models that judge, named by their run: in a recipe's scorers and in an audit's judge, one value in both."""

import json
import math

import pytest
import torch
from token_world import World, log, tiny, weights

from trueline.core.errors import CheckpointError, ConfigError, RunError
from trueline.core.resuming import same_inputs
from trueline.core.run import Run
from trueline.core.subject import save_subject, subject_hash
from trueline.evidence.records import EvidenceError
from trueline.language import online
from trueline.language.audits.judge import JudgeSettings, open_judge, refuse_own_judge
from trueline.language.audits.prompts import PromptSettings, open_prompts
from trueline.language.best_of_n import RFT
from trueline.language.online import LM_PPO, LM_PPO_LAG
from trueline.language.rollout import Reply, Sampling, chat
from trueline.language.subject import ScoreModel

torch.set_num_threads(1)
NAMED = {"kind": "score-model", "input": "run://judge", "costs": {"risk": "cost"}, "reward": "reward"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


@pytest.fixture
def judge(world):
    """A score model in a finished run."""
    return judge_in(world.runs, 4)


def judge_in(runs, seed, id="judge"):
    model = ScoreModel.of(tiny(seed), ("reward", "cost"))
    with torch.no_grad():
        model.linear.weight.normal_(generator=torch.Generator().manual_seed(seed))
    with Run.create(runs, kind="train", name="reward-model", config={}, seed=0, id=id) as run:
        save_subject(model, run.folder)
    return model


def test_a_scorer_named_by_its_run_is_the_one_given_as_an_input(world, judge):
    by_role = {**NAMED, "input": "judge"}
    one, lines, run = world.train("lm-ppo-lag", scorers=[NAMED])
    same, other, _ = world.train("lm-ppo-lag", inputs={"judge": judge}, scorers=[by_role])
    assert torch.equal(weights(one), weights(same))
    assert lines == other
    digest = subject_hash(world.runs / "judge")
    assert one.judged_by == (f"model:{digest}",)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["inputs"]["run://judge"] == {"run": "judge", "kind": "score-model", "sha256": digest}


def test_a_resumed_run_has_the_same_judge_or_is_refused(world, judge, monkeypatch):
    config = world.config("lm-ppo-lag", scorers=[NAMED], checkpoint_steps=1, max_steps=3)
    with world.run("lm-ppo-lag", config, id="whole") as run:
        LM_PPO_LAG.train(config, run, {"policy": tiny()})
    whole = log(run)
    step, count = online.Trainer.one_step, []

    def dying(self):
        if len(count) == 1:
            raise KeyboardInterrupt
        count.append(1)
        return step(self)

    run = world.run("lm-ppo-lag", config, id="killed")
    with monkeypatch.context() as patch:
        patch.setattr(online.Trainer, "one_step", dying)
        with pytest.raises(KeyboardInterrupt), run:
            LM_PPO_LAG.train(config, run, {"policy": tiny()})
    inputs = same_inputs(run.manifest, world.runs)
    assert inputs == {"run://judge": world.runs / "judge"}
    with Run.reopen(run.folder) as again:
        LM_PPO_LAG.train(config, again, {"policy": tiny(), "run://judge": judge})
    assert log(again) == whole
    (world.runs / "judge").rename(world.runs / "elsewhere")
    judge_in(world.runs, 5)
    with pytest.raises(CheckpointError, match="has changed since it began"):
        same_inputs(run.manifest, world.runs)


def test_a_reference_to_nothing_is_refused_before_a_run_exists(world):
    config = world.config("lm-ppo", scorers=[{"kind": "score-model", "input": "run://nobody"}])
    with pytest.raises(RunError, match="names run 'nobody', which is not in"):
        LM_PPO.check(config, world.runs)


def test_rejection_sampling_takes_a_judge_by_its_run(world, judge):
    given = {
        "prompts": {"path": str(world.prompts)},
        "scorers": [{"kind": "score-model", "input": "run://judge"}],
        "sampling": {"max_tokens": 12},
        "samples": 16,
    }
    from trueline.core.config import build

    config = build(RFT.Config, given)
    with world.run("rft", config) as run:
        subject = RFT.train(config, run, {"policy": tiny()})
    assert subject.judged_by == (f"model:{subject_hash(world.runs / 'judge')}",)


# --- audits ---


def test_an_audit_opens_the_same_value_and_refuses_its_own_pupil(world, judge):
    settings = JudgeSettings(judge=NAMED, root=str(world.runs))
    prompts = open_prompts(PromptSettings(path=str(world.prompts)))
    opened = open_judge(settings, prompts, Sampling(max_tokens=3))
    folder = open_judge(
        JudgeSettings(judge={**NAMED, "input": "m"}, inputs={"m": str(world.runs / "judge")}), prompts, Sampling()
    )
    asked = [chat("x"), chat("yx"), chat("y")], [Reply("ab", 3, True), Reply("c", 2, True), None]
    found = opened(*asked)
    assert found[:2] == folder(*asked)[:2]
    assert math.isnan(found[2].cost)
    assert found[0].cost != found[1].cost
    pupil, *_ = world.train("lm-ppo-lag", scorers=[NAMED])
    with pytest.raises(EvidenceError, match="trained to please model:"):
        refuse_own_judge(opened.identity, pupil, "verdict")


def test_what_a_judge_needs_is_still_asked_for():
    with pytest.raises(
        ValueError, match=r"needs the input 'm'. Give its run in inputs, or write run://ID as its input"
    ):
        JudgeSettings(judge={**NAMED, "input": "m"})
    with pytest.raises(ValueError, match="inputs names 'm', which the judge does not use"):
        JudgeSettings(judge=NAMED, inputs={"m": "somewhere"})
    nowhere = JudgeSettings(judge=NAMED, root="nowhere")
    with pytest.raises(RunError, match="names run 'judge', which is not in nowhere"):
        open_judge(nowhere, open_prompts(PromptSettings(path="builtin:safety-dialogue")), Sampling())


def test_a_role_that_nobody_gave_is_refused(world):
    with pytest.raises(ConfigError, match="needs the input 'judge'"):
        world.train("lm-ppo", scorers=[{"kind": "score-model", "input": "judge"}])
