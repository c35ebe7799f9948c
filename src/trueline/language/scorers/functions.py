"""Functions of texts as scorers: what one says of a reply sits on the reply's last token."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from trueline.core import registry
from trueline.core.errors import ConfigError
from trueline.core.subject import Subject
from trueline.language.rollout import Reply, Rollout
from trueline.language.sampler import replies_of
from trueline.language.scorers.judged import Judged, Weighted, last_sampled
from trueline.language.scores import Scorer, Scores

__all__ = ["Function", "FunctionScorer", "Judgement", "Judges", "Row", "judgements", "refuse_columns"]


class Judgement(NamedTuple):
    """Of one reply. A cost above 0 is unsafe."""

    reward: float
    cost: Mapping[str, float] = {}


Row = Mapping[str, Any]  # columns of the data row that asked a prompt, as they lie there
Says = Callable[..., Sequence[Judgement | float | None]]  # called as `Judges` is


class Judges(Protocol):
    """A function of texts; registered as kind "scorer" is what makes one from the options in the settings.

    It is called with prompts, each one's text, and replies, a `Reply` for each prompt. One that judges by more of the
    data than its prompts, such as a reference answer, names the columns in an attribute `columns: tuple[str, ...]`.
    Then it is called with a third argument, rows: for each reply a mapping with those columns, and no others, of the
    row that asked its prompt. Columns come with what trains on its own replies alone: as the judge of an audit or of a
    comparison such a function is refused. Without the attribute, or where it is (), there is no third argument.
    """

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the costs it gives."""
        ...

    # Of two arguments or of three, which no narrower type says.
    def __call__(self, *given: Any, **named: Any) -> Sequence[Judgement | float | None]:
        """Of each reply, in order; a number is a reward without costs, None or nan is missing."""
        ...


def _wanted_by(function: Any) -> tuple[str, ...]:
    """Names of the columns that a function wants."""
    return tuple(getattr(function, "columns", ()))


def refuse_columns(function: Any, who: str) -> None:
    """Raises ConfigError for a function that wants columns, where there are none.  `who` it is stands there."""
    wanted = _wanted_by(function)
    if wanted:
        raise ConfigError(
            f"{who} wants columns of the data ({', '.join(wanted)}), but here it would be given prompts and replies "
            "alone. Train with it on rows that have them, or give a scorer that wants none."
        )


def judgements(
    function: Says,
    prompts: Sequence[str],
    replies: Sequence[Reply],
    costs: Sequence[str],
    who: str,
    rows: Sequence[Row] | None = None,
) -> list[Judgement | None]:
    """What a function says of each reply to its prompt; None where it says nothing.  `who` it is stands in refusals.

    rows: of each reply, for a function that wants columns.  Raises ConfigError where it does not give one result for
    each reply, with the costs it is said to have.
    """
    found = list(function(prompts, replies) if rows is None else function(prompts, replies, rows))
    if len(found) != len(replies):
        raise ConfigError(
            f"{who} gave {len(found)} results for {len(replies)} replies. Return one for each, None where there is "
            "none."
        )
    whole = [one if one is None or isinstance(one, Judgement) else Judgement(float(one)) for one in found]
    for one in whole:
        if one is not None and set(one.cost) != set(costs):
            raise ConfigError(
                f"{who} gave costs {sorted(one.cost)}, but it has {sorted(costs)}. Give every reply those."
            )
    return whole


