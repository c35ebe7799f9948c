import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from trueline.core import registry
from trueline.core.errors import ConfigError, Diverged, MissingExtra, Stopped
from trueline.core.executor import LISTEN_S, Inline, Processes, WorkerLost, executor
from trueline.core.stopping import interruptible, stop_asked


def power(base, exponent):
    return base**exponent


def diverge_on_two(item):
    if item >= 2:
        raise Diverged(item, "loss")
    return item


def surroundings(_):
    return os.getpid(), os.environ["OMP_NUM_THREADS"], registry.added_modules()


def die(_):
    os._exit(1)


@pytest.fixture(scope="module")
def pool():
    with Processes(2) as pool:
        yield pool


def test_results_keep_the_order_of_the_items(pool):
    squares = [n * n for n in range(7)]
    assert Inline().map(partial(power, exponent=2), range(7)) == squares
    assert pool.map(partial(power, exponent=2), range(7)) == squares
    assert pool.map(diverge_on_two, []) == []


def test_the_first_failing_item_speaks_with_its_own_error(pool):
    for any_executor in (Inline(), pool):
        with pytest.raises(Diverged) as caught:
            any_executor.map(diverge_on_two, [0, 1, 2, 3])
        assert caught.value.step == 2
        assert caught.value.__notes__[-1] == "in item 3 of 4 given to the executor"
        assert any_executor.map(diverge_on_two, [1]) == [1]  # and goes on working


def test_workers_are_other_processes_of_one_thread(pool):
    pids, threads, modules = zip(*pool.map(surroundings, range(4)), strict=True)
    assert os.getpid() not in pids
    assert set(threads) == {"1"}
    assert set(modules) == {registry.added_modules()}


def test_a_worker_that_dies_is_reported_and_the_next_map_starts_anew():
    with Processes(1) as pool:
        with pytest.raises(WorkerLost, match="worker process died"):
            pool.map(die, [0, 1])
        assert pool.map(diverge_on_two, [0]) == [0]


def test_a_function_no_other_process_can_import_is_refused(pool):
    with pytest.raises(TypeError, match="top level"):
        pool.map(lambda item: item, [1])


def test_names(monkeypatch):
    assert isinstance(executor("inline"), Inline)
    assert executor("processes", 3).workers == 3
    with pytest.raises(ConfigError, match="Did you mean 'processes'"):
        executor("proceses")
    with pytest.raises(ConfigError, match="workers is 0"):
        executor("processes", 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"trueline\[ray\]"):
        executor("ray", 2)


