"""The wrapper: the public checker over every form of observation, episodes by brute force, and what it passes on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from point_world import PointWorld
from toy_worlds import Bandit, DictDrift, Drift, SavedDrift

from trueline.core.config import build
from trueline.core.errors import ConfigError
from trueline.rl import worlds
from trueline.rl.augmentation.early_termination import EarlyTermination
from trueline.rl.augmentation.kinds import Chance, Cvar, Expected, StepRate
from trueline.rl.augmentation.saute import Saute
from trueline.rl.augmentation.simmer import Simmer
from trueline.rl.augmentation.world import AugmentedBy, Restarts, augmented, shown
from trueline.rl.check_env import check_env
from trueline.rl.env import LaidOut, Perturbable, Stateful, Steerable, Visible
from trueline.rl.perturb import Disturbance, NoisySensors, disturbed

LIMIT = np.array([2.0, 4.0])


def begin(self: Any, rows: Any, seeds: Any) -> Any:
    """New episodes in some rows of a drift."""
    for i, seed in zip(rows, seeds, strict=True):
        self._begin(int(i), int(seed))
    return self._observe()


class Restarting(SavedDrift):
    begin = begin


class RestartingDict(DictDrift):
    begin = begin


class Cells(Restarting):
    """Drift of which only the quadrant is seen: a whole number."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.observation_space = gym.spaces.Discrete(4)

    def _observe(self) -> Any:
        return (2 * (self.position[:, 0] > 0) + (self.position[:, 1] > 0)).astype(np.int64)


