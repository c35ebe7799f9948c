"""One minibatch of PPO-Lag's update: ours, three separate networks as usually written, OmniSafe's, and the floor."""

from __future__ import annotations

import itertools
import tempfile
from typing import TYPE_CHECKING

import _interleave
import _peers as peers
from _interleave import Comparison, Contestant, Medians, Plan

if TYPE_CHECKING:
    from torch import Tensor

OBSERVATION, ACTION, HIDDEN = 60, 2, (64, 64)  # PointGoal1 with the networks of the published tables
HEADS = 3  # policy, value of the reward, value of the cost
RATE, CLIP, GRAD_NORM, CRITIC_L2 = 3e-4, 0.2, 40.0, 0.001
PASS_ROWS, FEWEST_MINIBATCHES = 6400, 4  # rows of the batch that one pass goes over
PASSES, QUICK_PASSES = 10, 1  # in a sample: ten take ours about a second at 64, one is too short to be trusted
LARGE = 256  # rows from which a matrix product costs by its arithmetic, not by the call


def rows_of(minibatch: int) -> int:
    """Rows of a batch made of whole minibatches."""
    return max(PASS_ROWS // minibatch, FEWEST_MINIBATCHES) * minibatch


def random_batch(rows: int) -> dict[str, Tensor]:
    """A collection made of noise: obs [R, 60], draw [R, 2], log_prob, advantage, target_r, target_c [R]."""
    import torch

    rng = torch.Generator().manual_seed(0)
    draw = torch.randn(rows, ACTION, generator=rng)
    # As drawn from the starting policy, a standard normal around nearly 0, so that no ratio is absurd.
    batch = {"obs": torch.randn(rows, OBSERVATION, generator=rng), "draw": draw}
    batch["log_prob"] = torch.distributions.Normal(0.0, 1.0).log_prob(draw).sum(-1)
    return batch | {name: torch.randn(rows, generator=rng) for name in ("advantage", "target_r", "target_c")}


# -- ours -------------------------------------------------------------------------------------------------------------


def our_network():
    import gymnasium as gym
    import numpy as np
    import torch

    from trueline.rl.networks import ActorCritic, ActorNetwork, Network
    from trueline.rl.spaces import ActionCodec, ObservationCodec

    return ActorCritic(
        ObservationCodec.of(gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,))),
        ActionCodec.of(gym.spaces.Box(-1.0, 1.0, (ACTION,))),
        costs=1,
        actor=ActorNetwork(hidden=HIDDEN),
        critic=Network(hidden=HIDDEN),
        rng=torch.Generator().manual_seed(0),
    )


def our_pass(network, minibatch: int, batch: dict[str, Tensor]):
    """A function that takes a generator and makes one pass over the batch."""
    import torch

    from trueline.rl.updates.ppo import Ppo
    from trueline.rl.updates.rows import Rows

    config = Ppo(passes=1, minibatch=minibatch, target_kl=None, lr=RATE, critic_lr=RATE, clip=CLIP)
    adam = config.optimiser(network)
    with torch.no_grad():
        inputs = network.encoder.normalised({"vector": batch["obs"]})
        policy = network.policy(network.encoder(inputs)).detach()
    target = torch.stack([batch["target_r"], batch["target_c"]], dim=-1)
    rows = Rows(inputs, batch["draw"], batch["log_prob"], policy, batch["advantage"], target)
    return lambda rng: config.learn(network, adam, rows, 0.0, rng)


def ours(minibatch: int, passes: int = PASSES):
    import torch

    torch.set_num_threads(1)
    batch = random_batch(rows_of(minibatch))
    one_pass, rng = our_pass(our_network(), minibatch, batch), torch.Generator().manual_seed(0)
    return _passes(lambda: one_pass(rng), minibatch, passes)


def _passes(one_pass, minibatch: int, passes: int):
    """So many passes as the job, after one that warms up."""
    one_pass()

    def job():
        for _ in range(passes):
            one_pass()
        return {"work": passes * rows_of(minibatch) // minibatch}

    return lambda: job


# -- the usual structure: a network, an optimiser and a backward pass for each of the three ---------------------------


def three_networks():
    """Policy with its log σ, value of the reward, value of the cost, as torch modules of their own."""
    import torch
    from torch import nn

    def perceptron(outputs: int) -> nn.Sequential:
        sizes = [OBSERVATION, *HIDDEN]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))

    policy = perceptron(ACTION)
    policy.register_parameter("log_std", nn.Parameter(torch.zeros(ACTION)))
    return policy, perceptron(1), perceptron(1)


