"""Imagined trajectories: what candidates for the next actions lead to, particle by particle (Chua et al. 2018, sec. 5).

N environments, S candidates, H decisions, P particles, E members, K costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trueline.rl.planning.dynamics import Dynamics, Predicted

Told = Callable[[Tensor, Tensor, Tensor], Tensor]  # (obs, action, after) -> reward and costs [..., 1 + K]
Value = Callable[[Tensor], Tensor]  # obs [B, D] -> what comes after it [B]


class Imagined(NamedTuple):
    """What was imagined of every candidate."""

    signal: Tensor  # [H, P, N, S, 1 + K] reward and costs; a cost is 0 or more
    spread: Tensor  # [H, P/E, N, S] max_e ‖σ_e(s, a)‖: how little the members know, in the observations' units
    last: Tensor  # [P, N, S, D] observation after H decisions


class Judged(NamedTuple):
    """What candidates are worth."""

    returns: Tensor  # [N, S]
    cost: Tensor  # [N, S, K]


@torch.no_grad()
def imagine(
    dynamics: Dynamics,
    obs: Tensor,
    actions: Tensor,
    particles: int,
    propagation: Literal["ts1", "ts-inf"],
    rng: torch.Generator,
    told: Told | None = None,
) -> Imagined:
    """P particles of every candidate: obs [N, D], actions [N, S, H, A]; P is a multiple of E.

    With "ts-inf" a particle belongs to one member throughout: members stand for worlds that are possible. With "ts1"
    particles are dealt to the members anew before every step. `told` gives reward and costs in the model's place.
    """
    members, (n, s, horizon, a), d = dynamics.members, actions.shape, obs.shape[1]
    each = particles // members
    state = obs[:, None].expand(particles, n, s, d).reshape(members, each * n * s, d)
    signals, spreads = [], []
    for h in range(horizon):
        if propagation == "ts1" and h:
            dealt = torch.randperm(particles, generator=rng)
            state = state.view(particles, n * s, d)[dealt].view(members, -1, d)
        action = actions[:, :, h].expand(particles, n, s, a).reshape(members, -1, a)
        predicted = dynamics.predict(state, action) if h else _first(dynamics, obs, actions[:, :, 0], each)
        noise = torch.randn(predicted.after.shape, generator=rng)
        after = torch.addcmul(predicted.after, predicted.deviation, noise)
        signal = predicted.signal if told is None else told(state, action, after)
        signals.append(signal.reshape(particles, n, s, -1))
        spreads.append(predicted.deviation.norm(dim=-1).amax(0).view(each, n, s))
        state = after
    signal = torch.stack(signals)
    signal[..., 1:].clamp_(min=0.0)  # a learnt one may fall below what a cost can be
    return Imagined(signal, torch.stack(spreads), state.view(particles, n, s, d))


def _first(dynamics: Dynamics, obs: Tensor, action: Tensor, each: int) -> Predicted:
    """What the first action leads to: a member's particles have not parted yet, so that one prediction does for all.

    obs [N, D], action [N, S, A] -> [E, each·N·S, …].
    """
    n, s, a = action.shape
    state = obs[:, None].expand(dynamics.members, n, s, -1).reshape(dynamics.members, n * s, -1)
    predicted = dynamics.predict(state, action.reshape(1, n * s, a).expand(dynamics.members, -1, -1))
    return Predicted(*(part.repeat(1, each, 1) for part in predicted))


def judge(
    imagined: Imagined,
    gamma: float,
    across: Literal["mean", "worst"],
    left: Tensor,
    caution: Tensor | None = None,
    value: Value | None = None,
) -> Judged:
    """R = Σ_h γʰ E[r_h] (+ γᴴ E[V(s_H)]),   C = Σ_h c̄_h (+ κ max_e ‖σ_e‖),   c̄ the particles' mean or worst.

    left: [N] decisions that are left of the episode; what is imagined beyond does not count, but for the reward where
    there is a value, which knows no end. caution: κ [K]. Costs are undiscounted.
    """
    signal = imagined.signal
    horizon, particles, n, s = signal.shape[:4]
    counts = (torch.arange(horizon)[:, None] < left).to(signal.dtype)[..., None]  # [H, N, 1]
    discount = gamma ** torch.arange(horizon, dtype=signal.dtype)[:, None, None]
    reward = signal[..., 0].mean(dim=1)
    if value is None:
        returns = (discount * counts * reward).sum(0)
    else:
        last = imagined.last
        beyond = value(last.reshape(-1, last.shape[-1])).view(particles, n, s).mean(dim=0)
        returns = (discount * reward).sum(0) + gamma**horizon * beyond
    cost = signal[..., 1:].amax(dim=1) if across == "worst" else signal[..., 1:].mean(dim=1)
    if caution is not None:
        cost = cost + caution.to(cost.dtype) * imagined.spread.mean(dim=1)[..., None]
    return Judged(returns, (counts[..., None] * cost).sum(0))


@torch.no_grad()
def proposed(
    dynamics: Dynamics, policy: Callable[[Tensor], Tensor], obs: Tensor, count: int, horizon: int, rng: torch.Generator
) -> Tensor:
    """What a policy would do: `count` sequences of actions from each observation, [N, D] -> [N, count, H, A].

    policy: observations [B, D] -> drawn actions [B, A]. Sequence i is imagined with member i mod E.
    """
    members, n = dynamics.members, len(obs)
    rows = torch.arange(n * count)
    state = obs.repeat_interleave(count, dim=0)
    taken = []
    for _ in range(horizon):
        action = policy(state)
        taken.append(action)
        predicted = dynamics.predict(state.expand(members, -1, -1), action.expand(members, -1, -1))
        own = (rows % count) % members
        mean, deviation = predicted.after[own, rows], predicted.deviation[own, rows]
        state = torch.addcmul(mean, deviation, torch.randn(mean.shape, generator=rng))
    return torch.stack(taken, dim=1).view(n, count, horizon, -1)
