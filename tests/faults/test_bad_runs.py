"""Run folders that are missing, damaged, foreign or in use."""

import json
import re
import shutil
from pathlib import Path

import pytest

from trueline.core import checkpoint
from trueline.core.run import Run, read_manifest

USE = ("--import", "fault_worlds")
TRAIN = (
    "train", "ppo-lag", "env=Drift-v0", "num_envs=2", "steps_per_epoch=40", "total_steps=120", "actor.hidden=[8]",
    "critic.hidden=[8]", "update.passes=1", "update.minibatch=20", "checkpoint_epochs=1", *USE,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from trueline.cli import main

    root = tmp_path_factory.mktemp("trained")
    with pytest.raises(SystemExit) as end:
        main([*TRAIN, "--root", str(root), "--id", "a"])
    assert end.value.code == 0
    return root / "a"


@pytest.fixture
def stopped(trained, tmp_path):
    """A copy of a run as it was after its last checkpoint, before the end was recorded."""
    shutil.copytree(trained, tmp_path / "a")
    edit(tmp_path / "a", status="running", ended=None)
    shutil.rmtree(tmp_path / "a" / "subject")
    return tmp_path / "a"


def edit(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(said, *words):
    assert said.code == 1, said.err
    assert said.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def test_a_run_killed_before_its_end_was_recorded_is_finished(trueline, stopped, trained):
    assert trueline("resume", "a", "--root", stopped.parent, *USE).code == 0
    assert read_manifest(stopped)["summary"] == read_manifest(trained)["summary"]


def test_resuming_a_finished_run_changes_nothing(trueline, trained):
    before = (trained / "manifest.json").read_bytes()
    said = trueline("resume", trained)
    assert said.code == 0
    assert said.last == str(trained)
    assert (trained / "manifest.json").read_bytes() == before


def test_missing_folder(trueline, tmp_path):
    refused(trueline("resume", tmp_path / "none" / "a"), "there is no run folder", "none/a")


def test_half_written_folder(trueline, stopped):
    (stopped / "manifest.json").unlink()
    refused(trueline("resume", stopped), "has no manifest")
    refused(trueline("resume", "a", "--root", stopped.parent), "has no manifest")


def test_damaged_manifest(trueline, stopped):
    text = (stopped / "manifest.json").read_text()
    (stopped / "manifest.json").write_text(text[: len(text) // 2])
    refused(trueline("resume", stopped), "manifest.json is damaged")


def test_folder_of_another_version(trueline, stopped):
    edit(stopped, format=99)
    refused(trueline("resume", stopped), "run format 99", "Use the version that wrote it")


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_damaged_checkpoint_names_the_file_and_the_one_before_it_serves(trueline, stopped, trained, name, harm):
    newest = checkpoint.latest(stopped / "checkpoints")
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(bytes(data[:-7]) if harm == "truncated" else bytes(data))
    refused(trueline("resume", stopped, *USE), str(newest / name), "Remove that checkpoint's folder")
    shutil.rmtree(newest)
    assert trueline("resume", stopped, *USE).code == 0
    assert read_manifest(stopped)["summary"] == read_manifest(trained)["summary"]


def test_damaged_config(trueline, stopped):
    (stopped / "config.toml").write_text("gamma = = 1\n")
    refused(trueline("resume", stopped, *USE), "config.toml cannot be read", "line 1")


def change(folder: Path, **settings: object) -> None:
    """Other values for settings at the top of config.toml."""
    path = folder / "config.toml"
    text = path.read_text()
    for key, value in settings.items():
        text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert found == 1, key
    path.write_text(text)


def test_changed_settings_are_listed_and_nothing_is_written(trueline, stopped):
    before = (stopped / "manifest.json").read_bytes()
    change(stopped, gamma=0.9, total_steps=240, checkpoint_epochs=3)
    said = trueline("resume", stopped, *USE)
    assert said.code == 2
    assert "run a was begun with other settings: gamma was 0.99 and is 0.9; total_steps was 120 and is 240" in said.err
    assert "only checkpoint_epochs, " in said.err
    assert (stopped / "manifest.json").read_bytes() == before


def test_a_finished_run_is_not_trained_longer_in_silence(trueline, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    change(tmp_path / "a", total_steps=240)
    assert "total_steps was 120 and is 240" in trueline("resume", tmp_path / "a", *USE).err


def test_harmless_changes_are_said_and_change_no_bit_of_the_subject(trueline, stopped, trained):
    for newest in sorted((stopped / "checkpoints").iterdir())[1:]:
        shutil.rmtree(newest)
    change(stopped, checkpoint_epochs=7)
    with (stopped / "config.toml").open("a") as file:
        file.write("\n[evaluation]\nevery = 1\nepisodes = 2\nfinal_episodes = 2\n")
    said = trueline("resume", stopped, *USE)
    assert said.code == 0, said.err
    assert "goes on with other settings: checkpoint_epochs was 1 and is 7; evaluation.episodes was not set" in said.err
    assert (stopped / "artefacts" / "best").is_dir()  # what was asked for on the way is done
    assert read_manifest(stopped)["summary"]["subject"] == read_manifest(trained)["summary"]["subject"]


def test_the_loops_declare_harmless_what_the_page_says():
    from trueline.core.config import harmless
    from trueline.language.online.settings import Online
    from trueline.language.supervised.settings import Training
    from trueline.rl.planning.training import Planning
    from trueline.rl.training import Settings as Loop

    words = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    sentence = re.search(r"old and new value; (.*?) may be changed", words, re.DOTALL)
    told = set(re.findall(r"`(\w+)`", sentence[1]))
    for config in (Loop, Planning, Online, Training):
        assert set(harmless(config)) == told & set(config.model_fields)
    assert told == {name for config in (Loop, Planning, Online, Training) for name in harmless(config)}


def test_a_file_written_anew_with_the_same_settings_is_no_change(trueline, stopped):
    path = stopped / "config.toml"
    path.write_text("# by hand\n" + path.read_text().replace("total_steps = 120", "total_steps = 1_20"))
    assert trueline("resume", stopped, *USE).code == 0


def test_altered_subject_is_not_audited(trueline, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    weights = next(path for path in (tmp_path / "a" / "subject").iterdir() if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    refused(trueline("audit", "a", "--root", tmp_path, *USE), weights.name, "altered")


def test_run_without_a_subject_is_not_audited(trueline, stopped):
    refused(trueline("audit", stopped, *USE), "holds no finished subject")


def test_two_processes_in_one_folder(trueline, stopped):
    # The lock belongs to the open file, so a second opening in this process is refused as one in another would be.
    with Run.reopen(stopped) as run:
        refused(trueline("resume", stopped, *USE), "run a is in use by process")
        run.finish("stopped")


def test_id_that_is_taken(trueline, trained):
    refused(trueline(*TRAIN, "--root", trained.parent, "--id", "a"), "there is already a run a")


def test_id_that_would_leave_the_folder(trueline, tmp_path):
    refused(trueline(*TRAIN, "--root", tmp_path, "--id", "../b"), "cannot be a run's id")
    assert not (tmp_path.parent / "b").exists()


def test_input_from_another_folder_of_runs(trueline, trained, tmp_path):
    refused(trueline(*TRAIN, "--root", tmp_path, "--input", f"policy={trained}"), "is not a run in")


def test_changed_input_is_noticed_at_resume(trueline, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    assert trueline(*TRAIN, "--root", tmp_path, "--id", "b", "--input", "policy=a").code == 0
    edit(tmp_path / "b", status="stopped")
    assert trueline(*TRAIN, "--root", tmp_path, "--id", "other", "--seed", 5).code == 0
    shutil.rmtree(tmp_path / "a" / "subject")
    shutil.copytree(tmp_path / "other" / "subject", tmp_path / "a" / "subject")
    refused(trueline("resume", "b", "--root", tmp_path, *USE), "has changed since it began")
