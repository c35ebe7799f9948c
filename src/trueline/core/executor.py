"""Executors: `map` over this process, processes of this machine, or a Ray cluster.

One small interface for sweeps, seeds, populations, clients and tiles. The function must be one that another process can
import (defined at the top level of a module, or a `functools.partial` of one). Results come in the order of the items.

A signal reaches one process. Where it is turned into a request to stop (`core/stopping.py`), the executor passes the
request on to its workers, begins nothing more, and raises `Stopped`, which the run around it gives its name.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from trueline.core import registry
from trueline.core.errors import ConfigError, MissingExtra, Stopped, TruelineError, nearest
from trueline.core.stopping import stop_asked, stop_for_good

__all__ = ["Executor", "Inline", "Processes", "Ray", "WorkerLost", "executor"]

T = TypeVar("T")
R = TypeVar("R")

LISTEN_S = 0.2  # between two looks at whether a stop was asked for


class Executor(Protocol):
    """Anything that maps.  The first item, in their order, that failed has its exception raised, its index noted."""

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`[fn(item) for item in items]`, perhaps elsewhere and at once.  Raises `Stopped` when one was asked for."""
        ...

    def close(self) -> None:
        """Lets its workers go; idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exit: Any) -> None: ...


class WorkerLost(TruelineError):
    """A worker process ended without an answer: killed, or out of memory."""


class _Closing:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to let go."""


class Inline(_Closing):
    """One item after the other, in this process."""

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`[fn(item) for item in items]`."""
        listed = list(items)
        results = []
        for index, item in enumerate(listed):
            if stop_asked():
                raise Stopped()
            try:
                results.append(fn(item))
            except Exception as error:
                _note(error, index, len(listed))
                raise
        return results


class Processes(_Closing):
    """A pool of `workers` fresh Python processes of one compute thread each, started at the first `map` and kept."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}, but should be 1 or more.")
        self.workers = workers
        self._pool: _Pool | None = None
        self._begun: list[Future[Any]] = []

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """As `Executor.map`; what has not begun when an item fails is dropped.  Raises `WorkerLost`."""
        _importable(fn)
        listed = list(items)
        if not listed:
            return []
        if stop_asked():
            raise Stopped()
        if self._pool is None:
            self._pool = _Pool(self.workers)
        futures: list[Future[R]] = [self._pool.submit(fn, item) for item in listed]
        self._begun = list(futures)
        results = []
        for index, future in enumerate(futures):
            try:
                self._pool.await_all([future], futures)
                results.append(future.result())
            except BrokenProcessPool:
                self.close()
                if stop_asked():  # the signal reached a worker that could not take it yet
                    raise Stopped() from None
                raise WorkerLost(
                    f"a worker process died while item {index + 1} of {len(listed)} was awaited. "
                    f"Use fewer workers if memory ran out."
                ) from None
            except BaseException as error:
                for waiting in futures:
                    waiting.cancel()
                if stop_asked():
                    self.close()
                if future.cancelled():
                    raise Stopped() from None
                _note(error, index, len(listed))
                raise
        if self._pool.told:
            self.close()
        return results

    def close(self) -> None:
        """Ends the workers once they are done with what they began."""
        if self._pool is not None:
            for waiting in self._begun:
                waiting.cancel()
            self._pool.await_all(self._begun, self._begun)
            self._pool.close()
            self._pool, self._begun = None, []


class _Pool:
    """Worker processes that can be told, once and for all, to stop what they do.

    They watch one end of a pipe, and what is written to the other is never read, so that all of them see it. Closing
    it instead would tell nobody where a process forked off this one holds the other end as well.
    """

    def __init__(self, workers: int) -> None:
        # spawn, not fork: a forked child inherits locks held by torch's and MuJoCo's threads.
        context = multiprocessing.get_context("spawn")
        self._watched, self._line = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=(registry.added_modules(), self._watched)
        )
        self.told = False

    def submit(self, fn: Callable[[T], R], item: T) -> Future[R]:
        return self._pool.submit(_unless_stopped, fn, item)

    def await_all(self, awaited: Sequence[Future[Any]], droppable: Sequence[Future[Any]]) -> None:
        """Until all of them are done; when a stop is asked for, workers are told and what has not begun is dropped."""
        while True:
            if stop_asked() and not self.told:
                self.told = True
                self._line.send_bytes(b"stop")
                for future in droppable:
                    future.cancel()
            if not wait(awaited, LISTEN_S).not_done:
                return

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._watched.close()
        self._line.close()


