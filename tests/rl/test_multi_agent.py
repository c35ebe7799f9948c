"""The multi-agent contract, its checker on worlds that break it, and PettingZoo's face of it."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from trueline.core.errors import BadWorld, ConfigError, MissingExtra
from trueline.rl.env import Stateful
from trueline.rl.multi_agent import MultiAgentStep, check_multi_agent
from trueline.rl.to_pettingzoo import ToPettingZoo


class Carriers:
    """Two carry a load along a line: `left` by two forces, `right` by one, each paid by its own share of the way."""

    id = "carriers"
    agents: tuple[str, ...] = ("left", "right")
    costs: tuple[str, ...] = ("strain", "outside")
    max_episode_steps = 8

    def __init__(self, num_envs: int, threads: int = 1) -> None:
        self.num_envs, self.threads = num_envs, threads
        self.observation_spaces: dict[str, gym.Space] = {
            "left": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "right": gym.spaces.Box(-np.inf, np.inf, (1,), np.float64),
        }
        self.action_spaces: dict[str, gym.Space] = {
            "left": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
            "right": gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
        }
        self.state_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.episode_seed = np.zeros(num_envs, np.uint32)
        own = np.random.default_rng(7)
        self.seed_source: Any = lambda n: own.integers(0, 2**32, n, dtype=np.uint32)
        self.x, self.t = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.closed = False

    def _begin(self, ids: Any, seeds: Any) -> None:
        for i, seed in zip(ids, seeds, strict=True):
            self.episode_seed[i], self.t[i] = seed, 0
            self.x[i] = np.random.default_rng(int(seed)).normal()

    def _obs(self) -> dict[str, Any]:
        return {"left": np.column_stack([self.x, self.t / 8.0]), "right": -self.x[:, None]}

    def state(self) -> Any:
        return np.column_stack([self.x, self.t.astype(np.float64)])

    def reset(self, seeds: Any = None) -> dict[str, Any]:
        self._begin(range(self.num_envs), self.seed_source(self.num_envs) if seeds is None else seeds)
        return self._obs()

    def step(self, actions: Mapping[str, Any]) -> MultiAgentStep:
        push = {agent: np.clip(np.asarray(actions[agent], np.float64), -1.0, 1.0) for agent in self.agents}
        left, right = push["left"].sum(axis=1), push["right"][:, 0]
        self.x = self.x + 0.2 * left + 0.3 * right
        self.t = self.t + 1
        reward = np.column_stack([0.2 * left, 0.3 * right])
        outside = np.abs(self.x) > 1.0
        cost = np.stack([np.column_stack([np.abs(force), outside]) for force in (left, right)], axis=1)
        terminated, truncated = np.abs(self.x) > 2.0, self.t >= self.max_episode_steps
        final_obs, final_state = self._obs(), self.state()
        ids = np.flatnonzero(terminated | truncated)
        self._begin(ids.tolist(), self.seed_source(len(ids)))
        obs, state = self._obs(), self.state()
        told = {"pushes": left + right}
        return MultiAgentStep(obs, state, reward, cost, terminated, truncated, final_obs, final_state, told)

    def close(self) -> None:
        self.closed = True


class SavedCarriers(Carriers):
    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x.copy(), "t": self.t.copy(), "seed": self.episode_seed.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        self.x, self.t = np.array(state["x"]), np.array(state["t"])
        self.episode_seed[:] = state["seed"]
        return self._obs()


class Callers(Carriers):
    """The same with choices instead of forces."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.action_spaces = {"left": gym.spaces.Discrete(3), "right": gym.spaces.Discrete(2)}

    def step(self, actions: Mapping[str, Any]) -> MultiAgentStep:
        left, right = np.asarray(actions["left"]) - 1.0, 2.0 * np.asarray(actions["right"]) - 1.0
        return super().step({"left": np.column_stack([left, 0.0 * left]), "right": right[:, None]})


# --- the checker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [Carriers, SavedCarriers, Callers])
def test_worlds_that_keep_the_contract_pass(world):
    check_multi_agent(world, steps=40)
    assert isinstance(world(1), Stateful) == (world is SavedCarriers)


class NoState(Carriers):
    def __getattribute__(self, name: str) -> Any:
        if name == "state":
            raise AttributeError(name)
        return super().__getattribute__(name)


class TwoOfOneName(Carriers):
    agents = ("left", "left")


class NoSpaceForRight(Carriers):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        del self.action_spaces["right"]


class UnlikeActions(Carriers):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.action_spaces["right"] = gym.spaces.Discrete(2)


