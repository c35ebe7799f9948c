import fcntl
import re
import tomllib

import numpy as np
import pytest

from trueline.core import registry
from trueline.core.config import Config, Harmless, build, fields, harmless
from trueline.core.errors import CheckpointError, ConfigError, RunError, Stopped
from trueline.core.registry import Entry
from trueline.core.resuming import refuse_changes, same_inputs
from trueline.core.run import Run, is_locked, read_manifest, status_of
from trueline.core.subject import save_subject


class Looks(Config):
    every: int = 1


class Settings(Config):
    steps: int = 6
    saved: Harmless[int] = 3
    looks: Harmless[Looks | None] = None


class Numbers:
    kind = "test-numbers"
    parent = None

    def __init__(self, values):
        self.values = values

    def save(self, folder):
        np.save(folder / "values.npy", np.array(self.values))


@pytest.fixture(autouse=True)
def _registered():
    registry.entries()
    registry.add(Entry("subject", "test-numbers", f"{__name__}:Numbers", "some numbers"))
    yield
    registry._found.pop(("subject", "test-numbers"))


def open_toy(root, **changes):
    given = {"kind": "train", "name": "toy", "config": Settings(), "seed": 5, "id": "toy"} | changes
    return Run.open_or_create(root, **given)


def begun(root, **changes):
    with open_toy(root, **changes) as run:
        run.finish("stopped")
    return run.folder


# -- what may be changed ----------------------------------------------------------------------------------------------


def test_settings_say_themselves_that_they_are_harmless_and_are_typed_as_before():
    assert harmless(Settings) == ["saved", "looks"]
    assert harmless(Looks) == []
    assert {f.key: f.type for f in fields(Settings)} == {
        "steps": "integer", "saved": "integer", "looks": "Looks | none", "looks.every": "integer",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="saved is 'often', but should be integer"):
        build(Settings, {"saved": "often"})


def test_those_who_inherit_a_harmless_setting_may_change_its_default():
    class Slow(Settings):
        saved: Harmless[int] = 1

    assert harmless(Slow) == ["saved", "looks"]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"saved": 9}, None),
        ({"looks": Looks(every=4)}, None),  # a table of that name, and all it holds
        ({"steps": 7}, "steps was 6 and is 7"),
        ({"saved": 9, "steps": 7}, "steps was 6 and is 7"),
    ],
)
def test_harmless_changes_are_said_and_others_refused(tmp_path, capsys, changes, refused):
    folder = begun(tmp_path)
    now = Settings(**changes)
    if refused is None:
        with open_toy(tmp_path, config=now) as run:
            assert build(Settings, run.config) == now
        assert build(Settings, tomllib.loads((folder / "config.toml").read_text())) == now
        assert "run toy goes on with other settings" in capsys.readouterr().err
        return
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=f"{refused}.*only saved, looks may be changed") as caught:
        open_toy(tmp_path, config=now)
    assert "saved was" not in str(caught.value)
    assert (folder / "manifest.json").read_bytes() == before
    assert not is_locked(folder)


def test_of_a_run_that_does_not_say_nothing_may_be_changed():
    manifest = {"id": "old", "config": "saved = 3\n"}
    with pytest.raises(ConfigError, match=r"saved was 3 and is 4\. Resume it .* or start a new run\.$"):
        refuse_changes(manifest, {"saved": 4})
    refuse_changes(manifest, {"saved": 3})


# -- the same run again -----------------------------------------------------------------------------------------------


def test_a_run_is_made_once_and_goes_on_after_that(tmp_path):
    assert status_of(tmp_path / "toy") is None
    with open_toy(tmp_path) as run:
        run.rng("a").random(3)
        run.save(1, {"x": np.ones(2)})
        run.finish("stopped")
    assert status_of(tmp_path / "toy") == "stopped"
    with open_toy(tmp_path) as again:
        assert again.restore()["x"].tolist() == [1.0, 1.0]
        assert again.manifest["started"] == run.manifest["started"]
    assert status_of(tmp_path / "toy") == "done"


def test_without_an_id_each_run_is_a_new_one(tmp_path):
    ids = {begun(tmp_path, id=None).name for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "play"}, "run toy is one of toy, not of play"),
        ({"seed": 6}, "run toy has seed 5, not 6"),
        ({"config": Settings(steps=7)}, "steps was 6 and is 7"),
        ({"threads": 2}, "was started with threads=1, and 2 would change its numbers"),
    ],
)
def test_a_run_does_not_go_on_as_something_else(tmp_path, changes, why):
    folder = begun(tmp_path)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises((ConfigError, RunError), match=re.escape(why)):
        open_toy(tmp_path, **changes)
    assert (folder / "manifest.json").read_bytes() == before
    assert not is_locked(folder)


