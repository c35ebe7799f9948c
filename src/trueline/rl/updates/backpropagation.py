"""Slopes without autograd, whose records of small networks cost more than their products.

Where asked for, the calls are those that autograd makes, on tensors laid out as its are, so that gradients are its to
the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trueline.rl.activations import WORTH_A_CALL, tanh
from trueline.rl.networks import ACTIVATIONS, Mlp, StackedMlp

aten = torch.ops.aten


class _Activation(NamedTuple):
    """One that uses up what it is given."""

    value: Callable[[Tensor], Tensor]  # of z
    slope: Callable[[Tensor, Tensor, Tensor], Tensor]  # ∂/∂z, from ∂/∂value, z and the value


def _numpys_tanh(z: Tensor) -> Tensor:
    np.tanh(z.numpy(), out=z.numpy())
    return z


def _recorded_tanh(z: Tensor) -> Tensor:
    # Where a gradient is recorded, few numbers go through torch's tanh, which may differ from NumPy's in the last bit.
    return z.tanh_() if z.numel() < WORTH_A_CALL else _numpys_tanh(z)


_ACTIVATIONS: Mapping[Callable[[Tensor], Tensor], _Activation] = {
    ACTIVATIONS["tanh"]: _Activation(
        _numpys_tanh, lambda grad, _, value: aten.tanh_backward.grad_input(grad, value, grad_input=grad)
    ),
    ACTIVATIONS["relu"]: _Activation(
        torch.relu_, lambda grad, _, value: aten.threshold_backward.grad_input(grad, value, 0, grad_input=grad)
    ),
    ACTIVATIONS["silu"]: _Activation(
        ACTIVATIONS["silu"], lambda grad, z, _: aten.silu_backward.grad_input(grad, z, grad_input=grad)
    ),
}


class Backpropagation:
    """Passes of a perceptron, [B, D] -> [B, outputs], or of H stacked ones of one output each, [B, D] -> [H, B].

    Gradients are written where the optimiser reads them, not added to what is there. What is kept between passes is
    made once for each batch size: a page that the system has to give anew costs more than what is written to it.
    """

    def __init__(self, module: Mlp | StackedMlp, recorded: bool = False) -> None:
        """Views of parameters and gradients as they are stored now: make it after the optimiser that flattens them.

        recorded: with values and gradients to the last bit those that autograd has, not the values that the module
        gives where nothing is recorded.
        """
        self.stacked, self.recorded = isinstance(module, StackedMlp), recorded
        self.affine: Callable[..., Tensor] = torch.baddbmm if self.stacked else torch.addmm
        self.product: Callable[..., Tensor] = torch.bmm if self.stacked else torch.mm
        pairs = list(zip(module.weights, module.biases, strict=True))
        # [..., in, out], as a stack has them; a single perceptron's lie turned.
        self.weights = [weight.detach() if self.stacked else weight.detach().T for weight, _ in pairs]
        self.turned = [weight.mT for weight in self.weights]
        self.biases = [bias.detach() for _, bias in pairs]
        self.gradients = [(weight.grad if self.stacked else weight.grad.T, bias.grad) for weight, bias in pairs]
        self.activation = _ACTIVATIONS[module.activation]
        if recorded and module.activation is tanh:
            self.activation = self.activation._replace(value=_recorded_tanh)
        self.inputs: list[Tensor] = []  # [..., B, in] of each layer
        self.before: list[Tensor] = []  # [..., B, width] before each activation, where that is not written over
        self.slopes: list[Tensor] = []  # [..., B, width] of the loss, before each activation
        self._buffers: dict[int, tuple[list[Tensor], list[Tensor]]] = {}  # by B: before activations, slopes

    def _buffers_for(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if len(x) not in self._buffers:
            made = [x.new_empty(*bias.shape[:-2], len(x), bias.shape[-1]) for bias in self.biases[:-1]]
            self._buffers[len(x)] = made, [torch.empty_like(one) for one in made]
        return self._buffers[len(x)]

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, or values; what the backward pass needs is kept until the next."""
        self.before, self.slopes = self._buffers_for(x)
        h = x.expand(len(self.weights[0]), *x.shape) if self.stacked else x
        self.inputs = [h]
        for weight, bias, into in zip(self.weights, self.biases, self.before, strict=False):
            h = self.activation.value(self.affine(bias, h, weight, out=into))
            self.inputs.append(h)
        outputs = self.affine(self.biases[-1], h, self.weights[-1])
        return outputs[..., 0] if self.stacked else outputs

    def backward(self, slope: Tensor) -> None:
        """The parameters' gradients, from ∂loss/∂output of the last forward pass."""
        grad = slope[..., None] if self.stacked else slope
        for layer in range(len(self.weights) - 1, -1, -1):
            of_weight, of_bias = self.gradients[layer]
            self._write(of_weight, self.inputs[layer].mT, grad)
            torch.sum(grad, -2, keepdim=self.stacked, out=of_bias)
            if layer:
                grad = self.product(grad, self.turned[layer], out=self.slopes[layer - 1])
                grad = self.activation.slope(grad, self.before[layer - 1], self.inputs[layer])

    def _write(self, of_weight: Tensor, inputs: Tensor, grad: Tensor) -> None:
        # Into matrices that lie apart torch multiplies one by one, which rounds otherwise than all in one call.
        if self.stacked and self.recorded:
            of_weight.copy_(torch.bmm(inputs, grad))
        else:
            self.product(inputs, grad, out=of_weight)


def normal_slopes(mean: Tensor, log_std: Tensor, draw: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """∂/∂mean [b, A] and ∂/∂log σ [A] of a normal's Σ_b slope·log π(draw):  slope·z/σ and Σ_b slope·(z² − 1).

    mean, draw [b, A], log_std [A], slope [b]; z = (draw − mean)/σ. A tanh of the normal changes neither.
    """
    inverse, away = (-log_std).exp(), draw - mean
    pull = slope[:, None] * (away * inverse)
    spread = slope[:, None].expand_as(pull).contiguous()
    return pull * inverse, (pull * away).sum(0) * inverse - spread.sum(0)
