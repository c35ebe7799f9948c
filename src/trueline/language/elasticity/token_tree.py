"""Token trees of sets of responses, and the codes that stand for a model's fit: the objects of arXiv 2406.06144.

A set of responses is a distribution over strings of symbols. Its token tree has a node for every beginning of a string;
a node's weight is the probability of responses that begin so, and a response ends in a leaf of its own. A model of
finite size is the tree pruned to its top d layers, whose leaves are then coded; so a set is fitted the better, the
fewer bits its leaves take. Lengths of codes are in bits.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from itertools import count

__all__ = [
    "END",
    "Leaf",
    "Leaves",
    "entropy",
    "huffman",
    "ideal_code_length",
    "joint",
    "mean_length",
    "node_weight",
    "normalised_rate",
    "pruned",
    "rate",
]

END = -1  # the symbol of a response's end; symbols of responses are 0, 1, …

Response = tuple[int, ...]
Leaf = tuple[int, ...]  # the first symbols of a response, its end among them
Leaves = Mapping[Leaf, float]  # probabilities


def pruned(responses: Mapping[Response, float], d: int) -> dict[Leaf, float]:
    """Leaves of the top d layers: the first d symbols of each response and its end.  Probabilities -> probabilities."""
    leaves: dict[Leaf, float] = {}
    for response, p in responses.items():
        leaf = (*response, END)[:d]
        leaves[leaf] = leaves.get(leaf, 0.0) + p
    return leaves


def node_weight(responses: Mapping[Response, float], node: Leaf) -> float:
    """Probability of the responses that begin with `node`, which is the sum over the node's children."""
    return sum(p for response, p in responses.items() if (*response, END)[: len(node)] == node)


def joint(parts: Sequence[Mapping[Leaf, float]], sizes: Sequence[float]) -> dict[Leaf, float]:
    """p^D = Σᵢ p^{Dᵢ}·|Dᵢ| / Σᵢ |Dᵢ|: the sets taken together."""
    total = sum(sizes)
    mixed: dict[Leaf, float] = {}
    for part, size in zip(parts, sizes, strict=True):
        for leaf, p in part.items():
            mixed[leaf] = mixed.get(leaf, 0.0) + p * size / total
    return mixed


def entropy(leaves: Leaves) -> float:
    """-Σ p·log₂ p in bits: no code of the leaves is shorter on average."""
    return -sum(p * math.log2(p) for p in leaves.values() if p > 0.0)


def huffman(leaves: Leaves) -> dict[Leaf, int]:
    """Bits of each leaf in a shortest code by whole bits (Huffman 1952); 0 where there is one leaf and nothing to tell.

    Leaves of equal weight are joined in their order, so that the same tree gives the same code.
    """
    number = count()
    heap: list[tuple[float, int, tuple[Leaf, ...]]]
    heap = [(p, next(number), (leaf,)) for leaf, p in sorted(leaves.items())]
    heapq.heapify(heap)
    bits = dict.fromkeys(leaves, 0)
    while len(heap) > 1:
        (p, _, some), (q, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        for leaf in some + others:
            bits[leaf] += 1
        heapq.heappush(heap, (p + q, next(number), some + others))
    return bits


def mean_length(leaves: Leaves, bits: Mapping[Leaf, float]) -> float:
    """Σ p·(length of the leaf's code), bits."""
    return sum(p * bits[leaf] for leaf, p in leaves.items())


def ideal_code_length(length: int, d: int, leaves: Leaves) -> int:
    """E[L(x)] = ⌈|x|/d⌉·⌈-Σ p·log p⌉ of the paper: bits of `length` symbols that are coded d at a time."""
    # An entropy that is a whole number on paper may come out a rounding above it.
    return math.ceil(length / d) * math.ceil(entropy(leaves) - 1e-9)


def rate(own: Leaves, mixed: Leaves) -> float:
    """γ^{Dᵢ/D} before it is normalised: bits of a leaf of Dᵢ in the ideal code of D, -Σ p^{Dᵢ}·log₂ p^D.

    It is the entropy of Dᵢ plus its divergence from D; infinite where D lacks a leaf of Dᵢ.
    """
    if any(p > 0.0 and not mixed.get(leaf, 0.0) > 0.0 for leaf, p in own.items()):
        return math.inf
    return -sum(p * math.log2(mixed[leaf]) for leaf, p in own.items() if p > 0.0)


def normalised_rate(own: Leaves, mixed: Leaves) -> float:
    """γ^{Dᵢ/D} = γ - log M in bits, M the leaves of Dᵢ: below 0 the code of D beats one that knows nothing."""
    return rate(own, mixed) - math.log2(sum(p > 0.0 for p in own.values()))
