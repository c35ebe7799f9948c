"""The cross-entropy method over sequences of actions, with limits on what they cost, for N environments at once.

    a^s ~ clip(N(m, v)),   m ← βm + (1 − β) Σ_s w_s a^s,   v ← βv + (1 − β) Σ_s w_s (a^s − Σ w a)²

w is even over the k best candidates (`Cem`), or a softmax (`Arc`: Sikchi, Zhou & Held 2022, section 4). Under limits
the candidates that keep them come first, by return, then the others, by how far they exceed them. Of the k best that is
the rule of constrained cross-entropy (Wen & Topcu 2018, algorithm 1): while fewer than k candidates keep the limits,
the k of least cost are these together with the next ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trueline.core.config import Config
from trueline.rl.planning.imagine import Judged


class _Planner(Config):
    """What both ways of planning share."""

    horizon: int = Field(7, ge=1)  # H decisions
    iterations: int = Field(5, ge=1)
    particles: int = Field(20, ge=1)  # P of each candidate, over all members
    momentum: float = Field(0.1, ge=0, lt=1)  # β
    propagation: Literal["ts1", "ts-inf"] = "ts-inf"


class Cem(_Planner):
    """Elites in even parts; the defaults are OmniSafe's."""

    kind: Literal["cem"] = "cem"
    samples: int = Field(512, ge=2)  # S
    elites: int = Field(64, ge=1)  # k
    variance: float = Field(4.0, gt=0)  # v at first

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.elites >= self.samples:
            raise ValueError(f"elites is {self.elites}, but {self.samples} samples are drawn. Give fewer elites.")
        return self

    def weights(self, judged: Judged, allowed: Tensor, _: float) -> Tensor:
        """[N, S]."""
        return elite_weights(judged, allowed, self.elites)


class Arc(_Planner):
    """Candidates weighted by a softmax, some of them a policy's; the defaults are OmniSafe's."""

    kind: Literal["arc"] = "arc"
    samples: int = Field(100, ge=2)  # S, besides the policy's
    elites: int = Field(20, ge=1)  # k candidates that must keep the limits before their returns count
    variance: float = Field(0.01, gt=0)
    proposed: int = Field(5, ge=1)  # candidates of the policy's
    temperature: float = Field(10.0, gt=0)  # η, of returns by episode
    cost_temperature: float = Field(100.0, gt=0)  # of excess by episode

    def weights(self, judged: Judged, allowed: Tensor, episodes: float) -> Tensor:
        """[N, S]; `episodes` is how often the plan's time goes into an episode."""
        return soft_weights(judged, allowed, self.elites, self.temperature * episodes, self.cost_temperature * episodes)


class Planned(NamedTuple):
    """Where the search ended."""

    mean: Tensor  # [N, H, A] m; its first action is taken
    feasible: Tensor  # [N] share of the last candidates that keep the limits
    returns: Tensor  # [N] mean of theirs


def excess(judged: Judged, allowed: Tensor) -> Tensor:
    """Σ_k max(0, C_k − allowed_k): [N, S, K], [N, K] -> [N, S]; 0 for candidates that keep all limits."""
    return (judged.cost - allowed[:, None]).clamp_min(0.0).sum(-1)


def elite_weights(judged: Judged, allowed: Tensor, elites: int) -> Tensor:
    """1/k for the k best, 0 for the others, [N, S]."""
    by_return = judged.returns.argsort(dim=1, descending=True, stable=True)
    order = by_return.gather(1, excess(judged, allowed).gather(1, by_return).argsort(dim=1, stable=True))
    return torch.zeros_like(judged.returns).scatter_(1, order[:, :elites], 1.0 / elites)


def soft_weights(judged: Judged, allowed: Tensor, elites: int, eta: float, cost_eta: float) -> Tensor:
    """softmax(η·R) over the candidates that keep the limits; softmax(−η_c·excess) while fewer than k do. [N, S]."""
    over = excess(judged, allowed)
    keeps = over == 0.0
    by_return = (eta * judged.returns).masked_fill(~keeps, -torch.inf)
    enough = keeps.sum(dim=1, keepdim=True) >= min(elites, keeps.shape[1])
    return torch.where(enough, by_return, -cost_eta * over).softmax(dim=1)


def plan(
    planner: Cem | Arc,
    evaluate: Callable[[Tensor], Judged],
    start: Tensor,
    allowed: Tensor,
    episodes: float,
    rng: torch.Generator,
    proposals: Tensor | None = None,
) -> Planned:
    """Search from the mean `start` [N, H, A] on.

    evaluate: candidates [N, S, H, A] -> what they are worth; allowed: what they may cost [N, K]; episodes: how often
    the plan's time goes into an episode; proposals: further candidates [N, S', H, A], the same in every iteration.
    """
    mean, variance = start, torch.full_like(start, planner.variance)
    for _ in range(planner.iterations):
        noise = torch.randn((len(mean), planner.samples, *mean.shape[1:]), generator=rng)
        candidates = torch.addcmul(mean[:, None], variance.sqrt()[:, None], noise).clamp_(-1.0, 1.0)
        if proposals is not None:
            candidates = torch.cat([candidates, proposals], dim=1)
        judged = evaluate(candidates)
        weights = planner.weights(judged, allowed, episodes)[..., None, None]
        new = (weights * candidates).sum(dim=1)
        spread = (weights * (candidates - new[:, None]).square()).sum(dim=1)
        mean = torch.lerp(new, mean, planner.momentum)
        variance = torch.lerp(spread, variance, planner.momentum)
    feasible = (excess(judged, allowed) == 0.0).to(mean.dtype).mean(dim=1)
    return Planned(mean, feasible, judged.returns.mean(dim=1))


def shifted(mean: Tensor) -> Tensor:
    """The plan one decision later, its last action repeated: where the next search begins.  [N, H, A]."""
    return torch.cat([mean[:, 1:], mean[:, -1:]], dim=1)
