"""`trueline …`: the command line, on which a user types what Python gets from `trueline.api`.

`commands` says what there is to type, `typed` turns it into values, `tables` prints what came of it, `ends` leaves the
process. Results go to stdout, what happens meanwhile to stderr.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command, that of this process unless `argv` is given, and leaves the process with its exit code."""
    from trueline.cli.commands import app
    from trueline.cli.ends import leave

    leave(app, argv)