def separate_pass(networks, minibatch: int, batch: dict[str, Tensor]):
    """A function that takes a generator and makes one pass, each network with its own loss, clipping and Adam."""
    import torch
    from torch import nn
    from torch.distributions import Normal, kl_divergence

    policy, *critics = networks
    adams = [torch.optim.Adam(network.parameters(), lr=RATE) for network in networks]

    def step(network, adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRAD_NORM)
        adam.step()

    def distribution(obs: Tensor) -> Normal:
        return Normal(policy(obs), policy.log_std.exp())

    with torch.no_grad():
        before = distribution(batch["obs"])

    def one_pass(rng: torch.Generator) -> float:
        for rows in torch.randperm(len(batch["obs"]), generator=rng).split(minibatch):
            obs = batch["obs"][rows]
            for critic, adam, target in zip(critics, adams[1:], ("target_r", "target_c"), strict=True):
                loss = nn.functional.mse_loss(critic(obs)[:, 0], batch[target][rows])
                for parameter in critic.parameters():
                    loss = loss + CRITIC_L2 * parameter.square().sum()
                step(critic, adam, loss)
            ratio = (distribution(obs).log_prob(batch["draw"][rows]).sum(-1) - batch["log_prob"][rows]).exp()
            advantage = batch["advantage"][rows]
            clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * advantage
            step(policy, adams[0], -torch.minimum(ratio * advantage, clipped).mean())
        with torch.no_grad():
            return float(kl_divergence(before, distribution(batch["obs"])).sum(-1).mean())

    return one_pass


def separate(minibatch: int, passes: int = PASSES):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    one_pass = separate_pass(three_networks(), minibatch, random_batch(rows_of(minibatch)))
    rng = torch.Generator().manual_seed(0)
    return _passes(lambda: one_pass(rng), minibatch, passes)


# -- OmniSafe's own ---------------------------------------------------------------------------------------------------


def omnisafe(minibatch: int, passes: int = PASSES):
    """The update of OmniSafe's PPOLag with its buffer's content replaced by the same noise; no multiplier step."""
    rows = rows_of(minibatch)
    settings = {
        "train_cfgs": {"total_steps": rows, "torch_threads": 1, "vector_env_nums": 1},
        "algo_cfgs": {"steps_per_epoch": rows, "update_iters": 1, "batch_size": minibatch, "kl_early_stop": False},
        "logger_cfgs": {"log_dir": tempfile.mkdtemp(dir=".")},  # in the referee's temporary folder
    }
    algorithm = peers.omnisafe().Agent("PPOLag", "SafetyPointGoal1-v0", custom_cfgs=settings).agent
    # PPOLag's own update first moves the multiplier, which needs finished episodes; the rest is its parent's.
    from omnisafe.algorithms.on_policy.base.policy_gradient import PolicyGradient

    batch = random_batch(rows)
    content = {"act": batch["draw"], "logp": batch["log_prob"], "adv_r": batch["advantage"], "adv_c": batch["target_c"]}
    content |= {"obs": batch["obs"], "target_value_r": batch["target_r"], "target_value_c": batch["target_c"]}
    algorithm._buf.get = lambda: content
    return _passes(lambda: PolicyGradient._update(algorithm), minibatch, passes)


# -- the floor: what no implementation can leave out ------------------------------------------------------------------


