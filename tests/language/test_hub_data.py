"""Data sets and models by their names on Hugging Face's hub, played by a local stand-in for its real libraries.

Those read the hub's address when they are imported, so that every call here is a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stub import COMMIT, hub_stub
from small_models import nano

from trueline.core.config import build
from trueline.core.errors import ConfigError, MissingExtra
from trueline.evidence.records import EvidenceError
from trueline.language.audits.prompts import PromptSettings, refuse_trained_on
from trueline.language.hub_data import HubData, hub_rows
from trueline.language.sources import Data, exposed, labelled_by, overlap, places_of, rows_of
from trueline.language.subject import History

CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train.jsonl}
  - {split: test, path: data/test.jsonl}
- config_name: long
  data_files: long.jsonl
- config_name: odd
  data_files: [data/train.jsonl, odd.jsonl]
---
"""
ASKS = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "ha"]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pair(asked, answer="abc"):
    return {"prompt": asked, "completion": answer}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Calls a function of Python text with the stand-in as the hub; what it printed last is what it found."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("model")
    subject = nano()
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    repositories = {
        "datasets/someone/pairs": {
            "README.md": CARD,
            "data/train.jsonl": lines([pair(ask) for ask in ASKS]),
            "data/test.jsonl": lines([pair("hg", "fe")]),
            "long.jsonl": lines([pair("ab", "abcdefgh")]),
            "odd.jsonl": lines([{"question": "ab"}]),
        },
        "datasets/someone/nothing": {"README.md": b"Nothing yet."},
        "models/someone/tiny": {file.name: file.read_bytes() for file in folder.iterdir()},
    }
    with hub_stub(repositories) as (address, asked):

        def call(*command, **settings):
            known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
            return subprocess.run(
                [sys.executable, *command],
                env=known | {"HF_ENDPOINT": address, "HF_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""} | settings,
                cwd=home,
                capture_output=True,
                text=True,
                timeout=300,
            )

        yield call, asked


READ = """
import json, sys
from trueline.core.errors import ConfigError
from trueline.language.sources import rows_of
found = []
for path, split in json.loads(sys.argv[1]):
    try:
        found.append([[number, dict(row)] for number, row in rows_of(path, split)])
    except ConfigError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def read(call, *wanted, **settings):
    ran = call("-c", READ, json.dumps(wanted), **settings)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_rows_are_those_of_the_split_configuration_and_revision_that_are_named(hub):
    call, _ = hub
    train, test, long, pinned = read(
        call,
        ("hub:someone/pairs", "train"),
        ("hub:someone/pairs", "test"),
        ("hub:someone/pairs/long", "train"),
        (f"hub:someone/pairs@{COMMIT}", "test"),
    )
    assert train == [[number, pair(ask)] for number, ask in enumerate(ASKS, 1)]
    assert test == pinned == [[1, pair("hg", "fe")]]
    assert long == [[1, pair("ab", "abcdefgh")]]


def test_what_cannot_be_had_is_one_sentence_with_the_name_and_what_the_hub_said(hub):
    call, _ = hub
    nobody, configuration, split, revision = read(
        call,
        ("hub:nobody/nothing", "train"),
        ("hub:someone/pairs/short", "train"),
        ("hub:someone/pairs", "valid"),
        ("hub:someone/pairs@gone", "train"),
    )
    assert nobody.startswith("hub:nobody/nothing (split 'train') cannot be had from the hub: ")
    assert "'short' not found. Available: ['default', 'long', 'odd']" in configuration
    assert """Unknown split "valid". Should be one of ['train', 'test']""" in split
    assert "gone" in revision
    for said in (nobody, configuration, split, revision):
        assert "\n" not in said
        assert said.endswith("Correct the name, or download the data set and give its folder.")


def test_what_has_the_right_name_is_not_said_to_be_misnamed(hub):
    call, _ = hub
    odd, nothing = read(call, ("hub:someone/pairs/odd", "train"), ("hub:someone/nothing", "train"))
    (unreached,) = read(call, ("hub:someone/unseen", "train"), HF_HUB_OFFLINE="1")
    assert "generating the dataset (Couldn't cast … because column names don't match)." in odd
    assert "contain any data files" in nothing
    assert "Couldn't reach 'someone/unseen'" in unreached
    for said in (odd, nothing, unreached):
        assert "\n" not in said
        assert said.endswith(" Download the data set and give its folder.")


def test_without_the_packages_that_read_data_their_extra_is_named(tmp_path, monkeypatch):
    saved, file = tmp_path / "saved", tmp_path / "rows.parquet"
    saved.mkdir()
    (saved / "state.json").touch()
    file.touch()
    for package in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    for path in ("hub:someone/pairs", str(saved), str(file)):
        with pytest.raises(MissingExtra, match=r'pip install "trueline\[language\]"'):
            list(rows_of(path))


def test_without_a_network_the_copy_is_read(hub):
    call, asked = hub
    wanted = [("hub:someone/pairs/long", "train"), ("hub:someone/pairs/default", "test")]
    online = read(call, *wanted)
    before = len(asked)
    assert read(call, *wanted, HF_HUB_OFFLINE="1") == online == [[[1, pair("ab", "abcdefgh")]], [[1, pair("hg", "fe")]]]
    assert len(asked) == before


def test_a_model_and_data_of_the_hub_are_trained_by_their_names(hub, tmp_path):
    call, asked = hub
    ran = call(
        "-m",
        "trueline.cli",
        "train",
        "sft",
        "model.name=someone/tiny",
        "data.path=hub:someone/pairs",
        "epochs=1",
        "batch_size=4",
        f"--root={tmp_path}",
        "--id=tuned",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert any(path.endswith("model.safetensors") for path in asked)
    assert History.of(json.loads((tmp_path / "tuned/subject/trueline.json").read_text())).trained_on == (
        "hub:someone/pairs [train]",
    )
    (source,) = json.loads((tmp_path / "tuned/artefacts/data.json").read_text())["sources"]
    assert source["name"] == f"hub:someone/pairs@{COMMIT}"


def test_a_reference_of_another_form_is_refused():
    assert HubData.of("hub:a/b") == ("a/b", None, None)
    assert HubData.of("hub:a/b-1.x/en@refs/convert/parquet") == ("a/b-1.x", "en", "refs/convert/parquet")
    for reference in ("hub:", "hub:a", "hub:a/", "hub:a/b/c/d", "hub:a/b@", "hub:../x", "hub:a/b c"):
        with pytest.raises(ConfigError, match=r"names no data set\. Write hub:OWNER/NAME"):
            hub_rows(reference)


def test_a_folder_of_that_name_is_not_taken_for_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a/b").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"here is a folder a/b, so hub:a/b could be either"):
        hub_rows("hub:a/b")


def test_the_commit_is_told_without_a_network_too(hub):
    call, _ = hub
    code = "from trueline.language.hub_data import hub_rows; print(hub_rows('hub:someone/pairs/long').reference)"
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert call("-c", code, **settings).stdout.splitlines()[-1] == f"hub:someone/pairs/long@{COMMIT}"


FORMS = ["hub:someone/pairs", "hub:someone/pairs@main", "hub:someone/pairs/default", f"hub:someone/pairs/en@{COMMIT}"]


@pytest.mark.parametrize("path", FORMS)
def test_data_of_the_hub_are_known_by_their_name_however_it_is_written(path):
    data = build(Data, {"path": path, "split": "test"})
    assert labelled_by(data) == ("labels:hub:someone/pairs",)
    assert exposed(data) == ("hub:someone/pairs [test]",)
    assert exposed(data.model_copy(update={"leave_for_audits": True})) == ()


def test_a_part_and_a_sum_of_splits_are_of_the_splits_that_they_are_made_of():
    assert places_of("hub:a/b", "train[:10%] + test") == ("hub:a/b [train]", "hub:a/b [test]")
    assert places_of("hub:a/b", "all") == ("hub:a/b",)
    assert overlap("hub:a/b", "hub:a/b [test]")
    assert overlap("hub:a/b [test]", "hub:a/b")
    assert not overlap("hub:a/b [train]", "hub:a/b [test]")
    assert not overlap("hub:a/b", "hub:a/bc [test]")


@pytest.mark.parametrize("path", FORMS)
def test_a_verdict_rests_on_a_split_of_the_hub_that_was_not_trained_on(path):
    class Trained:
        history = History(trained_on=exposed(build(Data, {"path": "hub:someone/pairs"})))

    settings = build(PromptSettings, {"path": path})
    refuse_trained_on(settings, Trained(), "respond")
    for split in ("train", "train[:5]", "test+train", "all"):
        with pytest.raises(EvidenceError, match=r"trained on every prompt of hub:someone/pairs( \[train\])?, so"):
            refuse_trained_on(settings.model_copy(update={"split": split}), Trained(), "verdict")
    refuse_trained_on(settings.model_copy(update={"split": "test"}), Trained(), "verdict")
