"""Action projection on a signal that is linear in the action (Dalal et al. 2018): cₖ(s') ≈ cₖ(s) + dₖ(s) + gₖ(s)ᵀa.

A signal is a number that can be read off an observation and is to stay below a limit, such as the closeness of the
nearest hazard. Its drift dₖ and sensitivity gₖ are outputs of a small network of the observation, fitted to recorded
transitions by least squares. The paper has no drift: what a moving body does by itself is then taken for the doing of
whatever action goes with that motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from trueline.core.config import Config, build
from trueline.core.errors import ConfigError
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.env import Obs, VectorEnv, observation_rows
from trueline.rl.evaluate import Act
from trueline.rl.filters.projection import Array, Constraints, Projected, project
from trueline.rl.networks import Mlp, Network
from trueline.rl.spaces import ObservationCodec

__all__ = ["LinearCost", "LinearCostFilter", "Signal", "Transitions", "fit_linear_cost", "record_signals", "signals_at"]


FLOOR, CLIP = 0.01, 5.0  # as of a policy's observations: smallest deviation divided by, most deviations seen


class Signal(Config):
    """A number read off the flat observation, and what it may come to."""

    columns: tuple[int, ...] = Field(min_length=1)
    reduce: Literal["max", "sum"] = "max"
    sign: Literal[1, -1] = 1  # −1 where the columns are to stay above −limit, such as distances
    limit: float  # C

    def of(self, rows: NDArray[Any]) -> Array:
        """Rows [N, D] of flat observations -> [N]."""
        part = self.sign * np.asarray(rows[:, list(self.columns)], dtype=np.float64)
        found: Array = part.max(axis=1) if self.reduce == "max" else part.sum(axis=1)
        return found


class LinearCost(Config):
    """Settings of a learnt linear cost model."""

    kind: Literal["linear-cost"] = "linear-cost"
    signals: tuple[Signal, ...] = Field(min_length=1)
    network: Network = Network(hidden=(10, 10), activation="relu")  # of drift and sensitivity
    margin: float = Field(0.0, ge=0)  # the limit is kept by this much, for what the model gets wrong
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(256, ge=1)
    steps: int = Field(2000, ge=1)  # gradient steps of the fit


class Transitions(NamedTuple):
    """B recorded steps."""

    obs: NDArray[np.float32]  # [B, D] flat
    action: NDArray[np.float32]  # [B, A] as the world clips it
    before: Array  # [B, K] signals
    after: Array  # [B, K]


def signals_at(signals: tuple[Signal, ...], rows: NDArray[Any]) -> Array:
    """Rows [N, D] of flat observations -> [N, K]."""
    return np.stack([signal.of(rows) for signal in signals], axis=1)


def record_signals(env: VectorEnv, act: Act, signals: tuple[Signal, ...], steps: int) -> Transitions:
    """`steps` steps of all environments under `act`; where an episode ends, its last observation counts."""
    codec = _flat_codec(env)
    obs = env.reset()
    kept: list[tuple[NDArray[Any], ...]] = []
    for t in range(steps):
        rows = codec.encode(obs)["vector"]
        action = np.clip(act(t, obs), -1.0, 1.0)
        step = env.step(action)
        after = codec.encode(step.obs)["vector"].copy()
        ended = np.flatnonzero(step.ended)
        if len(ended):
            after[ended] = codec.encode(observation_rows(step.final_obs, ended))["vector"]
        kept.append((rows.copy(), action.astype(np.float32), signals_at(signals, rows), signals_at(signals, after)))
        obs = step.obs
    return Transitions(*(np.concatenate(part) for part in zip(*kept, strict=True)))


class Scales(NamedTuple):
    """What one unit of the network's inputs and outputs is; of the transitions it was fitted on."""

    mean: Tensor  # [D] of the observations
    inverse: Tensor  # [D] 1/deviation
    change: Tensor  # [K] deviation of each signal's change: a step changes some signals by a thousandth


class Foreseen(NamedTuple):
    """How signals change in a step: cₖ(s') − cₖ(s) = dₖ + gₖᵀu."""

    drift: Array  # [N, K]
    gradient: Array  # [N, K, A]


