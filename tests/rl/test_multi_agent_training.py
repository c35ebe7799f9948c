"""Teams: statistics of targets, factors of those before, estimates, rows, checkpoints, subjects."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact_cases import best_mixture, expectations
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trueline.core import checkpoint, registry
from trueline.core.config import build
from trueline.core.errors import ConfigError, RunError
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.core.streams import case_seeds
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.optimum import Expected
from trueline.rl.exact.tables import policy_table
from trueline.rl.handlers.lagrange import Lagrangian
from trueline.rl.handlers.schedule import Linear, Steps
from trueline.rl.multi_agent import as_one, check_multi_agent
from trueline.rl.networks import ActorNetwork, Network
from trueline.rl.policy import Acts, WorldRef
from trueline.rl.spaces import ObservationCodec
from trueline.rl.teams import exact
from trueline.rl.teams.estimates import estimate, signals_of
from trueline.rl.teams.exact import GAMES, WORLD, Game, GameWorld, best_response, independent, make_game, marginals
from trueline.rl.teams.limits import team_limits, team_path
from trueline.rl.teams.networks import CentralCritic, Roster, TargetNorm, Team, columns_of
from trueline.rl.teams.policy import TeamPolicy, load
from trueline.rl.teams.training import (
    ConstrainedTeam,
    LimitedTeam,
    TeamRecipe,
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
from trueline.rl.updates.cup import Cup
from trueline.rl.updates.rows import Rows, SlackAdvantage

if WORLD not in {entry.name for entry in registry.entries("multi-agent env")}:
    registry.add(Entry("multi-agent env", WORLD, "trueline.rl.teams.exact:make_game", "a game given by its tables"))

LINEAR = {"hidden": []}


def a_game(actions=(2, 3), states=2, horizon=3, seed=0, own=True) -> Game:
    """Dense random tables, and costs that differ between agents."""
    rng = np.random.default_rng(seed)
    joint, agents = math.prod(actions), len(actions)
    cost = rng.integers(0, 3, (states, joint, agents)).astype(float)
    if not own:
        cost[:] = cost[..., :1]
    return Game(
        Cmdp(
            f"drawn{seed}",
            rng.dirichlet(np.ones(states), (states, joint)),
            rng.random((states, joint)) + 0.3 * cost.sum(-1),
            cost,
            rng.dirichlet(np.ones(states)),
            horizon,
            (1.5,) * agents,
            tuple(f"agent_{i}/cost" for i in range(agents)),
        ),
        actions,
    )


def on(game: Game, **more: Any) -> dict[str, Any]:
    """Settings that train on a game in a second."""
    return {
        "env": WORLD,
        "env_options": {"cmdp": game.cmdp.to_json(), "actions": list(game.actions)},
        "num_envs": 4,
        "steps_per_epoch": 48,
        "total_steps": 192,
        "actor": {"hidden": [4]},
        "critic": {"hidden": [4]},
        "checkpoint_epochs": 1,
        "update": {"passes": 2, "minibatch": 24},
        **more,
    }


def a_team(game: Game, seed=0, **shape: Any) -> Team:
    config = build(TeamSettings, {**on(game), **shape})
    roster = Roster.of(GameWorld("game", game, 1), config.reward, config.parameters, config.critic_sees)
    return Team(roster, ActorNetwork(hidden=()), Network(hidden=()), torch.Generator().manual_seed(seed))


def a_run(tmp_path, recipe, config, id="run", seed=3, **more):
    return Run.create(tmp_path, kind="train", name=recipe.name, config=config, seed=seed, id=id, **more)


ROW_MAPPO = TeamRecipe("together", TeamSettings, {}, Mappo())
ROW_HAPPO = TeamRecipe("in-turn", ConstrainedTeam, {}, Happo())
ROW_MACPO = TeamRecipe("bounded", LimitedTeam, {}, Macpo())


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
    columns = columns_of(ObservationCodec.of(as_one(Crowd(1)).observation_space))
    assert [columns[f"obs/{a}"].start for a in Crowd.agents] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
    assert columns["state"] == slice(12, 14)


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


# --- limits and rows ---


@pytest.mark.parametrize(
    ("given_limit", "expected"),
    [(3.0, [3.0, 3.0]), ((4.0,), [4.0, 4.0]), ((1.0, 2.0), [1.0, 2.0])],
)
def test_limits_for_all_or_agent_by_agent(given_limit, expected):
    world = GameWorld("game", a_game((2, 3)), 1)
    assert team_limits(given_limit, world) == dict(zip(["agent_0/cost", "agent_1/cost"], expected, strict=True))
    assert team_limits(None, world) == {}


def test_limits_that_do_not_fit_are_refused():
    world = GameWorld("game", a_game((2, 3)), 1)
    with pytest.raises(ConfigError, match="3 values, but the 2 agents of game have 1 costs each"):
        team_limits((1.0, 2.0, 3.0), world)
    with pytest.raises(ConfigError, match="0 or more"):
        team_limits((1.0, -2.0), world)


def test_limits_that_move_do_so_agent_by_agent():
    pair = SimpleNamespace(agents=("x", "y"), costs=("a", "b"), id="pair")
    names = ["x/a", "x/b", "y/a", "y/b"]
    line = team_path(Linear(start=(1.0, 2.0), end=(3.0, 4.0, 5.0, 6.0)), pair)
    np.testing.assert_allclose(line.at(0.0), [1.0, 2.0, 1.0, 2.0])  # one per cost, for both
    np.testing.assert_allclose(line.at(0.5), [2.0, 3.0, 3.0, 4.0])
    steps = team_path(Steps(values=((1.0, 2.0), 7.0), at=(0.5,)), pair)
    np.testing.assert_allclose(steps.at(0.4), [1.0, 2.0, 1.0, 2.0])
    assert steps.final == dict.fromkeys(names, 7.0)
    with pytest.raises(ConfigError, match="3 values, but the 2 agents of pair have 2 costs each"):
        team_path(Linear(start=(1.0, 2.0, 3.0), end=1.0), pair)
    with pytest.raises(ConfigError, match="reports no cost"):
        team_path(1.0, SimpleNamespace(agents=("x",), costs=(), id="pair"))


def test_every_handler_is_given_its_agents_limit_of_the_moment(tmp_path, monkeypatch):
    seen, original = [], Lagrangian.update

    def spy(self, state, episode_cost, limit):
        seen.append(limit.tolist())
        return original(self, state, episode_cost, limit)

    monkeypatch.setattr(Lagrangian, "update", spy)
    line = {"kind": "linear", "start": [4.0, 3.0], "end": [1.0, 0.0]}
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=line))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        ROW_HAPPO.train(config, run, {})
    assert seen == [[4.0], [3.0], [3.0], [2.0], [2.0], [1.0], [1.0], [0.0]]  # four epochs, two agents
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    assert [line["constraint/limit_agent_1/cost"] for line in lines] == [3.0, 2.0, 1.0, 0.0]
    assert ROW_HAPPO.limits(config) == {"agent_0/cost": 1.0, "agent_1/cost": 0.0}


def test_a_limit_may_be_a_share_of_what_each_agent_of_an_unlimited_team_cost(tmp_path):
    free = build(ROW_MAPPO.Config, on(a_game((2, 2))))
    with a_run(tmp_path, ROW_MAPPO, free, "free") as run:
        ROW_MAPPO.train(free, run, {})
    last = list(read_metrics(run.folder / "metrics.jsonl"))[-1]
    given_limit = {"kind": "calibrated", "run": "run://free", "share": 0.5, "last": 0.2}
    config = build(ROW_MACPO.Config, on(a_game((2, 2)), cost_limit=given_limit, update={"passes": 1}))
    ROW_MACPO.check(config, tmp_path)
    with a_run(tmp_path, ROW_MACPO, config, "limited") as run:
        trainer = TeamTrainer(config, run, {})
    expected = {f"{agent}/cost": 0.5 * last[f"train/{agent}/cost"] for agent in ("agent_0", "agent_1")}
    assert trainer.limited == pytest.approx(expected)
    assert expected["agent_0/cost"] != expected["agent_1/cost"]


def test_rows_that_do_not_compose_are_refused():
    with pytest.raises(ConfigError, match="takes slack and solves"):
        TeamRecipe("x", ConstrainedTeam, {}, Macpo())
    with pytest.raises(ConfigError, match="no limit to measure it from"):
        TeamRecipe("x", TeamSettings, {}, Macpo())
    with pytest.raises(ConfigError, match="mixed advantage cannot know of"):
        TeamRecipe("x", LimitedTeam, {}, Mappo())
    with pytest.raises(ConfigError, match="takes weights"):
        TeamRecipe("x", ConstrainedTeam, {}, Cup())


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="moves one agent after another"):
        build(ROW_HAPPO.Config, {"parameters": "shared"})
    with pytest.raises(ConfigError, match="takes slack"):
        build(ROW_MACPO.Config, {"standardise": "mix"})
    with pytest.raises(ConfigError, match="at least one step"):
        build(ROW_MAPPO.Config, {"num_envs": 10, "steps_per_epoch": 4})
    with pytest.raises(ValidationError):
        ValueFit(memory=1.0)


def test_agents_that_differ_cannot_share_a_policy(tmp_path):
    config = build(ROW_MAPPO.Config, on(a_game((2, 3)), parameters="shared"))
    with pytest.raises(ConfigError, match="observe or act differently"):
        ROW_MAPPO.check(config, tmp_path)


# --- training ---


def left_by(folder) -> dict[str, Any]:
    """What a run leaves, clock times excepted (and with them how far its log reaches in bytes)."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"lines": str([{k: v for k, v in x.items() if not k.startswith("time/")} for x in lines])}
    for path in sorted((folder / "subject").iterdir()):
        found[path.name] = path.read_bytes()
    for step in sorted((folder / "checkpoints").iterdir()):
        whole = checkpoint.read(step)
        found |= dict(leaves({key: whole[key] for key in ("state", "streams")}, step.name))
    return found


