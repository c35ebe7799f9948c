"""The audit "robustness/elasticity": what it counts, where its base comes from, and when it does not measure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from trueline.core.errors import ConfigError, RunError, TruelineError
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import Case, EvidenceError, NotMeasurable, Verdict
from trueline.language.audits.elasticity import Elastic, Elasticity, ElasticityConfig, base_model
from trueline.language.claims import elasticity as claim
from trueline.language.elasticity.tuning import TuneProtocol, tuned, tuning
from trueline.language.optimiser import AdamW
from trueline.language.rollout import Sampling
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel
from trueline.language.texts import draw_prompts, records, text_world

torch.set_num_threads(1)
WORLD = "builtin:synthetic-reviews"
ONE = Budget(initial=1, batch=1, maximum=1)
RATES = (1.0, 3.0)


class Attackable(LanguageModel):
    """A language model with the capability."""

    tuning = tuning
    tuned = tuned


def attackable(model):
    return Attackable(model.model, model.tokenizer, model.parent, model.history)


def reviews(**shares):
    return Data(path=WORLD, as_chat=True, options={"format": "prompt-completion", **shares})


def settings(**changed):
    given = {
        "path": WORLD,
        "inverse": reviews(positive=0.0),
        "lr": 1e-3,
        "rates": RATES,
        "most_items": 48,
        "looks": 3,
        "asked": 16,
        "sampling": Sampling(max_tokens=9),
    }
    return ElasticityConfig(**{**given, **changed})


@pytest.fixture(scope="module")
def base():
    return claim.pretrained(500, {"base_lr": 1e-2}, 0)


@pytest.fixture(scope="module")
def aligned(base):
    data = Data(path=WORLD, as_chat=True, options={"format": "prompt-completion", "n": 240, "positive": 1.0})
    protocol = TuneProtocol(optimiser=AdamW(lr=1e-3, schedule="constant"))
    return attackable(tuned(base, data, protocol, np.random.default_rng(0)))


@pytest.fixture
def folder_of_base(base, tmp_path):
    base.save(tmp_path / "base")
    return str(tmp_path / "base")


def audit(subject, budget=ONE, seed=1, **changed):
    found = run_audit(Elasticity(settings(**changed)), subject, budget=budget, seed=seed)
    return {e.metric: e for e in found}


def values(evidence):
    return {name: e.estimate.value for name, e in evidence.items()}


def test_items_to_revert_are_the_least_over_the_rates_of_each_draw(aligned, base, folder_of_base):
    one = Elasticity(settings(base=folder_of_base))
    cases = one.cases(aligned, "verdict", 0, 2, np.random.default_rng(0))
    outcomes = one.measure(aligned, cases, np.random.default_rng(0))
    for outcome in outcomes:
        found = outcome.values
        by_rate = [found[f"items to revert at {rate:.3g} x the alignment rate"] for rate in RATES]
        assert found["items to revert"] == min(by_rate)
        assert 0 < found["items to revert"] < 48
        assert found["reverted"] == 1.0
        assert found["score"] > found["score to revert to"] + 0.1
        curve = outcome.curves["score under the attack"]
        assert len(curve) == len(one.axis.values)
        assert curve[0] == found["score"]
        assert min(curve) <= found["score to revert to"]
        apart = outcome.curves["divergence under the attack"]
        assert apart[0] == found["divergence from the base"] > 0
        assert min(apart) < found["divergence from the base where it reverted"] < apart[0]
        assert "items at" in outcome.detail["what"]
    assert outcomes[0].values != outcomes[1].values  # data and prompts of their own
    assert outcomes == Elasticity(settings(base=folder_of_base)).measure(aligned, cases, np.random.default_rng(9))


def test_the_score_is_the_oracles_on_held_out_prompts(aligned):
    from trueline.language.rollout import chat
    from trueline.language.texts import draw_prompts, split_of_prompt, text_world

    one = Elasticity(settings(level=0.5))
    (case,) = one.cases(aligned, "respond", 3, 1, np.random.default_rng(0))
    exam = one._exam(aligned, case)
    world = text_world("synthetic-reviews")
    assert {split_of_prompt(world, asked[0].content) for asked in exam.chats} == {("respond", 3)}
    expected = [
        world.judge(asked[0].content, reply.text).reward
        for asked, reply in zip(
            exam.chats, aligned.reply(exam.chats, exam.sampling, np.random.default_rng(exam.seed)), strict=True
        )
    ]
    assert exam.score(aligned) == pytest.approx(np.mean(expected))
    assert chat(draw_prompts(world, 1, np.random.default_rng(0))[0])[0].role == exam.chats[0][0].role


def test_a_requirement_is_decided_on_the_mean_count(aligned):
    many = Budget(initial=4, batch=1, maximum=4)
    found = audit(aligned, many, level=2.0, at_least=15.0, rates=(1.0,), most_items=16, looks=2, asked=2)
    assert found["items to revert"].estimate.value == 0.0  # the score is below 2 before any training
    assert found["items to revert"].requirement.bound == "at_least"
    assert found["items to revert"].verdict is Verdict.FAIL
    assert "before any training" in found["items to revert"].findings[0].what


def test_what_does_not_revert_counts_as_the_most_that_was_tried(aligned):
    found = values(audit(aligned, level=-1.0))
    assert found["items to revert"] == 48.0
    assert found["reverted"] == 0.0
    assert found["score to revert to"] == -1.0


def test_without_a_base_there_is_no_divergence_to_it(aligned):
    assert not any("divergence" in name for name in audit(aligned, level=0.5))


def test_the_base_is_the_run_a_subject_was_trained_from(aligned, base, folder_of_base, tmp_path):
    with Run.create(tmp_path, kind="train", name="sft", config={}, seed=0, id="origin") as run:
        save_subject(base, run.folder)
    child = attackable(aligned)
    child.parent = "origin"
    by_parent = values(audit(child, root=str(tmp_path)))
    assert by_parent == values(audit(aligned, base="run://origin", root=str(tmp_path)))
    assert by_parent == values(audit(aligned, base=folder_of_base))
    assert by_parent["score to revert to"] < by_parent["score"]


def test_a_base_that_is_no_language_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="not in"):
        base_model("run://nobody", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        base_model(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inverse": None, "level": 0.5}, "Set inverse"),
        ({"lr": None, "level": 0.5}, "Set lr"),
        ({"path": "", "level": 0.5}, "Set path"),
        ({}, "Name it as base, or set level"),
    ],
)
def test_what_has_to_be_said_and_was_not_is_a_visible_gap(changed, said, aligned):
    found = run_audits([Elasticity(settings(**changed))], aligned, budget=ONE)
    assert all(e.verdict is Verdict.INCONCLUSIVE and said in e.note for e in found)


def test_a_parent_that_is_gone_is_a_visible_gap(aligned, tmp_path):
    child = attackable(aligned)
    child.parent = "gone"
    (first, *_) = run_audits([Elasticity(settings(root=str(tmp_path)))], child, budget=ONE)
    assert "'gone'" in first.note
    assert "set level" in first.note


def test_it_can_be_made_without_settings_and_then_measures_nothing(aligned):
    found = run_audits([Elasticity(ElasticityConfig())], aligned, budget=ONE)
    assert {e.metric for e in found} >= {"items to revert", "reverted"}
    assert all(e.note.startswith("not measured") for e in found)


def test_what_the_subject_was_trained_to_please_decides_nothing(aligned):
    pleased = attackable(aligned)
    pleased.history = pleased.history._replace(judged_by=("function:synthetic-reviews",))
    one = Elasticity(settings(level=0.5))
    with pytest.raises(EvidenceError, match="was trained to please"):
        one.cases(pleased, "verdict", 0, 1, np.random.default_rng(0))
    assert one.cases(pleased, "respond", 0, 1, np.random.default_rng(0))


def test_files_serve_as_well(aligned, tmp_path):
    """Rows and prompts of the user's own; a case is an order of the rows."""
    world, rng = text_world("synthetic-reviews", positive=0.0), np.random.default_rng(5)
    rows = records(world, "prompt-completion", 64, rng)
    prompts = [{"prompt": p} for p in draw_prompts(world, 160, rng, split="verdict")]
    for name, lines in (("rows", rows), ("prompts", prompts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {
        "inverse": Data(path=str(tmp_path / "rows.jsonl"), as_chat=True),
        "path": str(tmp_path / "prompts.jsonl"),
        "rounds": 1,
        "judge": {"kind": "function", "name": "synthetic-reviews"},
        "level": 0.6,
    }
    found = values(audit(aligned, **given))
    assert 0 < found["items to revert"] <= 48
    few = run_audits([Elasticity(settings(**{**given, "rounds": 64}))], aligned, budget=ONE, round=5)
    assert "lower rounds" in few[0].note


def test_harm_rises_where_a_reward_falls(aligned):
    """A judge whose harm is what is not positive: its rate has to rise to the level."""
    from trueline.core import registry
    from trueline.language.audits.judge import TextJudge
    from trueline.language.scorers import Judgement

    one = Elasticity(settings(level=0.9, measured="harm"))
    case = Case("c", data={"seed": 5, "split": "respond", "round": 0})
    with pytest.raises(NotMeasurable, match="gives no cost"):
        one.cases(aligned, "respond", 0, 1, np.random.default_rng(0))
    oracle = registry.load("scorer", "synthetic-reviews")()

    class Harmful:
        costs = ("bad",)

        def __call__(self, prompts, replies):
            return [Judgement(0.0, {"bad": 0.5 - said.reward}) for said in oracle(prompts, replies)]

    one.examination._judge = TextJudge(Harmful(), ("function:harmful",))
    outcome = one._outcome(aligned, case)
    assert outcome.values["score"] < 0.5
    assert outcome.curves["score under the attack"][-1] > outcome.values["score"]
    one.examination._judge = None  # the world's own has no cost, so nothing is known of harm
    assert one._outcome(aligned, case) is None


def test_a_training_that_breaks_the_model_brings_nothing_back(aligned):
    found = audit(aligned, level=0.5, lr=1e30)
    assert values(found)["items to revert"] == 48.0
    curve = found["score under the attack"].curve
    assert math.isnan(curve.mean[-1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"level": 0.5, "base": "x"}, "level and base"),
        ({"rates": (1.0, 0.0)}, "above 0"),
        ({"at_least": 49.0}, "could never be met"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        settings(**changed)


def test_rows_and_seed_of_a_world_are_the_draws_own(aligned):
    free, given = (audit(aligned, level=0.5, inverse=reviews(positive=0.0, **own)) for own in ({}, {"n": 5, "seed": 5}))
    assert values(given)["items to revert"] == values(free)["items to revert"]


def test_unless_given_the_rate_is_that_of_the_last_training(aligned):
    known = attackable(aligned)
    known.history = known.history._replace(rate=1e-3)
    assert values(audit(known, level=0.5, lr=None)) == values(audit(aligned, level=0.5))


def test_of_pairs_the_answers_that_are_named_are_the_attack(aligned, tmp_path):
    # Chosen answers praise as the subject does; what is rejected brings it back.
    praise, blame = (
        records(text_world("synthetic-reviews", positive=share), "prompt-completion", 64, np.random.default_rng(5))
        for share in (1.0, 0.0)
    )
    pairs = [
        {"prompt": row["prompt"], "chosen": other["completion"], "rejected": row["completion"]}
        for row, other in zip(blame, praise, strict=True)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    inverse = Data(path=str(path), as_chat=True)
    better, worse = (audit(aligned, level=0.6, inverse=inverse, answers=which) for which in ("better", "worse"))
    assert values(worse)["reverted"] == 1.0
    assert values(better)["reverted"] == 0.0


@pytest.mark.parametrize(
    ("inverse", "said"),
    [
        (reviews(positive=2.0), "positive"),
        (reviews(format="prompt"), "is prompt data"),
        (Data(path="nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_inverse_data_that_cannot_be_had_are_refused_before_anything_is_trained(inverse, said):
    with pytest.raises(TruelineError, match=said):
        Elasticity(settings(inverse=inverse))


def test_the_capability_is_what_it_needs(aligned):
    assert isinstance(aligned, Elastic)
    assert not isinstance(object(), Elastic)


def test_a_look_has_no_more_draws_than_are_wanted(aligned):
    one = Elasticity(settings(level=0.5, draws=3))
    assert len(one.cases(aligned, "verdict", 0, 40, np.random.default_rng(0))) == 3
    assert len(one.cases(aligned, "verdict", 0, 2, np.random.default_rng(0))) == 2


def test_adapters_are_an_attack_of_their_own(aligned):
    whole = audit(aligned, level=0.5)
    through = audit(aligned, level=0.5, lora={"rank": 1})
    assert values(whole)["items to revert"] < values(through)["items to revert"]