class LinearCostFilter:
    """A filter that keeps every signal's next value below its limit, as far as the model foresees it."""

    kind: ClassVar[str] = "linear-cost"

    def __init__(self, config: LinearCost, codec: ObservationCodec, model: Mlp, scales: Scales) -> None:
        """model: [N, D] -> [N, K·(1 + A)], in units of `scales`."""
        self.config, self.codec, self.model, self.scales = config, codec, model, scales

    @torch.no_grad()
    def foreseen(self, rows: NDArray[np.float32]) -> Foreseen:
        """What the model says at flat observations [N, D]."""
        found = _predicted(self.model, torch.from_numpy(rows), self.scales) * self.scales.change[:, None]
        both: Array = found.numpy().astype(np.float64)
        return Foreseen(both[..., 0], both[..., 1:])

    def __call__(self, obs: Obs, action: NDArray[np.floating]) -> Projected:
        """The nearest action with cₖ(s) + dₖ(s) + gₖ(s)ᵀu ≤ Cₖ − margin."""
        rows = self.codec.encode(obs)["vector"]
        limits = np.array([signal.limit for signal in self.config.signals]) - self.config.margin
        model = self.foreseen(rows)
        return project(
            action, Constraints(model.gradient, limits - signals_at(self.config.signals, rows) - model.drift)
        )

    def errors(self, data: Transitions) -> tuple[float, float]:
        """Root mean squares over transitions and signals: of a step's change, and of what the model leaves of it."""
        change, model = data.after - data.before, self.foreseen(data.obs)
        left = change - model.drift - (model.gradient @ data.action.astype(np.float64)[:, :, None])[..., 0]
        return float(np.sqrt(np.square(change).mean())), float(np.sqrt(np.square(left).mean()))

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes sensitivity.safetensors and returns what else `load` needs, as JSON."""
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file({**weights, **self.scales._asdict()}, folder / "sensitivity.safetensors")
        return {
            "settings": self.config.model_dump(mode="json"),
            "observation": [list(part) for part in self.codec.parts],
            "inputs": len(self.scales.mean),
            "outputs": len(self.model.biases[-1]),
        }

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> LinearCostFilter:
        """What `save` wrote."""
        config = build(LinearCost, record["settings"])
        weights = load_file(folder / "sensitivity.safetensors")
        scales = Scales(*(weights.pop(name) for name in Scales._fields))
        model = Mlp(record["inputs"], record["outputs"], config.network, torch.Generator().manual_seed(0))
        model.load_state_dict(weights)
        codec = ObservationCodec(tuple((key, how, tuple(size)) for key, how, size in record["observation"]))
        return cls(config, codec, model, scales)


def refuse_other_columns(config: LinearCost, env: VectorEnv) -> None:
    """Raises ConfigError for a column that the observation does not have."""
    width = _flat_codec(env).width
    wrong = [column for signal in config.signals for column in signal.columns if not 0 <= column < width]
    if wrong:
        raise ConfigError(f"a signal reads column {wrong[0]}, but {env.id} observes {width} numbers. Count from 0.")


def fit_linear_cost(config: LinearCost, env: VectorEnv, data: Transitions, rng: torch.Generator) -> LinearCostFilter:
    """Least squares of Σₖ(c'ₖ − cₖ − dₖ(s) − gₖ(s)ᵀa)² over the transitions, by Adam on minibatches.

    Raises ConfigError for a column that the observation does not have and for transitions that are not finite.
    """
    refuse_other_columns(config, env)
    codec = _flat_codec(env)
    width, k = codec.width, len(config.signals)
    change = torch.from_numpy((data.after - data.before).astype(np.float32))
    obs, action = torch.from_numpy(data.obs), torch.from_numpy(data.action)
    if not (torch.isfinite(obs).all() and torch.isfinite(action).all() and torch.isfinite(change).all()):
        raise ConfigError("a recorded transition is not finite. Record them anew, in a world that passes check_env.")
    if len(obs) < 2:
        raise ConfigError("one transition tells nothing of a signal's change. Record more steps.")
    spread = change.std(dim=0)
    scales = Scales(
        obs.mean(dim=0), 1.0 / obs.std(dim=0).clamp_min(FLOOR), torch.where(spread > 0.0, spread, torch.ones(k))
    )
    model = Mlp(width, k * (1 + action.shape[1]), config.network, rng)
    adam = FlatAdam([Group(list(model.parameters()), config.lr)])
    for _ in range(config.steps):
        chosen = torch.randint(len(obs), (min(config.batch, len(obs)),), generator=rng)
        both = _predicted(model, obs[chosen], scales)
        error = change[chosen] / scales.change - both[..., 0] - (both[..., 1:] @ action[chosen][:, :, None])[..., 0]
        adam.zero_grad()
        error.square().sum(dim=1).mean().backward()
        adam.step(100.0)
    return LinearCostFilter(config, codec, model, scales)


def _predicted(model: Mlp, rows: Tensor, scales: Scales) -> Tensor:
    """[N, K, 1 + A] in units of each signal's change: its drift, then its sensitivity."""
    found: Tensor = model(((rows - scales.mean) * scales.inverse).clamp(-CLIP, CLIP))
    return found.view(len(rows), len(scales.change), -1)


def _flat_codec(env: VectorEnv) -> ObservationCodec:
    codec = ObservationCodec.of(env.observation_space)
    if codec.images:
        raise ConfigError(f"{env.id} observes pictures. Signals are read off numbers; give a world that has them.")
    return codec
