"""From records to tensors: rows of tokens with a weight each, fitted into the context, padded or packed.

Letters of shapes: R rows, T tokens. Column t of a weight is about token t given the tokens before it; a weight is 0
where a token is only read. Column 0 always is: nothing comes before it.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.core.errors import ConfigError
from trueline.language.records import Text
from trueline.language.rollout import Message
from trueline.language.sources import Data
from trueline.language.templates import Encoded, encode_chat, encode_text

Learn = Literal["completion", "assistant", "all"]

__all__ = ["READ_AT_ONCE", "Batch", "Codec", "Item", "Row", "filled", "mismatched", "packed", "padded", "parts_to_read"]

READ_AT_ONCE = 8192  # tokens of a forward pass that only reads


class Row(NamedTuple):
    """One sequence."""

    tokens: NDArray[np.int64]  # [T]
    weight: NDArray[np.float32]  # [T]
    start: int  # tokens of the prompt

    @property
    def answer(self) -> NDArray[np.int64]:
        """Tokens after the prompt."""
        return self.tokens[self.start :]


class Item(NamedTuple):
    """What is learnt from together: one sequence, or the two of a pair; and what is known of each."""

    rows: tuple[Row, ...]
    labels: tuple[float, ...] = ()


# --- text to tokens ---


@dataclass(slots=True)
class Codec:
    """Tokens of texts, under one policy for what does not fit; it counts what it had to do."""

    tokenizer: Any
    data: Data
    context: int
    ends: tuple[int, ...] = ()  # tokens that end a reply, besides the tokenizer's eos
    counts: Counter[str] = field(default_factory=Counter)

    def text(self, text: Text, learn: Learn, where: str) -> Row | None:
        """A text or chat by itself.  Raises ConfigError for a text that is to be a chat: it has no turns."""
        if isinstance(text, str):
            if self.data.as_chat:
                raise ConfigError(f"{where} is text without a prompt, which cannot be a chat. Set as_chat to false.")
            encoded = encode_text(self.tokenizer, text)
        else:
            encoded = encode_chat(self.tokenizer, text, learn, self.ends)
        fitted = self.fit([_row(encoded)], where)
        return fitted[0] if fitted else None

    def answers(
        self, prompt: Text, answers: Sequence[Text], where: str, learn: Learn = "completion"
    ) -> tuple[Row, ...]:
        """Each answer after its prompt; learnt on the answer, all with the same prompt tokens.  () where dropped."""
        return self.fit([self.encoded(prompt, answer, learn) for answer in answers], where)

    def encoded(self, prompt: Text, answer: Text, learn: Learn = "completion") -> Row:
        """An answer after its prompt, of whatever length; learnt on the answer, or on what `learn` says."""
        if isinstance(prompt, str):
            assert isinstance(answer, str)  # the records see to it
            if self.data.as_chat:
                return self.encoded((Message("user", prompt),), (Message("assistant", answer),), learn)
            if learn == "all":
                return _row(encode_text(self.tokenizer, prompt + answer))
            return _row(encode_text(self.tokenizer, prompt, answer))
        assert not isinstance(answer, str)
        return _row(encode_chat(self.tokenizer, prompt + answer, learn, self.ends))

    def fit(self, rows: Sequence[Row], where: str) -> tuple[Row, ...]:
        """The rows, no longer than the context, with equal prompts; () where the policy drops them.

        A prompt that leaves no room for an answer is refused, dropped, or loses tokens on its left: it keeps what the
        longest answer leaves of the context, but no less than half of it. An answer that leaves the context is cut at
        its end, dropped or refused. `where` names the row in the refusal.
        """
        start, room = min(row.start for row in rows), self.context
        # A token that spans the border of prompt and answer belongs to the answer, and so to the other answer too.
        rows = [_started_at(row, start) for row in rows]
        if start >= room:
            if self.data.long_prompt == "refuse":
                raise ConfigError(
                    f"{where} has a prompt of {start} tokens, but the context holds {room}. "
                    "Shorten it, or set long_prompt to 'drop' or 'truncate-left'."
                )
            self.counts[f"long_prompt_{'dropped' if self.data.long_prompt == 'drop' else 'truncated'}"] += 1
            if self.data.long_prompt == "drop":
                return ()
            kept = max(room // 2, room - max(len(row.answer) for row in rows))
            rows = [self._left_truncated(row, kept) for row in rows]
        if max(len(row.tokens) for row in rows) > room:
            if self.data.long_answer == "refuse":
                longest = max(len(row.tokens) for row in rows)
                raise ConfigError(
                    f"{where} has {longest} tokens with its answer, but the context holds {room}. "
                    "Shorten it, or set long_answer to 'cut' or 'drop'."
                )
            self.counts[f"long_answer_{'cut' if self.data.long_answer == 'cut' else 'dropped'}"] += 1
            if self.data.long_answer == "drop":
                return ()
            rows = [Row(row.tokens[:room], row.weight[:room], row.start) for row in rows]
        if not any(row.weight.any() for row in rows):
            self.counts["nothing_to_learn"] += 1
            return ()
        return tuple(rows)

    def shown(self, row: Row, between: int, written: int, where: str) -> Row | None:
        """A row whose answer is read before another of `written` tokens is written, `between` tokens apart.

        An answer that leaves no room for any of those is refused, dropped (None), or cut at its end: it keeps what they
        leave of the context, but no less than half. That a prompt is too long is for `fit` to say.
        """
        room = self.context - row.start - between
        if room <= 0 or len(row.answer) < room:
            return row
        if self.data.long_answer == "refuse":
            raise ConfigError(
                f"{where} has an answer of {len(row.answer)} tokens to read, which leaves no room in the context of "
                f"{self.context} to write another. Shorten it, or set long_answer to 'cut' or 'drop'."
            )
        self.counts[f"long_answer_{'cut' if self.data.long_answer == 'cut' else 'dropped'}"] += 1
        if self.data.long_answer == "drop":
            return None
        end = row.start + max(room // 2, room - written)
        return Row(row.tokens[:end], row.weight[:end], row.start)

    def _left_truncated(self, row: Row, kept: int) -> Row:
        cut = row.start - kept
        tokens, weight = row.tokens[cut:].copy(), row.weight[cut:]
        if row.tokens[0] == self.tokenizer.bos_token_id:
            tokens[0] = row.tokens[0]  # a model that was trained with a beginning token reads badly without it
        return Row(tokens, weight, kept)


def _started_at(row: Row, start: int) -> Row:
    """The row with its answer beginning at `start`, and learnt from there on."""
    if start == row.start:
        return row
    weight = row.weight.copy()
    weight[start : row.start] = 1.0
    return Row(row.tokens, weight, start)


def _row(encoded: Encoded) -> Row:
    weight = np.asarray(encoded.learnt, dtype=np.float32)
    start = int(np.argmax(weight > 0)) if weight.any() else len(weight)
    weight[:1] = 0.0
    return Row(np.asarray(encoded.tokens, dtype=np.int64), weight, start)


def mismatched(items: Sequence[Item], context: int) -> list[Item]:
    """Each item's prompt with the answer of the nearest item before it that has another prompt.

    The last item comes before the first; where all prompts are one, the answer is the item's before. It is learnt on,
    and cut where it leaves the context.
    """
    made = []
    asked = [one.rows[0].tokens[: one.rows[0].start].tobytes() for one in items]
    for k, one in enumerate(items):
        before = (items[k - back] for back in range(1, len(items)) if asked[k - back] != asked[k])
        here, there = one.rows[0], next(before, items[k - 1]).rows[0]
        tokens = np.concatenate([here.tokens[: here.start], there.answer])[:context]
        weight = np.concatenate([np.zeros(here.start, dtype=np.float32), there.weight[there.start :]])[:context]
        made.append(Item((Row(tokens, weight, here.start),), one.labels))
    return made


# --- tokens to tensors ---


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences, padded on the right. In packed rows several stand behind each other, each from position 0."""

    tokens: Tensor  # [R, T] int64
    weight: Tensor  # [R, T] float32
    length: Tensor  # [R] int64: tokens before the padding
    position: Tensor | None = None  # [R, T] int64 of packed rows

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        position = None if self.position is None else self.position.to(device)
        return Batch(self.tokens.to(device), self.weight.to(device), self.length.to(device), position)

    def inputs(self) -> dict[str, Any]:
        """Arguments of a causal model.

        No mask goes with them. Padding stands on the right, where no token that counts can see it, and a mask would
        only cost the plain causal kernel; and in packed rows the restarting positions keep sequences apart.
        """
        at = {} if self.position is None else {"position_ids": self.position}
        return {"input_ids": self.tokens, "use_cache": False, **at}


