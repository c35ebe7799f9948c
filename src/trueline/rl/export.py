"""Policies for use elsewhere: NumPy arrays with a runner of a page, or ONNX.

Both hold what acting takes: the observations' statistics as they stood at the end, the actor's layers, the deviation of
its actions, and the bounds of what the world takes. Critics, multipliers and everything else that only training needs
stay behind. What an observation is made of is in the file; a policy that was trained under a rule with an extra state
(a budget) observes that state too.

Actions are those of the user's own environment: of a Gymnasium environment, in the units and the shape of its action
space; of Trueline's worlds and of a plug-in's, whose actions lie in [-1, 1], those.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trueline.core.errors import ConfigError, MissingExtra
from trueline.core.files import write_bytes
from trueline.core.subject import Subject
from trueline.rl import exported
from trueline.rl.env import VectorEnv
from trueline.rl.from_gymnasium import FromGymnasium
from trueline.rl.networks import ActorCritic, Mlp
from trueline.rl.off_policy.networks import LOG_STD, ActorQ, Statistics
from trueline.rl.policy import NetworkPolicy
from trueline.rl.training import one_world

__all__ = ["Actor", "actor_of", "export", "export_numpy", "export_onnx"]

Array = NDArray[np.float32]

_SUFFIXES = (".npz", ".onnx")
_EXPORTER = ("onnx", "onnxscript")  # what torch.onnx writes with


@dataclass(frozen=True, slots=True)
class Actor:
    """Everything acting takes, as arrays.  D inputs, A action dimensions (or Σ options), L layers."""

    shift: Array  # [D] the observations' mean
    scale: Array  # [D] 1/deviation
    clip: float  # bound of a normalised observation, ∞ for none
    weights: tuple[Array, ...]  # L times [in, out]
    biases: tuple[Array, ...]  # L times [out]
    log_std: Array | None  # [A], or None: the second half of the output, or no deviation
    low: NDArray[Any]  # [A] what -1 stands for, -∞ where nothing is rescaled; of choices the number of the first option
    high: NDArray[Any]  # [A] what 1 stands for, ∞ where nothing is rescaled; of choices the number of the last option
    meta: Mapping[str, Any]  # kind, sizes, shape, squashed, own_deviation, log_std_range, activation, layers, …


def actor_of(subject: Subject) -> Actor:
    """What acting takes of a trained policy; its world is made once, to read the space of its actions.

    Raises ConfigError for a subject that is not the policy of a perceptron on flat observations, UnknownName where its
    world is not known here.
    """
    if not isinstance(subject, NetworkPolicy):
        raise ConfigError(
            f"a {subject.kind!r} is not one network from observation to action. Export a policy of an on-policy or "
            "off-policy row."
        )
    network = subject.network
    if type(network) not in (ActorCritic, ActorQ) or not isinstance(network.actor, Mlp):
        raise ConfigError(
            f"this {subject.kind!r} is more than one perceptron (it has a memory, or generates its actions), "
            "which has no exported form. Load it with trueline.load."
        )
    if subject.observation.images:
        raise ConfigError("a policy that sees pictures has no exported form. Load it with trueline.load.")
    width, norm = subject.observation.width, network.encoder.norm
    plain = norm is None or isinstance(norm, Statistics)
    own_deviation = isinstance(network, ActorQ) and network.action.kind == "continuous" and network.shape.stochastic
    log_std = None
    if network.action.kind == "continuous" and not own_deviation:
        never = torch.full((network.action.width,), -math.inf)
        log_std = _array(never if network.log_std is None else network.log_std)
    with one_world(subject.world.id, subject.world.options) as world:
        taken = _taken(world)
    low, high = _bounds(taken)
    return Actor(
        shift=np.zeros(width, np.float32) if plain or norm is None else _array(norm.shift32),
        scale=np.ones(width, np.float32) if plain or norm is None else _array(norm.scale32),
        clip=math.inf if plain or norm is None else norm.clip,
        weights=tuple(_array(weight).T.copy() for weight in network.actor.weights),
        biases=tuple(_array(bias) for bias in network.actor.biases),
        log_std=log_std,
        low=low,
        high=high,
        meta={
            "format": 2,
            "observation": [[key, how, list(size)] for key, how, size in subject.observation.parts],
            "kind": network.action.kind,
            "sizes": list(network.action.sizes),
            "shape": list(taken.shape or ()),
            "squashed": network.squashed,
            "own_deviation": own_deviation,
            "log_std_range": list(LOG_STD) if own_deviation else [-1e30, 1e30],
            "activation": subject.shape["actor"]["activation"],
            "layers": len(network.actor.weights),
            "world": subject.world.model_dump(mode="json"),
        },
    )


def _taken(world: VectorEnv) -> gym.Space[Any]:
    """The space of what one environment of the user's takes."""
    return world.native_action_space if isinstance(world, FromGymnasium) else world.action_space


