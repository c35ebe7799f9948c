"""A team as a subject, and the games of tables with their optima."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from exact_cases import best_mixture, expectations
from team_cases import a_game, a_team

from trueline.core import registry
from trueline.core.errors import ConfigError, RunError
from trueline.core.registry import Entry
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.optimum import Expected
from trueline.rl.exact.tables import policy_table
from trueline.rl.multi_agent import check_multi_agent
from trueline.rl.policy import Acts, WorldRef
from trueline.rl.teams import exact
from trueline.rl.teams.exact import GAMES, WORLD, Game, GameWorld, best_response, independent, make_game, marginals
from trueline.rl.teams.policy import TeamPolicy, load

if WORLD not in {entry.name for entry in registry.entries("multi-agent env")}:
    registry.add(Entry("multi-agent env", WORLD, "trueline.rl.teams.exact:make_game", "a game given by its tables"))


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
