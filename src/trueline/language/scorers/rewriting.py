"""The sequence-to-sequence reward model as a scorer: each token is worth its agreement with a better answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.subject import Subject
from trueline.language.batches import parts_to_read
from trueline.language.models import context_of
from trueline.language.objectives import separator
from trueline.language.rollout import Rollout
from trueline.language.scorers.judged import Judged, Weighted, model_among, refuse_other_tokens
from trueline.language.scores import Scorer, Scores
from trueline.language.subject import LanguageModel

__all__ = ["Rewriter", "Seq2SeqScorer", "agreement"]


def agreement(
    log_prob: Tensor, best: Tensor, agrees: Tensor, replied: Tensor, rule: str, plus: float, minus: float
) -> Tensor:
    """Reward of each token of a reply from the rewriting model's distribution there.  [n, T] each -> [n, T].

    hard: +c₊ before τ, the first token the model would have written otherwise; from τ on −c₋ for each such token and 0
    for the others.  soft: log π(y_t) − max_v log π(v), which is 0 where they agree and negative elsewhere.
    """
    if rule == "soft":
        return torch.where(replied, log_prob - best, 0.0)
    before = ((~agrees & replied).cumsum(dim=1) == 0) & replied
    return torch.where(before, plus, torch.where(agrees, 0.0, -minus)) * replied


class Seq2SeqScorer:
    """Rewards by token from a model that reads a reply and writes a better one (arXiv 2409.00162).

    One teacher-forced pass over [x ; y ; separator ; y]: greedy writing and teacher forcing have the same tokens up to
    and with τ. A token's reward is computed from a context that holds all of y, so what it depends on comes later too:
    credit is "total"; "to-go" is the paper's heuristic.
    """

    costs: tuple[str, ...] = ()

    def __init__(
        self,
        model: LanguageModel,
        judged: Judged,
        *,
        rule: Literal["hard", "soft"] = "hard",
        agree: float | None = None,
        disagree: float | None = None,
        per_token: bool = False,
        between: str | None = None,
        credit: Literal["to-go", "total"] = "total",
    ) -> None:
        """agree, disagree: c₊ and c₋, none: 1/T_max; per_token: divide by |y|; between: text of the separator."""
        refuse_other_tokens(model, judged, "sequence-to-sequence reward model")
        model.model.eval()
        self.model, self.rule, self.per_token = model, rule, per_token
        each = 1.0 / judged.sampling.max_tokens
        self.plus = each if agree is None else agree
        self.minus = each if disagree is None else disagree
        self.separator = separator(model.tokenizer, between)
        self.credit: Literal["to-go", "total"] = credit

    @torch.no_grad()
    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:  # noqa: ARG002  (models draw nothing)
        """Scores of every row; one that does not fit the model's context twice is missing."""
        count, length = rollout.sampled.sum(dim=1), rollout.attended.sum(dim=1)
        reward = torch.zeros_like(rollout.log_prob)
        missing = torch.ones_like(rollout.ended)
        longest = (length + len(self.separator) + count).tolist()
        for rows in parts_to_read(longest, context_of(self.model.model)):
            found = self._read(rollout, rows, max(longest[r] for r in rows))
            for at, r in enumerate(rows):
                given = found[at, : int(count[r])]
                missing[r] = not bool(given.isfinite().all())
                if not missing[r]:
                    reward[r, rollout.sampled[r]] = given / (int(count[r]) if self.per_token else 1)
        return Scores(reward, reward.new_zeros((*reward.shape, 0)), missing)

    def _read(self, rollout: Rollout, rows: Sequence[int], width: int) -> Tensor:
        """Rewards of the replies' tokens, [n, T]."""
        read, start, count = self._twice(rollout, rows, width)
        t = torch.arange(int(count.max()), device=read.device)
        column = (start[:, None] + t).clamp(max=width - 1)
        logits = self.model.model(input_ids=read, use_cache=False).logits.float()
        logits = logits.take_along_dim((column - 1)[..., None], dim=1)
        token = read.gather(1, column)
        best = logits.max(dim=-1)
        chosen = logits.gather(-1, token[..., None])[..., 0]
        # Both log-probabilities have the same normaliser, so their difference is one of logits.
        agrees, replied = best.indices == token, t < count[:, None]
        return agreement(chosen, best.values, agrees, replied, self.rule, self.plus, self.minus).to(rollout.log_prob)

    def _twice(self, rollout: Rollout, rows: Sequence[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
        """[x ; y ; separator ; y] of some rows [n, width], where the second y begins [n], and its tokens [n]."""
        device, pad = self.model.model.device, self.model.tokenizer.pad_token_id
        read = torch.full((len(rows), width), pad, dtype=torch.int64, device=device)
        between = torch.tensor(self.separator, dtype=torch.int64, device=device)
        ends, counts = [], []
        for at, r in enumerate(rows):
            shown, reply = (rollout.tokens[r, part[r]].to(device) for part in (rollout.attended, rollout.sampled))
            whole = torch.cat([shown, between, reply])
            read[at, : len(whole)] = whole
            ends.append(len(whole))
            counts.append(len(reply))
        end, count = torch.tensor(ends, device=device), torch.tensor(counts, device=device)
        return read, end - count, count


class Rewriter(Weighted):
    """A sequence-to-sequence reward model."""

    kind: Literal["seq2seq-rm"] = "seq2seq-rm"
    input: str = "reward"  # role of the input subject, or run://ID of a finished run
    rule: Literal["hard", "soft"] = "hard"
    agree: float | None = Field(None, ge=0)  # c₊; none: 1/T_max.  Under the hard rule
    disagree: float | None = Field(None, ge=0)  # c₋; likewise
    per_token: bool = False  # divide by |y|, so that a long reply that is agreed with earns no more than a short one
    separator: str | None = None  # as the model was trained
    credit: Literal["to-go", "total"] = "total"

    @model_validator(mode="after")
    def _hard_has_amounts(self) -> Self:
        if self.rule == "soft" and (self.agree is not None or self.disagree is not None):
            raise ValueError("agree and disagree are amounts of the hard rule, but rule is 'soft'. Drop them.")
        return self

    def named_costs(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model."""
        return (self.input,)

    def open(self, judged: Judged, inputs: Mapping[str, Subject]) -> Scorer:
        """Raises ConfigError for an input that is missing or of another kind."""
        return Seq2SeqScorer(
            model_among(inputs, self.input, LanguageModel, "a language model"),
            judged,
            rule=self.rule,
            agree=self.agree,
            disagree=self.disagree,
            per_token=self.per_token,
            between=self.separator,
            credit=self.credit,
        )
