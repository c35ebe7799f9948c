"""One execution of a recipe, audit, cycle or claim: a locked folder that survives being killed at any moment.

    manifest.json  config.toml  metrics.jsonl  events/  checkpoints/step-000000123/
    artefacts/  subject/  evidence.jsonl  report.html

Whole files are replaced in one move. Append-only ones (metrics, events, evidence) are cut back, on resume, to where
they were at the restored checkpoint, so that a resumed run leaves the same bytes as one that was never interrupted,
clock times excepted. A lock held by the operating system, gone with the process, keeps two processes out of one folder.

A stop asked for by SIGINT or SIGTERM (inside `interruptible`) is answered by the next `save`: it writes its checkpoint
and raises `Stopped`. A second SIGINT interrupts at once.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat, get_args

import numpy as np
import tomli_w

from trueline.core import checkpoint
from trueline.core.checkpoint import State
from trueline.core.config import Config, differences, digest, harmless, to_toml
from trueline.core.errors import ConfigError, Diverged, RunError, Stopped, TruelineError
from trueline.core.files import inside, jsonable, write_json, write_text
from trueline.core.metrics import EventFile, JsonLines, Sink, as_scalars
from trueline.core.resuming import refuse_changes, refuse_other
from trueline.core.stopping import interruptible, stop_asked
from trueline.core.streams import Streams
from trueline.core.subject import Subject, describe

if TYPE_CHECKING:
    import torch

__all__ = [
    "FORMAT",
    "Run",
    "Status",
    "Watch",
    "found_by",
    "is_locked",
    "read_config",
    "read_evidence",
    "read_manifest",
    "resolve",
    "status_of",
]

FORMAT = 3

Status = Literal["running", "done", "stopped", "failed", "diverged"]

# (environment or gradient steps so far, the subject as it stands) -> numbers to log, by name.
Watch = Callable[[int, Subject], Mapping[str, float] | None]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PACKAGES = ("trueline", "numpy", "scipy", "torch", "mujoco", "gymnasium", "pydantic", "safetensors", "sqlalchemy")


def found_by(watch: Watch, step: int, subject: Subject) -> dict[str, float]:
    """The numbers that a watcher finds, {} for none.  Raises ConfigError for one that returns no mapping."""
    found = watch(step, subject)
    if found is not None and not isinstance(found, Mapping):
        raise ConfigError(f"the watch returned a {type(found).__name__}. Return a dict of numbers by name, or None.")
    return dict(found or {})


class Run:
    """The handle of one run's folder; make one with `Run.create`, `Run.reopen` or `Run.open_or_create`.

    As a context manager it records how it was left: an exception sets the status to stopped, diverged or failed with
    the reason; without one, what `finish` said stands ("done" if it said nothing).

    `folder`, `id`, `seed`; `config` is the dict that config.toml holds; `manifest` the dict of manifest.json, whose
    `spent` is the time of all processes that had the run open, up to when each last wrote the manifest: a stop is
    counted in, what a process did before it was killed is not.
    """

    follows = False  # whether another process writes this run; see rl/parallel.py

    def __init__(self, folder: Path, manifest: dict[str, Any], config: dict[str, Any], lock: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self.config = config
        self.id: str = manifest["id"]
        self.seed: int = manifest["seed"]
        self.restored_step: int | None = None
        self.watch: Watch | None = None  # the user's own look at the subject while it is trained
        self._lock = lock
        self._streams = Streams(self.seed)
        self._evidence = JsonLines(folder / "evidence.jsonl")
        self._sinks: dict[str, Sink] = {"metrics": JsonLines(folder / "metrics.jsonl")}
        self._sinks["events"] = EventFile(folder / "events")
        self._measured: set[str] = set()  # what the run itself has logged; a watcher's numbers have other names
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self._spent_before: Mapping[str, float] = manifest["spent"]

    # -- making and opening ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        root: Path | str,
        *,
        kind: str,
        name: str,
        config: Config | Mapping[str, Any],
        seed: int,
        inputs: Mapping[str, Path | str] | None = None,
        id: str | None = None,
        threads: int = 1,
    ) -> Self:
        """Makes and locks the folder `root/id` of a new run.

        `inputs` names the subjects it starts from: folders of runs or subjects, recorded by run id and hash. `threads`
        is the number of compute threads the caller has set, since other numbers of threads give other bits. `id` is
        made from the time and `name` unless given. What a run that was killed as it began has left is taken over.
        Raises `RunError` when the id is taken or cannot be one, or an input is missing.
        """
        root = Path(root)
        now = datetime.now(UTC)
        described = {key: describe(resolve(str(path), root)) for key, path in (inputs or {}).items()}
        text = to_toml(config) if isinstance(config, Config) else tomli_w.dumps(_without_none(config))
        Streams(seed)  # refuses a bad seed before a folder exists
        id = _new_id(name, now) if id is None else id
        if not _ID.fullmatch(id):
            raise RunError(f"{id!r} cannot be a run's id. Use letters, digits, dots, dashes and underscores.")
        if id == "latest":
            raise RunError(f"{id!r} is what the newest run is called by. Give the run another id.")
        folder = root / id
        lock = _new_folder(folder)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "id": id,
            "kind": kind,
            "name": name,
            "seed": seed,
            "config_digest": digest(config) if isinstance(config, Config) else _text_digest(text),
            "config": text,  # config.toml as it was: a user may have edited the file when the run is resumed
            "harmless": harmless(type(config)) if isinstance(config, Config) else [],  # what may be changed of it
            "inputs": described,
            "status": "running",
            "reason": "",
            "summary": {},
            "started": now.isoformat(timespec="milliseconds"),
            "ended": None,
            "resumed": [],
            "spent": {"cpu_s": 0.0, "wall_s": 0.0},
            "threads": threads,
            "python": platform.python_version(),
            "versions": _versions(),
            "git": _git_commit(),
            "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "platform": platform.platform()},
        }
        try:
            write_text(folder / "config.toml", text)
            write_json(folder / "manifest.json", manifest)  # last: a folder without it is half-written
        except BaseException:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        run = cls(folder, jsonable(manifest), tomllib.loads(text), lock)
        run._index()
        return run

    @classmethod
    def reopen(cls, folder: Path | str, *, threads: int | None = None) -> Self:
        """Opens and locks an existing run's folder.

        Raises `RunError` when it is missing, half-written, of another format version, in use by another process, or
        was started with another number of `threads`; ConfigError as `refuse_changes` for a config.toml that was edited.
        """
        folder = Path(folder)
        read_manifest(folder)
        lock = _take_lock(folder)
        try:
            manifest = read_manifest(folder)  # again: the other process may have written before it let go
            if threads is not None and manifest["threads"] != threads:
                raise RunError(
                    f"run {manifest['id']} was started with threads={manifest['threads']}, and {threads} would "
                    f"change its numbers. Resume it with threads={manifest['threads']}."
                )
            config = read_config(folder)
            refuse_changes(manifest, config)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, manifest, config, lock)

    @classmethod
    def open_or_create(
        cls,
        root: Path | str,
        *,
        kind: str,
        name: str,
        config: Config | Mapping[str, Any],
        seed: int,
        inputs: Mapping[str, Path | str] | None = None,
        id: str | None = None,
        threads: int = 1,
    ) -> Self:
        """The run `root/id`: reopened where it was begun before, else made; always a new one without an id.

        So goes on whoever knows a run by its id: a cycle its rounds, a sweep its points, a user the sweep itself.
        Harmless settings that are others now are written down. Raises as `create` and `reopen`, and as `refuse_other`
        where the run was begun as something else.
        """
        if id is None or status_of(Path(root) / id) is None:
            return cls.create(
                root, kind=kind, name=name, config=config, seed=seed, inputs=inputs, id=id, threads=threads
            )
        folder = Path(root) / id
        given = {role: resolve(str(path), root) for role, path in (inputs or {}).items()}
        refuse_other(read_manifest(folder), name=name, config=config, seed=seed, inputs=given)
        run = cls.reopen(folder, threads=threads)
        if isinstance(config, Config) and differences(run.config, config):  # harmless ones, or it had been refused
            text = to_toml(config)
            write_text(folder / "config.toml", text)
            run.config = tomllib.loads(text)
        return run

    def close(self) -> None:
        """Closes the sinks and gives the lock back; idempotent."""
        for sink in (*self._sinks.values(), self._evidence):
            sink.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if self.manifest["status"] == "running":
                    self.finish("done")
            else:
                self._fail(error)
        finally:
            self.close()

    def _fail(self, error: BaseException) -> None:
        status: Status = "failed"
        if isinstance(error, Stopped | KeyboardInterrupt):
            status = "stopped"
        elif isinstance(error, Diverged):
            status = "diverged"
        reason = str(error) if isinstance(error, TruelineError) else f"{type(error).__name__}: {error}".rstrip(": ")
        try:
            if not isinstance(error, TruelineError | KeyboardInterrupt):
                self.write_text("traceback.txt", "".join(traceback.format_exception(error)))
            self._end(status, reason, self.manifest["summary"])
        except (TruelineError, OSError) as second:
            # The error that brought us here (perhaps the same full disk) is the one the user must see.
            print(f"trueline: how run {self.id} ended could not be recorded. {second}", file=sys.stderr)

    # -- randomness and metrics -----------------------------------------------------------------------------------

    def rng(self, name: str) -> np.random.Generator:
        """The NumPy stream `name` of the run's seed; its state is in every checkpoint."""
        return self._streams.rng(name)

    def torch_rng(self, name: str) -> "torch.Generator":
        """The torch stream `name` of the run's seed; its state is in every checkpoint."""
        return self._streams.torch_rng(name)

    def log(self, step: int, **scalars: SupportsFloat) -> None:
        """Writes single numbers (nan and infinities too) to every sink; a "/" in a name groups: **{"train/return": 1}.

        Adds `time/elapsed_s`, seconds since this process opened the run.
        """
        self._write(step, as_scalars(scalars))
        self._measured |= scalars.keys()

    def _write(self, step: int, values: dict[str, float]) -> None:
        values["time/elapsed_s"] = time.monotonic() - self._began
        for sink in self._sinks.values():
            sink.write(int(step), values)

    def offer(self, step: int, subject: Callable[[], Subject]) -> None:
        """Lets the watcher, if there is one, look at the subject as it stands, and logs what it found.

        `subject` is only called when somebody looks. Recipes call this once an epoch. Raises ConfigError for a watcher
        that returns no mapping, or gives a number the name of one that the run measures itself.
        """
        if self.watch is None:
            return
        found = found_by(self.watch, step, subject())
        taken = sorted(name for name in found if name in self._measured or name.startswith("time/"))
        if taken:
            raise ConfigError(f"the watch returned {taken[0]!r}, which the run measures itself. Give it another name.")
        if found:
            self._write(step, as_scalars(found))

    def add_sink(self, name: str, sink: Sink) -> None:
        """Sends metrics to one more sink, closed with the run."""
        self._sinks[name] = sink

    def append_evidence(self, record: Mapping[str, Any]) -> None:
        """Appends one line to evidence.jsonl."""
        self._evidence.append(record)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, step: int, state: State) -> Path:
        """Writes a checkpoint of `state`, the random streams and the metrics' offsets.

        Raises `Stopped` once it is written if a signal asked for a stop, `DiskError` when the disk is full (the last
        checkpoint stays).
        """
        offsets = {name: sink.offset() for name, sink in self._sinks.items()}
        offsets["evidence"] = self._evidence.offset()
        whole = {"state": state, "streams": self._streams.state_dict(), "offsets": offsets}
        path = checkpoint.write(self.folder / "checkpoints", int(step), whole)
        if stop_asked():
            raise Stopped(self.id)
        return path

    def restore(self) -> State | None:
        """Goes back to the last checkpoint: streams and metrics as they were, the caller's state returned.

        Without a checkpoint everything returns to the start and the result is None. `restored_step` is its step. Marks
        the run as running again.
        """
        path = self.last_checkpoint
        whole = checkpoint.read(path) if path else None
        offsets: dict[str, int] = whole["offsets"] if whole else {}
        for name, sink in self._sinks.items():
            sink.cut(offsets.get(name, 0))
        self._evidence.cut(offsets.get("evidence", 0))
        self._streams.load_state_dict(whole["streams"] if whole else Streams(self.seed).state_dict())
        self.restored_step = checkpoint.step_of(path) if path else None
        self.manifest.update(status="running", reason="", ended=None)
        self.manifest["resumed"] = [*self.manifest["resumed"], {"at": _now(), "step": self.restored_step}]
        self._write_manifest()
        return whole["state"] if whole else None

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint's folder, or None."""
        return checkpoint.latest(self.folder / "checkpoints")

    # -- what a run leaves ----------------------------------------------------------------------------------------

    def artefact(self, name: str) -> Path:
        """The path `artefacts/name`, its parents made.  Raises `RunError` when it would lie elsewhere."""
        root = self.folder / "artefacts"
        root.mkdir(exist_ok=True)
        path = inside(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Writes the artefact `name` as strict JSON in one move and returns its path."""
        path = self.artefact(name)
        write_json(path, value)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Writes the artefact `name` as UTF-8 text in one move and returns its path."""
        path = self.artefact(name)
        write_text(path, text)
        return path

    def reference(self, path: Path) -> str:
        """The `run://ID/…` by which another run's config names an artefact of this one."""
        root = self.folder / "artefacts"
        return f"run://{self.id}/{path.relative_to(root if path.is_relative_to(root) else self.folder).as_posix()}"

    def parent(self, role: str = "policy") -> str | None:
        """The id of the run that made the input `role`; None without that input, or where no run made it."""
        run: str | None = self.manifest["inputs"].get(role, {}).get("run")
        return run

    def finish(self, status: Status = "done", summary: Mapping[str, Any] | None = None, reason: str = "") -> None:
        """Records how the run ended, with a summary (JSON) for listings, in the manifest and the index."""
        if status not in get_args(Status):
            raise ConfigError(f"status is {status!r}, but should be one of {', '.join(get_args(Status))}.")
        self._end(status, reason, summary or {})

    def _end(self, status: Status, reason: str, summary: Mapping[str, Any]) -> None:
        self.manifest.update(status=status, reason=reason, summary=jsonable(summary), ended=_now())
        self._write_manifest()

    def _write_manifest(self) -> None:
        now = {"cpu_s": time.process_time() - self._cpu_began, "wall_s": time.monotonic() - self._began}
        self.manifest["spent"] = {clock: self._spent_before[clock] + s for clock, s in now.items()}
        write_json(self.folder / "manifest.json", self.manifest)
        self._index()

    def _index(self) -> None:
        from trueline.core.store import Store

        try:
            Store(self.folder.parent).upsert(self.manifest)
        except (TruelineError, OSError) as error:
            # The index is a cache: listing rebuilds it from the folders, so a run never fails for it.
            print(f"trueline: run {self.id} could not be entered in the index. {error}", file=sys.stderr)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM stop this run, or a run inside it, at the next `save`: `Stopped` names this run.

        The id of a part is no use to who asked for the whole.
        """
        with interruptible():
            try:
                yield
            except Stopped:
                raise Stopped(self.id) from None


# -- looking at runs --------------------------------------------------------------------------------------------------


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of the run in `folder`.  Raises `RunError` when missing, half-written or of another version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}. `trueline runs` lists the runs.")
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        version, _ = manifest["format"], (manifest["id"], manifest["seed"], manifest["threads"], manifest["status"])
    except FileNotFoundError:
        raise RunError(f"{folder} has no manifest: it is no run, or one killed as it began. Start it again.") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise RunError(f"{folder}/manifest.json is damaged. Put it back, or start the run again.") from None
    if version != FORMAT:
        raise RunError(
            f"{folder} has run format {version}, but this Trueline reads {FORMAT}. Use the version that wrote it."
        )
    return manifest


def status_of(folder: Path | str) -> Status | None:
    """How the run in `folder` stands; None where there is none, or one that was killed as it began.

    Raises as `read_manifest`.
    """
    if not (Path(folder) / "manifest.json").exists():
        return None
    status: Status = read_manifest(folder)["status"]
    return status


def read_config(folder: Path | str) -> dict[str, Any]:
    """What config.toml of the run in `folder` holds.  Raises `RunError` when it cannot be read."""
    path = Path(folder) / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}). Start the run again.") from None


def read_evidence(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's evidence.jsonl, a last one cut short by a crash left out; empty when there is none."""
    path = Path(folder) / "evidence.jsonl"
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            records.append(json.loads(line))
        except ValueError:
            raise RunError(f"line {number} of {path} is damaged. Remove that line to read the rest.") from None
    return records


def is_locked(folder: Path | str) -> bool:
    """Whether a process has the run in `folder` open now; "running" without it means that the process was killed."""
    try:
        lock = os.open(Path(folder) / "run.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def resolve(reference: str, root: Path | str) -> Path:
    """The path behind `run://ID/artefact` under `root`: the run's artefact of that name, else its file of that name.

    `run://ID` is the run's folder; the id of a run under `root`, or a plain path, is taken too. Raises `RunError` when
    it does not exist or would leave the run's folder.
    """
    root = Path(root)
    if not reference.startswith("run://"):
        for path in (root / reference if _ID.fullmatch(reference) else Path(reference), Path(reference)):
            if path.exists():
                return path
        raise RunError(f"there is no run or path {reference!r}. `trueline runs` lists the runs in {root}.")
    id, _, name = reference.removeprefix("run://").partition("/")
    if not _ID.fullmatch(id) or not (root / id).is_dir():
        raise RunError(f"{reference} names run {id!r}, which is not in {root}. `trueline runs` lists the runs.")
    if not name:
        return root / id
    for folder in (root / id / "artefacts", root / id):
        path = inside(folder, name)
        if path.exists():
            return path
    raise RunError(f"run {id} has no {name!r}. Look into {root / id / 'artefacts'} for what it left.")


# -- facts for the manifest -------------------------------------------------------------------------------------------


def _new_folder(folder: Path) -> int:
    """Makes the folder of a new run and locks it; returns the lock.  Raises `RunError` when it is taken."""
    _refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(folder)
    try:
        _refuse_taken(folder)  # again: another process may have been first
    except RunError:
        os.close(lock)
        raise
    for part in folder.glob(".*.part"):
        part.unlink()
    return lock


def _refuse_taken(folder: Path) -> None:
    """Raises `RunError` where there is more than a run leaves that is killed before its manifest is written."""
    if not folder.exists():
        return
    left = folder.iterdir() if folder.is_dir() else [folder]
    if not all(path.name in ("run.lock", "config.toml") or path.match(".*.part") for path in left):
        raise RunError(f"there is already a run {folder.name} in {folder.parent}. Resume it, or give another id.")


def _take_lock(folder: Path) -> int:
    """An open file that holds the folder's lock until it is closed, by us or by the end of the process."""
    lock = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for attempt in range(4):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # `is_locked` in another process holds the lock for a moment; a run holds it for good.
            if attempt == 3:
                owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(lock)
                raise RunError(
                    f"run {folder.name} is in use by process {owner}. Wait for it to end, or stop it with Ctrl-C."
                ) from None
            time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _new_id(name: str, now: datetime) -> str:
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "run"
    return f"{now:%Y%m%d-%H%M%S}-{plain}-{secrets.token_hex(2)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _without_none(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if value is not None
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit of the repository the user works in, with "+" when files differ from it; None outside of one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        if commit.returncode != 0:
            return None
        changed = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
