"""CMDPs as worlds: the contract, exact means, the bins of a continuous action, names."""

from __future__ import annotations

import time

import numpy as np
import pytest
from exact_cases import random_cmdp

from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.rl.exact.catalogue import ENTRIES, INSTANCES, name_of
from trueline.rl.exact.evaluate import evaluate
from trueline.rl.exact.suite import SUITE
from trueline.rl.exact.world import TabularWorld, make
from trueline.rl.worlds import make as world_of


@pytest.mark.parametrize("id", ["Cmdp-Corridor-v0", "Cmdp-Gamble-v0", "CmdpBox-Garnet4-v0", "CmdpBox-Foundry-v0"])
def test_the_contract_is_kept(id):
    check_env(id, steps=60)


def test_every_instance_has_its_two_names_and_every_name_an_instance():
    assert set(INSTANCES) == set(SUITE)
    for entry in ENTRIES:
        assert (entry.kind, entry.family) == ("env", "Exact CMDPs")
        if entry.name not in ("Cmdp-v0", "CmdpBox-v0"):
            world = world_of(entry.name, 2)
            assert world.cmdp is SUITE[name_of(entry.name)]
            assert world.box == ("Box" in entry.name)


def test_a_process_of_ones_own_enters_by_its_tables():
    cmdp = random_cmdp(3, states=3, costs=2)
    world = world_of("Cmdp-v0", 4, cmdp=cmdp.to_json())
    np.testing.assert_array_equal(world.cmdp.transition, cmdp.transition)
    assert world.costs == ("c0", "c1")
    with pytest.raises(ConfigError, match="needs the option `cmdp`"):
        make("CmdpBox-v0")
    with pytest.raises(ConfigError, match="a process of its own"):
        make("Cmdp-Gamble-v0", cmdp=cmdp.to_json())


@pytest.mark.parametrize("box", [False, True])
def test_episodes_of_a_policy_have_its_exact_mean_return_and_cost(box):
    cmdp, n = SUITE["Garnet4"], 20_000
    policy = np.random.default_rng(1).dirichlet(np.ones(cmdp.actions), (cmdp.horizon, cmdp.states))
    world, rng = TabularWorld("x", cmdp, n, box), np.random.default_rng(2)
    obs = world.reset(rng.integers(0, 2**32, n, dtype=np.uint32))
    total = np.zeros((n, 1 + len(cmdp.costs)))
    for t in range(cmdp.horizon):
        number = obs.argmax(1) if box else obs
        assert (number // cmdp.states == t).all()
        below = policy.reshape(-1, cmdp.actions)[number].cumsum(1)
        action = (below <= rng.random(n)[:, None]).sum(1)
        step = world.step(((action[:, None] + rng.random((n, 1))) / cmdp.actions * 2 - 1) if box else action)
        assert (step.terminated == (t == cmdp.horizon - 1)).all()
        assert not step.truncated.any()
        total += np.column_stack([step.reward, step.cost])
        obs = step.obs
    outcome = evaluate(cmdp, policy)
    error = total.mean(0) - [outcome.episode_return, *outcome.cost]
    assert (np.abs(error) < 4.5 * total.std(0) / np.sqrt(n)).all()


def test_actions_outside_are_refused_and_bins_are_equal():
    world = TabularWorld("x", SUITE["Garnet2"], 3)  # 4 actions
    world.reset(np.arange(3, dtype=np.uint32))
    for wrong in (4, -1):
        with pytest.raises(ConfigError, match="from 0 to 3"):
            world.step(np.array([0, wrong, 1]))
    box = TabularWorld("x", SUITE["Garnet2"], 8, box=True)
    actions = np.array([-7.0, -1.0, -0.51, -0.49, 0.49, 0.51, 1.0, 7.0])[:, None]
    assert box.chosen(actions).tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_an_impossible_state_is_never_entered_however_the_sums_round():
    # 0.1 ten times sums to less than 1 in floating point, and the last state has no chance at all.
    transition = np.zeros((11, 1, 11))
    transition[:, 0, :10] = 0.1
    from trueline.rl.exact.cmdp import Cmdp

    cmdp = Cmdp("tenths", transition, np.zeros((11, 1)), np.zeros((11, 1, 1)), np.eye(11)[0], 2, (0.0,))
    world = TabularWorld("x", cmdp, 1)
    assert np.isinf(world._after[:, 9]).all()
    assert (world._after[:, :9] < 1.0).all()


def test_single_episodes_begin_anew_and_the_others_go_on():
    world = TabularWorld("x", SUITE["Garnet1"], 3)
    world.seed_source = lambda n: np.arange(100, 100 + n, dtype=np.uint32)
    first = world.reset(np.arange(3, dtype=np.uint32))
    obs = world.step(np.zeros(3, np.int64)).obs
    begun = world.begin(np.array([1]), np.array([1], np.uint32))
    assert begun[1] == first[1]
    assert (begun[[0, 2]] == obs[[0, 2]]).all()
    for t in range(1, 5):
        step = world.step(np.zeros(3, np.int64))
        assert step.terminated.tolist() == [t == 4, False, t == 4]
    assert world.episode_seed.tolist() == [100, 1, 101]


def test_half_a_million_steps_a_second():
    world = make("Cmdp-Garnet6-v0", 64)
    world.reset()
    actions = np.random.default_rng(0).integers(0, world.cmdp.actions, (100, 64))
    rates = []
    for _ in range(3):  # the best of three: other load on the machine can only slow it down
        began = time.process_time()
        for t in range(1000):
            world.step(actions[t % 100])
        rates.append(64_000 / (time.process_time() - began))
    assert max(rates) > 500_000
