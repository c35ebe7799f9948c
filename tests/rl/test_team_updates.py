"""What a team's updates are made of: statistics of targets, factors of those before, estimates."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from team_cases import a_game, a_team, on

from trueline.core import registry
from trueline.core.config import build
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl.multi_agent import as_one
from trueline.rl.networks import Network
from trueline.rl.spaces import ObservationCodec
from trueline.rl.teams.estimates import estimate, signals_of
from trueline.rl.teams.exact import WORLD, Game
from trueline.rl.teams.networks import CentralCritic, TargetNorm, Team, columns_of
from trueline.rl.teams.training import (
    ConstrainedTeam,
    LimitedTeam,
    TeamSettings,
    TeamTrainer,
)
from trueline.rl.teams.updates import (
    Happo,
    Macpo,
    Mappo,
    ValueFit,
    critic_optimiser,
    fit_values,
    learn_in_turn,
    learn_together,
    passed_on,
    reckoned,
)
from trueline.rl.updates.rows import Rows, SlackAdvantage

if WORLD not in {entry.name for entry in registry.entries("multi-agent env")}:
    registry.add(Entry("multi-agent env", WORLD, "trueline.rl.teams.exact:make_game", "a game given by its tables"))


# --- statistics of targets ---


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), st.floats(0.0, 0.99))
@settings(max_examples=30, deadline=None)
def test_statistics_of_targets_are_weighted_moments(shift, memory):
    rng = np.random.default_rng(1)
    norm = TargetNorm(3)
    batches = [torch.as_tensor(rng.normal(size=(20, 3)) * [1e-1, 1.0, 1e3] + shift) for _ in range(4)]
    for batch in batches:
        norm.update(batch, memory)
    # Each of four collections of equal size has the weight (1 − m)·m^age, divided by their sum.
    weight = np.array([(1.0 - memory) * memory**age for age in (3, 2, 1, 0)])
    weight /= weight.sum()
    first = sum(w * b.mean(0) for w, b in zip(weight, batches, strict=True))
    second = sum(w * b.square().mean(0) for w, b in zip(weight, batches, strict=True))
    spread = (second - first.square()).clamp_min(0.0).sqrt().clamp_min(0.01)
    torch.testing.assert_close(norm.mean, first, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(norm.std, spread, rtol=1e-4, atol=1e-6)
    x = torch.as_tensor(rng.normal(size=(5, 3)))
    torch.testing.assert_close(norm.raw(norm.normalised(x)), x, rtol=1e-7, atol=1e-6)


def test_rewards_and_costs_are_scaled_by_themselves():
    norm = TargetNorm(2)
    target = torch.tensor([[1000.0, 0.1], [3000.0, 0.5]], dtype=torch.float64)
    norm.update(target, 0.9)
    torch.testing.assert_close(norm.normalised(target), torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64))


def test_before_the_first_collection_nothing_is_scaled():
    norm, x = TargetNorm(2), torch.tensor([[3.0, -7.0]])
    torch.testing.assert_close(norm.raw(x), x)
    torch.testing.assert_close(norm.normalised(x), x)


def test_new_statistics_leave_every_value_where_it_was(torch_rng):
    critic = CentralCritic(ObservationCodec((("", "box", (5,)),)), 3, Network(hidden=(8,)), torch_rng)
    x = torch.randn(40, 5, generator=torch_rng)
    for scale, shift in ((10.0, 3.0), (0.1, -50.0), (300.0, 0.0)):
        before = critic.values(x)
        critic.absorb(scale * torch.randn(30, 3, generator=torch_rng) * torch.tensor([1.0, 5.0, 0.2]) + shift, 0.5)
        # float32 keeps six digits of the largest number that is added up: the mean of the targets.
        torch.testing.assert_close(critic.values(x), before, rtol=1e-4, atol=2e-6 * 60.0 * 10.0)
    normalised = critic.normalised_values(critic.features(x))
    torch.testing.assert_close(critic.norm.raw(normalised), critic.values(x))


def test_the_loss_of_values_in_closed_form():
    old, value, target = torch.zeros(1, 1), torch.tensor([[0.5]]), torch.tensor([[0.6]])
    # Free: ½·0.1². Bounded to 0.2 from the old value: ½·0.4², which is the larger one.
    assert ValueFit(huber=None, clip=None).loss(value, old, target).item() == pytest.approx(0.005)
    assert ValueFit(huber=None, clip=0.2).loss(value, old, target).item() == pytest.approx(0.08)
    # Beyond δ = 0.3 the loss is δ(|e| − δ/2) = 0.3·(0.4 − 0.15), and where they meet it is smooth.
    assert ValueFit(huber=0.3, clip=0.2).loss(value, old, target).item() == pytest.approx(0.075)
    at = torch.tensor([[0.3]])
    assert ValueFit(huber=0.3, clip=None).loss(at, old, torch.zeros(1, 1)).item() == pytest.approx(0.045)
    # Two values add up, rows average.
    two = ValueFit(huber=None, clip=None).loss(
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2), torch.zeros(2, 2)
    )
    assert two.item() == pytest.approx((0.5 + 2.0) / 2)


# --- what is passed on ---


@dataclass(frozen=True)
class _Nothing:
    kl: float = 0.0


class Recorder:
    """An update that moves each policy at random, and keeps what it was given."""

    in_turn: ClassVar[bool] = True
    takes: ClassVar[str] = "mixed"

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Rows[Any]]] = []

    def learn(self, network, adam, batch, progress, rng):
        self.seen.append((network, batch))
        with torch.no_grad():
            for p in network.actor_parameters():
                p.add_(torch.randn(p.shape, generator=rng))
        return _Nothing()


def every_joint_action(game: Game, team: Team, advantage) -> list[Rows[Any]]:
    """Rows of one observation, one for each joint action, under policies that draw all actions alike."""
    for i in range(len(game.actions)):
        for p in team.member(i).actor_parameters():
            p.data.zero_()
    joint = torch.tensor(list(itertools.product(*map(range, game.actions))), dtype=torch.float32)
    seen = torch.zeros(len(joint), team.roster.observations[0].width)
    seen[:, 0] = 1.0
    rows = []
    for i in range(len(game.actions)):
        policy, draw = team.policy(i, seen).detach(), joint[:, i : i + 1]
        rows.append(
            Rows(team.inputs(i, seen), draw, policy.log_prob(draw), policy, advantage, torch.zeros(len(joint), 0))
        )
    return rows


def chances(team: Team, agent: int) -> np.ndarray:
    """π(a) of an agent at the first observation."""
    seen = torch.zeros(1, team.roster.observations[0].width)
    seen[:, 0] = 1.0
    return team.policy(agent, seen).logits[0][0].exp().detach().numpy()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_each_agent_reckons_with_all_before_it(order, torch_rng):
    game = a_game((2, 3, 2), states=1, horizon=1)
    team = a_team(game)
    advantage = torch.randn(12, generator=torch_rng)
    rows = every_joint_action(game, team, advantage)
    uniform = [np.full(n, 1.0 / n) for n in game.actions]
    update = Recorder()
    learn_in_turn(update, team, [None] * 3, rows, order, 0.0, torch_rng)
    assert [network for network, _ in update.seen] == [team.member(i) for i in order]
    new = [chances(team, i) for i in range(3)]
    for turn, (_, given_rows) in enumerate(update.seen):
        # Brute force over joint actions: those before act by their new policies, all others by their old ones.
        acting = [new[i] if i in order[:turn] else uniform[i] for i in range(3)]
        expected = np.einsum("i,j,k,ijk->", *acting, advantage.numpy().reshape(game.actions))
        assert given_rows.advantage.mean().item() == pytest.approx(expected, abs=1e-6)
        # And with this agent's own ratio: everybody up to it has moved.
        own = order[turn]
        acting[own] = new[own]
        ratio = torch.as_tensor(new[own])[rows[own].draw[:, 0].long()] * game.actions[own]
        expected = np.einsum("i,j,k,ijk->", *acting, advantage.numpy().reshape(game.actions))
        assert (ratio * given_rows.advantage).mean().item() == pytest.approx(expected, abs=1e-6)


def test_a_limit_is_what_those_before_have_left_of_it(torch_rng):
    game = a_game((2, 3), states=1, horizon=1)
    team = a_team(game)
    reward, cost = torch.randn(6, generator=torch_rng), torch.randn(6, 2, generator=torch_rng)
    rows = every_joint_action(game, team, SlackAdvantage(reward, cost, torch.tensor([-0.5, 0.2])))
    update = Recorder()
    learn_in_turn(update, team, [None] * 2, rows, (1, 0), 0.0, torch_rng)
    first, second = (given_rows.advantage for _, given_rows in update.seen)
    torch.testing.assert_close(first.slack, torch.tensor([-0.5, 0.2]))
    change = np.einsum("i,j,ijk->k", [0.5, 0.5], chances(team, 1) - 1.0 / 3.0, cost.numpy().reshape(2, 3, 2))
    np.testing.assert_allclose(second.slack, change + [-0.5, 0.2], atol=1e-6)
    expected = np.einsum("i,j,ij->", [0.5, 0.5], chances(team, 1), reward.numpy().reshape(2, 3))
    assert second.reward.mean().item() == pytest.approx(expected, abs=1e-6)
    expected = np.einsum("i,j,ijk->k", [0.5, 0.5], chances(team, 1), cost.numpy().reshape(2, 3, 2))
    np.testing.assert_allclose(second.cost.mean(0), expected, atol=1e-6)


def test_before_an_episode_has_ended_a_limit_stays_unknown():
    unknown = SlackAdvantage(torch.ones(3), torch.ones(3, 1), torch.tensor([math.nan]))
    assert reckoned(unknown, torch.full((3,), 2.0)).slack.isnan().all()


def test_a_factor_of_two_moves():
    before, after = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    torch.testing.assert_close(passed_on(torch.tensor([3.0, 1.0]), before, after), torch.tensor([1.5, 2.0]))


def test_in_turn_the_second_agent_learns_against_the_new_first(torch_rng):
    # Both on A or both on B pay 1; apart nothing. Once the first has moved to A, the second has to follow it: its old
    # advantages, with a first that drew both alike, say nothing.
    game = a_game((2, 2), states=1, horizon=1)
    pays = torch.tensor([1.0, -1.0, -1.0, 1.0])

    def second_after(update, start) -> float:
        team = a_team(game)
        rows = every_joint_action(game, team, pays)
        rows[0] = replace(rows[0], advantage=torch.tensor([1.0, 1.0, -1.0, -1.0]))  # the first is paid for A alone
        adams = [update.optimiser(team.member(i)) for i in range(2)]
        start(update, team, adams, rows)
        return float(chances(team, 1)[0])

    many = {"passes": 30, "minibatch": 4, "lr": 0.1, "target_kl": None, "clip": 0.9}
    in_turn = second_after(Happo(**many), lambda u, t, a, r: learn_in_turn(u, t, a, r, (0, 1), 0.0, torch_rng))
    together = second_after(Mappo(**many), lambda u, t, a, r: learn_together(u, t, a, r, 0.0, torch_rng))
    assert in_turn > 0.8
    assert together == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_both_rates_follow_the_schedule(schedule, torch_rng):
    game, update = a_game(states=1, horizon=1), Mappo(lr=3e-4, critic_lr=1e-3, schedule=schedule)
    team, critic = a_team(game), CentralCritic(ObservationCodec((("", "box", (5,)),)), 1, Network(), torch_rng)
    rows = every_joint_action(game, team, torch.ones(6))[0]
    adam, of_values = update.optimiser(team.member(0)), critic_optimiser(update, critic)
    for progress in (0.0, 0.25, 1.0):
        update.learn(team.member(0), adam, rows, progress, torch_rng)
        fit_values(ValueFit(), update, critic, of_values, torch.ones(6, 5), torch.ones(6, 1), progress, torch_rng)
        left = 1.0 - progress if schedule == "linear" else 1.0
        assert (adam.groups[0].lr, of_values.groups[0].lr) == pytest.approx((3e-4 * left, 1e-3 * left))


# --- estimates ---


class Told:
    """A recipe's trainer on a game, with what one collection came to."""

    def __init__(self, tmp_path, game, cls=TeamSettings, **settings):
        self.config = build(cls, on(game, **settings))
        self.run = Run.create(tmp_path, kind="train", name="told", config=self.config, seed=1)
        self.trainer = TeamTrainer(self.config, self.run, {})
        self.trainer.collector.start()
        self.batch = self.trainer.collector.collect(self.trainer.actor, self.run.torch_rng("collect"))