class FunctionScorer:
    """Scores of a Python function of texts, on each reply's last token."""

    credit: Literal["to-go"] = "to-go"

    def __init__(self, function: Says, judged: Judged, costs: tuple[str, ...] = ()) -> None:
        self.function, self.judged, self.costs = function, judged, costs

    @property
    def trouble(self) -> str | None:
        """What went wrong last, of a function that remembers: see `EndpointJudge`."""
        found: str | None = getattr(self.function, "trouble", None)
        return found

    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:  # noqa: ARG002  (functions draw nothing)
        """Scores of every row; what is None or nan is missing.

        Raises ConfigError as `judgements`, for a score that is infinite, and for a prompt whose columns are not known.
        """
        replies = replies_of(rollout, self.judged.policy, self.judged.sampling)
        found = judgements(
            self.function, rollout.asked, replies, self.costs, "the scoring function", self._rows(rollout.asked)
        )
        return _on_last(rollout, [self._numbers(one) for one in found])

    def _rows(self, asked: Sequence[str]) -> list[Row] | None:
        """The columns that the function wants of what each reply answers; None where it wants none."""
        wanted, known = _wanted_by(self.function), self.judged.columns
        if not wanted:
            return None
        strange = next((text for text in asked if not set(wanted) <= set(known.get(text, ()))), None)
        if strange is not None:
            raise ConfigError(
                f"the scoring function wants columns of the data ({', '.join(wanted)}), which are not known of the "
                f"prompt {strange!r}. Ask what the data ask."
            )
        return [{name: known[text][name] for name in wanted} for text in asked]

    def _numbers(self, found: Judgement | None) -> list[float]:
        """Reward, then costs in order; nan where missing."""
        if found is None:
            return [math.nan] * (1 + len(self.costs))
        numbers = [float(found.reward), *(float(found.cost[name]) for name in self.costs)]
        if any(math.isinf(number) for number in numbers):
            raise ConfigError("the scoring function gave an infinite score. Give finite ones, None where missing.")
        return numbers


def _on_last(rollout: Rollout, numbers: Sequence[Sequence[float]]) -> Scores:
    """Scores of whole replies, [R][1 + K]; a row with a nan is missing."""
    found = torch.tensor(numbers, dtype=torch.float32, device=rollout.tokens.device)
    missing = found.isnan().any(dim=1)
    at = last_sampled(rollout.sampled)[..., None]
    placed = torch.where(at & ~missing[:, None, None], found[:, None, :], 0.0)
    return Scores(placed[..., 0], placed[..., 1:], missing)


class Function(Weighted):
    """A registered function of texts."""

    kind: Literal["function"] = "function"
    name: str  # registered as kind "scorer": what makes a `Judges` from the options
    options: Mapping[str, Any] = {}

    def named_costs(self) -> tuple[str, ...]:
        """Names of its costs.  Raises UnknownName for a name that nothing registered."""
        return tuple(self.made().costs)

    def named_columns(self) -> tuple[str, ...]:
        """Names of the columns of the data that it wants.  Raises as `named_costs`."""
        return _wanted_by(self.made())

    @property
    def inputs(self) -> tuple[str, ...]:
        """None."""
        return ()

    def open(self, judged: Judged, inputs: Mapping[str, Subject]) -> Scorer:  # noqa: ARG002
        """Raises as `made`, and ConfigError for a function that wants columns, where `judged` has none."""
        function = self.made()
        if not judged.columns:
            refuse_columns(function, f"the scorer {self.name!r}")
        return FunctionScorer(function, judged, tuple(function.costs))

    def made(self) -> Judges:
        """The function.

        Raises UnknownName for a name that nothing registered, ConfigError where it makes no `Judges` of the options.
        """
        make = registry.load("scorer", self.name)
        try:
            inspect.signature(make).bind(**self.options)  # told apart from a TypeError of its own
        except TypeError as error:
            raise self._unfit(f"cannot be made from the options {dict(self.options)}: {error}") from None
        function = make(**self.options)
        if not (callable(function) and hasattr(function, "costs")):
            raise self._unfit(f"makes a {type(function).__name__} without `costs` or that cannot be called")
        columns = getattr(function, "columns", ())  # a single text would be taken for a name a letter
        if not isinstance(columns, tuple | list) or not all(isinstance(name, str) for name in columns):
            raise self._unfit(f"has {columns!r} as `columns`, which is no tuple of names")
        given = ("prompts", "replies", "rows")[: 3 if columns else 2]
        try:
            inspect.signature(function).bind(*given)
        except TypeError as error:
            raise self._unfit(f"cannot be called with {' and '.join(given)} ({error})") from None
        made: Judges = function
        return made

    def _unfit(self, why: str) -> ConfigError:
        return ConfigError(
            f"the scorer {self.name!r} {why}. Register a class that takes the options, names its `costs`, and is then "
            "called with prompts and replies, and with rows where it names `columns`, as docs/language.md shows."
        )
