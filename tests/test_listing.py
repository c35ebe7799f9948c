"""The catalogue says nothing that is not so: every name leads to its object, every verified one to its test."""

import ast
from pathlib import Path

import pytest

from trueline.core import registry

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = [entry for entry in registry.entries() if entry.target.startswith("trueline.")]


def name(entry: registry.Entry) -> str:
    return f"{entry.kind} {entry.name}"


def functions_of(path: Path) -> set[str]:
    """The test functions of a file, those of classes as Class::test."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            found |= {f"{node.name}::{method}" for method in methods if method.startswith("test")}
    return found


def test_something_is_registered():
    assert {"recipe", "env", "subject"} <= {entry.kind for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_target_loads(entry):
    assert registry.load(entry.kind, entry.name) is not None


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_summary_is_one_line_without_an_end(entry):
    assert entry.summary.strip() == entry.summary != ""
    assert "\n" not in entry.summary


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.level != "unverified"], ids=name)
def test_level_is_backed_by_a_test_that_exists(entry):
    file, _, function = entry.test.partition("::")
    assert file.startswith("tests/"), f"{entry.test!r} names no test"
    assert (ROOT / file).is_file(), f"there is no {file}"
    assert not function or function.partition("[")[0] in functions_of(ROOT / file), f"{file} has no {function}"


def test_what_is_unverified_names_no_test():
    assert [entry.name for entry in ENTRIES if entry.level == "unverified" and entry.test] == []


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.kind == "recipe"], ids=name)
def test_every_preset_of_a_recipe_is_valid(entry):
    from trueline.core.recipe import recipe_config

    recipe = registry.load("recipe", entry.name)
    # What no preset can know: where a user's data lie.
    users = {"data": {"path": "rows.jsonl"}, "prompts": {"path": "rows.jsonl"}}
    users |= {"scorers": [{"kind": "score-model"}], "judges": [{"kind": "score-model"}]}
    given = {key: value for key, value in users.items() if key in recipe.Config.model_fields}
    for preset in recipe.presets:
        recipe_config(entry.name, preset, given)
