"""Policies with a memory: gated recurrent units (Cho et al. 2014) between what is seen and what is made of it.

    r = σ(W_r x + U_r h + b_r),  z = σ(W_z x + U_z h + b_z),  n = tanh(W_n x + b_n + r∘(U_n h + c_n))
    h ← (1 − z)∘n + z∘h

h is the memory and what policy and values see; it is 0 before the first observation of an episode. Policy and values
have a unit each, so that, as without a memory, they share no parameter.

An update learns from sequences: the steps of each environment are cut into segments of `segment` steps, each with the
memory that the policy which acted had before it. Gradients end where a segment begins, so that what has to be
remembered longer than a segment is learnt badly or not at all. An episode that begins within a segment begins with an
empty memory there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from trueline.core.config import Config
from trueline.rl.collect import Batch
from trueline.rl.distributions import Distribution
from trueline.rl.networks import ActorCritic, ActorNetwork, Encoder, Mlp, Network, StackedMlp
from trueline.rl.spaces import ActionCodec, ObservationCodec

__all__ = ["Gru", "RecurrentActorCritic", "Sequences", "StackedGru", "segments", "sequences"]

UNITS = 2  # the policy's and the values'


class Gru(Config):
    """A memory, and how much of it is learnt from at once."""

    kind: Literal["gru"] = "gru"
    width: int = Field(64, ge=1)  # M: numbers of the policy's memory, and as many of the values'
    segment: int = Field(16, ge=1)  # L: steps through which gradients go


class StackedGru(nn.Module):
    """H gated units of one shape in batched products."""

    def __init__(self, heads: int, inputs: int, width: int, rng: torch.Generator) -> None:
        """Weights uniform within ±1/√M, drawn from `rng` alone."""
        super().__init__()
        self.heads, self.width = heads, width
        bound = 1.0 / math.sqrt(width)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=rng) * 2.0 - 1.0) * bound)

        # Gates side by side: r, z, n.
        self.from_input, self.input_bias = drawn(heads, inputs, 3 * width), drawn(heads, 1, 3 * width)
        self.from_memory, self.memory_bias = drawn(heads, width, 3 * width), drawn(heads, 1, 3 * width)

    def forward(self, x: Tensor, memory: Tensor, begins: Tensor) -> Tensor:
        """The memory after each of T steps, [T, B, H·M].

        x [T, B, D], memory [B, H·M] before the first step, begins [T, B]: 1 where an episode begins with that step.
        """
        steps, rows = x.shape[:2]
        # What comes from the inputs is one product for all steps.
        inputs = torch.baddbmm(self.input_bias, x.flatten(0, 1).expand(self.heads, -1, -1), self.from_input)
        inputs = inputs.view(self.heads, steps, rows, 3 * self.width)
        h = memory.view(rows, self.heads, self.width).transpose(0, 1)
        after = []
        for t in range(steps):
            h = h * (1.0 - begins[t])[None, :, None]
            r_x, z_x, n_x = inputs[:, t].chunk(3, dim=-1)
            r_h, z_h, n_h = torch.baddbmm(self.memory_bias, h, self.from_memory).chunk(3, dim=-1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + r * n_h)
            h = n + z * (h - n)
            after.append(h.transpose(0, 1).reshape(rows, -1))
        return torch.stack(after)


class RecurrentEncoder(Encoder):
    """The encoder of observations with a memory behind it.

    Its inputs are segments: "vector" [S, L, D] and pictures [S, L, ...], "memory" [S, 2M] before the first step of
    each, and "begins" [S, L]. They become features [S, L, 2M]: the policy's memory, then that of the values.
    """

    def __init__(self, codec: ObservationCodec, memory: Gru, rng: torch.Generator) -> None:
        """codec: what the observations hold."""
        super().__init__(codec, rng)
        self.units = StackedGru(UNITS, self.width, memory.width, rng)
        self.width = UNITS * memory.width

    def forward(self, normalised: Mapping[str, Tensor]) -> Tensor:
        """Features [S, L, 2M]."""
        begins = normalised["begins"]
        seen = {name: x.flatten(0, 1) for name, x in normalised.items() if name not in ("memory", "begins")}
        x = super().forward(seen).unflatten(0, begins.shape)
        return self.units(x.transpose(0, 1), normalised["memory"], begins.T).transpose(0, 1)


class RecurrentActorCritic(ActorCritic):
    """A policy and 1 + K value functions that see a memory of what was observed."""

    encoder: RecurrentEncoder

    def __init__(
        self,
        observation: ObservationCodec,
        action: ActionCodec,
        costs: int,
        actor: ActorNetwork,
        critic: Network,
        memory: Gru,
        rng: torch.Generator,
    ) -> None:
        """costs: K."""
        nn.Module.__init__(self)
        self.action, self.squashed, self.memory = action, actor.squashed, memory
        self.encoder = RecurrentEncoder(observation, memory, rng)
        self.actor = Mlp(memory.width, action.outputs, actor, rng)
        self.critics = StackedMlp(1 + costs, memory.width, 1, critic, rng)
        self.log_std = nn.Parameter(torch.full(action.sizes, actor.log_std)) if action.kind == "continuous" else None

    @property
    def memory_width(self) -> int:
        """2M."""
        return self.encoder.width

    def features(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """The memory after one step, [N, 2M], of inputs [N, ...] as the world gives them; none before is 0."""
        rows = len(next(iter(inputs.values())))
        before = torch.zeros(rows, self.memory_width) if memory is None else memory
        one = {name: x[:, None] for name, x in self.encoder.normalised(inputs).items()}
        return self.encoder({**one, "memory": before, "begins": before.new_zeros(rows, 1)})[:, 0]

    def policy(self, features: Tensor) -> Distribution:
        """The action distribution of features [..., 2M]."""
        return super().policy(features[..., : self.memory.width])

    def values(self, features: Tensor) -> Tensor:
        """[..., 1 + K]: the reward's value, then each cost's, of features [..., 2M]."""
        own = features[..., self.memory.width :]
        return super().values(own.reshape(-1, self.memory.width)).unflatten(0, own.shape[:-1])


def segments(x: Tensor, length: int) -> Tensor:
    """[T, N, ...] -> [N·T/L, L, ...]: each environment's steps in pieces of L, which has to divide T."""
    return x.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)


