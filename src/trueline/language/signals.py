"""From scores to what a policy is credited with: signals by token, their advantages, one mixed advantage.

A signal is the reward, a cost, or the divergence from the reference. Each has a critic's head and an advantage of its
own, and all share γ and λ. They are mixed once, by the weights of `rl.constraint` with the divergence as one more cost
of weight β, and whitened once, after mixing. Under these conditions

    (A[r − βk] − Σ λ_j·A[c_j + βk]) / (1 + Σλ)  =  (A[r] − Σ λ_j·A[c_j]) / (1 + Σλ) − β·A[k]

for any critics, so the divergence weighs β whatever the multipliers are, and J_C is the raw cost.

Letters of shapes: R = prompts times samples, L = prompt and response tokens, K costs, S = 1 + K (+ 1) signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trueline.core.config import Config
from trueline.language.rollout import Rollout
from trueline.language.scores import Scores
from trueline.language.subject import next_values
from trueline.rl.advantage import gae
from trueline.rl.handlers.constraint import Weights, mix
from trueline.rl.updates.surrogate import standardised

__all__ = [
    "LARGEST_ERROR",
    "AdaptiveKl",
    "Estimates",
    "Kl",
    "KlEstimator",
    "Signals",
    "adapted",
    "credited",
    "episode_cost",
    "estimated",
    "kl_of",
    "mixed",
    "signals_of",
    "whitened",
    "with_kl",
]

KlEstimator = Literal["k1", "k2", "k3"]
LARGEST_ERROR = 0.2  # relative, that β moves by


class AdaptiveKl(Config):
    """β ← β·(1 + clip((KL − target)/target, ±0.2)·replies/horizon), above 0 (Ziegler et al. 2019, eq. 4)."""

    target: float = Field(6.0, gt=0)  # nats per reply
    horizon: float = Field(10_000.0, gt=0)  # replies in which β would change by that share


class Kl(Config):
    """Divergence of the policy from the reference, weighed by β.

    With k1 it is a signal of its own, paid for like a cost (Ziegler et al. 2019): ∇E[k1] = E[k1·∇log π]. Of k2 and k3
    the same product is no gradient of a divergence and may have the other sign; they are differentiated themselves, as
    terms of each token's loss (`online.losses.kl_loss`).

    β of k1 is in units of reward for a nat. Of k2 and k3 it stands beside the advantage as that enters the loss: where
    advantages are whitened, in their deviations for a nat.
    """

    weight: float = Field(0.05, ge=0)  # β, the first one where it adapts
    estimator: KlEstimator = "k1"
    adaptive: AdaptiveKl | None = None

    @property
    def is_signal(self) -> bool:
        """Whether replies are credited with it."""
        return self.weight > 0.0 and self.estimator == "k1"


def kl_of(log_prob: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """KL(π ‖ π_ref) of one drawn token, with Δ = log π − log π_ref: k1 = Δ, k2 = Δ²/2, k3 = exp(−Δ) − 1 + Δ.

    [...] -> [...]. In expectation over π, k1 and k3 are the divergence itself and k2 is close to it where the two are
    near; k3 is never negative (Schulman 2020).
    """
    delta = log_prob - reference
    if estimator == "k1":
        return delta
    return 0.5 * delta.square() if estimator == "k2" else torch.expm1(-delta) + delta


def adapted(weight: float, settings: AdaptiveKl, kl: float, replies: int) -> float:
    """β after `replies` replies whose mean divergence was `kl` nats."""
    error = min(LARGEST_ERROR, max(-LARGEST_ERROR, kl / settings.target - 1.0))
    return weight * (1.0 + error * replies / settings.horizon)


@dataclass(frozen=True, slots=True)
class Signals:
    """What each token earned, in raw units."""

    signal: Tensor  # [R, L, S]: reward, costs in order, then KL where there is one; 0 outside of `kept`
    kept: Tensor  # [R, L] bool: sampled, in rows that were scored

    @property
    def total(self) -> Tensor:
        """Sums over each reply, [R, S]."""
        return self.signal.sum(dim=1)


def credited(score: Tensor, sampled: Tensor, credit: Literal["to-go", "total"]) -> Tensor:
    """Scores as reward-to-go may count them: with "total", the sum of a reply on its last token.

    score [R, L, ...], sampled [R, L] -> [R, L, ...]. A score that reads later tokens is no consequence of the tokens
    before it alone: what follows a token would leave out what it did to earlier scores. The whole sum is a
    consequence of every token. At γ = λ = 1 each token is then credited with all of it; with a smaller λ as far as the
    critic foresees it.
    """
    if credit == "to-go":
        return score
    last = sampled & ~torch.nn.functional.pad(sampled[:, 1:], (0, 1))
    shape = (*last.shape, *(1,) * (score.ndim - 2))
    return torch.where(last.view(shape), score.sum(dim=1, keepdim=True), 0.0)


def signals_of(
    rollout: Rollout,
    scores: Scores,
    kl: Tensor | None = None,
    *,
    credit: Literal["to-go", "total"] = "to-go",
    cut_penalty: float = 0.0,
    score_clip: float | None = None,
) -> Signals:
    """Signals of every token.  kl: [R, L], of the sampled tokens.

    A reply that was cut at the length limit loses `cut_penalty` of its reward on its last token; that is all that its
    end brings. `score_clip` bounds what one token earns or costs. Rows that were not scored are left out.
    """
    kept = rollout.sampled & ~scores.missing[:, None]
    judged = torch.cat([scores.reward[..., None], scores.cost], dim=-1)
    judged = credited(torch.where(kept[..., None], judged, 0.0), rollout.sampled, credit)
    if score_clip is not None:
        judged = judged.clamp(-score_clip, score_clip)
    if cut_penalty:
        last = kept & ~torch.nn.functional.pad(kept[:, 1:], (0, 1))
        judged[..., 0] -= cut_penalty * (last & ~rollout.ended[:, None])
    if kl is not None:
        judged = torch.cat([judged, torch.where(kept, kl, 0.0)[..., None]], dim=-1)
    return Signals(judged, kept)


def episode_cost(scores: Scores) -> Tensor:
    """Raw cost of each reply that was scored, for J_C: [E, K]."""
    return scores.cost.sum(dim=1)[~scores.missing]


class Estimates(NamedTuple):
    """Of each signal, [R, L, S] each; 0 outside of what is kept."""

    advantage: Tensor
    target: Tensor  # what the critic's heads are to say


def estimated(signals: Signals, value: Tensor, gamma: float, lam: float) -> Estimates:
    """Generalised advantages of all signals at once; column t of value [R, L, S] is the value before token t.

    The value after a reply's last token is 0, whether the reply ended there or was cut.
    """
    kept = signals.kept[..., None]
    value = torch.where(kept, value, 0.0)
    after = next_values(value, signals.kept)
    ended = ~(signals.kept & torch.nn.functional.pad(signals.kept[:, 1:], (0, 1)))
    # Time comes first there.
    reward, now, then, over = (x.transpose(0, 1) for x in (signals.signal, value, after, ended[..., None].to(value)))
    advantage = gae(reward, now, then, over, gamma, lam).transpose(0, 1)
    advantage = torch.where(kept, advantage, 0.0)
    return Estimates(advantage, advantage + value)


def with_kl(weights: Weights, beta: float) -> Weights:
    """The weights with the divergence as one more cost, of weight β."""
    return Weights(weights.reward, torch.cat([weights.cost, weights.cost.new_tensor([beta])]))


def mixed(advantage: Tensor, weights: Weights) -> Tensor:
    """w_r·A_r − Σ w_c·A_c − β·A_k.  advantage [..., S] -> [...]; the weights are those of `with_kl` if it has KL."""
    return mix(advantage[..., 0], advantage[..., 1:], weights)


def whitened(advantage: Tensor, kept: Tensor) -> Tensor:
    """(A − mean)/std over the tokens that are kept, 0 elsewhere.  [R, L] -> [R, L]."""
    white = torch.zeros_like(advantage)
    white[kept] = standardised(advantage[kept])
    return white
