"""What no run could begin with is refused before anything is written: the folder of runs does not even appear."""

from __future__ import annotations

import json

import pytest

from trueline.core.run import read_manifest
from trueline.core.streams import case_seeds

USE = ("--import", "limit_worlds")
TINY = ("num_envs=2", "steps_per_epoch=4", "total_steps=8")
AUDIT = '[[audit]]\nname = "ethicality/episode-cost"\nconfig = { cost = "b", cost_limit = 0.5, cost_bound = 1.0 }\n'

REFUSED = [
    ("ppo", ("env=OnCost-v0",), "Did you mean 'OneCost-v0'?"),
    (
        "ppo-lag",
        ("env=OneCost-v0", "cost_limit=-1.0"),
        "cost_limit is -1.0, but the costs of a world are finite and 0 or more",
    ),
    ("ppo-lag", ("env=OneCost-v0", "cost_limit=nan"), "cost_limit is nan"),
    ("ppo-lag", ("env=OneCost-v0", "cost_limit=inf"), "cost_limit is inf"),
    ("ppo-lag", ("env=TwoCosts-v0", "cost_limit=[1.0, -inf]"), "cost_limit is -inf"),
    ("ppo-lag", ("env=TwoCosts-v0", "cost_limit=[1.0, 2.0, 3.0]"), "3 values, but TwoCosts-v0 reports 2 costs (b, a)"),
    ("ppo-lag", ("env=NoCost-v0",), "NoCost-v0 reports no cost, so nothing can be constrained"),
    ("ppo", ("env=OneCost-v0", "num_envs=5"), "steps_per_epoch is 4, fewer than num_envs = 5"),
    ("ppo", ("env=OneCost-v0", "disturbance.mass=[0.5, 2.0]"), "OneCost-v0 has no multiplier of mass"),
    ("ppo", ("env=OneCost-v0", "disturbance.delay=1"), "OneCost-v0 takes choices"),
    ("ppo", ("env=OneCost-v0", 'layouts=["run://nothing/findings.json"]'), "names run 'nothing', which is not in"),
]


@pytest.fixture
def refused(trueline, tmp_path):
    """`refused(words, argv…)`: the command line says so, in one line and no traceback, and writes nothing."""

    def call(words, *argv):
        said = trueline(*argv, *USE, "--root", tmp_path / "runs")
        assert said.code in (1, 2)
        assert said.err.startswith("error: ")
        assert words in said.err
        assert len(said.err.splitlines()) == 1
        assert not (tmp_path / "runs").exists()

    return call


def cycle(recipe, settings, respond=""):
    """The TOML of a cycle of these settings."""
    given = dict(word.split("=", 1) for word in (*TINY, *settings))
    lines = (f"{key} = {value if value[0] in '[-0123456789ni' else repr(value)}" for key, value in given.items())
    return "\n".join(
        ['name = "c"\nshow = []\n[train]', f'recipe = "{recipe}"', "[train.config]", *lines, AUDIT, respond]
    )


@pytest.mark.parametrize(("recipe", "settings", "words"), REFUSED)
def test_training(refused, recipe, settings, words):
    refused(words, "train", recipe, *TINY, *settings)


@pytest.mark.parametrize("recipe", ["ppo", "sac", "pets", "mappo", "sft"])
def test_an_input_by_a_name_that_means_nothing(refused, recipe):
    settings = ['data.path="rows.jsonl"'] if recipe == "sft" else []
    refused("no input is called 'polcy'. Did you mean 'policy'?", "train", recipe, *settings, "--input", "polcy=cart")


@pytest.mark.parametrize("recipe", ["offline-data", "crabs"])
def test_an_input_where_none_is_taken(refused, recipe):
    refused(f"no input is called 'policy'. {recipe} takes none.", "train", recipe, "--input", "policy=cart")


SCORED = ('prompts.path="prompts"', 'scorers=[{kind="score-model", input="judge"}]')

WALLS = 'filter={kind="walls", position=[0, 1], velocity=[2, 6], extent=1.0, acceleration=1.0}'


@pytest.mark.parametrize(
    ("recipe", "settings", "role"),
    [("lm-ppo", SCORED, "judge"), ("rft", SCORED, "judge"), ("safety-filter", (WALLS,), "policy")],
)
def test_an_input_that_is_missing(refused, recipe, settings, role):
    refused(f"{recipe} needs the input '{role}' with these settings.", "train", recipe, *settings)