def test_ray_maps_in_order_and_leaves_the_cluster_it_started(monkeypatch):
    heard = []

    class TaskError(Exception):
        def __init__(self, cause):
            self.cause = cause

    def remote(num_cpus):
        return lambda fn: SimpleNamespace(remote=lambda *arguments: (fn, arguments))

    def get(reference):
        fn, arguments = reference
        try:
            return fn(*arguments)
        except Diverged as error:
            raise TaskError(error) from None

    ray = SimpleNamespace(
        is_initialized=lambda: "init" in heard,
        init=lambda **settings: heard.append("init"),
        shutdown=lambda: heard.append("shutdown"),
        remote=remote,
        get=get,
        wait=lambda references, timeout: (references, []),
        cancel=lambda reference: heard.append(("cancel", reference[1][1])),
        exceptions=SimpleNamespace(RayTaskError=TaskError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with executor("ray", 2) as cluster:
        assert cluster.map(partial(power, exponent=3), [3, 1, 2]) == [27, 1, 8]
        with pytest.raises(Diverged, match="step 2"):
            cluster.map(diverge_on_two, [0, 2, 3])
    assert heard == ["init", ("cancel", 3), "shutdown"]


def train(folder, item):
    """A training that begins, and comes to a checkpoint when a stop is asked for; a minute long if none is."""
    (folder / str(item)).touch()
    with interruptible():
        until = time.monotonic() + 60
        while not stop_asked() and time.monotonic() < until:
            time.sleep(0.01)
        if stop_asked():
            raise Stopped(f"training-{item}")


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_a_signal_to_the_process_that_maps_stops_all_its_items(kind, tmp_path):
    # `kill PID` and schedulers signal one process; the workers must hear of it, and what waits must not begin.
    def when_begun():
        while len(list(tmp_path.iterdir())) < (2 if kind == "processes" else 1):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    with executor(kind, 2) as pool:
        threading.Thread(target=when_begun, daemon=True).start()
        with interruptible(), pytest.raises(Stopped):
            pool.map(partial(train, tmp_path), range(8))
        assert not stop_asked()
        assert pool.map(partial(power, exponent=2), [3, 4]) == [9, 16]  # a stop is not for ever
    assert time.monotonic() - began < 45
    assert len(list(tmp_path.iterdir())) < 8


def finish(folder, seconds, item):
    """An item that knows no checkpoint."""
    (folder / str(item)).touch()
    time.sleep(seconds)


@pytest.mark.parametrize(("kind", "seconds"), [("inline", 0.3), ("processes", 0.01), ("processes", 1.0)])
def test_what_cannot_stop_is_finished_and_nothing_else_begins(kind, seconds, tmp_path):
    after = []

    def when_begun():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LISTEN_S + 0.5)  # the leader has looked, and the worker has heard
        after.append(len(list(tmp_path.iterdir())))

    teller = threading.Thread(target=when_begun, daemon=True)
    teller.start()
    with executor(kind, 1) as pool, interruptible():
        with pytest.raises(Stopped):
            pool.map(partial(finish, tmp_path, seconds), range(3000))
        teller.join()
    assert len(list(tmp_path.iterdir())) <= after[0] < 3000


def test_a_stop_after_the_last_item_is_not_for_the_next_map():
    with Processes(1) as pool:
        with interruptible():
            threading.Timer(0.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
            while not stop_asked():
                time.sleep(0.001)
            with pytest.raises(Stopped):
                pool.map(partial(power, exponent=2), [1])
        assert pool.map(partial(power, exponent=2), [3]) == [9]


def begin_and_wait(folder, item):
    """Outside `interruptible`: an evaluation, say, that a signal must not cut."""
    (folder / str(item)).touch()
    until = time.monotonic() + 60
    while not stop_asked() and time.monotonic() < until:
        time.sleep(0.01)
    (folder / f"{item}-whole").touch()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_cuts_no_item_and_all_end(number, tmp_path):
    # Ctrl-C in a terminal, `timeout`, systemd. One worker is busy, one is idle, and an idle one must not die of it.
    script = tmp_path / "leader.py"
    script.write_text(
        "import functools, pathlib, sys\n"
        "from test_executor import begin_and_wait, power\n"
        "from trueline.core.executor import Processes\n"
        "from trueline.core.stopping import interruptible, stop_asked\n"
        "if __name__ == '__main__':\n"
        "    with Processes(2) as pool, interruptible():\n"
        "        pool.map(functools.partial(power, exponent=2), [1, 2, 3, 4])\n"
        "        pool.map(functools.partial(begin_and_wait, pathlib.Path(sys.argv[1])), [0])\n"
        "        assert stop_asked()\n"
        "    print('ended')\n"
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    leader = subprocess.Popen(
        [sys.executable, str(script), str(marks)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        deadline = time.monotonic() + 60
        while not (marks / "0").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(leader.pid, number)
        said, _ = leader.communicate(timeout=60)
    finally:
        if leader.poll() is None:
            os.killpg(leader.pid, signal.SIGKILL)
    assert (leader.returncode, said) == (0, "ended\n")
    assert (marks / "0-whole").exists()


def test_workers_end_with_the_process_that_started_them(tmp_path):
    # A killed sweep must not go on in the background, holding cores and the locks of its runs.
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, pathlib, time\n"
        "from trueline.core.executor import executor\n"
        "def item(folder):\n"
        "    (pathlib.Path(folder) / 'worker').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        f"    executor('processes', 1).map(item, [{str(tmp_path)!r}])\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    note, deadline = tmp_path / "worker", time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(note.read_text())
    parent.kill()
    parent.wait()
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
