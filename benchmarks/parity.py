"""The parity suite: what the originals do, written down anew, and how far from it we are.

    export PEER_PYTHON=…/peer/bin/python      # the head of _peers.py says how to make one
    export PEER_HEAD=…/safety-gymnasium       # a check-out of the original's repository, see parity_head.py; optional
    python benchmarks/parity.py               # or: make parity
    python benchmarks/parity.py tests         # one part again; the others stay in the record as they were

Three parts, whose outcome is `results/parity.json`:

1. `golden`: every parity script runs under the peer's interpreter. Its values take the place of those in
   tests/safety/golden, and the record says how many numbers changed and by how much.
2. `tests`: our tests against those values. Of each test: cases, failures, how many numbers NumPy's assertions compared,
   the largest deviation and the largest share of its tolerance that any number used up. Tests that compare whole
   layouts for equality have no such numbers.
3. `interfaces`: Gymnasium's own `check_env` on every registered world, PettingZoo's own parallel test on every one of
   several agents.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import _interleave
import _peers as peers
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GOLDEN = ROOT / "tests" / "safety" / "golden"
RESULT = HERE / "results" / "parity.json"
TESTS = ("tests/safety", "tests/compat")
NAMED = "peer or original or printed"  # how a test that compares with them is called
ABOUT_RECORD = "tests/safety/test_parity_record.py"
PACKAGES = ("mujoco", "numpy", "gymnasium", "pettingzoo")


# --- golden values ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Script:
    """A script that writes golden files; each of `commands` is run with {folder} and {head} filled in."""

    name: str
    files: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    of_head: bool = False

    def runs(self) -> tuple[tuple[str, ...], ...]:
        """Interpreter ("peer" or "ours") and arguments of each run."""
        return self.commands or (("peer", f"{{folder}}/{self.files[0]}"),)


SCRIPTS = (
    *(
        Script(f"parity_{name}.py", (f"{name}.json",))
        for name in ("goal", "bodies", "velocity", "tasks", "states", "sight", "compat")
    ),
    Script(
        "parity_models.py",
        ("models.json",),
        (("peer", "describe", "{folder}/models"), ("ours", "run", "{folder}/models", "{folder}/models.json")),
    ),
    Script("parity_head.py", ("multi_goal.json", "courses.json"), (("peer", "{head}", "{folder}"),), of_head=True),
)


def numbers(value: Any) -> Iterator[float | str]:
    """Every leaf of nested lists and dicts, in order; what is no number as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    else:
        yield value if isinstance(value, int | float) else str(value)


def changes(old: Any, new: Any) -> dict[str, Any]:
    """How golden values differ from those before: how many numbers, the largest change; null where forms differ."""
    before, after = list(numbers(old)), list(numbers(new))
    texts = [[x for x in side if isinstance(x, str)] for side in (before, after)]
    if len(before) != len(after) or texts[0] != texts[1]:
        return {"numbers": len(after) - len(texts[1]), "changed": None, "largest_change": None}
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if not isinstance(a, str) and not isinstance(b, str)]
    moved = [abs(a - b) for a, b in pairs if a != b]
    return {"numbers": len(pairs), "changed": len(moved), "largest_change": max(moved, default=0.0)}


