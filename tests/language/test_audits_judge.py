"""Judges: oracles, functions, models and endpoints; what they cannot say is missing; none judges its own pupil."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import nano
from speakers import Speaker, best

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.run import Run
from trueline.core.subject import save_subject, subject_hash
from trueline.evidence.records import EvidenceError, NotMeasurable
from trueline.language.audits.judge import (
    JudgeSettings,
    ModelJudge,
    Opinion,
    TextJudge,
    facts,
    open_judge,
    refuse_own_judge,
)
from trueline.language.audits.prompts import PromptSettings, open_prompts
from trueline.language.rollout import Message, Reply, Sampling, chat
from trueline.language.sampler import StaticCache, replies_of
from trueline.language.scorers import Function, Judged, Judgement, ScalarModel
from trueline.language.subject import ScoreModel

SAMPLING = Sampling(max_tokens=6)
DIALOGUE = PromptSettings(path="builtin:safety-dialogue")


class Told:
    """Says what it is told to."""

    def __init__(self, found, costs=("harm",)) -> None:
        self.found, self.costs, self.seen = found, costs, []

    def __call__(self, prompts, replies):
        self.seen.extend(zip(prompts, replies, strict=True))
        return self.found


def replies(n):
    return [Reply(f"reply {k}", 3, True) for k in range(n)]


def test_what_cannot_be_judged_is_missing_and_never_a_pass():
    told = Told([Judgement(0.5, {"harm": 1.0}), None, Judgement(math.nan, {"harm": math.nan}),
                 Judgement(math.inf, {"harm": math.inf}), Judgement(0.1, {"harm": -2.0})])  # fmt: skip
    found = TextJudge(told, ("a",))([chat("q")] * 5, replies(5))
    assert [opinion.harmful for opinion in found][::4] == [1.0, 0.0]
    assert all(math.isnan(opinion.harmful) and math.isnan(opinion.reward) for opinion in found[1:4])


def test_a_reply_that_is_none_is_not_shown_to_the_judge():
    told = Told([1.0, 2.0], costs=())
    found = TextJudge(told, ("a",))([chat("p"), chat("q"), chat("r")], [*replies(1), None, *replies(1)])
    assert [text for text, _ in told.seen] == ["p", "r"]
    assert [opinion.reward for opinion in found][::2] == [1.0, 2.0]
    assert math.isnan(found[1].reward)
    assert TextJudge(told, ("a",))([chat("p")], [None]) == [Opinion()]


def test_harm_is_any_cost_above_0_or_the_one_that_is_named():
    told = Told([Judgement(0.0, {"harm": -1.0, "leak": 2.0})], costs=("harm", "leak"))
    assert TextJudge(told, ("a",))([chat("q")], replies(1))[0].harmful == 1.0
    assert TextJudge(told, ("a",), "harm")([chat("q")], replies(1))[0].harmful == 0.0
    unknown = Told([Judgement(0.0, {"harm": -1.0, "leak": math.nan})], costs=("harm", "leak"))
    assert math.isnan(TextJudge(unknown, ("a",))([chat("q")], replies(1))[0].harmful)  # the other may be a leak
    assert TextJudge(unknown, ("a",), "harm")([chat("q")], replies(1))[0].harmful == 0.0


@pytest.mark.parametrize(("found", "message"), [([], "gave 0 results for 1"), ([Judgement(1.0)], "gave costs")])
def test_a_function_that_breaks_its_word_is_an_error(found, message):
    with pytest.raises(ConfigError, match=message):
        TextJudge(Told(found), ("a",))([chat("q")], replies(1))


def test_several_turns_are_shown_with_their_roles():
    told = Told([1.0], costs=())
    TextJudge(told, ("a",))([(Message("system", "be kind"), Message("user", "hello"))], replies(1))
    assert told.seen[0][0] == "system: be kind\nuser: hello"


# --- the oracle ---


def test_without_a_judge_the_oracle_of_the_world_judges(rng):
    prompts = open_prompts(DIALOGUE)
    judge = open_judge(JudgeSettings(), prompts, SAMPLING)
    assert judge.identity == ("function:safety-dialogue",)
    drawn = [prompt.chat for prompt in prompts.draw(30, rng, "verdict", 0, ("harmful", "ordinary"))]
    texts = [prompts.world.reply(one[0].content, rng) for one in drawn]
    verdicts = [prompts.world.judge(one[0].content, text) for one, text in zip(drawn, texts, strict=True)]
    found = judge(drawn, [Reply(text, 1, True) for text in texts])
    assert [(opinion.reward, opinion.cost) for opinion in found] == [(v.reward, v.cost) for v in verdicts]
    assert len({opinion.cost for opinion in found}) == 2


def test_the_oracle_has_the_settings_of_the_world():
    settings = PromptSettings(path="builtin:cipher-reply", options={"symbols": 5, "cipher": 3})
    prompts = open_prompts(settings)
    judge = open_judge(JudgeSettings(), prompts, SAMPLING)
    (found,) = judge([chat("a b c")], [Reply(prompts.world.best("a b c"), 1, True)])
    assert found.reward == 1.0
    assert math.isnan(found.cost)  # this world has none


def test_what_a_judge_says_is_known_before_it_is_opened():
    endpoint = {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "m", "instruction": "?"}
    for judge, rewards, costs, bounds in (
        (endpoint, True, False, (0.0, 1.0)),
        ({**endpoint, "cost": "harm"}, False, True, (0.0, 1.0)),
        ({"kind": "score-model", "input": "m", "costs": {"harm": "c"}}, False, True, None),
        ({"kind": "score-model", "input": "m"}, True, False, None),
    ):
        inputs = {"m": "somewhere"} if judge["kind"] == "score-model" else {}
        found = facts(build(JudgeSettings, {"judge": judge, "inputs": inputs}), None)
        assert tuple(found) == (rewards, costs, bounds)
    assert facts(JudgeSettings(), open_prompts(DIALOGUE)).costs
    assert not facts(JudgeSettings(), open_prompts(PromptSettings(path="builtin:cipher-reply"))).costs
    given = JudgeSettings(reward_bounds=(-5.0, 5.0))
    assert facts(given, open_prompts(DIALOGUE)).reward_bounds == (-5.0, 5.0)


def test_without_judge_and_world_nothing_is_measured(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q"}\n')
    prompts = open_prompts(PromptSettings(path=str(path)))
    with pytest.raises(NotMeasurable, match="Set judge"):
        open_judge(JudgeSettings(), prompts, SAMPLING)


# --- models ---


@pytest.fixture
def cost_model(tmp_path):
    """A saved score model over the letters of `nano`, with heads that differ."""
    model = ScoreModel.of(nano(3), ("reward", "c"))
    torch.nn.init.normal_(model.linear.weight, generator=torch.Generator().manual_seed(0))
    run = Run.create(tmp_path, kind="train", name="m", config=JudgeSettings(), seed=0)
    with run:
        folder = save_subject(model, run.folder)
    return model, str(folder)


def test_a_model_judges_a_reply_as_it_scores_the_tokens_it_was_sampled_in(cost_model, rng):
    model, folder = cost_model
    scoring = ScalarModel(input="m", reward="reward", costs={"harm": "c"})
    judge = ModelJudge(scoring, folder, SAMPLING)
    policy, chats = nano(0), [chat("abc"), chat("h"), chat("fade.")] * 40
    rollout = StaticCache().sample(policy, chats, SAMPLING, rng)
    scores = scoring.open(Judged(policy, SAMPLING), {"m": model}).score(rollout, rng)
    answers = replies_of(rollout, policy, SAMPLING)
    # Of replies without markers, which have no text, the text has the very tokens that were sampled.
    tokens = [policy.tokenizer(reply.text, add_special_tokens=False).input_ids for reply in answers]
    kept = [k for k, ids in enumerate(tokens) if len(ids) == answers[k].tokens - answers[k].ended]
    assert len(kept) > 5
    assert {answers[k].ended for k in kept} == {True, False}
    found = judge([*(chats[k] for k in kept), chat("a")], [*(answers[k] for k in kept), None])
    np.testing.assert_allclose([o.reward for o in found[:-1]], scores.reward.sum(1)[kept], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([o.cost for o in found[:-1]], scores.cost.sum(1)[kept, 0], rtol=1e-4, atol=1e-5)
    assert math.isnan(found[-1].reward)


def test_a_reply_that_was_cut_is_scored_on_its_last_word_not_on_an_end_it_never_had(cost_model):
    model, folder = cost_model
    judge = ModelJudge(ScalarModel(input="m"), folder, SAMPLING)
    cut, whole = (judge([chat("abc")], [Reply("dead", 4, ended)])[0].reward for ended in (False, True))
    tokens = model.tokenizer("<bos><user>abc<assistant>dead", add_special_tokens=False).input_ids
    with torch.no_grad():
        assert cut == pytest.approx(float(model(torch.tensor([tokens]))[0, -1, 0]), rel=1e-5)
        ended = [*tokens, model.tokenizer.eos_token_id]
        assert whole == pytest.approx(float(model(torch.tensor([ended]))[0, -1, 0]), rel=1e-5)
    assert cut != whole


def test_a_model_is_known_by_its_hash_wherever_it_plays(cost_model):
    _, folder = cost_model
    judge = ModelJudge(ScalarModel(input="m"), folder, SAMPLING)
    assert judge.identity == (f"model:{subject_hash(folder)}",)


# --- judges that were rewards ---


def test_a_judge_that_was_a_reward_cannot_decide_a_verdict():
    pupil = Speaker(best, judged_by=("function:other", "function:safety-dialogue"))
    with pytest.raises(EvidenceError, match="trained to please function:safety-dialogue"):
        refuse_own_judge(("function:safety-dialogue",), pupil, "verdict")
    refuse_own_judge(("function:safety-dialogue",), pupil, "respond")  # findings may come from it
    refuse_own_judge(("function:third",), pupil, "verdict")
    refuse_own_judge(("function:third",), object(), "verdict")


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": {"kind": "score-model", "input": "m"}}, "needs the input 'm'"),
        ({"judge": {"kind": "function", "name": "x"}, "inputs": {"m": "a"}}, "does not use"),
        ({"judge": {"kind": "function", "name": "x", "weight": 2.0}}, "weight has no effect"),
        ({"reward_bounds": [1.0, 0.0]}, "smaller one first"),
        (
            {
                "judge": {"kind": "score-model", "input": "m", "costs": {"h": "c"}, "probability": True},
                "inputs": {"m": "a"},
            },
            "Leave probability out",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(JudgeSettings, settings)


def test_a_cost_that_the_judge_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "load", lambda kind, name: lambda **_: Told([]))
    with pytest.raises(ConfigError, match=r"no cost .leak.\. It has harm"):
        facts(JudgeSettings(judge=Function(name="told"), cost="leak"), None)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- where rewards lie ---


@pytest.mark.parametrize("world", ["safety-dialogue", "cipher-reply", "grammar-essay", "synthetic-reviews"])
def test_an_oracle_has_its_bounds_whether_it_is_set_or_taken_from_the_world(world):
    prompts = open_prompts(PromptSettings(path=f"builtin:{world}"))
    own = facts(JudgeSettings(), prompts).reward_bounds
    assert own == prompts.world.reward_bounds
    assert facts(JudgeSettings(judge=Function(name=world)), prompts).reward_bounds == own
    assert facts(JudgeSettings(judge=Function(name=world)), None).reward_bounds == own  # for prompts of a file too
    wider = JudgeSettings(judge=Function(name=world), reward_bounds=(-5.0, 5.0))
    assert facts(wider, prompts).reward_bounds == (-5.0, 5.0)


def test_a_function_that_says_no_bounds_has_none(monkeypatch):
    known = registry.load
    monkeypatch.setattr(
        registry, "load", lambda *name: lambda: Told([]) if name == ("scorer", "told") else known(*name)
    )
    assert facts(JudgeSettings(judge=Function(name="told")), None).reward_bounds is None


def test_the_interval_of_an_oracle_that_is_set_stays_within_its_bounds_and_counts_what_is_missing(monkeypatch):
    """The worst a reply that was not judged could be is known: its interval is that of replies worth as little."""
    from trueline.evidence.audit import Budget, run_audit
    from trueline.evidence.statistics import mean_sequence
    from trueline.language.audits.controllability import Helpfulness, HelpfulnessConfig

    class Sometimes:
        costs, reward_bounds, count = (), (0.0, 1.0), 0

        def __call__(self, prompts, replies):
            return [1.0 if k else None for k in range(len(replies))]  # all but the first of a look

    known = registry.load
    monkeypatch.setattr(registry, "load", lambda *name: Sometimes if name == ("scorer", "told") else known(*name))
    config = HelpfulnessConfig(path="builtin:safety-dialogue", judge=Function(name="told"), reward_at_least=None)
    n = 40
    alone = Budget(initial=n, batch=1, maximum=n)
    (free, _) = run_audit(Helpfulness(config), Speaker(best), budget=alone)
    (found, _) = run_audit(Helpfulness(config.model_copy(update={"reward_at_least": 0.5})), Speaker(best), budget=alone)
    assert free.estimate.high == found.estimate.high == 1.0
    assert found.missing == 1
    c = found.estimate.confidence
    assert found.estimate.low == pytest.approx(mean_sequence(np.r_[0.0, np.ones(n - 1)], (0.0, 1.0), c).low)
    assert found.estimate.low < mean_sequence(np.ones(n - 1), (0.0, 1.0), c).low
    assert "1 of 40 cases have no value and count as 0" in found.note
