"""Pairs of replies to be compared, by topology: from one tree, from trees of their own, or sampled apart.

    tree                both replies are leaves of one tree, whose lowest common ancestor is of every depth alike
    independent-trees   the same pairs, but every leaf is replaced by the leaf at its place in a tree of its own: same
                        prompts, pairs and replies to each, and the same distribution of every single reply
    chain               both replies sampled apart; so many pairs to each prompt, or so many sampled tokens

Against a tree, the second shows what sharing beginnings does, since siblings that have to differ do not have the
distribution of replies sampled apart; the third what the tree does for a given number of labels, or of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trueline.core.config import Config
from trueline.language.rollout import Chat, Sampler, Sampling
from trueline.language.sampler import Auto
from trueline.language.topology.trees import Leaf, Path, Shape, Tree, grow, lca_depth, leaves_of

__all__ = ["Chain", "Drawn", "IndependentTrees", "Pair", "Topologies", "TreePairs", "leaf_pairs"]

_PAIRS = 8  # of a prompt, by default
_REDRAWS = 16  # of a reply that did not end, is empty or equals the other; a policy that still fails has nothing to say


class Pair(NamedTuple):
    """Two different replies to one prompt."""

    prompt: int
    first: Leaf
    second: Leaf
    one_tree: bool  # whether both are leaves of the prompt's tree
    tokens: int = 0  # sampled for this pair alone


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pairs, prompt by prompt, and what sampling them took."""

    pairs: tuple[Pair, ...]
    tokens: NDArray[np.int64]  # [prompts] sampled, in vain or not
    counts: Mapping[str, int]  # what was drawn again, or left out, by reason


class TreePairs(Shape):
    """Pairs of leaves of one tree for each prompt."""

    kind: Literal["tree"] = "tree"
    pairs: int = Field(_PAIRS, ge=1)  # of each prompt, or as many as its leaves make

    def draw(
        self,
        model: Any,
        chats: Sequence[Chat],
        sampling: Sampling,
        rng: np.random.Generator,
        sampler: Sampler | None = None,
    ) -> Drawn:
        """Pairs for each chat.  Raises ConfigError as `grow`."""
        trees = grow(model, chats, self, sampling, rng, sampler)
        pairs = tuple(
            Pair(t, tree.leaves[i], tree.leaves[j], one_tree=True)
            for t, tree in enumerate(trees)
            for i, j in leaf_pairs(tree.leaves, self.pairs, rng)
        )
        return Drawn(pairs, np.array([tree.tokens for tree in trees]), _counts(trees))


class IndependentTrees(Shape):
    """What `TreePairs` gives with every leaf from a tree of its own."""

    kind: Literal["independent-trees"] = "independent-trees"
    pairs: int = Field(_PAIRS, ge=1)  # of each prompt, or as many as a tree's leaves make

    def draw(
        self,
        model: Any,
        chats: Sequence[Chat],
        sampling: Sampling,
        rng: np.random.Generator,
        sampler: Sampler | None = None,
    ) -> Drawn:
        """Pairs for each chat; one whose replies came out equal, or could not be had, is left out and counted."""
        trees = grow(model, chats, self, sampling, rng, sampler)
        tokens = np.array([tree.tokens for tree in trees])
        counts = Counter(_counts(trees))
        places: list[tuple[int, Path, Path]] = [
            (t, tree.leaves[i].path, tree.leaves[j].path)
            for t, tree in enumerate(trees)
            for i, j in leaf_pairs(tree.leaves, self.pairs, rng)
        ]
        missing = list(dict.fromkeys((t, path) for t, *paths in places for path in paths))
        found: dict[tuple[int, Path], Leaf] = {}
        for _ in range(_REDRAWS):
            if not missing:
                break
            own = grow(model, [chats[t] for t, _ in missing], self, sampling, rng, sampler, [p for _, p in missing])
            for (t, path), tree in zip(missing, own, strict=True):
                tokens[t] += tree.tokens
                for leaf in tree.leaves:
                    if leaf.path == path:
                        found[t, path] = leaf
            missing = [place for place in missing if place not in found]
        pairs = []
        for t, one, other in places:
            a, b = found.get((t, one)), found.get((t, other))
            if a is None or b is None:
                counts["unreached"] += 1
            elif not _comparable(a, b):
                counts["equal"] += 1
            else:
                pairs.append(Pair(t, a, b, one_tree=False))
        return Drawn(tuple(pairs), tokens, dict(counts))


