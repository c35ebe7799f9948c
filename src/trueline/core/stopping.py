"""Stopping when asked to: SIGINT and SIGTERM become a request that the next checkpoint answers."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interruptible", "stop_asked", "stop_for_good"]


class _Stop:
    """Whether a signal asked this process to stop; one flag, since a cycle's signal must reach the run inside it."""

    asked = False
    for_good = False
    depth = 0


def stop_asked() -> bool:
    """Whether SIGINT or SIGTERM has asked for a stop, so that a long loop may come to its next `save` early."""
    return _Stop.asked or _Stop.for_good


def stop_for_good() -> None:
    """Asks all that this process does, now and later, for a stop: it is a worker, and its work was given up."""
    _Stop.for_good = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into a stop at the next `Run.save`; a second SIGINT raises KeyboardInterrupt at once.

    May be nested. Outside the main thread, where Python delivers no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: object) -> None:
        if number == signal.SIGINT and _Stop.asked:
            raise KeyboardInterrupt
        _Stop.asked = True
        if multiprocessing.parent_process() is None:  # of a leader and its workers, one says it
            sys.stderr.write("\ntrueline: stopping at the next checkpoint (Ctrl-C again to stop at once).\n")

    outermost = _Stop.depth == 0
    _Stop.depth += 1
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)} if outermost else {}
    try:
        yield
    finally:
        _Stop.depth -= 1
        for number, handler in before.items():
            signal.signal(number, handler)
        if outermost:
            _Stop.asked = False
