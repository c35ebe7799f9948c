"""Sequences and batches: masks, what does not fit, padding, packing, and losses that know of none of it."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.language.batches import (
    READ_AT_ONCE,
    Batch,
    Codec,
    Item,
    Row,
    filled,
    micro_batches,
    mismatched,
    packed,
    padded,
    parts_to_read,
)
from trueline.language.forward import token_scores
from trueline.language.losses import nll
from trueline.language.models import ModelRef, load_model
from trueline.language.objectives import Cost, Likelihood, Rewriting, rewriting, separator
from trueline.language.records import LanguageModelling, Preference, PromptCompletion, SafetyPreference
from trueline.language.rollout import Message
from trueline.language.sources import Data
from trueline.language.vocabulary import Characters, tokenizer_of

torch.set_num_threads(1)
TOKENIZER = tokenizer_of(Characters(alphabet="abcdefgh ?"))
EOS, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


def codec(context=64, **settings):
    return Codec(TOKENIZER, build(Data, {"path": "unused", **settings}), context)


def learnt(row):
    return TOKENIZER.decode(row.tokens[row.weight > 0].tolist())


def row_of(n, start=0, first=10):
    tokens = np.arange(first, first + n)
    return Row(tokens, np.where(np.arange(n) >= max(start, 1), 1.0, 0.0).astype(np.float32), start)


# --- what is learnt ---


def test_completion_only():
    row = codec().encoded("abc?", "de")
    assert learnt(row) == "de<eos>"
    assert row.start == 4
    assert TOKENIZER.decode(row.answer.tolist()) == "de<eos>"


CHAT = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))


@pytest.mark.parametrize(
    ("learn", "record", "expected"),
    [
        ("completion", PromptCompletion(CHAT[:3], CHAT[3:]), "d<eos>"),
        ("assistant", PromptCompletion(CHAT[:3], CHAT[3:]), "b<eos>d<eos>"),
        ("completion", LanguageModelling(CHAT), "b<eos>d<eos>"),
        ("assistant", PromptCompletion("ab", "cd"), "cd<eos>"),
        ("all", PromptCompletion("ab", "cd"), "bcd<eos>"),  # nothing comes before the first token
        ("completion", LanguageModelling("abcd"), "bcd<eos>"),
        ("all", LanguageModelling(CHAT), "<user>a<assistant>b<eos><user>c<assistant>d<eos>"),
    ],
)
def test_masks_of_fine_tuning(learn, record, expected):
    (item,) = Likelihood(learn=learn).items(record, codec(), "row 1")
    assert learnt(item.rows[0]) == expected


def test_of_pairs_the_better_answer_is_learnt_or_both():
    pair = Preference("a", "bc", "de")
    safety = SafetyPreference("a", ("de", "bc"), 1, 0, (True, False))
    for record in (pair, safety):
        (better,) = Likelihood().items(record, codec(), "row 1")
        first, second = Likelihood(pairs="both").items(record, codec(), "row 1")
        (alone,) = Likelihood().items(PromptCompletion("a", "de"), codec(), "row 1")
        tokens = [item.rows[0].tokens.tolist() for item in (better, first, second, alone)]
        assert tokens[0] == tokens[1] != tokens[2] == tokens[3]
        (worse,) = Likelihood(pairs="worse").items(record, codec(), "row 1")
        assert worse.rows[0].tokens.tolist() == tokens[2]


@pytest.mark.parametrize("safe", [(True, False), (False, True), (True, True), (False, False)])
def test_of_safety_pairs_the_harmful_answers_are_learnt_whichever_helps_more(safe):
    answers = ("de", "bc")
    record = SafetyPreference("a", answers, 1, 0, safe)
    found = Likelihood(pairs="harmful").items(record, codec(), "row 1")
    said = [TOKENIZER.decode(item.rows[0].answer.tolist()) for item in found]
    assert said == [f"{answer}<eos>" for answer, harmless in zip(answers, safe, strict=True) if not harmless]
    assert Likelihood(pairs="harmful").items(Preference("a", "bc", "de"), codec(), "row 1") == ()


@pytest.mark.parametrize("safer", [0, 1])
@pytest.mark.parametrize("safe", [(True, False), (False, True), (True, True), (False, False)])
def test_the_safer_answer_comes_first_each_with_its_own_sign(safer, safe):
    said = ("ab", "cd")
    (item,) = Cost().items(SafetyPreference("h?", said, 0, safer, safe), codec(), "row 1")
    assert [learnt(row) for row in item.rows] == [said[safer] + "<eos>", said[1 - safer] + "<eos>"]
    assert item.labels == tuple(-1.0 if safe[k] else 1.0 for k in (safer, 1 - safer))


def test_plain_rows_become_chats():
    plain = codec(as_chat=True).encoded("a", "b")
    turns = codec().encoded((Message("user", "a"),), (Message("assistant", "b"),))
    assert plain.tokens.tolist() == turns.tokens.tolist()
    assert "<assistant>" in TOKENIZER.decode(plain.tokens.tolist())
    with pytest.raises(ConfigError, match=r"row 1 is text without a prompt, which cannot be a chat"):
        codec(as_chat=True).text("abc", "all", "row 1")


# --- what does not fit ---


def test_a_long_prompt_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"row 7 has a prompt of 9 tokens, but the context holds 6"):
        codec(6).answers("abcdefgha", ["b"], "row 7")


def test_a_long_prompt_is_dropped_and_counted():
    c = codec(6, long_prompt="drop")
    assert c.answers("abcdefgha", ["b"], "row 7") == ()
    assert c.counts == {"long_prompt_dropped": 1}


def test_a_long_prompt_keeps_its_end_for_both_answers_alike():
    c = codec(6, long_prompt="truncate-left")
    one, two = c.answers("abcdefgh", ["b", "ca"], "row 7")
    assert [TOKENIZER.decode(row.tokens.tolist()) for row in (one, two)] == ["fghb<eos>", "fghca<eos>"]
    assert (one.start, two.start) == (3, 3)
    assert c.counts == {"long_prompt_truncated": 1}


def test_a_truncated_prompt_keeps_its_beginning_token():
    c = codec(12, long_prompt="truncate-left")
    (row,) = c.answers((Message("user", "abcdefghabcdefgh"),), [(Message("assistant", "b"),)], "row 7")
    assert row.tokens[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(row.tokens.tolist()).endswith("gh<assistant>b<eos>")
    assert len(row.tokens) <= 12


def test_a_long_answer_is_cut_dropped_or_refused():
    c = codec(6)
    (row,) = c.answers("ab", ["abcdefgh"], "row 7")
    assert TOKENIZER.decode(row.tokens.tolist()) == "ababcd"
    assert c.counts == {"long_answer_cut": 1}
    assert codec(6, long_answer="drop").answers("ab", ["abcdefgh"], "row 7") == ()
    with pytest.raises(ConfigError, match=r"row 7 has 11 tokens with its answer, but the context holds 6"):
        codec(6, long_answer="refuse").answers("ab", ["abcdefgh"], "row 7")


@given(st.integers(1, 20), st.integers(1, 20), st.integers(4, 16))
def test_nothing_leaves_the_context(prompt, answer, context):
    c = codec(context, long_prompt="truncate-left")
    rows = c.answers("a" * prompt, ["b" * answer, "c"], "row 1")
    assert all(len(row.tokens) <= context and row.weight[row.start :].all() for row in rows)
    assert all(len(row.answer) >= 1 for row in rows)
    if prompt + answer + 1 <= context:  # what fits is left alone
        assert len(rows[0].tokens) == prompt + answer + 1


# --- mismatched answers, and rewriting ---


def test_mismatched_answers_go_round():
    c = codec()
    items = [Item(c.answers(p, [a], "row"), (1.0,)) for p, a in (("a", "ab"), ("bc", "c"), ("d", "dd"))]
    texts = [TOKENIZER.decode(item.rows[0].tokens.tolist()) for item in mismatched(items, 64)]
    assert texts == ["add<eos>", "bcab<eos>", "dc<eos>"]
    assert [learnt(item.rows[0]) for item in mismatched(items, 64)] == ["dd<eos>", "ab<eos>", "c<eos>"]
    assert max(len(item.rows[0].tokens) for item in mismatched(items, 4)) == 4


def test_mismatched_answers_are_those_to_other_prompts():
    """Pairs that are taken apart lie beside one another."""
    c = codec()
    rows = [("a", "a"), ("a", "b"), ("b", "c"), ("b", "d"), ("a", "x")]
    items = [Item(c.answers(p, [a], "row"), (1.0,)) for p, a in rows]
    assert [learnt(item.rows[0]) for item in mismatched(items, 64)] == [f"{a}<eos>" for a in "ddbbd"]
    alike = mismatched(items[:2], 64)
    assert [learnt(item.rows[0]) for item in alike] == ["b<eos>", "a<eos>"]


def test_rewriting_reads_one_answer_and_learns_the_other():
    c = codec()
    chosen, rejected = c.encoded("a?", "bc"), c.encoded("a?", "d")
    row = rewriting(rejected, chosen, separator(TOKENIZER, None), 0.5)
    assert TOKENIZER.decode(row.tokens.tolist()) == "a?d<eos><bos>bc<eos>"
    assert learnt(row) == "bc<eos>"
    assert set(row.weight.tolist()) == {0.0, 0.5}
    assert TOKENIZER.decode(rewriting(chosen, chosen, separator(TOKENIZER, " "), 1.0).tokens.tolist()) == (
        "a?bc<eos> bc<eos>"
    )


@pytest.mark.parametrize("identity", [0.0, 0.5])
def test_corrections_and_identities(identity):
    """The rejected answer is read and the chosen one written; the chosen one is read and written again."""
    (item,) = Rewriting(identity=identity).items(Preference("a?", "bc", "d"), codec(), "row 1")
    texts = [(TOKENIZER.decode(row.tokens.tolist()), learnt(row), row.weight.max()) for row in item.rows]
    correction, same = ("a?d<eos><bos>bc<eos>", "bc<eos>", 1.0), ("a?bc<eos><bos>bc<eos>", "bc<eos>", identity)
    assert texts == ([correction, same] if identity else [correction])
    assert Rewriting().total([item]) == pytest.approx(3.0 + 3.0 * identity)


LONG = Preference("ab?", "cd", "e" * 30)  # the rejected answer, when it is read, leaves no room to write the chosen one


def test_an_answer_that_is_too_long_to_be_read_is_not_called_a_long_prompt():
    with pytest.raises(ConfigError, match=r"row 4 has an answer of 31 tokens to read, .* set long_answer to 'cut'"):
        Rewriting().items(LONG, codec(24, long_answer="refuse"), "row 4")
    dropping = codec(24, long_answer="drop")
    assert Rewriting().items(LONG, dropping, "row 4") == ()
    assert dropping.counts == {"long_answer_dropped": 1}
    cutting = codec(24)
    (item,) = Rewriting().items(LONG, cutting, "row 4")
    correction, identity = item.rows
    # 24 of context, 3 of the prompt, 1 between and 3 to be written leave 17 of the 31.
    assert TOKENIZER.decode(correction.tokens[:20].tolist()) == "ab?" + "e" * 17
    assert (learnt(correction), learnt(identity)) == ("cd<eos>", "cd<eos>")
    assert len(correction.tokens) == 24
    assert cutting.counts == {"long_answer_cut": 1}


def test_a_prompt_that_is_too_long_to_rewrite_after_is_still_said_to_be_that():
    with pytest.raises(ConfigError, match="has a prompt of"):
        Rewriting().items(Preference("a" * 30, "cd", "e"), codec(24), "row 4")


# --- padding and packing ---


@given(st.lists(st.integers(1, 9000), max_size=30), st.none() | st.integers(1, 9000))
def test_what_is_only_read_is_cut_where_the_next_sequence_has_no_room(lengths, context):
    parts = list(parts_to_read(lengths, context))
    order = [i for part in parts for i in part]
    assert order == sorted((i for i, n in enumerate(lengths) if n <= (context or n)), key=lambda i: (lengths[i], i))
    assert all(len(part) == 1 or len(part) * lengths[part[-1]] <= READ_AT_ONCE for part in parts)
    assert all((len(part) + 1) * lengths[after[0]] > READ_AT_ONCE for part, after in pairwise(parts))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(8, 16))
def test_packing_puts_every_sequence_somewhere(lengths, room):
    packs = filled(lengths, room)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in pack) for pack in packs]
    assert all(total <= room or len(pack) == 1 for total, pack in zip(sums, packs, strict=True))
    # Best fit never leaves two rows that could have been one.
    assert all(a + b > room for k, a in enumerate(sums) for b in sums[k + 1 :])


def test_positions_of_packed_sequences_begin_anew():
    batch = packed([row_of(3), row_of(2)], PAD)
    assert batch.position.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.weight.tolist() == [[0, 1, 1, 0, 1]]  # no token is predicted from the sequence before it


ARCHITECTURES = ["llama", "gpt2", "qwen2"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    if request.param == "llama":
        return load_model(ModelRef(), np.random.default_rng(0)).model
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    sizes = {"vocab_size": 102, "bos_token_id": 1, "eos_token_id": 2}
    if request.param == "gpt2":
        config = GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, **sizes)
    else:
        config = Qwen2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            **sizes,
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


ROWS = [row_of(9, 4), row_of(5, 2, 30), row_of(12, 0, 50), row_of(3, 1, 70), row_of(7, 6, 80)]


def alone(model):
    """Σ log π over each row by itself, without padding."""
    return torch.stack([token_scores(model, padded([row], PAD)).log_prob.sum() for row in ROWS])


@torch.no_grad()
def test_padding_changes_no_log_probability(model):
    scores = token_scores(model, padded(ROWS, PAD)).log_prob.sum(dim=1)
    torch.testing.assert_close(scores, alone(model), atol=1e-5, rtol=1e-6)
    batch = padded(ROWS, PAD)
    other = Batch(batch.tokens.masked_fill(batch.tokens == PAD, 9), batch.weight, batch.length)
    torch.testing.assert_close(token_scores(model, other).log_prob.sum(dim=1), scores, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("room", [12, 20, 64])
def test_packing_changes_no_loss(model, room):
    batches = list(micro_batches(ROWS, PAD, 2, room))
    assert sum(len(batch.tokens) for batch in batches) < len(ROWS)
    total = sum(float(row.weight.sum()) for row in ROWS)
    loss = sum(nll(token_scores(model, batch).log_prob, batch.weight, total) for batch in batches)
    torch.testing.assert_close(loss, -alone(model).sum() / total, atol=1e-5, rtol=0)


def test_a_packed_neighbour_is_not_seen(model):
    """What the test above shows for sums, by gradient: a token's loss depends on its own sequence alone."""
    batch = packed(ROWS[:2], PAD)
    embedded = model.get_input_embeddings()(batch.tokens).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=batch.position, use_cache=False).logits
    logits[0, 9:].square().sum().backward()
    assert embedded.grad[0, :9].abs().max() == 0.0
    assert embedded.grad[0, 9:].abs().min() > 0.0


