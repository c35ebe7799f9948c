"""Vector worlds behind Gymnasium's faces: one environment, or N with same-step autoreset.

After `register_all()` every registered world is made by `gymnasium.make("trueline/<id>")` and `gymnasium.make_vec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from trueline.core import registry
from trueline.core.errors import ConfigError
from trueline.rl.env import Obs, Step, VectorEnv, Visible, observation_rows
from trueline.rl.worlds import make

World = str | Callable[[int], VectorEnv]

NAMESPACE = "trueline"


def _build(world: World, num_envs: int, options: Mapping[str, Any]) -> VectorEnv:
    if isinstance(world, str):
        return make(world, num_envs, **options)
    if options:
        raise ConfigError(f"{next(iter(options))!r} is an option for a world's name. Set it inside the factory.")
    built = world(num_envs)
    if built.num_envs != num_envs:
        raise ConfigError(
            f"the factory made {built.num_envs} copies of {built.id}, but was asked for {num_envs}. Use its argument."
        )
    return built


def _seed(given: int) -> np.uint32:
    if not 0 <= given < 2**32:
        raise ConfigError(f"seed is {given}, but episodes have 32-bit seeds. Use one from 0 to 4294967295.")
    return np.uint32(given)


def _row(obs: Obs, i: int) -> Any:
    """One environment's observation, a copy: a world may write its next one into the same memory."""
    if isinstance(obs, dict):
        return {key: _row(value, i) for key, value in obs.items()}
    row = np.array(obs[i])
    return row[()] if row.ndim == 0 else row  # Gymnasium's Discrete holds scalars, not arrays without dimensions


def _copy(obs: Obs) -> Obs:
    return observation_rows(obs, np.arange(len(next(iter(obs.values())) if isinstance(obs, dict) else obs)))


def _named_costs(names: Sequence[str], cost: NDArray[np.float64]) -> dict[str, Any]:
    """`cost` [..., K] as {"cost": Σₖ [...], name: [...]}; a cost that is itself called "cost" keeps its own value."""
    if not names:
        return {}
    return {"cost": cost.sum(-1), **{name: cost[..., k] for k, name in enumerate(names)}}