def subject_of(root, id, values):
    with Run.create(root, kind="train", name="base", config={}, seed=0, id=id) as run:
        save_subject(Numbers(values), run.folder)
    return run.folder


def test_inputs_are_those_a_run_was_begun_with(tmp_path):
    one, two = subject_of(tmp_path, "one", [1]), subject_of(tmp_path, "two", [2])
    folder = begun(tmp_path, inputs={"base": one})
    with pytest.raises(ConfigError, match=r"begun with other inputs: base=one, not base=two\. Give those"):
        open_toy(tmp_path, inputs={"base": two})
    with pytest.raises(ConfigError, match="base=one, not none"):
        open_toy(tmp_path)
    assert same_inputs(read_manifest(folder), tmp_path) == {"base": one}
    open_toy(tmp_path, inputs={"base": "one"}).close()  # by its id
    save_subject(Numbers([3]), one)
    for refused in (
        lambda: open_toy(tmp_path, inputs={"base": one}),
        lambda: same_inputs(read_manifest(folder), tmp_path),
    ):
        with pytest.raises(CheckpointError, match=r"input 'base' of run toy \(run one\) has changed since it began"):
            refused()


def test_an_input_that_no_run_made_is_known_by_what_is_in_it(tmp_path):
    loose = tmp_path / "elsewhere" / "best"
    loose.mkdir(parents=True)
    save_subject(Numbers([1]), loose)
    folder = begun(tmp_path, inputs={"base": loose})
    open_toy(tmp_path, inputs={"base": loose}).close()
    assert same_inputs(read_manifest(folder), tmp_path) == {"base": loose / "subject"}
    save_subject(Numbers([2]), loose)
    for refused in (
        lambda: open_toy(tmp_path, inputs={"base": loose}),
        lambda: same_inputs(read_manifest(folder), tmp_path),
    ):
        with pytest.raises(CheckpointError, match=r"\(the folder .*best/subject\) has changed since it began"):
            refused()
    (loose / "subject").rename(loose / "moved")
    with pytest.raises(RunError, match=r"was the folder .*best/subject\. Put it back there"):
        same_inputs(read_manifest(folder), tmp_path)


# -- killed as it began -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left", [(), ("run.lock",), ("run.lock", ".config.toml.99.part"), ("config.toml", ".manifest.json.99.part")]
)
def test_what_a_run_killed_as_it_began_has_left_is_taken_over(tmp_path, left):
    folder = tmp_path / "toy"
    folder.mkdir()
    for name in left:
        (folder / name).write_text("half")
    assert status_of(folder) is None
    with open_toy(tmp_path) as run:
        names = {path.name for path in run.folder.iterdir()}
    with open_toy(tmp_path, id="straight") as straight:
        assert {path.name for path in straight.folder.iterdir()} == names
    assert (folder / "config.toml").read_bytes() == (straight.folder / "config.toml").read_bytes()


@pytest.mark.parametrize("name", ["thesis.txt", "thesis.part"])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, name):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / name).write_text("years of work")
    with pytest.raises(RunError, match="there is already a run toy"):
        open_toy(tmp_path)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == [name]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="there is already a run file"):
        open_toy(tmp_path, id="file")


def test_a_run_that_another_process_is_just_making_is_not_taken_over(tmp_path):
    (tmp_path / "toy").mkdir()
    with open(tmp_path / "toy" / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # belongs to the open file, so that it stands for another process
        lock.write("1234\n")
        lock.flush()
        with pytest.raises(RunError, match="in use by process 1234"):
            open_toy(tmp_path)
        assert [path.name for path in (tmp_path / "toy").iterdir()] == ["run.lock"]
    open_toy(tmp_path).close()


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_part_that_is_stopped_stops_the_whole_under_its_name(tmp_path):
    def trained_within(whole):
        with whole.interruptible(), open_toy(tmp_path, id="part") as part, part.interruptible():
            raise Stopped("part")

    with pytest.raises(Stopped) as caught, open_toy(tmp_path, id="whole") as whole:
        trained_within(whole)
    assert caught.value.run_id == "whole"
    assert [read_manifest(tmp_path / id)["status"] for id in ("whole", "part")] == ["stopped", "stopped"]
    assert "trueline resume part" in read_manifest(tmp_path / "part")["reason"]
    assert "trueline resume whole" in read_manifest(tmp_path / "whole")["reason"]
