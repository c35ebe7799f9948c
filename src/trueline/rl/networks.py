"""Policy and value networks: a multilayer perceptron, a stack of them evaluated together, an encoder of pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.rl.activations import tanh
from trueline.rl.blocks import in_blocks
from trueline.rl.distributions import Choices, Distribution, Gaussian, SquashedGaussian, Stackable
from trueline.rl.normalise import RunningNorm
from trueline.rl.spaces import ActionCodec, ObservationCodec

ACTIVATIONS = {"tanh": tanh, "relu": torch.relu, "silu": nn.functional.silu}


class Network(Config):
    """Shape and start of one multilayer perceptron."""

    hidden: tuple[PositiveInt, ...] = (64, 64)
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    init: Literal["kaiming", "orthogonal"] = "kaiming"  # kaiming-uniform(√5) is torch's own and OmniSafe's
    last_gain: float = Field(1.0, gt=0)  # factor on the last layer's initial weights


class ActorNetwork(Network):
    """A policy network and its distribution for continuous actions."""

    log_std: float = 0.0  # initial log σ, independent of the state
    squashed: bool = False  # tanh of a normal in place of a normal clipped by the world


class StackedMlp(nn.Module):
    """H perceptrons of one shape in batched products: [B, D] -> [B, H, outputs].

    Small layers cost more in calls than in arithmetic, so that H networks in one product take little more than one.
    """

    def __init__(self, heads: int, inputs: int, outputs: int, shape: Network, rng: torch.Generator) -> None:
        """Weights are drawn per head, as H separate networks would be."""
        super().__init__()
        self.heads = heads
        self.activation = ACTIVATIONS[shape.activation]
        sizes = [inputs, *shape.hidden, outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = shape.last_gain if layer == len(sizes) - 2 else 1.0
            weight = torch.stack([_initial(fan_out, fan_in, shape.init, rng) * gain for _ in range(heads)])
            self.weights.append(nn.Parameter(weight.transpose(1, 2).contiguous()))  # [H, in, out]
            bound = 1.0 / math.sqrt(fan_in) if shape.init == "kaiming" else 0.0
            self.biases.append(nn.Parameter(_uniform((heads, 1, fan_out), bound, rng) * gain))
        self._layers = list(zip(self.weights, self.biases, strict=True))  # looking into a ParameterList is slow

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, H, outputs]."""
        h = x.expand(self.heads, *x.shape)
        last = len(self._layers) - 1
        for layer, (weight, bias) in enumerate(self._layers):
            h = torch.baddbmm(bias, h, weight)
            if layer < last:
                h = self.activation(h)
        return h.transpose(0, 1)


class Mlp(nn.Module):
    """One perceptron, [..., D] -> [..., outputs]."""

    def __init__(self, inputs: int, outputs: int, shape: Network, rng: torch.Generator) -> None:
        """Weights drawn from `rng` alone: a network depends on its seed and on nothing global."""
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        sizes = [inputs, *shape.hidden, outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = shape.last_gain if layer == len(sizes) - 2 else 1.0
            self.weights.append(nn.Parameter(_initial(fan_out, fan_in, shape.init, rng) * gain))  # [out, in]
            bound = 1.0 / math.sqrt(fan_in) if shape.init == "kaiming" else 0.0
            self.biases.append(nn.Parameter(_uniform((fan_out,), bound, rng) * gain))
        self._layers = list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., outputs]."""
        last = len(self._layers) - 1
        for layer, (weight, bias) in enumerate(self._layers):
            x = nn.functional.linear(x, weight, bias)
            if layer < last:
                x = self.activation(x)
        return x


def _uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=rng) * 2.0 - 1.0) * bound


def _initial(fan_out: int, fan_in: int, how: str, rng: torch.Generator) -> Tensor:
    if how == "orthogonal":
        rows, columns = max(fan_out, fan_in), min(fan_out, fan_in)
        q, r = torch.linalg.qr(torch.randn(rows, columns, generator=rng))
        q = q * r.diagonal().sign()  # makes the draw uniform over orthogonal matrices
        return math.sqrt(2.0) * (q if fan_out >= fan_in else q.T).contiguous()
    return _uniform((fan_out, fan_in), 1.0 / math.sqrt(fan_in), rng)


class PictureEncoder(nn.Module):
    """Three convolutions and a linear layer (Mnih et al. 2015), [B, H, W, C] uint8 -> [B, 128]."""

    features = 128

    def __init__(self, height: int, width: int, channels: int, rng: torch.Generator) -> None:
        """Raises ConfigError when the picture is smaller than 36 pixels on a side."""
        super().__init__()
        if min(height, width) < 36:
            raise ConfigError(
                f"a picture [height, width, channels] is [{height}, {width}, {channels}], but its encoder needs at "
                "least 36 pixels on each side. Enlarge it, or observe it as a Box of floats."
            )
        layers = [(channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        self.strides = [stride for *_, stride in layers]
        for inside, outside, size, stride in layers:
            bound = 1.0 / math.sqrt(inside * size * size)
            self.kernels.append(nn.Parameter(_uniform((outside, inside, size, size), bound, rng)))
            self.biases.append(nn.Parameter(_uniform((outside,), bound, rng)))
            height, width = (height - size) // stride + 1, (width - size) // stride + 1
        self.out = Mlp(64 * height * width, self.features, Network(hidden=()), rng)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, H, W, C] uint8 -> [B, 128]."""
        x = picture.movedim(-1, 1).to(torch.float32) / 255.0
        for kernel, bias, stride in zip(self.kernels, self.biases, self.strides, strict=True):
            x = torch.relu(nn.functional.conv2d(x, kernel, bias, stride=stride))
        return torch.relu(self.out(x.flatten(1)))


