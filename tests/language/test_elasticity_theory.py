"""The exact objects of elasticity: token trees and their codes, and the theorem by weights and by trees."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from trueline.core.errors import ConfigError
from trueline.language.elasticity.theorem import (
    Pareto,
    kappa,
    mass_rates,
    mass_slopes,
    tree_rates,
    tree_slopes,
)
from trueline.language.elasticity.token_tree import (
    END,
    entropy,
    huffman,
    ideal_code_length,
    joint,
    mean_length,
    node_weight,
    normalised_rate,
    pruned,
    rate,
)

STRINGS = [x for n in range(4) for x in itertools.product((0, 1), repeat=n)]  # 15 binary strings of up to 3 symbols
weights = st.lists(st.floats(0.01, 1.0), min_size=len(STRINGS), max_size=len(STRINGS))


def responses(w):
    return {x: p / sum(w) for x, p in zip(STRINGS, w, strict=True)}


# --- trees ---


@given(weights)
def test_a_node_weighs_what_its_children_weigh(w):
    p = responses(w)
    assert node_weight(p, ()) == pytest.approx(1.0)
    for node in STRINGS[:7]:
        children = sum(node_weight(p, (*node, symbol)) for symbol in (0, 1, END))
        assert node_weight(p, node) == pytest.approx(children)


@given(weights, st.integers(1, 4))
def test_leaves_of_the_pruned_tree_are_its_nodes_there(w, d):
    p = responses(w)
    leaves = pruned(p, d)
    assert all(leaves[leaf] == pytest.approx(node_weight(p, leaf)) for leaf in leaves)
    assert all(len(leaf) == d or leaf[-1] == END for leaf in leaves)
    assert sum(leaves.values()) == pytest.approx(1.0)


@given(weights, st.integers(1, 3))
def test_a_deeper_tree_has_more_to_tell_by_what_its_new_branches_tell(w, d):
    """Chain rule: H(d + 1) = H(d) + Σ over leaves that go on of p·H(their children) ≥ H(d)."""
    p = responses(w)
    shallow, deep = pruned(p, d), pruned(p, d + 1)
    more = 0.0
    for leaf, weight in shallow.items():
        if leaf[-1] != END:
            branches = [node_weight(p, (*leaf, symbol)) / weight for symbol in (0, 1, END)]
            more -= weight * sum(q * math.log2(q) for q in branches if q > 0)
    assert entropy(deep) == pytest.approx(entropy(shallow) + more)
    assert entropy(deep) >= entropy(shallow)


def test_all_of_a_tree_is_its_entropy_once_it_is_deep_enough():
    p = {(0, 1): 0.5, (1,): 0.25, (): 0.25}
    assert entropy(pruned(p, 3)) == entropy(pruned(p, 9)) == 1.5
    # With one layer: the end, 0 or 1.
    assert pruned(p, 1) == {(0,): 0.5, (1,): 0.25, (END,): 0.25}


def test_code_length_of_dyadic_leaves_is_their_entropy():
    leaves = {(0, 0): 0.5, (0, 1): 0.25, (1, 0): 0.125, (1, 1): 0.125}
    bits = huffman(leaves)
    assert bits == {(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 3}
    assert mean_length(leaves, bits) == entropy(leaves) == 1.75


@given(weights, st.integers(1, 4))
def test_a_shortest_code_lies_within_a_bit_of_the_entropy(w, d):
    leaves = pruned(responses(w), d)
    bits = huffman(leaves)
    assert sum(2.0**-n for n in bits.values()) == pytest.approx(1.0)  # Kraft: no word is wasted
    assert entropy(leaves) - 1e-12 <= mean_length(leaves, bits) < entropy(leaves) + 1.0


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5))
def test_no_code_by_whole_bits_is_shorter(w):
    p = [x / sum(w) for x in w]
    best = min(
        sum(q * n for q, n in zip(p, lengths, strict=True))
        for lengths in itertools.product(range(1, 6), repeat=len(p))
        if sum(2.0**-n for n in lengths) <= 1.0
    )
    leaves = {(k,): q for k, q in enumerate(p)}
    assert mean_length(leaves, huffman(leaves)) == pytest.approx(best)


def test_one_leaf_needs_no_bits():
    assert huffman({(0,): 1.0}) == {(0,): 0}


@pytest.mark.parametrize(("length", "blocks"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_longer_responses_are_coded_in_blocks(length, blocks):
    uniform = dict.fromkeys(itertools.product((0, 1), repeat=3), 0.125)
    assert ideal_code_length(length, 3, uniform) == 3 * blocks
    assert ideal_code_length(length, 3, {(0,): 0.9, (1,): 0.1}) == blocks  # 0.47 bits are a whole one


@given(weights, weights, st.integers(1, 4), st.floats(0.1, 9.0))
def test_the_tree_of_a_union_is_the_union_of_the_trees(w, v, d, size):
    together = joint((responses(w), responses(v)), (1.0, size))
    by_leaf = joint((pruned(responses(w), d), pruned(responses(v), d)), (1.0, size))
    assert pruned(together, d) == pytest.approx(by_leaf)


@given(weights, weights, st.integers(1, 4))
def test_its_own_code_is_the_shortest_for_a_set(w, v, d):
    own, other = pruned(responses(w), d), pruned(responses(v), d)
    assert rate(own, own) == pytest.approx(entropy(own))
    assert rate(own, other) >= entropy(own) - 1e-12
    assert normalised_rate(own, own) <= 1e-12


def test_a_uniform_set_gains_nothing_over_a_uniform_code():
    uniform = {(k,): 0.25 for k in range(4)}
    assert normalised_rate(uniform, uniform) == 0.0
    assert normalised_rate(uniform, {(k,): 0.125 for k in range(8)}) == 1.0
    assert rate(uniform, {(0,): 1.0}) == math.inf


# --- the theorem by weights ---


class Exponential:
    """P(X > x) = exp(-x): E[X^n·exp(-sX)] = n!/(1 + s)^(n + 1)."""

    def tilted(self, power, s):
        return math.factorial(power) / (1.0 + s) ** (power + 1)


class Constant:
    """X = 1."""

    def tilted(self, power, s):
        return math.exp(-s)


@given(st.floats(1.1, 8.0), st.floats(1e-3, 30.0), st.sampled_from([0, 1, 2]))
@settings(max_examples=40)
def test_tilted_moments_of_pareto_weights(alpha, s, power):
    c = (alpha - 1.0) / alpha
    # By x = c·t: no infinite end once the tail is below exp(-60).
    upper = max(2.0, 60.0 / (s * c))
    expected, _ = quad(
        lambda t: math.exp(-s * c * math.exp(t)) * alpha * c**power * math.exp(t * (power - alpha)),
        0.0,
        math.log(upper),
        limit=300,
        epsabs=1e-14,
    )
    assert Pareto(alpha).tilted(power, s) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("alpha", "expected"), [(2.5, 0.08747636613), (3.0, 0.05645152792), (5.0, 0.01733740751)])
def test_kappa_of_pareto_weights(alpha, expected):
    """Against the same integral in arithmetic of 15 digits and more, with exponential integrals of another library."""
    assert kappa(Pareto(alpha)) == pytest.approx(expected, abs=1e-9)


def test_kappa_agrees_with_sampling():
    rng = np.random.default_rng(0)
    x = (0.8) * rng.random((3, 400_000)) ** (-1 / 5.0)  # Pareto of exponent 5 and mean 1
    ratio = x[1] * x[2] / x.sum(axis=0)
    control = x.sum(axis=0) / 9 - 1 / 3  # mean 0, and the ratio's first order
    assert kappa(Pareto(5.0)) == pytest.approx(1 - 3 * (ratio - control).mean(), abs=2e-3)


def test_kappa_of_exponential_weights_is_a_quarter():
    # Shares of a sum of exponentials are Dirichlet(1, 1, 1) and independent of it: E[S]·E[D₂D₃] = 3/12.
    assert kappa(Exponential()) == pytest.approx(0.25)


def test_kappa_of_constant_weights_is_nothing():
    assert kappa(Constant()) == pytest.approx(0.0, abs=1e-10)


def test_weights_need_a_mean():
    with pytest.raises(ConfigError, match="above 1"):
        Pareto(1.0)


@pytest.mark.parametrize("mass", [Pareto(2.5), Exponential()])
@pytest.mark.parametrize(("k", "l"), [(10.0, 0.5), (3.0, 0.2)])
def test_slopes_are_the_derivatives_of_the_rates(mass, k, l):  # noqa: E741
    h = 0.02
    up, down, found = mass_rates(mass, k, l + h), mass_rates(mass, k, l - h), mass_slopes(mass, k, l)
    for more, less, slope in zip(up, down, found, strict=True):
        assert slope == pytest.approx((more - less) / (2 * h), rel=5e-3, abs=1e-6)


@given(st.floats(1.5, 8.0), st.floats(0.5, 1e4), st.floats(0.0, 1.0))
@settings(max_examples=15, deadline=None)
def test_lengths_times_sizes_balance_for_any_weights(alpha, k, l):  # noqa: E741
    found = mass_slopes(Pareto(alpha), k, l)
    scale = abs(found.a) + 1e-12
    assert k * found.p + found.a + l * found.t == pytest.approx(0.0, abs=1e-5 * scale + 1e-9)


@pytest.mark.parametrize("k", [10.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("alpha", [2.5, 3.0, 5.0])
def test_alignment_loses_k_times_what_pre_training_gains(alpha, k):
    found = mass_slopes(Pareto(alpha), k, 0.0)
    assert found.p < 0 < found.a
    assert found.a / (-k * found.p) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("alpha", [2.5, 5.0])
def test_slopes_go_to_kappa(alpha):
    k = 1e4
    found = mass_slopes(Pareto(alpha), k, 0.0)
    assert k * found.a == pytest.approx(kappa(Pareto(alpha)), rel=0.01)
    assert k**2 * found.p == pytest.approx(-kappa(Pareto(alpha)), rel=0.01)


# --- the theorem by trees ---


@given(weights, weights, weights, st.floats(0.5, 1e3), st.floats(0.0, 2.0), st.integers(1, 4))
def test_lengths_times_sizes_balance_for_any_trees(w, v, u, k, l, d):  # noqa: E741
    one, two, three = (pruned(responses(x), d) for x in (w, v, u))
    found = tree_slopes(joint((one, two, three), (1, 1, 1)), two, three, k, l)
    assert k * found.p + found.a + l * found.t == pytest.approx(0.0, abs=1e-10 * (1 + k))


@given(weights, weights, weights)
def test_slopes_of_trees_are_the_derivatives_of_the_rates(w, v, u):
    sets = [pruned(responses(x), 3) for x in (w, v, u)]
    k, l, h = 7.0, 0.4, 1e-4  # noqa: E741
    up, down, found = tree_rates(*sets, k, l + h), tree_rates(*sets, k, l - h), tree_slopes(*sets, k, l)
    for more, less, slope in zip(up, down, found, strict=True):
        assert slope == pytest.approx((more - less) / (2 * h), rel=1e-5, abs=1e-9)


@given(weights, st.lists(st.floats(0.1, 100.0), min_size=4, max_size=4), st.floats(0.01, 10.0))
def test_sets_that_share_nothing_lose_alike_whatever_their_sizes(w, sizes, l):  # noqa: E741
    """|Dᵢ|·Δγᵢ is no constant over sets: a foreign disturbance costs each of them log₂(1 + l/Σ|Dᵢ|)."""
    sets = [{(k, *leaf): p for leaf, p in pruned(responses(w), 3).items()} for k in range(5)]
    before, after = joint(sets[:4], sizes), joint(sets, (*sizes, l))
    for own in sets[:4]:
        assert rate(own, after) - rate(own, before) == pytest.approx(math.log2(1 + l / sum(sizes)), abs=1e-9)


@given(weights, weights)
def test_its_own_disturbance_helps_a_set_that_pre_training_lacks(w, v):
    """The sign is what a theorem is needed for: data like those of alignment shorten its code."""
    assume(max(abs(x / sum(w) - y / sum(v)) for x, y in zip(w, v, strict=True)) > 0.05)
    d_p, d_a = pruned(responses(w), 3), pruned(responses(v), 3)
    found = tree_slopes(d_p, d_a, d_a, 10.0, 0.0)
    assert found.a < 0 < found.p
