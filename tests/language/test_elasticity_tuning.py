"""Further training of a throw-away copy: what it does, and that it is the same whoever looks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_models import LETTERS, gpt2, nano, sharpened

from trueline.core.errors import ConfigError, Diverged
from trueline.language.batches import padded
from trueline.language.elasticity.tuning import Tunable, TuneProtocol, copied, items_in, tuned, tuning, tuning_on
from trueline.language.forward import token_scores
from trueline.language.models import Lora, ModelRef, attach_lora
from trueline.language.optimiser import AdamW
from trueline.language.rollout import Sampling, chat
from trueline.language.sources import Data
from trueline.language.subject import LanguageModel

torch.set_num_threads(1)


def rng(seed=0):
    return np.random.default_rng(seed)


def protocol(lr=1e-3, **settings):
    return TuneProtocol(optimiser=AdamW(lr=lr, schedule="constant"), **settings)


def weights(subject):
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def data(tmp_path):
    rows = [
        {"prompt": "ab"[: k % 2 + 1], "completion": "".join(rng(k).choice(list("abcdefgh"), size=k % 5 + 1))}
        for k in range(22)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(path), as_chat=True)


@pytest.mark.parametrize("make", [nano, gpt2])
def test_a_copy_is_trained_and_the_model_stays(make, data):
    subject = make()
    before = weights(subject)
    after = tuned(subject, data, protocol(), rng())
    assert same(weights(subject), before)
    assert not any(torch.equal(p, before[name]) for name, p in weights(after).items() if p.ndim > 1)
    assert not subject.model.training


def test_it_is_adam_from_nothing_on_the_mean_over_learnt_tokens(data):
    """The same steps by torch's own optimiser, written out."""
    subject = nano()
    items = items_in(subject, data, protocol(), rng())
    found = list(tuning_on(subject, items, protocol(lr=3e-3, batch_size=8), rng(1)))[-1]

    by_hand = copied(subject)
    adam = torch.optim.AdamW(by_hand.model.parameters(), lr=3e-3, weight_decay=0.0)
    nll, tokens, gradient = 0.0, 0.0, 0.0
    for at in range(0, len(items), 8):
        batch = padded([item.rows[0] for item in items[at : at + 8]], 0)
        log_prob = token_scores(by_hand.model, batch).log_prob
        loss = -(log_prob * batch.weight).sum()
        nll, tokens = nll + loss.item(), tokens + batch.weight.sum().item()
        adam.zero_grad()
        (loss / batch.weight.sum()).backward()
        gradient += float(torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), 1.0))
        adam.step()
    for name, p in weights(found.subject).items():
        torch.testing.assert_close(p, weights(by_hand)[name], atol=2e-5, rtol=1e-4)
    assert (found.items, found.tokens) == (22, tokens)
    assert found.loss == pytest.approx(nll / tokens, rel=1e-4)
    assert found.gradient == pytest.approx(gradient, rel=1e-4)


def test_the_first_loss_is_that_of_the_model_itself(data):
    subject = nano()
    items = items_in(subject, data, protocol(), rng())[:8]
    (only,) = tuning_on(subject, items, protocol(), rng())
    rows = [item.rows[0] for item in items]
    with torch.no_grad():
        batch = padded(rows, 0)
        expected = -(token_scores(subject.model, batch).log_prob * batch.weight).sum() / batch.weight.sum()
    assert only.loss == pytest.approx(float(expected), rel=1e-5)


def test_whoever_looks_changes_nothing(data):
    subject, sampling = gpt2(), Sampling(max_tokens=4)
    subject.model.config.resid_pdrop = 0.1
    plain = tuned(subject, data, protocol(), rng(3))
    stages = []
    for stage in tuning(subject, data, protocol(marks=(0, 8, 16)), rng(3)):
        torch.manual_seed(5)
        stage.subject.reply([chat("a")], sampling, rng())
        stages.append(stage.items)
    assert stages == [0, 8, 16, 22]
    assert same(weights(stage.subject), weights(plain))
    assert not same(weights(tuned(subject, data, protocol(), rng(4))), weights(plain))


def test_marks_between_batches_are_met_by_the_step_that_passes_them(data):
    assert [s.items for s in tuning(nano(), data, protocol(marks=(3, 9)), rng())] == [8, 16, 22]


def test_items_come_again_where_there_are_too_few(data):
    stages = list(tuning(nano(), data, protocol(items=30, marks=(30,)), rng()))
    assert [stage.items for stage in stages] == [30]
    items = items_in(nano(), data, protocol(), rng(), 30)
    assert {tuple(item.rows[0].tokens) for item in items[:22]} == {tuple(item.rows[0].tokens) for item in items}


def test_marks_that_cannot_be_met_are_refused(data):
    with pytest.raises(ConfigError, match="mark 40 lies beyond the 22 items"):
        tuning(nano(), data, protocol(marks=(40,)), rng())
    with pytest.raises(ValidationError, match="Give counts of items from 0"):
        protocol(marks=(-1,))


def test_adapters_leave_the_weights_and_are_added_in_a_copy(data):
    subject = nano()
    after = tuned(subject, data, protocol(lr=0.1, lora=Lora(rank=2)), rng())
    own, plain = weights(subject), copied(after)
    assert all(torch.equal(p, own[name.replace("base_model.model.", "").replace(".base_layer", "")])
               for name, p in weights(after).items() if "lora" not in name)  # fmt: skip
    assert not same(weights(plain), own)
    assert all(p.requires_grad for p in plain.model.parameters())
    tokens = torch.tensor([[1, 5, 8, 9, 10]])
    torch.testing.assert_close(plain.model(tokens).logits, after.model(tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_copy_of_a_model_with_adapters_is_trained_whole(data):
    subject = LanguageModel.of(ModelRef(vocabulary=LETTERS, context=64), rng())
    subject = LanguageModel(attach_lora(sharpened(subject.model), Lora(rank=2), 0), subject.tokenizer)
    after = tuned(subject, data, protocol(), rng())
    assert not any("lora" in name for name in weights(after))


def test_a_training_that_breaks_the_model_says_so(data):
    with pytest.raises(Diverged):
        tuned(nano(), data, protocol(lr=1e30), rng())


def test_a_copy_remembers_where_it_comes_from():
    from trueline.language.subject import History

    subject = nano()
    subject.parent, subject.history = "origin", History(("function:judge",))
    assert (copied(subject).parent, copied(subject).judged_by) == ("origin", ("function:judge",))


def test_the_capability_is_a_protocol():
    class Given(LanguageModel):
        tuning = tuning
        tuned = tuned

    assert isinstance(Given(None, None), Tunable)


def test_short_weights_are_trained_as_long_ones(data):
    """Of bfloat16 most of a step would be rounded away, and what attacks a model would look weak."""
    short = nano()
    short.model.bfloat16()
    long = LanguageModel(copied(short).model.float(), short.tokenizer)
    one, other = (weights(tuned(subject, data, protocol(1e-5), rng())) for subject in (short, long))
    assert same(one, other)
    assert {p.dtype for p in one.values()} == {torch.float32}
    assert not any(torch.equal(p, weights(long)[name]) for name, p in one.items() if p.ndim > 1)
    assert short.model.dtype == torch.bfloat16
