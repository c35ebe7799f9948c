"""Chat templates: how turns become one text, which of its tokens the assistant wrote, and where a reply begins.

A template is Jinja text in the tokenizer, rendered in a sandbox, so that a saved model is prompted alike everywhere.
A prompt is the text up to where the assistant would speak. What the assistant wrote is what lies between that prompt
and the text with the turn added; a template whose text so far changes when a turn is added cannot be trained on in the
middle of a chat, and is refused there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from trueline.core.errors import ConfigError
from trueline.language.rollout import Chat, Message

__all__ = [
    "TEMPLATES",
    "Encoded",
    "TemplateName",
    "encode_chat",
    "encode_reply",
    "encode_text",
    "prompt_tokens",
    "prompts_tokens",
    "render",
    "reply_end",
]

TemplateName = Literal["own", "turns", "safe-rlhf", "plain"]

# "turns" is the template of the models made from scratch. Its generation markers serve other libraries' masks.
_TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Text of the prompts of the safe-RLHF models (Dai et al. 2024), turns after the first included; a beginning token first
# where the tokenizer has one, as its Llama tokenizer adds.
_SAFE_RLHF = (
    "{% if bos_token %}{{ bos_token }}{% endif %}BEGINNING OF CONVERSATION: {% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('the safe-rlhf template has no system turn') }}{% endif %}"
    "{% if message['role'] == 'user' %}USER: {{ message['content'] }} ASSISTANT:"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# No markers at all: for models that continue text. Beginning tokens are those the tokenizer itself puts before text.
_PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"turns": _TURNS, "safe-rlhf": _SAFE_RLHF, "plain": _PLAIN}


class Encoded(NamedTuple):
    """Tokens of a text, and for each whether it is to be learnt."""

    tokens: list[int]
    learnt: list[bool]


def render(tokenizer: Any, chat: Sequence[Message], ask: bool = False) -> str:
    """Text of a chat; with `ask`, up to where the assistant would speak next.

    Raises ConfigError when the tokenizer has no template or its template refuses the chat.
    """
    _check_template(tokenizer)
    from jinja2 import TemplateError

    messages = [message._asdict() for message in chat]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except TemplateError as error:
        roles = ", ".join(message.role for message in chat)
        raise ConfigError(
            f"the chat template refuses a chat of turns {roles}: {error}. Change those turns, or set model.template."
        ) from None


def prompt_tokens(tokenizer: Any, chat: Chat) -> list[int]:
    """Token ids after which the assistant's next reply begins.  Raises as `render`, and for a chat that has ended."""
    _check_asks(chat)
    return _tokens(tokenizer, render(tokenizer, chat, ask=True))