@pytest.mark.parametrize("sees", ["state", "observations"])
@pytest.mark.parametrize("reward", ["team", "own"])
def test_targets_are_returns_and_costs_to_go_agent_by_agent(tmp_path, reward, sees):
    game = a_game((2, 3), states=2, horizon=3)
    one = {"gamma": 1.0, "cost_gamma": 1.0, "lam": 1.0, "cost_lam": 1.0}
    told = Told(tmp_path, game, reward=reward, critic_sees=sees, **one)
    trainer, batch = told.trainer, told.batch
    estimates = estimate(batch, trainer.team, trainer.overview, told.config)
    signal = signals_of(batch, trainer.roster)
    assert signal.shape[-1] == (1 if reward == "team" else 2) + 2
    if reward == "team":
        torch.testing.assert_close(signal[..., 0], batch.reward / 2)  # the sum of two equal rewards
    # The world's own tables: the cost of agent k at the joint action that was drawn.
    joint = (batch.draw[..., 0] * 3 + batch.draw[..., 1]).long().numpy()
    state = batch.inputs["vector"][:-1, :, :6].argmax(-1).numpy() % 2
    np.testing.assert_allclose(signal[..., -2:], game.cmdp.cost[state, joint])
    np.testing.assert_allclose(signal[..., 0], game.cmdp.reward[state, joint], rtol=1e-6)
    # With λ = γ = 1 an advantage is what is still to come, less the value: the target is what is still to come.
    steps, n, _ = signal.shape
    to_go = torch.zeros_like(signal)
    for t in reversed(range(steps)):
        to_go[t] = signal[t]
        if t + 1 < steps:
            to_go[t] += to_go[t + 1] * (1.0 - batch.terminated[t])[:, None]
    torch.testing.assert_close(estimates.target.view(steps, n, -1), to_go, atol=1e-4, rtol=1e-4)
    assert estimates.cost.shape == (steps, n, 2, 1)
    apart = to_go - estimates.target.view(steps, n, -1)
    assert apart.abs().max() < 1e-3
    told.run.close()


