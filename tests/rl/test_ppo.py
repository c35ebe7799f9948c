"""PPO's joint update against separate networks with optimisers of their own, and on problems with a known optimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from toy_worlds import Bandit, Drift

from trueline.core.config import build
from trueline.rl.adam import FlatAdam
from trueline.rl.advantage import gae
from trueline.rl.collect import Collector
from trueline.rl.distributions import Choices, Gaussian
from trueline.rl.estimates import estimate, slack_of
from trueline.rl.handlers.constraint import Handler, normalised, unconstrained
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.on_policy import Constrained, Limited, OnPolicy, OnPolicyRecipe
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.updates.ppo import Ppo
from trueline.rl.updates.rows import Rows, Update
from trueline.safety.recipes.first_order import PDO, PG, PPO_PID

ROWS, WIDTH, ACTIONS, COSTS = 50, 4, 2, 2


def actor_critic() -> ActorCritic:
    """In float64, so that agreement with the reference is a matter of algebra and not of rounding."""
    observation = ObservationCodec.of(spaces.Box(-1, 1, (WIDTH,)))
    action = ActionCodec.of(spaces.Box(-1, 1, (ACTIONS,)))
    rng = torch.Generator().manual_seed(2)
    shape = {"hidden": (8, 8)}
    return ActorCritic(observation, action, COSTS, ActorNetwork(**shape), Network(**shape), rng).double()


def some_batch(network: ActorCritic) -> Rows[torch.Tensor]:
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    inputs = {"vector": normal(ROWS, WIDTH)}
    with torch.no_grad():
        policy = network.policy(network.encoder(inputs)).detach()
        draw = policy.sample(rng)
        # The policy has moved since it acted, so that the ratio is not 1 and some rows are clipped.
        log_prob = policy.log_prob(draw) + 0.2 * normal(ROWS)
    return Rows(inputs, draw, log_prob, policy, normal(ROWS), 3.0 * normal(ROWS, 1 + COSTS))


def separate(weights: Any, biases: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Reference:
    """Actor and 1 + K critics as separate modules, each with its own loss, gradient norm and Adam."""

    def __init__(self, network: ActorCritic, config: Ppo) -> None:
        self.config = config
        self.actor = separate(network.actor.weights, network.actor.biases)
        self.log_std = nn.Parameter(network.log_std.detach().clone())
        stack = network.critics
        self.critics = [
            separate([w[h].T for w in stack.weights], [b[h, 0] for b in stack.biases]) for h in range(1 + COSTS)
        ]
        self.actor_parameters = [*self.actor.parameters(), self.log_std]
        self.actor_adam = torch.optim.Adam(self.actor_parameters, lr=config.lr)
        self.critic_adams = [torch.optim.Adam(c.parameters(), lr=config.critic_lr) for c in self.critics]

    def step(self, batch: Rows[torch.Tensor], rows: torch.Tensor) -> None:
        c, x = self.config, batch.inputs["vector"][rows]
        policy = torch.distributions.Normal(self.actor(x), self.log_std.exp())
        ratio = (policy.log_prob(batch.draw[rows]).sum(-1) - batch.log_prob[rows]).exp()
        advantage = batch.advantage[rows]
        clipped = ratio.clamp(1 - c.clip, 1 + c.clip) if c.clip else ratio
        surrogate = torch.min(ratio * advantage, clipped * advantage).mean()
        self.actor_adam.zero_grad()
        (-surrogate - c.entropy * policy.entropy().sum(-1).mean()).backward()
        nn.utils.clip_grad_norm_(self.actor_parameters, c.grad_norm)
        self.actor_adam.step()
        for k, (critic, adam) in enumerate(zip(self.critics, self.critic_adams, strict=True)):
            adam.zero_grad()
            l2 = sum(p.square().sum() for p in critic.parameters())
            ((critic(x)[:, 0] - batch.target[rows, k]).square().mean() + c.critic_l2 * l2).backward()
            nn.utils.clip_grad_norm_(critic.parameters(), c.grad_norm)
            adam.step()

    def compare(self, network: ActorCritic, what: str) -> None:
        def value(p: torch.Tensor) -> torch.Tensor:
            return p.grad if what == "grad" else p.detach()

        linears = [m for m in self.actor if isinstance(m, nn.Linear)]
        pairs = [(value(network.log_std), value(self.log_std))]
        for layer, linear in enumerate(linears):
            pairs += [(value(network.actor.weights[layer]), value(linear.weight))]
            pairs += [(value(network.actor.biases[layer]), value(linear.bias))]
        for head, critic in enumerate(self.critics):
            for layer, linear in enumerate(m for m in critic if isinstance(m, nn.Linear)):
                stack = network.critics
                weight, bias = stack.weights[layer], stack.biases[layer]
                pairs += [(value(weight)[head].T, value(linear.weight)), (value(bias)[head, 0], value(linear.bias))]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("grad_norm", [40.0, 0.3])  # never reached; reached by every network
def test_one_minibatch_has_the_gradients_of_separate_networks(grad_norm: float) -> None:
    config = Ppo(passes=1, minibatch=ROWS, entropy=0.01, grad_norm=grad_norm, critic_l2=0.05)
    network = actor_critic()
    reference, batch = Reference(network, config), some_batch(network)
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    reference.step(batch, torch.arange(ROWS))
    reference.compare(network, "grad")


@pytest.mark.parametrize("clip", [0.2, None])  # the clipped surrogate; plain policy gradient
def test_many_steps_land_where_separate_optimisers_do(clip: float | None) -> None:
    config = Ppo(passes=4, minibatch=16, lr=1e-3, critic_lr=3e-3, target_kl=None, entropy=0.01, clip=clip)
    network = actor_critic()
    reference, batch = Reference(network, config), some_batch(network)
    start = {name: p.clone() for name, p in network.state_dict().items()}
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        order = torch.randperm(ROWS, generator=rng)
        for rows in order.split(16):  # the last minibatch holds the two that are left
            reference.step(batch, rows)
    reference.compare(network, "value")
    assert any(not torch.equal(p, start[name]) for name, p in network.state_dict().items())


def test_without_a_clip_rows_far_from_the_old_policy_are_pushed_on() -> None:
    # Its gradient is ρA∇log π at every row, whatever ρ is: where the policy has not moved, the policy gradient itself.
    network = actor_critic()
    batch = some_batch(network)
    policy = network.policy(network.encoder(batch.inputs))
    far = batch.log_prob - policy.log_prob(batch.draw).detach()
    assert (far.exp() > 1.2).any()
    (-far).exp().mul(batch.advantage).mul(policy.log_prob(batch.draw)).mean().backward()
    expected = [p.grad.clone() for p in network.actor_parameters()]
    config = Ppo(passes=1, minibatch=ROWS, clip=None)
    config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    for p, gradient in zip(network.actor_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, -gradient)  # the loss descends what the policy gradient ascends


def update(config: Ppo, progress: float = 0.5) -> tuple[Any, ...]:
    network = actor_critic()
    adam = config.optimiser(network)
    report = config.learn(network, adam, some_batch(network), progress, torch.Generator().manual_seed(0))
    return report, torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_report_is_what_the_final_policy_gives() -> None:
    config = Ppo(passes=3, minibatch=16, lr=3e-3, target_kl=None)
    network = actor_critic()
    batch = some_batch(network)
    report = config.learn(network, config.optimiser(network), batch, 0.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy = network.policy(network.encoder(batch.inputs))
    assert isinstance(policy, Gaussian)
    assert report.passes == 3
    assert report.kl == pytest.approx(batch.policy.kl(policy).mean().item(), rel=1e-6)
    assert report.entropy == pytest.approx(policy.entropy().mean().item(), rel=1e-6)


def test_it_stops_after_the_first_pass_whose_kl_is_above_the_target() -> None:
    free, _ = update(Ppo(passes=12, minibatch=16, lr=3e-3, target_kl=None))
    assert free.passes == 12
    stopped, _ = update(Ppo(passes=12, minibatch=16, lr=3e-3, target_kl=free.kl / 3))
    assert 1 < stopped.passes < 12
    assert stopped.kl > free.kl / 3
    before, _ = update(Ppo(passes=stopped.passes - 1, minibatch=16, lr=3e-3, target_kl=None))
    assert before.kl <= free.kl / 3


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("critic_schedule", ["linear", "constant"])
def test_each_rate_follows_its_schedule(schedule: str, critic_schedule: str) -> None:
    config = Ppo(lr=3e-4, critic_lr=1e-3, schedule=schedule, critic_schedule=critic_schedule)
    adam = config.optimiser(actor_critic())
    for progress in (0.0, 0.25, 1.0):
        config.set_rates(adam, progress)
        left = {"linear": 1 - progress, "constant": 1.0}
        rates = [group.lr for group in adam.groups]
        np.testing.assert_allclose(rates, [3e-4 * left[schedule], 1e-3 * left[critic_schedule]])


# --- with the collector and the estimator ---


def learner(world: Any, steps: int, config: OnPolicy) -> tuple[ActorCritic, Collector, FlatAdam]:
    observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    shape = {"hidden": (16,)}
    rng = torch.Generator().manual_seed(5)
    network = ActorCritic(observation, action, len(world.costs), ActorNetwork(**shape), Network(**shape), rng)
    collector = Collector(world, observation, steps, action.width)
    collector.start()
    return network, collector, config.update.optimiser(network)


def test_advantages_bootstrap_from_final_observations_where_time_cut_an_episode(torch_rng: torch.Generator) -> None:
    config = OnPolicy(gamma=0.9, cost_gamma=0.8, lam=0.7, cost_lam=0.6)
    network, collector, _ = learner(Drift(4), 30, config)
    batch = collector.collect(network, torch_rng)
    weights = normalised(torch.tensor([0.5, 2.0]))
    rows = estimate(batch, network, config, weights)

    def v(vector: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network.values(network.features({"vector": vector[None]}))[0]

    cut = zip(batch.finals.t.tolist(), batch.finals.i.tolist(), batch.finals.inputs["vector"], strict=True)
    finals = {(t, i): x for t, i, x in cut}
    vector = batch.inputs["vector"]
    value = torch.stack([torch.stack([v(vector[t, i]) for i in range(4)]) for t in range(31)])
    next_value = value[1:].clone()
    for t in range(30):
        for i in range(4):
            if batch.terminated[t, i]:
                next_value[t, i] = 0.0
            elif batch.truncated[t, i]:
                next_value[t, i] = v(finals[t, i])
    assert len(finals) > 2
    assert batch.terminated.sum() > 2
    ended = (batch.terminated + batch.truncated)[..., None]
    advantage = torch.cat(
        [
            gae(signal, value[:-1, :, k : k + 1], next_value[..., k : k + 1], ended, gamma, lam)
            for k, (signal, gamma, lam) in enumerate(
                [(batch.reward[..., None], 0.9, 0.7), *[(batch.cost[..., k : k + 1], 0.8, 0.6) for k in range(2)]]
            )
        ],
        dim=-1,
    )
    torch.testing.assert_close(rows.target, (advantage + value[:-1]).flatten(0, 1), rtol=1e-4, atol=1e-5)
    a_r = (advantage[..., 0] - advantage[..., 0].mean()) / advantage[..., 0].std(correction=0)
    a_c = advantage[..., 1:] - advantage[..., 1:].mean(dim=(0, 1))
    mixed = (a_r - 0.5 * a_c[..., 0] - 2.0 * a_c[..., 1]) / 3.5
    torch.testing.assert_close(rows.advantage, mixed.flatten(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        policy = network.policy(network.features({"vector": vector[:-1].flatten(0, 1)}))
    torch.testing.assert_close(rows.log_prob, policy.log_prob(batch.draw.flatten(0, 1)))


# --- one state and three arms, every arm as often in the batch as the policy plays it ---

OLD = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def one_state() -> ActorCritic:
    """A table of three logits, at OLD."""
    observation, action = ObservationCodec.of(spaces.Box(0, 1, (1,))), ActionCodec.of(spaces.Discrete(3))
    rng = torch.Generator().manual_seed(5)
    network = ActorCritic(observation, action, 1, ActorNetwork(hidden=()), Network(hidden=()), rng).double()
    with torch.no_grad():
        network.actor.weights[0].zero_()
        network.actor.biases[0].copy_(OLD.log())
    return network


def every_arm(network: ActorCritic, advantage: Callable[[torch.Tensor], Any]) -> Rows[Any]:
    """Ten rows whose mean over ρ·f(a) is the expectation of f under π exactly; `advantage` of their arms [10]."""
    arm = torch.repeat_interleave(torch.arange(3), (10 * OLD).round().long())
    inputs = {"vector": torch.ones(10, 1, dtype=torch.float64)}
    with torch.no_grad():
        policy = network.policy(network.encoder(inputs)).detach()
    draw = arm[:, None].double()
    return Rows(inputs, draw, policy.log_prob(draw), policy, advantage(arm), torch.zeros(10, 2, dtype=torch.float64))


def probabilities(network: ActorCritic) -> torch.Tensor:
    with torch.no_grad():
        policy = network.policy(network.encoder({"vector": torch.ones(1, 1, dtype=torch.float64)}))
    assert isinstance(policy, Choices)
    return policy.logits[0][0].exp()


# --- training on a bandit whose optimum is known ---

LIMIT = 0.3


class Played(NamedTuple):
    """Arms' probabilities [epochs, 3] and the multiplier [epochs] after each update, and the average of the last."""

    arms: torch.Tensor
    multiplier: torch.Tensor

    def settled(self) -> list[float]:
        # The iterates of a dual method oscillate, their average converges.
        return self.arms[-50:].mean(0).tolist()


