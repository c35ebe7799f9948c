"""The autoencoding theorem on finite spaces, exactly; and the experiment that takes the network literally."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, logistic

from trueline.core.errors import ConfigError
from trueline.language.topology.autoencoding import (
    decoded,
    divergence,
    divergence_bound,
    expected_divergence,
    graded_labels,
    inferred_rewards,
    label_variance,
)
from trueline.language.topology.literal_reading import (
    SUBSETS,
    Size,
    comparisons,
    distances,
    experiment,
    layouts,
    main,
)
from trueline.language.topology.network import Network, covariance, effective_resistance, joined

RARE = 1e-4
REWARD = np.array([0.3, -1.0, 2.0, 0.0, 0.7])
PAIRS = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 2]])


def test_what_is_decoded_is_the_optimum_of_entropy_regularised_reward():
    rng, beta = np.random.default_rng(0), 1.7
    best = decoded(REWARD, beta)

    def value(p):
        return p @ REWARD - p @ np.log(p) / beta

    for _ in range(200):
        other = best * np.exp(0.1 * rng.normal(size=5))
        assert value(other / other.sum()) < value(best)
    assert value(best) == pytest.approx(np.log(np.exp(beta * REWARD).sum()) / beta)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 4.0), st.floats(0.0, 2.0))
def test_the_divergence_is_that_of_the_distributions_and_below_its_bound(seed, beta, size):
    rng = np.random.default_rng(seed)
    human = rng.normal(size=6)
    inferred = human + size * rng.normal(size=6)
    p, q = decoded(human, beta), decoded(inferred, beta)
    found = divergence(human, inferred, beta)
    assert found == pytest.approx(float(p @ np.log(p / q)), abs=1e-10)
    assert -1e-12 <= found <= divergence_bound(human, inferred, beta) + 1e-12
    assert divergence(human, inferred + 3.0, beta) == pytest.approx(found, abs=1e-9)  # only differences matter


def test_with_two_responses_the_theorem_by_quadrature():
    # r_RM(1) − r_RM(0) = Δ + e with e ~ N(0, v): E[KL] by Gauss and Hermite, for v going to 0.
    beta, human = 2.0, np.array([0.0, 0.6])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    policies, divergences = [], []
    for v in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
        inferred = [human + np.array([0.0, np.sqrt(v) * node]) for node in nodes]
        policies.append(weights @ [decoded(own, beta)[1] for own in inferred])
        divergences.append(weights @ [divergence(human, own, beta) for own in inferred])
    errors = np.abs(np.array(policies) - decoded(human, beta)[1])
    assert (np.diff(errors) < 0).all()
    assert (np.diff(divergences) < 0).all()
    assert errors[-1] < 1e-4
    # KL → (β²/4)·E[d] with d = v between the two: β²/4·2·p·(1 − p)·v.
    p = decoded(human, beta)[1]
    assert divergences[-1] / 1e-4 == pytest.approx(beta**2 / 2 * p * (1 - p), rel=1e-3)
    distance = 1e-4 * np.array([[0.0, 1.0], [1.0, 0.0]])
    assert expected_divergence(human, distance, beta) == pytest.approx(divergences[-1], rel=1e-3)


def test_small_errors_diverge_by_the_variance_of_their_differences():
    rng, beta = np.random.default_rng(1), 1.3
    error = rng.normal(size=5)
    p = decoded(REWARD, beta)
    squared = (error[:, None] - error[None, :]) ** 2
    assert expected_divergence(REWARD, squared, beta) == pytest.approx(beta**2 / 2 * (p @ error**2 - (p @ error) ** 2))
    for scale in (1e-1, 1e-2, 1e-3):
        exact = divergence(REWARD, REWARD + scale * error, beta)
        assert exact == pytest.approx(expected_divergence(REWARD, scale**2 * squared, beta), rel=20 * scale)


def test_labels_without_noise_give_the_rewards_back():
    labels = REWARD[PAIRS[:, 0]] - REWARD[PAIRS[:, 1]]
    np.testing.assert_allclose(inferred_rewards(5, PAIRS, labels), REWARD - REWARD[0], atol=1e-12)
    weights = np.array([0.1, 2.0, 0.3, 1.0, 5.0, 0.7])
    np.testing.assert_allclose(inferred_rewards(5, PAIRS, labels, weights), REWARD - REWARD[0], atol=1e-12)


def test_inferred_rewards_are_least_squares_with_the_variances_of_the_network():
    variance = np.array([0.5, 1.0, 2.0, 0.3, 1.5, 0.8])
    labels = np.random.default_rng(2).normal(size=6)
    design = np.zeros((6, 5))
    design[np.arange(6), PAIRS[:, 0]], design[np.arange(6), PAIRS[:, 1]] = 1.0, -1.0
    whitened = design / np.sqrt(variance)[:, None]
    solved = np.linalg.lstsq(whitened[:, 1:], labels / np.sqrt(variance), rcond=None)[0]
    np.testing.assert_allclose(inferred_rewards(5, PAIRS, labels, variance), [0.0, *solved], atol=1e-10)
    # The estimate is linear in the labels, so its covariance is known exactly.
    linear = np.column_stack([inferred_rewards(5, PAIRS, one, variance) for one in np.eye(6)])
    spread = linear @ np.diag(variance) @ linear.T
    between = np.diag(spread)[:, None] + np.diag(spread)[None, :] - 2 * spread
    np.testing.assert_allclose(between, effective_resistance(Network(5, PAIRS, variance)), atol=1e-10)


def test_as_the_noise_of_labels_shrinks_the_policy_becomes_what_people_prefer():
    beta, rng = 2.0, np.random.default_rng(3)
    network = Network(5, PAIRS, np.ones(len(PAIRS)))
    found, expected = [], []
    for scale in (0.1, 0.01, 0.001):
        many = [
            divergence(REWARD, inferred_rewards(5, PAIRS, graded_labels(REWARD, PAIRS, scale, rng)), beta)
            for _ in range(400)
        ]
        found.append(np.mean(many))
        expected.append(expected_divergence(REWARD, label_variance(scale) * effective_resistance(network), beta))
    # 400 draws of a quadratic form of six noises: a standard error of about 7 %.
    assert found == pytest.approx(expected, rel=0.3)
    assert found[-1] < 1e-4


def test_graded_labels_are_logistic_and_their_signs_bradley_terry():
    rng, scale = np.random.default_rng(4), 0.4
    pairs = np.tile([[2, 0]], (4000, 1))
    labels = graded_labels(np.array([0.0, 9.0, 0.5]), pairs, scale, rng)
    assert kstest(labels, logistic(0.5, scale).cdf).pvalue > RARE
    assert binomtest(int((labels > 0).sum()), 4000, 1 / (1 + np.exp(-0.5 / scale))).pvalue > RARE
    assert label_variance(scale) == pytest.approx(logistic(0, scale).var())


def test_what_nothing_compares_is_refused():
    with pytest.raises(ConfigError, match="2 pieces"):
        inferred_rewards(4, np.array([[0, 1], [2, 3]]), np.zeros(2))
    with pytest.raises(ConfigError, match="one label for each"):
        inferred_rewards(2, np.array([[0, 1]]), np.zeros(2))


# --- the network, taken literally ---


@pytest.mark.parametrize("layout", layouts(2), ids=lambda layout: layout.name)
def test_distances_of_a_setting_are_those_of_the_whole_network(layout):
    rng = np.random.default_rng(5)
    pairs = comparisons(layout.responses, 9, rng)
    prior = covariance(layout.network)
    assert effective_resistance(layout.network)[np.ix_(layout.responses, layout.responses)].mean() == pytest.approx(1.0)
    found = distances(layout, prior, pairs, 0.2, layout.responses)
    whole = joined(layout.network, Network(layout.network.vertices, pairs, np.full(9, 0.2)))
    expected = effective_resistance(whole)[np.ix_(layout.responses, layout.responses)].mean()
    assert found.resistance == pytest.approx(expected)
    assert found.resistance < found.path < 1.0 + 1e-12


def test_comparisons_are_between_different_members():
    pairs = comparisons(np.array([3, 8, 9]), 500, np.random.default_rng(0))
    assert set(np.unique(pairs)) == {3, 8, 9}
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert {tuple(pair) for pair in pairs.tolist()} == {(a, b) for a in (3, 8, 9) for b in (3, 8, 9) if a != b}


def test_the_experiment_counts_who_infers_better(tmp_path, monkeypatch):
    size = Size(levels=3, comparisons=(8, 32), variances=(0.01, 1.0), sources=64)
    found = experiment(size)
    assert len(found["settings"]) == 2 * 2 * 2
    assert found["responses"] == 64
    assert experiment(size) == found
    for name, row in found["summary"].items():
        reading, subset = name.split(", ")
        ratios = [setting[reading][subset]["chain over tree"] for setting in found["settings"]]
        assert row["chain at most the tree"] == sum(ratio <= 1 for ratio in ratios)
        assert (row["smallest"], row["largest"]) == (min(ratios), max(ratios))
    # Fewer responses are compared in a tree of n/log n than of n/2 for n = 32, and with almost exact comparisons that
    # leaves more of the space untouched: 9 against 16 of 64.
    exact = next(s for s in found["settings"] if (s["structure"], s["n"], s["variance"]) == ("hierarchy", 32, 0.01))
    assert exact["resistance"]["n/log n"]["tree"] > exact["resistance"]["n/2"]["tree"] > exact["resistance"]["chain"]
    out = tmp_path / "out.json"
    monkeypatch.setattr("trueline.language.topology.literal_reading.Size", _Small)
    main([str(out), "--repeats", "8"])
    assert json.loads(out.read_text())["size"]["levels"] == 2


class _Small(Size):
    def __new__(cls, repeats=8):
        return Size(levels=2, comparisons=(8,), variances=(0.1,), repeats=repeats, sources=16)


def test_impossible_sizes_are_refused():
    assert [SUBSETS[name](100) for name in ("n/log n", "n/2")] == [22, 50]
    with pytest.raises(ConfigError, match="an interval needs 8"):
        experiment(Size(repeats=3))
    with pytest.raises(ConfigError, match="larger than all 16 responses"):
        experiment(Size(levels=2))