@pytest.mark.parametrize("reward", ["team", "own"])
def test_agents_learn_from_the_teams_reward_or_from_their_own(tmp_path, reward):
    one = {"gamma": 1.0, "lam": 1.0}
    told = Told(tmp_path, a_game((2, 3)), reward=reward, **one)
    told.batch.cost[..., 1] = 5.0 * torch.rand(told.batch.reward.shape, generator=torch.Generator().manual_seed(1))
    trainer = told.trainer
    own = told.batch.cost[..., :2]
    paid = own.mean(-1, keepdim=True) if reward == "team" else own
    torch.testing.assert_close(signals_of(told.batch, trainer.roster)[..., :-2], paid)
    found = estimate(told.batch, trainer.team, trainer.overview, told.config)
    for agent in (0, 1):
        learnt_from = found.reward[..., 0 if reward == "team" else agent]
        expected = (learnt_from - learnt_from.mean()) / learnt_from.std(correction=0)
        torch.testing.assert_close(trainer._advantage(agent, found), expected.flatten(), atol=1e-5, rtol=1e-4)
    told.run.close()


def test_agents_answer_for_their_own_costs_or_for_everybodys(tmp_path):
    game = a_game((2, 3))
    for answers, columns in (("own", [[0], [1]]), ("all", [[0, 1], [0, 1]])):
        told = Told(
            tmp_path, game, ConstrainedTeam, answers_for=answers, cost_limit=[1.0, 2.0], standardise="mix",
            constraint={"init": 0.5},
        )  # fmt: skip
        trainer = told.trainer
        found = estimate(told.batch, trainer.team, trainer.overview, told.config)
        for agent in (0, 1):
            costs = found.cost.flatten(-2)[..., columns[agent]].sum(-1)
            mixed = (found.reward[..., 0] - 0.5 * costs).flatten()
            torch.testing.assert_close(
                trainer._advantage(agent, found),
                (mixed - mixed.mean()) / mixed.std(correction=0),
                atol=1e-5,
                rtol=1e-4,
            )
        told.run.close()


