"""Activation patching: identities of any architecture, and a mechanism built by hand that has to be found."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from small_models import LETTERS, gpt2, grouped, nano
from speakers import Speaker, sorry

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.evidence.audit import Budget, run_audit, run_audits
from trueline.evidence.records import NotMeasurable, Verdict
from trueline.language.audits.patching import Patching, PatchingConfig, components, patched, swap_of
from trueline.language.rollout import chat
from trueline.language.subject import LanguageModel
from trueline.language.templates import prompt_tokens
from trueline.language.vocabulary import tokenizer_of


def letters(tmp_path):
    """A file of all words of three letters."""
    path = tmp_path / "words.jsonl"
    words = [a + b + c for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    path.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in words))
    return {"path": str(path), "rounds": 1}


def patching(tmp_path, **settings):
    return Patching(build(PatchingConfig, {**letters(tmp_path), **settings}))


def copying(layer: int = 1) -> LanguageModel:
    """Asked for letters, answers with the letter after the most frequent one, by one mechanism.

    The attention of one layer looks at all positions alike and copies what they hold into dimensions of their own; the
    output reads these alone. Everything else writes 0. So what tells two prompts apart passes through that attention at
    the last position, and through nothing else.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(LETTERS)
    size, width = len(tokenizer), 64
    config = LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=width, max_position_embeddings=64, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for name in state:
        if "norm" in name:
            state[name] += 1.0
    letters_from = 7  # the first seven tokens are markers
    state["model.embed_tokens.weight"][:, :size] = torch.eye(size)
    attention = f"model.layers.{layer}.self_attn"
    state[f"{attention}.v_proj.weight"][letters_from:size, letters_from:size] = torch.eye(size - letters_from)
    moved = torch.zeros(width, width)
    for k in range(letters_from, size):
        moved[size + k, k] = 5.0
    state[f"{attention}.o_proj.weight"] = moved
    for k in range(letters_from, size):
        state["lm_head.weight"][(k + 1 - letters_from) % (size - letters_from) + letters_from, size + k] = 1.0
    model.load_state_dict(state)
    return LanguageModel(model, tokenizer)


def pair(subject, one="aaa", other="bbb"):
    parts = components(subject.model)
    clean, corrupted = (prompt_tokens(subject.tokenizer, chat(text)) for text in (one, other))
    swap = swap_of(subject.model, parts, clean, corrupted)
    return parts, swap, len(clean)


def pairs(subject):
    """Four pairs of words that the model answers differently."""
    words = np.array(["".join(word) for word in product("abcdefgh", repeat=3)])
    rng, found = np.random.default_rng(0), []
    for one, other in rng.choice(words, size=(80, 2)):
        parts, swap, length = pair(subject, one, other)
        if swap is not None and all(a != b for a, b in zip(one, other, strict=True)):
            found.append((parts, swap, length))
    assert len(found) > 3
    return found[:4]


def alone(parts, length):
    size = len(parts) * length
    return np.eye(size, dtype=bool).reshape(size, len(parts), length)


@pytest.fixture(params=["llama", "gpt2", "grouped"])
def subject(request):
    """Of three architectures, each with weights under which prompts are answered differently."""
    return {"llama": nano, "gpt2": lambda: gpt2(1), "grouped": grouped}[request.param]()


def test_components_are_an_attention_and_a_perceptron_for_every_layer(subject):
    assert [part.name for part in components(subject.model)] == [
        "attention 0", "perceptron 0", "attention 1", "perceptron 1",
    ]  # fmt: skip


def test_all_components_at_the_last_position_bring_back_everything_and_none_brings_nothing(subject):
    # The last token is a marker, the same in both prompts: its stream is its embedding and what components wrote there.
    for parts, swap, length in pairs(subject):
        sites = np.zeros((3, len(parts), length), dtype=bool)
        sites[0, :, -1] = True
        sites[2] = True
        np.testing.assert_allclose(patched(subject.model, parts, swap, sites), [1.0, 0.0, 1.0], atol=1e-3)


def test_what_comes_before_the_first_difference_brings_nothing(subject):
    # Words differ in all letters, so positions 0 and 1 (the markers before them) hold the same in both runs.
    for parts, swap, length in pairs(subject):
        share = patched(subject.model, parts, swap, alone(parts, length)).reshape(len(parts), length)
        np.testing.assert_allclose(share[:, :2], 0.0, atol=1e-3)
        assert np.abs(share).max() > 0.05


