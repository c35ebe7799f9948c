"""One gradient step of SAC-Lag: ours, the usual structure with autograd, OmniSafe's, and the floor."""

from __future__ import annotations

import itertools
import math
import tempfile
from typing import TYPE_CHECKING

import _interleave
import _peers as peers
from _interleave import Comparison, Contestant, Medians, Plan

if TYPE_CHECKING:
    from torch import Tensor

OBSERVATION, ACTION, HIDDEN, BATCH = 60, 2, (256, 256), 256  # PointGoal1, OmniSafe's sizes
CRITICS = 3  # two of the reward, one of the cost
RATE, ALPHA, GAMMA, POLYAK, GRAD_NORM, MULTIPLIER = 3e-4, 0.2, 0.99, 0.005, 40.0, 0.5
ROWS = 20_000  # of the replay: a sample is a gather from more than any cache holds
STEPS = 60  # in a sample


def transitions() -> dict[str, Tensor]:
    """A replay made of noise: obs, next_obs [R, 60], act [R, 2], reward, cost, done [R]."""
    import torch

    rng = torch.Generator().manual_seed(0)
    made = {name: torch.randn(ROWS, OBSERVATION, generator=rng) for name in ("obs", "next_obs")}
    made["act"] = torch.rand(ROWS, ACTION, generator=rng) * 2.0 - 1.0
    made["reward"] = torch.randn(ROWS, generator=rng)
    made["cost"] = (torch.rand(ROWS, generator=rng) < 0.05).float()
    return made | {"done": torch.zeros(ROWS)}


def _steps(one_step):
    """STEPS gradient steps as the job, after some that warm up."""
    for _ in range(10):
        one_step()

    def job():
        for _ in range(STEPS):
            one_step()
        return {"work": STEPS}

    return lambda: job


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(delay: int):
    from pathlib import Path

    import gymnasium as gym
    import numpy as np
    import torch

    from trueline.rl.handlers.constraint import normalised
    from trueline.rl.off_policy.networks import ActorQ, Guide, QNetwork, Shape
    from trueline.rl.off_policy.replay import Replay, Transitions
    from trueline.rl.off_policy.sac import Sac
    from trueline.rl.spaces import ActionCodec, ObservationCodec

    torch.set_num_threads(1)
    net = QNetwork(hidden=HIDDEN)
    network = ActorQ(
        ObservationCodec.of(gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,))),
        ActionCodec.of(gym.spaces.Box(-1.0, 1.0, (ACTION,))),
        Shape(2, ("cost",), net, net, True, False),
        torch.Generator().manual_seed(0),
    )
    sac = Sac(batch=BATCH, lr=RATE, critic_lr=RATE, alpha=ALPHA, delay=delay)
    learner, rng = sac.learner(network), torch.Generator().manual_seed(0)
    weights = normalised(torch.tensor([MULTIPLIER], dtype=torch.float64))
    guide = Guide(weights, torch.zeros(1, dtype=torch.float64))
    noise = transitions()
    replay = Replay(ROWS, OBSERVATION, ACTION, 1, Path(tempfile.mkdtemp(dir=".")))
    signal = torch.stack([noise["reward"], noise["cost"]], dim=1)
    discount = GAMMA * (1.0 - noise["done"])[:, None].expand(-1, 2)
    replay.add(Transitions(noise["obs"], noise["act"], signal, discount, noise["next_obs"]))
    return _steps(lambda: sac.learn(learner, replay.sample(sac.batch, rng), guide, rng))


# -- the usual structure: modules of torch, autograd, one Adam for the policy and one for each kind of critic ---------


