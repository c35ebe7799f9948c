"""Constrained variational policy optimisation (Liu et al. 2022): a convex problem per batch, then a fit to its answer.

E-step, over N actions of each of B states drawn from the policy π_old that is improved upon:

    max_q E_s E_q[Q_r]   s.t.   E_s E_q[Q_c] ≤ d̃,   E_s KL(q ‖ π_old) ≤ ε
    q ∝ π_old·exp((Q_r − λᵀQ_c)/η),   (η, λ) = argmin  λᵀd̃ + ηε + η E_s log E_π_old[exp((Q_r − λᵀQ_c)/η)]

M-step: the policy's mean and deviation are fitted to q by weighted likelihood, each held near π_old by a multiplier on
its own part of the KL.

Departures from the paper and from FSRL, whose settings are the defaults:

1. The dual is solved to its optimum for every batch by projected Newton; FSRL takes one Adam step on it.
2. Should a step leave the KL bounds, the policy is drawn back towards π_old until it is within them on this batch.
   Multipliers alone keep the bounds on average only.
3. The policy is tanh of a normal, whose KL is that of the normal; FSRL's is a normal with a bounded mean, clipped.
4. Several costs have one multiplier each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.distributions import Distribution, Gaussian, SquashedGaussian
from trueline.rl.off_policy.networks import ActorQ, Guide, Learner, pessimistic, td_target
from trueline.rl.off_policy.replay import Transitions

LEAST = 1e-6  # η stays above, in units of Q_r
TOLERANCE = 1e-8  # of the projected gradient, in the dual's own units: nats for η, units of Q_c for λ
STEPS = 100
REACH = 10.0  # factor by which one step may change η
FLATTEST = 1e-3  # share of the curvature under π_old below which none is believed
SMALLEST = 1e-12  # share of a step that is still tried


class Dual(NamedTuple):
    """η and λ, float64."""

    eta: Tensor  # []
    multiplier: Tensor  # [K]


class Slope(NamedTuple):
    """The dual's value, gradient and Hessian by (η, λ₁ … λ_K)."""

    value: Tensor  # []
    gradient: Tensor  # [1 + K]
    hessian: Tensor  # [1 + K, 1 + K]


def dual_slope(at: Dual, q_r: Tensor, q_c: Tensor, epsilon: float, limit: Tensor) -> Slope:
    """g(η, λ) = λᵀd̃ + ηε + η·mean_s log mean_a exp(Z),  Z = (Q_r − λᵀQ_c)/η, with its derivatives.

    ∂g/∂η = ε − E_s KL(q ‖ π_old),  ∂g/∂λ = d̃ − E_s E_q[Q_c],  Hessian = E_s Cov_q(Z, Q_c)/η: it is convex.
    q_r [B, N], q_c [B, N, K], limit [K]: float64.
    """
    z = (q_r - q_c @ at.multiplier) / at.eta
    log_mean = torch.logsumexp(z, dim=1) - torch.log(torch.tensor(float(z.shape[1]), dtype=z.dtype))
    q = z.softmax(1)
    both = torch.cat([z[..., None], q_c], dim=-1)  # [B, N, 1 + K]
    mean = (q[..., None] * both).sum(1)  # [B, 1 + K]
    centred = both - mean[:, None]
    hessian = torch.einsum("bn,bni,bnj->ij", q, centred, centred) / (len(z) * at.eta)
    divergence = (mean[:, 0] - log_mean).mean()
    gradient = torch.cat([(epsilon - divergence)[None], limit - mean[:, 1:].mean(0)])
    return Slope(at.multiplier @ limit + at.eta * (epsilon + log_mean.mean()), gradient, hessian)


