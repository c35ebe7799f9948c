"""What a user may mistype: every answer names what was given and what to do, and leaves with 2, without a traceback."""

import pytest

SMALL = ("num_envs=2", "steps_per_epoch=20", "total_steps=20")
CYCLE = """
name = "c"
[train]
recipe = "ppo"
[[audit]]
name = "ethicality/episode-cost"
"""


@pytest.fixture
def refused(trueline, tmp_path):
    """Calls the command line, which must refuse in few lines and make no run; returns what it said."""

    def call(*argv, code=2):
        said = trueline(*argv, "--root", tmp_path / "runs")
        assert said.code == code, said.err
        assert said.err.startswith("error: ")
        assert "Traceback" not in said.err
        assert len(said.err.splitlines()) <= 3
        assert not list(tmp_path.glob("runs/*/manifest.json"))
        return said.err

    return call


def test_unknown_recipe_names_the_nearest(refused):
    assert "'ppo-lgg'. Did you mean 'ppo-lag'?" in refused("train", "ppo-lgg")


def test_unknown_world_names_the_nearest(trueline, tmp_path):
    said = trueline("train", "ppo", "env=SafetyPontGoal1-v0", "--root", tmp_path)
    assert said.code == 2
    assert "Did you mean 'SafetyPointGoal1-v0'?" in said.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("cost_limt=10", ("'cost_limt'", "Did you mean 'cost_limit'?")),
        ("update.lrr=1", ("'update.lrr'", "lr")),
        ("num_envs=four", ("num_envs", "'four'", "integer")),
        ("num_envs=2.5", ("num_envs", "2.5", "integer")),
        ("gamma=1.5", ("gamma", "1.5", "less than or equal to 1")),
        ("update.lr=-1e-3", ("update.lr", "-0.001", "greater than 0")),
        ("constraint.kind=barrier-of-steel", ("constraint", "barrier-of-steel", "lagrangian", "pid")),
        ("gamma", ("gamma", "key=value")),
        ("actor.hidden=[8, 0]", ("actor.hidden.1", "0", "greater than 0")),
    ],
)
def test_wrong_setting_is_named_with_what_is_allowed(refused, setting, words):
    said = refused("train", "ppo-lag", setting)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("recipe", "key"),
    [("sac", "actor.hidden"), ("sac", "critic.hidden"), ("pets", "model.hidden"), ("bcq", "actor.hidden")],
)
def test_a_layer_has_at_least_one_unit(refused, recipe, key):
    assert f"{key}.0 is -4, but should be greater than 0" in refused("train", recipe, f"{key}=[-4, 8]")


@pytest.mark.parametrize("recipe", ["cpo", "pcpo"])
def test_a_handler_on_an_update_that_solves_is_told_why_there_is_none(refused, recipe):
    said = refused("train", recipe, "constraint.kind=pid")
    assert "no setting is called 'constraint': the update solves for its limits and takes no handler. " in said
    assert "Did you mean" not in said
    assert "Did you mean 'constraint'?" in refused("train", "ppo-lag", "constrain.kind=pid")


def test_unknown_preset_names_those_there_are(refused):
    said = refused("train", "ppo-lag", "--preset", "quick")
    assert "'quick'" in said
    assert "faithful" in said


def test_package_that_is_not_installed(refused):
    assert "no module 'not_there'" in refused("train", "ppo", "--import", "not_there", code=1)


def test_executor_without_its_extra_says_how_to_install_it(refused):
    try:
        import ray  # noqa: F401
    except ImportError:
        assert 'pip install "trueline[ray]"' in refused("sweep", "ppo", *SMALL, "--executor", "ray")
    else:
        assert "no executor is called 'rya'" in refused("sweep", "ppo", *SMALL, "--executor", "rya")


def test_tracking_without_its_extra_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "trueline[tracking]"' in refused("train", "ppo", *SMALL, "--wandb")


def test_unknown_executor_names_those_there_are(refused):
    said = refused("sweep", "ppo", *SMALL, "--executor", "process")
    assert "Did you mean 'processes'?" in said


def test_wrong_value_anywhere_in_a_grid_is_refused_before_anything_trains(refused):
    assert "gamma" in refused("sweep", "ppo", *SMALL, "gamma=0.9,1.9")


def test_malformed_toml_names_file_and_line(refused, tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text('name = "c"\nseed = = 3\n')
    said = refused("cycle", path)
    assert "broken.toml" in said
    assert "line 2" in said


def test_missing_cycle_file(refused, tmp_path):
    assert "there is no settings file" in refused("cycle", tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('recipe = "ppo"|recipe = "pppo"', ("'pppo'", "Did you mean 'ppo'?")),
        ('name = "ethicality/episode-cost"|name = "ethicality/cost"', ("'ethicality/cost'",)),
        ('name = "c"|nam = "c"', ("'nam'", "Did you mean 'name'?")),
        ('recipe = "ppo"|recipe = "ppo"\nconfig = { gama = 0.9 }', ("'gama'", "Did you mean 'gamma'?")),
    ],
)
def test_wrong_name_in_a_cycle_is_found_before_anything_trains(refused, tmp_path, change, words):
    path = tmp_path / "cycle.toml"
    path.write_text(CYCLE.replace(*change.split("|")))
    said = refused("cycle", path)
    for word in words:
        assert word in said


def test_override_of_a_cycle_reaches_the_file_s_settings(refused, tmp_path):
    path = tmp_path / "cycle.toml"
    path.write_text(CYCLE)
    assert "rounds is 0" in refused("cycle", path, "rounds=0")


def test_unknown_kind_of_name(trueline):
    said = trueline("list", "recipees")
    assert said.code == 2
    assert "Did you mean 'recipes'?" in said.err


def test_unknown_option_is_usage(trueline):
    said = trueline("train", "ppo", "--sed", 1)
    assert said.code == 2
    assert "--seed" in said.err


@pytest.mark.parametrize("command", ["resume", "audit", "report"])
def test_run_that_is_not_there(trueline, tmp_path, command):
    said = trueline(command, "nothing", "--root", tmp_path)
    assert said.code in (1, 2)
    assert "error: " in said.err
    assert "trueline" in said.err


def test_debugging_shows_the_traceback(trueline, monkeypatch):
    monkeypatch.setenv("TRUELINE_DEBUG", "1")
    said = trueline("train", "ppo-lgg")
    assert "Traceback" in said.err
    assert said.code == 2


def test_unexpected_error_says_where_its_traceback_is(trueline, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("trueline.core.registry.entries", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = trueline("list", "recipes")
    assert said.code == 1
    assert "ZeroDivisionError: by nought" in said.err
    (path,) = tmp_path.glob("trueline-*.txt")
    assert str(path) in said.err
    assert "Traceback" in path.read_text()
