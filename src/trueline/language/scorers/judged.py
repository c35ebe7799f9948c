"""What scorers of every kind are opened for: the policy they judge, with models among the inputs; and what ails one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch.nn.functional import pad

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.subject import Subject
from trueline.language.rollout import Sampling
from trueline.language.scores import Scorer
from trueline.language.subject import LanguageModel, ScoreModel

__all__ = ["Judged", "Weighted", "last_sampled", "model_among", "refuse_other_tokens", "trouble_of"]

M = TypeVar("M", LanguageModel, ScoreModel)


class Judged(NamedTuple):
    """The policy that is judged: what turns its tokens into text, how it was sampled, and what lies beside prompts."""

    policy: LanguageModel
    sampling: Sampling
    columns: Mapping[str, Mapping[str, Any]] = {}  # of the rows that ask, by what they ask (`Rollout.asked`)


class Weighted(Config):
    """A setting that scorers of every kind have."""

    weight: float = 1.0  # of its reward among those of other scorers; costs are never weighed


def model_among(inputs: Mapping[str, Subject], name: str, kind: type[M], what: str) -> M:
    """The model that a scorer names.  Raises ConfigError where it is not given, or of another kind."""
    if name not in inputs:
        raise ConfigError(f"a scorer needs the input {name!r}, which is not given. Give {what} as inputs.{name}.")
    found = inputs[name]
    if not isinstance(found, kind):
        raise ConfigError(f"the input {name!r} is a {found.kind!r}. Give {what}.")
    return found


def refuse_other_tokens(model: LanguageModel | ScoreModel, judged: Judged, what: str) -> None:
    """Raises ConfigError for a model with another vocabulary than the policy that it is to judge."""
    if model.tokenizer.get_vocab() != judged.policy.tokenizer.get_vocab():
        raise ConfigError(
            f"the {what} and the policy have different tokenizers, so one cannot read the other's tokens. "
            f"Train the {what} from the policy's model, or let a function of texts ask it (kind = 'function')."
        )


def last_sampled(sampled: Tensor) -> Tensor:
    """True on each row's last sampled token.  [R, L] -> [R, L]."""
    return sampled & ~pad(sampled[:, 1:], (0, 1))


def trouble_of(scorer: Scorer) -> str | None:
    """What went wrong last with an endpoint; None where nothing did, or none is asked."""
    found: str | None = getattr(scorer, "trouble", None)
    return found