def solve_dual(
    q_r: Tensor, q_c: Tensor, epsilon: float, limit: Tensor, upper: float, start: Dual | None = None
) -> Dual:
    """The least of the dual over η > 0 and 0 ≤ λ ≤ `upper`, by projected Newton steps with backtracking.

    Where no q within the KL bound keeps the limits, λ ends at `upper` and q comes as near to them as the bound allows.
    """
    q_r, q_c, limit = q_r.to(torch.float64), q_c.to(torch.float64), limit.to(torch.float64)
    low = torch.cat([torch.full((1,), LEAST, dtype=torch.float64), torch.zeros_like(limit)])
    high = torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), torch.full_like(limit, upper)])
    if start is None:
        # For normal Q_r and no constraint KL = Var(Q_r)/(2η²) is ε at this η.
        start = Dual((q_r.var(1, correction=0).mean() / (2.0 * epsilon)).sqrt(), torch.zeros_like(limit))
    # Curvature under π_old itself, the scale of the dual's own: where q has shrunk to single actions it has none left.
    spread = torch.cat([torch.full((1,), 2.0 * epsilon, dtype=torch.float64), q_c.var(1, correction=0).mean(0)])
    x = torch.cat([start.eta[None], start.multiplier]).clamp(low, high)
    here = dual_slope(Dual(x[0], x[1:]), q_r, q_c, epsilon, limit)
    for _ in range(STEPS):
        if float((x - (x - here.gradient).clamp(low, high)).abs().max()) < TOLERANCE:
            break
        held = ((x <= low) & (here.gradient > 0)) | ((x >= high) & (here.gradient < 0))
        step = _newton_step(here, ~held, FLATTEST * spread / x[0])
        least, most = low.clone(), high.clone()
        least[0], most[0] = (x[0] / REACH).clamp_min(LEAST), x[0] * REACH
        share = 1.0
        while True:
            there = (x + share * step).clamp(least, most)
            tried = dual_slope(Dual(there[0], there[1:]), q_r, q_c, epsilon, limit)
            enough = tried.value <= here.value - 1e-4 * (here.gradient @ (x - there))
            if enough or share < SMALLEST:
                break
            share *= 0.5
        if not enough:
            break  # no descent left that float64 can tell
        x, here = there, tried
    return Dual(x[0], x[1:])


def _newton_step(at: Slope, free: Tensor, least: Tensor) -> Tensor:
    """−H⁻¹g over the free coordinates, 0 elsewhere; curvatures below `least` are raised to it.  [1 + K] each."""
    index = free.nonzero()[:, 0]
    hessian = at.hessian[index][:, index]
    own = hessian.diagonal()
    # And a hair more, for two costs that are one and the same.
    hessian = hessian + torch.diag((least[index] - own).clamp_min(0.0) + 1e-10 * own + 1e-300)
    step = torch.zeros_like(at.gradient)
    step[index] = -torch.linalg.solve(hessian, at.gradient[index])
    return step


def target_weights(q_r: Tensor, q_c: Tensor, dual: Dual) -> Tensor:
    """q(a|s)/π_old(a|s) of the N sampled actions, normalised over them: [B, N] -> [B, N] with rows of sum 1."""
    return ((q_r.to(torch.float64) - q_c.to(torch.float64) @ dual.multiplier) / dual.eta).softmax(1)


class Divergence(NamedTuple):
    """The two parts of KL(old ‖ new) of normals, summed over dimensions, [...]: they add up where σ is the same."""

    mean: Tensor  # Σ (μ − μ_old)²/(2σ_old²)
    deviation: Tensor  # Σ log(σ/σ_old) + σ_old²/(2σ²) − ½


def divergence(old: Gaussian, new: Gaussian) -> Divergence:
    """KL of a move of the mean alone, and of one of the deviation alone (Abdolmaleki et al. 2018, 4.2.1)."""
    return Divergence(old.kl(Gaussian(new.mean, old.log_std)), old.kl(Gaussian(old.mean, new.log_std)))


