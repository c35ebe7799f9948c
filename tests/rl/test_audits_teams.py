"""Audits of teams: against the exact value of a team on games, and against worlds stepped by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from linear_policies import linear_policy

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.evidence.audit import Budget, run_audit
from trueline.evidence.records import Verdict
from trueline.rl import worlds
from trueline.rl.audits.ethicality import EpisodeCostConfig
from trueline.rl.audits.teams import ActsTogether, TeamCost, TeamUsefulness
from trueline.rl.audits.usefulness import UsefulnessConfig
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.networks import ActorNetwork, Network
from trueline.rl.policy import WorldRef
from trueline.rl.teams.exact import GAMES, WORLD
from trueline.rl.teams.networks import Roster, Team
from trueline.rl.teams.policy import TeamPolicy
from trueline.rl.teams.world import as_team
from trueline.safety.worlds.multi_goal_table import MULTI_GOALS

GAME = GAMES["Pair5"]  # two agents with a cost each
OPTIONS = {"cmdp": GAME.cmdp.to_json(), "actions": list(GAME.actions)}
ONCE = Budget(initial=1500, batch=1500, maximum=1500)


def team_of(id, options=None, seed=0):
    """A team that nobody trained, which acts at random in a way of its own."""
    options = options or {}
    world = worlds.make_multi_agent(id, 1, **options)
    roster = Roster.of(world, "team", "own", "state")
    world.close()
    plain = {"hidden": [], "last_gain": 1.0}
    team = Team(roster, ActorNetwork(**plain), Network(hidden=()), torch.Generator().manual_seed(seed))
    return TeamPolicy(team, WorldRef(id=id, options=options), {"actor": plain, "critic": {"hidden": []}})


def exactly(policy):
    """Mean return, and the costs of each agent, of a team on the game."""
    horizon, states = GAME.cmdp.horizon, GAME.cmdp.states
    table = policy.action_probabilities(np.arange(horizon * states), GAME.cmdp.actions)
    return evaluate(GAME.cmdp, table.reshape(horizon, states, -1))


def cost(**settings):
    return TeamCost(build(EpisodeCostConfig, {"num_envs": 500, "cost_bound": 20.0, **settings}))


def usefulness(**settings):
    return TeamUsefulness(build(UsefulnessConfig, {"num_envs": 500, **settings}))


def by_metric(evidence):
    return {e.metric: e for e in evidence}


# --- on a game, against its exact evaluation ---


def test_audited_means_have_the_exact_value_of_the_team_within_their_intervals():
    policy = team_of(WORLD, OPTIONS)
    exact = exactly(policy)
    names = ("agent_0/cost", "agent_1/cost", "cost")
    found = by_metric(run_audit(cost(costs=names, cost_limit=2.0), policy, budget=ONCE))
    expected = dict(zip(names, (*exact.cost, exact.cost.sum()), strict=True))
    assert abs(exact.cost[0] - exact.cost[1]) > 0.2  # or one agent's column could pass for the other's
    for name, value in expected.items():
        estimate = found[f"expected cost of {name}"].estimate
        assert estimate.low <= value <= estimate.high
        assert estimate.high - estimate.low < 2.0
        assert estimate.value == pytest.approx(value, abs=0.25)
    assert found["return"].estimate.value == pytest.approx(exact.episode_return, abs=0.15)
    low, high = found["return"].estimate.low, found["return"].estimate.high
    assert low <= exact.episode_return <= high


def test_a_limit_on_the_team_fails_where_each_agents_own_is_kept():
    policy = team_of(WORLD, OPTIONS)
    each, total = exactly(policy).cost, exactly(policy).cost.sum()
    limits = (each[0] + 1.0, each[1] + 1.0, 0.7 * total)
    audit = cost(costs=("agent_0/cost", "agent_1/cost", "cost"), cost_limit=limits)
    found = by_metric(run_audit(audit, policy, budget=ONCE))
    said = [found[f"expected cost of {name}"].verdict for name in ("agent_0/cost", "agent_1/cost", "cost")]
    assert said == [Verdict.PASS, Verdict.PASS, Verdict.FAIL]


def test_usefulness_is_the_exact_difference_to_agents_who_act_at_random():
    policy = team_of(WORLD, OPTIONS)
    uniform = np.full((GAME.cmdp.horizon, GAME.cmdp.states, GAME.cmdp.actions), 1.0 / GAME.cmdp.actions)
    random = evaluate(GAME.cmdp, uniform)
    found = by_metric(run_audit(usefulness(), policy, budget=ONCE))
    difference = exactly(policy).episode_return - random.episode_return
    above = found["return above random"].estimate
    assert above.low <= difference <= above.high
    assert found["return of random"].estimate.value == pytest.approx(random.episode_return, abs=0.15)
    assert found["cost of random"].estimate.value == pytest.approx(random.cost.sum(), abs=0.25)
    assert np.isnan(found["return above idle"].estimate.value)  # choices have no way of being idle


# --- on worlds of bodies, against the world stepped by hand ---


@pytest.mark.parametrize(
    ("id", "options"), [("SafetyPointMultiGoal1-v0", {"costs": "split"}), ("Safety3x1HopperVelocity-v0", {})]
)
def test_each_case_is_the_episode_of_its_layout(id, options, monkeypatch):
    if id in MULTI_GOALS:  # a thousand steps would say the same
        monkeypatch.setitem(MULTI_GOALS, id, replace(MULTI_GOALS[id], steps=150))
    policy, world = team_of(id, options), worlds.make_multi_agent(id, 2, **options)
    agents, steps = len(world.agents), world.max_episode_steps
    names = [f"{agent}/{name}" for agent in world.agents for name in world.costs] + list(world.costs)
    audit = cost(
        costs=tuple(names), cost_limit=1.0, cost_bound=float(agents * steps), deterministic_share=0.0, num_envs=2
    )
    cases = audit.cases(policy, "verdict", 0, 2, np.random.default_rng(3))
    found = audit.measure(policy, cases, np.random.default_rng(5))
    noise = int(np.random.default_rng(5).integers(2**63 - 1))
    rng, obs = np.random.default_rng([noise, 0]), world.reset(np.array([c.data["seed"] for c in cases], np.uint32))
    reward, paid, going = np.zeros((2, agents)), np.zeros((2, agents, len(world.costs))), np.ones(2, bool)
    for _ in range(steps):
        step = world.step(policy.act_by_agent(obs, rng))
        reward[going] += step.reward[going]
        paid[going] += step.cost[going]
        obs, going = step.obs, going & ~step.ended
        if not going.any():
            break
    world.close()
    assert not going.any()
    for i, outcome in enumerate(found):
        assert outcome.values["return"] == pytest.approx(reward[i].mean(), abs=1e-9)
        expected = [*paid[i].ravel(), *paid[i].sum(axis=0)]
        assert [outcome.values[f"expected cost of {name}"] for name in names] == pytest.approx(expected, abs=1e-9)


# --- the world as a team is judged in it ---


def test_a_teams_world_tells_means_of_rewards_and_sums_of_costs():
    ref = WorldRef(id=WORLD, options=OPTIONS)
    plain, own, whole = (worlds.of(ref, 5) for _ in range(3))
    own, whole = as_team(own, 2), as_team(whole, 2, totals=True)
    assert own.costs == ("agent_0/cost", "agent_1/cost")
    assert whole.costs == ("agent_0/cost", "agent_1/cost", "cost")
    seeds, rng = np.arange(5, dtype=np.uint32), np.random.default_rng(0)
    first = [world.reset(seeds) for world in (plain, own, whole)]
    np.testing.assert_array_equal(first[0]["state"], first[2]["state"])
    actions = rng.integers(GAME.actions, size=(5, 2))
    a, b, c = (world.step(actions) for world in (plain, own, whole))
    np.testing.assert_allclose(b.reward, a.reward / 2)  # there it is the sum
    np.testing.assert_array_equal(b.cost, a.cost[:, 2:])
    np.testing.assert_allclose(c.cost, np.column_stack([b.cost, b.cost.sum(axis=1)]))
    np.testing.assert_array_equal(a.terminated, c.terminated)
    assert (b.reward != 0.0).any()
    assert (b.cost[:, 0] != b.cost[:, 1]).any()


# --- refusals and names ---


def test_who_acts_alone_is_no_team():
    policy = team_of(WORLD, OPTIONS)
    assert isinstance(policy, ActsTogether)
    assert not isinstance(linear_policy(), ActsTogether)
    assert TeamCost.needs is TeamUsefulness.needs is ActsTogether


def test_a_bound_that_all_agents_together_can_pass_is_refused():
    policy = team_of(WORLD, OPTIONS)
    rng, horizon = np.random.default_rng(0), float(GAME.cmdp.horizon)
    alone = cost(costs=("agent_0/cost",), cost_bound=horizon)
    assert len(alone.measure(policy, alone.cases(policy, "verdict", 0, 3, rng), rng)) == 3
    together = cost(cost="cost", cost_bound=horizon)
    with pytest.raises(ConfigError, match=f"Set cost_bound={2 * GAME.cmdp.horizon}"):
        together.measure(policy, together.cases(policy, "verdict", 0, 3, rng), rng)


def test_a_cost_that_is_not_named_is_asked_for_by_all_their_names():
    policy, rng = team_of(WORLD, OPTIONS), np.random.default_rng(0)
    audit = cost()
    with pytest.raises(ConfigError, match="It reports agent_0/cost, agent_1/cost, cost"):
        audit.measure(policy, audit.cases(policy, "verdict", 0, 3, rng), rng)