def play(
    update: Update,
    rng: torch.Generator,
    epochs: int = 120,
    handler: Handler | None = None,
    standardise: Literal["reward", "mix"] = "reward",
    **settings: Any,
) -> Played:
    """Training on the bandit, 256 pulls an epoch, under a mean cost of at most LIMIT where costs count at all."""
    kind = Constrained if handler else Limited if update.takes == "slack" else OnPolicy
    config = OnPolicyRecipe("row", kind, update=update).Config(standardise=standardise, **settings)
    network, collector, adam = learner(Bandit(64), 4, config)
    limit = torch.tensor([LIMIT], dtype=torch.float64)
    state = handler.start(1) if handler else {}
    arms, multipliers = [], []
    for _ in range(epochs):
        batch = collector.collect(network, rng)
        if handler:
            state = handler.update(state, torch.as_tensor(batch.episode_cost), limit)
        weights = handler.weights(state) if handler else unconstrained(1)
        slack = slack_of(batch.episode_cost, batch.episode_length, limit)
        update.learn(network, adam, estimate(batch, network, config, weights, slack), 0.0, rng)
        with torch.no_grad():
            policy = network.policy(network.features({"vector": torch.ones(1, 1)}))
        assert isinstance(policy, Choices)
        arms.append(policy.logits[0][0].exp())
        multipliers.append(float(state["multiplier"]) if handler else 0.0)
    return Played(torch.stack(arms), torch.tensor(multipliers))


