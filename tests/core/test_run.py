import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from trueline.core import checkpoint
from trueline.core.config import Config, digest
from trueline.core.errors import CheckpointError, ConfigError, DiskError, Diverged, RunError, Stopped
from trueline.core.metrics import EventFile, read_metrics
from trueline.core.run import FORMAT, Run, is_locked, read_evidence, read_manifest, resolve
from trueline.core.stopping import interruptible, stop_asked
from trueline.core.streams import Streams


class Settings(Config):
    steps: int = 6
    note: str | None = None


def make(root, **changes):
    given = {"kind": "train", "name": "toy", "config": Settings(), "seed": 5, "id": "toy-1"} | changes
    return Run.create(root, **given)


def train(run, until, *, save_at=(2, 4), die_after=None):
    """A toy that draws from both kinds of streams, logs, adds evidence, and can be cut off anywhere."""
    state = run.restore() if run.last_checkpoint else None
    total = state["total"] if state else np.zeros(2)
    for step in range(state["step"] + 1 if state else 0, until):
        total = total + run.rng("noise").normal(size=2)
        total[0] += torch.rand(1, generator=run.torch_rng("update")).item()
        run.log(step, **{"train/total": total[0]})
        run.append_evidence({"step": step})
        if step in save_at:
            run.save(step, {"step": step, "total": total})
        if die_after == step:
            return total
    return total