def written_anew(script: Script, folder: Path) -> dict[str, Any]:
    """Run a script and put its files in the place of the old ones; the record of it."""
    head = os.environ.get("PEER_HEAD", "")
    if script.of_head and not Path(head).is_dir():
        return {"script": script.name, "not_run_because": "PEER_HEAD names no check-out of the original's repository"}
    started = time.perf_counter()
    for who, *arguments in script.runs():
        filled = [argument.format(folder=folder, head=head) for argument in arguments]
        command = [peers.peer_python() if who == "peer" else sys.executable, str(HERE / script.name), *filled]
        done = subprocess.run(
            command,
            env={"MUJOCO_GL": "egl", **os.environ, **_interleave.ONE_THREAD},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{done.stdout[-1000:]}{done.stderr[-3000:]}\n{script.name} failed; what it said is above.")
    record: dict[str, Any] = {"script": script.name, "wall_s": round(time.perf_counter() - started, 1), "files": {}}
    for name in script.files:
        new = json.loads((folder / name).read_text())
        old = json.loads((GOLDEN / name).read_text()) if (GOLDEN / name).is_file() else None
        # Head matter, such as versions and notes, is no result.
        values = [
            {k: v for k, v in (side or {}).items() if isinstance(v, dict) and k != "versions"} for side in (old, new)
        ]
        record["files"][name] = changes(*values)
        shutil.copyfile(folder / name, GOLDEN / name)
    return record


def digests() -> dict[str, str]:
    """Which golden files a record is about: name -> first 16 digits of their SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(GOLDEN.glob("*.json"))}


# --- our tests --------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Of all cases of one test."""

    cases: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    numbers: int = 0
    largest_deviation: float = 0.0
    share_of_tolerance: float = 0.0

    def compared(self, actual: Any, desired: Any, rtol: float, atol: float) -> None:
        """Take in what an assertion compared."""
        try:
            ours, theirs = np.broadcast_arrays(np.asarray(actual, np.float64), np.asarray(desired, np.float64))
        except (TypeError, ValueError):  # not numbers, or of other shapes, which the assertion itself will say
            return
        finite = np.isfinite(ours) & np.isfinite(theirs)
        self.numbers += ours.size
        if not finite.any():
            return
        deviation, allowed = np.abs(ours - theirs)[finite], (atol + rtol * np.abs(theirs))[finite]
        self.largest_deviation = max(self.largest_deviation, float(deviation.max()))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(deviation > 0, deviation / allowed, 0.0)
        self.share_of_tolerance = max(self.share_of_tolerance, float(share.max()))


class Recorder:
    """A pytest plug-in that keeps what NumPy's assertions compare, test by test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._running = Outcome()

    def pytest_runtest_setup(self, item: Any) -> None:
        self._running = self.outcomes.setdefault(item.nodeid.partition("[")[0], Outcome())
        self._running.cases += 1

    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome, _, case = report.nodeid.partition("[")
        if report.failed or report.skipped:
            kept = self.outcomes[outcome].failed if report.failed else self.outcomes[outcome].skipped
            kept.append(case.rstrip("]") or outcome)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this holds, NumPy's assertions tell what they compare."""
        allclose, equal = np.testing.assert_allclose, np.testing.assert_array_equal

        def close(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0.0, **rest: Any) -> None:
            self._running.compared(actual, desired, rtol, atol)
            allclose(actual, desired, rtol=rtol, atol=atol, **rest)

        def same(actual: Any, desired: Any, **rest: Any) -> None:
            self._running.compared(actual, desired, 0.0, 0.0)
            equal(actual, desired, **rest)

        with mock.patch.multiple(np.testing, assert_allclose=close, assert_array_equal=same):
            yield


def tested() -> list[dict[str, Any]]:
    """Our tests against the golden values; the record of each."""
    import pytest

    recorder = Recorder()
    chosen = [
        *(str(ROOT / folder) for folder in TESTS),
        "-k",
        NAMED,
        "--rootdir",
        str(ROOT),
        f"--ignore={ROOT / ABOUT_RECORD}",
    ]
    with recorder.listening():
        code = pytest.main(chosen, [recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"the tests could not be run ({code.name}); what pytest said is above.")
    return [
        {
            "test": name,
            "cases": outcome.cases,
            "failed": outcome.failed,
            "skipped": outcome.skipped,
            "numbers": outcome.numbers,
            "largest_deviation": outcome.largest_deviation if outcome.numbers else None,
            "share_of_tolerance": outcome.share_of_tolerance if outcome.numbers else None,
        }
        for name, outcome in sorted(recorder.outcomes.items())
    ]


# --- interfaces -------------------------------------------------------------------------------------------------------


def gymnasium_accepts(id: str) -> None:
    """Raise what Gymnasium's own checker has against a world."""
    from gymnasium.utils.env_checker import check_env

    from trueline.rl.to_gymnasium import ToGymnasium

    env = ToGymnasium(id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            # Distances, speeds and accelerations have no bounds, in the original neither.
            warnings.filterwarnings("ignore", ".*Box observation space (minimum|maximum) value is -?infinity.*")
            check_env(env, skip_render_check=True)
    finally:
        env.close()


def pettingzoo_accepts(id: str) -> None:
    """Raise what PettingZoo's own test has against a world of several agents."""
    from pettingzoo.test import parallel_api_test

    from trueline.core import registry
    from trueline.rl.to_pettingzoo import ToPettingZoo

    make = registry.load("multi-agent env", id)
    with contextlib.redirect_stdout(None):
        parallel_api_test(ToPettingZoo(lambda num_envs: make(id, num_envs)), num_cycles=30)


def accepted(kind: str, accepts: Callable[[str], None]) -> dict[str, Any]:
    """Every safety world of a kind through a checker; the record of it."""
    from trueline.core import registry

    entries = [entry for entry in registry.entries(kind) if entry.target.startswith("trueline.safety.")]
    names, failed, started = [entry.name for entry in entries], {}, time.process_time()
    for name in names:
        try:
            accepts(name)
        except Exception as error:  # noqa: BLE001  (whatever a checker raises is its verdict)
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{accepts.__name__}: {name}{' FAILED' if name in failed else ''}", file=sys.stderr)
    return {"worlds": len(names), "failed": failed, "cpu_s": round(time.process_time() - started, 1)}


# --- the record -------------------------------------------------------------------------------------------------------


def versions() -> dict[str, dict[str, str]]:
    """Ours, and the peers' as the golden files tell them."""
    ours = {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    theirs: dict[str, str] = {}
    for path in sorted(GOLDEN.glob("*.json")):
        golden = json.loads(path.read_text())
        if path.name != "models.json":  # run by our MuJoCo
            theirs |= golden["versions"]
        if "commit" in golden:
            theirs["repository"] = golden["commit"]
    return {"ours": ours, "originals": theirs}


def golden_part() -> dict[str, Any]:
    """Every script's values anew."""
    peers.peer_python()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for script in SCRIPTS:
            print(script.name, file=sys.stderr)
            rows.append(written_anew(script, Path(folder)))
    return {"scripts": rows}


def tests_part() -> dict[str, Any]:
    """Our tests against the golden values that are here."""
    rows = tested()
    return {
        "golden_sha256": digests(),
        "failed": [row["test"] for row in rows if row["failed"]],
        "cases": sum(row["cases"] for row in rows),
        "numbers": sum(row["numbers"] for row in rows),
        "tests": rows,
    }


def interfaces_part() -> dict[str, Any]:
    """Every registered world through the checkers."""
    found = {
        "gymnasium check_env": accepted("env", gymnasium_accepts),
        "pettingzoo parallel_api_test": accepted("multi-agent env", pettingzoo_accepts),
    }
    return {"failed": [name for row in found.values() for name in row["failed"]], **found}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "golden": golden_part,
    "tests": tests_part,
    "interfaces": interfaces_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    chosen = parser.parse_args().parts
    for name in chosen:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}. Choose from {', '.join(PARTS)}.")
    record = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in chosen or PARTS:
        when = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "git_commit": _interleave._commit()}
        record[name] = when | PARTS[name]()
    about = {"made_by": "benchmarks/parity.py", "cpu": _interleave._cpu(), "versions": versions()}
    record = about | {name: record[name] for name in PARTS if name in record}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    failed = [what for name in PARTS for what in record.get(name, {}).get("failed", [])]
    print(f"failed: {', '.join(failed) or 'nothing'}; written to results/parity.json")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
