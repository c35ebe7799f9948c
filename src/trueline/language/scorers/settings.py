"""Scorers as settings name them: opened as one, known by an identity, with the models that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trueline.core.errors import ConfigError
from trueline.core.run import resolve
from trueline.core.subject import Subject, describe, load_subject
from trueline.language.scorers.endpoint import Endpoint
from trueline.language.scorers.functions import Function
from trueline.language.scorers.judged import Judged
from trueline.language.scorers.mixes import WeightedScorers
from trueline.language.scorers.rewriting import Rewriter
from trueline.language.scorers.scalar import ScalarModel
from trueline.language.scores import Scorer

__all__ = [
    "REFERENCE",
    "Scoring",
    "identity",
    "opened",
    "reference_records",
    "references",
    "referred",
    "taken_by",
    "wanted_columns",
]

REFERENCE = "run://"  # what the name of a run begins with

Scoring = Function | ScalarModel | Rewriter | Endpoint  # told apart by `kind`


def opened(settings: Sequence[Scoring], judged: Judged, inputs: Mapping[str, Subject]) -> Scorer:
    """One scorer of all.  Raises ConfigError for none, for inputs that do not fit, and for costs of one name."""
    if not settings:
        raise ConfigError("no scorer is given, so nothing says what is good. Give at least one.")
    parts = tuple((one.open(judged, inputs), one.weight) for one in settings)
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return WeightedScorers(parts)


def identity(one: Scoring, inputs: Mapping[str, str]) -> tuple[str, ...]:
    """What a scorer is known by, so that a judge can be told from what a training was to please.

    inputs: the hash of each input subject. A registered function is the same whatever its options: another setting of
    an oracle knows the same truth.
    """
    match one:
        case Function():
            return (f"function:{one.name}",)
        case Endpoint():
            return (f"endpoint:{one.url.rstrip('/')}#{one.model}",)
    return tuple(f"model:{inputs[role]}" for role in one.inputs if role in inputs)


def wanted_columns(settings: Sequence[Scoring]) -> dict[str, str]:
    """Columns of the data that scorers want, by name: which scorer does.  Raises as `Function.named_columns`."""
    functions = [one for one in settings if isinstance(one, Function)]
    return {column: one.name for one in functions for column in one.named_columns()}


# --- models that scorers take ---


def taken_by(settings: Sequence[Scoring]) -> dict[str, bool]:
    """Inputs that scorers name: whether each has to be given; a model named by run, run://ID, has not."""
    return {name: not name.startswith(REFERENCE) for one in settings for name in one.inputs}


def references(settings: Sequence[Scoring]) -> tuple[str, ...]:
    """Models that scorers name by run, run://ID, and not by the role of an input."""
    return tuple(name for name, needed in taken_by(settings).items() if not needed)


def referred(settings: Sequence[Scoring], inputs: Mapping[str, Subject], root: Path | str) -> dict[str, Subject]:
    """The models of `references` that are not among the inputs, read from the runs in `root`.

    Raises RunError for a run that is not there or has no finished subject.
    """
    return {name: load_subject(resolve(name, root)) for name in references(settings) if name not in inputs}


def reference_records(settings: Sequence[Scoring], root: Path | str) -> dict[str, dict[str, str | None]]:
    """What a manifest records of the models of `references`, as of any input.  Raises as `referred`."""
    return {name: describe(resolve(name, root)) for name in references(settings)}
