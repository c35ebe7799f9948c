"""A search: ranges from a file, trials ordered by their merit, and a killed search that proposes the same again."""

from __future__ import annotations

import json
import math
import sys

import pytest
from searched_recipe import OPTUNA, SEARCHED, Study

from trueline.core import registry
from trueline.core.config import build, to_toml
from trueline.core.errors import ConfigError, MissingExtra
from trueline.core.run import read_manifest
from trueline.cycle.search import (
    Choice,
    Numbers,
    SearchSpec,
    TrialRow,
    Whole,
    ranks,
    read_search,
    resume_search,
    run_search,
)

FILE = """
recipe = "searched"
trials = 5
parallel = 2
seeds = 2
[config]
noise = 0.5
[space]
rate = { low = 1e-4, high = 1.0, log = true }
size = { low = 1, high = 8 }
layers = [[8], [16, 16]]
"""


@pytest.fixture(autouse=True)
def _recipe(monkeypatch):
    registry.add_module("searched_recipe")
    monkeypatch.setattr(SEARCHED, "trained", [])
    monkeypatch.setattr(SEARCHED, "stop_at", None)
    monkeypatch.setattr(Study, "told", [])


@pytest.fixture
def optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", OPTUNA)


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "search.toml").write_text(FILE)
    return read_search(tmp_path / "search.toml")


# --- settings ---


def test_a_file_says_ranges_and_choices_by_their_form(spec):
    assert spec.space["rate"] == Numbers(low=1e-4, high=1.0, log=True)
    assert spec.space["size"] == Whole(low=1, high=8)
    assert spec.space["layers"] == Choice(values=([8], [16, 16]))


def test_dotted_keys_may_be_quoted_or_tables(tmp_path):
    for text in ('"update.lr" = { low = 0.1, high = 1.0 }', "update.lr = { low = 0.1, high = 1.0 }"):
        (tmp_path / "a.toml").write_text(f'recipe = "searched"\n[space]\n{text}\n')
        assert read_search(tmp_path / "a.toml").space == {"update.lr": Numbers(low=0.1, high=1.0)}


def test_a_search_is_written_and_read_back_as_it_was(spec):
    import tomllib

    assert build(SearchSpec, tomllib.loads(to_toml(spec))) == spec


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"rate": {"low": 1.0, "high": 0.1}}, "the smaller one as low"),
        ({"rate": {"low": 0.0, "high": 0.1, "log": True}}, "begin above 0"),
        ({}, "space is empty"),
        ({"rate": {"low": 0.1, "high": 1.0, "lgo": True}}, "lgo"),
    ],
)
def test_what_is_no_range_is_refused(space, said):
    with pytest.raises(ConfigError, match=said):
        build(SearchSpec, {"recipe": "searched", "space": space})


