"""The claim runner: outcomes follow the interval, seeds are kept, and what cannot be decided is not attempted."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from trueline.core.errors import UnknownName
from trueline.core.executor import Processes
from trueline.core.run import Run
from trueline.evidence.claim_statistics import MeanOf
from trueline.evidence.claims import Claim, ClaimResult, Scale, corrected, run_claim
from trueline.evidence.over_seeds import holm
from trueline.evidence.records import EvidenceError, Requirement

EIGHT = tuple(range(8))


def gain(scale: Scale, seed: int, folder: Path) -> dict[str, float]:
    """A gain of `scale.params["gain"]` with a spread of 1 over seeds; leaves a trace of having been measured."""
    with (folder / "measured").open("a") as file:
        file.write("x")
    if scale.params.get("breaks_at") == seed:
        raise KeyboardInterrupt
    noise = np.random.default_rng(seed).normal()
    return {"gain": scale.params["gain"] + noise, "cost": math.nan if seed == 1 else 2.0}


def claim(effect=math.inf, **scales):
    return Claim(
        system="toy",
        name="gain",
        sentence="Ours gains.",
        source="nowhere, Table 0",
        measure=gain,
        statistic=MeanOf("gain"),
        acceptance=Requirement(bound="at_least", threshold=0.0),
        scales=scales,
        effect=effect,
        unit="points",
    )


def size(gain, seeds=EIGHT, smallest_effect=1.0, **params):
    return Scale(seeds, cpu_hours=0.5, smallest_effect=smallest_effect, params={"gain": gain} | params)


def run_in(root, id="r"):
    return Run.create(root, kind="claim", name="toy", config={}, seed=0, id=id)


@pytest.mark.parametrize(
    ("true_gain", "seeds", "outcome"),
    [
        # The standard error over eight seeds is about 0.35, so the interval is about ±0.85.
        (5.0, EIGHT, "reproduced"),
        (-5.0, EIGHT, "not reproduced"),
        (0.0, EIGHT, "inconclusive"),
        (5.0, EIGHT[:7], "inconclusive"),  # seven seeds decide nothing, however large the gain
    ],
)
def test_the_interval_decides(tmp_path, true_gain, seeds, outcome):
    with run_in(tmp_path) as run:
        result = run_claim(claim(ci=size(true_gain, seeds)), "ci", run)
    assert result.outcome == outcome
    assert set(result.per_seed) == set(seeds)
    assert result.estimate.value == pytest.approx(np.mean([row["gain"] for row in result.per_seed.values()]))


def test_an_effect_out_of_sight_or_of_budget_is_not_attempted(tmp_path):
    with run_in(tmp_path) as run:
        small = run_claim(claim(effect=0.5, ci=size(5.0)), "ci", run)
        dear = run_claim(claim(ci=size(5.0)), "ci", run, most_cpu_hours=0.1)
    assert small.outcome == dear.outcome == "not attempted"
    assert "0.5 points" in small.note
    assert "0.5 CPU-hours" in dear.note
    assert small.estimate is None
    assert not (tmp_path / "r/artefacts/seeds").exists()


def test_a_killed_claim_measures_only_the_missing_seeds(tmp_path):
    whole = claim(ci=size(5.0))
    with run_in(tmp_path, "whole") as run:
        expected = run_claim(whole, "ci", run)
    # Stands for a kill while seed 5 is measured: 0 to 4 are stored, under the same question.
    folder = tmp_path / "r/artefacts/seeds"
    with run_in(tmp_path) as run:
        run_claim(whole, "ci", run)
        (folder / "5.json").write_text('{"asked": {"claim"')  # cut off
        for seed in (6, 7):
            (folder / f"{seed}.json").unlink()
    with Run.reopen(tmp_path / "r") as run:
        resumed = run_claim(whole, "ci", run)
    np.testing.assert_equal(resumed.per_seed, expected.per_seed)  # a nan equals a nan
    assert resumed.estimate == expected.estimate
    assert [len((folder / str(seed) / "measured").read_text()) for seed in EIGHT] == [1, 1, 1, 1, 1, 2, 2, 2]


def test_an_interrupted_seed_loses_no_other(tmp_path):
    breaking = claim(ci=size(5.0, breaks_at=3))
    with pytest.raises(KeyboardInterrupt), run_in(tmp_path) as run:
        run_claim(breaking, "ci", run)
    assert sorted(p.stem for p in (tmp_path / "r/artefacts/seeds").glob("*.json")) == ["0", "1", "2"]


def test_seeds_of_another_size_are_not_reused(tmp_path):
    with run_in(tmp_path) as run:
        first = run_claim(claim(ci=size(5.0)), "ci", run)
        second = run_claim(claim(ci=size(-5.0)), "ci", run)
    assert (first.outcome, second.outcome) == ("reproduced", "not reproduced")


def test_processes_give_what_one_process_gives(tmp_path):
    with run_in(tmp_path, "a") as run:
        inline = run_claim(claim(ci=size(5.0)), "ci", run)
    with run_in(tmp_path, "b") as run, Processes(1) as pool:
        spread = run_claim(claim(ci=size(5.0)), "ci", run, pool)
    assert inline.estimate == spread.estimate


def test_a_result_comes_back_from_its_file(tmp_path):
    with run_in(tmp_path) as run:
        result = run_claim(claim(ci=size(5.0)), "ci", run)
        text = (tmp_path / "r/artefacts/claim.json").read_text()
        nothing = run_claim(claim(effect=0.5, ci=size(5.0)), "ci", run)
    back = ClaimResult.from_json(text)
    assert back.to_json() == text == result.to_json()
    assert math.isnan(back.per_seed[1]["cost"])
    assert back.estimate == result.estimate
    assert ClaimResult.from_json(nothing.to_json()) == nothing
    for damaged in ("", "{}", text[:-30]):
        with pytest.raises(EvidenceError, match="not a claim's result"):
            ClaimResult.from_json(damaged)


def test_a_seed_without_a_number_leaves_the_claim_undecided(tmp_path):
    rows = [{"cost": 2.0}] * 8 + [{"cost": math.nan}]
    assert MeanOf("cost")(rows, 0.95).n == 8
    nine = tuple(range(9))  # enough seeds are left, but they need not be those that were hard
    diverged = replace(
        claim(ci=size(5.0, nine)),
        statistic=MeanOf("cost"),
        acceptance=Requirement(bound="at_most", threshold=3.0),
    )
    with run_in(tmp_path) as run:
        result = run_claim(diverged, "ci", run)
    assert result.estimate.high < 3.0
    assert (result.outcome, result.p) == ("inconclusive", None)
    assert "1 of 9 seeds has no value" in result.note


def test_the_acceptance_decides_the_confidence_of_the_interval(tmp_path):
    ends = []
    for confidence in (0.9, 0.99):
        strict = replace(
            claim(ci=size(5.0)), acceptance=Requirement(bound="at_least", threshold=0.0, confidence=confidence)
        )
        with run_in(tmp_path, f"at-{confidence}") as run:
            result = run_claim(strict, "ci", run)
        gains = [row["gain"] for row in result.per_seed.values()]
        # A requirement's confidence is that of each end.
        low, high = stats.t.interval(2 * confidence - 1, 7, np.mean(gains), stats.sem(gains))
        assert (result.estimate.low, result.estimate.high) == pytest.approx((low, high))
        ends.append(low)
    assert ends[1] < ends[0]


def test_the_p_value_is_that_of_the_t_test_against_the_threshold(tmp_path):
    for bound, alternative in (("at_least", "greater"), ("at_most", "less")):
        one = replace(claim(ci=size(0.3)), acceptance=Requirement(bound=bound, threshold=0.1))
        with run_in(tmp_path, bound.replace("_", "-")) as run:
            result = run_claim(one, "ci", run)
        gains = [row["gain"] for row in result.per_seed.values()]
        assert result.p == pytest.approx(stats.ttest_1samp(gains, 0.1, alternative=alternative).pvalue)
        assert result.p_holm == result.p  # alone


def test_claims_tested_together_are_corrected_by_holm(tmp_path):
    results = []
    for i, gain_of in enumerate((5.0, 0.5, 0.5, 0.5, -5.0)):
        with run_in(tmp_path, f"r{i}") as run:
            results.append(run_claim(claim(ci=size(gain_of)), "ci", run))
    assert [r.outcome for r in results] == [*["reproduced"] * 4, "not reproduced"]
    assert 0.05 / 4 < results[1].p < 0.05
    with run_in(tmp_path, "few") as run:
        untested = run_claim(claim(ci=size(5.0, EIGHT[:7])), "ci", run)  # no p, so it is not counted
    together = corrected([*results, untested])
    assert [r.p_holm for r in together[:-1]] == pytest.approx(list(holm([r.p for r in results])))
    assert [r.outcome for r in together] == ["reproduced", *["inconclusive"] * 3, "not reproduced", "inconclusive"]
    assert "Holm" in together[1].note
    assert (untested.p, together[-1].p_holm) == (None, None)
    assert corrected(together) == together
    # A family that shrinks back to one has nothing to correct.
    assert corrected([together[1]]) == [results[1]]


def test_claims_whose_results_are_not_known_yet_count_as_the_worst(tmp_path):
    with run_in(tmp_path) as run:
        result = run_claim(claim(ci=size(0.5)), "ci", run, others=3)
    assert result.p_holm == pytest.approx(4 * result.p)
    assert result.outcome == "inconclusive"


def test_an_unknown_scale_is_named(tmp_path):
    with run_in(tmp_path) as run, pytest.raises(UnknownName, match="Did you mean 'ci'"):
        run_claim(claim(ci=size(5.0)), "cii", run)
