"""Derivatives of a policy on a batch, in flat parameters: gradients of surrogates and products with the Fisher matrix.

A policy is an output o(θ), the network's, and a distribution of it. The Hessian of the mean KL at the policy itself is
the Gauss-Newton form Jᵀ F J, with J = ∂o/∂θ and F the KL's Hessian in o, since the KL's slope in o is 0 there. J stands
still during an update, so that what it needs of the batch is worked out once (`Linearised`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trueline.rl.blocks import in_blocks
from trueline.rl.distributions import Choices, Distribution, Gaussian, SquashedGaussian
from trueline.rl.networks import ActorCritic, Mlp

ROWS_AT_ONCE = 2048  # whose activations stay in a core's cache


class Linearised(Protocol):
    """o(θ + v) ≈ o + J v for B rows and R directions at once."""

    output: Tensor  # [B, O]

    def push(self, direction: Tensor) -> Tensor:
        """J v.  [R, P] -> [B, R, O]."""
        ...

    def pull(self, slope: Tensor) -> Tensor:
        """Jᵀu, summed over rows.  [B, R, O] -> [R, P]."""
        ...


class _Layer(NamedTuple):
    weight: Tensor  # [out, in]
    inputs: Sequence[Tensor]  # [rows, in] of each block of rows
    slopes: Sequence[Tensor]  # [rows, out] of the activation behind it; () behind the last layer


class LinearisedMlp:
    """A perceptron's, by hand: six products of matrices a direction, and no recorded graph."""

    def __init__(self, mlp: Mlp, features: Tensor) -> None:
        """features: [B, D]. Parameters are those of `mlp.parameters()`, in that order."""
        blocks = list(features.split(ROWS_AT_ONCE))
        self.rows = [len(block) for block in blocks]
        self.layers: list[_Layer] = []
        depth = len(mlp.weights)
        with torch.no_grad():
            for layer, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
                inputs: Sequence[Tensor] = blocks
                slopes: Sequence[Tensor] = ()
                blocks = [torch.addmm(bias, block, weight.T) for block in blocks]
                if layer < depth - 1:
                    blocks, slopes = _activated(mlp.activation, blocks)
                self.layers.append(_Layer(weight.detach(), inputs, slopes))
        self.output = torch.cat(blocks)
        self.sizes = [layer.weight.numel() for layer in self.layers] + [len(layer.weight) for layer in self.layers]

    def push(self, direction: Tensor) -> Tensor:
        """Forward through the layers: ż = W ḣ + Ẇ h + ḃ, and ḣ = slope·ż behind each but the last."""
        copies, depth = len(direction), len(self.layers)
        parts = direction.split(self.sizes, dim=1)
        turns = [part.reshape(-1, layer.weight.shape[1]) for part, layer in zip(parts, self.layers, strict=False)]
        shifts = [part[None] for part in parts[depth:]]
        pushed = []
        for block in range(len(self.rows)):
            h: Tensor | None = None
            for layer, turn, shift in zip(self.layers, turns, shifts, strict=True):
                z = layer.inputs[block] @ turn.T  # [rows, R·out]
                if h is not None:
                    z.view(-1, len(layer.weight)).addmm_(h.view(-1, layer.weight.shape[1]), layer.weight.T)
                z = z.view(-1, copies, len(layer.weight)).add_(shift)
                h = z.mul_(layer.slopes[block][:, None]) if layer.slopes else z
            assert h is not None
            pushed.append(h)
        return torch.cat(pushed)

    def pull(self, slope: Tensor) -> Tensor:
        """Backward through the layers: the gradients that u would have as the output's."""
        copies = slope.shape[1]
        weights = [slope.new_zeros(copies * len(layer.weight), layer.weight.shape[1]) for layer in self.layers]
        biases = [slope.new_zeros(copies * len(layer.weight)) for layer in self.layers]
        for block, u in enumerate(slope.split(self.rows)):
            u = u.reshape(len(u), -1)  # [rows, R·out]
            for at in range(len(self.layers) - 1, -1, -1):
                layer = self.layers[at]
                weights[at].addmm_(u.T, layer.inputs[block])
                biases[at] += u.sum(0)
                if at:
                    u = u.view(-1, len(layer.weight)) @ layer.weight
                    u = u.view(self.rows[block], copies, -1).mul_(self.layers[at - 1].slopes[block][:, None])
                    u = u.view(self.rows[block], -1)
        return torch.cat([part.view(copies, -1) for part in (*weights, *biases)], dim=1)


