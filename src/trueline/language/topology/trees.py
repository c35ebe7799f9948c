"""Prefix trees of replies: siblings go on from one beginning, and every path from the root to a leaf is a whole reply.

A node's text ends with a separator, such as a full stop; where none comes, with a number of tokens. The children of a
node are drawn independently; one that repeats a sibling is drawn again, hotter each time, so that siblings differ.
A reply may end before the full depth: its node is then a leaf. One that has not ended after all its tokens is finished
greedily, or left out and counted: a judge is only to see whole replies.

All trees grow together, a level at a time, through the ordinary samplers: whatever model they draw from can grow one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.language.models import context_of, end_tokens
from trueline.language.rollout import Chat, Rollout, Sampler, Sampling, chat
from trueline.language.sampler import Auto
from trueline.language.templates import prompts_tokens

__all__ = ["Leaf", "Path", "Shape", "Tree", "grow", "lca_depth", "leaves_of", "shared_prefix"]

Path = tuple[int, ...]  # the child taken at each node from the root


class Shape(Config):
    """How replies branch."""

    depth: int = Field(3, ge=1)  # D: nodes from the root to a leaf
    branching: int = Field(2, ge=2)  # B: children of a node
    separators: tuple[str, ...] = Field((".", "\n"), min_length=1)  # a node ends with the token that completes one
    per_node: int = Field(1, ge=1)  # separators within a node, the one at its end included
    node_tokens: int | None = Field(None, ge=1)  # at most, of a node above the last level; none: ⌈T/D⌉
    hotter: float = Field(0.2, gt=0)  # Δτ: added to the temperature each time a repeated sibling is drawn again
    tries: int = Field(3, ge=0)  # how often; then the node has fewer children
    finish_tokens: int = Field(0, ge=0)  # greedy tokens beyond T for a reply that has not ended; then it is left out

    @model_validator(mode="after")
    def _separates(self) -> Self:
        if any(not separator for separator in self.separators):
            raise ValueError("separators holds an empty text, which would end every node at once. Drop it.")
        return self


@dataclass(frozen=True, slots=True)
class Leaf:
    """A whole reply.  `tokens` are without the one that ends it."""

    text: str
    tokens: tuple[int, ...]
    path: Path = ()
    ends: tuple[int, ...] = ()  # tokens of the reply up to the end of each node on its path


@dataclass(frozen=True, slots=True)
class Tree:
    """The leaves of one prompt's tree, in the order of their paths, and what it took to grow it."""

    leaves: tuple[Leaf, ...]
    tokens: int  # sampled, ends and what was drawn in vain included
    repeated: int = 0  # siblings that repeated another
    short: int = 0  # children that no try made different
    finished: int = 0  # replies ended greedily, beyond T
    incomplete: int = 0  # replies that did not end and were left out


def lca_depth(a: Leaf, b: Leaf) -> int:
    """Depth of the lowest common ancestor of two leaves of one tree; 0 is the root."""
    parted = (d for d, (x, y) in enumerate(zip(a.path, b.path, strict=False)) if x != y)
    return next(parted, min(len(a.path), len(b.path)))


def shared_prefix(a: Leaf, b: Leaf) -> int:
    """Tokens that two leaves of one tree have from common nodes: sampled once, and to be read once."""
    depth = lca_depth(a, b)
    return a.ends[depth - 1] if depth else 0


def grow(
    model: Any,
    chats: Sequence[Chat],
    shape: Shape,
    sampling: Sampling,
    rng: np.random.Generator,
    sampler: Sampler | None = None,
    only: Sequence[Path] | None = None,
) -> list[Tree]:
    """One tree for each chat from a language model; `sampling.max_tokens` is T.

    With `only`, a path for each tree, siblings of nodes on that path are drawn as ever, since what a node must differ
    from decides its law, but nothing grows from them: the tree has that leaf or none. Raises ConfigError for settings
    under which no tree can grow, and a prompt that leaves no room to reply.
    """
    _check(shape, sampling)
    prompts = prompts_tokens(model.tokenizer, chats)
    context = context_of(model.model)
    for t, ids in enumerate(prompts):
        if not 0 < len(ids) < context:
            raise ConfigError(
                f"the prompt of chat {t} has {len(ids)} tokens, but the model attends to {context}. "
                "Give one that leaves room to reply."
            )
    growth = _Growth(model, prompts, shape, sampling, rng, sampler or Auto())
    return growth.trees(only)


