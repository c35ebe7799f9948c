"""One batch of a bandit through both call sites: the loop of `rl/` and the language wing's."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from trueline.language.estimators import Gae, token_weights
from trueline.language.online import SAFE_RLHF_HANDLER, policy_loss
from trueline.language.rollout import Rollout
from trueline.language.scores import Scores
from trueline.language.signals import episode_cost, signals_of
from trueline.rl.adam import FlatAdam
from trueline.rl.collect import Batch, Finals
from trueline.rl.estimates import estimate
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.on_policy import Constrained
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.rl.updates.ppo import Ppo

PULLS, ARMS, COSTS = 64, 5, 2
LIMIT = torch.tensor([0.2, 0.5], dtype=torch.float64)


@pytest.fixture
def pulls():
    """Arms drawn, rewards and costs, of one step each."""
    rng = np.random.default_rng(0)
    arm = rng.integers(ARMS, size=PULLS)
    reward = torch.tensor(rng.normal(size=PULLS), dtype=torch.float32)
    cost = torch.tensor(rng.random((PULLS, COSTS)), dtype=torch.float32)
    return arm, reward, cost


@pytest.fixture
def policy():
    torch.manual_seed(0)
    space = Box(-1.0, 1.0, (1,))
    return ActorCritic(
        ObservationCodec.of(space),
        ActionCodec.of(Discrete(ARMS)),
        COSTS,
        ActorNetwork(hidden=(8,)),
        Network(hidden=(8,)),
        torch.Generator().manual_seed(1),
    )


@pytest.mark.parametrize(
    "handler", [SAFE_RLHF_HANDLER, Lagrangian(init=0.4), PidLagrangian(kp=1.0)], ids=["log-sgd", "adam", "pid"]
)
def test_ppo_lag_on_a_bandit_and_on_a_token_bandit_are_one(pulls, policy, handler):
    arm, reward, cost = pulls
    # --- the loop of rl/: N environments, one step, every episode over
    batch = Batch(
        inputs={"vector": torch.randn(2, PULLS, 1, generator=torch.Generator().manual_seed(3))},
        draw=torch.tensor(arm, dtype=torch.float32)[None, :, None],
        reward=reward[None],
        cost=cost[None],
        terminated=torch.ones(1, PULLS),
        truncated=torch.zeros(1, PULLS),
        finals=Finals(np.zeros(0, np.int64), np.zeros(0, np.int64), {}),
        memory=None,
        episode_return=reward.double().numpy(),
        episode_cost=cost.double().numpy(),
        episode_length=np.ones(PULLS, dtype=np.int64),
        episode_seed=np.zeros(PULLS, dtype=np.uint32),
    )
    state = handler.update(handler.start(COSTS), torch.as_tensor(batch.episode_cost), LIMIT)
    config = Constrained(constraint=handler, standardise="mix", gamma=1.0, cost_gamma=1.0)
    rows = estimate(batch, policy, config, handler.weights(state))

    # --- the language wing: prompt of one token, reply of one token, the critic's numbers the same
    tokens = torch.stack([torch.zeros(PULLS, dtype=torch.int64), torch.as_tensor(arm)], dim=1)
    sampled = torch.tensor([[False, True]]).expand(PULLS, 2)
    log_prob = torch.stack([torch.zeros(PULLS), rows.log_prob], dim=1)
    ended = torch.ones(PULLS, dtype=torch.bool)
    rollout = Rollout(tokens, torch.ones_like(sampled), sampled, log_prob, torch.arange(PULLS), ended, ("",) * PULLS)
    placed = torch.zeros(PULLS, 2, 1 + COSTS)
    placed[:, 1] = torch.cat([reward[:, None], cost], dim=1)
    scores = Scores(placed[..., 0], placed[..., 1:], torch.zeros(PULLS, dtype=torch.bool))
    signals = signals_of(rollout, scores)
    with torch.no_grad():
        seen = policy.values(policy.encoder(rows.inputs))
    value = torch.stack([torch.zeros(PULLS, 1 + COSTS), seen], dim=1)
    ours = handler.update(handler.start(COSTS), episode_cost(scores).double(), LIMIT)
    for name, tensor in handler.weights(ours)._asdict().items():
        torch.testing.assert_close(tensor, getattr(handler.weights(state), name), rtol=0, atol=1e-12)
    gae = Gae()
    estimates = gae.estimates(signals, value)
    advantage = gae.mixed(signals, estimates, handler.weights(ours))
    torch.testing.assert_close(advantage[:, 1], rows.advantage, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(estimates.target[:, 1], rows.target, rtol=1e-6, atol=1e-6)

    # --- the surrogate, away from ratio 1 so that clipping counts
    moved = rows.log_prob + 0.4 * torch.randn(PULLS, generator=torch.Generator().manual_seed(4))
    rows.log_prob = moved
    update = Ppo(passes=1, minibatch=PULLS, target_kl=None)
    adam: FlatAdam = update.optimiser(policy)
    with torch.no_grad():
        now = policy.policy(policy.encoder(rows.inputs)).log_prob(rows.draw)
    report = update.learn(policy, adam, rows, 0.0, torch.Generator().manual_seed(0))
    weight = token_weights(sampled, "dapo", 1)
    shift = [torch.stack([torch.zeros(PULLS), x], dim=1) for x in (now, moved)]
    loss = policy_loss(*shift, advantage, weight, 0.2)
    assert float(loss) == pytest.approx(report.policy_loss, rel=1e-5)
    ratio = (now - moved).exp()
    assert ((ratio - 1).abs() > 0.2).any(), "the clip did not count"
