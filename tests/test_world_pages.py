"""The pages about worlds say what the code says: their tables, ids, pictures, links, tests and snippets."""

import ast
import re
import sys
from pathlib import Path

import pytest

from trueline.core import registry
from trueline.core.errors import MissingExtra

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "docs"))
import _world_tables as tables  # noqa: E402
import make_world_pages as making  # noqa: E402  the script that fills the pages in
from _world_pictures import PICTURES as FOLDER  # noqa: E402

PAGES = {page.stem: page for page in making.PAGES}
PICTURES = {path.name: path for path in FOLDER.iterdir()}
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def expanded(page: str) -> set[str]:
    """The ids of the families on one page."""
    patterns = [pattern for where, patterns in tables.FAMILIES.values() if where == page for pattern in patterns]
    return {id for pattern in patterns for id in tables.expanded(pattern)}


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@every_page
def test_every_table_is_the_codes(page):
    text = page.read_text(encoding="utf-8")
    assert making.filled(text) == text, "run `python docs/make_world_pages.py --tables`"


def test_every_table_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    assert [name for name in making.TABLES if f"<!-- {name} -->" not in text] == []


def test_a_pattern_stands_for_its_ids():
    assert [*tables.expanded("Safety{Point,Car}Goal{0,1}{,Vision}-v0")] == [
        *("SafetyPointGoal0-v0", "SafetyPointGoal0Vision-v0", "SafetyPointGoal1-v0", "SafetyPointGoal1Vision-v0"),
        *("SafetyCarGoal0-v0", "SafetyCarGoal0Vision-v0", "SafetyCarGoal1-v0", "SafetyCarGoal1Vision-v0"),
    ]


def test_the_pages_describe_every_world_there_is_and_no_other():
    kinds = ("env", "multi-agent env")
    # A user's environment in tensors is registered with a target of ours; other tests do that.
    users = "trueline.compat.omnisafe."
    entries = [entry for entry in registry.entries() if entry.kind in kinds and not entry.target.startswith(users)]
    ours = {entry.name for entry in entries if entry.target.startswith("trueline.")}
    described = set().union(*map(expanded, PAGES))
    assert described == ours


@every_page
def test_every_link_leads_somewhere(page):
    for target, place in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.is_file(), f"{page.name} links to {target}"
        if place:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.M)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert place[1:] in anchors, f"{target} has no heading {place}"


def test_every_picture_is_shown_and_small():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    assert [name for name in PICTURES if f"pictures/{name})" not in text] == []
    assert [name for name, path in PICTURES.items() if path.stat().st_size > 40_000] == []
    assert sum(path.stat().st_size for path in PICTURES.values()) < 3_000_000


@every_page
def test_every_named_test_exists(page):
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        assert not test or test in functions_of(file), f"{file} has no {test}"


@every_page
def test_every_snippet_runs(page):
    """Those of one page one after the other, as a reader would type them."""
    typed: dict[str, object] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
        try:
            exec(compile(snippet, page.name, "exec"), typed)
        except MissingExtra as error:
            pytest.skip(str(error))
