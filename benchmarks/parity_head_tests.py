"""The original's own tests, and SafePO's builders, run unchanged over our face.

    export PEER_HEAD=…/safety-gymnasium               # a check-out of the original's repository, see parity_head.py
    export PEER_SAFEPO=…/Safe-Policy-Optimization     # one of SafePO's; optional
    MUJOCO_GL=egl python benchmarks/parity_head_tests.py        # ten minutes; writes results/parity_head_tests.json
    MUJOCO_GL=egl python benchmarks/parity_head_tests.py -k velocity    # some of them; writes nothing

Run by our interpreter, in which `import safety_gymnasium` then means trueline.compat.safety_gymnasium. None of their
text is here. Anything that fails fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _interleave

from trueline.compat.safety_gymnasium.modules import install, restore_gymnasium_028

RESULT = Path(__file__).parent / "results" / "parity_head_tests.json"
VECTOR_STEPS = 4


class Recorder:
    """A pytest plug-in that counts what became of the cases of each test."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: dict[str, list[str]] = {}

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.setdefault(Path(report.nodeid).name, []).append("cannot be imported")

    def pytest_runtest_logreport(self, report: Any) -> None:
        test, _, case = Path(report.nodeid).name.partition("[")
        if report.failed:
            self.failed.setdefault(test, []).append(case.rstrip("]") or report.when)
        elif report.when == "call" and report.passed:
            self.passed[test] += 1


def head_tests(checkout: Path, chosen: str) -> dict[str, Any]:
    """The tests of the original's repository; the record of them."""
    import pytest

    recorder, folder = Recorder(), checkout / "tests"
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--rootdir={folder}"]
    code = pytest.ExitCode(pytest.main([str(folder), *options, *(["-k", chosen] if chosen else [])], [recorder]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        sys.exit(f"the tests could not be run ({code.name}); what pytest said is above.")
    return {"passed": dict(sorted(recorder.passed.items())), "failed": recorder.failed}


def _one_agent(env: Any) -> None:
    env.reset()
    for _ in range(VECTOR_STEPS):
        env.step(env.action_space.sample())


def _team(env: Any) -> None:
    import torch

    env.reset()
    spaces = [env.action_space[k] for k in range(env.num_agents)]
    for _ in range(VECTOR_STEPS):
        env.step([torch.as_tensor(space.sample())[None] for space in spaces])


def safepo_builders(checkout: Path) -> dict[str, Any]:
    """SafePO's functions that build environments, and a few steps in each; the record of them."""
    sys.path.insert(0, str(checkout))
    from safepo.common import env as builders

    how = {"n_rollout_threads": 1, "device": "cpu"}
    cases: dict[str, Callable[[], None]] = {
        "make_sa_mujoco_env, one": lambda: _one_agent(builders.make_sa_mujoco_env(1, "SafetyCarCircle2-v0", 0)[0]),
        "make_sa_mujoco_env, two": lambda: _one_agent(builders.make_sa_mujoco_env(2, "SafetyCarCircle2-v0", 0)[0]),
        "make_ma_mujoco_env": lambda: _team(builders.make_ma_mujoco_env("Ant", "2x4", 0, how)),
        "make_ma_multi_goal_env": lambda: _team(builders.make_ma_multi_goal_env("SafetyPointMultiGoal1-v0", 0, how)),
    }
    passed, failed = list[str](), dict[str, list[str]]()
    for name, run in cases.items():
        try:
            run()
        except Exception as error:  # noqa: BLE001  (whatever it raises is the outcome)
            failed[name] = [f"{type(error).__name__}: {error}".splitlines()[0]]
        else:
            passed.append(name)
    return {"passed": passed, "failed": failed}


def _checkout(variable: str) -> Path | None:
    given = os.environ.get(variable, "")
    return Path(given) if given and Path(given).is_dir() else None


def _commit(checkout: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown: no repository"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", dest="chosen", default="", help="as pytest's: only tests whose names match")
    chosen = parser.parse_args().chosen
    head, safepo = _checkout("PEER_HEAD"), _checkout("PEER_SAFEPO")
    if head is None:
        sys.exit("PEER_HEAD names no folder. Give a check-out of the original's repository, see parity_head.py.")
    install()
    restore_gymnasium_028()
    record: dict[str, Any] = {"made_by": "benchmarks/parity_head_tests.py", "git_commit": _interleave._commit()}
    record["original"] = {"commit": _commit(head), **head_tests(head, chosen)}
    if safepo is not None and not chosen:
        record["safepo"] = {"commit": _commit(safepo), **safepo_builders(safepo)}
    failed = [f"{name} ({len(cases)})" for part in ("original", "safepo") for name, cases in _failures(record, part)]
    if not chosen:
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"failed: {', '.join(failed) or 'nothing'}")
    sys.exit(bool(failed))


def _failures(record: dict[str, Any], part: str) -> list[tuple[str, list[str]]]:
    return list(record[part]["failed"].items()) if part in record else []


if __name__ == "__main__":
    main()
