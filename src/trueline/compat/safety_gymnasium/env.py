"""One environment with six values per step: what the original calls its Builder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from trueline.compat.safety_gymnasium import infos
from trueline.compat.safety_gymnasium.abilities import Held, Windowed
from trueline.compat.safety_gymnasium.config import Settings, layout_seed, open_world, read
from trueline.compat.safety_gymnasium.episodes import Episodes, check_seed, native_actions
from trueline.compat.safety_gymnasium.ids import KEYBOARD_AGENTS, parse
from trueline.compat.safety_gymnasium.observations import Observations
from trueline.compat.safety_gymnasium.pictures import (
    CAMERAS,
    MODES,
    NAVIGATION_PIXELS,
    VELOCITY_CAMERAS,
    VELOCITY_PIXELS,
    Pictures,
    RenderConf,
)
from trueline.compat.safety_gymnasium.task import Task
from trueline.core.errors import ConfigError
from trueline.rl.env import Stateful, VectorEnv


class BadAction(ConfigError, ValueError):
    """An action that the environment does not take; a ValueError too, as in the original."""


def drawn_seed(of_numpy: bool = True) -> int:
    """A seed for an environment that is given none.

    Navigation tasks take it from NumPy's global generator, so scripts that seed NumPy get the same episodes as from the
    original; velocity tasks take it from the system.
    """
    if of_numpy:
        return int(np.random.randint(2**32, dtype="int64"))  # noqa: NPY002
    return int(np.random.SeedSequence().generate_state(1)[0])


def check_action(whose: str, action: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """An action of `shape` as an array.  Raises BadAction for another shape, and for what is no array of numbers."""
    try:
        given = np.asarray(action)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.shape != shape:
        got = "that is no array" if given.dtype == object else f"of shape {given.shape}"
        raise BadAction(f"{whose} was given an action {got}. It takes {shape}.")
    if given.dtype.kind not in "fiub":
        raise BadAction(f"{whose} was given the action {action!r:.60}. Give {shape} numbers.")
    return given


class SafetyEnv(gym.Env[Any, Any]):
    """`step(action) -> (observation, reward, cost, terminated, truncated, info)`.

    `reset(seed=s)` starts the episode and the random stream of s; a reset without a seed goes on with the stream. An
    environment that is never given a seed starts from one that NumPy's global generator draws when it is made.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own declaration)
        "render_modes": list(MODES),
        "render_fps": 30,
    }

    def __init__(
        self,
        task_id: str,
        config: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        width: int | None = None,
        height: int | None = None,
        camera_id: int | None = None,
        camera_name: str | None = None,
        **options: Any,
    ) -> None:
        """task_id: the world; config: the original's settings; options: the world's own.

        width, height: of pictures, pixels; without them 256, and of a velocity task 480, as there. Raises UnknownName
        for an unknown world and ConfigError for a setting that cannot be used.
        """
        self.settings: Settings = read(task_id, config)
        self.task_id = task_id
        self.config = dict(config or {})
        self.options = options
        self.name = parse(task_id)
        navigates = self.name.agent is not None
        pixels = NAVIGATION_PIXELS if navigates else VELOCITY_PIXELS
        size = pixels if width is None else width, pixels if height is None else height
        self.render_parameters = RenderConf(render_mode, *size, camera_id, camera_name)
        cameras, camera = (CAMERAS, "vision") if navigates else (VELOCITY_CAMERAS, "track")
        self._pictures = Pictures(self.render_parameters, cameras, camera)
        if self.settings.debug and self.name.agent not in KEYBOARD_AGENTS:
            raise ConfigError(f"{task_id} cannot be driven by keys. Only {', '.join(KEYBOARD_AGENTS)} can.")
        world = open_world(task_id, 1, self.settings, options)
        self.first_seed = drawn_seed(navigates)
        self.row = 0
        self._shared = False
        self.action_space, take = native_actions(world)
        self._episodes = Episodes(world, [self.first_seed], take, self.settings.num_steps)
        self._observations = self.observations_of(world)
        self.observation_space = self._observations.space
        self.task = Task(self)

    # --- episodes --------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of the episode of `seed`, or of the next on the stream. `options` are not used."""
        del options
        self._refuse_shared("reset")
        seed = layout_seed(self.settings, None if seed is None else check_seed(seed))
        super().reset(seed=seed)
        self._episodes.start([seed])
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """One control interval; actions in the actuators' own units, [A]."""
        self._refuse_shared("step")
        if self.done:
            raise gym.error.ResetNeeded("the episode is over or has not begun. Call reset() before step().")
        action = check_action(self.task_id, action, self.action_space.shape or ())
        if self.settings.debug:
            action = self.keyboard_action()
        step = self._episodes.step(action[None])
        if self.render_mode == "human":
            self.render()
        return (
            self.observation(),
            float(step.reward[0]),
            float(infos.cost(step)[0]),
            bool(self._episodes.terminated[0]),
            bool(self._episodes.truncated[0]),
            infos.of_row(step, 0, self.name),
        )

    def observation(self) -> Any:
        """The present observation."""
        if not self.started:
            raise gym.error.ResetNeeded("there is no observation before the first reset(). Call it.")
        return self._observations.row(self._episodes.obs, self.row)

    def sensed(self) -> dict[str, NDArray[Any]]:
        """The present observation by sensor, whatever form is observed; without pixels."""
        return self._observations.sensed(self._episodes.obs, self.row)

    def set_seed(self, seed: int | None = None) -> None:
        """Let the next episode start from `seed`, or from one that NumPy's global generator draws."""
        self._episodes.seed_next(self.row, drawn_seed(self.name.agent is not None) if seed is None else seed)

    def close(self) -> None:
        """Free the world, and with it its window."""
        if not self._shared:
            self._episodes.close()

    # --- several environments in one batch -------------------------------------------------------------------------

    @property
    def recipe(self) -> tuple[Any, ...]:
        """What tells its world from others'; environments of equal recipes can be rows of one batch."""
        return self.task_id, self.settings, self.options

    @property
    def started(self) -> bool:
        """Whether it was ever reset."""
        return self._episodes.started

    @property
    def held(self) -> bool:
        """Whether its world can begin the episodes of single rows."""
        return isinstance(self.world, Held)

    def observations_of(self, world: VectorEnv) -> Observations:
        """How the rows of a world like its own are observed."""
        vision = self.settings.vision_size if self.settings.observe_vision else None
        return Observations(world, self.settings.observation_flatten, vision)

    def join(self, episodes: Episodes, observations: Observations, row: int) -> None:
        """Be row `row` of a batch from now on: the batch steps it, and it still shows itself."""
        self._episodes.close()
        self._episodes, self._observations, self.row, self._shared = episodes, observations, row, True

    def _refuse_shared(self, what: str) -> None:
        if self._shared:
            raise ConfigError(
                f"this environment is one of a batch, which alone can {what} it. Call the vector's {what}."
            )

    # --- what it says of itself ------------------------------------------------------------------------------------

    @property
    def world(self) -> VectorEnv:
        """The world behind it."""
        return self._episodes.world

    @property
    def steps(self) -> int:
        """Steps taken in this episode."""
        return int(self._episodes.steps[self.row])

    @property
    def num_steps(self) -> int:
        """Steps after which the task truncates an episode."""
        return self._episodes.limit

    @property
    def terminated(self) -> bool:
        """Whether the task ended the episode, or none has begun."""
        return bool(self._episodes.terminated[self.row])

    @property
    def truncated(self) -> bool:
        """Whether time ended the episode."""
        return bool(self._episodes.truncated[self.row])

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def cost(self) -> dict[str, float] | None:
        """The costs of the last step by name; None before the first step."""
        if self._episodes.last is None:
            return None
        told = infos.of_row(self._episodes.last, self.row, self.name)
        return {key: value for key, value in told.items() if key.startswith("cost_")}

    @property
    def obs_space_dict(self) -> gym.spaces.Dict:
        """The spaces of the observation's parts."""
        return self._observations.parts

    # --- pictures --------------------------------------------------------------------------------------------------

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """None, human, rgb_array or depth_array."""
        return self.render_parameters.mode

    def render(self) -> Any:
        """A picture uint8 [H, W, 3], a depth buffer float32 [H, W], or None after showing a window."""
        return self._pictures.draw(self.world, self.row, (self.cost or {}).get("cost_sum", 0.0))

    def keyboard_action(self) -> NDArray[np.float64]:
        """The action [2] of the keys held down in the window; 0 while there is none."""
        from trueline.safety.worlds.viewer import command

        window = self.world.window if isinstance(self.world, Windowed) else None
        asked = command(str(self.name.agent).lower(), window.held() if window else ())
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        return (space.low + space.high) / 2.0 + asked * (space.high - space.low) / 2.0

    # --- copies ----------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> SafetyEnv:
        """An environment in the same state, which then goes its own way; needs a world that is Stateful."""
        world = self.world
        if self._shared or not isinstance(world, Stateful):
            why = "it is one of a batch" if self._shared else f"{world.id} cannot save its state"
            raise ConfigError(f"the environment cannot be copied: {why}. Make another one instead.")
        how = self.render_parameters
        other = SafetyEnv(
            self.task_id,
            self.config or None,
            how.mode,
            how.width,
            how.height,
            how.camera_id,
            how.camera_name,
            **self.options,
        )
        memo[id(self)] = other
        other.spec = deepcopy(self.spec, memo)
        other._episodes.copy_from(self._episodes)
        other._np_random = deepcopy(self._np_random, memo)
        other._np_random_seed = self._np_random_seed
        return other
