"""Reproducing claims: which ones a user means, a run of its own for each, and one correction for those of a system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trueline.core import registry
from trueline.core.errors import UnknownName, nearest, unknown
from trueline.core.executor import executor
from trueline.core.progress import stage
from trueline.core.run import Run, read_config, read_manifest
from trueline.core.stopping import interruptible
from trueline.core.store import Store
from trueline.evidence.claims import Claim, ClaimResult, corrected, run_claim

__all__ = ["Named", "claims_of", "reproduce_claim", "reproduce_claims", "resume_claim"]


@dataclass(frozen=True, slots=True)
class Named:
    """A claim and the name it is registered under."""

    name: str
    claim: Claim


def claims_of(system: str | None = None) -> list[Named]:
    """The registered claims: all, those of a system, or those whose name matches a pattern.  Raises UnknownName."""
    listed = [Named(entry.name, registry.load("claim", entry.name)) for entry in registry.entries("claim")]
    if system is None:
        return listed
    found = [item for item in listed if item.claim.system == system or fnmatchcase(item.name, system)]
    if not found:
        known = sorted({item.claim.system for item in listed} | {item.name for item in listed})
        raise UnknownName(unknown("system or claim", system, known, ["trueline reproduce"]))
    return found


def reproduce_claims(
    claims: Sequence[Named],
    scale: str,
    *,
    root: Path,
    most_cpu_hours: float,
    with_executor: str = "inline",
    workers: int = 1,
) -> list[tuple[Path, ClaimResult]]:
    """Tests each claim in a new run, those of one system corrected together; returns folders and what came out.

    Raises UnknownName for a scale that a claim does not have.
    """
    systems = [named.claim.system for named in claims]
    with interruptible():  # a signal in the last training of one claim is for the next as well
        tested = [
            reproduce_claim(
                named,
                scale,
                root=root,
                most_cpu_hours=most_cpu_hours,
                with_executor=with_executor,
                workers=workers,
                together=systems.count(named.claim.system),
            )
            for named in claims
        ]
    for system in dict.fromkeys(systems):
        family = [i for i, own in enumerate(systems) if own == system]
        for i, result in zip(family, corrected([tested[i][1] for i in family]), strict=True):
            folder = tested[i][0]
            if result != tested[i][1]:
                with Run.reopen(folder) as run:
                    run.write_text("claim.json", result.to_json())
                    _finish(run, result)
            tested[i] = (folder, result)
    return tested


def reproduce_claim(
    named: Named,
    scale: str,
    *,
    root: Path,
    most_cpu_hours: float,
    with_executor: str = "inline",
    workers: int = 1,
    together: int = 1,
) -> tuple[Path, ClaimResult]:
    """Tests one claim at one scale; returns the folder of its run and what came out.

    A run of the same test in `root` that was stopped goes on; otherwise a new one is made. The claim is one of
    `together`; the others count as the worst they can be, also when the run is resumed alone. Raises UnknownName for a
    scale the claim does not have.
    """
    if scale not in named.claim.scales:
        known = sorted(named.claim.scales)
        raise UnknownName(
            f"claim {named.name!r} has no scale {scale!r}.{nearest(scale, known)} It has {', '.join(known)}."
        )
    config = {"claim": named.name, "scale": scale, "most_cpu_hours": most_cpu_hours, "together": together}
    stopped = _stopped(root, named.name, config)
    if stopped is None:
        seed = named.claim.scales[scale].seeds[0]
        run = Run.create(root, kind="claim", name=named.name, config=config, seed=seed)
    else:
        run = Run.reopen(stopped)
    return run.folder, _run(named, run, with_executor, workers)


def _stopped(root: Path, name: str, config: Mapping[str, Any]) -> Path | None:
    """The latest run of the same test that was begun in `root` and has not come to its end."""
    for listed in Store(root).runs(kind="claim") if root.is_dir() else ():
        folder = root / listed["id"]
        stopped = listed["name"] == name and listed["status"] != "done"
        if stopped and read_config(folder) == config:
            return folder
    return None


def resume_claim(folder: Path, with_executor: str = "inline", workers: int = 1) -> ClaimResult:
    """Goes on with a claim: seeds that are finished are not measured again."""
    named = Named(read_manifest(folder)["name"], registry.load("claim", read_manifest(folder)["name"]))
    return _run(named, Run.reopen(folder), with_executor, workers)


def _run(named: Named, run: Run, with_executor: str, workers: int) -> ClaimResult:
    with run, run.interruptible():
        stage(f"run {run.folder}: {named.claim.sentence}")
        with executor(with_executor, workers) as pool:
            result = run_claim(
                named.claim,
                run.config["scale"],
                run,
                pool,
                most_cpu_hours=float(run.config["most_cpu_hours"]),
                others=int(run.config.get("together", 1)) - 1,
            )
        _finish(run, result)
    return result


def _finish(run: Run, result: ClaimResult) -> None:
    run.finish("done", summary={"outcome": result.outcome, "scale": result.scale})
