"""Executors: `map` over this process, processes of this machine, or a Ray cluster.

One small interface for sweeps, seeds, populations, clients and tiles. The function must be one that another process can
import (defined at the top level of a module, or a `functools.partial` of one). Results come in the order of the items.

A signal reaches one process. Where it is turned into a request to stop (`core/stopping.py`), the executor passes the
request on to its workers, begins nothing more, and raises `Stopped`, which the run around it gives its name.
"""

import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, wait
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
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: connection.Connection | None = None  # the workers are to stop once it is closed

    def map(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """As `Executor.map`; what has not begun when an item fails is dropped.  Raises `WorkerLost`."""
        _importable(fn)
        listed = list(items)
        if not listed:
            return []
        if self._pool is None:
            self._pool, self._lifeline = _pool(self.workers)
        futures: list[Future[R]] = [self._pool.submit(fn, item) for item in listed]
        results = []
        for index, future in enumerate(futures):
            try:
                while not wait([future], LISTEN_S).done:
                    if stop_asked():
                        self._give_up(futures)
                results.append(future.result())
            except CancelledError:
                self.close()
                raise Stopped() from None
            except BrokenProcessPool:
                self.close()
                raise WorkerLost(
                    f"a worker process died while item {index + 1} of {len(listed)} was awaited. "
                    f"Use fewer workers if memory ran out."
                ) from None
            except BaseException as error:
                for waiting in futures:
                    waiting.cancel()
                if stop_asked():
                    self.close()
                _note(error, index, len(listed))
                raise
        return results

    def _give_up(self, futures: Sequence[Future[R]]) -> None:
        """Asks the workers to stop, for good, and drops what they have not begun."""
        if self._lifeline is not None:
            self._lifeline.close()
        for waiting in futures:
            waiting.cancel()

    def close(self) -> None:
        """Ends the workers once they are done with what they began."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None


def _pool(workers: int) -> tuple[ProcessPoolExecutor, connection.Connection]:
    """Worker processes, and the end of a pipe whose closing asks them to stop."""
    # spawn, not fork: a forked child inherits locks held by torch's and MuJoCo's threads.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(registry.added_modules(), theirs)
    )
    return pool, ours


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
            while not self._ray.wait([reference], timeout=LISTEN_S)[0]:
                if stop_asked():  # a task cannot be told; its run has the last checkpoint that it wrote
                    for other in waiting[index:]:
                        self._ray.cancel(other)
                    raise Stopped()
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


def _begin_worker(modules: Sequence[str], lifeline: connection.Connection) -> None:
    """One thread per worker (workers x threads would fight for the cores), and the user's modules registered."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:  # a main module that imports torch did so before this ran
        torch.set_num_threads(1)
    for module in modules:
        registry.add_module(module)
    threading.Thread(target=_end_with_parent, args=(lifeline,), name="end with parent", daemon=True).start()


def _end_with_parent(lifeline: connection.Connection) -> None:
    """Stops this worker's work when its parent asks for it, by closing `lifeline`, and ends it when the parent is gone.

    Nobody would read its results then, and a run resumes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if parent.sentinel not in connection.wait([parent.sentinel, lifeline]):
        stop_for_good()
        connection.wait([parent.sentinel])
    os._exit(1)


def _ray_task(fn: Callable[[T], R], item: T, modules: Sequence[str]) -> R:
    for module in modules:
        registry.add_module(module)
    return fn(item)