def test_settings_that_a_trial_could_not_be_trained_with_are_refused_before_anything_is_written(optuna, tmp_path):
    wrong = build(SearchSpec, {"recipe": "searched", "space": {"raet": {"low": 0.1, "high": 1.0}}})
    with pytest.raises(ConfigError, match="raet"):
        run_search(wrong, root=tmp_path / "runs")
    half = build(SearchSpec, {"recipe": "searched", "space": {"size": {"low": 0.5, "high": 1.5}}})
    with pytest.raises(ConfigError, match="size"):
        run_search(half, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_without_optuna_a_search_is_one_sentence(spec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match="a search for settings needs the extra 'search'"):
        run_search(spec, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# --- trials ---


def value(settings, seed):
    size, layers = settings["size"], settings["layers"]
    return -((math.log10(settings["rate"]) + 2) ** 2) - (size - 3) ** 2 + len(layers) + 0.5 * seed


def test_trials_are_means_over_seeds_and_the_best_keeps_its_limit(optuna, spec, tmp_path):
    folder, rows = run_search(spec, root=tmp_path, id="s")
    assert sorted(SEARCHED.trained) == sorted(f"s-t{t:03d}-s{s}" for t in range(5) for s in range(2))
    for row in rows:
        if row.settings["rate"] <= 0.5:
            expected = (value(row.settings, 0) + value(row.settings, 1)) / 2
            assert row.episode_return == pytest.approx(expected)
            assert row.costs == {"cost": row.settings["size"]}
        else:
            assert math.isnan(row.episode_return)  # diverged: counted, and last
    feasible = [row.settings["size"] <= 5 and row.settings["rate"] <= 0.5 for row in rows]
    assert feasible == sorted(feasible, reverse=True)
    assert feasible[0]
    returns = [row.episode_return for row, good in zip(rows, feasible, strict=True) if good]
    assert returns == sorted(returns, reverse=True)
    summary = read_manifest(folder)["summary"]
    assert summary == {"trials": 5, "feasible": sum(feasible), "best": rows[0].number}
    assert list(map(str, resume_search(folder))) == list(map(str, rows))  # text: nan is not itself
    table = json.loads((folder / "artefacts" / "table.json").read_text())
    assert [row["number"] for row in table] == [row.number for row in rows]


def test_optuna_is_told_ranks_of_every_trial_before_a_batch(optuna, spec, tmp_path):
    _, rows = run_search(spec, root=tmp_path, id="s")
    assert [len(told) for told in Study.told] == [0, 2, 4]
    by_number = sorted(rows, key=lambda row: row.number)
    for (params, rank), row in zip(Study.told[-1], by_number, strict=False):
        assert params["rate"] == row.settings["rate"]
        assert [[8], [16, 16]][params["layers"]] == row.settings["layers"]  # choices go by number
        better = [other for other in by_number[:4] if other.merit < row.merit]
        assert rank == len({other.merit for other in better})


def test_ranks_follow_merit_and_equals_share_one():
    def row(episode_return, cost):
        return TrialRow(0, {}, episode_return, {"c": cost}, {"c": 1.0})

    assert ranks([row(5.0, 2.0), row(0.0, 1.0), row(1.0, 0.0), row(0.0, 0.5), row(math.nan, 0.0)]) == [1, 2, 3, 2, 0]


def test_a_killed_search_goes_on_to_what_an_uninterrupted_one_is(optuna, spec, tmp_path):
    whole = run_search(spec, root=tmp_path / "a", id="s")[1]
    trained = len(SEARCHED.trained)
    SEARCHED.stop_at = "s-t003-s1"
    with pytest.raises(KeyboardInterrupt):
        run_search(spec, root=tmp_path / "b", id="s")
    assert read_manifest(tmp_path / "b" / "s")["status"] == "stopped"
    SEARCHED.stop_at = None
    resumed = resume_search(tmp_path / "b" / "s")
    assert list(map(str, resumed)) == list(map(str, whole))
    assert len(SEARCHED.trained) == 2 * trained + 1  # the interrupted one twice, nothing finished again


def test_the_same_id_goes_on_and_another_search_is_refused(optuna, spec, tmp_path):
    run_search(spec, root=tmp_path, id="s")
    count = len(SEARCHED.trained)
    run_search(spec, root=tmp_path, id="s")
    assert len(SEARCHED.trained) == count
    other = spec.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="was begun with other settings"):
        run_search(other, root=tmp_path, id="s")


def test_other_seeds_propose_other_trials(optuna, spec, tmp_path):
    one = run_search(spec, root=tmp_path, id="one")[1]
    two = run_search(spec.model_copy(update={"seed": 1}), root=tmp_path, id="two")[1]
    assert {row.settings["rate"] for row in one}.isdisjoint(row.settings["rate"] for row in two)


def test_a_preset_lies_under_every_trial(optuna, tmp_path):
    space = {"rate": {"low": 0.001, "high": 0.1}}
    spec = build(SearchSpec, {"recipe": "searched", "preset": "wide", "trials": 1, "space": space})
    assert spec.plan({"rate": 0.01}).settings().layers == (64,)


def test_optuna_itself_finds_the_best_settings(tmp_path):
    space = {"rate": {"low": 1e-4, "high": 0.5, "log": True}, "size": {"low": 1, "high": 8}, "layers": [[8], [16, 16]]}
    spec = build(SearchSpec, {"recipe": "searched", "trials": 40, "parallel": 4, "space": space})
    best = run_search(spec, root=tmp_path, id="s")[1][0]
    assert best.settings["size"] == 3
    assert best.settings["layers"] == [16, 16]
    assert abs(math.log10(best.settings["rate"]) + 2) < 0.5
