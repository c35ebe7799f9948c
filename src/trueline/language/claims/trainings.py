"""Trainings within a claim: each is a run in its seed's folder, and none that is finished is repeated.

A training that was killed goes on from its last checkpoint; one that looks for its lowest held-out loss begins again,
since the weights it had kept are gone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trueline.core.config import Config, digest
from trueline.core.errors import RunError
from trueline.core.run import Run, read_manifest
from trueline.core.subject import describe, load_subject, save_subject

__all__ = ["Lowest", "trained"]


class _Enough(Exception):
    """Ends a training from within its watch."""


class Lowest:
    """Keeps the weights with which a training's held-out loss was lowest, and ends it when that is long ago.

    It is the sink and the watch of the training's run: a look logs its loss before anyone watches. The training ends
    once as many looks have passed since the lowest loss as there were up to it, and no fewer than `patience`.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.loss, self._now = math.inf, math.inf
        self.looks, self.lowest = 0, 0  # so far, and the one at which the loss was lowest
        self.weights: dict[str, Tensor] = {}
        self.subject: Any = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:  # noqa: ARG002
        """What is logged; the held-out loss is remembered."""
        self._now = scalars.get("eval/loss", self._now)

    def offset(self) -> int:
        """Nothing is written anywhere."""
        return 0

    def cut(self, offset: int) -> None:
        """As above."""

    def close(self) -> None:
        """As above."""

    def __call__(self, step: int, subject: Any) -> None:  # noqa: ARG002
        """A look at the subject as it stands."""
        self.looks += 1
        self.subject = subject
        if self._now < self.loss or not self.weights:
            self.loss, self.lowest = self._now, self.looks
            self.weights = {name: p.detach().clone() for name, p in _module(subject).state_dict().items()}
        elif self.looks - self.lowest >= max(self.patience, self.lowest):
            raise _Enough

    def back(self) -> Any:
        """The subject as it was where its loss was lowest."""
        _module(self.subject).load_state_dict(self.weights)
        return self.subject


def _module(subject: Any) -> nn.Module:
    """The weights of a model that scores, or of one that replies."""
    module: nn.Module = subject if isinstance(subject, nn.Module) else subject.model
    return module


def trained(
    folder: Path,
    recipe: Any,
    config: Config,
    seed: int,
    inputs: Mapping[str, str] | None = None,
    lowest: Lowest | None = None,
) -> Any:
    """The subject that a recipe makes in the run `folder`; with `lowest`, as it was where its held-out loss was lowest.

    inputs: by role, the names of finished trainings in the folder beside this one, as files and so unmoved by what is
    trained from them. A run that is there with other settings, seed or inputs gives way. Raises what the recipe raises.
    """
    given = {role: folder.parent / name for role, name in (inputs or {}).items()}
    ours = _begun(folder, config, seed, given)
    if ours and (folder / "subject").is_dir():
        return load_subject(folder)
    if not ours or lowest is not None:
        shutil.rmtree(folder, ignore_errors=True)
    run = Run.open_or_create(
        folder.parent, kind="train", name=recipe.name, config=config, seed=seed, inputs=given, id=folder.name
    )
    with run, run.interruptible():
        subjects = {role: load_subject(path) for role, path in given.items()}
        subject: Any
        if lowest is None:
            subject = recipe.train(config, run, subjects)
        else:
            run.add_sink("lowest", lowest)
            run.watch = lowest
            with suppress(_Enough):
                recipe.train(config, run, subjects)
            subject = lowest.back()
        save_subject(subject, folder)
    return subject


def _begun(folder: Path, config: Config, seed: int, inputs: Mapping[str, Path]) -> bool:
    """Whether the folder is a run of these settings, this seed and these inputs."""
    try:
        manifest = read_manifest(folder)
    except RunError:
        return False
    found = (manifest["config_digest"], manifest["seed"], manifest["inputs"])
    return bool(found == (digest(config), seed, {role: describe(path) for role, path in inputs.items()}))
