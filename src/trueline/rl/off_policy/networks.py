"""A policy beside critics of state and action, and how gradient steps change them.

The passes of the learner are derived by hand (`Perceptrons`): a gradient step at the published sizes is matrix products
and little else, and autograd's copies and its gradients that nobody asked for cost a third of it. What is small, the
distribution and the loss, stays with autograd. Large products are quicker one network at a time than stacked, since
one network's activations fit into the cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import PositiveInt, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.rl.activations import tanh
from trueline.rl.adam import BETA_1, BETA_2, EPSILON, FlatAdam, Group, flattened, views
from trueline.rl.distributions import Choices, Distribution, SquashedGaussian
from trueline.rl.handlers.constraint import Weights
from trueline.rl.networks import ActorCritic, Encoder, Mlp, Network, StackedMlp
from trueline.rl.normalise import RunningNorm
from trueline.rl.policy import NetworkPolicy, WorldRef
from trueline.rl.spaces import ActionCodec, ObservationCodec

LOG_STD = (-20.0, 2.0)  # log σ of a policy stays between (Haarnoja et al. 2018, their code)


class QNetwork(Network):
    """Shape and start of an actor or a critic of state and action; OmniSafe's sizes."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    activation: Literal["tanh", "relu", "silu"] = "relu"  # not silu: the derivative has to follow from the value

    @model_validator(mode="after")
    def _by_hand(self) -> Self:
        if self.activation not in ("relu", "tanh"):
            raise ValueError(f"activation is {self.activation!r}, but the learner's passes know relu and tanh only")
        return self


# --- the networks and what is kept of them ---


class Statistics(RunningNorm):
    """Running statistics that are kept and not applied: audits state noise in them."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class Shape(NamedTuple):
    """What a network is made from, beside its spaces."""

    twins: int  # critics of the reward
    costs: tuple[str, ...]  # one critic each
    actor: QNetwork
    critic: QNetwork
    stochastic: bool  # a policy with a deviation of its own in every state, or none at all
    normalise: bool  # observations by their running statistics


class ActorQ(ActorCritic):
    """A policy and H = twins + K critics of state and action: `twins` of the reward, then one of each cost.

    Continuous actions are tanh of a normal whose mean and log σ are functions of the state; a deterministic policy is
    one whose σ is 0. A critic of a discrete action has an output for each option.
    """

    def __init__(self, observation: ObservationCodec, action: ActionCodec, shape: Shape, rng: torch.Generator) -> None:
        """Raises ConfigError for pictures, and for actions other than continuous ones or a single choice."""
        nn.Module.__init__(self)
        if observation.images:
            raise ConfigError("a replay of pictures would not fit into memory. Use an on-policy recipe for them.")
        if action.kind == "choices" and not (action.flat and shape.stochastic):
            given = "several choices at once" if shape.stochastic else "a choice, and this policy is deterministic"
            raise ConfigError(f"the action is {given}. Use a SAC row for one choice, an on-policy one for several.")
        self.action, self.shape = action, shape
        self.squashed, self.log_std = True, None
        self.encoder = Encoder(observation, rng)
        if not shape.normalise:
            self.encoder.norm = Statistics(observation.width)
        discrete = action.kind == "choices"
        inputs, outputs = self.encoder.width, action.outputs
        self.actor = Mlp(inputs, outputs if discrete or not shape.stochastic else 2 * outputs, shape.actor, rng)
        heads = shape.twins + len(shape.costs)
        taken, options = (0, outputs) if discrete else (outputs, 1)
        self.critics = StackedMlp(heads, inputs + taken, options, shape.critic, rng)

    def distribution(self, output: Tensor) -> Distribution:
        """The action distribution that an output [B, …] of the actor's network means."""
        if self.action.kind == "choices":
            return Choices.of(output, self.action.sizes)
        if not self.shape.stochastic:
            return SquashedGaussian(output, torch.full_like(output, -math.inf))
        mean, log_std = output.chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*LOG_STD))

    def policy(self, features: Tensor) -> Distribution:
        """The action distribution."""
        return self.distribution(self.actor(features))

    def values(self, features: Tensor) -> Tensor:
        """Q of the policy's mode, [B, 1 + K]: the lesser of the reward's, then each cost's."""
        policy = self.policy(features)
        mode = policy.mode()
        if self.action.kind == "choices":
            q = self.critics(features)  # [B, H, options]
            picked = mode.long()[:, None, :].expand(-1, q.shape[1], 1)
            return pessimistic(q.gather(-1, picked)[..., 0], self.shape.twins)
        return pessimistic(
            self.critics(torch.cat([features, policy.to_action(mode)], dim=-1))[..., 0], self.shape.twins
        )

    def actor_parameters(self) -> list[nn.Parameter]:
        """The policy's own parameters."""
        return list(self.actor.parameters())