def padded(rows: Sequence[Row], pad: int) -> Batch:
    """One sequence a row."""
    width = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), width), pad, dtype=np.int64)
    weight = np.zeros((len(rows), width), dtype=np.float32)
    for r, row in enumerate(rows):
        tokens[r, : len(row.tokens)] = row.tokens
        weight[r, : len(row.weight)] = row.weight
    length = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weight), torch.from_numpy(length))


def packed(rows: Sequence[Row], pad: int) -> Batch:
    """All sequences one behind the other in a single row."""
    return stacked([rows], pad)


def stacked(packs: Sequence[Sequence[Row]], pad: int) -> Batch:
    """Packs of sequences, a row each."""
    joined = [
        Row(np.concatenate([row.tokens for row in pack]), np.concatenate([row.weight for row in pack]), 0)
        for pack in packs
    ]
    batch = padded(joined, pad)
    # Padding counts on from 0 too, so that it is one more sequence and no part of the last one.
    position = np.tile(np.arange(batch.tokens.shape[1]), (len(packs), 1))
    for r, pack in enumerate(packs):
        at = 0
        for row in pack:
            position[r, at : at + len(row.tokens)] = np.arange(len(row.tokens))
            at += len(row.tokens)
        position[r, at:] = np.arange(position.shape[1] - at)
    return replace(batch, position=torch.from_numpy(position))


