"""Subjects on disk: what a recipe made and an audit examines, saved whole and loadable without executing code.

    subject/subject.json     format version, kind, parent run, and the SHA-256 of every other file
    subject/…                whatever the subject's own `save` wrote

The loader is the registry's entry of kind "subject" under the subject's `kind`; a file can only name registered ones.
A folder that was made elsewhere, and so has no card, is a subject too where an entry's `known_by` tells its kind.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from trueline.core import registry
from trueline.core.errors import RunError
from trueline.core.files import disk_errors, sync_folder, write_json

__all__ = ["FORMAT", "Subject", "describe", "holds_subject", "load_subject", "save_subject", "subject_hash"]

FORMAT = 1
_CARD = "subject.json"


@runtime_checkable
class Subject(Protocol):
    """Identity and storage, no behaviour; what it can do is a capability, a Protocol an audit names in `needs`.

    `kind` is the registry key of its loader, `parent` the id of the run it was trained from, or None.
    """

    kind: ClassVar[str]
    parent: str | None

    def save(self, folder: Path) -> None:
        """Writes everything the loader needs into the existing, empty `folder`."""
        ...


def save_subject(subject: Subject, folder: Path) -> Path:
    """Saves `subject` as `folder/subject` in one move, replacing an earlier one, and returns that folder.

    `folder` is a run's, or any other that exists; `load_subject` takes either.
    """
    final, part, old = (folder / name for name in ("subject", ".subject.part", ".subject.old"))
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    with disk_errors(final):
        try:
            part.mkdir()
            subject.save(part)
            card = {"format": FORMAT, "kind": subject.kind, "parent": subject.parent, "files": _hashes(part)}
            write_json(part / _CARD, card)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if final.exists():
            os.rename(final, old)
        os.rename(part, final)
        sync_folder(folder)
    shutil.rmtree(old, ignore_errors=True)
    return final


def load_subject(folder: Path | str) -> Subject:
    """The subject in `folder`, or in the `subject/` of the run in `folder`.

    Raises `RunError` when it is missing, half-written, altered or of another version, `UnknownName` for a kind that
    nothing installed can load.
    """
    path, card = _open(Path(folder))
    return registry.load("subject", card["kind"])(path)


def holds_subject(folder: Path | str) -> bool:
    """Whether `folder` itself is a subject's: one that was saved here, or one made elsewhere that a kind knows."""
    return (Path(folder) / _CARD).exists() or _kind_from_elsewhere(Path(folder)) is not None


def subject_hash(folder: Path | str) -> str:
    """SHA-256 (hex) over the kind and the names and contents of the subject's files.  Raises as `load_subject`."""
    return _hash_of(_open(Path(folder))[1])


def describe(folder: Path | str) -> dict[str, str | None]:
    """What a manifest records of an input: the id of the run it lies in, kind and hash; outside of one its path too."""
    path, card = _open(Path(folder))
    told = {"kind": card["kind"], "sha256": _hash_of(card)}
    if (path.parent / "manifest.json").exists():
        return {"run": path.resolve().parent.name, **told}
    return {"run": None, **told, "path": str(path.resolve())}


def _kind_from_elsewhere(folder: Path) -> str | None:
    """The kind whose files lie in a folder without a card; None in or of a run, where a card that is gone is damage."""
    if any((place / "manifest.json").exists() for place in (folder, folder.parent)) or (folder / _CARD).exists():
        return None
    for entry in registry.entries("subject"):
        if entry.known_by and all((folder / name).is_file() for name in entry.known_by):
            return entry.name
    return None


def _hash_of(card: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([card["kind"], sorted(card["files"].items())]).encode()).hexdigest()


def _open(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The subject's own folder and its checked card, or one made for it where it has none from elsewhere."""
    kind = _kind_from_elsewhere(folder)
    if kind is not None:
        return folder, {"kind": kind, "files": _hashes(folder)}
    path = folder if (folder / _CARD).exists() else folder / "subject"
    try:
        card = json.loads((path / _CARD).read_bytes())
        version, _, files = card["format"], str(card["kind"]), dict(card["files"])
    except FileNotFoundError:
        raise RunError(f"{folder} holds no finished subject. Train it to the end, or name another run.") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path / _CARD} is damaged. Put it back, or train the subject again.") from None
    if version != FORMAT:
        raise RunError(
            f"{path} has subject format {version}, but this Trueline reads {FORMAT}. Use the version that wrote it."
        )
    found = _hashes(path)
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            state = "missing" if name not in found else "unknown to its card" if name not in files else "altered"
            raise RunError(f"{path / name} is {state}. Put the subject's folder back, or train it again.")
    return path, card


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _CARD)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # in pieces: weights from elsewhere can be larger than memory
        return hashlib.file_digest(file, "sha256").hexdigest()
