"""The README, and pages with figures of benchmarks, say what the committed results and the registry say."""

import re
import sys
from pathlib import Path

import pytest

from trueline.core import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

sys.path.insert(0, str(ROOT / "benchmarks"))
import _tables as tables  # noqa: E402  the script that fills the README in


@pytest.mark.parametrize("page", tables.PAGES)
def test_every_table_is_the_committed_result(page):
    text = (ROOT / page).read_text()
    assert tables.filled(page, text) == text, "run `python benchmarks/_tables.py`"


def test_only_verified_names_are_counted():
    said = {plural: int(n) for n, plural in re.findall(r"(\d+)\s+(recipes|worlds|audits|responses)\b", README)}
    kinds = {"recipes": "recipe", "worlds": "env", "audits": "audit", "responses": "response"}
    ours = [e for e in registry.entries() if e.target.startswith("trueline.")]  # not the plug-ins of other tests
    verified = {p: sum(e.kind == k and e.level != "unverified" for e in ours) for p, k in kinds.items()}
    assert said == verified


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
