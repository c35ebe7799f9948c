"""Induced networks: distances against closed forms, brute force and Bayes' rule; the structural function; the table."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.core.errors import ConfigError
from trueline.language.topology.bounds import BOUNDS, Case, bound
from trueline.language.topology.network import (
    Network,
    cheapest_path,
    clique,
    covariance,
    effective_resistance,
    hierarchy,
    interval_structural_function,
    joined,
    leaves_of_hierarchy,
    mean_distance,
    observed,
    path,
    resistance,
    star,
    structural_function,
)


def random_network(seed, vertices=6, extra=5):
    """Connected, with parallel edges."""
    rng = np.random.default_rng(seed)
    tree = [(int(rng.integers(v)), v) for v in range(1, vertices)]
    more = [tuple(rng.permutation(vertices)[:2].tolist()) for _ in range(extra)]
    edges = np.array([*tree, *more])
    return Network(vertices, edges, rng.uniform(0.2, 3.0, len(edges)))


# --- closed forms ---


def test_on_a_path_variances_add():
    apart = np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
    np.testing.assert_allclose(effective_resistance(path(7, 0.3)), 0.3 * apart, atol=1e-12)
    np.testing.assert_allclose(cheapest_path(path(7, 0.3)), 0.3 * apart)


def test_on_a_star_two_leaves_are_two_edges_apart():
    expected = np.full((6, 6), 3.0)  # 2·1.5
    expected[0, :] = expected[:, 0] = 1.5
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(effective_resistance(star(6, 1.5)), expected, atol=1e-12)
    np.testing.assert_allclose(cheapest_path(star(6, 1.5)), expected)


def test_in_a_clique_all_paths_help():
    # n − 2 paths of two edges beside one of one edge: 1 / (1/v + (n − 2)/(2v)) = 2v/n.
    off = 1.0 - np.eye(5)
    np.testing.assert_allclose(effective_resistance(clique(5, 0.7)), 2 * 0.7 / 5 * off, atol=1e-12)
    np.testing.assert_allclose(cheapest_path(clique(5, 0.7)), 0.7 * off)


def test_precisions_of_parallel_edges_add_and_of_parallel_edges_the_cheapest_is_a_path():
    twice = Network(2, np.array([[0, 1], [1, 0]]), np.array([2.0, 3.0]))
    assert effective_resistance(twice)[0, 1] == pytest.approx(1 / (1 / 2 + 1 / 3))
    assert cheapest_path(twice)[0, 1] == 2.0


def test_between_pieces_nothing_is_known():
    two = Network(4, np.array([[0, 1], [2, 3]]), np.ones(2))
    for distance in (effective_resistance(two), cheapest_path(two)):
        assert np.isinf(distance[:2, 2:]).all()
        assert distance[2, 3] == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="2 pieces"):
        covariance(two)


def test_a_hierarchy_is_the_ultrametric_of_its_levels():
    network, leaves = hierarchy(3, [4.0, 1.0]), leaves_of_hierarchy(3, 2)
    assert network.vertices == 13
    assert leaves.tolist() == list(range(4, 13))
    distance = effective_resistance(network)[np.ix_(leaves, leaves)]
    for i in range(9):
        for j in range(9):
            assert distance[i, j] == pytest.approx(0.0 if i == j else 2.0 if i // 3 == j // 3 else 10.0)


# --- against Bayes' rule and brute force ---


@pytest.mark.parametrize("seed", range(5))
def test_resistance_is_the_variance_that_bayes_rule_gives(seed):
    network = random_network(seed)
    # A prior so wide that it says nothing, updated by one observed difference after the other.
    wide = 1e7
    posterior = wide * np.eye(network.vertices)
    for (u, v), variance in zip(network.edges, network.variance, strict=True):
        gain = posterior[:, u] - posterior[:, v]
        posterior = posterior - np.outer(gain, gain) / (gain[u] - gain[v] + variance)
    np.testing.assert_allclose(resistance(posterior), effective_resistance(network), atol=1e-6 * wide**0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_path_is_the_best_of_all_paths(seed):
    network = random_network(seed, vertices=5)
    step = np.full((5, 5), math.inf)
    for (u, v), variance in zip(network.edges, network.variance, strict=True):
        step[u, v] = step[v, u] = min(step[u, v], variance)
    found = cheapest_path(network)
    for u in range(5):
        for v in range(u + 1, 5):
            others = [w for w in range(5) if w not in (u, v)]
            routes = [(u, *between, v) for n in range(4) for between in permutations(others, n)]
            best = min(sum(step[a, b] for a, b in pairwise(route)) for route in routes)
            assert found[u, v] == pytest.approx(best)
    np.testing.assert_array_equal(cheapest_path(network, np.array([3, 1])), found[[3, 1]])


@pytest.mark.parametrize("seed", range(4))
def test_comparisons_that_are_observed_are_edges_that_are_added(seed):
    rng = np.random.default_rng(seed)
    network = random_network(seed)
    pairs = np.array([rng.permutation(6)[:2] for _ in range(7)])
    variance = rng.uniform(0.1, 2.0, 7)
    whole = joined(network, Network(6, pairs, variance))
    np.testing.assert_allclose(observed(covariance(network), pairs, variance), covariance(whole), atol=1e-10)
    np.testing.assert_array_equal(observed(covariance(network), pairs[:0], variance[:0]), covariance(network))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_no_path_is_worse_than_all_of_them_and_more_edges_never_hurt(seed):
    network = random_network(seed)
    all_paths, one_path = effective_resistance(network), cheapest_path(network)
    assert (all_paths <= one_path + 1e-9).all()
    more = joined(network, random_network(seed + 1))
    assert (effective_resistance(more) <= all_paths + 1e-9).all()
    assert (cheapest_path(more) <= one_path + 1e-9).all()
    assert (all_paths[0, 1:] <= all_paths[0, [2]] + all_paths[[2], 1:] + 1e-9).all()  # a metric
    assert mean_distance(all_paths) <= mean_distance(one_path) + 1e-12


def test_wrong_networks_are_refused():
    with pytest.raises(ConfigError, match="not above 0"):
        Network(2, np.array([[0, 1]]), np.array([0.0]))
    with pytest.raises(ConfigError, match="leaves the vertices"):
        Network(2, np.array([[0, 2]]), np.array([1.0]))
    with pytest.raises(ConfigError, match="two vertices and one variance"):
        Network(2, np.array([[0, 1]]), np.array([1.0, 2.0]))
    with pytest.raises(ConfigError, match="cannot be joined"):
        joined(path(2), path(3))


# --- the structural function ---


def partitions(items, clusters):
    """Every partition of a list into so many sets."""
    if not items:
        if clusters == 0:
            yield []
        return
    first, rest = items[0], items[1:]
    for smaller in partitions(rest, clusters - 1):
        yield [[first], *smaller]
    for same in partitions(rest, clusters):
        for k in range(len(same)):
            yield [*same[:k], [first, *same[k]], *same[k + 1 :]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
def test_the_structural_function_is_the_best_of_all_partitions(seed, clusters):
    distance = effective_resistance(random_network(seed, vertices=7, extra=3))
    allowed = [
        found
        for found in partitions(list(range(7)), clusters)
        if all(7 / (2 * clusters) <= len(own) <= 2 * 7 / clusters for own in found)
    ]
    best = min(max(distance[np.ix_(own, own)].mean() for own in found) for found in allowed)
    assert structural_function(distance, clusters) == pytest.approx(best)
    assert interval_structural_function(distance, clusters) >= best - 1e-12


@pytest.mark.parametrize("clusters", [1, 2, 3, 5])
def test_on_a_path_intervals_are_the_best_clusters(clusters):
    distance = effective_resistance(path(10))
    assert interval_structural_function(distance, clusters) == pytest.approx(structural_function(distance, clusters))


def test_on_a_path_the_structural_function_falls_as_one_over_m():
    distance = effective_resistance(path(240))
    # In an interval of s vertices the mean distance is (s² − 1)/(3s), so with s = 240/M it is M·F(M) → 80.
    cuts = (1, 2, 4, 8, 16, 24)
    found = [clusters * interval_structural_function(distance, clusters) for clusters in cuts]
    assert found == pytest.approx([m * ((240 / m) ** 2 - 1) / (3 * 240 / m) for m in cuts])
    assert all(0.9 * 80 < value <= 80 for value in found)


def test_on_a_clique_and_a_star_it_stays():
    # All pairs are alike, so F(M) is v·(1 − 1/s) for the largest cluster, which no partition makes smaller than |Y|/M.
    for clusters in (1, 2, 3, 4, 6):
        assert structural_function(cheapest_path(clique(12, 0.5)), clusters) == pytest.approx(0.5 * (1 - clusters / 12))
    leaves = cheapest_path(star(13))[1:, 1:]
    assert structural_function(leaves, 3) == pytest.approx(2.0 * (1 - 3 / 12))


def test_of_a_hierarchy_it_follows_the_levels():
    leaves = leaves_of_hierarchy(4, 3)
    distance = effective_resistance(hierarchy(4, [1.0, 0.5, 0.25]))[np.ix_(leaves, leaves)]
    one, four, sixteen = (interval_structural_function(distance, clusters) for clusters in (1, 4, 16))
    # Two edges of a level lie between two leaves with the chance that they are not below one node of that level.
    assert sixteen == pytest.approx(2 * (0.25 * 3 / 4))
    assert four == pytest.approx(2 * (0.25 * 15 / 16 + 0.5 * 3 / 4))
    assert one == pytest.approx(2 * (0.25 * 63 / 64 + 0.5 * 15 / 16 + 1.0 * 3 / 4))


def test_impossible_clusters_are_refused():
    for function in (structural_function, interval_structural_function):
        for clusters in (0, 6):
            with pytest.raises(ConfigError, match="cannot be cut"):
                function(np.zeros((5, 5)), clusters)
    with pytest.raises(ConfigError, match="too many partitions"):
        structural_function(np.zeros((15, 15)), 2)


# --- the table ---


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("n", [100, 10_000])
def test_the_first_row_of_the_table(n, alpha):
    log = math.log(n)
    of = {
        (data, regime): bound(Case("power", data, regime), n, scale=3.0, alpha=alpha)
        for data in ("chain", "tree")
        for regime in ("limited", "plentiful")
    }
    ratio = of["chain", "limited"] / of["tree", "limited"]
    assert ratio == pytest.approx(log ** (1 - alpha) / math.log(log))
    assert of["tree", "limited"] == pytest.approx(3.0 * (log**2 / n) ** alpha)
    assert of["chain", "plentiful"] == pytest.approx((3.0**2 * n**-alpha) ** (1 / (2 + alpha)))
    assert of["tree", "plentiful"] / of["chain", "plentiful"] == pytest.approx(log ** (2 * alpha / (2 + alpha)))


def test_the_published_ratio_is_the_limit_of_a_complex_task():
    n = 1000
    cases = [Case("power", data, "limited") for data in ("chain", "tree")]
    chain, tree = (bound(case, n, alpha=1e-9) for case in cases)
    assert chain / tree == pytest.approx(math.log(n) / math.log(math.log(n)), rel=1e-6)


def test_the_other_rows_of_the_table():
    rows = {case: bound(case, 500, scale=2.0, alpha=0.5) for case in BOUNDS if case.structure == "logarithmic"}
    assert len(rows) == 4
    assert set(rows.values()) == {2.0 * math.log(500) ** -0.5}
    seen = []
    for data in ("chain", "tree"):
        bound(Case("slower", data, "limited"), 500, structure=lambda m: seen.append(m) or 1.0)
    assert seen == [math.ceil(500**0.5), math.ceil((500 * math.log(500)) ** 0.5)]
    with pytest.raises(ConfigError, match="needs F itself"):
        bound(Case("slower", "tree", "limited"), 500)
    with pytest.raises(ConfigError, match="not by F"):
        bound(Case("power", "tree", "limited"), 500, structure=lambda m: 1.0)
    with pytest.raises(ConfigError, match="from 3 on"):
        bound(Case("power", "tree", "limited"), 2)
