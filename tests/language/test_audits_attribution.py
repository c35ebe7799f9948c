"""Attribution of an answer to words: closed forms on functions that are known, real models, and faithfulness."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from small_models import gpt2, nano
from speakers import Speaker, sorry
from test_audits_patching import copying

from trueline.core.config import build
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import Verdict
from trueline.language.audits import attribution
from trueline.language.audits.attribution import (
    TokenAttribution,
    TokenAttributionConfig,
    deletion_curves,
    gradient_times_input,
    leave_one_out,
    rank_correlation,
)
from trueline.language.rollout import chat
from trueline.language.templates import prompt_tokens


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def linear(weight):
    """score = Σ_t w_t · e_t − 9: what each token contributes is known."""
    return lambda rows: (rows * torch.as_tensor(weight)).sum(dim=(1, 2)) - 9.0


def test_of_a_linear_score_gradient_times_input_and_leaving_out_are_the_contributions(rng):
    weight, embedded = rng.normal(size=(2, 5, 3))
    contribution = (weight * embedded).sum(axis=1)
    e = torch.as_tensor(embedded)
    np.testing.assert_allclose(gradient_times_input(linear(weight), e), contribution)
    np.testing.assert_allclose(leave_one_out(linear(weight), e, [0, 3, 4]), contribution[[0, 3, 4]])


def test_of_a_product_the_gradient_says_every_factor_and_leaving_out_the_whole():
    # score = x·y at (2, 3): e·∂/∂e is 6 for each; without either nothing is left, so each is missed by 6 as well.
    # score = x²: the gradient says 2x² and leaving out x².
    e = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    np.testing.assert_allclose(gradient_times_input(lambda r: r[:, 0, 0] * r[:, 1, 0], e), [6.0, 6.0])
    np.testing.assert_allclose(leave_one_out(lambda r: r[:, 0, 0] * r[:, 1, 0], e, [0, 1]), [6.0, 6.0])
    np.testing.assert_allclose(gradient_times_input(lambda r: r[:, 0, 0] ** 2, e), [8.0, 0.0])
    np.testing.assert_allclose(leave_one_out(lambda r: r[:, 0, 0] ** 2, e, [0, 1]), [4.0, 0.0])


def test_deletion_takes_tokens_out_in_order(rng):
    weight, embedded = rng.normal(size=(2, 6, 3))
    e, contribution = torch.as_tensor(embedded), (weight * embedded).sum(axis=1)
    order = np.array([[4, 1, 2, 5], [5, 2, 1, 4]])
    share = np.linspace(0, 1, 5)
    found = deletion_curves(linear(weight), e, order, share)
    for r in range(2):
        for p in range(5):
            left = contribution.sum() - contribution[order[r, :p]].sum() - 9.0
            assert found[r, p] == pytest.approx(np.exp(left))


def test_no_order_lets_a_linear_score_fall_sooner_than_its_contributions(rng):
    weight, embedded = rng.normal(size=(2, 5, 3))
    e, contribution = torch.as_tensor(embedded), (weight * embedded).sum(axis=1)
    orders = np.array(list(itertools.permutations(range(5))))
    area = np.trapezoid(deletion_curves(linear(weight), e, orders, np.linspace(0, 1, 6)), axis=1)
    assert tuple(orders[np.argmin(area)]) == tuple(np.argsort(-contribution))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_rank_correlation_is_spearmans(rows):
    a, b = np.array(rows, dtype=np.float64).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(rank_correlation(a, b))
    else:
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
        assert rank_correlation(a, a) == pytest.approx(1.0)
        assert rank_correlation(a, -a) == pytest.approx(-1.0)


# --- the audit ---

LOOKS = Budget(initial=40, batch=40, maximum=120)


def words(tmp_path, n=4):
    path = tmp_path / "words.jsonl"
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("abcdefgh"), size=n)) for _ in range(500)]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    return {"path": str(path), "rounds": 1}


def audit_of(tmp_path, **settings):
    return TokenAttribution(build(TokenAttributionConfig, {**words(tmp_path), **settings}))


@pytest.mark.parametrize("make", [nano, gpt2])
def test_attributions_of_a_model_are_those_of_its_own_log_probability(make):
    # Against numeric differences: the gradient along the embedding of one token.
    subject = make(0)
    model = subject.model.double()
    ids = torch.tensor([prompt_tokens(subject.tokenizer, chat("bad"))])
    embedded = model.get_input_embeddings()(ids)[0].detach()
    answer = int(model(input_ids=ids).logits[0, -1].argmax())

    def score(rows):
        return model(inputs_embeds=rows, use_cache=False).logits[:, -1].log_softmax(-1)[:, answer]

    found = gradient_times_input(score, embedded)
    step = 1e-2  # parts of the model compute in single precision
    for t in range(len(found)):
        up, down = embedded.clone(), embedded.clone()
        up[t] *= 1 + step
        down[t] *= 1 - step
        with torch.no_grad():
            slope = float(score(up[None]) - score(down[None])) / (2 * step)
        assert found[t] == pytest.approx(slope, rel=0.03, abs=2e-3)
    assert np.abs(found).max() > 0.1


def test_a_model_that_counts_letters_is_attributed_faithfully(tmp_path):
    # It answers with the successor of the letter it saw most; copies of that letter are what the answer rests on.
    subject = copying()
    found = {
        e.metric: e for e in run_audit(audit_of(tmp_path), subject, budget=Budget(initial=40, batch=40, maximum=120))
    }
    assert found["deletion advantage"].verdict is Verdict.PASS
    assert found["deletion advantage"].estimate.value > 0.02
    assert found["agreement with leaving out"].estimate.value > 0.6
    falls = found["probability by attribution"].curve.mean
    chance = found["probability at random"].curve.mean
    assert falls[0] == chance[0]
    assert falls[-1] == pytest.approx(chance[-1])
    assert falls[5] < chance[5]


def test_the_opposite_attribution_is_found_out(tmp_path, monkeypatch):
    right = attribution.gradient_times_input
    monkeypatch.setattr(attribution, "gradient_times_input", lambda score, e: -right(score, e))
    found = {
        e.metric: e for e in run_audit(audit_of(tmp_path), copying(), budget=Budget(initial=40, batch=40, maximum=120))
    }
    assert found["deletion advantage"].verdict is Verdict.FAIL
    assert found["agreement with leaving out"].estimate.value < -0.6
    assert found["deletion advantage of leaving out"].estimate.value > 0.02


def test_a_random_attribution_has_no_advantage_on_average(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(attribution, "gradient_times_input", lambda score, e: rng.normal(size=len(e)))
    audit, subject = audit_of(tmp_path, orders=4, points=5), copying()
    cases = audit.cases(subject, "verdict", 0, 80, np.random.default_rng(1))
    outcomes = audit.measure(subject, cases, np.random.default_rng(2))
    for name in ("deletion advantage", "agreement with leaving out"):
        values = np.array([o.values[name] for o in outcomes if name in o.values])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_markers_of_the_template_stay_and_what_the_answer_rests_on_is_named(tmp_path):
    audit, subject = audit_of(tmp_path), copying()
    cases = audit.cases(subject, "verdict", 0, 10, np.random.default_rng(1))
    assert len(cases) == 10
    for case, outcome in zip(cases, audit.measure(subject, cases, np.random.default_rng(2)), strict=True):
        word = case.data["chat"][0]["content"]
        assert sorted(outcome.detail["names"]) == sorted(word)
        before = chr(ord(outcome.detail["answer"]) - 1) if outcome.detail["answer"] in "bcdefgh" else "h"
        assert outcome.detail["names"][0] == before


def test_what_is_lacking_is_said_and_one_token_is_missing(tmp_path):
    (found, *_) = run_audits([audit_of(tmp_path)], Speaker(sorry))
    assert "needs a subject that ShowsWeights" in found.note
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"prompt": letter}) + "\n" for letter in "abcdefgh"))
    audit = TokenAttribution(TokenAttributionConfig(path=str(path), rounds=1))
    cases = [case for split in ("respond", "verdict") for case in audit.cases(nano(0), split, 0, 9, None)]
    assert cases
    assert audit.measure(nano(0), cases, np.random.default_rng(0)) == [None] * len(cases)
