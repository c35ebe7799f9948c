"""Environments in tensors, as the customisation tutorial writes them."""

import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces

from trueline.compat.omnisafe.envs import CMDP, env_register, env_unregister, make, support_envs
from trueline.compat.omnisafe.envs import core as register
from trueline.core.errors import ConfigError, UnknownName
from trueline.rl import worlds
from trueline.rl.check_env import check_env


class Corridor(CMDP):
    """A point that is paid for going right and charged for being beyond 1."""

    _support_envs: ClassVar[list[str]] = ["Corridor-v0", "Corridor-v1"]
    need_auto_reset_wrapper = True
    need_time_limit_wrapper = True
    _num_envs = 1

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        super().__init__(env_id)
        self._action_space = spaces.Box(low=-2.0, high=2.0, shape=(1,))
        self._observation_space = spaces.Box(low=-10.0, high=10.0, shape=(2,))
        self._slip = float(kwargs.get("slip", 0.0))
        self._rng = random.Random(0)
        self._x = 0.0

    @property
    def max_episode_steps(self):
        return 10

    def set_seed(self, seed):
        self._rng = random.Random(seed)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.set_seed(seed)
        self._x = self._rng.uniform(-0.5, 0.5)
        return torch.tensor([self._x, 1.0]), {}

    def step(self, action):
        before = self._x
        self._x += 0.25 * float(action[0]) - self._slip
        obs = torch.tensor([self._x, 1.0])
        cost = torch.as_tensor(float(self._x > 1.0))
        return obs, torch.as_tensor(self._x - before), cost, torch.as_tensor(self._x < -2.0), torch.as_tensor(False), {}

    def render(self):
        return np.full((64, 96, 3), 128, dtype=np.uint8)

    def close(self):
        pass


@pytest.fixture
def corridor():
    env_register(env_unregister(Corridor))
    yield Corridor
    env_unregister(Corridor)


def test_a_registered_class_is_a_world(corridor):
    assert {"Corridor-v0", "Corridor-v1", "SafetyPointGoal1-v0"} <= set(support_envs())
    check_env("Corridor-v0")  # raises what the public checker finds


def test_the_world_steps_as_the_class_does(corridor):
    world = worlds.make("Corridor-v1", 2, slip=0.1)
    assert world.costs == ("cost",)
    assert world.max_episode_steps == 10
    seeds = np.array([5, 9], dtype=np.uint32)
    obs = world.reset(seeds)
    alone = [make("Corridor-v1", slip=0.1) for _ in seeds]
    expected = [env.reset(seed=int(seed))[0] for env, seed in zip(alone, seeds, strict=True)]
    np.testing.assert_array_equal(obs, torch.stack(expected).numpy())
    rng = np.random.default_rng(0)
    for t in range(10):
        actions = rng.uniform(-1.0, 1.0, (2, 1))
        step = world.step(actions)
        for i, env in enumerate(alone):
            # Actions in [-1, 1] reach the environment in its own range, here twice as wide.
            o, r, c, ended, _, _ = env.step(torch.as_tensor(2.0 * actions[i], dtype=torch.float32))
            np.testing.assert_allclose(step.final_obs[i], o.numpy(), atol=1e-6)
            assert step.reward[i] == pytest.approx(float(r), abs=1e-6)
            assert step.cost[i, 0] == float(c)
            assert bool(step.terminated[i]) == bool(ended)
        assert step.truncated.all() == (t == 9)
    world.close()


def test_an_environment_that_begins_anew_by_itself_says_how_an_episode_ended():
    class Anew(Corridor):
        _support_envs: ClassVar[list[str]] = ["Anew-v0"]
        need_auto_reset_wrapper = False
        tells = True

        def step(self, action):
            obs, reward, cost, _, _, _ = super().step(action)
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps % 3:
                return obs, reward, cost, torch.tensor(False), torch.tensor(False), {}
            info = {"final_observation": obs} if self.tells else {}
            return self.reset()[0], reward, cost, torch.tensor(False), torch.tensor(True), info

    env_register(Anew)
    try:
        world = worlds.make("Anew-v0")
        world.reset(np.array([1], dtype=np.uint32))
        x = world.envs[0].env._x
        for _ in range(3):
            step = world.step(np.ones((1, 1)))
        assert step.truncated[0]
        assert step.final_obs[0, 0] == pytest.approx(x + 3 * 0.5, abs=1e-6)
        Anew.tells = False
        with pytest.raises(ConfigError, match="did not say how the last one ended"):
            list(map(world.step, [np.ones((1, 1))] * 3))
    finally:
        env_unregister(Anew)


def test_what_is_no_class_or_has_a_name_already_is_refused(corridor):
    with pytest.raises(ConfigError, match="registered already"):
        env_register(corridor)
    with pytest.raises(ConfigError, match="subclass of CMDP"):
        env_register(dict)
    stolen = type("Stolen", (Corridor,), {"_support_envs": ["SafetyPointGoal1-v0"]})
    with pytest.raises(ConfigError, match="world of Trueline's"):
        env_register(stolen)
    with pytest.raises(ConfigError, match="made by Corridor"):
        env_register(type("Second", (Corridor,), {}))
    with pytest.raises(UnknownName, match="Did you mean 'Corridor-v0'"):
        make("Corridor-v00")


def test_a_class_that_is_forgotten_is_no_world_any_more():
    env_register(env_unregister(Corridor))
    env_unregister(Corridor)
    assert "Corridor-v0" not in support_envs()
    with pytest.raises(UnknownName, match="no registered CMDP"):
        worlds.make("Corridor-v0")


def test_an_endless_environment_and_a_batched_one_are_refused():
    endless = type("Endless", (Corridor,), {"_support_envs": ["Endless-v0"], "max_episode_steps": None})
    many = type("Many", (Corridor,), {"_support_envs": ["Many-v0"], "_num_envs": 4})
    for known, sentence in ((endless, "no limit on its steps"), (many, "steps 4 environments")):
        env_register(known)
        try:
            with pytest.raises(ConfigError, match=sentence):
                worlds.make(known.support_envs()[0])
        finally:
            env_unregister(known)


def test_an_observation_of_another_shape_than_its_space_is_named():
    class Wide(Corridor):
        _support_envs: ClassVar[list[str]] = ["Wide-v0"]

        def reset(self, seed=None, options=None):
            return torch.zeros(3), {}

    env_register(Wide)
    try:
        with pytest.raises(
            ConfigError, match=r"observed an array of shape \(3,\), but its observation_space has .*\(2,\)"
        ):
            worlds.make("Wide-v0").reset()
    finally:
        env_unregister(Wide)


def test_what_an_environment_logs_is_averaged_until_it_is_taken():
    log = register.Logger()
    log.store({"Env/success": 1.0})
    log.store({"Env/success": torch.tensor([0.0, 0.5]), "Env/other": 3})
    assert log.take() == {"Env/success": 0.5, "Env/other": 3.0}
    assert log.take() == {}
    with pytest.raises(ConfigError, match="Env/success was logged as 'yes'"):
        log.store({"Env/success": "yes"})
