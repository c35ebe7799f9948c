"""A barrier certificate and what it is worth under learnt models (Luo & Ma 2021, sections 3 and 4).

    h(s) = 1 − softplus(f(s) − f(s₀)) − B(s) − S(s),   C = {s: h(s) ≥ 0}
    U(s, a) = max_e −h(m + β(μ_e − m)),                μ_e(s, a): where member e says that a leads; m: their mean

h(s₀) > 0 and h < 0 on all that is unsafe (B ≥ 1) or unlike what has been seen (S ≥ 1) hold by construction, whatever
the network f is. What has to be learnt is that a policy stays: U(s, π(s)) ≤ 0 for all s in C. Then C is invariant as
far as the models are right, and none of it is unsafe. The worst state of C is what learning goes by:

    C*(f, π) = max U(s, π(s))  s.t.  h(s) ≥ 0,     ∇C* = ∇(U + λh)(s*),   λ = ‖∇ₛU‖/‖∇ₛh‖

so that h is raised where s* leads to and lowered at s* itself, and π is led away from the edge. Signs are the paper's:
safe is h ≥ 0, certain is U ≤ 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trueline.rl.certificates.certifiable import Certifiable
from trueline.rl.networks import Mlp, Network
from trueline.rl.planning.dynamics import Ensemble

__all__ = ["Box", "Certificate", "Core", "Examined", "Restrained", "examined", "outside_loss", "violation_loss"]

STEEP = 8  # power of S: 1 at the edge of its box, below a hundredth up to half of the way to it
MOST_SLOPE = 10.0  # largest λ: where h is flat, s* is no constrained maximum and λ says nothing
NEAR = 0.5  # −h up to which a state is pushed for: what is far outside would only pull at the network
SHARES = 8  # of the way from π's action to a wanted one


class Box(NamedTuple):
    """Of states."""

    middle: Tensor  # [D]
    half: Tensor  # [D] half-widths


class Certificate(nn.Module):
    """h of states, [..., D] -> [...]."""

    def __init__(self, known: Certifiable, shape: Network, beyond: float, rng: torch.Generator) -> None:
        """known: what the world gives of B, s₀ and the region, whose half-widths f's inputs are measured in.

        beyond: how much wider than what has been seen the box is in which a state may be called safe.
        """
        super().__init__()
        self.danger, self.beyond = known.danger, beyond
        self.net = Mlp(len(known.start), 1, shape, rng)
        self.register_buffer("region", known.region.clone())
        for name in ("start", "low", "high"):
            self.register_buffer(name, known.start.clone())

    region: Tensor
    start: Tensor
    low: Tensor  # [D] least and largest of what has been seen
    high: Tensor

    def see(self, states: Tensor) -> None:
        """Take in that states [B, D] have been seen."""
        self.low.copy_(torch.minimum(self.low, states.amin(0)))
        self.high.copy_(torch.maximum(self.high, states.amax(0)))

    def box(self) -> Box:
        """Where a state may be called safe."""
        half = 0.5 * self.beyond * (self.high - self.low)
        return Box(0.5 * (self.high + self.low), half.clamp_min(1e-6))

    def strangeness(self, obs: Tensor) -> Tensor:
        """S(s) = Σᵢ ((sᵢ − middleᵢ)/halfᵢ)⁸ of the box, [...]."""
        box = self.box()
        return ((obs - box.middle) / box.half).pow(STEEP).sum(-1)

    def forward(self, obs: Tensor) -> Tensor:
        """h."""
        f, f_start = self.net(obs / self.region), self.net(self.start / self.region)
        return 1.0 - functional.softplus(f - f_start)[..., 0] - self.danger(obs) - self.strangeness(obs)


class Restrained(NamedTuple):
    """Actions as far as they are certain."""

    action: Tensor  # [B, A]
    changed: Tensor  # [B] whether it is not the wanted one
    certain: Tensor  # [B] whether it is certain


class Core(nn.Module):
    """What is certified together: a barrier, the policy it is for, and the models that say where actions lead."""

    def __init__(self, certificate: Certificate, policy: Mlp, dynamics: Ensemble, widened: float) -> None:
        """policy: [..., D] -> [..., A] before tanh; widened: β, by which what the members say differs the more."""
        super().__init__()
        self.certificate, self.policy, self.dynamics, self.widened = certificate, policy, dynamics, widened
        self._shares = torch.linspace(1.0, 0.0, SHARES + 1)[:, None, None]

    def intended(self, obs: Tensor) -> Tensor:
        """π(s), [B, D] -> [B, A]."""
        return torch.tanh(self.policy(obs / self.certificate.region))

    def foreseen(self, obs: Tensor, action: Tensor) -> Tensor:
        """μ_e(s, a) of every member, [E, B, D] of obs [B, D] and action [B, A]."""
        model = self.dynamics
        every = model.model.members, -1, -1
        mean, _ = model(obs.expand(every), action.expand(every))
        return obs + mean / model.targets.scale32 + model.targets.shift32

    def risk(self, obs: Tensor, action: Tensor) -> Tensor:
        """U(s, a), [B] of obs [B, D] and action [B, A]."""
        after = self.foreseen(obs, action)
        middle = after.mean(0)
        return (-self.certificate(middle + self.widened * (after - middle))).amax(0)

    @torch.no_grad()
    def restrained(self, obs: Tensor, wanted: Tensor) -> Restrained:
        """Of the actions on the way from π(s) to the wanted one [B, A] the farthest that is certain, U(s, a) ≤ 0.

        Where none is, π(s): inside C it is what the certificate was made for, outside it is all there is.
        """
        own = self.intended(obs)
        candidates = own + self._shares * (wanted - own)  # [S, B, A], the wanted one first
        risk = self.risk(obs.repeat(len(candidates), 1), candidates.flatten(0, 1)).view(len(candidates), -1)
        certain = risk <= 0.0
        first = torch.where(certain.any(0), certain.int().argmax(0), SHARES)
        return Restrained(candidates[first, torch.arange(len(obs))], first > 0, certain.any(0))


# --- learning ---


class Examined(NamedTuple):
    """What a core is worth at B states; h and U with gradient, slopes without."""

    states: Tensor  # [B, D]
    h: Tensor  # [B]
    risk: Tensor  # [B] U(s, π(s))
    h_slope: Tensor  # [B, D] ∇ₛh
    risk_slope: Tensor  # [B, D] ∇ₛU(s, π(s))
    violated: Tensor  # [B] called safe, but not certain by the margin

    @property
    def broken(self) -> bool:
        """Whether any state is violated."""
        return bool(self.violated.any())


def examined(core: Core, states: Tensor, margin: float) -> Examined:
    """The states [B, D] as they stand.  margin: by how much U has to be below 0."""
    s = states.detach().clone().requires_grad_()
    h, risk = core.certificate(s), core.risk(s, core.intended(s))
    (h_slope,) = torch.autograd.grad(h.sum(), s, retain_graph=True)
    (risk_slope,) = torch.autograd.grad(risk.sum(), s, retain_graph=True)
    violated = (h >= 0.0) & (risk + margin > 0.0)
    return Examined(s.detach(), h, risk, h_slope, risk_slope, violated.detach())


def violation_loss(found: Examined) -> Tensor:
    """mean(U + λh) over the violated states, whose gradient is that of C*; at least one is violated."""
    at = found.violated
    slopes = found.risk_slope[at].norm(dim=-1), found.h_slope[at].norm(dim=-1)
    multiplier = (slopes[0] / slopes[1].clamp_min(1e-6)).clamp_max(MOST_SLOPE)
    return (found.risk[at] + multiplier * found.h[at]).mean()


def outside_loss(certificate: Certificate, states: Tensor) -> Tensor:
    """mean min(−h(s), NEAR)₊ over the states [B, D] that could be called safe: what pushes the set outward."""
    possible = certificate.danger(states) + certificate.strangeness(states) < 1.0
    return ((-certificate(states)).clamp(0.0, NEAR) * possible).mean()
