"""An ensemble of probabilistic networks that says what an action leads to (PETS: Chua et al. 2018, section 4).

Member e gives a normal of the change of the observation, and, where they are to be learnt, of reward and costs:

    y = (r, c_1, …, c_K, s' − s) ~ N(μ_e(s, a), σ_e²),
    loss_e = mean((y − μ_e)²/σ_e² + log σ_e²) + 0.01·Σ(log σ²_max − log σ²_min) + ½ Σ_l d_l ‖W_l‖²

Inputs and targets are in deviations of what has been seen. Of the change, σ_e depends on (s, a), and log σ² lies
smoothly between two learnt bounds. Of reward and costs it is one number, so that μ_e is a least-squares fit: what is
asked of them is their mean, and a variance that grows where a fit is bad would leave it bad there, such as at the edge
of where a cost begins.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from trueline.core.config import Config
from trueline.rl.adam import FlatAdam, Group
from trueline.rl.networks import Network, StackedMlp
from trueline.rl.normalise import RunningNorm
from trueline.rl.planning.experience import Seen, resampled

LOG_VAR = (-10.0, 0.5)  # where the learnt bounds of log σ² start (Chua et al. 2018, their code)
BOUNDS_WEIGHT = 0.01  # of the bounds' distance in the loss, so that they come down to what the data show
FAR = 10.0  # deviations from the mean of the data beyond which inputs count as no farther
LEAST_GAIN = 0.01  # relative fall of a held-out error that counts as progress


class Model(Config):
    """Shape and fitting of the ensemble; the defaults are OmniSafe's."""

    members: int = Field(5, ge=1)  # E
    elites: int = Field(5, ge=1)  # members that plans are made with: those of least held-out error
    hidden: tuple[PositiveInt, ...] = (200, 200, 200, 200)
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(256, ge=1)  # rows of a gradient step, of each member its own
    decay: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)  # d_l of each layer's weights
    held_out: float = Field(0.2, gt=0, le=0.5)  # share of rows that no member learns from
    patience: int = Field(5, ge=1)  # passes without a member's progress that end a fit
    passes: int = Field(100, ge=1)  # that end it in any case
    every: int = Field(1200, ge=1)  # steps of all environments from one fit to the next
    arithmetic: Literal["float32", "bfloat16"] = "float32"  # of a plan's predictions, between the outer layers

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.elites > self.members:
            raise ValueError(f"elites is {self.elites}, more than the {self.members} members. Give at most that many.")
        if len(self.decay) != len(self.hidden) + 1:
            raise ValueError(
                f"decay has {len(self.decay)} values, but {len(self.hidden)} hidden layers have "
                f"{len(self.hidden) + 1} layers of weights. Give one for each."
            )
        return self


class Predicted(NamedTuple):
    """What each of E members says of its own R rows."""

    after: Tensor  # [E, R, D] mean of the next observation
    deviation: Tensor  # [E, R, D] σ of it
    signal: Tensor  # [E, R, 1 + K] mean of reward and costs; [E, R, 0] of a model that does not say


class Dynamics(Protocol):
    """What trajectories are imagined with."""

    @property
    def members(self) -> int:
        """E."""
        ...

    def predict(self, obs: Tensor, action: Tensor) -> Predicted:
        """Member e on its own rows: obs [E, R, D], action [E, R, A]."""
        ...


class Fitted(NamedTuple):
    """How a fit went."""

    passes: int
    loss: float  # mean of the members' over the last pass
    held_out: float  # mean squared error of the members on rows held out, in the targets' deviations


