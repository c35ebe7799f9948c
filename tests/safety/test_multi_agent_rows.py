"""MAPPO, HAPPO, MAPPO-Lag and MACPO: against the joint optimum of games, on MuJoCo worlds, with what is published."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from trueline.core import registry
from trueline.core.config import build
from trueline.core.errors import UnknownName
from trueline.core.metrics import read_metrics
from trueline.core.registry import Entry
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.audits.ethicality import EpisodeCost, EpisodeCostConfig
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.optimum import Expected, safest, unconstrained
from trueline.rl.exact.tables import outcome_of
from trueline.rl.exact.world import TabularWorld
from trueline.rl.handlers.constraint import HandlerState
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.multi_agent import as_one
from trueline.rl.teams.exact import GAMES, WORLD, Game, best_response, marginals, measure_team_gap, team_settings
from trueline.rl.teams.policy import TeamPolicy, load
from trueline.rl.teams.training import ConstrainedTeam, LimitedTeam, TeamRecipe, TeamSettings
from trueline.rl.teams.updates import Happo, Macpo, Mappo
from trueline.rl.updates.rows import Rows, SlackAdvantage
from trueline.rl.worlds import make_multi_agent
from trueline.safety.recipes.multi_agent import HAPPO, MACPO, MAPPO, MAPPO_LAG

if WORLD not in {entry.name for entry in registry.entries("multi-agent env")}:
    registry.add(Entry("multi-agent env", WORLD, "trueline.rl.teams.exact:make_game", "a game given by its tables"))

ROWS = (MAPPO, HAPPO, MAPPO_LAG, MACPO)
PI = {"kind": "pid", "kp": 0.3, "ki": 0.02, "kd": 0.0, "smoothing": 0.0, "init": 0.5}
PLAIN = {"schedule": "linear", "entropy": 0.0}


# --- against the optimum ---


def short(epochs: int, horizon: int, episodes: int = 128) -> dict:
    steps = episodes * horizon
    return {"steps_per_epoch": steps, "total_steps": epochs * steps, "window": episodes}


def settings_of(row, epochs, horizon, **more) -> dict:
    own = short(epochs, horizon)
    update = {"minibatch": own["steps_per_epoch"], **more.pop("update", {})}
    if not issubclass(row.Config, LimitedTeam):
        own.pop("window")
    return {**own, "update": update, **more}


def free(cmdp):
    return Expected((1e3,) * len(cmdp.costs))


@pytest.mark.parametrize("row", [MAPPO, HAPPO], ids=["mappo", "happo"])
def test_without_limits_the_best_joint_policy_is_found(row):
    gap = measure_team_gap(row, free, ["Lift"], settings_of(row, 60, 1, update=PLAIN))
    assert gap.passed, gap.table()


def test_multipliers_find_the_best_joint_policy_within_the_limit():
    settings = settings_of(MAPPO_LAG, 100, 1, update=PLAIN, constraint=PI)
    gap = measure_team_gap(MAPPO_LAG, "expected", ["Lift"], settings)
    assert gap.passed, gap.table()
    (found,) = gap.trainings
    # One cost, of which each agent has a multiplier: both are the one of the joint problem, 0.5 reward per cost.
    assert found.multipliers == pytest.approx((0.5, 0.5), abs=0.1)


def test_steps_in_turn_find_the_best_joint_policy_within_the_limits():
    # Two carts, of which only one can cross at a time, and a limit on the tolls of each.
    gap = measure_team_gap(MACPO, "expected", ["TollBridge"], settings_of(MACPO, 40, 4, update={"target_kl": 0.02}))
    assert gap.passed, gap.table()
    (found,) = gap.trainings
    assert found.average.constrained == pytest.approx((1.0, 2.0), abs=0.1)


def test_on_a_cost_of_both_steps_in_turn_end_where_no_agent_can_gain_alone(tmp_path):
    # At its limit an agent may only spend what it saves itself. The first could make room for the second, which heaves
    # to more effect, but would lose by it: the joint optimum is not reached, an equilibrium is.
    game, seen = GAMES["Lift"], []
    given = {**team_settings(MACPO.Config, game.cmdp), **settings_of(MACPO, 60, 1), "cost_limit": 0.5}
    options = {"cmdp": game.cmdp.to_json(), "actions": list(game.actions)}
    config = build(MACPO.Config, {**given, "env": WORLD, "env_options": options})
    with Run.create(tmp_path, kind="train", name="macpo", config=config, seed=0) as run:
        run.watch = lambda _, team: seen.append(team.action_probabilities(np.zeros(1, int), 9).reshape(1, 1, 9))
        MACPO.train(config, run, {})
    span = unconstrained(game.cmdp).value - safest(game.cmdp).value
    # Limits of 0 stand for what it costs now: what could be gained at the same cost.
    same_cost = Game(Cmdp.from_json({**game.cmdp.to_json(), "limit": [0.0, 0.0]}), game.actions)
    for table in seen[-10:]:
        reached = evaluate(game.cmdp, table)
        alone = [best_response(same_cost, marginals(game, table), agent) for agent in (0, 1)]
        assert max(alone) - reached.episode_return < 0.01 * span
        assert abs(reached.cost[0] - 0.5) < 0.15
    assert Expected.of(game.cmdp).solve(game.cmdp).value - reached.episode_return > 0.05 * span


class Flipped(PidLagrangian):
    """A controller with a wrong sign: costs above the limit make it care less."""

    kind: Literal["flipped"] = "flipped"

    def update(self, state: HandlerState, episode_cost: torch.Tensor, limit: torch.Tensor) -> HandlerState:
        return super().update(state, 2.0 * limit - episode_cost, limit)


class Backwards(ConstrainedTeam):
    constraint: Flipped = Flipped(kp=0.3, ki=0.02, kd=0.0, smoothing=0.0, init=0.5)


class Descends(Happo):
    def learn(self, network, adam, batch, progress, rng):
        turned = Rows(batch.inputs, batch.draw, batch.log_prob, batch.policy, -batch.advantage, batch.target)
        return super().learn(network, adam, turned, progress, rng)


class Spends(Macpo):
    def learn(self, network, adam, batch, progress, rng):
        a = batch.advantage
        turned = SlackAdvantage(a.reward, -a.cost, a.slack)
        given = Rows(batch.inputs, batch.draw, batch.log_prob, batch.policy, turned, batch.target)
        return super().learn(network, adam, given, progress, rng)


@pytest.mark.parametrize("wrong", ["multiplier", "surrogate", "limit"])
def test_a_wrong_sign_does_not_pass(wrong):
    if wrong == "multiplier":
        row = TeamRecipe("backwards", Backwards, {}, MAPPO_LAG.Config.model_fields["update"].default)
        gap = measure_team_gap(row, "expected", ["Lift"], settings_of(row, 60, 1, update=PLAIN))
    elif wrong == "surrogate":
        row = TeamRecipe("descends", TeamSettings, {}, Descends(schedule="constant"))
        gap = measure_team_gap(row, free, ["Lift"], settings_of(row, 30, 1))
    else:
        row = TeamRecipe("spends", LimitedTeam, {}, Spends())
        gap = measure_team_gap(row, "expected", ["Pair1"], settings_of(row, 25, 5, update={"target_kl": 0.01}))
    assert not gap.passed, gap.table()


# --- on MuJoCo worlds ---

TINY = {
    "num_envs": 2,
    "steps_per_epoch": 60,
    "total_steps": 180,
    "actor": {"hidden": [8]},
    "critic": {"hidden": [8]},
}


def tiny(row, env: str, **more):
    given = {**TINY, "env": env, "update": {"passes": 2, "minibatch": 30}, **more}
    return build(row.Config, given | ({"cost_limit": 0.1} if issubclass(row.Config, LimitedTeam) else {}))


@pytest.mark.parametrize(
    ("row", "env"),
    [
        (MAPPO, "SafetyPointMultiGoal0-v0"),
        (HAPPO, "Safety2x1SwimmerVelocity-v0"),
        (MAPPO_LAG, "Safety2x1SwimmerVelocity-v0"),
        (MACPO, "SafetyPointMultiGoal1-v0"),
    ],
    ids=["mappo", "happo", "mappo-lag", "macpo"],
)
def test_everything_that_learns_has_moved(row, env, tmp_path):
    config = tiny(row, env)
    row.check(config, tmp_path)
    seen = []
    with Run.create(tmp_path, kind="train", name=row.name, config=config, seed=1) as run:
        run.watch = lambda _, team: seen.append({k: v.clone() for k, v in team.team.state_dict().items()})
        team = row.train(config, run, {})
        lines = list(read_metrics(run.folder / "metrics.jsonl"))
    assert isinstance(team, TeamPolicy)
    still = [k for k, _ in team.team.named_parameters() if torch.equal(seen[0][k], seen[-1][k])]
    assert not still
    assert all(torch.isfinite(value).all() for value in seen[-1].values())
    for key in ("update/value_loss", "update/agent_0/kl", "update/agent_1/kl"):
        assert all(math.isfinite(line[key]) for line in lines)
    for agent in team.agents:
        assert all(lines[-1][f"train/total_{agent}/{cost}"] >= 0.0 for cost in team.roster.costs)


def test_a_team_of_the_world_is_saved_and_acts_there(tmp_path):
    config = tiny(MAPPO, "SafetyPointMultiGoal1-v0", parameters="shared", critic_sees="observations")
    with Run.create(tmp_path / "runs", kind="train", name="mappo", config=config, seed=1) as run:
        trained = MAPPO.train(config, run, {})
    trained.save(tmp_path / "subject")
    team = load(tmp_path / "subject")
    world = make_multi_agent(team.world.id, 3, **team.world.options)
    obs = world.reset(np.arange(3, dtype=np.uint32))
    step = world.step(team.act_by_agent(obs, np.random.default_rng(0)))
    assert step.cost.shape == (3, 2, 1)
    world.close()


def test_what_a_teams_episodes_cost_each_agent_can_be_audited(tmp_path, monkeypatch):
    # The audit knows nothing of teams: it meets the world as one agent's, whose costs are every agent's.
    game = GAMES["Pair4"]
    options = {"cmdp": game.cmdp.to_json(), "actions": list(game.actions)}
    config = build(HAPPO.Config, {**TINY, "env": WORLD, "env_options": options})
    with Run.create(tmp_path, kind="train", name="happo", config=config, seed=1) as run:
        team = HAPPO.train(config, run, {})
    monkeypatch.setattr(worlds, "of", lambda ref, n, threads: as_one(make_multi_agent(ref.id, n, **ref.options)))
    rng, costs = np.random.default_rng(11), ["agent_0/cost", "agent_1/cost"]
    audit = EpisodeCost(
        build(EpisodeCostConfig, {"costs": costs, "cost_limit": list(game.cmdp.limit), "deterministic_share": 0.0})
    )
    cases = audit.cases(team, "verdict", 0, 2000, rng)
    outcomes = audit.measure(team, cases, rng)
    exactly = outcome_of(team, TabularWorld("game", game.cmdp, 1))
    for k, name in enumerate(costs):
        found = np.array([outcome.values[f"expected cost of {name}"] for outcome in outcomes])
        assert abs(found.mean() - exactly.cost[k]) < 4.5 * found.std() / math.sqrt(2000)
        above = np.array([outcome.values[f"violation probability of {name}"] for outcome in outcomes])
        np.testing.assert_array_equal(above, found > game.cmdp.limit[k])


# --- what is published ---


def test_presets_are_the_published_settings():
    found = {row.name: build(row.Config, row.presets["faithful"]) for row in ROWS}
    for name, config in found.items():
        assert (config.gamma, config.lam, config.num_envs, config.steps_per_epoch) == (0.99, 0.95, 10, 10_000)
        assert config.total_steps == 10_000_000
        assert config.env == "Safety2x4AntVelocity-v0"
        assert (config.values.huber, config.values.clip) == (10.0, 0.2)
        assert config.actor.hidden == ((128, 128) if name == "macpo" else (128, 128, 128))
        assert config.actor.activation == "relu"
        assert config.actor.init == "orthogonal"
        # Deviations begin at ½·sigmoid(1), and the gain of 0.01 stands before the √2 of ours.
        assert math.exp(config.actor.log_std) == pytest.approx(0.5 / (1.0 + math.exp(-1.0)), rel=1e-4)
        assert config.actor.last_gain * math.sqrt(2.0) == pytest.approx(0.01, rel=1e-3)
        assert config.update.grad_norm == 10.0
    for name, rates in {"mappo": (9e-5, 5e-3), "happo": (5e-4, 5e-4), "mappo-lag": (5e-4, 5e-4)}.items():
        update = found[name].update
        assert (update.lr, update.critic_lr) == rates
        assert (update.clip, update.passes, update.entropy, update.target_kl) == (0.2, 5, 0.01, None)
    update = found["macpo"].update
    assert (update.target_kl, update.cg_iters, update.cg_damping) == (0.01, 10, 0.1)
    assert (update.search_tries, update.search_shrink, update.critic_lr, update.passes) == (10, 0.5, 5e-3, 15)
    # λ is moved by 1e-5·(J_C − d)(1 − γ) in each of five minibatches.
    constraint = found["mappo-lag"].constraint
    assert (constraint.rule, constraint.init) == ("sgd", 0.78)
    assert constraint.lr == pytest.approx(5 * 1e-5 * (1.0 - 0.99))
    assert found["macpo"].cost_limit == found["mappo-lag"].cost_limit == 25.0


def test_who_learns_when():
    updates = [row.Config.model_fields["update"].default for row in ROWS]
    assert [type(update) for update in updates] == [Mappo, Happo, Happo, Macpo]
    assert [update.in_turn for update in updates] == [False, True, True, True]


def test_a_world_of_one_agent_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="no multi-agent env is called 'SafetyPointGoal1-v0'"):
        MAPPO.check(build(MAPPO.Config, {"env": "SafetyPointGoal1-v0"}), tmp_path)
