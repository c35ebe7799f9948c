"""The claim `tree-rm`: what its arms are given, what decides, and that a killed seed goes on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trueline.core.config import build
from trueline.core.files import write_json
from trueline.core.run import Run
from trueline.evidence.claims import run_claim
from trueline.evidence.records import EvidenceError
from trueline.language.claims import topology
from trueline.language.claims.topology import CLAIMS, LABELS, STRUCTURE, TOKENS, Settings, by_cell, measure
from trueline.language.models import ModelRef
from trueline.language.subject import LanguageModel
from trueline.language.topology.pairs import Drawn, Pair
from trueline.language.topology.trees import Leaf

torch.set_num_threads(1)


def rows(seeds, control, tree, prompts=20, rng_seed=0, reference=1.0):
    """As `measure` gives them: rates of disagreement by prompt around a mean for each arm."""
    rng = np.random.default_rng(rng_seed)
    found = []
    for _ in range(seeds):
        row = {"reference": reference}
        for arm, rate in (("chain-labels", control), ("tree", tree)):
            by_prompt = rng.binomial(8, rate, prompts) / 8
            row |= {f"prompt/{arm}/{p}": float(x) for p, x in enumerate(by_prompt)}
            row[f"complex/250/{arm}/disagreement"] = float(by_prompt.mean())
            row[f"complex/250/{arm}/accuracy"] = 1 - rate
        found.append(row)
    return found


@pytest.mark.parametrize(("control", "tree", "outcome"), [(0.4, 0.2, 1), (0.2, 0.4, -1), (0.3, 0.3, 0)])
def test_the_whole_interval_decides(control, tree, outcome):
    acceptance = LABELS.acceptance
    found = LABELS.statistic(rows(12, control, tree), acceptance.interval_confidence())
    assert np.sign(found.low) + np.sign(found.high) == 2 * outcome
    assert found.confidence == pytest.approx(0.95)
    verdict = acceptance.verdict(found.low, found.high).name
    assert verdict == {1: "PASS", -1: "FAIL", 0: "INCONCLUSIVE"}[outcome]
    assert (LABELS.statistic.p(rows(12, control, tree), acceptance) <= 0.025) == (outcome == 1)


def test_seeds_that_met_other_pairs_are_not_put_together():
    with pytest.raises(EvidenceError, match="Run all of them on one"):
        LABELS.statistic(rows(8, 0.3, 0.3) + rows(1, 0.3, 0.3, reference=2.0), 0.95)


def test_every_cell_is_compared_and_corrected():
    per_seed = dict(enumerate(rows(12, 0.4, 0.2)))
    for row in per_seed.values():
        row |= {
            f"simple/250/{arm}/disagreement": row["complex/250/tree/disagreement"] for arm in ("tree", "chain-labels")
        }
    cells = by_cell(per_seed, "chain-labels")
    assert [(cell.level, cell.size) for cell in cells] == [("complex", 250), ("simple", 250)]
    assert cells[0].tree["accuracy"] == pytest.approx(0.8)
    means = [
        np.mean([row[f"complex/250/{arm}/disagreement"] for row in per_seed.values()])
        for arm in ("chain-labels", "tree")
    ]
    assert cells[0].difference.difference.value == pytest.approx(means[0] - means[1])
    assert cells[0].p_holm == pytest.approx(2 * cells[0].difference.p)
    assert cells[1].difference.difference.value == 0.0


def pair(prompt, tokens=0):
    return Pair(prompt, Leaf("a", (1,)), Leaf("b", (2,)), one_tree=False, tokens=tokens)


def test_as_many_tokens_buy_a_pair_to_each_prompt_before_any_has_two():
    tree = Drawn(tuple(pair(t) for t in (0, 0, 0, 1, 1, 2)), np.array([30, 40, 50]), {})
    budget = topology._taken(tree, 4)  # its last pair is of the second prompt, whose whole tree was sampled
    assert budget == ([0, 1, 2, 3], 2, 70)
    chain = [pair(0, 20), pair(0, 20), pair(1, 15), pair(1, 15), pair(2, 1)]
    assert topology._affordable(chain, budget) == ([0, 2, 1, 3], 2, 70)
    assert topology._affordable(chain, budget._replace(tokens=69)) == ([0, 2, 1], 2, 55)
    assert topology._affordable(chain, budget._replace(tokens=19)) == ([], 2, 0)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_scales_are_stated_and_say_what_they_can_see(claim):
    full = claim.scales["laptop"]
    settings = build(Settings, dict(full.params))
    assert len(full.seeds) == 12
    assert (len(settings.sizes), len(settings.orders)) == (3, 2)
    assert settings.level == "complex"
    assert 0 < full.smallest_effect < math.inf
    assert full.cpu_hours > 0
    assert claim.scales["ci"].smallest_effect == math.inf  # two seeds decide nothing
    assert {STRUCTURE.system, LABELS.system, TOKENS.system} == {"tree-rm"}


def untrained(settings, folder):
    """Nearly uniform over words, so that replies end and differ: enough to see what becomes of them."""
    words = settings.world.vocabulary
    return LanguageModel.of(ModelRef(vocabulary=words, context=128), np.random.default_rng(0))


def test_a_seed_has_every_number_and_goes_on_when_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "_policy", untrained)
    ci = TOKENS.scales["ci"]
    tiny = replace(ci, seeds=(0,), params={**ci.params, "sizes": (16,), "steps": 2, "prompts": 4, "compared": 2})
    with Run.create(tmp_path, kind="claim", name="tree-rm", config={}, seed=0, id="r") as run:
        result = run_claim(replace(TOKENS, scales={"ci": tiny}), "ci", run)
    assert result.outcome == "inconclusive"
    row, arms = result.per_seed[0], ("tree", "chain-tokens")
    for arm in arms:
        by_prompt = [rate for name, rate in row.items() if name.startswith(f"prompt/{arm}/")]
        assert 2 <= len(by_prompt) <= 4
        assert np.mean(by_prompt) == pytest.approx(row[f"complex/16/{arm}/disagreement"])
    assert row["complex/16/tree/labels"] == 16 > row["complex/16/chain-tokens/labels"]  # a chain's pairs cost more
    assert row["complex/16/tree/tokens"] >= row["complex/16/chain-tokens/tokens"]
    folder = tmp_path / "r/artefacts/seeds/0"
    assert not (folder / "runs").exists()
    (folder / "tree-1.json").unlink()
    learnt, own = [], topology._learnt
    monkeypatch.setattr(topology, "_learnt", lambda *given: learnt.append(1) or own(*given))
    assert measure(tiny, 0, folder) == pytest.approx(dict(row), nan_ok=True)
    assert len(learnt) == 1


def test_the_tree_is_measured_once_for_all_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "_policy", untrained)
    arms = []
    own = topology._arm
    monkeypatch.setattr(topology, "_arm", lambda *given: arms.append(given[3:5]) or own(*given))
    rows = {}
    for claim in (STRUCTURE, LABELS):
        ci = claim.scales["ci"]
        tiny = replace(ci, seeds=(0,), params={**ci.params, "sizes": (16,), "steps": 2, "prompts": 4, "compared": 2})
        with Run.create(tmp_path, kind="claim", name=claim.name, config={}, seed=0) as run:
            rows[claim.name] = run_claim(replace(claim, scales={"ci": tiny}), "ci", run).per_seed[0]
    assert sorted(arms) == sorted(
        [(arm, (0, model)) for arm in ("tree", "independent-trees", "chain-labels") for model in range(topology.MODELS)]
    )
    one, other = rows.values()
    assert {name: x for name, x in one.items() if "/tree" in name} == pytest.approx(
        {name: x for name, x in other.items() if "/tree" in name}, nan_ok=True
    )


@pytest.mark.parametrize("changed", ["settings", "program", "reference"])
def test_an_arm_of_another_experiment_is_not_taken(tmp_path, changed):
    folder = tmp_path / "r/artefacts/seeds/0"
    with Run.create(tmp_path, kind="claim", name="tree-rm", config={}, seed=0, id="r"):
        settings = build(Settings, TOKENS.scales["ci"].params)
        reference = topology._Reference([], [], [], [], {}, {}, 7)
        asked = topology._asked(settings, reference, "tree", folder)
        other = tmp_path / "other/artefacts/seeds/0/tree-0.json"
        other.parent.mkdir(parents=True)
        write_json(other, {"asked": asked, "cells": {"complex/16": {"labels": 16}}})
        assert topology._known(asked, "tree-0.json", folder) == {"complex/16": {"labels": 16}}
        assert topology._known({**asked, changed: "another"}, "tree-0.json", folder) is None
        assert (
            topology._asked(settings.model_copy(update={"control": "chain-labels"}), reference, "tree", folder) == asked
        )
        other.write_text(other.read_text()[:40])
        assert topology._known(asked, "tree-0.json", folder) is None


def test_the_policy_writes_essays_and_is_the_same_every_time(tmp_path):
    settings = build(Settings, {**TOKENS.scales["ci"].params, "policy_steps": 40, "policy_rows": 200})
    policy = topology._policy(settings, tmp_path)
    reference = topology._reference(settings, policy)

    def fluent(own):
        """Share of segments that are productions."""
        parts = [text.strip() for one, _ in own.leaves for text in one.text.split(" .") if text.strip()]
        known = {settings.world.segment(k).removesuffix(" .") for k in range(settings.world.productions)}
        return np.mean([text in known for text in parts])

    assert fluent(reference) > 0.1 > 5 * fluent(topology._reference(settings, untrained(settings, tmp_path)))
    for level, world in settings.worlds.items():
        prompts = [str(reference.asked[t].prompt) for t in reference.prompt]
        gold = [
            world.judge(x, a.text).reward - world.judge(x, b.text).reward
            for x, (a, b) in zip(prompts, reference.leaves, strict=True)
        ]
        assert reference.gold[level].tolist() == gold
    for first, other in reference.near:
        words = [a != b for a, b in zip(first.text.split(), other.text.split(), strict=False)]
        assert 0 < sum(words) <= 3
    again = topology._policy(settings, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True))
    assert topology._reference(settings, again).digest == reference.digest
