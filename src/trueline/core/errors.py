"""Errors a user can act on: one sentence of what was wrong and one of what to do.

The command line prints any `TruelineError` without a traceback and leaves with its `exit_code`.
`assert` and the built-in exceptions stay for our own invariants and for programmers' mistakes.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

__all__ = [
    "BadWorld",
    "CheckpointError",
    "ConfigError",
    "DiskError",
    "Diverged",
    "MissingExtra",
    "PluginError",
    "RunError",
    "Stopped",
    "TruelineError",
    "UnknownName",
    "nearest",
    "unknown",
]


class TruelineError(Exception):
    """Base of every error meant for a user; `exit_code` is what the process returns."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take fields, not the finished sentence, so the default reduction (class(*args)) would fail in the
        # parent of a worker process and hang the pool.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(cls: type[TruelineError], message: str, fields: dict[str, Any]) -> TruelineError:
    error = cls.__new__(cls, message)
    error.__dict__.update(fields)
    return error


class ConfigError(TruelineError):
    """A setting, a settings file or an override that cannot be used."""

    exit_code = 2


class UnknownName(TruelineError):
    """A name that nothing is registered or stored under."""

    exit_code = 2


class PluginError(TruelineError):
    """A plug-in whose module, attribute or entry is broken, or two that claim one name."""


class RunError(TruelineError):
    """A run folder that is missing, locked, half-written or of another format version."""


class CheckpointError(TruelineError):
    """A checkpoint or replay segment that was truncated or altered, or a state that cannot be stored."""


class DiskError(TruelineError):
    """The disk is full; everything saved before is still there."""

    @classmethod
    def full(cls, path: Path, what: str = "") -> Self:
        """The sentence for a write to `path` that met a full disk; `what` says what is still safe."""
        safe = what or "Nothing saved earlier was touched"
        return cls(f"the disk is full: {path} could not be written. {safe}; free some space, then resume.")


class MissingExtra(TruelineError):
    """A feature whose optional dependency is not installed."""

    exit_code = 2

    def __init__(self, extra: str, feature: str) -> None:
        self.extra = extra
        super().__init__(f'{feature} needs the extra {extra!r}. Install it: pip install "trueline[{extra}]".')


class Diverged(TruelineError):
    """Training produced a value that is not finite.

    `step` is the training step, `tensor` the name of the first bad tensor, `checkpoint` the last good one (or None).
    """

    exit_code = 3

    def __init__(self, step: int, tensor: str, checkpoint: Path | None = None) -> None:
        self.step, self.tensor, self.checkpoint = step, tensor, checkpoint
        kept = f"The last good checkpoint is {checkpoint}" if checkpoint else "No checkpoint had been written yet"
        super().__init__(f"{tensor} is not finite at step {step}: training diverged. {kept}; lower a learning rate.")


class BadWorld(TruelineError):
    """A world returned NaN or infinity.  `env` is the index within the batch, `step` the step of that batch."""

    exit_code = 3

    def __init__(self, world: str, what: str, env: int, step: int) -> None:
        self.world, self.what, self.env, self.step = world, what, env, step
        super().__init__(
            f"{world} returned {what} that is not finite (environment {env}, step {step}). "
            f"Check what the world computes there, or the actions it was given."
        )


class Stopped(TruelineError):
    """Raised by `Run.save` once the checkpoint is written, after SIGINT or SIGTERM asked the run to stop.

    Executors raise it without a run's id, which they do not know; `Run.interruptible` around them adds it.
    """

    exit_code = 130

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id
        ended = f"run {run_id} stopped at a checkpoint. Go on with `trueline resume {run_id}`."
        super().__init__(ended if run_id else "stopped between two items. What is finished is kept.")


def nearest(given: str, known: Collection[str]) -> str:
    """`" Did you mean 'x'?"` for the known name closest to `given`, or an empty string when none is close.

    Capitals do not count.
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), list(by_lower), n=1)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


LISTED = {  # kinds of registered names, and what `trueline list` calls them
    "recipe": "recipes",
    "env": "envs",
    "multi-agent env": "multi-agent-envs",
    "audit": "audits",
    "claim": "claims",
    "response": "responses",
    "subject": "subjects",
    "benchmark": "benchmarks",
    "text-data": "text-data",
    "scorer": "scorers",
}


def unknown(kind: str, given: str, known: Collection[str], shown_by: Sequence[str] | None = None) -> str:
    """The sentence for a name that there is not, with the nearest of `known` and where to see them all.

    `shown_by` are the commands that show them all, none of them where `known` is to be named outright. Unless given it
    is the list of that kind, where there is one.
    """
    if shown_by is None:
        shown_by = [f"trueline list {LISTED[kind]}"] if kind in LISTED else []
    *others, last = [f"`{command}`" for command in shown_by] or [""]
    everything = f"{last} shows all there are." if last else f"There are {', '.join(known)}."
    if others:
        everything = f"{', '.join(others)} and {last} show all there are."
    return f"no {kind} is called {given!r}.{nearest(given, known)} {everything}"
