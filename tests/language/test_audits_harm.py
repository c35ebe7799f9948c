"""Harm and help of models whose replies are known; what a verdict on them comes to."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from small_models import nano
from speakers import DIALOGUE, Speaker, best, complying, last, sorry

from trueline.core import registry
from trueline.core.config import build
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import EvidenceError, Finding, Verdict
from trueline.language.audits.controllability import Helpfulness, HelpfulnessConfig
from trueline.language.audits.ethicality import HarmRate, HarmRateConfig
from trueline.language.audits.prompts import chat_of
from trueline.language.audits.replies import asked
from trueline.language.rollout import Reply, Sampling, chat
from trueline.language.scorers import Judgement
from trueline.language.texts import split_of_prompt

WORLD = {"path": "builtin:safety-dialogue"}


def harm(**settings):
    return HarmRate(build(HarmRateConfig, {**WORLD, **settings}))


def help_(**settings):
    return Helpfulness(build(HelpfulnessConfig, {**WORLD, **settings}))


def by_metric(evidence):
    return {e.metric: e for e in evidence}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_model_that_complies_harms_whenever_it_is_asked_to(rng):
    audit, subject = harm(), Speaker(complying)
    cases = audit.cases(subject, "verdict", 1, 60, rng)
    outcomes = audit.measure(subject, cases, rng)
    for case, outcome in zip(cases, outcomes, strict=True):
        assert outcome.values["harm rate"] == (case.data["kind"] == "harmful")
        assert outcome.values["help"] == 1.0
        assert split_of_prompt(DIALOGUE, last(chat_of(case.data["chat"]))) == ("verdict", 1)
    assert {case.data["kind"] for case in cases} == {"harmful", "ordinary"}


def test_the_model_hears_what_the_case_says(rng):
    audit, subject = harm(), Speaker(best)
    cases = audit.cases(subject, "respond", 1, 5, rng)
    audit.measure(subject, cases, rng)
    assert subject.heard == [chat_of(case.data["chat"]) for case in cases]


def test_gold_passes_and_compliance_fails_at_its_true_rate():
    budget = Budget(initial=100, batch=100, maximum=400)
    gold = by_metric(run_audit(harm(), Speaker(best), budget=budget))
    assert gold["harm rate"].estimate.value == 0.0
    assert gold["harm rate"].verdict is Verdict.PASS
    assert gold["help"].requirement is None
    assert gold["help"].estimate.low <= 0.65 <= gold["help"].estimate.high  # half 0.3, half 1
    bad = by_metric(run_audit(harm(), Speaker(complying), budget=budget))["harm rate"]
    assert bad.verdict is Verdict.FAIL
    assert bad.estimate.low < 0.5 < bad.estimate.high
    assert bad.estimate.clusters == bad.estimate.n  # prompts are distinct


def test_findings_can_be_read_and_trained_on():
    (found, *_) = run_audit(harm(), Speaker(complying), split="respond", round=2, budget=Budget(initial=20, maximum=20))
    finding = Finding.from_json(found.findings[0].to_json())
    asked = finding.case.data["chat"]
    assert asked == [{"role": "user", "content": asked[0]["content"]}]
    assert DIALOGUE.judge(asked[0]["content"], finding.detail["reply"]).cost == 1.0
    assert finding.case.data["split"] == "respond"
    assert split_of_prompt(DIALOGUE, asked[0]["content"]) == ("respond", 2)
    assert "is harmful" in finding.what


def test_a_reply_without_a_judgement_is_missing_and_no_pass(rng):
    # The judge falls silent on every third reply: more than 5 % missing, so nothing is concluded.
    audit, seen = harm(), []
    subject = Speaker(lambda chat: seen.append(1) or best(chat))
    judge = audit._at.judge
    audit._at._judge = Silent(judge)
    found = by_metric(run_audit(audit, subject, budget=Budget(initial=60, maximum=60)))["harm rate"]
    assert found.missing == 20
    assert found.verdict is Verdict.INCONCLUSIVE


class Silent:
    def __init__(self, judge) -> None:
        self.judge, self.identity = judge, judge.identity

    def __call__(self, requests, replies):
        return self.judge(requests, [None if k % 3 == 0 else reply for k, reply in enumerate(replies)])


def test_cut_replies_are_counted(rng):
    audit, subject = harm(), Speaker(best, ended=False)
    cases = audit.cases(subject, "verdict", 0, 4, rng)
    assert [o.values["cut replies"] for o in audit.measure(subject, cases, rng)] == [1.0] * 4


def test_its_own_reward_cannot_decide_a_verdict_but_may_find():
    pupil = Speaker(best, judged_by=("function:safety-dialogue",))
    with pytest.raises(EvidenceError, match="trained to please"):
        run_audit(harm(), pupil)
    assert run_audit(harm(), pupil, split="respond", budget=Budget(initial=10, maximum=10))


# --- help ---


@pytest.mark.parametrize(("says", "worth", "verdict"), [(best, 1.0, Verdict.PASS), (sorry, 0.1, Verdict.FAIL)])
def test_help_is_the_mean_reward_on_ordinary_prompts(says, worth, verdict):
    found = by_metric(run_audit(help_(), Speaker(says), budget=Budget(initial=60, maximum=200)))["help"]
    assert found.estimate.value == pytest.approx(worth)
    assert found.verdict is verdict
    assert found.requirement.bound == "at_least"


def test_help_asks_ordinary_prompts_alone_and_elsewhere_the_worlds_own_mix(rng):
    cases = help_().cases(Speaker(best), "verdict", 0, 20, rng)
    assert {case.data["kind"] for case in cases} == {"ordinary"}
    cases = help_(path="builtin:cipher-reply").cases(Speaker(best), "verdict", 0, 20, rng)
    assert {case.data["kind"] for case in cases} == {"plain"}
    cases = help_(kinds=["look-alike"]).cases(Speaker(best), "verdict", 0, 20, rng)
    assert {case.data["kind"] for case in cases} == {"look-alike"}


def test_half_the_steps_are_half_the_help(rng):
    audit = help_()
    subject = Speaker(lambda chat: " then ".join(best(chat).split(" then ")[:2]))
    outcomes = audit.measure(subject, audit.cases(subject, "verdict", 0, 5, rng), rng)
    assert [outcome.values["help"] for outcome in outcomes] == [0.5] * 5


# --- gaps ---


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"path": ""}, "no prompts are given"), ({"path": "builtin:cipher-reply"}, "no cost|no prompts of kind harmful")],
)
def test_what_cannot_be_measured_is_said_so(settings, why):
    found = run_audits([harm(**settings)], Speaker(sorry))
    assert [e.verdict for e in found] == [Verdict.INCONCLUSIVE] * len(found)
    assert all(e.note.startswith("not measured: ") for e in found)
    assert re.search(why, found[0].note)


def test_a_subject_that_does_not_reply_is_not_measured():
    (found, *_) = run_audits([harm()], object())
    assert "needs a subject that Replies" in found.note


def test_a_file_is_audited_with_a_judge_of_its_own_until_it_is_used_up(tmp_path, monkeypatch):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(400)))

    class Even:
        costs = ("harm",)

        def __call__(self, prompts, replies: list[Reply]):
            return [Judgement(0.0, {"harm": float(int(prompt.split()[1]) % 2 == 0)}) for prompt in prompts]

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Even if name == "even" else load(kind, name))
    audit = harm(path=str(path), rounds=1, judge={"kind": "function", "name": "even"})
    found = by_metric(run_audit(audit, Speaker(sorry), budget=Budget(initial=40, batch=40, maximum=400)))["harm rate"]
    assert found.verdict is Verdict.FAIL
    assert found.estimate.low < 0.5 < found.estimate.high
    audit = harm(path=str(path), rounds=1, harm_at_most=0.5, judge={"kind": "function", "name": "even"})
    found = by_metric(run_audit(audit, Speaker(sorry), budget=Budget(initial=400, maximum=400)))["harm rate"]
    assert 70 < found.estimate.n < 130  # a quarter of the prompts
    assert found.estimate.n == found.estimate.clusters


def test_a_prompt_that_leaves_no_room_for_a_reply_is_missing():
    subject, sampling = nano(0, context=64), Sampling(max_tokens=2)
    chats = [chat("abc"), chat("abc " * 20), chat("h")]
    found = asked(subject, chats, sampling, 5)
    assert [reply is None for reply in found] == [False, True, False]
    assert [found[0], found[2]] == subject.reply(chats[::2], sampling, np.random.default_rng(5))


def test_an_endpoint_that_does_not_answer_is_no_pass_and_the_evidence_says_why():
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m", "instruction": "Does it harm?", "cost": "harm"}
    judge = {"kind": "endpoint", **endpoint, "attempts": 1, "timeout_s": 0.2}
    budget = Budget(initial=10, batch=10, maximum=1000)
    found = by_metric(run_audits([harm(judge=judge)], Speaker(best), budget=budget))["harm rate"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "not measured" in found.note
    assert "answered none of 10 requests, the last with: URLError" in found.note
