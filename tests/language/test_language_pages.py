"""The pages on language models name what there is, and their commands are such as the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from token_world import World, tiny

from trueline import api
from trueline.core.config import build, parse_override
from trueline.core.recipe import recipe_config
from trueline.core.run import Run
from trueline.core.subject import save_subject
from trueline.cycle.reproduction import claims_of
from trueline.language.audits.comparison import Comparing
from trueline.language.catalogue import ENTRIES
from trueline.language.subject import ScoreModel

torch.set_num_threads(1)
DOCS = Path(__file__).parents[2] / "docs"


def in_tables(page):
    """Whatever stands as `code` in the first cell of a row."""
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def names(kind):
    return {entry.name for entry in ENTRIES if entry.kind == kind}


def test_every_audit_and_every_recipe_is_in_its_table():
    assert names("audit") <= in_tables("audits.md")
    assert names("recipe") <= in_tables("language.md")


def commands(page, beginning):
    text = re.sub(r"\\\n\s*", " ", (DOCS / page).read_text())
    return [shlex.split(line) for line in text.splitlines() if line.startswith(beginning)]


def overridden(words):
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if before != "--input" and re.match(r"[a-z_.]+=", word)]


def nested(overrides):
    found = {}
    for (first, *rest), value in map(parse_override, overrides):
        if rest:
            found.setdefault(first, {})[rest[0]] = value
        else:
            found[first] = value
    return found


def test_the_commands_on_trees_and_chains_have_all_that_their_recipes_need():
    found = commands("language_topology.md", "trueline train")
    assert [words[2] for words in found] == ["preference-data", "reward-model"]
    for words in found:
        preset = words[words.index("--preset") + 1] if "--preset" in words else None
        assert recipe_config(words[2], preset, nested(overridden(words)))
    (claim,) = commands("language_topology.md", "trueline reproduce")
    said = int(re.search(r"# (\d+) seeds", (DOCS / "language_topology.md").read_text()).group(1))
    scale = claim[claim.index("--scale") + 1]
    assert {len(one.claim.scales[scale].seeds) for one in claims_of() if "tree-rm" in one.name} == {said}


def test_the_command_on_models_side_by_side_is_taken():
    (words,) = commands("language.md", "python -m trueline.language.audits.comparison")
    found = build(Comparing, {}, overridden(words))
    assert found.replies == 8
    assert found.proxy[0].input == "run://RM"


def test_the_example_of_a_watched_training_runs(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    reward = ScoreModel.of(tiny(4), ("reward",))
    torch.nn.init.normal_(reward.linear.weight, generator=torch.Generator().manual_seed(0))
    for id, subject in (("START", tiny()), ("RM", reward)):
        with Run.create(Path("runs"), kind="train", name="sft", config={}, seed=0, id=id) as run:
            save_subject(subject, run.folder)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", (DOCS / "language.md").read_text(), re.S)
               if "OptimisationWatch" in block]  # fmt: skip
    settings = {"prompts": {"path": str(world.prompts)}, "scorers": [{"kind": "score-model", "input": "help"}],
                "sampling": {"max_tokens": 3}, "batch_size": 4, "max_steps": 2, "eval_steps": 1}  # fmt: skip
    told = {"texts": ["x", "yx"], "worth": lambda asked, replies: [float(len(one.text)) for one in replies],
            "settings": settings}  # fmt: skip
    # Models of 32 tokens cannot say 28 more.
    exec(code.replace("max_tokens=28", "max_tokens=3"), told)
    points = told["watch"].points
    assert [point.label for point in points] == ["1", "2"]
    assert all(np.isfinite([point.kl.value, point.proxy.value, point.gold.value]).all() for point in points)
    assert api.load("START").history.judged_by == ()


def test_what_the_pages_link_to_is_there():
    pages = ("language.md", "language_topology.md", "audits.md")
    targets = {one for page in pages for one in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / page).read_text())}
    assert targets
    assert not [target for target in targets if not (DOCS / target).exists()]
