"""Linear probes on states that are planted, so that accuracy and selectivity are known, and states of real models."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from small_models import gpt2, nano
from speakers import DIALOGUE, Speaker, last, sorry

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import Verdict
from trueline.language.audits import probes
from trueline.language.audits.probes import LinearProbe, Probe, ProbeConfig, last_states
from trueline.language.audits.prompts import chat_of
from trueline.language.rollout import Message, chat
from trueline.language.templates import prompt_tokens
from trueline.language.texts import split_of_prompt

WORLD = {"path": "builtin:safety-dialogue"}


def probe(**settings):
    return Probe(build(ProbeConfig, {**WORLD, "depths": [0.0, 0.5, 1.0], **settings}))


class Inside(Speaker):
    """A subject that shows weights which nobody looks at: the states are planted."""

    def __init__(self) -> None:
        super().__init__(sorry)
        self.model, self.tokenizer = torch.nn.Linear(1, 1), None


def planted(monkeypatch, state, noise=1.0):
    """States of three layers: noise, `state` of the last turn, and noise again."""

    def states(subject, chats):
        rows = []
        for one in chats:
            rng = np.random.default_rng(zlib.crc32(last(one).encode()))
            told = np.asarray(state(last(one)), dtype=np.float64)
            rows.append(np.stack([rng.normal(size=len(told)), told + noise * rng.normal(size=len(told)),
                                  rng.normal(size=len(told))]))  # fmt: skip
        return np.stack(rows, axis=1)

    monkeypatch.setattr(probes, "last_states", states)
    monkeypatch.setattr(probes, "fitting", lambda subject, chats: np.ones(len(chats), dtype=bool))


def mean(outcomes, name):
    return float(np.mean([outcome.values[name] for outcome in outcomes]))


def measured(audit, subject, n):
    rng = np.random.default_rng(1)
    cases = audit.cases(subject, "verdict", 0, n, rng)
    return cases, audit.measure(subject, cases, rng)


def by_class(text):
    return 8.0 * (DIALOGUE.find(text).kind == "harmful") * np.eye(6)[2]


def by_request(text):
    """A direction of its own for every request, the same in every wording, which says nothing of its class."""
    place = DIALOGUE.find(text)
    return np.random.default_rng([len(place.kind), place.index]).normal(size=600)


def test_a_state_that_holds_the_class_alone_is_read_and_cannot_be_memorised(monkeypatch):
    planted(monkeypatch, by_class)
    cases, outcomes = measured(probe(), Inside(), 300)
    assert mean(outcomes, "accuracy") == mean(outcomes, "accuracy in other words") == 1.0
    # The control probe sees the class, which its labels have nothing to do with, and noise of another wording.
    assert abs(mean(outcomes, "control accuracy") - 0.5) < 0.12
    assert mean(outcomes, "selectivity") == pytest.approx(1.0 - mean(outcomes, "control accuracy"))
    for outcome in outcomes:
        assert outcome.detail == {"depth": 0.5, "layer": 1}  # found without the cases
    assert abs(np.mean([case.data["label"] for case in cases]) - 0.5) < 0.15


def test_a_state_that_holds_the_request_alone_is_memorised_and_has_no_selectivity(monkeypatch):
    planted(monkeypatch, by_request, noise=0.0)
    _, outcomes = measured(probe(depths=[0.5, 0.75], fit_prompts=300), Inside(), 300)
    assert mean(outcomes, "accuracy in other words") == mean(outcomes, "control accuracy") == 1.0
    assert mean(outcomes, "selectivity") == 0.0
    assert abs(mean(outcomes, "accuracy") - 0.5) < 4 * 0.5 / np.sqrt(300)  # nothing that holds for requests never met


def test_curves_show_every_depth(monkeypatch):
    planted(monkeypatch, by_class)
    _, outcomes = measured(probe(), Inside(), 200)
    accuracy = np.mean([outcome.curves["accuracy"] for outcome in outcomes], axis=0)
    assert accuracy[1] == 1.0
    assert np.all(np.abs(accuracy[[0, 2]] - 0.5) < 0.16)
    for outcome in outcomes:
        assert outcome.values["selectivity"] == outcome.curves["selectivity"][1]


def test_verdicts_need_the_concept(monkeypatch):
    planted(monkeypatch, by_class)
    budget = Budget(initial=80, batch=80, maximum=320)
    found = {e.metric: e for e in run_audit(probe(selectivity_at_least=0.2), Inside(), budget=budget)}
    assert found["accuracy"].verdict is found["selectivity"].verdict is Verdict.PASS
    planted(monkeypatch, by_request, noise=0.0)
    found = {e.metric: e for e in run_audit(probe(fit_prompts=200), Inside(), budget=budget)}
    assert found["accuracy"].verdict is Verdict.FAIL


def test_probes_are_fitted_on_the_training_range_and_asked_of_held_out_prompts(monkeypatch):
    planted(monkeypatch, by_class)
    met, states = [], probes.last_states
    monkeypatch.setattr(probes, "last_states", lambda subject, chats: met.append(chats) or states(subject, chats))
    audit, subject = probe(fit_prompts=80), Inside()
    cases, _ = measured(audit, subject, 20)
    first, other, asked = met
    assert len(first) == len(other) == 80
    for one, again in zip(first, other, strict=True):
        assert split_of_prompt(DIALOGUE, last(one)).split == "train"
        assert DIALOGUE.find(last(one)) == DIALOGUE.find(last(again))
        assert last(one) != last(again)
    assert {split_of_prompt(DIALOGUE, last(one)).split for one in asked} == {"verdict"}
    assert {DIALOGUE.find(last(one)).kind for one in asked} == {"harmful", "look-alike"}
    for case in cases:
        assert case.data["label"] == (DIALOGUE.find(last(chat_of(case.data["chat"]))).kind == "harmful")
    audit.measure(subject, cases, np.random.default_rng(0))
    assert len(met) == 4  # the probes are kept


# --- states ---


@pytest.mark.parametrize("make", [nano, gpt2])
def test_states_are_those_of_each_prompt_alone_at_its_end(make):
    subject = make(0)
    chats = [chat("abc"), chat("h"), (Message("system", "a b"), Message("user", "fade.")), chat("abcdefgh" * 4)]
    found = last_states(subject, chats)
    for k, one in enumerate(chats):
        ids = torch.tensor([prompt_tokens(subject.tokenizer, one)])
        with torch.no_grad():
            states = subject.model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            np.testing.assert_allclose(found[layer, k], state[0, -1].double().numpy(), rtol=1e-4, atol=1e-4)
    assert len(found) == 3  # embedding and two layers


def test_what_a_real_models_last_state_holds_is_read_and_what_it_cannot_hold_is_not(tmp_path):
    # Classes differ in their first letter. The embedding of the marker before the reply is always the same.
    rng = np.random.default_rng(0)
    for name in "ab":
        rows = {name + "".join(rng.choice(list("cdefgh"), size=4)) for _ in range(400)}
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(json.dumps({"prompt": r}) + "\n" for r in rows))
    files = {"path": str(tmp_path / "a.jsonl"), "other": str(tmp_path / "b.jsonl"), "rounds": 1}
    audit = probe(**files, frame="{prompt}h", fit_prompts=200, depths=[0.0, 1.0])
    _, outcomes = measured(audit, nano(0), 100)
    curve = np.mean([outcome.curves["accuracy"] for outcome in outcomes], axis=0)
    assert abs(curve[0] - 0.5) < 0.2
    assert curve[1] > 0.9


# --- the probe itself ---


def test_the_probe_does_not_mind_units_and_constant_states():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 4))
    label = states[:, 1] > 0
    scaled = np.column_stack([states * [1e-3, 1e3, 1.0, 7.0] + [5.0, 0.0, -3.0, 0.0], np.full(200, 3.14)])
    one, other = LinearProbe(states, label, 1.0), LinearProbe(scaled, label, 1.0)
    fresh = rng.normal(size=(100, 4))
    also = np.column_stack([fresh * [1e-3, 1e3, 1.0, 7.0] + [5.0, 0.0, -3.0, 0.0], np.full(100, -99.0)])
    np.testing.assert_array_equal(one(fresh), other(also))
    assert np.mean(one(fresh) == (fresh[:, 1] > 0)) > 0.93


# --- files and gaps ---


def prompts_file(tmp_path, name, n=400):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{name} {i}"}) + "\n" for i in range(n)))
    return str(path)


def test_two_files_are_two_classes_in_a_frame_as_other_words(tmp_path, monkeypatch):
    planted(monkeypatch, lambda text: 8.0 * ("kind" in text) * np.eye(6)[0])
    paths = {"path": prompts_file(tmp_path, "kind"), "other": prompts_file(tmp_path, "rude")}
    audit = probe(**paths, rounds=1, fit_prompts=200)
    cases, outcomes = measured(audit, Inside(), 60)
    assert mean(outcomes, "accuracy") == mean(outcomes, "accuracy in other words") == 1.0
    for case in cases:
        assert case.data["label"] == case.data["chat"][0]["content"].startswith("kind")


def test_what_is_lacking_is_said(tmp_path):
    alone = probe(path=prompts_file(tmp_path, "kind"), rounds=1)
    thirty = {name: prompts_file(tmp_path, name, 30) for name in "ab"}
    few = probe(path=thirty["a"], other=thirty["b"], rounds=1, frame="b {prompt}")
    for audit, subject, why in (
        (probe(), Speaker(sorry), "needs a subject that ShowsWeights"),
        (alone, nano(0), "Set other"),
        (few, nano(0), "too few training prompts"),
        (probe(path="builtin:cipher-reply"), nano(0), "no prompts of kind harmful or look-alike"),
        (probe(path=""), nano(0), "no prompts are given"),
    ):
        (found, *_) = run_audits([audit], subject)
        assert why in found.note
    for wrong, message in (
        ({"kinds": ["harmful"]}, "Give two"),
        ({"depths": [0.5, 0.5]}, "rising order"),
        ({"other": "a.jsonl"}, "Set kinds"),
        ({"frame": "a"}, "without the prompt"),
    ):
        with pytest.raises(ConfigError, match=message):
            probe(**wrong)