class Ray(_Closing):
    """Tasks of one CPU on the Ray cluster this process is connected to, or a local one; needs the extra "ray"."""

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "the executor 'ray'") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """As `Executor.map`."""
        _importable(fn)
        task = self._ray.remote(num_cpus=1)(_ray_task)
        modules = registry.added_modules()
        waiting = [task.remote(fn, item, modules) for item in items]
        results = []
        for index, reference in enumerate(waiting):
            ready = False
            while not ready:
                if stop_asked():  # a task cannot be told; its run has the last checkpoint that it wrote
                    for other in waiting[index:]:
                        self._ray.cancel(other)
                    raise Stopped()
                ready = bool(self._ray.wait([reference], timeout=LISTEN_S)[0])
            try:
                results.append(self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as error:
                for other in waiting[index + 1 :]:
                    self._ray.cancel(other)
                cause = error.cause if isinstance(error.cause, Exception) else error
                _note(cause, index, len(waiting))
                raise cause from None
        return results

    def close(self) -> None:
        """Leaves the cluster if this object joined it."""
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


def executor(name: str = "inline", workers: int = 1) -> Executor:
    """The executor called "inline", "processes" or "ray".  Raises `ConfigError` for another name."""
    known: dict[str, Callable[[], Executor]] = {
        "inline": Inline,
        "processes": lambda: Processes(workers),
        "ray": lambda: Ray(workers),
    }
    if name not in known:
        raise ConfigError(f"no executor is called {name!r}.{nearest(name, known)} Use one of {', '.join(known)}.")
    return known[name]()


def _note(error: BaseException, index: int, count: int) -> None:
    error.add_note(f"in item {index + 1} of {count} given to the executor")


def _importable(fn: Callable[..., Any]) -> None:
    inner = fn.func if isinstance(fn, functools.partial) else fn
    name = getattr(inner, "__qualname__", "")
    if "<" in name:
        raise TypeError(f"{name} is defined inside a function; give executors a function at the top level of a module")


def _begin_worker(modules: Sequence[str], line: connection.Connection) -> None:
    """One thread per worker (workers x threads would fight for the cores), and the user's modules registered.

    A signal to all processes at once, as of Ctrl-C in a terminal, is no worker's death: an idle one would die with the
    lock in its hands that the others need to end.
    """
    signal.signal(signal.SIGINT, _asked_by_signal)
    signal.signal(signal.SIGTERM, _asked_by_signal)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:  # a main module that imports torch did so before this ran
        torch.set_num_threads(1)
    for module in modules:
        registry.add_module(module)
    threading.Thread(target=_listen, args=(line,), name="listen to the parent", daemon=True).start()


def _asked_by_signal(_number: int, _frame: object) -> None:
    stop_for_good()


def _listen(line: connection.Connection) -> None:
    """Asks this worker for a stop when its parent says so on `line`, and ends it when the parent is gone.

    Nobody would read its results then, and a run resumes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if parent.sentinel not in connection.wait([parent.sentinel, line]):
        stop_for_good()
        connection.wait([parent.sentinel])
    os._exit(1)


def _unless_stopped(fn: Callable[[T], R], item: T) -> R:
    """`fn(item)`; an item that a worker had fetched before it was told to stop does not begin."""
    if stop_asked():
        raise Stopped()
    return fn(item)


def _ray_task(fn: Callable[[T], R], item: T, modules: Sequence[str]) -> R:
    for module in modules:
        registry.add_module(module)
    return fn(item)