def fit_loss(new: Gaussian, old: Gaussian, draw: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
    """−E_s Σ_a q(a|s)(log N(a; μ, σ_old) + log N(a; μ_old, σ)) + α_μ E_s KL_μ + α_σ E_s KL_σ.

    draw [N, B, A] before tanh, weight [B, N], alpha [2]. Each part of the policy is fitted with the other held: fitted
    together, the deviation would shrink wherever the mean is not yet where it should be.
    """
    fit = Gaussian(new.mean, old.log_std).log_prob(draw) + Gaussian(old.mean, new.log_std).log_prob(draw)  # [N, B]
    kl = divergence(old, new)
    return -(weight.T * fit).sum(0).mean() + alpha[0] * kl.mean.mean() + alpha[1] * kl.deviation.mean()


class Cvpo(Config):
    """Gradient steps of CVPO; the defaults are FSRL's where the module says nothing else."""

    stochastic: ClassVar[bool] = True
    takes: ClassVar[Literal["weights", "limits"]] = "limits"

    twins: Literal[1, 2] = 2  # critics of the reward
    batch: int = Field(256, ge=1)
    lr: float = Field(5e-4, gt=0)  # of the policy
    critic_lr: float = Field(1e-3, gt=0)
    polyak: float = Field(0.05, gt=0, le=1)  # share by which the slow copy of the critics follows
    grad_norm: float = Field(40.0, gt=0)  # each network's gradient is scaled down to this norm
    actions: int = Field(16, ge=2)  # N
    kl: float = Field(0.02, gt=0)  # ε of the E-step
    multiplier_max: float = Field(20.0, gt=0)  # of λ
    kl_mean: float = Field(0.005, gt=0)  # of the M-step, from π_old
    kl_deviation: float = Field(5e-4, gt=0)
    alpha_lr: float = Field(0.1, gt=0)  # of the M-step's multipliers, per bound that the KL exceeds its bound by
    alpha_max: float = Field(100.0, gt=0)
    renew: int = Field(2000, ge=1)  # gradient steps after which π_old becomes the policy

    def learner(self, network: ActorQ) -> Learner:
        """Networks, the critics' slow copies, π_old in the place of the policy's; raises ConfigError for choices."""
        if network.action.kind == "choices":
            raise ConfigError("cvpo fits a normal distribution, but the action is a choice. Use a SAC row.")
        learner = Learner(network, self.lr, self.critic_lr)
        zeros = torch.zeros(len(network.shape.costs), dtype=torch.float64)
        learner.own = {"multiplier": zeros, "eta": torch.zeros((), dtype=torch.float64), "alpha": torch.zeros(2)}
        return learner

    def act(self, network: ActorQ, features: Tensor, rng: torch.Generator) -> Tensor:
        """A draw from the policy, [N, A]."""
        policy = network.policy(features)
        return policy.to_action(policy.sample(rng))

    def learn(self, learner: Learner, batch: Transitions, guide: Guide, rng: torch.Generator) -> Mapping[str, Tensor]:
        """One gradient step of the critics, one E-step and one M-step."""
        policy = learner.policy(batch.after)
        action = policy.to_action(policy.sample(rng))
        q = learner.target_critics.passes.forward(torch.cat([batch.after, action], dim=1))[..., 0].T
        target = td_target(batch.signal, batch.discount, pessimistic(q, self.twins))
        inputs = torch.cat([batch.obs, batch.action], dim=1)
        loss = learner.fit_critics(inputs, target, self.grad_norm)
        learner.target_critics.follow(self.polyak)
        if learner.steps % self.renew == 0:
            learner.target_actor.follow(1.0)
        return {"critic_loss": loss} | self._improve(learner, batch.obs, guide.limit, rng)

    def _improve(self, learner: Learner, obs: Tensor, limit: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        before, own = learner.target_policy(obs), learner.own
        assert isinstance(before, SquashedGaussian)
        old = before.base
        noise = torch.randn(self.actions, *old.mean.shape, generator=rng)
        draw = old.mean + old.log_std.exp() * noise  # [N, B, A]
        rows = torch.cat([obs.expand(self.actions, *obs.shape), torch.tanh(draw)], dim=-1).flatten(0, 1)
        q = learner.critics.forward(rows)[..., 0].view(-1, self.actions, len(obs)).permute(2, 1, 0)  # [B, N, H]
        value = pessimistic(q, self.twins)
        start = Dual(own["eta"], own["multiplier"]) if float(own["eta"]) > 0.0 else None
        dual = solve_dual(value[..., 0], value[..., 1:], self.kl, limit, self.multiplier_max, start)
        weight = target_weights(value[..., 0], value[..., 1:], dual).to(obs.dtype)

        def loss(policy: Distribution) -> Tensor:
            assert isinstance(policy, SquashedGaussian)
            return fit_loss(policy.base, old, draw, weight, own["alpha"])

        found = learner.improve_policy(obs, loss, self.grad_norm)
        kl = self._kept(learner, obs, old)
        excess = torch.stack([kl.mean / self.kl_mean, kl.deviation / self.kl_deviation]) - 1.0
        learner.own = {
            "multiplier": dual.multiplier,
            "eta": dual.eta,
            "alpha": (own["alpha"] + self.alpha_lr * excess).clamp(0.0, self.alpha_max),
        }
        report = {"policy_loss": found, "eta": dual.eta, "kl_mean": kl.mean, "kl_deviation": kl.deviation}
        return report | {f"multiplier_{k}": x for k, x in enumerate(dual.multiplier)}

    def _kept(self, learner: Learner, obs: Tensor, old: Gaussian) -> Divergence:
        """KL from π_old after the step; the parameters are halved back towards π_old's while it is out of bounds.

        Returned is what the step itself came to: that is what the multipliers answer.
        """
        first: Divergence | None = None
        while True:
            new = learner.policy(obs)
            assert isinstance(new, SquashedGaussian)
            parts = divergence(old, new.base)
            kl = Divergence(parts.mean.mean(), parts.deviation.mean())
            first = kl if first is None else first
            if not (kl.mean > self.kl_mean or kl.deviation > self.kl_deviation):
                return first
            learner.target_actor.follows.lerp_(learner.target_actor.flat, 0.5)
