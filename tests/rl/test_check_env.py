"""The checker passes worlds that keep the contract and names each way in which one can fail to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_worlds import Bandit, DictDrift, Drift, SavedDrift

from trueline.core.errors import BadWorld, ConfigError
from trueline.rl.check_env import BrokenContract, check_env
from trueline.rl.env import Step
from trueline.rl.from_gymnasium import FromGymnasium


@pytest.mark.parametrize("world", [Drift, SavedDrift, DictDrift, Bandit])
def test_worlds_that_keep_the_contract_pass(world: Any) -> None:
    check_env(world, steps=60)


def test_a_world_without_costs_passes() -> None:
    class Free(Drift):
        costs = ()

        def step(self, actions: Any) -> Step:
            step = super().step(actions)
            step.cost = np.zeros((self.num_envs, 0))
            return step

    check_env(Free, steps=30)


def test_gymnasium_worlds_pass_by_name() -> None:
    check_env("CartPole-v1", steps=60)
    check_env("Pendulum-v1", steps=20)


def complaints(world: Any, **options: Any) -> str:
    with pytest.raises(BrokenContract) as caught:
        check_env(world, **{"steps": 60, **options})
    assert isinstance(caught.value, BadWorld)
    assert all(v.endswith(".") for v in caught.value.violations)
    assert len(set(caught.value.violations)) == len(caught.value.violations)
    return "\n".join(caught.value.violations)


class NewEpisodeInFinalObs(Drift):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.final_obs = step.obs.copy()
        return step


class OnlyTheOneRowOfFinalObs(Drift):
    """final_obs is right where an episode ended and zero elsewhere."""

    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.final_obs = np.where(step.ended[:, None], step.final_obs, 0.0).astype(np.float32)
        return step


class CostWithoutAxis(Drift):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.cost = step.cost[:, 0]
        return step


class CostOfWrongWidth(Drift):
    costs = ("right",)


class RewardOfWholeNumbers(Drift):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.reward = step.reward.astype(np.int64)
        return step


class NeverResets(Drift):
    """Goes on from where the old episode was, under the new seed."""

    def _begin(self, i: int, seed: int) -> None:
        if self.t[i]:
            self.episode_seed[i], self.t[i] = seed, 0
        else:
            super()._begin(i, seed)


class NeverEnds(Drift):
    radius = np.inf

    def step(self, actions: Any) -> Step:
        self.t[:] = 0
        return super().step(actions)


class IgnoresTheSeed(Drift):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.luck = np.random.default_rng()

    def _begin(self, i: int, seed: int) -> None:
        super()._begin(i, seed)
        self.position[i] = self.luck.normal(size=2)


class RowsShareTheirNoise(Drift):
    def step(self, actions: Any) -> Step:
        self.rngs = [self.rngs[0]] * self.num_envs
        return super().step(actions)


class RemembersTheLastEpisode(Drift):
    """A counter that no reset clears moves the point."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.worn = np.zeros(num_envs)

    def _push(self, actions: Any) -> Any:
        self.worn += 0.01
        return super()._push(actions) - self.worn[:, None]


class OwnSeeds(Drift):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.luck = np.random.default_rng(5)

    def _begin(self, i: int, seed: int) -> None:
        super()._begin(i, int(self.luck.integers(2**32)) if self.t[i] else seed)


class SeedNotRecorded(Drift):
    def _begin(self, i: int, seed: int) -> None:
        known = self.episode_seed[i]
        super()._begin(i, seed)
        self.episode_seed[i] = known


class TakesAnyAction(Drift):
    def _push(self, actions: Any) -> Any:
        return np.asarray(actions, np.float64)


class WideActions(Drift):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)


class ChangesItsActions(Drift):
    def _push(self, actions: Any) -> Any:
        actions *= 0.5
        return super()._push(actions)


class DoubleObservations(Drift):
    def _observe(self) -> Any:
        return super()._observe().astype(np.float64)


