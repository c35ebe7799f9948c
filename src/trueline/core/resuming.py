"""What a run that goes on has to have in common with what it was begun as: name, seed, settings, inputs.

Each question is answered by the run's manifest, which holds the settings as they were: a user may have edited
config.toml since.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueline.core.config import Config, differences
from trueline.core.errors import CheckpointError, ConfigError, RunError
from trueline.core.progress import stage
from trueline.core.subject import describe, subject_hash

__all__ = ["refuse_changes", "refuse_other", "same_inputs"]


def refuse_changes(manifest: Mapping[str, Any], config: Mapping[str, Any] | Config) -> None:
    """Raises ConfigError that lists what `config` changes in the settings that a run was begun with.

    A change to what the run's own settings declare as `Harmless`, or to a part of it, is only said.
    """
    changed = differences(tomllib.loads(manifest["config"]), config)
    if not changed:
        return
    told = {key: f"{key} was {_shown(old)} and is {_shown(new)}" for key, (old, new) in changed.items()}
    free = manifest.get("harmless", ())  # not in runs that were begun before it was written down
    refused = [said for key, said in told.items() if key.partition(".")[0] not in free]
    if refused:
        but = f"; only {', '.join(free)} may be changed" if free else ""
        raise ConfigError(
            f"run {manifest['id']} was begun with other settings: {'; '.join(refused)}. "
            f"Resume it with those it was begun with, or start a new run{but}."
        )
    stage(f"run {manifest['id']} goes on with other settings: {'; '.join(told.values())}")


def refuse_other(
    manifest: Mapping[str, Any],
    *,
    name: str,
    config: Mapping[str, Any] | Config,
    seed: int,
    inputs: Mapping[str, Path],
) -> None:
    """Raises ConfigError where a run was begun as something else than it is to go on as, such as with other inputs.

    inputs: folders of runs or subjects by role. Raises CheckpointError where one of them has changed since.
    """
    id = manifest["id"]
    if manifest["name"] != name:
        raise ConfigError(f"run {id} is one of {manifest['name']}, not of {name}. Give another id.")
    refuse_changes(manifest, config)
    if manifest["seed"] != seed:
        raise ConfigError(f"run {id} has seed {manifest['seed']}, not {seed}. Give another id.")
    given = {role: describe(folder) for role, folder in inputs.items()}
    before, now = _runs(manifest["inputs"]), _runs(given)
    if before != now:
        raise ConfigError(
            f"run {id} was begun with other inputs: {_listed(before)}, not {_listed(now)}. Give those, or another id."
        )
    for role, subject in given.items():
        _refuse_changed(manifest, role, subject["sha256"])


def same_inputs(manifest: Mapping[str, Any], root: Path) -> dict[str, Path]:
    """The folders of a run's inputs by role.  Raises RunError for one that is gone, CheckpointError if it changed."""
    found = {}
    for role, given in manifest["inputs"].items():
        folder = Path(given["path"]) if "path" in given else root / str(given["run"])
        if not folder.is_dir():
            where = "there" if "path" in given else f"into {root}"
            raise RunError(f"input {role!r} of run {manifest['id']} was {_name_of(given)}. Put it back {where}.")
        _refuse_changed(manifest, role, subject_hash(folder))
        found[role] = folder
    return found


def _refuse_changed(manifest: Mapping[str, Any], role: str, sha256: str | None) -> None:
    before = manifest["inputs"][role]
    if before["sha256"] != sha256:
        raise CheckpointError(
            f"input {role!r} of run {manifest['id']} ({_name_of(before)}) has changed since it began. "
            f"Put the old one back, or start a new run."
        )


def _runs(inputs: Mapping[str, Mapping[str, str | None]]) -> dict[str, str | None]:
    return {role: subject["run"] for role, subject in inputs.items()}


def _name_of(given: Mapping[str, str | None]) -> str:
    return f"the folder {given['path']}" if "path" in given else f"run {given['run']}"


def _listed(inputs: Mapping[str, str | None]) -> str:
    return ", ".join(f"{role}={run}" for role, run in inputs.items()) or "none"


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