STEPS = {"passes": 4, "minibatch": 128, "schedule": "constant", "target_kl": None}


@pytest.mark.parametrize("clip", [0.2, None])
def test_it_finds_the_best_arm(clip: float | None, torch_rng: torch.Generator) -> None:
    played = play(Ppo(**STEPS, lr=1e-2, critic_lr=1e-2, clip=clip), torch_rng, 25)
    assert played.arms[-1, 1] > 0.95


@pytest.mark.parametrize("clip", [0.2, None])
def test_with_a_multiplier_it_finds_the_best_mixture_under_the_limit(
    clip: float | None, torch_rng: torch.Generator
) -> None:
    # Arm 1 pays 1 and costs 1, arm 2 pays 0.8 and costs nothing. Under a mean cost of 0.3 the optimum plays arm 1 with
    # probability 0.3 and arm 2 with 0.7: no deterministic policy is optimal. There, arm 1's extra pay of 0.2 in
    # units of the reward's deviation, √(0.5² + 0.2²·0.3·0.7) = 0.508, balances λ·1: λ* = 0.39.
    handler = PidLagrangian(kp=2.0, ki=0.05, kd=0.0, smoothing=0.0)
    played = play(Ppo(**STEPS, lr=1e-3, critic_lr=1e-3, clip=clip), torch_rng, handler=handler)
    assert played.settled() == pytest.approx([0.0, 0.3, 0.7], abs=0.05)
    assert played.multiplier[-50:].mean() == pytest.approx(0.39, abs=0.08)


def test_the_rows_without_a_clip_and_under_a_controller_have_the_published_settings() -> None:
    def settings(row: OnPolicyRecipe, preset: str = "faithful") -> Any:
        return build(row.Config, row.presets[preset])

    assert settings(PG).update == Ppo(clip=None, passes=10, minibatch=64, lr=3e-4, target_kl=0.02)
    assert settings(PG, "safepo").update.passes == 40
    assert settings(PDO).update == Ppo(clip=None, passes=40)
    assert settings(PDO).constraint == Lagrangian(rule="adam", lr=0.035, init=0.001, upper=None)
    pid = PidLagrangian(kp=0.1, ki=0.01, kd=0.01, delay=10, smoothing=0.95, init=0.001)
    assert settings(PPO_PID).constraint == pid
    assert settings(PPO_PID).update == Ppo()
    assert (settings(PPO_PID, "safepo").window, settings(PPO_PID, "safepo").num_envs) == (50, 10)
    for row in (PG, PDO, PPO_PID):
        settings(row, "fast")