def prompts_tokens(tokenizer: Any, chats: Sequence[Chat]) -> list[list[int]]:
    """`prompt_tokens` of many chats, in a fraction of the time that one by one would take."""
    if not chats:
        return []
    for chat in chats:
        _check_asks(chat)
    _check_template(tokenizer)
    from jinja2 import TemplateError

    messages = [[message._asdict() for message in chat] for chat in chats]
    try:
        texts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return [prompt_tokens(tokenizer, chat) for chat in chats]  # raises for the chat that is to blame
    begin = _beginning(tokenizer) if tokenizer.chat_template == TEMPLATES["plain"] else []
    return [begin + ids for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def encode_chat(
    tokenizer: Any,
    chat: Sequence[Message],
    learn: Literal["assistant", "completion", "all"] = "assistant",
    ends: Collection[int] = (),
) -> Encoded:
    """Tokens of a whole chat, learnt on every assistant turn, on the last turn alone (completion), or on all tokens.

    A reply is learnt up to the token that ends it (one of `ends`, by default the tokenizer's eos), as it would be
    sampled. Line breaks that the template puts after it are not, and after the last reply they are left out: scores are
    read where a reply ends, and a sampled one has none. If the template ends the last reply by none of `ends`, eos is
    added: otherwise nothing would teach the model to stop. A token that spans the border belongs to the reply.

    Raises ConfigError as `render`, for a chat without a reply to learn from, and for a template that changes earlier
    text when turns are added.
    """
    stops = set(ends) | {tokenizer.eos_token_id}
    turns = [k for k, message in enumerate(chat) if message.role == "assistant"]
    if learn != "all" and (not turns or (learn == "completion" and turns[-1] != len(chat) - 1)):
        raise ConfigError(
            "this chat has no assistant turn to learn from"
            + (" at its end" if learn == "completion" else "")
            + ". Add one, or learn from 'all' tokens."
        )

    @cache  # the same beginnings are asked for again and again, and tokenising is most of what this costs
    def text_of(turns: int, ask: bool = False) -> str:
        return render(tokenizer, chat[:turns], ask)

    @cache
    def tokens_of(text: str) -> list[int]:
        return _tokens(tokenizer, text)

    text = text_of(len(chat))
    tokens = list(tokens_of(text))
    learnt = [learn == "all"] * len(tokens)
    for k in [] if learn == "all" else turns if learn == "assistant" else turns[-1:]:
        before, after = text_of(k, True), text_of(k + 1)
        if not (after.startswith(before) and text.startswith(after)):
            raise ConfigError(
                f"the chat template writes turn {k + 1} differently once later turns follow, so its tokens cannot be "
                "told. Learn from the 'completion' alone, with one record for each reply."
            )
        start, end = _shared(tokens_of(before), tokens), _shared(tokens_of(after), tokens)
        last = max((t for t in range(start, end) if tokens[t] in stops), default=end - 1)
        learnt[start : last + 1] = [True] * (last + 1 - start)
    if chat and chat[-1].role == "assistant":
        start = _shared(tokens_of(text_of(len(chat) - 1, True)), tokens)
        ended = [t for t in range(start, len(tokens)) if tokens[t] in stops]
        if not ended:
            tokens, learnt = [*tokens, tokenizer.eos_token_id], [*learnt, True]
        elif learn != "all":
            tokens, learnt = tokens[: ended[-1] + 1], learnt[: ended[-1] + 1]
    return Encoded(tokens, learnt)


def reply_end(tokenizer: Any, ends: Collection[int] = ()) -> int:
    """The token at which `encode_chat` ends a reply; eos without a template, which is how text ends."""
    if not tokenizer.chat_template:
        return int(tokenizer.eos_token_id)
    try:
        example = (Message("user", "a"), Message("assistant", "b"))
        return encode_chat(tokenizer, example, "completion", ends).tokens[-1]
    except ConfigError:  # a template that refuses even this one
        return int(tokenizer.eos_token_id)


def encode_reply(tokenizer: Any, chat: Chat, reply: str, end: int) -> Encoded:
    """Tokens of a chat's prompt, a reply to it and the `end` token (`reply_end`), learnt on the last two.

    Raises as `prompt_tokens`.
    """
    prompt = prompt_tokens(tokenizer, chat)
    tokens = _tokens(tokenizer, render(tokenizer, chat, ask=True) + reply)
    start = _shared(prompt, tokens)
    return Encoded([*tokens, end], [False] * start + [True] * (len(tokens) + 1 - start))


def encode_text(tokenizer: Any, prompt: str, completion: str | None = None) -> Encoded:
    """Tokens of text without turns, eos at the end; learnt on the completion, or on everything when there is none.

    Prompt and completion are tokenised as one text. Beginning tokens are those the tokenizer itself puts before text.
    """
    begin = _beginning(tokenizer)
    tokens = begin + _tokens_of_text(tokenizer, prompt + (completion or ""))
    start = len(begin) if completion is None else _shared(begin + _tokens_of_text(tokenizer, prompt), tokens)
    learnt = [False] * start + [True] * (len(tokens) - start)
    return Encoded([*tokens, tokenizer.eos_token_id], [*learnt, True])


def _check_asks(chat: Chat) -> None:
    if not chat or chat[-1].role == "assistant":
        raise ConfigError("a chat that asks for a reply must end with a turn that is not the assistant's. Drop it.")


def _check_template(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template. "
            "Set model.template to 'plain', 'turns' or 'safe-rlhf'."
        )


def _tokens(tokenizer: Any, text: str) -> list[int]:
    begin = _beginning(tokenizer) if tokenizer.chat_template == TEMPLATES["plain"] else []
    return begin + _tokens_of_text(tokenizer, text)


def _tokens_of_text(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before any text: bos or nothing."""
    begins = tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id] if begins else []


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
