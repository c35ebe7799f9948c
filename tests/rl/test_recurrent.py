"""Policies with a memory: equations against torch's, single steps against whole sequences, and a task to recall."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from toy_worlds import SavedDrift

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.collect import Collector
from trueline.rl.env import Step
from trueline.rl.estimates import estimate
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.exact.tables import policy_table
from trueline.rl.exact.world import make as exact_world
from trueline.rl.handlers.constraint import unconstrained
from trueline.rl.networks import ActorNetwork, Network
from trueline.rl.on_policy import OnPolicy, Trainer
from trueline.rl.policy import NetworkPolicy, load
from trueline.rl.recurrent import Gru, RecurrentActorCritic, StackedGru, segments, sequences
from trueline.rl.spaces import ActionCodec, ObservationCodec
from trueline.safety.recipes import first_order, ppo, trust_region


class Recall:
    """A cue of ±1 in the first observation, nothing after it; the action a of the fifth step has to know it.

    That step pays −(a − 0.8·cue)², and costs 1 + a where the cue is 1. The best action recalled is ±0.8, with a return
    of 0; without a memory it is 0, with −0.64. Under a mean cost of 0.6 the best is 0.2 and −0.8, with a return of
    −½·0.6² = −0.18, and λ* = 2·(0.8 − 0.2) = 1.2.
    """

    id = "recall"
    costs: tuple[str, ...] = ("effort",)
    max_episode_steps = 5

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(3)
        self.seed_source: Any = lambda n: own.integers(0, 2**31, n, dtype=np.uint32)
        self.t = np.zeros(num_envs, np.int64)

    @property
    def cue(self):
        return 2.0 * ((self.episode_seed // 4) % 2) - 1.0

    def _observe(self):
        shown = np.where(self.t == 0, self.cue, 0.0)
        return np.column_stack([shown, self.t == 4]).astype(np.float32)

    def reset(self, seeds=None):
        self.episode_seed[:] = self.seed_source(self.num_envs) if seeds is None else seeds
        self.t[:] = 0
        return self._observe()

    def step(self, actions):
        last, a = self.t == 4, actions[:, 0].astype(np.float64).clip(-1.0, 1.0)
        reward = -np.where(last, np.square(a - 0.8 * self.cue), 0.0)
        cost = np.where(last & (self.cue > 0.0), 1.0 + a, 0.0)[:, None]
        final_obs = self._observe()
        self.t += 1
        ended = np.flatnonzero(last)
        self.episode_seed[ended] = self.seed_source(len(ended))
        self.t[ended] = 0
        return Step(self._observe(), reward, cost, last, np.zeros_like(last), final_obs)

    def close(self):
        pass


def recall(id, num_envs, threads=1):
    return Recall(num_envs)


def drift(id, num_envs, threads=1):
    return SavedDrift(num_envs)


@pytest.fixture(autouse=True)
def _toys():
    registry.add(Entry("env", "Recall-v0", "test_recurrent:recall", "for tests"), "tests")
    registry.add(Entry("env", "Recurrent-Drift-v0", "test_recurrent:drift", "for tests"), "tests")


# -- equations --------------------------------------------------------------------------------------------------------


def test_units_are_torchs_own(torch_rng):
    ours = StackedGru(2, 3, 4, torch_rng)
    x, memory = torch.randn(6, 5, 3, generator=torch_rng), torch.randn(5, 8, generator=torch_rng)
    found = ours(x, memory, torch.zeros(6, 5))
    for head in range(2):
        theirs = nn.GRU(3, 4)
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(ours.from_input[head].T)
            theirs.weight_hh_l0.copy_(ours.from_memory[head].T)
            theirs.bias_ih_l0.copy_(ours.input_bias[head, 0])
            theirs.bias_hh_l0.copy_(ours.memory_bias[head, 0])
        own = slice(4 * head, 4 * head + 4)
        torch.testing.assert_close(
            found[..., own], theirs(x, memory[None, :, own].contiguous())[0], rtol=1e-5, atol=1e-6
        )


def test_an_episode_that_begins_has_forgotten_everything(torch_rng):
    unit = StackedGru(1, 3, 4, torch_rng)
    x, memory = torch.randn(6, 2, 3, generator=torch_rng), torch.randn(2, 4, generator=torch_rng)
    begins = torch.zeros(6, 2)
    begins[3, 0] = 1.0
    found = unit(x, memory, begins)
    anew = unit(x[3:], torch.zeros(2, 4), torch.zeros(3, 2))
    torch.testing.assert_close(found[3:, 0], anew[:, 0])
    torch.testing.assert_close(found[:, 1], unit(x, memory, torch.zeros(6, 2))[:, 1])


def test_segments_are_each_environments_steps_in_order():
    x = torch.arange(24).view(6, 4)  # 6 steps of 4 environments
    found = segments(x, 3)
    assert found.tolist() == [[i + 4 * (t + 3 * k) for t in range(3)] for k in range(2) for i in range(4)]


# -- step by step and whole sequences ---------------------------------------------------------------------------------


def network_of(env, rng, memory=None, **actor):
    return RecurrentActorCritic(
        ObservationCodec.of(env.observation_space), ActionCodec.of(env.action_space), len(env.costs),
        ActorNetwork(hidden=(6,), **actor), Network(hidden=(5,)), memory or Gru(width=4, segment=5), rng,
    )  # fmt: skip


def collected(torch_rng, collections=2):
    """Two collections of a world whose episodes end both ways, with what the policy was at every step."""
    env = SavedDrift(3)
    network = network_of(env, torch_rng)
    collector = Collector(env, ObservationCodec.of(env.observation_space), 20, 2)
    collector.start()
    batches = []
    for _ in range(collections):
        seen, original = [], network.policy
        network.policy = lambda features, seen=seen, original=original: seen.append(features) or original(features)
        batch = collector.collect(network, torch_rng)
        del network.policy
        log_prob = torch.stack([network.policy(f).log_prob(batch.draw[t]) for t, f in enumerate(seen)])
        batches.append((batch, torch.stack(seen), log_prob.detach()))
    return network, batches


@torch.no_grad()
def test_whole_sequences_give_the_log_probabilities_that_single_steps_gave(torch_rng):
    network, batches = collected(torch_rng)
    batch, features, log_prob = batches[-1]  # its memory began in the collection before it
    assert batch.memory is not None
    assert float(batch.memory.abs().max()) > 0.0
    assert batch.terminated.any()
    assert len(batch.finals.t)
    seen = sequences(network, batch)
    torch.testing.assert_close(seen.features, segments(features, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        network.policy(seen.features).log_prob(segments(batch.draw, 5)), segments(log_prob, 5), rtol=0, atol=1e-6
    )
    # The encoder as an update calls it, on segments drawn in another order.
    order = torch.randperm(12, generator=torch_rng)
    again = network.encoder({name: x[order] for name, x in seen.inputs.items()})
    torch.testing.assert_close(again, seen.features[order], rtol=0, atol=1e-6)


@torch.no_grad()
def test_values_after_the_last_step_and_of_cut_episodes_have_the_memory_of_their_episode(torch_rng):
    network, batches = collected(torch_rng)
    batch, features, _ = batches[-1]
    seen = sequences(network, batch)
    ended = batch.terminated + batch.truncated
    after = features[-1] * (1.0 - ended[-1])[:, None]
    last = {"vector": batch.inputs["vector"][20]}
    torch.testing.assert_close(seen.after, network.values(network.features(last, after)), rtol=0, atol=1e-6)
    for f, (t, i) in enumerate(zip(batch.finals.t, batch.finals.i, strict=True)):
        one = {"vector": batch.finals.inputs["vector"][f : f + 1]}
        wanted = network.values(network.features(one, features[t, i][None]))[0]
        torch.testing.assert_close(seen.finals[f], wanted, rtol=0, atol=1e-6)
    # And they do not come out right without a memory.
    assert (seen.after - network.values(network.features(last))).abs().max() > 1e-4


def test_rows_of_segments_hold_what_rows_of_steps_do(torch_rng):
    network, batches = collected(torch_rng, 1)
    batch, _, log_prob = batches[0]
    config = OnPolicy(gamma=0.9, lam=0.8, cost_gamma=0.7, cost_lam=0.6)
    rows = estimate(batch, network, config, unconstrained(2))
    assert rows.log_prob.shape == (12, 5)
    assert rows.advantage.shape == (12, 5)
    assert rows.target.shape == (12, 5, 3)
    torch.testing.assert_close(rows.log_prob, segments(log_prob, 5), rtol=0, atol=1e-6)
    # Returns by hand, λ = 1: what follows in the episode, and the value where time or the collection cut it off.
    whole = estimate(batch, network, OnPolicy(gamma=0.9, lam=1.0), unconstrained(2))
    with torch.no_grad():
        seen = sequences(network, batch)
    wanted, carry = torch.zeros(20, 3), seen.after[:, 0].clone()
    cut = {
        (int(t), int(i)): float(v) for t, i, v in zip(batch.finals.t, batch.finals.i, seen.finals[:, 0], strict=True)
    }
    for t in range(19, -1, -1):
        for i in range(3):
            if batch.terminated[t, i]:
                carry[i] = 0.0
            elif batch.truncated[t, i]:
                carry[i] = cut[t, i]
            carry[i] = batch.reward[t, i] + 0.9 * carry[i]
        wanted[t] = carry
    torch.testing.assert_close(whole.target[..., 0], segments(wanted, 5), rtol=1e-4, atol=1e-4)


# -- a task to recall -------------------------------------------------------------------------------------------------

QUICK = {
    "env": "Recall-v0",
    "num_envs": 32,
    "steps_per_epoch": 640,
    "total_steps": 640 * 45,
    "gamma": 1.0,
    "cost_gamma": 1.0,
    "lam": 1.0,
    "cost_lam": 1.0,
    "actor": {"hidden": [], "log_std": -1.0},
    "critic": {"hidden": []},
    "update": {"passes": 4, "minibatch": 320, "lr": 0.02, "critic_lr": 0.02, "target_kl": None},
    "checkpoint_epochs": 1000,
}
MEMORY = {"memory": {"kind": "gru", "width": 8, "segment": 5}}


def trained(tmp_path, row, given, id="run", inputs=None):
    config = build(row.Config, given)
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=0, id=id) as run:
        return row.train(config, run, inputs or {})


def outcome(policy, episodes=400):
    """Mean return and cost of the mean action."""
    found = run_episodes(Recall(50), range(episodes), lambda _: policy_actions(policy, np.random.default_rng(0), True))
    return float(found.episode_return.mean()), float(found.cost.mean())


def test_what_was_seen_first_is_recalled_at_the_end(tmp_path):
    assert outcome(trained(tmp_path, ppo.PPO, {**QUICK, **MEMORY}))[0] > -0.03


def test_without_a_memory_one_action_has_to_do_for_both_cues(tmp_path):
    found = outcome(trained(tmp_path, ppo.PPO, {**QUICK, "total_steps": 640 * 20}))[0]
    assert found == pytest.approx(-0.64, abs=0.05)


def test_under_a_limit_the_best_action_recalled_is_found(tmp_path):
    pid = {"kind": "pid", "kp": 1.0, "ki": 0.1, "kd": 0.0, "smoothing": 0.5, "init": 1.0}
    given = {**QUICK, **MEMORY, "cost_limit": 0.6, "window": 128, "standardise": "mix", "constraint": pid}
    episode_return, cost = outcome(trained(tmp_path, ppo.PPO_LAG, {**given, "averaged_share": 0.2}))
    assert cost == pytest.approx(0.6, abs=0.05)
    assert episode_return == pytest.approx(-0.18, abs=0.05)


# -- the loop ---------------------------------------------------------------------------------------------------------

TINY = {
    "env": "Recurrent-Drift-v0",
    "num_envs": 4,
    "steps_per_epoch": 80,
    "total_steps": 320,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
    "update": {"passes": 2, "minibatch": 40},
    "memory": {"kind": "gru", "width": 6, "segment": 10},
    "checkpoint_epochs": 1,
}
FIRST_ORDER = [
    ppo.PPO, ppo.PPO_LAG, *(getattr(first_order, name) for name in first_order.__all__ if name != "ON_CRPO")
]  # fmt: skip


def logged(tmp_path, id="run"):
    lines = [json.loads(line) for line in (tmp_path / id / "metrics.jsonl").read_text().splitlines()]
    return [{key: x for key, x in line.items() if not key.startswith("time/")} for line in lines]


@pytest.mark.parametrize("row", FIRST_ORDER, ids=lambda row: row.name)
def test_every_first_order_row_learns_with_a_memory(row, tmp_path):
    config = build(row.Config, {**TINY, "total_steps": 160})
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=0, id="run") as run:
        trainer = Trainer(config, run, {})
        before = {name: p.clone() for name, p in trainer.network.named_parameters()}
        policy = trainer.train()
    assert isinstance(policy.network, RecurrentActorCritic)
    for name, p in policy.network.named_parameters():
        assert torch.isfinite(p).all(), name
        assert not torch.equal(p, before[name]), name


def test_policy_and_values_share_no_parameter(torch_rng):
    network = network_of(SavedDrift(2), torch_rng)
    obs = {"vector": torch.randn(3, 3, generator=torch_rng)}
    for output, idle in ((network.policy, 1), (network.values, 0)):
        network.zero_grad()
        found = output(network.features(obs, torch.randn(3, 8, generator=torch_rng)))
        (found if isinstance(found, torch.Tensor) else found.mean).sum().backward()
        for p in network.encoder.units.parameters():
            assert not p.grad[idle].any()
            assert p.grad[1 - idle].any()


def test_a_resumed_run_goes_on_bit_by_bit(tmp_path):
    trained(tmp_path, ppo.PPO_LAG, TINY, "whole")
    config = build(ppo.PPO_LAG.Config, TINY)
    with Run.create(tmp_path, kind="train", name="ppo-lag", config=config, seed=0, id="stopped") as run:
        stopped = Trainer(config, run, {})
        stopped.collector.start()
        for _ in range(2):
            stopped.one_epoch()
        assert stopped.collector.memory.abs().max() > 0.0  # episodes are running
        run.save(stopped.total_steps, stopped.state_dict())
    with Run.reopen(tmp_path / "stopped") as run:
        Trainer(config, run, {}).train()
    assert logged(tmp_path, "stopped") == logged(tmp_path, "whole")


def test_a_saved_policy_remembers_as_the_trained_one_does(tmp_path):
    policy = trained(tmp_path, ppo.PPO, TINY)
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    obs = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    memories = [None, None]
    for t in range(6):
        acts = []
        for j, each in enumerate((policy, again)):
            action, memories[j] = each.act(obs[t], memories[j], np.random.default_rng(t))
            acts.append(action)
        np.testing.assert_array_equal(*acts)
    forgotten, _ = again.act(obs[5], None, np.random.default_rng(5))
    assert np.abs(forgotten - acts[1]).max() > 1e-4
    second = trained(tmp_path, ppo.PPO, {**TINY, "total_steps": 80}, "second", {"policy": policy})
    assert isinstance(second, NetworkPolicy)
    with pytest.raises(ConfigError, match="other network shapes"):
        trained(tmp_path, ppo.PPO, {**TINY, "memory": "none"}, "third", {"policy": policy})


def test_what_no_memory_goes_with_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="knows of no memory"):
        build(trust_region.TRPO.Config, {"memory": {"kind": "gru"}})
    with pytest.raises(ConfigError, match="does not divide the 20 steps"):
        build(ppo.PPO.Config, {**TINY, "memory": {"kind": "gru", "segment": 7}})
    given = {**TINY, "env": "Cmdp-Gamble-v0", "steps_per_epoch": 80}
    policy = trained(tmp_path, ppo.PPO, given)
    with pytest.raises(ConfigError, match="no table of time and state"):
        policy_table(policy, exact_world("Cmdp-Gamble-v0"))