class Encoder(nn.Module):
    """Network inputs to one feature row: the normalised vector beside 128 features of each picture."""

    def __init__(self, codec: ObservationCodec, rng: torch.Generator) -> None:
        """codec: what the observations hold."""
        super().__init__()
        self.norm = RunningNorm(codec.width, kept=codec.one_hot) if codec.width else None
        self.pictures = nn.ModuleDict()
        self.images = tuple(codec.images)  # their inputs, in that order
        for name, (height, width, channels) in codec.images.items():
            self.pictures[name.replace("/", "_").replace(".", "_")] = PictureEncoder(height, width, channels, rng)
        self.width = codec.width + PictureEncoder.features * len(codec.images)

    def normalised(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with their vector normalised; pictures as they are."""
        norm = self.norm
        return {name: x if norm is None or name != "vector" else norm(x) for name, x in inputs.items()}

    def forward(self, normalised: Mapping[str, Tensor]) -> Tensor:
        """{"vector": [B, D], "image/...": [B, H, W, C]}, as `normalised` gives them -> [B, width].

        Pictures go through block by block where no gradient is asked for: a collection of them is taken whole.
        """
        if not self.images or torch.is_grad_enabled():
            return self._features(normalised)
        rows = len(normalised[self.images[0]])
        return torch.cat([self._features(block) for block in in_blocks(normalised, rows)])

    def _features(self, normalised: Mapping[str, Tensor]) -> Tensor:
        parts = [normalised["vector"]] if self.norm is not None else []
        parts += [net(normalised[name]) for name, net in zip(self.images, self.pictures.values(), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class ActorCritic(nn.Module):
    """A policy and 1 + K value functions on one encoder (which has parameters only where there are pictures)."""

    def __init__(
        self,
        observation: ObservationCodec,
        action: ActionCodec,
        costs: int,
        actor: ActorNetwork,
        critic: Network,
        rng: torch.Generator,
    ) -> None:
        """costs: K."""
        super().__init__()
        self.action, self.squashed = action, actor.squashed
        self.encoder = Encoder(observation, rng)
        self.actor = Mlp(self.encoder.width, action.outputs, actor, rng)
        self.critics = StackedMlp(1 + costs, self.encoder.width, 1, critic, rng)
        self.log_std = nn.Parameter(torch.full(action.sizes, actor.log_std)) if action.kind == "continuous" else None

    @property
    def memory_width(self) -> int:
        """How many numbers it remembers from step to step: none, unless it is recurrent."""
        return 0

    def features(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """One row per observation, of inputs as the world gives them.

        A recurrent network's features are its memory after this observation; `memory` [N, ·] is the one before it.
        """
        return self.encoder(self.encoder.normalised(inputs))

    def policy(self, features: Tensor) -> Distribution:
        """The action distribution."""
        return self.distribution_of(self.actor(features), self.log_std)

    def distribution_of(self, output: Tensor, log_std: Tensor | None) -> Stackable:
        """The action distribution of what a policy network puts out, [..., O], and log σ where actions have one."""
        if log_std is None:
            return Choices.of(output, self.action.sizes)
        return (SquashedGaussian if self.squashed else Gaussian)(output, log_std)

    def values(self, features: Tensor) -> Tensor:
        """[B, 1 + K]: the reward's value, then each cost's."""
        return self.critics(features)[..., 0]

    def actor_parameters(self) -> list[nn.Parameter]:
        """The policy's own parameters."""
        return [*self.actor.parameters(), *([] if self.log_std is None else [self.log_std])]
