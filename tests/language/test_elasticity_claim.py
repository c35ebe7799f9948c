"""The claims on elasticity: what they state before they run, and what a seed of them measures, at a size for a test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from trueline.core.run import Run
from trueline.evidence.claims import Scale, run_claim
from trueline.evidence.over_seeds import FEWEST_SEEDS
from trueline.language.claims import elasticity
from trueline.language.claims.elasticity import ELASTICITY, RESISTANCE, Returned
from trueline.language.elasticity.reversion import Crossing

torch.set_num_threads(1)
SMALL = {
    "base_lr": 1e-2,
    "lr": 1e-3,
    "documents": (64, 128),
    "directions": ("positive", "negative"),
    "level": 0.6,
    "most_alignment": 256,
    "asked": 16,
    "most_items": 48,
    "looks": 3,
}


def returned(back, known=True):
    counts = Crossing(back, False)
    return Returned(0.5, 0.8, 100, 1.0 if known else math.nan, counts, counts, counts)


@pytest.mark.parametrize("claim", [ELASTICITY, RESISTANCE])
def test_every_scale_says_what_it_takes_and_can_see_what_is_claimed(claim):
    for scale in claim.scales.values():
        assert len(scale.seeds) >= FEWEST_SEEDS
        assert 0 < scale.smallest_effect <= abs(claim.effect)
    assert claim.scales["ci"].cpu_hours < claim.scales["laptop"].cpu_hours
    assert claim.acceptance.met(claim.effect)
    assert not claim.acceptance.met(-claim.effect)


def test_the_laptop_scale_has_four_bases_two_directions_and_ten_seeds():
    scale = ELASTICITY.scales["laptop"]
    assert len(scale.params["documents"]) == 4
    assert len(scale.params["directions"]) == 2
    assert len(scale.seeds) == 10


@pytest.mark.parametrize("power", [-0.3, 0.0, 0.7])
def test_the_slope_is_the_exponent_of_a_power_law(power):
    documents = (1000, 4000, 16000)
    crossings = [Crossing(50.0 * n**power, False) for n in documents]
    assert elasticity._slope(documents, crossings) == pytest.approx(power, abs=1e-9)
    assert math.isnan(elasticity._slope(documents, [*crossings[:2], Crossing(9.0, True)]))


def test_a_base_that_cannot_be_aligned_as_far_leaves_no_trend():
    rows = [returned(40.0), returned(30.0), returned(20.0)]
    assert elasticity._trend(rows, lambda one: one.back) == -1.0
    assert elasticity._trend(rows[::-1], Returned.per_nat) == 1.0
    assert math.isnan(elasticity._trend([*rows, returned(0.0, known=False)], lambda one: one.half))


def test_a_count_per_nat_is_the_count_over_the_divergence():
    moved = returned(40.0)._replace(divergence=0.5)
    assert moved.per_nat() == Crossing(80.0, False)
    # Twice the way at twice the count is no trend, and a count that was not reached stays one.
    assert elasticity._trend([moved, returned(80.0)], lambda one: one.back) == 1.0
    assert elasticity._trend([moved, returned(80.0)], Returned.per_nat) == 0.0
    assert returned(9.0)._replace(back=Crossing(9.0, True)).per_nat().censored


def test_bases_of_a_seed_differ_in_documents_alone():
    one, again, other = (elasticity.pretrained(n, SMALL, 0) for n in (64, 64, 72))
    weights = [next(iter(subject.model.parameters())) for subject in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    begun = [elasticity.pretrained(n, {"base_lr": 1e-12}, 0) for n in (64, 128)]
    for p, q in zip(*(subject.model.parameters() for subject in begun), strict=True):
        torch.testing.assert_close(p, q, atol=1e-8, rtol=0)


def test_trends_and_slope_are_means_over_both_directions(monkeypatch, tmp_path):
    """Of each count by scipy's τ over four bases, and of m* by a straight line through its logarithms."""
    documents, directions = (64, 128, 256, 512), ("positive", "negative")
    table = np.random.default_rng(7).permutation(np.arange(1.0, 41.0)).reshape(2, 5, 4)
    away, nats, back, half, neutral = table.swapaxes(0, 1)

    def rebound(n, direction, params, seed):
        away, nats, *counts = table[directions.index(direction), :, documents.index(n)].tolist()
        return Returned(0.5, 0.8, int(away), nats, *(Crossing(count, False) for count in counts))

    monkeypatch.setattr(elasticity, "pretrained", lambda n, params, seed: n)
    monkeypatch.setattr(elasticity, "rebound", rebound)
    scale = Scale((0,), 0.01, 0.1, {"directions": directions, "documents": documents})
    row = elasticity.measure_rebound(scale, 0, tmp_path)
    taus = {
        name: np.mean([kendalltau(documents, own).statistic for own in counts])
        for name, counts in (("", back), (" of half the way", half), (" of half the way, neutral", neutral),
                             (" of items away", away), (" per nat", back / nats))
    }  # fmt: skip
    assert len(set(taus.values())) == 5
    assert {name: row[f"trend{name}"] for name in taus} == pytest.approx(taus)
    for direction, own in zip(directions, back, strict=True):
        assert row[f"trend, {direction}"] == pytest.approx(kendalltau(documents, own).statistic)
    assert row["slope"] == pytest.approx(np.mean([np.polyfit(np.log2(documents), np.log2(own), 1)[0] for own in back]))