def _bounds(space: gym.Space[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Least and greatest action of each column, [A] each, in the space's own type."""
    if isinstance(space, gym.spaces.Box):
        return space.low.ravel(), space.high.ravel()
    assert isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete)  # or no world would have been made of it
    options = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
    first = np.ravel(space.start).astype(np.int64)
    return first, first + np.ravel(options) - 1


def export(subject: Subject, out: Path) -> list[Path]:
    """Writes `out` by its ending, .npz (with the runner beside it, as .py) or .onnx; returns what was written.

    Raises ConfigError for another ending or a subject without an exported form, MissingExtra for ONNX without its
    packages.
    """
    if out.suffix not in _SUFFIXES:
        raise ConfigError(f"{out} ends in {out.suffix or 'nothing'!r}, but should end in {' or '.join(_SUFFIXES)}.")
    return [export_onnx(subject, out)] if out.suffix == ".onnx" else export_numpy(subject, out)


def export_numpy(subject: Subject, out: Path) -> list[Path]:
    """`out`, arrays without pickles, and a copy of `rl/exported.py` that runs them.  Returns both paths."""
    actor = actor_of(subject)
    arrays: dict[str, Any] = {"shift": actor.shift, "scale": actor.scale, "clip": np.float32(actor.clip)}
    arrays |= {"low": actor.low, "high": actor.high}
    for layer, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
        arrays |= {f"weight{layer}": weight, f"bias{layer}": bias}
    if actor.log_std is not None:
        arrays["log_std"] = actor.log_std
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(actor.meta, sort_keys=True)), **arrays)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, buffer.getvalue())
    runner = out.with_suffix(".py")
    shutil.copyfile(exported.__file__, runner)
    return [out, runner]


class ActorModule(nn.Module):
    """The actor in torch's own operations, which an exporter can follow: (observations [N, D], noise) -> actions.

    noise is [N, A] standard normal draws for continuous actions, [N, Σ options] Gumbel draws for choices; zeros give
    the deterministic action. A runtime's own random numbers would not be the user's to seed.
    """

    def __init__(self, actor: Actor) -> None:
        """Copies the arrays."""
        super().__init__()
        self.meta = dict(actor.meta)
        self.clip = actor.clip
        self.register_buffer("shift", torch.from_numpy(actor.shift.copy()))
        self.register_buffer("scale", torch.from_numpy(actor.scale.copy()))
        self.weights = nn.ParameterList([nn.Parameter(torch.from_numpy(w.copy()), False) for w in actor.weights])
        self.biases = nn.ParameterList([nn.Parameter(torch.from_numpy(b.copy()), False) for b in actor.biases])
        deviation = torch.zeros(0) if actor.log_std is None else torch.from_numpy(actor.log_std.copy()).exp()
        self.register_buffer("deviation", deviation)
        bounded = np.isfinite(actor.low) & np.isfinite(actor.high)
        self.register_buffer("bounded", torch.from_numpy(bounded))
        for name, bound, without in (("low", actor.low, -1.0), ("high", actor.high, 1.0)):
            kept = torch.from_numpy(np.where(bounded, bound, without))
            self.register_buffer(name, kept.float() if actor.meta["kind"] == "continuous" else kept.long())

    shift: Tensor
    scale: Tensor
    deviation: Tensor
    bounded: Tensor
    low: Tensor
    high: Tensor

    def forward(self, vector: Tensor, noise: Tensor) -> Tensor:
        """Actions [N, A] in the units of the user's environment; a single choice, or a matrix, is in columns too."""
        x = (vector - self.shift) * self.scale
        if math.isfinite(self.clip):
            x = x.clamp(-self.clip, self.clip)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if layer < last:
                x = _ACTIVATION[self.meta["activation"]](x)
        if self.meta["kind"] == "choices":
            parts = (x + noise).split(self.meta["sizes"], dim=-1)
            return torch.stack([part.argmax(-1) for part in parts], dim=-1) + self.low
        deviation = self.deviation
        if self.meta["own_deviation"]:
            x, log_std = x.chunk(2, dim=-1)
            deviation = log_std.clamp(*self.meta["log_std_range"]).exp()
        drawn = x + deviation * noise
        drawn = torch.tanh(drawn) if self.meta["squashed"] else drawn
        share = 0.5 * (drawn.clamp(-1.0, 1.0) + 1.0)
        # Rounding may leave the range by one unit in the last place, which environments that check would refuse.
        scaled = torch.minimum(torch.maximum(self.low + share * (self.high - self.low), self.low), self.high)
        return torch.where(self.bounded, scaled, drawn)


_ACTIVATION = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}


def noise_width(actor: Actor) -> int:
    """Columns of the noise that an `ActorModule` takes."""
    sizes: list[int] = actor.meta["sizes"]
    return sum(sizes)


def export_onnx(subject: Subject, out: Path) -> Path:
    """`out`: an ONNX model of inputs "vector" [N, D] and "noise", and the output "action"; see `ActorModule`.

    Raises MissingExtra when what torch writes ONNX with is not installed.
    """
    actor = actor_of(subject)
    if any(importlib.util.find_spec(name) is None for name in _EXPORTER):
        raise MissingExtra("export", "writing ONNX")
    module = ActorModule(actor).eval()
    example = torch.zeros(2, len(actor.shift)), torch.zeros(2, noise_width(actor))
    rows = torch.export.Dim("rows")
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module,
        example,
        str(out),
        dynamo=True,
        input_names=["vector", "noise"],
        output_names=["action"],
        dynamic_shapes=({0: rows}, {0: rows}),
        external_data=False,
    )
    return out


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().numpy().astype(np.float32)
    return found