class Pictures(Restarting):
    """Drift seen as a picture."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.observation_space = gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)

    def _observe(self) -> Any:
        shades = np.abs(40 * self.position).clip(0, 255).astype(np.uint8)
        return np.tile(shades, (1, 6)).reshape(-1, 2, 2, 3)


RULES = {
    "saute": Saute(gamma=0.95, unsafe_reward=-1.0),
    "simmer": Simmer(init=0.5),
    "early": EarlyTermination(),
    "early, unseen": EarlyTermination(observes=False),
    "expected": Expected(),
    "rate": StepRate(),
    "chance": Chance(),
    "cvar": Cvar(),
}


def over(world: Any, rules: Any, limit: Any = LIMIT, **settings: Any) -> Any:
    return lambda n: augmented(world(n), rules, np.minimum(limit, 1.0) if isinstance(rules, StepRate) else limit)


@pytest.mark.parametrize("rules", RULES)
def test_the_public_checker_finds_nothing_whatever_the_rules(rules):
    check_env(over(Restarting, RULES[rules]), steps=60)


@pytest.mark.parametrize("world", [RestartingDict, Cells, Pictures])
def test_the_public_checker_finds_nothing_whatever_is_observed(world):
    check_env(over(world, EarlyTermination()), steps=40)
    inner, outer = world(2).observation_space, augmented(world(2), Saute(), LIMIT).observation_space
    parts = dict(inner.spaces) if isinstance(inner, gym.spaces.Dict) else {"world": inner}
    assert dict(outer.spaces) == {**parts, "augmentation": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)}


@pytest.mark.parametrize("name", ["SafetyPointRun0-v0", "SafetyHalfCheetahVelocity-v1"])
def test_our_own_worlds_pass_it_under_early_termination(name):
    check_env(lambda n: augmented(worlds.make(name, n), EarlyTermination(), np.array([1.0])), steps=30)


def test_a_world_that_cannot_begin_single_rows_is_refused_under_rules_that_end_episodes():
    with pytest.raises(ConfigError, match=r"begin\(rows, seeds\)"):
        augmented(Drift(2), EarlyTermination(), LIMIT)
    augmented(Drift(2), Saute(), LIMIT)


def test_an_inner_parameter_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match="do not fit its rules"):
        augmented(Drift(2), Cvar(), LIMIT, {"threshold": [1.0]})


def twin(rules: Any, n: int = 5, world: Any = Restarting) -> tuple[Any, Any]:
    """The world under rules and the same one as it is, with equal seeds and autoreset seeds."""
    pair = augmented(world(n), rules, LIMIT), world(n)
    for env in pair:
        state = np.random.default_rng(3)
        env.seed_source = lambda k, state=state: state.integers(0, 2**32, k, dtype=np.uint32)
        env.seeds = np.arange(n, dtype=np.uint32)
    return pair


def test_whole_episodes_are_what_their_histories_of_cost_say(rng):
    rules = Saute(gamma=0.95, unsafe_reward=-1.0)
    env, plain = twin(rules)
    budget = LIMIT * np.mean(0.95 ** np.arange(12))
    obs, raw = env.reset(env.seeds), plain.reset(plain.seeds)
    history: list[list[Any]] = [[] for _ in range(5)]

    def z(i: int) -> Any:
        t = len(history[i])
        spent = sum(0.95**k * c for k, c in enumerate(history[i])) if t else 0.0
        return 0.95**-t * (1.0 - spent / budget)

    cut, counted = 0, 0
    for _ in range(60):
        actions = rng.uniform(-1, 1, (5, 2))
        step, was = env.step(actions), plain.step(actions)
        for i in range(5):
            history[i].append(was.cost[i])
            # Row 6: the last observation of an episode has the budget it ended with, not the next one's.
            np.testing.assert_allclose(step.final_obs[i], [*was.final_obs[i], *z(i)], rtol=1e-5, atol=1e-5)
            assert step.reward[i] == (was.reward[i] if (z(i) > 0).all() else -1.0)
            if was.ended[i]:
                cut += bool(was.truncated[i])
                history[i].clear()
            counted += step.reward[i] == -1.0
            # Rows 4 and 5: the next episode has all of it, whatever the last one ended by.
            np.testing.assert_allclose(step.obs[i], [*was.obs[i], *z(i)], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(step.cost, was.cost)
        np.testing.assert_array_equal(step.ended, was.ended)
    assert cut
    assert counted
    assert obs.shape == (5, 5)
    np.testing.assert_array_equal(obs[:, :3], raw)


def test_simmers_budget_of_the_moment_is_that_of_every_episode(rng):
    env, _ = twin(Simmer(init=0.25, gamma=1.0, kp=1.0, smoothing=0.0))
    assert (env.reset(env.seeds)[:, 3:] == 0.25).all()
    starts = []
    for t in range(40):
        if t == 20:
            env.adapt(np.zeros((1, 2)))  # nothing was spent: D grows by kp·D, twice the share
        step = env.step(rng.uniform(-1, 1, (5, 2)))
        starts += [(t, *step.obs[i, 3:]) for i in np.flatnonzero(step.ended)]
    for t, *share in starts:
        np.testing.assert_allclose(share, 0.25 if t < 20 else 0.5, rtol=1e-5)
    assert {t >= 20 for t, *_ in starts} == {True, False}


def test_early_termination_ends_one_row_and_leaves_the_others_alone(rng):
    env, plain = twin(EarlyTermination(unsafe_reward=-5.0))
    env.reset(env.seeds), plain.reset(plain.seeds)
    same, spent, ended_early = np.ones(5, bool), np.zeros((5, 2)), 0
    returns, costs, running = [], [], np.zeros(5)
    total = np.zeros(2)
    for _ in range(30):
        seeds = env.episode_seed.copy()
        actions = rng.uniform(-1, 1, (5, 2))
        step, was = env.step(actions), plain.step(actions)
        # A row follows the plain world until its first own end: from there on it plays another episode.
        np.testing.assert_array_equal(step.final_obs[same, :3], was.final_obs[same])
        spent += step.cost
        running += np.where(same, was.reward, np.nan)
        total += step.cost.sum(axis=0)
        over_it = (spent > LIMIT).any(axis=1)
        np.testing.assert_array_equal(step.terminated[same], (was.terminated | over_it)[same])
        assert (step.reward[over_it] == -5.0).all()
        for i in np.flatnonzero(step.ended):
            assert env.episode_seed[i] != seeds[i]
            returns.append(running[i])
            costs.append(spent[i].copy())
        # The new episode's observation, with nothing spent; the old one's kept what was left.
        np.testing.assert_allclose(step.obs[step.ended, 3:], 1.0)
        np.testing.assert_allclose(step.final_obs[:, 3:], np.maximum(LIMIT - spent, 0) / LIMIT, rtol=1e-5)
        ended_early += int((over_it & ~was.ended & same).sum())
        spent[step.ended], running[step.ended] = 0.0, 0.0
        same &= ~step.ended
        if not same.any():
            break
    assert ended_early >= 2
    played = env.drained()
    np.testing.assert_allclose(played.episode_cost, costs)
    known = ~np.isnan(returns)
    np.testing.assert_allclose(played.episode_return[known], np.array(returns)[known])  # the world's, without the −5
    np.testing.assert_allclose(played.total_cost, total)
    assert len(env.drained().episode_return) == 0


def test_the_world_keeps_its_abilities_and_gets_no_others():
    laid_out = augmented(PointWorld(num_envs=2), Saute(), np.array([3.0]))
    for ability in (Stateful, Perturbable, Steerable, LaidOut):
        assert isinstance(laid_out, ability)
    for ability in (Visible, Restarts, NoisySensors):
        assert not isinstance(laid_out, ability)
    for ability in (Stateful, Perturbable, Steerable, LaidOut, Visible):
        assert not isinstance(augmented(Drift(2), Saute(), LIMIT), ability)
    assert isinstance(augmented(Restarting(2), Saute(), LIMIT), Restarts)


def test_a_layout_that_is_set_begins_with_a_whole_budget():
    env = augmented(PointWorld(num_envs=2), Saute(gamma=1.0), np.array([3.0]))
    env.reset(np.arange(2, dtype=np.uint32))
    layout = {"agent": [[1.0, 1.0]], "goal": [[-1.0, -1.0]], "hazards": [[0.0, 0.0]], "agent_rot": 0.0}
    env.set_layout({0: {**layout, "agent": [[0.55, 0.0]]}, 1: {**layout, "agent": [[0.55, 0.0]]}})
    for _ in range(4):
        step = env.step(np.tile([-1.0, 0.0], (2, 1)))
    assert (step.obs[:, -1] < 1.0).all()
    obs = env.set_layout({1: layout})
    assert obs[0, -1] == step.obs[0, -1]
    assert obs[1, -1] == 1.0


def test_noise_is_scaled_by_the_worlds_own_sensors():
    world = disturbed(PointWorld(num_envs=2), Disturbance(observation_noise=0.5), np.random.default_rng(0))
    env = augmented(world, Saute(), np.array([3.0]))
    assert isinstance(env, NoisySensors)
    assert env.own_columns().tolist() == [True] * 6 + [False]
    env.set_scale(np.arange(7.0))
    np.testing.assert_array_equal(world._scale, np.arange(6.0))
    parts = augmented(DictDrift(2), Saute(), LIMIT)  # a dict's keys are in alphabetical order
    assert parts.own_columns().tolist() == [False, False] + [True] * 5


@pytest.mark.parametrize("rules", ["saute", "early", "chance", "cvar"])
def test_afterwards_a_policy_is_shown_the_same_and_measured_by_the_world(rules, rng):
    trained, plain = twin(RULES[rules])
    by = build(AugmentedBy, trained.reference().model_dump(mode="json"))  # as a file holds it
    env = shown(Restarting(5), by)
    state = np.random.default_rng(3)
    env.seed_source = lambda k: state.integers(0, 2**32, k, dtype=np.uint32)
    assert env.observation_space == trained.observation_space
    np.testing.assert_array_equal(env.reset(trained.seeds), trained.reset(trained.seeds))
    plain.reset(plain.seeds)
    together = np.ones(5, bool)
    for _ in range(30):
        actions = rng.uniform(-1, 1, (5, 2))
        ours, theirs, was = env.step(actions), trained.step(actions), plain.step(actions)
        for name in ("reward", "cost", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(was, name))
        np.testing.assert_array_equal(ours.final_obs[together], theirs.final_obs[together])
        together &= ~theirs.ended  # rules that end episodes draw other seeds for the next ones
    assert not together.all()


def test_rules_that_show_nothing_leave_the_world_as_it_is():
    world = Drift(2)
    assert shown(world, None) is world
    assert shown(world, AugmentedBy(rules=StepRate(), limit=(0.1, 0.1))) is world
    with pytest.raises(ConfigError, match="trained with 1 limits"):
        shown(world, AugmentedBy(rules=Saute(), limit=(1.0,)))


def test_one_step_episodes_begin_anew_each_step():
    env = augmented(Bandit(3), Saute(gamma=1.0), np.array([2.0]))
    env.reset()
    step = env.step(np.array([0, 1, 2]))
    np.testing.assert_allclose(step.final_obs[:, 1], [1.0, 0.5, 1.0])
    np.testing.assert_allclose(step.obs[:, 1], 1.0)


def test_the_length_of_an_episode_is_the_worlds_own():
    assert augmented(PointWorld(num_envs=1, steps=37), Saute(), np.array([3.0])).terms.steps == 37
    circle = worlds.make("SafetyPointCircle1-v0", 1)
    env = augmented(circle, Saute(gamma=0.999), np.array([25.0]))
    z = env.rules.start(env.terms, {}, 1)
    assert float(z[0, 0]) == pytest.approx(19.7, abs=0.05)  # row 10: 15.8 with a T of 1000
    env.close()