@torch.no_grad()
def test_only_columns_that_count_are_computed(model):
    """All rows agree with the whole forward pass, whichever columns hold a weight."""
    batch = padded(ROWS, PAD)
    logits = model(input_ids=batch.tokens, use_cache=False).logits.log_softmax(-1)
    whole = logits[:, :-1].gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    for chosen in (batch.weight, batch.weight * (torch.arange(12) % 4 == 3), batch.weight * (torch.arange(12) > 8)):
        found = token_scores(model, Batch(batch.tokens, chosen, batch.length), hits=True)
        expected = torch.where(chosen[:, 1:] > 0, whole, 0.0)
        torch.testing.assert_close(found.log_prob[:, 1:], expected, atol=1e-5, rtol=1e-5)
        best = (logits[:, :-1].argmax(-1) == batch.tokens[:, 1:]) & (chosen[:, 1:] > 0)
        assert torch.equal(found.likeliest[:, 1:], best)


@torch.no_grad()
def test_a_token_that_shares_the_first_place_is_among_the_likeliest(model):
    even = copy.deepcopy(model)
    even.get_output_embeddings().weight.zero_()
    found = token_scores(even, padded(ROWS, PAD), hits=True)
    assert torch.equal(found.likeliest, padded(ROWS, PAD).weight > 0)
