"""CMDPs as data: what is refused, what is stored, and what the suite promises of its instances."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import tomli_w
from exact_cases import random_cmdp

from trueline.core.errors import ConfigError, UnknownName
from trueline.rl.exact.cmdp import Cmdp
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.hashing import uniform
from trueline.rl.exact.optimum import AlmostSure, Chance, Cvar, Expected, safest, unconstrained
from trueline.rl.exact.suite import SUITE, garnet, instance

FITTING = random_cmdp(0).to_json()

UNFIT = {
    "start": ([0.5, 0.4], "sum to 1"),
    "transition": (np.full((2, 2, 2), 0.6).tolist(), "sum to 1"),
    "reward": ([[0.0, float("nan")], [0.0, 0.0]], "not finite"),
    "cost": ([[[0.0], [-1.0]], [[0.0], [0.0]]], "negative"),
    "limit": ([1.0, 2.0], "one finite limit"),
    "costs": (["a", "b"], "belongs to its reward and names"),
    "horizon": (0, "at least 1"),
}


@pytest.mark.parametrize("key", UNFIT)
def test_what_is_no_process_is_refused(key):
    value, words = UNFIT[key]
    with pytest.raises(ConfigError, match=words):
        Cmdp.from_json({**FITTING, key: value})


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ConfigError, match=r"Give start \[S\] and reward \[S, A\]"):
        Cmdp.from_json({**FITTING, "reward": [[0.0, 0.0]]})
    with pytest.raises(ConfigError, match="missing or unknown: gamma"):
        Cmdp.from_json({**FITTING, "gamma": 0.9})
    with pytest.raises(ConfigError, match="missing or unknown: start"):
        Cmdp.from_json({key: value for key, value in FITTING.items() if key != "start"})


def test_costs_that_do_not_add_up_to_a_finite_state_are_refused_where_that_matters():
    cmdp = Cmdp.from_json({**FITTING, "cost": [[[0.5], [0.0]], [[1.0], [0.0]]], "limit": [0.5]})
    assert Expected.of(cmdp).solve(cmdp).constrained[0] == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="not a whole number"):
        cmdp.whole_cost()


@pytest.mark.parametrize("name", SUITE)
def test_tables_survive_json_and_toml_to_the_last_bit(name):
    cmdp = SUITE[name]
    data = tomllib.loads(tomli_w.dumps(json.loads(json.dumps(cmdp.to_json()))))
    again = Cmdp.from_json(data)
    for key in ("transition", "reward", "cost", "start"):
        np.testing.assert_array_equal(getattr(again, key), getattr(cmdp, key))
    assert (again.horizon, again.limit, again.costs) == (cmdp.horizon, cmdp.limit, cmdp.costs)


def test_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        SUITE["Gamble"].reward[0, 0] = 5.0


def test_uniform_numbers_are_those_of_splitmix64():
    # First outputs of SplitMix64 from state 0, as published with the generator.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    np.testing.assert_array_equal(uniform(np.zeros(1, np.uint32), 3)[:, 0], [(x >> 11) / 2.0**53 for x in published])


def test_uniform_numbers_of_neighbouring_seeds_are_unrelated():
    u = uniform(np.arange(4000, dtype=np.uint32), 9)  # [9, 4000]
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size)
    by_step, by_seed = np.corrcoef(u), np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())
    assert np.abs(by_step - np.eye(9)).max() < 4.5 / np.sqrt(4000)
    assert abs(by_seed[0, 1]) < 4.5 / np.sqrt(u.size)


# --- the suite ---


def test_there_are_enough_of_every_kind():
    by_costs = [len(cmdp.costs) for cmdp in SUITE.values()]
    assert {k: by_costs.count(k) for k in (1, 2, 3)} == {1: 6, 2: 3, 3: 1}
    assert sum(cmdp.deterministic for cmdp in SUITE.values()) == 2
    assert all(c.states <= 8 and c.actions <= 4 and c.horizon <= 8 for c in SUITE.values())


@pytest.mark.parametrize("name", SUITE)
def test_every_limit_binds(name):
    cmdp = instance(name)
    free, safe = unconstrained(cmdp), safest(cmdp)
    for k, limit in enumerate(cmdp.limit):
        assert safe.outcome.cost[k] < limit < free.outcome.cost[k]
    optimum = Expected.of(cmdp).solve(cmdp)
    assert safe.value < optimum.value < free.value
    np.testing.assert_allclose(optimum.constrained, cmdp.limit, rtol=1e-8)
    assert (optimum.multipliers > 0.05).all()


def test_the_best_policy_is_random_and_its_likeliest_actions_are_not_good_enough():
    worse = {"over a limit": 0, "worth less": 0, "as good": 0}
    for cmdp in SUITE.values():
        optimum, span = Expected.of(cmdp).solve(cmdp), unconstrained(cmdp).value - safest(cmdp).value
        outcome = evaluate(cmdp, np.eye(cmdp.actions)[optimum.policy.argmax(-1)])
        over = (outcome.cost > np.array(cmdp.limit) + 1e-9).any()
        less = outcome.episode_return < optimum.value - 0.01 * span
        worse["over a limit" if over else "worth less" if less else "as good"] += 1
    assert worse["over a limit"] >= 4
    assert worse["as good"] <= 1


def test_the_gamble_tells_means_chances_and_tails_apart():
    cmdp = SUITE["Gamble"]
    problems = [kind.of(cmdp) for kind in (Expected, AlmostSure, Chance, Cvar)]
    optima = [problem.solve(cmdp) for problem in problems]
    values = sorted(optimum.value for optimum in optima)
    assert np.diff(values).min() > 0.01
    # Each one's optimum breaks the limit of at least one other: no two are the same question.
    for mine, optimum in zip(problems, optima, strict=True):
        others = [p for p in problems if p is not mine]
        outcome = evaluate(cmdp, optimum.policy, 0)
        assert (
            any((p.constrained(outcome) > np.array(p.limit) + 1e-6).any() for p in others) or optimum.value == values[0]
        )


def test_a_random_instance_is_a_function_of_its_seed():
    one, same, other = (garnet("x", seed, 4, 2, 1, 3, (1.0,)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.transition, same.transition)
    assert not np.array_equal(one.transition, other.transition)
    assert ((one.transition > 0).sum(-1) == 3).all()


def test_an_unknown_instance_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'Corridor'"):
        instance("Coridor")