def child(code, *arguments, **options):
    """A Python process that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


# -- the manifest -----------------------------------------------------------------------------------------------------


def test_the_manifest_records_what_is_needed_to_repeat_the_run(tmp_path):
    with make(tmp_path, threads=2) as run:
        pass
    manifest = read_manifest(run.folder)
    assert manifest["config_digest"] == digest(Settings())
    assert (manifest["id"], manifest["kind"], manifest["seed"], manifest["threads"]) == ("toy-1", "train", 5, 2)
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["machine"]["cores"] == os.cpu_count()
    assert manifest["status"] == "done"
    assert manifest["started"] <= manifest["ended"]
    assert run.config == {"steps": 6}
    assert manifest == run.manifest


def test_the_time_of_every_process_counts(tmp_path, monkeypatch):
    clocks = {"process_time": 100.0, "monotonic": 1000.0}

    def work(cpu_s, wall_s):
        clocks["process_time"] += cpu_s
        clocks["monotonic"] += wall_s

    def stopped(run):
        with run:
            work(2.0, 3.0)
            raise Stopped(run.id)

    for name in clocks:
        monkeypatch.setattr(time, name, lambda name=name: clocks[name])
    run = make(tmp_path)
    with pytest.raises(Stopped):
        stopped(run)
    assert read_manifest(run.folder)["spent"] == {"cpu_s": 2.0, "wall_s": 3.0}
    work(50.0, 50.0)  # nobody had the run open
    with Run.reopen(run.folder) as again:
        work(5.0, 7.0)
        again.finish()
        work(1.0, 1.0)
    assert read_manifest(run.folder)["spent"] == {"cpu_s": 7.0, "wall_s": 10.0}


def test_an_id_is_made_from_time_and_name(tmp_path):
    with make(tmp_path, id=None, name="PPO lag/../x") as run:
        assert run.folder.parent == tmp_path
        assert re.fullmatch(r"\d{8}-\d{6}-PPO-lag-..-x-[0-9a-f]{4}", run.id)


@pytest.mark.parametrize("id", ["../x", "a/b", "", ".hidden", "a b"])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path, id):
    with pytest.raises(RunError, match="cannot be a run's id"):
        make(tmp_path / "runs", id=id)


def test_the_word_for_the_newest_run_is_no_id(tmp_path):
    with pytest.raises(RunError, match="'latest' is what the newest run is called by"):
        make(tmp_path, id="latest")
    assert not list(tmp_path.iterdir())


def test_an_id_is_used_once(tmp_path):
    make(tmp_path).close()
    with pytest.raises(RunError, match="already a run toy-1"):
        make(tmp_path)


def test_a_disk_full_from_the_start_leaves_no_half_written_folder(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError):
        make(tmp_path)
    assert not (tmp_path / "toy-1").exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "config.toml").write_text("= 3"), "config.toml cannot be read"),
        (lambda folder: shutil.rmtree(folder), "there is no run folder"),
    ],
)
def test_a_folder_that_is_no_whole_run_is_refused_and_left_unlocked(tmp_path, damage, why):
    make(tmp_path).close()
    damage(tmp_path / "toy-1")
    with pytest.raises(RunError, match=why):
        Run.reopen(tmp_path / "toy-1")
    assert not is_locked(tmp_path / "toy-1")


def test_another_format_version_is_refused(tmp_path):
    run = make(tmp_path)
    run.close()
    (run.folder / "manifest.json").write_text(json.dumps(run.manifest | {"format": 99}))
    with pytest.raises(RunError, match=f"run format 99, but this Trueline reads {FORMAT}"):
        Run.reopen(run.folder)


def test_whoever_reopens_a_run_meets_its_changed_settings(tmp_path):
    # A cycle, an audit or a claim has settings that are plain tables, nested and with lists of tables.
    given = {"seed": 1, "train": {"recipe": "ppo", "config": {"gamma": 0.99}}, "audit": [{"name": "a"}]}
    make(tmp_path, kind="cycle", config=given).close()
    path = tmp_path / "toy-1" / "config.toml"
    path.write_text(path.read_text().replace("0.99", "0.9").replace('"a"', '"b"') + "rounds = 3\n")
    with pytest.raises(ConfigError) as caught:
        Run.reopen(tmp_path / "toy-1")
    for said in ("audit was [{'name': 'a'}] and is [{'name': 'b'", "train.config.gamma was 0.99 and is 0.9", "rounds"):
        assert said in str(caught.value)
    assert "seed was" not in str(caught.value)
    assert not is_locked(tmp_path / "toy-1")


def test_another_number_of_threads_is_refused_and_the_right_one_named(tmp_path):
    make(tmp_path, threads=2).close()
    with pytest.raises(RunError, match="Resume it with threads=2"):
        Run.reopen(tmp_path / "toy-1", threads=4)
    Run.reopen(tmp_path / "toy-1", threads=2).close()


# -- one process at a time --------------------------------------------------------------------------------------------


def test_two_processes_cannot_open_one_run(tmp_path):
    run = make(tmp_path)
    assert is_locked(run.folder)
    other = child(
        """
        import sys
        from trueline.core.errors import RunError
        from trueline.core.run import Run
        try:
            Run.reopen(sys.argv[1])
        except RunError as error:
            print(error)
        """,
        run.folder,
    )
    said, _ = other.communicate(timeout=30)
    assert f"in use by process {os.getpid()}" in said
    run.close()
    assert not is_locked(run.folder)
    Run.reopen(run.folder).close()


# -- killed and resumed -----------------------------------------------------------------------------------------------


def without_time(path):
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in read_metrics(path)]


@pytest.mark.parametrize("die_after", [0, 2, 3, 4, 5])
def test_a_run_killed_anywhere_and_resumed_equals_one_never_interrupted(tmp_path, die_after):
    with make(tmp_path, id="straight") as straight:
        expected = train(straight, 8)
    broken = make(tmp_path, id="broken")
    train(broken, 8, die_after=die_after)
    broken.close()  # as the end of a process does: nothing is recorded
    assert read_manifest(broken.folder)["status"] == "running"
    with Run.reopen(broken.folder) as resumed:
        if resumed.last_checkpoint is None:
            assert resumed.restore() is None
        total = train(resumed, 8)
    assert total.tobytes() == expected.tobytes()
    assert without_time(resumed.folder / "metrics.jsonl") == without_time(straight.folder / "metrics.jsonl")
    assert read_evidence(resumed.folder) == read_evidence(straight.folder) == [{"step": step} for step in range(8)]
    sizes = [(run.folder / "events" / EventFile.NAME).stat().st_size for run in (resumed, straight)]
    assert sizes[0] == sizes[1]
    assert resumed.manifest["resumed"][0]["step"] == {0: None, 2: 2, 3: 2, 4: 4, 5: 4}[die_after]


def test_sigkill_in_the_middle_of_writing_loses_at_most_what_followed_the_checkpoint(tmp_path):
    process = child(
        """
        import sys
        import numpy as np
        from trueline.core.run import Run
        run = Run.create(sys.argv[1], kind="train", name="toy", config={}, seed=0, id="victim")
        for step in range(10**6):
            x = run.rng("a").random(1000)
            run.log(step, x=x[0])
            run.save(step, {"step": step, "x": x})
            if step == 5:
                print("going", flush=True)
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "going\n"
    process.kill()
    process.communicate()
    with Run.reopen(tmp_path / "victim") as run:
        state = run.restore()
        lines = list(read_metrics(run.folder / "metrics.jsonl"))
        assert [line["step"] for line in lines] == list(range(state["step"] + 1))
        # The stream goes on with the draw that follows the last one saved.
        fresh = Streams(0).rng("a")
        for _ in range(state["step"] + 1):
            last = fresh.random(1000)
        assert last.tobytes() == state["x"].tobytes()
        assert run.rng("a").random() == fresh.random()