def gradient_arithmetic(x: Tensor, weights: list[Tensor], biases: list[Tensor], outward: Tensor):
    """Forward and backward of H stacked perceptrons by hand; gradients of (outputs · outward).sum().

    x [B, D], weights [H, in, out], biases [H, 1, out], outward [H, B, outputs] -> gradients of weights, of biases.
    """
    import torch

    inputs = [x.expand(len(weights[0]), *x.shape)]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(torch.baddbmm(bias, inputs[-1], weight).tanh_())
    torch.baddbmm(biases[-1], inputs[-1], weights[-1])  # the outputs: a loss would need them
    of_weights, of_biases = [], []
    for layer in reversed(range(len(weights))):
        of_weights.append(torch.bmm(inputs[layer].transpose(1, 2), outward))
        of_biases.append(outward.sum(1, keepdim=True))
        if layer:
            hidden = inputs[layer]
            outward = torch.bmm(outward, weights[layer].transpose(1, 2)) * (1.0 - hidden * hidden)
    return of_weights[::-1], of_biases[::-1]


def stacked_parameters(heads: int):
    """Weights [H, in, out] and biases [H, 1, out] of H networks, the critics padded to the policy's two outputs."""
    import torch

    rng, sizes = torch.Generator().manual_seed(0), [OBSERVATION, *HIDDEN, ACTION]
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(heads, a, b, generator=rng) / a**0.5 for a, b in pairs]
    return weights, [torch.zeros(heads, 1, b) for _, b in pairs]


def floor(minibatch: int, passes: int = PASSES):
    """The arithmetic alone: gathering rows, matrix products, tanh, one fused Adam. No loss, clipping or autograd."""
    import torch

    torch.set_num_threads(1)
    obs = random_batch(rows_of(minibatch))["obs"]
    # Small products cost by the call, so the three networks share each; large ones are faster one network at a time.
    stacks = [stacked_parameters(h) for h in ([HEADS] if minibatch < LARGE else [1] * HEADS)]
    rng = torch.Generator().manual_seed(0)
    outward = [torch.randn(len(weights[0]), minibatch, ACTION, generator=rng) / minibatch for weights, _ in stacks]
    parameters = [p for weights, biases in stacks for p in (*weights, *biases)]
    adam = torch.optim.Adam(parameters, lr=RATE, fused=True)

    @torch.no_grad()
    def one_pass() -> None:
        for rows in torch.randperm(len(obs)).split(minibatch):
            x = obs[rows]
            found = [gradient_arithmetic(x, *stack, out) for stack, out in zip(stacks, outward, strict=True)]
            gradients = [g for weights, biases in found for g in (*weights, *biases)]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()

    return _passes(one_pass, minibatch, passes)


MAKERS = {"ours": ours, "separate": separate, "omnisafe": omnisafe, "floor": floor}


def _compared(minibatch: int, against: str, bar: float | None) -> Comparison:
    def ceiling(medians: Medians) -> float:
        return medians[f"floor, {minibatch}"]["per_cpu_s"] / medians[f"{against}, {minibatch}"]["per_cpu_s"]

    return Comparison(
        f"minibatch of {minibatch}, trueline / {against}",
        f"trueline, {minibatch}",
        "per_cpu_s",
        f"floor, {minibatch} / {against}, {minibatch}",
        ceiling,
        f"{against}, {minibatch}",
        at_least=bar,
    )


def plan(quick: bool) -> Plan:
    sizes, passes = ((64, 1024), QUICK_PASSES) if quick else ((64, 1024, 4096), PASSES)
    sides = {"OmniSafe": "omnisafe", "trueline": "ours", "separate networks": "separate", "floor": "floor"}
    return Plan(
        unit="minibatches",
        note="Passes over a batch of noise in minibatches, each with its shuffle and its KL at the end, ten to a "
        "sample (one alone lasts a tenth of a second, too short to be trusted); 60 observations, 2 actions, networks "
        "of 64-64 tanh, one cost. Separate networks: the usual structure in the same torch, three losses, three "
        "backward passes, three Adams. Floor: gathering rows, matrix products of forward and backward, tanh and one "
        "fused Adam, without losses, clipping or autograd. OmniSafe's figure includes its DataLoader and logger, as "
        "in its training.",
        contestants=[
            Contestant(f"{side}, {size}", maker, {"minibatch": size, "passes": passes}, peer=maker == "omnisafe")
            for size in sizes
            for side, maker in sides.items()
        ],
        # The bar is for the minibatch that the published hyper-parameters use.
        comparisons=[
            _compared(size, against, 4.0 if (size, against) == (64, "OmniSafe") else None)
            for size in sizes
            for against in ("OmniSafe", "separate networks")
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
