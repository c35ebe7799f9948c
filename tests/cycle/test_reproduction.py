"""Claims of one system are tested together: each in a run of its own, their verdicts corrected, on disk too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trueline.core import registry
from trueline.core.errors import Stopped
from trueline.core.run import read_manifest
from trueline.cycle.reproduction import Named, reproduce_claims, resume_claim
from trueline.evidence.claim_statistics import MeanOf
from trueline.evidence.claims import Claim, ClaimResult, Scale
from trueline.evidence.over_seeds import holm
from trueline.evidence.records import Requirement


def gain(scale: Scale, seed: int, folder: Path) -> dict[str, float]:
    return {"gain": scale.params["gain"] + np.random.default_rng(seed).normal()}


def named(system: str, name: str, true_gain: float) -> Named:
    claim = Claim(
        system=system,
        name=name,
        sentence="Ours gains.",
        source="nowhere, Table 0",
        measure=gain,
        statistic=MeanOf("gain"),
        acceptance=Requirement(bound="at_least", threshold=0.0),
        scales={"ci": Scale(tuple(range(8)), 0.001, 0.1, {"gain": true_gain})},
    )
    return Named(f"{system}/{name}", claim)


def reproduce(root: Path, *claims: Named) -> list[tuple[Path, ClaimResult]]:
    return reproduce_claims(claims, "ci", root=root, most_cpu_hours=math.inf)


# p is about 0.02 at a gain of 0.5: enough for one claim, and not for the smallest of three.
WEAK, STRONG = 0.5, 5.0
SMALLER = Scale((0, 1), 0.001, 0.1, {"gain": STRONG})


def test_claims_of_a_system_are_corrected_together_and_those_of_another_are_not(tmp_path):
    claims = [named("toy", "a", WEAK), named("other", "alone", WEAK), *(named("toy", n, WEAK) for n in "bc")]
    tested = reproduce(tmp_path, *claims)
    assert [result.outcome for _, result in tested] == ["inconclusive", "reproduced", "inconclusive", "inconclusive"]
    toys = [result for _, result in tested if result.system == "toy"]
    assert [r.p_holm for r in toys] == pytest.approx(list(holm([r.p for r in toys])))
    for folder, result in tested:
        assert (folder / "artefacts/claim.json").read_text() == result.to_json()
        manifest = read_manifest(folder)
        assert (manifest["status"], manifest["summary"]["outcome"]) == ("done", result.outcome)


def test_a_strong_claim_frees_the_others_as_holm_does(tmp_path):
    # Bonferroni would multiply the weak claim's p by 2 and both are known, so Holm's factor for it is 1.
    tested = reproduce(tmp_path, named("toy", "strong", STRONG), named("toy", "middling", 0.4))
    strong, middling = (result for _, result in tested)
    assert 0.025 < middling.p < 0.05
    assert (strong.outcome, middling.outcome) == ("reproduced", "reproduced")
    assert middling.p_holm == middling.p


def test_a_claim_resumed_alone_does_not_forget_the_others(tmp_path, monkeypatch):
    claims = {item.name: item for item in (named("toy", n, WEAK) for n in "abc")}
    (folder, result), *_ = reproduce(tmp_path, *claims.values())
    monkeypatch.setattr(registry, "load", lambda kind, name: claims[name].claim)
    again = resume_claim(folder)
    assert again.outcome == result.outcome == "inconclusive"
    assert again.p_holm == pytest.approx(3 * result.p)


def test_a_stopped_test_goes_on_and_a_finished_one_is_made_anew(tmp_path, monkeypatch):
    calls: list[int] = []

    def stops_at_five(scale: Scale, seed: int, folder: Path) -> dict[str, float]:
        calls.append(seed)
        if len(calls) == 6:
            raise Stopped("here")
        return gain(scale, seed, folder)

    item = named("toy", "a", STRONG)
    item = Named(item.name, replace(item.claim, measure=stops_at_five))
    with pytest.raises(Stopped) as stopped:
        reproduce(tmp_path, item)
    ((first, result),) = reproduce(tmp_path, item)
    assert first.name == stopped.value.run_id
    assert result.outcome == "reproduced"
    assert calls == [0, 1, 2, 3, 4, 5, 5, 6, 7]  # what was measured is not measured again
    other = Named(item.name, replace(item.claim, scales={"ci": item.claim.scales["ci"], "more": SMALLER}))
    ((elsewhere, _),) = reproduce_claims([other], "more", root=tmp_path, most_cpu_hours=math.inf)
    ((again, _),) = reproduce(tmp_path, item)
    assert len({first, elsewhere, again}) == 3