def test_each_signal_at_scale_one_is_mixed_as_the_original_mixes(tmp_path):
    told = Told(tmp_path, a_game((2, 3)), ConstrainedTeam, standardise="each", constraint={"init": 0.78})
    found = estimate(told.batch, told.trainer.team, told.trainer.overview, told.config)
    reward, cost = found.reward[..., 0], found.cost[..., 1, 0]
    apart = [(x - x.mean()) / x.std(correction=0) for x in (reward, cost)]
    expected = (apart[0] - 0.78 * apart[1]).flatten() / 1.78
    torch.testing.assert_close(told.trainer._advantage(1, found), expected, atol=1e-5, rtol=1e-4)
    told.run.close()


def test_slack_is_of_each_agents_limit_per_step(tmp_path):
    told = Told(tmp_path, a_game((2, 3), horizon=3), LimitedTeam, cost_limit=[1.0, 2.0], update={"passes": 1})
    trainer = told.trainer
    trainer.update = Macpo()
    trainer.steering.add(np.array([[4.0, 1.0], [2.0, 1.0]]), np.array([3, 3]))
    found = estimate(told.batch, trainer.team, trainer.overview, told.config)
    torch.testing.assert_close(trainer._advantage(0, found).slack, torch.tensor([(3.0 - 1.0) / 3.0]))
    torch.testing.assert_close(trainer._advantage(1, found).slack, torch.tensor([(1.0 - 2.0) / 3.0]))
    told.run.close()