def test_margins_are_those_of_the_two_prompts_alone(subject):
    asked = [("bad", "gab"), ("cha", "had"), ("abc", "fed"), ("hag", "deb"), ("fee", "gag"), ("egg", "bac")]
    swaps = [(one, other, pair(subject, one, other)[1]) for one, other in asked]
    assert sum(swap is not None for _, _, swap in swaps) > 1
    for one, other, swap in swaps:
        logits = []
        for text in (one, other):
            ids = torch.tensor([prompt_tokens(subject.tokenizer, chat(text))])
            with torch.no_grad():
                logits.append(subject.model(input_ids=ids).logits[0, -1])
        answer, foil = (int(row.argmax()) for row in logits)
        assert (swap is None) == (answer == foil)
        if swap is not None:
            assert (swap.answer, swap.foil) == (answer, foil)
            margins = [float(row[answer] - row[foil]) for row in logits]
            assert margins[0] > 0 > margins[1]
            np.testing.assert_allclose((swap.clean_margin, swap.corrupted_margin), margins, rtol=1e-3, atol=1e-4)


def test_hooks_are_gone_afterwards(subject):
    ids = torch.tensor([prompt_tokens(subject.tokenizer, chat("bad"))])
    with torch.no_grad():
        before = subject.model(input_ids=ids).logits
        for parts, swap, length in pairs(subject)[:1]:
            patched(subject.model, parts, swap, np.ones((1, len(parts), length), dtype=bool))
        assert torch.equal(subject.model(input_ids=ids).logits, before)


# --- a planted mechanism ---


@pytest.mark.parametrize("layer", [0, 1])
def test_the_planted_attention_at_the_last_position_carries_everything(layer):
    subject = copying(layer)
    parts, swap, length = pair(subject)
    assert subject.tokenizer.decode([swap.answer]) == "b"  # after a
    assert subject.tokenizer.decode([swap.foil]) == "c"
    share = patched(subject.model, parts, swap, alone(parts, length)).reshape(len(parts), length)
    expected = np.zeros_like(share)
    expected[2 * layer, -1] = 1.0
    np.testing.assert_allclose(share, expected, atol=1e-5)


def test_random_weights_have_an_advantage_too_and_so_none_is_required_by_itself(subject, tmp_path):
    """The best sites are found on the pair that they are measured on."""
    found = {
        e.metric: e for e in run_audit(patching(tmp_path), subject, budget=Budget(initial=20, batch=20, maximum=20))
    }
    assert found["advantage over random sites"].estimate.low > 0.1
    assert all(e.requirement is None for e in found.values())


def test_the_audit_finds_the_planted_mechanism_and_one_site_is_enough(tmp_path):
    subject = copying()
    audit = patching(tmp_path, sites=[1, 2, 4], at=1, recovered_at_least=0.8)
    found = {e.metric: e for e in run_audit(audit, subject, budget=Budget(initial=30, batch=30, maximum=60))}
    assert found["recovered"].estimate.value == pytest.approx(1.0, abs=1e-4)
    assert found["recovered"].verdict is Verdict.PASS
    # One of 4 components at one of 6 positions (begin, user, three letters, assistant): a random site is it in 1 of 24.
    assert found["advantage over random sites"].estimate.value == pytest.approx(1 - 1 / 24, abs=0.04)
    assert found["recovered by random sites"].curve.mean[2] == pytest.approx(4 / 24, abs=0.08)
    rng = np.random.default_rng(0)
    cases = audit.cases(subject, "verdict", 0, 10, rng)
    for outcome in audit.measure(subject, cases, rng):
        (site,) = outcome.detail["sites"]
        assert (site["component"], site["position"], site["token"]) == ("attention 1", 5, "<assistant>")
        assert outcome.curves["recovered"] == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)


def test_partners_have_one_length_and_another_answer(tmp_path):
    subject, audit = copying(), patching(tmp_path)
    cases = audit.cases(subject, "verdict", 0, 40, np.random.default_rng(0))
    assert len(cases) > 30
    assert len({case.data["corrupted"][0]["content"] for case in cases}) == len(cases)  # each for one prompt
    for case in cases:
        one, other = (case.data[key][0]["content"] for key in ("chat", "corrupted"))
        assert len(one) == len(other)
        assert pair(subject, one, other)[1] is not None


# --- gaps ---


def test_what_is_lacking_is_said(tmp_path):
    (found, *_) = run_audits([patching(tmp_path)], Speaker(sorry))
    assert "needs a subject that ShowsWeights" in found.note
    same = copying()
    same.model.lm_head.weight.data.zero_()
    (found, *_) = run_audits([patching(tmp_path)], same)
    assert found.note == "not measured: there were no cases"
    odd = nano(0)
    for layer in odd.model.model.layers:
        layer.mixer = layer.mlp
        del layer.mlp
    with pytest.raises(NotMeasurable, match="not an attention and a perceptron"):
        components(odd.model)
    for wrong, message in (({"sites": [2, 1]}, "rising order"), ({"at": 3}, "not among the sites")):
        with pytest.raises(ConfigError, match=message):
            patching(tmp_path, **wrong)
