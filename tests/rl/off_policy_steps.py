"""Networks, rows of noise, and torch's own modules beside ours: what the tests of SAC and TD3 share."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch

from trueline.rl.handlers.constraint import Weights
from trueline.rl.networks import Mlp, StackedMlp
from trueline.rl.off_policy.networks import ActorQ, Guide, Learner, QNetwork, Shape
from trueline.rl.off_policy.replay import Transitions
from trueline.rl.spaces import ActionCodec, ObservationCodec

WIDTH, ROWS, COSTS = 5, 12, 2
GUIDE = Guide(Weights(torch.tensor(0.6, dtype=torch.float64), torch.tensor([0.3, 0.1], dtype=torch.float64)),
              torch.tensor([0.5, 0.5], dtype=torch.float64))  # fmt: skip


def network(update, torch_rng, action=None, costs=COSTS, hidden=(8, 6)):
    net = QNetwork(hidden=hidden)
    shape = Shape(update.twins, ("a", "b")[:costs], net, net, update.stochastic, False)
    observation = ObservationCodec.of(gym.spaces.Box(-np.inf, np.inf, (WIDTH,)))
    return ActorQ(observation, ActionCodec.of(action or gym.spaces.Box(-1.0, 1.0, (2,))), shape, torch_rng)


def transitions(torch_rng, discrete=False, costs=COSTS):
    """Rows of noise, some of which ended."""
    action = torch.rand(ROWS, 2, generator=torch_rng) * 2.0 - 1.0
    if discrete:
        action = torch.randint(3, (ROWS, 1), generator=torch_rng).float()
    discount = torch.tensor([0.9, 0.8, 0.7][: 1 + costs]) * (torch.rand(ROWS, 1, generator=torch_rng) > 0.3)
    signal = torch.randn(ROWS, 1 + costs, generator=torch_rng)
    obs, after = torch.randn(2, ROWS, WIDTH, generator=torch_rng)
    return Transitions(obs, action, signal, discount, after)


@dataclass
class Plain:
    """The same networks as torch modules of their own, with an Adam of torch's for policy and critics."""

    actor: Mlp
    critics: StackedMlp
    slow_actor: Mlp
    slow_critics: StackedMlp
    adam_actor: torch.optim.Adam
    adam_critics: torch.optim.Adam

    @classmethod
    def of(cls, learner: Learner, lr: float, critic_lr: float) -> Plain:
        """Copies of what the learner holds, before its first step."""
        actor, critics, slow_actor, slow_critics = (
            deepcopy_of(module)
            for module in (learner.network.actor, learner.network.critics,
                           learner.target_actor.module, learner.target_critics.module)
        )  # fmt: skip
        adams = torch.optim.Adam(actor.parameters(), lr=lr), torch.optim.Adam(critics.parameters(), lr=critic_lr)
        return cls(actor, critics, slow_actor, slow_critics, *adams)

    def step(self, adam, loss):
        for module in (self.actor, self.critics):
            module.zero_grad()
        loss.backward()
        adam.step()

    def follow(self, rate):
        with torch.no_grad():
            for slow, fast in ((self.slow_actor, self.actor), (self.slow_critics, self.critics)):
                for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                    p.copy_((1.0 - rate) * p + rate * q)

    def assert_equal(self, learner: Learner) -> None:
        pairs = [
            (self.actor, learner.network.actor),
            (self.critics, learner.network.critics),
            (self.slow_actor, learner.target_actor.module),
            (self.slow_critics, learner.target_critics.module),
        ]
        for mine, theirs in pairs:
            for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-5)


def deepcopy_of(module):
    """A copy with storage of its own that takes gradients."""
    made = deepcopy(module)
    for p in made.parameters():
        p.data = p.data.clone()
        p.grad = None
        p.requires_grad_(True)
    made._layers = list(zip(made.weights, made.biases, strict=True))
    return made
