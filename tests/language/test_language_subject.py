"""Language models and score models as subjects: replies, log-probabilities, values, and what is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import gpt2, grouped, nano

from trueline.core.errors import ConfigError, RunError
from trueline.core.subject import Subject
from trueline.language.models import Lora, attach_lora, token_log_prob
from trueline.language.rollout import Replies, Sampling, chat
from trueline.language.sampler import Auto
from trueline.language.subject import LanguageModel, ScoreModel, load, load_score_model, next_values
from trueline.language.templates import encode_reply

CHATS = [chat("abc"), chat("h"), chat("d. d.")]


def rng(seed: int = 0):
    return np.random.default_rng(seed)


# -- language models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nano, gpt2])
def test_a_language_model_is_a_subject_that_replies(make):
    subject = make()
    assert isinstance(subject, Subject)
    assert isinstance(subject, Replies)
    replies = subject.reply(CHATS, Sampling(max_tokens=12), rng())
    assert [reply.tokens <= 12 for reply in replies] == [True] * 3
    assert replies == subject.reply(CHATS, Sampling(max_tokens=12), rng())
    assert replies != subject.reply(CHATS, Sampling(max_tokens=12), rng(1))


@pytest.mark.parametrize("make", [nano, gpt2])
def test_log_prob_is_that_of_each_token_of_the_reply_and_its_end(make):
    subject, replies = make(), ["abc", "", "a long reply" + "ab" * 9]
    subject.model.train()  # dropout, where there is any, must not be heard
    found = subject.log_prob(CHATS, replies)
    assert subject.model.training
    subject.model.eval()
    for one, ask, reply in zip(found, CHATS, replies, strict=True):
        encoded = encode_reply(subject.tokenizer, ask, reply, subject.end)
        with torch.no_grad():
            logits = subject.model(torch.tensor([encoded.tokens])).logits[0].double().log_softmax(-1)
        start = encoded.learnt.index(True)
        expected = [float(logits[t - 1, encoded.tokens[t]]) for t in range(start, len(encoded.tokens))]
        assert len(one) == len(reply) + 1
        np.testing.assert_allclose(one, expected, atol=2e-5)


def test_log_prob_of_replies_that_ended_is_what_sampling_recorded():
    subject, sampling = nano(), Sampling(max_tokens=40)
    rollout = Auto().sample(subject, CHATS, sampling, rng(2))
    replies = subject.reply(CHATS, sampling, rng(2))
    assert any(reply.ended for reply in replies)
    for ask, reply, recorded, sampled in zip(CHATS, replies, rollout.log_prob, rollout.sampled, strict=True):
        if reply.ended and len(reply.text) + 1 == reply.tokens:  # no markers among the sampled tokens
            (found,) = subject.log_prob([ask], [reply.text])
            np.testing.assert_allclose(found, recorded[sampled].numpy(), atol=2e-5)


def test_many_replies_are_read_in_parts(monkeypatch):
    subject = nano()
    chats, replies = [chat("ab"[: k % 3]) for k in range(1, 12)], ["abc" * (k % 4) for k in range(11)]
    whole = subject.log_prob(chats, replies)
    monkeypatch.setattr("trueline.language.batches.READ_AT_ONCE", 30)
    for a, b in zip(whole, subject.log_prob(chats, replies), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("make", [nano, grouped, gpt2])
def test_what_is_saved_is_a_plain_hugging_face_folder(make, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    subject = make()
    subject.parent = "run-1"
    subject.save(tmp_path)
    tokens = torch.tensor([[1, 8, 9, 10]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    again = load(tmp_path)
    with torch.no_grad():
        expected = subject.model(tokens).logits
        assert torch.equal(plain(tokens).logits, expected)
        assert torch.equal(again.model(tokens).logits, expected)
    assert again.parent == "run-1"
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == subject.tokenizer.chat_template
    assert again.reply(CHATS, Sampling(max_tokens=9), rng()) == subject.reply(CHATS, Sampling(max_tokens=9), rng())


def test_adapters_are_saved_as_part_of_the_weights(tmp_path):
    subject = nano()
    subject.model = attach_lora(subject.model, Lora(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in subject.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    subject.save(tmp_path)
    tokens = torch.tensor([[1, 8, 9, 10]])
    with torch.no_grad():
        expected, found = subject.model(tokens).logits, load(tmp_path).model(tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert hasattr(subject.model, "disable_adapter")


def test_half_precision_is_kept(tmp_path):
    subject = nano()
    subject.model.bfloat16()
    subject.save(tmp_path)
    assert load(tmp_path).model.dtype == torch.bfloat16


def test_a_damaged_folder_is_named(tmp_path):
    with pytest.raises(RunError, match=r"config.json is missing"):
        load(tmp_path)
    nano().save(tmp_path)
    (tmp_path / "trueline.json").write_text("[")
    with pytest.raises(RunError, match=r"trueline.json is damaged"):
        load(tmp_path)
    (tmp_path / "trueline.json").unlink()
    assert load(tmp_path).parent is None  # any Hugging Face folder is a language model


# -- score models -----------------------------------------------------------------------------------------------------


def scoring(make=nano, heads=("reward", "cost_sum"), seed=0):
    model = ScoreModel.of(make(), heads)
    with torch.no_grad():
        model.linear.weight.normal_(generator=torch.Generator().manual_seed(seed))
        model.linear.bias.copy_(torch.arange(len(heads)) + 0.5)
    return model


TOKENS = torch.tensor([[1, 8, 9, 10, 11, 2], [1, 12, 13, 2, 0, 0]])


@pytest.mark.parametrize("make", [nano, gpt2])
def test_a_score_is_linear_in_the_last_hidden_state(make):
    subject, model = make(), scoring(make)
    with torch.no_grad():
        hidden = subject.model(TOKENS, output_hidden_states=True).hidden_states[-1]
        expected = hidden @ model.linear.weight.T + model.linear.bias
        torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=1e-5)


def test_heads_start_at_zero_on_a_copy_of_the_body():
    subject = nano()
    model = ScoreModel.of(subject, ("value",))
    assert (model(TOKENS) == 0).all()
    with torch.no_grad():
        before = subject.model(TOKENS).logits
        for parameter in model.body.parameters():
            parameter.zero_()
        assert torch.equal(subject.model(TOKENS).logits, before)
    assert {p.requires_grad for p in model.parameters()} == {True}


def test_a_score_reads_up_to_its_token_and_a_value_up_to_the_one_before():
    model = scoring()
    changed = TOKENS.clone()
    changed[:, 3] = 14
    with torch.no_grad():
        scores, values = (model(changed) - model(TOKENS), model.values(changed) - model.values(TOKENS))
        assert torch.equal(model.values(TOKENS)[:, 1:], model(TOKENS)[:, :-1])
        assert (model.values(TOKENS)[:, 0] == 0).all()
    same = 1e-5
    assert scores[:, :3].abs().max() < same < scores[:, 3].abs().min()
    assert values[:, :4].abs().max() < same < values[:, 4].abs().min()


def test_padding_changes_no_score():
    model = scoring()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS[1:, :4]), model(TOKENS)[1:, :4], atol=1e-5, rtol=0)


def test_the_value_after_a_reply_is_zero():
    values = torch.arange(1.0, 11.0).view(2, 5, 1)
    sampled = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool)
    # Row 0 ends at the last column, row 1 at column 2; outside of the reply nothing follows.
    expected = [[0, 0, 4, 5, 0], [0, 8, 0, 0, 0]]
    assert next_values(values, sampled)[..., 0].tolist() == expected


@pytest.mark.parametrize("make", [nano, gpt2])
def test_a_score_model_comes_back_from_its_folder(make, tmp_path):
    model = scoring(make, heads=("reward", "cost_sum", "kl"))
    model.parent = "run-2"
    model.save(tmp_path)
    again = load_score_model(tmp_path)
    assert isinstance(model, Subject)
    assert (again.heads, again.parent) == (("reward", "cost_sum", "kl"), "run-2")
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model.eval()(TOKENS))
    (tmp_path / "heads.safetensors").unlink()
    with pytest.raises(RunError, match="score model in"):
        load_score_model(tmp_path)


def test_a_score_model_takes_the_adapters_along():
    subject = nano()
    subject.model = attach_lora(subject.model, Lora(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in subject.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        hidden = subject.model(TOKENS, output_hidden_states=True).hidden_states[-1]
        body = ScoreModel.of(subject, ("value",)).body
        torch.testing.assert_close(body(TOKENS).last_hidden_state, hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("heads", [(), ("a", "a")])
def test_heads_have_names_of_their_own(heads):
    with pytest.raises(ConfigError, match="one or more different names"):
        ScoreModel.of(nano(), heads)


def test_log_probabilities_and_scores_are_of_the_same_columns():
    """Column t of both is about token t: a change of token t moves its log-probability and its score at once."""
    subject, model = nano(), scoring()
    changed = TOKENS.clone()
    changed[0, 2] = 15
    with torch.no_grad():
        moved = (token_log_prob(subject.model, changed) - token_log_prob(subject.model, TOKENS))[0].abs() > 1e-4
        scored = (model(changed) - model(TOKENS))[0].abs().amax(-1) > 1e-4
    assert moved.nonzero()[0].item() == scored.nonzero()[0].item() == 2


def test_subjects_are_made_from_references():
    from trueline.language.models import ModelRef

    subject = LanguageModel.of(ModelRef(), rng(1))
    assert (subject.kind, subject.parent) == ("language-model", None)
    assert not subject.model.training