def test_a_tampered_checkpoint_is_not_resumed_from(tmp_path):
    run = make(tmp_path)
    train(run, 5)
    run.close()
    tensors = checkpoint.latest(run.folder / "checkpoints") / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors"), Run.reopen(run.folder) as again:
        again.restore()
    assert len(list(read_metrics(run.folder / "metrics.jsonl"))) == 5  # nothing was cut


# -- signals ----------------------------------------------------------------------------------------------------------

SIGNALLED = """
    import signal, sys, time
    from trueline.core.errors import TruelineError
    from trueline.core.run import Run
    run = Run.create(sys.argv[1], kind="train", name="toy", config={}, seed=0, id="signalled")
    try:
        with run, run.interruptible():
            for step in range(10**6):
                run.log(step, x=step)
                print("step", flush=True)
                time.sleep(float(sys.argv[2]))
                run.save(step, {"step": step})
    except TruelineError as error:
        print(error)
        raise SystemExit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_ends_cleanly(tmp_path, number):
    process = child(SIGNALLED, tmp_path, 0.01)
    process.stdout.readline()
    process.send_signal(number)
    said, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "trueline resume signalled" in said
    assert "Traceback" not in complaints
    assert read_manifest(tmp_path / "signalled")["status"] == "stopped"
    with Run.reopen(tmp_path / "signalled") as run:
        state = run.restore()
        assert len(list(read_metrics(run.folder / "metrics.jsonl"))) == state["step"] + 1


def test_a_second_sigint_interrupts_at_once(tmp_path):
    process = child(SIGNALLED, tmp_path, 20)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "stopping at the next checkpoint" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == -signal.SIGINT
    assert read_manifest(tmp_path / "signalled")["status"] == "stopped"


def train_until_told_to_stop(root):
    with make(root, id="inner") as inner, inner.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        inner.save(1, {})


def test_a_stop_reaches_the_run_inside_and_the_one_around_it(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with make(tmp_path, id="outer") as outer, outer.interruptible():
        with pytest.raises(Stopped, match="inner"):
            train_until_told_to_stop(tmp_path)
        assert stop_asked()
        with pytest.raises(Stopped, match="outer"):
            outer.save(1, {})
    assert not stop_asked()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert read_manifest(tmp_path / "inner")["status"] == "stopped"


def test_outside_the_main_thread_nothing_is_installed():
    handler, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


# -- how a run ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Diverged(3, "critic/loss"), "diverged", "critic/loss is not finite at step 3"),
        (RunError("no."), "failed", "no."),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ],
)
def test_an_exception_is_recorded_and_passes_on(tmp_path, error, status, reason):
    with pytest.raises(type(error)), make(tmp_path) as run:
        raise error
    manifest = read_manifest(run.folder)
    assert manifest["status"] == status
    assert manifest["reason"].startswith(reason)
    assert not is_locked(run.folder)
    # Only what is our own fault needs a traceback.
    assert (run.folder / "artefacts" / "traceback.txt").exists() == isinstance(error, ZeroDivisionError)


def test_what_finish_said_stands(tmp_path):
    with make(tmp_path) as run:
        run.finish("stopped", {"return": np.float32(1.5), "cost": float("nan")}, reason="enough")
    manifest = read_manifest(run.folder)
    assert (manifest["status"], manifest["reason"]) == ("stopped", "enough")
    assert manifest["summary"] == {"return": 1.5, "cost": "nan"}
    with pytest.raises(ConfigError, match="status is 'finished'"):
        run.finish("finished")


def test_looking_into_a_finished_run_does_not_change_it(tmp_path):
    with make(tmp_path) as run:
        run.finish("done", {"a": 1})
    before = read_manifest(run.folder)
    with Run.reopen(run.folder) as again:
        again.write_json("more.json", [1])
    assert read_manifest(run.folder) == before


def test_a_full_disk_says_so_and_keeps_the_checkpoint(tmp_path, capsys):
    run = make(tmp_path)
    train(run, 3)
    run.close()
    (run.folder / "metrics.jsonl").unlink()
    (run.folder / "metrics.jsonl").symlink_to("/dev/full")
    said = r"metrics\.jsonl could not be written\. The last checkpoint is intact"
    with Run.reopen(run.folder) as again, pytest.raises(DiskError, match=said):
        again.log(3, x=1)
    assert checkpoint.read(run.last_checkpoint)["state"]["step"] == 2


# -- artefacts and references -----------------------------------------------------------------------------------------


def test_artefacts_stay_inside_and_are_found_by_reference(tmp_path):
    with make(tmp_path) as run:
        path = run.write_json("findings/x.json", {"cases": [1]})
        run.write_text("subject/notes.txt", "artefact before folder")
        for outside in ("../manifest.json", "/tmp/x", "a/../../x"):
            with pytest.raises(RunError, match="not a path inside"):
                run.artefact(outside)
    assert run.reference(path) == "run://toy-1/findings/x.json"
    assert resolve(run.reference(path), tmp_path) == path
    assert resolve("run://toy-1/manifest.json", tmp_path) == run.folder / "manifest.json"
    assert resolve("run://toy-1", tmp_path) == resolve("toy-1", tmp_path) == run.folder
    assert resolve(str(path), tmp_path) == path


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("run://toy-2/x", "run 'toy-2', which is not in"),
        ("run://../x", "which is not in"),
        ("run:///etc/passwd", "which is not in"),
        ("run://toy-1/no.json", "has no 'no.json'"),
        ("run://toy-1/../../x", "not a path inside"),
        ("nowhere", "no run or path 'nowhere'"),
    ],
)
def test_references_that_lead_nowhere_or_out_are_refused(tmp_path, reference, why):
    make(tmp_path).close()
    with pytest.raises(RunError, match=why):
        resolve(reference, tmp_path)


# -- watchers ---------------------------------------------------------------------------------------------------------


def test_what_a_watcher_finds_is_logged_beside_what_the_run_measures(tmp_path):
    with make(tmp_path) as run:
        run.offer(1, lambda: pytest.fail("nobody looks"))
        run.watch = lambda step, subject: {"own/twice": 2.0 * subject} if step > 1 else None
        for step in (1, 2, 3):
            run.log(step, **{"train/return": 1.0})
            run.offer(step, lambda: 21)
    rows = list(read_metrics(tmp_path / "toy-1" / "metrics.jsonl"))
    assert [(row["step"], row["own/twice"]) for row in rows if "own/twice" in row] == [(2, 42.0), (3, 42.0)]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"train/return": 0.0}, "'train/return', which the run measures itself"),
        ({"time/elapsed_s": 0.0}, "'time/elapsed_s', which the run measures itself"),
        ([1.0], "returned a list"),
        (np.ones(2), "returned a ndarray"),
    ],
)
def test_a_watcher_that_would_spoil_the_log_is_refused(tmp_path, found, why):
    with make(tmp_path) as run:
        run.watch = lambda step, subject: found
        run.log(1, **{"train/return": 1.0})
        with pytest.raises(ConfigError, match=why):
            run.offer(1, lambda: None)
    rows = list(read_metrics(tmp_path / "toy-1" / "metrics.jsonl"))
    assert [row["train/return"] for row in rows] == [1.0]
