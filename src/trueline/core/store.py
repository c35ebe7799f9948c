"""The index over a folder of runs: an SQLite database that can always be thrown away.

The folders are the truth. `runs/index.sqlite` holds what listings ask for; it is brought up to date with the folders
whenever it is read, and made anew when it is missing, damaged or of another version.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from trueline.core.errors import RunError, UnknownName, nearest
from trueline.core.run import read_evidence, read_manifest

__all__ = ["Store"]

_VERSION = 1
_BUSY_S = 30.0

_schema = sa.MetaData()

_runs = sa.Table(
    "runs",
    _schema,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False, index=True),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("started", sa.String, nullable=False, index=True),
    sa.Column("ended", sa.String),
    sa.Column("config_digest", sa.String, nullable=False),
    sa.Column("stamp", sa.String, nullable=False),  # time and size of what was indexed: tells when to read it again
    sa.Column("manifest", sa.JSON, nullable=False),
)

_evidence = sa.Table(
    "evidence",
    _schema,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("principle", sa.String),
    sa.Column("audit", sa.String, index=True),
    sa.Column("metric", sa.String),
    sa.Column("verdict", sa.String, index=True),
    sa.Column("record", sa.JSON, nullable=False),
)

_prepared = threading.Lock()


class Store:
    """The runs in folder `root`, found and listed through its index.  Any number of processes may use it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.path = self.root / "index.sqlite"
        self._engine = sa.create_engine(
            f"sqlite:///{self.path}", poolclass=sa.NullPool, connect_args={"timeout": _BUSY_S}
        )

    def upsert(self, manifest: Mapping[str, Any]) -> None:
        """Enters or replaces one run and its evidence.  Raises `RunError` when the index cannot be written."""
        with self._connection() as connection:
            self._enter(connection, manifest)

    def runs(
        self, kind: str | None = None, status: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Manifests, newest first, of one kind and status if given, at most `limit`."""
        query = sa.select(_runs.c.manifest).order_by(_runs.c.started.desc(), _runs.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(_runs.c.kind == kind)
        if status is not None:
            query = query.where(_runs.c.status == status)
        with self._connection() as connection:
            self._follow(connection)
            return list(connection.scalars(query))

    def find(self, run: str) -> Path:
        """The folder of the run with that id or unique beginning of one, "latest", or a path to its folder.

        Raises `UnknownName` with the nearest id, or naming the candidates when several begin so.
        """
        if Path(run).name != run and (Path(run) / "manifest.json").exists():
            return Path(run)
        ids = [manifest["id"] for manifest in self.runs()]
        if run == "latest" and ids:
            return self.root / ids[0]
        if run in ids:
            return self.root / run
        begun = [id for id in ids if run and id.startswith(run)]
        if len(begun) == 1:
            return self.root / begun[0]
        if begun:
            raise UnknownName(f"{len(begun)} runs begin with {run!r}: {', '.join(begun[:5])}. Give more of the id.")
        if not ids:
            raise UnknownName(f"there are no runs in {self.root}. Start one with `trueline train`.")
        raise UnknownName(f"no run is called {run!r}.{nearest(run, ids)} `trueline runs` shows all {len(ids)}.")

    def evidence(self, run: str) -> list[dict[str, Any]]:
        """The evidence records of the run with that id, in the order they were found."""
        with self._connection() as connection:
            self._follow(connection)
            return list(
                connection.scalars(
                    sa.select(_evidence.c.record).where(_evidence.c.run == run).order_by(_evidence.c.line)
                )
            )

    def rebuild(self) -> None:
        """Throws the index away and reads every run folder again."""
        self._discard()
        with self._connection() as connection:
            self._follow(connection)

    # -- keeping the index true -----------------------------------------------------------------------------------

    def _follow(self, connection: sa.Connection) -> None:
        """Brings the index up to date with the folders: new and changed runs are read, vanished ones leave."""
        indexed = {row.id: row.stamp for row in connection.execute(sa.select(_runs.c.id, _runs.c.stamp))}
        present = {path.parent.name: path.parent for path in self.root.glob("*/manifest.json")}
        for id in indexed.keys() - present.keys():
            connection.execute(sa.delete(_runs).where(_runs.c.id == id))
            connection.execute(sa.delete(_evidence).where(_evidence.c.run == id))
        for id, folder in present.items():
            if indexed.get(id) != _stamp(folder):
                try:
                    manifest = read_manifest(folder)
                except RunError:
                    continue  # half-written, or another version's: not listed, and `find` by path says why
                if manifest["id"] == id:
                    self._enter(connection, manifest)

    def _enter(self, connection: sa.Connection, manifest: Mapping[str, Any]) -> None:
        id = manifest["id"]
        folder = self.root / id
        row = {name: manifest.get(name) for name in ("id", "kind", "name", "status", "seed", "started", "ended")}
        row |= {"config_digest": manifest["config_digest"], "stamp": _stamp(folder), "manifest": dict(manifest)}
        # The first statement writes, so SQLite waits for its turn here instead of failing halfway through.
        statement = insert(_runs).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
        connection.execute(sa.delete(_evidence).where(_evidence.c.run == id))
        lines = [
            {"run": id, "line": line, "record": record}
            | {name: record.get(name) for name in ("principle", "audit", "metric", "verdict")}
            for line, record in enumerate(read_evidence(folder))
        ]
        if lines:
            connection.execute(sa.insert(_evidence), lines)

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """One transaction on an index that exists and has our version; a damaged one is replaced first."""
        try:
            self._prepare()
        except _NotOurs:
            self._discard()
            self._prepare()
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise RunError(
                f"the index {self.path} cannot be used ({error.orig}). Delete that file; it is made anew from the runs."
            ) from None

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with _prepared:
                database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
                try:
                    version = database.execute("PRAGMA user_version").fetchone()[0]
                    if version == 0:
                        self._make(database)
                    elif version != _VERSION:
                        raise _NotOurs
                finally:
                    database.close()
        except sqlite3.OperationalError as error:
            raise RunError(f"the index {self.path} cannot be opened ({error}). Check the folder's rights.") from None
        except sqlite3.DatabaseError:
            raise _NotOurs from None

    def _make(self, database: sqlite3.Connection) -> None:
        _patiently(database, "PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process may have been first
            for table in _schema.sorted_tables:
                database.execute(str(sa.schema.CreateTable(table).compile(self._engine)))
                for index in table.indexes:
                    database.execute(str(sa.schema.CreateIndex(index).compile(self._engine)))
            database.execute(f"PRAGMA user_version={_VERSION}")
        database.execute("COMMIT")

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


class _NotOurs(Exception):
    """The index is damaged or of another version."""


def _patiently(database: sqlite3.Connection, statement: str) -> None:
    """Runs a statement that SQLite's own waiting does not cover (a change of journal mode) until it goes through."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            database.execute(statement)
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _stamp(folder: Path) -> str:
    """Changes whenever the manifest or the evidence does."""
    parts = []
    for name in ("manifest.json", "evidence.jsonl"):
        try:
            found = (folder / name).stat()
            parts.append(f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}")
        except FileNotFoundError:
            parts.append("-")
    return json.dumps(parts)