def bounded(raw: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """log σ² between `least` and `most`, smoothly: raw [..., O] -> [..., O]."""
    below = most - functional.softplus(most - raw)
    return least + functional.softplus(below - least)


def nll(mean: Tensor, log_var: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Σ_e mean((y − μ_e)²/σ_e² + log σ_e²), twice the negative log-likelihood but for a constant.

    [E, B, O] each; `counted` [E, B, O] is 0 where a target says nothing.
    """
    term = (target - mean).square() * (-log_var).exp() + log_var
    return (counted * term).mean(dim=(1, 2)).sum()


class Ensemble(nn.Module):
    """E networks in batched products: each layer of all members is one."""

    def __init__(
        self, model: Model, obs: int, action: int, signals: int, kept: NDArray[np.bool_], rng: torch.Generator
    ) -> None:
        """obs: D, action: A; signals: 1 + K learnt ones, or 0; kept: [D] columns of observations that are one-hots."""
        super().__init__()
        self.model, self.width, self.signals = model, obs, signals
        outputs = signals + obs
        shape = Network(hidden=model.hidden, activation="silu")
        self.net = StackedMlp(model.members, obs + action, outputs + obs, shape, rng)
        self.noise = nn.Parameter(torch.zeros(model.members, 1, signals))  # log σ² of reward and costs
        self.least = nn.Parameter(torch.full((model.members, 1, obs), LOG_VAR[0]))
        self.most = nn.Parameter(torch.full((model.members, 1, obs), LOG_VAR[1]))
        self.inputs = RunningNorm(obs + action, clip=FAR, floor=1e-4, kept=np.append(kept, np.zeros(action, np.bool_)))
        self.targets = RunningNorm(outputs, clip=math.inf, floor=1e-6)
        self.register_buffer("error", torch.zeros(model.members))

    error: Tensor  # [E] on rows held out, in the targets' deviations; squared

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² in the targets' deviations, [E, B, O] each, of obs [E, B, D] and action [E, B, A]."""
        h = self.inputs(torch.cat([obs, action], dim=-1))
        layers = list(zip(self.net.weights, self.net.biases, strict=True))
        for layer, (weight, bias) in enumerate(layers):
            h = torch.baddbmm(bias, h, weight)
            if layer < len(layers) - 1:
                h = functional.silu(h)
        mean, raw = h.split([self.signals + self.width, self.width], dim=-1)
        noise = self.noise.clamp_min(LOG_VAR[0]).expand(-1, h.shape[1], -1)
        return mean, torch.cat([noise, bounded(raw, self.least, self.most)], dim=-1)

    def target(self, rows: Seen) -> Tensor:
        """y [B, O] in its own units."""
        change = rows.after - rows.obs
        return torch.cat([rows.signal, change], dim=1) if self.signals else change

    def counted(self, rows: Seen) -> Tensor:
        """[B, O] 1 where the target says something of the dynamics: what was put elsewhere did not move there."""
        still = 1.0 - rows.jumped
        return torch.cat([torch.ones(len(still), self.signals), still.expand(-1, self.width)], dim=1)

    def take_in(self, rows: Seen) -> None:
        """Let the statistics take in new rows."""
        self.inputs.update(torch.cat([rows.obs, rows.action], dim=1))
        clean = rows.jumped[:, 0] == 0.0
        if clean.any():
            self.targets.update(self.target(rows)[clean])

    def fit(self, rows: Seen, adam: FlatAdam, rng: torch.Generator) -> Fitted:
        """Passes over each member's bootstrap sample until no member's held-out error falls any more."""
        model = self.model
        target, counted = self.targets(self.target(rows)), self.counted(rows)
        out = (rows.counts.sum(dim=1) == 0.0).nonzero()[:, 0]
        best = torch.full((model.members,), math.inf)
        since, passes, loss = 0, 0, 0.0
        while since < model.patience and passes < model.passes:
            order = resampled(rows.counts, rng)
            losses = [self._step(rows, target, counted, index, adam) for index in order.split(model.batch, dim=1)]
            loss = float(torch.stack(losses).mean()) / model.members
            self.error.copy_(self._error(rows, target, counted, out))
            better = self.error < best * (1.0 - LEAST_GAIN)
            best = torch.where(better, self.error, best)
            since = 0 if bool(better.any()) else since + 1
            passes += 1
        return Fitted(passes, loss, float(self.error.mean()))

    def _step(self, rows: Seen, target: Tensor, counted: Tensor, index: Tensor, adam: FlatAdam) -> Tensor:
        """One gradient step on rows [E, B]; returns the loss before it."""
        adam.zero_grad()
        mean, log_var = self(rows.obs[index], rows.action[index])
        loss = nll(mean, log_var, target[index], counted[index])
        (loss + BOUNDS_WEIGHT * (self.most - self.least).sum()).backward()
        with torch.no_grad():
            for weight, decay in zip(self.net.weights, self.model.decay, strict=True):
                assert weight.grad is not None
                weight.grad.add_(weight, alpha=decay)  # of ½ d_l ‖W_l‖²
        adam.step(math.inf)
        return loss.detach()

    @torch.no_grad()
    def _error(self, rows: Seen, target: Tensor, counted: Tensor, out: Tensor) -> Tensor:
        """Mean squared error of each member on the rows `out`, [E]."""
        every = self.model.members, len(out), -1
        mean, _ = self(rows.obs[out].expand(every), rows.action[out].expand(every))
        return (counted[out] * (mean - target[out]).square()).mean(dim=(1, 2))

    def optimiser(self) -> FlatAdam:
        """Adam over all members; it moves their parameters into flat tensors."""
        every = [*self.net.weights, *self.net.biases, *([self.noise] if self.signals else []), self.least, self.most]
        return FlatAdam([Group(every, self.model.lr, rows=self.model.members)])

    def elites(self) -> Elites:
        """The members that plans are made with, as they stand."""
        return Elites(self, self.error.argsort(stable=True)[: self.model.elites])


class Elites:
    """Some members of an ensemble, for predictions alone: without gradient, in buffers that are used again."""

    def __init__(self, ensemble: Ensemble, chosen: Tensor) -> None:
        """chosen: their numbers [E]."""
        self._ensemble, self.members = ensemble, len(chosen)
        net, inner = ensemble.net, getattr(torch, ensemble.model.arithmetic)
        pairs = [(w.detach()[chosen], b.detach()[chosen]) for w, b in zip(net.weights, net.biases, strict=True)]
        # What comes in and what goes out stays in single precision: a change is small beside where it starts from.
        self._inner = [(weight.to(inner), bias.to(inner)) for weight, bias in pairs[1:-1]]
        self._first, self._last = pairs[0], pairs[-1]
        self._bounds = ensemble.least.detach()[chosen], ensemble.most.detach()[chosen]
        self._buffers: dict[int, Tensor] = {}

    @torch.no_grad()
    def predict(self, obs: Tensor, action: Tensor) -> Predicted:
        """Member e on its own rows, in the units of observations, reward and costs."""
        made = self._ensemble
        h = made.inputs(torch.cat([obs, action], dim=-1))
        if len(made.net.weights) > 1:
            weight, bias = self._first
            h = functional.silu(torch.baddbmm(bias, h, weight), inplace=True)
            for at, (weight, bias) in enumerate(self._inner):
                into = self._buffer(h.shape[1], at, weight)
                h = functional.silu(torch.baddbmm(bias, h.to(weight.dtype), weight, out=into), inplace=True)
        weight, bias = self._last
        scale, signals = made.targets.scale32, made.signals
        mean, raw = torch.baddbmm(bias, h.to(weight.dtype), weight).split([signals + made.width, made.width], dim=-1)
        mean = mean / scale + made.targets.shift32
        deviation = (0.5 * bounded(raw, *self._bounds)).exp()
        return Predicted(obs + mean[..., signals:], deviation / scale[signals:], mean[..., :signals])

    def _buffer(self, rows: int, layer: int, weight: Tensor) -> Tensor:
        """Where a layer's values go, [E, rows, width]; two places take turns, as large as the most rows so far."""
        size = self.members * rows * weight.shape[-1]
        found = self._buffers.get(layer % 2)
        if found is None or len(found) < size:
            found = self._buffers[layer % 2] = torch.empty(size, dtype=weight.dtype)
        return found[:size].view(self.members, rows, -1)
