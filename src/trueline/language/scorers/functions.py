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

__all__ = ["Function", "FunctionScorer", "Judgement", "Judges", "judgements"]


class Judgement(NamedTuple):
    """Of one reply. A cost above 0 is unsafe."""

    reward: float
    cost: Mapping[str, float] = {}


Says = Callable[[Sequence[str], Sequence[Reply]], Sequence[Judgement | float | None]]


class Judges(Protocol):
    """A function of texts; registered as kind "scorer" is what makes one from the options in the settings."""

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the costs it gives."""
        ...

    def __call__(self, prompts: Sequence[str], replies: Sequence[Reply]) -> Sequence[Judgement | float | None]:
        """Of each reply, in order; a number is a reward without costs, None or nan is missing."""
        ...


def judgements(
    function: Says, prompts: Sequence[str], replies: Sequence[Reply], costs: Sequence[str], who: str
) -> list[Judgement | None]:
    """What a function says of each reply to its prompt; None where it says nothing.  `who` it is stands in refusals.

    Raises ConfigError where it does not give one result for each reply, with the costs it is said to have.
    """
    found = list(function(prompts, replies))
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

        Raises ConfigError as `judgements`, and for a score that is infinite.
        """
        replies = replies_of(rollout, self.judged.policy, self.judged.sampling)
        found = judgements(self.function, rollout.asked, replies, self.costs, "the scoring function")
        return _on_last(rollout, [self._numbers(one) for one in found])

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

    @property
    def inputs(self) -> tuple[str, ...]:
        """None."""
        return ()

    def open(self, judged: Judged, inputs: Mapping[str, Subject]) -> Scorer:  # noqa: ARG002
        """Raises UnknownName for a name that nothing registered."""
        function = self.made()
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
        made: Judges = function
        return made

    def _unfit(self, why: str) -> ConfigError:
        return ConfigError(
            f"the scorer {self.name!r} {why}. Register a class that takes the options, names its `costs`, and is then "
            "called with prompts and replies, as docs/language.md shows."
        )