@pytest.fixture(scope="module")
def base():
    return elasticity.pretrained(256, SMALL, 1)


@pytest.mark.parametrize("direction", ["positive", "negative"])
def test_a_rebound_goes_away_and_comes_back(direction, base):
    found = elasticity.rebound(base, direction, SMALL, 1)
    away = 1 if direction == "positive" else -1
    assert found.known
    assert away * (found.aligned - 0.5) >= 0.1 - 1e-12
    assert away * (found.aligned - found.base) > 0
    assert found.away % 16 == 0
    assert found.divergence > 0
    assert 0 < found.half.items < found.back.items <= 48
    assert found.neutral.items > 0


def test_a_level_out_of_reach_is_told(base):
    found = elasticity.rebound(base, "positive", {**SMALL, "level": 1.1, "most_alignment": 32}, 0)
    assert not found.known
    assert found.away == 32


def test_a_seed_of_the_claim_is_kept_and_counted(tmp_path):
    """Through the machinery of claims: one seed gives rows of named numbers and decides nothing."""
    from dataclasses import replace

    params = {**SMALL, "directions": ("positive",)}
    tiny = replace(ELASTICITY, scales={"tiny": Scale((3,), 0.01, 0.1, params)})
    with Run.create(tmp_path, kind="claim", name="elasticity", config={}, seed=3) as run:
        result = run_claim(tiny, "tiny", run)
        again = run_claim(tiny, "tiny", run)  # from the seed's file
    assert result.to_json() == again.to_json()
    assert result.outcome == "inconclusive"
    row = result.per_seed[3]
    backs = [row[f"items back, positive, {n} documents"] for n in (64, 128)]
    assert np.isfinite(backs).all()
    assert row["trend"] == row["trend, positive"] == np.sign(backs[1] - backs[0]) != 0.0


def test_a_seed_of_resistance_has_raw_and_excess(tmp_path):
    params = {**SMALL, "documents": 128, "slices": (32, 64, 96), "questions": 32, "looks": 2, "epsilon": 0.05}
    row = elasticity.measure_resistance(Scale((0,), 0.01, 0.1, params), 0, tmp_path)
    pairs = ("1 and 2", "1 and 3", "2 and 3")
    for kind, name in (("excess", "excess"), ("raw", "loss")):
        gaps = [row[f"forward {name}, {pair}"] - row[f"inverse {name}, {pair}"] for pair in pairs]
        assert row[kind] == pytest.approx(np.mean(gaps))
    assert 0.0 <= row["inverse raw is lower"] <= 1.0
    assert -1.0 <= row["inverse is nearer sooner"] <= 1.0
