"""Gymnasium environments behind the vector contract: compared with the environments themselves, stepped by hand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from trueline.core.errors import ConfigError
from trueline.rl.check_env import check_env
from trueline.rl.env import Stateful
from trueline.rl.from_gymnasium import FromGymnasium


class Slide(gym.Env):
    """A point on a line, pushed by one action in [-2, 4]; reports costs as `report` says."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-2.0, 4.0, (1,), np.float32)
    report = "number"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.normal()), 0
        return self._obs(), {}

    def _obs(self) -> Any:
        return np.array([self.x, self.t], np.float32)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.x += float(action[0]) + 0.1 * float(self.np_random.normal())
        self.t += 1
        far, fast = float(abs(self.x) > 1), abs(float(action[0]))
        info: dict[str, Any] = {
            "number": {"cost": far},
            "sequence": {"cost": [far, fast]},
            "mapping": {"cost": {"far": far, "fast": fast}},
            "named": {"cost": far + fast, "cost_far": far, "cost_fast": fast, "far_seen": True},
            "none": {},
            "late": {"cost": far} if self.t > 1 else {},
            "six": {},
        }[self.report]
        head = (self._obs(), self.x, far + fast) if self.report == "six" else (self._obs(), self.x)
        return (*head, abs(self.x) > 6, False, info)


def slide(report: str) -> Any:
    def make() -> Slide:
        env = Slide()
        env.report = report
        return env

    return make


class SavedSlide(Slide):
    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x, "t": self.t, "rng": self.np_random.bit_generator.state}

    def load_state_dict(self, state: Any) -> Any:
        self.x, self.t = state["x"], state["t"]
        self.np_random.bit_generator.state = state["rng"]
        return self._obs()


def counting(start: int) -> Any:
    numbers = iter(range(start, start + 10**6))
    return lambda n: np.array([next(numbers) for _ in range(n)], np.uint32)


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_every_row_is_the_environment_stepped_by_hand(id: str, rng: np.random.Generator) -> None:
    world = FromGymnasium(id, 3, max_episode_steps=25)
    world.seed_source = counting(100)
    hand = [gym.make(id, max_episode_steps=25) for _ in range(3)]
    seeds = np.array([4, 9, 1], np.uint32)
    obs = world.reset(seeds)
    np.testing.assert_array_equal(obs, np.stack([e.reset(seed=int(s))[0] for e, s in zip(hand, seeds, strict=True)]))
    following = iter(range(100, 10**6))
    episodes = 0
    for _ in range(60):
        if id == "CartPole-v1":
            actions = inner = rng.integers(0, 2, 3)
        else:
            actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
            inner = 2.0 * actions  # Pendulum's torque is in [-2, 2]
        step = world.step(actions)
        for i, env in enumerate(hand):
            last, reward, terminated, truncated, _ = env.step(inner[i])
            np.testing.assert_array_equal(step.final_obs[i], last)
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                episodes += 1
                new = next(following)
                last, _ = env.reset(seed=new)
                assert world.episode_seed[i] == new
            np.testing.assert_array_equal(step.obs[i], last)
    assert episodes >= 6
    assert world.costs == ()
    assert step.cost.shape == (3, 0)


def test_the_limit_of_the_registration_is_kept() -> None:
    world = FromGymnasium("Pendulum-v1", 2)
    assert world.max_episode_steps == 200
    world.reset()
    ended = [world.step(np.zeros((2, 1))).truncated.all() for _ in range(200)]
    assert ended == [False] * 199 + [True]


@pytest.mark.parametrize(
    ("report", "wanted", "names"),
    [
        ("number", None, ("cost",)),
        ("six", None, ("cost",)),
        ("sequence", None, ("cost_0", "cost_1")),
        ("sequence", ("far", "fast"), ("far", "fast")),
        ("mapping", None, ("far", "fast")),
        ("mapping", ("fast",), ("fast",)),
        ("named", ("cost_fast", "cost_far"), ("cost_fast", "cost_far")),
        ("named", None, ("cost",)),
        ("none", None, ()),
        ("number", (), ()),
        ("late", (), ()),
    ],
)
def test_costs_are_found_wherever_they_are_reported(report: str, wanted: Any, names: tuple[str, ...]) -> None:
    world = FromGymnasium(slide(report), 2, costs=wanted, max_episode_steps=10)
    assert world.costs == names
    world.reset(np.array([1, 2], np.uint32))
    step = world.step(np.array([[1.0], [0.0]]))  # pushes of 4 and 1: the middle of [-2, 4] is 1
    far = (np.abs(step.final_obs[:, 0]) > 1).astype(float)
    fast = np.array([4.0, 1.0])
    truth = {"far": far, "cost_far": far, "cost_0": far, "fast": fast, "cost_fast": fast, "cost_1": fast}
    truth["cost"] = far if report == "number" else far + fast
    assert step.cost.shape == (2, len(names))
    for k, name in enumerate(names):
        np.testing.assert_array_equal(step.cost[:, k], truth[name])


def test_a_cost_that_is_not_reported_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"costs names 'cost_fat'.*Did you mean 'cost_fa"):
        FromGymnasium(slide("named"), 1, costs=("cost_fat",), max_episode_steps=5)
    with pytest.raises(ConfigError, match="costs has 1 names, but a step reports 2 costs"):
        FromGymnasium(slide("sequence"), 1, costs=("a",), max_episode_steps=5)