class Crowd:
    """Twelve agents, each of which observes ten times its number, and is paid and charged by its action."""

    id, costs, max_episode_steps = "crowd", ("cost",), 1
    agents = tuple(f"agent_{i}" for i in range(12))

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.observation_spaces = {a: gym.spaces.Box(-200.0, 200.0, (1,), np.float32) for a in self.agents}
        self.action_spaces = {a: gym.spaces.Box(-1.0, 1.0, (1,), np.float32) for a in self.agents}
        self.state_space = gym.spaces.Box(-200.0, 200.0, (2,), np.float32)
        self.episode_seed = np.zeros(num_envs, np.uint32)


def test_every_policy_sees_its_own_agents_columns():
    # Keys are sorted in a dict space, so that agent_10 stands before agent_2.
    codec = ObservationCodec.of(as_one(Crowd(1)).observation_space)
    assert [columns_of(codec, [f"obs/{a}"]).start for a in Crowd.agents] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
    assert columns_of(codec, ["state"]) == slice(12, 14)
    assert columns_of(codec, ["obs/agent_1", "obs/agent_10"]) == slice(1, 3)
    assert columns_of(codec, ["state", "obs/agent_2"]).tolist() == [12, 13, 4]


def test_a_shared_policy_is_told_which_agent_it_is():
    team = a_team(a_game((2, 2)), parameters="shared")
    assert len(team.members) == 1
    seen = torch.eye(6)[:2]
    torch.testing.assert_close(team.seen(1, seen)[:, 6:], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    first, second = (team.policy(i, seen).logits[0] for i in (0, 1))
    assert not torch.allclose(first, second)
    assert team.member(0).encoder.norm.kept.all()


def test_a_shared_policy_learns_from_the_rows_of_all(torch_rng):
    game = a_game((2, 2), states=1, horizon=1)
    team = a_team(game, parameters="shared")
    update = Recorder()
    rows = every_joint_action(game, team, torch.arange(4.0))
    learn_together(update, team, [None], rows, 0.0, torch_rng)
    ((_, given_rows),) = update.seen
    assert given_rows.advantage.tolist() == [0.0, 1.0, 2.0, 3.0] * 2
    torch.testing.assert_close(given_rows.draw[:, 0], torch.tensor([0.0, 0, 1, 1, 0, 1, 0, 1]))
    torch.testing.assert_close(given_rows.policy.log_prob(given_rows.draw), given_rows.log_prob)
