"""Contestants measured in turn, A B A B …, each in a process of its own that has imported and warmed up.

A benchmark script is both sides of this. Run by a user it is the referee: it starts one process per contestant, asks
each in turn for a sample, and writes down what they answer. Started by the referee with --serve it is a contestant,
under the interpreter of its side. So the heads of this file and of every script import the standard library alone.

A *maker* prepares a contestant (imports, builds, warms up) and returns `fresh`; `fresh()`, untimed, returns a job; the
job, timed, does the work and returns figures, among them "work": how much it did.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import _peers as peers

Figures = Mapping[str, float]
Job = Callable[[], Figures]
Maker = Callable[..., Callable[[], Job]]
Samples = Mapping[str, Sequence[Mapping[str, float]]]
Medians = Mapping[str, Mapping[str, float]]

RESULTS = Path(__file__).parent / "results"
REPEATS, QUICK_REPEATS = 5, 2
PACKAGES = (
    *("trueline", "torch", "numpy", "mujoco", "gymnasium", "safety-gymnasium", "omnisafe"),
    *("transformers", "tokenizers", "trl"),
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Load averages below which a machine of two cores counts as quiet: nothing else before, nothing but us after.
QUIET_BEFORE, QUIET_AFTER = 0.5, 2.0


@dataclass(frozen=True)
class Contestant:
    """One thing that is measured: the maker that prepares it, and under whose interpreter."""

    name: str
    maker: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False


@dataclass(frozen=True)
class Comparison:
    """A figure of one contestant, or its ratio to another's, with the bar it is held against.

    `ceiling` computes, from the medians of the same run, what the cheapest conceivable implementation would reach;
    `ceiling_is` says what that is. Without `at_least` and `at_most` the figure is context, not a claim.
    """

    what: str
    ours: str
    measure: str
    ceiling_is: str
    ceiling: Callable[[Medians], float]
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a script measures; `note` says how, and what the reader must know to read it."""

    unit: str
    note: str
    contestants: Sequence[Contestant]
    comparisons: Sequence[Comparison]


# -- a contestant's side ----------------------------------------------------------------------------------------------


def timed(job: Job) -> dict[str, float]:
    """One sample: CPU seconds of the process with all its threads, wall seconds, work per second of either.

    A job that measures another process reports that one's `cpu_s` and `wall_s` itself.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    figures = job()
    own = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    sample = {**own, **figures}
    sample["per_cpu_s"] = sample["work"] / sample["cpu_s"]
    sample["per_wall_s"] = sample["work"] / sample["wall_s"]
    return sample


def _serve(makers: Mapping[str, Maker], request: Mapping[str, Any]) -> None:
    # What a library prints must not mix with the answers, which keep the original stdout for themselves.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    fresh = makers[request["maker"]](**request["arguments"])
    print(json.dumps(_versions()), file=answers, flush=True)
    for _ in sys.stdin:  # one line asks for one sample
        job = fresh()
        print(json.dumps(timed(job)), file=answers, flush=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


# -- the referee's side -----------------------------------------------------------------------------------------------


class _Worker:
    """A contestant's process, ready to give samples."""

    def __init__(self, contestant: Contestant, script: Path, folder: str) -> None:
        self.name = contestant.name
        request = json.dumps({"maker": contestant.maker, "arguments": contestant.arguments})
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the worker)
        self._process = subprocess.Popen(
            [peers.peer_python() if contestant.peer else sys.executable, str(script), "--serve", request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=folder,
            env={**os.environ, **ONE_THREAD},
        )
        self.versions: dict[str, str] = self._answer()

    def sample(self) -> dict[str, float]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a process that has died is noticed by its missing answer
            print("go", file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            sys.exit(f"{self._errors.read()[-3000:]}\n{self.name!r} stopped; what it said is above.")
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


@contextlib.contextmanager
def _workers(contestants: Sequence[Contestant], script: Path) -> Iterator[list[_Worker]]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        started: list[_Worker] = []
        for contestant in contestants:  # one after another: preparing is not measured, but would disturb who is
            print(f"preparing {contestant.name}", file=sys.stderr)
            worker = _Worker(contestant, script, folder)
            stack.callback(worker.close)
            started.append(worker)
        yield started


def interleave(
    contestants: Sequence[Contestant], script: Path, repeats: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, dict[str, str]]]:
    """`repeats` samples of each contestant, taken in turn; samples by name, and versions by side."""
    samples: dict[str, list[dict[str, float]]] = {c.name: [] for c in contestants}
    with _workers(contestants, script) as workers:
        for r in range(repeats):
            for worker in workers:
                samples[worker.name].append(worker.sample())
                print(
                    f"{r + 1}/{repeats} {worker.name}: {samples[worker.name][-1]['cpu_s']:.2f} CPU-s", file=sys.stderr
                )
        sides = {("peer" if c.peer else "ours"): w.versions for c, w in zip(contestants, workers, strict=True)}
    return samples, sides


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    """Median of every figure of every contestant over its samples."""
    return {
        name: {figure: statistics.median(s[figure] for s in taken) for figure in taken[0]}
        for name, taken in samples.items()
    }


def judge(comparison: Comparison, samples: Samples) -> dict[str, Any]:
    """The comparison with its figure (the ratio of medians), its range over the turns, bar, ceiling and outcome."""
    middle = medians(samples)
    measure, against = comparison.measure, comparison.against
    value = middle[comparison.ours][measure]
    turns = [s[measure] for s in samples[comparison.ours]]
    if against is not None:
        value /= middle[against][measure]
        turns = [own / s[measure] for own, s in zip(turns, samples[against], strict=True)]
    met = None
    if comparison.at_least is not None:
        met = value >= comparison.at_least
    elif comparison.at_most is not None:
        met = value <= comparison.at_most
    return {
        "what": comparison.what,
        "ours": comparison.ours,
        "against": against,
        "measure": measure,
        "value": value,
        "lowest": min(turns),
        "highest": max(turns),
        "at_least": comparison.at_least,
        "at_most": comparison.at_most,
        "met": met,
        "ceiling": comparison.ceiling(middle),
        "ceiling_is": comparison.ceiling_is,
    }


def acceptable(quick: bool, before: Sequence[float], after: Sequence[float]) -> str:
    """Empty when bars may be judged by this run; else why not."""
    if quick:
        return "a quick run: short samples, few repeats"
    if before[0] > QUIET_BEFORE or after[0] > QUIET_AFTER:
        return f"the machine was busy: load average {before[0]:.1f} at the start, {after[0]:.1f} at the end"
    return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=RESULTS.parent.parent, capture_output=True, text=True, check=False).stdout

    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py").strip()
    return (git("rev-parse", "HEAD").strip() or "unknown") + (" with uncommitted changes" if changed else "")


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _write(record: Mapping[str, Any], path: Path) -> str:
    if record["quick"] and path.is_file() and not json.loads(path.read_text())["quick"]:
        return f"{path.name} holds a full run and was kept."
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return f"written to results/{path.name}"