def usual(delay: int):
    import torch
    from torch import nn
    from torch.distributions import Normal
    from torch.nn.functional import mse_loss, softplus

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def perceptron(inputs: int, outputs: int) -> nn.Sequential:
        sizes = [inputs, *HIDDEN]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))

    actor = perceptron(OBSERVATION, 2 * ACTION)
    critics = [perceptron(OBSERVATION + ACTION, 1) for _ in range(CRITICS)]
    targets = [perceptron(OBSERVATION + ACTION, 1) for _ in range(CRITICS)]
    kinds = [critics[:2], critics[2:]]
    adams = [torch.optim.Adam([p for net in nets for p in net.parameters()], lr=RATE) for nets in ([actor], *kinds)]
    replay, taken = transitions(), itertools.count(1)

    def step(nets, adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for net in nets for p in net.parameters()], GRAD_NORM)
        adam.step()

    def draw(obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(obs).chunk(2, dim=-1)
        policy = Normal(mean, log_std.clamp(-20.0, 2.0).exp())
        u = policy.rsample()
        log_slope = 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))
        return torch.tanh(u), (policy.log_prob(u) - log_slope).sum(-1)

    def values(nets, obs: Tensor, action: Tensor) -> list[Tensor]:
        both = torch.cat([obs, action], dim=-1)
        return [net(both)[:, 0] for net in nets]

    def one_step() -> None:
        index = torch.randint(ROWS, (BATCH,))
        batch = {name: x[index] for name, x in replay.items()}
        with torch.no_grad():
            action, log_prob = draw(batch["next_obs"])
            first, second, cost = values(targets, batch["next_obs"], action)
            keep = GAMMA * (1.0 - batch["done"])
            wanted_r = batch["reward"] + keep * (torch.minimum(first, second) - ALPHA * log_prob)
            wanted_c = batch["cost"] + keep * cost
        for nets, adam, wanted in zip(kinds, adams[1:], (wanted_r, wanted_c), strict=True):
            step(nets, adam, sum(mse_loss(q, wanted) for q in values(nets, batch["obs"], batch["act"])))
        if next(taken) % delay == 0:
            action, log_prob = draw(batch["obs"])
            first, second, cost = values(critics, batch["obs"], action)
            loss = ALPHA * log_prob - torch.minimum(first, second) + MULTIPLIER * cost
            step([actor], adams[0], loss.mean() / (1.0 + MULTIPLIER))
            with torch.no_grad():
                for slow, net in zip(targets, critics, strict=True):
                    for p, q in zip(slow.parameters(), net.parameters(), strict=True):
                        p.lerp_(q, POLYAK)

    return _steps(one_step)


# -- OmniSafe's own ---------------------------------------------------------------------------------------------------


def omnisafe(delay: int):
    """The update of OmniSafe's SACLag, its buffer filled with the same noise, an episode in its log."""
    import torch

    settings = {
        "train_cfgs": {"total_steps": ROWS, "torch_threads": 1, "vector_env_nums": 1, "eval_episodes": 0},
        "algo_cfgs": {"steps_per_epoch": ROWS, "size": ROWS, "batch_size": BATCH, "policy_delay": delay},
        "logger_cfgs": {"log_dir": tempfile.mkdtemp(dir=".")},  # in the referee's temporary folder
    }
    algorithm = peers.omnisafe().Agent("SACLag", "SafetyPointGoal1-v0", custom_cfgs=settings).agent
    noise = transitions()
    for i in range(ROWS):
        algorithm._buf.store(**{name: x[i : i + 1] for name, x in noise.items()})
    algorithm._logger.store({"Metrics/EpCost": 30.0, "Metrics/EpRet": 1.0, "Metrics/EpLen": 1000.0})
    torch.set_num_threads(1)
    return _steps(algorithm._update)


# -- the floor: what no implementation can leave out ------------------------------------------------------------------


