"""The checker of recipes: exact tables of policies, what passes and what does not, and that a wrong sign shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from exact_cases import random_cmdp

from trueline.core import registry
from trueline.core.config import Config, build
from trueline.core.errors import ConfigError, UnknownName
from trueline.core.run import Run
from trueline.rl import worlds
from trueline.rl.distributions import Choices, Gaussian, SquashedGaussian
from trueline.rl.evaluate import policy_actions, run_episodes
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.gap import measure_gap, on_policy_settings
from trueline.rl.exact.optimum import Expected, Penalty, safest, unconstrained
from trueline.rl.exact.suite import SUITE
from trueline.rl.exact.tables import bin_probabilities, outcome_of, policy_table, probabilities
from trueline.rl.exact.world import TabularWorld, make
from trueline.rl.handlers.constraint import HandlerState
from trueline.rl.handlers.pid import PidLagrangian
from trueline.rl.on_policy import Constrained, OnPolicy, OnPolicyRecipe
from trueline.safety.recipes.ppo import PPO_LAG

PID = {"kind": "pid", "kp": 0.3, "ki": 0.02, "kd": 0.0, "smoothing": 0.0, "init": 0.5}


# --- policies as tables ---


def test_bins_of_a_normal_are_those_its_actions_fall_into(torch_rng):
    world = TabularWorld("x", SUITE["Garnet1"], 1, box=True)  # 3 bins
    mean, log_std = torch.tensor([[0.3], [-1.4]]), torch.tensor([-0.5])
    for policy in (Gaussian(mean, log_std), SquashedGaussian(mean, log_std)):
        exact = bin_probabilities(policy, 3).numpy()
        many = type(policy)(mean.repeat(100_000, 1), log_std)
        chosen = world.chosen(many.to_action(many.sample(torch_rng)).numpy())
        for row in (0, 1):
            seen = np.bincount(chosen[row::2], minlength=3) / 100_000
            assert (np.abs(seen - exact[row]) < 4.5 * np.sqrt(exact[row] / 100_000) + 1e-6).all()


def test_bins_in_closed_form():
    half = bin_probabilities(Gaussian(torch.zeros(1, 1), torch.zeros(1)), 2)
    torch.testing.assert_close(half, torch.full((1, 2), 0.5, dtype=torch.float64))
    # P(|Z| < 1/3·3) for σ = 1/3: within one deviation of the middle third's edges.
    third = bin_probabilities(Gaussian(torch.zeros(1, 1), torch.tensor([1 / 3]).log()), 3)
    assert third[0, 1].item() == pytest.approx(0.6826894921, abs=1e-7)
    squashed = bin_probabilities(SquashedGaussian(torch.zeros(1, 1), torch.zeros(1)), 3)
    inside = torch.special.ndtr(torch.tensor(1 / 3, dtype=torch.float64).atanh()) * 2 - 1
    assert squashed[0, 1].item() == pytest.approx(inside.item(), abs=1e-9)


def test_a_deterministic_action_lies_in_one_bin():
    world = TabularWorld("x", SUITE["Garnet2"], 1, box=True)  # 4 bins
    mean = torch.linspace(-2.0, 2.0, 17)[:, None]  # some of them on edges
    for kind in (Gaussian, SquashedGaussian):
        policy = kind(mean, torch.full_like(mean, -torch.inf))
        table = bin_probabilities(policy, 4)
        torch.testing.assert_close(table.sum(1), torch.ones(17, dtype=torch.float64))
        assert table.argmax(1).tolist() == world.chosen(policy.to_action(mean).numpy()).tolist()


def test_a_choice_is_its_own_table():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    torch.testing.assert_close(probabilities(Choices.of(logits, (3,)), 3), logits.double().softmax(-1))


# --- the checker itself, on subjects that are known ---


class Given(Config):
    """Which tables a recipe offers."""

    env: str = ""
    env_options: dict[str, Any] = {}  # noqa: RUF012  (a setting, not an attribute)
    cost_limit: tuple[float, ...] = ()


class Table:
    """A policy given by its table."""

    kind: ClassVar[str] = "table"
    parent = None

    def __init__(self, table: np.ndarray, multipliers: Any = None) -> None:
        self.table, self.multipliers = table, multipliers

    def action_probabilities(self, obs: Any, actions: int) -> np.ndarray:
        return self.table.reshape(-1, actions)[obs]

    def save(self, folder: Path) -> None:
        raise AssertionError("the checker saves nothing")


class Offers:
    """A recipe whose iterates are made by a function of (process, its optimum)."""

    name, Config, presets = "offers", Given, {}

    def __init__(self, iterates: Any) -> None:
        self.iterates = iterates

    def train(self, config: Given, run: Any, inputs: Any) -> Table:
        cmdp = Cmdp.from_json(config.env_options["cmdp"])
        assert config.cost_limit == cmdp.limit
        tables = self.iterates(cmdp)
        for step, table in enumerate(tables):
            run.offer(step, lambda table=table: table)
        return tables[-1]


def optimal(cmdp: Cmdp) -> list[Table]:
    found = Expected(cmdp.limit).solve(cmdp)
    return [Table(found.policy, found.multipliers)]


def test_the_optimum_has_no_gap():
    gap = measure_gap(Offers(optimal))
    assert len(gap.trainings) == len(SUITE)
    assert gap.passed
    for training in gap.trainings:
        assert training.average.gap == pytest.approx(0.0, abs=1e-8)
        assert training.average.constrained == pytest.approx(training.limit, abs=1e-7)
        assert training.multipliers == pytest.approx(training.optimal_multipliers)


def test_unconstrained_safest_and_likeliest_do_not_pass():
    for make_tables, gap_is in (
        (lambda c: [Table(unconstrained(c).policy)], lambda gap: gap < 0.0),
        (lambda c: [Table(safest(c).policy)], lambda gap: gap > 0.05),
        (lambda c: [Table(np.eye(c.actions)[optimal(c)[0].table.argmax(-1)])], lambda gap: True),
    ):
        gap = measure_gap(Offers(make_tables), instances=["Corridor", "Foundry", "Garnet6"])
        assert not any(training.passed for training in gap.trainings)
        assert all(gap_is(training.average.gap) for training in gap.trainings)


def test_the_safest_policy_is_a_whole_range_below_the_best():
    (found,) = measure_gap(Offers(lambda c: [Table(safest(c).policy)]), instances=["Garnet1"]).trainings
    between = (found.optimum - found.safest) / (found.unconstrained - found.safest)
    assert found.average.gap == pytest.approx(between)


def swinging(cmdp: Cmdp) -> list[Table]:
    """The best and the safest policy in turn: what dual methods do for ever."""
    return [Table(unconstrained(cmdp).policy), Table(safest(cmdp).policy)] * 20


def test_the_verdict_is_on_the_average_and_the_last_iterate_stands_beside_it():
    # One step, two actions: paid 1 at cost 1, or nothing. Under a limit of 1/2 the optimum is to alternate.
    cmdp = Cmdp("coin", np.ones((1, 2, 1)), [[0.0, 1.0]], [[[0.0], [1.0]]], [1.0], 1, (0.5,))
    (found,) = measure_gap(Offers(swinging), instances=[cmdp]).trainings
    assert found.passed
    assert found.average.gap == pytest.approx(0.0)
    assert found.average.constrained == pytest.approx((0.5,))
    assert not found.last.passed
    assert found.last.gap == pytest.approx(0.5)
    assert found.iterates == 40


def test_only_the_last_quarter_counts():
    cmdp = SUITE["Corridor"]
    late = lambda c: [Table(unconstrained(c).policy)] * 9 + optimal(c) * 3  # noqa: E731
    later = lambda c: [Table(unconstrained(c).policy)] * 10 + optimal(c) * 2  # noqa: E731
    assert measure_gap(Offers(late), instances=[cmdp]).passed
    assert not measure_gap(Offers(later), instances=[cmdp]).passed


def test_tolerances_are_five_and_one_per_cent():
    # Mixtures of the optimum with the safest policy lose return, with the best one they exceed the limit.
    cmdp = SUITE["Garnet1"]
    optimum, safe, free = Expected.of(cmdp).solve(cmdp), safest(cmdp), unconstrained(cmdp)
    lost = (optimum.value - safe.value) / (free.value - safe.value)

    def mixed(share: float, other: np.ndarray):
        count = round(share * 1000)
        tables = [Table(other)] * count + [Table(optimum.policy)] * (1000 - count)
        return Offers(lambda c: [Table(other)] * 3000 + tables)

    for share, passes in ((0.045 / lost, True), (0.055 / lost, False)):
        assert measure_gap(mixed(share, safe.policy), instances=[cmdp]).passed is passes
    span = Expected.of(cmdp).span(cmdp)[0]
    over = (free.outcome.cost[0] - cmdp.limit[0]) / span
    for share, passes in ((0.007 / over, True), (0.013 / over, False)):
        assert measure_gap(mixed(share, free.policy), instances=[cmdp]).passed is passes


def test_each_problem_has_its_own_optimum_and_limits():
    cmdp = SUITE["Gamble"]
    for problem, constrained in (("almost-sure", 0.0), ("chance", 0.2), ("cvar", 1.5), ("barrier", 0.7)):
        offers = Offers(lambda c: [Table(safest(c).policy)])
        offers.train = lambda config, run, inputs: Table(safest(cmdp).policy)
        (found,) = measure_gap(offers, problem, instances=[cmdp]).trainings
        assert found.limit == pytest.approx((constrained,))
        assert found.average.constrained == pytest.approx((0.0,))
    # A penalty too small to hold the limit is measured against the optimum that it does have.
    small = Penalty(cmdp.limit, 0.2)
    over = small.solve(cmdp)
    found = measure_gap(Offers(lambda c: [Table(over.policy)]), lambda c: small, [cmdp])
    assert found.passed
    assert found.trainings[0].limit[0] > cmdp.limit[0]


def test_results_are_json_and_a_table():
    gap = measure_gap(Offers(optimal), instances=["Foundry", "Gamble"], seeds=(0, 1))
    found = json.loads(json.dumps(gap.to_json()))
    assert [(t["instance"], t["seed"]) for t in found["trainings"]] == [
        *(("Foundry", seed) for seed in (0, 1)),
        *(("Gamble", seed) for seed in (0, 1)),
    ]
    assert found["passed"] is True
    lines = gap.table().splitlines()
    assert lines[0] == "offers against the optimum of the expected problem: 4 of 4 passed"
    assert lines[1].split()[:3] == ["instance", "seed", "J*"]
    assert "4 2" in lines[2]
    assert all(line.endswith("passed") for line in lines[2:])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UnknownName, match="Did you mean 'chance'"):
        measure_gap(Offers(optimal), "chanse")
    with pytest.raises(ConfigError, match="is about one cost"):
        measure_gap(Offers(optimal), "cvar", ["Foundry"])
    flat = Cmdp("flat", np.ones((1, 2, 1)), np.ones((1, 2)), np.zeros((1, 2, 1)), [1.0], 1, (1.0,))
    with pytest.raises(ConfigError, match="no gap can be measured"):
        measure_gap(Offers(optimal), instances=[flat])

    class Placeless(Offers):
        class Config(Config):
            pass

    with pytest.raises(ConfigError, match="has no setting env, env_options"):
        measure_gap(Placeless(optimal), instances=["Gamble"])

    class Silent:
        kind, parent = "silent", None

    silent = Offers(optimal)
    silent.train = lambda config, run, inputs: Silent()
    with pytest.raises(ConfigError, match="a Silent cannot be evaluated exactly"):
        measure_gap(silent, instances=["Gamble"])


# --- on learners ---

# Half the episodes and less than half the epochs of the default: enough for the five steps of Garnet1.
SHORT = {
    "steps_per_epoch": 128 * 5,
    "total_steps": 128 * 5 * 120,
    "window": 128,
    "update": {"minibatch": 128 * 5},
}


def test_ppo_lag_reaches_the_optimum():
    gap = measure_gap(PPO_LAG, instances=["Garnet1"], settings={**SHORT, "constraint": PID})
    assert gap.passed, gap.table()
    (found,) = gap.trainings
    assert found.multipliers == pytest.approx(found.optimal_multipliers, abs=0.1)


ROWS = [entry.name for entry in registry.entries("recipe")]


@pytest.mark.parametrize("name", ROWS)
def test_every_on_policy_row_takes_the_settings_for_these_worlds(name):
    row = registry.load("recipe", name)
    if issubclass(row.Config, OnPolicy):
        settings = on_policy_settings(row.Config, SUITE["Gamble"])
        config = build(row.Config, settings)
        assert (config.gamma, config.num_envs, config.actor.hidden) == (1.0, 64, ())
        assert config.update.minibatch == 2 * 256


class Flipped(PidLagrangian):
    """A controller with a wrong sign: costs above the limit make it care less."""

    kind: Literal["flipped"] = "flipped"

    def update(self, state: HandlerState, episode_cost: torch.Tensor, limit: torch.Tensor) -> HandlerState:
        return super().update(state, 2.0 * limit - episode_cost, limit)


class Backwards(Constrained):
    constraint: Flipped = Flipped(kp=0.3, ki=0.02, kd=0.0, smoothing=0.0, init=0.5)


def test_a_multiplier_that_moves_the_wrong_way_does_not_pass():
    gap = measure_gap(OnPolicyRecipe("backwards", Backwards), instances=["Garnet1"], settings=SHORT)
    assert not gap.passed
    (found,) = gap.trainings
    off = found.average.constrained[0] - found.limit[0]
    # It runs to one of the ends: everything is forbidden, or everything allowed.
    assert abs(off) > 0.25 * found.span[0]


def test_a_policy_of_bins_is_measured_as_it_acts():
    settings = {**SHORT, "total_steps": 128 * 5 * 3, "constraint": PID}
    (found,) = measure_gap(PPO_LAG, instances=["Garnet1"], settings=settings, box=True).trainings
    assert found.iterates == 3
    assert 0.0 < found.last.constrained[0] < 2.0 * 5


@pytest.mark.parametrize("box", [False, True])
def test_a_policy_that_sees_its_budget_is_evaluated_as_it_acts(box, tmp_path):
    # Under a chance constraint the policy sees what was spent; its exact outcome is that of episodes in the world
    # that shows it.
    cmdp = random_cmdp(3, states=3, actions=3, horizon=3)
    id = "CmdpBox-v0" if box else "Cmdp-v0"
    config = build(
        Constrained,
        {
            "env": id,
            "env_options": {"cmdp": cmdp.to_json()},
            "num_envs": 16,
            "steps_per_epoch": 480,
            "total_steps": 1440,
            "actor": {"hidden": [8]},
            "critic": {"hidden": [8]},
            "update": {"passes": 2, "lr": 0.03},
            "cost_limit": [2.0],
            "limit_on": {"kind": "chance", "probability": 0.3},
        },
    )
    with Run.create(tmp_path, kind="train", name="x", config=config, seed=0) as run:
        policy = PPO_LAG.train(config, run, {})
    exact = outcome_of(policy, make(id, 1, cmdp=cmdp.to_json()), law=True)
    rng, n = np.random.default_rng(0), 20_000
    env = worlds.of(policy.world, n)
    episodes = run_episodes(env, rng.integers(0, 2**32, n, dtype=np.uint32), lambda _: policy_actions(policy, rng))
    returns, costs = episodes.episode_return, episodes.cost[:, 0]
    assert abs(returns.mean() - exact.episode_return) < 4.5 * returns.std() / np.sqrt(n)
    assert abs(costs.mean() - exact.cost[0]) < 4.5 * costs.std() / np.sqrt(n)
    law = np.bincount(costs.astype(int), minlength=len(exact.law)) / n
    assert (np.abs(law - exact.law) < 4.5 * np.sqrt(exact.law / n) + 1e-9).all()
    assert exact.law.sum() == pytest.approx(1.0)


def test_a_network_that_sees_no_extra_state_is_a_table(tmp_path):
    config = build(
        Constrained,
        {"env": "Cmdp-Garnet1-v0", "num_envs": 8, "steps_per_epoch": 40, "total_steps": 40, "cost_limit": 1.0},
    )
    with Run.create(tmp_path, kind="train", name="x", config=config, seed=0) as run:
        policy = PPO_LAG.train(config, run, {})
    world = make("Cmdp-Garnet1-v0", 50_000)
    table = policy_table(policy, world)
    np.testing.assert_allclose(table.sum(-1), 1.0)
    actions, _ = policy.act(world.reset(np.arange(50_000, dtype=np.uint32)), None, np.random.default_rng(0))
    seen = np.bincount(actions, minlength=3) / 50_000
    assert (np.abs(seen - table[0, 0]) < 4.5 * np.sqrt(table[0, 0] / 50_000)).all()
    assert outcome_of(policy, world).episode_return == pytest.approx(evaluate(world.cmdp, table).episode_return)
