"""Adam over whole networks at once, each network's parameters laid out in one row.

A small network's update costs more in calls than in arithmetic: its parameters and gradients are views of two flat
tensors here, so that the L2 term, the limit on the gradient's norm and the step are a handful of calls whatever the
number of layers. It takes the steps of `torch.optim.Adam`; that class would also cost a fresh process a second or two,
since making one imports torch's compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# torch warns that gradients of stacked networks are strided. They are views on purpose: a network's numbers lie in one
# row, so that its norm is one call.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, algorithm 1


@dataclass(slots=True)
class Group:
    """Networks with one learning rate.  `rows` networks are stacked in the first dimension of every parameter."""

    parameters: Sequence[nn.Parameter]
    lr: float
    rows: int | None = None  # None: the parameters are those of one network, of any shapes
    l2: float = 0.0  # adds l2·Σθ² to each network's loss


class FlatAdam:
    """Adam with an L2 term and a limit on each network's gradient norm, in that order, as in OmniSafe."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """Moves the parameters' storage into flat tensors; the parameters themselves stay the same objects."""
        self.groups = [group for group in groups if group.parameters]
        self.values = [flattened(group) for group in self.groups]
        self.grads = [torch.zeros_like(value) for value in self.values]
        self.first = [torch.zeros_like(value) for value in self.values]
        self.second = [torch.zeros_like(value) for value in self.values]
        self.steps = 0
        for group, value, grad in zip(self.groups, self.values, self.grads, strict=True):
            for p, here, there in zip(group.parameters, views(group, value), views(group, grad), strict=True):
                p.data, p.grad = here, there

    def zero_grad(self) -> None:
        """Gradients are accumulated into the flat tensors, so they are zeroed and never dropped."""
        for grad in self.grads:
            grad.zero_()

    @torch.no_grad()
    def step(self, bound: float) -> None:
        """θ ← θ − lr·m̂/(√v̂ + ε), each network's gradient scaled down to the norm `bound` first."""
        self.steps += 1
        correction_1, correction_2 = 1.0 - BETA_1**self.steps, 1.0 - BETA_2**self.steps
        every = zip(self.groups, self.values, self.grads, self.first, self.second, strict=True)
        for group, value, grad, first, second in every:
            if group.l2:
                grad.add_(value, alpha=2.0 * group.l2)
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
            if not float(norm.max()) + 1e-6 < 0.999 * bound:  # factors of 1 are spared; a norm may be no number
                grad.mul_((bound / (norm + 1e-6)).clamp_max_(1.0))
            first.lerp_(grad, 1.0 - BETA_1)
            second.mul_(BETA_2).addcmul_(grad, grad, value=1.0 - BETA_2)
            scale = second.sqrt().div_(correction_2**0.5).add_(EPSILON)
            value.addcdiv_(first, scale, value=-group.lr / correction_1)

    def state_dict(self) -> dict[str, Any]:
        """Moments and the count of steps; learning rates are the trainer's."""
        return {"first": list(self.first), "second": list(self.second), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up saved moments. Raises ValueError when they are of other networks."""
        for own, saved in ((self.first, state["first"]), (self.second, state["second"])):
            for mine, theirs in zip(own, saved, strict=True):
                if mine.shape != theirs.shape:
                    raise ValueError(f"moments of shape {tuple(theirs.shape)} do not fit {tuple(mine.shape)}")
                mine.copy_(theirs)
        self.steps = int(state["steps"])


def flattened(group: Group) -> Tensor:
    """The group's parameters as [networks, all their numbers]."""
    with torch.no_grad():
        rows = group.rows or 1
        return torch.cat([p.detach().reshape(rows, -1) for p in group.parameters], dim=1)


def views(group: Group, flat: Tensor) -> list[Tensor]:
    """Views of a flat tensor, one of each parameter's shape."""
    found, at = [], 0
    for p in group.parameters:
        width = p.numel() // len(flat)
        part = flat[:, at : at + width]
        found.append(part.view(p.shape) if group.rows is not None else part[0].view(p.shape))
        at += width
    return found