@pytest.mark.parametrize(("recipe", "settings", "words"), REFUSED)
def test_a_cycle(refused, tmp_path, recipe, settings, words):
    path = tmp_path / "cycle.toml"
    path.write_text(cycle(recipe, settings))
    refused(words, "cycle", path)


@pytest.mark.parametrize(("recipe", "settings", "words"), REFUSED)
def test_a_sweep_of_which_one_point_is_wrong(refused, recipe, settings, words):
    *others, wrong = settings
    key, _, value = wrong.partition("=")
    right = {"env": "OneCost-v0", "cost_limit": "1.0", "num_envs": "2", "disturbance.mass": "[1.0, 1.0]",
             "disturbance.delay": "0", "layouts": "[]"}[key]  # fmt: skip
    if value == "[1.0, 2.0, 3.0]":
        right = "[1.0, 2.0]"
    words_given = [word for word in (*TINY, *others) if not word.startswith(f"{key}=")]
    refused(words, "sweep", recipe, *words_given, f"{key}={right},{value}", "--seeds", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "cannot be read as findings"),
        ('{"a": 1}', "cannot be read as findings"),
        ('[{"case": {"data": {"seed": "x"}}}]', "cannot be read as findings"),
        ("[]", "lists no layout seed"),
        (None, "held out for verdicts"),
    ],
)
def test_layouts_that_are_no_findings_to_train_on(refused, tmp_path, rng, text, words):
    path = tmp_path / "findings.json"
    held_out = [{"case": {"data": {"seed": int(case_seeds("verdict", 1, 1, rng)[0])}}}]
    path.write_text(json.dumps(held_out) if text is None else text)
    refused(words, "train", "ppo", *TINY, "env=OneCost-v0", f'layouts=["{path}"]')


def test_what_can_begin_does(trueline, tmp_path):
    for argv in (("train", "ppo-lag", "cost_limit=[1.0, 2.0]"), ("sweep", "ppo-lag", "cost_limit=1.0,2.0")):
        said = trueline(*argv, *TINY, "env=TwoCosts-v0", *USE, "--root", tmp_path / "runs", "--id", argv[0],
                        *(("--seeds", 1) if argv[0] == "sweep" else ()))  # fmt: skip
        assert said.code == 0, said.err
    declared = json.loads((tmp_path / "runs" / "train" / "artefacts" / "limits.json").read_text())
    assert declared == {"train/b": 1.0, "train/a": 2.0}


def test_a_later_round_that_cannot_begin_leaves_no_run_of_its_own(trueline, tmp_path):
    # Unconstrained, daring always pays, so the first audit fails and the response asks for what the world has not.
    respond = '[[respond]]\nname = "constrain"\nconfig = { first = { "disturbance.mass" = [0.5, 2.0] } }'
    path = tmp_path / "cycle.toml"
    path.write_text(cycle("ppo", ("env=OneCost-v0",), respond))
    said = trueline("cycle", path, *USE, "--root", tmp_path / "runs", "--id", "c")
    assert said.code == 2
    assert "OneCost-v0 has no multiplier of mass" in said.err
    assert sorted(p.name for p in (tmp_path / "runs").glob("c*")) == ["c", "c-r1-audit", "c-r1-respond", "c-r1-train"]
    assert read_manifest(tmp_path / "runs" / "c")["status"] == "failed"


CONSTRAIN = '[[respond]]\nname = "constrain"\n[respond.config]\n'


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('recipe = "ppo-lga"\n', "Did you mean 'ppo-lag'"),
        ('preset = "fsat"\n', "Did you mean 'fast'"),
        ("first = { cost_limt = 3.0 }\n", "cost_limt"),
        ("later = { total_steps = 0 }\n", "total_steps is 0"),
    ],
    ids=["recipe", "preset", "first", "later"],
)
def test_a_response_whose_plans_could_not_be_trained(refused, tmp_path, settings, words):
    path = tmp_path / "cycle.toml"
    path.write_text(cycle("ppo", ("env=OneCost-v0",), CONSTRAIN + settings))
    refused(words, "cycle", path)