class Sequences(NamedTuple):
    """A collection as a network with a memory saw it."""

    inputs: dict[str, Tensor]  # segments, normalised, with the memory before each: what `RecurrentEncoder` takes
    features: Tensor  # [S, L, 2M]
    value: Tensor  # [T, N, 1 + K]
    after: Tensor  # [N, 1 + K] of the observation after the last step
    finals: Tensor  # [F, 1 + K] of the last observations of episodes that time cut off


def sequences(network: RecurrentActorCritic, batch: Batch) -> Sequences:
    """One pass over all steps of a collection, from the memory it began with; without gradient by the caller."""
    steps, n = batch.reward.shape
    length = network.memory.segment
    memory = torch.zeros(n, network.memory_width) if batch.memory is None else batch.memory
    ended = batch.terminated + batch.truncated
    begins = torch.cat([torch.zeros(1, n), ended[:-1]])
    normalised = network.encoder.normalised({name: x[:steps] for name, x in batch.inputs.items()})
    whole = {name: segments(x, steps) for name, x in normalised.items()}  # one segment for each environment
    features = network.encoder({**whole, "memory": memory, "begins": begins.T}).transpose(0, 1)  # [T, N, 2M]
    last = features[-1] * (1.0 - ended[-1])[:, None]
    after = network.values(network.features({name: x[steps] for name, x in batch.inputs.items()}, last))
    finals = after.new_zeros(0, after.shape[-1])
    if len(batch.finals.t):
        finals = network.values(network.features(batch.finals.inputs, features[batch.finals.t, batch.finals.i]))
    before = torch.cat([memory[None], features[:-1]]) * (1.0 - begins)[..., None]
    inputs = {name: segments(x, length) for name, x in normalised.items()}
    inputs |= {"memory": before[::length].flatten(0, 1), "begins": segments(begins, length)}
    return Sequences(inputs, segments(features, length), network.values(features), after, finals)
