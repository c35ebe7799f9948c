"""Action distributions as values: sample, log-probability, entropy and KL, all on free leading dimensions.

An action is stored as it was *drawn* (before squashing), so that its log-probability never needs an inverse of tanh;
`to_action` maps it to what the world takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2.0 * math.pi)

Source = torch.Generator | Sequence[torch.Generator]  # one stream, or one for each entry of the first dimension


def _drawn(draw: Callable[..., Tensor], like: Tensor, rng: Source) -> Tensor:
    """Numbers of the shape of `like` by torch.randn or torch.rand."""
    if isinstance(rng, torch.Generator):
        return draw(like.shape, generator=rng, dtype=like.dtype, device=like.device)
    return torch.stack([draw(like.shape[1:], generator=one, dtype=like.dtype, device=like.device) for one in rng])


class Distribution(Protocol):
    """What the policy loop needs of an action distribution.  Draws are [..., A]; log_prob, entropy, kl are [...]."""

    def sample(self, rng: torch.Generator) -> Tensor:
        """One draw from each row."""
        ...

    def mode(self) -> Tensor:
        """The most likely draw."""
        ...

    def log_prob(self, draw: Tensor) -> Tensor:
        """Log density (or mass) of a draw, summed over action dimensions."""
        ...

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over action dimensions."""
        ...

    def kl(self, other: Self) -> Tensor:
        """KL(self || other), summed over action dimensions."""
        ...

    def to_action(self, draw: Tensor) -> Tensor:
        """What the world takes."""
        ...

    def detach(self) -> Self:
        """The same distribution without gradient."""
        ...

    def rows(self, index: Tensor) -> Self:
        """The rows in `index` of a flat batch."""
        ...


