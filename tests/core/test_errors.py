import pickle
from pathlib import Path

import pytest

from trueline.core.errors import BadWorld, Diverged, MissingExtra, Stopped, TruelineError, UnknownName, unknown


def test_an_unknown_name_is_answered_with_the_nearest_and_where_to_look():
    text = unknown("recipe", "ppo-lga", ["ppo-lag", "trpo-lag", "cpo"])
    assert text == "no recipe is called 'ppo-lga'. Did you mean 'ppo-lag'? `trueline list recipes` shows all there are."
    assert "`trueline list multi-agent-envs` shows all there are." in unknown("multi-agent env", "a", ["b"])
    assert "`trueline list text-data` shows all there are." in unknown("text-data", "a", ["b"])
    # What no registry holds is named outright.
    assert unknown("text world", "cypher", ["cipher", "essay"]).endswith(
        "Did you mean 'cipher'? There are cipher, essay."
    )


@pytest.mark.parametrize(
    ("shown_by", "end"),
    [
        ((), "There are ab, cd."),
        (("trueline x",), "`trueline x` shows all there are."),
        (("trueline x", "trueline y"), "`trueline x` and `trueline y` show all there are."),
        (("trueline x", "trueline y", "trueline z"), "`trueline x`, `trueline y` and `trueline z` show all there are."),
    ],
)
def test_where_all_names_are_shown_may_be_said(shown_by, end):
    # Also of a kind that has a list: the names may be others than those on it.
    assert unknown("recipe", "ba", ["ab", "cd"], shown_by) == f"no recipe is called 'ba'. {end}"


def test_no_nearest_name_is_invented():
    assert "Did you mean" not in unknown("recipe", "zzz", ["ppo-lag"])


def test_a_bad_world_is_named_by_what_is_known_of_it():
    said = str(BadWorld("SafetyPointGoal1-v0", "reward", env=3, step=8))
    assert "(environment 3, step 8)" in said
    assert "that layout seed" not in said  # there is none in the sentence


@pytest.mark.parametrize(
    "error",
    [
        Diverged(12, "actor/loss", Path("runs/a/checkpoints/step-000000010")),
        BadWorld("SafetyPointGoal1-v0", "reward", env=3, step=8),
        MissingExtra("ray", "the executor"),
        Stopped("20260101-a"),
        UnknownName("no such thing"),
    ],
)
def test_errors_cross_process_borders_with_sentence_and_fields(error):
    # The default reduction calls class(message); classes with fields would fail there and hang a worker pool.
    error.add_note("in item 3")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
    assert isinstance(back, TruelineError)
    assert back.exit_code == error.exit_code


def test_divergence_names_step_tensor_and_last_good_checkpoint():
    text = str(Diverged(12, "actor/loss", Path("step-000000010")))
    assert "step 12" in text
    assert "actor/loss" in text
    assert "step-000000010" in text
    assert "No checkpoint" in str(Diverged(1, "x"))


def test_missing_extra_says_what_to_type():
    assert 'pip install "trueline[ray]"' in str(MissingExtra("ray", "the executor"))