class ForgetsItsStream(SavedDrift):
    def load_state_dict(self, state: Any) -> Any:
        own = [rng.bit_generator.state for rng in self.rngs]
        return super().load_state_dict({**state, "rngs": own})


class LiveState(SavedDrift):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "position": self.position}


class ForeignState(SavedDrift):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "note": {1, 2}}


class CountsItsThreads(Drift):
    def _push(self, actions: Any) -> Any:
        return super()._push(actions) + 1e-6 * self.threads


class NotFinite(Drift):
    def step(self, actions: Any) -> Step:
        step = super().step(actions)
        step.cost[1, 0] = np.nan
        return step


@pytest.mark.parametrize(
    ("world", "says"),
    [
        (NewEpisodeInFinalObs, "final_obs holds the first observation of the new episode"),
        (NewEpisodeInFinalObs, "final_obs depends on which episode comes next"),
        (OnlyTheOneRowOfFinalObs, "final_obs differs from obs in a row whose episode goes on"),
        (CostWithoutAxis, "cost is float64 [3], but should be floats [3, 2]"),
        (CostOfWrongWidth, "cost is float64 [3, 2], but should be floats [3, 1]"),
        (RewardOfWholeNumbers, "reward is int64 [3], but should be floats [3]"),
        (NeverResets, "After an autoreset obs is not the first observation of the episode"),
        (NeverEnds, "An episode did not end at max_episode_steps, 12"),
        (IgnoresTheSeed, "The same seed does not start the same episode"),
        (RowsShareTheirNoise, "do not give the same episode: state leaks in"),
        (RemembersTheLastEpisode, "do not give the same episode: state leaks in"),
        (OwnSeeds, "After an autoreset episode_seed is not a new seed from seed_source"),
        (SeedNotRecorded, "episode_seed does not hold the seeds that reset was given"),
        (TakesAnyAction, "Actions outside [-1, 1] are not clipped"),
        (WideActions, "action_space has bounds other than -1 and 1"),
        (ChangesItsActions, "step changes the actions it is given"),
        (DoubleObservations, "reset returned observations that are float64 [3, 3], but should be float32 [3, 3]"),
        (ForgetsItsStream, "A world that took up a state does not continue as the original did"),
        (LiveState, "load_state_dict does not return the observations that belong to the state"),
        (ForeignState, "state_dict holds a set at /note"),
        (CountsItsThreads, "Two threads give other results than one"),
        (NotFinite, "cost is not finite"),
    ],
)
def test_each_defect_is_named(world: Any, says: str) -> None:
    assert says in complaints(world)


def test_all_defects_of_one_world_are_listed_together() -> None:
    class Several(TakesAnyAction, NewEpisodeInFinalObs, ForgetsItsStream):
        pass

    found = complaints(Several)
    for part in ("not clipped", "final_obs holds", "does not continue"):
        assert part in found


def test_a_late_autoreset_is_reached_although_few_steps_were_asked_for() -> None:
    # Episodes last 12 steps: a single step would never see an autoreset.
    assert "After an autoreset" in complaints(NeverResets, steps=1)


def test_a_leak_through_reset_is_found_without_autoresets() -> None:
    class Long(RemembersTheLastEpisode):
        max_episode_steps, radius = 50, np.inf

    assert "state leaks in" in complaints(Long, steps=50)


def test_no_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        check_env(Drift, steps=0)


def test_every_world_is_closed() -> None:
    made: list[Drift] = []

    def factory(n: int, threads: int = 1) -> Drift:
        made.append(SavedDrift(n, threads))
        return made[-1]

    check_env(factory, steps=20)
    assert len(made) > 5
    assert all(world.closed for world in made)


def test_the_adapter_of_an_environment_that_ignores_its_seed_is_caught() -> None:
    class Unseeded(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.random.default_rng().normal(size=1), {}

        def step(self, action: Any) -> Any:
            return np.zeros(1), 0.0, False, False, {}

    assert "same seed" in complaints(lambda n: FromGymnasium(Unseeded, n, max_episode_steps=5))
