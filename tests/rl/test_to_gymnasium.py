"""Worlds behind Gymnasium's faces: judged by Gymnasium's own checker, its SyncVectorEnv, and the world itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import env_checker
from toy_worlds import Bandit, DictDrift, Drift

from trueline.core import registry
from trueline.core.errors import ConfigError
from trueline.core.registry import Entry
from trueline.rl.from_gymnasium import FromGymnasium
from trueline.rl.to_gymnasium import ToGymnasium, ToGymnasiumVector, register_all


@pytest.mark.parametrize("world", [Drift, DictDrift, Bandit])
def test_gymnasiums_own_checker_passes(world: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Not an error of ours: without a bound the checker advises one; without a spec it skips pictures.
        warnings.filterwarnings("ignore", message=".*(infinity|inf|render|spec).*")
        env_checker.check_env(ToGymnasium(world))


def test_a_seed_names_the_worlds_own_episode(rng: np.random.Generator) -> None:
    env, world = ToGymnasium(Drift), Drift(2)
    for seed in (3, 2**32 - 1):
        obs, info = env.reset(seed=seed)
        expected = world.reset(np.array([0, seed], np.uint32))[1]
        assert info["episode_seed"] == seed
        over = False
        while not over:
            np.testing.assert_array_equal(obs, expected)
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            obs, reward, terminated, truncated, info = env.step(action)
            step = world.step(np.stack([np.zeros(2), action]))
            assert (reward, terminated, truncated) == (step.reward[1], step.terminated[1], step.truncated[1])
            # right and off_axis by name, their sum as "cost"
            assert (info["right"], info["off_axis"]) == tuple(step.cost[1])
            assert info["cost"] == pytest.approx(step.cost[1].sum())
            assert info["episode_seed"] == seed
            over, expected = terminated or truncated, step.final_obs[1]
        np.testing.assert_array_equal(obs, expected)


def whole_episode(env: gym.Env) -> list[Any]:
    obs, info = env.reset()
    seen, over = [info["episode_seed"], *obs.tolist()], False
    while not over:
        obs, _, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        seen, over = seen + obs.tolist(), terminated or truncated
    return seen


def test_later_episodes_follow_from_the_first_seed() -> None:
    traces = []
    for _ in range(2):
        env = ToGymnasium(Drift)
        env.reset(seed=8)
        traces.append([whole_episode(env) for _ in range(3)])
    assert traces[0] == traces[1]
    assert len({trace[0] for trace in traces[0]}) == 3


def test_a_plain_reset_after_an_end_hands_out_the_start_the_world_already_made() -> None:
    env = ToGymnasium(Drift)
    env.reset(seed=8)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        over = terminated or truncated
    made = int(env.world.episode_seed[0])
    obs, info = env.reset()
    assert info["episode_seed"] == made
    np.testing.assert_array_equal(obs, Drift(1).reset(np.array([made], np.uint32))[0])


def test_a_seed_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed is 4294967296"):
        ToGymnasium(Drift).reset(seed=2**32)


def test_pictures_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="drift offers no render mode"):
        ToGymnasium(Drift, render_mode="rgb_array")
    assert ToGymnasium(Drift).render() is None


def test_a_factory_must_use_its_argument() -> None:
    with pytest.raises(ConfigError, match="made 3 copies of drift, but was asked for 1"):
        ToGymnasium(lambda _: Drift(3))
    with pytest.raises(ConfigError, match="'level' is an option for a world's name"):
        ToGymnasium(Drift, level=2)


def test_there_and_back_is_the_same_world(rng: np.random.Generator) -> None:
    # Drift -> gymnasium -> vector world, against Drift itself, over several episodes.
    back = FromGymnasium(lambda: ToGymnasium(Drift), 3, costs=Drift.costs, max_episode_steps=12)
    straight = Drift(3)
    for world in (back, straight):
        numbers = iter(range(10**6))
        world.seed_source = lambda n, numbers=numbers: np.array([next(numbers) for _ in range(n)], np.uint32)
    np.testing.assert_array_equal(back.reset(), straight.reset())
    for _ in range(40):
        actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        a, b = back.step(actions), straight.step(actions)
        for name in ("obs", "final_obs", "reward", "cost", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("world", [Drift, DictDrift])
def test_the_vector_face_equals_gymnasiums_sync_vector_env(world: Any, rng: np.random.Generator) -> None:
    class Timed(world):
        # All rows end together, so that both faces can hand out seeds in the same order.
        radius = np.inf
        max_episode_steps = 5

    ours = ToGymnasiumVector(Timed, 3)
    theirs = gym.vector.SyncVectorEnv([lambda: ToGymnasium(Timed)] * 3, autoreset_mode="SameStep")
    ours_next = iter(range(1000, 2000))
    ours.world.seed_source = lambda n: np.array([next(ours_next) for _ in range(n)], np.uint32)
    for i, env in enumerate(theirs.envs):
        numbers = iter(range(1000 + i, 2000, 3))
        env.world.seed_source = lambda n, numbers=numbers: np.array([next(numbers) for _ in range(n)], np.uint32)
    a, b = ours.reset(seed=[5, 6, 7]), theirs.reset(seed=[5, 6, 7])
    assert_same(a, b)
    for _ in range(13):
        actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        a, b = ours.step(actions), theirs.step(actions)
        ended = a[2] | a[3]
        for k, (x, y) in enumerate(zip(a[:4], b[:4], strict=True)):
            assert_same(x, y, f"part {k}")
        for key in ("cost", "right", "off_axis"):
            # Theirs leaves an ended row's cost in final_info alone; ours has it in both places.
            np.testing.assert_array_equal(a[4][key][~ended], b[4].get(key, np.zeros(3))[~ended])
            assert a[4][f"_{key}"].all()
        assert ("final_info" in a[4]) == ("final_info" in b[4]) == bool(ended.any())
        if ended.any():
            assert_same(a[4]["final_info"], b[4]["final_info"])
            np.testing.assert_array_equal(a[4]["final_info"]["cost"], a[4]["cost"])
            for x, y in zip(a[4]["final_obs"], b[4]["final_obs"], strict=True):
                assert_same(x, y)
    assert ours.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP


def assert_same(a: Any, b: Any, what: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), what
        for key in a:
            assert_same(a[key], b[key], f"{what}/{key}")
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, what)
    else:
        np.testing.assert_array_equal(a, b, err_msg=what)


def test_vector_seeds() -> None:
    env = ToGymnasiumVector(Drift, 3)
    env.reset(seed=40)
    assert env.world.episode_seed.tolist() == [40, 41, 42]
    env.reset(seed=[9, None, 9])
    seeds = env.world.episode_seed.tolist()
    assert seeds[0] == seeds[2] == 9 != seeds[1]
    with pytest.raises(ConfigError, match="2 seeds were given for 3"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, bool)})


def test_what_the_vector_face_returned_is_not_written_to_again() -> None:
    class Reused(Drift):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.memory = np.zeros((num_envs, 3), np.float32)

        def _observe(self) -> Any:
            self.memory[:] = super()._observe()
            return self.memory

    env = ToGymnasiumVector(Reused, 2)
    first, _ = env.reset(seed=1)
    kept = first.copy()
    env.step(np.ones((2, 2)))
    np.testing.assert_array_equal(first, kept)


@pytest.fixture
def registered() -> Iterator[str]:
    known = dict(gym.registry)
    if "test-drift-v0" not in {entry.name for entry in registry.entries("env")}:
        registry.add(Entry("env", "test-drift-v0", f"{__name__}:make_drift", "a drifting point"))
    yield "trueline/test-drift-v0"
    registry._found.pop(("env", "test-drift-v0"))
    gym.registry.clear()
    gym.registry.update(known)


def make_drift(id: str, num_envs: int = 1, threads: int = 1, radius: float = 2.5) -> Drift:
    world = Drift(num_envs, threads)
    world.radius = radius
    return world


def test_registered_worlds_are_made_by_gymnasium(registered: str) -> None:
    assert registered in register_all()
    assert registered in register_all()  # again: harmless
    env = gym.make(registered, radius=1.5)
    assert isinstance(env.unwrapped, ToGymnasium)
    assert env.unwrapped.world.radius == 1.5
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, Drift(1).reset([3])[0])
    vector = gym.make_vec(registered, num_envs=4)
    assert isinstance(vector, ToGymnasiumVector)
    assert vector.reset(seed=0)[0].shape == (4, 3)
    assert FromGymnasium(registered, 2, max_episode_steps=12).costs == ("cost",)
