"""Trees of replies: their law on a model whose law is known, what they share, and what is left out and counted."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare
from small_models import gpt2, nano

from trueline.core.errors import ConfigError
from trueline.language.records import TreePreference
from trueline.language.rollout import Rollout, Sampling, chat, text_of
from trueline.language.sampler import Generate
from trueline.language.templates import prompts_tokens
from trueline.language.topology.pairs import Chain, IndependentTrees, TreePairs, leaf_pairs
from trueline.language.topology.trees import Leaf, Shape, grow, lca_depth, shared_prefix

torch.set_num_threads(1)
RARE = 1e-4
EOS, A, DOT = 2, 7, 16  # ids of end, "a" and "." in the models' vocabulary
CHATS = [chat("ab"), chat("cdef"), chat("h")]


class Known:
    """A sampler with a law that can be written down: each token is one of `law`, whatever came before.

    Temperature sharpens or flattens it as it would a model's: p ∝ p^(1/τ).
    """

    def __init__(self, **law: float) -> None:
        names = {"end": EOS, "stop": DOT, **{letter: A + k for k, letter in enumerate("abcdefgh")}}
        self.ids = np.array([names[name] for name in law])
        self.p = np.array(list(law.values()))
        self.asked: list[list[list[int]]] = []
        self.temperatures: list[float] = []

    def sample(self, model, chats, sampling, rng) -> Rollout:
        prompts = prompts_tokens(model.tokenizer, chats)
        self.asked.append(prompts)
        self.temperatures.append(sampling.temperature)
        if sampling.temperature == 0:
            p = (self.p == self.p.max()).astype(float)
        else:
            p = self.p ** (1 / sampling.temperature)
        rows, ended = [], []
        for ids in prompts:
            reply, over = [], False
            while len(reply) < sampling.max_tokens and not over:
                reply.append(int(rng.choice(self.ids, p=p / p.sum())))
                stops = sampling.stop and model.tokenizer.decode(reply[-1:]) in sampling.stop
                over = reply[-1] == EOS or bool(stops)
            rows.append((len(ids), [*ids, *reply]))
            ended.append(over)
        width = max(len(ids) for _, ids in rows)
        tokens = torch.tensor([[*ids, *[0] * (width - len(ids))] for _, ids in rows])
        column = torch.arange(width)
        attended = column < torch.tensor([len(ids) for _, ids in rows])[:, None]
        sampled = attended & (column >= torch.tensor([at for at, _ in rows])[:, None])
        zero, texts = torch.zeros(tokens.shape), tuple(map(text_of, chats))
        group = torch.zeros(len(rows), dtype=torch.int64)
        return Rollout(tokens, attended, sampled, zero, group, torch.tensor(ended), texts)


@pytest.fixture(scope="module")
def model():
    return nano()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def shape(**settings):
    return Shape(**{"separators": (".",), **settings})


def grown(model, rng, sampler, settings, trees=1, max_tokens=12, temperature=1.0):
    return grow(
        model, [CHATS[0]] * trees, settings, Sampling(max_tokens=max_tokens, temperature=temperature), rng, sampler
    )


# --- real models ---


@pytest.mark.parametrize("make", [nano, gpt2])
def test_leaves_that_share_nodes_share_their_tokens_and_no_siblings_are_alike(make, rng):
    model, settings = make(), shape(depth=3, branching=2)
    trees = grow(model, CHATS, settings, Sampling(max_tokens=24), rng)
    assert sum(len(tree.leaves) for tree in trees) > 6
    for tree in trees:
        for leaf in tree.leaves:
            assert leaf.text == model.tokenizer.decode(list(leaf.tokens), skip_special_tokens=True)
            assert leaf.ends[-1] == len(leaf.tokens) <= 24
            assert len(leaf.ends) == len(leaf.path) <= 3
            assert EOS not in leaf.tokens
            for begin, end in zip((0, *leaf.ends), leaf.ends[: 2 if len(leaf.path) == 3 else -1], strict=False):
                assert leaf.tokens[end - 1] == DOT or end - begin == 8  # a separator, or ⌈T/D⌉ tokens
        assert len({leaf.path for leaf in tree.leaves}) == len(tree.leaves)
        for a, b in combinations(tree.leaves, 2):
            shared = shared_prefix(a, b)
            assert a.tokens[:shared] == b.tokens[:shared]
            depth = lca_depth(a, b)
            assert a.path[:depth] == b.path[:depth]
            assert a.path[depth] != b.path[depth]
            assert a.ends[:depth] == b.ends[:depth]


def test_both_samplers_grow_the_same_trees(model):
    own, theirs = (
        grow(model, CHATS, shape(), Sampling(max_tokens=18), np.random.default_rng(4), sampler)
        for sampler in (None, Generate())
    )
    assert own == theirs
    assert any(tree.leaves for tree in own)


def test_a_node_goes_on_from_exactly_the_tokens_before_it(model, rng):
    sampler = Known(a=0.4, b=0.3, stop=0.3)
    trees = grown(model, rng, sampler, shape(depth=2, finish_tokens=1), max_tokens=6)
    prompt = prompts_tokens(model.tokenizer, [CHATS[0]])[0]
    assert all(ids == prompt for ids in sampler.asked[0])
    second = next(asked for asked in sampler.asked[1:] if len(asked[0]) > len(prompt))
    assert all(ids[: len(prompt)] == prompt and (ids[-1] == DOT or len(ids) == len(prompt) + 3) for ids in second)
    assert not trees[0].leaves  # no reply ever ends here


# --- a known law ---


def test_siblings_are_drawn_without_repeating_one_another(model, rng):
    # A node is "a." or "b." with 0.8 and 0.2; with two different children every node has both.
    trees = grown(model, rng, Scripted(0.8), shape(depth=2, tries=50, hotter=0.5), trees=40)
    for tree in trees:
        assert sorted(leaf.text for leaf in tree.leaves) == ["a.a", "a.b", "b.a", "b.b"]
        assert [leaf.path for leaf in tree.leaves] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert tree.short == 0
    # The first child is one of the first draw alone; the second is whatever differs, so it is "b." in 0.8 of the trees.
    first = sum(tree.leaves[0].text.startswith("a.") for tree in trees)
    assert binomtest(first, 40, 0.8).pvalue > RARE
    assert sum(tree.repeated for tree in trees) > 0


class Scripted:
    """A node is one letter and a full stop: "a" with probability p (at its temperature), else "b"; then the end."""

    def __init__(self, p: float) -> None:
        self.p, self.temperatures = p, []

    def sample(self, model, chats, sampling, rng) -> Rollout:
        self.temperatures.append(sampling.temperature)
        prompts = prompts_tokens(model.tokenizer, chats)
        odds = (self.p / (1 - self.p)) ** (1 / sampling.temperature)
        tail = DOT if sampling.stop else EOS
        whole = [[*ids, A if rng.random() < odds / (1 + odds) else A + 1, tail] for ids in prompts]
        width = max(map(len, whole))
        tokens = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in whole])
        column = torch.arange(width)
        start = torch.tensor([len(ids) for ids in prompts])[:, None]
        attended, sampled = column < start + 2, (column >= start) & (column < start + 2)
        zero = torch.zeros(tokens.shape)
        texts = tuple(map(text_of, chats))
        group = torch.zeros(len(prompts), dtype=torch.int64)
        return Rollout(tokens, attended, sampled, zero, group, attended.any(1), texts)


def test_every_new_try_is_hotter_and_what_stays_alike_is_missing(model, rng):
    sampler = Scripted(1 - 1e-15)
    tree = grown(model, rng, sampler, shape(depth=1, branching=3, tries=2, hotter=0.25), temperature=0.5)[0]
    assert sampler.temperatures == [0.5, 0.75, 1.0]
    assert [leaf.text for leaf in tree.leaves] == ["a"]
    # Two of the first three draws, and two of two in each of the two tries, repeated the first.
    assert (tree.repeated, tree.short) == (2 + 2 + 2, 2)
    assert tree.tokens == 2 * (3 + 2 + 2)


def test_a_node_has_as_many_separators_as_it_is_given(model, rng):
    tree = grown(model, rng, Scripted(0.5), shape(depth=2, per_node=3, tries=20), max_tokens=20)[0]
    for leaf in tree.leaves:
        assert leaf.ends == (6, 7)
        assert leaf.text[1:6:2] == "..."


@pytest.mark.parametrize(("node_tokens", "length"), [(None, 6), (2, 2)])
def test_where_no_separator_comes_a_node_ends_by_its_tokens(model, rng, node_tokens, length):
    sampler = Known(a=0.5, stop=0.25, end=0.25)
    trees = grown(model, rng, sampler, shape(depth=2, node_tokens=node_tokens, separators=("x",)), trees=60)
    inner = [leaf.ends[0] for tree in trees for leaf in tree.leaves if len(leaf.path) == 2]
    assert set(inner) == {length}  # ⌈12/2⌉, or as many as a node may have; full stops end nothing here


def test_replies_end_where_they_end_and_unended_ones_are_left_out(model, rng):
    # After each letter or full stop the reply ends with ½, so half of the first nodes are leaves by themselves.
    trees = grown(model, rng, Known(a=0.25, stop=0.25, end=0.5), shape(depth=2, tries=0), trees=400, max_tokens=4)
    alone = sum(len(leaf.path) == 1 for tree in trees for leaf in tree.leaves)
    assert alone > 200
    assert sum(tree.incomplete for tree in trees) > 0
    open_ended = grown(model, rng, Known(a=0.5, b=0.5), shape(depth=1, tries=0), trees=50, max_tokens=3)
    assert all(not tree.leaves and tree.incomplete == 2 - tree.short for tree in open_ended)
    finished = grown(model, rng, Known(a=0.3, b=0.3, end=0.4), shape(depth=1, tries=0, finish_tokens=1), 200, 2)
    longer = [leaf for tree in finished for leaf in tree.leaves if len(leaf.tokens) == 2]
    assert len(longer) == sum(tree.finished for tree in finished) > 0  # greedily, "end" comes next for sure
    assert not any(tree.incomplete for tree in finished)


def test_tokens_are_counted_once_for_all_that_share_them(model, rng):
    tree = grown(model, rng, Scripted(0.5), shape(depth=3, tries=30))[0]
    drawn_again = tree.repeated * 2
    assert tree.tokens - drawn_again == 2 * (2 + 4 + 8)  # nodes of two tokens: B + B² + B³
    assert sum(len(leaf.tokens) + 1 for leaf in tree.leaves) == 6 * 8  # what as many replies sampled apart would take


def test_settings_that_grow_nothing_are_refused(model, rng):
    for settings, message in (
        (Sampling(temperature=0.0), "all siblings are alike"),
        (Sampling(stop=("x",)), "Leave stop out"),
        (Sampling(max_tokens=2), "too few for a tree of depth 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            grow(model, CHATS, shape(), settings, rng)
    with pytest.raises(ConfigError, match="leaves room to reply"):
        grow(model, [chat("a" * 200)], shape(), Sampling(max_tokens=6), rng)
    with pytest.raises(ValueError, match="empty text"):
        Shape(separators=("",))


# --- pairs ---


def leaf(*path, text=None):
    return Leaf(text or "".join(map(str, path)), tuple(path), path, tuple(range(1, 1 + len(path))))


FULL = [leaf(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def test_pairs_differ_and_take_the_depths_of_their_ancestors_in_turn(rng):
    depths = [lca_depth(FULL[i], FULL[j]) for i, j in leaf_pairs(FULL, 6, rng)]
    assert Counter(depths) == {0: 2, 1: 2, 2: 2}
    every = leaf_pairs(FULL, 1000, rng)
    assert len(every) == 28 == len({frozenset(pair) for pair in every})
    # 16, 8 and 4 pairs there are of each depth.
    assert Counter(lca_depth(FULL[i], FULL[j]) for i, j in every) == {0: 16, 1: 8, 2: 4}


def test_within_a_depth_every_pair_and_order_is_equally_likely(rng):
    drawn = Counter(
        pair for _ in range(1500) for pair in leaf_pairs(FULL, 3, rng) if lca_depth(*(FULL[i] for i in pair)) == 2
    )
    assert len(drawn) == 8
    assert chisquare(list(drawn.values())).pvalue > RARE


def test_lca_depth_is_that_of_the_record():
    for a, b in combinations([*FULL, leaf(0, 0), leaf(1)], 2):
        record = TreePreference("x", a.text, b.text, "t", a.path, b.path)
        assert record.lca_depth == lca_depth(a, b)


def test_leaves_of_equal_text_are_not_compared(rng):
    twins = [leaf(0, 0, text="same"), leaf(0, 1, text="same"), leaf(1, 0, text=" "), leaf(1, 1, text="other")]
    assert {frozenset(pair) for pair in leaf_pairs(twins, 9, rng)} == {frozenset((0, 3)), frozenset((1, 3))}


def test_a_chain_spends_its_budget_one_pair_to_each_prompt_at_a_time(model):
    sampling, sampler = Sampling(max_tokens=4), Scripted(0.5)
    each = Chain(pairs=3).draw(model, CHATS, sampling, np.random.default_rng(0), sampler)
    assert Counter(pair.prompt for pair in each.pairs) == {0: 3, 1: 3, 2: 3}
    assert all(pair.first.text != pair.second.text and not pair.one_tree for pair in each.pairs)
    assert int(each.tokens.sum()) == sum(pair.tokens for pair in each.pairs) == 4 * (9 + each.counts["equal"])
    paid = Chain(tokens=15).draw(model, CHATS, sampling, np.random.default_rng(0), sampler)
    assert 45 - 20 < int(paid.tokens.sum()) <= 45
    had = Counter(pair.prompt for pair in paid.pairs)
    assert max(had.values()) - min(had[t] for t in range(3)) <= 1
    nothing = Chain(tokens=1).draw(model, CHATS, sampling, np.random.default_rng(0), sampler)
    assert (nothing.pairs, nothing.tokens.tolist()) == ((), [0, 0, 0])
    assert len(Chain().draw(model, CHATS[:1], sampling, np.random.default_rng(0), sampler).pairs) == 8
    with pytest.raises(ValueError, match="Give one of them"):
        Chain(pairs=2, tokens=5)


def test_leaves_of_their_own_trees_have_the_same_law_and_are_independent(model):
    sampling, n = Sampling(max_tokens=6), 300
    settings = {"depth": 2, "tries": 30, "pairs": 6, "separators": (".",)}
    chats = [CHATS[0]] * n
    drawn = {
        kind: kind(**settings).draw(model, chats, sampling, np.random.default_rng(k), Scripted(0.75))
        for k, kind in enumerate((TreePairs, IndependentTrees))
    }

    def leaves(kind):
        """Text by prompt and path."""
        return {(p.prompt, one.path): one.text for p in drawn[kind].pairs for one in p[1:3]}

    one, own = leaves(TreePairs), leaves(IndependentTrees)
    # The leaf at (1, 1) is "b.b" when both of its nodes' elder siblings were "a": 0.75² of the trees, in both.
    for found in (one, own):
        texts = [text for (_, path), text in found.items() if path == (1, 1)]
        assert binomtest(texts.count("b.b"), len(texts), 0.75**2).pvalue > RARE

    # In one tree the leaves at (0, 0) and (0, 1) have the same first node; in trees of their own with 0.75² + 0.25².
    def same_first(found):
        both = [(found[t, (0, 0)], found[t, (0, 1)]) for t in range(n) if {(t, (0, 0)), (t, (0, 1))} <= found.keys()]
        return sum(a[:2] == b[:2] for a, b in both), len(both)

    hits, pairs = same_first(one)
    assert hits == pairs > 100
    hits, pairs = same_first(own)
    assert binomtest(hits, pairs, 0.625).pvalue > RARE
    assert drawn[IndependentTrees].tokens.sum() > drawn[TreePairs].tokens.sum()
    assert not any(pair.one_tree for pair in drawn[IndependentTrees].pairs)
    assert all(pair.one_tree for pair in drawn[TreePairs].pairs)


def test_a_spine_has_its_leaf_or_none(model):
    paths = [(0, 0), (1, 1), (0, 2)]
    trees = grow(
        model, CHATS, shape(depth=2, tries=30), Sampling(max_tokens=6), np.random.default_rng(0), Scripted(0.5), paths
    )
    assert [[one.path for one in tree.leaves] for tree in trees] == [[(0, 0)], [(1, 1)], []]
