"""AdamW, its schedule, and the limit on the gradient, as fine-tuning uses them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trueline.core.config import Config
from trueline.language.parallel import cut_like, whole

__all__ = ["AdamW", "Optimiser", "lr_factor"]


class AdamW(Config):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); a decay of 0 is Adam."""

    lr: float = Field(2e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # from lr to 0, after the warm-up
    warmup: float = Field(0.0, ge=0, lt=1)  # share of the steps in which the rate grows from 0
    weight_decay: float = Field(0.0, ge=0)  # of matrices; biases and scales of norms are left alone
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    clip: float | None = Field(1.0, gt=0)  # bound on the norm of the whole gradient


def lr_factor(config: AdamW, step: int, steps: int) -> float:
    """What the rate is multiplied with in step `step` of `steps`, counted from 0.

    The warm-up has ⌈warmup·steps⌉ steps, the first of them at rate 0.
    """
    warm = math.ceil(config.warmup * steps)
    if step < warm:
        return step / warm
    if config.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class Optimiser:
    """Steps of AdamW over the parameters that are trained."""

    def __init__(self, config: AdamW, parameters: Iterable[nn.Parameter], steps: int) -> None:
        """`steps` is how many there will be, for the schedule."""
        self.config, self.steps, self.taken = config, steps, 0
        self.parameters = [p for p in parameters if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr,
            betas=(config.beta_1, config.beta_2),
            eps=config.epsilon,
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return self.config.lr * lr_factor(self.config, self.taken, self.steps)

    def step(self) -> Tensor:
        """Clip the gradient, take a step, drop the gradient; returns its norm before clipping."""
        bound = math.inf if self.config.clip is None else self.config.clip
        norm: Tensor = whole(nn.utils.clip_grad_norm_(self.parameters, bound))
        for group in self._adam.param_groups:
            group["lr"] = self.lr
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.taken += 1
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Steps taken and the moments, by number of the parameter; of weights that are cut up, whole ones."""
        return {"taken": self.taken, "moments": whole(self._adam.state_dict()["state"])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.taken = int(state["taken"])
        self._adam.load_state_dict({**self._adam.state_dict(), "state": self._moments(state["moments"])})

    def _moments(self, given: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        """As the parameters are cut up; numbers go through the groups in order."""
        numbered = [p for group in self._adam.param_groups for p in group["params"]]
        return {
            k: {name: x if name == "step" else cut_like(x, numbered[k]) for name, x in kept.items()}
            for k, kept in given.items()
        }