def _print(record: Mapping[str, Any]) -> None:
    widest = max(len(name) for name in record["medians"])
    print(f"\n{record['unit']}\n{'':{widest}}  {'per CPU-s':>10}  {'CPU-s':>8}  {'wall s':>8}")
    for name, m in record["medians"].items():
        print(f"{name:{widest}}  {m['per_cpu_s']:10.4g}  {m['cpu_s']:8.3f}  {m['wall_s']:8.3f}")
    print()
    for c in record["comparisons"]:
        bar = "no bar"
        if c["met"] is not None:
            side = f"at least {c['at_least']:g}" if c["at_least"] is not None else f"at most {c['at_most']:g}"
            bar = f"{'met' if c['met'] else 'MISSED'}: {side}"
        sign = "x" if c["against"] else ""
        spread = f"{c['lowest']:.4g} to {c['highest']:.4g}"
        print(f"{c['what']}: {c['value']:.4g}{sign} ({spread}); {bar}; ceiling {c['ceiling']:.4g}{sign}")
    if record["not_accepted_because"]:
        print(f"\nNo bar is accepted from this run: {record['not_accepted_because']}.")


def main(script: str, makers: Mapping[str, Maker], plan: Callable[[bool], Plan]) -> None:
    """The command line of a benchmark script."""
    path = Path(script).resolve()
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--repeats", type=int, default=None, help=f"samples of each ({REPEATS}; quick {QUICK_REPEATS})")
    parser.add_argument("--quick", action="store_true", help="small samples, to see that it works; accepts no bar")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(makers, json.loads(given.serve))
        return
    made = plan(given.quick)
    repeats = given.repeats or (QUICK_REPEATS if given.quick else REPEATS)
    before, started = os.getloadavg(), datetime.now(UTC)
    samples, sides = interleave(made.contestants, path, repeats)
    after = os.getloadavg()
    record = {
        "benchmark": path.stem,
        "unit": made.unit,
        "note": made.note,
        "quick": given.quick,
        "repeats": repeats,
        "not_accepted_because": acceptable(given.quick, before, after),
        "device": "cpu",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": "one for each contestant, unless its name says otherwise",
        "load_average": {"start": list(before), "end": list(after)},
        "versions": sides,
        "git_commit": _commit(),
        "started": started.isoformat(timespec="seconds"),
        "comparisons": [judge(comparison, samples) for comparison in made.comparisons],
        "medians": medians(samples),
        "samples": samples,
    }
    _print(record)
    print(_write(record, RESULTS / f"{path.stem}.json"))
