"""What a user sees while waiting: headlines of stages, and bars with the time left.

On a terminal a live bar; elsewhere (a log file, a CI job) a plain line at most every five seconds. All on stderr, so
that stdout stays free for results. `set_quiet(True)` silences both.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Bar", "progress", "set_quiet", "stage"]

_EVERY_S = 5.0


class _Shown:
    """What this process shows: bars opened inside one another share one live display."""

    quiet = False
    live: "RichProgress | None" = None
    users = 0


def set_quiet(quiet: bool) -> None:
    """Silences (or shows again) headlines and bars of this process."""
    _Shown.quiet = quiet


def stage(text: str) -> None:
    """A headline such as "round 2/4: train ppo-lag"."""
    if _Shown.quiet:
        return
    if _Shown.live is not None:
        _Shown.live.console.print(text, style="bold", markup=False, highlight=False)
    elif sys.stderr.isatty():
        sys.stderr.write(f"\x1b[1m{text}\x1b[0m\n")
    else:
        print(text, file=sys.stderr, flush=True)


class Bar:
    """The handle of one bar; `advance` it by what was done."""

    def __init__(self, label: str, total: float) -> None:
        self.label, self.total = label, total
        self.done = 0.0
        self._start = self._last_line = time.monotonic()
        self._began_at = 0.0
        self._note = ""
        self._task: TaskID | None = None

    def advance(self, n: float = 1, note: str = "") -> None:
        """`n` more of `total` are done; `note` (a return, a cost) is shown behind the bar."""
        self.done += n
        if _Shown.quiet:
            return
        if _Shown.live is not None and self._task is not None:
            self._note = note or self._note
            _Shown.live.update(self._task, completed=self.done, note=self._note)
            return
        now = time.monotonic()
        if now - self._last_line >= _EVERY_S:
            self._last_line = now
            print(self.line(now - self._start, note), file=sys.stderr, flush=True)

    def start_at(self, done: float) -> Self:
        """The bar of a resumed run: `done` of `total` were done before, and do not count towards the rate."""
        self.done = self._began_at = done
        if _Shown.live is not None and self._task is not None:
            _Shown.live.reset(self._task, completed=int(done))
        return self

    def line(self, elapsed_s: float, note: str = "") -> str:
        """The plain form, e.g. "train ppo-lag  40 %  1,200/s  0:02:30 left  return 12.3"."""
        share = self.done / self.total if self.total else 1.0
        parts = [self.label, f"{min(share, 1.0):.0%}".replace("%", " %")]
        rate = (self.done - self._began_at) / elapsed_s if elapsed_s > 0 else 0.0
        if rate > 0:
            parts += [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"]
            parts += [f"{_clock(max(self.total - self.done, 0.0) / rate)} left"]
        return "  ".join([*parts, note] if note else parts)


@contextmanager
def progress(total: float, label: str) -> Iterator[Bar]:
    """A bar of `total` units (steps, episodes, cases) under `label`, for the time of the `with` block."""
    bar = Bar(label, total)
    if _Shown.quiet or not sys.stderr.isatty():
        yield bar
        if not _Shown.quiet:
            elapsed_s = time.monotonic() - bar._start
            print(f"{label}  {bar.done:,.0f} in {_clock(elapsed_s)}", file=sys.stderr, flush=True)
        return
    live = _Shown.live or _new_live()
    if _Shown.users == 0:
        _Shown.live = live
        live.start()
    _Shown.users += 1
    bar._task = live.add_task(label, total=total, note="")
    try:
        yield bar
    finally:
        _Shown.users -= 1
        if _Shown.users == 0:
            live.stop()
            _Shown.live = None
        else:
            live.remove_task(bar._task)


def _new_live() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:d}:{minutes:02d}:{seconds:02d}"
