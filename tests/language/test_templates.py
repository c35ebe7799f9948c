"""Chat templates: the text of turns, and which of its tokens are learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import LETTERS

from trueline.core.errors import ConfigError
from trueline.language.rollout import Message, chat
from trueline.language.templates import (
    TEMPLATES,
    encode_chat,
    encode_reply,
    encode_text,
    prompt_tokens,
    prompts_tokens,
    render,
    reply_end,
)
from trueline.language.vocabulary import Characters, tokenizer_of

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
TWO_TURNS = (Message(USER, "ab"), Message(ASSISTANT, "cd"), Message(USER, "e"), Message(ASSISTANT, "fgh"))

# As many published templates do: markers around every turn, a line break after it.
CHAT_ML = (
    "{% for m in messages %}{{ '<system>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<system>assistant\n' }}{% endif %}"
)
# One whose turns end with a token that is not the tokenizer's eos, as Gemma's do, a line break after it.
OWN_END = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<system>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
# One that forgets: only the last reply keeps its text.
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}{{ m['content'] }}{% endif %}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizers():
    """One tokenizer for each template."""
    found = {}
    others = {"chat-ml": CHAT_ML, "own-end": OWN_END, "forgetful": FORGETFUL, "none": None}
    for name, text in {**TEMPLATES, **others}.items():
        found[name] = tokenizer_of(Characters())
        found[name].chat_template = text
    return found


def learnt_text(tokenizer, encoded):
    """The text of each run of learnt tokens."""
    runs, before = [], False
    for token, learnt in zip(encoded.tokens, encoded.learnt, strict=True):
        if learnt and not before:
            runs.append([])
        if learnt:
            runs[-1].append(token)
        before = learnt
    return [tokenizer.decode(run) for run in runs]


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("turns", "<bos><user>ab<assistant>cd<eos><user>e<assistant>fgh<eos>"),
        ("plain", "abcd<eos>efgh<eos>"),
        (
            "safe-rlhf",
            "<bos>BEGINNING OF CONVERSATION: USER: ab ASSISTANT:cd<eos>USER: e ASSISTANT:fgh<eos>",
        ),
    ],
)
def test_the_named_templates_write_turns_so(tokenizers, name, expected):
    assert render(tokenizers[name], TWO_TURNS) == expected
    asked = render(tokenizers[name], TWO_TURNS[:3], ask=True)
    assert expected == asked + "fgh<eos>"


def test_a_system_turn_is_written_or_refused(tokenizers):
    asked = (Message(SYSTEM, "be"), Message(USER, "a"))
    assert render(tokenizers["turns"], asked, ask=True) == "<bos><system>be<user>a<assistant>"
    with pytest.raises(ConfigError, match=r"turns system, user: the safe-rlhf template has no system turn"):
        render(tokenizers["safe-rlhf"], asked)


def test_a_tokenizer_without_a_template_is_refused(tokenizers):
    for call in (lambda t: render(t, chat("a")), lambda t: prompts_tokens(t, [chat("a")])):
        with pytest.raises(ConfigError, match=r"no chat template\. Set model.template"):
            call(tokenizers["none"])


def test_a_template_may_not_reach_outside_its_sandbox(tokenizers):
    tokenizer = tokenizer_of(LETTERS)
    tokenizer.chat_template = "{{ messages.__class__.__mro__ }}"
    with pytest.raises(ConfigError, match="refuses"):
        render(tokenizer, chat("a"))


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["turns", "plain", "safe-rlhf", "chat-ml"])
def test_many_prompts_are_each_as_alone(tokenizers, name):
    chats = [chat("abc"), TWO_TURNS[:3], chat("x")]
    assert prompts_tokens(tokenizers[name], chats) == [prompt_tokens(tokenizers[name], c) for c in chats]
    assert prompts_tokens(tokenizers[name], []) == []


@pytest.mark.parametrize("asked", [(), TWO_TURNS])
def test_a_chat_that_asks_for_nothing_is_refused(tokenizers, asked):
    for call in (
        lambda: prompt_tokens(tokenizers["turns"], asked),
        lambda: prompts_tokens(tokenizers["turns"], [asked]),
    ):
        with pytest.raises(ConfigError, match="must end with a turn that is not the assistant's"):
            call()


def test_one_bad_chat_among_many_is_named_by_its_turns(tokenizers):
    with pytest.raises(ConfigError, match="turns system, user"):
        prompts_tokens(tokenizers["safe-rlhf"], [chat("a"), (Message(SYSTEM, "be"), Message(USER, "a"))])


# -- what is learnt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["turns", "plain", "safe-rlhf", "chat-ml"])
def test_every_reply_is_learnt_with_its_end_and_nothing_else(tokenizers, name):
    tokenizer = tokenizers[name]
    assert learnt_text(tokenizer, encode_chat(tokenizer, TWO_TURNS)) == ["cd<eos>", "fgh<eos>"]
    assert learnt_text(tokenizer, encode_chat(tokenizer, TWO_TURNS, "completion")) == ["fgh<eos>"]
    everything = encode_chat(tokenizer, TWO_TURNS, "all")
    assert tokenizer.decode(everything.tokens) == render(tokenizer, TWO_TURNS)
    assert all(everything.learnt)


def test_the_marks_are_those_of_a_template_that_marks_them_itself(tokenizers):
    tokenizer, messages = tokenizers["turns"], [message._asdict() for message in TWO_TURNS]
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    found = encode_chat(tokenizer, TWO_TURNS)
    assert found.tokens == marked["input_ids"]
    assert list(map(int, found.learnt)) == marked["assistant_masks"]


@given(
    st.lists(st.text(alphabet=LETTERS.alphabet, max_size=6), min_size=1, max_size=5),
    st.sampled_from(["turns", "plain"]),
)
def test_what_is_learnt_is_what_the_assistant_said(texts, name):
    tokenizer = shared_tokenizer(name)
    turns = tuple(m for text in texts for m in (Message(USER, "a" + text), Message(ASSISTANT, text)))
    assert learnt_text(tokenizer, encode_chat(tokenizer, turns)) == [text + "<eos>" for text in texts]


def shared_tokenizer(name, cache={}):  # noqa: B006  (made once: hypothesis calls often)
    if name not in cache:
        cache[name] = tokenizer_of(LETTERS)
        cache[name].chat_template = TEMPLATES[name]
    return cache[name]


def test_a_reply_is_learnt_up_to_any_end_token_it_may_be_sampled_to(tokenizers):
    tokenizer = tokenizer_of(LETTERS)
    tokenizer.chat_template = CHAT_ML.replace("eos_token + '\n'", "'<user>'")
    found = encode_chat(tokenizer, TWO_TURNS, ends=(5,))  # <user> ends a turn here
    assert learnt_text(tokenizer, found) == ["cd<user>", "fgh<user>"]


def test_a_template_that_ends_no_reply_gets_an_end(tokenizers):
    tokenizer = tokenizer_of(LETTERS)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert learnt_text(tokenizer, encode_chat(tokenizer, TWO_TURNS, "completion")) == ["fgh<eos>"]
    # Within the chat nothing ends the first reply; the second's end is added.
    assert learnt_text(tokenizer, encode_chat(tokenizer, TWO_TURNS)) == ["cd", "fgh<eos>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_where_they_would_be_learnt(tokenizers):
    with pytest.raises(ConfigError, match="turn 2 differently once later turns follow"):
        encode_chat(tokenizers["forgetful"], TWO_TURNS)
    assert learnt_text(tokenizers["forgetful"], encode_chat(tokenizers["forgetful"], TWO_TURNS, "completion")) == [
        "fgh<eos>"
    ]


@pytest.mark.parametrize("learn", ["assistant", "completion"])
def test_a_chat_without_a_reply_has_nothing_to_learn(tokenizers, learn):
    with pytest.raises(ConfigError, match="no assistant turn to learn from"):
        encode_chat(tokenizers["turns"], chat("a"), learn)
    with pytest.raises(ConfigError, match="at its end"):
        encode_chat(tokenizers["turns"], TWO_TURNS[:3], "completion")


def test_a_reply_goes_on_where_the_prompt_stops(tokenizers):
    for name in ("turns", "plain", "safe-rlhf", "chat-ml"):
        found = encode_reply(tokenizers[name], chat("ab"), "cd", tokenizers[name].eos_token_id)
        prompt = prompt_tokens(tokenizers[name], chat("ab"))
        assert found.tokens[: len(prompt)] == prompt
        assert learnt_text(tokenizers[name], found) == ["cd<eos>"]


def test_a_chat_that_is_learnt_from_ends_where_a_reply_to_it_does(tokenizers):
    """Else a score would be learnt after a line break, which no sampled reply has, and read before it."""
    for name in ("turns", "plain", "safe-rlhf", "chat-ml", "own-end"):
        tokenizer = tokenizers[name]
        ends = tokenizer.convert_tokens_to_ids(["<system>"]) if name == "own-end" else []
        end = reply_end(tokenizer, ends)
        assert end == (ends[0] if ends else tokenizer.eos_token_id)
        for asked in (chat("ab"), TWO_TURNS[:3]):
            whole = encode_chat(tokenizer, (*asked, Message(ASSISTANT, "cd")), "completion", ends)
            assert whole == encode_reply(tokenizer, asked, "cd", end), name
        assert encode_chat(tokenizer, TWO_TURNS, "assistant", ends).learnt[-1], name


def test_text_without_a_template_ends_with_eos(tokenizers):
    assert reply_end(tokenizers["none"]) == tokenizers["none"].eos_token_id


def test_a_chat_learnt_whole_keeps_what_its_template_writes_last(tokenizers):
    whole = encode_chat(tokenizers["chat-ml"], TWO_TURNS, "all")
    assert tokenizers["chat-ml"].decode(whole.tokens) == render(tokenizers["chat-ml"], TWO_TURNS)


# -- text without turns -----------------------------------------------------------------------------------------------


def test_text_is_learnt_whole_or_from_the_completion(tokenizers):
    tokenizer = tokenizers["turns"]
    whole, part = encode_text(tokenizer, "abc"), encode_text(tokenizer, "ab", "c")
    assert whole.tokens == part.tokens
    assert learnt_text(tokenizer, whole) == ["abc<eos>"]
    assert learnt_text(tokenizer, part) == ["c<eos>"]


def byte_pairs():
    """A tokenizer whose words cross the border between prompt and completion, and that begins text with bos."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "c": 3, "<bos>": 4, "<eos>": 5}, [("a", "b")]))
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 4)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATES["plain"]
    return tokenizer


def test_a_token_across_the_border_is_learnt():
    tokenizer = byte_pairs()
    # "ca" + "bc" is read as c, ab, c: the token ab holds the reply's first letter.
    assert encode_text(tokenizer, "ca", "bc") == ([4, 3, 2, 3, 5], [False, False, True, True, True])
    assert encode_chat(tokenizer, (Message(USER, "ca"), Message(ASSISTANT, "bc"))) == (
        [4, 3, 2, 3, 5],
        [False, False, True, True, True],
    )


def test_plain_prompts_begin_as_the_tokenizer_begins_text():
    assert prompt_tokens(byte_pairs(), chat("ab")) == [4, 2]
    assert prompts_tokens(byte_pairs(), [chat("ab"), chat("c")]) == [[4, 2], [4, 3]]
