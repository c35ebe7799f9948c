"""Scalar models as scorers: their heads say what a reply is worth, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn.functional import pad

from trueline.core.errors import ConfigError, nearest
from trueline.core.subject import Subject
from trueline.language.batches import parts_to_read
from trueline.language.models import context_of
from trueline.language.rollout import Rollout
from trueline.language.scorers.judged import Judged, Weighted, last_sampled, model_among, refuse_other_tokens
from trueline.language.scores import Scorer, Scores
from trueline.language.subject import ScoreModel

__all__ = ["ModelScorer", "ScalarModel"]


class ModelScorer:
    """Heads of a scalar model: the reward of one, the costs of others; no reward head means a reward of 0."""

    credit: Literal["to-go"] = "to-go"

    def __init__(
        self,
        model: ScoreModel,
        judged: Judged,
        reward: str | None = "reward",
        costs: Mapping[str, str] | None = None,
        token_wise: bool = False,
        probability: bool = False,
    ) -> None:
        """costs: names of costs, and the head of each.

        token_wise: a token earns or costs by how much the score of the reply so far rises with it, and the first one
        that score itself, so that a reply comes to the score of its end. The scores themselves cannot be summed: what
        compares beginnings of two replies does not know their common level, which long replies would earn more often.
        probability: a cost is σ(c), which a cost model learns as the chance that a reply is unsafe, in place of c.
        """
        self.model, self.token_wise, self.probability = model.eval(), token_wise, probability
        self.reward, self.heads = reward, dict(costs or {})
        self.costs = tuple(self.heads)
        refuse_other_tokens(model, judged, "score model")
        unknown = [head for head in (*([reward] if reward else []), *self.heads.values()) if head not in model.heads]
        if unknown:
            raise ConfigError(
                f"the score model has no head {unknown[0]!r}.{nearest(unknown[0], list(model.heads))} "
                f"It gives {', '.join(model.heads)}."
            )

    @torch.no_grad()
    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:  # noqa: ARG002  (models draw nothing)
        """Scores of every row; one that the model cannot read whole, or scores by no number, is missing."""
        found, at = self._read(rollout), last_sampled(rollout.sampled)
        if self.token_wise:
            found, at = _rises(found, rollout.sampled), rollout.sampled
        missing = (~found.isfinite() & at[..., None]).any(dim=2).any(dim=1)
        kept = at & ~missing[:, None]
        found = torch.where(kept[..., None], found, 0.0)
        return Scores(found[..., 0], found[..., 1:], missing)

    def _read(self, rollout: Rollout) -> Tensor:
        """What the heads say after each token, reward and then costs: [R, L, 1 + K]; nan in rows that are too long."""
        length = rollout.attended.sum(dim=1)
        heads = rollout.log_prob.new_full((*rollout.tokens.shape, len(self.model.heads)), torch.nan)
        for rows in parts_to_read(length.tolist(), context_of(self.model.body)):
            width = int(length[rows].max())
            read = self.model(rollout.tokens[rows, :width].to(self.model.device))
            heads[rows, :width] = read.to(heads)
        said = {name: heads[..., k] for k, name in enumerate(self.model.heads)}
        reward = torch.zeros_like(rollout.log_prob) if self.reward is None else said[self.reward]
        costs = [said[head] for head in self.heads.values()]
        return torch.stack([reward, *(cost.sigmoid() if self.probability else cost for cost in costs)], dim=-1)


def _rises(score: Tensor, sampled: Tensor) -> Tensor:
    """By how much each sampled token raises the score so far, which was 0 before the first: [R, L, S] -> [R, L, S]."""
    so_far = torch.where(sampled[..., None], score, 0.0)
    return so_far - pad(so_far[:, :-1], (0, 0, 1, 0))


class ScalarModel(Weighted):
    """A reward or cost model."""

    kind: Literal["score-model"] = "score-model"
    input: str = "reward"  # role of the input subject, or run://ID of a finished run
    reward: str | None = None  # head that is the reward; none: "reward", or no reward where a cost is named
    costs: Mapping[str, str] = {}  # names of costs, and the head of each
    token_wise: bool = False  # every token's rise of the score, for a model that was trained token by token
    # A cost is σ(c), the chance that a reply is unsafe, in place of c: limits are then rates, as audits state them.
    probability: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.probability and (self.token_wise or not self.costs):
            raise ValueError("probability is about the cost of a whole reply. Name a cost, and leave token_wise out.")
        return self

    def named_costs(self) -> tuple[str, ...]:
        """Names of its costs."""
        return tuple(self.costs)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model."""
        return (self.input,)

    def open(self, judged: Judged, inputs: Mapping[str, Subject]) -> Scorer:
        """Raises ConfigError for an input that is missing or of another kind, and for heads it does not have."""
        model = model_among(inputs, self.input, ScoreModel, "a score model")
        reward = self.reward if self.reward is not None or self.costs else "reward"
        return ModelScorer(model, judged, reward, self.costs, self.token_wise, self.probability)
