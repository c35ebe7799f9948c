"""The elasticity theorem of arXiv 2406.06144: a small disturbance costs alignment more than pre-training.

Pre-training data D_p are three sets of equal size, D_a (alignment) is distributed as the second of them and D_t
(disturbance) as the third; k = |D_p|/|D_a| ≫ 1 and l = |D_t|/|D_a| ≪ 1. The theorem says

    dγ_a/dl = Θ(-k·dγ_p/dl),   dγ_p/dl < 0 < dγ_a/dl.

Two things about it, which the tests hold it to:

1. The ratio needs neither large k nor any distribution. With the code of the mixture,

       k·dγ_p/dl + dγ_a/dl + l·dγ_t/dl = 0

   for every k and l, since the mixture's own code is the shortest for the mixture, so that changing the code a little
   changes nothing in the first order; at l = 0 the ratio is exactly 1. What is left to a theorem is the sign.
2. In the paper's proof the leaves' weights are replaced by independent X₁, X₂, X₃ of equal Pareto distribution. With
   E X = 1 both slopes go to one number, k·dγ_a/dl -> κ and k²·dγ_p/dl -> -κ with

       κ = 1 - 3·E[X₂X₃/(X₁ + X₂ + X₃)],

   which is positive unless X is constant. This is a property of independent weights, not of language.

Expectations of ratios are integrals over one variable, by 1/W = ∫ exp(-uW) du; no sampling, in which they would drown
for large k. Slopes of weights are in nats, those of trees in bits as codes are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trueline.core.errors import ConfigError
from trueline.language.elasticity.token_tree import Leaves, joint, rate

__all__ = ["Mass", "Pareto", "Rates", "kappa", "mass_rates", "mass_slopes", "tree_rates", "tree_slopes"]


class Rates(NamedTuple):
    """Of the pre-training, alignment and disturbance data: compression rates γ, or their derivatives in l."""

    p: float
    a: float
    t: float


class Mass(Protocol):
    """A distribution of leaves' weights with mean 1."""

    def tilted(self, power: int, s: float) -> float:
        """E[X^power · exp(-sX)] for s > 0 and power 0, 1, 2."""
        ...


@dataclass(frozen=True, slots=True)
class Pareto:
    """P(X > x) = (c/x)^α for x ≥ c, with c = (α - 1)/α so that the mean is 1."""

    alpha: float

    def __post_init__(self) -> None:
        """Refuse an infinite mean."""
        if not self.alpha > 1.0:
            raise ConfigError(f"alpha is {self.alpha:g}, but a Pareto distribution has a mean for alpha above 1 only.")

    def tilted(self, power: int, s: float) -> float:
        """α·c^power·E_{α+1-power}(cs), with the generalised exponential integral E_p."""
        c = (self.alpha - 1.0) / self.alpha
        return self.alpha * c**power * _exponential_integral(self.alpha + 1.0 - power, c * s)


def _exponential_integral(p: float, u: float) -> float:
    """E_p(u) = ∫₁^∞ exp(-ut)·t^(-p) dt for p, u > 0, from p in (0, 1] upwards by E_{p+1} = (e^(-u) - u·E_p)/p."""
    from scipy.special import exp1, gamma, gammaincc

    steps = math.ceil(p) - 1
    q = p - steps
    found = float(exp1(u)) if q == 1.0 else float(u ** (q - 1.0) * gamma(1.0 - q) * gammaincc(1.0 - q, u))
    for _ in range(steps):
        found = (math.exp(-u) - u * found) / q
        q += 1.0
    return found


def kappa(mass: Mass) -> float:
    """κ = 1 - 3·E[X₂X₃/(X₁ + X₂ + X₃)]."""
    return 1.0 - 3.0 * _integral(lambda u: mass.tilted(0, u) * mass.tilted(1, u) ** 2)


def mass_slopes(mass: Mass, k: float, l: float) -> Rates:  # noqa: E741  (the paper's symbol)
    """dγ/dl by weights: 1/(k+l+1) - E[Y·X₃/W] for Y = (X₁+X₂+X₃)/3, X₂, X₃ and W = (k/3)(X₁+X₂+X₃) + X₂ + l·X₃."""
    w = _weights(k, l)

    def ratio(powers: tuple[int, int, int]) -> float:
        """E[X₁^a·X₂^b·X₃^c/W]."""
        return (3.0 / k) * _integral(lambda u: math.prod(mass.tilted(n, u * x) for n, x in zip(powers, w, strict=True)))

    first, second, third = ratio((1, 0, 1)), ratio((0, 1, 1)), ratio((0, 0, 2))
    share = 1.0 / (k + l + 1.0)
    return Rates(share - (first + second + third) / 3.0, share - second, share - third)


def mass_rates(mass: Mass, k: float, l: float) -> Rates:  # noqa: E741
    """γ by weights: -E[Y·log X_D] for Y = (X₁+X₂+X₃)/3, X₂, X₃ and X_D = W/(k+l+1), W as in `mass_slopes`."""
    w = _weights(k, l)
    scale = math.log(k / 3.0 / (k + l + 1.0))

    def log_w(i: int) -> float:
        """E[Xᵢ·log(3W/k)], by log W = ∫ (exp(-u) - exp(-uW))/u du."""

        def inside(u: float) -> float:
            tilted = math.prod(mass.tilted(int(j == i), u * x) for j, x in enumerate(w))
            return (math.exp(-u) - tilted) / u

        return _integral(inside)

    one, two, three = (-(log_w(i) + scale) for i in range(3))
    return Rates((one + two + three) / 3.0, two, three)


def _weights(k: float, l: float) -> tuple[float, float, float]:  # noqa: E741
    """3W/k by its three variables."""
    return 1.0, 1.0 + 3.0 / k, 1.0 + 3.0 * l / k


def _integral(of: Callable[[float], float]) -> float:
    from scipy.integrate import quad

    # Two parts: heavy tails of X make the integrand steep at 0.
    ends = (0.0, 1.0), (1.0, math.inf)
    return sum(float(quad(of, *end, epsabs=1e-12, epsrel=1e-11, limit=200)[0]) for end in ends)


def tree_rates(d_p: Leaves, d_a: Leaves, d_t: Leaves, k: float, l: float) -> Rates:  # noqa: E741
    """Rates of three sets in the ideal code of their mixture by sizes k : 1 : l, bits."""
    mixed = joint((d_p, d_a, d_t), (k, 1.0, l))
    return Rates(rate(d_p, mixed), rate(d_a, mixed), rate(d_t, mixed))


def tree_slopes(d_p: Leaves, d_a: Leaves, d_t: Leaves, k: float, l: float) -> Rates:  # noqa: E741
    """dγ/dl of `tree_rates`: (1 - Σ pᵢ·p_t/p^D)/((k+l+1)·ln 2), bits."""
    mixed = joint((d_p, d_a, d_t), (k, 1.0, l))

    def slope(own: Leaves) -> float:
        overlap = sum(p * d_t.get(leaf, 0.0) / mixed[leaf] for leaf, p in own.items() if p > 0.0)
        return (1.0 - overlap) / ((k + l + 1.0) * math.log(2.0))

    return Rates(slope(d_p), slope(d_a), slope(d_t))
