"""Several environments stepped together, with a cost per environment and episodes that follow one another.

What `make` builds, and what is built from functions that make equal environments, runs as the rows of one batch in this
process, whether it was asked for as asynchronous or not; anything else is stepped one by one. The next episode begins
in the step that ends one: `infos["final_observation"]` and `infos["final_info"]` hold the old one's last, as in
Gymnasium 0.28.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium import infos as infos_of
from trueline.compat.safety_gymnasium import registration, wrappers
from trueline.compat.safety_gymnasium.config import open_world
from trueline.compat.safety_gymnasium.env import SafetyEnv
from trueline.compat.safety_gymnasium.episodes import Episodes, native_actions
from trueline.core.errors import ConfigError

__all__ = ["SafetyAsyncVectorEnv", "SafetySyncVectorEnv", "VectorEnv", "make", "tile_images"]

MakeEnv = Callable[[], Any]
Act = Callable[[Any], Any]


def tile_images(pictures: Any, padding: int = 5) -> NDArray[np.uint8]:
    """N pictures [N, H, W, C] as one: row by row in a grid as square as can be, `padding` black pixels around each.

    The grid has ⌈√N⌉ rows and ⌈N / rows⌉ columns; places that are left over stay black.
    """
    given = np.asarray(pictures)
    n, height, width, channels = given.shape
    rows = int(np.ceil(np.sqrt(n)))
    columns = int(np.ceil(n / rows))
    tiles = np.zeros((rows * columns, height + 2 * padding, width + 2 * padding, channels), given.dtype)
    tiles[:n, padding : padding + height, padding : padding + width] = given
    grid = tiles.reshape(rows, columns, *tiles.shape[1:]).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * tiles.shape[1], columns * tiles.shape[2], channels)


# --- the two ways to step ---------------------------------------------------------------------------------------------


class _OneByOne:
    """Any environments, stepped in turn."""

    def __init__(self, envs: Sequence[Any], add_info: Callable[[dict[str, Any], dict[str, Any], int], None]) -> None:
        self._envs, self._add_info = envs, add_info
        self._space = envs[0].observation_space

    def _stacked(self, observations: list[Any]) -> Any:
        out: Any = create_empty_array(self._space, n=len(self._envs), fn=np.zeros)
        return concatenate(self._space, observations, out)

    def close(self) -> None:
        pass  # each environment is closed by itself

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        observations, infos = [], dict[str, Any]()
        for i, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            how = {} if seed is None else {"seed": seed}
            observation, info = env.reset(**how) if options is None else env.reset(**how, options=options)
            observations.append(observation)
            self._add_info(infos, info, i)
        return self._stacked(observations), infos

    def step(self, actions: Any) -> tuple[Any, ...]:
        n = len(self._envs)
        observations, infos = [], dict[str, Any]()
        reward, cost = np.zeros(n), np.zeros(n)
        terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        for i, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            observation, reward[i], cost[i], terminated[i], truncated[i], info = env.step(action)
            if terminated[i] or truncated[i]:
                last, told = observation, info
                observation, info = env.reset()
                info["final_observation"], info["final_info"] = last, told
            observations.append(observation)
            self._add_info(infos, info, i)
        return self._stacked(observations), reward, cost, terminated, truncated, infos


class _OneBatch:
    """Rows of one world; each action goes through its environment's action wrappers first."""

    def __init__(self, layers: Sequence[_Layers]) -> None:
        first, limit = layers[0].core, layers[0].limit
        world = open_world(first.task_id, len(layers), first.settings, first.options)
        _, take = native_actions(world)
        self._episodes = Episodes(world, [one.core.first_seed for one in layers], take, first.settings.num_steps)
        self._observations = first.observations_of(world)
        self._limit = limit if limit is not None else self._episodes.limit
        self._layers, self._ids = layers, list(range(len(layers)))
        self._acts = any(one.acts for one in layers)
        self._name = first.name
        for i, one in enumerate(layers):
            one.core.join(self._episodes, self._observations, i)

    def close(self) -> None:
        self._episodes.close()

    def reset(self, seeds: Sequence[int | None], _options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        for one in self._layers:
            for order in one.orders:
                order.was_reset()
        return self._observations.rows(self._episodes.start(seeds), self._ids), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        if self._acts:
            actions = np.stack([_through(one.acts, a) for one, a in zip(self._layers, actions, strict=True)])
        episodes = self._episodes
        step = episodes.step(np.asarray(actions))
        terminated, truncated = episodes.terminated.copy(), episodes.truncated | (episodes.steps >= self._limit)
        ended = terminated | truncated
        infos = infos_of.of_rows(step, self._name, ended)
        obs, reward, cost = step.final_obs, step.reward.copy(), infos_of.cost(step)
        if ended.any():
            rows = np.flatnonzero(ended)
            finals = np.full(len(ended), None, dtype=object)
            for i in rows.tolist():
                finals[i] = self._observations.row(obs, i)
            infos["final_observation"], infos["_final_observation"] = finals, ended.copy()
            obs = episodes.go_on(rows)
        return self._observations.rows(obs, self._ids), reward, cost, terminated, truncated, infos


def _through(acts: Sequence[Act], action: Any) -> Any:
    for act in acts:
        action = act(action)
    return action


@dataclass(frozen=True, slots=True)
class _Layers:
    """An environment of ours and what is around it."""

    core: SafetyEnv
    acts: tuple[Act, ...]  # what wrappers do to an action, the outermost first
    limit: int | None  # steps after which a wrapper truncates
    orders: tuple[wrappers.OrderEnforcing, ...]  # wrappers that wait for a reset


def _layers(env: Any) -> _Layers | None:
    """The environment's layers; None when a wrapper does more than a batch can do for it."""
    acts, limits, orders = list[Act](), list[int](), list[wrappers.OrderEnforcing]()
    while not isinstance(env, SafetyEnv):
        if isinstance(env, wrappers.SafeTimeLimit):
            limits.append(env.max_episode_steps)
        elif isinstance(env, wrappers.OrderEnforcing):
            orders.append(env)
        elif isinstance(env, gym.ActionWrapper):
            if type(env).step is not gym.ActionWrapper.step or type(env).reset is not gym.Wrapper.reset:
                return None
            acts.append(env.action)
        elif not isinstance(env, wrappers.SafePassiveEnvChecker):
            return None
        env = env.env
    return None if env.started else _Layers(env, tuple(acts), min(limits, default=None), tuple(orders))


def _one_batch(envs: Sequence[Any]) -> _OneBatch | None:
    """The environments as one batch; None when they differ, or do more than a batch can do for them."""
    layers = [found for found in map(_layers, envs) if found is not None]
    if len(layers) < len(envs):
        return None
    first, limit = layers[0].core, layers[0].limit
    if any(one.core.recipe != first.recipe or one.limit != limit for one in layers):
        return None
    if first.settings.debug or first.render_mode == "human" or not first.settings.randomize_layout:
        return None
    shortened = min(limit or first.num_steps, first.num_steps) < first.world.max_episode_steps
    if shortened and not first.held:
        return None  # single rows have to be begun, which this world cannot
    return _OneBatch(layers)


# --- the face ---------------------------------------------------------------------------------------------------------


class _SafetyVectorEnv(VectorEnv[Any, Any, Any], gym.Env[Any, Any]):  # type: ignore[misc]
    """N environments; `step(actions [N, A]) -> (obs, reward [N], cost [N], terminated [N], truncated [N], infos)`.

    It is a `gymnasium.Env` too, as it was before Gymnasium 1.0, so that the same wrappers fit.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own declaration)
        "render_modes": ["rgb_array", "depth_array"],
        "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP,
    }
    is_vector_env = True

    def __init__(
        self,
        env_fns: Iterable[MakeEnv],
        observation_space: gym.Space[Any] | None = None,
        action_space: gym.Space[Any] | None = None,
    ) -> None:
        self.envs = [make_env() for make_env in env_fns]
        if not self.envs:
            raise ConfigError("a vector environment was asked for without environments. Give one function or more.")
        first = self.envs[0]
        self.num_envs = len(self.envs)
        self.single_observation_space = observation_space or first.observation_space
        self.single_action_space = action_space or first.action_space
        if not isinstance(self.single_observation_space, gym.Space):
            raise ConfigError("a vector was asked for of environments of several agents. Step these one by one.")
        for i, env in enumerate(self.envs):
            if env.observation_space != self.single_observation_space or env.action_space != self.single_action_space:
                raise ConfigError(f"environment {i} has other spaces than the first. Make them alike.")
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.spec = first.spec
        self.closed = False
        self._core: _OneBatch | _OneByOne = _one_batch(self.envs) or _OneByOne(self.envs, self._add)
        self._actions: Any = None
        self._reset_arguments: tuple[Any, Any] = (None, None)

    def _add(self, infos: dict[str, Any], info: dict[str, Any], i: int) -> None:
        """Put the info of environment `i` into arrays by key, each with a mask `_key`."""
        for key, value in info.items():
            if key not in infos:
                number = isinstance(value, bool | int | float | np.number)
                values = np.zeros(self.num_envs, type(value)) if number else np.full(self.num_envs, None, object)
                infos[key], infos[f"_{key}"] = values, np.zeros(self.num_envs, np.bool_)
            infos[key][i], infos[f"_{key}"][i] = value, True

    @property
    def in_one_batch(self) -> bool:
        """Whether all environments are rows of one world."""
        return isinstance(self._core, _OneBatch)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """First observations everywhere: of seeds s, s + 1, …; of N seeds (None goes on); or all going on."""
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds were given for {self.num_envs} environments. Give one each.")
        return self._core.reset(seeds, options)

    def step(self, actions: Any) -> Any:
        """One step of every environment."""
        try:
            given: Any = np.shape(actions)
        except ValueError:  # lists of different lengths
            given = "none: they differ in length"
        if given != self.action_space.shape:
            raise ConfigError(f"actions of shape {given} were given. Give {self.action_space.shape}.")
        return self._core.step(actions)

    def reset_async(self, seed: Any = None, options: dict[str, Any] | None = None) -> None:
        """What `reset_wait` will reset with."""
        self._reset_arguments = (seed, options)

    def reset_wait(self, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The reset asked for by `reset_async`."""
        asked_seed, asked_options = self._reset_arguments
        self._reset_arguments = (None, None)
        return self.reset(seed=asked_seed if seed is None else seed, options=asked_options or options)

    def step_async(self, actions: Any) -> None:
        """What `step_wait` will step with."""
        self._actions = actions

    def step_wait(self) -> Any:
        """The step asked for by `step_async`."""
        return self.step(self._actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name` of every environment, called with the arguments where it can be called."""
        found = [getattr(env, name) for env in self.envs]
        return tuple(each(*args, **kwargs) if callable(each) else each for each in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment: to one value, or to a list or tuple of N."""
        each = values if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ConfigError(f"{len(each)} values were given for {self.num_envs} environments. Give one each.")
        for env, value in zip(self.envs, each, strict=True):
            setattr(env, name, value)

    def get_images(self) -> list[Any]:
        """A picture of each environment."""
        return [env.render() for env in self.envs]

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """Pictures of all environments, tiled."""
        return tile_images(self.get_images())

    def close_extras(self, **_: Any) -> None:
        """Free the worlds."""
        for env in self.envs:
            env.close()
        self._core.close()


class SafetySyncVectorEnv(_SafetyVectorEnv):
    """As the original's; `copy` is taken and not needed, since what is returned is never written to again."""

    def __init__(
        self,
        env_fns: Iterable[MakeEnv],
        observation_space: gym.Space[Any] | None = None,
        action_space: gym.Space[Any] | None = None,
        copy: bool = True,
    ) -> None:
        del copy
        super().__init__(env_fns, observation_space, action_space)


class SafetyAsyncVectorEnv(_SafetyVectorEnv):
    """As the original's, without its processes: what concerns them is taken and not needed."""

    def __init__(
        self,
        env_fns: Iterable[MakeEnv],
        observation_space: gym.Space[Any] | None = None,
        action_space: gym.Space[Any] | None = None,
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: Callable[..., Any] | None = None,
    ) -> None:
        del shared_memory, copy, context, daemon
        if worker is not None:
            raise ConfigError("a worker was given, but these environments run in this process. Leave it out.")
        super().__init__(env_fns, observation_space, action_space)


def make(
    env_id: str,
    num_envs: int = 1,
    asynchronous: bool = True,
    wrappers: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None,
    disable_env_checker: bool | None = None,
    **kwargs: Any,
) -> SafetyAsyncVectorEnv | SafetySyncVectorEnv:
    """`num_envs` environments of one id; each is wrapped in `wrappers`, the first of them innermost.

    asynchronous decides which class stands for them and nothing else; kwargs go to `safety_gymnasium.make`.
    """
    if not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ConfigError(f"num_envs is {num_envs!r:.40}. Give a whole number, 1 or more.")
    around = [] if wrappers is None else [wrappers] if callable(wrappers) else list(wrappers)

    def make_env(i: int) -> MakeEnv:
        def build() -> Any:
            env = registration.make(env_id, disable_env_checker=True if i else disable_env_checker, **kwargs)
            for wrapper in around:
                env = wrapper(env)
            return env

        return build

    env_fns = [make_env(i) for i in range(num_envs)]
    return SafetyAsyncVectorEnv(env_fns) if asynchronous else SafetySyncVectorEnv(env_fns)