class ToGymnasium(gym.Env[Any, Any]):
    """One copy of a world as a `gymnasium.Env`.

    `reset(seed=s)` starts exactly the world's episode of seed s; later resets without a seed draw from `np_random`.
    info["cost"] is the sum of the step's costs, which are also there by name; info["episode_seed"] says which episode
    runs. A reset in the middle of an episode starts a new one.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(self, world: World, render_mode: str | None = None, **options: Any) -> None:
        """world: a name, made with `options`, or a function from a number of environments to a world.

        Raises ConfigError when pictures are asked for that the world does not have.
        """
        self.world = _build(world, 1, options)
        if not isinstance(self.world, Visible):
            self.metadata = {"render_modes": []}
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = ", ".join(self.metadata["render_modes"]) or "no render mode"
            raise ConfigError(f"render_mode is {render_mode!r}, but {self.world.id} offers {modes}.")
        self.render_mode = render_mode
        self.observation_space = self.world.observation_space
        self.action_space = self.world.action_space
        self.world.seed_source = lambda n: self.np_random.integers(0, 2**32, size=n, dtype=np.uint32)
        # A world starts its next episode in the step that ends one; a plain reset then hands out that start.
        self._next: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of the episode of `seed`, or of the next drawn one. `options` are not used."""
        del options
        chosen = None if seed is None else np.array([_seed(seed)], np.uint32)
        super().reset(seed=seed)
        if seed is None and self._next is not None:
            first = self._next
        else:
            first = _row(self.world.reset(chosen), 0)
        self._next = None
        return first, {"episode_seed": int(self.world.episode_seed[0])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the observation is always that of the episode the action was taken in."""
        seed = int(self.world.episode_seed[0])
        step = self.world.step(np.asarray(action)[None])
        ended = bool(step.ended[0])
        self._next = _row(step.obs, 0) if ended else None
        info = {key: value[0] for key, value in step.info.items()}
        info |= {key: float(value) for key, value in _named_costs(self.world.costs, step.cost[0]).items()}
        info["episode_seed"] = seed
        observation = _row(step.final_obs, 0)
        return observation, float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), info

    def render(self) -> Any:
        """A picture [H, W, 3], or None without a render mode."""
        return self.world.render(0) if self.render_mode is not None and isinstance(self.world, Visible) else None

    def close(self) -> None:
        """Free the world."""
        self.world.close()


class ToGymnasiumVector(gym.vector.VectorEnv[Any, Any, Any]):
    """N copies of a world as a `gymnasium.vector.VectorEnv` with same-step autoreset.

    Infos are those of `SyncVectorEnv` over `ToGymnasium`, with one addition: costs are given for every row, also where
    an episode ended. There, `final_obs` and `final_info` describe the old episode's last step, as Gymnasium has it.
    """

    def __init__(self, world: World, num_envs: int = 1, **options: Any) -> None:
        """world: a name, made with `options`, or a function from a number of environments to a world."""
        self.world = _build(world, num_envs, options)
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
        self.single_observation_space = self.world.observation_space
        self.single_action_space = self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.world.seed_source = lambda n: self.np_random.integers(0, 2**32, size=n, dtype=np.uint32)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """New episodes everywhere: of seeds s, s + 1, …, of a list of N seeds (None draws one), or all drawn.

        Raises ConfigError for a mask of environments: a world with same-step autoreset never waits for one.
        """
        if options and "reset_mask" in options:
            raise ConfigError("reset_mask was given, but these environments reset themselves. Leave it out.")
        super().reset(seed=seed if isinstance(seed, int) else None)
        given = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if given is None:
            first = self.world.reset()
        elif len(given) != self.num_envs:
            raise ConfigError(f"{len(given)} seeds were given for {self.num_envs} environments. Give one each.")
        else:
            drawn = iter(self.world.seed_source(sum(s is None for s in given)))
            first = self.world.reset(np.array([next(drawn) if s is None else _seed(s) for s in given], np.uint32))
        everyone = np.ones(self.num_envs, np.bool_)
        return _copy(first), {"episode_seed": self.world.episode_seed.astype(np.int64), "_episode_seed": everyone}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every environment."""
        before = self.world.episode_seed.astype(np.int64)
        step = self.world.step(np.asarray(actions))
        everyone = np.ones(self.num_envs, np.bool_)
        columns = {**step.info, **_named_costs(self.world.costs, step.cost)}
        infos: dict[str, Any] = self._finals(step, columns, before)
        for key, value in {**columns, "episode_seed": self.world.episode_seed.astype(np.int64)}.items():
            infos[key], infos[f"_{key}"] = np.array(value), everyone.copy()
        return _copy(step.obs), step.reward.copy(), step.terminated.copy(), step.truncated.copy(), infos

    def _finals(self, step: Step, columns: Mapping[str, Any], seeds: NDArray[np.int64]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(step.ended).tolist():
            info = {key: value[i] for key, value in columns.items()} | {"episode_seed": seeds[i]}
            infos = self._add_info(infos, {"final_obs": _row(step.final_obs, i), "final_info": info}, i)
        return infos

    def close_extras(self, **kwargs: Any) -> None:
        """Free the world."""
        del kwargs
        self.world.close()


def register_all() -> list[str]:
    """Make every registered world known to Gymnasium as "trueline/<id>"; returns those ids. Calling again is harmless.

    A third party's worlds count too, once its plug-in is installed.
    """
    ids = []
    for entry in registry.entries("env"):
        id = f"{NAMESPACE}/{entry.name}"
        if id not in gym.registry:
            gym.register(
                id=id,
                entry_point=f"{__name__}:ToGymnasium",
                vector_entry_point=f"{__name__}:ToGymnasiumVector",
                kwargs={"world": entry.name},
            )
        ids.append(id)
    return ids