def floor(delay: int):
    """Matrix products, ReLU and one fused Adam a network: no losses, no distribution, no replay, no autograd."""
    import torch

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)

    def network(inputs: int, outputs: int) -> list[Tensor]:
        sizes = [inputs, *HIDDEN, outputs]
        return [torch.randn(a, b, generator=rng) / a**0.5 for a, b in itertools.pairwise(sizes)]

    actor = network(OBSERVATION, 2 * ACTION)
    critics = [network(OBSERVATION + ACTION, 1) for _ in range(CRITICS)]
    targets = [network(OBSERVATION + ACTION, 1) for _ in range(CRITICS)]
    obs = torch.randn(BATCH, OBSERVATION, generator=rng)
    both = torch.randn(BATCH, OBSERVATION + ACTION, generator=rng)
    outward = {1: torch.randn(BATCH, 1, generator=rng), 4: torch.randn(BATCH, 4, generator=rng)}
    adam_critics = torch.optim.Adam([w for net in critics for w in net], lr=RATE, fused=True)
    adam_actor = torch.optim.Adam(actor, lr=RATE, fused=True)
    hidden = [[torch.empty(BATCH, width) for width in HIDDEN] for _ in range(CRITICS)]
    back, taken = [torch.empty(BATCH, width) for width in HIDDEN], itertools.count(1)

    def forward(net: list[Tensor], x: Tensor, into: list[Tensor]) -> None:
        for weight, h in zip(net, into, strict=False):
            x = torch.mm(x, weight, out=h).relu_()
        torch.mm(x, net[-1])

    def backward(net: list[Tensor], x: Tensor, values: list[Tensor], learn: bool) -> None:
        g = outward[net[-1].shape[1]]
        for at in range(len(net) - 1, -1, -1):
            if learn:
                net[at].grad = torch.mm((values[at - 1] if at else x).T, g)
            if at:
                g = torch.mm(g, net[at].T, out=back[at - 1]).mul_(values[at - 1].sign_())

    @torch.no_grad()
    def one_step() -> None:
        forward(actor, obs, hidden[0])
        for net in targets:
            forward(net, both, hidden[0])
        for net in critics:
            forward(net, both, hidden[0])
            backward(net, both, hidden[0], learn=True)
        adam_critics.step()
        if next(taken) % delay == 0:
            for net in critics:
                forward(net, both, hidden[0])
                backward(net, both, hidden[0], learn=False)
            forward(actor, obs, hidden[0])
            backward(actor, obs, hidden[0], learn=True)
            adam_actor.step()

    return _steps(one_step)


MAKERS = {"ours": ours, "usual": usual, "omnisafe": omnisafe, "floor": floor}


def _compared(delay: int, against: str, bar: float | None) -> Comparison:
    def ceiling(medians: Medians) -> float:
        return medians[f"floor, delay {delay}"]["per_cpu_s"] / medians[f"{against}, delay {delay}"]["per_cpu_s"]

    return Comparison(
        f"policy every {delay}, trueline / {against}",
        f"trueline, delay {delay}",
        "per_cpu_s",
        f"floor, delay {delay} / {against}, delay {delay}",
        ceiling,
        f"{against}, delay {delay}",
        at_least=bar,
    )


def plan(quick: bool) -> Plan:
    delays = (2,) if quick else (2, 1)
    sides = {"OmniSafe": "omnisafe", "trueline": "ours", "usual structure": "usual", "floor": "floor"}
    return Plan(
        unit="gradient steps",
        note="SAC-Lag on a replay of noise: batch 256, 60 observations, 2 actions, networks of 256-256 ReLU, two "
        "critics of the reward and one of the cost; the policy and the slow copies move with every second step of the "
        "critics, as OmniSafe has it, or with every one. Usual structure: modules and autograd of the same torch, "
        "three losses, three Adams. Floor: matrix products of forward and backward passes, ReLU and fused Adams, "
        "without losses, distribution, replay or slow copies. OmniSafe's figure includes its logger, as in its "
        "training.",
        contestants=[
            Contestant(f"{side}, delay {delay}", maker, {"delay": delay}, peer=maker == "omnisafe")
            for delay in delays
            for side, maker in sides.items()
        ],
        # The bar is for OmniSafe's own hyper-parameters.
        comparisons=[
            _compared(delay, against, 2.0 if (delay, against) == (2, "OmniSafe") else None)
            for delay in delays
            for against in ("OmniSafe", "usual structure")
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