def _activated(activation: Callable[[Tensor], Tensor], blocks: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The activation of each block, and its slope."""
    values, slopes = [], []
    for block in blocks:
        with torch.enable_grad():
            z = block.requires_grad_()
            value = activation(z)
            (slope,) = torch.autograd.grad(value.sum(), z)
        values.append(value.detach())
        slopes.append(slope)
    return values, slopes


class LinearisedGraph:
    """Any network's, by automatic differentiation: J v is the slope of Jᵀw in w.

    One block of rows at a time, its graph made anew for each product: that of a whole batch of pictures fills a memory
    (`rl/blocks.py`).
    """

    def __init__(
        self,
        network: Callable[[Mapping[str, Tensor]], Tensor],
        inputs: Mapping[str, Tensor],
        parameters: Sequence[Tensor],
    ) -> None:
        """network: inputs of some rows -> [rows, O], a function of `parameters`."""
        self.network, self.parameters = network, list(parameters)
        self.blocks = in_blocks(inputs, ROWS_AT_ONCE)
        with torch.no_grad():
            self.output = torch.cat([network(block) for block in self.blocks])

    def push(self, direction: Tensor) -> Tensor:
        """Each block's slope in w, direction by direction."""
        sizes = [p.numel() for p in self.parameters]
        shaped = [[part.view_as(p) for part, p in zip(v.split(sizes), self.parameters, strict=True)] for v in direction]
        pushed = []
        for block in self.blocks:
            with torch.enable_grad():
                output = self.network(block)
                w = torch.zeros_like(output, requires_grad=True)
                slopes = torch.autograd.grad(output, self.parameters, w, create_graph=True)
            columns = [torch.autograd.grad(slopes, w, v, retain_graph=True)[0] for v in shaped]
            pushed.append(torch.stack(columns, dim=1))
        return torch.cat(pushed)

    def pull(self, slope: Tensor) -> Tensor:
        """Summed over blocks."""
        total = slope.new_zeros(slope.shape[1], sum(p.numel() for p in self.parameters))
        start = 0
        for block in self.blocks:
            with torch.enable_grad():
                output = self.network(block)
            part = slope[start : start + len(output)]
            start += len(output)
            for copy, row in enumerate(total):
                gradients = torch.autograd.grad(output, self.parameters, part[:, copy], retain_graph=True)
                row += torch.cat([gradient.flatten() for gradient in gradients])
        return total


# --- policies ---


def distribution_of(network: ActorCritic, output: Tensor, log_std: Tensor | None) -> Distribution:
    """The action distribution of the actor's output [..., O]; log_std is None for choices."""
    if log_std is None:
        return Choices.of(output, network.action.sizes)
    return (SquashedGaussian if network.squashed else Gaussian)(output, log_std)


class LocalPolicy:
    """A network's policy on a batch, as it stands, with what its derivatives there need.

    θ is the actor's parameters (with those of an encoder of pictures, if any), then log σ where the policy has one. The
    gradients' directions are rows: R of them go through the network together.

    Of a policy that sees pictures the encoder is a part: its gradient and the KL go through both, and a Fisher matrix
    of the actor alone would bound no KL once the encoder moved as well. So both take the natural step together, and
    nothing else moves the encoder: a step of the critics' loss through it would change the policy outside its trust
    region, after the search has measured the KL. Critics read its features as the step leaves them and are fitted to
    those anew in every collection. An encoder of their own would cost them convolutions in each pass; as it is, each
    picture goes through them once, and through the critics' few products as often as there are passes.
    """

    def __init__(self, network: ActorCritic, inputs: Mapping[str, Tensor]) -> None:
        """inputs: normalised, B rows."""
        encoder = list(network.encoder.parameters())
        body = [*network.actor.parameters(), *encoder]
        self.network = network
        self.parameters = body if network.log_std is None else [*body, network.log_std]
        self.linear: Linearised
        if encoder:
            self.linear = LinearisedGraph(lambda block: network.actor(network.encoder(block)), inputs, body)
        else:
            self.linear = LinearisedMlp(network.actor, network.encoder(inputs))
        self.width = sum(p.numel() for p in body)
        self._leaves = [self.linear.output.clone().requires_grad_()]
        if network.log_std is not None:
            self._leaves.append(network.log_std.detach().clone().requires_grad_())
        self.policy = distribution_of(network, self._leaves[0], None if len(self._leaves) < 2 else self._leaves[1])
        kl = self.policy.detach().kl(self.policy).mean()
        self._kl_slopes = torch.autograd.grad(kl, self._leaves, create_graph=True)

    def gradients(self, objective: Callable[[Distribution], Sequence[Tensor]]) -> Tensor:
        """∇θ of each of R scalar objectives of the policy.  [R, P] in float64."""
        slopes = [torch.autograd.grad(value, self._leaves, retain_graph=True) for value in objective(self.policy)]
        return self._pulled(slopes)

    def fisher_product(self, direction: Tensor) -> Tensor:
        """F v, with F the Hessian of the KL, summed over action dimensions, averaged over rows.  [R, P] -> [R, P]."""
        v = direction.to(self._leaves[0].dtype)
        outputs = self.linear.push(v[:, : self.width])
        slopes = []
        for copy in range(len(v)):
            tangent = [outputs[:, copy], v[copy, self.width :]][: len(self._leaves)]
            slopes.append(torch.autograd.grad(self._kl_slopes, self._leaves, tangent, retain_graph=True))
        return self._pulled(slopes)

    def _pulled(self, slopes: Sequence[Sequence[Tensor]]) -> Tensor:
        """Slopes in the output [B, O] (and in log σ [A]) of R objectives, as gradients in θ."""
        body = self.linear.pull(torch.stack([slope[0] for slope in slopes], dim=1))
        if len(self._leaves) > 1:
            body = torch.cat([body, torch.stack([slope[1] for slope in slopes])], dim=1)
        return body.double()
