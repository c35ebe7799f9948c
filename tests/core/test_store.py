import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from trueline.core.errors import UnknownName
from trueline.core.executor import Processes
from trueline.core.run import Run
from trueline.core.store import Store


def make(root, id, kind="train", status="done", evidence=()):
    with Run.create(root, kind=kind, name="toy", config={}, seed=0, id=id) as run:
        for record in evidence:
            run.append_evidence(record)
        run.finish(status)
    return run


@pytest.fixture
def store(tmp_path):
    make(tmp_path, "apple-1")
    make(
        tmp_path, "apple-2", kind="audit", evidence=[{"audit": "a", "verdict": "pass"}, {"audit": "b", "value": "nan"}]
    )
    make(tmp_path, "pear", status="failed")
    return Store(tmp_path)


def ids(store, **filters):
    return [manifest["id"] for manifest in store.runs(**filters)]


def test_runs_are_listed_newest_first_and_filtered(store):
    assert ids(store) == ["pear", "apple-2", "apple-1"]
    assert ids(store, kind="train") == ["pear", "apple-1"]
    assert ids(store, kind="train", status="done") == ["apple-1"]
    assert ids(store, limit=1) == ["pear"]


def test_a_run_is_found_by_id_beginning_latest_or_path(store):
    assert store.find("pear") == store.find("p") == store.find("latest") == store.root / "pear"
    assert store.find(str(store.root / "apple-1")) == store.root / "apple-1"


def test_what_is_not_found_is_explained(store, tmp_path):
    with pytest.raises(UnknownName, match="2 runs begin with 'app': apple-2, apple-1"):
        store.find("app")
    with pytest.raises(UnknownName, match=r"Did you mean 'pear'\?.*all 3"):
        store.find("paer")
    with pytest.raises(UnknownName, match="there are no runs"):
        Store(tmp_path / "empty").find("latest")


def test_evidence_is_kept_in_order(store):
    assert store.evidence("apple-2") == [{"audit": "a", "verdict": "pass"}, {"audit": "b", "value": "nan"}]
    assert store.evidence("pear") == []


def contents(store):
    return store.runs(), [store.evidence(id) for id in ids(store)]


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty", "other version", "rebuild"])
def test_the_index_is_made_anew_from_the_folders(store, damage):
    expected = contents(store)
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    if damage == "missing":
        store.path.unlink()
    elif damage == "garbage":
        store.path.write_bytes(os.urandom(5000))
    elif damage == "empty":
        store.path.write_bytes(b"")
    elif damage == "other version":
        with sqlite3.connect(store.path) as database:
            database.execute("DROP TABLE runs")
            database.execute("PRAGMA user_version=77")
        database.close()
    else:
        store.rebuild()
    assert contents(Store(store.root)) == expected


def test_the_index_follows_the_folders(store):
    shutil.rmtree(store.root / "pear")
    shutil.copytree(store.root / "apple-1", store.root / "elsewhere")  # its manifest says apple-1: not that run
    (store.root / "half-written").mkdir()
    with Run.reopen(store.root / "apple-1") as run:
        run.append_evidence({"audit": "late"})
    assert ids(store) == ["apple-2", "apple-1"]
    assert store.evidence("apple-1") == [{"audit": "late"}]


def test_a_run_carries_on_when_the_index_cannot_be_written(tmp_path, capsys):
    (tmp_path / "index.sqlite").mkdir()
    with Run.create(tmp_path, kind="train", name="t", config={}, seed=0) as run:
        pass
    assert run.manifest["status"] == "done"
    assert "could not be entered in the index" in capsys.readouterr().err


def write_some(job):
    root, worker = job
    for number in range(4):
        make(root, f"w{worker}-{number}")
    return worker


def test_processes_and_threads_may_write_at_once(tmp_path):
    with Processes(2) as pool:
        pool.map(write_some, [(tmp_path, worker) for worker in range(2)])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_some, [(tmp_path, worker) for worker in range(2, 5)]))
    database = sqlite3.connect(tmp_path / "index.sqlite")
    assert database.execute("SELECT count(*) FROM runs WHERE status = 'done'").fetchone() == (20,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
