"""Several scorers as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from trueline.core.errors import ConfigError
from trueline.language.rollout import Rollout
from trueline.language.scorers.judged import trouble_of
from trueline.language.scores import Scorer, Scores
from trueline.language.signals import credited

__all__ = ["WeightedScorers"]


@dataclass(frozen=True, slots=True)
class WeightedScorers:
    """Σ w·reward of several scorers, and the costs of all; a row that one of them could not score is missing.

    Each one's scores are credited before they meet: those of "total" credit come with their sum on the last token.
    """

    parts: tuple[tuple[Scorer, float], ...]

    def __post_init__(self) -> None:
        """Refuse two costs of one name."""
        twice = sorted({name for name in self.costs if self.costs.count(name) > 1})
        if twice:
            raise ConfigError(f"two scorers have a cost called {twice[0]!r}. Give each cost a name of its own.")

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of all costs, in the scorers' order."""
        return tuple(name for scorer, _ in self.parts for name in scorer.costs)

    @property
    def credit(self) -> Literal["to-go", "total"]:
        """As they come from here, scores may be credited to what follows."""
        return "to-go"

    @property
    def trouble(self) -> str | None:
        """Of the first of them that has any."""
        return next(filter(None, (trouble_of(part) for part, _ in self.parts)), None)

    def score(self, rollout: Rollout, rng: np.random.Generator) -> Scores:
        """Scores of every row."""
        found = [(scorer, weight, scorer.score(rollout, rng)) for scorer, weight in self.parts]
        missing = torch.stack([scores.missing for _, _, scores in found]).any(dim=0)
        rewards = [weight * credited(scores.reward, rollout.sampled, part.credit) for part, weight, scores in found]
        costs = [credited(scores.cost, rollout.sampled, part.credit) for part, _, scores in found]
        kept = ~missing[:, None]
        return Scores(sum(rewards[1:], rewards[0]) * kept, torch.cat(costs, dim=-1) * kept[..., None], missing)
