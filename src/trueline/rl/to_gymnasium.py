"""Vector worlds behind Gymnasium's faces: one environment, or N with same-step autoreset.

After `register_all()` every registered world is made by `gymnasium.make("trueline/<id>")` and `gymnasium.make_vec`.
`render_mode` is one of MODES, as far as the world has them, and `camera_name`, `width` and `height` say what is drawn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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

# Gymnasium's render modes, and how `render` calls them. rgb_array: uint8 [H, W, 3]; depth_array: float32 [H, W] metres;
# segmentation_array: int32 [H, W, 2], what and of which kind; human: a window, which every step brings up to date.
MODES = {"human": "human", "rgb_array": "rgb", "depth_array": "depth", "segmentation_array": "segmentation"}
FPS = 30.0  # of a world that does not say how long its steps last


@runtime_checkable
class Drawn(Visible, Protocol):
    """A world that can be drawn in other ways than in colour, in each `render(…, mode=…)`."""

    render_modes: tuple[str, ...]  # values of MODES
    interval_s: float  # how long a step lasts, by which films run at their true speed


@runtime_checkable
class Held(Protocol):
    """A world whose rows can stay at the end of an episode, until they are reset."""

    autoreset: bool


class Lens:
    """How a face draws rows of a world.

    Raises ConfigError for a mode that the world does not have, and for a size or a camera without a mode.
    """

    def __init__(
        self, world: Any, render_mode: str | None, camera_name: str | None, width: int | None, height: int | None
    ) -> None:
        offers = [mode for mode, how in MODES.items() if how in _ways(world)]
        options = {"camera_name": camera_name, "width": width, "height": height}
        self._options = {name.removesuffix("_name"): value for name, value in options.items() if value is not None}
        if render_mode is None and self._options:
            raise ConfigError(
                f"{next(iter(self._options))} was given without a render_mode. Add one of {', '.join(MODES)}."
            )
        if render_mode is not None and render_mode not in offers:
            raise ConfigError(
                f"render_mode is {render_mode!r}, but {world.id} offers {', '.join(offers) or 'no render mode'}."
            )
        for name in ("width", "height"):
            size = self._options.get(name, 1)
            if not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} is {size!r} pixels. Give 1 or more.")
        self.world, self.mode = world, render_mode
        interval_s = float(getattr(world, "interval_s", 1.0 / FPS))
        # Without a display nobody can be shown a window.
        shown = [mode for mode in offers if mode != "human" or _has_display()]
        self.metadata: dict[str, Any] = {"render_modes": shown}
        if shown:
            self.metadata["render_fps"] = round(1.0 / interval_s, 3)

    def draw(self, i: int) -> Any:
        """Row `i` as the mode asks for it; None without one, and after bringing a window up to date."""
        if self.mode is None:
            return None
        how = {} if self.mode == "rgb_array" else {"mode": MODES[self.mode]}
        return self.world.render(i, **self._options, **how)


def _ways(world: Any) -> tuple[str, ...]:
    if not isinstance(world, Visible):
        return ()
    return world.render_modes if isinstance(world, Drawn) else ("rgb",)


def _has_display() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


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

    metadata: dict[str, Any] = {"render_modes": [*MODES], "render_fps": FPS}  # noqa: RUF012  (Gymnasium's declaration)

    def __init__(
        self,
        world: World,
        render_mode: str | None = None,
        camera_name: str | None = None,
        width: int | None = None,
        height: int | None = None,
        **options: Any,
    ) -> None:
        """world: a name, made with `options`, or a function from a number of environments to a world.

        render_mode: of MODES; camera_name, width and height: of the pictures, the world's own where not given.
        Raises ConfigError when pictures are asked for that the world does not have.
        """
        self.world = _build(world, 1, options)
        self._lens = Lens(self.world, render_mode, camera_name, width, height)
        self.metadata, self.render_mode = self._lens.metadata, render_mode
        self._picture: Any = None  # the last one drawn
        if isinstance(self.world, Held):
            self.world.autoreset = False  # so that the end of an episode can be seen
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
        if self.render_mode == "human":
            self.render()
        return first, {"episode_seed": int(self.world.episode_seed[0])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the observation is always that of the episode the action was taken in."""
        seed = int(self.world.episode_seed[0])
        step = self.world.step(np.asarray(action)[None])
        ended = bool(step.ended[0])
        self._next = _row(step.obs, 0) if ended and not isinstance(self.world, Held) else None
        info = {key: value[0] for key, value in step.info.items()}
        info |= {key: float(value) for key, value in _named_costs(self.world.costs, step.cost[0]).items()}
        info["episode_seed"] = seed
        if self.render_mode == "human":
            self.render()
        observation = _row(step.final_obs, 0)
        return observation, float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), info

    def render(self) -> Any:
        """A picture as MODES says, or None without a render mode and with a window.

        At the end of an episode it shows that end, where the world can wait there; the others have begun the next by
        then, and what was drawn last is drawn again.
        """
        if self._next is None or self._picture is None:
            self._picture = self._lens.draw(0)
        return None if self._picture is None else self._picture.copy()

    def close(self) -> None:
        """Free the world."""
        self.world.close()


class ToGymnasiumVector(gym.vector.VectorEnv[Any, Any, Any]):
    """N copies of a world as a `gymnasium.vector.VectorEnv` with same-step autoreset.

    Infos are those of `SyncVectorEnv` over `ToGymnasium`, with one addition: costs are given for every row, also where
    an episode ended. There, `final_obs` and `final_info` describe the old episode's last step, as Gymnasium has it.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's declaration)
        "render_modes": [mode for mode in MODES if mode != "human"],
        "render_fps": FPS,
        "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        render_mode: str | None = None,
        camera_name: str | None = None,
        width: int | None = None,
        height: int | None = None,
        **options: Any,
    ) -> None:
        """world: a name, made with `options`, or a function from a number of environments to a world.

        render_mode, camera_name, width and height: as for `ToGymnasium`; of N environments no window is shown.
        """
        self.world = _build(world, num_envs, options)
        self.num_envs = num_envs
        if render_mode == "human":
            raise ConfigError(
                f"render_mode is 'human', but {num_envs} of {self.world.id} fill no window. Use rgb_array."
            )
        self._lens = Lens(self.world, render_mode, camera_name, width, height)
        shown = [mode for mode in self._lens.metadata["render_modes"] if mode != "human"]
        self.metadata = {
            **self._lens.metadata,
            "render_modes": shown,
            "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP,
        }
        self.render_mode = render_mode
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

    def render(self) -> Any:
        """A picture of each environment, or None without a render mode."""
        return None if self.render_mode is None else tuple(self._lens.draw(i) for i in range(self.num_envs))

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
