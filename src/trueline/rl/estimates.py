"""From a collection to what an update takes of it: values, advantages of reward and costs, their scales, the slack.

Scale and slack stand once, here, for the rows of one policy and for those of a team's agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueline.rl.advantage import gae
from trueline.rl.collect import Batch
from trueline.rl.handlers.constraint import Weights, mix
from trueline.rl.networks import ActorCritic
from trueline.rl.recurrent import RecurrentActorCritic, segments, sequences
from trueline.rl.updates.rows import Rows, SlackAdvantage, Update, WeightedAdvantage
from trueline.rl.updates.surrogate import standardised


class Discounts(Protocol):
    """How far a return and an advantage look ahead."""

    @property
    def gamma(self) -> float:
        """γ of the reward."""
        ...

    @property
    def cost_gamma(self) -> float:
        """γ of the costs."""
        ...

    @property
    def lam(self) -> float:
        """λ of GAE of the reward."""
        ...

    @property
    def cost_lam(self) -> float:
        """λ of GAE of the costs."""
        ...


class EstimateSettings(Discounts, Protocol):
    """The settings that estimates depend on."""

    @property
    def standardise(self) -> Literal["reward", "mix"]:
        """Which advantage has scale one; see `weighed`."""
        ...

    @property
    def update(self) -> Update:
        """Its `takes` says in which form it is given them."""
        ...


def estimate(
    batch: Batch, network: ActorCritic, config: EstimateSettings, weights: Weights, slack: Tensor | None = None
) -> Rows[Any]:
    """Values, advantages of reward and costs with truncation bootstrapping, and what the update takes of them.

    slack: [K], for an update that takes it.
    """
    ended = batch.terminated + batch.truncated
    with torch.no_grad():
        seen = _seen(batch, network)
        policy = network.policy(seen.features).detach()
        draw = seen.rows(batch.draw)
        log_prob = policy.log_prob(draw)
        next_value = torch.cat([seen.value[1:], seen.after[None]])
        next_value = next_value * (1.0 - ended)[..., None]
        next_value[batch.finals.t, batch.finals.i] = seen.finals
    signal = torch.cat([batch.reward[..., None], batch.cost], dim=-1)
    costs = batch.cost.shape[-1]
    gamma = torch.tensor([config.gamma] + [config.cost_gamma] * costs)
    lam = torch.tensor([config.lam] + [config.cost_lam] * costs)
    advantage = gae(signal, seen.value, next_value, ended[..., None], gamma, lam)
    target = seen.rows(advantage + seen.value)
    taken = _taken(advantage[..., 0], advantage[..., 1:], config, weights, slack, seen.rows)
    return Rows(seen.inputs, draw, log_prob, policy, taken, target)


class Seen(NamedTuple):
    """A collection as the network sees it."""

    inputs: dict[str, Tensor]  # by row, normalised: what the encoder takes
    features: Tensor  # by row
    value: Tensor  # [T, N, 1 + K]
    after: Tensor  # [N, 1 + K] of the observation after the last step
    finals: Tensor  # [F, 1 + K] of the last observations of episodes that time cut off
    rows: Callable[[Tensor], Tensor]  # [T, N, ...] as the rows have it


def _seen(batch: Batch, network: ActorCritic) -> Seen:
    steps, n = batch.reward.shape
    if isinstance(network, RecurrentActorCritic):
        return Seen(*sequences(network, batch), lambda x: segments(x, network.memory.segment))
    inputs = network.encoder.normalised({name: x[:steps].flatten(0, 1) for name, x in batch.inputs.items()})
    features = network.encoder(inputs)
    value = network.values(features).view(steps, n, -1)
    after = network.values(network.features({name: x[steps] for name, x in batch.inputs.items()}))
    finals = after[:0]
    if len(batch.finals.t):
        finals = network.values(network.features(batch.finals.inputs))
    return Seen(inputs, features, value, after, finals, lambda x: x.flatten(0, 1))


def _taken(
    advantage_r: Tensor,
    advantage_c: Tensor,
    config: EstimateSettings,
    weights: Weights,
    slack: Tensor | None,
    rows: Callable[[Tensor], Tensor],
) -> Tensor | WeightedAdvantage | SlackAdvantage:
    """What the update takes of advantages [T, N] and [T, N, K], by row."""
    takes = config.update.takes
    if takes == "mixed":
        return rows(weighed(advantage_r, advantage_c, weights, config.standardise))
    own = scaled(advantage_r, advantage_c)
    reward, cost = rows(own.reward), rows(own.cost)
    if takes == "weights":
        return WeightedAdvantage(reward, cost, weights, config.cost_gamma, config.cost_lam)
    assert slack is not None
    return SlackAdvantage(reward, cost, slack.to(cost))


class Scaled(NamedTuple):
    """Advantages [T, N] and [T, N, K] at scales of their own."""

    reward: Tensor
    cost: Tensor


def scaled(advantage_r: Tensor, advantage_c: Tensor) -> Scaled:
    """The reward's advantage at scale 1, each cost's in its own unit, both centred: OmniSafe's way."""
    return Scaled(standardised(advantage_r), advantage_c - advantage_c.mean(dim=(0, 1)))


def weighed(advantage_r: Tensor, advantage_c: Tensor, weights: Weights, standardise: str) -> Tensor:
    """The mixed advantage, at a scale a fixed step size expects.  [T, N], [T, N, K] -> [T, N].

    "reward" scales the reward first (`scaled`). What a multiplier of one means then drifts with the spread of the
    reward's advantage. "mix" keeps λ in units of reward per cost and standardises once, after mixing.
    """
    if standardise == "mix":
        return standardised(mix(advantage_r, advantage_c, weights))
    return mix(*scaled(advantage_r, advantage_c), weights)


def slack_of(episode_cost: NDArray[np.float64], episode_length: NDArray[np.int64], limits: Tensor) -> Tensor:
    """(J_C − d)/mean episode length of E episodes: per step, as surrogates are.

    episode_cost [E, K], episode_length [E], limits [K] -> [K]; nan without an episode.
    """
    if not len(episode_cost):
        return torch.full_like(limits, torch.nan)
    return (torch.as_tensor(episode_cost.mean(axis=0)) - limits) / float(episode_length.mean())
