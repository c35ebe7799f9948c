"""Runs that are parts of a larger one: what they are called, and how one of a sweep or a search is trained.

    ID-NAME                        what a cycle prepares
    ID-r1-train, -audit, -respond  a round of a cycle
    ID-p00-s0                      a point of a sweep under a seed
    ID-t000-s0                     a trial of a search under a seed
    ID-s0                          a seed of those trained together

A part's name follows from the larger run's id alone, so that whoever goes on with that finds what is finished and what
was cut off.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from trueline.core.errors import Diverged
from trueline.core.progress import stage
from trueline.core.recipe import Plan
from trueline.core.run import read_manifest, status_of
from trueline.cycle.training import resume_training, start_training

__all__ = [
    "PARTS",
    "Part",
    "is_over",
    "may_be_prepared",
    "of_point",
    "of_round",
    "of_seed",
    "of_trial",
    "prepared",
    "train_part",
    "whole_of",
]

Part = Literal["train", "audit", "respond"]  # of a round
PARTS: tuple[Part, ...] = ("train", "audit", "respond")

_PART = re.compile(r"(.+)-(?:r\d+-(?:train|audit|respond)|[pt]\d+-s\d+)")
_NAME, _OF_A_ROUND = re.compile(r"[a-z][a-z0-9-]*"), re.compile(r"r\d+-.*")


def may_be_prepared(name: str) -> bool:
    """Whether what a cycle prepares may be called so: as a part of a run's id, and as no run of a round is."""
    return bool(_NAME.fullmatch(name)) and not _OF_A_ROUND.fullmatch(name)


def prepared(cycle: str, name: str) -> str:
    """The run in which a cycle trains what it prepares under that name."""
    return f"{cycle}-{name}"


def of_round(cycle: str, number: int, part: Part) -> str:
    """One of the runs of a cycle's round."""
    return f"{cycle}-r{number}-{part}"


def of_point(sweep: str, number: int, seed: int) -> str:
    """The run of a sweep's point under a seed."""
    return of_seed(f"{sweep}-p{number:02d}", seed)


def of_trial(search: str, number: int, seed: int) -> str:
    """The run of a search's trial under a seed."""
    return of_seed(f"{search}-t{number:03d}", seed)


def of_seed(id: str, seed: int) -> str:
    """The run of one of several seeds that are trained alike."""
    return f"{id}-s{seed}"


def whole_of(folder: Path) -> str | None:
    """The id of the cycle, sweep or search that the run in `folder` is a part of, and that alone can go on with it."""
    match = _PART.fullmatch(folder.name)
    if match is None or status_of(folder.parent / match[1]) is None:
        return None
    return match[1] if read_manifest(folder.parent / match[1])["kind"] in ("cycle", "sweep", "search") else None


def is_over(folder: Path) -> bool:
    """Whether a training is not to be gone on with: it is done, or would diverge again."""
    return status_of(folder) in ("done", "diverged")


def train_part(plan: Plan, folder: Path, seed: int, threads: int) -> None:
    """Trains a plan in the run `folder`, from where it was left if it was begun; that it diverges is a result too."""
    try:
        if status_of(folder) is not None:
            resume_training(folder)
        else:
            start_training(plan.recipe, plan.settings(), root=folder.parent, seed=seed, threads=threads, id=folder.name)
    except Diverged as error:
        stage(str(error))
