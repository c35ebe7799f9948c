"""How a command ends: the process leaves with an exit code, and what went wrong is one sentence on stderr.

Exit codes: 0 done; 1 error; 2 wrong usage or setting; 3 training diverged or a world returned nan; 4 an audit failed; 5
no audit failed, but some are not settled; 130 stopped by a signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from trueline.cli.tables import say
from trueline.cli.typed import RUNS, imports_first
from trueline.core.errors import Stopped, TruelineError

if TYPE_CHECKING:
    from trueline.evidence.records import Evidence

__all__ = ["leave", "leave_by_verdicts", "stoppable"]

FAILED, UNSETTLED, INTERRUPTED = 4, 5, 130


@contextmanager
def stoppable(root: Path) -> Iterator[None]:
    """Names a stopped run so that the command in the message finds it: by its path, unless it is in ./runs."""
    try:
        yield
    except Stopped as error:
        if root == RUNS or not error.run_id:
            raise
        raise Stopped(str(root / error.run_id)) from None


def leave_by_verdicts(evidence: Sequence[Evidence]) -> NoReturn:
    """Ends an audit: with 0 when all that is required passes."""
    from trueline.cycle.auditing import tally

    raise typer.Exit({"pass": 0, "fail": FAILED, "inconclusive": UNSETTLED}[tally(evidence)])


def leave(app: typer.Typer, argv: Sequence[str] | None) -> NoReturn:
    """Runs one command of `app`, that of this process without an `argv`, and leaves with its exit code."""
    code = _run(app, imports_first(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _quiet_stdout()
    sys.exit(code)


def _run(app: typer.Typer, argv: list[str]) -> int:
    try:
        return app(args=argv, prog_name="trueline", standalone_mode=False) or 0
    except TruelineError as error:
        return _fail(error, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _fail(error, "interrupted. Runs that had a checkpoint can be resumed.", INTERRUPTED)
    except BrokenPipeError:
        _quiet_stdout()
        return 1
    except Exception as error:  # noqa: BLE001  (the last place where anything can still be said)
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if callable(show) and isinstance(code, int):  # the parser's own: wrong usage
            show()
            return code
        where = _keep_traceback(error)
        return _fail(error, f"unexpected {type(error).__name__}: {error}. The traceback is in {where}.", 1)


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("TRUELINE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    head = "\x1b[31merror:\x1b[0m" if sys.stderr.isatty() else "error:"
    say(f"{head} {message}")
    return code


def _keep_traceback(error: Exception) -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="trueline-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name


def _quiet_stdout() -> None:
    # Python flushes stdout once more as it leaves; into a closed pipe that would print a complaint.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