def leaves_of(rollout: Rollout, model: Any) -> list[Leaf | None]:
    """The replies of a rollout as leaves without a tree; None for one that did not end."""
    ends = end_tokens(model.model, model.tokenizer)
    found: list[Leaf | None] = []
    for tokens, sampled, ended in zip(rollout.tokens.cpu(), rollout.sampled.cpu(), rollout.ended.tolist(), strict=True):
        ids = tuple(tokens[sampled].tolist())
        ids = ids[:-1] if ids and ids[-1] in ends else ids
        found.append(Leaf(_text(model, ids), ids) if ended else None)
    return found


def _check(shape: Shape, sampling: Sampling) -> None:
    if sampling.temperature == 0:
        raise ConfigError("sampling.temperature is 0, at which all siblings are alike. Give one above 0.")
    if sampling.stop:
        raise ConfigError(
            f"sampling.stop is {list(sampling.stop)}, but replies of a tree end by themselves. "
            "Leave stop out; what a node ends with is in separators."
        )
    if sampling.max_tokens < shape.depth:
        raise ConfigError(
            f"sampling.max_tokens is {sampling.max_tokens}, too few for a tree of depth {shape.depth}. Give more."
        )


def _text(model: Any, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))


# --- growing ---


class _Node(NamedTuple):
    """A beginning of a reply."""

    tree: int
    path: Path = ()
    tokens: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    ended: bool = False


class _Part(NamedTuple):
    """What one node adds to its parent."""

    tokens: tuple[int, ...]
    ended: bool


@dataclass(slots=True)
class _Count:
    tokens: int = 0
    repeated: int = 0
    short: int = 0
    finished: int = 0
    incomplete: int = 0


