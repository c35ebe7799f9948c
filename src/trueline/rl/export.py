"""Policies for use elsewhere: NumPy arrays with a runner of a page, or ONNX.

Both hold what acting takes: the observations' statistics as they stood at the end, the actor's layers, the deviation of
its actions. Critics, multipliers and everything else that only training needs stay behind. What an observation is made
of is in the file; a policy that was trained under a rule with an extra state (a budget) observes that state too.
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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trueline.core.errors import ConfigError, MissingExtra
from trueline.core.files import write_bytes
from trueline.core.subject import Subject
from trueline.rl import exported
from trueline.rl.networks import ActorCritic, Mlp
from trueline.rl.off_policy.networks import LOG_STD, ActorQ, Statistics
from trueline.rl.policy import NetworkPolicy

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
    meta: Mapping[str, Any]  # kind, sizes, flat, squashed, own_deviation, log_std_range, activation, layers, …


def actor_of(subject: Subject) -> Actor:
    """What acting takes of a trained policy.

    Raises ConfigError for a subject that is not the policy of a perceptron on flat observations.
    """
    if not isinstance(subject, NetworkPolicy) or not isinstance(subject.network.actor, Mlp):
        raise ConfigError(
            f"a {subject.kind!r} is not one network from observation to action. Export a policy of an on-policy or "
            "off-policy row."
        )
    network = subject.network
    if type(network) not in (ActorCritic, ActorQ):
        raise ConfigError(
            f"this {subject.kind!r} is more than one perceptron (it has a memory, or chooses among generated actions), "
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
    return Actor(
        shift=np.zeros(width, np.float32) if plain or norm is None else _array(norm.shift32),
        scale=np.ones(width, np.float32) if plain or norm is None else _array(norm.scale32),
        clip=math.inf if plain or norm is None else norm.clip,
        weights=tuple(_array(weight).T.copy() for weight in network.actor.weights),
        biases=tuple(_array(bias) for bias in network.actor.biases),
        log_std=log_std,
        meta={
            "format": 1,
            "observation": [[key, how, list(size)] for key, how, size in subject.observation.parts],
            "kind": network.action.kind,
            "sizes": list(network.action.sizes),
            "flat": network.action.flat,
            "squashed": network.squashed,
            "own_deviation": own_deviation,
            "log_std_range": list(LOG_STD) if own_deviation else [-1e30, 1e30],
            "activation": subject.shape["actor"]["activation"],
            "layers": len(network.actor.weights),
            "world": subject.world.model_dump(mode="json"),
        },
    )


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

    shift: Tensor
    scale: Tensor
    deviation: Tensor

    def forward(self, vector: Tensor, noise: Tensor) -> Tensor:
        """Actions as the world takes them, but for a single choice, which keeps its column: [N, 1]."""
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
            return torch.stack([part.argmax(-1) for part in parts], dim=-1)
        deviation = self.deviation
        if self.meta["own_deviation"]:
            x, log_std = x.chunk(2, dim=-1)
            deviation = log_std.clamp(*self.meta["log_std_range"]).exp()
        drawn = x + deviation * noise
        return torch.tanh(drawn) if self.meta["squashed"] else drawn


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
