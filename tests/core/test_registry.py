import subprocess
import sys
from types import SimpleNamespace

import pytest

from trueline.core import registry
from trueline.core.errors import PluginError, UnknownName
from trueline.core.registry import Entry


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Writes modules and makes them the only installed plug-ins; the registry starts afresh and is put back after."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_found", {})
    monkeypatch.setattr(registry, "_modules", [])
    monkeypatch.setattr(registry, "_discovered", False)

    def install(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        points = [SimpleNamespace(name=name, value=name) for name in sources]
        monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: points)

    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def catalogue(*names, target="math:tau"):
    rows = "".join(f"Entry('recipe', {name!r}, {target!r}, 'a row'), " for name in names)
    return f"from trueline.core.registry import Entry\nENTRIES = ({rows})\n"


def test_an_installed_plugin_is_found_listed_and_loaded(plugins):
    plugins(fake_one=catalogue("b", "a"))
    assert [entry.name for entry in registry.entries("recipe")] == ["a", "b"]
    assert registry.entries("env") == []
    assert registry.find("recipe", "a").summary == "a row"
    assert registry.load("recipe", "a") == pytest.approx(6.283185307)


def test_an_unknown_name_hints(plugins):
    plugins(fake_two=catalogue("ppo-lag"))
    with pytest.raises(UnknownName, match="Did you mean 'ppo-lag'"):
        registry.find("recipe", "ppo-lga")


def test_a_broken_plugin_is_named_and_the_rest_works(plugins, capsys):
    plugins(fake_bad="1 / 0", fake_good=catalogue("a"), fake_odd="ENTRIES = (3,)")
    assert registry.find("recipe", "a")
    registry.entries()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "fake_bad" in warnings[0]
    assert "ZeroDivisionError" in warnings[0]
    assert "fake_odd" in warnings[1]


def test_two_plugins_with_one_name_are_both_named_and_other_names_work(plugins):
    plugins(fake_left=catalogue("a", "b"), fake_right=catalogue("a", target="math:pi"))
    assert registry.find("recipe", "b")
    with pytest.raises(PluginError, match=r"fake_left.*fake_right"):
        registry.find("recipe", "a")


def test_adding_is_idempotent_and_refuses_a_rival(plugins):
    plugins(fake_base=catalogue("a"))
    mine = Entry("audit", "x", "math:pi", "mine")
    registry.add(mine)
    registry.add(mine)
    assert registry.entries("audit") == [mine]
    with pytest.raises(PluginError, match=r"fake_base.*this program"):
        registry.add(Entry("recipe", "a", "math:e", "rival"))
    assert registry.find("recipe", "a").target == "math:tau"  # the rival left no trace


def test_a_module_of_the_users_is_imported_from_the_working_directory(plugins, tmp_path, monkeypatch):
    plugins()
    (tmp_path / "users_own.py").write_text(catalogue("mine"))
    registry.add_module("users_own")
    assert registry.find("recipe", "mine")
    assert registry.added_modules() == ("users_own",)
    with pytest.raises(PluginError, match="no module 'users_missing'"):
        registry.add_module("users_missing")


@pytest.mark.parametrize(
    ("target", "why"), [("math:nothing", "has no nothing"), ("no_such_module:x", "no_such_module")]
)
def test_a_wrong_target_is_explained_when_loaded(plugins, target, why):
    plugins(fake_wrong=catalogue("a", target=target))
    with pytest.raises(PluginError, match=why):
        registry.load("recipe", "a")


@pytest.mark.parametrize("fields", [{"kind": "recipes"}, {"level": "sure"}, {"target": "math.pi"}])
def test_entries_are_checked_when_written(fields):
    with pytest.raises(PluginError):
        Entry(**({"kind": "recipe", "name": "a", "target": "math:pi", "summary": ""} | fields))


def test_core_and_a_listing_load_neither_torch_nor_mujoco():
    code = (
        "import sys\n"
        "from trueline.core import checkpoint, config, errors, executor, files, metrics, progress, registry, run\n"
        "from trueline.core import segments, streams, subject\n"
        "registry.entries()\n"
        "heavy = {'torch', 'mujoco', 'matplotlib', 'sqlalchemy', 'tensorboard'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