def pessimistic(q: Tensor, twins: int) -> Tensor:
    """The least of the reward's twins, then each cost's critic as it is: [..., twins + K] -> [..., 1 + K].

    Twins disagree where they overestimate (Fujimoto et al. 2018). An overestimated cost only makes for caution, so that
    one critic of each is enough.
    """
    if twins == 1:
        return q
    return torch.cat([q[..., :twins].amin(-1, keepdim=True), q[..., twins:]], dim=-1)


class QPolicy(NetworkPolicy):
    """The policy of an `ActorQ`: it acts, is shown and audited as any other."""

    kind: ClassVar[str] = "q-policy"

    network: ActorQ


def described(shape: Shape) -> dict[str, Any]:
    """What `load` needs of a shape."""
    nets = {"actor": shape.actor.model_dump(mode="json"), "critic": shape.critic.model_dump(mode="json")}
    return {**shape._asdict(), **nets, "costs": list(shape.costs)}


def load(folder: Path) -> QPolicy:
    """The policy saved in `folder`. Raises RunError naming what is missing or does not fit."""
    try:
        record = json.loads((folder / "policy.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        observation = ObservationCodec(tuple((k, how, tuple(size)) for k, how, size in record["observation"]))
        kind, sizes, flat = record["action"]
        shape = Shape(
            record["twins"],
            tuple(record["costs"]),
            build(QNetwork, record["actor"]),
            build(QNetwork, record["critic"]),
            record["stochastic"],
            record["normalise"],
        )
        network = ActorQ(observation, ActionCodec(kind, tuple(sizes), flat), shape, torch.Generator().manual_seed(0))
        network.load_state_dict(weights)
    except FileNotFoundError as missing:
        raise RunError(f"{folder} holds no saved policy: {Path(missing.filename).name} is missing.") from None
    except (KeyError, ValueError, RuntimeError, ConfigError, json.JSONDecodeError) as damage:
        raise RunError(f"the policy in {folder} is damaged or of another version: {damage}.") from None
    kept = {key: record[key] for key in ("multipliers", "layouts_met", "temperature") if key in record}
    return QPolicy(
        network, observation, build(WorldRef, record["world"]), {**described(shape), **kept}, record["parent"]
    )


# --- passes ---


class Layer(NamedTuple):
    """One layer of one network: its parameters, or their gradients."""

    weight: Tensor  # [in, out]
    bias: Tensor  # [out]


def _layers(module: Mlp | StackedMlp, tensors: Sequence[tuple[Tensor, Tensor]]) -> list[list[Layer]]:
    """Views of a module's (weight, bias) tensors, or of such of their gradients, by network."""
    if isinstance(module, Mlp):
        return [[Layer(weight.T, bias) for weight, bias in tensors]]
    return [[Layer(weight[h], bias[h, 0]) for weight, bias in tensors] for h in range(module.heads)]


class Perceptrons:
    """Forward and backward passes of H perceptrons with one input, in buffers that are made once per batch size.

    A forward pass with `keep` overwrites what the one before it has kept, so that it is followed by its own backward
    pass. Gradients are written, not added to what is there.
    """

    def __init__(self, module: Mlp | StackedMlp, activation: str) -> None:
        """Views of the module's parameters as they are stored now: make it after the optimiser that flattens them."""
        both = list(zip(module.weights, module.biases, strict=True))
        self.activation = activation
        self.networks = _layers(module, [(w.detach(), b.detach()) for w, b in both])
        kept = [(w.grad, b.grad) for w, b in both if w.grad is not None and b.grad is not None]
        self.gradients = _layers(module, kept)  # empty for a slow copy, which is never learnt
        self._buffers: dict[tuple[int, int], list[Tensor]] = {}
        self._gradients: dict[tuple[int, int], Tensor] = {}
        self._x = torch.zeros(0)

    def _hidden(self, rows: int, head: int) -> list[Tensor]:
        """Where the hidden layers' values of one network go, [rows, width] each."""
        found = self._buffers.get((rows, head))
        if found is None:
            found = [torch.empty(rows, len(layer.bias)) for layer in self.networks[head][:-1]]
            self._buffers[rows, head] = found
        return found

    def _back(self, grad: Tensor, layer: Layer, at: int, value: Tensor) -> Tensor:
        """∂loss/∂(before the activation that gave `value`, below layer number `at`); `value` is used up."""
        into = self._gradients.get((len(grad), at))
        if into is None:
            into = self._gradients[len(grad), at] = torch.empty(len(grad), len(layer.weight))
        torch.mm(grad, layer.weight.T, out=into)
        if self.activation == "relu":
            return into.mul_(value.sign_())  # 0 or 1: what is negative became 0 on the way forward
        return into.mul_(value.square_().neg_().add_(1.0))

    @torch.no_grad()
    def forward(self, x: Tensor, heads: Sequence[int] | None = None, keep: bool = False) -> Tensor:
        """[B, D] -> [H, B, outputs] of the given networks (all unless given).  keep: for a backward pass."""
        heads = range(len(self.networks)) if heads is None else heads
        if keep:
            self._x = x
        outputs = []
        for head in heads:
            layers = self.networks[head]
            h = x
            # Without a backward pass one set of buffers does for all networks.
            for layer, into in zip(layers[:-1], self._hidden(len(x), head if keep else heads[0]), strict=True):
                torch.addmm(layer.bias, h, layer.weight, out=into)
                h = into.relu_() if self.activation == "relu" else into.copy_(tanh(into))
            outputs.append(torch.addmm(layers[-1].bias, h, layers[-1].weight))
        return torch.stack(outputs)

    @torch.no_grad()
    def learn(self, grad: Tensor) -> None:
        """Write the parameters' gradients, from ∂loss/∂output [H, B, outputs] of the last kept forward pass of all."""
        for head, (layers, gradients) in enumerate(zip(self.networks, self.gradients, strict=True)):
            hidden, g = self._hidden(len(self._x), head), grad[head]
            for at in range(len(layers) - 1, -1, -1):
                inputs = hidden[at - 1] if at else self._x
                torch.mm(inputs.T, g, out=gradients[at].weight)
                torch.sum(g, 0, out=gradients[at].bias)
                if at:
                    g = self._back(g, layers[at], at, inputs)

    @torch.no_grad()
    def by_input(self, grad: Tensor, columns: int, heads: Sequence[int] | None = None) -> Tensor:
        """∂loss/∂(the last `columns` of the input) [B, columns]; parameters get no gradient, and none is computed."""
        heads = range(len(self.networks)) if heads is None else heads
        total = torch.zeros(len(self._x), columns)
        for g, head in zip(grad, heads, strict=True):
            layers, hidden = self.networks[head], self._hidden(len(self._x), head)
            for at in range(len(layers) - 1, 0, -1):
                g = self._back(g, layers[at], at, hidden[at - 1])
            total += torch.mm(g, layers[0].weight[-columns:].T)
        return total


class _Frozen(torch.autograd.Function):
    """Q [B, H] of actions [B, A], differentiable by the actions alone."""

    @staticmethod
    def forward(
        ctx: Any, action: Tensor, features: Tensor, critics: Perceptrons, heads: Sequence[int] | None
    ) -> Tensor:
        ctx.critics, ctx.heads, ctx.columns = critics, heads, action.shape[1]
        return critics.forward(torch.cat([features, action], dim=1), heads, keep=True)[..., 0].T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.critics.by_input(grads[0].T[..., None], ctx.columns, ctx.heads), None, None, None


class FusedAdam(FlatAdam):
    """`FlatAdam` whose step is one pass over the numbers: with networks of this size memory is what a step costs."""

    @torch.no_grad()
    def step(self, bound: float) -> None:
        """θ ← θ − lr·m̂/(√v̂ + ε), each network's gradient scaled down to the norm `bound` first."""
        self.steps += 1
        every = zip(self.groups, self.values, self.grads, self.first, self.second, strict=True)
        for group, value, grad, first, second in every:
            if group.l2:
                grad.add_(value, alpha=2.0 * group.l2)
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
            grad.mul_((bound / (norm + 1e-6)).clamp_max_(1.0))
            torch._fused_adam_(
                [value],
                [grad],
                [first],
                [second],
                [],
                [torch.tensor(float(self.steps))],
                lr=group.lr,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )


class Target:
    """A slow copy of a network, its numbers in one flat tensor laid out as the optimiser lays out the network's own."""

    def __init__(self, module: Mlp | StackedMlp, like: Mlp | StackedMlp, flat: Tensor, activation: str) -> None:
        """module: another of the same shape as `like`, whose parameters lie in `flat` [rows, numbers]."""
        self.module, self.follows = module, flat
        parameters = list(module.parameters())
        group = Group(parameters, 0.0, rows=module.heads if isinstance(module, StackedMlp) else None)
        module.load_state_dict(like.state_dict())
        self.flat = flattened(group)
        for p, view in zip(parameters, views(group, self.flat), strict=True):
            p.data = view
            p.requires_grad_(False)
        self.passes = Perceptrons(module, activation)

    def follow(self, rate: float) -> None:
        """θ' ← θ' + rate·(θ − θ')."""
        self.flat.lerp_(self.follows, rate)


class Guide(NamedTuple):
    """What a constraint tells an update: how it weighs, or what it may not exceed."""

    weights: Weights
    limit: Tensor  # [K] of Q_c on average over states, float64; see `off_policy.value_limit`


class Learner:
    """What the gradient steps of a run change: the networks, slow copies, moments, and an update's own numbers."""

    def __init__(self, network: ActorQ, lr: float, critic_lr: float) -> None:
        """Moves the networks' parameters into flat tensors."""
        self.network = network
        shape, inputs = network.shape, network.encoder.width
        critics = network.critics
        width = critics.weights[0].shape[1]
        self.actor_adam = FusedAdam([Group(network.actor_parameters(), lr)])
        self.critic_adam = FusedAdam([Group(list(critics.parameters()), critic_lr, rows=critics.heads)])
        self.actor = Perceptrons(network.actor, shape.actor.activation)
        self.critics = Perceptrons(critics, shape.critic.activation)
        rng = torch.Generator().manual_seed(0)  # the copies take the networks' numbers at once
        actor = Mlp(inputs, len(network.actor.biases[-1]), shape.actor, rng)
        slow = StackedMlp(critics.heads, width, critics.weights[-1].shape[2], shape.critic, rng)
        self.target_actor = Target(actor, network.actor, self.actor_adam.values[0], shape.actor.activation)
        self.target_critics = Target(slow, critics, self.critic_adam.values[0], shape.critic.activation)
        self.steps = 0  # gradient steps of the critics
        self.own: dict[str, Tensor] = {}  # what an update keeps beside that, such as log α

    def policy(self, features: Tensor) -> Distribution:
        """The policy without gradient."""
        return self.network.distribution(self.actor.forward(features)[0])

    def target_policy(self, features: Tensor) -> Distribution:
        """The slow copy's policy."""
        return self.network.distribution(self.target_actor.passes.forward(features)[0])

    def fit_critics(self, inputs: Tensor, target: Tensor, bound: float, taken: Tensor | None = None) -> Tensor:
        """One step on Σ_h mean((Q_h − y_h)²); returns that loss.

        inputs [B, D], target [B, 1 + K], taken: the option taken [B] where actions are discrete. Each of the reward's
        twins has the same target.
        """
        twins = self.network.shape.twins
        wanted = torch.cat([target[:, :1].expand(-1, twins), target[:, 1:]], dim=1).T  # [H, B]
        q = self.critics.forward(inputs, keep=True)
        if taken is None:
            error = q[..., 0] - wanted
            grad = error[..., None] * (2.0 / len(inputs))
        else:
            index = taken.expand(len(q), -1)[..., None]
            error = q.gather(-1, index)[..., 0] - wanted
            grad = torch.zeros_like(q).scatter_(-1, index, error[..., None] * (2.0 / len(inputs)))
        self.critics.learn(grad)
        self.critic_adam.step(bound)
        self.steps += 1
        return error.square().mean(1).sum()

    def q(self, features: Tensor, action: Tensor, heads: Sequence[int] | None = None) -> Tensor:
        """Q of the given critics (all unless given) as they stand, [B, H], with gradient to the actions alone."""
        found: Tensor = _Frozen.apply(action, features, self.critics, heads)
        return found

    def improve_policy(self, features: Tensor, loss: Callable[[Distribution], Tensor], bound: float) -> Tensor:
        """One step of the policy down `loss`, a function of its distribution at features [B, D]; returns that loss."""
        output = self.actor.forward(features, keep=True)[0].requires_grad_()
        found = loss(self.network.distribution(output))
        (grad,) = torch.autograd.grad(found, output)
        self.actor.learn(grad[None])
        self.actor_adam.step(bound)
        return found.detach()

    def follow(self, rate: float) -> None:
        """Let both slow copies follow."""
        self.target_actor.follow(rate)
        self.target_critics.follow(rate)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next gradient step depends on, beside the network itself."""
        return {
            "actor_adam": self.actor_adam.state_dict(),
            "critic_adam": self.critic_adam.state_dict(),
            "target_actor": self.target_actor.flat,
            "target_critics": self.target_critics.flat,
            "steps": self.steps,
            "own": dict(self.own),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.actor_adam.load_state_dict(state["actor_adam"])
        self.critic_adam.load_state_dict(state["critic_adam"])
        self.target_actor.flat.copy_(state["target_actor"])
        self.target_critics.flat.copy_(state["target_critics"])
        self.steps, self.own = int(state["steps"]), dict(state["own"])


def td_target(signal: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """y = Σ_{i<m} γⁱ r_{t+i} + γᵐ·(1 − terminated)·V(s_{t+m}), of the reward and of each cost: [B, 1 + K] each.

    `signal` is that sum and `discount` the factor of V, as the replay stores them.
    """
    return signal + discount * value
