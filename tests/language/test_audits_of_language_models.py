"""What all audits of a language model have in common: settings, gaps, held-out cases, subjects left as they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from speakers import DIALOGUE, Speaker, best

from trueline.core.config import Config, build
from trueline.core.run import Run, read_evidence
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import EvidenceError, Finding
from trueline.language.audits import attribution, controllability, ethicality, patching, probes, robustness
from trueline.language.audits.prompts import chat_of
from trueline.language.audits.replies import ShowsWeights
from trueline.language.models import ModelRef
from trueline.language.rollout import Replies
from trueline.language.subject import LanguageModel
from trueline.language.texts import split_of_prompt

AUDITS = (
    ethicality.HarmRate,
    ethicality.GroupBias,
    controllability.Helpfulness,
    controllability.Refusal,
    controllability.Hierarchy,
    controllability.ChangedGoal,
    robustness.Paraphrase,
    robustness.Injection,
    robustness.Suffix,
    robustness.UnseenPrompts,
    probes.Probe,
    patching.Patching,
    attribution.TokenAttribution,
)
every = pytest.mark.parametrize("cls", AUDITS, ids=lambda cls: cls.name)

SMALL = {
    "ethicality/group-bias": {"groups": ["please", "thanks"], "frame": "{group} {prompt}"},
    "controllability/hierarchy": {"words": ["banana"], "ask": "say {word}", "forbid": "not {word}"},
    "robustness/suffix": {"prompts": 2, "steps": 1, "candidates": 2, "replies": 2},
    "interpretability/probe": {"fit_prompts": 60, "depths": [0.0, 1.0]},
    "interpretability/patching": {"sites": [1, 2], "at": 1, "orders": 1},
    "interpretability/token-attribution": {"orders": 1, "points": 3},
}
TINY = Budget(initial=4, batch=4, maximum=8)


@pytest.fixture(scope="module")
def model():
    """A model from scratch over the words of safety-dialogue, with room for several turns."""
    made = LanguageModel.of(ModelRef(vocabulary=DIALOGUE.vocabulary, context=128), np.random.default_rng(0))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return made


def made(cls, **settings):
    sampling = {"sampling": {"max_tokens": 4}} if "sampling" in cls.Config.model_fields else {}
    return cls(
        build(cls.Config, {"path": "builtin:safety-dialogue", **sampling, **SMALL.get(cls.name, {}), **settings})
    )


@every
def test_without_settings_an_audit_is_made_and_says_what_it_lacks(cls, model):
    audit = cls(build(cls.Config, {}))
    assert issubclass(cls.Config, Config)
    found = run_audits([audit], model)
    assert len(found) == len(audit.metrics) > 0
    assert all(e.note.startswith("not measured: ") for e in found)
    assert audit.name.partition("/")[0] == audit.principle


@every
def test_a_real_model_is_measured_and_left_as_it_was(cls, model):
    before = copy.deepcopy(model.model.state_dict())
    model.model.train()
    try:
        found = run_audit(made(cls), model, split="respond", round=3, budget=TINY)
        assert model.model.training
    finally:
        model.model.eval()
    assert all(e.estimate.n > 0 for e in found if e.requirement is not None)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.model.parameters())
    hooks = [hook for module in model.model.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if hook.__module__.startswith("trueline")]  # transformers leaves its own


@every
def test_every_case_is_held_out_and_says_so(cls, model):
    cases = made(cls).cases(model, "verdict", 5, 6, np.random.default_rng(0))
    assert cases
    for case in cases:
        assert (case.data["split"], case.data["round"]) == ("verdict", 5)
        asked = chat_of(case.data["chat"])
        assert asked[-1].role == "user"
        assert split_of_prompt(DIALOGUE, asked[-1].content) == ("verdict", 5)


@every
def test_the_same_run_comes_to_the_same_evidence(cls, model, tmp_path):
    whole = Run.create(tmp_path, kind="audit", name="whole", config=made(cls).config, seed=4)
    with whole:
        one = run_audit(made(cls), model, run=whole, split="respond", budget=TINY)
    again = Run.create(tmp_path, kind="audit", name="again", config=made(cls).config, seed=4)
    with again:
        two = run_audit(made(cls), model, run=again, split="respond", budget=TINY)
    assert [e.to_json().replace(again.id, "ID") for e in two] == [e.to_json().replace(whole.id, "ID") for e in one]
    assert len(list(read_evidence(again.folder))) == len(two)
    for evidence in two:
        for finding in evidence.findings:
            assert Finding.from_json(finding.to_json()) == finding


@pytest.mark.parametrize(
    "cls", [ethicality.HarmRate, robustness.Injection, probes.Probe, patching.Patching], ids=lambda cls: cls.name
)
def test_a_killed_audit_goes_on_to_the_same_end(cls, model, tmp_path, monkeypatch):
    budget = Budget(initial=4, batch=4, maximum=12)
    free = {name: None for name in cls.Config.model_fields if name.endswith(("_at_most", "_at_least"))}
    hard = {next(iter(free)): 0.5}  # undecided after so few cases, so that there are looks to be killed between

    def audited(run, audit):
        with run:
            found = run_audit(audit, model, run=run, split="respond", budget=budget)
        return [e.to_json().replace(run.id, "ID") for e in found]

    whole, killed = (
        Run.create(tmp_path, kind="audit", name=name, config=made(cls).config, seed=4) for name in ("whole", "killed")
    )
    expected = audited(whole, made(cls, **(free | hard)))
    audit = made(cls, **(free | hard))
    measure, looks = audit.measure, []

    def dying(*given):
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(audit, "measure", dying)
    with pytest.raises(KeyboardInterrupt):
        audited(killed, audit)
    assert audited(Run.reopen(killed.folder), made(cls, **(free | hard))) == expected


def judged(cls):
    return cls.needs is Replies and cls is not controllability.Hierarchy


@pytest.mark.parametrize("cls", [cls for cls in AUDITS if judged(cls)], ids=lambda cls: cls.name)
def test_no_verdict_rests_on_what_the_subject_was_trained_to_please(cls):
    pupil = Speaker(best, judged_by=("function:safety-dialogue",))
    with pytest.raises(EvidenceError, match="trained to please"):
        run_audit(made(cls), pupil, budget=TINY)


def test_who_shows_weights_replies_too(model):
    assert isinstance(model, ShowsWeights)
    assert isinstance(model, Replies)
    assert not isinstance(Speaker(best), ShowsWeights)