class Chain(Config):
    """Pairs of replies sampled apart."""

    kind: Literal["chain"] = "chain"
    pairs: int | None = Field(None, ge=1)  # of each prompt; none: 8, where no tokens are given
    tokens: int | None = Field(None, ge=1)  # or: sampled tokens, on average over prompts; every prompt in turn

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.pairs is not None and self.tokens is not None:
            raise ValueError(
                "pairs and tokens are both given, and each says how many pairs there are. Give one of them."
            )
        return self

    def draw(
        self,
        model: Any,
        chats: Sequence[Chat],
        sampling: Sampling,
        rng: np.random.Generator,
        sampler: Sampler | None = None,
    ) -> Drawn:
        """Pairs for each chat; with `tokens`, as many as they pay for, one to each prompt before any has two."""
        tokens, counts = np.zeros(len(chats), dtype=np.int64), Counter[str]()
        pairs: list[Pair] = []
        if self.tokens is None:
            asked = [t for t in range(len(chats)) for _ in range(self.pairs or _PAIRS)]
            pairs = _apart(model, chats, asked, sampling, rng, sampler, tokens, counts)
        else:
            budget = self.tokens * len(chats)
            while True:
                taken = _apart(model, chats, range(len(chats)), sampling, rng, sampler, tokens, counts)
                spent = np.cumsum([pair.tokens for pair in taken])
                paid = int((spent <= budget).sum())
                pairs += taken[:paid]
                budget -= int(spent[paid - 1]) if paid else 0
                if paid < len(taken) or not taken:
                    break
            # What the last round drew beyond the budget is not part of the data, so it is not part of their price.
            tokens = np.zeros_like(tokens)
            for pair in pairs:
                tokens[pair.prompt] += pair.tokens
        return Drawn(tuple(sorted(pairs, key=lambda pair: pair.prompt)), tokens, dict(counts))


Topologies = TreePairs | IndependentTrees | Chain  # told apart by `kind`


def leaf_pairs(leaves: Sequence[Leaf], n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Up to `n` different pairs of leaves, the depths of their lowest common ancestors in turn.

    Within a depth every pair is equally likely; a depth whose pairs are used up is passed over. Leaves of equal text,
    and empty ones, are in no pair.
    """
    by_depth: dict[int, list[tuple[int, int]]] = {}
    for i, a in enumerate(leaves):
        for j in range(i + 1, len(leaves)):
            if _comparable(a, leaves[j]):
                by_depth.setdefault(lca_depth(a, leaves[j]), []).append((i, j))
    depths = rng.permutation(sorted(by_depth)).tolist()
    orders = {d: [by_depth[d][k] for k in rng.permutation(len(by_depth[d])).tolist()] for d in sorted(by_depth)}
    found: list[tuple[int, int]] = []
    for turn in range(max(map(len, orders.values()), default=0)):
        found += [orders[d][turn] for d in depths if turn < len(orders[d])]
    # Which comes first must not tell which was sampled first.
    return [(j, i) if flip else (i, j) for (i, j), flip in zip(found[:n], rng.random(n) < 0.5, strict=False)]


def _comparable(a: Leaf, b: Leaf) -> bool:
    return a.text != b.text and bool(a.text.strip()) and bool(b.text.strip())


def _counts(trees: Sequence[Tree]) -> dict[str, int]:
    names = ("repeated", "short", "finished", "incomplete")
    return {name: sum(getattr(tree, name) for tree in trees) for name in names}


def _apart(
    model: Any,
    chats: Sequence[Chat],
    asked: Sequence[int],
    sampling: Sampling,
    rng: np.random.Generator,
    sampler: Sampler | None,
    tokens: NDArray[np.int64],
    counts: Counter[str],
) -> list[Pair]:
    """A pair of fresh replies for each prompt in `asked`; adds what was sampled to `tokens` [prompts]."""
    found: list[Pair | None] = [None] * len(asked)
    price = np.zeros(len(asked), dtype=np.int64)
    missing = list(range(len(asked)))
    for _ in range(_REDRAWS):
        if not missing:
            break
        rows = [asked[k] for k in missing for _ in range(2)]
        rollout = (sampler or Auto()).sample(model, [chats[t] for t in rows], sampling, rng)
        leaves, drawn = leaves_of(rollout, model), rollout.sampled.sum(dim=1).tolist()
        np.add.at(tokens, rows, drawn)
        for at, k in enumerate(missing):
            one, other = leaves[2 * at], leaves[2 * at + 1]
            price[k] += drawn[2 * at] + drawn[2 * at + 1]
            if one is None or other is None:
                counts["incomplete"] += (one is None) + (other is None)
            elif not _comparable(one, other):
                counts["equal"] += 1
            else:
                found[k] = Pair(asked[k], one, other, one_tree=False, tokens=int(price[k]))
        missing = [k for k in missing if found[k] is None]
    counts["unreached"] += len(missing)
    return [pair for pair in found if pair is not None]
