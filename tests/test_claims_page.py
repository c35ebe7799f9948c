"""The page of claims says what the committed results say, and those what their claims ask today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import make_claims_page as making  # noqa: E402  the script that fills the page in

from trueline.core.files import jsonable  # noqa: E402
from trueline.cycle.reproduction import claims_of  # noqa: E402
from trueline.evidence.claims import corrected  # noqa: E402

RESULTS = making.results()
CLAIMS = {(named.claim.system, named.claim.name): named.claim for named in claims_of()}


@pytest.mark.parametrize("page", [making.PAGE, making.README])
def test_a_page_is_that_of_the_results_and_the_registry(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- tally -->" in text
    assert making.filled(text) == text, "run `python docs/make_claims_page.py`"


def test_few_seeds_stand_beside_the_published_rows_and_decide_nothing():
    decided = {(result.system, result.name) for result in making.results()}
    few = [result for result in making.measured() if (result.system, result.name) not in decided]
    assert few
    for result in few:
        assert len(result.per_seed) < making.DECIDING
        name = making.registered()[result.system, result.name]
        assert f"`{name}`" not in making.verdicts()
        assert str(result.params["arms"][0]) in making.published()


def test_figures_are_drawn_from_the_results_and_there_are_no_others():
    committed = {path.stem: path.read_text(encoding="utf-8") for path in making.FIGURES.glob("*.svg")}
    assert committed == {name: chart for name, (_, chart) in making.charts().items()}


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: f"{result.system}-{result.name}-{result.scale}")
def test_a_result_is_what_its_claim_makes_of_its_seeds(result):
    claim = CLAIMS[result.system, result.name]
    size = claim.scales[result.scale]
    assert result.sentence == claim.sentence
    assert result.acceptance == claim.acceptance
    assert dict(result.params) == jsonable(size.params)
    assert tuple(result.per_seed) == size.seeds
    again = claim.statistic([result.per_seed[seed] for seed in size.seeds], claim.acceptance.interval_confidence())
    for mine, stored in ((again.value, result.estimate.value), (again.low, result.estimate.low)):
        assert mine == pytest.approx(stored, nan_ok=True)
    assert not str(result.environment["git"]).endswith("+"), "files differed from the commit that is named"


@pytest.mark.parametrize("family", sorted({(result.system, result.scale) for result in RESULTS}))
def test_outcomes_are_corrected_for_all_claims_of_the_system(family):
    own = [result for result in RESULTS if (result.system, result.scale) == family]
    every = sum(system == family[0] and family[1] in claim.scales for (system, _), claim in CLAIMS.items())
    assert [one.outcome for one in corrected(own, others=every - len(own))] == [one.outcome for one in own]


def test_trained_arms_of_a_result_are_committed_trainings():
    figures = {}
    for path in making.TRAININGS.glob("*.json"):
        row = json.loads(path.read_text(encoding="utf-8"))
        assert row["run"]["id"] == path.stem
        assert not row["run"]["git"].endswith("+"), "files differed from the commit that is named"
        arm = path.stem.rsplit("-", 2)[0]
        figures.setdefault((arm, row["seed"]), []).append({k: float(v) for k, v in row["figures"].items()})
    for result in RESULTS:
        if "arms" in result.params and "world" in result.params:
            for seed, row in result.per_seed.items():
                for arm in result.params["arms"]:
                    own = {key.removeprefix(f"{arm}/"): x for key, x in row.items() if key.startswith(f"{arm}/")}
                    assert any(own == pytest.approx(found, nan_ok=True) for found in figures[arm, seed])


def test_the_figures_files_are_named_on_the_page():
    text = making.PAGE.read_text(encoding="utf-8")
    assert all(f"(claims/{path.name})" in text for path in making.FIGURES.glob("*.svg"))