def filled(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best fit, longest first: which sequences share a row of at most `room` tokens; a longer one has its own."""
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, pack), sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(free, (lengths[i], -1))
        if at == len(free):
            packs.append([i])
            left, pack = room - lengths[i], len(packs) - 1
        else:
            left, pack = free.pop(at)
            packs[pack].append(i)
            left -= lengths[i]
        bisect.insort(free, (max(left, 0), pack))
    return packs


def parts_to_read(lengths: Sequence[int], context: int | None = None) -> Iterator[list[int]]:
    """Sequences in order of length, in parts that fit one forward pass when padded; the last of a part is its longest.

    What is longer than the context is in none of them.
    """
    fitting = (i for i, length in enumerate(lengths) if context is None or length <= context)
    part: list[int] = []
    for i in sorted(fitting, key=lambda i: lengths[i]):
        if part and (len(part) + 1) * lengths[i] > READ_AT_ONCE:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def micro_batches(rows: Sequence[Row], pad: int, per_batch: int, room: int | None = None) -> Iterable[Batch]:
    """Batches of at most `per_batch` rows, long sequences together; packed into rows of `room` tokens if given."""
    if room is not None:
        packs = [[rows[i] for i in pack] for pack in filled([len(row.tokens) for row in rows], room)]
        for at in range(0, len(packs), per_batch):
            yield stacked(packs[at : at + per_batch], pad)
        return
    longest_first = sorted(rows, key=lambda row: -len(row.tokens))
    for at in range(0, len(rows), per_batch):
        yield padded(longest_first[at : at + per_batch], pad)