def leaves(tree: Any, path: str):
    """Every number of a nested state, as bytes."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}/{i}")
    else:
        yield path, np.asarray(tree).tobytes() if hasattr(tree, "shape") else tree


class Killed(Exception):
    pass


@pytest.mark.parametrize("recipe", [ROW_MAPPO, ROW_HAPPO, ROW_MACPO], ids=lambda row: row.name)
def test_killed_and_resumed_leaves_the_same_bytes(recipe, tmp_path, monkeypatch):
    more = {"averaged_share": 0.5} | ({"parameters": "shared"} if recipe is ROW_MAPPO else {"cost_limit": 0.5})
    config = build(recipe.Config, on(a_game((2, 2)), **more))
    with a_run(tmp_path / "whole", recipe, config) as run:
        whole = recipe.train(config, run, {})
    whole.save(run.folder / "subject")
    original, epochs = TeamTrainer.one_epoch, []

    def dies(self):
        if len(epochs) == 2:
            epochs.append("dead")
            raise Killed
        epochs.append("alive")
        return original(self)

    monkeypatch.setattr(TeamTrainer, "one_epoch", dies)
    with pytest.raises(Killed), a_run(tmp_path / "cut", recipe, config) as run:
        recipe.train(config, run, {})
    with Run.reopen(tmp_path / "cut" / "run") as run:
        again = recipe.train(config, run, {})
    again.save(run.folder / "subject")
    assert left_by(tmp_path / "cut" / "run") == left_by(tmp_path / "whole" / "run")


def test_the_same_seed_trains_on_the_same_layouts(tmp_path):
    config = build(ROW_HAPPO.Config, on(a_game((2, 2))))
    met = []
    for id, seed in (("a", 1), ("b", 1), ("c", 2)):
        with a_run(tmp_path, ROW_HAPPO, config, id, seed) as run:
            met.append(ROW_HAPPO.train(config, run, {}).layouts_met.tolist())
    assert met[0] == met[1] != met[2]
    assert len(set(met[0])) == 64  # 192 steps of three each


def test_each_agent_has_a_multiplier_that_its_own_cost_moves(tmp_path):
    game = a_game((2, 2))
    plain = {"rule": "sgd", "lr": 0.1, "init": 1.0}
    config = build(ROW_HAPPO.Config, on(game, cost_limit=[0.0, 100.0], constraint=plain, window=1000))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        team = ROW_HAPPO.train(config, run, {})
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    # λ ← max(0, λ + 0.1(J_C − d)) with the mean of all episodes so far, 16 more in each epoch.
    costs = np.array([[line["train/agent_0/cost"], line["train/agent_1/cost"]] for line in lines])
    lam = np.ones(2)
    for epoch in range(len(lines)):
        lam = np.maximum(0.0, lam + 0.1 * (costs[: epoch + 1].mean(axis=0) - [0.0, 100.0]))
    np.testing.assert_allclose(team.multipliers, lam, rtol=1e-6)
    assert lines[-1]["constraint/multiplier_agent_0/cost"] == pytest.approx(lam[0])
    limits = json.loads((run.folder / "artefacts" / "limits.json").read_text())
    assert limits == {"train/agent_0/cost": 0.0, "train/agent_1/cost": 100.0}
    assert ROW_HAPPO.limits(config) == {"agent_0/cost": 0.0, "agent_1/cost": 100.0}


def found_failing(tmp_path, rng):
    """Three layouts, and the setting that names their findings."""
    seeds = case_seeds("respond", 1, 3, rng)
    folder = tmp_path / "audited" / "artefacts"
    folder.mkdir(parents=True)
    (folder / "found.json").write_text(json.dumps([{"case": {"data": {"seed": int(seed)}}} for seed in seeds]))
    return seeds, {"layouts": ["run://audited/found.json"]}


def test_of_episodes_on_both_only_those_on_fresh_layouts_are_measured(tmp_path, rng):
    seeds, given = found_failing(tmp_path, rng)
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), layouts_share=0.5, **given))
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        trainer = TeamTrainer(config, run, {})
        trainer.train()
    fresh = int((~np.isin(trainer.met, seeds)).sum())
    assert 0 < fresh < len(trainer.met) == len(trainer.recent.episode_return)
    assert len(trainer.steering.cost) == len(trainer.steering.length) == len(trainer.recent.cost) == fresh


def test_layouts_that_failed_get_their_share_and_do_not_steer(tmp_path, rng):
    seeds, given = found_failing(tmp_path, rng)
    failed = {**given, "layouts_share": 1.0}
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=0.0, constraint={"init": 0.5}, **failed))
    ROW_HAPPO.check(config, tmp_path)
    with a_run(tmp_path, ROW_HAPPO, config) as run:
        team = ROW_HAPPO.train(config, run, {})
    assert set(team.layouts_met.tolist()) == set(seeds.tolist())
    assert team.multipliers.tolist() == [0.5, 0.5]
    assert "train/agent_0/cost" in next(iter(read_metrics(run.folder / "metrics.jsonl")))  # told all the same
    missing = build(ROW_HAPPO.Config, on(a_game((2, 2)), layouts=["run://none/found.json"]))
    with pytest.raises(RunError):
        ROW_HAPPO.check(missing, tmp_path)


def test_a_warm_start_goes_on_from_weights_and_multipliers(tmp_path):
    config = build(ROW_HAPPO.Config, on(a_game((2, 2)), cost_limit=0.1))
    with a_run(tmp_path, ROW_HAPPO, config, "first") as run:
        team = ROW_HAPPO.train(config, run, {})
    with a_run(tmp_path, ROW_HAPPO, config, "second") as run:
        trainer = TeamTrainer(config, run, {"policy": team})
        assert all(torch.equal(a, b) for a, b in zip(trainer.team.parameters(), team.team.parameters(), strict=True))
        for state, agent in zip(trainer.handler_states.values(), team.agents, strict=True):
            assert state["multiplier"].tolist() == team.shape["multipliers"][agent]
    other = build(ROW_HAPPO.Config, on(a_game((2, 2)), actor={"hidden": [5]}))
    with a_run(tmp_path, ROW_HAPPO, other, "third") as run, pytest.raises(ConfigError, match="other network shapes"):
        TeamTrainer(other, run, {"policy": team})
    all_costs = build(ROW_HAPPO.Config, on(a_game((2, 2)), answers_for="all"))
    with a_run(tmp_path, ROW_HAPPO, all_costs, "fourth") as run, pytest.raises(ConfigError, match="1 multipliers for"):
        TeamTrainer(all_costs, run, {"policy": team})


def test_a_third_partys_row_is_a_line():
    row = TeamRecipe("mine", ConstrainedTeam, {}, Happo(clip=0.1))
    config = build(row.Config, {"update": {"passes": 3}})
    assert (config.update.clip, config.update.passes) == (0.1, 3)
    assert isinstance(config.constraint, Lagrangian)


# --- the subject ---


def a_policy(game=None, **shape) -> TeamPolicy:
    game = game or a_game((2, 3))
    plain = {"actor": {"hidden": []}, "critic": {"hidden": []}}
    options = {"cmdp": game.cmdp.to_json(), "actions": list(game.actions)}
    return TeamPolicy(a_team(game, **shape), WorldRef(id=WORLD, options=options), plain)


@pytest.mark.parametrize("parameters", ["own", "shared"])
def test_a_saved_team_acts_the_same(tmp_path, parameters):
    policy = a_policy(a_game((2, 2)), parameters=parameters)
    policy.shape |= {"multipliers": {"agent_0": [0.5], "agent_1": [2.0]}, "layouts_met": [7, 9]}
    policy.team.member(0).encoder.norm.update(policy.team.seen(0, torch.rand(20, 6)))
    policy.save(tmp_path)
    again = load(tmp_path)
    obs = {agent: np.arange(6) for agent in policy.agents}
    for rng in (1, 2):
        for deterministic in (False, True):
            one, two = (p.act_by_agent(obs, np.random.default_rng(rng), deterministic) for p in (policy, again))
            assert all(np.array_equal(one[agent], two[agent]) for agent in policy.agents)
    assert again.roster == policy.roster
    assert again.multipliers.tolist() == [0.5, 2.0]
    assert again.layouts_met.tolist() == [7, 9]
    assert again.costs == ("agent_0/cost", "agent_1/cost")
    assert not list(tmp_path.glob("*.pkl"))


def test_damage_to_a_saved_team_is_named(tmp_path):
    with pytest.raises(RunError, match="missing"):
        load(tmp_path)
    a_policy().save(tmp_path)
    record = json.loads((tmp_path / "team.json").read_text())
    del record["roster"]["agents"]
    (tmp_path / "team.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="damaged or of another version"):
        load(tmp_path)


def test_by_agent_and_as_one_it_acts_the_same():
    policy, obs = a_policy(), np.arange(6)
    assert isinstance(policy, Acts)
    by_agent = policy.act_by_agent(dict.fromkeys(policy.agents, obs), np.random.default_rng(5))
    joint, _ = policy.act({f"obs/{a}": obs for a in policy.agents} | {"state": obs}, None, np.random.default_rng(5))
    np.testing.assert_array_equal(joint, np.stack([by_agent[a] for a in policy.agents], axis=1))
    with pytest.raises(ConfigError, match="no observation of agent_1"):
        policy.act_by_agent({"agent_0": obs}, np.random.default_rng(5))


def test_joint_chances_are_products():
    policy = a_policy()
    obs = np.arange(6)
    table = policy.action_probabilities(obs, 6)
    single = [policy.team.policy(i, policy.roster.encode(i, obs)).logits[0].exp().detach().numpy() for i in (0, 1)]
    for o, a, b in itertools.product(range(6), range(2), range(3)):
        assert table[o, a * 3 + b] == pytest.approx(single[0][o, a] * single[1][o, b], rel=1e-6)
    with pytest.raises(ConfigError, match="6 joint choices, but 4"):
        policy.action_probabilities(obs, 4)


def test_acting_changes_nothing():
    policy = a_policy()
    before = {name: value.clone() for name, value in policy.team.state_dict().items()}
    policy.act_by_agent({a: np.arange(6) for a in policy.agents}, np.random.default_rng(0))
    assert all(torch.equal(value, before[name]) for name, value in policy.team.state_dict().items())


# --- games ---


def test_a_game_keeps_the_contract_of_worlds():
    check_multi_agent(lambda num_envs: GameWorld("game", a_game((2, 3)), num_envs), steps=60)


def test_episodes_of_a_team_have_its_exact_mean_return_and_costs():
    game, policy = a_game((2, 3), horizon=4), a_policy(a_game((2, 3), horizon=4))
    world = GameWorld("game", game, 4000)
    obs, total, cost, rng = world.reset(np.arange(4000)), np.zeros(4000), np.zeros((4000, 2)), np.random.default_rng(3)
    for _ in range(4):
        step = world.step(policy.act_by_agent(obs, rng))
        obs, total, cost = step.obs, total + step.reward[:, 0], cost + step.cost[..., 0]
    assert step.terminated.all()
    table = policy.action_probabilities(np.arange(8), 6).reshape(4, 2, 6)
    exactly = evaluate(game.cmdp, table)
    for seen, expected in (
        (total, exactly.episode_return),
        (cost[:, 0], exactly.cost[0]),
        (cost[:, 1], exactly.cost[1]),
    ):
        assert abs(seen.mean() - expected) < 4.5 * seen.std() / np.sqrt(4000)


def test_games_that_do_not_fit_are_refused():
    game = a_game((2, 3))
    with pytest.raises(ConfigError, match="4 together, but its process has 6"):
        Game(game.cmdp, (2, 2))
    with pytest.raises(ConfigError, match="Name them AGENT/COST"):
        Game(Cmdp.from_json({**game.cmdp.to_json(), "costs": ["a", "b"]}), (2, 3))
    with pytest.raises(ConfigError, match="needs the options"):
        make_game(WORLD)
    with pytest.raises(ConfigError, match="action 3 for agent_1"):
        GameWorld("game", game, 2).step({"agent_0": np.zeros(2, int), "agent_1": np.array([0, 3])})


@pytest.mark.parametrize("name", GAMES)
def test_every_games_optimum_can_be_drawn_independently(name):
    game = GAMES[name]
    optimum = Expected.of(game.cmdp).solve(game.cmdp)
    assert independent(game, optimum.policy)
    assert (optimum.constrained <= np.array(game.cmdp.limit) + 1e-9).all()


def test_a_policy_that_correlates_agents_is_told_from_one_that_does_not():
    game = a_game((2, 2), states=1, horizon=1)
    assert independent(game, np.array([[[0.06, 0.14, 0.24, 0.56]]]))  # (0.2, 0.8) and (0.3, 0.7)
    assert not independent(game, np.array([[[0.5, 0.0, 0.0, 0.5]]]))


def test_lifts_optimum_is_that_of_every_mixture_of_independent_draws():
    # Brute force over a grid of independent policies of both agents: none is better within the limit.
    game = exact.lift()
    optimum = Expected.of(game.cmdp).solve(game.cmdp)
    assert optimum.value == pytest.approx(1.25)  # the second heaves half of the time: ½·1 + ½·1.5
    grid = [np.array([i, j, 10 - i - j]) / 10 for i in range(11) for j in range(11 - i)]
    pays, strain = game.cmdp.reward.reshape(3, 3), game.cmdp.cost[..., 0].reshape(3, 3)
    best = max(p @ pays @ q for p in grid for q in grid if p @ strain @ q <= 0.5 + 1e-9)
    assert best == pytest.approx(1.25)


def test_a_teams_table_is_read_off_through_the_exact_evaluator():
    game = a_game((2, 3))
    world = GameWorld("game", game, 1)._world
    table = policy_table(a_policy(game), world)
    assert table.shape == (3, 2, 6)
    np.testing.assert_allclose(table.sum(-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("agent", [0, 1])
def test_a_best_response_is_the_best_mixture_of_all_that_an_agent_could_do(agent):
    # Two actions, two states, three steps: 64 deterministic policies of the agent against fixed others.
    game = a_game((2, 2), states=2, horizon=3, seed=4)
    rng = np.random.default_rng(5)
    policies = [rng.dirichlet(np.ones(2), (3, 2)) for _ in range(2)]
    value, used = [], []
    for choice in itertools.product(range(2), repeat=6):
        acting = list(policies)
        acting[agent] = np.eye(2)[list(choice)].reshape(3, 2, 2)
        joint = (acting[0][..., :, None] * acting[1][..., None, :]).reshape(3, 2, 4)
        found = expectations(game.cmdp, joint)
        value.append(found[0])
        used.append(found[1:])
    joint = (policies[0][..., :, None] * policies[1][..., None, :]).reshape(3, 2, 4)
    limit = np.maximum(game.cmdp.limit, expectations(game.cmdp, joint)[1:])
    assert best_response(game, policies, agent) == pytest.approx(
        best_mixture(np.array(value), np.array(used), limit), abs=1e-8
    )
    for own, back in zip(policies, marginals(game, joint), strict=True):
        np.testing.assert_allclose(back, own)