def test_a_cost_that_appears_later_is_not_dropped_in_silence() -> None:
    world = FromGymnasium(slide("late"), 2, max_episode_steps=5)
    world.reset()
    world.step(np.zeros((2, 1)))
    with pytest.raises(ConfigError, match=r"a cost that its first step did not report in environment 0 at step 1"):
        world.step(np.zeros((2, 1)))


def test_a_cost_that_disappears_is_not_zero() -> None:
    world = FromGymnasium(slide("number"), 2, max_episode_steps=5)
    world.reset()
    world.envs[1].unwrapped.report = "none"
    with pytest.raises(ConfigError, match=r"reported no cost in environment 1 at step 0"):
        world.step(np.zeros((2, 1)))


def test_actions_are_clipped_then_rescaled_once() -> None:
    world = FromGymnasium(slide("sequence"), 4, max_episode_steps=5)
    world.reset()
    cost = world.step(np.array([[-7.0], [-1.0], [0.5], [3.0]])).cost
    # [-1, 1] -> [-2, 4] is 1 + 3a; the second cost is the size of the push.
    np.testing.assert_allclose(cost[:, 1], [2.0, 2.0, 2.5, 4.0])
    assert (world.action_space.low == -1).all()
    assert (world.action_space.high == 1).all()


def test_dimensions_without_bounds_are_passed_through_and_said_to_be() -> None:
    class Wide(Slide):
        action_space = gym.spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, 10.0]), dtype=np.float64)
        seen: Any = None

        def step(self, action: Any) -> Any:
            Wide.seen = action
            return super().step(action)

    world = FromGymnasium(Wide, 1, max_episode_steps=5)
    np.testing.assert_array_equal(world.action_space.high, [np.inf, 1.0])
    world.reset()
    world.step(np.array([[7.5, 7.5]]))
    np.testing.assert_array_equal(Wide.seen, [7.5, 10.0])


def test_choices_count_from_zero_outside_and_from_their_start_inside() -> None:
    class Shifted(Slide):
        seen: Any = None

        def step(self, action: Any) -> Any:
            Shifted.seen = action
            assert self.action_space.contains(action)
            return self._obs(), 0.0, False, False, {}

    Shifted.action_space = gym.spaces.Discrete(3, start=-1)
    world = FromGymnasium(Shifted, 1, max_episode_steps=5)
    assert world.action_space == gym.spaces.Discrete(3)
    world.reset()
    world.step(np.array([2]))
    assert Shifted.seen == 1

    Shifted.action_space = gym.spaces.MultiDiscrete([2, 4])
    world = FromGymnasium(Shifted, 1, max_episode_steps=5)
    world.reset()
    world.step(np.array([[1, 3]]))
    np.testing.assert_array_equal(Shifted.seen, [1, 3])


def test_dict_observations_are_stacked_by_key() -> None:
    class Seen(Slide):
        observation_space = gym.spaces.Dict(
            {"x": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), "side": gym.spaces.Discrete(2)}
        )

        def _obs(self) -> Any:
            return {"x": np.array([self.x], np.float32), "side": np.int64(self.x > 0)}

    check_env(lambda n: FromGymnasium(Seen, n, max_episode_steps=7), steps=30)
    world = FromGymnasium(Seen, 5, max_episode_steps=7)
    obs = world.reset()
    assert obs["x"].shape == (5, 1)
    np.testing.assert_array_equal(obs["side"], obs["x"][:, 0] > 0)


def test_an_environment_without_a_limit_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"Slide sets no limit.*Give max_episode_steps"):
        FromGymnasium(slide("none"), 1)
    assert FromGymnasium(lambda: gym.wrappers.TimeLimit(Slide(), 9), 1).max_episode_steps == 9


def test_a_limit_that_could_not_take_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_episode_steps is 20, but Slide cuts its own episodes after 9"):
        FromGymnasium(lambda: gym.wrappers.TimeLimit(Slide(), 9), 1, max_episode_steps=20)
    assert FromGymnasium("Pendulum-v1", 1, max_episode_steps=900).max_episode_steps == 900


@pytest.mark.parametrize("options", [{"num_envs": 0}, {"max_episode_steps": 0}, {"g": 9.81}])
def test_settings_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FromGymnasium(**{"world": slide("none"), "num_envs": 1, "max_episode_steps": 5, **options})


def test_options_reach_the_registered_environment() -> None:
    assert FromGymnasium("Pendulum-v1", 1, g=3.0).envs[0].unwrapped.g == 3.0


def test_whether_it_is_stateful_depends_on_the_environments() -> None:
    assert not isinstance(FromGymnasium(slide("none"), 2, max_episode_steps=5), Stateful)
    assert isinstance(FromGymnasium(SavedSlide, 2, max_episode_steps=5), Stateful)
    # A wrapper that averages keeps state which the environment's own state_dict does not hold.
    hidden = FromGymnasium(lambda: gym.wrappers.NormalizeObservation(SavedSlide()), 2, max_episode_steps=5)
    assert not isinstance(hidden, Stateful)


@pytest.mark.parametrize("limit", ["own", "wrapper"])
def test_a_stateful_environment_resumes_bit_for_bit(limit: str) -> None:
    if limit == "own":
        check_env(lambda n: FromGymnasium(SavedSlide, n, max_episode_steps=7), steps=60)
    else:
        check_env(lambda n: FromGymnasium(lambda: gym.wrappers.TimeLimit(SavedSlide(), 7), n), steps=60)


@pytest.mark.parametrize("report", ["number", "sequence", "mapping", "named", "six"])
def test_cost_worlds_keep_the_contract(report: str) -> None:
    check_env(lambda n: FromGymnasium(slide(report), n, max_episode_steps=7), steps=30)