class SharedReward(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.reward = step.reward.sum(axis=1)
        return step


class CostsSwapped(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.cost = step.cost.transpose(0, 2, 1)[:, :1]
        return step


class StaleState(Carriers):
    def state(self) -> Any:
        return np.zeros((self.num_envs, 2))

    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.state = step.state + 1.0
        return step


class RightSeesTheNewEpisode(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.final_obs = {**step.final_obs, "right": step.obs["right"]}
        return step


class RewardOfTheRowAbove(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.reward = np.column_stack([step.reward[:, 0], np.roll(step.reward[:, 1], 1)])
        return step


class Unclipped(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.cost = step.cost + np.abs(actions["right"]).max(axis=1)[:, None, None]
        return step


class ForgetfulState(SavedCarriers):
    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        super().load_state_dict(state)
        self.t = np.zeros_like(self.t)
        return self._obs()


class ThreadsMatter(Carriers):
    def step(self, actions: Any) -> MultiAgentStep:
        step = super().step(actions)
        step.reward = step.reward * self.threads
        return step


@pytest.mark.parametrize(
    ("world", "complaint"),
    [
        (NoState, "It has no state"),
        (TwoOfOneName, "tuple of one or more different names"),
        (NoSpaceForRight, "action_spaces has the keys left, but should have one per agent"),
        (UnlikeActions, "flat Boxes, or Discrete, for all agents"),
        (SharedReward, r"reward has the shape \[3\], but should have \[3, 2\]"),
        (CostsSwapped, r"cost has the shape \[3, 1, 2\], but should have \[3, 2, 2\]"),
        (StaleState, r"state\(\) does not return the state of the last step"),
        (RightSeesTheNewEpisode, "final_obs"),
        (RewardOfTheRowAbove, "The same seed and actions do not give the same episode"),
        (Unclipped, "not clipped"),
        (ForgetfulState, "load_state_dict does not return the observations"),
        (ThreadsMatter, "Two threads give other results than one"),
    ],
)
def test_worlds_that_break_it_are_told_how(world, complaint):
    with pytest.raises(BadWorld, match=complaint):
        check_multi_agent(world, steps=40)


# --- PettingZoo -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [Carriers, Callers])
def test_pettingzoos_own_tests_pass(world, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ToPettingZoo(world), num_cycles=30)
        parallel_seed_test(lambda: ToPettingZoo(world), num_cycles=30)
    assert "Passed" in capsys.readouterr().out


def test_the_face_shows_the_worlds_episodes_agent_by_agent():
    env, world, rng = ToPettingZoo(Carriers), Carriers(1), np.random.default_rng(0)
    obs, infos = env.reset(seed=5)
    first = world.reset(np.array([5], np.uint32))
    assert infos == {agent: {"episode_seed": 5} for agent in ("left", "right")}
    for agent in env.agents:
        np.testing.assert_array_equal(obs[agent], first[agent][0])
    for t in range(1, 9):
        actions = {"left": rng.uniform(-0.3, 0.3, 2), "right": rng.uniform(-0.3, 0.3, 1)}
        obs, rewards, terminations, truncations, infos = env.step(actions)
        step = world.step({agent: action[None] for agent, action in actions.items()})
        assert list(rewards.values()) == step.reward[0].tolist()
        assert list(terminations.values()) == [False, False]
        assert list(truncations.values()) == [t == 8] * 2
        for k, agent in enumerate(("left", "right")):
            np.testing.assert_array_equal(obs[agent], step.final_obs[agent][0])
            strain, outside = step.cost[0, k]
            told = {"episode_seed": 5, "pushes": step.info["pushes"][0]}
            assert infos[agent] == {**told, "cost": strain + outside, "strain": strain, "outside": outside}
        np.testing.assert_array_equal(env.state(), step.final_state[0])
    assert env.agents == []
    with pytest.raises(ConfigError, match=r"Call reset\(\) first"):
        env.step(actions)


def test_a_reset_after_an_episode_goes_on_with_the_one_that_the_world_began():
    env = ToPettingZoo(Carriers)
    env.reset(seed=5)
    while env.agents:
        env.step({"left": np.zeros(2), "right": np.zeros(1)})
    following = int(env.world.episode_seed[0])
    obs, infos = env.reset()
    assert infos["left"]["episode_seed"] == following
    again, _ = env.reset(seed=following)
    np.testing.assert_array_equal(obs["left"], again["left"])
    assert env.reset()[1]["left"]["episode_seed"] != following  # in the middle of an episode a new one is drawn


def test_bad_use_of_the_face_is_named():
    env = ToPettingZoo(Carriers)
    with pytest.raises(ConfigError, match="before its first reset"):
        env.state()
    with pytest.raises(ConfigError, match="32-bit seeds"):
        env.reset(seed=-1)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="no action for right"):
        env.step({"left": np.zeros(2)})
    with pytest.raises(ConfigError, match="no render mode"):
        ToPettingZoo(Carriers, render_mode="rgb_array")
    with pytest.raises(ConfigError, match="made 2 copies of carriers"):
        ToPettingZoo(lambda _: Carriers(2))
    env.close()
    assert env.world.closed


def test_without_pettingzoo_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "trueline.rl.to_pettingzoo")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pettingzoo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(MissingExtra, match=r"trueline\[games\]"):
        importlib.import_module("trueline.rl.to_pettingzoo")


def test_a_world_of_several_agents_is_made_by_its_id_and_not_as_one_of_a_single_agent():
    from trueline.core.errors import ConfigError
    from trueline.rl import worlds
    from trueline.rl.to_pettingzoo import ToPettingZoo

    with pytest.raises(ConfigError, match="a world of several agents"):
        worlds.make("SafetyPointMultiGoal1-v0", 1)
    assert len(ToPettingZoo("SafetyPointMultiGoal1-v0").possible_agents) == 2
    assert worlds.make_multi_agent("SafetyPointMultiGoal1-v0", 3).num_envs == 3