class Stackable(Distribution, Protocol):
    """Of several policies at once, the first dimension theirs, too."""

    def sample(self, rng: Source) -> Tensor:
        """One draw from each row; with a stream for each policy, what each alone would draw."""
        ...


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normals.  mean [..., A], log_std [A] or [..., A]. The world clips what lies outside [-1, 1]."""

    mean: Tensor
    log_std: Tensor

    def sample(self, rng: Source) -> Tensor:
        """mean + std·ε."""
        return self.mean + self.log_std.exp() * _drawn(torch.randn, self.mean, rng)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, draw: Tensor) -> Tensor:
        """Σ −½((x−μ)/σ)² − log σ − ½ log 2π."""
        z = (draw - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Σ log σ + ½(1 + log 2π)."""
        return (self.log_std + 0.5 * (1.0 + LOG_2PI)).expand_as(self.mean).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """Σ log(σ₂/σ₁) + (σ₁² + (μ₁−μ₂)²)/(2σ₂²) − ½."""
        ratio = (2.0 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return 0.5 * (ratio + shift - 1.0 - 2.0 * (self.log_std - other.log_std)).sum(-1)

    def to_action(self, draw: Tensor) -> Tensor:
        """As drawn."""
        return draw

    def detach(self) -> Gaussian:
        """Without gradient."""
        # A clone: log_std may be a parameter that the optimiser moves in place, and the old policy must stay put.
        return Gaussian(self.mean.detach(), self.log_std.detach().clone())

    def rows(self, index: Tensor | int) -> Gaussian:
        """Rows of a flat batch; a state-independent log_std stays whole."""
        return Gaussian(self.mean[index], self.log_std if self.log_std.dim() == 1 else self.log_std[index])


# Nodes and weights for E[f(Z)], Z ~ N(0, 1): the entropy of a squashed normal has no closed form, and a sampled
# estimate would make a deterministic quantity noisy.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class SquashedGaussian:
    """tanh of independent normals: actions inside (-1, 1).  Draws are those before tanh (Haarnoja et al. 2018, C)."""

    mean: Tensor
    log_std: Tensor

    @property
    def base(self) -> Gaussian:
        """The normal before squashing."""
        return Gaussian(self.mean, self.log_std)

    def sample(self, rng: Source) -> Tensor:
        """A draw of the base."""
        return self.base.sample(rng)

    def mode(self) -> Tensor:
        """The base's mean: tanh of it is the median action, the usual deterministic choice."""
        return self.mean

    def log_prob(self, draw: Tensor) -> Tensor:
        """log N(u) − Σ log(1 − tanh² u), with the second term in its overflow-free form."""
        return self.base.log_prob(draw) - _log_slope(draw).sum(-1)

    def entropy(self) -> Tensor:
        """H(base) + Σ E[log(1 − tanh² u)] by 32-point Gauss–Hermite quadrature."""
        nodes = torch.as_tensor(_NODES, dtype=self.mean.dtype, device=self.mean.device)
        weights = torch.as_tensor(_WEIGHTS, dtype=self.mean.dtype, device=self.mean.device)
        u = self.mean[..., None] + self.log_std.exp().expand_as(self.mean)[..., None] * nodes
        return self.base.entropy() + (_log_slope(u) @ weights).sum(-1)

    def kl(self, other: SquashedGaussian) -> Tensor:
        """KL is invariant under the common bijection tanh: that of the bases."""
        return self.base.kl(other.base)

    def to_action(self, draw: Tensor) -> Tensor:
        """tanh."""
        return torch.tanh(draw)

    def detach(self) -> SquashedGaussian:
        """Without gradient."""
        return SquashedGaussian(self.mean.detach(), self.log_std.detach().clone())

    def rows(self, index: Tensor | int) -> SquashedGaussian:
        """Rows of a flat batch."""
        base = self.base.rows(index)
        return SquashedGaussian(base.mean, base.log_std)


def _log_slope(u: Tensor) -> Tensor:
    """log(1 − tanh² u) = 2(log 2 − u − softplus(−2u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))


@dataclass(frozen=True, slots=True)
class Choices:
    """Independent categorical choices; one choice is the ordinary discrete policy.  logits: per choice [..., n_j]."""

    logits: tuple[Tensor, ...]

    @classmethod
    def of(cls, output: Tensor, sizes: tuple[int, ...]) -> Choices:
        """Split one network output [..., Σ n_j] and normalise each part."""
        return cls(tuple(part.log_softmax(-1) for part in output.split(list(sizes), dim=-1)))

    def sample(self, rng: Source) -> Tensor:
        """Gumbel-max draws, [..., J] as floats holding whole numbers."""
        drawn = []
        for log_p in self.logits:
            u = _drawn(torch.rand, log_p, rng)
            gumbel = -torch.log(-torch.log(u.clamp_min(torch.finfo(u.dtype).tiny)))  # u < 1: −log u is never 0
            drawn.append((log_p + gumbel).argmax(-1))
        return torch.stack(drawn, dim=-1).to(self.logits[0].dtype)

    def mode(self) -> Tensor:
        """The likeliest option of each choice."""
        return torch.stack([log_p.argmax(-1) for log_p in self.logits], dim=-1).to(self.logits[0].dtype)

    def log_prob(self, draw: Tensor) -> Tensor:
        """Σ_j log p_j(draw_j)."""
        whole = draw.long()
        picked = [log_p.gather(-1, whole[..., j : j + 1])[..., 0] for j, log_p in enumerate(self.logits)]
        return torch.stack(picked).sum(0)

    def entropy(self) -> Tensor:
        """−Σ_j Σ p log p."""
        return torch.stack([-(log_p.exp() * log_p).sum(-1) for log_p in self.logits]).sum(0)

    def kl(self, other: Choices) -> Tensor:
        """Σ_j Σ p (log p − log q)."""
        terms = [(p.exp() * (p - q)).sum(-1) for p, q in zip(self.logits, other.logits, strict=True)]
        return torch.stack(terms).sum(0)

    def to_action(self, draw: Tensor) -> Tensor:
        """As drawn."""
        return draw

    def detach(self) -> Choices:
        """Without gradient."""
        return Choices(tuple(log_p.detach() for log_p in self.logits))

    def rows(self, index: Tensor | int) -> Choices:
        """Rows of a flat batch."""
        return Choices(tuple(log_p[index] for log_p in self.logits))


def side_by_side(parts: Sequence[Distribution]) -> Distribution:
    """The rows of flat batches of one kind of distribution, one batch's after another's."""
    if all(isinstance(part, Choices) for part in parts):
        logits = zip(*(part.logits for part in parts if isinstance(part, Choices)), strict=True)
        return Choices(tuple(torch.cat(each) for each in logits))
    normals = [part for part in parts if isinstance(part, Gaussian | SquashedGaussian)]
    mean = torch.cat([part.mean for part in normals])
    log_std = torch.cat([part.log_std.expand_as(part.mean) for part in normals])
    return type(normals[0])(mean, log_std)