@dataclass(slots=True)
class _Growth:
    model: Any
    prompts: list[list[int]]
    shape: Shape
    sampling: Sampling
    rng: np.random.Generator
    sampler: Sampler
    counts: list[_Count] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [_Count() for _ in self.prompts]

    def trees(self, only: Sequence[Path] | None) -> list[Tree]:
        frontier = [_Node(t) for t in range(len(self.prompts))]
        leaves: list[list[Leaf]] = [[] for _ in self.prompts]
        for depth in range(1, self.shape.depth + 1):
            nodes = self._children(frontier, last=depth == self.shape.depth)
            if only is not None:
                nodes = [node for node in nodes if node.path == only[node.tree][:depth]]
            if depth == self.shape.depth:
                nodes = self._finished(nodes)
            frontier = [node for node in nodes if not node.ended]
            for node in nodes:
                if node.ended:
                    leaves[node.tree].append(Leaf(_text(self.model, node.tokens), node.tokens, node.path, node.ends))
        for node in frontier:
            self.counts[node.tree].incomplete += 1
        return [
            Tree(
                tuple(sorted(own, key=lambda leaf: leaf.path)), c.tokens, c.repeated, c.short, c.finished, c.incomplete
            )
            for own, c in zip(leaves, self.counts, strict=True)
        ]

    def _children(self, parents: Sequence[_Node], last: bool) -> list[_Node]:
        """Up to B different children of each, in order."""
        found: list[dict[tuple[str, bool], _Part]] = [{} for _ in parents]
        for attempt in range(1 + self.shape.tries):
            rows = [p for p, kin in enumerate(found) for _ in range(self.shape.branching - len(kin))]
            if not rows:
                break
            temperature = self.sampling.temperature + attempt * self.shape.hotter
            parts = self._parts([parents[p] for p in rows], temperature, last)
            for p, part in zip(rows, parts, strict=True):
                # A reply that ends here and one that goes on are different siblings, though their texts are equal.
                key = (_text(self.model, part.tokens), part.ended)
                self.counts[parents[p].tree].repeated += key in found[p]
                found[p].setdefault(key, part)
        nodes = []
        for parent, kin in zip(parents, found, strict=True):
            self.counts[parent.tree].short += self.shape.branching - len(kin)
            nodes += [_grown(parent, k, part) for k, part in enumerate(kin.values())]
        return nodes

    def _parts(self, parents: Sequence[_Node], temperature: float, last: bool) -> list[_Part]:
        """What follows each parent: up to so many separators, or the reply's end."""
        longest = self.sampling.max_tokens
        each = self.shape.node_tokens or -(-longest // self.shape.depth)
        caps = [longest - len(node.tokens) if last else min(each, longest - len(node.tokens)) for node in parents]
        stop = () if last else self.shape.separators
        grown: list[tuple[int, ...]] = [()] * len(parents)
        ended = [False] * len(parents)
        going = list(range(len(parents)))
        for _ in range(1 if last else self.shape.per_node):
            going = [r for r in going if caps[r] > len(grown[r])]
            pieces = self._drawn(
                [(parents[r].tree, parents[r].tokens + grown[r]) for r in going],
                [caps[r] - len(grown[r]) for r in going],
                self.sampling.model_copy(update={"temperature": temperature, "stop": stop}),
            )
            for r, piece in zip(going, pieces, strict=True):
                grown[r], ended[r] = grown[r] + piece.tokens, piece.ended
            going = [r for r, piece in zip(going, pieces, strict=True) if not piece.ended]
        return [_Part(tokens, end) for tokens, end in zip(grown, ended, strict=True)]

    def _finished(self, nodes: Sequence[_Node]) -> list[_Node]:
        """The same nodes, those that have not ended gone on with greedily where there are tokens for it."""
        open_ends = [i for i, node in enumerate(nodes) if not node.ended]
        if not (open_ends and self.shape.finish_tokens):
            return list(nodes)
        pieces = self._drawn(
            [(nodes[i].tree, nodes[i].tokens) for i in open_ends],
            [self.shape.finish_tokens] * len(open_ends),
            self.sampling.model_copy(update={"temperature": 0.0, "stop": ()}),
        )
        found = list(nodes)
        for i, piece in zip(open_ends, pieces, strict=True):
            if piece.ended:
                whole = nodes[i].tokens + piece.tokens
                found[i] = nodes[i]._replace(tokens=whole, ends=(*nodes[i].ends[:-1], len(whole)), ended=True)
                self.counts[nodes[i].tree].finished += 1
        return found

    def _drawn(
        self, beginnings: Sequence[tuple[int, tuple[int, ...]]], caps: Sequence[int], sampling: Sampling
    ) -> list[_Part]:
        """One continuation of each (tree, beginning of a reply), of at most so many tokens."""
        context = context_of(self.model.model)
        whole = [(*self.prompts[tree], *tokens) for tree, tokens in beginnings]
        found = [_Part((), False)] * len(whole)
        rows = [r for r, ids in enumerate(whole) if len(ids) < context]
        if not rows:
            return found
        asked = _Continued(self.model, [whole[r] for r in rows])
        # One call for all: a row's tokens do not depend on how many it might have had, so what is too much is cut.
        most = sampling.model_copy(update={"max_tokens": max(caps[r] for r in rows)})
        rollout = self.sampler.sample(asked, asked.chats, most, self.rng)
        ends = end_tokens(self.model.model, self.model.tokenizer)
        for r, tokens, sampled in zip(rows, rollout.tokens.cpu(), rollout.sampled.cpu(), strict=True):
            ids = tuple(tokens[sampled].tolist())[: caps[r]]
            ended = bool(ids) and ids[-1] in ends
            self.counts[beginnings[r][0]].tokens += len(ids)
            found[r] = _Part(ids[:-1] if ended else ids, ended)
        return found


def _grown(parent: _Node, child: int, part: _Part) -> _Node:
    tokens = parent.tokens + part.tokens
    return _Node(parent.tree, (*parent.path, child), tokens, (*parent.ends, len(tokens)), part.ended)


# --- going on from tokens ---


class _Continued:
    """A model that is asked to go on from given tokens.

    Samplers are asked chats, and a chat cannot end within a reply. So each beginning is a chat that says its number,
    which the tokenizer here turns into the tokens it stands for: exactly those that were sampled, where a text would
    be tokenised anew and perhaps otherwise.
    """

    def __init__(self, model: Any, beginnings: Sequence[tuple[int, ...]]) -> None:
        numbers: dict[tuple[int, ...], int] = {}
        self.chats = [chat(str(numbers.setdefault(ids, len(numbers)))) for ids in beginnings]
        self.model, self.tokenizer = model.model, _Numbered(model.tokenizer, list(numbers))


class _Encoded(NamedTuple):
    input_ids: list[list[int]]


class _Numbered:
    """A tokenizer that knows beginnings by their number; otherwise the one it stands for."""

    chat_template = "a number"  # not one of ours: nothing is put before the tokens

    def __init__(self, tokenizer: Any, beginnings: Sequence[tuple[int, ...]]) -> None:
        self._tokenizer, self._beginnings = tokenizer, beginnings

    def apply_chat_template(self, chats: Sequence[Sequence[Any]], **_: Any) -> list[str]:
        return [str(turns[-1]["content"]) for turns in chats]

    def __call__(self, numbers: Sequence[str], **_: Any) -> _Encoded:
        return _Encoded([list(self._beginnings[int(number)]) for number in numbers])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
